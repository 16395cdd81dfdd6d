//! Which nodes the keeper sees, for whoever looks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tern_core::time::MonoMillis;
use tern_protocol::ids::NodeId;
use tern_store::records::NodeLease;

/// A node, as its lease in the store has it.
#[derive(Debug, Clone)]
pub struct Member {
    /// Which.
    pub node: NodeId,
    /// What it says of itself.
    pub lease: NodeLease,
    /// When its beat has last been seen to move; of this node, when it began the last one that it has written.
    pub beaten: MonoMillis,
}

/// The nodes at the last beat.
#[derive(Debug, Default)]
pub struct Roster {
    beaten: AtomicU64,
    members: Mutex<Arc<[Member]>>,
}

impl Roster {
    /// After a beat that was begun then: this node and those that live, in the order of their ids.
    pub(super) fn set(&self, beaten: MonoMillis, members: Arc<[Member]>) {
        self.beaten.store(beaten.0, Ordering::Relaxed);
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    /// When this node began the last beat that it has written.
    pub fn beaten(&self) -> MonoMillis {
        MonoMillis(self.beaten.load(Ordering::Relaxed))
    }

    /// The nodes; none without a cluster.
    pub fn members(&self) -> Arc<[Member]> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
