//! A server that says "not so often": nothing that it counts together is asked before it says, and nothing is lost.
//!
//! Sends are counted apart from the rest, and wait in the outbox. Everything else waits where it came from, and the
//! refusal counts as no try: it says nothing about what was asked.

use std::time::Duration;

use tern_protocol::request::Mark;

use super::{Machine, Purpose, Wake};

impl Machine {
    /// A request that is no send was refused because this device, or its user, asks too often.
    pub(super) fn on_limited(&mut self, now: Duration, purpose: Purpose, retry_after_ms: u32) {
        match purpose {
            Purpose::Login | Purpose::Send(..) => unreachable!("they have answers of their own"),
            Purpose::Sync(_) => self.sync.again(),
            Purpose::Pull(id) => self.pull_again(id),
            Purpose::Query(query) => self.queries.push_front(query),
            Purpose::Marks(marks) => {
                self.repeating = false;
                self.unsure.extend(marks.iter().map(|mark: &Mark| mark.conversation));
            }
        }
        self.be_quiet(now, retry_after_ms);
    }

    /// The same, of a `Mark` that wants no answer. Which one is not told: all that went out lately are said again.
    pub(super) fn on_marks_limited(&mut self, now: Duration, retry_after_ms: u32) {
        self.unsure_of_said(now);
        self.be_quiet(now, retry_after_ms);
    }

    fn be_quiet(&mut self, now: Duration, retry_after_ms: u32) {
        // What was under way together is refused together: that is one refusal.
        if !self.quiet {
            self.quiet = true;
            let at = now + self.delay(1, retry_after_ms);
            self.wake_at(at, Wake::Quiet);
        }
    }

    /// It may be asked again.
    pub(super) fn wake_quiet(&mut self, now: Duration) {
        self.quiet = false;
        // They are about to be said again, answered.
        self.dirty.retain(|id| !self.unsure.contains(id));
        self.say_marks(now);
    }
}
