//! The certificate with which nodes of one process trust each other.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tern_server::cluster::quic::{LinkIdentity, NODE_NAME};

use crate::Error;

/// Makes an authority and one certificate, which all nodes have, in this directory.
///
/// # Errors
/// When they cannot be made, written, or read again.
pub(super) fn make(directory: &Path) -> Result<LinkIdentity, Error> {
    let failed = |error: rcgen::Error| Error::Server(format!("no keys for links can be made: {error}"));
    let signed = || {
        let authority = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&authority)?.pem();
        let authority = Issuer::new(params, authority);
        let mut params = CertificateParams::new([NODE_NAME.to_owned()])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority)?.pem();
        Ok([("links.pem", root), ("link.pem", certificate), ("link.key", key.serialize_pem())])
    };
    for (name, pem) in signed().map_err(failed)? {
        let path = directory.join(name);
        fs::write(&path, pem).map_err(Error::io(format!("cannot write {}", path.display())))?;
    }
    let path = |name| directory.join(name);
    let identity = LinkIdentity::load(&path("links.pem"), &path("link.pem"), &path("link.key"));
    identity.map_err(|error| Error::Server(error.to_string()))
}
