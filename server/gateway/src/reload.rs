//! Files that are read again when they change, or at a SIGHUP: certificates, keys of tokens, revocations.
//!
//! What cannot be read or used changes nothing: the server goes on with what it has, and says so.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;
use tracing::{error, info};

use crate::metrics::reloads::{Reloads, Source};

/// Between looks at the files. A change is taken up at the second look that finds the same, so that a certificate and
/// its key, which are replaced one after the other, are not read half-way.
pub const POLL: Duration = Duration::from_secs(1);

/// How files look from outside. Taken before they are read, it tells whether they have changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looks(Vec<(PathBuf, Option<Look>)>);

/// Device, inode, bytes, seconds and nanoseconds of the last change.
type Look = (u64, u64, u64, i64, i64);

impl Looks {
    /// Now.
    pub fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(files.into_iter().map(|path| (path.clone(), look(&path).ok())).collect())
    }

    fn again(&self) -> Self {
        Self::of(self.0.iter().map(|(path, _)| path.clone()))
    }
}

fn look(path: &Path) -> io::Result<Look> {
    let data = fs::metadata(path)?;
    Ok((data.dev(), data.ino(), data.len(), data.ctime(), data.ctime_nsec()))
}

/// Reads files and puts what they hold in effect, or says what is wrong with them.
type Load = Box<dyn FnMut() -> Result<(), String>>;

struct Watched {
    source: Source,
    /// When they were read last.
    read: Looks,
    /// At the last look.
    seen: Looks,
    load: Load,
}

impl Watched {
    fn look(&mut self, reloads: &Reloads) {
        let now = self.seen.again();
        if now != self.read && now == self.seen {
            self.read_again(now, reloads);
        } else {
            self.seen = now;
        }
    }

    fn read_again(&mut self, looks: Looks, reloads: &Reloads) {
        self.read = looks;
        let what = match self.source {
            Source::Certificate => "Certificate",
            Source::TokenKeys => "Token keys",
            Source::KeySet => "Key set",
            Source::Revocations => "Revocations",
        };
        let result = (self.load)();
        reloads.count(self.source, &result);
        match result {
            Ok(()) => info!("{what} read again"),
            Err(problem) => error!("{what} not changed, the server goes on with what it has: {problem}"),
        }
    }
}

/// Watches files.
#[derive(Default)]
pub struct Reloader {
    watched: Vec<Watched>,
    on_hangup: Vec<Box<dyn FnMut()>>,
    reloads: Arc<Reloads>,
}

impl Reloader {
    /// What it counts.
    pub fn reloads(&self) -> &Arc<Reloads> {
        &self.reloads
    }

    /// When the files look otherwise than they did before they were read first, `load` is called. Without files there is
    /// nothing to watch.
    pub fn watch<E: ToString>(
        &mut self,
        source: Source,
        before: Looks,
        mut load: impl FnMut() -> Result<(), E> + 'static,
    ) {
        if before.0.is_empty() {
            return;
        }
        let load = Box::new(move || load().map_err(|error| error.to_string()));
        self.watched.push(Watched { source, seen: before.clone(), read: before, load });
    }

    /// A hangup calls this, too.
    pub fn on_hangup(&mut self, call: impl FnMut() + 'static) {
        self.on_hangup.push(Box::new(call));
    }

    /// Looks at the files for ever; a `hangup` has all of them read at once.
    pub async fn run(mut self, mut hangup: Signal) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => self.watched.iter_mut().for_each(|watched| watched.look(&self.reloads)),
                Some(()) = hangup.recv() => {
                    info!("SIGHUP: everything is read again");
                    for watched in &mut self.watched {
                        let now = watched.seen.again();
                        watched.read_again(now, &self.reloads);
                    }
                    self.on_hangup.iter_mut().for_each(|call| call());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_change_is_read_once_it_has_come_to_rest() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        for path in [&a, &b] {
            fs::write(path, "1").unwrap();
        }
        let read = Rc::new(RefCell::new(Vec::new()));
        let mut reloader = Reloader::default();
        let (into, from) = (read.clone(), [a.clone(), b.clone()]);
        reloader.watch(Source::TokenKeys, Looks::of(from.clone()), move || -> Result<(), io::Error> {
            let both = [fs::read_to_string(&from[0])?, fs::read_to_string(&from[1])?].concat();
            into.borrow_mut().push(both);
            Ok(())
        });
        let mut watched = reloader.watched.remove(0);
        let mut look = |expected: &[&str]| {
            watched.look(&Reloads::default());
            assert_eq!(*read.borrow(), expected);
        };
        look(&[]);
        fs::write(&a, "22").unwrap();
        look(&[]);
        fs::write(&b, "22").unwrap();
        look(&[]);
        look(&["2222"]);
        look(&["2222"]);
        // Replaced by a rename, as careful programs do it, by something of the same length.
        fs::write(dir.path().join("new"), "33").unwrap();
        fs::rename(dir.path().join("new"), &b).unwrap();
        look(&["2222"]);
        look(&["2222", "2233"]);
        // What is gone is tried once, and again when it is back.
        fs::remove_file(&a).unwrap();
        look(&["2222", "2233"]);
        look(&["2222", "2233"]);
        fs::write(&a, "4").unwrap();
        look(&["2222", "2233"]);
        look(&["2222", "2233", "433"]);
    }
}
