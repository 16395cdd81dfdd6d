//! A transaction on the embedded store. Reads run where they are called: a point read takes microseconds, and range
//! reads are bounded by the query.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::ready;

use super::shared::{Published, Request, Shared};
use crate::resolver::ReadSet;
use crate::writes::{Atomic, Row, WriteSet};
use crate::{BoxFuture, CommitError, RangeQuery, StoreError, Transaction, Version};

pub(super) struct EmbeddedTransaction {
    /// The snapshot of `read_version`; `None` when that is not the newest one.
    snapshot: Option<Arc<Published>>,
    read_version: Version,
    reads: Mutex<ReadSet>,
    writes: WriteSet,
    shared: Arc<Shared>,
}

impl EmbeddedTransaction {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let snapshot = shared.published();
        Self {
            read_version: snapshot.version,
            snapshot: Some(snapshot),
            reads: Mutex::default(),
            writes: WriteSet::default(),
            shared,
        }
    }

    fn reads(&self) -> MutexGuard<'_, ReadSet> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Result<&Published, StoreError> {
        self.snapshot.as_deref().ok_or(StoreError::TooOld)
    }

    fn read(&self, key: &[u8], conflict: bool) -> Result<Option<Bytes>, StoreError> {
        if let Some(own) = self.writes.own(key) {
            return Ok(own);
        }
        let stored = self.shared.get(self.snapshot()?, key)?;
        if conflict {
            self.reads().keys.push(Bytes::copy_from_slice(key));
        }
        Ok(self.writes.over(key, stored))
    }

    fn read_range(&self, query: &RangeQuery) -> Result<Vec<Row>, StoreError> {
        let snapshot = self.snapshot()?;
        let (rows, depends) = self.writes.range(query, |part| self.shared.scan(snapshot, part))?;
        if !query.snapshot {
            self.reads().ranges.push(depends);
        }
        Ok(rows)
    }
}

impl Transaction for EmbeddedTransaction {
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
        self.snapshot = self.snapshot.take().filter(|snapshot| snapshot.version == version);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Version, CommitError>> {
        let Self { snapshot, read_version, reads, writes, shared } = *self;
        // The engine keeps what snapshots can see: do not hold it while waiting.
        drop(snapshot);
        let reads = reads.into_inner().unwrap_or_else(PoisonError::into_inner);
        if writes.is_too_large(&reads) {
            return Box::pin(ready(Err(CommitError::TooLarge)));
        }
        if writes.is_empty() {
            let result = shared.health().map(|()| read_version);
            return Box::pin(ready(result.map_err(|error| CommitError::Failed(error.what))));
        }
        let (answer, result) = oneshot::channel();
        shared.submit(Request { read_version, reads, writes, answer });
        Box::pin(async move {
            match result.await {
                Ok(result) => result,
                // The committer is gone without an answer, which it is only after a panic.
                Err(oneshot::Canceled) => Err(CommitError::Unknown { may_still_land: true }),
            }
        })
    }
}
