//! Messages a second through a store: conversations, each with an owner that appends one batch after the other, three
//! keys a message (entry, head, window), of which a batch has the latter two once.
//!
//! `cargo run --release -p tern-store-fdb [--features client] --example throughput -- STORE [OWNERS [BATCH [SECONDS]]]`,
//! where STORE is `embedded:DIRECTORY`, or with the feature `fdb:CLUSTER_FILE`. In a cluster it works under a prefix of
//! its own, which it clears in the end.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tern_protocol::convert::encode_entry;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{
    Change, Conversation, Entry, Head, Kind, Message, SendWindow, Sender, WallMillis,
};
use tern_store::embedded::{Embedded, Options};
use tern_store::ops::append::{self, Base, Batch};
use tern_store::{CommitError, Kv};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let store = arguments.next().ok_or("which store? embedded:DIRECTORY or fdb:CLUSTER_FILE")?;
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (owners, batch, seconds) = (number(64)?, number(1)?, number(5)?);
    match store.split_once(':') {
        Some(("embedded", directory)) => {
            let on_fatal = Box::new(|error: &_| panic!("{error}"));
            let store = Arc::new(Embedded::open(Path::new(directory), Options::default(), on_fatal)?);
            measure(store.clone(), owners, batch, seconds).await?;
            let metrics = store.metrics();
            println!(
                "{:.1} commits per fsync, {} bytes of keys and values per commit",
                metrics.commits as f64 / metrics.groups as f64,
                metrics.bytes / metrics.commits,
            );
            Ok(())
        }
        Some(("fdb", file)) => on_cluster(file, owners, batch, seconds).await,
        _ => Err(format!("{store}: expected embedded:DIRECTORY or fdb:CLUSTER_FILE").into()),
    }
}

#[cfg(feature = "client")]
async fn on_cluster(file: &str, owners: u64, batch: u64, seconds: u64) -> Result<(), Box<dyn Error>> {
    let prefix = format!("tern-throughput/{:016x}/", getrandom::u64()?);
    let store = Arc::new(tern_store_fdb::Fdb::open(Path::new(file), prefix.as_bytes()).await?);
    let measured = measure(store.clone(), owners, batch, seconds).await;
    let mut tidy = store.begin();
    tidy.clear_range(&[], &[0xFF]);
    tidy.commit().await?;
    measured
}

#[cfg(not(feature = "client"))]
async fn on_cluster(_: &str, _: u64, _: u64, _: u64) -> Result<(), Box<dyn Error>> {
    Err("this was built without --features client".into())
}

async fn measure(kv: Arc<dyn Kv>, owners: u64, batch: u64, seconds: u64) -> Result<(), Box<dyn Error>> {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let until = started + Duration::from_secs(seconds);
    let mut latencies: Vec<Duration> = Vec::new();
    for owner in join_all((0..owners).map(|n| own(&*kv, n, batch, until))).await {
        latencies.extend(owner?);
    }
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    latencies.sort();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 1_000];
    let messages = latencies.len() as f64 * batch as f64;
    println!(
        "{owners} owners x {batch} messages: {:.0} messages/s, commit p50 {:.1?}, p99 {:.1?}, max {:.1?}, {:.1} µs of this \
         process's CPU per message",
        messages / elapsed,
        at(500),
        at(990),
        at(1_000),
        cpu * 1e6 / messages,
    );
    Ok(())
}

/// What this process has used so far, in steps of 10 ms; 0 where the system does not say it as Linux does.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // User and system time are the 12th and 13th behind the name, which is in parentheses.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// One owner; how long each of its commits took.
async fn own(kv: &dyn Kv, n: u64, entries: u64, until: Instant) -> Result<Vec<Duration>, CommitError> {
    let (anna, ben) = (UserId::from_sub(&format!("anna {n}")), UserId::from_sub(&format!("ben {n}")));
    let conversation = ConversationId::direct(anna, ben);
    let sender = Sender { user: anna, device: DeviceId::new(1).expect("1 is not 0") };
    let payload = Bytes::from(vec![7; 160]);
    let (version, head, mut windows) = append::load_windows(kv, conversation, &[sender]).await?;
    let mut base = Base { head, version: Some(version) };
    let mut window: SendWindow = windows.remove(0).map_err(CommitError::from)?;
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let mut head = Head { floor: base.head.floor.max(Seq(1)), ..base.head };
        let mut encoded = Vec::new();
        for _ in 0..entries {
            let client_seq = ClientSeq(window.sends.last().map_or(0, |(client_seq, _)| client_seq.get()) + 1);
            head.last = head.last.next();
            head.time = WallMillis(head.last.get());
            let message =
                Message { content_type: "text/plain".to_owned(), payload: payload.clone(), reply_to: None };
            let change = Change::Message(message);
            let entry = Entry { seq: head.last, time: head.time, sender, client_seq, change };
            encoded.push((head.last, encode_entry(&entry)));
            window.sends.push((client_seq, head.last));
        }
        let excess = window.sends.len().saturating_sub(SEND_WINDOW);
        window.sends.drain(..excess);
        let new = base.head == Head::default();
        let batch = Batch {
            conversation,
            base,
            entries: encoded,
            head,
            windows: vec![(sender, window.clone())],
            members: Vec::new(),
            record: new.then(|| Conversation { kind: Kind::Direct, title: String::new() }),
        };
        let before = Instant::now();
        let version = append::commit(kv, &batch).await?;
        latencies.push(before.elapsed());
        base = Base { head, version: Some(version) };
    }
    Ok(latencies)
}
