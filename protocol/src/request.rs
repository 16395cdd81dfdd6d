//! What a client can ask, as parsed and within the limits.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use crate::model::{Change, Target};

/// One request with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Not 0, except for a `Mark` that wants no answer.
    pub id: RequestId,
    /// What is asked.
    pub body: RequestBody,
}

/// The requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    /// The first on every connection.
    Login(Login),
    /// Append an entry.
    Send(Send),
    /// Raise watermarks.
    Mark(Vec<Mark>),
    /// What happened since?
    Sync(Sync),
    /// A page of a log.
    History(History),
    /// The conversation list.
    ListConversations(ListConversations),
    /// A group's members.
    ListMembers(ListUsers),
    /// Members' watermarks.
    ListReceipts(ListUsers),
}

/// Who connects.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Signed token, at most `TOKEN_BYTES_MAX`, not verified yet.
    pub token: String,
    /// The installation.
    pub device: DeviceId,
    /// Versions the client speaks, first and last.
    pub versions: (u32, u32),
    /// Optional parts the client knows.
    pub features: Vec<u32>,
    /// The client's name, for logs.
    pub client: String,
}

/// Without the token, which must never reach a log.
impl core::fmt::Debug for Login {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Login")
            .field("device", &self.device)
            .field("versions", &self.versions)
            .field("features", &self.features)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// Append an entry, at most once per (conversation, device, client_seq).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Where.
    pub target: Target,
    /// The device's number for it, at least 1.
    pub client_seq: ClientSeq,
    /// What.
    pub change: Change,
}

/// Watermarks of one conversation; at least one of them is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where.
    pub conversation: ConversationId,
    /// This device has stored everything up to here; at least `read`.
    pub delivered: Seq,
    /// The user has seen everything up to here; 0: not said.
    pub read: Seq,
}

/// What the device has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Sorted by conversation, none twice.
    pub known: Vec<Known>,
    /// Only ids above this one.
    pub after: Option<ConversationId>,
    /// Only ids up to and including this one.
    pub until: Option<ConversationId>,
    /// For unknown conversations: this many of the last entries; `None`: from the floor.
    pub latest: Option<u32>,
}

/// What the device has of one conversation. Watermarks: 0 when it knows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub conversation: ConversationId,
    /// It has every entry up to this one.
    pub seq: Seq,
    /// The user's own read watermark, whichever device set it.
    pub read: Seq,
    /// Direct chats.
    pub peer_delivered: Seq,
    /// Direct chats.
    pub peer_read: Seq,
}

impl Known {
    /// These entries, and nothing of watermarks.
    pub const fn entries(conversation: ConversationId, seq: Seq) -> Self {
        Self { conversation, seq, read: Seq(0), peer_delivered: Seq(0), peer_read: Seq(0) }
    }
}

/// A page of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Which.
    pub conversation: ConversationId,
    /// Where to start and which way to go.
    pub from: HistoryFrom,
    /// At most this many entries, 1 to `HISTORY_ENTRIES_MAX`.
    pub limit: u32,
}

/// Where a page starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryFrom {
    /// The first entry wanted, and those after it.
    Forward(Seq),
    /// The last entry wanted (`None`: the newest), and those before it.
    Backward(Option<Seq>),
}

/// A page of the conversation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListConversations {
    /// Only ids above this one.
    pub after: Option<ConversationId>,
    /// 1 to `PAGE_ROWS_MAX`.
    pub limit: u32,
}

/// A page of a conversation's members or of their watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListUsers {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Only ids above this one.
    pub after: Option<UserId>,
    /// 1 to `PAGE_ROWS_MAX`.
    pub limit: u32,
}
