//! What moves while all is well, and when the server ends.

use tern_protocol::event::ServerBody;
use tern_protocol::frame::HEARTBEAT;
use tern_protocol::ids::{ClientSeq, ConversationId};
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::{Change, Message, Target};
use tern_protocol::request::{HistoryFrom, RequestBody, Send};

use super::{Move, Watch};
use crate::support::{PATIENCE, Session, Start, TRANSPORTS, Ternd, group, message, refused, sync, user};

pub(super) async fn everybody_talks(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut watch = Watch::new(ternd.admin).await;
    // Bob does not read, so that something is dropped.
    let (mut senders, mut bobs) = (Vec::new(), Vec::new());
    for (n, transport) in TRANSPORTS.into_iter().enumerate() {
        let mut alice = ternd.login(transport, "alice", 1 + n as u64).await;
        bobs.push(ternd.login(transport, "bob", 1 + n as u64).await);
        let connection = ternd.connector().connect(transport).await.expect("connected");
        assert!(Session::login(connection, "no token", 9).await.is_err());
        alice.create(group(n as u64), "both", &["bob"]).await;
        one_of_each(&mut alice, group(n as u64)).await;
        senders.push((alice, group(n as u64)));
    }
    let moves = async {
        while !watch.still(expected).is_empty() {
            let flood = async {
                for (alice, group) in &mut senders {
                    flood(alice, *group, 16).await;
                }
            };
            // Meanwhile, for what is there only then.
            tokio::join!(flood, watch.look());
        }
    };
    let moved = tokio::time::timeout(PATIENCE, moves).await;
    assert!(moved.is_ok(), "they do not move: {:?}", watch.still(expected));
}

/// Requests of every kind, one that is refused, one that is sent again.
async fn one_of_each(alice: &mut Session, group: ConversationId) {
    alice.text(user("bob"), "hello").await.expect("stored");
    let again = alice.send_as(Target::User(user("bob")), ClientSeq(1), message("hello")).await;
    assert!(again.expect("stored before").duplicate);
    alice.sync(sync(&[])).await;
    alice.history(group, HistoryFrom::Backward(None), 1).await.expect("a member");
    alice.conversations(0).await;
    alice.members(group, 0).await.expect("a member");
    alice.receipts(group, None, 0).await.expect("a member");
    alice.mark(group, 1, 1).await.expect("a member");
    refused(alice.change(crate::support::group(99), message("nobody's")).await);
    alice.connection().send_bytes(HEARTBEAT).await.expect("sent");
}

/// Some large messages at once, which are marked.
pub(super) async fn flood(alice: &mut Session, group: ConversationId, messages: usize) {
    let target = Target::Conversation(group);
    let mut asked = Vec::new();
    for _ in 0..messages {
        let payload = vec![7; PAYLOAD_BYTES_MAX].into();
        let change = Change::Message(Message { content_type: String::new(), payload, reply_to: None });
        let client_seq = alice.next_client_seq(&target);
        asked.push(alice.request(RequestBody::Send(Send { target, client_seq, change })).await);
    }
    let mut head = 0;
    for request in asked {
        match alice.answer(request).await.expect("stored") {
            ServerBody::SendOk(ok) => head = ok.seq.get(),
            other => panic!("not the answer to a send: {other:?}"),
        }
        alice.events.clear();
    }
    alice.mark(group, head, head).await.expect("a member");
}

pub(super) async fn a_server_stops(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(data.path(), &Start::default());
    // Does not close its end, so that the server waits for it.
    let alice = ternd.login(TRANSPORTS[0], "alice", 1).await;
    let mut watch = Watch::new(ternd.admin).await;
    ternd.signal(libc::SIGTERM);
    watch.until(expected).await;
    drop(alice);
    assert!(ternd.wait().success());
}
