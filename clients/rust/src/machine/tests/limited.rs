//! A server that says "not so often".

use std::time::Duration;

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ConversationPage, ServerBody, SyncPage};
use tern_protocol::ids::{RequestId, Seq};
use tern_protocol::request::{ListConversations, Mark, Request, RequestBody};

use super::super::{Output, Ticket};
use super::model::{error, group};
use super::rig::{Rig, seconds};
use crate::storage::State;

/// As long as the server wants to be left alone.
const TOLD_MS: u32 = 7_000;

fn limited() -> ServerBody {
    error(ErrorCode::RateLimited, TOLD_MS)
}

/// Nothing more is asked before the server's time is over; then what was asked comes again.
fn again_after_the_pause(rig: &mut Rig) -> Vec<Request> {
    let (mut asked, until) = (Vec::new(), rig.now + Duration::from_millis(TOLD_MS.into()));
    while rig.now + Duration::from_millis(100) < until {
        rig.advance(Duration::from_millis(100));
        rig.machine.received_heartbeat(rig.now);
        let early: Vec<_> = rig.sent.drain(..).collect();
        assert!(early.is_empty(), "{early:?} before the time that was told");
    }
    for _ in 0..TOLD_MS / 1_000 {
        rig.advance(seconds(1));
        asked.append(&mut rig.sent);
    }
    asked
}

fn list(n: u64) -> RequestBody {
    RequestBody::ListConversations(ListConversations { after: Some(group(n as u8)), limit: 9 })
}

#[test]
fn what_is_refused_is_asked_again_however_often() {
    const QUERIES: u64 = 40;
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.push(3);
    for n in 1..=QUERIES {
        let read = Mark { conversation: group(n as u8), delivered: Seq(1), read: Seq(1) };
        let body = if n % 2 == 0 { list(n) } else { RequestBody::Mark(vec![read]) };
        rig.machine.query(rig.now, Ticket(n), body);
    }
    rig.drain();
    // More often than a query is tried that the server cannot answer.
    for _ in 0..10 {
        let asked = std::mem::take(&mut rig.sent);
        assert!(asked.len() > 3, "{asked:?}");
        for request in asked {
            rig.receive(request.id, limited());
        }
        rig.sent = again_after_the_pause(&mut rig);
    }
    rig.other.clear();
    while !rig.sent.is_empty() {
        for Request { id, body } in std::mem::take(&mut rig.sent) {
            match body {
                RequestBody::Mark(_) => rig.receive(id, ServerBody::MarkOk),
                RequestBody::History(_) => rig.page(id, 1, 3, 1..=3),
                RequestBody::ListConversations(_) => {
                    let page = ConversationPage { conversations: Vec::new(), next: None };
                    rig.receive(id, ServerBody::ConversationPage(page));
                }
                other => panic!("{other:?}"),
            }
        }
        rig.advance(seconds(1));
    }
    let answered = rig.other.iter().filter(|o| matches!(o, Output::Answer { result: Ok(_), .. }));
    assert_eq!(answered.count() as u64, QUERIES, "each is answered, once");
    assert_eq!(rig.seqs(), [1, 2, 3], "and the gap is filled");
}

#[test]
fn a_sync_is_asked_again_from_where_it_was() {
    let mut rig = Rig::new(Rig::usual(), State::default());
    rig.connect();
    rig.answer_sync(SyncPage { conversations: Vec::new(), covered_until: Some(group(5)) });
    let sync = rig.sent.pop().expect("the next page");
    rig.receive(sync.id, limited());
    let asked = again_after_the_pause(&mut rig);
    assert_eq!(asked.iter().map(|r| &r.body).collect::<Vec<_>>(), [&sync.body]);
    assert!(asked[0].id != sync.id);
}

#[test]
fn marks_that_wanted_no_answer_are_said_again() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.push(1);
    assert_eq!(rig.seqs(), [1]);
    rig.take(1);
    rig.advance(seconds(1));
    let said = rig.sent.pop().expect("the mark");
    assert_eq!(said.id, RequestId(0));
    rig.event(limited());
    // What comes meanwhile waits as well; sends are counted apart.
    rig.push(2);
    assert_eq!(rig.seqs(), [2]);
    rig.take(2);
    rig.send(1);
    assert_eq!(rig.numbers(), [1], "a send goes out");
    let asked = again_after_the_pause(&mut rig);
    let marks: Vec<_> = asked.into_iter().filter(|r| matches!(r.body, RequestBody::Mark(_))).collect();
    let two = Mark { conversation: group(1), delivered: Seq(2), read: Seq(0) };
    let first = marks.first().expect("said again");
    assert_eq!(first.body, RequestBody::Mark(vec![two]), "as far as the device has got by then");
    // The server may say no once more, to those that are answered as well.
    rig.receive(first.id, limited());
    rig.event(limited());
    let asked = again_after_the_pause(&mut rig);
    assert!(asked.iter().any(|r| r.id.get() > 0 && r.body == RequestBody::Mark(vec![two])), "{asked:?}");
    assert!(!rig.other.iter().any(|o| matches!(o, Output::Disconnect)), "the connection stays");
}

#[test]
fn a_new_connection_is_no_way_around_it() {
    let mut rig = Rig::online(Rig::usual(), State::default());
    rig.machine.query(rig.now, Ticket(1), list(1));
    rig.drain();
    let asked = rig.sent.pop().expect("asked");
    rig.receive(asked.id, limited());
    rig.reconnect();
    assert!(rig.sent.is_empty(), "{:?}: not even a sync", rig.sent);
    rig.advance(2 * Duration::from_millis(TOLD_MS.into()));
    rig.wait_online();
    assert!(rig.sent.iter().any(|r| matches!(r.body, RequestBody::Sync(_))), "{:?}", rig.sent);
}
