//! Clients log in and are silent but for their heartbeats: what connections cost that do nothing.

use std::time::Duration;

use tern_client::raw::Received;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

use crate::Error;
use crate::args::{Common, Handshakes, IdleArgs};
use crate::check::Faults;
use crate::client::Client;
use crate::clock;
use crate::fleet::{Crew, Phase, Share, until};
use crate::machine::Span;
use crate::run::{Run, Scenario};

/// A heartbeat's echo takes less, or the connection is dead.
const ECHO: Duration = Duration::from_secs(20);

impl Scenario for IdleArgs {
    const NAME: &'static str = "idle";

    fn common(&self) -> &Common {
        &self.common
    }

    fn load(&self) -> String {
        let handshakes = match self.handshakes {
            Handshakes::Full => "full",
            Handshakes::Resumed => "resumed",
        };
        format!("heartbeat every {} s, {handshakes} handshakes", self.heartbeat)
    }

    fn check(&self) -> Result<(), Error> {
        if self.common.connections == 0 {
            return Err(Error::Arguments("idle needs --connections above 0".into()));
        }
        Ok(())
    }

    fn run(&self, run: &mut Run<'_>) -> Result<(), Error> {
        let accounts = run.server()?.accounts(self.common.connections)?;
        let crew = Crew { handshakes: self.handshakes, ..Crew::new(accounts) };
        let heartbeat = Duration::from_secs_f64(self.heartbeat);
        let span = Span::start(run.server()?)?;
        let fleet = run.fleet(&crew, async move |share| Ok(stay(share, heartbeat).await))?;
        let connecting = span.end(run.server()?)?;
        let logins = run.sampler().whole().login.count().max(1) as f64;
        run.figure("logins_per_s", logins / connecting.time.as_secs_f64());
        if let Some(cpu) = connecting.server {
            run.figure("server_cpu_us_per_login", cpu.as_secs_f64() * 1e6 / logins);
            run.figure("logins_per_server_core_s", logins / cpu.as_secs_f64());
        }
        run.figure("connecting_other_cores", connecting.cores(connecting.others));
        run.measure(&fleet);
        for faults in run.finish(fleet) {
            run.faults.add(&faults);
        }
        Ok(())
    }
}

async fn stay(mut share: Share, heartbeat: Duration) -> Faults {
    let mut staying = JoinSet::new();
    for client in std::mem::take(&mut share.clients) {
        staying.spawn_local(is_alive_to_the_end(client, heartbeat, share.phases.clone()));
    }
    share.ready();
    let mut faults = Faults::default();
    while let Some(alive) = staying.join_next().await {
        share.meter.disconnected();
        faults.disconnected += u64::from(!alive.unwrap_or(false));
    }
    faults
}

async fn is_alive_to_the_end(
    mut client: Client,
    heartbeat: Duration,
    mut phases: tokio::sync::watch::Receiver<Phase>,
) -> bool {
    // Spread, as those of clients that did not connect at once.
    let first = Duration::from_nanos(clock::nanos() % heartbeat.as_nanos().max(1) as u64);
    let mut heartbeats = interval_at(Instant::now() + first, heartbeat);
    let end = loop {
        tokio::select! {
            phase = until(&mut phases, |phase| phase.is_end()) => break phase,
            received = client.next() => if !matches!(received, Ok(Received::Heartbeat)) {
                return false;
            },
            _ = heartbeats.tick() => client.heartbeat(),
        }
    };
    if end == Phase::Leaving {
        return true;
    }
    client.heartbeat();
    let echo = timeout(ECHO, client.next()).await;
    client.finish().await;
    matches!(echo, Ok(Ok(Received::Heartbeat)))
}
