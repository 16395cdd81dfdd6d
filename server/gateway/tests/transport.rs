//! TCP, QUIC and TLS over real sockets.

mod transport_support;

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustls::HandshakeKind;
use tern_protocol::limits;
use tern_server::limits::Limits;
use tern_server::transport::Steering;
use tern_server::transport::quic::QuicOptions;
use tern_server::transport::tcp::TcpOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use transport_support::*;

#[tokio::test]
async fn tcp_reaches_every_shard() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options { shards: 3, ..Options::default() });
    let config = Arc::new(tern_client(&server).0);
    let mut reached = HashSet::new();
    for n in 0..200 {
        let mut stream = connect_tcp(server.address, &config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(limits::ALPN));
        let own_port = stream.get_ref().0.local_addr().unwrap().port();
        let answer = ask_tcp(&mut stream, n).await.unwrap();
        assert_eq!(answer.port, own_port);
        reached.insert(answer.shard);
        if reached.len() == 3 {
            return;
        }
    }
    panic!("200 connections reached shards {reached:?} only");
}

#[tokio::test]
async fn other_protocols_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default());
    let none: &[&[u8]] = &[];
    for alpn in [none, &[b"h2"], &[b"tern/2", b"http/1.1"]] {
        let (config, _) = client_config(&server.ca_pem, alpn);
        let refused = server.tcp(|stats| stats.failed.load(Relaxed));
        // A TLS 1.3 client is done before the server has judged it, and hears of it when it reads.
        if let Ok(mut stream) = connect_tcp(server.address, &Arc::new(config.clone())).await {
            assert!(ask_tcp(&mut stream, 1).await.is_err(), "{alpn:?}");
        }
        eventually("the refusal is counted", || server.tcp(|s| s.failed.load(Relaxed)) == refused + 1).await;

        let refused = connect_quic(&quic_client(config), server.address).await;
        assert!(refused.is_err(), "{alpn:?}");
    }
    assert_eq!(server.tcp(|stats| stats.accepted.load(Relaxed)), 0);
    assert_eq!(server.quic(|stats| stats.accepted.load(Relaxed)), 0);
}

/// A network address translator for one client that forgets, at a word, which port it had given it.
struct Proxy {
    address: SocketAddr,
    renumber: mpsc::Sender<()>,
    /// The client's latest datagram.
    latest: watch::Receiver<Vec<u8>>,
}

impl Proxy {
    /// `back`: whether what the server sends gets through.
    async fn start(server: SocketAddr, back: bool) -> Self {
        async fn outside(server: SocketAddr) -> tokio::net::UdpSocket {
            let socket = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
            socket.connect(server).await.unwrap();
            socket
        }
        let inside = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
        let address = inside.local_addr().unwrap();
        let (renumber, mut renumbered) = mpsc::channel(1);
        let (datagram, latest) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut up = outside(server).await;
            let mut client = None;
            let (mut there, mut here) = ([0; 2048], [0; 2048]);
            loop {
                tokio::select! {
                    Ok((len, from)) = inside.recv_from(&mut there) => {
                        client = Some(from);
                        let _ = up.send(&there[..len]).await;
                        datagram.send_replace(there[..len].to_vec());
                    }
                    Ok(len) = up.recv(&mut here) => {
                        if let (Some(client), true) = (client, back) {
                            let _ = inside.send_to(&here[..len], client).await;
                        }
                    }
                    word = renumbered.recv() => match word {
                        Some(()) => up = outside(server).await,
                        None => return,
                    },
                }
            }
        });
        Self { address, renumber, latest }
    }
}

/// 200 conversations, half of them with clients that change their address themselves, half behind a translator that
/// changes it for them, three times each while they talk. Nobody may notice.
async fn converse_while_moving(steering: Steering, shards: usize) -> Server {
    const GROUPS: usize = 10;
    const PER_GROUP: usize = 10;
    const CONNECTIONS: usize = 2 * GROUPS * PER_GROUP;
    const QUESTIONS: usize = 40;
    const MOVES: usize = 3;

    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options { shards, steering, ..Options::default() });
    let (config, _) = tern_client(&server);

    let mut movers = Vec::new();
    let mut proxies = Vec::new();
    let mut connections = Vec::new();
    for group in 0..2 * GROUPS {
        let endpoint = quic_client(config.clone());
        let address = if group % 2 == 0 {
            server.address
        } else {
            let proxy = Proxy::start(server.address, true).await;
            let address = proxy.address;
            proxies.push(proxy);
            address
        };
        for _ in 0..PER_GROUP {
            connections.push((connect_quic(&endpoint, address).await.unwrap(), group % 2 == 0));
        }
        if group % 2 == 0 {
            movers.push(endpoint);
        }
    }
    assert_eq!(connections.len(), CONNECTIONS);

    let (progress, mut progressed) = watch::channel(0);
    let mut conversations = JoinSet::new();
    for (n, (connection, direct)) in connections.into_iter().enumerate() {
        let progress = progress.clone();
        conversations.spawn(async move {
            let mut stream = connection.open_bi().await.unwrap();
            let mut shards = HashSet::new();
            let mut ports = HashSet::new();
            for question in 0..QUESTIONS {
                match ask(&mut stream, (n * QUESTIONS + question) as u64).await {
                    Ok(answer) => {
                        shards.insert(answer.shard);
                        ports.insert(answer.port);
                    }
                    Err(_) => panic!(
                        "connection {n} (direct: {direct}) was lost at question {question}: {:?}",
                        connection.close_reason()
                    ),
                }
                progress.send_modify(|count| *count += 1);
            }
            assert_eq!(shards.len(), 1, "connection {n} changed its shard: {shards:?}");
            assert!(ports.len() > 1, "connection {n} (direct: {direct}) never moved: {ports:?}");
            shards.into_iter().next().unwrap()
        });
    }
    let moving = tokio::spawn(async move {
        for step in 1..=MOVES {
            let threshold = step * CONNECTIONS * QUESTIONS / (MOVES + 1);
            progressed.wait_for(|count| *count >= threshold).await.unwrap();
            for endpoint in &movers {
                endpoint.rebind(UdpSocket::bind(any_port()).unwrap()).unwrap();
            }
            for proxy in &proxies {
                proxy.renumber.send(()).await.unwrap();
            }
        }
        // They go on until the conversations are over.
        (movers, proxies)
    });
    let mut per_shard = vec![0; shards];
    in_time("the conversations", async {
        while let Some(done) = conversations.join_next().await {
            per_shard[done.unwrap()] += 1;
        }
    })
    .await;
    drop(moving.await.unwrap());
    assert!(per_shard.iter().all(|&count| count > CONNECTIONS / shards / 4), "one-sided: {per_shard:?}");
    server
}

#[tokio::test]
async fn moving_clients_stay_with_their_shard() {
    for shards in [2, 3] {
        let server = converse_while_moving(Steering::Kernel, shards).await;
        let misrouted = server.quic(|stats| stats.forward.forwarded.load(Relaxed));
        assert_eq!(misrouted, 0, "the kernel steers everything with {shards} shards");
    }
}

#[tokio::test]
async fn without_the_kernels_help_shards_forward() {
    let server = converse_while_moving(Steering::Forwarding, 2).await;
    let forwarded = server.quic(|stats| stats.forward.forwarded.load(Relaxed));
    assert!(forwarded > 100, "only {forwarded} datagrams were forwarded");
    assert_eq!(server.quic(|stats| stats.forward.taken_in.load(Relaxed)), forwarded);
    assert_eq!(server.quic(|stats| stats.forward.dropped.load(Relaxed)), 0);
}

#[tokio::test]
async fn tcp_sessions_are_resumed_on_every_shard_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options { shards: 3, ..Options::default() });
    let config = Arc::new(tern_client(&server).0);
    let connect = async |address| {
        let mut stream = connect_tcp(address, &config).await.unwrap();
        // The ticket comes with the first answer.
        let answer = ask_tcp(&mut stream, 1).await.unwrap();
        (stream.get_ref().1.handshake_kind().unwrap(), answer.shard)
    };
    assert_eq!(connect(server.address).await.0, HandshakeKind::Full);
    let mut reached = HashSet::new();
    while reached.len() < 3 {
        let (kind, shard) = connect(server.address).await;
        assert_eq!(kind, HandshakeKind::Resumed, "shard {shard}");
        reached.insert(shard);
    }
    server.stop();

    let server = Server::start(dir.path(), Options::default());
    assert_eq!(connect(server.address).await.0, HandshakeKind::Resumed);
    server.stop();

    fs::remove_file(dir.path().join("server.secret")).unwrap();
    let server = Server::start(dir.path(), Options::default());
    assert_eq!(connect(server.address).await.0, HandshakeKind::Full);
}

#[tokio::test]
async fn sessions_are_resumed_on_another_node_with_the_same_secret() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let one = Server::start(dirs[0].path(), Options::default());
    for file in fs::read_dir(dirs[0].path()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dirs[1].path().join(file.file_name())).unwrap();
    }
    let other = Server::start(dirs[1].path(), Options::default());
    let (config, handshakes) = tern_client(&one);
    let (tcp, endpoint) = (Arc::new(config.clone()), quic_client(config));
    for server in [&one, &other, &one] {
        let mut stream = connect_tcp(server.address, &tcp).await.unwrap();
        ask_tcp(&mut stream, 1).await.unwrap();
        assert_eq!(handshakes.full(), 1);
    }
    for server in [&other, &one, &other] {
        let connection = connect_quic(&endpoint, server.address).await.unwrap();
        let mut stream = connection.open_bi().await.unwrap();
        ask(&mut stream, 1).await.unwrap();
        assert!(handshakes.full() <= 2, "one with each transport");
    }
}

#[tokio::test]
async fn quic_sessions_are_resumed_on_every_shard_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options { shards: 3, ..Options::default() });
    let (config, handshakes) = tern_client(&server);
    let endpoint = quic_client(config);
    let connect = async |address| {
        let connection = connect_quic(&endpoint, address).await.unwrap();
        let mut stream = connection.open_bi().await.unwrap();
        ask(&mut stream, 1).await.unwrap().shard
    };
    let mut reached = HashSet::new();
    for _ in 0..200 {
        reached.insert(connect(server.address).await);
        assert_eq!(handshakes.full(), 1);
    }
    assert_eq!(reached.len(), 3);
    server.stop();

    let server = Server::start(dir.path(), Options::default());
    connect(server.address).await;
    assert_eq!(handshakes.full(), 1);
    server.stop();

    fs::remove_file(dir.path().join("server.secret")).unwrap();
    let server = Server::start(dir.path(), Options::default());
    connect(server.address).await;
    assert_eq!(handshakes.full(), 2);
}

#[tokio::test]
async fn quic_keys_change_as_often_as_the_client_likes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default());
    let endpoint = quic_client(tern_client(&server).0);
    let connection = connect_quic(&endpoint, server.address).await.unwrap();
    let mut stream = connection.open_bi().await.unwrap();
    for question in 0..10 {
        in_time("an answer", ask(&mut stream, question)).await.unwrap();
        connection.force_key_update();
    }
}

/// A phone that was away while the server was restarted learns it with its first datagram, not after minutes.
#[tokio::test]
async fn a_restarted_server_resets_connections_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default());
    let address = server.address;
    let endpoint = quic_client(tern_client(&server).0);
    let connection = connect_quic(&endpoint, address).await.unwrap();
    let mut stream = connection.open_bi().await.unwrap();
    ask(&mut stream, 1).await.unwrap();
    server.stop();

    let _server = Server::start(dir.path(), Options { address, ..Options::default() });
    assert!(in_time("the answer", ask(&mut stream, 2)).await.is_err());
    let reason = in_time("the reset", connection.closed()).await;
    assert!(matches!(reason, quinn::ConnectionError::Reset), "{reason}");
}

/// However many phones come with their first datagrams at the same moment.
#[tokio::test]
async fn a_restarted_server_leaves_no_datagram_of_an_old_connection_unanswered() {
    const PHONES: usize = 100;

    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options { shards: 1, ..Options::default() });
    let address = server.address;
    let proxy = Proxy::start(address, true).await;
    let endpoint = quic_client(tern_client(&server).0);
    let connection = connect_quic(&endpoint, proxy.address).await.unwrap();
    let mut stream = connection.open_bi().await.unwrap();
    // A datagram of an established connection. Those of the handshake may be sent again after it.
    let is_established = |datagram: &[u8]| datagram[0] & 0x80 == 0;
    let mut question = 0;
    let datagram = loop {
        question += 1;
        in_time("an answer", ask(&mut stream, question)).await.unwrap();
        let latest = proxy.latest.borrow().clone();
        if is_established(&latest) {
            break latest;
        }
    };
    server.stop();

    let _server = Server::start(dir.path(), Options { address, shards: 1, ..Options::default() });
    let phone = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    phone.connect(address).await.unwrap();
    for _ in 0..PHONES {
        phone.send(&datagram).await.unwrap();
    }
    let mut reset = [0; 2048];
    for n in 0..PHONES {
        let len = in_time(&format!("reset {n}"), phone.recv(&mut reset)).await.unwrap();
        assert!(len < datagram.len(), "a reset is smaller than what it answers");
    }
}

#[tokio::test]
async fn a_silent_tcp_client_is_closed_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let tcp = TcpOptions { handshake_timeout: Duration::from_secs(5), ..TcpOptions::default() };
    let server = Server::start(dir.path(), Options { shards: 1, tcp, ..Options::default() });
    let config = Arc::new(tern_client(&server).0);
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut stream = connect_tcp(server.address, &config).await.unwrap();
    ask_tcp(&mut stream, 1).await.unwrap();
    assert_eq!(server.tcp(|stats| stats.timed_out.load(Relaxed)), 0, "they were in time beside it");
    let read = in_time("the silent client is closed", silent.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    eventually("it is counted", || server.tcp(|stats| stats.timed_out.load(Relaxed)) == 1).await;
    ask_tcp(&mut stream, 2).await.unwrap();
}

#[tokio::test]
async fn what_is_no_tls_gets_an_alert_and_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options { shards: 1, ..Options::default() });
    let config = Arc::new(tern_client(&server).0);
    let mut good = connect_tcp(server.address, &config).await.unwrap();
    let mut answer = Vec::new();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 3000]] {
        let mut bad = TcpStream::connect(server.address).await.unwrap();
        bad.write_all(bytes).await.unwrap();
        answer.clear();
        in_time("the end", bad.read_to_end(&mut answer)).await.unwrap();
        // One record: a fatal alert.
        assert!(matches!(answer[..], [0x15, 3, 3, 0, 2, 2, _]), "{answer:?} to {bytes:?}");
        ask_tcp(&mut good, 1).await.unwrap();
    }
    assert_eq!(server.tcp(|stats| stats.failed.load(Relaxed)), 3);

    let (mut bad, _) = connect_tcp(server.address, &config).await.unwrap().into_inner();
    bad.write_all(&[0x17, 3, 3, 0, 30]).await.unwrap();
    bad.write_all(&[0; 30]).await.unwrap();
    answer.clear();
    in_time("the end", bad.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.is_empty(), "an alert that nobody else can read");
    ask_tcp(&mut good, 2).await.unwrap();
}

#[tokio::test]
async fn above_the_bound_tcp_clients_wait_for_their_turn() {
    const CLIENTS: u64 = 3;

    let dir = tempfile::tempdir().unwrap();
    // In the server as many as it takes, the others in the kernel.
    for waiting_max in [8, 1] {
        let tcp = TcpOptions {
            handshakes_max: 1,
            waiting_max,
            crowded_timeout: Duration::from_secs(3600),
            ..TcpOptions::default()
        };
        let server = Server::start(dir.path(), Options { shards: 1, tcp, ..Options::default() });
        let config = Arc::new(tern_client(&server).0);
        let silent = TcpStream::connect(server.address).await.unwrap();
        eventually("the silent one has the place", || server.tcp(|stats| stats.taken.load(Relaxed)) == 1)
            .await;
        let turn = async || {
            let mut stream = in_time("a turn", connect_tcp(server.address, &config)).await.unwrap();
            ask_tcp(&mut stream, 1).await.unwrap();
        };
        let turns = async { tokio::join!(turn(), turn(), turn()) };
        let let_go = async {
            let expected = 1 + CLIENTS.min(waiting_max as u64);
            eventually("they wait", || server.tcp(|stats| stats.taken.load(Relaxed)) == expected).await;
            assert_eq!(server.tcp(|stats| stats.accepted.load(Relaxed)), 0, "nobody has gone before");
            drop(silent);
        };
        tokio::join!(turns, let_go);
    }
}

#[tokio::test]
async fn slow_tcp_clients_hold_their_places_only_while_nobody_waits() {
    const PLACES: usize = 4;

    let dir = tempfile::tempdir().unwrap();
    let tcp = TcpOptions {
        handshakes_max: PLACES,
        handshake_timeout: Duration::from_secs(3600),
        crowded_timeout: Duration::from_millis(50),
        ..TcpOptions::default()
    };
    let server = Server::start(dir.path(), Options { shards: 1, tcp, ..Options::default() });
    let config = Arc::new(tern_client(&server).0);
    let mut slow = Vec::new();
    for _ in 0..PLACES {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        slow.push(stream);
    }
    eventually("all places are taken", || server.tcp(|stats| stats.taken.load(Relaxed)) == PLACES as u64)
        .await;
    // On another server, somebody has been given up who came later and had much more time.
    let other = TcpOptions { handshake_timeout: Duration::from_millis(500), ..TcpOptions::default() };
    let other_dir = tempfile::tempdir().unwrap();
    let other = Server::start(other_dir.path(), Options { shards: 1, tcp: other, ..Options::default() });
    let _silent = TcpStream::connect(other.address).await.unwrap();
    eventually("that time is over", || other.tcp(|stats| stats.timed_out.load(Relaxed)) == 1).await;
    assert_eq!(server.tcp(|stats| stats.timed_out.load(Relaxed)), 0, "nobody waits");
    let mut stream = in_time("a turn", connect_tcp(server.address, &config)).await.unwrap();
    ask_tcp(&mut stream, 1).await.unwrap();
    assert!(server.tcp(|stats| stats.timed_out.load(Relaxed)) >= 1, "one of them made room");
}

#[tokio::test]
async fn a_quic_client_that_hears_nothing_is_given_up_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let quic = QuicOptions { handshake_timeout: Duration::from_secs(5), ..QuicOptions::default() };
    let server = Server::start(dir.path(), Options { shards: 1, quic, ..Options::default() });
    let (config, _) = tern_client(&server);
    let deaf = Proxy::start(server.address, false).await;
    let endpoint = quic_client(config.clone());
    let _deaf = endpoint.connect(deaf.address, "localhost").unwrap();
    let connection = connect_quic(&quic_client(config), server.address).await.unwrap();
    ask(&mut connection.open_bi().await.unwrap(), 1).await.unwrap();
    eventually("it is given up", || server.quic(|stats| stats.timed_out.load(Relaxed)) >= 1).await;
    ask(&mut connection.open_bi().await.unwrap(), 2).await.unwrap();
}

#[tokio::test]
async fn above_the_first_bound_quic_clients_prove_their_address() {
    let dir = tempfile::tempdir().unwrap();
    let quic = QuicOptions { handshakes_unproven_max: 0, ..QuicOptions::default() };
    for steering in [Steering::Kernel, Steering::Forwarding] {
        let server = Server::start(dir.path(), Options { shards: 3, steering, quic, ..Options::default() });
        let endpoint = quic_client(tern_client(&server).0);
        for n in 0..30 {
            let connection = connect_quic(&endpoint, server.address).await.unwrap();
            ask(&mut connection.open_bi().await.unwrap(), n).await.unwrap();
        }
        // A client that hears nothing for a while asks again.
        assert!(server.quic(|stats| stats.retried.load(Relaxed)) >= 30);
        assert_eq!(server.quic(|stats| stats.accepted.load(Relaxed)), 30);
    }
}

#[tokio::test]
async fn above_the_second_bound_quic_clients_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let quic = QuicOptions { handshakes_max: 0, ..QuicOptions::default() };
    let server = Server::start(dir.path(), Options { quic, ..Options::default() });
    let endpoint = quic_client(tern_client(&server).0);
    let refused = connect_quic(&endpoint, server.address).await.unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    assert!(server.quic(|stats| stats.refused.load(Relaxed)) >= 1);
}

/// At most this many connections of an address that have not logged in.
fn per_address(before_login_per_address: u32) -> Options {
    Options { shards: 1, limits: Limits { before_login_per_address, ..Limits::OFF }, ..Options::default() }
}

#[tokio::test]
async fn above_the_bound_of_their_address_tcp_clients_are_closed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), per_address(2));
    let config = Arc::new(tern_client(&server).0);
    // One whose handshake does not begin, one whose handshake is done: both have not logged in.
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut fresh = connect_tcp(server.address, &config).await.unwrap();
    ask_tcp(&mut fresh, 1).await.unwrap();
    for n in 1..=3 {
        assert!(in_time("it is closed", connect_tcp(server.address, &config)).await.is_err());
        eventually("it is counted", || server.tcp(|stats| stats.refused.load(Relaxed)) == n).await;
    }

    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let elsewhere = elsewhere.connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let mut elsewhere = connector.connect("localhost".try_into().unwrap(), elsewhere).await.unwrap();
    ask_tcp(&mut elsewhere, 2).await.unwrap();

    drop(silent);
    eventually("its end is seen", || server.tcp(|stats| stats.failed.load(Relaxed)) == 1).await;
    let mut next = connect_tcp(server.address, &config).await.unwrap();
    ask_tcp(&mut next, 3).await.unwrap();
    ask_tcp(&mut fresh, 4).await.unwrap();
}

#[tokio::test]
async fn above_the_bound_of_their_address_quic_clients_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), per_address(4));
    let (config, _) = tern_client(&server);
    let endpoint = quic_client(config.clone());
    let mut connections = Vec::new();
    for n in 0..4 {
        let connection = connect_quic(&endpoint, server.address).await.unwrap();
        ask(&mut connection.open_bi().await.unwrap(), n).await.unwrap();
        connections.push(connection);
    }
    let counted = || (server.quic(|s| s.retried.load(Relaxed)), server.quic(|s| s.refused.load(Relaxed)));
    assert!(matches!(counted(), (1.., 0)), "beyond a half of its places, an address is proven");
    let refused = connect_quic(&endpoint, server.address).await.unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    assert!(matches!(counted(), (2.., 1..)), "{:?}", counted());

    let elsewhere = quic_client(config);
    elsewhere.rebind(UdpSocket::bind("127.0.0.2:0").unwrap()).unwrap();
    let other = connect_quic(&elsewhere, server.address).await.unwrap();
    ask(&mut other.open_bi().await.unwrap(), 5).await.unwrap();

    connections.pop().unwrap().close(0u32.into(), b"");
    let next = async {
        loop {
            if let Ok(connection) = connect_quic(&endpoint, server.address).await {
                return connection;
            }
        }
    };
    let next = in_time("its place is free", next).await;
    ask(&mut next.open_bi().await.unwrap(), 6).await.unwrap();
}

/// A frame is larger than a stream's window; the window moves on while the server reads.
#[tokio::test]
async fn a_frame_of_a_megabyte_passes_through_small_windows() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default());
    let endpoint = quic_client(tern_client(&server).0);
    let connection = connect_quic(&endpoint, server.address).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let questions = limits::FRAME_BYTES_MAX / QUESTION_BYTES;
    let sent = tokio::spawn(async move { send.write_all(&vec![7; questions * QUESTION_BYTES]).await });
    let mut answer = [0; ANSWER_BYTES];
    for _ in 0..questions {
        in_time("an answer", receive.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer[3..], [7; QUESTION_BYTES]);
    }
    sent.await.unwrap().unwrap();
}
