//! The same for runs that are too large to be kept: one member's view of a conversation, which takes acks and entries as
//! they come and counts what is wrong with them. Payloads say by themselves what they are.

mod marked;

use std::collections::BTreeSet;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Change, Entry, Kind, Message};

pub use marked::Marked;

/// The time in front of every payload, and its number.
pub const PAYLOAD_BYTES_MIN: usize = 16;

/// A sender has no more sends under way, so that none is overtaken by more; what comes later was there before.
const OVERTAKEN_MAX: u64 = SEND_WINDOW as u64;

/// Broken promises, counted. All are 0 after a good run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Entries that a member who stayed connected has not got, or acknowledged ones that are not in the log.
    pub lost: u64,
    /// Stored twice, pushed twice on one connection, or reported as a duplicate without a second try.
    pub duplicated: u64,
    /// Of one sender, in another order than sent.
    pub reordered: u64,
    /// A receipt that the drivers' own records of what was marked do not support.
    pub falsely_receipted: u64,
    /// Not the bytes that were sent, or acknowledged under another seq.
    pub altered: u64,
    /// Members have different logs.
    pub split: u64,
    /// Sends that were never answered.
    pub unanswered: u64,
    /// Refused for good, or answered as no request here should be.
    pub refused: u64,
    /// Connections that ended and should not have.
    pub disconnected: u64,
}

impl Faults {
    /// Whether there was none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Without those that only say that the server went away.
    pub fn of_a_server_that_went_away(&self) -> Self {
        Self { unanswered: 0, disconnected: 0, ..*self }
    }

    /// Takes in another's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            lost,
            duplicated,
            reordered,
            falsely_receipted,
            altered,
            split,
            unanswered,
            refused,
            disconnected,
        } = other;
        self.lost += lost;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.falsely_receipted += falsely_receipted;
        self.altered += altered;
        self.split += split;
        self.unanswered += unanswered;
        self.refused += refused;
        self.disconnected += disconnected;
    }
}

/// What an entry was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// The next one, a message of somebody else: when its sender made it.
    Received(u64),
    /// The next one, our own or no message.
    Other,
    /// Known already.
    Known,
    /// One behind a gap: what is missing has to be pulled.
    BehindGap,
}

/// A conversation as one member sees it.
#[derive(Debug)]
pub struct Log {
    kind: Kind,
    conversation: ConversationId,
    own: UserId,
    senders: HashMap<UserId, Sends>,
    payload_bytes: usize,
    start: Seq,
    cursor: Seq,
    pulled: Seq,
    /// Of everything after `start`, in order.
    hash: u64,
    highest_acked: Seq,
    unconfirmed: HashMap<ClientSeq, (Seq, Source)>,
    is_complete: bool,
    /// Pushes that had come before, on the same connection; `None`: that is a fault.
    repeated: Option<u64>,
    faults: Faults,
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Ack,
    Entry,
}

/// One sender's entries in the log.
#[derive(Debug, Default)]
struct Sends {
    last: u64,
    /// Not far below `last`, and not there.
    skipped: BTreeSet<u64>,
}

impl Sends {
    fn place(&mut self, client_seq: u64, faults: &mut Faults) {
        if client_seq > self.last {
            // Refused ones leave gaps as well; if these come later, they were overtaken.
            let oldest = client_seq.saturating_sub(OVERTAKEN_MAX);
            while self.skipped.first().is_some_and(|first| *first < oldest) {
                self.skipped.pop_first();
            }
            self.skipped.extend(oldest.max(self.last + 1)..client_seq);
            self.last = client_seq;
        } else if self.skipped.remove(&client_seq) {
            faults.reordered += 1;
        } else {
            faults.duplicated += 1;
        }
    }
}

impl Log {
    /// Of this user, who has everything up to `start` and is going to see all that comes after it; messages have
    /// payloads of this length.
    pub fn new(
        kind: Kind,
        conversation: ConversationId,
        own: UserId,
        start: Seq,
        payload_bytes: usize,
    ) -> Self {
        Self {
            kind,
            conversation,
            own,
            senders: HashMap::new(),
            payload_bytes,
            start,
            cursor: start,
            pulled: Seq(0),
            hash: 0,
            highest_acked: Seq(0),
            unconfirmed: HashMap::new(),
            is_complete: true,
            repeated: None,
            faults: Faults::default(),
        }
    }

    /// The same, of a member who may be told again what it has been told, as in a cluster when owners change.
    pub fn with_repeats(self) -> Self {
        Self { repeated: Some(0), ..self }
    }

    /// How often it was.
    pub fn repeated(&self) -> u64 {
        self.repeated.unwrap_or(0)
    }

    /// Everything up to here is known.
    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// What is wrong so far.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// It is going to see no more: what it does not have at the end is not lost.
    pub fn cut(&mut self) {
        self.is_complete = false;
    }

    /// It goes on over another connection: what was pushed on the last one may be pushed on this one, too.
    pub fn reconnected(&mut self) {
        self.pulled = self.pulled.max(self.cursor);
    }

    /// A send was acknowledged, which was sent once or `again`.
    pub fn on_ack(&mut self, client_seq: ClientSeq, ok: &SendOk, again: bool) {
        self.highest_acked = self.highest_acked.max(ok.seq);
        self.faults.duplicated += u64::from(ok.duplicate && !again);
        self.confirm(client_seq, ok.seq, Source::Ack);
    }

    /// An entry was pushed.
    pub fn on_push(&mut self, entry: &Entry) -> Placed {
        // What was pulled may be pushed, too: it was queued before.
        let again = u64::from(entry.seq <= self.cursor && entry.seq > self.pulled);
        *self.repeated.as_mut().unwrap_or(&mut self.faults.duplicated) += again;
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
        let sender = u128::from_le_bytes(*entry.sender.user.as_bytes());
        for word in [entry.seq.get(), sender as u64, (sender >> 64) as u64, entry.client_seq.get()] {
            self.hash = mixed(self.hash, word);
        }
        let made = match &entry.change {
            Change::Message(message) if message.payload.len() == self.payload_bytes => {
                made(&message.payload, label(self.conversation, entry.sender.user, entry.client_seq))
            }
            Change::Message(_) | Change::Unknown => None,
            _ if self.kind == Kind::Direct => None,
            _ => Some(0),
        };
        self.faults.altered += u64::from(made.is_none());
        self.senders.entry(entry.sender.user).or_default().place(entry.client_seq.get(), &mut self.faults);
        if entry.sender.user == self.own {
            self.confirm(entry.client_seq, entry.seq, Source::Entry);
            return Placed::Other;
        }
        match entry.change {
            Change::Message(_) => Placed::Received(made.unwrap_or(u64::MAX)),
            _ => Placed::Other,
        }
    }

    /// An ack and the entry name the same seq, whichever comes first.
    fn confirm(&mut self, client_seq: ClientSeq, seq: Seq, source: Source) {
        match self.unconfirmed.remove(&client_seq) {
            Some((other, _)) => self.faults.altered += u64::from(other != seq),
            None => _ = self.unconfirmed.insert(client_seq, (seq, source)),
        }
    }
}

/// What all members of a conversation see in the end.
pub fn judge<'a>(logs: impl Iterator<Item = &'a Log> + Clone) -> Faults {
    let mut faults = Faults::default();
    let head = logs.clone().map(|log| log.cursor.max(log.highest_acked)).max().unwrap_or(Seq(0));
    let mut missing = 0;
    let mut whole: Option<&Log> = None;
    for log in logs {
        faults.add(&log.faults);
        // Seqs have no holes, so what is up to the head and not there is missing.
        if log.is_complete {
            missing = missing.max(head.get() - log.cursor.get());
        }
        let absent =
            |(seq, source): &&(Seq, Source)| *source == Source::Ack && *seq <= log.cursor && *seq > log.start;
        faults.lost += log.unconfirmed.values().filter(absent).count() as u64;
        match whole {
            _ if log.cursor != head => {}
            Some(other) if other.start == log.start => faults.split += u64::from(other.hash != log.hash),
            Some(_) => {}
            None => whole = Some(log),
        }
    }
    faults.lost += missing;
    faults
}

/// A digest of what was before, and of this.
pub fn mixed(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// A message with [such a payload](payload).
pub fn message(made: u64, label: u64, bytes: usize) -> Change {
    let payload = payload(made, label, bytes).into();
    Change::Message(Message { content_type: "text/plain".into(), payload, reply_to: None })
}

/// What a payload is known by where it arrives: a digest of the conversation, the sender and the number.
pub fn label(conversation: ConversationId, sender: UserId, client_seq: ClientSeq) -> u64 {
    let words = [*conversation.as_bytes(), *sender.as_bytes()].map(u128::from_le_bytes);
    let halves = words.into_iter().flat_map(|word| [word as u64, (word >> 64) as u64]);
    halves.chain([client_seq.get()]).fold(0, mixed)
}

/// A payload: when it was made, its [label], and bytes that depend on the label.
pub fn payload(made: u64, label: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![filler(label); bytes.max(PAYLOAD_BYTES_MIN)];
    payload[..8].copy_from_slice(&made.to_le_bytes());
    payload[8..16].copy_from_slice(&label.to_le_bytes());
    payload
}

fn filler(label: u64) -> u8 {
    label as u8
}

/// When it was made, if it is one.
pub fn made(payload: &[u8], label: u64) -> Option<u64> {
    let (made, rest) = payload.split_first_chunk()?;
    let (known_by, rest) = rest.split_first_chunk()?;
    let filler = filler(label);
    let other = rest.iter().fold(0, |other, byte| other | (byte ^ filler));
    let intact = u64::from_le_bytes(*known_by) == label && other == 0;
    intact.then(|| u64::from_le_bytes(*made))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use tern_protocol::ids::DeviceId;
    use tern_protocol::model::{Sender, WallMillis};

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
            change: message(seq * 10, label(conversation(), user(sender), client_seq), BYTES),
        }
    }

    fn conversation() -> ConversationId {
        ConversationId::direct(user("a"), user("b"))
    }

    fn ok(seq: u64) -> SendOk {
        SendOk { conversation: conversation(), seq: Seq(seq), time: WallMillis(0), duplicate: false }
    }

    fn log(own: &str) -> Log {
        Log::new(Kind::Direct, conversation(), user(own), Seq(0), BYTES)
    }

    /// What `a` and `b` have been pushed, and what `a` was acknowledged: (client_seq, seq).
    #[track_caller]
    fn check(a_sees: &[Entry], b_sees: &[Entry], acks: &[(u64, u64)], expected: Faults) {
        let (mut a, mut b) = (log("a"), log("b"));
        acks.iter().for_each(|(client_seq, seq)| a.on_ack(ClientSeq(*client_seq), &ok(*seq), false));
        a_sees.iter().for_each(|entry| _ = a.on_push(entry));
        b_sees.iter().for_each(|entry| _ = b.on_push(entry));
        assert_eq!(judge([&a, &b].into_iter()), expected);
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
        // Acknowledged, and something else is there.
        let (x, y) = ([entry("b", 1, 1), entry("b", 2, 2)], [entry("b", 1, 1), entry("b", 2, 2)]);
        check(&x, &y, &[(1, 2)], Faults { lost: 1, ..none });
        // Pushed twice, stored twice.
        check(&[one(1)], &[one(1), one(1)], &[(1, 1)], Faults { duplicated: 1, ..none });
        let twice = [one(1), entry("a", 2, 1)];
        let expected = Faults { duplicated: 2, ..none };
        check(&twice, &twice, &[(1, 1)], expected);
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
        // The bytes of another sender's message of the same number, and of one in another conversation.
        let swapped = Entry { change: entry("b", 1, 1).change, ..one(1) };
        let swapped = from_ref(&swapped);
        check(swapped, swapped, &[(1, 1)], Faults { altered: 2, ..none });
        let elsewhere = label(ConversationId::direct(user("a"), user("c")), user("a"), ClientSeq(1));
        let strayed = Entry { change: message(10, elsewhere, BYTES), ..one(1) };
        let strayed = from_ref(&strayed);
        check(strayed, strayed, &[(1, 1)], Faults { altered: 2, ..none });
    }

    #[test]
    fn who_was_cut_off_has_lost_nothing() {
        let (mut a, mut b) = (log("a"), log("b"));
        a.on_ack(ClientSeq(1), &ok(1), false);
        a.on_push(&entry("a", 1, 1));
        assert_eq!(judge([&a, &b].into_iter()).lost, 1);
        b.cut();
        assert!(judge([&a, &b].into_iter()).is_none());
    }

    #[test]
    fn groups_have_many_senders() {
        let names = ["a", "b", "c", "d"];
        let mut logs = names.map(|name| Log::new(Kind::Group, conversation(), user(name), Seq(0), BYTES));
        let mut created = entry("a", 1, 1);
        created.change = Change::Create { title: String::new(), members: Vec::new() };
        let entries = [created, entry("b", 2, 1), entry("a", 3, 2), entry("c", 4, 1), entry("b", 5, 2)];
        for (log, own) in logs.iter_mut().zip(names) {
            for entry in &entries {
                let received = log.on_push(entry) == Placed::Received(entry.seq.get() * 10);
                assert_eq!(received, entry.sender.user != user(own) && entry.seq != Seq(1));
            }
        }
        assert!(judge(logs.iter()).is_none());
    }

    #[test]
    fn another_connection_may_repeat_what_the_last_one_brought() {
        let mut log = log("a");
        let stored_before = SendOk { duplicate: true, ..ok(1) };
        log.on_push(&entry("a", 1, 1));
        log.reconnected();
        log.on_push(&entry("a", 1, 1));
        log.on_ack(ClientSeq(1), &stored_before, true);
        assert!(log.faults().is_none());
        log.on_push(&entry("b", 2, 1));
        log.on_push(&entry("b", 2, 1));
        assert_eq!(log.faults().duplicated, 1, "twice on the same connection");
        log.on_ack(ClientSeq(2), &stored_before, false);
        assert_eq!(log.faults().duplicated, 2, "it was sent once");
    }

    #[test]
    fn gaps_are_pulled() {
        let mut log = log("b");
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
