//! Nodes that leave, and nodes that come.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tern_client::{Client, Config, ConnectionState, Event, MemoryStorage, Message, Target, Token, Transport};
use tern_core::limits::SLOTS;
use tern_protocol::ids::{ConversationId, Seq};
use tern_server::metrics::catalog;
use tern_store::ops::lease;

use crate::nodes::{Cluster, Node, SETTLED, group_of, groups_of, linked};
use crate::person::{Person, same_logs};
use crate::support::{self, PATIENCE};

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
    nodes[0].tells(&catalog::CLUSTER_NODE_DRAINING, 1).await;
    assert_eq!(nodes[0].number(&catalog::CLUSTER_NODES).await, 3, "before it has left");
}

#[tokio::test]
async fn clients_are_handed_over_one_after_another() {
    const CLIENTS: usize = 12;
    let (cluster, mut nodes) = Cluster::of(3).await;
    let leaves = nodes.remove(0);
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let name = format!("client {n}");
        // No other node is known to it.
        let mut config =
            Config::new(leaves.address.to_string(), cluster.ca(), Token::Fixed(cluster.token(&name)));
        config.transport = if n % 2 == 0 { Transport::Tcp } else { Transport::Quic };
        let connected = Client::connect(config, MemoryStorage::new()).await;
        clients.push(connected.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    // What happens to whom, in this order.
    let happened = RefCell::new(Vec::new());
    let moves = |n: usize, (client, mut events): (Client, tern_client::Events)| {
        let happened = &happened;
        async move {
            let mut left = false;
            while let Some(event) = events.next().await {
                let Event::Connection(state) = event else { continue };
                match state {
                    ConnectionState::Offline { .. } => left = true,
                    ConnectionState::Online { .. } if left => break,
                    _ => continue,
                }
                happened.borrow_mut().push((n, left));
            }
            happened.borrow_mut().push((n, false));
            let payload = format!("from {n}").into();
            let message = Message { content_type: "text/plain".into(), payload, reply_to: None };
            let peer = Target::User(support::user("somebody"));
            let stored = client.send(peer, message).await.expect("stored");
            assert_eq!(stored.seq, Seq(1), "once");
            (client, events)
        }
    };
    let all = join_all(clients.into_iter().enumerate().map(|(n, client)| moves(n, client)));
    let moved = async { tokio::time::timeout(PATIENCE, all).await.expect("all are online again") };
    let (_stopped, clients) = tokio::join!(leaves.stop(), moved);
    let happened = happened.into_inner();
    let first_back = happened.iter().position(|(_, is_away)| !is_away).expect("somebody");
    let last_away = happened.iter().rposition(|(_, is_away)| *is_away).expect("somebody");
    assert!(first_back < last_away, "not all at once: {happened:?}");
    for (n, _) in clients.iter().enumerate() {
        let theirs: Vec<_> = happened.iter().filter(|(who, _)| *who == n).map(|(_, away)| *away).collect();
        assert_eq!(theirs, [true, false], "client {n} was offline once");
    }
    // Each shard sends its own to both in turn.
    let there = [nodes[0].number(&catalog::CONNECTIONS).await, nodes[1].number(&catalog::CONNECTIONS).await];
    assert_eq!(there.iter().sum::<u64>(), CLIENTS as u64);
    assert!(there.iter().all(|count| *count >= CLIENTS as u64 / 2 - 1), "{there:?}");
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
