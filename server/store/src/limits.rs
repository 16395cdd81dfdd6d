//! What a transaction may hold. The numbers are FoundationDB's, and every adapter applies them, so that what runs on
//! one node with the embedded store also runs on a cluster.

use crate::SYSTEM_SPACE;

/// What an adapter may put in front of every key, to share a store.
pub const PREFIX_BYTES_MAX: usize = 100;
/// A key, without the adapter's prefix. Ours are at most 41 bytes; the limit is there for the conformance suite to test.
pub const KEY_BYTES_MAX: usize = 10_000 - PREFIX_BYTES_MAX;
/// A value. The largest of ours is an entry of `ENTRY_BYTES_MAX` with its version byte and checksum.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// Keys and values that one transaction writes, and the keys of its conflict ranges, together.
pub const TRANSACTION_BYTES_MAX: usize = 10_000_000;
/// From the read version of a transaction to its commit.
pub const TRANSACTION_LIFE_MS: u64 = 5_000;

/// Keys that one transaction removes by range, in a store that has to write something for each of them.
pub const CLEARED_KEYS_MAX: u64 = 1_000;

/// Rows of one page of a range read: large enough that a round trip is amortised, small enough to hold.
pub const RANGE_ROWS_MAX: usize = 1_000;
/// Attempts of a read-only operation that met a transient error, the first included.
pub const READ_ATTEMPTS_MAX: u32 = 4;

/// How large a transaction has become, against the limits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    bytes: usize,
    is_over: bool,
}

impl Size {
    /// Counts a key that is written, with this many bytes of value. Whether both are within their limits.
    ///
    /// # Panics
    /// When the key is empty or begins with 0xFF, which is the adapters' own space.
    pub fn write(&mut self, key: &[u8], value_bytes: usize) -> bool {
        assert!(!key.is_empty(), "the engine has no empty key");
        assert!(key < SYSTEM_SPACE, "keys from 0xFF on belong to the adapters");
        self.count(key.len() + value_bytes, key.len() <= KEY_BYTES_MAX && value_bytes <= VALUE_BYTES_MAX)
    }

    /// Counts a range that is cleared. Whether its ends are within the limit.
    pub fn clear(&mut self, begin: &[u8], end: &[u8]) -> bool {
        self.count(begin.len() + end.len(), begin.len().max(end.len()) <= KEY_BYTES_MAX)
    }

    fn count(&mut self, bytes: usize, is_good: bool) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_over |= !is_good;
        is_good
    }

    /// Of keys and values, counting every call.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether any limit is exceeded, with `more` bytes besides.
    pub fn is_too_large(&self, more: usize) -> bool {
        self.is_over || self.bytes.saturating_add(more) > TRANSACTION_BYTES_MAX
    }
}

const _: () = assert!(tern_protocol::limits::ENTRY_BYTES_MAX + 5 <= VALUE_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < TRANSACTION_BYTES_MAX);
