//! What is sent: numbers, order, refusals.

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, WireError};
use tern_protocol::ids::ClientSeq;
use tern_protocol::model::Target;

use super::super::{Output, Ticket};
use super::model::{error, group, message};
use super::rig::{Rig, seconds, stored};
use crate::event::Lost;
use crate::storage::{Record, State};

#[test]
fn sends_are_pipelined_within_bounds_and_repeated_under_their_numbers() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    (1..=100).for_each(|n| rig.send(n));
    let first = rig.sends();
    assert_eq!(first.iter().map(|s| s.1).collect::<Vec<_>>(), [1], "the first of a run goes alone");
    rig.receive(first[0].0, stored(1));
    assert_eq!(rig.numbers(), (2..=33).collect::<Vec<_>>());
    rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
    rig.advance(seconds(1));
    rig.connect();
    assert_eq!(rig.numbers(), (2..=33).collect::<Vec<_>>());

    // Other conversations get their turn, up to the connection's bound.
    for c in 2..40 {
        for n in 0..9 {
            let ticket = Ticket(u64::from(c) * 1000 + n);
            rig.machine.send(rig.now, ticket, Target::Conversation(group(c)), message("x"));
        }
    }
    rig.drain();
    assert_eq!(rig.numbers().len(), 64 - 8 - 32);
}

#[test]
fn later_holds_back_all_that_is_younger() {
    let mut rig = Rig::sending();
    (2..=4).for_each(|n| rig.send(n));
    let sends = rig.sends();
    rig.receive(sends[0].0, error(ErrorCode::Overloaded, 2000));
    rig.send(5);
    rig.receive(sends[1].0, error(ErrorCode::Overloaded, 0));
    rig.advance(seconds(5));
    assert_eq!(rig.numbers(), [0; 0], "the third is not decided yet");
    rig.receive(sends[2].0, error(ErrorCode::OutcomeUnknown, 0));
    rig.advance(seconds(1));
    let alone = rig.sends();
    assert_eq!(alone.iter().map(|s| s.1).collect::<Vec<_>>(), [2]);
    rig.receive(alone[0].0, stored(2));
    assert_eq!(rig.numbers(), [3, 4, 5]);
}

#[test]
fn sends_that_are_refused_together_wait_once() {
    let mut rig = Rig::sending();
    (2..=20).for_each(|n| rig.send(n));
    for (id, _) in rig.sends() {
        rig.receive(id, error(ErrorCode::Overloaded, 500));
    }
    rig.advance(seconds(1));
    assert_eq!(rig.numbers(), [2], "not the wait of twenty failures in a row");
}

#[test]
fn stale_gets_a_new_number_in_one_record() {
    let mut rig = Rig::sending();
    (2..=3).for_each(|n| rig.send(n));
    let sends = rig.sends();
    rig.receive(sends[0].0, error(ErrorCode::Unavailable, 0));
    rig.receive(sends[1].0, stored(2));
    rig.other.clear();
    rig.advance(seconds(1));
    let again = rig.sends();
    assert_eq!(again[0].1, 2);
    rig.receive(again[0].0, error(ErrorCode::ClientSeqStale, 0));
    let renumbered = Record::Renumbered { conversation: group(1), old: ClientSeq(2), new: ClientSeq(4) };
    assert_eq!(rig.other, [Output::Persist(renumbered)]);
    let (id, number) = rig.sends()[0];
    assert_eq!(number, 4);
    rig.other.clear();
    rig.receive(id, stored(3));
    assert!(rig.other.iter().any(|o| matches!(o, Output::Sent { ticket: Ticket(2), result: Ok(_) })));
    assert!(rig.machine.is_settled());
}

/// A device that numbers as it did before goes on above what the server has, in its order, each message once.
#[test]
fn used_numbers_are_left_behind_in_order() {
    let used = |highest| {
        let ServerBody::Error(error) = error(ErrorCode::ClientSeqUsed, 0) else { unreachable!() };
        ServerBody::Error(WireError { client_seq: ClientSeq(highest), ..error })
    };
    // (what the server has, whether it says so, after how many tries everything is stored at the latest)
    for (mut highest, says, tries) in
        [(500, true, 6), (2, true, 6), (2, false, 12), (500, false, 40), (0, true, 3)]
    {
        let mut rig = Rig::online(Rig::usual(), State::default());
        (1..=3).for_each(|n| rig.send(n));
        let (mut stored_texts, mut tried) = (Vec::new(), 0);
        for _ in 0..200 {
            for (id, send) in rig.whole_sends() {
                tried += 1;
                if send.client_seq.get() > highest {
                    highest = send.client_seq.get();
                    stored_texts.push(send.change);
                    rig.receive(id, stored(stored_texts.len() as u64));
                } else {
                    rig.receive(id, used(if says { highest } else { u64::MAX }));
                }
            }
            assert!(tried <= tries, "{tried} tries");
            rig.wait_online();
        }
        assert!(rig.machine.is_settled(), "{highest} {says}");
        assert_eq!(stored_texts, [message("1"), message("2"), message("3")], "{highest} {says}");
    }
}

#[test]
fn a_server_that_likes_no_number_is_given_up() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.send(1);
    let mut tries = 0;
    for _ in 0..100 {
        let sends = rig.sends();
        tries += sends.len();
        sends.into_iter().for_each(|(id, _)| rig.receive(id, error(ErrorCode::ClientSeqUsed, 0)));
        if rig.machine.is_settled() {
            break;
        }
        rig.wait_online();
    }
    assert_eq!(tries, 17, "as often as it has numbers, and no more");
    assert!(rig.other.iter().any(|o| matches!(o, Output::Sent { ticket: Ticket(1), result: Err(_) })));
}

#[test]
fn a_refusal_for_good_ends_a_send() {
    let by_number = [ErrorCode::ClientSeqStale, ErrorCode::ClientSeqUsed];
    for code in ErrorCode::ALL.iter().filter(|c| !c.closes()) {
        let mut rig = Rig::online(Rig::usual(), State::default());
        rig.send(1);
        let id = rig.sends()[0].0;
        rig.other.clear();
        rig.receive(id, error(*code, 0));
        let told = rig.other.iter().any(|o| matches!(o, Output::Sent { result: Err(_), .. }));
        let for_good = code.retry() == tern_protocol::error::Retry::Never && !by_number.contains(code);
        assert_eq!(told, for_good, "{code}");
        rig.advance(seconds(40));
        let expected: &[u64] = match code {
            _ if for_good => &[],
            code if by_number.contains(code) => &[2],
            _ => &[1],
        };
        assert_eq!(rig.numbers(), expected, "{code}");
    }
}

#[test]
fn internal_ends_a_send_after_some_tries_and_what_is_behind_it_goes_on() {
    // Answers to the first send, until it is decided; how often it went out, whether it was given up.
    #[track_caller]
    fn check(answers: &[ServerBody], tries: usize, given_up: bool) {
        let mut rig = Rig::online(Rig::usual(), State::default());
        (1..=2).for_each(|n| rig.send(n));
        let mut disk = State::default();
        let mut first = 0;
        let mut result = None;
        for _ in 0..40 {
            let mut sends = rig.sends();
            while !sends.is_empty() {
                for (id, number) in std::mem::take(&mut sends) {
                    let answer = match number {
                        1 => answers.get(first).cloned().unwrap_or(stored(7)),
                        // Refused as long as the first is not decided: nothing gets stale here.
                        _ if result.is_none() => error(ErrorCode::Overloaded, 0),
                        _ => stored(8),
                    };
                    first += usize::from(number == 1);
                    rig.receive(id, answer);
                    for output in std::mem::take(&mut rig.other) {
                        match output {
                            Output::Sent { ticket: Ticket(1), result: r } => result = Some(r),
                            Output::Persist(record) => disk.apply(&record),
                            _ => {}
                        }
                    }
                }
                sends = rig.sends();
            }
            rig.advance(seconds(31));
            rig.machine.received_heartbeat(rig.now);
        }
        assert_eq!(first, tries);
        let result = result.expect("decided");
        assert_eq!(result.is_err(), given_up);
        if let Err(error) = result {
            assert_eq!(error.code, ErrorCode::Internal);
        }
        assert!(rig.machine.is_settled(), "what is behind it goes on");
        assert!(disk.conversations[&group(1)].unacked.is_empty(), "nothing is left in the outbox");
    }
    let internal = || error(ErrorCode::Internal, 0);
    check(&vec![internal(); 7], 8, false);
    check(&vec![internal(); 8], 8, true);
    check(&vec![internal(); 50], 8, true);
    check(&vec![ServerBody::Unknown; 50], 8, true);
    check(&vec![error(ErrorCode::OutcomeUnknown, 0); 20], 21, false);
    let mixed = [vec![internal(); 7], vec![error(ErrorCode::Overloaded, 0); 9], vec![internal()]].concat();
    check(&mixed, 17, true);
}

#[test]
fn what_has_failed_is_durable_before_the_app_is_told() {
    let mut rig = Rig::sending();
    rig.send(2);
    let id = rig.sends()[0].0;
    rig.other.clear();
    rig.receive(id, error(ErrorCode::NotMember, 0));
    let at = |what: fn(&Output) -> bool| rig.other.iter().position(what).expect("it is there");
    let settled = at(|output| matches!(output, Output::Persist(Record::Settled { .. })));
    let vital = at(|output| matches!(output, Output::Persist(record) if record.is_vital()));
    let told = at(|output| matches!(output, Output::Sent { result: Err(_), .. }));
    // A run after a crash would send it again, and it might be stored now.
    assert!(settled < vital && vital < told, "{:?}", rig.other);
}
