//! Reads what the parts of the server have counted, and judges whether it is well.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tern_core::cluster::Reach;
use tern_core::routing::ShardId;
use tern_protocol::error::ErrorCode;
use tern_store::histogram::{Histogram, Snapshot};
use tokio::runtime::RuntimeMetrics;
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use super::reloads::Reloads;
use super::shard::{
    Asked, By, Committed, Count, Cut, Dropped, Label, Loaded, Login, Sent, ShardMetrics, Transport,
};
use super::text::Page;
use super::{catalog, cluster, process};
use crate::mailbox::WAITING_BYTES_MAX;
use crate::shard::Node;
use crate::shutdown::Phase;
use crate::store::Local;
use crate::transport::quic::QuicStats;
use crate::transport::tcp::TcpStats;

const MICROS_PER_SECOND: f64 = 1e6;
/// A shard that has not looked at its deadlines for so long hangs: it does so every 50 ms.
const SHARD_HANGS: Duration = Duration::from_secs(10);
/// A group that takes longer to write is no hiccup of the disk.
const STORE_STALLS: Duration = Duration::from_secs(3);

/// How long the disk may take to say how full it is.
const DISK_PATIENCE: Duration = Duration::from_millis(500);

/// What the disk has said of itself. It is asked by one thread at a time, so one that hangs costs no more than that.
pub struct Disk {
    /// Bytes of the store's files, and bytes free.
    known: Mutex<(Option<u64>, Option<u64>)>,
    turn: Arc<Semaphore>,
}

impl Default for Disk {
    fn default() -> Self {
        Self { known: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Disk {
    /// Ready when nobody asks the disk, and so holds the store.
    pub async fn at_rest(&self) {
        // Never closed.
        let _ = self.turn.acquire().await;
    }
}

/// What of a shard is not in its [`ShardMetrics`].
pub struct ShardSources {
    /// Which.
    pub id: ShardId,
    /// Of its TCP listeners.
    pub tcp: Vec<Arc<TcpStats>>,
    /// Of its QUIC endpoints.
    pub quic: Vec<Arc<QuicStats>>,
    /// Of its thread.
    pub runtime: RuntimeMetrics,
}

/// Everything that is read.
pub struct Collector {
    /// What the shards share.
    pub node: Arc<Node>,
    /// The store, if it is on this machine.
    pub local: Option<Local>,
    /// How far the end has come.
    pub phase: watch::Receiver<Phase>,
    /// In order.
    pub shards: Vec<ShardSources>,
    /// What was read again.
    pub reloads: Arc<Reloads>,
    /// What the disk has said of itself last.
    pub disk: Arc<Disk>,
}

/// Of all listeners of a shard.
fn total<T>(listeners: &[Arc<T>], counter: impl Fn(&T) -> &AtomicU64) -> u64 {
    listeners.iter().map(|stats| counter(stats).load(Ordering::Relaxed)).sum()
}

/// An error that names the first of these shards that has not ticked for too long.
fn hanging(mut ages: impl Iterator<Item = (ShardId, Duration)>) -> Result<(), String> {
    match ages.find(|(_, age)| *age > SHARD_HANGS) {
        Some((shard, age)) => Err(format!("shard {} has hung for {} s", shard.0, age.as_secs())),
        None => Ok(()),
    }
}

impl Collector {
    /// Whether the process does its work.
    ///
    /// # Errors
    /// Why not; a restart may help.
    pub fn health(&self) -> Result<(), String> {
        if let Some(Local { store, .. }) = &self.local {
            store.health().map_err(|error| error.to_string())?;
        }
        hanging(self.shards.iter().map(|shard| (shard.id, self.tick_age(shard.id))))
    }

    /// Whether clients should come here.
    ///
    /// # Errors
    /// Why not.
    pub fn readiness(&self) -> Result<(), String> {
        self.health()?;
        if self.is_draining() {
            return Err("the server is stopping".to_owned());
        }
        if self.node.view.borrow().reach == Reach::CutOff {
            return Err("this node of a cluster does not reach the store".to_owned());
        }
        match self.local.as_ref().and_then(|local| local.store.metrics().writing_for) {
            Some(stall) if stall > STORE_STALLS => {
                Err(format!("the disk has not finished a write for {} s", stall.as_secs()))
            }
            _ => Ok(()),
        }
    }

    fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    fn tick_age(&self, shard: ShardId) -> Duration {
        let ticked = self.node.metrics(shard).ticked_ms.get();
        Duration::from_millis(self.node.clock.now().mono.0.saturating_sub(ticked))
    }

    /// Asks the disk for what [`Self::page`] says of it. One that hangs is not waited for: the page says what was known
    /// before, and is needed then more than ever.
    pub async fn ask_disk(&self) {
        let Some(Local { store, directory }) = self.local.clone() else { return };
        let Ok(turn) = self.disk.turn.clone().try_acquire_owned() else { return };
        let disk = self.disk.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let bytes =
                store.disk_bytes().map_err(|error| warn!(%error, "the size of the store is not known"));
            let free = rustix::fs::statvfs(&directory)
                .map(|file_system| file_system.f_bavail * file_system.f_frsize)
                .map_err(|error| warn!(%error, "the free space of the store's file system is not known"));
            *disk.known.lock().unwrap_or_else(PoisonError::into_inner) = (bytes.ok(), free.ok());
            // Before the turn, which says that nothing is held any more.
            drop(store);
            drop(turn);
        });
        let _ = tokio::time::timeout(DISK_PATIENCE, asked).await;
    }

    /// The page of all metrics. Waits for nothing.
    pub fn page(&self) -> String {
        let mut page = Page::default();
        self.process(&mut page);
        self.connections(&mut page);
        self.requests(&mut page);
        self.owners(&mut page);
        self.queues(&mut page);
        cluster::fill(self, &mut page);
        if let Some(local) = &self.local {
            self.store(&mut page, local);
        }
        page.finish()
    }

    /// For each shard: its number as a label, what it counts, the rest.
    fn each(&self) -> impl Iterator<Item = (String, &ShardMetrics, &ShardSources)> {
        self.shards.iter().map(|shard| (shard.id.0.to_string(), self.node.metrics(shard.id), shard))
    }

    fn sum(&self, of: impl Fn(&ShardMetrics) -> &Count) -> u64 {
        self.each().map(|(_, metrics, _)| of(metrics).get()).sum()
    }

    fn merged(&self, of: impl Fn(&ShardMetrics) -> &Histogram) -> Snapshot {
        self.each().fold(Snapshot::default(), |sum, (_, metrics, _)| sum.plus(&of(metrics).snapshot()))
    }

    /// A family with one number for each shard.
    pub(super) fn by_shard(
        &self,
        page: &mut Page,
        family: &'static catalog::Family,
        of: impl Fn(&ShardMetrics) -> &Count,
    ) {
        page.family(family, |samples| {
            self.each().for_each(|(shard, metrics, _)| samples.value(&[&shard], of(metrics).get()));
        });
    }

    /// A family with one number for each value of a label, of all shards together.
    fn by_label<L: Label, const N: usize>(
        &self,
        page: &mut Page,
        family: &'static catalog::Family,
        of: impl Fn(&ShardMetrics) -> &By<L, Count, N>,
    ) {
        page.family(family, |samples| {
            for label in L::ALL {
                samples.value(&[label.label()], self.sum(|metrics| of(metrics).of(*label)));
            }
        });
    }

    fn process(&self, page: &mut Page) {
        page.family(&catalog::BUILD_INFO, |samples| samples.value(&[env!("CARGO_PKG_VERSION")], 1));
        page.family(&catalog::DRAINING, |samples| samples.value(&[], u64::from(self.is_draining())));
        page.family(&catalog::RELOADS, |samples| {
            self.reloads.all().for_each(|(labels, count)| samples.value(&labels, count));
        });
        let Some(usage) = process::usage() else { return };
        page.family(&catalog::RESIDENT_MEMORY, |samples| samples.value(&[], usage.resident_bytes));
        page.family(&catalog::CPU_SECONDS, |samples| samples.value(&[], usage.cpu_seconds));
        page.family(&catalog::OPEN_FILES, |samples| samples.value(&[], usage.open_files));
        page.family(&catalog::MAX_FILES, |samples| {
            samples.value(&[], usage.max_files.map_or(f64::INFINITY, |max| max as f64));
        });
        page.family(&catalog::START_TIME, |samples| samples.value(&[], usage.started));
    }

    fn connections(&self, page: &mut Page) {
        page.family(&catalog::CONNECTIONS, |samples| {
            for (shard, metrics, _) in self.each() {
                for transport in Transport::ALL {
                    samples.value(&[&shard, transport.label()], metrics.connections.of(*transport).get());
                }
            }
        });
        page.family(&catalog::SESSIONS, |samples| {
            for (shard, _, sources) in self.each() {
                samples.value(&[&shard], self.node.online(sources.id).load(Ordering::Relaxed) as u64);
            }
        });
        page.family(&catalog::HANDSHAKES, |samples| {
            for (shard, _, ShardSources { tcp, quic, .. }) in self.each() {
                let results: [(Transport, &str, u64); 9] = [
                    (Transport::Tcp, "accepted", total(tcp, |tcp| &tcp.accepted)),
                    (Transport::Tcp, "failed", total(tcp, |tcp| &tcp.failed)),
                    (Transport::Tcp, "timed_out", total(tcp, |tcp| &tcp.timed_out)),
                    (Transport::Tcp, "refused", total(tcp, |tcp| &tcp.refused)),
                    (Transport::Quic, "accepted", total(quic, |quic| &quic.accepted)),
                    (Transport::Quic, "failed", total(quic, |quic| &quic.failed)),
                    (Transport::Quic, "timed_out", total(quic, |quic| &quic.timed_out)),
                    (Transport::Quic, "retried", total(quic, |quic| &quic.retried)),
                    (Transport::Quic, "refused", total(quic, |quic| &quic.refused)),
                ];
                for (transport, result, count) in results {
                    samples.value(&[&shard, transport.label(), result], count);
                }
            }
        });
        page.family(&catalog::HANDSHAKES_PENDING, |samples| {
            for (shard, _, ShardSources { tcp, quic, .. }) in self.each() {
                // Ends first: what ends between two readings counts as pending, and none is missing.
                let ended = [
                    total(tcp, |tcp| &tcp.accepted)
                        + total(tcp, |tcp| &tcp.failed)
                        + total(tcp, |tcp| &tcp.timed_out)
                        + total(tcp, |tcp| &tcp.refused),
                    total(quic, |quic| &quic.accepted)
                        + total(quic, |quic| &quic.failed)
                        + total(quic, |quic| &quic.timed_out),
                ];
                let begun = [total(tcp, |tcp| &tcp.taken), total(quic, |quic| &quic.begun)];
                for (transport, (begun, ended)) in Transport::ALL.iter().zip(begun.into_iter().zip(ended)) {
                    samples.value(&[&shard, transport.label()], begun.saturating_sub(ended));
                }
            }
        });
        page.family(&catalog::ACCEPT_PAUSES, |samples| {
            for (shard, _, sources) in self.each() {
                samples.value(&[&shard], total(&sources.tcp, |tcp| &tcp.pauses));
            }
        });
        self.by_label::<Login, _>(page, &catalog::LOGINS, |metrics| &metrics.logins);
        self.by_label::<Cut, _>(page, &catalog::CUTS, |metrics| &metrics.cuts);
        self.by_shard(page, &catalog::READ_BYTES, |metrics| &metrics.read_bytes);
        self.by_shard(page, &catalog::WRITTEN_BYTES, |metrics| &metrics.written_bytes);
    }

    fn requests(&self, page: &mut Page) {
        page.family(&catalog::REQUESTS, |samples| {
            for (shard, metrics, _) in self.each() {
                for kind in Asked::ALL {
                    samples.value(&[&shard, kind.label()], metrics.requests.of(*kind).get());
                }
            }
        });
        page.family(&catalog::REQUEST_SECONDS, |samples| {
            // Heartbeats and logins are answered on the spot.
            for kind in Asked::ALL.iter().filter(|kind| !matches!(kind, Asked::Heartbeat | Asked::Login)) {
                let values = self.merged(|metrics| metrics.request_micros.of(*kind));
                samples.histogram(&[kind.label()], &values, MICROS_PER_SECOND);
            }
        });
        page.family(&catalog::SENDS, |samples| {
            for (shard, metrics, _) in self.each() {
                for result in Sent::ALL {
                    samples.value(&[&shard, result.label()], metrics.sends.of(*result).get());
                }
            }
        });
        self.by_label::<ErrorCode, _>(page, &catalog::ERRORS, |metrics| &metrics.errors);
        self.by_shard(page, &catalog::READ_PAUSES, |metrics| &metrics.read_pauses);
        self.by_shard(page, &catalog::PUSHES, |metrics| &metrics.pushes);
        page.family(&catalog::PUSH_SECONDS, |samples| {
            samples.histogram(&[], &self.merged(|metrics| &metrics.push_micros), MICROS_PER_SECOND);
        });
        self.by_shard(page, &catalog::RECEIPTS, |metrics| &metrics.receipts);
        self.by_label::<Dropped, _>(page, &catalog::DROPS, |metrics| &metrics.drops);
    }

    fn owners(&self, page: &mut Page) {
        self.by_shard(page, &catalog::CONVERSATIONS, |metrics| &metrics.conversations);
        self.by_label::<Loaded, _>(page, &catalog::LOADS, |metrics| &metrics.loads);
        self.by_label::<Committed, _>(page, &catalog::COMMITS, |metrics| &metrics.commits);
        page.family(&catalog::COMMIT_ENTRIES, |samples| {
            samples.histogram(&[], &self.merged(|metrics| &metrics.commit_entries), 1.0);
        });
        page.family(&catalog::COMMIT_SECONDS, |samples| {
            samples.histogram(&[], &self.merged(|metrics| &metrics.commit_micros), MICROS_PER_SECOND);
        });
    }

    fn queues(&self, page: &mut Page) {
        self.by_shard(page, &catalog::WAITING_SENDS, |metrics| &metrics.waiting_sends);
        page.family(&catalog::WAITING_BYTES, |samples| samples.value(&[], self.node.waiting_bytes() as u64));
        page.family(&catalog::WAITING_BYTES_MAX, |samples| samples.value(&[], WAITING_BYTES_MAX as u64));
        page.family(&catalog::MAILBOX_MESSAGES, |samples| {
            for (shard, _, sources) in self.each() {
                for (lane, taken, _) in self.node.mailbox(sources.id).lanes() {
                    samples.value(&[&shard, lane], taken as u64);
                }
            }
        });
        page.family(&catalog::MAILBOX_CAPACITY, |samples| {
            for (lane, _, capacity) in self.node.mailbox(ShardId(0)).lanes() {
                samples.value(&[lane], capacity as u64);
            }
        });
        page.family(&catalog::SHARD_BUSY, |samples| {
            for (shard, _, sources) in self.each() {
                samples.value(&[&shard], sources.runtime.worker_total_busy_duration(0).as_secs_f64());
            }
        });
        page.family(&catalog::SHARD_TICK_AGE, |samples| {
            for (shard, _, sources) in self.each() {
                samples.value(&[&shard], self.tick_age(sources.id).as_secs_f64());
            }
        });
        page.family(&catalog::QUIC_FORWARDED, |samples| {
            for (shard, _, sources) in self.each() {
                let forward = &sources.quic;
                samples.value(&[&shard, "handed_over"], total(forward, |quic| &quic.forward.forwarded));
                samples.value(&[&shard, "dropped"], total(forward, |quic| &quic.forward.dropped));
            }
        });
    }

    fn store(&self, page: &mut Page, Local { store, .. }: &Local) {
        let metrics = store.metrics();
        page.family(&catalog::STORE_COMMITS, |samples| {
            samples.value(&["committed"], metrics.commits);
            samples.value(&["conflict"], metrics.conflicts);
            samples.value(&["too_old"], metrics.too_old);
            samples.value(&["overloaded"], metrics.overloaded);
        });
        page.family(&catalog::STORE_GROUP_COMMITS, |samples| {
            samples.histogram(&[], &metrics.group_sizes, 1.0)
        });
        page.family(&catalog::STORE_WRITE_SECONDS, |samples| {
            samples.histogram(&[], &metrics.write_micros, MICROS_PER_SECOND);
        });
        let stall = metrics.writing_for.unwrap_or_default();
        page.family(&catalog::STORE_STALL, |samples| samples.value(&[], stall.as_secs_f64()));
        page.family(&catalog::STORE_WRITTEN_BYTES, |samples| samples.value(&[], metrics.bytes));
        page.family(&catalog::STORE_QUEUED, |samples| samples.value(&[], metrics.queued));
        page.family(&catalog::STORE_QUEUED_BYTES, |samples| samples.value(&[], metrics.queued_bytes));
        let (bytes, free) = *self.disk.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = bytes {
            page.family(&catalog::STORE_DISK_BYTES, |samples| samples.value(&[], bytes));
        }
        if let Some(free) = free {
            page.family(&catalog::STORE_FREE_BYTES, |samples| samples.value(&[], free));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_does_not_tick_hangs() {
        let of = |seconds: [u64; 2]| {
            hanging((0..2).map(|n| (ShardId(n), Duration::from_secs(seconds[usize::from(n)]))))
        };
        assert_eq!(of([0, 10]), Ok(()));
        assert_eq!(of([0, 11]), Err("shard 1 has hung for 11 s".to_owned()));
    }
}
