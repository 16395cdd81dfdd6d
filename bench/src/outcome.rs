//! The result of a run, as it is written.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::check::Faults;
use crate::machine::Machine;
use crate::stats::Summary;

/// The result of one run over one transport. Rates, latencies and CPU are those of the measured time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    pub scenario: String,
    /// `tcp` or `quic`.
    pub transport: String,
    /// Clients that were logged in.
    pub connections: u64,
    /// Measured time.
    pub duration_s: f64,
    /// Whether the run came to its planned end.
    pub complete: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What random choices came from.
    pub seed: u64,
    /// How it was called.
    pub command: String,
    /// How much was sent, in words.
    pub load: String,
    /// Messages that were due (open loop) or sent (closed loop).
    pub offered_per_s: f64,
    /// Messages acknowledged.
    pub acked_per_s: f64,
    /// Messages received by others than their senders; each recipient counts.
    pub delivered_per_s: f64,
    /// Refusals after which the client may try again, and logins that failed.
    pub errors: u64,
    /// What was promised and not kept.
    #[serde(flatten)]
    pub faults: Faults,
    /// What the server said when it refused.
    pub refusals: BTreeMap<String, u64>,
    /// From when a message was due until it was acknowledged.
    pub ack_ms: Option<Summary>,
    /// From when a message was due until a recipient had it.
    pub deliver_ms: Option<Summary>,
    /// From when a message was due until its sender knew that all recipients had it.
    pub receipt_ms: Option<Summary>,
    /// From the first packet until the client was logged in.
    pub login_ms: Option<Summary>,
    /// What the server used.
    pub server: ServerUse,
    /// What this program used.
    pub driver: DriverUse,
    /// What everything else on the machine used. Without the server's process id, the server is in here.
    pub other_cores: f64,
    /// What the machine allows, measured in the same run.
    pub floor: Option<Floor>,
    /// Where it ran.
    pub machine: Machine,
    /// Of this program.
    pub version: String,
    /// One point a second, from the first connection on.
    pub series: Vec<Point>,
    /// What only this scenario has.
    pub scenario_figures: BTreeMap<String, f64>,
}

/// What the server used. `None`: its process is not known, or there was nothing to divide by.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct ServerUse {
    /// CPU for each acknowledged message, everything included.
    pub cpu_us_per_message: Option<f64>,
    /// The same CPU for each delivery.
    pub cpu_us_per_delivery: Option<f64>,
    /// Resident memory at the end of the measured time.
    pub rss_bytes: Option<u64>,
    /// The rise from before the first connection until all were there (where nothing is sent: until the end of the
    /// measured time), divided by their number.
    pub rss_bytes_per_connection: Option<f64>,
    /// The same of the kernel's memory (TCP buffers, slab) of the whole machine, divided by the connection ends on this
    /// machine: two for each connection when the server is on it.
    pub kernel_bytes_per_connection: Option<f64>,
    /// CPU.
    pub cpu_cores: Option<f64>,
}

/// What this program used.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct DriverUse {
    /// CPU for each acknowledged message.
    pub cpu_us_per_message: Option<f64>,
    /// CPU.
    pub cpu_cores: f64,
}

/// What this machine allows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Floor {
    /// CPU of a bare relay on the same stack for what the server does with the network for each message.
    pub relay_us_per_message: f64,
    /// CPU of the embedded store for committing each message's keys.
    pub store_us_per_message: f64,
    /// The server's CPU for each message, divided by the sum of the two.
    pub ratio: Option<f64>,
}

/// One second of a run. Rates are those of this second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    /// Its end, counted from the beginning of the run.
    pub t_s: f64,
    /// `connecting`, `warmup`, `measuring`, `paused` or `draining`.
    pub phase: String,
    /// Clients that are logged in.
    pub connections: u64,
    /// Messages due or sent.
    pub offered: f64,
    /// Messages acknowledged.
    pub acked: f64,
    /// Deliveries.
    pub delivered: f64,
    /// Logins.
    pub logins: f64,
    /// How many, not per second.
    pub errors: u64,
    /// Of what was acknowledged in it.
    pub ack_p50_ms: Option<f64>,
    /// Of what was acknowledged in it.
    pub ack_p99_ms: Option<f64>,
    /// Of what was delivered in it.
    pub deliver_p50_ms: Option<f64>,
    /// Of what was delivered in it.
    pub deliver_p99_ms: Option<f64>,
    /// CPU of the server.
    pub server_cores: Option<f64>,
    /// Memory of the server.
    pub server_rss_bytes: Option<u64>,
    /// CPU of this program.
    pub driver_cores: f64,
}

impl Outcome {
    /// Whether a promise was broken. In a run that ended early, connections that ended and sends without an answer
    /// are what ended it.
    pub fn is_broken(&self) -> bool {
        match self.complete {
            true => !self.faults.is_none(),
            false => !self.faults.of_a_server_that_went_away().is_none(),
        }
    }
}

/// That results can be written there: better known before the run than after it.
///
/// # Errors
/// When they cannot.
pub fn check_file(file: &Path) -> Result<(), Error> {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.map(|_| ()).map_err(Error::io(format!("cannot write --json {}", file.display())))
}

/// Writes the one outcome, or an array.
///
/// # Errors
/// When the file cannot be written.
pub fn write(outcomes: &[Outcome], as_array: bool, file: &Path) -> Result<(), Error> {
    let json = match outcomes {
        [one] if !as_array => serde_json::to_string_pretty(one),
        several => serde_json::to_string_pretty(several),
    };
    let json = json.map_err(|error| Error::Scenario(format!("the result is no JSON: {error}")))?;
    std::fs::write(file, json + "\n").map_err(Error::io(format!("cannot write --json {}", file.display())))
}
