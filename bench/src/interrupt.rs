//! Ctrl-C and SIGTERM end a run early: what was measured until then is the result. The second one ends the program, the
//! servers that it has started, and their temporary directories.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

static WANTED: AtomicBool = AtomicBool::new(false);
/// Processes that nobody else would end.
static STARTED: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// Directories that nobody else would remove.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// From here on they are heeded. Without it, if the system does not allow it, they end the program at once.
pub(crate) fn catch() {
    let wait = async || {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if WANTED.swap(true, Ordering::Relaxed) {
                // Held to the end: nobody may wait for one now, and make its number another's.
                let (started, made) = (held(&STARTED), held(&MADE));
                for pid in started.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
                    // It may have ended by itself.
                    let _ = kill_process(pid, Signal::KILL);
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                }
                for directory in made.iter() {
                    // What cannot be removed is left: there is nobody to tell.
                    let _ = std::fs::remove_dir_all(directory);
                }
                std::process::exit(INTERRUPTED);
            }
        }
        #[expect(unreachable_code, reason = "says what the type of an error is")]
        Ok::<(), std::io::Error>(())
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.and_then(|runtime| runtime.block_on(wait()))
    });
}

fn held<T>(list: &'static Mutex<Vec<T>>) -> MutexGuard<'static, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary directory that is removed with this, or with the program.
pub(crate) struct Directory(Option<TempDir>);

impl Directory {
    /// Makes it.
    pub(crate) fn new() -> std::io::Result<Self> {
        let directory = tempfile::tempdir()?;
        held(&MADE).push(directory.path().to_owned());
        Ok(Self(Some(directory)))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new("."), TempDir::path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let path = self.path().to_owned();
        drop(self.0.take());
        held(&MADE).retain(|other| *other != path);
    }
}

/// This process ends with the program.
pub(crate) fn takes_along(pid: u32) {
    held(&STARTED).push(pid);
}

/// No longer, since it is about to be waited for.
pub(crate) fn leaves(pid: u32) {
    held(&STARTED).retain(|other| *other != pid);
}

/// Whether one has come.
pub(crate) fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}
