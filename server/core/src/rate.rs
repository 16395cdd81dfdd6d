//! How often something may be done: so many times a second, and so many at once after a rest.
//!
//! ```text
//!   now            spent           now + burst x interval
//!    |---------------|---------|-----------|
//!                     one more:             it has to end before this, or has to wait
//!                     spent + interval
//! ```
//!
//! All that has to be kept is the moment at which everything that was done will have been earned again ("generic cell
//! rate algorithm"): one number, which fits a connection and an atomic.

use crate::time::MonoMillis;

const SECOND_US: u64 = 1_000_000;

/// So many a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval_us: u64,
    burst_us: u64,
}

/// What was done, as microseconds of the monotonic clock at which it will have been earned again. 0: nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent(pub u64);

impl Rate {
    /// `None` when either is 0: nothing could ever be done.
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        if per_second == 0 || burst == 0 {
            return None;
        }
        let interval_us = (SECOND_US / u64::from(per_second)).max(1);
        Some(Self { interval_us, burst_us: interval_us * u64::from(burst) })
    }

    /// Something that counts as `cost`: what is spent then, or the milliseconds until there is room for one. It is done if
    /// there is room for one, whatever it costs, and what comes next waits for it: nothing is too long ever to be done.
    ///
    /// # Errors
    /// At least 1 ms; nothing was done.
    pub fn take(self, spent: Spent, cost: u32, now: MonoMillis) -> Result<Spent, u64> {
        let allowed = now.0.saturating_mul(1_000).saturating_add(self.burst_us);
        let one_more = self.spend(spent, 1, now);
        if one_more.0 <= allowed {
            Ok(self.spend(spent, cost, now))
        } else {
            Err((one_more.0 - allowed).div_ceil(1_000))
        }
    }

    /// Something that was done, when only its end has told what it costs: what is spent then.
    pub fn spend(self, spent: Spent, cost: u32, now: MonoMillis) -> Spent {
        let cost_us = self.interval_us.saturating_mul(u64::from(cost));
        Spent(spent.0.max(now.0.saturating_mul(1_000)).saturating_add(cost_us))
    }
}

impl Spent {
    /// Whether everything is earned again, so that it need not be remembered.
    pub fn is_over(self, now: MonoMillis) -> bool {
        self.0 <= now.0.saturating_mul(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate::new(per_second, burst).expect("not 0")
    }

    /// How many are taken at this moment.
    fn take_all(rate: Rate, spent: &mut Spent, now: u64) -> usize {
        core::iter::from_fn(|| rate.take(*spent, 1, MonoMillis(now)).map(|next| *spent = next).ok()).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (rate, mut spent) = (rate(50, 500), Spent::default());
        assert_eq!(take_all(rate, &mut spent, 7), 500);
        for n in 1..=100 {
            assert_eq!(take_all(rate, &mut spent, 7 + 20 * n), 1, "one each 20 ms");
        }
        assert_eq!(take_all(rate, &mut spent, 7 + 2_000 + 1_000), 50, "what a second earns");
        assert_eq!(take_all(rate, &mut spent, 1_000_000), 500, "a rest earns no more than a burst");
    }

    #[test]
    fn it_says_when_there_is_room() {
        for (per_second, burst) in [(1, 1), (3, 2), (50, 500), (999, 1), (1_000, 7), (5_000_000, 3)] {
            let (rate, mut spent, now) = (rate(per_second, burst), Spent::default(), 12_345);
            take_all(rate, &mut spent, now);
            let wait = rate.take(spent, 1, MonoMillis(now)).expect_err("the burst is over");
            assert!(wait >= 1);
            assert!(
                rate.take(spent, 1, MonoMillis(now + wait)).is_ok(),
                "{per_second} {burst}: after {wait} ms"
            );
            assert!(wait == 1 || rate.take(spent, 1, MonoMillis(now + wait - 1)).is_err(), "and not before");
        }
    }

    #[test]
    fn what_costs_more_than_there_is_room_for_is_paid_afterwards() {
        let (rate, mut spent) = (rate(10, 5), Spent::default());
        spent = rate.take(spent, 4, MonoMillis(1_000)).expect("there is room");
        spent = rate.take(spent, 100, MonoMillis(1_000)).expect("there is room for one");
        assert_eq!(rate.take(spent, 1, MonoMillis(1_000)), Err(10_000), "104 are spent, and 4 may be");
        spent = rate.spend(spent, 10, MonoMillis(1_000));
        assert_eq!(rate.take(spent, 1, MonoMillis(1_000)), Err(11_000), "so is what was done already");
        assert_eq!(take_all(rate, &mut spent, 12_000), 1);
        assert_eq!(rate.spend(Spent(7), 0, MonoMillis(1)), Spent(1_000), "nothing costs nothing");
    }

    #[test]
    fn who_rests_is_forgotten_and_who_does_not_is_not() {
        let (rate, mut spent) = (rate(10, 5), Spent::default());
        take_all(rate, &mut spent, 1_000);
        assert!(!spent.is_over(MonoMillis(1_499)) && spent.is_over(MonoMillis(1_500)));
    }

    #[test]
    fn nothing_is_no_rate() {
        assert_eq!((Rate::new(0, 5), Rate::new(5, 0)), (None, None));
        assert!(
            rate(u32::MAX, u32::MAX).take(Spent(u64::MAX), u32::MAX, MonoMillis(u64::MAX)).is_ok(),
            "no overflow"
        );
    }
}
