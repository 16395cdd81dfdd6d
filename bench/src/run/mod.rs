//! How every scenario runs: server, fleet, phases, result.
//!
//! A scenario says in [`Scenario::run`] what happens, with the steps that [`Run`] offers; whatever happens, what was
//! measured until then becomes the [`Outcome`].

mod result;
mod rounds;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use tern_client::Transport;

use crate::Error;
use crate::args::{Common, TransportArg};
use crate::clock;
use crate::fleet::{Crew, Fleet, Phase, Rig, Share};
use crate::interrupt;
use crate::machine::{Machine, Span, Used};
use crate::outcome::{self, Outcome};
use crate::process;
use crate::progress::Sampler;
use crate::server::{START_TIMEOUT, Server};
use crate::stats::round;
use crate::table::{comparison, table};
use tern_check::stream::Faults;

pub(crate) use self::result::command;
pub use self::rounds::{Between, Round};

/// Exit status when a promise was broken. 1 says that the run itself went wrong, 2 is clap's.
const BROKEN: u8 = 3;
/// A condition is looked at this often.
const GLANCE: Duration = Duration::from_millis(20);
/// A preparation in which nothing is logged in, acknowledged or counted for so long is given up.
const STALL: Duration = Duration::from_secs(60);
/// A server that answers nothing at all for so long, while it is asked for something, is gone.
const SILENCE: Duration = Duration::from_secs(20);
/// What is under way at the end has this long before it counts as lost; scenarios use it as the limit of their own.
pub const DRAIN: Duration = Duration::from_secs(30);
/// Threads that were told to leave have this long.
const LEAVE: Duration = Duration::from_secs(10);

/// What tern-bench can do.
pub trait Scenario {
    /// Its name on the command line.
    const NAME: &'static str;

    /// What all scenarios share.
    fn common(&self) -> &Common;

    /// Whether a server that is started for it limits what clients may take, as servers do by default.
    const WITH_LIMITS: bool = false;

    /// It starts what it drives by itself, and says so with [`Run::use_server`].
    const STARTS_ITS_OWN: bool = false;

    /// How much is sent, in words.
    fn load(&self) -> String;

    /// What is offered in an open loop, in messages per second.
    fn rate(&self) -> Option<f64> {
        None
    }

    /// Refuses arguments that contradict each other, before anything is started.
    ///
    /// # Errors
    /// [`Error::Arguments`].
    fn check(&self) -> Result<(), Error>;

    /// Does it.
    ///
    /// # Errors
    /// When it cannot go on; what was counted until then is the result.
    fn run(&self, run: &mut Run<'_>) -> Result<(), Error>;
}

/// Runs a scenario over each transport that its arguments name; prints and writes what comes out.
pub fn execute<S: Scenario>(scenario: &S) -> ExitCode {
    let common = scenario.common();
    if let Err(error) = scenario.check().and_then(|()| prepare(common)) {
        eprintln!("tern-bench: {error}");
        return ExitCode::FAILURE;
    }
    let mut outcomes = Vec::new();
    for transport in common.transport.each() {
        let outcome = execute_over(scenario, *transport);
        println!("{}", table(&outcome));
        let ended_early = !outcome.complete;
        outcomes.push(outcome);
        if ended_early {
            break;
        }
    }
    if let [one, other] = &outcomes[..] {
        println!("{}", comparison(one, other));
    }
    conclude(&outcomes, common, common.transport == TransportArg::Both)
}

/// Before anything is started: that there is a place for the results, and that Ctrl-C is heeded.
///
/// # Errors
/// When they cannot be written.
pub fn prepare(common: &Common) -> Result<(), Error> {
    common.json.as_deref().map_or(Ok(()), outcome::check_file)?;
    interrupt::catch();
    Ok(())
}

/// Writes what has come out, if it is wanted, as an array or alone; whether all is well.
pub fn conclude(outcomes: &[Outcome], common: &Common, as_array: bool) -> ExitCode {
    let mut failed = outcomes.iter().any(|outcome| !outcome.complete);
    match common.json.as_ref().map(|file| outcome::write(outcomes, as_array, file)) {
        Some(Err(error)) => {
            eprintln!("tern-bench: {error}");
            failed = true;
        }
        Some(Ok(place)) if failed => println!("what there is of a result is in {}", place.display()),
        _ => {}
    }
    if outcomes.iter().any(Outcome::is_broken) {
        eprintln!("tern-bench: a promise was broken: see \"BROKEN\" in the table");
        BROKEN.into()
    } else if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn execute_over<S: Scenario>(scenario: &S, transport: Transport) -> Outcome {
    let mut run = Run::new(scenario.common(), transport, scenario.rate());
    let started = if S::STARTS_ITS_OWN { Ok(()) } else { run.start_server(S::WITH_LIMITS) };
    let result = started.and_then(|()| scenario.run(&mut run));
    run.outcome(S::NAME, scenario.load(), result)
}

/// One run over one transport: the steps that a scenario is made of, and what they find.
pub struct Run<'a> {
    /// What all scenarios share.
    pub common: &'a Common,
    /// Over what.
    pub transport: Transport,
    rate: Option<f64>,
    /// What is wrong; scenarios add what their threads found.
    pub faults: Faults,
    /// What only this scenario has.
    pub figures: BTreeMap<String, f64>,
    /// How long the threads have for what is under way at the end, beyond a moment to say good-bye.
    pub drain: Duration,
    /// It is no failure when all connections end or nobody answers: the scenario cuts them.
    pub all_may_leave: bool,
    /// When somebody was last seen connected.
    connected_at: u64,
    /// Clients that come and go; `None`: they are those that were logged in at the beginning.
    pub clients: Option<u64>,
    machine: Machine,
    sampler: Sampler,
    server: Option<Server>,
    before: Memory,
    /// A preparation has left its marks in the memory of the server: what a connection takes cannot be told.
    is_prepared: bool,
    /// When all were connected and nothing else had happened.
    connected: Option<Memory>,
    /// At the end of the measured time.
    after: Option<Memory>,
    connections: u64,
    used: Used,
    /// Groups that the server's store has written in the measured time.
    groups: Option<u64>,
    ended: Option<Error>,
    finishing: bool,
    floor: Option<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    server: Option<u64>,
    kernel: Option<u64>,
}

impl Memory {
    fn now(server: &Server) -> Self {
        Self { server: server.usage().map(|usage| usage.rss_bytes), kernel: process::kernel_memory_bytes() }
    }
}

impl<'a> Run<'a> {
    /// One that has no server yet. `rate`: what is offered in an open loop, in messages per second.
    pub fn new(common: &'a Common, transport: Transport, rate: Option<f64>) -> Self {
        Self {
            common,
            transport,
            rate,
            machine: Machine::here(),
            sampler: Sampler::new(rate, common.quiet),
            server: None,
            before: Memory::default(),
            is_prepared: false,
            connected: None,
            after: None,
            connections: 0,
            used: Used::default(),
            groups: None,
            ended: None,
            drain: DRAIN,
            all_may_leave: false,
            connected_at: clock::nanos(),
            finishing: false,
            clients: None,
            faults: Faults::default(),
            figures: BTreeMap::new(),
            floor: None,
        }
    }
}

impl Run<'_> {
    fn start_server(&mut self, limits: bool) -> Result<(), Error> {
        self.use_server(Server::from_args(self.common, limits)?);
        Ok(())
    }

    /// This is under load.
    pub fn use_server(&mut self, server: Server) {
        self.before = Memory::now(&server);
        self.server = Some(server);
    }

    /// Whether a course has ended before its time.
    pub fn has_ended_early(&self) -> bool {
        self.ended.is_some()
    }

    /// The server under load.
    ///
    /// # Errors
    /// When there is none, which cannot be.
    pub fn server(&self) -> Result<&Server, Error> {
        self.server.as_ref().ok_or(Error::Driver)
    }

    /// The server is killed, and started again in its place; returns when it serves, and how long that took.
    ///
    /// # Errors
    /// When this program has not started it, or it does not start again.
    pub fn restart_server(&mut self) -> Result<Duration, Error> {
        let start = clock::nanos();
        let restarting = self.server.as_mut().ok_or(Error::Driver)?.restart()?;
        if !self.hold_until(START_TIMEOUT, |_| restarting.is_over())? {
            return Err(Error::Server(format!(
                "ternd did not start again within {} s",
                START_TIMEOUT.as_secs()
            )));
        }
        Ok(Duration::from_nanos(clock::nanos() - start))
    }

    /// Starts the threads, connects the crew (unless it wants to do that by itself), and waits until all threads say
    /// that they are [ready](Share::ready).
    ///
    /// # Errors
    /// A client's that could not log in; a thread's; a preparation that stands still.
    pub fn fleet<R, W>(&mut self, crew: &Crew, work: W) -> Result<Fleet<R>, Error>
    where
        R: Send + 'static,
        W: AsyncFnOnce(Share) -> Result<R, Error> + Clone + Send + 'static,
    {
        let Common { threads, ramp, seed, .. } = *self.common;
        self.before = if self.is_prepared { Memory::default() } else { Memory::now(self.server()?) };
        let rig = Rig { transport: self.transport, threads, ramp, seed };
        let fleet = Fleet::start(self.server()?, rig, crew, work)?;
        self.sampler.watch(fleet.meters());
        let mut stalled = (0, clock::nanos());
        let ready = self.hold_until(Duration::MAX, |run| {
            let pulse = run.sampler.pulse();
            if pulse != stalled.0 {
                stalled = (pulse, clock::nanos());
            }
            let stands_still = clock::nanos() - stalled.1 > STALL.as_nanos() as u64;
            fleet.is_ready() || fleet.has_ended() || stands_still
        });
        // Through a proxy, some are cut off at any time.
        self.connections = match crew.through {
            Some(_) => crew.accounts.len() as u64,
            None => self.sampler.connections(),
        };
        ready?;
        if fleet.is_ready() {
            self.connected = Some(Memory::now(self.server()?));
            return Ok(fleet);
        }
        fleet.enter(Phase::Leaving);
        self.hold_until(LEAVE, |_| fleet.is_finished())?;
        let (_, failure) = fleet.join();
        Err(failure.unwrap_or_else(|| Error::Scenario("the preparation does not get on".into())))
    }

    /// All go on to this phase, and what is counted from now on belongs to it.
    pub fn enter<R: Send + 'static>(&mut self, fleet: &Fleet<R>, phase: Phase) {
        fleet.enter(phase);
        self.sampler.enter(phase);
    }

    /// Waits, while progress is shown.
    ///
    /// # Errors
    /// When the server ends, all connections do, or the user wants no more.
    pub fn hold(&mut self, time: Duration) -> Result<(), Error> {
        self.hold_until(time, |_| false).map(|_| ())
    }

    /// Waits until the condition holds, at most so long; returns whether it does.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_until(
        &mut self,
        at_most: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Error> {
        let start = clock::nanos();
        loop {
            let next = self.sampler.tick(self.server.as_ref());
            if holds(self) {
                return Ok(true);
            }
            let left = at_most.saturating_sub(Duration::from_nanos(clock::nanos() - start));
            if left.is_zero() {
                return Ok(false);
            }
            if interrupt::is_wanted() {
                return Err(Error::Interrupted);
            }
            self.server()?.check()?;
            self.check_connections()?;
            std::thread::sleep(next.min(left).min(GLANCE));
        }
    }

    fn check_connections(&mut self) -> Result<(), Error> {
        let now = clock::nanos();
        if self.sampler.connections() > 0 || self.connections == 0 || self.finishing {
            self.connected_at = now;
        }
        let alone = Duration::from_nanos(now - self.connected_at);
        let address = &self.server()?.address;
        if self.all_may_leave {
            return match alone > SILENCE {
                true => Err(Error::Server(format!(
                    "nobody has been connected for {} s: the server at {address} is gone, or cannot be reached any more",
                    SILENCE.as_secs()
                ))),
                false => Ok(()),
            };
        }
        if self.connections > 0 && !self.finishing && self.sampler.connections() == 0 {
            return Err(Error::Server(format!(
                "all connections have ended in mid-run: the server at {address} is gone, or cannot be reached any more"
            )));
        }
        if self.sampler.silence() > SILENCE {
            return Err(Error::Server(format!(
                "the server at {address} has answered nothing for {} s, while {} sends wait: it hangs, or cannot be \
                 reached any more",
                SILENCE.as_secs(),
                self.sampler.in_flight()
            )));
        }
        Ok(())
    }

    /// After a preparation with a fleet of its own, which has [finished](Self::finish): the run as if it had just begun.
    ///
    /// # Errors
    /// What ended the preparation early.
    pub fn begin(&mut self) -> Result<(), Error> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        self.is_prepared = true;
        self.all_may_leave = false;
        self.finishing = false;
        self.connections = 0;
        self.sampler.enter(Phase::Connecting);
        Ok(())
    }

    /// A course of the scenario's own. When it ends early, [`Self::finish`] has what there is.
    pub fn attempt(&mut self, course: impl FnOnce(&mut Self) -> Result<(), Error>) {
        let result = course(self);
        self.ended = self.ended.take().or(result.err());
    }

    /// The usual course: the load, unmeasured, then measured. When that ends early, [`Self::finish`] has what there is.
    pub fn measure<R: Send + 'static>(&mut self, fleet: &Fleet<R>) {
        let result = self.round(fleet, self.warmup(), self.duration());
        self.ended = result.err();
    }

    fn round<R: Send + 'static>(
        &mut self,
        fleet: &Fleet<R>,
        warmup: Duration,
        length: Duration,
    ) -> Result<(), Error> {
        self.enter(fleet, Phase::Warmup);
        self.hold(warmup)?;
        self.measure_while(fleet, |run| run.hold(length))
    }

    /// Measures while this goes on.
    ///
    /// # Errors
    /// Its error.
    pub fn measure_while<R: Send + 'static>(
        &mut self,
        fleet: &Fleet<R>,
        goes_on: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let groups = self.server()?.groups_written();
        let span = Span::start(self.server()?)?;
        self.enter(fleet, Phase::Measuring);
        let result = goes_on(self);
        self.used = self.used.and(span.end(self.server()?)?);
        let written = groups.zip(self.server()?.groups_written());
        let written = written.map(|(before, after)| after.saturating_sub(before));
        self.groups = written.map(|written| self.groups.unwrap_or(0) + written);
        self.after = Some(Memory::now(self.server()?));
        // What is acknowledged from here on is not measured, whatever comes next.
        self.sampler.enter(Phase::Draining);
        result
    }

    /// Lets everything that is under way finish, and the threads end; what they return. When a thread fails or does not
    /// end, the run has ended early.
    pub fn finish<R: Send + 'static>(&mut self, fleet: Fleet<R>) -> Vec<R> {
        let phase = if self.ended.is_some() { Phase::Leaving } else { Phase::Draining };
        self.finishing = true;
        self.enter(&fleet, phase);
        // Clients have a limit of their own, and a moment to say good-bye.
        let at_most = if self.ended.is_some() { LEAVE } else { self.drain + LEAVE };
        let drained = self.hold_until(at_most, |_| fleet.is_finished());
        if !matches!(drained, Ok(true)) {
            self.enter(&fleet, Phase::Leaving);
            let deadline = clock::nanos() + LEAVE.as_nanos() as u64;
            while !fleet.is_finished() && clock::nanos() < deadline {
                std::thread::sleep(GLANCE);
            }
        }
        let (results, failure) = fleet.join();
        if self.ended.is_none() {
            self.ended = drained.err().or(failure);
        }
        results
    }

    /// Measured time so far, with what was used in it.
    pub fn used(&self) -> Used {
        self.used
    }

    /// The counters and the live line, for scenarios with a course of their own.
    pub fn sampler(&mut self) -> &mut Sampler {
        &mut self.sampler
    }

    /// One of the scenario's own figures.
    pub fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.into(), round(value, 3));
    }

    /// How long the load goes on before it is measured.
    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.common.warmup)
    }

    /// How long it is measured.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.common.duration)
    }
}
