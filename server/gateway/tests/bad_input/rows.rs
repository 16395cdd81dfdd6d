//! `spec/errors.md` row by row: each code is provoked over each transport, by what comes over the network, what becomes
//! of the disk and of the process, and nothing else.

use std::time::Duration;

use tern_client::Transport;
use tern_client::raw::{Connection, Connector, Received};
use tern_core::limits::SENDS_WAITING_MIN;
use tern_protocol::convert::encode_request;
use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::frame::HEARTBEAT;
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq};
use tern_protocol::limits::{IDLE_TIMEOUT_MS, IN_FLIGHT_MAX, LOGIN_TIMEOUT_MS, SEND_WINDOW};
use tern_protocol::model::{Change, Target, WallMillis};
use tern_protocol::request::{
    History, HistoryFrom, ListConversations, Login, Mark, Request, RequestBody, Send,
};
use tern_server::auth::Minter;
use tern_server::clock;
use tern_server::server::EXIT_STORE_FAILED;
use tern_store::Kv;
use tern_store::embedded::{Embedded, Options};
use tern_store::keys::entry::EntryKey;
use tern_store::ops::trim;

use crate::faults::Faults;
use crate::served::{Files, Served, read};
use crate::support::{
    PATIENCE, Session, TRANSPORTS, group, login_request, message, next, refused, sync, user,
};
use crate::{connect_to, error};

/// Alice's device, on whose connection it is provoked.
const DEVICE: u64 = 2;
/// The number of the request that is refused.
const ID: u64 = 9;
/// Why a code can be met nowhere, in the words that its row has for it. There are no other reasons.
const NEVER: [&str; 1] = ["The limits of version 1 do not let such a request through"];

/// What a server is in, in the order in which it gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Well,
    /// The disk does not finish a sync, until the row is met.
    DiskHangs,
    /// A deadline passes.
    Late,
    /// The next sync fails, and the process is held where it would end.
    DiskFails,
    /// It has failed, and the process has not ended yet.
    DiskFailed,
    /// Another one, with low limits.
    Limited,
    /// The same, told to stop.
    Stops,
}

/// How a row of the table is met.
enum Row {
    /// On a connection that is not logged in.
    Fresh(State, Sent),
    /// On Alice's.
    LoggedIn(State, Sent),
    /// One of [`NEVER`].
    Never(&'static str),
}

/// What is sent.
enum Sent {
    /// A request with the number [`ID`].
    Body(RequestBody),
    /// Bytes, and the number of the request that the error answers; 0: it is about the connection.
    Bytes(Vec<u8>, u64),
    /// Nothing more: the connection hears it by itself.
    Nothing,
}

/// Alice's alone; Bob's, in which she is; one from which she was removed; one whose beginning is trimmed away.
fn groups() -> [ConversationId; 4] {
    [1, 2, 3, 4].map(group)
}

fn send_to(target: Target, client_seq: u64, change: Change) -> RequestBody {
    RequestBody::Send(Send { target, client_seq: ClientSeq(client_seq), change })
}

/// One after the other, in one piece.
fn frames(bodies: impl IntoIterator<Item = (u64, RequestBody)>) -> Vec<u8> {
    let frame = |(id, body)| encode_request(&Request { id: RequestId(id), body });
    bodies.into_iter().flat_map(frame).collect()
}

fn list() -> RequestBody {
    RequestBody::ListConversations(ListConversations { after: None, limit: 1 })
}

/// Without an arm for "all others": a new code has to say how it is met.
fn row(code: ErrorCode, files: &Files) -> Row {
    use Row::{Fresh, LoggedIn, Never};
    use Sent::{Body, Bytes, Nothing};
    use State::{DiskFailed, DiskFails, DiskHangs, Late, Limited, Stops, Well};
    let to = |conversation, number, change| send_to(Target::Conversation(conversation), number, change);
    let title = |title: &str| Change::Title { title: title.to_owned() };
    let login = |token: &str| login_request(token, 1);
    let [alices, bobs, left, trimmed] = groups();
    match code {
        ErrorCode::Malformed => LoggedIn(Well, Bytes(vec![0x80, 0x00], 0)),
        ErrorCode::FrameTooLarge => LoggedIn(Well, Bytes(vec![0x81, 0x80, 0x40], 0)),
        ErrorCode::UnsupportedVersion => {
            let login = Login { versions: (2, 9), ..login(&files.token("alice")) };
            Fresh(Well, Body(RequestBody::Login(login)))
        }
        ErrorCode::NotLoggedIn => Fresh(Well, Body(sync(&[]))),
        ErrorCode::AlreadyLoggedIn => LoggedIn(Well, Body(RequestBody::Login(login(&files.token("alice"))))),
        ErrorCode::TokenInvalid => Fresh(Well, Body(RequestBody::Login(login("a.b.c")))),
        ErrorCode::TokenExpired => Fresh(Well, Body(RequestBody::Login(login(&expired(files))))),
        ErrorCode::LoginTimeout => Fresh(Late, Nothing),
        ErrorCode::IdleTimeout => LoggedIn(Late, Nothing),
        ErrorCode::TakenOver => LoggedIn(Well, Nothing),
        ErrorCode::GoingAway => LoggedIn(Stops, Nothing),
        ErrorCode::UnknownRequest => LoggedIn(Well, Bytes(vec![0x02, 0x08, ID as u8], ID)),
        ErrorCode::InvalidArgument => {
            let mark = Mark { conversation: alices, delivered: Seq(1_000), read: Seq(0) };
            LoggedIn(Well, Body(RequestBody::Mark(vec![mark])))
        }
        ErrorCode::UnknownConversation => {
            let from = HistoryFrom::Backward(None);
            let history = History { conversation: group(99), from, limit: 1 };
            LoggedIn(Well, Body(RequestBody::History(history)))
        }
        ErrorCode::NotMember => LoggedIn(Well, Body(to(left, 99, message("still here?")))),
        ErrorCode::Forbidden => LoggedIn(Well, Body(to(bobs, 20, title("mine")))),
        ErrorCode::ConversationExists => {
            let create = Change::Create { title: String::new(), members: vec![] };
            LoggedIn(Well, Body(to(bobs, 20, create)))
        }
        ErrorCode::TooManyMembers => {
            let members = (0..1_024).map(|n| user(&n.to_string())).collect();
            LoggedIn(Well, Body(to(alices, 20, Change::Add { members })))
        }
        ErrorCode::NoChange => LoggedIn(Well, Body(to(alices, 20, title("Alice's")))),
        ErrorCode::TooLarge => Never(NEVER[0]),
        ErrorCode::ClientSeqStale => LoggedIn(Well, Body(to(alices, 5, message("five")))),
        ErrorCode::ClientSeqUsed => LoggedIn(Well, Body(to(alices, 30, message("that")))),
        ErrorCode::DuplicateTrimmed => LoggedIn(Well, Body(to(trimmed, 2, message("message 2")))),
        ErrorCode::TooManyInFlight => LoggedIn(DiskHangs, Body(to(alices, 200, message("one more")))),
        ErrorCode::Overloaded => LoggedIn(DiskHangs, Body(to(alices, 300, message("one more")))),
        ErrorCode::Unavailable => {
            LoggedIn(DiskFailed, Body(send_to(Target::User(user("carol")), 1, message("hello"))))
        }
        ErrorCode::OutcomeUnknown => LoggedIn(DiskFails, Body(to(alices, 400, message("stored?")))),
        ErrorCode::Internal => LoggedIn(DiskFailed, Body(list())),
        ErrorCode::RateLimited => {
            let twice = [(ID - 1, 1), (ID, 2)]
                .map(|(id, number)| (id, send_to(Target::User(user("bob")), number, message("now"))));
            LoggedIn(Limited, Bytes(frames(twice), ID))
        }
    }
}

fn expired(files: &Files) -> String {
    let minter = Minter::load_or_create(files.dir.path()).expect("a key");
    let made = WallMillis(clock::wall().0 - 3_600_000);
    minter.mint("alice", Duration::from_secs(60), made).expect("a good name")
}

/// A server, which gets into one state after the other.
struct Walk {
    transport: Transport,
    files: Files,
    faults: Faults,
    served: Served,
}

impl Walk {
    /// A server with one shard, so that what one shard refuses is refused.
    async fn begin(transport: Transport) -> Self {
        let mut files = Files::new();
        files.config = files.config.replace("shards = 2", "shards = 1");
        trimmed(&files, transport).await;
        let faults = Faults::with_clock(&files.path("data"));
        let mut command = files.command(&["serve"]);
        command.envs(faults.env().iter().map(|(name, value)| (name, value)));
        let walk = Self { transport, served: Served::start(command), files, faults };
        walk.login("alice", 1).await.create(groups()[0], "Alice's", &[]).await;
        let mut bob = walk.login("bob", 1).await;
        for group in [groups()[1], groups()[2]] {
            bob.create(group, "Bob's", &["alice"]).await;
        }
        bob.change(groups()[2], Change::Remove { member: user("alice") }).await.expect("removed");
        walk
    }

    fn connector(&self) -> Connector {
        self.served.connector(&read(&self.files.path("first/ca.pem")))
    }

    async fn login(&self, name: &str, device: u64) -> Session {
        self.served.login(&self.connector(), self.transport, &self.files.token(name), device).await
    }

    /// Connections whose sends wait for the disk, as many as a shard takes up.
    async fn crowd(&self) -> Vec<Session> {
        let (connector, mut crowd, mut left) = (self.connector(), Vec::new(), SENDS_WAITING_MIN);
        while left > 0 {
            let name = format!("user {left}");
            let token = self.files.token(&name);
            let mut session = self.served.login(&connector, self.transport, &token, 1).await;
            // A query behind them is answered when they have been taken up.
            let sends = left.min(IN_FLIGHT_MAX as u64 - 1);
            let send = |n| (1 + n, send_to(Target::User(user("bob")), n, message("now")));
            let requests = frames((1..=sends).map(send).chain([(100, list())]));
            let connection = session.connection();
            connection.send_bytes(&requests).await.expect("sent");
            while next(connection).await.expect("it stays").id != RequestId(100) {}
            crowd.push(session);
            left -= sends;
        }
        crowd
    }

    /// What has to happen before the request. Returns connections that have to live until it is answered.
    async fn prepare(&self, code: ErrorCode, alice: &mut Session) -> Vec<Session> {
        let to_hers = |number, text| send_to(Target::Conversation(groups()[0]), number, message(text));
        match code {
            ErrorCode::TakenOver => return vec![self.login("alice", DEVICE).await],
            ErrorCode::ClientSeqStale => drop(alice.ask(to_hers(10, "ten")).await.expect("stored")),
            ErrorCode::ClientSeqUsed => drop(alice.ask(to_hers(30, "this")).await.expect("stored")),
            ErrorCode::TooManyInFlight => {
                self.faults.set("hold-sync");
                for n in 0..IN_FLIGHT_MAX as u64 {
                    alice.request(to_hers(100 + n, "under way")).await;
                }
            }
            ErrorCode::Overloaded => {
                self.faults.set("hold-sync");
                return self.crowd().await;
            }
            ErrorCode::LoginTimeout => self.faults.pass(Duration::from_millis(LOGIN_TIMEOUT_MS + 1_000)),
            ErrorCode::IdleTimeout => {
                // Half a frame keeps a QUIC connection alive, and is not what is waited for.
                let before = self.read_bytes().await;
                self.faults.pass(Duration::from_millis(IDLE_TIMEOUT_MS * 2 / 3));
                alice.connection().send_bytes(&[0x02]).await.expect("sent");
                let taken = async { while self.read_bytes().await == before {} };
                tokio::time::timeout(PATIENCE, taken).await.expect("it is read");
                self.faults.pass(Duration::from_millis(IDLE_TIMEOUT_MS / 2));
            }
            ErrorCode::OutcomeUnknown => {
                self.faults.set("hold-exit");
                self.faults.set("fail-sync");
            }
            ErrorCode::GoingAway => self.served.signal(libc::SIGTERM),
            _ => {}
        }
        Vec::new()
    }

    async fn read_bytes(&self) -> u64 {
        self.served.metric("tern_read_bytes_total{shard=\"0\"}").await
    }

    /// The next rows are met on a server with low limits, when those of the first one have been counted.
    async fn limit(&mut self, met: &[ErrorCode]) {
        for code in met {
            let name = format!("tern_errors_total{{code=\"{}\"}}", code.label());
            assert!(self.served.metric(&name).await > 0, "{code} is counted");
        }
        self.faults.clear("hold-exit");
        assert_eq!(self.served.wait().code(), Some(EXIT_STORE_FAILED));
        self.files = Files::new();
        self.files.config += "\n[limits]\ndevice_sends_per_second = 1\ndevice_sends_burst = 1\n";
        self.served = self.files.serve();
    }
}

/// A store whose last group has more of Alice's messages in its log than are remembered with her device.
async fn filled(files: &Files, transport: Transport) -> Embedded {
    let mut served = files.serve();
    let connector = served.connector(&read(&files.path("first/ca.pem")));
    let mut alice = served.login(&connector, transport, &files.token("alice"), DEVICE).await;
    alice.create(groups()[3], "old", &[]).await;
    for n in 2..=SEND_WINDOW + 2 {
        alice.change(groups()[3], message(&format!("message {n}"))).await.expect("stored");
    }
    served.signal(libc::SIGTERM);
    assert!(served.wait().success());
    let store = files.path("data/store");
    let store = Embedded::open(&store, Options::default(), Box::new(|error| panic!("{error}")));
    store.expect("nobody has it")
}

/// The same, with the log's beginning trimmed away: nothing in a running server does that.
async fn trimmed(files: &Files, transport: Transport) {
    let head = trim::raise_floor(&filled(files, transport).await, groups()[3], Seq(1_000)).await;
    assert_eq!(head.expect("trimmed").expect("it is there").floor, Seq(SEND_WINDOW as u64 + 2));
}

/// Sends it; returns the number of the request that is to be refused.
async fn send(connection: &mut Connection, sent: Sent) -> u64 {
    match sent {
        Sent::Body(body) => {
            connection.send_request(&Request { id: RequestId(ID), body }).await.expect("sent");
            ID
        }
        Sent::Bytes(bytes, id) => {
            connection.send_bytes(&bytes).await.expect("sent");
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
    connection.send_request(&Request { id: RequestId(ID + 1), body: list() }).await.expect("sent");
    loop {
        let message = next(connection).await.expect("it stays");
        if message.id == RequestId(ID + 1) {
            return;
        }
        assert_ne!(message.id, RequestId(ID), "{code}: one answer for a request");
    }
}

/// A connection that is not logged in, and is served.
async fn fresh(walk: &Walk) -> Connection {
    let mut connection = connect_to(&walk.connector(), walk.transport).await;
    connection.send_bytes(HEARTBEAT).await.expect("sent");
    let answer = tokio::time::timeout(PATIENCE, connection.recv()).await.expect("within the patience");
    assert!(matches!(answer, Ok(Received::Heartbeat)), "{answer:?}");
    connection
}

async fn every_row_is_met(transport: Transport) {
    let mut walk = Walk::begin(transport).await;
    let spec = include_str!("../../../../spec/errors.md");
    let mut codes = Vec::new();
    for code in ErrorCode::ALL {
        match row(*code, &walk.files) {
            Row::Fresh(state, _) | Row::LoggedIn(state, _) => codes.push((state, *code)),
            Row::Never(why) => {
                let line = format!("| {} | `{}` |", code.code(), code.label());
                let line = spec.lines().find(|text| text.starts_with(&line)).expect("a row");
                assert!(NEVER.contains(&why) && line.contains(why), "{code}: {line}");
            }
        }
    }
    codes.sort_by_key(|(state, _)| *state);
    let (mut met, mut limited) = (Vec::new(), false);
    for (state, code) in codes {
        eprintln!("over {transport:?}: {code}");
        if state >= State::Limited && !std::mem::replace(&mut limited, true) {
            walk.limit(&met).await;
        }
        let mut alice = walk.login("alice", DEVICE).await;
        match row(code, &walk.files) {
            Row::Fresh(_, sent) => {
                let mut fresh = fresh(&walk).await;
                walk.prepare(code, &mut alice).await;
                is_met(&mut fresh, code, sent).await;
            }
            Row::LoggedIn(_, sent) => {
                let _others = walk.prepare(code, &mut alice).await;
                is_met(alice.connection(), code, sent).await;
            }
            Row::Never(_) => unreachable!("left out above"),
        }
        if state == State::DiskHangs {
            walk.faults.clear("hold-sync");
        }
        met.push(code);
    }
    assert!(walk.served.wait().success(), "told to stop, it ends well");
}

#[tokio::test]
async fn every_row_of_the_table_is_met_over_tcp() {
    every_row_is_met(Transport::Tcp).await;
}

#[tokio::test]
async fn every_row_of_the_table_is_met_over_quic() {
    every_row_is_met(Transport::Quic).await;
}

/// A client that is told to come back until it works would hold up all that is behind it.
#[tokio::test]
async fn damage_in_a_log_is_a_fault_of_the_server() {
    let (files, damaged) = (Files::new(), groups()[3]);
    let store = filled(&files, Transport::Tcp).await;
    let mut transaction = store.begin();
    transaction.set(&EntryKey { conversation: damaged, seq: Seq(2) }.encode(), b"nonsense".as_slice().into());
    transaction.commit().await.expect("written");
    drop(store);

    let served = files.serve();
    let connector = served.connector(&read(&files.path("first/ca.pem")));
    for transport in TRANSPORTS {
        let mut alice = served.login(&connector, transport, &files.token("alice"), DEVICE).await;
        // Nobody remembers whether it was stored, so the log is searched for it.
        let again = send_to(Target::Conversation(damaged), 1, message("message 1"));
        let history = History { conversation: damaged, from: HistoryFrom::Forward(Seq(1)), limit: 9 };
        for request in [again, RequestBody::History(history)] {
            assert_eq!(refused(alice.ask(request).await), ErrorCode::Internal);
        }
        let new =
            alice.send_as(Target::Conversation(damaged), ClientSeq(1_000 + transport as u64), message("new"));
        new.await.expect("stored behind it");
    }
    let line = served.logged("a conversation cannot be used");
    assert!(line.contains("ERROR") && line.contains("entry record"), "{line}");
}
