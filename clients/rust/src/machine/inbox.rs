//! Every entry once, in order.
//!
//! Per conversation a cursor, `handed`: every entry up to it is in the queue of events or beyond. An entry right after
//! it is handed over; one at or below it has been; one further on shows a gap, which a page of history fills. Entries
//! behind a gap are held back as far as there is room, else dropped: the page brings them again.

use std::collections::BTreeMap;
use std::time::Duration;

use tern_protocol::error::Retry;
use tern_protocol::event::{ConversationState, HistoryPage, ReceiptsMoved, WireError};
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::limits::HISTORY_ENTRIES_MAX;
use tern_protocol::model::Entry;
use tern_protocol::request::{History, HistoryFrom, Known, RequestBody};

use super::{Machine, Output, Purpose, Wake, conversation};
use crate::event::Event;
use crate::storage::{Marks, Record};

/// Entries held behind a gap: of one conversation, and of all together.
const HELD_MAX: usize = 128;
const HELD_ALL_MAX: usize = 1024;
/// After this many pages that bring nothing, the server is believed: there is nothing more.
const FRUITLESS_MAX: u32 = 5;
/// Counts kept per conversation while receipts wait for a slow app.
const COUNTS_MAX: usize = 64;

/// Whether a page of history is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Pull {
    #[default]
    No,
    /// In the queue, or in the timers.
    Waiting,
    UnderWay,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Everything up to here was handed to the queue of events.
    pub(super) handed: Seq,
    /// Everything up to here was taken by the app; on disk.
    pub(super) taken: Seq,
    /// As far as the app has said in this run, and the server has taken.
    pub(super) read: Seq,
    /// The watermarks that were handed to the queue of events.
    pub(super) marks: Marks,
    /// Those of them that the app has taken; on disk.
    pub(super) marks_taken: Marks,
    /// The newest entry that is known to exist.
    head: Seq,
    /// What was handed over before this connection: no head that a sound server tells on it is lower.
    proven: Seq,
    /// Something on this connection was below that; a page of history will tell.
    doubted: bool,
    /// It has been asked for, on this connection.
    asked: bool,
    /// The membership has ended, as a sync told.
    ended: bool,
    held: BTreeMap<Seq, Entry>,
    pull: Pull,
    fruitless: u32,
}

impl Inbox {
    pub(super) fn restored(cursor: Seq, marks: Marks) -> Self {
        Self {
            handed: cursor,
            taken: cursor,
            marks,
            marks_taken: marks,
            head: cursor,
            proven: cursor,
            ..Self::default()
        }
    }

    /// Another log takes the place of this one. What the app has taken stays until it takes the event that says so.
    pub(super) fn begun_anew(&self) -> Self {
        Self { taken: self.taken, marks_taken: self.marks_taken, ..Self::default() }
    }

    /// What a sync need not bring.
    pub(super) fn known(&self, conversation: ConversationId) -> Known {
        let Marks { read, peer_delivered, peer_read } = self.marks;
        Known { conversation, seq: self.handed, read, peer_delivered, peer_read }
    }

    fn has_gap(&self) -> bool {
        self.head > self.handed
    }

    /// Whether a page of history is wanted: entries are missing, or the server is to say its head.
    fn wants_page(&self) -> bool {
        self.has_gap() || self.doubted
    }
}

impl Machine {
    pub(super) fn on_push(&mut self, id: ConversationId, entry: Entry) {
        if !self.settings.receive {
            return;
        }
        let seq = entry.seq;
        self.offer(id, entry);
        self.note_head(id, seq);
        self.doubt(id, seq);
    }

    /// An entry of this device's own, as its answer tells: whether the server also pushes it does not matter.
    pub(super) fn on_own(&mut self, id: ConversationId, entry: Entry) {
        if self.settings.receive {
            let seq = entry.seq;
            self.offer(id, entry);
            self.doubt(id, seq);
        }
    }

    pub(super) fn on_head_moved(&mut self, id: ConversationId, head: Seq) {
        if self.settings.receive {
            self.note_head(id, head);
            self.doubt(id, head);
        }
    }

    /// Hands the entry over if it is next and there is room, holds it back if it is further on.
    fn offer(&mut self, id: ConversationId, entry: Entry) {
        let room = self.has_room();
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        if entry.seq <= c.handed {
            return;
        }
        if room && entry.seq == c.handed.next() {
            self.hand(id, entry);
            self.drain_held(id);
        } else if c.held.len() < HELD_MAX
            && self.held < HELD_ALL_MAX
            && c.held.insert(entry.seq, entry).is_none()
        {
            self.held += 1;
        }
    }

    /// The one place where the cursor moves over an entry.
    fn hand(&mut self, id: ConversationId, entry: Entry) {
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        assert_eq!(entry.seq, c.handed.next(), "an entry out of order");
        c.handed = entry.seq;
        c.head = c.head.max(entry.seq);
        c.fruitless = 0;
        if self.settings.history {
            let entry = entry.clone();
            self.outputs.push_back(Output::Persist(Record::Entry { conversation: id, entry }));
        }
        self.events.push_back(Event::Entry { conversation: id, entry });
    }

    fn drain_held(&mut self, id: ConversationId) {
        loop {
            let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
            let Some(first) = c.held.first_entry() else { return };
            if *first.key() > c.handed.next() {
                return;
            }
            let entry = first.remove();
            self.held -= 1;
            if entry.seq > c.handed {
                self.hand(id, entry);
            }
        }
    }

    fn note_head(&mut self, id: ConversationId, head: Seq) {
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        c.head = c.head.max(head);
        self.pull_if_gap(id);
    }

    /// A push or hint from below what this device had before the connection: late, or of another log that has begun
    /// since the sync. It alone proves nothing, so the server is asked, once.
    fn doubt(&mut self, id: ConversationId, seq: Seq) {
        let covered = self.sync.covers(id);
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        if covered && seq < c.proven && !c.asked && !c.ended {
            (c.asked, c.doubted) = (true, true);
            self.pull_if_gap(id);
        }
    }

    /// The server's head is below what was handed over before this connection: its store was replaced. Starts the
    /// conversation anew.
    fn reset_if_below(&mut self, id: ConversationId, head: Seq) -> bool {
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        if head >= c.proven || c.ended {
            return false;
        }
        let cursor = c.handed;
        self.held -= c.held.len();
        *c = Inbox { pull: c.pull, ..c.begun_anew() };
        self.receipts.remove(&id);
        self.dirty.remove(&id);
        self.said.remove(&id);
        self.unsure.remove(&id);
        if self.settings.history {
            self.outputs.push_back(Output::Persist(Record::Forgotten { conversation: Some(id) }));
        }
        self.events.push_back(Event::Reset { conversation: id, cursor, head });
        true
    }

    /// A gap is pulled, unless the sync that is under way will fill it.
    pub(super) fn pull_if_gap(&mut self, id: ConversationId) {
        let covered = self.sync.covers(id);
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        if covered && c.wants_page() && c.pull == Pull::No {
            c.pull = Pull::Waiting;
            self.pulls.push_back(id);
        }
    }

    pub(super) fn wake_pull(&mut self, id: ConversationId) {
        if conversation(&mut self.conversations, self.base, id).inbox.pull == Pull::Waiting {
            self.pulls.push_back(id);
        }
    }

    /// The page that is under way was not given, and is asked for again.
    pub(super) fn pull_again(&mut self, id: ConversationId) {
        conversation(&mut self.conversations, self.base, id).inbox.pull = Pull::Waiting;
        self.pulls.push_front(id);
    }

    pub(super) fn start_pull(&mut self, now: Duration) {
        let Some(id) = self.pulls.pop_front() else { return };
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        if !c.wants_page() {
            c.pull = Pull::No;
            return;
        }
        c.pull = Pull::UnderWay;
        let from = HistoryFrom::Forward(c.handed.next());
        let body =
            RequestBody::History(History { conversation: id, from, limit: HISTORY_ENTRIES_MAX as u32 });
        self.ask(now, body, Purpose::Pull(id), true);
    }

    pub(super) fn on_pulled(&mut self, now: Duration, id: ConversationId, page: HistoryPage) {
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        (c.pull, c.doubted) = (Pull::No, false);
        let reset = self.reset_if_below(id, page.head);
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        let before = c.handed;
        self.raise_floor(id, page.floor, page.head);
        self.hand_run(id, page.entries);
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        c.head = c.head.max(page.head);
        if c.handed == before && c.has_gap() && !reset {
            // The page was made before what we have heard of, or we have heard wrongly.
            c.fruitless += 1;
            if c.fruitless >= FRUITLESS_MAX {
                self.believe(id);
            } else {
                c.pull = Pull::Waiting;
                let tries = c.fruitless;
                let at = now + self.delay(tries, 0);
                self.wake_at(at, Wake::Pull(id));
            }
        }
        self.pull_if_gap(id);
    }

    pub(super) fn on_pull_error(&mut self, now: Duration, id: ConversationId, error: &WireError) {
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        match error.code.retry() {
            Retry::Later => {
                c.pull = Pull::Waiting;
                c.fruitless = (c.fruitless + 1).min(FRUITLESS_MAX - 1);
                let tries = c.fruitless;
                let at = now + self.delay(tries, error.retry_after_ms);
                self.wake_at(at, Wake::Pull(id));
            }
            Retry::Reconnect => c.pull = Pull::No,
            // Not a member, for example: there is nothing for this device to miss.
            Retry::Never => {
                c.pull = Pull::No;
                self.believe(id);
            }
        }
    }

    /// What was heard of beyond the cursor cannot be had.
    fn believe(&mut self, id: ConversationId) {
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        c.head = c.handed;
        c.fruitless = 0;
        c.doubted = false;
        self.held -= c.held.len();
        c.held.clear();
    }

    /// Entries below the floor cannot be had: the cursor moves up to it, but not above what this user may see.
    fn raise_floor(&mut self, id: ConversationId, floor: Seq, head: Seq) {
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        let (from, to) = (c.handed.next(), floor.prev().min(head));
        if to < from {
            return;
        }
        // In a conversation that is new to this device, what was before is not a loss.
        if c.handed.get() > 0 {
            self.events.push_back(Event::Trimmed { conversation: id, from, to });
        }
        c.handed = to;
        c.head = c.head.max(to);
        c.fruitless = 0;
        self.drain_held(id);
    }

    /// Hands over a page's entries as far as they go on from the cursor.
    fn hand_run(&mut self, id: ConversationId, entries: Vec<Entry>) {
        for entry in entries {
            let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
            if entry.seq == c.handed.next() {
                self.hand(id, entry);
            }
        }
        self.drain_held(id);
    }

    /// A conversation in a sync page.
    pub(super) fn on_synced(&mut self, mut state: ConversationState) {
        let id = state.conversation;
        let entries = std::mem::take(&mut state.entries);
        let (floor, head) = (state.floor, state.head);
        conversation(&mut self.conversations, self.base, id).inbox.ended = state.role.is_none();
        self.reset_if_below(id, head);
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        c.marks = c.marks.max(marks_of_state(&state));
        // The server may have forgotten the last second of them; the app is never shown one that falls.
        (state.read, state.peer_delivered, state.peer_read) =
            (c.marks.read, c.marks.peer_delivered, c.marks.peer_read);
        if self.settings.history {
            self.outputs.push_back(Output::Persist(Record::Conversation(state.clone())));
        }
        self.events.push_back(Event::Conversation(state));
        self.raise_floor(id, floor, head);
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        if let Some(first) = entries.first()
            && c.handed.get() < floor.get().max(1)
            && self.settings.latest.is_some()
        {
            // New to this device, which asked for the latest only.
            c.handed = c.handed.max(first.seq.prev());
        }
        self.hand_run(id, entries);
        let c = &mut conversation(&mut self.conversations, self.base, id).inbox;
        c.head = c.head.max(head);
    }

    /// Conversations with ids in this range are covered now: pull what they miss.
    pub(super) fn pull_gaps(&mut self, after: Option<ConversationId>, until: Option<ConversationId>) {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let range = (after.map_or(Unbounded, Excluded), until.map_or(Unbounded, Included));
        let gaps: Vec<_> =
            self.conversations.range(range).filter(|(_, c)| c.inbox.has_gap()).map(|(id, _)| *id).collect();
        gaps.into_iter().for_each(|id| self.pull_if_gap(id));
    }

    /// Before a sync: it will fill all gaps.
    pub(super) fn forget_pulls(&mut self) {
        self.pulls.clear();
        self.wakes.retain(|_, wake| !matches!(wake, Wake::Pull(_)));
        for c in self.conversations.values_mut() {
            let c = &mut c.inbox;
            (c.pull, c.fruitless) = (Pull::No, 0);
            (c.proven, c.asked, c.doubted) = (c.handed, false, false);
        }
    }

    pub(super) fn has_pulls(&self) -> bool {
        !self.pulls.is_empty()
            || self.in_flight.values().any(|r| matches!(r.purpose, Purpose::Pull(_)))
            || self.wakes.values().any(|w| matches!(w, Wake::Pull(_)))
    }

    pub(super) fn on_receipts(&mut self, mut moved: ReceiptsMoved) {
        if !self.settings.receive {
            return;
        }
        let marks = marks_of_receipts(&moved, self.user);
        let c = &mut conversation(&mut self.conversations, self.base, moved.conversation).inbox;
        c.marks = c.marks.max(marks);
        raise_receipts(&mut moved, self.user, c.marks);
        if self.has_room() && !self.receipts.contains_key(&moved.conversation) {
            self.events.push_back(Event::Receipts(moved));
            return;
        }
        let Some(waiting) = self.receipts.get_mut(&moved.conversation) else {
            self.receipts.insert(moved.conversation, moved);
            return;
        };
        for user in moved.users {
            match waiting.users.iter_mut().find(|u| u.user == user.user) {
                Some(known) => {
                    known.delivered = known.delivered.max(user.delivered);
                    known.read = known.read.max(user.read);
                }
                None => waiting.users.push(user),
            }
        }
        for count in moved.counts {
            match waiting.counts.iter_mut().find(|c| c.seq == count.seq) {
                Some(known) => *known = count,
                None => waiting.counts.push(count),
            }
        }
        let excess = waiting.counts.len().saturating_sub(COUNTS_MAX);
        waiting.counts.drain(..excess);
    }
}

/// A server that was killed may have forgotten the last second of watermarks; what was shown stays.
fn raise_receipts(moved: &mut ReceiptsMoved, me: Option<UserId>, marks: Marks) {
    for user in &mut moved.users {
        let own = Some(user.user) == me;
        if own {
            user.read = user.read.max(marks.read);
        }
        if is_peer(moved.conversation, own, me) {
            user.delivered = user.delivered.max(marks.peer_delivered);
            user.read = user.read.max(marks.peer_read);
        }
        user.delivered = user.delivered.max(user.read);
    }
}

pub(super) fn marks_of_state(state: &ConversationState) -> Marks {
    Marks { read: state.read, peer_delivered: state.peer_delivered, peer_read: state.peer_read }
}

/// Whether receipts of this user are those of a direct chat's peer; in the chat with oneself they are.
fn is_peer(conversation: ConversationId, own: bool, me: Option<UserId>) -> bool {
    let with_oneself = || me.is_some_and(|me| conversation == ConversationId::direct(me, me));
    !conversation.is_group() && (!own || with_oneself())
}

/// Besides the user's own, receipts name the peer of a direct chat; in the chat with oneself both are the same.
pub(super) fn marks_of_receipts(moved: &ReceiptsMoved, me: Option<UserId>) -> Marks {
    let mut marks = Marks::default();
    for user in &moved.users {
        let own = Some(user.user) == me;
        if own {
            marks.read = marks.read.max(user.read);
        }
        if is_peer(moved.conversation, own, me) {
            marks.peer_delivered = marks.peer_delivered.max(user.delivered);
            marks.peer_read = marks.peer_read.max(user.read);
        }
    }
    marks
}
