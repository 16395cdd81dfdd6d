//! One reading of a server's metrics, and what two of them say together.

use std::collections::BTreeSet;

use crate::clock::Stamp;
use crate::metrics::text::Sample;

/// What a server has said at one time.
pub(super) struct Reading {
    /// When.
    pub(super) at: Stamp,
    /// Its metrics.
    pub(super) samples: Vec<Sample>,
    /// "ready", or why not.
    pub(super) state: String,
}

/// A label and its value.
pub(super) type Where<'a> = (&'a str, &'a str);

impl Reading {
    fn of<'a>(&'a self, name: &'a str, labels: &'a [Where<'a>]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(label, value)| sample.label(label) == Some(value))
        })
    }

    /// The sum of all samples that have these labels.
    pub(super) fn sum(&self, name: &str, labels: &[Where<'_>]) -> f64 {
        self.of(name, labels).map(|sample| sample.value).sum()
    }

    /// The values that a label has, numbers in their order.
    pub(super) fn values(&self, name: &str, label: &str) -> Vec<String> {
        let values: BTreeSet<(Option<u64>, &str)> = self
            .of(name, &[])
            .filter_map(|sample| sample.label(label))
            .map(|value| (value.parse().ok(), value))
            .collect();
        values.into_iter().map(|(_, value)| value.to_owned()).collect()
    }

    /// Seconds since `before`.
    fn seconds_since(&self, before: &Self) -> f64 {
        before.at.micros().saturating_sub(self.at.micros()).max(1) as f64 / 1e6
    }

    /// How much a counter has risen in a second.
    pub(super) fn rate(&self, before: &Self, name: &str, labels: &[Where<'_>]) -> f64 {
        (self.sum(name, labels) - before.sum(name, labels)).max(0.0) / self.seconds_since(before)
    }

    /// The bound below which this share of a histogram's new values is; `None` when there are none. Of values above the
    /// last bound it is infinite.
    pub(super) fn quantile(
        &self,
        before: &Self,
        name: &str,
        labels: &[Where<'_>],
        share: f64,
    ) -> Option<f64> {
        let name = format!("{name}_bucket");
        let buckets = |reading: &Self| -> Vec<(f64, f64)> {
            let bounds = reading.of(&name, labels).filter_map(|sample| {
                let bound = match sample.label("le")? {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().ok()?,
                };
                Some((bound, sample.value))
            });
            bounds.collect()
        };
        let (now, then) = (buckets(self), buckets(before));
        let new = now.iter().zip(&then).map(|((bound, now), (_, then))| (*bound, (now - then).max(0.0)));
        let new: Vec<_> = new.collect();
        let all = new.last().map_or(0.0, |(_, count)| *count);
        new.into_iter().find(|(_, count)| all > 0.0 && *count >= share * all).map(|(bound, _)| bound)
    }
}
