//! Random interleavings of clients, faults and two servers that both believe that the conversation is theirs. The model
//! checks whatever lands, is answered or is published when it happens; the rest is checked at the end.

extern crate std;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use hashbrown::HashMap;
use tern_protocol::error::{Effect, ErrorCode};
use tern_protocol::ids::Seq;
use tern_protocol::model::{Change, Role, Sender};

use super::model::{Outcome, Pending, World, by, create, direct_id, group_id, message, user};

/// SplitMix64: a seed names a run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn percent(&mut self, p: usize) -> bool {
        self.below(100) < p
    }
}

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::eprintln!("the seed was {}", self.0);
        }
    }
}

const USERS: u8 = 5;
const STEPS: usize = 400;

struct Run {
    world: World,
    random: Random,
    group: bool,
    /// In percent.
    faults: usize,
    client_seqs: HashMap<Sender, u64>,
    /// Marks that were taken and ask for the store: server, ticket, whose, read.
    marks: Vec<(usize, usize, Sender, Seq)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let group = random.percent(75);
        let faults = [0, 10, 40][random.below(3)];
        let id = if group { group_id() } else { direct_id() };
        Self { world: World::new(id), random, group, faults, client_seqs: HashMap::new(), marks: Vec::new() }
    }

    fn sender(&mut self) -> Sender {
        let users = if self.group { USERS } else { 2 };
        by(self.random.below(users.into()) as u8 + 1, self.random.below(2) as u64 + 1)
    }

    fn change(&mut self, n: u64) -> Change {
        let member = user(self.random.below(USERS.into()) as u8 + 1);
        if self.group && self.world.store.log.is_empty() {
            return create(&[2, 3, 4][..self.random.below(4)]);
        }
        if !self.group || self.random.percent(75) {
            let payload = if self.random.percent(5) { 40_000 } else { 10 };
            return message(alloc::vec![n as u8; payload]);
        }
        match self.random.below(8) {
            0 => Change::Leave,
            1 => Change::Title { title: format!("{n}") },
            2 | 3 => Change::Remove { member },
            4 => {
                Change::Role { member, role: [Role::Member, Role::Admin, Role::Owner][self.random.below(3)] }
            }
            _ => Change::Add { members: [member].into() },
        }
    }

    fn new_send(&mut self, node: usize, sender: Sender) {
        let skip = u64::from(self.random.percent(10));
        let next = self.client_seqs.entry(sender).or_default();
        *next += 1 + skip;
        let client_seq = *next;
        let change = self.change(client_seq);
        self.world.submit(node, sender, client_seq, change);
    }

    fn resend(&mut self, node: usize) {
        if self.world.asks.is_empty() {
            return;
        }
        // Often a late one: the very first sends are beyond the windows by then.
        let among = if self.random.percent(30) { 10 } else { usize::MAX };
        let ask = &self.world.asks[self.random.below(self.world.asks.len().min(among))];
        let (sender, peer, client_seq, change) =
            (ask.sender, ask.peer, ask.client_seq.get(), ask.change.clone());
        self.world.submit_to(node, sender, peer, client_seq, change);
    }

    fn mark(&mut self, node: usize) {
        let (sender, head) = (self.sender(), self.world.store.log.len());
        let delivered = self.random.below(head + 2) as u64;
        let read = if self.random.percent(50) { self.random.below(head + 2) as u64 } else { 0 };
        let ticket = self.world.mark(node, sender, delivered, read);
        self.marks.push((node, ticket, sender, Seq(read)));
    }

    fn step(&mut self) {
        let node = self.random.below(2);
        match self.random.below(100) {
            0..30 => {
                let sender = self.sender();
                self.new_send(node, sender);
            }
            30 => {
                // More than a window from one device.
                let sender = self.sender();
                let n = self.random.below(100);
                (0..n).for_each(|_| self.new_send(node, sender));
            }
            31..40 => self.resend(node),
            40..47 => self.mark(node),
            47 => {
                self.world.land_late();
            }
            48 => {
                if self.random.percent(20) {
                    self.world.restart(node);
                    self.marks.retain(|(at, ..)| *at != node);
                }
            }
            49..52 => {
                let ms = self.random.below(2_000) as u64;
                self.world.pass(ms);
                if self.random.percent(20) {
                    self.world.now.wall.0 = self.world.now.wall.0.saturating_sub(5_000);
                }
            }
            52..54 => {
                let dirty = self.world.nodes[node].owner.take_dirty();
                if self.random.percent(30) {
                    self.world.nodes[node].owner.put_back_dirty(&dirty);
                } else {
                    self.world.store.persist(&dirty);
                }
            }
            54..56 => {
                let now = self.world.now;
                let (notices, again) = self.world.nodes[node].owner.take_notices(now);
                assert!(again.is_none_or(|at| notices.is_empty() && at > now.mono));
                for of in notices.iter().flat_map(|notice| &notice.users) {
                    assert!(of.read <= of.delivered && of.delivered <= self.world.store.head.last);
                }
            }
            _ => {
                let under_way = self.world.nodes[node].pending.len();
                if under_way > 0 {
                    let index = self.random.below(under_way);
                    let outcome = self.outcome(node, index);
                    self.world.step_as(node, index, outcome);
                }
            }
        }
    }

    fn outcome(&mut self, node: usize, index: usize) -> Outcome {
        use Outcome::*;
        if !self.random.percent(self.faults) {
            return Lands;
        }
        match self.world.nodes[node].pending[index] {
            Pending::Commit { .. } => {
                let all = [
                    Conflict,
                    UnknownLanded,
                    UnknownLost,
                    UnknownLate,
                    Unavailable,
                    FailedLanded,
                    FailedLost,
                ];
                all[self.random.below(all.len())]
            }
            _ if self.random.percent(30) => Unavailable,
            _ => Lands,
        }
    }

    fn finish(&mut self) {
        for node in [0, 1] {
            self.world.run(node);
        }
        self.world.land_late();
        for node in [0, 1] {
            // Loads, so that notices can be told.
            self.world.mark(node, by(1, 1), 0, 0);
            self.world.run(node);
            self.world.pass(1_000);
            let now = self.world.now;
            let owner = &mut self.world.nodes[node].owner;
            owner.take_notices(now);
            assert_eq!(owner.is_dirty(), !self.world.persist(node).is_empty());
            assert!(self.world.nodes[node].owner.is_idle(), "nothing is left and it is not idle");
        }
        self.check_sends();
        for (node, ticket, sender, read) in &self.marks {
            if let Some((Ok(()), durable)) = self.world.marked(*node, *ticket) {
                assert_eq!(durable, *read > Seq(0));
                let marks = self.world.store.watermarks.get(&sender.user).copied().unwrap_or_default();
                assert!(!durable || marks.read >= *read, "a mark was answered and is not kept");
            }
        }
    }

    fn check_sends(&self) {
        let store = &self.world.store;
        assert!(store.log.iter().map(|entry| entry.seq.get()).eq(1..=store.head.last.get()), "dense");
        // Of each send: all its answers, and when it was first asked for and first acknowledged.
        let mut sends: HashMap<_, (Vec<Option<ErrorCode>>, u64, u64)> = HashMap::new();
        for ask in &self.world.asks {
            let send = sends.entry((ask.sender, ask.client_seq)).or_insert((Vec::new(), u64::MAX, u64::MAX));
            send.1 = send.1.min(ask.asked);
            match ask.answer {
                Some((at, Ok(ok))) => {
                    assert_eq!(store.find(ask.sender, ask.client_seq).map(|e| e.seq), Some(ok.seq));
                    send.2 = send.2.min(at);
                }
                Some((_, Err(code))) => send.0.push(Some(code)),
                // A server that stopped did not answer.
                None => send.0.push(None),
            }
        }
        let mut acked: BTreeMap<u64, Seq> = BTreeMap::new();
        for ((sender, client_seq), (answers, _, at)) in &sends {
            let entry = store.find(*sender, *client_seq);
            let no_effect = |answer: &Option<ErrorCode>| answer.is_some_and(|c| c.effect() == Effect::None);
            assert!(
                entry.is_none() || *at < u64::MAX || !answers.iter().all(no_effect),
                "stored, and the client was told that nothing was: {answers:?}"
            );
            let stale = answers.contains(&Some(ErrorCode::ClientSeqStale));
            assert!(entry.is_none() || !stale, "stored, and called never stored");
            if let Some(entry) = entry.filter(|_| *at < u64::MAX) {
                acked.insert(*at, entry.seq);
            }
        }
        for entry in &store.log {
            let (_, asked, _) = sends[&(entry.sender, entry.client_seq)];
            let earlier = acked.range(..asked).map(|(_, seq)| *seq).max();
            assert!(earlier < Some(entry.seq), "acknowledged before {} was sent, and behind it", entry.seq);
        }
    }
}

#[test]
fn whatever_happens_the_log_is_right() {
    let (mut entries, mut duplicates, mut finds) = (0, 0, 0);
    for seed in 0..300 {
        let name = Seed(seed);
        let mut run = Run::new(seed);
        (0..STEPS).for_each(|_| run.step());
        run.finish();
        drop(name);
        entries += run.world.store.log.len();
        duplicates +=
            run.world.asks.iter().filter(|a| matches!(a.answer, Some((_, Ok(ok))) if ok.duplicate)).count();
        finds += run.world.nodes.iter().map(|node| node.finds).sum::<usize>();
    }
    // The runs do what they are for.
    assert!(entries > 10_000 && duplicates > 1_000 && finds > 1_000, "{entries} {duplicates} {finds}");
}
