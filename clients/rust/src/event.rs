//! What a client tells its app.

use std::time::Duration;

use tern_protocol::event::{ConversationState, ReceiptsMoved, SendOk, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, StoreEpoch, UserId};
use tern_protocol::model::Entry;

/// One thing that happened, in the one order in which the app gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new entry: of each conversation every entry, once, in the order of their seqs.
    Entry {
        /// The log.
        conversation: ConversationId,
        /// It.
        entry: Entry,
    },
    /// The server no longer has these entries (retention), and this device had not got them.
    Trimmed {
        /// The log.
        conversation: ConversationId,
        /// The first missing.
        from: Seq,
        /// The last missing.
        to: Seq,
    },
    /// The server's store was restored from a backup, or is another one than before: nothing that this device has of
    /// any conversation can be trusted. Drop it all (a [`LocalHistory`](crate::LocalHistory) has been emptied already):
    /// everything follows, as for a new device. What waits to be sent stays and is sent. What the server had confirmed
    /// and has no more is lost; of this device's own messages,
    /// [`LocalHistory::lost`](crate::LocalHistory::lost) has those that it knew.
    HistoryReset {
        /// Of the store that the server has now.
        epoch: StoreEpoch,
    },
    /// The server's log of one conversation is shorter than what this device has, though the store says that it is the
    /// same one (as when its files were replaced by older ones): its head of this conversation is below what this
    /// device has. Drop what is kept of the conversation; everything from the floor follows, as if it were new.
    Reset {
        /// The log.
        conversation: ConversationId,
        /// Up to where this device had everything of the old log.
        cursor: Seq,
        /// Where the new one ends.
        head: Seq,
    },
    /// How a conversation stands, told by a sync when the device misses something of it, be it that watermarks rose
    /// while it was away: title, peer, role, watermarks, head. The watermarks are not below those of earlier events
    /// (since the last [`Event::HistoryReset`] or [`Event::Reset`]).
    /// Its entries come as [`Event::Entry`], so `entries` is empty here. Without a `role` the membership has ended and
    /// `title` is empty: keep the one that was known.
    Conversation(ConversationState),
    /// Watermarks rose while this device was online: somebody has received or read, or the user has read on another
    /// device.
    Receipts(ReceiptsMoved),
    /// The connection's state changed.
    Connection(ConnectionState),
    /// Everything the server had when the client came online has been handed over before this event.
    CaughtUp,
    /// A send that an earlier run of the app left behind has been decided.
    Recovered {
        /// Its log.
        conversation: ConversationId,
        /// The number that it went under at last.
        client_seq: ClientSeq,
        /// Stored, or refused for good.
        result: Result<SendOk, WireError>,
    },
}

/// Whether the client is online, and if not, what happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// Connecting or logging in.
    Connecting,
    /// Logged in.
    Online {
        /// As whom.
        user: UserId,
    },
    /// Not connected; the client tries again by itself.
    Offline {
        /// Why.
        reason: Lost,
        /// In how long.
        retry_in: Duration,
    },
    /// Not connected, and the client does not try again.
    Stopped(Stop),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It could not be made; the text says why.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// It ended without a word.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The server does not answer.
    #[error("the server has fallen silent")]
    Silent,
    /// The server said why it closes.
    #[error("the server closed: {} ({})", .0.code, .0.text)]
    Closed(WireError),
    /// The server asked its clients to connect again.
    #[error("the server is going away")]
    GoingAway,
    /// The token source failed.
    #[error("no token: {0}")]
    NoToken(String),
}

/// Why the client gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The app closed it.
    #[error("the client was closed")]
    Closed,
    /// The same device logged in elsewhere: two processes share one state.
    #[error("this device has logged in on another connection")]
    TakenOver,
    /// The server does not accept the token, or there is no fresh one.
    #[error("the token was refused: {} ({})", .0.code, .0.text)]
    TokenRefused(WireError),
    /// Client and server have no protocol version in common.
    #[error("no common protocol version: {}", .0.text)]
    UnsupportedVersion(WireError),
    /// The token names another user than the one this state belongs to.
    #[error("the state belongs to user {stored}, the token to {token}")]
    AnotherUser {
        /// In the storage.
        stored: UserId,
        /// In the token.
        token: UserId,
    },
    /// The storage failed; going on could use a number twice.
    #[error("the storage failed: {0}")]
    Storage(String),
}
