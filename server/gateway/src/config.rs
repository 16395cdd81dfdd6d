//! Configuration: one TOML file for `ternd serve`. Every key is listed in [`EXAMPLE`], which a test parses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::auth::{TokenKey, Verifier};
use crate::transport::ShardCount;

/// A complete configuration with its defaults and explanations.
pub const EXAMPLE: &str = include_str!("config.example.toml");

/// What a server needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the store and the server's secrets live.
    pub data: PathBuf,
    /// TCP address.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// UDP address for QUIC; the same as `listen` if not given.
    pub listen_quic: Option<SocketAddr>,
    /// Threads, each with its own listeners, connections and conversations; one per core if not given.
    pub shards: Option<usize>,
    /// The server's certificate.
    pub tls: Tls,
    /// What tokens are accepted.
    pub tokens: Tokens,
}

/// Certificate files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the server's certificate, then intermediates.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// What tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The required `iss`.
    pub issuer: Option<String>,
    /// The required `aud`.
    pub audience: Option<String>,
    /// How far the clocks of the app's backend and of this server may be apart.
    #[serde(default = "default_leeway")]
    pub leeway_seconds: u64,
    /// At least one.
    pub keys: Vec<Key>,
}

/// A key that signs tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// How it signs.
    pub algorithm: Algorithm,
    /// The file: a public key in PEM (EdDSA, ES256), or the secret in base64 (HS256).
    pub file: PathBuf,
    /// The `kid` of tokens that it has signed.
    pub id: Option<String>,
}

/// A signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    EdDSA,
    /// ECDSA on P-256.
    ES256,
    /// HMAC with SHA-256.
    HS256,
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file, or one that it names, cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not TOML, or a key or value is not as expected.
    #[error("{path}: {problem}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and what.
        problem: String,
    },
    /// A value that contradicts another or the machine.
    #[error("{0}")]
    Value(String),
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 7443))
}

fn default_leeway() -> u64 {
    30
}

impl Config {
    /// Reads a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// With the file, the line, and what was expected.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), problem: error.to_string() })?;
        let base = path.parent().unwrap_or(Path::new("."));
        for file in [&mut config.data, &mut config.tls.certificate, &mut config.tls.key]
            .into_iter()
            .chain(config.tokens.keys.iter_mut().map(|key| &mut key.file))
        {
            *file = base.join(&*file);
        }
        config.check(path)?;
        Ok(config)
    }

    /// What the types cannot say.
    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse = |problem: String| Err(ConfigError::Value(format!("{}: {problem}", path.display())));
        if let Some(shards) = self.shards.filter(|shards| ShardCount::new(*shards).is_none()) {
            return refuse(format!("shards is {shards}: expected 1 to {}", ShardCount::MAX));
        }
        if !self.data.is_dir() && !self.data.parent().is_some_and(Path::is_dir) {
            let data = self.data.display();
            return refuse(format!("data: there is no directory {data}, nor one to make it in"));
        }
        let same = |a: &Key, b: &Key| a.algorithm == b.algorithm && (a.id.is_none() || a.id == b.id);
        let keys = &self.tokens.keys;
        if keys
            .iter()
            .enumerate()
            .any(|(i, key)| keys[..i].iter().any(|before| same(key, before) || same(before, key)))
        {
            return refuse(
                "tokens.keys: several keys of one algorithm need an id each, the `kid` of their tokens"
                    .to_owned(),
            );
        }
        if keys.is_empty() {
            return refuse("tokens.keys is empty: no login could succeed".to_owned());
        }
        Ok(())
    }

    /// What checks tokens.
    ///
    /// # Errors
    /// When a key file cannot be read or is not such a key.
    pub fn verifier(&self) -> Result<Verifier, ConfigError> {
        let keys = self.tokens.keys.iter().map(token_key).collect::<Result<Vec<_>, _>>()?;
        let mut verifier = Verifier::new(keys, Duration::from_secs(self.tokens.leeway_seconds));
        if let Some(issuer) = &self.tokens.issuer {
            verifier = verifier.with_issuer(issuer.clone());
        }
        if let Some(audience) = &self.tokens.audience {
            verifier = verifier.with_audience(audience.clone());
        }
        Ok(verifier)
    }
}

fn token_key(key: &Key) -> Result<TokenKey, ConfigError> {
    let text = read(&key.file)?;
    let parsed = match key.algorithm {
        Algorithm::EdDSA => TokenKey::ed25519_pem(&text),
        Algorithm::ES256 => TokenKey::es256_pem(&text),
        Algorithm::HS256 => TokenKey::hs256_base64(text.trim()),
    };
    let parsed =
        parsed.map_err(|error| ConfigError::Parse { path: key.file.clone(), problem: error.to_string() })?;
    Ok(match &key.id {
        Some(id) => parsed.with_kid(id.clone()),
        None => parsed,
    })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_complete_and_valid() {
        let config: Config = toml::from_str(EXAMPLE).expect("the example parses");
        assert_eq!(config.listen, default_listen());
        assert_eq!(config.tokens.leeway_seconds, default_leeway());
        assert_eq!(config.tokens.keys.len(), 1);
    }

    #[test]
    fn mistakes_are_named() {
        #[track_caller]
        fn check(change: (&str, &str), expected: &[&str]) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("tern.toml");
            assert!(EXAMPLE.contains(change.0));
            std::fs::write(&path, EXAMPLE.replace(change.0, change.1)).expect("writable");
            let error = Config::load(&path).expect_err("refused").to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        }
        check(("listen =", "lissen ="), &["tern.toml", "line", "lissen", "listen"]);
        check(("[::]:7443", "nowhere"), &["line", "socket address"]);
        check(("\"EdDSA\"", "\"RS256\""), &["RS256", "ES256"]);
        check(("data =", "# data ="), &["missing field `data`"]);
        check(("# shards = 4", "shards = 0"), &["tern.toml", "shards is 0", "1 to 1024"]);
        check(("/var/lib/tern", "/proc/none/none"), &["/proc/none/none", "directory"]);
        let twice = "[[tokens.keys]]\nalgorithm = \"EdDSA\"\nfile = \"a\"\n\n[[tokens.keys]]";
        check(("[[tokens.keys]]", twice), &["tokens.keys", "id"]);
    }
}
