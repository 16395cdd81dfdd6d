use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use futures_util::future::{FutureExt, join_all};
use tempfile::TempDir;

use super::shared::FatalError;
use super::spaces::Spaces;
use super::{Embedded, OpenError, Options};
use crate::{BoxFuture, CommitError, Kv, StoreError, Transaction, Version};

/// Ways into the committer.
#[derive(Default)]
pub(super) struct Hooks {
    hold: Mutex<bool>,
    released: Condvar,
    fail_writes: AtomicBool,
}

impl Hooks {
    pub(super) fn before_write(&self) -> Result<(), FatalError> {
        if self.fail_writes.load(Ordering::Relaxed) {
            return Err(FatalError { what: "no space left on device".to_owned() });
        }
        Ok(())
    }

    pub(super) fn before_group(&self) {
        let mut hold = self.hold.lock().unwrap();
        while *hold {
            hold = self.released.wait(hold).unwrap();
        }
    }

    fn set_hold(&self, on: bool) {
        *self.hold.lock().unwrap() = on;
        self.released.notify_all();
    }
}

/// Small, so that hundreds of them fit a test run.
fn options() -> Options {
    Options { cache_bytes: 1 << 20, memtable_bytes: 4 << 20, engine_threads: 1, ..Options::default() }
}

/// So small that a few megabytes are in tables.
pub(crate) fn small() -> Options {
    Options { memtable_bytes: 1 << 20, ..options() }
}

pub(super) fn open(dir: &TempDir) -> Result<Embedded, OpenError> {
    open_with(dir, options())
}

pub(crate) fn open_with(dir: &TempDir, options: Options) -> Result<Embedded, OpenError> {
    Embedded::open(dir.path(), options, Box::new(|_| {}))
}

/// A store that takes its directory with it.
pub(crate) struct Temporary {
    store: Embedded,
    _dir: TempDir,
}

impl Temporary {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { store: open(&dir).expect("an empty directory opens"), _dir: dir }
    }
}

impl Kv for Temporary {
    fn begin(&self) -> Box<dyn Transaction> {
        self.store.begin()
    }
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

pub(super) fn write(
    kv: &dyn Kv,
    key: &[u8],
    value: &[u8],
) -> BoxFuture<'static, Result<Version, CommitError>> {
    let mut tx = kv.begin();
    tx.set(key, Bytes::copy_from_slice(value));
    tx.commit()
}

pub(super) fn read(kv: &dyn Kv, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    block_on(kv.begin().get(key))
}

/// Writes below the adapter, as a faulty disk or an old backup would.
fn tamper(dir: &TempDir, key: &[u8], value: Option<&[u8]>) {
    let database = fjall::Database::builder(dir.path().join("engine")).open().expect("opens");
    let spaces = Spaces::open(&database, &Options::default()).expect("opens");
    let mut batch = database.batch().durability(Some(fjall::PersistMode::SyncAll));
    match value {
        Some(value) => batch.insert(spaces.of(key), key, value),
        None => batch.remove(spaces.of(key), key),
    }
    batch.commit().expect("commits");
}

#[test]
fn reopening_keeps_everything_and_versions_rise() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Version(0);
    for round in 0..4u8 {
        let store = open(&dir).unwrap();
        for earlier in 0..round {
            assert_eq!(read(&store, &[b'k', earlier]), Ok(Some(Bytes::from_static(b"v"))));
        }
        let version = block_on(write(&store, &[b'k', round], b"v")).unwrap();
        assert!(version > last);
        last = version;
    }
}

#[cfg(unix)]
#[test]
fn the_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    let _store = Embedded::open(&data, options(), Box::new(|_| {})).unwrap();
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_open_is_refused_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let text = open(&dir).err().unwrap().to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    drop(store);
    open(&dir).unwrap();
}

/// What was acknowledged is in the files at that moment, not in a buffer of this process.
#[test]
fn acknowledged_writes_are_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    for n in 0..20u8 {
        block_on(write(&store, &[b'k', n], &[n; 100])).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir.path(), copy.path());
    let crashed = open(&copy).unwrap();
    for n in 0..20u8 {
        assert_eq!(read(&crashed, &[b'k', n]), Ok(Some(Bytes::copy_from_slice(&[n; 100]))));
    }
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_tree(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

#[test]
fn groups_can_be_counted_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(super::commit_number(dir.path()), None);
    let store = open(&dir).unwrap();
    let before = super::commit_number(dir.path()).unwrap();
    for n in 0..3u8 {
        block_on(write(&store, b"k", &[n])).unwrap();
    }
    assert_eq!(super::commit_number(dir.path()), Some(before + 3));
    assert_eq!(store.metrics().groups, 3);
}

#[test]
fn a_store_that_went_back_in_time_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    block_on(write(&open(&dir).unwrap(), b"kept", b"1")).unwrap();
    copy_tree(&dir.path().join("engine"), backup.path());
    block_on(write(&open(&dir).unwrap(), b"lost", b"1")).unwrap();
    std::fs::remove_dir_all(dir.path().join("engine")).unwrap();
    std::fs::create_dir(dir.path().join("engine")).unwrap();
    copy_tree(backup.path(), &dir.path().join("engine"));
    let error = open(&dir).err().unwrap();
    assert!(matches!(error, OpenError::BackInTime { engine: 2, mirror: 3, .. }), "{error}");
}

/// A journal that lost its end is opened by the engine without a word.
#[test]
fn a_journal_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    for n in 0..10u8 {
        block_on(write(&store, &[b'k', n], &[n; 100])).unwrap();
    }
    drop(store);
    let journal = dir.path().join("engine/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end - 60..].fill(0);
    std::fs::write(&journal, bytes).unwrap();
    let error = open(&dir).err().unwrap();
    assert!(matches!(error, OpenError::BackInTime { .. } | OpenError::Engine { .. }), "{error}");
}

#[test]
fn missing_or_damaged_files_are_refused() {
    type Damage = fn(&std::path::Path);
    let damage: [(&str, Damage, &str); 6] = [
        ("commit", |path| std::fs::remove_file(path).unwrap(), "missing"),
        ("commit", |path| std::fs::write(path, [7; 48]).unwrap(), "damaged"),
        ("format", |path| std::fs::remove_file(path).unwrap(), "missing"),
        ("format", |path| std::fs::write(path, "tern-store 1\n").unwrap(), "\"tern-store 1\""),
        ("engine", |path| std::fs::remove_dir_all(path).unwrap(), "missing"),
        ("engine/version", |path| std::fs::write(path, "FJL9").unwrap(), "engine"),
    ];
    for (file, damage, expected) in damage {
        let dir = tempfile::tempdir().unwrap();
        block_on(write(&open(&dir).unwrap(), b"k", b"v")).unwrap();
        damage(&dir.path().join(file));
        let text = open(&dir).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains(expected), "{file}: {text:?}");
    }
}

#[test]
fn one_torn_write_of_the_commit_number_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    for n in 0..3u8 {
        block_on(write(&store, &[b'k', n], b"v")).unwrap();
    }
    drop(store);
    let path = dir.path().join("commit");
    let good = std::fs::read(&path).unwrap();
    for slot in 0..2 {
        let mut torn = good.clone();
        torn[slot * 24 + 15] ^= 0x40;
        std::fs::write(&path, torn).unwrap();
        assert!(open(&dir).is_ok(), "slot {slot}");
    }
}

#[test]
fn a_half_created_store_is_created_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir).unwrap());
    std::fs::remove_file(dir.path().join("format")).unwrap();
    let store = open(&dir).unwrap();
    block_on(write(&store, b"k", b"v")).unwrap();
}

/// As a power failure may leave it: names without contents.
#[test]
fn a_store_whose_creation_was_cut_short_is_created_anew() {
    let leftovers: [&[&str]; 4] = [
        &[],
        &["commit"],
        &["engine/lock", "engine/0.jnl"],
        &["commit", "engine/version", "engine/0.jnl", "engine/keyspaces/0/current"],
    ];
    for names in leftovers {
        let dir = tempfile::tempdir().unwrap();
        for name in ["format.new"].iter().chain(names) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, if *name == "commit" { "torn" } else { "" }).unwrap();
        }
        let store = open(&dir).unwrap_or_else(|error| panic!("{names:?}: {error}"));
        block_on(write(&store, b"k", b"v")).unwrap();
        drop(store);
        assert!(!dir.path().join("format.new").exists());
        assert!(read(&open(&dir).unwrap(), b"k").unwrap().is_some(), "{names:?}");
    }
}

/// However the mark of an unfinished store got there.
#[test]
fn a_store_that_was_used_is_never_created_anew() {
    let dir = tempfile::tempdir().unwrap();
    block_on(write(&open(&dir).unwrap(), b"k", b"v")).unwrap();
    std::fs::rename(dir.path().join("format"), dir.path().join("format.new")).unwrap();
    let text = open(&dir).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("missing"), "{text:?}");
    std::fs::rename(dir.path().join("format.new"), dir.path().join("format")).unwrap();
    assert!(read(&open(&dir).unwrap(), b"k").unwrap().is_some());
}

#[test]
fn commits_that_wait_together_share_a_sync() {
    let store = Temporary::new();
    store.store.shared.hooks.set_hold(true);
    // The committer may be past the hook already, waiting for work: this one gets it out of there.
    let first = write(&store, b"first", b"v");
    let commits: Vec<_> = (0..100u8).map(|n| write(&store, &[b'k', n], b"v")).collect();
    store.store.shared.hooks.set_hold(false);
    let versions = block_on(async { (first.await, join_all(commits).await) }).1;
    let metrics = store.store.metrics();
    assert_eq!(metrics.commits, 101);
    assert!(metrics.groups <= 3, "{metrics:?}");
    assert_eq!((metrics.group_sizes.sum, metrics.group_sizes.count()), (101, metrics.groups));
    assert_eq!((metrics.write_micros.count(), metrics.writing_for), (metrics.groups, None));
    assert!(versions.iter().all(Result::is_ok));
}

#[test]
fn a_full_queue_refuses() {
    for limits in [Options { queue_max: 4, ..options() }, Options { queue_bytes: 12, ..options() }] {
        let dir = tempfile::tempdir().unwrap();
        let store = open_with(&dir, limits).unwrap();
        store.shared.hooks.set_hold(true);
        // The committer may be past the hook already, waiting for work: this one gets it out of there.
        let first = write(&store, b"first", b"v");
        let commits: Vec<_> = (0..20u8).map(|n| write(&store, &[b'k', n], b"v")).collect();
        store.shared.hooks.set_hold(false);
        block_on(first).unwrap();
        let results = block_on(join_all(commits));
        let overloaded = results.iter().filter(|result| **result == Err(CommitError::Overloaded)).count();
        assert!(overloaded >= 13, "{overloaded} of 20 were refused");
        assert_eq!(store.metrics().overloaded, overloaded as u64);
        for (n, result) in results.iter().enumerate() {
            assert_eq!(read(&store, &[b'k', n as u8]).unwrap().is_some(), result.is_ok());
        }
        block_on(write(&store, b"later", &[7; 100])).unwrap();
    }
}

#[test]
fn nothing_is_answered_or_visible_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    let on_fatal = Box::new(move |_: &FatalError| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let store = Embedded::open(dir.path(), options(), on_fatal).unwrap();
    block_on(write(&store, b"before", b"v")).unwrap();
    let open_transaction = store.begin();
    assert_eq!(store.health(), Ok(()));
    store.shared.hooks.fail_writes.store(true, Ordering::Relaxed);
    let result = block_on(write(&store, b"k", b"v"));
    assert_eq!(result, Err(CommitError::Unknown { may_still_land: true }), "nobody knows what the disk has");
    let later = block_on(write(&store, b"later", b"v"));
    assert!(matches!(later, Err(CommitError::Failed(_))), "{later:?}");
    drop(open_transaction);
    let mut store = store;
    store.shared.stop();
    store.committer.take().unwrap().join().unwrap();
    assert!(matches!(block_on(write(&store, b"later", b"v")), Err(CommitError::Failed(_))));
    assert!(matches!(read(&store, b"before"), Err(StoreError::Failed(_))), "not even reads are trusted");
    assert_eq!(told.load(Ordering::Relaxed), 1, "the server was told once");
    assert!(store.health().is_err() && store.metrics().writing_for.is_some());
    drop(store);
    let store = open(&dir).unwrap();
    assert!(read(&store, b"before").unwrap().is_some());
    assert_eq!(read(&store, b"k"), Ok(None));
}

/// While a group waits for the disk, readers see the state before it.
#[test]
fn a_commit_in_flight_is_not_visible() {
    let store = Temporary::new();
    block_on(write(&store, b"warm", b"v")).unwrap();
    let mut commit = write(&store, b"k", b"v");
    loop {
        let seen = read(&store, b"k").unwrap().is_some();
        if let Some(result) = (&mut commit).now_or_never() {
            result.unwrap();
            break;
        }
        if seen {
            // It became visible between the two looks, so its answer is at most a moment away.
            block_on(&mut commit).unwrap();
            break;
        }
    }
    assert!(read(&store, b"k").unwrap().is_some(), "who has the answer sees it");
}

#[test]
fn a_counter_is_exact_under_threads() {
    let store = Temporary::new();
    let conflicts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    loop {
                        let mut tx = store.begin();
                        let stored = block_on(tx.get(b"count")).unwrap();
                        let count =
                            stored.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()));
                        tx.set(b"count", Bytes::copy_from_slice(&(count + 1).to_le_bytes()));
                        match block_on(tx.commit()) {
                            Ok(_) => break,
                            Err(CommitError::Conflict) => conflicts.fetch_add(1, Ordering::Relaxed),
                            Err(error) => panic!("{error}"),
                        };
                    }
                }
            });
        }
    });
    let count = read(&store, b"count").unwrap().unwrap();
    assert_eq!(u64::from_le_bytes(count[..].try_into().unwrap()), 200);
    assert_eq!(store.store.metrics().conflicts, conflicts.load(Ordering::Relaxed));
    assert_eq!(store.store.metrics().commits, 200);
}

/// Within one group: later transactions are checked against the earlier ones, and build on their values.
#[test]
fn transactions_of_one_group_see_each_other() {
    let store = Temporary::new();
    store.store.shared.hooks.set_hold(true);
    let first = write(&store, b"first", b"v");
    let mut commits = Vec::new();
    for n in 0..3u8 {
        let mut tx = store.begin();
        block_on(tx.get(b"head")).unwrap();
        tx.set(b"head", Bytes::copy_from_slice(&[n]));
        commits.push(tx.commit());
    }
    let mut tx = store.begin();
    tx.set(b"range/a", Bytes::new());
    tx.atomic_add(b"count", 5);
    commits.push(tx.commit());
    let mut tx = store.begin();
    tx.clear_range(b"range/", b"range0");
    tx.set(b"range/b", Bytes::new());
    tx.atomic_add(b"count", 5);
    commits.push(tx.commit());
    store.store.shared.hooks.set_hold(false);
    block_on(first).unwrap();
    let results = block_on(join_all(commits));
    assert!(results[0].is_ok());
    assert_eq!(results[1..3], [Err(CommitError::Conflict), Err(CommitError::Conflict)]);
    assert_eq!(read(&store, b"head"), Ok(Some(Bytes::from_static(&[0]))));
    assert_eq!(read(&store, b"range/a"), Ok(None));
    assert!(read(&store, b"range/b").unwrap().is_some());
    assert_eq!(read(&store, b"count"), Ok(Some(Bytes::copy_from_slice(&10u64.to_le_bytes()))));
}

#[test]
fn a_resolver_that_forgets_says_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(&dir, Options { resolver_keys: 3, ..options() }).unwrap();
    let mut old = store.begin();
    old.add_read_conflict(b"untouched");
    old.set(b"x", Bytes::new());
    for n in 0..5u8 {
        block_on(write(&store, &[b'k', n], b"v")).unwrap();
    }
    assert_eq!(block_on(old.commit()), Err(CommitError::TooOld));
    let mut many = store.begin();
    (0..9u8).for_each(|n| many.set(&[b'm', n], Bytes::new()));
    block_on(many.commit()).unwrap();
    block_on(write(&store, b"k", b"v")).unwrap();
}

#[test]
fn damaged_records_are_refused_at_open() {
    for prefix in [b'c', b'h', b'm', b'i', b'r', b'w', b'g'] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).unwrap();
        block_on(crate::ops::tests::sample(&store));
        let tx = store.begin();
        let rows = block_on(tx.range(crate::RangeQuery::new([prefix], [prefix + 1], 100))).unwrap();
        let (key, value) = rows.last().unwrap().clone();
        drop((tx, store));
        assert!(open(&dir).is_ok(), "healthy before");
        let mut damaged = value.to_vec();
        let last = damaged.len() - 1;
        if prefix == b'r' || prefix == b'w' {
            damaged.truncate(last)
        } else {
            damaged[last / 2] ^= 1
        };
        tamper(&dir, &key, Some(&damaged));
        let error = open(&dir).err().unwrap();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{}: {error}", prefix as char);
        tamper(&dir, &key, Some(&value));
        assert!(open(&dir).is_ok(), "healthy again");
    }
}

/// A head that is behind or ahead of its log.
#[test]
fn a_head_that_does_not_fit_its_log_is_refused() {
    use crate::keys::entry::EntryKey;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let (id, last) = block_on(crate::ops::tests::sample(&store));
    drop(store);
    let end = EntryKey { conversation: id, seq: last };
    let beyond = EntryKey { conversation: id, seq: last.next() };
    tamper(&dir, &beyond.encode(), Some(b"anything"));
    assert!(matches!(open(&dir).err().unwrap(), OpenError::Corrupt { .. }));
    tamper(&dir, &beyond.encode(), None);
    assert!(open(&dir).is_ok());
    tamper(&dir, &end.encode(), None);
    assert!(matches!(open(&dir).err().unwrap(), OpenError::Corrupt { .. }));
}

/// Whatever byte of the engine's files is flipped: the store refuses, or a read does, or nothing is wrong.
#[test]
fn flipped_bytes_never_pass_for_data() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(&dir, small()).unwrap();
    let key = |n: u32| [&b"k"[..], &n.to_be_bytes()].concat();
    let value = |n: u32| Bytes::from(n.to_le_bytes().repeat(250));
    for round in 0..40 {
        let mut tx = store.begin();
        (0..100).for_each(|n| tx.set(&key(round * 100 + n), value(round * 100 + n)));
        block_on(tx.commit()).unwrap();
    }
    drop(store);
    let mut files = Vec::new();
    list_files(&dir.path().join("engine"), &mut files);
    let largest = |extension: bool| {
        let of_kind = files.iter().filter(|path| path.extension().is_some() == extension);
        of_kind.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap().clone()
    };
    let (mut refused, mut harmless) = (0, 0);
    for path in [largest(true), largest(false)] {
        let length = std::fs::read(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        for part in 0..8 {
            let copy = tempfile::tempdir().unwrap();
            copy_tree(dir.path(), copy.path());
            let target = copy.path().join(path.strip_prefix(dir.path()).unwrap());
            let mut bytes = std::fs::read(&target).unwrap();
            bytes[length * part / 8 + 5] ^= 0x10;
            std::fs::write(&target, bytes).unwrap();
            let Ok(store) = open(&copy) else {
                refused += 1;
                continue;
            };
            let mut whole = true;
            for n in 0..4_000 {
                match read(&store, &key(n)) {
                    Ok(read) => assert_eq!(read, Some(value(n)), "{} part {part}: key {n}", path.display()),
                    Err(StoreError::Corrupt(_)) => whole = false,
                    Err(error) => panic!("{error}"),
                }
            }
            if whole { harmless += 1 } else { refused += 1 }
        }
    }
    assert!(refused > harmless, "{refused} refused, {harmless} harmless");
}

pub(crate) fn list_files(at: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for item in std::fs::read_dir(at).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() { list_files(&path, files) } else { files.push(path) }
    }
}
