//! Which keys changed lately, and in which version: what optimistic concurrency needs to know, and all it needs.
//!
//! This is FoundationDB's resolver in small. A transaction read at some version; it may commit if nothing that it
//! read was written after that version. The resolver remembers only the newest writes. Once it has had to forget
//! some, a transaction that is older than the newest forgotten write gets "too old", because it can no longer be
//! told whether it conflicts. FoundationDB forgets by time (5 s), this one by number, since the memory is what counts.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::Version;

/// What a commit has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadSet {
    /// Single keys.
    pub keys: Vec<Bytes>,
    /// Ranges: first key, key after the last.
    pub ranges: Vec<(Bytes, Bytes)>,
}

/// May this commit?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that it read has changed.
    Commit,
    /// Something has.
    Conflict,
    /// The resolver has forgotten too much to tell.
    TooOld,
}

/// The last write of recently written keys.
#[derive(Debug)]
pub struct Resolver {
    /// When each key was last written. Not sorted: single keys are what is asked for, while ranges of a transaction that
    /// writes are rare, and only what was written since it began has to be looked through for them.
    keys: HashMap<Bytes, Version>,
    /// The same writes in order; those that a later write of the same key has superseded are skipped when forgotten.
    order: VecDeque<(Version, Bytes)>,
    /// Ranges that were cleared, in order. Clears are rare (trimming a log), so a list is searched.
    clears: VecDeque<(Version, Bytes, Bytes)>,
    /// Writes above this version are all remembered.
    floor: Version,
    /// The newest version given to `record`.
    newest: Version,
    keys_max: usize,
    clears_max: usize,
}

impl Resolver {
    /// A resolver that knows nothing of writes at or below `floor`, and remembers at most this many writes and
    /// cleared ranges above it.
    pub fn new(floor: Version, keys_max: usize, clears_max: usize) -> Self {
        Self {
            keys: HashMap::new(),
            order: VecDeque::new(),
            clears: VecDeque::new(),
            floor,
            newest: floor,
            keys_max,
            clears_max,
        }
    }

    /// Older read versions than this one get [`Verdict::TooOld`].
    pub fn floor(&self) -> Version {
        self.floor
    }

    /// Whether a transaction that read this at that version may commit now.
    pub fn check(&self, read_version: Version, reads: &ReadSet) -> Verdict {
        if reads.keys.is_empty() && reads.ranges.is_empty() {
            return Verdict::Commit;
        }
        if read_version < self.floor {
            return Verdict::TooOld;
        }
        let changed = reads.keys.iter().any(|key| self.key_changed(read_version, key))
            || reads.ranges.iter().any(|(begin, end)| self.range_changed(read_version, begin, end));
        if changed { Verdict::Conflict } else { Verdict::Commit }
    }

    fn recent_clears(&self, since: Version) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let recent = self.clears.iter().rev().take_while(move |(version, ..)| *version > since);
        recent.map(|(_, begin, end)| (begin, end))
    }

    fn key_changed(&self, since: Version, key: &Bytes) -> bool {
        self.keys.get(key).is_some_and(|version| *version > since)
            || self.recent_clears(since).any(|(begin, end)| begin <= key && key < end)
    }

    fn range_changed(&self, since: Version, begin: &Bytes, end: &Bytes) -> bool {
        if begin >= end {
            return false;
        }
        let mut recent = self.order.iter().rev().take_while(|(version, _)| *version > since);
        recent.any(|(_, key)| begin <= key && key < end)
            || self.recent_clears(since).any(|(b, e)| b < end && begin < e)
    }

    /// Remembers the writes of a commit.
    ///
    /// # Panics
    /// When versions do not rise.
    pub fn record<'a>(
        &mut self,
        version: Version,
        keys: impl Iterator<Item = &'a Bytes>,
        clears: impl Iterator<Item = &'a (Bytes, Bytes)>,
    ) {
        assert!(version >= self.newest, "versions rise");
        self.newest = version;
        for key in keys {
            self.keys.insert(key.clone(), version);
            self.order.push_back((version, key.clone()));
        }
        for (begin, end) in clears.filter(|(begin, end)| begin < end) {
            self.clears.push_back((version, begin.clone(), end.clone()));
        }
        self.forget();
    }

    fn forget(&mut self) {
        while self.order.len() > self.keys_max {
            if let Some((version, key)) = self.order.pop_front() {
                // A write that was superseded may go silently: the later write of the same key is still known, and
                // whoever is older than this one is older than that one.
                if self.keys.get(&key) == Some(&version) {
                    self.keys.remove(&key);
                    self.floor = self.floor.max(version);
                }
            }
        }
        while self.clears.len() > self.clears_max {
            if let Some((version, ..)) = self.clears.pop_front() {
                self.floor = self.floor.max(version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write { keys: Vec<u8>, clear: Option<(u8, u8)>, same_version: bool },
        Check { back: u64, key: u8, range: Option<(u8, u8)> },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let pair = || proptest::option::weighted(0.3, (0u8..16, 0u8..16));
        let write = (proptest::collection::vec(0u8..16, 0..4), pair(), any::<bool>())
            .prop_map(|(keys, clear, same_version)| Step::Write { keys, clear, same_version });
        let check =
            (0u64..12, 0u8..16, pair()).prop_map(|(back, key, range)| Step::Check { back, key, range });
        proptest::collection::vec(prop_oneof![write, check], 1..80)
    }

    fn key(k: u8) -> Bytes {
        Bytes::copy_from_slice(&[k])
    }

    proptest! {
        /// Against a list of everything that was ever written: never a wrong "commit", never a needless conflict,
        /// and "too old" only below a floor that leaves the promised number of writes.
        #[test]
        fn agrees_with_a_list(steps in steps(), keys_max in 1usize..12, clears_max in 1usize..4) {
            let start = Version(100);
            let mut resolver = Resolver::new(start, keys_max, clears_max);
            let mut log: Vec<(Version, u8, u8)> = Vec::new();
            let mut now = start;
            for step in steps {
                match step {
                    Step::Write { keys, clear, same_version } => {
                        if !same_version || now == start {
                            now.0 += 1;
                        }
                        let clear = clear.map(|(b, e)| (b.min(e), b.max(e)));
                        log.extend(keys.iter().map(|k| (now, *k, *k + 1)));
                        log.extend(clear.map(|(b, e)| (now, b, e)));
                        let keys: Vec<Bytes> = keys.into_iter().map(key).collect();
                        let clear = clear.map(|(b, e)| (key(b), key(e)));
                        resolver.record(now, keys.iter(), clear.iter());
                    }
                    Step::Check { back, key: k, range } => {
                        let at = Version(now.0 - back.min(now.0 - start.0));
                        let range = range.map(|(b, e)| (b.min(e), b.max(e)));
                        let reads = ReadSet {
                            keys: vec![key(k)],
                            ranges: range.iter().map(|(b, e)| (key(*b), key(*e))).collect(),
                        };
                        let conflict = log.iter().any(|(version, b, e)| {
                            *version > at
                                && ((*b <= k && k < *e) || range.is_some_and(|(rb, re)| rb.max(*b) < re.min(*e)))
                        });
                        let expected = match (at < resolver.floor(), conflict) {
                            (true, _) => Verdict::TooOld,
                            (false, true) => Verdict::Conflict,
                            (false, false) => Verdict::Commit,
                        };
                        prop_assert_eq!(resolver.check(at, &reads), expected);
                    }
                }
                prop_assert!(resolver.order.len() <= keys_max && resolver.keys.len() <= keys_max);
                prop_assert!(resolver.clears.len() <= clears_max);
            }
        }
    }

    #[test]
    fn forgetting_raises_the_floor_and_no_further_than_needed() {
        let mut resolver = Resolver::new(Version(0), 2, 1);
        for (version, k) in [(1, 1), (2, 1), (3, 2)] {
            resolver.record(Version(version), [key(k)].iter(), [].iter());
        }
        assert_eq!(resolver.floor(), Version(0), "the write at 1 was superseded, so nothing is lost with it");
        resolver.record(Version(4), [key(3)].iter(), [].iter());
        assert_eq!(resolver.floor(), Version(2));
    }
}
