use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex as StdMutex, PoisonError};

use futures_util::FutureExt;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tern_proxy::Proxy;
use tern_proxy::plan::FaultPlan;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::tls;

#[path = "../../tests/support/port.rs"]
mod port;

/// Nothing here takes this long; what does has hung.
const PATIENCE: Duration = Duration::from_secs(60);
const ANY_PORT: &str = "127.0.0.1:0";
/// An address that is not the nodes'.
const STRANGER: &str = "127.0.0.2:0";

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it has hung")
}

fn any_port() -> SocketAddr {
    ANY_PORT.parse().expect("an address")
}

/// Files of authorities and nodes.
struct Certificates(TempDir);

/// A certificate chain and its key, PEM, in files.
#[derive(Clone)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    /// With the authorities `cluster` and `other`.
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The authority of this name, made when there is none yet.
    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let (certificate, key_file) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = match fs::read_to_string(&key_file) {
            Ok(pem) => KeyPair::from_pem(&pem).expect("a key"),
            Err(_) => {
                let key = KeyPair::generate().expect("a key");
                fs::write(certificate, params.self_signed(&key).expect("signed").pem()).expect("writable");
                fs::write(key_file, key.serialize_pem()).expect("writable");
                key
            }
        };
        Issuer::new(params, key)
    }

    /// A certificate of this authority: a node's, but for the change.
    fn pair(&self, authority: &str, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new([NODE_NAME.to_owned()]).expect("a name");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.authority(authority)).expect("signed");
        let pair =
            Pair { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        fs::write(&pair.certificate, signed.pem()).expect("writable");
        fs::write(&pair.key, key.serialize_pem()).expect("writable");
        pair
    }

    fn load(&self, ca: &str, pair: &Pair) -> Result<LinkIdentity, tls::TlsError> {
        LinkIdentity::load(&self.path(ca), &pair.certificate, &pair.key)
    }

    /// A good node.
    fn node(&self, name: &str) -> LinkIdentity {
        self.load("cluster.pem", &self.pair("cluster", name, |_| {})).expect("good")
    }

    fn endpoint(&self, name: &str) -> LinkEndpoint {
        LinkEndpoint::bind(any_port(), &self.node(name)).expect("a free port")
    }

    /// Two nodes and a link from the first to the second.
    async fn linked(&self) -> (LinkEndpoint, LinkStream, LinkStream, LinkEndpoint) {
        let (one, two) = (self.endpoint("one"), self.endpoint("two"));
        let (dialled, accepted) =
            soon(async { tokio::join!(one.connect(two.address()), two.accept()) }).await;
        (one, dialled.expect("accepted"), accepted.expect("a link"), two)
    }
}

impl Pair {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(&self.certificate).expect("a file");
        (
            chain.collect::<Result<_, _>>().expect("PEM"),
            PrivateKeyDer::from_pem_file(&self.key).expect("a key"),
        )
    }
}

/// Bytes that are not all the same.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| (seed.wrapping_mul(31) + i * i) as u8).collect()
}

/// Lengths, each before its bytes.
async fn send_frames(link: &mut (impl AsyncWrite + Unpin), frames: &[Vec<u8>]) {
    for frame in frames {
        link.write_u32(frame.len() as u32).await.expect("the link is up");
        link.write_all(frame).await.expect("the link is up");
    }
}

async fn read_frames(link: &mut (impl AsyncRead + Unpin), frames: &[Vec<u8>]) {
    for (i, frame) in frames.iter().enumerate() {
        let mut read = vec![0; link.read_u32().await.expect("the link is up") as usize];
        link.read_exact(&mut read).await.expect("the link is up");
        assert!(read == *frame, "frame {i} of {} bytes has changed", frame.len());
    }
}

#[tokio::test]
async fn frames_of_all_sizes_pass_both_ways_at_once() {
    fn is_a_stream<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(_: &T) {}

    let (one, dialled, accepted, two) = Certificates::new().linked().await;
    is_a_stream(&dialled);
    assert_eq!((dialled.peer(), accepted.peer()), (two.address(), one.address()));
    let small = (0..5000).map(|i| bytes(i, 128));
    let large = (0..8).map(|i| bytes(i, 1 << 20));
    let frames: Vec<_> = small.chain(large).chain([bytes(7, 0), bytes(8, 1)]).collect();
    let (mut read_one, mut write_one) = tokio::io::split(dialled);
    let (mut read_two, mut write_two) = tokio::io::split(accepted);
    soon(async {
        tokio::join!(
            send_frames(&mut write_one, &frames),
            read_frames(&mut read_two, &frames),
            send_frames(&mut write_two, &frames),
            read_frames(&mut read_one, &frames),
        )
    })
    .await;
}

#[tokio::test]
async fn one_end_may_stop_writing_and_go_on_reading() {
    let (_one, mut dialled, mut accepted, _two) = Certificates::new().linked().await;
    soon(async {
        dialled.write_all(b"question").await.expect("up");
        dialled.shutdown().await.expect("it has arrived");
        dialled.shutdown().await.expect("again");
        assert!(dialled.write_all(b"more").await.is_err());
        let mut read = Vec::new();
        accepted.read_to_end(&mut read).await.expect("an end");
        assert_eq!(read, b"question");
        // More than may be on its way.
        let answer = bytes(3, 2 * WINDOW_BYTES as usize);
        let write = async {
            accepted.write_all(&answer).await.expect("up");
            accepted.shutdown().await.expect("it has arrived");
        };
        let mut read = Vec::new();
        let (_, ended) = tokio::join!(write, dialled.read_to_end(&mut read));
        ended.expect("an end");
        assert!(read == answer);
    })
    .await;
}

#[tokio::test]
async fn what_was_shut_down_arrives_although_the_link_is_dropped() {
    let (_one, mut dialled, mut accepted, _two) = Certificates::new().linked().await;
    soon(async {
        let written = bytes(5, 1 << 20);
        dialled.write_all(&written).await.expect("up");
        dialled.shutdown().await.expect("it has arrived");
        drop(dialled);
        // It has heard that the link is closed before it reads.
        accepted.connection.closed().await;
        let mut read = Vec::new();
        accepted.read_to_end(&mut read).await.expect("an end");
        assert!(read == written);
    })
    .await;
}

#[tokio::test]
async fn a_dropped_link_ends_at_both_ends() {
    let (one, dialled, mut accepted, two) = Certificates::new().linked().await;
    soon(async {
        drop(dialled);
        let error = accepted.read_u8().await.expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
        assert!(error.to_string().contains(&one.address().to_string()), "{error}");
        let error = accepted.write_all(b"x").await.expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
        // The endpoints live on.
        let (dialled, accepted) = tokio::join!(two.connect(one.address()), one.accept());
        let (mut dialled, accepted) = (dialled.expect("accepted"), accepted.expect("a link"));
        drop(accepted);
        assert_eq!(dialled.read_u8().await.expect_err("closed").kind(), io::ErrorKind::ConnectionAborted);
    })
    .await;
}

#[tokio::test]
async fn a_closed_endpoint_ends_its_links_and_makes_no_more() {
    let certificates = Certificates::new();
    let (one, identity) = (certificates.endpoint("one"), certificates.node("two"));
    let two = LinkEndpoint::bind(port::lasting(), &identity).expect("a free port");
    soon(async {
        let (dialled, accepted) = tokio::join!(one.connect(two.address()), two.accept());
        let (mut dialled, mut accepted) = (dialled.expect("accepted"), accepted.expect("a link"));
        // One that nobody has taken up.
        let waiting = one.connect(two.address()).await.expect("accepted");
        tokio::join!(two.close(), async { assert!(two.accept().await.is_none()) });
        assert!(two.accept().await.is_none());
        let error = dialled.read_u8().await.expect_err("closed");
        assert!(error.to_string().contains("the node stops"), "{error}");
        assert!(accepted.read_u8().await.is_err());
        let how = waiting.connection.closed().await;
        assert!(matches!(how, quinn::ConnectionError::ApplicationClosed(_)), "{how}");
        assert_eq!(two.connect(one.address()).await.expect_err("closed"), LinkError::Over);
        let address = two.address();
        drop((two, accepted));
        // The address is free as soon as quinn's tasks have seen that nobody needs it.
        while LinkEndpoint::bind(address, &identity).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What is in the log of this thread as long as it lives.
#[derive(Clone, Default)]
struct Log(Arc<StdMutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (log, guard)
    }

    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// Waits for a line that has all of this in it.
    async fn logged(&self, parts: &[&str]) -> String {
        let found = async {
            loop {
                let is_it = |line: &String| parts.iter().all(|part| line.contains(part));
                match self.lines().into_iter().find(is_it) {
                    Some(line) => return line,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(line) => line,
            Err(_) => panic!("{parts:?} is not in the log: {:#?}", self.lines()),
        }
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A QUIC client that is no [`LinkEndpoint`].
fn dialler(certificates: &Certificates, own: Option<&Pair>, alpn: &[u8]) -> Endpoint {
    let ca = fs::read(certificates.path("cluster.pem")).expect("made");
    let roots = tls::authorities(&certificates.path("cluster.pem"), &ca).expect("good");
    let config = rustls::ClientConfig::builder_with_provider(tls::crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match own.map(Pair::der) {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).expect("a good pair"),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicClientConfig::try_from(config).expect("TLS 1.3");
    let mut endpoint = Endpoint::client(any_port()).expect("a free port");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

/// A QUIC server that is no [`LinkEndpoint`], and asks nobody who they are.
fn listener(own: &Pair, alpn: &[u8]) -> Endpoint {
    let (chain, key) = own.der();
    let mut config = rustls::ServerConfig::builder_with_provider(tls::crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a good pair");
    config.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicServerConfig::try_from(config).expect("TLS 1.3");
    Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), any_port()).expect("a free port")
}

/// Certificates that no node accepts, and what is in the reason at a client's and at a server's end.
fn bad_pairs(certificates: &Certificates) -> Vec<(&'static str, Pair, [&'static str; 2])> {
    let ago = |days| OffsetDateTime::now_utc() - time::Duration::days(days);
    let pair = |authority: &str, name: &'static str, change: &dyn Fn(&mut CertificateParams), why| {
        (name, certificates.pair(authority, name, change), why)
    };
    let only = |usage: ExtendedKeyUsagePurpose| {
        move |params: &mut CertificateParams| params.extended_key_usages = vec![usage.clone()]
    };
    let named = |name: &'static str| {
        move |params: &mut CertificateParams| {
            *params = CertificateParams::new([name.to_owned()]).expect("a name");
        }
    };
    let expired = move |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (ago(9), ago(1));
    };
    let early = move |params: &mut CertificateParams| params.not_before = ago(-1);
    vec![
        pair("other", "of-another-authority", &|_| {}, ["UnknownIssuer"; 2]),
        pair("public", "of-the-public-web", &named("chat.example.com"), ["UnknownIssuer"; 2]),
        pair("cluster", "expired", &expired, ["certificate expired"; 2]),
        pair("cluster", "early", &early, ["not valid yet"; 2]),
        pair("cluster", "for-another-name", &named("billing.example.com"), ["not valid for name"; 2]),
        pair("cluster", "client", &only(ExtendedKeyUsagePurpose::ClientAuth), ["extended key usage", ""]),
        pair("cluster", "server", &only(ExtendedKeyUsagePurpose::ServerAuth), ["", "extended key usage"]),
    ]
}

#[tokio::test]
async fn who_dials_without_a_good_certificate_is_refused() {
    let certificates = Certificates::new();
    certificates.authority("cluster");
    let mut strangers: Vec<_> = bad_pairs(&certificates)
        .into_iter()
        .filter(|(.., [_, here])| !here.is_empty())
        .map(|(name, pair, [_, here])| (name, Some(pair), ALPN, here))
        .collect();
    let good = certificates.pair("cluster", "good", |_| {});
    strangers.push(("none", None, ALPN, "no certificates"));
    strangers.push(("another protocol", Some(good.clone()), b"tern/1", "known protocol"));
    for (name, pair, alpn, why) in strangers {
        // Each on its own: of many at once not all are told at `warn`.
        let (log, _guard) = Log::start();
        let node = certificates.endpoint("node");
        let stranger = dialler(&certificates, pair.as_ref(), alpn);
        let refused = soon(async {
            let connection = stranger.connect(node.address(), NODE_NAME).expect("possible").await?;
            connection.accept_bi().await.map(drop)
        });
        let refused = refused.await.expect_err(name).to_string();
        assert!(refused.starts_with("aborted by peer") && refused.contains(why), "{name}: {refused}");
        let from = stranger.local_addr().expect("bound").to_string();
        log.logged(&["WARN", "no link", &format!("refused {from}"), why, "cluster.ca"]).await;
        assert!(node.accept().now_or_never().is_none(), "{name}");
        // It keeps nobody else out, be it the same program.
        let good = dialler(&certificates, Some(&good), ALPN);
        let (linked, accepted) = soon(async {
            let connection = good.connect(node.address(), NODE_NAME).expect("possible").await;
            tokio::join!(async { connection?.accept_bi().await }, node.accept())
        })
        .await;
        assert!(linked.is_ok() && accepted.is_some(), "{name}");
    }
}

#[tokio::test]
async fn who_listens_without_a_good_certificate_is_refused() {
    let certificates = Certificates::new();
    let node = certificates.endpoint("node");
    let good = certificates.pair("cluster", "good", |_| {});
    let bad = bad_pairs(&certificates).into_iter().filter(|(.., [here, _])| !here.is_empty());
    let bad = bad.map(|(name, pair, [here, _])| (name, pair, ALPN, here));
    for (name, pair, alpn, why) in bad.chain([("another protocol", good, &b"tern/1"[..], "protocol")]) {
        let stranger = listener(&pair, alpn);
        let address = stranger.local_addr().expect("bound");
        let (dialled, accepted) = soon(async {
            let accepted = async { stranger.accept().await.expect("not closed").await };
            tokio::join!(node.connect(address), accepted)
        })
        .await;
        let error = dialled.expect_err(name);
        let told = error.to_string();
        assert!(told.contains(why) && told.contains(&address.to_string()), "{name}: {told}");
        let is_right = match error {
            LinkError::Refused { .. } => name != "another protocol",
            LinkError::RefusedBy { .. } => name == "another protocol",
            _ => false,
        };
        assert!(is_right && accepted.is_err(), "{name}: {told}");
    }
}

/// An authority takes over from another, and one node does not know it yet.
#[tokio::test]
async fn a_node_that_is_refused_knows_why() {
    let certificates = Certificates::new();
    let old = certificates.endpoint("old");
    let pair = certificates.pair("next", "new", |_| {});
    let both = [fs::read(certificates.path("cluster.pem")), fs::read(certificates.path("next.pem"))];
    fs::write(certificates.path("both.pem"), both.map(|pem| pem.expect("made")).concat()).expect("writable");
    let new = LinkEndpoint::bind(any_port(), &certificates.load("both.pem", &pair).expect("good"));
    let new = new.expect("a free port");

    let (log, _guard) = Log::start();
    let error = soon(new.connect(old.address())).await.expect_err("refused");
    assert!(matches!(error, LinkError::RefusedBy { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("UnknownIssuer") && told.contains("`cluster.ca`"), "{told}");
    assert!(old.accept().now_or_never().is_none());

    // The other way round both know as well.
    let error = soon(old.connect(new.address())).await.expect_err("refused");
    assert!(matches!(error, LinkError::Refused { .. }), "{error}");
    log.logged(&["WARN", &format!("{} refuses this node", old.address()), "UnknownIssuer"]).await;
}

#[test]
fn files_that_are_of_no_use_are_refused_with_what_helps() {
    let certificates = Certificates::new();
    let good = certificates.pair("cluster", "good", |_| {});
    assert!(certificates.load("cluster.pem", &good).is_ok());
    let check = |ca: &str, pair: &Pair, expected: &[&str]| {
        let error = certificates.load(ca, pair).expect_err("refused").to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{expected:?}: {error}");
    };
    let missing = Pair { key: certificates.path("missing.key"), ..good.clone() };
    check("cluster.pem", &missing, &["missing.key", "no such file"]);
    let other = Pair { key: certificates.path("cluster.key"), ..good.clone() };
    check("cluster.pem", &other, &["cluster.key is not the key of", "good.pem"]);
    check("good.key", &good, &["good.key has no certificate of an authority"]);
    let swapped = Pair { certificate: good.key.clone(), ..good.clone() };
    check("cluster.pem", &swapped, &["good.key has no certificate in it"]);
    let reasons = [
        ("of-another-authority", "is not signed by an authority in"),
        ("of-the-public-web", "is not signed by an authority in"),
        ("expired", "expired.pem has expired"),
        ("early", "clock"),
        ("for-another-name", "is not for the name tern-node"),
        ("client", "serverAuth"),
        ("server", "clientAuth"),
    ];
    let bad = bad_pairs(&certificates);
    assert_eq!(bad.len(), reasons.len());
    for ((name, pair, _), (same, reason)) in bad.iter().zip(reasons) {
        assert_eq!(*name, same);
        check("cluster.pem", pair, &[&format!("{name}.pem"), reason, "spec/operations.md"]);
    }
    let authority = certificates.pair("cluster", "authority", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    check("cluster.pem", &authority, &["authority.pem is none that another node accepts", "Ca"]);
}

/// A node that no longer answers, and says nothing: of those who read and those who write, at both ends.
#[tokio::test]
async fn a_link_that_died_without_a_word_is_found_dead() {
    let certificates = Certificates::new();
    let (one, two) = (certificates.endpoint("one"), certificates.endpoint("two"));
    let plan =
        FaultPlan { silent_death_every_ms: Some(3_600_000), first_event_ms: Some(1), ..FaultPlan::default() };
    let proxy = Proxy::start(two.address(), plan, 1).expect("a proxy");
    soon(async {
        let (dialled, accepted) = tokio::join!(one.connect(proxy.address), two.accept());
        let (mut dialled, mut accepted) = (dialled.expect("accepted"), accepted.expect("a link"));
        dialled.write_all(b"x").await.expect("up");
        assert_eq!(accepted.read_u8().await.expect("up"), b'x');

        proxy.begin_events();
        let (mut reads, mut writes) = tokio::io::split(dialled);
        let full = bytes(1, 1 << 20);
        let write = async {
            loop {
                // Until nothing more may be on its way; and then until the link is found dead.
                if let Err(error) = writes.write_all(&full).await {
                    return error;
                }
            }
        };
        let (there, here, written) = tokio::join!(accepted.read_u8(), reads.read_u8(), write);
        for error in [there.expect_err("dead"), here.expect_err("dead"), written] {
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            assert!(error.to_string().contains("does not answer"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_is_waited_for_without_end_and_a_quiet_link_lives() {
    const { assert!(HANDSHAKE_TIMEOUT.as_millis() > IDLE_TIMEOUT.as_millis()) };

    let certificates = Certificates::new();
    let (node, mut dialled_before, mut accepted_before, _other) = certificates.linked().await;
    let nobody = UdpSocket::bind(ANY_PORT).await.expect("a free port");
    let address = nobody.local_addr().expect("bound");
    let (dialled, ..) = soon(async {
        let mut first = [0; 2048];
        tokio::join!(node.connect(address), nobody.recv_from(&mut first))
    })
    .await;
    assert_eq!(dialled.expect_err("nobody is there"), LinkError::Silent(address));
    soon(async {
        dialled_before.write_u8(7).await.expect("up");
        assert_eq!(accepted_before.read_u8().await.expect("up"), 7);
    })
    .await;
    for address in ["127.0.0.1:0", "[::1]:1"] {
        let address: SocketAddr = address.parse().expect("an address");
        let error = node.connect(address).await.expect_err("not possible");
        assert!(matches!(error, LinkError::Address { address: at, .. } if at == address), "{error}");
    }
}

/// As after `kill -9`: the other end hears of it from the new process, not by waiting.
#[test]
fn a_node_that_was_restarted_says_so() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let certificates = Certificates::new();
    let identity = certificates.node("two");
    let (before, here) = (runtime(), runtime());
    let one = here.block_on(async { certificates.endpoint("one") });
    let two = before.block_on(async { LinkEndpoint::bind(port::lasting(), &identity).expect("a free port") });
    let address = two.address();
    let accepting = std::thread::spawn(move || {
        let accepted = before.block_on(soon(two.accept())).expect("a link");
        // Nothing of it runs again, so it has no chance to say anything.
        before.shutdown_background();
        (two, accepted)
    });
    let mut dialled = here.block_on(soon(one.connect(address))).expect("accepted");
    // Without what would send anything, this only frees the address.
    drop(accepting.join().expect("it does not panic"));
    let error = here.block_on(soon(async {
        // Where it was, as far as its system lets go of the address.
        let again = loop {
            match LinkEndpoint::bind(address, &identity) {
                Ok(again) => break again,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let error = dialled.read_u8().await.expect_err("it knows nothing of this");
        again.close().await;
        error
    }));
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

/// Passes on all that goes to the server and, of its answers, only the demand to prove an address.
async fn one_way(server: SocketAddr, retries: Arc<AtomicUsize>) -> SocketAddr {
    const RETRY: u8 = 0xf0;
    let inside = UdpSocket::bind(ANY_PORT).await.expect("a free port");
    let outside = UdpSocket::bind(STRANGER).await.expect("a free port");
    let address = inside.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut there, mut here) = ([0; 2048], [0; 2048]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = inside.recv_from(&mut there) => {
                    client = Some(from);
                    let _ = outside.send_to(&there[..length], server).await;
                }
                Ok((length, _)) = outside.recv_from(&mut here) => {
                    if let Some(client) = client && here[0] & 0xf0 == RETRY {
                        retries.fetch_add(1, Ordering::Relaxed);
                        let _ = inside.send_to(&here[..length], client).await;
                    }
                }
            }
        }
    });
    address
}

/// More than there may be under way, from an address that has proven itself.
#[tokio::test]
async fn handshakes_that_are_never_ended_keep_no_node_out() {
    let certificates = Certificates::new();
    let (one, two) = (certificates.endpoint("one"), certificates.endpoint("two"));
    let retries = Arc::new(AtomicUsize::new(0));
    let front = one_way(two.address(), retries.clone()).await;
    let flood = dialler(&certificates, None, ALPN);
    let mut handshakes = Vec::new();
    soon(async {
        for _ in 0..2 * HANDSHAKES_MAX {
            handshakes.push(tokio::spawn(flood.connect(front, NODE_NAME).expect("possible")));
            tokio::task::yield_now().await;
        }
        while retries.load(Ordering::Relaxed) < HANDSHAKES_MAX
            || two.endpoint.open_connections() < HANDSHAKES_MAX
        {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            let _dialled = one.connect(two.address()).await.expect("room is made");
            two.accept().await.expect("a link");
        }
    })
    .await;
    assert!(!handshakes.iter().any(|handshake| handshake.is_finished()), "they are still going on");
}

#[tokio::test]
async fn handshakes_give_way_by_address_and_age() {
    let source = |n: u8| Source::V4([192, 0, 2, n]);
    let mut handshakes = Handshakes::default();
    let add = |handshakes: &mut Handshakes, n: u8, age: Duration| {
        let task = handshakes.tasks.spawn(std::future::pending());
        let since = Instant::now().checked_sub(age).expect("the machine is up for that long");
        handshakes.under_way.push(UnderWay { source: source(n), since, task });
    };
    let left =
        |handshakes: &Handshakes| Vec::from_iter(handshakes.under_way.iter().map(|other| other.source));
    let (young, old) = (Duration::ZERO, 2 * HANDSHAKE_TIME_MIN);
    add(&mut handshakes, 1, old);
    for n in [2, 3, 2, 2] {
        add(&mut handshakes, n, young);
    }
    // Not the oldest of all, and young: it has more than who comes.
    assert!(handshakes.give_one_up_for(source(4)));
    assert_eq!(left(&handshakes), [1, 3, 2, 2].map(source));
    // Its own are young.
    assert!(!handshakes.give_one_up_for(source(2)));
    assert!(!handshakes.give_one_up_for(source(1)), "as many, with this one");
    handshakes.under_way[2].since -= old;
    assert!(handshakes.give_one_up_for(source(2)));
    assert_eq!(left(&handshakes), [1, 3, 2].map(source));
    // Among equals the oldest.
    assert!(handshakes.give_one_up_for(source(5)));
    assert_eq!(left(&handshakes), [3, 2].map(source));
    assert!(!handshakes.give_one_up_for(source(5)));
}

#[tokio::test]
async fn there_is_one_stream_and_nothing_else() {
    let certificates = Certificates::new();
    let node = certificates.endpoint("node");
    let pair = certificates.pair("cluster", "good", |_| {});
    let other = dialler(&certificates, Some(&pair), ALPN);
    soon(async {
        let connection = other.connect(node.address(), NODE_NAME).expect("possible").await.expect("good");
        let (mut send, mut receive) = connection.accept_bi().await.expect("the one");
        let mut link = node.accept().await.expect("a link");
        let mut welcome = [0];
        receive.read_exact(&mut welcome).await.expect("a welcome");
        link.write_all(b"x").await.expect("up");
        receive.read_exact(&mut welcome).await.expect("up");
        assert!(connection.open_bi().now_or_never().is_none());
        assert!(connection.open_uni().now_or_never().is_none());
        assert!(connection.send_datagram(b"x"[..].into()).is_err());
        // No more than may be on its way is taken while nobody reads.
        let mut written = 0;
        while let Some(more) = send.write(&[0; 1 << 16]).now_or_never() {
            written += more.expect("up");
        }
        assert!(written <= WINDOW_BYTES as usize, "{written}");
    })
    .await;
}
