//! What clients did and were told, against the log that they find afterwards: the checks behind `spec/ordering.md`.
//!
//! A [`History`] is written by any number of clients while they run ([`History::issue`], [`History::ack`],
//! [`Listener::push`]) and compared with each conversation's log when one has been read ([`History::check`]).
//! It knows nothing of sockets or of time: order comes from a logical clock that ticks at each call.

#![allow(unreachable_pub, reason = "as in a library")]

use std::collections::HashMap;
use std::fmt;

use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq};
use tern_protocol::model::{Change, Entry, Sender, WallMillis};

/// One intended send: what exactly-once speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where.
    pub conversation: ConversationId,
    /// Whose.
    pub sender: Sender,
    /// Their number for it.
    pub client_seq: ClientSeq,
}

/// A place on the logical clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

#[derive(Debug)]
struct Operation {
    change: Change,
    issued: Tick,
    /// How often it was sent.
    attempts: u32,
    acked: Option<(Tick, Seq, WallMillis)>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which: `lost`, `doubled`, `gap` …
    pub rule: &'static str,
    /// The evidence.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// How far the clients have got when a log is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Unanswered sends have not been sent again: each is there once or not at all.
    Open,
    /// Everything that was sent has been answered: each is there once.
    Settled,
}

/// Everything that was sent, answered and pushed.
#[derive(Debug, Default)]
pub struct History {
    clock: u64,
    operations: HashMap<Key, Operation>,
    /// What was seen live, by anybody.
    pushed: HashMap<ConversationId, HashMap<Seq, Entry>>,
    violations: Vec<Violation>,
    totals: Totals,
}

/// How much there was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Different sends.
    pub sends: u64,
    /// Of them, sent more than once.
    pub resent: u64,
    /// Different sends that were answered.
    pub acked: u64,
    /// Answers that said "an earlier try has stored it".
    pub duplicates: u64,
    /// Pushes.
    pub pushes: u64,
}

/// One connection's pushes, which come in the order of the log.
#[derive(Debug, Default)]
pub struct Listener {
    last: HashMap<ConversationId, Seq>,
}

impl History {
    fn tick(&mut self) -> Tick {
        self.clock += 1;
        Tick(self.clock)
    }

    fn violate(&mut self, rule: &'static str, what: String) {
        self.violations.push(Violation { rule, what });
    }

    /// How much there was.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// A send is about to leave, for the first time or again. Call it before a byte of it is written.
    pub fn issue(&mut self, key: Key, change: &Change) {
        let tick = self.tick();
        if let Some(operation) = self.operations.get_mut(&key) {
            operation.attempts += 1;
            self.totals.resent += u64::from(operation.attempts == 2);
            return;
        }
        self.totals.sends += 1;
        let operation = Operation { change: change.clone(), issued: tick, attempts: 1, acked: None };
        self.operations.insert(key, operation);
    }

    /// A send was answered.
    pub fn ack(&mut self, key: Key, ok: &SendOk) {
        let tick = self.tick();
        self.totals.duplicates += u64::from(ok.duplicate);
        let Some(operation) = self.operations.get_mut(&key) else {
            return self.violate("answer", format!("{key} was never sent and answered with {ok:?}"));
        };
        let attempts = operation.attempts;
        let before = *operation.acked.get_or_insert((tick, ok.seq, ok.time));
        self.totals.acked += u64::from(before.0 == tick);
        if ok.conversation != key.conversation {
            self.violate("answer", format!("{key} was answered for conversation {}", ok.conversation));
        }
        if (before.1, before.2) != (ok.seq, ok.time) {
            let what = format!(
                "{key} was answered with {} at {:?}, and before with {} at {:?}",
                ok.seq, ok.time, before.1, before.2
            );
            self.violate("answers differ", what);
        }
        if ok.duplicate && attempts == 1 {
            self.violate("answer", format!("{key} was sent once and answered as a duplicate of {}", ok.seq));
        }
        if !ok.duplicate && before.0 != tick {
            self.violate("answer", format!("{key} was answered as new for the second time, at {}", ok.seq));
        }
    }

    /// What was wrong in answers and pushes by themselves.
    pub fn broken(&self) -> &[Violation] {
        &self.violations
    }

    /// Compares a conversation's whole log with what was sent, answered and pushed.
    pub fn check(&self, conversation: ConversationId, log: &[Entry], stage: Stage) -> Vec<Violation> {
        let mut found = Found { violations: Vec::new() };
        let mut at: HashMap<Key, Seq> = HashMap::with_capacity(log.len());
        let mut newest: HashMap<Sender, (ClientSeq, Seq)> = HashMap::new();
        // Among the entries so far, the one that was sent last: none of those after it may have been answered before.
        let mut latest: Option<(Tick, Key, Seq)> = None;
        for (i, entry) in log.iter().enumerate() {
            let expected = Seq(i as u64 + 1);
            if entry.seq != expected {
                found.add("gap", format!("{conversation} has {} where {expected} belongs", entry.seq));
            }
            let key = Key { conversation, sender: entry.sender, client_seq: entry.client_seq };
            if let Some(first) = at.insert(key, entry.seq) {
                found.add("doubled", format!("{key} is at {first} and at {}", entry.seq));
            }
            let before = newest.insert(entry.sender, (entry.client_seq, entry.seq));
            if let Some((number, seq)) = before.filter(|(number, _)| *number >= entry.client_seq) {
                let what =
                    format!("{key} is at {}, behind number {number} of the same device at {seq}", entry.seq);
                found.add("order of a device", what);
            }
            let Some(operation) = self.operations.get(&key) else {
                found.add("invented", format!("{key} at {} was never sent", entry.seq));
                continue;
            };
            if operation.change != entry.change {
                found.add("changed", format!("{key} at {} is not what was sent", entry.seq));
            }
            if let Some((tick, seq, time)) = operation.acked {
                if (seq, time) != (entry.seq, entry.time) {
                    let what = format!(
                        "{key} was answered with {seq} at {time:?} and is at {}, {:?}",
                        entry.seq, entry.time
                    );
                    found.add("moved", what);
                }
                if let Some((_, other, other_seq)) = latest.filter(|(issued, ..)| *issued > tick) {
                    let what = format!(
                        "{key} was answered with {seq} before {other} was sent, which is at {other_seq}"
                    );
                    found.add("real time order", what);
                }
            }
            if latest.is_none_or(|(issued, ..)| issued < operation.issued) {
                latest = Some((operation.issued, key, entry.seq));
            }
        }
        for (key, operation) in self.operations.iter().filter(|(key, _)| key.conversation == conversation) {
            match operation.acked {
                _ if at.contains_key(key) => {}
                Some((_, seq, _)) => {
                    found.add("lost", format!("{key} was answered with {seq} and is not in the log"));
                }
                None if stage == Stage::Settled => {
                    found.add("lost", format!("{key} was sent until it was answered and is not in the log"));
                }
                None => {}
            }
            if operation.acked.is_none() && stage == Stage::Settled {
                found.add("unanswered", format!("{key} has no answer"));
            }
        }
        for (seq, pushed) in self.pushed.get(&conversation).into_iter().flatten() {
            let logged = usize::try_from(seq.0).ok().and_then(|n| log.get(n.checked_sub(1)?));
            if logged != Some(pushed) {
                let logged = logged.map_or("nothing".to_owned(), shown);
                let what = format!("{conversation}: {} was pushed, and the log has {logged}", shown(pushed));
                found.add("pushed", what);
            }
        }
        found.violations
    }
}

struct Found {
    violations: Vec<Violation>,
}

impl Found {
    fn add(&mut self, rule: &'static str, what: String) {
        self.violations.push(Violation { rule, what });
    }
}

impl Listener {
    /// A push came.
    pub fn push(&mut self, history: &mut History, conversation: ConversationId, entry: Entry) {
        history.totals.pushes += 1;
        let before = self.last.insert(conversation, entry.seq);
        if let Some(before) = before.filter(|before| *before >= entry.seq) {
            history.violate(
                "order of pushes",
                format!("{conversation}: {} was pushed after {before}", entry.seq),
            );
        }
        let pushed = history.pushed.entry(conversation).or_default();
        if let Some(other) = pushed.get(&entry.seq).filter(|other| **other != entry) {
            let what = format!("{conversation}: {} was pushed, and {}", shown(other), shown(&entry));
            return history.violate("pushes differ", what);
        }
        pushed.insert(entry.seq, entry);
    }
}

/// Compares what two readers found.
pub fn same_log(conversation: ConversationId, a: &[Entry], b: &[Entry]) -> Option<Violation> {
    let differs =
        |what: String| Some(Violation { rule: "readers differ", what: format!("{conversation}: {what}") });
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => differs(format!("one has {}, the other {}", shown(a), shown(b))),
        None if a.len() != b.len() => differs(format!("one has {} entries, the other {}", a.len(), b.len())),
        None => None,
    }
}

/// An entry without its contents.
fn shown(entry: &Entry) -> String {
    let Entry { seq, sender, client_seq, .. } = entry;
    format!("{seq} (number {client_seq} of device {} of {})", sender.device, sender.user)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { conversation, sender, client_seq } = self;
        write!(f, "send {client_seq} of device {} of {} to {conversation}", sender.device, sender.user)
    }
}

/// Panics with the first few, if there are any.
#[track_caller]
pub fn assert_none(violations: &[Violation], when: &str) {
    let first: Vec<String> = violations.iter().take(10).map(ToString::to_string).collect();
    assert!(
        violations.is_empty(),
        "{when}: {} violations, the first:\n{}",
        violations.len(),
        first.join("\n")
    );
}

/// Each rule, broken once.
#[cfg(test)]
mod tests {
    use tern_protocol::ids::{DeviceId, UserId};
    use tern_protocol::model::Message;

    use super::*;

    fn sender(n: u64) -> Sender {
        Sender { user: UserId::from_sub("anna"), device: DeviceId::new(n).expect("not 0") }
    }

    fn conversation() -> ConversationId {
        ConversationId::from_bytes([7; 16])
    }

    fn key(device: u64, number: u64) -> Key {
        Key { conversation: conversation(), sender: sender(device), client_seq: ClientSeq(number) }
    }

    fn change(device: u64, number: u64) -> Change {
        let payload = format!("{device}/{number}").into();
        Change::Message(Message { content_type: String::new(), payload, reply_to: None })
    }

    fn entry(seq: u64, device: u64, number: u64) -> Entry {
        Entry {
            seq: Seq(seq),
            time: WallMillis(seq),
            sender: sender(device),
            client_seq: ClientSeq(number),
            change: change(device, number),
        }
    }

    fn ok(seq: u64, duplicate: bool) -> SendOk {
        SendOk { conversation: conversation(), seq: Seq(seq), time: WallMillis(seq), duplicate }
    }

    enum Did {
        Issue(u64, u64),
        Ack(u64, u64, SendOk),
        Push(Entry),
    }
    use Did::{Ack, Issue, Push};

    #[track_caller]
    fn check(did: Vec<Did>, log: &[Entry], stage: Stage, expected: &[&str]) {
        let (mut history, mut listener) = (History::default(), Listener::default());
        for did in did {
            match did {
                Issue(device, number) => history.issue(key(device, number), &change(device, number)),
                Ack(device, number, ok) => history.ack(key(device, number), &ok),
                Push(entry) => listener.push(&mut history, conversation(), entry),
            }
        }
        let mut found = history.broken().to_vec();
        found.append(&mut history.check(conversation(), log, stage));
        let rules: Vec<&str> = found.iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, expected, "{found:?}");
    }

    #[test]
    fn what_is_promised_passes() {
        let both = [entry(1, 1, 1), entry(2, 2, 1)];
        check(vec![], &[], Stage::Settled, &[]);
        check(vec![Issue(1, 1)], &[], Stage::Open, &[]);
        check(vec![Issue(1, 1)], &both[..1], Stage::Open, &[]);
        let retried = vec![Issue(1, 1), Push(entry(1, 1, 1)), Issue(1, 1), Ack(1, 1, ok(1, true))];
        check(retried, &both[..1], Stage::Settled, &[]);
        // Sent at the same time: either order will do.
        let at_once = || vec![Issue(2, 1), Issue(1, 1), Ack(2, 1, ok(2, false)), Ack(1, 1, ok(1, false))];
        check(at_once(), &both, Stage::Settled, &[]);
    }

    #[test]
    fn each_broken_promise_is_found() {
        let acked = || vec![Issue(1, 1), Ack(1, 1, ok(1, false))];
        check(acked(), &[], Stage::Open, &["lost"]);
        check(vec![Issue(1, 1)], &[], Stage::Settled, &["lost", "unanswered"]);
        check(vec![Issue(1, 1)], &[entry(1, 1, 1)], Stage::Settled, &["unanswered"]);
        check(
            acked(),
            &[entry(1, 1, 1), entry(2, 1, 1)],
            Stage::Open,
            &["doubled", "order of a device", "moved"],
        );
        check(vec![Issue(1, 1)], &[entry(2, 1, 1)], Stage::Open, &["gap"]);
        check(vec![], &[entry(1, 1, 1)], Stage::Open, &["invented"]);
        let changed = Entry { change: change(9, 9), ..entry(1, 1, 1) };
        check(acked(), &[changed], Stage::Open, &["changed"]);
        check(
            vec![Issue(1, 1), Issue(1, 2)],
            &[entry(1, 1, 2), entry(2, 1, 1)],
            Stage::Open,
            &["order of a device"],
        );
        check(
            vec![Issue(1, 1), Ack(1, 1, ok(2, false)), Issue(2, 1), Ack(2, 1, ok(1, false))],
            &[entry(1, 2, 1), entry(2, 1, 1)],
            Stage::Open,
            &["real time order"],
        );
        check(
            vec![Issue(1, 1), Ack(1, 1, ok(1, false)), Issue(1, 1), Ack(1, 1, ok(2, true))],
            &[entry(1, 1, 1)],
            Stage::Open,
            &["answers differ"],
        );
        check(vec![Issue(1, 1), Ack(1, 1, ok(1, true))], &[entry(1, 1, 1)], Stage::Open, &["answer"]);
        let twice_new = vec![Issue(1, 1), Ack(1, 1, ok(1, false)), Issue(1, 1), Ack(1, 1, ok(1, false))];
        check(twice_new, &[entry(1, 1, 1)], Stage::Open, &["answer"]);
        check(vec![Issue(1, 1), Push(entry(1, 1, 1))], &[], Stage::Open, &["pushed"]);
        let pushes = vec![Issue(1, 1), Issue(1, 2), Push(entry(2, 1, 2)), Push(entry(1, 1, 1))];
        check(pushes, &[entry(1, 1, 1), entry(2, 1, 2)], Stage::Open, &["order of pushes"]);
        let other = Entry { change: change(9, 9), ..entry(1, 1, 1) };
        let found = same_log(conversation(), &[entry(1, 1, 1)], &[other]).expect("they differ");
        assert_eq!(found.rule, "readers differ");
        assert!(same_log(conversation(), &[entry(1, 1, 1)], &[]).is_some());
    }
}
