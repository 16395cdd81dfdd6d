//! One monotonic clock for the whole process, so that a time in a message means something to its recipient.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the process first asked.
pub fn nanos() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// The moment as the runtime understands it.
pub fn instant(nanos: u64) -> tokio::time::Instant {
    (*START + Duration::from_nanos(nanos)).into()
}
