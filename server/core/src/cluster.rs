//! Which nodes there are. Each writes a lease to the store every [`BEAT_MS`] and reads all others'; one whose beat has stood
//! still for [`LEASE_MS`] by the reader's own clock is dead. No two clocks are compared, and nobody decides for others:
//! for a moment two nodes may see different ones, which costs a conflict and no more, since ownership is a hint.
//!
//! A node that cannot write its own lease for as long is dead for the others, and knows it: it is cut off. When the others say that
//! they cannot either, it is the store that is silent, and nobody is better off elsewhere.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use tern_protocol::ids::NodeId;

use crate::time::MonoMillis;

/// Between two beats of a node.
pub const BEAT_MS: u64 = 1_000;
/// A beat that has stood still for so long is that of a dead node.
pub const LEASE_MS: u64 = 5_000;
/// The lease of a node that has been dead for so long is taken out of the store, by whoever notices first.
pub const FORGET_MS: u64 = 60_000;
/// Who has not read the leases for so long does not know how old they are.
const UNREAD_MS: u64 = 3 * BEAT_MS;
/// Of nodes that reach the store as well as each other, none has beaten so much later than another.
const SPREAD_MS: u64 = 3 * BEAT_MS;
/// A store that answers again answers all nodes by then: one that is silent for this one only, while others beat, has cut it off.
const PROOF_MS: u64 = 3 * BEAT_MS;
/// Nodes of a cluster.
pub const NODES_MAX: usize = 128;

const _: () = assert!(BEAT_MS * 3 < LEASE_MS, "a beat or two may be late");
const _: () = assert!(LEASE_MS < FORGET_MS);
const _: () =
    assert!(UNREAD_MS + BEAT_MS < LEASE_MS, "who lived when the leases were last read is not taken for dead");

/// How a node stands with its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It writes its lease.
    Reached,
    /// It cannot, and neither can any other node.
    Silent,
    /// It cannot, and others can, or may. For them it is dead, or is about to be.
    CutOff,
}

/// What the others look at in a node's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub node: NodeId,
    /// Rises with each time that it is written.
    pub beat: u64,
    /// It is about to leave, and owns nothing any more.
    pub draining: bool,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    beat: u64,
    since: MonoMillis,
    draining: bool,
    /// It is in the store.
    there: bool,
}

/// The leases of all nodes, as one of them sees them.
#[derive(Debug)]
pub struct Leases {
    me: NodeId,
    draining: bool,
    others: BTreeMap<NodeId, Seen>,
    /// When the beat that was written last had been begun.
    beaten: MonoMillis,
    /// When the leases were last read.
    read: MonoMillis,
    /// Since when it is known that others have beaten after this node had stopped to.
    outdone: Option<MonoMillis>,
}

/// The nodes that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive {
    /// All, in the order of their ids; this one is always among them.
    pub nodes: Vec<NodeId>,
    /// Those that own something; never empty.
    pub owners: Vec<NodeId>,
}

impl Leases {
    /// A node that begins now.
    pub fn new(me: NodeId, now: MonoMillis) -> Self {
        Self { me, draining: false, others: BTreeMap::new(), beaten: now, read: now, outdone: None }
    }

    /// This node is about to leave.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The beat that was begun at `begun` is in the store, and these leases were read with it.
    pub fn on_beat(&mut self, begun: MonoMillis, now: MonoMillis, leases: impl IntoIterator<Item = Lease>) {
        let judged = self.judged(now);
        if judged < now {
            // Nobody has looked: who lived has time to beat. Not all of it, so that who is dead is found out even by a node that
            // reads the leases only now and then.
            let begun = MonoMillis(now.0.saturating_sub(LEASE_MS - UNREAD_MS));
            let lived = self.others.values_mut().filter(|seen| judged.since(seen.since) < LEASE_MS);
            lived.for_each(|seen| seen.since = seen.since.max(begun));
        }
        self.beaten = self.beaten.max(begun);
        (self.read, self.outdone) = (now, None);
        self.others.values_mut().for_each(|seen| seen.there = false);
        for Lease { node, beat, draining } in leases {
            if node == self.me || (self.others.len() >= NODES_MAX && !self.others.contains_key(&node)) {
                continue;
            }
            let seen = self.others.entry(node).or_insert(Seen { beat, since: now, draining, there: true });
            if seen.beat != beat {
                (seen.beat, seen.since) = (beat, now);
            }
            (seen.draining, seen.there) = (draining, true);
        }
        // What has been taken out of the store has left.
        self.others.retain(|_, seen| seen.there);
    }

    /// When this node's last beat was begun.
    pub fn beaten(&self) -> MonoMillis {
        self.beaten
    }

    /// Another node says that it has last beaten then, by this node's clock.
    pub fn on_told(&mut self, now: MonoMillis, beaten: MonoMillis) {
        if beaten.since(self.beaten) >= SPREAD_MS {
            self.outdone.get_or_insert(now);
        }
    }

    /// How this node stands with its store. `hears_all`: there are others, and each says when it has
    /// last beaten.
    pub fn reach(&self, now: MonoMillis, hears_all: bool) -> Reach {
        let is_outdone = self.outdone.is_some_and(|since| now.since(since) >= PROOF_MS);
        if now.since(self.beaten) < LEASE_MS {
            Reach::Reached
        } else if hears_all && !is_outdone {
            Reach::Silent
        } else {
            Reach::CutOff
        }
    }

    /// The time by which leases are judged: what has not been looked at is not held against anybody.
    fn judged(&self, now: MonoMillis) -> MonoMillis {
        now.min(self.read.plus(UNREAD_MS))
    }

    /// Who is there.
    pub fn alive(&self, now: MonoMillis) -> Alive {
        let now = self.judged(now);
        let alive = self.others.iter().filter(|(_, seen)| now.since(seen.since) < LEASE_MS);
        let mut nodes: Vec<_> = alive.clone().map(|(node, _)| *node).collect();
        let mut owners: Vec<_> = alive.filter(|(_, seen)| !seen.draining).map(|(node, _)| *node).collect();
        nodes.push(self.me);
        nodes.sort_unstable();
        // Somebody has to own, even when all are leaving.
        if !self.draining || owners.is_empty() {
            owners.push(self.me);
            owners.sort_unstable();
        }
        Alive { nodes, owners }
    }

    /// Whether a node that is not there any more has gone without a word: its lease is still in the store.
    pub fn is_dead(&self, node: NodeId, now: MonoMillis) -> bool {
        self.others.get(&node).is_some_and(|seen| self.judged(now).since(seen.since) >= LEASE_MS)
    }

    /// When the beat of another node has last been seen to move.
    pub fn moved(&self, node: NodeId) -> Option<MonoMillis> {
        self.others.get(&node).map(|seen| seen.since)
    }

    /// Leases to be taken out of the store, with the beats at which they have stood still.
    pub fn forgotten(&self, now: MonoMillis) -> Vec<(NodeId, u64)> {
        let now = self.judged(now);
        let forgotten = self.others.iter().filter(|(_, seen)| now.since(seen.since) >= FORGET_MS);
        forgotten.map(|(node, seen)| (*node, seen.beat)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(5);

    fn lease(node: u64, beat: u64) -> Lease {
        Lease { node: NodeId(node), beat, draining: false }
    }

    fn at(ms: u64) -> MonoMillis {
        MonoMillis(ms)
    }

    fn nodes(alive: &Alive) -> (Vec<u64>, Vec<u64>) {
        let plain = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        (plain(&alive.nodes), plain(&alive.owners))
    }

    #[test]
    fn a_node_lives_while_its_beat_moves() {
        let mut leases = Leases::new(ME, at(0));
        assert_eq!(nodes(&leases.alive(at(0))), ([5].into(), [5].into()));
        leases.on_beat(at(0), at(10), [lease(5, 1), lease(9, 100), lease(2, 7)]);
        assert_eq!(nodes(&leases.alive(at(10))), ([2, 5, 9].into(), [2, 5, 9].into()));
        // 2 beats on, 9 does not; what its number is does not matter, only that it changes.
        leases.on_beat(at(2_000), at(2_010), [lease(9, 100), lease(2, 8)]);
        leases.on_beat(at(4_000), at(4_010), [lease(9, 100), lease(2, 3)]);
        assert_eq!(nodes(&leases.alive(at(5_009))).0, [2, 5, 9]);
        assert!(!leases.is_dead(NodeId(9), at(5_009)));
        assert_eq!(nodes(&leases.alive(at(5_010))).0, [2, 5]);
        assert!(leases.is_dead(NodeId(9), at(5_010)));
        // It was only slow.
        leases.on_beat(at(6_000), at(6_000), [lease(9, 101), lease(2, 4)]);
        assert_eq!(nodes(&leases.alive(at(6_000))).0, [2, 5, 9]);
        // One that leaves takes its lease along.
        leases.on_beat(at(7_000), at(7_000), [lease(9, 102)]);
        assert_eq!(nodes(&leases.alive(at(7_000))).0, [5, 9]);
        assert!(!leases.is_dead(NodeId(2), at(7_000)));
    }

    #[test]
    fn what_drains_owns_nothing() {
        let mut leases = Leases::new(ME, at(0));
        let draining = Lease { draining: true, ..lease(9, 1) };
        leases.on_beat(at(0), at(0), [draining, lease(2, 1)]);
        assert_eq!(nodes(&leases.alive(at(0))), ([2, 5, 9].into(), [2, 5].into()));
        leases.drain();
        assert_eq!(nodes(&leases.alive(at(0))), ([2, 5, 9].into(), [2].into()));
        leases.on_beat(at(0), at(0), [draining]);
        assert_eq!(nodes(&leases.alive(at(0))), ([5, 9].into(), [5].into()), "somebody has to");
    }

    #[test]
    fn a_node_that_hears_nobody_knows_that_it_is_cut_off_before_the_others_do() {
        let mut leases = Leases::new(ME, at(0));
        // The store has taken 800 ms: whoever read it early has seen it from then on.
        leases.on_beat(at(1_000), at(1_800), []);
        assert_eq!(leases.reach(at(1_000 + LEASE_MS - 1), false), Reach::Reached);
        assert_eq!(leases.reach(at(1_000 + LEASE_MS), false), Reach::CutOff);
        leases.on_beat(at(7_000), at(7_000), []);
        assert_eq!(leases.reach(at(7_000), false), Reach::Reached);
    }

    #[test]
    fn a_store_that_answers_nobody_is_told_from_one_that_others_reach() {
        let mut leases = Leases::new(ME, at(0));
        leases.on_beat(at(10_000), at(10_000), [lease(9, 1)]);
        // The other one has beaten a little later, and that was its last.
        for now in [11_000, 13_000, 15_000, 60_000] {
            leases.on_told(at(now), at(10_000 + SPREAD_MS - 1));
        }
        assert_eq!(leases.reach(at(10_000 + LEASE_MS), true), Reach::Silent);
        assert_eq!(leases.reach(at(60_000), true), Reach::Silent);
        assert_eq!(nodes(&leases.alive(at(60_000))).0, [5, 9], "nobody has looked whether it lives");
        assert_eq!(leases.reach(at(60_000), false), Reach::CutOff, "who knows?");
        // It answers again, the other one first.
        leases.on_told(at(60_100), at(60_000));
        assert_eq!(leases.reach(at(60_100 + PROOF_MS - 1), true), Reach::Silent);
        assert_eq!(leases.reach(at(60_100 + PROOF_MS), true), Reach::CutOff);
        leases.on_beat(at(62_000), at(62_000), [lease(9, 1)]);
        assert_eq!(leases.reach(at(62_000), true), Reach::Reached);
        // The other one has not beaten where it could be seen, and has some time for it.
        leases.on_beat(at(64_000), at(64_000), [lease(9, 1)]);
        assert_eq!(nodes(&leases.alive(at(62_000 + UNREAD_MS - 1))).0, [5, 9]);
        assert_eq!(nodes(&leases.alive(at(62_000 + UNREAD_MS))).0, [5]);
        leases.on_beat(at(66_000), at(66_000), [lease(9, 2)]);
        // Looked at only now and then, the dead are found out all the same.
        for now in [70_000, 74_000] {
            leases.on_beat(at(now), at(now), [lease(9, 2)]);
        }
        assert_eq!(nodes(&leases.alive(at(74_000))).0, [5]);
        // Who is dead already stays so, whoever has looked.
        leases.on_beat(at(90_000), at(90_000), [lease(9, 2)]);
        assert_eq!(nodes(&leases.alive(at(90_000))).0, [5]);
    }

    #[test]
    fn the_dead_are_forgotten_and_the_number_of_nodes_is_bounded() {
        let mut leases = Leases::new(ME, at(0));
        for now in (0..FORGET_MS).step_by(BEAT_MS as usize).map(at) {
            leases.on_beat(now, now, [lease(9, 1)]);
        }
        assert_eq!(leases.forgotten(at(FORGET_MS - 1)), []);
        assert_eq!(leases.forgotten(at(FORGET_MS)), [(NodeId(9), 1)]);
        leases.on_beat(at(0), at(0), (0..1_000).map(|n| lease(n, 1)));
        assert_eq!(leases.alive(at(0)).nodes.len(), NODES_MAX + 1);
    }
}
