//! Tokens: who a client is, as the app's own backend says it in a signed JSON Web Token.
//!
//! The key decides which algorithm a token has to be signed with; a token's header only helps to find the key. Time
//! is an argument. What a client is told never holds a part of its token.

mod claims;
mod https;
pub mod jwks;
mod key;
mod mint;
pub mod revoked;
mod ring;

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Validation;
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::{DeviceId, UserId};
use tern_protocol::limits;
use tern_protocol::limits::SUB_BYTES_MAX;
use tern_protocol::model::WallMillis;
use thiserror::Error;

use claims::Claims;
pub use https::{FetchError, Fetcher};
pub use key::{TokenKey, TokenKeyError};
pub use mint::{MintError, Minter};
pub use revoked::Revocations;
pub use ring::KeyRing;

/// Checks tokens.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Arc<KeyRing>,
    revocations: Arc<Revocations>,
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
    /// When the token was made: its `iat`.
    pub issued: Option<WallMillis>,
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
    /// See [`Revocations`].
    #[error("the token has been revoked")]
    Revoked,
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
            | Self::SubjectTooLong
            | Self::Revoked => ErrorCode::TokenInvalid,
        }
    }
}

impl Verifier {
    /// Takes tokens that one of these keys signed. `leeway` is for clocks that differ.
    pub fn new(keys: Vec<TokenKey>, leeway: Duration) -> Self {
        let keys = Arc::new(KeyRing::new(keys));
        Self { keys, revocations: Arc::default(), issuer: None, audience: None, leeway }
    }

    /// The keys, which may change while it is used; clones share them.
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// Whom it refuses in spite of a good token; clones share it.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
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

    /// The same for a login from this device, which may have been revoked.
    pub fn admit(&self, token: &str, device: DeviceId, now: WallMillis) -> Result<Identity, TokenError> {
        let identity = self.verify(token, now)?;
        if self.revocations.cover(identity.user, device, identity.issued) {
            return Err(TokenError::Revoked);
        }
        Ok(identity)
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
        for key in self.keys.all().iter().flat_map(|keys| keys.iter()) {
            if !key.may_be(header.kid.as_deref()) {
                continue;
            }
            if key.algorithm() != header.alg {
                refusal = refusal.max_specific(TokenError::WrongAlgorithm);
                continue;
            }
            // Only the signature: times are checked against our own `now`, the rest in one place with them.
            let mut validation = Validation::new(key.algorithm());
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation.validate_aud = false;
            match jsonwebtoken::decode::<Claims>(token, key.decoding(), &validation) {
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
        let issued = claims.iat.map(|iat| WallMillis(iat.millis()));
        Ok(Identity { user: UserId::from_sub(&sub), sub, expires: WallMillis(expires), issued })
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
