//! The conversations that this device has seen, read without a server.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, Row, params};
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Role, Target, WallMillis};

use super::{BUSY_TIMEOUT, blob, failed};
use crate::storage::{Marks, StorageError};

/// Rows of one answer at most.
const ROWS_MAX: u32 = 1000;

/// What this device has of its conversations, offline as well as online. Clones share a connection to the database.
///
/// An entry is here before the app is handed it as [`crate::Event::Entry`], so a screen may be drawn from here alone
/// and events only say that something is new. Calls read a few pages of the file and return; an app that draws its
/// screen on the calling thread may want them on another.
#[derive(Debug, Clone)]
pub struct LocalHistory {
    path: PathBuf,
    connection: Arc<Mutex<Connection>>,
}

/// A line of the local list of conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalConversation {
    /// Which.
    pub conversation: ConversationId,
    /// Groups: the last title known. Direct chats: empty.
    pub title: String,
    /// Direct chats: with whom; `None` for groups, and as long as it is not known.
    pub peer: Option<UserId>,
    /// What the user is here, as far as told; `None`: no member (any more), or not told yet.
    pub role: Option<Role>,
    /// When something happened last, by the server's clock.
    pub time: WallMillis,
    /// The newest entry, unless it has been dropped to keep within bounds.
    pub last: Option<Entry>,
    /// How far the user has read, and a peer has received and read, as the app was told.
    pub marks: Marks,
}

/// A message that the server has not confirmed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Its number, which an entry bears when it has been stored.
    pub client_seq: ClientSeq,
    /// Where it goes, as the app named it.
    pub target: Target,
    /// What it says.
    pub change: Change,
}

/// A message of this device that the server had confirmed and has no more: its store was restored from an older backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostMessage {
    /// Where it was.
    pub conversation: ConversationId,
    /// As it was: its seq and time are of the history that is gone.
    pub entry: Entry,
}

impl LocalHistory {
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| failed(path, e))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| failed(path, e))?;
        Ok(Self { path: path.to_path_buf(), connection: Arc::new(Mutex::new(connection)) })
    }

    /// The newest entries of a conversation, at most `limit` (and 1,000) of them, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn latest(&self, conversation: ConversationId, limit: u32) -> Result<Vec<Entry>, StorageError> {
        self.before(conversation, Seq(u64::MAX), limit)
    }

    /// The newest entries below `seq`, at most `limit` (and 1,000) of them, oldest first. Less than that means that
    /// this device has no more; what the server has is in [`crate::Client::history`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn before(
        &self,
        conversation: ConversationId,
        seq: Seq,
        limit: u32,
    ) -> Result<Vec<Entry>, StorageError> {
        let sql = "SELECT entry FROM entries WHERE conversation = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
        let below = i64::try_from(seq.get()).unwrap_or(i64::MAX);
        let params = params![conversation.as_bytes(), below, limit.min(ROWS_MAX)];
        let mut entries = self.rows(sql, params, |row| Ok(blob::to_entry(row.get_ref(0)?.as_blob()?)))?;
        entries.reverse();
        self.all(entries)
    }

    /// The conversations, at most `limit` (and 1,000), the one where something happened last first; go on with `after`
    /// set to the last of the page before.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn conversations(
        &self,
        after: Option<&LocalConversation>,
        limit: u32,
    ) -> Result<Vec<LocalConversation>, StorageError> {
        let sql = "SELECT id, title, peer, role, last_time, read, peer_delivered, peer_read,
                     (SELECT entry FROM entries WHERE conversation = id AND seq = last_seq)
                   FROM conversations WHERE listed = 1 AND (last_time, id) < (?, ?)
                   ORDER BY last_time DESC, id DESC LIMIT ?";
        let (time, id) = match after {
            // Above every id.
            None => (i64::MAX, [0xff; 17].to_vec()),
            Some(line) => (line.time.0 as i64, line.conversation.as_bytes().to_vec()),
        };
        self.rows(sql, params![time, id, limit.min(ROWS_MAX)], conversation)
    }

    /// What waits to be sent to a conversation, in the order in which it will be.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn unsent(&self, conversation: ConversationId) -> Result<Vec<Unsent>, StorageError> {
        let sql = "SELECT client_seq, send FROM outbox WHERE conversation = ? ORDER BY client_seq";
        let unsent = self.rows(sql, [conversation.as_bytes()], |row| {
            let client_seq = ClientSeq(row.get::<_, i64>(0)? as u64);
            let send = blob::to_send(row.get_ref(1)?.as_blob()?);
            Ok(send.map(|(target, change)| Unsent { client_seq, target, change }))
        })?;
        self.all(unsent)
    }

    /// This device's messages that were lost with a server's store, as far as they were in the local history: at most
    /// 256, those that were sent first come first. Complete when everything has been handed over after an
    /// [`crate::Event::HistoryReset`] ([`crate::Event::CaughtUp`]); until then, messages that the server still has may be
    /// among them. They are not sent again by themselves: whether they still make sense, the user knows. They stay here
    /// until others take their place; an app remembers for which it has asked.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn lost(&self) -> Result<Vec<LostMessage>, StorageError> {
        let sql = "SELECT conversation, entry FROM lost ORDER BY rowid";
        let lost = self.rows(sql, [], |row| {
            let conversation = ConversationId::from_bytes(row.get(0)?);
            let entry = blob::to_entry(row.get_ref(1)?.as_blob()?);
            Ok(entry.map(|entry| LostMessage { conversation, entry }))
        })?;
        self.all(lost)
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StorageError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let query =
            || connection.prepare_cached(sql)?.query_map(params, read)?.collect::<rusqlite::Result<Vec<T>>>();
        query().map_err(|error| failed(&self.path, error))
    }

    fn all<T>(&self, rows: Vec<Option<T>>) -> Result<Vec<T>, StorageError> {
        let whole: Option<Vec<T>> = rows.into_iter().collect();
        whole.ok_or_else(|| StorageError::Damaged(self.path.display().to_string()))
    }
}

fn conversation(row: &Row<'_>) -> rusqlite::Result<LocalConversation> {
    let seq = |column| row.get::<_, i64>(column).map(|n| Seq(n as u64));
    Ok(LocalConversation {
        conversation: ConversationId::from_bytes(row.get(0)?),
        title: row.get(1)?,
        peer: row.get::<_, Option<[u8; 16]>>(2)?.map(UserId::from_bytes),
        role: match row.get::<_, Option<i64>>(3)? {
            Some(1) => Some(Role::Member),
            Some(2) => Some(Role::Admin),
            Some(3) => Some(Role::Owner),
            _ => None,
        },
        time: WallMillis(seq(4)?.get()),
        last: row.get_ref(8)?.as_blob_or_null()?.and_then(blob::to_entry),
        marks: Marks { read: seq(5)?, peer_delivered: seq(6)?, peer_read: seq(7)? },
    })
}
