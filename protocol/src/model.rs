//! What a conversation is made of: the vocabulary that `core` decides in, `store` keeps and the wire shows.
//! Plain data; the rules are in `tern-core`, the bytes in `tern-store`.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};

/// Milliseconds since 1970 by the server's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallMillis(pub u64);

/// Direct chat or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Two users (or one with themselves); exists with its first message; its members never change.
    Direct,
    /// Created by its first entry; members come and go by entries.
    Group,
}

/// What a member of a group may do; each role may all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Send, leave.
    Member,
    /// Add members, remove those of lower role, set the title.
    Admin,
    /// Set roles. A group has one owner as long as it has members.
    Owner,
}

/// What is fixed or rarely changes about a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Direct chat or group.
    pub kind: Kind,
    /// Groups: the title, at most `TITLE_BYTES_MAX`. Direct chats: empty.
    pub title: String,
}

/// Where a conversation's log stands: the fence that every append checks and moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// The newest entry; 0 when there is none.
    pub last: Seq,
    /// The first entry that is still kept; 1 when nothing was trimmed, also for an empty log.
    pub floor: Seq,
    /// When the newest entry took its number; never falls.
    pub time: WallMillis,
}

/// A user's membership of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// Groups: what they may do (or could, before it ended). Direct chats: `Member`.
    pub role: Role,
    /// The first entry that they may see: the one that made them a member.
    pub joined: Seq,
    /// The last entry that they may see: the one that ended it. `None` as long as it lasts.
    pub left: Option<Seq>,
}

impl Membership {
    /// Whether it lasts.
    pub fn is_active(&self) -> bool {
        self.left.is_none()
    }

    /// The seqs that the member may see of a log with this head: first and last, both included.
    /// Nothing is visible when first > last; then first is last + 1, so that the floor of a log which went on without
    /// a former member tells them nothing.
    pub fn visible(&self, head: &Head) -> (Seq, Seq) {
        let last = self.left.unwrap_or(head.last);
        (self.joined.max(head.floor).min(last.next()), last)
    }
}

/// What a device has sent to a conversation lately: the highest number, and the seqs that the last
/// `SEND_WINDOW` sends got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SendWindow {
    /// (client_seq, seq), both rising; at most `SEND_WINDOW`, the oldest first.
    pub sends: Vec<(ClientSeq, Seq)>,
}

/// How far a user's devices have received and the user has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// Every entry up to this one is on at least one device.
    pub delivered: Seq,
    /// Every entry up to this one was seen; never above `delivered`.
    pub read: Seq,
}

/// An opaque message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// At most `CONTENT_TYPE_BYTES_MAX`.
    pub content_type: String,
    /// At most `PAYLOAD_BYTES_MAX`.
    pub payload: Bytes,
    /// The message that this one answers, earlier in the same log.
    pub reply_to: Option<Seq>,
}

/// What a send asks for and an entry records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A message.
    Message(Message),
    /// The group begins; its sender is the owner.
    Create {
        /// The title.
        title: String,
        /// The members besides the owner; none twice.
        members: Vec<UserId>,
    },
    /// Users become members. In a request some may be members already; in an entry none was.
    Add {
        /// At least one; none twice.
        members: Vec<UserId>,
    },
    /// A member is removed by another.
    Remove {
        /// Who.
        member: UserId,
    },
    /// The sender leaves.
    Leave,
    /// A new title.
    Title {
        /// It.
        title: String,
    },
    /// A member gets another role. Role `Owner` hands ownership over; the sender becomes an admin.
    Role {
        /// Who.
        member: UserId,
        /// What they are from here on.
        role: Role,
    },
    /// An entry of a kind that this version does not know, from a newer server: it counts, it cannot be shown. No
    /// request parses to it and no server makes it.
    Unknown,
}

impl Change {
    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        match self {
            Self::Message(message) => message.content_type.len() + message.payload.len(),
            Self::Create { title, members } => title.len() + members.len() * size_of::<UserId>(),
            Self::Add { members } => members.len() * size_of::<UserId>(),
            Self::Title { title } => title.len(),
            Self::Remove { .. } | Self::Leave | Self::Role { .. } | Self::Unknown => 0,
        }
    }
}

/// Who sends, from which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    /// The user of the token.
    pub user: UserId,
    /// The device of the login.
    pub device: DeviceId,
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// When it took its number.
    pub time: WallMillis,
    /// Who caused it.
    pub sender: Sender,
    /// Under which number of theirs.
    pub client_seq: ClientSeq,
    /// What it says.
    pub change: Change,
}

/// Where a send goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A conversation by its id.
    Conversation(ConversationId),
    /// The direct chat with a user.
    User(UserId),
}
