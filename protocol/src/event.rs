//! What a server answers and tells, before it is encoded and after a client has parsed it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::ErrorCode;
use crate::ids::{ClientSeq, ConversationId, RequestId, Seq, StoreEpoch, UserId};
use crate::model::{Entry, Kind, Role, WallMillis};

/// One frame from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// The request that it answers; 0: an event.
    pub id: RequestId,
    /// What it says.
    pub body: ServerBody,
}

/// Answers and events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerBody {
    /// The request failed, or the connection is about to be closed (id 0).
    Error(WireError),
    /// Logged in.
    LoginOk(LoginOk),
    /// Stored, durably.
    SendOk(SendOk),
    /// Watermarks taken.
    MarkOk,
    /// What the device missed.
    SyncPage(SyncPage),
    /// Part of a log.
    HistoryPage(HistoryPage),
    /// Part of the conversation list.
    ConversationPage(ConversationPage),
    /// Part of a group's members.
    MemberPage(MemberPage),
    /// Part of a conversation's watermarks.
    ReceiptPage(ReceiptPage),
    /// A new entry.
    Push {
        /// Of which log.
        conversation: ConversationId,
        /// It.
        entry: Entry,
    },
    /// New entries that are not pushed.
    HeadMoved {
        /// Of which log.
        conversation: ConversationId,
        /// The newest that this user may see.
        head: Seq,
    },
    /// Watermarks rose.
    ReceiptsMoved(ReceiptsMoved),
    /// The server closes soon.
    GoingAway {
        /// Wait this long before connecting again.
        reconnect_after_ms: u32,
        /// Where to connect to, in this order, before the addresses that the client knows: `host:port`. At most
        /// [`TARGETS_MAX`](crate::limits::TARGETS_MAX) of [`TARGET_BYTES_MAX`](crate::limits::TARGET_BYTES_MAX).
        targets: Vec<String>,
    },
    /// An answer of a kind that this version does not know, from a newer server: its request has failed, with an
    /// unknown effect. No server makes it.
    Unknown,
}

/// An error as a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    /// Which.
    pub code: ErrorCode,
    /// For people.
    pub text: String,
    /// Do not try again sooner.
    pub retry_after_ms: u32,
    /// When the send's number is at fault: the highest that the server has of this device in this
    /// conversation; 0: not said.
    pub client_seq: ClientSeq,
}

/// What the session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginOk {
    /// Who the token says this is.
    pub user: UserId,
    /// Spoken from here on.
    pub version: u32,
    /// Known to both ends.
    pub features: Vec<u32>,
    /// The server's clock.
    pub time: WallMillis,
    /// Send something at least this often.
    pub heartbeat_ms: u32,
    /// Unanswered requests allowed.
    pub in_flight_max: u32,
    /// Which history the server's store holds; `None`: a server that does not say.
    pub epoch: Option<StoreEpoch>,
}

/// Where a send ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendOk {
    /// Of a direct chat: its id, computed.
    pub conversation: ConversationId,
    /// Its number.
    pub seq: Seq,
    /// When it took it.
    pub time: WallMillis,
    /// An earlier try had stored it.
    pub duplicate: bool,
}

/// What the device missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncPage {
    /// In the order of their ids.
    pub conversations: Vec<ConversationState>,
    /// `None`: everything asked for is covered. Otherwise ask again with `after` set to this.
    pub covered_until: Option<ConversationId>,
}

/// A conversation as one user sees it. Shapes and units are those of `tern.proto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationState {
    /// Which.
    pub conversation: ConversationId,
    /// Direct chat or group.
    pub kind: Kind,
    /// Groups; empty when the membership has ended, since the title may have changed after that.
    pub title: String,
    /// Direct chats.
    pub peer: Option<UserId>,
    /// The last seq this user may see.
    pub head: Seq,
    /// The first seq this user can get.
    pub floor: Seq,
    /// This user's read watermark.
    pub read: Seq,
    /// Direct chats.
    pub peer_delivered: Seq,
    /// Direct chats.
    pub peer_read: Seq,
    /// `None`: the membership has ended.
    pub role: Option<Role>,
    /// Sync: those missed; list: the last one.
    pub entries: Vec<Entry>,
    /// Sync: complete up to here, from max(floor, known + 1) on; a conversation that was not named, from the first of
    /// `entries` on.
    pub complete_to: Seq,
    /// List: up to `UNREAD_COUNT_MAX`.
    pub unread: u32,
    /// Of the last entry.
    pub time: WallMillis,
}

/// Part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// Which.
    pub conversation: ConversationId,
    /// The last seq this user may see.
    pub head: Seq,
    /// The first seq this user can get.
    pub floor: Seq,
    /// Rising, without a gap.
    pub entries: Vec<Entry>,
}

/// Part of the conversation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationPage {
    /// In the order of their ids.
    pub conversations: Vec<ConversationState>,
    /// `None`: no more.
    pub next: Option<ConversationId>,
}

/// Part of a group's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPage {
    /// In the order of their ids: user, role, the entry that made them a member.
    pub members: Vec<(UserId, Role, Seq)>,
    /// `None`: no more.
    pub next: Option<UserId>,
    /// In all.
    pub count: u32,
}

/// Part of a conversation's watermarks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptPage {
    /// In the order of their ids.
    pub receipts: Vec<UserReceipt>,
    /// `None`: no more.
    pub next: Option<UserId>,
}

/// How far one user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserReceipt {
    /// Who.
    pub user: UserId,
    /// On a device of theirs.
    pub delivered: Seq,
    /// Seen by them.
    pub read: Seq,
}

/// How many of the other members are at or beyond an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptCount {
    /// The entry.
    pub seq: Seq,
    /// Have it.
    pub delivered: u32,
    /// Have seen it.
    pub read: u32,
    /// In all, without the sender.
    pub members: u32,
}

/// Watermarks rose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptsMoved {
    /// Where.
    pub conversation: ConversationId,
    /// The peer's, or this user's own.
    pub users: Vec<UserReceipt>,
    /// Groups.
    pub counts: Vec<ReceiptCount>,
}
