//! Processes of this program that do a part of the work, so that what it costs is seen from outside. They are told what
//! to do in their arguments and in lines on standard input, answer in lines of JSON, and end when standard input does:
//! none outlives its parent by more than [`LINGER`], however that ends. What goes wrong in them, the parent says.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::process;

/// Whoever has to end puts away what it has made in this time, or leaves it.
const LINGER: Duration = Duration::from_secs(5);

/// The parent's end.
pub(crate) struct Process {
    child: Child,
    /// Closed first at the end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program with these arguments.
    pub(crate) fn start(arguments: &[String]) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::io("cannot find this program"))?;
        let mut child = Command::new(&program)
            .args(arguments)
            // Ctrl-C is for the parent, which then closes their input.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io(format!("cannot start {}", program.display())))?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or(Error::Driver)?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Tells it something.
    pub(crate) fn tell(&mut self, what: &impl Serialize) -> Result<(), Error> {
        let input = self.input.as_mut().ok_or(Error::Driver)?;
        write_line(input, what).map_err(Error::io("a part of this program has ended"))
    }

    /// The next line that it says.
    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(Error::io("a part of this program cannot be heard"))?;
        match serde_json::from_str(&line) {
            Ok(Said::Done(what)) => Ok(what),
            Ok(Said::Failed(why)) => Err(Error::Scenario(why)),
            Err(_) => Err(Error::Scenario("a part of this program has ended: expected it to answer".into())),
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads, so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Error> {
        Ok(process::usage(self.child.id())?.cpu)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends by itself, and puts away what it has made.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// A line from a child.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said<T> {
    Done(T),
    Failed(String),
}

/// In a child: one line to the parent.
pub(crate) fn say(what: &impl Serialize) -> Result<(), Error> {
    write_line(&mut std::io::stdout().lock(), &Said::Done(what)).map_err(Error::io("nobody listens"))
}

/// In a child: all of it. The parent is told what went wrong.
pub(crate) fn work(work: impl FnOnce() -> Result<(), Error>) -> ExitCode {
    let Err(error) = work() else { return ExitCode::SUCCESS };
    // If the parent is gone, nobody wants to know.
    let _ = write_line(&mut std::io::stdout().lock(), &Said::<()>::Failed(error.to_string()));
    ExitCode::FAILURE
}

/// In a child: what the parent tells it.
pub(crate) struct Told<T> {
    /// In order; ends when the parent closes standard input, or says what is not understood.
    pub(crate) lines: mpsc::Receiver<T>,
    /// True from then on, whatever the child is doing.
    pub(crate) ended: Arc<AtomicBool>,
}

impl<T: DeserializeOwned + Send + 'static> Told<T> {
    /// Listens from now on.
    pub(crate) fn listen() -> Self {
        let (line, lines) = mpsc::sync_channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        thread::spawn(move || {
            let told = std::io::stdin().lines().map_while(|line| serde_json::from_str(&line.ok()?).ok());
            // Nobody takes them any more when the child has failed.
            let _ = told.map(|told| line.send(told)).take_while(Result::is_ok).count();
            end.store(true, Ordering::Relaxed);
            drop(line);
            // A disk may hang, or a thread.
            thread::sleep(LINGER);
            std::process::exit(1);
        });
        Self { lines, ended }
    }
}

/// In a child: waits for the parent to close standard input.
pub(crate) fn until_input_ends() {
    Told::<serde::de::IgnoredAny>::listen().lines.iter().for_each(drop);
}

fn write_line(to: &mut impl Write, what: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}
