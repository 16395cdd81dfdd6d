//! What happens to devices: their app is killed, their network swallows UDP or changes, their server restarts. The Rust
//! client against the real server.

#[path = "devices/network.rs"]
mod network;
mod support;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tern_client::raw::{Connector, Received};
use tern_client::{
    Client, Config, ConnectionState, Event, Events, MemoryStorage, Message, SqliteStorage, Target, Token,
    Transport,
};
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::model::{Change, Entry};

use network::Network;
use support::{PATIENCE, Session, Start, Ternd, seqs, texts, user};

/// What waits for a heartbeat of the usual interval takes longer than this, what is noticed at once does not.
const SOON: Duration = Duration::from_secs(15);

const CHILD: &str = "TERN_TEST_APP";

fn config(ternd: &Ternd, server: impl ToString, name: &str) -> Config {
    Config {
        backoff_first: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        ..Config::new(server.to_string(), ternd.ca(), Token::Fixed(ternd.token(name)))
    }
}

fn message(text: &str) -> Message {
    Message { content_type: "text/plain".into(), payload: text.to_owned().into(), reply_to: None }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("soon")
}

async fn event(events: &mut Events) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("something within the patience");
    event.expect("the client runs")
}

async fn entries(events: &mut Events, count: usize) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(count);
    while entries.len() < count {
        if let Event::Entry { entry, .. } = event(events).await {
            entries.push(entry);
        }
    }
    entries
}

async fn until(client: &Client, is: impl FnMut(&ConnectionState) -> bool) {
    let mut state = client.state();
    soon(state.wait_for(is)).await.expect("the client runs");
}

fn is_online(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Online { .. })
}

/// The app of the next test: a process of its own. Started by the test runner it has nothing to do.
#[tokio::test]
async fn the_app() {
    let Ok(arguments) = env::var(CHILD) else {
        assert!(env::var_os(CHILD).is_none(), "it can be read");
        return;
    };
    let [server, ca, token, database] = arguments.split('\n').collect::<Vec<_>>()[..] else {
        panic!("server, authority, token and database are expected")
    };
    let ca = std::fs::read(ca).expect("the authority");
    let config = Config::new(server, ca, Token::Fixed(token.into()));
    let storage = SqliteStorage::open(database).expect("a new database");
    let (client, _events) = Client::connect(config, storage).await.expect("online");
    let sent = client.send(Target::User(user("bob")), message("0"));
    tokio::time::timeout(PATIENCE, sent).await.expect("within the patience").expect("stored");
    println!("online");
    assert!(!line().await.is_empty(), "the test says when");
    for n in 1..=100 {
        let change = Change::Message(message(&n.to_string()));
        drop(client.enqueue(Target::User(user("bob")), change).await.expect("enqueued"));
    }
    println!("queued");
    // Until it is killed, or the test has ended in another way.
    line().await;
}

/// A line of what the test tells the app; empty when the test has ended.
async fn line() -> String {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    read.await.expect("it does not panic").expect("text")
}

/// A process that runs [`the_app`]. Dropping it kills it.
struct App {
    process: Child,
    /// As long as it is open, the app goes on.
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl App {
    fn start(arguments: &[String]) -> Self {
        let mut process = Command::new(env::current_exe().expect("this test"))
            .args(["--exact", "the_app", "--nocapture"])
            .env(CHILD, arguments.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the app starts");
        let (input, output) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let (said, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.take_while(|line| said.send(line.clone()).is_ok()).for_each(drop);
        });
        Self { process, input, lines }
    }

    fn says(&self, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("the app is not {expected}: {error}"));
            // The test runner prints its own before, on the same line perhaps.
            if line.ends_with(expected) {
                return;
            }
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs [`the_app`] until it has queued its hundred messages while the server does not answer, and kills it.
fn run_app_and_kill_it(ternd: &mut Ternd, database: &Path) {
    let ca = ternd.data.join("ca.pem");
    let mut app = App::start(&[
        ternd.address.to_string(),
        ca.display().to_string(),
        ternd.token("alice"),
        database.display().to_string(),
    ]);
    app.says("online");
    ternd.signal(libc::SIGSTOP);
    app.input.write_all(b"go on\n").expect("the app reads");
    app.says("queued");
    app.process.kill().expect("it can be killed");
    let status = app.process.wait().expect("it was started");
    assert_eq!(status.signal(), Some(libc::SIGKILL), "it had ended by itself: {status}");
    ternd.signal(libc::SIGCONT);
}

/// Some of the messages are with the server when the app dies, most are not; all are on its disk.
#[tokio::test]
async fn what_a_killed_app_had_queued_is_sent_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(directory.path(), &Start::default());
    let database = directory.path().join("alice.db");
    run_app_and_kill_it(&mut ternd, &database);

    let chat = ConversationId::direct(user("alice"), user("bob"));
    let storage = SqliteStorage::open(&database).expect("the app is gone");
    let history = storage.history().expect("readable");
    let unsent = history.unsent(chat).expect("readable");
    assert_eq!(unsent.len(), 100, "the server did not answer");
    let (client, mut events) =
        Client::connect(config(&ternd, ternd.address, "alice"), storage).await.expect("online");
    let (mut recovered, mut handed) = (Vec::new(), Vec::new());
    while recovered.len() < 100 || handed.len() < 101 {
        match event(&mut events).await {
            Event::Recovered { result, .. } => recovered.push(result.expect("stored").seq.get()),
            Event::Entry { entry, .. } => handed.push(entry),
            _ => {}
        }
    }
    assert_eq!(recovered, (2..=101).collect::<Vec<_>>());
    assert_eq!(seqs(&handed), (1..=101).collect::<Vec<_>>(), "the app had taken none");
    let expected: Vec<_> = (0..=100).map(|n| n.to_string()).collect();
    let mut bob = ternd.login(Transport::Tcp, "bob", 1).await;
    assert_eq!(texts(&bob.log_from(chat, 1).await.expect("a member")), expected, "each once, in order");

    // What has been handed over is there without a server.
    assert!(client.close().await);
    ternd.kill();
    assert_eq!(texts(&history.latest(chat, 1000).expect("readable")), expected);
    assert_eq!(history.unsent(chat).expect("readable"), []);
    let list = history.conversations(None, 10).expect("readable");
    assert_eq!((list.len(), list[0].peer), (1, Some(user("bob"))));
    assert_eq!(list[0].last.as_ref(), handed.last());
}

#[tokio::test]
async fn where_udp_is_swallowed_tcp_is_used_and_that_is_remembered() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(directory.path(), &Start::default());
    let network = Network::without_udp(ternd.address).await;
    let began = Instant::now();
    let (client, _events) = Client::connect(config(&ternd, network.address, "alice"), MemoryStorage::new())
        .await
        .expect("online");
    eprintln!("on TCP after {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(network.streams(), 1);
    let asked = network.swallowed();
    assert!(asked > 0, "QUIC goes first");

    // Again, without asking.
    network.cut();
    until(&client, |state| !is_online(state)).await;
    let began = Instant::now();
    until(&client, is_online).await;
    eprintln!("again after {:.2} s", began.elapsed().as_secs_f64());
    client.send(Target::User(user("bob")), message("hello")).await.expect("stored");
    assert_eq!((network.streams(), network.swallowed()), (2, asked));

    // On a network of another name it is asked for again.
    client.network_changed(Some("elsewhere")).await;
    client
        .mark_read(ConversationId::direct(user("alice"), user("bob")), Seq(1))
        .await
        .expect("the link works");
    assert_eq!((network.streams(), network.swallowed()), (2, asked), "the connection is as good as before");
    network.cut();
    until(&client, |state| !is_online(state)).await;
    until(&client, is_online).await;
    assert_eq!(network.streams(), 3);
    assert!(network.swallowed() > asked);
    assert!(client.close().await);
}

#[tokio::test]
async fn quic_is_used_where_it_can_be_and_follows_a_change_of_address() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(directory.path(), &Start::default());
    let network = Network::with_udp(ternd.address).await;
    let over_quic = Config { transport: Transport::Quic, ..config(&ternd, network.address, "bob") };
    let (bob, mut at_bob) = Client::connect(over_quic, MemoryStorage::new()).await.expect("online");
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    let mut offline = 0;
    for n in 0..3 {
        bob.network_changed(None).await;
        network.moved(n + 2).await;
        // Without a word from bob's new address, the server would go on with the one that leads nowhere.
        alice.text(user("bob"), &n.to_string()).await.expect("stored");
        loop {
            match soon(at_bob.next()).await.expect("the client runs") {
                Event::Entry { entry, .. } => break assert_eq!(texts(&[entry]), [n.to_string()]),
                Event::Connection(ConnectionState::Offline { reason, .. }) => {
                    offline += 1;
                    // A busy machine may take longer than the client waits on a changed network.
                    assert!(offline <= 1, "it follows: {reason}");
                }
                _ => {}
            }
        }
    }
    assert_eq!(network.streams(), 0);
    assert!(bob.close().await);
}

/// The client's heartbeats lean on it: the echo does not come before the challenge.
#[tokio::test]
async fn that_a_router_forgot_a_flow_shows_with_the_next_heartbeat() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(directory.path(), &Start::default());
    let network = Network::with_udp(ternd.address).await;
    let connector = Connector::new(&network.address.to_string(), None, &ternd.ca()).expect("a good address");
    let connection = connector.connect(Transport::Quic).await.expect("through the network");
    let mut session = Session::login(connection, &ternd.token("alice"), 1).await.expect("the token is good");
    let connection = session.connection();
    for (forgotten, challenges) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
        if forgotten {
            network.forget();
        }
        connection.sender.send_heartbeat().await.expect("sent");
        let echo = soon(connection.recv()).await.expect("the connection lives");
        assert_eq!(echo, Received::Heartbeat);
        assert_eq!(connection.quic().expect("QUIC").stats().frame_rx.path_challenge, challenges);
    }
}

#[tokio::test]
async fn over_tcp_a_link_that_the_new_network_does_not_carry_is_replaced() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(directory.path(), &Start::default());
    let network = Network::without_udp(ternd.address).await;
    let config = Config { transport: Transport::Tcp, ..config(&ternd, network.address, "bob") };
    let (bob, mut at_bob) = Client::connect(config, MemoryStorage::new()).await.expect("online");
    // Nothing is under way that would be missed.
    while !matches!(event(&mut at_bob).await, Event::CaughtUp) {}
    // Nothing comes through any more, and nobody says so.
    network.freeze();
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    alice.text(user("bob"), "are you there?").await.expect("stored");
    bob.network_changed(None).await;
    let began = Instant::now();
    let came = soon(entries(&mut at_bob, 1)).await;
    eprintln!("there again after {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(texts(&came), ["are you there?"]);
    assert_eq!(network.streams(), 2);
    assert!(bob.close().await);
}

/// Accounts of one app, in pairs that write to each other while the server is killed and comes back.
#[tokio::test]
async fn fifty_accounts_in_one_process_survive_a_restart_of_the_server() {
    const PAIRS: usize = 25;
    const EACH: usize = 8;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(directory.path(), &Start::default());
    let name = |pair: usize, side: usize| format!("{pair}-{side}");
    let mut clients = tokio::task::JoinSet::new();
    for (pair, side) in (0..PAIRS).flat_map(|pair| [(pair, 0), (pair, 1)]) {
        let transport = [Transport::Auto, Transport::Tcp, Transport::Quic][pair % 3];
        let config = Config {
            transport,
            heartbeat: Some(Duration::from_millis(500)),
            dead_after: Duration::from_secs(2),
            ..config(&ternd, ternd.address, &name(pair, side))
        };
        let storage = SqliteStorage::open(directory.path().join("accounts").join(name(pair, side)));
        let storage = storage.expect("a new database");
        clients.spawn(async move { (pair, side, Client::connect(config, storage).await.expect("online")) });
    }
    let clients = clients.join_all().await;
    let mut pending = Vec::new();
    for n in 0..EACH {
        if n == EACH / 2 {
            // From here on nothing is answered, before the restart.
            ternd.signal(libc::SIGSTOP);
        }
        for (pair, side, (client, _)) in &clients {
            let change = Change::Message(message(&format!("{side} {n}")));
            let peer = Target::User(user(&name(*pair, 1 - side)));
            pending.push(client.enqueue(peer, change).await.expect("enqueued"));
        }
    }
    ternd.restart(libc::SIGKILL);
    let began = Instant::now();
    for pending in pending {
        tokio::time::timeout(PATIENCE, pending).await.expect("in time").expect("stored");
    }
    eprintln!("everything sent {:.2} s after the restart", began.elapsed().as_secs_f64());
    let mut logs = tokio::task::JoinSet::new();
    for (pair, side, (client, mut events)) in clients {
        logs.spawn(async move {
            let got = entries(&mut events, 2 * EACH).await;
            assert_eq!(seqs(&got), (1..=2 * EACH as u64).collect::<Vec<_>>());
            for side in 0..2 {
                let of_one = |entry: &&Entry| entry.sender.user == user(&format!("{pair}-{side}"));
                let sent: Vec<_> = got.iter().filter(of_one).cloned().collect();
                assert_eq!(texts(&sent), (0..EACH).map(|n| format!("{side} {n}")).collect::<Vec<_>>());
            }
            assert!(client.close().await);
            (pair, side, got)
        });
    }
    let mut logs = logs.join_all().await;
    eprintln!("everybody has everything after {:.2} s", began.elapsed().as_secs_f64());
    logs.sort_unstable_by_key(|(pair, side, _)| (*pair, *side));
    for both in logs.chunks(2) {
        assert_eq!(both[0].2, both[1].2, "both see the same");
    }
    let users: std::collections::BTreeSet<UserId> =
        logs.iter().flat_map(|(.., log)| log.iter().map(|entry| entry.sender.user)).collect();
    assert_eq!(users.len(), 2 * PAIRS);
}
