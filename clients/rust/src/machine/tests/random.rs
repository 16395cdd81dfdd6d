//! Random drops, duplicates, reorderings, cuts, crashes, refusals.

use std::time::Duration;

use proptest::prelude::*;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, ServerMessage};
use tern_protocol::ids::RequestId;

use super::model::{Server, World, entry, group};

#[derive(Debug, Clone)]
enum Step {
    Send(u8),
    /// Somebody else sends: pushed, hinted, or neither.
    Other(u8, u8),
    Server(u8),
    Deliver(u8),
    Drop(u8),
    Duplicate(u8),
    Take(u8),
    Advance(u16),
    Cut,
    Crash,
    Refuse(u8, bool),
    Limit(u8),
    Trim(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8).prop_map(Step::Send),
        6 => (0..4u8, 0..6u8).prop_map(|(c, how)| Step::Other(c, how)),
        12 => (1..6u8).prop_map(Step::Server),
        12 => any::<u8>().prop_map(Step::Deliver),
        2 => any::<u8>().prop_map(Step::Drop),
        2 => any::<u8>().prop_map(Step::Duplicate),
        4 => (1..20u8).prop_map(Step::Take),
        3 => (1..2000u16).prop_map(Step::Advance),
        1 => Just(Step::Cut),
        1 => Just(Step::Crash),
        3 => (0..5u8, any::<bool>()).prop_map(|(code, stored)| Step::Refuse(code, stored)),
        1 => (1..6u8).prop_map(Step::Limit),
        1 => (0..4u8, 1..9u8).prop_map(|(c, n)| Step::Trim(c, n)),
    ]
}

fn run(steps: Vec<Step>, push_own: bool, page: usize) {
    let mut world = World::new(Server { push_own, page, ..Server::default() });
    let mut refused = false;
    for step in steps {
        match step {
            Step::Send(c) => world.send(group(c)),
            Step::Other(c, how) => {
                let entry = world.server.append(group(c), entry(0, "theirs"));
                let conversation = group(c);
                let head = entry.seq;
                let body = match how {
                    0 => None,
                    1 => Some(ServerBody::HeadMoved { conversation, head }),
                    _ => Some(ServerBody::Push { conversation, entry }),
                };
                if let (Some(body), true) = (body, world.up) {
                    world.to_client.push(ServerMessage { id: RequestId(0), body });
                }
            }
            Step::Server(n) => (0..n).for_each(|_| world.server_step()),
            Step::Deliver(at) => world.deliver(at.into()),
            Step::Drop(at) => {
                if !world.to_client.is_empty() {
                    let at = usize::from(at) % world.to_client.len();
                    world.to_client.remove(at);
                }
            }
            Step::Duplicate(at) => {
                if !world.to_client.is_empty() {
                    let at = usize::from(at) % world.to_client.len();
                    let message = world.to_client[at].clone();
                    world.to_client.push(message);
                }
            }
            Step::Take(n) => world.take_events(n.into()),
            Step::Advance(ms) => world.advance(Duration::from_millis(ms.into())),
            Step::Cut => world.cut(),
            Step::Crash => world.crash(),
            Step::Refuse(code, stored) => {
                refused = true;
                let (code, stored) = match code {
                    0 => (ErrorCode::Overloaded, false),
                    1 => (ErrorCode::TooManyInFlight, false),
                    2 => (ErrorCode::Unavailable, false),
                    3 => (ErrorCode::OutcomeUnknown, stored),
                    _ => (ErrorCode::Internal, stored),
                };
                world.server.refuse.push_back((code, stored));
            }
            Step::Limit(n) => world.server.limited = n.into(),
            Step::Trim(c, n) => {
                if let Some(log) = world.server.logs.get_mut(&group(c)) {
                    // Retention keeps the newest; nothing that a machine may ask for is forgotten about numbers.
                    log.floor = (log.floor.max(1) + u64::from(n)).min(log.head().get().max(1));
                }
            }
        }
    }
    world.settle();
    world.check();
    if !refused {
        // Without refusals one conversation's sends keep their order.
        for log in world.server.logs.values() {
            let numbers: Vec<_> = log.numbers.values().copied().collect();
            assert!(numbers.is_sorted());
            let mine: Vec<u64> = log
                .entries
                .iter()
                .filter_map(|e| {
                    super::model::text(&e.change).strip_prefix("mine ").map(|n| n.parse().unwrap())
                })
                .collect();
            assert!(mine.is_sorted(), "{mine:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 4000, ..ProptestConfig::default() })]
    #[test]
    fn every_entry_once_in_order_and_every_send_once(
        steps in proptest::collection::vec(step(), 0..200),
        push_own: bool,
        page in 1..4usize,
    ) {
        run(steps, push_own, page);
    }
}
