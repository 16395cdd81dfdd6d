//! The memory model of the store, with time: reads and commits take some, and a process that ends meanwhile never learns
//! what became of its commit. In a cluster what is on its way to the store lands there, whatever becomes of the node.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tern_store::keys::window::WindowKey;
use tern_store::limits::TRANSACTION_LIFE_MS;
use tern_store::memory::{FaultPlan, Memory};
use tern_store::recent::Recent;
use tern_store::{BoxFuture, CommitError, Kv, RangeQuery, StoreError, Transaction, Version};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};

use crate::wrong::Wrong;
use tern_check::random::Random;

/// The store of a run: it outlives the nodes.
#[derive(Clone)]
pub struct SimStore {
    memory: Memory,
    start: Instant,
    state: Arc<Mutex<State>>,
    wrong: Option<Wrong>,
    /// This node's way to it.
    way: Arc<Mutex<Way>>,
    /// What this node has heard of its versions.
    recent: Arc<Recent>,
    /// Of a cluster: where commits are that nobody can take back.
    landing: Option<mpsc::Sender<Landing>>,
}

/// A node's way to the store.
#[derive(Clone, Copy)]
struct Way {
    /// It leads nowhere until then.
    cut_until: Instant,
    /// Nobody says so meanwhile: all takes as long as a transaction may.
    hangs: bool,
}

/// A commit that has been sent.
struct Landing {
    at: Instant,
    commit: Box<dyn Transaction>,
    answer: oneshot::Sender<Result<Version, CommitError>>,
}

struct State {
    random: Random,
    /// The longest that a commit takes.
    commit_ms: u64,
    fails_until: Instant,
    slow_until: Instant,
}

/// Commits on their way; further ones wait.
const LANDING_MAX: usize = 4_096;
/// On a good day.
const COMMIT_MS: u64 = 8;

impl SimStore {
    /// An empty one.
    pub fn new(random: Random, wrong: Option<Wrong>) -> Self {
        let start = Instant::now();
        let state = State { random, commit_ms: COMMIT_MS, fails_until: start, slow_until: start };
        let way = Way { cut_until: start, hangs: false };
        let (state, way) = (Arc::new(Mutex::new(state)), Arc::new(Mutex::new(way)));
        Self { memory: Memory::new(), start, state, wrong, way, recent: Arc::default(), landing: None }
    }

    /// The same store, for the nodes of a cluster: what one has sent lands, also when the node stands still or is no more.
    pub fn for_cluster(&self) -> Self {
        let (landing, mut sent) = mpsc::channel::<Landing>(LANDING_MAX);
        self.memory.lands_when_told();
        let store = self.clone();
        spawn_local(async move {
            while let Some(Landing { at, commit, answer }) = sent.recv().await {
                let store = store.clone();
                spawn_local(async move {
                    sleep_until(at).await;
                    store.keep_time();
                    // Whoever asked may be gone.
                    let _ = answer.send(commit.commit().await);
                });
            }
        });
        Self { landing: Some(landing), ..self.clone() }
    }

    /// The same store, as another node reaches it.
    pub fn for_node(&self) -> Self {
        let way = Way { cut_until: self.start, hangs: false };
        Self { way: Arc::new(Mutex::new(way)), recent: Arc::default(), ..self.clone() }
    }

    /// This node does not reach it for so long, and is told so at once or, when it `hangs`, at the end of a transaction's life.
    pub fn cut(&self, time: Duration, hangs: bool) {
        let cut_until = Instant::now() + time;
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Way { cut_until, hangs };
    }

    fn way(&self) -> Way {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self) -> bool {
        self.way().cut_until > Instant::now()
    }

    /// Goes the way there or back; `false`: it leads nowhere.
    async fn go(&self) -> bool {
        let Way { cut_until, hangs } = self.way();
        if hangs {
            let patience = Instant::now() + Duration::from_millis(TRANSACTION_LIFE_MS);
            sleep_until(cut_until.min(patience)).await;
            self.keep_time();
        }
        !self.is_cut()
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
        if self.store.go().await { Ok(()) } else { Err(StoreError::Unavailable) }
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
            let Some(landing) = &store.landing else {
                sleep(before).await;
                store.keep_time();
                let result = inner.commit().await;
                sleep(after).await;
                return store.told(result);
            };
            sleep(before / 2).await;
            if !store.go().await {
                if store.wrong == Some(Wrong::AcksWhileCutOff) {
                    return inner.read_version().await.map_err(CommitError::from);
                }
                return Err(CommitError::Unavailable);
            }
            let (answer, result) = oneshot::channel();
            let at = Instant::now() + before / 2;
            // The store outlives the nodes; it has always room.
            let unknown = Err(CommitError::Unknown { may_still_land: true });
            if landing.send(Landing { at, commit: inner, answer }).await.is_err() {
                return unknown;
            }
            let result = result.await.unwrap_or(unknown.clone());
            sleep(after).await;
            // Without an answer nobody knows.
            if store.go().await { store.told(result) } else { unknown }
        })
    }
}

impl SimStore {
    /// What a server is told of a commit.
    fn told(&self, result: Result<Version, CommitError>) -> Result<Version, CommitError> {
        match result {
            Err(CommitError::Unknown { .. }) if self.wrong == Some(Wrong::CallsUnknownFailed) => {
                Err(CommitError::Unavailable)
            }
            Err(CommitError::Conflict) if self.wrong == Some(Wrong::AcksConflicts) => {
                Ok(Version(self.start.elapsed().as_millis() as u64))
            }
            result => {
                result.iter().for_each(|version| self.recent.hear(*version, self.start.elapsed()));
                result
            }
        }
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
