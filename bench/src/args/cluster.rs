//! The command line of `cluster`.

use std::path::PathBuf;

use clap::Args;

use super::{Common, DayArgs, seconds_above_0};
use crate::cluster::NODES_MAX;
use crate::cluster::fault::Fault;

/// `cluster`.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// What clients do.
    #[command(flatten)]
    pub day: DayArgs,
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = nodes)]
    pub nodes: usize,
    /// FoundationDB's server
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/fdbserver")]
    pub fdbserver: PathBuf,
    /// FoundationDB's command line [default: fdbcli beside --fdbserver]
    #[arg(long, value_name = "FILE")]
    pub fdbcli: Option<PathBuf>,
    /// What goes wrong, in turn; each time it meets another node
    #[arg(
        long,
        value_enum,
        value_name = "FAULT,…",
        value_delimiter = ',',
        default_value = "kill,pause,stall,links,store,isolate,outage,drain,restart"
    )]
    pub faults: Vec<Fault>,
    /// Seconds that a fault lasts, where it does not say itself when it is over [default: 10; pause 8, stall 3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_above_0)]
    pub lasts: Option<f64>,
    /// Seconds from one fault to the next; a rolling restart takes longer if it has to
    #[arg(long, value_name = "SECONDS", default_value_t = 45.0, value_parser = seconds_above_0)]
    pub every: f64,
}

fn nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().ok().filter(|nodes| (2..=NODES_MAX).contains(nodes));
    nodes.ok_or_else(|| format!("a number from 2 to {NODES_MAX} is expected"))
}
