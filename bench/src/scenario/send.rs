//! Pairs of clients send to each other.
//!
//! Every recipient says "delivered" at once for what it has, once for all that was read together. Every entry is checked;
//! what is under way at the end is waited for, so that "lost" means lost.

use std::time::Duration;

use tern_protocol::model::Kind;

use crate::Error;
use crate::args::{Common, SendArgs};
use crate::pace::Pace;
use crate::run::{Between, Run, Scenario};
use crate::scenario::party::Party;

impl SendArgs {
    fn party(&self) -> Result<Party, Error> {
        Ok(Party {
            kind: Kind::Direct,
            members: 2,
            senders: 2,
            pace: Pace::of(&self.load, self.common.connections)?,
            payload_bytes: self.load.payload as usize,
            mark_interval: Duration::ZERO,
            returns: None,
            storm: None,
        })
    }
}

impl Scenario for SendArgs {
    const NAME: &'static str = "send";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        self.load.text()
    }

    fn rate(&self) -> Option<f64> {
        self.load.rate
    }

    fn check(&self) -> Result<(), Error> {
        let connections = self.common.connections;
        if connections < 2 || !connections.is_multiple_of(2) {
            return Err(Error::Arguments(format!(
                "send pairs clients off, so --connections is an even number, at least 2, and not {connections}"
            )));
        }
        self.party().map(|_| ())
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let party = self.party()?;
        let mut floor = party.floor(run, self.common.connections, &self.floor)?;
        party.run(run, floor.as_mut().map(|floor| floor as &mut dyn Between))
    }
}
