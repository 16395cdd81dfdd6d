//! Who a node is to the others, and whom it takes for one.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use super::{ALPN, NODE_NAME};
use crate::tls::{self, TlsError, files::Access};

const HOW_TO_MAKE_ONE: &str =
    "spec/operations.md (A cluster's certificates) has the commands that make a good one";

/// The certificate by which a node shows that it is one of the cluster, and the authorities whose certificates it
/// takes for other nodes'.
#[derive(Clone)]
pub struct LinkIdentity {
    pub(super) client: Arc<QuicClientConfig>,
    pub(super) server: Arc<QuicServerConfig>,
    /// What this node knows its own connection ids by, and signs resets with. The same after a restart: the other nodes
    /// are told then that the links that they still have to this one are gone.
    pub(super) id_key: u64,
    pub(super) reset_key: Arc<hmac::Key>,
}

impl fmt::Debug for LinkIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkIdentity(..)")
    }
}

impl LinkIdentity {
    /// From PEM files: the cluster's authorities (several while one takes over from another), this node's certificate
    /// chain, and its private key. Others than the server's user should not read the key; when they may, the log says so.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be, and when the other nodes would not take the certificate:
    /// it has to be in its time, for [`NODE_NAME`], for both ends of a connection, and of one of the authorities.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let ca_pem = tls::read(ca, Access::Everybody)?;
        let chain_pem = tls::read(certificate, Access::Everybody)?;
        let key_pem = tls::read(key, Access::Owner)?;
        let authorities = Arc::new(tls::authorities(ca, &ca_pem)?);
        let certified = tls::certified_key(certificate, &chain_pem, key, &key_pem)?;

        let unusable = |error: &dyn fmt::Display| TlsError::content(ca, format!("cannot be used: {error}"));
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&authorities), tls::crypto())
            .build()
            .map_err(|error| unusable(&error))?;
        let clients = WebPkiClientVerifier::builder_with_provider(authorities, tls::crypto())
            // What the cluster trusts is not for strangers to know.
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| unusable(&error))?;
        let clients = Arc::new(NodesOnly(clients));

        let now = UnixTime::now();
        if let [own, intermediates @ ..] = &certified.cert[..] {
            servers
                .verify_server_cert(own, intermediates, &node_name(), &[], now)
                .map(drop)
                .and_then(|()| clients.verify_client_cert(own, intermediates, now).map(drop))
                .map_err(|error| TlsError::content(certificate, refusal(&error, ca)))?;
        }

        let own = Arc::new(SingleCertAndKey::from(certified));
        let setup = |error: &dyn fmt::Display| TlsError::Crypto(error.to_string());
        let mut client = ClientConfig::builder_with_provider(tls::crypto())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| setup(&error))?
            .with_webpki_verifier(servers)
            .with_client_cert_resolver(own.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        // There are few links, and each begins with certificates that are good now.
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        let mut server = ServerConfig::builder_with_provider(tls::crypto())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| setup(&error))?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(own);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;

        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tern link").extract(&key_pem);
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &tls::derive(&secret, &[b"stateless reset"]));
        let mut id_key = [0; 8];
        id_key.copy_from_slice(&tls::derive(&secret, &[b"connection id"])[..8]);
        Ok(Self {
            client: Arc::new(QuicClientConfig::try_from(client).map_err(|error| setup(&error))?),
            server: Arc::new(QuicServerConfig::try_from(server).map_err(|error| setup(&error))?),
            id_key: u64::from_be_bytes(id_key),
            reset_key: Arc::new(reset_key),
        })
    }
}

fn node_name() -> ServerName<'static> {
    ServerName::try_from(NODE_NAME).expect("it is a DNS name")
}

/// Why no other node would take a certificate, to be read after the name of its file.
fn refusal(error: &Error, ca: &Path) -> String {
    use CertificateError as Bad;
    let Error::InvalidCertificate(bad) = error else { return error.to_string() };
    let why = match bad {
        Bad::UnknownIssuer | Bad::BadSignature => {
            format!("is not signed by an authority in {}", ca.display())
        }
        Bad::Expired | Bad::ExpiredContext { .. } => "has expired".to_owned(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "is not valid yet: is this machine's clock right?".to_owned()
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            format!("is not for the name {NODE_NAME}, which every node's certificate has (subjectAltName)")
        }
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            "has an extendedKeyUsage without serverAuth or without clientAuth: a node needs both".to_owned()
        }
        other => format!("is none that another node accepts: {other}"),
    };
    format!("{why}; {HOW_TO_MAKE_ONE}")
}

/// Takes a client for a node only if its certificate says so, as clients do with servers: an authority may also sign
/// for others than nodes.
#[derive(Debug)]
struct NodesOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for NodesOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &node_name())?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
