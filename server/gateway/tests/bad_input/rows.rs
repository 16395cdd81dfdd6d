//! `spec/errors.md` row by row: every code is provoked over each transport, or the test that does it is named here.

use std::path::Path;
use std::time::Duration;

use tern_client::Transport;
use tern_client::raw::Connection;
use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::ids::{ClientSeq, RequestId, Seq};
use tern_protocol::model::{Change, Target};
use tern_protocol::request::{
    History, HistoryFrom, ListConversations, Login, Mark, Request, RequestBody, Send,
};

use crate::support::{Session, Ternd, group, login_request, message, next, over_each, sync, user};
use crate::{connect, error, is_well};

/// Where a row of the table is tested.
enum Row {
    /// Here: what is sent, on a connection in which state.
    Fresh(Sent),
    /// The same, logged in.
    LoggedIn(Sent),
    /// There, because it takes a minute, a broken disk, or a server with another configuration.
    Elsewhere(&'static str, &'static str),
    /// Nowhere: no request of this version can have this answer.
    Never,
}

/// What is sent.
enum Sent {
    /// A request with the number [`ID`].
    Body(RequestBody),
    /// Bytes, and the number of the request that the error answers; 0: it is about the connection.
    Bytes(&'static [u8], u64),
    /// Nothing more: the connection hears it by itself.
    Nothing,
}

/// The number of the request that is refused.
const ID: u64 = 9;

/// Without an arm for "all others": a new code has to say where it is tested.
async fn row(
    code: ErrorCode,
    ternd: &Ternd,
    transport: Transport,
    alice: &mut Session,
    bob: &mut Session,
) -> Row {
    use Row::{Elsewhere, Fresh, LoggedIn, Never};
    use Sent::{Body, Bytes, Nothing};
    let logged_in = |body| LoggedIn(Body(body));
    let to = |conversation, client_seq, change| {
        let target = Target::Conversation(conversation);
        RequestBody::Send(Send { target, client_seq: ClientSeq(client_seq), change })
    };
    let title = |title: &str| Change::Title { title: title.to_owned() };
    let login = |token: &str| login_request(token, 1);
    // Hers alone, and Bob's, in which she is.
    let (alices, bobs) = (group(1), group(2));
    match code {
        ErrorCode::Malformed => LoggedIn(Bytes(&[0x80, 0x00], 0)),
        ErrorCode::FrameTooLarge => LoggedIn(Bytes(&[0x81, 0x80, 0x40], 0)),
        ErrorCode::UnsupportedVersion => {
            Fresh(Body(RequestBody::Login(Login { versions: (2, 9), ..login(&ternd.token("alice")) })))
        }
        ErrorCode::NotLoggedIn => Fresh(Body(sync(&[]))),
        ErrorCode::AlreadyLoggedIn => logged_in(RequestBody::Login(login(&ternd.token("alice")))),
        ErrorCode::TokenInvalid => Fresh(Body(RequestBody::Login(login("a.b.c")))),
        ErrorCode::TokenExpired => {
            Fresh(Body(RequestBody::Login(login(&ternd.token_for("alice", Duration::ZERO)))))
        }
        ErrorCode::LoginTimeout => Elsewhere("tests/bad_input/stalled.rs", "no_login"),
        ErrorCode::IdleTimeout => Elsewhere("../core/src/session_tests.rs", "deadlines"),
        ErrorCode::TakenOver => {
            ternd.login(transport, "alice", DEVICE).await.close().await;
            LoggedIn(Nothing)
        }
        ErrorCode::GoingAway => Elsewhere("tests/e2e/life.rs", "a_server_that_is_stopped_says_goodbye"),
        ErrorCode::UnknownRequest => LoggedIn(Bytes(&[0x02, 0x08, 0x09], ID)),
        ErrorCode::InvalidArgument => logged_in(RequestBody::Mark(vec![Mark {
            conversation: alices,
            delivered: Seq(1_000),
            read: Seq(0),
        }])),
        ErrorCode::UnknownConversation => {
            let conversation = group(99);
            logged_in(RequestBody::History(History {
                conversation,
                from: HistoryFrom::Backward(None),
                limit: 1,
            }))
        }
        ErrorCode::NotMember => {
            bob.change(bobs, Change::Remove { member: user("alice") }).await.expect("removed");
            logged_in(to(bobs, 99, message("still here?")))
        }
        ErrorCode::Forbidden => logged_in(to(bobs, 20, title("mine"))),
        ErrorCode::ConversationExists => {
            logged_in(to(bobs, 20, Change::Create { title: String::new(), members: vec![] }))
        }
        ErrorCode::TooManyMembers => {
            let members = (0..1_024).map(|n| user(&n.to_string())).collect();
            logged_in(to(alices, 20, Change::Add { members }))
        }
        ErrorCode::NoChange => logged_in(to(alices, 20, title("Alice's"))),
        ErrorCode::TooLarge => Never,
        ErrorCode::ClientSeqStale => {
            alice.send_as(Target::Conversation(alices), ClientSeq(10), message("ten")).await.expect("stored");
            logged_in(to(alices, 5, message("five")))
        }
        ErrorCode::DuplicateTrimmed => {
            Elsewhere("../core/src/conversation_tests.rs", "a_retry_finds_its_send_on_any_server")
        }
        ErrorCode::TooManyInFlight => {
            Elsewhere("tests/bad_input/frames.rs", "too_many_at_once_are_refused_one_by_one")
        }
        ErrorCode::Overloaded => {
            Elsewhere("tests/durability.rs", "sends_beyond_what_a_shard_takes_up_are_refused_at_once")
        }
        ErrorCode::Unavailable | ErrorCode::OutcomeUnknown => {
            Elsewhere("../core/src/conversation_tests.rs", "a_commit_that_fails")
        }
        ErrorCode::Internal => {
            Elsewhere("../core/src/conversation_tests.rs", "nobody_is_refused_for_what_is_not_durable")
        }
        ErrorCode::RateLimited => Elsewhere("tests/limits.rs", "stored"),
    }
}

/// Alice's device, on whose connection it is provoked.
const DEVICE: u64 = 2;

/// Sends it; returns the number of the request that is to be refused.
async fn send(connection: &mut Connection, sent: Sent) -> u64 {
    match sent {
        Sent::Body(body) => {
            connection.send_request(&Request { id: RequestId(ID), body }).await.expect("sent");
            ID
        }
        Sent::Bytes(bytes, id) => {
            connection.send_bytes(bytes).await.expect("sent");
            id
        }
        Sent::Nothing => 0,
    }
}

/// The error is the one of the table, with the advice and the end that the table says.
async fn is_met(connection: &mut Connection, code: ErrorCode, sent: Sent) {
    let expected = send(connection, sent).await;
    let (id, error) = error(connection).await;
    assert_eq!((id.get(), error.code), (expected, code), "{}", error.text);
    assert!(!error.text.is_empty(), "a person can read why");
    assert_eq!(error.retry_after_ms > 0, code.retry() == Retry::Later, "advice where it helps");
    if code.closes() {
        assert_eq!(next(connection).await, None, "{code}: it closes");
        return;
    }
    let list = RequestBody::ListConversations(ListConversations { after: None, limit: 1 });
    connection.send_request(&Request { id: RequestId(ID + 1), body: list }).await.expect("sent");
    loop {
        let message = next(connection).await.expect("it stays");
        if message.id == RequestId(ID + 1) {
            return;
        }
        assert_eq!(message.id.get(), 0, "{code}: one answer for a request");
    }
}

/// The function is there and names the code.
fn is_elsewhere(code: ErrorCode, file: &str, test: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{code}: {file}: {error}"));
    let body = text.split_once(&format!("fn {test}(")).map(|(_, rest)| rest);
    let body = body.unwrap_or_else(|| panic!("{code}: there is no {test} in {file}"));
    let body = body.split("\n}\n").next().unwrap_or_default();
    assert!(
        body.contains(&format!("{code:?}")) || body.contains(code.label()),
        "{code}: {test} does not name it"
    );
}

#[tokio::test]
async fn every_row_of_the_table_is_met() {
    over_each(async |ternd, transport| {
        let mut bob = ternd.login(transport, "bob", 1).await;
        bob.create(group(2), "Bob's", &["alice"]).await;
        ternd.login(transport, "alice", 1).await.create(group(1), "Alice's", &[]).await;
        // Last the one after which she is no longer in Bob's group.
        let (last, codes): (Vec<ErrorCode>, Vec<ErrorCode>) =
            ErrorCode::ALL.iter().partition(|code| **code == ErrorCode::NotMember);
        for code in codes.into_iter().chain(last) {
            eprintln!("{code}");
            let mut alice = ternd.login(transport, "alice", DEVICE).await;
            match row(code, ternd, transport, &mut alice, &mut bob).await {
                Row::LoggedIn(sent) => is_met(alice.connection(), code, sent).await,
                Row::Fresh(sent) => is_met(&mut connect(ternd, transport).await, code, sent).await,
                Row::Elsewhere(file, test) => is_elsewhere(code, file, test),
                Row::Never => {}
            }
        }
        is_well(ternd).await;
    })
    .await;
}
