//! Simulates clients, servers and a store: one thread, a clock of its own, one seed, one run.
//!
//! ```text
//!   plan ── steps ──> world ──┬── devices   the SDK's own machine, an app, a storage
//!    ^                        ├── rude      clients without it, that do what is allowed and what is not
//!    │                        ├── net       bytes that take their time, and break
//!    └── shrink               ├── nodes     the server's own shards: sessions, owners, fan-out, links
//!                             ├── switch    the network between nodes, which breaks too (`tampered`: and lies)
//!                             └── store     the memory model, with time and faults
//!                               │
//!                               └──> history ──> tern-check ──> violations
//! ```
//!
//! What runs is the code that serves: [`tern_server`]'s shards with everything that they do between a connection's bytes and
//! the store, and [`tern_client::machine`]. What is simulated is below them (streams instead of TLS over TCP, the memory
//! model instead of a disk) and beside them (time, randomness). QUIC, TLS and the embedded store are not here: their own
//! tests and the crash rounds are for them.
//!
//! A plan is drawn from its seed before the run, so steps can be left out to find those that matter ([`shrink`]).
#![forbid(unsafe_code)]

pub mod device;
pub mod line;
pub mod net;
pub mod node;
pub mod panics;
pub mod plan;
pub mod rude;
pub mod shrink;
pub mod storage;
pub mod store;
pub mod switch;
pub mod tampered;
pub mod trace;
pub mod world;
pub mod wrong;
