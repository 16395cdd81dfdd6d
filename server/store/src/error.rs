//! What can go wrong, and what the caller may do about it.

use std::fmt;

/// A read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The transaction's read version is older than the store still answers for. Begin again.
    #[error("the transaction is too old")]
    TooOld,
    /// The store cannot be reached at present. Begin again, after a while.
    #[error("the store is unavailable")]
    Unavailable,
    /// The store has stopped for good after a failed write. Only a restart helps.
    #[error("the store has stopped: {0}")]
    Failed(String),
    /// A record is damaged, or one that must exist does not. Retrying does not help; nothing was guessed.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl StoreError {
    /// Whether the same read may succeed in a new transaction.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TooOld | Self::Unavailable => true,
            Self::Failed(_) | Self::Corrupt(_) => false,
        }
    }
}

/// A commit failed, or its outcome is not known.
///
/// | error | had an effect? | try again? |
/// |---|---|---|
/// | `Conflict`, `TooOld` | no | with a new transaction that reads again |
/// | `Unavailable`, `Overloaded` | no | later |
/// | `Unknown { may_still_land: false }` | perhaps, and it is decided | if the transaction is idempotent |
/// | `Unknown { may_still_land: true }` | perhaps, and perhaps only later | after [`fence`](crate::ops::append::fence) |
/// | `TooLarge`, `Corrupt` | no | no |
/// | `Failed` | no | no: the store has stopped |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Something that the transaction read has changed.
    #[error("conflict with another transaction")]
    Conflict,
    /// The transaction's read version is older than the store can check for conflicts.
    #[error("the transaction is too old")]
    TooOld,
    /// The store did not say whether the transaction was committed.
    #[error("the outcome of the commit is unknown (it {} still land)", if *.may_still_land { "may" } else { "will not" })]
    Unknown {
        /// Whether it may be committed after this error was returned. If not, it is decided already, one way or the
        /// other.
        may_still_land: bool,
    },
    /// The transaction, one of its keys or one of its values is larger than is allowed.
    #[error("the transaction is too large")]
    TooLarge,
    /// More commits are waiting than the store queues.
    #[error("the store is overloaded")]
    Overloaded,
    /// The store cannot be reached at present.
    #[error("the store is unavailable")]
    Unavailable,
    /// The store has stopped for good after a failed write.
    #[error("the store has stopped: {0}")]
    Failed(String),
    /// A record that the transaction had to read is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooOld => Self::TooOld,
            StoreError::Unavailable => Self::Unavailable,
            StoreError::Failed(why) => Self::Failed(why),
            StoreError::Corrupt(corrupt) => Self::Corrupt(corrupt),
        }
    }
}

/// A record is not what was written, or is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// Which kind of record: a row of the table in [`keys`](crate::keys).
    pub kind: &'static str,
    /// Its ids, or its key in hexadecimal when the key itself makes no sense.
    pub id: String,
    /// What is wrong with it.
    pub what: String,
}

impl Corrupt {
    /// A damaged record.
    pub fn new(kind: &'static str, id: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { kind, id: id.to_string(), what: what.to_string() }
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corrupt {} record {}: {}", self.kind, self.id, self.what)
    }
}

impl std::error::Error for Corrupt {}

/// A read-only operation on behalf of a user failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no such conversation, or it is a direct chat of other people, whose existence is nobody's business.
    #[error("no such conversation")]
    Unknown,
    /// The user is not a member of this group, or no longer one.
    #[error("not a member")]
    NotMember,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Corrupt> for QueryError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Store(StoreError::Corrupt(corrupt))
    }
}

impl QueryError {
    /// Whether the same query may succeed in a new transaction.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}
