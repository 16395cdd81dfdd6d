//! Retention: raising a log's floor.

use tern_protocol::ids::{ConversationId, Seq};
use tern_protocol::model::Head;

use crate::keys::entry::EntryKey;
use crate::keys::head::HeadKey;
use crate::{CommitError, Kv, records};

/// Removes the entries below `floor`, but never the newest one, which says where the log stands. `None`: there is no
/// such conversation. Otherwise the head as it is now: when its floor is below what was asked for (and below the
/// newest entry), call again; one call removes as many as the store can in one transaction
/// ([`cleared_keys_max`](Kv::cleared_keys_max)).
///
/// It moves the fence: the owner's next append conflicts, and the owner loads again. `Conflict` here means that the
/// owner was faster; try again.
pub async fn raise_floor(kv: &dyn Kv, id: ConversationId, floor: Seq) -> Result<Option<Head>, CommitError> {
    let key = HeadKey { conversation: id };
    let mut tx = kv.begin();
    let Some(head) = super::head(&*tx, id).await? else { return Ok(None) };
    let target = floor.min(head.last).min(Seq(head.floor.get().saturating_add(kv.cleared_keys_max())));
    if target <= head.floor {
        return Ok(Some(head));
    }
    let entry = |seq| EntryKey { conversation: id, seq }.encode();
    tx.clear_range(&entry(head.floor), &entry(target));
    let head = Head { floor: target, ..head };
    tx.set(&key.encode(), records::head::encode(&key, &head));
    tx.commit().await?;
    Ok(Some(head))
}
