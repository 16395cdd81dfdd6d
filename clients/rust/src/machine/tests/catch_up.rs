//! Entries: handed over once and in order, with no gap, whatever the server answers.

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ConversationState, ServerBody, SyncPage};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use tern_protocol::limits::{FRAME_BEFORE_LOGIN_BYTES_MAX, SYNC_KNOWN_BEFORE_LOGIN_MAX, SYNC_KNOWN_MAX};
use tern_protocol::model::Role;
use tern_protocol::request::{Known, RequestBody};

use super::super::{ConversationProgress, Output, Settings};
use super::model::{Server, World, entry, error, group, login_ok, me};
use super::rig::{Rig, line, seconds, stored, with_cursor};
use crate::event::Event;
use crate::storage::{Marks, Record, State};

#[test]
fn pushes_are_handed_over_once_and_in_order() {
    #[track_caller]
    fn check(cursor: u64, pushed: &[u64], handed: &[u64], pulled: &[u64]) {
        let state = if cursor == 0 { State::default() } else { with_cursor(cursor) };
        let mut rig = Rig::online(Rig::usual(), state);
        pushed.iter().for_each(|s| rig.push(*s));
        assert_eq!(rig.seqs(), handed);
        assert_eq!(rig.pulls().iter().map(|p| p.1).collect::<Vec<_>>(), pulled);
    }
    check(0, &[1, 2, 3], &[1, 2, 3], &[]);
    check(4, &[5, 5, 4, 6], &[5, 6], &[]);
    // From long ago: is it a duplicate, or another log? The server is asked, once.
    check(4, &[5, 5, 4, 1, 2, 6], &[5, 6], &[6]);
    check(4, &[6], &[], &[5]);
    check(4, &[6, 7, 9], &[], &[5]);
    check(4, &[6, 7, 5], &[5, 6, 7], &[5]);
    check(0, &[57], &[], &[1]);
}

#[test]
fn a_gap_is_filled_by_history_and_what_was_held_back_follows() {
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.push(8);
    let pull = rig.pulls()[0].0;
    rig.page(pull, 1, 8, [5, 6]);
    assert_eq!(rig.seqs(), [5, 6]);
    let (pull, from) = rig.pulls()[0];
    assert_eq!(from, 7);
    rig.push(9);
    rig.page(pull, 1, 8, [7]);
    assert_eq!(rig.seqs(), [7, 8, 9]);
    assert_eq!(rig.pulls(), []);
    // An answer given twice is an answer to nobody.
    rig.page(pull, 1, 9, [7]);
    assert_eq!(rig.seqs(), []);
}

#[test]
fn the_floor_moves_the_cursor() {
    // New to this device, a member since 57: nothing is lost.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.push(58);
    let (pull, from) = rig.pulls()[0];
    assert_eq!(from, 1);
    rig.page(pull, 57, 58, [57]);
    assert_eq!(rig.seqs(), [57, 58]);

    // What is left of a log is above all that this user may see: the cursor goes to the head, and no further.
    let mut rig = Rig::new(Rig::usual(), with_cursor(4));
    rig.connect();
    let gone = ConversationState { floor: Seq(50), role: None, ..line(group(1), 9, 0) };
    rig.answer_sync(SyncPage { conversations: vec![gone], covered_until: None });
    let events: Vec<_> = std::iter::from_fn(|| rig.machine.poll_event(rig.now)).collect();
    assert!(events.contains(&Event::Trimmed { conversation: group(1), from: Seq(5), to: Seq(9) }));
    assert_eq!(events.last(), Some(&Event::CaughtUp));
    assert_eq!(rig.pulls(), []);
    rig.reconnect();
    assert_eq!(rig.known(), [(group(1), 9, Marks::default())]);

    // Trimmed below the device's feet: the app is told.
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(20) });
    let pull = rig.pulls()[0].0;
    rig.page(pull, 19, 20, [19, 20]);
    let trimmed = Event::Trimmed { conversation: group(1), from: Seq(5), to: Seq(18) };
    let events: Vec<_> = std::iter::from_fn(|| rig.machine.poll_event(rig.now)).collect();
    assert!(events.contains(&trimmed), "{events:?}");
}

/// A head below what the device had before the connection: the server's store was replaced.
#[test]
fn another_log_is_read_from_its_floor() {
    #[derive(Debug, Clone, Copy)]
    enum Told {
        /// By the sync: the head, and whether the membership is active.
        Sync(u64, bool),
        /// The log has begun after the sync.
        Hint(u64),
        Push(u64),
    }
    #[track_caller]
    fn check(cursor: u64, told: Told, floor: u64, reset: bool) {
        let marks = Marks { read: Seq(cursor), ..Marks::default() };
        let mut disk = with_cursor(cursor);
        disk.apply(&Record::Cursor { conversation: group(1), seq: Seq(cursor), marks });
        disk.apply(&Record::Next { conversation: group(1), next: ClientSeq(31) });
        let mut rig = Rig::new(Rig::usual(), disk.clone());
        rig.connect();
        let none = SyncPage { conversations: vec![], covered_until: None };
        let head = match told {
            Told::Sync(head, active) => {
                let role = active.then_some(Role::Member);
                let line = ConversationState { role, floor: Seq(floor), ..line(group(1), head, 1) };
                rig.answer_sync(SyncPage { conversations: vec![line], covered_until: None });
                head
            }
            Told::Hint(head) => {
                rig.answer_sync(none);
                rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(head) });
                head
            }
            Told::Push(head) => {
                rig.answer_sync(none);
                rig.push(head);
                head
            }
        };
        for _ in 0..5 {
            for (pull, from) in rig.pulls() {
                rig.page(pull, floor, head, from.max(floor)..=head);
            }
        }
        let mut resets = Vec::new();
        let mut seqs = Vec::new();
        while let Some(event) = rig.machine.poll_event(rig.now) {
            if let Some(progress) = rig.machine.progress(&event) {
                rig.machine.taken(rig.now, progress);
            }
            rig.drain();
            match event {
                Event::Reset { conversation, cursor, head } => {
                    assert!(seqs.is_empty(), "{told:?}");
                    resets.push((conversation, cursor.get(), head.get()));
                }
                Event::Entry { entry, .. } => seqs.push(entry.seq.get()),
                Event::Trimmed { .. } => panic!("{event:?}"),
                _ => {}
            }
        }
        rig.take_all(&mut disk);
        let stored = &disk.conversations[&group(1)];
        assert_eq!(stored.next, ClientSeq(31), "numbers only rise");
        if reset {
            assert_eq!(resets, [(group(1), cursor, head)], "{told:?}");
            assert_eq!(seqs, (floor..=head).collect::<Vec<_>>(), "{told:?}");
            assert_eq!(stored.cursor, Seq(head));
            assert!(stored.marks.read <= Seq(head));
        } else {
            assert_eq!((resets, seqs), (vec![], vec![]), "{told:?}");
            assert_eq!(stored.cursor, Seq(cursor));
        }
        // It goes on as usual, and after the next login nothing is told again.
        let next = stored.cursor.get() + 1;
        rig.push(next);
        assert_eq!(rig.seqs(), [next]);
        rig.reconnect();
        assert_eq!(rig.known()[0].1, next);
        rig.answer_sync(SyncPage { conversations: vec![], covered_until: None });
        rig.push(next + 1);
        assert_eq!(rig.seqs(), [next + 1]);
        rig.send(1);
        assert_eq!(rig.numbers(), [31]);
    }
    check(4, Told::Sync(1, true), 1, true);
    check(4, Told::Sync(3, true), 1, true);
    check(4, Told::Sync(3, true), 2, true);
    check(9, Told::Sync(1, true), 1, true);
    check(4, Told::Hint(1), 1, true);
    check(4, Told::Hint(3), 1, true);
    check(4, Told::Push(1), 1, true);
    check(4, Told::Push(3), 2, true);
    check(4, Told::Sync(4, true), 1, false);
    check(4, Told::Hint(4), 1, false);
    check(4, Told::Push(4), 1, false);
    // No member any more: there is nothing new to miss.
    check(4, Told::Sync(3, false), 1, false);
}

#[test]
fn a_page_from_before_the_last_pushes_is_no_other_log() {
    let mut rig = Rig::new(Rig::usual(), with_cursor(4));
    rig.connect();
    (5..=7).for_each(|seq| rig.push(seq));
    rig.answer_sync(SyncPage { conversations: vec![line(group(1), 5, 0)], covered_until: None });
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(6) });
    assert_eq!(rig.pulls(), []);
    // An old push that came late: the page says that all is well.
    rig.push(2);
    let pull = rig.pulls()[0].0;
    rig.page(pull, 1, 7, []);
    rig.push(1);
    assert_eq!(rig.pulls(), []);
    assert_eq!(rig.seqs(), [5, 6, 7]);
}

#[test]
fn a_reset_that_was_not_taken_is_told_again() {
    let mut disk = with_cursor(4);
    for _ in 0..2 {
        let mut rig = Rig::new(Rig::usual(), disk.clone());
        rig.connect();
        assert_eq!(rig.known()[0].1, 4);
        rig.answer_sync(SyncPage { conversations: vec![line(group(1), 1, 0)], covered_until: None });
        let (pull, from) = rig.pulls()[0];
        assert_eq!(from, 1);
        rig.page(pull, 1, 1, [1]);
        assert!(
            std::iter::from_fn(|| rig.machine.poll_event(rig.now)).any(|e| matches!(e, Event::Reset { .. }))
        );
        for output in &rig.other {
            if let Output::Persist(record) = output {
                disk.apply(record);
            }
        }
    }
    let mut rig = Rig::new(Rig::usual(), disk.clone());
    rig.connect();
    rig.answer_sync(SyncPage { conversations: vec![line(group(1), 1, 0)], covered_until: None });
    rig.take_all(&mut disk);
    assert_eq!(disk.conversations[&group(1)].cursor, Seq(0));
}

/// As the driver merges what the app has taken.
#[test]
fn what_was_taken_before_a_reset_does_not_count() {
    let progress = |reset, seq| ConversationProgress {
        conversation: group(1),
        reset,
        seq: Seq(seq),
        marks: Marks::default(),
    };
    for (steps, sum) in [
        (vec![(false, 3), (false, 4)], (false, 4)),
        (vec![(false, 4), (true, 0)], (true, 0)),
        (vec![(false, 4), (true, 0), (false, 1)], (true, 1)),
        (vec![(true, 0), (false, 2), (true, 0), (false, 1)], (true, 1)),
    ] {
        let mut steps = steps.into_iter().map(|(reset, seq)| progress(reset, seq));
        let mut merged = steps.next().unwrap();
        steps.for_each(|step| merged.add(step));
        assert_eq!(merged, progress(sum.0, sum.1));
    }
}

#[test]
fn one_pull_at_a_time_and_none_for_ever() {
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(9) });
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(10) });
    rig.push(12);
    let mut pulls = rig.pulls();
    assert_eq!(pulls.len(), 1);
    // The server has nothing of what was announced.
    let mut asked = 0;
    while let Some((pull, _)) = pulls.pop() {
        asked += 1;
        assert!(asked < 10);
        rig.page(pull, 1, 4, []);
        rig.advance(seconds(20));
        pulls = rig.pulls();
    }
    assert!(asked > 1);

    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.push(9);
    let pull = rig.pulls()[0].0;
    rig.receive(pull, error(ErrorCode::Overloaded, 3000));
    assert_eq!(rig.pulls(), []);
    rig.advance(seconds(4));
    let pull = rig.pulls()[0].0;
    rig.receive(pull, error(ErrorCode::NotMember, 0));
    rig.advance(seconds(60));
    assert_eq!(rig.pulls(), []);
}

#[test]
fn gaps_wait_for_the_sync_that_fills_them() {
    let mut rig = Rig::new(Rig::usual(), with_cursor(4));
    rig.connect();
    rig.push(7);
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(8) });
    assert_eq!(rig.pulls(), []);
    let mut model = Server { page: 2, ..Server::default() };
    (0..8).for_each(|_| drop(model.append(group(1), entry(0, "theirs"))));
    // The page ends below the head: history goes on.
    let at = rig.sent.iter().position(|r| matches!(r.body, RequestBody::Sync(_))).unwrap();
    let RequestBody::Sync(sync) = rig.sent[at].body.clone() else { unreachable!() };
    assert_eq!(sync.known, [Known::entries(group(1), Seq(4))]);
    let page = model.sync_page(sync);
    rig.answer_sync(page);
    assert_eq!(rig.seqs(), [5, 6, 7]);
    assert_eq!(rig.pulls()[0].1, 8);
}

#[test]
fn a_large_sync_goes_page_by_page() {
    let mut world = World::new(Server { page: 2, ..Server::default() });
    for c in 0..9 {
        (0..5).for_each(|n| drop(world.server.append(group(c), entry(n, "theirs"))));
    }
    world.settle();
    world.check();
    assert!(world.server.known_seen.len() >= 5, "{:?}", world.server.known_seen);
}

#[test]
fn a_list_that_does_not_fit_before_login_waits_for_it() {
    let state = |n: usize| {
        let mut state = State::default();
        let most = Seq(u64::MAX - 1);
        let marks = Marks { read: most, peer_delivered: most, peer_read: most };
        for i in 0..n {
            let conversation = ConversationId::direct(me(), UserId::from_sub(&i.to_string()));
            state.apply(&Record::Cursor { conversation, seq: most, marks });
        }
        state
    };
    let early_max = SYNC_KNOWN_BEFORE_LOGIN_MAX;
    let many = SYNC_KNOWN_MAX + 10_000;
    for (known, early) in [(3, true), (early_max, true), (early_max + 1, false), (many, false)] {
        let mut rig = Rig::new(Rig::usual(), state(known));
        rig.machine.connected(rig.now, "token".into(), false);
        rig.drain();
        assert_eq!(rig.sent.len() == 2, early, "{known}");
        if early {
            let bytes = tern_protocol::convert::encode_request(&rig.sent[1]);
            assert!(bytes.len() <= FRAME_BEFORE_LOGIN_BYTES_MAX);
        }
        rig.receive(RequestId(1), login_ok(64));
        let syncs: Vec<_> = rig
            .sent
            .iter()
            .filter_map(|r| if let RequestBody::Sync(s) = &r.body { Some((r.id, s.clone())) } else { None })
            .collect();
        assert_eq!(syncs.len(), 1);
        if known == many {
            assert_eq!(syncs[0].1.known.len(), SYNC_KNOWN_MAX);
            rig.receive(
                syncs[0].0,
                ServerBody::SyncPage(SyncPage { conversations: vec![], covered_until: None }),
            );
            let RequestBody::Sync(next) = &rig.sent.last().unwrap().body else { panic!() };
            assert_eq!((next.known.len(), next.after), (10_000, syncs[0].1.until));
        }
    }
}

#[test]
fn an_app_that_does_not_read_costs_a_bounded_amount_and_loses_nothing() {
    let settings = Settings { events_max: 10, ..Rig::usual() };
    let mut rig = Rig::online(settings, with_cursor(4));
    rig.send(1);
    let send = rig.sends()[0].0;
    rig.other.clear();
    (5..500).for_each(|seq| rig.push(seq));
    assert!(rig.machine.events.len() <= 11);
    assert_eq!(rig.pulls(), []);
    // Its sends go on.
    rig.receive(send, stored(500));
    assert!(rig.other.iter().any(|o| matches!(o, Output::Sent { result: Ok(_), .. })));
    let handed = rig.seqs();
    let next = handed.last().unwrap() + 1;
    let (pull, from) = rig.pulls()[0];
    assert_eq!(from, next);
    rig.page(pull, 1, 500, next..=500);
    assert_eq!(rig.seqs(), (next..=500).collect::<Vec<_>>());
}

#[test]
fn own_messages_need_no_push() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.send(1);
    let id = rig.sends()[0].0;
    rig.receive(id, stored(1));
    rig.push(1);
    rig.push(2);
    assert_eq!(rig.seqs(), [1, 2]);
    assert_eq!(rig.pulls(), []);
}

#[test]
fn caught_up_is_said_once_and_last() {
    let mut world = World::new(Server { page: 1, ..Server::default() });
    (0..6).for_each(|n| drop(world.server.append(group(1), entry(n, "theirs"))));
    while !world.to_server.is_empty() || !world.to_client.is_empty() {
        world.server_step();
        world.deliver(0);
    }
    let events: Vec<_> = std::iter::from_fn(|| world.machine.poll_event(world.now)).collect();
    assert_eq!(events.last(), Some(&Event::CaughtUp));
    assert_eq!(events.iter().filter(|e| **e == Event::CaughtUp).count(), 1);
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Entry { .. })).count(), 6);
}
