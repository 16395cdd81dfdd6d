//! A shard: one thread, one runtime, its own listeners, connections and conversations. Shards share the [`Node`] and
//! talk through mailboxes only.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tern_core::admission::Admission;
use tern_core::conversation::Owner;
use tern_core::fanout::Local;
use tern_core::home::{Home, SessionId};
use tern_core::limits::RECEIPT_COUNTS_INTERVAL_MS;
use tern_core::routing::{self, ShardId, SlotMap};
use tern_core::time::{MonoMillis, Now};
use tern_protocol::error::ErrorCode;
use tern_protocol::ids::{ConversationId, NodeId, RequestId, StoreEpoch};
use tern_protocol::model::WallMillis;
use tern_store::Kv;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info};

use crate::auth::{TokenError, Verifier};
use crate::behind::Behind;
use crate::clock::Clock;
use crate::cluster::{Farewell, HomeMessage, Kept, Rechecks, Roster, View};
use crate::connection::{Conn, READ_BYTES, WRITE_BYTES, serve};
use crate::fanout::Handle;
use crate::limits::{Limits, Place, UserLimits};
use crate::mailbox::{Budget, Charge, HomeRequest, Inbox, Mailbox, Ticket, WAITING_BYTES_MAX};
use crate::metrics::ShardMetrics;
use crate::metrics::shard::{Cut, Transport};
use crate::shutdown::Phase;

/// Between looks at what is due: receipts held back, mailboxes that were full.
const TICK: Duration = Duration::from_millis(50);
/// How long receipts wait for something else that is written to their connection; as long as groups' do.
const TICKS_PER_RECEIPTS: u32 = RECEIPT_COUNTS_INTERVAL_MS as u32 / TICK.as_millis() as u32;
const _: () = assert!(TICKS_PER_RECEIPTS > 0);
/// Between looks at deadlines of connections, and between two writes of delivered watermarks.
const TICKS_PER_SWEEP: u32 = 20;
/// Between looks at what is new while another node cannot be reached.
const SWEEPS_PER_RECHECK: usize = 5;
/// Messages taken from a mailbox lane before the others get their turn.
const LANE_BATCH: usize = 256;

/// What the shards of a process share.
pub struct Node {
    /// The store.
    pub kv: Arc<dyn Kv>,
    /// Which history the store holds.
    pub epoch: StoreEpoch,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Who owns what.
    pub slots: SlotMap<ShardId>,
    /// The cluster; this node alone, unless somebody keeps it in one.
    pub view: watch::Receiver<Arc<View>>,
    /// The nodes of the cluster.
    pub roster: Roster,
    /// Both clocks.
    pub clock: Clock,
    /// When somebody has last logged in: two logins are never at the same time, and the clock may go back.
    login: AtomicU64,
    guests: Vec<AtomicBool>,
    metrics: Vec<ShardMetrics>,
    connections_per_shard_max: usize,
    /// Who may do how much.
    pub limits: UserLimits,
    mailboxes: Vec<Mailbox>,
    waiting: Budget,
    online: Vec<AtomicUsize>,
    /// Connections of all shards whose handshake is done.
    pub connections: AtomicUsize,
}

impl Node {
    /// A node whose shards have these mailboxes.
    pub fn new(
        kv: Arc<dyn Kv>,
        epoch: StoreEpoch,
        verifier: Verifier,
        limits: &Limits,
        clock: Clock,
        mailboxes: Vec<Mailbox>,
    ) -> Self {
        let (_, view) = watch::channel(Arc::new(View::single()));
        let shards = u16::try_from(mailboxes.len()).expect("the number of shards was checked at start");
        Self {
            kv,
            epoch,
            verifier,
            limits: UserLimits::new(limits),
            connections_per_shard_max: limits.connections_per_shard_max(),
            slots: SlotMap::new(routing::shards(shards)),
            view,
            roster: Roster::default(),
            clock,
            login: AtomicU64::new(0),
            guests: mailboxes.iter().map(|_| AtomicBool::new(false)).collect(),
            metrics: mailboxes.iter().map(|_| ShardMetrics::default()).collect(),
            online: mailboxes.iter().map(|_| AtomicUsize::new(0)).collect(),
            mailboxes,
            waiting: Budget::new(WAITING_BYTES_MAX),
            connections: AtomicUsize::new(0),
        }
    }

    /// In a cluster that somebody keeps it in.
    #[must_use]
    pub fn within(self, view: watch::Receiver<Arc<View>>) -> Self {
        Self { view, ..self }
    }

    /// The time of a login, later than that of all logins before it.
    pub fn login_time(&self) -> WallMillis {
        let now = self.clock.now().wall.0;
        let before =
            self.login.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)));
        WallMillis(before.map_or(now, |last| now.max(last + 1)))
    }

    /// Whether users whose homes are on a shard may be connected to other nodes.
    pub fn guests(&self, shard: ShardId) -> &AtomicBool {
        &self.guests[usize::from(shard.0)]
    }

    /// The shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.mailboxes.len() as u16).map(ShardId)
    }

    /// A shard's mailbox.
    pub fn mailbox(&self, shard: ShardId) -> &Mailbox {
        &self.mailboxes[usize::from(shard.0)]
    }

    /// What a shard counts.
    pub fn metrics(&self, shard: ShardId) -> &ShardMetrics {
        &self.metrics[usize::from(shard.0)]
    }

    /// Bytes of requests that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.taken()
    }

    /// Room for a request that waits; `None` when too much waits already.
    pub fn charge(&self, bytes: usize) -> Option<Charge> {
        self.waiting.charge(bytes)
    }

    /// How many connections of a shard are logged in.
    pub fn online(&self, shard: ShardId) -> &AtomicUsize {
        &self.online[usize::from(shard.0)]
    }
}

/// A connection that the node counts.
pub struct Counted {
    node: Arc<Node>,
    shard: ShardId,
    transport: Transport,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.node.metrics(self.shard).connections.of(self.transport).take_one();
        self.node.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes what waits in a lane, up to a bound.
fn take<T>(lane: &mut mpsc::Receiver<T>, each: impl FnMut(T)) {
    std::iter::from_fn(|| lane.try_recv().ok()).take(LANE_BATCH).for_each(each);
}

/// The state of one shard. Single-threaded; no borrow lives over an await.
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// What it shares.
    pub node: Arc<Node>,
    /// Its connections by number. What is walked is ordered, here and below, so that a run can be repeated exactly.
    pub conns: RefCell<BTreeMap<u64, Rc<Conn>>>,
    /// Its logged-in connections by user.
    pub local: RefCell<Local<Handle>>,
    /// Its conversations.
    pub owners: RefCell<HashMap<ConversationId, Owner<Ticket>>>,
    /// Whether it takes up sends.
    pub admission: RefCell<Admission>,
    /// Conversations with commits of unknown outcome after which the store could not be read.
    pub unsettled: RefCell<BTreeSet<ConversationId>>,
    /// Conversations with watermarks to persist.
    pub dirty: RefCell<BTreeSet<ConversationId>>,
    /// Conversations that may have watermarks to tell.
    pub moved: RefCell<BTreeSet<ConversationId>>,
    /// Those that have, at a later tick.
    pub moved_later: RefCell<BTreeSet<ConversationId>>,
    /// Connections with receipts that wait for company; each at most once.
    pub receipts_wait: RefCell<Vec<Rc<Conn>>>,
    /// `Mark`s to be answered when their watermarks are persisted.
    pub unpersisted: RefCell<Vec<Ticket>>,
    /// Wakes whoever persists.
    pub persist_soon: Notify,
    /// Heads that did not fit into a shard's mailbox.
    pub behind: RefCell<Behind>,
    /// What all connections read into.
    pub read_buffer: RefCell<Box<[u8]>>,
    /// What all connections gather their writes in.
    pub write_buffer: RefCell<Vec<u8>>,
    /// The cluster, as this shard sees it.
    pub view: RefCell<Arc<View>>,
    /// Of users whose homes are here: where they are connected.
    pub home: RefCell<Home>,
    /// When another node has last come to own something, or gone.
    pub view_changed: Cell<MonoMillis>,
    /// Connections that former homes of their users still know: at most one for each time that a home moves.
    pub farewells: RefCell<VecDeque<Farewell>>,
    /// Home messages that did not fit into a node's lane: at most a few for each connection.
    pub homes_elsewhere: RefCell<BTreeMap<NodeId, VecDeque<HomeMessage>>>,
    /// Nodes for which news were dropped since then, as there were too many to remember.
    pub lost: RefCell<BTreeMap<NodeId, WallMillis>>,
    /// Watermarks that owners on other nodes have not persisted yet.
    pub kept: RefCell<Kept>,
    /// Users who may have missed something.
    pub rechecks: RefCell<Rechecks>,
    /// When the store was last asked about all of them, while another node cannot be reached.
    pub unlinked: Cell<Option<WallMillis>>,
    /// How many of them the store is being asked about.
    pub rechecking: Cell<usize>,
    /// Home requests that did not fit into a shard's mailbox: at most a few for each connection.
    homes_pending: RefCell<VecDeque<(ShardId, HomeRequest)>>,
    /// Whether watermarks are on their way to the store.
    pub persisting: Cell<bool>,
    /// Searches of logs for old sends take turns.
    pub searching: Semaphore,
    /// How many there are.
    pub searches: Cell<usize>,
    /// The generation of revocations at the last sweep.
    revocations_seen: Cell<u64>,
    stopping: Cell<bool>,
    settle: Notify,
    numbers: Cell<u64>,
    phase: watch::Receiver<Phase>,
}

impl Shard {
    /// A shard without connections.
    pub fn new(id: ShardId, node: Arc<Node>, phase: watch::Receiver<Phase>) -> Rc<Self> {
        let revocations_seen = node.verifier.revocations().generation();
        let view = node.view.borrow().clone();
        Rc::new(Self {
            id,
            node,
            conns: RefCell::default(),
            local: RefCell::default(),
            owners: RefCell::default(),
            admission: RefCell::default(),
            dirty: RefCell::default(),
            moved: RefCell::default(),
            unsettled: RefCell::default(),
            moved_later: RefCell::default(),
            receipts_wait: RefCell::default(),
            unpersisted: RefCell::default(),
            persist_soon: Notify::new(),
            behind: RefCell::default(),
            read_buffer: RefCell::new(vec![0; READ_BYTES].into()),
            write_buffer: RefCell::new(Vec::with_capacity(WRITE_BYTES)),
            view: RefCell::new(view),
            home: RefCell::default(),
            view_changed: Cell::default(),
            farewells: RefCell::default(),
            homes_elsewhere: RefCell::default(),
            lost: RefCell::default(),
            kept: RefCell::default(),
            rechecks: RefCell::default(),
            unlinked: Cell::default(),
            rechecking: Cell::new(0),
            homes_pending: RefCell::default(),
            persisting: Cell::new(false),
            searching: Semaphore::new(1),
            searches: Cell::new(0),
            // Those of the start were heeded by every login.
            revocations_seen: Cell::new(revocations_seen),
            stopping: Cell::new(false),
            settle: Notify::new(),
            numbers: Cell::new(0),
            phase,
        })
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.node.clock.now()
    }

    /// A number that this shard has not given before.
    pub fn next_number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// What this shard counts.
    pub fn metrics(&self) -> &ShardMetrics {
        self.node.metrics(self.id)
    }

    /// This shard's own mailbox.
    pub fn mailbox(&self) -> &Mailbox {
        self.node.mailbox(self.id)
    }

    /// Runs a future on this shard. What is spawned ends by itself: it waits for the store or for one connection.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(future);
    }

    /// After what is at hand is done, receipts are told.
    pub fn settle_soon(&self) {
        self.settle.notify_one();
    }

    /// Runs the shard until the node has stopped.
    pub async fn run(self: Rc<Self>, mut inbox: Inbox) {
        let persisting = tokio::task::spawn_local(self.clone().keep_persisting());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u32;
        let mut phase = self.phase.clone();
        let mut view = self.node.view.clone();
        loop {
            tokio::select! {
                // What is rare comes first, and after each turn every lane gets its share: nothing starves.
                biased;
                changed = phase.changed() => {
                    let now = *phase.borrow_and_update();
                    match now {
                        Phase::Running => {}
                        Phase::Leaving(window) => {
                            tokio::task::spawn_local(self.clone().hand_over(window));
                        }
                        Phase::Draining => self.say_farewell(),
                        Phase::Closing => self.close_all(),
                        Phase::Stopped => {
                            self.end_all();
                            break;
                        }
                    }
                    if changed.is_err() {
                        break;
                    }
                }
                // Nobody keeps a node that is alone.
                Ok(()) = view.changed() => {
                    let view = view.borrow_and_update().clone();
                    self.on_view(view);
                }
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    self.on_tick(ticks);
                }
                () = self.settle.notified() => self.tell_receipts(),
                Some(reply) = inbox.replies.recv() => self.on_reply(reply),
                Some(request) = inbox.requests.recv() => self.on_owner_request(request),
                Some(event) = inbox.events.recv() => self.on_event(event),
                Some(request) = inbox.homes.recv() => self.on_home(request),
            }
            self.empty(&mut inbox);
        }
        self.stopping.set(true);
        self.persist_soon.notify_one();
        // A round under way has taken its watermarks, so it is let finish.
        let _ = persisting.await;
        if !self.persist_receipts().await {
            info!(
                shard = self.id.0,
                "some delivered watermarks were not persisted; clients will say them again"
            );
        }
    }

    /// Handles what is there, of all lanes before any connection gets its turn: an ack and the push of the same entry
    /// then leave in one write.
    fn empty(self: &Rc<Self>, inbox: &mut Inbox) {
        take(&mut inbox.requests, |request| self.on_owner_request(request));
        take(&mut inbox.replies, |reply| self.on_reply(reply));
        take(&mut inbox.events, |event| self.on_event(event));
        take(&mut inbox.homes, |request| self.on_home(request));
    }

    fn on_tick(self: &Rc<Self>, ticks: u32) {
        let later = std::mem::take(&mut *self.moved_later.borrow_mut());
        self.moved.borrow_mut().extend(later);
        self.admission.borrow_mut().on_tick(self.now().mono);
        self.measure();
        self.tell_receipts();
        if ticks.is_multiple_of(TICKS_PER_RECEIPTS) {
            self.write_receipts();
        }
        self.catch_up();
        let pending = std::mem::take(&mut *self.homes_pending.borrow_mut());
        pending.into_iter().for_each(|(shard, request)| self.to_home(shard, request));
        self.tell_homes_again();
        self.tell_lost();
        self.say_farewells();
        self.recheck_again();
        self.recheck_some();
        if ticks.is_multiple_of(TICKS_PER_SWEEP) {
            let sweeps = (ticks / TICKS_PER_SWEEP) as usize;
            // The shards take turns.
            let turn = sweeps * self.node.mailboxes.len() + usize::from(self.id.0);
            self.node.limits.forget_rested(turn, self.now().mono);
            self.sweep();
            if sweeps.is_multiple_of(SWEEPS_PER_RECHECK) {
                self.recheck_unlinked();
                self.tell_failed_rechecks();
            }
            self.tell_kept_again();
            self.look_at_fresh_owners();
            self.settle_owners();
            self.forget_idle_owners();
        }
    }

    /// Says how much of what it holds.
    fn measure(&self) {
        let metrics = self.metrics();
        metrics.ticked_ms.set(self.now().mono.0);
        metrics.waiting_sends.set(self.admission.borrow().waiting());
        metrics.conversations.set(self.owners.borrow().len() as u64);
        metrics.marks_kept.set(self.kept.borrow().waiting() as u64);
        metrics.rechecks.set(self.rechecks.borrow().waiting() as u64);
        let (view, behind) = (self.view.borrow(), self.behind.borrow());
        view.peers.iter().for_each(|(node, peer)| peer.link.set_behind(self.id, behind.of_node(*node).0));
    }

    /// Watches the deadlines of all connections, and whether they have been revoked.
    fn sweep(self: &Rc<Self>) {
        let now = self.now();
        let revocations = self.node.verifier.revocations();
        let generation = revocations.generation();
        let changed = self.revocations_seen.replace(generation) != generation;
        let conns: Vec<_> = self.conns.borrow().values().cloned().collect();
        for conn in conns {
            let effect = conn.session.borrow_mut().on_tick(now);
            self.execute(&conn, effect);
            let sender = conn.session.borrow().sender().filter(|_| changed);
            if sender.is_some_and(|who| revocations.cover(who.user, who.device, conn.issued.get())) {
                let text = TokenError::Revoked.to_string();
                self.close(&conn, RequestId(0), TokenError::Revoked.code(), text.into());
            }
            conn.check_stall(now, self.metrics());
            conn.check_deaf(now);
        }
    }

    async fn keep_persisting(self: Rc<Self>) {
        let mut due = Instant::now() + Duration::from_secs(1);
        loop {
            let waits = tokio::time::timeout_at(due, self.persist_soon.notified());
            // Either somebody waits for an answer, or a second has passed.
            let _ = waits.await;
            if self.stopping.get() {
                return;
            }
            due = Instant::now() + Duration::from_secs(1);
            if !self.persist_receipts().await {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// Hands something to the home of a user, or from there to the shard of a connection.
    pub fn to_home(self: &Rc<Self>, shard: ShardId, request: HomeRequest) {
        if shard == self.id {
            self.on_home(request);
            return;
        }
        // In order: an end that overtook its login would leave a connection registered for ever.
        let mut pending = self.homes_pending.borrow_mut();
        if !pending.is_empty() || self.node.mailbox(shard).homes.try_send(request).is_err() {
            pending.push_back((shard, request));
        }
    }

    fn on_home(self: &Rc<Self>, request: HomeRequest) {
        match request {
            HomeRequest::Register(user, device, at, login) => self.on_register(user, device, at, login),
            HomeRequest::Unregister(user, at) => self.home.borrow_mut().unregister(user, at),
            HomeRequest::Registered(session) => self.on_registered(session),
            HomeRequest::Forget(node) => self.home.borrow_mut().retain(|_, at| at != node),
            HomeRequest::Recheck(since) => self.recheck_all(since),
            HomeRequest::Displace(session, is_certain) => {
                let conn = self.conns.borrow().get(&session.number).cloned();
                if let Some(conn) = conn {
                    let (code, text) = if is_certain {
                        let text =
                            "this device, or one too many of this user, has logged in on another connection";
                        (ErrorCode::TakenOver, text)
                    } else {
                        (ErrorCode::GoingAway, "this device has logged in twice: connect anew")
                    };
                    self.close(&conn, RequestId(0), code, text.into());
                }
            }
        }
    }

    /// Serves a connection's ordered stream until it ends, and returns it unless it is broken. Its place among those that
    /// have not logged in is free when it has. `meanwhile` runs beside it and ends with it.
    pub async fn serve<S, F>(
        self: &Rc<Self>,
        stream: S,
        from: SocketAddr,
        place: Place,
        meanwhile: impl FnOnce(Rc<Conn>) -> F,
    ) -> Option<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = ()>,
    {
        if self.conns.borrow().len() >= self.node.connections_per_shard_max {
            self.metrics().cuts.one(Cut::ShardFull);
            return None;
        }
        let number = self.next_number();
        let conn = Conn::new(SessionId { shard: self.id, number }, self.now(), place);
        self.conns.borrow_mut().insert(number, conn.clone());
        debug!(session = %conn.id, %from, "connected");
        let stream = tokio::select! {
            biased;
            stream = serve(self, &conn, stream) => Some(stream),
            () = meanwhile(conn.clone()) => None,
        };
        conn.ended();
        self.conns.borrow_mut().remove(&number);
        if let Some(user) = conn.user.get() {
            self.local.borrow_mut().remove(user, &Handle(conn.clone()));
            self.node.online(self.id).fetch_sub(1, Ordering::SeqCst);
            self.unregister(&conn, user);
        }
        debug!(session = %conn.id, %from, "disconnected");
        stream
    }

    /// Counts a connection until the guard is dropped, which is when the client has been given time to take our last
    /// bytes: the end of the server waits for it.
    pub fn count_connection(&self, transport: Transport) -> Counted {
        self.node.connections.fetch_add(1, Ordering::SeqCst);
        self.metrics().connections.of(transport).add(1);
        Counted { node: self.node.clone(), shard: self.id, transport }
    }

    /// Ready when the node no longer takes new connections.
    pub async fn draining(&self) {
        let mut phase = self.phase.clone();
        // The sender lives as long as the shards.
        let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Closes what is left, with answers still owed: the store that owes them may never give them.
    fn end_all(self: &Rc<Self>) {
        let conns: Vec<_> = self.conns.borrow().values().cloned().collect();
        for conn in conns {
            self.close(&conn, RequestId(0), ErrorCode::GoingAway, "the server is stopping".into());
        }
    }

    fn close_all(self: &Rc<Self>) {
        let conns: Vec<_> = self.conns.borrow().values().cloned().collect();
        for conn in conns {
            conn.finish();
            if conn.has_finished() {
                self.close(&conn, RequestId(0), ErrorCode::GoingAway, "the server is stopping".into());
            }
        }
    }
}
