//! Whether one more send is taken up. A shard that is offered more than it can do would answer later and later. So no
//! more sends wait than it has answered in the last second, and the next one waits for about a second at most; what is
//! beyond is refused at once. The shard goes on working at its full rate, since its queue is as long as it may be.
//!
//! A shard that had little to do has answered little, so some may wait at any time. A store that stands still has
//! answered nothing for a second, and is not given more than these.

use alloc::collections::VecDeque;

use crate::limits::{SEND_WAIT_MS, SENDS_WAITING_MIN};
use crate::time::MonoMillis;

/// Moments of the last second that are remembered: one for each tick of a caller that ticks every 10 ms or less often.
const MOMENTS_MAX: usize = 100;

/// The sends of one shard's connections.
#[derive(Debug, Default)]
pub struct Admission {
    waiting: u64,
    answered: u64,
    /// How many had been answered by when.
    moments: VecDeque<(MonoMillis, u64)>,
    answered_lately: u64,
}

impl Admission {
    /// Whether a send may be taken up; if so, it is counted, and [`Self::on_answered`] must follow.
    pub fn take(&mut self) -> bool {
        let takes = self.waiting < self.answered_lately.max(SENDS_WAITING_MIN);
        self.waiting += u64::from(takes);
        takes
    }

    /// A send that was taken up is answered.
    ///
    /// # Panics
    /// When none was: every send is answered once.
    pub fn on_answered(&mut self) {
        assert!(self.waiting > 0, "a send was answered twice");
        self.waiting -= 1;
        self.answered += 1;
    }

    /// Sends that were taken up and are not answered.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Time has passed. To be called several times in `SEND_WAIT_MS`.
    pub fn on_tick(&mut self, now: MonoMillis) {
        let over = |(since, _): &(MonoMillis, u64)| now.since(*since) > SEND_WAIT_MS;
        while self.moments.len() >= MOMENTS_MAX || self.moments.front().is_some_and(over) {
            self.moments.pop_front();
        }
        self.moments.push_back((now, self.answered));
        self.answered_lately = self.moments.front().map_or(0, |(_, then)| self.answered - then);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_MS: u64 = 50;

    /// A shard that answers `capacity` sends in a tick, in the order in which they came, is offered `offered` of them.
    /// Returns how many it accepted and answered in the second half of the time, and the longest wait of all.
    fn run(capacity: u64, offered: u64) -> (u64, u64, u64) {
        const TICKS: u64 = 400;
        let mut admission = Admission::default();
        let mut queue = VecDeque::new();
        let (mut accepted, mut answered, mut wait_max) = (0, 0, 0);
        for tick in 0..TICKS {
            let now = tick * TICK_MS;
            let counts = u64::from(tick >= TICKS / 2);
            for _ in 0..offered {
                if admission.take() {
                    queue.push_back(now);
                    accepted += counts;
                }
            }
            for since in queue.drain(..queue.len().min(capacity as usize)) {
                admission.on_answered();
                answered += counts;
                wait_max = wait_max.max(now - since);
            }
            admission.on_tick(MonoMillis(now));
        }
        (accepted, answered, wait_max)
    }

    #[test]
    fn below_capacity_nothing_is_refused() {
        assert_eq!(run(1_000, 999), (999 * 200, 999 * 200, 0));
    }

    #[test]
    fn above_capacity_the_rate_stays_and_the_wait_is_bounded() {
        for offered in [1_010, 1_500, 5_000, 100_000] {
            let (accepted, answered, wait) = run(1_000, offered);
            assert_eq!(answered, 1_000 * 200, "offered {offered}: the full rate");
            assert!(accepted <= answered + 1_000 * SEND_WAIT_MS / TICK_MS, "offered {offered}: {accepted}");
            assert!(wait <= SEND_WAIT_MS, "offered {offered}: {wait} ms");
        }
    }

    #[test]
    fn a_store_that_stands_still_gets_no_more_than_the_least() {
        let mut admission = Admission::default();
        let mut now = 0;
        let mut take_all = |admission: &mut Admission, ticks: u64| {
            let mut taken = 0;
            for _ in 0..ticks {
                assert!(admission.waiting() <= SENDS_WAITING_MIN);
                taken += (0..2 * SENDS_WAITING_MIN).filter(|_| admission.take()).count() as u64;
                admission.on_tick(MonoMillis(now));
                now += TICK_MS;
            }
            taken
        };
        assert_eq!(take_all(&mut admission, 1_000), SENDS_WAITING_MIN);
        assert!(admission.moments.len() <= MOMENTS_MAX);
        for _ in 0..SENDS_WAITING_MIN {
            admission.on_answered();
        }
        assert_eq!(take_all(&mut admission, 1), SENDS_WAITING_MIN, "it goes on");
    }
}
