//! What was measured, for people.

use std::time::Duration;

/// Of those behind the bad network.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// From their start until they were online.
    pub(crate) online: Vec<Duration>,
    /// What the cell measures.
    pub(crate) times: Vec<Duration>,
    /// Of all in the cell.
    pub(crate) sends: u64,
}

/// Half are not above it, and all.
fn middle_and_most(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at =
        |place: usize| sorted.get(place).map_or("-".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
    format!("{} / {}", at(sorted.len().saturating_sub(1) / 2), at(sorted.len().saturating_sub(1)))
}

/// A line of Markdown for each row, with its name, transport and whether it measures a recovery.
pub(crate) fn print(rows: &[(String, String, bool, Row)]) {
    let mut text = String::from(
        "| fault | transport | sends | first online after, s, p50 / max | answered after, s | back after, s |\n\
         |---|---|---|---|---|---|\n",
    );
    for (name, transport, recovers, row) in rows {
        let (online, times) = (middle_and_most(&row.online), middle_and_most(&row.times));
        let (answered, back) = if *recovers { ("", &*times) } else { (&*times, "") };
        text += &format!("| {name} | {transport} | {} | {online} | {answered} | {back} |\n", row.sends);
    }
    eprintln!("{text}");
}
