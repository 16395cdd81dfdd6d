//! What an adapter promises, as a list of cases that every adapter's tests run.
//!
//! Each case gets a fresh, empty store and panics when the store breaks a promise. Public, so that an adapter in a
//! crate of its own can run it, before [those of the operations](crate::ops::conformance).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join_all};

use crate::limits::{KEY_BYTES_MAX, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX};
use crate::{CommitError, Kv, RangeQuery, StoreError, Transaction, Version};

/// A case: its name, and what it demands of an empty store.
pub type Case = (&'static str, fn(Arc<dyn Kv>) -> LocalBoxFuture<'static, ()>);

/// The list of these cases, and for each a test of this crate's own stores.
macro_rules! cases {
    ($(#[$doc:meta])* $visibility:vis const $list:ident; $($name:ident)*) => {
        $(#[$doc])*
        $visibility const $list: &[$crate::conformance::Case] =
            &[$((stringify!($name), |kv| Box::pin(async move { $name(&*kv).await }))),*];

        #[cfg(test)]
        mod on_memory {
            $(#[test]
            fn $name() {
                crate::ops::tests::block_on(super::$name(&crate::memory::Memory::new()));
            })*
        }

        #[cfg(test)]
        mod on_embedded {
            $(#[test]
            fn $name() {
                crate::ops::tests::block_on(super::$name(&crate::embedded::tests::Temporary::new()));
            })*
        }
    };
}
pub(crate) use cases;

cases! {
    /// Every case.
    pub const CASES;
    an_empty_store_has_nothing
    committed_writes_are_seen_and_others_are_not
    a_dropped_transaction_leaves_nothing
    a_transaction_reads_one_snapshot
    a_changed_read_conflicts
    write_skew_is_refused
    blind_writes_do_not_conflict
    snapshot_reads_do_not_conflict
    own_writes_do_not_conflict
    declared_conflicts_conflict
    reads_of_missing_keys_conflict_with_their_creation
    range_reads_conflict_with_new_keys
    range_reads_conflict_only_as_far_as_they_read
    cleared_ranges_conflict
    read_only_transactions_commit
    ranges_come_in_order_and_within_bounds
    ranges_see_own_writes
    clears_remove
    atomic_max_compares_little_endian
    atomic_add_wraps_and_counts_missing_as_zero
    atomics_do_not_conflict_with_each_other
    atomics_conflict_with_reads
    versions_rise
    a_read_version_can_be_given
    an_older_version_shows_its_own_state_or_nothing
    an_unknown_version_is_refused
    a_recent_transaction_sees_what_was_committed_here
    too_large_is_refused_and_has_no_effect
    concurrent_counters_are_exact
}

type Tx = Box<dyn Transaction>;

async fn get(tx: &Tx, key: &str) -> Option<Bytes> {
    tx.get(key.as_bytes()).await.expect("a read succeeds")
}

fn set(tx: &mut Tx, key: &str, value: &'static str) {
    tx.set(key.as_bytes(), Bytes::from_static(value.as_bytes()));
}

fn text(value: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(value.as_bytes()))
}

/// A transaction whose snapshot is taken now.
async fn begin(kv: &dyn Kv) -> Tx {
    let tx = kv.begin();
    tx.read_version().await.expect("there is a version");
    tx
}

async fn put(kv: &dyn Kv, rows: &[(&str, &'static str)]) -> Version {
    let mut tx = kv.begin();
    for (key, value) in rows {
        set(&mut tx, key, value);
    }
    tx.commit().await.expect("a blind write commits")
}

async fn stored(kv: &dyn Kv, key: &str) -> Option<Bytes> {
    get(&kv.begin(), key).await
}

async fn keys(tx: &Tx, query: RangeQuery) -> Vec<String> {
    let rows = tx.range(query).await.expect("a range read succeeds");
    rows.into_iter().map(|(key, _)| String::from_utf8_lossy(&key).into_owned()).collect()
}

fn between(begin: &str, end: &str) -> RangeQuery {
    RangeQuery::new(begin, end, 1_000)
}

async fn an_empty_store_has_nothing(kv: &dyn Kv) {
    let tx = kv.begin();
    assert_eq!(get(&tx, "a").await, None);
    assert_eq!(tx.get_snapshot(b"a").await, Ok(None));
    assert!(keys(&tx, RangeQuery::new([0], [0xFE], 10)).await.is_empty());
    assert!(tx.commit().await.is_ok());
}

async fn committed_writes_are_seen_and_others_are_not(kv: &dyn Kv) {
    let mut tx = kv.begin();
    set(&mut tx, "a", "1");
    tx.set(b"empty", Bytes::new());
    assert_eq!(get(&tx, "a").await, text("1"), "own writes are seen");
    assert_eq!(stored(kv, "a").await, None, "by nobody else before the commit");
    tx.commit().await.expect("commits");
    assert_eq!(stored(kv, "a").await, text("1"));
    assert_eq!(stored(kv, "empty").await, Some(Bytes::new()), "an empty value is a value");
}

async fn a_dropped_transaction_leaves_nothing(kv: &dyn Kv) {
    let mut tx = begin(kv).await;
    set(&mut tx, "a", "1");
    drop(tx);
    assert_eq!(stored(kv, "a").await, None);
}

async fn a_transaction_reads_one_snapshot(kv: &dyn Kv) {
    put(kv, &[("a", "old"), ("b", "old")]).await;
    let tx = begin(kv).await;
    assert_eq!(get(&tx, "a").await, text("old"));
    put(kv, &[("a", "new"), ("b", "new"), ("c", "new")]).await;
    assert_eq!(get(&tx, "b").await, text("old"));
    assert_eq!(get(&tx, "c").await, None);
    assert_eq!(keys(&tx, between("a", "z")).await, ["a", "b"]);
    assert_eq!(stored(kv, "b").await, text("new"));
}

async fn a_changed_read_conflicts(kv: &dyn Kv) {
    put(kv, &[("a", "0")]).await;
    let (mut one, mut two) = (begin(kv).await, begin(kv).await);
    get(&one, "a").await;
    get(&two, "a").await;
    set(&mut one, "a", "1");
    set(&mut two, "a", "2");
    assert!(one.commit().await.is_ok());
    assert_eq!(two.commit().await, Err(CommitError::Conflict));
    assert_eq!(stored(kv, "a").await, text("1"), "what conflicts has no effect");
}

async fn write_skew_is_refused(kv: &dyn Kv) {
    let (mut one, mut two) = (begin(kv).await, begin(kv).await);
    get(&one, "a").await;
    get(&two, "b").await;
    set(&mut one, "b", "1");
    set(&mut two, "a", "2");
    assert!(one.commit().await.is_ok());
    assert_eq!(two.commit().await, Err(CommitError::Conflict));
}

async fn blind_writes_do_not_conflict(kv: &dyn Kv) {
    let (mut one, mut two) = (begin(kv).await, begin(kv).await);
    set(&mut one, "a", "1");
    set(&mut two, "a", "2");
    assert!(one.commit().await.is_ok());
    assert!(two.commit().await.is_ok());
    assert_eq!(stored(kv, "a").await, text("2"), "the later one stays");
}

async fn snapshot_reads_do_not_conflict(kv: &dyn Kv) {
    let mut tx = begin(kv).await;
    assert_eq!(tx.get_snapshot(b"a").await, Ok(None));
    keys(&tx, between("a", "z").snapshot()).await;
    put(kv, &[("a", "1")]).await;
    set(&mut tx, "b", "2");
    assert!(tx.commit().await.is_ok());
}

async fn own_writes_do_not_conflict(kv: &dyn Kv) {
    let mut tx = begin(kv).await;
    set(&mut tx, "a", "mine");
    assert_eq!(get(&tx, "a").await, text("mine"));
    put(kv, &[("a", "other")]).await;
    assert!(tx.commit().await.is_ok(), "what it read did not come from the store");
}

async fn declared_conflicts_conflict(kv: &dyn Kv) {
    let mut tx = begin(kv).await;
    tx.add_read_conflict(b"a");
    set(&mut tx, "b", "1");
    put(kv, &[("a", "1")]).await;
    assert_eq!(tx.commit().await, Err(CommitError::Conflict));
    let mut tx = begin(kv).await;
    tx.add_read_conflict(b"a");
    set(&mut tx, "b", "2");
    put(kv, &[("aa", "1")]).await;
    assert!(tx.commit().await.is_ok(), "another key is none of its business");
}

async fn reads_of_missing_keys_conflict_with_their_creation(kv: &dyn Kv) {
    let mut tx = begin(kv).await;
    assert_eq!(get(&tx, "a").await, None);
    put(kv, &[("a", "1")]).await;
    set(&mut tx, "b", "1");
    assert_eq!(tx.commit().await, Err(CommitError::Conflict));
}

async fn range_reads_conflict_with_new_keys(kv: &dyn Kv) {
    put(kv, &[("b", "1")]).await;
    let mut tx = begin(kv).await;
    assert_eq!(keys(&tx, between("a", "m")).await, ["b"]);
    set(&mut tx, "z", "1");
    put(kv, &[("c", "1")]).await;
    assert_eq!(tx.commit().await, Err(CommitError::Conflict));
    let mut tx = begin(kv).await;
    keys(&tx, between("a", "m")).await;
    set(&mut tx, "z", "1");
    put(kv, &[("m", "the end is not part of a range")]).await;
    assert!(tx.commit().await.is_ok());
}

async fn range_reads_conflict_only_as_far_as_they_read(kv: &dyn Kv) {
    put(kv, &[("a", "1"), ("b", "1"), ("y", "1"), ("z", "1")]).await;
    for (reverse, harmless, harmful) in [(false, "c", "a"), (true, "x", "z")] {
        for (key, conflicts) in [(harmless, false), (harmful, true)] {
            let mut tx = begin(kv).await;
            let query = RangeQuery { rows_max: 2, reverse, ..between("a", "zz") };
            assert_eq!(keys(&tx, query).await.len(), 2);
            set(&mut tx, "own", "1");
            put(kv, &[(key, "2")]).await;
            let result = tx.commit().await;
            assert_eq!(
                result == Err(CommitError::Conflict),
                conflicts,
                "{key}, reverse {reverse}: {result:?}"
            );
            let mut tidy = kv.begin();
            tidy.clear(harmless.as_bytes());
            tidy.clear(b"own");
            tidy.commit().await.expect("commits");
        }
    }
}

async fn cleared_ranges_conflict(kv: &dyn Kv) {
    let mut tx = begin(kv).await;
    assert_eq!(get(&tx, "b").await, None);
    set(&mut tx, "x", "1");
    let mut clear = kv.begin();
    clear.clear_range(b"a", b"c");
    clear.commit().await.expect("commits");
    assert_eq!(tx.commit().await, Err(CommitError::Conflict), "clearing is a write, whatever was there");
    let mut tx = begin(kv).await;
    keys(&tx, between("b", "m")).await;
    set(&mut tx, "x", "1");
    let mut clear = kv.begin();
    clear.clear_range(b"a", b"bb");
    clear.commit().await.expect("commits");
    assert_eq!(tx.commit().await, Err(CommitError::Conflict), "ranges that overlap");
    let mut tx = begin(kv).await;
    get(&tx, "c").await;
    set(&mut tx, "x", "1");
    let mut clear = kv.begin();
    clear.clear_range(b"a", b"c");
    clear.commit().await.expect("commits");
    assert!(tx.commit().await.is_ok(), "the end is not part of a range");
}

async fn read_only_transactions_commit(kv: &dyn Kv) {
    let tx = begin(kv).await;
    let at = tx.read_version().await;
    get(&tx, "a").await;
    put(kv, &[("a", "1")]).await;
    assert_eq!(tx.commit().await, Ok(at.expect("there is a version")));
}

async fn ranges_come_in_order_and_within_bounds(kv: &dyn Kv) {
    let mut tx = kv.begin();
    let all: [&[u8]; 6] = [b"\x00", b"\x00\x00", b"\x00\x01", b"a", b"a\x00", b"\xFE\xFF"];
    for key in all {
        tx.set(key, Bytes::from_static(b"12345"));
    }
    tx.commit().await.expect("commits");
    let tx = kv.begin();
    let whole = RangeQuery::new([], [0xFF], 1_000);
    let read = async |query: RangeQuery| -> Vec<Bytes> {
        tx.range(query).await.expect("a range read succeeds").into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(read(whole.clone()).await, all);
    let mut backwards = all;
    backwards.reverse();
    assert_eq!(read(whole.clone().reverse()).await, backwards);
    assert_eq!(read(RangeQuery { rows_max: 2, ..whole.clone() }).await, all[..2]);
    assert_eq!(read(RangeQuery { rows_max: 2, ..whole.clone().reverse() }).await, backwards[..2]);
    assert_eq!(read(RangeQuery { rows_max: 0, ..whole.clone() }).await.len(), 0);
    assert_eq!(read(whole.clone().bytes_max(1)).await.len(), 1, "one row in any case");
    assert_eq!(read(whole.clone().bytes_max(13)).await.len(), 2, "6 + 7 bytes");
    assert_eq!(read(whole.bytes_max(14)).await.len(), 3, "stops after the row that reaches the bound");
    assert_eq!(read(RangeQuery::new(b"a", b"a\x00", 9)).await, [&b"a"[..]]);
    assert_eq!(read(RangeQuery::new(b"b", b"a", 9)).await.len(), 0, "an empty range");
}

async fn ranges_see_own_writes(kv: &dyn Kv) {
    put(kv, &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")]).await;
    let mut tx = kv.begin();
    tx.clear_range(b"b", b"e");
    set(&mut tx, "c", "2");
    set(&mut tx, "f", "2");
    tx.clear(b"a");
    assert_eq!(keys(&tx, between("a", "z")).await, ["c", "e", "f"]);
    assert_eq!(keys(&tx, RangeQuery { rows_max: 1, ..between("a", "z") }).await, ["c"]);
    assert_eq!(keys(&tx, RangeQuery { rows_max: 2, ..between("a", "z").reverse() }).await, ["f", "e"]);
    assert_eq!(get(&tx, "b").await, None);
    tx.commit().await.expect("commits");
    assert_eq!(keys(&kv.begin(), between("a", "z")).await, ["c", "e", "f"]);
}

async fn clears_remove(kv: &dyn Kv) {
    put(kv, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
    let mut tx = kv.begin();
    set(&mut tx, "b", "2");
    tx.clear(b"b");
    tx.clear(b"missing");
    tx.clear_range(b"c", b"c");
    tx.clear_range(b"z", b"c");
    tx.commit().await.expect("commits");
    assert_eq!(keys(&kv.begin(), between("a", "z")).await, ["a", "c"]);
}

fn number(value: Option<Bytes>) -> Option<u64> {
    value.map(|value| u64::from_le_bytes(value[..].try_into().expect("8 bytes")))
}

async fn atomic_max_compares_little_endian(kv: &dyn Kv) {
    // 0x0100 is larger than 0x00FF, though its first stored byte is smaller.
    for (value, expected) in
        [(5, 5), (3, 5), (0xFF, 0xFF), (0x100, 0x100), (0xFF, 0x100), (u64::MAX, u64::MAX)]
    {
        let mut tx = kv.begin();
        tx.atomic_max(b"mark", value);
        assert_eq!(number(get(&tx, "mark").await), Some(expected), "seen by itself");
        tx.commit().await.expect("commits");
        assert_eq!(number(stored(kv, "mark").await), Some(expected));
    }
    let mut tx = kv.begin();
    tx.clear_range(b"a", b"z");
    tx.atomic_max(b"mark", 2);
    tx.atomic_max(b"mark", 1);
    tx.commit().await.expect("commits");
    assert_eq!(number(stored(kv, "mark").await), Some(2), "after a clear in the same transaction");
}

async fn atomic_add_wraps_and_counts_missing_as_zero(kv: &dyn Kv) {
    for (value, expected) in [(7, 7), (u64::MAX, 6), (4, 10)] {
        let mut tx = kv.begin();
        tx.atomic_add(b"count", value);
        tx.commit().await.expect("commits");
        assert_eq!(number(stored(kv, "count").await), Some(expected));
    }
}

async fn atomics_do_not_conflict_with_each_other(kv: &dyn Kv) {
    let mut many = Vec::new();
    for _ in 0..5 {
        let mut tx = begin(kv).await;
        tx.atomic_add(b"count", 1);
        tx.atomic_max(b"mark", 9);
        many.push(tx);
    }
    for result in join_all(many.into_iter().map(|tx| tx.commit())).await {
        assert!(result.is_ok(), "{result:?}");
    }
    assert_eq!(number(stored(kv, "count").await), Some(5));
    assert_eq!(number(stored(kv, "mark").await), Some(9));
}

async fn atomics_conflict_with_reads(kv: &dyn Kv) {
    let mut tx = begin(kv).await;
    get(&tx, "count").await;
    set(&mut tx, "x", "1");
    let mut add = kv.begin();
    add.atomic_add(b"count", 1);
    add.commit().await.expect("commits");
    assert_eq!(tx.commit().await, Err(CommitError::Conflict));
    let mut tx = begin(kv).await;
    tx.atomic_add(b"count", 1);
    get(&tx, "count").await;
    let mut add = kv.begin();
    add.atomic_add(b"count", 1);
    add.commit().await.expect("commits");
    assert_eq!(
        tx.commit().await,
        Err(CommitError::Conflict),
        "reading an atomic's result reads what is stored"
    );
}

async fn versions_rise(kv: &dyn Kv) {
    let mut before = Version(0);
    for _ in 0..3 {
        let version = put(kv, &[("a", "1")]).await;
        assert!(version > before, "{version:?} after {before:?}");
        let read = kv.begin().read_version().await.expect("there is a version");
        assert!(read >= version, "a transaction sees what was committed before it began");
        before = version;
    }
}

async fn a_read_version_can_be_given(kv: &dyn Kv) {
    let version = put(kv, &[("head", "1")]).await;
    let mut tx = kv.begin();
    tx.set_read_version(version);
    assert_eq!(get(&tx, "head").await, text("1"));
    // The way of an owner that is sure of its head: no read, only the conflict.
    let mut tx = kv.begin();
    tx.set_read_version(version);
    tx.add_read_conflict(b"head");
    set(&mut tx, "head", "2");
    let next = tx.commit().await.expect("nobody came in between");
    let mut stale = kv.begin();
    stale.set_read_version(version);
    stale.add_read_conflict(b"head");
    set(&mut stale, "head", "stale");
    assert_eq!(stale.commit().await, Err(CommitError::Conflict));
    put(kv, &[("other", "1")]).await;
    let mut tx = kv.begin();
    tx.set_read_version(next);
    tx.add_read_conflict(b"head");
    set(&mut tx, "head", "3");
    assert!(tx.commit().await.is_ok(), "an older version is as good, as long as the key has not changed");
}

async fn an_older_version_shows_its_own_state_or_nothing(kv: &dyn Kv) {
    let version = put(kv, &[("a", "old")]).await;
    put(kv, &[("a", "new"), ("b", "new")]).await;
    let mut tx = kv.begin();
    tx.set_read_version(version);
    let one = tx.get(b"a").await;
    assert!(one == Ok(text("old")) || one == Err(StoreError::TooOld), "{one:?}");
    let rows = tx.range(between("a", "z")).await.map(|rows| rows.len());
    assert!(rows == Ok(1) || rows == Err(StoreError::TooOld), "{rows:?}");
}

async fn an_unknown_version_is_refused(kv: &dyn Kv) {
    let mut tx = kv.begin();
    tx.set_read_version(Version(u64::MAX / 2));
    tx.add_read_conflict(b"head");
    set(&mut tx, "head", "1");
    let result = tx.commit().await;
    assert!(matches!(result, Err(CommitError::Unavailable | CommitError::TooOld)), "{result:?}");
    assert_eq!(stored(kv, "head").await, None);
}

async fn a_recent_transaction_sees_what_was_committed_here(kv: &dyn Kv) {
    for value in ["1", "2", "3"] {
        put(kv, &[("a", value)]).await;
        let mut recent = kv.begin_recent();
        assert_eq!(get(&recent, "a").await, text(value));
        set(&mut recent, "b", value);
        assert!(recent.commit().await.is_ok());
        let mut late = kv.begin_recent();
        assert_eq!(get(&late, "b").await, text(value));
        set(&mut late, "c", value);
        put(kv, &[("b", "changed")]).await;
        assert_eq!(late.commit().await, Err(CommitError::Conflict));
    }
}

async fn too_large_is_refused_and_has_no_effect(kv: &dyn Kv) {
    let value = |size| Bytes::from(vec![7; size]);
    let mut large = kv.begin();
    large.set(b"value", value(VALUE_BYTES_MAX));
    large.set(&[b'k'; KEY_BYTES_MAX], Bytes::new());
    assert!(large.commit().await.is_ok(), "up to the limit");
    let mut too_large = kv.begin();
    set(&mut too_large, "a", "1");
    too_large.set(b"value", value(VALUE_BYTES_MAX + 1));
    assert_eq!(too_large.commit().await, Err(CommitError::TooLarge));
    let mut too_large = kv.begin();
    set(&mut too_large, "a", "1");
    too_large.set(&[b'k'; KEY_BYTES_MAX + 1], Bytes::new());
    assert_eq!(too_large.commit().await, Err(CommitError::TooLarge));
    let mut too_large = kv.begin();
    set(&mut too_large, "a", "1");
    for n in 0..=TRANSACTION_BYTES_MAX / VALUE_BYTES_MAX {
        too_large.set(&[b'n', n as u8], value(VALUE_BYTES_MAX));
    }
    assert_eq!(too_large.commit().await, Err(CommitError::TooLarge));
    assert_eq!(stored(kv, "a").await, None);
}

async fn concurrent_counters_are_exact(kv: &dyn Kv) {
    let count_up = async || {
        for _ in 0..10 {
            loop {
                let mut tx = kv.begin();
                let count = number(get(&tx, "count").await).unwrap_or(0);
                tx.set(b"count", Bytes::copy_from_slice(&(count + 1).to_le_bytes()));
                match tx.commit().await {
                    Ok(_) => break,
                    Err(CommitError::Conflict) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    join_all((0..8).map(|_| count_up())).await;
    assert_eq!(number(stored(kv, "count").await), Some(80));
}
