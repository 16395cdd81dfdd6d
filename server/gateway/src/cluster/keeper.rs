//! Keeps this node in the cluster: its lease in the store, and a link to each other node.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tern_core::cluster::{BEAT_MS, LEASE_MS, Lease, Leases, Reach};
use tern_core::routing::SlotMap;
use tern_core::time::MonoMillis;
use tern_protocol::ids::NodeId;
use tern_store::CommitError;
use tern_store::ops::lease;
use tern_store::records::NodeLease;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use super::link::LinkState;
use super::peer::{BoxStream, LinkError, Moved, Opened, PeerTask, greet};
use super::roster::Member;
use super::wire::{Hello, VERSIONS};
use super::{Peer, View};
use crate::shard::Node;

/// Between looks at what has run out.
const LOOK: Duration = Duration::from_millis(250);
/// From the begin of a beat to its end: there is time for another one before the lease runs out.
const BEAT: Duration = Duration::from_millis(2 * BEAT_MS);
/// From a call to a link.
const CALL: Duration = Duration::from_secs(5);
/// A node that did not reach the store when it was last heard is taken not to for so long.
const SILENT_MS: u64 = 30_000;
/// Of calls to a node that fail one after the other, the first of so many is told.
const FAILED_CALLS_TOLD: u64 = 60;
/// Between two words about streams of others that are of no use.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Streams from other nodes that have not said yet who they are; further ones wait.
const GREETINGS_MAX: usize = 64;

/// How other nodes are called.
pub trait Call {
    /// A stream to the node at this address, as its lease has it. Who answers is found out by the caller.
    fn call(&self, node: NodeId, address: &str) -> Pin<Box<dyn Future<Output = io::Result<BoxStream>>>>;
}

/// A node that has been greeted over a stream.
type Greeted = (NodeId, Opened);

struct Held {
    peer: Peer,
    streams: mpsc::Sender<Opened>,
    address: String,
    calls: Rc<Calls>,
    /// When it was last heard that it does not reach the store.
    silent: Option<MonoMillis>,
}

/// Calls to a node since there was a link to it.
#[derive(Default)]
struct Calls {
    under_way: Cell<bool>,
    failed: Cell<u64>,
}

impl Calls {
    /// One was of no use. The first is told, and one in a while.
    fn failed(&self, node: NodeId, state: &LinkState, why: &dyn Display) {
        state.call_failed();
        if self.failed.get().is_multiple_of(FAILED_CALLS_TOLD) {
            let failed = self.failed.get() + 1;
            warn!(%node, %why, failed, "no link to a node; it is called again and again");
        } else {
            debug!(%node, %why, "no link to a node");
        }
        self.failed.set(self.failed.get() + 1);
    }
}

/// Keeps a node in its cluster. All of it runs on one thread, beside the shards.
pub struct Keeper {
    node: Arc<Node>,
    lease: NodeLease,
    leases: Leases,
    held: BTreeMap<NodeId, Held>,
    departures: u64,
    links: u64,
    owners: Vec<NodeId>,
    /// Shards may have served somebody before the leases were read for the first time.
    has_served: bool,
    joined: Option<Box<dyn FnOnce()>>,
    refused: Rc<Cell<Option<Instant>>>,
    view: watch::Sender<Arc<View>>,
    calls: Rc<dyn Call>,
    greeted: mpsc::Sender<Greeted>,
    greeted_in: mpsc::Receiver<Greeted>,
    moved: mpsc::Sender<Moved>,
    moved_in: mpsc::Receiver<Moved>,
}

impl Keeper {
    /// Of a node whose shards watch `view`; its lease says where it is reached.
    pub fn new(
        node: Arc<Node>,
        lease: NodeLease,
        view: watch::Sender<Arc<View>>,
        calls: Rc<dyn Call>,
    ) -> Self {
        let me = view.borrow().me;
        let leases = Leases::new(me, node.clock.now().mono);
        let (greeted, greeted_in) = mpsc::channel(GREETINGS_MAX);
        let (moved, moved_in) = mpsc::channel(GREETINGS_MAX);
        let held = BTreeMap::new();
        let lease = NodeLease { versions: VERSIONS, ..lease };
        let (departures, links, owners, has_served, joined) = (0, 0, vec![me], true, None);
        Self {
            node,
            lease,
            leases,
            held,
            departures,
            links,
            owners,
            has_served,
            joined,
            refused: Rc::default(),
            view,
            calls,
            greeted,
            greeted_in,
            moved,
            moved_in,
        }
    }

    /// Says when the first lease has been written. Nobody is served before.
    #[must_use]
    pub fn tell_when_joined(self, tell: impl FnOnce() + 'static) -> Self {
        Self { joined: Some(Box::new(tell)), has_served: false, ..self }
    }

    fn me(&self) -> NodeId {
        self.view.borrow().me
    }

    /// Runs until the drain has been asked for and `left` is ready, then takes the lease out of the store. `incoming` are streams that
    /// others have opened.
    pub async fn run(
        mut self,
        mut incoming: mpsc::Receiver<BoxStream>,
        mut draining: watch::Receiver<bool>,
        left: impl Future<Output = ()>,
    ) {
        let mut beats = interval(Duration::from_millis(BEAT_MS));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beating: Option<Pin<Box<dyn Future<Output = Beat>>>> = None;
        let mut left = std::pin::pin!(left);
        loop {
            tokio::select! {
                biased;
                () = &mut left => break,
                Some(moved) = self.moved_in.recv() => self.on_moved(moved),
                Some((node, opened)) = self.greeted_in.recv() => self.on_greeted(node, opened),
                Ok(()) = draining.changed() => {
                    if *draining.borrow_and_update() {
                        info!("draining: other nodes take over what this one owns");
                        self.leases.drain();
                        self.lease.draining = true;
                        beats.reset_immediately();
                    }
                }
                beat = async { match &mut beating { Some(beat) => beat.await, None => std::future::pending().await } } => {
                    beating = None;
                    self.on_beat(beat);
                    self.call_all();
                }
                _ = beats.tick(), if beating.is_none() => beating = Some(Box::pin(self.beat())),
                _ = looks.tick() => {}
                Some(stream) = incoming.recv() => self.greet(stream),
            }
            self.publish();
        }
        if let Err(error) = lease::leave(&*self.node.kv, self.me()).await {
            warn!(%error, "could not take the lease out: the others notice in {LEASE_MS} ms");
        }
    }

    /// Writes the lease, and reads all.
    fn beat(&mut self) -> impl Future<Output = Beat> + use<> {
        self.lease.beat += 1;
        let (node, me, lease) = (self.node.clone(), self.me(), self.lease.clone());
        let forgotten = self.leases.forgotten(node.clock.now().mono);
        async move {
            let begun = node.clock.now().mono;
            let beat = lease::beat(&*node.kv, me, &lease);
            let result = match timeout(BEAT, beat).await {
                Ok(result) => result,
                Err(_) => Err(CommitError::Unavailable),
            };
            if result.is_ok() {
                for (dead, beat) in forgotten {
                    let taken_out = lease::forget(&*node.kv, dead, beat).await;
                    debug!(node = %dead, ?taken_out, "a dead node's lease");
                }
            }
            Beat { begun, result }
        }
    }

    fn on_beat(&mut self, Beat { begun, result }: Beat) {
        let leases = match result {
            Ok(leases) => leases,
            Err(error) => return warn!(%error, "could not write this node's lease; it is tried again"),
        };
        let now = self.node.clock.now().mono;
        let seen = leases.iter().map(|(node, lease)| Lease {
            node: *node,
            beat: lease.beat,
            draining: lease.draining,
        });
        self.leases.on_beat(begun, now, seen);
        let has_served = std::mem::replace(&mut self.has_served, true);
        let alive = self.leases.alive(now);
        self.tell_roster(&leases, &alive.nodes);
        for (node, lease) in leases {
            if node == self.me() || !alive.nodes.contains(&node) {
                continue;
            }
            if let Some(held) = self.held.get_mut(&node) {
                held.address = lease.link;
                continue;
            }
            info!(%node, name = lease.name, address = lease.link, "a node is there");
            let link = Arc::new(LinkState::new(now, self.node.shards().count()));
            let moved = self.moved.clone();
            let (task, lanes, streams) =
                PeerTask::new(self.node.clone(), node, link.clone(), moved, has_served);
            tokio::task::spawn_local(task.run());
            let peer = Peer { lanes, link, links: 0, is_up: false, clients: lease.clients.into() };
            let (address, calls) = (lease.link, Rc::default());
            self.held.insert(node, Held { peer, streams, address, calls, silent: None });
        }
        self.publish();
        if let Some(tell) = self.joined.take() {
            tell();
        }
    }

    fn tell_roster(&self, leases: &lease::Leases, alive: &[NodeId]) {
        let beaten = self.leases.beaten();
        let mine = (self.me(), &self.lease);
        let others = leases.iter().map(|(node, lease)| (*node, lease));
        let others = others.filter(|(node, _)| *node != mine.0 && alive.contains(node));
        let mut members: Vec<_> = std::iter::once(mine)
            .chain(others)
            .map(|(node, lease)| {
                let beaten = self.leases.moved(node).unwrap_or(beaten);
                Member { node, lease: lease.clone(), beaten }
            })
            .collect();
        members.sort_unstable_by_key(|member| member.node);
        self.node.roster.set(beaten, members.into());
    }

    /// Calls those to whom there is no link. Of two nodes the one with the lower id calls.
    fn call_all(&self) {
        for (node, held) in self.held.iter().filter(|(node, held)| self.me() < **node && !held.peer.is_up) {
            if held.calls.under_way.replace(true) {
                continue;
            }
            let call = self.calls.call(*node, &held.address);
            let (node, calls, link) = (*node, held.calls.clone(), held.peer.link.clone());
            let (hello, greeted) = (self.hello(), self.greeted.clone());
            tokio::task::spawn_local(async move {
                let called = timeout(CALL, call).await;
                match called.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => match introduce(stream, hello, Some(node), greeted).await {
                        Ok(()) => {}
                        Err(why) => calls.failed(node, &link, &why),
                    },
                    Err(error) => calls.failed(node, &link, &error),
                }
                calls.under_way.set(false);
            });
        }
    }

    /// Somebody has called.
    fn greet(&self, stream: BoxStream) {
        let (hello, greeted, told) = (self.hello(), self.greeted.clone(), self.refused.clone());
        tokio::task::spawn_local(async move {
            let Err(why) = introduce(stream, hello, None, greeted).await else { return };
            if told.get().is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                told.set(Some(Instant::now()));
                warn!(%why, "no link with a node that has called");
            } else {
                debug!(%why, "no link with a node that has called");
            }
        });
    }

    fn hello(&self) -> Hello {
        Hello { node: self.me(), epoch: self.node.epoch, versions: self.lease.versions }
    }

    fn on_greeted(&mut self, node: NodeId, opened: Opened) {
        match self.held.get(&node) {
            Some(held) => drop(held.streams.try_send(opened)),
            // Its lease has not been seen yet: it calls again.
            None => debug!(%node, "a node has called that is not known yet"),
        }
    }

    fn on_moved(&mut self, moved: Moved) {
        let (Moved::Up(node) | Moved::Down(node)) = moved;
        if let Some(held) = self.held.get_mut(&node) {
            held.peer.is_up = moved == Moved::Up(node);
            if held.peer.is_up {
                self.links += 1;
                held.peer.links = self.links;
                let failed = held.calls.failed.take();
                if failed > 0 {
                    info!(%node, failed, "there is a link again, after calls that had failed");
                }
            }
        }
    }

    /// How this node stands with the store, by what the others say of themselves. One of whom nothing is heard may reach it.
    fn reach(&mut self, now: MonoMillis) -> Reach {
        let mut hears_all = !self.held.is_empty();
        for held in self.held.values_mut() {
            if let Some(beaten) = held.peer.link.beaten().filter(|_| held.peer.is_up) {
                self.leases.on_told(now, beaten);
                held.silent = (now.since(beaten) >= LEASE_MS).then_some(now);
            } else {
                hears_all &= held.silent.is_some_and(|heard| now.since(heard) < SILENT_MS);
            }
        }
        self.leases.reach(now, hears_all)
    }

    /// Tells the shards what has changed.
    fn publish(&mut self) {
        let now = self.node.clock.now().mono;
        let alive = self.leases.alive(now);
        let (mut departures, leases) = (self.departures, &self.leases);
        self.held.retain(|node, _| {
            let is_alive = alive.nodes.contains(node);
            if !is_alive {
                departures += 1;
                info!(%node, dead = leases.is_dead(*node, now), "a node has gone");
            }
            is_alive
        });
        self.departures = departures;
        let reach = self.reach(now);
        let before = self.view.borrow().clone();
        let same_owners = self.owners == alive.owners;
        let same_peers =
            before.peers.len() == self.held.len()
                && before.peers.iter().zip(&self.held).all(|((a, old), (b, new))| {
                    (a, old.links, old.is_up) == (b, new.peer.links, new.peer.is_up)
                });
        if same_peers && same_owners && before.departures == departures && before.reach == reach {
            return;
        }
        if before.reach != reach {
            match reach {
                Reach::Reached => info!("the store answers this node again"),
                Reach::Silent => warn!("the store answers no node: clients are told to wait"),
                Reach::CutOff => warn!("this node is cut off from the store: its clients are sent away"),
            }
        }
        let map = if same_owners { before.map.clone() } else { SlotMap::new(alive.owners.iter().copied()) };
        self.owners = alive.owners;
        let peers = self.held.iter().map(|(node, held)| (*node, held.peer.clone())).collect();
        self.view.send_replace(Arc::new(View {
            me: before.me,
            in_cluster: true,
            map,
            peers,
            departures,
            reach,
        }));
    }
}

struct Beat {
    begun: MonoMillis,
    result: Result<lease::Leases, CommitError>,
}

/// Finds out who is at the other end of a stream, and hands it on.
///
/// # Errors
/// [`LinkError`]: the stream is of no use.
async fn introduce(
    mut stream: BoxStream,
    hello: Hello,
    expected: Option<NodeId>,
    greeted: mpsc::Sender<Greeted>,
) -> Result<(), LinkError> {
    let (mut input, me) = (BytesMut::new(), hello.node);
    let (node, version) = greet(&mut stream, &mut input, hello).await?;
    if node == me {
        return Err(LinkError::Itself);
    }
    if expected.is_some_and(|expected| expected != node) {
        return Err(LinkError::OtherNode(node));
    }
    let _ = greeted.send((node, Opened { stream, input, version })).await;
    Ok(())
}
