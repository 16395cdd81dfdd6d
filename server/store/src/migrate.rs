//! Moves everything from one store to another, of whatever kind the two are.
//!
//! ```text
//!            source                        target
//!            served                        empty
//!   1        verified
//!   2        Leaving ───── id ───────────► Arriving: nothing copied
//!   3        chunk  ─── rows, progress ──► Arriving: up to this key        one transaction each
//!   4        compared with, chunk by chunk, and verified
//!   5        Moved
//!   6                                      served
//! ```
//!
//! **One of them is served at most, at any moment.** The records of kind `migration` say so, and
//! [`load_or_begin`](crate::ops::epoch::load_or_begin) refuses a store that has one. So a source that is `Leaving` has a
//! target that was never served, and can be had back at any time ([`abandon`]); one that has `Moved` cannot.
//!
//! **It goes on where it stopped**, after a kill, an outage or a commit whose outcome is unknown: how far it has got is in
//! the target, written with the rows. Each transaction reads the record that it replaces, so one that lands late conflicts,
//! and one that has landed unnoticed is seen. Source and target know each other by a random id: what was copied before the
//! source was served again is never taken for a part of what it holds now.
//!
//! **The epoch goes along.** It tells clients that numbers may be given anew (ADR 0016), and none is: what is served
//! afterwards is what was acknowledged before, all of it.
//!
//! The source has to stand still. Nodes of a cluster are noticed by their leases; whoever calls this keeps a server that is
//! alone on its store off it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::keys::epoch::EpochKey;
use crate::keys::migration::MigrationKey;
use crate::keys::node::NodeKey;
use crate::keys::{after_key, hex};
use crate::salvage::place;
use crate::verify::{Still, Totals, verify_still};
use crate::writes::Row;
use crate::{
    BoxFuture, CommitError, Corrupt, Kv, RangeQuery, SYSTEM_SPACE, StoreError, Transaction, records,
};

mod error;
mod state;
#[cfg(test)]
mod tests;

pub use error::MigrateError;
pub use state::{Arrival, LOCATION_BYTES_MAX, Migration, MigrationId, Tally};

/// What one transaction moves, but for its last row: FoundationDB is at its best well below a megabyte, and one storage
/// process takes some ten thousand keys a second.
const CHUNK_ROWS: usize = 1_000;
const CHUNK_BYTES: usize = 256 << 10;
/// Attempts of one read or commit, the first included. With the pauses below that is half a minute.
const ATTEMPTS_MAX: u32 = 14;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// A node that lives writes its lease several times in this time.
const LEASE_TIME: Duration = Duration::from_secs(3);

const _: () = assert!(CHUNK_BYTES + crate::limits::VALUE_BYTES_MAX + 2 * LOCATION_BYTES_MAX < 1_000_000);

/// A store and where it is.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The store.
    pub kv: &'a dyn Kv,
    /// For people; at most [`LOCATION_BYTES_MAX`] are kept.
    pub name: &'a str,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Looking for anything wrong in the source, before anything is done.
    VerifySource,
    /// Copying.
    Copy,
    /// Comparing the two.
    Compare,
    /// Looking for anything wrong in the target.
    VerifyTarget,
    /// Removing what was copied.
    Clear,
}

/// How far a step has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub step: Step,
    /// Keys so far, those of earlier runs included.
    pub rows: u64,
    /// Bytes of keys and values so far.
    pub bytes: u64,
    /// How many keys there will be, more or less; 0: unknown.
    pub expected: u64,
}

/// Whoever has a migration run: has clock and voice, and may stop it.
pub trait Attendant: Send {
    /// Called after each read or commit; `Break` ends the migration there with [`MigrateError::Stopped`].
    fn at(&mut self, progress: &Progress) -> ControlFlow<()>;
    /// Something is wrong with what is stored.
    fn found(&mut self, corrupt: Corrupt);
    /// Waits before another attempt.
    fn pause(&mut self, time: Duration) -> BoxFuture<'static, ()>;
}

/// What has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it, now or in earlier runs.
    Moved(Tally, Totals),
    /// An earlier run had come to its end.
    Already,
}

/// The store's part in a migration, which keeps it from being served.
///
/// # Errors
/// When it cannot be read.
pub async fn migration(tx: &dyn Transaction) -> Result<Option<Migration>, StoreError> {
    let record = tx.get(&MigrationKey.encode()).await?;
    let decoded = record.map(|record| records::migration::decode(&MigrationKey, &record));
    Ok(decoded.transpose()?)
}

/// Moves everything from `source`, on which no server runs, to `target`, which is empty, or goes on with that; `id` names
/// it if it begins now.
///
/// # Errors
/// [`MigrateError`]. The same call goes on where that one stopped.
pub async fn migrate(
    source: Place<'_>,
    target: Place<'_>,
    id: MigrationId,
    attendant: &mut dyn Attendant,
) -> Result<Outcome, MigrateError> {
    let attended = Attended::new(attendant);
    let (source, target) = (Side::new(source, &attended), Side::new(target, &attended));
    source.stands_still().await?;
    let arrival = match (source.migration().await?, target.migration().await?) {
        (Some(Migration::Leaving { id, .. }), Some(Migration::Arriving(arrival))) if arrival.id == id => {
            arrival
        }
        (Some(Migration::Moved { id, .. }), Some(Migration::Arriving(arrival)))
            if arrival.id == id && arrival.is_copied =>
        {
            target.replace(Some(&Migration::Arriving(arrival)), None, &[]).await?;
            return Ok(Outcome::Already);
        }
        (Some(Migration::Moved { .. }), None) if source.is_whole_in(&target).await? => {
            return Ok(Outcome::Already);
        }
        (Some(Migration::Leaving { id, to }), None) if to == target.name && target.is_empty().await? => {
            let expected = source.examined().await?;
            begin(&source, &target, id, expected).await?
        }
        (Some(Migration::Leaving { to, .. }), _) => {
            return Err(MigrateError::Elsewhere { from: source.name, elsewhere: to, to: target.name });
        }
        (Some(migration), _) => {
            return Err(MigrateError::NotWhole { place: source.name, migration: migration.into() });
        }
        (None, Some(Migration::Arriving(arrival))) => {
            return Err(MigrateError::Other { to: target.name, from: arrival.from });
        }
        (None, _) if !target.is_empty().await? => return Err(MigrateError::NotEmpty(target.name)),
        (None, _) => {
            if source.is_empty().await? {
                return Err(MigrateError::Empty(source.name));
            }
            let expected = source.examined().await?;
            let leaving = Migration::Leaving { id, to: target.name.clone() };
            source.replace(None, Some(&leaving), &[]).await?;
            begin(&source, &target, id, expected).await?
        }
    };
    let arrival = copy(&source, &target, arrival).await?;
    compare(&source, &target, &arrival).await?;
    let totals = target.verified(Step::VerifyTarget).await?;
    if totals.wrong > 0 {
        return Err(MigrateError::WrongAfter { to: target.name, from: source.name, wrong: totals.wrong });
    }
    let (id, tally) = (arrival.id, arrival.tally);
    match source.migration().await? {
        Some(leaving @ Migration::Leaving { id: of, .. }) if of == id => {
            let moved = Migration::Moved { id, to: target.name.clone() };
            source.replace(Some(&leaving), Some(&moved), &[]).await?;
        }
        // Somebody has given it up meanwhile, and the source may be served.
        _ => return Err(source.has_another_record()),
    }
    target.replace(Some(&Migration::Arriving(arrival)), None, &[]).await?;
    Ok(Outcome::Moved(tally, totals))
}

/// Gives a migration up that has not come to its end: the source can be served again, as it was. What has arrived in the
/// target is removed, if it is named; else nothing will ever be served from there.
///
/// # Errors
/// [`MigrateError`]. The same call goes on where that one stopped.
pub async fn abandon(
    source: Place<'_>,
    target: Option<Place<'_>>,
    attendant: &mut dyn Attendant,
) -> Result<(), MigrateError> {
    let attended = Attended::new(attendant);
    let source = Side::new(source, &attended);
    let leaving = match source.migration().await? {
        Some(leaving @ Migration::Leaving { .. }) => leaving,
        Some(migration) => {
            return Err(MigrateError::NotWhole { place: source.name, migration: migration.into() });
        }
        None => return Err(MigrateError::NotLeaving(source.name)),
    };
    if let Some(target) = target.map(|target| Side::new(target, &attended)) {
        match (target.migration().await?, &leaving) {
            (Some(Migration::Arriving(arrival)), Migration::Leaving { id, .. }) if arrival.id == *id => {
                target.clear(&Migration::Arriving(arrival)).await?;
            }
            (Some(Migration::Arriving(arrival)), _) => {
                return Err(MigrateError::Other { to: target.name, from: arrival.from });
            }
            (None, _) if target.is_empty().await? => {}
            _ => return Err(MigrateError::NotEmpty(target.name)),
        }
    }
    source.replace(Some(&leaving), None, &[]).await
}

/// The target is the one of this migration from here on.
async fn begin(
    source: &Side<'_>,
    target: &Side<'_>,
    id: MigrationId,
    expected: u64,
) -> Result<Arrival, MigrateError> {
    let from = source.name.clone();
    let (tally, last) = (Tally::default(), Bytes::new());
    let arrival = Arrival { id, from, is_copied: false, expected, tally, last };
    target.replace(None, Some(&Migration::Arriving(arrival.clone())), &[]).await?;
    Ok(arrival)
}

async fn copy(source: &Side<'_>, target: &Side<'_>, mut arrival: Arrival) -> Result<Arrival, MigrateError> {
    while !arrival.is_copied {
        let Tally { rows, bytes, .. } = arrival.tally;
        source.attended.at(&Progress { step: Step::Copy, rows, bytes, expected: arrival.expected })?;
        let (rows, last) = source.chunk(&arrival.last).await?;
        let mut next = arrival.clone();
        next.tally.add(&rows);
        match last {
            Some(last) => next.last = last,
            None => next.is_copied = true,
        }
        let (before, after) = (Migration::Arriving(arrival), Migration::Arriving(next.clone()));
        target.replace(Some(&before), Some(&after), &rows).await?;
        arrival = next;
    }
    Ok(arrival)
}

async fn compare(source: &Side<'_>, target: &Side<'_>, arrival: &Arrival) -> Result<(), MigrateError> {
    let mut tally = Tally::default();
    let mut last = Some(Bytes::new());
    while let Some(before) = last {
        let Tally { rows, bytes, .. } = tally;
        source.attended.at(&Progress { step: Step::Compare, rows, bytes, expected: arrival.tally.rows })?;
        let (rows, next) = source.chunk(&before).await?;
        let end = next.as_ref().map_or(SYSTEM_SPACE.to_vec(), |last| after_key(last));
        // One more than there should be, and the record that does not count.
        let query = RangeQuery::new(after_key(&before), end, rows.len() + 2).snapshot();
        let theirs = what_moves(target.range(query).await.map_err(|error| target.error(error))?);
        if rows != theirs {
            let what = first_difference(&rows, &theirs);
            return Err(MigrateError::Differ { what });
        }
        tally.add(&rows);
        last = next;
    }
    if tally == arrival.tally {
        return Ok(());
    }
    let what = format!("{} keys were copied, and {} are there", arrival.tally.rows, tally.rows);
    Err(MigrateError::Differ { what })
}

fn first_difference(rows: &[Row], theirs: &[Row]) -> String {
    let same = rows.iter().zip(theirs).take_while(|(row, theirs)| row == theirs).count();
    let key = [rows.get(same), theirs.get(same)].into_iter().flatten().map(|(key, _)| key).min();
    let key = key.map_or(&b""[..], |key| key);
    place(key).unwrap_or_else(|| format!("key {}", hex(key)))
}

/// Neither the record of the migration nor leases do: those are of processes, which do not move.
fn what_moves(mut rows: Vec<Row>) -> Vec<Row> {
    rows.retain(|(key, _)| key[..] != MigrationKey.encode() && key[0] != NodeKey::PREFIX);
    rows
}

/// Removes what [`what_moves`] keeps, from `begin` to before `end`.
fn clear_what_moves(tx: &mut dyn Transaction, begin: &[u8], end: &[u8]) {
    let record = MigrationKey.encode();
    let after_record = after_key(&record);
    let mut begin = begin;
    for (stays, after) in [(&record[..], &after_record[..]), (&[NodeKey::PREFIX], &[NodeKey::PREFIX + 1])] {
        tx.clear_range(begin, end.min(stays));
        begin = begin.max(after);
    }
    tx.clear_range(begin, end);
}

/// Who is told and asked, from several places.
struct Attended<'a> {
    attendant: Mutex<&'a mut dyn Attendant>,
    is_stopped: AtomicBool,
}

impl<'a> Attended<'a> {
    fn new(attendant: &'a mut dyn Attendant) -> Self {
        Self { attendant: Mutex::new(attendant), is_stopped: AtomicBool::new(false) }
    }

    fn at(&self, progress: &Progress) -> Result<(), MigrateError> {
        if self.attendant.lock().unwrap_or_else(PoisonError::into_inner).at(progress).is_break() {
            self.is_stopped.store(true, Ordering::Relaxed);
            return Err(MigrateError::Stopped);
        }
        Ok(())
    }

    fn found(&self, corrupt: Corrupt) {
        self.attendant.lock().unwrap_or_else(PoisonError::into_inner).found(corrupt);
    }

    fn pause(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.attendant.lock().unwrap_or_else(PoisonError::into_inner).pause(time)
    }
}

/// Attempts of one read or commit.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// How long to wait before the next one; `None`: there is none.
    fn after(&mut self, error: &CommitError) -> Option<Duration> {
        let is_transient = match error {
            CommitError::Conflict
            | CommitError::TooOld
            | CommitError::Unknown { .. }
            | CommitError::Overloaded
            | CommitError::Unavailable => true,
            CommitError::TooLarge | CommitError::Failed(_) | CommitError::Corrupt(_) => false,
        };
        self.0 += 1;
        (is_transient && self.0 < ATTEMPTS_MAX).then(|| (PAUSE_MIN * (1 << (self.0 - 1))).min(PAUSE_MAX))
    }
}

/// One of the two stores. Each read and each commit is a transaction of its own, and is tried again.
struct Side<'a> {
    kv: &'a dyn Kv,
    name: String,
    attended: &'a Attended<'a>,
}

impl<'a> Side<'a> {
    fn new(Place { kv, name }: Place<'a>, attended: &'a Attended<'a>) -> Self {
        let end = name.floor_char_boundary(LOCATION_BYTES_MAX);
        Self { kv, name: name[..end].to_owned(), attended }
    }

    fn error(&self, error: impl Into<CommitError>) -> MigrateError {
        MigrateError::Store { place: self.name.clone(), error: error.into() }
    }

    fn has_another_record(&self) -> MigrateError {
        MigrateError::Differ { what: format!("the record of the migration in {} is another one", self.name) }
    }

    async fn range(&self, query: RangeQuery) -> Result<Vec<Row>, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            match self.kv.begin().range(query.clone()).await {
                Ok(rows) => return Ok(rows),
                Err(error) => match attempts.after(&error.clone().into()) {
                    Some(time) => self.attended.pause(time).await,
                    None => return Err(error),
                },
            }
        }
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            match self.kv.begin().get_snapshot(key).await {
                Ok(value) => return Ok(value),
                Err(error) => match attempts.after(&error.clone().into()) {
                    Some(time) => self.attended.pause(time).await,
                    None => return Err(error),
                },
            }
        }
    }

    async fn migration(&self) -> Result<Option<Migration>, MigrateError> {
        let record = self.get(&MigrationKey.encode()).await.map_err(|error| self.error(error))?;
        let decoded = record.map(|record| records::migration::decode(&MigrationKey, &record)).transpose();
        decoded.map_err(|corrupt| self.error(CommitError::Corrupt(corrupt)))
    }

    async fn is_empty(&self) -> Result<bool, MigrateError> {
        let rows = self.range(all(2)).await.map_err(|error| self.error(error))?;
        Ok(rows.iter().all(|(key, _)| key[..] == MigrationKey.encode()))
    }

    /// Refuses when nodes of a cluster serve it.
    async fn stands_still(&self) -> Result<(), MigrateError> {
        let query = RangeQuery::new([NodeKey::PREFIX], [NodeKey::PREFIX + 1], CHUNK_ROWS).snapshot();
        let leases = async || self.range(query.clone()).await.map_err(|error| self.error(error));
        let before = leases().await?;
        if before.is_empty() {
            return Ok(());
        }
        self.attended.pause(LEASE_TIME).await;
        if leases().await? == before { Ok(()) } else { Err(MigrateError::Served(self.name.clone())) }
    }

    /// Whether that one has the epoch of this one.
    async fn is_whole_in(&self, target: &Self) -> Result<bool, MigrateError> {
        let epoch = self.get(&EpochKey.encode()).await.map_err(|error| self.error(error))?;
        let theirs = target.get(&EpochKey.encode()).await.map_err(|error| target.error(error))?;
        Ok(epoch.is_some() && epoch == theirs)
    }

    /// The next rows after this key, and the last of their keys; no key: there are none.
    async fn chunk(&self, after: &[u8]) -> Result<(Vec<Row>, Option<Bytes>), MigrateError> {
        let mut query = all(CHUNK_ROWS).bytes_max(CHUNK_BYTES);
        query.begin = after_key(after).into();
        let rows = self.range(query).await.map_err(|error| self.error(error))?;
        let last = rows.last().map(|(key, _)| key.clone());
        Ok((what_moves(rows), last))
    }

    /// Puts one record into the place of the other, together with these rows. A record that is the first has to find the
    /// rest of a target empty.
    async fn replace(
        &self,
        before: Option<&Migration>,
        after: Option<&Migration>,
        rows: &[Row],
    ) -> Result<(), MigrateError> {
        self.persist(before, after, &|tx| rows.iter().for_each(|(key, value)| tx.set(key, value.clone())))
            .await
    }

    /// Removes everything, by ranges as large as the store takes, this record with the last.
    async fn clear(&self, arriving: &Migration) -> Result<(), MigrateError> {
        let (mut begin, mut removed) = (vec![0], 0);
        loop {
            self.attended.at(&Progress { step: Step::Clear, rows: removed, bytes: 0, expected: 0 })?;
            let (end, keys) = match self.kv.cleared_keys_max() {
                u64::MAX => (None, 0),
                keys_max => {
                    let mut query = all(keys_max as usize).bytes_max(CHUNK_BYTES);
                    query.begin = begin.clone().into();
                    let rows = self.range(query).await.map_err(|error| self.error(error))?;
                    (rows.last().map(|(key, _)| after_key(key)), rows.len() as u64)
                }
            };
            // Until then the record is replaced by itself, so that what lands late conflicts.
            let after = end.as_ref().map(|_| arriving);
            let clear = |tx: &mut dyn Transaction| {
                clear_what_moves(tx, &begin, end.as_deref().unwrap_or(SYSTEM_SPACE));
            };
            self.persist(Some(arriving), after, &clear).await?;
            let Some(end) = end else { return Ok(()) };
            (begin, removed) = (end, removed + keys);
        }
    }

    async fn persist(
        &self,
        before: Option<&Migration>,
        after: Option<&Migration>,
        write: &(dyn Fn(&mut dyn Transaction) + Sync),
    ) -> Result<(), MigrateError> {
        let mut attempts = Attempts::default();
        loop {
            match self.persist_once(before, after, write).await? {
                Ok(()) => return Ok(()),
                Err(error) => match attempts.after(&error) {
                    Some(time) => self.attended.pause(time).await,
                    None => return Err(self.error(error)),
                },
            }
        }
    }

    async fn persist_once(
        &self,
        before: Option<&Migration>,
        after: Option<&Migration>,
        write: &(dyn Fn(&mut dyn Transaction) + Sync),
    ) -> Result<Result<(), CommitError>, MigrateError> {
        let mut tx = self.kv.begin();
        let stored = match migration(&*tx).await {
            Ok(stored) => stored,
            Err(error) => return Ok(Err(error.into())),
        };
        // An attempt whose outcome was unknown.
        if before != after && stored.as_ref() == after {
            return Ok(Ok(()));
        }
        if stored.as_ref() != before {
            return Err(self.has_another_record());
        }
        if before.is_none() && matches!(after, Some(Migration::Arriving(_))) {
            match tx.range(RangeQuery { snapshot: false, ..all(1) }).await {
                Ok(rows) if rows.is_empty() => {}
                Ok(_) => return Err(MigrateError::NotEmpty(self.name.clone())),
                Err(error) => return Ok(Err(error.into())),
            }
        }
        write(&mut *tx);
        match after {
            Some(after) => tx.set(&MigrationKey.encode(), records::migration::encode(&MigrationKey, after)),
            None => tx.clear(&MigrationKey.encode()),
        }
        Ok(tx.commit().await.map(drop))
    }

    /// How many keys it has, more or less, if nothing is wrong with them.
    async fn examined(&self) -> Result<u64, MigrateError> {
        let totals = self.verified(Step::VerifySource).await?;
        match totals.wrong {
            0 => Ok(totals.keys()),
            wrong => Err(MigrateError::Wrong { from: self.name.clone(), wrong }),
        }
    }

    /// Looks at everything.
    async fn verified(&self, step: Step) -> Result<Totals, MigrateError> {
        let verified = Verified { side: self, step, rows: AtomicU64::new(0), bytes: AtomicU64::new(0) };
        let totals = verify_still(&verified, &mut |corrupt| self.attended.found(corrupt)).await;
        if self.attended.is_stopped.load(Ordering::Relaxed) {
            return Err(MigrateError::Stopped);
        }
        totals.map_err(|error| self.error(error))
    }
}

fn all(rows_max: usize) -> RangeQuery {
    RangeQuery::new([0], SYSTEM_SPACE, rows_max).snapshot()
}

/// A side that is being verified.
struct Verified<'a, 'b> {
    side: &'a Side<'b>,
    step: Step,
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Still for Verified<'_, '_> {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(self.side.get(key))
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<Vec<Row>, StoreError>> {
        Box::pin(async {
            let rows = self.side.range(query).await?;
            let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
            let rows_so_far = self.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
            let bytes_so_far = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            let (step, rows_so_far, bytes) =
                (self.step, rows_so_far + rows.len() as u64, bytes_so_far + bytes as u64);
            let progress = Progress { step, rows: rows_so_far, bytes, expected: 0 };
            // What ends the verification is told by whoever began it.
            self.side.attended.at(&progress).map_err(|stopped| StoreError::Failed(stopped.to_string()))?;
            Ok(rows)
        })
    }
}
