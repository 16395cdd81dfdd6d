//! The names of things. Newtypes, so that no bare integer or byte array crosses a function.

use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Namespace of the UUIDv5 that makes a [`UserId`] out of a token's `sub`.
pub const USER_NAMESPACE: Uuid = Uuid::from_u128(0xdeaedae0_d1b5_4423_8c45_4db2e917ef63);

/// First bytes of what is hashed into the id of a direct chat.
const DIRECT_DOMAIN: &[u8] = b"tern direct v1";

/// The text or the bytes do not name a thing of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidId {
    /// What was expected, for the reader of an error message.
    pub expected: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an id: expected {}", self.expected)
    }
}

impl core::error::Error for InvalidId {}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes, in the order in which they are stored, sent and compared.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = InvalidId;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
                bytes.try_into().map(Self).map_err(|_| InvalidId { expected: "16 bytes" })
            }
        }

        /// Hexadecimal with hyphens, as UUIDs are written.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Uuid::from_bytes(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(s)
                    .map(|u| Self(u.into_bytes()))
                    .map_err(|_| InvalidId { expected: "a UUID such as 0f8fad5b-d9cb-469f-a165-70867728950e" })
            }
        }
    };
}

macro_rules! id64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The plain number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id16! {
    /// A user: the UUIDv5 of the token's `sub` in [`USER_NAMESPACE`].
    UserId
}
id16! {
    /// A conversation: a random UUIDv4 for a group, a UUIDv8 made from the pair for a direct chat.
    ConversationId
}
id16! {
    /// The history that a store holds: random, made when a store is begun and made anew when one is restored from a
    /// backup. What was said under one epoch (seqs, watermarks) cannot be compared with what is said under another.
    StoreEpoch
}
id64! {
    /// Place of an entry in its conversation's log: 1, 2, 3 … 0 stands for "before the first".
    Seq
}
id64! {
    /// A device's own number for a send, rising per device and conversation, from 1.
    ClientSeq
}
id64! {
    /// Pairs an answer with its request on one connection; 0 marks an event.
    RequestId
}

/// One installation of an app: random, not 0, chosen by the client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(u64);

impl DeviceId {
    /// The device with this number; 0 names none.
    pub const fn new(id: u64) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

impl FromStr for DeviceId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let expected = InvalidId { expected: "1 to 16 hexadecimal digits, not all 0" };
        u64::from_str_radix(s, 16).ok().and_then(Self::new).ok_or(expected)
    }
}

/// A process of a cluster: a server that starts again is another one. Random, 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl UserId {
    /// The user whom the app's tokens name by this `sub`.
    pub fn from_sub(sub: &str) -> Self {
        Self(Uuid::new_v5(&USER_NAMESPACE, sub.as_bytes()).into_bytes())
    }
}

impl ConversationId {
    /// The direct chat of two users, the same whichever comes first: a UUIDv8 of the first 16 bytes of
    /// SHA-256("tern direct v1" || smaller id || larger id).
    ///
    /// The version field keeps direct chats (8) and groups (4) apart, so nobody can make a group that sits on the
    /// id of somebody's direct chat.
    pub fn direct(a: UserId, b: UserId) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let digest = Sha256::new()
            .chain_update(DIRECT_DOMAIN)
            .chain_update(low.as_bytes())
            .chain_update(high.as_bytes())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(Uuid::new_v8(bytes).into_bytes())
    }

    /// A group's id out of 16 random bytes (six of whose bits are overwritten by the UUID version and variant).
    pub fn group_from_random(random: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(random).into_uuid().into_bytes())
    }

    /// Whether this may name a group: a UUIDv4 of the usual variant.
    pub fn is_group(&self) -> bool {
        let id = Uuid::from_bytes(self.0);
        id.get_version_num() == 4 && id.get_variant() == uuid::Variant::RFC4122
    }
}

impl Seq {
    /// The number after this one.
    ///
    /// # Panics
    /// When 2^64 - 1 entries have been numbered.
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a conversation outgrew 2^64 entries"))
    }

    /// The number before this one; of the first, 0.
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}
