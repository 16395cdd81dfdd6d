//! Which node, and there which shard, owns a conversation, and which one is a user's home: a hash to a slot, and rendezvous
//! hashing of the slot over the nodes or shards, so that another number of them moves as few slots as possible.
//! Ownership is a hint: the transaction on the head decides.

use alloc::vec::Vec;

use tern_protocol::ids::{ConversationId, NodeId, UserId};

use crate::limits::SLOTS;

/// A shard of this node: 0 to N - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The plain number, an index.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// A part of the space of conversations and users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

/// What slots are spread over.
pub trait Owns: Copy {
    /// A number that no other one has.
    fn number(self) -> u64;
}

impl Owns for ShardId {
    fn number(self) -> u64 {
        u64::from(self.0)
    }
}

impl Owns for NodeId {
    fn number(self) -> u64 {
        self.0
    }
}

/// Slot to owner: the shards of a node, or the nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMap<O> {
    owners: Vec<O>,
}

impl<O: Owns> SlotMap<O> {
    /// Spreads all slots over these, whatever their order.
    ///
    /// # Panics
    /// When there are none.
    pub fn new(owners: impl Iterator<Item = O> + Clone) -> Self {
        let best = |slot: u16| {
            let weight = |owner: &O| (mix(mix(u64::from(slot)) ^ owner.number()), owner.number());
            owners.clone().max_by_key(weight).expect("somebody owns every slot")
        };
        Self { owners: (0..SLOTS).map(best).collect() }
    }

    /// The owner of a conversation.
    pub fn owner(&self, id: ConversationId) -> O {
        self.of(slot(id.as_bytes()))
    }

    /// The home of a user.
    pub fn home(&self, id: UserId) -> O {
        self.of(slot(id.as_bytes()))
    }

    fn of(&self, slot: Slot) -> O {
        self.owners[usize::from(slot.0)]
    }

    /// Whether this owner has any.
    pub fn has(&self, owner: &O) -> bool {
        self.owners.iter().any(|other| other.number() == owner.number())
    }

    /// How many slots each of some owners has.
    pub fn count(&self, owner: impl Fn(&O) -> bool) -> usize {
        self.owners.iter().filter(|o| owner(o)).count()
    }
}

/// The shards of a node.
pub fn shards(count: u16) -> impl Iterator<Item = ShardId> + Clone {
    (0..count).map(ShardId)
}

fn slot(id: &[u8; 16]) -> Slot {
    let (mut a, mut b) = ([0; 8], [0; 8]);
    a.copy_from_slice(&id[..8]);
    b.copy_from_slice(&id[8..]);
    Slot((mix(u64::from_be_bytes(a) ^ mix(u64::from_be_bytes(b))) % u64::from(SLOTS)) as u16)
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_evenly_and_moves_little() {
        for count in [1u16, 2, 3, 8, 64] {
            let map = SlotMap::new(shards(count));
            let fair = usize::from(SLOTS / count);
            for shard in shards(count) {
                let slots = map.count(|s| *s == shard);
                assert!(slots > fair / 3 && slots < fair * 2, "{slots} of {SLOTS} for one of {count}");
            }
        }
        let (seven, eight) = (SlotMap::new(shards(7)), SlotMap::new(shards(8)));
        let moved = seven.owners.iter().zip(&eight.owners).filter(|(a, b)| a != b).count();
        assert!(moved < usize::from(SLOTS) / 5, "{moved} slots moved for one more shard");
        assert!(seven.owners.iter().zip(&eight.owners).all(|(a, b)| a == b || *b == ShardId(7)));
    }

    #[test]
    fn everybody_derives_the_same_of_the_same_nodes() {
        let nodes = [0x1234_5678_9abc_def0, 7, u64::MAX].map(NodeId);
        let reversed = [nodes[2], nodes[1], nodes[0]];
        assert_eq!(SlotMap::new(nodes.into_iter()), SlotMap::new(reversed.into_iter()));
        let without = SlotMap::new(nodes[..2].iter().copied());
        let with = SlotMap::new(nodes.into_iter());
        assert!(with.owners.iter().zip(&without.owners).all(|(a, b)| a == b || *a == nodes[2]));
    }

    #[test]
    fn ids_spread() {
        let map = SlotMap::new(shards(4));
        let mut count = [0; 4];
        for n in 0..4_000u32 {
            let mut id = [0; 16];
            id[12..].copy_from_slice(&n.to_be_bytes());
            count[map.owner(ConversationId::from_bytes(id)).get()] += 1;
        }
        assert!(count.iter().all(|c| (700..1_300).contains(c)), "{count:?}");
    }
}
