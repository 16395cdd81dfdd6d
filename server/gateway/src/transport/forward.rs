//! The UDP socket that quinn sees: hands datagrams that belong to another shard over to it, and hands out those that
//! other shards have handed over.
//!
//! With the kernel's filter in place this is idle, except for a train of datagrams of several connections from one
//! address: the kernel delivers it whole to the socket of the first. A datagram is never answered on the wrong shard,
//! where its connection is unknown and the answer would be a stateless reset.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::steering::{CidScheme, Destination};
use super::{ShardCount, ShardId};

/// Datagrams that may wait at a shard's door, 1.5 kB each. What does not fit is dropped, as a full socket would;
/// QUIC sends it again.
const INBOX_DATAGRAMS: usize = 1024;

/// A datagram on its way from the shard that received it to the one that it belongs to.
#[derive(Debug)]
pub(super) struct Forwarded {
    bytes: Box<[u8]>,
    from: SocketAddr,
    to: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
}

/// A shard's ends of the channels between shards.
#[derive(Debug)]
pub(super) struct Doors {
    shard: ShardId,
    inbox: mpsc::Receiver<Forwarded>,
    outboxes: Arc<[mpsc::Sender<Forwarded>]>,
}

impl Doors {
    /// One for each shard, in order.
    pub(super) fn for_all(shards: ShardCount) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            shards.iter().map(|_| mpsc::channel(INBOX_DATAGRAMS)).unzip();
        let outboxes: Arc<[_]> = senders.into();
        let doors = shards.iter().zip(receivers);
        doors.map(|(shard, inbox)| Self { shard, inbox, outboxes: outboxes.clone() }).collect()
    }
}

/// What a shard's socket has seen of datagrams that were not its own.
#[derive(Debug, Default)]
pub struct ForwardStats {
    /// Received here, belonged to another shard, handed over.
    pub forwarded: AtomicU64,
    /// Received here, belonged to another shard, which did not keep up.
    pub dropped: AtomicU64,
    /// Handed over by another shard and given to quinn.
    pub taken_in: AtomicU64,
}

/// Wraps the real socket.
pub(super) struct ShardSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    scheme: CidScheme,
    shard: ShardId,
    /// Only the endpoint's driver takes it, so nobody ever waits.
    inbox: Mutex<mpsc::Receiver<Forwarded>>,
    outboxes: Arc<[mpsc::Sender<Forwarded>]>,
    stats: Arc<ForwardStats>,
}

impl ShardSocket {
    pub(super) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        scheme: CidScheme,
        doors: Doors,
        stats: Arc<ForwardStats>,
    ) -> Self {
        let Doors { shard, inbox, outboxes } = doors;
        Self { socket, scheme, shard, inbox: Mutex::new(inbox), outboxes, stats }
    }

    /// Fills buffers with what other shards have handed over.
    fn take_in(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Poll::Ready(Some(datagram)) = inbox.poll_recv(cx) else { break };
            let len = datagram.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.bytes[..len]);
            *meta =
                RecvMeta { addr: datagram.from, len, stride: len, ecn: datagram.ecn, dst_ip: datagram.to };
            count += 1;
        }
        self.stats.taken_in.fetch_add(count as u64, Ordering::Relaxed);
        count
    }

    /// Hands over what is not ours and closes the gaps that it leaves.
    fn hand_over(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        let len = meta.len.min(buf.len());
        let mut kept = 0;
        for datagram in datagrams(len, meta.stride) {
            let bytes = &buf[datagram.clone()];
            match self.scheme.destination(bytes, self.shard) {
                Destination::Shard(shard) if shard != self.shard => self.forward(shard, bytes, meta),
                Destination::Shard(_) | Destination::Anyone => {
                    let size = datagram.len();
                    if datagram.start != kept {
                        buf.copy_within(datagram, kept);
                    }
                    kept += size;
                }
            }
        }
        meta.len = kept;
    }

    fn forward(&self, shard: ShardId, bytes: &[u8], meta: &RecvMeta) {
        let datagram = Forwarded { bytes: bytes.into(), from: meta.addr, to: meta.dst_ip, ecn: meta.ecn };
        let sent = self.outboxes.get(shard.get()).is_some_and(|outbox| outbox.try_send(datagram).is_ok());
        let counter = if sent { &self.stats.forwarded } else { &self.stats.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The datagrams of a received buffer. Only the last may be shorter than the others, so what is left after taking
/// some out is again such a buffer.
fn datagrams(len: usize, stride: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(stride.max(1)).map(move |start| start..(start + stride.max(1)).min(len))
}

impl AsyncUdpSocket for ShardSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // At most half of the buffers, so that neither source starves the other. quinn brings 32.
        debug_assert!(bufs.len() > 1);
        let half = bufs.len() / 2;
        let taken = self.take_in(cx, &mut bufs[..half], meta);
        let (bufs, meta) = (&mut bufs[taken..], &mut meta[taken..]);
        let received = match self.socket.poll_recv(cx, bufs, meta) {
            Poll::Ready(Ok(received)) => received,
            Poll::Ready(Err(error)) if taken == 0 => return Poll::Ready(Err(error)),
            Poll::Pending if taken == 0 => return Poll::Pending,
            // An error comes again at the next call.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        for (buf, meta) in bufs.iter_mut().zip(meta).take(received) {
            self.hand_over(buf, meta);
        }
        Poll::Ready(Ok(taken + received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for ShardSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardSocket").field("shard", &self.shard).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::Ordering::Relaxed;

    use quinn_proto::ConnectionIdGenerator;

    use super::super::steering::ShardCids;
    use super::*;

    /// Hands out prepared buffers: (bytes, stride).
    #[derive(Debug)]
    struct Prepared(Mutex<VecDeque<(Vec<u8>, usize)>>);

    impl AsyncUdpSocket for Prepared {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing is sent")
        }
        fn try_send(&self, _: &Transmit) -> io::Result<()> {
            unreachable!("nothing is sent")
        }
        fn poll_recv(
            &self,
            _: &mut Context,
            bufs: &mut [IoSliceMut<'_>],
            meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some((bytes, stride)) = self.0.lock().unwrap().pop_front() else { return Poll::Pending };
            bufs[0][..bytes.len()].copy_from_slice(&bytes);
            meta[0].len = bytes.len();
            meta[0].stride = stride;
            Poll::Ready(Ok(1))
        }
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn sockets(received: Vec<(Vec<u8>, usize)>) -> (ShardSocket, ShardSocket, CidScheme) {
        let shards = ShardCount::new(2).unwrap();
        let scheme = CidScheme::new([1; 16], shards);
        let mut doors = Doors::for_all(shards).into_iter();
        let mut make = |received: Vec<_>| {
            let socket = Arc::new(Prepared(Mutex::new(received.into())));
            ShardSocket::new(socket, scheme, doors.next().unwrap(), Arc::default())
        };
        (make(received), make(Vec::new()), scheme)
    }

    /// Everything that a socket hands out, datagram by datagram.
    fn drain(socket: &ShardSocket) -> Vec<Vec<u8>> {
        let mut memory = vec![[0u8; 8192]; 4];
        let mut out = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            let mut bufs: Vec<_> = memory.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let mut meta = [RecvMeta::default(); 4];
            let Poll::Ready(count) = socket.poll_recv(&mut cx, &mut bufs, &mut meta) else { return out };
            for (buf, meta) in bufs.iter().zip(meta).take(count.unwrap()) {
                out.extend(datagrams(meta.len, meta.stride).map(|range| buf[range].to_vec()));
            }
        }
    }

    fn datagram(scheme: CidScheme, shard: usize, len: usize) -> Vec<u8> {
        let shard = scheme_shard(shard);
        let id = ShardCids { scheme, shard }.generate_cid();
        let mut bytes = [&[0x40], &id[..]].concat();
        bytes.resize(len, len as u8);
        bytes
    }

    fn scheme_shard(n: usize) -> ShardId {
        ShardCount::new(2).unwrap().iter().nth(n).unwrap()
    }

    #[test]
    fn a_train_is_split_by_shard() {
        let (_, _, scheme) = sockets(Vec::new());
        for pattern in [vec![0, 0, 0], vec![1, 1, 1], vec![0, 1, 0, 1], vec![1, 0, 0], vec![1], vec![0, 0, 1]]
        {
            let last = pattern.len() - 1;
            let train: Vec<_> = pattern
                .iter()
                .enumerate()
                .map(|(n, &shard)| datagram(scheme, shard, if n == last { 60 } else { 100 }))
                .collect();
            let of = |shard: usize| -> Vec<Vec<u8>> {
                let mine = train.iter().zip(&pattern).filter(|(_, s)| **s == shard);
                mine.map(|(d, _)| d.clone()).collect()
            };
            let (a, b, _) = sockets(vec![(train.concat(), 100)]);
            assert_eq!(drain(&a), of(0), "{pattern:?}");
            assert_eq!(drain(&b), of(1), "{pattern:?}");
            assert_eq!(a.stats.forwarded.load(Relaxed), of(1).len() as u64);
            assert_eq!(b.stats.taken_in.load(Relaxed), of(1).len() as u64);
        }
    }

    #[test]
    fn a_full_inbox_drops() {
        let (_, _, scheme) = sockets(Vec::new());
        let received = (0..INBOX_DATAGRAMS + 5).map(|_| (datagram(scheme, 1, 50), 50)).collect();
        let (a, b, _) = sockets(received);
        assert_eq!(drain(&a).len(), 0);
        assert_eq!(a.stats.dropped.load(Relaxed), 5);
        assert_eq!(drain(&b).len(), INBOX_DATAGRAMS);
    }
}
