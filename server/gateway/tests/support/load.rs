//! People who send as fast as they are answered, over both transports and over the deaths of the server, members who say
//! what they have read, and members who read the logs; all of it written down in a [`History`].
#![allow(dead_code, unreachable_pub, reason = "every test binary uses a part of it")]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tern_client::Transport;
use tern_client::raw::{Connector, Received, Receiver};
use tern_protocol::convert::encode_request;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, ServerMessage, UserReceipt, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Message, Sender, Target};
use tern_protocol::request::{Mark, Request, RequestBody, Send};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{PATIENCE, Session, TRANSPORTS, Ternd, user};
use tern_check::random::Random;
use tern_check::{History, Key, Listener, Shown, Stage, assert_none, same_log};

const USERS: usize = 6;
/// Sends of one device that are unanswered at once.
const PIPELINED: usize = 32;
/// Over QUIC nothing tells that a server was killed. What it had written waits in the system, and is read when nothing has
/// come for so long.
const QUIET: Duration = Duration::from_millis(100);
/// Written by everybody.
pub type Shared = Arc<Mutex<History>>;

/// To write in it.
pub fn lock(history: &Shared) -> MutexGuard<'_, History> {
    history.lock().expect("nobody panics while holding it")
}

/// What the devices are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Send what is unanswered, then more and more.
    Send,
    /// Send nothing new; end when everything is answered.
    Drain,
    /// The server is gone: take what it had written, and end.
    Gone,
}

/// The next message of a connection; `None` when no more comes.
async fn next(receiver: &mut Receiver, transport: Transport, phase: Phase) -> Option<ServerMessage> {
    let only_quiet_ends_it = phase == Phase::Gone && transport == Transport::Quic;
    let wait = if only_quiet_ends_it { QUIET } else { PATIENCE };
    loop {
        match timeout(wait, receiver.recv()).await {
            Ok(Ok(Received::Message(message))) => return Some(message),
            Ok(Ok(Received::Heartbeat)) => {}
            Ok(Ok(Received::Closed) | Err(_)) => return None,
            Err(_) if only_quiet_ends_it => return None,
            Err(_) => panic!("nothing comes within the patience: {phase:?} over {transport:?}"),
        }
    }
}

fn name(user: usize) -> String {
    format!("user{user}")
}

/// A direct chat of each user with the next one.
fn direct(user_index: usize) -> ConversationId {
    ConversationId::direct(user(&name(user_index)), user(&name((user_index + 1) % USERS)))
}

/// The message with this key, always the same; some are long, so that tables get written, too.
fn content(key: &Key) -> Change {
    let mark = format!("{} {} {} ", key.conversation, key.sender.device, key.client_seq);
    let mut random = Random::new(key.client_seq.0 ^ key.sender.device.get() << 32);
    let length = if random.one_in(32) { 16_384 } else { random.within(60..400) as usize };
    let payload = mark.bytes().cycle().take(length).collect::<Vec<u8>>().into();
    Change::Message(Message { content_type: "text/plain".to_owned(), payload, reply_to: None })
}

/// What one connection is told without having asked.
struct Told<'a> {
    who: Sender,
    listener: Listener,
    history: &'a Shared,
}

impl<'a> Told<'a> {
    fn new(who: Sender, history: &'a Shared) -> Self {
        // What was not durable may be forgotten since the last one.
        lock(history).forget_shown(who);
        Self { who, listener: Listener::of(who.user), history }
    }

    fn take(&mut self, body: ServerBody) {
        let history = &mut lock(self.history);
        match body {
            ServerBody::Push { conversation, entry } => self.listener.push(history, conversation, entry),
            ServerBody::ReceiptsMoved(moved) => {
                self.listener.receipts(history, &moved);
                for receipt in &moved.users {
                    history.shown(moved.conversation, self.who, shown(receipt));
                }
                for count in &moved.counts {
                    let counts = (count.delivered, count.read);
                    history.counted(moved.conversation, self.who.user, count.seq, counts);
                }
            }
            _ => {}
        }
    }
}

fn shown(receipt: &UserReceipt) -> Shown {
    let UserReceipt { user, delivered, read } = *receipt;
    Shown { user, delivered, read }
}

/// One device that sends, over all rounds.
pub struct Device {
    name: String,
    sender: Sender,
    targets: Vec<(ConversationId, Target)>,
    /// The number of the last send to each target.
    last: Vec<u64>,
    /// Sends without an answer, in the order in which they were sent first.
    pub open: VecDeque<(Key, Target)>,
    random: Random,
}

/// One connection of it.
struct Line<'a> {
    device: &'a mut Device,
    history: &'a Shared,
    out: mpsc::Sender<BytesMut>,
    requests: u64,
    in_flight: HashMap<RequestId, Key>,
}

impl Device {
    fn new(user_index: usize, device: u64, group: ConversationId, random: Random) -> Self {
        let name = name(user_index);
        let sender = Sender { user: user(&name), device: DeviceId::new(device).expect("not 0") };
        let peers = [(user_index + 1) % USERS, (user_index + USERS - 1) % USERS];
        let chats = peers.map(|peer| {
            let peer = user(&self::name(peer));
            (ConversationId::direct(sender.user, peer), Target::User(peer))
        });
        let targets: Vec<_> = [(group, Target::Conversation(group))].into_iter().chain(chats).collect();
        Self { name, sender, last: vec![0; targets.len()], targets, open: VecDeque::new(), random }
    }

    fn next(&mut self) -> (Key, Target) {
        // Half of it to the group.
        let i = self.random.within(0..4) as usize % 3;
        self.last[i] += 1;
        let (conversation, target) = self.targets[i];
        (Key { conversation, sender: self.sender, client_seq: ClientSeq(self.last[i]) }, target)
    }

    /// Something that was sent at any time before, to ask about it again.
    fn old(&mut self) -> Option<(Key, Target)> {
        let i = self.random.within(0..self.targets.len() as u64) as usize;
        let (conversation, target) = self.targets[i];
        let number = self.random.within(1..self.last[i] + 2);
        let key = Key { conversation, sender: self.sender, client_seq: ClientSeq(number) };
        let is_open = self.open.iter().any(|(open, _)| *open == key);
        (number <= self.last[i] && !is_open).then_some((key, target))
    }
}

impl Line<'_> {
    fn send(&mut self, frames: &mut BytesMut, key: Key, target: Target) {
        let change = content(&key);
        lock(self.history).issue(key, &change);
        self.requests += 1;
        let id = RequestId(self.requests);
        self.in_flight.insert(id, key);
        let body = RequestBody::Send(Send { target, client_seq: key.client_seq, change });
        frames.extend_from_slice(&encode_request(&Request { id, body }));
    }

    fn write(&self, frames: BytesMut) {
        if !frames.is_empty() {
            // Whoever writes them ends when the server is gone; what is unanswered is sent again.
            let full = matches!(self.out.try_send(frames), Err(TrySendError::Full(_)));
            assert!(!full, "more is written than is unanswered");
        }
    }

    /// After a login: what is unanswered, in the old order, and a few answered ones.
    fn resend(&mut self) {
        let mut frames = BytesMut::new();
        for (key, target) in self.device.open.clone() {
            self.send(&mut frames, key, target);
        }
        for _ in 0..4 {
            if let Some((key, target)) = self.device.old() {
                self.send(&mut frames, key, target);
            }
        }
        self.write(frames);
    }

    fn fill(&mut self) {
        let mut frames = BytesMut::new();
        while self.device.open.len() < PIPELINED {
            let (key, target) = self.device.next();
            self.device.open.push_back((key, target));
            self.send(&mut frames, key, target);
        }
        self.write(frames);
    }

    fn take(&mut self, told: &mut Told<'_>, message: ServerMessage) {
        match message.body {
            ServerBody::SendOk(ok) => {
                let key = self.in_flight.remove(&message.id).expect("an answer to a send");
                lock(self.history).ack(key, &ok);
                self.device.open.retain(|(open, _)| *open != key);
            }
            // The store has failed under it: the send stays open, and goes out again.
            ServerBody::Error(WireError {
                code: code @ (ErrorCode::OutcomeUnknown | ErrorCode::Unavailable),
                ..
            }) => {
                let key = self.in_flight.remove(&message.id).expect("an answer to a send");
                lock(self.history).refuse(key, code);
            }
            ServerBody::Error(error) => panic!("{} of {}: {error:?}", message.id, self.device.name),
            other => told.take(other),
        }
    }
}

/// Where the server is.
#[derive(Clone)]
pub struct Server {
    connector: Arc<Connector>,
    tokens: Arc<HashMap<String, String>>,
}

impl Server {
    /// Asks for tokens.
    pub fn new(ternd: &Ternd) -> Self {
        let names = (0..USERS).map(name).chain(["listener".to_owned()]);
        let tokens = names.map(|name| (name.clone(), ternd.token(&name))).collect();
        Self { connector: Arc::new(ternd.connector()), tokens: Arc::new(tokens) }
    }

    async fn login(&self, transport: Transport, name: &str, device: u64) -> Session {
        let connecting = timeout(PATIENCE, self.connector.connect(transport)).await;
        let connection = connecting.expect("within the patience").expect("ternd accepts connections");
        Session::login(connection, &self.tokens[name], device).await.expect("the token is good")
    }
}

/// Sends until the server is gone or everything is answered. Says in `running` when the first answer has come.
async fn send(
    mut device: Device,
    server: Server,
    transport: Transport,
    history: Shared,
    mut phase: watch::Receiver<Phase>,
    running: mpsc::Sender<()>,
) -> Device {
    let session = server.login(transport, &device.name, device.sender.device.get()).await;
    let (mut sender, mut receiver, _quic) = session.into_connection().into_split();
    let (out, mut frames) = mpsc::channel::<BytesMut>(2 * PIPELINED);
    let writer = tokio::spawn(async move {
        while let Some(frames) = frames.recv().await {
            if sender.send_bytes(&frames).await.is_err() {
                break;
            }
        }
    });
    let mut told = Told::new(device.sender, &history);
    // The login was request 1.
    let mut line =
        Line { device: &mut device, history: &history, out, requests: 1, in_flight: HashMap::new() };
    line.resend();
    let mut running = Some(running);
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Send => line.fill(),
            Phase::Drain if line.in_flight.is_empty() => break,
            Phase::Drain | Phase::Gone => {}
        }
        tokio::select! {
            changed = phase.changed() => changed.expect("the test tells when to end"),
            received = next(&mut receiver, transport, now) => {
                let Some(message) = received else { break };
                let answered = message.id.get() != 0;
                line.take(&mut told, message);
                if answered && let Some(running) = running.take() {
                    let _ = running.try_send(());
                }
            },
        }
    }
    drop(line);
    writer.abort();
    device
}

/// Takes pushes until the server is gone, or told to end, and marks what comes as read: the next one when the last mark is
/// answered.
async fn listen(
    server: Server,
    transport: Transport,
    (name, device): (String, u64),
    history: Shared,
    mut phase: watch::Receiver<Phase>,
) {
    let session = server.login(transport, &name, device).await;
    let (mut sender, mut receiver, _quic) = session.into_connection().into_split();
    let who = Sender { user: user(&name), device: DeviceId::new(device).expect("not 0") };
    let mut told = Told::new(who, &history);
    // The login was request 1.
    let mut requests = 1;
    let mut marking = None;
    loop {
        let now = *phase.borrow_and_update();
        if now == Phase::Drain && marking.is_none() {
            break;
        }
        let message = tokio::select! {
            changed = phase.changed() => {
                changed.expect("the test tells when to end");
                continue;
            }
            received = next(&mut receiver, transport, now) => received,
        };
        match message.map(|message| message.body) {
            None => break,
            Some(ServerBody::MarkOk) => {
                let (conversation, seq) = marking.take().expect("a mark is under way");
                lock(&history).mark_acked(conversation, who.user, seq);
            }
            // The store has failed under it.
            Some(ServerBody::Error(WireError {
                code: ErrorCode::OutcomeUnknown | ErrorCode::Unavailable,
                ..
            })) => marking = None,
            Some(ServerBody::Error(error)) => panic!("a mark of {name}: {error:?}"),
            Some(ServerBody::Push { conversation, entry }) => {
                let seq = entry.seq;
                told.take(ServerBody::Push { conversation, entry });
                if now == Phase::Send && marking.is_none() {
                    lock(&history).marked(conversation, who.user, seq, seq);
                    marking = Some((conversation, seq));
                    requests += 1;
                    let mark = Mark { conversation, delivered: Seq(0), read: seq };
                    let body = RequestBody::Mark(vec![mark]);
                    // A server that is gone shows when nothing more comes.
                    let _ = sender.send_request(&Request { id: RequestId(requests), body }).await;
                }
            }
            Some(other) => told.take(other),
        }
    }
}

/// Everything at work during one round.
pub struct Running {
    devices: Vec<JoinHandle<Device>>,
    listeners: Vec<JoinHandle<()>>,
    phase: watch::Sender<Phase>,
}

impl Running {
    /// Returns when every device has had an answer.
    pub async fn start(round: u64, devices: Vec<Device>, server: &Server, history: &Shared) -> Self {
        let (phase, _) = watch::channel(Phase::Send);
        let transport = |i: usize| TRANSPORTS[(i + round as usize) % 2];
        let listeners = [("listener".to_owned(), 1), (name(0), 80)];
        let listeners = listeners.into_iter().enumerate().map(|(i, who)| {
            tokio::spawn(listen(server.clone(), transport(i), who, history.clone(), phase.subscribe()))
        });
        let listeners = listeners.collect();
        let count = devices.len();
        let (running, mut answered) = mpsc::channel(count);
        let devices = devices.into_iter().enumerate().map(|(i, device)| {
            let (history, phase) = (history.clone(), phase.subscribe());
            tokio::spawn(send(device, server.clone(), transport(i), history, phase, running.clone()))
        });
        let devices = devices.collect();
        drop(running);
        for _ in 0..count {
            let answered = timeout(PATIENCE, answered.recv()).await;
            let answered =
                answered.expect("an answer to every device within the patience: does ternd still run?");
            answered.expect("no device has failed");
        }
        Self { devices, listeners, phase }
    }

    /// Tells everybody, and waits for them.
    pub async fn end(self, phase: Phase) -> Vec<Device> {
        self.phase.send_replace(phase);
        let mut devices = Vec::new();
        for device in self.devices {
            let ended = timeout(PATIENCE, device).await.expect("within the patience");
            devices.push(ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        for listener in self.listeners {
            let ended = timeout(PATIENCE, listener).await.expect("within the patience");
            ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        devices
    }
}

/// The logs, as two members read each of them, one over each transport.
pub struct Readers {
    conversations: Vec<(ConversationId, [String; 2])>,
    /// As far as read.
    pub logs: HashMap<ConversationId, Vec<Entry>>,
    /// The watermarks of each, as they were with the log.
    receipts: HashMap<ConversationId, Vec<Shown>>,
}

impl Readers {
    /// Nothing is read yet.
    pub fn new(group: ConversationId) -> Self {
        let chats = (0..USERS).map(|i| (direct(i), [name(i), name((i + 1) % USERS)]));
        let group = (group, [name(USERS - 1), "listener".to_owned()]);
        Self { conversations: chats.chain([group]).collect(), logs: HashMap::new(), receipts: HashMap::new() }
    }

    /// Reads on, or all of it anew.
    pub async fn read(&mut self, server: &Server, anew: bool) {
        let before = if anew { std::mem::take(&mut self.logs) } else { HashMap::new() };
        for (conversation, readers) in &self.conversations {
            let log = self.logs.entry(*conversation).or_default();
            let from = log.len() as u64 + 1;
            let mut found = Vec::new();
            for (i, transport) in TRANSPORTS.into_iter().enumerate() {
                let mut session = server.login(transport, &readers[i], 90 + i as u64).await;
                found.push(match session.log_from(*conversation, from).await {
                    Ok(entries) => entries,
                    // A direct chat that nobody has used yet.
                    Err(error) if error.code == ErrorCode::UnknownConversation => Vec::new(),
                    Err(error) => panic!("{conversation} cannot be read: {error:?}"),
                });
                if from > 1 || !found[i].is_empty() {
                    let page = session.receipts(*conversation, None, 0).await.expect("a member");
                    assert_eq!(page.next, None, "all members fit a page");
                    self.receipts.insert(*conversation, page.receipts.iter().map(shown).collect());
                }
                session.close().await;
            }
            let differ = same_log(*conversation, &found[0], &found[1]);
            assert_none(differ.as_slice(), "two readers");
            log.append(&mut found[0]);
            if let Some(before) = before.get(conversation) {
                assert_none(same_log(*conversation, before, log).as_slice(), "before and now");
            }
        }
    }

    /// Reads all of it from a server whose disk is damaged: each log is what it was, or cannot be read, which it says. The
    /// number of those that cannot.
    pub async fn read_damaged(&self, server: &Server) -> usize {
        let mut unreadable = 0;
        for (conversation, readers) in &self.conversations {
            let mut session = server.login(TRANSPORTS[0], &readers[0], 90).await;
            let known = self.logs.get(conversation).map_or(&[][..], Vec::as_slice);
            match session.log_from(*conversation, 1).await {
                Ok(log) => {
                    assert_none(
                        same_log(*conversation, known, &log).as_slice(),
                        "before and after the damage",
                    );
                    assert_eq!(log.len(), known.len(), "of {conversation}, silently");
                }
                Err(error) if error.code == ErrorCode::Internal => unreadable += 1,
                Err(error) if error.code == ErrorCode::UnknownConversation && known.is_empty() => {}
                Err(error) => panic!("{conversation}, with {} entries: {error:?}", known.len()),
            }
            session.close().await;
        }
        unreadable
    }

    /// Compares what was read with what was sent.
    pub fn check(&self, history: &Shared, stage: Stage, when: &str) {
        let mut history = lock(history);
        for (conversation, log) in &self.logs {
            let head = Seq(log.len() as u64);
            let stored = self.receipts.get(conversation).map_or(&[][..], Vec::as_slice);
            history.check_receipts(*conversation, head, stored);
        }
        let mut violations = history.broken().to_vec();
        for (conversation, log) in &self.logs {
            violations.append(&mut history.check(*conversation, log, stage));
        }
        assert_none(&violations, when);
    }
}

/// The group that everybody sends to.
pub async fn create_group(server: &Server, group: ConversationId, history: &Shared) {
    let mut owner = server.login(Transport::Tcp, &name(0), 70).await;
    let mut members: Vec<UserId> = (1..USERS).map(|i| user(&name(i))).chain([user("listener")]).collect();
    members.sort();
    let change = Change::Create { title: "everybody".to_owned(), members };
    let sender = Sender { user: owner.user(), device: DeviceId::new(70).expect("not 0") };
    let key = Key { conversation: group, sender, client_seq: ClientSeq(1) };
    lock(history).issue(key, &change);
    let ok = owner.send_as(Target::Conversation(group), key.client_seq, change).await.expect("created");
    lock(history).ack(key, &ok);
    owner.close().await;
}

/// The devices: two of the users have two.
pub fn devices(group: ConversationId, random: &mut Random) -> Vec<Device> {
    let devices = (0..USERS).map(|i| (i, 1)).chain([(0, 2), (1, 2)]);
    devices.map(|(i, n)| Device::new(i, n, group, random.split())).collect()
}
