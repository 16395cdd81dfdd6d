//! Attackers who have tokens: somebody's app was taken apart.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tern_client::raw::{Connection, Received, Receiver};
use tern_protocol::convert::encode_request;
use tern_protocol::event::ServerBody;
use tern_protocol::frame;
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use tern_protocol::limits::{
    FRAME_BYTES_MAX, IN_FLIGHT_MAX, MARKS_MAX, MEMBERS_MAX, PAYLOAD_BYTES_MAX, VERSION_MAX, VERSION_MIN,
};
use tern_protocol::model::{Change, Message, Target as To};
use tern_protocol::pb;
use tern_protocol::request::{
    History, HistoryFrom, ListConversations, Login, Mark, Request, RequestBody, Send, Sync,
};
use tokio::task::JoinSet;

use super::Target;
use crate::Error;
use crate::client::Account;

/// Before the next try of who was sent away, and between two bytes of who is slow.
const PAUSE: Duration = Duration::from_secs(1);

async fn login(target: &Target, number: usize, account: &Account) -> Option<Connection> {
    let mut connection = target.connector(number).ok()?.connect(target.transport).await.ok()?;
    let login = Login {
        token: account.token.clone(),
        device: account.device,
        versions: (VERSION_MIN, VERSION_MAX),
        features: Vec::new(),
        client: String::new(),
    };
    let login = Request { id: RequestId(1), body: RequestBody::Login(login) };
    connection.send_request(&login).await.ok()?;
    match connection.recv().await {
        Ok(Received::Message(message)) if matches!(message.body, ServerBody::LoginOk(_)) => Some(connection),
        _ => None,
    }
}

/// All accounts log in and do this, again and again.
async fn all(
    target: &Rc<Target>,
    what: impl AsyncFn(&Target, &Account, Connection) + Clone + 'static,
) -> Result<(), Error> {
    let mut all = JoinSet::new();
    for (number, account) in target.accounts.iter().cloned().enumerate() {
        let (target, what) = (target.clone(), what.clone());
        all.spawn_local(async move {
            loop {
                if let Some(connection) = login(&target, number, &account).await {
                    what(&target, &account, connection).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    all.join_all().await;
    Ok(())
}

/// Announces the longest frame, and sends a byte of it a second.
pub(super) async fn bombs(target: &Rc<Target>) -> Result<(), Error> {
    all(target, async |target, _, mut connection| {
        // 1,048,576 as a varint.
        let mut next: &[u8] = &[0x80, 0x80, 0x40];
        while connection.send_bytes(next).await.is_ok() {
            target.counted();
            next = &[0x0a];
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

/// Writes as long as anybody reads, and looks at what comes meanwhile.
async fn beside_reading(mut receiver: Receiver, write: impl Future<Output = ()>, look: impl Fn(&ServerBody)) {
    let read = async {
        loop {
            match receiver.recv().await {
                Ok(Received::Message(message)) => look(&message.body),
                Ok(Received::Heartbeat) => {}
                Ok(Received::Closed) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

/// Sends the same again and again, and reads what comes.
pub(super) async fn pour(target: &Rc<Target>, bytes: Bytes) -> Result<(), Error> {
    all(target, async move |target, _, connection| {
        let (mut sender, receiver, _open) = connection.into_split();
        let write = async {
            while sender.send_bytes(&bytes).await.is_ok() {
                target.counted();
            }
        };
        beside_reading(receiver, write, |_| {}).await;
    })
    .await
}

/// A frame of empty `Known`s, two bytes each.
pub(super) fn tiny_fields() -> Bytes {
    let known = (FRAME_BYTES_MAX - 64) / 2;
    let sync = pb::Sync { known: vec![pb::Known::default(); known], ..Default::default() };
    frame::encode(&pb::ClientFrame { request_id: 9, request: Some(pb::client_frame::Request::Sync(sync)) })
}

/// As many watermarks as may be in one request.
pub(super) fn false_marks() -> Bytes {
    let marks = (0..MARKS_MAX as u64).map(|n| {
        let mut random = [7; 16];
        random[..8].copy_from_slice(&n.to_be_bytes());
        Mark {
            conversation: ConversationId::group_from_random(random),
            delivered: Seq(u64::MAX),
            read: Seq(u64::MAX),
        }
    });
    encode_request(&Request { id: RequestId(9), body: RequestBody::Mark(marks.collect()) })
}

/// As many short requests as a client may have unanswered.
pub(super) fn queries() -> Bytes {
    let list = RequestBody::ListConversations(ListConversations { after: None, limit: 0 });
    let sync = RequestBody::Sync(Sync { known: Vec::new(), after: None, until: None, latest: Some(1) });
    let one = |body| encode_request(&Request { id: RequestId(9), body });
    [one(list), one(sync)].concat().repeat(IN_FLIGHT_MAX / 2).into()
}

fn send(target: To, client_seq: u64, change: Change) -> Bytes {
    let send = Send { target, client_seq: ClientSeq(client_seq), change };
    encode_request(&Request { id: RequestId(client_seq), body: RequestBody::Send(send) })
}

fn message(payload_bytes: usize) -> Change {
    let payload = vec![0x2a; payload_bytes].into();
    Change::Message(Message { content_type: String::new(), payload, reply_to: None })
}

/// Writes some long messages to itself, and asks for them without ever reading an answer.
pub(super) async fn deep(target: &Rc<Target>) -> Result<(), Error> {
    all(target, async |target, account, mut connection| {
        for n in 1..=8 {
            let own = send(To::User(account.user), n, message(PAYLOAD_BYTES_MAX));
            if connection.send_bytes(&own).await.is_err() {
                return;
            }
        }
        let history = History {
            conversation: ConversationId::direct(account.user, account.user),
            from: HistoryFrom::Backward(None),
            limit: 1_000,
        };
        let ask = encode_request(&Request { id: RequestId(9), body: RequestBody::History(history) });
        while connection.send_bytes(&ask).await.is_ok() {
            target.counted();
        }
    })
    .await
}

/// Makes a group of as many as may be, all of the attacker's accounts among them, and writes to it without a pause.
pub(super) async fn giant_groups(target: &Rc<Target>) -> Result<(), Error> {
    let accounts: Vec<UserId> = target.accounts.iter().map(|account| account.user).collect();
    all(target, async move |target, account, mut connection| {
        let group = To::Conversation(ConversationId::group_from_random(*account.user.as_bytes()));
        let absent =
            (0..(MEMBERS_MAX - accounts.len()) as u64).map(|n| UserId::from_sub(&format!("absent {n}")));
        let others = accounts.iter().copied().filter(|user| *user != account.user);
        let members = others.chain(absent).collect();
        let create = send(group, 1, Change::Create { title: "everybody".into(), members });
        if connection.send_bytes(&create).await.is_err() {
            return;
        }
        let (mut sender, receiver, _open) = connection.into_split();
        let write = async {
            for n in 2.. {
                if sender.send_bytes(&send(group, n, message(1_000))).await.is_err() {
                    return;
                }
            }
        };
        // What was stored counts: the group is there, and everybody in it is told.
        let stored = |answer: &ServerBody| {
            if matches!(answer, ServerBody::SendOk(_)) {
                target.counted();
            }
        };
        beside_reading(receiver, write, stored).await;
    })
    .await
}
