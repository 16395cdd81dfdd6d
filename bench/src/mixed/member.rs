//! One client: several conversations over one connection, which it leaves and comes back to.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq};
use tern_protocol::limits::{HEARTBEAT_MS, IN_FLIGHT_MAX};
use tern_protocol::request::{Request, RequestBody};
use tokio::time::{Instant, sleep_until};

use super::plan::Act;
use super::room::{Look, Room};
use super::scene::{Order, Orders, Scene};
use crate::chat::Chat;
use crate::client::Client;
use crate::clock;
use crate::fleet::Phase;
use crate::meter::Meter;
use crate::random::Random;
use crate::returning::{Returning, Verdict, Vigil};
use crate::run::DRAIN;
use tern_check::stream::Faults;

mod answers;
mod coming;

use coming::Coming;

/// Received messages of one client before the others of its thread get their turn.
const BATCH: usize = 128;
/// Sends and looks under way; the rest is left for asking what was missed, once in each conversation.
const ORDERED_MAX: usize = IN_FLIGHT_MAX / 2;
/// Who goes away does so within this time after the last word, in nanoseconds: that may have arrived by then or not,
/// and its answer, too.
const LINGER: u64 = 4_000_000;
/// A send that was refused so often waits no longer than before, but twice as long as the last time until then.
const DOUBLINGS_MAX: u32 = 6;
/// Conversations of one client, at most.
pub const ROOMS_MAX: usize = IN_FLIGHT_MAX - ORDERED_MAX - 2;

/// One client.
pub struct Member {
    scene: Rc<Scene>,
    orders: Rc<Orders>,
    returning: Returning,
    rooms: Vec<Room>,
    places: HashMap<ConversationId, usize>,
    /// Groups that do not exist before this client has created them, by their rooms.
    creates: Vec<usize>,
    unanswered: HashMap<RequestId, Asked>,
    /// What was refused and is asked again, and when.
    again: Vec<(u64, Asked)>,
    random: Random,
    vigil: Vigil,
    heartbeat: u64,
    online_since: u64,
    /// It is back and does not have yet what it missed: since when it wanted to be back.
    back_since: Option<u64>,
    phase: Phase,
    finished: bool,
    faults: Faults,
}

/// What a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Creation of the group of this room.
    Create(usize),
    /// A message.
    Send(Sending),
    /// What is missing in this room.
    Pull(usize),
    /// What was missed meanwhile, in conversations above this one.
    Sync(Option<ConversationId>),
    /// "Read", at this time.
    Mark(u64),
    /// A page of history of this room, at this time.
    Look(usize, Look, u64),
}

impl Asked {
    /// Of those that go out together.
    fn order(&self) -> ClientSeq {
        match self {
            Self::Send(sending) => sending.client_seq,
            _ => ClientSeq(0),
        }
    }
}

/// A message that is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sending {
    room: usize,
    client_seq: ClientSeq,
    /// When it was due.
    made: u64,
    /// Whether it was sent before: an earlier connection has taken that with it, or it was refused for now.
    again: bool,
    /// How often it was refused for now.
    refusals: u32,
}

/// Why a client is not connected any more.
enum Left {
    /// Everything is done.
    Done,
    /// It wants to be away for so long.
    Away(Duration),
    /// The connection has ended.
    Lost,
}

/// The connection has ended.
struct Ended;

impl Member {
    /// Who begins with [`Self::live`].
    pub fn new(
        scene: Rc<Scene>,
        orders: Rc<Orders>,
        returning: Returning,
        rooms: Vec<Room>,
        creates: Vec<usize>,
        random: Random,
    ) -> Self {
        let now = clock::nanos();
        let places = rooms.iter().enumerate().map(|(at, room)| (room.chat.circle.conversation, at)).collect();
        let vigil = Vigil::new(returning.patience(), now);
        Self {
            scene,
            orders,
            returning,
            rooms,
            places,
            creates,
            unanswered: HashMap::new(),
            again: Vec::new(),
            random,
            vigil,
            heartbeat: next_heartbeat(now),
            online_since: now,
            back_since: None,
            phase: Phase::Connecting,
            finished: false,
            faults: Faults::default(),
        }
    }

    /// Lives until the run ends. Returns its part in each conversation, and what is wrong besides.
    pub async fn live(mut self, mut client: Client) -> (Vec<(usize, Chat)>, Faults) {
        for room in std::mem::take(&mut self.creates) {
            self.create(&mut client, room);
        }
        loop {
            let left = self.stay(&mut client).await;
            self.meter().disconnected();
            let coming = match left {
                Left::Done => {
                    client.finish().await;
                    break;
                }
                Left::Away(time) => {
                    client.vanish(Duration::from_nanos(self.random.below(LINGER))).await;
                    self.meter().count(|interval| interval.count("departures", 1));
                    Coming::After(time)
                }
                Left::Lost => {
                    self.meter().count(|interval| interval.count("connections_lost", 1));
                    if let Some(service) = &self.scene.service {
                        service.lost(self.returning.number());
                    }
                    Coming::Again(Duration::from_nanos(clock::nanos() - self.online_since))
                }
            };
            client.cut();
            match self.come(coming).await {
                Some(back) => client = back,
                None => break,
            }
            self.resume(&mut client);
        }
        self.end();
        let chats = self.rooms.into_iter().map(|room| (room.number, room.chat)).collect();
        (chats, self.faults)
    }

    fn meter(&self) -> &Meter {
        &self.scene.stage.meter
    }

    /// Until the connection ends, one way or another.
    async fn stay(&mut self, client: &mut Client) -> Left {
        let (scene, orders) = (self.scene.clone(), self.orders.clone());
        let mut timer = pin!(sleep_until(Instant::now()));
        loop {
            for _ in 0..BATCH {
                let Some(received) = client.next_now() else { break };
                if self.take(client, received).is_err() {
                    return Left::Lost;
                }
            }
            self.follow_phase();
            if let Some(away) = self.obey(client) {
                return Left::Away(away);
            }
            self.mark(client);
            self.tell_waiting();
            if self.is_done() {
                return Left::Done;
            }
            let alarm = clock::instant(self.alarm());
            if timer.deadline() != alarm {
                timer.as_mut().reset(alarm);
            }
            let goes_on = tokio::select! {
                biased;
                received = client.next() => self.take(client, received),
                () = orders.wake.notified() => Ok(()),
                () = scene.wake.notified() => Ok(()),
                () = &mut timer => self.on_alarm(client),
            };
            if goes_on.is_err() {
                return Left::Lost;
            }
        }
    }

    fn follow_phase(&mut self) {
        self.phase = self.scene.stage.phase();
        if self.phase.is_end() {
            let unsent = self.orders.give_up();
            if unsent > 0 {
                self.meter().count(|interval| interval.unsent += unsent);
            }
        }
    }

    /// Does what is due. `Some`: it goes away for so long.
    fn obey(&mut self, client: &mut Client) -> Option<Duration> {
        while self.unanswered.len() + self.again.len() < ORDERED_MAX {
            let Order { due, act } = self.orders.take()?;
            match act {
                Act::Send(room) => self.send(client, room, due),
                Act::LookBack(room, pages) => {
                    if let Some(look) = self.rooms[room].look_back(pages) {
                        self.look(client, room, look);
                    }
                }
                Act::Vanish(time) => return Some(time),
            }
        }
        None
    }

    fn send(&mut self, client: &mut Client, room: usize, due: u64) {
        let client_seq = self.rooms[room].number_next();
        let sending = Sending { room, client_seq, made: due, again: false, refusals: 0 };
        self.put_in_turn(client, sending);
        let late = clock::nanos().saturating_sub(due);
        self.meter().count(|interval| {
            interval.sent += 1;
            interval.late.record(late);
        });
    }

    fn put(&mut self, client: &mut Client, sending: Sending) {
        let Sending { room, client_seq, made, .. } = sending;
        let bytes = self.scene.stage.payload_bytes;
        let id = client.request(self.rooms[room].chat.send_message(made, client_seq, bytes));
        self.unanswered.insert(id, Asked::Send(sending));
    }

    /// A send with a new number, not past those that wait.
    fn put_in_turn(&mut self, client: &mut Client, sending: Sending) {
        match self.held_until(sending.room) {
            Some(at) => self.again.push((at, Asked::Send(sending))),
            None => self.put(client, sending),
        }
    }

    /// Until when what was refused in this room waits.
    fn held_until(&self, room: usize) -> Option<u64> {
        let held = |asked: &Asked| matches!(asked, Asked::Send(sending) if sending.room == room);
        self.again.iter().filter(|(_, asked)| held(asked)).map(|(at, _)| *at).max()
    }

    /// A send was refused for now: it waits, longer each time, and so does whatever comes after it in its room.
    fn hold_back(&mut self, sending: Sending, wait: u64) {
        let wait = wait << sending.refusals.min(DOUBLINGS_MAX);
        let at = (clock::nanos() + wait).max(self.held_until(sending.room).unwrap_or(0));
        for (other_at, asked) in &mut self.again {
            if matches!(asked, Asked::Send(other) if other.room == sending.room) {
                *other_at = at;
            }
        }
        self.again.push((at, Asked::Send(Sending { refusals: sending.refusals + 1, ..sending })));
    }

    fn create(&mut self, client: &mut Client, room: usize) {
        let id = client.request(self.rooms[room].creation());
        self.unanswered.insert(id, Asked::Create(room));
    }

    fn look(&mut self, client: &mut Client, room: usize, look: Look) {
        let id = client.request(self.rooms[room].page(&look, self.scene.page));
        self.unanswered.insert(id, Asked::Look(room, look, clock::nanos()));
    }

    fn pull(&mut self, client: &mut Client, room: usize, request: Option<RequestBody>) {
        if let Some(request) = request {
            let id = client.request(request);
            self.rooms[room].chat.pulling(id);
            self.unanswered.insert(id, Asked::Pull(room));
        }
    }

    fn sync(&mut self, client: &mut Client, after: Option<ConversationId>) {
        let id = client.request(RequestBody::Sync(self.ask_for_missed(after)));
        self.unanswered.insert(id, Asked::Sync(after));
    }

    fn tell_waiting(&self) {
        if let Some(service) = &self.scene.service {
            service.waits(self.returning.number(), self.sends().map(|sending| sending.made).min());
        }
    }

    /// Says what is "delivered" and due to be said, of all conversations at once, and of some "read".
    fn mark(&mut self, client: &mut Client) {
        let now = if self.phase.is_end() { u64::MAX } else { clock::nanos() };
        let (meter, reads) = (self.scene.stage.meter.clone(), self.scene.reads);
        let mut marks = Vec::new();
        for room in &mut self.rooms {
            if let Some(mark) = room.chat.mark(now, &meter) {
                marks.push(if self.random.fraction() < reads { room.chat.read(mark) } else { mark });
            }
        }
        if marks.is_empty() {
            return;
        }
        let reads = marks.iter().any(|mark| mark.read > Seq(0));
        if reads && self.unanswered.len() < IN_FLIGHT_MAX - self.rooms.len() - 1 {
            let id = client.request(RequestBody::Mark(marks));
            self.unanswered.insert(id, Asked::Mark(clock::nanos()));
        } else {
            // Number 0: nothing has to be answered.
            client.queue(&Request { id: RequestId(0), body: RequestBody::Mark(marks) });
        }
    }

    /// The next time at which there is something to do.
    fn alarm(&self) -> u64 {
        let marks = self.rooms.iter().filter_map(|room| room.chat.mark_at());
        let again = self.again.iter().map(|(at, _)| *at);
        let vigil = self.waits().then(|| self.vigil.alarm());
        let drained = (self.phase == Phase::Draining).then(|| drained(&self.scene));
        marks.chain(again).chain(vigil).chain(drained).fold(self.heartbeat, u64::min)
    }

    fn on_alarm(&mut self, client: &mut Client) -> Result<(), Ended> {
        let now = clock::nanos();
        if now >= self.heartbeat {
            client.heartbeat();
            self.heartbeat = next_heartbeat(now);
        }
        let mut due: Vec<Asked> =
            self.again.extract_if(.., |(at, _)| *at <= now).map(|(_, asked)| asked).collect();
        due.sort_unstable_by_key(Asked::order);
        due.into_iter().for_each(|asked| self.ask_again(client, asked));
        if self.waits() {
            match self.vigil.check(now) {
                Verdict::Wait => {}
                Verdict::Beat => client.heartbeat(),
                Verdict::Dead => return Err(Ended),
            }
        }
        Ok(())
    }

    fn ask_again(&mut self, client: &mut Client, asked: Asked) {
        match asked {
            Asked::Create(room) => self.create(client, room),
            Asked::Send(sending) => self.put(client, Sending { again: true, ..sending }),
            Asked::Pull(room) => {
                let request = self.rooms[room].chat.on_pull_refused(&self.scene.stage.meter);
                self.pull(client, room, request);
            }
            Asked::Sync(after) => self.sync(client, after),
            // Whatever is marked next says as much.
            Asked::Mark(_) => {}
            Asked::Look(room, look, _) => self.look(client, room, look),
        }
    }

    /// Something has to come, if the connection lives.
    fn waits(&self) -> bool {
        !self.unanswered.is_empty() || self.phase == Phase::Draining
    }

    /// Whether everybody has their answers, and this one everything that was acknowledged; or it has taken too long.
    fn is_done(&mut self) -> bool {
        match self.phase {
            Phase::Leaving => return true,
            Phase::Draining => {}
            _ => return false,
        }
        if !self.finished && self.sends().next().is_none() {
            self.finish();
        }
        let has_all = self.scene.have_all_finished() && self.rooms.iter().all(|room| room.chat.is_abreast());
        (has_all && self.back_since.is_none()) || clock::nanos() > drained(&self.scene)
    }

    fn sends(&self) -> impl Iterator<Item = &Sending> {
        let refused = self.again.iter().map(|(_, asked)| asked);
        self.unanswered.values().chain(refused).filter_map(|asked| match asked {
            Asked::Send(sending) => Some(sending),
            _ => None,
        })
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            self.scene.finished();
        }
    }

    /// It is not going to be connected again.
    fn end(&mut self) {
        self.follow_phase();
        self.faults.unanswered += self.sends().count() as u64;
        self.finish();
        if self.phase != Phase::Draining {
            self.rooms.iter_mut().for_each(|room| room.chat.log.cut());
        }
    }
}

/// The end of all patience at the end of the run.
fn drained(scene: &Scene) -> u64 {
    scene.stage.since() + DRAIN.as_nanos() as u64
}

fn next_heartbeat(now: u64) -> u64 {
    now + HEARTBEAT_MS * 1_000_000 / 2
}
