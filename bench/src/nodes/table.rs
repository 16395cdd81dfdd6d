//! What a hop costs, from what was measured round by round: a cluster is held against the first one in the same round.

use std::fmt::Write;

use super::course::Measured;
use crate::run::Round;
use crate::stats::{Summary, round};
use crate::table::{ms, number};

/// More CPU time for a message than on the first cluster, in microseconds, of the rounds: the median, the least, the most.
struct More {
    median: f64,
    least: f64,
    most: f64,
}

impl Measured {
    fn more_than(&self, first: &Self) -> Option<More> {
        let us = |round: &Round| {
            let cpu = round.cpu.filter(|_| round.acked > 0)?;
            Some(cpu.as_secs_f64() * 1e6 / round.acked as f64)
        };
        let pairs = self.rounds.iter().zip(&first.rounds);
        let mut more: Vec<_> = pairs.filter_map(|(one, first)| Some(us(one)? - us(first)?)).collect();
        more.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*more.first()?, *more.last()?);
        Some(More { median: (more[(more.len() - 1) / 2] + more[more.len() / 2]) / 2.0, least, most })
    }
}

/// Adds to each result what it costs more than that of the first cluster with the same load.
pub(super) fn add_costs(measured: &mut [Measured]) {
    for place in 0..measured.len() {
        let first = measured.iter().position(|other| other.rate == measured[place].rate);
        let Some(first) = first.filter(|first| *first != place) else { continue };
        let Some(more) = measured[place].more_than(&measured[first]) else { continue };
        let hops = measured[place].hops;
        let mut figures = vec![
            ("more_us_per_message", more.median),
            ("more_us_per_message_least", more.least),
            ("more_us_per_message_most", more.most),
        ];
        let per = |count: f64| more.median / count;
        if hops.sends_forwarded > 0.0 {
            figures.push(("more_us_per_forwarded_send", per(hops.sends_forwarded)));
        }
        if hops.links_per_message > 0.0 {
            figures.push(("more_us_per_link_crossed", per(hops.links_per_message)));
        }
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), round(value, 3)));
        measured[place].outcome.scenario_figures.extend(figures);
    }
}

/// One line for each.
pub(super) fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "{:<9} {:>5} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>6} {:>7} {:>6} {:>6} {:>9} {:>18} {:>7}\n",
        "load",
        "nodes",
        "acked/s",
        "ack p50",
        "p99, ms",
        "push p50",
        "p99, ms",
        "µs a msg",
        "cores",
        "others",
        "fwd",
        "cross",
        "links/msg",
        "more µs a msg",
        "a link"
    );
    for Measured { nodes, rate, hops, outcome, .. } in measured {
        let load = rate.map_or("max".into(), |rate| format!("{}/s", number(rate)));
        let latency = |of: &Option<Summary>, value: fn(&Summary) -> f64| {
            of.as_ref().map_or("-".to_owned(), |summary| ms(value(summary)))
        };
        let one = |value: f64| format!("{value:.1}");
        let two = |value: f64| format!("{value:.2}");
        let or_none = |value: Option<f64>| value.map_or("-".to_owned(), one);
        let figure = |name: &str| outcome.scenario_figures.get(name).copied();
        let range = figure("more_us_per_message_least").zip(figure("more_us_per_message_most"));
        let range = range.map_or(String::new(), |(least, most)| format!(" ({least:.1} to {most:.1})"));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{load:<9} {nodes:>5} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>6} {:>7} {:>6} {:>6} {:>9} {:>18} {:>7}",
            number(outcome.acked_per_s.round()),
            latency(&outcome.ack_ms, |ack| ack.p50),
            latency(&outcome.ack_ms, |ack| ack.p99),
            latency(&outcome.deliver_ms, |deliver| deliver.p50),
            latency(&outcome.deliver_ms, |deliver| deliver.p99),
            or_none(outcome.server.cpu_us_per_message),
            outcome.server.cpu_cores.map_or("-".to_owned(), two),
            two(outcome.other_cores),
            two(hops.sends_forwarded),
            two(hops.deliveries_crossed),
            two(hops.links_per_message),
            or_none(figure("more_us_per_message")) + &range,
            or_none(figure("more_us_per_link_crossed")),
        );
    }
    text
}
