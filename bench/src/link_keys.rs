//! Certificates with which nodes that this program starts trust each other.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tern_server::cluster::quic::NODE_NAME;

use crate::Error;

/// An authority for the nodes of one cluster.
pub struct LinkAuthority {
    /// Its certificate, PEM.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl LinkAuthority {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// A node's certificate and its key, PEM.
    ///
    /// # Errors
    /// As above.
    pub fn node(&self) -> Result<(String, String), Error> {
        let mut params = CertificateParams::new([NODE_NAME.to_owned()]).map_err(failed)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok((certificate, key.serialize_pem()))
    }
}

fn failed(error: rcgen::Error) -> Error {
    Error::Server(format!("no keys for links can be made: {error}"))
}
