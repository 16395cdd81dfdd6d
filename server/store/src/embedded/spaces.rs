//! The engine's two keyspaces.
//!
//! The log's entries are most of the data, are written once and stay as they are, while the other records are small and
//! are overwritten with every message. Together, each compaction would move all the entries in its range for the sake of
//! some heads and windows; and it would do so again on every level. So entries have a keyspace of their own, in which the
//! engine keeps the values apart from the keys and moves only the latter.
//!
//! The journals are common: a batch is atomic over both.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};

use super::Options;
use crate::keys::entry::EntryKey;

const STATE: &str = "state";
const ENTRIES: &str = "entries";
/// The keys of entries: from here to before there.
const ENTRIES_BEGIN: &[u8] = &[EntryKey::PREFIX];
const ENTRIES_END: &[u8] = &[EntryKey::PREFIX + 1];
/// Every entry, even an empty message, is larger than what stands for it.
const SEPARATED_BYTES_MIN: u32 = 64;

/// Which key is where.
pub(super) struct Spaces {
    state: Keyspace,
    entries: Keyspace,
}

impl Spaces {
    /// Opens both, or creates them.
    pub(super) fn open(database: &Database, options: &Options) -> fjall::Result<Self> {
        // Payloads are mostly encrypted, so compression would cost time and save nothing (and is not compiled in).
        let create = || KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes);
        let apart = || KvSeparationOptions::default().separation_threshold(SEPARATED_BYTES_MIN);
        Ok(Self {
            state: database.keyspace(STATE, create)?,
            entries: database.keyspace(ENTRIES, || create().with_kv_separation(Some(apart())))?,
        })
    }

    /// The keyspace of a key.
    pub(super) fn of(&self, key: &[u8]) -> &Keyspace {
        if key.first() == Some(&EntryKey::PREFIX) { &self.entries } else { &self.state }
    }

    /// A range's parts, none of them empty, in the order of the keys or against it.
    pub(super) fn parts<'a>(
        &'a self,
        begin: &'a [u8],
        end: &'a [u8],
        reverse: bool,
    ) -> impl Iterator<Item = (&'a Keyspace, &'a [u8], &'a [u8])> {
        let mut parts = [
            (&self.state, begin, end.min(ENTRIES_BEGIN)),
            (&self.entries, begin.max(ENTRIES_BEGIN), end.min(ENTRIES_END)),
            (&self.state, begin.max(ENTRIES_END), end),
        ];
        if reverse {
            parts.reverse();
        }
        parts.into_iter().filter(|(_, begin, end)| begin < end)
    }
}
