//! Clients that do not go on, do not read, or are too many.

use tern_client::Transport;
use tern_client::raw::Connector;
use tern_core::limits::{LAGGING_MAX, REFUSED_IN_PAUSE_MAX};
use tern_protocol::model::{Change, Target};
use tern_protocol::request::{ListConversations, RequestBody, Send};
use tern_server::clock;
use tern_server::tls::DevIdentity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::traffic::flood;
use super::{Move, Watch, admin};
use crate::served::Files;
use crate::support::{Start, Ternd, group, user};

pub(super) async fn handshakes_do_not_end(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut watch = Watch::new(ternd.admin).await;
    let mut no_tls = TcpStream::connect(ternd.address).await.expect("connected");
    no_tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let elsewhere = DevIdentity::load_or_create(&data.path().join("elsewhere"), &[], clock::wall());
    let ca = elsewhere.expect("a certificate").ca_pem.into_bytes();
    let distrusting = Connector::new(&ternd.address.to_string(), None, &ca).expect("a good address");
    assert!(distrusting.connect(Transport::Quic).await.is_err(), "the server is not whom it was to be");
    let _silent = TcpStream::connect(ternd.address).await.expect("connected");
    // What this one says arrives, and what the server says to it does not.
    let ears = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let mouth = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = ears.local_addr().expect("bound").to_string();
    let deaf = Connector::new(&address, None, &ternd.ca()).expect("a good address");
    let one_way = async {
        let mut datagram = [0; 2048];
        loop {
            let n = ears.recv(&mut datagram).await.expect("readable");
            mouth.send_to(&datagram[..n], ternd.address).await.expect("sent");
        }
    };
    tokio::select! {
        () = watch.until(expected) => {}
        () = one_way => {}
        never = async {
            let _ = deaf.connect(Transport::Quic).await;
            std::future::pending::<()>().await;
        } => never,
    }
}

pub(super) async fn nobody_takes_what_is_sent(expected: &[Move]) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    let _bob = ternd.login(Transport::Quic, "bob", 1).await;
    let _carol = ternd.login(Transport::Quic, "carol", 1).await;
    let mut watch = Watch::new(ternd.admin).await;
    // Above what two QUIC connections and the server's queues hold.
    alice.create(group(0), "flood", &["bob", "carol"]).await;
    flood(&mut alice, group(0), 63).await;
    // Carol's device comes back, and the old connection does not take the reason for which it is closed.
    let _again = ternd.login(Transport::Quic, "carol", 1).await;
    // Bob misses more conversations than are remembered for him.
    for round in 0..=LAGGING_MAX as u64 / 64 {
        let mut asked = Vec::new();
        for n in 1..=63 {
            let target = Target::Conversation(group(round * 64 + n));
            let client_seq = alice.next_client_seq(&target);
            let change = Change::Create { title: String::from("another"), members: vec![user("bob")] };
            asked.push(alice.request(RequestBody::Send(Send { target, client_seq, change })).await);
        }
        for request in asked {
            alice.answer(request).await.expect("stored");
        }
    }
    watch.until(expected).await;
    alice.is_served().await;
}

fn list() -> RequestBody {
    RequestBody::ListConversations(ListConversations { after: None, limit: 1 })
}

pub(super) async fn limits_are_reached(expected: &[Move]) {
    let mut files = Files::new();
    let ca = files.certificate("first");
    files.config = files.config.replace("shards = 2", "shards = 1");
    files.config += "\n[limits]\nconnections_per_shard = 3\nbefore_login_per_address = 2\n\
                     device_work_per_second = 1\ndevice_work_burst = 1\n";
    let served = files.serve();
    let mut watch = Watch::new(admin(&served)).await;
    let connector = served.connector(&ca);
    let mut sessions = Vec::new();
    for device in 1..=3 {
        sessions.push(served.login(&connector, Transport::Tcp, &files.token("alice"), device).await);
    }
    let mut fourth = connector.connect(Transport::Tcp).await.expect("the handshake comes first");
    assert!(crate::support::next(&mut fourth).await.is_none(), "it is closed");
    for session in &mut sessions {
        session.is_served().await;
    }
    // One goes on asking after it was told to wait.
    for _ in 0..2 * REFUSED_IN_PAUSE_MAX {
        sessions[0].request(list()).await;
    }
    // Two who do not go on take the places of their address.
    let _silent = [TcpStream::connect(served.tcp[0]).await, TcpStream::connect(served.tcp[0]).await];
    // The reset may come while it connects.
    if let Ok(mut third) = TcpStream::connect(served.tcp[0]).await {
        assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "it is closed");
    }
    assert!(connector.connect(Transport::Quic).await.is_err(), "both transports count together");
    watch.until(expected).await;
}
