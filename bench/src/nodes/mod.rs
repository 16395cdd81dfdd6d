//! What a hop costs: clusters of one node, two nodes and so on beside each other, each in a process of its own, on a store
//! in memory that takes next to nothing. Between them the same load goes in turn, so that all meet the same machine.
//!
//! - [`host`]: the process with the nodes of one cluster.
//! - [`hops`]: how often messages go from node to node, by who is where.
//! - [`course`]: the rounds; `table`: what came out.

pub mod course;
pub mod hops;
pub mod host;
mod table;
