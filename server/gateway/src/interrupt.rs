//! Ctrl-C and its kin, for commands that have something to tidy up.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Whether SIGINT, SIGTERM or SIGHUP has come. What reads and writes through it then fails; a second signal ends the
/// process at once.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Hears signals from now on, until the process ends.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn listen() -> io::Result<Self> {
        let interrupt = Self(Arc::default());
        let heard = interrupt.0.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupted, mut terminated, mut hung_up) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        let hear = async move {
            loop {
                tokio::select! {
                    _ = interrupted.recv() => {}
                    _ = terminated.recv() => {}
                    _ = hung_up.recv() => {}
                }
                if heard.swap(true, Ordering::Relaxed) {
                    eprintln!("ternd: stopped at once by a second signal; what was begun is left");
                    std::process::exit(1);
                }
            }
        };
        thread::Builder::new().name("tern-signals".to_owned()).spawn(move || runtime.block_on(hear))?;
        Ok(interrupt)
    }

    /// Whether one has come.
    pub fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Reads or writes until one comes.
    pub fn until<T>(&self, inner: T) -> Until<T> {
        Until { interrupt: self.clone(), inner }
    }
}

/// Made by [`Interrupt::until`].
#[derive(Debug)]
pub struct Until<T> {
    interrupt: Interrupt,
    inner: T,
}

impl<T> Until<T> {
    // Not `ErrorKind::Interrupted`, after which one tries again.
    fn go_on(&self) -> io::Result<()> {
        if self.interrupt.has_come() { Err(io::Error::other("stopped by a signal")) } else { Ok(()) }
    }
}

impl<T: Read> Read for Until<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.go_on()?;
        self.inner.read(buffer)
    }
}

impl<T: Write> Write for Until<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.go_on()?;
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
