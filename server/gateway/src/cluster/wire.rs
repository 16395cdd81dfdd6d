//! What nodes say to each other: protobuf messages in the frames that clients' connections have too.
//!
//! The first message of each side is a [`Hello`]. What a client has asked travels as the client's own message, and so does
//! its answer, so there is one parser for both. Tags are never used again; what a version does not know is skipped.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tern_core::conversation::{Append, Mark, Publication};
use tern_core::dedup::Refusal;
use tern_core::home::{Login, SessionId};
use tern_core::routing::ShardId;
use tern_protocol::convert::{encode_request, encode_server, parse_request, parse_server};
use tern_protocol::event::{ServerBody, ServerMessage, WireError};
use tern_protocol::frame;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, NodeId, RequestId, Seq, StoreEpoch, UserId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::{Sender, Target, WallMillis};
use tern_protocol::request::{self, Request, RequestBody};

use super::{Delivery, Stage};
use crate::clock::Stamp;
use crate::mailbox::{Answer, News, OwnerRequest, Question, Ticket};

/// The lowest and the highest version of this protocol that this program speaks: its own, and that of the release before.
pub const VERSIONS: (u8, u8) = (1, 2);
/// From this version on nodes say how they are ([`Message::Pulse`]), and confirm watermarks for which no client waits.
pub const PULSES: u8 = 2;
/// From this version on a node that has dropped news before its first link to another one says so ([`Message::Lost`]).
pub const FIRST_LOSSES: u8 = 2;
/// Of a connection that has ended.
const NO_LOGIN: Login = Login { since: WallMillis(0), is_fresh: false };
/// Bytes of an id of a user or a conversation.
const ID: usize = 16;

/// What is wrong with a message: the other node is broken, or no node. Nothing of it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message of a node: {0}")]
pub struct Malformed(&'static str);

/// The first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Who speaks.
    pub node: NodeId,
    /// Which history its store holds.
    pub epoch: StoreEpoch,
    /// The versions that it speaks.
    pub versions: (u8, u8),
}

/// A request for an owner on another node, without the way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Given back with the answer; 0: none is wanted.
    pub number: u64,
    /// Who asks.
    pub sender: Sender,
    /// A send, or one watermark.
    pub body: AskBody,
    /// Nobody waits for the answer: it may come when a watermark is persisted anyway.
    pub later: bool,
}

/// How a node is, once a second. Times of others are given back as they came, so no two clocks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulse {
    /// When it says so, in microseconds by a clock of its own.
    pub at: u64,
    /// The `at` of the other side's last pulse; 0: none has come.
    pub echo: u64,
    /// Microseconds since that has come.
    pub held: u64,
    /// Milliseconds since it began the last beat that it has written.
    pub beaten: u64,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskBody {
    /// Append.
    Send(request::Send),
    /// Take a watermark.
    Mark(request::Mark),
}

/// A message after the first.
#[derive(Debug, Clone)]
pub enum Message {
    /// For an owner.
    Ask(Ask),
    /// From an owner.
    Answer(u64, Answer),
    /// For connections, by its number on this link, from 1 on; 0: it may be lost.
    Deliver(u64, Delivery),
    /// All deliveries up to this one are in good hands.
    Taken(u64),
    /// To the home of a user: a device has logged in there.
    Register(UserId, DeviceId, SessionId, Login),
    /// To where a device has logged in: the home knows.
    Registered(SessionId),
    /// To the home of a user: a connection has ended.
    Unregister(UserId, SessionId),
    /// From a home: the device of this connection has logged in elsewhere; `true`: for certain.
    Displace(SessionId, bool),
    /// News for connections of the node that gets this have been lost since then.
    Lost(WallMillis),
    /// From version 2 on.
    Pulse(Pulse),
}

mod pb {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Hello {
        #[prost(fixed64, tag = "1")]
        pub node: u64,
        #[prost(bytes = "bytes", tag = "2")]
        pub epoch: Bytes,
        #[prost(uint32, tag = "3")]
        pub version_min: u32,
        #[prost(uint32, tag = "4")]
        pub version_max: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Link {
        #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
        pub body: Option<Body>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Body {
        #[prost(message, tag = "1")]
        Ask(Ask),
        /// A client's answer, by the number of the question.
        #[prost(bytes = "bytes", tag = "2")]
        Answer(Bytes),
        #[prost(message, tag = "3")]
        Deliver(Deliver),
        #[prost(uint64, tag = "4")]
        Taken(u64),
        #[prost(message, tag = "5")]
        Register(Register),
        #[prost(message, tag = "6")]
        Registered(Session),
        #[prost(message, tag = "7")]
        Unregister(Register),
        #[prost(message, tag = "8")]
        Displace(Displace),
        #[prost(uint64, tag = "9")]
        Lost(u64),
        #[prost(message, tag = "10")]
        Pulse(Pulse),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Ask {
        #[prost(bytes = "bytes", tag = "1")]
        pub user: Bytes,
        #[prost(fixed64, tag = "2")]
        pub device: u64,
        /// A client's request, by the number of the question.
        #[prost(bytes = "bytes", tag = "3")]
        pub request: Bytes,
        #[prost(bool, tag = "4")]
        pub later: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Pulse {
        #[prost(uint64, tag = "1")]
        pub at: u64,
        #[prost(uint64, tag = "2")]
        pub echo: u64,
        #[prost(uint64, tag = "3")]
        pub held: u64,
        #[prost(uint64, tag = "4")]
        pub beaten: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Deliver {
        #[prost(uint64, tag = "1")]
        pub number: u64,
        /// 0: to the connections of the node that gets it; above: to the users' homes, the how manieth try to find them.
        #[prost(uint32, tag = "2")]
        pub homes: u32,
        #[prost(fixed64, tag = "3")]
        pub origin: u64,
        #[prost(bytes = "bytes", tag = "4")]
        pub conversation: Bytes,
        /// With entries: their numbers. Without: the one number of the head.
        #[prost(uint64, repeated, tag = "5")]
        pub seqs: Vec<u64>,
        #[prost(bytes = "bytes", repeated, tag = "6")]
        pub frames: Vec<Bytes>,
        /// Ids of users, one after the other. Without a conversation there is a frame for each.
        #[prost(bytes = "bytes", tag = "7")]
        pub users: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Session {
        #[prost(uint32, tag = "1")]
        pub shard: u32,
        #[prost(uint64, tag = "2")]
        pub number: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Register {
        #[prost(bytes = "bytes", tag = "1")]
        pub user: Bytes,
        #[prost(fixed64, tag = "2")]
        pub device: u64,
        #[prost(message, optional, tag = "3")]
        pub session: Option<Session>,
        #[prost(uint64, tag = "4")]
        pub since: u64,
        #[prost(bool, tag = "5")]
        pub is_fresh: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Displace {
        #[prost(message, optional, tag = "1")]
        pub session: Option<Session>,
        #[prost(bool, tag = "2")]
        pub is_certain: bool,
    }
}

fn bytes_of(id: &[u8; ID]) -> Bytes {
    Bytes::copy_from_slice(id)
}

fn user_of(id: &[u8]) -> Result<UserId, Malformed> {
    UserId::try_from(id).map_err(|_| Malformed("a user's id has 16 bytes"))
}

fn conversation_of(id: &[u8]) -> Result<ConversationId, Malformed> {
    ConversationId::try_from(id).map_err(|_| Malformed("a conversation's id has 16 bytes"))
}

fn device_of(id: u64) -> Result<DeviceId, Malformed> {
    DeviceId::new(id).ok_or(Malformed("a device's id is not 0"))
}

fn session_of(session: Option<pb::Session>) -> Result<SessionId, Malformed> {
    let pb::Session { shard, number } = session.ok_or(Malformed("a connection is missing"))?;
    let shard = u16::try_from(shard).map_err(|_| Malformed("no such shard"))?;
    Ok(SessionId { shard: ShardId(shard), number })
}

fn session(session: SessionId) -> pb::Session {
    pb::Session { shard: u32::from(session.shard.0), number: session.number }
}

/// Appends a [`Message::Deliver`], with its length.
pub fn encode_delivery(number: u64, delivery: &Delivery, out: &mut BytesMut) {
    frame::encode_into(&pb::Link { body: Some(pb::Body::Deliver(deliver(number, delivery))) }, out);
}

/// The message in a frame with its length, as clients' messages are encoded.
fn unframed(framed: Bytes) -> Bytes {
    let length = framed.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    framed.slice(length..)
}

impl Hello {
    /// Appends it, with its length.
    pub fn encode(&self, out: &mut BytesMut) {
        let hello = pb::Hello {
            node: self.node.0,
            epoch: bytes_of(self.epoch.as_bytes()),
            version_min: u32::from(self.versions.0),
            version_max: u32::from(self.versions.1),
        };
        frame::encode_into(&hello, out);
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(message: Bytes) -> Result<Self, Malformed> {
        let hello: pb::Hello =
            prost::Message::decode(message).map_err(|_| Malformed("not a Hello in protobuf"))?;
        let epoch = StoreEpoch::try_from(&hello.epoch[..]);
        // Versions above those that fit are the newest that there can be.
        let version = |version| u8::try_from(version).unwrap_or(u8::MAX);
        Ok(Self {
            node: NodeId(hello.node),
            epoch: epoch.map_err(|_| Malformed("an epoch has 16 bytes"))?,
            versions: (version(hello.version_min), version(hello.version_max)),
        })
    }

    /// The highest version that both sides speak.
    pub fn agree(&self, other: &Self) -> Option<u8> {
        let (min, max) = (self.versions.0.max(other.versions.0), self.versions.1.min(other.versions.1));
        (min <= max).then_some(max)
    }
}

impl Message {
    /// Appends it, with its length.
    pub fn encode(&self, out: &mut BytesMut) {
        frame::encode_into(&pb::Link { body: Some(self.body()) }, out);
    }

    fn body(&self) -> pb::Body {
        let register = |user: &UserId, device: u64, id: &SessionId, login: Login| pb::Register {
            user: bytes_of(user.as_bytes()),
            device,
            session: Some(session(*id)),
            since: login.since.0,
            is_fresh: login.is_fresh,
        };
        match self {
            Self::Ask(Ask { number, sender, body, later }) => {
                let body = match body {
                    AskBody::Send(send) => RequestBody::Send(send.clone()),
                    AskBody::Mark(mark) => RequestBody::Mark(vec![*mark]),
                };
                pb::Body::Ask(pb::Ask {
                    user: bytes_of(sender.user.as_bytes()),
                    device: sender.device.get(),
                    request: unframed(encode_request(&Request { id: RequestId(*number), body })),
                    later: *later,
                })
            }
            Self::Answer(number, answer) => {
                let error = |code, highest: Option<ClientSeq>| {
                    let client_seq = highest.unwrap_or(ClientSeq(0));
                    ServerBody::Error(WireError { code, text: String::new(), retry_after_ms: 0, client_seq })
                };
                let body = match answer {
                    Answer::Sent(Ok(ok)) => ServerBody::SendOk(*ok),
                    Answer::Sent(Err(refusal)) => error(refusal.code, refusal.highest),
                    Answer::Marked(Ok(())) => ServerBody::MarkOk,
                    Answer::Marked(Err(code)) => error(*code, None),
                };
                pb::Body::Answer(unframed(encode_server(&ServerMessage { id: RequestId(*number), body })))
            }
            Self::Deliver(number, delivery) => pb::Body::Deliver(deliver(*number, delivery)),
            Self::Taken(number) => pb::Body::Taken(*number),
            Self::Register(user, device, id, login) => {
                pb::Body::Register(register(user, device.get(), id, *login))
            }
            Self::Registered(id) => pb::Body::Registered(session(*id)),
            Self::Unregister(user, id) => pb::Body::Unregister(register(user, 0, id, NO_LOGIN)),
            Self::Displace(id, is_certain) => {
                pb::Body::Displace(pb::Displace { session: Some(session(*id)), is_certain: *is_certain })
            }
            Self::Lost(since) => pb::Body::Lost(since.0),
            Self::Pulse(Pulse { at, echo, held, beaten }) => {
                pb::Body::Pulse(pb::Pulse { at: *at, echo: *echo, held: *held, beaten: *beaten })
            }
        }
    }

    /// What a frame says; `None`: something that this version does not know.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(message: Bytes) -> Result<Option<Self>, Malformed> {
        let link: pb::Link =
            prost::Message::decode(message).map_err(|_| Malformed("not a Link in protobuf"))?;
        let Some(body) = link.body else { return Ok(None) };
        Ok(Some(match body {
            pb::Body::Ask(ask) => Self::Ask(ask_of(ask)?),
            pb::Body::Answer(answer) => {
                let (number, answer) = answer_of(answer)?;
                Self::Answer(number, answer)
            }
            pb::Body::Deliver(deliver) => Self::Deliver(deliver.number, delivery_of(deliver)?),
            pb::Body::Taken(number) => Self::Taken(number),
            pb::Body::Register(pb::Register { user, device, session, since, is_fresh }) => {
                let (user, device) = (user_of(&user)?, device_of(device)?);
                Self::Register(
                    user,
                    device,
                    session_of(session)?,
                    Login { since: WallMillis(since), is_fresh },
                )
            }
            pb::Body::Registered(id) => Self::Registered(session_of(Some(id))?),
            pb::Body::Unregister(pb::Register { user, session, .. }) => {
                Self::Unregister(user_of(&user)?, session_of(session)?)
            }
            pb::Body::Displace(pb::Displace { session, is_certain }) => {
                Self::Displace(session_of(session)?, is_certain)
            }
            pb::Body::Lost(since) => Self::Lost(WallMillis(since)),
            pb::Body::Pulse(pb::Pulse { at, echo, held, beaten }) => {
                Self::Pulse(Pulse { at, echo, held, beaten })
            }
        }))
    }
}

fn ask_of(ask: pb::Ask) -> Result<Ask, Malformed> {
    let sender = Sender { user: user_of(&ask.user)?, device: device_of(ask.device)? };
    let request = parse_request(ask.request).map_err(|_| Malformed("a request is no client's"))?;
    let body = match request.body {
        RequestBody::Send(send) => AskBody::Send(send),
        RequestBody::Mark(marks) => match marks[..] {
            [mark] => AskBody::Mark(mark),
            _ => return Err(Malformed("one watermark at a time")),
        },
        _ => return Err(Malformed("an owner is asked for no such thing")),
    };
    Ok(Ask { number: request.id.get(), sender, body, later: ask.later })
}

fn answer_of(answer: Bytes) -> Result<(u64, Answer), Malformed> {
    let message = parse_server(answer).map_err(|_| Malformed("an answer is no server's"))?;
    let ServerMessage { id, body } = message.ok_or(Malformed("an answer is none"))?;
    let answer = match body {
        ServerBody::SendOk(ok) => Answer::Sent(Ok(ok)),
        ServerBody::MarkOk => Answer::Marked(Ok(())),
        ServerBody::Error(WireError { code, client_seq, .. }) => {
            let highest = (client_seq.get() > 0).then_some(client_seq);
            Answer::Sent(Err(Refusal { code, highest }))
        }
        _ => return Err(Malformed("an owner gives no such answer")),
    };
    Ok((id.get(), answer))
}

fn deliver(number: u64, Delivery { stage, news }: &Delivery) -> pb::Deliver {
    let (homes, origin) = match stage {
        Stage::Connections => (0, NodeId(0)),
        Stage::Homes { tries, origin } => (u32::from(*tries), *origin),
    };
    let ids = |users: &mut dyn Iterator<Item = &UserId>| -> Bytes {
        users.flat_map(|user| user.as_bytes()).copied().collect::<Vec<_>>().into()
    };
    let mut deliver = pb::Deliver { number, homes, origin: origin.0, ..pb::Deliver::default() };
    match news {
        News::Publish(publication, _) => {
            deliver.conversation = bytes_of(publication.conversation.as_bytes());
            deliver.seqs = publication.frames.iter().map(|(seq, _)| seq.get()).collect();
            deliver.frames = publication.frames.iter().map(|(_, frame)| frame.clone()).collect();
            deliver.users = ids(&mut publication.audience.iter());
        }
        News::HeadMoved { conversation, head, audience } => {
            deliver.conversation = bytes_of(conversation.as_bytes());
            deliver.seqs = vec![head.get()];
            deliver.users = ids(&mut audience.iter());
        }
        News::Notify(frames) => {
            deliver.frames = frames.iter().map(|(_, frame)| frame.clone()).collect();
            deliver.users = ids(&mut frames.iter().map(|(user, _)| user));
        }
    }
    deliver
}

fn delivery_of(deliver: pb::Deliver) -> Result<Delivery, Malformed> {
    let pb::Deliver { homes, origin, conversation, seqs, frames, users, .. } = deliver;
    let stage = match u8::try_from(homes).map_err(|_| Malformed("too many tries"))? {
        0 => Stage::Connections,
        tries => Stage::Homes { tries, origin: NodeId(origin) },
    };
    let (ids, rest) = users.as_chunks::<ID>();
    if !rest.is_empty() {
        return Err(Malformed("a user's id has 16 bytes"));
    }
    let users = ids.iter().map(|id| UserId::from_bytes(*id));
    let news = if conversation.is_empty() {
        if frames.len() != ids.len() {
            return Err(Malformed("a frame for each user"));
        }
        News::Notify(Arc::new(users.zip(frames).collect()))
    } else {
        let conversation = conversation_of(&conversation)?;
        let audience: Arc<[UserId]> = users.collect();
        if !audience.is_sorted() {
            return Err(Malformed("users are sorted"));
        }
        let seqs = seqs.into_iter().map(Seq);
        match (frames.is_empty(), seqs.len()) {
            (true, 1) => {
                let head = seqs.max().unwrap_or_default();
                News::HeadMoved { conversation, head, audience }
            }
            (false, count) if count == frames.len() => {
                let frames = seqs.zip(frames).collect();
                let publication = Publication { conversation, frames, audience };
                News::Publish(Arc::new(publication), Stamp::take())
            }
            _ => return Err(Malformed("a number for each entry, or one")),
        }
    };
    Ok(Delivery { stage, news })
}

impl Ask {
    /// A request of a shard, without the way back.
    pub fn new(number: u64, request: OwnerRequest) -> (Self, Option<Ticket>) {
        match request {
            OwnerRequest::Append(conversation, Append { ticket, sender, peer, client_seq, change }) => {
                let target = peer.map_or(Target::Conversation(conversation), Target::User);
                let body = AskBody::Send(request::Send { target, client_seq, change });
                (Self { number, sender, body, later: false }, Some(ticket))
            }
            OwnerRequest::Mark(conversation, Mark { ticket, sender, delivered, read }) => {
                let body = AskBody::Mark(request::Mark { conversation, delivered, read });
                let number = if ticket.is_some() { number } else { 0 };
                let later =
                    ticket.as_ref().is_some_and(|ticket| matches!(ticket.question, Question::Kept(_)));
                (Self { number, sender, body, later }, ticket)
            }
        }
    }

    /// Which log it is about.
    pub fn conversation(&self) -> ConversationId {
        match &self.body {
            AskBody::Send(request::Send { target: Target::Conversation(id), .. }) => *id,
            AskBody::Send(request::Send { target: Target::User(peer), .. }) => {
                ConversationId::direct(self.sender.user, *peer)
            }
            AskBody::Mark(mark) => mark.conversation,
        }
    }

    /// The request, with a way back; `None`: a send that nobody waits for.
    pub fn into_request(self, ticket: Option<Ticket>) -> Option<OwnerRequest> {
        let (conversation, sender) = (self.conversation(), self.sender);
        Some(match self.body {
            AskBody::Send(request::Send { target, client_seq, change }) => {
                let peer = match target {
                    Target::User(peer) => Some(peer),
                    Target::Conversation(_) => None,
                };
                let ticket = ticket?;
                OwnerRequest::Append(conversation, Append { ticket, sender, peer, client_seq, change })
            }
            AskBody::Mark(request::Mark { delivered, read, .. }) => {
                OwnerRequest::Mark(conversation, Mark { ticket, sender, delivered, read })
            }
        })
    }
}

const _: () = assert!(VERSIONS.0 <= VERSIONS.1);
const _: () =
    assert!(tern_core::limits::BATCH_BYTES_MAX * 3 < FRAME_BYTES_MAX, "a publication fits into a frame");

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
