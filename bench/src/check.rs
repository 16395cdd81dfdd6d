//! One client's view of a direct chat: takes acks and entries as they come, and knows what is wrong with them.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, Seq, UserId};
use tern_protocol::model::{Change, Entry};

use crate::stats::add;

/// The time in front of every payload, and its number.
pub const PAYLOAD_BYTES_MIN: usize = 16;

/// Broken promises, counted. All are 0 after a good run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Acknowledged, and not in the log of sender and recipient.
    pub lost: u64,
    /// Stored twice, pushed twice on one connection, or reported as a duplicate without a second try.
    pub duplicated: u64,
    /// Of one sender, in another order than sent.
    pub reordered: u64,
    /// Not the bytes that were sent, or acknowledged under another seq.
    pub altered: u64,
    /// Sender and recipient have different logs.
    pub split: u64,
    /// Sends that were never answered.
    pub unanswered: u64,
    /// Sends that were refused, or other answers that no request here should get.
    pub refused: u64,
    /// Connections that ended.
    pub disconnected: u64,
}

impl Faults {
    /// Whether there was none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in another's.
    pub fn add(&mut self, other: &Self) {
        add!(self, other, lost, duplicated, reordered, altered, split, unanswered, refused, disconnected);
    }
}

/// What an entry was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// The next one, of the peer: when its sender made it.
    Received(u64),
    /// The next one, our own.
    Own,
    /// Known already.
    Known,
    /// One behind a gap: what is missing has to be pulled.
    BehindGap,
}

/// A direct chat as one of the two sees it.
#[derive(Debug)]
pub struct Log {
    own: Sends,
    peers: Sends,
    peer: UserId,
    payload_bytes: usize,
    cursor: Seq,
    pulled: Seq,
    hash: u64,
    acked: u64,
    unconfirmed: HashMap<ClientSeq, (Seq, From)>,
    faults: Faults,
}

#[derive(Debug, PartialEq, Eq)]
enum From {
    Ack,
    Entry,
}

/// One sender's messages in the log.
#[derive(Debug, Default)]
struct Sends {
    last: u64,
    seen: u64,
    skipped: BTreeSet<u64>,
}

impl Sends {
    fn place(&mut self, client_seq: u64, faults: &mut Faults) {
        if client_seq > self.last {
            // Refused ones leave gaps as well; if these come later, they were overtaken.
            self.skipped.extend(self.last + 1..client_seq);
            self.last = client_seq;
        } else if self.skipped.remove(&client_seq) {
            faults.reordered += 1;
        } else {
            faults.duplicated += 1;
            return;
        }
        self.seen += 1;
    }
}

impl Log {
    /// An empty chat with this user, with payloads of this length.
    pub fn new(peer: UserId, payload_bytes: usize) -> Self {
        Self {
            own: Sends::default(),
            peers: Sends::default(),
            peer,
            payload_bytes,
            cursor: Seq(0),
            pulled: Seq(0),
            hash: 0,
            acked: 0,
            unconfirmed: HashMap::new(),
            faults: Faults::default(),
        }
    }

    /// Everything up to here is known.
    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// What is wrong so far.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// A send was acknowledged.
    pub fn on_ack(&mut self, client_seq: ClientSeq, ok: &SendOk) {
        self.acked += 1;
        self.faults.duplicated += u64::from(ok.duplicate);
        self.confirm(client_seq, ok.seq, From::Ack);
    }

    /// An entry was pushed.
    pub fn on_push(&mut self, entry: &Entry) -> Placed {
        // What was pulled may be pushed, too: it was queued before.
        self.faults.duplicated += u64::from(entry.seq <= self.cursor && entry.seq > self.pulled);
        self.take(entry)
    }

    /// An entry was pulled.
    pub fn on_pulled(&mut self, entry: &Entry) -> Placed {
        let placed = self.take(entry);
        self.pulled = self.pulled.max(self.cursor);
        placed
    }

    fn take(&mut self, entry: &Entry) -> Placed {
        if entry.seq <= self.cursor {
            return Placed::Known;
        }
        if entry.seq != self.cursor.next() {
            return Placed::BehindGap;
        }
        self.cursor = entry.seq;
        let mut hasher = DefaultHasher::new();
        (self.hash, entry.seq, entry.sender.user, entry.client_seq).hash(&mut hasher);
        self.hash = hasher.finish();
        let made = match &entry.change {
            Change::Message(message) if message.payload.len() == self.payload_bytes => {
                made(&message.payload, entry.client_seq)
            }
            _ => None,
        };
        self.faults.altered += u64::from(made.is_none());
        if entry.sender.user == self.peer {
            self.peers.place(entry.client_seq.get(), &mut self.faults);
            Placed::Received(made.unwrap_or(u64::MAX))
        } else {
            self.own.place(entry.client_seq.get(), &mut self.faults);
            self.confirm(entry.client_seq, entry.seq, From::Entry);
            Placed::Own
        }
    }

    /// An ack and the entry name the same seq, whichever comes first.
    fn confirm(&mut self, client_seq: ClientSeq, seq: Seq, from: From) {
        match self.unconfirmed.remove(&client_seq) {
            Some((other, _)) => self.faults.altered += u64::from(other != seq),
            None => _ = self.unconfirmed.insert(client_seq, (seq, from)),
        }
    }
}

/// What both see in the end.
pub fn judge(one: &Log, other: &Log) -> Faults {
    let mut faults = one.faults;
    faults.add(&other.faults);
    for (sender, recipient) in [(one, other), (other, one)] {
        let unseen_by_itself =
            sender.unconfirmed.values().filter(|(_, from)| *from == From::Ack).count() as u64;
        faults.lost += unseen_by_itself.max(sender.acked.saturating_sub(recipient.peers.seen));
    }
    faults.split += u64::from(one.cursor == other.cursor && one.hash != other.hash);
    faults
}

/// A payload: when it was made, its number, and bytes that depend on the number.
pub fn payload(made: u64, client_seq: ClientSeq, bytes: usize) -> Vec<u8> {
    let mut payload = vec![filler(client_seq); bytes.max(PAYLOAD_BYTES_MIN)];
    payload[..8].copy_from_slice(&made.to_le_bytes());
    payload[8..16].copy_from_slice(&client_seq.get().to_le_bytes());
    payload
}

fn filler(client_seq: ClientSeq) -> u8 {
    client_seq.get() as u8
}

/// When it was made, if it is one.
fn made(payload: &[u8], client_seq: ClientSeq) -> Option<u64> {
    let (made, rest) = payload.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let intact = u64::from_le_bytes(*number) == client_seq.get()
        && rest.iter().all(|byte| *byte == filler(client_seq));
    intact.then(|| u64::from_le_bytes(*made))
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::{ConversationId, DeviceId};
    use tern_protocol::model::{Message, Sender, WallMillis};

    use super::*;

    const BYTES: usize = 20;

    fn user(name: &str) -> UserId {
        UserId::from_sub(name)
    }

    fn entry(sender: &str, seq: u64, client_seq: u64) -> Entry {
        let client_seq = ClientSeq(client_seq);
        Entry {
            seq: Seq(seq),
            time: WallMillis(0),
            sender: Sender { user: user(sender), device: DeviceId::new(1).expect("not 0") },
            client_seq,
            change: Change::Message(Message {
                content_type: String::new(),
                payload: payload(seq * 10, client_seq, BYTES).into(),
                reply_to: None,
            }),
        }
    }

    fn ok(seq: u64) -> SendOk {
        let conversation = ConversationId::direct(user("a"), user("b"));
        SendOk { conversation, seq: Seq(seq), time: WallMillis(0), duplicate: false }
    }

    /// What `a` and `b` have been pushed, and what `a` was acknowledged: (client_seq, seq).
    #[track_caller]
    fn check(a_sees: &[Entry], b_sees: &[Entry], acks: &[(u64, u64)], expected: Faults) {
        let (mut a, mut b) = (Log::new(user("b"), BYTES), Log::new(user("a"), BYTES));
        acks.iter().for_each(|(client_seq, seq)| a.on_ack(ClientSeq(*client_seq), &ok(*seq)));
        a_sees.iter().for_each(|entry| _ = a.on_push(entry));
        b_sees.iter().for_each(|entry| _ = b.on_push(entry));
        assert_eq!(judge(&a, &b), expected);
    }

    #[test]
    fn faults_are_found() {
        let one = |n| entry("a", n, n);
        let none = Faults::default();
        check(&[one(1), one(2)], &[one(1), one(2)], &[(1, 1), (2, 2)], none);
        // Stored and pushed without an answer: no promise was broken.
        check(&[one(1)], &[one(1)], &[], none);
        // Acknowledged and never seen, by the recipient or by both.
        check(&[one(1), one(2)], &[one(1)], &[(1, 1), (2, 2)], Faults { lost: 1, ..none });
        check(&[one(1)], &[one(1)], &[(1, 1), (2, 2)], Faults { lost: 1, ..none });
        // Pushed twice, stored twice.
        check(&[one(1)], &[one(1), one(1)], &[(1, 1)], Faults { duplicated: 1, ..none });
        let twice = [one(1), entry("a", 2, 1)];
        check(&[one(1)], &twice, &[(1, 1)], Faults { duplicated: 1, ..none });
        // The second send before the first.
        let turned = [entry("a", 1, 2), entry("a", 2, 1)];
        check(&turned, &turned, &[(2, 1), (1, 2)], Faults { reordered: 2, ..none });
        // One send was refused: the gap is nobody's fault.
        let gap = [one(1), entry("a", 2, 3)];
        check(&gap, &gap, &[(1, 1), (3, 2)], none);
        // Another seq in the ack.
        let other = [entry("b", 1, 1), entry("a", 2, 1)];
        check(&other, &other, &[(1, 1)], Faults { altered: 1, ..none });
        // Two logs.
        let (x, y) = ([one(1), entry("b", 2, 1)], [entry("b", 1, 1), entry("a", 2, 1)]);
        check(&x, &y, &[(1, 1)], Faults { split: 1, ..none });
        // Other bytes.
        let mut broken = one(1);
        broken.client_seq = ClientSeq(2);
        check(&[broken.clone()], &[broken], &[(2, 1)], Faults { altered: 2, ..none });
    }

    #[test]
    fn gaps_are_pulled() {
        let mut log = Log::new(user("a"), BYTES);
        assert_eq!(log.on_push(&entry("a", 1, 1)), Placed::Received(10));
        assert_eq!(log.on_push(&entry("a", 4, 4)), Placed::BehindGap);
        for n in 2..=4 {
            assert_eq!(log.on_pulled(&entry("a", n, n)), Placed::Received(n * 10));
        }
        assert_eq!(log.on_push(&entry("a", 3, 3)), Placed::Known);
        assert_eq!(log.on_push(&entry("a", 5, 5)), Placed::Received(50));
        assert!(log.faults().is_none());
        assert_eq!(log.on_push(&entry("a", 5, 5)), Placed::Known);
        assert_eq!(log.faults().duplicated, 1);
    }
}
