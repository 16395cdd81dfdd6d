//! What devices have said to have, and what others were shown of it.

use std::collections::BTreeMap;

use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::model::Sender;

use crate::history::History;
use crate::violation::Promise;

/// Watermarks of a user, as somebody was shown them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Whose.
    pub user: UserId,
    /// Up to here on a device of theirs.
    pub delivered: Seq,
    /// Up to here seen by them.
    pub read: Seq,
}

#[derive(Debug, Default, Clone, Copy)]
struct Watermarks {
    delivered: Seq,
    read: Seq,
}

#[derive(Debug, Default)]
pub(crate) struct Receipts {
    /// The highest that each user's devices have said, or are about to.
    marked: BTreeMap<(ConversationId, UserId), Watermarks>,
    /// What was answered: it is not forgotten over a crash.
    durable: BTreeMap<(ConversationId, UserId), Seq>,
    /// By how much the counts of an entry have fallen at once, at most, on one connection.
    pub(crate) counts_fell: BTreeMap<(ConversationId, Seq), u32>,
    /// The highest that a device was shown.
    shown: BTreeMap<(ConversationId, (UserId, u64), UserId), Watermarks>,
}

impl Receipts {
    /// Those that somebody was shown watermarks of, or was answered for.
    pub(crate) fn conversations(&self) -> impl Iterator<Item = ConversationId> {
        self.durable.keys().map(|(id, _)| *id).chain(self.shown.keys().map(|(id, ..)| *id))
    }
}

impl History {
    /// A device is about to say how far it has received and its user has read; 0: not said. Call it before a byte of it
    /// is written.
    pub fn marked(&mut self, conversation: ConversationId, user: UserId, delivered: Seq, read: Seq) {
        let marks = self.receipts.marked.entry((conversation, user)).or_default();
        marks.delivered = marks.delivered.max(delivered).max(read);
        marks.read = marks.read.max(read);
    }

    /// A read mark was answered.
    pub fn mark_acked(&mut self, conversation: ConversationId, user: UserId, read: Seq) {
        self.totals.marks += 1;
        let durable = self.receipts.durable.entry((conversation, user)).or_default();
        *durable = (*durable).max(read);
    }

    /// An app on this device was shown somebody's watermarks. Of one run of an app: they do not fall.
    pub fn shown(&mut self, conversation: ConversationId, device: Sender, shown: Shown) {
        let Shown { user, delivered, read } = shown;
        let marked = self.receipts.marked.get(&(conversation, user)).copied().unwrap_or_default();
        let who = format!("{} was shown of {user} in {conversation}", device.user);
        if read > delivered {
            self.violate(
                Promise::ReceiptsOnlyRise,
                "read above delivered",
                format!("{who}: {read} above {delivered}"),
            );
        }
        if delivered > marked.delivered || read > marked.read {
            let what = format!(
                "{who}: delivered {delivered}, read {read}; their devices have said {} and {}",
                marked.delivered, marked.read
            );
            self.violate(Promise::ReceiptsOnlyRise, "false receipt", what);
        }
        let place = (conversation, (device.user, device.device.get()), user);
        let before = self.receipts.shown.entry(place).or_default();
        let fell = *before;
        *before = Watermarks { delivered: fell.delivered.max(delivered), read: fell.read.max(read) };
        if delivered < fell.delivered || read < fell.read {
            let what = format!(
                "{who}: delivered {delivered}, read {read}, after {} and {}",
                fell.delivered, fell.read
            );
            self.violate(Promise::ReceiptsOnlyRise, "receipt fell", what);
        }
    }

    /// An app was shown how many others have an entry, and have seen it.
    pub fn counted(
        &mut self,
        conversation: ConversationId,
        observer: UserId,
        seq: Seq,
        (delivered, read): (u32, u32),
    ) {
        let others = |enough: fn(&Watermarks, Seq) -> bool| {
            let marked = &self.receipts.marked;
            let there = marked.iter().filter(|((id, user), _)| *id == conversation && *user != observer);
            there.filter(|(_, marks)| enough(marks, seq)).count()
        };
        let (have, seen) =
            (others(|marks, seq| marks.delivered >= seq), others(|marks, seq| marks.read >= seq));
        if delivered as usize > have || read as usize > seen || read > delivered {
            let what = format!(
                "{observer} was told that {delivered} have {seq} of {conversation} and {read} have seen it; {have} and \
                 {seen} have said so"
            );
            self.violate(Promise::ReceiptsOnlyRise, "false count", what);
        }
    }

    /// The app on this device begins anew, and may be shown less than before.
    pub fn forget_shown(&mut self, device: Sender) {
        let device = (device.user, device.device.get());
        self.receipts.shown.retain(|(_, observer, _), _| *observer != device);
    }

    /// The watermarks of a conversation as they are stored in the end, with the head of its log.
    pub fn check_receipts(&mut self, conversation: ConversationId, head: Seq, stored: &[Shown]) {
        for Shown { user, delivered, read } in stored {
            if read > delivered || *delivered > head {
                let what =
                    format!("{user} in {conversation}: delivered {delivered}, read {read}, head {head}");
                self.violate(Promise::ReceiptsOnlyRise, "watermarks out of order", what);
            }
            let marked = self.receipts.marked.get(&(conversation, *user)).copied().unwrap_or_default();
            if *delivered > marked.delivered || *read > marked.read {
                let what = format!(
                    "{user} in {conversation}: delivered {delivered}, read {read}; their devices have said {} and {}",
                    marked.delivered, marked.read
                );
                self.violate(Promise::ReceiptsOnlyRise, "false receipt", what);
            }
        }
        let answered: Vec<_> = self
            .receipts
            .durable
            .iter()
            .filter(|((id, _), _)| *id == conversation)
            .map(|((_, user), read)| (*user, *read))
            .collect();
        for (user, acked) in answered {
            let read = stored.iter().find(|shown| shown.user == user).map_or(Seq(0), |shown| shown.read);
            if read < acked {
                let what =
                    format!("{user} in {conversation}: read {acked} was answered, and {read} is stored");
                self.violate(Promise::SentMeansSafe, "read mark lost", what);
            }
        }
    }
}
