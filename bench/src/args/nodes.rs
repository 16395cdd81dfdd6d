//! The command line of `nodes`.

use clap::Args;

use super::Common;
use crate::Error;
use crate::cluster::NODES_MAX;

/// `nodes`.
#[derive(Debug, Args)]
pub struct NodesArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Nodes of each cluster; the first is what the others are held against
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,3", value_parser = nodes)]
    pub nodes: Vec<usize>,
    /// Members of a conversation; 2: direct chats. All send
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=1_024))]
    pub members: u32,
    /// Messages per second of all clients together, at fixed times, for CPU per message and latency; it counts from when a
    /// message was due
    #[arg(long, value_name = "R", default_value_t = 1_000.0)]
    pub rate: f64,
    /// Unanswered sends of a connection, for messages per second: the next one goes out when one is answered
    #[arg(long, value_name = "W", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=63))]
    pub window: u32,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Each cluster has both loads in so many rounds, of which each takes its part of --duration
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
}

impl NodesArgs {
    /// Conversations that the connections fill.
    ///
    /// # Errors
    /// When they fill none.
    pub fn conversations(&self) -> Result<usize, Error> {
        let (connections, members) = (self.common.connections, self.members);
        match connections / members as usize {
            0 => Err(Error::Arguments(format!(
                "{connections} connections do not fill a conversation of {members}: raise --connections"
            ))),
            some => Ok(some),
        }
    }
}

fn nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().ok().filter(|nodes| (1..=NODES_MAX).contains(nodes));
    nodes.ok_or_else(|| format!("a number from 1 to {NODES_MAX} is expected"))
}
