//! Requests that are no sends: what one device and one user may ask.

use std::collections::BTreeMap;
use std::time::Duration;

use tern_client::Transport;
use tern_client::raw::{Received, ask_on_own_stream};
use tern_client::{Client, Event, MemoryStorage};
use tern_core::limits::REFUSED_IN_PAUSE_MAX;
use tern_protocol::convert::encode_request;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, ServerMessage};
use tern_protocol::frame::HEARTBEAT;
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::limits::MARKS_MAX;
use tern_protocol::request::{ListConversations, Mark, Request, RequestBody};
use tern_server::limits::Limits;

use crate::Limited;
use crate::support::{PATIENCE, Session, TRANSPORTS, group, message, user};

/// What everybody may ask at once in these tests; then one a second, which is less than a test asks in any second.
const BURST: u32 = 40;

/// Without rows in its answer, one unit.
fn list() -> RequestBody {
    RequestBody::ListConversations(ListConversations { after: None, limit: 1 })
}

/// How many of `tries` requests are answered; the others have to be refused with advice.
async fn answered(session: &mut Session, tries: u32) -> u32 {
    let mut count = 0;
    for _ in 0..tries {
        match session.ask(list()).await {
            Ok(answer) => {
                assert!(matches!(answer, ServerBody::ConversationPage(_)), "{answer:?}");
                count += 1;
            }
            Err(error) => {
                assert_eq!(error.code, ErrorCode::RateLimited, "{}", error.text);
                assert!(error.retry_after_ms > 0);
            }
        }
    }
    count
}

/// Watermarks in so many conversations that are not there: more than anybody has earned for long.
fn many_marks() -> RequestBody {
    let mark = |n| Mark { conversation: group(n), delivered: Seq(1), read: Seq(1) };
    RequestBody::Mark((0..MARKS_MAX as u64).map(mark).collect())
}

#[tokio::test]
async fn a_device_that_asks_too_often_is_told_when_to_come_back() {
    for transport in TRANSPORTS {
        let limits = Limits { device_work_per_second: 1, device_work_burst: BURST, ..Limits::OFF };
        let limited = Limited::start(limits);
        let mut phone = limited.login(transport, "alice", 1).await;
        assert_eq!(answered(&mut phone, BURST - 1).await, BURST - 1);
        let last = phone.ask(many_marks()).await.expect_err("there are no such conversations");
        assert_eq!(last.code, ErrorCode::UnknownConversation, "there was room for one");
        assert_eq!(answered(&mut phone, 10).await, 0);
        // Who may not ask may send, is pushed to, and is known to be there.
        let ok = phone.text(user("alice"), "a note to myself").await.expect("a send is counted apart");
        assert_eq!(phone.pushed().await.1.seq, ok.seq);
        phone.connection().send_bytes(HEARTBEAT).await.expect("sent");
        let beat = async { while !matches!(phone.connection().recv().await, Ok(Received::Heartbeat)) {} };
        tokio::time::timeout(PATIENCE, beat).await.expect("the heartbeat comes back");
        // A mark is refused before it is taken, whether it wants an answer or not.
        let mark = Mark { conversation: ok.conversation, delivered: ok.seq, read: ok.seq };
        let refused = phone.ask(RequestBody::Mark(vec![mark])).await.expect_err("too often");
        assert_eq!(refused.code, ErrorCode::RateLimited);
        let unanswered = Request { id: RequestId(0), body: RequestBody::Mark(vec![mark]) };
        phone.connection().send_request(&unanswered).await.expect("sent");
        let error = phone.until(|event| match event {
            ServerBody::Error(error) => Some(error.clone()),
            _ => None,
        });
        let error = error.await;
        assert!(error.code == ErrorCode::RateLimited && error.retry_after_ms > 60_000, "{error:?}");
        let mut tablet = limited.login(transport, "alice", 2).await;
        assert_eq!(tablet.line(ok.conversation).await.read, Seq(0), "nothing was marked");
        assert_eq!(limited.metric("tern_errors_total{code=\"rate_limited\"}").await, 10 + 2);
        assert_eq!(limited.metric("tern_read_pauses_total{shard=\"0\"}").await, 0, "nobody went on and on");
        limited.server.stop().await;
    }
}

#[tokio::test]
async fn the_devices_of_a_user_share_what_the_user_may_ask() {
    for transport in TRANSPORTS {
        let limits = Limits { user_work_per_second: 1, user_work_burst: BURST, ..Limits::OFF };
        let limited = Limited::start(limits);
        let mut phone = limited.login(transport, "alice", 1).await;
        let count = answered(&mut phone, 2 * BURST).await;
        assert!((BURST..2 * BURST).contains(&count), "{count} answered");
        let mut tablet = limited.login(transport, "alice", 2).await;
        assert!(answered(&mut tablet, BURST).await < BURST, "another device");
        phone.close().await;
        tablet.close().await;
        let mut back = limited.login(transport, "alice", 3).await;
        assert!(answered(&mut back, BURST).await < BURST, "a new connection is no way around it");
        let mut carol = limited.login(transport, "carol", 1).await;
        assert_eq!(answered(&mut carol, BURST).await, BURST, "another user");
        limited.server.stop().await;
    }
}

#[tokio::test]
async fn a_request_costs_what_its_answer_costs_and_a_stream_of_its_own_is_no_way_around_it() {
    const ROWS: u32 = 3 * BURST;
    let limits = Limits { device_work_per_second: 1, device_work_burst: BURST, ..Limits::OFF };
    let limited = Limited::start(limits);
    let mut alice = limited.login(Transport::Quic, "alice", 1).await;
    for n in 0..u64::from(ROWS) {
        alice.create(group(n), "one of many", &[]).await;
    }
    let quic = alice.connection().quic().expect("over QUIC").clone();
    let many = RequestBody::ListConversations(ListConversations { after: None, limit: 500 });
    let mut codes = Vec::new();
    for n in 0..3 {
        let request = Request { id: RequestId(1_000 + n), body: many.clone() };
        let ServerMessage { id, body } = ask_on_own_stream(&quic, &request).await.expect("answered");
        assert_eq!(id, request.id);
        codes.push(match body {
            ServerBody::ConversationPage(page) => Ok(page.conversations.len() as u32),
            ServerBody::Error(error) => Err(error.code),
            other => panic!("{other:?}"),
        });
    }
    let too_often = Err(ErrorCode::RateLimited);
    assert_eq!(codes, [Ok(ROWS), too_often, too_often], "{ROWS} rows, and more than all is spent");
    limited.server.stop().await;
}

#[tokio::test]
async fn who_goes_on_after_a_refusal_is_not_read_for_a_while_and_then_again() {
    const ASKED: u64 = 10_000;
    for transport in TRANSPORTS {
        let limits = Limits { device_work_per_second: 1, device_work_burst: 1, ..Limits::OFF };
        let limited = Limited::start(limits);
        let refused = async || limited.metric("tern_errors_total{code=\"rate_limited\"}").await;
        let pauses = async || limited.metric("tern_read_pauses_total{shard=\"0\"}").await;
        let flood: Vec<u8> = (2..2 + ASKED)
            .flat_map(|n| encode_request(&Request { id: RequestId(n), body: list() }))
            .collect();
        let mut mallory = limited.login(transport, "mallory", 1).await.into_connection();
        let mut bob = limited.login(transport, "bob", 1).await;
        mallory.send_bytes(&flood).await.expect("sent");
        let (mut sender, mut receiver, _open) = mallory.into_split();
        let go_on = async { while sender.send_bytes(&flood).await.is_ok() {} };
        let read = async { while receiver.recv().await.is_ok_and(|got| !matches!(got, Received::Closed)) {} };
        let watch = async {
            // Two of them: it is read again in between.
            while pauses().await < 2 {
                bob.text(user("alice"), "nice weather").await.expect("others go on");
            }
            let (refused, pauses) = (refused().await, pauses().await);
            let most = (pauses + 1) * u64::from(REFUSED_IN_PAUSE_MAX + 1);
            assert!(refused <= most, "{refused} refused in {pauses} pauses, expected at most {most}");
        };
        tokio::select! {
            watched = tokio::time::timeout(PATIENCE, watch) => watched.expect("within the patience"),
            () = async { tokio::join!(go_on, read); } => panic!("it is not sent away"),
        }
        limited.server.stop().await;
    }
}

#[tokio::test]
async fn the_client_asks_again_when_it_may_and_loses_nothing() {
    const CONVERSATIONS: u64 = 30;
    const ASKED: u64 = 40;
    let limits = Limits { device_work_per_second: 100, device_work_burst: 100, ..Limits::OFF };
    for transport in TRANSPORTS {
        let limited = Limited::start(limits);
        let mut carol = limited.login(transport, "carol", 1).await;
        for n in 0..CONVERSATIONS {
            carol.create(group(n), "news", &["alice"]).await;
            carol.change(group(n), message("hello")).await.expect("stored");
        }
        let config = limited.config(transport, "alice");
        let (alice, mut events) = Client::connect(config, MemoryStorage::new()).await.expect("online");
        let mut heard = BTreeMap::<ConversationId, u64>::new();
        let hear = async {
            while heard.len() < CONVERSATIONS as usize || heard.values().any(|seq| *seq < 2) {
                if let Event::Entry { conversation, entry } = events.next().await.expect("the client runs") {
                    let last = heard.insert(conversation, entry.seq.get()).unwrap_or(0);
                    assert_eq!(entry.seq.get(), last + 1, "each once, in order");
                }
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.expect("within the patience");
        events.confirm();
        // What was delivered is said in the background; carol, who looks, is told to wait at times as well.
        let delivered = async {
            for n in 0..CONVERSATIONS {
                loop {
                    match carol.receipts(group(n), None, 0).await {
                        Ok(page) => {
                            let hers = page.receipts.iter().find(|receipt| receipt.user == user("alice"));
                            if hers.is_some_and(|hers| hers.delivered == Seq(2)) {
                                break;
                            }
                        }
                        Err(error) => {
                            assert_eq!(error.code, ErrorCode::RateLimited);
                            tokio::time::sleep(Duration::from_millis(error.retry_after_ms.into())).await;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, delivered).await.expect("within the patience");
        let ask = async |n: u64| {
            let of = group(n % CONVERSATIONS);
            alice.mark_read(of, Seq(2)).await.expect("marked");
            alice.members(of, None, 0).await.expect("listed").members.len()
        };
        let asked = futures_util::future::join_all((0..ASKED).map(ask));
        let asked = tokio::time::timeout(PATIENCE, asked).await.expect("within the patience");
        assert_eq!(asked, [2; ASKED as usize]);
        assert!(limited.metric("tern_errors_total{code=\"rate_limited\"}").await > 0, "it was told to wait");
        limited.server.stop().await;
    }
}
