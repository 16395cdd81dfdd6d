//! The admin listener itself: health, readiness, its bounds, where it may listen.

use std::net::SocketAddr;
use std::process::{Command, Output};

use hyper::StatusCode;
use tern_client::Transport;
use tern_server::admin::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::page;
use crate::support::{PATIENCE, Start, Ternd};

/// Bytes on a connection of their own, and everything that comes back until the server closes it.
async fn raw(admin: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(admin).await.expect("connected");
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset is an end, too.
    let _ = read.expect("the server closes it");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn a_server_that_stops_is_not_ready_and_still_healthy() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(data.path(), &Start::default());
    for path in ["/health", "/ready"] {
        assert_eq!(get(ternd.admin, path).await.expect("an answer"), (StatusCode::OK, "ok\n".to_owned()));
    }
    // Does not close its end, so that the server waits for it.
    let alice = ternd.login(Transport::Tcp, "alice", 1).await;
    ternd.signal(libc::SIGTERM);
    let why = ternd.answers("/ready", StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(why, "the server is stopping\n");
    assert_eq!(get(ternd.admin, "/health").await.expect("an answer").0, StatusCode::OK);
    assert!(page(&ternd).await.contains("\ntern_draining 1\n"));
    drop(alice);
    assert!(ternd.wait().success());
}

#[tokio::test]
async fn it_answers_what_it_knows_and_survives_the_rest() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut ternd = Ternd::start(data.path(), &Start::default());
    let head = |line: &str| format!("{line} HTTP/1.1\r\nHost: here\r\n\r\n").into_bytes();
    let long = head(&format!("GET /{}", "a".repeat(1 << 20)));
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000)).into_bytes();
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("health", head("GET /health"), "HTTP/1.1 200"),
        ("only the head", head("HEAD /health"), "HTTP/1.1 200"),
        ("no such page", head("GET /secrets"), "HTTP/1.1 404"),
        ("no such method", head("POST /metrics"), "HTTP/1.1 405"),
        ("a long head", long, "HTTP/1.1 4"),
        ("many headers", many, "HTTP/1.1 4"),
        ("no HTTP", b"\x16\x03\x01\x00\x05hello\r\n\r\n".to_vec(), "HTTP/1.1 400"),
    ];
    for (case, request, expected) in cases {
        let answer = raw(ternd.admin, &request).await;
        assert!(
            answer.starts_with(expected) || (expected.ends_with(" 4") && answer.is_empty()),
            "{case}: {answer}"
        );
    }
    let answer = raw(ternd.admin, &head("GET /metrics")).await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    // More than it serves at once, all silent: they are sent away, and somebody who asks gets an answer.
    let mut silent = Vec::new();
    for _ in 0..48 {
        silent.push(TcpStream::connect(ternd.admin).await.expect("connected"));
    }
    ternd.answers("/health", StatusCode::OK).await;
    assert!(ternd.is_alive());
}

fn dev(arguments: &[&str]) -> Output {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ternd"));
    command.args(["dev", "--json", "--listen", "127.0.0.1:0", "--data"]).arg(data.path()).args(arguments);
    command.output().expect("ternd can be started")
}

#[test]
fn it_is_for_this_machine_and_for_one_server() {
    let cases = [
        (&["--admin", "0.0.0.0:0"][..], "can be reached from other machines"),
        (&["--admin", "[::]:7480"][..], "allow_remote"),
    ];
    for (arguments, expected) in cases {
        let output = dev(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    let output = dev(&["--admin", &taken]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&taken) && said.contains("choose another"), "{said}");
    drop(holder);
}
