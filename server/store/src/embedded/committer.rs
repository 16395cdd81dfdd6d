//! The committer: the only thread that writes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::shared::{Answer, FatalError, Request, Shared};
use crate::resolver::{Resolver, Verdict};
use crate::writes::{Write, WriteSet};
use crate::{CommitError, RangeQuery, StoreError, Version};

/// Cleared ranges that the resolver remembers.
const RESOLVER_CLEARS: usize = 1_024;

/// Runs until the store is closed or has failed.
pub(super) fn run(shared: &Shared) {
    let on_panic = FailOnPanic(shared);
    let mut resolver = Resolver::new(shared.writer().version, shared.options.resolver_keys, RESOLVER_CLEARS);
    loop {
        #[cfg(test)]
        shared.hooks.before_group();
        let Some(group) = shared.take_group() else { break };
        if let Err((error, group)) = commit_group(shared, &mut resolver, group) {
            shared.fail(error, group);
            return;
        }
    }
    drop(on_panic);
    // A last one, so that after an orderly end the mirror is exact even if the power fails.
    if let Err(error) = shared.writer().mirror.sync() {
        shared.fail(FatalError { what: format!("syncing the commit number: {error}") }, Vec::new());
    }
}

/// A store without committer would take commits and never answer.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(FatalError { what: "the committer panicked".to_owned() }, Vec::new());
        }
    }
}

/// The error comes with those who wait to hear of their commits.
fn commit_group(
    shared: &Shared,
    resolver: &mut Resolver,
    group: Vec<Request>,
) -> Result<(), (FatalError, Vec<Answer>)> {
    let mut writer = shared.writer();
    let before = writer.version;
    let version = Version(before.0 + 1);
    let mut rows = Rows { shared, rows: BTreeMap::new() };
    let mut accepted: Vec<Answer> = Vec::with_capacity(group.len());
    let mut failure = None;
    for request in group {
        let verdict = if request.read_version > before {
            // FoundationDB's "future version": the caller has it from another store, or invented it.
            Err(CommitError::Unavailable)
        } else {
            match resolver.check(request.read_version, &request.reads) {
                Verdict::Commit => Ok(()),
                Verdict::Conflict => Err(CommitError::Conflict),
                Verdict::TooOld => Err(CommitError::TooOld),
            }
        };
        match verdict {
            Ok(()) if failure.is_none() => {
                if let Err(error) = rows.apply(&request.writes) {
                    failure = Some(FatalError { what: format!("reading for commit {}: {error}", version.0) });
                }
                resolver.record(
                    version,
                    request.writes.keys().map(|(key, _)| key),
                    request.writes.clears().iter(),
                );
                accepted.push(request.answer);
            }
            Ok(()) => accepted.push(request.answer),
            Err(error) => shared.answer(request.answer, Err(error)),
        }
    }
    if accepted.is_empty() {
        return Ok(());
    }
    let mut rows = rows.rows.into_iter();
    let written = match failure {
        Some(error) => Err(error),
        None => shared.write_durably(version, &mut rows),
    };
    // From here on the group is durable, and only now may anybody know of it.
    let mirrored = written.and_then(|()| {
        let mirrored = writer.mirror.write(version.0);
        mirrored.map_err(|error| FatalError { what: format!("mirroring commit {}: {error}", version.0) })
    });
    if let Err(error) = mirrored {
        return Err((error, accepted));
    }
    shared.counters.group_sizes.record(accepted.len() as u64);
    writer.version = version;
    shared.publish(version);
    for sender in accepted {
        shared.answer(sender, Ok(version));
    }
    Ok(())
}

/// What a group writes, each key once: the engine must not get a key twice in a batch, and atomic operations have to
/// see the transactions before them.
struct Rows<'a> {
    shared: &'a Shared,
    rows: BTreeMap<Bytes, Option<Bytes>>,
}

impl Rows<'_> {
    fn apply(&mut self, writes: &WriteSet) -> Result<(), StoreError> {
        for (begin, end) in writes.clears() {
            self.clear(begin, end)?;
        }
        for (key, write) in writes.keys() {
            let value = match write {
                Write::Value(value) => value.clone(),
                Write::Atomic(_) => write.apply(self.get(key)?),
            };
            self.rows.insert(key.clone(), value);
        }
        Ok(())
    }

    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, StoreError> {
        match self.rows.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.shared.get(&self.shared.published(), key),
        }
    }

    /// The engine cannot remove a range, so each key gets a tombstone.
    fn clear(&mut self, begin: &Bytes, end: &Bytes) -> Result<(), StoreError> {
        for (_, value) in self.rows.range_mut(begin.clone()..end.clone()) {
            *value = None;
        }
        let published = self.shared.published();
        let mut query = RangeQuery::new(begin, end, 1_000).bytes_max(4 << 20);
        loop {
            let page = self.shared.scan(&published, &query)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            query.begin = crate::keys::after_key(last).into();
            self.rows.extend(page.into_iter().map(|(key, _)| (key, None)));
        }
    }
}
