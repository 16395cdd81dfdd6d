//! Which history the store holds.

use tern_protocol::ids::StoreEpoch;

use crate::keys::epoch::EpochKey;
use crate::{CommitError, Kv, Transaction, records};

/// Attempts to begin an epoch, the first included.
const ATTEMPTS_MAX: u32 = 8;

/// The store's epoch; a store that has none begins with `fresh`. Of several servers that begin one at the same time, all
/// get the same.
///
/// # Errors
/// When the store cannot be read or written, [`CommitError::Corrupt`] when the record is damaged.
pub async fn load_or_begin(kv: &dyn Kv, fresh: StoreEpoch) -> Result<StoreEpoch, CommitError> {
    let mut attempts = 1;
    loop {
        match load_or_begin_once(kv, fresh).await {
            // Whoever was first has written it, and if that was this one, it is read now.
            Err(CommitError::Conflict | CommitError::TooOld | CommitError::Unknown { .. })
                if attempts < ATTEMPTS_MAX =>
            {
                attempts += 1;
            }
            result => return result,
        }
    }
}

async fn load_or_begin_once(kv: &dyn Kv, fresh: StoreEpoch) -> Result<StoreEpoch, CommitError> {
    let mut tx = kv.begin();
    if let Some(record) = tx.get(&EpochKey.encode()).await? {
        return Ok(records::epoch::decode(&EpochKey, &record)?);
    }
    set(&mut *tx, fresh);
    tx.commit().await?;
    Ok(fresh)
}

/// Puts another epoch into the place of the store's own, within this transaction.
pub(crate) fn set(tx: &mut dyn Transaction, epoch: StoreEpoch) {
    tx.set(&EpochKey.encode(), records::epoch::encode(&EpochKey, &epoch));
}
