//! What keys and records cost to encode and decode.

use std::hint::black_box;

use bytes::Bytes;
use criterion::Criterion;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::SEND_WINDOW;
use tern_protocol::model::{Head, SendWindow, WallMillis};
use tern_store::keys::entry::EntryKey;
use tern_store::keys::head::HeadKey;
use tern_store::keys::window::WindowKey;
use tern_store::records;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let conversation = ConversationId::from_bytes([0x42; 16]);
    let entry = EntryKey { conversation, seq: Seq(1_000_000) };
    let head = HeadKey { conversation };
    let device = DeviceId::new(0x1234_5678_9abc_def0).expect("not 0");
    let window = WindowKey { conversation, user: UserId::from_bytes([0x17; 16]), device };

    let mut group = criterion.benchmark_group("key");
    group.bench_function("encode entry", |b| b.iter(|| black_box(entry).encode()));
    group.bench_function("encode window", |b| b.iter(|| black_box(window).encode()));
    let (entry_bytes, window_bytes) = (entry.encode(), window.encode());
    group.bench_function("decode entry", |b| b.iter(|| EntryKey::decode(black_box(&entry_bytes))));
    group.bench_function("decode window", |b| b.iter(|| WindowKey::decode(black_box(&window_bytes))));
    group.finish();

    let mut group = criterion.benchmark_group("record");
    let body = [7; 260];
    let sealed: Bytes = records::entry::encode(&entry, &body);
    group.bench_function("encode entry of 260 B", |b| {
        b.iter(|| records::entry::encode(&entry, black_box(&body)));
    });
    group.bench_function("decode entry of 260 B", |b| {
        b.iter(|| records::entry::decode(&entry, black_box(&sealed)));
    });
    let stands = Head { last: Seq(1_000_000), floor: Seq(1), time: WallMillis(1_800_000_000_000) };
    group.bench_function("encode head", |b| b.iter(|| records::head::encode(&head, black_box(&stands))));
    let sends = (1..=SEND_WINDOW as u64).map(|n| (ClientSeq(70_000 + n), Seq(1_000_000 + 3 * n))).collect();
    let full = SendWindow { sends };
    let sealed = records::window::encode(&window, &full);
    group.bench_function("encode window of 64", |b| {
        b.iter(|| records::window::encode(&window, black_box(&full)));
    });
    group.bench_function("decode window of 64", |b| {
        b.iter(|| records::window::decode(&window, black_box(&sealed)));
    });
    group.finish();
    criterion.final_summary();
}
