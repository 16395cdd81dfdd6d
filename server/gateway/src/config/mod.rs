//! Configuration of `ternd serve`: a TOML file, above it the environment, above that flags. Every key is listed in
//! [`EXAMPLE`], which a test parses.

mod cluster;
mod origin;
mod overrides;
mod schema;
mod show;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tern_store::limits::PREFIX_BYTES_MAX;
use thiserror::Error;

use crate::admin;
use crate::limits::Limits;
use crate::store::{HAS_FDB, Place, StoreError};
use crate::tls;
use crate::transport::proxy::Network;

pub use cluster::ClusterSettings;
pub use origin::{Origin, Origins};
pub use overrides::{Override, Overrides, strangers};
pub use tokens::{Algorithm, Jwks, Key, Tokens};

/// A complete configuration with its defaults and explanations.
pub const EXAMPLE: &str = include_str!("example.toml");

/// What a server needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the server's secrets live, and the store if it is embedded.
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
    /// Where conversations are kept.
    #[serde(default)]
    pub store: Store,
    /// Where metrics, health and readiness are.
    #[serde(default)]
    pub admin: Admin,
    /// The server's certificate.
    pub tls: Tls,
    /// The cluster that it is a node of, if any.
    pub cluster: Option<ClusterSettings>,
    /// What tokens are accepted.
    #[serde(default)]
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

/// Where conversations are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// In what.
    pub kind: StoreKind,
    /// Which FoundationDB cluster.
    pub cluster_file: Option<PathBuf>,
    /// In front of every key there.
    pub prefix: String,
}

/// In what conversations are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In the data directory.
    #[default]
    Embedded,
    /// In FoundationDB.
    Fdb,
}

impl Store {
    /// Which store that is.
    pub fn place(&self) -> Place {
        match self.kind {
            StoreKind::Embedded => Place::Embedded,
            StoreKind::Fdb => Place::Fdb {
                cluster_file: self.cluster_file.clone().unwrap_or_default(),
                prefix: self.prefix.clone(),
            },
        }
    }

    /// How its values have to fit together: which one does not, and why.
    fn check(&self) -> Result<(), (&'static str, String)> {
        match (self.kind, &self.cluster_file) {
            (StoreKind::Fdb, _) if !HAS_FDB => Err(("store.kind", StoreError::NotBuilt.to_string())),
            (StoreKind::Fdb, None) => Err((
                "store.cluster_file",
                "is missing: a store in FoundationDB needs the cluster's, such as \"/etc/foundationdb/fdb.cluster\""
                    .to_owned(),
            )),
            (StoreKind::Fdb, Some(_)) if self.prefix.len() > PREFIX_BYTES_MAX => Err((
                "store.prefix",
                format!("{} bytes: expected at most {PREFIX_BYTES_MAX}", self.prefix.len()),
            )),
            (StoreKind::Embedded, Some(_)) => Err((
                "store.cluster_file",
                "the store is embedded: expected `kind = \"fdb\"` (or --store fdb) beside it".to_owned(),
            )),
            _ => Ok(()),
        }
    }
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

/// Why a configuration cannot be used: of each mistake the file and line, variable or flag, what is wrong with it, what
/// was expected.
#[derive(Debug, Error)]
pub struct ConfigError(Vec<Mistake>);

#[derive(Debug)]
struct Mistake {
    key: String,
    /// 0: not in the file.
    line: usize,
    text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => f.write_str(&one.text),
            several => {
                write!(f, "{} mistakes in the configuration:", several.len())?;
                several.iter().try_for_each(|mistake| write!(f, "\n{}", mistake.text))
            }
        }
    }
}

impl ConfigError {
    /// Nothing is wrong so far.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Keeps the order of the file. What may be wrong only because something else is, is left out.
    fn add(&mut self, mistake: Mistake) {
        if !self.0.iter().any(|before| origin::are_related(&before.key, &mistake.key)) {
            let at = self.0.partition_point(|before| before.line <= mistake.line);
            self.0.insert(at, mistake);
        }
    }

    /// Takes the mistakes, if there are any.
    pub(crate) fn note<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        result.map_err(|error| error.0.into_iter().for_each(|mistake| self.add(mistake))).ok()
    }

    /// The value, if nothing is wrong.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// The values, if there are all of them.
    pub(crate) fn or_all<T>(self, values: Option<T>) -> Result<T, Self> {
        values.ok_or(self)
    }
}

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
    /// Reads a file. Relative paths in it are relative to its directory. When something is wrong with it, the files that
    /// it names are looked at as well, so that everything is told at once.
    ///
    /// # Errors
    /// Each mistake with the file, the line, and what was expected.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let text = format!("cannot read {}: {error}", path.display());
            ConfigError(vec![Mistake { key: String::new(), line: 0, text }])
        })?;
        let mut mistakes = ConfigError::none();
        let (mut config, origins) = origin::read(path, &text, &overrides.0, &mut mistakes)?;
        let base = path.parent().filter(|base| !base.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for file in [&mut config.data, &mut config.tls.certificate, &mut config.tls.key]
            .into_iter()
            .chain(&mut config.store.cluster_file)
            .chain(config.tokens.files())
            .chain(config.cluster.iter_mut().flat_map(ClusterSettings::files))
        {
            *file = base.join(&*file);
        }
        let loaded = Self { config, origins };
        mistakes.note(loaded.check());
        if !mistakes.0.is_empty() {
            mistakes.note(loaded.identity().map(drop));
            mistakes.note(loaded.link_identity().map(drop));
            mistakes.note(loaded.verifier().map(drop));
            mistakes.note(loaded.jwks_fetcher().map(drop));
        }
        mistakes.or(loaded)
    }

    /// An error about the value of `key`.
    pub(crate) fn refuse(&self, key: &str, problem: impl fmt::Display) -> ConfigError {
        ConfigError(vec![self.origins.mistake(key, problem)])
    }

    /// How values have to fit together, and to the machine.
    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let mut mistakes = ConfigError::none();
        for (key, addresses) in
            [("listen", Some(&config.listen)), ("listen_quic", config.listen_quic.as_ref())]
        {
            let addresses = addresses.map_or(&[][..], |addresses| addresses);
            for (i, address) in addresses.iter().enumerate() {
                if address.port() != 0 && addresses[..i].contains(address) {
                    mistakes.add(
                        self.origins.mistake(&format!("{key}[{i}]"), format!("{address} is there twice")),
                    );
                }
            }
        }
        if !config.data.is_dir() && !config.data.parent().is_some_and(Path::is_dir) {
            let data = config.data.display();
            mistakes.add(self.origins.mistake(
                "data",
                format!("there is no directory {data}, nor one to make it in: make it first"),
            ));
        }
        let admin = config.admin.listen;
        mistakes.note(
            admin::check(admin, config.admin.allow_remote)
                .map_err(|error| self.refuse("admin.listen", error)),
        );
        if let Some(taken) = config.listen.iter().find(|address| overlap(**address, admin)) {
            let problem = format!(
                "{admin} is taken by {taken} in `listen`: expected a port of its own, such as {}",
                admin::DEFAULT_ADDRESS
            );
            mistakes.add(self.origins.mistake("admin.listen", problem));
        }
        mistakes.note(config.store.check().map_err(|(key, problem)| self.refuse(key, problem)));
        mistakes.note(config.limits.check().map_err(|(key, problem)| self.refuse(key, problem)));
        mistakes.note(self.check_tokens());
        mistakes.note(self.check_cluster());
        mistakes.or(())
    }

    /// The certificate.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub fn identity(&self) -> Result<tls::Identity, ConfigError> {
        let Tls { certificate, key } = &self.config.tls;
        let files = [("tls.key", key), ("tls.certificate", certificate)];
        self.with_files(&files, || tls::Identity::from_pem_files(certificate, key))
    }

    /// What is made of files that have to be there. What is wrong is about one of them, else about the first.
    fn with_files<T>(
        &self,
        files: &[(&str, &PathBuf)],
        make: impl FnOnce() -> Result<T, tls::TlsError>,
    ) -> Result<T, ConfigError> {
        let mut mistakes = ConfigError::none();
        for (key, path) in files {
            mistakes.note(std::fs::File::open(path).map_err(|error| self.cannot_read(key, path, &error)));
        }
        mistakes.or(())?;
        make().map_err(|error| {
            let file = files.iter().find(|(_, path)| error.path() == Some(path)).or(files.first());
            self.refuse(file.map_or("", |(key, _)| key), error)
        })
    }

    /// What is named by `key` is not there, or is others'.
    fn cannot_read(&self, key: &str, path: &Path, error: &io::Error) -> ConfigError {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "this user may not: `ternd` runs as the user of its service, which needs to be let in"
                    .to_owned()
            }
            _ => error.to_string(),
        };
        self.refuse(key, format!("{} cannot be read: {why}", path.display()))
    }
}

/// Whether both cannot be listened on. `[::]` takes IPv4 too.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |one: IpAddr, other: IpAddr| {
        one == other || one.is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    let (a, b) = (one.ip(), other.ip());
    one.port() != 0 && one.port() == other.port() && (takes(a, b) || takes(b, a))
}
