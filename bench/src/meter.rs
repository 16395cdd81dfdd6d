//! What driver threads count, and how the sampler gets at it while they go on.
//!
//! A thread counts into the interval of its own [`Meter`]; the sampler takes that away and leaves an empty one. So a
//! second's percentiles and the run's come from the same records, and no count is in two of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::stats::{Latencies, add};

/// Different refusals that are told apart; more are counted together.
const REFUSALS_MAX: usize = 64;

/// What was counted since the last look. Times in nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Interval {
    /// Messages sent.
    pub sent: u64,
    /// Messages that were due by the schedule and not sent before the measuring ended.
    pub unsent: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages that reached somebody else than their sender, each recipient counted.
    pub delivered: u64,
    /// "Delivered" marks sent.
    pub marks: u64,
    /// Receipts heard.
    pub receipts: u64,
    /// "Head moved" hints heard.
    pub heads_moved: u64,
    /// Pages asked for because of a gap.
    pub pulls: u64,
    /// Entries of conversations, each counted once.
    pub entries: u64,
    /// Transactions that they were committed in.
    pub transactions: u64,
    /// Senders of each transaction, added up.
    pub transaction_senders: u64,
    /// What was refused and may be tried again.
    pub errors: u64,
    /// From when a message was due until its acknowledgement.
    pub ack: Latencies,
    /// From when a message was due until a recipient has it.
    pub deliver: Latencies,
    /// From when a message was due until its sender knows that all recipients have it.
    pub receipt: Latencies,
    /// From the first packet to `LoginOk`.
    pub login: Latencies,
    /// From when a message was due until it was sent.
    pub late: Latencies,
    /// Refusals by their text.
    pub refusals: BTreeMap<String, u64>,
    /// What only one scenario counts; it becomes one of its figures, as a sum.
    pub counts: BTreeMap<&'static str, u64>,
    /// What only one scenario measures; it becomes figures of its, with `_p50_ms` and so on behind the name.
    pub times: BTreeMap<&'static str, Latencies>,
}

impl Interval {
    /// Takes in another.
    pub fn add(&mut self, other: &Self) {
        add!(self, other, sent, unsent, acked, delivered, marks, receipts, heads_moved, pulls, errors);
        add!(self, other, entries, transactions, transaction_senders);
        self.ack.add(&other.ack);
        self.deliver.add(&other.deliver);
        self.receipt.add(&other.receipt);
        self.login.add(&other.login);
        self.late.add(&other.late);
        for (what, count) in &other.refusals {
            self.refuse_times(what.clone(), *count);
        }
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        for (what, times) in &other.times {
            self.times.entry(what).or_default().add(times);
        }
    }

    /// Counts a refusal.
    pub fn refuse(&mut self, what: String) {
        self.refuse_times(what, 1);
    }

    /// Counts what only this scenario has.
    pub fn count(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    /// Records what only this scenario measures.
    pub fn time(&mut self, what: &'static str, nanos: u64) {
        self.times.entry(what).or_default().record(nanos);
    }

    fn refuse_times(&mut self, what: String, times: u64) {
        let known = self.refusals.len() < REFUSALS_MAX || self.refusals.contains_key(&what);
        let what = if known { what } else { "others".into() };
        *self.refusals.entry(what).or_default() += times;
    }
}

/// A thread's counters.
#[derive(Debug, Default)]
pub struct Meter {
    interval: Mutex<Interval>,
    in_flight: AtomicU64,
    connected: AtomicU64,
}

impl Meter {
    /// Counts. The interval is held for the length of `count` only.
    pub fn count(&self, count: impl FnOnce(&mut Interval)) {
        count(&mut self.interval.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a refusal that passes: an error, and no broken promise.
    pub fn refused(&self, what: String) {
        self.count(|interval| {
            interval.errors += 1;
            interval.refuse(what);
        });
    }

    /// Takes what was counted since the last time.
    pub fn take(&self) -> Interval {
        std::mem::take(&mut self.interval.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request that has to be answered before the load can be said to have paused went out. Only for the meter's
    /// own thread, as all that raises and lowers.
    pub fn began(&self) {
        raise(&self.in_flight, 1);
    }

    /// So many of them were answered, or will never be.
    pub fn ended(&self, count: u64) {
        lower(&self.in_flight, count);
    }

    /// How many are under way.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A client has logged in.
    pub fn connected(&self) {
        raise(&self.connected, 1);
    }

    /// A client's connection has ended.
    pub fn disconnected(&self) {
        lower(&self.connected, 1);
    }

    /// How many clients are logged in.
    pub fn connections(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }
}

fn raise(gauge: &AtomicU64, by: u64) {
    gauge.store(gauge.load(Ordering::Relaxed).saturating_add(by), Ordering::Relaxed);
}

fn lower(gauge: &AtomicU64, by: u64) {
    gauge.store(gauge.load(Ordering::Relaxed).saturating_sub(by), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_bounded() {
        let meter = Meter::default();
        for i in 0..1_000 {
            meter.count(|interval| interval.refuse(i.to_string()));
        }
        let mut all = meter.take();
        all.add(&all.clone());
        assert!(all.refusals.len() <= REFUSALS_MAX + 1);
        assert_eq!(all.refusals.values().sum::<u64>(), 2_000);
        assert!(meter.take().refusals.is_empty());
    }
}
