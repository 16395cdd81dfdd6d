//! How shards talk: bounded mailboxes, and a rule for what happens when one is full.
//!
//! | lane | what | when it is full |
//! |---|---|---|
//! | requests | appends, marks to an owner | the client is told `overloaded` |
//! | replies | answers from an owner | cannot be: the asker reserves the place before it asks |
//! | events | pushes, receipts, heads | pushes become "head moved", which is told again later; receipts are lost |
//! | homes | logins, ends and takeovers of connections | the sender keeps them and tries again at its next tick |

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tern_core::conversation::{Append, Mark, Publication};
use tern_core::dedup::Refusal;
use tern_core::home::{Located, Login, SessionId};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ConversationId, DeviceId, NodeId, RequestId, Seq, UserId};
use tern_protocol::model::WallMillis;
use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;

use crate::clock::Stamp;
use crate::cluster::Delivery;

/// Requests that wait at a shard.
pub const REQUESTS_MAX: usize = 16 * 1024;
/// Answers that a shard awaits from other shards.
pub const REPLIES_MAX: usize = 64 * 1024;
/// Events that wait at a shard; each is shared and small.
pub const EVENTS_MAX: usize = 16 * 1024;
/// Logins, ends and takeovers of connections that wait at a shard.
pub const HOMES_MAX: usize = 16 * 1024;

/// Bytes of requests that wait for an owner or for the store, on all shards together; more are refused as overloaded.
/// A stalled disk then costs this much memory and not the machine's.
pub const WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What anything that waits costs beside its payload.
const ITEM_BYTES: usize = 512;

/// What an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A send, and when it came.
    Send(RequestId, Stamp),
    /// One watermark of a `Mark`, by the connection's own number for that request.
    Mark(u64),
    /// Either, asked by another node, by its number on the link.
    Link(u64),
    /// A watermark, asked by another node that is in no hurry, by its number on the link.
    LinkLater(u64),
    /// A watermark that the shard keeps until another node has persisted it, by the shard's number for it.
    Kept(u64),
}

/// The way back to whoever asked.
#[derive(Debug)]
pub struct Ticket {
    /// The connection.
    pub session: SessionId,
    /// What it asked.
    pub question: Question,
    /// A place in its shard's mailbox, when that is another one.
    pub place: Option<OwnedPermit<Reply>>,
    /// What it counts of the node's budget, until it is answered.
    pub _charge: Charge,
}

/// Bytes that may wait.
#[derive(Debug, Clone)]
pub struct Budget {
    taken: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Budget {
    /// Of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { taken: Arc::default(), bytes_max }
    }

    /// Takes this much, if it is there. Each counts with a fixed size too, so that many small ones add up.
    pub fn charge(&self, bytes: usize) -> Option<Charge> {
        let bytes = bytes + ITEM_BYTES;
        let charge = Charge { bytes, budget: self.clone() };
        // Taken back by the drop when it was too much.
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        (before + bytes <= self.bytes_max).then_some(charge)
    }

    /// What is taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A part of the budget; dropping it gives it back.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    budget: Budget,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The connection.
    pub session: SessionId,
    /// What it asked.
    pub question: Question,
    /// What the owner says.
    pub answer: Answer,
}

/// What an owner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To a send.
    Sent(Result<SendOk, Refusal>),
    /// To a watermark.
    Marked(Result<(), ErrorCode>),
}

/// For the owner of a conversation.
#[derive(Debug)]
pub enum OwnerRequest {
    /// Append.
    Append(ConversationId, Append<Ticket>),
    /// Take a watermark.
    Mark(ConversationId, Mark<Ticket>),
}

/// What connections are told.
#[derive(Debug, Clone)]
pub enum News {
    /// New entries, and when they had become durable.
    Publish(Arc<Publication>, Stamp),
    /// New entries that are not at hand.
    HeadMoved {
        /// Of which log.
        conversation: ConversationId,
        /// The newest.
        head: Seq,
        /// Whom to tell.
        audience: Arc<[UserId]>,
    },
    /// A frame for each of some users.
    Notify(Arc<Vec<(UserId, Bytes)>>),
}

/// For the connections of a shard, or to be passed on by it.
#[derive(Debug, Clone)]
pub enum Event {
    /// For its connections.
    News(News),
    /// From another node: for everybody whom it concerns.
    Arrived(Delivery),
    /// For the nodes on which users are connected whose homes are on this shard, but for the one where it came from.
    Forward(News, NodeId),
    /// News that did not get to a node.
    Undelivered(NodeId, Delivery),
}

/// To and from the home of a user; none may be lost.
#[derive(Debug, Clone, Copy)]
pub enum HomeRequest {
    /// A device has logged in.
    Register(UserId, DeviceId, Located, Login),
    /// A connection has ended.
    Unregister(UserId, Located),
    /// From a home to the shard of a connection: its device has logged in elsewhere; `true`: for certain.
    Displace(SessionId, bool),
    /// From the home on another node to the shard of a connection: it is known there.
    Registered(SessionId),
    /// To all homes: another node tells anew who is connected to it.
    Forget(NodeId),
    /// To all shards: news for their connections may have been lost since then.
    Recheck(WallMillis),
}

/// The sending ends of a shard's mailbox.
#[derive(Debug, Clone)]
pub struct Mailbox {
    /// To the owners.
    pub requests: mpsc::Sender<OwnerRequest>,
    /// To whoever asked.
    pub replies: mpsc::Sender<Reply>,
    /// To the connections.
    pub events: mpsc::Sender<Event>,
    /// To the homes.
    pub homes: mpsc::Sender<HomeRequest>,
}

/// The receiving ends.
#[derive(Debug)]
pub struct Inbox {
    /// For the owners.
    pub requests: mpsc::Receiver<OwnerRequest>,
    /// For whoever asked.
    pub replies: mpsc::Receiver<Reply>,
    /// For the connections.
    pub events: mpsc::Receiver<Event>,
    /// For the homes.
    pub homes: mpsc::Receiver<HomeRequest>,
}

impl Mailbox {
    /// For each lane: its name, the places that are taken, and all places.
    pub fn lanes(&self) -> [(&'static str, usize, usize); 4] {
        fn lane<T>(name: &'static str, sender: &mpsc::Sender<T>) -> (&'static str, usize, usize) {
            (name, sender.max_capacity() - sender.capacity(), sender.max_capacity())
        }
        [
            lane("requests", &self.requests),
            lane("replies", &self.replies),
            lane("events", &self.events),
            lane("homes", &self.homes),
        ]
    }
}

/// Both ends of a new mailbox.
pub fn mailbox() -> (Mailbox, Inbox) {
    let (requests, requests_in) = mpsc::channel(REQUESTS_MAX);
    let (replies, replies_in) = mpsc::channel(REPLIES_MAX);
    let (events, events_in) = mpsc::channel(EVENTS_MAX);
    let (homes, homes_in) = mpsc::channel(HOMES_MAX);
    let inbox = Inbox { requests: requests_in, replies: replies_in, events: events_in, homes: homes_in };
    (Mailbox { requests, replies, events, homes }, inbox)
}
