//! Configuration of `ternd serve`: a TOML file, above it the environment, above that flags. Every key is listed in
//! [`EXAMPLE`], which a test parses.

mod origin;
mod overrides;
mod show;
#[cfg(test)]
mod tests;
mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::admin;
use crate::limits::Limits;
use crate::tls;
use crate::transport::ShardCount;
use crate::transport::proxy::Network;

pub use origin::{Origin, Origins};
pub use overrides::{Override, Overrides};
pub use tokens::{Algorithm, Jwks, Key, Tokens};

/// A complete configuration with its defaults and explanations.
pub const EXAMPLE: &str = include_str!("example.toml");
/// Addresses of one transport; each costs a socket on each shard.
const ADDRESSES_MAX: usize = 16;
/// Each is looked at for every TCP connection.
const PROXIES_MAX: usize = 256;

/// What a server needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the store and the server's secrets live.
    pub data: PathBuf,
    /// TCP addresses.
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// UDP addresses for QUIC; the same as `listen` if not given.
    pub listen_quic: Option<Vec<SocketAddr>>,
    /// Balancers whose TCP connections begin with the PROXY protocol, version 2.
    #[serde(default)]
    pub proxy_protocol_from: Vec<Network>,
    /// Threads, each with its own listeners, connections and conversations; one per core if not given.
    pub shards: Option<usize>,
    /// Where metrics, health and readiness are.
    #[serde(default)]
    pub admin: Admin,
    /// The server's certificate.
    pub tls: Tls,
    /// What tokens are accepted.
    pub tokens: Tokens,
    /// What one address, user or device may take.
    #[serde(default)]
    pub limits: Limits,
}

/// A configuration, and where each of its values was set.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values; paths are absolute or relative to the working directory.
    pub config: Config,
    /// Where they come from.
    pub origins: Origins,
}

/// The admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// TCP address, plain HTTP.
    pub listen: SocketAddr,
    /// Whether `listen` may be an address that other machines can reach.
    pub allow_remote: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: admin::DEFAULT_ADDRESS, allow_remote: false }
    }
}

/// Certificate files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the server's certificate, then intermediates.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// Why a configuration cannot be used: the file and line, variable or flag, what is wrong with it, what was expected.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConfigError(String);

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 7443))]
}

impl Config {
    /// How many shards there will be.
    pub fn shard_count(&self) -> usize {
        self.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Where QUIC is served.
    pub fn quic_addresses(&self) -> &[SocketAddr] {
        self.listen_quic.as_ref().unwrap_or(&self.listen)
    }
}

impl Loaded {
    /// Reads a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// With the file, the line, and what was expected.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))?;
        let (mut config, origins) = origin::read(path, &text, &overrides.0)?;
        let base = path.parent().filter(|base| !base.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for file in [&mut config.data, &mut config.tls.certificate, &mut config.tls.key]
            .into_iter()
            .chain(config.tokens.files())
        {
            *file = base.join(&*file);
        }
        let loaded = Self { config, origins };
        loaded.check()?;
        Ok(loaded)
    }

    /// An error about the value of `key`.
    pub(crate) fn refuse(&self, key: &str, problem: impl std::fmt::Display) -> ConfigError {
        ConfigError(format!("{}: {key}: {problem}", self.origins.at(key)))
    }

    /// What the types cannot say.
    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        if let Some(shards) = config.shards.filter(|shards| ShardCount::new(*shards).is_none()) {
            return Err(self.refuse("shards", format!("{shards} threads: expected 1 to {}", ShardCount::MAX)));
        }
        for (key, addresses) in
            [("listen", Some(&config.listen)), ("listen_quic", config.listen_quic.as_ref())]
        {
            let Some(addresses) = addresses else { continue };
            if !(1..=ADDRESSES_MAX).contains(&addresses.len()) {
                let problem = format!("{} addresses: expected 1 to {ADDRESSES_MAX}", addresses.len());
                return Err(self.refuse(key, problem));
            }
            let twice =
                |i: usize, address: &SocketAddr| address.port() != 0 && addresses[..i].contains(address);
            if let Some((_, address)) = addresses.iter().enumerate().find(|(i, address)| twice(*i, address)) {
                return Err(self.refuse(key, format!("{address} is there twice")));
            }
        }
        let proxies = config.proxy_protocol_from.len();
        if proxies > PROXIES_MAX {
            let problem = format!("{proxies} networks: expected at most {PROXIES_MAX}");
            return Err(self.refuse("proxy_protocol_from", problem));
        }
        if !config.data.is_dir() && !config.data.parent().is_some_and(Path::is_dir) {
            let data = config.data.display();
            return Err(self.refuse("data", format!("there is no directory {data}, nor one to make it in")));
        }
        admin::check(config.admin.listen, config.admin.allow_remote)
            .map_err(|error| self.refuse("admin.listen", error))?;
        config.limits.check().map_err(|(key, problem)| self.refuse(key, problem))?;
        self.check_tokens()
    }

    /// The certificate.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub fn identity(&self) -> Result<tls::Identity, ConfigError> {
        let files = &self.config.tls;
        tls::Identity::from_pem_files(&files.certificate, &files.key)
            .map_err(|error| self.refuse("tls", error))
    }
}
