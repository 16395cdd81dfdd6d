//! Watermarks: what the app has taken is said in the background, what it has read when it says so, and what the server may
//! not have once more.

use std::time::Duration;

use tern_protocol::error::Retry;
use tern_protocol::event::WireError;
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::limits::MARKS_MAX;
use tern_protocol::request::{Mark, RequestBody};

use super::{ConversationProgress, Machine, Progress, Purpose, QUERY_TRIES_MAX, Wake, conversation};
use crate::storage::Marks;

/// Marks that went unanswered count as heard when the connection lived this long after them.
const MARKS_UNSURE: Duration = Duration::from_secs(120);

impl Machine {
    /// Sends the delivered marks that wait, now.
    pub fn flush_marks(&mut self, now: Duration) {
        if !self.link.is_online() {
            return;
        }
        self.dirty.append(&mut self.unsure);
        self.say_marks(now);
    }

    pub(super) fn say_marks(&mut self, now: Duration) {
        if !self.link.is_online() {
            return;
        }
        while !self.dirty.is_empty() {
            let mut marks = Vec::new();
            while let Some(id) = (marks.len() < MARKS_MAX).then(|| self.dirty.pop_first()).flatten() {
                if let Some(mark) = self.mark_of(id) {
                    self.said.insert(id, now);
                    marks.push(mark);
                }
            }
            if !marks.is_empty() {
                self.transmit(now, RequestId(0), RequestBody::Mark(marks), false);
            }
        }
    }

    /// As far as this device has got.
    fn mark_of(&self, conversation: ConversationId) -> Option<Mark> {
        let inbox = &self.conversations.get(&conversation)?.inbox;
        let delivered = if self.settings.mark_delivered { inbox.taken.min(inbox.handed) } else { Seq(0) };
        let delivered = delivered.max(inbox.read);
        (delivered.get() > 0).then_some(Mark { conversation, delivered, read: inbox.read })
    }

    /// Says once more what the server may not have: one answered `Mark` after another, so that thousands of devices
    /// that come back at once bring little each.
    pub(super) fn repeat_marks(&mut self, now: Duration) {
        while !self.repeating && !self.unsure.is_empty() && self.in_flight.len() < self.link.in_flight_max {
            let mut marks = Vec::new();
            while let Some(id) = (marks.len() < self.repeat_max).then(|| self.unsure.pop_first()).flatten() {
                marks.extend(self.mark_of(id));
            }
            if !marks.is_empty() {
                self.repeating = true;
                self.ask(now, RequestBody::Mark(marks.clone()), Purpose::Marks(marks), false);
            }
        }
    }

    pub(super) fn on_repeated(&mut self, marks: &[Mark]) {
        self.repeating = false;
        self.repeat_max = (self.repeat_max * 2).min(MARKS_MAX);
        self.confirmed(marks);
    }

    pub(super) fn on_repeat_error(&mut self, now: Duration, marks: &[Mark], error: &WireError) {
        let again = match error.code.retry() {
            Retry::Never => {
                // One that is wrong (no member any more, say) takes the others with it: look for it.
                self.repeating = false;
                self.repeat_max = (marks.len() / 2).max(1);
                marks.len() > 1
            }
            Retry::Later => {
                let at = now + self.delay(QUERY_TRIES_MAX, error.retry_after_ms);
                self.wake_at(at, Wake::MarksAgain);
                true
            }
            Retry::Reconnect => true,
        };
        if again {
            self.unsure.extend(marks.iter().map(|m| m.conversation));
        }
    }

    /// The server has answered for these.
    fn confirmed(&mut self, marks: &[Mark]) {
        for mark in marks {
            if self.mark_of(mark.conversation).is_none_or(|now| now.delivered <= mark.delivered) {
                self.said.remove(&mark.conversation);
            }
        }
    }

    /// The connection is lost: what was said last may not have got there, or may have been forgotten with a server
    /// that crashed.
    pub(super) fn doubt_marks(&mut self, now: Duration) {
        self.repeating = false;
        self.wakes.retain(|_, wake| !matches!(wake, Wake::MarksAgain));
        self.unsure_of_said(now);
    }

    pub(super) fn unsure_of_said(&mut self, now: Duration) {
        let said = std::mem::take(&mut self.said);
        self.unsure.extend(said.into_iter().filter(|(_, at)| *at + MARKS_UNSURE >= now).map(|(id, _)| id));
    }

    /// The server has taken what the app said: no sync need bring it back.
    pub(super) fn on_marked(&mut self, now: Duration, marks: &[Mark]) {
        for mark in marks.iter().filter(|mark| mark.read.get() > 0) {
            let id = mark.conversation;
            let c = conversation(&mut self.conversations, self.base, id);
            c.inbox.read = c.inbox.read.max(mark.read);
            let marks = Marks { read: mark.read, ..Marks::default() };
            c.inbox.marks = c.inbox.marks.max(marks);
            let progress = ConversationProgress { conversation: id, reset: false, seq: Seq(0), marks };
            self.taken(now, Progress::Conversation(progress));
        }
        self.confirmed(marks);
    }

    pub(super) fn mark_later(&mut self, now: Duration, conversation: ConversationId) {
        self.dirty.insert(conversation);
        if !self.marks_waiting {
            self.marks_waiting = true;
            self.wake_at(now + self.settings.mark_delay, Wake::Marks);
        }
    }
}
