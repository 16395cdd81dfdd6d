//! One figure of several runs, side by side.

use maud::{Markup, html};

use super::number;

/// A bar of more than this many times the median would leave nothing to see of the others: it is cut.
const MEDIANS_MAX: f64 = 20.0;

/// One run's bar.
pub(super) struct Bar {
    /// Its classes in the style sheet.
    pub(super) class: String,
    pub(super) label: String,
    pub(super) value: f64,
}

/// As a figure with its title.
pub(super) fn draw(title: &str, unit: &str, bars: &[Bar]) -> Markup {
    let end = end(bars);
    html! {
        figure.bars {
            figcaption { (title) " " span.unit { (unit) } }
            @for bar in bars {
                span.name { (bar.label) }
                span.track {
                    @let cut = if bar.value > end { "cut " } else { "" };
                    span class={ "bar " (cut) (bar.class) }
                        style={ "width:" (format!("{:.1}", (bar.value / end).min(1.0) * 100.0)) "%" } {}
                }
                span.value { (number::figure(bar.value)) }
            }
        }
    }
}

/// The figure of a bar of full length.
fn end(bars: &[Bar]) -> f64 {
    let mut values: Vec<f64> = bars.iter().map(|bar| bar.value).filter(|value| *value > 0.0).collect();
    values.sort_by(f64::total_cmp);
    let Some((median, most)) = values.get((values.len().max(1) - 1) / 2).zip(values.last()) else {
        return 1.0;
    };
    let limit = median * MEDIANS_MAX;
    if *most <= limit {
        return *most;
    }
    // Room beyond the longest that is not cut shows that a cut one is longer.
    values.iter().rev().find(|value| **value <= limit).map_or(limit, |longest| longest * 1.3)
}
