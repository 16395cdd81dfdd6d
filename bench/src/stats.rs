//! Latencies.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Adds fields of the same name.
macro_rules! add {
    ($to:expr, $from:expr, $($field:ident),+ $(,)?) => {
        $($to.$field += $from.$field;)+
    };
}
pub(crate) use add;

/// Latencies from 1 µs to a minute, with an error of 1 %.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

const NANOS_MIN: u64 = 1_000;
const NANOS_MAX: u64 = 60_000_000_000;
const DIGITS: u8 = 2;

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(NANOS_MIN, NANOS_MAX, DIGITS);
        Self(histogram.unwrap_or_else(|error| unreachable!("constant bounds: {error}")))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(NANOS_MIN));
    }

    /// Takes in another's.
    pub fn add(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// Those that came after `earlier`, which was a copy of this one once.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = self.0.clone();
        let subtracted = later.subtract(&earlier.0);
        subtracted.unwrap_or_else(|error| unreachable!("the same bounds, and none is taken away: {error}"));
        Self(later)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share of all is at or below, in milliseconds.
    pub fn at_ms(&self, quantile: f64) -> f64 {
        ms(self.0.value_at_quantile(quantile))
    }

    /// In a few numbers; `None` when there is none.
    pub fn summary(&self) -> Option<Summary> {
        (self.count() > 0).then(|| Summary {
            count: self.count(),
            mean: ms(self.0.mean() as u64),
            p50: self.at_ms(0.5),
            p90: self.at_ms(0.9),
            p99: self.at_ms(0.99),
            p999: self.at_ms(0.999),
            max: ms(self.0.max()),
        })
    }
}

fn ms(nanos: u64) -> f64 {
    round(nanos as f64 / 1e6, 3)
}

/// A number with few digits.
pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Latencies in a few numbers, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Half are at or below.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The worst.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up() {
        let mut all = Latencies::default();
        assert!(all.summary().is_none());
        for ms in 1..=50 {
            let mut one = Latencies::default();
            one.record(ms * 2_000_000);
            all.add(&one);
        }
        let summary = all.summary().expect("50 of them");
        assert_eq!(summary.count, 50);
        let before = all.clone();
        all.record(7_000_000);
        let since = all.since(&before);
        assert_eq!(since.count(), 1);
        assert!((6.9..7.1).contains(&since.at_ms(0.5)), "{since:?}");
        assert!((49.0..52.0).contains(&summary.p50), "{summary:?}");
        assert!((98.0..102.0).contains(&summary.max), "{summary:?}");
    }
}
