//! Cuts a byte stream into frames, and makes frames of messages.
//!
//! ```text
//!   0x00                                     heartbeat
//!   varint L, 1-3 bytes, shortest form       then L bytes of protobuf
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::error::ErrorCode;
use crate::ids::ConversationId;
use crate::limits::{FRAME_BYTES_MAX, FRAME_PREFIX_BYTES_MAX};

/// A heartbeat, as bytes.
pub const HEARTBEAT: &[u8] = &[0];

/// What a stream is cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// One zero byte: "I am here".
    Heartbeat,
    /// The protobuf bytes of one message.
    Message(Bytes),
}

impl Frame {
    /// The message's length in bytes, without its own length in front of it.
    pub fn message_bytes(&self) -> usize {
        match self {
            Self::Heartbeat => 0,
            Self::Message(bytes) => bytes.len(),
        }
    }
}

/// The bytes cannot be a frame. The stream is lost: there is no way to find the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The announced length is above what is allowed at this point.
    TooLarge {
        /// Announced, as far as it was read.
        announced: usize,
        /// Allowed.
        max: usize,
    },
    /// The length is not written in its shortest form.
    Overlong,
}

impl FrameError {
    /// What the client is told before the connection is closed.
    pub fn code(self) -> ErrorCode {
        match self {
            FrameError::TooLarge { .. } => ErrorCode::FrameTooLarge,
            FrameError::Overlong => ErrorCode::Malformed,
        }
    }
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            FrameError::TooLarge { announced, max } => {
                write!(f, "a frame of {announced} bytes or more where at most {max} are allowed")
            }
            FrameError::Overlong => f.write_str("a frame length that is not in its shortest form"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Takes the next frame off the front of `buf`, if it is complete. `max` bounds the message, without its length.
///
/// Reserves no memory for what is announced: the caller decides how much to read.
///
/// # Errors
/// [`FrameError`], as soon as the length shows it; then `buf` is unchanged and the stream is to be closed.
pub fn decode(buf: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
    let Some((length, prefix)) = decode_length(buf, max)? else { return Ok(None) };
    if length == 0 {
        buf.advance(prefix);
        return Ok(Some(Frame::Heartbeat));
    }
    if buf.len() < prefix + length {
        return Ok(None);
    }
    buf.advance(prefix);
    Ok(Some(Frame::Message(buf.split_to(length).freeze())))
}

/// How many bytes are still to come before [`decode`] returns a frame: at least 1, exact once the length is there.
pub fn missing(buf: &[u8]) -> usize {
    match decode_length(buf, FRAME_BYTES_MAX) {
        Ok(Some((length, prefix))) => (prefix + length).saturating_sub(buf.len()).max(1),
        Ok(None) | Err(_) => 1,
    }
}

fn decode_length(buf: &[u8], max: usize) -> Result<Option<(usize, usize)>, FrameError> {
    let mut length = 0usize;
    for (i, &byte) in buf.iter().take(FRAME_PREFIX_BYTES_MAX).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            if byte == 0 && i > 0 {
                return Err(FrameError::Overlong);
            }
            if length > max {
                return Err(FrameError::TooLarge { announced: length, max });
            }
            return Ok(Some((length, i + 1)));
        }
    }
    if buf.len() >= FRAME_PREFIX_BYTES_MAX {
        return Err(FrameError::TooLarge { announced: 1 << (7 * FRAME_PREFIX_BYTES_MAX), max });
    }
    Ok(None)
}

/// Appends one message with its length to `out`.
///
/// # Panics
/// When the message is empty (that would be a heartbeat) or longer than `FRAME_BYTES_MAX`: pages are cut to fit and
/// requests are built within the limits, so either is a fault of the caller.
pub fn encode_into(message: &impl Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    assert!((1..=FRAME_BYTES_MAX).contains(&length), "a frame of {length} bytes");
    out.reserve(length + varint_len(length as u64));
    put_varint(length as u64, out);
    message.encode_raw(out);
}

/// One message with its length.
///
/// # Panics
/// As [`encode_into`].
pub fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(length + varint_len(length as u64));
    encode_into(message, &mut out);
    out.freeze()
}

/// The frame of a `Push` around an entry that is encoded already, so that an entry is encoded once for the store and
/// for everybody who gets it.
pub fn encode_push(conversation: ConversationId, entry: &[u8]) -> Bytes {
    const SERVER_FRAME_PUSH: u64 = 16 << 3 | 2;
    const PUSH_CONVERSATION: u64 = 1 << 3 | 2;
    const PUSH_ENTRY: u64 = 2 << 3 | 2;
    let id = conversation.as_bytes();
    let push = 2 + id.len() + 1 + varint_len(entry.len() as u64) + entry.len();
    let frame = 2 + varint_len(push as u64) + push;
    let mut out = BytesMut::with_capacity(frame + varint_len(frame as u64));
    put_varint(frame as u64, &mut out);
    put_varint(SERVER_FRAME_PUSH, &mut out);
    put_varint(push as u64, &mut out);
    put_varint(PUSH_CONVERSATION, &mut out);
    put_varint(id.len() as u64, &mut out);
    out.put_slice(id);
    put_varint(PUSH_ENTRY, &mut out);
    put_varint(entry.len() as u64, &mut out);
    out.put_slice(entry);
    out.freeze()
}

fn put_varint(value: u64, out: &mut BytesMut) {
    prost::encoding::encode_varint(value, out);
}

fn varint_len(value: u64) -> usize {
    prost::encoding::encoded_len_varint(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn all(mut bytes: &[u8], max: usize, chunk: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
        loop {
            while let Some(frame) = decode(&mut buf, max)? {
                frames.push(frame);
            }
            if bytes.is_empty() {
                return Ok(frames);
            }
            let (now, later) = bytes.split_at(chunk.min(bytes.len()));
            buf.extend_from_slice(now);
            bytes = later;
        }
    }

    #[test]
    fn cases() {
        #[track_caller]
        fn check(bytes: &[u8], expected: Result<&[Frame], FrameError>) {
            for chunk in [1, 2, 3, 1000] {
                assert_eq!(
                    all(bytes, 300, chunk).as_deref(),
                    expected.as_ref().map(|f| &**f),
                    "in steps of {chunk}"
                );
            }
        }
        let message = |b: &'static [u8]| Frame::Message(Bytes::from_static(b));
        check(b"", Ok(&[]));
        check(&[0], Ok(&[Frame::Heartbeat]));
        check(&[0, 0], Ok(&[Frame::Heartbeat, Frame::Heartbeat]));
        check(&[2, 7, 8], Ok(&[message(&[7, 8])]));
        check(&[2, 7], Ok(&[]));
        check(&[1, 7, 0, 1, 9], Ok(&[message(&[7]), Frame::Heartbeat, message(&[9])]));
        check(&[0x80, 0x00], Err(FrameError::Overlong));
        check(&[0x81, 0x80, 0x00], Err(FrameError::Overlong));
        check(&[0xad, 0x02], Err(FrameError::TooLarge { announced: 301, max: 300 }));
        check(&[0xff, 0xff, 0xff], Err(FrameError::TooLarge { announced: 1 << 21, max: 300 }));
    }

    #[test]
    fn says_how_much_is_missing() {
        assert_eq!(missing(&[]), 1);
        assert_eq!(missing(&[0x85]), 1);
        assert_eq!(missing(&[5]), 5);
        assert_eq!(missing(&[5, 1, 2]), 3);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_steps_give_the_same_frames(bytes: Vec<u8>, chunk in 1usize..50) {
            prop_assert_eq!(all(&bytes, 100, chunk), all(&bytes, 100, bytes.len().max(1)));
        }

        #[test]
        fn push_is_what_the_generator_encodes(id: [u8; 16], payload in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let entry = pb::Entry {
                seq: 7,
                time_ms: 8,
                body: Some(pb::entry::Body::Message(pb::Message { payload: payload.into(), ..Default::default() })),
                ..Default::default()
            };
            let frame = pb::ServerFrame {
                request_id: 0,
                body: Some(pb::server_frame::Body::Push(pb::Push {
                    conversation: Bytes::copy_from_slice(&id),
                    entry: Some(entry.clone()),
                })),
            };
            prop_assert_eq!(encode_push(ConversationId::from_bytes(id), &entry.encode_to_vec()), encode(&frame));
        }
    }
}
