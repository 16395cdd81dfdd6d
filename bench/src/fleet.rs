//! Threads that drive the clients: each has a runtime and its share of them, and nothing is shared but the phase and
//! the counters.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tern_client::raw::Connector;
use tern_client::{ConnectError, Transport};
use tern_protocol::request::RequestBody;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::Error;
use crate::args::Handshakes;
use crate::client::{Account, Client};
use crate::error::LoginError;
use crate::meter::Meter;
use crate::random::Random;
use crate::server::Server;
use tern_proxy::device_address;

/// Clients that share a UDP socket and TLS session tickets, as long as that does not take more than ..
const CLIENTS_PER_CONNECTOR: usize = 50;
/// .. this many sockets in a thread.
const CONNECTORS_MAX: usize = 200;
/// Connections to a server on this machine that come from one address: beyond about 14,000, half of its ports, the
/// kernel searches long for a free one, and those of closed connections stay taken for a minute.
const CLIENTS_PER_ADDRESS: usize = 5_000;
/// A login that fails for a passing reason is tried again so often, while others succeed.
const LOGIN_ATTEMPTS: u32 = 6;
/// Before the second attempt; doubles.
const LOGIN_BACKOFF: Duration = Duration::from_millis(200);

/// What all clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connect, prepare, wait for the others.
    Connecting,
    /// The scenario's load, not measured.
    Warmup,
    /// The same, measured.
    Measuring,
    /// Nothing new; what is under way is finished. More of the load may follow.
    Paused,
    /// Nothing new; what is under way is finished, then all leave.
    Draining,
    /// Leave at once, whatever is under way.
    Leaving,
}

impl Phase {
    /// Whether new messages are sent in it.
    pub fn has_load(self) -> bool {
        matches!(self, Self::Warmup | Self::Measuring)
    }

    /// Whether the run comes to its end.
    pub fn is_end(self) -> bool {
        self >= Self::Draining
    }

    /// As results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Warmup => "warmup",
            Self::Measuring => "measuring",
            Self::Paused => "paused",
            Self::Draining | Self::Leaving => "draining",
        }
    }
}

/// Who connects, and how.
#[derive(Debug, Clone)]
pub struct Crew {
    /// All of them; their order is that of their numbers.
    pub accounts: Vec<Account>,
    /// Neighbours that have to be on the same thread: 2 for pairs, the members of a group.
    pub together: usize,
    /// Whether they are connected and logged in before the work begins.
    pub connected: bool,
    /// Whether TLS tickets are used.
    pub handshakes: Handshakes,
    /// A [proxy](tern_proxy) on this machine that they connect through, each as a device of its own: with an address
    /// and a socket that no other has.
    pub through: Option<SocketAddr>,
    /// Each goes to one of the server's addresses only, by this number; see [`address_of`].
    pub spread: Option<u64>,
}

impl Crew {
    /// Single clients who are connected before the work begins, with tickets.
    pub fn new(accounts: Vec<Account>) -> Self {
        Self {
            accounts,
            together: 1,
            connected: true,
            handshakes: Handshakes::Resumed,
            through: None,
            spread: None,
        }
    }

    /// The same, with so many neighbours on the same thread.
    pub fn together(mut self, together: usize) -> Self {
        self.together = together;
        self
    }

    /// The same, each at one of the server's addresses, by this number.
    pub fn spread(mut self, seed: u64) -> Self {
        self.spread = Some(seed);
        self
    }
}

/// The place of the address that a client goes to, among so many, when a crew is [spread](Crew::spread).
pub fn address_of(seed: u64, account: &Account, addresses: usize) -> usize {
    Random::new(seed, account.number as u64).below(addresses as u64) as usize
}

/// What a driver thread has.
pub struct Share {
    /// Its clients, logged in, in the order of their numbers; none when the crew is not connected beforehand.
    pub clients: Vec<Client>,
    /// Who they are.
    pub accounts: Vec<Account>,
    /// Makes further connections.
    pub dialer: Rc<Dialer>,
    /// What to do.
    pub phases: watch::Receiver<Phase>,
    /// What happens is counted here.
    pub meter: Arc<Meter>,
    /// How many handshakes it may have under way at once.
    pub ramp: usize,
    /// Its number, from 0.
    pub thread: usize,
    /// Of the run.
    pub seed: u64,
    /// Randomness of its own, from the run's seed.
    pub random: Random,
    ready: Arc<AtomicBool>,
}

impl Share {
    /// What had to be prepared is; the load may begin. To be called once, or the run does not begin.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

/// Makes connections of one thread's clients.
pub struct Dialer {
    connectors: Vec<Connector>,
    spread: Option<u64>,
    transport: Transport,
    meter: Arc<Meter>,
}

impl Dialer {
    fn connector(&self, account: &Account) -> &Connector {
        let count = self.connectors.len();
        // Not in a row, so that sockets are used evenly from the start.
        &self.connectors[self.spread.map_or(account.number % count, |seed| address_of(seed, account, count))]
    }

    /// The next connection leaves from another port, over QUIC as over TCP. Only for clients who share no socket.
    pub fn renew_socket(&self, account: &Account) {
        // Without a new one, the old one has to do.
        let _ = self.connector(account).rebind();
    }

    /// Connects and logs in, once. Whoever ends the connection says so to the meter.
    ///
    /// # Errors
    /// [`LoginError`], which is counted, too.
    pub async fn login(&self, account: &Account) -> Result<Client, LoginError> {
        self.attempt(account, None).await.inspect_err(|error| {
            self.meter.count(|interval| {
                interval.errors += 1;
                interval.refuse(error.label());
            });
        })
    }

    /// The same for whom it is no error when the network fails: only refusals are. A request may go out
    /// [behind the login](Client::login).
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn attempt(
        &self,
        account: &Account,
        behind: Option<RequestBody>,
    ) -> Result<Client, LoginError> {
        let login = Client::login(self.connector(account), self.transport, account, behind).await;
        if let Ok(client) = &login {
            self.meter.connected();
            self.meter.count(|interval| interval.login.record(client.login_nanos));
        }
        login
    }

    /// What happens is counted here.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// As [`Self::login`], and again while it fails for passing reasons and others succeed.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn login_patiently(&self, account: &Account) -> Result<Client, LoginError> {
        let mut wait = LOGIN_BACKOFF;
        for _ in 1..LOGIN_ATTEMPTS {
            match self.login(account).await {
                Err(error) if error.is_passing() && self.meter.connections() > 0 => {}
                done => return done,
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.login(account).await
    }

    async fn login_all(&self, accounts: &[Account], at_once: usize) -> Result<Vec<Client>, Error> {
        let login = async |account: &Account| {
            let login = self.login_patiently(account).await;
            login.map_err(|problem| Error::Client { client: account.number, problem })
        };
        stream::iter(accounts).map(login).buffered(at_once).try_collect().await
    }
}

/// All clients.
pub struct Fleet<R> {
    phase: watch::Sender<Phase>,
    threads: Vec<Thread<R>>,
}

struct Thread<R> {
    handle: thread::JoinHandle<Result<R, Error>>,
    meter: Arc<Meter>,
    ready: Arc<AtomicBool>,
}

/// How a fleet is driven.
#[derive(Debug, Clone, Copy)]
pub struct Rig {
    /// Over what.
    pub transport: Transport,
    /// How many threads, at most.
    pub threads: usize,
    /// How many handshakes at once, of all threads.
    pub ramp: usize,
    /// Where randomness comes from.
    pub seed: u64,
}

impl<R: Send + 'static> Fleet<R> {
    /// Starts the threads; each connects its share of the crew and has `work` done with it.
    ///
    /// # Errors
    /// When the system has no thread to spare, or the server's address or authority makes no sense.
    pub fn start<W>(server: &Server, rig: Rig, crew: &Crew, work: W) -> Result<Self, Error>
    where
        W: AsyncFnOnce(Share) -> Result<R, Error> + Clone + Send + 'static,
    {
        let together = crew.together.max(1);
        let units = crew.accounts.len().div_ceil(together);
        let threads = rig.threads.clamp(1, units.max(1));
        let per_thread = (units.div_ceil(threads) * together).max(1);
        let (phase, _) = watch::channel(Phase::Connecting);
        let mut shares: Vec<&[Account]> = crew.accounts.chunks(per_thread).collect();
        shares.resize(shares.len().max(1), &[]);
        let ramp = (rig.ramp / shares.len()).max(1);
        let connected = crew.connected;
        let start = |(thread, accounts): (usize, &[Account])| {
            let meter = Arc::new(Meter::default());
            let ready = Arc::new(AtomicBool::new(false));
            let dialer = Dialer {
                connectors: connectors(server, accounts, crew)?,
                spread: crew.spread,
                transport: rig.transport,
                meter: meter.clone(),
            };
            let (accounts, work) = (accounts.to_vec(), work.clone());
            let (phases, own_meter, own_ready) = (phase.subscribe(), meter.clone(), ready.clone());
            let run = async move || {
                let clients = if connected { dialer.login_all(&accounts, ramp).await? } else { Vec::new() };
                work(Share {
                    clients,
                    accounts,
                    dialer: Rc::new(dialer),
                    phases,
                    meter: own_meter,
                    ramp,
                    thread,
                    seed: rig.seed,
                    random: Random::new(rig.seed, thread as u64),
                    ready: own_ready,
                })
                .await
            };
            let handle = thread::Builder::new()
                .name(format!("driver-{thread}"))
                .spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    let runtime = runtime.map_err(Error::io("cannot start a runtime"))?;
                    runtime.block_on(LocalSet::new().run_until(run()))
                })
                .map_err(Error::io("cannot start a thread"))?;
            Ok(Thread { handle, meter, ready })
        };
        let threads = shares.into_iter().enumerate().map(start).collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { phase, threads })
    }

    /// The threads' counters.
    pub fn meters(&self) -> impl Iterator<Item = &Arc<Meter>> {
        self.threads.iter().map(|thread| &thread.meter)
    }

    /// All are prepared.
    pub fn is_ready(&self) -> bool {
        self.threads.iter().all(|thread| thread.ready.load(Ordering::Acquire))
    }

    /// One has ended: in the middle of a run, that is a failure.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(|thread| thread.handle.is_finished())
    }

    /// All have ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|thread| thread.handle.is_finished())
    }

    /// All go on to this phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// What the threads say that have ended, and the first error. Those that have not are left to themselves.
    pub fn join(self) -> (Vec<R>, Option<Error>) {
        let (mut results, mut failure) = (Vec::new(), None);
        for thread in self.threads {
            if !thread.handle.is_finished() {
                failure.get_or_insert(Error::Scenario("a driver thread did not come to its end".into()));
                continue;
            }
            match thread.handle.join().unwrap_or(Err(Error::Driver)) {
                Ok(result) => results.push(result),
                Err(error) => _ = failure.get_or_insert(error),
            }
        }
        (results, failure)
    }
}

fn connectors(server: &Server, accounts: &[Account], crew: &Crew) -> Result<Vec<Connector>, Error> {
    let tickets = |connector: Connector| match crew.handshakes {
        Handshakes::Full => connector.without_resumption(),
        Handshakes::Resumed => Ok(connector),
    };
    let first = accounts.first().map_or(0, |account| account.number);
    let shared = || {
        let count = accounts.len().div_ceil(CLIENTS_PER_CONNECTOR).clamp(1, CONNECTORS_MAX);
        let connector = |place: usize| {
            let connector = Connector::new(&server.address, None, &server.ca)?;
            let source = source(&server.address, first + place * accounts.len() / count);
            tickets(match source {
                Some(source) => connector.source(source),
                None => connector,
            })
        };
        (0..count).map(connector).collect()
    };
    let own = |proxy: SocketAddr| {
        let name = server.address.rsplit_once(':').map_or(server.address.as_str(), |(host, _)| host);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        // Each at the place where the dialer looks for it.
        let mut numbers: Vec<_> = accounts.iter().map(|account| account.number).collect();
        numbers.sort_unstable_by_key(|number| number % accounts.len());
        let connector = |number| {
            let connector = Connector::new(&proxy.to_string(), Some(name), &server.ca)?;
            tickets(connector.source(device_address(number)))
        };
        numbers.into_iter().map(connector).collect()
    };
    let each =
        || server.address.split(',').map(|one| tickets(Connector::new(one, None, &server.ca)?)).collect();
    let connectors: Result<Vec<_>, ConnectError> = match (crew.through, crew.spread) {
        (Some(proxy), _) => own(proxy),
        (None, Some(_)) => each(),
        (None, None) => shared(),
    };
    connectors.map_err(|error| Error::Server(error.to_string()))
}

/// Where the client with this number comes from: 127.0.0.1, 127.0.0.2 and so on for a server on this machine.
fn source(server: &str, number: usize) -> Option<IpAddr> {
    let server: SocketAddr = server.parse().ok()?;
    let further = u8::try_from(number / CLIENTS_PER_ADDRESS).ok().filter(|further| *further > 0)?;
    let here = server.is_ipv4() && server.ip().is_loopback();
    here.then(|| Ipv4Addr::new(127, 0, 0, further.saturating_add(1)).into())
}

/// Waits until the phase is one of these.
pub async fn until(phases: &mut watch::Receiver<Phase>, wanted: impl FnMut(&Phase) -> bool) -> Phase {
    // An error: nobody leads the run any more.
    phases.wait_for(wanted).await.map_or(Phase::Leaving, |phase| *phase)
}
