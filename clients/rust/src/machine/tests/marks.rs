//! Watermarks: what is said, what is said again, and what the app is told.

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ReceiptsMoved, ServerBody, SyncPage, UserReceipt};
use tern_protocol::ids::{ConversationId, RequestId, Seq, UserId};
use tern_protocol::request::RequestBody;

use super::super::{ConversationProgress, Progress};
use super::model::{entry, error, group, me};
use super::rig::{Rig, line, seconds, with_cursor};
use crate::event::{Event, Lost};
use crate::storage::{Marks, Record, State};

#[test]
fn delivered_marks_are_collected_and_said_again_after_a_reconnect() {
    let marks = |rig: &mut Rig| {
        let marks: Vec<_> = rig
            .sent
            .iter()
            .filter_map(|r| match &r.body {
                RequestBody::Mark(m) => {
                    Some(m.iter().map(|m| (m.delivered.get(), m.read.get())).collect::<Vec<_>>())
                }
                _ => None,
            })
            .collect();
        rig.sent.retain(|r| !matches!(r.body, RequestBody::Mark(_)));
        marks
    };
    let mut rig = Rig::online(Rig::usual(), State::default());
    for seq in 1..=5 {
        rig.push(seq);
        assert_eq!(rig.seqs(), [seq]);
        rig.take(seq);
        rig.drain();
    }
    assert!(marks(&mut rig).is_empty());
    rig.advance(seconds(1));
    assert_eq!(marks(&mut rig), [[(5, 0)]]);
    // Never more than was handed over.
    rig.take(99);
    rig.advance(seconds(1));
    assert!(marks(&mut rig).is_empty());
    // Unanswered, what the app said is asked again as it was; it does not spoil the marks of others.
    rig.mark_read(3);
    assert_eq!(marks(&mut rig), [[(3, 3)]]);
    rig.reconnect();
    let asked: Vec<_> =
        rig.sent.iter().filter(|r| matches!(r.body, RequestBody::Mark(_))).map(|r| r.id).collect();
    assert_eq!(marks(&mut rig), [vec![(5, 0)], vec![(3, 3)]]);
    rig.receive(asked[1], ServerBody::MarkOk);
    rig.reconnect();
    assert_eq!(marks(&mut rig), [[(5, 3)]], "the five was not answered");
}

#[test]
fn only_marks_that_the_server_may_not_have_are_said_again() {
    let ids = |n: u64| (0..n).map(|i| ConversationId::direct(me(), UserId::from_sub(&i.to_string())));
    let stored = |n: u64| {
        let mut state = State::default();
        state.apply(&Record::User(me()));
        for conversation in ids(n) {
            state.apply(&Record::Cursor { conversation, seq: Seq(9), marks: Marks::default() });
        }
        state
    };
    // The Mark that waits for its answer.
    let asked = |rig: &mut Rig| -> Vec<(RequestId, Vec<ConversationId>)> {
        let asked = rig.sent.iter().filter_map(|r| match &r.body {
            RequestBody::Mark(m) if r.id.get() > 0 => {
                Some((r.id, m.iter().map(|m| m.conversation).collect()))
            }
            _ => None,
        });
        let asked = asked.collect();
        rig.sent.retain(|r| !matches!(r.body, RequestBody::Mark(_)));
        asked
    };

    // A new run of the app: the last that moved, once.
    for (n, expected) in [(0, 0), (3, 3), (500, 256)] {
        let mut rig = Rig::online(Rig::usual(), stored(n));
        let first = asked(&mut rig);
        let mut said: Vec<_> = first.iter().flat_map(|(_, ids)| ids.clone()).collect();
        said.sort();
        let mut last: Vec<_> = ids(n).skip((n as usize).saturating_sub(256)).collect();
        last.sort();
        assert_eq!((said.len(), said), (expected, last));
        for (id, _) in first {
            rig.receive(id, ServerBody::MarkOk);
        }
        rig.reconnect();
        assert_eq!(asked(&mut rig), [], "answered");
    }

    // Said unanswered, so long before the connection was lost.
    for (before, again) in [(1, true), (119, true), (121, false)] {
        let mut rig = Rig::online(Rig::usual(), State::default());
        rig.push(1);
        rig.take(1);
        rig.advance(seconds(1));
        assert_eq!(rig.sent.len(), 1, "said");
        for _ in 0..before {
            rig.advance(seconds(1));
            rig.machine.received_heartbeat(rig.now);
        }
        rig.reconnect();
        assert_eq!(!asked(&mut rig).is_empty(), again, "{before}");
        // Unanswered once more: it is not forgotten by that.
        rig.reconnect();
        assert_eq!(!asked(&mut rig).is_empty(), again, "{before}");
    }

    // Reached without a connection by many: one Mark at a time, and one that is refused does not spoil the others.
    let mut rig = Rig::online(Rig::usual(), stored(3000));
    let (first, _) = asked(&mut rig).remove(0);
    rig.receive(first, ServerBody::MarkOk);
    for conversation in ids(3000) {
        rig.event(ServerBody::Push { conversation, entry: entry(10, "theirs") });
        rig.seqs();
    }
    rig.machine.disconnected(rig.now, Lost::Broken("cut".into()));
    for conversation in ids(3000) {
        let marks = Marks::default();
        let progress = ConversationProgress { conversation, reset: false, seq: Seq(10), marks };
        rig.machine.taken(rig.now, Progress::Conversation(progress));
    }
    rig.advance(seconds(1));
    rig.connect();
    let bad = ids(3000).nth(1234).unwrap();
    let (mut taken, mut rounds) = (std::collections::BTreeSet::new(), 0);
    loop {
        let mut under_way = asked(&mut rig);
        let Some((id, conversations)) = under_way.pop() else { break };
        assert!(under_way.is_empty(), "one at a time");
        assert!(conversations.len() <= tern_protocol::limits::MARKS_MAX);
        rounds += 1;
        if conversations.contains(&bad) {
            rig.receive(id, error(ErrorCode::NotMember, 0));
        } else {
            taken.extend(conversations);
            rig.receive(id, ServerBody::MarkOk);
        }
    }
    assert_eq!(taken.len(), 2999);
    assert!(rounds < 60, "{rounds}");
}

#[test]
fn watermarks_are_known_to_the_next_sync_when_the_app_was_told() {
    let (me, peer) = (me(), UserId::from_sub("peer"));
    let chat = ConversationId::direct(me, peer);
    let start = |cursors: &[ConversationId]| {
        let mut state = State::default();
        state.apply(&Record::User(me));
        for id in cursors {
            state.apply(&Record::Cursor { conversation: *id, seq: Seq(9), marks: Marks::default() });
        }
        state
    };
    let receipt = |user, delivered, read| UserReceipt { user, delivered: Seq(delivered), read: Seq(read) };
    let marks = |read, peer_delivered, peer_read| Marks {
        read: Seq(read),
        peer_delivered: Seq(peer_delivered),
        peer_read: Seq(peer_read),
    };
    let moved = |conversation, users: &[UserReceipt]| {
        ServerBody::ReceiptsMoved(ReceiptsMoved { conversation, users: users.to_vec(), counts: vec![] })
    };
    let with_oneself = ConversationId::direct(me, me);
    for (id, events, expected) in [
        (chat, vec![moved(chat, &[receipt(peer, 5, 3)])], marks(0, 5, 3)),
        (
            chat,
            vec![moved(chat, &[receipt(peer, 5, 3)]), moved(chat, &[receipt(peer, 4, 4)])],
            marks(0, 5, 4),
        ),
        (chat, vec![moved(chat, &[receipt(me, 6, 6)])], marks(6, 0, 0)),
        (chat, vec![moved(chat, &[receipt(peer, 7, 0), receipt(me, 6, 6)])], marks(6, 7, 0)),
        (group(1), vec![moved(group(1), &[receipt(me, 6, 6)])], marks(6, 0, 0)),
        (with_oneself, vec![moved(with_oneself, &[receipt(me, 6, 6)])], marks(6, 6, 6)),
    ] {
        let mut rig = Rig::online(Rig::usual(), start(&[id]));
        events.into_iter().for_each(|event| rig.event(event));
        rig.other.clear();
        // Queued is known to a sync of this run; only what the app has taken is known to the next.
        rig.reconnect();
        assert_eq!(rig.known(), [(id, 9, expected)]);
        let mut disk = start(&[id]);
        rig.take_all(&mut disk);
        assert_eq!(disk.conversations[&id].marks, expected);
        assert_eq!(disk.conversations[&id].cursor, Seq(9));
        let mut next = Rig::new(Rig::usual(), disk);
        next.connect();
        assert_eq!(next.known(), [(id, 9, expected)]);
    }
}

#[test]
fn a_sync_line_tells_watermarks_that_rose_and_none_that_fell() {
    let mut state = with_cursor(9);
    let had = Marks { read: Seq(5), ..Marks::default() };
    state.apply(&Record::Cursor { conversation: group(1), seq: Seq(9), marks: had });
    for (on_server, expected) in [(7, 7), (5, 5), (2, 5)] {
        let mut rig = Rig::new(Rig::usual(), state.clone());
        rig.connect();
        let line = line(group(1), 9, on_server);
        rig.answer_sync(SyncPage { conversations: vec![line], covered_until: None });
        let told = std::iter::from_fn(|| rig.machine.poll_event(rig.now)).find_map(|event| match event {
            Event::Conversation(state) => Some(state.read.get()),
            _ => None,
        });
        assert_eq!(told, Some(expected));
        rig.reconnect();
        assert_eq!(rig.known(), [(group(1), 9, Marks { read: Seq(expected), ..had })]);
    }
}

#[test]
fn a_read_mark_of_ones_own_is_known_when_the_server_took_it() {
    for (answer, expected) in [(ServerBody::MarkOk, 6), (error(ErrorCode::InvalidArgument, 0), 0)] {
        let mut rig = Rig::online(Rig::usual(), with_cursor(9));
        rig.mark_read(6);
        let id = rig.sent.iter().rfind(|r| r.id.get() > 0).unwrap().id;
        rig.receive(id, answer);
        let mut disk = with_cursor(9);
        rig.take_all(&mut disk);
        assert_eq!(disk.conversations[&group(1)].marks.read, Seq(expected));
        rig.reconnect();
        assert_eq!(rig.known(), [(group(1), 9, Marks { read: Seq(expected), ..Marks::default() })]);
    }
}
