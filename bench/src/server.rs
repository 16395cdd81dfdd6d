//! The server under load: one that is started for the run, or one that runs already.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;
use tern_protocol::ids::{DeviceId, UserId};
use tern_server::auth::Minter;
use tern_server::clock;

use crate::Error;
use crate::args::Common;
use crate::client::Account;
use crate::interrupt::{self, Directory};
use crate::process::{self, Usage};

/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A server that has not said where it listens by then (after a check of its journals, maybe) is given up.
pub const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A server under load. One that was started is killed with this.
pub struct Server {
    /// Where it listens for TCP and QUIC, `host:port`.
    pub address: String,
    /// The authority of its certificate, PEM.
    pub ca: Vec<u8>,
    /// Its data directory, or one with a copy of its token key.
    data: PathBuf,
    minter: Minter,
    pid: Option<u32>,
    started: Option<Started>,
    last_usage: Cell<Option<Usage>>,
    /// Given out so far.
    accounts: Cell<usize>,
    _data: Option<Directory>,
}

/// The process that this program has started, and how.
struct Started {
    child: RefCell<Child>,
    launch: Launch,
    /// CPU time of those that ran before it in the same place.
    before: Usage,
}

/// How a server is started.
struct Launch {
    program: PathBuf,
    data: PathBuf,
    shards: Option<usize>,
    limits: bool,
}

#[derive(Deserialize)]
struct Greeting {
    tcp: SocketAddr,
    ca: PathBuf,
    data: PathBuf,
}

impl Server {
    /// The server that the arguments name, or a fresh one, which limits what clients may take or does not.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::Io`].
    pub fn from_args(args: &Common, limits: bool) -> Result<Self, Error> {
        match (&args.server, &args.ca, &args.data) {
            (Some(address), Some(ca), Some(data)) => {
                let ca =
                    std::fs::read(ca).map_err(Error::io(format!("cannot read --ca {}", ca.display())))?;
                if !data.join("token.key").is_file() {
                    return Err(Error::Server(format!(
                        "there is no token.key in {}: expected the server's data directory, or one with a copy of \
                         that file",
                        data.display()
                    )));
                }
                let server = Self::elsewhere(address.clone(), ca, data, args.pid)?;
                if let Some(pid) = args.pid {
                    let usage = process::usage(pid);
                    usage.map_err(|error| Error::Server(format!("--pid {pid}: {error}")))?;
                }
                Ok(server)
            }
            _ => Self::spawn(args, limits),
        }
    }

    /// One that runs already, or several that are one, whose addresses have commas between them; with the authority of
    /// their certificates, the directory of their token key, and the process, if it is known.
    ///
    /// # Errors
    /// [`Error::Server`] when there is no such key.
    pub fn elsewhere(address: String, ca: Vec<u8>, data: &Path, pid: Option<u32>) -> Result<Self, Error> {
        Ok(Self {
            address,
            ca,
            minter: minter(data)?,
            data: data.to_owned(),
            pid,
            started: None,
            last_usage: Cell::default(),
            accounts: Cell::default(),
            _data: None,
        })
    }

    fn spawn(args: &Common, limits: bool) -> Result<Self, Error> {
        let program = match &args.ternd {
            Some(program) => program.clone(),
            None => beside_this_program()?,
        };
        let temporary = match args.data {
            Some(_) => None,
            None => Some(Directory::new().map_err(Error::io("cannot make a temporary directory"))?),
        };
        let data = args.data.as_deref().or(temporary.as_ref().map(Directory::path)).unwrap_or(Path::new("."));
        let launch = Launch { program, data: data.to_owned(), shards: args.shards, limits };
        let mut starting = launch.start("127.0.0.1:0")?;
        let greeting = starting.greeting()?;
        let ca = std::fs::read(&greeting.ca).map_err(Error::io("cannot read ternd's certificate"))?;
        let child = starting.child.0.take().ok_or(Error::Driver)?;
        Ok(Self {
            address: greeting.tcp.to_string(),
            ca,
            minter: minter(&greeting.data)?,
            data: greeting.data,
            pid: Some(child.id()),
            started: Some(Started { child: RefCell::new(child), launch, before: Usage::default() }),
            last_usage: Cell::default(),
            accounts: Cell::default(),
            _data: temporary,
        })
    }

    /// Kills the process at once, whatever it is about to do, and starts another one in its place: on the same data, at
    /// the same address.
    ///
    /// # Errors
    /// When this program has not started it, or cannot start it again.
    pub fn restart(&mut self) -> Result<Restarting, Error> {
        let usage = self.usage();
        let Some(started) = &mut self.started else {
            return Err(Error::Server(
                "only a server that tern-bench has started can be started again".into(),
            ));
        };
        let child = started.child.get_mut();
        let _ = child.kill();
        interrupt::leaves(child.id());
        child.wait().map_err(Error::io("cannot wait for ternd"))?;
        let mut starting = started.launch.start(&self.address)?;
        *child = starting.child.0.take().ok_or(Error::Driver)?;
        started.before = usage.unwrap_or_default();
        self.pid = Some(child.id());
        Ok(Restarting(starting.hears))
    }

    /// Accounts that have never been used.
    ///
    /// # Errors
    /// [`Error::Server`] when no token can be made.
    pub fn accounts(&self, count: usize) -> Result<Vec<Account>, Error> {
        let now = clock::wall();
        let run = format!("bench-{:x}-{:x}", now.0, std::process::id());
        let device = DeviceId::new(1).ok_or(Error::Driver)?;
        let before = self.accounts.replace(self.accounts.get() + count);
        (0..count)
            .map(|number| {
                let sub = format!("{run}-{}", before + number);
                let token = self.minter.mint(&sub, TOKEN_LIFETIME, now);
                let token = token.map_err(|error| Error::Server(error.to_string()))?;
                Ok(Account { number, user: UserId::from_sub(&sub), token, device })
            })
            .collect()
    }

    /// What it uses, or did when it was last there; `None` when nobody said which process it is.
    pub fn usage(&self) -> Option<Usage> {
        if let Some(usage) = self.pid.and_then(|pid| process::usage(pid).ok()) {
            let before = self.started.as_ref().map_or(Usage::default(), |started| started.before);
            let (cpu, system) = (usage.cpu + before.cpu, usage.system + before.system);
            self.last_usage.set(Some(Usage { cpu, system, ..usage }));
        }
        self.last_usage.get()
    }

    /// Its data directory, when it is on this machine.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Groups of commits that its store has written, each with one fsync; `None` when its data is not here.
    pub fn groups_written(&self) -> Option<u64> {
        tern_store::embedded::commit_number(&self.data.join("store"))
    }

    /// Its process, when it is known and on this machine.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether it was started by this program.
    pub fn is_spawned(&self) -> bool {
        self.started.is_some()
    }

    /// That it still runs, as far as can be seen from here.
    ///
    /// # Errors
    /// [`Error::Server`] when it has ended.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(started) = &self.started {
            return match started.child.borrow_mut().try_wait() {
                Ok(None) => Ok(()),
                Ok(Some(status)) => {
                    self.pid.into_iter().for_each(interrupt::leaves);
                    Err(Error::Server(format!("the server has ended in mid-run: {status}")))
                }
                Err(error) => Err(Error::Server(format!("the server's state is unknown: {error}"))),
            };
        }
        match self.pid.map(process::usage) {
            Some(Err(error)) => Err(Error::Server(format!("the server has ended in mid-run: {error}"))),
            _ => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(Killed(self.started.take().map(|started| started.child.into_inner())));
    }
}

/// A server that has not said yet that it serves.
struct Starting {
    child: Killed,
    hears: mpsc::Receiver<io::Result<String>>,
}

impl Launch {
    fn start(&self, listen: &str) -> Result<Starting, Error> {
        let mut command = Command::new(&self.program);
        command.args(["dev", "--json", "--listen", listen, "--data"]).arg(&self.data);
        if let Some(shards) = self.shards {
            command.args(["--shards", &shards.to_string()]);
        }
        if self.limits {
            command.arg("--limits");
        }
        if std::env::var_os("TERN_LOG").is_none() {
            command.env("TERN_LOG", "warn");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for this program, which then ends the server after its clients.
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("cannot start {}", self.program.display())))?;
        interrupt::takes_along(child.id());
        let stdout = child.stdout.take();
        let child = Killed(Some(child));
        let stdout = stdout.ok_or(Error::Driver)?;
        let (said, hears) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let read = stdout.read_line(&mut line).map(|_| line);
            // Nobody may wait for it any more. What comes later is read so that the server can go on saying it.
            let _ = said.send(read);
            let _ = io::copy(&mut stdout, &mut io::sink());
        });
        Ok(Starting { child, hears })
    }
}

impl Starting {
    /// What it says when it serves.
    fn greeting(&mut self) -> Result<Greeting, Error> {
        let child = self.child.0.as_mut().ok_or(Error::Driver)?;
        let line = self.hears.recv_timeout(START_TIMEOUT).map_err(|_| too_slow())?;
        let line = line.map_err(Error::io("cannot read ternd's output"))?;
        serde_json::from_str(&line).or_else(|_| {
            // Whatever it is, it does not say what ternd says.
            let _ = child.kill();
            interrupt::leaves(child.id());
            let status = child.wait().map_err(Error::io("cannot wait for ternd"))?;
            Err(Error::Server(format!("ternd did not start: {status} (what it says is above)")))
        })
    }
}

/// A server that was started again and has not said yet that it serves.
pub struct Restarting(mpsc::Receiver<io::Result<String>>);

impl Restarting {
    /// Whether it serves by now. That it has ended is for [`Server::check`] to find.
    pub fn is_over(&self) -> bool {
        self.0.try_recv().is_ok_and(|line| line.is_ok_and(|line| !line.is_empty()))
    }
}

fn too_slow() -> Error {
    Error::Server(format!("ternd did not start within {} s", START_TIMEOUT.as_secs()))
}

/// A process that ends with this.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            interrupt::leaves(child.id());
            let _ = child.wait();
        }
    }
}

fn minter(data: &Path) -> Result<Minter, Error> {
    Minter::load_or_create(data).map_err(|error| Error::Server(error.to_string()))
}

/// The `ternd` that was built with this program.
///
/// # Errors
/// [`Error::Server`] when there is none.
pub fn beside_this_program() -> Result<PathBuf, Error> {
    let program = std::env::current_exe().map_err(Error::io("cannot find this program"))?;
    let ternd = program.with_file_name("ternd");
    if ternd.is_file() {
        return Ok(ternd);
    }
    let release = program.components().any(|part| part.as_os_str() == "release");
    Err(Error::Server(format!(
        "there is no ternd beside this program: build it first (cargo build {}-p tern-server), or name one with --ternd \
         or --server",
        if release { "--release " } else { "" }
    )))
}
