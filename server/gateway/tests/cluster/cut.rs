//! Two nodes that do not reach each other.

use tern_protocol::ids::Seq;
use tern_server::metrics::catalog;

use crate::nodes::{Cluster, group_of, groups_of, linked};
use crate::person::{Person, same_logs};

#[tokio::test]
async fn a_link_is_cut_and_comes_back() {
    let (cluster, nodes) = Cluster::of(3).await;
    let all: Vec<_> = nodes.iter().collect();
    let mut people = Vec::new();
    for (name, at) in [("alice", 0), ("bob", 1), ("carol", 2)] {
        people.push(Person::on(&cluster, &nodes[at], name, 1).await);
    }
    let groups: Vec<_> = nodes.iter().map(|owner| group_of(owner, &all)).collect();
    for group in &groups {
        people[0].makes(*group, &["alice", "bob", "carol"]).await;
    }
    // In which only alice speaks, so that nobody else's words show that there are hers.
    let quiet = [0, 1].map(|owner| groups_of(&nodes[owner], &all).nth(1).expect("endless"));
    for group in &quiet {
        people[0].makes(*group, &["bob"]).await;
        people[1].hears(*group, Seq(1)).await;
    }
    // The lower one calls: so that between the first two, and no other.
    nodes[1].cut_links();
    // One of these goes to an owner who does not hear it any more, and one is told by an owner who is not heard.
    for group in &groups {
        let [alice, bob, carol] = &mut people[..] else { unreachable!("three") };
        tokio::join!(
            alice.says(*group, "alice, at the cut"),
            bob.says(*group, "bob, at the cut"),
            carol.says(*group, "carol, at the cut"),
        );
    }
    nodes[0].tells(&catalog::CLUSTER_LINKS_UP, 1).await;
    nodes[1].tells(&catalog::CLUSTER_LINKS_UP, 1).await;
    nodes[2].tells(&catalog::CLUSTER_LINKS_UP, 2).await;
    let mut heads = [Seq(0); 3];
    for round in 0..10 {
        for (group, head) in groups.iter().zip(&mut heads) {
            let [alice, bob, carol] = &mut people[..] else { unreachable!("three") };
            let words = |name| format!("{name}, without a link, {round}");
            let words = [words("alice"), words("bob"), words("carol")];
            let (a, b, c) = tokio::join!(
                alice.says(*group, &words[0]),
                bob.says(*group, &words[1]),
                carol.says(*group, &words[2])
            );
            *head = a.seq.max(b.seq).max(c.seq);
        }
    }
    for group in &quiet {
        assert_eq!(people[0].says(*group, "does bob hear this?").await.seq, Seq(2));
    }
    assert_eq!(nodes[0].number(&catalog::CLUSTER_LINKS_UP).await, 1, "all that was said without the link");
    assert_eq!(nodes[0].number(&catalog::CLUSTER_NODES).await, 3, "and nobody was taken for dead");
    for family in [&catalog::CLUSTER_NEWS_UNSENT, &catalog::CLUSTER_HEADS_BEHIND] {
        let (one, other) = (nodes[0].number(family).await, nodes[1].number(family).await);
        assert!(one + other > 0, "{}: it is told as heads", family.name);
    }
    nodes[1].mend_links();
    linked(&all).await;
    for group in &quiet {
        people[1].hears(*group, Seq(2)).await;
    }
    // Before anything new is said, in which they would see that there is something.
    for (group, head) in groups.iter().zip(heads) {
        for person in &mut people {
            person.hears(*group, head).await;
        }
    }
    for group in &groups {
        let last = people[0].says(*group, "alice, after it").await;
        for person in &mut people {
            person.hears(*group, last.seq).await;
        }
        same_logs(&people.iter().collect::<Vec<_>>(), *group, last.seq);
        let mut said = people[0].reads(*group).await;
        said.sort();
        let mut expected = vec!["alice, after it".to_owned()];
        for name in ["alice", "bob", "carol"] {
            expected.push(format!("{name}, at the cut"));
            expected.extend((0..10).map(|round| format!("{name}, without a link, {round}")));
        }
        expected.sort();
        assert_eq!(said, expected, "each once");
    }
    for person in &people {
        assert_eq!(person.told.logins, 0, "nobody had to connect anew");
    }
}
