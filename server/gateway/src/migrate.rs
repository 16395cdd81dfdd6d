//! `ternd store migrate`: opens the two stores, keeps servers off them, and says how far it has got.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use tern_store::embedded::{self, DirectoryLock};
use tern_store::migrate::{self, Attendant, MigrateError, MigrationId, Outcome, Place, Progress, Step};
use tern_store::{BoxFuture, Corrupt, Kv};

use crate::cli::Migrate;
use crate::interrupt::Interrupt;
use crate::offline::{self, OfflineError, counted};
use crate::store;

/// Between two lines that say how far it has got.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Where a store is: `embedded:DIR` or `fdb:FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In this data directory.
    Embedded(PathBuf),
    /// In the FoundationDB cluster of this cluster file.
    FoundationDb(PathBuf),
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("embedded", path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            Some(("fdb", path)) if !path.is_empty() => Ok(Self::FoundationDb(path.into())),
            _ => Err(
                "expected embedded:DIR with a server's data directory, such as embedded:/var/lib/tern, or \
                      fdb:FILE with a cluster file, such as fdb:/etc/foundationdb/fdb.cluster"
                    .to_owned(),
            ),
        }
    }
}

impl Location {
    /// Whether it is the same place, perhaps by another name.
    fn is_same(&self, other: &Self) -> bool {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match (self, other) {
            (Self::Embedded(one), Self::Embedded(other))
            | (Self::FoundationDb(one), Self::FoundationDb(other)) => real(one) == real(other),
            (Self::Embedded(_), Self::FoundationDb(_)) | (Self::FoundationDb(_), Self::Embedded(_)) => false,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "embedded:{}", path.display()),
            Self::FoundationDb(path) => write!(f, "fdb:{}", path.display()),
        }
    }
}

/// A store that nobody else has; the store is dropped before the lock.
struct Opened {
    name: String,
    kv: Arc<dyn Kv>,
    made: Option<Made>,
    _lock: Option<DirectoryLock>,
}

/// What was made to open it.
struct Made {
    store: PathBuf,
    /// The directory that it is in, if that is new as well.
    data: Option<PathBuf>,
}

impl Opened {
    fn place(&self) -> Place<'_> {
        Place { kv: &*self.kv, name: &self.name }
    }

    /// Closes it, and leaves nothing of what was made to open it, in which nothing is.
    fn unmake(self) {
        let Self { kv, made, _lock: lock, .. } = self;
        drop(kv);
        let Some(Made { store, data }) = made else { return };
        // Whoever cannot, leaves an empty store.
        let _ = std::fs::remove_dir_all(store);
        if let Some((lock, data)) = lock.zip(data) {
            lock.remove(&data);
        }
    }
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Source,
    Target,
}

fn open(location: &Location, role: Role) -> Result<Opened, OfflineError> {
    match location {
        Location::Embedded(data) => open_embedded(data, role),
        Location::FoundationDb(file) => open_foundationdb(file),
    }
}

/// The source has to be there; a target is made.
fn open_embedded(data: &Path, role: Role) -> Result<Opened, OfflineError> {
    let store = match role {
        Role::Source => offline::store_of(data)?,
        Role::Target if data.join("engine").exists() => return Err(OfflineError::IsStore(data.to_owned())),
        Role::Target => data.join("store"),
    };
    let is_new = !data.exists();
    let lock = embedded::lock_directory(data)?;
    offline::sync_parent(data)?;
    let restoring = data.join("store.restoring");
    if restoring.exists() {
        return Err(OfflineError::Unfinished(restoring));
    }
    let made = match embedded::exists(&store)? {
        true => None,
        false => Some(Made { store: store.clone(), data: is_new.then(|| data.to_owned()) }),
    };
    let kv = offline::open(&store)?;
    // A name that is good from everywhere.
    let data = data.canonicalize().map_err(offline::io_error(data))?;
    let name = Location::Embedded(data).to_string();
    Ok(Opened { name, kv: Arc::new(kv), made, _lock: Some(lock) })
}

fn open_foundationdb(file: &Path) -> Result<Opened, OfflineError> {
    let opened = store::open_cluster(file, "");
    let kv = opened.map_err(|error| OfflineError::FoundationDb(file.to_owned(), Box::new(error)))?;
    // A name that is good from everywhere.
    let file = file.canonicalize().map_err(offline::io_error(file))?;
    Ok(Opened { name: Location::FoundationDb(file).to_string(), kv, made: None, _lock: None })
}

/// Runs the command; `say` gets lines for people.
///
/// # Errors
/// [`OfflineError`].
pub fn run(command: &Migrate, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), OfflineError> {
    if command.to.as_ref().is_some_and(|to| to.is_same(&command.from)) {
        return Err(OfflineError::Same(command.from.to_string()));
    }
    let interrupt = Interrupt::listen().map_err(offline::io_error(Path::new("signals")))?;
    let source = open(&command.from, Role::Source)?;
    let target = command.to.as_ref().map(|to| open(to, Role::Target)).transpose()?;
    let mut guide = Guide {
        from: &source.name,
        to: target.as_ref().map_or("", |target| &target.name),
        say,
        interrupt: &interrupt,
        current: None,
        found: 0,
    };
    let done = if command.abandon {
        let given_up = migrate::abandon(source.place(), target.as_ref().map(Opened::place), &mut guide);
        run_to_the_end(&source.name, given_up)?.map(|()| {
            guide.end();
            let left = match guide.to {
                "" => "what has arrived in the target will not be served, and can be removed".to_owned(),
                to => format!("{to} is empty"),
            };
            (guide.say)(&format!("{} can be served again; {left}", guide.from));
        })
    } else {
        let target = target.as_ref().ok_or_else(|| OfflineError::Same(source.name.clone()))?;
        let mut id = [0; 16];
        let random =
            rand::fill(&mut id).map_err(|_| std::io::Error::other("the system has no random numbers"));
        random.map_err(offline::io_error(Path::new("/dev/urandom")))?;
        let moved = migrate::migrate(source.place(), target.place(), MigrationId(id), &mut guide);
        run_to_the_end(&source.name, moved)?.map(|outcome| {
            guide.end();
            guide.say_outcome(outcome);
        })
    };
    if let (Some(target), true) = (target, done.as_ref().is_err_and(MigrateError::is_refusal)) {
        target.unmake();
    }
    Ok(done?)
}

/// The engine meets some damage with a panic.
fn run_to_the_end<T>(
    source: &str,
    future: impl Future<Output = Result<T, MigrateError>>,
) -> Result<Result<T, MigrateError>, OfflineError> {
    offline::block_on(Path::new(source), future)
}

/// Says how far it has got.
struct Guide<'a> {
    from: &'a str,
    to: &'a str,
    say: &'a mut (dyn FnMut(&str) + Send),
    interrupt: &'a Interrupt,
    current: Option<Current>,
    found: u64,
}

/// A step under way.
struct Current {
    first: Progress,
    last: Progress,
    since: Instant,
    said: Instant,
}

impl Current {
    /// Keys and bytes a second, of this run.
    fn rates(&self) -> (f64, f64) {
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let rate = |first: u64, last: u64| last.saturating_sub(first) as f64 / seconds;
        (rate(self.first.rows, self.last.rows), rate(self.first.bytes, self.last.bytes))
    }

    fn line(&self, is_over: bool) -> String {
        let Progress { rows, bytes, expected, .. } = self.last;
        let (rows_rate, bytes_rate) = self.rates();
        let of = if expected > 0 && !is_over { format!(" of about {expected}") } else { String::new() };
        let left = expected.saturating_sub(rows) as f64 / rows_rate;
        let end = match is_over {
            true => format!("in {:.0} s", self.since.elapsed().as_secs_f64()),
            false if left.is_finite() && left > 0.0 => format!("about {} left", duration(left)),
            false => format!("{:.0} s so far", self.since.elapsed().as_secs_f64()),
        };
        format!("  {rows}{of} keys, {}, {:.1} MB/s, {end}", megabytes(bytes), bytes_rate / 1e6)
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Rounded up to what one waits for.
fn duration(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", (seconds / 60.0).ceil()) }
}

impl Guide<'_> {
    /// The step that was under way is over.
    fn end(&mut self) {
        if let Some(current) = self.current.take() {
            (self.say)(&current.line(true));
        }
    }

    fn begin(&mut self, progress: &Progress) {
        self.end();
        let (from, to) = (self.from, self.to);
        let line = match progress.step {
            Step::VerifySource => format!("looking for anything wrong in {from}"),
            Step::Copy if progress.rows > 0 => {
                format!("going on with copying to {to}, which has {} keys already", progress.rows)
            }
            Step::Copy => format!("copying to {to}"),
            Step::Compare => "comparing the two".to_owned(),
            Step::VerifyTarget => format!("looking for anything wrong in {to}"),
            Step::Clear => format!("removing what has arrived in {to}"),
        };
        (self.say)(&line);
        let now = Instant::now();
        self.current = Some(Current { first: *progress, last: *progress, since: now, said: now });
    }

    fn say_outcome(&mut self, outcome: Outcome) {
        let (from, to) = (self.from, self.to);
        let line = match outcome {
            Outcome::Moved(tally, totals) => format!(
                "{to} has everything that was in {from}: {} keys, {} (CRC-32C {:08x}), {}, {}",
                tally.rows,
                megabytes(tally.bytes),
                tally.sum,
                counted(totals.conversations, "conversation", "conversations"),
                counted(totals.entries, "entry", "entries"),
            ),
            Outcome::Already => format!("everything has moved from {from} to {to}, before this run"),
        };
        (self.say)(&line);
        (self.say)(&format!(
            "Serve {to} from now on: {from} is kept, and refuses. To come back without losing anything, move the old store \
             away and migrate the other way round"
        ));
    }
}

impl Attendant for Guide<'_> {
    fn at(&mut self, progress: &Progress) -> ControlFlow<()> {
        match &mut self.current {
            Some(current) if current.last.step == progress.step => {
                current.last = *progress;
                if current.said.elapsed() >= SAY_EVERY {
                    current.said = Instant::now();
                    let line = current.line(false);
                    (self.say)(&line);
                }
            }
            _ => self.begin(progress),
        }
        if self.interrupt.has_come() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn found(&mut self, corrupt: Corrupt) {
        self.found += 1;
        if self.found <= offline::FINDINGS_MAX {
            (self.say)(&corrupt.to_string());
        }
    }

    fn pause(&mut self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let parsed = |text: &str| text.parse::<Location>();
        assert_eq!(parsed("embedded:a:b"), Ok(Location::Embedded("a:b".into())));
        assert_eq!(parsed("fdb:/etc/fdb.cluster"), Ok(Location::FoundationDb("/etc/fdb.cluster".into())));
        for wrong in ["", "/var/lib/tern", "embedded:", "fdb:", "redis:x"] {
            assert!(parsed(wrong).is_err_and(|said| said.contains("embedded:DIR")), "{wrong}");
        }
    }

    #[test]
    fn what_is_said_of_the_time() {
        let at = |rows| Progress { step: Step::Copy, rows, bytes: rows * 1_000, expected: 3_000 };
        let since = Instant::now() - Duration::from_secs(10);
        let current = Current { first: at(1_000), last: at(2_000), since, said: since };
        assert_eq!(current.line(false), "  2000 of about 3000 keys, 2.0 MB, 0.1 MB/s, about 10 s left");
        assert_eq!(current.line(true), "  2000 keys, 2.0 MB, 0.1 MB/s, in 10 s");
        assert_eq!(duration(100.0), "2 min");
    }
}
