//! `tern-bench floor`: what messages cost this machine at best, over each transport and in groups of several sizes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use tern_client::Transport;

use super::{Cost, FloorPlan, Shape, relay_slice, start_relay};
use crate::Error;
use crate::args::{Load, TransportArg, seconds, seconds_above_0, transport_name};
use crate::floor::store::Store;
use crate::floor::talk::Counts;
use crate::machine::Machine;
use crate::outcome::{self, DriverUse, Floor, Outcome, ServerUse};
use crate::pace::Pace;
use crate::run::command;
use crate::stats::round;
use crate::table::{cores, micros, number};
use tern_check::stream::Faults;

/// `floor`.
#[derive(Debug, clap::Args)]
pub struct FloorArgs {
    /// Over which transport
    #[arg(long, value_enum, default_value_t = TransportArg::Both)]
    pub transport: TransportArg,
    /// Clients of the relay
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub connections: usize,
    /// How much is sent.
    #[command(flatten)]
    pub load: Load,
    /// Members of a conversation; 2: direct chats
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=1_024))]
    pub members: u32,
    /// Members of a conversation who send
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub senders: u32,
    /// A member says "delivered" this many seconds after the first message that it has not said so for; 0: at once
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    pub mark_interval: f64,
    /// Messages that share an fsync; each size is measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,128,1024")]
    pub groups_of: Vec<f64>,
    /// Messages of a conversation that are committed together
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub together: f64,
    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = seconds_above_0)]
    pub duration: f64,
    /// Threads of the relay [default: one per core]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Threads of its clients
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Handshakes at once while clients connect
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub ramp: usize,
    /// Where the store is made, and removed at the end [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
    /// Write the results as JSON, one for each transport; `store_us_per_message` is that of the last size
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl FloorArgs {
    fn plan(&self, transport: Transport) -> Result<FloorPlan, Error> {
        let members = self.members as usize;
        let senders = (self.senders as usize).clamp(1, members);
        let groups = self.connections / members;
        if groups == 0 {
            return Err(Error::Arguments(format!(
                "{} connections do not fill a conversation of {members}: raise --connections",
                self.connections
            )));
        }
        Ok(FloorPlan {
            transport,
            connections: groups * members,
            members,
            senders,
            pace: Pace::of(&self.load, groups * senders)?,
            mark_interval: Duration::from_secs_f64(self.mark_interval),
            payload_bytes: self.load.payload as usize,
            shards: self.shards,
            threads: self.threads,
            ramp: self.ramp,
        })
    }

    fn progress(&self, what: &str) {
        if !self.quiet {
            eprintln!("{what} …");
        }
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }
}

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(args: &FloorArgs) -> Result<(), Error> {
    args.json.as_deref().map_or(Ok(()), outcome::check_file)?;
    let machine = Machine::here();
    println!("floor: {} connections, {}, {} B", args.connections, args.load.text(), args.load.payload);
    let mut relayed = Vec::new();
    for transport in args.transport.each() {
        args.progress(&format!(
            "relay over {}: {} connections",
            transport_name(*transport),
            args.connections
        ));
        let (cost, counts) = relay(args, &args.plan(*transport)?)?;
        println!("{}", row("relay", transport_name(*transport), cost));
        relayed.push((*transport, cost, counts));
    }
    let mut figures = BTreeMap::new();
    let mut last = None;
    for &size in &args.groups_of {
        args.progress(&format!("store: groups of {} for {} s", number(size), args.duration));
        let cost = store(args, size)?;
        println!("{}", row("store", &format!("groups of {}", number(size)), cost));
        last = cost.us_per_message();
        figures.insert(format!("store_us_per_message_in_groups_of_{size}"), round(last.unwrap_or(0.0), 3));
    }
    let Some(file) = &args.json else { return Ok(()) };
    let result = |(transport, cost, counts)| result(args, &machine, transport, cost, counts, last, &figures);
    let results: Vec<_> = relayed.into_iter().map(result).collect();
    outcome::write(&results, args.transport == TransportArg::Both, file).map(drop)
}

fn relay(args: &FloorArgs, plan: &FloorPlan) -> Result<(Cost, Counts), Error> {
    let (relay, mut talkers) = start_relay(plan)?;
    // Connections find their size first.
    relay_slice(&mut talkers, &relay, args.duration() / 4)?;
    relay_slice(&mut talkers, &relay, args.duration())
}

fn store(args: &FloorArgs, messages_per_group: f64) -> Result<Cost, Error> {
    let directory = args.data.clone().unwrap_or_else(std::env::temp_dir);
    let mut store = Store::start(&directory, &args.plan(Transport::Tcp)?)?;
    let shape = Shape {
        messages_per_group,
        messages_per_transaction: args.together,
        senders_per_transaction: args.together.min(f64::from(args.senders)),
    };
    store.commit(shape, args.duration())
}

fn row(what: &str, which: &str, cost: Cost) -> String {
    let mut row = format!("  {what:<8} {which:<16}");
    if let Some(us) = cost.us_per_message() {
        let _ = write!(row, " {:>12} a message", micros(us));
    }
    let _ = write!(row, " {:>12}/s", number(cost.messages as f64 / cost.seconds));
    let _ = write!(row, " {:>8} cores", cores(cost.cpu.as_secs_f64() / cost.seconds));
    row
}

fn result(
    args: &FloorArgs,
    machine: &Machine,
    transport: Transport,
    cost: Cost,
    counts: Counts,
    store_us_per_message: Option<f64>,
    store_figures: &BTreeMap<String, f64>,
) -> Outcome {
    let per_second = |count: u64| round(count as f64 / cost.seconds, 1);
    let each = |count: u64| round(count as f64 / counts.sent.max(1) as f64, 3);
    let mut scenario_figures = store_figures.clone();
    for (name, value) in [
        ("pushes_per_message", each(counts.pushes)),
        ("marks_per_message", each(counts.marks)),
        ("receipts_per_message", each(counts.receipts)),
        ("relay_cores", round(cost.cpu.as_secs_f64() / cost.seconds, 3)),
    ] {
        scenario_figures.insert(name.into(), value);
    }
    let floor = cost.us_per_message().zip(store_us_per_message).map(|(relay, store)| Floor {
        relay_us_per_message: round(relay, 2),
        store_us_per_message: round(store, 2),
        ratio: None,
    });
    Outcome {
        scenario: "floor".into(),
        transport: transport_name(transport).into(),
        connections: args.connections as u64,
        duration_s: round(cost.seconds, 3),
        complete: true,
        problem: None,
        seed: 0,
        command: command(),
        load: args.load.text(),
        offered_per_s: args.load.rate.unwrap_or(per_second(counts.sent)),
        acked_per_s: per_second(counts.acks),
        delivered_per_s: per_second(counts.pushes - counts.own_pushes),
        errors: 0,
        faults: Faults::default(),
        refusals: BTreeMap::new(),
        ack_ms: None,
        deliver_ms: None,
        receipt_ms: None,
        login_ms: None,
        server: ServerUse::default(),
        driver: DriverUse::default(),
        other_cores: 0.0,
        floor,
        machine: machine.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        series: Vec::new(),
        scenario_figures,
    }
}
