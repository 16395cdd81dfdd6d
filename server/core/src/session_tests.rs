//! One connection: every state against every request, limits, deadlines.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};
use tern_protocol::convert::encode_request;
use tern_protocol::frame;
use tern_protocol::ids::{ClientSeq, Seq};
use tern_protocol::model::{Change, Message};
use tern_protocol::request::{HistoryFrom, Known};

use super::*;

const TOKEN_MS: u64 = 3_600_000;

fn at(ms: u64) -> Now {
    Now { mono: MonoMillis(ms), wall: WallMillis(1_000_000 + ms) }
}

fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

fn sender() -> Sender {
    Sender { user: user(1), device: DeviceId::new(5).expect("not 0") }
}

fn group() -> ConversationId {
    ConversationId::group_from_random([7; 16])
}

fn login_of(versions: (u32, u32)) -> Login {
    Login { token: "t".into(), device: sender().device, versions, features: vec![3, 9], client: "c".into() }
}

fn login() -> RequestBody {
    RequestBody::Login(login_of((VERSION_MIN, VERSION_MAX)))
}

fn send_to(target: Target, client_seq: u64) -> Send {
    let message = Message { content_type: "".into(), payload: Bytes::from_static(b"hi"), reply_to: None };
    Send { target, client_seq: ClientSeq(client_seq), change: Change::Message(message) }
}

fn send() -> RequestBody {
    RequestBody::Send(send_to(Target::Conversation(group()), 1))
}

fn mark() -> RequestBody {
    RequestBody::Mark(vec![Mark { conversation: group(), delivered: Seq(2), read: Seq(1) }])
}

fn list() -> ListUsers {
    ListUsers { conversation: group(), after: None, limit: 5 }
}

/// Every query, as it is asked and as it is to be answered.
fn queries() -> Vec<(RequestBody, Query)> {
    let sync = Sync {
        known: vec![Known::entries(group(), Seq(2))],
        after: None,
        until: Some(group()),
        latest: Some(4),
    };
    let history = History { conversation: group(), from: HistoryFrom::Backward(Some(Seq(7))), limit: 3 };
    let conversations = ListConversations { after: Some(group()), limit: 8 };
    vec![
        (RequestBody::Sync(sync.clone()), Query::Sync(sync)),
        (RequestBody::History(history), Query::History(history)),
        (RequestBody::ListConversations(conversations), Query::Conversations(conversations)),
        (RequestBody::ListMembers(list()), Query::Members(list())),
        (RequestBody::ListReceipts(list()), Query::Receipts(list())),
    ]
}

fn request(id: u64, body: RequestBody) -> Frame {
    let mut buf = BytesMut::from(&encode_request(&Request { id: RequestId(id), body })[..]);
    let frame = frame::decode(&mut buf, FRAME_BYTES_MAX).expect("a frame").expect("a whole one");
    assert!(buf.is_empty());
    frame
}

/// Field 10, which no version has yet.
fn unknown(id: u8) -> Frame {
    Frame::Message(Bytes::from(vec![8, id, 10 << 3 | 2, 0]))
}

fn invalid() -> Frame {
    request(7, RequestBody::Send(send_to(Target::Conversation(group()), 0)))
}

fn malformed() -> Frame {
    Frame::Message(Bytes::from_static(&[0xff]))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    Fresh,
    Verifying,
    Live,
    Closed,
}

const STATES: [In; 4] = [In::Fresh, In::Verifying, In::Live, In::Closed];

const EPOCH: StoreEpoch = StoreEpoch::from_bytes([7; 16]);

fn identity() -> Identity {
    Identity { user: user(1), expires: WallMillis(at(TOKEN_MS).wall.0) }
}

fn session(state: In) -> Session {
    let mut session = Session::new(at(0));
    if matches!(state, In::Verifying | In::Live) {
        let effect = session.on_frame(at(0), request(1, login()));
        assert_eq!(effect, Effect::Verify(RequestId(1), login_of((VERSION_MIN, VERSION_MAX))));
    }
    if state == In::Live {
        let effect = session.on_verified(at(0), RequestId(1), Ok(identity()), EPOCH);
        assert_eq!(name(&effect), "1 logged in");
    }
    if state == In::Closed {
        let effect = session.close(RequestId(0), ErrorCode::GoingAway, "bye".into());
        assert_eq!(effect, Effect::Close(RequestId(0), ErrorCode::GoingAway, "bye".into()));
    }
    session
}

/// An effect in a word, with the request that it answers.
fn name(effect: &Effect) -> String {
    match effect {
        Effect::None => "none".into(),
        Effect::Heartbeat => "heartbeat".into(),
        Effect::Verify(id, _) => format!("{id} verify"),
        Effect::Append { id, .. } => format!("{id} append"),
        Effect::Mark { id, .. } => format!("{id} mark"),
        Effect::Query(id, ..) => format!("{id} query"),
        Effect::LoggedIn(id, ..) => format!("{id} logged in"),
        Effect::Refuse(id, code, text) | Effect::Close(id, code, text) => {
            assert!(!text.is_empty());
            let verb = if matches!(effect, Effect::Close(..)) { "close" } else { "refuse" };
            format!("{id} {verb} {code}")
        }
    }
}

#[test]
fn every_state_against_every_request() {
    /// In the order of `STATES`.
    #[track_caller]
    fn check(frame: Frame, expected: [&str; 4]) {
        for (state, expected) in STATES.into_iter().zip(expected) {
            let mut session = session(state);
            assert_eq!(name(&session.on_frame(at(1), frame.clone())), expected, "{state:?}");
            let closes = state == In::Closed || expected.contains("close");
            assert_eq!(session.is_closed(), closes, "{state:?}");
            assert_eq!(session.sender().is_some(), state == In::Live && !closes);
        }
    }
    let early = "7 refuse not_logged_in";
    check(request(7, login()), ["7 verify", early, "7 refuse already_logged_in", "none"]);
    check(request(7, send()), [early, early, "7 append", "none"]);
    check(request(7, mark()), [early, early, "7 mark", "none"]);
    check(request(0, mark()), ["0 refuse not_logged_in", "0 refuse not_logged_in", "0 mark", "none"]);
    for (query, _) in queries() {
        check(request(7, query.clone()), [early, early, "7 query", "none"]);
        let close = "0 close malformed";
        check(request(0, query), [close, close, close, "none"]);
    }
    let close = "0 close malformed";
    check(malformed(), [close, close, close, "none"]);
    check(request(0, send()), [close, close, close, "none"]);
    let refuse = "7 refuse unknown_request";
    check(unknown(7), [refuse, refuse, refuse, "none"]);
    let refuse = "7 refuse invalid_argument";
    check(invalid(), [refuse, refuse, refuse, "none"]);
    check(Frame::Heartbeat, ["heartbeat", "heartbeat", "heartbeat", "none"]);
}

#[test]
fn every_state_against_every_bulk_request() {
    #[track_caller]
    fn check(frame: Frame, early: &str, live: &str) {
        // Whatever is answered goes out on the bulk stream itself, closed session or not.
        for (state, expected) in STATES.into_iter().zip([early, early, live, early]) {
            let mut session = session(state);
            assert_eq!(name(&session.on_bulk_frame(at(1), frame.clone())), expected, "{state:?}");
            assert_eq!(session.is_closed(), state == In::Closed, "a bulk stream costs only itself");
        }
    }
    let early = "7 refuse not_logged_in";
    for (query, _) in queries() {
        check(request(7, query), early, "7 query");
    }
    for body in [login(), send(), mark()] {
        check(request(7, body), early, "7 refuse invalid_argument");
    }
    check(Frame::Heartbeat, "0 refuse invalid_argument", "0 refuse invalid_argument");
    check(malformed(), "0 refuse malformed", "0 refuse malformed");
    check(unknown(7), "7 refuse unknown_request", "7 refuse unknown_request");

    // Before login they do not use up the refusals of the session's own stream.
    let mut session = session(In::Fresh);
    for _ in 0..2 * REFUSED_BEFORE_LOGIN_MAX {
        session.on_bulk_frame(at(1), request(7, queries()[0].0.clone()));
    }
    assert!(!session.is_closed());
}

#[test]
fn what_requests_become() {
    let mut session = session(In::Live);
    for (body, query) in queries() {
        let expected = Effect::Query(RequestId(9), user(1), query);
        assert_eq!(session.on_frame(at(1), request(9, body.clone())), expected);
        assert_eq!(session.on_bulk_frame(at(1), request(9, body)), expected);
    }
    let mut appends = |target, conversation, peer| {
        let send = send_to(target, 3);
        let expected =
            Effect::Append { id: RequestId(9), sender: sender(), conversation, peer, send: send.clone() };
        assert_eq!(session.on_frame(at(1), request(9, RequestBody::Send(send))), expected);
    };
    appends(Target::Conversation(group()), group(), None);
    appends(Target::User(user(2)), ConversationId::direct(user(1), user(2)), Some(user(2)));
    appends(Target::User(user(1)), ConversationId::direct(user(1), user(1)), Some(user(1)));
    let marks = vec![Mark { conversation: group(), delivered: Seq(2), read: Seq(1) }];
    let expected = Effect::Mark { id: RequestId(9), sender: sender(), marks };
    assert_eq!(session.on_frame(at(1), request(9, mark())), expected);
}

#[test]
fn unanswered_requests_are_limited() {
    let full = "99 refuse too_many_in_flight";
    let kinds = [send(), mark(), queries()[0].0.clone()];
    for kind in &kinds {
        let mut session = session(In::Live);
        for i in 0..IN_FLIGHT_MAX {
            assert!(!session.is_full());
            let effect = match i % 4 {
                3 => session.on_bulk_frame(at(1), request(2, queries()[1].0.clone())),
                n => session.on_frame(at(1), request(2, kinds[n].clone())),
            };
            assert!(!matches!(effect, Effect::Refuse(..) | Effect::Close(..)));
        }
        assert!(session.is_full());
        assert_eq!(name(&session.on_frame(at(1), request(99, kind.clone()))), full);
        assert_eq!(name(&session.on_bulk_frame(at(1), request(99, queries()[0].0.clone()))), full);
        // Neither a mark without an answer nor what is refused takes a slot.
        assert_eq!(name(&session.on_frame(at(1), request(0, mark()))), "0 mark");
        for _ in 0..3 {
            session.on_answered();
            assert!(!session.is_full());
            assert_eq!(name(&session.on_frame(at(1), invalid())), "7 refuse invalid_argument");
            assert_eq!(name(&session.on_frame(at(1), unknown(7))), "7 refuse unknown_request");
            assert_eq!(name(&session.on_frame(at(1), request(0, mark()))), "0 mark");
            assert!(!matches!(session.on_frame(at(1), request(98, kind.clone())), Effect::Refuse(..)));
            assert!(session.is_full());
        }
        (0..IN_FLIGHT_MAX).for_each(|_| session.on_answered());
        assert!(!session.is_closed());
    }
}

#[test]
#[should_panic(expected = "answered twice")]
fn an_answer_too_many_is_fatal() {
    let mut session = session(In::Live);
    session.on_frame(at(1), request(2, send()));
    session.on_answered();
    session.on_answered();
}

#[test]
fn refusals_before_login_are_limited() {
    let frames =
        [request(7, send()), unknown(7), invalid(), request(7, mark()), request(7, queries()[0].0.clone())];
    for first in 0..frames.len() {
        let mut session = session(In::Fresh);
        let mut effects = (first..).map(|i| session.on_frame(at(1), frames[i % frames.len()].clone()));
        for _ in 1..REFUSED_BEFORE_LOGIN_MAX {
            let effect = effects.next().expect("an effect");
            assert!(matches!(effect, Effect::Refuse(RequestId(7), ..)), "{effect:?}");
        }
        let effect = effects.next().expect("an effect");
        assert!(matches!(effect, Effect::Close(RequestId(7), ..)), "{effect:?}");
        assert_eq!(effects.next(), Some(Effect::None));
    }
    // Heartbeats are no requests; one refusal less leaves the login possible; after it there is no such limit.
    let mut session = session(In::Fresh);
    for _ in 1..REFUSED_BEFORE_LOGIN_MAX {
        session.on_frame(at(1), unknown(7));
        session.on_frame(at(1), Frame::Heartbeat);
    }
    assert_eq!(name(&session.on_frame(at(1), request(8, login()))), "8 verify");
    assert_eq!(name(&session.on_verified(at(1), RequestId(8), Ok(identity()), EPOCH)), "8 logged in");
    (0..100).for_each(|_| assert_eq!(name(&session.on_frame(at(1), unknown(7))), "7 refuse unknown_request"));
}

#[test]
fn how_a_login_ends() {
    #[track_caller]
    fn check(versions: (u32, u32), verified: Result<Identity, ErrorCode>, expected: &str, text: &str) {
        let mut session = session(In::Fresh);
        session.on_frame(at(0), request(4, RequestBody::Login(login_of(versions))));
        assert_eq!(session.sender(), None);
        let verified = verified.map_err(|code| (code, "why".into()));
        let effect = session.on_verified(at(50), RequestId(4), verified, EPOCH);
        assert_eq!(name(&effect), expected);
        match effect {
            Effect::Close(_, _, told) => assert_eq!(told, text),
            Effect::LoggedIn(id, ok, who) => {
                let expected = LoginOk {
                    user: user(1),
                    version: 1,
                    features: vec![],
                    time: at(50).wall,
                    heartbeat_ms: 60_000,
                    in_flight_max: 64,
                    epoch: Some(EPOCH),
                };
                assert_eq!((id, ok, who), (RequestId(4), expected, sender()));
                assert_eq!(session.sender(), Some(sender()));
            }
            effect => panic!("{effect:?}"),
        }
        assert_eq!(session.is_closed(), expected != "4 logged in");
    }
    let until = |ms| Ok(Identity { user: user(1), expires: at(ms).wall });
    check((1, 1), until(51), "4 logged in", "");
    check((0, 9), until(51), "4 logged in", "");
    check((1, 1), until(50), "4 close token_expired", "the token has expired");
    check((1, 1), Err(ErrorCode::TokenInvalid), "4 close token_invalid", "why");
    let text = "this server speaks versions 1 to 1, the client 2 to 3";
    check((2, 3), until(51), "4 close unsupported_version", text);
    let text = "this server speaks versions 1 to 1, the client 1 to 0";
    check((1, 0), until(51), "4 close unsupported_version", text);

    // A verification that nobody waits for any more.
    for state in [In::Fresh, In::Live, In::Closed] {
        let mut session = session(state);
        assert_eq!(session.on_verified(at(1), RequestId(1), Ok(identity()), EPOCH), Effect::None);
        let refused = Err((ErrorCode::TokenInvalid, "why".into()));
        assert_eq!(session.on_verified(at(1), RequestId(1), refused, EPOCH), Effect::None);
        assert_eq!(session.is_closed(), state == In::Closed);
    }
}

#[test]
fn deadlines() {
    /// With frames at these times, the session ends at exactly `end`.
    #[track_caller]
    fn check(state: In, frames: &[(u64, Frame)], end: u64, code: &str) {
        let mut session = session(state);
        for (ms, frame) in frames {
            assert_eq!(session.on_tick(at(*ms)), Effect::None, "at {ms}");
            session.on_frame(at(*ms), frame.clone());
        }
        assert_eq!(session.on_tick(at(end - 1)), Effect::None);
        assert_eq!(name(&session.on_tick(at(end))), format!("0 close {code}"));
        assert_eq!(session.on_tick(at(end * 2)), Effect::None, "closed stays closed");
    }
    let beats = |every: u64, until: u64| -> Vec<_> {
        (1..=until / every).map(|n| (n * every, Frame::Heartbeat)).collect()
    };
    check(In::Fresh, &[], LOGIN_TIMEOUT_MS, "login_timeout");
    check(In::Fresh, &beats(1_000, 9_000), LOGIN_TIMEOUT_MS, "login_timeout");
    check(In::Fresh, &[(9_000, request(1, login()))], LOGIN_TIMEOUT_MS, "login_timeout");
    check(In::Verifying, &[], LOGIN_TIMEOUT_MS, "login_timeout");
    check(In::Live, &[], IDLE_TIMEOUT_MS, "idle_timeout");
    check(In::Live, &beats(HEARTBEAT_MS, 600_000), 600_000 + IDLE_TIMEOUT_MS, "idle_timeout");
    check(In::Live, &[(100_000, request(2, send()))], 100_000 + IDLE_TIMEOUT_MS, "idle_timeout");
    check(In::Live, &[(100_000, invalid())], 100_000 + IDLE_TIMEOUT_MS, "idle_timeout");
    check(In::Live, &beats(HEARTBEAT_MS, TOKEN_MS - HEARTBEAT_MS), TOKEN_MS, "token_expired");

    let mut session = session(In::Live);
    session.on_bulk_frame(at(100_000), request(2, queries()[0].0.clone()));
    session.on_bulk_frame(at(140_000), Frame::Heartbeat);
    assert_eq!(session.on_tick(at(100_000 + IDLE_TIMEOUT_MS - 1)), Effect::None, "a bulk request was heard");
    assert_eq!(name(&session.on_tick(at(100_000 + IDLE_TIMEOUT_MS))), "0 close idle_timeout");
}

#[test]
fn frames_are_small_before_login() {
    for (state, max) in STATES.into_iter().zip([4_096, 4_096, 1_048_576, 4_096]) {
        assert_eq!(session(state).frame_bytes_max(), max, "{state:?}");
    }
}

#[test]
fn closed_stays_closed() {
    for state in STATES {
        let mut session = session(state);
        session.close(RequestId(0), ErrorCode::TakenOver, "elsewhere".into());
        assert_eq!(session.close(RequestId(3), ErrorCode::GoingAway, "again".into()), Effect::None);
        assert_eq!(session.on_frame(at(1), request(2, login())), Effect::None);
        assert_eq!(session.on_verified(at(1), RequestId(1), Ok(identity()), EPOCH), Effect::None);
        assert_eq!(session.on_tick(at(u64::from(u32::MAX))), Effect::None);
        assert!(session.is_closed() && session.sender().is_none());
    }
}
