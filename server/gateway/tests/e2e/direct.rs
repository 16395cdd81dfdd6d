//! Chats of two, and with oneself.

use tern_client::Transport;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::{Change, Kind, Message, Role, Target};
use tern_protocol::request::HistoryFrom;

use crate::support::{message, over_each, refused, seqs, text, texts, user};

#[tokio::test]
async fn two_people_talk_both_ways() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let chat = ConversationId::direct(alice.user(), bob.user());
        assert_eq!(chat, ConversationId::direct(bob.user(), alice.user()));

        let early = alice.send(Target::Conversation(chat), message("to nothing")).await;
        assert_eq!(
            refused(early),
            ErrorCode::UnknownConversation,
            "before the first message there is no chat"
        );
        assert!(bob.conversations(0).await.is_empty());

        let sent = alice.text(bob.user(), "hello").await.expect("stored");
        assert_eq!((sent.conversation, sent.seq, sent.duplicate), (chat, Seq(1), false));
        let (conversation, entry) = bob.pushed().await;
        assert_eq!((conversation, entry.seq, text(&entry)), (chat, Seq(1), "hello"));
        assert_eq!((entry.sender.user, entry.time), (alice.user(), sent.time));

        let answer = bob.text(alice.user(), "hello yourself").await.expect("stored");
        assert_eq!((answer.conversation, answer.seq), (chat, Seq(2)), "the same id from the other end");
        let more = alice.send(Target::Conversation(chat), message("by its id")).await.expect("it exists now");
        assert_eq!(more.seq, Seq(3));

        for session in [&mut alice, &mut bob] {
            let log = session.log_from(chat, 1).await.expect("a member");
            assert_eq!(texts(&log), ["hello", "hello yourself", "by its id"]);
            assert!(log.is_sorted_by_key(|entry| entry.time), "times never fall");
        }
        // Pushes of everything to both, also to the device that sent it.
        for (session, already) in [(&mut alice, 0), (&mut bob, 1)] {
            for expected in already + 1..=3 {
                assert_eq!(session.pushed().await.1.seq, Seq(expected));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_direct_chat_shows_its_peer() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let chat = alice.text(user("bob"), "are you there?").await.expect("bob need never have logged in");
        let mut bob = ternd.login(transport, "bob", 1).await;
        for (session, peer) in [(&mut alice, "bob"), (&mut bob, "alice")] {
            let line = session.line(chat.conversation).await;
            assert_eq!(
                (line.kind, line.peer, line.role),
                (Kind::Direct, Some(user(peer)), Some(Role::Member))
            );
            assert_eq!((line.head, line.floor, line.title.as_str()), (Seq(1), Seq(1), ""));
        }
        let members = bob.members(chat.conversation, 0).await.expect("a member");
        let mut both = [alice.user(), bob.user()];
        both.sort();
        assert_eq!(members.iter().map(|(member, ..)| *member).collect::<Vec<_>>(), both);
        for change in [
            Change::Title { title: "ours".into() },
            Change::Leave,
            Change::Add { members: vec![user("carol")] },
            Change::Remove { member: user("bob") },
            Change::Role { member: user("bob"), role: Role::Admin },
        ] {
            let result = alice.change(chat.conversation, change.clone()).await;
            assert_eq!(refused(result), ErrorCode::InvalidArgument, "{change:?}");
        }
        assert_eq!(alice.line(chat.conversation).await.head, Seq(1), "what was refused left nothing");
    })
    .await;
}

#[tokio::test]
async fn a_chat_with_oneself() {
    over_each(async |ternd, transport| {
        let mut phone = ternd.login(transport, "alice", 1).await;
        let mut laptop = ternd.login(transport, "alice", 2).await;
        let note = phone.text(user("alice"), "buy milk").await.expect("stored");
        assert_eq!(note.conversation, ConversationId::direct(phone.user(), phone.user()));
        let (chat, entry) = laptop.pushed().await;
        assert_eq!((chat, text(&entry)), (note.conversation, "buy milk"));
        laptop.mark(chat, 1, 1).await.expect("there is an entry 1");
        let line = laptop.line(chat).await;
        assert_eq!((line.peer, line.unread, line.read), (Some(user("alice")), 0, Seq(1)));
        assert_eq!(laptop.members(chat, 0).await.expect("a member").len(), 1);
    })
    .await;
}

/// Their ids can be computed by anybody, so what is answered must not tell whether two people talk.
#[tokio::test]
async fn others_chats_cannot_be_told_from_none() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut carol = ternd.login(transport, "carol", 1).await;
        let there = alice.text(user("bob"), "between us").await.expect("stored").conversation;
        let nowhere = ConversationId::direct(user("alice"), user("dave"));
        assert!(carol.line_or_none(there).await.is_none());
        let mut answers = [there, nowhere].into_iter().map(async |chat| {
            let mut outsider = ternd.login(transport, "carol", 9).await;
            let to = Target::Conversation(chat);
            [
                outsider.send(to, message("let me in")).await.map(drop),
                outsider.send(to, Change::Leave).await.map(drop),
                outsider.send(to, Change::Add { members: vec![user("carol")] }).await.map(drop),
                outsider.history(chat, HistoryFrom::Backward(None), 10).await.map(drop),
                outsider.history(chat, HistoryFrom::Forward(Seq(1)), 10).await.map(drop),
                outsider.mark(chat, 1, 1).await,
                outsider.mark(chat, 99, 0).await,
                outsider.members(chat, 0).await.map(drop),
                outsider.receipts(chat, None, 0).await.map(drop),
            ]
            .map(|answer| answer.expect_err("none of their business"))
        });
        let there = answers.next().expect("two").await;
        let nowhere = answers.next().expect("two").await;
        assert_eq!(there, nowhere, "also in the text");
        for error in there {
            assert_eq!(error.code, ErrorCode::UnknownConversation);
        }
        drop(answers);
        assert!(carol.events.is_empty());
    })
    .await;
}

#[tokio::test]
async fn replies_are_to_what_is_there() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let reply = |to: u64| {
            Change::Message(Message {
                content_type: "text/plain".into(),
                payload: "indeed".into(),
                reply_to: Some(Seq(to)),
            })
        };
        let bob = Target::User(user("bob"));
        assert_eq!(
            refused(alice.send(bob, reply(1)).await),
            ErrorCode::InvalidArgument,
            "the first entry of all"
        );
        assert!(alice.conversations(0).await.is_empty(), "what was refused makes no chat");
        let first = alice.send(bob, message("first")).await.expect("stored");
        assert_eq!(refused(alice.send(bob, reply(2)).await), ErrorCode::InvalidArgument, "to itself");
        assert_eq!(refused(alice.send(bob, reply(u64::MAX)).await), ErrorCode::InvalidArgument);
        assert_eq!(alice.send(bob, reply(1)).await.expect("stored").seq, Seq(2));
        assert_eq!(alice.send(bob, reply(2)).await.expect("stored").seq, Seq(3));
        let log = alice.log_from(first.conversation, 1).await.expect("a member");
        let replies = log.iter().map(|entry| match &entry.change {
            Change::Message(message) => message.reply_to,
            _ => None,
        });
        assert_eq!(replies.collect::<Vec<_>>(), [None, Some(Seq(1)), Some(Seq(2))]);
    })
    .await;
}

#[tokio::test]
async fn two_devices_of_a_user_are_in_step() {
    over_each(async |ternd, transport| {
        let other = if transport == Transport::Tcp { Transport::Quic } else { Transport::Tcp };
        let mut phone = ternd.login(transport, "alice", 1).await;
        let mut laptop = ternd.login(other, "alice", 2).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let chat = phone.text(bob.user(), "from the phone").await.expect("stored").conversation;
        let same_number = laptop.text(bob.user(), "from the laptop").await.expect("stored");
        assert_eq!((same_number.seq, same_number.duplicate), (Seq(2), false), "numbers are a device's own");
        bob.text(phone.user(), "to both").await.expect("stored");
        for session in [&mut phone, &mut laptop, &mut bob] {
            let mut pushed = Vec::new();
            for _ in 0..3 {
                pushed.push(session.pushed().await.1);
            }
            assert_eq!(texts(&pushed), ["from the phone", "from the laptop", "to both"]);
            assert_eq!(seqs(&pushed), [1, 2, 3]);
        }
        phone.mark(chat, 3, 3).await.expect("read");
        let read = laptop
            .until(|event| match event {
                ServerBody::ReceiptsMoved(moved) if moved.conversation == chat => moved
                    .users
                    .iter()
                    .find(|receipt| receipt.user == user("alice"))
                    .map(|receipt| receipt.read),
                _ => None,
            })
            .await;
        assert_eq!(read, Seq(3));
        for session in [&mut phone, &mut laptop] {
            let line = session.line(chat).await;
            assert_eq!((line.read, line.unread), (Seq(3), 0));
        }
    })
    .await;
}
