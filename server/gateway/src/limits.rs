//! The `[limits]` of the configuration, and what counts by them: connections of a shard and of an address before their
//! login, sends of a user and a device.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tern_core::address::{BeforeLogin, Source};
use tern_core::limits::{
    BEFORE_LOGIN_PER_ADDRESS_MAX, CONNECTIONS_PER_SHARD_MAX, DEVICE_SENDS_BURST, DEVICE_SENDS_PER_SECOND,
    SEND_PAUSE_MS, SENDERS_REMEMBERED_MAX, USER_SENDS_BURST, USER_SENDS_PER_SECOND,
};
use tern_core::rate::{Rate, Spent};
use tern_core::time::MonoMillis;
use tern_protocol::ids::UserId;

/// What everybody together, one address, one user and one device may take of the server. 0 switches a limit off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections of one shard; more are closed at once.
    pub connections_per_shard: u32,
    /// Connections of one address that have not logged in, on each shard.
    pub before_login_per_address: u32,
    /// Sends of one device.
    pub device_sends_per_second: u32,
    /// Sends of one device at once, after a rest; not less than what a second earns.
    pub device_sends_burst: u32,
    /// Sends of all devices of a user.
    pub user_sends_per_second: u32,
    /// Sends of all devices of a user at once, after a rest.
    pub user_sends_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_shard: CONNECTIONS_PER_SHARD_MAX,
            before_login_per_address: BEFORE_LOGIN_PER_ADDRESS_MAX,
            device_sends_per_second: DEVICE_SENDS_PER_SECOND,
            device_sends_burst: DEVICE_SENDS_BURST,
            user_sends_per_second: USER_SENDS_PER_SECOND,
            user_sends_burst: USER_SENDS_BURST,
        }
    }
}

impl Limits {
    /// None for anybody: for development and load tests, where everybody comes from one address.
    pub const OFF: Self = Self {
        connections_per_shard: CONNECTIONS_PER_SHARD_MAX,
        before_login_per_address: 0,
        device_sends_per_second: 0,
        device_sends_burst: 0,
        user_sends_per_second: 0,
        user_sends_burst: 0,
    };

    /// Connections of one shard.
    pub(crate) fn connections_per_shard_max(&self) -> usize {
        if self.connections_per_shard == 0 { usize::MAX } else { self.connections_per_shard as usize }
    }

    /// What the types cannot say.
    ///
    /// # Errors
    /// Which key, and what was expected of it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let rates = [
            ("limits.device_sends_burst", self.device_sends_per_second, self.device_sends_burst),
            ("limits.user_sends_burst", self.user_sends_per_second, self.user_sends_burst),
        ];
        let wrong = |per_second, burst| burst < per_second || (per_second == 0) != (burst == 0);
        match rates.into_iter().find(|(_, per_second, burst)| wrong(*per_second, *burst)) {
            Some((key, per_second, burst)) => Err((
                key,
                format!("{burst}: expected at least what a second allows, {per_second}, or both 0"),
            )),
            None => Ok(()),
        }
    }
}

/// Connections of each address that have not logged in: one for the listeners of a shard, on both transports.
#[derive(Debug, Clone)]
pub struct AddressLimit(Option<Arc<Mutex<BeforeLogin>>>);

/// The place of a connection that has not logged in; dropping it gives it back.
#[derive(Debug)]
pub struct Place(Option<(Arc<Mutex<BeforeLogin>>, Source)>);

impl AddressLimit {
    /// For a shard.
    pub fn new(limits: &Limits) -> Self {
        let max = limits.before_login_per_address;
        Self((max > 0).then(|| Arc::new(Mutex::new(BeforeLogin::new(max)))))
    }

    /// A place for a new connection, if its address may have one more.
    pub fn enter(&self, from: IpAddr) -> Option<Place> {
        let Some(addresses) = &self.0 else { return Some(Place(None)) };
        let from = from.into();
        lock(addresses).enter(from).then(|| Place(Some((addresses.clone(), from))))
    }

    /// Whether the address has taken half of its places.
    pub fn is_half_full(&self, from: IpAddr) -> bool {
        self.0.as_ref().is_some_and(|addresses| lock(addresses).is_half_full(from.into()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((addresses, from)) = self.0.take() {
            lock(&addresses).leave(from);
        }
    }
}

/// A shard that has panicked has ended the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Into how many parts the users are divided, so that shards seldom meet at a lock.
const PARTS: usize = 64;

/// How much of a user's rate is spent, by all connections of the user on all shards.
type UserSpent = Arc<AtomicU64>;

/// The sends of all users of the process.
#[derive(Debug)]
pub struct SendLimits {
    device: Option<Rate>,
    user: Option<Rate>,
    /// Users who are connected, or have spent something not long ago: who comes back has it spent still. Looked at when
    /// somebody logs in, not for every send.
    users: [Mutex<HashMap<UserId, UserSpent>>; PARTS],
}

/// What one connection has sent. A device has one connection, so its rate is the device's.
#[derive(Debug)]
pub struct Sends {
    device: Spent,
    user: Option<UserSpent>,
    /// Until when all are refused, because one was.
    paused_until: MonoMillis,
}

impl SendLimits {
    /// For a process.
    pub fn new(limits: &Limits) -> Self {
        Self {
            device: Rate::new(limits.device_sends_per_second, limits.device_sends_burst),
            user: Rate::new(limits.user_sends_per_second, limits.user_sends_burst),
            users: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// What a connection counts by from its login on; `None` when there are no limits.
    pub fn login(&self, user: UserId) -> Option<Sends> {
        let spent = self.user.map(|_| {
            let mut users = lock(&self.users[usize::from(user.as_bytes()[0]) % PARTS]);
            match users.get(&user) {
                Some(spent) => spent.clone(),
                None => {
                    let spent = UserSpent::default();
                    if users.len() < SENDERS_REMEMBERED_MAX {
                        users.insert(user, spent.clone());
                    }
                    spent
                }
            }
        });
        (self.device.is_some() || self.user.is_some()).then(|| Sends {
            device: Spent::default(),
            user: spent,
            paused_until: MonoMillis::default(),
        })
    }

    /// One more send of a connection.
    ///
    /// # Errors
    /// The milliseconds until there is room for it.
    pub fn take(&self, sends: &mut Sends, now: MonoMillis) -> Result<(), u64> {
        if now < sends.paused_until {
            return Err(sends.paused_until.since(now));
        }
        self.spend(sends, now).map_err(|wait_ms| {
            let wait_ms = wait_ms.max(SEND_PAUSE_MS);
            sends.paused_until = now.plus(wait_ms);
            wait_ms
        })
    }

    fn spend(&self, sends: &mut Sends, now: MonoMillis) -> Result<(), u64> {
        let device = match self.device {
            Some(rate) => rate.take(sends.device, now)?,
            None => Spent::default(),
        };
        if let (Some(rate), Some(user)) = (self.user, &sends.user) {
            let mut refused = 0;
            let one_more = |spent| match rate.take(Spent(spent), now) {
                Ok(Spent(next)) => Some(next),
                Err(wait_ms) => {
                    refused = wait_ms;
                    None
                }
            };
            user.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| refused)?;
        }
        sends.device = device;
        Ok(())
    }

    /// Forgets users of one part who have gone and have nothing spent any more. `turn` counts up, so that every part has
    /// its turn.
    pub fn forget_rested(&self, turn: usize, now: MonoMillis) {
        let mut users = lock(&self.users[turn % PARTS]);
        users.retain(|_, spent| {
            Arc::strong_count(spent) > 1 || !Spent(spent.load(Ordering::Relaxed)).is_over(now)
        });
        if users.len() < users.capacity() / 4 {
            users.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Limits = Limits {
        connections_per_shard: 2,
        before_login_per_address: 2,
        device_sends_per_second: 2,
        device_sends_burst: 3,
        user_sends_per_second: 4,
        user_sends_burst: 5,
    };

    fn user(n: u8) -> UserId {
        UserId::from_bytes([n; 16])
    }

    /// How many sends are taken at this moment.
    fn take_all(limits: &SendLimits, sends: &mut Sends, now: u64) -> usize {
        (0..100).filter(|_| limits.take(sends, MonoMillis(now)).is_ok()).count()
    }

    #[test]
    fn devices_and_users_have_limits() {
        let limits = SendLimits::new(&FEW);
        let mut phone = limits.login(user(1)).expect("there are limits");
        let mut tablet = limits.login(user(1)).expect("there are limits");
        let mut other = limits.login(user(2)).expect("there are limits");
        assert_eq!(take_all(&limits, &mut phone, 1_000), 3, "the device's burst");
        assert_eq!(take_all(&limits, &mut tablet, 1_000), 2, "what is left of the user's");
        assert_eq!(take_all(&limits, &mut other, 1_000), 3, "another user");
        assert_eq!(limits.take(&mut tablet, MonoMillis(1_000)), Err(1_000));
        assert_eq!(
            limits.take(&mut tablet, MonoMillis(1_999)),
            Err(1),
            "what was sent behind the refused one"
        );
        assert_eq!(take_all(&limits, &mut tablet, 2_000), 3, "what the pause has earned");
    }

    #[test]
    fn who_comes_back_has_it_spent_still() {
        let limits = SendLimits::new(&FEW);
        for expected in [3, 2, 0] {
            let mut sends = limits.login(user(1)).expect("there are limits");
            assert_eq!(take_all(&limits, &mut sends, 1_000), expected);
            drop(sends);
            limits.forget_rested(1, MonoMillis(1_000));
        }
        let remembered =
            |limits: &SendLimits| limits.users.iter().map(|part| lock(part).len()).sum::<usize>();
        assert_eq!(remembered(&limits), 1);
        (0..PARTS).for_each(|turn| limits.forget_rested(turn, MonoMillis(10_000)));
        assert_eq!(remembered(&limits), 0, "and is forgotten in the end");
    }

    #[test]
    fn users_who_are_remembered_are_bounded() {
        let limits = SendLimits::new(&FEW);
        for n in 0..=SENDERS_REMEMBERED_MAX as u64 {
            let mut bytes = [1; 16];
            bytes[8..].copy_from_slice(&n.to_be_bytes());
            assert!(limits.login(UserId::from_bytes(bytes)).is_some());
        }
        assert_eq!(lock(&limits.users[1]).len(), SENDERS_REMEMBERED_MAX);
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        assert!(SendLimits::new(&Limits::OFF).login(user(1)).is_none());
        let addresses = AddressLimit::new(&Limits::OFF);
        let from = IpAddr::from([127, 0, 0, 1]);
        let places: Vec<_> = (0..10_000).map(|_| addresses.enter(from)).collect();
        assert!(places.iter().all(Option::is_some) && !addresses.is_half_full(from));
    }

    #[test]
    fn a_place_is_given_back() {
        let addresses = AddressLimit::new(&FEW);
        let from = IpAddr::from([192, 0, 2, 1]);
        let (one, two) = (addresses.enter(from), addresses.enter(from));
        assert!(one.is_some() && two.is_some() && addresses.enter(from).is_none());
        drop(one);
        assert!(addresses.enter(from).is_some());
    }

    #[test]
    fn half_a_limit_is_a_mistake() {
        assert_eq!([Limits::default(), Limits::OFF, FEW].map(|limits| limits.check()), [const { Ok(()) }; 3]);
        for limits in [Limits { user_sends_burst: 0, ..FEW }, Limits { device_sends_per_second: 0, ..FEW }] {
            let (key, problem) = limits.check().expect_err("refused");
            assert!(key.ends_with("_sends_burst") && problem.contains("expected"), "{key}: {problem}");
        }
    }
}
