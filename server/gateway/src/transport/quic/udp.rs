//! A shard's UDP socket: up to 32 datagrams, or trains of them, a call.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::task::{Context, Poll, ready};

use quinn_proto::EcnCodepoint;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::io::Interest;

/// A train of datagrams, as the kernel puts them together, is no larger.
const BUFFER_BYTES: usize = 64 * 1024;
/// Datagrams in a train that goes out. A window of a connection that starts has ten.
const SEGMENTS_MAX: usize = 10;

pub(super) struct Udp {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// [`BATCH_SIZE`] of them.
    buffers: Box<[u8]>,
}

impl Udp {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            socket: tokio::net::UdpSocket::from_std(socket)?,
            buffers: vec![0; BATCH_SIZE * BUFFER_BYTES].into(),
        })
    }

    /// Hands what has arrived to `take`, buffer by buffer: each from one sender, a datagram or a train of them. Ready
    /// with the number of buffers.
    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&RecvMeta, &[u8]),
    ) -> Poll<io::Result<usize>> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            let mut chunks = self.buffers.chunks_exact_mut(BUFFER_BYTES);
            let mut buffers: [_; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let received = self.socket.try_io(Interest::READABLE, || {
                self.state.recv((&self.socket).into(), &mut buffers, &mut metas)
            });
            match received {
                Ok(count) => {
                    for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
                        take(meta, &buffer[..meta.len]);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends a datagram, or a train of them; false when the socket has no room. What the network does not take is lost:
    /// QUIC sends it again.
    pub(super) fn send(&self, transmit: &quinn_proto::Transmit, buffer: &[u8]) -> bool {
        let transmit = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &buffer[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let send = || self.state.send((&self.socket).into(), &transmit);
        self.socket.try_io(Interest::WRITABLE, send).is_ok()
    }

    /// Ready when it may have room again.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_send_ready(cx).map(|_| ())
    }

    /// How many datagrams one call sends at most.
    pub(super) fn segments_max(&self) -> usize {
        self.state.max_gso_segments().min(SEGMENTS_MAX)
    }

    /// Whether what is sent may be cut into fragments on the way.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

pub(super) fn ecn(meta: &RecvMeta) -> Option<EcnCodepoint> {
    meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8))
}
