//! Whatever arrives, nothing panics; whatever is encoded, is parsed to the same value.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use tern_protocol::convert::{
    decode_entry, encode_entry, encode_request, encode_server, parse_request, parse_server,
};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{
    ConversationPage, ConversationState, HistoryPage, LoginOk, MemberPage, ReceiptCount, ReceiptPage,
    ReceiptsMoved, SendOk, ServerBody, ServerMessage, SyncPage, UserReceipt, WireError,
};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, StoreEpoch, UserId};
use tern_protocol::limits::{FRAME_BYTES_MAX, HISTORY_ENTRIES_MAX, PAGE_ROWS_MAX, TARGETS_MAX};
use tern_protocol::model::{Change, Entry, Kind, Message, Role, Sender, Target, WallMillis};
use tern_protocol::request::{
    History, HistoryFrom, Known, ListConversations, ListUsers, Login, Mark, Request, RequestBody, Send, Sync,
};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(u64::MAX), 1..1_000u64, 1..=u64::MAX]
}

fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![Just(Seq(0)), number().prop_map(Seq)]
}

fn user() -> impl Strategy<Value = UserId> {
    any::<[u8; 16]>().prop_map(UserId::from_bytes)
}

fn users(size: core::ops::Range<usize>) -> impl Strategy<Value = Vec<UserId>> {
    btree_set(user(), size).prop_map(|users| users.into_iter().collect())
}

fn group() -> impl Strategy<Value = ConversationId> {
    any::<[u8; 16]>().prop_map(ConversationId::group_from_random)
}

fn conversation() -> impl Strategy<Value = ConversationId> {
    prop_oneof![
        group(),
        (user(), user()).prop_map(|(a, b)| ConversationId::direct(a, b)),
        any::<[u8; 16]>().prop_map(ConversationId::from_bytes),
    ]
}

fn device() -> impl Strategy<Value = DeviceId> {
    number().prop_map(|n| DeviceId::new(n).expect("not 0"))
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)]
}

fn text(bytes: usize) -> impl Strategy<Value = String> {
    any::<String>().prop_map(move |mut s| {
        while s.len() > bytes {
            s.pop();
        }
        s
    })
}

fn message() -> impl Strategy<Value = Change> {
    (text(128), vec(any::<u8>(), 0..300), option::of(number().prop_map(Seq))).prop_map(
        |(content_type, payload, reply_to)| {
            Change::Message(Message { content_type, payload: payload.into(), reply_to })
        },
    )
}

fn create() -> impl Strategy<Value = Change> {
    (text(256), users(0..20)).prop_map(|(title, members)| Change::Create { title, members })
}

fn other_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        users(1..20).prop_map(|members| Change::Add { members }),
        user().prop_map(|member| Change::Remove { member }),
        Just(Change::Leave),
        text(256).prop_map(|title| Change::Title { title }),
        (user(), role()).prop_map(|(member, role)| Change::Role { member, role }),
    ]
}

fn send() -> impl Strategy<Value = Send> {
    let what = prop_oneof![
        (conversation().prop_map(Target::Conversation), prop_oneof![message(), other_change()]),
        (user().prop_map(Target::User), message()),
        (group().prop_map(Target::Conversation), create()),
    ];
    (what, number()).prop_map(|((target, change), n)| Send { target, client_seq: ClientSeq(n), change })
}

fn list_users() -> impl Strategy<Value = ListUsers> {
    (conversation(), option::of(user()), 1..=PAGE_ROWS_MAX as u32)
        .prop_map(|(conversation, after, limit)| ListUsers { conversation, after, limit })
}

fn mark() -> impl Strategy<Value = Mark> {
    (conversation(), number(), seq()).prop_map(|(conversation, delivered, read)| Mark {
        conversation,
        delivered: Seq(delivered).max(read),
        read,
    })
}

fn request() -> impl Strategy<Value = Request> {
    let login = (text(3_000), device(), any::<(u32, u32)>(), vec(any::<u32>(), 0..64), text(64)).prop_map(
        |(token, device, versions, features, client)| {
            RequestBody::Login(Login { token: format!("t{token}"), device, versions, features, client })
        },
    );
    let sync = (
        btree_map(conversation(), [seq(), seq(), seq(), seq()], 0..50),
        option::of(conversation()),
        option::of(conversation()),
        option::of(1..=u32::MAX),
    )
        .prop_map(|(known, after, until, latest)| {
            let known = known.into_iter().map(|(conversation, [seq, read, peer_delivered, peer_read])| {
                Known { conversation, seq, read, peer_delivered, peer_read }
            });
            RequestBody::Sync(Sync { known: known.collect(), after, until, latest })
        });
    let from = prop_oneof![
        seq().prop_map(HistoryFrom::Forward),
        option::of(number().prop_map(Seq)).prop_map(HistoryFrom::Backward),
    ];
    let history = (conversation(), from, 1..=HISTORY_ENTRIES_MAX as u32)
        .prop_map(|(conversation, from, limit)| RequestBody::History(History { conversation, from, limit }));
    let conversations = (option::of(conversation()), 1..=PAGE_ROWS_MAX as u32)
        .prop_map(|(after, limit)| RequestBody::ListConversations(ListConversations { after, limit }));
    let body = prop_oneof![
        login,
        send().prop_map(RequestBody::Send),
        vec(mark(), 0..50).prop_map(RequestBody::Mark),
        sync,
        history,
        conversations,
        list_users().prop_map(RequestBody::ListMembers),
        list_users().prop_map(RequestBody::ListReceipts),
    ];
    prop_oneof![
        9 => (number().prop_map(RequestId), body).prop_map(|(id, body)| Request { id, body }),
        1 => vec(mark(), 1..3).prop_map(|marks| Request { id: RequestId(0), body: RequestBody::Mark(marks) }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let change = prop_oneof![message(), create(), other_change(), Just(Change::Unknown)];
    (number(), any::<u64>(), user(), device(), any::<u64>(), change).prop_map(
        |(seq, time, user, device, client_seq, change)| Entry {
            seq: Seq(seq),
            time: WallMillis(time),
            sender: Sender { user, device },
            client_seq: ClientSeq(client_seq),
            change,
        },
    )
}

fn state() -> impl Strategy<Value = ConversationState> {
    let what =
        (conversation(), prop_oneof![Just(Kind::Direct), Just(Kind::Group)], text(256), option::of(user()));
    let marks = [seq().boxed(), seq().boxed(), seq().boxed(), seq().boxed(), seq().boxed(), seq().boxed()];
    (what, marks, option::of(role()), vec(entry(), 0..4), any::<u32>(), any::<u64>()).prop_map(
        |((conversation, kind, title, peer), marks, role, entries, unread, time)| {
            let [head, floor, read, peer_delivered, peer_read, complete_to] = marks;
            ConversationState {
                conversation,
                kind,
                title,
                peer,
                head,
                floor,
                read,
                peer_delivered,
                peer_read,
                role,
                entries,
                complete_to,
                unread,
                time: WallMillis(time),
            }
        },
    )
}

fn receipt() -> impl Strategy<Value = UserReceipt> {
    (user(), seq(), seq()).prop_map(|(user, delivered, read)| UserReceipt { user, delivered, read })
}

fn server() -> impl Strategy<Value = ServerMessage> {
    let error = (proptest::sample::select(ErrorCode::ALL), text(100), any::<u32>(), any::<u64>()).prop_map(
        |(code, text, retry_after_ms, client_seq)| {
            let client_seq = ClientSeq(client_seq);
            ServerBody::Error(WireError { code, text, retry_after_ms, client_seq })
        },
    );
    let epoch = option::of(any::<[u8; 16]>().prop_map(StoreEpoch::from_bytes));
    let login_ok = (user(), any::<u32>(), vec(any::<u32>(), 0..9), any::<u64>(), any::<(u32, u32)>(), epoch)
        .prop_map(|(user, version, features, time, (heartbeat_ms, in_flight_max), epoch)| {
            ServerBody::LoginOk(LoginOk {
                user,
                version,
                features,
                time: WallMillis(time),
                heartbeat_ms,
                in_flight_max,
                epoch,
            })
        });
    let send_ok = (conversation(), seq(), any::<u64>(), any::<bool>()).prop_map(
        |(conversation, seq, time, duplicate)| {
            ServerBody::SendOk(SendOk { conversation, seq, time: WallMillis(time), duplicate })
        },
    );
    let sync_page =
        (vec(state(), 0..4), option::of(conversation())).prop_map(|(conversations, covered_until)| {
            ServerBody::SyncPage(SyncPage { conversations, covered_until })
        });
    let history_page = (conversation(), seq(), seq(), vec(entry(), 0..6)).prop_map(
        |(conversation, head, floor, entries)| {
            ServerBody::HistoryPage(HistoryPage { conversation, head, floor, entries })
        },
    );
    let conversation_page =
        (vec(state(), 0..4), option::of(conversation())).prop_map(|(conversations, next)| {
            ServerBody::ConversationPage(ConversationPage { conversations, next })
        });
    let member_page = (vec((user(), role(), seq()), 0..9), option::of(user()), any::<u32>())
        .prop_map(|(members, next, count)| ServerBody::MemberPage(MemberPage { members, next, count }));
    let receipt_page = (vec(receipt(), 0..9), option::of(user()))
        .prop_map(|(receipts, next)| ServerBody::ReceiptPage(ReceiptPage { receipts, next }));
    let count = (seq(), any::<(u32, u32, u32)>())
        .prop_map(|(seq, (delivered, read, members))| ReceiptCount { seq, delivered, read, members });
    let moved =
        (conversation(), vec(receipt(), 0..9), vec(count, 0..9)).prop_map(|(conversation, users, counts)| {
            ServerBody::ReceiptsMoved(ReceiptsMoved { conversation, users, counts })
        });
    let body = prop_oneof![
        error,
        login_ok,
        send_ok,
        Just(ServerBody::MarkOk),
        sync_page,
        history_page,
        conversation_page,
        member_page,
        receipt_page,
        (conversation(), entry()).prop_map(|(conversation, entry)| ServerBody::Push { conversation, entry }),
        (conversation(), seq()).prop_map(|(conversation, head)| ServerBody::HeadMoved { conversation, head }),
        moved,
        (any::<u32>(), prop::collection::vec(".{0,40}", 0..=TARGETS_MAX))
            .prop_map(|(reconnect_after_ms, targets)| ServerBody::GoingAway { reconnect_after_ms, targets }),
    ];
    let unknown =
        (1..=u64::MAX).prop_map(|id| ServerMessage { id: RequestId(id), body: ServerBody::Unknown });
    let known = (any::<u64>().prop_map(RequestId), body).prop_map(|(id, body)| ServerMessage { id, body });
    prop_oneof![13 => known, 1 => unknown]
}

/// The message of a stream that is exactly one frame.
fn only_message(frame: &[u8]) -> Bytes {
    let mut buf = BytesMut::from(frame);
    let Ok(Some(Frame::Message(message))) = frame::decode(&mut buf, FRAME_BYTES_MAX) else {
        panic!("not a frame")
    };
    assert!(buf.is_empty());
    message
}

/// What a reader does with bytes from anybody.
fn read_everything(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    let _ = parse_request(whole.clone()).map(|request| {
        // Whatever was taken is within the limits, so it can be said again, and means the same.
        let again = parse_request(only_message(&encode_request(&request)));
        assert_eq!(again, Ok(request));
    });
    let _ = parse_server(whole.clone());
    let _ = decode_entry(whole);
    let _ = frame::missing(bytes);
    let mut buf = BytesMut::from(bytes);
    while let Ok(Some(_)) = frame::decode(&mut buf, FRAME_BYTES_MAX) {}
}

/// One change to some bytes.
fn mutate(bytes: &mut Vec<u8>, at: usize, how: u8, byte: u8) {
    if bytes.is_empty() {
        bytes.push(byte);
        return;
    }
    let at = at % bytes.len();
    match how % 5 {
        0 => bytes[at] = byte,
        1 => bytes[at] ^= 1 << (byte % 8),
        2 => bytes.insert(at, byte),
        3 => drop(bytes.remove(at)),
        _ => bytes.truncate(at),
    }
}

type Mutations = Vec<(usize, u8, u8)>;

proptest! {
    #[test]
    fn a_request_survives(request in request()) {
        prop_assert_eq!(parse_request(only_message(&encode_request(&request))), Ok(request));
    }

    #[test]
    fn a_server_message_survives(message in server()) {
        prop_assert_eq!(parse_server(only_message(&encode_server(&message))), Ok(Some(message)));
    }

    #[test]
    fn an_entry_survives(entry in entry()) {
        prop_assert_eq!(decode_entry(encode_entry(&entry)), Ok(entry));
    }

    #[test]
    fn a_push_is_made_of_the_stored_bytes(conversation in conversation(), entry in entry()) {
        let around = frame::encode_push(conversation, &encode_entry(&entry));
        let body = ServerBody::Push { conversation, entry };
        prop_assert_eq!(around, encode_server(&ServerMessage { id: RequestId(0), body }));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        read_everything(&bytes);
    }

    #[test]
    fn mutated_requests_never_panic(request in request(), mutations: Mutations) {
        let mut bytes = only_message(&encode_request(&request)).to_vec();
        for (at, how, byte) in mutations {
            mutate(&mut bytes, at, how, byte);
            read_everything(&bytes);
        }
    }

    #[test]
    fn mutated_server_messages_never_panic(message in server(), mutations: Mutations) {
        let mut bytes = only_message(&encode_server(&message)).to_vec();
        for (at, how, byte) in mutations {
            mutate(&mut bytes, at, how, byte);
            read_everything(&bytes);
        }
    }

    #[test]
    fn ids_survive_as_text(bytes: [u8; 16], device in device()) {
        let (user, conversation) = (UserId::from_bytes(bytes), ConversationId::from_bytes(bytes));
        prop_assert_eq!(user.to_string().parse(), Ok(user));
        prop_assert_eq!(conversation.to_string().parse(), Ok(conversation));
        prop_assert_eq!(UserId::try_from(&bytes[..]), Ok(user));
        prop_assert_eq!(device.to_string().parse(), Ok(device));
        prop_assert_eq!(device.to_string().len(), 16);
    }

    #[test]
    fn any_text_is_an_id_or_an_error(text: String) {
        let _ = (text.parse::<UserId>(), text.parse::<ConversationId>(), text.parse::<DeviceId>());
        let id = UserId::from_sub(&text);
        prop_assert_eq!(id.as_bytes()[6] >> 4, 5);
        prop_assert_eq!(id.as_bytes()[8] >> 6, 0b10);
    }

    #[test]
    fn a_direct_chat_has_one_id_that_no_group_can_have(a in user(), b in user(), c in user()) {
        let id = ConversationId::direct(a, b);
        prop_assert_eq!(id, ConversationId::direct(b, a));
        prop_assert!(!id.is_group());
        prop_assert_eq!(id.as_bytes()[6] >> 4, 8);
        let distinct = BTreeSet::from([a, b, c]).len() == 3;
        prop_assert!(!distinct || ConversationId::direct(a, c) != id);
    }

    #[test]
    fn a_group_id_is_one(random: [u8; 16]) {
        let id = ConversationId::group_from_random(random);
        prop_assert!(id.is_group());
        prop_assert_eq!(ConversationId::group_from_random(*id.as_bytes()), id);
    }
}

/// The golden bytes, each with every bit flipped and cut at every place.
#[test]
fn neighbours_of_the_vectors_never_panic() {
    for file in ["requests.json", "server.json", "entries.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors").join(file);
        let text = std::fs::read_to_string(path).expect("a vector file");
        let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        for vector in vectors {
            let hex = vector["hex"].as_str().expect("hex");
            let frame: Vec<u8> = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
                .collect();
            let prefix = if file == "entries.json" {
                0
            } else {
                frame.iter().take_while(|b| **b & 0x80 != 0).count() + 1
            };
            let message = &frame[prefix.min(frame.len())..];
            for cut in 0..=message.len() {
                read_everything(&message[..cut]);
            }
            for bit in 0..message.len() * 8 {
                let mut flipped = message.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                read_everything(&flipped);
            }
        }
    }
}

/// Inputs that have broken parsers of this kind elsewhere.
#[test]
fn seeds_never_panic() {
    let deep: Vec<u8> = [0x1a, 0x7f].repeat(5_000);
    let groups = vec![0x0b; 10_000];
    let seeds: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0x08],
        vec![0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        vec![0xff; 11],
        vec![0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0x00, 0x00],
        vec![0x07],
        vec![0xf8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00],
        vec![0x08, 0x01, 0x22, 0x02, 0x0a, 0x00],
        deep,
        groups,
        b"GET / HTTP/1.1\r\nHost: chat\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
    ];
    for seed in seeds {
        read_everything(&seed);
    }
}
