//! The plots of one scenario.

use std::collections::BTreeSet;

use maud::{Markup, html};
use serde_json::Value;

use super::bars::{self, Bar};
use super::chart::{Chart, Line};
use super::number;
use super::run::{Figure, Latency, Run, Second, clean};
use super::scale::Scale;
use super::style::{self, Palette};
use super::table::{self, Cell, Head, Row};
use crate::figure::meaning;

/// Points of a line; longer series are thinned.
const POINTS_MAX: usize = 400;
/// Where "max" stands, right of the last percentile, in nines.
const MAX_GAP: f64 = 0.6;

/// A run, where it stands on the page.
#[derive(Clone)]
pub(super) struct Shown<'a> {
    pub(super) run: &'a Run,
    /// Among all runs, from 0.
    pub(super) index: usize,
    /// The same from 1, as it is written; empty if it is the only one.
    pub(super) number: String,
    /// Transport and connections, and more where that does not tell it from another of its scenario.
    pub(super) name: String,
    /// Of all that is drawn of it.
    pub(super) class: String,
}

impl Shown<'_> {
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.number, self.name).trim_start().to_owned()
    }
}

/// All plots of these runs, which are of one scenario.
pub(super) fn draw(name: &str, runs: &[Shown], palette: Palette) -> Markup {
    let groups = [latencies(runs, palette), over_time(runs, palette), over_connections(runs)];
    let bars = side_by_side(runs);
    html! {
        section {
            h2 { (name) }
            (legend(runs, palette))
            @for (title, charts) in groups {
                @if !charts.is_empty() {
                    h3 { (title) }
                    div.charts { @for chart in &charts { (chart.draw()) } }
                }
            }
            @if !bars.is_empty() {
                h3 { "Side by side" }
                div.charts { @for figure in &bars { (figure) } }
            }
            (figures(runs))
        }
    }
}

fn legend(runs: &[Shown], palette: Palette) -> Markup {
    let transports: BTreeSet<(&str, &str)> =
        runs.iter().map(|shown| (shown.run.transport.0.as_str(), shown.class.as_str())).collect();
    html! {
        ul.legend {
            @match palette {
                Palette::Runs => @for shown in runs { li { (style::sample(&shown.class)) (shown.title()) } },
                Palette::Transports => {
                    @for (transport, class) in transports { li { (style::sample(class)) (transport) } }
                    li.unit { "one line for each of " (runs.len()) " runs; point at one to see which" }
                }
            }
        }
    }
}

type Group = (&'static str, Vec<Chart<'static>>);

type Kind = (&'static str, fn(&Run) -> &Latency);

fn latencies(runs: &[Shown], palette: Palette) -> Group {
    // Stages of one way have one scale.
    let message: [Kind; 3] = [
        ("Ack: durable", |run| &run.ack_ms),
        ("Delivery: pushed to the recipient", |run| &run.deliver_ms),
        ("Receipt: delivered, back at the sender", |run| &run.receipt_ms),
    ];
    let login: [Kind; 1] = [("Login", |run| &run.login_ms)];
    let charts = [&message[..], &login].into_iter().flat_map(|kinds| latency(kinds, runs, palette));
    ("Latency", charts.collect())
}

/// A chart for each kind of which a run knows something.
fn latency(kinds: &[Kind], runs: &[Shown], palette: Palette) -> Vec<Chart<'static>> {
    let percentiles = |latency: &Latency| -> Vec<(f64, f64)> {
        latency.percentiles().into_iter().filter(|(share, _)| *share >= 0.5).collect()
    };
    let of = |kind: fn(&Run) -> &Latency| runs.iter().map(move |shown| (shown, kind(shown.run)));
    let all = || kinds.iter().flat_map(|(_, kind)| of(*kind)).map(|(_, latency)| latency);
    let times = all()
        .flat_map(|latency| percentiles(latency).into_iter().map(|(_, ms)| ms).chain(latency.get("max")));
    let y = Scale::logarithmic(times, 8);
    let last = all().flat_map(percentiles).map(|(share, _)| nines(share)).fold(nines(0.999), f64::max);
    let max = last + MAX_GAP;
    let ticks = [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let ticks = ticks.into_iter().map(|(share, name)| (nines(share), name.to_owned()));
    let ticks = ticks.filter(|(place, _)| *place <= last).chain([(max, "max".to_owned())]);
    let x = Scale::named(nines(0.5), max, ticks.collect());

    let line = |(shown, latency): (&Shown, &Latency)| {
        let points = percentiles(latency).into_iter().map(|(share, ms)| (nines(share), Some(ms)));
        let slowest = latency.get("max").map(|ms| (max, Some(ms)));
        let (class, title, label) = (shown.class.clone(), shown.title(), label(shown, palette));
        Line { class, title, label, points: points.chain(slowest).collect(), dots: true }
    };
    let chart = |(title, kind): &Kind| {
        let lines: Vec<Line> = of(*kind).map(line).filter(has_points).collect();
        let (x, y) = (x.clone(), y.clone());
        (!lines.is_empty()).then_some(Chart { title, unit: "ms", x, x_title: "percentile", y, lines })
    };
    kinds.iter().filter_map(chart).collect()
}

/// 0.9 is one nine, 0.99 two; 0.5 a third of one.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// How a plot over time shows a figure.
#[derive(Clone, Copy)]
struct OverTime {
    title: &'static str,
    unit: &'static str,
    of: fn(&Second) -> Figure,
    /// Also drawn, dotted.
    beside: Option<fn(&Second) -> Figure>,
    logarithmic: bool,
    bytes: bool,
    /// Not counted below while it is as in the first second.
    dull_if_level: bool,
    /// Worth a plot if a run has something other than zero in so many seconds.
    seconds_min: usize,
}

const OVER_TIME: [OverTime; 8] = {
    let plain = OverTime {
        title: "",
        unit: "",
        of: |second| second.acked,
        beside: None,
        logarithmic: false,
        bytes: false,
        dull_if_level: false,
        seconds_min: 1,
    };
    [
        OverTime {
            title: "Acked (dotted: offered)",
            unit: "messages/s",
            beside: Some(|second| second.offered),
            ..plain
        },
        OverTime { title: "Delivered", unit: "messages/s", of: |second| second.delivered, ..plain },
        OverTime { title: "Ack p99", unit: "ms", of: |second| second.ack_p99_ms, logarithmic: true, ..plain },
        OverTime { title: "Server CPU", unit: "cores", of: |second| second.server_cores, ..plain },
        OverTime {
            title: "Server memory, resident",
            of: |second| second.server_rss_bytes,
            bytes: true,
            ..plain
        },
        OverTime { title: "Connections", of: |second| second.connections, dull_if_level: true, ..plain },
        OverTime { title: "Logins", unit: "/s", of: |second| second.logins, seconds_min: 3, ..plain },
        OverTime { title: "Errors", unit: "/s", of: |second| second.errors, ..plain },
    ]
};

fn over_time(runs: &[Shown], palette: Palette) -> Group {
    let seconds = || runs.iter().flat_map(|shown| &shown.run.series);
    let times = || seconds().filter_map(|second| second.t_s.known()).chain([0.0]);
    let x = Scale::from_zero(times(), 6).trimmed(times());
    let chart = |plot: OverTime| {
        let known = |of: fn(&Second) -> Figure| seconds().filter_map(move |second| of(second).known());
        let both = || known(plot.of).chain(plot.beside.into_iter().flat_map(known));
        let moves = |shown: &Shown| {
            let values = || shown.run.series.iter().filter_map(|second| (plot.of)(second).known());
            let level = if plot.dull_if_level { values().next().unwrap_or(0.0) } else { 0.0 };
            values().filter(|value| *value != level).count() >= plot.seconds_min
        };
        if !runs.iter().any(moves) {
            return None;
        }
        let (size, unit) =
            if plot.bytes { number::byte_unit(both().fold(0.0, f64::max)) } else { (1.0, plot.unit) };
        let values = both().map(|value| value / size);
        let y = if plot.logarithmic { Scale::logarithmic(values, 8) } else { Scale::fitting(values, 5) };
        let line = |shown: &Shown, class: &str, of: &dyn Fn(&Second) -> Figure| {
            let point =
                |second: &Second| Some((second.t_s.known()?, of(second).known().map(|value| value / size)));
            let points = thinned(shown.run.series.iter().filter_map(point).collect());
            let (class, title) = (format!("{} {class}", shown.class), shown.title());
            Line { class, title, label: String::new(), points, dots: false }
        };
        let lines = runs.iter().flat_map(|shown| {
            let measured =
                |second: &Second| if second.is_measured() { (plot.of)(second) } else { Figure(None) };
            let beside = plot.beside.map(|beside| line(shown, "beside", &beside));
            let mut lines: Vec<Line> = beside.into_iter().chain([line(shown, "outside", &plot.of)]).collect();
            lines.push(line(shown, "", &measured));
            lines.retain(has_points);
            // The measured one, if there is one.
            if let Some(last) = lines.last_mut() {
                last.label = label(shown, palette);
            }
            lines
        });
        let lines: Vec<Line> = lines.collect();
        let x = x.clone();
        (!lines.is_empty()).then_some(Chart { title: plot.title, unit, x, x_title: "seconds", y, lines })
    };
    ("Over time (thin: not measured; gaps: pauses)", OVER_TIME.into_iter().filter_map(chart).collect())
}

/// Means of neighbours, where there are more points than a plot can show.
fn thinned(points: Vec<(f64, Option<f64>)>) -> Vec<(f64, Option<f64>)> {
    let each = points.len().div_ceil(POINTS_MAX).max(1);
    let mean = |points: &[(f64, Option<f64>)]| {
        let known: Vec<f64> = points.iter().filter_map(|(_, y)| *y).collect();
        let y = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        (points.iter().map(|(x, _)| x).sum::<f64>() / points.len() as f64, y)
    };
    if each == 1 { points } else { points.chunks(each).map(mean).collect() }
}

/// The label of a run's lines.
fn label(shown: &Shown, palette: Palette) -> String {
    if palette == Palette::Runs { shown.number.clone() } else { String::new() }
}

fn has_points(line: &Line) -> bool {
    line.points.iter().any(|(_, y)| y.is_some())
}

type Metric = (&'static str, &'static str, fn(&Run) -> Figure);

const GROWTH: [Metric; 6] = [
    ("Server CPU per message", "µs", |run| run.server.cpu_us_per_message),
    ("Server CPU per delivery", "µs", |run| run.server.cpu_us_per_delivery),
    ("Server CPU", "cores", |run| run.server.cpu_cores),
    ("Resident memory per connection", "kB", |run| thousandth(run.server.rss_bytes_per_connection)),
    ("Kernel memory per connection", "kB", |run| thousandth(run.server.kernel_bytes_per_connection)),
    ("Acked", "messages/s", |run| run.acked_per_s),
];

fn thousandth(figure: Figure) -> Figure {
    Figure(figure.known().map(|value| value / 1e3))
}

/// Runs that differ in their number of connections only, joined.
fn over_connections(runs: &[Shown]) -> Group {
    let title = "Over connections";
    let connections = |shown: &Shown| shown.run.connections.known().filter(|count| *count > 0.0);
    let mut counts: Vec<f64> = runs.iter().filter_map(connections).collect();
    counts.sort_by(f64::total_cmp);
    counts.dedup();
    if counts.len() < 2 {
        return (title, Vec::new());
    }
    // The load tells runs apart only if some have the same transport and number of connections, but not the same load.
    let transport = |shown: &Shown| shown.run.transport.0.clone();
    let loads_differ = runs.iter().any(|one| {
        let same =
            |other: &&Shown| transport(one) == transport(other) && connections(one) == connections(other);
        runs.iter().filter(same).any(|other| other.run.load != one.run.load)
    });
    let kind = |shown: &Shown| {
        let load = if loads_differ { shown.run.load.0.as_str() } else { "" };
        format!("{} {load}", transport(shown)).trim().to_owned()
    };
    let kinds: BTreeSet<String> = runs.iter().map(kind).collect();
    let each = || counts.iter().copied();
    let x = Scale::logarithmic(each(), 6).trimmed(each()).naming(&counts);
    let chart = |(title, unit, of): Metric| {
        let lines = |name: &String| {
            let same = || runs.iter().filter(|shown| kind(shown) == *name);
            let class = same().next().map(|shown| shown.class.clone()).unwrap_or_default();
            let points = same().filter_map(|shown| Some((connections(shown)?, of(shown.run).known()?)));
            let points: Vec<(f64, f64)> = points.collect();
            let alone = points.iter().flat_map(|(x, y)| [(*x, Some(*y)), (*x, None)]).collect();
            let line = |label: &str, points, dots| {
                let (class, title, label) = (class.clone(), name.clone(), label.to_owned());
                Line { class, title, label, points, dots }
            };
            [line(name, medians(points), false), line("", alone, true)]
        };
        let lines: Vec<Line> = kinds.iter().flat_map(lines).filter(has_points).collect();
        let values = lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, y)| *y));
        let y = Scale::fitting(values, 5);
        let x = x.clone();
        let joins = lines.iter().any(|line| !line.dots && line.points.len() > 1);
        let any = lines.iter().any(|line| line.points.iter().any(|(_, y)| y.is_some_and(|y| y > 0.0)));
        (joins && any).then_some(Chart { title, unit, x, x_title: "connections", y, lines })
    };
    (title, GROWTH.into_iter().filter_map(chart).collect())
}

/// One point for each x.
fn medians(mut points: Vec<(f64, f64)>) -> Vec<(f64, Option<f64>)> {
    points.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
    points
        .chunk_by(|one, other| one.0 == other.0)
        .map(|same| (same[0].0, Some(same[same.len() / 2].1)))
        .collect()
}

const SIDE_BY_SIDE: [Metric; 5] = [
    ("Acked", "messages/s", |run| run.acked_per_s),
    ("Ack p99", "ms", |run| Figure(run.ack_ms.get("p99"))),
    ("Server CPU", "µs per message", |run| run.server.cpu_us_per_message),
    ("Server CPU", "µs per delivery", |run| run.server.cpu_us_per_delivery),
    ("Resident memory", "kB per connection", |run| thousandth(run.server.rss_bytes_per_connection)),
];

fn side_by_side(runs: &[Shown]) -> Vec<Markup> {
    let figure = |(title, unit, of): Metric| {
        let bar = |shown: &Shown| {
            let value = of(shown.run).known()?;
            Some(Bar { class: shown.class.clone(), label: shown.title(), value })
        };
        let bars: Vec<Bar> = runs.iter().filter_map(bar).collect();
        (bars.len() > 1 && bars.iter().any(|bar| bar.value > 0.0)).then(|| bars::draw(title, unit, &bars))
    };
    SIDE_BY_SIDE.into_iter().filter_map(figure).collect()
}

/// What only this scenario has measured. The longer side of the table goes downwards.
fn figures(runs: &[Shown]) -> Markup {
    let names: BTreeSet<&String> = runs.iter().flat_map(|shown| shown.run.scenario_figures.keys()).collect();
    let spoken = |name: &str| clean(&name.replace('_', " "));
    let cell = |shown: &Shown, name: &String| match shown.run.scenario_figures.get(name) {
        None | Some(Value::Null) => Cell::Unknown,
        Some(Value::Number(figure)) => Cell::number(Figure::from(Value::Number(figure.clone())).0),
        Some(Value::String(text)) => Cell::Text(clean(text)),
        Some(other) => Cell::Text(clean(&other.to_string())),
    };
    let table = if names.len() > runs.len() {
        let columns: Vec<Head> = runs.iter().map(|shown| Head { name: shown.title(), unit: "" }).collect();
        let row = |name: &&String| Row {
            head: html! { (spoken(name)) },
            cells: runs.iter().map(|shown| cell(shown, name)).collect(),
        };
        table::draw("", &columns, &names.iter().map(row).collect::<Vec<_>>())
    } else {
        let columns: Vec<Head> = names.iter().map(|name| Head { name: spoken(name), unit: "" }).collect();
        let row = |shown: &Shown| Row {
            head: html! { (shown.title()) },
            cells: names.iter().map(|name| cell(shown, name)).collect(),
        };
        table::draw("run", &columns, &runs.iter().map(row).collect::<Vec<_>>())
    };
    html! {
        @if !names.is_empty() {
            h3 { "Figures of this scenario" }
            (table)
            @for (name, meaning) in names.iter().filter_map(|name| Some((name, meaning(name)?))) {
                p.unit { (spoken(name)) ": " (meaning) }
            }
        }
    }
}
