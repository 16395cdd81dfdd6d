//! A server with real sockets, one thread a shard, that echoes and says which shard it was; and clients for it.

#![allow(dead_code, reason = "each test binary uses a part")]

#[path = "../support/port.rs"]
mod port;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tern_protocol::limits;
use tern_protocol::model::WallMillis;
use tern_server::limits::{AddressLimit, Limits, Place};
use tern_server::tls::{self, CurrentIdentity, DevIdentity, Secrets};
use tern_server::transport::quic::{Connection, QuicAcceptor, QuicOptions, QuicStats};
use tern_server::transport::tcp::{Accepted, Acceptor, TcpOptions, TcpStats};
use tern_server::transport::{ShardCount, ShardSockets, Steering, bind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing here takes this long; what does has hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const QUESTION_BYTES: usize = 8;
/// Shard, the client's port as the server sees it, the question.
pub(crate) const ANSWER_BYTES: usize = 1 + 2 + QUESTION_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) shard: usize,
    pub(crate) port: u16,
}

#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) shards: usize,
    pub(crate) steering: Steering,
    pub(crate) address: SocketAddr,
    pub(crate) tcp: TcpOptions,
    pub(crate) quic: QuicOptions,
    pub(crate) limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 2,
            steering: Steering::Kernel,
            address: port::lasting(),
            tcp: TcpOptions::default(),
            quic: QuicOptions::default(),
            limits: Limits::OFF,
        }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    shards: Vec<Shard>,
}

struct Shard {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    tcp: Arc<TcpStats>,
    quic: Arc<QuicStats>,
}

pub(crate) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn now() -> WallMillis {
    WallMillis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

impl Server {
    pub(crate) fn start(directory: &Path, options: Options) -> Self {
        let dev = DevIdentity::load_or_create(directory, &[], now()).unwrap();
        let secrets = Secrets::load_or_create(directory).unwrap();
        let tls = tls::server_config(CurrentIdentity::new(dev.identity), &secrets).unwrap();
        let shards = ShardCount::new(options.shards).unwrap();
        let bound = bind(options.address, options.address, shards, options.steering).unwrap();
        assert_eq!(bound.steering, options.steering);
        assert_eq!(bound.tcp, bound.quic);
        let shards = bound.shards.into_iter();
        let shards = shards.map(|sockets| Shard::start(sockets, tls.clone(), secrets.clone(), options));
        Self { address: bound.tcp, ca_pem: dev.ca_pem, shards: shards.collect() }
    }

    /// As after a crash: nobody is told.
    pub(crate) fn stop(self) {
        for shard in self.shards {
            shard.stop.send(()).unwrap();
            shard.thread.join().unwrap();
        }
    }

    pub(crate) fn tcp(&self, counter: impl Fn(&TcpStats) -> u64) -> u64 {
        self.shards.iter().map(|shard| counter(&shard.tcp)).sum()
    }

    pub(crate) fn quic(&self, counter: impl Fn(&QuicStats) -> u64) -> u64 {
        self.shards.iter().map(|shard| counter(&shard.quic)).sum()
    }
}

impl Shard {
    fn start(
        sockets: ShardSockets,
        tls: Arc<rustls::ServerConfig>,
        secrets: Secrets,
        options: Options,
    ) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async move {
                let shard = sockets.shard.get() as u8;
                let addresses = AddressLimit::new(&options.limits);
                let mut tcp =
                    Acceptor::new(sockets.tcp, tls.clone(), options.tcp, addresses.clone()).unwrap();
                let quic = sockets.quic.listener(tls, &secrets, options.quic, addresses).unwrap();
                started.send((tcp.stats().clone(), quic.stats().clone())).unwrap();
                let mut quic = QuicAcceptor::new(quic);
                loop {
                    tokio::select! {
                        accepted = tcp.accept() => drop(tokio::spawn(echo_tcp(accepted, shard))),
                        accepted = quic.accept() => drop(spawn_local(echo_quic(accepted.unwrap(), shard))),
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        let (tcp, quic) = start.recv().unwrap();
        Self { stop, thread, tcp, quic }
    }
}

fn answer(shard: u8, from: SocketAddr, question: [u8; QUESTION_BYTES]) -> Vec<u8> {
    [&[shard][..], &from.port().to_be_bytes(), &question].concat()
}

/// A connection keeps its place until it ends: nobody logs in here.
async fn echo_tcp((mut stream, from, _place): Accepted, shard: u8) -> std::io::Result<()> {
    let mut question = [0; QUESTION_BYTES];
    while stream.read_exact(&mut question).await.is_ok() {
        stream.write_all(&answer(shard, from, question)).await?;
    }
    Ok(())
}

async fn echo_quic((connection, _place): (Connection, Place), shard: u8) {
    let connection = Rc::new(connection);
    while let Some((mut send, mut receive)) = connection.accept_bi().await {
        let connection = connection.clone();
        spawn_local(async move {
            let mut question = [0; QUESTION_BYTES];
            while receive.read_exact(&mut question).await.is_ok() {
                let answer = answer(shard, connection.remote_address(), question);
                if send.write_all(&answer).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn read_answer(answer: [u8; ANSWER_BYTES], question: [u8; QUESTION_BYTES]) -> Answer {
    assert_eq!(answer[3..], question, "the answer to another question");
    Answer { shard: usize::from(answer[0]), port: u16::from_be_bytes([answer[1], answer[2]]) }
}

/// Asks over a QUIC stream.
pub(crate) async fn ask(
    stream: &mut (quinn::SendStream, quinn::RecvStream),
    question: u64,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let question = question.to_be_bytes();
    let mut answer = [0; ANSWER_BYTES];
    stream.0.write_all(&question).await?;
    stream.1.read_exact(&mut answer).await?;
    Ok(read_answer(answer, question))
}

/// Asks over TCP.
pub(crate) async fn ask_tcp(stream: &mut TlsStream<TcpStream>, question: u64) -> std::io::Result<Answer> {
    let question = question.to_be_bytes();
    let mut answer = [0; ANSWER_BYTES];
    stream.write_all(&question).await?;
    stream.read_exact(&mut answer).await?;
    Ok(read_answer(answer, question))
}

/// Counts full handshakes: a resumed one shows no certificate.
#[derive(Debug)]
pub(crate) struct Counting {
    inner: Arc<WebPkiServerVerifier>,
    pub(crate) full: AtomicUsize,
}

impl Counting {
    pub(crate) fn full(&self) -> usize {
        self.full.load(Ordering::Relaxed)
    }
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.full.fetch_add(1, Ordering::Relaxed);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A client that trusts this authority and nobody else.
pub(crate) fn client_config(ca_pem: &str, alpn: &[&[u8]]) -> (ClientConfig, Arc<Counting>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let inner = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let counting = Arc::new(Counting { inner, full: AtomicUsize::new(0) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(counting.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    (config, counting)
}

pub(crate) fn tern_client(server: &Server) -> (ClientConfig, Arc<Counting>) {
    client_config(&server.ca_pem, &[limits::ALPN])
}

pub(crate) async fn connect_tcp(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config.clone()).connect("localhost".try_into().unwrap(), stream).await
}

pub(crate) fn quic_client(config: ClientConfig) -> quinn::Endpoint {
    let mut endpoint = quinn::Endpoint::client(any_port()).unwrap();
    let config = QuicClientConfig::try_from(config).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(config));
    // An answer that was on its way to the client's old address is lost, and the server learns the new one only from
    // what the client sends. One that waits and has nothing to send again has to speak up by itself.
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_millis(500)));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    endpoint
}

pub(crate) async fn connect_quic(
    endpoint: &quinn::Endpoint,
    address: SocketAddr,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    endpoint.connect(address, "localhost").unwrap().await
}

/// For what another thread does and tells nobody.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("took too long: {what}"),
    }
}
