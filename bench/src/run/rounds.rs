//! Rounds of the load, with something else in between that is measured on the same machine in the same state.

use std::time::Duration;

use super::Run;
use crate::Error;
use crate::fleet::{Fleet, Phase};
use crate::floor::Shape;
use crate::meter::Interval;

/// What is under way when the load pauses has this long.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pushes of what was acknowledged last are on their way when a pause begins.
const PAUSE_SETTLES: Duration = Duration::from_millis(200);
/// Rounds of the load.
const ROUNDS: u32 = 3;

/// Something that is measured in slices between rounds of the load, on the same machine in the same state.
pub trait Between {
    /// The load has paused: measures for about this long. `round` is what the load did since the last slice.
    ///
    /// # Errors
    /// When it cannot; the run ends then.
    fn slice(&mut self, length: Duration, round: Round) -> Result<(), Error>;

    /// CPU for each message, in microseconds, of all slices: of the relay, and of the store.
    fn result(&self) -> Option<(f64, f64)>;
}

/// What the load did in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Its length.
    pub time: Duration,
    /// Messages acknowledged.
    pub acked: u64,
    /// CPU time of the server; `None` when its process is not known.
    pub cpu: Option<Duration>,
    /// How they were committed; `None` when that cannot be seen from here.
    pub shape: Option<Shape>,
}

/// What was measured until some moment.
#[derive(Debug, Clone, Copy, Default)]
struct Course {
    time: Duration,
    cpu: Option<Duration>,
    acked: u64,
    groups: Option<u64>,
    entries: u64,
    transactions: u64,
    transaction_senders: u64,
}

impl Course {
    fn round_to(&self, later: &Self) -> Round {
        let acked = later.acked - self.acked;
        let groups = later.groups.map(|groups| groups - self.groups.unwrap_or(0));
        let transactions = later.transactions - self.transactions;
        let per_transaction = |count: u64| count as f64 / transactions as f64;
        let shape =
            groups.filter(|groups| *groups > 0 && transactions > 0 && acked > 0).map(|groups| Shape {
                messages_per_group: acked as f64 / groups as f64,
                messages_per_transaction: per_transaction(later.entries - self.entries),
                senders_per_transaction: per_transaction(
                    later.transaction_senders - self.transaction_senders,
                ),
            });
        let cpu = later.cpu.map(|cpu| cpu.saturating_sub(self.cpu.unwrap_or_default()));
        Round { time: later.time - self.time, acked, cpu, shape }
    }
}

impl Run<'_> {
    /// The same in rounds, with something else in between that is measured, too.
    pub fn measure_with<R: Send + 'static>(&mut self, fleet: &Fleet<R>, between: &mut dyn Between) {
        self.ended = self.rounds(fleet, between).err();
        self.floor = between.result();
    }

    fn rounds<R: Send + 'static>(
        &mut self,
        fleet: &Fleet<R>,
        between: &mut dyn Between,
    ) -> Result<(), Error> {
        let length = self.duration() / ROUNDS;
        for number in 0..ROUNDS {
            let round = self.round_and_pause(fleet, number, length)?;
            between.slice(length, round)?;
        }
        Ok(())
    }

    /// The round with this number, from 0; returns when nothing of it is under way any more.
    ///
    /// # Errors
    /// As [`Self::hold`]; sends that nobody answers.
    pub fn round_and_pause<R: Send + 'static>(
        &mut self,
        fleet: &Fleet<R>,
        number: u32,
        length: Duration,
    ) -> Result<Round, Error> {
        let before = self.course();
        // Later rounds find everything warm, but nothing under way.
        let warmup = if number == 0 { self.warmup() } else { self.warmup().min(length / 4) };
        self.round(fleet, warmup, length)?;
        self.enter(fleet, Phase::Paused);
        let round = before.round_to(&self.course());
        if !self.hold_until(PAUSE_TIMEOUT, |run| run.sampler.in_flight() == 0)? {
            return Err(Error::Server(format!(
                "{} sends have not been answered within {} s of the last one",
                self.sampler.in_flight(),
                PAUSE_TIMEOUT.as_secs()
            )));
        }
        self.hold(PAUSE_SETTLES)?;
        Ok(round)
    }

    fn course(&mut self) -> Course {
        let Interval { acked, entries, transactions, transaction_senders, .. } = *self.sampler.measured();
        let (time, cpu, groups) = (self.used.time, self.used.server, self.groups);
        Course { time, cpu, acked, groups, entries, transactions, transaction_senders }
    }

    /// How the measured messages were committed; `None` when that cannot be seen from here.
    pub fn shape(&mut self) -> Option<Shape> {
        Course::default().round_to(&self.course()).shape
    }
}
