//! Everybody is cut off at once and comes back.
//!
//! Clients are in groups. Of each group one stays and goes on sending, so that the others miss something; another one has
//! sent something at the very moment of the cut and sends it again when it is back. In the end, all members have the same
//! log, with everything in it that anybody was told is stored, once.

use std::time::Duration;

use tern_protocol::limits::IN_FLIGHT_MAX;
use tern_protocol::model::Kind;

use crate::Error;
use crate::args::{Common, Handshakes, StormArgs};
use crate::clock;
use crate::fleet::{Crew, Fleet, Phase};
use crate::machine::Span;
use crate::pace::Pace;
use crate::returning::Patience;
use crate::run::{Run, Scenario};
use crate::scenario::party::{Findings, Party, Returns};
use crate::stage::Storm;

/// A client collects marks for so long, as the SDK does.
const MARK_INTERVAL: Duration = Duration::from_millis(100);
/// Seconds between two messages of a group, if nothing else is asked for.
const MESSAGE_EVERY: f64 = 5.0;
/// Between two points of the series: waves of logins are to be seen in it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A server that is killed goes in the middle of what is sent as the storm begins.
const KILL_AFTER: Duration = Duration::from_millis(20);
/// Of those who send: the one who stays, and one of those who are cut off.
const SENDERS: usize = 2;

impl StormArgs {
    fn groups(&self) -> usize {
        self.common.connections / self.members as usize
    }

    fn rate(&self) -> f64 {
        self.rate.unwrap_or(self.groups() as f64 / MESSAGE_EVERY)
    }

    fn party(&self) -> Result<Party, Error> {
        Ok(Party {
            kind: if self.members == 2 { Kind::Direct } else { Kind::Group },
            members: self.members as usize,
            senders: SENDERS,
            pace: Pace::at_rate(self.rate(), SENDERS * self.groups())?,
            payload_bytes: self.payload as usize,
            mark_interval: MARK_INTERVAL,
            returns: Some(Returns { patience: Patience::SPECIFIED, forecast: None }),
            storm: Some(Storm {
                spread: Duration::from_secs_f64(self.spread),
                missed: self.missed,
                server_goes: self.restart,
            }),
        })
    }

    /// Who is cut off.
    fn cut(&self) -> u64 {
        let stay = if self.restart { 0 } else { 1 };
        (self.groups() * (self.members as usize - stay)) as u64
    }

    fn storm(&self, run: &mut Run<'_>, fleet: &Fleet<Findings>) -> Result<(), Error> {
        run.enter(fleet, Phase::Warmup);
        run.hold(run.warmup())?;
        run.sampler().look_every(LOOK_EVERY);
        // A server that is gone takes all with it.
        run.all_may_leave = true;
        run.measure_while(fleet, |run| {
            let start = clock::nanos();
            self.until_all_are_back(run)?;
            let took = Duration::from_nanos(clock::nanos() - start);
            run.hold(run.duration().saturating_sub(took))
        })
    }

    fn until_all_are_back(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let span = Span::start(run.server()?)?;
        if self.restart {
            run.hold(KILL_AFTER)?;
            let down = run.restart_server()?;
            run.figure("server_down_ms", down.as_secs_f64() * 1e3);
        }
        let cut = self.cut();
        let back = |run: &mut Run<'_>| run.sampler().measured().counts.get("back").copied().unwrap_or(0);
        let all = run.hold_until(Duration::from_secs_f64(self.limit), |run| back(run) >= cut)?;
        let used = span.end(run.server()?)?;
        let returns = back(run).max(1) as f64;
        run.figure("cut_off", cut as f64);
        run.figure("returns_per_s", returns / used.time.as_secs_f64());
        run.figure("storm_driver_cores", used.cores(used.driver));
        run.figure("storm_other_cores", used.cores(used.others));
        if let Some(cpu) = used.server {
            run.figure("storm_server_cores", used.cores(cpu));
            run.figure("server_cpu_us_per_return", cpu.as_secs_f64() * 1e6 / returns);
        }
        if !all {
            return Err(Error::Scenario(format!(
                "{} of {cut} clients were back {} s after they were cut off",
                back(run),
                self.limit
            )));
        }
        Ok(())
    }
}

impl Scenario for StormArgs {
    const NAME: &'static str = "storm";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let what = if self.restart { "the server is killed" } else { "all but one of each are cut off" };
        let handshakes = match self.handshakes {
            Handshakes::Full => "full",
            Handshakes::Resumed => "resumed",
        };
        let Self { members, spread, .. } = self;
        format!("groups of {members}, {what}, back within {spread} s, {handshakes} handshakes")
    }

    fn rate(&self) -> Option<f64> {
        Some(StormArgs::rate(self))
    }

    fn check(&self) -> Result<(), Error> {
        if self.groups() == 0 {
            return Err(Error::Arguments(format!(
                "storm needs at least as many --connections as --members: {} do not fill a group of {}",
                self.common.connections, self.members
            )));
        }
        if self.missed as usize >= IN_FLIGHT_MAX - SENDERS {
            return Err(Error::Arguments(format!(
                "--missed {} is more than a client may have unanswered: at most {}",
                self.missed,
                IN_FLIGHT_MAX - SENDERS - 1
            )));
        }
        self.party().map(|_| ())
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let party = self.party()?;
        let accounts = run.server()?.accounts(self.groups() * self.members as usize)?;
        let crew =
            Crew { handshakes: self.handshakes, ..Crew::new(accounts).together(self.members as usize) };
        let fleet = party.gather(run, &crew)?;
        run.attempt(|run| self.storm(run, &fleet));
        party.part(run, fleet);
        let peak = run.server()?.usage().map(|usage| usage.rss_peak_bytes);
        if let Some(peak) = peak {
            run.figure("server_rss_peak_bytes", peak as f64);
        }
        let measured = run.sampler().series().iter().filter(|point| point.phase == Phase::Measuring.name());
        let most = measured.map(|point| point.logins).fold(0.0, f64::max);
        run.figure("logins_per_s_most", most);
        Ok(())
    }
}
