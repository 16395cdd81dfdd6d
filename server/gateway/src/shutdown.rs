//! Ending well: clients are told, commits under way finish and are answered, watermarks are flushed, and it takes a
//! bounded time.

use std::time::Duration;

use tokio::sync::watch;

/// How far the end has come. Each phase has its own bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Serving.
    Running,
    /// Other nodes take over: within this time clients are told to go to them, one after another. Requests that come in are
    /// still served; nobody new is let in.
    Leaving(Duration),
    /// Clients are told; requests that come in are still served; nobody new is let in.
    Draining,
    /// Connections are closed.
    Closing,
    /// Shards flush and end.
    Stopped,
}

/// From telling clients to closing their connections: time to answer what is under way.
pub const DRAIN: Duration = Duration::from_millis(500);
/// From closing connections to the end of the shards.
pub const CLOSE: Duration = Duration::from_millis(2_000);

/// From the end of the connections to the end of the shards and the store.
pub const FLUSH: Duration = Duration::from_secs(10);

/// Walks through the phases. `connections` says how many are left, so that nothing is waited for in vain.
pub async fn walk(phase: &watch::Sender<Phase>, connections: impl Fn() -> usize) {
    for (next, bound) in [(Phase::Draining, DRAIN), (Phase::Closing, CLOSE)] {
        phase.send_replace(next);
        let end = tokio::time::Instant::now() + bound;
        while connections() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    phase.send_replace(Phase::Stopped);
}
