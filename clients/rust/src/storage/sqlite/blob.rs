//! Sends and entries as bytes in a row: the frames in which they travel, so that there is one encoding to keep.

use bytes::BytesMut;
use tern_protocol::convert::{encode_request, encode_server, parse_request, parse_server};
use tern_protocol::event::{ServerBody, ServerMessage};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::{Change, Entry, Target};
use tern_protocol::request::{Request, RequestBody, Send};

pub(super) fn of_send(client_seq: ClientSeq, target: Target, change: Change) -> Vec<u8> {
    let body = RequestBody::Send(Send { target, client_seq, change });
    encode_request(&Request { id: RequestId(1), body }).into()
}

pub(super) fn to_send(blob: &[u8]) -> Option<(Target, Change)> {
    match parse_request(message(blob)?).ok()?.body {
        RequestBody::Send(Send { target, change, .. }) => Some((target, change)),
        _ => None,
    }
}

pub(super) fn of_entry(conversation: ConversationId, entry: Entry) -> Vec<u8> {
    encode_server(&ServerMessage { id: RequestId(0), body: ServerBody::Push { conversation, entry } }).into()
}

pub(super) fn to_entry(blob: &[u8]) -> Option<Entry> {
    match parse_server(message(blob)?).ok()??.body {
        ServerBody::Push { entry, .. } => Some(entry),
        _ => None,
    }
}

fn message(blob: &[u8]) -> Option<bytes::Bytes> {
    match frame::decode(&mut BytesMut::from(blob), FRAME_BYTES_MAX) {
        Ok(Some(Frame::Message(message))) => Some(message),
        Ok(_) | Err(_) => None,
    }
}
