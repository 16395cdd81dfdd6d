//! A server that was restored from a backup, and clients that had seen what came after it; and the other way round.

use std::path::Path;
use std::process::Command;

use tern_client::{Client, Event, Events, SqliteStorage, Target, Transport};
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::{Change, Entry};

use crate::sdk::{config, entries, message, next, start};
use crate::support::{Start, Ternd, seqs, text, texts, user};

fn ternd(arguments: &[&str], data: &Path, file: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_ternd")).args(arguments).args([data, file]).output();
    let output = output.expect("ternd starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Up to where the client has caught up: whether its history was reset, and the entries since.
async fn caught_up(events: &mut Events) -> (usize, Vec<Entry>) {
    let (mut resets, mut entries) = (0, Vec::new());
    loop {
        match next(events).await {
            Event::HistoryReset { .. } => {
                resets += 1;
                entries.clear();
            }
            Event::Entry { entry, .. } => entries.push(entry),
            event @ (Event::Reset { .. } | Event::Trimmed { .. }) => panic!("{event:?}"),
            Event::CaughtUp => return (resets, entries),
            _ => {}
        }
    }
}

async fn send(client: &Client, to: &str, texts: &[&str]) {
    for text in texts {
        client.send(Target::User(user(to)), message(text)).await.expect("stored");
    }
}

/// One was connected before and is after; one was away during all of it, and comes when the log is longer than what it
/// had.
#[tokio::test]
async fn who_has_seen_what_a_restore_lost_begins_anew_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let storage = |name: &str| SqliteStorage::open(path(name)).expect("a state");
    let (data, backup) = (path("data"), path("backup"));
    let server = Ternd::start(&data, &Start::default());
    let chat = ConversationId::direct(user("alice"), user("bob"));

    let alices = storage("alice");
    let local = alices.history().expect("readable");
    let (alice, mut at_alice) = start(&server, Transport::Tcp, "alice", alices).await;
    let (bob, mut at_bob) = start(&server, Transport::Tcp, "bob", storage("bob")).await;
    send(&alice, "bob", &["1", "2"]).await;
    ternd(&["backup", "--data"], &data, &backup);
    send(&alice, "bob", &["lost 3", "lost 4"]).await;
    send(&bob, "alice", &["lost 5"]).await;
    for events in [&mut at_alice, &mut at_bob] {
        assert_eq!(texts(&entries(events, 5).await), ["1", "2", "lost 3", "lost 4", "lost 5"]);
        events.confirm();
    }
    alice.mark_read(chat, Seq(5)).await.expect("up to the head");
    assert!(bob.close().await);
    drop(at_bob);

    let address = server.address;
    server.kill();
    let waiting = Change::Message(message("waiting"));
    let waiting = alice.enqueue(Target::User(user("bob")), waiting).await.expect("enqueued");
    std::fs::rename(data.join("store"), path("store.old")).expect("moved");
    ternd(&["restore", "--data"], &data, &backup);
    let server = Ternd::start(&data, &Start { listen: address, ..Start::default() });

    assert_eq!(waiting.await.expect("stored").seq, Seq(3), "the log goes on from the backup");
    let (resets, got) = loop {
        // There may be a state or two of the connection before it stands.
        let (resets, got) = caught_up(&mut at_alice).await;
        if resets > 0 {
            break (resets, got);
        }
    };
    assert_eq!((resets, &texts(&got)[..2]), (1, &["1", "2"][..]));
    let lost = local.lost().expect("readable");
    let lost: Vec<_> = lost.iter().map(|lost| (lost.conversation, text(&lost.entry))).collect();
    assert_eq!(lost, [(chat, "lost 3"), (chat, "lost 4")]);
    send(&alice, "bob", &["4", "5", "6", "7"]).await;
    let expected = ["1", "2", "waiting", "4", "5", "6", "7"];

    for round in 0..2 {
        let (bob, mut at_bob) = start(&server, Transport::Tcp, "bob", storage("bob")).await;
        let (resets, got) = caught_up(&mut at_bob).await;
        if round == 0 {
            assert_eq!((resets, texts(&got)), (1, expected.to_vec()));
            assert_eq!(seqs(&got), (1..=7).collect::<Vec<_>>());
        } else {
            assert_eq!((resets, got), (0, vec![]), "told once");
        }
        at_bob.confirm();
        assert!(bob.close().await);
        drop(at_bob);
        let kept = storage("bob").history().expect("readable").latest(chat, 99).expect("readable");
        assert_eq!(texts(&kept), expected, "one history, and that is the server's");
    }
    // Nor does a restart of the server make another epoch.
    let mut server = server;
    server.restart(libc::SIGKILL);
    assert!(alice.close().await);
    drop(at_alice);
    let alices = storage("alice");
    let (alice, mut at_alice) =
        Client::start(config(&server, Transport::Tcp, "alice"), alices).await.expect("a state");
    assert_eq!(caught_up(&mut at_alice).await.0, 0);
    let kept = local.latest(chat, 99).expect("readable");
    assert_eq!(texts(&kept), expected);
    assert!(alice.close().await);
}

/// The state of a device as it was some messages ago: it numbers new messages as it had numbered others.
#[tokio::test]
async fn who_went_back_in_time_says_nothing_under_another_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let storage = |name: &str| SqliteStorage::open(path(name)).expect("a state");
    let server = Ternd::start(&path("data"), &Start::default());
    let (bob, mut at_bob) = start(&server, Transport::Tcp, "bob", storage("bob")).await;
    let (alice, _) = start(&server, Transport::Tcp, "alice", storage("alice")).await;
    send(&alice, "bob", &["1"]).await;
    assert!(alice.close().await);
    std::fs::copy(path("alice"), path("copy")).expect("a copy of a state that nobody has open");

    let (alice, _) = start(&server, Transport::Tcp, "alice", storage("alice")).await;
    send(&alice, "bob", &["2", "3", "4"]).await;
    assert!(alice.close().await);

    let (alice, mut at_alice) = start(&server, Transport::Tcp, "alice", storage("copy")).await;
    assert_eq!(texts(&caught_up(&mut at_alice).await.1), ["1", "2", "3", "4"], "it gets what it has not");
    let mut pending = Vec::new();
    for n in 5..=50 {
        let change = Change::Message(message(&n.to_string()));
        pending.push(alice.enqueue(Target::User(user("bob")), change).await.expect("enqueued"));
    }
    let mut stored = Vec::new();
    for pending in pending {
        stored.push(pending.await.expect("stored"));
    }
    assert!(stored.iter().all(|ok| !ok.duplicate));
    let got = entries(&mut at_bob, 50).await;
    let numbers: Vec<u32> = texts(&got).iter().map(|text| text.parse().expect("a number")).collect();
    assert_eq!(numbers, (1..=50).collect::<Vec<_>>(), "each once, in order");
    assert!(alice.close().await && bob.close().await);
}
