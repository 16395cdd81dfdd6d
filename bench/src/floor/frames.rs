//! The frames that one message causes, byte for byte as Tern has them, so that the relay moves what the server moves.
//!
//! Made once, by the protocol's own encoders; only the payload differs from message to message, and it is at the end of
//! the frames that have one. Everybody tells them apart by their length.

use bytes::{Bytes, BytesMut};
use tern_protocol::convert::{encode_entry, encode_request, encode_server};
use tern_protocol::event::{ReceiptCount, ReceiptsMoved, SendOk, ServerBody, ServerMessage, UserReceipt};
use tern_protocol::frame::encode_push;
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Message, Sender, Target, WallMillis};
use tern_protocol::request::{Mark, Request, RequestBody, Send};

/// A number as large as they become in a run of some seconds: two bytes on the wire.
const NUMBER: u64 = 1_000;
/// A day in 2026.
const TIME: WallMillis = WallMillis(1_767_225_600_000);
const CONVERSATION: ConversationId = ConversationId::from_bytes([0xc0; 16]);
const USER: UserId = UserId::from_bytes([0xb0; 16]);
const CONTENT_TYPE: &str = "text/plain";

/// The frames of a message with a payload of a given size.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    /// Client to server, without the payload: a send.
    send: Bytes,
    /// Server to client, without the payload: the entry, to everybody in the conversation.
    push: Bytes,
    /// Server to the sender: it is stored.
    pub(super) ack: Bytes,
    /// Client to server: everything up to here is delivered.
    pub(super) mark: Bytes,
    /// Server to the sender: what others have said in marks.
    pub(super) receipt: Bytes,
    /// Of a payload.
    pub(super) payload_bytes: usize,
}

/// What a frame is, and the payload if it has one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Send(&'a [u8]),
    Push(&'a [u8]),
    Ack,
    Mark,
    Receipt,
}

impl Frames {
    /// Of a direct chat (2 members) or a group.
    pub(super) fn new(payload_bytes: usize, members: usize) -> Self {
        let group = members > 2;
        let payload = vec![0; payload_bytes];
        let front = |frame: Bytes| frame.slice(..frame.len() - payload_bytes);
        let receipt = ReceiptsMoved {
            conversation: CONVERSATION,
            users: if group { Vec::new() } else { vec![reader()] },
            counts: if group { vec![count(members)] } else { Vec::new() },
        };
        Self {
            send: front(send(&payload, group)),
            push: front(push(&payload)),
            ack: answer(RequestId(NUMBER), ServerBody::SendOk(stored())),
            mark: mark(),
            receipt: answer(RequestId(0), ServerBody::ReceiptsMoved(receipt)),
            payload_bytes,
        }
    }

    /// Appends a send.
    pub(super) fn put_send(&self, payload: &[u8], out: &mut BytesMut) {
        out.extend_from_slice(&self.send);
        out.extend_from_slice(payload);
    }

    /// Appends a push.
    pub(super) fn put_push(&self, payload: &[u8], out: &mut BytesMut) {
        out.extend_from_slice(&self.push);
        out.extend_from_slice(payload);
    }

    /// What a frame is whose message, without the length in front of it, is this. `None`: nothing that is sent here.
    pub(super) fn kind<'a>(&self, message: &'a [u8]) -> Option<Kind<'a>> {
        let bytes = message.len() + prefix_bytes(message.len());
        let payload = || &message[message.len() - self.payload_bytes..];
        if bytes == self.send.len() + self.payload_bytes {
            Some(Kind::Send(payload()))
        } else if bytes == self.push.len() + self.payload_bytes {
            Some(Kind::Push(payload()))
        } else if bytes == self.mark.len() {
            Some(Kind::Mark)
        } else if bytes == self.ack.len() {
            Some(Kind::Ack)
        } else {
            (bytes == self.receipt.len()).then_some(Kind::Receipt)
        }
    }

    /// Bytes of the entry that the store is given for a message.
    pub(super) fn entry(payload_bytes: usize) -> Bytes {
        encode_entry(&entry(&vec![0; payload_bytes]))
    }
}

/// Bytes of the length in front of a message.
fn prefix_bytes(message_bytes: usize) -> usize {
    match message_bytes {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => 3,
    }
}

fn message(payload: &[u8]) -> Change {
    let payload = Bytes::copy_from_slice(payload);
    Change::Message(Message { content_type: CONTENT_TYPE.into(), payload, reply_to: None })
}

fn send(payload: &[u8], group: bool) -> Bytes {
    let target = if group { Target::Conversation(CONVERSATION) } else { Target::User(USER) };
    let send = Send { target, client_seq: ClientSeq(NUMBER), change: message(payload) };
    encode_request(&Request { id: RequestId(NUMBER), body: RequestBody::Send(send) })
}

fn mark() -> Bytes {
    let mark = Mark { conversation: CONVERSATION, delivered: Seq(NUMBER), read: Seq(0) };
    // Number 0, as clients do: it is not answered.
    encode_request(&Request { id: RequestId(0), body: RequestBody::Mark(vec![mark]) })
}

fn entry(payload: &[u8]) -> Entry {
    let device = DeviceId::new(u64::MAX).unwrap_or_else(|| unreachable!("it is not 0"));
    let sender = Sender { user: USER, device };
    Entry { seq: Seq(NUMBER), time: TIME, sender, client_seq: ClientSeq(NUMBER), change: message(payload) }
}

fn push(payload: &[u8]) -> Bytes {
    encode_push(CONVERSATION, &encode_entry(&entry(payload)))
}

fn stored() -> SendOk {
    SendOk { conversation: CONVERSATION, seq: Seq(NUMBER), time: TIME, duplicate: false }
}

fn reader() -> UserReceipt {
    UserReceipt { user: USER, delivered: Seq(NUMBER), read: Seq(0) }
}

fn count(members: usize) -> ReceiptCount {
    let others = members as u32 - 1;
    ReceiptCount { seq: Seq(NUMBER), delivered: others, read: 0, members: others }
}

fn answer(id: RequestId, body: ServerBody) -> Bytes {
    encode_server(&ServerMessage { id, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_protocol::convert::{parse_request, parse_server};
    use tern_protocol::frame::{self, Frame};
    use tern_protocol::limits::FRAME_BYTES_MAX;

    /// The message of the one frame in these bytes.
    fn only(bytes: &[u8]) -> Bytes {
        let mut buffer = BytesMut::from(bytes);
        let frame = frame::decode(&mut buffer, FRAME_BYTES_MAX).expect("a frame").expect("a whole frame");
        assert!(buffer.is_empty());
        match frame {
            Frame::Message(message) => message,
            Frame::Heartbeat => panic!("a heartbeat"),
        }
    }

    #[test]
    fn frames_are_those_of_the_protocol() {
        for (payload_bytes, members) in [(16, 2), (16, 100), (200, 2), (200, 1000), (20_000, 2)] {
            let frames = Frames::new(payload_bytes, members);
            let payload: Vec<u8> = (0..payload_bytes).map(|i| i as u8).collect();
            let (mut sent, mut pushed) = (BytesMut::new(), BytesMut::new());
            frames.put_send(&payload, &mut sent);
            frames.put_push(&payload, &mut pushed);
            assert_eq!(sent, send(&payload, members > 2));
            assert_eq!(pushed, push(&payload));

            for request in [&sent[..], &frames.mark] {
                parse_request(only(request)).expect("a request that a server takes");
            }
            for event in [&pushed[..], &frames.ack, &frames.receipt] {
                parse_server(only(event)).expect("what a client understands").expect("a known kind");
            }
            let kinds = [
                (&sent[..], Kind::Send(&payload)),
                (&pushed, Kind::Push(&payload)),
                (&frames.ack, Kind::Ack),
                (&frames.mark, Kind::Mark),
                (&frames.receipt, Kind::Receipt),
            ];
            for (bytes, kind) in kinds {
                assert_eq!(frames.kind(&only(bytes)), Some(kind), "{payload_bytes} B, {members} members");
            }
            assert_eq!(frames.kind(&[0; 5]), None);
        }
    }

    /// The sizes that the figures in the report were made with. A change of the protocol shows here.
    #[test]
    fn sizes() {
        let frames = Frames::new(200, 2);
        let sizes = [frames.send.len() + 200, frames.push.len() + 200, frames.ack.len(), frames.mark.len()];
        assert_eq!((sizes, frames.receipt.len()), ([247, 285, 34, 26], 45));
    }
}
