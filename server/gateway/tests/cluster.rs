//! Several servers on one store, in one process: real clients over TLS and QUIC, real links between the nodes.
//!
//! - [`nodes`]: the servers, their ways to the store and to each other, which can be cut.
//! - [`person`]: a user who talks, goes on elsewhere, and remembers all that was told.
//! - [`talk`], [`cut`], [`leave`], [`store`]: what is promised with all nodes well, without a link, without a node, and
//!   without the store.

#[path = "cluster/cut.rs"]
mod cut;
#[path = "cluster/leave.rs"]
mod leave;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/person.rs"]
mod person;
#[path = "cluster/store.rs"]
mod store;
mod support;
#[path = "cluster/talk.rs"]
mod talk;
