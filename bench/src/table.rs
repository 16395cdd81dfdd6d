//! The result of a run for people.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::figure::meaning;
use crate::outcome::{Outcome, Point};
use crate::stats::Summary;

/// The table, several lines.
pub fn table(outcome: &Outcome) -> String {
    let mut lines = Lines::default();
    let end = if outcome.complete { "" } else { ", ENDED EARLY" };
    lines.text(&format!(
        "{} over {}: {} connections, {}, {} s measured{end}",
        outcome.scenario,
        outcome.transport,
        number(outcome.connections as f64),
        outcome.load,
        number(outcome.duration_s),
    ));
    if outcome.offered_per_s > 0.0 {
        lines.row(
            "rates",
            &[
                ("offered", format!("{}/s", number(outcome.offered_per_s))),
                ("acked", format!("{}/s", number(outcome.acked_per_s))),
                ("delivered", format!("{}/s", number(outcome.delivered_per_s))),
            ],
        );
    }
    lines.latencies(&[
        ("ack", &outcome.ack_ms),
        ("deliver", &outcome.deliver_ms),
        ("receipt", &outcome.receipt_ms),
        ("login", &outcome.login_ms),
    ]);
    let server = &outcome.server;
    lines.row(
        "server",
        &[
            ("cores", server.cpu_cores.map(cores).unwrap_or_default()),
            ("per message", server.cpu_us_per_message.map(micros).unwrap_or_default()),
            ("per delivery", server.cpu_us_per_delivery.map(micros).unwrap_or_default()),
        ],
    );
    lines.row(
        "memory",
        &[
            ("resident", server.rss_bytes.map(|bytes| size(bytes as f64)).unwrap_or_default()),
            ("per connection", server.rss_bytes_per_connection.map(size).unwrap_or_default()),
            ("kernel, per connection end", server.kernel_bytes_per_connection.map(size).unwrap_or_default()),
        ],
    );
    lines.row(
        "driver",
        &[
            ("cores", cores(outcome.driver.cpu_cores)),
            ("per message", outcome.driver.cpu_us_per_message.map(micros).unwrap_or_default()),
            ("all others", cores(outcome.other_cores)),
        ],
    );
    if let Some(floor) = &outcome.floor {
        lines.row(
            "floor",
            &[
                ("relay", micros(floor.relay_us_per_message)),
                ("store", micros(floor.store_us_per_message)),
                ("server / floor", floor.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()),
            ],
        );
    }
    lines.seconds(&outcome.series);
    for (name, value) in &outcome.scenario_figures {
        lines.figure(name, *value);
    }
    lines.promises(outcome);
    lines.0
}

/// Two runs side by side, several lines: latencies, and the scenario's own figures where one of them is not 0.
pub fn comparison(one: &Outcome, other: &Outcome) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut row = |name: &str, values: [String; 2]| {
        let _ = writeln!(text, "  {name:<36} {:>14} {:>14}", values[0], values[1]);
    };
    row(&one.scenario, [&one.transport, &other.transport].map(|transport| transport.to_uppercase()));
    type Latency = fn(&Outcome) -> &Option<Summary>;
    let latencies: [(&str, Latency); 4] = [
        ("ack", |outcome| &outcome.ack_ms),
        ("deliver", |outcome| &outcome.deliver_ms),
        ("receipt", |outcome| &outcome.receipt_ms),
        ("login", |outcome| &outcome.login_ms),
    ];
    for (name, of) in latencies {
        let both = [one, other].map(|outcome| of(outcome).as_ref());
        if both.iter().all(Option::is_none) {
            continue;
        }
        let of = |value: fn(&Summary) -> f64| {
            both.map(|summary| summary.map_or("-".into(), |summary| ms(value(summary))))
        };
        row(&format!("{name} p50, ms"), of(|summary| summary.p50));
        row(&format!("{name} p99, ms"), of(|summary| summary.p99));
        row(&format!("{name} max, ms"), of(|summary| summary.max));
    }
    let cpu = [one, other].map(|outcome| outcome.server.cpu_us_per_message.map_or("-".into(), number));
    row("server per message, µs", cpu);
    let names: BTreeSet<_> = one.scenario_figures.keys().chain(other.scenario_figures.keys()).collect();
    for name in names {
        let both = [one, other].map(|outcome| outcome.scenario_figures.get(name).copied());
        if both.iter().flatten().any(|value| *value != 0.0) {
            row(name, both.map(|value| value.map_or("-".into(), number)));
        }
    }
    text
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn text(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn row(&mut self, name: &str, fields: &[(&str, String)]) {
        let fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_empty()).collect();
        if fields.is_empty() {
            return;
        }
        let fields: Vec<_> = fields.iter().map(|(what, value)| format!("{what} {value}")).collect();
        self.text(&format!("  {name:<10} {}", fields.join("   ")));
    }

    fn latencies(&mut self, rows: &[(&str, &Option<Summary>)]) {
        let rows: Vec<_> = rows.iter().filter_map(|(name, row)| Some((name, row.as_ref()?))).collect();
        if rows.is_empty() {
            return;
        }
        self.text(&format!(
            "  {:<10} {:>12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "ms", "count", "mean", "p50", "p90", "p99", "p99.9", "max"
        ));
        for (name, row) in rows {
            let _ = write!(self.0, "  {name:<10} {:>12}", number(row.count as f64));
            for value in [row.mean, row.p50, row.p90, row.p99, row.p999, row.max] {
                let _ = write!(self.0, " {:>9}", ms(value));
            }
            self.0.push('\n');
        }
    }

    /// The worst of the measured seconds.
    fn seconds(&mut self, series: &[Point]) {
        let acked = series.iter().filter(|point| point.phase == "measuring").map(|point| point.acked);
        // The first one began before the measuring.
        let worst = acked.skip(1).reduce(f64::min);
        if let Some(worst) = worst.filter(|worst| *worst > 0.0) {
            self.row("worst", &[("second, acked", number(worst))]);
        }
    }

    fn figure(&mut self, name: &str, value: f64) {
        let meaning = meaning(name).map_or(String::new(), |meaning| format!("({meaning})"));
        self.text(format!("  {name:<36} {:<12} {meaning}", number(value)).trim_end());
    }

    fn promises(&mut self, outcome: &Outcome) {
        let faults = &outcome.faults;
        let all = [
            ("lost", faults.lost),
            ("duplicated", faults.duplicated),
            ("reordered", faults.reordered),
            ("falsely receipted", faults.falsely_receipted),
            ("altered", faults.altered),
            ("split", faults.split),
            ("unanswered", faults.unanswered),
            ("refused", faults.refused),
            ("disconnected", faults.disconnected),
        ];
        let broken: Vec<_> = all.iter().filter(|(_, count)| *count > 0).collect();
        if outcome.connections == 0 {
            self.row("promises", &[("nobody was connected:", "nothing to check".into())]);
        } else if broken.is_empty() && !outcome.complete {
            self.row("promises", &[("none broken", "until the run ended early".into())]);
        } else if broken.is_empty() {
            self.row("promises", &[("all", "kept".into())]);
        } else {
            let broken: Vec<_> = broken.iter().map(|(name, count)| (*name, number(*count as f64))).collect();
            self.row(if outcome.is_broken() { "BROKEN" } else { "at the end" }, &broken);
        }
        if outcome.errors > 0 {
            self.row("errors", &[("in all", number(outcome.errors as f64))]);
        }
        for (what, count) in &outcome.refusals {
            self.text(&format!("  {:>10} × {what}", number(*count as f64)));
        }
    }
}

pub(crate) fn cores(value: f64) -> String {
    format!("{value:.2}")
}

pub(crate) fn micros(value: f64) -> String {
    format!("{value:.1} µs")
}

pub(crate) fn ms(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => number(value.round()),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes.abs() < 1e3 => format!("{bytes:.0} B"),
        bytes if bytes.abs() < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes.abs() < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.2} GB", bytes / 1e9),
    }
}

/// With commas, and with decimals only where they say something.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        value if value.fract() == 0.0 || value >= 1_000.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.find('.').map_or((text.as_str(), ""), |at| text.split_at(at));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let cases =
            [(0.0, "0"), (0.1234, "0.12"), (12.345, "12.3"), (1234567.8, "1,234,568"), (-1000.0, "-1,000")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!([size(999.0), size(12_345.0), size(2.5e9)].join(" "), "999 B 12.3 kB 2.50 GB");
    }
}
