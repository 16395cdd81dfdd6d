//! A server whose store is another one than before.
//!
//! A store that was restored from a backup lacks what came after it, and gives the same numbers to other entries. So no
//! cursor and no watermark of the old history says anything about the new one, whichever of the two is longer: the
//! login tells the store's epoch, and when that has changed, everything is got anew. What is to be sent stays, under its
//! numbers: they only rise, and the server's memory of them went back in time together with the log.

use std::time::Duration;

use tern_protocol::event::ServerBody;
use tern_protocol::ids::{Seq, StoreEpoch};
use tern_protocol::request::RequestBody;

use super::{Machine, Output, Progress, Purpose, Query, Wake};
use crate::event::Event;
use crate::storage::{Marks, Record};

impl Machine {
    /// What the login said. A device that gets no entries has nothing to compare, and leaves it to those runs that do.
    pub(super) fn on_epoch(&mut self, epoch: Option<StoreEpoch>) {
        let Some(epoch) = epoch.filter(|_| self.settings.receive) else { return };
        match self.epoch.replace(epoch) {
            Some(known) if known == epoch => {}
            Some(_) => self.reset_history(epoch),
            None => self.outputs.push_back(Output::Persist(Record::Epoch(epoch))),
        }
    }

    fn reset_history(&mut self, epoch: StoreEpoch) {
        for c in self.conversations.values_mut() {
            c.inbox = c.inbox.begun_anew();
        }
        self.held = 0;
        self.receipts.clear();
        self.dirty.clear();
        self.said.clear();
        self.unsure.clear();
        // The page that was asked for together with the login goes on after cursors of the old history.
        self.in_flight.retain(|_, request| !matches!(request.purpose, Purpose::Sync(_)));
        self.forget_sync();
        self.drop_marks();
        if self.settings.history {
            self.outputs.push_back(Output::Persist(Record::Forgotten { conversation: None }));
        }
        self.reset_taken = false;
        self.events.push_back(Event::HistoryReset { epoch });
    }

    /// What the app wanted to mark is in the old history only: that is done with.
    fn drop_marks(&mut self) {
        let is_mark = |query: &Query| matches!(query.body, RequestBody::Mark(_));
        let mut dropped = Vec::new();
        self.queries.retain(|query| {
            dropped.extend(is_mark(query).then_some(query.ticket));
            !is_mark(query)
        });
        self.wakes.retain(|_, wake| match wake {
            Wake::Query(query) if is_mark(query) => {
                dropped.push(query.ticket);
                false
            }
            _ => true,
        });
        for ticket in dropped {
            self.outputs.push_back(Output::Answer { ticket, result: Ok(ServerBody::MarkOk) });
        }
    }

    /// The app has dropped what it had of the old history.
    pub(super) fn on_reset_taken(&mut self, epoch: StoreEpoch) {
        // An app that is slow may take one reset while the next is waiting.
        self.reset_taken |= self.epoch == Some(epoch);
        for c in self.conversations.values_mut() {
            (c.inbox.taken, c.inbox.marks_taken) = (Seq(0), Marks::default());
        }
        self.outputs.push_back(Output::Persist(Record::HistoryReset(epoch)));
    }

    /// The app has these entries and watermarks, or has dropped all that it had: the cursor moves, and the server will
    /// be told.
    pub fn taken(&mut self, now: Duration, progress: Progress) {
        match progress {
            Progress::HistoryReset(epoch) => self.on_reset_taken(epoch),
            // Of the old history.
            Progress::Conversation(_) if !self.reset_taken => {}
            Progress::Conversation(progress) => self.moved(now, progress),
        }
    }
}
