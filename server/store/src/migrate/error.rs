//! Why a store is not moved.

use super::Migration;
use crate::CommitError;

/// Why a migration does not come to its end. The texts are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// There is nothing to move.
    #[error("there is nothing in {0}; nothing was done")]
    Empty(String),
    /// The source is no whole store.
    #[error("{place} cannot be moved: {migration}")]
    NotWhole {
        /// The source.
        place: String,
        /// What it is.
        migration: Box<Migration>,
    },
    /// It is on its way to somewhere else, or what has arrived there is gone.
    #[error(
        "{from} is being moved to {elsewhere}, and {to} has nothing of it: name that one, or give the move up first \
         (`ternd store migrate --abandon --from {from}`)"
    )]
    Elsewhere {
        /// The source.
        from: String,
        /// Where it is being moved to.
        elsewhere: String,
        /// The target.
        to: String,
    },
    /// There are servers.
    #[error("{0} is being served: a node writes its lease there. Stop all servers; nothing was done")]
    Served(String),
    /// The target is in use.
    #[error("{0} holds something already; nothing was done. Choose an empty place")]
    NotEmpty(String),
    /// The target holds a part of something else.
    #[error(
        "{to} holds a part of {from} from a move that is another one, or was given up; nothing was done. Choose an empty \
         place"
    )]
    Other {
        /// The target.
        to: String,
        /// Where that is from.
        from: String,
    },
    /// The source is damaged.
    #[error(
        "{wrong} thing(s) wrong in {from}; nothing was done. `ternd verify` says the same; a backup from before that is \
         the way back"
    )]
    Wrong {
        /// The source.
        from: String,
        /// How many.
        wrong: u64,
    },
    /// The target is, though it is the same as the source.
    #[error(
        "{wrong} thing(s) wrong in {to}, so it is not to be served: is its disk well? {from} is whole, and `ternd store migrate --abandon` has it served again"
    )]
    WrongAfter {
        /// The target.
        to: String,
        /// The source.
        from: String,
        /// How many.
        wrong: u64,
    },
    /// They are not the same.
    #[error(
        "the two differ ({what}): something has written to one of them meanwhile. Give it up (`ternd store migrate \
         --abandon`), make sure that no server runs on either, and begin again"
    )]
    Differ {
        /// Where.
        what: String,
    },
    /// There is nothing to give up.
    #[error("{0} is not being moved; nothing was done")]
    NotLeaving(String),
    /// A store cannot be read or written.
    #[error("{place}: {error}. What was moved stays so: the same command goes on where this one stopped")]
    Store {
        /// Which.
        place: String,
        /// Why.
        error: CommitError,
    },
    /// Somebody wanted it so.
    #[error("stopped by a signal; the same command goes on where this one stopped")]
    Stopped,
}

impl MigrateError {
    /// Whether no store was written to at all.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Empty(_)
            | Self::Served(_)
            | Self::NotWhole { .. }
            | Self::Elsewhere { .. }
            | Self::NotEmpty(_)
            | Self::Other { .. }
            | Self::Wrong { .. }
            | Self::NotLeaving(_) => true,
            Self::WrongAfter { .. } | Self::Differ { .. } | Self::Store { .. } | Self::Stopped => false,
        }
    }
}
