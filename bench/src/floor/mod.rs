//! What this machine allows: what a message costs when nothing but its frames are moved and nothing but its keys are
//! stored. The server is judged by how near it comes.
//!
//! - [`relay`]: a process that moves frames on the server's own sockets, TLS and QUIC; [`shard`]: one of its threads; [`talk`]: its clients; [`frames`]:
//!   what they exchange.
//! - [`store`]: a process that commits the keys of sends, in batches of the [`shape`] that the server's have.
//! - [`scenario`]: `tern-bench floor`, for itself.
//! - [`child`]: how processes are started and end.
//!
//! A scenario starts a [`Floor`] beside its server and runs slices of it between its own rounds, so that both meet the
//! same machine.

mod child;
mod frames;
pub mod relay;
pub mod scenario;
pub mod shape;
mod shard;
pub mod store;
mod talk;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tern_client::Transport;

use self::child::Process;
pub use self::shape::Shape;
use self::store::Store;
use self::talk::{Counts, Talkers};
use crate::Error;
use crate::stats::round;

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
    pub load: Load,
    /// From a message until its recipient marks it, and all that has come by then.
    pub mark_interval: Duration,
    /// Of each message, at least [`PAYLOAD_BYTES_MIN`].
    pub payload_bytes: usize,
    /// Threads of the relay; `None`: one per core.
    pub shards: Option<usize>,
    /// Threads of its clients.
    pub threads: usize,
    /// Handshakes at once while they connect.
    pub ramp: usize,
}

/// Room for the number of the sender.
pub const PAYLOAD_BYTES_MIN: usize = 4;

/// When a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// As soon as fewer than this many sends are unanswered.
    Window(usize),
    /// At fixed times, `period` nanoseconds apart; each client's begin `step` nanoseconds after those of the one before.
    Every {
        /// Between two sends of a client.
        period: u64,
        /// Between two clients.
        step: u64,
    },
}

impl FloorPlan {
    /// Groups of `members`, at least one.
    fn groups(&self) -> usize {
        (self.connections / self.members).max(1)
    }

    /// The place of a client among those who send, if it does.
    fn place_of_sender(&self, number: usize) -> Option<u64> {
        let (group, member) = (number / self.members, number % self.members);
        (member < self.senders).then_some((group * self.senders + member) as u64)
    }
}

/// A relay with its clients and a store, at rest until a slice is asked for.
pub struct Floor {
    talkers: Talkers,
    relay: Process,
    store: Store,
    relayed: Cost,
    stored: Cost,
}

/// What was spent, and on how many messages.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Messages.
    pub messages: u64,
    /// CPU time of the process.
    pub cpu: Duration,
    /// While it ran.
    pub seconds: f64,
}

impl Cost {
    /// CPU time of one message in microseconds; `None` when there was none.
    pub fn us_per_message(&self) -> Option<f64> {
        (self.messages > 0).then(|| self.cpu.as_secs_f64() * 1e6 / self.messages as f64)
    }

    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.cpu += other.cpu;
        self.seconds += other.seconds;
    }
}

/// What a message costs at best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// CPU time of moving it, in microseconds.
    pub relay_us_per_message: f64,
    /// CPU time of storing it, in microseconds.
    pub store_us_per_message: f64,
    /// How often the server's CPU time of a message holds the sum of both; `None` when that is not known.
    pub ratio: Option<f64>,
}

impl Floor {
    /// Starts everything and connects the clients. The store is made in a new directory beside `data`, the server's, so that
    /// it is on the same disk.
    ///
    /// # Errors
    /// When a process cannot be started, or a client not connected.
    pub fn start(plan: &FloorPlan, data: &Path) -> Result<Self, Error> {
        let (relay, talkers) = start_relay(plan)?;
        let store = start_store(plan, data)?;
        Ok(Self { talkers, relay, store, relayed: Cost::default(), stored: Cost::default() })
    }

    /// Moves messages for a while, and waits until all have arrived.
    ///
    /// # Errors
    /// When the relay has failed.
    pub fn relay_slice(&mut self, duration: Duration) -> Result<(), Error> {
        let (cost, _) = relay_slice(&mut self.talkers, &self.relay, duration)?;
        self.relayed.add(cost);
        Ok(())
    }

    /// Stores messages for a while, in groups of the shape that the server's have.
    ///
    /// # Errors
    /// When the store has failed.
    pub fn store_slice(&mut self, duration: Duration, shape: Shape) -> Result<(), Error> {
        let (done, cpu) = self.store.commit(shape, duration)?;
        self.stored.add(Cost { messages: done.messages, cpu, seconds: done.seconds });
        Ok(())
    }

    /// Of all slices so far; `None` before there was one of each.
    pub fn figures(&self, server_us_per_message: Option<f64>) -> Option<Figures> {
        let (relay, store) = (self.relayed.us_per_message()?, self.stored.us_per_message()?);
        Some(Figures {
            relay_us_per_message: round(relay, 2),
            store_us_per_message: round(store, 2),
            ratio: server_us_per_message.map(|server| round(server / (relay + store), 2)),
        })
    }
}

fn start_relay(plan: &FloorPlan) -> Result<(Process, Talkers), Error> {
    if plan.payload_bytes < PAYLOAD_BYTES_MIN || plan.members < 2 {
        return Err(Error::Arguments("the floor needs payloads of 4 bytes and groups of 2".into()));
    }
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

fn start_store(plan: &FloorPlan, data: &Path) -> Result<Store, Error> {
    let beside = data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Store::start(beside, plan)
}

fn relay_slice(talkers: &mut Talkers, relay: &Process, duration: Duration) -> Result<(Cost, Counts), Error> {
    let (start, before) = (Instant::now(), relay.cpu()?);
    let counts = talkers.talk(duration)?;
    let cpu = relay.cpu()?.saturating_sub(before);
    Ok((Cost { messages: counts.sent, cpu, seconds: start.elapsed().as_secs_f64() }, counts))
}
