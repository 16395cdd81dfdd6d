//! What is verified of the engine's journals before the engine reads them.
//!
//! The engine recovers from a journal that simply ends, and refuses one whose last batch has a hole. But a power failure
//! leaves just that: the disk writes the sectors of an unsynced batch in any order, so the end may be there and the
//! middle not. Nobody was told of such a batch, so it is cut off here. Damage that is followed by good batches, or by
//! what the commit number says was acknowledged, is no such thing: it is refused, and the file is left as it is, while
//! the engine would in some cases cut off everything behind it.
//!
//! A batch of `fjall` 3, integers little-endian:
//! ```text
//!   | 1 | items: u32 | seqno: u64 |
//!   | 2 | type: u8 | compression: u8 (0) | keyspace: u64 | k: u16 | v: u32 | v: u32 | key | value |   each item, or
//!   | 4 | keyspace: u64 |                                                                          a cleared keyspace
//!   | 3 | xxh3 of the items: u64 | "FJL" 3 |
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::OpenError;
use super::files::io;
use super::shared::COMMIT_KEY;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// Verifies the journals, cuts off a last batch that is not whole, and makes durable what is left. `mirror` is the newest
/// commit that is known to have been acknowledged.
pub(super) fn repair(data: &Path, engine: &Path, mirror: u64) -> Result<(), OpenError> {
    let mut journals = journals(engine)?;
    let newest = journals.pop();
    for path in journals {
        // Synced as a whole before the next one was begun.
        let bytes = std::fs::read(&path).map_err(io(&path))?;
        let scan = scan(&bytes);
        if scan.is_torn {
            return Err(damaged(path, scan.end));
        }
    }
    let Some(path) = newest else { return Ok(()) };
    let bytes = std::fs::read(&path).map_err(io(&path))?;
    let Scan { end, is_torn, last_commit } = scan(&bytes);
    if is_torn {
        if followed_by_a_batch(&bytes[end..]) {
            return Err(damaged(path, end));
        }
        if let Some(engine) = last_commit.filter(|last| *last < mirror) {
            return Err(OpenError::BackInTime { path: data.to_owned(), engine, mirror });
        }
    }
    // After a sync that failed the system may have in memory what the disk does not have, and take it for written: so what
    // is gone on with is written once more. It is what is there, so that nothing is lost if the power fails meanwhile.
    let settle = File::options().write(true).open(&path).and_then(|file| {
        file.write_all_at(&bytes[..end], 0)?;
        if is_torn {
            file.set_len(end as u64)?;
        }
        file.sync_all()
    });
    settle.map_err(io(&path))
}

/// The highest number of a commit in the journals.
pub(super) fn last_commit(engine: &Path) -> Result<Option<u64>, OpenError> {
    let mut last = None;
    for path in journals(engine)? {
        last = last.max(scan(&std::fs::read(&path).map_err(io(&path))?).last_commit);
    }
    Ok(last)
}

fn damaged(path: PathBuf, at: usize) -> OpenError {
    let what = format!("is damaged at byte {at}; move the whole directory away and restore a backup");
    OpenError::Damaged { path, what }
}

/// The journals, the oldest first. What is not named like one is the engine's affair.
fn journals(engine: &Path) -> Result<Vec<PathBuf>, OpenError> {
    if !engine.is_dir() {
        return Ok(Vec::new());
    }
    let mut numbered = Vec::new();
    for item in std::fs::read_dir(engine).map_err(io(engine))? {
        let path = item.map_err(io(engine))?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl"));
        if let Some(number) = name.and_then(|name| name.parse::<u64>().ok()) {
            numbered.push((number, path));
        }
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

struct Scan {
    /// Where the good batches end.
    end: usize,
    /// Whether something else than room follows.
    is_torn: bool,
    /// The commit number of the last good batch that has one.
    last_commit: Option<u64>,
}

fn scan(bytes: &[u8]) -> Scan {
    let (mut end, mut last_commit) = (0, None);
    while let Some(batch) = batch(&bytes[end..]) {
        end += batch.length;
        last_commit = batch.commit.or(last_commit);
    }
    Scan { end, is_torn: used(&bytes[end..]) > 0, last_commit }
}

/// The length without the zeros at the end, which are room for batches to come; rounded up.
fn used(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let last = bytes.chunks(ZEROS.len()).rposition(|chunk| chunk != &ZEROS[..chunk.len()]);
    last.map_or(0, |chunk| (chunk + 1) * ZEROS.len()).min(bytes.len())
}

/// Whether a good batch begins anywhere behind the first byte.
fn followed_by_a_batch(bytes: &[u8]) -> bool {
    let used = &bytes[..used(bytes)];
    (1..used.len()).any(|at| used[at] == START && batch(&bytes[at..]).is_some())
}

struct Batch {
    length: usize,
    commit: Option<u64>,
}

/// The batch at the beginning of `bytes`, if there is one and it is whole.
fn batch(bytes: &[u8]) -> Option<Batch> {
    let mut rest = Rest(bytes);
    if rest.byte()? != START {
        return None;
    }
    let items = u32::from_le_bytes(rest.array()?);
    let _seqno: [u8; 8] = rest.array()?;
    let begin = rest.0;
    let mut commit = None;
    for _ in 0..items {
        match rest.byte()? {
            ITEM => {
                let [_type, compression] = rest.array()?;
                let _keyspace: [u8; 8] = rest.array()?;
                let key = u16::from_le_bytes(rest.array()?);
                let value: [u8; 4] = rest.array()?;
                if compression != 0 || value != rest.array()? {
                    return None;
                }
                let key = rest.take(usize::from(key))?;
                let value = rest.take(u32::from_le_bytes(value) as usize)?;
                if key == COMMIT_KEY {
                    commit = value.try_into().ok().map(u64::from_be_bytes);
                }
            }
            CLEAR => {
                rest.take(8)?;
            }
            _ => return None,
        }
    }
    let items = &begin[..begin.len() - rest.0.len()];
    let is_end = rest.byte()? == END;
    let sum = u64::from_le_bytes(rest.array()?);
    let is_whole = is_end && rest.take(TRAILER.len())? == TRAILER && sum == xxh3_64(items);
    is_whole.then(|| Batch { length: bytes.len() - rest.0.len(), commit })
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::tests::{block_on, open, read, write};
    use super::*;

    /// A store with four commits, the last one of several sectors, closed; where its batches are.
    fn four_commits() -> (TempDir, PathBuf, Vec<(usize, usize)>) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).unwrap();
        for n in 0..4u8 {
            block_on(write(&store, &[b'k', n], &vec![n + 1; 3_000])).unwrap();
        }
        drop(store);
        let journal = dir.path().join("engine/0.jnl");
        let bytes = std::fs::read(&journal).unwrap();
        let (mut at, mut batches) = (0, Vec::new());
        while let Some(batch) = batch(&bytes[at..]) {
            batches.push((at, batch.length));
            at += batch.length;
        }
        assert!(batches.len() >= 5, "the engine's format is not as described: {batches:?}");
        assert_eq!(scan(&bytes).last_commit, Some(5));
        assert!(!scan(&bytes).is_torn);
        (dir, journal, batches)
    }

    fn clear(journal: &Path, at: usize, length: usize) {
        let mut bytes = std::fs::read(journal).unwrap();
        bytes[at..at + length].fill(0);
        std::fs::write(journal, bytes).unwrap();
    }

    /// As if the mirror's last write had not reached the disk either: it is not synced.
    fn forget_the_last_number(dir: &TempDir) {
        let path = dir.path().join("commit");
        let mut slots = std::fs::read(&path).unwrap();
        let newest = usize::from(slots[8..16] < slots[32..40]);
        slots[newest * 24..][..24].fill(0);
        std::fs::write(path, slots).unwrap();
    }

    #[test]
    fn a_last_batch_with_a_hole_was_never_acknowledged_and_is_cut_off() {
        let (_, _, batches) = four_commits();
        let (_, length) = *batches.last().unwrap();
        for (from, to) in [(0, 20), (20, 500), (512, 1024), (2_000, 2_010), (length - 12, length)] {
            let (dir, journal, batches) = four_commits();
            forget_the_last_number(&dir);
            clear(&journal, batches.last().unwrap().0 + from, to - from);
            let store = open(&dir).unwrap_or_else(|error| panic!("{from}..{to}: {error}"));
            assert_eq!(read(&store, b"k\x03"), Ok(None), "{from}..{to}");
            assert!(read(&store, b"k\x02").unwrap().is_some(), "{from}..{to}");
            block_on(write(&store, b"k\x03", b"again")).unwrap();
            drop(store);
            assert!(read(&open(&dir).unwrap(), b"k\x03").unwrap().is_some());
        }
    }

    #[test]
    fn what_a_start_has_found_is_missed_when_it_is_gone() {
        let (dir, journal, batches) = four_commits();
        forget_the_last_number(&dir);
        drop(open(&dir).unwrap());
        let (at, length) = *batches.last().unwrap();
        clear(&journal, at + length / 2, 100);
        let error = open(&dir).err().unwrap();
        assert!(matches!(error, OpenError::BackInTime { engine: 4, mirror: 5, .. }), "{error}");
    }

    #[test]
    fn acknowledged_batches_are_never_cut_off() {
        let (dir, journal, batches) = four_commits();
        clear(&journal, batches.last().unwrap().0 + 600, 100);
        let before = std::fs::read(&journal).unwrap();
        let error = open(&dir).err().unwrap();
        assert!(matches!(error, OpenError::BackInTime { engine: 4, mirror: 5, .. }), "{error}");
        assert_eq!(std::fs::read(&journal).unwrap(), before, "left as it is");

        for (nth, (at, length)) in batches.iter().enumerate().rev().skip(1) {
            for hole in [0, length / 2, length - 4] {
                let (dir, journal, _) = four_commits();
                forget_the_last_number(&dir);
                clear(&journal, at + hole, 4);
                let before = std::fs::read(&journal).unwrap();
                let error = open(&dir).err().unwrap();
                assert!(matches!(error, OpenError::Damaged { .. }), "batch {nth}: {error}");
                assert_eq!(std::fs::read(&journal).unwrap(), before, "left as it is");
            }
        }
    }
}
