//! A client without an SDK that sends old messages again, long after they were answered.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use tern_check::Key;
use tern_protocol::convert::{encode_request, parse_server};
use tern_protocol::event::ServerBody;
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, UserId};
use tern_protocol::limits::{FRAME_BYTES_MAX, VERSION_MAX, VERSION_MIN};
use tern_protocol::model::{Change, Sender, Target};
use tern_protocol::request::{Login, Request, RequestBody, Send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::net::End;
use crate::world::{World, identity, text};

/// Devices of such clients have numbers from here on, one for each user.
const DEVICES_FROM: u64 = 1_000;
/// An answer takes no longer, or it is not waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the clients of this kind have sent, by user and conversation: the contents of every number.
pub type Sent = BTreeMap<(UserId, ConversationId), Vec<Change>>;

/// Sends `count` new messages and `old` of those that were sent before, one after the other, as far as a connection and the
/// server's patience allow.
pub async fn run(world: &World, user_number: u64, target: Target, count: u64, old: u64) {
    let (name, token) = identity(user_number);
    let user = UserId::from_sub(&name);
    let device = DeviceId::new(DEVICES_FROM + user_number).expect("not 0");
    let conversation = match target {
        Target::Conversation(id) => id,
        Target::User(peer) => ConversationId::direct(user, peer),
    };
    let Some((stream, _)) = world.connect() else { return };
    let mut line = Line { stream, input: BytesMut::new(), requests: 0 };
    let login = Login {
        token,
        device,
        versions: (VERSION_MIN, VERSION_MAX),
        features: Vec::new(),
        client: "repeat".into(),
    };
    if !matches!(line.ask(RequestBody::Login(login)).await, Some(ServerBody::LoginOk(_))) {
        return;
    }
    for i in 0..count + old {
        if world.is_over() {
            return;
        }
        let number = {
            let mut sent = world.repeated.borrow_mut();
            let sent = sent.entry((user, conversation)).or_default();
            let mut random = world.random.borrow_mut();
            if i < count || sent.is_empty() {
                sent.push(text(&mut random, 20));
                sent.len()
            } else {
                random.below(sent.len() as u64) as usize + 1
            }
        };
        let change = world.repeated.borrow()[&(user, conversation)][number - 1].clone();
        let client_seq = ClientSeq(number as u64);
        let key = Key { conversation, sender: Sender { user, device }, client_seq };
        world.history.borrow_mut().issue(key, &change);
        let answer = line.ask(RequestBody::Send(Send { target, client_seq, change })).await;
        let mut history = world.history.borrow_mut();
        world.note(&name, &format!("number {number} of {conversation} again or anew: {}", shown(&answer)));
        match answer {
            Some(ServerBody::SendOk(ok)) => history.ack(key, &ok),
            Some(ServerBody::Error(error)) => history.refuse(key, error.code),
            // Nobody waits for it any more.
            _ => return history.abandon(key),
        }
    }
}

fn shown(answer: &Option<ServerBody>) -> String {
    match answer {
        Some(ServerBody::SendOk(ok)) => format!("stored at {}", ok.seq),
        Some(ServerBody::Error(error)) => format!("refused, {}", error.code),
        _ => "no answer".into(),
    }
}

struct Line {
    stream: End,
    input: BytesMut,
    requests: u64,
}

impl Line {
    async fn ask(&mut self, body: RequestBody) -> Option<ServerBody> {
        self.requests += 1;
        let id = RequestId(self.requests);
        let bytes = encode_request(&Request { id, body });
        timeout(PATIENCE, self.stream.write_all(&bytes)).await.ok()?.ok()?;
        timeout(PATIENCE, self.answer(id)).await.ok()?
    }

    async fn answer(&mut self, id: RequestId) -> Option<ServerBody> {
        loop {
            while let Some(frame) = frame::decode(&mut self.input, FRAME_BYTES_MAX).ok()? {
                let Frame::Message(bytes) = frame else { continue };
                let message = parse_server(bytes).ok()??;
                if message.id == id {
                    return Some(message.body);
                }
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }
}
