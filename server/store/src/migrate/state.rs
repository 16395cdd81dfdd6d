//! What a store says of its part in a migration.

use bytes::Bytes;

use crate::writes::Row;

/// The name of a location, for people.
pub const LOCATION_BYTES_MAX: usize = 8 << 10;

/// Names one migration: random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationId(pub [u8; 16]);

/// Why a store is not to be served. The texts are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Migration {
    /// The source, until everything is in the target.
    #[error(
        "what is stored here is being moved to {to}, and is not served meanwhile: run the same `ternd store migrate` \
         again, which goes on where it stopped, or give it up with `ternd store migrate --abandon`"
    )]
    Leaving {
        /// Which.
        id: MigrationId,
        /// Where to.
        to: String,
    },
    /// The source, from then on.
    #[error(
        "everything that is stored here has moved to {to}: serve that. To come back, move this store away and migrate \
         from there; should that one be lost, `ternd backup` and `ternd restore` make a store of what is here, as it was \
         then"
    )]
    Moved {
        /// Which.
        id: MigrationId,
        /// Where to.
        to: String,
    },
    /// The target, until it is complete.
    #[error(
        "what is stored here is a part of {}, from where it is being moved: run the same `ternd store migrate` again, which \
         goes on where it stopped",
        .0.from
    )]
    Arriving(Arrival),
}

/// How far a migration has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Which.
    pub id: MigrationId,
    /// Where from.
    pub from: String,
    /// There is nothing more to copy.
    pub is_copied: bool,
    /// Keys in the source, more or less.
    pub expected: u64,
    /// What was copied.
    pub tally: Tally,
    /// The key up to which everything is copied; empty: nothing is.
    pub last: Bytes,
}

/// Keys and values in the order of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// CRC-32C of them all, each with its length before it.
    pub sum: u32,
}

impl Tally {
    pub(super) fn add(&mut self, rows: &[Row]) {
        for (key, value) in rows {
            self.rows += 1;
            self.bytes += (key.len() + value.len()) as u64;
            for part in [key, value] {
                let length = (part.len() as u32).to_be_bytes();
                self.sum = crc32c::crc32c_append(crc32c::crc32c_append(self.sum, &length), part);
            }
        }
    }
}
