//! Leases, and what a node looks up after others have gone.

use tern_protocol::ids::NodeId;

use super::*;
use crate::keys::node::NodeKey;
use crate::records::NodeLease;

cases! {
    /// Every case.
    pub(super) const CASES;
    leases_are_seen_by_all
    the_dead_are_taken_out_and_the_living_are_not
    logs_that_have_moved_are_found
}

fn beaten(beat: u64) -> NodeLease {
    NodeLease { beat, name: "a".to_owned(), link: "127.0.0.1:7".to_owned(), ..NodeLease::default() }
}

fn beats(leases: &lease::Leases) -> Vec<(u64, u64)> {
    leases.iter().map(|(node, lease)| (node.0, lease.beat)).collect()
}

async fn leases_are_seen_by_all(kv: &dyn Kv) {
    let [a, b] = [3, 1 << 60].map(NodeId);
    assert_eq!(lease::beat(kv, b, &beaten(1)).await.map(|seen| beats(&seen)), Ok(vec![]));
    let full = NodeLease {
        started: WallMillis(5),
        versions: (1, 2),
        draining: true,
        clients: vec!["tern.example:7300".to_owned(); NodeLease::CLIENTS_MAX],
        ..beaten(4)
    };
    assert_eq!(lease::beat(kv, a, &full).await.map(|seen| beats(&seen)), Ok(vec![(b.0, 1)]));
    let seen = lease::beat(kv, b, &beaten(2)).await.unwrap();
    assert_eq!(seen, [(a, full), (b, beaten(1))]);
    // Two that beat at once do not hinder each other.
    let (first, second) =
        futures_util::future::join(lease::beat(kv, a, &beaten(5)), lease::beat(kv, b, &beaten(3))).await;
    assert!(first.is_ok() && second.is_ok());
    // One that is damaged costs nobody else anything, and is written anew.
    let mut tx = kv.begin();
    tx.set(&NodeKey { node: a }.encode(), Bytes::from_static(b"damaged"));
    tx.commit().await.unwrap();
    assert_eq!(lease::beat(kv, b, &beaten(4)).await.map(|seen| beats(&seen)), Ok(vec![(b.0, 3)]));
    lease::beat(kv, a, &beaten(6)).await.unwrap();
    lease::leave(kv, b).await.unwrap();
    assert_eq!(lease::beat(kv, a, &beaten(7)).await.map(|seen| beats(&seen)), Ok(vec![(a.0, 6)]));
}

async fn the_dead_are_taken_out_and_the_living_are_not(kv: &dyn Kv) {
    let [a, b] = [1, 2].map(NodeId);
    lease::beat(kv, a, &beaten(1)).await.unwrap();
    lease::beat(kv, b, &beaten(8)).await.unwrap();
    assert_eq!(lease::forget(kv, b, 7).await, Err(CommitError::Conflict), "it has beaten since");
    lease::forget(kv, b, 8).await.unwrap();
    lease::forget(kv, b, 8).await.unwrap();
    assert_eq!(lease::beat(kv, a, &beaten(2)).await.map(|seen| beats(&seen)), Ok(vec![(a.0, 1)]));
}

async fn logs_that_have_moved_are_found(kv: &dyn Kv) {
    // An entry's time is 1,000 and its seq.
    let first = direct(kv, "anna", "ben").await;
    first.messages(device("anna", 1), 2, 9).await;
    let second = Owner { kv, id: group(1) };
    second.create(&["carl", "ben", "dora"]).await;
    second.messages(device("carl", 1), 2, 3).await;
    let gone = Membership { role: Role::Member, joined: Seq(1), left: Some(Seq(5)) };
    second.change_member(device("dora", 1), 1, "dora", Change::Leave, |_| gone).await;
    second.messages(device("carl", 1), 5, 3).await;
    let moved = async |name, since| {
        let moved = sync::moved_since(kv, user(name), WallMillis(since)).await.unwrap();
        moved.into_iter().map(|(id, seq)| (id == first.id, seq.get())).collect::<Vec<_>>()
    };
    let mut both = moved("ben", 0).await;
    both.sort_unstable();
    assert_eq!(both, [(false, 8), (true, 10)]);
    assert_eq!(moved("ben", 1_009).await, [(true, 10)]);
    assert_eq!(moved("ben", 1_011).await, []);
    assert_eq!(moved("anna", 1_010).await, [(true, 10)]);
    assert_eq!(moved("dora", 1_000).await, [(false, 5)], "up to where she left");
    assert_eq!(moved("emil", 0).await, []);
}
