//! What the talkers of a thread share: the load, the phase, the counters.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::Error;
use crate::clock;
use crate::fleet::Phase;
use crate::meter::Meter;
use crate::pace::Pace;

/// What the talkers of a thread share.
#[derive(Debug)]
pub struct Stage {
    /// When messages go out.
    pub pace: Pace,
    /// Their length.
    pub payload_bytes: usize,
    /// What happens is counted here.
    pub meter: Arc<Meter>,
    /// What happens when the measured time begins.
    pub storm: Option<Storm>,
    phase: Cell<Phase>,
    since: Cell<u64>,
    measured_since: Cell<u64>,
    unprepared: Cell<usize>,
    failure: RefCell<Option<String>>,
    /// One of these two.
    changed: Notify,
}

impl Stage {
    /// With so many groups that have to be created, and a storm.
    pub fn new(
        pace: Pace,
        payload_bytes: usize,
        meter: Arc<Meter>,
        groups: usize,
        storm: Option<Storm>,
    ) -> Rc<Self> {
        Rc::new(Self {
            pace,
            payload_bytes,
            meter,
            storm,
            phase: Cell::new(Phase::Connecting),
            since: Cell::new(clock::nanos()),
            measured_since: Cell::new(0),
            unprepared: Cell::new(groups),
            failure: RefCell::default(),
            changed: Notify::new(),
        })
    }

    /// The next phase; whoever waits has to be woken by the caller.
    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(clock::nanos());
        if phase == Phase::Measuring {
            self.measured_since.set(clock::nanos());
        }
    }

    /// What to do.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// When that began.
    pub fn since(&self) -> u64 {
        self.since.get()
    }

    /// When the measured time, or the last piece of it, began; 0: not yet.
    pub fn measured_since(&self) -> u64 {
        self.measured_since.get()
    }

    /// Waits until all groups exist, or the run is over before it has begun.
    ///
    /// # Errors
    /// When they never will.
    pub async fn prepare(&self, phases: &mut watch::Receiver<Phase>) -> Result<(), Error> {
        while self.unprepared.get() > 0 && *phases.borrow() == Phase::Connecting {
            if let Some(failure) = self.failure.borrow_mut().take() {
                return Err(Error::Scenario(failure));
            }
            tokio::select! {
                () = self.changed.notified() => {}
                _ = phases.changed() => {}
            }
        }
        Ok(())
    }

    /// One more exists.
    pub fn created(&self) {
        self.unprepared.set(self.unprepared.get().saturating_sub(1));
        self.changed.notify_one();
    }

    /// They cannot be created.
    pub fn fail(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
        self.changed.notify_one();
    }
}

/// When the measured time begins, all are cut off but the first member of each conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// They come back within this time.
    pub spread: Duration,
    /// Messages that the first member sends at that moment.
    pub missed: u32,
    /// The server itself goes, and takes all connections with it.
    pub server_goes: bool,
}

/// What a talker does in its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Its number among all who send; `None`: it listens.
    pub sender: Option<usize>,
    /// It creates the group first.
    pub creates: bool,
    /// It is its conversation's first member.
    pub is_first: bool,
}
