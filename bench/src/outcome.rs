//! The result of a run, as it is written.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::machine::Machine;
use crate::stats::Summary;
use tern_check::stream::Faults;

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

/// That results can be written there: better known before the run than after it. Nothing is made or changed.
///
/// # Errors
/// When they cannot.
pub fn check_file(file: &Path) -> Result<(), Error> {
    let writable = match std::fs::metadata(file) {
        Ok(about) if about.is_file() => std::fs::OpenOptions::new().append(true).open(file).map(drop),
        Ok(about) if about.is_dir() => Err(std::io::ErrorKind::IsADirectory.into()),
        // A pipe or a terminal takes what it is given.
        Ok(_) => return Ok(()),
        Err(_) => Ok(()),
    };
    let writable = writable.and_then(|()| tempfile::tempfile_in(directory_of(file)).map(drop));
    writable.map_err(Error::io(format!("cannot write --json {}", file.display())))
}

/// Writes the one outcome, or an array, in place of what is in the file; returns where. What a run that ended early has
/// does not replace the result of a complete one, but goes into another file beside it.
///
/// # Errors
/// When the file cannot be written; it is as it was then.
pub fn write(outcomes: &[Outcome], as_array: bool, file: &Path) -> Result<PathBuf, Error> {
    let json = match outcomes {
        [one] if !as_array => serde_json::to_string_pretty(one),
        several => serde_json::to_string_pretty(several),
    };
    let json = json.map_err(|error| Error::Scenario(format!("the result is no JSON: {error}")))? + "\n";
    let ended_early = outcomes.iter().any(|outcome| !outcome.complete);
    let mut place = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let is_file = |place: &Path| std::fs::metadata(place).is_ok_and(|about| about.is_file());
    // A terminal or a pipe is not looked into: that would wait for somebody to write.
    if ended_early && is_file(&place) && is_complete(&place) {
        place.as_mut_os_string().push(".partial");
    }
    let written = if place.exists() && !is_file(&place) {
        std::fs::write(&place, json)
    } else {
        replace(&place, json.as_bytes())
    };
    written.map_err(Error::io(format!("cannot write --json {}", place.display())))?;
    Ok(place)
}

/// Whether the file has the result of a run that came to its end, or of several that did.
fn is_complete(file: &Path) -> bool {
    #[derive(Deserialize)]
    struct End {
        complete: bool,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ends {
        One(End),
        Several(Vec<End>),
    }
    let json = std::fs::read(file).unwrap_or_default();
    match serde_json::from_slice(&json) {
        Ok(Ends::One(end)) => end.complete,
        Ok(Ends::Several(ends)) => ends.iter().all(|end| end.complete),
        Err(_) => false,
    }
}

/// All of it or nothing, whatever happens meanwhile.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // As any new file; what is private is the default here.
    let mode = std::fs::Permissions::from_mode(0o666);
    let mut new =
        tempfile::Builder::new().prefix(".tern-bench-").permissions(mode).tempfile_in(directory_of(file))?;
    new.write_all(bytes)?;
    new.persist(file)?;
    Ok(())
}

fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_complete() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (json, complete) in [
            ("", false),
            (r#"{"complete":true}"#, true),
            (r#"{"complete":false}"#, false),
            (r#"[{"complete":true},{"complete":true}]"#, true),
            (r#"[{"complete":true},{"complete":false}]"#, false),
            (r#"{"other":1}"#, false),
        ] {
            std::fs::write(file.path(), json).expect("it is written");
            assert_eq!(is_complete(file.path()), complete, "{json}");
        }
    }

    #[test]
    fn a_check_makes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("result.json");
        check_file(&file).expect("it could be written");
        assert!(!file.exists());
        assert!(check_file(directory.path()).is_err(), "a directory");
        assert!(check_file(&file.join("x")).is_err(), "nowhere");
        check_file(Path::new("/dev/null")).expect("it takes everything");
    }
}
