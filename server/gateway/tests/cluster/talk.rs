//! All nodes are well: who is connected where makes no difference.

use std::time::Instant;

use tern_protocol::error::ErrorCode;
use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ConversationId, Seq};

use crate::nodes::{Cluster, SETTLED, group_of, owns};
use crate::person::{Person, Told, same_logs};
use crate::support::user;

#[tokio::test]
async fn everybody_is_told_at_once_wherever_they_are() {
    let (cluster, nodes) = Cluster::of(3).await;
    let begun = Instant::now();
    let mut people = Vec::new();
    for (name, at, device) in [("alice", 0, 1), ("bob", 1, 2), ("carol", 2, 3), ("dave", 1, 5)] {
        people.push(Person::on(&cluster, &nodes[at], name, device).await);
    }
    let all: Vec<_> = nodes.iter().collect();
    let groups: Vec<_> = nodes.iter().map(|owner| group_of(owner, &all)).collect();
    for (i, group) in groups.iter().enumerate() {
        let made = people[i].makes(*group, &["alice", "bob", "carol", "dave"]).await;
        assert_eq!(made.seq, Seq(1));
    }
    let mut heads = [1; 3];
    let mut rounds = 0;
    // First nodes tell all others, later those only where somebody is.
    while rounds < 3 || begun.elapsed() < SETTLED {
        rounds += 1;
        for (i, group) in groups.iter().enumerate() {
            for sender in 0..people.len() {
                heads[i] += 1;
                let sent = people[sender].says(*group, &format!("round {rounds} of {sender}")).await;
                assert_eq!((sent.seq, sent.duplicate), (Seq(heads[i]), false), "one order for everybody");
                for person in &mut people {
                    person.hears(*group, sent.seq).await;
                }
            }
        }
        for from in 0..people.len() {
            for to in (0..people.len()).filter(|to| *to != from) {
                let (sender, peer) = (people[from].user(), people[to].user());
                let sent = people[from].tells(peer, &format!("round {rounds}")).await;
                let chat = ConversationId::direct(sender, peer);
                people[to].hears(chat, sent.seq).await;
                people[from].hears(chat, sent.seq).await;
            }
        }
    }
    assert!(begun.elapsed() >= SETTLED && rounds >= 3);
    for (group, head) in groups.iter().zip(heads) {
        same_logs(&people.iter().collect::<Vec<_>>(), *group, Seq(head));
    }
    for person in &people {
        let pushes = person.logs.values().map(Vec::len).sum();
        assert_eq!(
            person.told,
            Told { pushes, ..Told::default() },
            "each entry is pushed, once, and not pulled"
        );
    }

    // So long after the first login no two clocks can be in doubt about which is the newer.
    let mut old = people[0].moves_to(&nodes[1]).await;
    assert_eq!(old.closing_error().await, ErrorCode::TakenOver);
    let said = people[0].says(groups[0], "from another node").await;
    assert_eq!((said.seq, said.duplicate), (Seq(heads[0] + 1), false));
}

#[tokio::test]
async fn a_device_goes_on_on_another_node() {
    let (cluster, nodes) = Cluster::of(3).await;
    let all: Vec<_> = nodes.iter().collect();
    let mut bob = Person::on(&cluster, &nodes[0], "bob", 1).await;
    for (at, owner) in nodes.iter().enumerate() {
        let mut alice = Person::on(&cluster, &nodes[at], "alice", 7).await;
        let group = group_of(owner, &all);
        alice.makes(group, &["bob"]).await;
        let sent = alice.says(group, "from here").await;
        let next = &nodes[(at + 1) % nodes.len()];
        let mut old = alice.moves_to(next).await;
        assert_eq!(alice.reads(group).await, ["from here"], "what was acknowledged on another node");
        // A home that cannot tell by the clocks which is the newer one says that it is to come again.
        let why = old.closing_error().await;
        assert!(matches!(why, ErrorCode::TakenOver | ErrorCode::GoingAway), "{why:?}");
        alice.session.is_served().await;
        let again = alice.says(group, "from there").await;
        assert_eq!(again.seq, Seq(sent.seq.get() + 1), "the device's numbers go on");
        bob.hears(group, again.seq).await;
        alice.session.close().await;
    }
}

#[tokio::test]
async fn receipts_come_from_other_nodes() {
    let (cluster, nodes) = Cluster::of(2).await;
    let mut alice = Person::on(&cluster, &nodes[0], "alice", 1).await;
    let all: Vec<_> = nodes.iter().collect();
    for owner in &nodes {
        let is_its = owns(owner, &all);
        let mut names = (1..).map(|n| format!("reader {n}"));
        let name = names.find(|name| is_its(ConversationId::direct(alice.user(), user(name))));
        let mut reader = Person::on(&cluster, &nodes[1], &name.expect("endless"), 1).await;
        let sent = alice.tells(reader.user(), "read this").await;
        reader.hears(sent.conversation, sent.seq).await;
        reader.session.mark(sent.conversation, 1, 1).await.expect("there is an entry 1");
        let who = reader.user();
        let has_read = |event: &ServerBody| match event {
            ServerBody::ReceiptsMoved(moved) => {
                moved.users.iter().any(|r| r.user == who && r.read == Seq(1)).then_some(())
            }
            _ => None,
        };
        alice.session.until(has_read).await;
        let page = alice.session.receipts(sent.conversation, None, 0).await.expect("a member");
        assert!(page.receipts.iter().any(|r| (r.user, r.delivered, r.read) == (who, Seq(1), Seq(1))));
    }
}
