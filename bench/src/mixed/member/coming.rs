//! A client that comes back.

use std::pin::pin;
use std::time::Duration;

use tern_protocol::ids::ConversationId;
use tern_protocol::request::{Known, RequestBody, Sync};
use tokio::time::{sleep, sleep_until};

use super::{Asked, Member, Scene, drained, next_heartbeat};
use crate::client::{BEHIND_LOGIN, Client};
use crate::clock;
use crate::error::LoginError;
use crate::fleet::Phase;
use crate::returning::{Returning, Vigil};

/// How somebody comes back.
pub(super) enum Coming {
    /// As intended, after so long, or when the run comes to its end.
    After(Duration),
    /// At once, more or less: the connection, which was up for so long, has ended.
    Again(Duration),
}

/// Returns since when they have wanted to be back.
async fn arrive(
    returning: &mut Returning,
    scene: &Scene,
    coming: Coming,
) -> (u64, Result<Client, LoginError>) {
    match coming {
        Coming::After(time) => {
            tokio::select! {
                () = sleep(time) => {}
                () = scene.end() => {}
            }
            (clock::nanos(), returning.come().await)
        }
        Coming::Again(was_up) => (clock::nanos(), returning.come_back(was_up).await),
    }
}

impl Member {
    pub(super) fn ask_for_missed(&self, after: Option<ConversationId>) -> Sync {
        let known = self.rooms.iter().map(|room| room.chat.known());
        let mut known: Vec<Known> = known.filter(|known| Some(known.conversation) > after).collect();
        known.sort_unstable_by_key(|known| known.conversation);
        Sync { known, after, until: None, latest: None }
    }

    /// Comes back, unless the run is over before that.
    pub(super) async fn come(&mut self, coming: Coming) -> Option<Client> {
        let scene = self.scene.clone();
        self.returning.ask(RequestBody::Sync(self.ask_for_missed(None)));
        let mut arriving = pin!(arrive(&mut self.returning, &scene, coming));
        let (wanted, arrived) = loop {
            let phase = scene.stage.phase();
            if phase == Phase::Leaving {
                return None;
            }
            tokio::select! {
                arrived = &mut arriving => break arrived,
                () = scene.wake.notified() => {}
                () = sleep_until(clock::instant(drained(&scene))), if phase == Phase::Draining => return None,
            }
        };
        self.back_since = Some(wanted);
        match arrived {
            Ok(client) => Some(client),
            Err(problem) => {
                self.faults.disconnected += 1;
                scene.stage.meter.count(|interval| interval.refuse(problem.label()));
                None
            }
        }
    }

    /// On a new connection: asks for what was missed, and sends again what was not answered.
    pub(super) fn resume(&mut self, client: &mut Client) {
        let now = clock::nanos();
        self.vigil = Vigil::new(self.returning.patience(), now);
        (self.online_since, self.heartbeat) = (now, next_heartbeat(now));
        self.rooms.iter_mut().for_each(|room| room.chat.resume(now));
        let refused = self.again.drain(..).map(|(_, asked)| asked);
        let unanswered = self.unanswered.drain().map(|(_, asked)| asked).chain(refused);
        let kept = unanswered.filter(|asked| matches!(asked, Asked::Create(_) | Asked::Send(_)));
        let mut kept: Vec<Asked> = kept.collect();
        kept.sort_unstable_by_key(Asked::order);
        self.unanswered.insert(BEHIND_LOGIN, Asked::Sync(None));
        let meter = self.meter();
        meter.count(|interval| {
            interval.count("returns", 1);
            interval.count("sent_again", kept.len() as u64);
        });
        kept.into_iter().for_each(|asked| self.ask_again(client, asked));
    }

    /// Whether it has everything that it has missed.
    pub(super) fn check_whether_back(&mut self) {
        let Some(since) = self.back_since else { return };
        let is_missing = |asked: &Asked| matches!(asked, Asked::Sync(_) | Asked::Pull(_));
        let refused = self.again.iter().map(|(_, asked)| asked);
        if !self.unanswered.values().chain(refused).any(is_missing) {
            self.back_since = None;
            let took = clock::nanos() - since;
            self.meter().count(|interval| interval.time("return", took));
        }
    }
}
