//! The `[limits]` of the configuration, and what counts by them: connections of a shard and of an address before their
//! login, sends and other work of a user and a device.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tern_core::address::{BeforeLogin, Source};
use tern_core::limits::{
    BEFORE_LOGIN_PER_ADDRESS_MAX, CONNECTIONS_PER_SHARD_MAX, DEAF_MS_MAX, DEVICE_SENDS_BURST,
    DEVICE_SENDS_PER_SECOND, DEVICE_WORK_BURST, DEVICE_WORK_PER_SECOND, PAUSE_MS, REFUSED_IN_PAUSE_MAX,
    USER_SENDS_BURST, USER_SENDS_PER_SECOND, USER_WORK_BURST, USER_WORK_PER_SECOND, USERS_REMEMBERED_MAX,
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
    /// What the other requests of one device cost, in the units of [`tern_core::work`].
    pub device_work_per_second: u32,
    /// The same at once, after a rest; not less than what a second earns.
    pub device_work_burst: u32,
    /// What the other requests of all devices of a user cost.
    pub user_work_per_second: u32,
    /// The same at once, after a rest.
    pub user_work_burst: u32,
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
            device_work_per_second: DEVICE_WORK_PER_SECOND,
            device_work_burst: DEVICE_WORK_BURST,
            user_work_per_second: USER_WORK_PER_SECOND,
            user_work_burst: USER_WORK_BURST,
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
        device_work_per_second: 0,
        device_work_burst: 0,
        user_work_per_second: 0,
        user_work_burst: 0,
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
            ("limits.device_work_burst", self.device_work_per_second, self.device_work_burst),
            ("limits.user_work_burst", self.user_work_per_second, self.user_work_burst),
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

/// How much of a user's rates is spent, by all connections of the user on all shards.
#[derive(Debug, Default)]
struct UserSpent {
    sends: AtomicU64,
    work: AtomicU64,
}

/// How often a device and a user may do something.
#[derive(Debug, Clone, Copy)]
struct Rates {
    device: Option<Rate>,
    user: Option<Rate>,
}

/// What the users of the process may do.
#[derive(Debug)]
pub struct UserLimits {
    sends: Rates,
    work: Rates,
    /// Users who are connected, or have spent something not long ago: who comes back has it spent still. Looked at when
    /// somebody logs in, not for every request.
    users: [Mutex<HashMap<UserId, Arc<UserSpent>>>; PARTS],
}

/// What one connection has done. A device has one connection, so its rates are the device's.
#[derive(Debug)]
pub struct Usage {
    user: Option<Arc<UserSpent>>,
    sends: Used,
    work: Used,
}

/// The same, of one kind.
#[derive(Debug, Default)]
struct Used {
    device: Spent,
    /// Until when all is refused, because something was.
    paused_until: MonoMillis,
    /// What was refused in this pause.
    refused: u32,
}

/// There is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Milliseconds until there is.
    pub wait_ms: u64,
    /// The client goes on although it was told: until when it is not listened to.
    pub deaf_until: Option<MonoMillis>,
}

impl UserLimits {
    /// For a process.
    pub fn new(limits: &Limits) -> Self {
        Self {
            sends: Rates {
                device: Rate::new(limits.device_sends_per_second, limits.device_sends_burst),
                user: Rate::new(limits.user_sends_per_second, limits.user_sends_burst),
            },
            work: Rates {
                device: Rate::new(limits.device_work_per_second, limits.device_work_burst),
                user: Rate::new(limits.user_work_per_second, limits.user_work_burst),
            },
            users: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// What a connection counts by from its login on; `None` when there are no limits.
    pub fn login(&self, user: UserId) -> Option<Usage> {
        let limited = [self.sends.user, self.work.user].iter().any(Option::is_some);
        let spent = limited.then(|| {
            let mut users = lock(&self.users[usize::from(user.as_bytes()[0]) % PARTS]);
            match users.get(&user) {
                Some(spent) => spent.clone(),
                None => {
                    let spent = Arc::<UserSpent>::default();
                    if users.len() < USERS_REMEMBERED_MAX {
                        users.insert(user, spent.clone());
                    }
                    spent
                }
            }
        });
        let any = limited || [self.sends.device, self.work.device].iter().any(Option::is_some);
        any.then(|| Usage { user: spent, sends: Used::default(), work: Used::default() })
    }

    /// One more send of a connection.
    ///
    /// # Errors
    /// When this device or this user has none left, or had none a moment ago.
    pub fn take_send(&self, usage: &mut Usage, now: MonoMillis) -> Result<(), Exceeded> {
        let user = usage.user.as_deref().map(|user| &user.sends);
        usage.sends.take(self.sends, user, (1, 1), now)
    }

    /// A request of a connection that is no send, in the units of [`tern_core::work`]; `refusal` is what it costs all the
    /// same if it is refused.
    ///
    /// # Errors
    /// The same.
    pub fn take_work(
        &self,
        usage: &mut Usage,
        work: u32,
        refusal: u32,
        now: MonoMillis,
    ) -> Result<(), Exceeded> {
        let user = usage.user.as_deref().map(|user| &user.work);
        usage.work.take(self.work, user, (work, refusal), now)
    }

    /// Work that was done for a connection, whatever it cost.
    pub fn spend_work(&self, usage: &mut Usage, work: u32, now: MonoMillis) {
        if let Some(rate) = self.work.device {
            usage.work.device = rate.spend(usage.work.device, work, now);
        }
        if let (Some(rate), Some(user)) = (self.work.user, &usage.user) {
            let more = |spent| Some(rate.spend(Spent(spent), work, now).0);
            let _ = user.work.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// Forgets users of one part who have gone and have nothing spent any more. `turn` counts up, so that every part has
    /// its turn.
    pub fn forget_rested(&self, turn: usize, now: MonoMillis) {
        let mut users = lock(&self.users[turn % PARTS]);
        users.retain(|_, spent| {
            let is_over = |spent: &AtomicU64| Spent(spent.load(Ordering::Relaxed)).is_over(now);
            Arc::strong_count(spent) > 1 || !is_over(&spent.sends) || !is_over(&spent.work)
        });
        if users.len() < users.capacity() / 4 {
            users.shrink_to_fit();
        }
    }
}

impl Used {
    fn take(
        &mut self,
        rates: Rates,
        user: Option<&AtomicU64>,
        (cost, refusal): (u32, u32),
        now: MonoMillis,
    ) -> Result<(), Exceeded> {
        let wait_ms = if now < self.paused_until {
            self.paused_until.since(now)
        } else {
            let Err(wait_ms) = self.spend(rates, user, cost, now) else { return Ok(()) };
            let wait_ms = wait_ms.max(PAUSE_MS);
            (self.paused_until, self.refused) = (now.plus(wait_ms), 0);
            wait_ms
        };
        self.refused = self.refused.saturating_add(refusal);
        let deaf_until = (self.refused > REFUSED_IN_PAUSE_MAX).then(|| now.plus(wait_ms.min(DEAF_MS_MAX)));
        Err(Exceeded { wait_ms, deaf_until })
    }

    fn spend(
        &mut self,
        rates: Rates,
        user: Option<&AtomicU64>,
        cost: u32,
        now: MonoMillis,
    ) -> Result<(), u64> {
        let device = match rates.device {
            Some(rate) => rate.take(self.device, cost, now)?,
            None => Spent::default(),
        };
        if let (Some(rate), Some(user)) = (rates.user, user) {
            let mut refused = 0;
            let some_more = |spent| match rate.take(Spent(spent), cost, now) {
                Ok(Spent(next)) => Some(next),
                Err(wait_ms) => {
                    refused = wait_ms;
                    None
                }
            };
            user.fetch_update(Ordering::Relaxed, Ordering::Relaxed, some_more).map_err(|_| refused)?;
        }
        self.device = device;
        Ok(())
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
        device_work_per_second: 20,
        device_work_burst: 30,
        user_work_per_second: 40,
        user_work_burst: 50,
    };

    fn user(n: u8) -> UserId {
        UserId::from_bytes([n; 16])
    }

    /// How many sends are taken at this moment.
    fn take_all(limits: &UserLimits, usage: &mut Usage, now: u64) -> usize {
        (0..100).filter(|_| limits.take_send(usage, MonoMillis(now)).is_ok()).count()
    }

    /// How long a send, or such a request, has to wait.
    fn wait_ms(result: Result<(), Exceeded>) -> u64 {
        result.expect_err("there is no room").wait_ms
    }

    #[test]
    fn devices_and_users_have_limits() {
        let limits = UserLimits::new(&FEW);
        let mut phone = limits.login(user(1)).expect("there are limits");
        let mut tablet = limits.login(user(1)).expect("there are limits");
        let mut other = limits.login(user(2)).expect("there are limits");
        assert_eq!(take_all(&limits, &mut phone, 1_000), 3, "the device's burst");
        assert_eq!(take_all(&limits, &mut tablet, 1_000), 2, "what is left of the user's");
        assert_eq!(take_all(&limits, &mut other, 1_000), 3, "another user");
        assert_eq!(wait_ms(limits.take_send(&mut tablet, MonoMillis(1_000))), 1_000);
        let behind = limits.take_send(&mut tablet, MonoMillis(1_999));
        assert_eq!(wait_ms(behind), 1, "what was sent behind the refused one");
        assert_eq!(take_all(&limits, &mut tablet, 2_000), 3, "what the pause has earned");
    }

    #[test]
    fn work_and_sends_are_counted_apart() {
        let limits = UserLimits::new(&FEW);
        let mut phone = limits.login(user(1)).expect("there are limits");
        let mut tablet = limits.login(user(1)).expect("there are limits");
        let at = MonoMillis;
        assert_eq!(limits.take_work(&mut phone, 29, 1, at(1_000)), Ok(()));
        assert_eq!(limits.take_work(&mut phone, 41, 1, at(1_000)), Ok(()), "there is room for one");
        // The device has spent 70, which is 40 more than it may, at 20 a second; the user 20 more.
        assert_eq!(wait_ms(limits.take_work(&mut phone, 1, 1, at(1_000))), 2_050);
        assert_eq!(wait_ms(limits.take_work(&mut tablet, 1, 1, at(1_000))), 1_000, "the user's");
        assert_eq!(take_all(&limits, &mut phone, 1_000), 3, "who may not ask may send");
        assert_eq!(limits.take_work(&mut tablet, 1, 1, at(2_000)), Ok(()));
        limits.spend_work(&mut tablet, 80, at(2_000));
        assert_eq!(wait_ms(limits.take_work(&mut tablet, 1, 1, at(2_000))), 2_600, "its answer was long");
        assert_eq!(wait_ms(limits.take_work(&mut phone, 1, 1, at(3_050))), 1_000, "so is its user's");
    }

    #[test]
    fn who_does_not_heed_a_refusal_is_not_listened_to() {
        let limits = UserLimits::new(&Limits { device_work_per_second: 1, device_work_burst: 1, ..FEW });
        let mut phone = limits.login(user(1)).expect("there are limits");
        assert_eq!(limits.take_work(&mut phone, 20, 1, MonoMillis(1_000)), Ok(()));
        let refused = |phone: &mut Usage, refusal, now| {
            limits.take_work(phone, 9, refusal, MonoMillis(now)).expect_err("refused").deaf_until
        };
        for n in 0..REFUSED_IN_PAUSE_MAX {
            assert_eq!(refused(&mut phone, 1, 1_000), None, "{n}: it was under way");
        }
        assert_eq!(refused(&mut phone, 1, 2_000), Some(MonoMillis(2_000 + DEAF_MS_MAX)), "no longer");
        assert_eq!(refused(&mut phone, 1, 20_500), Some(MonoMillis(21_000)), "not beyond the pause");
        assert_eq!(limits.take_work(&mut phone, 2, 1, MonoMillis(21_000)), Ok(()));
        assert_eq!(refused(&mut phone, 1, 21_000), None, "another pause");
        let long = refused(&mut phone, REFUSED_IN_PAUSE_MAX, 21_000);
        assert_eq!(long, Some(MonoMillis(23_000)), "what is long costs more to refuse");
    }

    #[test]
    fn who_comes_back_has_it_spent_still() {
        let limits = UserLimits::new(&FEW);
        for expected in [3, 2, 0] {
            let mut sends = limits.login(user(1)).expect("there are limits");
            assert_eq!(take_all(&limits, &mut sends, 1_000), expected);
            drop(sends);
            limits.forget_rested(1, MonoMillis(1_000));
        }
        let remembered =
            |limits: &UserLimits| limits.users.iter().map(|part| lock(part).len()).sum::<usize>();
        assert_eq!(remembered(&limits), 1);
        (0..PARTS).for_each(|turn| limits.forget_rested(turn, MonoMillis(10_000)));
        assert_eq!(remembered(&limits), 0, "and is forgotten in the end");
    }

    #[test]
    fn users_who_are_remembered_are_bounded() {
        let limits = UserLimits::new(&FEW);
        for n in 0..=USERS_REMEMBERED_MAX as u64 {
            let mut bytes = [1; 16];
            bytes[8..].copy_from_slice(&n.to_be_bytes());
            assert!(limits.login(UserId::from_bytes(bytes)).is_some());
        }
        assert_eq!(lock(&limits.users[1]).len(), USERS_REMEMBERED_MAX);
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        assert!(UserLimits::new(&Limits::OFF).login(user(1)).is_none());
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
        for limits in [Limits { user_sends_burst: 0, ..FEW }, Limits { device_work_per_second: 0, ..FEW }] {
            let (key, problem) = limits.check().expect_err("refused");
            assert!(key.ends_with("_burst") && problem.contains("expected"), "{key}: {problem}");
        }
    }
}
