//! Tokens: who a client is, as the app's own backend says it in a signed JSON Web Token.
//!
//! The key decides which algorithm a token has to be signed with; a token's header only helps to find the key. Time
//! is an argument. What a client is told never holds a part of its token.

mod claims;
mod mint;

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::UserId;
use tern_protocol::limits;
use tern_protocol::limits::SUB_BYTES_MAX;
use tern_protocol::model::WallMillis;
use thiserror::Error;

use claims::Claims;
pub use mint::{MintError, Minter};

/// A shorter secret can be guessed from one token (RFC 7518, 3.2).
const HS256_SECRET_BYTES_MIN: usize = 32;
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
    /// Too easy to guess.
    #[error(
        "an HS256 secret of {0} bytes: it needs at least {HS256_SECRET_BYTES_MIN}, for example from \
         `openssl rand -base64 32`"
    )]
    SecretTooShort(usize),
    /// Everybody has the public key, so everybody could sign with it.
    #[error("a PEM file as an HS256 secret: for a public key choose EdDSA or ES256")]
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

    fn new(algorithm: Algorithm, key: DecodingKey) -> Self {
        Self { kid: None, algorithm, key }
    }

    /// A token that names a key is checked with this one if it has that name, or has none at all.
    fn may_be(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(own), Some(named)) => own == named,
            (None, _) | (_, None) => true,
        }
    }
}

/// Checks tokens.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Vec<TokenKey>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Duration,
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The app's name for the user.
    pub sub: String,
    /// From then on the token is refused: its `exp` and the leeway.
    pub expires: WallMillis,
}

/// Why a token is refused. The texts are fit for the client: they hold nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Longer than [`limits::TOKEN_BYTES_MAX`].
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of base64url, or no JSON in them, or a claim of the wrong type.
    #[error("the token is not a JSON Web Token of the expected form")]
    Malformed,
    /// `crit`.
    #[error("the token has a critical header that this server does not know")]
    CriticalHeader,
    /// No key has this `kid`.
    #[error("the token names a key that this server does not have")]
    UnknownKey,
    /// "none" among them.
    #[error("the token is signed with an algorithm that this server has no key for")]
    WrongAlgorithm,
    /// Signed by somebody else, or changed.
    #[error("the token's signature is wrong")]
    WrongSignature,
    /// `iss` is missing or another.
    #[error("the token is from another issuer")]
    WrongIssuer,
    /// `aud` is missing or another.
    #[error("the token is for another audience")]
    WrongAudience,
    /// `aud` is there, and this server does not know who it is (RFC 7519, 4.1.3).
    #[error("the token is for an audience, and this server is configured for none")]
    UnexpectedAudience,
    /// Every token has to end.
    #[error("the token has no expiry (exp)")]
    NoExpiry,
    /// `nbf`.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `exp`.
    #[error("the token has expired")]
    Expired,
    /// Missing or empty.
    #[error("the token has no subject (sub)")]
    NoSubject,
    /// More than [`SUB_BYTES_MAX`].
    #[error("the token's subject (sub) is too long")]
    SubjectTooLong,
}

impl TokenError {
    /// What it is on the wire.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::TokenExpired,
            Self::TooLong
            | Self::Malformed
            | Self::CriticalHeader
            | Self::UnknownKey
            | Self::WrongAlgorithm
            | Self::WrongSignature
            | Self::WrongIssuer
            | Self::WrongAudience
            | Self::UnexpectedAudience
            | Self::NoExpiry
            | Self::NotYetValid
            | Self::NoSubject
            | Self::SubjectTooLong => ErrorCode::TokenInvalid,
        }
    }
}

impl Verifier {
    /// Takes tokens that one of these keys signed. `leeway` is for clocks that differ.
    pub fn new(keys: Vec<TokenKey>, leeway: Duration) -> Self {
        Self { keys, issuer: None, audience: None, leeway }
    }

    /// Demands that tokens have this `iss`.
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Demands that tokens have this `aud`, alone or among others.
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Whom the token speaks for at the time `now`.
    pub fn verify(&self, token: &str, now: WallMillis) -> Result<Identity, TokenError> {
        if token.len() > limits::TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        self.check(self.signed_claims(token)?, now)
    }

    /// The claims, once a key has confirmed them.
    fn signed_claims(&self, token: &str) -> Result<Claims, TokenError> {
        let header = match jsonwebtoken::decode_header(token) {
            Ok(header) => header,
            Err(_) if claims::names_unknown_algorithm(token) => return Err(TokenError::WrongAlgorithm),
            Err(_) => return Err(TokenError::Malformed),
        };
        if header.crit.is_some() {
            return Err(TokenError::CriticalHeader);
        }
        let mut refusal = TokenError::UnknownKey;
        for key in self.keys.iter().filter(|key| key.may_be(header.kid.as_deref())) {
            if key.algorithm != header.alg {
                refusal = refusal.max_specific(TokenError::WrongAlgorithm);
                continue;
            }
            // Only the signature: times are checked against our own `now`, the rest in one place with them.
            let mut validation = Validation::new(key.algorithm);
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation.validate_aud = false;
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => match error.kind() {
                    jsonwebtoken::errors::ErrorKind::InvalidSignature => refusal = TokenError::WrongSignature,
                    _ => return Err(TokenError::Malformed),
                },
            }
        }
        Err(refusal)
    }

    fn check(&self, claims: Claims, now: WallMillis) -> Result<Identity, TokenError> {
        let leeway = u64::try_from(self.leeway.as_millis()).unwrap_or(u64::MAX);
        if let Some(issuer) = &self.issuer
            && claims.iss.as_ref() != Some(issuer)
        {
            return Err(TokenError::WrongIssuer);
        }
        match (&self.audience, &claims.aud) {
            (None, None) => {}
            (None, Some(_)) => return Err(TokenError::UnexpectedAudience),
            (Some(wanted), present) => {
                if !present.as_ref().is_some_and(|present| present.contains(wanted)) {
                    return Err(TokenError::WrongAudience);
                }
            }
        }
        let sub = claims.sub.filter(|sub| !sub.is_empty()).ok_or(TokenError::NoSubject)?;
        if sub.len() > SUB_BYTES_MAX {
            return Err(TokenError::SubjectTooLong);
        }
        if claims.nbf.is_some_and(|nbf| now.0.saturating_add(leeway) < nbf.millis()) {
            return Err(TokenError::NotYetValid);
        }
        let expires = claims.exp.ok_or(TokenError::NoExpiry)?.millis().saturating_add(leeway);
        if now.0 >= expires {
            return Err(TokenError::Expired);
        }
        Ok(Identity { user: UserId::from_sub(&sub), sub, expires: WallMillis(expires) })
    }
}

impl TokenError {
    /// Of two refusals by different keys, the one that says more.
    fn max_specific(self, other: Self) -> Self {
        if self == Self::UnknownKey { other } else { self }
    }
}

#[cfg(test)]
mod tests;
