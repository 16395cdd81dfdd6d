//! The command line of `hostile`.

use clap::Args;

use super::Common;
use crate::hostile::Attack;

/// `hostile`.
#[derive(Debug, Args)]
pub struct HostileArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Messages per second of all ordinary users together, at fixed times whatever happens
    #[arg(long, value_name = "R", default_value_t = 100.0)]
    pub rate: f64,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Which attacks, one after the other, each for --duration [default: all]
    #[arg(long = "attack", value_enum, value_name = "NAME,…", value_delimiter = ',')]
    pub attacks: Vec<Attack>,
    /// Connections that the attacker holds, where holding them is the attack
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub held: u32,
    /// Attempts per second, where these are the attack
    #[arg(long, value_name = "R", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub attempts: u32,
}
