//! Several nodes on one store.
//!
//! ```text
//!   keeper   writes this node's lease, reads the others', holds a link to each        [a task of its own]
//!     |  View: which nodes there are, who owns what, whether there is a link
//!     v
//!   shards   hand requests to the owner's node, news to the homes of the users        `homes`, `news`
//!     |  lanes, bounded
//!     v
//!   peer     one for each other node: a link when there is one, else it gives back    [`peer`]; its numbers: `link`
//!     |  wire: frames of protobuf over any stream
//! ```
//!
//! Ownership is a hint. A node that cannot reach the owner is the owner: the transaction decides, and costs a conflict.
//!
//! **News of a log** go from the owner's node to its own connections and to the homes of all other members, and from there to
//! the nodes on which they are connected. Each step is numbered and taken over by the next one; what a broken link leaves open
//! is told again as the head alone, so nothing has to be kept in order or whole. Where a home cannot be reached, all nodes
//! are told.
//!
//! **Nothing is missed**, since a connection is registered with its user's home before its first query is answered; when the
//! home moves, or its node or a link to it begins anew, the connection is registered again, and then the store is asked
//! which of its logs have moved meanwhile. The same is done for everybody when a node has died, since it may not have told
//! what it had stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use tern_core::cluster::Reach;
use tern_core::home::{Login, SessionId};
use tern_core::routing::SlotMap;
use tern_protocol::ids::{ConversationId, DeviceId, NodeId, UserId};
use tern_protocol::model::WallMillis;
use tokio::sync::mpsc;

use crate::mailbox::{News, OwnerRequest};

pub mod handover;
mod homes;
pub mod keeper;
mod kept;
mod link;
pub mod member;
mod missed;
mod news;
pub mod peer;
pub mod quic;
mod roster;
mod ways;
pub mod wire;

pub use homes::{Farewell, Registration};
pub use kept::Kept;
pub use link::{LinkState, Waiting};
pub use missed::Rechecks;
pub use roster::{Member, Roster};
pub use ways::Ways;

/// Requests that wait for a link.
pub const REQUESTS_MAX: usize = 16 * 1024;
/// News that wait for a link; each is shared and small.
pub const NEWS_MAX: usize = 16 * 1024;
/// Logins and ends of connections that wait for a link.
pub const HOMES_MAX: usize = 16 * 1024;

/// For whom news are that one node tells another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The connections of the node that gets them.
    Connections,
    /// The nodes on which these users are connected, which their homes know.
    Homes {
        /// How often somebody has looked for the homes: views differ for a moment.
        tries: u8,
        /// Whose connections know already.
        origin: NodeId,
    },
}

/// News on their way to another node.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// For whom.
    pub stage: Stage,
    /// What.
    pub news: News,
}

/// To the home of a user, or from it.
#[derive(Debug, Clone, Copy)]
pub enum HomeMessage {
    /// See [`wire::Message::Register`].
    Register(UserId, DeviceId, SessionId, Login),
    /// See [`wire::Message::Registered`].
    Registered(SessionId),
    /// See [`wire::Message::Unregister`].
    Unregister(UserId, SessionId),
    /// See [`wire::Message::Displace`].
    Displace(SessionId, bool),
    /// See [`wire::Message::Lost`].
    Lost(WallMillis),
}

/// What a node has for another one.
#[derive(Debug, Clone)]
pub struct Lanes {
    /// For owners there.
    pub requests: mpsc::Sender<OwnerRequest>,
    /// For connections there, and for those whom homes there know.
    pub news: mpsc::Sender<Waiting>,
    /// For homes there.
    pub homes: mpsc::Sender<HomeMessage>,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The way to it.
    pub lanes: Lanes,
    /// What is known of the link.
    pub link: Arc<LinkState>,
    /// The number of its last link; no two links of a node have the same.
    pub links: u64,
    /// Whether there is one now.
    pub is_up: bool,
    /// Where clients reach it, if it says so.
    pub clients: Arc<[String]>,
}

/// What the shards know of the cluster.
#[derive(Debug, Clone)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// Who owns which slot.
    pub map: SlotMap<NodeId>,
    /// Others may come, though there may be none at the moment.
    pub in_cluster: bool,
    /// The others.
    pub peers: BTreeMap<NodeId, Peer>,
    /// How many nodes have gone so far: what they have told last may not have arrived.
    pub departures: u64,
    /// How it stands with the store.
    pub reach: Reach,
}

/// Where a user's home is, and since when: another one of these has to be told anew who is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeAt {
    /// The node.
    pub node: NodeId,
    /// The number of the last link to it.
    pub links: u64,
}

impl View {
    /// Of a node to which no others can come.
    pub fn single() -> Self {
        Self { in_cluster: false, ..Self::alone(NodeId(0)) }
    }

    /// Of a node of a cluster that has not heard of others.
    pub fn alone(me: NodeId) -> Self {
        Self {
            me,
            in_cluster: true,
            map: SlotMap::new(std::iter::once(me)),
            peers: BTreeMap::new(),
            departures: 0,
            reach: Reach::Reached,
        }
    }

    /// A node to which there is a link.
    pub fn up(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node).filter(|peer| peer.is_up)
    }

    /// The way to the owner of a conversation; `None`: it is this node, or none that can be reached.
    pub fn owner(&self, id: ConversationId) -> Option<&Peer> {
        if self.peers.is_empty() { None } else { self.up(self.map.owner(id)) }
    }

    /// Who is asked for a conversation: its owner, or this node when that cannot be reached.
    pub fn asked(&self, id: ConversationId) -> NodeId {
        let owner = self.map.owner(id);
        if self.up(owner).is_some() { owner } else { self.me }
    }

    /// The other nodes that own something: those that do not leave.
    pub fn others(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|(node, _)| self.map.has(node)).map(|(_, peer)| peer)
    }

    /// An address of each of them that has one for clients.
    pub fn targets(&self) -> Vec<&str> {
        self.others().filter_map(|peer| peer.clients.first()).map(String::as_str).collect()
    }

    /// Where a user's home is.
    pub fn home(&self, user: UserId) -> HomeAt {
        let node = self.map.home(user);
        HomeAt { node, links: self.peers.get(&node).map_or(0, |peer| peer.links) }
    }
}
