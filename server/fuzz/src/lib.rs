//! Fuzz targets: each takes any bytes, and panics when the code under it does what it never may.
//!
//! `cargo test -p tern-fuzz` runs each with what fuzzing has found worth keeping (`corpus/`). To look for more, with
//! cargo-fuzz (`session` stands for any of [`TARGETS`]; no sanitizer, since nothing here could use one):
//!
//! ```text
//! cargo fuzz run --fuzz-dir server/fuzz --features libfuzzer --sanitizer none session
//! ```
//!
//! - `wire`: frames, messages and the agreement at login; `session`: one connection.
//! - `stored`: records and keys; `resolver`: against a list of everything that was written.
//!
//! Those of the gateway (tokens, key sets, PROXY headers) are in `server/gateway/fuzz`.
#![forbid(unsafe_code)]

pub mod corpus;
mod input;
mod resolver;
mod session;
mod stored;
mod wire;

pub use resolver::resolver;
pub use session::session;
pub use stored::{keys, records};
pub use wire::{agreement, entry, frame, request, server_message};

use corpus::Target;

/// All targets by name; each has a directory of that name in `corpus/`.
pub const TARGETS: [Target; 9] = [
    ("frame", frame),
    ("request", request),
    ("server_message", server_message),
    ("entry", entry),
    ("agreement", agreement),
    ("session", session),
    ("records", records),
    ("keys", keys),
    ("resolver", resolver),
];
