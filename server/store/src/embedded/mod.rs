//! The embedded store: fjall underneath, group commit and conflict resolution on top.
//!
//! ```text
//!   begin ──► the newest published snapshot and its version            (any thread)
//!   commit ─► bounded queue ─► committer thread, for each group:
//!               1. take everything that queued while the last group was written
//!               2. resolve conflicts, one transaction after the other
//!               3. one fjall batch, one fdatasync
//!               4. mirror the commit number, publish the snapshot, answer the group
//! ```
//!
//! **Why a thread of our own.** fjall syncs under its journal lock, so concurrent commits would pay one fsync each.
//! Here a group pays one, and it forms by itself: whatever arrives during an fsync is the next group. No timer, so an
//! idle store commits at once.
//!
//! **What a reader sees.** Only the committer writes. After each durable group it takes a fjall snapshot and publishes
//! it together with the group's version; transactions share it. So a transaction's snapshot and its read version are
//! one thing, and nothing is visible before it is durable. (fjall applies a batch to its memtable after the sync.)
//! All transactions of a group commit at one version, as in FoundationDB.
//!
//! **Failed writes.** After any error of a write or an fsync, nobody knows what the disk has. The store stops for good:
//! the group in flight is answered "unknown, may still land" (a restart decides), everything later fails, and the
//! `on_fatal` hook is called, in which a server ends its process.
//!
//! **A power failure** may leave a group that was written and not synced with holes. It was not answered, and is cut off
//! before the engine reads its journals (`journal`).
//!
//! # Files in the data directory (created with mode 0700)
//!
//! | file | what | written |
//! |---|---|---|
//! | `lock` | locked (`flock`) by the process that has the store open; contains its process id | at open |
//! | `format` | `tern-store 2`: the version of everything here | once, last, when the store is created |
//! | `commit` | the commit number of the newest durable group: two slots of 24 bytes, written in turn | at open, and after each group |
//! | `engine/` | fjall's directory: journals `*.jnl`, tables under `keyspaces/` | by fjall |
//!
//! **A store that went back in time.** A file restored from a backup, a journal cut short by a damaged sector: fjall
//! opens them and starts from an older state, in which acknowledged messages are missing and their numbers would be
//! given out again. Therefore the number in `commit` lives outside the engine. It is written after the group is
//! durable, so it is never ahead of a healthy engine; when it is ahead at open, the store refuses to start. It is not
//! synced for each group: after a power loss it may be some seconds old, which weakens the check but raises no false
//! alarm. At open it is brought up to date and synced: what a start has found is missed when it is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::{Corrupt, Kv, Transaction};

mod check;
mod committer;
mod files;
mod journal;
mod shared;
mod spaces;
mod transaction;

#[cfg(test)]
pub(crate) mod tests;

use shared::Shared;
pub use shared::{FatalError, Metrics};

/// How to open the store. The defaults suit a small server; see each field for when to raise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Memory for blocks read from disk. Recent messages are in the memtable anyway; this is for the conversation
    /// list and history. Raise it to a fifth of the machine's memory.
    pub cache_bytes: u64,
    /// Writes kept in memory before they become a table, of entries and of everything else; up to five of each are
    /// held while compaction is behind, and then writes wait. Fixed when the store is created.
    pub memtable_bytes: u64,
    /// Journals kept on disk at most, at least 64 MiB. More means fewer forced flushes, and a longer replay at start.
    pub journal_bytes: u64,
    /// fjall's threads for flushing and compaction. With several, the first one hands compactions to itself in a loop
    /// for as long as the others compact.
    pub engine_threads: usize,
    /// Commits that may wait; more are refused with [`CommitError::Overloaded`](crate::CommitError::Overloaded).
    pub queue_max: usize,
    /// What the waiting commits may write together, in bytes; a single larger one is taken when nothing else waits.
    pub queue_bytes: usize,
    /// Bytes of one group, roughly: bounds what is written between two answers.
    pub group_bytes: usize,
    /// Recently written keys that the resolver remembers. A transaction that is older than the oldest of them cannot
    /// commit; at 20,000 messages a second with three keys each the default is 4 s.
    pub resolver_keys: usize,
    /// Whether to read and verify every record but the log's entries (of which only the newest of each conversation)
    /// at open. Takes a few seconds per million conversations.
    pub check_records: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            journal_bytes: 256 << 20,
            engine_threads: 1,
            queue_max: 16_384,
            queue_bytes: 64 << 20,
            group_bytes: 4 << 20,
            resolver_keys: 250_000,
            check_records: true,
        }
    }
}

/// The store refuses to open. The texts are for the person who operates it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("the data directory {path} is in use by {holder}; stop it first", path = .path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// "process 4711", if known.
        holder: String,
    },
    /// The files are of a version that this program does not know.
    #[error("the data directory {path} has format {found:?}, and this program knows {known:?} only; use the program \
             that wrote it, or a newer one", path = .path.display())]
    UnknownFormat {
        /// The data directory.
        path: PathBuf,
        /// What the file says.
        found: String,
        /// What it should say.
        known: &'static str,
    },
    /// The store holds fewer commits than it once did.
    #[error("the store in {path} went back in time: it has commits up to {engine}, but up to {mirror} were \
             acknowledged. Acknowledged messages are missing, and starting would give their numbers to new ones. \
             Move the whole directory away and restore a backup", path = .path.display())]
    BackInTime {
        /// The data directory.
        path: PathBuf,
        /// The commit number in the engine.
        engine: u64,
        /// The commit number in the file `commit`.
        mirror: u64,
    },
    /// A file is missing or damaged.
    #[error("{path}: {what}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A record is damaged.
    #[error("the store in {path} is damaged: {corrupt}. Move it away and restore a backup; without one, `ternd backup \
             --skip-damaged` saves what can be read", path = .path.display())]
    Corrupt {
        /// The data directory.
        path: PathBuf,
        /// Which record.
        corrupt: Corrupt,
    },
    /// The engine refuses, because of damaged files or an error of the operating system.
    #[error(
        "the storage engine cannot open {path}: {what}; if the disk is well and has room, move the whole data directory \
         away and restore a backup",
        path = .path.display()
    )]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// What it says.
        what: String,
    },
    /// The operating system refuses.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The number of the newest durable group of the store in this directory, which some process may have open: how much it
/// rises is how many groups were written. `None`: there is no store, or none that can be understood.
pub fn commit_number(path: &Path) -> Option<u64> {
    files::read_mirror(path)
}

/// A directory that this process has to itself.
#[derive(Debug)]
pub struct DirectoryLock(#[expect(dead_code, reason = "held")] std::fs::File);

/// Locks a directory, which is created if it is not there, as each store does its own: for what is done around a store.
///
/// # Errors
/// [`OpenError::InUse`], [`OpenError::Io`].
pub fn lock_directory(path: &Path) -> Result<DirectoryLock, OpenError> {
    files::create_directory(path)?;
    files::lock(path).map(DirectoryLock)
}

impl DirectoryLock {
    /// Removes the directory, unless something else than the lock is in it.
    pub fn remove(self, path: &Path) {
        if files::is_only_locked(path) {
            // Whoever cannot, leaves an empty directory.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Whether there is a complete store in this directory.
///
/// # Errors
/// [`OpenError::UnknownFormat`]; [`OpenError::Io`], also when it may not be looked at.
pub fn exists(path: &Path) -> Result<bool, OpenError> {
    files::read_format(path)
}

/// What to do when the store stops for good.
pub type OnFatal = Box<dyn Fn(&FatalError) + Send + Sync>;

/// The embedded store. Dropping it commits what is queued, syncs and closes; transactions that still exist keep
/// the directory locked.
pub struct Embedded {
    shared: Arc<Shared>,
    committer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store in this directory, or creates it.
    ///
    /// `on_fatal` is called once, on the committer's thread, when the store stops after a failed write. A server
    /// prints the error and ends the process there: a restart finds out what the disk has.
    pub fn open(path: &Path, options: Options, on_fatal: OnFatal) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::open(path, options, on_fatal)?);
        let for_thread = Arc::clone(&shared);
        let spawned = std::thread::Builder::new()
            .name("tern-committer".to_owned())
            .spawn(move || committer::run(&for_thread));
        let committer = spawned.map_err(|error| OpenError::Io { path: path.to_owned(), error })?;
        Ok(Self { shared, committer: Some(committer) })
    }

    /// What the store has done since it was opened.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// Whether it works; an error is for good.
    ///
    /// # Errors
    /// Why it has stopped.
    pub fn health(&self) -> Result<(), FatalError> {
        self.shared.health()
    }

    /// Bytes on disk, for monitoring.
    pub fn disk_bytes(&self) -> Result<u64, crate::StoreError> {
        self.shared.disk_bytes()
    }
}

impl Kv for Embedded {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(transaction::EmbeddedTransaction::new(Arc::clone(&self.shared)))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(committer) = self.committer.take() {
            // A panic of the committer has stopped the store and was reported; there is nothing to add here.
            let _ = committer.join();
        }
    }
}
