//! Numbers the entries of one conversation, and proves that what becomes durable has no gap.

use tern_protocol::ids::Seq;
use tern_protocol::model::{Head, WallMillis};

/// The head as it will be when everything numbered so far is durable, and how far it is durable already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequencer {
    head: Head,
    durable: Seq,
}

impl Sequencer {
    /// Goes on after a durable head.
    pub fn new(head: Head) -> Self {
        Self { durable: head.last, head: Head { floor: head.floor.max(Seq(1)), ..head } }
    }

    /// The head with everything numbered.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The last entry that is durable: the newest that anybody may be told of.
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// The place and time of the next entry. The time never falls, whatever the clock does.
    pub fn assign(&mut self, now: WallMillis) -> (Seq, WallMillis) {
        self.head.last = self.head.last.next();
        self.head.time = self.head.time.max(now);
        (self.head.last, self.head.time)
    }

    /// The entry `seq` is durable.
    ///
    /// # Panics
    /// When it is not the one after the last durable one: a hole in the log must never be shown to anybody.
    pub fn on_durable(&mut self, seq: Seq) {
        assert!(seq == self.durable.next(), "a hole in the log: {seq} became durable after {}", self.durable);
        assert!(seq <= self.head.last, "{seq} became durable and was never numbered");
        self.durable = seq;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequencer(last: u64, time: u64) -> Sequencer {
        Sequencer::new(Head { last: Seq(last), floor: Seq(1), time: WallMillis(time) })
    }

    #[test]
    fn numbers_densely_and_time_never_falls() {
        let mut s = sequencer(7, 100);
        assert_eq!(s.assign(WallMillis(90)), (Seq(8), WallMillis(100)));
        assert_eq!(s.assign(WallMillis(120)), (Seq(9), WallMillis(120)));
        assert_eq!(s.durable(), Seq(7));
        s.on_durable(Seq(8));
        s.on_durable(Seq(9));
        assert_eq!(s.durable(), Seq(9));
    }

    #[test]
    #[should_panic(expected = "a hole in the log")]
    fn a_hole_is_fatal() {
        let mut s = sequencer(7, 100);
        s.assign(WallMillis(1));
        s.assign(WallMillis(1));
        s.on_durable(Seq(9));
    }

    #[test]
    #[should_panic(expected = "never numbered")]
    fn durable_before_numbered_is_fatal() {
        sequencer(7, 100).on_durable(Seq(8));
    }
}
