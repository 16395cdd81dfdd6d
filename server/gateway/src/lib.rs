//! ternd, Tern's server: the only crate with sockets and threads. Around the pure core, in the order of a message's way:
//!
//! - [`transport`], [`tls`]: sockets, handshakes, steering.
//! - [`accept`]: from a transport's connection to a session and its end.
//! - [`connection`]: bytes to frames, the outbound queue to bytes.
//! - [`effects`]: executes what a session asks for; [`auth`] checks its token.
//! - [`owners`]: runs the conversations that a shard owns: append, commit, watermarks.
//! - [`store`], [`epoch`]: what is stored where, and which history of it.
//! - [`cluster`]: other nodes.
//! - [`fanout`], [`behind`]: from an owner to the connections of all shards; what there was no room for.
//! - [`limits`]: what one address, user or device may take.
//! - [`reply`]: results into frames.
//! - [`shard`], [`mailbox`]: one thread, and how threads talk.
//! - [`server`], [`config`], [`serve`], [`dev`], [`reload`], [`shutdown`], [`descriptors`], [`notify`]: putting it together, keeping it up to date
//!   and ending it.
//! - [`metrics`], [`admin`], [`top`], [`status`]: what it counts, the listener that says so, a live view of it, and how its cluster is.
//! - [`http`]: one question to an HTTP server.

pub mod accept;
pub mod admin;
pub mod auth;
pub mod behind;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod control;
pub mod descriptors;
pub mod dev;
pub mod effects;
pub mod epoch;
pub mod fanout;
pub mod http;
pub mod interrupt;
pub mod limits;
pub mod mailbox;
pub mod metrics;
pub mod migrate;
pub mod notify;
pub mod offline;
pub mod owners;
pub mod reload;
pub mod reply;
pub mod run;
pub mod serve;
pub mod server;
pub mod shard;
pub mod shutdown;
pub mod status;
pub mod store;
pub mod tls;
pub mod top;
pub mod transport;
