//! The command line of `ternd`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::admin;
use crate::config::Overrides;
use crate::migrate::Location;

/// Tern's chat server.
#[derive(Debug, Parser)]
#[command(
    name = "ternd",
    version,
    after_help = "Logs go to standard error; TERN_LOG sets what is logged, for example TERN_LOG=debug or \
                  TERN_LOG=tern_server=debug,info.\n\nTry it:\n  ternd dev"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server for development: makes its data directory, a certificate and tokens for alice and bob, and prints
    /// what to type next
    Dev(Dev),
    /// Run a server with a configuration file, until SIGTERM or SIGINT
    Serve(Sources),
    /// Watch a running server: connections, rates, latencies, queues, shards, the store, and what went wrong
    #[command(
        after_help = "On a terminal, q, Esc or Ctrl-C ends it; while the server does not answer, it says since when. \
                            Elsewhere it prints one frame after the other, and ends when there is no answer.\n\n\
                            Exit status: 0, it was ended; 1, there is no answer at the start or, not on a terminal, \
                            later.\n\nExample:\n  ternd top --once --interval 5"
    )]
    Top(Top),
    /// What a cluster of several nodes is doing
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Print a token for a user of a development server
    Token(Token),
    /// Print or check a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What an operator does with what is stored
    #[command(flatten)]
    Store(StoreCommand),
}

/// What an operator does with a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the nodes of a cluster, their links, what waits, and what is wrong
    #[command(
        after_help = "A node is asked by way of its admin address, and tells what it sees: two nodes that cannot reach each \
                            other tell different things, so ask each of them. With --config no node is asked: the leases in \
                            the store are read twice, 2.5 s apart, which says who lives and not who has links.\n\n\
                            nodes    id (new at each start), name, address for links, versions of links, time since its \
                            start by its own clock, time since its lease was last seen to be written, slots owned of \
                            4,096\n\
                            links    version spoken, time there and back; requests that are not answered; news that are not \
                            taken over: how many, their bytes, the age of the oldest; heads to be told for news that had no \
                            room; calls that made no link\n\n\
                            Exit status: 0, all is well; 1, there is no answer, or no cluster; 2, the command is wrong; 3, \
                            something is wrong, which is told in the last lines.\n\nExamples:\n  \
                            ternd cluster status\n  \
                            ternd cluster status --admin 127.0.0.1:7481\n  \
                            ternd cluster status --config /etc/tern/tern.toml"
    )]
    Status(Status),
}

/// `ternd cluster status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The admin address of a node
    #[arg(long, value_name = "ADDR", default_value_t = admin::DEFAULT_ADDRESS)]
    pub admin: SocketAddr,
    /// Ask no node: read the leases in the store of this configuration
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    pub config: Option<PathBuf>,
    /// Nodes that there should be: it is wrong when there are others; else nobody knows of one that is missing
    #[arg(long, value_name = "N")]
    pub expect: Option<usize>,
}

/// What an operator does with what is stored.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read everything that is stored and say what is wrong, and where; the server has to be stopped
    #[command(after_help = "Exit status: 0, nothing is wrong; 1, something is, or it could not be read.")]
    Verify {
        /// The server's data directory
        #[arg(value_name = "DIR")]
        data: PathBuf,
        /// For who knows it from the other commands.
        #[arg(long = "data", hide = true, value_name = "DIR", value_parser = without_flag)]
        flag: Option<Infallible>,
    },
    /// Write all that is stored to a new file, while the server runs or not
    #[command(
        after_help = "The file holds everybody's messages. It is of one moment, and is read back before it gets its \
                            name. To be run as the server's user, on its machine; no configuration is needed. While it \
                            works on the directory of a server that is stopped, that server cannot start.\n\n\
                            Exit status: 0, there is a good backup; 1, there is none, or records in it are damaged or left \
                            out.\n\n\
                            Example:\n  ternd backup --data /var/lib/tern /backup/tern-$(date +%F)"
    )]
    Backup(Backup),
    /// Make the store of a data directory, which has none, from a backup, and verify it
    #[command(
        after_help = "What was stored after the backup is gone. Stop the server and move its `store` away first; it may \
                            be wanted. To be run as the server's user. Keys, certificates and the configuration are \
                            not in a backup.\n\n\
                            Exit status: 0, the store is there and nothing is wrong with it; 1, it is not.\n\nExample:\n  mv /var/lib/tern/store /var/lib/tern/store.damaged\n  \
                            ternd restore --data /var/lib/tern /backup/tern-2026-11-22"
    )]
    Restore(BackupFile),
    /// Move what is stored to another place
    #[command(subcommand)]
    Store(PlaceCommand),
}

/// What an operator does with the places of stores.
#[derive(Debug, Subcommand)]
pub enum PlaceCommand {
    /// Move everything from one store to another, on this disk, another one, or FoundationDB, and back
    #[command(
        after_help = "Stop every server of the source first; none is served until it is done. It looks for anything wrong in \
                            the source, copies, compares every key and value, and looks for anything wrong in the target. \
                            Then the target can be served, and the source, which is kept, no more. Clients notice nothing \
                            but the time without service.\n\n\
                            Stopped at any point (Ctrl-C, a crash, an outage, a full disk), the same command goes on where \
                            it stopped. Until the end it can be given up with --abandon: the source is as it was. \
                            Afterwards the way back is to move the old store away and to migrate the other way \
                            round.\n\n\
                            A place is embedded:DIR, where DIR is a server's data directory, or fdb:FILE with the cluster \
                            file of FoundationDB. Keys, certificates and the configuration do not move. To be run as the \
                            server's user, on its machine.\n\n\
                            Exit status: 0, the target is complete (with --abandon: the source can be served); 1, it is \
                            not.\n\nExample:\n  \
                            ternd store migrate --from embedded:/var/lib/tern --to embedded:/mnt/new/tern"
    )]
    Migrate(Migrate),
}

/// `ternd store migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Where everything is: embedded:DIR or fdb:FILE
    #[arg(long, value_name = "PLACE")]
    pub from: Location,
    /// Where it is to be: a place that holds nothing, or a part of the source from an earlier run
    #[arg(long, value_name = "PLACE", required_unless_present = "abandon")]
    pub to: Option<Location>,
    /// Give up a migration that has not come to its end: the source can be served again, and what has arrived at --to, if
    /// that is given, is removed
    #[arg(long)]
    pub abandon: bool,
}

/// One way to name a directory is enough.
fn without_flag(directory: &str) -> Result<Infallible, String> {
    Err(format!("there is no such option, the directory stands alone: ternd verify {directory}"))
}

/// `ternd backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// Where from, where to.
    #[command(flatten)]
    pub file: BackupFile,
    /// Of a damaged store, whose server is stopped: leave out what cannot be read, and say what that is
    #[arg(long)]
    pub skip_damaged: bool,
}

/// A data directory and a backup of it.
#[derive(Debug, Args)]
pub struct BackupFile {
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = "tern-data")]
    pub data: PathBuf,
    /// The backup
    pub file: PathBuf,
}

/// Where a configuration comes from.
#[derive(Debug, Args)]
pub struct Sources {
    /// The configuration, TOML; `ternd config example` prints one
    #[arg(long, value_name = "FILE", env = "TERN_CONFIG")]
    pub config: PathBuf,
    /// What goes before it.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `ternd dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Data directory: store, certificate, keys; made if it is not there, and used again
    #[arg(long, value_name = "DIR", default_value = "tern-data")]
    pub data: PathBuf,
    /// Address for TCP and, with the same port, QUIC; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443", value_parser = address)]
    pub listen: SocketAddr,
    /// Address for metrics, health and readiness, on this machine [default: 127.0.0.1:7480, or a free port if that is
    /// taken]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub admin: Option<SocketAddr>,
    /// Threads, each with its own listeners, connections and conversations [default: one per core]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// A further name or address that the certificate is to be good for, for example of this machine in your network;
    /// may be given several times
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Limit what one address, user and device may take, as `ternd serve` does by default; without it nothing is limited,
    /// since in development everybody comes from one address
    #[arg(long)]
    pub limits: bool,
    /// Print one JSON line with addresses, paths and tokens instead, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `ternd top`.
#[derive(Debug, Args)]
pub struct Top {
    /// The server's admin address
    #[arg(long, value_name = "ADDR", default_value_t = admin::DEFAULT_ADDRESS)]
    pub admin: SocketAddr,
    /// Seconds between two readings; rates are of the time between them
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
    /// Take two readings, print what they say, and end
    #[arg(long)]
    pub once: bool,
}

/// An address to listen on.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:7443 or [::]:0".to_owned())
}

/// From a tenth of a second to an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a number of seconds from 0.1 to 3600".to_owned()),
    }
}

/// `ternd token`.
#[derive(Debug, Args)]
pub struct Token {
    /// The user's name in your app: the token's `sub`
    pub user: String,
    /// The development server's data directory
    #[arg(long, value_name = "DIR", default_value = "tern-data")]
    pub data: PathBuf,
    /// Seconds until it expires
    #[arg(long, value_name = "SECONDS", default_value_t = 30 * 24 * 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub lifetime: u64,
}

/// `ternd config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a complete configuration with its defaults
    Example,
    /// Say whether a configuration can be used: syntax, keys, certificates, token keys, the data directory
    Check(Sources),
    /// Print what is set, as TOML, each value with where it comes from; never what key files hold
    Show {
        /// Also what nobody has set
        #[arg(long)]
        effective: bool,
        /// The configuration
        #[command(flatten)]
        sources: Sources,
    },
}
