//! What somebody on the way has recorded of a client, sent once more: TLS and QUIC refuse it, and nothing is done twice.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tern_client::Transport;
use tern_client::raw::Connector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::served::{Files, Served};
use crate::support::{PATIENCE, Session, seqs, user};

/// More than a client says here in one piece.
const PIECE_BYTES: usize = 64 * 1024;

/// What clients have said, piece by piece: on each TCP connection, or in all datagrams.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<Vec<Vec<u8>>>>>);

impl Recorded {
    /// Another recording; its number.
    fn begin(&self) -> usize {
        let mut all = self.0.lock().expect("not poisoned");
        all.push(Vec::new());
        all.len() - 1
    }

    fn keep(&self, number: usize, bytes: &[u8]) {
        self.0.lock().expect("not poisoned")[number].push(bytes.to_vec());
    }

    fn all(&self) -> Vec<Vec<Vec<u8>>> {
        self.0.lock().expect("not poisoned").clone()
    }
}

/// Somebody between clients and a server, one connection at a time.
async fn eavesdrop(transport: Transport, server: SocketAddr) -> (SocketAddr, Recorded) {
    let (recorded, any) = (Recorded::default(), SocketAddr::from(([127, 0, 0, 1], 0)));
    let kept = recorded.clone();
    let address = if transport == Transport::Tcp {
        let listener = TcpListener::bind(any).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let number = kept.begin();
                let mut server = TcpStream::connect(server).await.expect("it listens");
                let kept = kept.clone();
                tokio::spawn(async move {
                    let (mut said, mut answered) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
                    loop {
                        let (into, bytes) = tokio::select! {
                            Ok(n) = client.read(&mut said) => {
                                kept.keep(number, &said[..n]);
                                (&mut server, &said[..n])
                            }
                            Ok(n) = server.read(&mut answered) => (&mut client, &answered[..n]),
                            else => return,
                        };
                        if bytes.is_empty() || into.write_all(bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    } else {
        let ears = UdpSocket::bind(any).await.expect("a free port");
        let address = ears.local_addr().expect("bound");
        let mouth = UdpSocket::bind(any).await.expect("a free port");
        mouth.connect(server).await.expect("an address");
        tokio::spawn(async move {
            let (mut said, mut answered) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
            let (number, mut client) = (kept.begin(), None);
            // What is lost on the way is sent again.
            loop {
                tokio::select! {
                    Ok((n, from)) = ears.recv_from(&mut said) => {
                        client = Some(from);
                        kept.keep(number, &said[..n]);
                        let _ = mouth.send(&said[..n]).await;
                    }
                    Ok(n) = mouth.recv(&mut answered) => {
                        let _ = ears.send_to(&answered[..n], client.expect("it has asked")).await;
                    }
                }
            }
        });
        address
    };
    (address, recorded)
}

/// Says the same once more. Returns when the server has heard it.
async fn replay(served: &Served, transport: Transport, recorded: &[Vec<u8>]) {
    if transport == Transport::Tcp {
        let mut stream = TcpStream::connect(served.tcp[0]).await.expect("accepted");
        for piece in recorded {
            // It may have been sent away by then.
            let _ = stream.write_all(piece).await;
        }
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _ = end.expect("sent away within the patience");
        return;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    for datagram in recorded {
        socket.send_to(datagram, served.quic[0]).await.expect("sent");
    }
}

/// What requests have become of what came over the network: logins, sends, marks.
async fn taken_up(served: &Served) -> [u64; 4] {
    let requests = |kind: &str| format!("tern_requests_total{{shard=\"0\",kind=\"{kind}\"}}");
    [
        served.metric(&requests("login")).await,
        served.metric(&requests("send")).await,
        served.metric(&requests("mark")).await,
        served.metric("tern_logins_total{result=\"ok\"}").await,
    ]
}

/// A client whose bytes are recorded; `n` counts them.
async fn talk(through: &Connector, transport: Transport, token: &str, n: u64) -> Session {
    let connection = through.connect(transport).await.expect("connected");
    let mut alice = Session::login(connection, token, n).await.expect("the token is good");
    let ok = alice.text(user("bob"), "only once").await.expect("stored");
    assert_eq!(ok.seq.get(), n);
    alice.mark(ok.conversation, n, n).await.expect("marked");
    alice
}

#[tokio::test]
async fn recorded_bytes_are_of_no_use_to_anybody() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let mut files = Files::new();
        let ca = files.certificate("first");
        files.config = files.config.replace("shards = 2", "shards = 1");
        let served = files.serve();
        let token = files.token("alice");
        let (address, recorded) = eavesdrop(transport, served.tcp[0]).await;
        let through = Connector::new(&address.to_string(), None, &ca).expect("a good address");
        // One full handshake that has ended, and one with a ticket whose connection is still there.
        talk(&through, transport, &token, 1).await.close().await;
        let mut alice = talk(&through, transport, &token, 2).await;
        let recorded = recorded.all();
        assert!(recorded.iter().all(|pieces| pieces.len() > 2), "with a login and more");
        let before = taken_up(&served).await;
        assert_eq!(before, [2, 2, 2, 2], "each of what was recorded counts");
        for pieces in &recorded {
            replay(&served, transport, pieces).await;
            if transport == Transport::Tcp {
                replay(&served, transport, &[pieces.concat()]).await;
            }
        }
        // Who comes now is heard after what was said before.
        let mut bob = served.login(&served.connector(&ca), transport, &files.token("bob"), 1).await;
        assert_eq!(taken_up(&served).await, [3, 2, 2, 3], "bob's login, and nothing else");
        if transport == Transport::Tcp {
            let failed = "tern_handshakes_total{shard=\"0\",transport=\"tcp\",result=\"failed\"}";
            let all = async {
                while served.metric(failed).await < 2 * recorded.len() as u64 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, all).await.expect("each is refused in its handshake");
        }
        alice.is_served().await;
        let id = alice.text(user("bob"), "the third").await.expect("stored").conversation;
        assert_eq!(seqs(&bob.log_from(id, 1).await.expect("a member")), [1, 2, 3], "nothing is there twice");
    }
}
