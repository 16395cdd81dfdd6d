//! What goes wrong is told in one line, without the token, and with the right exit code.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const TOKEN: &str = "e30.eyJzdWIiOiJhbGljZSJ9.secret";

fn tern(home: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern"));
    for variable in
        ["TERN_SERVER", "TERN_CA", "TERN_TOKEN", "TERN_TRANSPORT", "TERN_STATE", "TERN_SERVER_NAME"]
    {
        command.env_remove(variable);
    }
    let mut child = command
        .args(args)
        .env("XDG_STATE_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn check(home: &Path, args: &[&str], input: &[u8], code: i32, expected: &str) {
    let output = tern(home, args, input);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert!(told.contains(expected), "{args:?}: {told} lacks {expected}");
    assert!(!told.contains("secret"), "{told}");
    assert!(code == 2 || told.lines().count() == 1, "{told}");
    assert!(output.stdout.is_empty());
}

#[test]
fn cases() {
    let home = tempfile::tempdir().unwrap();
    let ca = home.path().join("ca.pem");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let ca = ca.to_str().unwrap();
    let token_file = home.path().join("token");
    std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
    let plain = token_file.display().to_string();
    let token_file = format!("@{plain}");

    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("localhost:{}", listener.local_addr().unwrap().port())
    };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = format!("localhost:{}", silent.local_addr().unwrap().port());
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let http_at = format!("localhost:{}", http.local_addr().unwrap().port());
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = http.accept() {
            let _ = socket.read(&mut [0; 64]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });

    let within = |seconds: &'static str, server: &'static str| {
        move |rest: &[&'static str]| {
            let mut args = vec!["--server", server, "--token", TOKEN, "--timeout", seconds];
            args.extend_from_slice(rest);
            args
        }
    };
    let at = |server| within("1", server);
    let leak = |s: String| -> &'static str { Box::leak(s.into_boxed_str()) };
    let ca = leak(ca.to_owned());
    let (nobody, silent_at, http_at) = (leak(nobody), leak(silent_at), leak(http_at));
    let home = home.path();
    let send = ["--ca", ca, "send", "--to", "bob", "hi"];

    check(home, &["send", "--to", "bob", "hi"], b"", 2, "--server is missing");
    check(home, &["--server", nobody, "send", "--to", "bob", "hi"], b"", 2, "--token is missing");
    check(home, &at(nobody)(&send), b"", 3, "refused");
    check(home, &at(nobody)(&send), b"", 3, "; not sent, and not kept: try again");
    check(home, &at(silent_at)(&send), b"", 3, "; not sent, and not kept: try again");
    check(
        home,
        &at(nobody)(&["--ca", ca, "send", "--to", " bob", "hi"]),
        b"",
        2,
        "begins or ends with a blank",
    );
    let group = ["--ca", ca, "group", "create", "--title", " ", "--member", "bob"];
    check(home, &at(nobody)(&group), b"", 2, "a group needs a title");
    check(home, &at(silent_at)(&send), b"", 3, "within 1");
    check(home, &within("20", http_at)(&send), b"", 3, "does not speak TLS");
    check(home, &within("20", "nowhere.invalid:1")(&send), b"", 3, "cannot be resolved");
    check(home, &at("nowhere")(&send), b"", 2, "host:port");
    check(home, &at(nobody)(&["--ca", "/nowhere", "tail"]), b"", 2, "cannot be read");
    check(home, &at(nobody)(&["--ca", "/dev/null", "tail"]), b"", 2, "CA file /dev/null has no");
    check(home, &at(nobody)(&["--ca", ca, "send", "--to", "bob"]), b"", 2, "empty");
    check(home, &at(nobody)(&["--ca", ca, "send", "--to", "bob"]), &[b'x'; 65_537], 2, "longer than 65536");
    check(home, &at(nobody)(&["--ca", ca, "send", "--to", "bob"]), &[b'x'; 65_536], 3, "refused");
    check(
        home,
        &["--server", nobody, "--token", &token_file, "--ca", ca, "conversations"],
        b"",
        3,
        "refused",
    );
    check(home, &["--server", nobody, "--token", "@/nowhere", "--ca", ca, "tail"], b"", 2, "cannot be read");
    check(home, &["--server", nobody, "--token", &plain, "--ca", ca, "tail"], b"", 2, "write @ before it");
    let quic = ["--transport", "quic", "--ca", ca, "tail"];
    check(home, &at(nobody)(&quic), b"", 3, "over QUIC (UDP) within 1");
    check(home, &["send", "hi"], b"", 2, "--to");
    check(home, &["history", "--to", "a", "--conversation", "b"], b"", 2, "conversation");

    // The state of somebody who is at it.
    let state = home.join("my.state");
    let state = leak(state.display().to_string());
    let _held = tern_client::SqliteStorage::open(state).unwrap();
    check(home, &at(nobody)(&["--ca", ca, "--state", state, "tail"]), b"", 2, "in use by another tern");
    check(home, &at(nobody)(&["--ca", ca, "--state", state, "send", "--to", "bob", "hi"]), b"", 3, "refused");
}

#[test]
fn help_is_a_manual() {
    let home = tempfile::tempdir().unwrap();
    let output = tern(home.path(), &["--help"], b"");
    let help = String::from_utf8(output.stdout).unwrap();
    for expected in ["Examples:", "Exit codes:", "TERN_SERVER", "group create", "tail"] {
        assert!(help.contains(expected), "{expected}");
    }
    assert_eq!(output.status.code(), Some(0));
    // What is a command's own comes before what all have.
    for (command, own) in [("read", "--upto"), ("history", "--limit"), ("send", "[TEXT]"), ("tail", "--once")]
    {
        let output = tern(home.path(), &[command, "--help"], b"");
        let help = String::from_utf8(output.stdout).unwrap();
        let (before, after) = help.split_once("Common options:").expect("a heading");
        assert!(before.contains(own) && !before.contains("--server "), "{help}");
        assert!(after.contains("--server "), "{help}");
        assert_eq!(help.contains("never logged in"), command == "send", "{help}");
    }
}
