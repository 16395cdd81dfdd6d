//! Nodes that leave, and nodes that come.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tern_core::limits::SLOTS;
use tern_protocol::ids::{ConversationId, Seq};
use tern_server::metrics::catalog;
use tern_store::ops::lease;

use crate::nodes::{Cluster, Node, SETTLED, group_of, groups_of, linked};
use crate::person::{Person, same_logs};
use crate::support::PATIENCE;

/// Talks until it is over; returns how much was said.
async fn talks(person: &mut Person<'_>, name: &str, groups: &[ConversationId], over: &Cell<bool>) -> usize {
    let mut count = 0;
    while !over.get() {
        for group in groups {
            person.says(*group, &format!("{name} {count}")).await;
        }
        count += 1;
    }
    count
}

/// Waits until these own everything, while the one that leaves is still there.
async fn own_all(nodes: &[Node]) {
    let owning = async {
        loop {
            let mut owned = 0;
            for node in nodes {
                owned += node.number(&catalog::CLUSTER_SLOTS_OWNED).await;
            }
            if owned == u64::from(SLOTS) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, owning).await.expect("the others take over");
    assert_eq!(nodes[0].number(&catalog::CLUSTER_NODES).await, 3, "before it has left");
}

#[tokio::test]
async fn a_node_is_stopped_and_another_one_comes() {
    let (cluster, mut nodes) = Cluster::of(3).await;
    let all: Vec<_> = nodes.iter().collect();
    let groups: Vec<_> = nodes.iter().map(|owner| group_of(owner, &all)).collect();
    let mut alice = Person::on(&cluster, &nodes[0], "alice", 1).await;
    let mut bob = Person::on(&cluster, &nodes[1], "bob", 2).await;
    let mut carol = Person::on(&cluster, &nodes[2], "carol", 3).await;
    for group in &groups {
        alice.makes(*group, &["bob", "carol"]).await;
    }
    let over = Cell::new(false);
    let leaves = nodes.remove(0);
    let stopping = async {
        tokio::join!(leaves.stop(), own_all(&nodes));
        let leases = lease::read(&cluster.store).await.expect("it can be read");
        assert_eq!(leases.len(), 2, "it has taken its lease along");
        for node in &nodes {
            node.tells(&catalog::CLUSTER_NODES, 2).await;
        }
        over.set(true);
    };
    let ((), a, b, c) = tokio::join!(
        stopping,
        talks(&mut alice, "alice", &groups, &over),
        talks(&mut bob, "bob", &groups, &over),
        talks(&mut carol, "carol", &groups, &over),
    );
    assert!(a > 0 && b > 0 && c > 0);
    assert!(alice.told.logins > 0, "alice was sent away");
    assert_eq!((bob.told.logins, carol.told.logins), (0, 0), "nobody else was");
    let mut expected: Vec<_> = [("alice", a), ("bob", b), ("carol", c)]
        .into_iter()
        .flat_map(|(name, count)| (0..count).map(move |n| format!("{name} {n}")))
        .collect();
    expected.sort();
    let mut heads = Vec::new();
    for group in &groups {
        let head = Seq(1 + expected.len() as u64);
        heads.push(head);
        for person in [&mut alice, &mut bob, &mut carol] {
            person.hears(*group, head).await;
        }
        same_logs(&[&alice, &bob, &carol], *group, head);
        let mut said = alice.reads(*group).await;
        said.sort();
        assert_eq!(said, expected, "nothing is lost, and nothing doubled");
    }

    // Another one comes, owns its share, and whoever is there is told of what happens elsewhere.
    nodes.push(cluster.start("late").await);
    let all: Vec<_> = nodes.iter().collect();
    linked(&all).await;
    let new = &nodes[2];
    assert!(new.number(&catalog::CLUSTER_SLOTS_OWNED).await > u64::from(SLOTS) / 9, "its share");
    carol.moves_to(new).await;
    let owned_there = groups_of(new, &all).find(|group| !groups.contains(group)).expect("endless");
    bob.makes(owned_there, &["alice", "carol"]).await;
    let begun = Instant::now();
    let mut rounds = 0;
    // First nodes tell all others, later those only where somebody is.
    while rounds < 3 || begun.elapsed() < SETTLED {
        rounds += 1;
        for group in [owned_there].iter().chain(&groups) {
            let said = bob.says(*group, "is anybody new?").await;
            carol.hears(*group, said.seq).await;
            let said = carol.says(*group, "I am here").await;
            alice.hears(*group, said.seq).await;
            bob.hears(*group, said.seq).await;
        }
    }
    for group in [owned_there].iter().chain(&groups) {
        let head = bob.says(*group, "good").await.seq;
        for person in [&mut alice, &mut bob, &mut carol] {
            person.hears(*group, head).await;
        }
        same_logs(&[&alice, &bob, &carol], *group, head);
    }
}
