//! How a client is set up.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tern_protocol::ids::DeviceId;

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transport {
    /// QUIC where the network lets UDP through, else TCP: QUIC is tried first and TCP soon after, and the first to
    /// shake hands is used. Where UDP goes unanswered, TCP is used alone for the next minutes, and longer each time that
    /// is found again, on that network and as long as the client runs.
    #[default]
    Auto,
    /// TLS 1.3 over TCP: gets through every network.
    Tcp,
    /// QUIC: one round trip less, survives a change of address, history does not delay messages.
    Quic,
}

/// A future of a token, or of the reason why there is none.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// Where the app's signed token comes from.
#[derive(Clone)]
pub enum Token {
    /// Always this one. When the server no longer takes it, the client stops.
    Fixed(String),
    /// Asked before every connection. The argument is true when the server has refused the last one: get another.
    Source(Arc<dyn Fn(bool) -> TokenFuture + Send + Sync>),
}

impl Token {
    /// A source out of an async function.
    pub fn source<F, Fut>(f: F) -> Self
    where
        F: Fn(bool) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, String>> + Send + 'static,
    {
        Token::Source(Arc::new(move |fresh| Box::pin(f(fresh))))
    }

    pub(crate) async fn get(&self, fresh: bool) -> Result<String, String> {
        match self {
            Token::Fixed(token) => Ok(token.clone()),
            Token::Source(source) => source(fresh).await,
        }
    }
}

/// Without the token, which must never reach a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Fixed(_) => "Fixed",
            Token::Source(_) => "Source",
        })
    }
}

/// How a client is set up. [`Config::new`] fills in what is usual; the fields are free to be changed.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port`; an IPv6 address in brackets. Several nodes of one cluster with commas between: each connection begins at
    /// a random one, and goes on to others when that fails.
    pub server: String,
    /// The name that the certificate must bear, whichever node it is, when it is not the (first) host.
    pub server_name: Option<String>,
    /// The certificate authorities to trust, PEM.
    pub ca_pem: Vec<u8>,
    /// What carries the frames.
    pub transport: Transport,
    /// Who this is.
    pub token: Token,
    /// For a storage that has no device yet; `None`: a random one.
    pub device: Option<DeviceId>,
    /// Whether to get entries. `false`: a device that only sends and asks; its events are states alone.
    pub receive: bool,
    /// Of conversations new to this device, hand over only so many of the last entries; `None`: all.
    pub latest: Option<u32>,
    /// Whether to tell the server by itself that entries have been taken (see [`crate::Events::next`]).
    pub mark_delivered: bool,
    /// For the server's log, at most 64 bytes.
    pub client: String,
    /// One try to connect, from the name's resolution to the end of the handshake.
    pub connect_timeout: Duration,
    /// Events that wait for the app, and at most as many again (but 64) on their way to it; beyond, entries stay on the
    /// server until there is room.
    pub events_max: usize,
    /// First wait before another try; doubles each time, jittered.
    pub backoff_first: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// Heartbeats at least this often. `None`: as seldom as the server and the network allow, which is found out:
    /// at first as the server asks on TCP, and every 25 s on QUIC (the strictest routers forget UDP flows after 30 s).
    pub heartbeat: Option<Duration>,
    /// A link is dead when nothing comes back for this long after a heartbeat.
    pub dead_after: Duration,
    /// How long [`crate::Client::close`] waits for what is still under way.
    pub close_timeout: Duration,
}

impl Config {
    /// Everything as usual.
    pub fn new(server: impl Into<String>, ca_pem: impl Into<Vec<u8>>, token: Token) -> Self {
        Self {
            server: server.into(),
            server_name: None,
            ca_pem: ca_pem.into(),
            transport: Transport::Auto,
            token,
            device: None,
            receive: true,
            latest: None,
            mark_delivered: true,
            client: concat!("tern-client/", env!("CARGO_PKG_VERSION")).into(),
            connect_timeout: Duration::from_secs(10),
            events_max: 1024,
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            heartbeat: None,
            dead_after: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
        }
    }
}
