//! Requests: the server parses them, clients encode them.

use bytes::Bytes;
use prost::Message as _;

use super::entry::{add, create, message, message_to_pb, remove, role_set, title, users_to_pb};
use super::{Malformed, conversation, id_bytes, lists, malformed, optional, role_number, user};
use crate::error::ErrorCode;
use crate::frame;
use crate::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq};
use crate::limits::{
    CLIENT_NAME_BYTES_MAX, FEATURES_MAX, HISTORY_ENTRIES_MAX, MARKS_MAX, PAGE_ROWS_MAX, SYNC_KNOWN_MAX,
    TOKEN_BYTES_MAX,
};
use crate::model::{Change, Target};
use crate::pb::{self, client_frame};
use crate::request::{
    History, HistoryFrom, Known, ListConversations, ListUsers, Login, Mark, Request, RequestBody, Send, Sync,
};

/// Why a request was not accepted at the border, and how to answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestError {
    /// The request's number; 0 when there is none.
    pub id: RequestId,
    /// `Malformed`, `UnknownRequest` or `InvalidArgument`.
    pub code: ErrorCode,
    /// For the answer's text.
    pub text: &'static str,
}

const NO_NUMBER: RequestError = RequestError {
    id: RequestId(0),
    code: ErrorCode::Malformed,
    text: "request_id is 0: only Mark may go without an answer",
};

/// Parses the message of one frame from a client.
///
/// # Errors
/// [`RequestError`]: `Malformed` when the bytes are no `ClientFrame` or carry no number to answer to,
/// `UnknownRequest` when the request is of a kind that this version lacks, else `InvalidArgument`.
pub fn parse_request(bytes: Bytes) -> Result<Request, RequestError> {
    if let Some((id, text)) = lists::excess(&bytes) {
        let is_answered = id.get() > 0 || text == lists::MARKS;
        let refused = RequestError { id, code: ErrorCode::InvalidArgument, text };
        return Err(if is_answered { refused } else { NO_NUMBER });
    }
    let frame = pb::ClientFrame::decode(bytes).map_err(|_| RequestError {
        id: RequestId(0),
        code: ErrorCode::Malformed,
        text: "the frame is not a ClientFrame in protobuf",
    })?;
    let id = RequestId(frame.request_id);
    let error = |code, text| RequestError { id, code, text };
    if id.get() == 0 && !matches!(frame.request, Some(client_frame::Request::Mark(_))) {
        return Err(NO_NUMBER);
    }
    let request =
        frame.request.ok_or(error(ErrorCode::UnknownRequest, "this server does not know that request"))?;
    let body = body(request).map_err(|m| error(ErrorCode::InvalidArgument, m.what))?;
    Ok(Request { id, body })
}

fn body(request: client_frame::Request) -> Result<RequestBody, Malformed> {
    use client_frame::Request as R;
    Ok(match request {
        R::Login(login) => RequestBody::Login(parse_login(login)?),
        R::Send(send) => RequestBody::Send(parse_send(send)?),
        R::Mark(mark) => RequestBody::Mark(parse_marks(mark)?),
        R::Sync(sync) => RequestBody::Sync(parse_sync(sync)?),
        R::History(history) => RequestBody::History(parse_history(history)?),
        R::ListConversations(list) => RequestBody::ListConversations(ListConversations {
            after: optional(&list.after, conversation)?,
            limit: limit(list.limit, PAGE_ROWS_MAX),
        }),
        R::ListMembers(pb::ListMembers { conversation, after, limit }) => {
            RequestBody::ListMembers(parse_users(&conversation, &after, limit)?)
        }
        R::ListReceipts(pb::ListReceipts { conversation, after, limit }) => {
            RequestBody::ListReceipts(parse_users(&conversation, &after, limit)?)
        }
    })
}

fn parse_login(login: pb::Login) -> Result<Login, Malformed> {
    if login.token.is_empty() || login.token.len() > TOKEN_BYTES_MAX {
        return Err(malformed("token is empty or longer than 3072 bytes"));
    }
    if login.client.len() > CLIENT_NAME_BYTES_MAX {
        return Err(malformed("client is longer than 64 bytes"));
    }
    if login.features.len() > FEATURES_MAX {
        return Err(malformed(lists::FEATURES));
    }
    Ok(Login {
        token: login.token,
        device: DeviceId::new(login.device).ok_or(malformed("device is 0: choose a random number once"))?,
        versions: (login.version_min, login.version_max),
        features: login.features,
        client: login.client,
    })
}

fn parse_send(send: pb::Send) -> Result<Send, Malformed> {
    use pb::send::{Change as C, Target as T};
    let target = match send.target.ok_or(malformed("neither conversation nor user is given"))? {
        T::Conversation(id) => Target::Conversation(conversation(&id)?),
        T::User(id) => Target::User(user(&id)?),
    };
    if send.client_seq == 0 {
        return Err(malformed("client_seq is 0: number the sends of a device from 1"));
    }
    let change =
        match send.change.ok_or(malformed("no change is given, or one that this server does not know"))? {
            C::Message(m) => message(m)?,
            C::Create(c) => create(c)?,
            C::Add(a) => add(a)?,
            C::Remove(r) => remove(r)?,
            C::Leave(pb::Leave {}) => Change::Leave,
            C::Title(t) => title(t)?,
            C::Role(r) => role_set(r)?,
        };
    match (&target, &change) {
        (_, Change::Message(_)) => {}
        (Target::User(_), _) => return Err(malformed("a direct chat takes messages only")),
        (Target::Conversation(id), Change::Create { .. }) if !id.is_group() => {
            return Err(malformed("a new group's id is a random UUID (version 4)"));
        }
        (Target::Conversation(_), _) => {}
    }
    Ok(Send { target, client_seq: ClientSeq(send.client_seq), change })
}

fn parse_marks(mark: pb::Mark) -> Result<alloc::vec::Vec<Mark>, Malformed> {
    if mark.marks.len() > MARKS_MAX {
        return Err(malformed(lists::MARKS));
    }
    mark.marks
        .iter()
        .map(|w| {
            if w.delivered == 0 && w.read == 0 {
                return Err(malformed("a watermark that says neither delivered nor read"));
            }
            Ok(Mark {
                conversation: conversation(&w.conversation)?,
                delivered: Seq(w.delivered.max(w.read)),
                read: Seq(w.read),
            })
        })
        .collect()
}

fn parse_sync(sync: pb::Sync) -> Result<Sync, Malformed> {
    if sync.known.len() > SYNC_KNOWN_MAX {
        return Err(malformed(lists::KNOWN));
    }
    let known = sync
        .known
        .iter()
        .map(|k| {
            Ok(Known {
                conversation: conversation(&k.conversation)?,
                seq: Seq(k.seq),
                read: Seq(k.read),
                peer_delivered: Seq(k.peer_delivered),
                peer_read: Seq(k.peer_read),
            })
        })
        .collect::<Result<alloc::vec::Vec<_>, Malformed>>()?;
    if known.windows(2).any(|pair| pair[0].conversation >= pair[1].conversation) {
        return Err(malformed("known is not sorted by conversation, or names one twice"));
    }
    Ok(Sync {
        known,
        after: optional(&sync.after, conversation)?,
        until: optional(&sync.until, conversation)?,
        latest: (sync.latest != 0).then_some(sync.latest),
    })
}

fn parse_history(history: pb::History) -> Result<History, Malformed> {
    let from = match (history.backward, history.from) {
        (false, from) => HistoryFrom::Forward(Seq(from)),
        (true, 0) => HistoryFrom::Backward(None),
        (true, from) => HistoryFrom::Backward(Some(Seq(from))),
    };
    Ok(History {
        conversation: conversation(&history.conversation)?,
        from,
        limit: limit(history.limit, HISTORY_ENTRIES_MAX),
    })
}

fn parse_users(id: &[u8], after: &[u8], rows: u32) -> Result<ListUsers, Malformed> {
    Ok(ListUsers {
        conversation: conversation(id)?,
        after: optional(after, user)?,
        limit: limit(rows, PAGE_ROWS_MAX),
    })
}

/// 0 and everything above `max` mean `max`.
fn limit(asked: u32, max: usize) -> u32 {
    let max = max as u32;
    if asked == 0 { max } else { asked.min(max) }
}

/// The frame, with its length, of a request.
///
/// # Panics
/// When it is longer than a frame may be: clients keep `known` and payloads within the limits.
pub fn encode_request(request: &Request) -> Bytes {
    frame::encode(&pb::ClientFrame {
        request_id: request.id.get(),
        request: Some(request_to_pb(&request.body)),
    })
}

fn request_to_pb(body: &RequestBody) -> client_frame::Request {
    use client_frame::Request as R;
    let id = |id: &ConversationId| id_bytes(id.as_bytes());
    let after =
        |id: &Option<ConversationId>| id.as_ref().map_or_else(Bytes::new, |id| id_bytes(id.as_bytes()));
    match body {
        RequestBody::Login(login) => R::Login(pb::Login {
            token: login.token.clone(),
            device: login.device.get(),
            version_min: login.versions.0,
            version_max: login.versions.1,
            features: login.features.clone(),
            client: login.client.clone(),
        }),
        RequestBody::Send(send) => R::Send(send_to_pb(send)),
        RequestBody::Mark(marks) => R::Mark(pb::Mark {
            marks: marks
                .iter()
                .map(|m| pb::Watermark {
                    conversation: id(&m.conversation),
                    delivered: m.delivered.get(),
                    read: m.read.get(),
                })
                .collect(),
        }),
        RequestBody::Sync(sync) => R::Sync(pb::Sync {
            known: sync
                .known
                .iter()
                .map(|k| pb::Known {
                    conversation: id(&k.conversation),
                    seq: k.seq.get(),
                    read: k.read.get(),
                    peer_delivered: k.peer_delivered.get(),
                    peer_read: k.peer_read.get(),
                })
                .collect(),
            after: after(&sync.after),
            until: after(&sync.until),
            latest: sync.latest.unwrap_or(0),
        }),
        RequestBody::History(history) => {
            let (backward, from) = match history.from {
                HistoryFrom::Forward(from) => (false, from.get()),
                HistoryFrom::Backward(from) => (true, from.map_or(0, Seq::get)),
            };
            R::History(pb::History {
                conversation: id(&history.conversation),
                from,
                backward,
                limit: history.limit,
            })
        }
        RequestBody::ListConversations(list) => {
            R::ListConversations(pb::ListConversations { after: after(&list.after), limit: list.limit })
        }
        RequestBody::ListMembers(list) => {
            let (conversation, after) = users_page(list);
            R::ListMembers(pb::ListMembers { conversation, after, limit: list.limit })
        }
        RequestBody::ListReceipts(list) => {
            let (conversation, after) = users_page(list);
            R::ListReceipts(pb::ListReceipts { conversation, after, limit: list.limit })
        }
    }
}

fn users_page(list: &ListUsers) -> (Bytes, Bytes) {
    let after = list.after.as_ref().map_or_else(Bytes::new, |user| id_bytes(user.as_bytes()));
    (id_bytes(list.conversation.as_bytes()), after)
}

fn send_to_pb(send: &Send) -> pb::Send {
    use pb::send::{Change as C, Target as T};
    pb::Send {
        client_seq: send.client_seq.get(),
        target: Some(match &send.target {
            Target::Conversation(c) => T::Conversation(id_bytes(c.as_bytes())),
            Target::User(u) => T::User(id_bytes(u.as_bytes())),
        }),
        change: match &send.change {
            Change::Message(m) => Some(C::Message(message_to_pb(m))),
            Change::Create { title, members } => {
                Some(C::Create(pb::GroupCreate { title: title.clone(), members: users_to_pb(members) }))
            }
            Change::Add { members } => Some(C::Add(pb::MembersAdd { members: users_to_pb(members) })),
            Change::Remove { member } => {
                Some(C::Remove(pb::MemberRemove { member: id_bytes(member.as_bytes()) }))
            }
            Change::Leave => Some(C::Leave(pb::Leave {})),
            Change::Title { title } => Some(C::Title(pb::TitleSet { title: title.clone() })),
            Change::Role { member, role } => {
                Some(C::Role(pb::RoleSet { member: id_bytes(member.as_bytes()), role: role_number(*role) }))
            }
            Change::Unknown => None,
        },
    }
}
