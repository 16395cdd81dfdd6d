//! `tern-bench floor`: what messages cost this machine at best, over each transport and in groups of several sizes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tern_client::Transport;

use super::{Cost, FloorPlan, Load, Shape, relay_slice, start_relay, start_store};
use crate::Error;
use crate::args::{TransportArg, transport_name};
use crate::machine::Machine;
use crate::stats::round;

/// `floor`.
#[derive(Debug, clap::Args)]
pub struct FloorArgs {
    /// Over which transport
    #[arg(long, value_enum, default_value_t = TransportArg::Both)]
    pub transport: TransportArg,
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub connections: usize,
    /// Members of a group; 2 are a direct chat
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=1024))]
    pub members: u32,
    /// Members of a group who send [default: 2]
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub senders: usize,
    /// Unanswered sends of a connection
    #[arg(long, value_name = "W", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub window: u32,
    /// Messages per second of all connections together, instead of a window
    #[arg(long, value_name = "R", conflicts_with = "window")]
    pub rate: Option<f64>,
    /// A member marks what it has this many seconds after the first message that it has not marked; 0: at once
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    pub mark_interval: f64,
    /// Bytes of a message's payload
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub payload: u32,
    /// Messages that share an fsync; several may be given
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1.0, 16.0, 128.0, 1024.0])]
    pub groups_of: Vec<f64>,
    /// Messages of a conversation that are committed together
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub together: f64,
    /// Seconds of each measurement
    #[arg(long, value_name = "S", default_value_t = 4.0)]
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
    /// The report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    scenario: &'static str,
    machine: Machine,
    connections: usize,
    members: u32,
    load: String,
    payload_bytes: u32,
    relay: Vec<Relayed>,
    store: Vec<Stored>,
}

#[derive(Debug, Serialize)]
struct Relayed {
    transport: &'static str,
    #[serde(flatten)]
    rates: Rates,
    pushes_per_message: f64,
    marks_per_message: f64,
    receipts_per_message: f64,
}

#[derive(Debug, Serialize)]
struct Stored {
    messages_per_group: f64,
    messages_per_transaction: f64,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Debug, Serialize)]
struct Rates {
    us_per_message: Option<f64>,
    messages_per_s: f64,
    cpu_cores: f64,
}

impl From<Cost> for Rates {
    fn from(cost: Cost) -> Self {
        Self {
            us_per_message: cost.us_per_message().map(|us| round(us, 2)),
            messages_per_s: round(cost.messages as f64 / cost.seconds, 1),
            cpu_cores: round(cost.cpu.as_secs_f64() / cost.seconds, 3),
        }
    }
}

/// Runs it.
///
/// # Errors
/// When there is no result.
pub fn run(args: &FloorArgs) -> Result<(), Error> {
    let members = args.members as usize;
    let senders = args.senders.clamp(1, members);
    let machine = Machine::here();
    let (load, said) = match args.rate {
        None => (Load::Window(args.window as usize), format!("window {}", args.window)),
        Some(rate) if rate > 0.0 => {
            let all = (args.connections / members).max(1) * senders;
            let (period, step) = ((1e9 * all as f64 / rate) as u64, (1e9 / rate) as u64);
            (Load::Every { period, step }, format!("rate {rate}"))
        }
        Some(_) => return Err(Error::Arguments("a rate is above 0".into())),
    };
    let plan = |transport: Transport| FloorPlan {
        transport,
        connections: args.connections,
        members,
        senders,
        load,
        mark_interval: Duration::from_secs_f64(args.mark_interval),
        payload_bytes: args.payload as usize,
        shards: args.shards,
        threads: args.threads,
        ramp: args.ramp,
    };
    let duration = Duration::from_secs_f64(args.duration);
    let mut report = Report {
        scenario: "floor",
        machine,
        connections: args.connections,
        members: args.members,
        load: said,
        payload_bytes: args.payload,
        relay: Vec::new(),
        store: Vec::new(),
    };
    for transport in args.transport.each() {
        let (relay, mut talkers) = start_relay(&plan(*transport))?;
        // Connections find their size first.
        relay_slice(&mut talkers, &relay, duration / 4)?;
        let (cost, counts) = relay_slice(&mut talkers, &relay, duration)?;
        let each = |count: u64| round(count as f64 / counts.sent.max(1) as f64, 3);
        report.relay.push(Relayed {
            transport: transport_name(*transport),
            rates: cost.into(),
            pushes_per_message: each(counts.pushes),
            marks_per_message: each(counts.marks),
            receipts_per_message: each(counts.receipts),
        });
    }
    let directory = args.data.clone().unwrap_or_else(std::env::temp_dir);
    for &messages_per_group in &args.groups_of {
        let mut store = start_store(&plan(Transport::Tcp), &directory.join("store"))?;
        let shape = Shape {
            messages_per_group,
            messages_per_transaction: args.together,
            senders_per_transaction: args.together.min(2.0),
        };
        let (done, cpu) = store.commit(shape, duration)?;
        let cost = Cost { messages: done.messages, cpu, seconds: done.seconds };
        report.store.push(Stored {
            messages_per_group: round(done.messages as f64 / done.groups.max(1) as f64, 1),
            messages_per_transaction: args.together,
            rates: cost.into(),
        });
    }
    show(&report, args.json.as_deref())
}

/// To standard output, one line a field, and to the file.
fn show(report: &Report, file: Option<&Path>) -> Result<(), Error> {
    let value = serde_json::to_value(report).map_err(|error| Error::Scenario(error.to_string()))?;
    if let Some(fields) = value.as_object() {
        for (name, field) in fields {
            println!("{name:<18} {}", line(field));
        }
    }
    if let Some(file) = file {
        std::fs::write(file, format!("{value:#}\n"))
            .map_err(Error::io(format!("cannot write {}", file.display())))?;
    }
    Ok(())
}

fn line(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name} {}", line(value))).collect();
            fields.join("  ")
        }
        Value::Array(values) => values.iter().map(|value| format!("\n  {}", line(value))).collect(),
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}
