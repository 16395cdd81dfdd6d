//! The driver against a tiny server, over TCP and QUIC.

#[path = "driver/endings.rs"]
mod endings;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tern_client::raw::{Connector, Received};
use tern_client::{
    Change, Client, Config, ConnectionState, Event, Events, HistoryFrom, Message, Seq, SqliteStorage,
    StartError, Storage, Target, Token, Transport, UserId,
};
use tern_client::{MemoryStorage, StorageError};
use tern_protocol::convert::{encode_server, parse_request};
use tern_protocol::event::{HistoryPage, LoginOk, SendOk, ServerBody, ServerMessage, SyncPage};
use tern_protocol::frame::{self, Frame, HEARTBEAT};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId};
use tern_protocol::limits::{ALPN, FRAME_BYTES_MAX};
use tern_protocol::model::{Entry, Sender, WallMillis};
use tern_protocol::request::RequestBody;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shared {
    /// (client_seq, conversation) in the order of storing.
    stored: Vec<(ClientSeq, ConversationId)>,
    logins: usize,
    delivered: Seq,
    /// Hang up after storing, without an answer, this often.
    cuts: usize,
    bulk_streams: usize,
}

type Server = Arc<Mutex<Shared>>;

fn alice() -> UserId {
    UserId::from_sub("alice")
}

struct Listening {
    address: String,
    ca: String,
    shared: Server,
}

fn certificate()
-> (String, rustls::pki_types::CertificateDer<'static>, rustls::pki_types::PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    (made.cert.pem(), made.cert.der().clone(), key.into())
}

fn tls(alpn: &[u8]) -> (String, rustls::ServerConfig) {
    let (ca, certificate, key) = certificate();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    (ca, config)
}

async fn listen(transport: Transport, alpn: &[u8]) -> Listening {
    let shared = Server::default();
    let (ca, config) = tls(alpn);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = match transport {
        Transport::Auto => unreachable!("a server listens on the one or the other"),
        Transport::Tcp => {
            let listener = tokio::net::TcpListener::bind(any).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let shared = shared.clone();
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let Ok(stream) = acceptor.accept(socket).await else { continue };
                    let (reader, writer) = tokio::io::split(stream);
                    tokio::spawn(serve(reader, writer, shared.clone()));
                }
            });
            port
        }
        Transport::Quic => {
            let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
            let endpoint =
                quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), any).unwrap();
            let port = endpoint.local_addr().unwrap().port();
            let shared = shared.clone();
            tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    let Ok(connection) = incoming.await else { continue };
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let mut first = true;
                        while let Ok((writer, reader)) = connection.accept_bi().await {
                            shared.lock().unwrap().bulk_streams += usize::from(!first);
                            first = false;
                            tokio::spawn(serve(reader, writer, shared.clone()));
                        }
                    });
                }
            });
            port
        }
    };
    Listening { address: format!("localhost:{port}"), ca, shared }
}

async fn serve(
    mut reader: impl AsyncRead + Unpin + Send + 'static,
    mut writer: impl AsyncWrite + Unpin + Send + 'static,
    shared: Server,
) {
    let mut buffer = BytesMut::new();
    loop {
        let out = match frame::decode(&mut buffer, FRAME_BYTES_MAX).unwrap() {
            Some(Frame::Heartbeat) => HEARTBEAT.to_vec(),
            Some(Frame::Message(bytes)) => {
                let Some(out) = answer(parse_request(bytes).unwrap(), &shared) else { return };
                out
            }
            None => match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return drop(writer.shutdown().await),
                Ok(_) => continue,
            },
        };
        if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

fn entry(seq: u64, client_seq: ClientSeq, device: DeviceId) -> Entry {
    Entry {
        seq: Seq(seq),
        time: WallMillis(seq),
        sender: Sender { user: alice(), device },
        client_seq,
        change: Change::Message(text("hello")),
    }
}

fn answer(request: tern_protocol::request::Request, shared: &Server) -> Option<Vec<u8>> {
    let mut s = shared.lock().unwrap();
    let body = match request.body {
        RequestBody::Login(_) => {
            s.logins += 1;
            ServerBody::LoginOk(LoginOk {
                user: alice(),
                version: 1,
                features: vec![],
                time: WallMillis(0),
                heartbeat_ms: 300,
                in_flight_max: 64,
                epoch: None,
            })
        }
        RequestBody::Sync(_) => ServerBody::SyncPage(SyncPage { conversations: vec![], covered_until: None }),
        RequestBody::Send(send) => {
            let conversation = match send.target {
                Target::User(user) => ConversationId::direct(alice(), user),
                Target::Conversation(id) => id,
            };
            let key = (send.client_seq, conversation);
            let at = s.stored.iter().position(|k| *k == key);
            let seq = at.unwrap_or(s.stored.len()) as u64 + 1;
            if at.is_none() {
                s.stored.push(key);
            }
            if s.cuts > 0 {
                s.cuts -= 1;
                return None;
            }
            let ok = SendOk { conversation, seq: Seq(seq), time: WallMillis(seq), duplicate: at.is_some() };
            ServerBody::SendOk(ok)
        }
        RequestBody::Mark(marks) => {
            marks.iter().for_each(|m| s.delivered = s.delivered.max(m.delivered));
            if request.id.get() == 0 {
                return Some(Vec::new());
            }
            ServerBody::MarkOk
        }
        RequestBody::History(h) => {
            let device = DeviceId::new(5).unwrap();
            let entries =
                (1..=s.stored.len() as u64).map(|n| entry(n, ClientSeq(n), device)).collect::<Vec<_>>();
            let head = Seq(entries.len() as u64);
            ServerBody::HistoryPage(HistoryPage {
                conversation: h.conversation,
                head,
                floor: Seq(1),
                entries,
            })
        }
        other => panic!("{other:?}"),
    };
    Some(encode_server(&ServerMessage { id: request.id, body }).to_vec())
}

fn text(text: &str) -> Message {
    Message { content_type: "text/plain".into(), payload: text.to_owned().into(), reply_to: None }
}

fn config(server: &Listening, transport: Transport) -> Config {
    let mut config = Config::new(&server.address, server.ca.as_bytes(), Token::Fixed("token".into()));
    config.transport = transport;
    config.backoff_first = Duration::from_millis(10);
    config
}

async fn next_entry(events: &mut Events) -> Entry {
    loop {
        match events.next().await.expect("the client stopped") {
            Event::Entry { entry, .. } => return entry,
            _ => continue,
        }
    }
}

fn bob() -> Target {
    Target::User(UserId::from_sub("bob"))
}

async fn roundtrip(transport: Transport) {
    let server = listen(transport, ALPN).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let storage = SqliteStorage::open(&path).unwrap();
    let (client, mut events) = Client::connect(config(&server, transport), storage).await.unwrap();
    assert_eq!(client.online().await, Ok(alice()));
    let ok = client.send(bob(), text("hello")).await.unwrap();
    assert_eq!((ok.seq, ok.duplicate), (Seq(1), false));
    let entry = next_entry(&mut events).await;
    assert_eq!((entry.seq, entry.client_seq), (Seq(1), ClientSeq(1)));
    client.mark_read(ok.conversation, Seq(1)).await.unwrap();

    // A change of address; on TCP nothing.
    client.network_changed(None).await;
    let page = client.history(ok.conversation, HistoryFrom::Forward(Seq(1)), 10).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    let bulk = server.shared.lock().unwrap().bulk_streams;
    assert_eq!(bulk, usize::from(transport == Transport::Quic));

    // A second client on the same state is kept out; after close it is let in, and goes on where this one ended.
    assert!(matches!(SqliteStorage::open(&path), Err(StorageError::InUse(_))));
    events.confirm();
    assert!(client.close().await);
    let mut storage = SqliteStorage::open(&path).unwrap();
    let stored = &storage.load().unwrap().conversations[&ok.conversation];
    assert_eq!((stored.cursor, stored.next), (Seq(1), ClientSeq(2)));
    let (client, _events) = Client::connect(config(&server, transport), storage).await.unwrap();
    assert_eq!(client.send(bob(), text("again")).await.unwrap().seq, Seq(2));
    assert_eq!(server.shared.lock().unwrap().logins, 2);
}

#[tokio::test]
async fn over_tcp() {
    tokio::time::timeout(PATIENCE, roundtrip(Transport::Tcp)).await.unwrap();
}

#[tokio::test]
async fn over_quic() {
    tokio::time::timeout(PATIENCE, roundtrip(Transport::Quic)).await.unwrap();
}

#[tokio::test]
async fn what_was_stored_unanswered_is_not_stored_again() {
    let server = listen(Transport::Tcp, ALPN).await;
    server.shared.lock().unwrap().cuts = 3;
    let (client, mut events) =
        Client::connect(config(&server, Transport::Tcp), MemoryStorage::new()).await.unwrap();
    let mut pending = Vec::new();
    for _ in 0..20 {
        let change = Change::Message(text("hello"));
        pending.push(client.enqueue(bob(), change).await.unwrap());
    }
    // Nobody waits for the first: it goes all the same.
    drop(pending.remove(0));
    for (n, pending) in pending.into_iter().enumerate() {
        let ok = tokio::time::timeout(PATIENCE, pending).await.unwrap().unwrap();
        assert_eq!(ok.seq, Seq(n as u64 + 2));
    }
    for seq in 1..=20 {
        assert_eq!(next_entry(&mut events).await.seq, Seq(seq));
    }
    let numbers: Vec<_> = server.shared.lock().unwrap().stored.iter().map(|(n, _)| n.get()).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    assert!(client.close().await);
    assert_eq!(server.shared.lock().unwrap().delivered, Seq(19), "the twentieth was not confirmed");
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Connection(ConnectionState::Stopped(_)))), "{last:?}");
}

/// A client whose outbox is full, sends that wait for room, and where it connects to: nobody answers there.
async fn full_outbox(
    close_timeout: Duration,
) -> (Client, Events, tokio::task::JoinSet<bool>, tokio::net::TcpListener) {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    let token = Token::Fixed("token".into());
    let mut config = Config::new(format!("localhost:{port}"), certificate().0.as_bytes(), token);
    config.transport = Transport::Tcp;
    config.close_timeout = close_timeout;
    config.backoff_first = Duration::from_secs(60);
    config.backoff_max = Duration::from_secs(60);
    // Somebody who has been logged in before.
    let mut storage = MemoryStorage::new();
    storage.append(&[tern_client::storage::Record::User(alice())]).unwrap();
    let (client, events) = Client::start(config, storage).await.unwrap();
    for _ in 0..1024 {
        drop(client.enqueue(bob(), Change::Message(text("hello"))).await.unwrap());
    }
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        waiting.spawn(async move { client.send(bob(), text("hello")).await.is_ok() });
    }
    // Let them ask.
    tokio::task::yield_now().await;
    (client, events, waiting, nobody)
}

#[tokio::test]
async fn a_full_outbox_holds_up_neither_close_nor_a_change_of_network() {
    let close_timeout = Duration::from_millis(100);
    let (client, mut events, mut waiting, nobody) = full_outbox(close_timeout).await;
    let tried = async || tokio::time::timeout(PATIENCE, nobody.accept()).await.unwrap().unwrap();
    drop(tried().await);
    let mut state = client.state();
    let offline = |s: &ConnectionState| matches!(s, ConnectionState::Offline { .. });
    tokio::time::timeout(PATIENCE, state.wait_for(offline)).await.unwrap().unwrap();
    // It ends the wait of a minute for another try.
    client.network_changed(None).await;
    let _again = tried().await;
    let started = std::time::Instant::now();
    let settled = tokio::time::timeout(PATIENCE, client.close()).await.unwrap();
    assert!(!settled, "1,024 are not decided");
    assert!(started.elapsed() >= close_timeout);
    while let Some(sent) = waiting.join_next().await {
        assert!(!sent.unwrap());
    }
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn a_full_outbox_does_not_hide_that_all_handles_are_gone() {
    let (client, mut events, mut waiting, nobody) = full_outbox(Duration::from_secs(60)).await;
    drop((client, nobody));
    waiting.shutdown().await;
    let stopped = async { while events.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, stopped).await.unwrap();
}

fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("localhost:{}", listener.local_addr().unwrap().port())
}

#[tokio::test]
async fn of_several_nodes_one_is_enough() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let server = listen(transport, ALPN).await;
        let mut config = config(&server, transport);
        config.server = format!("{},{},nowhere.invalid:1", nobody(), server.address);
        // Which is tried first is random.
        for times in 1..=8 {
            let connect = Client::connect(config.clone(), MemoryStorage::new());
            let (client, _events) =
                tokio::time::timeout(PATIENCE, connect).await.unwrap().expect("one is there");
            assert_eq!(server.shared.lock().unwrap().logins, times);
            client.close().await;
        }
    }
}

#[tokio::test]
async fn failures_are_told_apart() {
    let server = listen(Transport::Tcp, ALPN).await;
    let foreign = listen(Transport::Tcp, b"h2").await;
    let quic = listen(Transport::Quic, b"h3").await;
    let good_quic = listen(Transport::Quic, ALPN).await;
    let good = config(&server, Transport::Tcp);
    let cases = [
        (Config { ca_pem: foreign.ca.clone().into(), ..good.clone() }, "certificate"),
        (config(&foreign, Transport::Tcp), "not a Tern server"),
        (config(&quic, Transport::Quic), "not a Tern server"),
        (Config { ca_pem: server.ca.clone().into(), ..config(&good_quic, Transport::Quic) }, "certificate"),
        (Config { server: nobody(), ..good.clone() }, "refused"),
        (Config { server: "nowhere.invalid:1".into(), ..good.clone() }, "cannot be resolved"),
        (Config { server: "nowhere".into(), ..good.clone() }, "host:port"),
        (Config { ca_pem: b"nonsense".to_vec(), ..good.clone() }, "CA certificates"),
        (Config { token: Token::source(|_| async { Err("no network".into()) }), ..good }, "no network"),
    ];
    for (config, expected) in cases {
        let connect = Client::connect(config, MemoryStorage::new());
        let error = tokio::time::timeout(PATIENCE, connect).await.unwrap().err().expect(expected);
        assert!(matches!(error, StartError::Offline(_) | StartError::Config(_)));
        assert!(error.to_string().contains(expected), "{error} lacks {expected}");
    }
}

/// Shakes hands over QUIC on this port, and then nothing; its authority, and how often.
fn mute_quic(port: u16) -> (String, tokio::sync::watch::Receiver<usize>) {
    let (ca, config) = tls(ALPN);
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let endpoint = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), at).unwrap();
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        let mut mute = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            mute.push(incoming.await);
            count.send_replace(mute.len());
        }
    });
    (ca, counted)
}

#[tokio::test]
async fn where_quic_shakes_hands_and_falls_silent_tcp_is_next() {
    let server = listen(Transport::Tcp, ALPN).await;
    let port = server.address.rsplit_once(':').unwrap().1.parse().unwrap();
    let (ca, mut shaken) = mute_quic(port);
    let config = Config {
        server: format!("127.0.0.1:{port}"),
        server_name: Some("localhost".into()),
        ca_pem: format!("{}{ca}", server.ca).into(),
        ..config(&server, Transport::Auto)
    };
    let (client, _events) = Client::start(config, MemoryStorage::new()).await.unwrap();
    tokio::time::timeout(PATIENCE, shaken.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    // Makes it impatient; once more if it had not come to its login.
    let online = async {
        loop {
            client.network_changed(None).await;
            if let Ok(online) = tokio::time::timeout(Duration::from_secs(5), client.online()).await {
                break online;
            }
        }
    };
    tokio::time::timeout(PATIENCE, online).await.unwrap().unwrap();
    assert_eq!(server.shared.lock().unwrap().logins, 1);
    assert!(client.close().await);
}

/// As happens to apps that the system puts to sleep: what drove the socket is gone when they wake.
#[tokio::test]
async fn an_endpoint_that_has_ended_is_replaced() {
    let server = listen(Transport::Quic, ALPN).await;
    let connector = Arc::new(Connector::new(&server.address, None, server.ca.as_bytes()).unwrap());
    for _ in 0..2 {
        let connector = connector.clone();
        let elsewhere = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            drop(runtime.block_on(connector.connect(Transport::Quic)).unwrap());
        });
        elsewhere.await.unwrap();
    }
    let mut connection = connector.connect(Transport::Quic).await.unwrap();
    connector.rebind().unwrap();
    connection.send_bytes(HEARTBEAT).await.unwrap();
    let echo = tokio::time::timeout(PATIENCE, connection.recv()).await.unwrap();
    assert_eq!(echo.unwrap(), Received::Heartbeat);
}

#[tokio::test]
async fn raw_connections_say_what_they_are_told_to() {
    let server = listen(Transport::Tcp, ALPN).await;
    let connector = Connector::new(&server.address, None, server.ca.as_bytes()).unwrap();
    let mut connection = connector.connect(Transport::Tcp).await.unwrap();
    connection.send_bytes(&[0, 0]).await.unwrap();
    assert_eq!(connection.recv().await.unwrap(), Received::Heartbeat);
    assert_eq!(connection.recv().await.unwrap(), Received::Heartbeat);
    let mark = tern_protocol::request::Request { id: RequestId(9), body: RequestBody::Mark(vec![]) };
    connection.send_request(&mark).await.unwrap();
    let ok = ServerMessage { id: RequestId(9), body: ServerBody::MarkOk };
    assert_eq!(connection.recv().await.unwrap(), Received::Message(ok));
    connection.sender.finish().await.unwrap();
    assert_eq!(connection.recv().await.unwrap(), Received::Closed);
}
