//! QUIC: one quinn endpoint per shard on the common port.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, Runtime, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use tern_protocol::limits;
use tracing::debug;

use super::forward::{Doors, ShardSocket};
use super::steering::{CidScheme, ShardCids};
use super::{ShardCount, ShardId};
use crate::tls::Secrets;

pub use super::forward::ForwardStats;

/// What a client may send on one stream before the session has read it. Frames may be larger: the window moves on
/// while they are read.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// What quinn keeps of what we have written until the client has it: at 100 ms away, 2.5 MB/s.
const SEND_WINDOW_BYTES: u64 = 256 * 1024;
/// First datagrams of new connections that wait for the shard to look at them.
const INCOMING_MAX: usize = 1024;
/// What more a new connection may send while it waits: a large ClientHello, sent again once or twice.
const INCOMING_BYTES_MAX: u64 = 16 * 1024;
/// The same for all of them together.
const INCOMING_BYTES_TOTAL_MAX: u64 = 4 << 20;

/// A shard's end of the QUIC port, not yet on a runtime.
#[derive(Debug)]
pub struct QuicSocket {
    shard: ShardId,
    shards: ShardCount,
    pub(super) socket: UdpSocket,
    doors: Doors,
}

/// Bounds of a shard's handshakes.
#[derive(Debug, Clone, Copy)]
pub struct QuicOptions {
    /// From the client's first datagram to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at once. Above it clients are refused, which tells them to come back later.
    pub handshakes_max: usize,
    /// Handshakes at once above which a client has to prove its address first (a Retry, one round trip), so that
    /// forged addresses cost us no handshakes.
    pub handshakes_unproven_max: usize,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_millis(limits::HANDSHAKE_TIMEOUT_MS),
            // 100 µs of one core each: half a second of work, well under the timeout.
            handshakes_max: 4096,
            handshakes_unproven_max: 512,
        }
    }
}

/// What a shard's endpoint has counted.
#[derive(Debug, Default)]
pub struct QuicStats {
    /// Handshakes that ended well.
    pub accepted: AtomicU64,
    /// Handshakes that ended in an error.
    pub failed: AtomicU64,
    /// Handshakes that did not end in time.
    pub timed_out: AtomicU64,
    /// Clients that had to prove their address.
    pub retried: AtomicU64,
    /// Clients that were told to come back later.
    pub refused: AtomicU64,
    /// Datagrams of other shards.
    pub forward: Arc<ForwardStats>,
}

/// Accepts a shard's QUIC connections.
pub struct QuicAcceptor {
    endpoint: Endpoint,
    options: QuicOptions,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Connection>>>,
    stats: Arc<QuicStats>,
}

impl QuicSocket {
    pub(super) fn connect_all(sockets: Vec<UdpSocket>, shards: ShardCount) -> Vec<Self> {
        let sockets = shards.iter().zip(sockets).zip(Doors::for_all(shards));
        sockets.map(|((shard, socket), doors)| Self { shard, shards, socket, doors }).collect()
    }

    /// Puts the endpoint on the current runtime.
    ///
    /// # Errors
    /// When the system refuses the socket options that QUIC needs.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn acceptor(
        self,
        tls: Arc<rustls::ServerConfig>,
        secrets: &Secrets,
        options: QuicOptions,
    ) -> io::Result<QuicAcceptor> {
        let Self { shard, shards, socket, doors } = self;
        let scheme = CidScheme::new(secrets.cid_key(), shards);
        let mut endpoint = EndpointConfig::new(Arc::new(secrets.reset_key()));
        endpoint.cid_generator(move || Box::new(ShardCids { scheme, shard }));
        let stats = Arc::new(QuicStats::default());
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        let socket = ShardSocket::new(socket, scheme, doors, stats.forward.clone());
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint,
            Some(server_config(tls, secrets)?),
            Arc::new(socket),
            Arc::new(TokioRuntime),
        )?;
        Ok(QuicAcceptor { endpoint, options, handshakes: FuturesUnordered::new(), stats })
    }
}

fn server_config(tls: Arc<rustls::ServerConfig>, secrets: &Secrets) -> io::Result<ServerConfig> {
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(secrets.retry_key()));
    config
        .transport_config(Arc::new(transport_config()))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    Ok(config)
}

/// quinn makes room for every stream that a client may open as soon as it connects, so there are few.
fn transport_config() -> TransportConfig {
    const IDLE: u32 = limits::IDLE_TIMEOUT_MS as u32;
    const { assert!(IDLE as u64 == limits::IDLE_TIMEOUT_MS) };

    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1 + limits::QUIC_BULK_STREAMS_MAX as u32))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        // Chat messages need no larger datagrams than every path takes, and looking for them takes a dozen datagrams
        // of each new connection.
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE))));
    config
}

impl QuicAcceptor {
    /// The next connection whose handshake is done; `None` once the endpoint is closed and no handshake is left.
    ///
    /// Handshakes go on only while this is polled. It may be dropped and called again.
    pub async fn accept(&mut self) -> Option<Connection> {
        let mut open = true;
        loop {
            tokio::select! {
                incoming = self.endpoint.accept(), if open => match incoming {
                    Some(incoming) => self.admit(incoming),
                    None => open = false,
                },
                Some(done) = self.handshakes.next(), if !self.handshakes.is_empty() => {
                    if let Some(connection) = done {
                        return Some(connection);
                    }
                }
                else => return None,
            }
        }
    }

    /// For a drain: from now on new clients are refused, so that they try elsewhere at once. Handshakes under way may
    /// end well. [`Self::accept`] has to be polled on.
    pub fn refuse_new(&mut self) {
        self.options.handshakes_max = 0;
    }

    /// For closing it, for [`Endpoint::wait_idle`], for counting connections.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Counters, which may be kept and read from any thread.
    pub fn stats(&self) -> &Arc<QuicStats> {
        &self.stats
    }

    fn admit(&mut self, incoming: Incoming) {
        let handshakes = self.handshakes.len();
        if handshakes >= self.options.handshakes_max {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
        } else if handshakes >= self.options.handshakes_unproven_max && !incoming.remote_address_validated() {
            self.stats.retried.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = incoming.retry() {
                // quinn lets every client without a proven address be asked for it.
                debug!(%error, "could not ask a client to prove its address");
            }
        } else {
            self.handshakes.push(Box::pin(handshake(
                incoming,
                self.options.handshake_timeout,
                self.stats.clone(),
            )));
        }
    }
}

async fn handshake(incoming: Incoming, timeout: Duration, stats: Arc<QuicStats>) -> Option<Connection> {
    let from = incoming.remote_address();
    match tokio::time::timeout(timeout, incoming).await {
        Ok(Ok(connection)) if speaks_tern(&connection) => {
            stats.accepted.fetch_add(1, Ordering::Relaxed);
            return Some(connection);
        }
        Ok(Ok(connection)) => {
            stats.failed.fetch_add(1, Ordering::Relaxed);
            debug!(%from, "a QUIC client asked for no protocol of ours");
            connection.close(VarInt::from_u32(0), b"");
        }
        Ok(Err(error)) => {
            stats.failed.fetch_add(1, Ordering::Relaxed);
            debug!(%from, %error, "QUIC handshake failed");
        }
        Err(_) => {
            stats.timed_out.fetch_add(1, Ordering::Relaxed);
            debug!(%from, "QUIC handshake took too long");
        }
    }
    None
}

fn speaks_tern(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(limits::ALPN))
}
