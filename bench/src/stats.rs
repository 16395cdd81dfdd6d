//! What is counted.

use hdrhistogram::Histogram;
use serde::Serialize;

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

    /// For the report.
    pub fn summary(&self) -> Summary {
        let ms = |nanos: u64| (nanos as f64 / 1e4).round() / 1e2;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        Summary {
            count: self.0.len(),
            mean_ms: ms(self.0.mean() as u64),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(self.0.max()),
        }
    }
}

/// Latencies in a few numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Mean.
    pub mean_ms: f64,
    /// Half are at or below.
    pub p50_ms: f64,
    /// Nine of ten.
    pub p90_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
    /// The worst.
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up() {
        let mut all = Latencies::default();
        for ms in 1..=50 {
            let mut one = Latencies::default();
            one.record(ms * 2_000_000);
            all.add(&one);
        }
        let summary = all.summary();
        assert_eq!(summary.count, 50);
        assert!((49.0..52.0).contains(&summary.p50_ms), "{summary:?}");
        assert!((98.0..102.0).contains(&summary.max_ms), "{summary:?}");
    }
}
