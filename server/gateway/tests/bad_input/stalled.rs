//! Clients that begin and do not go on. All wait for the same ten seconds at once.

use std::time::{Duration, Instant};

use tern_check::random::Random;
use tern_client::Transport;
use tern_client::raw::{Connection, Received};
use tern_protocol::convert::encode_request;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::frame::HEARTBEAT;
use tern_protocol::ids::RequestId;
use tern_protocol::request::{Request, RequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::support::{PATIENCE, Start, TRANSPORTS, Ternd, login_request};
use crate::{Bystanders, closes_with, connect, is_well};

/// Less than the server's ten seconds by more than its clock's ticks.
const TOO_SOON: Duration = Duration::from_secs(8);

/// A TCP client that sends these bytes and nothing more is sent away in the end.
async fn silent_tcp(ternd: &Ternd, bytes: &[u8]) {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(ternd.address).await.expect("connected");
    stream.write_all(bytes).await.expect("sent");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let _ = end.expect("closed within the patience");
    assert!(begin.elapsed() > TOO_SOON, "closed too soon");
}

/// One that speaks no TLS is sent away at once.
async fn not_tls(ternd: &Ternd) {
    let mut stream = TcpStream::connect(ternd.address).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: tern\r\n\r\n").await.expect("sent");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let _ = end.expect("closed within the patience");
}

/// A connection on which nobody logs in.
async fn no_login(ternd: &Ternd, transport: Transport, bytes: &[u8]) {
    let begin = Instant::now();
    let mut connection = connect(ternd, transport).await;
    connection.send_bytes(bytes).await.expect("sent");
    closes_with(&mut connection, 0, ErrorCode::LoginTimeout).await;
    assert!(begin.elapsed() > TOO_SOON, "closed too soon");
}

/// The same, but it keeps sending what is no login.
async fn chatty_without_login(ternd: &Ternd, transport: Transport) {
    let mut connection: Connection = connect(ternd, transport).await;
    let mut code = None;
    let chat = async {
        loop {
            // What fails here is said there.
            let _ = connection.send_bytes(HEARTBEAT).await;
            match connection.recv().await {
                Ok(Received::Heartbeat) => tokio::time::sleep(Duration::from_millis(200)).await,
                Ok(Received::Message(message)) => {
                    if let ServerBody::Error(error) = message.body {
                        code = Some(error.code);
                    }
                }
                Ok(Received::Closed) | Err(_) => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, chat).await.expect("closed within the patience");
    assert_eq!(code, Some(ErrorCode::LoginTimeout));
}

/// A QUIC connection whose client never opens a stream.
async fn no_stream(ternd: &Ternd) {
    let connection = connect(ternd, Transport::Quic).await;
    let quic = connection.quic().expect("over QUIC");
    let closed = tokio::time::timeout(PATIENCE, quic.closed()).await;
    closed.expect("closed within the patience");
}

/// Datagrams that look like the beginning of a connection, and are not.
async fn garbage_datagrams(ternd: &Ternd) {
    let mut random = Random::new(7);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    for n in 0..2_000u64 {
        let mut datagram: Vec<u8> = (0..random.within(1..1_401)).map(|_| random.any() as u8).collect();
        match n % 4 {
            // A long header of version 1, an Initial: its token and length are garbage.
            0 if datagram.len() > 40 => {
                datagram[0] = 0xc0 | datagram[0] & 0x0f;
                datagram[1..5].copy_from_slice(&1u32.to_be_bytes());
                datagram[5] = 8;
                datagram[14] = 8;
                datagram.resize(1_200, 0);
            }
            // Of a version that nobody speaks: answered with those that are spoken, at most.
            1 if datagram.len() > 6 => datagram[0] |= 0x80,
            // A short header: of no connection.
            2 => datagram[0] = 0x40 | datagram[0] & 0x3f,
            _ => {}
        }
        socket.send_to(&datagram, ternd.address).await.expect("sent");
    }
}

#[tokio::test]
async fn who_stalls_is_sent_away_and_disturbs_nobody() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(data.path(), &Start::default());
    let mut bystanders = Bystanders::new(&ternd, Transport::Tcp).await;
    let login = RequestBody::Login(login_request(&ternd.token("alice"), 1));
    let login = encode_request(&Request { id: RequestId(1), body: login });
    // The header of a TLS record with a ClientHello in it, and a part of that.
    let hello = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[7; 40]].concat();
    {
        let ternd = &ternd;
        let mut cases: Vec<std::pin::Pin<Box<dyn Future<Output = ()> + '_>>> = vec![
            Box::pin(silent_tcp(ternd, b"")),
            Box::pin(silent_tcp(ternd, &hello[..1])),
            Box::pin(silent_tcp(ternd, &hello)),
            Box::pin(not_tls(ternd)),
            Box::pin(no_stream(ternd)),
            Box::pin(garbage_datagrams(ternd)),
        ];
        for _ in 0..50 {
            cases.push(Box::pin(silent_tcp(ternd, b"")));
        }
        for transport in TRANSPORTS {
            cases.push(Box::pin(no_login(ternd, transport, HEARTBEAT)));
            cases.push(Box::pin(no_login(ternd, transport, &login[..login.len() - 1])));
            cases.push(Box::pin(chatty_without_login(ternd, transport)));
        }
        cases.push(Box::pin(no_login(ternd, Transport::Tcp, b"")));
        let mut stalled = Box::pin(futures_util::future::join_all(cases));
        // All the while, others go on.
        let mut talked = 0;
        loop {
            tokio::select! {
                _ = &mut stalled => break,
                () = bystanders.talk() => talked += 1,
            }
            if talked % 20 == 0 {
                ternd.login(TRANSPORTS[talked / 20 % 2], "newcomer", 1).await.close().await;
            }
        }
        assert!(talked > 10, "they were held up: {talked}");
    }
    is_well(&mut ternd).await;
    ternd.kill();
}
