//! How soon everybody is told, when all is well and when two nodes of a cluster do not reach each other. Time is simulated
//! and so is exact: what the servers promise of it can be demanded.

use std::rc::Rc;
use std::time::Duration;

use tern_check::Promise;
use tern_protocol::ids::NodeId;
use tokio::time::{Instant, sleep};

use super::{LOOK, World, text};
use crate::device::{Command, Device};
use crate::plan::Plan;

/// All has been well for so long: no node has come or gone, leases are known, links are there.
const WELL: Duration = Duration::from_secs(12);
/// All is well within this time, or is not asked for.
const WELL_WITHIN: Duration = Duration::from_secs(2 * 60);
/// When all is well: both ways of both devices, a commit, two steps between nodes, and an app that is asked now and then.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Two nodes do not reach each other for so long.
const CUT: Duration = Duration::from_secs(60);
/// Then: 4 s until they notice, a send that goes again, 5 s until the store is asked, and as long again for what is in between.
const SOON: Duration = Duration::from_secs(20);

/// After sends have arrived a node dies within this time: some of them are stored by then, and not told.
const DIES_WITHIN_MS: u64 = 16;

/// What there is when all works.
#[derive(PartialEq, Eq)]
struct Scene {
    nodes: Vec<NodeId>,
    /// Of each device, how many it has had.
    connections: Vec<u64>,
}

impl World {
    /// Everybody is told at once; soon, when two nodes do not reach each other; and soon, when a node has died.
    pub(super) async fn tell_promptly(self: &Rc<Self>, plan: &Plan, devices: &[Rc<Device>]) {
        let Some(scene) = self.well(devices).await else { return };
        self.all_send(plan, devices);
        self.demand(devices, &scene, AT_ONCE, "all is well").await;

        let Some(scene) = self.well(devices).await else { return };
        let (Some(switch), [first, second, ..]) = (&self.switch, &*scene.nodes) else { return };
        switch.cut(*first, *second, CUT);
        self.all_send(plan, devices);
        self.demand(devices, &scene, SOON, "two nodes do not reach each other").await;
        switch.heal();

        let Some(scene) = self.well(devices).await else { return };
        self.all_send(plan, devices);
        sleep(self.delay(plan.latency_ms.1 + DIES_WITHIN_MS)).await;
        self.kill_first_node();
        self.demand(devices, &scene, SOON, "a node has died").await;
        self.start_nodes();
    }

    /// What there is, if all that is there works.
    fn scene(&self, devices: &[Rc<Device>]) -> Option<Scene> {
        let nodes = self.nodes.borrow();
        let is_complete = nodes.len() == self.nodes_wanted && self.stopping.get() == 0;
        if !is_complete || self.rude_running.get() > 0 || nodes.iter().any(|node| node.stands_still()) {
            return None;
        }
        let mut nodes: Vec<_> = nodes.iter().filter_map(|node| node.name()).collect();
        nodes.sort_unstable();
        let connections = devices.iter().map(|device| device.connection()).collect::<Option<_>>()?;
        Some(Scene { nodes, connections })
    }

    /// Waits until all has been well for a while.
    async fn well(&self, devices: &[Rc<Device>]) -> Option<Scene> {
        let end = Instant::now() + WELL_WITHIN;
        let mut since = Instant::now();
        let mut before = self.scene(devices);
        while Instant::now() < end {
            sleep(LOOK).await;
            let scene = self.scene(devices);
            if scene.is_none() || scene != before {
                since = Instant::now();
            } else if since.elapsed() >= WELL {
                return if self.lacking(devices).await.is_none() { scene } else { None };
            }
            before = scene;
        }
        None
    }

    fn all_send(&self, plan: &Plan, devices: &[Rc<Device>]) {
        for device in devices {
            let to = self.random.borrow_mut().below(1_000);
            let text = text(&mut self.random.borrow_mut(), 16);
            device.command(Command::Send(self.target(plan, to), text));
        }
    }

    async fn demand(&self, devices: &[Rc<Device>], scene: &Scene, time: Duration, while_what: &str) {
        let end = Instant::now() + time;
        let mut lacking = None;
        while Instant::now() < end {
            sleep(time / 10).await;
            // A device that has lost its connection is told when it has another one.
            let steady = devices.iter().zip(&scene.connections);
            let steady = steady.filter(|(device, had)| device.connection() == Some(**had));
            let steady: Vec<_> = steady.map(|(device, _)| device.clone()).collect();
            lacking = self.lacking(&steady).await;
            if lacking.is_none() {
                return;
            }
        }
        if let Some(what) = lacking {
            let what = format!("{} s after a send, while {while_what}: {what}", time.as_secs());
            self.history.borrow_mut().violate(Promise::GapFreeSync, "told late", what);
        }
    }
}
