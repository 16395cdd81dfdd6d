//! One fault after the other, each healed before the next, and what clients noticed of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use super::fault::Fault;
use crate::Error;
use crate::clock;
use crate::fleet::{Fleet, Phase};
use crate::mixed::service::{Served, Service};
use crate::run::Run;
use crate::stats::Latencies;

/// Nodes that have not found each other by then, after a start or a fault, never will.
const RECOVERY: Duration = Duration::from_secs(60);
/// A node that was told to stop has by then.
const STOP: Duration = Duration::from_secs(60);
/// Between two looks at the nodes.
const GLANCE: Duration = Duration::from_millis(250);
/// The name of the time in which nothing goes wrong.
const QUIET: &str = "quiet";

/// What is to go wrong.
#[derive(Debug, Clone)]
pub struct Course {
    /// In turn.
    pub faults: Vec<Fault>,
    /// How long one lasts, if not as long as it usually does.
    pub lasts: Option<Duration>,
    /// From one to the next.
    pub every: Duration,
}

/// What clients noticed of a stretch of time.
#[derive(Debug, Default, Clone)]
struct Notice {
    times: u32,
    served: Served,
    /// From when a message was due until it was acknowledged.
    sends: Latencies,
    /// What was refused, and why.
    refusals: BTreeMap<String, u64>,
    /// From when it was healed until all nodes had each other again, the longest.
    whole: Duration,
}

impl Course {
    /// The load, unmeasured, then measured, first without a fault and then with one after the other.
    ///
    /// # Errors
    /// When the run cannot go on, or a node does something that nobody has asked for.
    pub fn take<R: Send + 'static>(
        &self,
        run: &mut Run<'_>,
        fleet: &Fleet<R>,
        cluster: &mut Cluster,
        service: &Arc<Service>,
    ) -> Result<(), Error> {
        run.all_may_leave = true;
        run.enter(fleet, Phase::Warmup);
        hold(run, cluster, run.warmup())?;
        let mut notices = BTreeMap::new();
        let result = run.measure_while(fleet, |run| self.strikes(run, cluster, service, &mut notices));
        for (name, notice) in &notices {
            notice.figures(run, name);
        }
        result
    }

    fn strikes(
        &self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        service: &Service,
        notices: &mut BTreeMap<&'static str, Notice>,
    ) -> Result<(), Error> {
        let end = clock::nanos() + run.duration().as_nanos() as u64;
        // Whatever little is lost in between.
        let latest = end.saturating_sub(self.every.as_nanos() as u64 / 2);
        let mut stretch = |run: &mut Run<'_>, cluster: &mut Cluster, fault: Option<(Fault, usize)>| {
            let (began, earlier, refused) = (clock::nanos(), sends(run), refusals(run));
            service.begin();
            let whole = match fault {
                Some((fault, victim)) => self.strike(run, cluster, fault, victim),
                None => Ok(Duration::ZERO),
            };
            let rest = self.every.saturating_sub(Duration::from_nanos(clock::nanos() - began));
            let whole = whole.and_then(|whole| hold(run, cluster, rest).map(|()| whole));
            let sends = sends(run).since(&earlier);
            let notice = Notice {
                times: 1,
                served: service.so_far(),
                sends,
                refusals: since(refusals(run), &refused),
                whole: *whole.as_ref().unwrap_or(&RECOVERY),
            };
            let name = fault.map_or(QUIET, |(fault, _)| fault.name());
            let victim = fault.map(|(_, victim)| format!(" node {}", victim + 1)).unwrap_or_default();
            println!("{name}{victim}: {notice}");
            notices.entry(name).or_default().add(&notice);
            whole.map(|_| ())
        };
        stretch(run, cluster, None)?;
        let mut turn = 0;
        while clock::nanos() < latest {
            // Each fault meets another node in the next round.
            let (fault, round) = (self.faults[turn % self.faults.len()], turn / self.faults.len());
            stretch(run, cluster, Some((fault, (turn + round) % cluster.nodes.len())))?;
            turn += 1;
        }
        hold(run, cluster, Duration::from_nanos(end.saturating_sub(clock::nanos())))
    }

    /// Returns how long it took from when it was healed until all nodes had each other again.
    fn strike(
        &self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        fault: Fault,
        victim: usize,
    ) -> Result<Duration, Error> {
        let mut longest = Duration::ZERO;
        for place in fault.victims(victim, cluster.nodes.len()) {
            cluster.strike(fault, place)?;
            match fault.lasts() {
                Some(time) => hold(run, cluster, self.lasts.unwrap_or(time))?,
                None => {
                    let mut stopped = Ok(false);
                    run.hold_until(STOP, |_| {
                        stopped = cluster.has_stopped(place);
                        !matches!(stopped, Ok(false))
                    })?;
                    if !stopped? {
                        return Err(Error::Server(format!(
                            "node {} was told to stop, and has not within {} s",
                            place + 1,
                            STOP.as_secs()
                        )));
                    }
                }
            }
            cluster.heal(fault, place)?;
            longest = longest.max(until_whole(run, cluster)?);
        }
        Ok(longest)
    }
}

/// Waits until all nodes serve and have each other; returns how long that took.
///
/// # Errors
/// When that does not happen, or a node ends.
pub fn until_whole(run: &mut Run<'_>, cluster: &mut Cluster) -> Result<Duration, Error> {
    let start = clock::nanos();
    loop {
        cluster.check()?;
        if cluster.is_whole() {
            return Ok(Duration::from_nanos(clock::nanos() - start));
        }
        if clock::nanos() - start > RECOVERY.as_nanos() as u64 {
            return Err(Error::Server(format!(
                "{} s after the last fault the nodes do not all serve with links to each other",
                RECOVERY.as_secs()
            )));
        }
        run.hold(GLANCE)?;
    }
}

/// Waits, while nothing ends that is to run.
fn hold(run: &mut Run<'_>, cluster: &mut Cluster, time: Duration) -> Result<(), Error> {
    let mut state = Ok(());
    run.hold_until(time, |_| {
        state = cluster.check();
        state.is_err()
    })?;
    state
}

/// From when each message was due until it was acknowledged, so far.
fn sends(run: &mut Run<'_>) -> Latencies {
    run.sampler().measured().times.get("send").cloned().unwrap_or_default()
}

/// What was refused so far, and why.
fn refusals(run: &mut Run<'_>) -> BTreeMap<String, u64> {
    run.sampler().measured().refusals.clone()
}

fn since(mut later: BTreeMap<String, u64>, earlier: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    for (what, count) in &mut later {
        *count -= earlier.get(what).unwrap_or(&0);
    }
    later.retain(|_, count| *count > 0);
    later
}

impl Notice {
    fn add(&mut self, other: &Self) {
        self.times += other.times;
        self.served.add(&other.served);
        self.sends.add(&other.sends);
        self.whole = self.whole.max(other.whole);
        for (what, count) in &other.refusals {
            *self.refusals.entry(what.clone()).or_default() += count;
        }
    }

    fn figures(&self, run: &mut Run<'_>, name: &str) {
        let Self { times, served, sends, whole, refusals } = self;
        let figures = [
            ("times", f64::from(*times)),
            ("without_service_p50_ms", served.longest.at_ms(0.5)),
            ("without_service_p99_ms", served.longest.at_ms(0.99)),
            ("without_service_max_ms", served.longest.at_ms(1.0)),
            ("stayed_without_service_p50_ms", served.stayed.at_ms(0.5)),
            ("stayed_without_service_p99_ms", served.stayed.at_ms(0.99)),
            ("connections_lost", served.moved as f64),
            ("served_again_p99_ms", served.again.at_ms(0.99)),
            ("served_again_max_ms", served.again.at_ms(1.0)),
            ("still_waiting", served.waiting as f64),
            ("send_p50_ms", sends.at_ms(0.5)),
            ("send_p99_ms", sends.at_ms(0.99)),
            ("sends", sends.count() as f64),
            ("refusals", refusals.values().sum::<u64>() as f64),
            ("whole_again_max_ms", whole.as_secs_f64() * 1e3),
        ];
        for (what, value) in figures {
            run.figure(&format!("{name}_{what}"), value);
        }
    }
}

/// For the person at the terminal.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, sends, whole, refusals, .. } = self;
        let seconds = |times: &Latencies, quantile| times.at_ms(quantile) / 1e3;
        write!(
            f,
            "without service p50 {:.2} s, p99 {:.2} s, max {:.2} s; {} lost their connection, of the others p50 {:.2} s, \
             p99 {:.2} s; served again p99 {:.2} s, max {:.2} s; {} sends, p50 \
             {:.1} ms, p99 {:.0} ms; nodes together after {:.1} s",
            seconds(&served.longest, 0.5),
            seconds(&served.longest, 0.99),
            seconds(&served.longest, 1.0),
            served.moved,
            seconds(&served.stayed, 0.5),
            seconds(&served.stayed, 0.99),
            seconds(&served.again, 0.99),
            seconds(&served.again, 1.0),
            sends.count(),
            sends.at_ms(0.5),
            sends.at_ms(0.99),
            whole.as_secs_f64()
        )?;
        if served.waiting > 0 {
            write!(f, "; {} clients still wait", served.waiting)?;
        }
        for (what, count) in refusals {
            write!(f, "\n    {count} × {what}")?;
        }
        Ok(())
    }
}
