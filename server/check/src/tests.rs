//! Each promise, broken in each way that the checker knows.

use std::collections::BTreeSet;

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ReceiptCount, ReceiptsMoved, SendOk, UserReceipt};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Message, Sender, WallMillis};

use crate::*;

fn sender(n: u64) -> Sender {
    Sender { user: UserId::from_sub("anna"), device: DeviceId::new(n).expect("not 0") }
}

fn conversation() -> ConversationId {
    ConversationId::direct(UserId::from_sub("anna"), UserId::from_sub("bert"))
}

fn key(device: u64, number: u64) -> Key {
    Key { conversation: conversation(), sender: sender(device), client_seq: ClientSeq(number) }
}

fn change(device: u64, number: u64) -> Change {
    let payload = format!("{device}/{number}").into();
    Change::Message(Message { content_type: String::new(), payload, reply_to: None })
}

fn other(device: u64, number: u64) -> Change {
    change(device + 100, number)
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

/// The second entry of a log, by this user.
fn by(name: &str) -> Entry {
    let sender = Sender { user: UserId::from_sub(name), device: DeviceId::new(9).expect("not 0") };
    Entry { sender, ..entry(2, 9, 1) }
}

fn ok(seq: u64, duplicate: bool) -> SendOk {
    SendOk { conversation: conversation(), seq: Seq(seq), time: WallMillis(seq), duplicate }
}

enum Did {
    Issue(u64, u64),
    Ack(u64, u64, SendOk),
    Refuse(u64, u64, ErrorCode),
    /// Somebody sends what [`by`] has.
    IssueBy(&'static str),
    /// Something else is sent under the number.
    IssueOther(u64, u64),
    /// What was sent first, or the other, is answered.
    Answer(u64, u64, bool, Result<SendOk, ErrorCode>),
    Push(Entry),
    /// An app is handed an entry.
    Hand(Entry),
    /// Its device has everything.
    CaughtUp,
    /// The app begins again, with the entries up to here.
    Restart(u64),
    /// Somebody else is pushed an entry.
    PushToCarl(Entry),
    /// (delivered, read), said by anna's devices.
    Mark(u64, u64),
    /// (delivered, read), shown of anna.
    Show(u64, u64),
    /// (seq, delivered, read), counted.
    Count(u64, u32, u32),
    /// A read mark was answered.
    MarkAck(u64),
    /// (delivered, read), stored for anna in the end.
    Stored(u64, u64),
    Measure(u64),
}
use Did::*;

/// Runs it, and says which rules of which promises were broken.
fn run(did: Vec<Did>, log: &[Entry], stage: Stage) -> Vec<Violation> {
    let user = UserId::from_sub("bert");
    let bert = Sender { user, device: DeviceId::new(9).expect("not 0") };
    let anna = sender(1).user;
    let (mut history, mut listener, mut view) = (History::default(), Listener::of(user), View::new(bert));
    let mut found = Vec::new();
    for did in did {
        match did {
            Issue(device, number) => history.issue(key(device, number), &change(device, number)),
            Ack(device, number, ok) => history.ack(key(device, number), &ok),
            Refuse(device, number, code) => history.refuse(key(device, number), code),
            IssueBy(name) => {
                let Entry { sender, client_seq, change, .. } = by(name);
                history.issue(Key { conversation: conversation(), sender, client_seq }, &change);
            }
            IssueOther(device, number) => history.issue(key(device, number), &other(device, number)),
            Answer(device, number, first, answer) => {
                let change = if first { change(device, number) } else { other(device, number) };
                history.answered(key(device, number), &change, answer.as_ref().map_err(|code| *code));
            }
            Push(entry) => listener.push(&mut history, conversation(), entry),
            Hand(entry) => view.handed(&mut history, conversation(), entry),
            Restart(cursor) => view.restarted(conversation(), Seq(cursor)),
            PushToCarl(entry) => {
                Listener::of(UserId::from_sub("carl")).push(&mut history, conversation(), entry);
            }
            CaughtUp => found.append(&mut view.check(conversation(), log)),
            Mark(delivered, read) => history.marked(conversation(), anna, Seq(delivered), Seq(read)),
            Show(delivered, read) => {
                let shown = Shown { user: anna, delivered: Seq(delivered), read: Seq(read) };
                history.shown(conversation(), bert, shown);
            }
            Count(seq, delivered, read) => history.counted(conversation(), user, Seq(seq), (delivered, read)),
            MarkAck(read) => history.mark_acked(conversation(), anna, Seq(read)),
            Stored(delivered, read) => {
                let shown = Shown { user: anna, delivered: Seq(delivered), read: Seq(read) };
                history.check_receipts(conversation(), Seq(log.len() as u64), &[shown]);
            }
            Measure(value) => history.measured("queue", value, 10),
        }
    }
    found.splice(..0, history.broken().to_vec());
    found.append(&mut history.check(conversation(), log, stage));
    found
}

#[track_caller]
fn check(did: Vec<Did>, log: &[Entry], stage: Stage, expected: &[&str]) -> BTreeSet<Promise> {
    let found = run(did, log, stage);
    let rules: Vec<&str> = found.iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, expected, "{found:?}");
    found.iter().map(|violation| violation.promise).collect()
}

/// A group's log: anna creates it, adds bert, writes, removes bert, writes.
fn group() -> Vec<Entry> {
    let bert = UserId::from_sub("bert");
    let with = |seq, change| Entry { change, ..entry(seq, 1, seq) };
    vec![
        with(1, Change::Create { title: String::new(), members: Vec::new() }),
        with(2, Change::Add { members: vec![bert] }),
        entry(3, 1, 3),
        with(4, Change::Remove { member: bert }),
        entry(5, 1, 5),
    ]
}

fn sent(log: &[Entry]) -> History {
    let mut history = History::default();
    for entry in log {
        let key = Key { conversation: conversation(), sender: entry.sender, client_seq: entry.client_seq };
        history.issue(key, &entry.change);
    }
    history
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
    let at_once = vec![Issue(2, 1), Issue(1, 1), Ack(2, 1, ok(2, false)), Ack(1, 1, ok(1, false))];
    check(at_once, &both, Stage::Settled, &[]);
    check(vec![Issue(1, 1), Refuse(1, 1, ErrorCode::Overloaded)], &[], Stage::Settled, &[]);
    // The first try was stored, and nobody heard of it.
    let twice = vec![Issue(1, 1), Issue(1, 1), Refuse(1, 1, ErrorCode::RateLimited)];
    check(twice, &both[..1], Stage::Settled, &[]);
    check(vec![Issue(1, 1), Refuse(1, 1, ErrorCode::OutcomeUnknown)], &both[..1], Stage::Settled, &[]);
    // One of two under a number is stored, whichever came first.
    for first in [true, false] {
        let change = if first { change(1, 1) } else { other(1, 1) };
        let reused = vec![
            Issue(1, 1),
            IssueOther(1, 1),
            Issue(1, 1),
            Answer(1, 1, !first, Err(ErrorCode::ClientSeqUsed)),
            Answer(1, 1, first, Ok(ok(1, first))),
        ];
        check(reused, &[Entry { change, ..entry(1, 1, 1) }], Stage::Settled, &[]);
    }
    // A number that was skipped is too low later.
    let skipped =
        vec![Issue(1, 2), Issue(1, 1), Refuse(1, 1, ErrorCode::ClientSeqStale), Ack(1, 2, ok(1, false))];
    check(skipped, &[entry(1, 1, 2)], Stage::Settled, &[]);
    let receipts =
        vec![Issue(1, 1), Mark(1, 0), Show(1, 0), Mark(0, 1), MarkAck(1), Show(1, 1), Stored(1, 1)];
    check(receipts, &both[..1], Stage::Open, &[]);
    check(vec![Issue(1, 1), Hand(entry(1, 1, 1)), CaughtUp], &both[..1], Stage::Open, &[]);
    check(vec![Measure(10)], &[], Stage::Settled, &[]);
    // A try that was refused, and one that was stored.
    let refused_first =
        vec![Issue(1, 1), Refuse(1, 1, ErrorCode::Overloaded), Issue(1, 1), Ack(1, 1, ok(1, false))];
    check(refused_first, &both[..1], Stage::Settled, &[]);
    // Both users of a direct chat see and send.
    let pair = vec![Issue(1, 1), Push(entry(1, 1, 1)), IssueBy("bert"), Push(by("bert"))];
    check(pair, &[entry(1, 1, 1), by("bert")], Stage::Open, &[]);
}

#[test]
fn each_broken_promise_is_found() {
    let acked = || vec![Issue(1, 1), Ack(1, 1, ok(1, false))];
    let both = [entry(1, 1, 1), entry(2, 1, 2)];
    let sent = || vec![Issue(1, 1), Issue(1, 2)];
    let with = |mut did: Vec<Did>, more: Vec<Did>| {
        did.extend(more);
        did
    };
    let mut promises = BTreeSet::new();
    for (did, log, stage, expected) in [
        (acked(), &[][..], Stage::Open, &["lost"][..]),
        (vec![Issue(1, 1)], &[], Stage::Settled, &["unanswered"]),
        (vec![Issue(1, 1)], &both[..1], Stage::Settled, &["unanswered"]),
        (acked(), &[entry(1, 1, 1), entry(2, 1, 1)], Stage::Open, &["doubled", "order of a device", "moved"]),
        (vec![Issue(1, 1)], &[entry(2, 1, 1)], Stage::Open, &["gap"]),
        (vec![], &both[..1], Stage::Open, &["invented"]),
        (acked(), &[Entry { change: change(9, 9), ..entry(1, 1, 1) }], Stage::Open, &["changed", "lost"]),
        (
            with(acked(), vec![IssueOther(1, 1), Answer(1, 1, false, Ok(ok(1, true)))]),
            &both[..1],
            Stage::Open,
            &["two under one number", "answer", "lost"],
        ),
        (
            with(acked(), vec![IssueOther(1, 1), Answer(1, 1, false, Err(ErrorCode::ClientSeqUsed))]),
            &[Entry { change: other(1, 1), ..entry(1, 1, 1) }],
            Stage::Open,
            &["refused and stored", "disowned", "lost"],
        ),
        (with(sent(), vec![Refuse(1, 1, ErrorCode::ClientSeqStale)]), &[], Stage::Open, &["overtaken"]),
        (sent(), &[entry(1, 1, 2), entry(2, 1, 1)], Stage::Open, &["order of a device"]),
        (
            vec![Issue(1, 1), Ack(1, 1, ok(2, false)), Issue(2, 1), Ack(2, 1, ok(1, false))],
            &[entry(1, 2, 1), entry(2, 1, 1)],
            Stage::Open,
            &["real time order"],
        ),
        (
            with(acked(), vec![Issue(1, 1), Ack(1, 1, ok(2, true))]),
            &both[..1],
            Stage::Open,
            &["answers differ"],
        ),
        (vec![Issue(1, 1), Ack(1, 1, ok(1, true))], &both[..1], Stage::Open, &["answer"]),
        (vec![Ack(1, 1, ok(1, false))], &[], Stage::Open, &["answer"]),
        (with(acked(), vec![Issue(1, 1), Ack(1, 1, ok(1, false))]), &both[..1], Stage::Open, &["answer"]),
        (
            with(acked(), vec![Issue(1, 1), Refuse(1, 1, ErrorCode::ClientSeqStale)]),
            &both[..1],
            Stage::Open,
            &["answers differ", "disowned"],
        ),
        (
            vec![Issue(1, 1), Refuse(1, 1, ErrorCode::Overloaded)],
            &both[..1],
            Stage::Open,
            &["refused and stored"],
        ),
        (
            vec![Issue(1, 1), Issue(1, 1), Refuse(1, 1, ErrorCode::ClientSeqUsed)],
            &both[..1],
            Stage::Open,
            &["answer", "disowned"],
        ),
        // Two tries, and neither can have stored it.
        (
            vec![
                Issue(1, 1),
                Refuse(1, 1, ErrorCode::Overloaded),
                Issue(1, 1),
                Refuse(1, 1, ErrorCode::Overloaded),
            ],
            &both[..1],
            Stage::Open,
            &["refused and stored"],
        ),
        (
            vec![Issue(1, 1), Refuse(1, 1, ErrorCode::Overloaded), Issue(1, 1), Ack(1, 1, ok(1, true))],
            &both[..1],
            Stage::Open,
            &["answer", "refused and stored"],
        ),
        (vec![Issue(1, 1), Push(entry(1, 1, 1))], &[], Stage::Open, &["seen"]),
        // Carl is not in the direct chat of the two.
        (
            vec![Issue(1, 1), Push(entry(1, 1, 1)), PushToCarl(entry(1, 1, 1))],
            &both[..1],
            Stage::Open,
            &["outsider"],
        ),
        (
            vec![Issue(1, 1), PushToCarl(entry(1, 1, 1))],
            &both[..1],
            Stage::Open,
            &["outsider", "sent by an outsider"],
        ),
        (
            vec![Issue(1, 1), Push(entry(1, 1, 1)), IssueBy("carl")],
            &[entry(1, 1, 1), by("carl")],
            Stage::Open,
            &["sent by an outsider"],
        ),
        // What it had beyond its storage it has to be handed again.
        (
            with(
                sent(),
                vec![Hand(entry(1, 1, 1)), Hand(entry(2, 1, 2)), Restart(0), Hand(entry(2, 1, 2)), CaughtUp],
            ),
            &both,
            Stage::Open,
            &["not handed"],
        ),
        (
            with(sent(), vec![Push(entry(2, 1, 2)), Push(entry(1, 1, 1))]),
            &both,
            Stage::Open,
            &["order of pushes"],
        ),
        (
            vec![Issue(1, 1), Push(entry(1, 1, 1)), Hand(Entry { change: change(9, 9), ..entry(1, 1, 1) })],
            &both[..1],
            Stage::Open,
            &["entries differ"],
        ),
        (with(sent(), vec![Hand(entry(1, 1, 1)), CaughtUp]), &both, Stage::Open, &["not handed"]),
        (with(sent(), vec![Hand(entry(2, 1, 2)), CaughtUp]), &both, Stage::Open, &["not handed"]),
        (
            vec![Issue(1, 1), Hand(entry(1, 1, 1)), Hand(entry(1, 1, 1)), CaughtUp],
            &both[..1],
            Stage::Open,
            &["handed twice"],
        ),
        (vec![Issue(1, 1), Show(1, 0)], &both[..1], Stage::Open, &["false receipt"]),
        (vec![Issue(1, 1), Mark(1, 0), Show(1, 1)], &both[..1], Stage::Open, &["false receipt"]),
        (with(sent(), vec![Mark(2, 2), Show(2, 2), Show(2, 1)]), &both, Stage::Open, &["receipt fell"]),
        (with(sent(), vec![Mark(2, 2), Show(1, 2)]), &both, Stage::Open, &["read above delivered"]),
        (with(sent(), vec![Mark(1, 0), Count(1, 2, 0)]), &both, Stage::Open, &["false count"]),
        (with(sent(), vec![Mark(1, 0), Count(1, 1, 1)]), &both, Stage::Open, &["false count"]),
        (with(sent(), vec![Mark(3, 3), Stored(3, 3)]), &both, Stage::Open, &["watermarks out of order"]),
        (with(sent(), vec![Mark(1, 0), Stored(2, 0)]), &both, Stage::Open, &["false receipt"]),
        (with(sent(), vec![Mark(2, 2), MarkAck(2), Stored(2, 1)]), &both, Stage::Open, &["read mark lost"]),
        (vec![Measure(11)], &[], Stage::Settled, &["bound"]),
    ] {
        promises.extend(check(did, log, stage, expected));
    }
    assert_eq!(promises, BTreeSet::from(Promise::ALL));
}

#[test]
fn receipts_of_a_connection_rise() {
    let user = sender(1).user;
    let moved = |delivered, read| ReceiptsMoved {
        conversation: conversation(),
        users: vec![UserReceipt { user, delivered: Seq(delivered), read: Seq(read) }],
        counts: Vec::new(),
    };
    for (told, expected) in [
        (&[(1, 0), (1, 1), (5, 1)][..], &[][..]),
        (&[(2, 0), (1, 0)], &["receipt fell"]),
        (&[(2, 2), (2, 1)], &["receipt fell"]),
    ] {
        let (mut history, mut listener) = (History::default(), Listener::of(user));
        told.iter().for_each(|(delivered, read)| listener.receipts(&mut history, &moved(*delivered, *read)));
        let rules: Vec<&str> = history.broken().iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, expected, "{told:?}");
    }
}

#[test]
fn members_see_their_span_and_nothing_else() {
    let (log, bert) = (group(), UserId::from_sub("bert"));
    for (seqs, expected) in [
        (&[2, 3, 4][..], &[][..]),
        (&[1, 2, 3, 4], &["outsider"]),
        (&[2, 3, 4, 5], &["outsider"]),
        (&[2, 4], &[]),
    ] {
        let mut history = sent(&log);
        let mut listener = Listener::of(bert);
        for seq in seqs {
            listener.push(&mut history, conversation(), log[*seq - 1].clone());
        }
        let found = history.check(conversation(), &log, Stage::Open);
        let rules: Vec<&str> = found.iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, expected, "{found:?}");
        assert!(found.iter().all(|violation| violation.promise == Promise::MembershipCuts));
    }
    // Bert writes after he was removed.
    let mut late = group();
    late[4].sender = Sender { user: bert, device: DeviceId::new(9).expect("not 0") };
    let found = sent(&late).check(conversation(), &late, Stage::Open);
    assert_eq!(found.iter().map(|violation| violation.rule).collect::<Vec<_>>(), ["sent by an outsider"]);
}

#[test]
fn a_former_member_needs_no_more_than_their_span() {
    let log = group();
    let bert = Sender { user: UserId::from_sub("bert"), device: DeviceId::new(9).expect("not 0") };
    for (handed, complete) in [(&[2, 3, 4][..], true), (&[2, 3], false), (&[], false)] {
        let (mut history, mut view) = (sent(&log), View::new(bert));
        handed.iter().for_each(|seq| view.handed(&mut history, conversation(), log[*seq - 1].clone()));
        assert_eq!(view.check(conversation(), &log).is_empty(), complete, "{handed:?}");
    }
}

#[test]
fn an_app_that_begins_again_may_be_handed_again() {
    let bert = Sender { user: UserId::from_sub("bert"), device: DeviceId::new(9).expect("not 0") };
    let (mut history, mut view) = (History::default(), View::new(bert));
    history.issue(key(1, 1), &change(1, 1));
    view.handed(&mut history, conversation(), entry(1, 1, 1));
    view.restarted(conversation(), Seq(0));
    view.handed(&mut history, conversation(), entry(1, 1, 1));
    assert_eq!(history.broken(), []);
    view.handed(&mut history, conversation(), entry(1, 1, 1));
    assert_eq!(history.broken().len(), 1);
}

#[test]
fn a_violation_shows_what_it_is_about() {
    let found = run(vec![Issue(1, 1), Ack(1, 1, ok(2, false))], &[entry(1, 1, 1)], Stage::Open);
    let text = found[0].to_string();
    assert!(text.starts_with("promise 2 (one order without holes): moved: send 1 of device "), "{text}");
    assert!(text.contains("\n    #1 send 1 "), "{text}");
    assert!(text.contains("acknowledged with 2\n    log: 1 (number 1 of device "), "{text}");
}

#[test]
fn readers_agree() {
    let other = Entry { change: change(9, 9), ..entry(1, 1, 1) };
    let found = same_log(conversation(), &[entry(1, 1, 1)], &[other]).expect("they differ");
    assert_eq!(found.rule, "readers differ");
    assert!(same_log(conversation(), &[entry(1, 1, 1)], &[]).is_some());
    assert!(same_log(conversation(), &[entry(1, 1, 1)], &[entry(1, 1, 1)]).is_none());
}

#[test]
fn what_was_seen_under_another_id_is_compared_too() {
    let (mut history, mut listener) = (sent(&[entry(1, 1, 1)]), Listener::of(sender(1).user));
    let (wrong, shown) = (ConversationId::from_bytes([7; 16]), ConversationId::from_bytes([8; 16]));
    listener.push(&mut history, wrong, entry(1, 1, 1));
    history.shown(shown, sender(1), Shown { user: sender(1).user, delivered: Seq(0), read: Seq(0) });
    assert_eq!(history.conversations(), BTreeSet::from([conversation(), wrong, shown]));
    let rules: Vec<&str> = history.check(wrong, &[], Stage::Open).iter().map(|found| found.rule).collect();
    assert_eq!(rules, ["seen"]);
}

#[test]
fn an_entry_that_adds_nobody_is_not_what_was_asked() {
    let mut log = group();
    let history = sent(&log);
    log[1].change = Change::Add { members: Vec::new() };
    let rules: Vec<&str> =
        history.check(conversation(), &log, Stage::Open).iter().map(|found| found.rule).collect();
    assert_eq!(rules, ["changed"]);
}

#[test]
fn what_an_app_was_told_is_so() {
    let one = || vec![entry(1, 1, 1)];
    let twice = || vec![entry(1, 1, 1), Entry { client_seq: ClientSeq(2), ..entry(2, 1, 1) }];
    let check = |tell: &[fn(&mut Told)], log: Vec<Entry>, expected: &[&str]| {
        let mut told = Told::new(sender(1));
        tell.iter().for_each(|tell| tell(&mut told));
        let found = told.check(conversation(), &log);
        let rules: Vec<&str> = found.iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, expected, "{found:?}");
    };
    let queued = |told: &mut Told| told.queued(conversation(), &change(1, 1));
    let sent = |told: &mut Told| told.sent(conversation(), &change(1, 1), Seq(1));
    let failed = |told: &mut Told| told.failed(conversation(), &change(1, 1), ErrorCode::NotMember);
    let unknown = |told: &mut Told| told.failed(conversation(), &change(1, 1), ErrorCode::Internal);
    let refused = |told: &mut Told| told.refused(conversation(), &change(1, 1));
    check(&[queued, sent], one(), &[]);
    check(&[queued, failed], vec![], &[]);
    check(&[queued, unknown], one(), &[]);
    check(&[queued, unknown], vec![], &[]);
    check(&[queued, Told::restarted], one(), &[]);
    check(&[queued, refused, Told::restarted], vec![], &[]);
    // The app was gone before it was queued.
    check(&[], one(), &[]);
    check(&[queued, Told::restarted], vec![], &["forgotten"]);
    check(&[queued, sent], vec![], &["told sent"]);
    check(&[queued, sent], vec![entry(1, 2, 1), entry(2, 1, 1)], &["told sent"]);
    check(&[queued, failed], one(), &["told failed"]);
    check(&[queued, sent, failed], one(), &["told failed"]);
    check(&[queued], one(), &["not told"]);
    check(&[queued, refused], vec![], &["not told"]);
    check(&[queued, sent], twice(), &["stored twice"]);
}

#[test]
fn counts_fall_only_by_who_has_left() {
    let moved = |delivered, read| ReceiptsMoved {
        conversation: conversation(),
        users: Vec::new(),
        counts: vec![ReceiptCount { seq: Seq(3), delivered, read, members: 6 }],
    };
    // One has left that group.
    for (told, expected) in [
        (&[(1, 0), (5, 3), (5, 4)][..], &[][..]),
        (&[(5, 3), (4, 2)], &[]),
        (&[(5, 3), (2, 1)], &["count fell"]),
        (&[(5, 3), (5, 1)], &["count fell"]),
    ] {
        let (mut history, mut listener) = (sent(&group()), Listener::of(sender(1).user));
        told.iter().for_each(|(delivered, read)| listener.receipts(&mut history, &moved(*delivered, *read)));
        let found = history.check(conversation(), &group(), Stage::Open);
        let rules: Vec<&str> = found.iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, expected, "{told:?}");
    }
}
