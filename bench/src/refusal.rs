//! What a refusal means for a load: whether it breaks a promise, and when to try again.

use std::time::Duration;

use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::event::WireError;

/// After a refusal without advice.
const RETRY: Duration = Duration::from_millis(100);

/// The client may try again later, and nothing was promised. Any other refusal of what a scenario asks is a fault.
pub fn is_passing(code: ErrorCode) -> bool {
    code.retry() == Retry::Later && code != ErrorCode::Internal
}

/// How long to stay away.
pub fn wait(error: &WireError) -> Duration {
    Duration::from_millis(error.retry_after_ms.into()).max(RETRY)
}

/// For people, and to count by.
pub fn text(error: &WireError) -> String {
    format!("{}: {}", error.code, error.text)
}

#[cfg(test)]
mod tests {
    use tern_protocol::ids::ClientSeq;

    use super::*;

    #[test]
    fn a_fault_of_the_server_does_not_pass() {
        assert!(is_passing(ErrorCode::Overloaded) && is_passing(ErrorCode::Unavailable));
        assert!(!is_passing(ErrorCode::Internal) && !is_passing(ErrorCode::InvalidArgument));
    }

    #[test]
    fn advice_is_heeded() {
        let error = |retry_after_ms| WireError {
            code: ErrorCode::Overloaded,
            text: String::new(),
            retry_after_ms,
            client_seq: ClientSeq(0),
        };
        assert_eq!([0, 99, 1_000].map(|ms| wait(&error(ms)).as_millis()), [100, 100, 1_000]);
    }
}
