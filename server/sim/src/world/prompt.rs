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

/// What must not change while it is looked how soon everybody is told.
#[derive(PartialEq, Eq)]
struct Scene {
    nodes: Vec<Option<NodeId>>,
    /// Of each device, how many it has had.
    connections: Vec<u64>,
}

impl World {
    /// Everybody is told at once; and soon, when two nodes do not reach each other.
    pub(super) async fn tell_promptly(self: &Rc<Self>, plan: &Plan, devices: &[Rc<Device>]) {
        let Some(scene) = self.well(devices).await else { return };
        self.tell_within(plan, devices, &scene, AT_ONCE, "all is well").await;
        let Some(scene) = self.well(devices).await else { return };
        let nodes: Vec<_> = scene.nodes.iter().flatten().copied().collect();
        let (Some(switch), 2..) = (&self.switch, nodes.len()) else { return };
        let first = self.random.borrow_mut().below(nodes.len() as u64) as usize;
        switch.cut(nodes[first], nodes[(first + 1) % nodes.len()], CUT);
        self.tell_within(plan, devices, &scene, SOON, "two nodes do not reach each other").await;
        switch.heal();
    }

    /// What there is, if all that is there works.
    fn scene(&self, devices: &[Rc<Device>]) -> Option<Scene> {
        let nodes = self.nodes.borrow();
        let is_complete = nodes.len() == self.nodes_wanted && self.stopping.get() == 0;
        if !is_complete || self.rude_running.get() > 0 || nodes.iter().any(|node| node.stands_still()) {
            return None;
        }
        let nodes = nodes.iter().map(|node| node.name()).collect();
        let connections = devices.iter().map(|device| device.connection()).collect::<Option<_>>()?;
        Some(Scene { nodes, connections })
    }

    /// Waits until all has been well for a while.
    async fn well(&self, devices: &[Rc<Device>]) -> Option<Scene> {
        let end = Instant::now() + WELL_WITHIN;
        let mut since = (None, Instant::now());
        while Instant::now() < end {
            let scene = self.scene(devices);
            if scene.is_none() || scene != since.0 {
                since = (scene, Instant::now());
            } else if since.1.elapsed() >= WELL {
                let lacking = self.lacking(devices).await;
                return scene.filter(|_| lacking.is_none());
            }
            sleep(LOOK).await;
        }
        None
    }

    async fn tell_within(
        self: &Rc<Self>,
        plan: &Plan,
        devices: &[Rc<Device>],
        scene: &Scene,
        time: Duration,
        while_what: &str,
    ) {
        for device in devices {
            let to = self.random.borrow_mut().below(1_000);
            let text = text(&mut self.random.borrow_mut(), 16);
            device.command(Command::Send(self.target(plan, to), text));
        }
        let end = Instant::now() + time;
        let mut lacking = None;
        while Instant::now() < end {
            sleep(time / 10).await;
            lacking = self.lacking(devices).await;
            if lacking.is_none() {
                return;
            }
        }
        // A device that has lost its connection is told when it has another one.
        if let Some(what) = lacking.filter(|_| self.scene(devices).as_ref() == Some(scene)) {
            let what = format!("{} s after a send, while {while_what}: {what}", time.as_secs());
            self.history.borrow_mut().violate(Promise::GapFreeSync, "told late", what);
        }
    }
}
