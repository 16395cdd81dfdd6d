//! A client that does not read for a while: pushes are dropped, and it is told the heads instead.

use tern_protocol::event::ServerBody;
use tern_protocol::ids::Seq;
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::{Change, Entry, Message, Target};
use tern_protocol::request::{History, HistoryFrom, RequestBody, Send};

use crate::support::{group, over_each, seqs};
use tern_check::random::{self, Random};

/// 20 MB: more than sockets hold on both ends together, and the server's own queue, by far.
const SENDS: u64 = 320;

#[tokio::test]
async fn a_slow_reader_is_told_the_head_and_misses_nothing() {
    over_each(async |ternd, transport| {
        let id = group(1);
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        alice.create(id, "flood", &["bob"]).await;
        let (_, created) = bob.pushed().await;
        let target = Target::Conversation(id);
        for round in 0..SENDS / 32 {
            let mut asked = Vec::new();
            for n in 0..32 {
                let payload = vec![(round * 32 + n) as u8; PAYLOAD_BYTES_MAX].into();
                let message = Message { content_type: String::new(), payload, reply_to: None };
                let client_seq = alice.next_client_seq(&target);
                let send = Send { target, client_seq, change: Change::Message(message) };
                asked.push(alice.request(RequestBody::Send(send)).await);
            }
            for request in asked {
                alice.answer(request).await.expect("one slow reader slows nobody down");
                alice.events.clear();
            }
        }
        // Now bob reads again.
        let head = Seq(1 + SENDS);
        let mut log = vec![created];
        let mut pulls = 0;
        let next = |log: &Vec<Entry>| log.last().map_or(Seq(1), |entry| entry.seq.next());
        while next(&log) <= head {
            match bob.event().await.expect("still connected") {
                ServerBody::Push { conversation, entry } => {
                    assert_eq!(conversation, id);
                    assert!(entry.seq <= next(&log), "entries are missing without a word: {}", entry.seq);
                    if entry.seq == next(&log) {
                        log.push(entry);
                    }
                }
                ServerBody::HeadMoved { conversation, head: to } => {
                    assert_eq!(conversation, id);
                    assert!(to <= head && to >= next(&log), "{to}");
                    pulls += 1;
                    log.extend(bob.log_from(id, next(&log).get()).await.expect("a member"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(pulls > 0, "the whole flood was pushed: nothing was tried");
        assert_eq!(seqs(&log), (1..=head.get()).collect::<Vec<_>>());
        assert_eq!(log, alice.log_from(id, 1).await.expect("a member"));
        // And pushes work as before.
        alice.change(id, Change::Title { title: "ebb".into() }).await.expect("the owner may");
        let seq = bob
            .until(|event| match event {
                ServerBody::Push { entry, .. } if entry.seq > head => Some(entry.seq),
                _ => None,
            })
            .await;
        assert_eq!(seq, head.next());
    })
    .await;
}

/// A page of these is below the server's high-water mark, and with the pushes that it queues above.
const PAGE: u64 = 3;
/// Requests in flight at once.
const PAGES: usize = 60;
/// Between two requests for a page: about as much as a page, together less than the server queues.
const PUSHES: u64 = 12;
/// What all that is worth for a try is more than sockets hold on both ends together.
const PUSH_BYTES: usize = PAYLOAD_BYTES_MAX / 4;
const TRIES: usize = 3;

/// Pages wait for room until pushes are dropped: then there is room, without anything having been written.
#[tokio::test]
async fn pages_that_wait_behind_dropped_pushes_come() {
    let seed = random::seed();
    over_each(async |ternd, transport| {
        let mut random = Random::new(seed);
        let (pages, flood) = (group(1), group(2));
        let mut alice = ternd.login(transport, "alice", 1).await;
        let mut bob = ternd.login(transport, "bob", 1).await;
        alice.create(pages, "pages", &["bob"]).await;
        alice.create(flood, "flood", &["bob"]).await;
        let of = |length| {
            Change::Message(Message {
                content_type: String::new(),
                payload: vec![7; length].into(),
                reply_to: None,
            })
        };
        for _ in 0..PAGE {
            alice.change(pages, of(PAYLOAD_BYTES_MAX)).await.expect("stored");
        }
        for _ in 0..TRIES {
            let mut pulled = Vec::new();
            for _ in 0..PAGES {
                let from = HistoryFrom::Backward(None);
                let page = History { conversation: pages, from, limit: PAGE as u32 };
                pulled.push(bob.request(RequestBody::History(page)).await);
                let mut sent = Vec::new();
                for _ in 0..random.within(PUSHES - 4..PUSHES + 4) {
                    let target = Target::Conversation(flood);
                    let client_seq = alice.next_client_seq(&target);
                    let send = Send { target, client_seq, change: of(PUSH_BYTES) };
                    sent.push(alice.request(RequestBody::Send(send)).await);
                }
                for request in sent {
                    alice.answer(request).await.expect("stored");
                }
                alice.events.clear();
            }
            // Only now bob reads, and nothing more happens that would help him.
            for request in pulled {
                match bob.answer(request).await.expect("a member") {
                    ServerBody::HistoryPage(page) => assert_eq!(seqs(&page.entries), [2, 3, 4]),
                    other => panic!("not the answer to a history request: {other:?}"),
                }
            }
            bob.until(|event| matches!(event, ServerBody::HeadMoved { .. }).then_some(())).await;
            bob.events.clear();
        }
    })
    .await;
}
