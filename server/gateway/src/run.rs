//! A server as a process: from its start to the signal that ends it.

use std::error::Error;
use std::io;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::notify::{State, notify};
use crate::serve::Upkeep;
use crate::server::Server;

/// What a command runs on.
///
/// # Errors
/// When the system gives none.
pub fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Starts a server and runs it until SIGTERM or SIGINT; a second one ends the process at once.
///
/// # Errors
/// Those of `start`, and when signals cannot be heard.
pub fn server_until_signal(
    start: impl AsyncFnOnce() -> Result<(Server, Option<Upkeep>), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        // Before the server says that it is ready, so that nobody's signal comes too early.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (server, upkeep) = start().await?;
        let keep_up_to_date = async {
            match upkeep {
                Some(upkeep) => upkeep.run(hangup).await,
                // With the terminal that it was started from, a development server goes too.
                None => drop(hangup.recv().await),
            }
        };
        notify(State::Ready);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = keep_up_to_date => {}
        }
        notify(State::Stopping);
        let second_signal = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            eprintln!("ternd: stopped at once by a second signal");
            // From here, without dropping anything: closing a store waits for it, and it may hang.
            std::process::exit(1)
        };
        tokio::select! {
            () = server.stop() => Ok(()),
            stopped = second_signal => stopped,
        }
    });
    // Not for ever: a file system that hangs may still be asked for its size.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}
