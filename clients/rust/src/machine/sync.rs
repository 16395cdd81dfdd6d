//! "This is what I have; tell me the rest", page by page in the order of the conversations' ids, after every login.
//!
//! Until a conversation is covered, gaps in it are not pulled: the sync will fill them. The first page is asked for
//! together with the login, unless its list would not fit a frame before login.

use std::time::Duration;

use tern_protocol::event::{SyncPage, WireError};
use tern_protocol::ids::ConversationId;
use tern_protocol::limits::{SYNC_KNOWN_BEFORE_LOGIN_MAX, SYNC_KNOWN_MAX};
use tern_protocol::request::{Known, RequestBody, Sync as SyncRequest};

use super::{Machine, Purpose, Wake};

#[derive(Debug, Default, PartialEq)]
enum Phase {
    /// The next page is to be asked for.
    #[default]
    Wanted,
    UnderWay,
    /// Waits after an error.
    Delayed,
    Done,
}

/// The ids that one request asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    after: Option<ConversationId>,
    until: Option<ConversationId>,
}

#[derive(Debug, Default)]
pub(super) struct Sync {
    phase: Phase,
    /// Everything up to this id is covered.
    covered: Option<ConversationId>,
    failures: u32,
}

impl Sync {
    pub(super) fn covers(&self, id: ConversationId) -> bool {
        self.phase == Phase::Done || self.covered >= Some(id)
    }

    /// What is under way was not answered, and is asked again.
    pub(super) fn again(&mut self) {
        self.phase = Phase::Wanted;
    }

    pub(super) fn wake(&mut self) {
        if self.phase == Phase::Delayed {
            self.phase = Phase::Wanted;
        }
    }
}

impl Machine {
    pub(super) fn pump_sync(&mut self, now: Duration) {
        if self.sync.phase != Phase::Wanted || !self.settings.receive || !self.has_room() {
            return;
        }
        let online = self.link.is_open();
        let room =
            self.bulk_in_flight < self.settings.bulk_max && self.in_flight.len() < self.link.in_flight_max;
        if !(self.link.is_logging_in() || online && room) {
            return;
        }
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.sync.covered;
        let known: Vec<Known> = self
            .conversations
            .range((after.map_or(Unbounded, Excluded), Unbounded))
            .filter(|(_, c)| c.inbox.handed.get() > 0)
            .map(|(id, c)| c.inbox.known(*id))
            .take(SYNC_KNOWN_MAX + 1)
            .collect();
        if !online && known.len() > SYNC_KNOWN_BEFORE_LOGIN_MAX {
            return;
        }
        let until = (known.len() > SYNC_KNOWN_MAX).then(|| known[SYNC_KNOWN_MAX - 1].conversation);
        let known = known.into_iter().take(SYNC_KNOWN_MAX).collect();
        self.sync.phase = Phase::UnderWay;
        let body = RequestBody::Sync(SyncRequest { known, after, until, latest: self.settings.latest });
        // Streams of their own are for after the login.
        self.ask(now, body, Purpose::Sync(Range { after, until }), online);
    }

    pub(super) fn on_sync_page(&mut self, range: Range, page: SyncPage) {
        self.sync.failures = 0;
        for state in page.conversations {
            self.on_synced(state);
        }
        // What the page covers; a server that covers nothing new would be asked for ever.
        let covered = match page.covered_until {
            Some(until) if Some(until) > range.after => Some(until),
            Some(_) => None,
            None => range.until,
        };
        match covered {
            Some(until) => {
                self.sync.phase = Phase::Wanted;
                self.sync.covered = Some(until);
            }
            None => self.sync.phase = Phase::Done,
        }
        self.pull_gaps(range.after, covered);
    }

    pub(super) fn on_sync_error(&mut self, now: Duration, error: WireError) {
        if error.code.closes() {
            return self.on_closing(now, error);
        }
        self.sync.failures += 1;
        self.sync.phase = Phase::Delayed;
        let at = now + self.delay(self.sync.failures, error.retry_after_ms);
        self.wake_at(at, Wake::Sync);
    }

    /// The connection has ended: the next one starts over.
    pub(super) fn forget_sync(&mut self) {
        self.wakes.retain(|_, wake| !matches!(wake, Wake::Sync));
        self.sync = Sync::default();
        self.caught_up_told = false;
        self.forget_pulls();
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.link.is_online() && self.sync.phase == Phase::Done && self.has_room() && !self.has_pulls()
    }
}
