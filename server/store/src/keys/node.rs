//! A node's lease.
//!
//! Key: `x` node (9 bytes). Value: the record of a [`NodeLease`](crate::records::NodeLease). Written about every second
//! while the node lives, taken out when it leaves or has been dead for long. One node alone on its store has none.

use tern_protocol::ids::NodeId;

use super::{BadKey, join, take};

/// A node's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeKey {
    /// The node.
    pub node: NodeId,
}

impl NodeKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'x';
    /// The length of every key of this kind.
    pub const LEN: usize = 9;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "node";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(Self::PREFIX, &[&self.node.0.to_be_bytes()])
    }

    /// What the bytes stand for.
    pub fn decode(key: &[u8]) -> Result<Self, BadKey> {
        Self::parse(key).ok_or(BadKey { kind: Self::KIND })
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let mut rest = key;
        if take(&mut rest)? != [Self::PREFIX] {
            return None;
        }
        let parsed = Self { node: NodeId(u64::from_be_bytes(take(&mut rest)?)) };
        rest.is_empty().then_some(parsed)
    }
}

impl std::fmt::Display for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.node.fmt(f)
    }
}
