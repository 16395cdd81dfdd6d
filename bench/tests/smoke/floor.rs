//! The floor: everything that is sent arrives, over each transport; a scenario has it beside its load; its processes end
//! with the one that started them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Server, above_0, bench};

/// Nothing that is waited for takes this long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);
const PROGRAM: &str = env!("CARGO_BIN_EXE_tern-bench");

#[track_caller]
fn check(arguments: &[&str], pushes_per_message: f64) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory = data.path().display().to_string();
    let common = ["--duration", "0.4", "--shards", "2", "--threads", "2", "--data", &directory];
    let (output, results) = bench("floor", &[&common[..], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read_dir(data.path()).expect("it is there").count(), 0, "the store is put away");
    let results = results.as_array().expect("two results");
    assert_eq!(["tcp", "quic"].map(Value::from).to_vec(), crate::support::field(results, "transport"));
    above_0(results, &["/acked_per_s", "/delivered_per_s", "/scenario_figures/marks_per_message"]);
    for result in results {
        assert_eq!(result["scenario_figures"]["pushes_per_message"], pushes_per_message, "{result:#}");
    }
}

#[test]
fn direct_chats() {
    check(&["--connections", "20", "--window", "4", "--groups-of", "1,10"], 2.0);
}

#[test]
fn groups_at_a_rate() {
    let groups = ["--connections", "21", "--members", "7", "--senders", "3", "--payload", "16"];
    let load = ["--rate", "500", "--groups-of", "3,6", "--together", "2", "--mark-interval", "0.05"];
    check(&[groups, load].concat(), 7.0);
}

#[test]
fn a_load_has_its_floor_beside_it() {
    let server = Server::start();
    let time = ["--floor", "--duration", "1", "--warmup", "0.2", "--connections", "20"];
    let direct = server.bench("send", &[&time[..], &["--window", "4"]].concat());
    let groups = server.bench("group", &[&time[..], &["--members", "5", "--rate", "200"]].concat());
    let figures = ["/acked_per_s", "/scenario_figures/messages_per_fsync"];
    for results in [direct, groups] {
        above_0(&results, &figures);
        above_0(&results, &["/scenario_figures/messages_per_transaction"]);
        for result in results {
            let floor = result["floor"].as_object().unwrap_or_else(|| panic!("no floor: {result:#}"));
            assert!(floor.values().all(Value::is_number), "{result:#}");
        }
    }
}

#[test]
fn what_goes_wrong_in_a_part_is_said_once() {
    let arguments =
        ["floor", "-q", "--transport", "tcp", "--connections", "4", "--duration", "0.1", "--data", "no/such"];
    let output = Command::new(PROGRAM).args(arguments).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("tern-bench: cannot make a directory in no/such"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn parts_end_with_a_parent_that_is_killed() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut parent = Command::new(PROGRAM)
        .args(["floor", "--transport", "tcp", "--connections", "4", "--duration", "600", "--data"])
        .arg(data.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(parent.stderr.take().expect("it is piped")).lines();
    let line = lines.next().expect("it says what it does").expect("text");
    assert!(line.starts_with("relay over tcp"), "{line}");
    parent.kill().expect("it runs");
    parent.wait().expect("it ends");
    let (end, ended) = mpsc::channel();
    // They have the same standard error, which ends with the last of them.
    std::thread::spawn(move || end.send(lines.map_while(Result::ok).count()));
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(0));
}

#[test]
fn parts_end_when_nobody_tells_them_anything() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory = format!("--directory={}", data.path().display());
    let parts = [
        vec!["relay", "--groups=1", "--members=2", "--payload-bytes=16"],
        vec!["floor-store", &directory, "--conversations=2", "--senders=2", "--payload-bytes=16"],
    ];
    for arguments in parts {
        let mut part = Command::new(PROGRAM)
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        if arguments[0] == "relay" {
            let mut greeting = String::new();
            let mut output = BufReader::new(part.stdout.take().expect("its output"));
            output.read_line(&mut greeting).expect("it says something");
            assert!(greeting.contains("BEGIN CERTIFICATE"), "{greeting}");
        }
        let mut input = part.stdin.take().expect("its input");
        if arguments[0] == "floor-store" {
            let shape =
                r#"{"messages_per_group":9,"messages_per_transaction":3,"senders_per_transaction":1}"#;
            writeln!(input, r#"{{"shape":{shape},"seconds":1000}}"#).expect("it listens");
        }
        drop(input);
        assert!(part.wait().expect("it ends").success(), "{arguments:?}");
    }
}
