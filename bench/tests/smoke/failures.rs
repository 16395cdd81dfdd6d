//! What cannot be run is said in one line, and what there is of a result is written.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Server, above_0, bench};

/// Nothing that is waited for takes this long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it in vain; the last line on standard error has to hold these texts.
#[track_caller]
fn fails(arguments: &[&str], expected: &[&str]) -> Value {
    let (output, result) = bench("send", &[&["--quiet", "--connections", "4"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("tern-bench: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    for expected in expected {
        assert!(lines[0].contains(expected), "{expected} is not in: {text}");
    }
    assert_eq!(result["complete"], false, "{result:#}");
    result
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    #[track_caller]
    fn check(arguments: &[&str], expected: &str) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_tern-bench")).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    check(&["send", "--connections", "3"], "even number");
    check(&["send", "--rate", "0"], "--rate");
    check(&["send", "--json", "no/such/directory/x.json"], "no/such/directory");
    check(&["group", "--connections", "5", "--members", "10"], "do not fill a group");
    check(&["flaky", "--connections", "3"], "even number");
    check(&["flaky", "--loss", "1"], "0.9");
    check(&["flaky", "--blackout", "1000"], "15000:4000");
    check(&["idle", "--connections", "0"], "above 0");
    check(&["idle", "--ternd", "no/such/program"], "no/such/program");
    check(&["idle", "--ternd", "false"], "did not start");
    check(&["floor", "--json", "no/such/directory/x.json"], "no/such/directory");
}

#[test]
fn a_wrong_address_is_told() {
    let server = Server::start();
    // Bound and closed again: nobody is there.
    let nobody =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address");
    let mut options = server.options();
    options[1] = nobody.to_string();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    fails(&options, &[&nobody.to_string(), "refused", "check --server"]);
}

#[test]
fn a_wrong_authority_is_told() {
    let (server, other) = (Server::start(), Server::start());
    let (mut options, others) = (server.options(), other.options());
    options[3] = others[3].clone();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    for transport in ["tcp", "quic"] {
        fails(&[&options[..], &["--transport", transport]].concat(), &["certificate", "--ca"]);
    }
}

#[test]
fn a_refused_token_is_told() {
    let (server, other) = (Server::start(), Server::start());
    let (mut options, others) = (server.options(), other.options());
    options[5] = others[5].clone();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    for transport in ["tcp", "quic"] {
        fails(
            &[&options[..], &["--transport", transport]].concat(),
            &["token_invalid", "token.key in --data"],
        );
    }
}

#[test]
fn a_server_that_goes_away_leaves_a_partial_result() {
    for (transport, before, place) in [
        ("tcp", None, "result.json"),
        ("tcp", Some(r#"{"complete":false}"#), "result.json"),
        ("quic", Some(r#"{"complete":true}"#), "result.json.partial"),
    ] {
        let server = Server::start();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let json = directory.path().join("result.json");
        if let Some(before) = before {
            std::fs::write(&json, before).expect("a result of an earlier run");
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_tern-bench"))
            .args([
                "send",
                "--transport",
                transport,
                "--connections",
                "4",
                "--duration",
                "600",
                "--warmup",
                "0",
            ])
            .args([Path::new("--json"), &json])
            .args(server.options())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tern-bench starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut next = || lines.next().map(|line| line.expect("text"));
        while let Some(line) = next() {
            if line.contains("measuring") {
                break;
            }
        }
        server.stop();
        let problem = std::iter::from_fn(next).find(|line| line.starts_with("tern-bench: "));
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(1), "{problem:?}");
        let problem = problem.expect("it says why");
        assert!(problem.contains("all connections have ended in mid-run"), "{problem}");
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(
            said.contains("ENDED EARLY") && !said.contains("kept") && !said.contains("mid-run"),
            "{said}"
        );
        assert!(
            said.contains(&format!(
                "what there is of a result is in {}",
                directory.path().join(place).display()
            )),
            "{said}"
        );
        if place != "result.json" {
            assert_eq!(std::fs::read_to_string(&json).ok().as_deref(), before, "the good one is kept");
        }
        let result = std::fs::read(directory.path().join(place)).expect("a result");
        let result: Value = serde_json::from_slice(&result).expect("JSON");
        assert_eq!(result["complete"], false, "{result:#}");
        above_0(&[result], &["/acked_per_s", "/ack_ms/p50", "/disconnected"]);
    }
}

/// Starts it with these options, and ends it with two signals in the midst of measuring.
fn interrupted_twice(configure: impl FnOnce(&mut Command)) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern-bench"));
    command.args(["idle", "--connections", "4", "--duration", "600"]);
    configure(&mut command);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("tern-bench starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    lines
        .find(|line| line.as_ref().is_ok_and(|line| line.contains("measuring")))
        .expect("it runs")
        .expect("text");
    let pid = Pid::from_child(&child);
    // Two signals of one kind might arrive as one.
    for signal in [Signal::INT, Signal::TERM] {
        kill_process(pid, signal).expect("it is there");
    }
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

/// Nobody is left who would hold the port and the data.
#[test]
fn a_second_signal_ends_the_server_too() {
    let data = tempfile::tempdir().expect("a temporary directory");
    interrupted_twice(|command| _ = command.arg("--data").arg(data.path()));
    let lock = File::open(data.path().join("lock")).expect("a lock");
    let (free, freed) = mpsc::channel();
    std::thread::spawn(move || free.send(lock.lock().is_ok()));
    let free = freed.recv_timeout(PATIENCE).unwrap_or(false);
    assert!(free, "somebody still has the data");
}

#[test]
fn a_second_signal_leaves_no_files() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    interrupted_twice(|command| {
        command.arg("--json").arg(directory.path().join("result.json")).env("TMPDIR", directory.path());
    });
    let left: Vec<_> = directory.path().read_dir().expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
}
