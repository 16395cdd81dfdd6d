//! Tern's data layer on FoundationDB, the store of a cluster.
//!
//! ```text
//!   tern_store::{Kv, Transaction} ──► Fdb ──► libfdb_c ──► the cluster
//!                                              │
//!                                              └── one network thread a process, from the first open to the exit
//! ```
//!
//! The adapter is thin, because the trait has FoundationDB's own model: what it adds are the limits of
//! [`tern_store::limits`], a prefix, a timeout, and names for the errors ([`errors`]). It never tries anything again by
//! itself.
//!
//! Only [`errors`] is here without the feature `client`. With it, compiling needs libclang, and linking libfdb_c of
//! FoundationDB 7.3, which is not found by itself if it is in no place of the system's: `LIBRARY_PATH` names its directory
//! to the linker, `LD_LIBRARY_PATH` to the program.

#[cfg(feature = "client")]
mod database;
pub mod errors;
#[cfg(feature = "client")]
mod network;
#[cfg(feature = "client")]
mod transaction;

#[cfg(feature = "client")]
pub use database::{Fdb, OpenError};
