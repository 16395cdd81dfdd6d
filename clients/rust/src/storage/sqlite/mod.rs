//! State, outbox and a local history in one SQLite database.
//!
//! - A batch of records is one transaction. With a vital record in it the write-ahead log is synced before
//!   [`append`](Storage::append) returns, otherwise the operating system writes it when it likes: a transaction is
//!   whole or absent in any case, and none is there without those before it.
//! - A second client is kept out by a lock on `<file>.lock`; the operating system lets go of it when a process ends.
//!   What knows nothing of it (SQLite's shell, a backup) is waited for, for a while.
//! - Reading the local history takes a connection of its own, and waits for no write.

mod blob;
mod history;
mod lost;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};
use tern_protocol::event::ConversationState;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, StoreEpoch, UserId};
use tern_protocol::model::{Change, Entry, Role, Target};

use super::{Marks, RECENT_MAX, Record, State, Storage, StorageError, StoredConversation};
pub use history::{LocalConversation, LocalHistory, LostMessage, Unsent};

/// "Tern", in the header of the database.
const APPLICATION_ID: i64 = 0x5465_726e;
const SCHEMA_VERSION: i64 = 2;
const SCHEMA: &str = concat!(include_str!("schema.sql"), include_str!("lost.sql"));
/// What version 2 added.
const FROM_VERSION_1: &str = concat!("ALTER TABLE device ADD COLUMN epoch BLOB;", include_str!("lost.sql"));
/// The write-ahead log is cut back to this when it has been copied into the database.
const LOG_BYTES: i64 = 4 << 20;
/// So long another program that writes to the database is waited for, and SQLite's own short exclusive moments
/// (opening, recovery).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries dropped at once when the history is full.
const DROP_ENTRIES: i64 = 256;
/// See [`SqliteStorage::history_bytes_max`].
const HISTORY_BYTES_MAX: u64 = 256 << 20;

/// Keeps the state, what is to be sent and the conversations in an SQLite database: what an app on a device wants.
///
/// The schema is the client's own and may change; read through [`LocalHistory`]. Beside the database there are
/// `<file>.lock`, and `<file>-wal` and `<file>-shm` while it is open.
///
/// A file that comes back from a backup of the device is brought up to date: what the device has received since is handed
/// over once more, and messages get new numbers where theirs were used since. Two copies of a file in use at the same time
/// are one device that is connected twice, and throw each other out.
#[derive(Debug)]
pub struct SqliteStorage {
    path: PathBuf,
    connection: Connection,
    _lock: File,
    device: Option<DeviceId>,
    user: Option<UserId>,
    moves: i64,
    history_bytes: i64,
    history_bytes_max: u64,
    poisoned: bool,
}

impl SqliteStorage {
    /// Opens the database at `path`, or begins one there; its directory is made when missing.
    ///
    /// Blocks for as long as the disk takes, and some seconds when another program has locked the database: where
    /// that would hold up others, call it in `tokio::task::spawn_blocking`. Once a client has the storage, it does so
    /// itself.
    ///
    /// # Errors
    /// [`StorageError::InUse`] when another client has it open or another program has locked it, [`StorageError::Foreign`] when the file is something
    /// else or of a newer version, [`StorageError::Damaged`], [`StorageError::Io`], [`StorageError::Other`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let io = |error| StorageError::Io { path: path.display().to_string(), error };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(io)?;
        }
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(lock_of(path))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::InUse(path.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        // Made here, so that nobody else may read it; what SQLite puts beside it gets the same rights.
        // One that is there is left to SQLite: to close it would end the locks of all its connections in this process.
        match private(OpenOptions::new().create_new(true).write(true)).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        Self::prepared(path, lock).map_err(|error| failed(path, error))?
    }

    fn prepared(path: &Path, lock: File) -> rusqlite::Result<Result<Self, StorageError>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            let what = format!("{}: the file system takes no write-ahead log", path.display());
            return Ok(Err(StorageError::Other(what)));
        }
        connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES, |_| Ok(()))?;
        // Where a plain sync stops at the drive's cache (Apple's systems).
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "synchronous", "full")?;
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let known = (number("application_id")?, number("user_version")?);
        if known == (0, 0) && number("schema_version")? == 0 {
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
        } else if known == (APPLICATION_ID, 1) {
            let transaction = connection.transaction()?;
            transaction.execute_batch(FROM_VERSION_1)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
        } else if known != (APPLICATION_ID, SCHEMA_VERSION) {
            return Ok(Err(StorageError::Foreign(path.display().to_string())));
        }
        let sql = "SELECT device, user, moves, history_bytes FROM device";
        let (device, user, moves, history_bytes): (Option<i64>, Option<[u8; 16]>, i64, i64) =
            connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        Ok(Ok(Self {
            path: path.to_path_buf(),
            connection,
            _lock: lock,
            device: device.and_then(|device| DeviceId::new(device as u64)),
            user: user.map(UserId::from_bytes),
            moves,
            history_bytes,
            history_bytes_max: HISTORY_BYTES_MAX,
            poisoned: false,
        }))
    }

    /// Keeps at most so many bytes of entries in the local history, 256 MiB unless told otherwise; beyond, those that
    /// came first are dropped, in portions. 0: none is kept.
    #[must_use]
    pub fn history_bytes_max(mut self, bytes: u64) -> Self {
        self.history_bytes_max = bytes;
        self
    }

    /// The local history, to read while a client uses this storage and after. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`StorageError::Other`] when the database cannot be opened once more.
    pub fn history(&self) -> Result<LocalHistory, StorageError> {
        LocalHistory::open(&self.path)
    }

    fn read(&self) -> rusqlite::Result<State> {
        let mut state = State::default();
        let (base, epoch): (i64, Option<[u8; 16]>) =
            self.connection
                .query_row("SELECT base, epoch FROM device", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        state.epoch = epoch.map(StoreEpoch::from_bytes);
        state.device = self.device;
        state.user = self.user;
        state.base = ClientSeq(base as u64);
        let sql = "SELECT id, cursor, read, peer_delivered, peer_read, next, moved FROM conversations
                   WHERE cursor > 0 OR read > 0 OR peer_delivered > 0 OR peer_read > 0 OR next > 0";
        let mut rows = self.connection.prepare(sql)?;
        let mut rows = rows.query([])?;
        let mut moved = Vec::new();
        while let Some(row) = rows.next()? {
            let id = ConversationId::from_bytes(row.get(0)?);
            let seq = |column| row.get::<_, i64>(column).map(|n| Seq(n as u64));
            let marks = Marks { read: seq(2)?, peer_delivered: seq(3)?, peer_read: seq(4)? };
            let next = ClientSeq(seq(5)?.get());
            let conversation =
                StoredConversation { cursor: seq(1)?, marks, next, unacked: Default::default() };
            state.conversations.insert(id, conversation);
            moved.extend(Some((row.get::<_, i64>(6)?, id)).filter(|(moved, _)| *moved > 0));
        }
        moved.sort_unstable();
        let recent = moved.len().saturating_sub(RECENT_MAX);
        state.recent = moved[recent..].iter().map(|(_, id)| *id).collect();
        let mut rows = self.connection.prepare("SELECT conversation, client_seq, send FROM outbox")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (id, client_seq) = (ConversationId::from_bytes(row.get(0)?), row.get::<_, i64>(1)?);
            let Some(send) = blob::to_send(row.get_ref(2)?.as_blob()?) else {
                // Not to be left out: the app was promised that it goes.
                let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
                return Err(rusqlite::Error::SqliteFailure(
                    error,
                    Some("a message that cannot be read".into()),
                ));
            };
            let conversation = state.conversations.entry(id).or_default();
            conversation.unacked.insert(ClientSeq(client_seq as u64), send);
        }
        Ok(state)
    }

    fn write(&mut self, records: &[Record]) -> rusqlite::Result<()> {
        let vital = records.iter().any(Record::is_vital);
        self.connection.pragma_update(None, "synchronous", if vital { "full" } else { "normal" })?;
        // Another's write is waited for here or not at all.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut step = Step {
            transaction: &transaction,
            device: self.device,
            user: self.user,
            moves: self.moves,
            history_bytes: self.history_bytes,
        };
        records.iter().try_for_each(|record| step.apply(record))?;
        step.drop_oldest(self.history_bytes_max)?;
        let Step { device, user, moves, history_bytes, .. } = step;
        transaction
            .prepare_cached("UPDATE device SET moves = ?, history_bytes = ?")?
            .execute([moves, history_bytes])?;
        transaction.commit()?;
        (self.device, self.user, self.moves, self.history_bytes) = (device, user, moves, history_bytes);
        Ok(())
    }
}

impl Storage for SqliteStorage {
    fn load(&mut self) -> Result<State, StorageError> {
        self.read().map_err(|error| failed(&self.path, error))
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::Poisoned);
        }
        self.write(records).map_err(|error| {
            let error = failed(&self.path, error);
            // A failed sync may have dropped pages that look written; another's lock lets nothing be written.
            self.poisoned = !matches!(error, StorageError::InUse(_));
            error
        })
    }

    fn keeps_history(&self) -> bool {
        self.history_bytes_max > 0
    }
}

/// The records of one transaction.
struct Step<'a> {
    transaction: &'a Transaction<'a>,
    device: Option<DeviceId>,
    user: Option<UserId>,
    moves: i64,
    history_bytes: i64,
}

impl Step<'_> {
    fn run(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.transaction.prepare_cached(sql)?.execute(params)
    }

    fn begin(&self, id: &ConversationId) -> rusqlite::Result<usize> {
        self.run("INSERT INTO conversations (id) VALUES (?) ON CONFLICT DO NOTHING", [id.as_bytes()])
    }

    fn raise_next(&self, id: &ConversationId, next: u64) -> rusqlite::Result<usize> {
        self.begin(id)?;
        self.run(
            "UPDATE conversations SET next = max(next, ?2) WHERE id = ?1",
            params![id.as_bytes(), next as i64],
        )
    }

    /// As [`State::apply`], with the history besides.
    fn apply(&mut self, record: &Record) -> rusqlite::Result<()> {
        match record {
            Record::Device(device) => {
                self.run("UPDATE device SET device = ?", [device.get() as i64])?;
                self.device = Some(*device);
            }
            Record::User(user) => {
                self.run("UPDATE device SET user = ?", [user.as_bytes()])?;
                self.user = Some(*user);
            }
            Record::Base(base) => {
                self.run("UPDATE device SET base = max(base, ?)", [base.get() as i64])?;
            }
            Record::Cursor { conversation: id, seq, marks } => {
                self.begin(id)?;
                let sql = "UPDATE conversations SET read = max(read, ?2),
                           peer_delivered = max(peer_delivered, ?3), peer_read = max(peer_read, ?4) WHERE id = ?1";
                let [read, peer_delivered, peer_read] =
                    [marks.read, marks.peer_delivered, marks.peer_read].map(|seq| seq.get() as i64);
                self.run(sql, params![id.as_bytes(), read, peer_delivered, peer_read])?;
                let sql = "UPDATE conversations SET cursor = ?2, moved = ?3 WHERE id = ?1 AND cursor < ?2";
                let moved = self.run(sql, params![id.as_bytes(), seq.get() as i64, self.moves + 1])?;
                self.moves += moved as i64;
            }
            Record::Epoch(epoch) => {
                self.run("UPDATE device SET epoch = ?", [epoch.as_bytes()])?;
            }
            Record::HistoryReset(epoch) => {
                self.run("UPDATE device SET epoch = ?", [epoch.as_bytes()])?;
                let sql = "UPDATE conversations SET cursor = 0, read = 0, peer_delivered = 0, peer_read = 0,
                           moved = 0";
                self.run(sql, [])?;
            }
            Record::Reset { conversation: id } => {
                self.begin(id)?;
                let sql = "UPDATE conversations SET cursor = 0, read = 0, peer_delivered = 0, peer_read = 0,
                           moved = 0 WHERE id = ?";
                self.run(sql, [id.as_bytes()])?;
            }
            Record::Send { conversation: id, client_seq, target, change } => {
                self.raise_next(id, client_seq.get() + 1)?;
                let send = blob::of_send(*client_seq, *target, change.clone());
                let sql = "INSERT OR REPLACE INTO outbox (conversation, client_seq, send) VALUES (?, ?, ?)";
                self.run(sql, params![id.as_bytes(), client_seq.get() as i64, send])?;
                if let Target::User(peer) = target {
                    self.set_peer(id, peer)?;
                }
            }
            Record::Settled { conversation: id, client_seq } => {
                self.raise_next(id, client_seq.get() + 1)?;
                let sql = "DELETE FROM outbox WHERE conversation = ? AND client_seq = ?";
                self.run(sql, params![id.as_bytes(), client_seq.get() as i64])?;
            }
            Record::Renumbered { conversation: id, old, new } => {
                self.raise_next(id, new.get() + 1)?;
                let sql = "UPDATE OR REPLACE outbox SET client_seq = ?3 WHERE conversation = ?1 AND client_seq = ?2";
                self.run(sql, params![id.as_bytes(), old.get() as i64, new.get() as i64])?;
            }
            Record::Next { conversation: id, next } => {
                self.raise_next(id, next.get())?;
            }
            Record::Entry { conversation, entry } => self.keep(conversation, entry)?,
            Record::Conversation(state) => self.list(state)?,
            Record::Forgotten { conversation } => self.forget(conversation.as_ref())?,
        }
        Ok(())
    }

    fn keep(&mut self, id: &ConversationId, entry: &Entry) -> rusqlite::Result<()> {
        self.begin(id)?;
        self.found(id, entry)?;
        let (seq, time) = (entry.seq.get() as i64, entry.time.0 as i64);
        let blob = blob::of_entry(*id, entry.clone());
        let bytes = blob.len() as i64;
        let sql = "INSERT INTO entries (conversation, seq, bytes, entry) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING";
        if self.run(sql, params![id.as_bytes(), seq, bytes, blob])? == 0 {
            // Handed over once more after a crash.
            return Ok(());
        }
        self.history_bytes += bytes;
        let sql = "UPDATE conversations SET listed = 1, last_seq = max(last_seq, ?2), last_time = max(last_time, ?3)
                   WHERE id = ?1";
        self.run(sql, params![id.as_bytes(), seq, time])?;
        if let Change::Create { title, .. } | Change::Title { title } = &entry.change {
            self.run("UPDATE conversations SET title = ?2 WHERE id = ?1", params![id.as_bytes(), title])?;
        }
        let sender = entry.sender.user;
        match self.user {
            Some(user) if id.is_group() => {
                if let Some(role) = role_after(user, sender, &entry.change) {
                    self.set_role(id, role)?;
                }
            }
            Some(user) if user != sender => {
                self.set_peer(id, &sender)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn list(&mut self, state: &ConversationState) -> rusqlite::Result<()> {
        let id = &state.conversation;
        self.begin(id)?;
        let sql = "UPDATE conversations SET listed = 1, last_time = max(last_time, ?2) WHERE id = ?1";
        self.run(sql, params![id.as_bytes(), state.time.0 as i64])?;
        // Of one that the user has left, the title that they knew stays.
        if state.role.is_some() {
            let sql = "UPDATE conversations SET title = ?2 WHERE id = ?1";
            self.run(sql, params![id.as_bytes(), state.title])?;
        }
        if let Some(peer) = &state.peer {
            self.set_peer(id, peer)?;
        }
        self.set_role(id, state.role)
    }

    fn set_peer(&self, id: &ConversationId, peer: &UserId) -> rusqlite::Result<()> {
        let sql = "UPDATE conversations SET peer = ?2 WHERE id = ?1";
        self.run(sql, params![id.as_bytes(), peer.as_bytes()]).map(drop)
    }

    fn set_role(&self, id: &ConversationId, role: Option<Role>) -> rusqlite::Result<()> {
        let number = match role {
            None => 0,
            Some(Role::Member) => 1,
            Some(Role::Admin) => 2,
            Some(Role::Owner) => 3,
        };
        self.run("UPDATE conversations SET role = ?2 WHERE id = ?1", params![id.as_bytes(), number]).map(drop)
    }

    /// What came first goes first, in portions, so that a full history does not cost a deletion an entry.
    fn drop_oldest(&mut self, most: u64) -> rusqlite::Result<()> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        while self.history_bytes > most {
            // A sixteenth more than has to go, but never much more.
            let too_many = self.history_bytes - most + most / 16;
            let sql = "SELECT rowid, bytes FROM entries ORDER BY rowid LIMIT ?";
            let mut statement = self.transaction.prepare_cached(sql)?;
            let mut oldest = statement.query([DROP_ENTRIES])?;
            let (mut last, mut bytes) = (None, 0);
            while let Some(row) = oldest.next()?
                && bytes < too_many
            {
                last = Some(row.get::<_, i64>(0)?);
                bytes += row.get::<_, i64>(1)?;
            }
            drop(oldest);
            drop(statement);
            let Some(last) = last else {
                self.history_bytes = 0;
                return Ok(());
            };
            self.run("DELETE FROM entries WHERE rowid <= ?", [last])?;
            self.history_bytes -= bytes;
        }
        Ok(())
    }
}

/// What a user is after this change of a group, if it says so; the inner `None`: no member.
fn role_after(user: UserId, sender: UserId, change: &Change) -> Option<Option<Role>> {
    match change {
        Change::Create { .. } if sender == user => Some(Some(Role::Owner)),
        Change::Create { members, .. } | Change::Add { members } if members.contains(&user) => {
            Some(Some(Role::Member))
        }
        Change::Remove { member } if *member == user => Some(None),
        Change::Leave if sender == user => Some(None),
        Change::Role { member, role } if *member == user => Some(Some(*role)),
        Change::Role { role: Role::Owner, .. } if sender == user => Some(Some(Role::Admin)),
        _ => None,
    }
}

fn failed(path: &Path, error: rusqlite::Error) -> StorageError {
    let path = path.display().to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => StorageError::Damaged(path),
        Some(ErrorCode::NotADatabase) => StorageError::Foreign(path),
        Some(ErrorCode::DatabaseBusy) => StorageError::InUse(path),
        _ => StorageError::Other(format!("{path}: {error}")),
    }
}

fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Messages are nobody else's business.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}
