//! Pairs of clients send to each other through a network that loses, delays and cuts, and come back whenever it has cut
//! them off.
//!
//! "Recovery" is the time from when a client could get through again (a blackout has ended, its address has changed, its
//! connection has silently died) until the first acknowledgement that it gets after that; or from when that message was
//! due, if that was later.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tern_protocol::model::Kind;

use crate::Error;
use crate::args::{Common, FlakyArgs};
use crate::fleet::Crew;
use crate::pace::Pace;
use crate::returning::Patience;
use crate::run::{Run, Scenario};
use crate::scenario::party::{Party, Returns};
use tern_proxy::Proxy;
use tern_proxy::plan::FaultPlan;

/// Each needs up to three file descriptors here, and more while it comes back.
const CONNECTIONS_MAX: usize = 2_000;

impl FlakyArgs {
    fn rate(&self) -> f64 {
        self.rate.unwrap_or(self.common.connections as f64)
    }

    fn plan(&self) -> Result<FaultPlan, Error> {
        self.faults.plan().map_err(|error| Error::Arguments(error.to_string()))
    }
}

impl Scenario for FlakyArgs {
    const NAME: &'static str = "flaky";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let network = self.plan().map(|plan| plan.to_string()).unwrap_or_default();
        format!("rate {}, {network}", self.rate())
    }

    fn rate(&self) -> Option<f64> {
        Some(FlakyArgs::rate(self))
    }

    fn check(&self) -> Result<(), Error> {
        let connections = self.common.connections;
        if !(2..=CONNECTIONS_MAX).contains(&connections) || !connections.is_multiple_of(2) {
            return Err(Error::Arguments(format!(
                "flaky pairs clients off and has them share one proxy, so --connections is an even number from 2 to \
                 {CONNECTIONS_MAX}, and not {connections}"
            )));
        }
        Pace::at_rate(FlakyArgs::rate(self), connections)?;
        self.plan().map(|_| ())
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let proxy = Proxy::start(resolve(&run.server()?.address)?, self.plan()?, self.common.seed)
            .map_err(Error::io("cannot start the proxy"))?;
        let party = Party {
            kind: Kind::Direct,
            members: 2,
            senders: 2,
            pace: Pace::at_rate(FlakyArgs::rate(self), self.common.connections)?,
            payload_bytes: self.payload as usize,
            mark_interval: Duration::ZERO,
            returns: Some(Returns { patience: Patience::IN_USE, forecast: Some(proxy.forecast()) }),
            storm: None,
        };
        let accounts = run.server()?.accounts(self.common.connections)?;
        let crew = Crew { connected: false, through: Some(proxy.address), ..Crew::new(accounts).together(2) };
        run.all_may_leave = true;
        let fleet = party.gather(run, &crew)?;
        run.measure(&fleet);
        proxy.calm_down();
        party.part(run, fleet);
        for name in ["reconnects", "sent_again", "given_up_as_dead", "failed_tries"] {
            // Where something was counted, that counts.
            run.figure(name, 0.0);
        }
        for (name, count) in proxy.counters().named() {
            run.figure(&format!("proxy_{name}"), count as f64);
        }
        if run.faults.disconnected == self.common.connections as u64 {
            let address = &run.server()?.address;
            return Err(Error::Server(format!(
                "nobody came back in the end: the server at {address} is gone, or cannot be reached any more"
            )));
        }
        Ok(())
    }
}

fn resolve(address: &str) -> Result<SocketAddr, Error> {
    let mut addresses = address.to_socket_addrs().map_err(Error::io(format!("cannot find {address}")))?;
    addresses.next().ok_or_else(|| Error::Server(format!("{address} has no address")))
}
