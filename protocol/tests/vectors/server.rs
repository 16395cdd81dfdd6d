//! Answers and events of every kind, entries with every change, and what a newer or broken server might send.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use serde_json::{Value, json};
use tern_protocol::convert::{decode_entry, encode_entry, encode_server, parse_server};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{
    ConversationPage, ConversationState, HistoryPage, LoginOk, MemberPage, ReceiptCount, ReceiptPage,
    ReceiptsMoved, SendOk, ServerBody, ServerMessage, SyncPage, UserReceipt, WireError,
};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, RequestId, Seq, StoreEpoch};
use tern_protocol::limits::{FRAME_BYTES_MAX, HEARTBEAT_MS, IN_FLIGHT_MAX};
use tern_protocol::model::{Change, Entry, Kind, Message, Role, WallMillis};
use tern_protocol::pb::{self, server_frame::Body};

use crate::build::{TIME, direct, entry, framed, framed_pb, group, id, text, user, users};
use crate::json::{self, hex, unhex};

fn vector(name: &str, frame: &Bytes) -> Value {
    let mut buf = BytesMut::from(&**frame);
    let Ok(Some(Frame::Message(message))) = frame::decode(&mut buf, FRAME_BYTES_MAX) else {
        panic!("{name} is not a frame")
    };
    match parse_server(message) {
        Ok(Some(message)) => json!({
            "name": name,
            "hex": hex(frame),
            "canonical": encode_server(&message) == *frame,
            "message": json::server(&message),
        }),
        Ok(None) => json!({"name": name, "hex": hex(frame), "skip": true}),
        Err(e) => json!({"name": name, "hex": hex(frame), "malformed": e.what}),
    }
}

fn group_state() -> ConversationState {
    ConversationState {
        conversation: group(7),
        kind: Kind::Group,
        title: "Ornithology".into(),
        peer: None,
        head: Seq(12),
        floor: Seq(1),
        read: Seq(4),
        peer_delivered: Seq(0),
        peer_read: Seq(0),
        role: Some(Role::Admin),
        entries: vec![],
        complete_to: Seq(0),
        unread: 0,
        time: WallMillis(TIME),
    }
}

fn direct_state() -> ConversationState {
    ConversationState {
        conversation: direct(),
        kind: Kind::Direct,
        title: String::new(),
        peer: Some(user("bob")),
        role: Some(Role::Member),
        peer_delivered: Seq(12),
        peer_read: Seq(11),
        ..group_state()
    }
}

fn canonical() -> Vec<(String, u64, ServerBody)> {
    let mut all: Vec<(&str, u64, ServerBody)> = vec![
        (
            "login-ok",
            1,
            ServerBody::LoginOk(LoginOk {
                user: user("alice"),
                version: 1,
                features: vec![],
                time: WallMillis(TIME),
                heartbeat_ms: HEARTBEAT_MS as u32,
                in_flight_max: IN_FLIGHT_MAX as u32,
                epoch: Some(StoreEpoch::from_bytes([
                    0x5e, 0x70, 0xc4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc,
                ])),
            }),
        ),
        (
            "login-ok-with-features",
            1,
            ServerBody::LoginOk(LoginOk {
                user: user("alice"),
                version: 2,
                features: vec![1, 300],
                time: WallMillis(0),
                heartbeat_ms: 1,
                in_flight_max: 1,
                epoch: None,
            }),
        ),
        (
            "send-ok",
            2,
            ServerBody::SendOk(SendOk {
                conversation: direct(),
                seq: Seq(1),
                time: WallMillis(TIME),
                duplicate: false,
            }),
        ),
        (
            "send-ok-duplicate",
            3,
            ServerBody::SendOk(SendOk {
                conversation: group(7),
                seq: Seq(u64::MAX),
                time: WallMillis(TIME),
                duplicate: true,
            }),
        ),
        ("mark-ok", 4, ServerBody::MarkOk),
        ("sync-page-empty", 5, ServerBody::SyncPage(SyncPage { conversations: vec![], covered_until: None })),
        (
            "sync-page",
            6,
            ServerBody::SyncPage(SyncPage {
                conversations: vec![
                    ConversationState {
                        entries: vec![
                            entry(11, Change::Message(text("one"))),
                            entry(12, Change::Title { title: "Birds".into() }),
                        ],
                        complete_to: Seq(12),
                        ..group_state()
                    },
                    ConversationState {
                        entries: vec![entry(3, Change::Message(text("three")))],
                        complete_to: Seq(3),
                        ..direct_state()
                    },
                ],
                covered_until: Some(direct()),
            }),
        ),
        (
            "sync-page-membership-ended",
            7,
            ServerBody::SyncPage(SyncPage {
                conversations: vec![ConversationState {
                    title: String::new(),
                    role: None,
                    entries: vec![entry(12, Change::Remove { member: user("bob") })],
                    complete_to: Seq(12),
                    ..group_state()
                }],
                covered_until: None,
            }),
        ),
        (
            "history-page",
            8,
            ServerBody::HistoryPage(HistoryPage {
                conversation: group(7),
                head: Seq(12),
                floor: Seq(3),
                entries: vec![
                    entry(3, Change::Message(text("three"))),
                    entry(4, Change::Leave),
                    entry(5, Change::Message(text(""))),
                ],
            }),
        ),
        (
            "history-page-empty",
            9,
            ServerBody::HistoryPage(HistoryPage {
                conversation: group(7),
                head: Seq(12),
                floor: Seq(13),
                entries: vec![],
            }),
        ),
        (
            "conversation-page",
            10,
            ServerBody::ConversationPage(ConversationPage {
                conversations: vec![
                    ConversationState {
                        entries: vec![entry(12, Change::Message(text("last")))],
                        unread: 100,
                        ..group_state()
                    },
                    ConversationState { unread: 3, ..direct_state() },
                ],
                next: Some(direct()),
            }),
        ),
        (
            "conversation-page-empty",
            11,
            ServerBody::ConversationPage(ConversationPage { conversations: vec![], next: None }),
        ),
        (
            "member-page",
            12,
            ServerBody::MemberPage(MemberPage {
                members: vec![
                    (user("alice"), Role::Owner, Seq(1)),
                    (user("bob"), Role::Admin, Seq(1)),
                    (user("carol"), Role::Member, Seq(200)),
                ],
                next: Some(user("carol")),
                count: 7,
            }),
        ),
        (
            "receipt-page",
            13,
            ServerBody::ReceiptPage(ReceiptPage {
                receipts: vec![UserReceipt { user: user("bob"), delivered: Seq(12), read: Seq(0) }],
                next: None,
            }),
        ),
        (
            "push-direct",
            0,
            ServerBody::Push { conversation: direct(), entry: entry(1, Change::Message(text("hello"))) },
        ),
        ("head-moved", 0, ServerBody::HeadMoved { conversation: group(7), head: Seq(1_000_000) }),
        (
            "receipts-moved-direct",
            0,
            ServerBody::ReceiptsMoved(ReceiptsMoved {
                conversation: direct(),
                users: vec![UserReceipt { user: user("bob"), delivered: Seq(12), read: Seq(11) }],
                counts: vec![],
            }),
        ),
        (
            "receipts-moved-group",
            0,
            ServerBody::ReceiptsMoved(ReceiptsMoved {
                conversation: group(7),
                users: vec![],
                counts: vec![
                    ReceiptCount { seq: Seq(11), delivered: 6, read: 6, members: 6 },
                    ReceiptCount { seq: Seq(12), delivered: 5, read: 0, members: 6 },
                ],
            }),
        ),
        ("going-away", 0, ServerBody::GoingAway { reconnect_after_ms: 1_500, targets: Vec::new() }),
        ("going-away-at-once", 0, ServerBody::GoingAway { reconnect_after_ms: 0, targets: Vec::new() }),
        (
            "going-away-to",
            0,
            ServerBody::GoingAway {
                reconnect_after_ms: 250,
                targets: vec!["b.chat.example.com:7443".into(), "[2001:db8::3]:7443".into()],
            },
        ),
    ];
    let error = |number, code, text: &str, retry_after_ms| {
        (
            number,
            ServerBody::Error(WireError {
                code,
                text: text.into(),
                retry_after_ms,
                client_seq: ClientSeq(0),
            }),
        )
    };
    let (number, body) = error(9, ErrorCode::InvalidArgument, "client_seq is 0", 0);
    all.push(("error-of-a-request", number, body));
    let (number, body) = error(0, ErrorCode::TakenOver, "", 0);
    all.push(("error-of-the-connection", number, body));
    let (number, body) = error(9, ErrorCode::Overloaded, "later", 250);
    all.push(("error-with-advice", number, body));
    let (code, client_seq) = (ErrorCode::ClientSeqUsed, ClientSeq(300));
    let body = WireError { code, text: "used".into(), retry_after_ms: 0, client_seq };
    all.push(("error-with-number", 9, ServerBody::Error(body)));

    let mut all: Vec<_> = all.into_iter().map(|(name, n, body)| (name.to_string(), n, body)).collect();
    for &code in ErrorCode::ALL {
        let body = ServerBody::Error(WireError {
            code,
            text: String::new(),
            retry_after_ms: 0,
            client_seq: ClientSeq(0),
        });
        all.push((format!("error-code-{}", code.label()), 1, body));
    }
    for (name, entry) in entries() {
        all.push((format!("push-{name}"), 0, ServerBody::Push { conversation: group(7), entry }));
    }
    all
}

fn others() -> Vec<(&'static str, Bytes)> {
    let frame = |body| framed_pb(&pb::ServerFrame { request_id: 1, body: Some(body) });
    let raw = |text: &str| framed(&unhex(&text.replace(' ', "")));
    let state = |kind, role| {
        frame(Body::SyncPage(pb::SyncPage {
            conversations: vec![pb::ConversationState {
                conversation: id(group(7).as_bytes()),
                kind,
                role,
                ..Default::default()
            }],
            covered_until: Bytes::new(),
        }))
    };
    vec![
        ("error-code-unknown", frame(Body::Error(pb::Error { code: 9_999, ..Default::default() }))),
        ("error-code-0", frame(Body::Error(pb::Error::default()))),
        ("answer-of-unknown-kind", raw("0801 5a00")),
        ("event-of-unknown-kind", raw("a20100")),
        ("mark-ok-with-unknown-field", raw("0801 2a02 0801")),
        ("not-protobuf", framed(&[0xff; 4])),
        ("login-ok-without-user", frame(Body::LoginOk(pb::LoginOk::default()))),
        (
            "login-ok-with-short-epoch",
            frame(Body::LoginOk(pb::LoginOk {
                user: id(user("alice").as_bytes()),
                store_epoch: Bytes::from_static(&[7; 15]),
                ..Default::default()
            })),
        ),
        ("send-ok-without-conversation", frame(Body::SendOk(pb::SendOk::default()))),
        (
            "push-without-entry",
            frame(Body::Push(pb::Push { conversation: id(group(7).as_bytes()), entry: None })),
        ),
        ("state-of-kind-unspecified", state(0, 1)),
        ("state-of-unknown-kind", state(3, 1)),
        ("state-with-unknown-role", state(2, 9)),
        (
            "member-with-unknown-role",
            frame(Body::MemberPage(pb::MemberPage {
                members: vec![pb::Member { user: id(user("bob").as_bytes()), role: 9, joined: 1 }],
                next: Bytes::new(),
                count: 1,
            })),
        ),
    ]
}

pub(crate) fn cases() -> Vec<Value> {
    let canonical = canonical().into_iter().map(|(name, number, body)| {
        let message = ServerMessage { id: RequestId(number), body };
        let vector = vector(&name, &encode_server(&message));
        assert_eq!(vector["canonical"], true, "{name}");
        assert_eq!(vector["message"], json::server(&message), "{name}");
        vector
    });
    canonical.chain(others().iter().map(|(name, frame)| vector(name, frame))).collect()
}

fn entries() -> Vec<(&'static str, Entry)> {
    let reply = Message { reply_to: Some(Seq(1)), ..text("hello") };
    let highest = Entry {
        seq: Seq(u64::MAX),
        time: WallMillis(u64::MAX),
        client_seq: tern_protocol::ids::ClientSeq(u64::MAX),
        ..entry(1, Change::Leave)
    };
    vec![
        ("message", entry(2, Change::Message(text("hello")))),
        ("message-reply", entry(3, Change::Message(reply))),
        (
            "message-empty",
            entry(
                4,
                Change::Message(Message {
                    content_type: String::new(),
                    payload: Bytes::new(),
                    reply_to: None,
                }),
            ),
        ),
        (
            "created",
            entry(1, Change::Create { title: "Ornithology".into(), members: users(&["bob", "carol"]) }),
        ),
        ("created-alone", entry(1, Change::Create { title: String::new(), members: vec![] })),
        ("added", entry(5, Change::Add { members: users(&["dave"]) })),
        ("removed", entry(6, Change::Remove { member: user("dave") })),
        ("left", entry(7, Change::Leave)),
        ("title", entry(8, Change::Title { title: "Birds".into() })),
        ("title-empty", entry(9, Change::Title { title: String::new() })),
        ("role-member", entry(10, Change::Role { member: user("bob"), role: Role::Member })),
        ("role-admin", entry(11, Change::Role { member: user("bob"), role: Role::Admin })),
        ("role-owner", entry(12, Change::Role { member: user("bob"), role: Role::Owner })),
        ("unknown", entry(13, Change::Unknown)),
        ("highest-numbers", highest),
    ]
}

pub(crate) fn entry_cases() -> Vec<Value> {
    let vector = |name: &str, bytes: Bytes| match decode_entry(bytes.clone()) {
        Ok(entry) => json!({
            "name": name,
            "hex": hex(&bytes),
            "canonical": encode_entry(&entry) == bytes,
            "entry": json::entry(&entry),
        }),
        Err(e) => json!({"name": name, "hex": hex(&bytes), "malformed": e.what}),
    };
    let mut all: Vec<Value> = Vec::new();
    for (name, entry) in entries() {
        let vector = vector(name, encode_entry(&entry));
        assert_eq!(vector["canonical"], true, "{name}");
        assert_eq!(vector["entry"], json::entry(&entry), "{name}");
        all.push(vector);
    }
    let left = encode_entry(&entry(7, Change::Leave));
    let pb_left = || pb::Entry::decode(left.clone()).expect("an entry");
    let mut edited = encode_entry(&entry(7, Change::Unknown)).to_vec();
    edited.extend([0x6a, 0x02, 0x08, 0x05]); // field 13, which a later schema gives to edits
    let others: Vec<(&str, Bytes)> = vec![
        ("of-a-later-kind", edited.into()),
        ("seq-0", pb::Entry { seq: 0, ..pb_left() }.encode_to_vec().into()),
        ("device-0", pb::Entry { device: 0, ..pb_left() }.encode_to_vec().into()),
        ("no-sender", pb::Entry { sender: Bytes::new(), ..pb_left() }.encode_to_vec().into()),
        (
            "role-of-a-later-kind",
            pb::Entry {
                body: Some(pb::entry::Body::Role(pb::RoleSet {
                    member: id(user("bob").as_bytes()),
                    role: 9,
                })),
                ..pb_left()
            }
            .encode_to_vec()
            .into(),
        ),
        ("empty", Bytes::new()),
        ("cut-off", left.slice(..left.len() - 1)),
        ("not-protobuf", Bytes::from_static(&[0xff; 4])),
    ];
    all.extend(others.into_iter().map(|(name, bytes)| vector(name, bytes)));
    all
}
