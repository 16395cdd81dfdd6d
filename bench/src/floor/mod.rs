//! What this machine allows: what a message costs when nothing but its frames are moved and nothing but its keys are
//! stored. The server is judged by how near it comes.
//!
//! - [`relay`]: a process that moves frames on the server's own sockets, TLS and QUIC; `shard`: one of its threads;
//!   `talk`: its clients; `frames`: what they exchange.
//! - [`store`]: a process that commits the keys of sends, in batches of the [`shape`] that the server's have.
//! - [`scenario`]: `tern-bench floor`, for itself.
//!
//! `send` and `group` have a [`Floor`] beside their server and run slices of it between their own rounds, so that both
//! meet the same machine.

mod frames;
pub mod relay;
pub mod scenario;
pub mod shape;
mod shard;
pub mod store;
mod talk;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tern_client::Transport;

pub use self::shape::Shape;
use self::store::Store;
use self::talk::{Counts, Talkers};
use crate::Error;
use crate::args::WithFloor;
use crate::child::Process;
use crate::pace::Pace;
use crate::run::{Between, Round, Run};

/// What the floor is measured with: the load of the scenario that it is compared with.
#[derive(Debug, Clone, Copy)]
pub struct FloorPlan {
    /// Over which transport.
    pub transport: Transport,
    /// Clients; whole groups of them are made.
    pub connections: usize,
    /// Of a group; 2: direct chats.
    pub members: usize,
    /// Of the members of each group, this many send.
    pub senders: usize,
    /// When they send.
    pub pace: Pace,
    /// From a message until its recipient marks it, and all that has come by then.
    pub mark_interval: Duration,
    /// Of each message, at least 16.
    pub payload_bytes: usize,
    /// Threads of the relay; `None`: one per core.
    pub shards: Option<usize>,
    /// Threads of its clients.
    pub threads: usize,
    /// Handshakes at once while they connect.
    pub ramp: usize,
}

/// The first messages are not counted.
const SETTLE: Duration = Duration::from_millis(500);
/// Files that this program has open beside its connections: its own, and QUIC's sockets.
const OTHER_FILES: u64 = 600;

impl FloorPlan {
    /// Why this cannot be measured along with a load of as many connections.
    fn problem(&self) -> Option<String> {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
        let wanted = 2 * self.connections as u64 + OTHER_FILES;
        (self.transport == Transport::Tcp && wanted > files).then(|| {
            format!(
                "it needs as many connections again, and this process may open {files} files (`ulimit -n`), not {wanted}"
            )
        })
    }

    /// Groups of `members`, at least one.
    fn groups(&self) -> usize {
        (self.connections / self.members).max(1)
    }

    /// The place of a client among all who send, if it does.
    fn place_of_sender(&self, number: usize) -> Option<usize> {
        let (group, member) = (number / self.members, number % self.members);
        (member < self.senders).then_some(group * self.senders + member)
    }
}

/// What was spent, and on how many messages.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Cost {
    messages: u64,
    /// CPU time of the process.
    cpu: Duration,
    /// While it ran.
    seconds: f64,
}

impl Cost {
    /// CPU time of one message in microseconds; `None` when there was none.
    fn us_per_message(&self) -> Option<f64> {
        (self.messages > 0).then(|| self.cpu.as_secs_f64() * 1e6 / self.messages as f64)
    }

    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.cpu += other.cpu;
        self.seconds += other.seconds;
    }
}

/// The floor of a scenario's load, measured between its rounds.
pub struct Floor {
    plan: FloorPlan,
    /// The server's data directory.
    data: PathBuf,
    /// Started with the first slice, so that the scenario has connected in peace.
    parts: Option<Parts>,
    relayed: Cost,
    stored: Cost,
}

struct Parts {
    talkers: Talkers,
    relay: Process,
    store: Store,
}

impl Floor {
    /// The floor of this load, if these arguments want it.
    ///
    /// # Errors
    /// When they say so, and it cannot be measured here.
    pub fn along(plan: FloorPlan, wanted: &WithFloor, run: &Run<'_>) -> Result<Option<Self>, Error> {
        if !wanted.wanted(run.common) {
            return Ok(None);
        }
        let server = run.server()?;
        let problem = if server.groups_written().is_none() {
            Some(format!("there is no store in {}: --data has to be the server's", server.data().display()))
        } else {
            plan.problem()
        };
        match problem {
            Some(problem) if wanted.floor => Err(Error::Arguments(format!("--floor: {problem}"))),
            Some(problem) => {
                eprintln!("tern-bench: the floor is not measured: {problem}");
                Ok(None)
            }
            None => {
                let data = server.data().to_owned();
                Ok(Some(Self { plan, data, parts: None, relayed: Cost::default(), stored: Cost::default() }))
            }
        }
    }

    fn parts(&mut self) -> Result<&mut Parts, Error> {
        if self.parts.is_none() {
            let (relay, talkers) = start_relay(&self.plan)?;
            // Beside the server's, so that it is on the same disk.
            let beside = self.data.parent().filter(|parent| !parent.as_os_str().is_empty());
            let store = Store::start(beside.unwrap_or(Path::new(".")), &self.plan)?;
            let mut parts = Parts { talkers, relay, store };
            // Connections find their size first.
            relay_slice(&mut parts.talkers, &parts.relay, SETTLE)?;
            self.parts = Some(parts);
        }
        self.parts.as_mut().ok_or(Error::Driver)
    }
}

/// Half of a slice for the relay, half for the store.
impl Between for Floor {
    fn slice(&mut self, length: Duration, round: Round) -> Result<(), Error> {
        let parts = self.parts()?;
        let (relayed, _) = relay_slice(&mut parts.talkers, &parts.relay, length / 2)?;
        let mut stored = Cost::default();
        if let Some(shape) = round.shape {
            stored = parts.store.commit(shape, length / 2)?;
        }
        self.relayed.add(relayed);
        self.stored.add(stored);
        Ok(())
    }

    fn result(&self) -> Option<(f64, f64)> {
        self.relayed.us_per_message().zip(self.stored.us_per_message())
    }
}

fn start_relay(plan: &FloorPlan) -> Result<(Process, Talkers), Error> {
    let mut arguments = vec![
        "relay".to_owned(),
        format!("--groups={}", plan.groups()),
        format!("--members={}", plan.members),
        format!("--payload-bytes={}", plan.payload_bytes),
    ];
    arguments.extend(plan.shards.map(|shards| format!("--shards={shards}")));
    let mut relay = Process::start(&arguments)?;
    let greeting = relay.hear()?;
    let talkers = Talkers::connect(plan, &greeting)?;
    Ok((relay, talkers))
}

fn relay_slice(talkers: &mut Talkers, relay: &Process, duration: Duration) -> Result<(Cost, Counts), Error> {
    let (start, before) = (Instant::now(), relay.cpu()?);
    let counts = talkers.talk(duration)?;
    let cpu = relay.cpu()?.saturating_sub(before);
    Ok((Cost { messages: counts.sent, cpu, seconds: start.elapsed().as_secs_f64() }, counts))
}
