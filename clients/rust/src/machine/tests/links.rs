//! Logging in, tokens, links that die, and how long an answer is waited for.

use std::time::Duration;

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, SyncPage, WireError};
use tern_protocol::ids::{ConversationId, UserId};
use tern_protocol::model::Target;
use tern_protocol::request::RequestBody;

use super::super::{Output, Settings, Ticket};
use super::model::{error, me, message};
use super::rig::{Rig, seconds, stored, with_cursor};
use crate::event::{ConnectionState, Lost, Stop};
use crate::storage::{Record, State};

#[test]
fn an_answer_of_a_newer_kind_fails_its_request() {
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.mark_read(3);
    for _ in 0..5 {
        let asked = rig.sent.iter().rfind(|r| r.id.get() > 0).unwrap().id;
        rig.other.clear();
        rig.receive(asked, ServerBody::Unknown);
        if rig.other.is_empty() {
            rig.advance(seconds(20));
        }
    }
    let failed =
        |o: &Output| matches!(o, Output::Answer { result: Err(e), .. } if e.code == ErrorCode::Internal);
    assert!(rig.other.iter().any(failed), "{:?}", rig.other);
}

#[test]
fn a_new_device_numbers_its_sends_at_the_first_login() {
    let mut rig = Rig::new(Rig::usual(), State::default());
    rig.machine.send(rig.now, Ticket(1), Target::User(UserId::from_sub("bob")), message("hi"));
    assert!(!rig.other.iter().any(|o| matches!(o, Output::Persist(_))));
    rig.connect();
    let direct = ConversationId::direct(me(), UserId::from_sub("bob"));
    assert!(
        rig.other.iter().any(
            |o| matches!(o, Output::Persist(Record::Send { conversation, .. }) if *conversation == direct)
        )
    );
    assert_eq!(rig.numbers(), [1]);
}

#[test]
fn what_ends_a_client_and_what_does_not() {
    #[track_caller]
    fn check(code: ErrorCode, refreshes: bool, stops: bool) {
        let settings = Settings { token_refreshes: refreshes, ..Rig::usual() };
        let mut rig = Rig::online(settings, State::default());
        rig.states();
        rig.event(error(code, 0));
        let stopped = matches!(rig.states()[..], [ConnectionState::Stopped(_)]);
        assert_eq!(stopped, stops, "{code}");
        rig.advance(seconds(100));
        let connects = rig.other.iter().any(|o| matches!(o, Output::Connect { .. }));
        assert_eq!(connects, !stops, "{code}");
    }
    check(ErrorCode::TakenOver, true, true);
    check(ErrorCode::UnsupportedVersion, true, true);
    check(ErrorCode::TokenInvalid, false, true);
    check(ErrorCode::TokenExpired, false, true);
    check(ErrorCode::TokenInvalid, true, false);
    check(ErrorCode::TokenExpired, true, false);
    check(ErrorCode::IdleTimeout, false, false);
    check(ErrorCode::GoingAway, false, false);
    check(ErrorCode::Malformed, false, false);
}

#[test]
fn a_late_login_of_its_own_does_not_end_a_client() {
    #[derive(Clone, Copy)]
    enum First {
        /// The login went unanswered until the client gave up.
        Silent,
        /// The connection broke before the login was answered.
        Broken,
        /// The login was answered with an error.
        Refused,
        /// No connection came about.
        Unreachable,
        /// Logged in, and lost later.
        Online,
    }
    // The taken_over comes so many seconds after the first connection was lost.
    #[track_caller]
    fn check(first: First, after: u64, stops: bool) {
        let mut rig = Rig::new(Rig::usual(), State::default());
        match first {
            First::Silent | First::Broken | First::Refused => {
                rig.machine.connected(rig.now, "token".into(), false);
                rig.drain();
            }
            First::Online => rig.connect(),
            First::Unreachable => {}
        }
        rig.states();
        match first {
            First::Silent => rig.advance(seconds(20)),
            First::Refused => rig.event(error(ErrorCode::Overloaded, 0)),
            First::Broken | First::Unreachable | First::Online => {
                rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
                rig.drain();
            }
        }
        assert!(matches!(rig.states()[..], [ConnectionState::Offline { .. }]));
        rig.advance(seconds(1));
        rig.connect();
        for _ in 1..after {
            rig.advance(seconds(1));
            rig.machine.received_heartbeat(rig.now);
        }
        rig.states();
        rig.event(error(ErrorCode::TakenOver, 0));
        assert_eq!(rig.machine.stopped().is_some(), stops);
        if stops {
            return;
        }
        assert!(matches!(rig.states()[..], [ConnectionState::Offline { .. }]));
        // Once: the second time it is somebody else.
        rig.advance(seconds(1));
        rig.connect();
        rig.event(error(ErrorCode::TakenOver, 0));
        assert_eq!(rig.machine.stopped(), Some(&Stop::TakenOver));
    }
    check(First::Silent, 1, false);
    check(First::Broken, 1, false);
    check(First::Silent, 15, false);
    check(First::Silent, 16, true);
    check(First::Refused, 1, true);
    check(First::Unreachable, 1, true);
    check(First::Online, 1, true);
}

#[test]
fn a_refused_token_is_replaced_but_not_for_ever() {
    let settings = Settings { token_refreshes: true, ..Rig::usual() };
    let mut rig = Rig::new(settings, State::default());
    for _ in 0..10 {
        rig.machine.connected(rig.now, "token".into(), false);
        rig.drain();
        rig.sent.clear();
        rig.other.clear();
        rig.event(error(ErrorCode::TokenExpired, 0));
        rig.advance(seconds(100));
        if rig.machine.stopped().is_some() {
            return;
        }
        assert!(rig.other.contains(&Output::Connect { fresh_token: true, hints: Vec::new() }));
    }
    panic!("asks for tokens for ever");
}

#[test]
fn another_user_s_token_is_not_let_near_the_state() {
    let mut state = State::default();
    state.apply(&Record::User(UserId::from_sub("somebody")));
    let mut rig = Rig::new(Rig::usual(), state);
    rig.connect();
    assert!(matches!(rig.machine.stopped(), Some(Stop::AnotherUser { .. })));
}

#[test]
fn dead_links_are_found() {
    // Silence after a heartbeat.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.states();
    rig.advance(seconds(53));
    assert_eq!(rig.other, []);
    rig.advance(seconds(2));
    assert_eq!(rig.other, [Output::Heartbeat]);
    rig.machine.received_heartbeat(rig.now + seconds(1));
    rig.advance(seconds(12));
    assert_eq!(rig.other, [Output::Heartbeat], "answered: all is well");
    rig.advance(seconds(50));
    rig.advance(seconds(11));
    assert!(matches!(rig.states()[..], [ConnectionState::Offline { reason: Lost::Silent, .. }]));

    // An answer that does not come, on a link that lives.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.send(1);
    rig.states();
    for _ in 0..31 {
        rig.advance(seconds(1));
        rig.machine.received_heartbeat(rig.now);
    }
    assert!(matches!(rig.states()[0], ConnectionState::Offline { reason: Lost::Silent, .. }));
}

#[test]
fn an_answer_is_waited_for_while_any_of_it_comes() {
    // Parts every so many seconds, until then; when the link is given up, if it is before 200 s.
    #[track_caller]
    fn check(bulk: bool, part_every: u64, until: u64, lost_at: Option<u64>) {
        let mut rig = Rig::online(Rig::usual(), with_cursor(4));
        if bulk {
            rig.push(9);
        } else {
            rig.send(1);
        }
        let id = rig.sent.last().unwrap().id;
        rig.states();
        for second in 1..=200 {
            rig.advance(seconds(1));
            if let Some(ConnectionState::Offline { reason, .. }) = rig.states().first() {
                assert_eq!((reason, Some(second)), (&Lost::Silent, lost_at));
                return;
            }
            // The link itself lives.
            rig.machine.received_heartbeat(rig.now);
            if second % part_every == 0 && second <= until {
                rig.machine.heard(rig.now);
            }
        }
        assert_eq!(lost_at, None);
        if bulk {
            rig.page(id, 1, 9, 5..=9);
            assert_eq!(rig.seqs(), [5, 6, 7, 8, 9]);
        } else {
            rig.receive(id, stored(5));
            assert!(rig.machine.is_settled());
        }
    }
    for bulk in [false, true] {
        check(bulk, 1, 200, None);
        check(bulk, 29, 200, None);
        check(bulk, 1, 75, Some(105));
        check(bulk, 20, 75, Some(90));
        check(bulk, 31, 200, Some(30));
        check(bulk, 1, 0, Some(30));
    }
}

#[test]
fn who_waits_for_an_answer_keeps_talking() {
    // (at, what happens), in milliseconds; when heartbeats go out.
    #[derive(Clone, Copy)]
    enum Do {
        Send,
        Query,
        Hear,
        Answer,
    }
    #[track_caller]
    fn check(what: &[(u64, Do)], until: u64, expected: &[u64]) {
        let mut rig = Rig::online(Rig::usual(), State::default());
        let (mut beats, mut what) = (Vec::new(), what.iter().peekable());
        rig.other.clear();
        loop {
            // As a driver does: only when it is due, or when something happens.
            let due = rig.machine.next_timeout().unwrap();
            let next = what.peek().map_or(due, |(at, _)| due.min(Duration::from_millis(*at)));
            if next > Duration::from_millis(until) {
                break;
            }
            assert!(next >= rig.now, "a timer in the past");
            rig.advance(next - rig.now);
            if let Some((_, event)) = what.next_if(|(at, _)| Duration::from_millis(*at) <= next) {
                match event {
                    Do::Send => rig.send(next.as_millis() as u64),
                    Do::Query => rig.mark_read(1),
                    Do::Hear => rig.machine.received_heartbeat(rig.now),
                    Do::Answer => {
                        let (id, seq) = rig.sends()[0];
                        rig.receive(id, stored(seq));
                    }
                }
            }
            for output in std::mem::take(&mut rig.other) {
                if output == Output::Heartbeat {
                    beats.push(rig.now.as_millis() as u64);
                }
            }
        }
        assert_eq!(beats, expected);
    }
    use Do::{Answer, Hear, Query, Send};
    // Nothing is unanswered: only the regular ones (a tenth before the 60 s).
    check(&[], 50_000, &[]);
    check(&[(1_000, Send), (1_500, Answer)], 50_000, &[]);
    check(&[], 54_500, &[54_000]);
    // Unanswered: every 2 s, until the link is dead, 10 s after the first.
    check(&[(1_000, Send)], 12_900, &[3_000, 5_000, 7_000, 9_000, 11_000]);
    check(&[(1_000, Query)], 6_000, &[3_000, 5_000]);
    // What else is sent does not put them off: it may be what goes unheard.
    check(&[(1_000, Send), (2_500, Send), (4_500, Send)], 6_000, &[3_000, 5_000]);
    // Heard something, still unanswered: 2 s of silence again.
    check(&[(1_000, Send), (2_900, Hear)], 6_000, &[4_900]);
    check(&[(1_000, Send), (3_100, Hear), (5_200, Hear)], 7_000, &[3_000, 5_100]);
    // Answered: no more.
    check(&[(1_000, Send), (3_100, Answer)], 50_000, &[3_000]);
}

#[test]
fn waits_grow_are_jittered_and_heed_advice() {
    let mut rig = Rig::new(Rig::usual(), State::default());
    let mut waits = Vec::new();
    for _ in 0..12 {
        rig.other.clear();
        rig.machine.disconnected(rig.now, Lost::Unreachable("no".into()));
        rig.drain();
        let [ConnectionState::Offline { retry_in, .. }] = rig.states()[..] else { panic!() };
        waits.push(retry_in);
        rig.advance(retry_in);
    }
    assert!(waits[0] <= Duration::from_millis(250) && waits[0] >= Duration::from_millis(125));
    assert!(waits[11] <= seconds(30) && waits[11] >= seconds(15));

    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.states();
    let targets = vec!["b:1".to_owned(), "c:1".to_owned()];
    rig.event(ServerBody::GoingAway { reconnect_after_ms: 8000, targets: targets.clone() });
    let [ConnectionState::Offline { reason: Lost::GoingAway, retry_in }] = rig.states()[..] else { panic!() };
    assert!(retry_in >= seconds(8) && retry_in <= seconds(10));

    // It goes where it was told to go, and when that has failed, where it would go by itself.
    for hints in [targets, Vec::new()] {
        rig.other.clear();
        rig.advance(seconds(60));
        let connect = Output::Connect { fresh_token: false, hints };
        assert_eq!(rig.other[0], connect);
        rig.other.clear();
        rig.machine.network_changed(rig.now);
        rig.drain();
        assert_eq!(rig.other[0], connect, "anew, from another network");
        rig.machine.disconnected(rig.now, Lost::Unreachable("no".into()));
        rig.drain();
    }

    // Requests under way may end first.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.send(1);
    rig.states();
    rig.event(ServerBody::GoingAway { reconnect_after_ms: 0, targets: Vec::new() });
    rig.send(2);
    let sends = rig.sends();
    assert_eq!(sends.len(), 1);
    rig.receive(sends[0].0, stored(1));
    assert!(rig.states().iter().any(|s| matches!(s, ConnectionState::Offline { .. })));
}

#[test]
fn queries_are_repeated_and_given_up() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    let list =
        RequestBody::ListConversations(tern_protocol::request::ListConversations { after: None, limit: 9 });
    rig.machine.query(rig.now, Ticket(5), list.clone());
    rig.drain();
    rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
    rig.advance(seconds(1));
    rig.connect();
    rig.answer_sync(SyncPage { conversations: Vec::new(), covered_until: None });
    for _ in 0..5 {
        let at = rig.sent.iter().position(|r| r.body == list).expect("asked again");
        let request = rig.sent.remove(at);
        rig.other.clear();
        rig.receive(request.id, error(ErrorCode::Unavailable, 0));
        if rig.other.is_empty() {
            rig.advance(seconds(20));
        }
    }
    let gave_up = |o: &Output| {
        matches!(
            o,
            Output::Answer { ticket: Ticket(5), result: Err(WireError { code: ErrorCode::Unavailable, .. }) }
        )
    };
    assert!(rig.other.iter().any(gave_up), "{:?}", rig.other);
}
