//! A certificate authority of one's own, for development and for a first look at the product.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tern_protocol::model::WallMillis;
use time::{Duration, OffsetDateTime};
use tracing::info;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::files::{self, Access};
use super::{Identity, TlsError};

const CA_DAYS: i64 = 3650;
/// Browsers and phones refuse more than 398.
const SERVER_DAYS: i64 = 365;
/// A server certificate with less left than this is replaced at the next start.
const RENEW_DAYS: i64 = 30;
/// Clocks of clients may be slow.
const BACKDATE: Duration = Duration::DAY;

/// Names that every development certificate has.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// `ca.pem`, `ca.key`, `server.pem` and `server.key` in one directory. Clients are given `ca.pem` to trust.
#[derive(Debug, Clone)]
pub struct DevIdentity {
    /// The server's certificate and key.
    pub identity: Identity,
    /// The authority's certificate, PEM: what a client has to trust.
    pub ca_pem: String,
}

impl DevIdentity {
    /// Takes what is there and makes what is missing. The server's certificate is for localhost and `names` (host
    /// names or IP addresses), and is issued again when it is about to expire or lacks one of them.
    ///
    /// # Errors
    /// When a file cannot be read or written, is damaged, or the authority's key is gone or expired.
    pub fn load_or_create(directory: &Path, names: &[String], now: WallMillis) -> Result<Self, TlsError> {
        let now = i64::try_from(now.0 / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        let now = now.ok_or_else(|| TlsError::Crypto("the clock is past the year 9999".to_owned()))?;
        let [ca_pem_path, ca_key_path, server_pem_path, server_key_path] =
            ["ca.pem", "ca.key", "server.pem", "server.key"].map(|name| directory.join(name));

        let read = |path: &Path| files::read(path, Access::Everybody).map_err(TlsError::file(path));
        if read(&ca_pem_path)?.is_some() && read(&ca_key_path)?.is_none() {
            let problem = format!(
                "is missing, though there is a {}: restore it, or delete that file too to make a new authority \
                 (clients then have to trust the new one)",
                ca_pem_path.display()
            );
            return Err(TlsError::content(&ca_key_path, problem));
        }

        let ca_key = key(&ca_key_path)?;
        let ca_pem = files::read_or_create(&ca_pem_path, Access::Everybody, || {
            let certificate = authority(now).self_signed(&ca_key).map_err(std::io::Error::other)?;
            info!(path = %ca_pem_path.display(), "made a development certificate authority");
            Ok(certificate.pem().into_bytes())
        })
        .map_err(TlsError::file(&ca_pem_path))?;
        let ca_der = certificate_der(&ca_pem_path, &ca_pem)?;
        let ca = parse(&ca_pem_path, &ca_der)?;
        if ca.public_key().subject_public_key.data.as_ref() != ca_key.public_key_raw() {
            let problem = format!("is not the key of {}: restore the right one", ca_pem_path.display());
            return Err(TlsError::content(&ca_key_path, problem));
        }
        let ca_end = ca.validity().not_after.to_datetime();
        if ca_end - now < Duration::days(1) {
            let problem = format!(
                "has expired: delete it and {} to make a new authority, which clients then have to trust",
                ca_key_path.display()
            );
            return Err(TlsError::content(&ca_pem_path, problem));
        }

        let names: Vec<String> =
            LOCAL_NAMES.into_iter().map(str::to_owned).chain(names.iter().cloned()).collect();
        let server_key = key(&server_key_path)?;
        let present = match read(&server_pem_path)? {
            Some(pem) => {
                let der = certificate_der(&server_pem_path, &pem)?;
                let certificate = parse(&server_pem_path, &der)?;
                is_good(&certificate, &ca, &server_key, &names, now).then_some(pem)
            }
            None => None,
        };
        let server_pem = match present {
            Some(pem) => pem,
            None => {
                let params = server(&names, now, ca_end)?;
                let issuer = Issuer::from_ca_cert_der(&ca_der, &ca_key).map_err(crypto_error)?;
                let pem = params.signed_by(&server_key, &issuer).map_err(crypto_error)?.pem().into_bytes();
                files::replace(&server_pem_path, Access::Everybody, &pem)
                    .map_err(TlsError::file(&server_pem_path))?;
                info!(path = %server_pem_path.display(), ?names, "issued a development certificate");
                pem
            }
        };
        let key_pem = server_key.serialize_pem();
        Ok(Self {
            identity: Identity::from_pem(
                &server_pem_path,
                &server_pem,
                &server_key_path,
                key_pem.as_bytes(),
            )?,
            ca_pem: String::from_utf8(ca_pem)
                .map_err(|_| TlsError::content(&ca_pem_path, "is not a PEM file: not UTF-8"))?,
        })
    }
}

fn crypto_error(error: rcgen::Error) -> TlsError {
    TlsError::Crypto(error.to_string())
}

fn key(path: &Path) -> Result<KeyPair, TlsError> {
    let pem = files::read_or_create(path, Access::Owner, || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(std::io::Error::other)?;
        Ok(key.serialize_pem().into_bytes())
    })
    .map_err(TlsError::file(path))?;
    let damaged = |e: &dyn std::fmt::Display| {
        TlsError::content(path, format!("is not a private key in PEM: {e}. Restore it from a backup"))
    };
    let pem = String::from_utf8(pem).map_err(|e| damaged(&e))?;
    KeyPair::from_pem(&pem).map_err(|e| damaged(&e))
}

fn certificate_der(path: &Path, pem: &[u8]) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem).map_err(|e| damaged_certificate(path, &e))
}

fn parse<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, TlsError> {
    Ok(X509Certificate::from_der(der).map_err(|e| damaged_certificate(path, &e))?.1)
}

fn damaged_certificate(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::content(
        path,
        format!(
            "is not a certificate in PEM: {error}. Restore it from a backup, or delete it to have it made again"
        ),
    )
}

fn authority(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Tern development authority");
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server(
    names: &[String],
    now: OffsetDateTime,
    ca_end: OffsetDateTime,
) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(names)
        .map_err(|e| TlsError::Crypto(format!("cannot make a certificate for {}: {e}", names.join(", "))))?;
    params.distinguished_name = name("Tern development server");
    params.not_before = now - BACKDATE;
    params.not_after = ca_end.min(now + Duration::days(SERVER_DAYS));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// Whether a server certificate is this authority's for this key and these names, for some time to come.
fn is_good(
    certificate: &X509Certificate<'_>,
    ca: &X509Certificate<'_>,
    key: &KeyPair,
    names: &[String],
    now: OffsetDateTime,
) -> bool {
    let validity = certificate.validity();
    let end = ca.validity().not_after.to_datetime().min(now + Duration::days(RENEW_DAYS));
    certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
        && certificate.verify_signature(Some(ca.public_key())).is_ok()
        && validity.not_before.to_datetime() <= now
        && end <= validity.not_after.to_datetime()
        && names.iter().all(|name| is_for(certificate, name))
}

fn is_for(certificate: &X509Certificate<'_>, name: &str) -> bool {
    let Ok(Some(present)) = certificate.subject_alternative_name() else { return false };
    // rcgen decides what is an address and what is a host name: by the same rule.
    let wanted = CertificateParams::new([name.to_owned()]).map(|params| params.subject_alt_names);
    let wanted = wanted.unwrap_or_default().into_iter().next();
    present.value.general_names.iter().any(|general| match (general, &wanted) {
        (GeneralName::DNSName(dns), Some(SanType::DnsName(wanted))) => *dns == wanted.as_str(),
        (GeneralName::IPAddress(bytes), Some(SanType::IpAddress(ip))) => match ip {
            std::net::IpAddr::V4(ip) => *bytes == ip.octets(),
            std::net::IpAddr::V6(ip) => *bytes == ip.octets(),
        },
        _ => false,
    })
}

#[cfg(test)]
mod tests;
