//! Sockets: TCP with TLS ([`tcp`]), QUIC ([`quic`]), and which shard gets which datagram ([`steering`]).
//!
//! Every shard has its own TCP listener and UDP socket on the common port. [`bind`] makes them all, in one place and
//! one order, because the kernel numbers the sockets of a reuseport group by the order of their binding.

mod forward;
pub mod inherited;
pub mod proxy;
pub mod quic;
pub mod steering;
pub mod tcp;
pub mod tls_stream;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use inherited::Inherited;
use socket2::{Domain, Protocol, Socket, Type};
use tern_core::routing::ShardId;
use thiserror::Error;
use tracing::warn;

/// How many connections the kernel completes ahead of us; it cuts this to `net.core.somaxconn`. Who comes when it is full
/// is not heard.
const LISTEN_BACKLOG: i32 = 65_535;
/// What a UDP socket may hold while its shard is busy; the kernel cuts this to `net.core.rmem_max`.
const UDP_RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Tries to find one port that is free for TCP and for UDP.
const SAME_PORT_TRIES: usize = 32;

/// How many shards the process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCount(u16);

impl ShardCount {
    /// More threads than any machine has cores to run them.
    pub const MAX: usize = 1024;

    /// From 1 to [`Self::MAX`] shards.
    pub fn new(count: usize) -> Option<Self> {
        if (1..=Self::MAX).contains(&count) { Some(Self(count as u16)) } else { None }
    }

    /// The plain number.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }

    /// Every shard, in order.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }

    fn as_u32(self) -> u32 {
        u32::from(self.0)
    }

    fn shard_of_word(self, word: u32) -> ShardId {
        ShardId((word % self.as_u32()) as u16)
    }
}

/// How datagrams find their shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// The kernel reads the connection id. Falls back to [`Steering::Forwarding`] where it cannot.
    Kernel,
    /// The kernel goes by the client's address; shards forward what is not theirs. Slower, never wrong.
    Forwarding,
}

/// The sockets of one shard.
#[derive(Debug)]
pub struct ShardSockets {
    /// Which shard they are for.
    pub shard: ShardId,
    /// Listening, non-blocking.
    pub tcp: TcpListener,
    /// Its end of the QUIC port.
    pub quic: quic::QuicSocket,
}

/// Every socket of the process.
#[derive(Debug)]
pub struct Bound {
    /// The address of all TCP listeners, with the real port.
    pub tcp: SocketAddr,
    /// The address of all UDP sockets, with the real port.
    pub quic: SocketAddr,
    /// What is in effect.
    pub steering: Steering,
    /// One for each shard, in order.
    pub shards: Vec<ShardSockets>,
}

/// Why the server cannot have its port, and what to do about it.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody has it.
    #[error(
        "{protocol} address {address} is in use: is a ternd running already? Stop what uses the port, or choose \
         another address: `--listen` on the command line, or `listen` in the configuration if there is one"
    )]
    InUse {
        /// "TCP" or "UDP".
        protocol: &'static str,
        /// As configured.
        address: SocketAddr,
    },
    /// This machine does not have the address.
    #[error(
        "{protocol} address {address} does not belong to this machine: listen on one of its own, or on [::]"
    )]
    NotOurs {
        /// "TCP" or "UDP".
        protocol: &'static str,
        /// As configured.
        address: SocketAddr,
    },
    /// A port below 1024 without the right to it.
    #[error(
        "no permission for {protocol} address {address}: use a port from 1024 up, or grant CAP_NET_BIND_SERVICE"
    )]
    Permission {
        /// "TCP" or "UDP".
        protocol: &'static str,
        /// As configured.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {protocol} address {address}: {source}")]
    Io {
        /// "TCP" or "UDP".
        protocol: &'static str,
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    fn new(protocol: &'static str, address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { protocol, address },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { protocol, address },
            io::ErrorKind::PermissionDenied => Self::Permission { protocol, address },
            _ => Self::Io { protocol, address, source },
        }
    }
}

/// The listening ends of one shard: of each address one.
#[derive(Debug)]
pub struct ShardListeners {
    /// Listening, non-blocking.
    pub tcp: Vec<TcpListener>,
    /// Its ends of the QUIC ports.
    pub quic: Vec<quic::QuicSocket>,
}

/// Every socket of a process with several addresses.
#[derive(Debug)]
pub struct BoundAll {
    /// The TCP addresses, with their real ports.
    pub tcp: Vec<SocketAddr>,
    /// The UDP addresses, with their real ports.
    pub quic: Vec<SocketAddr>,
    /// One for each shard, in order.
    pub shards: Vec<ShardListeners>,
}

/// Opens the sockets of all shards on every address, except for what is `inherited`. Port 0 takes a free one: the same for the TCP and the UDP address
/// at the same place of the two lists when both ask for it.
///
/// # Errors
/// Also when another process, be it a second server with the same configuration, has a port.
pub fn bind_all(
    tcp: &[SocketAddr],
    quic: &[SocketAddr],
    inherited: &Inherited,
    shards: ShardCount,
    steering: Steering,
) -> Result<BoundAll, BindError> {
    let empty = |_| ShardListeners { tcp: Vec::new(), quic: Vec::new() };
    let mut all = BoundAll { tcp: Vec::new(), quic: Vec::new(), shards: shards.iter().map(empty).collect() };
    for i in 0..tcp.len().max(quic.len()) {
        let tcp_wanted = tcp.get(i).map(|address| Wanted::among(*address, tcp));
        let quic_wanted = quic.get(i).map(|address| Wanted::among(*address, quic));
        let (listeners, sockets) = match (tcp_wanted, quic_wanted) {
            (Some(tcp), Some(quic)) => {
                let (listeners, sockets) = bind_pair(tcp, quic, inherited, shards, steering)?;
                (Some(listeners), Some(sockets))
            }
            (tcp, quic) => {
                let tcp = tcp.map(|wanted| bind_tcp(wanted, inherited, shards)).transpose()?;
                (tcp, quic.map(|wanted| bind_quic(wanted, shards, steering)).transpose()?)
            }
        };
        if let Some((address, listeners)) = listeners {
            all.tcp.push(address);
            all.shards.iter_mut().zip(listeners).for_each(|(shard, listener)| shard.tcp.push(listener));
        }
        if let Some(BoundQuic { address, sockets, .. }) = sockets {
            all.quic.push(address);
            all.shards.iter_mut().zip(sockets).for_each(|(shard, socket)| shard.quic.push(socket));
        }
    }
    Ok(all)
}

/// Opens the sockets of all shards. Port 0 takes a free one: the same for both when both ask for it.
///
/// # Errors
/// Also when another process, be it a second server with the same configuration, has the port.
pub fn bind(
    tcp: SocketAddr,
    quic: SocketAddr,
    shards: ShardCount,
    steering: Steering,
) -> Result<Bound, BindError> {
    let (tcp, quic) = (Wanted::among(tcp, &[]), Wanted::among(quic, &[]));
    let ((tcp, listeners), quic) = bind_pair(tcp, quic, &Inherited::default(), shards, steering)?;
    let sockets = shards.iter().zip(listeners).zip(quic.sockets);
    let shards = sockets.map(|((shard, tcp), quic)| ShardSockets { shard, tcp, quic }).collect();
    Ok(Bound { tcp, quic: quic.address, steering: quic.steering, shards })
}

/// An address to listen on.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    address: SocketAddr,
    /// An IPv6 socket takes IPv4 clients too.
    dual: bool,
}

impl Wanted {
    /// `[::]` takes IPv4 too, whatever the system's default is, unless another of the addresses has that port on IPv4.
    fn among(address: SocketAddr, others: &[SocketAddr]) -> Self {
        let taken = others.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        Self { address, dual: address.ip() == Ipv6Addr::UNSPECIFIED && !taken }
    }
}

type BoundTcp = (SocketAddr, Vec<TcpListener>);

struct BoundQuic {
    address: SocketAddr,
    steering: Steering,
    sockets: Vec<quic::QuicSocket>,
}

fn bind_pair(
    tcp: Wanted,
    quic: Wanted,
    inherited: &Inherited,
    shards: ShardCount,
    steering: Steering,
) -> Result<(BoundTcp, BoundQuic), BindError> {
    let any_port = tcp.address.port() == 0 && quic.address.port() == 0;
    let mut tries = if any_port { SAME_PORT_TRIES } else { 1 };
    loop {
        let listeners = bind_tcp(tcp, inherited, shards)?;
        let mut quic = quic;
        if any_port {
            quic.address.set_port(listeners.0.port());
        }
        tries -= 1;
        match bind_quic(quic, shards, steering) {
            Err(BindError::InUse { .. }) if tries > 0 => continue,
            sockets => return Ok((listeners, sockets?)),
        }
    }
}

fn bind_tcp(wanted: Wanted, inherited: &Inherited, shards: ShardCount) -> Result<BoundTcp, BindError> {
    if let Some(listeners) = inherited.listeners(wanted.address, shards.get()) {
        let listeners = listeners.map_err(|e| BindError::new(Kind::Tcp.name(), wanted.address, e))?;
        return Ok((wanted.address, listeners));
    }
    let listeners = bind_group(wanted, shards, Kind::Tcp)?;
    let address = local_address(&listeners, wanted.address, Kind::Tcp)?;
    Ok((address, listeners.into_iter().map(TcpListener::from).collect()))
}

fn bind_quic(wanted: Wanted, shards: ShardCount, steering: Steering) -> Result<BoundQuic, BindError> {
    let sockets = bind_group(wanted, shards, Kind::Udp)?;
    let address = local_address(&sockets, wanted.address, Kind::Udp)?;
    let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
    let steering = match (steering, sockets.first()) {
        // There is nothing to choose, and the kernel makes no group of one.
        (Steering::Kernel, _) if shards.get() == 1 => Steering::Kernel,
        (Steering::Kernel, Some(socket)) => match steering::attach(socket, shards) {
            Ok(()) => Steering::Kernel,
            Err(error) => {
                warn!(%error, "this kernel cannot steer QUIC by connection id: shards forward instead");
                Steering::Forwarding
            }
        },
        _ => Steering::Forwarding,
    };
    Ok(BoundQuic { address, steering, sockets: quic::QuicSocket::connect_all(sockets, shards) })
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

fn local_address(group: &[Socket], wanted: SocketAddr, kind: Kind) -> Result<SocketAddr, BindError> {
    let address = group.first().and_then(|socket| socket.local_addr().ok()?.as_socket());
    address.ok_or_else(|| BindError::new(kind.name(), wanted, io::ErrorKind::AddrNotAvailable.into()))
}

/// The sockets of a reuseport group, in the kernel's order.
fn bind_group(wanted: Wanted, shards: ShardCount, kind: Kind) -> Result<Vec<Socket>, BindError> {
    let mut group: Vec<Socket> = Vec::with_capacity(shards.get());
    for shard in shards.iter() {
        let address = match group.is_empty() {
            true => wanted.address,
            false => local_address(&group, wanted.address, kind)?,
        };
        let socket = open(Wanted { address, ..wanted }, kind, shard.get() == 0)
            .map_err(|e| BindError::new(kind.name(), wanted.address, e))?;
        group.push(socket);
    }
    Ok(group)
}

/// The first socket takes the port for itself alone, and only then lets others of this process join it. With
/// SO_REUSEPORT from the start it would join the group of a second server of the same user, and each of the two
/// would get a share of the clients.
fn open(Wanted { address, dual }: Wanted, kind: Kind, first: bool) -> io::Result<Socket> {
    let (ty, protocol) = match kind {
        Kind::Tcp => (Type::STREAM, Protocol::TCP),
        Kind::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), ty, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual)?;
    }
    if !first {
        socket.set_reuse_port(true)?;
    }
    match kind {
        Kind::Tcp => {
            // Connections of the previous run that linger in TIME_WAIT are no reason to refuse.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(LISTEN_BACKLOG)?;
        }
        Kind::Udp => {
            // As much as the system grants; less costs retransmissions in a storm, nothing else.
            let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER_BYTES);
            socket.bind(&address.into())?;
        }
    }
    if first {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
