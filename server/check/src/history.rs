//! What was sent and what was answered, and how that compares with a log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use tern_protocol::error::{Effect, ErrorCode};
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Sender, WallMillis};

use crate::membership::spans;
use crate::receipts::Receipts;
use crate::violation::{Promise, Violation};

/// One intended send: what exactly-once speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
struct Tick(u64);

/// What was sent under a number: a client that forgets, or that means harm, sends something else under one that it used.
#[derive(Debug)]
struct Operation {
    change: Change,
    issued: Tick,
    /// When it was sent first, its number was above all that its device had used there.
    was_highest: bool,
    /// How often it was sent.
    attempts: u32,
    /// How many of these have not stored it: refused without effect, or answered as duplicates of another.
    idle: u32,
    acked: Option<(Tick, Seq, WallMillis)>,
    /// Said to have had no effect, last.
    refused: Option<(Tick, ErrorCode)>,
    /// Refused as one that was never stored: its number was below others, or something else's.
    disowned: Option<ErrorCode>,
    /// The last try was refused.
    decided: bool,
}

/// How far the clients have got when a log is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Unanswered sends have not been sent again: each is there once or not at all.
    Open,
    /// Everything that was sent has been answered: what was acknowledged is there once, what was refused is not.
    Settled,
}

/// Everything that was sent, answered and seen.
#[derive(Debug, Default)]
pub struct History {
    clock: u64,
    /// By their numbers, in the order in which they were first sent; nearly always there is one.
    operations: BTreeMap<Key, Vec<Operation>>,
    highest: HashMap<(ConversationId, Sender), ClientSeq>,
    /// What was seen by anybody.
    seen: HashMap<ConversationId, BTreeMap<Seq, Entry>>,
    /// Who has seen which seqs.
    pub(crate) seen_by: BTreeMap<(ConversationId, UserId), BTreeSet<Seq>>,
    pub(crate) receipts: Receipts,
    violations: Vec<Violation>,
    server_tries_again: bool,
    pub(crate) owners_change: bool,
    pub(crate) totals: Totals,
}

/// How much there was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Different sends.
    pub sends: u64,
    /// Of them, sent more than once.
    pub resent: u64,
    /// Different sends that were acknowledged.
    pub acked: u64,
    /// Different sends that were refused.
    pub refused: u64,
    /// Answers that said "an earlier try has stored it".
    pub duplicates: u64,
    /// Pushes.
    pub pushes: u64,
    /// Read marks that were answered.
    pub marks: u64,
}

impl History {
    fn tick(&mut self) -> Tick {
        self.clock += 1;
        Tick(self.clock)
    }

    /// Something is wrong that whoever writes the history has found by itself.
    pub fn violate(&mut self, promise: Promise, rule: &'static str, what: String) {
        self.violations.push(Violation { promise, rule, what, excerpt: Vec::new() });
    }

    fn violate_at(&mut self, promise: Promise, rule: &'static str, what: String, key: &Key) {
        let excerpt = self.told(key);
        self.violations.push(Violation { promise, rule, what, excerpt });
    }

    /// What is known of an operation, in lines.
    fn told(&self, key: &Key) -> Vec<String> {
        let mut lines = Vec::new();
        for operation in self.operations.get(key).into_iter().flatten() {
            lines.push(format!("#{} {key}: sent, {} times in all", operation.issued.0, operation.attempts));
            if let Some((tick, seq, _)) = operation.acked {
                lines.push(format!("#{} {key}: acknowledged with {seq}", tick.0));
            }
            if let Some((tick, code)) = operation.refused {
                lines.push(format!("#{} {key}: refused, {code}", tick.0));
            }
        }
        lines
    }

    /// The store does not always know what became of a commit: then the server itself tries again, and may answer a send
    /// that came once as one that was stored by an earlier try.
    pub fn server_tries_again(&mut self) {
        self.server_tries_again = true;
    }

    /// A conversation may change its owner below a connection, which is then told by another node: a push that it has had may
    /// come again, and watermarks that only the owner before has known fall. Clients drop the one and take the higher of the
    /// other, so apps see neither.
    pub fn owners_change(&mut self) {
        self.owners_change = true;
    }

    /// How much there was.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// A send is about to leave, for the first time or again. Call it before a byte of it is written. Something else under
    /// a number that was used is another send, of which one at most may be stored.
    pub fn issue(&mut self, key: Key, change: &Change) {
        let tick = self.tick();
        let operations = self.operations.entry(key).or_default();
        if let Some(operation) = operations.iter_mut().find(|operation| operation.change == *change) {
            operation.attempts += 1;
            operation.decided = false;
            self.totals.resent += u64::from(operation.attempts == 2);
            return;
        }
        self.totals.sends += 1;
        let highest = self.highest.entry((key.conversation, key.sender)).or_default();
        operations.push(Operation {
            change: change.clone(),
            issued: tick,
            was_highest: key.client_seq > *highest,
            attempts: 1,
            idle: 0,
            acked: None,
            refused: None,
            disowned: None,
            decided: false,
        });
        *highest = (*highest).max(key.client_seq);
    }

    /// A send was acknowledged, of a client that sends one thing under each number.
    pub fn ack(&mut self, key: Key, ok: &SendOk) {
        self.on_ack(key, None, ok);
    }

    /// A send was refused, of a client that sends one thing under each number. When the code says that it had no effect, it
    /// is not in the log, unless it is sent again.
    pub fn refuse(&mut self, key: Key, code: ErrorCode) {
        self.on_refusal(key, None, code);
    }

    /// What was sent under a number last.
    pub fn change(&self, key: &Key) -> Option<&Change> {
        self.operations.get(key)?.last().map(|operation| &operation.change)
    }

    /// The send of just this under the number was answered.
    pub fn answered(&mut self, key: Key, change: &Change, answer: Result<&SendOk, ErrorCode>) {
        match answer {
            Ok(ok) => self.on_ack(key, Some(change), ok),
            Err(code) => self.on_refusal(key, Some(change), code),
        }
    }

    fn operation(&mut self, key: &Key, change: Option<&Change>) -> Option<&mut Operation> {
        let mut operations = self.operations.get_mut(key)?.iter_mut();
        operations.find(|operation| change.is_none_or(|change| operation.change == *change))
    }

    fn on_ack(&mut self, key: Key, change: Option<&Change>, ok: &SendOk) {
        let (tick, server_tries_again) = (self.tick(), self.server_tries_again);
        self.totals.duplicates += u64::from(ok.duplicate);
        let Some(operation) = self.operation(&key, change) else {
            let what = format!("{key} was never sent and answered with {ok:?}");
            return self.violate(Promise::ExactlyOnce, "answer", what);
        };
        // Whoever answers it as a duplicate has stored another try.
        operation.idle += u32::from(ok.duplicate && !server_tries_again);
        let nobody_stored_it = operation.idle >= operation.attempts;
        let before = *operation.acked.get_or_insert((tick, ok.seq, ok.time));
        self.totals.acked += u64::from(before.0 == tick);
        if self.operations[&key].iter().filter(|operation| operation.acked.is_some()).count() > 1 {
            let what = format!("{key} was sent with several contents, and more than one was acknowledged");
            self.violate_at(Promise::ExactlyOnce, "two under one number", what, &key);
        }
        if ok.conversation != key.conversation {
            let what = format!("{key} was answered for conversation {}", ok.conversation);
            self.violate_at(Promise::ExactlyOnce, "answer", what, &key);
        }
        if (before.1, before.2) != (ok.seq, ok.time) {
            let what = format!(
                "{key} was answered with {} at {:?}, and before with {} at {:?}",
                ok.seq, ok.time, before.1, before.2
            );
            self.violate_at(Promise::ExactlyOnce, "answers differ", what, &key);
        }
        if ok.duplicate && nobody_stored_it {
            let what = format!(
                "{key} was answered as a duplicate of {}, and no other try can have stored it",
                ok.seq
            );
            self.violate_at(Promise::ExactlyOnce, "answer", what, &key);
        }
        if !ok.duplicate && before.0 != tick {
            let what = format!("{key} was answered as new for the second time, at {}", ok.seq);
            self.violate_at(Promise::ExactlyOnce, "answer", what, &key);
        }
    }

    fn on_refusal(&mut self, key: Key, change: Option<&Change>, code: ErrorCode) {
        let tick = self.tick();
        let Some(operation) = self.operation(&key, change) else {
            let what = format!("{key} was never sent and answered with {code}");
            return self.violate(Promise::ExactlyOnce, "answer", what);
        };
        operation.decided = true;
        if code.effect() == Effect::None {
            operation.idle += 1;
            operation.refused = Some((tick, code));
        }
        let by_number = matches!(code, ErrorCode::ClientSeqStale | ErrorCode::ClientSeqUsed);
        if by_number {
            operation.disowned = Some(code);
        }
        let acked = operation.acked.filter(|_| by_number);
        let overtaken = operation.was_highest && operation.attempts == 1 && by_number;
        self.totals.refused += 1;
        if let Some((_, seq, _)) = acked {
            let what = format!("{key} was acknowledged with {seq}, and is told {code} now");
            self.violate_at(Promise::ExactlyOnce, "answers differ", what, &key);
        } else if code == ErrorCode::ClientSeqUsed && self.operations[&key].len() == 1 {
            let what = format!("{key} is told {code}, and nothing else was ever sent under that number");
            self.violate_at(Promise::ExactlyOnce, "answer", what, &key);
        } else if overtaken {
            let what = format!("{key} was sent once, above all that its device had sent, and is told {code}");
            self.violate_at(Promise::RealTimeOrder, "overtaken", what, &key);
        }
    }

    /// Nobody waits for the answer of this send any more, or sends it again.
    pub fn abandon(&mut self, key: Key) {
        for operation in self.operations.get_mut(&key).into_iter().flatten() {
            operation.decided = true;
        }
    }

    /// Something that has to stay below a bound, in units of the caller's.
    pub fn measured(&mut self, what: &str, value: u64, bound: u64) {
        if value > bound {
            self.violate(Promise::BoundedCost, "bound", format!("{what}: {value}, and {bound} is allowed"));
        }
    }

    pub(crate) fn saw(&mut self, conversation: ConversationId, entry: Entry) {
        let seen = self.seen.entry(conversation).or_default();
        if let Some(other) = seen.get(&entry.seq).filter(|other| **other != entry) {
            let what = format!("{conversation}: {} was seen, and {}", shown(other), shown(&entry));
            return self.violate(Promise::DenseOrder, "entries differ", what);
        }
        seen.insert(entry.seq, entry);
    }

    /// A user has got these entries of a page.
    pub fn pulled(&mut self, user: UserId, conversation: ConversationId, entries: &[Entry]) {
        let seen = self.seen_by.entry((conversation, user)).or_default();
        seen.extend(entries.iter().map(|entry| entry.seq));
        entries.iter().for_each(|entry| self.saw(conversation, entry.clone()));
    }

    /// An app was told that a log is not what it was, and no such thing was done to it.
    pub fn torn(&mut self, what: &str) {
        self.violate(Promise::GapFreeSync, "torn", what.to_owned());
    }

    /// The conversations that something was sent to, seen of or said about, in the order of their ids.
    pub fn conversations(&self) -> BTreeSet<ConversationId> {
        let sent = self.operations.keys().map(|key| key.conversation);
        sent.chain(self.seen.keys().copied()).chain(self.receipts.conversations()).collect()
    }

    /// What was wrong in answers, pushes and receipts by themselves.
    pub fn broken(&self) -> &[Violation] {
        &self.violations
    }

    /// Compares a conversation's whole log with what was sent, answered and seen.
    pub fn check(&self, conversation: ConversationId, log: &[Entry], stage: Stage) -> Vec<Violation> {
        let mut found = Found { history: self, log, violations: Vec::new() };
        let mut at: HashMap<Key, Seq> = HashMap::with_capacity(log.len());
        let mut newest: HashMap<Sender, (ClientSeq, Seq)> = HashMap::new();
        // Among the entries so far, the one that was sent last: none of those after it may have been answered before.
        let mut latest: Option<(Tick, Key, Seq)> = None;
        for (i, entry) in log.iter().enumerate() {
            let expected = Seq(i as u64 + 1);
            if entry.seq != expected {
                let what = format!("{conversation} has {} where {expected} belongs", entry.seq);
                found.add(Promise::DenseOrder, "gap", what, &[], &[i.saturating_sub(1), i]);
            }
            let key = Key { conversation, sender: entry.sender, client_seq: entry.client_seq };
            if let Some(first) = at.insert(key, entry.seq) {
                let what = format!("{key} is at {first} and at {}", entry.seq);
                found.add(Promise::ExactlyOnce, "doubled", what, &[key], &[first.get() as usize - 1, i]);
            }
            let before = newest.insert(entry.sender, (entry.client_seq, entry.seq));
            if let Some((number, seq)) = before.filter(|(number, _)| *number >= entry.client_seq) {
                let what =
                    format!("{key} is at {}, behind number {number} of the same device at {seq}", entry.seq);
                found.add(Promise::RealTimeOrder, "order of a device", what, &[key], &[]);
            }
            let Some(operations) = self.operations.get(&key) else {
                let what = format!("{key} at {} was never sent", entry.seq);
                found.add(Promise::DenseOrder, "invented", what, &[], &[i]);
                continue;
            };
            let Some(operation) = operations.iter().find(|operation| is_same(&operation.change, entry))
            else {
                let what = format!("{key} at {} is not what was sent", entry.seq);
                found.add(Promise::DenseOrder, "changed", what, &[key], &[]);
                continue;
            };
            // An earlier try may have been stored, and a later one refused: for the device's rate, say.
            if let Some((_, code)) = operation.refused.filter(|_| operation.idle >= operation.attempts) {
                let what = format!(
                    "{key} was refused with {code}, which has no effect, and is at {} without another try",
                    entry.seq
                );
                found.add(Promise::UnknownIsNotFailed, "refused and stored", what, &[key], &[i]);
            }
            if let Some(code) = operation.disowned {
                let what =
                    format!("{key} was told {code}, so that it gets another number, and is at {}", entry.seq);
                found.add(Promise::ExactlyOnce, "disowned", what, &[key], &[i]);
            }
            if let Some((tick, seq, time)) = operation.acked {
                if (seq, time) != (entry.seq, entry.time) {
                    let what = format!(
                        "{key} was answered with {seq} at {time:?} and is at {}, {:?}",
                        entry.seq, entry.time
                    );
                    found.add(Promise::DenseOrder, "moved", what, &[key], &[i]);
                }
                if let Some((_, other, other_seq)) = latest.filter(|(issued, ..)| *issued > tick) {
                    let what = format!(
                        "{key} was answered with {seq} before {other} was sent, which is at {other_seq}"
                    );
                    found.add(Promise::RealTimeOrder, "real time order", what, &[key, other], &[]);
                }
            }
            if latest.is_none_or(|(issued, ..)| issued < operation.issued) {
                latest = Some((operation.issued, key, entry.seq));
            }
        }
        self.check_operations(conversation, &at, stage, &mut found);
        self.check_seen(conversation, &mut found);
        self.check_membership(conversation, &mut found);
        self.check_counts(conversation, &mut found);
        found.violations
    }

    fn check_operations(
        &self,
        conversation: ConversationId,
        at: &HashMap<Key, Seq>,
        stage: Stage,
        found: &mut Found<'_>,
    ) {
        for (key, operations) in self.operations.iter().filter(|(key, _)| key.conversation == conversation) {
            let entry = at.get(key).and_then(|seq| found.log.get(seq.get() as usize - 1));
            for operation in operations {
                let is_there = entry.is_some_and(|entry| is_same(&operation.change, entry));
                if let Some((_, seq, _)) = operation.acked.filter(|_| !is_there) {
                    let what = format!("{key} was answered with {seq} and is not in the log");
                    let near = (seq.get() as usize).saturating_sub(1);
                    found.add(Promise::SentMeansSafe, "lost", what, &[*key], &[near]);
                }
                if stage == Stage::Settled && operation.acked.is_none() && !operation.decided {
                    let what = format!("{key} has no answer");
                    found.add(Promise::UnknownIsNotFailed, "unanswered", what, &[*key], &[]);
                }
            }
        }
    }

    fn check_seen(&self, conversation: ConversationId, found: &mut Found<'_>) {
        for (seq, seen) in self.seen.get(&conversation).into_iter().flatten() {
            let logged = usize::try_from(seq.0).ok().and_then(|n| found.log.get(n.checked_sub(1)?));
            if logged != Some(seen) {
                let logged = logged.map_or("nothing".to_owned(), shown);
                let what = format!("{conversation}: {} was seen, and the log has {logged}", shown(seen));
                found.add(Promise::DenseOrder, "seen", what, &[], &[]);
            }
        }
    }

    fn check_membership(&self, conversation: ConversationId, found: &mut Found<'_>) {
        let Some(spans) = spans(found.log) else { return self.check_pair(conversation, found) };
        for (user, seqs) in self.seen_of(conversation) {
            let spans = spans.get(&user).map_or(&[][..], Vec::as_slice);
            let outside = |seq: &&Seq| !spans.iter().any(|span| span.covers(**seq));
            if let Some(seq) = seqs.iter().find(outside) {
                let what = format!("{user} has seen {seq} of {conversation}, and was a member in {spans:?}");
                found.add(Promise::MembershipCuts, "outsider", what, &[], &[seq.get() as usize - 1]);
            }
        }
        for (i, entry) in found.log.iter().enumerate().skip(1) {
            let spans = spans.get(&entry.sender.user).map_or(&[][..], Vec::as_slice);
            // The entry that makes somebody a member is another's.
            if !spans.iter().any(|span| span.joined < entry.seq && span.covers(entry.seq)) {
                let what = format!("{} of {conversation} is by somebody who was no member", shown(entry));
                found.add(Promise::MembershipCuts, "sent by an outsider", what, &[], &[i]);
            }
        }
    }

    /// Who is no member any more is not counted, so counts fall by no more than have left.
    fn check_counts(&self, conversation: ConversationId, found: &mut Found<'_>) {
        let leaves = |entry: &&Entry| matches!(entry.change, Change::Remove { .. } | Change::Leave);
        let left = found.log.iter().filter(leaves).count();
        for ((_, seq), fell) in self.receipts.counts_fell.iter().filter(|((id, _), _)| *id == conversation) {
            if *fell as usize > left {
                let what = format!(
                    "{conversation}: {fell} fewer than before were said to have {seq} or to have seen it, and {left} have left"
                );
                found.add(Promise::ReceiptsOnlyRise, "count fell", what, &[], &[]);
            }
        }
    }

    fn seen_of(&self, conversation: ConversationId) -> impl Iterator<Item = (UserId, &BTreeSet<Seq>)> {
        let of = self.seen_by.iter().filter(move |((id, _), seqs)| *id == conversation && !seqs.is_empty());
        of.map(|((_, user), seqs)| (*user, seqs))
    }

    /// A direct chat is its two users', whose ids make its own.
    fn check_pair(&self, conversation: ConversationId, found: &mut Found<'_>) {
        let mut users: BTreeSet<UserId> = self.seen_of(conversation).map(|(user, _)| user).collect();
        users.extend(found.log.iter().map(|entry| entry.sender.user));
        // Of one alone nothing can be said: the other may never have come. Of a group's log, its first entry is missed.
        if users.len() < 2 || conversation.is_group() {
            return;
        }
        let makes = |a: UserId, b: UserId| ConversationId::direct(a, b) == conversation;
        let is_member = |user: UserId| users.iter().any(|peer| makes(user, *peer));
        let members: BTreeSet<UserId> = users.iter().copied().filter(|user| is_member(*user)).collect();
        for (user, seqs) in self.seen_of(conversation).filter(|(user, _)| !members.contains(user)) {
            let at = seqs.first().map_or(0, |seq| (seq.get() as usize).saturating_sub(1));
            let what = format!("{user} has seen {} entries of {conversation}, of {members:?}", seqs.len());
            found.add(Promise::MembershipCuts, "outsider", what, &[], &[at]);
        }
        for (i, entry) in found.log.iter().enumerate() {
            if !members.contains(&entry.sender.user) {
                let what = format!("{} of {conversation} is by another than {members:?}", shown(entry));
                found.add(Promise::MembershipCuts, "sent by an outsider", what, &[], &[i]);
            }
        }
    }
}

struct Found<'a> {
    history: &'a History,
    log: &'a [Entry],
    violations: Vec<Violation>,
}

impl Found<'_> {
    /// With what is known of these operations, and these entries of the log by index.
    fn add(&mut self, promise: Promise, rule: &'static str, what: String, keys: &[Key], entries: &[usize]) {
        let mut excerpt: Vec<String> = keys.iter().flat_map(|key| self.history.told(key)).collect();
        let entries = entries.iter().filter_map(|i| self.log.get(*i));
        excerpt.extend(entries.map(|entry| format!("log: {}", shown(entry))));
        self.violations.push(Violation { promise, rule, what, excerpt });
    }
}

/// Whether an entry is what a request asked for: of users to be added, those who were members already are left out.
fn is_same(asked: &Change, entry: &Entry) -> bool {
    match (asked, &entry.change) {
        (Change::Add { members: asked }, Change::Add { members: stored }) => {
            !stored.is_empty() && stored.iter().all(|user| asked.contains(user))
        }
        (
            Change::Create { title, members: asked },
            Change::Create { title: stored_title, members: stored },
        ) => {
            // Who creates a group need not be named.
            let others = |members: &[UserId]| -> BTreeSet<UserId> {
                members.iter().copied().filter(|user| *user != entry.sender.user).collect()
            };
            title == stored_title && others(asked) == others(stored)
        }
        (asked, stored) => asked == stored,
    }
}

/// An entry without its contents.
pub(crate) fn shown(entry: &Entry) -> String {
    let Entry { seq, sender, client_seq, .. } = entry;
    format!("{seq} (number {client_seq} of device {} of {})", sender.device, sender.user)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { conversation, sender, client_seq } = self;
        write!(f, "send {client_seq} of device {} of {} to {conversation}", sender.device, sender.user)
    }
}
