//! What can go wrong, as the app is told.

use tern_protocol::event::WireError;

use crate::event::{Lost, Stop};
use crate::storage::StorageError;

/// Why a request has no answer, or a send was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It breaks a limit of the protocol; nothing was sent.
    #[error("{0}")]
    Invalid(&'static str),
    /// The server refuses it. `code.effect()` tells whether it may have had an effect nevertheless: with
    /// `DuplicateTrimmed` an earlier try may have stored it long ago, and with `Internal`, after which a send is given
    /// up at the eighth time, any of the tries may have.
    #[error("refused: {} ({})", .0.code, .0.text)]
    Refused(WireError),
    /// The client has stopped. A send that has a number stays in the storage; the next client that is started
    /// there sends it.
    #[error("the client has stopped: {0}")]
    Stopped(Stop),
    /// The server answered something else.
    #[error("the server's answer makes no sense")]
    Unexpected,
}

/// Why a client did not come online.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its state cannot be had.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The configuration makes no sense, or the certificate authority's file.
    #[error(transparent)]
    Config(#[from] ConnectError),
    /// The first try to connect failed.
    #[error(transparent)]
    Offline(Lost),
    /// The server will not have it.
    #[error(transparent)]
    Stopped(Stop),
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server's address is not `host:port`.
    #[error("\"{0}\" is not an address: host:port is expected, or up to 16 of them with commas between")]
    Address(String),
    /// The name has no address.
    #[error("the name {host} cannot be resolved: {error}")]
    Dns {
        /// The name.
        host: String,
        /// Why.
        error: std::io::Error,
    },
    /// No certificate in the PEM text, or not one that can be read.
    #[error("the CA certificates cannot be used: {0}")]
    Ca(String),
    /// Nobody listens, or the network is down.
    #[error("{address}: {error}")]
    Io {
        /// Tried last.
        address: std::net::SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The certificate does not convince, or TLS failed in another way.
    #[error("TLS: {0}")]
    Tls(String),
    /// What listens there does not speak this protocol.
    #[error("what listens there is not a Tern server (it does not offer the protocol tern/1)")]
    Alpn,
    /// QUIC failed.
    #[error("QUIC: {0}")]
    Quic(String),
    /// No connection in time.
    #[error("no connection within {0:?}")]
    Timeout(std::time::Duration),
    /// The token source failed.
    #[error("no token: {0}")]
    Token(String),
}
