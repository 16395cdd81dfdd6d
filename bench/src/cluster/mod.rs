//! A cluster for a run: real nodes on a real FoundationDB, each in a network of its own, and what can go wrong with them.
//!
//! - [`network`]: namespaces of the kernel, and ways between them that can be cut.
//! - [`store`]: FoundationDB; [`node`]: one `ternd`; [`files`]: keys, certificates and configurations.
//! - [`fault`]: what goes wrong; [`course`]: one fault after the other, and what clients noticed of each.

pub mod course;
pub mod fault;
pub mod files;
pub mod network;
pub mod node;
pub mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tern_server::admin;
use tern_server::metrics::text;

use self::files::Files;
use self::network::{Host, Network};
use self::node::Node;
use self::store::Store;
use crate::Error;
use crate::interrupt::Directory;
use crate::server::Server;

/// Nodes, at most: each has an address of its own.
pub const NODES_MAX: usize = 16;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// `ternd` with FoundationDB.
    pub ternd: PathBuf,
    /// FoundationDB's server.
    pub fdbserver: PathBuf,
    /// FoundationDB's command line.
    pub fdbcli: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// Threads of each.
    pub shards: Option<usize>,
    /// Where everything is kept; `None`: in a temporary directory.
    pub directory: Option<PathBuf>,
}

/// A cluster. Everything of it ends with this. Whoever makes one is in its network from then on, and so are the threads
/// and processes that they start.
pub struct Cluster {
    nodes: Vec<Node>,
    store: Store,
    network: Network,
    files: Files,
    runtime: tokio::runtime::Runtime,
    temporary: Option<Directory>,
}

impl Cluster {
    /// Starts the store and all nodes. Call [`Self::is_whole`] until they have found each other.
    ///
    /// # Errors
    /// What is missing on this machine, or what did not start.
    pub fn start(parts: &Parts) -> Result<Self, Error> {
        let temporary = match parts.directory {
            Some(_) => None,
            None => Some(Directory::new().map_err(Error::io("cannot make a temporary directory"))?),
        };
        let root = parts.directory.as_deref().or(temporary.as_ref().map(Directory::path));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::io("cannot start a runtime"))?;
        let network = Network::new(parts.nodes)?;
        let files = Files::make(root.unwrap_or(Path::new(".")), parts)?;
        let store = Store::start(parts, &files, &network)?;
        let nodes = (1..=parts.nodes).map(|number| {
            let mut node = Node::new(number, &parts.ternd, &files);
            node.start(&network).map(|()| node)
        });
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { nodes, store, network, files, runtime, temporary })
    }

    /// As clients see it.
    ///
    /// # Errors
    /// When its keys cannot be read.
    pub fn server(&self) -> Result<Server, Error> {
        let addresses: Vec<String> =
            self.nodes.iter().map(|node| Files::client_address(node.number).to_string()).collect();
        Server::elsewhere(addresses.join(","), self.files.authority()?, self.files.keys(), None)
    }

    /// Whether all nodes serve, and each has a link to every other one.
    pub fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| {
            let address = Files::admin_address(node.number);
            self.is_ready(address) && self.sees(address).is_some_and(|seen| seen == self.nodes.len())
        })
    }

    fn is_ready(&self, admin: SocketAddr) -> bool {
        let answer = self.runtime.block_on(admin::get(admin, "/ready"));
        answer.is_ok_and(|(status, _)| status.is_success())
    }

    /// Nodes that this one has a link to, itself included; `None` while it counts others than those.
    fn sees(&self, admin: SocketAddr) -> Option<usize> {
        let (_, metrics) = self.runtime.block_on(admin::get(admin, "/metrics")).ok()?;
        let samples = text::parse(&metrics)?;
        let value = |name: &str| {
            samples.iter().find(|sample| sample.name == name).map(|sample| sample.value as usize)
        };
        let (nodes, links) = (value("tern_cluster_nodes")?, value("tern_cluster_links_up")?);
        (links + 1 == nodes).then_some(nodes)
    }

    /// That everything runs that is to run. FoundationDB is started again when it has ended by itself.
    ///
    /// # Errors
    /// [`Error::Server`] with what has ended, and where it says why.
    pub fn check(&mut self) -> Result<(), Error> {
        self.store.tend(&self.network)?;
        self.nodes.iter_mut().try_for_each(Node::check)
    }

    /// That no node has said that it has panicked.
    ///
    /// # Errors
    /// [`Error::Server`] with the log.
    pub fn check_logs(&self) -> Result<(), Error> {
        self.nodes.iter().try_for_each(Node::check_log)
    }

    /// What the nodes have said is kept, and where.
    ///
    /// # Errors
    /// When the logs cannot be copied.
    pub fn keep_logs(&self) -> Result<PathBuf, Error> {
        match &self.temporary {
            None => Ok(self.files.logs()),
            Some(_) => {
                let kept = tempfile::Builder::new().prefix("tern-cluster-logs-").tempdir();
                let kept = kept.map_err(Error::io("cannot make a directory for the nodes' logs"))?.keep();
                for node in &self.nodes {
                    let to = kept.join(format!("node-{}.log", node.number));
                    std::fs::copy(node.log(), to).map_err(Error::io("cannot copy a node's log"))?;
                }
                Ok(kept)
            }
        }
    }

    /// How often FoundationDB has ended by itself.
    pub fn store_fell(&self) -> u32 {
        self.store.fell()
    }

    /// CPU time of all nodes so far, and of the store.
    pub fn cpu(&mut self) -> (Duration, Duration) {
        (self.nodes.iter_mut().map(Node::cpu).sum(), self.store.cpu())
    }
}

/// The place of a node in the network.
fn host(number: usize) -> Host {
    Host::Node(number)
}
