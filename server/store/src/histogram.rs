//! Histograms with fixed bounds, which any thread may record into: one addition to a bucket and one to the sum.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds of one histogram at most.
pub const BOUNDS_MAX: usize = 16;

/// Times in microseconds: from a fast disk's sync to what nobody waits for any more.
pub const MICROS: &[u64] = &[
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Sizes of batches.
pub const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

const _: () = assert!(MICROS.len() <= BOUNDS_MAX && SIZES.len() <= BOUNDS_MAX);

/// How many values there were of which size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

/// What a [`Histogram`] has counted. Read while others record, a value may be in `counts` and not yet in `sum`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Rising; each is the largest value of its bucket.
    pub bounds: &'static [u64],
    /// Values by bucket, not cumulative; behind that of the last bound, those above it.
    pub counts: [u64; BOUNDS_MAX + 1],
    /// Of all values.
    pub sum: u64,
}

impl Histogram {
    /// An empty one. `bounds` rise and are at most [`BOUNDS_MAX`].
    pub const fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= BOUNDS_MAX, "too many bounds");
        Self { bounds, counts: [const { AtomicU64::new(0) }; BOUNDS_MAX + 1], sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What it has counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = std::array::from_fn(|bucket| read(&self.counts[bucket]));
        Snapshot { bounds: self.bounds, counts, sum: read(&self.sum) }
    }
}

impl Snapshot {
    /// This and another one with the same bounds, or none.
    ///
    /// # Panics
    /// When both have bounds and they differ.
    pub fn plus(mut self, other: &Self) -> Self {
        assert!(self.bounds.is_empty() || self.bounds == other.bounds, "histograms with different bounds");
        self.bounds = other.bounds;
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
        self
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, 1_000].into_iter().for_each(|value| histogram.record(value));
        let snapshot = histogram.snapshot();
        assert_eq!(&snapshot.counts[..4], [2, 2, 2, 0]);
        assert_eq!((snapshot.count(), snapshot.sum), (6, 1_024));
        let twice = Snapshot::default().plus(&snapshot).plus(&snapshot);
        assert_eq!((twice.count(), twice.sum, twice.bounds), (12, 2_048, &[1, 10][..]));
    }
}
