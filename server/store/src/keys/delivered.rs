//! How far a device has stored a conversation.
//!
//! Key: `w` conversation user device (41 bytes). Value: the seq as a plain little-endian u64, for it is raised by
//! `atomic_max`.

use tern_protocol::ids::{ConversationId, DeviceId, UserId};

use super::{BadKey, join, take};

/// How far a device has stored a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveredKey {
    /// The conversation.
    pub conversation: ConversationId,
    /// The user.
    pub user: UserId,
    /// Their device.
    pub device: DeviceId,
}

impl DeliveredKey {
    /// The first byte of every key of this kind.
    pub const PREFIX: u8 = b'w';
    /// The length of every key of this kind.
    pub const LEN: usize = 41;
    /// The name of this kind in error messages.
    pub const KIND: &'static str = "delivered";

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(
            Self::PREFIX,
            &[self.conversation.as_bytes(), self.user.as_bytes(), &self.device.get().to_be_bytes()],
        )
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
            device: DeviceId::new(u64::from_be_bytes(take(&mut rest)?))?,
        };
        rest.is_empty().then_some(parsed)
    }

    /// What the keys of one conversation begin with.
    pub fn of_conversation(conversation: ConversationId) -> [u8; 17] {
        join(Self::PREFIX, &[conversation.as_bytes()])
    }

    /// What the keys of one user in this conversation begin with.
    pub fn of_user(conversation: ConversationId, user: UserId) -> [u8; 33] {
        join(Self::PREFIX, &[conversation.as_bytes(), user.as_bytes()])
    }
}

impl std::fmt::Display for DeliveredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.conversation, self.user, self.device)
    }
}
