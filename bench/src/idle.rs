//! Clients connect, log in and are silent but for their heartbeats.

use std::time::Duration;

use serde::Serialize;
use tern_client::raw::Received;
use tern_protocol::limits::HEARTBEAT_MS;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

use crate::Error;
use crate::args::IdleArgs;
use crate::check::Faults;
use crate::client::Client;
use crate::clock;
use crate::driver::{Fleet, Phase};
use crate::report::{self, Machine, Span, Used, round};
use crate::server::Server;
use crate::stats::{Latencies, Summary};

/// A heartbeat's echo takes less, or the connection is dead.
const ECHO: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Report {
    scenario: &'static str,
    machine: Machine,
    transport: &'static str,
    connections: usize,
    logins_per_second: f64,
    login: Summary,
    server_us_per_login: Option<f64>,
    connecting: Used,
    idle: Used,
    server_rss_before_mb: Option<f64>,
    server_bytes_per_connection: Option<u64>,
    faults: Faults,
}

/// Runs it; true when all stayed connected.
///
/// # Errors
/// When there is no result.
pub fn run(args: &IdleArgs) -> Result<bool, Error> {
    let common = &args.common;
    if common.connections == 0 {
        return Err(Error::Arguments("idle needs a connection".into()));
    }
    let machine = Machine::here();
    let server = Server::from_args(common)?;
    let rss_before = server.usage()?.map(|usage| usage.rss_bytes);
    let span = Span::start(&server)?;
    let fleet = Fleet::connect(&server, common, async |clients, phase| stay(clients, phase).await)?;
    let connecting = span.end(&server)?;
    fleet.enter(Phase::Measuring);
    let span = Span::start(&server)?;
    std::thread::sleep(Duration::from_secs_f64(args.duration));
    let idle = span.end(&server)?;
    let rss_after = server.usage()?.map(|usage| usage.rss_bytes);
    fleet.enter(Phase::Draining);
    let (mut faults, mut login) = (Faults::default(), Latencies::default());
    for (thread, logins) in fleet.join()? {
        faults.add(&thread);
        login.add(&logins);
    }

    let connections = common.connections;
    let per_connection = |(before, after): (u64, u64)| after.saturating_sub(before) / connections as u64;
    let report = Report {
        scenario: "idle",
        machine,
        transport: common.transport.name(),
        connections,
        logins_per_second: round(connections as f64 / connecting.seconds, 1),
        login: login.summary(),
        server_us_per_login: connecting.server_micros_per(connections as u64),
        connecting,
        idle,
        server_rss_before_mb: rss_before.map(|bytes| round(bytes as f64 / 1e6, 1)),
        server_bytes_per_connection: rss_before.zip(rss_after).map(per_connection),
        faults,
    };
    report::show(&report, common.json.as_deref())?;
    Ok(report.faults.is_none())
}

async fn stay(clients: Vec<Client>, phase: watch::Receiver<Phase>) -> (Faults, Latencies) {
    let mut login = Latencies::default();
    let mut staying = JoinSet::new();
    for client in clients {
        login.record(client.login_nanos);
        staying.spawn_local(is_alive_to_the_end(client, phase.clone()));
    }
    let mut faults = Faults::default();
    while let Some(alive) = staying.join_next().await {
        faults.disconnected += u64::from(!alive.unwrap_or(false));
    }
    (faults, login)
}

async fn is_alive_to_the_end(mut client: Client, mut phase: watch::Receiver<Phase>) -> bool {
    let period = Duration::from_millis(HEARTBEAT_MS / 2);
    // Spread, as those of clients that did not connect at once.
    let first = Duration::from_nanos(clock::nanos() % period.as_nanos() as u64);
    let mut heartbeats = interval_at(Instant::now() + first, period);
    loop {
        tokio::select! {
            // An error: the run has been given up.
            _ = phase.wait_for(|phase| *phase == Phase::Draining) => break,
            received = client.next() => if !matches!(received, Ok(Received::Heartbeat)) {
                return false;
            },
            _ = heartbeats.tick() => client.heartbeat(),
        }
    }
    client.heartbeat();
    let echo = timeout(ECHO, client.next()).await;
    client.finish().await;
    matches!(echo, Ok(Ok(Received::Heartbeat)))
}
