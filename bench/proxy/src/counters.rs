//! What a proxy has done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What a proxy has done so far. A packet is a datagram, or a chunk of a TCP stream of up to a segment's length.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// All of them, with their names.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

counters! {
    /// Flows: client addresses over UDP, connections over TCP.
    flows,
    /// TCP connections that were refused because there were too many, or the server took none; UDP flows that made room
    /// for others.
    refused,
    /// Packets that came through, late or not.
    passed,
    /// Datagrams that were dropped by chance, and chunks that had to be sent again.
    lost,
    /// Packets that passed later than they came.
    delayed,
    /// Datagrams that were held back so that others overtake them.
    reordered,
    /// Datagrams that arrived twice.
    doubled,
    /// Datagrams that a network without UDP has swallowed.
    swallowed,
    /// Blackouts that something ran into, for each flow.
    blackouts,
    /// Datagrams that were dropped in a blackout, and chunks that had to wait for its end.
    blacked_out,
    /// Datagrams that found a queue full.
    overflowed,
    /// TCP connections that were cut by a blackout's end or an address change.
    cut,
    /// Flows of datagrams that continued from another port.
    moved,
    /// Datagrams to a port that their flow had left.
    astray,
    /// Flows that died without a word.
    died,
}

/// What the proxy's thread and its owner share.
#[derive(Debug)]
pub(super) struct Shared {
    counters: Mutex<Counters>,
    /// Nanoseconds from the start of the proxy until there are no more faults.
    calm_from: AtomicU64,
    /// From the start of the proxy until the times of events begin to count; [`NOT_YET`].
    events_from: watch::Sender<Duration>,
}

/// No time of a run.
const NOT_YET: Duration = Duration::MAX;

impl Default for Shared {
    fn default() -> Self {
        Self {
            counters: Mutex::default(),
            calm_from: AtomicU64::new(u64::MAX),
            events_from: watch::Sender::default(),
        }
    }
}

impl Shared {
    /// For a plan whose events wait until they are begun.
    pub(super) fn waiting() -> Self {
        Self { events_from: watch::Sender::new(NOT_YET), ..Self::default() }
    }

    /// The times of events count from here on, if they do not yet.
    pub(super) fn begin_events(&self, now: Duration) {
        self.events_from.send_if_modified(|from| {
            let waits = *from == NOT_YET;
            if waits {
                *from = now;
            }
            waits
        });
    }

    /// From when on the times of events count; later than any time, if they do not yet.
    pub(super) fn events_from(&self) -> Duration {
        *self.events_from.borrow()
    }

    /// Waits until the times of events count.
    pub(super) async fn events_begin(&self) {
        // It has the sender itself.
        let _ = self.events_from.subscribe().wait_for(|from| *from != NOT_YET).await;
    }

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
