//! What an app drops, cancels, closes twice or pulls away beneath a client, and what holds it up.

use std::future::poll_fn;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;

use tern_client::storage::{Record, State};
use tern_client::{Error, Stop};

use tokio::sync::mpsc;

use super::*;

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("something within the patience")
}

/// Until the client has stopped.
async fn ended(events: &mut Events) {
    within(async { while events.next().await.is_some() {} }).await;
}

async fn start(server: &Listening, storage: impl Storage) -> (Client, Events) {
    within(Client::connect(config(server, Transport::Tcp), storage)).await.unwrap()
}

async fn enqueue(client: &Client, count: usize) {
    for _ in 0..count {
        drop(within(client.enqueue(bob(), Change::Message(text("hello")))).await.unwrap());
    }
}

/// From now on the server stores what is sent and hangs up without an answer, or answers again.
fn answers(server: &Listening, yes: bool) {
    server.shared.lock().unwrap().cuts = if yes { 0 } else { usize::MAX };
}

fn stored(server: &Listening) -> Vec<u64> {
    server.shared.lock().unwrap().stored.iter().map(|(number, _)| number.get()).collect()
}

/// What the next client finds. Nobody holds it any more.
fn unsent(path: &Path) -> usize {
    let state = SqliteStorage::open(path).expect("it is free").load().unwrap();
    state.conversations.values().map(|conversation| conversation.unacked.len()).sum()
}

/// Goes on with a future for so many turns of the runtime, and drops it.
async fn for_turns<F: Future>(turns: usize, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    for _ in 0..turns {
        let turn = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        match turn {
            Poll::Ready(output) => return Some(output),
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    None
}

#[tokio::test]
async fn what_is_dropped_half_way_happens_once_or_not_at_all() {
    let server = listen(Transport::Tcp, ALPN).await;
    let (client, mut events) = start(&server, MemoryStorage::new()).await;
    let (mut answered, mut dropped) = (0, 0);
    for n in 0..60 {
        match for_turns(n % 12, client.send(bob(), text("hello"))).await {
            Some(sent) => answered = sent.unwrap().seq.get(),
            None => dropped += u64::from(n % 12 > 0),
        }
        // As well a question.
        let page = client.history(ConversationId::direct(alice(), alice()), HistoryFrom::Backward(None), 1);
        drop(for_turns(n % 3, page).await);
    }
    assert!(dropped > 0, "some were dropped half-way");
    let last = within(client.send(bob(), text("last"))).await.unwrap();
    assert!(last.seq.get() > answered);
    let numbers = stored(&server);
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "one number, one message");
    assert_eq!(numbers.len() as u64, last.seq.get(), "the last comes last");
    // No event is lost between two calls.
    let mut seqs = Vec::new();
    while seqs.last() != Some(&last.seq.get()) {
        if let Some(event) = for_turns(1, events.next()).await
            && let Event::Entry { entry, .. } = event.expect("the client runs")
        {
            seqs.push(entry.seq.get());
        }
    }
    assert_eq!(seqs, numbers);
}

#[tokio::test]
async fn closing_twice_is_closing_once() {
    for decided in [true, false] {
        let server = listen(Transport::Tcp, ALPN).await;
        let (client, mut events) = {
            let config =
                Config { close_timeout: Duration::from_millis(100), ..config(&server, Transport::Tcp) };
            let config = if decided { Config { close_timeout: PATIENCE, ..config } } else { config };
            within(Client::connect(config, MemoryStorage::new())).await.unwrap()
        };
        answers(&server, decided);
        enqueue(&client, 20).await;
        let (second, later) = (client.clone(), client.clone());
        let both = within(async { tokio::join!(client.close(), second.close()) }).await;
        assert_eq!(both, (decided, decided));
        let stopped = Err(Error::Stopped(Stop::Closed));
        assert_eq!(within(later.send(bob(), text("too late"))).await, stopped);
        assert_eq!(within(later.close()).await, decided);
        ended(&mut events).await;
    }
}

/// A client of a server that answers nothing any more, with 20 messages that wait for it.
async fn with_unanswered(server: &Listening, path: &Path) -> (Client, Events) {
    let (client, events) = start(server, SqliteStorage::open(path).unwrap()).await;
    answers(server, false);
    enqueue(&client, 20).await;
    (client, events)
}

#[tokio::test]
async fn who_asks_to_close_need_not_wait() {
    let server = listen(Transport::Tcp, ALPN).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let (client, mut events) = with_unanswered(&server, &path).await;
    let asked = for_turns(1, client.close()).await;
    assert_eq!(asked, None, "the server does not answer");
    answers(&server, true);
    ended(&mut events).await;
    assert_eq!((unsent(&path), stored(&server).len()), (0, 20));
}

#[tokio::test]
async fn dropping_the_last_handle_waits_for_nothing_and_frees_the_storage() {
    let server = listen(Transport::Tcp, ALPN).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let (client, mut events) = with_unanswered(&server, &path).await;
    drop(client.clone());
    enqueue(&client, 1).await;
    drop(client);
    ended(&mut events).await;
    assert_eq!(unsent(&path), 21);

    // Sends go on for an app that wants no events.
    answers(&server, true);
    let (client, events) = start(&server, SqliteStorage::open(&path).unwrap()).await;
    drop(events);
    assert_eq!(within(client.send(bob(), text("hello"))).await.unwrap().seq, Seq(22));
    assert!(within(client.close()).await);
    assert_eq!(unsent(&path), 0);
}

#[tokio::test]
async fn a_runtime_that_is_shut_down_takes_no_message_with_it() {
    let server = listen(Transport::Tcp, ALPN).await;
    answers(&server, false);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let (config, storage) = (config(&server, Transport::Tcp), SqliteStorage::open(&path).unwrap());
    let elsewhere = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, events) = within(Client::connect(config, storage)).await.unwrap();
            enqueue(&client, 20).await;
            (client, events)
        })
    });
    let (client, mut events) = within(elsewhere).await.unwrap();
    let stopped = Error::Stopped(Stop::Closed);
    assert_eq!(within(client.send(bob(), text("too late"))).await, Err(stopped.clone()));
    within(client.network_changed(None)).await;
    while within(events.next()).await.is_some() {}
    assert_eq!(unsent(&path), 20);
    assert!(!within(client.clone().close()).await);
    // It goes on in another.
    answers(&server, true);
    let (again, _events) = start(&server, SqliteStorage::open(&path).unwrap()).await;
    assert_eq!(within(again.send(bob(), text("after"))).await.unwrap().seq, Seq(21));
    assert_eq!(stored(&server), (1..=21).collect::<Vec<_>>());
    assert!(within(again.close()).await);
}

/// One at a time, and one more that says that the runtime is held up.
const ASKS_MAX: usize = 2;

/// A storage on a disk that answers when the runtime says so.
struct SlowDisk {
    state: State,
    asks: mpsc::Sender<&'static str>,
    answers: Receiver<()>,
}

impl SlowDisk {
    /// And what it asks for, and where to answer.
    fn new() -> (Self, mpsc::Receiver<&'static str>, Sender<()>) {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (answer, answers) = channel();
        (Self { state: State::default(), asks, answers }, asked, answer)
    }

    fn wait(&self, what: &'static str) -> Result<(), StorageError> {
        self.asks.try_send(what).map_err(|_| StorageError::Other("the test is over".into()))?;
        self.answers.recv_timeout(PATIENCE / 4).map_err(|_| {
            let _ = self.asks.try_send("the runtime, which waits");
            StorageError::Other("no answer".into())
        })
    }
}

impl Storage for SlowDisk {
    fn load(&mut self) -> Result<State, StorageError> {
        self.wait("load")?;
        Ok(self.state.clone())
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.wait("append")?;
        records.iter().for_each(|record| self.state.apply(record));
        Ok(())
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = self.wait("drop");
    }
}

#[tokio::test]
async fn no_call_to_a_storage_holds_up_the_runtime() {
    let server = listen(Transport::Tcp, ALPN).await;
    let (disk, mut asked, answer) = SlowDisk::new();
    let serving = tokio::spawn(async move {
        let mut calls = Vec::new();
        while let Some(what) = asked.recv().await {
            calls.push(what);
            let _ = answer.send(());
        }
        calls
    });
    let (client, mut events) = start(&server, disk).await;
    within(client.send(bob(), text("hello"))).await.unwrap();
    assert_eq!(next_entry(&mut events).await.seq, Seq(1));
    assert!(within(client.close()).await);
    let calls = within(serving).await.unwrap();
    assert_eq!((calls.first(), calls.last()), (Some(&"load"), Some(&"drop")));
    assert!(calls.iter().filter(|call| **call == "append").count() >= 3, "device, user, send: {calls:?}");

    // Given up while it loads: the storage is let go of, in its own time.
    let (disk, mut asked, answer) = SlowDisk::new();
    let start = for_turns(1, Client::start(config(&server, Transport::Tcp), disk)).await;
    assert!(start.is_none());
    for expected in ["load", "append", "drop"] {
        assert_eq!(within(asked.recv()).await, Some(expected));
        answer.send(()).unwrap();
    }
    assert_eq!(within(asked.recv()).await, None);
}
