//! What the owner of a conversation spends on messages, from submit to what is to be published, without a store.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use tern_core::conversation::{Append, Effect, Owner, Stored, Version};
use tern_core::time::{MonoMillis, Now};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::model::{
    Change, Conversation, Head, Kind, Membership, Message, Role, SendWindow, Sender, WallMillis,
};

const NOW: Now = Now { mono: MonoMillis(1_000), wall: WallMillis(1_800_000_000_000) };

fn user(n: u32) -> UserId {
    let spread = (u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    UserId::from_bytes(spread.to_be_bytes())
}

fn sender(n: u32) -> Sender {
    Sender { user: user(n), device: DeviceId::new(u64::from(n) + 1).expect("not 0") }
}

/// An owner in the middle of its work: a commit is always in flight, and the messages of one round are the next one.
struct Busy {
    owner: Owner<u32>,
    senders: u32,
    client_seq: u64,
}

impl Busy {
    /// Of a group whose first `senders` members have sent enough to fill their windows.
    fn new(members: u32, senders: u32) -> Self {
        let membership = Membership { role: Role::Member, joined: Seq(1), left: None };
        let head = Head { last: Seq(1), floor: Seq(1), time: NOW.wall };
        let mut owner = Owner::new(ConversationId::from_bytes([0x42; 16]));
        owner.submit(NOW, append(0, 1));
        loop {
            match owner.poll_effect() {
                Some(Effect::Load { .. }) => {
                    let conversation = Conversation { kind: Kind::Group, title: "group".into() };
                    let members = (0..members).map(|n| (user(n), membership)).collect();
                    let stored = Stored { conversation, head, members, watermarks: Vec::new() };
                    owner.on_loaded(NOW, Ok((Version(1), Some(stored))));
                }
                Some(Effect::LoadWindows(_)) => {
                    let windows = (0..senders).map(|n| (sender(n), Ok(SendWindow::default()))).collect();
                    owner.on_windows(NOW, Ok((head, windows)));
                }
                Some(Effect::Commit(_)) => break,
                other => panic!("{other:?} before the first commit"),
            }
        }
        let mut this = Self { owner, senders, client_seq: 1 };
        for _ in 0..70 {
            this.round(senders as usize);
        }
        this
    }

    /// Takes in `messages`, learns that the commit in flight is durable, and does what follows from both. Returns how
    /// many sends were answered.
    fn round(&mut self, messages: usize) -> usize {
        for n in 0..messages as u32 {
            if n % self.senders == 0 {
                self.client_seq += 1;
            }
            self.owner.submit(NOW, append(n % self.senders, self.client_seq));
        }
        self.owner.on_committed(NOW, Ok(Version(1)));
        let mut answered = 0;
        while let Some(effect) = self.owner.poll_effect() {
            answered += usize::from(matches!(effect, Effect::Reply(_, Ok(_))));
            black_box(effect);
        }
        answered
    }
}

fn append(by: u32, client_seq: u64) -> Append<u32> {
    let payload = Bytes::from_static(&[7; 200]);
    let change = Change::Message(Message { content_type: "text/plain".into(), payload, reply_to: None });
    Append { ticket: by, sender: sender(by), peer: None, client_seq: ClientSeq(client_seq), change }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("owner");
    for (members, senders, messages) in [(2, 1, 1), (2, 1, 64), (1_000, 64, 64)] {
        let mut busy = Busy::new(members, senders);
        busy.round(messages);
        assert_eq!(busy.round(messages), messages);
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(format!("{messages} messages of {senders} of {members} members"), |b| {
            b.iter(|| busy.round(messages));
        });
    }
    group.finish();
    criterion.final_summary();
}
