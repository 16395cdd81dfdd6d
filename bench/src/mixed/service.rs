//! Who is served, and how long others wait for it: the time without service as clients have it, of any stretch of time.
//!
//! A client that has something to send waits from when that was due until it is acknowledged, whatever it does meanwhile:
//! resend, reconnect, come to another node. What it waited before the stretch began does not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock;
use crate::stats::Latencies;

/// Who has waited longer than that was not served meanwhile, in nanoseconds.
const SLOW: u64 = 1_000_000_000;

/// What clients tell, each by its number, and the stretch of time that it is told for.
#[derive(Debug)]
pub struct Service {
    since: AtomicU64,
    clients: Box<[Waits]>,
}

#[derive(Debug, Default)]
struct Waits {
    /// In this stretch of time. 0: nothing was acknowledged.
    longest: AtomicU64,
    /// From its beginning until that wait was over.
    over: AtomicU64,
    /// When the oldest send was due that is not acknowledged. 0: there is none.
    oldest: AtomicU64,
    /// It has lost its connection in this stretch of time, or was sent away.
    moved: AtomicBool,
}

/// A stretch of time, over all clients who had something to send.
#[derive(Debug, Default, Clone)]
pub struct Served {
    /// The longest that each has waited for an acknowledgement.
    pub longest: Latencies,
    /// The same, of those alone whose connection stayed.
    pub stayed: Latencies,
    /// Clients whose connection ended.
    pub moved: u64,
    /// From the beginning until that wait was over; 0 for those who never waited for more than a second.
    pub again: Latencies,
    /// Clients who wait for more than a second at the end.
    pub waiting: u64,
}

impl Service {
    /// For so many clients.
    pub fn new(clients: usize) -> Arc<Self> {
        let clients = std::iter::repeat_with(Waits::default).take(clients).collect();
        Arc::new(Self { since: AtomicU64::new(0), clients })
    }

    /// A send of this client is acknowledged that was due then.
    pub fn acked(&self, client: usize, due: u64) {
        if let Some(waits) = self.clients.get(client) {
            waits.note(due, self.since.load(Ordering::Relaxed), clock::nanos());
        }
    }

    /// When this client's oldest send was due that is not acknowledged.
    pub fn waits(&self, client: usize, oldest: Option<u64>) {
        if let Some(waits) = self.clients.get(client) {
            waits.oldest.store(oldest.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// This client's connection has ended.
    pub fn lost(&self, client: usize) {
        if let Some(waits) = self.clients.get(client) {
            waits.moved.store(true, Ordering::Relaxed);
        }
    }

    /// A stretch of time begins.
    pub fn begin(&self) {
        for waits in &self.clients {
            waits.longest.store(0, Ordering::Relaxed);
            waits.over.store(0, Ordering::Relaxed);
            waits.moved.store(false, Ordering::Relaxed);
        }
        self.since.store(clock::nanos(), Ordering::Relaxed);
    }

    /// What has been so far.
    pub fn so_far(&self) -> Served {
        self.until(clock::nanos())
    }

    fn until(&self, now: u64) -> Served {
        let since = self.since.load(Ordering::Relaxed);
        let mut served = Served::default();
        for waits in &self.clients {
            let oldest = waits.oldest.load(Ordering::Relaxed);
            if oldest > 0 {
                waits.note(oldest, since, now);
                served.waiting += u64::from(now.saturating_sub(oldest) > SLOW);
            }
            let moved = waits.moved.load(Ordering::Relaxed);
            served.moved += u64::from(moved);
            let longest = waits.longest.load(Ordering::Relaxed);
            if longest > 0 {
                served.longest.record(longest);
                if !moved {
                    served.stayed.record(longest);
                }
                let was_slow = longest > SLOW;
                served.again.record(if was_slow { waits.over.load(Ordering::Relaxed) } else { 0 });
            }
        }
        served
    }
}

impl Waits {
    fn note(&self, due: u64, since: u64, now: u64) {
        let waited = now.saturating_sub(due.max(since)).max(1);
        if waited > self.longest.fetch_max(waited, Ordering::Relaxed) {
            self.over.store(now.saturating_sub(since), Ordering::Relaxed);
        }
    }
}

impl Served {
    /// Takes in another stretch.
    pub fn add(&mut self, other: &Self) {
        self.longest.add(&other.longest);
        self.stayed.add(&other.stayed);
        self.moved += other.moved;
        self.again.add(&other.again);
        self.waiting += other.waiting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_counted_from_when_the_time_begins() {
        let waits = Waits::default();
        waits.note(10 * SLOW, 12 * SLOW, 12 * SLOW + 7);
        assert_eq!(waits.longest.load(Ordering::Relaxed), 7);
        waits.note(13 * SLOW, 12 * SLOW, 16 * SLOW);
        waits.note(16 * SLOW, 12 * SLOW, 16 * SLOW + 9);
        assert_eq!(waits.longest.load(Ordering::Relaxed), 3 * SLOW);
        assert_eq!(waits.over.load(Ordering::Relaxed), 4 * SLOW);
    }

    #[test]
    fn who_still_waits_counts_and_who_has_nothing_to_say_does_not() {
        let service = Service::new(3);
        service.begin();
        service.acked(0, clock::nanos());
        service.waits(1, Some(1));
        service.lost(1);
        let served = service.until(clock::nanos() + 2 * SLOW);
        assert_eq!((served.longest.count(), served.waiting), (2, 1));
        assert_eq!((served.stayed.count(), served.moved), (1, 1));
        service.waits(1, None);
        service.begin();
        assert_eq!(service.so_far().longest.count(), 0);
    }
}
