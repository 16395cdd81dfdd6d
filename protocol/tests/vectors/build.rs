//! Short ways to say the values of the vectors.

use bytes::{BufMut, Bytes, BytesMut};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Message, Sender, WallMillis};

pub(crate) const DEVICE: u64 = 0x0123_4567_89ab_cdef;
pub(crate) const TIME: u64 = 1_767_225_600_000;

pub(crate) fn user(name: &str) -> UserId {
    UserId::from_sub(name)
}

pub(crate) fn direct() -> ConversationId {
    ConversationId::direct(user("alice"), user("bob"))
}

pub(crate) fn group(n: u8) -> ConversationId {
    ConversationId::group_from_random([n; 16])
}

pub(crate) fn users(names: &[&str]) -> Vec<UserId> {
    let mut users: Vec<_> = names.iter().map(|n| user(n)).collect();
    users.sort_unstable();
    users
}

pub(crate) fn device() -> DeviceId {
    DeviceId::new(DEVICE).expect("not 0")
}

pub(crate) fn text(text: &str) -> Message {
    Message {
        content_type: "text/plain".into(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        reply_to: None,
    }
}

pub(crate) fn entry(seq: u64, change: Change) -> Entry {
    Entry {
        seq: Seq(seq),
        time: WallMillis(TIME),
        sender: Sender { user: user("alice"), device: device() },
        client_seq: ClientSeq(seq),
        change,
    }
}

/// A frame around bytes that no encoder of ours would make.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    prost::encoding::encode_varint(message.len() as u64, &mut out);
    out.put_slice(message);
    out.freeze()
}

pub(crate) fn framed_pb(message: &impl prost::Message) -> Bytes {
    framed(&message.encode_to_vec())
}

pub(crate) fn id(bytes: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
