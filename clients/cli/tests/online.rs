//! `send` and `tail` against a server of a few lines.

use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use tern_protocol::convert::{encode_server, parse_request};
use tern_protocol::event::{LoginOk, SendOk, ServerBody, ServerMessage, SyncPage};
use tern_protocol::frame::{self, Frame, HEARTBEAT};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::{ALPN, FRAME_BYTES_MAX};
use tern_protocol::model::{Change, Entry, Message, Sender, WallMillis};
use tern_protocol::request::RequestBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn alice() -> UserId {
    UserId::from_sub("alice")
}

fn chat() -> ConversationId {
    ConversationId::direct(alice(), UserId::from_sub("bob"))
}

fn answer(request: tern_protocol::request::Request) -> Vec<ServerBody> {
    match request.body {
        RequestBody::Login(_) => vec![ServerBody::LoginOk(LoginOk {
            user: alice(),
            version: 1,
            features: vec![],
            time: WallMillis(0),
            heartbeat_ms: 60_000,
            in_flight_max: 64,
            epoch: None,
        })],
        RequestBody::Sync(_) => {
            let message =
                Message { content_type: "text/plain".into(), payload: "\x1b[2Jhi".into(), reply_to: None };
            let entry = Entry {
                seq: Seq(1),
                time: WallMillis(1000),
                sender: Sender { user: UserId::from_sub("bob"), device: DeviceId::new(3).unwrap() },
                client_seq: ClientSeq(1),
                change: Change::Message(message),
            };
            vec![
                ServerBody::Push { conversation: chat(), entry },
                ServerBody::SyncPage(SyncPage { conversations: vec![], covered_until: None }),
            ]
        }
        RequestBody::Send(send) => {
            let Change::Message(message) = &send.change else { panic!("{send:?}") };
            assert_eq!(&message.payload[..], b"from stdin");
            let ok = SendOk { conversation: chat(), seq: Seq(7), time: WallMillis(5), duplicate: false };
            vec![ServerBody::SendOk(ok)]
        }
        RequestBody::Mark(_) => vec![],
        other => panic!("{other:?}"),
    }
}

async fn listen() -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            tokio::spawn(async move {
                let mut buffer = bytes::BytesMut::new();
                while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                    while let Some(frame) = frame::decode(&mut buffer, FRAME_BYTES_MAX).unwrap() {
                        let mut out = Vec::new();
                        match frame {
                            Frame::Heartbeat => out.extend_from_slice(HEARTBEAT),
                            Frame::Message(bytes) => {
                                let request = parse_request(bytes).unwrap();
                                let answered = request.id;
                                for body in answer(request) {
                                    let id = if matches!(body, ServerBody::Push { .. }) {
                                        RequestId(0)
                                    } else {
                                        answered
                                    };
                                    out.extend_from_slice(&encode_server(&ServerMessage { id, body }));
                                }
                            }
                        }
                        stream.write_all(&out).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, made.cert.pem())
}

#[tokio::test]
async fn send_and_tail() {
    let (port, pem) = listen().await;
    let home = tempfile::tempdir().unwrap();
    let ca = home.path().join("ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let run = async |args: &[&str], input: &[u8]| {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_tern"))
            .args(["--server", &format!("localhost:{port}"), "--token", "e30.eyJzdWIiOiJhbGljZSJ9.x"])
            .args(args)
            .env("TERN_CA", &ca)
            .env("XDG_STATE_HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["send", "--to", "bob"], b"from stdin\n").await, format!("{} 7\n", chat()));
    let sent: Value =
        serde_json::from_str(&run(&["send", "--to", "bob", "--json"], b"from stdin").await).unwrap();
    assert_eq!(sent["seq"], 7);

    let lines = run(&["tail", "--count", "1"], b"").await;
    // He was named when something was sent to him.
    let shown = format!("1970-01-01 00:00:01 {} 1 bob: \\u{{1b}}[2Jhi", chat());
    assert_eq!(lines.lines().last(), Some(&*shown));
    // The device has it now: it is not shown again.
    let lines = run(&["tail", "--once", "--json"], b"").await;
    let events: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(events.iter().all(|e| e["event"] != "entry"), "{lines}");
    assert_eq!(events.last().unwrap()["event"], "caught_up");
    assert!(home.path().join("tern").read_dir().unwrap().count() >= 4, "two states and their locks");
}
