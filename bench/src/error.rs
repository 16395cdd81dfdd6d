//! Why a run has no result, or only a part of one. The texts are for the person at the terminal: what was wrong, what
//! was expected, what to do.

use tern_client::ConnectError;
use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::event::WireError;

/// Why a run has no result, or only a part of one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arguments that contradict each other.
    #[error("{0}")]
    Arguments(String),
    /// The server cannot be started or found, or has ended.
    #[error("{0}")]
    Server(String),
    /// A client cannot connect or log in.
    #[error("client {client} of the run: {problem}")]
    Client {
        /// Its number.
        client: usize,
        /// What went wrong.
        problem: LoginError,
    },
    /// The scenario cannot be prepared or went wrong.
    #[error("{0}")]
    Scenario(String),
    /// The system.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        error: std::io::Error,
    },
    /// The user wants no more.
    #[error("interrupted: what was measured until then is the result")]
    Interrupted,
    /// A thread of the driver has panicked.
    #[error("a driver thread has panicked: this is a bug of tern-bench")]
    Driver,
}

impl Error {
    /// Says what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// Why a client is not logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No connection.
    #[error("{error}{}", hint(.error))]
    Connect {
        /// Why.
        #[from]
        error: ConnectError,
    },
    /// The server will not have it.
    #[error("the server refuses the login: {} ({}){}", .0.code, .0.text, refusal_hint(.0.code))]
    Refused(WireError),
    /// The connection broke in between.
    #[error("the connection ended during the login: {0}")]
    Ended(String),
    /// No answer.
    #[error(
        "no connection and login within {0} s: expected a Tern server that answers; check the address, and that it is \
         not overloaded"
    )]
    Timeout(u64),
}

impl LoginError {
    /// Whether the same may go well a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { error } => {
                matches!(error, ConnectError::Io { .. } | ConnectError::Quic(_) | ConnectError::Timeout(_))
            }
            Self::Refused(error) => error.code.retry() != Retry::Never,
            Self::Ended(_) | Self::Timeout(_) => true,
        }
    }

    /// The kind of it, in few words, to be counted by.
    pub fn label(&self) -> String {
        match self {
            Self::Connect { error: ConnectError::Io { error, .. } } => format!("login: {}", error.kind()),
            Self::Connect { error: ConnectError::Quic(_) } => "login: no QUIC connection".into(),
            Self::Connect { .. } => "login: no connection".into(),
            Self::Refused(error) => format!("login: {}", error.code),
            Self::Ended(_) => "login: connection ended".into(),
            Self::Timeout(_) => "login: no answer in time".into(),
        }
    }
}

fn hint(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Io { .. } | ConnectError::Dns { .. } => {
            ": expected a Tern server that listens there; check --server, and that ternd is running"
        }
        ConnectError::Quic(_) => {
            ": expected a Tern server that listens there for QUIC; check --server, and that UDP is let through"
        }
        ConnectError::Tls(_) => {
            ": expected a certificate from the authority that --ca names; is it the file of this very server?"
        }
        ConnectError::Alpn => "; check the port of --server",
        _ => "",
    }
}

fn refusal_hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::TokenInvalid | ErrorCode::TokenExpired => {
            ": expected it to accept tokens signed with the token.key in --data; is that the data directory of this \
             very server, and are the clocks right?"
        }
        ErrorCode::UnsupportedVersion => ": tern-bench and the server are of different versions",
        _ => "",
    }
}
