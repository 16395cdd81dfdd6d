//! A server in this process, and the program against it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tern_server::cli::Dev;
use tern_server::dev::{self, Running};
use tokio::runtime::Runtime;

/// What every result has to say is 0.
pub(crate) const FAULTS: [&str; 9] = [
    "lost",
    "duplicated",
    "reordered",
    "falsely_receipted",
    "altered",
    "split",
    "unanswered",
    "refused",
    "disconnected",
];

/// A server with its data in a temporary directory.
pub(crate) struct Server {
    running: Running,
    /// The server's threads have their own.
    runtime: Runtime,
    data: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(false)
    }

    /// One that limits what clients may take, or does not.
    pub(crate) fn start_with(limits: bool) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let dev = Dev {
            data: data.path().into(),
            listen,
            admin: None,
            shards: Some(2),
            names: Vec::new(),
            limits,
            json: true,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let running = {
            let _entered = runtime.enter();
            dev::start(&dev).expect("a server")
        };
        Self { running, runtime, data }
    }

    /// Stops it, as an operator would.
    pub(crate) fn stop(self) {
        self.runtime.block_on(self.running.server.stop());
    }

    /// The options that name it.
    pub(crate) fn options(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let options = [
            ["--server".to_owned(), self.running.server.tcp[0].to_string()],
            ["--ca".to_owned(), path(&self.data.path().join("ca.pem"))],
            ["--data".to_owned(), path(self.data.path())],
            ["--pid".to_owned(), std::process::id().to_string()],
        ];
        options.concat()
    }

    /// Runs a scenario over both transports; each has to end well, and nothing be refused. Returns the results.
    #[track_caller]
    pub(crate) fn bench(&self, scenario: &str, arguments: &[&str]) -> Vec<Value> {
        let results = self.bench_overloaded(scenario, arguments);
        for result in &results {
            assert_eq!(result["errors"], 0, "{result:#}");
        }
        results
    }

    /// The same, where a server that has too much to do may refuse something for now.
    #[track_caller]
    pub(crate) fn bench_overloaded(&self, scenario: &str, arguments: &[&str]) -> Vec<Value> {
        let options = self.options();
        let mut all: Vec<_> = options.iter().map(String::as_str).collect();
        all.extend(["--transport", "both", "--threads", "2"]);
        all.extend(arguments);
        let (output, results) = bench(scenario, &all);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("promises"), "{output:?}");
        let results = results.as_array().expect("two results").clone();
        assert_eq!(["tcp", "quic"].map(Value::from).to_vec(), field(&results, "transport"));
        for result in &results {
            assert_eq!(result["complete"], true, "{result:#}");
            for name in FAULTS {
                assert_eq!(result[name], 0, "{name}: {result:#}");
            }
        }
        results
    }
}

/// Runs the program; returns what it says and the JSON that it writes, which it has to.
#[track_caller]
pub(crate) fn bench(scenario: &str, arguments: &[&str]) -> (Output, Value) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = directory.path().join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_tern-bench"))
        .arg(scenario)
        .args([Path::new("--json"), &json])
        .args(arguments)
        .output()
        .expect("tern-bench runs");
    let result = std::fs::read(&json).ok().and_then(|json| serde_json::from_slice(&json).ok());
    let result = result.unwrap_or_else(|| panic!("no result: {output:?}"));
    (output, result)
}

/// A field of each.
pub(crate) fn field(results: &[Value], name: &str) -> Vec<Value> {
    results.iter().map(|result| result[name].clone()).collect()
}

/// These numbers are there and above 0; written as JSON pointers.
#[track_caller]
pub(crate) fn above_0(results: &[Value], fields: &[&str]) {
    for result in results {
        for field in fields {
            let value = result.pointer(field).and_then(Value::as_f64);
            assert!(value.is_some_and(|value| value > 0.0), "{field}: {result:#}");
        }
    }
}
