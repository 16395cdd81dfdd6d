//! Clients who come back: when a silent connection is dead, how long to wait before the next, and logging in again.

use std::rc::Rc;
use std::time::Duration;

use tern_protocol::error::{ErrorCode, Retry};
use tern_protocol::request::RequestBody;

use crate::client::{Account, Client};
use crate::error::LoginError;
use crate::fleet::Dialer;
use crate::random::Random;

/// While an answer is waited for, a heartbeat goes out after this silence, and as often as this.
const BEAT: u64 = 2_000_000_000;
/// A connection that has lasted this long was a good one: the next wait is short again.
const STABLE: u64 = 60_000_000_000;

/// How patient a client is, as the protocol has it unless somebody waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Silence after a heartbeat that makes a connection dead.
    pub dead_after: Duration,
    /// One try to connect and log in.
    pub try_timeout: Duration,
    /// The first wait before a try is random between 0 and this; the bound doubles with each failure in a row ..
    pub wait_first: Duration,
    /// .. up to this.
    pub wait_max: Duration,
}

impl Patience {
    /// What the specification says for a client in general.
    pub const SPECIFIED: Self = Self {
        dead_after: Duration::from_secs(30),
        try_timeout: Duration::from_secs(20),
        wait_first: Duration::from_secs(1),
        wait_max: Duration::from_secs(60),
    };

    /// Somebody looks at the screen.
    pub const IN_USE: Self = Self {
        dead_after: Duration::from_secs(10),
        try_timeout: Duration::from_secs(10),
        wait_first: Duration::from_millis(250),
        wait_max: Duration::from_secs(5),
    };
}

/// Waits that grow with each failure in a row.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    bound: Duration,
    random: Random,
}

impl Backoff {
    /// Without a failure so far.
    pub fn new(patience: &Patience, random: Random) -> Self {
        Self { first: patience.wait_first, max: patience.wait_max, bound: patience.wait_first, random }
    }

    /// A try has failed, or a connection that was up for so long has ended. How long to wait now: what the server has
    /// advised and a random part of it, or between 0 and the bound.
    pub fn wait(&mut self, was_up: Duration, advice: Duration) -> Duration {
        if was_up.as_nanos() >= u128::from(STABLE) {
            self.bound = self.first;
        }
        let bound = self.bound;
        self.bound = (2 * bound).min(self.max);
        let fraction = self.random.fraction();
        if advice.is_zero() { bound.mul_f64(fraction) } else { advice + advice.mul_f64(fraction) }
    }
}

/// Who logs in again and again.
pub struct Returning {
    account: Account,
    dialer: Rc<Dialer>,
    patience: Patience,
    backoff: Backoff,
    advice: Duration,
    own_socket: bool,
    /// Asked behind the login.
    behind: Option<RequestBody>,
    /// The next wait, if it is not the backoff's: within this time.
    within: Option<Duration>,
    tries: u32,
}

impl Returning {
    /// Who has not come yet.
    pub fn new(account: Account, dialer: Rc<Dialer>, patience: Patience, random: Random) -> Self {
        let backoff = Backoff::new(&patience, random);
        Self {
            account,
            dialer,
            patience,
            backoff,
            advice: Duration::ZERO,
            own_socket: false,
            behind: None,
            within: None,
            tries: 0,
        }
    }

    /// The client shares no socket with others: it takes another one for each try.
    pub fn with_own_socket(mut self) -> Self {
        self.own_socket = true;
        self
    }

    /// When the connection ends for the first time, it comes back within this time, at a random moment.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// What to ask [behind](Client::login) the next login.
    pub fn ask(&mut self, body: RequestBody) {
        self.behind = Some(body);
    }

    /// How often it has tried in vain since it was last logged in.
    pub fn tries_in_vain(&self) -> u32 {
        self.tries.saturating_sub(1)
    }

    /// How patient it is.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Its number among the clients of the run.
    pub fn number(&self) -> usize {
        self.account.number
    }

    /// The server has said not to come back before that long.
    pub fn advise(&mut self, wait: Duration) {
        self.advice = wait;
    }

    /// Connects and logs in: at once, and again with a backoff while that fails for passing reasons.
    ///
    /// # Errors
    /// A [`LoginError`] that would be the same again.
    pub async fn come(&mut self) -> Result<Client, LoginError> {
        loop {
            if let Some(client) = self.try_once().await? {
                return Ok(client);
            }
            self.wait(Duration::ZERO).await;
        }
    }

    /// The connection, which was up for so long, has ended: waits, and comes.
    ///
    /// # Errors
    /// As [`Self::come`].
    pub async fn come_back(&mut self, was_up: Duration) -> Result<Client, LoginError> {
        self.tries = 0;
        match self.within.take() {
            Some(time) => tokio::time::sleep(time.mul_f64(self.backoff.random.fraction())).await,
            None => self.wait(was_up).await,
        }
        if self.own_socket {
            self.dialer.renew_socket(&self.account);
        }
        self.come().await
    }

    async fn wait(&mut self, was_up: Duration) {
        let advice = std::mem::take(&mut self.advice);
        tokio::time::sleep(self.backoff.wait(was_up, advice)).await;
    }

    async fn try_once(&mut self) -> Result<Option<Client>, LoginError> {
        self.tries += 1;
        let attempt = self.dialer.attempt(&self.account, self.behind.clone());
        let meter = self.dialer.meter();
        match tokio::time::timeout(self.patience.try_timeout, attempt).await {
            Ok(Ok(client)) => return Ok(Some(client)),
            Ok(Err(LoginError::Refused(error))) => {
                meter.count(|interval| {
                    interval.errors += 1;
                    interval.refuse(format!("login: {}", error.code));
                });
                // By a login of our own, which we had given up.
                if error.code.retry() == Retry::Never && error.code != ErrorCode::TakenOver {
                    return Err(LoginError::Refused(error));
                }
                self.advice = Duration::from_millis(error.retry_after_ms.into());
            }
            Ok(Err(error)) if !error.is_passing() => return Err(error),
            Ok(Err(_)) | Err(_) => meter.count(|interval| interval.count("failed_tries", 1)),
        }
        if self.own_socket {
            self.dialer.renew_socket(&self.account);
        }
        Ok(None)
    }
}

/// Watches a connection for signs of life.
#[derive(Debug, Clone, Copy)]
pub struct Vigil {
    dead_after: u64,
    heard: u64,
    /// When the last heartbeat went out that has not been followed by anything.
    beat: Option<u64>,
    /// When the first of them did.
    probe: Option<u64>,
}

/// What to do about a silent connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// Say something: the server answers to where it has last heard the client.
    Beat,
    /// Give it up.
    Dead,
}

impl Vigil {
    /// Of a connection that has just been made.
    pub fn new(patience: &Patience, now: u64) -> Self {
        let dead_after = u64::try_from(patience.dead_after.as_nanos()).unwrap_or(u64::MAX);
        Self { dead_after, heard: now, beat: None, probe: None }
    }

    /// Something came.
    pub fn hear(&mut self, now: u64) {
        (self.heard, self.beat, self.probe) = (now, None, None);
    }

    /// An answer is waited for: what to do now. After [`Verdict::Beat`], a heartbeat counts as sent.
    pub fn check(&mut self, now: u64) -> Verdict {
        if self.probe.is_some_and(|probe| now >= probe.saturating_add(self.dead_after)) {
            return Verdict::Dead;
        }
        if now < self.beat.unwrap_or(self.heard) + BEAT {
            return Verdict::Wait;
        }
        self.beat = Some(now);
        self.probe.get_or_insert(now);
        Verdict::Beat
    }

    /// When to look again, while an answer is waited for.
    pub fn alarm(&self) -> u64 {
        let dead = self.probe.map_or(u64::MAX, |probe| probe.saturating_add(self.dead_after));
        dead.min(self.beat.unwrap_or(self.heard) + BEAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn waits_grow_until_a_connection_was_a_good_one() {
        let mut backoff = Backoff::new(&Patience::SPECIFIED, Random::new(1, 1));
        let mut longest = |was_up, tries| {
            let waits = (0..tries).map(|_| backoff.wait(was_up, Duration::ZERO));
            waits.max().unwrap_or_default()
        };
        let short = Duration::from_secs(59);
        assert!(longest(Duration::ZERO, 3) <= Duration::from_secs(4));
        let late = longest(short, 50);
        assert!((Duration::from_secs(30)..=Duration::from_secs(60)).contains(&late), "{late:?}");
        assert!(longest(Duration::from_secs(60), 1) <= Duration::from_secs(1));
        let advice = Duration::from_secs(5);
        assert!((advice..=2 * advice).contains(&backoff.wait(short, advice)));
    }

    #[test]
    fn the_silent_are_asked_and_the_dead_given_up() {
        let mut vigil = Vigil::new(&Patience::IN_USE, 0);
        assert_eq!(vigil.check(SECOND), Verdict::Wait);
        assert_eq!(vigil.alarm(), 2 * SECOND);
        assert_eq!(vigil.check(2 * SECOND), Verdict::Beat);
        assert_eq!(vigil.check(3 * SECOND), Verdict::Wait);
        assert_eq!(vigil.check(4 * SECOND), Verdict::Beat);
        vigil.hear(5 * SECOND);
        assert_eq!(vigil.check(6 * SECOND), Verdict::Wait);
        // Nothing was waited for meanwhile.
        assert_eq!(vigil.check(30 * SECOND), Verdict::Beat);
        for second in 31..40 {
            assert_ne!(vigil.check(second * SECOND), Verdict::Dead);
        }
        assert!(vigil.alarm() <= 40 * SECOND);
        assert_eq!(vigil.check(40 * SECOND), Verdict::Dead);
    }
}
