//! Datagrams: a flow for each client address, with a socket of its own towards the server.
//!
//! One task waits for the clients, one for each flow's server socket, and one for the time at which the next delayed
//! datagram is due. All delayed datagrams are in one queue. What a flow's device goes through (another port, death) is
//! looked up when something of the flow comes in; nothing has to happen while nothing does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::schedule::{Direction, Fate, Path};
use super::{FLOWS_MAX, FlowNumbers, Link};

/// A datagram is never longer.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Read from one socket before the others get their turn.
const BATCH: usize = 64;
/// Kept in the kernel while the thread is busy with others; the system may allow less.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Delayed datagrams of all flows.
const DELAYED_MAX: usize = 65_536;
/// Delayed datagrams of one flow.
const FLOW_DELAYED_MAX: usize = 8192;
/// What is held back goes on after this even if nothing overtakes it.
const HELD_MAX: Duration = Duration::from_millis(20);

pub(super) async fn run(socket: std::net::UdpSocket, link: Link) -> io::Result<()> {
    enlarge(&socket);
    let udp = Rc::new(Udp {
        clients: UdpSocket::from_std(socket)?,
        link,
        state: RefCell::default(),
        buffer: RefCell::new(vec![0; DATAGRAM_BYTES_MAX]),
        alarm: Cell::new(None),
        sooner: Notify::new(),
    });
    tokio::select! {
        ended = udp.listen() => ended,
        () = udp.deliver_in_time() => Ok(()),
    }
}

struct Udp {
    clients: UdpSocket,
    link: Link,
    state: RefCell<State>,
    /// What is read comes here first.
    buffer: RefCell<Vec<u8>>,
    /// When [`Self::deliver_in_time`] looks again, and what makes it look earlier.
    alarm: Cell<Option<Duration>>,
    sooner: Notify,
}

#[derive(Default)]
struct State {
    flows: HashMap<SocketAddr, Flow>,
    numbers: FlowNumbers,
    delayed: BTreeMap<Place, Delayed>,
    serial: u64,
}

/// In the queue: when it is due, and what came first.
type Place = (Duration, u64);

struct Delayed {
    client: SocketAddr,
    direction: Direction,
    datagram: Box<[u8]>,
}

struct Flow {
    path: Path,
    upstream: Upstream,
    /// Of its device, when the upstream socket was made.
    address_changes: u64,
    /// Of its device, when the flow began.
    deaths: u64,
    dead: bool,
    last_heard: Duration,
    delayed: usize,
    held: [Vec<Held>; 2],
}

/// A datagram that others have to overtake.
struct Held {
    place: Place,
    overtaken_by: u64,
}

/// A socket towards the server, and who reads it.
struct Upstream {
    socket: Rc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Udp {
    async fn listen(self: &Rc<Self>) -> io::Result<()> {
        loop {
            self.clients.readable().await?;
            for _ in 0..BATCH {
                let mut buffer = self.buffer.borrow_mut();
                match self.clients.try_recv_from(&mut buffer) {
                    Ok((bytes, client)) => self.on_client(client, &buffer[..bytes]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // About a datagram that was sent before.
                    Err(_) => {}
                }
            }
            self.deliver();
            tokio::task::yield_now().await;
        }
    }

    fn on_client(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let now = self.link.now();
        let mut state = self.state.borrow_mut();
        if !state.flows.contains_key(&client) && self.open(&mut state, client, now).is_err() {
            self.link.count(|counters| counters.refused += 1);
            return;
        }
        let Some(flow) = state.flows.get_mut(&client) else { return };
        flow.last_heard = now;
        if flow.is_dead(now) {
            return;
        }
        let address_changes = flow.path.address_changes(now);
        if flow.address_changes != address_changes {
            match self.upstream(client) {
                Ok(upstream) => flow.upstream = upstream,
                Err(_) => return,
            }
            flow.address_changes = address_changes;
            flow.path.count(|counters| counters.moved += 1);
        }
        state.take(client, Direction::ToServer, now, datagram);
    }

    fn open(self: &Rc<Self>, state: &mut State, client: SocketAddr, now: Duration) -> io::Result<()> {
        if state.flows.len() >= FLOWS_MAX {
            let oldest = state.flows.iter().min_by_key(|(_, flow)| flow.last_heard);
            if let Some(oldest) = oldest.map(|(client, _)| *client) {
                state.flows.remove(&oldest);
                state.delayed.retain(|_, delayed| delayed.client != oldest);
                self.link.count(|counters| counters.refused += 1);
            }
        }
        let upstream = self.upstream(client)?;
        let path = self.link.path(client.ip(), state.numbers.next(client.ip()));
        let flow = Flow {
            upstream,
            address_changes: path.address_changes(now),
            deaths: path.deaths(now),
            dead: false,
            last_heard: now,
            delayed: 0,
            held: Default::default(),
            path,
        };
        state.flows.insert(client, flow);
        Ok(())
    }

    fn upstream(self: &Rc<Self>, client: SocketAddr) -> io::Result<Upstream> {
        let local: SocketAddr = match self.link.server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = std::net::UdpSocket::bind(local)?;
        socket.connect(self.link.server)?;
        socket.set_nonblocking(true)?;
        enlarge(&socket);
        let socket = Rc::new(UdpSocket::from_std(socket)?);
        let reader = tokio::task::spawn_local(self.clone().read(client, socket.clone()));
        Ok(Upstream { socket, reader })
    }

    async fn read(self: Rc<Self>, client: SocketAddr, upstream: Rc<UdpSocket>) {
        while upstream.readable().await.is_ok() {
            for _ in 0..BATCH {
                let mut buffer = self.buffer.borrow_mut();
                match upstream.try_recv(&mut buffer) {
                    Ok(bytes) => self.on_server(client, &buffer[..bytes]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Nobody listens there at the moment.
                    Err(_) => {}
                }
            }
            self.deliver();
            tokio::task::yield_now().await;
        }
    }

    fn on_server(&self, client: SocketAddr, datagram: &[u8]) {
        let now = self.link.now();
        let mut state = self.state.borrow_mut();
        let Some(flow) = state.flows.get_mut(&client) else { return };
        if flow.is_dead(now) {
            return;
        }
        if flow.address_changes != flow.path.address_changes(now) {
            flow.path.count(|counters| counters.astray += 1);
            return;
        }
        state.take(client, Direction::ToClient, now, datagram);
    }

    /// Sends what is due, and sees to it that the rest is sent in time.
    fn deliver(&self) {
        let next = self.send_due();
        if next.is_some_and(|next| self.alarm.get().is_none_or(|alarm| next < alarm)) {
            self.sooner.notify_one();
        }
    }

    async fn deliver_in_time(&self) {
        loop {
            let next = self.send_due();
            self.alarm.set(next);
            tokio::select! {
                () = self.link.wait_until(next) => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    /// Sends what is due. Returns when there is more.
    fn send_due(&self) -> Option<Duration> {
        let now = self.link.now();
        let mut state = self.state.borrow_mut();
        let State { flows, delayed, .. } = &mut *state;
        while let Some(first) = delayed.first_entry() {
            if first.key().0 > now {
                return Some(first.key().0);
            }
            let Delayed { client, direction, datagram } = first.remove();
            let Some(flow) = flows.get_mut(&client) else { continue };
            flow.delayed -= 1;
            // Not by way of the runtime, which takes a new socket for one that cannot be written yet.
            let sent = match direction {
                Direction::ToServer => SockRef::from(&*flow.upstream.socket).send(&datagram),
                Direction::ToClient => SockRef::from(&self.clients).send_to(&datagram, &client.into()),
            };
            // A buffer is full, or nobody listens: a network would not say so either.
            if sent.is_err() {
                flow.path.count(|counters| counters.overflowed += 1);
            }
        }
        None
    }
}

impl State {
    /// Puts a datagram into the queue, if it is to arrive.
    fn take(&mut self, client: SocketAddr, direction: Direction, now: Duration, datagram: &[u8]) {
        let Some(flow) = self.flows.get_mut(&client) else { return };
        if flow.delayed >= FLOW_DELAYED_MAX || self.delayed.len() >= DELAYED_MAX {
            flow.path.count(|counters| counters.overflowed += 1);
            return;
        }
        let fate = flow.path.datagram(direction, now, datagram.len());
        let (due, overtaken_by, copies) = match fate {
            Fate::Arrives(due) => (due, 0, 1),
            Fate::ArrivesTwice(due) => (due, 0, 2),
            Fate::IsHeld { due, overtaken_by } => (due + HELD_MAX, overtaken_by, 1),
            Fate::Dropped => return,
        };
        let place = (due, self.serial);
        for _ in 0..copies {
            flow.delayed += 1;
            self.delayed.insert((due, self.serial), Delayed { client, direction, datagram: datagram.into() });
            self.serial += 1;
        }
        let held = &mut flow.held[direction as usize];
        if overtaken_by > 0 {
            held.push(Held { place, overtaken_by });
            return;
        }
        held.retain_mut(|held| {
            held.overtaken_by -= 1;
            if held.overtaken_by > 0 {
                return held.place.0 > now;
            }
            // Right behind the one that has just come; unless it has been sent in the meantime.
            if held.place > place
                && let Some(delayed) = self.delayed.remove(&held.place)
            {
                self.delayed.insert((due, self.serial), delayed);
                self.serial += 1;
            }
            false
        });
    }
}

impl Flow {
    fn is_dead(&mut self, now: Duration) -> bool {
        if !self.dead && self.path.deaths(now) != self.deaths {
            self.dead = true;
            self.path.count(|counters| counters.died += 1);
        }
        self.dead
    }
}

/// More room for datagrams that come while the thread is busy: what the kernel drops is not in the plan.
fn enlarge(socket: &std::net::UdpSocket) {
    // What the system does not allow has to do.
    let _ = SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
}
