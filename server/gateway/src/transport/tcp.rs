//! TCP with TLS: accepting, and nothing that lets a client or a full file table stop it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rustls::ServerConfig;
use socket2::SockRef;
use tern_protocol::limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::proxy::{self, Network};
use super::tls_stream::TlsStream;
use crate::limits::{AddressLimit, Place};

/// Rest after an error that the next accept would meet again, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// A handshake that has had its time as long as nobody waits looks this often whether somebody does.
const GLANCE: Duration = Duration::from_millis(250);

/// Places for connections that wait which are kept for the next storm.
const ROOM_KEPT: usize = 256;

/// Bounds of a shard's handshakes.
#[derive(Debug, Clone, Copy)]
pub struct TcpOptions {
    /// From the beginning to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// The same while others wait for a place: whoever holds places by being slow holds them for so long only.
    pub crowded_timeout: Duration,
    /// Handshakes at once. Above it connections wait until it is their turn.
    pub handshakes_max: usize,
    /// Connections that wait. Above it nothing is accepted.
    pub waiting_max: usize,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_millis(limits::HANDSHAKE_TIMEOUT_MS),
            // A round trip over any network but the worst. All handshakes at once take an eighth of a second of a core, so
            // in a storm nobody is given up for the server's own slowness.
            crowded_timeout: Duration::from_secs(2),
            // 100 µs of one core each, so a storm is worked off in order. A client that says nothing holds a place
            // until it is given up: this many of them, not one, are needed to keep others waiting.
            handshakes_max: 1024,
            // The kernel's backlog takes no more than `somaxconn`, often 4,096, and forgets who comes then. They would
            // knock again after 1, 3, 7 and 15 s: waves, with an idle server in between.
            waiting_max: 16_384,
        }
    }
}

/// What a shard's listener has counted.
#[derive(Debug, Default)]
pub struct TcpStats {
    /// Connections taken from the kernel.
    pub taken: AtomicU64,
    /// Handshakes that ended well.
    pub accepted: AtomicU64,
    /// Handshakes that ended in an error, a wrong protocol among them.
    pub failed: AtomicU64,
    /// Handshakes that did not end in time.
    pub timed_out: AtomicU64,
    /// Connections that were closed at once, because their address had too many that had not logged in.
    pub refused: AtomicU64,
    /// Errors of accept that made it pause.
    pub pauses: AtomicU64,
}

/// A connection whose handshake is done, where it comes from, and its place until it has logged in.
pub type Accepted = (Box<TlsStream<TcpStream>>, SocketAddr, Place);

/// Accepts a shard's TCP connections.
pub struct Acceptor {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    options: TcpOptions,
    proxies: Arc<[Network]>,
    addresses: AddressLimit,
    /// Without a place those of proxies: whom they speak for is not known yet.
    waiting: VecDeque<(TcpStream, SocketAddr, Option<Place>)>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Accepted>>>,
    /// Whether connections wait for a place.
    crowded: Arc<AtomicBool>,
    paused_until: Option<Instant>,
    /// Whether the last accept failed: the log hears of the first failure of a row and of its end.
    failing: bool,
    stats: Arc<TcpStats>,
}

impl Acceptor {
    /// Puts the listener on the current runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        listener: std::net::TcpListener,
        tls: Arc<ServerConfig>,
        options: TcpOptions,
        addresses: AddressLimit,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            tls,
            options,
            proxies: Arc::default(),
            addresses,
            waiting: VecDeque::new(),
            handshakes: FuturesUnordered::new(),
            crowded: Arc::default(),
            paused_until: None,
            failing: false,
            stats: Arc::default(),
        })
    }

    /// Connections from these networks begin with the PROXY protocol, and those of others do not.
    pub fn behind(self, proxies: Arc<[Network]>) -> Self {
        Self { proxies, ..self }
    }

    /// The next connection whose handshake is done. Never ends.
    ///
    /// Handshakes go on only while this is polled. It may be dropped and called again.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            self.start_waiting();
            let room = self.waiting.len() < self.options.waiting_max;
            let paused_until = self.paused_until;
            let pause = async {
                match paused_until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // First, so that the kernel's backlog stays short. It costs a tenth of a handshake.
                accepted = self.listener.accept(), if room && paused_until.is_none() => match accepted {
                    Ok(connection) => self.accepted(connection),
                    Err(error) => self.failed(&error),
                },
                Some(done) = self.handshakes.next(), if !self.handshakes.is_empty() => {
                    if let Some(connection) = done {
                        return connection;
                    }
                }
                () = pause => self.paused_until = None,
            }
        }
    }

    /// Counters, which may be kept and read from any thread.
    pub fn stats(&self) -> &Arc<TcpStats> {
        &self.stats
    }

    fn accepted(&mut self, (stream, from): (TcpStream, SocketAddr)) {
        if std::mem::take(&mut self.failing) {
            info!("accepting TCP connections again");
        }
        self.stats.taken.fetch_add(1, Ordering::Relaxed);
        if self.is_proxy(from) {
            self.waiting.push_back((stream, from, None));
            return;
        }
        match self.addresses.enter(from.ip()) {
            Some(place) => self.waiting.push_back((stream, from, Some(place))),
            None => refuse(&stream, from, &self.stats),
        }
    }

    /// Starts the handshakes whose turn it is.
    fn start_waiting(&mut self) {
        while self.handshakes.len() < self.options.handshakes_max
            && let Some((stream, from, place)) = self.waiting.pop_front()
        {
            self.start(stream, from, place);
        }
        self.crowded.store(!self.waiting.is_empty(), Ordering::Relaxed);
        if self.waiting.is_empty() && self.waiting.capacity() > ROOM_KEPT {
            self.waiting = VecDeque::new();
        }
    }

    fn start(&mut self, stream: TcpStream, from: SocketAddr, place: Option<Place>) {
        let tls = self.tls.clone();
        let TcpOptions { handshake_timeout, crowded_timeout, .. } = self.options;
        let crowded = self.crowded.clone();
        let stats = self.stats.clone();
        let addresses = self.addresses.clone();
        self.handshakes.push(Box::pin(async move {
            let handshake = handshake(stream, from, place, addresses, tls, &stats);
            let others_wait = async {
                tokio::time::sleep(crowded_timeout).await;
                while !crowded.load(Ordering::Relaxed) {
                    tokio::time::sleep(GLANCE).await;
                }
            };
            let in_time = async {
                tokio::select! {
                    done = handshake => Some(done),
                    () = others_wait => None,
                }
            };
            match tokio::time::timeout(handshake_timeout, in_time).await.ok().flatten() {
                Some(Ok(Some(accepted))) => {
                    stats.accepted.fetch_add(1, Ordering::Relaxed);
                    return Some(accepted);
                }
                Some(Ok(None)) => {}
                Some(Err(error)) => {
                    stats.failed.fetch_add(1, Ordering::Relaxed);
                    debug!(%from, %error, "TLS handshake failed");
                }
                None => {
                    stats.timed_out.fetch_add(1, Ordering::Relaxed);
                    debug!(%from, "TLS handshake took too long");
                }
            }
            None
        }));
    }

    fn is_proxy(&self, from: SocketAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(from.ip()))
    }

    fn failed(&mut self, error: &io::Error) {
        if concerns_one_connection(error) {
            debug!(%error, "a TCP connection broke before it was accepted");
            return;
        }
        self.stats.pauses.fetch_add(1, Ordering::Relaxed);
        self.paused_until = Some(Instant::now() + PAUSE);
        if !std::mem::replace(&mut self.failing, true) {
            warn!(
                %error,
                "cannot accept TCP connections, trying again every {} ms; if these are too many open files, raise \
                 the limit (LimitNOFILE, ulimit -n)",
                PAUSE.as_millis()
            );
        }
    }
}

/// Errors of a connection that broke while it waited: accept(2) reports them, and the next call meets the next
/// connection.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
    };
    use io::ErrorKind::{NetworkUnreachable, TimedOut};
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | TimedOut
    )
}

/// Closes a connection whose address has no place for it.
fn refuse(stream: &TcpStream, from: SocketAddr, stats: &TcpStats) {
    stats.refused.fetch_add(1, Ordering::Relaxed);
    debug!(%from, "refused: too many connections of this address have not logged in");
    // With a reset, which leaves nothing behind in the kernel.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// `from` is whoever connected, and has no place if it is a proxy; what comes out is whom that one speaks for. `None`:
/// refused.
async fn handshake(
    mut stream: TcpStream,
    mut from: SocketAddr,
    place: Option<Place>,
    addresses: AddressLimit,
    tls: Arc<ServerConfig>,
    stats: &TcpStats,
) -> io::Result<Option<Accepted>> {
    // Writes are coalesced before they get here; waiting for more would only add delay.
    stream.set_nodelay(true)?;
    let place = match place {
        Some(place) => place,
        None => {
            from = proxy::read_header(&mut stream).await?.unwrap_or(from);
            let Some(place) = addresses.enter(from.ip()) else {
                refuse(&stream, from, stats);
                return Ok(None);
            };
            place
        }
    };
    let stream = TlsStream::accept(stream, tls).await?;
    // TLS itself refuses a client that names only other protocols, but not one that names none.
    if stream.alpn_protocol() != Some(limits::ALPN) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client asked for no protocol of ours"));
    }
    Ok(Some((stream, from, place)))
}
