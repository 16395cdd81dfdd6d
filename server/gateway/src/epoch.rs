//! The epoch of the server's store: begun at the first start, begun anew by a restore.

use std::io;

use aws_lc_rs::rand;
use tern_protocol::ids::StoreEpoch;
use tern_store::{Kv, ops};
use thiserror::Error;

use crate::store;

/// Why the store has no epoch.
#[derive(Debug, Error)]
pub enum EpochError {
    /// The store.
    #[error(transparent)]
    Store(#[from] ops::epoch::EpochError),
    /// The system.
    #[error("the store's epoch cannot be begun: {0}")]
    Io(#[from] io::Error),
}

/// A new one.
///
/// # Errors
/// When the system has no random numbers.
pub fn fresh() -> io::Result<StoreEpoch> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(StoreEpoch::from_bytes(bytes))
}

/// The epoch of this store, which begins one if it has none. Blocks until that is durable.
///
/// # Errors
/// [`EpochError`]: then it must not be served.
pub fn load_or_begin(kv: &dyn Kv) -> Result<StoreEpoch, EpochError> {
    let fresh = fresh()?;
    Ok(store::block_on(|| ops::epoch::load_or_begin(kv, fresh))??)
}
