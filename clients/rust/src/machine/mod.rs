//! The protocol of one device, without sockets, clock or randomness.
//!
//! ```text
//!   connected, received, disconnected ─┐            ┌─> poll_output: connect, persist, transmit, answers
//!   send, query, taken                 ├─> Machine ─┤
//!   handle_timeout                     ┘            └─> poll_event: entries, receipts, states, in order
//! ```
//!
//! After every input the driver drains [`Machine::poll_output`], and takes events as fast as the app does. Time is a
//! [`Duration`] since any fixed moment, by a clock that never falls.
//!
//! - `link`: connecting, login, heartbeats, dead links, waiting before another try.
//! - `inbox`: cursors, gaps, pulls: every entry once, in order.
//! - `epoch`: a server whose store is another one than before.
//! - `marks`: what the server is told of what was taken and read.
//! - `limited`: a server that says "not so often".
//! - `outbox`: sends: each stored once, in order as far as that is possible.
//! - `pace`: how long a silent link may be left alone.
//! - `sync`: "this is what I have", page by page.
//!
//! # Bounds
//! Events wait in a queue of `events_max`, plus the pages under way. When it is full, pushes are dropped and pulled
//! later, receipts are merged per conversation, no page is asked for. Nothing stops the reading of the socket, so an
//! app that is slow with events still learns what became of its sends.

mod epoch;
mod inbox;
mod limited;
mod link;
mod marks;
mod outbox;
mod pace;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::event::{ReceiptsMoved, SendOk, ServerBody, ServerMessage, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, StoreEpoch, UserId};
use tern_protocol::limits::MARKS_MAX;
use tern_protocol::model::{Change, Target};
use tern_protocol::request::{Mark, Request, RequestBody};

use crate::event::{ConnectionState, Event, Stop};
use crate::storage::{Marks, Record, State};
use inbox::Inbox;
use link::Link;
use outbox::Outbox;
use sync::Sync;

/// Commands that may wait in the machine before it [accepts](Machine::accepts) no more.
const WAITING_MAX: usize = 1024;
/// In-flight requests kept free of sends, so that reading goes on while a bot floods.
const RESERVED: usize = 8;
/// A query is tried this often before the app is told that the server cannot answer.
const QUERY_TRIES_MAX: u32 = 5;

/// How the machine behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This device.
    pub device: DeviceId,
    /// Whether to get entries at all. A device that only sends syncs nothing and marks nothing.
    pub receive: bool,
    /// Of conversations that this device has never seen: only this many of the last entries; `None`: all.
    pub latest: Option<u32>,
    /// Whether to tell the server by itself that entries have been taken.
    pub mark_delivered: bool,
    /// Whether to persist what a local history is made of.
    pub history: bool,
    /// For the server's log.
    pub client: String,
    /// Whether a refused token can be replaced by another.
    pub token_refreshes: bool,
    /// Page requests at once.
    pub bulk_max: usize,
    /// Events that may wait for the app.
    pub events_max: usize,
    /// First wait before another try; doubles each time.
    pub backoff_first: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// Send something at least this often, even if the server and the path ask for less.
    pub heartbeat_max: Duration,
    /// A link on which nothing comes back for this long after a heartbeat is dead.
    pub dead_after: Duration,
    /// From connecting to the login's answer.
    pub login_timeout: Duration,
    /// A request unanswered while for this long nothing but heartbeats came: the link is of no use.
    pub request_timeout: Duration,
    /// Delivered marks are collected for this long.
    pub mark_delay: Duration,
    /// Randomness for the jitter of waits.
    pub seed: u64,
}

impl Settings {
    /// The usual ones for this device.
    pub fn new(device: DeviceId, seed: u64) -> Self {
        Self {
            device,
            receive: true,
            latest: None,
            mark_delivered: true,
            history: false,
            client: concat!("tern-client/", env!("CARGO_PKG_VERSION")).into(),
            token_refreshes: false,
            bulk_max: tern_protocol::limits::QUIC_BULK_STREAMS_MAX,
            events_max: 1024,
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            heartbeat_max: Duration::from_secs(60),
            dead_after: Duration::from_secs(10),
            login_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(30),
            mark_delay: Duration::from_millis(100),
            seed,
        }
    }
}

/// The driver's name for a send or query, so that it finds who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Make a connection; then call [`Machine::connected`] or [`Machine::disconnected`].
    Connect {
        /// The last token was refused: get another.
        fresh_token: bool,
        /// Where the server is said to be, `host:port`: to be tried first, in this order.
        hints: Vec<String>,
    },
    /// Store this before the outputs that follow are carried out.
    Persist(Record),
    /// Send this request on the current connection.
    Transmit {
        /// It.
        request: Request,
        /// On QUIC: on a stream of its own.
        bulk: bool,
    },
    /// Send a heartbeat.
    Heartbeat,
    /// Drop the connection, or stop making one. The machine knows; do not report it.
    Disconnect,
    /// A send has its number, and is stored (the record came before this).
    Queued {
        /// Which.
        ticket: Ticket,
    },
    /// A send is decided.
    Sent {
        /// Which.
        ticket: Ticket,
        /// Stored, or refused for good.
        result: Result<SendOk, WireError>,
    },
    /// A query is answered.
    Answer {
        /// Which.
        ticket: Ticket,
        /// The answer, or why there is none.
        result: Result<ServerBody, WireError>,
    },
    /// The state for those who wait for it, before it gets to the app in the order of events.
    State(ConnectionState),
}

/// What the app says by taking an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has dropped all that it had of the server's logs, for a store with this epoch.
    HistoryReset(StoreEpoch),
    /// It has more of one log.
    Conversation(ConversationProgress),
}

/// What the app says of one log by taking an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationProgress {
    /// In this conversation.
    pub conversation: ConversationId,
    /// It has dropped what it had; the others are of what came after.
    pub reset: bool,
    /// It has the entries up to here; 0: not said.
    pub seq: Seq,
    /// It knows these watermarks; 0: not said.
    pub marks: Marks,
}

impl ConversationProgress {
    /// Both, this one first.
    pub fn add(&mut self, next: Self) {
        if next.reset {
            *self = next;
        } else {
            (self.seq, self.marks) = (self.seq.max(next.seq), self.marks.max(next.marks));
        }
    }
}

/// What a request is for.
#[derive(Debug)]
enum Purpose {
    Login,
    Sync(sync::Range),
    Pull(ConversationId),
    Send(ConversationId, ClientSeq),
    Query(Query),
    Marks(Vec<Mark>),
}

#[derive(Debug)]
struct InFlight {
    purpose: Purpose,
    asked: Duration,
    bulk: bool,
}

#[derive(Debug)]
struct Query {
    ticket: Ticket,
    body: RequestBody,
    tries: u32,
}

impl Query {
    fn is_bulk(&self) -> bool {
        !matches!(self.body, RequestBody::Mark(_))
    }
}

/// What to do later.
#[derive(Debug)]
enum Wake {
    Pull(ConversationId),
    Send(ConversationId),
    Query(Query),
    Sync,
    Marks,
    MarksAgain,
    Quiet,
}

#[derive(Debug, Default)]
struct Conversation {
    inbox: Inbox,
    outbox: Outbox,
}

/// The protocol of one device. See the [module](self).
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    user: Option<UserId>,
    /// Of the store that the server had at the last login; the cursors are of that history.
    epoch: Option<StoreEpoch>,
    /// The app has taken the last [`Event::HistoryReset`]: what it takes from here on is of the present history.
    reset_taken: bool,
    base: ClientSeq,
    conversations: BTreeMap<ConversationId, Conversation>,
    link: Link,
    sync: Sync,
    pulls: VecDeque<ConversationId>,
    held: usize,
    caught_up_told: bool,
    ready: VecDeque<ConversationId>,
    unnumbered: VecDeque<(Ticket, Target, Change)>,
    unsettled: usize,
    sends_in_flight: usize,
    bulk_in_flight: usize,
    query_next: bool,
    queries: VecDeque<Query>,
    in_flight: BTreeMap<RequestId, InFlight>,
    next_request: u64,
    dirty: BTreeSet<ConversationId>,
    /// When marks went out unanswered on this connection.
    said: BTreeMap<ConversationId, Duration>,
    /// Whose marks the server may not have: said once more, answered, one `Mark` at a time.
    unsure: BTreeSet<ConversationId>,
    /// Such a `Mark` is under way, or waits after an error.
    repeating: bool,
    /// As many in one: fewer after one was refused for good, until the culprit is found.
    repeat_max: usize,
    marks_waiting: bool,
    /// The server has said that it is asked too often: nothing but sends goes out, until it may.
    quiet: bool,
    wakes: BTreeMap<(Duration, u64), Wake>,
    next_wake: u64,
    events: VecDeque<Event>,
    receipts: BTreeMap<ConversationId, ReceiptsMoved>,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A machine that goes on where `state` ends. Its first [`handle_timeout`](Self::handle_timeout) connects.
    pub fn new(settings: Settings, state: State) -> Self {
        let mut conversations = BTreeMap::new();
        let (mut ready, mut unsettled) = (VecDeque::new(), 0);
        for (id, stored) in state.conversations {
            if !stored.unacked.is_empty() {
                ready.push_back(id);
                unsettled += stored.unacked.len();
            }
            let outbox = Outbox::restored(stored.next.max(state.base), stored.unacked);
            conversations
                .insert(id, Conversation { inbox: Inbox::restored(stored.cursor, stored.marks), outbox });
        }
        Self {
            link: Link::new(settings.seed),
            sync: Sync::default(),
            user: state.user,
            epoch: state.epoch,
            reset_taken: true,
            base: state.base,
            conversations,
            ready,
            unsettled,
            unsure: if settings.receive { state.recent.into_iter().collect() } else { BTreeSet::new() },
            settings,
            pulls: VecDeque::new(),
            held: 0,
            caught_up_told: false,
            unnumbered: VecDeque::new(),
            sends_in_flight: 0,
            bulk_in_flight: 0,
            query_next: true,
            queries: VecDeque::new(),
            in_flight: BTreeMap::new(),
            next_request: 0,
            dirty: BTreeSet::new(),
            said: BTreeMap::new(),
            repeating: false,
            repeat_max: MARKS_MAX,
            marks_waiting: false,
            quiet: false,
            wakes: BTreeMap::new(),
            next_wake: 0,
            events: VecDeque::new(),
            receipts: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next event for the app. `now`: room in the queue may let the machine ask for more.
    pub fn poll_event(&mut self, now: Duration) -> Option<Event> {
        let was_full = !self.has_room();
        let event = match self.events.pop_front() {
            Some(event) => event,
            None => Event::Receipts(self.receipts.pop_first()?.1),
        };
        if was_full && self.has_room() {
            self.pump(now);
        }
        Some(event)
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty() || !self.receipts.is_empty()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest, if nothing else happens.
    pub fn next_timeout(&self) -> Option<Duration> {
        let wake = self.wakes.keys().next().map(|(at, _)| *at);
        [wake, self.request_timeout(), self.link_timeout()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.link_due(now);
        if self.request_timeout().is_some_and(|at| at <= now) {
            self.down(now, crate::event::Lost::Silent);
        }
        while let Some(entry) = self.wakes.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Wake::Pull(id) => self.wake_pull(id),
                Wake::Send(id) => self.wake_send(id),
                Wake::Query(query) => self.queries.push_back(query),
                Wake::Sync => self.sync.wake(),
                Wake::Marks => {
                    self.marks_waiting = false;
                    if !self.quiet {
                        self.say_marks(now);
                    }
                }
                Wake::Quiet => self.wake_quiet(now),
                Wake::MarksAgain => self.repeating = false,
            }
        }
        self.pump(now);
    }

    /// Whether another command may come: too many waiting sends or queries hold the app back.
    pub fn accepts(&self) -> bool {
        self.unsettled + self.unnumbered.len() < WAITING_MAX && self.queries.len() < WAITING_MAX
    }

    /// Whether every send is decided and every query answered.
    pub fn is_settled(&self) -> bool {
        self.unsettled == 0
            && self.unnumbered.is_empty()
            && self.queries.is_empty()
            && !self.in_flight.values().any(|r| matches!(r.purpose, Purpose::Query(_)))
            && !self.wakes.values().any(|w| matches!(w, Wake::Query(_)))
    }

    /// The user, once a login has told.
    pub fn user(&self) -> Option<UserId> {
        self.user
    }

    /// Whether it gave up.
    pub fn stopped(&self) -> Option<&Stop> {
        self.link.stopped()
    }

    /// Asks something that has no lasting effect if asked twice: pages, lists, a read mark. Repeated on a new
    /// connection when the answer did not come.
    ///
    /// # Panics
    /// For logins, sends and syncs, which are the machine's own.
    pub fn query(&mut self, now: Duration, ticket: Ticket, body: RequestBody) {
        match &body {
            RequestBody::Mark(_)
            | RequestBody::History(_)
            | RequestBody::ListConversations(_)
            | RequestBody::ListMembers(_)
            | RequestBody::ListReceipts(_) => {}
            RequestBody::Login(_) | RequestBody::Send(_) | RequestBody::Sync(_) => {
                panic!("not a query: {body:?}")
            }
        }
        if matches!(body, RequestBody::Mark(_)) && !self.reset_taken {
            // The app has not dropped the old history yet, and speaks of that.
            self.outputs.push_back(Output::Answer { ticket, result: Ok(ServerBody::MarkOk) });
            return;
        }
        self.queries.push_back(Query { ticket, body, tries: 0 });
        self.pump(now);
    }

    /// A message from the server.
    pub fn received(&mut self, now: Duration, message: ServerMessage) {
        let is_event = message.id.get() == 0;
        if is_event {
            self.heard_event(now)
        } else {
            self.heard(now)
        }
        if self.link.stopped().is_some() {
            return;
        }
        if is_event {
            self.on_event(now, message.body);
        } else if let Some(request) = self.in_flight.remove(&message.id) {
            self.bulk_in_flight -= usize::from(request.bulk);
            self.on_answer(now, request.purpose, message.body);
            self.link_due(now);
        }
        // Otherwise: an answer to nobody, from before a reconnect or given twice.
        self.pump(now);
    }

    /// A page request's own stream broke, while the connection lives.
    pub fn bulk_failed(&mut self, now: Duration, id: RequestId) {
        let error = WireError {
            code: ErrorCode::Unavailable,
            text: "the request's stream broke".into(),
            retry_after_ms: 0,
            client_seq: ClientSeq(0),
        };
        self.received(now, ServerMessage { id, body: ServerBody::Error(error) });
    }

    /// What the app says by taking this event, for [`taken`](Self::taken) when it has dealt with it.
    pub fn progress(&self, event: &Event) -> Option<Progress> {
        let (conversation, seq, marks) = match event {
            Event::Entry { conversation, entry } => (*conversation, entry.seq, Marks::default()),
            Event::Trimmed { conversation, to, .. } => (*conversation, *to, Marks::default()),
            Event::Reset { conversation, .. } => {
                return Some(Progress::Conversation(ConversationProgress {
                    conversation: *conversation,
                    reset: true,
                    seq: Seq(0),
                    marks: Marks::default(),
                }));
            }
            Event::HistoryReset { epoch } => return Some(Progress::HistoryReset(*epoch)),
            Event::Conversation(state) => (state.conversation, Seq(0), inbox::marks_of_state(state)),
            Event::Receipts(moved) => {
                (moved.conversation, Seq(0), inbox::marks_of_receipts(moved, self.user))
            }
            Event::Connection(_) | Event::CaughtUp | Event::Recovered { .. } => return None,
        };
        let progress = ConversationProgress { conversation, reset: false, seq, marks };
        (seq.get() > 0 || marks != Marks::default()).then_some(Progress::Conversation(progress))
    }

    fn moved(&mut self, now: Duration, progress: ConversationProgress) {
        let ConversationProgress { conversation, reset, seq, marks } = progress;
        let Some(c) = self.conversations.get_mut(&conversation) else { return };
        let inbox = &mut c.inbox;
        if reset {
            (inbox.taken, inbox.marks_taken) = (Seq(0), Marks::default());
            self.outputs.push_back(Output::Persist(Record::Reset { conversation }));
        }
        let (seq, marks) = (seq.min(inbox.handed).max(inbox.taken), marks.max(inbox.marks_taken));
        let entries = seq > inbox.taken;
        if !entries && marks == inbox.marks_taken {
            return;
        }
        (inbox.taken, inbox.marks_taken) = (seq, marks);
        self.outputs.push_back(Output::Persist(Record::Cursor { conversation, seq, marks }));
        if entries && self.settings.mark_delivered {
            self.mark_later(now, conversation);
        }
    }

    fn on_event(&mut self, now: Duration, body: ServerBody) {
        match body {
            ServerBody::Push { conversation, entry } => self.on_push(conversation, entry),
            ServerBody::HeadMoved { conversation, head } => self.on_head_moved(conversation, head),
            ServerBody::ReceiptsMoved(moved) => self.on_receipts(moved),
            ServerBody::GoingAway { reconnect_after_ms, targets } => {
                self.on_going_away(now, reconnect_after_ms, targets);
            }
            ServerBody::Error(error) if error.code == ErrorCode::RateLimited => {
                self.on_marks_limited(now, error.retry_after_ms);
            }
            ServerBody::Error(error) => self.on_closing(now, error),
            // Answers to nobody.
            ServerBody::LoginOk(_)
            | ServerBody::SendOk(_)
            | ServerBody::MarkOk
            | ServerBody::SyncPage(_)
            | ServerBody::HistoryPage(_)
            | ServerBody::ConversationPage(_)
            | ServerBody::MemberPage(_)
            | ServerBody::ReceiptPage(_)
            | ServerBody::Unknown => {}
        }
    }

    fn on_answer(&mut self, now: Duration, purpose: Purpose, body: ServerBody) {
        let body = match body {
            // Whether it had an effect is not known.
            ServerBody::Unknown => ServerBody::Error(WireError {
                code: ErrorCode::Internal,
                text: "the answer is of a kind that this version does not know".into(),
                retry_after_ms: 0,
                client_seq: ClientSeq(0),
            }),
            known => known,
        };
        match (purpose, body) {
            (Purpose::Login, ServerBody::LoginOk(ok)) => self.on_login(now, ok),
            (Purpose::Login, ServerBody::Error(error)) => self.on_closing(now, error),
            (Purpose::Send(id, client_seq), ServerBody::Error(error)) => {
                self.on_send_error(now, id, client_seq, error);
            }
            (purpose, ServerBody::Error(error)) if error.code == ErrorCode::RateLimited => {
                self.on_limited(now, purpose, error.retry_after_ms);
            }
            (Purpose::Sync(range), ServerBody::SyncPage(page)) => self.on_sync_page(range, page),
            (Purpose::Sync(_), ServerBody::Error(error)) => self.on_sync_error(now, error),
            (Purpose::Pull(id), ServerBody::HistoryPage(page)) => self.on_pulled(now, id, page),
            (Purpose::Pull(id), ServerBody::Error(error)) => self.on_pull_error(now, id, &error),
            (Purpose::Send(id, client_seq), ServerBody::SendOk(ok)) => self.on_sent(now, id, client_seq, ok),
            (Purpose::Marks(marks), ServerBody::MarkOk) => self.on_repeated(&marks),
            (Purpose::Marks(marks), ServerBody::Error(error)) => self.on_repeat_error(now, &marks, &error),
            (Purpose::Query(query), ServerBody::Error(error)) => self.on_query_error(now, query, error),
            (Purpose::Query(query), body) => {
                if let (RequestBody::Mark(marks), ServerBody::MarkOk) = (&query.body, &body) {
                    self.on_marked(now, marks);
                }
                self.outputs.push_back(Output::Answer { ticket: query.ticket, result: Ok(body) });
            }
            // An answer of another kind than was asked for: this server cannot be talked to.
            (purpose, body) => {
                let text = format!("{body:?} does not answer {purpose:?}");
                self.next_request += 1;
                let request = InFlight { purpose, asked: now, bulk: false };
                self.sends_in_flight += usize::from(matches!(request.purpose, Purpose::Send(..)));
                self.in_flight.insert(RequestId(self.next_request), request);
                self.down(now, crate::event::Lost::Broken(text));
            }
        }
    }

    fn on_query_error(&mut self, now: Duration, mut query: Query, error: WireError) {
        query.tries += 1;
        match error.code.retry() {
            Retry::Later if query.tries < QUERY_TRIES_MAX => {
                let at = now + self.delay(query.tries, error.retry_after_ms);
                self.wake_at(at, Wake::Query(query));
            }
            Retry::Reconnect => self.queries.push_front(query),
            Retry::Later | Retry::Never => {
                self.outputs.push_back(Output::Answer { ticket: query.ticket, result: Err(error) });
            }
        }
    }

    /// Sends what may be sent now.
    fn pump(&mut self, now: Duration) {
        if !self.quiet {
            self.pump_sync(now);
        }
        if self.link.is_open() {
            if !self.quiet {
                self.repeat_marks(now);
                self.pump_bulk(now);
            }
            self.pump_sends(now);
        }
        if !self.caught_up_told && self.is_caught_up() {
            self.caught_up_told = true;
            self.events.push_back(Event::CaughtUp);
        }
    }

    /// Queries and pulls take turns, so that neither starves the other.
    fn pump_bulk(&mut self, now: Duration) {
        loop {
            let slot = self.bulk_in_flight < self.settings.bulk_max;
            let may = self.in_flight.len() < self.link.in_flight_max;
            let query = may && self.queries.front().is_some_and(|q| slot || !q.is_bulk());
            let pull = may && slot && self.has_room() && !self.pulls.is_empty();
            match (query, pull) {
                (true, pull) if self.query_next || !pull => {
                    let Some(query) = self.queries.pop_front() else { return };
                    let (body, bulk) = (query.body.clone(), query.is_bulk());
                    self.ask(now, body, Purpose::Query(query), bulk);
                }
                (_, true) => self.start_pull(now),
                _ => return,
            }
            self.query_next = !self.query_next;
        }
    }

    /// Sends a request that wants an answer.
    fn ask(&mut self, now: Duration, body: RequestBody, purpose: Purpose, bulk: bool) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.bulk_in_flight += usize::from(bulk);
        self.in_flight.insert(id, InFlight { purpose, asked: now, bulk });
        self.transmit(now, id, body, bulk);
        id
    }

    fn transmit(&mut self, now: Duration, id: RequestId, body: RequestBody, bulk: bool) {
        self.link.last_sent = now;
        self.outputs.push_back(Output::Transmit { request: Request { id, body }, bulk });
    }

    /// Whether more may be handed to the app.
    fn has_room(&self) -> bool {
        self.events.len() < self.settings.events_max
    }

    fn wake_at(&mut self, at: Duration, wake: Wake) {
        self.next_wake += 1;
        self.wakes.insert((at, self.next_wake), wake);
    }
}

/// The conversation's state, new when it is the first time.
fn conversation(
    conversations: &mut BTreeMap<ConversationId, Conversation>,
    base: ClientSeq,
    id: ConversationId,
) -> &mut Conversation {
    conversations.entry(id).or_insert_with(|| Conversation {
        inbox: Inbox::default(),
        outbox: Outbox::restored(base, BTreeMap::new()),
    })
}
