//! The process with all nodes of one cluster, whose links are as between machines: QUIC with mutual TLS. What the nodes take
//! is what the process takes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tern_core::cluster::LEASE_MS;
use tern_protocol::ids::NodeId;
use tern_server::admin;
use tern_server::auth::{Minter, Verifier};
use tern_server::clock;
use tern_server::cluster::member::ClusterSetup;
use tern_server::cluster::quic::LinkIdentity;
use tern_server::limits::Limits;
use tern_server::metrics::catalog::{self, Family};
use tern_server::metrics::text;
use tern_server::server::{Server, Setup};
use tern_server::store::Place;
use tern_server::tls::{CurrentIdentity, DevIdentity};
use tern_server::transport::inherited::Inherited;
use tern_store::memory::Memory;
use tern_store::ops::lease;
use tokio::runtime::Runtime;

use crate::Error;
use crate::child::{self, Process};
use crate::interrupt::Directory;
use crate::link_keys::LinkAuthority;
use crate::server;

/// The clock of the store in memory stands still unless it is moved.
const TICK: Duration = Duration::from_millis(20);
/// From the first node's start until all have links to each other.
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether they have.
const GLANCE: Duration = Duration::from_millis(50);
/// For some time after nodes have come, news go to all of them; this is longer.
const SETTLED: Duration = Duration::from_millis(LEASE_MS + 1_000);

/// What the process is told.
#[derive(Debug, Clone, clap::Args)]
pub struct HostArgs {
    /// How many
    #[arg(long)]
    pub nodes: usize,
    /// Threads of each
    #[arg(long)]
    pub shards: usize,
    /// For keys, empty
    #[arg(long)]
    pub directory: PathBuf,
}

/// What it says when all nodes know each other.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    /// The same place belongs to the same node.
    addresses: Vec<SocketAddr>,
    ids: Vec<u64>,
    admins: Vec<SocketAddr>,
    /// The authority of their certificates for clients, PEM.
    ca: String,
}

/// A cluster, as its parent has it.
pub struct Host {
    process: Process,
    greeting: Greeting,
    keys: Directory,
}

/// A cluster whose nodes may not know each other yet.
pub struct Starting {
    process: Process,
    keys: Directory,
}

impl Starting {
    /// Starts a process with so many nodes, with so many threads each.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(nodes: usize, shards: usize) -> Result<Self, Error> {
        let keys = Directory::new().map_err(Error::io("cannot make a temporary directory"))?;
        let process = Process::start(&[
            "nodes-host".to_owned(),
            format!("--nodes={nodes}"),
            format!("--shards={shards}"),
            "--directory".to_owned(),
            keys.path().to_string_lossy().into_owned(),
        ])?;
        Ok(Self { process, keys })
    }

    /// Waits until they do.
    ///
    /// # Errors
    /// What the process says is wrong.
    pub fn whole(mut self) -> Result<Host, Error> {
        let greeting = self.process.hear()?;
        Ok(Host { process: self.process, greeting, keys: self.keys })
    }
}

impl Host {
    /// As clients see it.
    ///
    /// # Errors
    /// When its keys cannot be read.
    pub fn server(&self) -> Result<server::Server, Error> {
        let addresses: Vec<String> = self.greeting.addresses.iter().map(SocketAddr::to_string).collect();
        let (ca, pid) = (self.greeting.ca.clone().into_bytes(), self.process.id());
        server::Server::elsewhere(addresses.join(","), ca, self.keys.path(), Some(pid))
    }

    /// The nodes, in the order of their addresses.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeId> + Clone {
        self.greeting.ids.iter().copied().map(NodeId)
    }

    /// Clients that are logged in on each.
    ///
    /// # Errors
    /// When a node does not say.
    pub fn sessions(&self) -> Result<Vec<usize>, Error> {
        let sessions = async |admin| {
            let sessions = number(admin, &catalog::SESSIONS).await;
            sessions.ok_or_else(|| Error::Server(format!("the node at {admin} does not tell its metrics")))
        };
        let runtime = runtime()?;
        self.greeting.admins.iter().map(|admin| runtime.block_on(sessions(*admin))).collect()
    }
}

/// Runs the nodes until standard input ends.
pub fn run(args: &HostArgs) -> ExitCode {
    child::work(|| host(args))
}

fn host(args: &HostArgs) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Server(format!("the nodes cannot start: {error}"));
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let identity = DevIdentity::load_or_create(&args.directory, &[], clock::wall());
    let DevIdentity { identity, ca_pem } = identity.map_err(|error| failed(&error))?;
    let minter = Minter::load_or_create(&args.directory).map_err(|error| failed(&error))?;
    let key = minter.token_key().map_err(|error| failed(&error))?;
    let link = link_identity(&args.directory)?;
    let store = Memory::new();
    keep_time(store.clone());
    let mut nodes = Vec::new();
    for number in 0..args.nodes {
        let node = NodeParts {
            name: format!("node-{number}"),
            shards: args.shards,
            identity: CurrentIdentity::new(identity.clone()),
            verifier: Verifier::new(vec![key.clone()], Duration::ZERO),
            link: link.clone(),
        };
        let data = args.directory.join(&node.name);
        std::fs::create_dir(&data).map_err(Error::io("cannot make a node's directory"))?;
        let server = Server::start_on(node.setup(&data), Some(Arc::new(store.clone())));
        nodes.push(server.map_err(|error| failed(&error))?);
    }
    runtime.block_on(until_whole(&nodes))?;
    let leases = runtime.block_on(lease::read(&store)).map_err(|error| failed(&error))?;
    let id = |number: usize| {
        let lease = leases.iter().find(|(_, lease)| lease.name == format!("node-{number}"));
        lease.map(|(id, _)| id.0).ok_or(Error::Driver)
    };
    child::say(&Greeting {
        addresses: nodes.iter().map(|node| node.tcp[0]).collect(),
        ids: (0..nodes.len()).map(id).collect::<Result<_, _>>()?,
        admins: nodes.iter().map(|node| node.admin).collect(),
        ca: ca_pem,
    })?;
    // They tell their metrics meanwhile.
    let ended = runtime.block_on(tokio::task::spawn_blocking(child::until_input_ends));
    ended.map_err(|_| Error::Driver)
}

fn runtime() -> Result<Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::io("cannot start a runtime"))
}

/// What makes a node.
struct NodeParts {
    name: String,
    shards: usize,
    identity: Arc<CurrentIdentity>,
    verifier: Verifier,
    link: LinkIdentity,
}

impl NodeParts {
    fn setup(self, data: &Path) -> Setup {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Setup {
            data: data.to_owned(),
            store: Place::Embedded,
            tcp: vec![any],
            quic: vec![any],
            shards: self.shards,
            inherited: Inherited::default(),
            proxies: Vec::new(),
            admin: vec![any],
            identity: self.identity,
            verifier: self.verifier,
            limits: Limits::OFF,
            cluster: Some(ClusterSetup {
                listen: any,
                advertise: None,
                clients: Vec::new(),
                name: self.name,
                identity: self.link,
            }),
            reloads: Arc::default(),
        }
    }
}

/// Lets the store's time pass as the machine's does: it forgets what nobody may read any more.
fn keep_time(store: Memory) {
    let start = Instant::now();
    thread::spawn(move || {
        loop {
            thread::sleep(TICK);
            let now = start.elapsed().as_millis() as u64;
            store.clock().advance_ms(now.saturating_sub(store.clock().now_ms()));
        }
    });
}

/// What all nodes show each other. Its files are made in this directory.
fn link_identity(directory: &Path) -> Result<LinkIdentity, Error> {
    let authority = LinkAuthority::new()?;
    let (certificate, key) = authority.node()?;
    let pems = [("links.pem", &authority.certificate), ("link.pem", &certificate), ("link.key", &key)];
    let paths = pems.map(|(name, pem)| (directory.join(name), pem));
    for (path, pem) in &paths {
        fs::write(path, pem).map_err(Error::io(format!("cannot write {}", path.display())))?;
    }
    let [(ca, _), (certificate, _), (key, _)] = &paths;
    LinkIdentity::load(ca, certificate, key).map_err(|error| Error::Server(error.to_string()))
}

/// Waits until each node has links to all others, and trusts that they know where everybody is.
async fn until_whole(nodes: &[Server]) -> Result<(), Error> {
    let linked = async {
        for node in nodes {
            while number(node.admin, &catalog::CLUSTER_LINKS_UP).await != Some(nodes.len() - 1) {
                tokio::time::sleep(GLANCE).await;
            }
        }
    };
    tokio::time::timeout(WHOLE_MAX, linked).await.map_err(|_| {
        Error::Server(format!("the nodes have not found each other within {} s", WHOLE_MAX.as_secs()))
    })?;
    tokio::time::sleep(SETTLED).await;
    Ok(())
}

/// What a node tells of itself, the sum of all its threads.
async fn number(admin: SocketAddr, family: &Family) -> Option<usize> {
    let (_, page) = admin::get(admin, "/metrics").await.ok()?;
    let samples = text::parse(&page)?;
    let values = samples.iter().filter(|sample| sample.name == family.name);
    Some(values.map(|sample| sample.value as usize).sum())
}
