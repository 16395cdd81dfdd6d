//! The keys in effect: those of the configuration, and those that the app's backend publishes. Both may change while
//! the server runs.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::TokenKey;

/// How long a login waits for the keys that it has had fetched.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);

type Keys = Arc<[TokenKey]>;

/// Keys by where they come from.
#[derive(Debug)]
pub struct KeyRing {
    configured: RwLock<Keys>,
    published: RwLock<Keys>,
    /// Whether somebody who misses a key may have the published ones fetched.
    may_ask: AtomicBool,
    asked: Notify,
    /// Attempts to fetch that have ended.
    fetched: watch::Sender<u64>,
}

impl KeyRing {
    pub(super) fn new(configured: Vec<TokenKey>) -> Self {
        Self {
            configured: RwLock::new(configured.into()),
            published: RwLock::new(Keys::default()),
            may_ask: AtomicBool::new(false),
            asked: Notify::new(),
            fetched: watch::Sender::new(0),
        }
    }

    /// Puts the keys of the configuration's files in the place of those before.
    pub fn set_configured(&self, keys: Vec<TokenKey>) {
        *self.configured.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }

    /// Puts published keys in the place of those before.
    pub fn set_published(&self, keys: Vec<TokenKey>) {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }

    pub(super) fn all(&self) -> [Keys; 2] {
        [&self.configured, &self.published]
            .map(|keys| keys.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Somebody has a token whose key is not here: when the keys are published somewhere and were not fetched just
    /// now, has them fetched. To be awaited, for some seconds at most, before another try.
    pub fn ask_for_more(&self) -> Option<impl Future<Output = ()> + use<>> {
        // Before the question whether one may ask, so that the end of a fetch under way is not missed.
        let mut fetched = self.fetched.subscribe();
        if !self.may_ask.load(Ordering::SeqCst) {
            return None;
        }
        self.asked.notify_one();
        Some(async move {
            let _ = tokio::time::timeout(FETCH_PATIENCE, fetched.changed()).await;
        })
    }

    /// Has the published keys fetched, at the end of a pause if there is one.
    pub fn fetch_soon(&self) {
        self.asked.notify_one();
    }

    /// Whoever fetches waits for somebody who asks.
    pub(super) async fn asked(&self) {
        self.may_ask.store(true, Ordering::SeqCst);
        self.asked.notified().await;
    }

    /// A fetch has ended, well or not: nobody may ask for the next one until [`Self::asked`] waits again.
    pub(super) fn fetch_ended(&self) {
        self.may_ask.store(false, Ordering::SeqCst);
        self.fetched.send_modify(|count| *count += 1);
    }
}
