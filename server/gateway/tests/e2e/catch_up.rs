//! Offline and back: syncs, histories, the conversation list.

use std::collections::BTreeMap;

use tern_protocol::event::ServerBody;
use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::limits::{PAGE_ROWS_MAX, PAYLOAD_BYTES_MAX};
use tern_protocol::model::{Change, Entry, Message, Target};
use tern_protocol::request::{HistoryFrom, RequestBody, Send, Sync};

use crate::support::{Session, group, message, over_each, seqs, sync, texts, user};

/// What a device has of each conversation, in one piece up to its cursor.
type Stored = BTreeMap<ConversationId, Vec<Entry>>;

/// Catches up as the protocol says: syncs page by page, then pulls what is missing. Returns how many sync pages it took.
async fn catch_up(session: &mut Session, stored: &mut Stored, latest: Option<u32>) -> usize {
    let last = |log: &Vec<Entry>| log.last().map_or(0, |entry| entry.seq.get());
    let known: Vec<_> = stored.iter().map(|(id, log)| (*id, last(log))).collect();
    let (mut after, mut pages) = (None, 0);
    loop {
        let RequestBody::Sync(request) = sync(&known) else { unreachable!() };
        let page = session.sync(RequestBody::Sync(Sync { after, latest, ..request })).await;
        pages += 1;
        for state in page.conversations {
            assert!(after.is_none_or(|after| state.conversation > after), "above what is covered");
            assert!(page.covered_until.is_none_or(|until| state.conversation <= until), "and not beyond");
            let log = stored.entry(state.conversation).or_default();
            let mut cursor = log.last().map_or(state.floor.prev(), |entry| entry.seq);
            if log.is_empty()
                && let Some(first) = state.entries.first()
            {
                cursor = first.seq.prev();
            }
            log.extend(state.entries);
            assert_eq!(log.last().map_or(cursor, |entry| entry.seq), state.complete_to.max(cursor));
            cursor = state.complete_to.max(cursor);
            while cursor < state.head {
                let from = HistoryFrom::Forward(cursor.next());
                let page = session.history(state.conversation, from, 0).await.expect("a member");
                assert_eq!(
                    page.entries.first().map(|entry| entry.seq),
                    Some(cursor.next()),
                    "without a hole"
                );
                cursor = page.entries.last().expect("there is one").seq;
                log.extend(page.entries);
            }
        }
        after = page.covered_until;
        if after.is_none() {
            break;
        }
    }
    for log in stored.values() {
        assert!(log.windows(2).all(|pair| pair[1].seq == pair[0].seq.next()), "{:?}", seqs(log));
    }
    pages
}

/// Sends these without waiting in between.
async fn send_all(session: &mut Session, sends: impl IntoIterator<Item = (Target, Change)>) {
    let mut asked = std::collections::VecDeque::new();
    for (target, change) in sends {
        let client_seq = session.next_client_seq(&target);
        asked.push_back(session.request(RequestBody::Send(Send { target, client_seq, change })).await);
        if asked.len() == 60 {
            while let Some(request) = asked.pop_front() {
                assert!(matches!(session.answer(request).await, Ok(ServerBody::SendOk(_))));
            }
        }
    }
    for request in asked {
        assert!(matches!(session.answer(request).await, Ok(ServerBody::SendOk(_))));
    }
}

fn blob(byte: u8) -> Change {
    let payload = vec![byte; PAYLOAD_BYTES_MAX].into();
    Change::Message(Message { content_type: "application/octet-stream".into(), payload, reply_to: None })
}

#[tokio::test]
async fn who_comes_back_is_told_what_they_missed() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut carol = ternd.login(transport, "carol", 1).await;
        let direct = alice.text(user("bob"), "1").await.expect("stored").conversation;
        alice.create(group(1), "walkers", &["bob", "carol"]).await;
        let bob = ternd.login(transport, "bob", 1).await;
        bob.close().await;
        send_all(&mut alice, (2..=5).map(|n| (Target::User(user("bob")), message(&n.to_string())))).await;
        carol.change(group(1), message("two")).await.expect("stored");

        let mut bob = ternd.login(transport, "bob", 1).await;
        let page = bob.sync(sync(&[])).await;
        assert_eq!(page.covered_until, None);
        let state = |id| page.conversations.iter().find(|state| state.conversation == id).expect("there");
        assert_eq!((state(direct).head, state(direct).complete_to), (Seq(5), Seq(5)));
        assert_eq!(texts(&state(direct).entries), ["1", "2", "3", "4", "5"]);
        assert_eq!((state(group(1)).complete_to, state(group(1)).title.as_str()), (Seq(2), "walkers"));
        assert_eq!(page.conversations.len(), 2);

        // (what is known, latest) -> (which, its entries)
        let both = [(direct, 5), (group(1), 2)];
        let cases = [
            (&both[..], None, vec![]),
            (&both[..1], None, vec![(group(1), vec![1, 2])]),
            (&[(direct, 3), (group(1), 2)], None, vec![(direct, vec![4, 5])]),
            (&[(direct, 0), (group(1), 2)], None, vec![(direct, vec![1, 2, 3, 4, 5])]),
            (&[(direct, 2), (group(9), 7)], Some(1), vec![(direct, vec![3, 4, 5]), (group(1), vec![2])]),
            (&[], Some(2), vec![(direct, vec![4, 5]), (group(1), vec![1, 2])]),
            (&[(direct, 9), (group(1), 2)], None, vec![(direct, vec![])]),
        ];
        for (known, latest, mut expected) in cases {
            let RequestBody::Sync(request) = sync(known) else { unreachable!() };
            let page = bob.sync(RequestBody::Sync(Sync { latest, ..request })).await;
            let lines = page.conversations.iter().map(|state| (state.conversation, seqs(&state.entries)));
            expected.sort();
            assert_eq!(lines.collect::<Vec<_>>(), expected, "known {known:?}, latest {latest:?}");
            assert!(page.conversations.iter().all(|state| state.complete_to == state.head));
        }
        // The range of ids that the client asks for.
        let (low, high) = (direct.min(group(1)), direct.max(group(1)));
        for (after, until, expected) in
            [(None, Some(low), vec![low]), (Some(low), None, vec![high]), (Some(low), Some(high), vec![high])]
        {
            let page = bob.sync(RequestBody::Sync(Sync { known: vec![], after, until, latest: None })).await;
            let ids = page.conversations.iter().map(|state| state.conversation);
            assert_eq!(ids.collect::<Vec<_>>(), expected);
        }
        // And from here on it is live.
        carol.change(group(1), message("three")).await.expect("stored");
        assert_eq!(bob.pushed().await.1.seq, Seq(3));
    })
    .await;
}

/// More conversations than fit a page.
#[tokio::test]
async fn many_conversations_come_in_pages() {
    const GROUPS: u64 = PAGE_ROWS_MAX as u64 + 100;
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let create = Change::Create { title: String::new(), members: vec![user("bob")] };
        send_all(&mut alice, (0..GROUPS).map(|n| (Target::Conversation(group(n)), create.clone()))).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let mut stored = Stored::new();
        assert!(catch_up(&mut bob, &mut stored, None).await > 1, "more than a page");
        let mut ids: Vec<_> = (0..GROUPS).map(group).collect();
        ids.sort();
        assert_eq!(stored.keys().copied().collect::<Vec<_>>(), ids);
        assert!(stored.values().all(|log| seqs(log) == [1]));

        send_all(&mut alice, (0..3).map(|n| (Target::Conversation(group(n * 200)), message("more")))).await;
        let page = bob.sync(sync(&stored.keys().map(|id| (*id, 1)).collect::<Vec<_>>())).await;
        assert_eq!(page.conversations.len(), 3, "only what is new");
        catch_up(&mut bob, &mut stored, None).await;
        assert_eq!(stored.values().map(Vec::len).sum::<usize>(), GROUPS as usize + 3);

        let list: Vec<_> = bob.conversations(0).await.iter().map(|state| state.conversation).collect();
        assert_eq!(list, ids, "the list, too, in the order of the ids");
        let list: Vec<_> = bob.conversations(70).await.iter().map(|state| state.conversation).collect();
        assert_eq!(list, ids);
    })
    .await;
}

/// More than fits a page, in one conversation and in several.
#[tokio::test]
async fn long_logs_are_pulled_after_the_sync() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        for n in 0..3 {
            alice.create(group(n), "long", &["bob"]).await;
            let to = Target::Conversation(group(n));
            send_all(&mut alice, (0..12).map(|byte| (to, blob(byte)))).await;
            // The pushes, so that they do not pile up here.
            while !alice.events.is_empty() {
                alice.events.clear();
            }
        }
        let mut bob = ternd.login(transport, "bob", 1).await;
        let first = bob.sync(sync(&[])).await.conversations.remove(0);
        assert!(first.complete_to < first.head && !first.entries.is_empty(), "it is cut, and says so");
        assert_eq!(first.entries.last().map(|entry| entry.seq), Some(first.complete_to));
        let mut stored = Stored::new();
        assert!(catch_up(&mut bob, &mut stored, None).await > 1);
        for (id, log) in &stored {
            assert_eq!(seqs(log), (1..=13).collect::<Vec<_>>());
            assert_eq!(log, &alice.log_from(*id, 1).await.expect("a member"));
        }
        assert_eq!(stored.len(), 3);
        let mut phone = Stored::new();
        catch_up(&mut bob, &mut phone, Some(4)).await;
        assert!(phone.values().all(|log| seqs(log) == [10, 11, 12, 13]), "the latest only");
    })
    .await;
}

#[tokio::test]
async fn history_reads_both_ways() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let to = Target::User(user("bob"));
        send_all(&mut alice, (1..=25).map(|n| (to, message(&n.to_string())))).await;
        let chat = ConversationId::direct(user("alice"), user("bob"));
        let forward = |seq| HistoryFrom::Forward(Seq(seq));
        let backward = |seq: u64| HistoryFrom::Backward((seq > 0).then_some(Seq(seq)));
        let cases = [
            (forward(0), 10, 1..=10),
            (forward(1), 10, 1..=10),
            (forward(11), 10, 11..=20),
            (forward(21), 10, 21..=25),
            (forward(25), 10, 25..=25),
            (forward(3), 0, 3..=25),
            (forward(3), 5_000, 3..=25),
            (backward(0), 10, 16..=25),
            (backward(15), 10, 6..=15),
            (backward(5), 10, 1..=5),
            (backward(1), 10, 1..=1),
            (backward(99), 2, 24..=25),
            (backward(u64::MAX), 0, 1..=25),
        ];
        for (from, limit, expected) in cases {
            let page = alice.history(chat, from, limit).await.expect("a member");
            assert_eq!(seqs(&page.entries), expected.collect::<Vec<_>>(), "{from:?}, limit {limit}");
            assert_eq!((page.conversation, page.floor, page.head), (chat, Seq(1), Seq(25)));
        }
        for from in [forward(26), forward(u64::MAX)] {
            assert!(alice.history(chat, from, 10).await.expect("a member").entries.is_empty(), "{from:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_list_counts_what_is_unread() {
    over_each(async |ternd, transport| {
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        send_all(&mut alice, (1..=3).map(|n| (Target::User(user("bob")), message(&n.to_string())))).await;
        let chat = ConversationId::direct(user("alice"), user("bob"));
        let line = bob.line(chat).await;
        assert_eq!((line.unread, texts(&line.entries), line.read), (3, vec!["3"], Seq(0)));
        assert_eq!(line.time, line.entries[0].time);
        assert_eq!(alice.line(chat).await.unread, 0, "one's own do not count");
        bob.text(user("alice"), "from me").await.expect("stored");
        assert_eq!(bob.line(chat).await.unread, 3, "neither here");
        bob.mark(chat, 4, 2).await.expect("up to the head");
        assert_eq!(bob.line(chat).await.unread, 1);
        bob.mark(chat, 4, 4).await.expect("up to the head");
        bob.close().await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        let line = bob.line(chat).await;
        assert_eq!((line.unread, line.read, texts(&line.entries)), (0, Seq(4), vec!["from me"]), "at once");

        // Only messages count, and not more than a badge can show.
        alice.create(group(1), "loud", &["bob", "carol"]).await;
        alice.change(group(1), Change::Title { title: "louder".into() }).await.expect("the owner may");
        assert_eq!(bob.line(group(1)).await.unread, 0);
        let to = Target::Conversation(group(1));
        send_all(&mut alice, (0..98).map(|_| (to, message("!")))).await;
        assert_eq!(bob.line(group(1)).await.unread, 98);
        send_all(&mut alice, (0..22).map(|_| (to, message("!")))).await;
        drop(bob);
        let mut bob = ternd.login(transport, "bob", 1).await;
        assert_eq!(bob.line(group(1)).await.unread, 100);
        bob.mark(group(1), 122, 119).await.expect("up to the head");
        assert_eq!(bob.line(group(1)).await.unread, 3);
    })
    .await;
}
