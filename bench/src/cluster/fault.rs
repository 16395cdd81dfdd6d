//! What goes wrong, and how it is put right again.

use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;

use super::network::Host;
use super::{Cluster, host};
use crate::Error;

/// How long a fault lasts, unless it says something else.
const LASTS: Duration = Duration::from_secs(10);
/// Shorter than it takes others to believe a node dead.
const STALL: Duration = Duration::from_secs(3);
/// Longer.
const PAUSE: Duration = Duration::from_secs(8);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// A node is killed, and started again 10 s later
    Kill,
    /// A node is paused for 8 s: its lease ends meanwhile
    Pause,
    /// A node is paused for 3 s: its lease does not end
    Stall,
    /// No packet gets from one node to another one or back, for 10 s
    Links,
    /// No packet gets from a node to the store or back, for 10 s
    Store,
    /// No packet gets from a node to anybody or back, for 10 s
    Isolate,
    /// FoundationDB is killed, and started again 10 s later
    Outage,
    /// A node is told to stop, and started again as soon as it has
    Drain,
    /// All nodes are told to stop, one after the other, each as soon as the one before is back
    Restart,
}

impl Fault {
    /// As results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Stall => "stall",
            Self::Links => "links",
            Self::Store => "store",
            Self::Isolate => "isolate",
            Self::Outage => "outage",
            Self::Drain => "drain",
            Self::Restart => "restart",
        }
    }

    /// How long it lasts; `None`: until those who are told to stop have, and are back.
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Self::Kill | Self::Links | Self::Store | Self::Isolate | Self::Outage => Some(LASTS),
            Self::Pause => Some(PAUSE),
            Self::Stall => Some(STALL),
            Self::Drain | Self::Restart => None,
        }
    }

    /// Which of so many nodes it meets, when it is the turn of the victim.
    pub fn victims(self, victim: usize, nodes: usize) -> Vec<usize> {
        match self {
            Self::Restart => (0..nodes).map(|further| (victim + further) % nodes).collect(),
            _ => vec![victim],
        }
    }
}

impl Cluster {
    /// The node at this place is hit. A node that is told to stop has not stopped yet.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn strike(&mut self, fault: Fault, place: usize) -> Result<(), Error> {
        match fault {
            Fault::Kill => {
                self.nodes[place].kill();
                Ok(())
            }
            Fault::Outage => {
                self.store.kill();
                Ok(())
            }
            Fault::Pause | Fault::Stall => self.nodes[place].signal(Signal::STOP),
            Fault::Drain | Fault::Restart => self.nodes[place].signal(Signal::TERM),
            Fault::Links | Fault::Store | Fault::Isolate => {
                self.ways(fault, place).into_iter().try_for_each(|(one, other)| self.network.cut(one, other))
            }
        }
    }

    /// As before.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn heal(&mut self, fault: Fault, place: usize) -> Result<(), Error> {
        match fault {
            Fault::Kill | Fault::Drain | Fault::Restart => self.nodes[place].start(&self.network),
            Fault::Outage => self.store.launch(&self.network),
            Fault::Pause | Fault::Stall => self.nodes[place].signal(Signal::CONT),
            Fault::Links | Fault::Store | Fault::Isolate => {
                self.ways(fault, place).into_iter().try_for_each(|(one, other)| self.network.mend(one, other))
            }
        }
    }

    /// Whether the node at this place, which was told to stop, has.
    ///
    /// # Errors
    /// When it has ended in another way than it should.
    pub fn has_stopped(&mut self, place: usize) -> Result<bool, Error> {
        self.nodes[place].has_stopped()
    }

    fn ways(&self, fault: Fault, place: usize) -> Vec<(Host, Host)> {
        let node = host(place + 1);
        match fault {
            Fault::Links => vec![(node, host((place + 1) % self.nodes.len() + 1))],
            Fault::Store => vec![(node, Host::Store)],
            Fault::Isolate => self.network.all_but(node).map(|other| (node, other)).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolling_restart_meets_each_node_once() {
        assert_eq!(Fault::Restart.victims(1, 3), [1, 2, 0]);
        assert_eq!(Fault::Kill.victims(2, 3), [2]);
    }
}
