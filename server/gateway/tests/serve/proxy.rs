//! Behind a TCP balancer that speaks the PROXY protocol.

use std::net::{IpAddr, SocketAddr};

use tern_client::Transport;
use tern_protocol::convert::encode_request;
use tern_protocol::ids::RequestId;
use tern_protocol::request::{Request, RequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::served::{Files, Served, heartbeat, read};
use crate::support::{PATIENCE, login_request};

/// For 203.0.113.7:4711.
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\x12\x67\x1d\x13";
/// The balancer looks whether the server is there.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn serve(networks: &str) -> (Files, Served) {
    let mut files = Files::new();
    // Of one address two at a time.
    files.config = format!(
        "proxy_protocol_from = {networks}\n{}\n[limits]\nbefore_login_per_address = 2\n",
        files.config.replace("shards = 2", "shards = 1")
    );
    let mut command = files.command(&["serve"]);
    command.env("TERN_LOG", "debug");
    let served = Served::start(command);
    (files, served)
}

/// Sends this, and then what every client does, until a heartbeat comes back.
async fn heartbeat_after(
    files: &Files,
    served: &Served,
    first: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(served.tcp[0]).await?;
    stream.set_nodelay(true)?;
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

/// What a balancer sends before the bytes of this client.
fn header(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let ports = [client.port().to_be_bytes(), 7443u16.to_be_bytes()].concat();
    let (family, addresses) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [10, 0, 0, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [7; 16]].concat()),
    };
    let rest = [addresses, ports].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, rest.len() as u8][..], &rest].concat()
}

#[tokio::test]
async fn a_limit_of_addresses_counts_whom_the_balancer_speaks_for() {
    let (files, served) = serve("[\"127.0.0.0/8\"]");
    let come = async |client: &str| heartbeat_after(&files, &served, &header(client)).await;
    let mut places = Vec::new();
    // More than one address may have, were it the balancer's that counts.
    for client in 1..=9 {
        for port in [1, 2] {
            places.push(come(&format!("203.0.113.{client}:{port}")).await.expect("another client"));
        }
    }
    for client in ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1"] {
        places.push(come(client).await.expect("another client"));
    }
    let crowded = ["203.0.113.7:3", "203.0.113.9:3", "[::ffff:203.0.113.8]:3", "[2001:db8::ffff:3]:1"];
    for client in crowded {
        assert!(come(client).await.is_err(), "{client} has two");
    }
    let refused = "tern_handshakes_total{shard=\"0\",transport=\"tcp\",result=\"refused\"}";
    assert_eq!(served.metric(refused).await, crowded.len() as u64);
    served.logged("refused: too many connections of this address have not logged in from=203.0.113.7:3");

    // A login makes room for the next one of the same client, and so does an end.
    let login = RequestBody::Login(login_request(&files.token("alice"), 1));
    let login = encode_request(&Request { id: RequestId(1), body: login });
    let mut alice = places.swap_remove(0);
    alice.write_all(&login).await.expect("sent");
    alice.read_u8().await.expect("answered");
    places.push(come("203.0.113.1:3").await.expect("there is room"));
    assert!(come("203.0.113.1:4").await.is_err(), "for one");
    drop(places);
    let again = async { while come("203.0.113.1:5").await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room");
}
