//! The memory model of the store, with time: reads and commits take some, and a process that ends meanwhile never learns
//! what became of its commit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tern_store::keys::window::WindowKey;
use tern_store::memory::{FaultPlan, Memory};
use tern_store::recent::Recent;
use tern_store::{BoxFuture, CommitError, Kv, RangeQuery, StoreError, Transaction, Version};
use tokio::time::{Instant, sleep};

use crate::wrong::Wrong;
use tern_check::random::Random;

/// The store of a run: it outlives the nodes.
#[derive(Clone)]
pub struct SimStore {
    memory: Memory,
    start: Instant,
    state: Arc<Mutex<State>>,
    wrong: Option<Wrong>,
    /// Until when this node does not reach it.
    cut_until: Arc<Mutex<Instant>>,
    /// What this node has heard of its versions.
    recent: Arc<Recent>,
}

struct State {
    random: Random,
    /// The longest that a commit takes.
    commit_ms: u64,
    fails_until: Instant,
    slow_until: Instant,
}

/// On a good day.
const COMMIT_MS: u64 = 8;

impl SimStore {
    /// An empty one.
    pub fn new(random: Random, wrong: Option<Wrong>) -> Self {
        let start = Instant::now();
        let state = State { random, commit_ms: COMMIT_MS, fails_until: start, slow_until: start };
        let (state, cut_until) = (Arc::new(Mutex::new(state)), Arc::new(Mutex::new(start)));
        Self { memory: Memory::new(), start, state, wrong, cut_until, recent: Arc::default() }
    }

    /// The same store, as another node reaches it.
    pub fn for_node(&self) -> Self {
        Self { cut_until: Arc::new(Mutex::new(self.start)), recent: Arc::default(), ..self.clone() }
    }

    /// This node does not reach it for so long.
    pub fn cut(&self, time: Duration) {
        *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + time;
    }

    fn is_cut(&self) -> bool {
        *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner) > Instant::now()
    }

    /// Commits that may still land try it.
    pub fn land(&self) {
        self.keep_time();
        self.memory.land();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For this long so many commits and reads in a thousand fail, unless others are to fail meanwhile.
    pub fn fail(&self, commits_per_mille: u16, reads_per_mille: u16, time: Duration) {
        let mut state = self.lock();
        let seed = state.random.any();
        state.fails_until = Instant::now() + time;
        self.memory.set_faults(FaultPlan::Seeded { seed, commits_per_mille, reads_per_mille });
    }

    /// For this long a commit takes so much at most, unless it is to take another time meanwhile.
    pub fn slow(&self, commit_ms: u64, time: Duration) {
        let mut state = self.lock();
        (state.commit_ms, state.slow_until) = (commit_ms, Instant::now() + time);
    }

    /// What has lasted its time ends: one fault does not end another's.
    pub fn recover(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if now >= state.slow_until {
            state.commit_ms = COMMIT_MS;
        }
        if now >= state.fails_until {
            drop(state);
            self.end_faults();
        }
    }

    /// Everything works from now on.
    pub fn heal(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        (state.fails_until, state.slow_until) = (now, now);
        drop(state);
        self.recover();
    }

    /// Commits that may still land try it.
    fn end_faults(&self) {
        self.memory.set_faults(FaultPlan::None);
        self.keep_time();
        self.memory.land();
    }

    /// Whether a commit may still land.
    pub fn is_unsettled(&self) -> bool {
        self.memory.counts().late > 0
    }

    fn keep_time(&self) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let clock = self.memory.clock();
        clock.advance_ms(now_ms - clock.now_ms());
    }

    /// A read, or a part of a commit, takes this long.
    fn delay(&self, max_ms: u64) -> Duration {
        Duration::from_millis(self.lock().random.below(max_ms + 1))
    }

    fn read_delay(&self) -> Option<Duration> {
        let mut state = self.lock();
        let max = state.commit_ms;
        state.random.chance(100).then(|| Duration::from_millis(state.random.below(max + 1)))
    }
}

impl Kv for SimStore {
    fn begin(&self) -> Box<dyn Transaction> {
        self.keep_time();
        Box::new(SimTransaction { inner: self.memory.begin(), store: self.clone() })
    }

    /// Reads the past, as FoundationDB's adapter does.
    fn begin_recent(&self) -> Box<dyn Transaction> {
        let mut transaction = self.begin();
        if let Some(version) = self.recent.get(self.start.elapsed()) {
            transaction.set_read_version(version);
        }
        transaction
    }

    fn cleared_keys_max(&self) -> u64 {
        self.memory.cleared_keys_max()
    }
}

struct SimTransaction {
    inner: Box<dyn Transaction>,
    store: SimStore,
}

impl SimTransaction {
    async fn wait(&self) -> Result<(), StoreError> {
        if let Some(delay) = self.store.read_delay() {
            sleep(delay).await;
            self.store.keep_time();
        }
        if self.store.is_cut() { Err(StoreError::Unavailable) } else { Ok(()) }
    }
}

impl Transaction for SimTransaction {
    fn read_version(&self) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(async {
            let version = self.inner.read_version().await?;
            self.store.recent.hear(version, self.store.start.elapsed());
            Ok(version)
        })
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            self.wait().await?;
            self.inner.get(key).await
        })
    }

    fn get_snapshot<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            self.wait().await?;
            self.inner.get_snapshot(key).await
        })
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(async move {
            self.wait().await?;
            self.inner.range(query).await
        })
    }

    fn set(&mut self, key: &[u8], value: Bytes) {
        if self.store.wrong == Some(Wrong::ForgetsWindows) && key.first() == Some(&WindowKey::PREFIX) {
            return;
        }
        self.inner.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.inner.clear(key);
    }

    fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        self.inner.clear_range(begin, end);
    }

    fn atomic_max(&mut self, key: &[u8], value: u64) {
        self.inner.atomic_max(key, value);
    }

    fn atomic_add(&mut self, key: &[u8], value: u64) {
        self.inner.atomic_add(key, value);
    }

    fn add_read_conflict(&mut self, key: &[u8]) {
        self.inner.add_read_conflict(key);
    }

    fn set_read_version(&mut self, version: Version) {
        self.inner.set_read_version(version);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Version, CommitError>> {
        let Self { inner, store } = *self;
        Box::pin(async move {
            let commit_ms = store.lock().commit_ms;
            let (before, after) = (store.delay(commit_ms), store.delay(commit_ms / 2));
            if store.wrong == Some(Wrong::AcksBeforeItIsDurable) {
                let version = inner.read_version().await.map_err(|_| CommitError::Unavailable)?;
                // Whoever ends the process meanwhile takes it along.
                let late = store.clone();
                tokio::task::spawn_local(async move {
                    sleep(before * 100).await;
                    late.keep_time();
                    let _ = inner.commit().await;
                });
                return Ok(version);
            }
            sleep(before).await;
            if store.is_cut() {
                return Err(CommitError::Unavailable);
            }
            store.keep_time();
            let result = inner.commit().await;
            sleep(after).await;
            if store.is_cut() {
                // The answer does not get here.
                return Err(CommitError::Unknown { may_still_land: false });
            }
            match result {
                Err(CommitError::Unknown { .. }) if store.wrong == Some(Wrong::CallsUnknownFailed) => {
                    Err(CommitError::Unavailable)
                }
                result => {
                    result.iter().for_each(|version| store.recent.hear(*version, store.start.elapsed()));
                    result
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_fault_does_not_end_another() {
        let store = SimStore::new(Random::new(1), None);
        let fails = async || store.begin().get(b"k").await.is_err();
        let slow_ms = || store.lock().commit_ms;
        store.fail(0, 1_000, Duration::from_secs(10));
        store.slow(500, Duration::from_secs(1));
        sleep(Duration::from_secs(1)).await;
        store.recover();
        assert_eq!((fails().await, slow_ms()), (true, COMMIT_MS));
        // A longer one takes the place of the first, whose end is not its own.
        sleep(Duration::from_secs(8)).await;
        store.fail(0, 1_000, Duration::from_secs(10));
        store.slow(500, Duration::from_secs(20));
        sleep(Duration::from_secs(1)).await;
        store.recover();
        assert_eq!((fails().await, slow_ms()), (true, 500));
        sleep(Duration::from_secs(9)).await;
        store.recover();
        assert_eq!((fails().await, slow_ms()), (false, 500));
        store.heal();
        assert_eq!((fails().await, slow_ms()), (false, COMMIT_MS));
    }
}
