//! What tokens are accepted: `[tokens]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::RootCertStore;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Loaded};
use crate::auth::revoked::Revoked;
use crate::auth::{Fetcher, TokenKey, Verifier, jwks};
use crate::tls::{self, files};

/// What tokens are accepted. At least one key, or a key set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The required `iss`.
    pub issuer: Option<String>,
    /// The required `aud`.
    pub audience: Option<String>,
    /// How far the clocks of the app's backend and of this server may be apart.
    #[serde(default = "default_leeway")]
    pub leeway_seconds: u64,
    /// A file of users and devices whose tokens are refused, as [`crate::auth::revoked`] describes it.
    pub revoked: Option<PathBuf>,
    /// Keys, each in a file.
    #[serde(default)]
    pub keys: Vec<Key>,
    /// A key set.
    pub jwks: Option<Jwks>,
}

/// A key that signs tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// How it signs.
    pub algorithm: Algorithm,
    /// The file: a public key in PEM (EdDSA, ES256, RS256), or the secret in base64 (HS256).
    pub file: PathBuf,
    /// The `kid` of tokens that it has signed.
    pub id: Option<String>,
}

/// A signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Algorithm {
    /// Ed25519.
    EdDSA,
    /// ECDSA on P-256.
    ES256,
    /// RSA with SHA-256, PKCS#1 v1.5.
    RS256,
    /// HMAC with SHA-256.
    HS256,
}

/// Where a JSON Web Key Set is: in a file or at an address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// A file.
    pub file: Option<PathBuf>,
    /// An `https` address.
    pub url: Option<String>,
    /// PEM: the authorities that the address's certificate may come from; the system's if not given.
    pub ca: Option<PathBuf>,
    /// How often the address is asked, at least.
    #[serde(default = "default_refresh")]
    pub refresh_seconds: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            leeway_seconds: default_leeway(),
            revoked: None,
            keys: Vec::new(),
            jwks: None,
        }
    }
}

pub(super) fn default_leeway() -> u64 {
    30
}

fn default_refresh() -> u64 {
    300
}

impl Tokens {
    /// Every file that is named.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let jwks = self.jwks.iter_mut().flat_map(|jwks| jwks.file.iter_mut().chain(&mut jwks.ca));
        self.keys.iter_mut().map(|key| &mut key.file).chain(&mut self.revoked).chain(jwks)
    }
}

impl Loaded {
    pub(super) fn check_tokens(&self) -> Result<(), ConfigError> {
        let Tokens { keys, jwks, .. } = &self.config.tokens;
        let same = |a: &Key, b: &Key| a.algorithm == b.algorithm && (a.id.is_none() || a.id == b.id);
        for (i, key) in keys.iter().enumerate() {
            if keys[..i].iter().any(|before| same(key, before) || same(before, key)) {
                let problem = "several keys of one algorithm need an id each, the `kid` of their tokens";
                return Err(self.refuse(&format!("tokens.keys[{i}].algorithm"), problem));
            }
        }
        let Some(jwks) = jwks else {
            let none =
                keys.is_empty().then(|| self.refuse("tokens", "no keys and no jwks: no login could succeed"));
            return none.map_or(Ok(()), Err);
        };
        if jwks.file.is_some() == jwks.url.is_some() {
            return Err(self.refuse("tokens.jwks", "expected either a file or a url"));
        }
        if jwks.file.is_some() && jwks.ca.is_some() {
            return Err(self.refuse("tokens.jwks.ca", "is for a url: a file needs none"));
        }
        Ok(())
    }

    /// What checks tokens, with the keys and revocations that are in files.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub fn verifier(&self) -> Result<Verifier, ConfigError> {
        let tokens = &self.config.tokens;
        let mut mistakes = ConfigError::none();
        let configured = mistakes.note(self.token_keys());
        let published = mistakes.note(self.jwks_file());
        let revoked = mistakes.note(self.revoked());
        let files = configured.zip(published).zip(revoked);
        let ((configured, published), revoked) = mistakes.or_all(files)?;
        let mut verifier = Verifier::new(configured, Duration::from_secs(tokens.leeway_seconds));
        if let Some(keys) = published {
            verifier.keys().set_published(keys);
        }
        if let Some(revoked) = revoked {
            verifier.revocations().replace(revoked);
        }
        if let Some(issuer) = &tokens.issuer {
            verifier = verifier.with_issuer(issuer.clone());
        }
        if let Some(audience) = &tokens.audience {
            verifier = verifier.with_audience(audience.clone());
        }
        Ok(verifier)
    }

    /// The keys that have files of their own.
    ///
    /// # Errors
    /// When a file cannot be read or is not such a key.
    pub fn token_keys(&self) -> Result<Vec<TokenKey>, ConfigError> {
        let mut mistakes = ConfigError::none();
        let read = |(i, key)| mistakes.note(self.token_key(&format!("tokens.keys[{i}].file"), key));
        let keys: Vec<_> = self.config.tokens.keys.iter().enumerate().filter_map(read).collect();
        mistakes.or(keys)
    }

    fn token_key(&self, name: &str, key: &Key) -> Result<TokenKey, ConfigError> {
        let text = String::from_utf8(self.read_file(name, &key.file)?).unwrap_or_default();
        if key.algorithm == Algorithm::HS256 {
            // Whoever has it can be any user.
            files::warn_if_open(&key.file).map_err(|error| self.cannot_read(name, &key.file, &error))?;
        }
        let parsed = match key.algorithm {
            Algorithm::EdDSA => TokenKey::ed25519_pem(&text),
            Algorithm::ES256 => TokenKey::es256_pem(&text),
            Algorithm::RS256 => TokenKey::rs256_pem(&text),
            Algorithm::HS256 => TokenKey::hs256_base64(text.trim()),
        };
        let refuse = |error| self.refuse(name, format!("{}: {error}", key.file.display()));
        let parsed = parsed.map_err(refuse)?;
        Ok(match &key.id {
            Some(id) => parsed.with_kid(id.clone()),
            None => parsed,
        })
    }

    /// The keys of a set in a file; `None`: none is named.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn jwks_file(&self) -> Result<Option<Vec<TokenKey>>, ConfigError> {
        let name = "tokens.jwks.file";
        let Some(path) = self.config.tokens.jwks.as_ref().and_then(|jwks| jwks.file.as_ref()) else {
            return Ok(None);
        };
        let keys = jwks::parse(&self.read_file(name, path)?);
        keys.map(Some).map_err(|error| self.refuse(name, format!("{}: {error}", path.display())))
    }

    /// What fetches a published key set, and how often; `None`: none is named.
    ///
    /// # Errors
    /// When the address is none, or there are no authorities to trust.
    pub fn jwks_fetcher(&self) -> Result<Option<(Fetcher, Duration)>, ConfigError> {
        let Some(Jwks { url: Some(url), ca, refresh_seconds, .. }) = &self.config.tokens.jwks else {
            return Ok(None);
        };
        let name = "tokens.jwks.ca";
        let roots = match ca {
            Some(path) => self.authorities(name, path)?,
            None => {
                let system = openssl_probe::probe().cert_file.ok_or_else(|| {
                    let problem = "is not set, and this system has no certificates of authorities: install \
                                   ca-certificates, or name a PEM file";
                    self.refuse(name, problem)
                })?;
                self.authorities(name, &system)?
            }
        };
        let fetcher = Fetcher::new(url, roots).map_err(|error| self.refuse("tokens.jwks.url", error))?;
        Ok(Some((fetcher, Duration::from_secs(*refresh_seconds))))
    }

    /// Who is revoked; `None`: no file is named.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn revoked(&self) -> Result<Option<Revoked>, ConfigError> {
        let read = self.config.tokens.revoked.as_ref().map(|path| Revoked::read(path)).transpose();
        read.map_err(|error| self.refuse("tokens.revoked", error))
    }

    fn authorities(&self, name: &str, path: &Path) -> Result<RootCertStore, ConfigError> {
        let pem = self.read_file(name, path)?;
        tls::authorities(path, &pem).map_err(|error| self.refuse(name, error))
    }

    fn read_file(&self, name: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
        std::fs::read(path).map_err(|error| self.cannot_read(name, path, &error))
    }
}
