//! JSON Web Key Sets (RFC 7517): the public keys of the app's backend, in a file or at an HTTPS address where it
//! replaces them from time to time.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{error, info, warn};

use super::{FetchError, Fetcher, KeyRing, TokenKey};
use crate::metrics::reloads::{Reloads, Source};
use crate::tls::files::{self, Access};

/// A key set has a handful of keys of 100 to 1,500 bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// A token that names no key is tried with each.
pub const JWKS_KEYS_MAX: usize = 32;
/// After a fetch that a token asked for, or one that failed, until the next.
const PAUSE: Duration = Duration::from_secs(30);
/// The last good set that was fetched, in the data directory.
const CACHE_FILE: &str = "jwks.cache";

/// One key of a set, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Jwk {
    pub(super) kty: String,
    pub(super) kid: Option<String>,
    pub(super) alg: Option<String>,
    #[serde(rename = "use")]
    pub(super) usage: Option<String>,
    pub(super) key_ops: Option<Vec<String>>,
    pub(super) crv: Option<String>,
    pub(super) x: Option<String>,
    pub(super) y: Option<String>,
    pub(super) n: Option<String>,
    pub(super) e: Option<String>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// Why a key set cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum JwksError {
    /// Too large.
    #[error("a key set of more than {JWKS_BYTES_MAX} bytes")]
    TooLarge,
    /// Something else.
    #[error("not a JSON Web Key Set: expected {{\"keys\": [...]}}")]
    NotJwks,
    /// Too many.
    #[error("a key set of {0} keys: expected at most {JWKS_KEYS_MAX}")]
    TooManyKeys(usize),
    /// Others may be in it.
    #[error(
        "no key in the set can check tokens: expected Ed25519, P-256 or RSA (2048 bits or more) with `use` sig"
    )]
    NoKey,
}

/// The keys in a set that can check tokens; others are passed over (RFC 7517, 5).
///
/// # Errors
/// [`JwksError`].
pub fn parse(text: &[u8]) -> Result<Vec<TokenKey>, JwksError> {
    if text.len() > JWKS_BYTES_MAX {
        return Err(JwksError::TooLarge);
    }
    let set: JwkSet = serde_json::from_slice(text).map_err(|_| JwksError::NotJwks)?;
    if set.keys.len() > JWKS_KEYS_MAX {
        return Err(JwksError::TooManyKeys(set.keys.len()));
    }
    let keys = set.keys.into_iter().filter_map(|key| TokenKey::from_jwk(&serde_json::from_value(key).ok()?));
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() { Err(JwksError::NoKey) } else { Ok(keys) }
}

/// A set that was fetched, and from where: another address's keys are not trusted.
#[derive(Serialize, Deserialize)]
struct Cache {
    url: String,
    jwks: serde_json::Value,
}

/// Keys that are published at an address, and fetched from there again and again.
pub struct Published {
    fetcher: Fetcher,
    ring: Arc<KeyRing>,
    refresh: Duration,
    cache: PathBuf,
    /// What was fetched last.
    last: RefCell<Bytes>,
}

/// Why there are no keys.
#[derive(Debug, Error)]
pub enum PublishedError {
    /// They cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// They cannot be used.
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

impl Published {
    /// Keys for this ring, fetched at least every `refresh`. What was fetched is kept in the directory `data`, so that
    /// a server may start while the address does not answer.
    pub fn new(fetcher: Fetcher, ring: Arc<KeyRing>, refresh: Duration, data: &Path) -> Self {
        Self { fetcher, ring, refresh, cache: data.join(CACHE_FILE), last: RefCell::default() }
    }

    /// Fetches them for the first time.
    ///
    /// # Errors
    /// When they cannot be had, and were not fetched by an earlier run either.
    pub async fn begin(&self) -> Result<(), PublishedError> {
        let (error, keys) = match self.fetch().await {
            Ok(()) => return Ok(()),
            Err(error) => (error, self.cached()),
        };
        let Some(keys) = keys else { return Err(error) };
        warn!(url = self.fetcher.url(), %error, "published keys cannot be fetched: those of the last run are used");
        self.ring.set_published(keys);
        Ok(())
    }

    /// Fetches them, and does nothing with them.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn check(&self) -> Result<(), PublishedError> {
        parse(&self.fetcher.fetch(JWKS_BYTES_MAX).await?)?;
        Ok(())
    }

    /// Keeps them fresh for ever, and counts each fetch.
    pub async fn run(self, reloads: &Reloads) {
        let (mut failing, mut wait) = (false, self.refresh);
        loop {
            let asked = tokio::time::timeout(wait, self.ring.asked()).await.is_ok();
            let fetched = self.fetch().await;
            reloads.count(Source::KeySet, &fetched);
            self.ring.fetch_ended();
            wait = if fetched.is_ok() { self.refresh } else { Duration::ZERO };
            let pause = asked || fetched.is_err();
            match fetched {
                Ok(()) if std::mem::take(&mut failing) => {
                    info!(url = self.fetcher.url(), "published keys are fetched again");
                }
                Ok(()) => {}
                Err(error) => {
                    failing = true;
                    error!(url = self.fetcher.url(), %error, "published keys cannot be fetched: the old ones are used");
                }
            }
            if pause {
                // However many tokens name unknown keys, and however long the address does not answer.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn fetch(&self) -> Result<(), PublishedError> {
        let text = self.fetcher.fetch(JWKS_BYTES_MAX).await?;
        let keys = parse(&text)?;
        if *self.last.borrow() == text {
            return Ok(());
        }
        info!(url = self.fetcher.url(), keys = keys.len(), "published keys fetched");
        self.ring.set_published(keys);
        if let Err(error) = self.keep(&text) {
            warn!(path = %self.cache.display(), %error, "published keys cannot be kept for the next start");
        }
        self.last.replace(text);
        Ok(())
    }

    fn keep(&self, text: &[u8]) -> std::io::Result<()> {
        let cache = Cache { url: self.fetcher.url().to_owned(), jwks: serde_json::from_slice(text)? };
        files::replace(&self.cache, Access::Owner, &serde_json::to_vec(&cache)?)
    }

    fn cached(&self) -> Option<Vec<TokenKey>> {
        let text = files::read(&self.cache, Access::Owner).ok()??;
        let cache: Cache = serde_json::from_slice(&text).ok()?;
        let same = cache.url == self.fetcher.url();
        parse(&serde_json::to_vec(&cache.jwks).ok()?).ok().filter(|_| same)
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
