//! The fault proxy over real sockets: each fault does what it says, and a real server copes with it.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tern_client::Transport;
use tern_client::raw::{Connection, Connector, Received};
use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ClientSeq, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::{VERSION_MAX, VERSION_MIN};
use tern_protocol::model::{Change, Message, Target};
use tern_protocol::request::{Login, Request, RequestBody, Send};
use tern_proxy::Proxy;
use tern_proxy::counters::Counters;
use tern_proxy::plan::{Blackout, FaultPlan};
use tern_server::cli::Dev;
use tern_server::dev::{self, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// For what is certain to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// A datagram that is not answered is sent again after this.
const AGAIN: Duration = Duration::from_millis(10);
/// Datagrams at once: all fit the smallest buffer.
const BURST: u32 = 20;

fn no_faults() -> FaultPlan {
    FaultPlan::default()
}

/// Answers datagrams with themselves; where they came from.
async fn udp_echo() -> (SocketAddr, Arc<Mutex<HashSet<SocketAddr>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    let sources: Arc<Mutex<HashSet<_>>> = Arc::default();
    let seen = sources.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (bytes, from) = socket.recv_from(&mut buffer).await.expect("it can be read");
            seen.lock().expect("nobody panics").insert(from);
            // A port that is closed already.
            let _ = socket.send_to(&buffer[..bytes], from).await;
        }
    });
    (address, sources)
}

/// Accepts connections.
async fn tcp_server() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (sender, streams) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if sender.send(stream).await.is_err() {
                return;
            }
        }
    });
    (address, streams)
}

/// Answers with what comes, until it ends.
fn echo(mut streams: mpsc::Receiver<TcpStream>) {
    tokio::spawn(async move {
        while let Some(mut stream) = streams.recv().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
}

async fn udp_client(proxy: &Proxy) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    socket.connect(proxy.address).await.expect("a loopback address");
    socket
}

async fn send_number(socket: &UdpSocket, number: u32) {
    socket.send(&number.to_be_bytes()).await.expect("somebody listens");
}

async fn number(socket: &UdpSocket) -> u32 {
    let mut buffer = [0; 4];
    let received = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("it comes");
    assert_eq!(received.expect("it can be read"), 4);
    u32::from_be_bytes(buffer)
}

/// Whether it is answered soon.
async fn is_answered(socket: &UdpSocket, what: u32) -> bool {
    send_number(socket, what).await;
    let answer = async { while number(socket).await != what {} };
    timeout(AGAIN, answer).await.is_ok()
}

/// Sends until it is answered.
async fn ask(socket: &UdpSocket, what: u32) {
    let answered = async { while !is_answered(socket, what).await {} };
    timeout(PATIENCE, answered).await.expect("it is answered");
}

/// Waits until the counters say so: nothing else tells what a proxy has dropped.
async fn counted(proxy: &Proxy, mut enough: impl FnMut(&Counters) -> bool) {
    let counted = async {
        while !enough(&proxy.counters()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{:?}", proxy.counters()));
}

/// Sends the numbers below `count` to somebody who only listens. Returns which arrive, in their order.
async fn numbers_that_arrive(plan: FaultPlan, seed: u64, count: u32) -> (Vec<u32>, Counters) {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = Proxy::start(server.local_addr().expect("bound"), plan, seed).expect("a proxy");
    let client = udp_client(&proxy).await;
    let mut arrived = Vec::new();
    for begin in (0..count).step_by(BURST as usize) {
        let end = count.min(begin + BURST);
        for n in begin..end {
            send_number(&client, n).await;
        }
        counted(&proxy, |counters| counters.passed + counters.lost == u64::from(end)).await;
        while (arrived.len() as u64) < proxy.counters().passed {
            arrived.push(number(&server).await);
        }
    }
    (arrived, proxy.counters())
}

#[tokio::test]
async fn without_faults_everything_passes() {
    let (server, sources) = udp_echo().await;
    let proxy = Proxy::start(server, no_faults(), 1).expect("a proxy");
    let clients = [udp_client(&proxy).await, udp_client(&proxy).await];
    for n in 0..200 {
        for client in &clients {
            send_number(client, n).await;
        }
        for client in &clients {
            assert_eq!(number(client).await, n);
        }
    }
    assert_eq!(sources.lock().unwrap().len(), clients.len());
    let expected = Counters { flows: 2, passed: 800, delayed: 0, ..Counters::default() };
    assert_eq!(proxy.counters(), expected);
    let address = proxy.address;
    drop(proxy);
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_same_packets_are_lost_over_both_transports() {
    const PACKETS: u32 = 300;
    let plan = FaultPlan { loss_share: 0.1, rto_ms: 1, ..no_faults() };

    let (arrived, counters) = numbers_that_arrive(plan, 5, PACKETS).await;
    assert!(arrived.is_sorted());
    assert_eq!(counters.lost, u64::from(PACKETS) - arrived.len() as u64);
    let (again, _) = numbers_that_arrive(plan, 5, PACKETS).await;
    assert_eq!(again, arrived);
    let (other, _) = numbers_that_arrive(plan, 6, PACKETS).await;
    assert_ne!(other, arrived);

    let (address, mut streams) = tcp_server().await;
    let proxy = Proxy::start(address, plan, 5).expect("a proxy");
    let mut client = TcpStream::connect(proxy.address).await.expect("it listens");
    let mut server = streams.recv().await.expect("it listens");
    let mut at_once = Vec::new();
    // Packet 0 is the handshake's, and its answer may be lost as well: the count begins with packet 2.
    let mut lost = 0;
    for n in 1..PACKETS {
        client.write_all(&[n as u8]).await.expect("connected");
        assert_eq!(server.read_u8().await.expect("connected"), n as u8);
        let counters = proxy.counters();
        if n > 1 && counters.lost == lost {
            at_once.push(n);
        }
        lost = counters.lost;
    }
    let arrived: Vec<_> = arrived.into_iter().filter(|n| *n > 1).collect();
    assert_eq!(at_once, arrived);
}

#[tokio::test]
async fn datagrams_overtake_each_other() {
    let plan = FaultPlan { reorder_share: 0.1, ..no_faults() };
    let (arrived, counters) = numbers_that_arrive(plan, 1, 1000).await;
    let mut sorted = arrived.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<_>>(), "none is lost or doubled");
    let overtaken = (0..arrived.len())
        .filter(|i| arrived[..*i].iter().any(|before| *before > arrived[*i]))
        .count() as u64;
    assert!((1..=counters.reordered).contains(&overtaken), "{overtaken} of {}", counters.reordered);
    let (_, again) = numbers_that_arrive(plan, 1, 1000).await;
    assert_eq!(again.reordered, counters.reordered);
}

#[tokio::test]
async fn datagrams_come_twice() {
    const COUNT: u32 = 1000;
    let plan = FaultPlan { duplicate_share: 0.1, ..no_faults() };
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = Proxy::start(server.local_addr().expect("bound"), plan, 1).expect("a proxy");
    let client = udp_client(&proxy).await;
    let (mut arrived, mut doubled) = (Vec::new(), 0);
    for n in 0..COUNT {
        send_number(&client, n).await;
        counted(&proxy, |counters| counters.passed == u64::from(n + 1)).await;
        arrived.push(number(&server).await);
        if proxy.counters().doubled > doubled {
            doubled = proxy.counters().doubled;
            assert_eq!(number(&server).await, n, "once more");
        }
    }
    assert_eq!(arrived, (0..COUNT).collect::<Vec<_>>());
    assert!((60..140).contains(&doubled), "{doubled}");
}

#[tokio::test]
async fn a_captive_network_swallows_datagrams_and_lets_streams_pass() {
    let plan = FaultPlan { swallows_udp: true, ..no_faults() };
    let (server, sources) = udp_echo().await;
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let client = udp_client(&proxy).await;
    send_number(&client, 1).await;
    counted(&proxy, |counters| counters.swallowed == 1).await;
    assert_eq!(proxy.counters().passed, 0);
    assert!(sources.lock().expect("nobody panics").is_empty());

    let (address, streams) = tcp_server().await;
    echo(streams);
    let proxy = Proxy::start(address, plan, 1).expect("a proxy");
    let mut client = TcpStream::connect(proxy.address).await.expect("it listens");
    client.write_all(&[7]).await.expect("connected");
    assert_eq!(client.read_u8().await.expect("connected"), 7);
}

#[tokio::test]
async fn a_full_queue_drops_datagrams() {
    let plan = FaultPlan { rate_bytes_per_s: Some(10_000), queue_ms: 1, ..no_faults() };
    let (server, _) = udp_echo().await;
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let client = udp_client(&proxy).await;
    // One of them is 2 s for this link.
    let datagram = [0; 20_000];
    client.send(&datagram).await.expect("somebody listens");
    client.send(&datagram).await.expect("somebody listens");
    counted(&proxy, |counters| counters.overflowed == 1 && counters.passed == 1).await;
}

#[tokio::test]
async fn faults_end_when_they_are_to() {
    let blackout = Blackout { every_ms: 100, for_ms: 99, cuts: true, answers_only: false };
    let plan = FaultPlan { loss_share: 0.9, blackout: Some(blackout), rto_ms: 1, ..no_faults() };
    let (server, _) = udp_echo().await;
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let client = udp_client(&proxy).await;
    for n in 0..BURST {
        send_number(&client, n).await;
    }
    counted(&proxy, |counters| counters.lost + counters.blacked_out > 0).await;
    proxy.calm_down();
    // What came before that is decided.
    ask(&client, u32::MAX).await;
    while number(&client).now_or_never().is_some() {}
    let before = proxy.counters();
    for n in 0..100 {
        send_number(&client, n).await;
        while number(&client).await != n {}
    }
    let after = proxy.counters();
    assert_eq!((after.lost, after.blacked_out), (before.lost, before.blacked_out));
}

#[tokio::test]
async fn events_wait_for_those_whom_they_are_to_meet() {
    let plan = FaultPlan { silent_death_every_ms: Some(3_600_000), first_event_ms: Some(1), ..no_faults() };
    let (server, _) = udp_echo().await;
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let client = udp_client(&proxy).await;
    for n in 0..100 {
        ask(&client, n).await;
    }
    assert_eq!(proxy.counters().died, 0, "it has not begun");
    proxy.begin_events();
    counted(&proxy, |counters| {
        _ = client.send(&[0]).now_or_never();
        counters.died == 1
    })
    .await;

    let (address, streams) = tcp_server().await;
    echo(streams);
    let proxy = Proxy::start(address, plan, 1).expect("a proxy");
    let mut client = TcpStream::connect(proxy.address).await.expect("it listens");
    for n in 0..100 {
        client.write_all(&[n]).await.expect("connected");
        assert_eq!(client.read_u8().await.expect("connected"), n);
    }
    assert_eq!(proxy.counters().died, 0, "it has not begun");
    proxy.begin_events();
    counted(&proxy, |counters| counters.died == 1).await;
    // Once.
    proxy.begin_events();
    let mut other = TcpStream::connect(proxy.address).await.expect("it listens");
    other.write_all(&[7]).await.expect("connected");
    assert_eq!(other.read_u8().await.expect("connected"), 7, "the next death is an hour away");
}

#[tokio::test]
async fn nothing_passes_a_blackout_and_everything_after_it() {
    let blackout = Blackout { every_ms: 200, for_ms: 100, cuts: false, answers_only: false };
    let (server, sources) = udp_echo().await;
    let proxy =
        Proxy::start(server, FaultPlan { blackout: Some(blackout), ..no_faults() }, 1).expect("a proxy");
    let client = udp_client(&proxy).await;
    for n in 0.. {
        ask(&client, n).await;
        if proxy.counters().blackouts >= 2 {
            break;
        }
    }
    ask(&client, u32::MAX).await;
    assert_eq!(sources.lock().unwrap().len(), 1);
    let counters = proxy.counters();
    assert!(counters.blacked_out >= 2 && counters.lost == 0, "{counters:?}");
}

#[tokio::test]
async fn a_flow_goes_on_from_another_port() {
    let (server, sources) = udp_echo().await;
    let plan = FaultPlan { address_change_every_ms: Some(50), ..no_faults() };
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let client = udp_client(&proxy).await;
    for n in 0.. {
        ask(&client, n).await;
        if proxy.counters().moved >= 3 {
            break;
        }
    }
    // A port that is given back may be given out again.
    assert!(sources.lock().unwrap().len() >= 2);
    assert_eq!(proxy.counters().flows, 1);
}

#[tokio::test]
async fn the_dead_say_nothing_and_others_live() {
    let plan = FaultPlan { silent_death_every_ms: Some(500), ..no_faults() };
    let (server, _) = udp_echo().await;
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let dead = udp_client(&proxy).await;
    let dies = async {
        while proxy.counters().died == 0 {
            is_answered(&dead, 1).await;
        }
        send_number(&dead, 2).await;
        // One that is born shortly before the next death may not live long enough.
        while !is_answered(&udp_client(&proxy).await, 3).await {}
    };
    timeout(PATIENCE, dies).await.expect("one dies, and others live");
    while let Some(late) = number(&dead).now_or_never() {
        assert_eq!(late, 1, "it was sent before");
    }

    let (server, streams) = tcp_server().await;
    echo(streams);
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let mut dead = TcpStream::connect(proxy.address).await.expect("it listens");
    counted(&proxy, |counters| counters.died == 1).await;
    dead.write_all(b"hello").await.expect("it is open");
    let lives = async {
        loop {
            let mut alive = TcpStream::connect(proxy.address).await.expect("it listens");
            alive.write_all(b"hello").await.expect("it is open");
            if timeout(10 * AGAIN, alive.read_u8()).await.is_ok_and(|answer| answer.is_ok()) {
                break;
            }
        }
    };
    timeout(PATIENCE, lives).await.expect("one lives long enough");
    assert!(dead.read_u8().now_or_never().is_none(), "neither an answer nor an end");
}

#[tokio::test]
async fn a_stream_stays_whole() {
    let plan =
        FaultPlan { loss_share: 0.02, delay_ms: 2, jitter_ms: 3, rto_ms: 5, queue_ms: 5, ..no_faults() };
    let plan = FaultPlan { rate_bytes_per_s: Some(4_000_000), ..plan };
    let (server, streams) = tcp_server().await;
    echo(streams);
    let proxy = Proxy::start(server, plan, 1).expect("a proxy");
    let mut client = TcpStream::connect(proxy.address).await.expect("it listens");
    let sent: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_be_bytes).collect();
    let (mut reader, mut writer) = client.split();
    let write = async {
        writer.write_all(&sent).await?;
        writer.shutdown().await
    };
    let mut heard = Vec::new();
    let (written, read) = tokio::join!(write, reader.read_to_end(&mut heard));
    written.and(read).expect("the connection lives");
    assert!(heard == sent, "{} of {} bytes", heard.len(), sent.len());
    let counters = proxy.counters();
    assert!(counters.lost > 0 && counters.overflowed == 0 && counters.cut == 0, "{counters:?}");
}

#[tokio::test]
async fn a_cut_is_seen_as_an_end() {
    let changes = FaultPlan { address_change_every_ms: Some(100), ..no_faults() };
    let blackout = Blackout { every_ms: 100, for_ms: 50, cuts: true, answers_only: false };
    let forgets = FaultPlan { blackout: Some(blackout), ..no_faults() };
    for (plan, server_hears) in [(changes, false), (forgets, true)] {
        let (address, mut streams) = tcp_server().await;
        let proxy = Proxy::start(address, plan, 1).expect("a proxy");
        let connecting = async {
            loop {
                let client = TcpStream::connect(proxy.address).await.expect("it listens");
                // It may be cut before it has reached the server.
                if let Ok(Some(server)) = timeout(10 * AGAIN, streams.recv()).await {
                    return (client, server);
                }
            }
        };
        let (mut client, mut server) = timeout(PATIENCE, connecting).await.expect("one gets through");
        assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(proxy.counters().cut >= 1);
        if server_hears {
            assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        } else {
            assert!(server.read_u8().now_or_never().is_none());
            drop(proxy);
            server.read_u8().await.expect_err("nobody keeps it open any more");
        }
    }
}

struct Ternd {
    running: Running,
    data: tempfile::TempDir,
    tokens: serde_json::Value,
}

impl Ternd {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let dev = Dev {
            data: data.path().into(),
            listen,
            admin: None,
            shards: Some(2),
            names: Vec::new(),
            limits: false,
            json: true,
        };
        let running = dev::start(&dev).expect("a server");
        let tokens = serde_json::from_str(&running.greeting).expect("JSON");
        Self { running, data, tokens }
    }

    /// Logs in as alice, through the proxy; `None` if the connection does not live that long.
    async fn login(&self, proxy: &Proxy, transport: Transport) -> Option<Connection> {
        let ca = std::fs::read(self.data.path().join("ca.pem")).expect("its certificate");
        let connector = Connector::new(&proxy.address.to_string(), None, &ca).expect("good");
        let mut connection = connector.connect(transport).await.ok()?;
        let login = Login {
            token: self.tokens["tokens"]["alice"].as_str().expect("a token").to_owned(),
            device: DeviceId::new(1).expect("not 0"),
            versions: (VERSION_MIN, VERSION_MAX),
            features: Vec::new(),
            client: "proxy test".to_owned(),
        };
        let login = Request { id: RequestId(1), body: RequestBody::Login(login) };
        connection.send_request(&login).await.ok()?;
        let Ok(Received::Message(message)) = connection.recv().await else { return None };
        assert!(matches!(message.body, ServerBody::LoginOk(_)), "{message:?}");
        Some(connection)
    }
}

/// Sends one after the other, with a heartbeat while an answer is late, until it is enough or the connection ends.
/// Returns how many are acknowledged.
async fn talk(connection: &mut Connection, enough: impl Fn() -> bool) -> Result<u64, ()> {
    let mut acknowledged = 0;
    while !enough() {
        let client_seq = ClientSeq(acknowledged + 1);
        let message = Message { content_type: String::new(), payload: "hello".into(), reply_to: None };
        let change = Change::Message(message);
        let send = Send { target: Target::User(UserId::from_sub("bob")), client_seq, change };
        let request = Request { id: RequestId(1 + client_seq.get()), body: RequestBody::Send(send) };
        connection.send_request(&request).await.map_err(drop)?;
        while acknowledged < client_seq.get() {
            match timeout(AGAIN, connection.recv()).await {
                Err(_late) => connection.sender.send_heartbeat().await.map_err(drop)?,
                Ok(Ok(Received::Message(message))) => match message.body {
                    ServerBody::SendOk(ok) => {
                        assert_eq!((ok.seq, ok.duplicate), (Seq(client_seq.get()), false));
                        acknowledged += 1;
                    }
                    ServerBody::Push { .. } => {}
                    other => panic!("{other:?}"),
                },
                Ok(Ok(Received::Heartbeat)) => {}
                Ok(Ok(Received::Closed) | Err(_)) => return Err(()),
            }
        }
    }
    Ok(acknowledged)
}

#[tokio::test]
async fn a_quic_connection_lives_through_address_changes_and_a_tcp_one_does_not() {
    let server = Ternd::start();
    let changes = |every_ms| FaultPlan { address_change_every_ms: Some(every_ms), ..no_faults() };

    let proxy = Proxy::start(server.running.server.quic[0], changes(500), 1).expect("a proxy");
    let mut connection = server.login(&proxy, Transport::Quic).await.expect("it follows");
    let talked = timeout(PATIENCE, talk(&mut connection, || proxy.counters().moved >= 4)).await;
    assert!(talked.expect("in time").expect("the connection lives") > 0);
    let quic = connection.quic().expect("a QUIC connection");
    assert!(quic.close_reason().is_none(), "{:?}", quic.close_reason());

    let server = Ternd::start();
    // A login fits between two of them.
    let proxy = Proxy::start(server.running.server.tcp[0], changes(3_000), 1).expect("a proxy");
    let login = async {
        loop {
            if let Some(connection) = server.login(&proxy, Transport::Tcp).await {
                return connection;
            }
        }
    };
    let mut connection = timeout(PATIENCE, login).await.expect("in time");
    let talked = timeout(PATIENCE, talk(&mut connection, || false)).await;
    talked.expect("in time").expect_err("it was cut");
    assert!(proxy.counters().cut > 0);
}
