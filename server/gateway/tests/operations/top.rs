//! `ternd top`, once and on a terminal.

#[path = "../../../../clients/cli/tests/chat/terminal.rs"]
#[allow(dead_code, reason = "the tests of `tern chat` use the rest")]
mod terminal;

use std::net::SocketAddr;
use std::process::{Command, Output};

use terminal::Terminal;
use tern_client::Transport;

use crate::support::{Start, Ternd, port, user};

async fn top(admin: SocketAddr) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ternd"));
    command.args(["top", "--once", "--interval", "0.3", "--admin", &admin.to_string()]);
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("no panic").expect("ternd can be started")
}

#[tokio::test]
async fn one_frame_says_what_the_server_does() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    let mut bob = ternd.login(Transport::Quic, "bob", 1).await;
    let _other = ternd.login(Transport::Quic, "carol", 1).await;
    // While it looks, alice sends.
    let looking = top(ternd.admin);
    tokio::pin!(looking);
    let mut sent = 0;
    let output = loop {
        tokio::select! {
            output = &mut looking => break output,
            stored = alice.text(user("bob"), "hello") => {
                stored.expect("stored");
                bob.pushed().await;
                sent += 1;
            }
        }
    };
    let frame = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{frame}{}", String::from_utf8_lossy(&output.stderr));
    let line = |title: &str| -> Vec<&str> {
        let line = frame.lines().find(|line| line.starts_with(title));
        line.unwrap_or_else(|| panic!("no line {title}:\n{frame}"))[title.len()..]
            .split_whitespace()
            .collect()
    };
    assert!(
        frame.starts_with(&format!("ternd {} at {}: ready\n", env!("CARGO_PKG_VERSION"), ternd.admin)),
        "{frame}"
    );
    assert_eq!(line("connections")[..7], ["tcp", "1", "quic", "2", "logged", "in", "3"], "{frame}");
    // Alice is pushed what she sends, too.
    for (row, most) in [("sends stored", sent), ("pushes", 2 * sent)] {
        let words = line(row);
        let [rate, total] =
            [words[0], words[1]].map(|n| n.replace(',', "").parse::<f64>().expect("a number"));
        assert!(rate > 0.0 && (1.0..=f64::from(most)).contains(&total), "{frame}");
        assert!(words.contains(&"p99") && words.iter().any(|word| word.starts_with('<')), "{frame}");
    }
    assert_eq!(line("errors"), ["none"], "{frame}");
    assert_eq!(line("shard").last(), Some(&"mailbox"), "{frame}");
    assert!(frame.lines().any(|line| line.starts_with("1 ")), "both shards:\n{frame}");
    assert!(!frame.contains('\x1b') && frame.lines().all(|line| line.chars().count() <= 80), "{frame}");
}

#[tokio::test]
async fn where_nobody_answers_it_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let output = top(address).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(said.contains(&address.to_string()) && said.contains("--admin"), "{said}");
}

fn watch(admin: SocketAddr) -> Terminal {
    let admin = admin.to_string();
    let args = ["top", "--interval", "0.2", "--admin", &admin];
    Terminal::start("top", terminal::program(env!("CARGO_BIN_EXE_ternd")).args(args), (80, 24))
}

/// Waits until a screen of this many lines has the first ones and the last one in their places, and returns all.
fn fits(top: &Terminal, rows: u16) -> Vec<String> {
    let text = top.wait("a whole frame", |screen| {
        let text = terminal::text(screen);
        let lines: Vec<_> = text.lines().collect();
        let first = ["ternd ", "cpu ", "connections "];
        lines.len() == usize::from(rows)
            && lines.iter().zip(first).all(|(line, begin)| line.starts_with(begin))
            && lines.last().is_some_and(|line| line.starts_with("q, Esc or Ct"))
    });
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn it_fits_the_terminal_and_lives_through_a_restart() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let admin = port::lasting();
    let start = Start { admin: Some(admin), ..Start::default() };
    let ternd = Ternd::start(data.path(), &start);
    let mut alice = ternd.login(Transport::Tcp, "alice", 1).await;
    let top = watch(admin);
    top.sees("logged in 1");
    alice.text(user("bob"), "hello").await.expect("stored");
    top.sees_line("sends stored", " 1 ");
    let lines = fits(&top, 24);
    assert!(lines.iter().any(|line| line.starts_with("cuts    none")), "{lines:?}");
    for size in [(120, 40), (40, 10), (13, 5), (80, 24)] {
        top.resize(size.0, size.1);
        let lines = fits(&top, size.1);
        assert_eq!(lines[2].ends_with('>'), size.0 < 80, "{lines:?}");
    }

    ternd.kill();
    top.sees("no answer since ");
    let ternd = Ternd::start(data.path(), &start);
    top.sees(": ready");
    top.sees("logged in 0");
    drop(ternd);
    top.sees("no answer since ");
}

#[tokio::test]
async fn keys_and_signals_end_it_and_give_the_terminal_back() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let ends: [&dyn Fn(&Terminal); 4] =
        [&|top| top.keys("q"), &|top| top.keys(terminal::key::ESC), &|top| top.keys("\x03"), &|top| {
            top.signal(rustix::process::Signal::TERM)
        }];
    for end in ends {
        let mut top = watch(ternd.admin);
        top.sees(": ready");
        // Other keys begin with Escape.
        top.keys(terminal::key::UP);
        top.sees_line("errors", "none");
        assert!(!top.is_cooked(), "keys come one by one");
        end(&top);
        assert!(top.ended().success());
        assert!(top.is_cooked());
    }
}
