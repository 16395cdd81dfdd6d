//! What a run has found becomes its result.

use std::time::Duration;

use tern_client::Transport;

use super::{Memory, Run};
use crate::Error;
use crate::args::transport_name;
use crate::outcome::{DriverUse, Floor, Outcome, ServerUse};
use crate::stats::round;

impl Run<'_> {
    /// What it has found: of this scenario, with so much load, in words. What has ended it early is said, too.
    pub fn outcome(mut self, scenario: &str, load: String, result: Result<(), Error>) -> Outcome {
        let problem = self.ended.take().or(result.err());
        if let Some(problem) = &problem {
            eprintln!("tern-bench: {problem}");
        }
        let measured = self.sampler.measured().clone();
        let whole = self.sampler.whole().clone();
        let used = self.used;
        let seconds = used.time.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { round(count as f64 / seconds, 1) } else { 0.0 };
        let each =
            |cpu: Duration, count: u64| (count > 0).then(|| round(cpu.as_secs_f64() * 1e6 / count as f64, 2));
        for (name, count) in &measured.counts {
            self.figures.insert((*name).to_owned(), *count as f64);
        }
        for (name, times) in &measured.times {
            let Some(times) = times.summary() else { continue };
            for (quantile, ms) in [("p50", times.p50), ("p99", times.p99), ("max", times.max)] {
                self.figure(&format!("{name}_{quantile}_ms"), ms);
            }
        }
        if let Some(dropped) = used.datagrams_dropped.filter(|_| self.transport == Transport::Quic) {
            self.figure("datagrams_dropped_by_machine", dropped as f64);
        }
        let per_message = used.server.and_then(|cpu| each(cpu, measured.acked));
        let floor = self.floor.map(|(relay, store)| Floor {
            relay_us_per_message: round(relay, 2),
            store_us_per_message: round(store, 2),
            ratio: per_message.map(|server| round(server / (relay + store), 3)),
        });
        let offered = self.rate.filter(|_| seconds > 0.0).unwrap_or(per_second(measured.sent));
        // The store's memory is none of the connections' business.
        let with = if measured.sent > 0 { self.connected } else { self.after.or(self.connected) };
        let login = if measured.login.count() > 0 { &measured.login } else { &whole.login };
        Outcome {
            scenario: scenario.into(),
            transport: transport_name(self.transport).into(),
            connections: self.clients.unwrap_or(self.connections),
            duration_s: round(seconds, 3),
            complete: problem.is_none(),
            problem: problem.map(|problem| problem.to_string()),
            seed: self.common.seed,
            command: command(),
            load,
            offered_per_s: offered,
            acked_per_s: per_second(measured.acked),
            delivered_per_s: per_second(measured.delivered),
            errors: whole.errors,
            faults: self.faults,
            refusals: whole.refusals,
            ack_ms: measured.ack.summary(),
            deliver_ms: measured.deliver.summary(),
            receipt_ms: measured.receipt.summary(),
            login_ms: login.summary(),
            server: ServerUse {
                cpu_us_per_message: per_message,
                cpu_us_per_delivery: used.server.and_then(|cpu| each(cpu, measured.delivered)),
                rss_bytes: self.after.and_then(|after| after.server),
                rss_bytes_per_connection: self.rise_per(self.connections, with, |memory| memory.server),
                kernel_bytes_per_connection: self
                    .rise_per(self.connection_ends(), with, |memory| memory.kernel),
                cpu_cores: used.server.map(|cpu| round(used.cores(cpu), 3)),
            },
            driver: DriverUse {
                cpu_us_per_message: each(used.driver, measured.acked),
                cpu_cores: round(used.cores(used.driver), 3),
            },
            other_cores: round(used.cores(used.others), 3),
            floor,
            machine: self.machine,
            version: env!("CARGO_PKG_VERSION").into(),
            series: self.sampler.into_series(),
            scenario_figures: self.figures,
        }
    }

    /// Ends of connections that are on this machine.
    fn connection_ends(&self) -> u64 {
        let server_is_here = self.server.as_ref().is_some_and(|server| server.pid().is_some());
        if server_is_here { 2 * self.connections } else { self.connections }
    }

    fn rise_per(&self, count: u64, with: Option<Memory>, of: impl Fn(&Memory) -> Option<u64>) -> Option<f64> {
        let (before, with) = of(&self.before).zip(of(&with?))?;
        (count > 0).then(|| round((with as f64 - before as f64) / count as f64, 1))
    }
}

/// As it was called, with the program's name alone.
pub(crate) fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("tern-bench".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}
