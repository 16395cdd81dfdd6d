//! TLS: the server's certificate, the secrets that shards and restarts share, and the rustls configuration.
//!
//! TLS 1.3 only, aws-lc-rs only, 0-RTT off: a chat's first flight holds a login and sends, which must not be
//! replayed.

mod dev;
pub(crate) mod files;
mod tickets;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{hkdf, hmac, rand};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tern_protocol::limits;
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

pub use dev::DevIdentity;

use tickets::Tickets;

/// The file of [`Secrets`] in the data directory.
pub(crate) const SECRETS_FILE: &str = "server.secret";
const SECRET_BYTES: usize = 32;

/// What turns `openssl req -x509` from making authorities to making servers.
const HOW_TO_MAKE_ONE: &str = "get one for this server's name, or make one with openssl req -x509 -addext \
                               basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:chat.example.com \
                               (`ternd config example` has the whole command)";

/// Why there is no TLS, and what to do about it.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The system would not read or write a file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it and what helps.
        problem: String,
    },
    /// The crypto library refused.
    #[error("cannot set up TLS: {0}")]
    Crypto(String),
}

impl TlsError {
    /// The file that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } | Self::Content { path, .. } => Some(path),
            Self::Crypto(_) => None,
        }
    }

    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), source }
    }

    pub(crate) fn content(path: &Path, problem: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), problem: problem.into() }
    }
}

/// What handshakes are made with.
pub(crate) fn crypto() -> Arc<CryptoProvider> {
    // Every client has AES-128 (RFC 8446, 9.1), and those without AES in hardware ask for ChaCha20 first. AES-256 comes
    // with SHA-384, which has no instructions of its own: a twelfth of the work of a resumed login.
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..provider::default_provider()
    })
}

/// A certificate chain with its private key.
#[derive(Debug, Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// From PEM files: the chain, the server's own certificate first, and its private key.
    ///
    /// # Errors
    /// When a file cannot be read, is no PEM, the key is another certificate's, or no client would take the
    /// certificate for a server's.
    pub fn from_pem_files(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain_pem = read(chain, files::Access::Everybody)?;
        let key_pem = read(key, files::Access::Owner)?;
        Self::from_pem(chain, &chain_pem, key, &key_pem)
    }

    /// When its certificate ends; `None` when that cannot be read out of it.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        Some(self.certificate()?.validity().not_after.to_datetime())
    }

    /// The server's own.
    fn certificate(&self) -> Option<X509Certificate<'_>> {
        Some(X509Certificate::from_der(self.0.cert.first()?).ok()?.1)
    }

    fn from_pem(chain: &Path, chain_pem: &[u8], key: &Path, key_pem: &[u8]) -> Result<Self, TlsError> {
        let identity = Self(Arc::new(certified_key(chain, chain_pem, key, key_pem)?));
        match identity.certificate().as_ref().and_then(refusal) {
            None => Ok(identity),
            Some(why) => Err(TlsError::content(chain, format!("{why}; {HOW_TO_MAKE_ONE}"))),
        }
    }
}

/// What is in a file that has to be there.
pub(crate) fn read(path: &Path, access: files::Access) -> Result<Vec<u8>, TlsError> {
    let bytes = files::read(path, access).map_err(TlsError::file(path))?;
    bytes.ok_or_else(|| TlsError::content(path, "cannot be read: there is no such file"))
}

/// A chain with its private key, whatever it is for.
pub(crate) fn certified_key(
    chain: &Path,
    chain_pem: &[u8],
    key: &Path,
    key_pem: &[u8],
) -> Result<CertifiedKey, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::content(chain, format!("is not a PEM file: {e}")))?;
    if certificates.is_empty() {
        return Err(TlsError::content(chain, "has no certificate in it (-----BEGIN CERTIFICATE-----)"));
    }
    let private = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|e| TlsError::content(key, format!("has no private key in it (PEM): {e}")))?;
    CertifiedKey::from_der(certificates, private, &crypto()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::content(key, format!("is not the key of the first certificate in {}", chain.display()))
        }
        rustls::Error::InvalidCertificate(e) => {
            TlsError::content(chain, format!("has a certificate that cannot be used: {e}"))
        }
        e => TlsError::content(key, format!("has a private key that cannot be used: {e}")),
    })
}

/// The authorities in a PEM file. A bundle may hold a few that this library does not take, but not only such.
pub(crate) fn authorities(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    for certificate in certificates.unwrap_or_default() {
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(TlsError::content(path, "has no certificate of an authority"));
    }
    Ok(roots)
}

/// Why no client takes a certificate for a server's, whoever has signed it.
fn refusal(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    if certificate.is_ca() {
        return Some("is an authority's certificate (CA:TRUE), which no client takes for a server's");
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let is_name =
        |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    (!names.is_some_and(|names| names.value.general_names.iter().any(is_name)))
        .then_some("names no server (subjectAltName; a common name does not count), so no client accepts it")
}

/// Holds the [`Identity`] that new handshakes get, on every shard and transport. Renewed certificates take effect
/// without a restart.
#[derive(Debug)]
pub struct CurrentIdentity(RwLock<Identity>);

impl CurrentIdentity {
    /// Starts with `identity`.
    pub fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Self(RwLock::new(identity)))
    }

    /// When the certificate ends, see [`Identity::expires`].
    pub fn expires(&self) -> Option<OffsetDateTime> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).expires()
    }

    /// From the next handshake on, `identity`.
    pub fn replace(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }
}

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

/// What shards, restarts and the nodes of a cluster share: whoever has the same secret resumes the same sessions.
///
/// One random secret on disk; every key is derived from it under a label of its own.
#[derive(Clone)]
pub struct Secrets(hkdf::Prk);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    /// From `server.secret` in this directory, which is made when there is none.
    ///
    /// # Errors
    /// When the file cannot be read, written, or is not 32 bytes long.
    pub fn load_or_create(directory: &Path) -> Result<Self, TlsError> {
        let path = directory.join(SECRETS_FILE);
        let secret = files::read_or_create(&path, files::Access::Owner, || {
            let mut secret = vec![0; SECRET_BYTES];
            rand::fill(&mut secret).map_err(|_| io::Error::other("the system has no random numbers"))?;
            Ok(secret)
        })
        .map_err(TlsError::file(&path))?;
        if secret.len() != SECRET_BYTES {
            let problem = format!(
                "should have {SECRET_BYTES} bytes and has {}: restore it, or delete it (clients then need full \
                 handshakes once)",
                secret.len()
            );
            return Err(TlsError::content(&path, problem));
        }
        Ok(Self::from_bytes(&secret))
    }

    fn from_bytes(secret: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"tern server secret").extract(secret))
    }

    fn derive(&self, label: &[u8]) -> [u8; 32] {
        derive(&self.0, &[label])
    }

    /// Checks QUIC connection ids.
    pub(crate) fn cid_key(&self) -> [u8; 16] {
        let mut key = [0; 16];
        key.copy_from_slice(&self.derive(b"quic connection id")[..16]);
        key
    }

    /// Makes QUIC stateless reset tokens: a client learns from a restarted server that its connection is gone.
    pub(crate) fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.derive(b"quic stateless reset"))
    }

    /// Seals the tokens in QUIC Retry packets.
    pub(crate) fn retry_key(&self) -> hkdf::Prk {
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.derive(b"quic retry token"))
    }

    fn tickets(&self) -> Tickets {
        Tickets::new(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.derive(b"tls tickets")))
    }
}

pub(crate) fn derive(key: &hkdf::Prk, info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    key.expand(info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("HKDF gives up to 255 times the 32 bytes asked for");
    out
}

/// The configuration of every TLS and QUIC handshake; make it once and share it.
///
/// # Errors
/// When the crypto library has no TLS 1.3.
pub fn server_config(
    identity: Arc<CurrentIdentity>,
    secrets: &Secrets,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::Crypto(e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![limits::ALPN.to_vec()];
    config.ticketer = Arc::new(secrets.tickets());
    // Tickets carry the whole session; nothing is remembered here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // The client uses a ticket once and gets the next one with it. Each costs memory until it is sent.
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_survive_a_restart_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Secrets::load_or_create(dir.path()).unwrap();
        let second = Secrets::load_or_create(dir.path()).unwrap();
        assert_eq!(first.cid_key(), second.cid_key());
        assert_eq!(first.derive(b"x"), second.derive(b"x"));
        assert_ne!(first.derive(b"x"), first.derive(b"y"));
        let mode = fs::metadata(dir.path().join(SECRETS_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(first.cid_key(), Secrets::load_or_create(other.path()).unwrap().cid_key());
        // Nothing but the file is left behind.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_cut_secret_is_an_error_that_says_what_helps() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SECRETS_FILE), [1; 31]).unwrap();
        let error = Secrets::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has 31") && error.contains("delete"), "{error}");
    }
}
