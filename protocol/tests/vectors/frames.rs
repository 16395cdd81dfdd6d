//! Streams and what they are cut into.

use bytes::BytesMut;
use serde_json::{Value, json};
use tern_protocol::frame::{self, Frame, FrameError};
use tern_protocol::limits::{FRAME_BEFORE_LOGIN_BYTES_MAX, FRAME_BYTES_MAX};

use crate::json::hex;

/// What a reader gets of `stream` when it arrives in steps.
pub(crate) fn cut(stream: &[u8], max: usize, step: usize) -> Value {
    let (mut buf, mut frames, mut error) = (BytesMut::new(), Vec::new(), None::<FrameError>);
    'stream: for part in stream.chunks(step.min(stream.len()).max(1)) {
        buf.extend_from_slice(part);
        loop {
            match frame::decode(&mut buf, max) {
                Ok(Some(Frame::Heartbeat)) => frames.push(json!("heartbeat")),
                Ok(Some(Frame::Message(m))) => frames.push(hex(&m).into()),
                Ok(None) => break,
                Err(e) => {
                    error = Some(e);
                    break 'stream;
                }
            }
        }
    }
    match error {
        Some(e) => json!({"frames": frames, "error": e.code().label()}),
        None => json!({"frames": frames, "incomplete_bytes": buf.len()}),
    }
}

pub(crate) fn cases() -> Vec<Value> {
    let filled = |prefix: &[u8], n: usize| [prefix, &vec![0xab; n]].concat();
    let streams: Vec<(&str, bool, Vec<u8>)> = vec![
        ("nothing", true, vec![]),
        ("heartbeat", true, vec![0]),
        ("three-heartbeats", true, vec![0, 0, 0]),
        ("one-byte-message", true, vec![1, 0xab]),
        ("messages-and-heartbeats", true, vec![1, 0xab, 0, 2, 0xcd, 0xef, 0]),
        ("message-of-zeros", true, vec![3, 0, 0, 0]),
        ("length-only", true, vec![5]),
        ("message-cut-off", true, vec![5, 1, 2, 3]),
        ("length-cut-off", true, vec![0x80]),
        ("length-cut-off-after-two", false, vec![0x80, 0x80]),
        ("message-then-cut-off", true, vec![1, 0xab, 2, 0xcd]),
        ("127-is-one-byte", true, filled(&[0x7f], 127)),
        ("128-is-two-bytes", true, filled(&[0x80, 0x01], 128)),
        ("overlong-zero", true, vec![0x80, 0x00]),
        ("overlong-zero-in-three", true, vec![0x80, 0x80, 0x00]),
        ("overlong-one", true, vec![0x81, 0x00, 0xab]),
        ("overlong-one-in-three", true, vec![0x81, 0x80, 0x00, 0xab]),
        ("good-then-overlong", true, vec![1, 0xab, 0, 0x82, 0x00]),
        ("before-login-largest-announced", true, vec![0x80, 0x20]),
        ("before-login-one-too-many", true, vec![0x81, 0x20]),
        ("before-login-longest-two-byte-length", true, vec![0xff, 0x7f]),
        ("before-login-three-byte-length", true, vec![0x80, 0x80, 0x01]),
        ("after-login-4097-announced", false, vec![0x81, 0x20]),
        ("after-login-largest-announced", false, vec![0x80, 0x80, 0x40]),
        ("after-login-one-too-many", false, vec![0x81, 0x80, 0x40]),
        ("after-login-longest-three-byte-length", false, vec![0xff, 0xff, 0x7f]),
        ("length-of-four-bytes", false, vec![0x80, 0x80, 0x80, 0x01]),
        ("length-of-four-bytes-shows-in-three", false, vec![0xff, 0xff, 0xff]),
        ("http", true, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("tls-record", true, vec![0x16, 0x03, 0x01, 0x02, 0x00]),
    ];
    streams
        .into_iter()
        .map(|(name, before, stream)| {
            let (limit, max) = if before {
                ("before_login", FRAME_BEFORE_LOGIN_BYTES_MAX)
            } else {
                ("after_login", FRAME_BYTES_MAX)
            };
            json!({"name": name, "limit": limit, "hex": hex(&stream), "expect": cut(&stream, max, usize::MAX)})
        })
        .collect()
}
