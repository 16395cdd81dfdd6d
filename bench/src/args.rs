//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tern_client::Transport;

use tern_proxy::plan::FaultArgs;

use crate::floor::relay::RelayArgs;
use crate::floor::scenario::FloorArgs;
use crate::floor::store::StoreArgs;
use crate::nodes::host::HostArgs;
use crate::page;

mod cluster;
mod hostile;
mod mixed;
mod nodes;

pub use self::cluster::ClusterArgs;
pub use self::hostile::HostileArgs;
pub use self::mixed::{DayArgs, MixedArgs};
pub use self::nodes::NodesArgs;

/// Load generator for Tern servers: drives one with many clients, checks what it promises while it does, and says what
/// it costs.
///
/// Starts a ternd of its own in a temporary directory, unless --server names a running one.
#[derive(Debug, Parser)]
#[command(
    name = "tern-bench",
    version,
    after_help = "Exit status: 0, all promises kept; 3, one was broken (lost, duplicated, reordered, …); 1, no result, or \
                  the run ended early (what there is of it is printed and written all the same); 130, interrupted \
                  twice.\n\n\
                  Ctrl-C ends a run early, a second one at once.\n\n\
                  `tern-bench SCENARIO --help` has the options and an example.\n\n\
                  Try it:\n  cargo build --release -p tern-server -p tern-bench\n  target/release/tern-bench send"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub scenario: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pairs of clients send to each other: rates, latencies, CPU per message
    #[command(after_help = "Examples:\n  tern-bench send --connections 2000 --duration 20\n  \
        tern-bench send --transport both --rate 5000 --json run.json\n  \
        tern-bench send --server chat.example.com:7443 --ca ca.pem --data /var/lib/tern --rate 500")]
    Send(SendArgs),
    /// Groups: each message goes to all members, who are all online
    #[command(after_help = "Examples:\n  tern-bench group --connections 1000 --members 100 --max\n  \
        tern-bench group --groups 2 --members 1000 --senders 10 --rate 20")]
    Group(GroupArgs),
    /// Pairs of clients talk through a bad network: latencies, reconnects, time to recover
    #[command(
        after_help = "Examples:\n  tern-bench flaky --transport both --network train --duration 60\n  \
        tern-bench flaky --transport both --loss 0.05 --delay-ms 50 --jitter-ms 20 --seed 7\n  \
        tern-bench flaky --transport quic --blackout 10000:2000 --address-change 15000\n\n\
        The network is a proxy in this program. A seed gives TCP and QUIC the same losses and the same times without a \
        network. TCP gets its losses as the delay of a retransmission, since a proxy cannot tear a stream."
    )]
    Flaky(FlakyArgs),
    /// Clients log in and are silent: logins per second, memory and CPU per connection
    #[command(after_help = "Examples:\n  tern-bench idle --connections 10000\n  \
        tern-bench idle --transport quic --connections 100000 --ramp 256 --duration 60\n\n\
        One process may hold about as many TCP connections as it may open files: see `ulimit -n`.")]
    Idle(IdleArgs),
    /// Everybody is cut off at once and comes back: time until all have everything, CPU per return, a second wave or none
    #[command(
        mut_arg("connections", |arg| arg.default_value("1000").help("Clients, those who stay included")),
        after_help = "Clients are in groups. At once, all but one of each group lose their connection. Those who stay go \
        on sending. Who was cut off comes back as the protocol says (at a random moment within a second, and with growing \
        waits if that fails), logs in, asks what it has missed, and marks it as delivered. In the end all members must have \
        the same log: what was acknowledged before, during or after the cut is there, once, in order.\n\n\
        Figures: back_… is the time from the cut until a client has everything; failed_tries are attempts to connect that \
        came to nothing, and back_after_tries_in_vain the clients who had to come again (a second wave). The series in \
        --json has a point for every 100 ms. Measured is from the cut until all are back, and at least --duration.\n\n\
        Examples:\n  tern-bench storm --connections 2000\n  \
        tern-bench storm --connections 2000 --restart  # kill -9 the server, and start it again\n  \
        tern-bench storm --transport both --connections 2000 --handshakes full --spread 0"
    )]
    Storm(StormArgs),
    /// Users with many conversations come back after they have missed something in each: time until they have it
    #[command(
        mut_arg("connections", |arg| arg.default_value("4").help("Users who come back")),
        after_help = "Each connection is a user with conversations of their own, which are filled first. The users come \
        back again and again, each time as if after the same absence: connect, log in, ask what is new (Sync), fetch what \
        does not fit into the answers (History), leave. Every entry is held against what was written.\n\n\
        Figures: list_… is the time from the end of the login until the user knows where every conversation stands, all_… \
        until every missed message is there; round_trips_… are answers that had to be waited for one after the other.\n\n\
        Examples:\n  tern-bench sync\n  \
        tern-bench sync --conversations 50000 --missed 1 --connections 1 --transport both\n  \
        tern-bench sync --connections 200 --at-once --conversations 100 --rate 1000"
    )]
    Sync(SyncArgs),
    /// Clients page through long conversations: pages per second, latency, CPU per page
    #[command(
        mut_arg("connections", |arg| arg.default_value("20").help("Clients who read")),
        after_help = "Each connection reads one conversation from end to end, page after page, and then again. Every \
        entry is held against what was written.\n\n\
        Examples:\n  tern-bench history --connections 20 --conversations 20 --messages 5000\n  \
        tern-bench history --transport quic --own-stream --page 1000\n  \
        tern-bench history --connections 50 --rate 500  # does reading disturb others?"
    )]
    History(HistoryArgs),
    /// The day of a real app: direct messages, groups of several sizes, receipts, clients who go and come back, history
    #[command(
        after_help = "Examples:\n  tern-bench mixed --connections 1000 --rate 500 --members 3,20,200\n  \
        tern-bench mixed --share-direct 0.3 --share-group 0.3 --share-history 0.2 --share-vanish 0.2 --away 1\n  \
        tern-bench mixed --connections 500 --duration 1800 --kills 10 --json soak.json\n\n\
        --rate counts messages; the shares say what else is done for so many messages: with the defaults, 90 of 100 \
        things done are messages, 8 are looks back into a conversation, 2 are departures. The same seed gives the same \
        clients the same things to do at the same times. Times of messages to or from somebody who was away meanwhile are \
        kept apart (`…_missed`, `…_ack_after_return`), as is the time from wanting to be back until all that was missed is \
        there (`return`). What is called `…_start_…`, `…_middle_…` and `…_end_…` belongs to the first tenth of the \
        measured time, to the seventh, before which all kills are over, and to the last."
    )]
    Mixed(MixedArgs),
    /// The same with several nodes on one FoundationDB, which are killed, paused, cut off and restarted one after the other
    #[command(
        mut_arg("connections", |arg| arg.default_value("600")),
        mut_arg("rate", |arg| arg.default_value("300")),
        mut_arg("share_history", |arg| arg.default_value("0.1")),
        mut_arg("share_vanish", |arg| arg.default_value("0")),
        mut_arg("shards", |arg| arg.default_value("2").help("Threads of each node")),
        mut_arg("data", |arg| arg.help("Where nodes and store keep everything, an empty directory [default: a temporary \
            one, removed afterwards]")),
        mut_arg("server", |arg| arg.hide(true)),
        mut_arg("ca", |arg| arg.hide(true)),
        mut_arg("pid", |arg| arg.hide(true)),
        mut_arg("spawn", |arg| arg.hide(true)),
        after_help = "Needs root on Linux, a ternd with FoundationDB, and FoundationDB's programs. Nodes, store and clients get \
        network namespaces of their own, which end with the run. A way is cut by silence: packets go out and nobody takes \
        them.\n\n\
        Figures, for each kind of fault and for a `quiet` time before the first: ..._without_service_..., the longest that \
        each client waited for an acknowledgement, from when the message was due, over all clients, from the beginning of \
        the fault until the next one; ..._stayed_without_service_..., the same of those whose connection did not end; \
        ..._served_again_..., from the beginning of the fault until that wait was over, 0 for clients who never waited for more \
        than a second; ..._send_..., all messages of that time; ..._whole_again_max_ms, from when the fault \
        was healed until all nodes had links to each other.\n\n\
        Examples:\n  cargo build --release -p tern-server --features tern-server/fdb -p tern-bench\n  \
        tern-bench cluster --fdbcli /usr/bin/fdbcli --duration 1800\n  \
        tern-bench cluster --fdbcli /usr/bin/fdbcli --faults restart --duration 300"
    )]
    Cluster(ClusterArgs),
    /// What a hop costs: the same load on clusters of one node, two and three, on a store in memory
    #[command(
        mut_arg("connections", |arg| arg.default_value("300").help("Clients of each load on each cluster")),
        mut_arg("duration", |arg| arg.default_value("20").help("Seconds of measuring each load on each cluster")),
        mut_arg("warmup", |arg| arg.help("Seconds of the same load before the first round; before later ones at most a \
            quarter of the round")),
        mut_arg("transport", |arg| arg.help("Of clients: tcp or quic; links are always QUIC")),
        mut_arg("shards", |arg| arg.help("Threads of each node [default: 1]")),
        mut_arg("server", |arg| arg.hide(true)),
        mut_arg("ca", |arg| arg.hide(true)),
        mut_arg("data", |arg| arg.hide(true)),
        mut_arg("pid", |arg| arg.hide(true)),
        mut_arg("ternd", |arg| arg.hide(true)),
        mut_arg("spawn", |arg| arg.hide(true)),
        after_help = "Each cluster is a process of its own with real nodes, links and clients; the store is a model in \
        memory. Clients are on random nodes. All clusters are there all the time, and in each round each has both loads, one \
        after the other: so all meet the same machine. CPU is that of all nodes of a cluster.\n\n\
        Figures: sends_forwarded and deliveries_crossed, shares of those whose client is on another node than the \
        conversation's owner; links_per_message, how many links a message crosses as a send, an answer and news; \
        more_us_per_message, the CPU time above that of the first cluster, median, least and most of all rounds, and \
        divided by the two.\n\n\
        Examples:\n  tern-bench nodes\n  tern-bench nodes --nodes 1,3 --members 10 --rate 300 --json nodes.json"
    )]
    Nodes(NodesArgs),
    /// Pairs of clients talk and newcomers come, while others mean harm: what ordinary users notice, what it takes
    #[command(
        mut_arg("connections", |arg| arg.default_value("100").help("Ordinary users who talk all the time")),
        mut_arg("duration", |arg| arg.help("Seconds of each attack, and of the quiet before and after them")),
        after_help = "A server that is started for this has the limits that a server has by default, other than for all \
        other scenarios. The attacker has 16 addresses and 16 accounts, and shares the machine with server and users.\n\n\
        Figures, for each attack and for the quiet before and after: ..._ack_p50_ms and ..._ack_p99_ms of the ordinary \
        users' messages; ..._newcomer_p50_ms and ..._newcomer_p99_ms, from a newcomer's first packet to the end of the \
        login, ten of which come in a second; ..._newcomers and ..._turned_away, those who got in by the end and those who \
        were refused; ..._server_cores and \
        ..._rss_mb; ..._attacks, what the attacker did.\n\n\
        Examples:\n  tern-bench hostile\n  tern-bench hostile --attack silent,slow-handshakes --held 10000 --duration 30"
    )]
    Hostile(HostileArgs),
    /// What this machine allows: frames moved and keys stored, and nothing else
    #[command(after_help = "Examples:\n  tern-bench floor --connections 2000\n  \
        tern-bench floor --transport quic --members 100 --groups-of 16,128")]
    Floor(FloorArgs),
    /// One HTML page with tables and plots of runs that were written with --json
    Report(page::Args),
    /// A part of `floor`: moves frames until standard input ends
    #[command(hide = true)]
    Relay(RelayArgs),
    /// A part of `floor`: stores keys as lines on standard input say
    #[command(hide = true)]
    FloorStore(StoreArgs),
    /// A part of `nodes`: the nodes of one cluster, until standard input ends
    #[command(hide = true)]
    NodesHost(HostArgs),
}

/// `send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// How much is sent.
    #[command(flatten)]
    pub load: Load,
    /// Whether the floor is measured, too.
    #[command(flatten)]
    pub floor: WithFloor,
}

/// `group`.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// How much is sent.
    #[command(flatten)]
    pub load: Load,
    /// Whether the floor is measured, too.
    #[command(flatten)]
    pub floor: WithFloor,
    /// Members of each group, at most 1,024
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1_024))]
    pub members: u32,
    /// Groups; each needs --members connections [default: as many as --connections fill]
    #[arg(long, value_name = "N", conflicts_with = "connections")]
    pub groups: Option<usize>,
    /// Members of each group who send; the others listen
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub senders: u32,
    /// A member says "delivered" this many seconds after the first message that it has not said so for, once for all
    /// that have come by then; 0: at once
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub mark_interval: f64,
}

/// `flaky`.
#[derive(Debug, Args)]
pub struct FlakyArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Messages per second of all clients together, at fixed times whatever happens; latency counts from when a message
    /// was due [default: one for each client]
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// The network.
    #[command(flatten)]
    pub faults: FaultArgs,
}

/// `idle`.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Seconds between two heartbeats of a client; the protocol wants one every 60 s at least
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds_above_0)]
    pub heartbeat: f64,
    /// How clients shake hands: all in full, as those who come for the first time; or most with the TLS ticket of
    /// another one, as those who come back
    #[arg(long, value_enum, default_value_t = Handshakes::Full)]
    pub handshakes: Handshakes,
}

/// `storm`.
#[derive(Debug, Args)]
pub struct StormArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Members of each group, at most 1,024; with 2 they are pairs in direct chats
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=1_024))]
    pub members: u32,
    /// Seconds within which everybody comes back, each at a random moment; the protocol says 1
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub spread: f64,
    /// The server itself is killed, and started again on its data: nobody stays. Only with one that is started here.
    /// Over QUIC, a client who is silent notices only when it sends its next heartbeat, after 30 s
    #[arg(long, conflicts_with = "server")]
    pub restart: bool,
    /// How clients shake hands when they come back: in full, or with a TLS ticket if they have one
    #[arg(long, value_enum, default_value_t = Handshakes::Resumed)]
    pub handshakes: Handshakes,
    /// Messages that the one who stays sends at the moment of the cut
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub missed: u32,
    /// Messages per second of all groups together, all the time [default: one every 5 s in each group]
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Seconds after which the run is given up, if not all are back
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = seconds_above_0)]
    pub limit: f64,
}

/// `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Conversations of each user
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub conversations: u32,
    /// Of these, so many are groups; the others are direct chats [default: half]
    #[arg(long, value_name = "N")]
    pub groups: Option<u32>,
    /// Messages that a user has missed in each conversation
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub missed: u32,
    /// A user asks for the conversations in ranges of so many, all ranges at once; 0: for all of them with one request,
    /// and for what does not fit into the answer after it
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub range: u32,
    /// All users come back at the same time, instead of one after the other
    #[arg(long)]
    pub at_once: bool,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Who sends meanwhile.
    #[command(flatten)]
    pub background: BackgroundArgs,
}

/// `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// What all scenarios share.
    #[command(flatten)]
    pub common: Common,
    /// Conversations that are filled first; --connections are spread over them evenly, as their members
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub conversations: u32,
    /// Messages in each conversation
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub messages: u32,
    /// Messages asked for at a time, at most 1,000; a page holds about 512 KiB at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub page: u32,
    /// From the oldest message on, instead of from the newest back
    #[arg(long)]
    pub forward: bool,
    /// QUIC: ask for each page on a stream of its own, beside the session's
    #[arg(long)]
    pub own_stream: bool,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Who sends meanwhile.
    #[command(flatten)]
    pub background: BackgroundArgs,
}

/// Messages of others beside what is measured.
#[derive(Debug, Args)]
pub struct BackgroundArgs {
    /// Messages per second that others send to each other meanwhile, at fixed times; their acks are the result's
    /// [default: none]
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// How many pairs of clients send them
    #[arg(long, value_name = "N", default_value_t = 25, requires = "rate", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub pairs: u32,
}

/// How much is sent.
#[derive(Debug, Args)]
pub struct Load {
    /// Messages per second of all senders together, at fixed times whatever the server does (open loop). Latency then
    /// counts from when a message was due. Without it, a sender goes on as soon as --window allows (closed loop)
    #[arg(long, value_name = "R", conflicts_with_all = ["window", "max"])]
    pub rate: Option<f64>,
    /// As fast as the window allows: the default, said explicitly
    #[arg(long)]
    pub max: bool,
    /// Unanswered sends of a connection; the next one goes out when one is answered
    #[arg(long, value_name = "W", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=63))]
    pub window: u32,
    /// Bytes of a message's payload, at least 16
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
}

impl Load {
    /// In words.
    pub fn text(&self) -> String {
        match self.rate {
            None => format!("window {}", self.window),
            Some(rate) => format!("rate {rate}"),
        }
    }
}

/// Whether the floor is measured along with a load.
#[derive(Debug, Args)]
pub struct WithFloor {
    /// Measure in the same run what this machine allows, in slices between the load's: a bare relay on the same stack,
    /// and the store committing the same keys. Takes about as long again. Default when the server is started by this
    /// program
    #[arg(long, conflicts_with = "no_floor")]
    pub floor: bool,
    /// Do not
    #[arg(long)]
    pub no_floor: bool,
}

impl WithFloor {
    /// Whether it is to be measured.
    pub fn wanted(&self, common: &Common) -> bool {
        self.floor || (!self.no_floor && common.server.is_none())
    }
}

/// What all scenarios share.
#[derive(Debug, Args)]
pub struct Common {
    /// Over which transport; both: one run after the other, each with a fresh server
    #[arg(long, value_enum, default_value_t = TransportArg::Tcp)]
    pub transport: TransportArg,
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub connections: usize,
    /// Seconds of measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds_above_0)]
    pub duration: f64,
    /// Seconds of the same load before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub warmup: f64,
    /// What is random (ids, orders, moments) comes from this number: the same again for the same run again
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Handshakes at once while clients connect
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub ramp: usize,
    /// Threads of the load generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Write the result as JSON, in place of what is in the file when the run is over; `tern-bench report` makes a page of
    /// such files. A run that ends early does not replace the result of a complete one: it goes to FILE.partial
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No live progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
    /// Start a server for the run and stop it afterwards: the default, said explicitly
    #[arg(long, conflicts_with = "server", help_heading = "Server")]
    pub spawn: bool,
    /// Drive a running server: host:port, the same for TCP and QUIC
    #[arg(long, value_name = "ADDR", requires_all = ["ca", "data"], help_heading = "Server")]
    pub server: Option<String>,
    /// Of --server: the authority that its certificate comes from, PEM
    #[arg(long, value_name = "FILE", requires = "server", help_heading = "Server")]
    pub ca: Option<PathBuf>,
    /// A directory. With --server: the server's data directory, or one with a copy of its file `token.key`, to make tokens.
    /// Without: where the server that is started keeps its data [default: a temporary directory, removed afterwards]
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    pub data: Option<PathBuf>,
    /// Of --server: its process id, if it runs on this machine, to see what it uses
    #[arg(long, value_name = "PID", requires = "server", help_heading = "Server")]
    pub pid: Option<u32>,
    /// The program to start [default: ternd beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "server", help_heading = "Server")]
    pub ternd: Option<PathBuf>,
    /// Threads of the server that is started [default: one per core]
    #[arg(long, value_name = "N", conflicts_with = "server", help_heading = "Server")]
    pub shards: Option<usize>,
}

/// One transport or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// TLS over TCP.
    Tcp,
    /// QUIC.
    Quic,
    /// One after the other.
    Both,
}

impl TransportArg {
    /// Those that are meant.
    pub fn each(self) -> &'static [Transport] {
        match self {
            Self::Tcp => &[Transport::Tcp],
            Self::Quic => &[Transport::Quic],
            Self::Both => &[Transport::Tcp, Transport::Quic],
        }
    }
}

/// As results name it.
pub fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Auto => "auto",
        Transport::Tcp => "tcp",
        Transport::Quic => "quic",
    }
}

/// Whether a connection begins with an earlier one's TLS ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Handshakes {
    /// Never.
    Full,
    /// If there is one.
    Resumed,
}

/// So many seconds, 0 included.
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=1e6).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds is expected, for example 2.5".into())
}

/// A part of a whole.
pub fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is expected, from 0 to 1, for example 0.25".into())
}

/// So many seconds, more than 0.
pub fn seconds_above_0(text: &str) -> Result<f64, String> {
    let above_0 = seconds(text).ok().filter(|seconds| *seconds > 0.0);
    above_0.ok_or_else(|| "a number of seconds above 0 is expected, for example 2.5".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
