//! The leases of a cluster's nodes.

use tern_protocol::ids::NodeId;

use super::{all, bad_key};
use crate::keys::node::NodeKey;
use crate::records::{self, NodeLease};
use crate::{CommitError, Kv, StoreError, Transaction};

/// Leases, in the order of the nodes.
pub type Leases = Vec<(NodeId, NodeLease)>;

/// Writes a node's lease, and says what all leases were when the transaction began. A damaged one is left out: its node
/// writes it anew within a second, or is dead.
///
/// Reads without conflict, so nodes do not hinder each other, and writes what nobody else writes, so after
/// [`CommitError::Unknown`] it is just done again.
///
/// # Errors
/// Those of the store.
pub async fn beat(kv: &dyn Kv, node: NodeId, lease: &NodeLease) -> Result<Leases, CommitError> {
    let mut tx = kv.begin();
    let leases = leases(&*tx).await?;
    let key = NodeKey { node };
    tx.set(&key.encode(), records::node::encode(&key, lease));
    tx.commit().await?;
    Ok(leases)
}

/// Reads all leases, as [`beat`] does, of nodes that may be dead too.
///
/// # Errors
/// Those of the store.
pub async fn read(kv: &dyn Kv) -> Result<Leases, StoreError> {
    leases(&*kv.begin()).await
}

async fn leases(tx: &dyn Transaction) -> Result<Leases, StoreError> {
    let mut leases = Vec::new();
    for (key, record) in all(tx, &[NodeKey::PREFIX]).await? {
        let key = NodeKey::decode(&key).map_err(|error| bad_key(error, &key))?;
        if let Ok(lease) = records::node::decode(&key, &record) {
            leases.push((key.node, lease));
        }
    }
    Ok(leases)
}

/// Takes a node's own lease out: it leaves.
///
/// # Errors
/// Those of the store; the others take it for dead some seconds later then.
pub async fn leave(kv: &dyn Kv, node: NodeId) -> Result<(), CommitError> {
    let mut tx = kv.begin();
    tx.clear(&NodeKey { node }.encode());
    tx.commit().await.map(drop)
}

/// Takes out the lease of a dead node, unless it has beaten meanwhile: `beat` is the one at which it has stood still.
///
/// # Errors
/// Those of the store; [`CommitError::Conflict`] when it lives.
pub async fn forget(kv: &dyn Kv, node: NodeId, beat: u64) -> Result<(), CommitError> {
    let mut tx = kv.begin();
    let key = NodeKey { node };
    let Some(record) = tx.get(&key.encode()).await? else { return Ok(()) };
    if records::node::decode(&key, &record).is_ok_and(|lease| lease.beat != beat) {
        return Err(CommitError::Conflict);
    }
    tx.clear(&key.encode());
    tx.commit().await.map(drop)
}
