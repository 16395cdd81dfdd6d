//! Pairs of clients send to each other, as fast as a window of unanswered sends lets them or at a fixed rate.
//!
//! Every recipient says "delivered" for what it has, once for all that was read at once. Every entry is checked; what
//! is under way at the end is waited for, so that "lost" means lost.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tern_client::raw::Received;
use tern_protocol::event::{ServerBody, ServerMessage};
use tern_protocol::ids::{ClientSeq, ConversationId, RequestId, Seq, UserId};
use tern_protocol::limits::{HEARTBEAT_MS, IN_FLIGHT_MAX};
use tern_protocol::model::{Change, Entry, Message, Target};
use tern_protocol::request::{History, HistoryFrom, Mark, Request, RequestBody, Send};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::Error;
use crate::args::SendArgs;
use crate::check::{self, Faults, Log, Placed, judge};
use crate::client::Client;
use crate::clock;
use crate::driver::{Fleet, Phase};
use crate::report::{self, Machine, Span, Used, round};
use crate::server::Server;
use crate::stats::{Latencies, Summary, add};

/// What is under way at the end has this long.
const DRAIN: Duration = Duration::from_secs(30);
/// Received messages of one client before the others of its thread get their turn.
const BATCH: usize = 128;

/// The load, the same for all clients.
#[derive(Debug, Clone, Copy)]
struct Plan {
    payload_bytes: usize,
    pace: Pace,
}

/// When the next message goes out.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// As soon as fewer than this many are unanswered.
    Window(usize),
    /// At fixed times, this far apart; `step` is how much later the next client's begin.
    Every { period: u64, step: u64 },
}

/// What is counted, of all clients of a thread.
#[derive(Debug, Default)]
struct Stats {
    acked: u64,
    delivered: u64,
    marks: u64,
    receipts: u64,
    heads_moved: u64,
    pulls: u64,
    ack: Latencies,
    push: Latencies,
    late: Latencies,
    acked_in_second: Vec<u64>,
    refusals: BTreeMap<String, u64>,
    faults: Faults,
}

impl Stats {
    fn add(&mut self, other: Self) {
        add!(self, other, acked, delivered, marks, receipts, heads_moved, pulls);
        self.ack.add(&other.ack);
        self.push.add(&other.push);
        self.late.add(&other.late);
        let seconds = self.acked_in_second.len().max(other.acked_in_second.len());
        self.acked_in_second.resize(seconds, 0);
        for (sum, acked) in self.acked_in_second.iter_mut().zip(other.acked_in_second) {
            *sum += acked;
        }
        for (name, count) in other.refusals {
            *self.refusals.entry(name).or_default() += count;
        }
        self.faults.add(&other.faults);
    }
}

#[derive(Debug, Serialize)]
struct Report {
    scenario: &'static str,
    machine: Machine,
    transport: &'static str,
    connections: usize,
    load: String,
    payload_bytes: u32,
    logins_per_second: f64,
    acked_per_second: f64,
    delivered_per_second: f64,
    worst_second: u64,
    ack: Summary,
    push: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_late: Option<Summary>,
    server_us_per_message: Option<f64>,
    used: Used,
    marks: u64,
    receipts: u64,
    heads_moved: u64,
    pulls: u64,
    refusals: BTreeMap<String, u64>,
    faults: Faults,
}

/// Runs it; true when every promise was kept.
///
/// # Errors
/// When there is no result.
pub fn run(args: &SendArgs) -> Result<bool, Error> {
    let common = &args.common;
    if common.connections < 2 || !common.connections.is_multiple_of(2) {
        return Err(Error::Arguments("send needs an even number of connections".into()));
    }
    let (pace, load) = match args.rate {
        None => (Pace::Window(args.window as usize), format!("window {}", args.window)),
        Some(rate) if rate > 0.0 => {
            let step = (1e9 / rate) as u64;
            let period = (1e9 * common.connections as f64 / rate) as u64;
            (Pace::Every { period, step }, format!("rate {rate}"))
        }
        Some(_) => return Err(Error::Arguments("a rate is above 0".into())),
    };
    let plan = Plan { payload_bytes: args.payload as usize, pace };
    let machine = Machine::here();
    let server = Server::from_args(common)?;

    let start = clock::nanos();
    let fleet =
        Fleet::connect(&server, common, async move |clients, phase| drive(plan, clients, phase).await)?;
    let ramp_seconds = (clock::nanos() - start) as f64 / 1e9;
    fleet.enter(Phase::Warmup);
    std::thread::sleep(Duration::from_secs_f64(args.warmup));
    let span = Span::start(&server)?;
    fleet.enter(Phase::Measuring);
    std::thread::sleep(Duration::from_secs_f64(args.duration));
    let used = span.end(&server)?;
    fleet.enter(Phase::Draining);
    let mut stats = Stats::default();
    fleet.join()?.into_iter().for_each(|other| stats.add(other));

    let per_second = |count: u64| round(count as f64 / used.seconds, 1);
    let whole_seconds = used.seconds as usize;
    stats.acked_in_second.resize(whole_seconds, 0);
    let report = Report {
        scenario: "send",
        machine,
        transport: common.transport.name(),
        connections: common.connections,
        load,
        payload_bytes: args.payload,
        logins_per_second: round(common.connections as f64 / ramp_seconds, 1),
        acked_per_second: per_second(stats.acked),
        delivered_per_second: per_second(stats.delivered),
        worst_second: stats.acked_in_second.iter().copied().min().unwrap_or(0),
        ack: stats.ack.summary(),
        push: stats.push.summary(),
        sent_late: args.rate.map(|_| stats.late.summary()),
        server_us_per_message: used.server_micros_per(stats.acked),
        used,
        marks: stats.marks,
        receipts: stats.receipts,
        heads_moved: stats.heads_moved,
        pulls: stats.pulls,
        refusals: stats.refusals,
        faults: stats.faults,
    };
    report::show(&report, common.json.as_deref())?;
    Ok(report.faults.is_none())
}

/// One thread's clients.
struct Shared {
    plan: Plan,
    phase: Cell<Phase>,
    /// When the phase began.
    since: Cell<u64>,
    stats: RefCell<Stats>,
}

/// What the two of a pair know of each other.
#[derive(Default)]
struct Pair {
    /// Something has changed for this side.
    wake: [Notify; 2],
    /// All sends of this side are answered; the highest seq among them.
    finished: [Cell<Option<Seq>>; 2],
}

async fn drive(plan: Plan, clients: Vec<Client>, mut phases: watch::Receiver<Phase>) -> Stats {
    let shared = Rc::new(Shared {
        plan,
        phase: Cell::new(Phase::Ready),
        since: Cell::new(clock::nanos()),
        stats: RefCell::default(),
    });
    let mut pairs = Vec::new();
    let mut talking = Vec::new();
    let mut clients = clients.into_iter();
    while let (Some(one), Some(other)) = (clients.next(), clients.next()) {
        let pair = Rc::new(Pair::default());
        let users = [one.user, other.user];
        let talk = |client, side: usize| {
            let talker = Talker::new(client, users[1 - side], side, pair.clone(), shared.clone());
            tokio::task::spawn_local(talker.talk())
        };
        talking.push((talk(one, 0), talk(other, 1)));
        pairs.push(pair);
    }
    loop {
        let phase = *phases.borrow_and_update();
        shared.phase.set(phase);
        shared.since.set(clock::nanos());
        pairs.iter().flat_map(|pair| &pair.wake).for_each(Notify::notify_one);
        if phase == Phase::Draining {
            break;
        }
        if phases.changed().await.is_err() {
            return Stats::default();
        }
    }
    let mut faults = Faults::default();
    for (one, other) in talking {
        match (one.await, other.await) {
            (Ok(one), Ok(other)) => faults.add(&judge(&one, &other)),
            _ => faults.disconnected += 2,
        }
    }
    let mut stats = shared.stats.take();
    stats.faults = faults;
    stats
}

struct Talker {
    client: Client,
    peer: UserId,
    conversation: ConversationId,
    side: usize,
    pair: Rc<Pair>,
    shared: Rc<Shared>,
    log: Log,
    /// When each was sent, or due.
    unanswered: HashMap<RequestId, (ClientSeq, u64)>,
    sent: u64,
    acked: Seq,
    /// With a fixed rate: when the next is due.
    due: Option<u64>,
    heartbeat: u64,
    mark_due: bool,
    pulling: Option<(RequestId, Seq)>,
}

/// The connection has ended.
struct Ended;

impl Talker {
    fn new(client: Client, peer: UserId, side: usize, pair: Rc<Pair>, shared: Rc<Shared>) -> Self {
        Self {
            peer,
            conversation: ConversationId::direct(client.user, peer),
            side,
            pair,
            log: Log::new(peer, shared.plan.payload_bytes),
            shared,
            unanswered: HashMap::new(),
            sent: 0,
            acked: Seq(0),
            due: None,
            heartbeat: clock::nanos() + HEARTBEAT_MS * 1_000_000 / 2,
            mark_due: false,
            pulling: None,
            client,
        }
    }

    async fn talk(mut self) -> Log {
        if self.converse().await.is_err() {
            self.log.faults().disconnected += 1;
        }
        self.log.faults().unanswered += self.unanswered.len() as u64;
        self.finished();
        self.client.finish().await;
        self.log
    }

    async fn converse(&mut self) -> Result<(), Ended> {
        let mut timer = pin!(sleep_until(Instant::now()));
        let pair = self.pair.clone();
        loop {
            for _ in 0..BATCH {
                match self.client.next_now() {
                    Some(received) => self.take(received.map_err(|_| Ended)?)?,
                    None => break,
                }
            }
            self.mark();
            self.send();
            if self.shared.phase.get() == Phase::Draining && self.is_done() {
                return Ok(());
            }
            let alarm = clock::instant(self.alarm());
            if timer.deadline() != alarm {
                timer.as_mut().reset(alarm);
            }
            tokio::select! {
                biased;
                received = self.client.next() => self.take(received.map_err(|_| Ended)?)?,
                () = pair.wake[self.side].notified() => {}
                () = &mut timer => self.on_alarm(),
            }
        }
    }

    fn take(&mut self, received: Received) -> Result<(), Ended> {
        match received {
            Received::Message(message) => self.on_message(message),
            Received::Heartbeat => {}
            Received::Closed => return Err(Ended),
        }
        Ok(())
    }

    fn on_message(&mut self, message: ServerMessage) {
        match message.body {
            ServerBody::SendOk(ok) => match self.unanswered.remove(&message.id) {
                Some((client_seq, since)) => {
                    self.log.on_ack(client_seq, &ok);
                    self.acked = self.acked.max(ok.seq);
                    self.measure(|stats, second| {
                        stats.acked += 1;
                        stats.ack.record(clock::nanos().saturating_sub(since));
                        if stats.acked_in_second.len() <= second {
                            stats.acked_in_second.resize(second + 1, 0);
                        }
                        stats.acked_in_second[second] += 1;
                    });
                }
                None => self.log.faults().duplicated += 1,
            },
            ServerBody::Push { entry, .. } => {
                let placed = self.log.on_push(&entry);
                self.placed(placed, entry.seq);
            }
            ServerBody::HeadMoved { head, .. } => {
                self.shared.stats.borrow_mut().heads_moved += 1;
                self.pull(head);
            }
            ServerBody::HistoryPage(page) => self.on_page(message.id, &page.entries, page.head),
            ServerBody::ReceiptsMoved(_) => self.measure(|stats, _| stats.receipts += 1),
            ServerBody::Error(error) => {
                self.unanswered.remove(&message.id);
                self.refused(format!("{}: {}", error.code, error.text));
            }
            other => self.refused(format!("{other:?}")),
        }
    }

    fn refused(&mut self, what: String) {
        self.log.faults().refused += 1;
        *self.shared.stats.borrow_mut().refusals.entry(what).or_default() += 1;
    }

    fn placed(&mut self, placed: Placed, seq: Seq) {
        match placed {
            Placed::Received(made) => {
                self.mark_due = true;
                self.measure(|stats, _| {
                    stats.delivered += 1;
                    stats.push.record(clock::nanos().saturating_sub(made));
                });
            }
            Placed::BehindGap => self.pull(seq),
            Placed::Own | Placed::Known => {}
        }
    }

    /// Counts, if it is the time to.
    fn measure(&self, count: impl FnOnce(&mut Stats, usize)) {
        if self.shared.phase.get() == Phase::Measuring {
            let second = (clock::nanos() - self.shared.since.get()) / 1_000_000_000;
            count(&mut self.shared.stats.borrow_mut(), second as usize);
        }
    }

    /// Asks for what was not pushed.
    fn pull(&mut self, target: Seq) {
        if target <= self.log.cursor() {
            return;
        }
        if let Some((_, highest)) = &mut self.pulling {
            *highest = target.max(*highest);
            return;
        }
        let from = HistoryFrom::Forward(self.log.cursor().next());
        let history = History { conversation: self.conversation, from, limit: 0 };
        let id = self.client.request(RequestBody::History(history));
        self.pulling = Some((id, target));
        self.shared.stats.borrow_mut().pulls += 1;
    }

    fn on_page(&mut self, id: RequestId, entries: &[Entry], head: Seq) {
        let Some((_, target)) = self.pulling.take_if(|(pulling, _)| *pulling == id) else {
            return self.refused("a page that nobody asked for".into());
        };
        for entry in entries {
            let placed = self.log.on_pulled(entry);
            self.placed(placed, entry.seq);
        }
        if !entries.is_empty() || head > self.log.cursor() {
            self.pull(target);
        }
    }

    fn mark(&mut self) {
        if !std::mem::take(&mut self.mark_due) {
            return;
        }
        let mark = Mark { conversation: self.conversation, delivered: self.log.cursor(), read: Seq(0) };
        // Number 0: nothing has to be answered.
        self.client.queue(&Request { id: RequestId(0), body: RequestBody::Mark(vec![mark]) });
        self.measure(|stats, _| stats.marks += 1);
    }

    fn send(&mut self) {
        let phase = self.shared.phase.get();
        if phase != Phase::Warmup && phase != Phase::Measuring {
            return;
        }
        match self.shared.plan.pace {
            Pace::Window(window) => {
                while self.unanswered.len() < window {
                    self.send_one(clock::nanos());
                }
            }
            Pace::Every { period, step } => {
                let now = clock::nanos();
                let first = || now + step * self.client.number as u64;
                let mut due = self.due.unwrap_or_else(first);
                while due <= now && self.unanswered.len() < IN_FLIGHT_MAX - 1 {
                    self.measure(|stats, _| stats.late.record(now - due));
                    self.send_one(due);
                    due += period;
                }
                self.due = Some(due);
            }
        }
    }

    fn send_one(&mut self, made: u64) {
        self.sent += 1;
        let client_seq = ClientSeq(self.sent);
        let payload = check::payload(made, client_seq, self.shared.plan.payload_bytes);
        let message = Message { content_type: "text/plain".into(), payload: payload.into(), reply_to: None };
        let send = Send { target: Target::User(self.peer), client_seq, change: Change::Message(message) };
        let id = self.client.request(RequestBody::Send(send));
        self.unanswered.insert(id, (client_seq, made));
    }

    /// The next time at which there is something to do.
    fn alarm(&self) -> u64 {
        let drained = self.shared.since.get() + DRAIN.as_nanos() as u64;
        match self.shared.phase.get() {
            Phase::Draining => drained.min(self.heartbeat),
            // With a full window the next answer is waited for, not the time.
            _ if self.unanswered.len() >= IN_FLIGHT_MAX - 1 => self.heartbeat,
            _ => self.due.map_or(self.heartbeat, |due| due.min(self.heartbeat)),
        }
    }

    fn on_alarm(&mut self) {
        let now = clock::nanos();
        if now >= self.heartbeat {
            self.client.heartbeat();
            self.heartbeat = now + HEARTBEAT_MS * 1_000_000 / 2;
        }
    }

    /// Whether both have their answers and everything that was acknowledged; or it has taken too long.
    fn is_done(&mut self) -> bool {
        if self.unanswered.is_empty() {
            self.finished();
        }
        let [one, other] = [0, 1].map(|side| self.pair.finished[side].get());
        let complete = one.zip(other).is_some_and(|(one, other)| self.log.cursor() >= one.max(other));
        complete || clock::nanos() - self.shared.since.get() > DRAIN.as_nanos() as u64
    }

    fn finished(&self) {
        if self.pair.finished[self.side].replace(Some(self.acked)).is_none() {
            self.pair.wake[1 - self.side].notify_one();
        }
    }
}
