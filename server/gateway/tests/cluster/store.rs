//! A store that fails for a while, for everybody or for one node.

use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::ids::{ClientSeq, ConversationId};
use tern_protocol::model::Target;
use tern_server::metrics::catalog;
use tern_store::memory::{Fault, FaultPlan};

use crate::nodes::{Cluster, group_of, linked};
use crate::person::{AGAIN, Person, same_logs};
use crate::support::{PATIENCE, message, user};

/// More commits than there are in a test.
const MANY: usize = 1_000_000;

#[tokio::test]
async fn a_store_that_answers_nobody_keeps_everybody_waiting_where_they_are() {
    let (cluster, nodes) = Cluster::of(2).await;
    let mut alice = Person::on(&cluster, &nodes[0], "alice", 1).await;
    let mut bob = Person::on(&cluster, &nodes[1], "bob", 1).await;
    let chat = ConversationId::direct(alice.user(), bob.user());
    alice.tells(bob.user(), "before").await;
    bob.hears(chat, alice.tells(user("bob"), "before it").await.seq).await;

    cluster.store.set_faults(FaultPlan::script(std::iter::repeat_n(Some(Fault::Unavailable), MANY)));
    for node in &nodes {
        node.tells(&catalog::CLUSTER_STORE_SILENT, 1).await;
    }
    let send = |n| (Target::User(user("bob")), ClientSeq(n), message("while it fails"));
    let (target, client_seq, words) = send(3);
    let refused = alice.tries(target, client_seq, words).await.expect("an answer");
    assert_eq!(refused.expect_err("nothing can be stored").code, ErrorCode::Unavailable);
    // Who comes now is let in.
    let mut carol = Person::on(&cluster, &nodes[1], "carol", 1).await;
    for node in &nodes {
        assert_eq!(node.number(&catalog::CLUSTER_CUT_OFF).await, 0, "nobody is sent anywhere");
        assert_eq!(node.number(&catalog::CLUSTER_LINKS_UP).await, 1, "and they hear each other");
    }

    cluster.store.set_faults(FaultPlan::None);
    for node in &nodes {
        node.tells(&catalog::CLUSTER_STORE_SILENT, 0).await;
        assert_eq!(node.number(&catalog::CLUSTER_CUT_OFF).await, 0);
        assert_eq!(node.number(&catalog::CLUSTER_NODES).await, 2, "nobody was taken for dead");
    }
    let stored = alice.tells(user("bob"), "while it fails").await;
    assert_eq!((stored.seq.get(), stored.duplicate), (3, false), "nothing of it was there");
    bob.hears(chat, stored.seq).await;
    alice.hears(chat, stored.seq).await;
    same_logs(&[&alice, &bob], chat, stored.seq);
    assert_eq!(alice.reads(chat).await, ["before", "before it", "while it fails"]);
    assert_eq!(carol.tells(user("bob"), "hello").await.seq.get(), 1);
    for person in [&alice, &bob, &carol] {
        assert_eq!(person.told.logins, 0, "{} stays", person.user());
    }
}

#[tokio::test]
async fn without_a_link_nobody_knows_that_it_is_the_store() {
    let (cluster, nodes) = Cluster::of(2).await;
    let mut alice = Person::on(&cluster, &nodes[0], "alice", 1).await;
    nodes[1].cut_links();
    nodes[0].tells(&catalog::CLUSTER_LINKS_UP, 0).await;
    cluster.store.set_faults(FaultPlan::script(std::iter::repeat_n(Some(Fault::Unavailable), MANY)));
    // The same send again and again: an answer is that it can be sent again, until the node serves nobody.
    let mut refused = 0;
    let trying = async {
        while let Some(answer) =
            alice.tries(Target::User(user("bob")), ClientSeq(1), message("while it fails")).await
        {
            let error = answer.expect_err("nothing can be stored");
            assert_ne!(error.code.retry(), Retry::Never, "{error:?}");
            refused += 1;
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("it is sent away within the patience");
    assert!(refused > 0);
    assert_eq!(alice.session.closing_error().await, ErrorCode::GoingAway);
    for node in &nodes {
        node.tells(&catalog::CLUSTER_CUT_OFF, 1).await;
    }
    // Who comes nevertheless is sent away.
    let mut early = Person::on(&cluster, &nodes[1], "bob", 1).await;
    assert_eq!(early.session.closing_error().await, ErrorCode::GoingAway);
    cluster.store.set_faults(FaultPlan::None);
    for node in &nodes {
        node.tells(&catalog::CLUSTER_CUT_OFF, 0).await;
    }
    alice.moves_to(&nodes[1]).await;
    assert_eq!(alice.tells(user("bob"), "after it").await.seq.get(), 1, "nothing of it was there");
}

#[tokio::test]
async fn two_nodes_that_do_not_reach_the_store_know_that_a_third_one_does() {
    third_node(true).await;
}

#[tokio::test]
async fn two_nodes_that_reach_neither_the_store_nor_a_third_one_think_that_it_may() {
    third_node(false).await;
}

async fn third_node(has_links: bool) {
    let (cluster, nodes) = Cluster::of(3).await;
    let [mut alice, mut bob] =
        [Person::on(&cluster, &nodes[0], "alice", 1).await, Person::on(&cluster, &nodes[1], "bob", 1).await];
    if !has_links {
        nodes[2].cut_links();
    }
    for node in &nodes[..2] {
        node.reaches_store(false);
    }
    // Each hears of the other that it does not either.
    for (node, person) in nodes.iter().zip([&mut alice, &mut bob]) {
        node.tells(&catalog::CLUSTER_CUT_OFF, 1).await;
        assert_eq!(person.session.closing_error().await, ErrorCode::GoingAway);
    }
    assert_eq!(nodes[2].number(&catalog::CLUSTER_CUT_OFF).await, 0);
    alice.moves_to(&nodes[2]).await;
    assert_eq!(alice.tells(user("bob"), "here").await.seq.get(), 1);
}

#[tokio::test]
async fn a_store_whose_answers_are_often_wrong_doubles_nothing() {
    let (cluster, nodes) = Cluster::of(2).await;
    let all: Vec<_> = nodes.iter().collect();
    let groups: Vec<_> = nodes.iter().map(|owner| group_of(owner, &all)).collect();
    let mut alice = Person::on(&cluster, &nodes[0], "alice", 1).await;
    let mut bob = Person::on(&cluster, &nodes[1], "bob", 1).await;
    for group in &groups {
        alice.makes(*group, &["bob"]).await;
    }
    cluster.store.set_faults(FaultPlan::Seeded { seed: 6, commits_per_mille: 300, reads_per_mille: 100 });
    for n in 0..30 {
        for group in &groups {
            let words = [format!("alice {n}"), format!("bob {n}")];
            let (a, b) = tokio::join!(alice.says(*group, &words[0]), bob.says(*group, &words[1]));
            assert_ne!(a.seq, b.seq);
        }
    }
    cluster.store.set_faults(FaultPlan::None);
    for group in &groups {
        let last = alice.says(*group, "well again").await.seq;
        for person in [&mut alice, &mut bob] {
            person.hears(*group, last).await;
        }
        same_logs(&[&alice, &bob], *group, last);
        let mut said = bob.reads(*group).await;
        said.sort();
        let mut expected = vec!["well again".to_owned()];
        expected.extend((0..30).flat_map(|n| [format!("alice {n}"), format!("bob {n}")]));
        expected.sort();
        assert_eq!(said, expected, "each once");
    }
}

#[tokio::test]
async fn a_node_that_does_not_reach_the_store_sends_its_clients_away() {
    let (cluster, nodes) = Cluster::of(2).await;
    let all: Vec<_> = nodes.iter().collect();
    let group = group_of(&nodes[0], &all);
    let mut alice = Person::on(&cluster, &nodes[0], "alice", 1).await;
    let mut bob = Person::on(&cluster, &nodes[1], "bob", 1).await;
    alice.makes(group, &["bob"]).await;
    bob.hears(group, alice.says(group, "from the first").await.seq).await;

    nodes[0].reaches_store(false);
    // Its owner cannot store it: it is tried again, until another node is the owner.
    let taken_over = bob.says(group, "while one is gone").await;
    assert_eq!(alice.session.closing_error().await, ErrorCode::GoingAway);
    nodes[0].tells(&catalog::CLUSTER_CUT_OFF, 1).await;
    nodes[1].tells(&catalog::CLUSTER_NODES, 1).await;
    assert_eq!(nodes[1].number(&catalog::CLUSTER_CUT_OFF).await, 0, "the other one is well");
    alice.goes_on_elsewhere().await;
    let said = alice.says(group, "from the second").await;
    assert_eq!(said.seq.get(), taken_over.seq.get() + 1);
    bob.hears(group, said.seq).await;

    nodes[0].reaches_store(true);
    nodes[0].tells(&catalog::CLUSTER_CUT_OFF, 0).await;
    linked(&all).await;
    alice.moves_to(&nodes[0]).await;
    let back = alice.says(group, "from the first again").await;
    for person in [&mut alice, &mut bob] {
        person.hears(group, back.seq).await;
    }
    same_logs(&[&alice, &bob], group, back.seq);
    let said = ["from the first", "while one is gone", "from the second", "from the first again"];
    assert_eq!(bob.reads(group).await, said);
}
