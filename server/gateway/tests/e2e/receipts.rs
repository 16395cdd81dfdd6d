//! Watermarks: delivered and read.

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ReceiptCount, ServerBody, UserReceipt};
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::model::Change;
use tern_protocol::request::{Mark, Request, RequestBody};

use crate::support::{Session, group, message, over_each, refused, user};

/// Waits until the session has been told that a user has received and read so much.
async fn told(session: &mut Session, chat: ConversationId, expected: UserReceipt) {
    session
        .until(|event| match event {
            ServerBody::ReceiptsMoved(moved) if moved.conversation == chat => {
                moved.users.contains(&expected).then_some(())
            }
            _ => None,
        })
        .await;
}

fn receipt(name: &str, delivered: u64, read: u64) -> UserReceipt {
    UserReceipt { user: user(name), delivered: Seq(delivered), read: Seq(read) }
}

/// What the server says about everybody.
async fn listed(session: &mut Session, conversation: ConversationId) -> Vec<UserReceipt> {
    session.receipts(conversation, None, 0).await.expect("a member").receipts
}

fn sorted(mut receipts: Vec<UserReceipt>) -> Vec<UserReceipt> {
    receipts.sort_by_key(|receipt| receipt.user);
    receipts
}

#[tokio::test]
async fn senders_of_direct_chats_are_told() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let mut laptop = ternd.login(transport, "bob", 2).await;
        let chat = alice.text(user("bob"), "one").await.expect("stored").conversation;
        alice.text(user("bob"), "two").await.expect("stored");
        assert_eq!(
            listed(&mut alice, chat).await,
            sorted(vec![receipt("alice", 0, 0), receipt("bob", 0, 0)])
        );
        bob.mark(chat, 1, 0).await.expect("up to the head");
        told(&mut alice, chat, receipt("bob", 1, 0)).await;
        bob.mark(chat, 2, 1).await.expect("up to the head");
        told(&mut alice, chat, receipt("bob", 2, 1)).await;
        told(&mut laptop, chat, receipt("bob", 2, 1)).await;
        bob.mark(chat, 0, 2).await.expect("up to the head");
        told(&mut alice, chat, receipt("bob", 2, 2)).await;
        // What was told before the sender came back is in the sync, also when there is no entry to get.
        drop(alice);
        let mut alice = ternd.login(transport, "alice", 1).await;
        let state = alice.sync(crate::support::sync(&[(chat, 2)])).await.conversations.remove(0);
        assert_eq!((state.peer_read, state.entries.len()), (Seq(2), 0));
    })
    .await;
}

#[tokio::test]
async fn marks_are_checked_and_never_fall() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let chat = alice.text(user("bob"), "1").await.expect("stored").conversation;
        alice.text(user("bob"), "2").await.expect("stored");
        let none = sorted(vec![receipt("alice", 0, 0), receipt("bob", 0, 0)]);
        for (delivered, read) in [(3, 0), (0, 3), (3, 1), (2, 3), (u64::MAX, 0), (0, u64::MAX)] {
            assert_eq!(refused(bob.mark(chat, delivered, read).await), ErrorCode::InvalidArgument);
            assert_eq!(listed(&mut bob, chat).await, none, "({delivered}, {read}) was taken");
        }
        assert_eq!(refused(bob.mark(group(1), 1, 0).await), ErrorCode::UnknownConversation);
        bob.mark(chat, 2, 2).await.expect("up to the head");
        let mut laptop = ternd.login(transport, "bob", 2).await;
        for session in [&mut bob, &mut laptop] {
            for (delivered, read) in [(1, 1), (2, 1), (1, 0), (2, 2)] {
                session.mark(chat, delivered, read).await.expect("ignored, not refused");
                let expected = sorted(vec![receipt("alice", 0, 0), receipt("bob", 2, 2)]);
                assert_eq!(listed(session, chat).await, expected);
            }
        }
        // Several at once; the same twice; none; and without a number.
        alice.create(group(1), "more", &["bob"]).await;
        let mark =
            |conversation, delivered, read| Mark { conversation, delivered: Seq(delivered), read: Seq(read) };
        let marks = vec![mark(chat, 2, 0), mark(group(1), 1, 1), mark(chat, 1, 1)];
        assert_eq!(bob.ask(RequestBody::Mark(marks)).await, Ok(ServerBody::MarkOk));
        assert_eq!(bob.line(group(1)).await.read, Seq(1));
        assert_eq!(bob.ask(RequestBody::Mark(vec![])).await, Ok(ServerBody::MarkOk));
        let many = vec![mark(group(1), 1, 1); 1_024];
        assert_eq!(bob.ask(RequestBody::Mark(many)).await, Ok(ServerBody::MarkOk));
        let quiet = |mark| Request { id: RequestId(0), body: RequestBody::Mark(vec![mark]) };
        bob.connection().send_request(&quiet(mark(chat, 0, 0))).await.expect("sent");
        let code =
            bob.until(|event| if let ServerBody::Error(e) = event { Some(e.code) } else { None }).await;
        assert_eq!(code, ErrorCode::InvalidArgument, "a failure is said even without a number");
        alice.text(user("bob"), "3").await.expect("stored");
        bob.connection().send_request(&quiet(mark(chat, 3, 0))).await.expect("sent");
        told(&mut alice, chat, receipt("bob", 3, 2)).await;
    })
    .await;
}

/// Each mark of a request is taken or refused for itself, wherever it stands.
#[tokio::test]
async fn a_mark_above_the_head_does_not_hinder_the_others() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let chat = alice.text(user("bob"), "1").await.expect("stored").conversation;
        for n in 1..=2 {
            alice.create(group(n), "one of several", &["bob"]).await;
        }
        for round in 2..=7 {
            alice.text(user("bob"), "more").await.expect("stored");
            for n in 1..=2 {
                assert_eq!(alice.change(group(n), message("more")).await.expect("stored").seq, Seq(round));
            }
            let mark = |conversation, delivered, read| Mark {
                conversation,
                delivered: Seq(delivered),
                read: Seq(read),
            };
            let mut marks = vec![mark(chat, round, round), mark(group(1), round, round)];
            // Both ways of being too high, first, in the middle and last.
            let (delivered, read) = if round % 2 == 0 { (round + 1, 0) } else { (0, round + 1) };
            marks.insert((round as usize - 2) / 2, mark(group(2), delivered, read));
            let answer = bob.ask(RequestBody::Mark(marks)).await;
            assert_eq!(refused(answer), ErrorCode::InvalidArgument);
            for (conversation, expected) in [(chat, round), (group(1), round), (group(2), 0)] {
                assert_eq!(bob.line(conversation).await.read, Seq(expected), "{conversation:?}");
                let receipts = listed(&mut alice, conversation).await;
                assert!(receipts.contains(&receipt("bob", expected, expected)), "{receipts:?}");
            }
        }
        // The connection goes on, and what was refused is taken once it is in order.
        bob.mark(group(2), 7, 7).await.expect("up to the head");
        assert_eq!(bob.line(group(2)).await.read, Seq(7));
    })
    .await;
}

#[tokio::test]
async fn senders_in_groups_are_told_counts() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let mut alice = ternd.login(transport, "alice", 1).await;
        alice.create(id, "counts", &["bob", "carol", "dave"]).await;
        let seq = alice.change(id, message("who has it?")).await.expect("stored").seq;
        let mut members = Vec::new();
        for name in ["bob", "carol", "dave"] {
            members.push(ternd.login(transport, name, 1).await);
        }
        // Steps may be left out, but they only rise, and the last one comes.
        let mut last = (0, 0);
        let mut counted = async |alice: &mut Session, delivered: u32, read: u32| {
            alice
                .until(|event| {
                    let ServerBody::ReceiptsMoved(moved) = event else { return None };
                    for count in &moved.counts {
                        assert_eq!((count.seq, count.members), (seq, 3));
                        assert!(
                            count.delivered >= last.0 && count.read >= last.1,
                            "{count:?} after {last:?}"
                        );
                        last = (count.delivered, count.read);
                    }
                    let expected = ReceiptCount { seq, delivered, read, members: 3 };
                    moved.counts.contains(&expected).then_some(())
                })
                .await;
        };
        members[0].mark(id, 2, 0).await.expect("up to the head");
        counted(&mut alice, 1, 0).await;
        members[1].mark(id, 2, 2).await.expect("up to the head");
        members[2].mark(id, 2, 0).await.expect("up to the head");
        counted(&mut alice, 3, 1).await;
        members[0].mark(id, 2, 2).await.expect("up to the head");
        members[2].mark(id, 2, 2).await.expect("up to the head");
        counted(&mut alice, 3, 3).await;
        // Who left no longer counts.
        members[2].change(id, Change::Leave).await.expect("everybody may");
        let receipts = listed(&mut alice, id).await;
        assert_eq!(
            receipts,
            sorted(vec![receipt("alice", 0, 0), receipt("bob", 2, 2), receipt("carol", 2, 2)])
        );
    })
    .await;
}

#[tokio::test]
async fn receipts_are_listed_by_page() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let names: Vec<String> = (0..7).map(|n| format!("member{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut alice = ternd.login(transport, "alice", 1).await;
        alice.create(id, "pages", &names).await;
        let mut expected = vec![receipt("alice", 0, 0)];
        for (name, n) in names.iter().zip(1u64..) {
            let seq = alice.change(id, message("next")).await.expect("stored").seq;
            assert_eq!(seq, Seq(n + 1));
            let mut member = ternd.login(transport, name, 1).await;
            member.mark(id, n + 1, n).await.expect("up to the head");
            expected.push(receipt(name, n + 1, n));
        }
        let expected = sorted(expected);
        for limit in [0, 1, 3, 8, 9] {
            // Delivered marks are in the store within a second; until then a page may be behind.
            let mut all = Vec::new();
            let mut after = None;
            loop {
                let page = alice.receipts(id, after, limit).await.expect("a member");
                assert!(limit == 0 || page.receipts.len() <= limit as usize);
                all.extend(page.receipts);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(all, expected, "limit {limit}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_read_stays_read_over_a_crash() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let chat = alice.text(user("bob"), "1").await.expect("stored").conversation;
        alice.create(group(1), "too", &["bob"]).await;
        for round in 2..=4 {
            alice.text(user("bob"), "more").await.expect("stored");
            let mut bob = ternd.login(transport, "bob", 1).await;
            let mark = |conversation, seq| Mark { conversation, delivered: Seq(seq), read: Seq(seq) };
            let marks = RequestBody::Mark(vec![mark(chat, round), mark(group(1), 1)]);
            assert_eq!(bob.ask(marks).await, Ok(ServerBody::MarkOk));
            ternd.restart(libc::SIGKILL);
            alice = ternd.login(transport, "alice", 1).await;
            alice.count_from(chat, round);
            let mut bob = ternd.login(transport, "bob", 1).await;
            assert_eq!((bob.line(chat).await.read, bob.line(group(1)).await.read), (Seq(round), Seq(1)));
            assert_eq!(alice.line(chat).await.peer_read, Seq(round));
            bob.mark(chat, 1, 1).await.expect("ignored");
            assert_eq!(bob.line(chat).await.read, Seq(round), "a lower mark after a restart");
        }
    })
    .await;
}
