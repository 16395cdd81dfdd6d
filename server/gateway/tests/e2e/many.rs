//! Fifty people in one group, half of them over each transport, five of whom write at once.

use tern_client::Transport;
use tern_protocol::event::ServerBody;
use tern_protocol::ids::{RequestId, Seq};
use tern_protocol::model::{Entry, Target};
use tern_protocol::request::{RequestBody, Send};
use tokio::task::JoinSet;

use crate::support::{Session, Start, Ternd, group, message, text};

const MEMBERS: usize = 50;
const SENDERS: usize = 5;
const SENDS: usize = 40;
/// The creation, then the messages.
const ENTRIES: usize = 1 + SENDERS * SENDS;

/// Sends all without waiting in between, then reads until every send is answered and every entry has come.
async fn take_part(mut session: Session, sends: usize) -> (Vec<Entry>, Vec<(String, Seq)>) {
    let id = group(1);
    let mut asked: Vec<(RequestId, String)> = Vec::new();
    for n in 0..sends {
        let (target, line) = (Target::Conversation(id), format!("{} says {n}", session.user()));
        let client_seq = session.next_client_seq(&target);
        let send = Send { target, client_seq, change: message(&line) };
        asked.push((session.request(RequestBody::Send(send)).await, line));
    }
    let mut acked = Vec::new();
    for (request, line) in asked {
        match session.answer(request).await {
            Ok(ServerBody::SendOk(ok)) => acked.push((line, ok.seq)),
            other => panic!("{other:?}"),
        }
    }
    let mut entries = Vec::new();
    while entries.len() < ENTRIES {
        match session.event().await {
            Some(ServerBody::Push { conversation, entry }) if conversation == id => entries.push(entry),
            other => panic!("{other:?}"),
        }
    }
    session.close().await;
    (entries, acked)
}

#[tokio::test]
async fn fifty_see_the_same() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let ternd = Ternd::start(data.path(), &Start::default());
    let names: Vec<String> = (0..MEMBERS).map(|n| format!("member{n}")).collect();
    let mut sessions = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let transport = if n % 2 == 0 { Transport::Tcp } else { Transport::Quic };
        sessions.push(ternd.login(transport, name, 1).await);
    }
    let others: Vec<&str> = names[1..].iter().map(String::as_str).collect();
    sessions[0].create(group(1), "fifty", &others).await;

    let mut tasks = JoinSet::new();
    for (n, mut session) in sessions.into_iter().enumerate() {
        if n == 0 {
            // Its number 1 was the creation.
            session.count_from(group(1), 1);
        }
        tasks.spawn(take_part(session, if n < SENDERS { SENDS } else { 0 }));
    }
    let seen = tasks.join_all().await;
    let (entries, _) = &seen[0];
    assert!(entries.iter().zip(1..).all(|(entry, seq)| entry.seq == Seq(seq)), "dense and in order");
    for (others, acked) in &seen {
        assert_eq!(others, entries, "everybody sees the same");
        assert!(acked.is_sorted_by_key(|(_, seq)| *seq), "one device's sends keep their order");
        for (line, seq) in acked {
            assert_eq!(text(&entries[seq.get() as usize - 1]), line, "it is where the ack said");
        }
    }
    assert_eq!(seen.iter().map(|(_, acked)| acked.len()).sum::<usize>(), SENDERS * SENDS);
    let mut late = ternd.login(Transport::Quic, "member7", 2).await;
    assert_eq!(&late.log_from(group(1), 1).await.expect("a member"), entries, "and so does who asks later");
    ternd.kill();
}
