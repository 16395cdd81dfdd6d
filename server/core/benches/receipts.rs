//! What watermarks and memberships of a large group cost.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use tern_core::membership::{Members, permit};
use tern_core::receipts::Receipts;
use tern_protocol::ids::{DeviceId, Seq, UserId};
use tern_protocol::model::{Change, Conversation, Kind, Membership, Message, Role, Sender};

const MEMBERS: u64 = 1_000;
const SENDERS: u64 = 32;

fn user(n: u64) -> UserId {
    let spread = (u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    UserId::from_bytes(spread.to_be_bytes())
}

fn sender(n: u64) -> Sender {
    Sender { user: user(n), device: DeviceId::new(n + 1).expect("not 0") }
}

fn records() -> impl Iterator<Item = (UserId, Membership)> {
    let membership = Membership { role: Role::Member, joined: Seq(1), left: None };
    (0..MEMBERS).map(move |n| (user(n), membership))
}

/// Everybody has everything up to `to`, and has seen it.
fn mark_all(receipts: &mut Receipts, to: u64) {
    for n in 0..MEMBERS {
        receipts.mark(sender(n), Seq(to), Seq(to));
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut members = Members::new(records());

    let mut group = criterion.benchmark_group("receipts");
    let mut receipts = Receipts::default();
    let mut seq = 0;
    group.throughput(Throughput::Elements(MEMBERS));
    group.bench_function("1,000 members mark, all are told", |b| {
        b.iter(|| {
            for n in 0..SENDERS {
                seq += 1;
                receipts.on_message(user(n), Seq(seq));
            }
            mark_all(&mut receipts, seq);
            black_box(receipts.take_dirty());
            black_box(receipts.take_notices(Kind::Group, &mut members))
        });
    });
    group.bench_function("1,000 members mark again what is known", |b| {
        b.iter(|| mark_all(&mut receipts, seq));
    });
    group.throughput(Throughput::Elements(SENDERS));
    group.bench_function("one of 1,000 members marks, 32 senders are told", |b| {
        b.iter(|| {
            for n in 0..SENDERS {
                seq += 1;
                receipts.on_message(user(n), Seq(seq));
            }
            receipts.mark(sender(MEMBERS - 1), Seq(seq), Seq(0));
            black_box(receipts.take_dirty());
            black_box(receipts.take_notices(Kind::Group, &mut members))
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("membership");
    let conversation = Conversation { kind: Kind::Group, title: String::new() };
    group.bench_function("permit a message in 1,000 members", |b| {
        let payload = Bytes::from_static(&[7; 200]);
        let message = Change::Message(Message { content_type: "text/plain".into(), payload, reply_to: None });
        b.iter(|| permit(&conversation, &members, Seq(9), user(black_box(500)), message.clone()));
    });
    group.bench_function("audience of 1,000 members, anew", |b| {
        b.iter_batched_ref(|| Members::new(records()), Members::audience, BatchSize::SmallInput);
    });
    group.finish();
    criterion.final_summary();
}
