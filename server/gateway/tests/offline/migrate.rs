//! Moving a store with the real program, which is killed again and again.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tern_check::Stage;
use tern_check::random::{self, Random};
use tern_client::Transport;
use tern_protocol::event::SendOk;
use tern_protocol::ids::{ClientSeq, ConversationId};
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::Target;

use crate::load::{self, Phase, Readers, Running, Server, Shared, create_group, lock};
use crate::support::{Start, Ternd, message, user};
use crate::{damage, filled, refuses, succeeds, ternd};

/// Of 64 KiB: as many chunks as a third of it.
const BULK: usize = 100;
/// A run is killed so long after its first line, at most, and the next one this much later: so one comes to its end.
const LATER_MS: u64 = 100;
const RUNS_MAX: u64 = 100;

fn place(data: &Path) -> String {
    format!("embedded:{}", data.display())
}

fn migrate(from: &Path, to: &Path, more: &[&str]) -> Output {
    let (from, to) = (place(from), place(to));
    let arguments = ["store", "migrate", "--from", &from, "--to", &to];
    ternd(&[&arguments, more].concat(), &[])
}

#[track_caller]
fn is_not_served(data: &Path, expected: &str) {
    let (status, errors) = Ternd::try_start(data, &Start::default()).err().expect("refused");
    assert!(!status.success() && errors.contains(expected), "{expected:?} is not in: {errors}");
}

/// Runs it and sends it a signal so long after this line.
fn cut_off(from: &Path, to: &Path, line: &str, after: Duration, signal: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ternd"))
        .args(["store", "migrate", "--from", &place(from), "--to", &place(to)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ternd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.any(|said| said.expect("readable").contains(line)), "{line:?} is not said");
    std::thread::sleep(after);
    // The child has not been waited for, so the id is still its own.
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    // It may have more to say.
    lines.for_each(drop);
    child.wait_with_output().expect("it ends")
}

/// `false`: it came to its end before.
fn killed(from: &Path, to: &Path, line: &str, after: Duration) -> bool {
    let output = cut_off(from, to, line, after, "KILL");
    let killed = output.status.signal() == Some(libc::SIGKILL);
    assert!(killed || output.status.success(), "{output:?}");
    killed
}

#[tokio::test]
async fn a_store_moves_over_any_number_of_kills() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [old, new] = ["old", "new"].map(|name| directory.path().join(name));
    let server = Ternd::start(&old, &Start::default());
    let history = Shared::default();
    let group = ConversationId::group_from_random([0x42; 16]);
    create_group(&Server::new(&server), group, &history).await;
    let seed = random::seed();
    let mut random = Random::new(seed);
    let devices = load::devices(group, &mut random);
    let running = Running::start(1, devices, &Server::new(&server), &history).await;
    let mut session = server.login(Transport::Tcp, "zoe", 1).await;
    let (yves, big) = (Target::User(user("yves")), message(&"x".repeat(PAYLOAD_BYTES_MAX)));
    let mut sent = Vec::new();
    for _ in 0..BULK {
        sent.push(session.send(yves, big.clone()).await.expect("stored"));
    }
    let epoch = session.login.epoch;
    session.close().await;
    let devices = running.end(Phase::Drain).await;
    let mut before = Readers::new(group);
    before.read(&Server::new(&server), false).await;
    assert!(server.terminate().success());

    // Before more than a few chunks are copied.
    let stopped = cut_off(&old, &new, "copying to", Duration::ZERO, "INT");
    refuses(&stopped, "stopped by a signal; the same command goes on");
    assert!(killed(&old, &new, "copying to", Duration::ZERO));
    is_not_served(&new, "a part of embedded:");
    is_not_served(&old, "is being moved to embedded:");
    let mut kills = 1;
    while killed(&old, &new, "", Duration::from_millis(random.below(kills * LATER_MS))) {
        kills += 1;
        assert!(kills < RUNS_MAX, "seed {seed}: it goes on where it stopped");
    }
    eprintln!("seed {seed}: {kills} runs were killed");
    succeeds(&migrate(&old, &new, &[]), "before this run");
    is_not_served(&old, "has moved to embedded:");
    let verified = ternd(&["verify"], &[&old]);
    succeeds(&verified, "has moved to embedded:");
    succeeds(&ternd(&["verify"], &[&new]), ": 0 things wrong");

    let served = Ternd::start(&new, &Start::default());
    let mut after = Readers::new(group);
    after.read(&Server::new(&served), false).await;
    after.check(&history, Stage::Settled, "after the move");
    for (conversation, log) in &before.logs {
        assert_eq!(&after.logs[conversation], log, "{conversation}");
    }
    let mut session = served.login(Transport::Quic, "zoe", 1).await;
    assert_eq!(session.login.epoch, epoch, "clients keep what they have");
    for n in [1, BULK / 2, BULK] {
        let again = session.send_as(yves, ClientSeq(n as u64), big.clone()).await;
        assert_eq!(again, Ok(SendOk { duplicate: true, ..sent[n - 1] }));
    }
    session.close().await;
    // Everybody goes on where they were.
    let running = Running::start(2, devices, &Server::new(&served), &history).await;
    running.end(Phase::Drain).await;
    let mut at_last = Readers::new(group);
    at_last.read(&Server::new(&served), false).await;
    at_last.check(&history, Stage::Settled, "at the end");
    assert!(lock(&history).totals().acked > 0);
    assert!(served.terminate().success());
    succeeds(&ternd(&["verify"], &[&new]), ": 0 things wrong");
}

#[tokio::test]
async fn what_cannot_be_moved_is_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [old, new, used, third] = ["old", "new", "used", "third"].map(|name| directory.path().join(name));
    let server = filled(&old, 20).await;
    assert!(filled(&used, 3).await.terminate().success());
    refuses(&migrate(&old, &new, &[]), "in use by process");
    assert!(server.terminate().success());
    refuses(&migrate(&new, &third, &[]), "there is no store in");
    refuses(&migrate(&old, &used, &[]), "holds something already; nothing was done");
    refuses(&migrate(&old, &old, &[]), "named as both");
    refuses(&migrate(&old, &old.join("../old"), &[]), "named as both");
    refuses(&migrate(&old, &old.join("store"), &[]), "is a store itself");
    refuses(&migrate(&old, &new, &["--abandon"]), "is not being moved");
    let from = place(&old);
    let cluster = ["store", "migrate", "--from", &from, "--to", "fdb:/etc/fdb.cluster"];
    refuses(&ternd(&cluster, &[]), "built without FoundationDB");
    for (arguments, expected) in [
        (&["store", "migrate", "--from", &from][..], "--to"),
        (&["store", "migrate", "--from", "/var/lib/tern", "--to", &from], "embedded:/var/lib/tern"),
    ] {
        let output = ternd(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{output:?}");
    }
    assert!(!new.exists() && !third.exists(), "nothing is left of what was refused");

    // What is begun can be given up, and begun again.
    assert!(killed(&old, &new, "copying to", Duration::ZERO));
    refuses(&migrate(&old, &third, &[]), "and embedded:");
    refuses(&ternd(&["backup", "--data"], &[&new, &directory.path().join("backup")]), "is a part of");
    assert!(!third.exists());
    let given_up = migrate(&old, &new, &["--abandon"]);
    succeeds(&given_up, "can be served again");
    assert!(Ternd::start(&old, &Start::default()).terminate().success());
    succeeds(&migrate(&old, &new, &[]), "has everything that was in");
    // And back, without what is in the way.
    std::fs::rename(old.join("store"), old.join("store.moved")).expect("moved away");
    succeeds(&migrate(&new, &old, &[]), "has everything that was in");
    assert!(Ternd::start(&old, &Start::default()).terminate().success());
    is_not_served(&new, "has moved to embedded:");

    tokio::task::spawn_blocking({
        let used = used.clone();
        move || damage(&used)
    })
    .await
    .expect("no panic");
    let output = migrate(&used, &third, &[]);
    refuses(&output, "1 thing(s) wrong in");
    assert!(String::from_utf8_lossy(&output.stdout).contains("checksum mismatch"), "{output:?}");
    assert!(!third.exists());
}
