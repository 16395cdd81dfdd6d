//! Bytes from the network.

use bytes::{Bytes, BytesMut};
use tern_protocol::convert::{
    decode_entry, encode_entry, encode_request, encode_server, parse_request, parse_server,
};
use tern_protocol::error::ErrorCode;
use tern_protocol::frame::{self, Frame, FrameError};
use tern_protocol::handshake::{Speaks, agree};
use tern_protocol::ids::ConversationId;
use tern_protocol::limits::{FRAME_BYTES_MAX, FRAME_PREFIX_BYTES_MAX};

use crate::input::Input;

/// Cuts a stream that arrives in pieces of `step` bytes.
fn cut(stream: &[u8], max: usize, step: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            let before = buf.len();
            match frame::decode(&mut buf, max) {
                Ok(Some(frame)) => {
                    if let Frame::Message(message) = &frame {
                        assert!((1..=max).contains(&message.len()));
                    }
                    assert!(buf.len() < before, "a frame takes bytes");
                    frames.push(frame);
                }
                Ok(None) => {
                    assert_eq!(buf.len(), before);
                    let missing = frame::missing(&buf);
                    assert!((1..=FRAME_PREFIX_BYTES_MAX + FRAME_BYTES_MAX).contains(&missing));
                    assert!(buf.len() < FRAME_PREFIX_BYTES_MAX + max, "no more waits than a frame");
                    break;
                }
                Err(error) => {
                    assert_eq!(buf.len(), before);
                    return (frames, Some(error));
                }
            }
        }
    }
    (frames, None)
}

/// A stream gives the same frames and the same error in whatever pieces it comes, none above its limit; what is made of
/// the frames is the stream.
pub fn frame(input: &[u8]) {
    let mut input = Input(input);
    let max = usize::from(u16::from_be_bytes([input.byte(), input.byte()]));
    let step = usize::from(input.byte()) + 1;
    let stream = input.0;
    let (frames, error) = cut(stream, max, step);
    let (frames_at_once, error_at_once) = cut(stream, max, stream.len().max(1));
    assert_eq!((&frames, error), (&frames_at_once, error_at_once));
    let mut again = Vec::new();
    for frame in &frames {
        let length = if let Frame::Message(message) = frame { message.len() } else { 0 };
        let mut rest = length;
        while rest >= 0x80 {
            again.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        again.push(rest as u8);
        if let Frame::Message(message) = frame {
            again.extend_from_slice(message);
        }
    }
    assert!(stream.starts_with(&again));
}

/// The message of a stream that is exactly one frame.
fn only_message(frame: &Bytes) -> Bytes {
    let mut buf = BytesMut::from(&frame[..]);
    let Ok(Some(Frame::Message(message))) = frame::decode(&mut buf, FRAME_BYTES_MAX) else {
        panic!("what was encoded is no frame")
    };
    assert!(buf.is_empty());
    message
}

/// What was taken can be said again and means the same; what was refused has a code that is meant for it.
pub fn request(input: &[u8]) {
    match parse_request(Bytes::copy_from_slice(input)) {
        Ok(request) => {
            let frame = encode_request(&request);
            let again = parse_request(only_message(&frame)).expect("what was taken is taken again");
            assert_eq!(again, request);
            assert_eq!(encode_request(&again), frame);
        }
        Err(error) => {
            use ErrorCode::{InvalidArgument, Malformed, UnknownRequest};
            assert!(
                matches!(error.code, Malformed | UnknownRequest | InvalidArgument) && !error.text.is_empty()
            );
            assert_eq!(error.code == Malformed, error.code.closes());
        }
    }
}

/// The same for what a server says.
pub fn server_message(input: &[u8]) {
    if let Ok(Some(message)) = parse_server(Bytes::copy_from_slice(input)) {
        let frame = encode_server(&message);
        let again = parse_server(only_message(&frame)).expect("what was taken is taken again");
        assert_eq!(again.as_ref(), Some(&message));
        assert_eq!(again.map(|again| encode_server(&again)), Some(frame));
    }
}

/// The same for an entry of a log; and around its bytes there is a push.
pub fn entry(input: &[u8]) {
    if let Ok(entry) = decode_entry(Bytes::copy_from_slice(input)) {
        let bytes = encode_entry(&entry);
        assert_eq!(decode_entry(bytes.clone()).as_ref(), Ok(&entry));
        let push = only_message(&frame::encode_push(ConversationId::from_bytes([7; 16]), &bytes));
        assert!(matches!(parse_server(push), Ok(Some(_))));
    }
}

/// Both ends come to the same, which both of them speak.
pub fn agreement(input: &[u8]) {
    let mut input = Input(input);
    let mut end = || {
        let versions = (input.byte().into(), input.byte().into());
        let features: Vec<u32> = input.bytes().iter().map(|byte| u32::from(*byte)).collect();
        (versions, features)
    };
    let (ours, theirs) = (end(), end());
    let [ours, theirs] =
        [&ours, &theirs].map(|(versions, features)| Speaks { versions: *versions, features });
    let agreed = agree(ours, theirs);
    assert_eq!(agreed, agree(theirs, ours));
    let common =
        (ours.versions.0.max(theirs.versions.0)..=ours.versions.1.min(theirs.versions.1)).next_back();
    assert_eq!(agreed.as_ref().map(|agreed| agreed.version), common);
    let features = agreed.map(|agreed| agreed.features).unwrap_or_default();
    assert!(features.is_sorted_by(|a, b| a < b));
    assert!(features.iter().all(|f| ours.features.contains(f) && theirs.features.contains(f)));
}
