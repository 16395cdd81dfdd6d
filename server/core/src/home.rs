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

/// When a device has logged in on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    /// By the clock of its node, which does not go back.
    pub since: WallMillis,
    /// Just now. Else it is told again, to a home that did not know of it.
    pub is_fresh: bool,
}

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
    /// A device is logged in on a connection. Returns the connection that has to go: of two of a device the older one, or, of a
    /// user with too many devices online, that of the device that registered first. Who logs in just now is the newer one; of two
    /// that are told again the clocks decide, and then nobody is sure.
    pub fn register(
        &mut self,
        user: UserId,
        device: DeviceId,
        at: Located,
        login: Login,
    ) -> Option<Displaced> {
        let devices = self.users.entry(user).or_default();
        let Login { since, is_fresh } = login;
        let new = Here { device, at, since };
        if let Some(i) = devices.iter().position(|here| here.device == device) {
            let old = devices.remove(i);
            if old.at == at {
                devices.insert(i, new);
                return None;
            }
            // Connections of one node may register in any order when a home is new, and have one clock.
            let is_same_clock = old.at.node == at.node;
            let is_newer = old.since <= since || is_fresh && !is_same_clock;
            let (stays, goes) = if is_newer { (new, old) } else { (old, new) };
            devices.push(stays);
            let is_later = stays.since.0 > goes.since.0.saturating_add(SKEW_MS);
            let is_certain = is_same_clock || is_fresh && is_later;
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
    fn registered(all: &[(u64, Located, u64)], is_fresh: bool) -> (Option<(Located, bool)>, Vec<Located>) {
        let mut home = Home::default();
        let mut goes = None;
        for (n, at, since) in all {
            let login = Login { since: WallMillis(*since), is_fresh };
            goes = home.register(USER, device(*n), *at, login);
        }
        (goes.map(|goes| (goes.at, goes.is_certain)), home.sessions(USER).collect())
    }

    #[test]
    fn the_newer_login_of_a_device_wins() {
        let mut home = Home::default();
        let login = Login { since: WallMillis(7), is_fresh: true };
        let mut register = |n, place| home.register(USER, device(n), place, login).map(|goes| goes.at);
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
    fn who_goes() {
        let goes = |first, second, is_fresh| {
            let (goes, here) = registered(&[first, second], is_fresh);
            let (goes, is_certain) = goes.expect("one of two");
            assert!(here.len() == 1 && here[0] != goes);
            (goes, is_certain)
        };
        // On one node the clock decides, whoever registers first.
        let (first, second) = ((1, at(0, 1), 50), (1, at(0, 2), 51));
        for is_fresh in [false, true] {
            assert_eq!(goes(first, second, is_fresh), (first.1, true));
            assert_eq!(goes(second, first, is_fresh), (first.1, true));
        }
        // Of two nodes who logs in just now is the newer, and that is for certain if the clocks say so too.
        let (early, late) = ((1, at(0, 1), 10_000), (1, at(7, 1), 10_000 + SKEW_MS + 1));
        let near = (1, at(7, 1), 10_000 + SKEW_MS);
        assert_eq!(goes(early, late, true), (early.1, true));
        assert_eq!(goes(early, near, true), (early.1, false));
        assert_eq!(goes(late, early, true), (late.1, false), "a clock is off, or a registration came late");
        // Told again, the clocks decide, and nobody is sent away for good.
        assert_eq!(goes(early, late, false), (early.1, false));
        assert_eq!(goes(late, early, false), (early.1, false));
        // One connection, told again.
        assert_eq!(registered(&[early, early], false), (None, [early.1].into()));
    }

    #[test]
    fn devices_online_are_bounded() {
        let mut all: Vec<_> = (1..=DEVICES_ONLINE_MAX as u64).map(|n| (n, at(0, n), 1)).collect();
        assert_eq!(registered(&all, true).0, None);
        all.push((900, at(5, 900), 1));
        let (goes, here) = registered(&all, true);
        assert_eq!((goes, here.len()), (Some((at(0, 1), true)), DEVICES_ONLINE_MAX));
    }

    #[test]
    fn what_is_connected_to_a_node_is_forgotten_with_it() {
        let mut home = Home::default();
        let login = Login { since: WallMillis(1), is_fresh: true };
        home.register(USER, device(1), at(0, 1), login);
        home.register(USER, device(2), at(5, 1), login);
        assert!(home.any(|node| node == NodeId(5)));
        home.retain(|_, node| node != NodeId(5));
        assert!(!home.any(|node| node == NodeId(5)) && home.sessions(USER).count() == 1);
        home.retain(|_, _| false);
        assert!(home.users.is_empty());
    }
}
