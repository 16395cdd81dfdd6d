//! The checker behind `spec/ordering.md`: what clients did and were told, against the logs that are there in the end.
//!
//! ```text
//!   issue, ack, refuse ──────┐
//!   seen (pushes and pages) ─┤
//!   handed (to an app) ──────┼─> History ──> broken(), check(conversation, log, stage) ──> Violations
//!   marked, shown (receipts) ┤
//!   measured (queues) ───────┘
//! ```
//!
//! A [`History`] is written while a run goes on, by any number of clients, and compared with each conversation's log
//! when one has been read. It knows nothing of sockets, threads or time: order comes from a logical clock that ticks at
//! each call, so whoever writes calls [`History::issue`] before a byte of the send is written and [`History::ack`] after
//! the last byte of the answer was read. Tests, the simulation and the crash rounds all write the same kind of history.
//!
//! [`Told`] is what an app was told of its sends by an SDK, which is held against the same logs.
//!
//! A load generator's runs are too large to be kept: [`stream`] is for them.
//!
//! Each [`Violation`] names the [`Promise`] that was broken and holds the smallest excerpt of the history that shows it.
#![forbid(unsafe_code)]

mod history;
mod membership;
pub mod random;
mod receipts;
mod seen;
pub mod stream;
mod told;
mod violation;

#[cfg(test)]
mod tests;

pub use history::{History, Key, Stage, Totals};
pub use receipts::Shown;
pub use seen::{Listener, View, same_log};
pub use told::Told;
pub use violation::{Promise, Violation, assert_none};
