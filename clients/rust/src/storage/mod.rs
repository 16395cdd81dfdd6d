//! What a device must not forget: who it is, what it has, what it has still to send.
//!
//! The machine writes [`Record`]s ahead of what they allow: a send is stored before it goes on the wire, so that an
//! app that crashed sends it again under the same number, and the server stores it once.

mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tern_protocol::event::ConversationState;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, StoreEpoch, UserId};
use tern_protocol::model::{Change, Entry, Target};

pub use memory::MemoryStorage;
#[cfg(feature = "sqlite")]
pub use sqlite::{LocalConversation, LocalHistory, LostMessage, SqliteStorage, Unsent};

/// Where a [`crate::Client`] keeps its state. One storage belongs to one device of one user.
///
/// Implement it to keep the state in a database of the app's own; [`State::apply`] does the bookkeeping.
pub trait Storage: Send + 'static {
    /// Everything stored so far. Called once, before anything else.
    ///
    /// # Errors
    /// When it cannot be read; the client does not start.
    fn load(&mut self) -> Result<State, StorageError>;

    /// Adds these records, in order. When one of them [is vital](Record::is_vital), all are durable on return.
    ///
    /// # Errors
    /// When they may not be stored. The client stops: going on could use a number twice.
    fn append(&mut self, records: &[Record]) -> Result<(), StorageError>;

    /// Whether [`load`](Self::load), [`append`](Self::append) and dropping it may wait for a disk; then they run on a
    /// thread for blocking work.
    fn blocks(&self) -> bool {
        true
    }

    /// Whether [`append`](Self::append) is to be given what a local history is made of: [`Record::Entry`],
    /// [`Record::Conversation`], [`Record::Forgotten`].
    fn keeps_history(&self) -> bool {
        false
    }
}

/// Does this with a storage where it may wait for a disk. After an error the storage is gone: the client stops.
pub(crate) async fn work<T: Send + 'static>(
    mut storage: Box<dyn Storage>,
    work: impl FnOnce(&mut dyn Storage) -> Result<T, StorageError> + Send + 'static,
) -> Result<(Box<dyn Storage>, T), StorageError> {
    let blocks = storage.blocks();
    let work = move || work(&mut *storage).map(|done| (storage, done));
    if !blocks {
        return work();
    }
    let worked = tokio::task::spawn_blocking(work).await;
    worked.unwrap_or_else(|error| Err(StorageError::Other(format!("the storage's own code failed: {error}"))))
}

/// Lets go of a storage where that may wait for a disk.
pub(crate) async fn release(storage: Box<dyn Storage>) {
    if storage.blocks() {
        let _ = tokio::task::spawn_blocking(move || drop(storage)).await;
    }
}

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process (or another client of this one) uses the same state, and has not let go of it in time. Nothing
    /// was written.
    #[error("{0} is in use by another process: close that one first")]
    InUse(String),
    /// It is not a state file, or of another version.
    #[error("{0} is not a state file of this version: name another, or remove it and begin as a new device")]
    Foreign(String),
    /// It is a state file, and cannot be read.
    #[error(
        "{0} is damaged: remove it to begin as a new device; messages that were not sent are lost with it"
    )]
    Damaged(String),
    /// An earlier write failed; what was written is not known.
    #[error("an earlier write to the state failed")]
    Poisoned,
    /// The operating system says no.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A storage of the app's own failed.
    #[error("{0}")]
    Other(String),
}

/// One step of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This device's name, chosen once.
    Device(DeviceId),
    /// The user that the token named at the first login.
    User(UserId),
    /// Everything up to here was taken by the app, and it was told these watermarks.
    Cursor {
        /// In this conversation.
        conversation: ConversationId,
        /// The last entry taken; 0: none.
        seq: Seq,
        /// The watermarks.
        marks: Marks,
    },
    /// The server's store has this epoch, and the cursors are of its history.
    Epoch(StoreEpoch),
    /// The server's store has another epoch than before: nothing of its logs was taken, no watermark told. Numbers and
    /// what is to be sent stay.
    HistoryReset(StoreEpoch),
    /// The server's log was replaced by another: nothing of it was taken, no watermark told. Numbers and what is to
    /// be sent stay.
    Reset {
        /// The log.
        conversation: ConversationId,
    },
    /// To be sent under this number, until [`Settled`](Record::Settled).
    Send {
        /// The log it goes to.
        conversation: ConversationId,
        /// Its number.
        client_seq: ClientSeq,
        /// As the app named the destination.
        target: Target,
        /// What is sent.
        change: Change,
    },
    /// Stored by the server, or refused for good.
    Settled {
        /// The log.
        conversation: ConversationId,
        /// The number.
        client_seq: ClientSeq,
    },
    /// The server has never stored `old` and never will; the same change goes under `new`, behind the others. One
    /// record, because of two a crash could leave one, and the message would go twice or never.
    Renumbered {
        /// The log.
        conversation: ConversationId,
        /// Given up.
        old: ClientSeq,
        /// Instead.
        new: ClientSeq,
    },
    /// Numbers below this one count as used, in this conversation.
    Next {
        /// The log.
        conversation: ConversationId,
        /// The first free number.
        next: ClientSeq,
    },
    /// Numbers below this one count as used, in every conversation.
    Base(ClientSeq),
    /// For a local history: an entry that the app is about to be handed. After a crash it may come once more.
    Entry {
        /// The log.
        conversation: ConversationId,
        /// It.
        entry: Entry,
    },
    /// For a local history: how a conversation stands, as [`crate::Event::Conversation`].
    Conversation(ConversationState),
    /// For a local history: the entries that are kept of this conversation, or of all and how they stand, are of logs
    /// that were replaced.
    Forgotten {
        /// The log; `None`: all.
        conversation: Option<ConversationId>,
    },
}

impl Record {
    /// Whether forgetting it could lose or double a message. Forgetting the others costs work: a cursor that fell
    /// back is handed some entries again, and what was settled is sent again and answered as a duplicate.
    pub fn is_vital(&self) -> bool {
        match self {
            Record::Device(_)
            | Record::User(_)
            | Record::Epoch(_)
            | Record::HistoryReset(_)
            | Record::Reset { .. }
            | Record::Send { .. }
            | Record::Renumbered { .. }
            | Record::Next { .. }
            | Record::Base(_) => true,
            Record::Cursor { .. }
            | Record::Settled { .. }
            | Record::Entry { .. }
            | Record::Conversation(_)
            | Record::Forgotten { .. } => false,
        }
    }
}

/// What the app knows of a conversation's watermarks: the next sync brings only what is above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// The user's own, whichever device set it.
    pub read: Seq,
    /// Direct chats: the peer's.
    pub peer_delivered: Seq,
    /// Direct chats: the peer's.
    pub peer_read: Seq,
}

impl Marks {
    /// The higher of both, each for itself.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            read: self.read.max(other.read),
            peer_delivered: self.peer_delivered.max(other.peer_delivered),
            peer_read: self.peer_read.max(other.peer_read),
        }
    }
}

/// The sum of the records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// This device.
    pub device: Option<DeviceId>,
    /// Its user.
    pub user: Option<UserId>,
    /// Of the server's store: the cursors and watermarks are of that history. `None`: not told yet.
    pub epoch: Option<StoreEpoch>,
    /// Numbers below count as used in every conversation.
    pub base: ClientSeq,
    /// What is known of each conversation.
    pub conversations: BTreeMap<ConversationId, StoredConversation>,
    /// Whose cursors moved last, the latest at the end, at most [`RECENT_MAX`]: the server may not know of these. An
    /// app's own storage may leave it empty.
    pub recent: VecDeque<ConversationId>,
}

/// Conversations kept in [`State::recent`].
pub const RECENT_MAX: usize = 256;

/// One conversation of a [`State`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredConversation {
    /// Everything up to here was taken by the app.
    pub cursor: Seq,
    /// The watermarks that the app was told.
    pub marks: Marks,
    /// Numbers below are used; 0 as long as none was.
    pub next: ClientSeq,
    /// What is to be sent, by its number.
    pub unacked: BTreeMap<ClientSeq, (Target, Change)>,
}

impl State {
    /// Takes one record into account. Numbers only rise, whatever the order of the records; cursors and watermarks
    /// rise until a [`Record::Reset`] or a [`Record::HistoryReset`]. What is for a local history is no part of it.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Device(device) => self.device = Some(*device),
            Record::User(user) => self.user = Some(*user),
            Record::Cursor { conversation, seq, marks } => {
                let c = self.conversations.entry(*conversation).or_default();
                c.marks = c.marks.max(*marks);
                if *seq > c.cursor {
                    c.cursor = *seq;
                    self.moved(*conversation);
                }
            }
            Record::Epoch(epoch) => self.epoch = Some(*epoch),
            Record::HistoryReset(epoch) => {
                self.epoch = Some(*epoch);
                self.recent.clear();
                for c in self.conversations.values_mut() {
                    (c.cursor, c.marks) = (Seq(0), Marks::default());
                }
            }
            Record::Reset { conversation } => {
                let c = self.conversations.entry(*conversation).or_default();
                (c.cursor, c.marks) = (Seq(0), Marks::default());
                self.recent.retain(|id| id != conversation);
            }
            Record::Send { conversation, client_seq, target, change } => {
                let c = self.conversations.entry(*conversation).or_default();
                c.next = c.next.max(ClientSeq(client_seq.get() + 1));
                c.unacked.insert(*client_seq, (*target, change.clone()));
            }
            Record::Settled { conversation, client_seq } => {
                let c = self.conversations.entry(*conversation).or_default();
                c.next = c.next.max(ClientSeq(client_seq.get() + 1));
                c.unacked.remove(client_seq);
            }
            Record::Renumbered { conversation, old, new } => {
                let c = self.conversations.entry(*conversation).or_default();
                c.next = c.next.max(ClientSeq(new.get() + 1));
                if let Some(send) = c.unacked.remove(old) {
                    c.unacked.insert(*new, send);
                }
            }
            Record::Next { conversation, next } => {
                let c = self.conversations.entry(*conversation).or_default();
                c.next = c.next.max(*next);
            }
            Record::Base(base) => self.base = self.base.max(*base),
            Record::Entry { .. } | Record::Conversation(_) | Record::Forgotten { .. } => {}
        }
    }

    fn moved(&mut self, conversation: ConversationId) {
        if let Some(at) = self.recent.iter().rposition(|id| *id == conversation) {
            self.recent.remove(at);
        } else if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(conversation);
    }

    /// The fewest records that make this state.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let head = [
            self.device.map(Record::Device),
            self.user.map(Record::User),
            self.epoch.map(Record::Epoch),
            (self.base.get() > 0).then_some(Record::Base(self.base)),
        ];
        let recent: BTreeSet<_> = self.recent.iter().copied().collect();
        let cursor = |conversation: ConversationId, c: &StoredConversation| {
            let (seq, marks) = (c.cursor, c.marks);
            let any = seq.get() > 0 || marks != Marks::default();
            any.then_some(Record::Cursor { conversation, seq, marks })
        };
        let last = self.recent.iter().filter_map(move |id| cursor(*id, self.conversations.get(id)?));
        let conversations = self.conversations.iter().flat_map(move |(&conversation, c)| {
            let cursor = if recent.contains(&conversation) { None } else { cursor(conversation, c) };
            let next = (c.next.get() > 0).then_some(Record::Next { conversation, next: c.next });
            let sends = c.unacked.iter().map(move |(&client_seq, (target, change))| Record::Send {
                conversation,
                client_seq,
                target: *target,
                change: change.clone(),
            });
            cursor.into_iter().chain(next).chain(sends)
        });
        head.into_iter().flatten().chain(conversations).chain(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_lowers_the_cursor_and_nothing_else() {
        let conversation = ConversationId::group_from_random([1; 16]);
        let cursor = |seq, read| {
            let marks = Marks { read: Seq(read), ..Marks::default() };
            Record::Cursor { conversation, seq: Seq(seq), marks }
        };
        let next = Record::Next { conversation, next: ClientSeq(31) };
        let reset = Record::Reset { conversation };
        let all = Record::HistoryReset(StoreEpoch::from_bytes([7; 16]));
        for (records, seq, read) in [
            (vec![next.clone(), cursor(4, 3), all.clone()], 0, 0),
            (vec![next.clone(), cursor(4, 3), all, cursor(1, 0)], 1, 0),
            (vec![next.clone(), cursor(4, 3)], 4, 3),
            (vec![next.clone(), cursor(4, 3), cursor(1, 0)], 4, 3),
            (vec![next.clone(), cursor(4, 3), reset.clone()], 0, 0),
            (vec![next.clone(), cursor(4, 3), reset.clone(), cursor(1, 0)], 1, 0),
            (vec![next.clone(), cursor(4, 3), reset.clone(), cursor(1, 1), cursor(2, 0)], 2, 1),
        ] {
            let mut state = State::default();
            records.iter().for_each(|record| state.apply(record));
            let c = &state.conversations[&conversation];
            assert_eq!((c.cursor, c.marks.read, c.next), (Seq(seq), Seq(read), ClientSeq(31)));
            assert_eq!(state.recent.len(), usize::from(seq > 0));
            let mut again = State::default();
            state.records().for_each(|record| again.apply(&record));
            assert_eq!(again, state);
        }
    }

    #[test]
    fn what_moved_last_is_known_after_compaction() {
        let id = |n: u64| {
            ConversationId::group_from_random(
                [(n % 251) as u8, (n / 251) as u8].repeat(8).try_into().unwrap(),
            )
        };
        for n in [0u64, 1, 255, 256, 257, 600] {
            let mut state = State::default();
            let mut step = |n: u64, seq| {
                let marks = Marks::default();
                state.apply(&Record::Cursor { conversation: id(n), seq: Seq(seq), marks });
            };
            (0..n).for_each(|i| step(i, 1));
            (0..n).step_by(3).for_each(|i| step(i, 2));
            // Not a move.
            (0..n).for_each(|i| step(i, 1));
            assert_eq!(state.recent.len() as u64, n.min(RECENT_MAX as u64));
            assert_eq!(state.recent.back().copied(), n.checked_sub(1).map(|last| id(last - last % 3)));
            let mut again = State::default();
            state.records().for_each(|record| again.apply(&record));
            assert_eq!(again, state);
        }
    }
}
