//! The newest version that a process has heard of from a store that is elsewhere.
//!
//! To ask such a store for a version costs a round trip before the first read. A process that commits all the time hears
//! one with every answer; while that is young, a transaction can read there. It sees everything that this process has
//! seen committed, and may miss what others have committed meanwhile. So it is for transactions that change what they
//! have read, and nothing else: should somebody else have changed it since, they conflict.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Version;

/// For how long a version is recent, from the moment at which this process heard of it.
pub const RECENT_MS: u64 = 10;

/// The newest version, and how long ago that was.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    newest: Version,
    /// On the caller's clock.
    at: Option<Duration>,
}

impl Recent {
    /// The store has given this version, for a commit or to read at. `now` is on a clock that only rises.
    pub fn hear(&self, version: Version, now: Duration) {
        let mut heard = self.lock();
        if version >= heard.newest {
            *heard = Heard { newest: version, at: Some(now) };
        }
    }

    /// The newest of all, however old; 0 before the first.
    pub fn newest(&self) -> Version {
        self.lock().newest
    }

    /// The newest, if it is recent.
    pub fn get(&self, now: Duration) -> Option<Version> {
        let heard = self.lock();
        let age = now.saturating_sub(heard.at?);
        (age <= Duration::from_millis(RECENT_MS)).then_some(heard.newest)
    }

    /// A transaction at this version has failed: until another one is heard of, none is recent. After a recovery of the
    /// store's, whatever is from before is too old for it.
    pub fn doubt(&self, version: Version) {
        let mut heard = self.lock();
        if heard.newest <= version {
            heard.at = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_recent_for_a_while_unless_it_is_doubted() {
        let recent = Recent::default();
        let ms = Duration::from_millis;
        assert_eq!((recent.newest(), recent.get(ms(0))), (Version(0), None));
        recent.hear(Version(7), ms(100));
        recent.hear(Version(5), ms(105));
        assert_eq!((recent.newest(), recent.get(ms(100 + RECENT_MS))), (Version(7), Some(Version(7))));
        assert_eq!(recent.get(ms(101 + RECENT_MS)), None, "an older one has not made it younger");
        recent.hear(Version(7), ms(200));
        recent.doubt(Version(6));
        assert_eq!(recent.get(ms(200)), Some(Version(7)), "one of before it has failed");
        recent.doubt(Version(7));
        assert_eq!((recent.newest(), recent.get(ms(200))), (Version(7), None));
        recent.hear(Version(8), ms(201));
        assert_eq!(recent.get(ms(201)), Some(Version(8)));
    }
}
