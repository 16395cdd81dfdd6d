//! Nodes of a cluster in this process, on one store in memory.

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tern_core::routing::SlotMap;
use tern_protocol::ids::{ConversationId, NodeId};
use tern_proxy::Proxy;
use tern_proxy::plan::{Blackout, FaultPlan};
use tern_server::admin::get;
use tern_server::auth::{Minter, Verifier};
use tern_server::clock;
use tern_server::cluster::member::ClusterSetup;
use tern_server::cluster::quic::{LinkIdentity, NODE_NAME};
use tern_server::limits::Limits;
use tern_server::metrics::catalog::{self, Family};
use tern_server::metrics::text;
use tern_server::server::{Server, Setup, StartError};
use tern_server::store::Place;
use tern_server::tls::{CurrentIdentity, DevIdentity};
use tern_server::transport::inherited::Inherited;
use tern_store::memory::Memory;
use tern_store::ops::lease;
use tern_store::{BoxFuture, CommitError, Kv, RangeQuery, StoreError, Transaction, Version};

use crate::support::{PATIENCE, group, port};

/// Shards of each node.
const SHARDS: usize = 2;
/// Longer than any test.
const FOR_EVER_MS: u64 = 3_600_000;

/// Longer than the time after which nodes trust each other to know where everybody is.
pub(crate) const SETTLED: Duration = Duration::from_secs(6);

/// What the nodes share.
pub(crate) struct Cluster {
    pub(crate) store: Memory,
    files: TempDir,
    minter: Minter,
    /// Where clients may go.
    addresses: RefCell<Vec<SocketAddr>>,
}

/// One of them.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    server: Server,
    way: Way,
    link: Proxy,
    _data: TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let minter = Minter::load_or_create(files.path()).expect("a key");
        DevIdentity::load_or_create(files.path(), &[], clock::wall()).expect("a certificate");
        let authority = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&authority).expect("signed").pem();
        let authority = Issuer::new(params, authority);
        let mut params = CertificateParams::new([NODE_NAME.to_owned()]).expect("a name");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &authority).expect("signed").pem();
        let pems = [("links.pem", root), ("link.pem", certificate), ("link.key", key.serialize_pem())];
        for (name, pem) in pems {
            fs::write(files.path().join(name), pem).expect("writable");
        }
        Self { store: Memory::new(), files, minter, addresses: RefCell::default() }
    }

    /// With so many nodes, in the order of their ids, each with links to all others.
    pub(crate) async fn of(count: usize) -> (Self, Vec<Node>) {
        let cluster = Self::new();
        let mut nodes = Vec::new();
        for n in 0..count {
            nodes.push(cluster.start(&format!("node {n}")).await);
        }
        nodes.sort_by_key(|node| node.id);
        linked(&nodes.iter().collect::<Vec<_>>()).await;
        (cluster, nodes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Starts one more. Others reach it by way of a proxy.
    pub(crate) async fn start(&self, name: &str) -> Node {
        let data = tempfile::tempdir().expect("a temporary directory");
        let (clients, listen) = (port::lasting(), port::lasting());
        let plan = FaultPlan {
            blackout: Some(Blackout {
                every_ms: FOR_EVER_MS,
                for_ms: FOR_EVER_MS - 1,
                cuts: false,
                answers_only: false,
            }),
            first_event_ms: Some(1),
            ..FaultPlan::default()
        };
        let link = Proxy::start(listen, plan, 1).expect("a free port");
        let way = Way { memory: self.store.clone(), is_cut: Arc::default() };
        let node = ClusterSetup {
            listen,
            advertise: Some(link.address),
            clients: vec![clients.to_string()],
            name: name.to_owned(),
            identity: self.identity(),
        };
        let setup = self.setup(data.path(), clients, Some(node));
        let server = Server::start_on(setup, Some(Arc::new(way.clone()))).expect("it starts");
        let leases = lease::read(&self.store).await.expect("it can be read");
        let mine = leases.iter().find(|(_, lease)| lease.name == name).expect("the lease is there first");
        let (id, address) = (mine.0, server.tcp[0]);
        assert_eq!(mine.1.link, link.address.to_string(), "the address that is advertised");
        self.addresses.borrow_mut().push(address);
        Node { id, address, admin: server.admin, server, way, link, _data: data }
    }

    /// Tries to start a server on the same store: a node that listens there for links, or none.
    pub(crate) fn try_start(&self, links: Option<SocketAddr>) -> Result<(Server, TempDir), StartError> {
        let data = tempfile::tempdir().expect("a temporary directory");
        let node = links.map(|listen| ClusterSetup {
            listen,
            advertise: None,
            clients: Vec::new(),
            name: "one more".to_owned(),
            identity: self.identity(),
        });
        let setup = self.setup(data.path(), port::lasting(), node);
        Server::start_on(setup, Some(Arc::new(self.store.clone()))).map(|server| (server, data))
    }

    fn setup(&self, data: &Path, clients: SocketAddr, cluster: Option<ClusterSetup>) -> Setup {
        let identity =
            DevIdentity::load_or_create(self.files.path(), &[], clock::wall()).expect("made before");
        Setup {
            data: data.to_owned(),
            store: Place::Embedded,
            tcp: vec![clients],
            quic: vec![clients],
            shards: SHARDS,
            inherited: Inherited::default(),
            proxies: Vec::new(),
            admin: vec![([127, 0, 0, 1], 0).into()],
            identity: CurrentIdentity::new(identity.identity),
            verifier: Verifier::new(vec![self.minter.token_key().expect("a key")], Duration::ZERO),
            limits: Limits::OFF,
            cluster,
            reloads: Default::default(),
        }
    }

    /// By what its nodes know each other.
    pub(crate) fn identity(&self) -> LinkIdentity {
        let load =
            LinkIdentity::load(&self.path("links.pem"), &self.path("link.pem"), &self.path("link.key"));
        load.expect("made before")
    }

    pub(crate) fn token(&self, user: &str) -> String {
        self.minter.mint(user, Duration::from_secs(3600), clock::wall()).expect("a good name")
    }

    pub(crate) fn ca(&self) -> Vec<u8> {
        fs::read(self.path("ca.pem")).expect("made before")
    }

    /// Another address than this one, in turn.
    pub(crate) fn address_after(&self, address: SocketAddr) -> SocketAddr {
        let all = self.addresses.borrow();
        let at = all.iter().position(|other| *other == address).map_or(0, |at| at + 1);
        all[at % all.len()]
    }
}

impl Node {
    /// A number that it tells of itself, for all shards or nodes together.
    pub(crate) async fn number(&self, family: &Family) -> u64 {
        self.value(family).await as u64
    }

    /// The same, with its fraction.
    pub(crate) async fn value(&self, family: &Family) -> f64 {
        let (_, page) = get(self.admin, "/metrics").await.expect("the admin listener is there");
        let samples = text::parse(&page).expect("the text format");
        let numbers: Vec<_> =
            samples.iter().filter(|sample| sample.name == family.name).map(|sample| sample.value).collect();
        numbers.iter().sum()
    }

    /// Waits until it tells more than this.
    pub(crate) async fn tells_above(&self, family: &Family, number: f64) {
        let telling = async {
            // Not a number is not above.
            while self.value(family).await.partial_cmp(&number) != Some(std::cmp::Ordering::Greater) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, telling).await;
        assert!(told.is_ok(), "{} does not come above {number}", family.name);
    }

    /// Where other nodes reach it.
    pub(crate) fn link(&self) -> SocketAddr {
        self.server.link.expect("it is in a cluster")
    }

    /// Waits until it tells this number.
    pub(crate) async fn tells(&self, family: &Family, number: u64) {
        let telling = async {
            while self.number(family).await != number {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, telling).await;
        assert!(told.is_ok(), "{} does not become {number}", family.name);
    }

    /// From now on no node with a lower id has a link to this one, and it has one to all with a higher id: the lower calls.
    pub(crate) fn cut_links(&self) {
        self.link.begin_events();
    }

    /// They can call it again.
    pub(crate) fn mend_links(&self) {
        self.link.calm_down();
    }

    /// Whether it reaches the store.
    pub(crate) fn reaches_store(&self, reaches: bool) {
        self.way.is_cut.store(!reaches, Ordering::SeqCst);
    }

    /// See [`Server::stop`].
    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

/// Waits until each of them has links to all others, and to nobody else.
pub(crate) async fn linked(nodes: &[&Node]) {
    for node in nodes {
        node.tells(&catalog::CLUSTER_NODES, nodes.len() as u64).await;
        node.tells(&catalog::CLUSTER_LINKS_UP, nodes.len() as u64 - 1).await;
    }
}

/// Whether a node owns a conversation, of these nodes.
pub(crate) fn owns(owner: &Node, nodes: &[&Node]) -> impl Fn(ConversationId) -> bool + use<> {
    let (map, owner) = (SlotMap::new(nodes.iter().map(|node| node.id)), owner.id);
    move |id| map.owner(id) == owner
}

/// The ids of groups that a node owns, among these.
pub(crate) fn groups_of(owner: &Node, nodes: &[&Node]) -> impl Iterator<Item = ConversationId> + use<> {
    groups_of_ids(owner.id, &nodes.iter().map(|node| node.id).collect::<Vec<_>>())
}

/// The same by the nodes' ids.
pub(crate) fn groups_of_ids(owner: NodeId, nodes: &[NodeId]) -> impl Iterator<Item = ConversationId> + use<> {
    let map = SlotMap::new(nodes.iter().copied());
    (1..).map(group).filter(move |id| map.owner(*id) == owner)
}

/// The first one.
pub(crate) fn group_of(owner: &Node, nodes: &[&Node]) -> ConversationId {
    groups_of(owner, nodes).next().expect("each owns some")
}

/// A node's way to the store, which can be cut.
#[derive(Clone)]
struct Way {
    memory: Memory,
    is_cut: Arc<AtomicBool>,
}

impl Kv for Way {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(OnTheWay { transaction: self.memory.begin(), is_cut: self.is_cut.clone() })
    }
}

struct OnTheWay {
    transaction: Box<dyn Transaction>,
    is_cut: Arc<AtomicBool>,
}

impl OnTheWay {
    /// What is asked for, unless nobody is asked.
    fn ask<'a, T: Send + 'a>(
        &'a self,
        asked: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable) });
        }
        asked
    }
}

impl Transaction for OnTheWay {
    fn read_version(&self) -> BoxFuture<'_, Result<Version, StoreError>> {
        self.ask(self.transaction.read_version())
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.ask(self.transaction.get(key))
    }

    fn get_snapshot<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.ask(self.transaction.get_snapshot(key))
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        self.ask(self.transaction.range(query))
    }

    fn set(&mut self, key: &[u8], value: Bytes) {
        self.transaction.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.transaction.clear(key);
    }

    fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        self.transaction.clear_range(begin, end);
    }

    fn atomic_max(&mut self, key: &[u8], value: u64) {
        self.transaction.atomic_max(key, value);
    }

    fn atomic_add(&mut self, key: &[u8], value: u64) {
        self.transaction.atomic_add(key, value);
    }

    fn add_read_conflict(&mut self, key: &[u8]) {
        self.transaction.add_read_conflict(key);
    }

    fn set_read_version(&mut self, version: Version) {
        self.transaction.set_read_version(version);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Version, CommitError>> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Box::pin(async { Err(CommitError::Unavailable) });
        }
        self.transaction.commit()
    }
}
