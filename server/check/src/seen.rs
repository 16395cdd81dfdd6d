//! What clients have seen of the logs: pushes and pages of a connection, and what an app was handed.

use std::collections::{BTreeMap, BTreeSet};

use tern_protocol::event::{ReceiptCount, ReceiptsMoved, UserReceipt};
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::model::{Entry, Sender};

use crate::history::{History, shown};
use crate::membership::{Span, spans};
use crate::violation::{Promise, Violation};

/// What one connection is told without having asked: pushes, which come in the order of the log, and receipts, which rise.
#[derive(Debug, Default)]
pub struct Listener {
    user: Option<UserId>,
    last: BTreeMap<ConversationId, Seq>,
    receipts: BTreeMap<(ConversationId, UserId), (Seq, Seq)>,
    counts: BTreeMap<(ConversationId, Seq), (u32, u32)>,
}

impl Listener {
    /// On a connection of this user.
    pub fn of(user: UserId) -> Self {
        Self { user: Some(user), ..Self::default() }
    }

    /// A push came.
    pub fn push(&mut self, history: &mut History, conversation: ConversationId, entry: Entry) {
        history.totals.pushes += 1;
        let before = self.last.insert(conversation, entry.seq);
        if let Some(before) = before.filter(|before| *before >= entry.seq && !history.owners_change) {
            let what = format!("{conversation}: {} was pushed after {before}", entry.seq);
            history.violate(Promise::DenseOrder, "order of pushes", what);
        }
        if let Some(user) = self.user {
            history.seen_by.entry((conversation, user)).or_default().insert(entry.seq);
        }
        history.saw(conversation, entry);
    }

    /// Receipts came: from one owner in one process, which forgets nothing.
    pub fn receipts(&mut self, history: &mut History, moved: &ReceiptsMoved) {
        for UserReceipt { user, delivered, read } in &moved.users {
            let before = self.receipts.insert((moved.conversation, *user), (*delivered, *read));
            let fell = |before: &(Seq, Seq)| *delivered < before.0 || *read < before.1;
            if let Some((had, seen)) = before.filter(|before| fell(before) && !history.owners_change) {
                let what = format!(
                    "{}: of {user} a connection was told delivered {delivered}, read {read}, after {had} and {seen}",
                    moved.conversation
                );
                history.violate(Promise::ReceiptsOnlyRise, "receipt fell", what);
            }
        }
        for ReceiptCount { seq, delivered, read, .. } in &moved.counts {
            let before =
                self.counts.insert((moved.conversation, *seq), (*delivered, *read)).unwrap_or_default();
            let fell = before.0.saturating_sub(*delivered).max(before.1.saturating_sub(*read));
            let most = history.receipts.counts_fell.entry((moved.conversation, *seq)).or_default();
            *most = (*most).max(fell);
        }
    }
}

/// What the app on one device was handed, over all its runs.
#[derive(Debug)]
pub struct View {
    device: Sender,
    conversations: BTreeMap<ConversationId, Handed>,
}

#[derive(Debug, Default)]
struct Handed {
    last: Seq,
    all: BTreeSet<Seq>,
}

impl View {
    /// Nothing yet.
    pub fn new(device: Sender) -> Self {
        Self { device, conversations: BTreeMap::new() }
    }

    /// The app was handed an entry: of each conversation each once, rising.
    pub fn handed(&mut self, history: &mut History, conversation: ConversationId, entry: Entry) {
        let handed = self.conversations.entry(conversation).or_default();
        if entry.seq <= handed.last {
            let what = format!(
                "{} of device {} of {} was handed after {}",
                entry.seq, self.device.device, self.device.user, handed.last
            );
            history.violate(Promise::GapFreeSync, "handed twice", what);
        }
        handed.last = entry.seq;
        handed.all.insert(entry.seq);
        history.seen_by.entry((conversation, self.device.user)).or_default().insert(entry.seq);
        history.saw(conversation, entry);
    }

    /// The app goes on where its storage ends: it has the entries up to here, and may be handed those after it again.
    pub fn restarted(&mut self, conversation: ConversationId, cursor: Seq) {
        if let Some(handed) = self.conversations.get_mut(&conversation) {
            handed.last = handed.last.min(cursor);
            handed.all.split_off(&cursor.next());
        }
    }

    /// What the device lacks of a log although it was told that it has everything: of its user's last membership, as far
    /// as the log goes.
    pub fn check(&self, conversation: ConversationId, log: &[Entry]) -> Vec<Violation> {
        let Some(last) = log.last() else { return Vec::new() };
        let span = match spans(log) {
            // A direct chat that this user is not in is nothing to them: nobody asks about it.
            None => Some(Span { joined: Seq(1), left: None }),
            Some(spans) => spans.get(&self.device.user).and_then(|spans| spans.last()).copied(),
        };
        let Some(Span { joined, left }) = span else { return Vec::new() };
        let none = BTreeSet::new();
        let all = self.conversations.get(&conversation).map_or(&none, |handed| &handed.all);
        let missing: Vec<Seq> = (joined.get()..=left.unwrap_or(last.seq).get())
            .map(Seq)
            .filter(|seq| !all.contains(seq))
            .collect();
        let Some(first) = missing.first() else { return Vec::new() };
        let what = format!(
            "device {} of {} says that it has everything, and lacks {} entries of {conversation}, the first {first}; the log ends \
             at {}",
            self.device.device,
            self.device.user,
            missing.len(),
            last.seq
        );
        let lines =
            missing.iter().take(3).filter_map(|seq| log.get(seq.get() as usize - 1)).map(shown).collect();
        vec![Violation { promise: Promise::GapFreeSync, rule: "not handed", what, excerpt: lines }]
    }
}

/// Compares what two readers found.
pub fn same_log(conversation: ConversationId, a: &[Entry], b: &[Entry]) -> Option<Violation> {
    let differs = |what: String| {
        Some(Violation {
            promise: Promise::DenseOrder,
            rule: "readers differ",
            what: format!("{conversation}: {what}"),
            excerpt: Vec::new(),
        })
    };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => differs(format!("one has {}, the other {}", shown(a), shown(b))),
        None if a.len() != b.len() => differs(format!("one has {} entries, the other {}", a.len(), b.len())),
        None => None,
    }
}
