//! What is known of the link to another node, for whoever looks: the keeper, the shards, the page of metrics.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tern_core::routing::ShardId;
use tern_core::time::MonoMillis;

use super::Delivery;
use crate::mailbox::{Budget, Charge, News};

/// Bytes of news that wait for a node, in its lane or for its word that it has them; more become heads.
const NEWS_BYTES_MAX: usize = 16 << 20;
/// There is no such time.
const NEVER: u64 = u64::MAX;

/// News on their way to another node, and what they hold of its room.
#[derive(Debug)]
pub struct Waiting {
    /// What, and for whom.
    pub delivery: Delivery,
    /// Since when they wait.
    pub since: MonoMillis,
    _charge: Charge,
}

/// Numbers of one link; each is written in one place, and read anywhere.
#[derive(Debug)]
pub struct LinkState {
    version: AtomicU8,
    moved: AtomicU64,
    round_trip: AtomicU64,
    beaten: AtomicU64,
    oldest: AtomicU64,
    asked: AtomicU64,
    calls_failed: AtomicU64,
    news: Budget,
    news_waiting: AtomicU64,
    behind: Box<[AtomicU64]>,
}

impl LinkState {
    /// Of a node to which there is no link yet. `shards`: how many this node has.
    pub fn new(now: MonoMillis, shards: usize) -> Self {
        Self {
            version: AtomicU8::new(0),
            moved: AtomicU64::new(now.0),
            round_trip: AtomicU64::new(NEVER),
            beaten: AtomicU64::new(NEVER),
            oldest: AtomicU64::new(NEVER),
            asked: AtomicU64::new(0),
            calls_failed: AtomicU64::new(0),
            news: Budget::new(NEWS_BYTES_MAX),
            news_waiting: AtomicU64::new(0),
            behind: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// There is a link, which speaks this version.
    pub(super) fn up(&self, now: MonoMillis, version: u8) {
        self.moved.store(now.0, Ordering::Relaxed);
        self.version.store(version, Ordering::Relaxed);
    }

    /// There is none any more.
    pub(super) fn down(&self, now: MonoMillis) {
        self.version.store(0, Ordering::Relaxed);
        self.moved.store(now.0, Ordering::Relaxed);
        for unknown in [&self.round_trip, &self.beaten, &self.oldest] {
            unknown.store(NEVER, Ordering::Relaxed);
        }
        self.asked.store(0, Ordering::Relaxed);
        self.news_waiting.store(0, Ordering::Relaxed);
    }

    /// The version that is spoken; `None`: there is no link.
    pub fn version(&self) -> Option<u8> {
        Some(self.version.load(Ordering::Relaxed)).filter(|version| *version > 0)
    }

    /// Since when there is a link, or none.
    pub fn moved(&self) -> MonoMillis {
        MonoMillis(self.moved.load(Ordering::Relaxed))
    }

    pub(super) fn set_round_trip(&self, micros: u64) {
        self.round_trip.store(micros, Ordering::Relaxed);
    }

    /// Microseconds there and back at the last pulse; `None`: not known yet, or the version has none.
    pub fn round_trip(&self) -> Option<u64> {
        known(&self.round_trip)
    }

    pub(super) fn set_beaten(&self, at: MonoMillis) {
        self.beaten.store(at.0, Ordering::Relaxed);
    }

    /// When the other node had begun the last beat of which it has told, by this node's clock.
    pub fn beaten(&self) -> Option<MonoMillis> {
        known(&self.beaten).map(MonoMillis)
    }

    pub(super) fn set_asked(&self, count: usize) {
        self.asked.store(count as u64, Ordering::Relaxed);
    }

    /// Requests that the other node has not answered yet.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn call_failed(&self) {
        self.calls_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that made no link.
    pub fn calls_failed(&self) -> u64 {
        self.calls_failed.load(Ordering::Relaxed)
    }

    /// Takes room for news; they are given back when too much waits already.
    pub(super) fn waiting(&self, now: MonoMillis, delivery: Delivery) -> Result<Waiting, Delivery> {
        match self.news.charge(delivery.news.bytes()) {
            Some(_charge) => Ok(Waiting { delivery, since: now, _charge }),
            None => Err(delivery),
        }
    }

    pub(super) fn set_news(&self, count: usize, oldest: Option<MonoMillis>) {
        self.news_waiting.store(count as u64, Ordering::Relaxed);
        self.oldest.store(oldest.map_or(NEVER, |at| at.0), Ordering::Relaxed);
    }

    /// News that the other node has not taken over yet: how many, of how many bytes, and since when the oldest waits.
    pub fn news(&self) -> (u64, usize, Option<MonoMillis>) {
        let count = self.news_waiting.load(Ordering::Relaxed);
        (count, self.news.taken(), known(&self.oldest).map(MonoMillis))
    }

    /// So many heads of a shard wait to be told.
    pub(crate) fn set_behind(&self, shard: ShardId, heads: usize) {
        self.behind[shard.get()].store(heads as u64, Ordering::Relaxed);
    }

    /// Heads that wait to be told.
    pub fn behind(&self) -> u64 {
        self.behind.iter().map(|heads| heads.load(Ordering::Relaxed)).sum()
    }
}

fn known(number: &AtomicU64) -> Option<u64> {
    Some(number.load(Ordering::Relaxed)).filter(|number| *number != NEVER)
}

impl News {
    /// What they hold, as if nobody else held it.
    fn bytes(&self) -> usize {
        const ID: usize = size_of::<tern_protocol::ids::UserId>();
        match self {
            Self::Publish(publication, _) => {
                let frames: usize = publication.frames.iter().map(|(_, frame)| frame.len()).sum();
                frames + publication.audience.len() * ID
            }
            Self::HeadMoved { audience, .. } => audience.len() * ID,
            Self::Notify(frames) => frames.iter().map(|(_, frame)| ID + frame.len()).sum(),
        }
    }
}
