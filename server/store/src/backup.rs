//! A store as one stream of bytes, and back.
//!
//! ```text
//! | "tern-backup 1\n" | block … | last block |
//!
//! block       | rows, 4 bytes | bytes of the body, 4 bytes | body | crc32c of all before, 4 bytes |
//! body        | length of the key, 2 bytes | key | length of the value, 4 bytes | value | …
//! last block  0 rows; the body is the number of all rows, 8 bytes
//! ```
//!
//! Integers are big-endian; rows are in the order of their keys, of one snapshot. Each checksum goes on from the one
//! before, so blocks cannot be left out, doubled or exchanged.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tern_protocol::ids::StoreEpoch;

use crate::keys::after_key;
use crate::keys::migration::MigrationKey;
use crate::migrate::{self, Migration};
use crate::salvage::Readable;
use crate::writes::Row;
use crate::{CommitError, Corrupt, Kv, RangeQuery, SYSTEM_SPACE, StoreError, Transaction, ops};

const MAGIC: &[u8; 14] = b"tern-backup 1\n";
/// Of one block, and so of one transaction of a restore; a single row may be larger.
const BLOCK_BYTES: usize = 1 << 20;
const BLOCK_ROWS: usize = 4_096;
/// No row is larger: a damaged length must not take the machine's memory.
const BODY_BYTES_MAX: usize = 16 << 20;
const HEADER_BYTES: usize = 8;
const SUM_BYTES: usize = 4;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Keys with values.
    pub rows: u64,
    /// Bytes of the whole stream.
    pub bytes: u64,
}

/// Why a backup could not be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file, or the other end.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It is no backup, or of a version that this program does not know.
    #[error("this is no backup that this program can read: it does not begin with \"tern-backup 1\"")]
    Unknown,
    /// It is cut off, or its bytes are not those that were written.
    #[error(
        "the backup is damaged {0} bytes from its beginning: it is cut off, or a checksum does not fit. Use another one"
    )]
    Damaged(u64),
}

/// Writes all that this transaction sees. `out` should be buffered by the operating system only: blocks of a megabyte
/// are written at once.
///
/// # Errors
/// [`BackupError::Io`], [`BackupError::Store`]. What was written until then is no backup: it has no last block.
pub async fn write(tx: &dyn Transaction, out: impl Write) -> Result<Totals, BackupError> {
    let mut query = everything();
    let pages = async || {
        let rows = tx.range(query.clone()).await?;
        if let Some((last, _)) = rows.last() {
            query.begin = after_key(last).into();
        }
        Ok(rows)
    };
    write_pages(pages, out).await
}

/// Writes what this transaction can read of a damaged store. `lost` gets what it cannot: of logs the numbers.
///
/// # Errors
/// [`BackupError::Io`], [`BackupError::Store`] when nothing can be read for another reason.
pub async fn write_readable(
    tx: &dyn Transaction,
    out: impl Write,
    lost: &mut dyn FnMut(Corrupt),
) -> Result<Totals, BackupError> {
    let mut readable = Readable::new(tx, everything());
    let totals = write_pages(async || readable.page().await, out).await?;
    readable.lost(lost).await?;
    Ok(totals)
}

fn everything() -> RangeQuery {
    RangeQuery::new([0], SYSTEM_SPACE, BLOCK_ROWS).bytes_max(BLOCK_BYTES).snapshot()
}

/// `next` gives pages in the order of their keys, and an empty one at the end.
async fn write_pages(
    mut next: impl AsyncFnMut() -> Result<Vec<Row>, StoreError>,
    mut out: impl Write,
) -> Result<Totals, BackupError> {
    out.write_all(MAGIC)?;
    let mut totals = Totals { rows: 0, bytes: MAGIC.len() as u64 };
    let mut sum = crc32c::crc32c(MAGIC);
    loop {
        let rows = next().await?;
        let mut body = BytesMut::with_capacity(BLOCK_BYTES);
        for (key, value) in &rows {
            body.put_u16(u16::try_from(key.len()).map_err(|_| io::Error::other("a key is too long"))?);
            body.put_slice(key);
            body.put_u32(u32::try_from(value.len()).map_err(|_| io::Error::other("a value is too long"))?);
            body.put_slice(value);
        }
        totals.rows += rows.len() as u64;
        if rows.is_empty() {
            body.put_u64(totals.rows);
        }
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&(rows.len() as u32).to_be_bytes());
        header[4..].copy_from_slice(&(body.len() as u32).to_be_bytes());
        sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, &header), &body);
        body.put_u32(sum);
        out.write_all(&header)?;
        out.write_all(&body)?;
        totals.bytes += (HEADER_BYTES + body.len()) as u64;
        if rows.is_empty() {
            break;
        }
    }
    out.flush()?;
    Ok(totals)
}

/// Reads a backup to its end and hands over its rows, block by block, each when its checksum was right. Only when this
/// returns well has everything been there.
///
/// # Errors
/// [`BackupError::Io`], [`BackupError::Unknown`], [`BackupError::Damaged`], and those of `take`.
pub async fn read(
    input: impl Read,
    mut take: impl AsyncFnMut(Vec<Row>) -> Result<(), BackupError>,
) -> Result<Totals, BackupError> {
    let mut input = Input { input, at: 0 };
    let magic = input.take(MAGIC.len()).map_err(|error| match error {
        BackupError::Damaged(_) => BackupError::Unknown,
        other => other,
    })?;
    if magic != MAGIC[..] {
        return Err(BackupError::Unknown);
    }
    let mut sum = crc32c::crc32c(MAGIC);
    let mut rows = 0;
    loop {
        let begin = input.at;
        let damaged = BackupError::Damaged(begin);
        let header = input.take(HEADER_BYTES)?;
        let (count, length) = ((&header[..4]).get_u32(), (&header[4..]).get_u32() as usize);
        if length > BODY_BYTES_MAX {
            return Err(damaged);
        }
        let body = input.take(length)?;
        sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, &header), &body);
        if input.take(SUM_BYTES)? != sum.to_be_bytes()[..] {
            return Err(damaged);
        }
        if count == 0 {
            let is_whole = body.len() == 8 && (&body[..]).get_u64() == rows && input.is_at_end()?;
            return if is_whole { Ok(Totals { rows, bytes: input.at }) } else { Err(damaged) };
        }
        let block = parse(body.into(), count).ok_or(damaged)?;
        rows += block.len() as u64;
        take(block).await?;
    }
}

/// Restores a backup into a store that holds nothing, and begins this epoch: what was stored after the backup is not in
/// it, and other entries will get the same numbers.
///
/// # Errors
/// [`BackupError`]; then the store holds a part of the backup, and is to be thrown away.
pub async fn restore(input: impl Read, kv: &dyn Kv, epoch: StoreEpoch) -> Result<Totals, BackupError> {
    let totals = read(input, async |rows| {
        let mut tx = kv.begin();
        for (key, value) in rows {
            tx.set(&key, value);
        }
        tx.commit().await?;
        Ok(())
    })
    .await?;
    let mut tx = kv.begin();
    ops::epoch::set(&mut *tx, epoch);
    // What it was copied from may have moved since, or be about to; only what had not arrived as a whole stays so.
    if let Some(Migration::Leaving { .. } | Migration::Moved { .. }) = migrate::migration(&*tx).await? {
        tx.clear(&MigrationKey.encode());
    }
    tx.commit().await?;
    Ok(totals)
}

fn parse(mut body: Bytes, count: u32) -> Option<Vec<Row>> {
    let mut rows = Vec::with_capacity(count.min(BLOCK_ROWS as u32) as usize);
    for _ in 0..count {
        let length = body.try_get_u16().ok()?.into();
        let key = take(&mut body, length)?;
        let length = body.try_get_u32().ok()? as usize;
        let value = take(&mut body, length)?;
        // Such keys are the adapters' own, and a transaction does not take them.
        if key.is_empty() || key[..] >= *SYSTEM_SPACE {
            return None;
        }
        rows.push((key, value));
    }
    body.is_empty().then_some(rows)
}

fn take(body: &mut Bytes, length: usize) -> Option<Bytes> {
    (body.len() >= length).then(|| body.split_to(length))
}

struct Input<R> {
    input: R,
    at: u64,
}

impl<R: Read> Input<R> {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = vec![0; length];
        let read = self.input.read_exact(&mut bytes);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::Damaged(self.at),
            _ => error.into(),
        })?;
        self.at += length as u64;
        Ok(bytes)
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        loop {
            match self.input.read(&mut byte) {
                Ok(read) => return Ok(read == 0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::tests::Temporary;
    use crate::keys::epoch::EpochKey;
    use crate::memory::Memory;
    use crate::ops::tests::{Owner, block_on, device, group, sample};

    const BEFORE: StoreEpoch = StoreEpoch::from_bytes([1; 16]);
    const AFTER: StoreEpoch = StoreEpoch::from_bytes([2; 16]);

    fn backup(kv: &dyn Kv) -> (Vec<u8>, Totals) {
        let mut bytes = Vec::new();
        let totals = block_on(write(&*kv.begin(), &mut bytes)).expect("a backup");
        (bytes, totals)
    }

    fn rows(kv: &dyn Kv) -> Vec<Row> {
        block_on(kv.begin().range(RangeQuery::new([0], SYSTEM_SPACE, usize::MAX))).expect("readable")
    }

    /// Some records of every kind, and a log of several blocks.
    fn filled() -> Memory {
        let kv = Memory::new();
        assert_eq!(block_on(ops::epoch::load_or_begin(&kv, BEFORE)), Ok(BEFORE));
        block_on(sample(&kv));
        let owner = Owner { kv: &kv, id: group(2) };
        block_on(owner.create(&["anna", "ben"]));
        for n in 0..90 {
            block_on(owner.messages(device("ben", 1), 1 + n * 100, 100));
        }
        kv
    }

    /// All but the epoch.
    fn records(kv: &dyn Kv) -> Vec<Row> {
        let mut rows = rows(kv);
        rows.retain(|(key, _)| key[..] != EpochKey.encode());
        rows
    }

    #[test]
    fn what_is_restored_is_what_was_there() {
        let kv = filled();
        let (bytes, totals) = backup(&kv);
        assert_eq!(totals, Totals { rows: rows(&kv).len() as u64, bytes: bytes.len() as u64 });
        assert!(totals.rows > 2 * BLOCK_ROWS as u64);
        let restored = Temporary::new();
        assert_eq!(block_on(restore(&bytes[..], &restored, AFTER)).expect("restored"), totals);
        assert_eq!(records(&restored), records(&kv));
        let epoch = |kv: &dyn Kv| block_on(ops::epoch::load_or_begin(kv, StoreEpoch::from_bytes([3; 16])));
        assert_eq!((epoch(&kv), epoch(&restored)), (Ok(BEFORE), Ok(AFTER)));
    }

    #[test]
    fn a_backup_is_of_one_moment() {
        let kv = filled();
        let before = records(&kv);
        let tx = kv.begin();
        block_on(tx.read_version()).expect("a version");
        let mut bytes = Vec::new();
        block_on(async {
            let owner = Owner { kv: &kv, id: group(2) };
            owner.messages(device("ben", 1), 9_001, 10).await;
            write(&*tx, &mut bytes).await
        })
        .expect("a backup");
        let restored = Memory::new();
        block_on(restore(&bytes[..], &restored, AFTER)).expect("restored");
        assert_eq!(records(&restored), before);
    }

    #[test]
    fn a_damaged_backup_is_refused() {
        let (bytes, _) = backup(&filled());
        let refused =
            |bytes: &[u8]| block_on(restore(bytes, &Memory::new(), AFTER)).expect_err("damaged").to_string();
        for length in [0, 5, MAGIC.len() - 1] {
            assert!(refused(&bytes[..length]).contains("no backup"), "{length}");
        }
        for length in [MAGIC.len(), 20, bytes.len() / 2, bytes.len() - 20, bytes.len() - 1] {
            assert!(refused(&bytes[..length]).contains("damaged"), "{length}");
        }
        for at in (MAGIC.len()..bytes.len()).step_by(bytes.len() / 300) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(refused(&damaged).contains("damaged"), "{at}");
        }
        assert!(refused(&[&bytes[..], b"x"].concat()).contains("damaged"));
        assert!(refused(b"tern-backup 2\n").contains("no backup"));
        // The second block in the place of the first.
        let length = HEADER_BYTES + (&bytes[MAGIC.len() + 4..]).get_u32() as usize + SUM_BYTES;
        let without = [&bytes[..MAGIC.len()], &bytes[MAGIC.len() + length..]].concat();
        assert!(refused(&without).contains("damaged"));
    }
}
