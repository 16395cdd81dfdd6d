//! What a device keeps: what is vital survives its app, the rest perhaps.

use tern_client::storage::{Record, State};
use tern_protocol::ids::{ConversationId, Seq};

use tern_check::random::Random;

/// A device's storage.
#[derive(Debug, Default)]
pub struct SimStorage {
    durable: State,
    /// Written since, and not forced to the disk.
    rest: Vec<Record>,
}

impl SimStorage {
    /// What the app finds when it begins.
    pub fn load(&self) -> State {
        self.durable.clone()
    }

    /// Adds a record.
    pub fn append(&mut self, record: Record) {
        let vital = record.is_vital();
        self.rest.push(record);
        if vital {
            self.rest.drain(..).for_each(|record| self.durable.apply(&record));
        }
    }

    /// The app is gone: some of what was not forced is lost. Of a storage that is wrong, what was to be sent is lost too.
    pub fn crash(&mut self, random: &mut Random, wrong: bool) {
        let kept = random.below(self.rest.len() as u64 + 1) as usize;
        self.rest.drain(..).take(kept).for_each(|record| self.durable.apply(&record));
        if wrong {
            self.durable.conversations.values_mut().for_each(|stored| stored.unacked.clear());
        }
    }

    /// Up to where it has each conversation.
    pub fn cursors(&self) -> impl Iterator<Item = (ConversationId, Seq)> {
        self.durable.conversations.iter().map(|(id, stored)| (*id, stored.cursor))
    }
}
