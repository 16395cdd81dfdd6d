//! Around damage of every shape.

use bytes::Bytes;
use tern_protocol::ids::{Seq, StoreEpoch};

use super::*;
use crate::backup::{restore, write_readable};
use crate::embedded::Options;
use crate::embedded::tests::{list_files, open_with, small};
use crate::keys::epoch::EpochKey;
use crate::keys::member::MemberKey;
use crate::memory::Memory;
use crate::ops::tests::{Owner, block_on, device, group, message, user};
use crate::{Kv, SYSTEM_SPACE};

/// A transaction of a store of which some keys cannot be read.
pub(crate) struct BadBlocks<F> {
    pub(crate) tx: Box<dyn Transaction>,
    pub(crate) is_bad: F,
}

impl<F> BadBlocks<F> {
    fn corrupt<T>(&self) -> crate::BoxFuture<'_, Result<T, StoreError>>
    where
        T: Send + 'static,
    {
        let corrupt = Corrupt::new("engine", "", "a bad block");
        Box::pin(std::future::ready(Err(corrupt.into())))
    }
}

impl<F: Fn(&[u8]) -> bool + Send + Sync> Transaction for BadBlocks<F> {
    fn read_version(&self) -> crate::BoxFuture<'_, Result<crate::Version, StoreError>> {
        self.tx.read_version()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> crate::BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        if (self.is_bad)(key) { self.corrupt() } else { self.tx.get(key) }
    }

    fn get_snapshot<'a>(&'a self, key: &'a [u8]) -> crate::BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        if (self.is_bad)(key) { self.corrupt() } else { self.tx.get_snapshot(key) }
    }

    fn range(&self, query: RangeQuery) -> crate::BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(async {
            let rows = self.tx.range(query).await?;
            if rows.iter().any(|(key, _)| (self.is_bad)(key)) { self.corrupt().await } else { Ok(rows) }
        })
    }

    fn set(&mut self, key: &[u8], value: Bytes) {
        self.tx.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.tx.clear(key);
    }

    fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        self.tx.clear_range(begin, end);
    }

    fn atomic_max(&mut self, key: &[u8], value: u64) {
        self.tx.atomic_max(key, value);
    }

    fn atomic_add(&mut self, key: &[u8], value: u64) {
        self.tx.atomic_add(key, value);
    }

    fn add_read_conflict(&mut self, key: &[u8]) {
        self.tx.add_read_conflict(key);
    }

    fn set_read_version(&mut self, version: crate::Version) {
        self.tx.set_read_version(version);
    }

    fn commit(self: Box<Self>) -> crate::BoxFuture<'static, Result<crate::Version, crate::CommitError>> {
        self.tx.commit()
    }
}

/// Two groups with 300 and 30 entries.
fn filled(kv: &dyn Kv) {
    for (id, hundreds) in [(1, 3), (2, 1)] {
        let owner = Owner { kv, id: group(id) };
        block_on(owner.create(&["anna", "ben"]));
        for n in 0..hundreds {
            block_on(owner.messages(device("ben", 1), 1 + n * 100, 100));
        }
    }
}

/// All but the epoch, which is the store's own and not the backup's.
fn rows(kv: &dyn Kv) -> Vec<Row> {
    let query = RangeQuery::new([0], SYSTEM_SPACE, usize::MAX);
    let mut rows = block_on(kv.begin().range(query)).expect("readable");
    rows.retain(|(key, _)| key[..] != EpochKey.encode());
    rows
}

/// What of a damaged store can be restored, and what is said to be lost.
fn salvaged(tx: &dyn Transaction) -> (Vec<Row>, Vec<String>) {
    let (mut backup, mut lost) = (Vec::new(), Vec::new());
    block_on(write_readable(tx, &mut backup, &mut |corrupt| lost.push(corrupt.to_string())))
        .expect("written");
    let restored = Memory::new();
    block_on(restore(&backup[..], &restored, StoreEpoch::from_bytes([9; 16]))).expect("a good backup");
    (rows(&restored), lost)
}

fn entry(id: u8, seq: u64) -> Vec<u8> {
    EntryKey { conversation: group(id), seq: Seq(seq) }.encode().into()
}

#[test]
fn all_but_what_is_damaged_is_there() {
    let kv = Memory::new();
    filled(&kv);
    let all = rows(&kv);
    let check = |is_bad: &(dyn Fn(&[u8]) -> bool + Sync), expected: &[&str]| {
        let (kept, lost) = salvaged(&BadBlocks { tx: kv.begin(), is_bad });
        let good: Vec<_> = all.iter().filter(|(key, _)| !is_bad(key)).cloned().collect();
        assert_eq!(kept.len(), good.len(), "{lost:#?}");
        assert_eq!(kept, good);
        assert_eq!(lost.len(), expected.len(), "{lost:#?}");
        for (line, part) in lost.iter().zip(expected) {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    };
    let between = |begin: Vec<u8>, end: Vec<u8>| move |key: &[u8]| *key >= begin[..] && *key < end[..];
    check(&|_| false, &[]);
    check(&|key| key == entry(1, 7), &["entries 7 to 7"]);
    check(&|key| key == entry(1, 1), &["entries 1 to 1"]);
    check(&between(entry(1, 17), entry(1, 230)), &["entries 17 to 229"]);
    check(
        &|key| [7, 9, 11].map(|seq| entry(1, seq)).contains(&key.to_vec()),
        &["7 to 7", "9 to 9", "11 to 11"],
    );
    // Over the end of one log and the beginning of the next one.
    check(&between(entry(1, 290), entry(2, 3)), &["entries 290 to 301", "entries 1 to 2"]);
    check(&between(entry(2, 90), vec![EntryKey::PREFIX + 1]), &["entries 90 to 101"]);
    let member = |name: &str| MemberKey { conversation: group(1), user: user(name) }.encode();
    check(&|key| key == member("anna"), &["member record of conversation 01"]);
    check(
        &between(vec![MemberKey::PREFIX], vec![0xFF]),
        &["member record from the first to the last", "from the first to user"],
    );
    check(&|_| true, &[""; 7]);
}

/// A real store, in whose largest files some bytes are others.
#[test]
fn a_damaged_file_costs_what_is_in_it_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_with(&dir, small()).expect("an empty directory opens");
    let owner = Owner { kv: &store, id: group(1) };
    block_on(owner.create(&["anna", "ben"]));
    let text = "x".repeat(1_000);
    for n in 0..40 {
        let changes = (0..100).map(|_| message(&text)).collect();
        block_on(owner.append(device("ben", 1), 1 + n * 100, changes));
    }
    let all = rows(&store);
    drop(store);
    let mut files = Vec::new();
    list_files(&dir.path().join("engine"), &mut files);
    files.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).expect("a file").len()));
    let (mut tries, mut damages) = (0, 0);
    for path in files.iter().take(4) {
        let intact = std::fs::read(path).expect("readable");
        let length = intact.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let mut bytes = intact.clone();
        for part in [2, 5] {
            bytes[length * part / 8] ^= 0x10;
        }
        std::fs::write(path, &bytes).expect("written");
        if let Ok(store) = open_with(&dir, Options { check_records: false, ..small() }) {
            tries += 1;
            let (kept, lost) = salvaged(&*store.begin());
            damages += usize::from(!lost.is_empty());
            assert!(kept.iter().all(|row| all.binary_search(row).is_ok()), "nothing that was never there");
            let missing = all.len() - kept.len();
            assert_eq!(missing == 0, lost.is_empty(), "{lost:#?}");
            assert!(missing < all.len() / 4, "{} of {} are missing: {lost:#?}", missing, all.len());
        }
        std::fs::write(path, &intact).expect("written");
    }
    assert!(damages > 0, "{tries} stores could be opened, and nothing was wrong with them");
}

#[test]
fn positions_are_numbers() {
    let at = |last: u16| {
        let mut position = [0; POSITION_BYTES];
        position[POSITION_BYTES - 2..].copy_from_slice(&last.to_be_bytes());
        position
    };
    assert_eq!(plus(&at(0xFF), 0), Some(at(0x100)));
    assert_eq!(plus(&at(0x01), 9), Some(at(0x201)));
    assert_eq!(plus(&[0xFF; POSITION_BYTES], 0), None);
    assert_eq!(middle(&at(0x1FE), &at(0x200)), Some(at(0x1FF)));
    assert_eq!(middle(&at(0x1FF), &at(0x200)), None);
    assert_eq!(middle(&[0xFE; POSITION_BYTES], &[0xFF; POSITION_BYTES]).map(|p| p[0]), Some(0xFF));
}
