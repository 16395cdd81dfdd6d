//! A server as a node of a cluster: a thread with the links and the lease, beside those of the shards.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::rand;
use tern_core::cluster::BEAT_MS;
use tern_protocol::ids::NodeId;
use tern_store::ops::lease;
use tern_store::records::NodeLease;
use tern_store::{Kv, StoreError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use super::View;
use super::keeper::{Call, Keeper};
use super::peer::BoxStream;
use super::quic::{LinkEndpoint, LinkIdentity};
use crate::clock;
use crate::shard::Node;
use crate::store;

/// The name of its thread.
pub const THREAD: &str = "tern-cluster";
/// From the word that a node is about to leave to the end of its service: the others have seen it by then, and have taken over.
pub const HANDOVER: Duration = Duration::from_millis(2 * BEAT_MS + 500);
/// The first lease is written within this time, or the node does not start.
const JOIN: Duration = Duration::from_secs(30);
/// Links that others have opened and that nobody has looked at yet.
const INCOMING_MAX: usize = 64;

/// What a node of a cluster needs.
pub struct ClusterSetup {
    /// UDP address for links; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the others reach it, if that is another address.
    pub advertise: Option<SocketAddr>,
    /// Where clients reach it, `host:port`, if others are to send theirs there; at most [`NodeLease::CLIENTS_MAX`].
    pub clients: Vec<String>,
    /// For people.
    pub name: String,
    /// Who it is, and whom it trusts.
    pub identity: LinkIdentity,
}

/// Why a server cannot become a node.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The socket for links.
    #[error("cannot listen on {0} (UDP) for links from other nodes: {1}")]
    Bind(SocketAddr, io::Error),
    /// The store.
    #[error("this node's lease could not be written within {} s: can the store be reached?", JOIN.as_secs())]
    NoLease,
    /// The server is in no cluster, and its store is that of one.
    #[error(
        "the nodes of a cluster serve this store ({0}), and would not hear of what is stored by a server that is none of them: give \
         this one a [cluster] section too, or another store.prefix"
    )]
    NotOfTheCluster(String),
    /// Whether there are nodes.
    #[error("cannot read the leases of a cluster's nodes: {0}")]
    Leases(#[from] StoreError),
    /// The system.
    #[error("cannot start the cluster's thread: {0}")]
    Io(#[from] io::Error),
}

/// That no nodes of a cluster serve this store. Blocks, for as long as a node that lives needs to beat if there are leases.
///
/// # Errors
/// [`JoinError::NotOfTheCluster`]; when that cannot be found out.
pub fn check_alone(kv: &dyn Kv) -> Result<(), JoinError> {
    let read = || -> Result<_, JoinError> { Ok(store::block_on(|| lease::read(kv))??) };
    let before = read()?;
    if before.is_empty() {
        return Ok(());
    }
    thread::sleep(HANDOVER);
    let lives = |(node, lease): &(NodeId, NodeLease)| {
        before.iter().all(|(other, earlier)| other != node || earlier.beat != lease.beat)
    };
    let names: Vec<_> = read()?.into_iter().filter(lives).map(|(_, lease)| lease.name).collect();
    if names.is_empty() { Ok(()) } else { Err(JoinError::NotOfTheCluster(names.join(", "))) }
}

/// Calls over QUIC.
struct OverQuic(Rc<LinkEndpoint>);

impl Call for OverQuic {
    fn call(&self, _: NodeId, address: &str) -> Pin<Box<dyn Future<Output = io::Result<BoxStream>>>> {
        let (endpoint, address) = (self.0.clone(), address.parse::<SocketAddr>());
        Box::pin(async move {
            let address = address.map_err(io::Error::other)?;
            let stream = endpoint.connect(address).await.map_err(io::Error::other)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

/// The ends of a view: the keeper's and the shards'.
pub type ViewEnds = (watch::Sender<Arc<View>>, watch::Receiver<Arc<View>>);

/// A view of a cluster in which there is nobody else yet.
///
/// # Errors
/// When the system has no random numbers.
pub fn view() -> io::Result<ViewEnds> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(watch::channel(Arc::new(View::alone(NodeId(u64::from_be_bytes(bytes))))))
}

/// A node's place in its cluster.
pub struct Member {
    /// Where other nodes reach it.
    pub link: SocketAddr,
    draining: watch::Sender<bool>,
    leave: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Member {
    /// Joins: when this returns, the lease is written.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join(
        setup: ClusterSetup,
        node: Arc<Node>,
        view: watch::Sender<Arc<View>>,
    ) -> Result<Self, JoinError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bound = {
            let _entered = runtime.enter();
            LinkEndpoint::bind(setup.listen, &setup.identity)
        };
        let endpoint = match bound {
            Ok(endpoint) => endpoint,
            Err(error) => {
                // A server is started within a runtime, where no other one may wait for its end.
                runtime.shutdown_background();
                return Err(JoinError::Bind(setup.listen, error));
            }
        };
        let link = setup.advertise.unwrap_or(endpoint.address());
        let mut clients = setup.clients;
        clients.truncate(NodeLease::CLIENTS_MAX);
        let lease = NodeLease {
            started: clock::wall(),
            name: setup.name,
            link: link.to_string(),
            clients,
            ..NodeLease::default()
        };
        let (draining, drain) = watch::channel(false);
        let (leave, left) = oneshot::channel::<()>();
        let (joined, has_joined) = std::sync::mpsc::sync_channel(1);
        // Made on its thread, where it stays.
        let task = async move || {
            let endpoint = Rc::new(endpoint);
            let (streams, incoming) = mpsc::channel(INCOMING_MAX);
            let answering = endpoint.clone();
            tokio::task::spawn_local(async move {
                while let Some(stream) = answering.accept().await {
                    if streams.send(Box::new(stream) as BoxStream).await.is_err() {
                        break;
                    }
                }
            });
            let keeper = Keeper::new(node, lease, view, Rc::new(OverQuic(endpoint.clone())));
            let keeper = keeper.tell_when_joined(move || {
                let _ = joined.try_send(());
            });
            let left = async {
                let _ = left.await;
            };
            keeper.run(incoming, drain, left).await;
            endpoint.close().await;
        };
        let run = move || runtime.block_on(LocalSet::new().run_until(task()));
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(run)?;
        let member = Self { link, draining, leave, thread };
        match has_joined.recv_timeout(JOIN) {
            Ok(()) => Ok(member),
            Err(_) => {
                member.leave();
                Err(JoinError::NoLease)
            }
        }
    }

    /// Others take over what this node owns, within [`HANDOVER`]; its connections are still served.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Takes the lease out of the store and closes the links. Blocks until that is done.
    pub fn leave(self) {
        let _ = self.leave.send(());
        let _ = self.thread.join();
    }
}
