//! What one address, one user and one device may take of the real server, over both transports.

mod support;
#[path = "limits/work.rs"]
mod work;

use std::time::Duration;

use support::{PATIENCE, Session, TRANSPORTS, message, next, text, user};
use tern_client::raw::{Connection, Connector};
use tern_client::{Client, Config, Event, MemoryStorage, Token, Transport};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, WireError};
use tern_protocol::ids::{ClientSeq, RequestId, Seq};
use tern_protocol::model::Target;
use tern_protocol::request::Request;
use tern_server::auth::{Minter, Verifier};
use tern_server::clock;
use tern_server::limits::Limits;
use tern_server::server::{Server, Setup};
use tern_server::store::Place;
use tern_server::tls::{CurrentIdentity, DevIdentity};
use tern_server::transport::inherited::Inherited;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server with limits, in this process.
struct Limited {
    server: Server,
    minter: Minter,
    ca: Vec<u8>,
    _data: tempfile::TempDir,
}

impl Limited {
    fn start(limits: Limits) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let identity = DevIdentity::load_or_create(data.path(), &[], clock::wall()).expect("a certificate");
        let minter = Minter::load_or_create(data.path()).expect("a key");
        let any_port = ([127, 0, 0, 1], 0).into();
        let server = Server::start(Setup {
            data: data.path().to_owned(),
            store: Place::Embedded,
            tcp: vec![any_port],
            quic: vec![any_port],
            shards: 1,
            inherited: Inherited::default(),
            proxies: Vec::new(),
            admin: vec![any_port],
            identity: CurrentIdentity::new(identity.identity),
            verifier: Verifier::new(vec![minter.token_key().expect("a key")], Duration::ZERO),
            limits,
            cluster: None,
            reloads: Default::default(),
        });
        let server = server.expect("it starts");
        Self { server, minter, ca: identity.ca_pem.into_bytes(), _data: data }
    }

    fn connector(&self) -> Connector {
        Connector::new(&self.server.tcp[0].to_string(), None, &self.ca).expect("a good address")
    }

    fn token(&self, user: &str) -> String {
        self.minter.mint(user, Duration::from_secs(3600), clock::wall()).expect("a good name")
    }

    /// What the admin listener says of this one.
    async fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.server.admin).await.expect("it listens");
        let request = b"GET /metrics HTTP/1.1\r\nHost: tern\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("it reads");
        let mut page = String::new();
        stream.read_to_string(&mut page).await.expect("it answers");
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.expect("it is there").trim().parse().expect("a number")
    }

    fn config(&self, transport: Transport, user: &str) -> Config {
        let token = Token::Fixed(self.token(user));
        Config { transport, ..Config::new(self.server.tcp[0].to_string(), self.ca.clone(), token) }
    }

    async fn login(&self, transport: Transport, user: &str, device: u64) -> Session {
        let connection = self.connector().connect(transport).await.expect("accepted");
        Session::login(connection, &self.token(user), device).await.expect("the token is good")
    }
}

/// A request that is refused before login, so its answer shows that the connection is there and has not logged in.
async fn is_there(connection: &mut Connection) {
    let body = support::sync(&[]);
    connection.send_request(&Request { id: RequestId(1), body }).await.expect("sent");
    let answer = next(connection).await.expect("it stays").body;
    assert!(matches!(answer, ServerBody::Error(error) if error.code == ErrorCode::NotLoggedIn));
}

#[tokio::test]
async fn who_has_logged_in_takes_no_place_of_others() {
    const PLACES: u32 = 4;
    for transport in TRANSPORTS {
        let limited = Limited::start(Limits { before_login_per_address: PLACES, ..Limits::OFF });
        let mut sessions = Vec::new();
        for device in 1..=2 * u64::from(PLACES) {
            sessions.push(limited.login(transport, "alice", device).await);
        }
        let mut fresh = Vec::new();
        for _ in 0..PLACES {
            let mut connection = limited.connector().connect(transport).await.expect("there is a place");
            is_there(&mut connection).await;
            fresh.push(connection);
        }
        for transport in TRANSPORTS {
            let refused = limited.connector().connect(transport).await;
            assert!(refused.is_err(), "both transports count together");
        }
        sessions[0].text(user("bob"), "I am in").await.expect("others go on");

        // A login makes room.
        let session = Session::login(fresh.remove(0), &limited.token("bob"), 1).await.expect("a good token");
        let mut connection = limited.connector().connect(transport).await.expect("a place is free");
        is_there(&mut connection).await;
        session.close().await;
        limited.server.stop().await;
    }
}

/// What everybody may send at once in these tests; then one a second, which is less than a test sends in any second.
const BURST: u32 = 20;

/// How many of `tries` sends are stored, each of them under the next seq; the others have to be refused with advice.
async fn stored(session: &mut Session, tries: u32, head: &mut u64) -> u32 {
    let mut count = 0;
    for n in 1..=u64::from(tries) {
        let send = session.send_as(Target::User(user("bob")), ClientSeq(n), message("now")).await;
        match send {
            Ok(ok) => {
                *head += 1;
                assert_eq!((ok.seq, ok.duplicate), (Seq(*head), false), "what was refused left nothing");
                count += 1;
            }
            Err(WireError { code, retry_after_ms, .. }) => {
                assert_eq!(code, ErrorCode::RateLimited);
                assert!(
                    (1..=1_000).contains(&retry_after_ms),
                    "{retry_after_ms} ms: what a pause earns may be sent"
                );
            }
        }
    }
    count
}

#[tokio::test]
async fn a_device_that_sends_too_often_is_told_when_to_come_back() {
    for transport in TRANSPORTS {
        let limits = Limits { device_sends_per_second: 1, device_sends_burst: BURST, ..Limits::OFF };
        let limited = Limited::start(limits);
        let (mut phone, mut tablet) =
            (limited.login(transport, "alice", 1).await, limited.login(transport, "alice", 2).await);
        let mut head = 0;
        let count = stored(&mut phone, 2 * BURST, &mut head).await;
        assert!((BURST..2 * BURST).contains(&count), "{count} stored");
        assert_eq!(phone.conversations(0).await[0].head, Seq(head), "who may not send may read");
        assert_eq!(stored(&mut tablet, BURST, &mut head).await, BURST, "another device");
        let refused = u64::from(2 * BURST - count);
        assert_eq!(limited.metric("tern_errors_total{code=\"rate_limited\"}").await, refused);
        assert_eq!(limited.metric("tern_sends_total{shard=\"0\",result=\"refused\"}").await, refused);
        limited.server.stop().await;
    }
}

#[tokio::test]
async fn the_devices_of_a_user_share_what_the_user_may_send() {
    for transport in TRANSPORTS {
        let limits = Limits { user_sends_per_second: 1, user_sends_burst: BURST, ..Limits::OFF };
        let limited = Limited::start(limits);
        let mut head = 0;
        let mut phone = limited.login(transport, "alice", 1).await;
        let count = stored(&mut phone, 2 * BURST, &mut head).await;
        assert!((BURST..2 * BURST).contains(&count), "{count} stored");
        let mut tablet = limited.login(transport, "alice", 2).await;
        assert!(stored(&mut tablet, BURST, &mut head).await < BURST, "another device");
        phone.close().await;
        tablet.close().await;
        let mut back = limited.login(transport, "alice", 3).await;
        assert!(stored(&mut back, BURST, &mut head).await < BURST, "a new connection is no way around it");
        let mut carol = limited.login(transport, "carol", 1).await;
        assert_eq!(stored(&mut carol, BURST, &mut 0).await, BURST, "another user");
        limited.server.stop().await;
    }
}

#[tokio::test]
async fn the_client_waits_as_long_as_it_is_told_and_keeps_the_order() {
    const MESSAGES: u64 = 40;
    let limits = Limits { device_sends_per_second: 20, device_sends_burst: 20, ..Limits::OFF };
    for transport in TRANSPORTS {
        let limited = Limited::start(limits);
        let (alice, _events) =
            Client::connect(limited.config(transport, "alice"), MemoryStorage::new()).await.expect("online");
        let (_bob, mut events) =
            Client::connect(limited.config(transport, "bob"), MemoryStorage::new()).await.expect("online");
        let said: Vec<String> = (0..MESSAGES).map(|n| format!("message {n}")).collect();
        let mut pending = Vec::new();
        for text in &said {
            let send = alice.enqueue(Target::User(user("bob")), message(text));
            pending.push(send.await.expect("enqueued"));
        }
        for (pending, n) in pending.into_iter().zip(1..) {
            let stored = tokio::time::timeout(PATIENCE, pending).await.expect("within the patience");
            assert_eq!(stored.expect("stored").seq, Seq(n));
        }
        let mut heard = Vec::new();
        while heard.len() < said.len() {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("within the patience");
            if let Event::Entry { entry, .. } = event.expect("the client runs") {
                assert_eq!(entry.seq, Seq(heard.len() as u64 + 1));
                heard.push(text(&entry).to_owned());
            }
        }
        assert_eq!(heard, said, "each once, in the order in which they were sent");
        limited.server.stop().await;
    }
}
