//! One node: a `ternd`, which is killed, stopped, paused and started again.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::files::Files;
use super::host;
use super::network::Network;
use crate::Error;
use crate::{interrupt, process};

/// A node. Its process is killed with this.
pub struct Node {
    /// From 1.
    pub number: usize,
    program: PathBuf,
    configuration: PathBuf,
    log: PathBuf,
    /// `None`: it is down, as was wanted.
    child: Option<Child>,
    /// CPU time of its earlier processes ..
    before: Duration,
    /// .. and of this one, when it was last seen running.
    so_far: Duration,
}

impl Node {
    /// One that is down.
    pub fn new(number: usize, program: &Path, files: &Files) -> Self {
        Self {
            number,
            program: program.to_owned(),
            configuration: files.configuration(number),
            log: files.logs().join(format!("node-{number}.log")),
            child: None,
            before: Duration::ZERO,
            so_far: Duration::ZERO,
        }
    }

    /// Starts it; returns before it serves.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start(&mut self, network: &Network) -> Result<(), Error> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(Error::io(format!("cannot write {}", self.log.display())))?;
        let mut command = network.command(host(self.number), &self.program)?;
        command.args(["serve", "--config"]).arg(&self.configuration);
        if std::env::var_os("TERN_LOG").is_none() {
            command.env("TERN_LOG", "info");
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for this program, which then ends the nodes after their clients.
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("cannot start {}", self.program.display())))?;
        interrupt::takes_along(child.id());
        self.child = Some(child);
        self.before += std::mem::take(&mut self.so_far);
        Ok(())
    }

    /// Tells its process.
    ///
    /// # Errors
    /// When it has none.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        let told = pid.map(|pid| kill_process(pid, signal));
        told.and_then(Result::ok).ok_or_else(|| Error::Server(format!("node {} is not there", self.number)))
    }

    /// Kills it, whatever it is about to do.
    pub fn kill(&mut self) {
        self.note_cpu();
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        interrupt::leaves(child.id());
        let _ = child.wait();
    }

    /// It was told to stop: whether it has.
    ///
    /// # Errors
    /// When it has, in another way than it should.
    pub fn has_stopped(&mut self) -> Result<bool, Error> {
        self.note_cpu();
        let Some(child) = &mut self.child else { return Ok(true) };
        match exited(child)? {
            None => Ok(false),
            Some(status) => {
                self.child = None;
                if status.success() { Ok(true) } else { Err(self.ended(&status)) }
            }
        }
    }

    /// That it runs, if it is to run.
    ///
    /// # Errors
    /// When it has ended by itself.
    pub fn check(&mut self) -> Result<(), Error> {
        let status = self.child.as_mut().map(exited).transpose()?.flatten();
        match status {
            None => Ok(()),
            Some(status) => {
                self.child = None;
                Err(self.ended(&status))
            }
        }
    }

    fn ended(&self, status: &ExitStatus) -> Error {
        Error::Server(format!(
            "node {} has ended: {status}; its last words: {}",
            self.number,
            self.last_words()
        ))
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().last().unwrap_or("none").to_owned()
    }

    /// That it has not panicked.
    ///
    /// # Errors
    /// The line that says so.
    pub fn check_log(&self) -> Result<(), Error> {
        let log = fs::read(&self.log).unwrap_or_default();
        match String::from_utf8_lossy(&log).lines().find(|line| line.contains("panicked")) {
            None => Ok(()),
            Some(line) => Err(Error::Server(format!("node {} has panicked: {line}", self.number))),
        }
    }

    /// What it has said.
    pub fn log(&self) -> &Path {
        &self.log
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

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How it has ended, if it has.
fn exited(child: &mut Child) -> Result<Option<ExitStatus>, Error> {
    let status = child.try_wait().map_err(Error::io("a node's state is unknown"))?;
    if status.is_some() {
        interrupt::leaves(child.id());
    }
    Ok(status)
}
