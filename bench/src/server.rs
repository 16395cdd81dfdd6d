//! The server under load: one that is started for the run, or one that runs already.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tern_protocol::ids::DeviceId;
use tern_server::auth::Minter;
use tern_server::clock;

use crate::Error;
use crate::args::Common;
use crate::client::Account;
use crate::process::{self, Usage};

/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A server under load. One that was started is killed with this.
pub struct Server {
    /// Where it listens for TCP and QUIC.
    pub address: SocketAddr,
    /// The authority of its certificate, PEM.
    pub ca: Vec<u8>,
    minter: Minter,
    pid: Option<u32>,
    child: Option<Child>,
    _data: Option<tempfile::TempDir>,
}

#[derive(Deserialize)]
struct Greeting {
    tcp: SocketAddr,
    ca: PathBuf,
    data: PathBuf,
}

impl Server {
    /// The server that the arguments name, or a fresh one.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::Io`].
    pub fn from_args(args: &Common) -> Result<Self, Error> {
        match (args.server, &args.ca, &args.data) {
            (Some(address), Some(ca), Some(data)) => {
                let ca = std::fs::read(ca).map_err(Error::io(format!("cannot read {}", ca.display())))?;
                if !data.join("token.key").is_file() {
                    let data = data.display();
                    return Err(Error::Server(format!("there is no token.key in {data}")));
                }
                let minter = minter(data)?;
                Ok(Self { address, ca, minter, pid: args.pid, child: None, _data: None })
            }
            _ => Self::spawn(args),
        }
    }

    fn spawn(args: &Common) -> Result<Self, Error> {
        let program = match &args.ternd {
            Some(program) => program.clone(),
            None => beside_this_program()?,
        };
        let temporary = match args.data {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(Error::io("cannot make a temporary directory"))?),
        };
        let data =
            args.data.as_deref().or(temporary.as_ref().map(|dir| dir.path())).unwrap_or(Path::new("."));
        let mut command = Command::new(&program);
        command.args(["dev", "--json", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        if let Some(shards) = args.shards {
            command.args(["--shards", &shards.to_string()]);
        }
        if std::env::var_os("TERN_LOG").is_none() {
            command.env("TERN_LOG", "warn");
        }
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io(format!("cannot start {}", program.display())))?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or(Error::Server("ternd has no output".into()))?;
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line).map_err(Error::io("cannot read ternd's output"))?;
        let Ok(greeting) = serde_json::from_str::<Greeting>(&line) else {
            let status = child.wait().map_err(Error::io("cannot wait for ternd"))?;
            return Err(Error::Server(format!("ternd did not start: {status}")));
        };
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let ca = std::fs::read(&greeting.ca).map_err(Error::io("cannot read ternd's certificate"))?;
        Ok(Self {
            address: greeting.tcp,
            ca,
            minter: minter(&greeting.data)?,
            pid: Some(child.id()),
            child: Some(child),
            _data: temporary,
        })
    }

    /// Accounts that have never been used.
    ///
    /// # Errors
    /// [`Error::Server`] when no token can be made.
    pub fn accounts(&self, count: usize) -> Result<Vec<Account>, Error> {
        let now = clock::wall();
        let run = format!("bench-{:x}-{:x}", now.0, std::process::id());
        let device = DeviceId::new(1).ok_or(Error::Driver)?;
        (0..count)
            .map(|number| {
                let sub = format!("{run}-{number}");
                let token = self.minter.mint(&sub, TOKEN_LIFETIME, now);
                let token = token.map_err(|error| Error::Server(error.to_string()))?;
                Ok(Account { number, token, device })
            })
            .collect()
    }

    /// What it uses; `None` when nobody said which process it is.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Option<Usage>, Error> {
        self.pid.map(process::usage).transpose()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn minter(data: &Path) -> Result<Minter, Error> {
    Minter::load_or_create(data).map_err(|error| Error::Server(error.to_string()))
}

fn beside_this_program() -> Result<PathBuf, Error> {
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
