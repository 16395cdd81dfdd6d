//! Requests of every kind, at their edges, and bytes that are none.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tern_protocol::convert::{encode_request, parse_request};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, RequestId, Seq};
use tern_protocol::limits::{FRAME_BYTES_MAX, HISTORY_ENTRIES_MAX, PAGE_ROWS_MAX};
use tern_protocol::model::{Change, Message, Role, Target};
use tern_protocol::pb::{self, client_frame::Request as R, send};
use tern_protocol::request::{
    History, HistoryFrom, Known, ListConversations, ListUsers, Login, Mark, Request, RequestBody, Send, Sync,
};

use crate::build::{DEVICE, device, direct, framed, framed_pb, group, id, text, user, users};
use crate::json::{self, hex, unhex};

fn vector(name: &str, frame: &Bytes) -> Value {
    let mut buf = BytesMut::from(&**frame);
    let Ok(Some(Frame::Message(message))) = frame::decode(&mut buf, FRAME_BYTES_MAX) else {
        panic!("{name} is not a frame")
    };
    match parse_request(message) {
        Ok(request) => json!({
            "name": name,
            "hex": hex(frame),
            "canonical": encode_request(&request) == *frame,
            "request": json::request(&request),
        }),
        Err(e) => json!({"name": name, "hex": hex(frame), "error": json::request_error(&e)}),
    }
}

/// Frames as our encoder makes them.
fn canonical() -> Vec<(&'static str, u64, RequestBody)> {
    let send = |target, client_seq, change| {
        RequestBody::Send(Send { target, client_seq: ClientSeq(client_seq), change })
    };
    let to_group = |n, change| send(Target::Conversation(group(7)), n, change);
    let to_bob = |n, change| send(Target::User(user("bob")), n, change);
    let message = |content_type: &str, payload: &'static [u8], reply_to| {
        Change::Message(Message {
            content_type: content_type.into(),
            payload: Bytes::from_static(payload),
            reply_to,
        })
    };
    let login = |token: &str, versions, features, client: &str| {
        RequestBody::Login(Login {
            token: token.into(),
            device: device(),
            versions,
            features,
            client: client.into(),
        })
    };
    let mut ids = [group(1), group(7), direct()];
    ids.sort_unstable();
    let [first, second, third] = ids;
    let mark =
        |conversation, delivered, read| Mark { conversation, delivered: Seq(delivered), read: Seq(read) };
    let users_page = |after, limit| ListUsers { conversation: group(7), after, limit };
    let history = |from, limit| RequestBody::History(History { conversation: group(7), from, limit });
    let rows = PAGE_ROWS_MAX as u32;
    vec![
        ("login", 1, login("header.claims.signature", (1, 1), vec![], "tern-cli/0.1.0")),
        ("login-least", 1, login("t", (1, 1), vec![], "")),
        (
            "login-range-and-features",
            u64::MAX,
            login("header.claims.signature", (1, 3), vec![1, 2, 300], "x"),
        ),
        ("login-versions-of-the-future", 1, login("t", (2, 4), vec![], "")),
        ("login-versions-upside-down", 1, login("t", (2, 1), vec![], "")),
        ("send-direct", 2, to_bob(1, Change::Message(text("hello")))),
        (
            "send-direct-by-conversation",
            3,
            send(Target::Conversation(direct()), 2, Change::Message(text("hello"))),
        ),
        ("send-group", 4, to_group(1, Change::Message(text("Žofie 🐦")))),
        ("send-empty-message", 5, to_group(2, message("", b"", None))),
        ("send-reply", 6, to_group(3, message("application/mls", b"\x00\xff\x80", Some(Seq(7))))),
        ("send-highest-numbers", 7, to_group(u64::MAX, message("", b"", Some(Seq(u64::MAX))))),
        (
            "send-create",
            8,
            to_group(1, Change::Create { title: "Ornithology".into(), members: users(&["bob", "carol"]) }),
        ),
        (
            "send-create-alone-untitled",
            9,
            to_group(1, Change::Create { title: String::new(), members: vec![] }),
        ),
        ("send-add", 10, to_group(4, Change::Add { members: users(&["dave", "erin"]) })),
        ("send-remove", 11, to_group(5, Change::Remove { member: user("dave") })),
        ("send-leave", 12, to_group(6, Change::Leave)),
        ("send-title", 13, to_group(7, Change::Title { title: "Birds".into() })),
        ("send-title-empty", 14, to_group(8, Change::Title { title: String::new() })),
        ("send-role-member", 15, to_group(9, Change::Role { member: user("bob"), role: Role::Member })),
        ("send-role-admin", 16, to_group(10, Change::Role { member: user("bob"), role: Role::Admin })),
        ("send-role-owner", 17, to_group(11, Change::Role { member: user("bob"), role: Role::Owner })),
        ("mark-delivered", 18, RequestBody::Mark(vec![mark(group(7), 5, 0)])),
        ("mark-delivered-and-read", 19, RequestBody::Mark(vec![mark(group(7), 5, 4), mark(direct(), 9, 9)])),
        ("mark-unanswered", 0, RequestBody::Mark(vec![mark(group(7), 300, 0)])),
        ("mark-nothing", 20, RequestBody::Mark(vec![])),
        (
            "sync-everything",
            21,
            RequestBody::Sync(Sync { known: vec![], after: None, until: None, latest: None }),
        ),
        (
            "sync-latest",
            22,
            RequestBody::Sync(Sync { known: vec![], after: None, until: None, latest: Some(50) }),
        ),
        (
            "sync-known",
            23,
            RequestBody::Sync(Sync {
                known: vec![
                    Known::entries(first, Seq(3)),
                    Known::entries(second, Seq(0)),
                    Known::entries(third, Seq(u64::MAX)),
                ],
                after: None,
                until: None,
                latest: None,
            }),
        ),
        (
            "sync-range",
            24,
            RequestBody::Sync(Sync {
                known: vec![Known::entries(second, Seq(3))],
                after: Some(first),
                until: Some(third),
                latest: Some(u32::MAX),
            }),
        ),
        (
            "sync-known-watermarks",
            35,
            RequestBody::Sync(Sync {
                known: vec![
                    Known { read: Seq(2), ..Known::entries(first, Seq(3)) },
                    Known {
                        read: Seq(300),
                        peer_delivered: Seq(299),
                        peer_read: Seq(1),
                        ..Known::entries(second, Seq(300))
                    },
                ],
                after: None,
                until: None,
                latest: None,
            }),
        ),
        ("history-forward", 25, history(HistoryFrom::Forward(Seq(1)), 100)),
        ("history-forward-from-0", 26, history(HistoryFrom::Forward(Seq(0)), 1)),
        ("history-backward", 27, history(HistoryFrom::Backward(Some(Seq(500))), HISTORY_ENTRIES_MAX as u32)),
        ("history-newest", 28, history(HistoryFrom::Backward(None), 1)),
        (
            "list-conversations",
            29,
            RequestBody::ListConversations(ListConversations { after: None, limit: rows }),
        ),
        (
            "list-conversations-after",
            30,
            RequestBody::ListConversations(ListConversations { after: Some(group(7)), limit: 1 }),
        ),
        ("list-members", 31, RequestBody::ListMembers(users_page(None, rows))),
        ("list-members-after", 32, RequestBody::ListMembers(users_page(Some(user("bob")), 2))),
        ("list-receipts", 33, RequestBody::ListReceipts(users_page(None, rows))),
        ("list-receipts-after", 34, RequestBody::ListReceipts(users_page(Some(user("bob")), 2))),
    ]
}

/// Frames that other encoders may make, and those that must be refused.
fn others() -> Vec<(&'static str, Bytes)> {
    let frame = |request| framed_pb(&pb::ClientFrame { request_id: 1, request: Some(request) });
    let group7 = || id(group(7).as_bytes());
    let bob = || id(user("bob").as_bytes());
    let short = || Bytes::from_static(&[1; 15]);
    let long = || Bytes::from_static(&[1; 17]);
    let to_group = || Some(send::Target::Conversation(group7()));
    let send = |target, client_seq, change| frame(R::Send(pb::Send { target, client_seq, change }));
    let hello = || {
        Some(send::Change::Message(pb::Message {
            content_type: "text/plain".into(),
            payload: Bytes::from_static(b"hello"),
            reply_to: 0,
        }))
    };
    let login = pb::Login {
        token: "t".into(),
        device: DEVICE,
        version_min: 1,
        version_max: 1,
        features: vec![],
        client: String::new(),
    };
    let watermark = |conversation, delivered, read| pb::Watermark { conversation, delivered, read };
    let mark = |marks| frame(R::Mark(pb::Mark { marks }));
    let known = |conversation, seq| pb::Known { conversation, seq, ..Default::default() };
    let sync = |known| frame(R::Sync(pb::Sync { known, ..Default::default() }));
    let mut sorted = [group(1), group(7)];
    sorted.sort_unstable();
    let [low, high] = sorted.map(|c| id(c.as_bytes()));
    let create = |members| Some(send::Change::Create(pb::GroupCreate { title: "t".into(), members }));
    let role = |role| Some(send::Change::Role(pb::RoleSet { member: bob(), role }));
    let descending = || {
        let mut members: Vec<Bytes> =
            users(&["bob", "carol", "dave"]).iter().map(|u| id(u.as_bytes())).collect();
        members.reverse();
        members
    };
    let mut unknown_field = encode_request(&Request {
        id: RequestId(1),
        body: RequestBody::ListConversations(ListConversations { after: None, limit: 5 }),
    })[1..]
        .to_vec();
    unknown_field.extend([0x82, 0x7d, 0x02, 0xab, 0xcd]); // field 2000, length 2
    let raw = |text: &str| framed(&unhex(&text.replace(' ', "")));
    vec![
        // Accepted, though our encoder writes it otherwise.
        ("list-conversations-limit-0", frame(R::ListConversations(pb::ListConversations::default()))),
        (
            "list-conversations-limit-above",
            frame(R::ListConversations(pb::ListConversations { limit: 501, ..Default::default() })),
        ),
        (
            "history-limit-0",
            frame(R::History(pb::History { conversation: group7(), from: 1, ..Default::default() })),
        ),
        (
            "history-limit-above",
            frame(R::History(pb::History {
                conversation: group7(),
                from: 1,
                limit: u32::MAX,
                ..Default::default()
            })),
        ),
        ("mark-read-raises-delivered", mark(vec![watermark(group7(), 3, 9), watermark(group7(), 0, 4)])),
        ("send-create-unsorted", send(to_group(), 1, create(descending()))),
        ("login-features-not-packed", raw("0801 1214 0a0174 11efcdab8967452301 1801 2001 2805 2806")),
        ("unknown-field", framed(&unknown_field)),
        ("request-id-behind-the-request", raw("3a00 0807")),
        ("request-id-overlong-varint", raw("08818000 3a00")),
        ("two-requests-the-last-counts", raw("0801 2a00 3a00")),
        // Refused.
        ("not-protobuf", framed(&[0xff; 4])),
        ("field-cut-off", raw("0801 1220 0a")),
        ("group-wire-type", raw("0801 0b")),
        ("token-not-utf-8", raw("0801 1203 0a01ff")),
        (
            "request-id-0",
            framed_pb(&pb::ClientFrame { request_id: 0, request: Some(R::Login(login.clone())) }),
        ),
        ("request-id-missing-and-unknown-request", raw("5200")),
        ("unknown-request", raw("0809 5200")),
        ("no-request", raw("0809")),
        ("login-empty", frame(R::Login(pb::Login::default()))),
        ("login-device-0", frame(R::Login(pb::Login { device: 0, ..login.clone() }))),
        ("login-no-token", frame(R::Login(pb::Login { token: String::new(), ..login.clone() }))),
        ("login-client-too-long", frame(R::Login(pb::Login { client: "c".repeat(65), ..login.clone() }))),
        ("login-too-many-features", frame(R::Login(pb::Login { features: (1..=65).collect(), ..login }))),
        ("send-no-target", send(None, 1, hello())),
        ("send-no-change", send(to_group(), 1, None)),
        ("send-unknown-change", raw("0801 1a16 0a10 01010101010141018101010101010101 1801 5a00")),
        ("send-client-seq-0", send(to_group(), 0, hello())),
        ("send-conversation-of-15-bytes", send(Some(send::Target::Conversation(short())), 1, hello())),
        ("send-conversation-empty", send(Some(send::Target::Conversation(Bytes::new())), 1, hello())),
        ("send-user-of-17-bytes", send(Some(send::Target::User(long())), 1, hello())),
        (
            "send-leave-to-user",
            send(Some(send::Target::User(bob())), 1, Some(send::Change::Leave(pb::Leave {}))),
        ),
        ("send-create-to-user", send(Some(send::Target::User(bob())), 1, create(vec![]))),
        (
            "send-create-on-a-direct-id",
            send(Some(send::Target::Conversation(id(direct().as_bytes()))), 1, create(vec![])),
        ),
        ("send-create-twice-a-member", send(to_group(), 1, create(vec![bob(), bob()]))),
        ("send-create-member-of-15-bytes", send(to_group(), 1, create(vec![short()]))),
        ("send-add-nobody", send(to_group(), 1, Some(send::Change::Add(pb::MembersAdd::default())))),
        ("send-remove-nobody", send(to_group(), 1, Some(send::Change::Remove(pb::MemberRemove::default())))),
        ("send-role-unspecified", send(to_group(), 1, role(0))),
        ("send-role-unknown", send(to_group(), 1, role(4))),
        ("send-role-negative", send(to_group(), 1, role(-1))),
        (
            "send-title-too-long",
            send(to_group(), 1, Some(send::Change::Title(pb::TitleSet { title: "é".repeat(128) + "x" }))),
        ),
        (
            "send-content-type-too-long",
            send(
                to_group(),
                1,
                Some(send::Change::Message(pb::Message {
                    content_type: "c".repeat(129),
                    ..Default::default()
                })),
            ),
        ),
        ("mark-says-nothing", mark(vec![watermark(group7(), 0, 0)])),
        ("mark-conversation-missing", mark(vec![watermark(Bytes::new(), 1, 0)])),
        (
            "mark-unanswered-and-wrong",
            framed_pb(&pb::ClientFrame {
                request_id: 0,
                request: Some(R::Mark(pb::Mark { marks: vec![watermark(group7(), 0, 0)] })),
            }),
        ),
        ("sync-unsorted", sync(vec![known(high.clone(), 1), known(low.clone(), 1)])),
        ("sync-twice", sync(vec![known(low.clone(), 1), known(low, 2)])),
        ("sync-known-of-15-bytes", sync(vec![known(short(), 1)])),
        ("sync-after-of-15-bytes", frame(R::Sync(pb::Sync { after: short(), ..Default::default() }))),
        ("sync-until-of-17-bytes", frame(R::Sync(pb::Sync { until: long(), ..Default::default() }))),
        ("history-conversation-missing", frame(R::History(pb::History::default()))),
        (
            "list-conversations-after-of-15-bytes",
            frame(R::ListConversations(pb::ListConversations { after: short(), limit: 0 })),
        ),
        ("list-members-conversation-missing", frame(R::ListMembers(pb::ListMembers::default()))),
        (
            "list-receipts-after-of-17-bytes",
            frame(R::ListReceipts(pb::ListReceipts { conversation: group7(), after: long(), limit: 0 })),
        ),
    ]
}

pub(crate) fn cases() -> Vec<Value> {
    let canonical = canonical().into_iter().map(|(name, number, body)| {
        let request = Request { id: RequestId(number), body };
        let vector = vector(name, &encode_request(&request));
        assert_eq!(vector["canonical"], true, "{name}");
        assert_eq!(vector["request"], json::request(&request), "{name}");
        vector
    });
    canonical.chain(others().iter().map(|(name, frame)| vector(name, frame))).collect()
}
