//! The tables of all runs: a column is a name, a unit and the figure of a run.

use super::number;
use super::run::{Figure, Run};
use super::table::Cell;

/// A column.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) cell: fn(&Run) -> Cell,
}

const fn column(name: &'static str, unit: &'static str, cell: fn(&Run) -> Cell) -> Column {
    Column { name, unit, cell }
}

/// What most readers want to know.
pub(super) const RESULTS: &[Column] = &[
    column("connections", "", |run| Cell::count(run.connections.known())),
    column("load", "", |run| Cell::text(&run.load.0)),
    column("acked", "/s", |run| Cell::number(run.acked_per_s.known())),
    column("delivered", "/s", |run| Cell::number(run.delivered_per_s.known())),
    column("errors", "", |run| Cell::count(run.errors.known())),
    column("promises", "", promises),
    column("ack p50", "ms", |run| Cell::number(run.ack_ms.get("p50"))),
    column("ack p99", "ms", |run| Cell::number(run.ack_ms.get("p99"))),
    column("deliver p99", "ms", |run| Cell::number(run.deliver_ms.get("p99"))),
    column("server CPU", "µs/message", |run| Cell::number(run.server.cpu_us_per_message.known())),
    column("floor ratio", "×", |run| Cell::number(run.floor.ratio.known())),
    column("memory", "kB/connection", |run| kilobytes(run.server.rss_bytes_per_connection)),
];

/// What it took.
pub(super) const COSTS: &[Column] = &[
    column("server CPU", "µs/message", |run| Cell::number(run.server.cpu_us_per_message.known())),
    column("server CPU", "µs/delivery", |run| Cell::number(run.server.cpu_us_per_delivery.known())),
    column("floor: relay", "µs/message", |run| Cell::number(run.floor.relay_us_per_message.known())),
    column("floor: store", "µs/message", |run| Cell::number(run.floor.store_us_per_message.known())),
    column("server", "cores", |run| Cell::number(run.server.cpu_cores.known())),
    column("driver", "cores", |run| Cell::number(run.driver.cpu_cores.known())),
    column("driver CPU", "µs/message", |run| Cell::number(run.driver.cpu_us_per_message.known())),
    column("others", "cores", |run| Cell::number(run.other_cores.known())),
    column("server memory", "MB", |run| Cell::number(run.server.rss_bytes.known().map(|bytes| bytes / 1e6))),
    column("memory", "kB/connection", |run| kilobytes(run.server.rss_bytes_per_connection)),
    column("kernel memory", "kB/connection", |run| kilobytes(run.server.kernel_bytes_per_connection)),
];

/// All latencies and what was offered.
pub(super) const TIMES: &[Column] = &[
    column("measured", "s", |run| Cell::number(run.duration_s.known())),
    column("offered", "/s", |run| Cell::number(run.offered_per_s.known())),
    column("ack p50", "ms", |run| Cell::number(run.ack_ms.get("p50"))),
    column("ack p90", "ms", |run| Cell::number(run.ack_ms.get("p90"))),
    column("ack p99", "ms", |run| Cell::number(run.ack_ms.get("p99"))),
    column("ack p99.9", "ms", |run| Cell::number(run.ack_ms.get("p999"))),
    column("ack max", "ms", |run| Cell::number(run.ack_ms.get("max"))),
    column("deliver p50", "ms", |run| Cell::number(run.deliver_ms.get("p50"))),
    column("deliver p99", "ms", |run| Cell::number(run.deliver_ms.get("p99"))),
    column("deliver max", "ms", |run| Cell::number(run.deliver_ms.get("max"))),
    column("receipt p50", "ms", |run| Cell::number(run.receipt_ms.get("p50"))),
    column("receipt p99", "ms", |run| Cell::number(run.receipt_ms.get("p99"))),
    column("receipt max", "ms", |run| Cell::number(run.receipt_ms.get("max"))),
    column("login p50", "ms", |run| Cell::number(run.login_ms.get("p50"))),
    column("login p99", "ms", |run| Cell::number(run.login_ms.get("p99"))),
    column("login max", "ms", |run| Cell::number(run.login_ms.get("max"))),
];

/// What went wrong, beside broken promises.
pub(super) const TROUBLE: &[Column] = &[
    column("errors", "", |run| Cell::count(run.errors.known())),
    column("refused with", "", refusals),
    column("unanswered", "", |run| Cell::count(run.unanswered.known())),
    column("disconnected", "", |run| Cell::count(run.disconnected.known())),
    column("ended early because", "", |run| Cell::text(&run.problem.0)),
];

/// Whether a run belongs into [`TROUBLE`].
pub(super) fn troubled(run: &Run) -> bool {
    let some = |figure: Figure| figure.known().is_some_and(|number| number > 0.0);
    let counted = [run.errors, run.unanswered, run.disconnected].into_iter().any(some);
    counted || !run.refusals.is_empty() || !run.problem.0.is_empty()
}

fn kilobytes(bytes: Figure) -> Cell {
    Cell::number(bytes.known().map(|bytes| bytes / 1e3))
}

fn refusals(run: &Run) -> Cell {
    let refusal = |(reason, figure): (&String, &Figure)| {
        format!(
            "{} × {}",
            figure.known().map_or(number::UNKNOWN.into(), number::count),
            super::run::clean(reason)
        )
    };
    Cell::text(&run.refusals.iter().map(refusal).collect::<Vec<_>>().join("; "))
}

/// What a run has found broken, in words; `None` if it has not looked. Connections that ended and sends without an
/// answer are no fault of a run that ended early: they are what ended it, and [`left_open`].
pub(super) fn broken(run: &Run) -> Option<Vec<String>> {
    // A floor makes no promises, and who was not there was promised nothing.
    if run.scenario.0 == "floor" || run.connections.known() == Some(0.0) {
        return None;
    }
    let to_the_end = |figure| if run.complete == Some(false) { Figure(None) } else { figure };
    let promises = [
        (run.lost, "lost"),
        (run.duplicated, "duplicated"),
        (run.reordered, "reordered"),
        (run.falsely_receipted, "falsely receipted"),
        (run.altered, "altered"),
        (run.split, "split"),
        (run.refused, "refused"),
        (to_the_end(run.unanswered), "unanswered"),
        (to_the_end(run.disconnected), "disconnected"),
    ];
    let known: Vec<(f64, &str)> =
        promises.into_iter().filter_map(|(figure, name)| Some((figure.known()?, name))).collect();
    if known.is_empty() {
        return None;
    }
    let broken = known.into_iter().filter(|(count, _)| *count > 0.0);
    Some(broken.map(|(count, name)| format!("{} {name}", number::count(count))).collect())
}

fn promises(run: &Run) -> Cell {
    match broken(run) {
        None => Cell::Unknown,
        Some(broken) if !broken.is_empty() => Cell::Bad(broken.join(", ")),
        Some(_) if run.complete == Some(false) => {
            let mut open = left_open(run).join(", ");
            if !open.is_empty() {
                open.insert_str(0, "; ");
            }
            Cell::Text(format!("none broken until it ended early{open}"))
        }
        Some(_) => Cell::Good("kept".into()),
    }
}

/// What could not be decided any more, in words.
fn left_open(run: &Run) -> Vec<String> {
    [(run.unanswered, "unanswered"), (run.disconnected, "disconnected")]
        .into_iter()
        .filter_map(|(figure, name)| Some((figure.known().filter(|count| *count > 0.0)?, name)))
        .map(|(count, name)| format!("{} {name}", number::count(count)))
        .collect()
}
