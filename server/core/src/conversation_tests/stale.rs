//! Two servers own one conversation, or one has died and left something on its way.

use alloc::vec::Vec;

use tern_protocol::error::ErrorCode::{self, *};
use tern_protocol::ids::{ClientSeq, Seq};
use tern_protocol::model::{Change, Role};

use super::Told::{New, No};
use super::model::{Outcome, World, by, create, direct_id, group_id, say};
use super::{add, remove, reply_to, role, told};

/// An owner that dies may leave a commit that lands when another one has already refused what was in it.
#[test]
fn what_is_refused_does_not_land_with_the_commit_of_a_dead_owner() {
    #[track_caller]
    fn check(world: fn() -> World, first: Change, second: Change, refused: ErrorCode) {
        let mut world = world();
        world.restart(0);
        world.restart(1);
        world.outcomes.push_back(Outcome::UnknownLate);
        world.submit(0, by(1, 1), 9, first.clone());
        world.submit(0, by(2, 1), 9, second.clone());
        while world.nodes[0].commits.is_empty() {
            world.step(0, 0);
        }
        world.restart(0);
        assert_eq!(world.send(1, by(2, 1), 9, second), Err(refused));
        assert_eq!(world.land_late(), 1);
        assert!(world.store.find(by(1, 1), ClientSeq(9)).is_some());
        assert_eq!(world.store.find(by(2, 1), ClientSeq(9)).map(|entry| entry.seq), None);
    }
    check(|| World::new(group_id()), create(&[2]), say(), UnknownConversation);
    check(|| World::group(&[]), add(&[2]), say(), NotMember);
    check(|| World::group(&[2, 3]), role(2, Role::Admin), remove(3), Forbidden);
    check(|| World::group(&[2]), say(), reply_to(2), InvalidArgument);
}

#[test]
fn a_stale_owner_starts_over() {
    let mut world = World::group(&[2, 3]);
    assert!(world.send(1, by(2, 1), 1, say()).is_ok());
    assert!(world.send(0, by(1, 1), 2, remove(3)).is_ok());
    // Server 1 does not know of the removal.
    assert_eq!(world.send(1, by(2, 1), 2, say()).map(|ok| ok.seq), Ok(Seq(4)));
    assert_eq!(world.nodes[1].heads_moved, [3], "what it had not pushed");
    assert_eq!(world.nodes[1].loads, [false, false]);
    assert!(world.send(0, by(1, 1), 3, say()).is_ok());
    assert_eq!(world.nodes[0].heads_moved, [2, 4]);
    assert_eq!(world.nodes[0].published, [1, 3, 5].map(Seq));
    assert_eq!(world.nodes[1].published, [2, 4].map(Seq));
    // Windows that belong to another head: server 1 is behind again, and does not know this device.
    assert_eq!(world.send(1, by(1, 1), 3, say()).map(|ok| (ok.seq, ok.duplicate)), Ok((Seq(5), true)));
    assert_eq!(world.nodes[1].loads.len(), 3);
    // One whose user is removed meanwhile is refused.
    assert!(world.send(0, by(1, 1), 4, remove(2)).is_ok());
    assert_eq!(world.send(1, by(2, 1), 3, say()), Err(NotMember));
}

#[test]
fn a_stale_owner_refuses_nothing() {
    let mut world = World::new(group_id());
    // Server 1 knows that there is no such group, and is asked nothing more while server 0 creates it.
    assert_eq!(world.send(1, by(2, 1), 1, say()), Err(UnknownConversation));
    assert!(world.send(0, by(1, 1), 1, create(&[])).is_ok());
    assert!(world.send(0, by(1, 1), 2, say()).is_ok());
    // A retry of what is stored, and a new send.
    assert_eq!(world.send(1, by(1, 1), 2, say()).map(|ok| (ok.seq, ok.duplicate)), Ok((Seq(2), true)));
    assert_eq!(world.send(1, by(1, 1), 3, say()).map(|ok| ok.seq), Ok(Seq(3)));
    // Who has been added, what has been said, and who has become an admin since.
    assert!(world.send(0, by(1, 1), 4, add(&[2])).is_ok());
    assert_eq!(world.send(1, by(2, 1), 2, say()).map(|ok| ok.seq), Ok(Seq(5)));
    assert!(world.send(0, by(1, 1), 5, role(2, Role::Admin)).is_ok());
    assert_eq!(world.send(1, by(2, 1), 3, reply_to(6)).map(|ok| ok.seq), Ok(Seq(7)));
    assert!(world.send(0, by(1, 1), 6, add(&[3])).is_ok());
    assert_eq!(world.send(1, by(2, 1), 4, remove(3)).map(|ok| ok.seq), Ok(Seq(9)));
    // What is refused all the same costs one look at the head, however many wait for it, and a cold owner none beside
    // its load.
    let looks = |world: &World| world.nodes[1].windows_asked.len();
    let before = looks(&world);
    let refused: Vec<_> = (5..25).map(|n| world.submit(1, by(2, 1), n, reply_to(99))).collect();
    world.run(1);
    let answers: Vec<_> = refused.iter().filter_map(|ticket| told(&world, *ticket)).collect();
    assert_eq!(answers, [No(InvalidArgument); 20]);
    // The first asks; those that came after it has asked ask together.
    assert_eq!(looks(&world) - before, 2);
    // One that began before the send came says nothing of it.
    let early = world.submit(1, by(2, 1), 25, reply_to(10));
    world.step(1, 0);
    assert!(world.send(0, by(1, 1), 7, say()).is_ok());
    let late = world.submit(1, by(2, 1), 26, reply_to(10));
    world.run(1);
    assert_eq!([early, late].map(|ticket| told(&world, ticket)), [Some(No(InvalidArgument)), Some(New(11))]);
    world.loads_fail.push_back(true);
    assert_eq!(world.send(1, by(2, 1), 27, reply_to(99)), Err(Unavailable));
    world.restart(1);
    assert_eq!(world.send(1, by(2, 1), 28, reply_to(99)), Err(InvalidArgument));
    assert_eq!((looks(&world), world.nodes[1].loads.len()), (1, 1));
}

#[test]
fn two_begin_the_same_conversation() {
    let mut world = World::new(direct_id());
    let sends = [(0, 1), (1, 2)].map(|(node, n)| world.submit(node, by(n, 1), 1, say()));
    world.step(0, 0);
    world.step(1, 0);
    world.run(0);
    world.run(1);
    assert_eq!(sends.map(|t| told(&world, t)), [Some(New(1)), Some(New(2))].map(|t| t));
    assert!(world.nodes.iter_mut().all(|node| node.owner.take_dirty().is_empty() && node.owner.is_idle()));

    let mut world = World::new(group_id());
    let sends = [(0, 1), (1, 2)].map(|(node, n)| world.submit(node, by(n, 1), 1, create(&[1, 2])));
    (0..2).for_each(|node| world.step(node, 0));
    (0..2).for_each(|node| world.run(node));
    assert_eq!(sends.map(|t| told(&world, t)), [Some(New(1)), Some(No(ConversationExists))]);
}
