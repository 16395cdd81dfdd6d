//! Where figures come from, and what was used while they were measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::clock;
use crate::process::{self, Usage};
use crate::server::Server;

/// Where figures come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// A stretch of time that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    start: u64,
    server: Option<Usage>,
    driver: Usage,
    machine: Duration,
    datagrams_dropped: Option<u64>,
}

/// What was used in one stretch of time, or in several together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Its length.
    pub time: Duration,
    /// CPU time of the server; `None` when its process is not known.
    pub server: Option<Duration>,
    /// CPU time of this process.
    pub driver: Duration,
    /// CPU time of everything else on this machine, the kernel's own threads included: what makes figures worse than
    /// they are. Without the server's process id it is in here, too.
    pub others: Duration,
    /// Datagrams that this machine dropped because a socket's buffer was full.
    pub datagrams_dropped: Option<u64>,
}

impl Span {
    /// Begins now.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn start(server: &Server) -> Result<Self, Error> {
        let driver = process::usage(std::process::id())?;
        let machine = process::machine_busy()?;
        let datagrams_dropped = process::datagrams_dropped();
        Ok(Self { start: clock::nanos(), server: server.usage(), driver, machine, datagrams_dropped })
    }

    /// Ends now.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn end(self, server: &Server) -> Result<Used, Error> {
        let time = Duration::from_nanos(clock::nanos() - self.start);
        let driver = process::usage(std::process::id())?.cpu.saturating_sub(self.driver.cpu);
        let server = self.server.zip(server.usage());
        let server = server.map(|(before, after)| after.cpu.saturating_sub(before.cpu));
        let machine = process::machine_busy()?.saturating_sub(self.machine);
        let others = machine.saturating_sub(driver).saturating_sub(server.unwrap_or_default());
        let dropped = self.datagrams_dropped.zip(process::datagrams_dropped());
        let datagrams_dropped = dropped.map(|(before, after)| after.saturating_sub(before));
        Ok(Used { time, server, driver, others, datagrams_dropped })
    }
}

impl Used {
    /// This and another stretch.
    pub fn and(self, other: Self) -> Self {
        Self {
            time: self.time + other.time,
            server: sum(self.server, other.server),
            driver: self.driver + other.driver,
            others: self.others + other.others,
            datagrams_dropped: sum(self.datagrams_dropped, other.datagrams_dropped),
        }
    }

    /// CPU time in cores: 1.0 is one core all the time.
    pub fn cores(&self, cpu: Duration) -> f64 {
        if self.time.is_zero() { 0.0 } else { cpu.as_secs_f64() / self.time.as_secs_f64() }
    }
}

fn sum<T: std::ops::Add<Output = T>>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    }
}
