//! Watermarks: how far devices have stored and users have seen a conversation.
//!
//! They are not in the log and only ever rise, so any number of writers may write them in any order.

use tern_protocol::event::{ReceiptPage, UserReceipt};
use tern_protocol::ids::{ConversationId, DeviceId, Seq, UserId};
use tern_protocol::request::ListUsers;

use super::{access, bounded, members, read_only, watermarks};
use crate::keys::delivered::DeliveredKey;
use crate::keys::read::ReadKey;
use crate::{CommitError, Kv, QueryError, Transaction, Version};

/// The watermarks of one user in one conversation. The caller has checked that they are not above the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub conversation: ConversationId,
    /// Whose.
    pub user: UserId,
    /// How far each device has stored it; those at 0 are not written.
    pub delivered: Vec<(DeviceId, Seq)>,
    /// How far the user has seen it; 0: not said.
    pub read: Seq,
}

/// Raises watermarks, all in one transaction. It reads nothing, so it never conflicts, and writing the same again
/// changes nothing: after any error that is not for good, try again.
pub async fn persist(kv: &dyn Kv, writes: &[Write]) -> Result<Version, CommitError> {
    let mut tx = kv.begin();
    for write in writes {
        let Write { conversation, user, ref delivered, read } = *write;
        for (device, seq) in delivered.iter().filter(|(_, seq)| *seq > Seq(0)) {
            tx.atomic_max(&DeliveredKey { conversation, user, device: *device }.encode(), seq.get());
        }
        if read > Seq(0) {
            tx.atomic_max(&ReadKey { conversation, user }.encode(), read.get());
        }
    }
    tx.commit().await
}

/// A page of the members' watermarks. Only for members; former ones are not listed.
pub async fn page(kv: &dyn Kv, user: UserId, request: &ListUsers) -> Result<ReceiptPage, QueryError> {
    read_only!(kv, |tx| page_once(tx, user, request))
}

async fn page_once(
    tx: &dyn Transaction,
    user: UserId,
    request: &ListUsers,
) -> Result<ReceiptPage, QueryError> {
    let id = request.conversation;
    if !access(tx, id, user).await?.membership.is_active() {
        return Err(QueryError::NotMember);
    }
    let mut active = members(tx, id).await?;
    active.retain(|(user, membership)| {
        membership.is_active() && request.after.is_none_or(|after| *user > after)
    });
    let more = active.len() > request.limit as usize;
    active.truncate(request.limit as usize);
    let receipts = bounded(active.iter().map(async |(user, _)| {
        let marks = watermarks(tx, id, *user).await?;
        Ok::<_, QueryError>(UserReceipt { user: *user, delivered: marks.delivered, read: marks.read })
    }))
    .await?;
    let next = receipts.last().map(|receipt| receipt.user).filter(|_| more);
    Ok(ReceiptPage { receipts, next })
}
