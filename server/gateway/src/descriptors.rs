//! The limit of open files: each TCP connection takes one.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// Below it the limit is what ends the server's growth, rather than memory.
const ENOUGH: u64 = 65_536;
/// What the store, the listeners and the log take.
const OTHERS: u64 = 256;

/// Raises the limit as far as the system lets this process, and says in the log what came out.
pub fn raise() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => warn!(%error, "the limit of open files cannot be raised"),
        }
    }
    // None is no limit.
    let files = limit.current.unwrap_or(u64::MAX);
    info!(files, "limit of open files");
    files
}

/// Warns when the limit is low for a server in production.
pub fn warn_when_low(files: u64) {
    if files < ENOUGH {
        warn!(
            files,
            "the limit of open files is low: it leaves room for about {} TCP connections; raise it (LimitNOFILE in \
             systemd, --ulimit nofile in containers, ulimit -Hn), {ENOUGH} or more for production",
            files.saturating_sub(OTHERS)
        );
    }
}
