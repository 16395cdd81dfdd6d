//! The end of a conversation as its members have seen it, for as long as somebody may look back: what is shown again
//! has to be the same.

use std::collections::VecDeque;

use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::{Change, Entry, Message};

use tern_check::stream::{Faults, label, made, mixed};

/// Digests of a conversation's last entries.
#[derive(Debug)]
pub struct Tail {
    conversation: ConversationId,
    /// Of the last in `digests`.
    last: Seq,
    digests: VecDeque<u64>,
    length: usize,
}

impl Tail {
    /// Of a conversation that nobody has seen anything of; keeps the last so many entries.
    pub fn new(conversation: ConversationId, length: usize) -> Self {
        Self { conversation, last: Seq(0), digests: VecDeque::new(), length: length.max(1) }
    }

    /// Somebody is shown an entry. Returns whether it is what somebody else was shown before; what is not at hand any
    /// more, or not yet, is not known to be otherwise.
    pub fn agrees(&mut self, entry: &Entry) -> bool {
        let digest = self.digest(entry);
        if entry.seq == self.last.next() {
            if self.digests.len() >= self.length {
                self.digests.pop_front();
            }
            self.digests.push_back(digest);
            self.last = entry.seq;
            return true;
        }
        let back = self.last.get().checked_sub(entry.seq.get());
        let known = back.and_then(|back| self.digests.iter().rev().nth(back as usize));
        known.is_none_or(|known| *known == digest)
    }

    /// When a message was made, if it is the one that its sender sent here.
    fn made(&self, message: &Message, entry: &Entry) -> Option<u64> {
        made(&message.payload, label(self.conversation, entry.sender.user, entry.client_seq))
    }

    fn digest(&self, entry: &Entry) -> u64 {
        let sender = u128::from_le_bytes(*entry.sender.user.as_bytes());
        let (made, length) = match &entry.change {
            Change::Message(message) => (self.made(message, entry), message.payload.len()),
            change => (None, change.size()),
        };
        let words = [
            sender as u64,
            (sender >> 64) as u64,
            entry.sender.device.get(),
            entry.client_seq.get(),
            entry.time.0,
            made.unwrap_or(u64::MAX),
            length as u64,
        ];
        words.into_iter().fold(entry.seq.get(), mixed)
    }

    /// Entries that were asked for: there is no gap between them, they are what was sent, and what others were shown.
    pub fn judge(&mut self, entries: &[Entry], faults: &mut Faults) {
        for pair in entries.windows(2) {
            match pair[1].seq.get().checked_sub(pair[0].seq.get()) {
                None => faults.reordered += 1,
                Some(0) => faults.duplicated += 1,
                Some(step) => faults.lost += step - 1,
            }
        }
        for entry in entries {
            let intact = match &entry.change {
                Change::Message(message) => self.made(message, entry).is_some(),
                change => *change != Change::Unknown,
            };
            faults.altered += u64::from(!intact);
            faults.split += u64::from(!self.agrees(entry));
        }
    }

    /// The same of what somebody asked for who has everything up to `cursor`, or had less when they asked.
    pub fn judge_after(&mut self, entries: &[Entry], cursor: Seq, faults: &mut Faults) {
        let first = entries.first().map_or(Seq(0), |entry| entry.seq);
        faults.lost += first.get().saturating_sub(cursor.next().get());
        self.judge(entries, faults);
    }

    /// The same of a page that was asked for backwards from `from` (`None`: from the newest) by somebody who knew of
    /// `head`: it ends there.
    pub fn judge_before(&mut self, entries: &[Entry], from: Option<Seq>, head: Seq, faults: &mut Faults) {
        let last = entries.last().map_or(Seq(0), |entry| entry.seq);
        faults.lost += from.unwrap_or(head).get().saturating_sub(last.get());
        faults.altered += u64::from(from.is_some_and(|from| last > from));
        self.judge(entries, faults);
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::{ClientSeq, DeviceId, UserId};
    use tern_protocol::model::{Sender, WallMillis};

    use super::*;
    use tern_check::stream::message;

    const CONVERSATION: ConversationId = ConversationId::from_bytes([7; 16]);

    fn entry(seq: u64) -> Entry {
        let client_seq = ClientSeq(seq + 7);
        Entry {
            seq: Seq(seq),
            time: WallMillis(0),
            sender: Sender { user: UserId::from_sub("a"), device: DeviceId::new(1).expect("not 0") },
            client_seq,
            change: message(seq * 10, label(CONVERSATION, UserId::from_sub("a"), client_seq), 20),
        }
    }

    #[test]
    fn what_is_shown_again_is_the_same() {
        let mut tail = Tail::new(CONVERSATION, 3);
        assert!((1..=5).all(|seq| tail.agrees(&entry(seq))));
        assert!((3..=5).all(|seq| tail.agrees(&entry(seq))));
        let other = |seq| Entry { client_seq: ClientSeq(90), ..entry(seq) };
        assert!((3..=5).all(|seq| !tail.agrees(&other(seq))));
        assert!(tail.agrees(&other(2)), "not known any more");
        assert!(tail.agrees(&other(7)), "not known yet");
    }

    #[test]
    fn pages_end_where_they_should_and_have_no_gap() {
        #[track_caller]
        fn check(seqs: &[u64], from: Option<u64>, expected: Faults) {
            let mut tail = Tail::new(CONVERSATION, 10);
            assert!((1..=9).all(|seq| tail.agrees(&entry(seq))));
            let (entries, mut faults) =
                (seqs.iter().map(|seq| entry(*seq)).collect::<Vec<_>>(), Faults::default());
            tail.judge_before(&entries, from.map(Seq), Seq(9), &mut faults);
            assert_eq!(faults, expected);
        }
        let none = Faults::default();
        check(&[5, 6, 7, 8, 9], None, none);
        // One more has been stored meanwhile.
        check(&[9, 10], None, none);
        check(&[2, 3, 4], Some(4), none);
        check(&[2, 3], Some(4), Faults { lost: 1, ..none });
        check(&[2, 3, 4, 5], Some(4), Faults { altered: 1, ..none });
        check(&[2, 4], Some(4), Faults { lost: 1, ..none });
        check(&[3, 3, 4], Some(4), Faults { duplicated: 1, ..none });
        check(&[4, 3, 4], Some(4), Faults { reordered: 1, ..none });
        check(&[], Some(4), Faults { lost: 4, ..none });
    }

    #[test]
    fn what_was_missed_begins_where_it_should() {
        let check = |seqs: &[u64], cursor| {
            let (entries, mut faults) =
                (seqs.iter().map(|seq| entry(*seq)).collect::<Vec<_>>(), Faults::default());
            Tail::new(CONVERSATION, 10).judge_after(&entries, Seq(cursor), &mut faults);
            faults.lost
        };
        assert_eq!(check(&[5, 6], 4), 0);
        assert_eq!(check(&[5, 6], 5), 0, "some were pushed meanwhile");
        assert_eq!(check(&[5, 6], 2), 2);
        assert_eq!(check(&[], 2), 0);
    }
}
