//! A machine by itself: these inputs, these requests and events.

use std::time::Duration;

use tern_protocol::event::{ConversationState, HistoryPage, SendOk, ServerBody, ServerMessage, SyncPage};
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::model::{Kind, Role, Target, WallMillis};
use tern_protocol::request::{HistoryFrom, Known, Mark, Request, RequestBody, Send};

use super::super::{ConversationProgress, Machine, Output, Progress, Settings, Ticket};
use super::model::{device, entry, group, login_ok, me, message};
use crate::event::{ConnectionState, Event, Lost};
use crate::storage::{Marks, Record, State};

/// A machine and what it wants, without a model of a server.
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) now: Duration,
    pub(super) sent: Vec<Request>,
    pub(super) other: Vec<Output>,
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Rig {
    pub(super) fn new(settings: Settings, state: State) -> Self {
        let machine = Machine::new(settings, state);
        let mut rig = Self { machine, now: Duration::ZERO, sent: Vec::new(), other: Vec::new() };
        rig.advance(Duration::ZERO);
        rig
    }

    pub(super) fn usual() -> Settings {
        Settings::new(device(), 1)
    }

    pub(super) fn online(settings: Settings, state: State) -> Self {
        let mut rig = Self::new(settings, state);
        rig.connect();
        rig.answer_sync(SyncPage { conversations: Vec::new(), covered_until: None });
        rig
    }

    /// Connects and logs in; the sync stays open.
    pub(super) fn connect(&mut self) {
        assert!(self.other.iter().any(|o| matches!(o, Output::Connect { .. })), "{:?}", self.other);
        self.other.clear();
        self.sent.clear();
        self.machine.connected(self.now, "token".into(), false);
        self.drain();
        let login = self.sent.remove(0);
        assert!(matches!(login.body, RequestBody::Login(_)));
        self.receive(login.id, login_ok(64));
    }

    pub(super) fn answer_sync(&mut self, page: SyncPage) {
        let at = self.sent.iter().position(|r| matches!(r.body, RequestBody::Sync(_))).unwrap();
        let sync = self.sent.remove(at);
        self.receive(sync.id, ServerBody::SyncPage(page));
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Transmit { request, .. } => self.sent.push(request),
                other => self.other.push(other),
            }
        }
    }

    pub(super) fn receive(&mut self, id: RequestId, body: ServerBody) {
        self.machine.received(self.now, ServerMessage { id, body });
        self.drain();
    }

    pub(super) fn event(&mut self, body: ServerBody) {
        self.receive(RequestId(0), body);
    }

    pub(super) fn push(&mut self, seq: u64) {
        self.event(ServerBody::Push { conversation: group(1), entry: entry(seq, "theirs") });
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.machine.handle_timeout(self.now);
        self.drain();
    }

    pub(super) fn send(&mut self, n: u64) {
        self.machine.send(self.now, Ticket(n), Target::Conversation(group(1)), message(format!("{n}")));
        self.drain();
    }

    /// The app has the entries up to here.
    pub(super) fn take(&mut self, seq: u64) {
        let marks = Marks::default();
        let progress = ConversationProgress { conversation: group(1), reset: false, seq: Seq(seq), marks };
        self.machine.taken(self.now, Progress::Conversation(progress));
        self.drain();
    }

    /// The app takes everything; what is stored goes to `disk`.
    pub(super) fn take_all(&mut self, disk: &mut State) {
        while let Some(event) = self.machine.poll_event(self.now) {
            if let Some(progress) = self.machine.progress(&event) {
                self.machine.taken(self.now, progress);
            }
            self.drain();
        }
        for output in &self.other {
            if let Output::Persist(record) = output {
                disk.apply(record);
            }
        }
    }

    pub(super) fn mark_read(&mut self, seq: u64) {
        let mark = Mark { conversation: group(1), delivered: Seq(seq), read: Seq(seq) };
        self.machine.query(self.now, Ticket(1), RequestBody::Mark(vec![mark]));
        self.drain();
    }

    pub(super) fn reconnect(&mut self) {
        self.machine.disconnected(self.now, Lost::Broken("cut".into()));
        self.advance(seconds(1));
        self.connect();
    }

    /// What the sync on its way names.
    pub(super) fn known(&self) -> Vec<(ConversationId, u64, Marks)> {
        let known = self.sent.iter().find_map(|r| match &r.body {
            RequestBody::Sync(sync) => Some(&sync.known),
            _ => None,
        });
        let marks =
            |k: &Known| Marks { read: k.read, peer_delivered: k.peer_delivered, peer_read: k.peer_read };
        known.unwrap().iter().map(|k| (k.conversation, k.seq.get(), marks(k))).collect()
    }

    /// The entries handed over since.
    pub(super) fn seqs(&mut self) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some(event) = self.machine.poll_event(self.now) {
            if let Event::Entry { entry, .. } = event {
                seqs.push(entry.seq.get());
            }
        }
        self.drain();
        seqs
    }

    /// The pages of history asked for since: first entry wanted.
    pub(super) fn pulls(&mut self) -> Vec<(RequestId, u64)> {
        let pulls = self.sent.iter().filter_map(|r| match &r.body {
            RequestBody::History(h) => match h.from {
                HistoryFrom::Forward(from) => Some((r.id, from.get())),
                HistoryFrom::Backward(_) => None,
            },
            _ => None,
        });
        let pulls = pulls.collect();
        self.sent.retain(|r| !matches!(r.body, RequestBody::History(_)));
        pulls
    }

    /// The sends since: request, client_seq.
    /// One message is stored, so that the window of its conversation is open.
    pub(super) fn sending() -> Self {
        let mut rig = Self::online(Self::usual(), State::default());
        rig.send(1);
        let id = rig.sends()[0].0;
        rig.receive(id, stored(1));
        rig.other.clear();
        rig
    }

    /// Some seconds pass; a link that has died of silence meanwhile is made anew.
    pub(super) fn wait_online(&mut self) {
        self.advance(seconds(5));
        if self.other.iter().any(|output| matches!(output, Output::Connect { .. })) {
            self.connect();
        }
    }

    pub(super) fn whole_sends(&mut self) -> Vec<(RequestId, Send)> {
        let sends = self.sent.iter().filter_map(|r| match &r.body {
            RequestBody::Send(send) => Some((r.id, send.clone())),
            _ => None,
        });
        let sends = sends.collect();
        self.sent.retain(|r| !matches!(r.body, RequestBody::Send(_)));
        sends
    }

    pub(super) fn sends(&mut self) -> Vec<(RequestId, u64)> {
        self.whole_sends().into_iter().map(|(id, send)| (id, send.client_seq.get())).collect()
    }

    pub(super) fn numbers(&mut self) -> Vec<u64> {
        self.sends().into_iter().map(|(_, n)| n).collect()
    }

    pub(super) fn states(&mut self) -> Vec<ConnectionState> {
        let states = self.other.iter().filter_map(|o| match o {
            Output::State(state) => Some(state.clone()),
            _ => None,
        });
        let states = states.collect();
        self.other.clear();
        states
    }

    pub(super) fn page(&mut self, id: RequestId, floor: u64, head: u64, seqs: impl IntoIterator<Item = u64>) {
        let entries = seqs.into_iter().map(|s| entry(s, "theirs")).collect();
        let page = HistoryPage { conversation: group(1), head: Seq(head), floor: Seq(floor), entries };
        self.receive(id, ServerBody::HistoryPage(page));
    }
}

pub(super) fn stored(n: u64) -> ServerBody {
    ServerBody::SendOk(SendOk { conversation: group(1), seq: Seq(n), time: WallMillis(n), duplicate: false })
}

pub(super) fn with_cursor(seq: u64) -> State {
    let mut state = State::default();
    state.apply(&Record::User(me()));
    state.apply(&Record::Cursor { conversation: group(1), seq: Seq(seq), marks: Marks::default() });
    state
}

/// A line of a sync, without entries.
pub(super) fn line(conversation: ConversationId, head: u64, read: u64) -> ConversationState {
    ConversationState {
        conversation,
        kind: Kind::Group,
        title: String::new(),
        peer: None,
        head: Seq(head),
        floor: Seq(1),
        read: Seq(read),
        peer_delivered: Seq(0),
        peer_read: Seq(0),
        role: Some(Role::Member),
        entries: vec![],
        complete_to: Seq(head),
        unread: 0,
        time: WallMillis(0),
    }
}
