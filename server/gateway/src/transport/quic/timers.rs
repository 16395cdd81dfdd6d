//! The deadlines of all connections of a shard behind one timer of the runtime.

use std::collections::BTreeSet;
use std::time::Instant;

/// When to look at which connection again.
///
/// A connection has one entry at most, and it may be too early: most deadlines move away long before they are reached,
/// and only one that comes closer costs a change here.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, usize)>);

impl Timers {
    /// Sees to it that the connection is looked at by `deadline`. `armed` is its entry, which is kept with the
    /// connection.
    pub(super) fn arm(&mut self, key: usize, armed: &mut Option<Instant>, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.disarm(key, armed);
        self.0.insert((deadline, key));
        *armed = Some(deadline);
    }

    /// Forgets the connection.
    pub(super) fn disarm(&mut self, key: usize, armed: &mut Option<Instant>) {
        if let Some(armed) = armed.take() {
            self.0.remove(&(armed, key));
        }
    }

    /// The first connection whose time has come. Its entry is gone; the caller clears `armed`.
    pub(super) fn expired(&mut self, now: Instant) -> Option<usize> {
        let first = self.0.first().filter(|(deadline, _)| *deadline <= now)?.1;
        self.0.pop_first();
        Some(first)
    }

    /// When to ask again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_entry_each_that_only_moves_closer() {
        let start = Instant::now();
        let at = |ms| Some(start + Duration::from_millis(ms));
        let mut timers = Timers::default();
        let mut armed = [None; 2];
        for (key, deadline, entry, next) in [
            (0, None, None, None),
            (0, at(50), at(50), at(50)),
            (1, at(70), at(70), at(50)),
            (0, at(90), at(50), at(50)),
            (1, at(20), at(20), at(20)),
            (1, None, at(20), at(20)),
        ] {
            timers.arm(key, &mut armed[key], deadline);
            assert_eq!((armed[key], timers.next()), (entry, next));
            assert!(timers.0.len() <= 2);
        }
        assert_eq!(timers.expired(start), None);
        let late = start + Duration::from_secs(1);
        assert_eq!(timers.expired(late), Some(1));
        timers.disarm(0, &mut armed[0]);
        assert_eq!((timers.expired(late), armed[0]), (None, None));
    }
}
