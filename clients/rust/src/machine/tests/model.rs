//! A server in a few lines, and a world in which a machine talks to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{
    ConversationState, HistoryPage, LoginOk, SendOk, ServerBody, ServerMessage, SyncPage, WireError,
};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Kind, Message, Role, Sender, Target, WallMillis};
use tern_protocol::request::{History, HistoryFrom, Mark, Request, RequestBody, Sync};

use super::super::{Machine, Output, Settings, Ticket};
use crate::event::{Event, Lost};
use crate::storage::State;

pub(super) fn me() -> UserId {
    UserId::from_sub("me")
}

pub(super) fn device() -> DeviceId {
    DeviceId::new(7).unwrap()
}

pub(super) fn group(n: u8) -> ConversationId {
    ConversationId::group_from_random([n; 16])
}

pub(super) fn message(text: impl Into<String>) -> Change {
    Change::Message(Message {
        content_type: "text/plain".into(),
        payload: text.into().into(),
        reply_to: None,
    })
}

pub(super) fn text(change: &Change) -> String {
    match change {
        Change::Message(m) => String::from_utf8(m.payload.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn entry(seq: u64, text: impl Into<String>) -> Entry {
    Entry {
        seq: Seq(seq),
        time: WallMillis(seq),
        sender: Sender { user: UserId::from_sub("other"), device: DeviceId::new(8).unwrap() },
        client_seq: ClientSeq(seq),
        change: message(text),
    }
}

pub(super) fn error(code: ErrorCode, retry_after_ms: u32) -> ServerBody {
    ServerBody::Error(WireError { code, text: "because".into(), retry_after_ms, client_seq: ClientSeq(0) })
}

pub(super) fn login_ok(in_flight_max: u32) -> ServerBody {
    ServerBody::LoginOk(LoginOk {
        user: me(),
        version: 1,
        features: Vec::new(),
        time: WallMillis(0),
        heartbeat_ms: 60_000,
        in_flight_max,
        epoch: None,
    })
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) entries: Vec<Entry>,
    pub(super) floor: u64,
    /// client_seq -> seq of our device.
    pub(super) numbers: BTreeMap<ClientSeq, Seq>,
    pub(super) delivered: Seq,
}

impl Log {
    pub(super) fn head(&self) -> Seq {
        Seq(self.entries.len() as u64)
    }

    fn floor(&self) -> Seq {
        Seq(self.floor.max(1))
    }

    fn from(&self, seq: Seq, limit: usize) -> Vec<Entry> {
        let first = seq.max(self.floor()).get() as usize;
        self.entries.iter().skip(first - 1).take(limit).cloned().collect()
    }
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) logs: BTreeMap<ConversationId, Log>,
    /// How the next sends are refused.
    pub(super) refuse: VecDeque<(ErrorCode, bool)>,
    /// So many of the next requests that are no sends are too many.
    pub(super) limited: u32,
    pub(super) push_own: bool,
    pub(super) page: usize,
    pub(super) known_seen: Vec<usize>,
}

impl Server {
    pub(super) fn append(&mut self, id: ConversationId, mut entry: Entry) -> Entry {
        let log = self.logs.entry(id).or_default();
        entry.seq = log.head().next();
        log.entries.push(entry.clone());
        entry
    }

    fn handle(&mut self, request: Request, out: &mut Vec<ServerMessage>) {
        let counts = !matches!(request.body, RequestBody::Login(_) | RequestBody::Send(_));
        if counts && self.limited > 0 {
            self.limited -= 1;
            out.push(ServerMessage { id: request.id, body: error(ErrorCode::RateLimited, 500) });
            return;
        }
        let body = match request.body {
            RequestBody::Login(_) => login_ok(16),
            RequestBody::Send(send) => {
                let id = match send.target {
                    Target::Conversation(id) => id,
                    Target::User(peer) => ConversationId::direct(me(), peer),
                };
                let refused = self.refuse.pop_front();
                let log = self.logs.entry(id).or_default();
                let ok = |seq, duplicate| {
                    ServerBody::SendOk(SendOk {
                        conversation: id,
                        seq,
                        time: WallMillis(seq.get()),
                        duplicate,
                    })
                };
                if let Some((code, false)) = refused {
                    error(code, 0)
                } else if let Some(seq) = log.numbers.get(&send.client_seq) {
                    ok(*seq, true)
                } else if log.numbers.last_key_value().is_some_and(|(n, _)| *n > send.client_seq) {
                    error(ErrorCode::ClientSeqStale, 0)
                } else {
                    let seq = log.head().next();
                    log.numbers.insert(send.client_seq, seq);
                    let sender = Sender { user: me(), device: device() };
                    let time = WallMillis(seq.get());
                    let entry = Entry { seq, time, sender, client_seq: send.client_seq, change: send.change };
                    log.entries.push(entry.clone());
                    if self.push_own {
                        let body = ServerBody::Push { conversation: id, entry };
                        out.push(ServerMessage { id: RequestId(0), body });
                    }
                    match refused {
                        // Stored, but not said.
                        Some((code, _)) => error(code, 0),
                        None => ok(seq, false),
                    }
                }
            }
            RequestBody::Mark(marks) => {
                for Mark { conversation, delivered, .. } in marks {
                    let log = self.logs.entry(conversation).or_default();
                    assert!(delivered <= log.head(), "marked what does not exist");
                    log.delivered = log.delivered.max(delivered);
                }
                if request.id.get() == 0 {
                    return;
                }
                ServerBody::MarkOk
            }
            RequestBody::Sync(sync) => ServerBody::SyncPage(self.sync_page(sync)),
            RequestBody::History(History { conversation, from: HistoryFrom::Forward(from), limit }) => {
                let (page, log) = (self.page, self.logs.entry(conversation).or_default());
                ServerBody::HistoryPage(HistoryPage {
                    conversation,
                    head: log.head(),
                    floor: log.floor(),
                    entries: log.from(from, page.min(limit as usize)),
                })
            }
            other => panic!("{other:?}"),
        };
        out.push(ServerMessage { id: request.id, body });
    }

    pub(super) fn sync_page(&mut self, sync: Sync) -> SyncPage {
        self.known_seen.push(sync.known.len());
        let known: BTreeMap<_, _> = sync.known.into_iter().map(|k| (k.conversation, k.seq)).collect();
        let (mut conversations, mut covered_until) = (Vec::new(), None);
        let asked =
            |id: &ConversationId| sync.after.is_none_or(|a| *id > a) && sync.until.is_none_or(|u| *id <= u);
        for (id, log) in self.logs.iter().filter(|(id, _)| asked(id)) {
            if conversations.len() == self.page {
                break;
            }
            covered_until = Some(*id);
            let have = known.get(id).copied().unwrap_or(Seq(0));
            if have >= log.head() {
                continue;
            }
            let entries = log.from(have.next(), self.page);
            conversations.push(ConversationState {
                conversation: *id,
                kind: Kind::Group,
                title: String::new(),
                peer: None,
                head: log.head(),
                floor: log.floor(),
                read: Seq(0),
                peer_delivered: Seq(0),
                peer_read: Seq(0),
                role: Some(Role::Member),
                complete_to: entries.last().map_or(have, |e| e.seq),
                entries,
                unread: 0,
                time: WallMillis(0),
            });
        }
        let last = self.logs.keys().rfind(|id| asked(id)).copied();
        SyncPage { conversations, covered_until: covered_until.filter(|id| Some(*id) != last) }
    }
}

/// A machine, a server, and the wires between them.
pub(super) struct World {
    pub(super) server: Server,
    pub(super) machine: Machine,
    pub(super) disk: State,
    pub(super) now: Duration,
    pub(super) up: bool,
    pub(super) to_server: VecDeque<Request>,
    pub(super) to_client: Vec<ServerMessage>,
    heartbeats: usize,
    /// What the app was handed, by conversation.
    pub(super) handed: BTreeMap<ConversationId, Vec<Entry>>,
    pub(super) skipped: BTreeMap<ConversationId, Seq>,
    pub(super) results: BTreeMap<Ticket, Result<SendOk, WireError>>,
    pub(super) queued: BTreeMap<Ticket, String>,
    pub(super) texts: BTreeMap<Ticket, String>,
    pub(super) tickets: u64,
}

pub(super) fn settings() -> Settings {
    Settings { events_max: 8, ..Settings::new(device(), 42) }
}

impl World {
    pub(super) fn new(server: Server) -> Self {
        let mut world = Self {
            server,
            machine: Machine::new(settings(), State::default()),
            disk: State::default(),
            now: Duration::ZERO,
            up: false,
            to_server: VecDeque::new(),
            to_client: Vec::new(),
            heartbeats: 0,
            handed: BTreeMap::new(),
            skipped: BTreeMap::new(),
            results: BTreeMap::new(),
            queued: BTreeMap::new(),
            texts: BTreeMap::new(),
            tickets: 0,
        };
        world.machine.handle_timeout(world.now);
        world.carry_out();
        world
    }

    /// What a driver does; the network accepts everything and keeps it in order.
    pub(super) fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Persist(record) => self.disk.apply(&record),
                Output::Connect { .. } => {
                    assert!(!self.up);
                    self.up = true;
                    self.machine.connected(self.now, "token".into(), false);
                }
                Output::Transmit { request, .. } => {
                    assert!(self.up, "sent without a connection");
                    if let RequestBody::Send(send) = &request.body {
                        let durable = self.disk.conversations.values().any(|c| {
                            c.unacked.get(&send.client_seq).is_some_and(|(_, change)| *change == send.change)
                        });
                        assert!(durable, "on the wire before it was on disk");
                    }
                    self.to_server.push_back(request);
                }
                Output::Heartbeat => self.heartbeats += 1,
                Output::Disconnect => self.unplug(),
                Output::Queued { ticket } => {
                    self.queued.insert(ticket, self.texts[&ticket].clone());
                }
                Output::Sent { ticket, result } => {
                    assert!(self.results.insert(ticket, result).is_none(), "answered twice");
                }
                Output::Answer { .. } | Output::State(_) => {}
            }
        }
        assert!(self.machine.in_flight.len() <= 16 || !self.up);
        assert!(self.machine.events.len() <= 8 + 2 + 4 * (self.server.page + 2) * self.server.page);
    }

    fn unplug(&mut self) {
        self.up = false;
        self.to_server.clear();
        self.to_client.clear();
        self.heartbeats = 0;
    }

    pub(super) fn cut(&mut self) {
        if self.up {
            self.unplug();
            self.machine.disconnected(self.now, Lost::Broken("cut".into()));
            self.carry_out();
        }
    }

    /// The process dies and starts again; what the app had taken is its own.
    pub(super) fn crash(&mut self) {
        self.unplug();
        self.machine = Machine::new(settings(), self.disk.clone());
        self.machine.handle_timeout(self.now);
        self.carry_out();
    }

    pub(super) fn send(&mut self, id: ConversationId) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let text = format!("mine {}", self.tickets);
        self.texts.insert(ticket, text.clone());
        self.machine.send(self.now, ticket, Target::Conversation(id), message(text));
        self.carry_out();
    }

    pub(super) fn server_step(&mut self) {
        if let Some(request) = self.to_server.pop_front() {
            self.server.handle(request, &mut self.to_client);
        }
    }

    pub(super) fn deliver(&mut self, at: usize) {
        if self.to_client.is_empty() {
            return;
        }
        let message = self.to_client.remove(at % self.to_client.len());
        self.machine.received(self.now, message);
        self.carry_out();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        if self.up && self.heartbeats > 0 {
            self.heartbeats = 0;
            self.machine.received_heartbeat(self.now);
        }
        self.machine.handle_timeout(self.now);
        self.carry_out();
    }

    /// The app takes events, and checks that each entry is the next one.
    pub(super) fn take_events(&mut self, n: usize) {
        for _ in 0..n {
            let Some(event) = self.machine.poll_event(self.now) else { break };
            let progress = self.machine.progress(&event);
            match event {
                Event::Entry { conversation, entry } => {
                    let log = self.handed.entry(conversation).or_default();
                    let skipped = self.skipped.get(&conversation).copied().unwrap_or_default();
                    let last = log.last().map_or(Seq(0), |e| e.seq).max(skipped);
                    let floor = self.server.logs[&conversation].floor();
                    let first = last == Seq(0) && entry.seq <= floor;
                    assert!(entry.seq == last.next() || first, "{} after {last}", entry.seq);
                    assert_eq!(entry, self.server.logs[&conversation].entries[entry.seq.get() as usize - 1]);
                    log.push(entry);
                }
                Event::Trimmed { conversation, from, to } => {
                    assert!(from <= to && to < self.server.logs[&conversation].floor());
                    self.skipped.insert(conversation, to);
                }
                Event::Reset { .. } | Event::HistoryReset { .. } => panic!("{event:?}"),
                Event::Recovered { .. }
                | Event::Conversation(_)
                | Event::Receipts(_)
                | Event::Connection(_)
                | Event::CaughtUp => {}
            }
            // As the driver does: an app that has been told once is not told again.
            if let Some(progress) = progress {
                self.machine.taken(self.now, progress);
            }
            self.carry_out();
        }
    }

    /// No more faults: all must come to rest.
    pub(super) fn settle(&mut self) {
        self.server.refuse.clear();
        self.server.limited = 0;
        self.cut();
        for _ in 0..20_000 {
            while !self.to_server.is_empty() || !self.to_client.is_empty() || self.machine.has_event() {
                self.server_step();
                self.deliver(0);
                self.take_events(usize::MAX);
            }
            if self.machine.is_settled() && self.machine.is_caught_up() && self.machine.wakes.is_empty() {
                return;
            }
            let next = self.machine.next_timeout().expect("nothing will ever happen again");
            self.advance(next.saturating_sub(self.now).max(Duration::from_millis(1)));
        }
        panic!("does not come to rest");
    }

    /// Everything once, everywhere the same.
    pub(super) fn check(&self) {
        assert_eq!(self.machine.held, 0, "entries are held back behind no gap");
        for (id, log) in &self.server.logs {
            let last = self.handed.get(id).and_then(|l| l.last()).map_or(Seq(0), |e| e.seq);
            let last = last.max(self.skipped.get(id).copied().unwrap_or_default());
            let nothing_left = log.from(last.next(), 1).is_empty();
            assert!(nothing_left, "{id}: handed up to {last} of {}", log.head());
            if self.handed.get(id).is_some_and(|l| !l.is_empty()) {
                assert_eq!(log.delivered, last, "the delivered mark");
            }
        }
        let stored: Vec<_> =
            self.server.logs.values().flat_map(|l| &l.entries).map(|e| text(&e.change)).collect();
        for (ticket, text) in &self.queued {
            let times = stored.iter().filter(|s| *s == text).count();
            let given_up = matches!(self.results.get(ticket), Some(Err(_)));
            assert!(times == 1 || given_up && times == 0, "{text} ({ticket:?}) was stored {times} times");
        }
        for (ticket, result) in &self.results {
            let ok = match result {
                Ok(ok) => ok,
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::Internal, "nothing is refused for good here");
                    continue;
                }
            };
            let entry = &self.server.logs[&ok.conversation].entries[ok.seq.get() as usize - 1];
            assert_eq!(text(&entry.change), self.texts[ticket], "the ack names another entry");
        }
        assert!(self.disk.conversations.values().all(|c| c.unacked.is_empty()));
    }
}
