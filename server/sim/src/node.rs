//! A server: the real shards, on one thread and in the simulation's time.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tern_core::routing::ShardId;
use tern_protocol::ids::{NodeId, StoreEpoch};
use tern_protocol::model::WallMillis;
use tern_server::auth::{TokenKey, Verifier};
use tern_server::clock::Clock;
use tern_server::cluster::View;
use tern_server::cluster::handover;
use tern_server::cluster::keeper::Keeper;
use tern_server::limits::{AddressLimit, Limits};
use tern_server::mailbox::mailbox;
use tern_server::metrics::shard::Transport;
use tern_server::shard::{Node, Shard};
use tern_server::shutdown::{self, Phase};
use tern_store::Kv;
use tern_store::records::NodeLease;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::net::End;
use crate::store::SimStore;
use crate::switch::{Plug, Switch};
use crate::wrong::Wrong;
use tern_check::random::Random;

/// Whether a server that stops has ended is looked at this often.
const GLANCE: Duration = Duration::from_millis(10);

/// What signs the tokens of the simulation.
pub const TOKEN_SECRET: &[u8] = b"the simulation's tokens are signed with these bytes";

/// A running server.
pub struct SimNode {
    set: Rc<LocalSet>,
    shards: Vec<Rc<Shard>>,
    node: Arc<Node>,
    phase: watch::Sender<Phase>,
    running: JoinHandle<()>,
    /// In a cluster: its name there, and a way to say that it is about to leave.
    member: Option<(NodeId, watch::Sender<bool>)>,
    /// What it reads and writes.
    pub store: SimStore,
    stopping: Cell<bool>,
    /// It stands still until then.
    still_until: Rc<Cell<Instant>>,
    /// What its wall clock said when it began, in milliseconds since 1970, had it been as it is now.
    wall: Arc<AtomicU64>,
    /// Of that, what it is ahead of the simulation's.
    ahead_ms: Cell<i64>,
}

/// A process that stands still at times, and knows nothing of that: its clock goes on.
struct Stands<F> {
    process: Pin<Box<F>>,
    until: Rc<Cell<Instant>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Stands<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let until = this.until.get();
        if until > Instant::now() {
            let sleep = this.sleep.insert(Box::pin(sleep_until(until)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        this.process.as_mut().poll(cx)
    }
}

/// What the shards of a node that is wrong on purpose are told of the cluster.
fn misjudged(
    set: &LocalSet,
    wrong: Wrong,
    mut view: watch::Receiver<Arc<View>>,
) -> watch::Receiver<Arc<View>> {
    let (told, theirs) = watch::channel(view.borrow().clone());
    set.spawn_local(async move {
        while view.changed().await.is_ok() {
            told.send_replace(Arc::new(wrong.misjudge(&view.borrow_and_update())));
        }
    });
    theirs
}

impl SimNode {
    /// With so many shards, on this store, by a wall clock that says this now and is so many milliseconds ahead of the
    /// simulation's, and in a cluster if there is one.
    pub fn start(
        store: SimStore,
        epoch: StoreEpoch,
        shards: u16,
        (wall, ahead_ms): (WallMillis, i64),
        switch: Option<&Rc<Switch>>,
    ) -> Self {
        let kv: Arc<dyn Kv> = Arc::new(store.clone());
        let key = TokenKey::hs256(TOKEN_SECRET).expect("the secret is long enough");
        let verifier = Verifier::new(vec![key], Duration::from_secs(60));
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mailbox()).unzip();
        let wall = Arc::new(AtomicU64::new(wall.0));
        let node = Node::new(kv, epoch, verifier, &Limits::OFF, Clock::at(wall.clone()), mailboxes);
        let plugged = switch.map(|switch| (switch.clone(), switch.plug()));
        let set = Rc::new(LocalSet::new());
        let view = plugged.as_ref().map(|(switch, (me, _))| {
            let (told, view) = watch::channel(Arc::new(View::alone(*me)));
            let wrong = switch.wrong.filter(|wrong| wrong.is_of_views());
            (told, wrong.map_or(view.clone(), |wrong| misjudged(&set, wrong, view)))
        });
        let node = Arc::new(match &view {
            Some((_, view)) => node.within(view.clone()),
            None => node,
        });
        let (phase, _) = watch::channel(Phase::Running);
        let new = |n| Shard::new(ShardId(n), node.clone(), phase.subscribe());
        let shards: Vec<_> = (0..shards).map(new).collect();
        let running: Vec<_> = shards
            .iter()
            .zip(inboxes)
            .map(|(shard, inbox)| set.spawn_local(shard.clone().run(inbox)))
            .collect();
        let (left, leave) = oneshot::channel();
        let (mut member, mut keeping) = (None, None);
        if let (Some((switch, (me, incoming))), Some((view, _))) = (plugged, view) {
            let (draining, drain) = watch::channel(false);
            let keeper =
                Keeper::new(node.clone(), NodeLease::default(), view, Rc::new(Plug { node: me, switch }));
            let left = async {
                let _ = leave.await;
            };
            keeping = Some(set.spawn_local(keeper.run(incoming, drain, left)));
            member = Some((me, draining));
        }
        let all = set.clone();
        let still_until = Rc::new(Cell::new(Instant::now()));
        let process = async move {
            all.run_until(async move {
                for shard in running {
                    if let Err(error) = shard.await {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                let _ = left.send(());
                if let Some(keeping) = keeping
                    && let Err(error) = keeping.await
                {
                    std::panic::resume_unwind(error.into_panic());
                }
            })
            .await;
        };
        let process = Box::pin(process);
        let running = spawn_local(Stands { process, until: still_until.clone(), sleep: None });
        let (stopping, ahead_ms) = (Cell::new(false), Cell::new(ahead_ms));
        Self { set, shards, node, phase, running, member, store, stopping, still_until, wall, ahead_ms }
    }

    /// Whether it takes connections.
    pub fn is_open(&self) -> bool {
        *self.phase.borrow() == Phase::Running && !self.stopping.get()
    }

    /// In a cluster: its name.
    pub fn name(&self) -> Option<NodeId> {
        self.member.as_ref().map(|(node, _)| *node)
    }

    /// Whether one of its threads has panicked, or ended by itself.
    pub fn has_ended(&self) -> bool {
        self.running.is_finished()
    }

    /// Takes a connection on one of its shards; one that `panics` does so at once.
    pub fn accept(&self, stream: End, random: &mut Random, panics: bool) {
        let shard = self.shards[random.below(self.shards.len() as u64) as usize].clone();
        let from = ([127, 0, 0, 1], 1).into();
        let place = AddressLimit::new(&Limits::OFF).enter([127, 0, 0, 1].into()).expect("there is no limit");
        self.set.spawn_local(async move {
            assert!(!panics, "on purpose");
            let _counted = shard.count_connection(Transport::Tcp);
            shard.serve(stream, from, place, |_| std::future::pending()).await;
        });
    }

    /// The most bytes that wait for one client, and the bytes of all requests that wait.
    pub fn waiting(&self) -> (u64, u64) {
        let outbound =
            |shard: &Rc<Shard>| shard.conns.borrow().values().map(|conn| conn.outbound_bytes()).max();
        let most = self.shards.iter().filter_map(outbound).max().unwrap_or(0);
        (most as u64, self.node.waiting_bytes() as u64)
    }

    /// It stands still for so long, in the middle of whatever it does.
    pub fn pause(&self, time: Duration) {
        self.still_until.set(self.still_until.get().max(Instant::now() + time));
    }

    /// Whether it does.
    pub fn stands_still(&self) -> bool {
        self.still_until.get() > Instant::now()
    }

    /// Sets its wall clock to so many milliseconds ahead of the simulation's.
    pub fn set_clock(&self, ahead_ms: i64) {
        let by = ahead_ms - self.ahead_ms.replace(ahead_ms);
        // Two's complement: to add it wraps around to what it takes away.
        self.wall.fetch_add(by as u64, Ordering::Relaxed);
    }

    /// Ends it in the middle of whatever it does.
    pub fn kill(&self) {
        self.running.abort();
    }

    /// Ends it well. What it has not finished by then ends with it, as with a process.
    pub async fn stop(self: Rc<Self>) {
        self.stopping.set(true);
        let connections = || self.node.connections.load(Ordering::SeqCst);
        if let Some((_, draining)) = &self.member {
            draining.send_replace(true);
            handover::run(&self.phase, &self.node.view, connections).await;
        }
        shutdown::walk(&self.phase, connections).await;
        while !self.has_ended() {
            sleep(GLANCE).await;
        }
    }
}
