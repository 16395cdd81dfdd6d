//! Carries out what the machine says: one task per client, which owns the machine, the storage and the connection.

use std::collections::{BTreeMap, HashMap};
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tern_protocol::convert::{encode_request, parse_server};
use tern_protocol::event::{SendOk, ServerBody, ServerMessage, WireError};
use tern_protocol::frame::{Frame, HEARTBEAT};
use tern_protocol::ids::{ConversationId, RequestId, StoreEpoch};
use tern_protocol::model::{Change, Target};
use tern_protocol::request::RequestBody;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::{Config, Transport};
use crate::error::{ConnectError, Error};
use crate::event::{ConnectionState, Event, Lost, Stop};
use crate::machine::{ConversationProgress, Machine, Output, Progress, Ticket};
use crate::networks::{Networks, Place};
use crate::race;
use crate::raw::{self, Connection, Connector, ReceiveError};
use crate::storage::{self, Record, Storage, StorageError};

/// Commands that are carried out together.
const BATCH_MAX: usize = 64;

/// What the handles ask the task for, as far as the machine has room.
pub(crate) enum Command {
    Send {
        target: Target,
        change: Change,
        queued: oneshot::Sender<()>,
        sent: oneshot::Sender<Result<SendOk, Error>>,
    },
    Query {
        body: RequestBody,
        answer: oneshot::Sender<Result<ServerBody, Error>>,
    },
}

/// What the handles tell the task at any time, however much waits. When all handles are gone, so is the channel.
pub(crate) enum Control {
    NetworkChanged { name: Option<String> },
    Close,
}

/// What the app has taken, on its way to the machine: only the last of each conversation counts.
#[derive(Default)]
pub(crate) struct Taken {
    last: Mutex<Last>,
    changed: Notify,
}

#[derive(Default)]
struct Last {
    /// Before the others, which are of what came after.
    reset: Option<StoreEpoch>,
    conversations: BTreeMap<ConversationId, ConversationProgress>,
}

impl Taken {
    pub(crate) fn raise(&self, progress: Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::HistoryReset(epoch) => *last = Last { reset: Some(epoch), ..Last::default() },
            Progress::Conversation(progress) => {
                let known = last.conversations.entry(progress.conversation);
                known.and_modify(|known| known.add(progress)).or_insert(progress);
            }
        }
        drop(last);
        self.changed.notify_one();
    }

    fn drain(&self) -> impl Iterator<Item = Progress> + use<> {
        let last = std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner));
        let reset = last.reset.map(Progress::HistoryReset);
        reset.into_iter().chain(last.conversations.into_values().map(Progress::Conversation))
    }
}

/// An event on its way to the app, and what the app says by taking it.
pub(crate) type Handed = (Event, Option<Progress>);

enum Waiter {
    Send { queued: Option<oneshot::Sender<()>>, sent: oneshot::Sender<Result<SendOk, Error>> },
    Query(oneshot::Sender<Result<ServerBody, Error>>),
}

type Connecting = Pin<Box<dyn Future<Output = Result<Connected, ConnectError>> + Send>>;
/// One step on a request's own stream.
type Bulk = Pin<Box<dyn Future<Output = (u64, RequestId, Result<Part, ReceiveError>)> + Send>>;

struct Connected {
    connection: Connection,
    token: String,
    /// When the transport was to be found out.
    raced: Option<Raced>,
    quic_was_silent: bool,
}

/// From where a connection was made, and to which addresses.
struct Raced {
    place: Place,
    addresses: Vec<SocketAddr>,
}

enum Part {
    /// The request is out, or some of the answer has come (true).
    More(raw::Receiver, bool),
    Answer(ServerMessage),
}

struct Session {
    connection: Connection,
    raced: Option<Raced>,
    /// Anything at all came.
    heard: bool,
    /// QUIC: how often the server has asked whether this device is where its packets came from.
    challenges: u64,
    out: BytesMut,
    to_flush: bool,
}

pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) config: Config,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) controls: mpsc::Receiver<Control>,
    pub(crate) events: mpsc::Sender<Handed>,
    pub(crate) taken: Arc<Taken>,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) settled: Arc<AtomicBool>,
}

/// What woke the task.
enum Woken {
    Command(Command),
    Control(Option<Control>),
    Taken,
    Timer,
    Connected(Result<Connected, ConnectError>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Bulk(u64, RequestId, Result<Part, ReceiveError>),
    EventRoom,
}

impl Driver {
    pub(crate) async fn run(self) {
        let Driver { machine, storage, connector, config, commands, controls, events, taken, state, settled } =
            self;
        let mut task = Task {
            machine,
            storage: Some(storage),
            connector,
            config,
            commands,
            controls,
            taken,
            state,
            started: Instant::now(),
            networks: Networks::default(),
            network_name: None,
            waiting: HashMap::new(),
            next_ticket: 0,
            connecting: None,
            session: None,
            generation: 0,
            bulk: FuturesUnordered::new(),
            closing: None,
            settled,
        };
        task.run(events).await;
    }
}

struct Task {
    machine: Machine,
    storage: Option<Box<dyn Storage>>,
    connector: Arc<Connector>,
    config: Config,
    commands: mpsc::Receiver<Command>,
    controls: mpsc::Receiver<Control>,
    taken: Arc<Taken>,
    state: watch::Sender<ConnectionState>,
    started: Instant,
    networks: Networks,
    /// As the app calls the network that the device is in.
    network_name: Option<String>,
    waiting: HashMap<Ticket, Waiter>,
    next_ticket: u64,
    connecting: Option<Connecting>,
    session: Option<Session>,
    /// Counts connections, so that an answer on an old one's stream is known as such.
    generation: u64,
    bulk: FuturesUnordered<Bulk>,
    /// Until when what is under way is waited for.
    closing: Option<Instant>,
    /// Whether nothing was left undecided at the end.
    settled: Arc<AtomicBool>,
}

impl Task {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn run(&mut self, events: mpsc::Sender<Handed>) {
        let mut events = Some(events);
        let now = self.now();
        self.machine.handle_timeout(now);
        loop {
            self.carry_out().await;
            self.hand_events(&mut events);
            self.carry_out().await;
            if self.is_done() {
                break;
            }
            let woken = self.wait(&events).await;
            self.on_woken(woken);
        }
        self.finish().await;
        // What is in the machine's queue still goes to an app that reads; the channel ends it.
        if let Some(events) = events {
            while let Ok(room) = events.try_reserve() {
                let now = self.now();
                let Some(event) = self.machine.poll_event(now) else { break };
                let progress = self.machine.progress(&event);
                room.send((event, progress));
            }
        }
    }

    fn is_done(&self) -> bool {
        if self.machine.stopped().is_some() {
            return true;
        }
        let Some(deadline) = &self.closing else { return false };
        let written = self.session.as_ref().is_none_or(|s| s.out.is_empty() && !s.to_flush);
        (self.machine.is_settled() && written) || Instant::now() >= *deadline
    }

    async fn wait(&mut self, events: &Option<mpsc::Sender<Handed>>) -> Woken {
        let timer = self.machine.next_timeout().map(|at| self.started + at);
        let timer = timer.into_iter().chain(self.closing).min();
        let open = self.closing.is_none();
        let accepts = self.machine.accepts() && open;
        let room = events.as_ref().filter(|_| self.machine.has_event());
        let (receiver, sender) = match &mut self.session {
            Some(Session { connection, out, to_flush, .. }) => {
                let write = (*to_flush || !out.is_empty()).then_some((&mut connection.sender, out));
                (Some(&mut connection.receiver), write)
            }
            None => (None, None),
        };
        tokio::select! {
            biased;
            written = async { match sender { Some((s, out)) => s.write_some(out).await, None => pending().await } } => Woken::Written(written),
            () = self.taken.changed.notified() => Woken::Taken,
            // Whoever asked for the end need not wait for it.
            control = async { match self.controls.recv().await { None if !open => pending().await, other => other } } => Woken::Control(control),
            Some(command) = self.commands.recv(), if accepts => Woken::Command(command),
            read = async { match receiver { Some(r) => r.read_some().await, None => pending().await } } => Woken::Read(read),
            Some((generation, id, answer)) = self.bulk.next() => Woken::Bulk(generation, id, answer),
            connected = async { match &mut self.connecting { Some(c) => c.await, None => pending().await } } => Woken::Connected(connected),
            () = async { match room { Some(e) => drop(e.reserve().await), None => pending().await } } => Woken::EventRoom,
            () = async { match timer { Some(at) => tokio::time::sleep_until(at).await, None => pending().await } } => Woken::Timer,
        }
    }

    fn on_woken(&mut self, woken: Woken) {
        let now = self.now();
        match woken {
            Woken::Command(command) => {
                self.on_command(now, command);
                // What came at the same time shares a write to the disk.
                for _ in 1..BATCH_MAX {
                    if !self.machine.accepts() {
                        break;
                    }
                    let Ok(command) = self.commands.try_recv() else { break };
                    self.on_command(now, command);
                }
            }
            Woken::Control(Some(control)) => self.on_control(now, control),
            // Nobody holds the client any more.
            Woken::Control(None) => self.machine.stop(Stop::Closed),
            Woken::Taken => self.on_taken(now),
            Woken::Timer => self.machine.handle_timeout(now),
            Woken::EventRoom => {}
            Woken::Connected(Ok(Connected { connection, token, raced, quic_was_silent })) => {
                self.connecting = None;
                self.generation += 1;
                let over_quic = connection.quic().is_some();
                tracing::debug!(over_quic, "connected");
                if let Some(raced) = raced.as_ref().filter(|_| quic_was_silent) {
                    let here = self.here(raced);
                    self.networks.quic_was_silent(now, &raced.place, &here);
                }
                let (out, to_flush) = (BytesMut::new(), false);
                self.session =
                    Some(Session { connection, raced, heard: false, challenges: 0, out, to_flush });
                self.machine.connected(now, token, over_quic);
            }
            Woken::Connected(Err(error)) => {
                self.connecting = None;
                let reason = match error {
                    ConnectError::Token(why) => Lost::NoToken(why),
                    other => Lost::Unreachable(other.to_string()),
                };
                self.machine.disconnected(now, reason);
            }
            Woken::Read(Ok(0)) => self.lost(now, "the server closed it without a word".into()),
            Woken::Read(Ok(_)) => self.on_bytes(now),
            Woken::Read(Err(error)) | Woken::Written(Err(error)) => self.lost(now, error.to_string()),
            Woken::Written(Ok(written)) => {
                if let Some(session) = &mut self.session {
                    session.to_flush = written > 0;
                }
            }
            Woken::Bulk(generation, id, answer)
                if generation == self.generation && self.session.is_some() =>
            {
                match answer {
                    Ok(Part::More(receiver, heard)) => {
                        if heard {
                            self.machine.heard(now);
                        }
                        self.bulk.push(Box::pin(next_part(generation, id, receiver)));
                    }
                    Ok(Part::Answer(message)) if message.id == id => self.machine.received(now, message),
                    Ok(Part::Answer(_)) | Err(_) => self.machine.bulk_failed(now, id),
                }
            }
            Woken::Bulk(..) => {}
        }
        self.machine.handle_timeout(now);
    }

    fn on_command(&mut self, now: Duration, command: Command) {
        match command {
            Command::Send { target, change, queued, sent } => {
                let ticket = self.ticket(Waiter::Send { queued: Some(queued), sent });
                self.machine.send(now, ticket, target, change);
            }
            Command::Query { body, answer } => {
                let ticket = self.ticket(Waiter::Query(answer));
                self.machine.query(now, ticket, body);
            }
        }
    }

    fn on_control(&mut self, now: Duration, control: Control) {
        match control {
            Control::NetworkChanged { name } => {
                self.network_name = name;
                self.machine.network_changed(now);
            }
            Control::Close if self.closing.is_some() => {}
            Control::Close => {
                // What was asked before is still done, if there is room for it.
                while self.machine.accepts() {
                    let Ok(command) = self.commands.try_recv() else { break };
                    self.on_command(now, command);
                }
                self.on_taken(now);
                self.machine.flush_marks(now);
                self.closing = Some(Instant::now() + self.config.close_timeout);
            }
        }
    }

    fn ticket(&mut self, waiter: Waiter) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.waiting.insert(ticket, waiter);
        ticket
    }

    fn on_taken(&mut self, now: Duration) {
        self.taken.drain().for_each(|progress| self.machine.taken(now, progress));
    }

    /// Where the device is now.
    fn here(&self, raced: &Raced) -> Place {
        Place::new(self.network_name.as_deref(), &self.connector.routes(&raced.addresses))
    }

    /// The connection's race, if that was won by QUIC and nothing has come since.
    fn raced_quic_unheard(&self) -> Option<&Raced> {
        let session = self.session.as_ref().filter(|s| !s.heard && s.connection.quic().is_some());
        session.and_then(|session| session.raced.as_ref())
    }

    fn on_bytes(&mut self, now: Duration) {
        if let Some(raced) = self.raced_quic_unheard() {
            let (then, here) = (raced.place.clone(), self.here(raced));
            self.networks.quic_worked(&then, &here);
        }
        loop {
            let Some(session) = &mut self.session else { return };
            session.heard = true;
            let receiver = &mut session.connection.receiver;
            let error = match receiver.take_frame() {
                Ok(None) => {
                    if receiver.has_part() {
                        self.machine.heard(now);
                    }
                    return;
                }
                Ok(Some(Frame::Heartbeat)) => {
                    if let Some(quic) = session.connection.quic() {
                        let challenges = quic.stats().frame_rx.path_challenge;
                        if challenges > session.challenges {
                            session.challenges = challenges;
                            self.machine.address_changed();
                        }
                    }
                    self.machine.received_heartbeat(now);
                    continue;
                }
                Ok(Some(Frame::Message(bytes))) => match parse_server(bytes) {
                    Ok(Some(message)) => {
                        self.machine.received(now, message);
                        continue;
                    }
                    Ok(None) => {
                        self.machine.heard(now);
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            return self.lost(now, error);
        }
    }

    fn lost(&mut self, now: Duration, why: String) {
        self.drop_session();
        self.machine.disconnected(now, Lost::Broken(why));
    }

    fn drop_session(&mut self) {
        self.bulk.clear();
        self.connecting = None;
        if let Some(session) = self.session.take()
            && let Some(quic) = session.connection.quic()
        {
            quic.close(0u32.into(), b"");
        }
    }

    /// Events go over as far as the app's channel has room.
    fn hand_events(&mut self, events: &mut Option<mpsc::Sender<Handed>>) {
        let now = self.now();
        while self.machine.has_event() {
            let Some(sender) = events else {
                // The app does not want them; its cursors stay.
                drop(self.machine.poll_event(now));
                continue;
            };
            let sent = match sender.try_reserve() {
                Ok(room) => {
                    if let Some(event) = self.machine.poll_event(now) {
                        let progress = self.machine.progress(&event);
                        room.send((event, progress));
                    }
                    true
                }
                Err(_) => false,
            };
            if !sent {
                if !sender.is_closed() {
                    return;
                }
                *events = None;
            }
        }
    }

    /// First what must be on disk, then what it allows.
    async fn carry_out(&mut self) {
        loop {
            let (mut records, mut rest) = (Vec::new(), Vec::new());
            while let Some(output) = self.machine.poll_output() {
                match output {
                    Output::Persist(record) => records.push(record),
                    other => rest.push(other),
                }
            }
            if records.is_empty() && rest.is_empty() {
                return;
            }
            if let Err(error) = self.persist(records).await {
                self.machine.stop(Stop::Storage(error.to_string()));
                // Nothing of this batch may happen: its numbers may not be on disk.
                continue;
            }
            rest.into_iter().for_each(|output| self.act(output));
        }
    }

    async fn persist(&mut self, records: Vec<Record>) -> Result<(), StorageError> {
        if records.is_empty() {
            return Ok(());
        }
        let Some(storage) = self.storage.take() else { return Err(StorageError::Poisoned) };
        let (storage, ()) = storage::work(storage, move |storage| storage.append(&records)).await?;
        self.storage = Some(storage);
        Ok(())
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Persist(_) => unreachable!("taken out before"),
            Output::Connect { fresh_token, hints } => {
                self.connector.leave_port();
                let (connector, token) = (self.connector.clone(), self.config.token.clone());
                let (transport, limit) = (self.config.transport, self.config.connect_timeout);
                let (name, now) = (self.network_name.clone(), self.now());
                let networks = self.networks.clone();
                let connect = async move {
                    let token = token.get(fresh_token).await.map_err(ConnectError::Token)?;
                    let addresses = connector.resolve(&hints).await?;
                    let routes = connector.routes(&addresses);
                    let place = Place::new(name.as_deref(), &routes);
                    let plan = race::plan(transport, networks.udp(now, &place), &routes);
                    let won = connector.race(plan).await?;
                    let raced = (transport == Transport::Auto).then_some(Raced { place, addresses });
                    let (connection, quic_was_silent) = (won.connection, won.quic_was_silent);
                    Ok(Connected { connection, token, raced, quic_was_silent })
                };
                self.connecting = Some(Box::pin(async move {
                    tokio::time::timeout(limit, connect).await.unwrap_or(Err(ConnectError::Timeout(limit)))
                }));
            }
            Output::Transmit { request, bulk } => {
                let Some(session) = &mut self.session else { return };
                let frame = encode_request(&request);
                match session.connection.quic() {
                    Some(quic) if bulk => {
                        let (quic, generation) = (quic.clone(), self.generation);
                        self.bulk.push(Box::pin(async move {
                            let receiver = raw::ask_encoded(&quic, &frame).await;
                            (generation, request.id, receiver.map(|r| Part::More(r, false)))
                        }));
                    }
                    _ => session.out.extend_from_slice(&frame),
                }
            }
            Output::Heartbeat => {
                if let Some(session) = &mut self.session {
                    session.out.extend_from_slice(HEARTBEAT);
                }
            }
            Output::Disconnect => {
                if let Some(raced) = self.raced_quic_unheard() {
                    let (now, then, here) = (self.now(), raced.place.clone(), self.here(raced));
                    self.networks.quic_was_silent(now, &then, &here);
                }
                self.drop_session();
            }
            Output::Queued { ticket } => {
                if let Some(Waiter::Send { queued, .. }) = self.waiting.get_mut(&ticket)
                    && let Some(queued) = queued.take()
                {
                    let _ = queued.send(());
                }
            }
            Output::Sent { ticket, result } => {
                if let Some(Waiter::Send { sent, .. }) = self.waiting.remove(&ticket) {
                    let _ = sent.send(result.map_err(refused));
                }
            }
            Output::Answer { ticket, result } => {
                if let Some(Waiter::Query(answer)) = self.waiting.remove(&ticket) {
                    let _ = answer.send(result.map_err(refused));
                }
            }
            Output::State(state) => {
                tracing::debug!(?state, "connection");
                self.state.send_replace(state);
            }
        }
    }

    /// Says goodbye, and answers all who wait.
    async fn finish(&mut self) {
        let now = self.now();
        self.on_taken(now);
        self.settled.store(self.machine.is_settled(), Ordering::Release);
        self.machine.flush_marks(now);
        self.carry_out().await;
        if let Some(Session { mut connection, mut out, .. }) = self.session.take() {
            let goodbye = async {
                let _ = connection.sender.send_bytes(&out.split()).await;
                let over_quic = connection.quic().is_some();
                connection.close().await;
                if over_quic {
                    self.connector.wait_idle().await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        }
        self.machine.stop(Stop::Closed);
        self.carry_out().await;
        let stop = self.machine.stopped().cloned().unwrap_or(Stop::Closed);
        self.controls.close();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Send { sent, .. } => drop(sent.send(Err(Error::Stopped(stop.clone())))),
                Command::Query { answer, .. } => drop(answer.send(Err(Error::Stopped(stop.clone())))),
            }
        }
        for (_, waiter) in self.waiting.drain() {
            match waiter {
                Waiter::Send { sent, .. } => drop(sent.send(Err(Error::Stopped(stop.clone())))),
                Waiter::Query(answer) => drop(answer.send(Err(Error::Stopped(stop.clone())))),
            }
        }
        // The storage is free for the next client before `close` returns and the events end.
        if let Some(storage) = self.storage.take() {
            storage::release(storage).await;
        }
    }
}

async fn next_part(
    generation: u64,
    id: RequestId,
    mut receiver: raw::Receiver,
) -> (u64, RequestId, Result<Part, ReceiveError>) {
    let part = receiver.recv_part().await.map(|answer| match answer {
        Some(message) => Part::Answer(message),
        None => Part::More(receiver, true),
    });
    (generation, id, part)
}

fn refused(error: WireError) -> Error {
    Error::Refused(error)
}
