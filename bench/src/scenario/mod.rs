//! What tern-bench can do, one file each.

pub mod background;
pub mod cluster;
pub mod flaky;
pub mod group;
pub mod history;
pub mod hostile;
pub mod idle;
pub mod mixed;
pub mod party;
pub mod send;
pub mod storm;
pub mod sync;
