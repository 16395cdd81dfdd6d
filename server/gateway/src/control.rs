//! A socket in a directory of its own, for the operator's own programs on this machine: who may enter that directory may
//! use it. It is not beside the store's files, which people copy.
//!
//! ```text
//! client   backup 1\n
//! server   ok\n, then the stream of `tern_store::backup`, then the end
//!          error: what is wrong\n, then the end
//! ```
//!
//! One request at a time; others wait.

use std::fs::DirBuilder;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tern_store::Kv;
use tern_store::backup::{self, BackupError};
use thiserror::Error;
use tracing::{error, info, warn};

/// What a backup is asked for with.
const BACKUP: &str = "backup 1\n";
/// What it is answered with, before the stream.
const OK: &str = "ok\n";
/// Why some servers make no backup.
const ELSEWHERE: &str = "its data is not on this machine: make a backup of the FoundationDB cluster with FoundationDB's own tools";
/// For the line that says what is wanted.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_BYTES_MAX: u64 = 64;
/// For any progress: a disk at the other end may be slow, and a process stopped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Rest after an error that the next accept would meet again.
const PAUSE: Duration = Duration::from_secs(1);
/// For the first line of an answer: another request may be under way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: u64 = 1_000;

/// Where the socket of the server with this data directory is.
pub fn path(data: &Path) -> PathBuf {
    data.join("run").join("control")
}

/// Serves the socket until it is dropped.
pub struct Control {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// Whose request is under way.
    client: Option<UnixStream>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Begins to. The caller has the store open, so whatever is at that path is left over. `kv`: what a backup is made
    /// of, if this server makes any.
    ///
    /// # Errors
    /// When the system refuses, for example because the path is longer than a socket's may be (107 bytes).
    pub fn start(data: &Path, kv: Option<Weak<dyn Kv>>) -> io::Result<Self> {
        let path = path(data);
        let directory = path.parent().unwrap_or(data);
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let run = move || {
            for stream in listener.incoming() {
                let served = stream.and_then(|stream| {
                    let client = stream.try_clone()?;
                    {
                        let mut state = lock(&shared);
                        if state.stopping {
                            return Ok(false);
                        }
                        state.client = Some(client);
                    }
                    // The engine meets some damage with a panic.
                    if catch_unwind(AssertUnwindSafe(|| serve(stream, kv.as_ref()))).is_err() {
                        error!("a backup was not made: the storage engine has given up on damaged data");
                    }
                    lock(&shared).client = None;
                    Ok(true)
                });
                match served {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        warn!(%error, "cannot accept on the control socket");
                        // What it is will be so for a while, such as too many open files.
                        thread::sleep(PAUSE);
                    }
                }
            }
        };
        let thread = Some(thread::Builder::new().name("tern-control".to_owned()).spawn(run)?);
        Ok(Self { path, state, thread })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.stopping = true;
            if let Some(client) = state.client.take() {
                // Whoever is slow to take a backup does not hold up the end.
                let _ = client.shutdown(Shutdown::Both);
            }
        }
        // Wakes it; if that cannot be, it ends with the process.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(mut stream: UnixStream, kv: Option<&Weak<dyn Kv>>) {
    if let Err(error) = answer(&stream, kv) {
        warn!(%error, "a backup was not made");
        // The client may be gone, or in the middle of the stream, whose end it then misses.
        let _ = stream.write_all(format!("error: {error}\n").as_bytes());
    }
}

fn answer(mut stream: &UnixStream, kv: Option<&Weak<dyn Kv>>) -> Result<(), BackupError> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut request = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut request)?;
    if request != BACKUP {
        return Err(
            io::Error::other("the request is not understood; is the program of the same version?").into()
        );
    }
    let kv = kv.ok_or_else(|| io::Error::other(ELSEWHERE))?;
    let kv = kv.upgrade().ok_or_else(|| io::Error::other("the server is stopping"))?;
    let begin = Instant::now();
    stream.write_all(OK.as_bytes())?;
    let totals = backup::write(&*kv.begin(), stream)
        .now_or_never()
        .unwrap_or_else(|| Err(io::Error::other("the store has to be waited for").into()))?;
    info!(rows = totals.rows, bytes = totals.bytes, seconds = begin.elapsed().as_secs(), "backup made");
    Ok(())
}

/// Why a server gives no backup.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody is there, or the system refuses.
    #[error("{path} does not answer ({error}); is a server just starting, or another program at work there? Try again", path = .path.display())]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is busy.
    #[error("it does not answer within {} s: is another backup under way?", ANSWER_TIMEOUT.as_secs())]
    Busy,
    /// It says why.
    #[error("the server says: {0}")]
    Refused(String),
}

/// Asks the server that runs on this data directory for a backup: a stream of `tern_store::backup`.
///
/// # Errors
/// [`AskError`].
pub fn ask_for_backup(data: &Path) -> Result<impl Read + use<>, AskError> {
    let path = path(data);
    let mut line = String::new();
    let asked = UnixStream::connect(&path).and_then(|mut stream| {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(BACKUP.as_bytes())?;
        let mut stream = BufReader::with_capacity(1 << 20, stream);
        stream.by_ref().take(ANSWER_BYTES_MAX).read_line(&mut line)?;
        Ok(stream)
    });
    match asked {
        Ok(stream) if line == OK => Ok(stream),
        Ok(_) if line.is_empty() => Err(AskError::Refused("nothing, and is gone".to_owned())),
        Ok(_) => Err(AskError::Refused(line.trim_start_matches("error: ").trim_end().to_owned())),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(AskError::Busy)
        }
        Err(error) => Err(AskError::Nobody { path, error }),
    }
}
