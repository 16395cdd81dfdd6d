//! `ternd top`.

use std::net::SocketAddr;
use std::process::{Command, Output};

use tern_client::Transport;

use crate::support::{Start, Ternd, user};

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
