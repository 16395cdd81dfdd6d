//! How long a silent link may be left alone.
//!
//! Routers forget flows on which nothing moves, after 30 s for UDP where they are strict and after hours where they
//! are not, and tell nobody. So the interval between heartbeats is found out, transport by transport: it grows as long
//! as the link is still there after a silence of that length, and shrinks when it was not. A radio that wakes up less
//! often saves battery; a link that died unnoticed costs messages that come late.

use std::time::Duration;

/// What the strictest routers in use give UDP is 30 s.
const QUIC_FIRST: Duration = Duration::from_secs(25);
/// Not below: a path this forgetful is cheaper to lose than to keep.
const MIN: Duration = Duration::from_secs(10);
/// Silences in a row that the link survived before longer ones are tried.
const KEPT_BEFORE_GROWTH: u32 = 3;
/// The same, for an interval that is known to have been fatal: perhaps it was something else.
const KEPT_BEFORE_ANOTHER_TRY: u32 = 100;

/// The interval of one transport on one network.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// Silences of about this length that the link has survived in a row.
    kept: u32,
    /// The shortest silence that it has not.
    fatal: Option<Duration>,
}

impl Pace {
    /// Routers keep TCP's flows for minutes at least: longer than any server asks for.
    pub(super) fn tcp() -> Self {
        Self { interval: Duration::MAX, kept: 0, fatal: None }
    }

    pub(super) fn quic() -> Self {
        Self { interval: QUIC_FIRST, kept: 0, fatal: None }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The link was still there after this silence.
    pub(super) fn survived(&mut self, silence: Duration) {
        if silence < self.interval / 10 * 9 {
            return;
        }
        self.kept += 1;
        let longer = self.interval.saturating_mul(3) / 2;
        if self.fatal.is_some_and(|fatal| longer > fatal / 4 * 3) {
            if self.kept >= KEPT_BEFORE_ANOTHER_TRY {
                (self.kept, self.fatal) = (0, None);
            }
        } else if self.kept >= KEPT_BEFORE_GROWTH {
            (self.kept, self.interval) = (0, longer);
        }
    }

    /// It was not.
    pub(super) fn died(&mut self, silence: Duration) {
        if silence < MIN {
            return;
        }
        self.kept = 0;
        self.fatal = Some(self.fatal.map_or(silence, |fatal| fatal.min(silence)));
        self.interval = self.interval.min(silence / 3 * 2).max(MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// So many silences, each as long as the interval or as the server asks at most, on a path that forgets after `limit`.
    fn run(pace: &mut Pace, limit: u64, asked: u64, silences: usize) -> Vec<u64> {
        let mut intervals = Vec::new();
        for _ in 0..silences {
            let silence = pace.interval().min(seconds(asked));
            intervals.push(silence.as_secs());
            if silence < seconds(limit) { pace.survived(silence) } else { pace.died(silence) }
        }
        intervals
    }

    #[test]
    fn it_grows_to_what_the_server_asks_for() {
        let mut pace = Pace::quic();
        assert_eq!(run(&mut pace, 3600, 54, 9), [25, 25, 25, 37, 37, 37, 54, 54, 54]);
        run(&mut pace, 3600, 54, 1000);
        assert!(pace.interval() < seconds(90), "hardly beyond what was tried");
        assert_eq!(run(&mut Pace::tcp(), 3600, 54, 3), [54, 54, 54]);
    }

    #[test]
    fn it_finds_what_the_path_bears() {
        for (first, limit) in [(Pace::quic(), 30), (Pace::quic(), 15), (Pace::tcp(), 30), (Pace::tcp(), 50)] {
            let mut pace = first;
            let intervals = run(&mut pace, limit, 54, 300);
            let deaths = intervals.iter().filter(|s| **s >= limit).count();
            assert!(deaths <= 5, "{deaths} deaths in 300 silences at {limit} s: {intervals:?}");
            let late = &intervals[100..];
            let mean = late.iter().sum::<u64>() / late.len() as u64;
            assert!(mean >= limit / 3 && mean <= limit, "{mean} s on average at {limit} s");
        }
    }

    #[test]
    fn what_proves_nothing_changes_nothing() {
        let mut pace = Pace::quic();
        (0..100).for_each(|_| pace.survived(seconds(20)));
        pace.died(seconds(9));
        assert_eq!(pace.interval(), QUIC_FIRST);
        (0..9).for_each(|_| pace.died(seconds(10)));
        assert_eq!(pace.interval(), MIN);
        // Far from overflow, however long it lasts.
        let mut pace = Pace::tcp();
        (0..100).for_each(|_| pace.survived(Duration::MAX));
        assert!(pace.interval() > seconds(1 << 40));
    }
}
