//! Which history the store holds, and whether it may be served.

use tern_protocol::ids::StoreEpoch;

use crate::keys::epoch::EpochKey;
use crate::migrate::{self, Migration};
use crate::{CommitError, Kv, StoreError, Transaction, records};

/// Attempts to begin an epoch, the first included.
const ATTEMPTS_MAX: u32 = 8;

/// Why there is no epoch to serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// The store cannot be read or written, or the record is damaged.
    #[error("the store's epoch can neither be read nor begun: {0}")]
    Store(#[from] CommitError),
    /// The store is the source or the target of a migration.
    #[error(transparent)]
    Migration(Migration),
}

impl From<StoreError> for EpochError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// The store's epoch; a store that has none begins with `fresh`. Of several servers that begin one at the same time, all
/// get the same.
///
/// # Errors
/// [`EpochError`]: then the store must not be served.
pub async fn load_or_begin(kv: &dyn Kv, fresh: StoreEpoch) -> Result<StoreEpoch, EpochError> {
    let mut attempts = 1;
    loop {
        match load_or_begin_once(kv, fresh).await {
            // Whoever was first has written it, and if that was this one, it is read now.
            Err(EpochError::Store(
                CommitError::Conflict | CommitError::TooOld | CommitError::Unknown { .. },
            )) if attempts < ATTEMPTS_MAX => {
                attempts += 1;
            }
            result => return result,
        }
    }
}

async fn load_or_begin_once(kv: &dyn Kv, fresh: StoreEpoch) -> Result<StoreEpoch, EpochError> {
    let mut tx = kv.begin();
    if let Some(migration) = migrate::migration(&*tx).await? {
        return Err(EpochError::Migration(migration));
    }
    if let Some(record) = tx.get(&EpochKey.encode()).await? {
        return Ok(records::epoch::decode(&EpochKey, &record).map_err(CommitError::Corrupt)?);
    }
    set(&mut *tx, fresh);
    tx.commit().await?;
    Ok(fresh)
}

/// Puts another epoch into the place of the store's own, within this transaction.
pub(crate) fn set(tx: &mut dyn Transaction, epoch: StoreEpoch) {
    tx.set(&EpochKey.encode(), records::epoch::encode(&EpochKey, &epoch));
}
