//! Looks once a second, or as often as a scenario wants, at what the drivers count and the server uses: the live line,
//! and the series in the result.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::fleet::Phase;
use crate::meter::{Interval, Meter};
use crate::outcome::Point;
use crate::process;
use crate::server::Server;
use crate::stats::round;

const SECOND: u64 = 1_000_000_000;

/// Collects what is counted: of this second, of the measured time, of the whole run.
#[derive(Debug)]
pub struct Sampler {
    meters: Vec<Arc<Meter>>,
    phase: Phase,
    /// Since the last point.
    recent: Interval,
    measured: Interval,
    whole: Interval,
    series: Vec<Point>,
    start: u64,
    last: u64,
    /// Between two points.
    step: u64,
    last_line: u64,
    server_cpu: Option<Duration>,
    driver_cpu: Duration,
    /// At the last look at whether the run gets on ..
    pulse: u64,
    /// .. and when it last did.
    alive: u64,
    phase_since: u64,
    rate: Option<f64>,
    quiet: bool,
}

impl Sampler {
    /// Begins now. `rate`: what is offered in an open loop.
    pub fn new(rate: Option<f64>, quiet: bool) -> Self {
        let now = clock::nanos();
        Self {
            meters: Vec::new(),
            phase: Phase::Connecting,
            recent: Interval::default(),
            measured: Interval::default(),
            whole: Interval::default(),
            series: Vec::new(),
            start: now,
            last: now,
            step: SECOND,
            last_line: now,
            server_cpu: None,
            driver_cpu: process::usage(std::process::id()).map(|usage| usage.cpu).unwrap_or_default(),
            pulse: 0,
            alive: now,
            phase_since: now,
            rate,
            quiet,
        }
    }

    /// These count, too.
    pub fn watch<'a>(&mut self, meters: impl Iterator<Item = &'a Arc<Meter>>) {
        self.meters.extend(meters.cloned());
    }

    /// A point of the series for each such interval from now on. There is a line a second all the same.
    pub fn look_every(&mut self, interval: Duration) {
        self.step = u64::try_from(interval.as_nanos()).unwrap_or(SECOND).max(1);
    }

    /// What is counted from now on belongs to this phase.
    pub fn enter(&mut self, phase: Phase) {
        self.collect();
        self.phase_since = clock::nanos();
        if phase.has_load() && !self.phase.has_load() {
            // Nobody may have looked for long.
            self.alive = self.phase_since;
        }
        self.phase = phase;
    }

    /// What was counted while it was measured.
    pub fn measured(&mut self) -> &Interval {
        self.collect();
        &self.measured
    }

    /// What was counted in the whole run.
    pub fn whole(&mut self) -> &Interval {
        self.collect();
        &self.whole
    }

    /// Clients that are logged in now.
    pub fn connections(&self) -> u64 {
        self.meters.iter().map(|meter| meter.connections()).sum()
    }

    /// Sends that have no answer yet.
    pub fn in_flight(&self) -> u64 {
        self.meters.iter().map(|meter| meter.in_flight()).sum()
    }

    /// Something that rises as long as the run gets on, whatever it does.
    pub fn pulse(&mut self) -> u64 {
        let whole = self.whole();
        let counts: u64 = whole.counts.values().sum();
        whole.acked + whole.delivered + whole.login.count() + whole.errors + counts
    }

    /// How long sends have waited while nothing at all was answered. In the end, when few are left, one of them alone may
    /// be in trouble: then only what was silent before counts.
    pub fn silence(&self) -> Duration {
        let gets_on = self.in_flight() == 0 || (!self.phase.has_load() && self.alive > self.phase_since);
        if gets_on { Duration::ZERO } else { Duration::from_nanos(clock::nanos() - self.alive) }
    }

    /// The points of the series so far.
    pub fn series(&self) -> &[Point] {
        &self.series
    }

    /// The points of the series.
    pub fn into_series(self) -> Vec<Point> {
        self.series
    }

    fn collect(&mut self) {
        for meter in &self.meters {
            let interval = meter.take();
            self.recent.add(&interval);
            self.whole.add(&interval);
            if self.phase == Phase::Measuring {
                self.measured.add(&interval);
            }
        }
    }

    /// If it is time: a point, and a line. Returns how long until the next.
    pub fn tick(&mut self, server: Option<&Server>) -> Duration {
        let now = clock::nanos();
        let next = self.last + self.step;
        if now < next {
            return Duration::from_nanos(next - now);
        }
        let pulse = self.pulse();
        if pulse != self.pulse || self.in_flight() == 0 {
            (self.pulse, self.alive) = (pulse, now);
        }
        let seconds = (now - self.last) as f64 / 1e9;
        self.last = now;
        let point = self.point(now, seconds, server);
        if !self.quiet && now >= self.last_line + SECOND - self.step / 2 {
            self.last_line = now;
            eprintln!("{}", line(&point, self.recent.refusals.iter().max_by_key(|(_, count)| **count)));
        }
        self.series.push(point);
        self.recent = Interval::default();
        Duration::from_nanos(self.step)
    }

    fn point(&mut self, now: u64, seconds: f64, server: Option<&Server>) -> Point {
        let usage = server.and_then(Server::usage);
        let server_cpu = usage.map(|usage| usage.cpu);
        let driver_cpu = process::usage(std::process::id()).map_or(self.driver_cpu, |usage| usage.cpu);
        let cores = |before: Duration, after: Duration| {
            round(after.saturating_sub(before).as_secs_f64() / seconds, 3)
        };
        let per_second = |count: u64| round(count as f64 / seconds, 1);
        let recent = &self.recent;
        let quantile = |of: &crate::stats::Latencies, at| (of.count() > 0).then(|| of.at_ms(at));
        let point = Point {
            t_s: round((now - self.start) as f64 / 1e9, 2),
            phase: self.phase.name().into(),
            connections: self.connections(),
            offered: self.rate.filter(|_| self.phase.has_load()).unwrap_or(per_second(recent.sent)),
            acked: per_second(recent.acked),
            delivered: per_second(recent.delivered),
            logins: per_second(recent.login.count()),
            errors: recent.errors,
            ack_p50_ms: quantile(&recent.ack, 0.5),
            ack_p99_ms: quantile(&recent.ack, 0.99),
            deliver_p50_ms: quantile(&recent.deliver, 0.5),
            deliver_p99_ms: quantile(&recent.deliver, 0.99),
            server_cores: self.server_cpu.zip(server_cpu).map(|(before, after)| cores(before, after)),
            server_rss_bytes: usage.map(|usage| usage.rss_bytes),
            driver_cores: cores(self.driver_cpu, driver_cpu),
        };
        self.server_cpu = server_cpu;
        self.driver_cpu = driver_cpu;
        point
    }
}

fn line(point: &Point, worst: Option<(&String, &u64)>) -> String {
    use std::fmt::Write;
    let mut line = format!("{:>6.0} s  {:<10} {:>6} conn", point.t_s, point.phase, point.connections);
    // Writing to a string does not fail.
    let mut put = |text: std::fmt::Arguments<'_>| _ = line.write_fmt(text);
    if point.logins > 0.0 {
        put(format_args!("  {:>6.0} logins/s", point.logins));
    }
    if point.offered > 0.0 || point.acked > 0.0 {
        put(format_args!("  {:>7.0} acked/s", point.acked));
    }
    if point.delivered > 0.0 {
        put(format_args!("  {:>8.0} delivered/s", point.delivered));
    }
    if let (Some(p50), Some(p99)) = (point.ack_p50_ms, point.ack_p99_ms) {
        put(format_args!("  ack p50 {p50:.1} p99 {p99:.1} ms"));
    }
    if let Some(cores) = point.server_cores {
        put(format_args!("  server {cores:.2} cores"));
    }
    if let Some(rss) = point.server_rss_bytes {
        put(format_args!(" {:.0} MB", rss as f64 / 1e6));
    }
    put(format_args!("  driver {:.2}", point.driver_cores));
    if point.errors > 0 {
        put(format_args!("  {} errors", point.errors));
    }
    if let Some((what, _)) = worst {
        put(format_args!(" ({what})"));
    }
    line
}
