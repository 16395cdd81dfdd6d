//! Watermarks through the owner: which are taken, what is persisted, who is told.

use alloc::vec;
use alloc::vec::Vec;

use tern_protocol::error::ErrorCode::{self, *};
use tern_protocol::event::{ReceiptCount, UserReceipt};
use tern_protocol::ids::{Seq, UserId};
use tern_protocol::model::Change;

use super::model::{World, by, direct_id, say, user};
use super::{add, remove, told};
use crate::conversation::Mark;
use crate::limits::{CONVERSATION_MARKS_MAX, RECEIPT_COUNTS_INTERVAL_MS};
use crate::receipts::Notice;
use crate::time::MonoMillis;

#[test]
fn marks_are_taken_within_what_their_user_may_see() {
    type Marked = Option<(Result<(), ErrorCode>, bool)>;
    /// In a group of 1, 2 and 3, where 3 was removed by entry 3 and the head is 5.
    #[track_caller]
    fn check(n: u8, delivered: u64, read: u64, expected: Marked) {
        for cold in [false, true] {
            let mut world = World::group(&[2, 3]);
            assert!(world.send(0, by(1, 1), 2, say()).is_ok());
            assert!(world.send(0, by(1, 1), 3, remove(3)).is_ok());
            assert!(world.send(0, by(1, 1), 4, say()).is_ok());
            assert!(world.send(0, by(1, 1), 5, say()).is_ok());
            let _ = cold.then(|| world.restart(0));
            let mark = world.mark(0, by(n, 1), delivered, read);
            let refused = expected.is_some_and(|(result, _)| result.is_err());
            let waits = world.marked(0, mark).is_none();
            assert_eq!(waits, cold || refused, "waits for a load, or for a look at the head");
            world.run(0);
            assert_eq!(world.marked(0, mark), expected);
            let dirty = world.persist(0);
            let rises = expected.is_some_and(|(result, _)| result.is_ok());
            assert_eq!(dirty.len(), usize::from(rises));
            if let [(user_, dirty)] = &*dirty {
                assert_eq!((*user_, dirty.read), (user(n), Seq(read)));
                assert_eq!(dirty.delivered, [(by(n, 1).device, Seq(delivered.max(read)))]);
            }
        }
    }
    check(2, 5, 0, Some((Ok(()), false)));
    check(2, 5, 3, Some((Ok(()), true)));
    check(2, 4, 5, Some((Ok(()), true)));
    check(2, 6, 0, Some((Err(InvalidArgument), false)));
    check(2, 5, 6, Some((Err(InvalidArgument), false)));
    check(3, 3, 2, Some((Ok(()), true)));
    check(3, 4, 0, Some((Err(InvalidArgument), false)));
    check(4, 1, 0, Some((Err(NotMember), false)));

    let mut world = World::new(direct_id());
    let marks = [world.mark(0, by(1, 1), 1, 0), world.mark(0, by(3, 1), 0, 0)];
    world.run(0);
    assert_eq!(marks.map(|m| world.marked(0, m)), [Some((Err(UnknownConversation), false)); 2]);
    world.submit(0, by(1, 1), 1, say());
    let mark = world.mark(0, by(2, 1), 1, 0);
    assert_eq!(world.marked(0, mark), None, "not before it is known to be durable, and not refused either");
    let beyond = world.mark(0, by(2, 1), 2, 0);
    world.run(0);
    assert_eq!(world.marked(0, beyond), Some((Err(InvalidArgument), false)));
    assert_eq!(
        world.marked(0, mark),
        Some((Ok(()), false)),
        "a reader of the store may know before the owner"
    );
    let marks = [(2, 1), (3, 1), (2, 2)].map(|(n, delivered)| world.mark(0, by(n, 1), delivered, 0));
    world.run(0);
    assert_eq!(
        marks.map(|m| world.marked(0, m).map(|(result, _)| result)),
        [Some(Ok(())), Some(Err(UnknownConversation)), Some(Err(InvalidArgument))]
    );
    // What is numbered and not durable is told to nobody; a mark of it waits, and one above it is refused.
    let ticket = world.submit(0, by(1, 1), 2, say());
    let marks = [2, 3].map(|delivered| world.mark(0, by(2, 1), delivered, 0));
    let answers = marks.map(|mark| world.marked(0, mark));
    assert_eq!((answers, told(&world, ticket)), ([None, None], None));
    assert!(world.persist(0).iter().all(|(_, dirty)| dirty.delivered.iter().all(|(_, seq)| *seq < Seq(2))));
    world.run(0);
    let answers = marks.map(|mark| world.marked(0, mark));
    assert_eq!(answers, [Some((Ok(()), false)), Some((Err(InvalidArgument), false))]);
}

#[test]
fn a_stale_owner_refuses_no_mark() {
    let mut world = World::group(&[]);
    assert!(world.send(1, by(1, 1), 2, say()).is_ok());
    // Server 1 knows of two entries and of one member.
    assert!(world.send(0, by(1, 1), 3, add(&[2])).is_ok());
    assert!(world.send(0, by(2, 1), 1, say()).is_ok());
    let marks = [(1, 4), (2, 3), (2, 5), (3, 1)].map(|(n, delivered)| world.mark(1, by(n, 1), delivered, 0));
    world.run(1);
    assert_eq!(
        marks.map(|mark| world.marked(1, mark).map(|(result, _)| result)),
        [Some(Ok(())), Some(Ok(())), Some(Err(InvalidArgument)), Some(Err(NotMember))]
    );
    assert_eq!((world.nodes[1].windows_asked.len(), world.nodes[1].loads.len()), (2, 2), "one look for all");
    // A look that began before the mark came says nothing of it.
    let early = world.mark(1, by(3, 1), 1, 0);
    world.step(1, 0);
    assert!(world.send(0, by(1, 1), 4, add(&[3])).is_ok());
    let late = world.mark(1, by(3, 1), 5, 0);
    world.run(1);
    assert_eq!(
        [early, late].map(|mark| world.marked(1, mark).map(|(result, _)| result)),
        [Some(Err(NotMember)), Some(Ok(()))]
    );
    // When the look fails, that is what they are told.
    world.loads_fail.push_back(true);
    let mark = world.mark(1, by(4, 1), 1, 0);
    world.run(1);
    assert_eq!(world.marked(1, mark), Some((Err(Unavailable), false)));
}

#[test]
fn marks_wait_for_the_load_within_bounds() {
    let mut world = World::group(&[2]);
    world.restart(0);
    let marks: Vec<_> = (0..=CONVERSATION_MARKS_MAX).map(|_| world.mark(0, by(2, 1), 1, 1)).collect();
    assert_eq!(world.nodes[0].marked, [(marks[CONVERSATION_MARKS_MAX], Err(Overloaded), false)]);
    assert!(!world.nodes[0].owner.is_idle());
    let silent = Mark { ticket: None, sender: by(2, 1), delivered: Seq(9), read: Seq(0) };
    world.nodes[0].owner.mark(world.now, silent);
    world.run(0);
    assert_eq!(world.nodes[0].marked.len(), 1 + CONVERSATION_MARKS_MAX, "without a ticket, no answer");
}

#[test]
fn watermarks_only_rise() {
    let mut world = World::group(&[2]);
    (2..=5).for_each(|n| assert!(world.send(0, by(1, 1), n, say()).is_ok()));
    let mut check = |device, delivered, read, expected: (&[(u64, u64)], u64)| {
        world.mark(0, by(2, device), delivered, read);
        assert!(world.nodes[0].owner.is_dirty());
        let dirty = world.persist(0);
        assert_eq!(dirty.len(), 1);
        let delivered: Vec<_> = dirty[0].1.delivered.iter().map(|(d, seq)| (d.get(), seq.get())).collect();
        assert_eq!((&*delivered, dirty[0].1.read.get()), expected);
    };
    check(1, 3, 2, (&[(1, 3)], 2));
    check(1, 4, 1, (&[(1, 4)], 0));
    check(2, 1, 3, (&[], 3));
    check(1, 5, 0, (&[(1, 5)], 0));
    let marks =
        |world: &World| world.store.watermarks.get(&user(2)).map(|m| (m.delivered.get(), m.read.get()));
    assert_eq!(marks(&world), Some((5, 3)));
    // What could not be persisted is dirty again, below what came since.
    world.mark(0, by(2, 1), 5, 4);
    let failed = world.nodes[0].owner.take_dirty();
    assert!(!world.nodes[0].owner.is_dirty());
    world.mark(0, by(2, 2), 5, 5);
    world.nodes[0].owner.put_back_dirty(&failed);
    assert!(world.nodes[0].owner.is_dirty() && !world.nodes[0].owner.is_idle());
    assert_eq!(world.persist(0)[0].1.read, Seq(5));
    // A reload keeps those in memory, and a server that has just started has those of the store.
    world.restart(1);
    assert!(world.send(1, by(1, 2), 1, say()).is_ok());
    for (node, read) in [(0, 5), (1, 6)] {
        world.mark(node, by(2, 1), 6, read);
        world.run(node);
    }
    assert!(world.send(0, by(1, 2), 2, say()).is_ok(), "behind: reloads");
    let (notices, _) = world.nodes[1].owner.take_notices(world.now);
    let own = UserReceipt { user: user(2), delivered: Seq(6), read: Seq(6) };
    assert!(notices.contains(&Notice { to: user(2), users: vec![own], counts: vec![] }));
}

#[test]
fn the_two_of_a_direct_chat_see_each_others_marks() {
    let mut world = World::new(direct_id());
    (1..=3).for_each(|n| assert!(world.send(0, by(1, 1), n, say()).is_ok()));
    let mut check = |n: u8, delivered, read, expected: &[(u8, (u8, u64, u64))]| {
        world.mark(0, by(n, 1), delivered, read);
        let (notices, again) = world.nodes[0].owner.take_notices(world.now);
        assert_eq!(again, None);
        let told: Vec<_> = notices
            .iter()
            .map(|notice| {
                assert!(notice.counts.is_empty() && notice.users.len() == 1);
                let of = notice.users[0];
                (notice.to.as_bytes()[0], (of.user.as_bytes()[0], of.delivered.get(), of.read.get()))
            })
            .collect();
        assert_eq!(told, expected);
        assert_eq!(world.nodes[0].owner.take_notices(world.now), (vec![], None));
    };
    check(2, 2, 0, &[(1, (2, 2, 0))]);
    check(2, 2, 0, &[]);
    check(2, 1, 0, &[]);
    check(2, 3, 1, &[(2, (2, 3, 1)), (1, (2, 3, 1))]);
    check(1, 3, 3, &[(1, (1, 3, 3)), (2, (1, 3, 3))]);
    check(2, 9, 9, &[]);
}

#[test]
fn senders_in_a_group_are_told_counts_four_times_a_second() {
    let mut world = World::group(&[2, 3, 4]);
    world.pass(1_000);
    assert!(world.send(0, by(1, 1), 2, say()).is_ok());
    assert!(world.send(0, by(2, 1), 1, say()).is_ok());
    let take = |world: &mut World| {
        let (notices, again) = world.nodes[0].owner.take_notices(world.now);
        let counts: Vec<(UserId, ReceiptCount)> =
            notices.iter().flat_map(|n| n.counts.iter().map(|c| (n.to, *c))).collect();
        (counts, again.map(|MonoMillis(at)| at))
    };
    let count =
        |to, seq, delivered, read| (user(to), ReceiptCount { seq: Seq(seq), delivered, read, members: 3 });
    assert_eq!(take(&mut world), (vec![], None), "nothing has moved");
    world.mark(0, by(3, 1), 3, 2);
    assert_eq!(take(&mut world), (vec![count(1, 2, 1, 1), count(2, 3, 1, 0)], None));
    world.pass(100);
    world.mark(0, by(4, 1), 2, 0);
    assert_eq!(take(&mut world), (vec![], Some(1_000 + RECEIPT_COUNTS_INTERVAL_MS)), "held back");
    assert!(!world.nodes[0].owner.is_idle());
    world.mark(0, by(4, 1), 3, 3);
    world.pass(RECEIPT_COUNTS_INTERVAL_MS - 101);
    assert_eq!(take(&mut world), (vec![], Some(1_000 + RECEIPT_COUNTS_INTERVAL_MS)));
    world.pass(1);
    assert_eq!(take(&mut world), (vec![count(1, 2, 2, 2), count(2, 3, 2, 1)], None), "in one");
    // A member who goes counts no more, and a sender who goes is told nothing more.
    assert!(world.send(0, by(2, 1), 2, Change::Leave).is_ok());
    world.mark(0, by(3, 1), 3, 3);
    world.pass(RECEIPT_COUNTS_INTERVAL_MS);
    assert_eq!(take(&mut world), (vec![], None), "2 and 2 of them, as before");
}
