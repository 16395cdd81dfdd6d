//! What the server counts, and the page on which it says so.
//!
//! - [`shard`]: what a shard counts as it works. Each shard writes its own; nobody else writes to their cache lines.
//! - [`reloads`]: what is counted when files are read again.
//! - [`catalog`]: every metric by name, in one table. `spec/operations.md` has the same, and a test compares them.
//! - [`collect`]: reads everything and fills the page; `cluster`: its part about other nodes.
//! - `human`: numbers as people read them.
//! - [`text`]: the page's format, Prometheus' text format 0.0.4, written and read.

pub mod catalog;
mod cluster;
pub mod collect;
pub(crate) mod human;
mod process;
pub mod reloads;
pub mod shard;
pub mod text;

pub use collect::Collector;
pub use shard::ShardMetrics;
