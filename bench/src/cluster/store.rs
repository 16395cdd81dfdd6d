//! FoundationDB for the nodes: one process with everything, on an empty directory.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Parts;
use super::files::Files;
use super::network::{Host, Network};
use crate::Error;
use crate::{interrupt, process};

/// A store that does not answer by then is given up.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two questions whether it serves.
const GLANCE: Duration = Duration::from_millis(200);
/// One answer of its command line, in seconds.
const ANSWER: &str = "10";

/// FoundationDB. Its process is killed with this.
pub struct Store {
    child: Child,
}

impl Store {
    /// Starts it, makes a database, and waits until that can be used.
    ///
    /// # Errors
    /// What its programs say.
    pub fn start(parts: &Parts, files: &Files, network: &Network) -> Result<Self, Error> {
        let mut command = network.command(Host::Store, &parts.fdbserver)?;
        let (address, directory) = (Files::store_address().to_string(), files.store());
        command.args(["--public-address", &address, "--listen-address", &address, "--cluster-file"]);
        command.arg(files.cluster_file()).arg("--datadir").arg(&directory).arg("--logdir").arg(&directory);
        let child = command
            .args(["--memory", "4GiB", "--storage-memory", "512MiB", "--cache-memory", "256MiB"])
            .args(["--logsize", "10MiB", "--maxlogssize", "100MiB"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("cannot start {}", parts.fdbserver.display())))?;
        interrupt::takes_along(child.id());
        let mut store = Self { child };
        let cli = Cli { program: &parts.fdbcli, cluster_file: files.cluster_file() };
        let until = Instant::now() + START_TIMEOUT;
        store.ask_until(until, &cli, "configure new single ssd", "Database created")?;
        store.ask_until(until, &cli, "status minimal", "The database is available")?;
        Ok(store)
    }

    fn ask_until(&mut self, until: Instant, cli: &Cli<'_>, what: &str, expected: &str) -> Result<(), Error> {
        loop {
            self.check()?;
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

    /// That it runs.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                interrupt::leaves(self.child.id());
                Err(Error::Server(format!("FoundationDB has ended: {status}")))
            }
            Err(error) => Err(Error::Server(format!("FoundationDB's state is unknown: {error}"))),
        }
    }

    /// CPU time.
    pub fn cpu(&self) -> Duration {
        process::usage(self.child.id()).map(|usage| usage.cpu).unwrap_or_default()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        interrupt::leaves(self.child.id());
        let _ = self.child.wait();
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
