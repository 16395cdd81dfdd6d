//! Clients log in and are silent but for their heartbeats: what connections cost that do nothing.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tern_client::raw::Received;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval_at, timeout};

use crate::Error;
use crate::args::{Common, Handshakes, IdleArgs};
use crate::client::Client;
use crate::fleet::{Crew, Phase, Share, until};
use crate::machine::Span;
use crate::run::{Run, Scenario};
use tern_check::stream::Faults;

/// A heartbeat's echo takes less, or the connection is dead.
const ECHO: Duration = Duration::from_secs(20);

/// In the end each client is seen to be alive, some at a time: so many are to be done in a second, even by a busy machine.
const LAST_HEARTBEATS_PER_S: u64 = 200;

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
        let crew = Crew { handshakes: self.handshakes, connected: false, ..Crew::new(accounts) };
        let heartbeat = Duration::from_secs_f64(self.heartbeat);
        let span = Span::start(run.server()?)?;
        let fleet = run.fleet(&crew, async move |share| stay(share, heartbeat).await)?;
        let connecting = span.end(run.server()?)?;
        let logins = run.sampler().whole().login.count().max(1) as f64;
        run.figure("logins_per_s", logins / connecting.time.as_secs_f64());
        if let Some(cpu) = connecting.server {
            run.figure("server_cpu_us_per_login", cpu.as_secs_f64() * 1e6 / logins);
            run.figure("logins_per_server_core_s", logins / cpu.as_secs_f64());
        }
        run.figure("connecting_other_cores", connecting.cores(connecting.others));
        run.measure(&fleet);
        run.drain += Duration::from_secs(self.common.connections as u64 / LAST_HEARTBEATS_PER_S);
        for faults in run.finish(fleet) {
            run.faults.add(&faults);
        }
        Ok(())
    }
}

/// One thread's clients: each logs in when it is its turn, and stays. Nobody waits for the others in silence, or a long
/// ramp would cost the first ones their connections.
async fn stay(mut share: Share, heartbeat: Duration) -> Result<Faults, Error> {
    let turns = Rc::new(Semaphore::new(share.ramp));
    let waiting = Rc::new(Cell::new(share.accounts.len()));
    let all_in = Rc::new(Notify::new());
    let mut staying = JoinSet::new();
    for account in std::mem::take(&mut share.accounts) {
        let (dialer, turns, phases) = (share.dialer.clone(), turns.clone(), share.phases.clone());
        let (waiting, all_in) = (waiting.clone(), all_in.clone());
        let first = share.random.below(heartbeat.as_nanos() as u64);
        staying.spawn_local(async move {
            let turn = turns.acquire().await;
            let login = dialer.login_patiently(&account).await;
            drop(turn);
            let client = login.map_err(|problem| Error::Client { client: account.number, problem })?;
            waiting.set(waiting.get() - 1);
            if waiting.get() == 0 {
                all_in.notify_one();
            }
            // Spread, as those of clients that did not connect at once.
            let heartbeats = interval_at(Instant::now() + Duration::from_nanos(first), heartbeat);
            Ok(is_alive_to_the_end(client, heartbeats, phases, &turns).await)
        });
    }
    let mut faults = Faults::default();
    loop {
        tokio::select! {
            () = all_in.notified() => share.ready(),
            ended = staying.join_next() => match ended {
                Some(alive) => {
                    let alive = alive.map_err(|_| Error::Driver)??;
                    share.meter.disconnected();
                    faults.disconnected += u64::from(!alive);
                }
                None => return Ok(faults),
            },
        }
    }
}

async fn is_alive_to_the_end(
    mut client: Client,
    mut heartbeats: Interval,
    mut phases: watch::Receiver<Phase>,
    turns: &Semaphore,
) -> bool {
    let end = until(&mut phases, |phase| phase.is_end());
    match stay_while(end, &mut client, &mut heartbeats).await {
        Some(Phase::Leaving) => return true,
        Some(_) => {}
        None => return false,
    }
    let Some(_turn) = stay_while(turns.acquire(), &mut client, &mut heartbeats).await else { return false };
    client.heartbeat();
    matches!(timeout(ECHO, client.next()).await, Ok(Ok(Received::Heartbeat)))
}

/// What is waited for; `None`: the connection has not lasted that long.
async fn stay_while<T>(
    waited_for: impl Future<Output = T>,
    client: &mut Client,
    heartbeats: &mut Interval,
) -> Option<T> {
    let mut waited_for = pin!(waited_for);
    loop {
        tokio::select! {
            done = &mut waited_for => return Some(done),
            received = client.next() => if !matches!(received, Ok(Received::Heartbeat)) {
                return None;
            },
            _ = heartbeats.tick() => client.heartbeat(),
        }
    }
}
