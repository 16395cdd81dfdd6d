//! Reads what can be read of a store that is damaged, and says what is lost.
//!
//! A range that cannot be read ends a scan. Where the next readable key is, nobody knows; so keys further and further away
//! are tried, each step twice as long as the one before, and then the middle between the last that could not be read and
//! the first that could, until the two meet. That is a few hundred reads for each damaged part, whatever its size.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tern_protocol::ids::{ConversationId, UserId};

use crate::error::Corrupt;
use crate::keys::conversation::ConversationKey;
use crate::keys::entry::EntryKey;
use crate::keys::head::HeadKey;
use crate::keys::mine::MineKey;
use crate::keys::{KINDS, after_key};
use crate::writes::Row;
use crate::{RangeQuery, StoreError, Transaction, records};

#[cfg(test)]
pub(crate) mod tests;

/// Longer than every key.
const POSITION_BYTES: usize = 48;
const POSITION_BITS: usize = 8 * POSITION_BYTES;
/// More damaged parts than this are told as one that reaches to the last of them.
const GAPS_MAX: usize = 10_000;

/// Keys of the same length, so that they can be counted.
type Position = [u8; POSITION_BYTES];

/// Keys that cannot be read: from here to before there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gap {
    begin: Vec<u8>,
    end: Vec<u8>,
}

/// A range, read in pages, around what cannot be read.
pub(crate) struct Readable<'a> {
    tx: &'a dyn Transaction,
    query: RangeQuery,
    rows_max: usize,
    /// Of the last key that was read.
    key_bytes: usize,
    gaps: Vec<Gap>,
}

impl<'a> Readable<'a> {
    pub(crate) fn new(tx: &'a dyn Transaction, query: RangeQuery) -> Self {
        Self { tx, rows_max: query.rows_max, query, key_bytes: POSITION_BYTES, gaps: Vec::new() }
    }

    /// The next rows; none: the end.
    pub(crate) async fn page(&mut self) -> Result<Vec<Row>, StoreError> {
        loop {
            match self.read(self.query.clone()).await {
                Ok(rows) => {
                    if let Some((last, _)) = rows.last() {
                        self.key_bytes = last.len();
                        self.query.begin = after_key(last).into();
                    }
                    self.query.rows_max = (self.query.rows_max * 8).min(self.rows_max);
                    return Ok(rows);
                }
                // Up to the row before it.
                Err(StoreError::Corrupt(_)) if self.query.rows_max > 1 => {
                    self.query.rows_max = (self.query.rows_max / 8).max(1);
                }
                Err(StoreError::Corrupt(_)) => {
                    let end = self.after_the_gap().await?;
                    self.skip_empty_kinds().await?;
                    self.note(Gap { begin: self.query.begin.to_vec(), end: end.clone() });
                    self.query.begin = end.into();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The engine meets some damage with a panic.
    async fn read(&self, query: RangeQuery) -> Result<Vec<Row>, StoreError> {
        match catch_unwind(AssertUnwindSafe(|| self.tx.range(query))) {
            Ok(reading) => reading.await,
            Err(_) => Err(Corrupt::new("engine", "", "the storage engine has given up").into()),
        }
    }

    /// Of the kinds up to the next row, those that end before it are whole.
    async fn skip_empty_kinds(&mut self) -> Result<(), StoreError> {
        for (prefix, _) in KINDS {
            if [prefix][..] <= self.query.begin[..] || [prefix][..] >= self.query.end[..] {
                continue;
            }
            let query = RangeQuery { end: vec![prefix].into(), ..self.query.clone() };
            match self.read(query).await {
                Ok(rows) if rows.is_empty() => self.query.begin = vec![prefix].into(),
                Ok(_) | Err(StoreError::Corrupt(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn note(&mut self, gap: Gap) {
        let is_full = self.gaps.len() == GAPS_MAX;
        match self.gaps.last_mut() {
            Some(last) if is_full || last.end == gap.begin => last.end = gap.end,
            _ => self.gaps.push(gap),
        }
    }

    /// Whether the first row from here on can be read, if there is one.
    async fn is_readable(&self, begin: &[u8]) -> Result<bool, StoreError> {
        if begin >= &self.query.end[..] {
            return Ok(true);
        }
        let query = RangeQuery { begin: begin.to_vec().into(), rows_max: 1, ..self.query.clone() };
        match self.read(query).await {
            Ok(_) => Ok(true),
            Err(StoreError::Corrupt(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A key behind what cannot be read now; between the two there may be some that could be.
    async fn after_the_gap(&self) -> Result<Vec<u8>, StoreError> {
        let begin = position(&self.query.begin);
        // Most often a single record is damaged, and the next one is that of the next number.
        let bits = 8 * (POSITION_BYTES - self.key_bytes.min(POSITION_BYTES));
        if let Some(next) = plus(&begin, bits) {
            let next = &next[..self.key_bytes.min(POSITION_BYTES)];
            if self.is_readable(next).await? {
                return Ok(next.to_vec());
            }
        }
        let mut low = begin;
        let mut high = position(&self.query.end);
        for bit in 0..POSITION_BITS {
            let Some(next) = plus(&begin, bit).filter(|next| *next < high) else { break };
            if self.is_readable(&next).await? {
                high = next;
                break;
            }
            low = next;
        }
        while let Some(middle) = middle(&low, &high) {
            if self.is_readable(&middle).await? { high = middle } else { low = middle }
        }
        Ok(high.to_vec())
    }

    /// What is lost, in words: of logs the numbers, else from where to where.
    ///
    /// # Errors
    /// Those of reading the heads.
    pub(crate) async fn lost(&self, found: &mut dyn FnMut(Corrupt)) -> Result<(), StoreError> {
        for gap in &self.gaps {
            for (prefix, kind) in KINDS {
                let begin = gap.begin.clone().max(vec![prefix]);
                let end = gap.end.clone().min(vec![prefix + 1]);
                if begin >= end {
                    continue;
                }
                let gap = Gap { begin, end };
                if prefix != EntryKey::PREFIX || !self.lost_entries(&gap, found).await? {
                    found(Corrupt::new(kind, gap.place(), "cannot be read, and is left out"));
                }
            }
        }
        Ok(())
    }

    /// Whether a log that is known lacks something there.
    async fn lost_entries(&self, gap: &Gap, found: &mut dyn FnMut(Corrupt)) -> Result<bool, StoreError> {
        let mut is_known = false;
        let query = RangeQuery::new([HeadKey::PREFIX], [HeadKey::PREFIX + 1], self.rows_max).snapshot();
        let mut heads = Box::new(Readable::new(self.tx, query));
        loop {
            let rows = heads.page().await?;
            if rows.is_empty() {
                return Ok(is_known);
            }
            for (key, value) in rows {
                let Ok(key) = HeadKey::decode(&key) else { continue };
                let Ok(head) = records::head::decode(&key, &value) else { continue };
                let Some((first, last)) = gap.numbers(key.conversation) else { continue };
                let (first, last) = (first.max(head.floor.get()), last.min(head.last.get()));
                if first <= last {
                    is_known = true;
                    let what = format!("entries {first} to {last} cannot be read, and are left out");
                    found(Corrupt::new(EntryKey::KIND, key.conversation, what));
                }
            }
        }
    }
}

impl Gap {
    /// The numbers of a conversation's entries whose keys are in it: first and last.
    fn numbers(&self, conversation: ConversationId) -> Option<(u64, u64)> {
        let log = EntryKey::of_conversation(conversation);
        let number = |key: &[u8]| {
            let mut number = [0; 8];
            let rest = key[log.len().min(key.len())..].iter();
            number.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            u64::from_be_bytes(number)
        };
        let before = |key: &[u8]| key[..log.len().min(key.len())] < log[..];
        let within = |key: &[u8]| key.starts_with(&log);
        let is_longer = |key: &[u8]| key.len() > EntryKey::LEN;
        let first = match &self.begin[..] {
            key if before(key) => 0,
            key if within(key) => number(key).checked_add(u64::from(is_longer(key)))?,
            _ => return None,
        };
        let last = match &self.end[..] {
            key if within(key) => number(key).checked_sub(u64::from(!is_longer(key)))?,
            key if before(key) || *key == log[..] => return None,
            _ => u64::MAX,
        };
        Some((first, last))
    }

    fn place(&self) -> String {
        match (place(&self.begin), place(&self.end)) {
            (Some(first), Some(last)) if first == last => format!("of {first}"),
            (first, last) => {
                let [first, last] = [(first, "the first"), (last, "the last")]
                    .map(|(place, otherwise)| place.unwrap_or_else(|| otherwise.to_owned()));
                format!("from {first} to {last}")
            }
        }
    }
}

/// The conversation or the user with which a key begins, and the entry's number; `None`: it is the bound of a kind.
pub(crate) fn place(key: &[u8]) -> Option<String> {
    let id = key.get(1..ConversationKey::LEN)?.try_into().ok()?;
    let number =
        key.get(ConversationKey::LEN..EntryKey::LEN).map(|number| number.try_into().map(u64::from_be_bytes));
    Some(match (key[0], number) {
        (MineKey::PREFIX, _) => format!("user {}", UserId::from_bytes(id)),
        (EntryKey::PREFIX, Some(Ok(number))) => {
            let number = number.saturating_add(u64::from(key.len() > EntryKey::LEN));
            format!("conversation {}, entry {number}", ConversationId::from_bytes(id))
        }
        _ => format!("conversation {}", ConversationId::from_bytes(id)),
    })
}

fn position(key: &[u8]) -> Position {
    let mut position = [0; POSITION_BYTES];
    position.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    position
}

/// 2^bit further; `None`: there is no such position.
fn plus(position: &Position, bit: usize) -> Option<Position> {
    let mut sum = *position;
    let mut carry = 1u16 << (bit % 8);
    for byte in sum.iter_mut().rev().skip(bit / 8) {
        carry += u16::from(*byte);
        *byte = carry as u8;
        carry >>= 8;
    }
    (carry == 0).then_some(sum)
}

/// Half-way, rounded down; `None`: there is nothing between them.
fn middle(low: &Position, high: &Position) -> Option<Position> {
    let mut sum = [0; POSITION_BYTES];
    let mut carry = 0u16;
    for i in (0..POSITION_BYTES).rev() {
        carry += u16::from(low[i]) + u16::from(high[i]);
        sum[i] = carry as u8;
        carry >>= 8;
    }
    for byte in &mut sum {
        let next = u16::from(*byte & 1);
        *byte = (*byte >> 1) | ((carry as u8) << 7);
        carry = next;
    }
    (sum > *low).then_some(sum)
}
