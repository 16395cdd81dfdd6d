//! Pairs who send to each other at a fixed rate while something else is measured: does it disturb them?

use std::time::Duration;

use tern_protocol::model::Kind;

use crate::Error;
use crate::args::BackgroundArgs;
use crate::fleet::{Crew, Fleet, Phase};
use crate::pace::Pace;
use crate::run::Run;
use crate::scenario::party::{Findings, Party};

impl BackgroundArgs {
    /// In words.
    pub fn text(&self) -> String {
        self.rate.map_or_else(String::new, |rate| format!(", {rate} messages/s beside it"))
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Arguments`].
    pub fn check(&self) -> Result<(), Error> {
        match self.rate {
            Some(rate) => self.party(rate).map(|_| ()),
            None => Ok(()),
        }
    }

    fn party(&self, rate: f64) -> Result<Party, Error> {
        Ok(Party {
            kind: Kind::Direct,
            members: 2,
            senders: 2,
            pace: Pace::at_rate(rate, self.clients())?,
            payload_bytes: 200,
            mark_interval: Duration::ZERO,
            returns: None,
            storm: None,
        })
    }

    fn clients(&self) -> usize {
        2 * self.pairs as usize
    }
}

/// The pairs.
pub struct Background(Option<Fleet<Findings>>);

impl Background {
    /// Connects them, if there are to be any, and has them send for the warm-up's time. What they measure alone becomes
    /// figures of the run.
    ///
    /// # Errors
    /// When they cannot.
    pub fn start(run: &mut Run<'_>, args: &BackgroundArgs) -> Result<Self, Error> {
        let Some(rate) = args.rate else { return Ok(Self(None)) };
        let crew = Crew::new(run.server()?.accounts(args.clients())?).together(2);
        let fleet = args.party(rate)?.gather(run, &crew)?;
        run.enter(&fleet, Phase::Warmup);
        run.hold(run.warmup())?;
        if let Some(alone) = run.sampler().whole().ack.summary() {
            run.figure("ack_alone_p50_ms", alone.p50);
            run.figure("ack_alone_p99_ms", alone.p99);
        }
        Ok(Self(Some(fleet)))
    }

    /// Goes on to this phase with the rest of the run.
    pub fn enter(&self, phase: Phase) {
        if let Some(fleet) = &self.0 {
            fleet.enter(phase);
        }
    }

    /// Lets it end.
    pub fn finish(self, run: &mut Run<'_>) {
        let Some(fleet) = self.0 else { return };
        for findings in run.finish(fleet) {
            run.faults.add(&findings.faults);
        }
    }
}
