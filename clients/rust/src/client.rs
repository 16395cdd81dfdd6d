//! The handles that an app holds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tern_protocol::convert::{encode_request, parse_request};
use tern_protocol::event::{ConversationPage, HistoryPage, MemberPage, ReceiptPage, SendOk, ServerBody};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::{
    CLIENT_NAME_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, ENTRY_BYTES_MAX, FRAME_BYTES_MAX, HISTORY_ENTRIES_MAX,
    PAGE_ROWS_MAX, PAYLOAD_BYTES_MAX,
};
use tern_protocol::model::{Change, Message, Target};
use tern_protocol::request::{
    History, HistoryFrom, ListConversations, ListUsers, Mark, Request, RequestBody, Send,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Config, Token};
use crate::driver::{Command, Control, Driver, Handed, Taken};
use crate::error::{Error, StartError};
use crate::event::{ConnectionState, Event, Stop};
use crate::machine::{Machine, Progress, Settings};
use crate::raw::Connector;
use crate::storage::{self, Record, Storage, StorageError};

/// Commands on their way to the task; beyond, callers wait.
const COMMANDS_MAX: usize = 64;
/// Those that never wait behind others: closing, a change of network.
const CONTROLS_MAX: usize = 8;
/// Events between the task and the app, unless it wants fewer to wait; the machine holds as many as it wants.
const CHANNEL_EVENTS: usize = 64;

/// One device of one user, online as much as the network allows. Clones are handles to the same.
///
/// When the last handle is dropped the client stops without waiting for anything; [`close`](Self::close) waits. See
/// [Drop, cancel, close](crate#drop-cancel-close).
#[derive(Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    controls: mpsc::Sender<Control>,
    state: watch::Receiver<ConnectionState>,
    connector: Arc<Connector>,
    device: DeviceId,
    settled: Arc<AtomicBool>,
}

/// The one ordered stream of what happens. Also a [`Stream`].
///
/// An app that reads slowly slows nobody down: entries beyond [`Config::events_max`] stay on the server until there
/// is room, while sends go on. Dropping it means that nothing more is wanted: nothing is marked delivered any more, and
/// the next client on this storage is handed what this one was not.
pub struct Events {
    receiver: mpsc::Receiver<Handed>,
    taken: Arc<Taken>,
    last: Option<Progress>,
}

/// A send that is stored on this device and on its way. A future of where it ended up.
///
/// Dropping it changes nothing: the message is sent, once.
#[must_use = "the message is sent in any case; this tells where it ended up"]
pub struct Pending {
    sent: oneshot::Receiver<Result<SendOk, Error>>,
    state: watch::Receiver<ConnectionState>,
}

impl Client {
    /// Starts a client and returns when it has read the storage; it connects in the background, for as long as it takes.
    /// Dropped before it returns, there is no client, and the storage is let go of.
    ///
    /// # Errors
    /// [`StartError::Storage`], [`StartError::Config`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(config: Config, storage: impl Storage) -> Result<(Self, Events), StartError> {
        let connector = Connector::new(&config.server, config.server_name.as_deref(), &config.ca_pem)?;
        let chosen = config.device;
        let begin = move |storage: &mut dyn Storage| {
            let mut state = storage.load()?;
            let device = match state.device {
                Some(device) => device,
                None => {
                    let device = chosen.map_or_else(random_device, Ok)?;
                    storage.append(&[Record::Device(device)])?;
                    state.device = Some(device);
                    device
                }
            };
            Ok((device, state))
        };
        let (storage, (device, state)) = storage::work(Box::new(storage), begin).await?;
        let seed = getrandom::u64().map_err(random_failed)?;
        let mut client = config.client.clone();
        while client.len() > CLIENT_NAME_BYTES_MAX {
            client.pop();
        }
        let settings = Settings {
            receive: config.receive,
            latest: config.latest,
            mark_delivered: config.mark_delivered,
            history: storage.keeps_history(),
            client,
            token_refreshes: matches!(config.token, Token::Source(_)),
            events_max: config.events_max.max(1),
            backoff_first: config.backoff_first,
            backoff_max: config.backoff_max,
            heartbeat_max: config.heartbeat.unwrap_or(Duration::MAX),
            dead_after: config.dead_after,
            ..Settings::new(device, seed)
        };
        let connector = Arc::new(connector);
        let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (control_sender, controls) = mpsc::channel(CONTROLS_MAX);
        let (event_sender, receiver) = mpsc::channel(CHANNEL_EVENTS.min(settings.events_max));
        let (state_sender, state_receiver) = watch::channel(ConnectionState::Connecting);
        let (taken, settled) = (Arc::new(Taken::default()), Arc::new(AtomicBool::new(false)));
        let driver = Driver {
            machine: Machine::new(settings, state),
            storage,
            connector: connector.clone(),
            config,
            commands,
            controls,
            events: event_sender,
            taken: taken.clone(),
            state: state_sender,
            settled: settled.clone(),
        };
        tokio::spawn(driver.run());
        let client = Self {
            commands: command_sender,
            controls: control_sender,
            state: state_receiver,
            connector,
            device,
            settled,
        };
        Ok((client, Events { receiver, taken, last: None }))
    }

    /// Starts a client and waits until it is logged in, or has failed to be for the first time.
    ///
    /// # Errors
    /// [`StartError`]; the client is gone then. An app that wants to start offline uses [`start`](Self::start).
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(config: Config, storage: impl Storage) -> Result<(Self, Events), StartError> {
        let (client, events) = Self::start(config, storage).await?;
        let mut state = client.state.clone();
        let decided = state.wait_for(|s| !matches!(s, ConnectionState::Connecting)).await;
        let state = decided.map_or(ConnectionState::Stopped(Stop::Closed), |s| s.clone());
        match state {
            ConnectionState::Connecting | ConnectionState::Online { .. } => Ok((client, events)),
            ConnectionState::Offline { reason, .. } => {
                // Leaves the storage free when the error is seen.
                let _ = client.close().await;
                Err(StartError::Offline(reason))
            }
            ConnectionState::Stopped(stop) => {
                client.ended().await;
                Err(StartError::Stopped(stop))
            }
        }
    }

    /// Waits until a client that has stopped has let go of its storage: the task does so before it ends.
    async fn ended(&self) {
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// Waits until the client is logged in.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it gave up.
    pub async fn online(&self) -> Result<UserId, Error> {
        let mut state = self.state.clone();
        let decided = state
            .wait_for(|s| matches!(s, ConnectionState::Online { .. } | ConnectionState::Stopped(_)))
            .await;
        match decided.as_deref() {
            Ok(ConnectionState::Online { user }) => Ok(*user),
            Ok(ConnectionState::Stopped(stop)) => Err(Error::Stopped(stop.clone())),
            Ok(_) | Err(_) => Err(Error::Stopped(Stop::Closed)),
        }
    }

    /// The connection's state, to look at and to watch.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Stores a change to be sent and returns when it is durable on this device. It goes out as soon as there is a
    /// connection, before what is enqueued later, under one number until the server has decided about it, in this
    /// run of the app or a later one.
    ///
    /// Dropped before it returns, the message goes once or not at all; afterwards, once. A new device that has never
    /// logged in has nothing to number it by: then this waits for the first login.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Stopped`].
    pub async fn enqueue(&self, target: Target, change: Change) -> Result<Pending, Error> {
        check(&target, &change)?;
        let (queued, is_queued) = oneshot::channel();
        let (sent, is_sent) = oneshot::channel();
        self.command(Command::Send { target, change, queued, sent }).await?;
        let pending = Pending { sent: is_sent, state: self.state.clone() };
        // Without a number it is decided already, or the client has stopped: `pending` knows.
        let _ = is_queued.await;
        Ok(pending)
    }

    /// Sends a message and waits until the server has it, durably. [`enqueue`](Self::enqueue) and its
    /// [`Pending`] in one: what is said there about dropping holds here.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Refused`], [`Error::Stopped`].
    pub async fn send(&self, target: Target, message: Message) -> Result<SendOk, Error> {
        self.enqueue(target, Change::Message(message)).await?.await
    }

    /// Changes a group, or sends to it: as [`send`](Self::send), with any change.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Refused`], [`Error::Stopped`].
    pub async fn change(&self, conversation: ConversationId, change: Change) -> Result<SendOk, Error> {
        self.enqueue(Target::Conversation(conversation), change).await?.await
    }

    /// Makes a group with this user as its owner. The id is chosen here, at random, so that trying again makes no
    /// second group.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Refused`], [`Error::Stopped`].
    pub async fn create_group(
        &self,
        title: impl Into<String>,
        members: Vec<UserId>,
    ) -> Result<(ConversationId, Seq), Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Error::Invalid("the system has no random numbers"))?;
        let id = ConversationId::group_from_random(random);
        let ok = self.change(id, Change::Create { title: title.into(), members }).await?;
        Ok((id, ok.seq))
    }

    /// A page of a log, oldest first whichever way it is read; at most 1,000 entries, 0 for as many as the server gives.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Stopped`].
    pub async fn history(
        &self,
        conversation: ConversationId,
        from: HistoryFrom,
        limit: u32,
    ) -> Result<HistoryPage, Error> {
        let limit = at_most(limit, HISTORY_ENTRIES_MAX);
        match self.query(RequestBody::History(History { conversation, from, limit })).await? {
            ServerBody::HistoryPage(page) => Ok(page),
            _ => Err(Error::Unexpected),
        }
    }

    /// A page of the conversation list; go on with `after` set to the page's `next`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Stopped`].
    pub async fn conversations(
        &self,
        after: Option<ConversationId>,
        limit: u32,
    ) -> Result<ConversationPage, Error> {
        let limit = at_most(limit, PAGE_ROWS_MAX);
        match self.query(RequestBody::ListConversations(ListConversations { after, limit })).await? {
            ServerBody::ConversationPage(page) => Ok(page),
            _ => Err(Error::Unexpected),
        }
    }

    /// A page of a group's members.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Stopped`].
    pub async fn members(
        &self,
        conversation: ConversationId,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<MemberPage, Error> {
        let limit = at_most(limit, PAGE_ROWS_MAX);
        match self.query(RequestBody::ListMembers(ListUsers { conversation, after, limit })).await? {
            ServerBody::MemberPage(page) => Ok(page),
            _ => Err(Error::Unexpected),
        }
    }

    /// A page of the members' watermarks.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Stopped`].
    pub async fn receipts(
        &self,
        conversation: ConversationId,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<ReceiptPage, Error> {
        let limit = at_most(limit, PAGE_ROWS_MAX);
        match self.query(RequestBody::ListReceipts(ListUsers { conversation, after, limit })).await? {
            ServerBody::ReceiptPage(page) => Ok(page),
            _ => Err(Error::Unexpected),
        }
    }

    /// Tells the server that the user has seen everything up to `seq`; returns when it knows. Asked again
    /// after a reconnect, until it is answered.
    ///
    /// # Errors
    /// [`Error::Invalid`] for seq 0, [`Error::Refused`], [`Error::Stopped`].
    pub async fn mark_read(&self, conversation: ConversationId, seq: Seq) -> Result<(), Error> {
        self.mark(Mark { conversation, delivered: seq, read: seq }).await
    }

    /// Tells the server that this device has everything up to `seq`: for apps that turned
    /// [`Config::mark_delivered`] off.
    ///
    /// # Errors
    /// [`Error::Invalid`] for seq 0, [`Error::Refused`], [`Error::Stopped`].
    pub async fn mark_delivered(&self, conversation: ConversationId, seq: Seq) -> Result<(), Error> {
        self.mark(Mark { conversation, delivered: seq, read: Seq(0) }).await
    }

    async fn mark(&self, mark: Mark) -> Result<(), Error> {
        if mark.delivered.get() == 0 {
            return Err(Error::Invalid("there is no entry 0 to mark"));
        }
        match self.query(RequestBody::Mark(vec![mark])).await? {
            ServerBody::MarkOk => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// The network may have changed (Wi-Fi to mobile, waking up): QUIC moves to a new socket and keeps its connection;
    /// a link that does not answer within two seconds is replaced; a wait for another try ends, and a try that is under way
    /// begins again. What was learnt about the path is forgotten.
    ///
    /// `name` tells the network apart from others for what is remembered of it (see [`Transport::Auto`]): anything that
    /// is the same when the device comes back, for example "cellular" or a hash of the Wi-Fi's name. Without it, the
    /// device's address has to do, until the next call.
    ///
    /// [`Transport::Auto`]: crate::Transport::Auto
    pub async fn network_changed(&self, name: Option<&str>) {
        if let Err(error) = self.connector.rebind() {
            tracing::debug!(%error, "no new socket");
        }
        let _ = self.controls.send(Control::NetworkChanged { name: name.map(Into::into) }).await;
    }

    /// Waits until every send is decided and every query answered, at most [`Config::close_timeout`], tells the
    /// server how far the app has taken events, and closes, for all handles. The storage is free on return. False when
    /// something was left undecided: sends are kept in the storage for the next client.
    ///
    /// Dropping the future changes nothing: the client closes as if it were waited for. Closing once more, by
    /// another handle, waits for the same end and returns the same.
    pub async fn close(self) -> bool {
        // Nobody takes it when the client has ended already.
        let _ = self.controls.send(Control::Close).await;
        self.ended().await;
        self.settled.load(Ordering::Acquire)
    }

    async fn query(&self, body: RequestBody) -> Result<ServerBody, Error> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Query { body, answer }).await?;
        answered.await.unwrap_or_else(|_| Err(stopped(&self.state)))
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| stopped(&self.state))
    }
}

impl Events {
    /// The next event; `None` when the client has stopped and everything was read. Its storage is free then.
    ///
    /// Asking for the next one says that the one before has been dealt with: only then does the device's cursor move
    /// over an entry, and the server learn that it was delivered. So an app that dies while it handles an entry is
    /// handed it again, and one that dies over watermarks hears of them again. May be dropped and called again without
    /// loss.
    pub async fn next(&mut self) -> Option<Event> {
        self.confirm();
        let handed = self.receiver.recv().await?;
        Some(self.note(handed))
    }

    /// As [`next`](Self::next), if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.confirm();
        let handed = self.receiver.try_recv().ok()?;
        Some(self.note(handed))
    }

    /// Says that the last event has been dealt with, without asking for another: before closing.
    pub fn confirm(&mut self) {
        if let Some(progress) = self.last.take() {
            self.taken.raise(progress);
        }
    }

    /// Says that the last event has *not* been dealt with: the cursor stays before it, so the next client on this
    /// storage is handed it again, unless a later entry of its conversation is confirmed.
    pub fn leave(&mut self) {
        self.last = None;
    }

    fn note(&mut self, (event, progress): Handed) -> Event {
        self.last = progress;
        event
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.confirm();
        let handed = std::task::ready!(self.receiver.poll_recv(context));
        Poll::Ready(handed.map(|handed| self.note(handed)))
    }
}

impl Future for Pending {
    type Output = Result<SendOk, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(Pin::new(&mut self.sent).poll(context));
        Poll::Ready(result.unwrap_or_else(|_| Err(stopped(&self.state))))
    }
}

fn stopped(state: &watch::Receiver<ConnectionState>) -> Error {
    match &*state.borrow() {
        ConnectionState::Stopped(stop) => Error::Stopped(stop.clone()),
        _ => Error::Stopped(Stop::Closed),
    }
}

fn at_most(limit: u32, max: usize) -> u32 {
    let max = max as u32;
    if limit == 0 { max } else { limit.min(max) }
}

/// The server would refuse it, or it would not fit a frame: then it must not get a number.
fn check(target: &Target, change: &Change) -> Result<(), Error> {
    match change {
        Change::Message(message) if message.payload.len() > PAYLOAD_BYTES_MAX => {
            Err(Error::Invalid("the payload is longer than 65536 bytes"))
        }
        Change::Message(message) if message.content_type.len() > CONTENT_TYPE_BYTES_MAX => {
            Err(Error::Invalid("the content type is longer than 128 bytes"))
        }
        Change::Message(_) => Ok(()),
        Change::Unknown => Err(Error::Invalid("an unknown change cannot be sent")),
        Change::Create { members, .. } | Change::Add { members } if members.len() * 18 > ENTRY_BYTES_MAX => {
            Err(Error::Invalid("more than 1024 members"))
        }
        Change::Title { title } | Change::Create { title, .. } if title.len() > ENTRY_BYTES_MAX => {
            Err(Error::Invalid("title is longer than 256 bytes"))
        }
        _ => {
            // Rare: let the border itself say.
            let send = Send { target: *target, client_seq: ClientSeq(1), change: change.clone() };
            let bytes = encode_request(&Request { id: RequestId(1), body: RequestBody::Send(send) });
            match frame::decode(&mut (&bytes[..]).into(), FRAME_BYTES_MAX) {
                Ok(Some(Frame::Message(message))) => {
                    parse_request(message).map(drop).map_err(|e| Error::Invalid(e.text))
                }
                Ok(_) | Err(_) => Err(Error::Invalid("it does not fit a frame")),
            }
        }
    }
}

fn random_device() -> Result<DeviceId, StorageError> {
    loop {
        if let Some(device) = DeviceId::new(getrandom::u64().map_err(random_failed)?) {
            return Ok(device);
        }
    }
}

fn random_failed(error: getrandom::Error) -> StorageError {
    StorageError::Other(format!("the system has no random numbers: {error}"))
}
