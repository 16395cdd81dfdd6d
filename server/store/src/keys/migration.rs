//! Whether the store is being moved, or was.
//!
//! Key: `t` (1 byte). Value: the record of a [`Migration`](crate::migrate::Migration), in a store that no server may
//! serve: the source of a migration from its beginning on, for good, the target until it is complete. Never moved itself.

use super::{BadKey, join};

/// The store's part in a migration: there is one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MigrationKey;

impl MigrationKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b't';
    /// The length of every key of this kind.
    pub const LEN: usize = 1;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "migration";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(Self::PREFIX, &[])
    }

    /// What the bytes stand for.
    pub fn decode(key: &[u8]) -> Result<Self, BadKey> {
        if *key == Self.encode() { Ok(Self) } else { Err(BadKey { kind: Self::KIND }) }
    }
}

impl std::fmt::Display for MigrationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the store's")
    }
}
