//! A talker whose connection ends, and who comes back.

use std::pin::pin;
use std::time::Duration;

use tern_protocol::event::SyncPage;
use tern_protocol::ids::RequestId;
use tern_protocol::limits::HEARTBEAT_MS;
use tern_protocol::request::RequestBody;
use tokio::time::sleep_until;

use super::{Ended, Sending, Sent, Talker};
use crate::client::{BEHIND_LOGIN, Client};
use crate::clock;
use crate::fleet::Phase;
use crate::returning::{Returning, Verdict, Vigil};
use crate::run::DRAIN;
use tern_proxy::Recoveries;

/// What a talker has who comes back.
pub(super) struct Journey {
    returning: Returning,
    recoveries: Option<Recoveries>,
    vigil: Vigil,
    online_since: u64,
    /// What was missed is asked for.
    syncing: Option<RequestId>,
    /// That was refused, and is tried again.
    sync_at: Option<u64>,
    /// How often it has come back.
    returns: u32,
    /// It is logged in again, but has not got everything yet.
    catches_up: bool,
}

impl Journey {
    /// How often it has tried in vain before it was logged in.
    pub(super) fn tries_in_vain(&self) -> u32 {
        self.returning.tries_in_vain()
    }
}

impl Talker {
    /// It comes back when its connection ends, and gives up one that is dead. With `recoveries`, it measures how long
    /// that takes.
    pub fn returning(mut self, returning: Returning, recoveries: Option<Recoveries>) -> Self {
        let now = clock::nanos();
        let vigil = Vigil::new(returning.patience(), now);
        let journey = Journey {
            returning,
            recoveries,
            vigil,
            online_since: now,
            syncing: None,
            sync_at: None,
            returns: 0,
            catches_up: false,
        };
        self.journey = Some(journey);
        self
    }

    /// The connection has ended. False: there is no other one.
    pub(super) async fn come_back(&mut self) -> bool {
        let Some(mut journey) = self.journey.take() else { return false };
        journey.returning.ask(RequestBody::Sync(self.chat.sync()));
        let client = self.travel(&mut journey.returning, journey.online_since).await;
        self.journey = Some(journey);
        match client {
            Some(client) => self.resume(client),
            None => return false,
        }
        true
    }

    /// Until it is logged in, or the run is over.
    async fn travel(&mut self, returning: &mut Returning, online_since: u64) -> Option<Client> {
        let was_up = Duration::from_nanos(clock::nanos().saturating_sub(online_since));
        let circle = self.chat.circle.clone();
        let mut coming = pin!(returning.come_back(was_up));
        loop {
            self.follow_phase();
            if self.phase == Phase::Leaving {
                return None;
            }
            let drained = clock::instant(self.stage.since() + DRAIN.as_nanos() as u64);
            tokio::select! {
                client = &mut coming => return client.ok(),
                () = circle.wake.notified() => {}
                () = sleep_until(drained), if self.phase == Phase::Draining => return None,
            }
        }
    }

    /// On a new connection: asks for what was missed, and sends again what was not answered.
    fn resume(&mut self, client: Client) {
        let now = clock::nanos();
        self.client = client;
        self.heartbeat = now + HEARTBEAT_MS * 1_000_000 / 2;
        (self.resume_at, self.pull_at) = (0, None);
        if let Some(journey) = &mut self.journey {
            journey.vigil = Vigil::new(journey.returning.patience(), now);
            journey.online_since = now;
            (journey.syncing, journey.sync_at) = (Some(BEHIND_LOGIN), None);
            journey.returns += 1;
            journey.catches_up = true;
            let returns = journey.returns;
            self.on_return(returns);
        }
        self.chat.resume(now);
        let mut unanswered: Vec<Sent> = self.unanswered.drain().map(|(_, sent)| sent).collect();
        // A group is created before anything is sent to it.
        unanswered.sort_unstable_by_key(|sent| match sent {
            Sent::Create => 0,
            Sent::Message(sending) => sending.client_seq.get(),
        });
        self.stage.meter.count(|interval| {
            interval.count("reconnects", 1);
            interval.count("sent_again", unanswered.len() as u64);
        });
        for sent in unanswered {
            match sent {
                Sent::Create => self.create(),
                Sent::Message(sending) => self.put(Sending { again: true, ..sending }),
            }
        }
    }

    fn sync(&mut self) {
        let id = self.client.request(RequestBody::Sync(self.chat.sync()));
        if let Some(journey) = &mut self.journey {
            (journey.syncing, journey.sync_at) = (Some(id), None);
        }
    }

    pub(super) fn is_syncing(&self, id: RequestId) -> bool {
        self.journey.as_ref().is_some_and(|journey| journey.syncing == Some(id))
    }

    /// The sync was refused; it may be tried again then.
    pub(super) fn sync_again(&mut self, at: u64) {
        if let Some(journey) = &mut self.journey {
            journey.sync_at = Some(at);
        }
    }

    pub(super) fn on_sync(&mut self, page: &SyncPage) {
        if let Some(journey) = &mut self.journey {
            journey.syncing = None;
        }
        let conversation = self.chat.circle.conversation;
        // None: nothing was missed.
        if let Some(state) = page.conversations.iter().find(|state| state.conversation == conversation) {
            let pull = self.chat.on_state(state, &self.stage.meter);
            self.pull(pull);
        }
    }

    /// Whether it has just got everything that it had missed; once for each return.
    pub(super) fn has_caught_up(&mut self) -> bool {
        let Some(journey) = &mut self.journey else { return false };
        let asks = journey.syncing.is_some() || journey.sync_at.is_some() || self.chat.waits();
        !asks && std::mem::take(&mut journey.catches_up)
    }

    pub(super) fn advise(&mut self, wait_ms: u32) {
        if let Some(journey) = &mut self.journey {
            journey.returning.advise(Duration::from_millis(wait_ms.into()));
        }
    }

    pub(super) fn hear(&mut self) {
        if let Some(journey) = &mut self.journey {
            journey.vigil.hear(clock::nanos());
        }
    }

    pub(super) fn measure_recovery(&mut self, made: u64, now: u64) {
        let recoveries = self.journey.as_mut().and_then(|journey| journey.recoveries.as_mut());
        if let Some(took) = recoveries.and_then(|recoveries| recoveries.answered(made, now)) {
            self.stage.meter.count(|interval| interval.time("recovery", took));
        }
    }

    /// When to look again whether the connection lives, or to ask again for what was missed.
    pub(super) fn journey_alarm(&self) -> Option<u64> {
        let journey = self.journey.as_ref()?;
        let watch = self.waits(journey).then(|| journey.vigil.alarm());
        watch.into_iter().chain(journey.sync_at).min()
    }

    pub(super) fn watch(&mut self, now: u64) -> Result<(), Ended> {
        if self.journey.as_ref().and_then(|journey| journey.sync_at).is_some_and(|at| at <= now) {
            self.sync();
        }
        let waits = self.journey.as_ref().is_some_and(|journey| self.waits(journey));
        let Some(journey) = self.journey.as_mut().filter(|_| waits) else { return Ok(()) };
        match journey.vigil.check(now) {
            Verdict::Wait => {}
            Verdict::Beat => self.client.heartbeat(),
            Verdict::Dead => {
                self.stage.meter.count(|interval| interval.count("given_up_as_dead", 1));
                return Err(Ended);
            }
        }
        Ok(())
    }

    /// Something has to come, if the connection lives: an answer, or in the end what the others have sent.
    fn waits(&self, journey: &Journey) -> bool {
        let asked = !self.unanswered.is_empty() || journey.syncing.is_some() || self.chat.waits();
        asked || self.phase == Phase::Draining
    }
}
