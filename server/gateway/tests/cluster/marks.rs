//! Watermarks for which no client waits.

use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ConversationId, DeviceId, Seq, UserId};
use tern_server::metrics::catalog;
use tern_store::ops::receipts::{self, Write};

use crate::nodes::{Cluster, group_of, linked};
use crate::person::{AGAIN, Person};
use crate::support::{PATIENCE, user};

#[tokio::test]
async fn a_watermark_that_is_lost_with_its_link_is_told_again() {
    let (cluster, nodes) = Cluster::of(2).await;
    let all: Vec<_> = nodes.iter().collect();
    let group = group_of(&nodes[0], &all);
    let mut alice = Person::on(&cluster, &nodes[0], "alice", 1).await;
    let mut bob = Person::on(&cluster, &nodes[1], "bob", 1).await;
    alice.makes(group, &["bob"]).await;
    let said = alice.says(group, "read this").await.seq;
    bob.hears(group, said).await;
    bob.session.mark_without_answer(group, 1, 1).await;
    has_read(&mut alice, bob.user(), group, Seq(1)).await;
    // It was persisted over there.
    nodes[1].tells(&catalog::CLUSTER_MARKS_KEPT, 0).await;

    // Nothing gets through any more, and nobody knows yet.
    nodes[1].cut_links();
    let said = alice.says(group, "and this").await.seq;
    nodes[0].tells_above(&catalog::CLUSTER_NEWS_AGE, 1.5).await;
    bob.session.mark_without_answer(group, said.get(), said.get()).await;
    has_read(&mut alice, bob.user(), group, said).await;
}

/// Waits until it is in the store that somebody has read everything up to here.
async fn has_read(person: &mut Person<'_>, reader: UserId, group: ConversationId, seq: Seq) {
    let read = async {
        loop {
            let page = person.session.receipts(group, None, 0).await.expect("a member");
            if page.receipts.iter().any(|r| (r.user, r.delivered, r.read) == (reader, seq, seq)) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("said once, and heard");
}

#[tokio::test]
async fn a_new_owner_finds_out_what_the_one_before_has_persisted_late() {
    let (cluster, nodes) = Cluster::of(2).await;
    let all: Vec<_> = nodes.iter().collect();
    linked(&all).await;
    let group = group_of(&nodes[0], &all);
    // Nodes have just come, so whoever is asked now is a new owner.
    let mut alice = Person::on(&cluster, &nodes[1], "alice", 1).await;
    alice.makes(group, &["bob"]).await;
    let said = alice.says(group, "read this").await.seq;
    let device = DeviceId::new(9).expect("not 0");
    let write = Write { conversation: group, user: user("bob"), delivered: vec![(device, said)], read: said };
    receipts::persist(&cluster.store, &[write]).await.expect("it is well");
    let is_told = |event: &ServerBody| match event {
        ServerBody::ReceiptsMoved(moved) => {
            moved.counts.iter().any(|count| (count.seq, count.read) == (Seq(said.get()), 1)).then_some(())
        }
        _ => None,
    };
    tokio::time::timeout(PATIENCE, alice.session.until(is_told)).await.expect("told without another mark");
}
