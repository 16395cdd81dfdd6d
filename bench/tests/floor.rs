//! The floor: everything that is sent arrives, over each transport, and its processes end with the one that started
//! them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tern-bench");

fn floor(arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = directory.path().join("report.json");
    let store = directory.path().join("data");
    std::fs::create_dir(&store).expect("a directory");
    let output = Command::new(PROGRAM)
        .args(["floor", "--duration", "0.4", "--shards", "2", "--threads", "2"])
        .args([Path::new("--json"), &json, Path::new("--data"), &store])
        .args(arguments)
        .output()
        .expect("tern-bench runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read_dir(&store).expect("it is there").count(), 0, "the store is put away");
    let report = std::fs::read(&json).expect("a report");
    serde_json::from_slice(&report).expect("JSON")
}

#[track_caller]
fn check(arguments: &[&str], pushes_per_message: u64) {
    let report = floor(arguments);
    let relay = report["relay"].as_array().expect("relay");
    let transports: Vec<_> = relay.iter().map(|relay| &relay["transport"]).collect();
    assert_eq!(transports, ["tcp", "quic"]);
    for relay in relay {
        assert_eq!(relay["pushes_per_message"], pushes_per_message as f64, "{report:#}");
        for figure in ["messages_per_s", "marks_per_message"] {
            assert!(relay[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {report:#}");
        }
    }
    let store = report["store"].as_array().expect("store");
    assert_eq!(store.len(), 2);
    assert!(store.iter().all(|store| store["messages_per_s"].as_f64() > Some(0.0)), "{report:#}");
}

#[test]
fn direct_chats() {
    check(&["--connections", "20", "--window", "4", "--groups-of", "1,10"], 2);
}

#[test]
fn groups_at_a_rate() {
    let groups = ["--connections", "21", "--members", "7", "--senders", "3", "--payload", "16"];
    check(&[&groups[..], &["--rate", "500", "--groups-of", "3,6", "--together", "2"]].concat(), 7);
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
        drop(part.stdin.take());
        assert!(part.wait().expect("it ends").success(), "{arguments:?}");
    }
}
