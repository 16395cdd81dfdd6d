//! What a run has found, as text and as JSON.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::Error;
use crate::clock;
use crate::process::{self, Usage};
use crate::server::Server;

/// Where the figures come from.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// As the kernel names it.
    pub cpu: String,
    /// Version.
    pub kernel: String,
    /// Runnable threads, mean of the last minute, before the run: above 0 something else was running.
    pub load_before: f64,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = read("/proc/loadavg");
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// A stretch of time, and what server and driver used in it.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    start: u64,
    server: Option<Usage>,
    driver: Usage,
    machine: Duration,
}

/// What was used in a span.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Used {
    /// Its length.
    pub seconds: f64,
    /// Of the server, in cores: 1.0 is one core all the time.
    pub server_cores: Option<f64>,
    /// The part of it in the kernel.
    pub server_kernel_cores: Option<f64>,
    /// Of this process.
    pub driver_cores: f64,
    /// Of everything else on this machine, the kernel's own threads included: what makes figures worse than they are.
    /// Without the server's process id it is in here, too.
    pub other_cores: f64,
    /// Of the server at the end.
    pub server_rss_mb: Option<f64>,
}

impl Span {
    /// Begins now.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn start(server: &Server) -> Result<Self, Error> {
        let driver = process::usage(std::process::id())?;
        let machine = process::machine_busy()?;
        Ok(Self { start: clock::nanos(), server: server.usage()?, driver, machine })
    }

    /// Ends now.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn end(self, server: &Server) -> Result<Used, Error> {
        let seconds = Duration::from_nanos(clock::nanos() - self.start).as_secs_f64();
        let driver = process::usage(std::process::id())?;
        let now = server.usage()?;
        let server = self.server.zip(now);
        let cores = |before: Duration, after: Duration| round((after - before).as_secs_f64() / seconds, 3);
        let server_cores = server.map(|(before, after)| cores(before.cpu, after.cpu));
        let driver_cores = cores(self.driver.cpu, driver.cpu);
        let all_cores = cores(self.machine, process::machine_busy()?);
        Ok(Used {
            seconds: round(seconds, 3),
            server_cores,
            server_kernel_cores: server.map(|(before, after)| cores(before.system, after.system)),
            driver_cores,
            other_cores: round((all_cores - driver_cores - server_cores.unwrap_or(0.0)).max(0.0), 3),
            server_rss_mb: now.map(|now| round(now.rss_bytes as f64 / 1e6, 1)),
        })
    }
}

impl Used {
    /// CPU of the server for each of this many things.
    pub fn server_micros_per(&self, count: u64) -> Option<f64> {
        let each = |cores: f64| round(cores * self.seconds * 1e6 / count as f64, 1);
        self.server_cores.filter(|_| count > 0).map(each)
    }
}

/// A number with few digits.
pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// To standard output, one line a field, and to the file.
///
/// # Errors
/// When the file cannot be written.
pub fn show(report: &impl Serialize, file: Option<&Path>) -> Result<(), Error> {
    let value = serde_json::to_value(report).map_err(|error| Error::Server(error.to_string()))?;
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

fn line(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name} {}", line(value))).collect();
            fields.join("  ")
        }
        Value::Array(values) => values.iter().map(line).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}
