//! Messages a second through stores: conversations, each with an owner that appends one batch after the other, three
//! keys a message (entry, head, window), of which a batch has the latter two once.
//!
//! ```text
//! cargo run --release -p tern-store-fdb [--features client] --example throughput -- STORE... [OPTION...]
//!
//!   STORE                 embedded:DIRECTORY, or with the feature fdb:CLUSTER_FILE
//!   --load OWNERSxBATCH,...   conversations at once, and messages of each batch (16x1)
//!   --seconds N           for each store, load and round (3)
//!   --rounds N            in each of which all stores and loads take their turn; medians are printed (1)
//!   --rested              every owner has been idle, and has to read the head in its append
//!   --contended PERCENT   of the conversations have a second owner, that takes itself for the only one (0)
//! ```
//!
//! In a cluster it works under a prefix of its own, which it clears in the end.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tern_protocol::convert::encode_entry;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{
    Change, Conversation, Entry, Head, Kind, Message, SendWindow, Sender, WallMillis,
};
use tern_store::embedded::{Embedded, Options};
use tern_store::ops::append::{self, Base, Batch};
use tern_store::{CommitError, Kv};

const PAYLOAD_BYTES: usize = 160;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let plan = Plan::read(std::env::args().skip(1).collect())?;
    let mut stores = Vec::new();
    for place in &plan.stores {
        stores.push(open(place).await?);
    }
    let mut results = vec![Vec::new(); stores.len() * plan.loads.len()];
    let mut done = Ok(());
    'rounds: for _ in 0..plan.rounds {
        for (load, results) in plan.loads.iter().zip(results.chunks_mut(stores.len())) {
            for (kv, results) in stores.iter().zip(results) {
                match measure(&**kv, *load, &plan).await {
                    Ok(result) => results.push(result),
                    Err(error) => {
                        done = Err(error.into());
                        break 'rounds;
                    }
                }
            }
        }
    }
    for (kv, place) in stores.iter().zip(&plan.stores) {
        if place.starts_with("fdb:") {
            let mut tidy = kv.begin();
            tidy.clear_range(&[], &[0xFF]);
            tidy.commit().await?;
        }
    }
    done.inspect(|()| plan.print(&results))
}

/// What is measured.
struct Plan {
    stores: Vec<String>,
    loads: Vec<Load>,
    time: Duration,
    rounds: u64,
    is_rested: bool,
    contended_percent: u64,
}

#[derive(Clone, Copy)]
struct Load {
    owners: u64,
    batch: u64,
}

impl Plan {
    fn read(arguments: Vec<String>) -> Result<Self, Box<dyn Error>> {
        let mut arguments: VecDeque<String> = arguments.into();
        let mut plan = Self {
            stores: Vec::new(),
            loads: vec![Load { owners: 16, batch: 1 }],
            time: Duration::from_secs(3),
            rounds: 1,
            is_rested: false,
            contended_percent: 0,
        };
        while let Some(argument) = arguments.pop_front() {
            let mut value = || arguments.pop_front().ok_or(format!("{argument} what?"));
            match &*argument {
                "--load" => plan.loads = value()?.split(',').map(Load::read).collect::<Result<_, _>>()?,
                "--seconds" => plan.time = Duration::from_secs(value()?.parse()?),
                "--rounds" => plan.rounds = value()?.parse()?,
                "--rested" => plan.is_rested = true,
                "--contended" => plan.contended_percent = value()?.parse()?,
                _ => plan.stores.push(argument),
            }
        }
        if plan.stores.is_empty() || plan.rounds == 0 || plan.time.is_zero() || plan.contended_percent > 100 {
            return Err("on which stores (embedded:DIRECTORY, fdb:CLUSTER_FILE), and for how long?".into());
        }
        Ok(plan)
    }

    fn print(&self, results: &[Vec<Measured>]) {
        println!(
            "| owners x batch | store | messages/s | ack p50 / p99 | CPU | its own thread | conflicts/s | lost |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for (load, results) in self.loads.iter().zip(results.chunks(self.stores.len())) {
            for (place, rounds) in self.stores.iter().zip(results) {
                let median = |of: fn(&Measured) -> f64| {
                    let mut values: Vec<f64> = rounds.iter().map(of).collect();
                    values.sort_by(f64::total_cmp);
                    values[values.len() / 2]
                };
                println!(
                    "| {} x {} | {} | {:.0} | {:.2} / {:.2} ms | {:.1} µs | {:.1} µs | {:.0} | {:.0} % |",
                    load.owners,
                    load.batch,
                    place.split(':').next().unwrap_or_default(),
                    median(|m| m.messages),
                    median(|m| m.p50_ms),
                    median(|m| m.p99_ms),
                    median(|m| m.cpu_micros),
                    median(|m| m.main_thread_micros),
                    median(|m| m.conflicts),
                    median(|m| m.lost_percent),
                );
            }
        }
    }
}

impl Load {
    fn read(text: &str) -> Result<Self, Box<dyn Error>> {
        let (owners, batch) = text.split_once('x').ok_or(format!("{text}: expected OWNERSxBATCH"))?;
        let load = Self { owners: owners.parse()?, batch: batch.parse()? };
        if load.owners == 0 || load.batch == 0 {
            Err(format!("{text}: nothing to do").into())
        } else {
            Ok(load)
        }
    }
}

async fn open(place: &str) -> Result<Arc<dyn Kv>, Box<dyn Error>> {
    match place.split_once(':') {
        Some(("embedded", directory)) => {
            let on_fatal = Box::new(|error: &_| panic!("{error}"));
            Ok(Arc::new(Embedded::open(Path::new(directory), Options::default(), on_fatal)?))
        }
        Some(("fdb", file)) => open_cluster(file).await,
        _ => Err(format!("{place}: expected embedded:DIRECTORY or fdb:CLUSTER_FILE").into()),
    }
}

#[cfg(feature = "client")]
async fn open_cluster(file: &str) -> Result<Arc<dyn Kv>, Box<dyn Error>> {
    let prefix = format!("tern-throughput/{:016x}/", getrandom::u64()?);
    Ok(Arc::new(tern_store_fdb::Fdb::open(Path::new(file), prefix.as_bytes()).await?))
}

#[cfg(not(feature = "client"))]
async fn open_cluster(_: &str) -> Result<Arc<dyn Kv>, Box<dyn Error>> {
    Err("this was built without --features client".into())
}

/// One store under one load.
#[derive(Clone, Copy)]
struct Measured {
    /// A second.
    messages: f64,
    /// From the batch to its acknowledgement, after as many attempts as it takes.
    p50_ms: f64,
    p99_ms: f64,
    /// Of this process, per message.
    cpu_micros: f64,
    /// The part of it that is not of the store's own threads.
    main_thread_micros: f64,
    /// A second.
    conflicts: f64,
    /// Of the owners' time: for attempts that came to nothing, and for loading what they had missed.
    lost_percent: f64,
}

async fn measure(kv: &dyn Kv, load: Load, plan: &Plan) -> Result<Measured, CommitError> {
    let contended = (load.owners * plan.contended_percent).div_ceil(100);
    let owners = (0..load.owners).map(|n| (n, 1)).chain((0..contended).map(|n| (n, 2)));
    let owners = try_join_all(owners.map(|(n, device)| Owner::new(kv, n, device))).await?;
    let (started, cpu, main_thread) = (Instant::now(), cpu_seconds("self"), cpu_seconds("thread-self"));
    let run = |owner: Owner| owner.run(kv, load.batch, plan.is_rested, started + plan.time);
    let count = owners.len() as f64;
    let runs = try_join_all(owners.into_iter().map(run)).await?;
    let elapsed = started.elapsed().as_secs_f64();
    let (cpu, main_thread) = (cpu_seconds("self") - cpu, cpu_seconds("thread-self") - main_thread);
    let mut latencies: Vec<Duration> = runs.iter().flat_map(|run| run.latencies.iter().copied()).collect();
    latencies.sort();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 100].as_secs_f64() * 1e3;
    let messages = latencies.len() as f64 * load.batch as f64;
    Ok(Measured {
        messages: messages / elapsed,
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_micros: cpu * 1e6 / messages,
        main_thread_micros: main_thread * 1e6 / messages,
        conflicts: runs.iter().map(|run| run.conflicts).sum::<u64>() as f64 / elapsed,
        lost_percent: runs.iter().map(|run| run.lost.as_secs_f64()).sum::<f64>() * 100.0 / elapsed / count,
    })
}

/// What this process, or this thread, has used so far, in steps of 10 ms; 0 where the system does not say it as Linux
/// does.
fn cpu_seconds(of: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).unwrap_or_default();
    // User and system time are the 12th and 13th behind the name, which is in parentheses.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Appends to one conversation, as one device.
struct Owner {
    conversation: ConversationId,
    sender: Sender,
    base: Base,
    window: SendWindow,
}

/// What an owner has done.
#[derive(Default)]
struct Run {
    latencies: Vec<Duration>,
    conflicts: u64,
    lost: Duration,
}

impl Owner {
    /// The owner of the `n`th conversation, which sends with this device.
    async fn new(kv: &dyn Kv, n: u64, device: u64) -> Result<Self, CommitError> {
        let (anna, ben) = (UserId::from_sub(&format!("anna {n}")), UserId::from_sub(&format!("ben {n}")));
        let sender = Sender { user: anna, device: DeviceId::new(device).expect("it is not 0") };
        Self::load(kv, ConversationId::direct(anna, ben), sender).await
    }

    async fn load(kv: &dyn Kv, conversation: ConversationId, sender: Sender) -> Result<Self, CommitError> {
        let (version, head, mut windows) = append::load_windows(kv, conversation, &[sender]).await?;
        let base = Base { head, version: Some(version) };
        Ok(Self { conversation, sender, base, window: windows.remove(0).map_err(CommitError::from)? })
    }

    async fn run(
        mut self,
        kv: &dyn Kv,
        entries: u64,
        is_rested: bool,
        until: Instant,
    ) -> Result<Run, CommitError> {
        let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
        let mut run = Run::default();
        let mut since = Instant::now();
        while since < until {
            let mut batch = self.batch(entries, &payload);
            if is_rested {
                batch.base.version = None;
            }
            let before = Instant::now();
            match append::commit(kv, &batch).await {
                Ok(version) => {
                    self.base = Base { head: batch.head, version: Some(version) };
                    self.window = batch.windows.remove(0).1;
                    run.latencies.push(since.elapsed());
                    since = Instant::now();
                }
                Err(CommitError::Conflict) if before < until => {
                    self = Self::load(kv, self.conversation, self.sender).await?;
                    run.conflicts += 1;
                    run.lost += before.elapsed();
                }
                Err(CommitError::Conflict) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(run)
    }

    fn batch(&self, entries: u64, payload: &Bytes) -> Batch {
        let base = self.base;
        let mut window = self.window.clone();
        let mut head = Head { floor: base.head.floor.max(Seq(1)), ..base.head };
        let mut encoded = Vec::new();
        for _ in 0..entries {
            let client_seq = ClientSeq(window.sends.last().map_or(0, |(client_seq, _)| client_seq.get()) + 1);
            head.last = head.last.next();
            head.time = WallMillis(head.last.get());
            let message =
                Message { content_type: "text/plain".to_owned(), payload: payload.clone(), reply_to: None };
            let change = Change::Message(message);
            let entry = Entry { seq: head.last, time: head.time, sender: self.sender, client_seq, change };
            encoded.push((head.last, encode_entry(&entry)));
            window.sends.push((client_seq, head.last));
        }
        let excess = window.sends.len().saturating_sub(SEND_WINDOW);
        window.sends.drain(..excess);
        let is_new = base.head == Head::default();
        Batch {
            conversation: self.conversation,
            base,
            entries: encoded,
            head,
            windows: vec![(self.sender, window)],
            members: Vec::new(),
            record: is_new.then(|| Conversation { kind: Kind::Direct, title: String::new() }),
        }
    }
}
