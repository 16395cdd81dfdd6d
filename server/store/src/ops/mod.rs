//! The transactions of the chat server, each written once, above the trait.
//!
//! | module | what | transaction |
//! |---|---|---|
//! | [`append`] | the owner's side of a log: load, append, fence, late duplicates | writes `g`, `h`, `i` (and `c`, `m`, `n`) |
//! | [`epoch`] | which history the store holds | writes `e`, once |
//! | [`lease`] | which nodes there are | writes `x` |
//! | [`receipts`] | watermarks: write, list | writes `w`, `r` |
//! | [`sync`] | what a device missed | reads |
//! | [`history`] | a page of a log | reads |
//! | [`list`] | a user's conversations, a group's members | reads |
//! | [`trim`] | raising a log's floor | writes `h`, removes `g` |
//!
//! Whoever reads a page of a log finds it dense or gets an error: a missing entry between floor and head is corrupt,
//! never skipped. Read-only operations try again a few times when the store is too old or unavailable.

use std::task::Poll;

use bytes::Bytes;
use futures_util::future::{join, join3, try_join_all};
use tern_protocol::convert::decode_entry;
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::model::{Conversation, Entry, Head, Membership, Watermarks};

use crate::error::Corrupt;
use crate::keys::conversation::ConversationKey;
use crate::keys::delivered::DeliveredKey;
use crate::keys::entry::EntryKey;
use crate::keys::head::HeadKey;
use crate::keys::member::MemberKey;
use crate::keys::mine::MineKey;
use crate::keys::read::ReadKey;
use crate::keys::{BadKey, after_key, after_prefix};
use crate::limits::RANGE_ROWS_MAX;
use crate::{QueryError, RangeQuery, StoreError, Transaction, records};

pub mod append;
pub mod conformance;
pub mod epoch;
pub mod history;
pub mod lease;
pub mod list;
pub mod receipts;
mod state;
pub mod sync;
#[cfg(test)]
pub(crate) mod tests;
pub mod trim;

/// Runs a read-only operation in a new transaction, and again when the error is transient.
macro_rules! read_only {
    ($kv:expr, |$transaction:ident| $operation:expr) => {{
        let mut attempts = 1;
        loop {
            let transaction = $kv.begin();
            let $transaction = &*transaction;
            match $operation.await {
                Err(error) if error.is_transient() && attempts < $crate::limits::READ_ATTEMPTS_MAX => {
                    attempts += 1
                }
                result => break result,
            }
        }
    }};
}
use read_only;

/// Point reads in flight at once, when many conversations are looked at.
const CONCURRENT_READS: usize = 64;
/// Bytes of one page of a range read, so that a scan of large entries does not hold a gigabyte.
const RANGE_BYTES: usize = 1 << 20;

fn bad_key(error: BadKey, key: &[u8]) -> StoreError {
    error.corrupt(key).into()
}

// ---------------------------------------------------------------------------------------------- single records

async fn head(tx: &dyn Transaction, conversation: ConversationId) -> Result<Option<Head>, StoreError> {
    let key = HeadKey { conversation };
    let record = tx.get(&key.encode()).await?;
    Ok(record.map(|record| records::head::decode(&key, &record)).transpose()?)
}

async fn record(tx: &dyn Transaction, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
    let key = ConversationKey { conversation: id };
    let stored = tx.get_snapshot(&key.encode()).await?;
    Ok(stored.map(|record| records::conversation::decode(&key, &record)).transpose()?)
}

async fn membership(
    tx: &dyn Transaction,
    conversation: ConversationId,
    user: UserId,
) -> Result<Option<Membership>, StoreError> {
    let key = MemberKey { conversation, user };
    let record = tx.get_snapshot(&key.encode()).await?;
    Ok(record.map(|record| records::member::decode(&key, &record)).transpose()?)
}

async fn read_mark(
    tx: &dyn Transaction,
    conversation: ConversationId,
    user: UserId,
) -> Result<Seq, StoreError> {
    let key = ReadKey { conversation, user };
    match tx.get_snapshot(&key.encode()).await? {
        Some(value) => watermark(&value, ReadKey::KIND, &key),
        None => Ok(Seq(0)),
    }
}

fn watermark(value: &[u8], kind: &'static str, key: &impl std::fmt::Display) -> Result<Seq, StoreError> {
    records::watermark::decode(value).ok_or_else(|| Corrupt::new(kind, key, "not 8 bytes long").into())
}

/// The highest delivered watermark of a user's devices and their read watermark. Both are raised separately, so
/// read <= delivered is restored here: who has seen an entry has received it.
async fn watermarks(
    tx: &dyn Transaction,
    conversation: ConversationId,
    user: UserId,
) -> Result<Watermarks, StoreError> {
    let prefix = DeliveredKey::of_user(conversation, user);
    let (rows, read) = join(all(tx, &prefix), read_mark(tx, conversation, user)).await;
    let read = read?;
    let mut delivered = read;
    for (key, value) in rows? {
        let key = DeliveredKey::decode(&key).map_err(|error| bad_key(error, &key))?;
        delivered = delivered.max(watermark(&value, DeliveredKey::KIND, &key)?);
    }
    Ok(Watermarks { delivered, read })
}

// ---------------------------------------------------------------------------------------------- whole kinds

/// Every row whose key begins with `prefix`, read in pages.
async fn all(tx: &dyn Transaction, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    between(tx, prefix.to_vec(), after_prefix(prefix)).await
}

/// Every row from `begin` to before `end`, read in pages.
async fn between(
    tx: &dyn Transaction,
    begin: Vec<u8>,
    end: Vec<u8>,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut query = RangeQuery::new(begin, end, RANGE_ROWS_MAX).snapshot();
    let mut rows = Vec::new();
    loop {
        let page = tx.range(query.clone()).await?;
        let full = page.len() == RANGE_ROWS_MAX;
        rows.extend(page);
        match rows.last() {
            Some((last, _)) if full => query.begin = after_key(last).into(),
            _ => return Ok(rows),
        }
    }
}

/// The memberships of a conversation, those that have ended included, in the order of the users.
async fn members(
    tx: &dyn Transaction,
    conversation: ConversationId,
) -> Result<Vec<(UserId, Membership)>, StoreError> {
    let rows = all(tx, &MemberKey::of_conversation(conversation)).await?;
    let decode = |(key, record): (Bytes, Bytes)| {
        let key = MemberKey::decode(&key).map_err(|error| bad_key(error, &key))?;
        Ok((key.user, records::member::decode(&key, &record)?))
    };
    rows.into_iter().map(decode).collect()
}

// ---------------------------------------------------------------------------------------------- the log

/// Entries from `first` to `last`, both included, as many as the bounds allow, but at least one if there is one.
/// Backwards: the last of them, still in rising order. Dense, or an error. And their size.
async fn entries(
    tx: &dyn Transaction,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
    rows_max: usize,
    bytes_max: usize,
    backward: bool,
) -> Result<(Vec<Entry>, usize), StoreError> {
    if first > last || rows_max == 0 {
        return Ok((Vec::new(), 0));
    }
    let key = |seq| EntryKey { conversation, seq };
    let mut query = RangeQuery::new(key(first).encode(), after_key(&key(last).encode()), rows_max)
        .bytes_max(bytes_max)
        .snapshot();
    query.reverse = backward;
    let rows = tx.range(query).await?;
    let mut expected = if backward { last } else { first };
    let mut bytes = 0;
    let mut entries = Vec::with_capacity(rows.len());
    for (found, record) in rows {
        let wanted = key(expected);
        if *found != wanted.encode() {
            return Err(Corrupt::new(EntryKey::KIND, wanted, "missing").into());
        }
        bytes += found.len() + record.len();
        entries.push(decode_record(&wanted, &record)?);
        expected = if backward { expected.prev() } else { expected.next() };
    }
    let ended_early = if backward { expected >= first } else { expected <= last };
    if ended_early && entries.len() < rows_max && bytes < bytes_max {
        return Err(Corrupt::new(EntryKey::KIND, key(expected), "missing").into());
    }
    if backward {
        entries.reverse();
    }
    Ok((entries, bytes))
}

/// The entry in a record.
fn decode_record(key: &EntryKey, record: &Bytes) -> Result<Entry, Corrupt> {
    let entry = decode_entry(records::entry::decode(key, record)?)
        .map_err(|error| Corrupt::new(EntryKey::KIND, key, format!("not an entry: {error:?}")))?;
    if entry.seq == key.seq {
        Ok(entry)
    } else {
        Err(Corrupt::new(EntryKey::KIND, key, format!("it says that it is entry {}", entry.seq)))
    }
}

// ---------------------------------------------------------------------------------------------- access

/// Where a log stands and the user's membership of the conversation, lasting or ended.
struct Access {
    head: Head,
    membership: Membership,
}

/// Who was never a member learns of a group that they are not, and of a direct chat nothing.
async fn access(tx: &dyn Transaction, id: ConversationId, user: UserId) -> Result<Access, QueryError> {
    let (head, conversation, membership) =
        join3(head(tx, id), record(tx, id), membership(tx, id, user)).await;
    let Some(head) = head? else { return Err(QueryError::Unknown) };
    let conversation = conversation?.ok_or_else(|| missing_record(id))?;
    match (membership?, conversation.kind) {
        (Some(membership), _) => Ok(Access { head, membership }),
        (None, tern_protocol::model::Kind::Direct) => Err(QueryError::Unknown),
        (None, tern_protocol::model::Kind::Group) => Err(QueryError::NotMember),
    }
}

/// Of which conversations a user is or was a member, in order, above `after` and up to `until`: at most `max`, and
/// whether there are more.
async fn conversations_of(
    tx: &dyn Transaction,
    user: UserId,
    (after, until): (Option<ConversationId>, Option<ConversationId>),
    max: usize,
) -> Result<(Vec<ConversationId>, bool), StoreError> {
    let prefix = MineKey::of_user(user);
    let key = |conversation| after_key(&MineKey { user, conversation }.encode());
    let begin = after.map_or(prefix.to_vec(), key);
    let end = until.map_or(after_prefix(&prefix), key);
    let rows = tx.range(RangeQuery::new(begin, end, max + 1).snapshot()).await?;
    let more = rows.len() > max;
    let decode = |(key, _): &(Bytes, Bytes)| MineKey::decode(key).map_err(|error| bad_key(error, key));
    let ids = rows.iter().take(max).map(|row| Ok(decode(row)?.conversation));
    Ok((ids.collect::<Result<_, StoreError>>()?, more))
}

fn missing_record(id: ConversationId) -> Corrupt {
    Corrupt::new(ConversationKey::KIND, id, "missing, though there is a head")
}

fn missing_head(id: ConversationId) -> Corrupt {
    Corrupt::new(HeadKey::KIND, id, "missing, though the conversation has members")
}

fn missing_member(conversation: ConversationId, user: UserId) -> Corrupt {
    Corrupt::new(
        MemberKey::KIND,
        MemberKey { conversation, user },
        "missing, though the user's list names it",
    )
}

/// Lets others run: a store whose reads are ready at once would otherwise hold its thread for the whole operation.
async fn give_way() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs the futures a bounded number at a time, results in order.
async fn bounded<T, E, F: Future<Output = Result<T, E>>>(
    futures: impl IntoIterator<Item = F>,
) -> Result<Vec<T>, E> {
    let mut futures = futures.into_iter();
    let mut results = Vec::new();
    loop {
        let chunk: Vec<F> = futures.by_ref().take(CONCURRENT_READS).collect();
        if chunk.is_empty() {
            return Ok(results);
        }
        results.extend(try_join_all(chunk).await?);
    }
}
