//! A bad network in front of a server: forwards TCP and UDP from one loopback address, with faults that a seed repeats.
//!
//! - [`plan`]: what goes wrong: options and presets.
//! - `schedule`: when: the machine, without sockets or a clock; `dice`: its random numbers.
//! - `udp`, `tcp`: the flows.
//! - [`clock`]: the one that its times are on.
//! - [`counters`]: what has happened.
//!
//! # What it does to TCP
//! A proxy has no segments, it has a stream that it must not tear. So it reads chunks of up to a segment's length and
//! treats each as a packet. A lost one, or one that is sent in a blackout, arrives when a retransmission would: after a
//! round trip and [`plan::FaultPlan::rto_ms`], then after twice that and so on, and everything behind it waits, as it
//! does in a receiver's kernel. There is no fast retransmission: it takes three segments behind the lost one, which a
//! chat seldom has. A connection opens after a round trip more, whose two packets may be lost as well (and come a second
//! later). Congestion control sees nothing of all this: the kernels on both sides talk to the proxy without a fault.
//!
//! # Limits
//! It takes up to 4,096 flows over each transport, and two file descriptors for a TCP connection, one for a flow of
//! datagrams. Delays are as exact as the timer, a millisecond. All runs on one thread.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::LocalSet;

use counters::{Counters, Shared};
use plan::FaultPlan;
use schedule::{Path, Timetable};

pub mod clock;
pub mod counters;
mod dice;
pub mod plan;
mod schedule;
mod tcp;
mod udp;

/// Flows of one transport at a time.
const FLOWS_MAX: usize = 4096;
/// Devices whose flows are numbered. Those of more all begin with the first number.
const DEVICES_MAX: usize = 65_536;
/// Tries to find a port that is free for both transports.
const PORT_TRIES: usize = 16;

/// A running proxy. It stops when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens, over TCP and UDP.
    pub address: SocketAddr,
    forecast: Forecast,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one in front of this server.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: a [`plan::PlanError`]. Others: what the system refuses.
    pub fn start(server: SocketAddr, plan: FaultPlan, seed: u64) -> io::Result<Self> {
        plan.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let (listener, socket) = bind()?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let forecast = Forecast { plan, seed, start: clock::nanos(), events_from: Duration::ZERO };
        let shared =
            Arc::new(if plan.first_event_ms.is_some() { Shared::waiting() } else { Shared::default() });
        let link = Link { server, forecast, shared: shared.clone() };
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || {
            let forward = async {
                tokio::select! {
                    _ = stopped => Ok(()),
                    ended = tcp::run(listener, link.clone()) => ended,
                    ended = udp::run(socket, link.clone()) => ended,
                }
            };
            if let Err(error) = runtime.block_on(LocalSet::new().run_until(forward)) {
                eprintln!("the proxy has ended: {error}");
            }
        })?;
        Ok(Self { address, forecast, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Blackouts, address changes and deaths come from now on, if they have a [`FaultPlan::first_event_ms`] and have waited
    /// for it.
    pub fn begin_events(&self) {
        self.shared.begin_events(self.forecast.now());
    }

    /// From now on there is only delay and the rate, so that what is under way can finish. Flows that are dead stay so, and
    /// so does a network without UDP.
    pub fn calm_down(&self) {
        self.shared.calm_down(self.forecast.now());
    }

    /// What is going to happen. Events that have not begun are not in it.
    pub fn forecast(&self) -> Forecast {
        Forecast { events_from: self.shared.events_from(), ..self.forecast }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

/// The loopback address of a device with this number, for clients who are one each.
pub fn device_address(number: usize) -> IpAddr {
    // From 127.1.0.0 on, and in the end from the beginning again.
    let number = u32::try_from(number % 0xf0_0000).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number))
}

/// The same port over both transports.
fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = 0;
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match UdpSocket::bind(listener.local_addr()?) {
            Ok(socket) => {
                listener.set_nonblocking(true)?;
                socket.set_nonblocking(true)?;
                return Ok((listener, socket));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < PORT_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// What is going to happen to whom.
#[derive(Debug, Clone, Copy)]
pub struct Forecast {
    plan: FaultPlan,
    seed: u64,
    /// On [`clock`].
    start: u64,
    /// From the start until the times of events count.
    events_from: Duration,
}

impl Forecast {
    /// The times at which a device can get through again.
    pub fn recoveries(&self, device: IpAddr) -> Recoveries {
        let way = Duration::from_millis(self.plan.delay_ms + self.plan.jitter_ms);
        let times = Timetable::new(&self.plan, self.seed, device);
        let events_from = u64::try_from(self.events_from.as_nanos()).unwrap_or(u64::MAX);
        let start = self.start.saturating_add(events_from);
        Recoveries { times, start, way, seen: Duration::ZERO, waiting: None }
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(clock::nanos().saturating_sub(self.start))
    }
}

/// Measures how long it takes until something is answered, each time when a device can get through again: a blackout
/// has ended, its address has changed, its flows have died.
#[derive(Debug, Clone)]
pub struct Recoveries {
    times: Timetable,
    /// What its times count from.
    start: u64,
    /// What was on its way by then does not count.
    way: Duration,
    seen: Duration,
    waiting: Option<u64>,
}

impl Recoveries {
    /// What was due at `made` is answered now (both on [`clock`]). `Some`: it is the first answer since then, after so
    /// many nanoseconds, counted from when it was due if that was later.
    pub fn answered(&mut self, made: u64, now: u64) -> Option<u64> {
        let until = Duration::from_nanos(now.saturating_sub(self.start)).saturating_sub(self.way);
        while let Some(at) = self.times.next_recovery(self.seen).filter(|at| *at <= until) {
            self.seen = at;
            self.waiting.get_or_insert(self.start.saturating_add(at.as_nanos() as u64));
        }
        self.waiting.take().map(|since| now.saturating_sub(since.max(made)))
    }
}

/// What all flows share.
#[derive(Debug, Clone)]
struct Link {
    server: SocketAddr,
    forecast: Forecast,
    shared: Arc<Shared>,
}

impl Link {
    fn now(&self) -> Duration {
        self.forecast.now()
    }

    fn path(&self, device: IpAddr, flow: u64) -> Path {
        let Forecast { plan, seed, .. } = &self.forecast;
        Path::new(plan, *seed, device, flow, self.shared.clone())
    }

    fn count(&self, count: impl FnOnce(&mut Counters)) {
        self.shared.count(count);
    }

    /// Waits until then; for ever, if there is no time.
    fn wait_until(&self, time: Option<Duration>) -> impl Future<Output = ()> + use<> {
        let start = self.forecast.start;
        let time = time.map(|time| start.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
        async move {
            match time {
                Some(time) => tokio::time::sleep_until(clock::instant(time)).await,
                None => std::future::pending().await,
            }
        }
    }
}

/// Counts each device's flows.
#[derive(Debug, Default)]
struct FlowNumbers(HashMap<IpAddr, u64>);

impl FlowNumbers {
    fn next(&mut self, device: IpAddr) -> u64 {
        if self.0.len() >= DEVICES_MAX && !self.0.contains_key(&device) {
            return 0;
        }
        let next = self.0.entry(device).or_default();
        *next += 1;
        *next - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_ends_with_the_first_answer() {
        const MS: u64 = 1_000_000;
        let plan = FaultPlan { delay_ms: 20, address_change_every_ms: Some(1000), ..FaultPlan::default() };
        let forecast = Forecast { plan, seed: 1, start: 5000 * MS, events_from: Duration::ZERO };
        let device = device_address(7);
        let change = Timetable::new(&plan, 1, device).next_recovery(Duration::ZERO).expect("every second");
        let change = forecast.start + change.as_nanos() as u64;
        let mut recoveries = forecast.recoveries(device);
        assert_eq!(recoveries.answered(change - MS, change + 19 * MS), None, "it was on its way");
        assert_eq!(recoveries.answered(change - MS, change + 50 * MS), Some(50 * MS));
        assert_eq!(recoveries.answered(change - MS, change + 60 * MS), None);
        let next = change + 1000 * MS;
        assert_eq!(recoveries.answered(next + 400 * MS, next + 450 * MS), Some(50 * MS), "it was due later");
        let seconds = 3 * 1000 * MS;
        assert_eq!(
            recoveries.answered(change, next + seconds),
            Some(seconds - 1000 * MS),
            "the first of three"
        );
    }

    #[test]
    fn devices_have_addresses_of_their_own() {
        assert_eq!(device_address(0), IpAddr::from([127, 1, 0, 0]));
        assert_eq!(device_address(258), IpAddr::from([127, 1, 1, 2]));
        assert!((0..0x100_0000).step_by(4099).all(|number| device_address(number).is_loopback()));
    }
}
