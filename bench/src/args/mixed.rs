//! The command line of `mixed`, and of what clients do in `cluster`.

use clap::Args;

use super::{Common, seconds, share};

/// `mixed`.
#[derive(Debug, Args)]
pub struct MixedArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// What clients do.
    #[command(flatten)]
    pub day: DayArgs,
    /// Kill the server so many times, and start it again, in the first half of the measured time; what that takes comes
    /// on top of it. Clients need some seconds to be back: a minute of --duration for each kill is a good measure
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "server", value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub kills: u32,
}

/// What clients do all day.
#[derive(Debug, Args)]
pub struct DayArgs {
    /// Messages per second of all clients together, at fixed times whatever happens; latency counts from when a message
    /// was due
    #[arg(long, value_name = "R", default_value_t = 200.0)]
    pub rate: f64,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Direct chats of each client
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub chats: u32,
    /// Sizes of groups; each client is in one group of each size, as far as clients fill groups
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "3,10,50",
        value_parser = clap::value_parser!(u32).range(2..=1_024))]
    pub members: Vec<u32>,
    /// Of all that is done, so much is messages to direct chats
    #[arg(long, value_name = "SHARE", default_value_t = 0.6, value_parser = share, help_heading = "Shares, of 1 together")]
    pub share_direct: f64,
    /// … messages to groups
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, value_parser = share, help_heading = "Shares, of 1 together")]
    pub share_group: f64,
    /// … looks back into a conversation, page by page
    #[arg(long, value_name = "SHARE", default_value_t = 0.08, value_parser = share, help_heading = "Shares, of 1 together")]
    pub share_history: f64,
    /// … clients who cut their connection, to come back later
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = share, help_heading = "Shares, of 1 together")]
    pub share_vanish: f64,
    /// Of the clients, so many are in no conversation and do nothing
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = share)]
    pub share_idle: f64,
    /// Of the "delivered" that recipients say, so many say "read" as well
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    pub share_read: f64,
    /// Seconds that a client is away in the mean
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub away: f64,
    /// Entries of a page of history
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub page: u32,
    /// Most pages of one look back; how many it is comes from the plan
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub pages: u32,
    /// A member says "delivered" this many seconds after the first message that it has not said so for, once for all
    /// that have come by then; 0: at once
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2, value_parser = seconds)]
    pub mark_interval: f64,
}
