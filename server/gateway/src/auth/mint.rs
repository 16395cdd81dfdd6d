//! A key of the server's own that signs tokens: for development, for the command line, for tests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};
use serde::Serialize;
use tern_protocol::model::WallMillis;
use thiserror::Error;

use super::{SUB_BYTES_MAX, TokenKey, TokenKeyError};
use crate::tls::files::{self, Access};

const KEY_FILE: &str = "token.key";
const PUBLIC_KEY_FILE: &str = "token.pub";

/// Signs tokens with the Ed25519 key of a data directory.
pub struct Minter {
    key: EncodingKey,
    kid: String,
    public_pem: String,
    issuer: Option<String>,
    audience: Option<String>,
}

/// Why there is no token, and what to do about it.
#[derive(Debug, Error)]
pub enum MintError {
    /// The system would not read or write a file.
    #[error("cannot read or write {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Damaged.
    #[error("{} is not an Ed25519 private key in PEM: restore it, or delete it to have a new one made", path.display())]
    NotAKey {
        /// Which.
        path: PathBuf,
    },
    /// Empty or too long.
    #[error("a subject has 1 to {SUB_BYTES_MAX} bytes, and this one has {0}")]
    Subject(usize),
    /// The crypto library refused.
    #[error("cannot sign a token")]
    Signing,
}

#[derive(Serialize)]
struct Minted<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl Minter {
    /// From `token.key` in this directory, which is made when there is none; `token.pub` beside it is what another
    /// server has to be given to take these tokens.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is no key.
    pub fn load_or_create(directory: &Path) -> Result<Self, MintError> {
        let path = directory.join(KEY_FILE);
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| MintError::File { path, source }
        };
        let pem = files::read_or_create(&path, Access::Owner, || {
            let key = KeyPair::generate_for(&PKCS_ED25519).map_err(io::Error::other)?;
            Ok(key.serialize_pem().into_bytes())
        })
        .map_err(file_error(&path))?;
        let pair = String::from_utf8(pem).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
        let pair = pair.filter(|pair| pair.is_compatible(&PKCS_ED25519));
        let pair = pair.ok_or_else(|| MintError::NotAKey { path: path.clone() })?;

        let public_pem = pair.public_key_pem();
        let public_path = directory.join(PUBLIC_KEY_FILE);
        let present = files::read(&public_path, Access::Everybody).map_err(file_error(&public_path))?;
        if present.as_deref() != Some(public_pem.as_bytes()) {
            files::replace(&public_path, Access::Everybody, public_pem.as_bytes())
                .map_err(file_error(&public_path))?;
        }
        Ok(Self {
            key: EncodingKey::from_ed_der(pair.serialized_der()),
            kid: kid(pair.public_key_raw()),
            public_pem,
            issuer: None,
            audience: None,
        })
    }

    /// Whether there is a key in this directory.
    pub fn exists(directory: &Path) -> bool {
        directory.join(KEY_FILE).is_file()
    }

    /// Tokens get this `iss`.
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Tokens get this `aud`.
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// The key that a [`super::Verifier`] needs to take these tokens.
    ///
    /// # Errors
    /// Never for a key of our own making.
    pub fn token_key(&self) -> Result<TokenKey, TokenKeyError> {
        Ok(TokenKey::ed25519_pem(&self.public_pem)?.with_kid(self.kid.clone()))
    }

    /// A token for `sub`, good for `lifetime` from `now`.
    ///
    /// # Errors
    /// When `sub` is one that no server would take.
    pub fn mint(&self, sub: &str, lifetime: Duration, now: WallMillis) -> Result<String, MintError> {
        if sub.is_empty() || sub.len() > SUB_BYTES_MAX {
            return Err(MintError::Subject(sub.len()));
        }
        let iat = now.0 / 1000;
        let claims = Minted {
            sub,
            iat,
            exp: iat.saturating_add(lifetime.as_secs()),
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
        };
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| MintError::Signing)
    }
}

/// Names the key in its tokens, so that a server with several keys finds it at once.
fn kid(public: &[u8]) -> String {
    let hash = digest(&SHA256, public);
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
