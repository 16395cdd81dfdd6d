//! The clients of the relay: they send, and mark what they get, as those of the scenarios do, and count frames.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tern_client::Transport;
use tern_client::raw::{Connector, ReceiveError, Receiver, Sender};
use tern_protocol::frame::Frame;
use tern_protocol::limits::IN_FLIGHT_MAX;
use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use super::FloorPlan;
use super::frames::{Frames, Kind};
use super::relay::{Greeting, Introduction};
use crate::Error;
use crate::clock;
use crate::pace::{Pace, Schedule};

/// Clients that share a UDP socket and TLS session tickets.
const CLIENTS_PER_CONNECTOR: usize = 50;
/// Received frames of one client before the others of its thread get their turn.
const BATCH: usize = 128;
/// One request in flight is left for other things, as in the scenarios.
const SENDS_MAX: usize = IN_FLIGHT_MAX - 1;
/// What is under way at the end of a slice has this long.
const DRAIN: Duration = Duration::from_secs(20);

/// Whether the clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No, and none has.
    Ready,
    /// Yes.
    Talking,
    /// No longer.
    Silent,
}

/// What was sent and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages.
    pub(super) sent: u64,
    pub(super) acks: u64,
    /// One for each message and member.
    pub(super) pushes: u64,
    /// Among them those of the sender's own.
    pub(super) own_pushes: u64,
    pub(super) marks: u64,
    pub(super) receipts: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        let Self { sent, acks, pushes, own_pushes, marks, receipts } = other;
        self.sent += sent;
        self.acks += acks;
        self.pushes += pushes;
        self.own_pushes += own_pushes;
        self.marks += marks;
        self.receipts += receipts;
    }
}

/// All clients, connected.
pub(super) struct Talkers {
    phase: watch::Sender<Phase>,
    threads: Vec<thread::JoinHandle<Result<(), Error>>>,
    /// A thread has everything that was sent.
    quiet: std_mpsc::Receiver<Counts>,
}

impl Talkers {
    /// Connects them, threads each with its share of the groups.
    pub(super) fn connect(plan: &FloorPlan, relay: &Greeting) -> Result<Self, Error> {
        let groups = plan.groups();
        let threads = plan.threads.clamp(1, groups);
        let per_thread = groups.div_ceil(threads);
        let (phase, _) = watch::channel(Phase::Ready);
        let (connected, connections) = std_mpsc::channel();
        let (said_quiet, quiet) = std_mpsc::channel();
        let target = Arc::new((relay.address.to_string(), relay.ca.clone()));
        let shares = (0..groups).step_by(per_thread).map(|first| first..(first + per_thread).min(groups));
        let spawn = |share: std::ops::Range<usize>| {
            let (plan, target, phase) = (*plan, target.clone(), phase.subscribe());
            let (connected, said_quiet) = (connected.clone(), said_quiet.clone());
            let ramp = (plan.ramp / threads).max(1);
            let run = async move || {
                let clients = connect_all(&plan, &target.0, target.1.as_bytes(), share, ramp).await?;
                // Nobody waits for it any more when another thread has failed.
                let _ = connected.send(());
                drop(connected);
                talk_all(&plan, clients, phase, &said_quiet).await
            };
            thread::Builder::new()
                .name("tern-bench-floor".into())
                .spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    let runtime = runtime.map_err(Error::io("cannot start a runtime"))?;
                    runtime.block_on(LocalSet::new().run_until(run()))
                })
                .map_err(Error::io("cannot start a thread"))
        };
        let threads = shares.map(spawn).collect::<Result<Vec<_>, _>>()?;
        drop((connected, said_quiet));
        let talkers = Self { phase, threads, quiet };
        if connections.iter().count() < talkers.threads.len() {
            return Err(talkers.end());
        }
        Ok(talkers)
    }

    /// Talks for a while, and waits until everything has arrived.
    pub(super) fn talk(&mut self, duration: Duration) -> Result<Counts, Error> {
        self.phase.send_replace(Phase::Talking);
        thread::sleep(duration);
        self.phase.send_replace(Phase::Silent);
        let mut sum = Counts::default();
        for _ in 0..self.threads.len() {
            match self.quiet.recv_timeout(DRAIN) {
                Ok(counts) => sum.add(counts),
                Err(std_mpsc::RecvTimeoutError::Timeout) => {
                    return Err(Error::Server("the relay has lost messages".into()));
                }
                Err(std_mpsc::RecvTimeoutError::Disconnected) => return Err(self.end_threads()),
            }
        }
        Ok(sum)
    }

    fn end(mut self) -> Error {
        self.end_threads()
    }

    /// Why a thread has ended.
    fn end_threads(&mut self) -> Error {
        self.phase = watch::channel(Phase::Ready).0;
        let ends = self.threads.drain(..).map(|thread| thread.join().unwrap_or(Err(Error::Driver)));
        ends.filter_map(Result::err).next().unwrap_or(Error::Driver)
    }
}

impl Drop for Talkers {
    fn drop(&mut self) {
        self.end_threads();
    }
}

/// A connection that the relay knows by its name.
struct Client {
    name: Introduction,
    sender: Sender,
    receiver: Receiver,
    /// The connection closes with its last handle.
    _quic: Option<quinn::Connection>,
}

async fn connect_all(
    plan: &FloorPlan,
    address: &str,
    ca: &[u8],
    groups: std::ops::Range<usize>,
    at_once: usize,
) -> Result<Vec<Client>, Error> {
    let first = groups.start * plan.members;
    let count = groups.len() * plan.members;
    let connectors = (0..count.div_ceil(CLIENTS_PER_CONNECTOR))
        .map(|_| Connector::new(address, None, ca))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Server(error.to_string()))?;
    let connectors = &connectors;
    stream::iter(first..first + count)
        .map(|number| async move {
            let name = Introduction { number: number as u32, group: (number / plan.members) as u32 };
            // Not in a row, so that sockets are used evenly from the start.
            let connector = &connectors[number % connectors.len()];
            connect(connector, plan.transport, name)
                .await
                .map_err(|problem| Error::Scenario(format!("floor, client {number}: {problem}")))
        })
        .buffered(at_once)
        .try_collect()
        .await
}

async fn connect(connector: &Connector, transport: Transport, name: Introduction) -> Result<Client, String> {
    let mut connection = connector.connect(transport).await.map_err(|error| error.to_string())?;
    connection.send_bytes(&name.encode()).await.map_err(|error| error.to_string())?;
    let (sender, mut receiver, quic) = connection.into_split();
    match receiver.recv_frame().await.map_err(|error| error.to_string())? {
        Some(Frame::Heartbeat) => Ok(Client { name, sender, receiver, _quic: quic }),
        other => Err(format!("the relay has said {other:?}")),
    }
}

/// One thread's clients.
struct Shared {
    frames: Frames,
    pace: Pace,
    members: u64,
    /// In nanoseconds.
    mark_interval: u64,
    talking: Cell<bool>,
    counts: Cell<Counts>,
    changed: Notify,
}

impl Shared {
    /// When what comes now is to be marked; 0: at once.
    fn mark_after(&self) -> u64 {
        if self.mark_interval == 0 { 0 } else { clock::nanos() + self.mark_interval }
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        count(&mut counts);
        self.counts.set(counts);
        if !self.talking.get() && self.is_quiet() {
            self.changed.notify_one();
        }
    }

    /// Whether everything that was sent has arrived everywhere.
    fn is_quiet(&self) -> bool {
        let counts = self.counts.get();
        counts.acks == counts.sent
            && counts.own_pushes == counts.sent
            && counts.pushes == counts.sent * self.members
    }
}

async fn talk_all(
    plan: &FloorPlan,
    clients: Vec<Client>,
    mut phases: watch::Receiver<Phase>,
    said_quiet: &std_mpsc::Sender<Counts>,
) -> Result<(), Error> {
    let shared = Rc::new(Shared {
        frames: Frames::new(plan.payload_bytes, plan.members),
        pace: plan.pace,
        members: plan.members as u64,
        mark_interval: plan.mark_interval.as_nanos() as u64,
        talking: Cell::new(false),
        counts: Cell::default(),
        changed: Notify::new(),
    });
    let wakes: Vec<Rc<Notify>> = clients.iter().map(|_| Rc::default()).collect();
    let talk = |(client, wake): (Client, &Rc<Notify>)| {
        let number = client.name.number as usize;
        let talker = Talker::new(client, plan.place_of_sender(number), wake.clone(), shared.clone());
        tokio::task::spawn_local(async move { (number, talker.talk().await) })
    };
    let mut talking: FuturesUnordered<_> = clients.into_iter().zip(&wakes).map(talk).collect();
    let mut waits = false;
    loop {
        tokio::select! {
            changed = phases.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let talking = *phases.borrow_and_update() == Phase::Talking;
                waits = !talking;
                shared.talking.set(talking);
                if talking {
                    shared.counts.take();
                }
                wakes.iter().for_each(|wake| wake.notify_one());
            }
            () = shared.changed.notified(), if waits => {}
            Some(ended) = talking.next() => {
                let (client, problem) = ended.map_err(|_| Error::Driver)?;
                return Err(Error::Scenario(format!("floor, client {client}: its connection to the relay: {problem}")));
            }
        }
        if waits && shared.is_quiet() {
            waits = false;
            // Nobody listens when another thread has failed.
            let _ = said_quiet.send(shared.counts.get());
        }
    }
}

struct Talker {
    client: Client,
    shared: Rc<Shared>,
    wake: Rc<Notify>,
    /// Among those who send, if it does.
    place: Option<usize>,
    out: BytesMut,
    unflushed: bool,
    unanswered: usize,
    /// When "delivered" is to be said.
    mark_at: Option<u64>,
    /// With a rate, while it talks.
    schedule: Option<Schedule>,
    payload: Vec<u8>,
}

impl Talker {
    fn new(client: Client, place: Option<usize>, wake: Rc<Notify>, shared: Rc<Shared>) -> Self {
        let mut payload = vec![0; shared.frames.payload_bytes];
        (&mut payload[..]).put_u32(client.name.number);
        Self {
            client,
            shared,
            wake,
            place,
            out: BytesMut::new(),
            unflushed: false,
            unanswered: 0,
            mark_at: None,
            schedule: None,
            payload,
        }
    }

    /// Ends with the connection.
    async fn talk(mut self) -> ReceiveError {
        let mut timer = pin!(sleep_until(Instant::now()));
        let wake = self.wake.clone();
        loop {
            for _ in 0..BATCH {
                match self.client.receiver.recv_frame().now_or_never() {
                    Some(Ok(frame)) => {
                        if let Err(end) = self.take(frame) {
                            return end;
                        }
                    }
                    Some(Err(end)) => return end,
                    None => break,
                }
            }
            self.mark();
            self.send();
            self.unflushed |= !self.out.is_empty();
            let due = self.schedule.filter(|_| self.shared.talking.get() && self.unanswered < SENDS_MAX);
            let alarm = due.map(|schedule| schedule.due()).into_iter().chain(self.mark_at).min();
            let alarm = alarm.map(clock::instant);
            if let Some(alarm) = alarm.filter(|alarm| *alarm != timer.deadline()) {
                timer.as_mut().reset(alarm);
            }
            let Self { client: Client { sender, receiver, .. }, out, unflushed, .. } = &mut self;
            tokio::select! {
                biased;
                written = sender.write_some(out), if *unflushed => match written {
                    Ok(written) => *unflushed = written > 0 || !out.is_empty(),
                    Err(error) => return error.into(),
                },
                frame = receiver.recv_frame() => {
                    if let Err(end) = frame.and_then(|frame| self.take(frame)) {
                        return end;
                    }
                }
                () = wake.notified() => self.schedule = None,
                () = &mut timer, if alarm.is_some() => {}
            }
        }
    }

    fn take(&mut self, frame: Option<Frame>) -> Result<(), ReceiveError> {
        let odd = |what: &str| ReceiveError::Io(io::Error::new(io::ErrorKind::InvalidData, what));
        let message = match frame {
            Some(Frame::Message(message)) => message,
            Some(Frame::Heartbeat) => return Ok(()),
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        };
        match self.shared.frames.kind(&message) {
            Some(Kind::Push(payload)) => {
                let own = payload == self.payload;
                if !own {
                    self.mark_at.get_or_insert_with(|| self.shared.mark_after());
                }
                self.shared.count(|counts| {
                    counts.pushes += 1;
                    counts.own_pushes += u64::from(own);
                });
            }
            Some(Kind::Ack) => {
                self.unanswered = self.unanswered.checked_sub(1).ok_or(odd("an ack for nothing"))?;
                self.shared.count(|counts| counts.acks += 1);
            }
            Some(Kind::Receipt) => self.shared.count(|counts| counts.receipts += 1),
            Some(Kind::Send(_) | Kind::Mark) | None => return Err(odd("a frame that no relay sends")),
        }
        Ok(())
    }

    fn mark(&mut self) {
        if self.mark_at.take_if(|due| *due == 0 || *due <= clock::nanos()).is_some() {
            let mark: &Bytes = &self.shared.frames.mark;
            self.out.extend_from_slice(mark);
            self.shared.count(|counts| counts.marks += 1);
        }
    }

    fn send(&mut self) {
        let Some(place) = self.place.filter(|_| self.shared.talking.get()) else { return };
        match self.shared.pace {
            Pace::Window(window) => {
                while self.unanswered < window {
                    self.send_one();
                }
            }
            Pace::Every { period, step } => {
                let mut schedule = self.schedule.unwrap_or_else(|| Schedule::start(period, step, place));
                let now = clock::nanos();
                while schedule.due() <= now && self.unanswered < SENDS_MAX {
                    self.send_one();
                    schedule.sent();
                }
                self.schedule = Some(schedule);
            }
        }
    }

    fn send_one(&mut self) {
        self.unanswered += 1;
        self.shared.frames.put_send(&self.payload, &mut self.out);
        self.shared.count(|counts| counts.sent += 1);
    }
}
