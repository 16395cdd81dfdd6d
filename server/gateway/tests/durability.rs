//! What the disk does to the server: syncs that hang, disks that fail or are full, power that fails, files that were
//! swapped or damaged. `fixtures/faults.c` stands between the real server and the real files.

#[path = "support/faults.rs"]
mod faults;
#[path = "support/load.rs"]
mod load;
mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use faults::{Faults, Tree};
use hyper::StatusCode;
use load::{Phase, Readers, Running, Server, Shared, create_group, lock};
use support::{Session, Start, TRANSPORTS, Ternd, message, text, texts, user};
use tern_check::Stage;
use tern_check::random::{self, Random};
use tern_client::Transport;
use tern_core::limits::SENDS_WAITING_MIN;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{SendOk, ServerBody};
use tern_protocol::ids::{ClientSeq, ConversationId, Seq};
use tern_protocol::limits::{IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX};
use tern_protocol::model::{Entry, Target};
use tern_protocol::request::{Mark, RequestBody, Send};
use tern_server::server::EXIT_STORE_FAILED;

fn alice_and_bob() -> ConversationId {
    ConversationId::direct(user("alice"), user("bob"))
}

/// Sends these and waits for each answer.
async fn send_all(session: &mut Session, to: &str, messages: &[&str]) -> Vec<SendOk> {
    let mut answers = Vec::new();
    for text in messages {
        answers.push(session.text(user(to), text).await.expect("stored"));
    }
    answers
}

/// Whether it tells of an entry after this one.
fn tells_more_than(seq: u64, event: &ServerBody) -> bool {
    match event {
        ServerBody::Push { entry, .. } => entry.seq.get() > seq,
        ServerBody::HeadMoved { head, .. } => head.get() > seq,
        _ => false,
    }
}

/// The texts of the log between alice and bob, as a fresh connection sees them.
async fn talk(ternd: &Ternd, transport: Transport) -> Vec<Entry> {
    let mut reader = ternd.login(transport, "bob", 99).await;
    let log = reader.log_from(alice_and_bob(), 1).await.expect("bob may read");
    reader.close().await;
    log
}

/// While a sync hangs, nobody is told of what it is to make safe, by any way; afterwards everybody is.
#[tokio::test]
async fn nothing_is_told_before_it_is_synced() {
    for (transport, other) in [(Transport::Tcp, Transport::Quic), (Transport::Quic, Transport::Tcp)] {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut faults = Faults::new(data.path());
        let ternd = Ternd::start(data.path(), &faults.start());
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(other, "bob", 1).await;
        send_all(&mut alice, "bob", &["one"]).await;
        assert_eq!(text(&bob.pushed().await.1), "one");

        faults.set("hold-sync");
        let client_seq = alice.next_client_seq(&Target::User(user("bob")));
        let two = Send { target: Target::User(user("bob")), client_seq, change: message("two") };
        let asked = alice.request(RequestBody::Send(two.clone())).await;
        assert!(faults.event("held").await.ends_with(".jnl"), "the journal is what is synced");
        // The entry is written and not synced. The connections answer other questions; an answer to the send would
        // come first.
        let mut fresh = ternd.login(transport, "bob", 2).await;
        for session in [&mut alice, &mut bob, &mut fresh] {
            let log = session.log_from(alice_and_bob(), 1).await.expect("a member");
            assert_eq!(texts(&log), ["one"]);
            let line = session.line(alice_and_bob()).await;
            assert_eq!((line.head, line.entries.len()), (Seq(1), 1));
            let told = session.events.iter().find(|event| tells_more_than(1, event));
            assert_eq!(told, None, "of what may be lost");
        }
        // A read mark is promised to be durable, too.
        let mark = Mark { conversation: alice_and_bob(), delivered: Seq(1), read: Seq(1) };
        let marked = bob.request(RequestBody::Mark(vec![mark])).await;
        assert_eq!(bob.line(alice_and_bob()).await.head, Seq(1));
        assert!(!alice.is_answered(asked) && !bob.is_answered(marked), "before it is durable");

        faults.clear("hold-sync");
        let ok = match alice.answer(asked).await.expect("stored") {
            ServerBody::SendOk(ok) => ok,
            other => panic!("not the answer to a send: {other:?}"),
        };
        assert_eq!((ok.seq, ok.duplicate), (Seq(2), false));
        assert!(faults.event("synced").await.ends_with(".jnl"));
        for session in [&mut bob, &mut fresh] {
            let (_, entry) = session.pushed().await;
            assert_eq!((entry.seq, text(&entry)), (Seq(2), "two"));
        }
        assert_eq!(bob.answer(marked).await, Ok(ServerBody::MarkOk));
        assert!(ternd.terminate().success());
    }
}

/// While a sync hangs, the server says so to whoever sends it clients; its metrics are there all the same.
#[tokio::test]
async fn a_server_whose_disk_hangs_is_not_ready_until_it_goes_on() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut faults = Faults::new(data.path());
    let ternd = Ternd::start(data.path(), &faults.start());
    let mut alice = ternd.login(Transport::Quic, "alice", 1).await;
    send_all(&mut alice, "bob", &["one"]).await;
    faults.set("hold-sync");
    let target = Target::User(user("bob"));
    let client_seq = alice.next_client_seq(&target);
    let asked = alice.request(RequestBody::Send(Send { target, client_seq, change: message("two") })).await;
    faults.event("held").await;
    let why = ternd.answers("/ready", StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(why.starts_with("the disk has not finished a write for "), "{why}");
    ternd.answers("/health", StatusCode::OK).await;
    let page = ternd.answers("/metrics", StatusCode::OK).await;
    assert!(!page.contains("\ntern_store_stall_seconds 0\n"), "{page}");
    let waiting = ["0", "1"].map(|shard| format!("\ntern_waiting_sends{{shard=\"{shard}\"}} 1\n"));
    assert!(waiting.iter().any(|line| page.contains(line)), "{page}");
    faults.clear("hold-sync");
    alice.answer(asked).await.expect("stored");
    ternd.answers("/ready", StatusCode::OK).await;
    ternd.kill();
}

/// While a sync hangs, a shard takes up no more sends than its bound; those beyond are refused at once, and none of the
/// others is lost.
#[tokio::test]
async fn sends_beyond_what_a_shard_takes_up_are_refused_at_once() {
    // With a query behind them, as many as a connection may have unanswered.
    const SENDS: u64 = IN_FLIGHT_MAX as u64 - 1;
    let data = tempfile::tempdir().expect("a temporary directory");
    let faults = Faults::new(data.path());
    let ternd = Ternd::start(data.path(), &Start { shards: 1, ..faults.start() });
    faults.set("hold-sync");
    let (mut sessions, mut sent) = (Vec::new(), 0);
    while sent <= SENDS_WAITING_MIN {
        let mut session = ternd.login(Transport::Tcp, &format!("user {sent}"), 1).await;
        let mut asked = Vec::new();
        for n in 1..=SENDS {
            let target = Target::User(user("bob"));
            let send = Send { target, client_seq: ClientSeq(n), change: message("now") };
            asked.push((n, session.request(RequestBody::Send(send)).await));
        }
        // A connection's requests are taken up in order, so its sends have been when this is answered.
        assert_eq!(session.conversations(1).await.len(), 0, "nothing is durable");
        sent += SENDS;
        sessions.push((session, asked));
    }
    let (last, asked) = sessions.last_mut().expect("there are some");
    let beyond = sent - SENDS_WAITING_MIN;
    for (_, id) in asked.split_off((SENDS - beyond) as usize) {
        assert_eq!(support::refused(last.answer(id).await), ErrorCode::Overloaded, "while the disk hangs");
    }

    faults.clear("hold-sync");
    for (session, asked) in &mut sessions {
        for (n, id) in asked {
            match session.answer(*id).await.expect("what was taken up is stored") {
                ServerBody::SendOk(ok) => assert_eq!((ok.seq, ok.duplicate), (Seq(*n), false)),
                other => panic!("not the answer to a send: {other:?}"),
            }
        }
    }
    let (last, asked) = sessions.last_mut().expect("there are some");
    let next = asked.len() as u64 + 1;
    let ok = last
        .send_as(Target::User(user("bob")), ClientSeq(next), message("again"))
        .await
        .expect("there is room");
    assert_eq!((ok.seq, ok.duplicate), (Seq(next), false), "a refused send was not stored");
    assert!(ternd.terminate().success());
}

/// After a failed write or sync the process ends with a reason, acknowledges nothing more, and what it had acknowledged
/// is there when it starts again.
#[tokio::test]
async fn a_failing_disk_ends_the_process_and_loses_nothing() {
    for (fault, says) in [
        ("fail-sync", "Input/output error"),
        ("fail-write", "Input/output error"),
        ("full", "No space left on device"),
    ] {
        println!("{fault}:");
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut faults = Faults::new(data.path());
        let ternd = Ternd::start(data.path(), &faults.start());
        let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
        let mut bob = ternd.login(Transport::Tcp, "bob", 1).await;
        let stored = send_all(&mut alice, "bob", &["1", "2", "3", "4", "5"]).await;
        for expected in &stored {
            assert_eq!(bob.pushed().await.1.seq, expected.seq);
        }

        faults.set(fault);
        for text in ["6", "7", "8"] {
            let client_seq = alice.next_client_seq(&Target::User(user("bob")));
            let send = Send { target: Target::User(user("bob")), client_seq, change: message(text) };
            if alice.try_request(RequestBody::Send(send)).await.is_err() {
                // The first one was enough.
                break;
            }
        }
        faults.event("failed").await;
        let (status, errors) = ternd.ended();
        assert_eq!(status.code(), Some(EXIT_STORE_FAILED), "{errors}");
        let engine = data.path().canonicalize().expect("it exists").join("store/engine");
        let doing = format!("to the journal in {}", engine.display());
        for expected in ["the store has failed and the server stops", "writing commit", &doing, says] {
            assert!(errors.contains(expected), "{expected:?} is not in {errors:?}");
        }
        while let Some(message) = support::next(alice.connection()).await {
            assert!(!matches!(message.body, ServerBody::SendOk(_)), "an answer after {fault}: {message:?}");
        }
        while let Some(message) = support::next(bob.connection()).await {
            assert!(!tells_more_than(5, &message.body), "a push after {fault}: {message:?}");
        }

        let ternd = Ternd::start(data.path(), &Start::default());
        let log = talk(&ternd, Transport::Quic).await;
        assert_eq!(texts(&log)[..5], ["1", "2", "3", "4", "5"]);
        let unknown: Vec<&str> = texts(&log).split_off(5);
        assert!(["6", "7", "8"].starts_with(&unknown), "{unknown:?}");
        settle(&ternd, &stored, &["1", "2", "3", "4", "5", "6", "7", "8"]).await;
        assert!(ternd.terminate().success());
    }
}

/// Sends everything again, under the same numbers: what was answered gets its answer again, each is there once.
async fn settle(ternd: &Ternd, stored: &[SendOk], messages: &[&str]) {
    let mut alice = ternd.login(Transport::Quic, "alice", 1).await;
    for (i, text) in messages.iter().enumerate() {
        let client_seq = ClientSeq(i as u64 + 1);
        let again = alice.send_as(Target::User(user("bob")), client_seq, message(text)).await;
        let again = again.expect("stored, then or now");
        if let Some(before) = stored.get(i) {
            assert_eq!(again, SendOk { duplicate: true, ..*before });
        }
    }
    let logs = [talk(ternd, Transport::Tcp).await, talk(ternd, Transport::Quic).await];
    assert_eq!(texts(&logs[0]), messages);
    assert_eq!(logs[0], logs[1]);
}

/// A server whose journal's sync hangs, with a send that waits for it, after a SIGTERM.
async fn stuck_and_told_to_end(faults: &mut Faults, data: &Path, transport: Transport) -> (Ternd, Session) {
    let mut ternd = Ternd::start(data, &faults.start());
    let mut alice = ternd.login(transport, "alice", 1).await;
    send_all(&mut alice, "bob", &["1"]).await;
    faults.set("hold-sync");
    let client_seq = alice.next_client_seq(&Target::User(user("bob")));
    let send = Send { target: Target::User(user("bob")), client_seq, change: message("2") };
    alice.request(RequestBody::Send(send)).await;
    faults.event("held").await;
    ternd.signal(libc::SIGTERM);
    (ternd, alice)
}

/// A disk that hangs does not keep the server from ending, and what it had acknowledged is there afterwards.
#[tokio::test]
async fn a_server_whose_sync_hangs_ends_by_itself() {
    for transport in TRANSPORTS {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut faults = Faults::new(data.path());
        let (ternd, mut alice) = stuck_and_told_to_end(&mut faults, data.path(), transport).await;
        let begin = Instant::now();
        let told = |event: &ServerBody| {
            assert!(!tells_more_than(1, event), "of what is not synced: {event:?}");
            matches!(event, ServerBody::GoingAway { .. }).then_some(())
        };
        alice.until(told).await;
        let (status, errors) = ternd.ends().await;
        println!("over {transport:?}: {:?}", begin.elapsed());
        assert_eq!(status.code(), Some(EXIT_STORE_FAILED), "{errors}");
        assert!(errors.contains("does not come to rest"), "{errors}");
        let ternd = Ternd::start(data.path(), &Start::default());
        let log = talk(&ternd, transport).await;
        assert!(matches!(texts(&log)[..], ["1"] | ["1", "2"]), "{:?}", texts(&log));
        assert!(ternd.terminate().success());
    }
}

/// A second signal is obeyed at once.
#[tokio::test]
async fn a_second_signal_ends_a_server_whose_sync_hangs_at_once() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut faults = Faults::new(data.path());
    let (mut ternd, mut alice) = stuck_and_told_to_end(&mut faults, data.path(), Transport::Tcp).await;
    // The first one has been taken: two that come together are one.
    alice.until(|event| matches!(event, ServerBody::GoingAway { .. }).then_some(())).await;
    ternd.signal(libc::SIGTERM);
    let (status, errors) = ternd.ends().await;
    // Waiting for the store in vain would have ended with another status.
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("second signal"), "{errors}");
}

/// A kill while a sync hangs: what was answered is there, what was not is there once or not at all.
#[tokio::test]
async fn a_kill_while_a_sync_hangs() {
    for transport in TRANSPORTS {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut faults = Faults::new(data.path());
        let ternd = Ternd::start(data.path(), &faults.start());
        let mut alice = ternd.login(transport, "alice", 1).await;
        let stored = send_all(&mut alice, "bob", &["1", "2", "3"]).await;
        faults.set("hold-sync");
        for text in ["4", "5", "6"] {
            let client_seq = alice.next_client_seq(&Target::User(user("bob")));
            let send = Send { target: Target::User(user("bob")), client_seq, change: message(text) };
            alice.request(RequestBody::Send(send)).await;
        }
        faults.event("held").await;
        ternd.kill();
        let ternd = Ternd::start(data.path(), &Start::default());
        let log = talk(&ternd, transport).await;
        assert_eq!(texts(&log)[..3], ["1", "2", "3"]);
        assert!(["4", "5", "6"].starts_with(&texts(&log)[3..]), "{:?}", texts(&log));
        settle(&ternd, &stored, &["1", "2", "3", "4", "5", "6"]).await;
    }
}

/// The power fails while everybody sends. Of what was written since a file's last sync, each sector survives or not, as
/// chance has it; a file whose directory was never synced may be gone.
#[tokio::test]
async fn nothing_answered_is_lost_when_the_power_fails() {
    let rounds = std::env::var("TERN_POWER_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(8, |text| text.parse().expect("TERN_POWER_ROUNDS is a number"));
    let mut random = Random::new(random::seed());
    let mut data = tempfile::tempdir().expect("a temporary directory");
    let history = Shared::default();
    let group = ConversationId::group_from_random([0x17; 16]);
    let mut readers = Readers::new(group);
    let mut devices = load::devices(group, &mut random);
    let mut lost = 0;
    for round in 1..=rounds {
        let before = Tree::read(data.path());
        let mut faults = Faults::recording(data.path());
        let ternd = Ternd::start(data.path(), &faults.start());
        let server = Server::new(&ternd);
        if round == 1 {
            create_group(&server, group, &history).await;
        } else {
            readers.read(&server, false).await;
            readers.check(&history, Stage::Open, &format!("after power failure {}", round - 1));
        }
        if random.one_in(4) {
            // Again, before anybody has sent a thing.
            ternd.kill();
        } else {
            let running = Running::start(round, devices, &server, &history).await;
            tokio::time::sleep(Duration::from_millis(random.within(20..400))).await;
            if random.one_in(2) {
                // For certain with a group that is written and not synced.
                faults.set("hold-sync");
                faults.event("held").await;
            }
            // Meanwhile the devices go on to take what it had written.
            tokio::task::spawn_blocking(|| ternd.kill()).await.expect("it is killed");
            devices = running.end(Phase::Gone).await;
        }
        let copy = tempfile::tempdir().expect("a temporary directory");
        lost += before.after_power_failure(&faults, &mut random, copy.path());
        data = copy;
    }
    let ternd = Ternd::start(data.path(), &Start::default());
    let server = Server::new(&ternd);
    let running = Running::start(0, devices, &server, &history).await;
    running.end(Phase::Drain).await;
    readers.read(&server, false).await;
    readers.check(&history, Stage::Settled, "at the end");
    let totals = lock(&history).totals();
    println!("power: {rounds} failures, {} sends, {} acked, {lost} sectors lost", totals.sends, totals.acked);
    assert!(lost > 0, "no failure has cost anything: the test shows nothing");
}

/// Copies the store from one data directory to another.
fn copy_store(from: &Path, to: &Path) {
    Tree::read(&from.join("store")).write(&to.join("store"));
}

fn refused(data: &Path) -> String {
    match Ternd::try_start(data, &Start::default()) {
        Ok(_) => panic!("it starts"),
        Err((status, errors)) => {
            assert_eq!(status.code(), Some(1), "{errors}");
            assert!(!errors.contains("panicked"), "{errors}");
            errors
        }
    }
}

/// An old backup of the engine under a newer commit number.
#[tokio::test]
async fn a_store_that_went_back_in_time_is_refused() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let backup = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    send_all(&mut alice, "bob", &["1", "2"]).await;
    ternd.kill();
    copy_store(data.path(), backup.path());

    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    alice.count_from(alice_and_bob(), 2);
    send_all(&mut alice, "bob", &["3"]).await;
    ternd.kill();

    std::fs::remove_dir_all(data.path().join("store/engine")).expect("it exists");
    let engine = Tree::read(&backup.path().join("store/engine"));
    engine.write(&data.path().join("store/engine"));
    let errors = refused(data.path());
    assert!(errors.contains("went back in time"), "{errors}");
    assert!(errors.contains("Move the whole directory away and restore a backup"), "{errors}");

    // The whole backup, with its own commit number, is a store.
    std::fs::remove_dir_all(data.path().join("store")).expect("it exists");
    copy_store(backup.path(), data.path());
    let ternd = Ternd::start(data.path(), &Start::default());
    assert_eq!(texts(&talk(&ternd, Transport::Quic).await), ["1", "2"]);
}

fn newest(directory: &Path, is_wanted: impl Fn(&Path) -> bool) -> PathBuf {
    let entries =
        std::fs::read_dir(directory).expect("it exists").map(|entry| entry.expect("readable").path());
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    entries.filter(|path| is_wanted(path)).max_by_key(number).expect("there is one")
}

/// Turns one bit of the file; the offset is a share of what is in use, in thousandths.
fn damage(file: &Path, thousandths: u64) {
    let mut bytes = std::fs::read(file).expect("readable");
    let used = bytes.chunks(4096).rposition(|chunk| chunk.iter().any(|byte| *byte != 0)).expect("not empty");
    let used = (used as u64 * 4096).max(4096).min(bytes.len() as u64);
    let at = (used * thousandths / 1000) as usize;
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).expect("writable");
}

/// A damaged journal is a store that lacks commits: refused.
#[tokio::test]
async fn a_damaged_journal_is_refused() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    for n in 0..100 {
        send_all(&mut alice, "bob", &[&format!("message {n} {}", "x".repeat(200))]).await;
    }
    ternd.kill();
    for thousandths in [1, 100, 300, 500, 700, 900] {
        let copy = tempfile::tempdir().expect("a temporary directory");
        Tree::read(data.path()).write(copy.path());
        let engine = copy.path().join("store/engine");
        let journal = newest(&engine, |path| path.extension().is_some_and(|extension| extension == "jnl"));
        damage(&journal, thousandths);
        let errors = refused(copy.path());
        assert!(
            errors.contains("went back in time") || errors.contains("is damaged at byte"),
            "{thousandths}: {errors}"
        );
    }
}

/// A damaged table, or file of entries, is found at the start or when it is read; nobody gets wrong data.
#[tokio::test]
async fn a_damaged_table_gives_no_wrong_data() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut faults = Faults::new(data.path());
    let ternd = Ternd::start(data.path(), &faults.start());
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    let long = "long ".repeat(12_000);
    // Until the engine has written entries to their files: as much as fits its memory.
    let mut sent = 0;
    while !faults.happened("synced", "/keyspaces/2/tables/") {
        let messages: Vec<String> = (0..16).map(|i| format!("{} {long}", sent + i)).collect();
        let mut asked = Vec::new();
        for text in &messages {
            let client_seq = alice.next_client_seq(&Target::User(user("bob")));
            let send = Send { target: Target::User(user("bob")), client_seq, change: message(text) };
            asked.push(alice.request(RequestBody::Send(send)).await);
        }
        for id in asked {
            alice.answer(id).await.expect("stored");
        }
        sent += 16;
        assert!(sent < 4_000, "the engine writes no tables");
    }
    let log = talk(&ternd, Transport::Tcp).await;
    assert_eq!(log.len(), sent);
    ternd.kill();

    for (kind, thousandths) in
        ["blobs", "tables"].into_iter().flat_map(|kind| [10, 250, 500, 750].map(|at| (kind, at)))
    {
        let copy = tempfile::tempdir().expect("a temporary directory");
        Tree::read(data.path()).write(copy.path());
        let files = copy.path().join("store/engine/keyspaces/2").join(kind);
        damage(&newest(&files, Path::is_file), thousandths);
        match Ternd::try_start(copy.path(), &Start::default()) {
            Err((status, errors)) => {
                assert_eq!(status.code(), Some(1), "{errors}");
                println!("{kind} {thousandths}: refused: {}", errors.trim());
            }
            Ok(ternd) => {
                let mut reader = ternd.login(Transport::Tcp, "bob", 99).await;
                let mut from = 1;
                let error = loop {
                    let page = support::sync(&[(alice_and_bob(), from - 1)]);
                    match reader.ask(page).await {
                        Ok(ServerBody::SyncPage(page)) => {
                            let entries = page.conversations.first().map_or(&[][..], |state| &state.entries);
                            for entry in entries {
                                assert_eq!(*entry, log[from as usize - 1], "wrong data");
                                from += 1;
                            }
                            assert!(
                                !entries.is_empty(),
                                "{kind} {thousandths}: the damage was not met at {from}"
                            );
                        }
                        Ok(other) => panic!("not the answer to a sync: {other:?}"),
                        Err(error) => break error,
                    }
                };
                println!("{kind} {thousandths}: error after {from} of {sent}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let errors = refused(data.path());
    let holder = format!("is in use by process {}; stop it first", ternd.pid());
    assert!(errors.contains(&holder), "{errors}");
    // The first one did not notice.
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    send_all(&mut alice, "bob", &["1"]).await;
    ternd.kill();
}

#[tokio::test]
async fn a_restore_without_room_says_so_once_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let (data, file, pipe, copy) = (path("data"), path("backup"), path("pipe"), path("copy"));
    let server = Ternd::start(&data, &Start::default());
    let mut session = server.login(Transport::Tcp, "anna", 1).await;
    for _ in 0..3 {
        let big = message(&"x".repeat(PAYLOAD_BYTES_MAX));
        session.send(Target::User(user("ben")), big).await.expect("stored");
    }
    let ternd = |command: &str, data: &Path, file: &Path| {
        let mut ternd = Command::new(env!("CARGO_BIN_EXE_ternd"));
        ternd.arg(command).arg("--data").args([data, file]).stderr(Stdio::piped());
        ternd
    };
    assert!(ternd("backup", &data, &file).status().expect("ternd starts").success());
    session.close().await;
    assert!(server.terminate().success());

    std::fs::create_dir(&copy).expect("made");
    let faults = Faults::new(&copy);
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    let mut restore = ternd("restore", &copy, &pipe);
    let child = restore.envs(faults.start().env.iter().cloned()).spawn().expect("ternd starts");
    let made = std::fs::read(&file).expect("a backup");
    let mut to = std::fs::File::options().write(true).open(&pipe).expect("it reads");
    // More than a pipe holds: the new store is there, and is written to when all of the block has come.
    to.write_all(&made[..made.len() / 2]).expect("written");
    faults.set("full");
    to.write_all(&made[made.len() / 2..]).expect("written");
    drop(to);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("nothing is left of it") && said.contains("No space left"), "{said}");
    assert!(!copy.join("store.restoring").exists() && !copy.join("store").exists());
}
