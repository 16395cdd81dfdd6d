//! What it costs to bring one entry to everybody in a group, and to take it out of their queues again.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use tern_core::fanout::Local;
use tern_core::outbound::{Outbound, Pushed};
use tern_protocol::ids::{ConversationId, Seq, UserId};

const MEMBERS: usize = 1_000;

/// Random-looking, as ids are.
fn user(n: usize) -> UserId {
    let spread = (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    UserId::from_bytes(spread.to_be_bytes())
}

type Conn = Rc<RefCell<Outbound>>;

struct Key(Conn);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// A shard with so many users online.
fn shard(users: usize) -> (Local<Key>, Vec<Conn>) {
    let mut local = Local::default();
    let conns: Vec<Conn> = (0..users).map(|_| Conn::default()).collect();
    for (n, conn) in conns.iter().enumerate() {
        local.insert(user(n), Key(conn.clone()));
    }
    (local, conns)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let conversation = ConversationId::from_bytes([0x42; 16]);
    let frame = Bytes::from_static(&[7; 300]);
    let mut audience: Vec<UserId> = (0..MEMBERS).map(user).collect();
    audience.sort_unstable();

    let mut group = criterion.benchmark_group("fanout");
    group.throughput(Throughput::Elements(MEMBERS as u64));
    // More users than members, and fewer: the two ways of walking.
    for online in [500, 1_000, 20_000] {
        let (local, conns) = shard(online);
        group.bench_function(format!("1 entry to 1,000 members, {online} users online"), |b| {
            b.iter(|| {
                local.each(&audience, |conn| {
                    let pushed = conn.0.borrow_mut().push(conversation, Seq(1), frame.clone());
                    assert_eq!(pushed, Pushed::Queued);
                });
                for conn in &conns[..MEMBERS.min(online)] {
                    assert!(black_box(conn.borrow_mut().pop()).is_some());
                }
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("outbound");
    group.throughput(Throughput::Elements(1));
    let mut outbound = Outbound::default();
    group.bench_function("push and pop", |b| {
        b.iter(|| {
            outbound.push(conversation, Seq(1), frame.clone());
            black_box(outbound.pop())
        });
    });
    group.finish();
    criterion.final_summary();
}
