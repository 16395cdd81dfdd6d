//! Answers and events: the server encodes them, clients parse them.

use alloc::vec::Vec;

use bytes::Bytes;
use prost::Message as _;

use super::entry::{entry_from_pb, entry_to_pb};
use super::{Malformed, conversation, epoch, id_bytes, malformed, optional, role, role_number, user};
use crate::error::ErrorCode;
use crate::event::{
    ConversationPage, ConversationState, HistoryPage, LoginOk, MemberPage, ReceiptCount, ReceiptPage,
    ReceiptsMoved, SendOk, ServerBody, ServerMessage, SyncPage, UserReceipt, WireError,
};
use crate::frame;
use crate::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use crate::limits::{TARGET_BYTES_MAX, TARGETS_MAX};
use crate::model::{Entry, Kind, WallMillis};
use crate::pb::{self, server_frame::Body};

/// The frame, with its length, of an answer or event.
///
/// # Panics
/// When it is longer than a frame may be: pages are cut to fit.
pub fn encode_server(message: &ServerMessage) -> Bytes {
    frame::encode(&pb::ServerFrame { request_id: message.id.get(), body: body_to_pb(&message.body) })
}

/// Parses the message of one frame from a server. `None`: an event of a kind that this version does not know; skip it.
/// An answer of such a kind is [`ServerBody::Unknown`]: somebody waits for it.
///
/// # Errors
/// [`Malformed`] when the bytes are not what a server sends; close the connection.
pub fn parse_server(bytes: Bytes) -> Result<Option<ServerMessage>, Malformed> {
    let frame = pb::ServerFrame::decode(bytes)
        .map_err(|_| malformed("the frame is not a ServerFrame in protobuf"))?;
    let body = match frame.body {
        Some(body) => body_from_pb(body)?,
        None if frame.request_id == 0 => return Ok(None),
        None => ServerBody::Unknown,
    };
    Ok(Some(ServerMessage { id: RequestId(frame.request_id), body }))
}

fn body_to_pb(body: &ServerBody) -> Option<Body> {
    Some(match body {
        ServerBody::Error(e) => Body::Error(pb::Error {
            code: e.code.code(),
            text: e.text.clone(),
            retry_after_ms: e.retry_after_ms,
            client_seq: e.client_seq.get(),
        }),
        ServerBody::LoginOk(ok) => Body::LoginOk(pb::LoginOk {
            user: id_bytes(ok.user.as_bytes()),
            version: ok.version,
            features: ok.features.clone(),
            time_ms: ok.time.0,
            heartbeat_ms: ok.heartbeat_ms,
            in_flight_max: ok.in_flight_max,
            store_epoch: ok.epoch.map_or_else(Bytes::new, |epoch| id_bytes(epoch.as_bytes())),
        }),
        ServerBody::SendOk(ok) => Body::SendOk(pb::SendOk {
            conversation: id_bytes(ok.conversation.as_bytes()),
            seq: ok.seq.get(),
            time_ms: ok.time.0,
            duplicate: ok.duplicate,
        }),
        ServerBody::MarkOk => Body::MarkOk(pb::MarkOk {}),
        ServerBody::SyncPage(page) => Body::SyncPage(pb::SyncPage {
            conversations: page.conversations.iter().map(state_to_pb).collect(),
            covered_until: conversation_to_pb(page.covered_until),
        }),
        ServerBody::HistoryPage(page) => Body::HistoryPage(pb::HistoryPage {
            conversation: id_bytes(page.conversation.as_bytes()),
            head: page.head.get(),
            floor: page.floor.get(),
            entries: page.entries.iter().map(entry_to_pb).collect(),
        }),
        ServerBody::ConversationPage(page) => Body::ConversationPage(pb::ConversationPage {
            conversations: page.conversations.iter().map(state_to_pb).collect(),
            next: conversation_to_pb(page.next),
        }),
        ServerBody::MemberPage(page) => Body::MemberPage(pb::MemberPage {
            members: page
                .members
                .iter()
                .map(|(user, role, joined)| pb::Member {
                    user: id_bytes(user.as_bytes()),
                    role: role_number(*role),
                    joined: joined.get(),
                })
                .collect(),
            next: user_to_pb(page.next),
            count: page.count,
        }),
        ServerBody::ReceiptPage(page) => Body::ReceiptPage(pb::ReceiptPage {
            receipts: page.receipts.iter().map(receipt_to_pb).collect(),
            next: user_to_pb(page.next),
        }),
        ServerBody::Push { conversation, entry } => Body::Push(pb::Push {
            conversation: id_bytes(conversation.as_bytes()),
            entry: Some(entry_to_pb(entry)),
        }),
        ServerBody::HeadMoved { conversation, head } => Body::HeadMoved(pb::HeadMoved {
            conversation: id_bytes(conversation.as_bytes()),
            head: head.get(),
        }),
        ServerBody::ReceiptsMoved(moved) => Body::ReceiptsMoved(pb::ReceiptsMoved {
            conversation: id_bytes(moved.conversation.as_bytes()),
            users: moved.users.iter().map(receipt_to_pb).collect(),
            counts: moved
                .counts
                .iter()
                .map(|c| pb::ReceiptCount {
                    seq: c.seq.get(),
                    delivered: c.delivered,
                    read: c.read,
                    members: c.members,
                })
                .collect(),
        }),
        ServerBody::GoingAway { reconnect_after_ms, targets } => Body::GoingAway(pb::GoingAway {
            reconnect_after_ms: *reconnect_after_ms,
            targets: targets.clone(),
        }),
        ServerBody::Unknown => return None,
    })
}

fn body_from_pb(body: Body) -> Result<ServerBody, Malformed> {
    Ok(match body {
        Body::Error(e) => ServerBody::Error(WireError {
            // A code of a newer server: whether it had an effect is not known, trying again is safe.
            code: ErrorCode::from_code(e.code).unwrap_or(ErrorCode::Internal),
            text: e.text,
            retry_after_ms: e.retry_after_ms,
            client_seq: ClientSeq(e.client_seq),
        }),
        Body::LoginOk(ok) => ServerBody::LoginOk(LoginOk {
            user: user(&ok.user)?,
            version: ok.version,
            features: ok.features,
            time: WallMillis(ok.time_ms),
            heartbeat_ms: ok.heartbeat_ms,
            in_flight_max: ok.in_flight_max,
            epoch: optional(&ok.store_epoch, epoch)?,
        }),
        Body::SendOk(ok) => ServerBody::SendOk(SendOk {
            conversation: conversation(&ok.conversation)?,
            seq: Seq(ok.seq),
            time: WallMillis(ok.time_ms),
            duplicate: ok.duplicate,
        }),
        Body::MarkOk(pb::MarkOk {}) => ServerBody::MarkOk,
        Body::SyncPage(page) => ServerBody::SyncPage(SyncPage {
            conversations: states(page.conversations)?,
            covered_until: optional(&page.covered_until, conversation)?,
        }),
        Body::HistoryPage(page) => ServerBody::HistoryPage(HistoryPage {
            conversation: conversation(&page.conversation)?,
            head: Seq(page.head),
            floor: Seq(page.floor),
            entries: entries(page.entries)?,
        }),
        Body::ConversationPage(page) => ServerBody::ConversationPage(ConversationPage {
            conversations: states(page.conversations)?,
            next: optional(&page.next, conversation)?,
        }),
        Body::MemberPage(page) => ServerBody::MemberPage(MemberPage {
            members: page
                .members
                .iter()
                .map(|m| {
                    let role = role(m.role).ok_or(malformed("a member without a role"))?;
                    Ok((user(&m.user)?, role, Seq(m.joined)))
                })
                .collect::<Result<_, Malformed>>()?,
            next: optional(&page.next, user)?,
            count: page.count,
        }),
        Body::ReceiptPage(page) => ServerBody::ReceiptPage(ReceiptPage {
            receipts: receipts(&page.receipts)?,
            next: optional(&page.next, user)?,
        }),
        Body::Push(push) => ServerBody::Push {
            conversation: conversation(&push.conversation)?,
            entry: entry_from_pb(push.entry.ok_or(malformed("a push without an entry"))?)?,
        },
        Body::HeadMoved(moved) => {
            ServerBody::HeadMoved { conversation: conversation(&moved.conversation)?, head: Seq(moved.head) }
        }
        Body::ReceiptsMoved(moved) => ServerBody::ReceiptsMoved(ReceiptsMoved {
            conversation: conversation(&moved.conversation)?,
            users: receipts(&moved.users)?,
            counts: moved
                .counts
                .iter()
                .map(|c| ReceiptCount {
                    seq: Seq(c.seq),
                    delivered: c.delivered,
                    read: c.read,
                    members: c.members,
                })
                .collect(),
        }),
        Body::GoingAway(away) => ServerBody::GoingAway {
            reconnect_after_ms: away.reconnect_after_ms,
            // Advice: one that is too long is left out, and the rest stands.
            targets: away
                .targets
                .into_iter()
                .filter(|target| target.len() <= TARGET_BYTES_MAX)
                .take(TARGETS_MAX)
                .collect(),
        },
    })
}

fn conversation_to_pb(id: Option<ConversationId>) -> Bytes {
    id.map_or_else(Bytes::new, |id| id_bytes(id.as_bytes()))
}

fn user_to_pb(id: Option<UserId>) -> Bytes {
    id.map_or_else(Bytes::new, |id| id_bytes(id.as_bytes()))
}

fn state_to_pb(state: &ConversationState) -> pb::ConversationState {
    pb::ConversationState {
        conversation: id_bytes(state.conversation.as_bytes()),
        kind: match state.kind {
            Kind::Direct => pb::Kind::Direct as i32,
            Kind::Group => pb::Kind::Group as i32,
        },
        title: state.title.clone(),
        peer: user_to_pb(state.peer),
        head: state.head.get(),
        floor: state.floor.get(),
        read: state.read.get(),
        peer_delivered: state.peer_delivered.get(),
        peer_read: state.peer_read.get(),
        role: state.role.map_or(0, role_number),
        entries: state.entries.iter().map(entry_to_pb).collect(),
        complete_to: state.complete_to.get(),
        unread: state.unread,
        time_ms: state.time.0,
    }
}

fn states(states: Vec<pb::ConversationState>) -> Result<Vec<ConversationState>, Malformed> {
    states
        .into_iter()
        .map(|state| {
            Ok(ConversationState {
                conversation: conversation(&state.conversation)?,
                kind: match pb::Kind::try_from(state.kind) {
                    Ok(pb::Kind::Direct) => Kind::Direct,
                    Ok(pb::Kind::Group) => Kind::Group,
                    Ok(pb::Kind::Unspecified) | Err(_) => {
                        return Err(malformed("a conversation of no known kind"));
                    }
                },
                title: state.title,
                peer: optional(&state.peer, user)?,
                head: Seq(state.head),
                floor: Seq(state.floor),
                read: Seq(state.read),
                peer_delivered: Seq(state.peer_delivered),
                peer_read: Seq(state.peer_read),
                role: match state.role {
                    0 => None,
                    // Not to be taken for a membership that has ended.
                    number => Some(role(number).ok_or(malformed("a conversation with an unknown role"))?),
                },
                entries: entries(state.entries)?,
                complete_to: Seq(state.complete_to),
                unread: state.unread,
                time: WallMillis(state.time_ms),
            })
        })
        .collect()
}

fn entries(entries: Vec<pb::Entry>) -> Result<Vec<Entry>, Malformed> {
    entries.into_iter().map(entry_from_pb).collect()
}

fn receipt_to_pb(receipt: &UserReceipt) -> pb::UserReceipt {
    pb::UserReceipt {
        user: id_bytes(receipt.user.as_bytes()),
        delivered: receipt.delivered.get(),
        read: receipt.read.get(),
    }
}

fn receipts(receipts: &[pb::UserReceipt]) -> Result<Vec<UserReceipt>, Malformed> {
    receipts
        .iter()
        .map(|r| Ok(UserReceipt { user: user(&r.user)?, delivered: Seq(r.delivered), read: Seq(r.read) }))
        .collect()
}
