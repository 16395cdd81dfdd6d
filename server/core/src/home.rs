//! A user's home knows where their devices are connected. A device that logs in again takes over its old connection.

use alloc::vec::Vec;
use core::fmt;

use hashbrown::HashMap;
use tern_protocol::ids::{DeviceId, UserId};

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

/// The users whose home is here.
#[derive(Debug, Default)]
pub struct Home {
    /// The connected devices, the one that logged in first at the front; at most `DEVICES_ONLINE_MAX`.
    users: HashMap<UserId, Vec<(DeviceId, SessionId)>>,
}

impl Home {
    /// A device has logged in. Returns the connection that has to go: the device's old one, or, of a user with too many
    /// devices online, that of the device that logged in first.
    pub fn register(&mut self, user: UserId, device: DeviceId, session: SessionId) -> Option<SessionId> {
        let devices = self.users.entry(user).or_default();
        let old = devices.iter().position(|(d, _)| *d == device);
        let goes = old.or((devices.len() >= DEVICES_ONLINE_MAX).then_some(0)).map(|i| devices.remove(i).1);
        devices.push((device, session));
        goes
    }

    /// A connection has ended. If its device is connected anew already, nothing changes.
    pub fn unregister(&mut self, user: UserId, session: SessionId) {
        if let Some(devices) = self.users.get_mut(&user) {
            devices.retain(|(_, s)| *s != session);
            if devices.is_empty() {
                self.users.remove(&user);
            }
        }
    }

    /// The connections of a user.
    pub fn sessions(&self, user: UserId) -> impl Iterator<Item = SessionId> {
        self.users.get(&user).into_iter().flatten().map(|(_, session)| *session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> SessionId {
        SessionId { shard: ShardId(0), number }
    }

    fn device(n: u64) -> DeviceId {
        DeviceId::new(n).expect("not 0")
    }

    #[test]
    fn the_newer_login_of_a_device_wins() {
        let user = UserId::from_bytes([1; 16]);
        let mut home = Home::default();
        assert_eq!(home.register(user, device(1), session(1)), None);
        assert_eq!(home.register(user, device(2), session(2)), None);
        assert_eq!(home.register(user, device(1), session(3)), Some(session(1)));
        home.unregister(user, session(1));
        assert_eq!(
            home.sessions(user).collect::<Vec<_>>(),
            [session(2), session(3)],
            "the late goodbye changes nothing"
        );
        home.unregister(user, session(2));
        home.unregister(user, session(3));
        assert!(home.users.is_empty());
    }

    #[test]
    fn devices_online_are_bounded() {
        let user = UserId::from_bytes([1; 16]);
        let mut home = Home::default();
        for n in 1..=DEVICES_ONLINE_MAX as u64 {
            assert_eq!(home.register(user, device(n), session(n)), None);
        }
        assert_eq!(home.register(user, device(900), session(900)), Some(session(1)));
        assert_eq!(home.sessions(user).count(), DEVICES_ONLINE_MAX);
    }
}
