//! Logins, devices and tokens; the server's own coming and going.

use std::collections::HashMap;
use std::time::Duration;

use tern_client::Transport;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{SendOk, ServerBody};
use tern_protocol::ids::{ClientSeq, RequestId, Seq};
use tern_protocol::model::{Change, Role, Target};
use tern_protocol::request::{Request, RequestBody, Send};
use tokio::task::JoinSet;

use crate::support::{Session, Start, TRANSPORTS, Ternd, group, message, next, over_each, texts, user};

/// A session's wish to end, whatever it hears until then.
async fn ends_with(mut session: Session, expected: ErrorCode) {
    assert_eq!(session.closing_error().await, expected);
}

/// Over and over, so that the two connections meet on the same shard and on different ones.
#[tokio::test]
async fn a_device_that_logs_in_again_takes_over() {
    over_each(async |ternd, transport| {
        let mut bob = ternd.login(transport, "bob", 1).await;
        let other_device = ternd.login(transport, "alice", 2).await;
        let mut alice = ternd.login(transport, "alice", 1).await;
        for (n, transport) in TRANSPORTS.into_iter().cycle().take(16).enumerate() {
            let newer = ternd.login(transport, "alice", 1).await;
            let older = std::mem::replace(&mut alice, newer);
            ends_with(older, ErrorCode::TakenOver).await;
            let chat = bob.text(user("alice"), "still there?").await.expect("stored").conversation;
            let (_, pushed) = alice.pushed().await;
            assert_eq!(pushed.seq, Seq(n as u64 + 1), "the newer one is told");
            alice.mark(chat, pushed.seq.get(), 0).await.expect("and served");
        }
        let mut other_device = other_device;
        assert_eq!(other_device.pushed().await.1.seq, Seq(1), "another device of the same user stays");
    })
    .await;
}

#[tokio::test]
async fn a_user_has_sixteen_devices_online() {
    over_each(async |ternd, transport| {
        let mut devices = Vec::new();
        for device in 1..=16 {
            devices.push(ternd.login(transport, "alice", device).await);
        }
        devices.push(ternd.login(transport, "alice", 17).await);
        ends_with(devices.remove(0), ErrorCode::TakenOver).await;
        devices[15].text(user("bob"), "to all of mine").await.expect("stored");
        for device in &mut devices {
            assert_eq!(device.pushed().await.1.seq, Seq(1));
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_ends_and_the_connection_with_it() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let until_the_end = async |transport| {
        let token = ternd.token_for("alice", Duration::from_secs(10));
        let connection = ternd.connector().connect(transport).await.expect("connected");
        let device = 1 + transport as u64;
        let mut alice = Session::login(connection, &token, device).await.expect("still good");
        alice.text(user("bob"), "quickly").await.expect("stored");
        ends_with(alice, ErrorCode::TokenExpired).await;
        let connection = ternd.connector().connect(transport).await.expect("connected");
        let refused = Session::login(connection, &token, device).await.err().expect("it has ended");
        assert_eq!(refused.code, ErrorCode::TokenExpired);
    };
    let mut bob = ternd.login(Transport::Tcp, "bob", 1).await;
    futures_util::future::join_all(TRANSPORTS.map(until_the_end)).await;
    bob.text(user("alice"), "others live on").await.expect("stored");
    ternd.kill();
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        alice.create(group(1), "before", &["bob", "carol"]).await;
        let change = Change::Role { member: user("bob"), role: Role::Admin };
        alice.change(group(1), change).await.expect("the owner may");
        alice.change(group(1), Change::Remove { member: user("carol") }).await.expect("the owner may");
        alice.change(group(1), Change::Title { title: "after".into() }).await.expect("the owner may");
        let chat = alice.text(user("bob"), "direct").await.expect("stored").conversation;
        alice.mark(chat, 1, 1).await.expect("up to the head");
        let picture = async |session: &mut Session| {
            (
                session.conversations(0).await,
                session.log_from(group(1), 1).await.expect("a member"),
                session.log_from(chat, 1).await.expect("a member"),
                session.members(group(1), 0).await.expect("a member"),
            )
        };
        let before = picture(&mut alice).await;
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
            drop(alice);
            let status = ternd.restart(signal);
            assert_eq!(status.success(), signal != libc::SIGKILL, "{status}");
            alice = ternd.login(transport, "alice", 1).await;
            assert_eq!(picture(&mut alice).await, before);
        }
        alice.count_from(chat, 1);
        assert_eq!(alice.text(user("bob"), "on it goes").await.expect("stored").seq, Seq(2));
        let mut carol = ternd.login(transport, "carol", 1).await;
        assert_eq!(carol.line(group(1)).await.head, Seq(3), "who was removed stays removed");
    })
    .await;
}

/// Sends until the server closes, also after it has said goodbye; returns what was acked.
async fn send_until_the_end(mut session: Session) -> Vec<(ClientSeq, SendOk)> {
    let target = Target::Conversation(group(1));
    let (mut acked, mut said) = (Vec::new(), Vec::new());
    let mut ids = (1_000..).map(RequestId);
    'open: loop {
        let mut asked = HashMap::new();
        for id in ids.by_ref().take(8) {
            let client_seq = session.next_client_seq(&target);
            let change = message(&format!("{} {client_seq}", session.user()));
            let body = RequestBody::Send(Send { target, client_seq, change });
            asked.insert(id, client_seq);
            // What fails here is said there.
            let _ = session.connection().send_request(&Request { id, body }).await;
        }
        while !asked.is_empty() {
            let Some(message) = next(session.connection()).await else { break 'open };
            match message.body {
                ServerBody::SendOk(ok) => acked.push((asked.remove(&message.id).expect("asked"), ok)),
                ServerBody::Push { .. } => {}
                other => said.push((message.id, other)),
            }
        }
    }
    assert!(matches!(&said[0], (RequestId(0), ServerBody::GoingAway { .. })), "{said:?}");
    assert!(
        matches!(&said[1], (RequestId(0), ServerBody::Error(e)) if e.code == ErrorCode::GoingAway),
        "{said:?}"
    );
    assert_eq!(said.len(), 2, "every request that was taken up is answered, and nothing else: {said:?}");
    acked
}

#[tokio::test]
async fn a_server_that_is_stopped_says_goodbye() {
    over_each(async |ternd, transport| {
        let names = ["alice", "bob", "carol", "dave"];
        let mut sessions = Vec::new();
        for name in names {
            sessions.push(ternd.login(transport, name, 1).await);
        }
        let mut idle = ternd.login(transport, "erin", 1).await;
        sessions[0].create(group(1), "busy", &names[1..]).await;
        let mut tasks = JoinSet::new();
        for session in sessions {
            tasks.spawn(send_until_the_end(session));
        }
        // Once they are at it.
        let mut watcher = ternd.login(transport, "bob", 2).await;
        for _ in 0..50 {
            watcher.pushed().await;
        }
        ternd.signal(libc::SIGTERM);
        let mut acked: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        let goodbye = idle.event().await;
        assert!(matches!(goodbye, Some(ServerBody::GoingAway { .. })), "{goodbye:?}");
        ends_with(idle, ErrorCode::GoingAway).await;
        drop(watcher);
        let status = ternd.wait();
        assert!(status.success(), "{status}");

        *ternd = Ternd::start(&ternd.data.clone(), &Start::default());
        let mut bob = ternd.login(transport, "bob", 1).await;
        let log = bob.log_from(group(1), 1).await.expect("a member");
        acked.sort_by_key(|(_, ok)| ok.seq);
        for (client_seq, ok) in &acked {
            let entry = &log[ok.seq.get() as usize - 1];
            assert_eq!((entry.seq, entry.client_seq, entry.time), (ok.seq, *client_seq, ok.time));
        }
        assert!(acked.windows(2).all(|pair| pair[0].1.seq < pair[1].1.seq), "no two at one place");
        // What was taken up was answered before the end, so there is nothing else, either.
        assert_eq!(log.len(), acked.len() + 1);
    })
    .await;
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut first = Ternd::start(data.path(), &Start::default());
    let (status, said) = Ternd::try_start(data.path(), &Start::default()).err().expect("refused");
    assert!(!status.success());
    assert!(said.contains("in use by process") && said.contains(&first.pid().to_string()), "{said}");
    assert!(said.contains(&data.path().display().to_string()), "{said}");
    let mut alice = first.login(Transport::Quic, "alice", 1).await;
    alice.text(user("bob"), "unimpressed").await.expect("the first one goes on");
    first.restart(libc::SIGKILL);
    let mut alice = first.login(Transport::Tcp, "alice", 1).await;
    let chat = alice.conversations(0).await.remove(0).conversation;
    assert_eq!(texts(&alice.log_from(chat, 1).await.expect("a member")), ["unimpressed"]);
}

#[tokio::test]
async fn an_address_has_one_server() {
    let data = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let first = Ternd::start(data[0].path(), &Start::default());
    let start = Start { listen: first.address, ..Start::default() };
    let (status, said) = Ternd::try_start(data[1].path(), &start).err().expect("refused");
    assert!(!status.success());
    assert!(said.contains(&first.address.to_string()), "{said}");
    first.login(Transport::Tcp, "alice", 1).await.text(user("bob"), "unimpressed").await.expect("stored");
}
