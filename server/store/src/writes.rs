//! What a transaction has written so far, and how its own reads see that: shared by the adapters that have no client
//! library to do it for them.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::keys::after_key;
use crate::limits::Size;
use crate::resolver::ReadSet;
use crate::{RangeQuery, SYSTEM_SPACE, StoreError};

/// A key and its value.
pub(crate) type Row = (Bytes, Bytes);

/// An atomic operation on a little-endian number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Atomic {
    Max(u64),
    Add(u64),
}

impl Atomic {
    fn apply(self, stored: Option<&[u8]>) -> Bytes {
        let result = match (self, stored.map(number)) {
            (Self::Max(value), stored) => stored.unwrap_or(0).max(value),
            (Self::Add(value), stored) => stored.unwrap_or(0).wrapping_add(value),
        };
        Bytes::copy_from_slice(&result.to_le_bytes())
    }
}

/// A little-endian number, cut or padded to 8 bytes as FoundationDB does.
fn number(stored: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = stored.len().min(8);
    bytes[..length].copy_from_slice(&stored[..length]);
    u64::from_le_bytes(bytes)
}

/// What happens to one key.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// It has this value, or none.
    Value(Option<Bytes>),
    /// Its value is computed from the one that is stored.
    Atomic(Vec<Atomic>),
}

impl Write {
    /// The value after this write.
    pub(crate) fn apply(&self, stored: Option<Bytes>) -> Option<Bytes> {
        match self {
            Self::Value(value) => value.clone(),
            Self::Atomic(operations) => {
                operations.iter().fold(stored, |value, operation| Some(operation.apply(value.as_deref())))
            }
        }
    }
}

/// The writes of a transaction: first the cleared ranges happen, then the single keys.
#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    keys: BTreeMap<Bytes, Write>,
    clears: Vec<(Bytes, Bytes)>,
    size: Size,
}

impl WriteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.clears.is_empty()
    }

    /// Single keys, in order.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = (&Bytes, &Write)> {
        self.keys.iter()
    }

    /// Cleared ranges.
    pub(crate) fn clears(&self) -> &[(Bytes, Bytes)] {
        &self.clears
    }

    /// Size of keys and values, counting every call.
    pub(crate) fn bytes(&self) -> usize {
        self.size.bytes()
    }

    /// Whether any limit is exceeded.
    pub(crate) fn is_too_large(&self, reads: &ReadSet) -> bool {
        let keys: usize = reads.keys.iter().map(Bytes::len).sum();
        let ranges: usize = reads.ranges.iter().map(|(begin, end)| begin.len() + end.len()).sum();
        self.size.is_too_large(keys + ranges)
    }

    pub(crate) fn set(&mut self, key: &[u8], value: Bytes) {
        self.size.write(key, value.len());
        self.keys.insert(Bytes::copy_from_slice(key), Write::Value(Some(value)));
    }

    pub(crate) fn clear(&mut self, key: &[u8]) {
        self.size.write(key, 0);
        self.keys.insert(Bytes::copy_from_slice(key), Write::Value(None));
    }

    pub(crate) fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        let end = end.min(SYSTEM_SPACE);
        if begin >= end {
            return;
        }
        self.size.clear(begin, end);
        let (begin, end) = (Bytes::copy_from_slice(begin), Bytes::copy_from_slice(end));
        let mut tail = self.keys.split_off(&begin);
        self.keys.append(&mut tail.split_off(&end));
        self.clears.push((begin, end));
    }

    pub(crate) fn atomic(&mut self, key: &[u8], operation: Atomic) {
        self.size.write(key, 8);
        let cleared = self.is_cleared(key);
        let write = self
            .keys
            .entry(Bytes::copy_from_slice(key))
            .or_insert_with(|| if cleared { Write::Value(None) } else { Write::Atomic(Vec::new()) });
        match write {
            Write::Value(value) => *value = Some(operation.apply(value.as_deref())),
            Write::Atomic(operations) => operations.push(operation),
        }
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        self.clears.iter().any(|(begin, end)| begin <= key && key < end)
    }

    /// What a read of this key gives, when the store is not needed for it.
    pub(crate) fn own(&self, key: &[u8]) -> Option<Option<Bytes>> {
        match self.keys.get(key) {
            Some(Write::Value(value)) => Some(value.clone()),
            Some(Write::Atomic(_)) => None,
            None => self.is_cleared(key).then_some(None),
        }
    }

    /// What a read of this key gives, when the store has `stored` for it.
    pub(crate) fn over(&self, key: &[u8], stored: Option<Bytes>) -> Option<Bytes> {
        match self.keys.get(key) {
            Some(write) => write.apply(stored),
            None if self.is_cleared(key) => None,
            None => stored,
        }
    }

    /// A range read over the store's rows, and what part of the range the result depends on.
    ///
    /// `scan` gives the store's rows of a (sub-)range in the order that the query asks for, under the query's bounds.
    pub(crate) fn range(
        &self,
        query: &RangeQuery,
        scan: impl Fn(&RangeQuery) -> Result<Vec<Row>, StoreError>,
    ) -> Result<(Vec<Row>, (Bytes, Bytes)), StoreError> {
        let mut rest = RangeQuery { end: query.end.clone().min(SYSTEM_SPACE.into()), ..query.clone() };
        let mut rows: Vec<Row> = Vec::new();
        let mut bytes = 0;
        let whole = (rest.begin.clone(), rest.end.clone());
        if rest.begin >= rest.end || query.rows_max == 0 {
            let begin = rest.begin.clone();
            return Ok((rows, (begin.clone(), begin)));
        }
        loop {
            // Rows can vanish under cleared ranges, so the store may have to be asked more than once.
            let stored = scan(&rest)?;
            let covered = match stored.last() {
                Some((last, _)) if is_full(&rest, &stored) => last.clone(),
                _ => {
                    self.merge(query, &rest.begin, &rest.end, stored, &mut rows, &mut bytes);
                    return Ok((rows.clone(), dependence(query, whole, &rows, bytes)));
                }
            };
            let after: Bytes = after_key(&covered).into();
            let (begin, end) = if query.reverse {
                (covered.clone(), rest.end.clone())
            } else {
                (rest.begin.clone(), after.clone())
            };
            if self.merge(query, &begin, &end, stored, &mut rows, &mut bytes) {
                return Ok((rows.clone(), dependence(query, whole, &rows, bytes)));
            }
            if query.reverse {
                rest.end = covered;
            } else {
                rest.begin = after;
            }
        }
    }

    /// Adds the rows from `begin` to before `end` to the result; true when it is full.
    fn merge(
        &self,
        query: &RangeQuery,
        begin: &Bytes,
        end: &Bytes,
        stored: Vec<Row>,
        rows: &mut Vec<Row>,
        bytes: &mut usize,
    ) -> bool {
        let mut push = |row: Row| {
            *bytes += row.0.len() + row.1.len();
            rows.push(row);
            rows.len() >= query.rows_max || *bytes >= query.bytes_max
        };
        if self.is_empty() {
            return stored.into_iter().any(push);
        }
        let mut merged: BTreeMap<Bytes, Bytes> =
            stored.into_iter().filter(|(key, _)| !self.is_cleared(key)).collect();
        if begin < end {
            for (key, write) in self.keys.range::<Bytes, _>((Bound::Included(begin), Bound::Excluded(end))) {
                match write.apply(merged.remove(key)) {
                    Some(value) => merged.insert(key.clone(), value),
                    None => None,
                };
            }
        }
        if query.reverse { merged.into_iter().rev().any(push) } else { merged.into_iter().any(&mut push) }
    }
}

/// Whether a bound of the query, rather than the end of the range, ended these rows.
fn is_full(query: &RangeQuery, rows: &[Row]) -> bool {
    let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    rows.len() >= query.rows_max || bytes >= query.bytes_max
}

/// The part of the range that decides what the result is: up to the last row when a bound ended it.
fn dependence(query: &RangeQuery, whole: (Bytes, Bytes), rows: &[Row], bytes: usize) -> (Bytes, Bytes) {
    match rows.last() {
        Some((last, _)) if rows.len() >= query.rows_max || bytes >= query.bytes_max => {
            if query.reverse {
                (last.clone(), whole.1)
            } else {
                (whole.0, after_key(last).into())
            }
        }
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Model = BTreeMap<Bytes, Bytes>;

    /// The store's side of a range read, over a map.
    fn scan(model: &Model, query: &RangeQuery) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let in_range = model.range::<Bytes, _>((Bound::Included(&query.begin), Bound::Excluded(&query.end)));
        let all: Vec<Row> = in_range.map(|(k, v)| (k.clone(), v.clone())).collect();
        let ordered: Vec<Row> = if query.reverse { all.into_iter().rev().collect() } else { all };
        for row in ordered {
            rows.push(row);
            if is_full(query, &rows) {
                break;
            }
        }
        rows
    }

    fn key(k: u8) -> Bytes {
        Bytes::copy_from_slice(&[k])
    }

    proptest! {
        /// Reads through a write set are reads of the store after the writes.
        #[test]
        fn reads_see_own_writes(
            stored in proptest::collection::btree_map(0u8..24, 0u64..5, 0..20),
            writes in proptest::collection::vec((0u8..5, 0u8..24, 0u8..24, 0u64..9), 0..12),
            begin in 0u8..24, end in 0u8..26, rows_max in 1usize..8, bytes_max in 1usize..60, reverse in any::<bool>(),
        ) {
            let stored: Model =
                stored.into_iter().map(|(k, v)| (key(k), Bytes::copy_from_slice(&v.to_le_bytes()))).collect();
            let mut after = stored.clone();
            let mut set = WriteSet::default();
            for (what, a, b, n) in writes {
                let old = after.get(&key(a)).cloned();
                let value = Bytes::copy_from_slice(&n.to_le_bytes());
                match what {
                    0 => { set.set(&[a], value.clone()); after.insert(key(a), value); }
                    1 => { set.clear(&[a]); after.remove(&key(a)); }
                    2 => { set.clear_range(&[a], &[b]); after.retain(|k, _| !(key(a) <= *k && *k < key(b))); }
                    3 => { set.atomic(&[a], Atomic::Max(n)); after.insert(key(a), Atomic::Max(n).apply(old.as_deref())); }
                    _ => { set.atomic(&[a], Atomic::Add(n)); after.insert(key(a), Atomic::Add(n).apply(old.as_deref())); }
                }
            }
            for k in 0..24 {
                let expected = after.get(&key(k)).cloned();
                prop_assert_eq!(set.over(&[k], stored.get(&key(k)).cloned()), expected.clone());
                prop_assert!(set.own(&[k]).is_none_or(|own| own == expected));
            }
            if begin < end {
                let mut query = RangeQuery::new([begin], [end], rows_max).bytes_max(bytes_max);
                query.reverse = reverse;
                let (rows, depends) = set.range(&query, |q| Ok(scan(&stored, q))).expect("a map does not fail");
                prop_assert_eq!(&rows, &scan(&after, &query));
                prop_assert!(rows.iter().all(|(k, _)| depends.0 <= *k && *k < depends.1));
            }
        }
    }
}
