//! Drives a Tern server with many clients, checks what it promises while it does, and reports what it costs.
//!
//! - [`args`]: the command line.
//! - [`scenario`]: what can be done, one file each; [`run`]: how each is run: server, clients, phases, result.
//! - [`server`]: the server under load: a process of its own, or one that runs already.
//! - [`fleet`]: threads, each with its share of the clients; [`client`]: one of them; [`returning`]: who comes back.
//! - [`talk`]: a client who sends and receives in one conversation, by a [`pace`]; [`chat`]: what it knows of it;
//!   [`stage`]: what all of a thread share.
//! - [`mixed`]: a client with many conversations, who does all kinds of things by a plan.
//! - [`cluster`]: several nodes on one store, and what can go wrong with them; [`nodes`]: what a hop between nodes costs.
//! - [`tern_check::stream`]: what is wrong with what members see and are told of each other.
//! - [`fill`]: conversations that are full before a measurement begins; [`book`]: what is in them.
//! - [`meter`], [`stats`]: what is counted; [`progress`]: looked at once a second.
//! - [`machine`], [`process`]: what was used meanwhile.
//! - [`floor`]: what the machine allows at best.
//! - `child`: processes of this program that do a part of the work.
//! - [`tern_proxy`]: a bad network between clients and server, and the one clock; a crate of its own, which tests use, too.
//! - [`mod@hostile`]: clients who mean harm.
//! - [`outcome`]: the result, as JSON; [`table`]: for people; [`page`]: many of them as one HTML page; `figure`: what
//!   figures mean.

pub mod args;
pub mod book;
pub mod chat;
mod child;
pub mod client;
pub mod cluster;
mod error;
mod figure;
pub mod fill;
pub mod fleet;
pub mod floor;
pub mod hostile;
mod interrupt;
pub mod link_keys;
pub mod machine;
pub mod meter;
pub mod mixed;
pub mod nodes;
pub mod outcome;
pub mod pace;
pub mod page;
pub mod process;
pub mod progress;
pub mod random;
pub mod refusal;
pub mod returning;
pub mod run;
pub mod scenario;
pub mod server;
pub mod stage;
pub mod stats;
pub mod table;
pub mod talk;

pub use error::{Error, LoginError};
use tern_proxy::clock;
