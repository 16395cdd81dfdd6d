//! What the page says of the cluster.

use tern_core::cluster::Reach;
use tern_protocol::ids::NodeId;

use super::catalog::{self, Family};
use super::collect::Collector;
use super::text::Page;
use crate::cluster::{Member, Peer};

const MILLIS_PER_SECOND: f64 = 1e3;
const MICROS_PER_SECOND: f64 = 1e6;

/// Writes it.
pub(super) fn fill(collector: &Collector, page: &mut Page) {
    let node = &collector.node;
    let view = node.view.borrow().clone();
    let now = node.clock.now().mono;
    let seconds = |since| now.since(since) as f64 / MILLIS_PER_SECOND;
    let slots = |node: NodeId| view.map.count(|owner| *owner == node) as u64;
    let links = view.peers.values().filter(|peer| peer.is_up).count() as u64;
    let members = node.roster.members();
    let is = |reach| u64::from(view.reach == reach);
    page.family(&catalog::CLUSTER_NODES, |samples| samples.value(&[], view.peers.len() as u64 + 1));
    page.family(&catalog::CLUSTER_LINKS_UP, |samples| samples.value(&[], links));
    page.family(&catalog::CLUSTER_SLOTS_OWNED, |samples| samples.value(&[], slots(view.me)));
    page.family(&catalog::CLUSTER_CUT_OFF, |samples| samples.value(&[], is(Reach::CutOff)));
    page.family(&catalog::CLUSTER_STORE_SILENT, |samples| samples.value(&[], is(Reach::Silent)));
    let beaten = if members.is_empty() { 0.0 } else { seconds(node.roster.beaten()) };
    page.family(&catalog::CLUSTER_BEAT_AGE, |samples| samples.value(&[], beaten));

    page.family(&catalog::CLUSTER_NODE_INFO, |samples| {
        for Member { node, lease, .. } in &*members {
            let versions = format!("{}-{}", lease.versions.0, lease.versions.1);
            let this = if *node == view.me { "true" } else { "false" };
            samples.value(&[&node.to_string(), &lease.name, &lease.link, &versions, this], 1);
        }
    });
    let mut of_members = |family: &'static Family, of: &dyn Fn(&Member) -> f64| {
        page.family(family, |samples| {
            members.iter().for_each(|member| samples.value(&[&member.node.to_string()], of(member)));
        });
    };
    of_members(&catalog::CLUSTER_NODE_STARTED, &|of| of.lease.started.0 as f64 / MILLIS_PER_SECOND);
    of_members(&catalog::CLUSTER_NODE_DRAINING, &|of| f64::from(u8::from(of.lease.draining)));
    of_members(&catalog::CLUSTER_NODE_BEAT_AGE, &|of| seconds(of.beaten));
    of_members(&catalog::CLUSTER_NODE_SLOTS, &|of| slots(of.node) as f64);

    let mut of_peers = |family: &'static Family, of: &dyn Fn(&Peer) -> f64| {
        page.family(family, |samples| {
            view.peers.iter().for_each(|(node, peer)| samples.value(&[&node.to_string()], of(peer)));
        });
    };
    of_peers(&catalog::CLUSTER_LINK_VERSION, &|of| of.link.version().unwrap_or(0).into());
    of_peers(&catalog::CLUSTER_LINK_AGE, &|of| seconds(of.link.moved()));
    of_peers(&catalog::CLUSTER_LINK_ROUND_TRIP, &|of| {
        of.link.round_trip().map_or(f64::NAN, |micros| micros as f64 / MICROS_PER_SECOND)
    });
    of_peers(&catalog::CLUSTER_CALLS_FAILED, &|of| of.link.calls_failed() as f64);
    of_peers(&catalog::CLUSTER_REQUESTS, &|of| of.link.asked() as f64);
    of_peers(&catalog::CLUSTER_NEWS, &|of| of.link.news().0 as f64);
    of_peers(&catalog::CLUSTER_NEWS_BYTES, &|of| of.link.news().1 as f64);
    of_peers(&catalog::CLUSTER_NEWS_AGE, &|of| of.link.news().2.map_or(0.0, seconds));
    of_peers(&catalog::CLUSTER_HEADS_BEHIND, &|of| of.link.behind() as f64);
    collector.by_shard(page, &catalog::CLUSTER_NEWS_UNSENT, |metrics| &metrics.news_unsent);
    collector.by_shard(page, &catalog::CLUSTER_MARKS_KEPT, |metrics| &metrics.marks_kept);
    collector.by_shard(page, &catalog::CLUSTER_RECHECKS, |metrics| &metrics.rechecks);
}
