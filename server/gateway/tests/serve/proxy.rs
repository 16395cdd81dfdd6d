//! Behind a TCP balancer that speaks the PROXY protocol.

use tern_client::Transport;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::served::{Files, Served, heartbeat, read};

/// For 203.0.113.7:4711.
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\x12\x67\x1d\x13";
/// The balancer looks whether the server is there.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn serve(networks: &str) -> (Files, Served) {
    let mut files = Files::new();
    files.config = format!("proxy_protocol_from = {networks}\n{}", files.config);
    let mut command = files.command(&["serve"]);
    command.env("TERN_LOG", "debug");
    let served = Served::start(command);
    (files, served)
}

/// Sends this, and then what every client does, until a heartbeat comes back.
async fn heartbeat_after(files: &Files, served: &Served, first: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(served.tcp[0]).await?;
    stream.write_all(first).await?;
    heartbeat(stream, &read(&files.path("first/ca.pem"))).await
}

#[tokio::test]
async fn a_balancer_says_for_whom_it_connects() {
    let (files, served) = serve("[\"192.0.2.0/24\", \"127.0.0.0/8\"]");
    heartbeat_after(&files, &served, HEADER).await.expect("served");
    served.logged("from=203.0.113.7:4711");
    heartbeat_after(&files, &served, LOCAL).await.expect("served");
    served.logged("from=127.0.0.1:");
    assert!(heartbeat_after(&files, &served, b"").await.is_err(), "it has to say so");
    served.logged("no PROXY protocol version 2");
    // QUIC has nothing of the kind.
    let connector = served.connector(&read(&files.path("first/ca.pem")));
    served.login(&connector, Transport::Quic, &files.token("alice"), 1).await.is_served().await;
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let (files, served) = serve("[\"192.0.2.0/24\"]");
    assert!(heartbeat_after(&files, &served, HEADER).await.is_err());
    heartbeat_after(&files, &served, b"").await.expect("served");
}
