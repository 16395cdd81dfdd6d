//! Another node: takes what this one has for it, and carries it over a link while there is one.
//!
//! Without a link, requests are told that the owner cannot be reached, and news are given back. When a link breaks,
//! requests under way are answered with "outcome unknown", and the news that were not taken over are given back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tern_core::home::{Located, SessionId};
use tern_core::routing::ShardId;
use tern_core::time::MonoMillis;
use tern_protocol::error::ErrorCode;
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::NodeId;
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::WallMillis;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::link::{LinkState, Waiting};
use super::wire::{Ask, AskBody, Hello, Malformed, Message, PULSES, Pulse, VERSIONS, encode_delivery};
use super::{HOMES_MAX, HomeMessage, Lanes, NEWS_MAX, REQUESTS_MAX};
use crate::mailbox::{Answer, Event, HomeRequest, News, OwnerRequest, Question, REPLIES_MAX, Reply, Ticket};
use crate::shard::Node;

/// A link says something at least this often; from version 2 on, a pulse.
const PING: Duration = Duration::from_secs(1);
/// A link that has said nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(4);
/// From a new stream to its first message.
const HELLO: Duration = Duration::from_secs(5);
/// News on a link that the other node has not taken over yet; further ones wait.
const UNTAKEN_MAX: usize = 4_096;
/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 64 * 1024;
/// What is taken from a lane before the others get their turn.
const LANE_BATCH: usize = 256;
/// How many deliveries are taken over before that is said, unless it is time for a ping.
const TAKEN_EVERY: u64 = 64;

/// A stream to another node.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A stream of whatever kind.
pub type BoxStream = Box<dyn Stream>;

/// Why a link has ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was closed.
    #[error("the other node has closed it")]
    Closed,
    /// Nothing comes.
    #[error("nothing was heard for {} s", SILENCE.as_secs())]
    Silent,
    /// What comes is no message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// What comes is no frame.
    #[error("not a frame: {0:?}")]
    Frame(frame::FrameError),
    /// It serves another store.
    #[error("its store is another one: check its configuration")]
    OtherStore,
    /// It is too old, or too new.
    #[error("it speaks versions {0} to {1} of links, this node {min} to {max}", min = VERSIONS.0, max = VERSIONS.1)]
    NoVersion(u8, u8),
    /// The address that was called is this node's own.
    #[error(
        "this node itself has answered: two nodes advertise one address, or the other one was there before"
    )]
    Itself,
    /// The node that answered is not the one that was called.
    #[error("node {0} has answered instead")]
    OtherNode(NodeId),
}

/// A stream over which both sides have said who they are.
pub struct Opened {
    /// The stream.
    pub stream: BoxStream,
    /// What has been read of it since.
    pub input: BytesMut,
    /// The version that both speak.
    pub version: u8,
}

/// What a peer tells the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// There is a link.
    Up(NodeId),
    /// There is none any more.
    Down(NodeId),
}

/// Greets over a new stream; returns who is there, and the version that both speak.
///
/// # Errors
/// [`LinkError`]: nothing is to be said on this stream any more.
pub async fn greet(
    stream: &mut BoxStream,
    input: &mut BytesMut,
    mine: Hello,
) -> Result<(NodeId, u8), LinkError> {
    let mut out = BytesMut::new();
    mine.encode(&mut out);
    stream.write_all(&out).await?;
    stream.flush().await?;
    let first = timeout(HELLO, read_message(stream, input)).await.map_err(|_| LinkError::Silent)??;
    let theirs = Hello::decode(first)?;
    if theirs.epoch != mine.epoch {
        return Err(LinkError::OtherStore);
    }
    let version = mine.agree(&theirs);
    let version = version.ok_or(LinkError::NoVersion(theirs.versions.0, theirs.versions.1))?;
    Ok((theirs.node, version))
}

/// The next message, whatever pings come before it.
async fn read_message<R: AsyncRead + Unpin>(
    from: &mut R,
    input: &mut BytesMut,
) -> Result<bytes::Bytes, LinkError> {
    loop {
        match frame::decode(input, FRAME_BYTES_MAX).map_err(LinkError::Frame)? {
            Some(Frame::Message(message)) => return Ok(message),
            Some(Frame::Heartbeat) => continue,
            None => {}
        }
        let read = timeout(SILENCE, from.read_buf(input)).await.map_err(|_| LinkError::Silent)??;
        if read == 0 {
            return Err(LinkError::Closed);
        }
    }
}

/// The receiving ends of a peer's lanes.
struct LaneEnds {
    requests: mpsc::Receiver<OwnerRequest>,
    news: mpsc::Receiver<Waiting>,
    homes: mpsc::Receiver<HomeMessage>,
}

/// A peer's task.
pub struct PeerTask {
    node: Arc<Node>,
    peer: NodeId,
    lanes: LaneEnds,
    state: Arc<LinkState>,
    streams: mpsc::Receiver<Opened>,
    moved: mpsc::Sender<Moved>,
    /// Since when news for the other node have been dropped, until it has heard of that.
    lost: Option<WallMillis>,
}

impl PeerTask {
    /// A peer without a link. Of the streams that are handed in, a later one takes the place of an earlier one. `has_missed`:
    /// this node has served somebody without knowing of the other one, which is told so until it has heard it: the first links
    /// may end at once, since it does not know of this node yet.
    pub fn new(
        node: Arc<Node>,
        peer: NodeId,
        state: Arc<LinkState>,
        moved: mpsc::Sender<Moved>,
        has_missed: bool,
    ) -> (Self, Lanes, mpsc::Sender<Opened>) {
        let (requests, requests_in) = mpsc::channel(REQUESTS_MAX);
        let (news, news_in) = mpsc::channel(NEWS_MAX);
        let (homes, homes_in) = mpsc::channel(HOMES_MAX);
        let (streams, streams_in) = mpsc::channel(1);
        let lanes = LaneEnds { requests: requests_in, news: news_in, homes: homes_in };
        let lost = has_missed.then(|| node.clock.now().wall);
        let task = Self { node, peer, lanes, state, streams: streams_in, moved, lost };
        (task, Lanes { requests, news, homes }, streams)
    }

    /// Runs until the keeper gives the peer up.
    pub async fn run(mut self) {
        let mut next = None;
        loop {
            let stream = match next.take() {
                Some(stream) => Some(stream),
                None => self.without_link().await,
            };
            let Some(opened) = stream else { break };
            info!(peer = %self.peer, version = opened.version, "linked");
            self.state.up(self.node.clock.now().mono, opened.version);
            if self.moved.send(Moved::Up(self.peer)).await.is_err() {
                break;
            }
            // Whoever was registered by an earlier link of this node registers again.
            for shard in self.node.shards() {
                let forget = HomeRequest::Forget(self.peer);
                if self.node.mailbox(shard).homes.send(forget).await.is_err() {
                    return;
                }
            }
            let mut link = Link::new(&self.node, self.peer, &self.state, opened.version);
            link.lost.set(self.lost.map(|since| (since, 0)));
            let why = tokio::select! {
                biased;
                newer = self.streams.recv() => {
                    next = newer;
                    if next.is_none() { None } else { Some(LinkError::Closed) }
                }
                why = link.run(opened.stream, opened.input, &mut self.lanes) => Some(why),
            };
            self.lost = link.lost.get().map(|(since, _)| since);
            link.end().await;
            self.state.down(self.node.clock.now().mono);
            let Some(why) = why else { break };
            info!(peer = %self.peer, %why, "the link has ended");
            if self.moved.send(Moved::Down(self.peer)).await.is_err() {
                break;
            }
        }
        // The shards may still have its lanes: what they put in is given back until they have let go.
        while self.give_back_one().await {}
        debug!(peer = %self.peer, "given up");
    }

    /// Gives back what comes until there is a stream; `None`: the peer is given up.
    async fn without_link(&mut self) -> Option<Opened> {
        loop {
            tokio::select! {
                biased;
                stream = self.streams.recv() => return stream,
                Some(request) = self.lanes.requests.recv() => refuse(request, ErrorCode::Unavailable),
                Some(waiting) = self.lanes.news.recv() => give_back(&self.node, self.peer, waiting).await,
                // The others are registered again when there is a link.
                Some(home) = self.lanes.homes.recv() => if let HomeMessage::Lost(since) = home {
                    self.lost = Some(self.lost.map_or(since, |before| before.min(since)));
                },
                else => return self.streams.recv().await,
            }
        }
    }

    async fn give_back_one(&mut self) -> bool {
        tokio::select! {
            biased;
            Some(request) = self.lanes.requests.recv() => refuse(request, ErrorCode::Unavailable),
            Some(waiting) = self.lanes.news.recv() => give_back(&self.node, self.peer, waiting).await,
            Some(_) = self.lanes.homes.recv() => {}
            else => return false,
        }
        true
    }
}

/// Tells whoever waits for a request that the owner was not reached, or not heard.
fn refuse(request: OwnerRequest, code: ErrorCode) {
    let (_, ticket) = Ask::new(0, request);
    if let Some(ticket) = ticket {
        answer(ticket, Answer::Sent(Err(code.into())));
    }
}

/// Sends an answer to the shard that asked.
fn answer(ticket: Ticket, answer: Answer) {
    let Ticket { session, question, place, .. } = ticket;
    let answer = match (question, answer) {
        (Question::Mark(_) | Question::Kept(_), Answer::Sent(result)) => {
            Answer::Marked(result.map(drop).map_err(|refusal| refusal.code))
        }
        // Another node's fault, which is no answer to what was asked.
        (Question::Send(..), Answer::Marked(result)) => {
            Answer::Sent(Err(result.err().unwrap_or(ErrorCode::OutcomeUnknown).into()))
        }
        (_, answer) => answer,
    };
    if let Some(place) = place {
        place.send(Reply { session, question, answer });
    }
}

/// News that did not get to a node go back to a shard, which remembers the head.
async fn give_back(node: &Node, peer: NodeId, Waiting { delivery, .. }: Waiting) {
    let conversation = match &delivery.news {
        News::Publish(publication, _) => publication.conversation,
        News::HeadMoved { conversation, .. } => *conversation,
        // May be lost.
        News::Notify(_) => return,
    };
    let shard = node.slots.owner(conversation);
    // A shard never waits for a peer, so this ends.
    let _ = node.mailbox(shard).events.send(Event::Undelivered(peer, delivery)).await;
}

/// One link.
struct Link<'a> {
    node: &'a Arc<Node>,
    peer: NodeId,
    state: &'a LinkState,
    version: u8,
    begun: Instant,
    /// Since when news for the other side have been lost, and when it was told so on this link, until it has heard it.
    lost: Cell<Option<(WallMillis, u64)>>,
    /// When the other side's last pulse was made, by its clock, and when it came.
    heard: Cell<Option<(u64, Instant)>>,
    /// Numbers of questions.
    asked: Cell<u64>,
    pending: RefCell<BTreeMap<u64, Ticket>>,
    /// Numbers of deliveries.
    delivered: Cell<u64>,
    untaken: RefCell<VecDeque<(u64, Waiting)>>,
    room: Notify,
    /// The last delivery that was taken over from the other side, and the last of which it was told.
    taken: Cell<u64>,
    told: Cell<u64>,
    /// Answers of the owners here.
    replies: mpsc::Sender<Reply>,
    replies_in: RefCell<Option<mpsc::Receiver<Reply>>>,
    /// Questions that found no room.
    overloaded: RefCell<Vec<u64>>,
    /// The reading half has something to say.
    soon: Notify,
}

impl<'a> Link<'a> {
    fn new(node: &'a Arc<Node>, peer: NodeId, state: &'a LinkState, version: u8) -> Self {
        let (replies, replies_in) = mpsc::channel(REPLIES_MAX);
        Self {
            node,
            peer,
            state,
            version,
            begun: Instant::now(),
            lost: Cell::new(None),
            heard: Cell::new(None),
            asked: Cell::new(0),
            pending: RefCell::default(),
            delivered: Cell::new(0),
            untaken: RefCell::default(),
            room: Notify::new(),
            taken: Cell::new(0),
            told: Cell::new(0),
            replies,
            replies_in: RefCell::new(Some(replies_in)),
            overloaded: RefCell::default(),
            soon: Notify::new(),
        }
    }

    fn put_home(&self, out: &mut BytesMut, message: HomeMessage) {
        let message = match message {
            HomeMessage::Register(user, device, session, login) => {
                Message::Register(user, device, session, login)
            }
            HomeMessage::Registered(session) => Message::Registered(session),
            HomeMessage::Unregister(user, session) => Message::Unregister(user, session),
            HomeMessage::Displace(session, is_certain) => Message::Displace(session, is_certain),
            HomeMessage::Lost(since) => return self.put_lost(out, since),
        };
        message.encode(out);
    }

    /// Says that news have been lost since then, and remembers it until the other side has heard it.
    fn put_lost(&self, out: &mut BytesMut, since: WallMillis) {
        let since = self.lost.get().map_or(since, |(before, _)| before.min(since));
        self.lost.set(Some((since, self.micros())));
        Message::Lost(since).encode(out);
    }

    async fn run(&mut self, stream: BoxStream, input: BytesMut, lanes: &mut LaneEnds) -> LinkError {
        let Some(replies) = self.replies_in.borrow_mut().take() else { return LinkError::Closed };
        let (read, write) = tokio::io::split(stream);
        let link = &*self;
        tokio::select! {
            // In one order, for the simulation.
            biased;
            why = link.read(read, input) => why,
            why = link.write(write, lanes, replies) => why,
        }
    }

    /// Settles what was under way.
    async fn end(self) {
        for (_, ticket) in self.pending.into_inner() {
            // A watermark is said again, whatever became of it.
            let code = match ticket.question {
                Question::Mark(_) | Question::Kept(_) => ErrorCode::Unavailable,
                Question::Send(..) | Question::Link(_) | Question::LinkLater(_) => ErrorCode::OutcomeUnknown,
            };
            answer(ticket, Answer::Sent(Err(code.into())));
        }
        for (_, waiting) in self.untaken.into_inner() {
            give_back(self.node, self.peer, waiting).await;
        }
    }

    async fn read(&self, mut from: impl AsyncRead + Unpin, mut input: BytesMut) -> LinkError {
        loop {
            let message = match read_message(&mut from, &mut input).await {
                Ok(message) => Message::decode(message),
                Err(why) => return why,
            };
            match message {
                Ok(Some(message)) => self.on_message(message).await,
                // Of a newer version.
                Ok(None) => {}
                Err(malformed) => return malformed.into(),
            }
        }
    }

    async fn on_message(&self, message: Message) {
        match message {
            Message::Ask(ask) => self.on_ask(ask),
            Message::Answer(number, result) => {
                let ticket = self.pending.borrow_mut().remove(&number);
                self.state.set_asked(self.pending.borrow().len());
                if let Some(ticket) = ticket {
                    answer(ticket, result);
                }
            }
            Message::Deliver(number, delivery) => {
                let shard = match &delivery.news {
                    News::Publish(publication, _) => self.node.slots.owner(publication.conversation),
                    News::HeadMoved { conversation, .. } => self.node.slots.owner(*conversation),
                    News::Notify(frames) => {
                        let Some((user, _)) = frames.first() else { return };
                        self.node.slots.home(*user)
                    }
                };
                // Waits when the shard is behind: then the other node waits too.
                if self.node.mailbox(shard).events.send(Event::Arrived(delivery)).await.is_ok() {
                    self.taken.set(self.taken.get().max(number));
                    if self.taken.get() - self.told.get() >= TAKEN_EVERY {
                        self.soon.notify_one();
                    }
                }
            }
            Message::Taken(number) => {
                let mut untaken = self.untaken.borrow_mut();
                while untaken.front().is_some_and(|(first, _)| *first <= number) {
                    untaken.pop_front();
                }
                drop(untaken);
                self.note_news();
                self.room.notify_one();
            }
            Message::Register(user, device, session, login) => {
                let at = Located { node: self.peer, session };
                let register = HomeRequest::Register(user, device, at, login);
                self.to_home(self.node.slots.home(user), register).await;
            }
            Message::Unregister(user, session) => {
                let at = Located { node: self.peer, session };
                self.to_home(self.node.slots.home(user), HomeRequest::Unregister(user, at)).await;
            }
            Message::Registered(session) => self.to_session(session, HomeRequest::Registered(session)).await,
            Message::Displace(session, is_certain) => {
                self.to_session(session, HomeRequest::Displace(session, is_certain)).await;
            }
            Message::Lost(since) => {
                for shard in self.node.shards() {
                    self.to_home(shard, HomeRequest::Recheck(since)).await;
                }
            }
            Message::Pulse(Pulse { at, echo, held, beaten }) => {
                self.heard.set(Some((at, Instant::now())));
                let now = self.node.clock.now().mono;
                self.state.set_beaten(MonoMillis(now.0.saturating_sub(beaten)));
                // It answers a pulse that was said after that.
                self.lost.set(self.lost.get().filter(|(_, said)| *said >= echo));
                if echo > 0 {
                    self.state.set_round_trip(self.micros().saturating_sub(echo).saturating_sub(held));
                }
            }
        }
    }

    /// Since the link began; never 0.
    fn micros(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64 + 1
    }

    fn put_pulse(&self, out: &mut BytesMut) {
        let heard = self.heard.get();
        let (echo, held) = heard.map_or((0, 0), |(at, came)| (at, came.elapsed().as_micros() as u64));
        let beaten = self.node.clock.now().mono.since(self.node.roster.beaten());
        Message::Pulse(Pulse { at: self.micros(), echo, held, beaten }).encode(out);
    }

    /// Says how much news wait.
    fn note_news(&self) {
        let untaken = self.untaken.borrow();
        self.state.set_news(untaken.len(), untaken.front().map(|(_, waiting)| waiting.since));
    }

    async fn to_session(&self, session: SessionId, request: HomeRequest) {
        // One of another process's numbers is nobody's.
        if self.node.shards().any(|shard| shard == session.shard) {
            self.to_home(session.shard, request).await;
        }
    }

    async fn to_home(&self, shard: ShardId, request: HomeRequest) {
        let _ = self.node.mailbox(shard).homes.send(request).await;
    }

    /// A request for an owner here.
    fn on_ask(&self, ask: Ask) {
        let number = ask.number;
        let shard = self.node.slots.owner(ask.conversation());
        let bytes = match &ask.body {
            AskBody::Send(send) => send.change.size(),
            AskBody::Mark(_) => 0,
        };
        let ticket = || {
            let charge = self.node.charge(bytes)?;
            let place = self.replies.clone().try_reserve_owned().ok()?;
            let session = SessionId { shard, number: 0 };
            let question = if ask.later { Question::LinkLater(number) } else { Question::Link(number) };
            Some(Ticket { session, question, place: Some(place), _charge: charge })
        };
        let request = match number {
            0 => ask.into_request(None),
            _ => match ticket() {
                Some(ticket) => ask.into_request(Some(ticket)),
                None => return self.overloaded(number),
            },
        };
        if let Some(request) = request
            && let Err(error) = self.node.mailbox(shard).requests.try_send(request)
        {
            refuse(error.into_inner(), ErrorCode::Overloaded);
        }
    }

    /// There is no place for an answer of an owner; the other node bounds how many of these there are.
    fn overloaded(&self, number: u64) {
        self.overloaded.borrow_mut().push(number);
        self.soon.notify_one();
    }

    async fn write(
        &self,
        mut to: impl AsyncWrite + Unpin,
        lanes: &mut LaneEnds,
        mut replies: mpsc::Receiver<Reply>,
    ) -> LinkError {
        let mut out = BytesMut::with_capacity(WRITE_BYTES);
        if let Some((since, _)) = self.lost.get() {
            self.put_lost(&mut out, since);
        }
        let has_pulse = self.version >= PULSES;
        // The first at once: the other side wants to know how this one is.
        let mut ping = Instant::now();
        loop {
            let has_room = self.untaken.borrow().len() < UNTAKEN_MAX;
            tokio::select! {
                biased;
                Some(reply) = replies.recv() => self.put_reply(&mut out, reply),
                Some(home) = lanes.homes.recv() => self.put_home(&mut out, home),
                Some(request) = lanes.requests.recv() => self.put_request(&mut out, request),
                Some(waiting) = lanes.news.recv(), if has_room => self.put_news(&mut out, waiting),
                () = self.soon.notified() => {}
                () = self.room.notified(), if !has_room => {}
                () = tokio::time::sleep_until(ping) => {}
                else => return LinkError::Closed,
            }
            // Also while there is much else to say.
            if Instant::now() >= ping {
                if has_pulse {
                    self.put_pulse(&mut out)
                } else {
                    out.extend_from_slice(frame::HEARTBEAT)
                }
                ping = Instant::now() + PING;
            }
            self.gather(&mut out, lanes, &mut replies);
            for number in self.overloaded.take() {
                Message::Answer(number, Answer::Sent(Err(ErrorCode::Overloaded.into()))).encode(&mut out);
            }
            if self.taken.get() > self.told.get() {
                self.told.set(self.taken.get());
                Message::Taken(self.taken.get()).encode(&mut out);
            }
            if out.is_empty() {
                continue;
            }
            // Bounded by what the other side takes: one that takes nothing is silent too.
            let written = async {
                to.write_all(&out).await?;
                to.flush().await
            };
            match timeout(SILENCE, written).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.into(),
                Err(_) => return LinkError::Silent,
            }
            out.clear();
            if !has_pulse {
                ping = Instant::now() + PING;
            }
        }
    }

    /// Takes what is at hand, up to a bound.
    fn gather(&self, out: &mut BytesMut, lanes: &mut LaneEnds, replies: &mut mpsc::Receiver<Reply>) {
        for _ in 0..LANE_BATCH {
            let before = out.len();
            if before >= WRITE_BYTES {
                return;
            }
            if let Ok(reply) = replies.try_recv() {
                self.put_reply(out, reply);
            }
            if let Ok(home) = lanes.homes.try_recv() {
                self.put_home(out, home);
            }
            if let Ok(request) = lanes.requests.try_recv() {
                self.put_request(out, request);
            }
            if self.untaken.borrow().len() < UNTAKEN_MAX
                && let Ok(waiting) = lanes.news.try_recv()
            {
                self.put_news(out, waiting);
            }
            if out.len() == before {
                return;
            }
        }
    }

    fn put_reply(&self, out: &mut BytesMut, reply: Reply) {
        if let Question::Link(number) | Question::LinkLater(number) = reply.question {
            Message::Answer(number, reply.answer).encode(out);
        }
    }

    fn put_request(&self, out: &mut BytesMut, request: OwnerRequest) {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        let (mut ask, ticket) = Ask::new(number, request);
        match ticket {
            // It would persist each of these at once: it is taken at its word that it persists them soon.
            Some(ticket) if ask.later && self.version < PULSES => {
                (ask.number, ask.later) = (0, false);
                answer(ticket, Answer::Marked(Ok(())));
            }
            Some(ticket) => {
                self.pending.borrow_mut().insert(number, ticket);
                self.state.set_asked(self.pending.borrow().len());
            }
            None => {}
        }
        Message::Ask(ask).encode(out);
    }

    fn put_news(&self, out: &mut BytesMut, waiting: Waiting) {
        if matches!(waiting.delivery.news, News::Notify(_)) {
            return encode_delivery(0, &waiting.delivery, out);
        }
        let number = self.delivered.get() + 1;
        self.delivered.set(number);
        encode_delivery(number, &waiting.delivery, out);
        self.untaken.borrow_mut().push_back((number, waiting));
        self.note_news();
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::StoreEpoch;
    use tern_protocol::request::{ListConversations, RequestBody};
    use tern_store::memory::Memory;
    use tokio::task::LocalSet;

    use super::*;
    use crate::cluster::missed::tests::sends_unheard;
    use crate::connection::tests::{Alone, answered, told};

    fn hello(node: u64, epoch: u8, versions: (u8, u8)) -> Hello {
        Hello { node: NodeId(node), epoch: StoreEpoch::from_bytes([epoch; 16]), versions }
    }

    /// What the two ends of a stream make of each other.
    async fn greeted(one: Hello, other: Hello) -> [Result<(NodeId, u8), LinkError>; 2] {
        let (a, b) = tokio::io::duplex(1024);
        let (mut a, mut b): (BoxStream, BoxStream) = (Box::new(a), Box::new(b));
        let (mut from_a, mut from_b) = (BytesMut::new(), BytesMut::new());
        let (a, b) = tokio::join!(greet(&mut a, &mut from_a, one), greet(&mut b, &mut from_b, other));
        [a, b]
    }

    #[tokio::test]
    async fn only_a_node_of_the_same_store_that_speaks_the_same_is_greeted() {
        let mine = hello(1, 7, VERSIONS);
        let (min, max) = VERSIONS;
        for (versions, version) in [(VERSIONS, max), ((max, max + 3), max), ((1, 1), 1), ((1, 2), 2)] {
            let [theirs, ours] = greeted(mine, hello(2, 7, versions)).await;
            let agreed = (theirs.expect("one in common"), ours.expect("one in common"));
            assert_eq!(agreed, ((NodeId(2), version), (NodeId(1), version)), "{versions:?}");
        }

        let other_store = greeted(mine, hello(2, 8, VERSIONS)).await;
        assert!(matches!(other_store, [Err(LinkError::OtherStore), Err(LinkError::OtherStore)]));
        let too_new = greeted(mine, hello(2, 7, (max + 1, max + 2))).await;
        let [Err(LinkError::NoVersion(theirs_min, theirs_max)), Err(LinkError::NoVersion(..))] = too_new
        else {
            panic!("{too_new:?}")
        };
        assert_eq!((theirs_min, theirs_max), (max + 1, max + 2));
        let too_old = greeted(mine, hello(2, 7, (min - 1, min - 1))).await;
        assert!(matches!(too_old, [Err(LinkError::NoVersion(..)), Err(LinkError::NoVersion(..))]));
    }

    #[tokio::test]
    async fn who_says_something_else_first_is_not_greeted() {
        let (a, mut b) = tokio::io::duplex(1024);
        let (mut a, mut input): (BoxStream, _) = (Box::new(a), BytesMut::new());
        let mut first = BytesMut::new();
        Message::Taken(1).encode(&mut first);
        b.write_all(&first).await.expect("there is room");
        let answer = greet(&mut a, &mut input, hello(1, 7, VERSIONS)).await;
        assert!(matches!(answer, Err(LinkError::Malformed(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn who_hears_that_news_were_lost_asks_the_store() {
        let turn = async {
            let store = Memory::new();
            let here = Alone::on(store.clone());
            let list = RequestBody::ListConversations(ListConversations { after: None, limit: 1 });
            let mut client = here.client("alice", [list]).await;
            answered(&mut client, 2).await;
            let is_told = sends_unheard(&store).await;
            let state = LinkState::new(here.shard.now().mono, 1);
            let link = Link::new(&here.shard.node, NodeId(2), &state, VERSIONS.1);
            link.on_message(Message::Lost(here.shard.now().wall)).await;
            told(&mut client, is_told).await;
        };
        let waited = LocalSet::new().run_until(timeout(Duration::from_secs(30), turn)).await;
        waited.expect("alice is told of what is in the store");
    }
}
