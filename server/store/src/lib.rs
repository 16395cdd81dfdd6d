//! Tern's data layer.
//!
//! ```text
//!   gateway ──► ops        the transactions of a chat server, each written once
//!                │
//!                ├── keys      what is stored under which key
//!                ├── records   what the values look like
//!                ▼
//!          Kv / Transaction    FoundationDB's model: optimistic, serializable, typed errors
//!                │
//!                ├── embedded  fjall with group commit (one node; the default)
//!                ├── memory    the model, with faults on demand (tests, simulation)
//!                └── (FoundationDB: the crate tern-store-fdb, since it links a C library)
//! ```
//!
//! The trait has FoundationDB's model because that is the strictest of the stores that we run on: whatever is correct
//! above it is correct on all of them. [`conformance`] is the executable statement of what an adapter promises.
//!
//! The futures need no particular executor. Those of the embedded and the memory adapter are ready at once, except
//! the embedded store's commit, which waits for its group to be durable.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

pub mod backup;
pub mod conformance;
pub mod embedded;
pub mod error;
pub mod histogram;
pub mod keys;
pub mod limits;
pub mod memory;
pub mod migrate;
pub mod ops;
pub mod recent;
pub mod records;
pub mod resolver;
mod salvage;
pub mod verify;
mod writes;

pub use error::{CommitError, Corrupt, QueryError, StoreError};

/// A future behind a pointer, so that the traits can be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A point in the store's history: all that was committed at or below it. Rises over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

/// A store.
pub trait Kv: Send + Sync + 'static {
    /// Starts a transaction. Costs nothing until it reads or commits.
    fn begin(&self) -> Box<dyn Transaction>;

    /// Like [`begin`](Self::begin), but what is read may be some milliseconds old, where that saves asking for a version:
    /// everything that was committed through this store (not through another one on the same data) is seen, and what was
    /// committed elsewhere meanwhile may be missing. The commit conflicts with that, as with anything that was read and
    /// has changed since. So it is for a transaction that is nothing without its commit; nobody is told of its reads.
    fn begin_recent(&self) -> Box<dyn Transaction> {
        self.begin()
    }

    /// How many keys there may be, at most, in the ranges that one transaction clears. `u64::MAX` of a store to which a
    /// range costs the same whatever is in it; others write something for each key.
    fn cleared_keys_max(&self) -> u64 {
        limits::CLEARED_KEYS_MAX
    }
}

/// A transaction: reads from one snapshot, sees its own writes, and commits if nothing that it read has changed.
///
/// Dropping it rolls it back. Dropping the future of [`commit`](Self::commit) does not: the transaction may or may
/// not be committed then.
pub trait Transaction: Send + Sync {
    /// The version that this transaction reads at, from now on fixed.
    fn read_version(&self) -> BoxFuture<'_, Result<Version, StoreError>>;

    /// The value of a key, own writes included. Should the key change before the commit, the commit will conflict
    /// (unless the value came from this transaction's own writes).
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Like [`get`](Self::get), without the conflict: the commit does not care whether the key changes.
    fn get_snapshot<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Keys and values of a range, own writes included, in the order of the keys (or against it). Unless the query
    /// says `snapshot`, a change to the part of the range that was read makes the commit conflict.
    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>>;

    /// Writes a value.
    ///
    /// # Panics
    /// Here and below: when the key is empty or begins with 0xFF, which is the adapters' own space. No key of ours is.
    fn set(&mut self, key: &[u8], value: Bytes);

    /// Removes a key, if it exists.
    fn clear(&mut self, key: &[u8]);

    /// Removes every key from `begin` to before `end`, of which there are at most as many as
    /// [`cleared_keys_max`](Kv::cleared_keys_max) says.
    fn clear_range(&mut self, begin: &[u8], end: &[u8]);

    /// Raises the key's value, a little-endian u64, to at least `value`; sets it when there is none. Does not count
    /// as a read, so two of them never conflict.
    ///
    /// Little-endian, because FoundationDB's `MAX` compares that way. A stored value that is not 8 bytes long is
    /// treated as FoundationDB treats it: cut, or padded with zeros.
    fn atomic_max(&mut self, key: &[u8], value: u64);

    /// Adds to the key's value, a little-endian u64 that wraps around; a missing one counts as 0.
    fn atomic_add(&mut self, key: &[u8], value: u64);

    /// As if the key had been read; so it does nothing for a key that this transaction has written before.
    fn add_read_conflict(&mut self, key: &[u8]);

    /// Reads and checks conflicts at this version instead of the newest. Call it before anything else. Saves the
    /// round trip for a version when the caller knows that it has seen everything up to this one.
    ///
    /// The embedded store keeps one snapshot, its newest: reading at an older version gives [`StoreError::TooOld`],
    /// whereas committing is checked as on any other store.
    fn set_read_version(&mut self, version: Version);

    /// Commits. The version is that of the commit; a transaction without writes gives its read version.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Version, CommitError>>;
}

/// Which keys to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeQuery {
    /// The first key.
    pub begin: Bytes,
    /// The key after the last.
    pub end: Bytes,
    /// At most this many rows.
    pub rows_max: usize,
    /// Stop after the row with which keys and values together reach this size. So there is always at least one row
    /// if there is any.
    pub bytes_max: usize,
    /// From the end backwards.
    pub reverse: bool,
    /// Without conflict.
    pub snapshot: bool,
}

impl RangeQuery {
    /// All rows from `begin` to before `end`, at most `rows_max`, in order, with conflict.
    pub fn new(begin: impl AsRef<[u8]>, end: impl AsRef<[u8]>, rows_max: usize) -> Self {
        Self {
            begin: Bytes::copy_from_slice(begin.as_ref()),
            end: Bytes::copy_from_slice(end.as_ref()),
            rows_max,
            bytes_max: usize::MAX,
            reverse: false,
            snapshot: false,
        }
    }

    /// With a bound on the size.
    #[must_use]
    pub fn bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// From the end backwards.
    #[must_use]
    pub fn reverse(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// Without conflict.
    #[must_use]
    pub fn snapshot(self) -> Self {
        Self { snapshot: true, ..self }
    }
}

/// The first key of the adapters' own space; everything of ours sorts before it.
pub const SYSTEM_SPACE: &[u8] = &[0xFF];
