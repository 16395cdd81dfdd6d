use std::io::{Read, Write};
use std::sync::LazyLock;

use futures_util::FutureExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore};
use tern_protocol::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::*;
use crate::clock;
use crate::tls::{CurrentIdentity, DevIdentity, Secrets, server_config};

static CONFIGS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let dev = DevIdentity::load_or_create(dir.path(), &[], clock::wall()).unwrap();
    let server =
        server_config(CurrentIdentity::new(dev.identity), &Secrets::load_or_create(dir.path()).unwrap())
            .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(dev.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![limits::ALPN.to_vec()];
    (server, client.into())
});

type Client = tokio_rustls::client::TlsStream<DuplexStream>;
type Server = Box<TlsStream<DuplexStream>>;

fn accept(socket: DuplexStream) -> impl Future<Output = io::Result<Server>> {
    TlsStream::accept(socket, CONFIGS.0.clone())
}

/// A connection whose sockets hold `capacity` bytes each way.
async fn connect(capacity: usize) -> (Client, Server) {
    let (near, far) = duplex(capacity);
    let client = TlsConnector::from(CONFIGS.1.clone()).connect("localhost".try_into().unwrap(), near);
    let (client, server) = tokio::join!(client, accept(far));
    (client.unwrap(), server.unwrap())
}

/// A client whose bytes a test can see and change, with a server behind a socket that holds them all.
struct ByHand {
    tls: ClientConnection,
    socket: DuplexStream,
}

impl ByHand {
    fn new() -> (Self, impl Future<Output = io::Result<Server>>) {
        let (socket, far) = duplex(1 << 20);
        let tls = ClientConnection::new(CONFIGS.1.clone(), "localhost".try_into().unwrap()).unwrap();
        (Self { tls, socket }, accept(far))
    }

    async fn connected() -> (Self, Server) {
        let (mut client, server) = Self::new();
        let (server, ()) = tokio::join!(server, async {
            while client.tls.is_handshaking() {
                client.send().await;
                client.receive().await;
            }
            client.send().await;
        });
        (client, server.unwrap())
    }

    /// What TLS has to send.
    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    async fn send(&mut self) {
        let bytes = self.bytes();
        self.socket.write_all(&bytes).await.unwrap();
    }

    /// Takes what has come until there is a result: an error, the end, or no more handshake.
    async fn receive(&mut self) -> Option<rustls::Error> {
        let mut buffer = [0; 4096];
        let n = self.socket.read(&mut buffer).await.unwrap();
        let mut bytes = &buffer[..n];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            if let Err(error) = self.tls.process_new_packets() {
                return Some(error);
            }
        }
        None
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

#[tokio::test]
async fn bytes_arrive_whole_in_whatever_pieces_the_socket_takes_them() {
    for (capacity, length) in [(1, 3_000), (7, 20_000), (1000, 300_000), (1 << 20, 300_000)] {
        let (mut client, mut server) = connect(capacity).await;
        assert_eq!(server.alpn_protocol(), Some(limits::ALPN));
        let data = pattern(length);
        // Both write before they read, beside each other, and both are often out of room.
        let both = async |stream: &mut dyn Stream, data: &[u8]| {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let mut received = vec![0; data.len()];
            let write = async {
                for piece in data.chunks(70_001) {
                    writer.write_all(piece).await.unwrap();
                }
                writer.flush().await.unwrap();
            };
            tokio::join!(write, async { reader.read_exact(&mut received).await.unwrap() });
            received
        };
        let (at_client, at_server) = tokio::join!(both(&mut client, &data), both(&mut server, &data));
        assert!(at_client == data && at_server == data, "capacity {capacity}");
        assert!(server.is_at_rest());
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl<S> TlsStream<S> {
    fn is_at_rest(&self) -> bool {
        self.incoming.capacity() == 0 && self.plain.capacity() == 0 && self.outgoing.capacity() == 0
    }
}

#[tokio::test]
async fn a_reader_with_little_room_loses_nothing() {
    let (mut client, mut server) = connect(1 << 20).await;
    let data = pattern(5_000);
    client.write_all(&data).await.unwrap();
    client.flush().await.unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 64];
    for i in 0.. {
        let n = server.read(&mut buffer[..i % 64]).await.unwrap();
        received.extend_from_slice(&buffer[..n]);
        if received.len() == data.len() {
            break;
        }
    }
    assert_eq!(received, data);
    assert_eq!(server.plain.capacity(), 0);
}

#[tokio::test]
async fn data_may_come_with_the_end_of_the_handshake() {
    let (mut client, server) = ByHand::new();
    let talk = async {
        client.send().await;
        while client.tls.is_handshaking() {
            client.receive().await;
        }
        client.tls.writer().write_all(b"login").unwrap();
        client.send().await;
    };
    let (server, ()) = tokio::join!(server, talk);
    let mut received = [0; 5];
    server.unwrap().read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"login");
}

#[tokio::test]
async fn the_ticket_shares_a_write_with_the_first_answer() {
    let (mut client, mut server) = ByHand::connected().await;
    assert_eq!(client.tls.tls13_tickets_received(), 0);
    server.write_all(b"answer").await.unwrap();
    // One read takes both.
    assert_eq!(client.receive().await, None);
    assert_eq!(client.tls.tls13_tickets_received(), 1);
    let mut answer = [0; 6];
    client.tls.reader().read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn a_client_that_has_closed_is_still_answered() {
    let (mut client, mut server) = connect(1 << 20).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut words = Vec::new();
    server.read_to_end(&mut words).await.unwrap();
    assert_eq!(words, b"last words");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "it stays the end");
    server.write_all(b"goodbye").await.unwrap();
    server.shutdown().await.unwrap();
    words.clear();
    client.read_to_end(&mut words).await.unwrap();
    assert_eq!(words, b"goodbye");
}

#[tokio::test]
async fn after_our_close_the_client_is_still_read() {
    let (mut client, mut server) = connect(1 << 20).await;
    server.shutdown().await.unwrap();
    let refused = server.write(b"more").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "a proper end");
    let mut words = Vec::new();
    let (read, ()) = tokio::join!(server.read_to_end(&mut words), async {
        client.write_all(b"what was on its way").await.unwrap();
        client.shutdown().await.unwrap();
    });
    read.unwrap();
    assert_eq!(words, b"what was on its way");
}

#[tokio::test]
async fn what_comes_behind_the_clients_close_is_nobodys() {
    let (mut client, mut server) = ByHand::connected().await;
    client.tls.send_close_notify();
    let mut bytes = client.bytes();
    bytes.extend_from_slice(&[0x55; 40_000]);
    client.socket.write_all(&bytes).await.unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_cut_is_told_from_a_close() {
    // Between records, and within one.
    for part in [0, 1, 30] {
        let (mut client, mut server) = ByHand::connected().await;
        client.tls.writer().write_all(&[7; 100]).unwrap();
        let bytes = client.bytes();
        client.socket.write_all(&bytes[..part]).await.unwrap();
        drop(client);
        for _ in 0..2 {
            let error = server.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{part} bytes of a record");
        }
    }
}

#[tokio::test]
async fn keys_are_updated_at_the_clients_wish() {
    let (mut client, mut server) = connect(1 << 20).await;
    for round in 0..5u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round]).await.unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).await.unwrap();
        server.write_all(&byte).await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [round]);
    }
    assert!(server.is_at_rest());
}

#[tokio::test]
async fn what_is_no_tls_gets_an_alert() {
    for (bytes, alert) in [
        (&b"GET / HTTP/1.1\r\nHost: tern\r\n\r\n"[..], AlertDescription::DecodeError),
        // A handshake record longer than any may be.
        (&[0x16, 3, 1, 0xff, 0xff], AlertDescription::DecodeError),
        // Data before the handshake.
        (&[0x17, 3, 3, 0, 1, 0], AlertDescription::UnexpectedMessage),
    ] {
        let (mut client, server) = ByHand::new();
        client.socket.write_all(bytes).await.unwrap();
        let error = server.await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut answer = Vec::new();
        client.socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, u8::from(alert)], "a fatal alert and the end; {error}");
    }
}

#[tokio::test]
async fn garbage_after_the_handshake_gets_an_alert_and_ends_it() {
    for (garbage, alert) in [
        (
            &[0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20][..],
            20u8,
        ),
        (&[0x17, 3, 3, 0xff, 0xff], 50),
        (&[0x99; 40], 50),
    ] {
        let (mut client, mut server) = ByHand::connected().await;
        client.tls.writer().write_all(b"fine").unwrap();
        client.send().await;
        client.socket.write_all(garbage).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 4, "what came before counts");
        for _ in 0..3 {
            let error = server.read(&mut buffer).await.unwrap_err();
            assert!(tls_error(&error).is_some(), "{error}");
        }
        assert!(server.write(b"answer").await.is_err());
        assert!(server.shutdown().await.is_ok());
        let told = client.receive().await;
        assert_eq!(told, Some(rustls::Error::AlertReceived(AlertDescription::from(alert))));
    }
}

#[tokio::test]
async fn a_message_that_never_becomes_whole_is_not_collected_for_ever() {
    let (mut client, server) = ByHand::new();
    // A hello of 60,000 bytes, in records of 1,000.
    let mut bytes = vec![0x16, 3, 1, 3, 0xe8, 1, 0, 0xea, 0x60];
    bytes.resize(5 + 1000, 0);
    while bytes.len() < 40 * 1005 {
        bytes.extend_from_slice(&[0x16, 3, 1, 3, 0xe8]);
        bytes.extend_from_slice(&[0; 1000]);
    }
    client.socket.write_all(&bytes).await.unwrap();
    let error = server.await.err().unwrap();
    assert_eq!(tls_error(&error), Some(&rustls::Error::PeerSentOversizedRecord));
}

/// Whatever is wrong with a handshake, it ends: well or with an error, and no task waits for what has come.
#[tokio::test]
async fn damaged_handshakes_end() {
    let (mut client, _) = ByHand::new();
    let hello = client.bytes();
    for at in 0..hello.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = hello.clone();
            damaged[at] ^= change;
            let (near, far) = duplex(1 << 20);
            let (reader, mut writer) = tokio::io::split(near);
            writer.write_all(&damaged).await.unwrap();
            writer.shutdown().await.unwrap();
            assert!(accept(far).await.is_err(), "byte {at} changed by {change:#x}, and then the end");
            drop(reader);
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_costs_two_records() {
    let (_client, mut server) = connect(1024).await;
    let data = vec![0; 10 * WRITE_BYTES];
    let mut taken = 0;
    while let Some(written) = server.write(&data).now_or_never() {
        taken += written.unwrap();
    }
    assert_eq!(taken, WRITE_BYTES);
    assert!(server.outgoing.len() <= WRITE_BUFFER_BYTES);
}
