//! Values as the vector files describe them: the field names of `tern.proto`, ids as UUID text, devices as 16
//! hexadecimal digits, payloads in hexadecimal, 64-bit numbers as decimal text.

use bytes::Bytes;
use serde_json::{Value, json};
use tern_protocol::convert::RequestError;
use tern_protocol::event::{ConversationState, ServerBody, ServerMessage, UserReceipt};
use tern_protocol::ids::{RequestId, Seq};
use tern_protocol::model::{Change, Entry, Kind, Role, Target};
use tern_protocol::request::{HistoryFrom, ListUsers, Request, RequestBody};

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> =
        text.bytes().map(|c| (c as char).to_digit(16).expect("a hexadecimal digit") as u8).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn seq(seq: Seq) -> Value {
    seq.to_string().into()
}

fn long(n: u64) -> Value {
    n.to_string().into()
}

fn id(id: &impl ToString) -> Value {
    id.to_string().into()
}

fn maybe(id: &Option<impl ToString>) -> Value {
    id.as_ref().map_or(Value::Null, |id| id.to_string().into())
}

fn ids(ids: &[impl ToString]) -> Value {
    ids.iter().map(ToString::to_string).collect()
}

fn number(n: RequestId) -> Value {
    n.to_string().into()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

fn change(change: &Change) -> Value {
    match change {
        Change::Message(m) => json!({"message": {
            "content_type": m.content_type, "payload": hex(&m.payload), "reply_to": m.reply_to.map(seq),
        }}),
        Change::Create { title, members } => json!({"create": {"title": title, "members": ids(members)}}),
        Change::Add { members } => json!({"add": {"members": ids(members)}}),
        Change::Remove { member } => json!({"remove": {"member": id(member)}}),
        Change::Leave => json!({"leave": {}}),
        Change::Title { title } => json!({"title": {"title": title}}),
        Change::Role { member, role: r } => json!({"role": {"member": id(member), "role": role(*r)}}),
        Change::Unknown => json!({"unknown": {}}),
    }
}

pub(crate) fn entry(entry: &Entry) -> Value {
    json!({
        "seq": seq(entry.seq),
        "time_ms": long(entry.time.0),
        "sender": id(&entry.sender.user),
        "device": id(&entry.sender.device),
        "client_seq": id(&entry.client_seq),
        "change": change(&entry.change),
    })
}

fn entries(list: &[Entry]) -> Value {
    list.iter().map(entry).collect()
}

pub(crate) fn request(request: &Request) -> Value {
    let list_users = |l: &ListUsers| json!({"conversation": id(&l.conversation), "after": maybe(&l.after), "limit": l.limit});
    let (kind, body) = match &request.body {
        RequestBody::Login(l) => (
            "login",
            json!({
                "token": l.token,
                "device": id(&l.device),
                "version_min": l.versions.0,
                "version_max": l.versions.1,
                "features": l.features,
                "client": l.client,
            }),
        ),
        RequestBody::Send(s) => (
            "send",
            json!({
                "target": match &s.target {
                    Target::Conversation(c) => json!({"conversation": id(c)}),
                    Target::User(u) => json!({"user": id(u)}),
                },
                "client_seq": id(&s.client_seq),
                "change": change(&s.change),
            }),
        ),
        RequestBody::Mark(marks) => (
            "mark",
            marks
                .iter()
                .map(|m| {
                    json!({
                        "conversation": id(&m.conversation), "delivered": seq(m.delivered), "read": seq(m.read),
                    })
                })
                .collect(),
        ),
        RequestBody::Sync(s) => (
            "sync",
            json!({
                "known": s.known.iter()
                    .map(|k| json!({
                        "conversation": id(&k.conversation),
                        "seq": seq(k.seq),
                        "read": seq(k.read),
                        "peer_delivered": seq(k.peer_delivered),
                        "peer_read": seq(k.peer_read),
                    }))
                    .collect::<Vec<_>>(),
                "after": maybe(&s.after),
                "until": maybe(&s.until),
                "latest": s.latest,
            }),
        ),
        RequestBody::History(h) => {
            let (direction, from) = match h.from {
                HistoryFrom::Forward(from) => ("forward", seq(from)),
                HistoryFrom::Backward(from) => ("backward", from.map_or(Value::Null, seq)),
            };
            (
                "history",
                json!({
                    "conversation": id(&h.conversation), "direction": direction, "from": from, "limit": h.limit,
                }),
            )
        }
        RequestBody::ListConversations(l) => {
            ("list_conversations", json!({"after": maybe(&l.after), "limit": l.limit}))
        }
        RequestBody::ListMembers(l) => ("list_members", list_users(l)),
        RequestBody::ListReceipts(l) => ("list_receipts", list_users(l)),
    };
    json!({"request_id": number(request.id), kind: body})
}

pub(crate) fn request_error(error: &RequestError) -> Value {
    json!({
        "request_id": number(error.id), "code": error.code.code(), "label": error.code.label(), "text": error.text,
    })
}

fn receipts(receipts: &[UserReceipt]) -> Value {
    receipts
        .iter()
        .map(|r| json!({"user": id(&r.user), "delivered": seq(r.delivered), "read": seq(r.read)}))
        .collect()
}

fn state(s: &ConversationState) -> Value {
    json!({
        "conversation": id(&s.conversation),
        "kind": match s.kind { Kind::Direct => "direct", Kind::Group => "group" },
        "title": s.title,
        "peer": maybe(&s.peer),
        "head": seq(s.head),
        "floor": seq(s.floor),
        "read": seq(s.read),
        "peer_delivered": seq(s.peer_delivered),
        "peer_read": seq(s.peer_read),
        "role": s.role.map(role),
        "entries": entries(&s.entries),
        "complete_to": seq(s.complete_to),
        "unread": s.unread,
        "time_ms": long(s.time.0),
    })
}

pub(crate) fn server(message: &ServerMessage) -> Value {
    let (kind, body) = match &message.body {
        ServerBody::Error(e) => {
            let mut error = json!({
                "code": e.code.code(), "label": e.code.label(), "text": e.text, "retry_after_ms": e.retry_after_ms,
            });
            if e.client_seq.get() > 0 {
                error["client_seq"] = long(e.client_seq.get());
            }
            ("error", error)
        }
        ServerBody::LoginOk(ok) => (
            "login_ok",
            json!({
                "user": id(&ok.user),
                "version": ok.version,
                "features": ok.features,
                "time_ms": long(ok.time.0),
                "heartbeat_ms": ok.heartbeat_ms,
                "in_flight_max": ok.in_flight_max,
                "store_epoch": ok.epoch.as_ref().map(id),
            }),
        ),
        ServerBody::SendOk(ok) => (
            "send_ok",
            json!({
                "conversation": id(&ok.conversation),
                "seq": seq(ok.seq),
                "time_ms": long(ok.time.0),
                "duplicate": ok.duplicate,
            }),
        ),
        ServerBody::MarkOk => ("mark_ok", json!({})),
        ServerBody::SyncPage(page) => (
            "sync_page",
            json!({
                "conversations": page.conversations.iter().map(state).collect::<Vec<_>>(),
                "covered_until": maybe(&page.covered_until),
            }),
        ),
        ServerBody::HistoryPage(page) => (
            "history_page",
            json!({
                "conversation": id(&page.conversation),
                "head": seq(page.head),
                "floor": seq(page.floor),
                "entries": entries(&page.entries),
            }),
        ),
        ServerBody::ConversationPage(page) => (
            "conversation_page",
            json!({
                "conversations": page.conversations.iter().map(state).collect::<Vec<_>>(),
                "next": maybe(&page.next),
            }),
        ),
        ServerBody::MemberPage(page) => (
            "member_page",
            json!({
                "members": page.members.iter()
                    .map(|(user, r, joined)| json!({"user": id(user), "role": role(*r), "joined": seq(*joined)}))
                    .collect::<Vec<_>>(),
                "next": maybe(&page.next),
                "count": page.count,
            }),
        ),
        ServerBody::ReceiptPage(page) => {
            ("receipt_page", json!({"receipts": receipts(&page.receipts), "next": maybe(&page.next)}))
        }
        ServerBody::Push { conversation, entry: e } => {
            ("push", json!({"conversation": id(conversation), "entry": entry(e)}))
        }
        ServerBody::HeadMoved { conversation, head } => {
            ("head_moved", json!({"conversation": id(conversation), "head": seq(*head)}))
        }
        ServerBody::ReceiptsMoved(moved) => (
            "receipts_moved",
            json!({
                "conversation": id(&moved.conversation),
                "users": receipts(&moved.users),
                "counts": moved.counts.iter()
                    .map(|c| json!({
                        "seq": seq(c.seq), "delivered": c.delivered, "read": c.read, "members": c.members,
                    }))
                    .collect::<Vec<_>>(),
            }),
        ),
        ServerBody::Unknown => ("unknown", json!({})),
        ServerBody::GoingAway { reconnect_after_ms, targets } => {
            ("going_away", json!({"reconnect_after_ms": reconnect_after_ms, "targets": targets}))
        }
    };
    json!({"request_id": number(message.id), kind: body})
}
