//! Entries and the changes in them, which requests share.

use alloc::vec::Vec;

use bytes::Bytes;
use prost::Message as _;

use super::{Malformed, id_bytes, lists, malformed, role, role_number, user};
use crate::ids::{ClientSeq, DeviceId, Seq, UserId};
use crate::limits::{CONTENT_TYPE_BYTES_MAX, MEMBERS_MAX, PAYLOAD_BYTES_MAX, TITLE_BYTES_MAX};
use crate::model::{Change, Entry, Message, Sender, WallMillis};
use crate::pb;
use pb::entry::Body;

/// The bytes of an entry: those that are stored, pushed and put into pages, the same for everybody.
pub fn encode_entry(entry: &Entry) -> Bytes {
    entry_to_pb(entry).encode_to_vec().into()
}

/// The entry with these bytes.
///
/// # Errors
/// [`Malformed`] when no server of this version can have written it.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, Malformed> {
    let entry = pb::Entry::decode(bytes).map_err(|_| malformed("an entry is not protobuf"))?;
    entry_from_pb(entry)
}

pub(super) fn entry_to_pb(entry: &Entry) -> pb::Entry {
    let body = match &entry.change {
        Change::Message(message) => Some(Body::Message(message_to_pb(message))),
        Change::Create { title, members } => {
            Some(Body::Created(pb::GroupCreate { title: title.clone(), members: users_to_pb(members) }))
        }
        Change::Add { members } => Some(Body::Added(pb::MembersAdd { members: users_to_pb(members) })),
        Change::Remove { member } => {
            Some(Body::Removed(pb::MemberRemove { member: id_bytes(member.as_bytes()) }))
        }
        Change::Leave => Some(Body::Left(pb::Leave {})),
        Change::Title { title } => Some(Body::Title(pb::TitleSet { title: title.clone() })),
        Change::Role { member, role } => {
            Some(Body::Role(pb::RoleSet { member: id_bytes(member.as_bytes()), role: role_number(*role) }))
        }
        Change::Unknown => None,
    };
    pb::Entry {
        seq: entry.seq.get(),
        time_ms: entry.time.0,
        sender: id_bytes(entry.sender.user.as_bytes()),
        device: entry.sender.device.get(),
        client_seq: entry.client_seq.get(),
        body,
    }
}

pub(super) fn entry_from_pb(entry: pb::Entry) -> Result<Entry, Malformed> {
    let change = match entry.body {
        Some(Body::Message(m)) => message(m)?,
        Some(Body::Created(c)) => create(c)?,
        Some(Body::Added(a)) => add(a)?,
        Some(Body::Removed(r)) => remove(r)?,
        Some(Body::Left(pb::Leave {})) => Change::Leave,
        Some(Body::Title(t)) => title(t)?,
        Some(Body::Role(r)) => role_set(r)?,
        None => Change::Unknown,
    };
    if entry.seq == 0 {
        return Err(malformed("an entry without a seq"));
    }
    Ok(Entry {
        seq: Seq(entry.seq),
        time: WallMillis(entry.time_ms),
        sender: Sender {
            user: user(&entry.sender)?,
            device: DeviceId::new(entry.device).ok_or(malformed("an entry without a device"))?,
        },
        client_seq: ClientSeq(entry.client_seq),
        change,
    })
}

pub(super) fn message_to_pb(message: &Message) -> pb::Message {
    pb::Message {
        content_type: message.content_type.clone(),
        payload: message.payload.clone(),
        reply_to: message.reply_to.map_or(0, Seq::get),
    }
}

pub(super) fn users_to_pb(users: &[UserId]) -> Vec<Bytes> {
    users.iter().map(|u| id_bytes(u.as_bytes())).collect()
}

pub(super) fn message(m: pb::Message) -> Result<Change, Malformed> {
    if m.content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(malformed("content_type is longer than 128 bytes"));
    }
    if m.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(malformed(
            "payload is longer than 65536 bytes: put it into object storage and send its address",
        ));
    }
    let reply_to = (m.reply_to != 0).then_some(Seq(m.reply_to));
    Ok(Change::Message(Message { content_type: m.content_type, payload: m.payload, reply_to }))
}

pub(super) fn create(c: pb::GroupCreate) -> Result<Change, Malformed> {
    Ok(Change::Create { title: title_text(c.title)?, members: users(&c.members, MEMBERS_MAX - 1)? })
}

pub(super) fn add(a: pb::MembersAdd) -> Result<Change, Malformed> {
    if a.members.is_empty() {
        return Err(malformed("members is empty: name at least one user"));
    }
    Ok(Change::Add { members: users(&a.members, MEMBERS_MAX)? })
}

pub(super) fn remove(r: pb::MemberRemove) -> Result<Change, Malformed> {
    Ok(Change::Remove { member: user(&r.member)? })
}

pub(super) fn title(t: pb::TitleSet) -> Result<Change, Malformed> {
    Ok(Change::Title { title: title_text(t.title)? })
}

pub(super) fn role_set(r: pb::RoleSet) -> Result<Change, Malformed> {
    let role = role(r.role).ok_or(malformed("role is not member, admin or owner"))?;
    Ok(Change::Role { member: user(&r.member)?, role })
}

fn title_text(title: alloc::string::String) -> Result<alloc::string::String, Malformed> {
    if title.len() > TITLE_BYTES_MAX {
        return Err(malformed("title is longer than 256 bytes"));
    }
    Ok(title)
}

fn users(list: &[Bytes], max: usize) -> Result<Vec<UserId>, Malformed> {
    if list.len() > max {
        return Err(malformed(lists::MEMBERS));
    }
    let mut users = list.iter().map(|u| user(u)).collect::<Result<Vec<_>, _>>()?;
    users.sort_unstable();
    if users.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(malformed("members names a user twice"));
    }
    Ok(users)
}
