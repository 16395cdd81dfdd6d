//! The store's epoch.
//!
//! Key: `e` (1 byte). Value: the record of a [`StoreEpoch`](tern_protocol::ids::StoreEpoch). Made when the store is
//! begun, made anew by a restore from a backup, and changed by nothing else.

use super::{BadKey, join};

/// The store's epoch: there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochKey;

impl EpochKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'e';
    /// The length of every key of this kind.
    pub const LEN: usize = 1;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "epoch";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(Self::PREFIX, &[])
    }

    /// What the bytes stand for.
    pub fn decode(key: &[u8]) -> Result<Self, BadKey> {
        if *key == Self.encode() { Ok(Self) } else { Err(BadKey { kind: Self::KIND }) }
    }
}

impl std::fmt::Display for EpochKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the store's")
    }
}
