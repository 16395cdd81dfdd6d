//! Verifying, backing up, restoring and moving a data directory with the real program.

#[path = "support/load.rs"]
mod load;
#[path = "offline/migrate.rs"]
mod migrate;
mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use load::{Phase, Readers, Running, Server, Shared, create_group, lock};
use support::{PATIENCE, Start, Ternd, message, user};
use tern_check::Stage;
use tern_check::random::{self, Random};
use tern_client::Transport;
use tern_protocol::ids::{ConversationId, Seq, StoreEpoch};
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::Target;
use tern_store::Kv;
use tern_store::embedded::{Embedded, Options};
use tern_store::keys::entry::EntryKey;

fn ternd(arguments: &[&str], paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ternd")).args(arguments).args(paths).output().expect("ternd starts")
}

#[track_caller]
fn succeeds(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(expected), "{output:?}");
}

#[track_caller]
fn refuses(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains(expected), "{expected:?} is not in: {said}");
}

/// What was acknowledged before a backup of a busy server began is in it, and every log in it is a beginning of the real
/// one.
#[tokio::test]
async fn a_backup_of_a_busy_server_is_of_one_moment() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data, copy, file) =
        (directory.path().join("data"), directory.path().join("copy"), directory.path().join("backup"));
    let server = Ternd::start(&data, &Start::default());
    let history = Shared::default();
    let group = ConversationId::group_from_random([0x42; 16]);
    create_group(&Server::new(&server), group, &history).await;
    let mut random = Random::new(random::seed());
    let devices = load::devices(group, &mut random);
    let running = Running::start(1, devices, &Server::new(&server), &history).await;
    let devices = running.end(Phase::Drain).await;
    let mut before = Readers::new(group);
    before.read(&Server::new(&server), false).await;
    let running = Running::start(2, devices, &Server::new(&server), &history).await;

    let (from, to) = (data.clone(), file.clone());
    let made = tokio::task::spawn_blocking(move || ternd(&["backup", "--data"], &[&from, &to]));
    succeeds(&made.await.expect("it runs"), "records");
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else may read it");

    // Something comes after it.
    let devices = running.end(Phase::Drain).await;
    let running = Running::start(3, devices, &Server::new(&server), &history).await;
    running.end(Phase::Drain).await;
    let mut after = Readers::new(group);
    after.read(&Server::new(&server), false).await;
    after.check(&history, Stage::Settled, "at the end");
    assert!(server.terminate().success());
    succeeds(&ternd(&["verify"], &[&data]), ": 0 things wrong");

    succeeds(&ternd(&["restore", "--data"], &[&copy, &file]), ": 0 things wrong");
    let restored = Ternd::start(&copy, &Start::default());
    let mut readers = Readers::new(group);
    readers.read(&Server::new(&restored), false).await;
    for (conversation, log) in &readers.logs {
        let (before, after) = (&before.logs[conversation], &after.logs[conversation]);
        assert!(log.starts_with(before), "{conversation}: all that there was before the backup");
        assert!(after.starts_with(log), "{conversation}: nothing that was never there");
    }
    let [before, in_it, after] =
        [&before, &readers, &after].map(|readers| readers.logs.values().map(Vec::len).sum::<usize>());
    assert!(before > 0 && before <= in_it && in_it < after, "{before}, {in_it}, {after}");
    assert!(lock(&history).totals().acked > 0);
    // It goes on from there.
    let mut session = restored.login(Transport::Tcp, "anna", 1).await;
    session.text(user("ben"), "new").await.expect("stored");
    session.close().await;
    assert!(restored.terminate().success());
    succeeds(&ternd(&["verify"], &[&copy]), ": 0 things wrong");
}

/// Messages of anna to ben, in a directory of its own.
async fn filled(data: &Path, payloads: usize) -> Ternd {
    let server = Ternd::start(data, &Start::default());
    let mut session = server.login(Transport::Tcp, "anna", 1).await;
    for _ in 0..payloads {
        let big = message(&"x".repeat(PAYLOAD_BYTES_MAX));
        session.send(Target::User(user("ben")), big).await.expect("stored");
    }
    session.close().await;
    server
}

#[tokio::test]
async fn what_cannot_be_done_is_said_and_does_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let (data, file) = (path("data"), path("backup"));
    let server = filled(&data, 3).await;
    refuses(&ternd(&["verify"], &[&data]), "in use by process");
    refuses(&ternd(&["verify"], &[&path("nothing")]), "there is no store in");
    refuses(&ternd(&["backup", "--data"], &[&path("nothing"), &file]), "there is no store in");
    refuses(
        &ternd(&["backup", "--data"], &[&data, &path("no/such/file")]),
        "no/such to write the backup to: make it",
    );
    assert_eq!(ternd(&["verify", "--data"], &[&data]).status.code(), Some(2));
    let said = ternd(&["verify", "--data"], &[&data]).stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains(&format!("ternd verify {}", data.display())), "{said}");
    succeeds(&ternd(&["backup", "--data"], &[&data, &file]), "records");
    let made = std::fs::read(&file).expect("a backup");
    refuses(&ternd(&["backup", "--data"], &[&data, &file]), "exists; nothing was done");
    refuses(&ternd(&["restore", "--data"], &[&data, &file]), "in use by process");
    // Whoever moves the store away under a running server does not get a second one beside it.
    std::fs::rename(data.join("store"), data.join("store.old")).expect("moved");
    refuses(&ternd(&["restore", "--data"], &[&data, &file]), "in use by process");
    std::fs::rename(data.join("store.old"), data.join("store")).expect("moved back");
    assert!(server.terminate().success());
    refuses(&ternd(&["restore", "--data"], &[&data, &file]), "Move it away first");
    refuses(&ternd(&["restore", "--data"], &[&data.join("store"), &file]), "is a store itself");
    std::fs::write(path("third.part"), "").expect("written");
    refuses(&ternd(&["backup", "--data"], &[&data, &path("third")]), "did not come to its end");
    std::fs::remove_file(path("third.part")).expect("removed");
    assert_eq!(std::fs::read(&file).expect("a backup"), made);

    // Without a server, the same.
    let second = path("second");
    succeeds(&ternd(&["backup", "--data"], &[&data, &second]), "records");
    assert_eq!(std::fs::read(&second).expect("a backup"), made);

    let damaged = path("damaged");
    for (bytes, expected) in [(&made[..made.len() - 1], "damaged"), (&b"tar"[..], "no backup")] {
        std::fs::write(&damaged, bytes).expect("written");
        let copy = path("copy");
        refuses(&ternd(&["restore", "--data"], &[&copy, &damaged]), expected);
        assert!(!copy.exists());
    }
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{left:?}");
}

/// A server that begins with nothing where there was something would give its numbers again.
#[tokio::test]
async fn a_server_does_not_begin_anew_where_its_store_was() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    assert!(filled(&data, 1).await.terminate().success());
    let refused = |expected: &str| {
        let (status, errors) = Ternd::try_start(&data, &Start::default()).err().expect("refused");
        assert!(!status.success() && errors.contains(expected), "{errors}");
    };
    std::fs::rename(data.join("store"), data.join("store.old")).expect("moved");
    refused("restore a backup");
    std::fs::create_dir(data.join("store.restoring")).expect("made");
    refused("has not come to its end");
    assert!(!data.join("store").exists());
}

/// A message as a bad sector leaves it.
fn damage(data: &Path) {
    let options = Options { check_records: false, ..Options::default() };
    let store = Embedded::open(&data.join("store"), options, Box::new(|_| ())).expect("nobody has it");
    let key =
        EntryKey { conversation: ConversationId::direct(user("anna"), user("ben")), seq: Seq(2) }.encode();
    let mut tx = store.begin();
    let record = tx.get(&key).now_or_never().expect("at once").expect("readable").expect("there");
    let mut record = record.to_vec();
    record[20] ^= 1;
    tx.set(&key, record.into());
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(tx.commit())
        });
        commit.join().expect("no panic").expect("committed");
    });
}

#[tokio::test]
async fn a_damaged_record_is_found_and_named_and_not_put_into_a_place() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let (data, file, copy) = (path("data"), path("backup"), path("copy"));
    assert!(filled(&data, 3).await.terminate().success());
    damage(&data);
    let finding = "2: checksum mismatch";
    let verified = ternd(&["verify"], &[&data]);
    refuses(&verified, "1 thing is wrong");
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(
        said.contains(finding) && said.contains("3 entries") && said.contains(": 1 thing wrong"),
        "{said}"
    );

    let made = ternd(&["backup", "--data"], &[&data, &file]);
    refuses(&made, "1 record in it is damaged");
    assert!(String::from_utf8_lossy(&made.stdout).contains(finding), "{made:?}");
    let restored = ternd(&["restore", "--data"], &[&copy, &file]);
    refuses(&restored, "was restored to");
    assert!(String::from_utf8_lossy(&restored.stdout).contains(finding), "{restored:?}");
    assert!(!copy.join("store").exists() && copy.join("store.restoring").exists());
}

/// Makes a store out of a backup, small enough in memory that it is in tables: their files.
fn in_tables(backup: &Path, data: &Path) -> Vec<PathBuf> {
    std::fs::create_dir(data).expect("made");
    let options = Options { memtable_bytes: 1 << 20, ..Options::default() };
    let store = Embedded::open(&data.join("store"), options, Box::new(|_| ())).expect("a new store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let input = std::fs::File::open(backup).expect("a backup");
    runtime
        .block_on(tern_store::backup::restore(input, &store, StoreEpoch::from_bytes([1; 16])))
        .expect("restored");
    drop(store);
    let mut files = Vec::new();
    let mut directories = vec![data.join("store/engine")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    // Journals have a name with an end, tables have none.
    files.retain(|path| path.extension().is_none());
    files
}

/// Flips a bit in a message that is not the first.
fn damaged_table(backup: &Path, data: &Path) {
    for table in in_tables(backup, data) {
        let mut bytes = std::fs::read(&table).expect("readable");
        let text =
            |bytes: &[u8]| bytes.windows(1_000).position(|window| window.iter().all(|byte| *byte == b'x'));
        let second = text(&bytes).map(|at| at + PAYLOAD_BYTES_MAX);
        if let Some(at) = second.and_then(|begin| Some(begin + text(&bytes[begin..])?)) {
            bytes[at] ^= 1;
            std::fs::write(table, bytes).expect("written");
            return;
        }
    }
    panic!("no table has a message");
}

#[tokio::test]
async fn what_can_be_read_of_a_damaged_store_is_saved() {
    const ENTRIES: usize = 60;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let (data, file, copy) = (path("data"), path("backup"), path("copy"));
    let (other, before, third) = (path("other"), path("before"), path("third"));
    let server = filled(&other, ENTRIES).await;
    succeeds(&ternd(&["backup", "--data"], &[&other, &before]), "records");
    refuses(&ternd(&["backup", "--skip-damaged", "--data"], &[&other, &third]), "in use by process");
    assert!(server.terminate().success());
    let to = data.clone();
    tokio::task::spawn_blocking(move || damaged_table(&before, &to)).await.expect("no panic");

    let chat = ConversationId::direct(user("anna"), user("ben")).to_string();
    let verified = ternd(&["verify"], &[&data]);
    refuses(&verified, "wrong; a backup from before");
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(said.contains(&format!("conversation {chat}, entry ")), "{said}");
    refuses(&ternd(&["backup", "--data"], &[&data, &file]), "--skip-damaged saves the rest");
    assert!(!file.exists());
    let saved = ternd(&["backup", "--skip-damaged", "--data"], &[&data, &file]);
    refuses(&saved, "was written without 1 part of the store");
    let said = String::from_utf8_lossy(&saved.stdout).into_owned();
    assert!(said.contains(&chat) && said.contains("cannot be read, and are left out"), "{said}");
    let restored = ternd(&["restore", "--data"], &[&copy, &file]);
    refuses(&restored, "was restored to");
    let said = String::from_utf8_lossy(&restored.stdout).into_owned();
    let entries = format!("{} entries", ENTRIES - 1);
    assert!(said.contains(&entries) && said.contains(&chat), "{said}");
}

/// What an operator is told does not depend on where the engine stumbles.
#[tokio::test]
async fn a_table_that_cannot_be_opened_is_told_in_plain_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let (data, file, other, saved) = (path("data"), path("backup"), path("other"), path("saved"));
    assert!(filled(&other, 40).await.terminate().success());
    succeeds(&ternd(&["backup", "--data"], &[&other, &file]), "records");
    let to = data.clone();
    let tables = tokio::task::spawn_blocking(move || in_tables(&file, &to)).await.expect("no panic");
    let table = tables.iter().find(|path| path.parent().is_some_and(|parent| parent.ends_with("tables")));
    let table = table.expect("a table");
    let whole = std::fs::read(table).expect("readable");
    let mut flipped = whole.clone();
    flipped[whole.len() - 60] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], &[]] {
        std::fs::write(table, damaged).expect("written");
        let commands: [(&[&str], &[&Path]); 4] = [
            (&["verify"], &[&data]),
            (&["backup", "--data"], &[&data, &saved]),
            (&["backup", "--skip-damaged", "--data"], &[&data, &saved]),
            (&["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"], &[&data]),
        ];
        for (arguments, paths) in commands {
            let output = ternd(arguments, paths);
            refuses(&output, "restore a backup");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("store/engine") && !said.contains("FjallError"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_development_server_touches_nothing_that_is_not_its_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (new, served) = (directory.path().join("new"), directory.path().join("served"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let dev = ["dev", "--admin", "127.0.0.1:0", "--listen", &address, "--data"];
    refuses(&ternd(&dev, &[&new]), "choose another address: `--listen`");
    assert!(!new.exists());
    let named = ternd(&["dev", "--listen", "localhost:0"], &[]);
    assert!(String::from_utf8_lossy(&named.stderr).contains("such as 127.0.0.1:7443"), "{named:?}");

    assert!(filled(&served, 1).await.terminate().success());
    for own in ["token.key", "token.pub", "ca.key", "ca.pem"] {
        std::fs::remove_file(served.join(own)).expect("ternd dev makes it");
    }
    refuses(&ternd(&dev, &[&served]), "is the data directory of a ternd serve");
    assert!(!served.join("token.key").exists());
}

/// Sends a signal, and then byte after byte until nobody takes any more.
#[allow(unsafe_code)]
fn interrupt(child: &Child, signal: i32, mut to: impl Write) {
    // SAFETY: kill(2) takes plain numbers, and the child has not been waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0, "it runs");
    let begin = Instant::now();
    while to.write_all(b"x").is_ok() {
        assert!(begin.elapsed() < PATIENCE, "it goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn an_interrupted_command_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let (data, file, copy) = (path("data"), path("backup"), path("copy"));
    assert!(filled(&data, 3).await.terminate().success());
    succeeds(&ternd(&["backup", "--data"], &[&data, &file]), "records");
    let made = std::fs::read(&file).expect("a backup");
    let start = |arguments: &[&str], paths: &[&Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ternd"));
        command.args(arguments).args(paths).stderr(Stdio::piped()).spawn().expect("ternd starts")
    };
    let stopped = |child: Child| refuses(&child.wait_with_output().expect("it ends"), "stopped by a signal");

    let pipe = path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    let child = start(&["restore", "--data"], &[&copy, &pipe]);
    let mut to = std::fs::File::options().write(true).open(&pipe).expect("it reads");
    to.write_all(&made[..made.len() / 2]).expect("written");
    while !copy.join("store.restoring/engine").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child, libc::SIGINT, to);
    stopped(child);
    assert!(!copy.join("store.restoring").exists() && !copy.join("store").exists());

    // A server that is slow.
    let listener = UnixListener::bind(tern_server::control::path(&data)).expect("a socket");
    let second = path("second");
    let child = start(&["backup", "--data"], &[&data, &second]);
    let (mut to, _) = listener.accept().expect("it asks");
    to.read_exact(&mut [0; 9]).expect("a request");
    to.write_all(b"ok\n").expect("written");
    interrupt(&child, libc::SIGTERM, to);
    stopped(child);
    let left =
        std::fs::read_dir(directory.path()).expect("readable").map(|entry| entry.expect("one").file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with("second")));
}

/// Whoever takes a backup and stops reading does not hold up the end of the server.
#[tokio::test]
async fn a_backup_that_nobody_reads_holds_up_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    // More than a socket holds.
    let server = filled(&data, 20).await;
    let mut stream = UnixStream::connect(tern_server::control::path(&data)).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"backup 1\n").expect("written");
    let mut first = [0; 3];
    stream.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"ok\n");
    assert!(server.terminate().success());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 20 * PAYLOAD_BYTES_MAX, "it did not get all");
}
