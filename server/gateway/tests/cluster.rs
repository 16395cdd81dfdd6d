//! Several servers on one store, in one process: real clients over TLS and QUIC, real links between the nodes.
//!
//! - [`nodes`]: the servers, their ways to the store and to each other, which can be cut.
//! - [`person`]: a user who talks, goes on elsewhere, and remembers all that was told.
//! - [`talk`], [`cut`], [`leave`], [`store`]: what is promised with all nodes well, without a link, without a node, and
//!   without the store. [`marks`]: watermarks that get lost on their way.
//! - [`version`]: a node of the release before. [`status`]: what an operator is told. [`refused`]: who does not get in.

#[path = "cluster/cut.rs"]
mod cut;
#[path = "cluster/leave.rs"]
mod leave;
#[path = "cluster/marks.rs"]
mod marks;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/person.rs"]
mod person;
#[path = "cluster/refused.rs"]
mod refused;
#[path = "cluster/status.rs"]
mod status;
#[path = "cluster/store.rs"]
mod store;
mod support;
#[path = "cluster/talk.rs"]
mod talk;
#[path = "cluster/version.rs"]
mod version;
