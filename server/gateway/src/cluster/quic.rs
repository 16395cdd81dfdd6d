//! Links: what nodes of a cluster talk over. One QUIC connection with one stream for each, mutual TLS 1.3.
//!
//! This is quinn with its tasks. The clients' QUIC ([`crate::transport::quic`]) drives quinn-proto by itself, for a
//! hundred thousand connections on each shard's one thread, with ids that steer datagrams to shards (spec/adr/0011). A
//! node has as many links as there are other nodes, on a port of their own, and they may be used from any thread.
//!
//! - Who has a certificate for [`NODE_NAME`] of an authority in `cluster.ca`, and its key, is a node; nobody else gets
//!   as far as the stream. Nodes are dialled by address, and addresses change; so the name says what a certificate is
//!   for, not which node it is of. It keeps out what the same authority has signed for other purposes, at both ends.
//! - Which node it is, versions and everything else is for the protocol on the stream to say.
//! - The end that was dialled opens the stream, when it has verified the other's certificate, and sends one byte. So
//!   whoever dials knows that it was accepted, which the end of its own handshake does not tell in TLS 1.3.

mod error;
mod identity;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, ReadExactError, RecvStream, SendStream,
    StoppedError, TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::SockRef;
use tern_core::address::Source;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

pub use error::LinkError;
pub use identity::LinkIdentity;

/// The protocol, and its version, that both ends have to name.
pub const ALPN: &[u8] = b"tern-link/1";
/// The DNS name that every node's certificate has.
pub const NODE_NAME: &str = "tern-node";

/// From the first datagram to a link that can be used, at either end.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long without traffic a node asks whether the other is there.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Without any answer for so long a link is dead. It counts from what was sent first after the last answer, which may
/// be a question that went out [`KEEP_ALIVE`] later. (At least three times what QUIC waits before it sends again, which
/// is longer only when a round trip takes half a second.)
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// A node that says nothing is given up by then.
const DEAD_AFTER_MAX: Duration = Duration::from_secs(5);
const _: () = assert!(KEEP_ALIVE.as_millis() + IDLE_TIMEOUT.as_millis() <= DEAD_AFTER_MAX.as_millis());

/// What may be on its way, or wait to be read, in each direction: batches of frames of up to 1 MiB, of which one is
/// read while others come. At 100 ms there and back it is 40 MB/s, some 150,000 messages a second; within a data
/// centre it is no limit. A node that stops reading costs each other one this much memory.
const WINDOW_BYTES: u32 = 4 << 20;
/// Kept in the kernel while this node's threads are busy; the system may allow less.
const SOCKET_BUFFER_BYTES: usize = WINDOW_BYTES as usize;

/// Handshakes of others under way. For more, the oldest one of the address that has most is given up, so that an address
/// that never means to end its own keeps no other out.
const HANDSHAKES_MAX: usize = 64;
/// Two round trips of the longest ways. Who has had less time gives way only to an address that has fewer; otherwise
/// whoever comes is not answered, and tries again by itself.
const HANDSHAKE_TIME_MIN: Duration = Duration::from_millis(500);
/// With more handshakes under way, whoever comes has to prove its address first (Retry, one round trip), so that
/// forged addresses cost nothing.
const HANDSHAKES_UNPROVEN_MAX: usize = 8;
/// Links and handshakes, and what is left of those that ended in the last seconds. Who comes above that is not
/// answered.
const CONNECTIONS_MAX: usize = 2048;
/// First datagrams that wait for this node's attention, and the bytes that follow each.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES_MAX: u64 = 16 << 10;
/// Links that nobody has asked for with [`LinkEndpoint::accept`] yet.
const ACCEPTED_MAX: usize = 64;
/// Strangers who are told of in the log at `warn`: one in this time. The others are there at `debug`.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long [`LinkEndpoint::close`] waits for the other nodes to have heard of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the end that was dialled sends first.
const WELCOME: u8 = 1;
/// Every end is an end: reasons are for the protocol above, or in words.
const NO_CODE: VarInt = VarInt::from_u32(0);

/// Where a node listens for links, and dials others from: one UDP socket. Dropping it ends all its links.
#[derive(Debug)]
pub struct LinkEndpoint {
    endpoint: Endpoint,
    address: SocketAddr,
    client: quinn::ClientConfig,
    accepted: Mutex<mpsc::Receiver<LinkStream>>,
    is_closed: AtomicBool,
}

impl LinkEndpoint {
    /// Listens, on the current runtime, which drives all links. From now on handshakes of others are made, whether
    /// somebody waits in [`Self::accept`] or not.
    ///
    /// # Errors
    /// When the system does not give the address.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(address: SocketAddr, identity: &LinkIdentity) -> io::Result<Self> {
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen for other nodes on {address} (UDP): {error}"))
        };
        let socket = std::net::UdpSocket::bind(address).map_err(explain)?;
        SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES).map_err(explain)?;
        let mut server = quinn::ServerConfig::with_crypto(identity.server.clone());
        server
            // The other end opens none.
            .transport_config(transport_config(0))
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_MAX as u64 * INCOMING_BYTES_MAX);
        let mut client = quinn::ClientConfig::new(identity.client.clone());
        client.transport_config(transport_config(1));
        let mut config = EndpointConfig::new(identity.reset_key.clone());
        let id_key = identity.id_key;
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
        let endpoint =
            Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).map_err(explain)?;
        let address = endpoint.local_addr().map_err(explain)?;
        let (links, accepted) = mpsc::channel(ACCEPTED_MAX);
        tokio::spawn(take_in(endpoint.clone(), links));
        Ok(Self {
            endpoint,
            address,
            client,
            accepted: Mutex::new(accepted),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A link to the node there, once both have accepted each other.
    ///
    /// # Errors
    /// When there is none after five seconds, or one of the two refuses the other.
    pub async fn connect(&self, address: SocketAddr) -> Result<LinkStream, LinkError> {
        let dial = self.endpoint.connect_with(self.client.clone(), address, NODE_NAME);
        let dial = dial.map_err(|why| LinkError::not_dialled(address, why))?;
        let welcome = async {
            let connection = dial.await.map_err(|how| LinkError::ended(address, how))?;
            let opened = connection.accept_bi().await;
            let (send, mut receive) = opened.map_err(|how| LinkError::ended(address, how))?;
            let mut welcome = [0];
            match receive.read_exact(&mut welcome).await {
                Ok(()) if welcome == [WELCOME] => Ok(LinkStream::new(connection, send, receive)),
                Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(how))) => {
                    Err(LinkError::ended(address, how))
                }
                Ok(()) | Err(_) => {
                    Err(LinkError::Protocol { peer: address, problem: "no welcome".to_owned() })
                }
            }
        };
        timeout(HANDSHAKE_TIMEOUT, welcome).await.unwrap_or(Err(LinkError::Silent(address)))
    }

    /// The next link of a node that has dialled this one; `None` once the endpoint is closed. Handshakes that fail or
    /// dawdle hold up nobody. May be cancelled.
    pub async fn accept(&self) -> Option<LinkStream> {
        let mut accepted = self.accepted.lock().await;
        loop {
            let link = accepted.recv().await?;
            let has_ended = link.connection.close_reason().is_some();
            if !has_ended && !self.is_closed.load(Ordering::Relaxed) {
                return Some(link);
            }
        }
    }

    /// Ends all links and takes no more. Returns when the other nodes have been told, as far as they can be.
    pub async fn close(&self) {
        self.begin_to_close();
        let _ = timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }

    fn begin_to_close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.endpoint.close(NO_CODE, b"the node stops");
    }
}

impl Drop for LinkEndpoint {
    fn drop(&mut self) {
        self.begin_to_close();
    }
}

/// Of an end where the other one may open so many streams.
fn transport_config(streams: u32) -> Arc<TransportConfig> {
    const IDLE_MS: u32 = IDLE_TIMEOUT.as_millis() as u32;

    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))));
    Arc::new(config)
}

/// Makes handshakes with whoever comes, until the endpoint is closed.
async fn take_in(endpoint: Endpoint, links: mpsc::Sender<LinkStream>) {
    let mut handshakes = Handshakes::default();
    let mut log = StrangersLog::default();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                None => return,
                Some(incoming) if endpoint.open_connections() >= CONNECTIONS_MAX => incoming.ignore(),
                Some(incoming) => handshakes.begin(incoming),
            },
            Some(ended) = handshakes.next() => match ended {
                Ok(link) => {
                    let peer = link.peer;
                    if links.try_send(link).is_err() {
                        warn!(%peer, "closed the link of another node: too many wait to be taken up");
                    }
                }
                Err(error) => log.tell(&error),
            },
        }
    }
}

#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<Result<LinkStream, LinkError>>,
    /// The oldest first.
    under_way: Vec<UnderWay>,
}

struct UnderWay {
    source: Source,
    since: Instant,
    task: AbortHandle,
}

impl Handshakes {
    fn begin(&mut self, incoming: Incoming) {
        if !incoming.remote_address_validated() && self.under_way.len() >= HANDSHAKES_UNPROVEN_MAX {
            // Who has not proven its address can always be asked to; others would be refused by this.
            let _ = incoming.retry();
            return;
        }
        let source = Source::from(incoming.remote_address().ip());
        if self.under_way.len() >= HANDSHAKES_MAX && !self.give_one_up_for(source) {
            incoming.ignore();
            return;
        }
        let task = self.tasks.spawn(answer(incoming));
        self.under_way.push(UnderWay { source, since: Instant::now(), task });
    }

    /// The oldest one of the address that has most; false: it stays.
    fn give_one_up_for(&mut self, comer: Source) -> bool {
        let of = |source: Source| self.under_way.iter().filter(|other| other.source == source).count();
        // The last of those that are equal is taken: of one address, its oldest.
        let busiest = self.under_way.iter().map(|other| of(other.source)).enumerate().rev();
        let Some((at, most)) = busiest.max_by_key(|(_, count)| *count) else { return true };
        if most <= 1 + of(comer) && self.under_way[at].since.elapsed() < HANDSHAKE_TIME_MIN {
            return false;
        }
        self.under_way.remove(at).task.abort();
        true
    }

    /// The next one that ends, but for those that were given up; never, when there is none.
    async fn next(&mut self) -> Option<Result<LinkStream, LinkError>> {
        loop {
            let (id, ended) = match self.tasks.join_next_with_id().await? {
                Ok(ended) => ended,
                Err(given_up) => {
                    self.forget(given_up.id());
                    continue;
                }
            };
            self.forget(id);
            return Some(ended);
        }
    }

    fn forget(&mut self, id: Id) {
        self.under_way.retain(|other| other.task.id() != id);
    }
}

async fn answer(incoming: Incoming) -> Result<LinkStream, LinkError> {
    let peer = canonical(incoming.remote_address());
    let handshake = async {
        let connection = incoming.accept()?.await?;
        let (mut send, receive) = connection.open_bi().await?;
        match send.write_all(&[WELCOME]).await {
            Ok(()) => Ok(LinkStream::new(connection, send, receive)),
            Err(quinn::WriteError::ConnectionLost(how)) => Err(how),
            Err(_) => Err(connection.close_reason().unwrap_or(quinn::ConnectionError::LocallyClosed)),
        }
    };
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(ended) => ended.map_err(|how| LinkError::ended(peer, how)),
        Err(_) => Err(LinkError::Silent(peer)),
    }
}

/// Says who was refused, and lets nobody fill the log.
#[derive(Debug, Default)]
struct StrangersLog {
    told: Option<Instant>,
    untold: u64,
}

impl StrangersLog {
    fn tell(&mut self, error: &LinkError) {
        let now = Instant::now();
        if self.told.is_some_and(|told| now - told < TELL_EVERY) {
            self.untold += 1;
            debug!(%error, "no link with who has dialled this node");
        } else {
            self.told = Some(now);
            let untold = std::mem::take(&mut self.untold);
            warn!(%error, untold, "no link with who has dialled this node");
        }
    }
}

/// A socket for both kinds shows IPv4 addresses as IPv6 ones.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A link to another node: bytes in order, both ways. Dropping it closes the link for both ends at once, and what was
/// written may be lost then; shut it down first if it matters.
///
/// Reading and writing fail, for both ends and within five seconds, when the other node is gone; the error inside is a
/// [`LinkError`]. Flushing has no effect: what is written is on its way.
#[derive(Debug)]
pub struct LinkStream {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    peer: SocketAddr,
    end: End,
}

/// Of what this end writes.
enum End {
    NotYet,
    /// The other end has not acknowledged everything yet.
    OnItsWay(Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>),
    There,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotYet => "NotYet",
            Self::OnItsWay(_) => "OnItsWay",
            Self::There => "There",
        })
    }
}

impl LinkStream {
    fn new(connection: Connection, send: SendStream, receive: RecvStream) -> Self {
        let peer = canonical(connection.remote_address());
        Self { connection, send, receive, peer, end: End::NotYet }
    }

    /// The other node's address; for a node that has dialled this one, the one that it dials from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The reason why the connection has ended, if it has, is better than what an operation on it says.
    fn explain(&self, error: io::Error) -> io::Error {
        self.connection.close_reason().map_or(error, |how| LinkError::ended(self.peer, how).into())
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.connection.close(NO_CODE, b"it is not needed any more");
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer));
        Poll::Ready(read.map_err(|error| self.explain(error)))
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes));
        Poll::Ready(written.map_err(|error| self.explain(error)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end of what is written: ready when the other node has all of it. Reading goes on.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.end {
                End::NotYet => {
                    // An error means that the other end reads no more, or is gone: the next step says which.
                    let _ = self.send.finish();
                    self.end = End::OnItsWay(Box::pin(self.send.stopped()));
                }
                End::OnItsWay(acknowledged) => {
                    let stopped = ready!(acknowledged.as_mut().poll(cx));
                    self.end = End::There;
                    return Poll::Ready(match stopped {
                        Ok(None) => Ok(()),
                        Ok(Some(_)) => Err(io::ErrorKind::BrokenPipe.into()),
                        Err(error) => Err(self.explain(error.into())),
                    });
                }
                End::There => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
