//! What an append costs above the store: keys, records, the transaction, and the model in memory below it.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use futures_util::FutureExt;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Head, SendWindow, Sender, WallMillis};
use tern_store::keys::head::HeadKey;
use tern_store::memory::Memory;
use tern_store::ops::append::{Base, Batch, commit};
use tern_store::{Kv, Version, records};

const CONVERSATION: ConversationId = ConversationId::from_bytes([0x42; 16]);
const TIME: WallMillis = WallMillis(1_800_000_000_000);
const BASE: Head = Head { last: Seq(1_000), floor: Seq(1), time: TIME };

/// The first `entries` after a log's first thousand, all from one device, whose window is full.
fn batch(entries: u64) -> Batch {
    let entry = Bytes::from_static(&[7; 260]);
    let last = BASE.last.get() + entries;
    let window = (last + 1 - SEND_WINDOW as u64..=last).map(|n| (ClientSeq(n), Seq(n))).collect();
    let sender = Sender { user: UserId::from_bytes([0x17; 16]), device: DeviceId::new(1).expect("not 0") };
    Batch {
        conversation: CONVERSATION,
        base: Base { head: BASE, version: None },
        entries: (1..=entries).map(|n| (Seq(BASE.last.get() + n), entry.clone())).collect(),
        head: Head { last: Seq(last), ..BASE },
        windows: vec![(sender, SendWindow { sends: window })],
        members: Vec::new(),
        record: None,
    }
}

/// A store with a log's head, and the version at which that is the head.
fn store() -> (Memory, Version) {
    let store = Memory::new();
    let key = HeadKey { conversation: CONVERSATION };
    let mut transaction = store.begin();
    transaction.set(&key.encode(), records::head::encode(&key, &BASE));
    let version = transaction.commit().now_or_never().expect("ready").expect("no conflict");
    (store, version)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("append");
    for entries in [1, 16, 256] {
        let mut batch = batch(entries);
        group.throughput(Throughput::Elements(entries));
        group.bench_function(format!("commit of {entries} to memory"), |b| {
            b.iter_batched_ref(
                store,
                |(store, version)| {
                    batch.base.version = Some(*version);
                    commit(store, &batch).now_or_never().expect("ready").expect("no conflict")
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    criterion.final_summary();
}
