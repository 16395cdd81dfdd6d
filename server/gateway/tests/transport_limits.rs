//! A process that has run out of file descriptors. Alone in its binary, because that hits every test of a process.

mod transport_support;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use transport_support::*;

#[tokio::test]
async fn too_many_open_files_are_survived() {
    let limit = Rlimit { current: Some(256), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options { shards: 1, ..Options::default() });
    let config = Arc::new(tern_client(&server).0);
    let mut before = connect_tcp(server.address, &config).await.unwrap();
    ask_tcp(&mut before, 1).await.unwrap();

    // The kernel completes this one, and then there is no descriptor left to accept it with.
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    files.pop();
    let waiting = TcpStream::connect(server.address).await.unwrap();
    eventually("it pauses", || server.tcp(|stats| stats.pauses.load(Relaxed)) >= 3).await;
    ask_tcp(&mut before, 2).await.unwrap();

    drop(files);
    let connector = tokio_rustls::TlsConnector::from(config);
    let handshake = connector.connect("localhost".try_into().unwrap(), waiting);
    let mut waiting = in_time("it goes on", handshake).await.unwrap();
    ask_tcp(&mut waiting, 3).await.unwrap();
    assert!(server.tcp(|stats| stats.pauses.load(Relaxed)) < 1000, "it pauses, and does not spin");
}
