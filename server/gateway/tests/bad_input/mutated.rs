//! Good requests with something changed at random, the same every time.

use bytes::{Bytes, BytesMut};
use tern_check::random::Random;
use tern_client::raw::Received;
use tern_protocol::convert::encode_request;
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::{Change, Role, Target};
use tern_protocol::request::{
    History, HistoryFrom, ListConversations, ListUsers, Mark, Request, RequestBody, Send,
};

use crate::support::{PATIENCE, group, login_request, message, over_each, sync, user};
use crate::{Bystanders, connect, is_well};

/// Frames for each transport.
const FRAMES: usize = 4_000;
/// Frames on one connection: few, since many end it.
const FRAMES_A_CONNECTION: usize = 10;
/// Far more than a small server needs, far less than what a leak of these frames would take.
const RSS_MAX_KIB: u64 = 200 * 1024;

/// One good request of every kind.
fn corpus(token: &str) -> Vec<Bytes> {
    let id = group(1);
    let chat = ConversationId::direct(user("mallory"), user("bob"));
    let send = |target, change| RequestBody::Send(Send { target, client_seq: ClientSeq(77), change });
    let users = ListUsers { conversation: id, after: Some(user("a")), limit: 10 };
    let bodies = vec![
        RequestBody::Login(login_request(token, 5)),
        send(Target::User(user("bob")), message("hello")),
        send(Target::Conversation(id), message("hello")),
        send(Target::Conversation(id), Change::Create { title: "t".into(), members: vec![user("bob")] }),
        send(Target::Conversation(id), Change::Add { members: vec![user("x"), user("y")] }),
        send(Target::Conversation(id), Change::Remove { member: user("x") }),
        send(Target::Conversation(id), Change::Role { member: user("x"), role: Role::Admin }),
        send(Target::Conversation(id), Change::Title { title: "other".into() }),
        RequestBody::Mark(vec![Mark { conversation: chat, delivered: Seq(1), read: Seq(1) }]),
        sync(&[(id, 1), (chat, 1)]),
        RequestBody::History(History { conversation: chat, from: HistoryFrom::Backward(None), limit: 9 }),
        RequestBody::ListConversations(ListConversations { after: Some(id), limit: 9 }),
        RequestBody::ListMembers(users),
        RequestBody::ListReceipts(users),
    ];
    let requests = bodies.into_iter().map(|body| Request { id: RequestId(1_000), body });
    // Without the length, which is written anew.
    requests
        .map(|request| {
            match frame::decode(&mut BytesMut::from(&encode_request(&request)[..]), FRAME_BYTES_MAX) {
                Ok(Some(Frame::Message(message))) => message,
                other => panic!("{other:?}"),
            }
        })
        .collect()
}

fn mutated(random: &mut Random, corpus: &[Bytes]) -> Vec<u8> {
    let place = |random: &mut Random, length: usize| random.below(length as u64) as usize;
    let mut bytes = corpus[place(random, corpus.len())].to_vec();
    for _ in 0..=random.below(4) {
        let at = place(random, bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.any() as u8,
            2 => bytes.truncate(at.max(1)),
            3 => bytes.insert(at, random.any() as u8),
            4 => {
                // A piece of another request.
                let other = &corpus[place(random, corpus.len())];
                let from = place(random, other.len());
                bytes.splice(at..at, other[from..].iter().copied());
            }
            _ => bytes[at] = [0x00, 0x7f, 0x80, 0xff][place(random, 4)],
        }
    }
    let mut framed = Vec::with_capacity(bytes.len() + 3);
    let mut length = bytes.len();
    while length > 0x7f {
        framed.push(length as u8 | 0x80);
        length >>= 7;
    }
    framed.push(length as u8);
    framed.extend(bytes);
    // Now and then the length is wrong, too.
    if random.one_in(20) {
        framed[0] ^= 1 << random.below(8);
    }
    framed
}

#[tokio::test]
async fn nothing_that_is_sent_ends_the_server() {
    over_each(async |ternd, transport| {
        let mut random = Random::new(0x7e57);
        let mut bystanders = Bystanders::new(ternd, transport).await;
        let token = ternd.token("mallory");
        let corpus = corpus(&token);
        let (mut sent, mut connections, before) = (0, 0, ternd.rss_kib());
        while sent < FRAMES {
            let mut connection = connect(ternd, transport).await;
            connections += 1;
            if random.below(5) > 0 {
                let login = RequestBody::Login(login_request(&token, 1 + random.below(3)));
                let request = Request { id: RequestId(1), body: login };
                connection.send_request(&request).await.expect("sent");
            }
            let frames = FRAMES_A_CONNECTION.min(FRAMES - sent);
            let bytes: Vec<u8> = (0..frames).flat_map(|_| mutated(&mut random, &corpus)).collect();
            sent += frames;
            // The server may close before it has read all of it.
            let _ = connection.send_bytes(&bytes).await;
            let _ = connection.sender.finish().await;
            let end = async { while !matches!(connection.recv().await, Ok(Received::Closed) | Err(_)) {} };
            tokio::time::timeout(PATIENCE, end).await.expect("it ends");
            if connections % 40 == 0 {
                bystanders.talk().await;
            }
        }
        bystanders.talk().await;
        is_well(ternd).await;
        let after = ternd.rss_kib();
        eprintln!("{sent} frames on {connections} connections: {before} kB before, {after} kB after");
        assert!(after < RSS_MAX_KIB, "{after} kB");
    })
    .await;
}
