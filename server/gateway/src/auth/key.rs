//! Keys that the app's backend signs with. Each is bound to one algorithm when it is read; what a token says about its
//! algorithm has to agree.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use super::jwks::Jwk;

/// A shorter secret can be guessed from one token (RFC 7518, 3.2).
const HS256_SECRET_BYTES_MIN: usize = 32;
/// RFC 7518, 3.3.
const RSA_BITS_MIN: usize = 2048;
/// Checking a signature of a larger one takes too long.
const RSA_BITS_MAX: usize = 8192;
const ED25519_BYTES: usize = 32;
const P256_COORDINATE_BYTES: usize = 32;
/// Header of a PEM file.
const PEM_MARK: &str = "-----BEGIN";

/// A key that the app's backend signs with.
#[derive(Clone)]
pub struct TokenKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Why a key cannot be used, and what to do about it.
#[derive(Debug, Error)]
pub enum TokenKeyError {
    /// Not what it should be.
    #[error(
        "not an Ed25519 public key in PEM (-----BEGIN PUBLIC KEY-----): make one with `openssl pkey -pubout`"
    )]
    NotEd25519,
    /// Not what it should be.
    #[error("not a P-256 public key in PEM (-----BEGIN PUBLIC KEY-----): make one with `openssl ec -pubout`")]
    NotP256,
    /// Not what it should be.
    #[error(
        "not an RSA public key of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits in PEM (-----BEGIN PUBLIC KEY-----): make one \
         with `openssl pkey -pubout`"
    )]
    NotRsa,
    /// Too easy to guess.
    #[error(
        "an HS256 secret of {0} bytes: it needs at least {HS256_SECRET_BYTES_MIN}, for example from \
         `openssl rand -base64 32`"
    )]
    SecretTooShort(usize),
    /// Everybody has the public key, so everybody could sign with it.
    #[error("a PEM file as an HS256 secret: for a public key choose EdDSA, ES256 or RS256")]
    SecretIsPem,
    /// Not what it should be.
    #[error("an HS256 secret that is not base64")]
    NotBase64,
}

impl TokenKey {
    /// An Ed25519 public key, PEM.
    pub fn ed25519_pem(pem: &str) -> Result<Self, TokenKeyError> {
        let key = DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| TokenKeyError::NotEd25519)?;
        match key.try_get_as_bytes() {
            Ok(bytes) if bytes.len() == 32 => Ok(Self::new(Algorithm::EdDSA, key)),
            _ => Err(TokenKeyError::NotEd25519),
        }
    }

    /// A P-256 public key, PEM.
    pub fn es256_pem(pem: &str) -> Result<Self, TokenKeyError> {
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| TokenKeyError::NotP256)?;
        match key.try_get_as_bytes() {
            // An uncompressed point; those of other curves are longer.
            Ok(bytes) if bytes.len() == 65 => Ok(Self::new(Algorithm::ES256, key)),
            _ => Err(TokenKeyError::NotP256),
        }
    }

    /// An RSA public key, PEM.
    pub fn rs256_pem(pem: &str) -> Result<Self, TokenKeyError> {
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| TokenKeyError::NotRsa)?;
        let der = key.try_get_as_bytes().map_err(|_| TokenKeyError::NotRsa)?;
        match RSAPublicKey::from_der(der) {
            Ok(([], public)) if is_good_rsa(public.modulus, public.exponent) => {
                Ok(Self::new(Algorithm::RS256, key))
            }
            _ => Err(TokenKeyError::NotRsa),
        }
    }

    /// From a member of a JSON Web Key Set. The key is bound to one algorithm, by its type and curve; an `alg` that
    /// says otherwise makes it unusable. `None`: of no use for checking tokens here.
    pub(super) fn from_jwk(jwk: &Jwk) -> Option<Self> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig")
            || jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
        {
            return None;
        }
        let part = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_ref()?).ok();
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => {
                let x = part(&jwk.x).filter(|x| x.len() == ED25519_BYTES)?;
                Self::new(Algorithm::EdDSA, DecodingKey::from_ed_der(&x))
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (part(&jwk.x)?, part(&jwk.y)?);
                let good = x.len() == P256_COORDINATE_BYTES && y.len() == P256_COORDINATE_BYTES;
                good.then(|| {
                    Self::new(Algorithm::ES256, DecodingKey::from_ec_der(&[&[4], &x[..], &y].concat()))
                })?
            }
            ("RSA", None) => {
                let (n, e) = (part(&jwk.n)?, part(&jwk.e)?);
                is_good_rsa(&n, &e)
                    .then(|| Self::new(Algorithm::RS256, DecodingKey::from_rsa_raw_components(&n, &e)))?
            }
            _ => return None,
        };
        let bound = jwk.alg.as_ref().is_none_or(|alg| *alg == format!("{:?}", key.algorithm));
        bound.then_some(Self { kid: jwk.kid.clone(), ..key })
    }

    /// A secret that the app's backend and this server share.
    pub fn hs256(secret: &[u8]) -> Result<Self, TokenKeyError> {
        if secret.windows(PEM_MARK.len()).any(|window| window == PEM_MARK.as_bytes()) {
            return Err(TokenKeyError::SecretIsPem);
        }
        if secret.len() < HS256_SECRET_BYTES_MIN {
            return Err(TokenKeyError::SecretTooShort(secret.len()));
        }
        Ok(Self::new(Algorithm::HS256, DecodingKey::from_secret(secret)))
    }

    /// The same, base64 or base64url; white space around it is no part of it.
    pub fn hs256_base64(secret: &str) -> Result<Self, TokenKeyError> {
        let secret = secret.trim();
        let bytes = STANDARD.decode(secret).or_else(|_| URL_SAFE_NO_PAD.decode(secret.trim_end_matches('=')));
        Self::hs256(&bytes.map_err(|_| TokenKeyError::NotBase64)?)
    }

    /// The key id under which tokens name it.
    pub fn with_kid(mut self, kid: impl Into<String>) -> Self {
        self.kid = Some(kid.into());
        self
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.key
    }

    fn new(algorithm: Algorithm, key: DecodingKey) -> Self {
        Self { kid: None, algorithm, key }
    }

    /// A token that names a key is checked with this one if it has that name, or has none at all.
    pub(super) fn may_be(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(own), Some(named)) => own == named,
            (None, _) | (_, None) => true,
        }
    }
}

/// Both big endian, perhaps with a zero in front.
fn is_good_rsa(modulus: &[u8], exponent: &[u8]) -> bool {
    fn significant(number: &[u8]) -> &[u8] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        &number[zeros..]
    }
    let (modulus, exponent) = (significant(modulus), significant(exponent));
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    let odd = exponent.last().is_some_and(|last| last & 1 == 1);
    (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) && odd && exponent != [1] && exponent.len() <= 4
}
