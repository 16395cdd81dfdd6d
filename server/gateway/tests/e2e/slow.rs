//! A client that does not read for a while: pushes are dropped, and it is told the heads instead.

use tern_protocol::event::ServerBody;
use tern_protocol::ids::Seq;
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tern_protocol::model::{Change, Entry, Message, Target};
use tern_protocol::request::{RequestBody, Send};

use crate::support::{group, over_each, seqs};

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
