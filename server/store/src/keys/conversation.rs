//! A conversation.
//!
//! Key: `c` conversation (17 bytes). Value: the record of a [`Conversation`](tern_protocol::model::Conversation):
//! kind and title. Changes only when the title does.

use tern_protocol::ids::ConversationId;

use super::{BadKey, join, take};

/// A conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConversationKey {
    /// The conversation.
    pub conversation: ConversationId,
}

impl ConversationKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'c';
    /// The length of every key of this kind.
    pub const LEN: usize = 17;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "conversation";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(Self::PREFIX, &[self.conversation.as_bytes()])
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
        let parsed = Self { conversation: ConversationId::from_bytes(take(&mut rest)?) };
        rest.is_empty().then_some(parsed)
    }
}

impl std::fmt::Display for ConversationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.conversation)
    }
}
