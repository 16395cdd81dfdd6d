//! An entry of a conversation's log.
//!
//! Key: `g` conversation seq (25 bytes). Value: the encoded entry in its record. Written once, never changed;
//! removed when the floor is raised above it.

use tern_protocol::ids::{ConversationId, Seq};

use super::{BadKey, join, take};

/// An entry of a conversation's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryKey {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its place in the log.
    pub seq: Seq,
}

impl EntryKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'g';
    /// The length of every key of this kind.
    pub const LEN: usize = 25;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "entry";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(Self::PREFIX, &[self.conversation.as_bytes(), &self.seq.get().to_be_bytes()])
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
            seq: Seq(u64::from_be_bytes(take(&mut rest)?)),
        };
        rest.is_empty().then_some(parsed)
    }

    /// What the keys of one conversation begin with.
    pub fn of_conversation(conversation: ConversationId) -> [u8; 17] {
        join(Self::PREFIX, &[conversation.as_bytes()])
    }
}

impl std::fmt::Display for EntryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.conversation, self.seq)
    }
}
