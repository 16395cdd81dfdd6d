//! Where a figure is on an axis, and which figures the axis names.

use super::number;

/// From zero, with a figure of more than this many times the median, half of the figures are within two pixels.
const MEDIANS_MAX: f64 = 100.0;

/// Of an axis that is named by figures that are not round, for each.
const ROOM: f64 = 0.15;

/// An axis: every figure has a place from 0 to 1 on it; what is beyond an end is shown there.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// A figure and how it is written.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Scale {
    /// From zero to a round number that none is above.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>, ticks_max: usize) -> Self {
        let most = values.fold(0.0, f64::max);
        let most = if most > 0.0 { most.max(1e-9) } else { 1.0 };
        let step = round_step(most / ticks_max as f64);
        let steps = (most / step).ceil().max(1.0);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let tick = |index| (index as f64 * step, number::fixed(index as f64 * step, digits));
        let ticks = (0..=steps as usize).map(tick).collect();
        Self { low: 0.0, high: steps * step, logarithmic: false, ticks }
    }

    /// From zero, unless most figures would be too close to it to be told apart: then logarithmic.
    pub(super) fn fitting(values: impl Iterator<Item = f64>, ticks_max: usize) -> Self {
        let mut values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        values.sort_by(f64::total_cmp);
        let (median, most) = (values.get(values.len() / 2), values.last());
        if median.zip(most).is_some_and(|(median, most)| *most > median * MEDIANS_MAX) {
            return Self::logarithmic(values.into_iter(), ticks_max);
        }
        Self::from_zero(values.into_iter(), ticks_max)
    }

    /// Equal steps for equal factors. Zero has no place of its own: it is shown at the low end.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>, ticks_max: usize) -> Self {
        let above_zero = values.filter(|value| *value > 0.0).map(|value| value.max(1e-9));
        let (least, most) =
            above_zero.fold((f64::MAX, 0.0), |(least, most), value| (value.min(least), value.max(most)));
        let (least, most) = if most > 0.0 { (least, most) } else { (1.0, 10.0) };
        // 1, 2, 5 of every decade; the first is not above the least, the last not below the most.
        let round: Vec<f64> = (least.log10().floor() as i32..=most.log10().ceil() as i32)
            .flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)))
            .collect();
        let near = 1.0 + 1e-9;
        let first = round.iter().rposition(|value| *value <= least * near).unwrap_or(0);
        let mut last = round.iter().position(|value| *value * near >= most).unwrap_or(round.len() - 1);
        if last <= first {
            last = (first + 1).min(round.len() - 1);
        }
        let within = &round[first..=last];
        let decade = |value: f64| (value * near).log10().floor();
        let is_decade = |value: &&f64| (**value / 10f64.powf(decade(**value)) - 1.0).abs() < 1e-6;
        let every = |nth: i32| -> Vec<f64> {
            within
                .iter()
                .filter(is_decade)
                .filter(|value| decade(**value) as i32 % nth == 0)
                .copied()
                .collect()
        };
        let named = std::iter::once(within.to_vec())
            .chain([1, 2, 3, 5, 10, 20].map(every))
            .find(|ticks| ticks.len() <= ticks_max)
            .unwrap_or_default();
        let tick = |value: f64| {
            let digits = (-decade(value)).max(0.0) as usize;
            (value, number::fixed(value, digits))
        };
        let ticks = named.into_iter().map(tick).collect();
        Self { low: round[first], high: round[last], logarithmic: true, ticks }
    }

    /// With these names and ends.
    pub(super) fn named(low: f64, high: f64, ticks: Vec<(f64, String)>) -> Self {
        Self { low, high, logarithmic: false, ticks }
    }

    /// From the least of these figures to the most, with the ticks that are within: for an axis along which lines go
    /// from end to end.
    pub(super) fn trimmed(self, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.fold((self.high, self.low), |(low, high), value| (value.min(low), value.max(high)));
        let (low, high) = (low.max(self.low), high.min(self.high));
        if low >= high {
            return self;
        }
        let ticks = self.ticks.into_iter().filter(|(value, _)| (low..=high).contains(value)).collect();
        Self { low, high, ticks, ..self }
    }

    /// Names these figures, which rise, instead of round ones; the last, and of the others those that have room.
    pub(super) fn naming(mut self, figures: &[f64]) -> Self {
        self.ticks.clear();
        let mut free = f64::INFINITY;
        for figure in figures.iter().rev() {
            let place = self.place(*figure);
            if place <= free - ROOM {
                self.ticks.push((*figure, number::figure(*figure)));
                free = place;
            }
        }
        self.ticks.reverse();
        self
    }

    /// 0 at the low end, 1 at the high one.
    pub(super) fn place(&self, value: f64) -> f64 {
        let along = if self.logarithmic {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        along.clamp(0.0, 1.0)
    }
}

/// The smallest of 1, 2, 5, 10 … that is not below.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade);
    steps.into_iter().find(|step| *step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * decade)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn a_trimmed_scale_ends_with_the_figures() {
        let seconds = || [0.0, 2.0, 12.5].into_iter();
        let scale = Scale::from_zero(seconds(), 6).trimmed(seconds());
        assert_eq!(names(&scale), ["0", "5", "10"]);
        assert_eq!((scale.place(0.0), scale.place(12.5)), (0.0, 1.0));
        let one = Scale::logarithmic([5.0].into_iter(), 6).trimmed([5.0].into_iter());
        assert_eq!(names(&one), ["5", "10"], "no room to trim");
    }

    #[test]
    fn figures_that_have_room_are_named() {
        let counts = [1_000.0, 1_100.0, 5_000.0, 18_000.0, 19_000.0];
        let scale = Scale::logarithmic(counts.into_iter(), 6).trimmed(counts.into_iter()).naming(&counts);
        assert_eq!(names(&scale), ["1,100", "5,000", "19,000"]);
    }

    #[test]
    fn ticks_are_round() {
        let linear = |most| Scale::from_zero([most].into_iter(), 5);
        assert_eq!(names(&linear(62_900.0)), ["0", "20,000", "40,000", "60,000", "80,000"]);
        assert_eq!(names(&linear(1.37)), ["0.0", "0.5", "1.0", "1.5"]);
        assert_eq!(names(&linear(0.0)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let log = |values: &[f64]| Scale::logarithmic(values.iter().copied(), 8);
        assert_eq!(names(&log(&[1.4, 10.6])), ["1", "2", "5", "10", "20"]);
        assert_eq!(names(&log(&[0.03, 0.0, 4_000.0])), ["0.1", "1", "10", "100", "1,000"]);
        assert_eq!(names(&log(&[5.0])), ["5", "10"]);
        assert_eq!(names(&log(&[])), ["1", "2", "5", "10"]);
    }

    proptest! {
        #[test]
        fn every_figure_has_a_place(values in prop::collection::vec(0.0f64..1e15, 0..9), exponent in -30i32..15) {
            let small = 10f64.powi(exponent);
            let all: Vec<f64> = values.into_iter().chain([0.0, small]).collect();
            for scale in [Scale::from_zero(all.iter().copied(), 6), Scale::logarithmic(all.iter().copied(), 6)] {
                for value in &all {
                    prop_assert!((0.0..=1.0).contains(&scale.place(*value)), "{value} {scale:?}");
                }
                prop_assert!(scale.ticks.len() <= 8, "{scale:?}");
                let mut places = scale.ticks.iter().map(|(value, _)| scale.place(*value));
                prop_assert!(places.clone().is_sorted(), "{scale:?}");
                prop_assert!(places.all(|place| place.is_finite()), "{scale:?}");
            }
        }
    }
}
