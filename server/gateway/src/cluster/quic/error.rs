//! Why there is no link, or no more.

use std::io;
use std::net::SocketAddr;

use quinn::{ConnectError, ConnectionError, TransportErrorCode};
use thiserror::Error;

use super::NODE_NAME;

/// Characters of what a peer says about its reasons, before anybody knows who it is.
const REASON_CHARS_MAX: usize = 200;

/// Why there is no link to a node, or no more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// This node does not try.
    #[error("{address} cannot be dialled: {problem}")]
    Address {
        /// What was dialled.
        address: SocketAddr,
        /// What is wrong with it.
        problem: String,
    },
    /// It did not answer in time, or answers no more.
    #[error("{0} does not answer: is the node up, and do datagrams (UDP) pass both ways?")]
    Silent(SocketAddr),
    /// This node does not take the other one for a node of its cluster.
    #[error(
        "refused {peer}: {reason}; expected a node of this cluster: with a certificate for {NODE_NAME} that is in its \
         time and of an authority in `cluster.ca`"
    )]
    Refused {
        /// The other node, or who claims to be one.
        peer: SocketAddr,
        /// What is wrong with its certificate or its handshake.
        reason: String,
    },
    /// The other node does not take this one for a node of its cluster.
    #[error(
        "{peer} refuses this node: {reason}; look at `cluster.certificate` here, and at `cluster.ca` and the clock there"
    )]
    RefusedBy {
        /// The other node.
        peer: SocketAddr,
        /// What it says.
        reason: String,
    },
    /// The other end has closed the link.
    #[error("{peer} has closed the link: {reason}")]
    Closed {
        /// The other node.
        peer: SocketAddr,
        /// What it says.
        reason: String,
    },
    /// The other node knows nothing of the link any more.
    #[error("{0} does not know this link: it was restarted")]
    Restarted(SocketAddr),
    /// What came is not what a node sends.
    #[error("{peer} does not keep to the protocol of links: {problem}")]
    Protocol {
        /// The other node.
        peer: SocketAddr,
        /// What it did.
        problem: String,
    },
    /// This end has closed the link or the endpoint.
    #[error("the link is closed")]
    Over,
}

impl LinkError {
    /// How a connection to `peer` has ended, or not begun.
    pub(super) fn ended(peer: SocketAddr, how: ConnectionError) -> Self {
        match how {
            ConnectionError::TransportError(error) if is_of_tls(error.code) => {
                Self::Refused { peer, reason: shown(error.reason.as_bytes()) }
            }
            ConnectionError::ConnectionClosed(close) if is_of_tls(close.error_code) => {
                Self::RefusedBy { peer, reason: shown(&close.reason) }
            }
            ConnectionError::ConnectionClosed(close) => {
                Self::Closed { peer, reason: format!("{} {}", close.error_code, shown(&close.reason)) }
            }
            ConnectionError::ApplicationClosed(close) => Self::Closed { peer, reason: shown(&close.reason) },
            ConnectionError::TimedOut => Self::Silent(peer),
            ConnectionError::Reset => Self::Restarted(peer),
            ConnectionError::LocallyClosed => Self::Over,
            ConnectionError::TransportError(error) => {
                Self::Protocol { peer, problem: shown(error.to_string().as_bytes()) }
            }
            other @ (ConnectionError::VersionMismatch | ConnectionError::CidsExhausted) => {
                Self::Protocol { peer, problem: other.to_string() }
            }
        }
    }

    pub(super) fn not_dialled(address: SocketAddr, why: ConnectError) -> Self {
        match why {
            ConnectError::EndpointStopping => Self::Over,
            ConnectError::InvalidRemoteAddress(_) => {
                let problem =
                    "expected a port, and an address of the kind that `cluster.listen` is (IPv4 or IPv6)";
                Self::Address { address, problem: problem.to_owned() }
            }
            other => Self::Address { address, problem: other.to_string() },
        }
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        let kind = match error {
            LinkError::Silent(_) => io::ErrorKind::TimedOut,
            LinkError::Restarted(_) => io::ErrorKind::ConnectionReset,
            LinkError::Closed { .. } => io::ErrorKind::ConnectionAborted,
            LinkError::Refused { .. } | LinkError::RefusedBy { .. } => io::ErrorKind::PermissionDenied,
            LinkError::Over => io::ErrorKind::NotConnected,
            LinkError::Address { .. } => io::ErrorKind::InvalidInput,
            LinkError::Protocol { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Whether the code is an alert of TLS (RFC 9001, 4.8).
fn is_of_tls(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// What a peer says, fit for a log: it may be anybody.
fn shown(text: &[u8]) -> String {
    if text.is_empty() {
        return "it does not say why".to_owned();
    }
    String::from_utf8_lossy(text).escape_debug().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_says_is_short_and_one_line() {
        let told = shown(b"good\n2026 WARN all is lost \x1b[31m\xff");
        assert!(told.starts_with("good\\n2026") && !told.chars().any(char::is_control), "{told}");
        assert_eq!(shown(&[b'\n'; 5000]).len(), REASON_CHARS_MAX);
        assert!(!shown(b"").is_empty());
    }
}
