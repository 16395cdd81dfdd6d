//! The owner's side of a log: load what it decides with, append what it decided, and find out about the past.
//!
//! The head is the fence. Every append reads it, or declares that it depends on it, and writes it; so of two owners
//! that think they own a conversation, one gets a conflict and reloads. Nothing else serialises them.

use bytes::Bytes;
use futures_util::future::{join, join4};
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::limits::ENTRY_BYTES_MAX;
use tern_protocol::model::{Conversation, Entry, Head, Membership, SendWindow, Sender, Watermarks};

use super::{all, bad_key, bounded, entries, missing_record, read_only, watermark};
use crate::keys::conversation::ConversationKey;
use crate::keys::delivered::DeliveredKey;
use crate::keys::entry::EntryKey;
use crate::keys::head::HeadKey;
use crate::keys::member::MemberKey;
use crate::keys::mine::MineKey;
use crate::keys::read::ReadKey;
use crate::keys::window::WindowKey;
use crate::{CommitError, Corrupt, Kv, StoreError, Transaction, Version, records};

/// Entries that a search for a late duplicate reads at a time.
const SEARCH_ROWS: usize = 256;
/// Attempts of a fence, the first included.
const FENCE_ATTEMPTS: u32 = 8;

/// Everything about a conversation that its owner decides with, but for the send windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The version that it was read at.
    pub version: Version,
    /// Kind and title.
    pub conversation: Conversation,
    /// Where the log stands.
    pub head: Head,
    /// In the order of the users; those whose membership has ended included.
    pub members: Vec<(UserId, Membership)>,
    /// In the order of the users; those without any left out. `read <= delivered` holds.
    pub watermarks: Vec<(UserId, Watermarks)>,
}

/// Reads a conversation in one transaction. `None`: it does not exist (at that version).
pub async fn load(kv: &dyn Kv, id: ConversationId) -> Result<(Version, Option<Loaded>), StoreError> {
    read_only!(kv, |tx| load_once(tx, id))
}

async fn load_once(
    tx: &dyn Transaction,
    id: ConversationId,
) -> Result<(Version, Option<Loaded>), StoreError> {
    let (version, head) = join(tx.read_version(), super::head(tx, id)).await;
    let version = version?;
    let Some(head) = head? else { return Ok((version, None)) };
    let delivered_prefix = DeliveredKey::of_conversation(id);
    let read_prefix = ReadKey::of_conversation(id);
    let (conversation, members, delivered, read) = join4(
        super::record(tx, id),
        super::members(tx, id),
        all(tx, &delivered_prefix),
        all(tx, &read_prefix),
    )
    .await;
    let conversation = conversation?.ok_or_else(|| missing_record(id))?;
    let mut watermarks = std::collections::BTreeMap::<UserId, Watermarks>::new();
    for (key, value) in delivered? {
        let key = DeliveredKey::decode(&key).map_err(|error| bad_key(error, &key))?;
        let marks = watermarks.entry(key.user).or_default();
        marks.delivered = marks.delivered.max(watermark(&value, DeliveredKey::KIND, &key)?);
    }
    for (key, value) in read? {
        let key = ReadKey::decode(&key).map_err(|error| bad_key(error, &key))?;
        let marks = watermarks.entry(key.user).or_default();
        marks.read = watermark(&value, ReadKey::KIND, &key)?;
        marks.delivered = marks.delivered.max(marks.read);
    }
    let watermarks = watermarks.into_iter().collect();
    Ok((version, Some(Loaded { version, conversation, head, members: members?, watermarks })))
}

/// Reads the send windows of these devices, in their order; a device that never sent has an empty one. A damaged one
/// does not keep the others from being read. The head comes from the same transaction (the default one when there is no such conversation), so that the caller can tell
/// whether what it knows is stale.
pub async fn load_windows(
    kv: &dyn Kv,
    id: ConversationId,
    senders: &[Sender],
) -> Result<(Version, Head, Vec<Result<SendWindow, Corrupt>>), StoreError> {
    read_only!(kv, |tx| load_windows_once(tx, id, senders))
}

async fn load_windows_once(
    tx: &dyn Transaction,
    id: ConversationId,
    senders: &[Sender],
) -> Result<(Version, Head, Vec<Result<SendWindow, Corrupt>>), StoreError> {
    let (version, head) = join(tx.read_version(), super::head(tx, id)).await;
    let windows = bounded(senders.iter().map(|sender| window(tx, id, *sender))).await?;
    Ok((version?, head?.unwrap_or_default(), windows))
}

async fn window(
    tx: &dyn Transaction,
    conversation: ConversationId,
    sender: Sender,
) -> Result<Result<SendWindow, Corrupt>, StoreError> {
    let key = WindowKey { conversation, user: sender.user, device: sender.device };
    Ok(match tx.get_snapshot(&key.encode()).await? {
        Some(record) => records::window::decode(&key, &record),
        None => Ok(SendWindow::default()),
    })
}

/// What the owner's decision was based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The head as the owner knows it; the default one when the conversation does not exist.
    pub head: Head,
    /// A version at which the head was this one: of the load, or of the owner's last commit. With it the transaction
    /// needs no read, but is `TooOld` when the owner has been idle for longer than the store remembers (5 s on
    /// FoundationDB). `None`: the transaction reads the head and compares. After `TooOld`, try again with `None`.
    pub version: Option<Version>,
}

/// One append of one conversation, and everything that changes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which.
    pub conversation: ConversationId,
    /// What it was based on.
    pub base: Base,
    /// Encoded entries, dense from `base.head.last + 1`.
    pub entries: Vec<(Seq, Bytes)>,
    /// The head after it.
    pub head: Head,
    /// The send windows that changed.
    pub windows: Vec<(Sender, SendWindow)>,
    /// The memberships that changed.
    pub members: Vec<(UserId, Membership)>,
    /// When it is new, or its title has changed.
    pub record: Option<Conversation>,
}

/// Appends. `Conflict`: the head is not the one that the batch is based on; load again.
///
/// # Panics
/// When the entries are not dense up to the new head, or larger than is allowed: numbers must not get lost, so this
/// is checked in production too.
pub async fn commit(kv: &dyn Kv, batch: &Batch) -> Result<Version, CommitError> {
    let mut expected = batch.base.head.last;
    for (seq, entry) in &batch.entries {
        expected = expected.next();
        assert_eq!(*seq, expected, "entries are dense from the head on");
        assert!(entry.len() <= ENTRY_BYTES_MAX, "an entry is within ENTRY_BYTES_MAX");
    }
    assert_eq!(batch.head.last, expected, "the head names the last entry");
    assert!(!batch.entries.is_empty(), "an append has entries");

    let id = batch.conversation;
    let head_key = HeadKey { conversation: id };
    let mut tx;
    match batch.base.version {
        Some(version) => {
            tx = kv.begin();
            tx.set_read_version(version);
            tx.add_read_conflict(&head_key.encode());
        }
        None => {
            tx = kv.begin_recent();
            let stored = super::head(&*tx, id).await?.unwrap_or_default();
            if stored != batch.base.head {
                return Err(CommitError::Conflict);
            }
        }
    }
    for (seq, entry) in &batch.entries {
        let key = EntryKey { conversation: id, seq: *seq };
        tx.set(&key.encode(), records::entry::encode(&key, entry));
    }
    tx.set(&head_key.encode(), records::head::encode(&head_key, &batch.head));
    for (sender, window) in &batch.windows {
        let key = WindowKey { conversation: id, user: sender.user, device: sender.device };
        tx.set(&key.encode(), records::window::encode(&key, window));
    }
    for (user, membership) in &batch.members {
        let key = MemberKey { conversation: id, user: *user };
        tx.set(&key.encode(), records::member::encode(&key, membership));
        if membership.joined > batch.base.head.last {
            let key = MineKey { user: *user, conversation: id };
            tx.set(&key.encode(), Bytes::new());
        }
    }
    if let Some(record) = &batch.record {
        let key = ConversationKey { conversation: id };
        tx.set(&key.encode(), records::conversation::encode(&key, record));
    }
    tx.commit().await
}

/// Makes sure that an earlier append of this conversation whose outcome is unknown either has landed or never will:
/// writes the head as it is, so that whatever was based on the head before conflicts. Then load again.
pub async fn fence(kv: &dyn Kv, id: ConversationId) -> Result<(), CommitError> {
    let mut attempts = 1;
    loop {
        match fence_once(kv, id).await {
            Ok(_) => return Ok(()),
            // A fence that landed unnoticed has written what was there, so another one does no harm.
            Err(CommitError::Conflict | CommitError::TooOld | CommitError::Unknown { .. })
                if attempts < FENCE_ATTEMPTS =>
            {
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn fence_once(kv: &dyn Kv, id: ConversationId) -> Result<Version, CommitError> {
    let key = HeadKey { conversation: id };
    let mut tx = kv.begin();
    match super::head(&*tx, id).await? {
        Some(head) => tx.set(&key.encode(), records::head::encode(&key, &head)),
        // The append that may still land creates the conversation: removing nothing is a write, too.
        None => tx.clear(&key.encode()),
    }
    tx.commit().await
}

/// What became of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This entry has its number.
    Entry(Entry),
    /// It was never stored.
    Absent,
    /// It is not in the log, whose beginning has been trimmed: it may have been there.
    Trimmed,
}

/// Looks into the log for a send that is older than the device's window: a retry after a very long time. Reads
/// backwards from before `before`, a bounded page and a transaction at a time; a device's numbers rise along the log,
/// so the search ends at its first entry with a smaller one.
pub async fn find_send(
    kv: &dyn Kv,
    id: ConversationId,
    sender: Sender,
    client_seq: ClientSeq,
    before: Seq,
) -> Result<Found, StoreError> {
    let mut last = before.prev();
    loop {
        let (floor, page) = read_only!(kv, |tx| search_page(tx, id, last))?;
        let first = page.first().map(|entry| entry.seq);
        for entry in page.into_iter().rev().filter(|entry| entry.sender == sender) {
            match entry.client_seq.cmp(&client_seq) {
                std::cmp::Ordering::Equal => return Ok(Found::Entry(entry)),
                std::cmp::Ordering::Less => return Ok(Found::Absent),
                std::cmp::Ordering::Greater => {}
            }
        }
        match first {
            Some(first) if first > floor => {
                last = first.prev();
                super::give_way().await;
            }
            _ => return Ok(if floor > Seq(1) { Found::Trimmed } else { Found::Absent }),
        }
    }
}

async fn search_page(
    tx: &dyn Transaction,
    id: ConversationId,
    last: Seq,
) -> Result<(Seq, Vec<Entry>), StoreError> {
    let Some(head) = super::head(tx, id).await? else { return Ok((Seq(1), Vec::new())) };
    let range = (head.floor, last.min(head.last));
    let (entries, _) = entries(tx, id, range, SEARCH_ROWS, super::RANGE_BYTES, true).await?;
    Ok((head.floor, entries))
}
