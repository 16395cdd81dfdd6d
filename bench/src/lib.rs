//! Drives a Tern server with many clients, checks what it promises while it does, and reports what it costs.
//!
//! - [`args`]: the command line.
//! - [`server`]: the server under load: its own process, or one that runs already; [`process`]: what it uses.
//! - [`driver`]: threads, each with its share of the clients; [`client`]: one of them.
//! - [`send`], [`idle`]: the scenarios.
//! - [`floor`]: what the machine allows at best.
//! - [`check`]: one client's view of a conversation, and what is wrong with it.
//! - [`stats`]: what is counted; [`report`]: how it is shown; [`page`]: many runs as one HTML page.

pub mod args;
pub mod check;
pub mod client;
pub mod clock;
pub mod driver;
pub mod floor;
pub mod idle;
pub mod page;
pub mod process;
pub mod proxy;
pub mod report;
pub mod send;
pub mod server;
pub mod stats;

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be started or found.
    #[error("{0}")]
    Server(String),
    /// A client cannot connect or log in.
    #[error("client {client}: {problem}")]
    Client {
        /// Its number.
        client: usize,
        /// What went wrong.
        problem: String,
    },
    /// Arguments that contradict each other.
    #[error("{0}")]
    Arguments(String),
    /// The system.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        error: std::io::Error,
    },
    /// The page of `report`.
    #[error(transparent)]
    Page(#[from] page::Error),
    /// A thread of the driver has panicked.
    #[error("a driver thread has panicked")]
    Driver,
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}
