//! QUIC: one quinn-proto endpoint per shard on the common port, driven by the shard's own thread.

mod driver;
mod link;
mod stream;
mod timers;
mod tls;
mod udp;

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quinn_proto::{EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use tern_protocol::limits;

use super::forward::Doors;
use super::steering::{CidScheme, ShardCids};
use super::{ShardCount, ShardId};
use crate::limits::AddressLimit;
use crate::tls::Secrets;

pub use super::forward::ForwardStats;
pub use driver::QuicAcceptor;
pub use link::Connection;
pub use stream::{RecvStream, SendStream};
use tls::Tls;
use udp::Udp;

/// What a client may send on one stream before the session has read it. Frames may be larger: the window moves on
/// while they are read.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// What quinn keeps of what we have written until the client has it: at 100 ms away, 2.5 MB/s.
const SEND_WINDOW_BYTES: u64 = 256 * 1024;
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
    /// Handshakes that were begun; they go on, or have ended in one of three ways.
    pub begun: AtomicU64,
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

/// A shard's end of the QUIC port on a runtime, not yet driven.
pub struct QuicListener {
    udp: Udp,
    doors: Doors,
    scheme: CidScheme,
    endpoint: quinn_proto::Endpoint,
    options: QuicOptions,
    addresses: AddressLimit,
    stats: Arc<QuicStats>,
}

impl QuicListener {
    /// Counters, which may be kept and read from any thread.
    pub fn stats(&self) -> &Arc<QuicStats> {
        &self.stats
    }
}

impl QuicSocket {
    pub(super) fn connect_all(sockets: Vec<UdpSocket>, shards: ShardCount) -> Vec<Self> {
        let sockets = shards.iter().zip(sockets).zip(Doors::for_all(shards));
        sockets.map(|((shard, socket), doors)| Self { shard, shards, socket, doors }).collect()
    }

    /// Puts the socket on the current runtime.
    ///
    /// # Errors
    /// When the system refuses the socket options that QUIC needs.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listener(
        self,
        tls: Arc<rustls::ServerConfig>,
        secrets: &Secrets,
        options: QuicOptions,
        addresses: AddressLimit,
    ) -> io::Result<QuicListener> {
        let Self { shard, shards, socket, doors } = self;
        let scheme = CidScheme::new(secrets.cid_key(), shards);
        let mut config = EndpointConfig::new(Arc::new(secrets.reset_key()));
        config
            .cid_generator(move || Box::new(ShardCids { scheme, shard }))
            .supported_versions(vec![tls::VERSION_1])
            // After a restart everybody's first datagram needs one. Only ids that we have minted get any, and each is
            // smaller than what it answers.
            .min_reset_interval(Duration::ZERO);
        let udp = Udp::new(socket)?;
        let server = server_config(tls, secrets)?;
        let endpoint =
            quinn_proto::Endpoint::new(Arc::new(config), Some(Arc::new(server)), !udp.may_fragment(), None);
        let stats = Arc::new(QuicStats { forward: doors.stats().clone(), ..QuicStats::default() });
        Ok(QuicListener { udp, doors, scheme, endpoint, options, addresses, stats })
    }
}

fn server_config(tls: Arc<rustls::ServerConfig>, secrets: &Secrets) -> io::Result<ServerConfig> {
    let crypto = Tls::new(tls).ok_or_else(|| io::Error::other("QUIC needs TLS 1.3 with AES-128"))?;
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(secrets.retry_key()));
    config.transport_config(Arc::new(transport_config())).migration(true);
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
