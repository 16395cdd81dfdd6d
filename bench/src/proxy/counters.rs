//! What a proxy has done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// What a proxy has done so far. A packet is a datagram, or a chunk of a TCP stream of up to a segment's length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Flows: client addresses over UDP, connections over TCP.
    pub flows: u64,
    /// TCP connections that were refused because there were too many, or the server took none; UDP flows that made room
    /// for others.
    pub refused: u64,
    /// Packets that came through, late or not.
    pub passed: u64,
    /// Datagrams that were dropped by chance, and chunks that had to be sent again.
    pub lost: u64,
    /// Packets that passed later than they came.
    pub delayed: u64,
    /// Datagrams that were held back so that others overtake them.
    pub reordered: u64,
    /// Blackouts that something ran into, for each flow.
    pub blackouts: u64,
    /// Datagrams that were dropped in a blackout, and chunks that had to wait for its end.
    pub blacked_out: u64,
    /// Datagrams that found a queue full.
    pub overflowed: u64,
    /// TCP connections that were cut by a blackout's end or an address change.
    pub cut: u64,
    /// Flows of datagrams that continued from another port.
    pub moved: u64,
    /// Datagrams to a port that their flow had left.
    pub astray: u64,
    /// Flows that died without a word.
    pub died: u64,
}

/// What the proxy's thread and its owner share.
#[derive(Debug)]
pub(super) struct Shared {
    counters: Mutex<Counters>,
    /// Nanoseconds from the start of the proxy until there are no more faults.
    calm_from: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self { counters: Mutex::default(), calm_from: AtomicU64::new(u64::MAX) }
    }
}

impl Shared {
    pub(super) fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn calm_from(&self) -> Duration {
        Duration::from_nanos(self.calm_from.load(Ordering::Relaxed))
    }

    pub(super) fn calm_down(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.calm_from.fetch_min(nanos, Ordering::Relaxed);
    }
}
