//! What a transaction may hold. The numbers are FoundationDB's, and every adapter applies them, so that what runs on
//! one node with the embedded store also runs on a cluster.

/// A key. Ours are at most 41 bytes; the limit is there for the conformance suite to test.
pub const KEY_BYTES_MAX: usize = 10_000;
/// A value. The largest of ours is an entry of `ENTRY_BYTES_MAX` with its version byte and checksum.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// Keys and values that one transaction writes, and the keys of its conflict ranges, together.
pub const TRANSACTION_BYTES_MAX: usize = 10_000_000;
/// From the read version of a transaction to its commit.
pub const TRANSACTION_LIFE_MS: u64 = 5_000;

/// Rows of one page of a range read: large enough that a round trip is amortised, small enough to hold.
pub const RANGE_ROWS_MAX: usize = 1_000;
/// Attempts of a read-only operation that met a transient error, the first included.
pub const READ_ATTEMPTS_MAX: u32 = 4;

const _: () = assert!(tern_protocol::limits::ENTRY_BYTES_MAX + 5 <= VALUE_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < TRANSACTION_BYTES_MAX);
