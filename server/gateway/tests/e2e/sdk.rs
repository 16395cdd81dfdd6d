//! The Rust client as apps use it, against the real server, which crashes now and then.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use tern_client::{
    Client, Config, ConnectionState, Event, Events, MemoryStorage, Message, SqliteStorage, Stop, Storage,
    Target, Token, Transport,
};
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::limits::HISTORY_ENTRIES_MAX;
use tern_protocol::model::{Change, Entry};
use tern_protocol::request::HistoryFrom;

use crate::support::{PATIENCE, Start, Ternd, over_each, seqs, text, texts, user};

/// A client that notices soon when the server is gone.
pub(crate) fn config(ternd: &Ternd, transport: Transport, name: &str) -> Config {
    let token = Token::Fixed(ternd.token(name));
    Config {
        transport,
        backoff_first: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        connect_timeout: Duration::from_secs(5),
        heartbeat: Some(Duration::from_millis(500)),
        dead_after: Duration::from_secs(2),
        ..Config::new(ternd.address.to_string(), ternd.ca(), token)
    }
}

pub(crate) async fn start(
    ternd: &Ternd,
    transport: Transport,
    name: &str,
    storage: impl Storage,
) -> (Client, Events) {
    Client::connect(config(ternd, transport, name), storage).await.expect("online")
}

pub(crate) fn message(text: &str) -> Message {
    Message { content_type: "text/plain".into(), payload: text.to_owned().into(), reply_to: None }
}

pub(crate) async fn next(events: &mut Events) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("something within the patience");
    event.expect("the client runs")
}

/// The next entries, as many as asked for; their seqs have to follow each other.
pub(crate) async fn entries(events: &mut Events, count: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    while entries.len() < count {
        if let Event::Entry { entry, .. } = next(events).await {
            let last = entries.last().map(|last| last.seq.next());
            assert!(last.is_none_or(|seq| seq == entry.seq), "{} after {:?}", entry.seq, seqs(&entries));
            entries.push(entry);
        }
    }
    entries
}

/// Everything up to where the client has caught up.
async fn caught_up(events: &mut Events) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        match next(events).await {
            Event::Entry { entry, .. } => entries.push(entry),
            Event::CaughtUp => return entries,
            _ => {}
        }
    }
}

#[tokio::test]
async fn messages_go_both_ways_and_come_once_in_order() {
    over_each(async |ternd, transport| {
        let (alice, mut at_alice) = start(ternd, transport, "alice", MemoryStorage::new()).await;
        let (bob, mut at_bob) = start(ternd, transport, "bob", MemoryStorage::new()).await;
        let mut pending = Vec::new();
        for n in 0..100 {
            let change = Change::Message(message(&n.to_string()));
            pending.push(alice.enqueue(Target::User(user("bob")), change).await.expect("enqueued"));
        }
        for (pending, n) in pending.into_iter().zip(1..) {
            assert_eq!(pending.await.expect("stored").seq, Seq(n));
        }
        let chat = ConversationId::direct(user("alice"), user("bob"));
        let got = entries(&mut at_bob, 100).await;
        assert_eq!(texts(&got), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
        bob.send(Target::Conversation(chat), message("all of it")).await.expect("stored");
        bob.mark_read(chat, Seq(100)).await.expect("up to the head");
        assert_eq!(text(&entries(&mut at_alice, 101).await[100]), "all of it");
        // Delivered by itself, read by the call above.
        let (mut delivered, mut read) = (Seq(0), Seq(0));
        while delivered < Seq(101) || read < Seq(100) {
            // Asking for the next says that the one before is dealt with.
            while at_bob.try_next().is_some() {}
            let page = alice.receipts(chat, None, 0).await.expect("a member");
            let bobs = page.receipts.iter().find(|receipt| receipt.user == user("bob")).expect("a member");
            assert!(bobs.delivered >= delivered && bobs.read >= read);
            (delivered, read) = (bobs.delivered, bobs.read);
        }
        let (group, seq) = alice.create_group("walkers", vec![user("bob")]).await.expect("made");
        assert_eq!(seq, Seq(1));
        assert_eq!(bob.members(group, None, 0).await.expect("a member").count, 2);
        let page = bob.history(chat, HistoryFrom::Backward(None), 3).await.expect("a member");
        assert_eq!(seqs(&page.entries), [99, 100, 101]);
        assert_eq!(bob.conversations(None, 0).await.expect("the list").conversations.len(), 2);
        assert!(alice.close().await && bob.close().await);
    })
    .await;
}

/// Sends while the server is killed and started again, several times; each message is there once, in order, for the
/// recipient as well as in the log.
#[tokio::test]
async fn crashes_of_the_server_neither_lose_nor_double() {
    const ROUNDS: usize = 4;
    const SENDS: usize = 60;
    over_each(async |ternd, transport| {
        let (alice, mut at_alice) = start(ternd, transport, "alice", MemoryStorage::new()).await;
        let (bob, mut at_bob) = start(ternd, transport, "bob", MemoryStorage::new()).await;
        let mut pending = VecDeque::new();
        let mut expected = Vec::new();
        for round in 0..ROUNDS {
            for n in 0..SENDS {
                let text = format!("{round}/{n}");
                let change = Change::Message(message(&text));
                pending.push_back(alice.enqueue(Target::User(user("bob")), change).await.expect("enqueued"));
                expected.push(text);
                if n == SENDS / 2 {
                    // In the midst of it: when the first of the round is acked, the others are on their way.
                    let first = pending.pop_front().expect("there is one");
                    tokio::time::timeout(PATIENCE, first).await.expect("soon").expect("stored");
                    ternd.restart(libc::SIGKILL);
                }
            }
        }
        let mut last = Seq(0);
        for pending in pending {
            let ok = tokio::time::timeout(PATIENCE, pending).await.expect("soon").expect("stored");
            assert!(ok.seq > last, "in order");
            last = ok.seq;
        }
        assert_eq!(last, Seq((ROUNDS * SENDS) as u64), "none lost, none doubled");
        for events in [&mut at_bob, &mut at_alice] {
            let got = entries(events, expected.len()).await;
            assert_eq!(texts(&got), expected);
        }
        let chat = ConversationId::direct(user("alice"), user("bob"));
        let mut reader = ternd.login(transport, "bob", 99).await;
        assert_eq!(texts(&reader.log_from(chat, 1).await.expect("a member")), expected);
        assert!(alice.close().await && bob.close().await);
    })
    .await;
}

/// The app is killed as well, with sends that nobody has answered; the next run finds them in its file.
#[tokio::test]
async fn a_file_remembers_what_was_not_sent() {
    over_each(async |ternd, transport| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str| SqliteStorage::open(directory.path().join(name)).expect("a new state");
        let (bob, mut at_bob) = start(ternd, transport, "bob", file("bob")).await;
        let (alice, at_alice) = start(ternd, transport, "alice", file("alice")).await;
        alice.send(Target::User(user("bob")), message("0")).await.expect("stored");
        assert_eq!(texts(&entries(&mut at_bob, 1).await), ["0"]);
        at_bob.confirm();
        assert!(bob.close().await);
        drop(at_bob);

        // These are on disk here and perhaps there when both die.
        for n in 1..=20 {
            let change = Change::Message(message(&n.to_string()));
            let pending = alice.enqueue(Target::User(user("bob")), change).await.expect("enqueued");
            drop(pending);
        }
        ternd.restart(libc::SIGKILL);
        drop((alice, at_alice));

        let storage = reopen(&directory.path().join("alice")).await;
        let (alice, _at_alice) = start(ternd, transport, "alice", storage).await;
        let fresh = alice.send(Target::User(user("bob")), message("21")).await.expect("stored");
        assert_eq!(fresh.seq, Seq(22), "behind what was left from before, once each");

        let (bob, mut at_bob) = start(ternd, transport, "bob", file("bob")).await;
        let got = caught_up(&mut at_bob).await;
        assert_eq!(seqs(&got), (2..=22).collect::<Vec<_>>(), "what it had is not handed over again");
        assert_eq!(texts(&got), (1..=21).map(|n| n.to_string()).collect::<Vec<_>>());
        assert!(alice.close().await && bob.close().await);
    })
    .await;
}

/// A client that was dropped gives its file free when its task has ended.
async fn reopen(path: &Path) -> SqliteStorage {
    let opened = async {
        loop {
            match SqliteStorage::open(path) {
                Ok(storage) => return storage,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.expect("soon")
}

/// The app does not read: little waits for it, its sends go on, and when it reads again nothing is missing.
#[tokio::test]
async fn a_slow_app_holds_little_and_misses_nothing() {
    const SENDS: u64 = 2000;
    const EVENTS_MAX: usize = 8;
    // In the queue and on their way to the app; a page that was asked for while there was room; and pushes that came
    // ahead of it.
    const HELD_MAX: usize = 2 * EVENTS_MAX + HISTORY_ENTRIES_MAX + 128;
    over_each(async |ternd, transport| {
        let (alice, _at_alice) = start(ternd, transport, "alice", MemoryStorage::new()).await;
        let slow = Config { events_max: EVENTS_MAX, ..config(ternd, transport, "bob") };
        let (bob, mut at_bob) = Client::connect(slow, MemoryStorage::new()).await.expect("online");
        let mut pending = Vec::new();
        for n in 0..SENDS {
            let change = Change::Message(message(&n.to_string()));
            pending.push(alice.enqueue(Target::User(user("bob")), change).await.expect("enqueued"));
        }
        for pending in pending {
            tokio::time::timeout(PATIENCE, pending).await.expect("soon").expect("stored");
        }
        let chat = ConversationId::direct(user("alice"), user("bob"));
        // Answered behind what was pushed.
        bob.mark_read(chat, Seq(SENDS)).await.expect("up to the head");
        let own = bob.send(Target::Conversation(chat), message("busy")).await.expect("stored");
        assert_eq!(own.seq, Seq(SENDS + 1));

        // What it is handed without a server has waited here.
        ternd.signal(libc::SIGKILL);
        ternd.wait();
        let mut got = Vec::new();
        loop {
            match next(&mut at_bob).await {
                Event::Entry { entry, .. } => got.push(entry),
                Event::Connection(ConnectionState::Offline { .. }) => break,
                _ => {}
            }
        }
        eprintln!("{} waited", got.len());
        assert!(got.len() <= HELD_MAX);
        *ternd = Ternd::start(&ternd.data.clone(), &Start { listen: ternd.address, ..Start::default() });
        let rest = SENDS as usize + 1 - got.len();
        got.extend(entries(&mut at_bob, rest).await);
        assert_eq!(seqs(&got), (1..=SENDS + 1).collect::<Vec<_>>());
        assert!(alice.close().await && bob.close().await);
    })
    .await;
}

#[tokio::test]
async fn it_stops_when_another_one_takes_over() {
    over_each(async |ternd, transport| {
        let (client, mut events) = start(ternd, transport, "alice", MemoryStorage::new()).await;
        let mut other = ternd.login(transport, "alice", client.device().get()).await;
        let stop = loop {
            if let Event::Connection(ConnectionState::Stopped(stop)) = next(&mut events).await {
                break stop;
            }
        };
        assert_eq!(stop, Stop::TakenOver);
        other.text(user("bob"), "mine now").await.expect("stored");
        assert!(matches!(
            client.send(Target::User(user("bob")), message("x")).await,
            Err(tern_client::Error::Stopped(Stop::TakenOver))
        ));
    })
    .await;
}
