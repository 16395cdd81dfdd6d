//! What clients are told when the server stops. A node of a cluster hands them over to the others before: one after another,
//! so that they do not all shake hands at once there, and each with a node to go to.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tern_core::cluster::Reach;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::ids::RequestId;
use tern_protocol::limits::TARGETS_MAX;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::View;
use super::member::HANDOVER;
use crate::connection::Conn;
use crate::reply;
use crate::shard::Shard;
use crate::shutdown::Phase;

/// Logins that each other node is expected to bear beside what it does already, a second.
const LOGINS_PER_NODE: usize = 1_000;
/// Whoever is left after this goes with the others at the end: service managers wait for 30 s and longer.
const WINDOW_MAX: Duration = Duration::from_secs(20);
/// How long clients are asked to stay away when there is nobody else to go to.
const RECONNECT_AFTER_MS: u32 = 1_000;
/// Between two groups of clients who are told.
const STEP: Duration = Duration::from_millis(50);
/// Between two looks at who is left.
const GLANCE: Duration = Duration::from_millis(10);

/// Has clients told to go, while the others take over what this node owns. Ready when nobody is left or their time has
/// passed, and the others have taken over. Where there are no others, at once.
pub async fn run(
    phase: &watch::Sender<Phase>,
    view: &watch::Receiver<Arc<View>>,
    connections: impl Fn() -> usize,
) {
    let nodes = view.borrow().others().count();
    if nodes == 0 {
        return;
    }
    let (begun, window) = (Instant::now(), window(connections(), nodes));
    phase.send_replace(Phase::Leaving(window));
    sleep(HANDOVER).await;
    while connections() > 0 && begun.elapsed() < window {
        sleep(GLANCE).await;
    }
}

/// In which time so many connections are told to go to so many other nodes.
fn window(connections: usize, nodes: usize) -> Duration {
    let seconds = connections as f64 / (LOGINS_PER_NODE * nodes.max(1)) as f64;
    Duration::from_secs_f64(seconds).clamp(HANDOVER, WINDOW_MAX)
}

/// What clients are told, in turn: each begins with another node.
fn farewells(view: &View) -> Vec<Bytes> {
    let targets = view.targets();
    (0..targets.len().max(1)).map(|turn| farewell(view, &targets, turn)).collect()
}

fn farewell(view: &View, targets: &[&str], turn: usize) -> Bytes {
    // Others are there now, and this one decides who comes when.
    let reconnect_after_ms = if view.others().next().is_some() { 0 } else { RECONNECT_AFTER_MS };
    let first = turn % targets.len().max(1);
    let others = targets.iter().cycle().skip(first).take(targets.len().min(TARGETS_MAX));
    let targets = others.map(|target| (*target).to_owned()).collect();
    reply::frame(RequestId(0), ServerBody::GoingAway { reconnect_after_ms, targets })
}

/// How many of so many have been told by then.
fn due(count: usize, passed: Duration, window: Duration) -> usize {
    let share = if window.is_zero() { 1.0 } else { passed.as_secs_f64() / window.as_secs_f64() };
    ((count as f64 * share).ceil() as usize).min(count)
}

impl Shard {
    /// Tells all who are connected that the server stops.
    pub fn say_farewell(&self) {
        let farewells = farewells(&self.view.borrow());
        let conns = self.conns.borrow();
        conns
            .values()
            .zip(farewells.iter().cycle())
            .for_each(|(conn, farewell)| conn.answer(farewell.clone()));
    }

    /// Closes a connection when this node serves nobody any more.
    pub fn send_away_if_cut_off(self: &Rc<Self>, conn: &Rc<Conn>) {
        let view = self.view.borrow().clone();
        if view.reach == Reach::CutOff {
            conn.answer(farewell(&view, &view.targets(), conn.id.number as usize));
            let text = "this node cannot reach its store: connect to another one";
            self.close(conn, RequestId(0), ErrorCode::GoingAway, text.into());
        }
    }

    /// Tells those who are connected now to go, within this time.
    pub async fn hand_over(self: Rc<Self>, window: Duration) {
        let numbers: Vec<_> = self.conns.borrow().keys().copied().collect();
        let begun = Instant::now();
        let mut told = 0;
        while told < numbers.len() {
            let due = due(numbers.len(), begun.elapsed(), window);
            let farewells = farewells(&self.view.borrow());
            for turn in told..due {
                let conn = self.conns.borrow().get(&numbers[turn]).cloned();
                if let Some(conn) = conn {
                    conn.answer(farewells[turn % farewells.len()].clone());
                }
            }
            told = due;
            sleep(STEP).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tern_core::routing::SlotMap;
    use tern_core::time::MonoMillis;
    use tern_protocol::convert::parse_server;
    use tern_protocol::ids::NodeId;
    use tokio::sync::mpsc;

    use super::super::{Lanes, LinkState, Peer};
    use super::*;

    fn peer(clients: &[&str]) -> Peer {
        let lanes =
            Lanes { requests: mpsc::channel(1).0, news: mpsc::channel(1).0, homes: mpsc::channel(1).0 };
        let clients = clients.iter().map(|client| (*client).to_owned()).collect();
        Peer { lanes, link: Arc::new(LinkState::new(MonoMillis(0), 1)), links: 1, is_up: true, clients }
    }

    fn view(owners: &[u64], peers: &[(u64, &[&str])]) -> View {
        let peers: BTreeMap<_, _> =
            peers.iter().map(|(node, clients)| (NodeId(*node), peer(clients))).collect();
        let map = SlotMap::new(owners.iter().map(|node| NodeId(*node)));
        View { map, peers, ..View::alone(NodeId(1)) }
    }

    fn told(view: &View) -> Vec<Vec<String>> {
        let read = |frame: Bytes| match parse_server(frame.slice(1..)).expect("good").expect("known").body {
            ServerBody::GoingAway { targets, .. } => targets,
            other => panic!("{other:?}"),
        };
        farewells(view).into_iter().map(read).collect()
    }

    #[test]
    fn clients_are_told_where_to_go_in_turn() {
        let three: &[(u64, &[&str])] = &[(2, &["b:1", "b:2"]), (3, &["c:1"]), (4, &["d:1"])];
        let all = told(&view(&[2, 3, 4], three));
        assert_eq!(all, [["b:1", "c:1", "d:1"], ["c:1", "d:1", "b:1"], ["d:1", "b:1", "c:1"]]);
        // Not to a node that leaves too, nor to one that does not say where it is.
        assert_eq!(told(&view(&[3], three)), [["c:1"]]);
        assert_eq!(told(&view(&[2, 3], &[(2, &[]), (3, &["c:1"])])), [["c:1"]]);
        assert_eq!(told(&view(&[2], &[(2, &[])])), [Vec::<String>::new()]);
        let many: Vec<_> = (2..9).map(|node| (node, &["x:1"][..])).collect();
        let all = told(&view(&(2..9).collect::<Vec<_>>(), &many));
        assert!(all.len() == 7 && all.iter().all(|targets| targets.len() == TARGETS_MAX), "{all:?}");
    }

    #[test]
    fn the_more_clients_the_longer_it_takes() {
        let seconds = Duration::from_secs;
        assert_eq!(window(0, 2), HANDOVER);
        assert_eq!(window(10_000, 1), seconds(10));
        assert_eq!(window(10_000, 2), seconds(5));
        assert_eq!(window(100_000, 1), WINDOW_MAX);
        assert_eq!(window(10_000, 0), seconds(10));
        let due = |passed| due(1_000, Duration::from_millis(passed), seconds(10));
        assert_eq!([due(0), due(1), due(5_000), due(10_000), due(99_000)], [0, 1, 500, 1_000, 1_000]);
        assert_eq!(super::due(3, Duration::ZERO, Duration::ZERO), 3);
    }
}
