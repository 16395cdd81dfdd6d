//! Lists: a user's conversations, a group's members.

use futures_util::future::{try_join, try_join_all};
use tern_protocol::event::{ConversationPage, ConversationState, MemberPage};
use tern_protocol::ids::{ConversationId, Seq, UserId};
use tern_protocol::limits::{PAGE_BYTES_MAX, UNREAD_COUNT_MAX};
use tern_protocol::model::Change;
use tern_protocol::request::{ListConversations, ListUsers};

use super::state::View;
use super::{access, conversations_of, entries, read_mark, read_only};
use crate::{Kv, QueryError, StoreError, Transaction};

/// Conversations of a list that are read at once: fewer than elsewhere, since each may scan a hundred entries.
const CONCURRENT_LINES: usize = 16;
/// Entries that are looked at in search of unread messages. Only who never marks what they read, and writes hundreds
/// of entries themselves, has more; their count is too low then.
const UNREAD_SCAN_ROWS: usize = 1_024;
/// Entries that the search reads at a time, and bytes.
const UNREAD_PAGE: (usize, usize) = (128, 256 * 1024);

/// A page of the conversation list, with the last entry and the number of unread messages of each. Conversations that
/// the user has left are in it, without a role.
pub async fn conversations(
    kv: &dyn Kv,
    user: UserId,
    request: &ListConversations,
) -> Result<ConversationPage, QueryError> {
    read_only!(kv, |tx| conversations_once(tx, user, request))
}

async fn conversations_once(
    tx: &dyn Transaction,
    user: UserId,
    request: &ListConversations,
) -> Result<ConversationPage, QueryError> {
    let (ids, more) = conversations_of(tx, user, (request.after, None), request.limit as usize).await?;
    let mut page: Vec<ConversationState> = Vec::with_capacity(ids.len());
    let mut bytes = 0;
    for chunk in ids.chunks(CONCURRENT_LINES) {
        super::give_way().await;
        for (state, size) in try_join_all(chunk.iter().map(|id| line(tx, user, *id))).await? {
            if bytes >= PAGE_BYTES_MAX {
                let next = page.last().map(|state| state.conversation);
                return Ok(ConversationPage { conversations: page, next });
            }
            bytes += size;
            page.push(state);
        }
    }
    let next = page.last().map(|state| state.conversation).filter(|_| more);
    Ok(ConversationPage { conversations: page, next })
}

async fn line(
    tx: &dyn Transaction,
    user: UserId,
    id: ConversationId,
) -> Result<(ConversationState, usize), StoreError> {
    let view = View::read(tx, user, id).await?;
    let (read, peer) = try_join(read_mark(tx, id, user), view.peer_marks(tx)).await?;
    let mut state = view.state(tx, read, peer).await?;
    let (last, bytes) = entries(tx, id, (view.first.max(view.last), view.last), 1, usize::MAX, false).await?;
    state.entries = last;
    state.unread = unread(tx, user, id, (state.read.next().max(view.first), view.last)).await?;
    Ok((state, bytes))
}

/// Messages of others in this part of the log.
async fn unread(
    tx: &dyn Transaction,
    user: UserId,
    id: ConversationId,
    (mut first, last): (Seq, Seq),
) -> Result<u32, StoreError> {
    let (mut count, mut looked_at) = (0, 0);
    while first <= last && count < UNREAD_COUNT_MAX && looked_at < UNREAD_SCAN_ROWS {
        let (page, _) = entries(tx, id, (first, last), UNREAD_PAGE.0, UNREAD_PAGE.1, false).await?;
        let Some(newest) = page.last() else { break };
        first = newest.seq.next();
        looked_at += page.len();
        let of_others = page.iter().filter(|entry| entry.sender.user != user);
        count += of_others.filter(|entry| matches!(entry.change, Change::Message(_))).count() as u32;
    }
    Ok(count.min(UNREAD_COUNT_MAX))
}

/// A page of a conversation's members as they are now. Only for members.
pub async fn members(kv: &dyn Kv, user: UserId, request: &ListUsers) -> Result<MemberPage, QueryError> {
    read_only!(kv, |tx| members_once(tx, user, request))
}

async fn members_once(
    tx: &dyn Transaction,
    user: UserId,
    request: &ListUsers,
) -> Result<MemberPage, QueryError> {
    if !access(tx, request.conversation, user).await?.membership.is_active() {
        return Err(QueryError::NotMember);
    }
    // Groups are small enough to be read whole, which the count needs anyway.
    let mut active = super::members(tx, request.conversation).await?;
    active.retain(|(_, membership)| membership.is_active());
    let count = active.len() as u32;
    active.retain(|(user, _)| request.after.is_none_or(|after| *user > after));
    let more = active.len() > request.limit as usize;
    active.truncate(request.limit as usize);
    let members: Vec<_> =
        active.into_iter().map(|(user, membership)| (user, membership.role, membership.joined)).collect();
    let next = members.last().map(|(user, ..)| *user).filter(|_| more);
    Ok(MemberPage { members, next, count })
}
