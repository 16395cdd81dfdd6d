//! A page of a log.

use tern_protocol::event::HistoryPage;
use tern_protocol::ids::UserId;
use tern_protocol::limits::PAGE_BYTES_MAX;
use tern_protocol::request::{History, HistoryFrom};

use super::{access, entries, read_only};
use crate::{Kv, QueryError, Transaction};

/// What a user may see of a log, from where they ask on: from the entry that made them a member to the one that ended
/// it, as far as it is still kept. At least one entry if there is one, at most `limit` of them, and not many more
/// bytes than `PAGE_BYTES_MAX`.
pub async fn page(kv: &dyn Kv, user: UserId, request: &History) -> Result<HistoryPage, QueryError> {
    read_only!(kv, |tx| page_once(tx, user, request))
}

async fn page_once(tx: &dyn Transaction, user: UserId, request: &History) -> Result<HistoryPage, QueryError> {
    let id = request.conversation;
    let access = access(tx, id, user).await?;
    let (first, last) = access.membership.visible(&access.head);
    let (range, backward) = match request.from {
        HistoryFrom::Forward(from) => ((from.max(first), last), false),
        HistoryFrom::Backward(to) => ((first, to.unwrap_or(last).min(last)), true),
    };
    let (entries, _) = entries(tx, id, range, request.limit as usize, PAGE_BYTES_MAX, backward).await?;
    Ok(HistoryPage { conversation: id, head: last, floor: first, entries })
}
