//! The one place where clocks are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tern_core::time::{MonoMillis, Now};
use tern_protocol::model::WallMillis;
// The system's, unless a simulation has stopped the runtime's time and moves it on.
use tokio::time::Instant;

/// Both clocks; clones agree.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    /// What the wall clock said at `start`, in milliseconds since 1970, if it is not the system's.
    wall: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// A clock whose monotonic part begins now.
    #[expect(
        clippy::new_without_default,
        reason = "a clock reads the time when it is made; a default should not"
    )]
    pub fn new() -> Self {
        Self { start: Instant::now(), wall: None }
    }

    /// A clock that begins now and whose wall clock says this now, in milliseconds since 1970, and goes on with the runtime's
    /// time: for a simulation. To change the number is to set the clock.
    pub fn at(wall: Arc<AtomicU64>) -> Self {
        Self { start: Instant::now(), wall: Some(wall) }
    }

    /// The time.
    pub fn now(&self) -> Now {
        let mono = self.start.elapsed().as_millis() as u64;
        let start = self.wall.as_ref().map(|start| start.load(Ordering::Relaxed));
        let wall = start.map_or_else(wall, |start| WallMillis(start + mono));
        Now { mono: MonoMillis(mono), wall }
    }
}

/// A moment from which a latency is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(Instant);

impl Stamp {
    /// Reads the monotonic clock.
    pub fn take() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since then.
    pub fn micros(self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// The wall clock; before 1970 it is 1970.
pub fn wall() -> WallMillis {
    WallMillis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64))
}
