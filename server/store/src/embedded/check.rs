//! What is verified when the store is opened: every record but the log's entries, and of each log its two ends.
//!
//! The entries in between are verified when they are read; reading all of them at each start would take too long.

use bytes::Bytes;
use tern_protocol::ids::{ConversationId, Seq};

use crate::error::Corrupt;
use crate::keys::conversation::ConversationKey;
use crate::keys::delivered::DeliveredKey;
use crate::keys::entry::EntryKey;
use crate::keys::epoch::EpochKey;
use crate::keys::head::HeadKey;
use crate::keys::member::MemberKey;
use crate::keys::migration::MigrationKey;
use crate::keys::mine::MineKey;
use crate::keys::read::ReadKey;
use crate::keys::window::WindowKey;
use crate::keys::{after_key, after_prefix};
use crate::migrate::Migration;
use crate::writes::Row;
use crate::{RangeQuery, StoreError, records, verify};

/// Verifies the records, which `scan` reads.
pub(super) fn records(scan: impl Fn(&RangeQuery) -> Result<Vec<Row>, StoreError>) -> Result<(), StoreError> {
    if is_part_of_another(&scan)? {
        return Ok(());
    }
    let conversations = each(&scan, ConversationKey::PREFIX, alone)?;
    let heads = each(&scan, HeadKey::PREFIX, |key, value| {
        let key = HeadKey::decode(key).map_err(|error| error.corrupt(key))?;
        let head = records::head::decode(&key, value)?;
        log_ends(&scan, key.conversation, head.floor, head.last)?;
        let record = ConversationKey { conversation: key.conversation };
        let found = scan(&RangeQuery::new(record.encode(), after_key(&record.encode()), 1))?;
        if found.is_empty() {
            return Err(Corrupt::new(ConversationKey::KIND, record, "missing, though there is a head").into());
        }
        Ok(())
    })?;
    if conversations != heads {
        let what = format!("{conversations} conversations have {heads} heads");
        return Err(Corrupt::new(HeadKey::KIND, "(all)", what).into());
    }
    for prefix in [
        EpochKey::PREFIX,
        MemberKey::PREFIX,
        MineKey::PREFIX,
        WindowKey::PREFIX,
        ReadKey::PREFIX,
        MigrationKey::PREFIX,
        DeliveredKey::PREFIX,
    ] {
        each(&scan, prefix, alone)?;
    }
    Ok(())
}

/// The unfinished target of a migration is not whole, and nobody is to take it for damaged: it is refused for what it is.
fn is_part_of_another(
    scan: impl Fn(&RangeQuery) -> Result<Vec<Row>, StoreError>,
) -> Result<bool, StoreError> {
    let key = MigrationKey.encode();
    let rows = scan(&RangeQuery::new(key, after_key(&key), 1))?;
    let Some((_, value)) = rows.first() else { return Ok(false) };
    Ok(matches!(records::migration::decode(&MigrationKey, value)?, Migration::Arriving(_)))
}

/// The log begins at the floor and ends at the head.
fn log_ends(
    scan: impl Fn(&RangeQuery) -> Result<Vec<Row>, StoreError>,
    conversation: ConversationId,
    floor: Seq,
    last: Seq,
) -> Result<(), StoreError> {
    let prefix = EntryKey::of_conversation(conversation);
    let whole = RangeQuery::new(prefix, after_prefix(&prefix), 1);
    for (query, seq, what) in [(whole.clone(), floor, "floor"), (whole.reverse(), last, "head")] {
        let expected = EntryKey { conversation, seq };
        let rows = scan(&query)?;
        let Some((key, value)) = rows.first() else {
            return Err(Corrupt::new(
                EntryKey::KIND,
                expected,
                format!("missing, though the {what} names it"),
            )
            .into());
        };
        if **key != expected.encode() {
            let end = if what == "head" { "last" } else { "first" };
            let what = format!("the {what} names it, but the {end} entry of the log is another");
            return Err(Corrupt::new(EntryKey::KIND, expected, what).into());
        }
        records::entry::decode(&expected, value)?;
    }
    Ok(())
}

fn alone(key: &Bytes, value: &Bytes) -> Result<(), StoreError> {
    Ok(verify::record(key, value)?)
}

/// Calls `check` with every row of a kind; their number.
fn each(
    scan: impl Fn(&RangeQuery) -> Result<Vec<Row>, StoreError>,
    prefix: u8,
    check: impl Fn(&Bytes, &Bytes) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let mut query = RangeQuery::new([prefix], [prefix + 1], 1_000).bytes_max(4 << 20);
    let mut count = 0;
    loop {
        let rows = scan(&query)?;
        for (key, value) in &rows {
            check(key, value)?;
        }
        count += rows.len() as u64;
        match rows.last() {
            Some((last, _)) => query.begin = after_key(last).into(),
            None => return Ok(count),
        }
    }
}
