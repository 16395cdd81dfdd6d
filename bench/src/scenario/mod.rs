//! What tern-bench can do, one file each.

pub mod flaky;
pub mod group;
pub mod idle;
pub mod party;
pub mod send;
