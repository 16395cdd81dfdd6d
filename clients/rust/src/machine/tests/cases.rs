//! Scripts: these inputs, these requests and events.

use std::time::Duration;

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{
    ConversationState, HistoryPage, ReceiptsMoved, SendOk, ServerBody, ServerMessage, SyncPage, UserReceipt,
    WireError,
};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use tern_protocol::limits::{FRAME_BEFORE_LOGIN_BYTES_MAX, SYNC_KNOWN_BEFORE_LOGIN_MAX, SYNC_KNOWN_MAX};
use tern_protocol::model::{Kind, Role, Target, WallMillis};
use tern_protocol::request::{HistoryFrom, Known, Mark, Request, RequestBody, Send};

use super::super::{ConversationProgress, Machine, Output, Progress, Settings, Ticket};
use super::model::{Server, World, device, entry, error, group, login_ok, me, message};
use crate::event::{ConnectionState, Event, Lost, Stop};
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

#[test]
fn pushes_are_handed_over_once_and_in_order() {
    #[track_caller]
    fn check(cursor: u64, pushed: &[u64], handed: &[u64], pulled: &[u64]) {
        let state = if cursor == 0 { State::default() } else { with_cursor(cursor) };
        let mut rig = Rig::online(Rig::usual(), state);
        pushed.iter().for_each(|s| rig.push(*s));
        assert_eq!(rig.seqs(), handed);
        assert_eq!(rig.pulls().iter().map(|p| p.1).collect::<Vec<_>>(), pulled);
    }
    check(0, &[1, 2, 3], &[1, 2, 3], &[]);
    check(4, &[5, 5, 4, 6], &[5, 6], &[]);
    // From long ago: is it a duplicate, or another log? The server is asked, once.
    check(4, &[5, 5, 4, 1, 2, 6], &[5, 6], &[6]);
    check(4, &[6], &[], &[5]);
    check(4, &[6, 7, 9], &[], &[5]);
    check(4, &[6, 7, 5], &[5, 6, 7], &[5]);
    check(0, &[57], &[], &[1]);
}

#[test]
fn a_gap_is_filled_by_history_and_what_was_held_back_follows() {
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.push(8);
    let pull = rig.pulls()[0].0;
    rig.page(pull, 1, 8, [5, 6]);
    assert_eq!(rig.seqs(), [5, 6]);
    let (pull, from) = rig.pulls()[0];
    assert_eq!(from, 7);
    rig.push(9);
    rig.page(pull, 1, 8, [7]);
    assert_eq!(rig.seqs(), [7, 8, 9]);
    assert_eq!(rig.pulls(), []);
    // An answer given twice is an answer to nobody.
    rig.page(pull, 1, 9, [7]);
    assert_eq!(rig.seqs(), []);
}

#[test]
fn the_floor_moves_the_cursor() {
    // New to this device, a member since 57: nothing is lost.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.push(58);
    let (pull, from) = rig.pulls()[0];
    assert_eq!(from, 1);
    rig.page(pull, 57, 58, [57]);
    assert_eq!(rig.seqs(), [57, 58]);

    // What is left of a log is above all that this user may see: the cursor goes to the head, and no further.
    let mut rig = Rig::new(Rig::usual(), with_cursor(4));
    rig.connect();
    let gone = ConversationState { floor: Seq(50), role: None, ..line(group(1), 9, 0) };
    rig.answer_sync(SyncPage { conversations: vec![gone], covered_until: None });
    let events: Vec<_> = std::iter::from_fn(|| rig.machine.poll_event(rig.now)).collect();
    assert!(events.contains(&Event::Trimmed { conversation: group(1), from: Seq(5), to: Seq(9) }));
    assert_eq!(events.last(), Some(&Event::CaughtUp));
    assert_eq!(rig.pulls(), []);
    rig.reconnect();
    assert_eq!(rig.known(), [(group(1), 9, Marks::default())]);

    // Trimmed below the device's feet: the app is told.
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(20) });
    let pull = rig.pulls()[0].0;
    rig.page(pull, 19, 20, [19, 20]);
    let trimmed = Event::Trimmed { conversation: group(1), from: Seq(5), to: Seq(18) };
    let events: Vec<_> = std::iter::from_fn(|| rig.machine.poll_event(rig.now)).collect();
    assert!(events.contains(&trimmed), "{events:?}");
}

/// A head below what the device had before the connection: the server's store was replaced.
#[test]
fn another_log_is_read_from_its_floor() {
    #[derive(Debug, Clone, Copy)]
    enum Told {
        /// By the sync: the head, and whether the membership is active.
        Sync(u64, bool),
        /// The log has begun after the sync.
        Hint(u64),
        Push(u64),
    }
    #[track_caller]
    fn check(cursor: u64, told: Told, floor: u64, reset: bool) {
        let marks = Marks { read: Seq(cursor), ..Marks::default() };
        let mut disk = with_cursor(cursor);
        disk.apply(&Record::Cursor { conversation: group(1), seq: Seq(cursor), marks });
        disk.apply(&Record::Next { conversation: group(1), next: ClientSeq(31) });
        let mut rig = Rig::new(Rig::usual(), disk.clone());
        rig.connect();
        let none = SyncPage { conversations: vec![], covered_until: None };
        let head = match told {
            Told::Sync(head, active) => {
                let role = active.then_some(Role::Member);
                let line = ConversationState { role, floor: Seq(floor), ..line(group(1), head, 1) };
                rig.answer_sync(SyncPage { conversations: vec![line], covered_until: None });
                head
            }
            Told::Hint(head) => {
                rig.answer_sync(none);
                rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(head) });
                head
            }
            Told::Push(head) => {
                rig.answer_sync(none);
                rig.push(head);
                head
            }
        };
        for _ in 0..5 {
            for (pull, from) in rig.pulls() {
                rig.page(pull, floor, head, from.max(floor)..=head);
            }
        }
        let mut resets = Vec::new();
        let mut seqs = Vec::new();
        while let Some(event) = rig.machine.poll_event(rig.now) {
            if let Some(progress) = rig.machine.progress(&event) {
                rig.machine.taken(rig.now, progress);
            }
            rig.drain();
            match event {
                Event::Reset { conversation, cursor, head } => {
                    assert!(seqs.is_empty(), "{told:?}");
                    resets.push((conversation, cursor.get(), head.get()));
                }
                Event::Entry { entry, .. } => seqs.push(entry.seq.get()),
                Event::Trimmed { .. } => panic!("{event:?}"),
                _ => {}
            }
        }
        rig.take_all(&mut disk);
        let stored = &disk.conversations[&group(1)];
        assert_eq!(stored.next, ClientSeq(31), "numbers only rise");
        if reset {
            assert_eq!(resets, [(group(1), cursor, head)], "{told:?}");
            assert_eq!(seqs, (floor..=head).collect::<Vec<_>>(), "{told:?}");
            assert_eq!(stored.cursor, Seq(head));
            assert!(stored.marks.read <= Seq(head));
        } else {
            assert_eq!((resets, seqs), (vec![], vec![]), "{told:?}");
            assert_eq!(stored.cursor, Seq(cursor));
        }
        // It goes on as usual, and after the next login nothing is told again.
        let next = stored.cursor.get() + 1;
        rig.push(next);
        assert_eq!(rig.seqs(), [next]);
        rig.reconnect();
        assert_eq!(rig.known()[0].1, next);
        rig.answer_sync(SyncPage { conversations: vec![], covered_until: None });
        rig.push(next + 1);
        assert_eq!(rig.seqs(), [next + 1]);
        rig.send(1);
        assert_eq!(rig.numbers(), [31]);
    }
    check(4, Told::Sync(1, true), 1, true);
    check(4, Told::Sync(3, true), 1, true);
    check(4, Told::Sync(3, true), 2, true);
    check(9, Told::Sync(1, true), 1, true);
    check(4, Told::Hint(1), 1, true);
    check(4, Told::Hint(3), 1, true);
    check(4, Told::Push(1), 1, true);
    check(4, Told::Push(3), 2, true);
    check(4, Told::Sync(4, true), 1, false);
    check(4, Told::Hint(4), 1, false);
    check(4, Told::Push(4), 1, false);
    // No member any more: there is nothing new to miss.
    check(4, Told::Sync(3, false), 1, false);
}

#[test]
fn a_page_from_before_the_last_pushes_is_no_other_log() {
    let mut rig = Rig::new(Rig::usual(), with_cursor(4));
    rig.connect();
    (5..=7).for_each(|seq| rig.push(seq));
    rig.answer_sync(SyncPage { conversations: vec![line(group(1), 5, 0)], covered_until: None });
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(6) });
    assert_eq!(rig.pulls(), []);
    // An old push that came late: the page says that all is well.
    rig.push(2);
    let pull = rig.pulls()[0].0;
    rig.page(pull, 1, 7, []);
    rig.push(1);
    assert_eq!(rig.pulls(), []);
    assert_eq!(rig.seqs(), [5, 6, 7]);
}

#[test]
fn a_reset_that_was_not_taken_is_told_again() {
    let mut disk = with_cursor(4);
    for _ in 0..2 {
        let mut rig = Rig::new(Rig::usual(), disk.clone());
        rig.connect();
        assert_eq!(rig.known()[0].1, 4);
        rig.answer_sync(SyncPage { conversations: vec![line(group(1), 1, 0)], covered_until: None });
        let (pull, from) = rig.pulls()[0];
        assert_eq!(from, 1);
        rig.page(pull, 1, 1, [1]);
        assert!(
            std::iter::from_fn(|| rig.machine.poll_event(rig.now)).any(|e| matches!(e, Event::Reset { .. }))
        );
        for output in &rig.other {
            if let Output::Persist(record) = output {
                disk.apply(record);
            }
        }
    }
    let mut rig = Rig::new(Rig::usual(), disk.clone());
    rig.connect();
    rig.answer_sync(SyncPage { conversations: vec![line(group(1), 1, 0)], covered_until: None });
    rig.take_all(&mut disk);
    assert_eq!(disk.conversations[&group(1)].cursor, Seq(0));
}

/// As the driver merges what the app has taken.
#[test]
fn what_was_taken_before_a_reset_does_not_count() {
    let progress = |reset, seq| ConversationProgress {
        conversation: group(1),
        reset,
        seq: Seq(seq),
        marks: Marks::default(),
    };
    for (steps, sum) in [
        (vec![(false, 3), (false, 4)], (false, 4)),
        (vec![(false, 4), (true, 0)], (true, 0)),
        (vec![(false, 4), (true, 0), (false, 1)], (true, 1)),
        (vec![(true, 0), (false, 2), (true, 0), (false, 1)], (true, 1)),
    ] {
        let mut steps = steps.into_iter().map(|(reset, seq)| progress(reset, seq));
        let mut merged = steps.next().unwrap();
        steps.for_each(|step| merged.add(step));
        assert_eq!(merged, progress(sum.0, sum.1));
    }
}

#[test]
fn one_pull_at_a_time_and_none_for_ever() {
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(9) });
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(10) });
    rig.push(12);
    let mut pulls = rig.pulls();
    assert_eq!(pulls.len(), 1);
    // The server has nothing of what was announced.
    let mut asked = 0;
    while let Some((pull, _)) = pulls.pop() {
        asked += 1;
        assert!(asked < 10);
        rig.page(pull, 1, 4, []);
        rig.advance(seconds(20));
        pulls = rig.pulls();
    }
    assert!(asked > 1);

    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.push(9);
    let pull = rig.pulls()[0].0;
    rig.receive(pull, error(ErrorCode::Overloaded, 3000));
    assert_eq!(rig.pulls(), []);
    rig.advance(seconds(4));
    let pull = rig.pulls()[0].0;
    rig.receive(pull, error(ErrorCode::NotMember, 0));
    rig.advance(seconds(60));
    assert_eq!(rig.pulls(), []);
}

#[test]
fn gaps_wait_for_the_sync_that_fills_them() {
    let mut rig = Rig::new(Rig::usual(), with_cursor(4));
    rig.connect();
    rig.push(7);
    rig.event(ServerBody::HeadMoved { conversation: group(1), head: Seq(8) });
    assert_eq!(rig.pulls(), []);
    let mut model = Server { page: 2, ..Server::default() };
    (0..8).for_each(|_| drop(model.append(group(1), entry(0, "theirs"))));
    // The page ends below the head: history goes on.
    let at = rig.sent.iter().position(|r| matches!(r.body, RequestBody::Sync(_))).unwrap();
    let RequestBody::Sync(sync) = rig.sent[at].body.clone() else { unreachable!() };
    assert_eq!(sync.known, [Known::entries(group(1), Seq(4))]);
    let page = model.sync_page(sync);
    rig.answer_sync(page);
    assert_eq!(rig.seqs(), [5, 6, 7]);
    assert_eq!(rig.pulls()[0].1, 8);
}

#[test]
fn a_large_sync_goes_page_by_page() {
    let mut world = World::new(Server { page: 2, ..Server::default() });
    for c in 0..9 {
        (0..5).for_each(|n| drop(world.server.append(group(c), entry(n, "theirs"))));
    }
    world.settle();
    world.check();
    assert!(world.server.known_seen.len() >= 5, "{:?}", world.server.known_seen);
}

#[test]
fn a_list_that_does_not_fit_before_login_waits_for_it() {
    let state = |n: usize| {
        let mut state = State::default();
        let most = Seq(u64::MAX - 1);
        let marks = Marks { read: most, peer_delivered: most, peer_read: most };
        for i in 0..n {
            let conversation = ConversationId::direct(me(), UserId::from_sub(&i.to_string()));
            state.apply(&Record::Cursor { conversation, seq: most, marks });
        }
        state
    };
    let early_max = SYNC_KNOWN_BEFORE_LOGIN_MAX;
    let many = SYNC_KNOWN_MAX + 10_000;
    for (known, early) in [(3, true), (early_max, true), (early_max + 1, false), (many, false)] {
        let mut rig = Rig::new(Rig::usual(), state(known));
        rig.machine.connected(rig.now, "token".into(), false);
        rig.drain();
        assert_eq!(rig.sent.len() == 2, early, "{known}");
        if early {
            let bytes = tern_protocol::convert::encode_request(&rig.sent[1]);
            assert!(bytes.len() <= FRAME_BEFORE_LOGIN_BYTES_MAX);
        }
        rig.receive(RequestId(1), login_ok(64));
        let syncs: Vec<_> = rig
            .sent
            .iter()
            .filter_map(|r| if let RequestBody::Sync(s) = &r.body { Some((r.id, s.clone())) } else { None })
            .collect();
        assert_eq!(syncs.len(), 1);
        if known == many {
            assert_eq!(syncs[0].1.known.len(), SYNC_KNOWN_MAX);
            rig.receive(
                syncs[0].0,
                ServerBody::SyncPage(SyncPage { conversations: vec![], covered_until: None }),
            );
            let RequestBody::Sync(next) = &rig.sent.last().unwrap().body else { panic!() };
            assert_eq!((next.known.len(), next.after), (10_000, syncs[0].1.until));
        }
    }
}

#[test]
fn an_answer_of_a_newer_kind_fails_its_request() {
    let mut rig = Rig::online(Rig::usual(), with_cursor(4));
    rig.mark_read(3);
    for _ in 0..5 {
        let asked = rig.sent.iter().rfind(|r| r.id.get() > 0).unwrap().id;
        rig.other.clear();
        rig.receive(asked, ServerBody::Unknown);
        if rig.other.is_empty() {
            rig.advance(seconds(20));
        }
    }
    let failed =
        |o: &Output| matches!(o, Output::Answer { result: Err(e), .. } if e.code == ErrorCode::Internal);
    assert!(rig.other.iter().any(failed), "{:?}", rig.other);
}

#[test]
fn a_new_device_numbers_its_sends_at_the_first_login() {
    let mut rig = Rig::new(Rig::usual(), State::default());
    rig.machine.send(rig.now, Ticket(1), Target::User(UserId::from_sub("bob")), message("hi"));
    assert!(!rig.other.iter().any(|o| matches!(o, Output::Persist(_))));
    rig.connect();
    let direct = ConversationId::direct(me(), UserId::from_sub("bob"));
    assert!(
        rig.other.iter().any(
            |o| matches!(o, Output::Persist(Record::Send { conversation, .. }) if *conversation == direct)
        )
    );
    assert_eq!(rig.numbers(), [1]);
}

#[test]
fn what_ends_a_client_and_what_does_not() {
    #[track_caller]
    fn check(code: ErrorCode, refreshes: bool, stops: bool) {
        let settings = Settings { token_refreshes: refreshes, ..Rig::usual() };
        let mut rig = Rig::online(settings, State::default());
        rig.states();
        rig.event(error(code, 0));
        let stopped = matches!(rig.states()[..], [ConnectionState::Stopped(_)]);
        assert_eq!(stopped, stops, "{code}");
        rig.advance(seconds(100));
        let connects = rig.other.iter().any(|o| matches!(o, Output::Connect { .. }));
        assert_eq!(connects, !stops, "{code}");
    }
    check(ErrorCode::TakenOver, true, true);
    check(ErrorCode::UnsupportedVersion, true, true);
    check(ErrorCode::TokenInvalid, false, true);
    check(ErrorCode::TokenExpired, false, true);
    check(ErrorCode::TokenInvalid, true, false);
    check(ErrorCode::TokenExpired, true, false);
    check(ErrorCode::IdleTimeout, false, false);
    check(ErrorCode::GoingAway, false, false);
    check(ErrorCode::Malformed, false, false);
}

#[test]
fn a_late_login_of_its_own_does_not_end_a_client() {
    #[derive(Clone, Copy)]
    enum First {
        /// The login went unanswered until the client gave up.
        Silent,
        /// The connection broke before the login was answered.
        Broken,
        /// The login was answered with an error.
        Refused,
        /// No connection came about.
        Unreachable,
        /// Logged in, and lost later.
        Online,
    }
    // The taken_over comes so many seconds after the first connection was lost.
    #[track_caller]
    fn check(first: First, after: u64, stops: bool) {
        let mut rig = Rig::new(Rig::usual(), State::default());
        match first {
            First::Silent | First::Broken | First::Refused => {
                rig.machine.connected(rig.now, "token".into(), false);
                rig.drain();
            }
            First::Online => rig.connect(),
            First::Unreachable => {}
        }
        rig.states();
        match first {
            First::Silent => rig.advance(seconds(20)),
            First::Refused => rig.event(error(ErrorCode::Overloaded, 0)),
            First::Broken | First::Unreachable | First::Online => {
                rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
                rig.drain();
            }
        }
        assert!(matches!(rig.states()[..], [ConnectionState::Offline { .. }]));
        rig.advance(seconds(1));
        rig.connect();
        for _ in 1..after {
            rig.advance(seconds(1));
            rig.machine.received_heartbeat(rig.now);
        }
        rig.states();
        rig.event(error(ErrorCode::TakenOver, 0));
        assert_eq!(rig.machine.stopped().is_some(), stops);
        if stops {
            return;
        }
        assert!(matches!(rig.states()[..], [ConnectionState::Offline { .. }]));
        // Once: the second time it is somebody else.
        rig.advance(seconds(1));
        rig.connect();
        rig.event(error(ErrorCode::TakenOver, 0));
        assert_eq!(rig.machine.stopped(), Some(&Stop::TakenOver));
    }
    check(First::Silent, 1, false);
    check(First::Broken, 1, false);
    check(First::Silent, 15, false);
    check(First::Silent, 16, true);
    check(First::Refused, 1, true);
    check(First::Unreachable, 1, true);
    check(First::Online, 1, true);
}

#[test]
fn a_refused_token_is_replaced_but_not_for_ever() {
    let settings = Settings { token_refreshes: true, ..Rig::usual() };
    let mut rig = Rig::new(settings, State::default());
    for _ in 0..10 {
        rig.machine.connected(rig.now, "token".into(), false);
        rig.drain();
        rig.sent.clear();
        rig.other.clear();
        rig.event(error(ErrorCode::TokenExpired, 0));
        rig.advance(seconds(100));
        if rig.machine.stopped().is_some() {
            return;
        }
        assert!(rig.other.contains(&Output::Connect { fresh_token: true }));
    }
    panic!("asks for tokens for ever");
}

#[test]
fn another_user_s_token_is_not_let_near_the_state() {
    let mut state = State::default();
    state.apply(&Record::User(UserId::from_sub("somebody")));
    let mut rig = Rig::new(Rig::usual(), state);
    rig.connect();
    assert!(matches!(rig.machine.stopped(), Some(Stop::AnotherUser { .. })));
}

#[test]
fn dead_links_are_found() {
    // Silence after a heartbeat.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.states();
    rig.advance(seconds(53));
    assert_eq!(rig.other, []);
    rig.advance(seconds(2));
    assert_eq!(rig.other, [Output::Heartbeat]);
    rig.machine.received_heartbeat(rig.now + seconds(1));
    rig.advance(seconds(12));
    assert_eq!(rig.other, [Output::Heartbeat], "answered: all is well");
    rig.advance(seconds(50));
    rig.advance(seconds(11));
    assert!(matches!(rig.states()[..], [ConnectionState::Offline { reason: Lost::Silent, .. }]));

    // An answer that does not come, on a link that lives.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.send(1);
    rig.states();
    for _ in 0..31 {
        rig.advance(seconds(1));
        rig.machine.received_heartbeat(rig.now);
    }
    assert!(matches!(rig.states()[0], ConnectionState::Offline { reason: Lost::Silent, .. }));
}

#[test]
fn an_answer_is_waited_for_while_any_of_it_comes() {
    // Parts every so many seconds, until then; when the link is given up, if it is before 200 s.
    #[track_caller]
    fn check(bulk: bool, part_every: u64, until: u64, lost_at: Option<u64>) {
        let mut rig = Rig::online(Rig::usual(), with_cursor(4));
        if bulk {
            rig.push(9);
        } else {
            rig.send(1);
        }
        let id = rig.sent.last().unwrap().id;
        rig.states();
        for second in 1..=200 {
            rig.advance(seconds(1));
            if let Some(ConnectionState::Offline { reason, .. }) = rig.states().first() {
                assert_eq!((reason, Some(second)), (&Lost::Silent, lost_at));
                return;
            }
            // The link itself lives.
            rig.machine.received_heartbeat(rig.now);
            if second % part_every == 0 && second <= until {
                rig.machine.heard(rig.now);
            }
        }
        assert_eq!(lost_at, None);
        if bulk {
            rig.page(id, 1, 9, 5..=9);
            assert_eq!(rig.seqs(), [5, 6, 7, 8, 9]);
        } else {
            rig.receive(id, stored(5));
            assert!(rig.machine.is_settled());
        }
    }
    for bulk in [false, true] {
        check(bulk, 1, 200, None);
        check(bulk, 29, 200, None);
        check(bulk, 1, 75, Some(105));
        check(bulk, 20, 75, Some(90));
        check(bulk, 31, 200, Some(30));
        check(bulk, 1, 0, Some(30));
    }
}

#[test]
fn who_waits_for_an_answer_keeps_talking() {
    // (at, what happens), in milliseconds; when heartbeats go out.
    #[derive(Clone, Copy)]
    enum Do {
        Send,
        Query,
        Hear,
        Answer,
    }
    #[track_caller]
    fn check(what: &[(u64, Do)], until: u64, expected: &[u64]) {
        let mut rig = Rig::online(Rig::usual(), State::default());
        let (mut beats, mut what) = (Vec::new(), what.iter().peekable());
        rig.other.clear();
        loop {
            // As a driver does: only when it is due, or when something happens.
            let due = rig.machine.next_timeout().unwrap();
            let next = what.peek().map_or(due, |(at, _)| due.min(Duration::from_millis(*at)));
            if next > Duration::from_millis(until) {
                break;
            }
            assert!(next >= rig.now, "a timer in the past");
            rig.advance(next - rig.now);
            if let Some((_, event)) = what.next_if(|(at, _)| Duration::from_millis(*at) <= next) {
                match event {
                    Do::Send => rig.send(next.as_millis() as u64),
                    Do::Query => rig.mark_read(1),
                    Do::Hear => rig.machine.received_heartbeat(rig.now),
                    Do::Answer => {
                        let (id, seq) = rig.sends()[0];
                        rig.receive(id, stored(seq));
                    }
                }
            }
            for output in std::mem::take(&mut rig.other) {
                if output == Output::Heartbeat {
                    beats.push(rig.now.as_millis() as u64);
                }
            }
        }
        assert_eq!(beats, expected);
    }
    use Do::{Answer, Hear, Query, Send};
    // Nothing is unanswered: only the regular ones (a tenth before the 60 s).
    check(&[], 50_000, &[]);
    check(&[(1_000, Send), (1_500, Answer)], 50_000, &[]);
    check(&[], 54_500, &[54_000]);
    // Unanswered: every 2 s, until the link is dead, 10 s after the first.
    check(&[(1_000, Send)], 12_900, &[3_000, 5_000, 7_000, 9_000, 11_000]);
    check(&[(1_000, Query)], 6_000, &[3_000, 5_000]);
    // What else is sent does not put them off: it may be what goes unheard.
    check(&[(1_000, Send), (2_500, Send), (4_500, Send)], 6_000, &[3_000, 5_000]);
    // Heard something, still unanswered: 2 s of silence again.
    check(&[(1_000, Send), (2_900, Hear)], 6_000, &[4_900]);
    check(&[(1_000, Send), (3_100, Hear), (5_200, Hear)], 7_000, &[3_000, 5_100]);
    // Answered: no more.
    check(&[(1_000, Send), (3_100, Answer)], 50_000, &[3_000]);
}

#[test]
fn waits_grow_are_jittered_and_heed_advice() {
    let mut rig = Rig::new(Rig::usual(), State::default());
    let mut waits = Vec::new();
    for _ in 0..12 {
        rig.other.clear();
        rig.machine.disconnected(rig.now, Lost::Unreachable("no".into()));
        rig.drain();
        let [ConnectionState::Offline { retry_in, .. }] = rig.states()[..] else { panic!() };
        waits.push(retry_in);
        rig.advance(retry_in);
    }
    assert!(waits[0] <= Duration::from_millis(250) && waits[0] >= Duration::from_millis(125));
    assert!(waits[11] <= seconds(30) && waits[11] >= seconds(15));

    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.states();
    rig.event(ServerBody::GoingAway { reconnect_after_ms: 8000 });
    let [ConnectionState::Offline { reason: Lost::GoingAway, retry_in }] = rig.states()[..] else { panic!() };
    assert!(retry_in >= seconds(8) && retry_in <= seconds(10));

    // Requests under way may end first.
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.send(1);
    rig.states();
    rig.event(ServerBody::GoingAway { reconnect_after_ms: 0 });
    rig.send(2);
    let sends = rig.sends();
    assert_eq!(sends.len(), 1);
    rig.receive(sends[0].0, stored(1));
    assert!(rig.states().iter().any(|s| matches!(s, ConnectionState::Offline { .. })));
}

#[test]
fn an_app_that_does_not_read_costs_a_bounded_amount_and_loses_nothing() {
    let settings = Settings { events_max: 10, ..Rig::usual() };
    let mut rig = Rig::online(settings, with_cursor(4));
    rig.send(1);
    let send = rig.sends()[0].0;
    rig.other.clear();
    (5..500).for_each(|seq| rig.push(seq));
    assert!(rig.machine.events.len() <= 11);
    assert_eq!(rig.pulls(), []);
    // Its sends go on.
    rig.receive(send, stored(500));
    assert!(rig.other.iter().any(|o| matches!(o, Output::Sent { result: Ok(_), .. })));
    let handed = rig.seqs();
    let next = handed.last().unwrap() + 1;
    let (pull, from) = rig.pulls()[0];
    assert_eq!(from, next);
    rig.page(pull, 1, 500, next..=500);
    assert_eq!(rig.seqs(), (next..=500).collect::<Vec<_>>());
}

#[test]
fn delivered_marks_are_collected_and_said_again_after_a_reconnect() {
    let marks = |rig: &mut Rig| {
        let marks: Vec<_> = rig
            .sent
            .iter()
            .filter_map(|r| match &r.body {
                RequestBody::Mark(m) => {
                    Some(m.iter().map(|m| (m.delivered.get(), m.read.get())).collect::<Vec<_>>())
                }
                _ => None,
            })
            .collect();
        rig.sent.retain(|r| !matches!(r.body, RequestBody::Mark(_)));
        marks
    };
    let mut rig = Rig::online(Rig::usual(), State::default());
    for seq in 1..=5 {
        rig.push(seq);
        assert_eq!(rig.seqs(), [seq]);
        rig.take(seq);
        rig.drain();
    }
    assert!(marks(&mut rig).is_empty());
    rig.advance(seconds(1));
    assert_eq!(marks(&mut rig), [[(5, 0)]]);
    // Never more than was handed over.
    rig.take(99);
    rig.advance(seconds(1));
    assert!(marks(&mut rig).is_empty());
    // Unanswered, what the app said is asked again as it was; it does not spoil the marks of others.
    rig.mark_read(3);
    assert_eq!(marks(&mut rig), [[(3, 3)]]);
    rig.reconnect();
    let asked: Vec<_> =
        rig.sent.iter().filter(|r| matches!(r.body, RequestBody::Mark(_))).map(|r| r.id).collect();
    assert_eq!(marks(&mut rig), [vec![(5, 0)], vec![(3, 3)]]);
    rig.receive(asked[1], ServerBody::MarkOk);
    rig.reconnect();
    assert_eq!(marks(&mut rig), [[(5, 3)]], "the five was not answered");
}

#[test]
fn only_marks_that_the_server_may_not_have_are_said_again() {
    let ids = |n: u64| (0..n).map(|i| ConversationId::direct(me(), UserId::from_sub(&i.to_string())));
    let stored = |n: u64| {
        let mut state = State::default();
        state.apply(&Record::User(me()));
        for conversation in ids(n) {
            state.apply(&Record::Cursor { conversation, seq: Seq(9), marks: Marks::default() });
        }
        state
    };
    // The Mark that waits for its answer.
    let asked = |rig: &mut Rig| -> Vec<(RequestId, Vec<ConversationId>)> {
        let asked = rig.sent.iter().filter_map(|r| match &r.body {
            RequestBody::Mark(m) if r.id.get() > 0 => {
                Some((r.id, m.iter().map(|m| m.conversation).collect()))
            }
            _ => None,
        });
        let asked = asked.collect();
        rig.sent.retain(|r| !matches!(r.body, RequestBody::Mark(_)));
        asked
    };

    // A new run of the app: the last that moved, once.
    for (n, expected) in [(0, 0), (3, 3), (500, 256)] {
        let mut rig = Rig::online(Rig::usual(), stored(n));
        let first = asked(&mut rig);
        let mut said: Vec<_> = first.iter().flat_map(|(_, ids)| ids.clone()).collect();
        said.sort();
        let mut last: Vec<_> = ids(n).skip((n as usize).saturating_sub(256)).collect();
        last.sort();
        assert_eq!((said.len(), said), (expected, last));
        for (id, _) in first {
            rig.receive(id, ServerBody::MarkOk);
        }
        rig.reconnect();
        assert_eq!(asked(&mut rig), [], "answered");
    }

    // Said unanswered, so long before the connection was lost.
    for (before, again) in [(1, true), (119, true), (121, false)] {
        let mut rig = Rig::online(Rig::usual(), State::default());
        rig.push(1);
        rig.take(1);
        rig.advance(seconds(1));
        assert_eq!(rig.sent.len(), 1, "said");
        for _ in 0..before {
            rig.advance(seconds(1));
            rig.machine.received_heartbeat(rig.now);
        }
        rig.reconnect();
        assert_eq!(!asked(&mut rig).is_empty(), again, "{before}");
        // Unanswered once more: it is not forgotten by that.
        rig.reconnect();
        assert_eq!(!asked(&mut rig).is_empty(), again, "{before}");
    }

    // Reached without a connection by many: one Mark at a time, and one that is refused does not spoil the others.
    let mut rig = Rig::online(Rig::usual(), stored(3000));
    let (first, _) = asked(&mut rig).remove(0);
    rig.receive(first, ServerBody::MarkOk);
    for conversation in ids(3000) {
        rig.event(ServerBody::Push { conversation, entry: entry(10, "theirs") });
        rig.seqs();
    }
    rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
    for conversation in ids(3000) {
        let marks = Marks::default();
        let progress = ConversationProgress { conversation, reset: false, seq: Seq(10), marks };
        rig.machine.taken(rig.now, Progress::Conversation(progress));
    }
    rig.advance(seconds(1));
    rig.connect();
    let bad = ids(3000).nth(1234).unwrap();
    let (mut taken, mut rounds) = (std::collections::BTreeSet::new(), 0);
    loop {
        let mut under_way = asked(&mut rig);
        let Some((id, conversations)) = under_way.pop() else { break };
        assert!(under_way.is_empty(), "one at a time");
        assert!(conversations.len() <= tern_protocol::limits::MARKS_MAX);
        rounds += 1;
        if conversations.contains(&bad) {
            rig.receive(id, error(ErrorCode::NotMember, 0));
        } else {
            taken.extend(conversations);
            rig.receive(id, ServerBody::MarkOk);
        }
    }
    assert_eq!(taken.len(), 2999);
    assert!(rounds < 60, "{rounds}");
}

#[test]
fn watermarks_are_known_to_the_next_sync_when_the_app_was_told() {
    let (me, peer) = (me(), UserId::from_sub("peer"));
    let chat = ConversationId::direct(me, peer);
    let start = |cursors: &[ConversationId]| {
        let mut state = State::default();
        state.apply(&Record::User(me));
        for id in cursors {
            state.apply(&Record::Cursor { conversation: *id, seq: Seq(9), marks: Marks::default() });
        }
        state
    };
    let receipt = |user, delivered, read| UserReceipt { user, delivered: Seq(delivered), read: Seq(read) };
    let marks = |read, peer_delivered, peer_read| Marks {
        read: Seq(read),
        peer_delivered: Seq(peer_delivered),
        peer_read: Seq(peer_read),
    };
    let moved = |conversation, users: &[UserReceipt]| {
        ServerBody::ReceiptsMoved(ReceiptsMoved { conversation, users: users.to_vec(), counts: vec![] })
    };
    let with_oneself = ConversationId::direct(me, me);
    for (id, events, expected) in [
        (chat, vec![moved(chat, &[receipt(peer, 5, 3)])], marks(0, 5, 3)),
        (
            chat,
            vec![moved(chat, &[receipt(peer, 5, 3)]), moved(chat, &[receipt(peer, 4, 4)])],
            marks(0, 5, 4),
        ),
        (chat, vec![moved(chat, &[receipt(me, 6, 6)])], marks(6, 0, 0)),
        (chat, vec![moved(chat, &[receipt(peer, 7, 0), receipt(me, 6, 6)])], marks(6, 7, 0)),
        (group(1), vec![moved(group(1), &[receipt(me, 6, 6)])], marks(6, 0, 0)),
        (with_oneself, vec![moved(with_oneself, &[receipt(me, 6, 6)])], marks(6, 6, 6)),
    ] {
        let mut rig = Rig::online(Rig::usual(), start(&[id]));
        events.into_iter().for_each(|event| rig.event(event));
        rig.other.clear();
        // Queued is known to a sync of this run; only what the app has taken is known to the next.
        rig.reconnect();
        assert_eq!(rig.known(), [(id, 9, expected)]);
        let mut disk = start(&[id]);
        rig.take_all(&mut disk);
        assert_eq!(disk.conversations[&id].marks, expected);
        assert_eq!(disk.conversations[&id].cursor, Seq(9));
        let mut next = Rig::new(Rig::usual(), disk);
        next.connect();
        assert_eq!(next.known(), [(id, 9, expected)]);
    }
}

#[test]
fn a_sync_line_tells_watermarks_that_rose_and_none_that_fell() {
    let mut state = with_cursor(9);
    let had = Marks { read: Seq(5), ..Marks::default() };
    state.apply(&Record::Cursor { conversation: group(1), seq: Seq(9), marks: had });
    for (on_server, expected) in [(7, 7), (5, 5), (2, 5)] {
        let mut rig = Rig::new(Rig::usual(), state.clone());
        rig.connect();
        let line = line(group(1), 9, on_server);
        rig.answer_sync(SyncPage { conversations: vec![line], covered_until: None });
        let told = std::iter::from_fn(|| rig.machine.poll_event(rig.now)).find_map(|event| match event {
            Event::Conversation(state) => Some(state.read.get()),
            _ => None,
        });
        assert_eq!(told, Some(expected));
        rig.reconnect();
        assert_eq!(rig.known(), [(group(1), 9, Marks { read: Seq(expected), ..had })]);
    }
}

#[test]
fn a_read_mark_of_ones_own_is_known_when_the_server_took_it() {
    for (answer, expected) in [(ServerBody::MarkOk, 6), (error(ErrorCode::InvalidArgument, 0), 0)] {
        let mut rig = Rig::online(Rig::usual(), with_cursor(9));
        rig.mark_read(6);
        let id = rig.sent.iter().rfind(|r| r.id.get() > 0).unwrap().id;
        rig.receive(id, answer);
        let mut disk = with_cursor(9);
        rig.take_all(&mut disk);
        assert_eq!(disk.conversations[&group(1)].marks.read, Seq(expected));
        rig.reconnect();
        assert_eq!(rig.known(), [(group(1), 9, Marks { read: Seq(expected), ..Marks::default() })]);
    }
}

#[test]
fn own_messages_need_no_push() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.send(1);
    let id = rig.sends()[0].0;
    rig.receive(id, stored(1));
    rig.push(1);
    rig.push(2);
    assert_eq!(rig.seqs(), [1, 2]);
    assert_eq!(rig.pulls(), []);
}

#[test]
fn caught_up_is_said_once_and_last() {
    let mut world = World::new(Server { page: 1, ..Server::default() });
    (0..6).for_each(|n| drop(world.server.append(group(1), entry(n, "theirs"))));
    while !world.to_server.is_empty() || !world.to_client.is_empty() {
        world.server_step();
        world.deliver(0);
    }
    let events: Vec<_> = std::iter::from_fn(|| world.machine.poll_event(world.now)).collect();
    assert_eq!(events.last(), Some(&Event::CaughtUp));
    assert_eq!(events.iter().filter(|e| **e == Event::CaughtUp).count(), 1);
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Entry { .. })).count(), 6);
}

#[test]
fn queries_are_repeated_and_given_up() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    let list =
        RequestBody::ListConversations(tern_protocol::request::ListConversations { after: None, limit: 9 });
    rig.machine.query(rig.now, Ticket(5), list.clone());
    rig.drain();
    rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
    rig.advance(seconds(1));
    rig.connect();
    rig.answer_sync(SyncPage { conversations: Vec::new(), covered_until: None });
    for _ in 0..5 {
        let at = rig.sent.iter().position(|r| r.body == list).expect("asked again");
        let request = rig.sent.remove(at);
        rig.other.clear();
        rig.receive(request.id, error(ErrorCode::Unavailable, 0));
        if rig.other.is_empty() {
            rig.advance(seconds(20));
        }
    }
    let gave_up = |o: &Output| {
        matches!(
            o,
            Output::Answer { ticket: Ticket(5), result: Err(WireError { code: ErrorCode::Unavailable, .. }) }
        )
    };
    assert!(rig.other.iter().any(gave_up), "{:?}", rig.other);
}
