//! Tern's wire protocol.
//!
//! ```text
//!   TCP or QUIC stream:   | frame | frame | frame | ...
//!
//!   frame:                | varint length L (1-3 bytes) | L bytes of ClientFrame or ServerFrame |
//!   heartbeat:            | 0x00 |
//! ```
//!
//! The modules, in the order in which bytes travel:
//!
//! - [`handshake`]: ALPN, version and feature negotiation.
//! - [`frame`]: cuts a byte stream into frames, and encodes them.
//! - [`pb`]: the generated messages of `tern.proto`; only [`convert`] and the clients' encoders touch them.
//! - [`convert`]: the border. Limits are applied here, once; nothing behind it validates again.
//! - [`request`]: what a client can ask, as parsed.
//! - [`event`]: what a server answers and tells.
//! - [`model`]: entries, heads, members, watermarks.
//! - [`ids`], [`limits`], [`error`]: names, bounds, error codes.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod convert;
pub mod error;
pub mod event;
pub mod frame;
pub mod handshake;
pub mod ids;
pub mod limits;
pub mod model;
pub mod request;

/// The generated messages of `tern.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[rustfmt::skip]
pub mod pb;
