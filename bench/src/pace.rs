//! When the next message goes out.

use crate::Error;
use crate::args::Load;
use crate::clock;

/// The load's shape, the same for all senders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As soon as fewer than this many are unanswered.
    Window(usize),
    /// At fixed times, whatever the server does: each sender one every `period`, all together one every `step`.
    Every {
        /// Nanoseconds between two messages of one sender.
        period: u64,
        /// Nanoseconds by which the next sender's schedule is later.
        step: u64,
    },
}

impl Pace {
    /// What the arguments ask of this many senders.
    ///
    /// # Errors
    /// A rate that is none.
    pub fn of(load: &Load, senders: usize) -> Result<Self, Error> {
        match load.rate {
            None => Ok(Self::Window(load.window as usize)),
            Some(rate) => Self::at_rate(rate, senders),
        }
    }

    /// So many messages a second of all senders together.
    ///
    /// # Errors
    /// A rate that is none.
    pub fn at_rate(rate: f64, senders: usize) -> Result<Self, Error> {
        if rate > 0.0 && rate <= 1e9 {
            return Ok(Self::Every {
                period: (1e9 * senders as f64 / rate) as u64,
                step: (1e9 / rate) as u64,
            });
        }
        Err(Error::Arguments("--rate is messages per second, above 0: for example --rate 5000".into()))
    }
}

/// One sender's fixed times.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    due: u64,
    period: u64,
}

impl Schedule {
    /// Begins now, for the sender with this number.
    pub fn start(period: u64, step: u64, number: usize) -> Self {
        Self {
            due: clock::nanos() + step.saturating_mul(number as u64) % period.max(1),
            period: period.max(1),
        }
    }

    /// When the next message is due.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// It was sent; returns when the one after it is due.
    pub fn sent(&mut self) -> u64 {
        self.due += self.period;
        self.due
    }

    /// Gives up what was due before `now`; returns how many of them were due at `since` or later.
    pub fn skip(&mut self, since: u64, now: u64) -> u64 {
        self.skip_before(since);
        self.skip_before(now)
    }

    fn skip_before(&mut self, time: u64) -> u64 {
        let missed = time.saturating_sub(self.due).div_ceil(self.period);
        self.due += missed * self.period;
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_and_not_sent_is_counted() {
        let mut schedule = Schedule { due: 100, period: 10 };
        assert_eq!(schedule.skip(0, 100), 0);
        assert_eq!(schedule.sent(), 110);
        assert_eq!(schedule.skip(0, 111), 1);
        assert_eq!(schedule.skip(135, 160), 2);
        assert_eq!(schedule.due(), 160);
    }
}
