//! The cluster that a server is a node of: `[cluster]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tern_protocol::limits::TARGET_BYTES_MAX;

use super::{ConfigError, Loaded, overlap};
use crate::cluster::quic::LinkIdentity;
use crate::store::Place;

/// Bytes of a node's name.
const NAME_BYTES_MAX: usize = 64;
/// Where the system says what it is called.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// What a node needs to be one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// UDP address for links from other nodes, and for those to them.
    pub listen: SocketAddr,
    /// The address at which other nodes reach it, when that is not `listen`; see [`Self::advertised`].
    pub advertise: Option<SocketAddr>,
    /// Where clients reach this node and no other, `host:port`: those of a node that leaves are sent there.
    pub advertise_clients: Option<String>,
    /// What people call it; see [`Self::name_or_host`].
    pub name: Option<String>,
    /// PEM: the authorities whose certificates nodes have.
    pub ca: PathBuf,
    /// PEM: this node's certificate, then intermediates.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

impl ClusterSettings {
    /// The address at which other nodes reach it.
    pub fn advertised(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }

    /// What people call it: its name, else the host's, else the address that it listens on.
    pub fn name_or_host(&self) -> String {
        let host = || std::fs::read_to_string(HOST_NAME).ok();
        let host = || host().map(|name| name.trim().to_owned()).filter(|name| is_good_name(name));
        self.name.clone().or_else(host).unwrap_or_else(|| self.listen.to_string())
    }

    /// Every file that is named.
    pub(super) fn files(&mut self) -> [&mut PathBuf; 3] {
        [&mut self.ca, &mut self.certificate, &mut self.key]
    }
}

/// It stands in tables and labels.
fn is_good_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control)
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let can_be_dialled = match host.parse::<IpAddr>() {
        Ok(ip) => !ip.is_unspecified(),
        Err(_) => ServerName::try_from(host).is_ok(),
    };
    can_be_dialled && port.parse::<u16>().is_ok_and(|port| port > 0) && address.len() <= TARGET_BYTES_MAX
}

impl Loaded {
    /// How values of `[cluster]` have to fit together, and to others.
    pub(super) fn check_cluster(&self) -> Result<(), ConfigError> {
        let Some(cluster) = &self.config.cluster else { return Ok(()) };
        let mut mistakes = ConfigError::none();
        let mut refuse = |key: &str, problem: String| {
            mistakes.note::<()>(Err(self.refuse(key, problem)));
        };
        if let Some(taken) = self.config.quic_addresses().iter().find(|quic| overlap(**quic, cluster.listen))
        {
            refuse(
                "cluster.listen",
                format!(
                    "{} is taken by {taken} for clients (QUIC): expected a port of its own",
                    cluster.listen
                ),
            );
        }
        let advertised = cluster.advertised();
        if advertised.ip().is_unspecified() || advertised.port() == 0 {
            let expected =
                "no node can dial it: expected the address of this machine, such as \"192.0.2.11:7444\"";
            let problem = match cluster.advertise {
                Some(_) => format!("{advertised}: {expected}"),
                None => format!("is missing, and {advertised} in `cluster.listen` does not do: {expected}"),
            };
            refuse("cluster.advertise", problem);
        }
        if let Some(address) = cluster.advertise_clients.as_ref().filter(|address| !is_host_and_port(address))
        {
            let expected =
                "expected a name or an address and a port, such as \"node-1.chat.example.com:7443\"";
            refuse("cluster.advertise_clients", format!("{address:?}: {expected}"));
        }
        if let Some(name) = cluster.name.as_ref().filter(|name| !is_good_name(name)) {
            refuse(
                "cluster.name",
                format!("{name:?}: expected 1 to {NAME_BYTES_MAX} bytes without control characters"),
            );
        }
        mistakes.or(())
    }

    /// By what this node knows others and is known to them; `None`: it is in no cluster.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub fn link_identity(&self) -> Result<Option<LinkIdentity>, ConfigError> {
        let Some(cluster) = &self.config.cluster else { return Ok(None) };
        let ClusterSettings { ca, certificate, key, .. } = cluster;
        let files = [("cluster.certificate", certificate), ("cluster.ca", ca), ("cluster.key", key)];
        self.with_files(&files, || LinkIdentity::load(ca, certificate, key)).map(Some)
    }

    /// Whether the store is one that several nodes can share.
    ///
    /// # Errors
    /// When there is a `[cluster]` and each node would have a store of its own.
    pub fn check_cluster_store(&self) -> Result<(), ConfigError> {
        match (&self.config.cluster, self.config.store.place()) {
            (None, _) | (Some(_), Place::Fdb { .. }) => Ok(()),
            (Some(_), Place::Embedded) => {
                let problem = "clusters need store.kind = \"fdb\", since the embedded store is for one node: set it, or \
                               leave the section out";
                Err(self.refuse("cluster", problem))
            }
        }
    }
}
