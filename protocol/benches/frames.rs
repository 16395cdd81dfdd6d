//! What cutting a stream into frames and framing a message cost.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::ConversationId;
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::pb;

const MESSAGE_BYTES: usize = 270;
const FRAMES: usize = 32;

fn send_ok() -> pb::ServerFrame {
    pb::ServerFrame {
        request_id: 4_711,
        body: Some(pb::server_frame::Body::SendOk(pb::SendOk {
            conversation: Bytes::from_static(&[0x42; 16]),
            seq: 1_000_000,
            time_ms: 1_800_000_000_000,
            duplicate: false,
        })),
    }
}

/// As many as a busy connection has read at once, each as large as a send of 200 bytes.
fn stream() -> BytesMut {
    let mut stream = BytesMut::new();
    for _ in 0..FRAMES {
        stream.extend_from_slice(&[0x80 | (MESSAGE_BYTES & 0x7f) as u8, (MESSAGE_BYTES >> 7) as u8]);
        stream.extend_from_slice(&[7; MESSAGE_BYTES]);
    }
    stream
}

fn decode_all(stream: &mut BytesMut) -> usize {
    let mut messages = 0;
    while let Ok(Some(Frame::Message(message))) = frame::decode(stream, FRAME_BYTES_MAX) {
        messages += black_box(message).len() / MESSAGE_BYTES;
    }
    messages
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("frame");
    assert_eq!(decode_all(&mut stream()), FRAMES);
    group.throughput(Throughput::Elements(FRAMES as u64));
    group.bench_function("decode 32 of 270 B", |b| {
        b.iter_batched_ref(stream, decode_all, BatchSize::SmallInput);
    });
    group.throughput(Throughput::Elements(1));
    let answer = send_ok();
    group.bench_function("encode SendOk", |b| b.iter(|| frame::encode(black_box(&answer))));
    let entry = [7; MESSAGE_BYTES];
    let conversation = ConversationId::from_bytes([0x42; 16]);
    group.bench_function("encode_push of 270 B", |b| {
        b.iter(|| frame::encode_push(black_box(conversation), black_box(&entry)));
    });
    group.finish();
    criterion.final_summary();
}
