//! A user's home knows where their devices are connected. A device that logs in again takes over its old connection.

use alloc::vec::Vec;
use core::fmt;

use hashbrown::HashMap;
use tern_protocol::ids::{DeviceId, NodeId, UserId};
use tern_protocol::model::WallMillis;

use crate::limits::DEVICES_ONLINE_MAX;
use crate::routing::ShardId;

/// A connection of this node; displayed as `shard:number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The shard that holds it.
    pub shard: ShardId,
    /// Its number there; never used again while the process lives.
    pub number: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.shard.0, self.number)
    }
}

/// A connection, and the node that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Located {
    /// The node.
    pub node: NodeId,
    /// The connection there.
    pub session: SessionId,
}

/// A connection that has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Displaced {
    /// Which.
    pub at: Located,
    /// Its client has been replaced: it is not to come back by itself. Else the clocks of two nodes say it, which may be off,
    /// and a client that is there comes back.
    pub is_certain: bool,
}

/// Clocks of nodes differ by less.
const SKEW_MS: u64 = 5_000;

/// A device that is connected.
#[derive(Debug, Clone, Copy)]
struct Here {
    device: DeviceId,
    at: Located,
    /// When it logged in, by the clock of its node, which does not go back.
    since: WallMillis,
}

/// The users whose home is here.
#[derive(Debug, Default)]
pub struct Home {
    /// The connected devices, the one that registered first at the front; at most `DEVICES_ONLINE_MAX`.
    users: HashMap<UserId, Vec<Here>>,
}

impl Home {
    /// A device is logged in on a connection, since then. Returns the connection that has to go: of two of a device the older
    /// one, or, of a user with too many devices online, that of the device that registered first.
    pub fn register(
        &mut self,
        user: UserId,
        device: DeviceId,
        at: Located,
        since: WallMillis,
    ) -> Option<Displaced> {
        let devices = self.users.entry(user).or_default();
        let new = Here { device, at, since };
        if let Some(i) = devices.iter().position(|here| here.device == device) {
            let old = devices.remove(i);
            if old.at == at {
                devices.insert(i, new);
                return None;
            }
            // Connections of one node may register in any order when a home is new.
            let (stays, goes) = if old.since <= since { (new, old) } else { (old, new) };
            devices.push(stays);
            let is_certain = old.at.node == at.node || stays.since.0 - goes.since.0 > SKEW_MS;
            return Some(Displaced { at: goes.at, is_certain });
        }
        let goes = (devices.len() >= DEVICES_ONLINE_MAX).then(|| devices.remove(0));
        devices.push(new);
        goes.map(|goes| Displaced { at: goes.at, is_certain: true })
    }

    /// A connection has ended. If its device is connected anew already, nothing changes.
    pub fn unregister(&mut self, user: UserId, at: Located) {
        if let Some(devices) = self.users.get_mut(&user) {
            devices.retain(|here| here.at != at);
            if devices.is_empty() {
                self.users.remove(&user);
            }
        }
    }

    /// The connections of a user.
    pub fn sessions(&self, user: UserId) -> impl Iterator<Item = Located> {
        self.users.get(&user).into_iter().flatten().map(|here| here.at)
    }

    /// Forgets connections.
    pub fn retain(&mut self, keep: impl Fn(UserId, NodeId) -> bool) {
        self.users.retain(|user, devices| {
            devices.retain(|here| keep(*user, here.at.node));
            !devices.is_empty()
        });
    }

    /// Whether there is a connection to such a node.
    pub fn any(&self, is: impl Fn(NodeId) -> bool) -> bool {
        self.users.values().flatten().any(|here| is(here.at.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node: u64, number: u64) -> Located {
        Located { node: NodeId(node), session: SessionId { shard: ShardId(0), number } }
    }

    fn device(n: u64) -> DeviceId {
        DeviceId::new(n).expect("not 0")
    }

    const USER: UserId = UserId::from_bytes([1; 16]);

    /// Registers connections, each a device's, its place and when it logged in; returns who goes at the last one.
    fn registered(all: &[(u64, Located, u64)]) -> (Option<(Located, bool)>, Vec<Located>) {
        let mut home = Home::default();
        let mut goes = None;
        for (n, at, since) in all {
            goes = home.register(USER, device(*n), *at, WallMillis(*since));
        }
        (goes.map(|goes| (goes.at, goes.is_certain)), home.sessions(USER).collect())
    }

    #[test]
    fn the_newer_login_of_a_device_wins() {
        let mut home = Home::default();
        let mut register =
            |n, place| home.register(USER, device(n), place, WallMillis(7)).map(|goes| goes.at);
        assert_eq!(register(1, at(0, 1)), None);
        assert_eq!(register(2, at(0, 2)), None);
        assert_eq!(register(1, at(0, 3)), Some(at(0, 1)));
        home.unregister(USER, at(0, 1));
        let left: Vec<_> = home.sessions(USER).collect();
        assert_eq!(left, [at(0, 2), at(0, 3)], "the late goodbye changes nothing");
        home.unregister(USER, at(0, 2));
        home.unregister(USER, at(0, 3));
        assert!(home.users.is_empty());
    }

    #[test]
    fn who_goes_does_not_depend_on_who_registers_first() {
        let (first, second) = ((1, at(0, 1), 50), (1, at(0, 2), 51));
        assert_eq!(registered(&[first, second]), (Some((first.1, true)), [second.1].into()));
        assert_eq!(registered(&[second, first]), (Some((first.1, true)), [second.1].into()));
        let (old, new) = ((1, at(0, 1), 10_000), (1, at(7, 1), 10_000 + SKEW_MS + 1));
        assert_eq!(registered(&[old, new]), (Some((old.1, true)), [new.1].into()));
        assert_eq!(
            registered(&[new, old]),
            (Some((old.1, true)), [new.1].into()),
            "its registration came late"
        );
        // Within what clocks may be off, nobody knows.
        let near = (1, at(7, 1), 10_000 + SKEW_MS);
        assert_eq!(registered(&[old, near]), (Some((old.1, false)), [near.1].into()));
        assert_eq!(registered(&[near, old]), (Some((old.1, false)), [near.1].into()));
        // Again with a new home, or a new link to it.
        assert_eq!(registered(&[old, old]), (None, [old.1].into()));
    }

    #[test]
    fn devices_online_are_bounded() {
        let mut all: Vec<_> = (1..=DEVICES_ONLINE_MAX as u64).map(|n| (n, at(0, n), 1)).collect();
        assert_eq!(registered(&all).0, None);
        all.push((900, at(5, 900), 1));
        let (goes, here) = registered(&all);
        assert_eq!((goes, here.len()), (Some((at(0, 1), true)), DEVICES_ONLINE_MAX));
    }

    #[test]
    fn what_is_connected_to_a_node_is_forgotten_with_it() {
        let mut home = Home::default();
        home.register(USER, device(1), at(0, 1), WallMillis(1));
        home.register(USER, device(2), at(5, 1), WallMillis(1));
        assert!(home.any(|node| node == NodeId(5)));
        home.retain(|_, node| node != NodeId(5));
        assert!(!home.any(|node| node == NodeId(5)) && home.sessions(USER).count() == 1);
        home.retain(|_, _| false);
        assert!(home.users.is_empty());
    }
}
