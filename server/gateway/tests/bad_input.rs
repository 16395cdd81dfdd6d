//! What no client should send, to the real server over both transports: each fault gets its own code and costs at most
//! the connection that it came on.

#[path = "bad_input/arguments.rs"]
mod arguments;
#[path = "support/faults.rs"]
mod faults;
#[path = "bad_input/frames.rs"]
mod frames;
#[path = "bad_input/heartbeats.rs"]
mod heartbeats;
#[path = "support/jwt.rs"]
mod jwt;
#[path = "bad_input/mutated.rs"]
mod mutated;
#[path = "bad_input/replayed.rs"]
mod replayed;
#[path = "bad_input/rows.rs"]
mod rows;
#[path = "serve/served.rs"]
mod served;
#[path = "bad_input/stalled.rs"]
mod stalled;
mod support;
#[path = "bad_input/tokens.rs"]
mod tokens;

use support::{Session, Ternd, message, next, user};
use tern_client::Transport;
use tern_client::raw::{Connection, Connector};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, WireError};
use tern_protocol::ids::RequestId;
use tern_protocol::request::{Request, RequestBody};

/// A connection that is not logged in.
async fn connect(ternd: &Ternd, transport: Transport) -> Connection {
    connect_to(&ternd.connector(), transport).await
}

/// The same, of another server.
async fn connect_to(connector: &Connector, transport: Transport) -> Connection {
    connector.connect(transport).await.expect("connected")
}

/// The next message, which has to be an error.
async fn error(connection: &mut Connection) -> (RequestId, WireError) {
    loop {
        let message = next(connection).await.expect("still open");
        match message.body {
            ServerBody::Error(error) => return (message.id, error),
            // Of others, meanwhile.
            _ if message.id.get() == 0 => {}
            other => panic!("not an error: {other:?}"),
        }
    }
}

/// The error with which the server closes, and that it closes then.
async fn closes_with(connection: &mut Connection, id: u64, code: ErrorCode) {
    let (answered, error) = error(connection).await;
    assert_eq!((answered.get(), error.code), (id, code), "{}", error.text);
    assert_eq!(next(connection).await, None, "it closes");
}

/// Asks on a bare connection.
async fn ask(connection: &mut Connection, id: u64, body: RequestBody) -> ServerBody {
    connection.send_request(&Request { id: RequestId(id), body }).await.expect("sent");
    let answer = next(connection).await.expect("still open");
    assert_eq!(answer.id, RequestId(id));
    answer.body
}

/// Two bystanders who must not notice anything.
struct Bystanders {
    one: Session,
    other: Session,
    sent: u64,
}

impl Bystanders {
    async fn new(ternd: &Ternd, transport: Transport) -> Self {
        let one = ternd.login(Transport::Tcp, &format!("bystander {transport:?} 1"), 1).await;
        let other = ternd.login(Transport::Quic, &format!("bystander {transport:?} 2"), 1).await;
        Self { one, other, sent: 0 }
    }

    /// They talk as if nothing had happened.
    async fn talk(&mut self) {
        self.sent += 1;
        let ok = self.one.text(self.other.user(), "nice weather").await.expect("stored");
        assert_eq!(ok.seq.get(), self.sent);
        assert_eq!(self.other.pushed().await.1.seq, ok.seq);
        self.one.events.clear();
    }
}

/// Ends a case: a fresh client works, and the process is the same one still.
async fn is_well(ternd: &mut Ternd) {
    for transport in support::TRANSPORTS {
        let mut fresh = ternd.login(transport, "fresh", 1).await;
        fresh.send(tern_protocol::model::Target::User(user("fresh 2")), message("hello")).await.map_or_else(
            |error| assert_eq!(error.code, ErrorCode::ClientSeqStale),
            |ok| assert!(ok.seq.get() > 0),
        );
    }
    assert!(ternd.is_alive());
}
