//! Ctrl-C and SIGTERM end a run early: what was measured until then is the result. The second one ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

static WANTED: AtomicBool = AtomicBool::new(false);
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

/// Whether one has come.
pub(crate) fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}
