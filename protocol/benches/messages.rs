//! What parsing requests and making answers, events and entries of them cost, for those that a server sees most.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use tern_protocol::convert::{
    decode_entry, encode_entry, encode_request, encode_server, parse_request, parse_server,
};
use tern_protocol::event::{ReceiptCount, ReceiptsMoved, SendOk, ServerBody, ServerMessage, UserReceipt};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::{Change, Entry, Message, Sender, Target, WallMillis};
use tern_protocol::request::{Mark, Request, RequestBody, Send};

const CONVERSATION: ConversationId = ConversationId::from_bytes([0x42; 16]);
const USER: UserId = UserId::from_bytes([0x17; 16]);
const TIME: WallMillis = WallMillis(1_800_000_000_000);

fn message(payload_bytes: usize) -> Change {
    let payload = vec![7; payload_bytes].into();
    Change::Message(Message { content_type: String::new(), payload, reply_to: None })
}

fn entry(payload_bytes: usize) -> Entry {
    Entry {
        seq: Seq(1_000_000),
        time: TIME,
        sender: Sender { user: USER, device: DeviceId::new(0x1234_5678_9abc_def0).expect("not 0") },
        client_seq: ClientSeq(70_000),
        change: message(payload_bytes),
    }
}

/// The message in a frame.
fn content(frame: Bytes) -> Bytes {
    let decoded = frame::decode(&mut BytesMut::from(frame), FRAME_BYTES_MAX);
    match decoded.expect("a frame").expect("a whole one") {
        Frame::Message(message) => message,
        Frame::Heartbeat => unreachable!("no heartbeat was encoded"),
    }
}

fn requests(group: &mut BenchmarkGroup<'_, WallTime>) {
    let send = |payload_bytes| {
        RequestBody::Send(Send {
            target: Target::Conversation(CONVERSATION),
            client_seq: ClientSeq(70_000),
            change: message(payload_bytes),
        })
    };
    let mark = |n: u8| Mark {
        conversation: ConversationId::from_bytes([n; 16]),
        delivered: Seq(1_000_000),
        read: Seq(999_999),
    };
    let cases = [
        ("Send of 200 B", send(200)),
        ("Send of 16 kB", send(16 << 10)),
        ("Mark of 1", RequestBody::Mark(vec![mark(1)])),
        ("Mark of 64", RequestBody::Mark((1..=64).map(mark).collect())),
    ];
    for (name, body) in cases {
        let bytes = content(encode_request(&Request { id: RequestId(4_711), body }));
        group.bench_function(name, |b| {
            b.iter(|| parse_request(black_box(bytes.clone())).expect("within the limits"));
        });
    }
}

fn server_messages() -> [(&'static str, ServerMessage); 3] {
    let moved = |users, counts| {
        ServerBody::ReceiptsMoved(ReceiptsMoved { conversation: CONVERSATION, users, counts })
    };
    let receipt = UserReceipt { user: USER, delivered: Seq(1_000_000), read: Seq(999_999) };
    let count = ReceiptCount { seq: Seq(1_000_000), delivered: 812, read: 407, members: 999 };
    let sent = SendOk { conversation: CONVERSATION, seq: Seq(1_000_000), time: TIME, duplicate: false };
    [
        ("SendOk", ServerMessage { id: RequestId(4_711), body: ServerBody::SendOk(sent) }),
        ("ReceiptsMoved, direct", ServerMessage { id: RequestId(0), body: moved(vec![receipt], vec![]) }),
        ("ReceiptsMoved, group", ServerMessage { id: RequestId(0), body: moved(vec![], vec![count]) }),
    ]
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();

    let mut group = criterion.benchmark_group("parse_request");
    requests(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("encode_server");
    for (name, message) in &server_messages() {
        group.bench_function(*name, |b| b.iter(|| encode_server(black_box(message))));
    }
    group.finish();

    let mut group = criterion.benchmark_group("entry");
    for (name, payload_bytes) in [("200 B", 200), ("16 kB", 16 << 10)] {
        let entry = entry(payload_bytes);
        let bytes = encode_entry(&entry);
        let push = content(frame::encode_push(CONVERSATION, &bytes));
        group.bench_function(format!("encode {name}"), |b| b.iter(|| encode_entry(black_box(&entry))));
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| decode_entry(black_box(bytes.clone())).expect("an entry"));
        });
        group.bench_function(format!("parse Push of {name}"), |b| {
            b.iter(|| parse_server(black_box(push.clone())).expect("a push"));
        });
    }
    group.finish();
    criterion.final_summary();
}
