//! Messages a second through the embedded store: 64 conversations, each with an owner that appends one message after
//! the other, three keys a message (entry, head, window).
//!
//! `cargo run --release -p tern-store --example throughput -- DIRECTORY [SECONDS]`

use std::path::PathBuf;
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

const OWNERS: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let store =
        Arc::new(Embedded::open(&directory, Options::default(), Box::new(|error| panic!("{error}")))?);
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let mut latencies: Vec<Duration> = Vec::new();
    for owner in join_all((0..OWNERS).map(|n| own(&store, n as u8, until))).await {
        latencies.extend(owner?);
    }
    let elapsed = started.elapsed().as_secs_f64();
    latencies.sort();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 1_000];
    let metrics = store.metrics();
    println!(
        "{:.0} messages/s, p50 {:?}, p99 {:?}, max {:?}; {:.1} messages per fsync, {} bytes of keys and values per message",
        latencies.len() as f64 / elapsed,
        at(500),
        at(990),
        at(1_000),
        metrics.commits as f64 / metrics.groups as f64,
        metrics.bytes / metrics.commits,
    );
    Ok(())
}

/// One owner; how long each of its commits took.
async fn own(store: &Embedded, n: u8, until: Instant) -> Result<Vec<Duration>, tern_store::CommitError> {
    let (anna, ben) = (UserId::from_sub(&format!("anna {n}")), UserId::from_sub(&format!("ben {n}")));
    let conversation = ConversationId::direct(anna, ben);
    let sender = Sender { user: anna, device: DeviceId::new(1).expect("1 is not 0") };
    let payload = Bytes::from(vec![7; 160]);
    let (version, head, mut windows) = append::load_windows(store, conversation, &[sender]).await?;
    let mut base = Base { head, version: Some(version) };
    let mut window: SendWindow = windows.remove(0).map_err(tern_store::CommitError::from)?;
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let client_seq = ClientSeq(window.sends.last().map_or(0, |(client_seq, _)| client_seq.get()) + 1);
        let seq = base.head.last.next();
        let head = Head { last: seq, floor: base.head.floor.max(Seq(1)), time: WallMillis(seq.get()) };
        let message =
            Message { content_type: "text/plain".to_owned(), payload: payload.clone(), reply_to: None };
        let entry = Entry { seq, time: head.time, sender, client_seq, change: Change::Message(message) };
        window.sends.push((client_seq, seq));
        let excess = window.sends.len().saturating_sub(SEND_WINDOW);
        window.sends.drain(..excess);
        let new = base.head == Head::default();
        let batch = Batch {
            conversation,
            base,
            entries: vec![(seq, encode_entry(&entry))],
            head,
            windows: vec![(sender, window.clone())],
            members: Vec::new(),
            record: new.then(|| Conversation { kind: Kind::Direct, title: String::new() }),
        };
        let before = Instant::now();
        let version = append::commit(store, &batch).await?;
        latencies.push(before.elapsed());
        base = Base { head, version: Some(version) };
    }
    Ok(latencies)
}
