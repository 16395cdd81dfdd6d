//! Clients who mean harm, and the newcomers who want to get in meanwhile.
//!
//! - `before`: those who have no token. - `after`: those who have one.

mod after;
mod before;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tern_client::Transport;
use tern_client::raw::Connector;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::Error;
use crate::client::{Account, Client};
use crate::server::Server;
use crate::stats::Latencies;

/// Addresses that an attacker has: the limits of one are not what is looked for alone.
const ADDRESSES: u8 = 16;
/// Accounts that an attacker has, each with a connection.
pub const ACCOUNTS: usize = 16;
/// Between two newcomers.
const NEWCOMERS_EVERY: Duration = Duration::from_millis(100);

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// TCP connections that say nothing
    Silent,
    /// TCP connections whose TLS handshake comes a byte a second
    SlowHandshakes,
    /// QUIC connections that begin, and never go on
    HalfOpenQuic,
    /// Handshakes, and then a login with a token that is none
    BadLogins,
    /// Handshakes, and then requests without a login
    BeforeLogin,
    /// Frames that are announced as long as may be, and of which a byte a second comes
    LengthBombs,
    /// Frames as long as may be, full of fields as small as may be
    TinyFields,
    /// Requests for pages of history, of which no answer is read
    DeepPipelining,
    /// Watermarks beyond every head, of conversations that are not there
    FalseMarks,
    /// Short requests as fast as they go out: the conversation list, and what has happened since
    Queries,
    /// Messages to groups as large as may be
    GiantGroups,
}

impl Attack {
    /// As figures name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::SlowHandshakes => "slow_handshakes",
            Self::HalfOpenQuic => "half_open_quic",
            Self::BadLogins => "bad_logins",
            Self::BeforeLogin => "before_login",
            Self::LengthBombs => "length_bombs",
            Self::TinyFields => "tiny_fields",
            Self::DeepPipelining => "deep_pipelining",
            Self::FalseMarks => "false_marks",
            Self::Queries => "queries",
            Self::GiantGroups => "giant_groups",
        }
    }
}

/// Who is attacked, with what.
#[derive(Debug, Clone)]
pub struct Target {
    address: SocketAddr,
    name: String,
    ca: Vec<u8>,
    transport: Transport,
    accounts: Vec<Account>,
    held: usize,
    attempts: u32,
    count: Arc<AtomicU64>,
}

impl Target {
    /// This server. `held` connections and `attempts` a second are what the attacker can do.
    ///
    /// # Errors
    /// When it has no address, or no tokens can be made.
    pub fn new(server: &Server, transport: Transport, held: u32, attempts: u32) -> Result<Self, Error> {
        let mut addresses =
            server.address.to_socket_addrs().map_err(Error::io(format!("cannot find {}", server.address)))?;
        let address =
            addresses.next().ok_or_else(|| Error::Server(format!("{} has no address", server.address)))?;
        Ok(Self {
            address,
            name: server.address.clone(),
            ca: server.ca.clone(),
            transport,
            accounts: server.accounts(ACCOUNTS)?,
            held: held as usize,
            attempts,
            count: Arc::default(),
        })
    }

    /// One of the attacker's addresses, when server and attacker are on one machine.
    fn source(&self, number: usize) -> Option<IpAddr> {
        let number = u8::try_from(number % usize::from(ADDRESSES)).unwrap_or_default();
        (self.address.is_ipv4() && self.address.ip().is_loopback())
            .then(|| Ipv4Addr::new(127, 0, 0, 100 + number).into())
    }

    fn connector(&self, number: usize) -> Result<Connector, Error> {
        let connector = connector(&self.name, &self.ca)?;
        Ok(match self.source(number) {
            Some(source) => connector.source(source),
            None => connector,
        })
    }

    fn counted(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everybody comes without a ticket: what costs the server most.
fn connector(name: &str, ca: &[u8]) -> Result<Connector, Error> {
    let connector = Connector::new(name, None, ca).and_then(Connector::without_resumption);
    connector.map_err(|error| Error::Server(error.to_string()))
}

/// A thread that does something until it is told to end.
struct Worker {
    stop: watch::Sender<()>,
    thread: thread::JoinHandle<Result<(), Error>>,
}

impl Worker {
    fn start(
        name: &str,
        work: impl AsyncFnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (stop, mut stopped) = watch::channel(());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(Error::io("cannot start a runtime"))?;
            runtime.block_on(LocalSet::new().run_until(async move {
                tokio::select! {
                    done = work() => done,
                    _ = stopped.changed() => Ok(()),
                }
            }))
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run);
        Ok(Self { stop, thread: thread.map_err(Error::io("cannot start a thread"))? })
    }

    fn end(self) -> Result<(), Error> {
        drop(self.stop);
        self.thread.join().unwrap_or(Err(Error::Driver))
    }
}

/// An attack that goes on.
pub struct Raid {
    worker: Worker,
    count: Arc<AtomicU64>,
}

impl Raid {
    /// Begins it.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn begin(attack: Attack, target: Target) -> Result<Self, Error> {
        let target = Target { count: Arc::default(), ..target };
        let count = target.count.clone();
        let worker = Worker::start("attacker", async move || {
            let target = Rc::new(target);
            match attack {
                Attack::Silent => before::hold(&target, b"").await,
                Attack::SlowHandshakes => before::hold(&target, before::HELLO).await,
                Attack::HalfOpenQuic => before::half_open(&target).await,
                Attack::BadLogins => before::knock(&target, &before::bad_login()).await,
                Attack::BeforeLogin => before::knock(&target, &before::requests()).await,
                Attack::LengthBombs => after::bombs(&target).await,
                Attack::TinyFields => after::pour(&target, after::tiny_fields()).await,
                Attack::DeepPipelining => after::deep(&target).await,
                Attack::FalseMarks => after::pour(&target, after::false_marks()).await,
                Attack::Queries => after::pour(&target, after::queries()).await,
                Attack::GiantGroups => after::giant_groups(&target).await,
            }
        })?;
        Ok(Self { worker, count })
    }

    /// How often something was done so far: a connection, a handshake, a request.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends it: all its connections with it.
    ///
    /// # Errors
    /// When it could not be made at all.
    pub fn end(self) -> Result<(), Error> {
        self.worker.end()
    }
}

/// What newcomers have met with.
#[derive(Debug, Clone, Default)]
pub struct Welcomes {
    /// From the first packet to `LoginOk`.
    pub login: Latencies,
    /// Who did not get in.
    pub turned_away: u64,
}

/// Ordinary users who come one after the other, each with a new connection.
pub struct Newcomers {
    worker: Worker,
    welcomes: Arc<Mutex<Welcomes>>,
}

impl Newcomers {
    /// They begin to come.
    ///
    /// # Errors
    /// When no tokens can be made, or the system has no thread to spare.
    pub fn begin(server: &Server, transport: Transport) -> Result<Self, Error> {
        let accounts = server.accounts(ACCOUNTS)?;
        let (name, ca) = (server.address.clone(), server.ca.clone());
        let welcomes: Arc<Mutex<Welcomes>> = Arc::default();
        let seen = welcomes.clone();
        let worker = Worker::start("newcomers", async move || {
            let connector = Rc::new(connector(&name, &ca)?);
            let mut ticks = interval(NEWCOMERS_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for account in accounts.iter().cycle() {
                ticks.tick().await;
                let (connector, account, seen) = (connector.clone(), account.clone(), seen.clone());
                // A login is given up after some time, so there are never many.
                tokio::task::spawn_local(async move {
                    let login = Client::login(&connector, transport, &account, None).await;
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match login {
                        Ok(client) => seen.login.record(client.login_nanos),
                        Err(_) => seen.turned_away += 1,
                    }
                });
            }
            Ok(())
        })?;
        Ok(Self { worker, welcomes })
    }

    /// What those met with who came since the last time.
    pub fn take(&self) -> Welcomes {
        std::mem::take(&mut self.welcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody comes any more.
    ///
    /// # Errors
    /// When the server's authority makes no sense.
    pub fn end(self) -> Result<(), Error> {
        self.worker.end()
    }
}
