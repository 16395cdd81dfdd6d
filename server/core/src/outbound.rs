//! One connection's queue towards the client, and the slow-reader rule: when it is full, queued pushes are dropped, the
//! connection is marked lagging, and once it has drained the client is told the heads of what it missed. The log makes
//! that safe; memory per connection is bounded.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;
use hashbrown::HashMap;
use tern_protocol::ids::{ConversationId, Seq};

use crate::limits::{LAGGING_MAX, OUTBOUND_HIGH_WATER_BYTES, OUTBOUND_PUSH_BYTES_MAX, OUTBOUND_PUSHES_MAX};

/// Frames on their way to one client.
#[derive(Debug, Default)]
pub struct Outbound {
    queue: VecDeque<Item>,
    bytes: usize,
    push_bytes: usize,
    pushes: usize,
    echoing: bool,
    lagging: HashMap<ConversationId, Seq>,
    lost_track: bool,
}

#[derive(Debug)]
struct Item {
    frame: Bytes,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Answer,
    Echo,
    /// Droppable.
    Push(Push),
}

#[derive(Debug, Clone, Copy)]
enum Push {
    Entry(ConversationId, Seq),
    Receipt,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Queued.
    Queued,
    /// Dropped; the client will be told the head. With it the pushes and receipts that were queued, so many in all.
    Dropped(usize),
    /// Dropped like that, and too many conversations lag to remember them: the connection must be closed, the client
    /// will sync.
    LostTrack(usize),
}

impl Outbound {
    /// Queues an answer. Their number is bounded by the requests in flight, and none is taken up above the high water.
    pub fn answer(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.queue.push_back(Item { frame, kind: Kind::Answer });
    }

    /// Queues the echo of a heartbeat, unless one is queued: a client that sends nothing else costs one item.
    pub fn echo(&mut self, frame: Bytes) {
        if !core::mem::replace(&mut self.echoing, true) {
            self.bytes += frame.len();
            self.queue.push_back(Item { frame, kind: Kind::Echo });
        }
    }

    /// Queues the push of an entry, or drops it and every other queued push when there is no room.
    pub fn push(&mut self, conversation: ConversationId, seq: Seq, frame: Bytes) -> Pushed {
        self.queue_push(Push::Entry(conversation, seq), frame)
    }

    /// Queues a receipt; like a push, but nothing is said when it is dropped: receipts are told again at the next sync.
    pub fn receipt(&mut self, frame: Bytes) -> Pushed {
        self.queue_push(Push::Receipt, frame)
    }

    /// The log has grown to `seq` and the entries are not at hand: the client is told the head. Drops nothing.
    pub fn head_moved(&mut self, conversation: ConversationId, seq: Seq) -> Pushed {
        self.lag(conversation, seq);
        self.dropped(0)
    }

    fn queue_push(&mut self, push: Push, frame: Bytes) -> Pushed {
        if !self.lagging.is_empty() || self.lost_track {
            self.drop_push(push);
            return self.dropped(1);
        }
        if self.pushes >= OUTBOUND_PUSHES_MAX || self.push_bytes + frame.len() > OUTBOUND_PUSH_BYTES_MAX {
            let mut dropped = Vec::new();
            self.queue.retain(|item| match item.kind {
                Kind::Push(push) => {
                    dropped.push((push, item.frame.len()));
                    false
                }
                Kind::Answer | Kind::Echo => true,
            });
            for (push, length) in &dropped {
                self.bytes -= length;
                self.drop_push(*push);
            }
            (self.pushes, self.push_bytes) = (0, 0);
            self.drop_push(push);
            return self.dropped(dropped.len() + 1);
        }
        self.bytes += frame.len();
        self.push_bytes += frame.len();
        self.pushes += 1;
        self.queue.push_back(Item { frame, kind: Kind::Push(push) });
        Pushed::Queued
    }

    fn dropped(&self, pushes: usize) -> Pushed {
        if self.lost_track { Pushed::LostTrack(pushes) } else { Pushed::Dropped(pushes) }
    }

    fn drop_push(&mut self, push: Push) {
        match push {
            Push::Entry(conversation, seq) => self.lag(conversation, seq),
            Push::Receipt => {}
        }
    }

    fn lag(&mut self, conversation: ConversationId, seq: Seq) {
        if self.lost_track {
            return;
        }
        if let Some(head) = self.lagging.get_mut(&conversation) {
            *head = (*head).max(seq);
        } else if self.lagging.len() < LAGGING_MAX {
            self.lagging.insert(conversation, seq);
        } else {
            self.lost_track = true;
            self.lagging.clear();
        }
    }

    /// The next frame to write.
    pub fn pop(&mut self) -> Option<Bytes> {
        let item = self.queue.pop_front()?;
        self.bytes -= item.frame.len();
        match item.kind {
            Kind::Answer => {}
            Kind::Echo => self.echoing = false,
            Kind::Push(_) => {
                self.push_bytes -= item.frame.len();
                self.pushes -= 1;
            }
        }
        if self.queue.is_empty() {
            // Gives the memory back: an idle connection holds none.
            self.queue = VecDeque::new();
        }
        Some(item.frame)
    }

    /// When everything is written: the heads that the client has to be told, after which pushes are queued again.
    pub fn take_lagging(&mut self) -> Vec<(ConversationId, Seq)> {
        if !self.queue.is_empty() {
            return Vec::new();
        }
        let mut heads: Vec<_> = self.lagging.drain().collect();
        heads.sort_unstable();
        heads
    }

    /// Whether nothing waits, neither frames nor heads to tell.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.lagging.is_empty()
    }

    /// Whether pushes are being dropped.
    pub fn is_lagging(&self) -> bool {
        !self.lagging.is_empty() || self.lost_track
    }

    /// Whether half of the places for pushes are taken: what may wait should not wait any more.
    pub fn is_crowded(&self) -> bool {
        self.pushes >= OUTBOUND_PUSHES_MAX / 2 || self.push_bytes >= OUTBOUND_PUSH_BYTES_MAX / 2
    }

    /// Whether so much waits that no further request of this connection is to be taken up.
    pub fn is_above_high_water(&self) -> bool {
        self.bytes > OUTBOUND_HIGH_WATER_BYTES
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> ConversationId {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        ConversationId::from_bytes(bytes)
    }

    fn frame(length: usize) -> Bytes {
        alloc::vec![7; length].into()
    }

    #[test]
    fn a_slow_reader_is_told_heads_and_catches_up() {
        let mut out = Outbound::default();
        out.answer(frame(10));
        let mut seq = 0;
        loop {
            seq += 1;
            match out.push(id(seq as u16 % 3), Seq(seq), frame(1000)) {
                Pushed::Queued => assert!(out.bytes() <= OUTBOUND_PUSH_BYTES_MAX + 10),
                pushed => {
                    assert_eq!(pushed, Pushed::Dropped(seq as usize), "it and all that were queued");
                    break;
                }
            }
        }
        assert_eq!(out.bytes(), 10, "only the answer stays");
        assert_eq!(out.push(id(0), Seq(seq + 3), frame(1)), Pushed::Dropped(1), "until it has drained");
        assert!(out.take_lagging().is_empty(), "not before everything is written");
        assert_eq!(out.pop().map(|f| f.len()), Some(10));
        assert!(!out.is_empty());
        let mut heads = out.take_lagging();
        heads.sort();
        assert_eq!(heads.len(), 3);
        assert_eq!(heads[0], (id(0), Seq(seq + 3)));
        assert!(out.is_empty() && !out.is_lagging());
        assert_eq!(out.push(id(0), Seq(seq + 4), frame(1)), Pushed::Queued);
    }

    #[test]
    fn many_small_pushes_are_bounded_too() {
        let mut out = Outbound::default();
        for n in 0..OUTBOUND_PUSHES_MAX {
            assert_eq!(out.push(id(1), Seq(n as u64 + 1), frame(1)), Pushed::Queued);
        }
        assert_eq!(out.push(id(1), Seq(5_000), frame(1)), Pushed::Dropped(OUTBOUND_PUSHES_MAX + 1));
        assert_eq!(out.take_lagging(), [(id(1), Seq(5_000))]);
    }

    #[test]
    fn too_many_lagging_conversations_cost_the_connection() {
        let mut out = Outbound::default();
        for n in 0..LAGGING_MAX as u16 {
            assert_eq!(out.head_moved(id(n), Seq(1)), Pushed::Dropped(0));
        }
        assert_eq!(out.head_moved(id(5), Seq(2)), Pushed::Dropped(0), "known ones only rise");
        assert_eq!(out.head_moved(id(LAGGING_MAX as u16), Seq(1)), Pushed::LostTrack(0));
        assert_eq!(out.push(id(1), Seq(9), frame(1)), Pushed::LostTrack(1));
    }

    #[test]
    fn heartbeats_that_wait_are_echoed_once() {
        let mut out = Outbound::default();
        for _ in 0..1_000 {
            out.echo(frame(1));
        }
        assert_eq!((out.bytes(), out.queue.len()), (1, 1));
        out.pop();
        out.echo(frame(1));
        assert_eq!(out.bytes(), 1);
    }

    #[test]
    fn receipts_are_dropped_silently() {
        let mut out = Outbound::default();
        assert_eq!(out.receipt(frame(OUTBOUND_PUSH_BYTES_MAX)), Pushed::Queued);
        assert_eq!(out.push(id(1), Seq(1), frame(1)), Pushed::Dropped(2));
        assert_eq!(out.bytes(), 0);
        assert_eq!(out.take_lagging(), [(id(1), Seq(1))]);
    }
}
