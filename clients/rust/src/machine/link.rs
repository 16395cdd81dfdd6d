//! The life of a connection, and the wait before the next.
//!
//! ```text
//!   Down ──retry_at──> Connecting ──connected──> LoggingIn ──LoginOk──> Online ──GoingAway──> draining
//!    ^                     │                        │                     │                      │
//!    └─────────────────────┴────────────────────────┴─────────────────────┴──────────────────────┘
//!   Stopped: taken over, token or version refused, closed, storage failed. Nothing leads out of it.
//! ```

use std::mem;
use std::time::Duration;

use tern_protocol::error::ErrorCode;
use tern_protocol::event::{LoginOk, WireError};
use tern_protocol::limits::{IN_FLIGHT_MAX, VERSION_MAX, VERSION_MIN};
use tern_protocol::request::{Login, RequestBody};

use super::pace::Pace;
use super::{Machine, Output, Purpose, RESERVED};
use crate::event::{ConnectionState, Event, Lost, Stop};
use crate::storage::Record;

/// A connection that lasted this long was a good one: the next wait is short again.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Requests under way get this long when the server goes away.
const DRAIN: Duration = Duration::from_secs(2);
/// While something is unanswered, a heartbeat goes out after this silence, and as often as this until something is
/// heard. On QUIC the server learns of a new address of ours (a NAT forgot us, say) only from a packet that we send;
/// until then its answer goes to the old one.
const WAITING_HEARTBEAT: Duration = Duration::from_secs(2);
/// A server handles a login this late at most: it may take over from the connection that was made instead.
const LATE_LOGIN: Duration = Duration::from_secs(15);
/// On a changed network a link that does not answer within this time is replaced: somebody looks at the screen.
const CHANGED_DEAD_AFTER: Duration = Duration::from_secs(2);
/// What comes sooner after a change of network may have been waiting here, and says nothing about the link.
const CHANGED_DEAF_FOR: Duration = Duration::from_millis(500);
/// A link that died of silence, and not of a network that is gone, is followed by another within this time.
const DIED_OF_SILENCE: Duration = Duration::from_secs(30);
/// What a server without own wishes gets.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

#[derive(Debug, PartialEq)]
enum Phase {
    Down { retry_at: Duration },
    Connecting,
    LoggingIn { deadline: Duration },
    Online { since: Duration },
    Draining { until: Duration, reconnect_after_ms: u32 },
    Stopped(Stop),
}

#[derive(Debug, Clone, Copy)]
struct Hurry {
    since: Duration,
    /// The echo of this heartbeat proves the link.
    beat: u64,
}

#[derive(Debug)]
struct Fatal {
    silence: Duration,
    over_quic: bool,
    /// When the link was given up.
    at: Duration,
}

#[derive(Debug)]
pub(super) struct Link {
    phase: Phase,
    pub(super) last_sent: Duration,
    last_heard: Duration,
    /// The last bytes that were more than a heartbeat, on whichever stream.
    last_message: Duration,
    last_beat: Duration,
    /// The first heartbeat whose echo (or anything else) has not come yet.
    probe: Option<Duration>,
    /// Heartbeats that were sent on this connection, and those that came back.
    beats: u64,
    echoes: u64,
    /// The network has changed and the link has not proved itself since.
    hurry: Option<Hurry>,
    /// How long nothing had moved when the heartbeat went out that is not answered yet.
    silence: Option<Duration>,
    /// A silence that a link seems not to have survived.
    fatal: Option<Fatal>,
    /// The heartbeat that the server wants.
    heartbeat: Duration,
    over_quic: bool,
    tcp: Pace,
    quic: Pace,
    /// This device has moved: that the server sees a new address is no surprise.
    moved: bool,
    pub(super) in_flight_max: usize,
    tries: u32,
    fresh_token: bool,
    /// What the connection that is being made asked for.
    asked_fresh_token: bool,
    /// Where a server that was going away said to go, until that has been tried.
    hints: Vec<String>,
    /// Where the connection that is being made is tried first.
    asked_hints: Vec<String>,
    expired_in_a_row: u32,
    random: u64,
    /// When a connection was given up whose login was not answered.
    gave_up_login: Option<Duration>,
    /// What the server said before it closed.
    farewell: Option<WireError>,
}

impl Link {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            phase: Phase::Down { retry_at: Duration::ZERO },
            last_sent: Duration::ZERO,
            last_heard: Duration::ZERO,
            last_message: Duration::ZERO,
            last_beat: Duration::ZERO,
            probe: None,
            beats: 0,
            echoes: 0,
            hurry: None,
            silence: None,
            fatal: None,
            heartbeat: Duration::from_secs(60),
            over_quic: false,
            tcp: Pace::tcp(),
            quic: Pace::quic(),
            moved: false,
            in_flight_max: IN_FLIGHT_MAX,
            tries: 0,
            fresh_token: false,
            asked_fresh_token: false,
            hints: Vec::new(),
            asked_hints: Vec::new(),
            expired_in_a_row: 0,
            random: seed,
            gave_up_login: None,
            farewell: None,
        }
    }

    pub(super) fn stopped(&self) -> Option<&Stop> {
        if let Phase::Stopped(stop) = &self.phase { Some(stop) } else { None }
    }

    /// Logged in.
    pub(super) fn is_online(&self) -> bool {
        matches!(self.phase, Phase::Online { .. } | Phase::Draining { .. })
    }

    /// Logged in, and the server is here to stay.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Online { .. })
    }

    pub(super) fn is_logging_in(&self) -> bool {
        matches!(self.phase, Phase::LoggingIn { .. })
    }

    fn is_connected(&self) -> bool {
        self.is_online() || self.is_logging_in()
    }

    fn pace(&mut self, over_quic: bool) -> &mut Pace {
        if over_quic { &mut self.quic } else { &mut self.tcp }
    }

    /// Heartbeats go out after this silence.
    fn interval(&self) -> Duration {
        self.heartbeat.min(if self.over_quic { self.quic.interval() } else { self.tcp.interval() })
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between half of `most` and all of it.
    fn jittered(&mut self, most: Duration) -> Duration {
        let half = most / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX - 1);
        half + Duration::from_nanos(self.random() % (nanos + 1))
    }
}

impl Machine {
    /// The transport stands, QUIC or TCP: log in with this token.
    pub fn connected(&mut self, now: Duration, token: String, over_quic: bool) {
        if self.link.phase != Phase::Connecting {
            return;
        }
        self.link.phase = Phase::LoggingIn { deadline: now + self.settings.login_timeout };
        self.link.last_heard = now;
        self.link.last_message = now;
        self.link.probe = None;
        (self.link.beats, self.link.echoes, self.link.hurry) = (0, 0, None);
        (self.link.silence, self.link.moved) = (None, false);
        self.link.over_quic = over_quic;
        self.link.farewell = None;
        let login = Login {
            token,
            device: self.settings.device,
            versions: (VERSION_MIN, VERSION_MAX),
            features: Vec::new(),
            client: self.settings.client.clone(),
        };
        self.ask(now, RequestBody::Login(login), Purpose::Login, false);
        self.pump(now);
    }

    /// There is no connection, or no more.
    pub fn disconnected(&mut self, now: Duration, reason: Lost) {
        if matches!(self.link.phase, Phase::Down { .. } | Phase::Stopped(_)) {
            return;
        }
        let reason = match self.link.farewell.take() {
            Some(error) => Lost::Closed(error),
            None => reason,
        };
        self.down(now, reason);
        // The transport is gone already.
        self.outputs.retain(|o| *o != Output::Disconnect);
    }

    /// A heartbeat from the server: the link lives. Since whoever waits asks for them, they say nothing about answers.
    pub fn received_heartbeat(&mut self, now: Duration) {
        self.link.echoes += 1;
        if self.link.hurry.is_some_and(|hurry| self.link.echoes < hurry.beat) {
            return;
        }
        self.proved(now);
    }

    fn proved(&mut self, now: Duration) {
        self.link.last_heard = now;
        self.link.probe = None;
        self.link.hurry = None;
        if let Some(silence) = self.link.silence.take() {
            self.link.pace(self.link.over_quic).survived(silence);
        }
    }

    /// QUIC: the server has seen a new address of this device. Unless it has moved, a router on the way had forgotten
    /// the last one, and what the server sent since went nowhere.
    pub fn address_changed(&mut self) {
        if mem::take(&mut self.link.moved) {
            return;
        }
        if let Some(silence) = self.link.silence.take() {
            self.link.pace(self.link.over_quic).died(silence);
        }
    }

    /// Bytes of a message came, on any stream of the connection, complete or not: a large page on a slow link is
    /// neither a dead link nor a request that nobody answers.
    pub fn heard(&mut self, now: Duration) {
        self.link.last_message = now;
        if self.link.hurry.is_none_or(|hurry| now >= hurry.since + CHANGED_DEAF_FOR) {
            self.proved(now);
        }
    }

    /// The server said something of its own accord: it reaches this device. Whether this device reaches it is what a
    /// changed network leaves open.
    pub(super) fn heard_event(&mut self, now: Duration) {
        self.link.last_message = now;
        if self.link.hurry.is_none() {
            self.proved(now);
        }
    }

    /// The network may have changed: find out now whether the link still works, or connect without further waiting.
    pub fn network_changed(&mut self, now: Duration) {
        (self.link.tcp, self.link.quic) = (Pace::tcp(), Pace::quic());
        (self.link.silence, self.link.fatal, self.link.moved) = (None, None, true);
        match &mut self.link.phase {
            Phase::Down { retry_at } => {
                *retry_at = now;
                self.link.tries = 0;
            }
            // Anew, from the new network.
            Phase::Connecting => {
                let (fresh_token, hints) = (self.link.asked_fresh_token, self.link.asked_hints.clone());
                self.outputs.push_back(Output::Connect { fresh_token, hints });
            }
            Phase::LoggingIn { deadline } => *deadline = (*deadline).min(now + CHANGED_DEAD_AFTER),
            Phase::Online { .. } => {
                self.link.probe = None;
                self.probe(now);
                // Should it die now, it is of the move and not of the silence before.
                self.link.silence = None;
                self.link.hurry = Some(Hurry { since: now, beat: self.link.beats });
            }
            Phase::Draining { .. } | Phase::Stopped(_) => {}
        }
    }

    /// The app closes the client, or the storage failed.
    pub fn stop(&mut self, stop: Stop) {
        if self.link.stopped().is_some() {
            return;
        }
        self.forget_connection();
        self.outputs.push_back(Output::Disconnect);
        self.link.phase = Phase::Stopped(stop.clone());
        self.told(ConnectionState::Stopped(stop));
    }

    pub(super) fn link_timeout(&self) -> Option<Duration> {
        match self.link.phase {
            Phase::Down { retry_at } => Some(retry_at),
            Phase::Connecting | Phase::Stopped(_) => None,
            Phase::LoggingIn { deadline } => Some(deadline),
            Phase::Online { .. } => {
                Some(self.dead_at().map_or(self.heartbeat_at(), |dead| dead.min(self.heartbeat_at())))
            }
            Phase::Draining { until, .. } => Some(until),
        }
    }

    /// When the link is dead, unless something is heard before.
    fn dead_at(&self) -> Option<Duration> {
        let patience = self.settings.dead_after;
        let patience = if self.link.hurry.is_some() { patience.min(CHANGED_DEAD_AFTER) } else { patience };
        self.link.probe.map(|probe| probe + patience)
    }

    /// When the oldest request has waited for too long, unless more than heartbeats comes before.
    pub(super) fn request_timeout(&self) -> Option<Duration> {
        let oldest = self.in_flight.values().next()?;
        Some(oldest.asked.max(self.link.last_message) + self.settings.request_timeout)
    }

    /// When the next heartbeat goes out.
    fn heartbeat_at(&self) -> Duration {
        let beat = self.link.last_sent + self.link.interval();
        let Some(oldest) = self.in_flight.values().next() else { return beat };
        let silent_since = match self.link.probe {
            Some(_) => self.link.last_beat,
            None => oldest.asked.max(self.link.last_heard),
        };
        beat.min(silent_since + WAITING_HEARTBEAT)
    }

    fn probe(&mut self, now: Duration) {
        let moved_last = self.link.last_sent.max(self.link.last_heard);
        if self.link.probe.is_none() && self.link.is_open() {
            self.link.silence = now.checked_sub(moved_last);
        }
        self.outputs.push_back(Output::Heartbeat);
        self.link.beats += 1;
        self.link.last_sent = now;
        self.link.last_beat = now;
        self.link.probe.get_or_insert(now);
    }

    pub(super) fn link_due(&mut self, now: Duration) {
        match self.link.phase {
            Phase::Down { retry_at } if retry_at <= now => {
                self.link.phase = Phase::Connecting;
                self.link.asked_fresh_token = mem::take(&mut self.link.fresh_token);
                let fresh_token = self.link.asked_fresh_token;
                let hints = mem::take(&mut self.link.hints);
                self.link.asked_hints.clone_from(&hints);
                self.outputs.push_back(Output::Connect { fresh_token, hints });
                self.told(ConnectionState::Connecting);
            }
            Phase::LoggingIn { deadline } if deadline <= now => self.down(now, Lost::Silent),
            Phase::Online { .. } if self.dead_at().is_some_and(|dead| dead <= now) => {
                self.down(now, Lost::Silent);
            }
            Phase::Online { .. } if self.heartbeat_at() <= now => self.probe(now),
            Phase::Draining { until, .. } if until <= now || self.in_flight.is_empty() => {
                self.down(now, Lost::GoingAway);
            }
            Phase::Down { .. }
            | Phase::Connecting
            | Phase::LoggingIn { .. }
            | Phase::Online { .. }
            | Phase::Draining { .. }
            | Phase::Stopped(_) => {}
        }
    }

    pub(super) fn on_login(&mut self, now: Duration, ok: LoginOk) {
        match self.user {
            Some(stored) if stored != ok.user => {
                return self.stop(Stop::AnotherUser { stored, token: ok.user });
            }
            Some(_) => {}
            None => self.outputs.push_back(Output::Persist(Record::User(ok.user))),
        }
        self.user = Some(ok.user);
        self.on_epoch(ok.epoch);
        if let Some(fatal) = self.link.fatal.take()
            && now <= fatal.at + DIED_OF_SILENCE
        {
            self.link.pace(fatal.over_quic).died(fatal.silence);
        }
        self.link.phase = Phase::Online { since: now };
        self.link.expired_in_a_row = 0;
        self.link.in_flight_max = (ok.in_flight_max as usize).clamp(1, IN_FLIGHT_MAX);
        // A tenth earlier: the server measures arrival, not departure.
        let asked = Duration::from_millis(u64::from(ok.heartbeat_ms)) * 9 / 10;
        self.link.heartbeat = asked.min(self.settings.heartbeat_max).max(HEARTBEAT_MIN);
        self.told(ConnectionState::Online { user: ok.user });
        for (ticket, target, change) in mem::take(&mut self.unnumbered) {
            self.number(ok.user, ticket, target, change);
        }
        // What was reached without a connection goes the same way as what the server may have forgotten.
        self.unsure.append(&mut self.dirty);
    }

    pub(super) fn on_going_away(&mut self, now: Duration, reconnect_after_ms: u32, targets: Vec<String>) {
        if self.link.is_open() {
            self.link.hints = targets;
            self.link.phase = Phase::Draining { until: now + DRAIN, reconnect_after_ms };
            self.link_due(now);
        }
    }

    /// An error that is about the connection: answer to the login, or without a request.
    pub(super) fn on_closing(&mut self, now: Duration, error: WireError) {
        match error.code {
            ErrorCode::TakenOver => match self.link.gave_up_login.take() {
                // By an earlier connection of our own, it seems: once more. If it was another client, it says so again.
                Some(at) if now <= at + LATE_LOGIN => self.down(now, Lost::Closed(error)),
                _ => self.stop(Stop::TakenOver),
            },
            ErrorCode::UnsupportedVersion => self.stop(Stop::UnsupportedVersion(error)),
            ErrorCode::TokenInvalid if !self.settings.token_refreshes => self.stop(Stop::TokenRefused(error)),
            ErrorCode::TokenInvalid | ErrorCode::TokenExpired => {
                self.link.expired_in_a_row += 1;
                if !self.settings.token_refreshes || self.link.expired_in_a_row > 2 {
                    return self.stop(Stop::TokenRefused(error));
                }
                self.link.fresh_token = true;
                self.down(now, Lost::Closed(error));
            }
            code if code.closes() || self.link.is_logging_in() => self.down(now, Lost::Closed(error)),
            // An unanswered Mark that failed, or advice before the server hangs up.
            _ => self.link.farewell = Some(error),
        }
    }

    /// The connection is of no use: forget it, put back what was under way, wait.
    pub(super) fn down(&mut self, now: Duration, reason: Lost) {
        let connected = self.link.is_connected();
        let advised = match (&self.link.phase, &reason) {
            (Phase::Draining { reconnect_after_ms, .. }, _) => *reconnect_after_ms,
            (_, Lost::Closed(error)) => error.retry_after_ms,
            _ => 0,
        };
        if let Phase::Online { since } = self.link.phase
            && now >= since + STABLE_AFTER
        {
            self.link.tries = 0;
        }
        // An error is an answer: that login is done with.
        if self.link.is_logging_in() && !matches!(reason, Lost::Closed(_)) {
            self.link.gave_up_login = Some(now);
        }
        let over_quic = self.link.over_quic;
        // A TCP connection that a router forgot may be reset. On QUIC only a server that was restarted does that.
        let silent = matches!(reason, Lost::Silent) || matches!(reason, Lost::Broken(_)) && !over_quic;
        if let Some(silence) = self.link.silence.take().filter(|_| silent) {
            self.link.fatal = Some(Fatal { silence, over_quic, at: now });
        }
        self.forget_connection();
        self.doubt_marks(now);
        if connected {
            self.outputs.push_back(Output::Disconnect);
        }
        self.link.tries += 1;
        // An expired token is no sign of trouble: the first try with a new one need not wait.
        let retry_in = if self.link.fresh_token && self.link.expired_in_a_row == 1 {
            Duration::ZERO
        } else {
            self.delay(self.link.tries, advised)
        };
        self.link.phase = Phase::Down { retry_at: now + retry_in };
        self.told(ConnectionState::Offline { reason, retry_in });
    }

    fn forget_connection(&mut self) {
        for (_, request) in mem::take(&mut self.in_flight).into_iter().rev() {
            match request.purpose {
                Purpose::Query(query) => self.queries.push_front(query),
                Purpose::Marks(marks) => self.unsure.extend(marks.iter().map(|m| m.conversation)),
                Purpose::Login | Purpose::Sync(_) | Purpose::Pull(_) | Purpose::Send(..) => {}
            }
        }
        self.bulk_in_flight = 0;
        self.outputs.retain(|o| !matches!(o, Output::Transmit { .. } | Output::Heartbeat));
        self.forget_sync();
        self.forget_sends();
    }

    fn told(&mut self, state: ConnectionState) {
        self.outputs.push_back(Output::State(state.clone()));
        // A state that the app has not read yet is replaced: a link that flaps must not fill the queue.
        if let Some(Event::Connection(last)) = self.events.back_mut() {
            *last = state;
        } else {
            self.events.push_back(Event::Connection(state));
        }
    }

    /// The wait before try number `tries`: doubling, jittered, and not below what the server advised.
    pub(super) fn delay(&mut self, tries: u32, advised_ms: u32) -> Duration {
        let advised = Duration::from_millis(u64::from(advised_ms));
        let doubled = self.settings.backoff_first * 2u32.saturating_pow(tries.saturating_sub(1).min(16));
        let own = self.link.jittered(doubled.min(self.settings.backoff_max));
        // Spread over a quarter more than advised: everybody was told the same.
        own.max(advised + self.link.jittered(advised / 4))
    }

    pub(super) fn sends_max(&self) -> usize {
        self.link.in_flight_max.saturating_sub(RESERVED).max(1)
    }
}
