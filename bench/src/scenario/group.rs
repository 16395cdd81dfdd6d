//! Groups: each message goes to all members, who are all online.
//!
//! The first member creates the group with all others in it. Senders are the first of each group; everybody checks the
//! whole log and says "delivered" once an interval.

use std::time::Duration;

use tern_protocol::model::Kind;

use crate::Error;
use crate::args::{Common, GroupArgs};
use crate::fleet::Crew;
use crate::pace::Pace;
use crate::run::{Between, Run, Scenario};
use crate::scenario::party::Party;

impl GroupArgs {
    fn groups(&self) -> usize {
        self.groups.unwrap_or(self.common.connections / self.members as usize)
    }

    fn party(&self) -> Result<Party, Error> {
        let senders = self.senders.min(self.members) as usize;
        Ok(Party {
            kind: Kind::Group,
            members: self.members as usize,
            senders,
            pace: Pace::of(&self.load, senders * self.groups())?,
            payload_bytes: self.load.payload as usize,
            mark_interval: Duration::from_secs_f64(self.mark_interval),
            returns: None,
            storm: None,
        })
    }
}

impl Scenario for GroupArgs {
    const NAME: &'static str = "group";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let senders = self.senders.min(self.members);
        format!("{} groups of {}, {senders} senders each, {}", self.groups(), self.members, self.load.text())
    }

    fn rate(&self) -> Option<f64> {
        self.load.rate
    }

    fn check(&self) -> Result<(), Error> {
        if self.groups() == 0 {
            return Err(Error::Arguments(format!(
                "{} connections do not fill a group of {} members: raise --connections, or say --groups",
                self.common.connections, self.members
            )));
        }
        if self.senders == 0 {
            return Err(Error::Arguments("--senders is at least 1".into()));
        }
        self.party().map(|_| ())
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let connections = self.groups() * self.members as usize;
        let accounts = run.server()?.accounts(connections)?;
        let party = self.party()?;
        let mut floor = party.floor(run, connections, &self.floor)?;
        run.figure("groups", self.groups() as f64);
        run.figure("members", f64::from(self.members));
        let crew = Crew::new(accounts).together(self.members as usize);
        party.run_with(run, crew, floor.as_mut().map(|floor| floor as &mut dyn Between))
    }
}
