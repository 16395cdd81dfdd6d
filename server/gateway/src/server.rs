//! Puts a server together: store, sockets, shards; runs it until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};
use std::thread;

use tern_core::routing::ShardId;
use tern_store::Kv;
use tern_store::embedded::{self, DirectoryLock};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tracing::{info, warn};

use crate::accept;
use crate::admin::{self, Admin, AdminError};
use crate::auth::Verifier;
use crate::clock::Clock;
use crate::cluster::handover;
use crate::cluster::member::{self, ClusterSetup, JoinError, Member, THREAD};
use crate::control::{self, Control};
use crate::epoch::{self, EpochError};
use crate::limits::{AddressLimit, Limits};
use crate::mailbox::{Inbox, mailbox};
use crate::metrics::Collector;
use crate::metrics::collect::ShardSources;
use crate::metrics::reloads::Reloads;
use crate::shard::{Node, Shard};
use crate::shutdown::{self, Phase};
use crate::store::{Place, Store, StoreError};
use crate::tls::{self, CurrentIdentity, Secrets, TlsError};
use crate::transport::inherited::{Inherited, InheritedError};
use crate::transport::proxy::Network;
use crate::transport::quic::{QuicAcceptor, QuicListener, QuicOptions};
use crate::transport::tcp::{Acceptor, TcpOptions};
use crate::transport::{self, BindError, ShardCount, Steering};

/// The exit status after the store has failed, `EX_IOERR` of sysexits.h.
pub const EXIT_STORE_FAILED: i32 = 74;

/// What the names of the shards' threads begin with.
const SHARD_THREAD: &str = "tern-shard-";

/// Everything that a server is made of.
pub struct Setup {
    /// Where the secrets live, and the store if it is embedded.
    pub data: PathBuf,
    /// Which store.
    pub store: Place,
    /// TCP addresses; port 0 takes a free one.
    pub tcp: Vec<SocketAddr>,
    /// QUIC addresses; port 0 takes a free one, the same as the TCP address at the same place if that is 0 too.
    pub quic: Vec<SocketAddr>,
    /// Listeners that are open already.
    pub inherited: Inherited,
    /// Whose TCP connections begin with the PROXY protocol.
    pub proxies: Vec<Network>,
    /// Addresses for the admin listener, of which the first free one is taken; at least one.
    pub admin: Vec<SocketAddr>,
    /// Threads.
    pub shards: usize,
    /// The certificate.
    pub identity: Arc<CurrentIdentity>,
    /// What tokens are good.
    pub verifier: Verifier,
    /// Counts what is read again.
    pub reloads: Arc<Reloads>,
    /// What one address, user or device may take.
    pub limits: Limits,
    /// What it needs to be a node of a cluster, if it is one.
    pub cluster: Option<ClusterSetup>,
}

/// Why a server cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sockets.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Those that are open already.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Certificates or secrets.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its epoch.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The number of shards.
    #[error("{0} shards: choose 1 to {max}", max = ShardCount::MAX)]
    Shards(usize),
    /// The system.
    #[error("cannot start a shard: {0}")]
    Io(#[from] io::Error),
}

/// A running server.
pub struct Server {
    /// Where it listens for TCP, in the order of the setup.
    pub tcp: Vec<SocketAddr>,
    /// Where it listens for QUIC, in the order of the setup.
    pub quic: Vec<SocketAddr>,
    /// Where it answers for metrics, health and readiness.
    pub admin: SocketAddr,
    /// Where other nodes of its cluster reach it.
    pub link: Option<SocketAddr>,
    phase: watch::Sender<Phase>,
    admin_task: Admin,
    node: Arc<Node>,
    threads: Vec<thread::JoinHandle<()>>,
    member: Option<Member>,
    control: Option<Control>,
    /// Whatever becomes of the store's own directory.
    _lock: DirectoryLock,
}

impl Server {
    /// Starts it. When this returns, connections are accepted. The admin listener runs on the runtime of the caller.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(setup: Setup) -> Result<Self, StartError> {
        Self::start_on(setup, None)
    }

    /// As [`Self::start`], on a store that is open already, which others may work on too, if there is one.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_on(setup: Setup, open: Option<Arc<dyn Kv>>) -> Result<Self, StartError> {
        let shards = setup.shards;
        let count = ShardCount::new(shards).ok_or(StartError::Shards(shards))?;
        setup.inherited.check(&setup.tcp)?;
        let lock = embedded::lock_directory(&setup.data).map_err(StoreError::from)?;
        let Store { kv, local } = match open {
            Some(kv) => Store { kv, local: None },
            None => Store::open(&setup.store, &setup.data)?,
        };
        let epoch = epoch::load_or_begin(&*kv)?;
        if setup.cluster.is_none() && local.is_none() {
            member::check_alone(&*kv)?;
        }
        abort_on_shard_panic();
        let secrets = Secrets::load_or_create(&setup.data)?;
        let tls = tls::server_config(setup.identity, &secrets)?;
        let bound = transport::bind_all(&setup.tcp, &setup.quic, &setup.inherited, count, Steering::Kernel)?;
        let admin = admin::bind(&setup.admin)?;

        let proxies: Arc<[Network]> = setup.proxies.into();
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mailbox()).unzip();
        // A server that cannot be backed up while it runs is better than none.
        let control = Control::start(&setup.data, local.is_some().then(|| Arc::downgrade(&kv)));
        let control = control
            .inspect_err(|error| {
                let path = control::path(&setup.data);
                warn!(%error, path = %path.display(), "no control socket: backups need the server to be stopped");
            })
            .ok();
        let node = Node::new(kv, epoch, setup.verifier, &setup.limits, Clock::new(), mailboxes);
        let (node, member) = match setup.cluster {
            None => (Arc::new(node), None),
            Some(cluster) => {
                let (view, seen) = member::view()?;
                let node = Arc::new(node.within(seen));
                // Before anybody is served, so that the others know of this node.
                let member = Member::join(cluster, node.clone(), view)?;
                (node, Some(member))
            }
        };
        let (phase, _) = watch::channel(Phase::Running);
        let mut threads = Vec::with_capacity(shards);
        let mut sources = Vec::with_capacity(shards);
        for ((id, sockets), inbox) in node.shards().zip(bound.shards).zip(inboxes) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let shard = ShardThread { id, node: node.clone(), phase: phase.subscribe() };
            // The sockets join the runtime here, so that what is wrong with them is an error of the start.
            let listeners = {
                let _entered = runtime.enter();
                let addresses = AddressLimit::new(&setup.limits);
                let tcp = sockets.tcp.into_iter();
                let tcp = tcp.map(|socket| {
                    let options = TcpOptions::default();
                    let acceptor = Acceptor::new(socket, tls.clone(), options, addresses.clone())?;
                    Ok(acceptor.behind(proxies.clone()))
                });
                let quic = sockets.quic.into_iter().map(|socket| {
                    socket.listener(tls.clone(), &secrets, QuicOptions::default(), addresses.clone())
                });
                (tcp.collect::<io::Result<Vec<_>>>()?, quic.collect::<io::Result<Vec<_>>>()?)
            };
            sources.push(ShardSources {
                id,
                tcp: listeners.0.iter().map(|tcp| tcp.stats().clone()).collect(),
                quic: listeners.1.iter().map(|quic| quic.stats().clone()).collect(),
                runtime: runtime.handle().metrics(),
            });
            let run = move || runtime.block_on(LocalSet::new().run_until(shard.run(inbox, listeners)));
            threads.push(thread::Builder::new().name(format!("{SHARD_THREAD}{}", id.0)).spawn(run)?);
        }
        let collector = Collector {
            node: node.clone(),
            local,
            phase: phase.subscribe(),
            shards: sources,
            reloads: setup.reloads,
            disk: Arc::default(),
        };
        let link = member.as_ref().map(|member| member.link);
        info!(tcp = ?bound.tcp, quic = ?bound.quic, admin = %admin.address, ?link, shards, "serving");
        Ok(Self {
            tcp: bound.tcp,
            quic: bound.quic,
            admin: admin.address,
            link,
            admin_task: Admin::serve(admin, collector),
            phase,
            node,
            threads,
            member,
            control,
            _lock: lock,
        })
    }

    /// Ends it well: clients are told, what is under way is finished, in bounded time.
    pub async fn stop(self) {
        let connections = || self.node.connections.load(Ordering::SeqCst);
        info!(connections = connections(), "stopping");
        if let Some(member) = &self.member {
            member.drain();
            handover::run(&self.phase, &self.node.view, connections).await;
        }
        shutdown::walk(&self.phase, connections).await;
        let Self { threads, node, member, control, admin_task, .. } = self;
        // It holds the store too, which is to be closed below.
        admin_task.stop().await;
        let ended = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A shard that panicked has ended the process already.
                let _ = thread.join();
            }
            // What the shards have told last has left.
            if let Some(member) = member {
                member.leave();
            }
            // A backup under way ends.
            drop(control);
            // Closes the store.
            drop(node);
        });
        if tokio::time::timeout(shutdown::FLUSH, ended).await.is_err() {
            eprintln!(
                "ternd: the store does not come to rest within {} s (is the disk stuck?); the server ends without it. \
                 What was acknowledged is safe.",
                shutdown::FLUSH.as_secs()
            );
            std::process::exit(EXIT_STORE_FAILED);
        }
        info!("stopped");
    }
}

struct ShardThread {
    id: ShardId,
    node: Arc<Node>,
    phase: watch::Receiver<Phase>,
}

impl ShardThread {
    async fn run(self, inbox: Inbox, (tcp, quic): (Vec<Acceptor>, Vec<QuicListener>)) {
        let shard = Shard::new(self.id, self.node, self.phase);
        for acceptor in tcp {
            tokio::task::spawn_local(accept::tcp(shard.clone(), acceptor));
        }
        for listener in quic {
            tokio::task::spawn_local(accept::quic(shard.clone(), QuicAcceptor::new(listener)));
        }
        shard.run(inbox).await;
    }
}

/// Makes a panic on a shard's thread end the process: the runtime would catch it, and the users of that shard would go
/// without an answer for ever.
fn abort_on_shard_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            default(panic);
            if thread::current().name().is_some_and(|name| name.starts_with(SHARD_THREAD) || name == THREAD) {
                eprintln!("ternd: a shard has panicked and the server stops; please report this as a bug");
                std::process::abort();
            }
        }));
    });
}
