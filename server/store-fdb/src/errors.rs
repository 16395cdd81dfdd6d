//! FoundationDB's error codes, and what they mean to the data layer. `spec/storage.md` has the same as a table.
//!
//! The one question that matters of a failed commit is whether it may have had an effect, or may still have one. What is
//! not known to be harmless counts as a commit that may still land: the caller then fences, which costs a transaction
//! and is never wrong.

use tern_store::{CommitError, StoreError};

const TRANSACTION_TOO_OLD: i32 = 1007;
const FUTURE_VERSION: i32 = 1009;
const NOT_COMMITTED: i32 = 1020;
const COMMIT_UNKNOWN_RESULT: i32 = 1021;
const PROCESS_BEHIND: i32 = 1037;
const DATABASE_LOCKED: i32 = 1038;
const COMMIT_PROXY_MEMORY_LIMIT_EXCEEDED: i32 = 1042;
const BATCH_TRANSACTION_THROTTLED: i32 = 1051;
const GRV_PROXY_MEMORY_LIMIT_EXCEEDED: i32 = 1078;
const TAG_THROTTLED: i32 = 1213;
const PROXY_TAG_THROTTLED: i32 = 1223;
const TRANSACTION_TOO_LARGE: i32 = 2101;
const KEY_TOO_LARGE: i32 = 2102;
const VALUE_TOO_LARGE: i32 = 2103;

/// What the client library finds wrong with a call, before anything is sent.
const CLIENT_ERRORS: std::ops::RangeInclusive<i32> = 2000..=2999;
/// What the cluster does not permit this client.
const AUTHORIZATION_ERRORS: std::ops::RangeInclusive<i32> = 6000..=6999;
/// What happens in any cluster now and then.
const ORDINARY_FAILURES: std::ops::RangeInclusive<i32> = 1000..=1499;

/// A read, or the request for a version to read at, failed with this code. `message` is the client library's.
pub fn read_error(code: i32, message: &str) -> StoreError {
    match code {
        TRANSACTION_TOO_OLD => StoreError::TooOld,
        code if ORDINARY_FAILURES.contains(&code) => StoreError::Unavailable,
        code => StoreError::Failed(failed(code, message)),
    }
}

/// A commit failed with this code.
pub fn commit_error(code: i32, message: &str) -> CommitError {
    match code {
        NOT_COMMITTED => CommitError::Conflict,
        TRANSACTION_TOO_OLD => CommitError::TooOld,
        TRANSACTION_TOO_LARGE | KEY_TOO_LARGE | VALUE_TOO_LARGE => CommitError::TooLarge,
        FUTURE_VERSION | PROCESS_BEHIND | DATABASE_LOCKED => CommitError::Unavailable,
        COMMIT_PROXY_MEMORY_LIMIT_EXCEEDED
        | GRV_PROXY_MEMORY_LIMIT_EXCEEDED
        | BATCH_TRANSACTION_THROTTLED
        | TAG_THROTTLED
        | PROXY_TAG_THROTTLED => CommitError::Overloaded,
        // The client has made sure that it is no longer under way.
        COMMIT_UNKNOWN_RESULT => CommitError::Unknown { may_still_land: false },
        code if CLIENT_ERRORS.contains(&code) || AUTHORIZATION_ERRORS.contains(&code) => {
            CommitError::Failed(failed(code, message))
        }
        // transaction_timed_out, transaction_cancelled, cluster_version_changed, and what nobody has thought of.
        _ => CommitError::Unknown { may_still_land: true },
    }
}

fn failed(code: i32, message: &str) -> String {
    format!("FoundationDB says {code}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_word(code: i32) -> &'static str {
        match read_error(code, "") {
            StoreError::TooOld => "too old",
            StoreError::Unavailable => "unavailable",
            StoreError::Failed(_) => "failed",
            StoreError::Corrupt(_) => "corrupt",
        }
    }

    fn commit_word(code: i32) -> &'static str {
        match commit_error(code, "") {
            CommitError::Conflict => "conflict",
            CommitError::TooOld => "too old",
            CommitError::Unknown { may_still_land: false } => "unknown, decided",
            CommitError::Unknown { may_still_land: true } => "unknown, may still land",
            CommitError::TooLarge => "too large",
            CommitError::Overloaded => "overloaded",
            CommitError::Unavailable => "unavailable",
            CommitError::Failed(_) => "failed",
            CommitError::Corrupt(_) => "corrupt",
        }
    }

    /// The specification has a row for each: `| 1007 | transaction_too_old | too old | too old |`.
    #[test]
    fn they_mean_what_the_specification_says() {
        let mut rows = 0;
        for line in include_str!("../../../spec/storage.md").lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, code, name, read, commit, _] = cells[..] else { continue };
            let Ok(code) = code.parse() else { continue };
            rows += 1;
            assert!([read_word(code), "-"].contains(&read), "{code} {name}: a read is {}", read_word(code));
            assert!(
                [commit_word(code), "-"].contains(&commit),
                "{code} {name}: a commit is {}",
                commit_word(code)
            );
        }
        assert!(rows >= 20, "{rows} codes in the specification");
    }

    /// Whatever FoundationDB may come to say, nothing is taken for harmless that is not known to be.
    #[test]
    fn a_commit_with_an_unheard_of_error_may_still_land() {
        for code in [-1, 0, 1, 999, 1031, 1500, 3000, 4000, 4100, 5000, i32::MAX] {
            assert_eq!(commit_word(code), "unknown, may still land", "{code}");
        }
        for code in 1000..2000 {
            assert_ne!(commit_word(code), "failed", "{code}: it passes");
        }
    }
}
