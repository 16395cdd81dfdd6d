//! A user's membership of a conversation.
//!
//! Key: `m` conversation user (33 bytes). Value: the record of a
//! [`Membership`](tern_protocol::model::Membership). Kept when it ends, since it says what may still be read.

use tern_protocol::ids::{ConversationId, UserId};

use super::{BadKey, join, take};

/// A user's membership of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberKey {
    /// The conversation.
    pub conversation: ConversationId,
    /// The user.
    pub user: UserId,
}

impl MemberKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'm';
    /// The length of every key of this kind.
    pub const LEN: usize = 33;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "member";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(Self::PREFIX, &[self.conversation.as_bytes(), self.user.as_bytes()])
    }

    /// What the bytes stand for.
    pub fn decode(key: &[u8]) -> Result<Self, BadKey> {
        Self::parse(key).ok_or(BadKey { kind: Self::KIND })
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let mut rest = key;
        if take(&mut rest)? != [Self::PREFIX] {
            return None;
        }
        let parsed = Self {
            conversation: ConversationId::from_bytes(take(&mut rest)?),
            user: UserId::from_bytes(take(&mut rest)?),
        };
        rest.is_empty().then_some(parsed)
    }

    /// What the keys of one conversation begin with.
    pub fn of_conversation(conversation: ConversationId) -> [u8; 17] {
        join(Self::PREFIX, &[conversation.as_bytes()])
    }
}

impl std::fmt::Display for MemberKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.conversation, self.user)
    }
}
