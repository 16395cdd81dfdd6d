//! A client without an SDK that speaks the protocol, and does in it whatever is allowed and much that is not: sends many at
//! once, old numbers again with the same contents and with others, false marks, questions about what is not its own, more
//! requests than it may; and does not read, does not speak, or goes away in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tern_check::random::Random;
use tern_check::{Key, Promise};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
use tern_protocol::limits::{
    HISTORY_ENTRIES_MAX, IDLE_TIMEOUT_MS, IN_FLIGHT_MAX, LOGIN_TIMEOUT_MS, PAGE_ROWS_MAX,
};
use tern_protocol::model::{Change, Sender, Target};
use tern_protocol::request::{
    History, HistoryFrom, Known, ListConversations, ListUsers, Mark, RequestBody, Send, Sync,
};

use crate::line::Line;
use crate::plan::PAUSE_MS_MAX;
use crate::world::{World, identity, text, user};

/// Devices of such clients have numbers from here on.
const DEVICES_FROM: u64 = 1_000;
/// Of each user there are so many at once, with the SDK's fewer than may be online.
const DEVICES_PER_USER: u64 = 3;
/// Everything is answered by then: what is asked at once is answered one after the other, and the store may be slow.
const PATIENCE: Duration = Duration::from_secs(600);
/// A client that reads is told by then of what it has sent itself.
const TOLD: Duration = Duration::from_secs(60);
/// A server looks at its deadlines once a second, and gives the other end time to hear of it.
const GRACE: Duration = Duration::from_secs(10);
/// Nodes of a cluster stand still, which may happen several times.
const STANDS_STILL: Duration = Duration::from_millis(3 * PAUSE_MS_MAX);

/// What such clients know from one connection to the next.
#[derive(Default)]
pub struct Devices {
    /// By device and conversation: the contents of every number, as they were sent.
    sent: BTreeMap<(DeviceId, ConversationId), Sent>,
    connected: BTreeSet<DeviceId>,
}

#[derive(Default)]
struct Sent {
    all: Vec<(ClientSeq, Change)>,
    highest: u64,
    /// Below the highest, and never used.
    skipped: Vec<u64>,
}

/// One connection of such a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Whose.
    pub user: u64,
    /// How often it does something.
    pub moves: u64,
    /// What it does is drawn from this.
    pub seed: u64,
}

/// Does what the session says, as far as connection and server allow.
pub async fn run(world: &World, session: Session, target: Target) {
    let user = user(session.user);
    let numbers = (0..DEVICES_PER_USER).map(|n| DEVICES_FROM + session.user * DEVICES_PER_USER + n);
    let mut devices = numbers.filter_map(DeviceId::new);
    let free = devices.find(|device| !world.rude.borrow().connected.contains(device));
    let Some(device) = free else { return };
    world.rude.borrow_mut().connected.insert(device);
    let who = Sender { user, device };
    if let Some(rude) = Rude::connect(world, who, session, target) {
        rude.run().await;
    }
    world.rude.borrow_mut().connected.remove(&device);
}

/// Fills a log: so many messages of so many bytes, as many at once as are allowed.
pub async fn fill(world: &World, session: Session, target: Target, bytes: u64) {
    let user = user(session.user);
    let device = DeviceId::new(DEVICES_FROM + session.user * DEVICES_PER_USER).expect("not 0");
    if !world.rude.borrow_mut().connected.insert(device) {
        return;
    }
    if let Some(mut rude) = Rude::connect(world, Sender { user, device }, session, target)
        && rude.login().await
    {
        let mut left = session.moves;
        while left > 0 && rude.goes_on() {
            let count = left.min((IN_FLIGHT_MAX - rude.line.unanswered()) as u64);
            (0..count).for_each(|_| rude.send_new(bytes));
            left -= count;
            rude.line.until(PATIENCE, |line| line.unanswered() <= IN_FLIGHT_MAX / 2).await;
        }
        rude.end().await;
    }
    world.rude.borrow_mut().connected.remove(&device);
}

struct Rude<'a> {
    world: &'a World,
    line: Line<'a>,
    random: Random,
    who: Sender,
    session: Session,
    token: String,
    target: Target,
    conversation: ConversationId,
}

impl<'a> Rude<'a> {
    fn connect(world: &'a World, who: Sender, session: Session, target: Target) -> Option<Self> {
        let (name, token) = identity(session.user);
        let conversation = match target {
            Target::Conversation(id) => id,
            Target::User(peer) => ConversationId::direct(who.user, peer),
        };
        let line = Line::connect(world, who, &format!("{name}/{}", who.device))?;
        let random = Random::new(session.seed);
        Some(Self { world, line, random, who, session, token, target, conversation })
    }

    async fn run(mut self) {
        if !self.login().await {
            return;
        }
        for _ in 0..self.session.moves {
            if !self.goes_on() {
                return;
            }
            self.act().await;
            self.world.measure();
        }
        // Whoever just goes away never learns what became of the rest.
        if self.random.chance(700) {
            self.end().await;
        }
    }

    fn goes_on(&self) -> bool {
        !self.world.is_over() && !self.line.has_ended()
    }

    async fn login(&mut self) -> bool {
        if self.random.one_in(8) {
            for _ in 0..self.random.within(1..10) {
                let body = self.question();
                self.line.ask(body);
            }
            self.line.until(PATIENCE, |line| line.unanswered() == 0).await;
        }
        if self.random.one_in(40) {
            let time = Duration::from_millis(LOGIN_TIMEOUT_MS);
            self.expect_the_end(time, "that never logs in").await;
            return false;
        }
        self.line.login(self.token.clone());
        self.line.until(PATIENCE, Line::is_logged_in).await;
        if self.line.is_logged_in() {
            let sync = Sync { known: Vec::new(), after: None, until: None, latest: Some(3) };
            self.line.ask(RequestBody::Sync(sync));
            self.line.until(PATIENCE, |line| line.unanswered() == 0).await;
        }
        self.line.is_logged_in()
    }

    /// Everything is answered, and it is told of everything.
    async fn end(&mut self) {
        self.line.reads = true;
        let (world, before) = (self.world, self.line.unanswered());
        self.line.until(PATIENCE, |line| line.unanswered() == 0 || world.is_over()).await;
        if !self.goes_on() {
            return;
        }
        if self.line.unanswered() > 0 {
            let what = format!(
                "{} of {before} requests of {} have no answer",
                self.line.unanswered(),
                self.who.user
            );
            return world.history.borrow_mut().violate(Promise::UnknownIsNotFailed, "unanswered", what);
        }
        self.line.until(TOLD, |line| line.is_told() || world.is_over()).await;
        if self.goes_on() && !self.line.is_told() {
            let what =
                format!("{} has stored something, and is neither pushed it nor told the head", self.who.user);
            world.history.borrow_mut().violate(Promise::GapFreeSync, "not told", what);
        }
    }

    /// The server closes the connection of a client that says nothing.
    async fn expect_the_end(&mut self, time: Duration, what: &str) {
        let world = self.world;
        let stands_still = if world.is_cluster() { STANDS_STILL } else { Duration::ZERO };
        self.line.until(time + GRACE + stands_still, |_| world.is_over()).await;
        if self.goes_on() {
            let what = format!("the connection of {}, {what}, stays", self.who.user);
            world.history.borrow_mut().violate(Promise::BoundedCost, "silence", what);
        }
    }

    async fn act(&mut self) {
        match self.random.below(100) {
            0..30 => {
                let most = if self.random.chance(300) { IN_FLIGHT_MAX as u64 } else { 8 };
                for _ in 0..self.random.within(1..most) {
                    self.send_new(20);
                }
            }
            30..42 => self.send_again(),
            42..50 => self.send_other(),
            50..56 => self.skip(),
            56..70 => self.mark(),
            70..80 => {
                let body = self.question();
                self.line.ask(body);
            }
            80..86 => {
                for _ in 0..self.random.within(65..150) {
                    self.request();
                }
            }
            86..92 => self.be_deaf().await,
            92..95 => {
                let time = Duration::from_millis(IDLE_TIMEOUT_MS);
                self.line.until(PATIENCE, |line| line.unanswered() == 0).await;
                self.expect_the_end(time, "that has said nothing for so long").await;
            }
            95..97 => self.line.login(self.token.clone()),
            _ => {
                let time = Duration::from_millis(self.random.below(20_000));
                self.line.until(time, |_| false).await;
            }
        }
        self.line.beat();
        // Half of the time the next one follows at once.
        if self.random.chance(500) {
            self.line.until(PATIENCE, |line| line.unanswered() == 0).await;
        } else {
            self.line.until(Duration::from_millis(self.random.below(200)), |_| false).await;
        }
    }

    /// One of many.
    fn request(&mut self) {
        match self.random.below(10) {
            0..5 => self.send_new(20),
            5..7 => self.send_again(),
            7 => self.mark(),
            _ => {
                let body = self.question();
                self.line.ask(body);
            }
        }
    }

    /// Does not read while much comes, and then reads on: sooner than it is cut off, or later.
    async fn be_deaf(&mut self) {
        self.line.reads = false;
        let bytes = self.random.within(1_000..65_000);
        for _ in 0..self.random.within(10..IN_FLIGHT_MAX as u64 - 4) {
            self.send_new(bytes);
        }
        let time = Duration::from_millis(self.random.within(1_000..40_000));
        let world = self.world;
        self.line.until(time / 2, |_| world.is_over()).await;
        self.world.measure();
        self.line.until(time / 2, |_| world.is_over()).await;
        self.line.reads = true;
    }

    fn send(&mut self, client_seq: ClientSeq, change: Change) {
        let key = Key { conversation: self.conversation, sender: self.who, client_seq };
        self.line.send(key, Send { target: self.target, client_seq, change });
    }

    fn with_sent<T>(&self, what: impl FnOnce(&mut Sent) -> T) -> T {
        let mut devices = self.world.rude.borrow_mut();
        what(devices.sent.entry((self.who.device, self.conversation)).or_default())
    }

    fn send_as(&mut self, client_seq: ClientSeq, bytes: u64) {
        let change = text(&mut self.random, bytes);
        self.with_sent(|sent| sent.all.push((client_seq, change.clone())));
        self.send(client_seq, change);
    }

    fn send_new(&mut self, bytes: u64) {
        let number = self.with_sent(|sent| {
            sent.highest += 1;
            sent.highest
        });
        self.send_as(ClientSeq(number), bytes);
    }

    fn one_sent(&mut self) -> Option<(ClientSeq, Change)> {
        let count = self.with_sent(|sent| sent.all.len() as u64);
        let at = self.random.below(count.max(1)) as usize;
        self.with_sent(|sent| sent.all.get(at).cloned())
    }

    /// The same under the same number, however old it is.
    fn send_again(&mut self) {
        if let Some((client_seq, change)) = self.one_sent() {
            self.send(client_seq, change);
        }
    }

    /// Something else under a number that was used.
    fn send_other(&mut self) {
        if let Some((client_seq, _)) = self.one_sent() {
            self.send_as(client_seq, 20);
        }
    }

    /// Leaves numbers out, or comes back to one of them.
    fn skip(&mut self) {
        let skipped = self.random.within(1..80);
        let number = self.with_sent(|sent| {
            if skipped.is_multiple_of(2) {
                return sent.skipped.pop();
            }
            sent.skipped.push(sent.highest + 1);
            sent.highest += skipped;
            None
        });
        match number {
            Some(number) => self.send_as(ClientSeq(number), 20),
            None => self.send_new(20),
        }
    }

    /// A conversation: the one that it sends to, a group, or one that is not its own.
    fn any_conversation(&mut self) -> ConversationId {
        let number = self.random.any();
        match number % 8 {
            0..3 => self.conversation,
            3..6 => self.world.group(number >> 8).unwrap_or(self.conversation),
            _ => self.foreign(),
        }
    }

    /// A direct chat of others, or one that does not exist.
    fn foreign(&mut self) -> ConversationId {
        let number = self.random.any();
        let others: Vec<UserId> = self.world.users().filter(|user| *user != self.who.user).collect();
        match others.get(number as usize % (others.len() + 1)) {
            Some(other) => ConversationId::direct(*other, others[(number >> 8) as usize % others.len()]),
            None => ConversationId::group_from_random([number as u8; 16]),
        }
    }

    /// Watermarks: true ones in any order, and those that nobody may take.
    fn mark(&mut self) {
        let seen: Vec<(ConversationId, Seq)> = self.line.seen().iter().map(|(id, seq)| (*id, *seq)).collect();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for _ in 0..self.random.within(1..4) {
            let Some((conversation, last)) = seen.get(self.random.below(seen.len().max(1) as u64) as usize)
            else {
                continue;
            };
            let (a, b) = (self.random.within(1..last.get() + 1), self.random.below(last.get() + 1));
            let read = if self.random.one_in(2) { Seq(b) } else { Seq(0) };
            good.push(Mark { conversation: *conversation, delivered: Seq(a.max(read.get())), read });
        }
        if self.random.one_in(3) {
            let far = Seq(1_000_000 + self.random.below(1_000));
            let read = if self.random.one_in(2) { far } else { Seq(0) };
            let conversation = self.any_conversation();
            bad.push(Mark { conversation, delivered: far, read });
        }
        if self.random.one_in(4) {
            bad.push(Mark { conversation: self.foreign(), delivered: Seq(1), read: Seq(1) });
        }
        let silent = self.random.one_in(3);
        self.line.mark(good, &bad, silent);
    }

    /// A question about anything.
    fn question(&mut self) -> RequestBody {
        let conversation = self.any_conversation();
        let (from, limit) =
            (Seq(self.random.below(80)), self.random.within(1..HISTORY_ENTRIES_MAX as u64 + 1));
        let rows = self.random.within(1..PAGE_ROWS_MAX as u64 + 1) as u32;
        match self.random.below(8) {
            0..3 => {
                let from = match self.random.below(3) {
                    0 => HistoryFrom::Forward(from),
                    1 => HistoryFrom::Backward(Some(from).filter(|from| from.get() > 0)),
                    _ => HistoryFrom::Backward(None),
                };
                RequestBody::History(History { conversation, from, limit: limit as u32 })
            }
            3..5 => {
                let mut known = BTreeMap::new();
                for _ in 0..self.random.below(4) {
                    let conversation = self.any_conversation();
                    known.insert(conversation, Known::entries(conversation, Seq(self.random.below(100))));
                }
                let latest =
                    if self.random.one_in(2) { Some(self.random.within(1..200) as u32) } else { None };
                let after = if self.random.one_in(4) { Some(self.any_conversation()) } else { None };
                let known = known.into_values().collect();
                RequestBody::Sync(Sync { known, after, until: None, latest })
            }
            5 => RequestBody::ListConversations(ListConversations { after: None, limit: rows }),
            6 => RequestBody::ListMembers(ListUsers { conversation, after: None, limit: rows }),
            _ => RequestBody::ListReceipts(ListUsers { conversation, after: None, limit: rows }),
        }
    }
}
