//! A transaction: FoundationDB's own, with our limits.

use bytes::Bytes;
use foundationdb::options::{ConflictRangeType, MutationType, StreamingMode};
use foundationdb::{FdbError, FdbResult, RangeOption};
use tern_store::keys::after_key;
use tern_store::limits::Size;
use tern_store::{BoxFuture, CommitError, RangeQuery, SYSTEM_SPACE, StoreError, Transaction, Version};

use crate::database::Fdb;
use crate::errors;

pub(crate) struct FdbTransaction {
    store: Fdb,
    inner: foundationdb::FdbResult<foundationdb::Transaction>,
    /// The read version that it was given.
    given: Option<Version>,
    size: Size,
    has_writes: bool,
    /// What the client library has refused.
    refused: FdbResult<()>,
}

impl FdbTransaction {
    pub(crate) fn new(store: Fdb, inner: FdbResult<foundationdb::Transaction>) -> Self {
        Self { store, inner, given: None, size: Size::default(), has_writes: false, refused: Ok(()) }
    }

    /// FoundationDB's transaction, if this one can read at the version that it was given.
    fn inner(&self) -> Result<&foundationdb::Transaction, StoreError> {
        match self.given {
            Some(Version(0)) => return Err(StoreError::TooOld),
            Some(Version(version)) if i64::try_from(version).is_err() => return Err(StoreError::Unavailable),
            _ => {}
        }
        self.inner.as_ref().map_err(|error| read_error(*error))
    }

    async fn version(&self) -> Result<Version, StoreError> {
        let inner = self.inner()?;
        match self.given {
            Some(version) => Ok(version),
            None => Ok(self.store.learn(inner.get_read_version().await.map_err(read_error)?)),
        }
    }

    /// A read has failed: not all may be well with the version.
    fn failed(&self, error: FdbError) -> StoreError {
        self.given.into_iter().for_each(|version| self.store.doubt(version));
        read_error(error)
    }

    fn read(&self, key: &[u8], snapshot: bool) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        // Asked for now, so that reads that are waited for one after the other are under way at once.
        let value = self.inner().map(|inner| inner.get(&self.store.key(key), snapshot));
        Box::pin(async move {
            let value = value?.await.map_err(|error| self.failed(error))?;
            Ok(value.map(|value| Bytes::copy_from_slice(&value)))
        })
    }

    async fn read_range(&self, query: RangeQuery) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let end = query.end.min(Bytes::from_static(SYSTEM_SPACE));
        if query.begin >= end || query.rows_max == 0 {
            return Ok(Vec::new());
        }
        let inner = self.inner()?;
        let range = (self.store.key(&query.begin), self.store.key(&end));
        // No more than asked for is read, but the bytes are counted differently there, so some rows may be too many.
        let mut rest = RangeOption {
            limit: Some(query.rows_max),
            target_bytes: if query.bytes_max == usize::MAX { 0 } else { query.bytes_max.max(1) },
            mode: StreamingMode::WantAll,
            reverse: query.reverse,
            ..RangeOption::from(range.clone())
        };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut is_full = false;
        for iteration in 1.. {
            // The conflict is declared below, for the part that is returned.
            let page = inner.get_range(&rest, iteration, true).await;
            let page = page.map_err(|error| self.failed(error))?;
            for row in &page {
                let key = Bytes::copy_from_slice(&row.key()[self.store.prefix_bytes()..]);
                bytes += key.len() + row.value().len();
                rows.push((key, Bytes::copy_from_slice(row.value())));
                is_full = rows.len() >= query.rows_max || bytes >= query.bytes_max;
                if is_full {
                    break;
                }
            }
            match rest.next_range(&page) {
                Some(next) if !is_full => rest = next,
                _ => break,
            }
        }
        if !query.snapshot {
            let (begin, end) = match rows.last() {
                Some((last, _)) if is_full && query.reverse => (self.store.key(last), range.1),
                Some((last, _)) if is_full => (range.0, after_key(&self.store.key(last))),
                _ => range,
            };
            inner.add_conflict_range(&begin, &end, ConflictRangeType::Read).map_err(read_error)?;
        }
        Ok(rows)
    }

    /// A write of a key, with its value's size, unless it is over a limit: the commit is refused then.
    fn write(
        &mut self,
        key: &[u8],
        value_bytes: usize,
        write: impl FnOnce(&foundationdb::Transaction, &[u8]),
    ) {
        self.has_writes = true;
        let key_in_cluster = self.store.key(key);
        match &self.inner {
            Ok(inner) if self.size.write(key, value_bytes) => write(inner, &key_in_cluster),
            _ => {}
        }
    }

    /// Where the cluster is, for a version that this process has from elsewhere: at the commit, the cluster itself takes
    /// a version that it never gave for the newest, and finds no conflicts.
    async fn check_given(&self) -> Result<(), CommitError> {
        let Some(version) = self.given.filter(|version| *version > self.store.newest()) else {
            return Ok(());
        };
        self.store.transaction().version().await?;
        if version > self.store.newest() { Err(CommitError::Unavailable) } else { Ok(()) }
    }

    async fn try_commit(self) -> Result<Version, CommitError> {
        if self.size.is_too_large(0) {
            return Err(CommitError::TooLarge);
        }
        self.refused.map_err(commit_error)?;
        // First, since what fails here has had no effect, of which a commit that times out says nothing.
        let read_version = self.version().await?;
        if !self.has_writes {
            return Ok(read_version);
        }
        self.check_given().await?;
        let Self { inner, store, given, .. } = self;
        let committed = inner.map_err(commit_error)?.commit().await.map_err(|error| {
            given.into_iter().for_each(|version| store.doubt(version));
            commit_error(error.into())
        })?;
        Ok(store.learn(committed.committed_version().map_err(commit_error)?))
    }
}

impl Transaction for FdbTransaction {
    fn read_version(&self) -> BoxFuture<'_, Result<Version, StoreError>> {
        Box::pin(self.version())
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.read(key, false)
    }

    fn get_snapshot<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.read(key, true)
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Box::pin(self.read_range(query))
    }

    fn set(&mut self, key: &[u8], value: Bytes) {
        self.write(key, value.len(), |inner, key| inner.set(key, &value));
    }

    fn clear(&mut self, key: &[u8]) {
        self.write(key, 0, |inner, key| inner.clear(key));
    }

    fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        let end = end.min(SYSTEM_SPACE);
        if begin >= end {
            return;
        }
        self.has_writes = true;
        let range = (self.store.key(begin), self.store.key(end));
        match &self.inner {
            Ok(inner) if self.size.clear(begin, end) => inner.clear_range(&range.0, &range.1),
            _ => {}
        }
    }

    fn atomic_max(&mut self, key: &[u8], value: u64) {
        let value = value.to_le_bytes();
        self.write(key, value.len(), |inner, key| inner.atomic_op(key, &value, MutationType::Max));
    }

    fn atomic_add(&mut self, key: &[u8], value: u64) {
        let value = value.to_le_bytes();
        self.write(key, value.len(), |inner, key| inner.atomic_op(key, &value, MutationType::Add));
    }

    fn add_read_conflict(&mut self, key: &[u8]) {
        let key = self.store.key(key);
        if let Ok(inner) = &self.inner {
            let added = inner.add_conflict_range(&key, &after_key(&key), ConflictRangeType::Read);
            self.refused = self.refused.and(added);
        }
    }

    fn set_read_version(&mut self, version: Version) {
        self.given = Some(version);
        // What is no version of the cluster's is refused by whatever comes next.
        if let (Ok(inner), Ok(version @ 1..)) = (&self.inner, i64::try_from(version.0)) {
            inner.set_read_version(version);
        }
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Version, CommitError>> {
        Box::pin(self.try_commit())
    }
}

fn read_error(error: FdbError) -> StoreError {
    errors::read_error(error.code(), error.message())
}

fn commit_error(error: FdbError) -> CommitError {
    errors::commit_error(error.code(), error.message())
}
