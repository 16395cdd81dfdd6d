//! QUIC: a query on a stream of its own.

use std::time::Duration;

use tern_client::Transport;
use tern_client::raw::{Connection, ask_on_own_stream};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::frame::HEARTBEAT;
use tern_protocol::ids::{ConversationId, RequestId, Seq};
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::{Change, Message, Target};
use tern_protocol::request::{
    History, HistoryFrom, ListConversations, ListUsers, Mark, Request, RequestBody, Send,
};

use crate::support::{
    PATIENCE, Session, Start, TRANSPORTS, Ternd, login_request, message, refused, seqs, sync, user,
};

async fn ask(connection: &mut Connection, id: u64, body: RequestBody) -> Result<ServerBody, ErrorCode> {
    let quic = connection.quic().expect("over QUIC");
    let answer = ask_on_own_stream(quic, &Request { id: RequestId(id), body }).await.expect("an answer");
    assert_eq!(answer.id, RequestId(id));
    match answer.body {
        ServerBody::Error(error) => Err(error.code),
        body => Ok(body),
    }
}

/// Writes these bytes on a stream of their own; the error that comes back.
async fn ask_bytes(connection: &mut Connection, bytes: &[u8]) -> ErrorCode {
    let quic = connection.quic().expect("over QUIC");
    let (mut writer, mut reader) = quic.open_bi().await.expect("a stream");
    writer.write_all(bytes).await.expect("sent");
    let _ = writer.finish();
    let answer = reader.read_to_end(1 << 20).await.expect("an answer");
    let mut answer = answer.as_slice().into();
    let frame = tern_protocol::frame::decode(&mut answer, 1 << 20).expect("a frame");
    let Some(tern_protocol::frame::Frame::Message(bytes)) = frame else { panic!("no message: {frame:?}") };
    match tern_protocol::convert::parse_server(bytes) {
        Ok(Some(message)) => match message.body {
            ServerBody::Error(error) => error.code,
            other => panic!("not an error: {other:?}"),
        },
        other => panic!("not an answer: {other:?}"),
    }
}

fn history(conversation: ConversationId, from: u64) -> RequestBody {
    RequestBody::History(History { conversation, from: HistoryFrom::Forward(Seq(from)), limit: 0 })
}

#[tokio::test]
async fn queries_are_answered_on_their_own_streams() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Quic, "alice", 1).await;
    let chat = alice.text(user("bob"), "1").await.expect("stored").conversation;
    let users = ListUsers { conversation: chat, after: None, limit: 10 };
    let list = ListConversations { after: None, limit: 10 };
    let connection = alice.connection();

    let page = ask(connection, 900, history(chat, 1)).await;
    assert!(matches!(page, Ok(ServerBody::HistoryPage(page)) if seqs(&page.entries) == [1]));
    let page = ask(connection, 901, sync(&[])).await;
    assert!(matches!(page, Ok(ServerBody::SyncPage(page)) if page.conversations.len() == 1));
    let page = ask(connection, 902, RequestBody::ListConversations(list)).await;
    assert!(matches!(page, Ok(ServerBody::ConversationPage(page)) if page.conversations.len() == 1));
    let page = ask(connection, 903, RequestBody::ListMembers(users)).await;
    assert!(matches!(page, Ok(ServerBody::MemberPage(page)) if page.count == 2));
    let page = ask(connection, 904, RequestBody::ListReceipts(users)).await;
    assert!(matches!(page, Ok(ServerBody::ReceiptPage(page)) if page.receipts.len() == 2));
    let nowhere = ConversationId::direct(user("bob"), user("carol"));
    assert_eq!(ask(connection, 905, history(nowhere, 1)).await, Err(ErrorCode::UnknownConversation));

    // Many, one after the other and at once: streams are given back.
    for id in 0..50 {
        let quic = connection.quic().expect("over QUIC").clone();
        let asked = (0..3).map(async |n| {
            let request = Request { id: RequestId(1_000 + id * 3 + n), body: history(chat, 1) };
            ask_on_own_stream(&quic, &request).await.expect("an answer")
        });
        for answer in futures_util::future::join_all(asked).await {
            assert!(matches!(answer.body, ServerBody::HistoryPage(_)));
        }
    }
    assert_eq!(alice.text(user("bob"), "2").await.expect("the session stream goes on").seq, Seq(2));
}

#[tokio::test]
async fn other_requests_are_refused_there() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Quic, "alice", 1).await;
    let chat = alice.text(user("bob"), "1").await.expect("stored").conversation;
    let token = ternd.token("alice");
    let connection = alice.connection();
    let send = Send {
        target: Target::Conversation(chat),
        client_seq: tern_protocol::ids::ClientSeq(9),
        change: message("through the side door"),
    };
    let mark = Mark { conversation: chat, delivered: Seq(1), read: Seq(1) };
    for body in
        [RequestBody::Send(send), RequestBody::Mark(vec![mark]), RequestBody::Login(login_request(&token, 1))]
    {
        assert_eq!(ask(connection, 7, body).await, Err(ErrorCode::InvalidArgument));
    }
    // What is no request ends that stream only.
    for (bytes, code) in [
        (HEARTBEAT, ErrorCode::InvalidArgument),
        (&[0x80, 0x00][..], ErrorCode::Malformed),
        (&[0x02, 0xff, 0xff][..], ErrorCode::Malformed),
        (&[0xff, 0xff, 0xff, 0x01][..], ErrorCode::FrameTooLarge),
        (&[0x02, 0x08, 0x09][..], ErrorCode::UnknownRequest),
    ] {
        assert_eq!(ask_bytes(connection, bytes).await, code, "{bytes:x?}");
    }
    // Half a frame, then the end: there is nothing to answer.
    let quic = connection.quic().expect("over QUIC").clone();
    let (mut writer, mut reader) = quic.open_bi().await.expect("a stream");
    writer.write_all(&[0x30, 0x08]).await.expect("sent");
    writer.finish().expect("still open");
    assert_eq!(reader.read_to_end(100).await.unwrap_or_default(), b"");
    let line = alice.line(chat).await;
    assert_eq!((line.head, line.read), (Seq(1), Seq(0)), "nothing of it was done");
}

#[tokio::test]
async fn before_login_there_is_nothing_there() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut connection = ternd.connector().connect(Transport::Quic).await.expect("connected");
    // The server sees the session stream with its first byte.
    connection.send_bytes(HEARTBEAT).await.expect("sent");
    for _ in 0..20 {
        assert_eq!(ask(&mut connection, 3, sync(&[])).await, Err(ErrorCode::NotLoggedIn));
    }
    let mut alice =
        crate::support::Session::login(connection, &ternd.token("alice"), 1).await.expect("a good token");
    assert!(ask(alice.connection(), 3, sync(&[])).await.is_ok());
}

/// A page that nobody takes waits on its own stream, and holds nothing up.
#[tokio::test]
async fn a_page_that_is_not_taken_delays_nothing() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Quic, "alice", 1).await;
    let bob = Target::User(user("bob"));
    let payload = vec![7; PAYLOAD_BYTES_MAX];
    for _ in 0..8 {
        let message =
            Message { content_type: String::new(), payload: payload.clone().into(), reply_to: None };
        alice.send(bob, Change::Message(message)).await.expect("stored");
    }
    let chat = ConversationId::direct(user("alice"), user("bob"));
    let quic = alice.connection().quic().expect("over QUIC").clone();
    let mut open = Vec::new();
    for id in 0..3 {
        let request = Request { id: RequestId(800 + id), body: history(chat, 1) };
        let (mut writer, reader) = quic.open_bi().await.expect("as many as the protocol allows");
        writer.write_all(&tern_protocol::convert::encode_request(&request)).await.expect("sent");
        writer.finish().expect("open");
        open.push(reader);
    }
    for n in 0..20 {
        let sent = alice.send(bob, message("live")).await.expect("stored");
        assert_eq!(sent.seq, Seq(9 + n));
    }
    assert_eq!(
        refused(
            alice.history(ConversationId::direct(user("x"), user("y")), HistoryFrom::Backward(None), 1).await
        ),
        ErrorCode::UnknownConversation
    );
    for mut reader in open {
        let page = reader.read_to_end(1 << 20).await.expect("it is still there");
        assert!(page.len() > 256 * 1024);
    }
}

/// Of clients who have gone with pages on their way to them.
const GONE: u64 = 50;
/// By then the server's memory is what it is.
const GONE_FIRST: u64 = 10;
/// How much more it may be in the end: a fifth of what two pages for each of the others would be.
const GONE_KIB_MAX: u64 = 8 * 1024;

/// Clients who ask for many large pages, read nothing and go leave nothing behind.
#[tokio::test]
async fn clients_who_go_with_pages_on_their_way_cost_nothing() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Quic, "alice", 1).await;
    let bob = Target::User(user("bob"));
    for _ in 0..8 {
        let payload = vec![7; PAYLOAD_BYTES_MAX].into();
        let message = Message { content_type: String::new(), payload, reply_to: None };
        alice.send(bob, Change::Message(message)).await.expect("stored");
    }
    let chat = ConversationId::direct(user("alice"), user("bob"));
    let connector = ternd.connector();
    let token = ternd.token("bob");
    let mut first = 0;
    for round in 1..=GONE {
        let connection = connector.connect(Transport::Quic).await.expect("connected");
        let mut session = Session::login(connection, &token, 1 + round % 4).await.expect("a good token");
        for _ in 0..60 {
            session.request(history(chat, 1)).await;
        }
        let quic = session.connection().quic().expect("over QUIC").clone();
        let mut open = Vec::new();
        for id in 0..3 {
            let request = Request { id: RequestId(800 + id), body: history(chat, 1) };
            let (mut writer, reader) = quic.open_bi().await.expect("as many as the protocol allows");
            writer.write_all(&tern_protocol::convert::encode_request(&request)).await.expect("sent");
            writer.finish().expect("open");
            open.push(reader);
        }
        // What the client's transport takes without its being read: the server has pages that wait by then.
        let taken = async {
            while quic.stats().udp_rx.bytes < 2_000_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.expect("pages come");
        quic.close(0u32.into(), b"gone");
        drop((session, open));
        connector.wait_idle().await;
        if round == GONE_FIRST {
            first = ternd.rss_kib();
        }
    }
    for transport in TRANSPORTS {
        let mut fresh = ternd.login(transport, "bob", 9).await;
        assert_eq!(fresh.log_from(chat, 1).await.expect("a member").len(), 8);
        fresh.close().await;
    }
    assert_eq!(alice.send(bob, message("still there?")).await.expect("stored").seq, Seq(9));
    let last = ternd.rss_kib();
    println!("{first} kB after {GONE_FIRST} clients, {last} kB after {GONE}");
    assert!(last < first + GONE_KIB_MAX, "{first} kB after {GONE_FIRST} clients, {last} kB after {GONE}");
    assert!(ternd.is_alive());
}
