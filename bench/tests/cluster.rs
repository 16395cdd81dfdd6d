//! `tern-bench cluster`, with FoundationDB's server that `TERN_FDBSERVER` names (its `fdbcli` is beside it) and the `ternd` beside
//! `tern-bench`, which has to be built with FoundationDB. What needs them, and root, counts as ignored otherwise.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::Value;

const VARIABLE: &str = "TERN_FDBSERVER";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = vec![
        Trial::ignorable_test("nodes_fail_and_no_promise_is_broken", || {
            let Some(fdbserver) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
                return Ok(Completion::ignored_with(format!("{VARIABLE} names no fdbserver")));
            };
            if !rustix::process::geteuid().is_root() {
                return Ok(Completion::ignored_with("only root makes network namespaces"));
            }
            nodes_fail_and_no_promise_is_broken(&fdbserver);
            Ok(Completion::Completed)
        }),
        Trial::test("a_program_that_is_not_there_is_named", || {
            a_program_that_is_not_there_is_named();
            Ok(())
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(fdbserver: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tern-bench"))
        .args(["cluster", "--quiet", "--fdbserver"])
        .arg(fdbserver)
        .args(arguments)
        .output()
        .expect("tern-bench runs")
}

fn nodes_fail_and_no_promise_is_broken(fdbserver: &Path) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (json, data) = (directory.path().join("result.json"), directory.path().join("data"));
    let arguments = [
        ["--json", json.to_str().expect("plain")],
        ["--data", data.to_str().expect("plain")],
        ["--connections", "60"],
        ["--members", "3,8"],
        ["--rate", "60"],
        ["--warmup", "1"],
        ["--duration", "16"],
        ["--every", "4"],
        ["--faults", "stall,drain,kill"],
        ["--lasts", "2"],
    ];
    let output = run(fdbserver, &arguments.concat());
    let result = std::fs::read(&json).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    let result = result.unwrap_or_else(|| panic!("no result: {output:?}"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(result["complete"], true, "{result:#}");
    for promise in ["lost", "duplicated", "reordered", "split", "unanswered", "refused", "falsely_receipted"]
    {
        assert_eq!(result[promise], 0, "{promise}: {result:#}");
    }
    let figure = |name: &str| result["scenario_figures"][name].as_f64().unwrap_or(0.0);
    for fault in ["quiet", "stall", "drain", "kill"] {
        assert_eq!(figure(&format!("{fault}_times")), 1.0, "{fault}: {result:#}");
        assert!(figure(&format!("{fault}_sends")) > 0.0, "{fault}: {result:#}");
    }
    // Whose node was paused for two seconds waited for it.
    assert!(figure("stall_without_service_max_ms") > 1_000.0, "{result:#}");
    assert!(figure("drain_connections_lost") > 0.0 && figure("kill_connections_lost") > 0.0, "{result:#}");
    assert_eq!(left_behind(&data), Vec::<String>::new());
}

/// Processes that have something to do with this directory.
fn left_behind(data: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("this is Linux").flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(data.to_str().expect("plain"))).collect()
}

fn a_program_that_is_not_there_is_named() {
    let output = run(Path::new("/nowhere/fdbserver"), &["--ternd", env!("CARGO_BIN_EXE_tern-bench")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/nowhere/fdbserver"), "{output:?}");
    assert!(said.contains("--fdbserver"), "it says what to do: {output:?}");
}
