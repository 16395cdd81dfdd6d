//! What transactions and the committer share: the engine, the published snapshot, the queue, the state of health.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, PersistMode, Readable, Snapshot};
use futures_channel::oneshot;

use super::files::{self, Mirror};
use super::spaces::Spaces;
use super::{OnFatal, OpenError, Options, check, journal};
use crate::histogram::{self, Histogram};
use crate::keys::hex;
use crate::resolver::ReadSet;
use crate::writes::{Row, WriteSet};
use crate::{CommitError, Corrupt, RangeQuery, StoreError, Version};

/// Where the engine keeps its own commit number, in every batch: outside the space of the transactions' keys.
pub(super) const COMMIT_KEY: &[u8] = b"\xFFcommit";

/// Why the store has stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatalError {
    /// What was being done, and what the operating system or the engine said.
    pub what: String,
}

impl fmt::Display for FatalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the store has stopped, since a write failed and nobody knows what the disk has now: {}",
            self.what
        )
    }
}

impl std::error::Error for FatalError {}

/// What the store has done since it was opened, and what it is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Transactions with writes that were committed.
    pub commits: u64,
    /// Groups, each of which cost one fsync.
    pub groups: u64,
    /// Keys and values written to the engine, in bytes.
    pub bytes: u64,
    /// Commits refused because of a conflict.
    pub conflicts: u64,
    /// Commits refused because they were too old.
    pub too_old: u64,
    /// Commits refused because the queue was full.
    pub overloaded: u64,
    /// Commits that wait now.
    pub queued: u64,
    /// What they write together, in bytes.
    pub queued_bytes: u64,
    /// Transactions of each group.
    pub group_sizes: histogram::Snapshot,
    /// Microseconds from beginning to write a group until it is durable.
    pub write_micros: histogram::Snapshot,
    /// For how long a group has been written that is not durable yet: of a disk that is well, a moment.
    pub writing_for: Option<Duration>,
}

pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) too_old: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) group_sizes: Histogram,
    write_micros: Histogram,
    writing_since: Mutex<Option<Instant>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            commits: AtomicU64::default(),
            groups: AtomicU64::default(),
            bytes: AtomicU64::default(),
            conflicts: AtomicU64::default(),
            too_old: AtomicU64::default(),
            overloaded: AtomicU64::default(),
            group_sizes: Histogram::new(histogram::SIZES),
            write_micros: Histogram::new(histogram::MICROS),
            writing_since: Mutex::default(),
        }
    }
}

/// A snapshot of the engine and its version: one thing.
pub(super) struct Published {
    pub(super) version: Version,
    snapshot: Snapshot,
}

/// The way back to whoever commits.
pub(super) type Answer = oneshot::Sender<Result<Version, CommitError>>;

/// A commit on its way.
pub(super) struct Request {
    pub(super) read_version: Version,
    pub(super) reads: ReadSet,
    pub(super) writes: WriteSet,
    pub(super) answer: Answer,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// What they write.
    bytes: usize,
    stopping: bool,
    /// The committer sleeps: waking it is a system call, also when it does not.
    idle: bool,
}

/// The parts that only the committer uses.
pub(super) struct Writer {
    pub(super) mirror: Mirror,
    pub(super) version: Version,
}

// The fields are dropped in this order: the engine's handles before the lock.
pub(super) struct Shared {
    published: RwLock<Arc<Published>>,
    spaces: Spaces,
    database: Database,
    queue: Mutex<Queue>,
    wake: Condvar,
    failed: OnceLock<FatalError>,
    on_fatal: OnFatal,
    engine_path: PathBuf,
    writer: Mutex<Writer>,
    pub(super) counters: Counters,
    pub(super) options: Options,
    #[cfg(test)]
    pub(super) hooks: super::tests::Hooks,
    _lock: File,
}

/// No code of ours panics while it holds one of these locks in a state that others must not see.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn count(&self, result: &Result<Version, CommitError>) {
        match result {
            Ok(_) => add(&self.commits, 1),
            Err(CommitError::Conflict) => add(&self.conflicts, 1),
            Err(CommitError::TooOld) => add(&self.too_old, 1),
            Err(CommitError::Overloaded) => add(&self.overloaded, 1),
            Err(_) => {}
        }
    }
}

impl Shared {
    pub(super) fn open(data: &Path, options: Options, on_fatal: OnFatal) -> Result<Self, OpenError> {
        files::create_directory(data)?;
        let lock = files::lock(data)?;
        let complete = files::read_format(data)?;
        let engine_path = files::engine_path(data);
        let commit_path = data.join("commit");
        let damaged =
            |path: &Path, what: &str| OpenError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let unmarked = || {
            damaged(&data.join("format"), "is missing; move the whole directory away and restore a backup")
        };
        if !complete {
            if files::is_unfinished(data) {
                // An engine whose creation was cut short cannot be opened, and was never used.
                if journal::last_commit(&engine_path)?.is_some_and(|last| last > 1) {
                    return Err(unmarked());
                }
                files::remove_unfinished(data)?;
            }
            if !engine_path.exists() {
                files::begin_creation(data)?;
            }
        }
        let (mut mirror, mirrored) = Mirror::open(data)?;
        if complete && mirrored.is_none() {
            return Err(damaged(
                &commit_path,
                "is missing; move the whole directory away and restore a backup",
            ));
        }
        if complete && !engine_path.is_dir() {
            return Err(damaged(
                &engine_path,
                "is missing; move the whole directory away and restore a backup",
            ));
        }
        journal::repair(data, &engine_path, mirrored.unwrap_or(0))?;
        files::sync_path(data)?;
        let engine_error = |error: fjall::Error| refusal(data, &engine_path, &error);
        let builder = Database::builder(&engine_path)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes.max(64 << 20))
            .worker_threads(options.engine_threads.max(1))
            // Every batch of ours says how durable it is.
            .manual_journal_persist(true);
        // The engine meets some damage with a panic, and a refusal is what that amounts to.
        let database = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.open()))
            .map_err(|_| {
                damaged(&engine_path, "is damaged beyond what the storage engine can tell; move the whole directory away and restore a backup")
            })?
            .map_err(engine_error)?;
        let spaces = Spaces::open(&database, &options).map_err(engine_error)?;
        let stored = database.snapshot().get(spaces.of(COMMIT_KEY), COMMIT_KEY).map_err(engine_error)?;
        let engine = match stored {
            Some(number) => Some(
                (&*number)
                    .try_into()
                    .map(u64::from_be_bytes)
                    .map_err(|_| damaged(&engine_path, "no commit number"))?,
            ),
            None => None,
        };
        let version = match (complete, engine.unwrap_or(0), mirrored.unwrap_or(0)) {
            (_, engine, mirror) if engine < mirror => {
                return Err(OpenError::BackInTime { path: data.to_owned(), engine, mirror });
            }
            (false, engine, _) if engine > 1 => return Err(unmarked()),
            (true, engine, _) => {
                // What is shown from here on is durable. Were it gone one day, nobody could tell from a number that is as
                // old as the last power failure has left it.
                mirror.write(engine).and_then(|()| mirror.sync()).map_err(files::io(&commit_path))?;
                engine
            }
            (false, ..) => {
                let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
                batch.insert(spaces.of(COMMIT_KEY), COMMIT_KEY, 1u64.to_be_bytes());
                batch.commit().map_err(engine_error)?;
                mirror.write(1).and_then(|()| mirror.sync()).map_err(files::io(&commit_path))?;
                files::finish_creation(data)?;
                1
            }
        };
        let published = Published { version: Version(version), snapshot: database.snapshot() };
        let shared = Self {
            published: RwLock::new(Arc::new(published)),
            spaces,
            database,
            queue: Mutex::default(),
            wake: Condvar::new(),
            failed: OnceLock::new(),
            on_fatal,
            engine_path: engine_path.clone(),
            writer: Mutex::new(Writer { mirror, version: Version(version) }),
            counters: Counters::default(),
            options,
            #[cfg(test)]
            hooks: super::tests::Hooks::default(),
            _lock: lock,
        };
        if options.check_records {
            let published = shared.published();
            check::records(|query| shared.scan(&published, query)).map_err(|error| match error {
                StoreError::Corrupt(corrupt) => OpenError::Corrupt { path: data.to_owned(), corrupt },
                other => OpenError::Engine { path: engine_path.clone(), what: other.to_string() },
            })?;
        }
        Ok(shared)
    }

    // ------------------------------------------------------------------------------------------ reading

    pub(super) fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn health(&self) -> Result<(), FatalError> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn readable(&self) -> Result<(), StoreError> {
        self.health().map_err(|error| StoreError::Failed(error.what))
    }

    pub(super) fn get(&self, at: &Published, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.readable()?;
        // Copied, so that a small value does not keep a whole block of the engine's in memory.
        match at.snapshot.get(self.spaces.of(key), key) {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(error) => Err(unreadable(key, &error)),
        }
    }

    pub(super) fn scan(&self, at: &Published, query: &RangeQuery) -> Result<Vec<Row>, StoreError> {
        self.readable()?;
        let mut rows = Vec::new();
        if query.begin >= query.end {
            return Ok(rows);
        }
        let mut bytes = 0;
        for (keyspace, begin, end) in self.spaces.parts(&query.begin, &query.end, query.reverse) {
            let bounds = (Bound::Included(begin), Bound::Excluded(end));
            let mut iterator = at.snapshot.range::<&[u8], _>(keyspace, bounds);
            while rows.len() < query.rows_max && bytes < query.bytes_max {
                let Some(row) = (if query.reverse { iterator.next_back() } else { iterator.next() }) else {
                    break;
                };
                let (key, value) = row.into_inner().map_err(|error| unreadable(&query.begin, &error))?;
                bytes += key.len() + value.len();
                rows.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
            }
        }
        Ok(rows)
    }

    pub(super) fn metrics(&self) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (queued, queued_bytes) = {
            let queue = lock(&self.queue);
            (queue.requests.len() as u64, queue.bytes as u64)
        };
        Metrics {
            commits: read(&self.counters.commits),
            groups: read(&self.counters.groups),
            bytes: read(&self.counters.bytes),
            conflicts: read(&self.counters.conflicts),
            too_old: read(&self.counters.too_old),
            overloaded: read(&self.counters.overloaded),
            queued,
            queued_bytes,
            group_sizes: self.counters.group_sizes.snapshot(),
            write_micros: self.counters.write_micros.snapshot(),
            writing_for: lock(&self.counters.writing_since).map(|since| since.elapsed()),
        }
    }

    pub(super) fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.database.disk_space().map_err(|error| StoreError::Failed(error.to_string()))
    }

    // ------------------------------------------------------------------------------------------ the queue

    /// Tells what became of a commit.
    pub(super) fn answer(&self, sender: Answer, result: Result<Version, CommitError>) {
        self.counters.count(&result);
        // Nobody listens when the caller has dropped the future.
        let _ = sender.send(result);
    }

    /// Hands a commit to the committer, unless there are too many already.
    pub(super) fn submit(&self, request: Request) {
        let refuse = |request: Request, error: CommitError| self.answer(request.answer, Err(error));
        let mut queue = lock(&self.queue);
        // Asked under the lock: `fail` first marks the store and then empties the queue, so nothing is left behind.
        if let Err(error) = self.health() {
            drop(queue);
            return refuse(request, CommitError::Failed(error.what));
        }
        if queue.stopping {
            drop(queue);
            return refuse(request, CommitError::Unavailable);
        }
        let bytes = queue.bytes.saturating_add(request.writes.bytes());
        let full = queue.requests.len() >= self.options.queue_max || bytes > self.options.queue_bytes;
        if full && !queue.requests.is_empty() {
            drop(queue);
            return refuse(request, CommitError::Overloaded);
        }
        queue.bytes = bytes;
        queue.requests.push_back(request);
        let idle = queue.idle;
        drop(queue);
        if idle {
            self.wake.notify_one();
        }
    }

    /// Waits for commits and takes all that are there, up to the size of a group. `None`: the store is being closed.
    pub(super) fn take_group(&self) -> Option<Vec<Request>> {
        let mut queue = lock(&self.queue);
        while queue.requests.is_empty() {
            if queue.stopping {
                return None;
            }
            queue.idle = true;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle = false;
        }
        let mut bytes = 0;
        let mut group = Vec::with_capacity(queue.requests.len());
        while bytes < self.options.group_bytes {
            let Some(request) = queue.requests.pop_front() else { break };
            bytes += request.writes.bytes();
            group.push(request);
        }
        queue.bytes -= bytes;
        Some(group)
    }

    /// The committer ends when the queue is empty.
    pub(super) fn stop(&self) {
        lock(&self.queue).stopping = true;
        self.wake.notify_one();
    }

    // ------------------------------------------------------------------------------------------ writing

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    /// Writes a group to the engine, durably. On return it is visible to new snapshots of the engine.
    pub(super) fn write_durably(
        &self,
        version: Version,
        rows: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>,
    ) -> Result<(), FatalError> {
        let begin = Instant::now();
        *lock(&self.counters.writing_since) = Some(begin);
        #[cfg(test)]
        self.hooks.before_write()?;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        let mut bytes = 0;
        for (key, value) in rows {
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            match value {
                Some(value) => batch.insert(self.spaces.of(&key), &key[..], &value[..]),
                None => batch.remove(self.spaces.of(&key), &key[..]),
            }
        }
        batch.insert(self.spaces.of(COMMIT_KEY), COMMIT_KEY, version.0.to_be_bytes());
        batch.commit().map_err(|error| {
            let engine = self.engine_path.display();
            FatalError { what: format!("writing commit {} to the journal in {engine}: {error}", version.0) }
        })?;
        add(&self.counters.bytes, bytes as u64);
        add(&self.counters.groups, 1);
        *lock(&self.counters.writing_since) = None;
        self.counters.write_micros.record(begin.elapsed().as_micros() as u64);
        Ok(())
    }

    /// Shows what is durable to new transactions.
    pub(super) fn publish(&self, version: Version) {
        let published = Arc::new(Published { version, snapshot: self.database.snapshot() });
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = published;
    }

    /// Stops the store for good. `group` is what was being committed: a restart decides whether it exists, so it may
    /// still land.
    pub(super) fn fail(&self, error: FatalError, group: Vec<Answer>) {
        let first = self.failed.set(error.clone()).is_ok();
        // Whoever hears of it finds the store stopped, and before the process may end.
        for sender in group {
            self.answer(sender, Err(CommitError::Unknown { may_still_land: true }));
        }
        if first {
            (self.on_fatal)(&error);
        }
        let waiting = std::mem::take(&mut lock(&self.queue).requests);
        for request in waiting {
            let _ = request.answer.send(Err(CommitError::Failed(error.what.clone())));
        }
    }
}

fn unreadable(key: &[u8], error: &fjall::Error) -> StoreError {
    StoreError::Corrupt(Corrupt::new("engine", hex(key), damage(error).unwrap_or_else(|| error.to_string())))
}

/// Why the engine does not open. It names no file.
fn refusal(data: &Path, engine: &Path, error: &fjall::Error) -> OpenError {
    let path = engine.to_owned();
    match damage(error) {
        Some(damage) => {
            let what = format!(
                "has a damaged file, and the storage engine does not say which ({damage}). Nothing can be read without \
                 it, so `ternd backup --skip-damaged` does not help: move {} away as a whole and restore a backup",
                data.display()
            );
            OpenError::Damaged { path, what }
        }
        None => OpenError::Engine { path, what: error.to_string() },
    }
}

/// In plain words, if it is about what the files hold rather than about the system.
fn damage(error: &fjall::Error) -> Option<String> {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};

    use fjall::{Error, LsmError};
    match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => match error.kind() {
            // InvalidInput: it looks for what stands before the end.
            UnexpectedEof | InvalidInput => Some("a file is cut off".to_owned()),
            NotFound => Some("a file is missing".to_owned()),
            InvalidData => Some("invalid data".to_owned()),
            _ => None,
        },
        Error::Storage(LsmError::ChecksumMismatch { .. }) => Some("checksum mismatch".to_owned()),
        Error::Unrecoverable | Error::Storage(LsmError::Unrecoverable) => {
            Some("a file is missing or damaged".to_owned())
        }
        Error::Locked | Error::Poisoned | Error::KeyspaceDeleted => None,
        _ => Some("a file is not what was written".to_owned()),
    }
}
