//! One run: the plan's steps against servers, devices and a store, and at the end everything is compared.

mod prompt;

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use tern_check::{History, Promise, Shown, Stage, Totals, Violation};
use tern_core::limits::{OUTBOUND_HIGH_WATER_BYTES, OUTBOUND_PUSH_BYTES_MAX};
use tern_protocol::convert::decode_entry;
use tern_protocol::event::{ServerBody, ServerMessage};
use tern_protocol::ids::{ConversationId, RequestId, StoreEpoch, UserId};
use tern_protocol::limits::FRAME_BYTES_MAX;
use tern_protocol::model::{Change, Entry, Message, Role, Target, WallMillis};
use tern_server::mailbox::WAITING_BYTES_MAX;
use tern_store::keys::after_prefix;
use tern_store::keys::entry::EntryKey;
use tern_store::limits::TRANSACTION_LIFE_MS;
use tern_store::ops::append;
use tern_store::{Kv, RangeQuery, records, verify};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::device::{Command, Device};
use crate::net::{self, Trouble};
use crate::node::{SimNode, TOKEN_SECRET};
use crate::panics;
use crate::plan::{Action, Plan, SKEW_MS_MAX};
use crate::rude;
use crate::store::SimStore;
use crate::switch::Switch;
use crate::trace::{Keep, Trace};
use crate::wrong::Wrong;
use tern_check::random::Random;

/// When the simulation begins, by the wall clock: any moment would do.
const EPOCH: WallMillis = WallMillis(1_800_000_000_000);
/// The store is never restored.
const STORE_EPOCH: StoreEpoch = StoreEpoch::from_bytes([7; 16]);
/// After the last step, everybody has this long to get what is there: far longer than any wait in the client.
const SETTLE: Duration = Duration::from_secs(30 * 60);
/// While nothing is made to fail, everybody has this long: longer than a connection may be stalled, or an app away.
const CALM: Duration = Duration::from_secs(20 * 60);
/// Everybody has it for this long: what is delivered is written within a second, and a farewell that was stalled comes late.
const QUIET: Duration = Duration::from_secs(3);
/// In a cluster, a commit of unknown outcome lands within this time, as FoundationDB's do.
const LATE_MS: u64 = TRANSACTION_LIFE_MS;
/// Between looks at whether everybody has.
const LOOK: Duration = Duration::from_millis(500);
/// What one client may keep waiting in a server: pushes, and answers, of which nothing is begun above the high water.
const OUTBOUND_BYTES_MAX: u64 =
    (OUTBOUND_PUSH_BYTES_MAX + OUTBOUND_HIGH_WATER_BYTES + FRAME_BYTES_MAX) as u64;
/// A device is away for so long at most while a log is filled.
const FILL_AWAY_MS: u64 = 30_000;
/// Few, so that much happens in each.
const GROUPS_MAX: usize = 12;

/// What everybody in a run shares.
pub struct World {
    /// What was done and told.
    pub history: RefCell<History>,
    /// What network and devices draw from.
    pub random: RefCell<Random>,
    trace: RefCell<Trace>,
    start: Instant,
    latency_ms: (u64, u64),
    shards: u16,
    /// Of a cluster.
    switch: Option<Rc<Switch>>,
    /// How many servers there are when all is well.
    nodes_wanted: usize,
    store: SimStore,
    nodes: RefCell<Vec<Rc<SimNode>>>,
    groups: RefCell<Vec<ConversationId>>,
    /// What is wrong on purpose.
    pub wrong: Option<Wrong>,
    last_push: RefCell<Option<ServerMessage>>,
    users: u64,
    /// What the clients without an SDK know.
    pub rude: RefCell<rude::Devices>,
    over: Cell<bool>,
    /// Servers that were told to stop, and have not.
    stopping: Cell<u64>,
    /// Clients without an SDK that have not ended.
    rude_running: Cell<u64>,
    /// The only server has always been alone: whatever was stored since it began, it knows of.
    alone: Cell<bool>,
    /// Nodes find what they have missed.
    clocks_agree: bool,
}

/// What a wrong server makes of a frame.
#[derive(Default)]
pub struct Mangled {
    /// The client does not get it.
    pub hidden: bool,
    /// It gets this one first.
    pub before: Option<ServerMessage>,
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What has panicked, of server and clients alike, with its place. When it was the run itself, there is nothing else.
    pub panics: Vec<String>,
    /// The promises that it broke.
    pub violations: Vec<Violation>,
    /// How much there was.
    pub totals: Totals,
    /// Entries of all logs.
    pub entries: u64,
    /// How long it was for those in it.
    pub time: Duration,
    /// A digest of everything that happened, in order.
    pub digest: u64,
    /// All of it, if it was asked for.
    pub trace: String,
}

impl World {
    /// Writes down that something happened.
    pub fn note(&self, who: &str, what: &str) {
        self.trace.borrow_mut().add(self.start.elapsed(), who, what);
    }

    /// Whether there are several servers when all is well.
    pub fn is_cluster(&self) -> bool {
        self.nodes_wanted > 1
    }

    /// Whether nothing new is to be begun.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Up to so many milliseconds.
    pub fn delay(&self, max_ms: u64) -> Duration {
        Duration::from_millis(self.random.borrow_mut().below(max_ms + 1))
    }

    /// A connection to one of the servers that listen.
    pub fn connect(&self) -> Option<(net::End, Trouble)> {
        let nodes = self.nodes.borrow();
        let open: Vec<_> = nodes.iter().filter(|node| node.is_open()).collect();
        let mut random = self.random.borrow_mut();
        let node = open.get(random.below(open.len().max(1) as u64) as usize)?;
        let (client, server, trouble) = net::connection(self.latency_ms, random.split());
        let panics = self.wrong == Some(Wrong::Panics) && random.one_in(20);
        node.accept(server, &mut random, panics);
        Some((client, trouble))
    }

    /// What the server that is wrong on purpose makes of a frame.
    pub fn mangle(&self, message: &mut ServerMessage) -> Mangled {
        let Some(wrong) = self.wrong else { return Mangled::default() };
        let mut random = self.random.borrow_mut();
        wrong.mangle(&mut random, message);
        wrong.cut(message);
        let mut before = None;
        if wrong == Wrong::TellsOutsiders {
            before = self.last_push.borrow_mut().take().filter(|_| random.chance(50));
            if matches!(message.body, ServerBody::Push { .. }) {
                *self.last_push.borrow_mut() =
                    Some(ServerMessage { id: RequestId(0), body: message.body.clone() });
            }
        }
        Mangled { hidden: wrong.hides(message), before }
    }

    fn start_node(&self) {
        // What another has left may still land, and this one does not know that it has to fence.
        // The nodes of a cluster tell each other.
        let alone = self.switch.is_some()
            || self.nodes.borrow().is_empty() && self.stopping.get() == 0 && !self.store.is_unsettled();
        self.alone.set(alone);
        // Their clocks differ, and one is put back now and then.
        let most = if self.is_cluster() { SKEW_MS_MAX } else { 4_000 };
        let skew = self.random.borrow_mut().below(most);
        let wall = WallMillis(EPOCH.0 + self.start.elapsed().as_millis() as u64 + skew);
        self.note("server", "begins");
        let store = self.store.for_node();
        let node = SimNode::start(store, STORE_EPOCH, self.shards, (wall, skew as i64), self.switch.as_ref());
        self.nodes.borrow_mut().push(Rc::new(node));
    }

    /// As many as there are when all is well.
    fn start_nodes(&self) {
        while self.nodes.borrow().len() < self.nodes_wanted {
            self.start_node();
        }
    }

    /// A node that is there.
    fn node(&self, number: u64) -> Option<Rc<SimNode>> {
        let nodes = self.nodes.borrow();
        nodes.get(number as usize % nodes.len().max(1)).cloned()
    }

    fn take_first_node(&self) -> Option<Rc<SimNode>> {
        let mut nodes = self.nodes.borrow_mut();
        if nodes.is_empty() { None } else { Some(nodes.remove(0)) }
    }

    fn kill_first_node(&self) {
        if let Some(node) = self.take_first_node() {
            self.note("server", "is killed");
            SimNode::kill(&node);
            if let (Some(switch), Some(name)) = (&self.switch, node.name()) {
                switch.unplug(name);
            }
        }
    }

    /// Nobody new comes to the first node, which ends well.
    fn stop_first_node(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let (world, node) = (self.clone(), self.take_first_node());
        world.stopping.set(world.stopping.get() + 1);
        async move {
            if let Some(node) = node {
                world.note("server", "stops");
                let name = node.name();
                node.stop().await;
                if let (Some(switch), Some(name)) = (&world.switch, name) {
                    switch.unplug(name);
                }
                world.note("server", "has stopped");
            }
            world.stopping.set(world.stopping.get() - 1);
        }
    }

    /// After a while, unless the run is over.
    fn later(self: &Rc<Self>, ms: u64, what: impl AsyncFnOnce(Rc<Self>) + 'static) {
        let world = self.clone();
        spawn_local(async move {
            sleep(Duration::from_millis(ms)).await;
            if !world.over.get() {
                what(world).await;
            }
        });
    }

    /// Everybody.
    pub fn users(&self) -> impl Iterator<Item = UserId> {
        (0..self.users).map(user)
    }

    /// One of the groups, if there are any.
    pub fn group(&self, number: u64) -> Option<ConversationId> {
        let groups = self.groups.borrow();
        (!groups.is_empty()).then(|| groups[number as usize % groups.len()])
    }

    fn target(&self, plan: &Plan, to: u64) -> Target {
        match self.group(to / 2).filter(|_| to % 2 == 1) {
            Some(group) => Target::Conversation(group),
            None => Target::User(user(to / 2 % plan.users)),
        }
    }

    fn act(self: &Rc<Self>, plan: &Plan, devices: &[Rc<Device>], action: &Action) {
        let device = |number: u64| &devices[number as usize % devices.len()];
        match *action {
            Action::Send { device: number, to, count, bytes } => {
                for _ in 0..count {
                    let text = text(&mut self.random.borrow_mut(), bytes);
                    device(number).command(Command::Send(self.target(plan, to), text));
                }
            }
            Action::Create { device: number, users } => {
                if self.groups.borrow().len() < GROUPS_MAX {
                    let mut random = self.random.borrow_mut();
                    let id = u128::from(random.any()) << 64 | u128::from(random.any());
                    let group = ConversationId::group_from_random(id.to_be_bytes());
                    self.groups.borrow_mut().push(group);
                    let mut members: Vec<_> =
                        (0..plan.users).filter(|n| users >> n & 1 == 1).map(user).collect();
                    members.sort_unstable();
                    let change = Change::Create { title: format!("group {}", random.below(100)), members };
                    device(number).command(Command::Send(Target::Conversation(group), change));
                }
            }
            Action::Change { device: number, group, user: member, what } => {
                let Some(group) = self.group(group) else { return };
                let member = user(member % plan.users);
                let change = match what {
                    0..40 => Change::Add { members: vec![member] },
                    40..65 => Change::Remove { member },
                    65..75 => Change::Leave,
                    75..85 => Change::Title { title: format!("title {what}") },
                    85..95 => Change::Role { member, role: Role::Admin },
                    _ => Change::Role { member, role: Role::Owner },
                };
                device(number).command(Command::Send(Target::Conversation(group), change));
            }
            Action::Read { device: number, conversation } => {
                let all = device(number).conversations();
                if !all.is_empty() {
                    let id = all[conversation as usize % all.len()];
                    device(number).command(Command::Read(id));
                }
            }
            Action::Rude { session, to } => {
                let session = rude::Session { user: session.user % plan.users, ..session };
                let target = self.target(plan, to);
                self.rudely(async move |world| rude::run(world, session, target).await);
            }
            Action::Fill { session, to, bytes, away } => {
                let session = rude::Session { user: session.user % plan.users, ..session };
                let target = self.target(plan, to);
                device(away).offline(Duration::from_millis(session.seed % FILL_AWAY_MS));
                self.rudely(async move |world| rude::fill(world, session, target, bytes).await);
            }
            Action::CrashApp { device: number, away_ms } => {
                let device = device(number).clone();
                device.crash(self);
                self.later(away_ms, async move |world| device.start(&world));
            }
            Action::Offline { device: number, away_ms } => {
                device(number).offline(Duration::from_millis(away_ms));
            }
            Action::Move { device: number } => {
                device(number).trouble(Trouble::die);
                device(number).command(Command::NetworkChanged);
            }
            Action::Forget { device: number } => device(number).trouble(Trouble::die),
            Action::Reset { device: number } => device(number).trouble(Trouble::reset),
            Action::Stall { device: number, ms } => {
                device(number).trouble(|trouble| trouble.stall(Duration::from_millis(ms)));
            }
            Action::Busy { device: number, ms } => device(number).busy(Duration::from_millis(ms)),
            Action::Kill { down_ms } => {
                self.kill_first_node();
                self.later(down_ms, async |world| world.start_node());
            }
            Action::Stop { down_ms } => {
                let (world, stopped) = (self.clone(), self.stop_first_node());
                spawn_local(async move {
                    stopped.await;
                    world.later(down_ms, async |world| world.start_node());
                });
            }
            Action::Second { beside_ms } => {
                if self.nodes.borrow().len() == 1 {
                    self.start_node();
                    self.later(beside_ms, async |world| {
                        if world.nodes.borrow().len() > 1 {
                            world.stop_first_node().await;
                        }
                    });
                }
            }
            Action::Fail { commits_per_mille, reads_per_mille, ms } => {
                self.store.fail(commits_per_mille, reads_per_mille, Duration::from_millis(ms));
                self.later(ms, async |world| world.store.recover());
            }
            Action::CutLink { one, other, ms } => {
                let names = [one, other].map(|number| self.node(number).and_then(|node| node.name()));
                if let (Some(switch), [Some(one), Some(other)]) = (&self.switch, names)
                    && one != other
                {
                    switch.cut(one, other, Duration::from_millis(ms));
                }
            }
            Action::CutStore { node, ms, hangs } => {
                if let Some(node) = self.node(node) {
                    node.store.cut(Duration::from_millis(ms), hangs);
                }
            }
            Action::CutStores { ms, hangs } => {
                let nodes = self.nodes.borrow();
                nodes.iter().for_each(|node| node.store.cut(Duration::from_millis(ms), hangs));
            }
            Action::Pause { node, ms } => {
                if let Some(node) = self.node(node) {
                    node.pause(Duration::from_millis(ms));
                }
            }
            Action::SetClock { node, ahead_ms } => {
                if let Some(node) = self.node(node) {
                    node.set_clock(ahead_ms);
                }
            }
            Action::Slow { commit_ms, ms } => {
                self.store.slow(commit_ms, Duration::from_millis(ms));
                self.later(ms, async |world| world.store.recover());
            }
            // Waited for by the caller.
            Action::Rest { .. } | Action::Calm | Action::Days { .. } => {}
        }
    }

    fn rudely(self: &Rc<Self>, what: impl AsyncFnOnce(&Self) + 'static) {
        self.rude_running.set(self.rude_running.get() + 1);
        let world = self.clone();
        spawn_local(async move {
            what(&world).await;
            world.rude_running.set(world.rude_running.get() - 1);
        });
    }

    /// Queues stay within their bounds.
    pub fn measure(&self) {
        let mut history = self.history.borrow_mut();
        for node in self.nodes.borrow().iter() {
            let (outbound, requests) = node.waiting();
            history.measured("bytes that wait for one client", outbound, OUTBOUND_BYTES_MAX);
            history.measured("bytes of requests that wait", requests, WAITING_BYTES_MAX as u64);
            assert!(!node.has_ended(), "a server has ended by itself");
        }
    }

    /// Some devices are away for days, and meanwhile others write. For the most part of them the server is off as well: each
    /// of its days is a million ticks.
    async fn days(self: &Rc<Self>, plan: &Plan, devices: &[Rc<Device>], away: u64, hours: u64) {
        let is_away = |n: usize| away >> n & 1 == 1;
        let some = |wanted: bool| devices.iter().enumerate().filter(move |(n, _)| is_away(*n) == wanted);
        let time = Duration::from_secs(hours * 3_600);
        some(true).for_each(|(_, device)| device.offline(time));
        for _ in 0..2 {
            for (n, device) in some(false) {
                for to in 0..2 * plan.users {
                    let text = text(&mut self.random.borrow_mut(), 100 * n as u64);
                    device.command(Command::Send(self.target(plan, to), text));
                }
            }
            for _ in 0..2 {
                // Another one may be about to begin.
                sleep(Duration::from_secs(60)).await;
                while !self.nodes.borrow().is_empty() {
                    self.stop_first_node().await;
                }
            }
            sleep(time / 2).await;
            self.start_nodes();
            sleep(Duration::from_secs(120)).await;
        }
    }

    /// Everything works for a while, and everybody gets what is there without connecting anew: a server that has been alone
    /// has told its connections of all that was stored.
    async fn calm(self: &Rc<Self>, plan: &Plan, devices: &[Rc<Device>]) {
        self.heal();
        devices.iter().for_each(|device| device.heal());
        devices.iter().for_each(|device| device.start(self));
        let end = Instant::now() + CALM;
        let mut wait = LOOK;
        loop {
            sleep(wait).await;
            wait = (wait * 2).min(LOOK * 20);
            self.heal();
            self.measure();
            self.start_nodes();
            let Some(what) = self.lacking(devices).await else { break };
            if Instant::now() >= end {
                if self.alone.get() && self.clocks_agree {
                    self.history.borrow_mut().violate(Promise::GapFreeSync, "not told", what);
                }
                return;
            }
        }
        if self.is_cluster() && self.clocks_agree && self.random.borrow_mut().one_in(3) {
            self.tell_promptly(plan, devices).await;
        }
    }

    /// Everything works from now on.
    fn heal(&self) {
        self.store.heal();
        if let Some(switch) = &self.switch {
            switch.heal();
        }
        self.nodes.borrow().iter().for_each(|node| node.store.cut(Duration::ZERO, false));
    }

    /// What some device does not have, or has not done.
    async fn lacking(&self, devices: &[Rc<Device>]) -> Option<String> {
        if let Some(device) = devices.iter().find(|device| !device.is_well()) {
            return Some(not_well(device));
        }
        let logs = self.logs().await;
        devices.iter().find_map(|device| {
            let lacks = |(id, log): &(ConversationId, Vec<Entry>)| device.view.borrow().check(*id, log).pop();
            mine(&logs, device.who.user).find_map(lacks).map(|violation| violation.what)
        })
    }

    /// Everything works from now on, and everybody gets what is there. One server is left, a new one, so that nobody goes on
    /// with what only a process has known. Says what is lacking at last, if anything is.
    async fn settle(self: &Rc<Self>, devices: &[Rc<Device>]) -> Option<String> {
        self.note("world", "heals");
        self.over.set(true);
        self.heal();
        devices.iter().for_each(|device| device.heal());
        while !self.nodes.borrow().is_empty() {
            self.kill_first_node();
        }
        let end = Instant::now() + SETTLE;
        // Servers do not tell each other what they store: who synced with the new one must have missed nothing of another.
        while self.stopping.get() > 0 && Instant::now() < end {
            sleep(LOOK).await;
        }
        self.start_nodes();
        devices.iter().for_each(|device| device.start(self));
        let end = Instant::now() + SETTLE;
        let mut well_since = None;
        loop {
            sleep(LOOK).await;
            self.measure();
            let now = Instant::now();
            let lacking = match (self.stopping.get(), self.rude_running.get()) {
                (0, 0) => self.lacking(devices).await,
                (stopping, rude) => {
                    Some(format!("{stopping} servers that stop and {rude} clients without an SDK do not end"))
                }
            };
            if lacking.is_some() {
                well_since = None;
                if now >= end {
                    return lacking;
                }
            } else if now >= *well_since.get_or_insert(now) + QUIET {
                return None;
            }
        }
    }

    async fn logs(&self) -> Vec<(ConversationId, Vec<Entry>)> {
        let ids = self.history.borrow().conversations();
        let mut logs = Vec::new();
        for id in ids {
            let prefix = EntryKey::of_conversation(id);
            let query = RangeQuery::new(prefix, after_prefix(&prefix), usize::MAX);
            let rows = self.store.begin().range(query).await.expect("the store is well");
            let log = rows.iter().map(|(key, value)| {
                let key = EntryKey::decode(key).expect("an entry's key");
                let bytes = records::entry::decode(&key, value).expect("an entry's record");
                decode_entry(bytes).expect("an entry")
            });
            logs.push((id, log.collect()));
        }
        logs
    }

    async fn compare(
        &self,
        devices: &[Rc<Device>],
        mut logs: Vec<(ConversationId, Vec<Entry>)>,
        lacking: Option<String>,
    ) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (id, log) in &mut logs {
            if let Some(wrong) = self.wrong {
                wrong.disorder(log);
            }
            let loaded = append::load(&self.store, *id).await.expect("the store is well").1;
            let watermarks = loaded.into_iter().flat_map(|loaded| loaded.watermarks);
            let stored: Vec<_> = watermarks
                .map(|(user, marks)| Shown { user, delivered: marks.delivered, read: marks.read })
                .collect();
            let mut history = self.history.borrow_mut();
            history.check_receipts(*id, log.last().map(|entry| entry.seq).unwrap_or_default(), &stored);
            violations.append(&mut history.check(*id, log, Stage::Settled));
        }
        for device in devices {
            for (id, log) in mine(&logs, device.who.user) {
                violations.append(&mut device.view.borrow().check(*id, log));
            }
            let told = device.told.borrow();
            for id in told.conversations().into_iter().filter(|_| device.is_well()) {
                let log = logs.iter().find(|(other, _)| *other == id).map_or(&[][..], |(_, log)| log);
                violations.append(&mut told.check(id, log));
            }
        }
        violations.extend(lacking.map(|what| {
            let (promise, rule) = (Promise::GapFreeSync, "not settled");
            Violation { promise, rule, what, excerpt: Vec::new() }
        }));
        let mut damage = Vec::new();
        let tx = self.store.begin();
        verify::verify(&*tx, &mut |corrupt| damage.push(corrupt.to_string()))
            .await
            .expect("the store is well");
        violations.extend(damage.into_iter().map(|what| Violation {
            promise: Promise::DenseOrder,
            rule: "store",
            what,
            excerpt: Vec::new(),
        }));
        violations.splice(..0, self.history.borrow().broken().to_vec());
        violations
    }
}

/// The logs that a user may be in: all but other people's direct chats.
fn mine(
    logs: &[(ConversationId, Vec<Entry>)],
    user: UserId,
) -> impl Iterator<Item = &(ConversationId, Vec<Entry>)> {
    logs.iter().filter(move |(id, log)| {
        let is_group = log.first().is_some_and(|entry| matches!(entry.change, Change::Create { .. }));
        is_group || (0..USERS_MAX).any(|n| ConversationId::direct(user, self::user(n)) == *id)
    })
}

fn not_well(device: &Device) -> String {
    format!("{} is not online, or has something left to send", device.who.user)
}

/// No plan has more.
const USERS_MAX: u64 = 8;

fn name(number: u64) -> String {
    format!("user{number}")
}

/// A user.
pub fn user(number: u64) -> UserId {
    UserId::from_sub(&name(number))
}

/// A device of a user: its name, and a token.
pub fn identity(number: u64) -> (String, String) {
    let name = name(number);
    let claims = serde_json::json!({ "sub": name, "exp": EPOCH.0 / 1_000 + 10 * 365 * 86_400 });
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(TOKEN_SECRET));
    (name, token.expect("the claims can be signed"))
}

/// A message.
pub fn text(random: &mut Random, bytes: u64) -> Change {
    let mut payload = String::new();
    let _ = write!(payload, "{:016x}", random.any());
    let payload: Vec<u8> = payload.bytes().cycle().take(bytes.max(16) as usize).collect();
    Change::Message(Message { content_type: "text/plain".into(), payload: payload.into(), reply_to: None })
}

/// The rule that a run breaks when something in it panics.
pub const PANIC: &str = "panic";

impl Outcome {
    /// What is wrong first, if anything is: the rule, and a text.
    pub fn failure(&self) -> Option<(&'static str, String)> {
        let panic = self.panics.first().map(|panic| (PANIC, format!("panic: {panic}")));
        panic.or_else(|| {
            let first = self.violations.first()?;
            Some((first.rule, format!("{} violations, the first:\n{first}", self.violations.len())))
        })
    }

    /// Whether this rule was broken.
    pub fn breaks(&self, rule: &str) -> bool {
        let violated = self.violations.iter().any(|violation| violation.rule == rule);
        violated || rule == PANIC && !self.panics.is_empty()
    }
}

/// Runs a plan.
pub fn run(plan: &Plan, wrong: Option<Wrong>, keep: Keep) -> Outcome {
    let (outcome, panics) = panics::caught(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without sockets");
        LocalSet::new().block_on(&runtime, simulate(plan.clone(), wrong, keep))
    });
    Outcome { panics, ..outcome.unwrap_or_default() }
}

async fn simulate(plan: Plan, wrong: Option<Wrong>, keep: Keep) -> Outcome {
    let mut random = Random::new(plan.seed);
    let store = SimStore::new(random.split(), wrong);
    let store = if plan.is_linked() { store.for_cluster() } else { store };
    let world = Rc::new(World {
        history: RefCell::default(),
        trace: RefCell::new(Trace::new(keep)),
        start: Instant::now(),
        latency_ms: plan.latency_ms,
        shards: plan.shards,
        switch: plan.is_linked().then(|| Switch::new(random.split(), wrong)),
        nodes_wanted: plan.nodes.max(1) as usize,
        store,
        nodes: RefCell::default(),
        groups: RefCell::default(),
        wrong,
        last_push: RefCell::default(),
        users: plan.users,
        rude: RefCell::default(),
        over: Cell::new(false),
        stopping: Cell::new(0),
        rude_running: Cell::new(0),
        alone: Cell::new(true),
        clocks_agree: plan.clocks_agree(),
        random: RefCell::new(random),
    });
    if plan.steps.iter().any(|step| matches!(step.action, Action::Fail { .. })) {
        world.history.borrow_mut().server_tries_again();
    }
    world.start_nodes();
    if world.switch.is_some() {
        world.history.borrow_mut().server_tries_again();
        world.history.borrow_mut().owners_change();
        let late = world.clone();
        spawn_local(async move {
            loop {
                sleep(late.delay(LATE_MS)).await;
                late.store.land();
            }
        });
    }
    let devices: Vec<_> = (0..plan.devices)
        .map(|number| {
            let (name, token) = identity(number % plan.users);
            Device::new(&name, number + 1, token)
        })
        .collect();
    devices.iter().for_each(|device| device.start(&world));
    for step in &plan.steps {
        sleep(Duration::from_millis(step.after_ms)).await;
        world.note("plan", &format!("{:?}", step.action));
        world.act(&plan, &devices, &step.action);
        match step.action {
            Action::Rest { minutes } => sleep(Duration::from_secs(minutes * 60)).await,
            Action::Calm => world.calm(&plan, &devices).await,
            Action::Days { away, hours } => world.days(&plan, &devices, away, hours).await,
            _ => {}
        }
        world.measure();
    }
    let lacking = world.settle(&devices).await;
    let logs = world.logs().await;
    let entries = logs.iter().map(|(_, log)| log.len() as u64).sum();
    let violations = world.compare(&devices, logs, lacking).await;
    let totals = world.history.borrow().totals();
    let (digest, trace) = world.trace.borrow_mut().take();
    let time = world.start.elapsed();
    Outcome { panics: Vec::new(), violations, totals, entries, time, digest, trace }
}
