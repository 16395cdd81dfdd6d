//! The border between bytes and domain types. Limits are applied here, once; no `pb::` type goes further into the
//! server or out of the client, and nothing behind it validates again.
//!
//! - [`parse_request`] / [`encode_request`]: client to server.
//! - [`parse_server`] / [`encode_server`]: server to client.
//! - [`decode_entry`] / [`encode_entry`]: an entry as it is stored and pushed.

mod entry;
mod lists;
mod request;
mod server;

pub use entry::{decode_entry, encode_entry};
pub use request::{RequestError, encode_request, parse_request};
pub use server::{encode_server, parse_server};

use bytes::Bytes;

use crate::ids::{ConversationId, StoreEpoch, UserId};
use crate::pb;

/// The bytes are not what the schema and the limits allow. For entries from a store or messages from a server, whose
/// sender is trusted to have checked: a fault or another version, not a user's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub what: &'static str,
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "malformed: {}", self.what)
    }
}

impl core::error::Error for Malformed {}

fn malformed(what: &'static str) -> Malformed {
    Malformed { what }
}

fn user(bytes: &[u8]) -> Result<UserId, Malformed> {
    UserId::try_from(bytes).map_err(|_| malformed("a user id is 16 bytes"))
}

fn conversation(bytes: &[u8]) -> Result<ConversationId, Malformed> {
    ConversationId::try_from(bytes).map_err(|_| malformed("a conversation id is 16 bytes"))
}

fn epoch(bytes: &[u8]) -> Result<StoreEpoch, Malformed> {
    StoreEpoch::try_from(bytes).map_err(|_| malformed("a store's epoch is 16 bytes"))
}

fn optional<T>(bytes: &[u8], parse: fn(&[u8]) -> Result<T, Malformed>) -> Result<Option<T>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { parse(bytes).map(Some) }
}

fn id_bytes(id: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(id)
}

fn role(role: i32) -> Option<crate::model::Role> {
    use crate::model::Role;
    match pb::Role::try_from(role) {
        Ok(pb::Role::Member) => Some(Role::Member),
        Ok(pb::Role::Admin) => Some(Role::Admin),
        Ok(pb::Role::Owner) => Some(Role::Owner),
        Ok(pb::Role::Unspecified) | Err(_) => None,
    }
}

fn role_number(role: crate::model::Role) -> i32 {
    use crate::model::Role;
    match role {
        Role::Member => pb::Role::Member as i32,
        Role::Admin => pb::Role::Admin as i32,
        Role::Owner => pb::Role::Owner as i32,
    }
}
