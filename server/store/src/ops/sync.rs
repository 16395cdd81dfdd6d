//! What a device missed.
//!
//! **What a page contains.** In the order of the ids, every conversation of the user
//!  - whose end (as far as this user may see) is not where the device's knowledge ends. Usually the device misses
//!    entries. Should it know *more*, then the line shows that too, and it can tell that the server has lost data;
//!  - that the device did not name;
//!  - whose watermarks are above those that the device knows: the user's own `read`, which another device of theirs
//!    may have set, and in direct chats the peer's. This costs a line and no entries, and only when they moved.
//!
//! **What the entries are.** Dense from the first that the device misses (and may see) to `complete_to`. A page has
//! bounds: so many entries, so many bytes, so many lines. When a conversation uses up what is left, `complete_to`
//! stays below its head, and the device goes on with history. Conversations after it that miss something are left to
//! the next page, whose bounds are fresh: `covered_until` ends before them.

use futures_util::future::{try_join, try_join_all};
use tern_protocol::event::{ConversationState, SyncPage};
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX, SYNC_CONVERSATIONS_MAX, SYNC_ENTRIES_MAX};
use tern_protocol::model::{Entry, WallMillis, Watermarks};
use tern_protocol::request::{self, Known};

use super::state::View;
use super::{CONCURRENT_READS, bounded, conversations_of, entries, give_way, head, read_mark, read_only};
use crate::{Kv, QueryError, StoreError, Transaction};

/// Entries of each conversation that are read along with its line, many conversations at once. Most devices miss few
/// entries of most conversations; the others are read on, one after the other.
const FIRST_ROWS: usize = 32;
/// The same in bytes.
const FIRST_BYTES: usize = 16 * 1024;

/// Answers a device that says what it has, in one transaction.
pub async fn sync(kv: &dyn Kv, user: UserId, request: &request::Sync) -> Result<SyncPage, QueryError> {
    read_only!(kv, |tx| sync_once(tx, user, request))
}

async fn sync_once(
    tx: &dyn Transaction,
    user: UserId,
    request: &request::Sync,
) -> Result<SyncPage, QueryError> {
    let range = (request.after, request.until);
    let (ids, more) = conversations_of(tx, user, range, SYNC_CONVERSATIONS_MAX).await?;
    let mut page = Page::default();
    for chunk in ids.chunks(CONCURRENT_READS) {
        give_way().await;
        let lines = try_join_all(chunk.iter().map(|id| Line::read(tx, user, *id, request))).await?;
        for (id, line) in chunk.iter().zip(lines) {
            if let Some(line) = line {
                if !page.has_room(&line) {
                    return Ok(SyncPage { conversations: page.conversations, covered_until: page.covered });
                }
                page.add(tx, line).await?;
            }
            page.covered = Some(*id);
        }
    }
    let covered_until = page.covered.filter(|_| more);
    Ok(SyncPage { conversations: page.conversations, covered_until })
}

/// The conversations of a user whose logs have grown at `since` or later, by the clock of whoever appended, with the newest
/// entries that the user may see: for connections that may not have been told.
///
/// # Errors
/// Those of the store.
pub async fn moved_since(
    kv: &dyn Kv,
    user: UserId,
    since: WallMillis,
) -> Result<Vec<(ConversationId, Seq)>, StoreError> {
    let mut moved = Vec::new();
    let mut after = None;
    loop {
        // A transaction for each part: whoever has many conversations would need more time than one has.
        let (part, more) = read_only!(kv, |tx| moved_once(tx, user, after, since))?;
        moved.extend(part);
        match more {
            Some(last) => after = Some(last),
            None => return Ok(moved),
        }
    }
}

/// Those that moved, and where to go on.
type Moved = (Vec<(ConversationId, Seq)>, Option<ConversationId>);

async fn moved_once(
    tx: &dyn Transaction,
    user: UserId,
    after: Option<ConversationId>,
    since: WallMillis,
) -> Result<Moved, StoreError> {
    let (ids, more) = conversations_of(tx, user, (after, None), SYNC_CONVERSATIONS_MAX).await?;
    let moved = bounded(ids.iter().map(async |id| match moved_last(tx, user, *id, since).await {
        // Whoever asks for it is told so; the others are not to go without.
        Err(StoreError::Corrupt(_)) => Ok(None),
        last => last.map(|last| last.map(|last| (*id, last))),
    }))
    .await?;
    let moved = moved.into_iter().flatten().collect();
    Ok((moved, ids.last().copied().filter(|_| more)))
}

/// The newest entry that the user may see, if the log has grown since then.
async fn moved_last(
    tx: &dyn Transaction,
    user: UserId,
    id: ConversationId,
    since: WallMillis,
) -> Result<Option<Seq>, StoreError> {
    match head(tx, id).await? {
        Some(head) if head.time >= since => Ok(Some(View::read(tx, user, id).await?.last)),
        _ => Ok(None),
    }
}

/// A conversation that belongs into the page.
struct Line {
    state: ConversationState,
    /// The first entry that the device misses; beyond the head when it misses none.
    start: Seq,
    /// The first entries from there, and their size.
    entries: (Vec<Entry>, usize),
}

impl Line {
    async fn read(
        tx: &dyn Transaction,
        user: UserId,
        id: ConversationId,
        request: &request::Sync,
    ) -> Result<Option<Self>, StoreError> {
        let view = View::read(tx, user, id).await?;
        let named = request.known.binary_search_by_key(&id, |known| known.conversation);
        let known = named.ok().map(|at| request.known[at]);
        let (read, peer) = try_join(read_mark(tx, id, user), view.peer_marks(tx)).await?;
        if known.is_some_and(|known| is_up_to_date(&known, view.last, read, peer)) {
            return Ok(None);
        }
        let start = match (known, request.latest) {
            (Some(known), _) => Seq(known.seq.get().saturating_add(1)),
            (None, Some(latest)) => Seq(view.last.get().saturating_sub(u64::from(latest)).saturating_add(1)),
            (None, None) => view.first,
        };
        let start = start.max(view.first);
        let state = view.state(tx, read, peer).await?;
        let entries = entries(tx, id, (start, view.last), FIRST_ROWS, FIRST_BYTES, false).await?;
        Ok(Some(Self { state, start, entries }))
    }

    fn misses_something(&self) -> bool {
        self.start <= self.state.head
    }
}

/// Whether the device has nothing to learn. Watermarks that it knows better than the store do not count: the store
/// may have forgotten the last second of them, and the device says them again by itself.
fn is_up_to_date(known: &Known, last: Seq, read: Seq, peer: Watermarks) -> bool {
    known.seq == last
        && known.read >= read
        && known.peer_delivered >= peer.delivered
        && known.peer_read >= peer.read
}

#[derive(Default)]
struct Page {
    conversations: Vec<ConversationState>,
    covered: Option<ConversationId>,
    entries: usize,
    bytes: usize,
}

impl Page {
    fn has_room(&self, line: &Line) -> bool {
        let full = self.entries >= SYNC_ENTRIES_MAX || self.bytes >= PAGE_BYTES_MAX;
        self.conversations.len() < PAGE_ROWS_MAX && !(full && line.misses_something())
    }

    async fn add(&mut self, tx: &dyn Transaction, line: Line) -> Result<(), StoreError> {
        let Line { mut state, start, entries: (mut missed, mut bytes) } = line;
        if start <= state.head {
            if self.entries + missed.len() > SYNC_ENTRIES_MAX || self.bytes + bytes > PAGE_BYTES_MAX {
                (missed, bytes) = (Vec::new(), 0);
            }
            let next = missed.last().map_or(start, |last| last.seq.next());
            let rows_left = SYNC_ENTRIES_MAX - self.entries - missed.len();
            let bytes_left = PAGE_BYTES_MAX - self.bytes - bytes;
            if next <= state.head && bytes_left > 0 {
                let range = (next, state.head);
                let (rest, more) =
                    entries(tx, state.conversation, range, rows_left, bytes_left, false).await?;
                missed.extend(rest);
                bytes += more;
            }
            state.complete_to = missed.last().map_or(start.prev(), |last| last.seq);
        }
        self.entries += missed.len();
        self.bytes += bytes;
        state.entries = missed;
        self.conversations.push(state);
        Ok(())
    }
}
