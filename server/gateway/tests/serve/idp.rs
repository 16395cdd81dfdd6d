//! An app's backend: signs tokens with keys that it replaces, and publishes them over HTTPS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tempfile::TempDir;
use tern_server::auth::Minter;
use tern_server::clock;
use tern_server::tls::DevIdentity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// An Ed25519 key under a name.
pub(crate) struct SigningKey {
    dir: TempDir,
}

impl SigningKey {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn token(&self, user: &str) -> String {
        self.token_for(user, Duration::from_secs(3600))
    }

    /// With another lifetime.
    pub(crate) fn token_for(&self, user: &str, lifetime: Duration) -> String {
        let minter = Minter::load_or_create(self.dir.path()).expect("a key");
        minter.mint(user, lifetime, clock::wall()).expect("a good name")
    }

    pub(crate) fn public_pem(&self) -> Vec<u8> {
        self.token("anybody");
        std::fs::read(self.dir.path().join("token.pub")).expect("made with the key")
    }

    fn jwk(&self) -> serde_json::Value {
        let token = self.token("anybody");
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().expect("a header")).expect("base64");
        let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
        let (_, pem) = x509_parser::pem::parse_x509_pem(&self.public_pem()).expect("PEM");
        let raw = &pem.contents[pem.contents.len() - 32..];
        json!({"kty": "OKP", "crv": "Ed25519", "kid": header["kid"], "x": URL_SAFE_NO_PAD.encode(raw)})
    }
}

/// A key set of these keys.
pub(crate) fn key_set(keys: &[&SigningKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Publishes a key set. Gone when dropped.
pub(crate) struct Idp {
    pub(crate) address: SocketAddr,
    /// What is said to whoever asks, and whether that is all.
    answer: Arc<Mutex<(Vec<u8>, bool)>>,
    requests: Arc<AtomicUsize>,
    /// Ends its thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

impl Idp {
    /// With a certificate of its own authority, made in this directory.
    pub(crate) fn start(dir: &Path) -> Self {
        DevIdentity::load_or_create(dir, &[], clock::wall()).expect("a certificate");
        let pem = |name: &str| std::fs::read(dir.join(name)).expect("made");
        let chain = vec![CertificateDer::from_pem_slice(&pem("server.pem")).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they belong together");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("possible");
        let address = listener.local_addr().expect("bound");
        let (answer, requests) = (Arc::new(Mutex::new((Vec::new(), true))), Arc::new(AtomicUsize::new(0)));
        let (say, count) = (answer.clone(), requests.clone());
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let listener = TcpListener::from_std(listener).expect("non-blocking");
            let mut hanging = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.expect("a whole request"));
                }
                assert!(request.starts_with(b"GET /jwks.json"), "{request:?}");
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, is_all) = say.lock().expect("not poisoned").clone();
                // Whoever has heard enough hangs up.
                let _ = stream.write_all(&answer).await;
                if is_all {
                    let _ = stream.shutdown().await;
                } else {
                    hanging.push(stream);
                }
            }
        };
        // Tests wait for processes, and those for this.
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, answer, requests, _stop: stop }
    }

    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        let body = key_set(keys);
        self.answers(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }

    /// Any answer.
    pub(crate) fn answers(&self, answer: impl Into<Vec<u8>>) {
        *self.answer.lock().expect("not poisoned") = (answer.into(), true);
    }

    /// The beginning of an answer, and then nothing more.
    pub(crate) fn hangs_after(&self, beginning: &str) {
        *self.answer.lock().expect("not poisoned") = (beginning.into(), false);
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The section of a configuration.
    pub(crate) fn section(&self, more: &str) -> String {
        let port = self.address.port();
        format!("[tokens.jwks]\nurl = \"https://localhost:{port}/jwks.json\"\nca = \"idp/ca.pem\"\n{more}\n")
    }
}
