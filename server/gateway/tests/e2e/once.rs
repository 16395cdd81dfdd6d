//! Exactly once: however often, late, and on whichever connection a send comes again.

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{SendOk, ServerBody};
use tern_protocol::ids::{ClientSeq, ConversationId, Seq};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Change, Target};
use tern_protocol::request::{RequestBody, Send};

use crate::support::{Session, group, message, over_each, refused, seqs, texts, user};

/// More than the window, several times.
const LATER: u64 = 300;

async fn resend(session: &mut Session, client_seq: u64) -> SendOk {
    let answer = session.send_as(Target::User(user("bob")), ClientSeq(client_seq), message("once")).await;
    answer.expect("answered as stored")
}

#[tokio::test]
async fn sending_again_stores_nothing() {
    over_each(async |ternd, transport| {
        let bob = Target::User(user("bob"));
        let mut alice = ternd.login(transport, "alice", 1).await;
        let first = alice.send(bob, message("once")).await.expect("stored");
        let duplicate = SendOk { duplicate: true, ..first };
        assert_eq!(resend(&mut alice, 1).await, duplicate, "on the same connection");
        let by_id = Target::Conversation(first.conversation);
        let answer = alice.send_as(by_id, ClientSeq(1), message("once")).await;
        assert_eq!(answer, Ok(duplicate), "addressed in the other way");
        alice.close().await;

        let mut alice = ternd.login(transport, "alice", 1).await;
        assert_eq!(resend(&mut alice, 1).await, duplicate, "on a new connection");
        drop(alice);
        ternd.restart(libc::SIGKILL);
        let mut alice = ternd.login(transport, "alice", 1).await;
        assert_eq!(resend(&mut alice, 1).await, duplicate, "after a crash");

        // Far beyond the window: in bursts, so that commits hold many.
        alice.count_from(first.conversation, 1);
        for _ in 0..LATER / 50 {
            let mut asked = Vec::new();
            for _ in 0..50 {
                let send =
                    Send { target: bob, client_seq: alice.next_client_seq(&bob), change: message("once") };
                asked.push(alice.request(RequestBody::Send(send)).await);
            }
            for request in asked {
                alice.answer(request).await.expect("stored");
            }
        }
        let oldest_in_window = 1 + LATER + 1 - SEND_WINDOW as u64;
        for client_seq in [1, 2, oldest_in_window - 1, oldest_in_window, LATER, LATER + 1] {
            let answer = resend(&mut alice, client_seq).await;
            assert_eq!(
                (answer.seq, answer.duplicate),
                (Seq(client_seq), true),
                "one by one, so the same numbers"
            );
        }
        assert_eq!(resend(&mut alice, 1).await, duplicate, "with its time, too");
        ternd.restart(libc::SIGKILL);
        let mut alice = ternd.login(transport, "alice", 1).await;
        assert_eq!(resend(&mut alice, 1).await, duplicate, "older than the window, after a crash");
        let log = alice.log_from(first.conversation, 1).await.expect("a member");
        assert_eq!(seqs(&log), (1..=LATER + 1).collect::<Vec<_>>());
        assert!(log.iter().all(|entry| entry.client_seq.get() == entry.seq.get()), "nothing was doubled");
    })
    .await;
}

#[tokio::test]
async fn the_same_number_twice_at_once_is_stored_once() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut asked = Vec::new();
        for n in 0..60u64 {
            // 1 1 1 2 2 2 …: they meet in one batch, or in the queue behind it.
            let target = Target::User(user("bob"));
            let send =
                Send { target, client_seq: ClientSeq(n / 3 + 1), change: message(&format!("{}", n / 3)) };
            asked.push((n, alice.request(RequestBody::Send(send)).await));
        }
        let mut answers = Vec::new();
        for (n, request) in asked {
            match alice.answer(request).await {
                Ok(ServerBody::SendOk(ok)) => answers.push((n, ok)),
                other => panic!("{other:?}"),
            }
        }
        for (n, ok) in &answers {
            assert_eq!((ok.seq, ok.duplicate), (Seq(n / 3 + 1), n % 3 > 0), "send {n}");
        }
        let log = alice.log_from(answers[0].1.conversation, 1).await.expect("a member");
        assert_eq!(log.len(), 20);
    })
    .await;
}

#[tokio::test]
async fn numbers_that_were_skipped_are_stale() {
    over_each(async |ternd, transport| {
        let bob = Target::User(user("bob"));
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut send = async |client_seq: u64| {
            let answer = alice.send_as(bob, ClientSeq(client_seq), message("x")).await;
            answer.map(|ok| (ok.seq.get(), ok.duplicate)).map_err(|error| error.code)
        };
        assert_eq!(send(5).await, Ok((1, false)), "gaps are allowed");
        assert_eq!(send(10).await, Ok((2, false)));
        for stale in [1, 4, 6, 9] {
            assert_eq!(send(stale).await, Err(ErrorCode::ClientSeqStale));
        }
        assert_eq!(send(5).await, Ok((1, true)));
        for n in 0..SEND_WINDOW as u64 {
            assert_eq!(send(11 + n).await, Ok((3 + n, false)));
        }
        assert_eq!(send(5).await, Ok((1, true)), "found in the log");
        assert_eq!(send(7).await, Err(ErrorCode::ClientSeqStale), "searched for in the log");
        assert_eq!(send(u64::MAX).await, Ok((3 + SEND_WINDOW as u64, false)));
        assert_eq!(send(u64::MAX).await, Ok((3 + SEND_WINDOW as u64, true)));
        assert_eq!(send(u64::MAX - 1).await, Err(ErrorCode::ClientSeqStale));
        let mut other_device = ternd.login(transport, "alice", 2).await;
        let own = other_device.send_as(bob, ClientSeq(1), message("x")).await.expect("stored");
        assert!(!own.duplicate, "another device has numbers of its own");
    })
    .await;
}

/// What is sent under a number that the device has used for something else is refused, however long ago that was, and
/// whether or not the other is durable yet; it has no effect, and the error names the number to go on from.
#[tokio::test]
async fn a_number_is_not_used_for_two_messages() {
    over_each(async |ternd, transport| {
        let bob = Target::User(user("bob"));
        let mut alice = ternd.login(transport, "alice", 1).await;
        let send = async |alice: &mut Session, client_seq: u64, text: &str| {
            let answer = alice.send_as(bob, ClientSeq(client_seq), message(text)).await;
            answer
                .map(|ok| (ok.seq.get(), ok.duplicate))
                .map_err(|error| (error.code, error.client_seq.get()))
        };
        assert_eq!(send(&mut alice, 5, "five").await, Ok((1, false)));
        assert_eq!(send(&mut alice, 5, "other").await, Err((ErrorCode::ClientSeqUsed, 5)));
        assert_eq!(send(&mut alice, 4, "four").await, Err((ErrorCode::ClientSeqStale, 5)));
        // All at once, so that some are in one batch.
        let numbers = [6, 7, 7, 8, 7, 6];
        let mut requests = Vec::new();
        for (client_seq, n) in numbers.into_iter().zip(0..) {
            let change = message(&format!("{client_seq} {}", n / 4));
            let body = Send { target: bob, client_seq: ClientSeq(client_seq), change };
            requests.push(alice.request(RequestBody::Send(body)).await);
        }
        let mut answers = Vec::new();
        for request in requests {
            answers.push(match alice.answer(request).await {
                Ok(ServerBody::SendOk(ok)) => Ok((ok.seq.get(), ok.duplicate)),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error.code),
            });
        }
        let used = Err(ErrorCode::ClientSeqUsed);
        assert_eq!(answers, [Ok((2, false)), Ok((3, false)), Ok((3, true)), Ok((4, false)), used, used]);
        for n in 0..SEND_WINDOW as u64 {
            assert_eq!(send(&mut alice, 9 + n, "more").await, Ok((5 + n, false)));
        }
        let highest = 8 + SEND_WINDOW as u64;
        assert_eq!(send(&mut alice, 5, "other").await, Err((ErrorCode::ClientSeqUsed, highest)));
        assert_eq!(send(&mut alice, 5, "five").await, Ok((1, true)), "found in the log");
        let log =
            alice.log_from(ConversationId::direct(user("alice"), user("bob")), 1).await.expect("a member");
        assert_eq!(&texts(&log)[..5], ["five", "6 0", "7 0", "8 0", "more"]);
        assert_eq!(log.len(), 4 + SEND_WINDOW);
    })
    .await;
}

#[tokio::test]
async fn changes_of_a_group_are_made_once() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let to = Target::Conversation(id);
        let mut alice = ternd.login(transport, "alice", 1).await;
        let changes = [
            Change::Create { title: "once".into(), members: vec![user("bob")] },
            Change::Add { members: vec![user("carol")] },
            Change::Role { member: user("bob"), role: tern_protocol::model::Role::Admin },
            Change::Title { title: "twice".into() },
            Change::Remove { member: user("carol") },
            Change::Role { member: user("bob"), role: tern_protocol::model::Role::Owner },
            Change::Leave,
        ];
        for round in [false, true] {
            for (change, n) in changes.iter().zip(1..) {
                let ok = alice.send_as(to, ClientSeq(n), change.clone()).await.expect("done, or done before");
                assert_eq!((ok.seq, ok.duplicate), (Seq(n), round), "{change:?}");
            }
        }
        assert_eq!(refused(alice.send_as(to, ClientSeq(8), Change::Leave).await), ErrorCode::NotMember);
        let mut bob = ternd.login(transport, "bob", 1).await;
        assert_eq!(seqs(&bob.log_from(id, 1).await.expect("a member")), (1..=7).collect::<Vec<_>>());
    })
    .await;
}
