//! Which shard owns a conversation, and which one is a user's home: a hash to a slot, and rendezvous hashing of the slot
//! over the shards, so that another number of shards moves as few slots as possible. Ownership is a hint: the
//! transaction on the head decides.

use alloc::vec::Vec;

use tern_protocol::ids::{ConversationId, UserId};

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

/// Slot to shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMap {
    shards: Vec<ShardId>,
}

impl SlotMap {
    /// Spreads all slots over `shards` shards.
    ///
    /// # Panics
    /// When there are none.
    pub fn new(shards: u16) -> Self {
        assert!(shards > 0, "a node has at least one shard");
        let best = |slot: u16| {
            (0..shards)
                .max_by_key(|shard| mix(u64::from(slot) << 32 | u64::from(*shard)))
                .map_or(ShardId(0), ShardId)
        };
        Self { shards: (0..SLOTS).map(best).collect() }
    }

    /// The owner of a conversation.
    pub fn owner(&self, id: ConversationId) -> ShardId {
        self.shard(slot(id.as_bytes()))
    }

    /// The home of a user.
    pub fn home(&self, id: UserId) -> ShardId {
        self.shard(slot(id.as_bytes()))
    }

    fn shard(&self, slot: Slot) -> ShardId {
        self.shards[usize::from(slot.0)]
    }
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
        for shards in [1u16, 2, 3, 8, 64] {
            let map = SlotMap::new(shards);
            let mut count = alloc::vec![0u32; usize::from(shards)];
            map.shards.iter().for_each(|s| count[usize::from(s.0)] += 1);
            let fair = u32::from(SLOTS / shards);
            assert!(count.iter().all(|c| *c > fair / 3 && *c < fair * 2), "{shards} shards: {count:?}");
        }
        let (seven, eight) = (SlotMap::new(7), SlotMap::new(8));
        let moved = seven.shards.iter().zip(&eight.shards).filter(|(a, b)| a != b).count();
        assert!(moved < usize::from(SLOTS) / 5, "{moved} slots moved for one more shard");
        assert!(seven.shards.iter().zip(&eight.shards).all(|(a, b)| a == b || *b == ShardId(7)));
    }

    #[test]
    fn ids_spread() {
        let map = SlotMap::new(4);
        let mut count = [0; 4];
        for n in 0..4_000u32 {
            let mut id = [0; 16];
            id[12..].copy_from_slice(&n.to_be_bytes());
            count[usize::from(map.owner(ConversationId::from_bytes(id)).0)] += 1;
        }
        assert!(count.iter().all(|c| (700..1_300).contains(c)), "{count:?}");
    }
}
