//! A device: the real machine of the SDK, an app that takes events, a storage and a connection.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tern_check::{Key, Listener, Promise, Shown, Told, View};

use tern_client::machine::{Machine, Output, Settings, Ticket};
use tern_client::{ConnectionState, Event, Lost};
use tern_protocol::convert::{encode_request, parse_server};
use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::event::{SendOk, ServerBody, ServerMessage, WireError};
use tern_protocol::frame::{self, Frame, HEARTBEAT};
use tern_protocol::ids::{ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::{Change, Sender, Target};
use tern_protocol::request::{Mark, RequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until};

use crate::net::{End, Trouble};
use crate::storage::SimStorage;
use crate::world::{Mangled, World};
use crate::wrong::Wrong;

/// Commands that wait for an app.
const COMMANDS_MAX: usize = 256;

/// What the user does.
#[derive(Debug)]
pub enum Command {
    /// Sends.
    Send(Target, Change),
    /// Has seen everything of this conversation.
    Read(ConversationId),
    /// Is in another network.
    NetworkChanged,
}

/// A device, over all runs of its app.
pub struct Device {
    /// Whose, and which.
    pub who: Sender,
    name: String,
    /// Its token.
    token: String,
    storage: RefCell<SimStorage>,
    /// What its app has been handed.
    pub view: RefCell<View>,
    /// What its app was told of its sends.
    pub told: RefCell<Told>,
    status: RefCell<Status>,
    app: RefCell<Option<App>>,
}

#[derive(Default)]
struct Status {
    /// The connection that it has, to make trouble with.
    trouble: Option<Trouble>,
    /// It has no network until then.
    offline_until: Option<Instant>,
    /// Its app takes no events until then.
    busy_until: Option<Instant>,
    online: bool,
    settled: bool,
    /// How far the app is in each conversation.
    handed: BTreeMap<ConversationId, Seq>,
    runs: u64,
    connections: u64,
}

struct App {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Device {
    /// A new device of a user.
    pub fn new(name: &str, number: u64, token: String) -> Rc<Self> {
        let device = DeviceId::new(number).expect("devices are counted from 1");
        let who = Sender { user: UserId::from_sub(name), device };
        Rc::new(Self {
            who,
            name: format!("{name}/{number}"),
            token,
            storage: RefCell::default(),
            view: RefCell::new(View::new(who)),
            told: RefCell::new(Told::new(who)),
            status: RefCell::default(),
            app: RefCell::default(),
        })
    }

    /// Begins the app, unless it runs.
    pub fn start(self: &Rc<Self>, world: &Rc<World>) {
        if self.app.borrow().is_some() {
            return;
        }
        world.note(&self.name, "the app begins");
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let task = spawn_local(Run::new(self.clone(), world.clone()).run(inbox));
        *self.app.borrow_mut() = Some(App { commands, task });
    }

    /// Ends the app without a word.
    pub fn crash(&self, world: &World) {
        let Some(app) = self.app.take() else { return };
        world.note(&self.name, "the app is gone");
        app.task.abort();
        let mut status = self.status.borrow_mut();
        (status.online, status.settled) = (false, false);
        let mut storage = self.storage.borrow_mut();
        storage.crash(&mut world.random.borrow_mut(), world.wrong == Some(Wrong::LosesQueuedSends));
        self.told.borrow_mut().restarted();
        let cursors: BTreeMap<_, _> = storage.cursors().collect();
        for (conversation, handed) in &mut status.handed {
            let cursor = cursors.get(conversation).copied().unwrap_or_default();
            *handed = (*handed).min(cursor);
            self.view.borrow_mut().restarted(*conversation, cursor);
        }
        world.history.borrow_mut().forget_shown(self.who);
    }

    /// Asks the app, if it runs.
    pub fn command(&self, command: Command) {
        if let Some(app) = &*self.app.borrow() {
            // A user whose app is stuck gives up.
            let _ = app.commands.try_send(command);
        }
    }

    /// Does something to its connection, if there is one.
    pub fn trouble(&self, what: impl FnOnce(&Trouble)) {
        if let Some(trouble) = &self.status.borrow().trouble {
            what(trouble);
        }
    }

    /// Takes its network away.
    pub fn offline(&self, time: Duration) {
        self.trouble(Trouble::die);
        let mut status = self.status.borrow_mut();
        status.offline_until = status.offline_until.max(Some(Instant::now() + time));
    }

    /// Keeps its app from taking events.
    pub fn busy(&self, time: Duration) {
        let mut status = self.status.borrow_mut();
        status.busy_until = status.busy_until.max(Some(Instant::now() + time));
    }

    /// Ends what keeps it from being well.
    pub fn heal(&self) {
        let mut status = self.status.borrow_mut();
        (status.offline_until, status.busy_until) = (None, None);
    }

    /// Its app was told what became of a send.
    fn decided(&self, conversation: ConversationId, change: &Change, result: &Result<SendOk, WireError>) {
        let mut told = self.told.borrow_mut();
        match result {
            Ok(ok) => told.sent(conversation, change, ok.seq),
            Err(error) => told.failed(conversation, change, error.code),
        }
    }

    /// Whether it is online, with nothing left to send.
    pub fn is_well(&self) -> bool {
        let status = self.status.borrow();
        status.online && status.settled
    }

    /// How many connections it has had, if what is sent over the last one arrives.
    pub fn connection(&self) -> Option<u64> {
        let status = self.status.borrow();
        let is_well = status.trouble.as_ref().is_some_and(Trouble::is_well);
        (status.online && is_well).then_some(status.connections)
    }

    /// What its app has, in the order of their ids.
    pub fn conversations(&self) -> Vec<ConversationId> {
        self.status.borrow().handed.keys().copied().collect()
    }
}

/// The log that a send goes to.
fn conversation(who: Sender, target: Target) -> ConversationId {
    match target {
        Target::Conversation(id) => id,
        Target::User(peer) => ConversationId::direct(who.user, peer),
    }
}

/// Refused for its number, so that it goes again under another.
fn is_of_number(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::ClientSeqStale | ErrorCode::ClientSeqUsed)
}

type Connecting = Pin<Box<dyn Future<Output = Option<(End, Trouble)>>>>;

/// One run of an app.
struct Run {
    device: Rc<Device>,
    world: Rc<World>,
    started: Instant,
    machine: Machine,
    connecting: Option<Connecting>,
    link: Option<Link>,
    tickets: u64,
    /// What its app has asked for, and has not been answered.
    asked: BTreeMap<Ticket, Asked>,
}

enum Asked {
    Send(ConversationId, Change),
    Read(Mark),
}

struct Link {
    stream: End,
    input: BytesMut,
    out: BytesMut,
    listener: Listener,
    sends: BTreeMap<RequestId, Key>,
    marks: BTreeMap<RequestId, Vec<Mark>>,
}

enum Woken {
    Command(Option<Command>),
    Read(std::io::Result<usize>),
    Written(std::io::Result<usize>),
    Connected(Option<(End, Trouble)>),
    Timer,
}

impl Run {
    fn new(device: Rc<Device>, world: Rc<World>) -> Self {
        let state = device.storage.borrow().load();
        let mut status = device.status.borrow_mut();
        status.runs += 1;
        let seed = device.who.device.get() * 1_000 + status.runs;
        drop(status);
        let settings = Settings { events_max: 64, ..Settings::new(device.who.device, seed) };
        let machine = Machine::new(settings, state);
        Self {
            device,
            world,
            started: Instant::now(),
            machine,
            connecting: None,
            link: None,
            tickets: 0,
            asked: BTreeMap::new(),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.machine.handle_timeout(Duration::ZERO);
        loop {
            self.carry_out();
            self.take_events();
            self.carry_out();
            {
                let mut status = self.device.status.borrow_mut();
                status.settled = self.machine.is_settled() && !self.machine.has_event();
            }
            let woken = self.wait(&mut commands).await;
            let now = self.now();
            match woken {
                Woken::Command(Some(command)) => self.on_command(now, command),
                Woken::Command(None) => return,
                Woken::Read(Ok(0)) => self.lost(now, "the server closed it without a word"),
                Woken::Read(Ok(_)) => self.on_bytes(now),
                Woken::Read(Err(_)) | Woken::Written(Err(_)) => self.lost(now, "reset"),
                Woken::Written(Ok(n)) => {
                    if let Some(link) = &mut self.link {
                        link.out.advance(n);
                    }
                }
                Woken::Connected(connected) => self.on_connected(now, connected),
                Woken::Timer => {}
            }
            let now = self.now();
            self.machine.handle_timeout(now);
        }
    }

    async fn wait(&mut self, commands: &mut mpsc::Receiver<Command>) -> Woken {
        let busy = self.device.status.borrow().busy_until.filter(|_| self.machine.has_event());
        let timer = self.machine.next_timeout().map(|at| self.started + at).into_iter().chain(busy).min();
        let accepts = self.machine.accepts();
        let (mut reads, mut writes) = (None, None);
        if let Some(link) = &mut self.link {
            let (read, write) = tokio::io::split(&mut link.stream);
            reads = Some((read, &mut link.input));
            writes = (!link.out.is_empty()).then_some((write, &link.out));
        }
        tokio::select! {
            biased;
            command = commands.recv(), if accepts => Woken::Command(command),
            written = async { match writes { Some((mut to, out)) => to.write(out).await, None => std::future::pending().await } } => Woken::Written(written),
            read = async { match reads { Some((mut from, input)) => from.read_buf(input).await, None => std::future::pending().await } } => Woken::Read(read),
            connected = async { match &mut self.connecting { Some(c) => c.await, None => std::future::pending().await } } => Woken::Connected(connected),
            () = async { match timer { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => Woken::Timer,
        }
    }

    fn on_command(&mut self, now: Duration, command: Command) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        match command {
            Command::Send(target, change) => {
                self.asked.insert(ticket, Asked::Send(conversation(self.device.who, target), change.clone()));
                self.machine.send(now, ticket, target, change);
            }
            Command::Read(conversation) => {
                let handed = self.device.status.borrow().handed.get(&conversation).copied();
                if let Some(read) = handed.filter(|seq| seq.get() > 0) {
                    let mark = Mark { conversation, delivered: read, read };
                    self.asked.insert(ticket, Asked::Read(mark));
                    self.machine.query(now, ticket, RequestBody::Mark(vec![mark]));
                }
            }
            Command::NetworkChanged => self.machine.network_changed(now),
        }
    }

    fn on_connected(&mut self, now: Duration, connected: Option<(End, Trouble)>) {
        self.connecting = None;
        let Some((stream, trouble)) = connected else {
            return self.machine.disconnected(now, Lost::Unreachable("nobody listens".into()));
        };
        let mut status = self.device.status.borrow_mut();
        (status.trouble, status.connections) = (Some(trouble), status.connections + 1);
        drop(status);
        self.link = Some(Link {
            stream,
            input: BytesMut::new(),
            out: BytesMut::new(),
            listener: Listener::of(self.device.who.user),
            sends: BTreeMap::new(),
            marks: BTreeMap::new(),
        });
        self.machine.connected(now, self.device.token.clone(), false);
    }

    fn lost(&mut self, now: Duration, why: &str) {
        self.drop_link();
        self.machine.disconnected(now, Lost::Broken(why.into()));
    }

    fn drop_link(&mut self) {
        self.link = None;
        self.device.status.borrow_mut().trouble = None;
    }

    fn on_bytes(&mut self, now: Duration) {
        loop {
            let Some(link) = &mut self.link else { return };
            match frame::decode(&mut link.input, FRAME_BYTES_MAX) {
                Ok(None) => {
                    if !link.input.is_empty() {
                        self.machine.heard(now);
                    }
                    return;
                }
                Ok(Some(Frame::Heartbeat)) => self.machine.received_heartbeat(now),
                Ok(Some(Frame::Message(bytes))) => {
                    let message = parse_server(bytes).expect("the server's frames are well-formed");
                    let message = message.expect("the server is not newer than the client");
                    self.on_message(now, message);
                }
                Err(error) => panic!("the server's bytes are no frames: {error}"),
            }
        }
    }

    fn on_message(&mut self, now: Duration, mut message: ServerMessage) {
        let Mangled { hidden, before } = self.world.mangle(&mut message);
        for message in before.into_iter().chain((!hidden).then_some(message)) {
            self.write_down(&message);
            self.machine.received(now, message);
        }
    }

    /// What the checker has to know of a frame.
    fn write_down(&mut self, message: &ServerMessage) {
        let Some(link) = &mut self.link else { return };
        let mut history = self.world.history.borrow_mut();
        let user = self.device.who.user;
        match &message.body {
            ServerBody::SendOk(ok) => {
                if let Some(key) = link.sends.remove(&message.id) {
                    self.world.note(&self.device.name, &format!("{} acked {}", key.client_seq, ok.seq));
                    history.ack(key, ok);
                }
            }
            ServerBody::Error(error) => {
                if let Some(key) = link.sends.remove(&message.id) {
                    self.world
                        .note(&self.device.name, &format!("{} refused: {}", key.client_seq, error.code));
                    history.refuse(key, error.code);
                    let gives_up = error.code.retry() == Retry::Never && !is_of_number(error.code);
                    if let Some(change) = history.change(&key).filter(|_| gives_up) {
                        self.device.told.borrow_mut().refused(key.conversation, change);
                    }
                }
                link.marks.remove(&message.id);
            }
            ServerBody::MarkOk => {
                for mark in link.marks.remove(&message.id).into_iter().flatten() {
                    history.mark_acked(mark.conversation, user, mark.read);
                }
            }
            ServerBody::Push { conversation, entry } => {
                link.listener.push(&mut history, *conversation, entry.clone());
            }
            ServerBody::ReceiptsMoved(moved) => link.listener.receipts(&mut history, moved),
            ServerBody::SyncPage(page) => {
                for state in &page.conversations {
                    history.pulled(user, state.conversation, &state.entries);
                }
            }
            ServerBody::HistoryPage(page) => history.pulled(user, page.conversation, &page.entries),
            _ => {}
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Connect { .. } => {
                    self.drop_link();
                    let (world, device) = (self.world.clone(), self.device.clone());
                    self.connecting = Some(Box::pin(async move {
                        let delay = world.delay(300);
                        tokio::time::sleep(delay).await;
                        // Its network may have gone meanwhile.
                        let until = device.status.borrow().offline_until;
                        if until.is_some_and(|until| Instant::now() < until) {
                            return None;
                        }
                        world.connect()
                    }));
                }
                Output::Persist(record) => self.device.storage.borrow_mut().append(record),
                Output::Transmit { request, .. } => {
                    let Some(link) = &mut self.link else { continue };
                    let mut history = self.world.history.borrow_mut();
                    let who = self.device.who;
                    match &request.body {
                        RequestBody::Send(send) => {
                            let conversation = conversation(who, send.target);
                            let key = Key { conversation, sender: who, client_seq: send.client_seq };
                            history.issue(key, &send.change);
                            link.sends.insert(request.id, key);
                        }
                        RequestBody::Mark(marks) => {
                            for mark in marks {
                                history.marked(mark.conversation, who.user, mark.delivered, mark.read);
                            }
                            link.marks.insert(request.id, marks.clone());
                        }
                        _ => {}
                    }
                    link.out.extend_from_slice(&encode_request(&request));
                }
                Output::Heartbeat => {
                    if let Some(link) = &mut self.link {
                        link.out.extend_from_slice(HEARTBEAT);
                    }
                }
                Output::Disconnect => {
                    self.connecting = None;
                    self.drop_link();
                }
                Output::State(state) => {
                    self.world.note(&self.device.name, &format!("{state:?}"));
                    self.device.status.borrow_mut().online = matches!(state, ConnectionState::Online { .. });
                    if let ConnectionState::Stopped(stop) = state {
                        panic!("{} gave up: {stop}", self.device.name);
                    }
                }
                Output::Queued { ticket } => {
                    if let Some(Asked::Send(conversation, change)) = self.asked.get(&ticket) {
                        self.device.told.borrow_mut().queued(*conversation, change);
                    }
                }
                Output::Sent { ticket, result } => {
                    let asked = self.asked.remove(&ticket);
                    let Some(Asked::Send(conversation, change)) = asked else {
                        panic!("{} was told of a send that it never made: {ticket:?}", self.device.name);
                    };
                    self.device.decided(conversation, &change, &result);
                }
                Output::Answer { ticket, result } => {
                    if let (Some(Asked::Read(mark)), Ok(_)) = (self.asked.remove(&ticket), result) {
                        let user = self.device.who.user;
                        self.world.history.borrow_mut().mark_acked(mark.conversation, user, mark.read);
                    }
                }
            }
        }
    }

    fn take_events(&mut self) {
        let busy = self.device.status.borrow().busy_until;
        if busy.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let now = self.now();
        while let Some(event) = self.machine.poll_event(now) {
            let progress = self.machine.progress(&event);
            self.hand(event);
            if let Some(progress) = progress {
                self.machine.taken(now, progress);
            }
        }
    }

    fn hand(&mut self, event: Event) {
        let mut history = self.world.history.borrow_mut();
        let who = self.device.who;
        match event {
            Event::Entry { conversation, entry } => {
                self.world.note(&self.device.name, &format!("handed {} of {conversation}", entry.seq));
                self.device.status.borrow_mut().handed.insert(conversation, entry.seq);
                self.device.view.borrow_mut().handed(&mut history, conversation, entry);
            }
            Event::Conversation(state) => {
                if let Some(user) = state.peer {
                    let shown = Shown { user, delivered: state.peer_delivered, read: state.peer_read };
                    history.shown(state.conversation, who, shown);
                }
            }
            Event::Receipts(moved) => {
                for receipt in &moved.users {
                    let (user, read) = (receipt.user, receipt.read);
                    // Of the user's own an app looks at what was read on another device.
                    let with_oneself = moved.conversation == ConversationId::direct(who.user, who.user);
                    let delivered = if user == who.user && !with_oneself { read } else { receipt.delivered };
                    history.shown(moved.conversation, who, Shown { user, delivered, read });
                }
                for count in &moved.counts {
                    history.counted(moved.conversation, who.user, count.seq, (count.delivered, count.read));
                }
            }
            Event::Reset { conversation, .. } => {
                history
                    .torn(&format!("{} was told that {conversation} is not what it was", self.device.name));
            }
            Event::HistoryReset { .. } => {
                history.torn(&format!("{} was told that the store is another one", self.device.name));
            }
            Event::Recovered { conversation, client_seq, result } => {
                let key = Key { conversation, sender: who, client_seq };
                match history.change(&key) {
                    Some(change) => self.device.decided(conversation, change, &result),
                    None => {
                        let what = format!("an app was told of {key}, which never left it: {result:?}");
                        history.violate(Promise::ExactlyOnce, "answer", what);
                    }
                }
            }
            // Between two memberships: what is missing at the end is found then.
            Event::Trimmed { .. } | Event::Connection(_) | Event::CaughtUp => {}
        }
    }
}
