//! Bytes that are no frames, frames that are no requests, requests at the wrong time.

use tern_client::Transport;
use tern_client::raw::Connection;
use tern_protocol::convert::encode_request;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::frame::{self, HEARTBEAT};
use tern_protocol::ids::{RequestId, Seq};
use tern_protocol::limits::{FRAME_BYTES_MAX, IN_FLIGHT_MAX, VERSION_MAX};
use tern_protocol::model::Target;
use tern_protocol::pb;
use tern_protocol::request::{Request, RequestBody, Send};

use crate::support::{Session, login_request, message, next, over_each, refused, sync, user};
use crate::{Bystanders, ask, closes_with, connect, error, is_well};

/// What is sent, and what the server says to it; the connection closes.
const FATAL: [(&str, &[u8], ErrorCode); 9] = [
    ("a length that is not in its shortest form", &[0x80, 0x00], ErrorCode::Malformed),
    ("the same, longer", &[0x85, 0x80, 0x00], ErrorCode::Malformed),
    ("a length of four bytes", &[0x80, 0x80, 0x80, 0x01], ErrorCode::FrameTooLarge),
    ("a length of a megabyte and one", &[0x81, 0x80, 0x40], ErrorCode::FrameTooLarge),
    ("garbage", &[0x05, 0xde, 0xad, 0xbe, 0xef, 0x99], ErrorCode::Malformed),
    ("a field that ends too early", &[0x04, 0x08, 0x01, 0x12, 0x7f], ErrorCode::Malformed),
    ("text that is not UTF-8", &[0x08, 0x08, 0x01, 0x12, 0x04, 0x0a, 0x02, 0xff, 0xfe], ErrorCode::Malformed),
    ("request_id 0", &[0x02, 0x2a, 0x00], ErrorCode::Malformed),
    ("nothing but an unknown field", &[0x02, 0x50, 0x01], ErrorCode::Malformed),
];

#[tokio::test]
async fn what_is_no_frame_closes_the_connection() {
    over_each(async |ternd, transport| {
        let mut bystanders = Bystanders::new(ternd, transport).await;
        for (what, bytes, code) in FATAL {
            eprintln!("{what}");
            let mut fresh = connect(ternd, transport).await;
            fresh.send_bytes(bytes).await.expect("sent");
            closes_with(&mut fresh, 0, code).await;

            let mut alice = ternd.login(transport, "alice", 1).await;
            alice.connection().send_bytes(bytes).await.expect("sent");
            closes_with(alice.connection(), 0, code).await;
            bystanders.talk().await;
        }
        is_well(ternd).await;
    })
    .await;
}

/// The limit is another before and after login, and told by the length alone.
#[tokio::test]
async fn frames_have_a_limit() {
    over_each(async |ternd, transport| {
        for (length, fits) in [([0x80, 0x20], true), ([0x81, 0x20], false)] {
            let mut fresh = connect(ternd, transport).await;
            fresh.send_bytes(&length).await.expect("sent");
            if fits {
                // 4,096 bytes that are no request.
                fresh.send_bytes(&[0xff; 4_096]).await.expect("sent");
                closes_with(&mut fresh, 0, ErrorCode::Malformed).await;
            } else {
                closes_with(&mut fresh, 0, ErrorCode::FrameTooLarge).await;
            }
        }
        let mut alice = ternd.login(transport, "alice", 1).await;
        // The longest there is: a number, and a field that nobody knows yet, of as many bytes as are left.
        let mut longest = vec![0x80, 0x80, 0x40, 0x08, 0x09, 0x72];
        let left = FRAME_BYTES_MAX - 6;
        longest.extend([left as u8 | 0x80, (left >> 7) as u8 | 0x80, (left >> 14) as u8]);
        longest.resize(3 + FRAME_BYTES_MAX, 0x2a);
        alice.connection().send_bytes(&longest).await.expect("sent");
        let (answered, error) = error(alice.connection()).await;
        assert_eq!((answered.get(), error.code), (9, ErrorCode::UnknownRequest), "read, and understood");
        assert_eq!(alice.text(user("bob"), "it stays").await.expect("stored").seq, Seq(1));
        is_well(ternd).await;
    })
    .await;
}

#[tokio::test]
async fn half_a_frame_and_then_nothing() {
    over_each(async |ternd, transport| {
        let whole = encode_request(&Request { id: RequestId(9), body: sync(&[]) });
        for cut in 1..whole.len() {
            let mut fresh = connect(ternd, transport).await;
            fresh.send_bytes(&whole[..cut]).await.expect("sent");
            fresh.sender.finish().await.expect("sent");
            assert_eq!(next(&mut fresh).await, None, "the end is answered with the end");
        }
        let mut alice = ternd.login(transport, "alice", 1).await;
        alice.connection().send_bytes(&whole[..3]).await.expect("sent");
        alice.connection().sender.finish().await.expect("sent");
        assert_eq!(next(alice.connection()).await, None);
        // In pieces, it is a request like any other.
        let mut alice = ternd.login(transport, "alice", 1).await;
        for byte in whole.iter() {
            alice.connection().send_bytes(&[*byte]).await.expect("sent");
        }
        let answer = next(alice.connection()).await.expect("an answer");
        assert!(matches!(answer.body, ServerBody::SyncPage(_)) && answer.id.get() == 9);
        is_well(ternd).await;
    })
    .await;
}

fn text_to_bob(id: u64) -> Request {
    let target = Target::User(user("bob"));
    let send = Send { target, client_seq: tern_protocol::ids::ClientSeq(id), change: message("x") };
    Request { id: RequestId(id), body: RequestBody::Send(send) }
}

#[tokio::test]
async fn before_login_nothing_is_done() {
    over_each(async |ternd, transport| {
        let mut fresh = connect(ternd, transport).await;
        fresh.send_bytes(HEARTBEAT).await.expect("sent");
        for id in 1..8 {
            fresh.send_request(&text_to_bob(id)).await.expect("sent");
            let (answered, error) = error(&mut fresh).await;
            assert_eq!((answered.get(), error.code), (id, ErrorCode::NotLoggedIn));
        }
        fresh.send_request(&text_to_bob(8)).await.expect("sent");
        closes_with(&mut fresh, 8, ErrorCode::NotLoggedIn).await;

        // A login that is out of limits counts among them, and the connection stays.
        let mut fresh = connect(ternd, transport).await;
        let mut login = login_request(&ternd.token("alice"), 1);
        login.client = "x".repeat(65);
        let refused = ask(&mut fresh, 1, RequestBody::Login(login)).await;
        assert!(matches!(refused, ServerBody::Error(error) if error.code == ErrorCode::InvalidArgument));
        let unknown = &frame::encode(&pb::ClientFrame { request_id: 2, request: None });
        fresh.send_bytes(unknown).await.expect("sent");
        assert_eq!(error(&mut fresh).await.1.code, ErrorCode::UnknownRequest);
        let mut alice = Session::login(fresh, &ternd.token("alice"), 1).await.expect("a good token");
        assert!(alice.conversations(0).await.is_empty(), "nothing was sent");
        is_well(ternd).await;
    })
    .await;
}

#[tokio::test]
async fn one_login_for_a_connection() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        for (name, device) in [("alice", 1), ("alice", 2), ("bob", 1)] {
            let again = alice.ask(RequestBody::Login(login_request(&ternd.token(name), device))).await;
            assert_eq!(refused(again), ErrorCode::AlreadyLoggedIn);
        }
        assert_eq!(alice.text(user("bob"), "still me").await.expect("it stays").seq, Seq(1));
        // Pipelined: the second is refused, what is between them is done.
        let mut fresh = connect(ternd, transport).await;
        let login = |id| {
            let login = RequestBody::Login(login_request(&ternd.token("carol"), 1));
            encode_request(&Request { id: RequestId(id), body: login })
        };
        let bytes = [login(1), encode_request(&text_to_bob(2)), login(3)].concat();
        fresh.send_bytes(&bytes).await.expect("sent");
        let mut answers = std::collections::HashMap::new();
        while answers.len() < 3 {
            let message = next(&mut fresh).await.expect("still open");
            if message.id.get() > 0 {
                assert!(answers.insert(message.id.get(), message.body).is_none(), "one answer each");
            }
        }
        assert!(matches!(answers[&1], ServerBody::LoginOk(_)));
        assert!(matches!(answers[&2], ServerBody::SendOk(_)));
        assert!(matches!(&answers[&3], ServerBody::Error(e) if e.code == ErrorCode::AlreadyLoggedIn));
    })
    .await;
}

#[tokio::test]
async fn versions_have_to_overlap() {
    over_each(async |ternd, transport| {
        for (versions, good) in [
            ((0, 0), false),
            ((VERSION_MAX + 1, u32::MAX), false),
            ((2, 1), false),
            ((0, u32::MAX), true),
            ((1, 1), true),
        ] {
            let mut fresh = connect(ternd, transport).await;
            let login = login_request(&ternd.token("alice"), 1);
            let login = RequestBody::Login(tern_protocol::request::Login { versions, ..login });
            if good {
                let ServerBody::LoginOk(ok) = ask(&mut fresh, 1, login).await else { panic!("{versions:?}") };
                assert_eq!(ok.version, VERSION_MAX);
            } else {
                fresh.send_request(&Request { id: RequestId(1), body: login }).await.expect("sent");
                closes_with(&mut fresh, 1, ErrorCode::UnsupportedVersion).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn unknown_requests_are_answered() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let connection = alice.connection();
        for (tag, id) in [(10u8, 70u8), (11, 71), (15, 72)] {
            // A field of a later version, with three bytes in it.
            connection.send_bytes(&[7, 0x08, id, tag << 3 | 2, 3, 1, 2, 3]).await.expect("sent");
            let (answered, error) = error(connection).await;
            assert_eq!((answered.get(), error.code), (u64::from(id), ErrorCode::UnknownRequest));
        }
        connection.send_bytes(&[2, 0x08, 0x63]).await.expect("sent");
        assert_eq!(error(connection).await.1.code, ErrorCode::UnknownRequest, "no request at all");
        // Unknown fields beside a request are skipped.
        let mut bytes = encode_request(&Request { id: RequestId(73), body: sync(&[]) }).to_vec();
        bytes[0] += 3;
        bytes.extend([0x9a, 0x06, 0x00]);
        connection.send_bytes(&bytes).await.expect("sent");
        let answer = next(connection).await.expect("still open");
        assert!(matches!(answer.body, ServerBody::SyncPage(_)), "{answer:?}");
        assert_eq!(alice.text(user("bob"), "it stays").await.expect("stored").seq, Seq(1));
    })
    .await;
}

/// 200 requests in one go, and nothing is read until all are written.
#[tokio::test]
async fn too_many_at_once_are_refused_one_by_one() {
    const REQUESTS: u64 = 200;
    over_each(async |ternd, transport| {
        let mut bystanders = Bystanders::new(ternd, transport).await;
        let sends: Vec<u8> = (2..2 + REQUESTS).flat_map(|id| encode_request(&text_to_bob(id))).collect();
        let queries: Vec<u8> = (2..2 + REQUESTS)
            .flat_map(|id| encode_request(&Request { id: RequestId(id), body: sync(&[]) }))
            .collect();
        for (bytes, name) in [(sends, "alice"), (queries, "carol")] {
            let mut session = ternd.login(transport, name, 1).await;
            let connection: &mut Connection = session.connection();
            connection.send_bytes(&bytes).await.expect("sent");
            let (mut answered, mut done, mut refused) = (std::collections::HashSet::new(), 0, 0);
            while answered.len() < REQUESTS as usize {
                let message = next(connection).await.expect("still open");
                match message.body {
                    _ if message.id.get() == 0 => continue,
                    ServerBody::SendOk(_) | ServerBody::SyncPage(_) => done += 1,
                    ServerBody::Error(error) => {
                        assert_eq!(error.code, ErrorCode::TooManyInFlight);
                        assert!(error.retry_after_ms > 0, "it may be tried again");
                        refused += 1;
                    }
                    other => panic!("{other:?}"),
                }
                assert!(answered.insert(message.id), "{} twice", message.id);
            }
            assert!(done >= IN_FLIGHT_MAX && refused > 0, "{done} done, {refused} refused");
            if name == "alice" {
                let chat = session.conversations(0).await.remove(0);
                assert_eq!(chat.head, Seq(done as u64), "what was refused was not done");
            }
            bystanders.talk().await;
        }
        is_well(ternd).await;
    })
    .await;
}

/// A client that goes in the middle of what it asked for.
#[tokio::test]
async fn clients_vanish() {
    over_each(async |ternd, transport| {
        let mut bystanders = Bystanders::new(ternd, transport).await;
        for n in 0..20 {
            let mut session = ternd.login(transport, &format!("gone{n}"), 1).await;
            let requests: Vec<u8> = (2..50).flat_map(|id| encode_request(&text_to_bob(id))).collect();
            session.connection().send_bytes(&requests).await.expect("sent");
            if n % 2 == 0 && transport == Transport::Quic {
                session.connection().quic().expect("it is").close(7u32.into(), b"bye");
            }
            drop(session);
        }
        bystanders.talk().await;
        is_well(ternd).await;
    })
    .await;
}
