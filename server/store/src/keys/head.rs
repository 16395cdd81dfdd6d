//! Where a conversation's log stands.
//!
//! Key: `h` conversation (17 bytes). Value: the record of a [`Head`](tern_protocol::model::Head). The fence:
//! every append reads it (or declares the conflict) and writes it.

use tern_protocol::ids::ConversationId;

use super::{BadKey, join, take};

/// Where a conversation's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeadKey {
    /// The conversation.
    pub conversation: ConversationId,
}

impl HeadKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'h';
    /// The length of every key of this kind.
    pub const LEN: usize = 17;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "head";

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

impl std::fmt::Display for HeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.conversation)
    }
}
