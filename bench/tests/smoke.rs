//! The load generator against a server in this process: figures come out, and no promise is broken.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tern_server::cli::Dev;
use tern_server::dev::{self, Running};

const TRANSPORTS: [&str; 2] = ["tcp", "quic"];

struct Server {
    running: Running,
    data: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let dev = Dev { data: data.path().into(), listen, shards: Some(2), names: Vec::new(), json: true };
        let running = dev::start(&dev).expect("a server");
        Self { running, data }
    }

    /// Runs the program against it; returns what it says and the JSON that it writes.
    fn bench(&self, scenario: &str, arguments: &[&str]) -> (Output, Value) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let json = directory.path().join("report.json");
        let output = Command::new(env!("CARGO_BIN_EXE_tern-bench"))
            .args([scenario, "--server", &self.running.server.tcp.to_string()])
            .args([Path::new("--ca"), &self.data.path().join("ca.pem")])
            .args([Path::new("--data"), self.data.path()])
            .args(["--pid", &std::process::id().to_string()])
            .args([Path::new("--json"), &json])
            .args(["--connections", "20", "--threads", "2"])
            .args(arguments)
            .output()
            .expect("tern-bench runs");
        let report = std::fs::read(&json).ok().and_then(|json| serde_json::from_slice(&json).ok());
        let report: Value = report.unwrap_or_else(|| panic!("no report: {output:?}"));
        assert!(output.status.success(), "{output:?}");
        assert!(!output.stdout.is_empty());
        let faults = report["faults"].as_object().expect("faults");
        for name in ["lost", "duplicated", "reordered", "altered", "split", "unanswered", "refused"] {
            assert_eq!(faults[name], 0, "{name}: {report:#}");
        }
        (output, report)
    }
}

#[track_caller]
fn above_0(report: &Value, fields: &[&str]) {
    for field in fields {
        let value = report.pointer(field).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{field}: {report:#}");
    }
}

#[test]
fn send() {
    const FIGURES: &[&str] =
        &["/acked_per_second", "/delivered_per_second", "/ack/p50_ms", "/push/p99_ms", "/marks", "/receipts"];

    let server = Server::start();
    for transport in TRANSPORTS {
        let time = ["--transport", transport, "--duration", "2", "--warmup", "0.2"];
        let (_, report) = server.bench("send", &[&time[..], &["--window", "4"]].concat());
        above_0(&report, FIGURES);
        let (_, report) = server.bench("send", &[&time[..], &["--rate", "100", "--payload", "16"]].concat());
        above_0(&report, FIGURES);
        above_0(&report, &["/sent_late/count"]);
        assert!(report["acked_per_second"].as_f64().is_some_and(|rate| rate < 120.0), "{report:#}");
    }
}

#[test]
fn idle() {
    let server = Server::start();
    for transport in TRANSPORTS {
        let (_, report) = server.bench("idle", &["--transport", transport, "--duration", "2"]);
        above_0(&report, &["/logins_per_second", "/login/p50_ms", "/idle/server_rss_mb"]);
        assert_eq!(report["login"]["count"], 20);
    }
}

#[test]
fn what_cannot_be_run_is_said() {
    #[track_caller]
    fn check(arguments: &[&str], expected: &str) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_tern-bench")).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    check(&["send", "--connections", "3"], "even number");
    check(&["idle", "--ternd", "no/such/program"], "no/such/program");
    check(&["idle", "--ternd", "false"], "did not start");
}
