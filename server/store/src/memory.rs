//! A store in memory that behaves as FoundationDB does, its limits and its failures included.
//!
//! Snapshot reads at any version of the last five seconds; conflicts found at commit; transactions that live for five
//! seconds of an injected clock; sizes as in [`limits`](crate::limits); and faults on demand, above all commits whose
//! outcome is unknown. Tests and the simulator run on it. There is no clock, thread or randomness inside, so the same
//! calls give the same results.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::ready;

use crate::limits::TRANSACTION_LIFE_MS;
use crate::resolver::ReadSet;
use crate::writes::{Atomic, Row, WriteSet};
use crate::{BoxFuture, CommitError, Kv, RangeQuery, StoreError, Transaction, Version};

/// Versions per millisecond of the clock. FoundationDB's advance by about a million a second, too.
const VERSIONS_PER_MS: u64 = 1_000;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The commit reports a conflict, and has no effect.
    Conflict,
    /// The commit reports that it is too old, and has no effect.
    TooOld,
    /// The commit reports that the store is unavailable, and has no effect.
    Unavailable,
    /// The commit reports that the store has too much to do, and has no effect.
    Throttled,
    /// The commit reports an unknown outcome that is decided, and it was committed.
    UnknownLanded,
    /// The commit reports an unknown outcome that is decided, and it was not committed.
    UnknownLost,
    /// The commit reports an unknown outcome that may still land. It is tried again by [`Memory::land`], or after a
    /// few later commits when the plan is seeded, and commits then unless it conflicts.
    UnknownLandsLater,
}

/// When things go wrong.
#[derive(Debug, Clone, Default)]
pub enum FaultPlan {
    /// Never.
    #[default]
    None,
    /// The next commits with writes meet these, one each; afterwards never.
    Script(VecDeque<Option<Fault>>),
    /// At random, by a generator of this state: each commit meets a fault with this many chances in a thousand, all
    /// faults being equally likely (unavailable and throttled count as one), and each read is too old or unavailable with `reads_per_mille` chances.
    Seeded {
        /// State of the generator.
        seed: u64,
        /// Of commits.
        commits_per_mille: u16,
        /// Of reads.
        reads_per_mille: u16,
    },
}

impl FaultPlan {
    /// The next commits meet these faults.
    pub fn script(faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Self::Script(faults.into_iter().collect())
    }

    fn for_commit(&mut self) -> Option<Fault> {
        const ALL: [Fault; 6] = [
            Fault::Conflict,
            Fault::TooOld,
            Fault::Unavailable,
            Fault::UnknownLanded,
            Fault::UnknownLost,
            Fault::UnknownLandsLater,
        ];
        match self {
            Self::None => None,
            Self::Script(faults) => faults.pop_front().flatten(),
            Self::Seeded { seed, commits_per_mille, .. } => {
                let meets = draw(seed, 1_000) < u64::from(*commits_per_mille);
                let which = ALL[draw(seed, ALL.len() as u64) as usize];
                // Refused without effect, for one reason or the other.
                let is_throttled = which == Fault::Unavailable && *seed % 2 == 0;
                meets.then_some(if is_throttled { Fault::Throttled } else { which })
            }
        }
    }

    fn for_read(&mut self) -> Option<StoreError> {
        let Self::Seeded { seed, reads_per_mille, .. } = self else { return None };
        if draw(seed, 1_000) >= u64::from(*reads_per_mille) {
            return None;
        }
        Some(if draw(seed, 2) == 0 { StoreError::TooOld } else { StoreError::Unavailable })
    }

    /// How many later commits a late one waits for; `None`: until it is told to land.
    fn delay(&mut self) -> Option<u64> {
        match self {
            Self::Seeded { seed, .. } => Some(1 + draw(seed, 4)),
            _ => None,
        }
    }
}

/// A number below `bound`, from splitmix64.
fn draw(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) % bound
}

/// The clock of a [`Memory`], which stands still unless it is moved.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// Lets time pass.
    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The store. Clones share their contents.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    /// The values that each key has had, oldest first, as far as somebody may still read them.
    keys: BTreeMap<Bytes, Vec<(Version, Option<Bytes>)>>,
    /// What each recent commit wrote.
    commits: VecDeque<(Version, Writes)>,
    /// The newest version that was given out, to a reader or a commit.
    newest: Version,
    plan: FaultPlan,
    late: Vec<Late>,
    lands_when_told: bool,
    counts: Counts,
}

/// Where a commit wrote.
struct Writes {
    keys: Vec<Bytes>,
    clears: Vec<(Bytes, Bytes)>,
}

/// A commit that may still land.
struct Late {
    wait: Option<u64>,
    read_version: Version,
    reads: ReadSet,
    writes: WriteSet,
}

/// What the store has done: for tests that demand few transactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Point reads.
    pub gets: u64,
    /// Range reads.
    pub ranges: u64,
    /// Commits with writes that took effect.
    pub commits: u64,
    /// Keys written by them.
    pub writes: u64,
    /// Commits of unknown outcome that may still land.
    pub late: u64,
}

impl Memory {
    /// An empty store whose clock is at 0 and that never fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// From now on things go wrong by this plan.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.lock().plan = plan;
    }

    /// From now on what may still land waits until it is told to [`land`](Self::land), whatever is committed meanwhile.
    pub fn lands_when_told(&self) {
        self.lock().lands_when_told = true;
    }

    /// Lets every commit that may still land try it, in order; says how many did.
    pub fn land(&self) -> usize {
        let mut state = self.lock();
        let late = std::mem::take(&mut state.late);
        late.into_iter().filter(|late| state.try_land(late, self.clock.now_ms())).count()
    }

    /// What the store has done so far.
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { late: state.late.len() as u64, ..state.counts }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kv for Memory {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(MemoryTransaction {
            store: self.clone(),
            read_version: self.lock().advance(self.clock.now_ms()),
            reads: Mutex::default(),
            writes: WriteSet::default(),
        })
    }

    fn cleared_keys_max(&self) -> u64 {
        u64::MAX
    }
}

impl State {
    /// Lets the version catch up with the clock.
    fn advance(&mut self, now_ms: u64) -> Version {
        self.newest = self.newest.max(Version(now_ms * VERSIONS_PER_MS));
        self.newest
    }

    fn oldest(now_ms: u64) -> Version {
        Version(now_ms.saturating_sub(TRANSACTION_LIFE_MS) * VERSIONS_PER_MS)
    }

    fn value(&self, key: &[u8], at: Version) -> Option<Bytes> {
        visible(self.keys.get(key)?, at)
    }

    fn scan(&self, query: &RangeQuery, at: Version) -> Vec<Row> {
        if query.begin >= query.end {
            return Vec::new();
        }
        let mut bytes = 0;
        let mut rows = Vec::new();
        let range = self.keys.range::<Bytes, _>((Bound::Included(&query.begin), Bound::Excluded(&query.end)));
        let take = |(key, values): (&Bytes, &Vec<_>)| {
            if let Some(value) = visible(values, at) {
                bytes += key.len() + value.len();
                rows.push((key.clone(), value));
            }
            rows.len() >= query.rows_max || bytes >= query.bytes_max
        };
        let _full = if query.reverse { range.rev().any(take) } else { { range }.any(take) };
        rows
    }

    fn conflicts(&self, read_version: Version, reads: &ReadSet) -> bool {
        let newer = self.commits.iter().rev().take_while(|(version, _)| *version > read_version);
        newer.map(|(_, writes)| writes).any(|writes| {
            let wrote = |begin: &[u8], end: &[u8]| {
                writes.keys.iter().any(|key| begin <= key && key < end)
                    || writes.clears.iter().any(|(b, e)| b < end && begin < e)
            };
            reads.ranges.iter().any(|(begin, end)| begin < end && wrote(begin, end))
                || reads.keys.iter().any(|key| {
                    writes.keys.contains(key) || writes.clears.iter().any(|(b, e)| b <= key && key < e)
                })
        })
    }

    fn try_commit(
        &mut self,
        now_ms: u64,
        read_version: Version,
        reads: &ReadSet,
        writes: &WriteSet,
    ) -> Result<Version, CommitError> {
        if read_version < Self::oldest(now_ms) {
            return Err(CommitError::TooOld);
        }
        if self.conflicts(read_version, reads) {
            return Err(CommitError::Conflict);
        }
        let version = Version(self.advance(now_ms).0 + 1);
        self.newest = version;
        let mut keys = Vec::new();
        for (begin, end) in writes.clears() {
            let range = self.keys.range_mut::<Bytes, _>((Bound::Included(begin), Bound::Excluded(end)));
            for (key, values) in range {
                put(values, version, None);
                keys.push(key.clone());
            }
        }
        for (key, write) in writes.keys() {
            let values = self.keys.entry(key.clone()).or_default();
            let value = write.apply(visible(values, version));
            put(values, version, value);
        }
        keys.extend(writes.keys().map(|(key, _)| key.clone()));
        self.counts.commits += 1;
        self.counts.writes += keys.len() as u64;
        self.commits.push_back((version, Writes { keys, clears: writes.clears().to_vec() }));
        self.forget(Self::oldest(now_ms));
        Ok(version)
    }

    /// Drops what nobody may read any more.
    fn forget(&mut self, oldest: Version) {
        while self.commits.front().is_some_and(|(version, _)| *version < oldest) {
            let Some((_, writes)) = self.commits.pop_front() else { break };
            for key in &writes.keys {
                if let Some(values) = self.keys.get_mut(key) {
                    // The newest value at or below `oldest` is still visible, those before it are not.
                    let dead = values.iter().rposition(|(version, _)| *version <= oldest).unwrap_or(0);
                    values.drain(..dead);
                    if matches!(values.as_slice(), [(version, None)] if *version <= oldest) {
                        self.keys.remove(key);
                    }
                }
            }
        }
    }

    fn try_land(&mut self, late: &Late, now_ms: u64) -> bool {
        self.try_commit(now_ms, late.read_version, &late.reads, &late.writes).is_ok()
    }

    /// A commit of one transaction, faults included.
    fn commit(
        &mut self,
        now_ms: u64,
        read_version: Version,
        reads: ReadSet,
        writes: WriteSet,
    ) -> Result<Version, CommitError> {
        if writes.is_too_large(&reads) {
            return Err(CommitError::TooLarge);
        }
        if writes.is_empty() {
            return Ok(read_version);
        }
        if read_version > self.newest {
            // FoundationDB's "future version".
            return Err(CommitError::Unavailable);
        }
        for late in &mut self.late {
            late.wait = late.wait.map(|wait| wait.saturating_sub(1));
        }
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|late| late.wait == Some(0));
        self.late = late;
        let due: Vec<Late> = due;
        for late in &due {
            self.try_land(late, now_ms);
        }
        match self.plan.for_commit() {
            None => self.try_commit(now_ms, read_version, &reads, &writes),
            Some(Fault::Conflict) => Err(CommitError::Conflict),
            Some(Fault::TooOld) => Err(CommitError::TooOld),
            Some(Fault::Unavailable) => Err(CommitError::Unavailable),
            Some(Fault::Throttled) => Err(CommitError::Overloaded),
            Some(Fault::UnknownLanded) => {
                self.try_commit(now_ms, read_version, &reads, &writes)?;
                Err(CommitError::Unknown { may_still_land: false })
            }
            Some(Fault::UnknownLost) => Err(CommitError::Unknown { may_still_land: false }),
            Some(Fault::UnknownLandsLater) => {
                let wait = self.plan.delay().filter(|_| !self.lands_when_told);
                self.late.push(Late { wait, read_version, reads, writes });
                Err(CommitError::Unknown { may_still_land: true })
            }
        }
    }
}

fn visible(values: &[(Version, Option<Bytes>)], at: Version) -> Option<Bytes> {
    let newest = values.iter().rev().find(|(version, _)| *version <= at)?;
    newest.1.clone()
}

fn put(values: &mut Vec<(Version, Option<Bytes>)>, version: Version, value: Option<Bytes>) {
    match values.last_mut() {
        Some(last) if last.0 == version => last.1 = value,
        _ => values.push((version, value)),
    }
}

struct MemoryTransaction {
    store: Memory,
    read_version: Version,
    reads: Mutex<ReadSet>,
    writes: WriteSet,
}

impl MemoryTransaction {
    fn reads(&self) -> MutexGuard<'_, ReadSet> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, if this transaction may still read.
    fn readable(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.store.lock();
        if let Some(error) = state.plan.for_read() {
            return Err(error);
        }
        if self.read_version < State::oldest(self.store.clock.now_ms()) {
            return Err(StoreError::TooOld);
        }
        if self.read_version > state.newest {
            return Err(StoreError::Unavailable);
        }
        Ok(state)
    }

    fn read(&self, key: &[u8], conflict: bool) -> Result<Option<Bytes>, StoreError> {
        let mut state = self.readable()?;
        state.counts.gets += 1;
        if let Some(own) = self.writes.own(key) {
            return Ok(own);
        }
        if conflict {
            self.reads().keys.push(Bytes::copy_from_slice(key));
        }
        Ok(self.writes.over(key, state.value(key, self.read_version)))
    }

    fn read_range(&self, query: &RangeQuery) -> Result<Vec<Row>, StoreError> {
        let mut state = self.readable()?;
        state.counts.ranges += 1;
        let (rows, depends) = self.writes.range(query, |part| Ok(state.scan(part, self.read_version)))?;
        if !query.snapshot {
            self.reads().ranges.push(depends);
        }
        Ok(rows)
    }
}

impl Transaction for MemoryTransaction {
    fn read_version(&self) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(ready(Ok(self.read_version)))
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(ready(self.read(key, true)))
    }

    fn get_snapshot<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(ready(self.read(key, false)))
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(ready(self.read_range(&query)))
    }

    fn set(&mut self, key: &[u8], value: Bytes) {
        self.writes.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.writes.clear(key);
    }

    fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        self.writes.clear_range(begin, end);
    }

    fn atomic_max(&mut self, key: &[u8], value: u64) {
        self.writes.atomic(key, Atomic::Max(value));
    }

    fn atomic_add(&mut self, key: &[u8], value: u64) {
        self.writes.atomic(key, Atomic::Add(value));
    }

    fn add_read_conflict(&mut self, key: &[u8]) {
        self.reads().keys.push(Bytes::copy_from_slice(key));
    }

    fn set_read_version(&mut self, version: Version) {
        self.read_version = version;
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Version, CommitError>> {
        let Self { store, read_version, reads, writes } = *self;
        let reads = reads.into_inner().unwrap_or_else(PoisonError::into_inner);
        let now_ms = store.clock.now_ms();
        let result = store.lock().commit(now_ms, read_version, reads, writes);
        Box::pin(ready(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn write(store: &Memory, key: &[u8]) -> Result<Version, CommitError> {
        let mut tx = store.begin();
        tx.set(key, Bytes::from_static(b"x"));
        block_on(tx.commit())
    }

    fn exists(store: &Memory, key: &[u8]) -> bool {
        block_on(store.begin().get(key)).expect("reads").is_some()
    }

    #[test]
    fn a_transaction_lives_for_five_seconds() {
        let store = Memory::new();
        let mut tx = store.begin();
        store.clock().advance_ms(TRANSACTION_LIFE_MS);
        assert_eq!(block_on(tx.get(b"a")), Ok(None), "just young enough");
        store.clock().advance_ms(1);
        assert_eq!(block_on(tx.get(b"a")), Err(StoreError::TooOld));
        tx.set(b"a", Bytes::new());
        assert_eq!(block_on(tx.commit()), Err(CommitError::TooOld));
        let known = write(&store, b"a").expect("commits");
        store.clock().advance_ms(TRANSACTION_LIFE_MS + 1);
        let mut tx = store.begin();
        tx.set_read_version(known);
        tx.set(b"b", Bytes::new());
        assert_eq!(
            block_on(tx.commit()),
            Err(CommitError::TooOld),
            "so does a version that somebody remembers"
        );
    }

    #[test]
    fn old_values_are_forgotten() {
        let store = Memory::new();
        for _ in 0..100 {
            write(&store, b"a").expect("commits");
            store.clock().advance_ms(1_000);
        }
        let state = store.lock();
        assert!(state.commits.len() <= 7, "{}", state.commits.len());
        assert!(state.keys.values().all(|values| values.len() <= 7));
    }

    /// (fault, what the commit says, whether it took effect at once, whether after everything late has landed)
    #[test]
    fn faults() {
        let unknown = |may_still_land| CommitError::Unknown { may_still_land };
        for (fault, error, at_once, at_last) in [
            (Fault::Conflict, CommitError::Conflict, false, false),
            (Fault::TooOld, CommitError::TooOld, false, false),
            (Fault::Unavailable, CommitError::Unavailable, false, false),
            (Fault::UnknownLanded, unknown(false), true, true),
            (Fault::UnknownLost, unknown(false), false, false),
            (Fault::UnknownLandsLater, unknown(true), false, true),
        ] {
            let store = Memory::new();
            store.set_faults(FaultPlan::script([None, Some(fault)]));
            assert!(write(&store, b"first").is_ok());
            assert_eq!(write(&store, b"a"), Err(error), "{fault:?}");
            assert_eq!(exists(&store, b"a"), at_once, "{fault:?}");
            store.land();
            assert_eq!(exists(&store, b"a"), at_last, "{fault:?}");
            assert!(write(&store, b"last").is_ok(), "the script has ended");
        }
    }

    #[test]
    fn a_late_commit_conflicts_as_any_other() {
        let store = Memory::new();
        store.set_faults(FaultPlan::script([Some(Fault::UnknownLandsLater)]));
        let mut late = store.begin();
        block_on(late.get(b"head")).expect("reads");
        late.set(b"head", Bytes::from_static(b"late"));
        assert_eq!(block_on(late.commit()), Err(CommitError::Unknown { may_still_land: true }));
        write(&store, b"head").expect("commits");
        assert_eq!(store.land(), 0);
    }

    #[test]
    fn the_same_seed_fails_the_same_way() {
        let outcomes = |seed| -> Vec<_> {
            let store = Memory::new();
            store.set_faults(FaultPlan::Seeded { seed, commits_per_mille: 500, reads_per_mille: 0 });
            (0..50).map(|_| write(&store, b"a")).collect()
        };
        assert_eq!(outcomes(1), outcomes(1));
        assert_ne!(outcomes(1), outcomes(2));
    }
}
