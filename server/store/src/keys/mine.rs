//! A conversation of a user: the reverse of [`member`](super::member).
//!
//! Key: `n` user conversation (33 bytes). Value: empty. Written when a user becomes a member, and kept when the
//! membership ends.

use tern_protocol::ids::{ConversationId, UserId};

use super::{BadKey, join, take};

/// A conversation of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MineKey {
    /// The user.
    pub user: UserId,
    /// The conversation.
    pub conversation: ConversationId,
}

impl MineKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'n';
    /// The length of every key of this kind.
    pub const LEN: usize = 33;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "mine";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(Self::PREFIX, &[self.user.as_bytes(), self.conversation.as_bytes()])
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
            user: UserId::from_bytes(take(&mut rest)?),
            conversation: ConversationId::from_bytes(take(&mut rest)?),
        };
        rest.is_empty().then_some(parsed)
    }

    /// What the keys of one user begin with.
    pub fn of_user(user: UserId) -> [u8; 17] {
        join(Self::PREFIX, &[user.as_bytes()])
    }
}

impl std::fmt::Display for MineKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.user, self.conversation)
    }
}
