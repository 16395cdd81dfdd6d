//! Heartbeats without end, of clients who do not read.

use tern_protocol::convert::encode_request;
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, UserId};
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::{Change, Message, Target};
use tern_protocol::request::{Request, RequestBody, Send};

use crate::support::{Session, group, login_request, message, over_each, text, user};
use crate::{Bystanders, connect, is_well};

const CLIENTS: u64 = 6;
const HEARTBEATS: usize = 300_000;
/// As many as the server would take up, if it queued an answer of one byte to each.
const HEARTBEATS_AT_ONCE: usize = 250_000;
/// Pushes to each client: more than sockets hold on both ends together.
const PUSHES: u64 = 320;
/// What the heartbeats of all of them may cost: a small part of an item for each.
const RSS_MAX_KIB: u64 = 24 * 1024;

fn say(to: UserId, id: u64, client_seq: u64, words: &str) -> Request {
    let send = Send { target: Target::User(to), client_seq: ClientSeq(client_seq), change: message(words) };
    Request { id: RequestId(id), body: RequestBody::Send(send) }
}

/// Waits until everybody has said this: whatever they sent before has been taken up.
async fn hears(witness: &mut Session, words: &str) {
    for _ in 0..CLIENTS {
        assert_eq!(text(&witness.pushed().await.1), words);
    }
}

async fn flood(flooder: &mut Session, to: ConversationId) {
    let target = Target::Conversation(to);
    for _ in 0..PUSHES / 32 {
        let mut asked = Vec::new();
        for _ in 0..32 {
            let payload = vec![7; PAYLOAD_BYTES_MAX].into();
            let change = Change::Message(Message { content_type: String::new(), payload, reply_to: None });
            let client_seq = flooder.next_client_seq(&target);
            asked.push(flooder.request(RequestBody::Send(Send { target, client_seq, change })).await);
        }
        for request in asked {
            flooder.answer(request).await.expect("stored");
        }
        flooder.events.clear();
    }
}

#[tokio::test]
async fn heartbeats_of_clients_who_do_not_read_cost_next_to_nothing() {
    over_each(async |ternd, transport| {
        let mut bystanders = Bystanders::new(ternd, transport).await;
        let mut witness = ternd.login(transport, "witness", 1).await;
        let mut flooder = ternd.login(transport, "flooder", 1).await;
        let names: Vec<String> = (0..CLIENTS).map(|n| format!("mallory {n}")).collect();
        let members: Vec<&str> = names.iter().map(String::as_str).collect();
        flooder.create(group(1), "flood", &members).await;

        let before = ternd.rss_kib();
        let heartbeats = vec![0; HEARTBEATS];
        let mut clients = Vec::new();
        for name in &names {
            let mut client = connect(ternd, transport).await;
            client.send_bytes(&heartbeats).await.expect("sent");
            let login = RequestBody::Login(login_request(&ternd.token(name), 1));
            client.send_request(&Request { id: RequestId(1), body: login }).await.expect("sent");
            client.send_bytes(&encode_request(&say(user("witness"), 2, 1, "before"))).await.expect("sent");
            clients.push(client);
        }
        hears(&mut witness, "before").await;
        let logged_in = ternd.rss_kib();
        bystanders.talk().await;

        // From here on nothing can be written to them.
        flood(&mut flooder, group(1)).await;
        let flooded = ternd.rss_kib();
        for client in &mut clients {
            client.send_bytes(&heartbeats[..HEARTBEATS_AT_ONCE]).await.expect("sent");
            client.send_request(&say(user("witness"), 3, 2, "after")).await.expect("sent");
        }
        hears(&mut witness, "after").await;
        let after = ternd.rss_kib();
        bystanders.talk().await;
        eprintln!("{before} kB before, {logged_in} kB logged in; {flooded} kB, {after} kB in the end");
        assert!(logged_in < before + RSS_MAX_KIB, "{before} kB, {logged_in} kB");
        assert!(after < flooded + RSS_MAX_KIB, "{flooded} kB, {after} kB");
        is_well(ternd).await;
    })
    .await;
}
