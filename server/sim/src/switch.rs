//! The network between nodes: streams that take their time, cuts between two of them, and one end that dies without a word.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tern_check::random::Random;
use tern_protocol::ids::NodeId;
use tern_server::cluster::keeper::Call;
use tern_server::cluster::peer::BoxStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::net::{self, End, Trouble};
use crate::tampered::{self, AllAsked};
use crate::wrong::Wrong;

/// Streams that wait for a node to take them up.
const INCOMING_MAX: usize = 64;
/// A call to somebody who cannot be reached fails after so long.
const UNREACHABLE: Duration = Duration::from_secs(3);
/// Between nodes bytes take so long, in milliseconds, at least and at most.
const LATENCY_MS: (u64, u64) = (0, 4);

/// What all nodes are connected to.
pub struct Switch {
    random: RefCell<Random>,
    nodes: RefCell<BTreeMap<NodeId, mpsc::Sender<BoxStream>>>,
    /// Until when nothing gets from one to the other, or back.
    cuts: RefCell<BTreeMap<(NodeId, NodeId), Instant>>,
    links: RefCell<Vec<((NodeId, NodeId), Trouble)>>,
    /// What is wrong on purpose.
    pub wrong: Option<Wrong>,
    asked: AllAsked,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Switch {
    /// Without nodes.
    pub fn new(random: Random, wrong: Option<Wrong>) -> Rc<Self> {
        Rc::new(Self {
            random: RefCell::new(random),
            nodes: RefCell::default(),
            cuts: RefCell::default(),
            links: RefCell::default(),
            wrong,
            asked: AllAsked::default(),
        })
    }

    /// A new node: its id, and the streams that others open to it.
    pub fn plug(&self) -> (NodeId, mpsc::Receiver<BoxStream>) {
        let node = NodeId(self.random.borrow_mut().any());
        let (streams, incoming) = mpsc::channel(INCOMING_MAX);
        self.nodes.borrow_mut().insert(node, streams);
        (node, incoming)
    }

    /// A node has died: nobody is told.
    pub fn unplug(&self, node: NodeId) {
        self.nodes.borrow_mut().remove(&node);
        self.kill(|(a, b)| a == node || b == node);
    }

    /// Nothing gets from one node to the other for so long.
    pub fn cut(&self, a: NodeId, b: NodeId, time: Duration) {
        let until = Instant::now() + time;
        let mut cuts = self.cuts.borrow_mut();
        let cut = cuts.entry(pair(a, b)).or_insert(until);
        *cut = (*cut).max(until);
        drop(cuts);
        self.kill(|link| link == pair(a, b));
    }

    /// Everybody reaches everybody.
    pub fn heal(&self) {
        self.cuts.borrow_mut().clear();
    }

    fn kill(&self, which: impl Fn((NodeId, NodeId)) -> bool) {
        self.links.borrow_mut().retain(|(link, trouble)| {
            let keep = !which(*link);
            if !keep {
                trouble.die();
            }
            keep
        });
    }

    fn stream(&self, from: NodeId, to: NodeId) -> Option<BoxStream> {
        let link = pair(from, to);
        if self.cuts.borrow().get(&link).is_some_and(|until| *until > Instant::now()) {
            return None;
        }
        let (here, there, trouble) = net::connection(LATENCY_MS, self.random.borrow_mut().split());
        let (here, there) = (self.tampered((from, to), here), self.tampered((to, from), there));
        self.nodes.borrow().get(&to)?.try_send(Box::new(there)).ok()?;
        self.kill(|other| other == link);
        self.links.borrow_mut().push((link, trouble));
        Some(Box::new(here))
    }

    /// What a node has of its end of a link to another one.
    fn tampered(&self, (node, other): (NodeId, NodeId), end: End) -> End {
        let Some(wrong) = self.wrong.filter(|wrong| wrong.is_of_links()) else { return end };
        let (theirs, near, _) = net::connection((0, 0), self.random.borrow_mut().split());
        spawn_local(tampered::stand_between(wrong, self.asked.clone(), (node, near), (other, end)));
        theirs
    }
}

/// How one node calls the others.
pub struct Plug {
    /// Which.
    pub node: NodeId,
    /// What it is connected to.
    pub switch: Rc<Switch>,
}

impl Call for Plug {
    fn call(&self, node: NodeId, _: &str) -> Pin<Box<dyn Future<Output = io::Result<BoxStream>>>> {
        let stream = self.switch.stream(self.node, node);
        Box::pin(async move {
            match stream {
                Some(stream) => Ok(stream),
                None => {
                    sleep(UNREACHABLE).await;
                    Err(io::ErrorKind::TimedOut.into())
                }
            }
        })
    }
}
