//! The owner against a store in memory: sends here, two owners of one conversation in `stale`, watermarks in `marks`, random
//! interleavings in `random`.

#[path = "conversation_tests/marks.rs"]
mod marks;
#[path = "conversation_tests/model.rs"]
mod model;
#[path = "conversation_tests/random.rs"]
mod random;
#[path = "conversation_tests/stale.rs"]
mod stale;

use alloc::vec;
use alloc::vec::Vec;

use tern_protocol::error::ErrorCode::{self, *};
use tern_protocol::ids::Seq;
use tern_protocol::limits::{IN_FLIGHT_MAX, MEMBERS_MAX, PAYLOAD_BYTES_MAX, SEND_WINDOW};
use tern_protocol::model::{Change, Kind, Role, Sender, WallMillis};

use super::{Mark, Phase, VERSION_LIFE_MS};
use crate::limits::{BATCH_ENTRIES_MAX, COMMIT_ATTEMPTS_MAX, CONVERSATION_QUEUE_MAX, WINDOWS_CACHED_MAX};
use model::{Outcome, Pending, World, by, create, direct_id, group_id, message, say, user};

/// What a send is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Appended with this seq.
    New(u64),
    /// It had been appended with this seq.
    Dup(u64),
    No(ErrorCode),
}
use Told::{Dup, New, No};

fn told(world: &World, ticket: usize) -> Option<Told> {
    world.answer(ticket).map(|result| match result {
        Ok(ok) if ok.duplicate => Dup(ok.seq.get()),
        Ok(ok) => New(ok.seq.get()),
        Err(code) => No(code),
    })
}

fn add(members: &[u8]) -> Change {
    Change::Add { members: members.iter().copied().map(user).collect() }
}

fn remove(member: u8) -> Change {
    Change::Remove { member: user(member) }
}

fn role(member: u8, role: Role) -> Change {
    Change::Role { member: user(member), role }
}

fn title(title: &str) -> Change {
    Change::Title { title: title.into() }
}

fn reply_to(seq: u64) -> Change {
    let Change::Message(mut message) = say() else { unreachable!("a message") };
    message.reply_to = Some(Seq(seq));
    Change::Message(message)
}

fn roles(world: &World) -> Vec<(u8, Role)> {
    let active = world.store.members.iter().filter(|(_, m)| m.is_active());
    active.map(|(user, m)| (user.as_bytes()[0], m.role)).collect()
}

/// A step of a table: user (device 1), client_seq, what, and what it is answered.
type Step = (u8, u64, Change, Told);

/// The answers are the same whether the sends come one at a time, all in one batch, or each to a server that has just
/// started.
#[track_caller]
fn check(world: fn() -> World, steps: &[Step]) -> World {
    let told_all = |world: &World, tickets: &[usize]| -> Vec<_> {
        tickets.iter().map(|ticket| told(world, *ticket).expect("answered")).collect()
    };
    let expected: Vec<_> = steps.iter().map(|(.., told)| *told).collect();

    let mut single = world();
    let tickets: Vec<_> = steps
        .iter()
        .map(|(user, client_seq, change, _)| {
            let ticket = single.submit(0, by(*user, 1), *client_seq, change.clone());
            single.run(0);
            ticket
        })
        .collect();
    assert_eq!(told_all(&single, &tickets), expected, "one at a time");

    let mut fresh = world();
    let tickets: Vec<_> = steps
        .iter()
        .map(|(user, client_seq, change, _)| {
            fresh.restart(0);
            let ticket = fresh.submit(0, by(*user, 1), *client_seq, change.clone());
            fresh.run(0);
            ticket
        })
        .collect();
    assert_eq!(told_all(&fresh, &tickets), expected, "each to a server that has just started");

    let mut together = world();
    together.restart(0);
    let tickets: Vec<_> = steps
        .iter()
        .map(|(user, client_seq, change, _)| together.submit(0, by(*user, 1), *client_seq, change.clone()))
        .collect();
    together.run(0);
    assert_eq!(told_all(&together, &tickets), expected, "all at once");
    assert_eq!(together.store.members, single.store.members);
    assert_eq!(together.store.record, single.store.record);
    single
}

#[test]
fn a_direct_chat_begins_with_its_first_message() {
    let new = || World::new(direct_id());
    let world = check(
        new,
        &[
            (1, 1, reply_to(1), No(InvalidArgument)),
            (1, 2, title("t"), No(UnknownConversation)),
            (1, 3, create(&[2]), No(UnknownConversation)),
            (1, 4, say(), New(1)),
            (2, 1, reply_to(1), New(2)),
            (2, 2, reply_to(3), No(InvalidArgument)),
            (2, 3, reply_to(2), New(3)),
            (3, 1, say(), No(UnknownConversation)),
            (1, 5, title("t"), No(InvalidArgument)),
            (1, 6, Change::Leave, No(InvalidArgument)),
        ],
    );
    assert_eq!(roles(&world), [(1, Role::Member), (2, Role::Member)]);
    assert_eq!(world.store.record.as_ref().map(|record| record.kind), Some(Kind::Direct));
    assert!(world.store.members.values().all(|m| m.joined == Seq(1)));

    let mut world = World::new(direct_id());
    let ticket = world.submit_to(0, by(1, 1), None, 1, say());
    world.run(0);
    assert_eq!(told(&world, ticket), Some(No(UnknownConversation)), "by its id alone nobody begins it");
}

#[test]
fn a_group_begins_with_its_creation() {
    let new = || World::new(group_id());
    let world = check(
        new,
        &[
            (1, 1, say(), No(UnknownConversation)),
            (1, 2, create(&[1, 2, 3]), New(1)),
            (1, 3, create(&[4]), No(ConversationExists)),
            (4, 1, create(&[1]), No(ConversationExists)),
            (2, 1, say(), New(2)),
            (4, 2, say(), No(NotMember)),
            (3, 1, title("u"), No(Forbidden)),
            (1, 4, title("t"), No(NoChange)),
            (1, 5, title("u"), New(3)),
        ],
    );
    assert_eq!(world.store.log[0].change, create(&[2, 3]), "its creator is not invited");
    assert_eq!(roles(&world), [(1, Role::Owner), (2, Role::Member), (3, Role::Member)]);
    check(new, &[(1, 1, create(&[]), New(1)), (1, 2, say(), New(2))]);

    let mut world = World::new(group_id());
    let ticket = world.submit_to(0, by(1, 1), Some(user(2)), 1, create(&[2]));
    world.run(0);
    assert_eq!(told(&world, ticket), Some(No(UnknownConversation)), "a user is no target for a creation");
}

#[test]
fn a_retry_gets_its_first_seq_and_appends_nothing() {
    let new = || World::new(direct_id());
    check(
        new,
        &[
            (1, 1, say(), New(1)),
            (1, 1, say(), Dup(1)),
            (2, 1, say(), New(2)),
            (1, 5, say(), New(3)),
            (1, 4, say(), No(ClientSeqStale)),
            (1, 1, say(), Dup(1)),
            (1, 5, say(), Dup(3)),
            (2, 1, say(), Dup(2)),
            (1, 6, say(), New(4)),
            (1, 6, message("another"), No(ClientSeqUsed)),
            (1, 1, message("another"), No(ClientSeqUsed)),
            (1, 7, message("another"), New(5)),
        ],
    );
    let group = || World::group(&[2]);
    check(
        group,
        &[
            (2, 1, say(), New(2)),
            (1, 2, remove(2), New(3)),
            (2, 2, say(), No(NotMember)),
            (2, 1, say(), Dup(2)),
            (1, 2, remove(2), Dup(3)),
            (1, 1, create(&[2]), Dup(1)),
            (1, 1, create(&[1, 2]), Dup(1)),
            (1, 1, create(&[3]), No(ClientSeqUsed)),
            (1, 2, remove(3), No(ClientSeqUsed)),
            (1, 3, add(&[1, 2, 3]), New(4)),
            (1, 3, add(&[1, 2, 3]), Dup(4)),
            (1, 3, add(&[1, 2]), No(ClientSeqUsed)),
        ],
    );
    // However many sends ago it was: one more than a window holds, and far more.
    for sends in [SEND_WINDOW as u64, SEND_WINDOW as u64 + 1, 200] {
        let mut steps: Vec<Step> = (1..=sends).map(|n| (1, n * 2, say(), New(n))).collect();
        steps.push((1, 2, say(), Dup(1)));
        steps.push((1, sends * 2 - 1, say(), No(ClientSeqStale)));
        steps.push((1, 3, say(), No(ClientSeqStale)));
        steps.push((1, sends * 2, say(), Dup(sends)));
        steps.push((1, sends * 2 + 1, say(), New(sends + 1)));
        let world = check(new, &steps);
        assert_eq!(world.nodes[0].finds > 0, sends > 0);
        assert_eq!(world.store.log.len() as u64, sends + 1);
    }
}

#[test]
fn a_retry_finds_its_send_on_any_server() {
    let mut world = World::new(direct_id());
    let first = world.submit(0, by(1, 1), 1, say());
    world.run(0);
    for (node, restart) in [(1, false), (0, false), (1, true), (0, true)] {
        if restart {
            world.restart(node);
        }
        let retry = world.submit(node, by(1, 1), 1, say());
        world.run(node);
        assert_eq!(told(&world, retry), Some(Dup(1)), "server {node}");
    }
    assert_eq!((told(&world, first), world.store.log.len()), (Some(New(1)), 1));
    // Another device counts for itself.
    assert_eq!(world.send(0, by(1, 2), 1, say()).map(|ok| (ok.seq, ok.duplicate)), Ok((Seq(2), false)));
    // What was trimmed is still known to have been stored.
    (2..=100).for_each(|n| assert!(world.send(0, by(1, 1), n, say()).is_ok()));
    world.store.trim(50);
    assert_eq!(world.send(1, by(1, 1), 1, say()), Err(DuplicateTrimmed));
    assert_eq!(world.send(0, by(1, 1), 101, say()).map(|ok| ok.seq), Ok(Seq(102)));
    assert_eq!(world.store.head.floor, Seq(50), "appending keeps the floor");
}

#[test]
fn members_come_and_go_by_entries() {
    let group = || World::group(&[2, 3]);
    // The audiences are checked by the model, for every publication.
    let world = check(
        group,
        &[
            (3, 1, say(), New(2)),
            (1, 2, remove(3), New(3)),
            (3, 2, say(), No(NotMember)),
            (3, 3, Change::Leave, No(NotMember)),
            (2, 1, say(), New(4)),
            (1, 3, add(&[2, 3, 4]), New(5)),
            (3, 4, say(), New(6)),
            (1, 4, add(&[3, 4]), No(NoChange)),
            (4, 1, Change::Leave, New(7)),
            (4, 2, say(), No(NotMember)),
            (2, 2, remove(3), No(Forbidden)),
        ],
    );
    let span = |n| world.store.members.get(&user(n)).map(|m| (m.joined, m.left));
    assert_eq!(span(3), Some((Seq(5), None)));
    assert_eq!(span(4), Some((Seq(5), Some(Seq(7)))));
    assert_eq!(world.store.log[4].change, add(&[3, 4]), "an entry names only who came");
    assert!(world.store.audiences[2].contains(&user(3)) && !world.store.audiences[3].contains(&user(3)));
}

#[test]
fn the_owner_is_succeeded() {
    let group = || World::group(&[2, 3, 4]);
    let world = check(
        group,
        &[
            (1, 2, role(3, Role::Admin), New(2)),
            (3, 1, title("x"), New(3)),
            (1, 3, Change::Leave, New(4)),
            (3, 2, role(2, Role::Admin), New(5)),
            (1, 4, say(), No(NotMember)),
        ],
    );
    assert_eq!(roles(&world), [(2, Role::Admin), (3, Role::Owner), (4, Role::Member)]);
    let world = check(
        group,
        &[
            (1, 2, Change::Leave, New(2)),
            (2, 1, role(4, Role::Owner), New(3)),
            (2, 2, role(3, Role::Admin), No(Forbidden)),
        ],
    );
    assert_eq!(roles(&world), [(2, Role::Admin), (3, Role::Member), (4, Role::Owner)]);
    let world = check(|| World::group(&[]), &[(1, 2, Change::Leave, New(2)), (1, 3, say(), No(NotMember))]);
    assert_eq!(roles(&world), []);
}

/// Sends of devices 1 of 2 and 3, `n` each, without executing anything.
fn burst(world: &mut World, node: usize, first: u64, n: u64) -> Vec<usize> {
    (first..first + n)
        .flat_map(|client_seq| [2, 3].map(|sender| (sender, client_seq)))
        .map(|(sender, client_seq)| world.submit(node, by(sender, 1), client_seq, say()))
        .collect()
}

#[test]
fn what_waits_for_a_commit_goes_into_the_next() {
    let mut world = World::group(&[2, 3]);
    burst(&mut world, 0, 1, 1);
    world.run(0);
    world.nodes[0].commits.clear();
    let first = world.submit(0, by(2, 1), 2, say());
    let rest: Vec<_> = (3..303).map(|n| world.submit(0, by(2, 1), n, say())).collect();
    assert!(world.nodes[0].commits.len() == 1 && world.answer(first).is_none());
    world.run(0);
    let sizes: Vec<_> = world.nodes[0].commits.iter().map(|(entries, _)| *entries).collect();
    assert_eq!(sizes, [1, BATCH_ENTRIES_MAX, 300 - BATCH_ENTRIES_MAX]);
    let base = world.seq(first).and_then(Result::ok).expect("stored");
    let expected: Vec<_> = (base + 1..=base + 300).map(|seq| Some(New(seq))).collect();
    assert_eq!(rest.iter().map(|t| told(&world, *t)).collect::<Vec<_>>(), expected);
}

#[test]
fn a_batch_ends_when_it_is_large_and_when_it_changes_what_is_permitted() {
    #[track_caller]
    fn check(changes: impl IntoIterator<Item = Change>, sizes: &[usize]) {
        let mut world = World::group(&[2]);
        world.nodes[0].commits.clear();
        world.submit(0, by(1, 1), 2, say());
        for (n, change) in changes.into_iter().enumerate() {
            world.submit(0, by(1, 1), n as u64 + 3, change);
        }
        world.run(0);
        assert!(world.asks.iter().all(|ask| matches!(ask.answer, Some((_, Ok(_))))));
        let commits: Vec<_> = world.nodes[0].commits.iter().map(|(entries, _)| *entries).collect();
        assert_eq!(commits[1..], *sizes);
    }
    check((0..8).map(|_| message(vec![1; PAYLOAD_BYTES_MAX])), &[3, 3, 2]);
    check([say(), add(&[10, 11]), add(&[12]), say(), say()], &[2, 1, 2]);
    check([title("u"), say(), role(2, Role::Admin), say()], &[1, 2, 1]);
    // The next entry will be 3.
    check([say(), reply_to(3), reply_to(2), say()], &[1, 3]);
}

#[test]
fn nothing_is_said_before_the_commit_is_in() {
    let mut world = World::group(&[2, 3]);
    burst(&mut world, 0, 1, 1);
    world.run(0);
    let (published, commits) = (world.nodes[0].published.len(), world.nodes[0].commits.len());
    let sends = [burst(&mut world, 0, 2, 1), vec![world.submit(0, by(2, 1), 2, say())]].concat();
    let silent = |world: &World| {
        sends.iter().all(|ticket| world.answer(*ticket).is_none())
            && world.nodes[0].published.len() == published
            && world.nodes[0].heads_moved.is_empty()
            && !world.nodes[0].owner.is_idle()
    };
    assert!(matches!(world.nodes[0].pending[..], [Pending::Commit { .. }]) && silent(&world));
    world.step(0, 0);
    assert!(matches!(world.nodes[0].pending[..], [Pending::Committed(Ok(_))]) && silent(&world));
    world.step(0, 0);
    assert_eq!(told(&world, sends[0]), Some(New(4)), "answered when the owner is told");
    assert_eq!((told(&world, sends[1]), world.nodes[0].published.len()), (None, published + 1));
    world.run(0);
    assert_eq!((told(&world, sends[1]), told(&world, sends[2])), (Some(New(5)), Some(Dup(4))));
    assert_eq!(world.nodes[0].commits.len(), commits + 2);
    // Entries for the same people travel together.
    assert_eq!(world.nodes[0].published.len(), 5);
    let publications = world.nodes[0].publications;
    burst(&mut world, 0, 3, 10);
    world.run(0);
    assert_eq!(world.nodes[0].publications, publications + 2);
}

#[test]
fn nobody_is_refused_for_what_is_not_durable() {
    /// 2 asks for something behind a change of 1's in one batch, whose commit comes to `outcome`.
    #[track_caller]
    fn check(change: Change, second: Change, outcome: Outcome, expected: [Told; 2]) {
        let mut world = World::group(&[2, 3]);
        assert!(world.send(0, by(1, 1), 2, role(2, Role::Admin)).is_ok());
        world.restart(0);
        world.outcomes.push_back(outcome);
        let sends = [world.submit(0, by(1, 1), 3, change), world.submit(0, by(2, 1), 1, second)];
        while matches!(world.nodes[0].commits[..], []) {
            world.step(0, 0);
        }
        assert_eq!(sends.map(|ticket| told(&world, ticket)), [None; 2], "before the commit is in");
        world.run(0);
        assert_eq!(sends.map(|ticket| told(&world, ticket)), expected.map(Some));
    }
    for (change, second, refused) in [
        (title("u"), title("u"), NoChange),
        (add(&[4]), add(&[4]), NoChange),
        (remove(2), say(), NotMember),
        (role(2, Role::Member), remove(3), Forbidden),
    ] {
        check(change.clone(), second.clone(), Outcome::Lands, [New(3), No(refused)]);
        check(change.clone(), second.clone(), Outcome::Conflict, [New(3), No(refused)]);
        check(change.clone(), second.clone(), Outcome::UnknownLanded, [Dup(3), No(refused)]);
        check(change.clone(), second.clone(), Outcome::Unavailable, [No(Unavailable), New(3)]);
        check(change, second, Outcome::FailedLost, [No(OutcomeUnknown), New(3)]);
    }
}

#[test]
fn what_a_batch_has_pushed_out_of_the_window_waits() {
    let window = SEND_WINDOW as u64;
    for (outcome, expected) in
        [(Outcome::Lands, [No(ClientSeqStale), New(window + 2)]), (Outcome::Unavailable, [New(2), New(3)])]
    {
        let mut world = World::group(&[2]);
        world.outcomes.push_back(outcome);
        (0..window).for_each(|n| {
            world.submit(0, by(2, 1), 2 + n, say());
        });
        let older = world.submit(0, by(2, 1), 1, say());
        let newer = world.submit(0, by(2, 1), 2 + window, say());
        world.nodes[0].commits.clear();
        while world.nodes[0].commits.is_empty() {
            world.step(0, 0);
        }
        assert!(matches!(world.nodes[0].pending[..], [Pending::Commit { .. }]), "nobody looks for it");
        world.run(0);
        assert_eq!([older, newer].map(|ticket| told(&world, ticket)), expected.map(Some), "{outcome:?}");
    }
}

/// What is compared may be on its way into the log itself, and not get there.
#[test]
fn a_number_that_its_own_batch_has_used() {
    for (outcome, expected) in [
        (Outcome::Lands, [New(2), Dup(2), No(ClientSeqUsed)]),
        (Outcome::Conflict, [New(2), Dup(2), No(ClientSeqUsed)]),
        (Outcome::UnknownLanded, [Dup(2), Dup(2), No(ClientSeqUsed)]),
        (Outcome::Unavailable, [No(Unavailable); 3]),
    ] {
        let mut world = World::group(&[2]);
        world.outcomes.push_back(outcome);
        let changes = [message("a"), message("a"), message("b")];
        let tickets = changes.map(|change| world.submit(0, by(2, 1), 1, change));
        world.run(0);
        assert_eq!(tickets.map(|ticket| told(&world, ticket)), expected.map(Some), "{outcome:?}");
        assert_eq!(world.store.log.iter().filter(|entry| entry.change == message("b")).count(), 0);
    }
}

#[test]
fn who_was_removed_by_a_commit_of_unknown_outcome_is_told() {
    let mut world = World::group(&[2, 3]);
    world.outcomes.push_back(Outcome::UnknownLanded);
    let removal = world.submit(0, by(1, 1), 2, remove(3));
    world.run(0);
    assert_eq!(told(&world, removal), Some(Dup(2)));
    assert_eq!(*world.nodes[0].heads_moved, [2]);
    assert_eq!(*world.nodes[0].leavers_told, [(user(3), Seq(2))]);
}

#[test]
fn a_damaged_window_is_the_fault_of_no_other_device() {
    let mut world = World::group(&[2, 3]);
    world.restart(0);
    world.store.damaged = Some(by(2, 1));
    let sends = [(by(3, 1), 1), (by(2, 1), 1), (by(2, 2), 1), (by(2, 1), 2), (by(1, 1), 2)];
    let tickets = sends.map(|(sender, number)| world.submit(0, sender, number, say()));
    world.run(0);
    let damaged = No(Internal);
    let answers = [New(2), damaged, New(3), damaged, New(4)].map(Some);
    assert_eq!(tickets.map(|ticket| told(&world, ticket)), answers);
    assert!(world.nodes[0].owner.is_idle());
    world.store.damaged = None;
    assert_eq!(world.send(0, by(2, 1), 1, say()).map(|ok| ok.seq), Ok(Seq(5)));
}

#[test]
fn a_commit_that_fails() {
    use Outcome::*;
    /// One send meets these outcomes: its answer, the entries stored, the loads it takes (with a fence or not), and the
    /// heads that are told instead of entries.
    #[track_caller]
    fn check(outcomes: &[Outcome], answer: Told, stored: usize, loads: &[bool], heads: &[u64]) {
        let mut world = World::group(&[2]);
        world.nodes[0].loads.clear();
        world.outcomes.extend(outcomes);
        let ticket = world.submit(0, by(1, 1), 2, say());
        world.run(0);
        assert_eq!(told(&world, ticket), Some(answer));
        assert_eq!(world.land_late(), 0, "a fence was written");
        assert_eq!(world.store.log.len(), 1 + stored);
        assert_eq!((&*world.nodes[0].loads, &*world.nodes[0].heads_moved), (loads, heads));
        assert!(world.nodes[0].owner.is_idle());
        // Asked again, with the same number.
        let answer = world.send(0, by(1, 1), 2, say());
        assert_eq!(answer.map(|ok| (ok.seq, ok.duplicate)), Ok((Seq(2), stored == 1)));
        assert_eq!(world.send(0, by(2, 1), 1, say()).map(|ok| ok.seq), Ok(Seq(3)));
    }
    check(&[], New(2), 1, &[], &[]);
    check(&[Conflict], New(2), 1, &[false], &[]);
    check(&[UnknownLost], New(2), 1, &[true], &[]);
    check(&[UnknownLate], New(2), 1, &[true], &[]);
    check(&[UnknownLanded], Dup(2), 1, &[true], &[2]);
    check(&[Conflict, UnknownLate, UnknownLanded], Dup(2), 1, &[false, true, true], &[2]);
    check(&[Unavailable], No(ErrorCode::Unavailable), 0, &[], &[]);
    check(&[UnknownLost, Unavailable], No(OutcomeUnknown), 0, &[true], &[]);
    check(&[FailedLost], No(OutcomeUnknown), 0, &[], &[]);
    check(&[FailedLanded], No(OutcomeUnknown), 1, &[], &[]);
    let attempts = COMMIT_ATTEMPTS_MAX as usize;
    check(&vec![Conflict; attempts - 1], New(2), 1, &vec![false; attempts - 1], &[]);
    check(&vec![Conflict; attempts], No(Overloaded), 0, &vec![false; attempts - 1], &[]);
    let mut mixed = vec![Conflict; attempts];
    mixed[3] = UnknownLate;
    let mut fences = vec![false; attempts - 1];
    fences[3] = true;
    check(&mixed, No(OutcomeUnknown), 0, &fences, &[]);
    // After the last attempt nothing waits, and yet it must not land later.
    mixed.swap(3, attempts - 1);
    fences[3] = false;
    fences.push(true);
    check(&mixed, No(OutcomeUnknown), 0, &fences, &[]);
}

#[test]
fn a_whole_batch_fails_and_keeps_its_order() {
    for (outcome, answer) in [
        (Outcome::Conflict, New as fn(u64) -> Told),
        (Outcome::UnknownLost, New),
        (Outcome::UnknownLate, New),
        (Outcome::UnknownLanded, Dup),
    ] {
        let mut world = World::group(&[2, 3]);
        burst(&mut world, 0, 1, 1);
        world.run(0);
        world.outcomes.extend([Outcome::Lands, outcome]);
        let first = burst(&mut world, 0, 2, 20);
        (0..3).for_each(|_| world.step(0, 0));
        let later = burst(&mut world, 0, 22, 5);
        world.run(0);
        let expected = |tickets: &[usize], base: u64, answer: fn(u64) -> Told| {
            for (ticket, seq) in tickets.iter().zip(base..) {
                assert_eq!(told(&world, *ticket), Some(answer(seq)), "{outcome:?}");
            }
        };
        expected(&first[..1], 4, New);
        expected(&first[1..], 5, answer);
        expected(&later, 44, New);
        assert_eq!(world.store.log.len(), 53);
    }
}

#[test]
fn what_is_in_flight_and_what_waits_when_the_store_is_away() {
    let mut world = World::group(&[2, 3]);
    burst(&mut world, 0, 1, 1);
    world.run(0);
    world.outcomes.push_back(Outcome::Unavailable);
    world.loads_fail.push_back(true);
    let sends = burst(&mut world, 0, 2, 3);
    let mark = world.mark(0, by(2, 1), 1, 1);
    assert_eq!(world.marked(0, mark), Some((Ok(()), true)), "taken by the durable head");
    world.step(0, 0);
    world.step(0, 0);
    let mark = world.mark(0, by(2, 1), 2, 0);
    assert_eq!(world.marked(0, mark), None, "waits for the load");
    world.run(0);
    assert!(sends.iter().all(|t| told(&world, *t) == Some(No(Unavailable))));
    assert_eq!(world.marked(0, mark), Some((Err(Unavailable), false)));
    assert_eq!(world.store.log.len(), 3);
    world.persist(0);
    assert!(world.nodes[0].owner.is_idle(), "receipts that nobody was told do not keep it for ever");
    assert_eq!(world.send(0, by(2, 1), 2, say()).map(|ok| ok.seq), Ok(Seq(4)));

    // A load that fails after an outcome that is not known: the answer says so, and the next load still fences.
    for lands in [false, true] {
        let mut world = World::group(&[2]);
        world.nodes[0].loads.clear();
        world.outcomes.push_back(Outcome::UnknownLate);
        world.loads_fail.push_back(true);
        assert_eq!(world.send(0, by(1, 1), 2, say()), Err(OutcomeUnknown));
        assert_eq!(world.nodes[0].loads, [true]);
        if lands {
            assert_eq!(world.land_late(), 1, "before there was a fence");
        }
        let again = world.send(0, by(1, 1), 2, say());
        assert_eq!(again.map(|ok| (ok.seq, ok.duplicate)), Ok((Seq(2), lands)));
        assert_eq!(world.nodes[0].loads, [true, true]);
        assert_eq!((world.land_late(), world.store.log.len()), (0, 2));
    }
    // Nobody asks again: it is told nevertheless, or can never be there.
    for lands in [false, true] {
        let mut world = World::group(&[2]);
        world.outcomes.push_back(Outcome::UnknownLate);
        world.loads_fail.extend([true, true]);
        assert_eq!(world.send(0, by(1, 1), 2, say()), Err(OutcomeUnknown));
        if lands {
            world.land_late();
        }
        for is_unsettled in [true, true, false, false] {
            assert_eq!(world.nodes[0].owner.is_unsettled(), is_unsettled);
            assert_eq!(world.nodes[0].owner.is_idle(), !is_unsettled, "to be forgotten when all is known");
            world.settle(0);
        }
        assert_eq!((world.land_late(), world.store.log.len()), (0, 1 + usize::from(lands)));
        assert_eq!(*world.nodes[0].heads_moved, [2][..usize::from(lands)]);
    }
    // Windows that cannot be loaded.
    let mut world = World::group(&[2]);
    world.loads_fail.push_back(true);
    let sends = [world.submit(0, by(2, 1), 1, say()), world.submit(0, by(1, 1), 2, say())];
    world.run(0);
    assert_eq!(sends.map(|ticket| told(&world, ticket)), [Some(No(Unavailable)); 2]);
    assert!(world.nodes[0].owner.is_idle() && world.store.log.len() == 1);
    assert!(world.send(0, by(2, 1), 1, say()).is_ok());
}

#[test]
fn a_version_stands_for_the_head_for_a_while() {
    for (ms, stands) in [(0, true), (VERSION_LIFE_MS - 1, true), (VERSION_LIFE_MS, false)] {
        let mut world = World::group(&[2]);
        world.pass(ms);
        assert!(world.send(0, by(1, 1), 2, say()).is_ok());
        assert_eq!(world.nodes[0].commits.last(), Some(&(1, stands)), "after {ms} ms");
        world.restart(0);
        assert!(world.send(0, by(1, 1), 2, say()).is_ok());
        world.pass(ms);
        assert!(world.send(0, by(1, 1), 3, say()).is_ok());
        assert_eq!(world.nodes[0].commits.last(), Some(&(1, stands)), "{ms} ms after loading");
    }
    let mut world = World::new(direct_id());
    world.submit(0, by(1, 1), 1, say());
    world.step(0, 0);
    world.step(0, 0);
    world.outcomes.push_back(Outcome::Conflict);
    world.pass(VERSION_LIFE_MS);
    world.run(0);
    assert_eq!(world.store.log.len(), 1);
    // Old, and the head has moved since: read and compared.
    assert!(world.send(1, by(2, 1), 1, say()).is_ok());
    world.pass(VERSION_LIFE_MS);
    assert_eq!(world.send(0, by(1, 1), 2, say()).map(|ok| ok.seq), Ok(Seq(3)));
}

#[test]
fn time_never_falls() {
    let mut world = World::group(&[2]);
    let mut times = Vec::new();
    for (n, wall) in [(2, 5_000), (3, 100), (4, 5_001)] {
        world.now.wall = WallMillis(wall);
        world.restart((n % 2) as usize);
        times.push(world.send((n % 2) as usize, by(1, 1), n, say()).map(|ok| ok.time.0));
    }
    assert_eq!(times, [Ok(5_000), Ok(5_000), Ok(5_001)]);
}

#[test]
fn the_queue_is_bounded() {
    let mut world = World::group(&[2]);
    let all: Vec<_> =
        (0..CONVERSATION_QUEUE_MAX as u64 + 3).map(|n| world.submit(0, by(1, 1), n + 2, say())).collect();
    let refused = |world: &World| all.iter().filter(|t| told(world, **t) == Some(No(Overloaded))).count();
    // The first is in flight.
    assert_eq!(refused(&world), 2);
    assert_eq!(told(&world, all[all.len() - 1]), Some(No(Overloaded)));
    world.run(0);
    assert_eq!((refused(&world), world.store.log.len()), (2, CONVERSATION_QUEUE_MAX + 2));
    assert_eq!(world.nodes[0].commits.len(), 2 + CONVERSATION_QUEUE_MAX / BATCH_ENTRIES_MAX);
    assert!(world.send(0, by(1, 1), 9_999, say()).is_ok());
}

#[test]
fn it_is_idle_when_it_may_be_forgotten() {
    let mut world = World::group(&[2]);
    let idle = |world: &World| world.nodes[0].owner.is_idle();
    assert!(idle(&world));
    world.submit(0, by(1, 1), 2, say());
    assert!(!idle(&world), "a commit is in flight");
    world.run(0);
    assert!(idle(&world));
    world.submit(0, by(2, 1), 1, say());
    assert!(matches!(world.nodes[0].pending[..], [Pending::Windows(_)]) && !idle(&world));
    world.run(0);
    assert!(idle(&world));
    world.mark(0, by(2, 1), 1, 0);
    assert!(!idle(&world), "neither told nor persisted");
    world.persist(0);
    assert!(!idle(&world), "not told");
    world.nodes[0].owner.take_notices(world.now);
    assert!(idle(&world));
    world.restart(0);
    assert!(idle(&world));
    world.mark(0, by(2, 1), 1, 0);
    assert!(!idle(&world), "loading");
    world.run(0);
    assert!(idle(&world), "what is said again, the store has");
    let (now, node) = (world.now, &mut world.nodes[0]);
    let refused = Mark { ticket: Some(0), sender: by(2, 1), delivered: Seq(99), read: Seq(0) };
    node.owner.mark(now, refused);
    assert!(!node.owner.is_idle(), "an answer waits");
}

#[test]
fn windows_are_cached_within_bounds() {
    let mut world = World::new(group_id());
    let device = |n: usize| -> Sender { by(1, n as u64 + 1) };
    assert!(world.send(0, device(0), 1, create(&[])).is_ok());
    assert_eq!(MEMBERS_MAX * 4, WINDOWS_CACHED_MAX);
    let cached = |world: &World| match &world.nodes[0].owner.phase {
        Phase::Ready(known) => known.windows.len(),
        phase => panic!("{phase:?}"),
    };
    for n in 1..=WINDOWS_CACHED_MAX + 50 {
        world.submit(0, device(n), 1, say());
        if n % 64 == 0 {
            world.run(0);
            assert!(cached(&world) <= WINDOWS_CACHED_MAX, "{}", cached(&world));
        }
    }
    world.run(0);
    assert!(cached(&world) < WINDOWS_CACHED_MAX / 2, "they were forgotten in between");
    let retry = world.send(0, device(1), 1, say());
    assert_eq!(retry.map(|ok| (ok.seq, ok.duplicate)), Ok((Seq(2), true)), "and are loaded again");
    // One load asks for everybody who waits, once each.
    world.nodes[0].windows_asked.clear();
    world.restart(0);
    for n in 1..=3 * IN_FLIGHT_MAX {
        world.submit(0, device(n), 2, say());
        world.submit(0, device(n), 3, say());
    }
    world.run(0);
    assert_eq!(
        world.nodes[0].windows_asked,
        [BATCH_ENTRIES_MAX / 2, 3 * IN_FLIGHT_MAX - BATCH_ENTRIES_MAX / 2]
    );
}
