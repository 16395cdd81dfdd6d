//! Clients who talk: each is one member of one conversation, sends by a window or a schedule, marks and checks what it
//! receives.
//!
//! One whose connection ends is out, unless it [returns](Talker::returning): then it says what it has, is told what it
//! missed, and sends again what was not answered.

use std::pin::pin;
use std::rc::Rc;

use hashbrown::HashMap;
use tern_client::raw::Received;
use tern_protocol::event::{ServerBody, ServerMessage, WireError};
use tern_protocol::ids::{ClientSeq, RequestId};
use tern_protocol::limits::{HEARTBEAT_MS, IN_FLIGHT_MAX};
use tern_protocol::request::{Request, RequestBody};
use tokio::time::{Instant, sleep_until};

use crate::chat::Chat;
use crate::client::Client;
use crate::clock;
use crate::fleet::Phase;
use crate::pace::{Pace, Schedule};
use crate::refusal::{self, is_passing};
use crate::run::DRAIN;
use crate::stage::{Role, Stage};

mod journey;
mod storm;

use journey::Journey;

/// Received messages of one client before the others of its thread get their turn.
const BATCH: usize = 128;
/// Two requests in flight are left for asking for what is missing.
const SENDS_MAX: usize = IN_FLIGHT_MAX - 2;
/// Everything has arrived and only receipts are missing: these are hints, and have this long.
const RECEIPTS_TIMEOUT: u64 = 3_000_000_000;

/// A client in its conversation.
pub struct Talker {
    client: Client,
    chat: Chat,
    stage: Rc<Stage>,
    role: Role,
    phase: Phase,
    unanswered: HashMap<RequestId, Sent>,
    sent: u64,
    schedule: Option<Schedule>,
    heartbeat: u64,
    /// After a refusal: nothing is sent before.
    resume_at: u64,
    /// A pull that was refused is tried again.
    pull_at: Option<u64>,
    complete_since: Option<u64>,
    journey: Option<Journey>,
    /// A storm has come: the connection is dropped.
    is_cut: bool,
    /// It has everything again after that.
    is_back: bool,
}

#[derive(Debug, Clone, Copy)]
enum Sent {
    Create,
    Message(Sending),
}

/// A message that is not answered yet.
#[derive(Debug, Clone, Copy)]
struct Sending {
    client_seq: ClientSeq,
    /// When it was due.
    made: u64,
    /// Whether an earlier connection has taken it with it.
    again: bool,
}

/// The connection has ended.
struct Ended;

impl Talker {
    /// Who begins with [`Self::talk`].
    pub fn new(client: Client, chat: Chat, stage: Rc<Stage>, role: Role) -> Self {
        Self {
            client,
            chat,
            stage,
            role,
            phase: Phase::Connecting,
            unanswered: HashMap::new(),
            sent: 0,
            schedule: None,
            heartbeat: clock::nanos() + HEARTBEAT_MS * 1_000_000 / 2,
            resume_at: 0,
            pull_at: None,
            complete_since: None,
            journey: None,
            is_cut: false,
            is_back: false,
        }
    }

    /// Talks until the run ends.
    pub async fn talk(mut self) -> Chat {
        if self.role.creates {
            self.create();
        }
        let meter = self.stage.meter.clone();
        let mut ended = self.converse().await;
        meter.disconnected();
        while ended.is_err() && self.come_back().await {
            ended = self.converse().await;
            meter.disconnected();
        }
        meter.ended(self.messages_unanswered());
        if ended.is_err() {
            self.chat.log.faults().disconnected += 1;
            self.chat.log.cut();
            if self.role.creates && self.phase == Phase::Connecting {
                self.stage.fail("a connection has ended before its group existed".into());
            }
            self.mourn().await;
        }
        self.chat.log.faults().unanswered += self.messages_unanswered();
        self.chat.finish();
        self.client.finish().await;
        self.chat
    }

    async fn converse(&mut self) -> Result<(), Ended> {
        let mut timer = pin!(sleep_until(Instant::now()));
        let circle = self.chat.circle.clone();
        loop {
            for _ in 0..BATCH {
                match self.client.next_now() {
                    Some(received) => self.take(received.map_err(|_| Ended)?)?,
                    None => break,
                }
            }
            self.follow_phase();
            self.mark();
            self.send();
            if self.is_cut {
                self.vanish().await;
                return Err(Ended);
            }
            self.note_back();
            if self.is_done() {
                return Ok(());
            }
            let alarm = clock::instant(self.alarm());
            if timer.deadline() != alarm {
                timer.as_mut().reset(alarm);
            }
            tokio::select! {
                biased;
                received = self.client.next() => self.take(received.map_err(|_| Ended)?)?,
                () = circle.wake.notified() => {}
                () = &mut timer => self.on_alarm()?,
            }
        }
    }

    /// Without a connection: what would have been due is counted all the same.
    async fn mourn(&mut self) {
        self.chat.finish();
        let circle = self.chat.circle.clone();
        loop {
            self.follow_phase();
            if self.phase.is_end() {
                return;
            }
            circle.wake.notified().await;
        }
    }

    fn follow_phase(&mut self) {
        let before = std::mem::replace(&mut self.phase, self.stage.phase());
        if before == self.phase {
            return;
        }
        if self.phase == Phase::Measuring {
            self.on_storm();
        }
        let Pace::Every { period, step } = self.stage.pace else { return };
        let Some(number) = self.role.sender else { return };
        let now = clock::nanos();
        if let Some(schedule) = self.schedule.as_mut().filter(|_| before == Phase::Measuring) {
            let unsent = schedule.skip(self.stage.measured_since(), now);
            if unsent > 0 {
                self.stage.meter.count(|interval| interval.unsent += unsent);
            }
        }
        if self.phase.has_load() && !before.has_load() {
            self.schedule = Some(Schedule::start(period, step, number));
        }
    }

    fn take(&mut self, received: Received) -> Result<(), Ended> {
        self.hear();
        match received {
            Received::Message(message) => self.on_message(message),
            Received::Heartbeat => {}
            Received::Closed => return Err(Ended),
        }
        Ok(())
    }

    fn on_message(&mut self, message: ServerMessage) {
        let stage = self.stage.clone();
        let meter = &*stage.meter;
        match message.body {
            ServerBody::SendOk(ok) => match self.unanswered.remove(&message.id) {
                Some(Sent::Message(Sending { client_seq, made, again })) => {
                    meter.ended(1);
                    self.chat.on_ack(client_seq, &ok, made, again);
                    let now = clock::nanos();
                    meter.count(|interval| {
                        interval.acked += 1;
                        interval.ack.record(now.saturating_sub(made));
                    });
                    self.measure_recovery(made, now);
                }
                Some(Sent::Create) => {
                    meter.count(|interval| interval.count("groups_created", 1));
                    self.stage.created();
                }
                None => self.chat.log.faults().duplicated += 1,
            },
            ServerBody::Push { entry, .. } => {
                let pull = self.chat.on_push(&entry, meter);
                self.pull(pull);
            }
            ServerBody::HeadMoved { head, .. } => {
                let pull = self.chat.on_head_moved(head, meter);
                self.pull(pull);
            }
            ServerBody::HistoryPage(page) if self.chat.is_pulling(message.id) => {
                let pull = self.chat.on_page(&page, meter);
                self.pull(pull);
            }
            ServerBody::SyncPage(page) if self.is_syncing(message.id) => self.on_sync(&page),
            ServerBody::ReceiptsMoved(moved) => self.chat.on_receipts(&moved, meter),
            ServerBody::Error(error) => self.on_error(message.id, &error),
            // What it means shows when the connection ends.
            ServerBody::GoingAway { reconnect_after_ms, .. } => {
                self.advise(reconnect_after_ms);
                meter.count(|interval| interval.refuse("going away".into()));
            }
            other => self.refused(format!("{other:?}")),
        }
    }

    fn on_error(&mut self, id: RequestId, error: &WireError) {
        let what = refusal::text(error);
        let sent = self.unanswered.remove(&id);
        if matches!(sent, Some(Sent::Message(_))) {
            self.stage.meter.ended(1);
        }
        if id == RequestId(0) {
            // About the connection, which ends now.
            self.advise(error.retry_after_ms);
            return self.stage.meter.count(|interval| interval.refuse(what));
        }
        if matches!(sent, Some(Sent::Create)) && !is_passing(error.code) {
            return self.stage.fail(format!("a group cannot be created: {what}"));
        }
        let again = clock::nanos() + refusal::wait(error).as_nanos() as u64;
        match sent {
            Some(Sent::Create) => self.resume_at = again,
            // By a schedule it is sent what is due, whatever the server says.
            Some(Sent::Message(_)) if self.schedule.is_none() => self.resume_at = again,
            Some(Sent::Message(_)) => {}
            None if self.is_syncing(id) => self.sync_again(again),
            None => self.pull_at = self.chat.is_pulling(id).then_some(again),
        }
        if is_passing(error.code) {
            self.stage.meter.refused(what);
        } else {
            self.refused(what);
        }
    }

    fn refused(&mut self, what: String) {
        self.chat.log.faults().refused += 1;
        self.stage.meter.count(|interval| interval.refuse(what));
    }

    fn pull(&mut self, request: Option<RequestBody>) {
        if let Some(request) = request {
            let id = self.client.request(request);
            self.chat.pulling(id);
        }
    }

    fn mark(&mut self) {
        let now = if self.phase.is_end() { u64::MAX } else { clock::nanos() };
        if let Some(mark) = self.chat.mark(now, &self.stage.meter) {
            // Number 0: nothing has to be answered.
            self.client.queue(&Request { id: RequestId(0), body: RequestBody::Mark(vec![mark]) });
        }
    }

    fn create(&mut self) {
        // Again with the same number, when it was refused.
        self.sent = 1;
        let id = self.client.request(self.chat.send(ClientSeq(1), self.chat.creation()));
        self.unanswered.insert(id, Sent::Create);
    }

    fn send(&mut self) {
        if !self.phase.has_load() || self.role.sender.is_none() {
            return;
        }
        match (self.stage.pace, &mut self.schedule) {
            (Pace::Window(window), _) => {
                if self.unanswered.len() < window && self.resume_at > 0 && clock::nanos() < self.resume_at {
                    return;
                }
                while self.unanswered.len() < window {
                    self.send_one(clock::nanos());
                }
            }
            (Pace::Every { .. }, Some(schedule)) => {
                let mut due = schedule.due();
                let now = clock::nanos();
                while due <= now && self.unanswered.len() < SENDS_MAX {
                    self.stage.meter.count(|interval| interval.late.record(now - due));
                    self.send_one(due);
                    due = match &mut self.schedule {
                        Some(schedule) => schedule.sent(),
                        None => break,
                    };
                }
            }
            (Pace::Every { .. }, None) => {}
        }
    }

    fn send_one(&mut self, made: u64) {
        self.sent += 1;
        self.put(Sending { client_seq: ClientSeq(self.sent), made, again: false });
        self.stage.meter.began();
        self.stage.meter.count(|interval| interval.sent += 1);
    }

    fn put(&mut self, sending: Sending) {
        let Sending { client_seq, made, .. } = sending;
        let send = self.chat.send_message(made, client_seq, self.stage.payload_bytes);
        let id = self.client.request(send);
        self.unanswered.insert(id, Sent::Message(sending));
    }

    /// The next time at which there is something to do.
    fn alarm(&self) -> u64 {
        let mut alarm = self.heartbeat;
        let mut at = |time: u64| alarm = alarm.min(time);
        self.chat.mark_at().into_iter().for_each(&mut at);
        self.pull_at.into_iter().for_each(&mut at);
        if self.resume_at > 0 {
            at(self.resume_at);
        }
        self.journey_alarm().into_iter().for_each(&mut at);
        if self.phase == Phase::Draining {
            at(self.stage.since() + DRAIN.as_nanos() as u64);
            self.complete_since.iter().for_each(|since| at(since + RECEIPTS_TIMEOUT));
        }
        // With all in flight that may be, the next answer is waited for, not the time.
        if self.phase.has_load() && self.unanswered.len() < SENDS_MAX {
            self.schedule.iter().for_each(|schedule| at(schedule.due()));
        }
        alarm
    }

    fn on_alarm(&mut self) -> Result<(), Ended> {
        let now = clock::nanos();
        if now >= self.heartbeat {
            self.client.heartbeat();
            self.heartbeat = now + HEARTBEAT_MS * 1_000_000 / 2;
        }
        if self.pull_at.take_if(|due| *due <= now).is_some() {
            let pull = self.chat.on_pull_refused(&self.stage.meter);
            self.pull(pull);
        }
        if self.resume_at > 0 && self.resume_at <= now {
            self.resume_at = 0;
            if self.role.creates && self.phase == Phase::Connecting {
                self.create();
            }
        }
        self.watch(now)
    }

    /// Whether this one has its answers, and everybody everything that was acknowledged; or it has taken too long.
    fn is_done(&mut self) -> bool {
        match self.phase {
            Phase::Leaving => {
                self.chat.log.cut();
                return true;
            }
            Phase::Draining => {}
            _ => return false,
        }
        if self.unanswered.is_empty() {
            self.chat.finish();
        }
        let now = clock::nanos();
        if now > self.stage.since() + DRAIN.as_nanos() as u64 {
            return true;
        }
        if !self.chat.is_complete() {
            return false;
        }
        let since = *self.complete_since.get_or_insert(now);
        self.chat.unreceipted() == 0 || now > since + RECEIPTS_TIMEOUT
    }

    fn messages_unanswered(&self) -> u64 {
        self.unanswered.values().filter(|sent| matches!(sent, Sent::Message(_))).count() as u64
    }
}
