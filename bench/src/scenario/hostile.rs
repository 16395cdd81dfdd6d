//! Pairs of clients talk and newcomers come, while others mean harm: what ordinary users notice of it, and what it takes
//! of the server.

use std::time::Duration;

use clap::ValueEnum;
use tern_protocol::model::Kind;

use crate::Error;
use crate::args::{Common, HostileArgs};
use crate::fleet::Crew;
use crate::hostile::{Attack, Newcomers, Raid, Target};
use crate::machine::Span;
use crate::pace::Pace;
use crate::run::{Run, Scenario};
use crate::scenario::party::Party;

/// An attack that has not begun by then cannot be made.
const BEGINNING: Duration = Duration::from_secs(20);
/// Between two attacks: connections of the last one are gone then.
const REST: Duration = Duration::from_millis(100);

impl HostileArgs {
    fn attacks(&self) -> &[Attack] {
        if self.attacks.is_empty() { Attack::value_variants() } else { &self.attacks }
    }

    /// One stretch of time, with an attack or without.
    fn stretch(
        &self,
        run: &mut Run<'_>,
        newcomers: &Newcomers,
        name: &str,
        attack: Option<(Attack, &Target)>,
    ) -> Result<(), Error> {
        let raid = attack.map(|(attack, target)| Raid::begin(attack, target.clone())).transpose()?;
        if let Some(raid) = &raid
            && !run.hold_until(BEGINNING, |_| raid.count() > 0)?
        {
            return Err(Error::Scenario(format!(
                "the attack {name} did not begin within {} s",
                BEGINNING.as_secs()
            )));
        }
        newcomers.take();
        let before = run.sampler().measured().clone();
        let span = Span::start(run.server()?)?;
        run.hold(run.duration())?;
        let used = span.end(run.server()?)?;
        let ack = run.sampler().measured().ack.since(&before.ack);
        let welcomes = newcomers.take();
        let figures = [
            ("ack_p50_ms", ack.at_ms(0.5)),
            ("ack_p99_ms", ack.at_ms(0.99)),
            ("newcomer_p50_ms", welcomes.login.at_ms(0.5)),
            ("newcomer_p99_ms", welcomes.login.at_ms(0.99)),
            ("newcomers", welcomes.login.count() as f64),
            ("turned_away", welcomes.turned_away as f64),
            ("server_cores", used.server.map_or(0.0, |cpu| used.cores(cpu))),
            ("attacks", raid.as_ref().map_or(0, Raid::count) as f64),
        ];
        for (figure, value) in figures {
            run.figure(&format!("{name}_{figure}"), value);
        }
        if let Some(usage) = run.server()?.usage() {
            run.figure(&format!("{name}_rss_mb"), usage.rss_bytes as f64 / 1e6);
        }
        raid.map_or(Ok(()), Raid::end)
    }
}

impl Scenario for HostileArgs {
    const NAME: &'static str = "hostile";
    const WITH_LIMITS: bool = true;

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let attacks: Vec<_> = self.attacks().iter().map(|attack| attack.name()).collect();
        format!("rate {}, {} s each of {}", self.rate, self.common.duration, attacks.join(", "))
    }

    fn rate(&self) -> Option<f64> {
        Some(self.rate)
    }

    fn check(&self) -> Result<(), Error> {
        let connections = self.common.connections;
        if connections < 2 || !connections.is_multiple_of(2) {
            return Err(Error::Arguments(format!(
                "hostile pairs ordinary users off, so --connections is an even number, at least 2, and not {connections}"
            )));
        }
        Pace::at_rate(self.rate, connections).map(|_| ())
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let party = Party {
            kind: Kind::Direct,
            members: 2,
            senders: 2,
            pace: Pace::at_rate(self.rate, self.common.connections)?,
            payload_bytes: self.payload as usize,
            mark_interval: Duration::ZERO,
            returns: None,
            storm: None,
        };
        let accounts = run.server()?.accounts(self.common.connections)?;
        let fleet = party.gather(run, &Crew::new(accounts).together(2))?;
        let target = Target::new(run.server()?, run.transport, self.held, self.attempts)?;
        let newcomers = Newcomers::begin(run.server()?, run.transport)?;
        run.attempt(|run| {
            run.enter(&fleet, crate::fleet::Phase::Warmup);
            run.hold(run.warmup())?;
            run.measure_while(&fleet, |run| {
                self.stretch(run, &newcomers, "quiet", None)?;
                for attack in self.attacks() {
                    self.stretch(run, &newcomers, attack.name(), Some((*attack, &target)))?;
                    run.hold(REST)?;
                }
                self.stretch(run, &newcomers, "quiet_after", None)
            })
        });
        run.attempt(|_| newcomers.end());
        party.part(run, fleet);
        Ok(())
    }
}
