//! What the checker has to know, written down by everybody in a cell: each send before it leaves the device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tern_check::{History, Key};
use tern_client::storage::{Record, State};
use tern_client::{Storage, StorageError};
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::Sender;
use tokio::sync::watch;

/// Shared by the devices of a cell.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Written>>);

/// What is in it.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) history: History,
    last: HashMap<(ConversationId, Sender), Key>,
    heads: HashMap<ConversationId, Seq>,
    /// How many sends have been answered.
    pub(crate) acked: watch::Sender<u64>,
}

impl Book {
    pub(crate) fn new() -> Self {
        let book = Self::default();
        // The client sends again by itself, which is not seen from here.
        book.lock().history.server_tries_again();
        book
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

impl Written {
    /// What a device has put into its storage last.
    pub(crate) fn last(&self, conversation: ConversationId, sender: Sender) -> Key {
        self.last[&(conversation, sender)]
    }

    pub(crate) fn ack(&mut self, key: Key, ok: &SendOk) {
        self.history.ack(key, ok);
        self.acked.send_replace(self.history.totals().acked);
        let head = self.heads.entry(key.conversation).or_default();
        *head = (*head).max(ok.seq);
    }

    /// The highest seq that anybody was told.
    pub(crate) fn head(&self, conversation: ConversationId) -> Seq {
        self.heads.get(&conversation).copied().unwrap_or_default()
    }
}

/// A storage that writes down what is about to be sent: the client stores it before a byte leaves.
pub(crate) struct Recorded<S> {
    pub(crate) storage: S,
    pub(crate) sender: Sender,
    pub(crate) book: Book,
}

impl<S: Storage> Storage for Recorded<S> {
    fn load(&mut self) -> Result<State, StorageError> {
        self.storage.load()
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let mut book = self.book.lock();
        for record in records {
            match record {
                Record::Send { conversation, client_seq, change, .. } => {
                    let key =
                        Key { conversation: *conversation, sender: self.sender, client_seq: *client_seq };
                    book.history.issue(key, change);
                    book.last.insert((*conversation, self.sender), key);
                }
                Record::Renumbered { conversation, old, .. } => {
                    book.history.torn(&format!("{conversation}: number {old} was used by somebody else"));
                }
                _ => {}
            }
        }
        drop(book);
        self.storage.append(records)
    }

    fn blocks(&self) -> bool {
        self.storage.blocks()
    }

    fn keeps_history(&self) -> bool {
        self.storage.keeps_history()
    }
}
