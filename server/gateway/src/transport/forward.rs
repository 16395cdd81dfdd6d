//! Datagrams that have come to the wrong shard are handed over to the right one.
//!
//! With the kernel's filter in place this is idle, except for a train of datagrams of several connections from one
//! address: the kernel delivers it whole to the socket of the first. A datagram is never answered on the wrong shard,
//! where its connection is unknown and the answer would be a stateless reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::BytesMut;
use quinn_udp::RecvMeta;
use tokio::sync::mpsc;

use super::steering::{CidScheme, Destination};
use super::{ShardCount, ShardId};

/// Datagrams that may wait at a shard's door, 1.5 kB each. What does not fit is dropped, as a full socket would;
/// QUIC sends it again.
const INBOX_DATAGRAMS: usize = 1024;

/// A datagram on its way from the shard that received it to the one that it belongs to.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) bytes: BytesMut,
    pub(super) meta: RecvMeta,
}

/// A shard's ends of the channels between shards.
#[derive(Debug)]
pub(super) struct Doors {
    shard: ShardId,
    inbox: mpsc::Receiver<Forwarded>,
    outboxes: Arc<[mpsc::Sender<Forwarded>]>,
    stats: Arc<ForwardStats>,
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

impl Doors {
    /// One for each shard, in order.
    pub(super) fn for_all(shards: ShardCount) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            shards.iter().map(|_| mpsc::channel(INBOX_DATAGRAMS)).unzip();
        let outboxes: Arc<[_]> = senders.into();
        let doors = shards.iter().zip(receivers);
        doors
            .map(|(shard, inbox)| Self { shard, inbox, outboxes: outboxes.clone(), stats: Arc::default() })
            .collect()
    }

    /// Counters, which may be kept and read from any thread.
    pub(super) fn stats(&self) -> &Arc<ForwardStats> {
        &self.stats
    }

    /// The next datagram that another shard has handed over.
    pub(super) fn poll_take_in(&mut self, cx: &mut Context<'_>) -> Poll<Forwarded> {
        // The channel stays open: this shard has an end of it, too.
        let Poll::Ready(Some(datagram)) = self.inbox.poll_recv(cx) else { return Poll::Pending };
        self.stats.taken_in.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(datagram)
    }

    /// Hands a datagram over if it belongs to another shard; gives it back if it belongs here.
    pub(super) fn hand_over(
        &self,
        scheme: &CidScheme,
        datagram: BytesMut,
        meta: &RecvMeta,
    ) -> Option<BytesMut> {
        let shard = match scheme.destination(&datagram, self.shard) {
            Destination::Shard(shard) if shard != self.shard => shard,
            Destination::Shard(_) | Destination::Anyone => return Some(datagram),
        };
        // Not a part of the buffer of a whole train, which would be kept as long as this waits.
        let datagram = Forwarded { bytes: BytesMut::from(&datagram[..]), meta: *meta };
        let sent = self.outboxes.get(shard.get()).is_some_and(|outbox| outbox.try_send(datagram).is_ok());
        let counter = if sent { &self.stats.forwarded } else { &self.stats.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::Waker;

    use quinn_proto::ConnectionIdGenerator;

    use super::super::steering::ShardCids;
    use super::*;

    const SHARDS: usize = 2;

    fn shard(n: usize) -> ShardId {
        ShardCount::new(SHARDS).unwrap().iter().nth(n).unwrap()
    }

    fn scheme() -> CidScheme {
        CidScheme::new([9; 16], ShardCount::new(SHARDS).unwrap())
    }

    fn datagram(to: usize, len: usize) -> BytesMut {
        let id = ShardCids { scheme: scheme(), shard: shard(to) }.generate_cid();
        let mut bytes = [&[0x40], &id[..]].concat();
        bytes.resize(len, len as u8);
        bytes.as_slice().into()
    }

    fn drain(doors: &mut Doors) -> Vec<BytesMut> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        while let Poll::Ready(forwarded) = doors.poll_take_in(&mut cx) {
            out.push(forwarded.bytes);
        }
        out
    }

    #[test]
    fn each_datagram_goes_to_its_shard() {
        for pattern in [&[0, 0, 0][..], &[1, 1, 1], &[0, 1, 0, 1], &[1, 0, 0], &[1], &[0, 0, 1]] {
            let mut doors = Doors::for_all(ShardCount::new(SHARDS).unwrap());
            let received: Vec<_> = pattern.iter().map(|&to| (to, datagram(to, 100))).collect();
            let of = |shard| -> Vec<BytesMut> {
                received.iter().filter(|(to, _)| *to == shard).map(|(_, bytes)| bytes.clone()).collect()
            };
            let meta = RecvMeta::default();
            let kept: Vec<_> = received
                .iter()
                .filter_map(|(_, bytes)| doors[0].hand_over(&scheme(), bytes.clone(), &meta))
                .collect();
            assert_eq!(kept, of(0), "{pattern:?}");
            assert_eq!(drain(&mut doors[1]), of(1), "{pattern:?}");
            assert!(drain(&mut doors[0]).is_empty());
            assert_eq!(doors[0].stats().forwarded.load(Relaxed), of(1).len() as u64);
            assert_eq!(doors[1].stats().taken_in.load(Relaxed), of(1).len() as u64);
        }
    }

    #[test]
    fn noise_and_first_ids_are_nobody_elses() {
        let doors = Doors::for_all(ShardCount::new(SHARDS).unwrap());
        for noise in [&[0x40; 30][..], &[0xc0; 1200], &[0x40], &[]] {
            let kept = doors[0].hand_over(&scheme(), noise.into(), &RecvMeta::default());
            assert_eq!(kept.as_deref(), Some(noise));
        }
    }

    #[test]
    fn a_full_inbox_drops() {
        let mut doors = Doors::for_all(ShardCount::new(SHARDS).unwrap());
        for _ in 0..INBOX_DATAGRAMS + 5 {
            assert!(doors[0].hand_over(&scheme(), datagram(1, 50), &RecvMeta::default()).is_none());
        }
        assert_eq!(doors[0].stats().dropped.load(Relaxed), 5);
        assert_eq!(drain(&mut doors[1]).len(), INBOX_DATAGRAMS);
    }
}
