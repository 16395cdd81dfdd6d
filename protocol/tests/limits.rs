//! Each limit at its edge: what is just allowed is taken, what is just beyond is refused with a text that names it.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tern_protocol::convert::{RequestError, encode_server, parse_request};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{
    ConversationState, HistoryPage, MemberPage, ReceiptPage, ServerBody, ServerMessage, SyncPage, UserReceipt,
};
use tern_protocol::frame::{self, Frame, FrameError};
use tern_protocol::handshake::{OURS, Speaks, agree};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::{
    CLIENT_NAME_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, ENTRY_BYTES_MAX, FEATURES_MAX,
    FRAME_BEFORE_LOGIN_BYTES_MAX, FRAME_BYTES_MAX, HISTORY_ENTRIES_MAX, KNOWN_BYTES_MAX, MARKS_MAX,
    MEMBERS_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX, PAYLOAD_BYTES_MAX, STATE_BYTES_MAX, SYNC_CONVERSATIONS_MAX,
    SYNC_KNOWN_BEFORE_LOGIN_MAX, SYNC_KNOWN_MAX, SYNC_REST_BYTES_MAX, TITLE_BYTES_MAX, TOKEN_BYTES_MAX,
    VERSION_MAX,
};
use tern_protocol::model::{Change, Entry, Kind, Message, Role, Sender, WallMillis};
use tern_protocol::pb::{self, client_frame::Request as R, send};
use tern_protocol::request::{HistoryFrom, Request, RequestBody};

fn parse(request: R) -> Result<Request, RequestError> {
    parse_request(pb::ClientFrame { request_id: 5, request: Some(request) }.encode_to_vec().into())
}

/// `make(most)` is allowed; `make(most + 1)` is not, and the text contains `names`.
#[track_caller]
fn edge(most: usize, names: &str, make: impl Fn(usize) -> R) {
    if let Err(e) = parse(make(most)) {
        panic!("{most} are allowed, but: {e:?}");
    }
    refused(make(most + 1), names);
}

#[track_caller]
fn refused(request: R, names: &str) {
    let error = parse(request).expect_err("beyond the limit");
    assert_eq!((error.id, error.code), (RequestId(5), ErrorCode::InvalidArgument));
    assert!(error.text.contains(names), "{:?} does not name {names:?}", error.text);
}

fn id(n: usize) -> Bytes {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    Bytes::copy_from_slice(&id)
}

fn ids(n: usize) -> Vec<Bytes> {
    (0..n).map(id).collect()
}

fn group() -> Bytes {
    Bytes::copy_from_slice(ConversationId::group_from_random([7; 16]).as_bytes())
}

fn login() -> pb::Login {
    pb::Login { token: "t".into(), device: 1, version_min: 1, version_max: 1, ..Default::default() }
}

fn send(change: send::Change) -> R {
    R::Send(pb::Send {
        target: Some(send::Target::Conversation(group())),
        client_seq: 1,
        change: Some(change),
    })
}

#[test]
fn login_limits() {
    edge(TOKEN_BYTES_MAX, "token", |n| R::Login(pb::Login { token: "t".repeat(n), ..login() }));
    refused(R::Login(pb::Login { token: String::new(), ..login() }), "token");
    edge(CLIENT_NAME_BYTES_MAX, "client", |n| R::Login(pb::Login { client: "c".repeat(n), ..login() }));
    edge(FEATURES_MAX, "features", |n| R::Login(pb::Login { features: vec![u32::MAX; n], ..login() }));
    refused(R::Login(pb::Login { device: 0, ..login() }), "device");
    parse(R::Login(pb::Login { device: u64::MAX, ..login() })).expect("any device but 0");
}

#[test]
fn the_largest_login_fits_a_frame_before_login() {
    let largest = pb::Login {
        token: "t".repeat(TOKEN_BYTES_MAX),
        device: u64::MAX,
        version_min: u32::MAX,
        version_max: u32::MAX,
        features: vec![u32::MAX; FEATURES_MAX],
        client: "c".repeat(CLIENT_NAME_BYTES_MAX),
    };
    let frame = pb::ClientFrame { request_id: u64::MAX, request: Some(R::Login(largest)) };
    assert!(frame.encoded_len() <= FRAME_BEFORE_LOGIN_BYTES_MAX, "{}", frame.encoded_len());
}

#[test]
fn message_limits() {
    let message = |content_type: usize, payload: usize| {
        send(send::Change::Message(pb::Message {
            content_type: "c".repeat(content_type),
            payload: vec![0xab; payload].into(),
            reply_to: u64::MAX,
        }))
    };
    edge(PAYLOAD_BYTES_MAX, "payload", |n| message(CONTENT_TYPE_BYTES_MAX, n));
    edge(CONTENT_TYPE_BYTES_MAX, "content_type", |n| message(n, PAYLOAD_BYTES_MAX));
    parse(message(0, 0)).expect("a message may be empty");
}

#[test]
fn group_limits() {
    let create = |title: usize, members: usize| {
        send(send::Change::Create(pb::GroupCreate { title: "t".repeat(title), members: ids(members) }))
    };
    // The owner is one of the members.
    edge(MEMBERS_MAX - 1, "members", |n| create(TITLE_BYTES_MAX, n));
    edge(TITLE_BYTES_MAX, "title", |n| create(n, MEMBERS_MAX - 1));
    edge(TITLE_BYTES_MAX, "title", |n| send(send::Change::Title(pb::TitleSet { title: "t".repeat(n) })));
    // Bytes count, not characters.
    refused(send(send::Change::Title(pb::TitleSet { title: "é".repeat(TITLE_BYTES_MAX / 2 + 1) })), "title");
    edge(MEMBERS_MAX, "members", |n| send(send::Change::Add(pb::MembersAdd { members: ids(n) })));
    refused(send(send::Change::Add(pb::MembersAdd { members: vec![] })), "members");
    let mut twice = ids(MEMBERS_MAX - 1);
    twice.push(id(3));
    refused(send(send::Change::Add(pb::MembersAdd { members: twice })), "members");
}

#[test]
fn send_limits() {
    let leave = |client_seq| {
        R::Send(pb::Send {
            target: Some(send::Target::Conversation(group())),
            client_seq,
            change: Some(send::Change::Leave(pb::Leave {})),
        })
    };
    refused(leave(0), "client_seq");
    parse(leave(1)).expect("the first number");
    parse(leave(u64::MAX)).expect("the last number");
    let to = |target| {
        R::Send(pb::Send {
            target,
            client_seq: 1,
            change: Some(send::Change::Message(pb::Message::default())),
        })
    };
    refused(to(None), "neither conversation nor user");
    for wrong in [0, 15, 17] {
        let bytes = Bytes::from(vec![1; wrong]);
        refused(to(Some(send::Target::Conversation(bytes.clone()))), "conversation id is 16 bytes");
        refused(to(Some(send::Target::User(bytes))), "user id is 16 bytes");
    }
}

#[test]
fn mark_limits() {
    let mark = |marks| R::Mark(pb::Mark { marks });
    let watermark = |delivered, read| pb::Watermark { conversation: group(), delivered, read };
    edge(MARKS_MAX, "watermarks", |n| mark(vec![watermark(1, 0); n]));
    parse(mark(vec![])).expect("no watermarks at all");
    parse(mark(vec![watermark(u64::MAX, u64::MAX)])).expect("whether the head is that high, the owner knows");
    refused(mark(vec![watermark(1, 0), watermark(0, 0)]), "watermark");
}

#[test]
fn sync_limits() {
    let largest = |conversation| pb::Known {
        conversation,
        seq: u64::MAX,
        read: u64::MAX,
        peer_delivered: u64::MAX,
        peer_read: u64::MAX,
    };
    let known = |n| ids(n).into_iter().map(largest).collect();
    edge(SYNC_KNOWN_MAX, "known", |n| R::Sync(pb::Sync { known: known(n), ..Default::default() }));
    for (count, most) in [
        (SYNC_KNOWN_MAX, FRAME_BYTES_MAX),
        (SYNC_KNOWN_BEFORE_LOGIN_MAX, FRAME_BEFORE_LOGIN_BYTES_MAX),
        (1, KNOWN_BYTES_MAX + SYNC_REST_BYTES_MAX),
    ] {
        let sync = pb::Sync { known: known(count), after: id(1), until: id(2), latest: u32::MAX };
        let frame = pb::ClientFrame { request_id: u64::MAX, request: Some(R::Sync(sync)) };
        assert!(frame.encoded_len() <= most, "{count}: {}", frame.encoded_len());
    }
}

#[test]
fn page_limits() {
    #[track_caller]
    fn check(request: R, expected: u32) {
        let limit = match parse(request).expect("any limit is taken").body {
            RequestBody::History(h) => {
                assert_eq!(h.from, HistoryFrom::Forward(Seq(1)));
                h.limit
            }
            RequestBody::ListConversations(l) => l.limit,
            RequestBody::ListMembers(l) | RequestBody::ListReceipts(l) => l.limit,
            other => panic!("{other:?}"),
        };
        assert_eq!(limit, expected);
    }
    let history = |limit| R::History(pb::History { conversation: group(), from: 1, backward: false, limit });
    let conversations = |limit| R::ListConversations(pb::ListConversations { after: Bytes::new(), limit });
    let members =
        |limit| R::ListMembers(pb::ListMembers { conversation: group(), after: Bytes::new(), limit });
    let receipts =
        |limit| R::ListReceipts(pb::ListReceipts { conversation: group(), after: Bytes::new(), limit });
    let (entries, rows) = (HISTORY_ENTRIES_MAX as u32, PAGE_ROWS_MAX as u32);
    for (asked, expected) in
        [(0, entries), (1, 1), (entries, entries), (entries + 1, entries), (u32::MAX, entries)]
    {
        check(history(asked), expected);
    }
    for (asked, expected) in [(0, rows), (1, 1), (rows, rows), (rows + 1, rows), (u32::MAX, rows)] {
        check(conversations(asked), expected);
        check(members(asked), expected);
        check(receipts(asked), expected);
    }
}

#[test]
fn frame_limits() {
    #[track_caller]
    fn check(length: usize, max: usize, allowed: bool) {
        let mut prefix = BytesMut::new();
        prost::encoding::encode_varint(length as u64, &mut prefix);
        let mut buf = prefix.clone();
        if !allowed {
            // The length alone shows it: nothing is waited for.
            assert!(matches!(frame::decode(&mut buf, max), Err(FrameError::TooLarge { .. })));
            return;
        }
        assert_eq!(frame::missing(&buf), length);
        assert_eq!(frame::decode(&mut buf, max), Ok(None));
        buf.resize(prefix.len() + length - 1, 1);
        assert_eq!(frame::decode(&mut buf, max), Ok(None));
        assert_eq!(frame::missing(&buf), 1);
        buf.resize(prefix.len() + length, 1);
        let frame = frame::decode(&mut buf, max).expect("within the limit").expect("complete");
        assert_eq!(frame, Frame::Message(vec![1; length].into()));
        assert!(buf.is_empty());
    }
    for max in [FRAME_BEFORE_LOGIN_BYTES_MAX, FRAME_BYTES_MAX] {
        for (length, allowed) in
            [(1, true), (127, true), (128, true), (max - 1, true), (max, true), (max + 1, false)]
        {
            check(length, max, allowed);
        }
    }
    check((1 << 21) - 1, FRAME_BYTES_MAX, false);
    check(1 << 21, FRAME_BYTES_MAX, false);
    check(u32::MAX as usize, FRAME_BYTES_MAX, false);
}

#[test]
fn versions_at_their_edges() {
    let check = |first, last, expected: Option<u32>| {
        let agreed = agree(OURS, Speaks { versions: (first, last), features: &[] });
        assert_eq!(agreed.map(|a| a.version), expected, "{first} to {last}");
    };
    check(0, 0, None);
    check(0, 1, Some(1));
    check(1, 1, Some(1));
    check(1, u32::MAX, Some(VERSION_MAX));
    check(VERSION_MAX + 1, u32::MAX, None);
    check(u32::MAX, u32::MAX, None);
    check(1, 0, None);
}

fn largest_message() -> Entry {
    Entry {
        seq: Seq(u64::MAX),
        time: WallMillis(u64::MAX),
        sender: Sender {
            user: UserId::from_bytes([0xff; 16]),
            device: DeviceId::new(u64::MAX).expect("not 0"),
        },
        client_seq: ClientSeq(u64::MAX),
        change: Change::Message(Message {
            content_type: "c".repeat(CONTENT_TYPE_BYTES_MAX),
            payload: vec![0xff; PAYLOAD_BYTES_MAX].into(),
            reply_to: Some(Seq(u64::MAX)),
        }),
    }
}

#[test]
fn the_largest_entries_fit_the_store() {
    let members = |n: usize| {
        (0..n)
            .map(|n| {
                let mut id = [0xff; 16];
                id[..8].copy_from_slice(&(n as u64).to_be_bytes());
                UserId::from_bytes(id)
            })
            .collect()
    };
    for change in [
        largest_message().change,
        Change::Create { title: "t".repeat(TITLE_BYTES_MAX), members: members(MEMBERS_MAX - 1) },
        Change::Add { members: members(MEMBERS_MAX) },
    ] {
        let bytes = tern_protocol::convert::encode_entry(&Entry { change, ..largest_message() });
        assert!(bytes.len() <= ENTRY_BYTES_MAX, "{}", bytes.len());
    }
}

#[test]
fn the_largest_pages_fit_a_frame() {
    #[track_caller]
    fn fits(body: ServerBody) {
        encode_server(&ServerMessage { id: RequestId(u64::MAX), body });
    }
    let entry_bytes = tern_protocol::convert::encode_entry(&largest_message()).len();
    // A page is full as soon as its entries reach `PAGE_BYTES_MAX`, so the last one may stick out.
    let entries = vec![largest_message(); PAGE_BYTES_MAX / entry_bytes + 1];
    let conversation = ConversationId::from_bytes([0xff; 16]);
    let (head, floor) = (Seq(u64::MAX), Seq(u64::MAX));
    fits(ServerBody::HistoryPage(HistoryPage { conversation, head, floor, entries: entries.clone() }));

    let user = UserId::from_bytes([0xff; 16]);
    let members = vec![(user, Role::Owner, Seq(u64::MAX)); PAGE_ROWS_MAX];
    fits(ServerBody::MemberPage(MemberPage { members, next: Some(user), count: u32::MAX }));
    let receipts = vec![UserReceipt { user, delivered: head, read: head }; PAGE_ROWS_MAX];
    fits(ServerBody::ReceiptPage(ReceiptPage { receipts, next: Some(user) }));

    let state = |entries| ConversationState {
        conversation,
        kind: Kind::Group,
        title: "t".repeat(TITLE_BYTES_MAX),
        peer: Some(user),
        head,
        floor,
        read: head,
        peer_delivered: head,
        peer_read: head,
        role: Some(Role::Owner),
        entries,
        complete_to: head,
        unread: 100,
        time: WallMillis(u64::MAX),
    };
    let mut conversations = vec![state(vec![]); PAGE_ROWS_MAX - 1];
    conversations.push(state(entries));
    fits(ServerBody::SyncPage(SyncPage { conversations, covered_until: Some(conversation) }));

    // As many conversations as one Sync looks at do not fit if all of them go into the page: the page has to be cut
    // by bytes as well, the conversations' own included.
    let one = encode_server(&ServerMessage {
        id: RequestId(1),
        body: ServerBody::SyncPage(SyncPage { conversations: vec![state(vec![])], covered_until: None }),
    });
    assert!(one.len() * SYNC_CONVERSATIONS_MAX > FRAME_BYTES_MAX);
    // The frame's own length and `request_id` are 5 bytes.
    assert!(one.len() <= STATE_BYTES_MAX + 5, "{}", one.len());
}

/// The tables of limits and timeouts in `spec/wire.md` have these numbers.
#[test]
fn the_specification_has_the_same_limits() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/wire.md");
    let wire = std::fs::read_to_string(path).expect("spec/wire.md");
    let (_, section) = wire.split_once("\n## 10 ").expect("a section of limits");
    let (section, _) = section.split_once("\n## 11 ").expect("a section after it");
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).collect();
    #[track_caller]
    fn check(rows: &[&str], label: &str, numbers: &[u64]) {
        let row = rows.iter().find(|row| row.starts_with(&format!("| {label}")));
        let row = row.unwrap_or_else(|| panic!("no row {label:?}"));
        let cell = row.split('|').nth(2).expect("a second column").replace(',', "");
        let found: Vec<u64> = cell
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| !digits.is_empty())
            .map(|digits| digits.parse().expect("a number"))
            .take(numbers.len())
            .collect();
        assert_eq!(found, numbers, "{row}");
    }
    use tern_protocol::limits as l;
    let n = |n: usize| n as u64;
    check(&rows, "frame before / after login", &[n(FRAME_BEFORE_LOGIN_BYTES_MAX), n(FRAME_BYTES_MAX)]);
    check(&rows, "token / `sub`", &[n(TOKEN_BYTES_MAX), n(l::SUB_BYTES_MAX)]);
    check(&rows, "client name", &[n(CLIENT_NAME_BYTES_MAX), n(FEATURES_MAX)]);
    check(&rows, "payload", &[n(PAYLOAD_BYTES_MAX), n(CONTENT_TYPE_BYTES_MAX), n(TITLE_BYTES_MAX)]);
    check(&rows, "members of a group", &[n(MEMBERS_MAX)]);
    check(&rows, "entry as stored", &[n(ENTRY_BYTES_MAX)]);
    check(&rows, "unanswered requests", &[n(l::IN_FLIGHT_MAX)]);
    check(&rows, "watermarks", &[n(MARKS_MAX)]);
    let known = [n(SYNC_KNOWN_MAX), n(SYNC_KNOWN_BEFORE_LOGIN_MAX)];
    check(&rows, "conversations that a `Sync` names", &known);
    check(&rows, "entries in a `HistoryPage`", &[n(HISTORY_ENTRIES_MAX), n(PAGE_BYTES_MAX / 1024)]);
    let sync = [n(l::SYNC_ENTRIES_MAX), n(PAGE_BYTES_MAX / 1024), n(SYNC_CONVERSATIONS_MAX)];
    check(&rows, "entries in a `SyncPage`", &sync);
    check(&rows, "rows in other pages", &[n(PAGE_ROWS_MAX)]);
    check(&rows, "QUIC bulk streams", &[n(l::QUIC_BULK_STREAMS_MAX)]);
    check(&rows, "handshake", &[l::HANDSHAKE_TIMEOUT_MS / 1000]);
    check(&rows, "login", &[l::LOGIN_TIMEOUT_MS / 1000]);
    check(&rows, "heartbeat", &[l::HEARTBEAT_MS / 1000]);
    check(&rows, "silence", &[l::IDLE_TIMEOUT_MS / 1000]);
    check(&rows, "stalled write", &[l::WRITE_STALL_TIMEOUT_MS / 1000]);
}
