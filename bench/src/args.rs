//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tern_client::Transport;

use crate::floor::relay::RelayArgs;
use crate::floor::scenario::FloorArgs;
use crate::floor::store::StoreArgs;

/// Load generator for a Tern server.
#[derive(Debug, Parser)]
#[command(
    name = "tern-bench",
    version,
    about,
    after_help = "Exit status: 0, all promises kept; 3, one was broken (lost, duplicated, reordered, …); 1, no result."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Pairs of clients send to each other: rate, latency, CPU per message
    Send(SendArgs),
    /// Clients connect, log in and are silent: logins per second, memory per connection
    Idle(IdleArgs),
    /// What this machine allows: frames moved and keys stored, and nothing else
    Floor(FloorArgs),
    /// One HTML page with tables and plots of runs that were written with --json
    Report(crate::page::Args),
    /// A part of `floor`: moves frames until standard input ends
    #[command(hide = true)]
    Relay(RelayArgs),
    /// A part of `floor`: stores keys as lines on standard input say
    #[command(hide = true)]
    FloorStore(StoreArgs),
}

/// `send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Seconds of measuring
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds of sending before measuring
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub warmup: f64,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Unanswered sends of a connection; the next one goes out when one is answered
    #[arg(long, value_name = "W", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub window: u32,
    /// Messages per second of all connections together, at fixed times whatever the server does, instead of a window.
    /// Latency then counts from when a message was due
    #[arg(long, value_name = "R", conflicts_with = "window")]
    pub rate: Option<f64>,
}

/// `idle`.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Seconds to stay connected
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub duration: f64,
}

/// What all scenarios share.
#[derive(Debug, Args)]
pub struct Common {
    /// Over which transport
    #[arg(long, value_enum, default_value_t = TransportArg::Tcp)]
    pub transport: TransportArg,
    /// Clients; `send` needs an even number
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub connections: usize,
    /// Handshakes at once while clients connect
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub ramp: usize,
    /// Threads of the load generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// The report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A running server's address; without it, one is started and stopped
    #[arg(long, value_name = "ADDR", requires_all = ["ca", "data"])]
    pub server: Option<SocketAddr>,
    /// Of --server: the authority that its certificate comes from, PEM
    #[arg(long, value_name = "FILE", requires = "server")]
    pub ca: Option<PathBuf>,
    /// Of --server: its data directory, or a copy of the `token.key` in it, to make tokens. Otherwise: where the server
    /// that is started keeps its data [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Of --server: its process id, if it runs on this machine, to see what it uses
    #[arg(long, value_name = "PID", requires = "server")]
    pub pid: Option<u32>,
    /// The program to start [default: ternd beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    pub ternd: Option<PathBuf>,
    /// Threads of the server that is started [default: one per core]
    #[arg(long, value_name = "N", conflicts_with = "server")]
    pub shards: Option<usize>,
}

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// TLS over TCP.
    Tcp,
    /// QUIC.
    Quic,
}

impl TransportArg {
    /// As the report names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }
}

impl From<TransportArg> for Transport {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Tcp => Self::Tcp,
            TransportArg::Quic => Self::Quic,
        }
    }
}
