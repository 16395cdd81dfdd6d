//! The client library's network thread: one a process, which is started once, and cannot be started again.
//!
//! It has to have ended when the process does, since the library's own clean-up at the exit would pull the ground from
//! under it. A process can end at many places, so this hangs on the exit itself.
#![allow(unsafe_code)]

use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use foundationdb::api::{FdbApiBuilder, NetworkAutoStop};
use foundationdb::{FdbError, FdbResult};

/// platform_error.
const PLATFORM_ERROR: i32 = 1500;

/// Until the exit.
static NETWORK: Mutex<Option<NetworkAutoStop>> = Mutex::new(None);

/// Starts it, if that has not been done.
///
/// # Errors
/// What the client library says; it says the same ever after.
pub(crate) fn start() -> FdbResult<()> {
    static STARTED: OnceLock<FdbResult<()>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let builder = FdbApiBuilder::default().build()?;
        stop_at_exit()?;
        // SAFETY: what it returns has to be dropped before the process exits, which `stop` does, or it is aborted.
        let network = unsafe { builder.boot() }?;
        *NETWORK.lock().unwrap_or_else(PoisonError::into_inner) = Some(network);
        Ok(())
    })
}

/// Has it ended before what the library has made for itself since it was started. To be called when a database has
/// answered, or has not: much of that is made with the first transaction.
///
/// # Errors
/// When the system has no room for it.
pub(crate) fn stop_first() -> FdbResult<()> {
    static ASKED: OnceLock<FdbResult<()>> = OnceLock::new();
    *ASKED.get_or_init(stop_at_exit)
}

fn stop_at_exit() -> FdbResult<()> {
    // SAFETY: `stop` is there as long as the process, and does not unwind: out of an `extern "C"` function that aborts. To call
    // it twice does no harm: the second time there is nothing to stop.
    let registered = unsafe { libc::atexit(stop) };
    if registered == 0 { Ok(()) } else { Err(FdbError::from_code(PLATFORM_ERROR)) }
}

/// Ends the thread. It is called before the library's own clean-up: what was registered later goes first. But what the library
/// keeps for the thread that exits is gone by then, so another one has to do it.
extern "C" fn stop() {
    let network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner).take();
    let ended = thread::Builder::new().name("tern-fdb-stop".to_owned()).spawn(move || drop(network));
    // Without a thread the process ends as it would have without this.
    if let Ok(ended) = ended {
        let _ = ended.join();
    }
}
