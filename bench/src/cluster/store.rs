//! FoundationDB for the nodes: one process with everything, on an empty directory.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::Parts;
use super::files::Files;
use super::network::{Host, Network};
use crate::Error;
use crate::{interrupt, process};

/// A store that does not answer by then is given up.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// It is started again so often when it ends by itself.
const FALLS_MAX: u32 = 10;
/// Between two questions whether it serves.
const GLANCE: Duration = Duration::from_millis(200);
/// One answer of its command line, in seconds.
const ANSWER: &str = "10";

/// FoundationDB. Its process is killed with this.
pub struct Store {
    program: PathBuf,
    directory: PathBuf,
    cluster_file: PathBuf,
    /// `None`: it is down, as was wanted.
    child: Option<Child>,
    /// How often it has ended by itself.
    fell: u32,
    /// CPU time of its earlier processes.
    before: Duration,
    so_far: Duration,
}

impl Store {
    /// Starts it, makes a database, and waits until that can be used.
    ///
    /// # Errors
    /// What its programs say.
    pub fn start(parts: &Parts, files: &Files, network: &Network) -> Result<Self, Error> {
        let mut store = Self {
            program: parts.fdbserver.clone(),
            directory: files.store(),
            cluster_file: files.cluster_file(),
            child: None,
            fell: 0,
            before: Duration::ZERO,
            so_far: Duration::ZERO,
        };
        store.launch(network)?;
        let cli = Cli { program: &parts.fdbcli, cluster_file: files.cluster_file() };
        let until = Instant::now() + START_TIMEOUT;
        store.ask_until(until, &cli, "configure new single ssd", "Database created")?;
        store.ask_until(until, &cli, "status minimal", "The database is available")?;
        Ok(store)
    }

    /// Starts its process, on what is there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn launch(&mut self, network: &Network) -> Result<(), Error> {
        let mut command = network.command(Host::Store, &self.program)?;
        let address = Files::store_address().to_string();
        command.args(["--public-address", &address, "--listen-address", &address, "--cluster-file"]);
        command.arg(&self.cluster_file).arg("--datadir").arg(&self.directory);
        command.arg("--logdir").arg(&self.directory);
        let child = command
            .args(["--memory", "4GiB", "--storage-memory", "512MiB", "--cache-memory", "256MiB"])
            .args(["--logsize", "10MiB", "--maxlogssize", "100MiB"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("cannot start {}", self.program.display())))?;
        interrupt::takes_along(child.id());
        self.child = Some(child);
        self.before += std::mem::take(&mut self.so_far);
        Ok(())
    }

    /// Kills its process, whatever it is about to do.
    pub fn kill(&mut self) {
        self.note_cpu();
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        interrupt::leaves(child.id());
        let _ = child.wait();
    }

    fn ask_until(&mut self, until: Instant, cli: &Cli<'_>, what: &str, expected: &str) -> Result<(), Error> {
        loop {
            if let Some(status) = self.ended()? {
                return Err(Error::Server(format!("FoundationDB did not start: {status}")));
            }
            let answer = cli.ask(what)?;
            if answer.contains(expected) {
                return Ok(());
            }
            if interrupt::is_wanted() {
                return Err(Error::Interrupted);
            }
            if Instant::now() > until {
                let (said, seconds) = (answer.trim(), START_TIMEOUT.as_secs());
                return Err(Error::Server(format!(
                    "FoundationDB did not start within {seconds} s; `{what}` says: {said}"
                )));
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Starts it again when it has ended by itself, as FoundationDB's own `fdbmonitor` does.
    ///
    /// # Errors
    /// When it has ended too often.
    pub fn tend(&mut self, network: &Network) -> Result<(), Error> {
        let Some(status) = self.ended()? else { return Ok(()) };
        self.fell += 1;
        eprintln!("tern-bench: FoundationDB has ended by itself: {status}");
        if self.fell > FALLS_MAX {
            return Err(Error::Server(format!("FoundationDB has ended {} times: {status}", self.fell)));
        }
        self.launch(network)
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.note_cpu();
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait().map_err(Error::io("FoundationDB's state is unknown"))?;
        if status.is_some() {
            interrupt::leaves(child.id());
            self.child = None;
        }
        Ok(status)
    }

    /// How often it has ended by itself.
    pub fn fell(&self) -> u32 {
        self.fell
    }

    /// CPU time of all its processes.
    pub fn cpu(&mut self) -> Duration {
        self.note_cpu();
        self.before + self.so_far
    }

    /// A process that has ended does not say it any more.
    fn note_cpu(&mut self) {
        let used = self.child.as_ref().and_then(|child| process::usage(child.id()).ok());
        self.so_far = used.map_or(self.so_far, |usage| usage.cpu);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Cli<'a> {
    program: &'a Path,
    cluster_file: PathBuf,
}

impl Cli<'_> {
    fn ask(&self, what: &str) -> Result<String, Error> {
        let output = Command::new(self.program)
            .arg("-C")
            .arg(&self.cluster_file)
            .args(["--timeout", ANSWER, "--exec", what])
            .stdin(Stdio::null())
            .output()
            .map_err(Error::io(format!("cannot run {}", self.program.display())))?;
        Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }
}
