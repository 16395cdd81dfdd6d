//! What an operator does with a data directory: verify, back up, restore; moving a store is in [`migrate`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tern_store::backup::{self, BackupError};
use tern_store::embedded::{self, Embedded, OpenError, Options};
use tern_store::migrate::{self as migration, MigrateError, Migration};
use tern_store::verify::{self, Totals};
use tern_store::{Corrupt, Kv, StoreError};
use thiserror::Error;

use crate::cli::{Backup, BackupFile, PlaceCommand, StoreCommand};
use crate::control::{self, AskError};
use crate::epoch;
use crate::interrupt::Interrupt;
use crate::migrate;

/// Findings that are printed; the rest is counted.
pub(crate) const FINDINGS_MAX: u64 = 1_000;
/// What is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Why it could not be done. The texts are for the operator.
#[derive(Debug, Error)]
pub enum OfflineError {
    /// There is nothing to work on.
    #[error(
        "there is no store in {0}: name the server's data directory (`data` in its configuration, `tern-data` of ternd dev)"
    )]
    NoStore(PathBuf),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine has met damage that it cannot tell.
    #[error("the storage engine has given up on {0}, which is damaged; a backup from before is the way back")]
    Engine(PathBuf),
    /// A file.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// There is no place for a backup.
    #[error(
        "there is no directory {0} to write the backup to: make it first, or choose another; nothing was done"
    )]
    NoDirectory(PathBuf),
    /// A file is in the way.
    #[error("{0} exists; nothing was done. Choose another name, or move it away")]
    Exists(PathBuf),
    /// A store is in the way.
    #[error("{0} exists; nothing was done. Move it away first; it may be wanted")]
    StoreExists(PathBuf),
    /// One directory too deep.
    #[error(
        "{0} is a store itself; nothing was done. Name the directory that is to have it, the server's `data`"
    )]
    IsStore(PathBuf),
    /// The same, under a name that is only used meanwhile.
    #[error(
        "{0} exists: either the same is being done at this moment, or it once did not come to its end. If it is the \
             latter, remove it; nothing was done"
    )]
    Unfinished(PathBuf),
    /// The backup.
    #[error("{path}: {error}")]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: BackupError,
    },
    /// Somebody has the store open, and gives no backup.
    #[error("{holder}. It gives no backup: {error}")]
    Refused {
        /// Who has it.
        holder: String,
        /// Why not.
        error: AskError,
    },
    /// The server ended the stream before its end.
    #[error(
        "the server has broken off the backup, so there is none; its log says why. If it is that something cannot be \
         read: keep the backups from before, stop the server, and let `ternd verify` say what it is and `ternd backup \
         --skip-damaged` save the rest"
    )]
    BrokenOff,
    /// A part of the store cannot be read.
    #[error(
        "{store} has a part that cannot be read ({corrupt}), so there is no backup. Keep the backups from before; \
         `ternd verify` says what is damaged, and --skip-damaged saves the rest"
    )]
    Unreadable {
        /// The store.
        store: PathBuf,
        /// Which part.
        corrupt: Corrupt,
    },
    /// The same, and a backup of the rest.
    #[error(
        "{path} was written without {} of the store that cannot be read. Keep the backups from before, and the store: \
         what is left out is in neither this backup nor in what it will be restored to",
        counted(*.lost, "part", "parts")
    )]
    LeftOut {
        /// The backup.
        path: PathBuf,
        /// How many.
        lost: u64,
    },
    /// Ctrl-C.
    #[error("stopped by a signal; nothing was made, and nothing is left of it")]
    Stopped,
    /// There is no room, for example.
    #[error("{path} could not be written, and nothing is left of it: {why}")]
    NotWritten {
        /// The new store.
        path: PathBuf,
        /// What the store says.
        why: String,
    },
    /// A store that is not whole.
    #[error("{store}: {migration}")]
    NotWhole {
        /// The store.
        store: PathBuf,
        /// What it is.
        migration: Box<Migration>,
    },
    /// Nothing to move.
    #[error("{0} is named as both source and target; nothing was done")]
    Same(String),
    /// A FoundationDB cluster cannot be opened.
    #[error("fdb:{0} cannot be opened: {1}")]
    FoundationDb(PathBuf, Box<crate::store::StoreError>),
    /// A store could not be moved.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// Something is wrong with what is stored.
    #[error("{}; a backup from before that is the way back", counted(*.0, "thing is wrong", "things are wrong"))]
    Wrong(u64),
    /// The same, of what went into a backup.
    #[error(
        "{path} was written, and {} damaged, as in the store. Keep the backups from \
             before; `ternd verify` says more",
        counted(*.wrong, "record in it is", "records in it are")
    )]
    Rotten {
        /// The backup.
        path: PathBuf,
        /// How many.
        wrong: u64,
    },
    /// The same, of a backup.
    #[error(
        "{} in the backup: it was restored to {path}, and not put into its place. To use it all \
             the same, rename that to {place}",
        counted(*.wrong, "thing is wrong", "things are wrong")
    )]
    Restored {
        /// How many.
        wrong: u64,
        /// Where it is.
        path: PathBuf,
        /// Where it would be used.
        place: PathBuf,
    },
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OfflineError + use<> {
    let path = path.to_owned();
    move |error| OfflineError::Io { path, error }
}

/// Somebody's file may be in the way.
fn claim_error(path: &Path) -> impl FnOnce(io::Error) -> OfflineError + use<> {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::AlreadyExists => OfflineError::Unfinished(path),
        _ => OfflineError::Io { path, error },
    }
}

/// Runs a command; `say` gets lines for people.
///
/// # Errors
/// [`OfflineError`].
pub fn run(command: StoreCommand, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), OfflineError> {
    match command {
        StoreCommand::Verify { data, .. } => verify(&data, say),
        StoreCommand::Backup(Backup { file: BackupFile { data, file }, skip_damaged }) => {
            let interrupt = Interrupt::listen().map_err(io_error(&file))?;
            let made = backup(&data, &file, skip_damaged, &interrupt, say);
            let totals = made.map_err(|error| error_or_stopped(error, &interrupt))?;
            say(&format!("{}: {} records, {} bytes", file.display(), totals.rows, totals.bytes));
            Ok(())
        }
        StoreCommand::Restore(BackupFile { data, file }) => {
            let interrupt = Interrupt::listen().map_err(io_error(&file))?;
            restore(&file, &data, &interrupt, say).map_err(|error| error_or_stopped(error, &interrupt))?;
            say(&format!("{} has what is in {}", data.display(), file.display()));
            Ok(())
        }
        StoreCommand::Store(PlaceCommand::Migrate(command)) => migrate::run(&command, say),
    }
}

/// What went wrong because of a signal did not go wrong.
fn error_or_stopped(error: OfflineError, interrupt: &Interrupt) -> OfflineError {
    match error {
        OfflineError::Io { .. } | OfflineError::Backup { .. } | OfflineError::BrokenOff
            if interrupt.has_come() =>
        {
            OfflineError::Stopped
        }
        error => error,
    }
}

/// Waits for something that reads a store. The engine meets some damage with a panic.
pub(crate) fn block_on<T>(store: &Path, future: impl Future<Output = T>) -> Result<T, OfflineError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(io_error(store))?;
    let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(future)));
    done.map_err(|_| OfflineError::Engine(store.to_owned()))
}

/// Opens a store as it is: what is wrong with its records is no reason to refuse.
pub(crate) fn open(store: &Path) -> Result<Embedded, OfflineError> {
    let options = Options { check_records: false, ..Options::default() };
    // Whoever writes is told of a failure.
    Ok(Embedded::open(store, options, Box::new(|_| {}))?)
}

/// The store of a data directory, which has to be there.
pub(crate) fn store_of(data: &Path) -> Result<PathBuf, OfflineError> {
    let store = data.join("store");
    if embedded::exists(&store)? { Ok(store) } else { Err(OfflineError::NoStore(data.to_owned())) }
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Prints findings up to a bound.
struct Findings<'a> {
    count: u64,
    say: &'a mut dyn FnMut(&str),
}

impl Findings<'_> {
    fn add(&mut self, corrupt: &Corrupt) {
        self.count += 1;
        if self.count <= FINDINGS_MAX {
            (self.say)(&corrupt.to_string());
        }
    }
}

/// Reads everything in the store of this data directory. `say` gets a line for each thing that is wrong, and at the end
/// one that says what was looked at.
///
/// # Errors
/// [`OfflineError::Wrong`] when something is; [`OfflineError::Open`] also when a server has the store open.
pub fn verify(data: &Path, say: &mut dyn FnMut(&str)) -> Result<(), OfflineError> {
    let store = store_of(data)?;
    let _lock = embedded::lock_directory(data)?;
    let kv = open(&store)?;
    if let Some(migration) = migration_of(&store, &kv)? {
        say(&format!("{}: {migration}", data.display()));
    }
    let totals = verify_store(&store, &kv, say)?;
    if totals.wrong == 0 { Ok(()) } else { Err(OfflineError::Wrong(totals.wrong)) }
}

fn migration_of(path: &Path, store: &Embedded) -> Result<Option<Migration>, OfflineError> {
    let tx = store.begin();
    Ok(block_on(path, migration::migration(&*tx))??)
}

fn verify_store(path: &Path, store: &Embedded, say: &mut dyn FnMut(&str)) -> Result<Totals, OfflineError> {
    let mut findings = Findings { count: 0, say };
    let tx = store.begin();
    let totals = block_on(path, verify::verify(&*tx, &mut |corrupt| findings.add(&corrupt)))??;
    let Totals { conversations, entries, members, windows, watermarks, wrong, unreadable } = totals;
    let incomplete = match unreadable {
        0 => String::new(),
        _ => format!(
            "; {} not be read, so there may be more",
            counted(unreadable, "part could", "parts could")
        ),
    };
    let looked_at = [
        counted(conversations, "conversation", "conversations"),
        counted(entries, "entry", "entries"),
        counted(members, "membership", "memberships"),
        counted(windows, "send window", "send windows"),
        counted(watermarks, "watermark", "watermarks"),
    ];
    let wrong = counted(wrong, "thing wrong", "things wrong");
    (findings.say)(&format!("{}: {wrong}{incomplete}", looked_at.join(", ")));
    Ok(totals)
}

pub(crate) fn counted(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// Writes a backup of this data directory's store to a new file, of one moment, whether a server runs on it or not, and
/// reads it back. `say` gets a line for each damaged record in it. With `skip_damaged`, which no server may run for, what
/// cannot be read is left out, and `say` gets a line for that.
///
/// # Errors
/// [`OfflineError::Rotten`] and [`OfflineError::LeftOut`] when there are such; else [`OfflineError`], and there is no
/// backup.
pub fn backup(
    data: &Path,
    file: &Path,
    skip_damaged: bool,
    interrupt: &Interrupt,
    say: &mut dyn FnMut(&str),
) -> Result<backup::Totals, OfflineError> {
    let store = store_of(data).map_err(|missing| match control::ask_for_backup(data) {
        // A server runs here whose data is elsewhere, and says so.
        Err(error @ AskError::Refused(_)) => {
            OfflineError::Refused { holder: format!("there is no store in {}", data.display()), error }
        }
        _ => missing,
    })?;
    if exists(file) {
        return Err(OfflineError::Exists(file.to_owned()));
    }
    let directory = parent(file);
    if !directory.is_dir() {
        return Err(OfflineError::NoDirectory(directory.to_owned()));
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
    let out = out.map_err(claim_error(&part))?;
    let source = Source { data, store: &store, skip_damaged };
    let made = write_backup(&source, &out, &part, interrupt, say).and_then(|made| {
        // Unlike a rename, this fails when somebody has made such a file meanwhile.
        std::fs::hard_link(&part, file).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => OfflineError::Exists(file.to_owned()),
            _ => OfflineError::Io { path: file.to_owned(), error },
        })?;
        Ok(made)
    });
    let _ = std::fs::remove_file(&part);
    let (totals, wrong, lost) = made?;
    sync_parent(file)?;
    let path = file.to_owned();
    match (wrong, lost) {
        (0, 0) => Ok(totals),
        (_, 0) => Err(OfflineError::Rotten { path, wrong }),
        _ => Err(OfflineError::LeftOut { path, lost }),
    }
}

/// What is backed up.
struct Source<'a> {
    data: &'a Path,
    store: &'a Path,
    skip_damaged: bool,
}

/// Returns what is in it, how many of the records are damaged, and how many parts are left out.
fn write_backup(
    &Source { data, store, skip_damaged }: &Source<'_>,
    file: &File,
    part: &Path,
    interrupt: &Interrupt,
    say: &mut dyn FnMut(&str),
) -> Result<(backup::Totals, u64, u64), OfflineError> {
    let mut out = interrupt.until(file);
    let mut lost = Findings { count: 0, say: &mut *say };
    // A server first: whoever has the store open keeps one from starting.
    let asked = if skip_damaged { None } else { Some(control::ask_for_backup(data)) };
    let is_streamed = match asked {
        Some(Ok(mut stream)) => {
            copy(&mut stream, &mut out, part)?;
            true
        }
        not_asked => {
            let _lock = embedded::lock_directory(data).map_err(|error| match (error, not_asked) {
                (error @ OpenError::InUse { .. }, Some(Err(asked))) => {
                    OfflineError::Refused { holder: error.to_string(), error: asked }
                }
                (error, _) => error.into(),
            })?;
            let kv = open(store)?;
            if let Some(migration @ Migration::Arriving(_)) = migration_of(store, &kv)? {
                return Err(OfflineError::NotWhole { store: store.to_owned(), migration: migration.into() });
            }
            let tx = kv.begin();
            let written = if skip_damaged {
                block_on(store, backup::write_readable(&*tx, &mut out, &mut |corrupt| lost.add(&corrupt)))?
            } else {
                block_on(store, backup::write(&*tx, &mut out))?
            };
            written.map_err(|error| match error {
                BackupError::Store(StoreError::Corrupt(corrupt)) => {
                    OfflineError::Unreadable { store: store.to_owned(), corrupt }
                }
                error => OfflineError::Backup { path: part.to_owned(), error },
            })?;
            false
        }
    };
    let lost = lost.count;
    file.sync_all().map_err(io_error(part))?;
    let input = interrupt.until(File::open(part).map_err(io_error(part))?);
    let mut findings = Findings { count: 0, say };
    let read = backup::read(buffered(input), async |rows| {
        let damaged = rows.iter().filter_map(|(key, value)| verify::record(key, value).err());
        damaged.for_each(|corrupt| findings.add(&corrupt));
        Ok(())
    });
    match block_on(part, read)? {
        Ok(totals) => Ok((totals, findings.count, lost)),
        Err(BackupError::Damaged(_) | BackupError::Unknown) if is_streamed => Err(OfflineError::BrokenOff),
        Err(error) => Err(OfflineError::Backup { path: part.to_owned(), error }),
    }
}

fn copy(stream: &mut impl Read, out: &mut impl Write, part: &Path) -> Result<(), OfflineError> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => out.write_all(&buffer[..read]).map_err(io_error(part))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(OfflineError::BrokenOff),
        }
    }
}

/// Makes a store in this data directory, which has none, from a backup, under a new epoch, and verifies it. `say` gets what
/// [`verify()`] says.
///
/// # Errors
/// [`OfflineError::Restored`] when something is wrong with what is in the backup; else [`OfflineError`], and nothing is
/// left of it.
pub fn restore(
    file: &Path,
    data: &Path,
    interrupt: &Interrupt,
    say: &mut dyn FnMut(&str),
) -> Result<backup::Totals, OfflineError> {
    let input = interrupt.until(File::open(file).map_err(io_error(file))?);
    let place = data.join("store");
    let building = data.join("store.restoring");
    if data.join("engine").exists() {
        return Err(OfflineError::IsStore(data.to_owned()));
    }
    let is_new = !exists(data);
    let lock = embedded::lock_directory(data)?;
    sync_parent(data)?;
    if exists(&place) {
        return Err(OfflineError::StoreExists(place));
    }
    DirBuilder::new().mode(0o700).create(&building).map_err(claim_error(&building))?;
    let restored = || {
        let store = open(&building)?;
        let epoch = epoch::fresh().map_err(io_error(&building))?;
        let totals = block_on(&building, backup::restore(buffered(input), &store, epoch))?;
        let totals = totals.map_err(|error| match error {
            BackupError::Commit(error) => {
                // Of what has stopped the store, a commit under way learns only that its outcome is unknown.
                let why = store.health().err().map_or_else(|| error.to_string(), |fatal| fatal.what);
                OfflineError::NotWritten { path: building.clone(), why }
            }
            error => OfflineError::Backup { path: file.to_owned(), error },
        })?;
        let wrong = verify_store(&building, &store, say)?.wrong;
        if interrupt.has_come() { Err(OfflineError::Stopped) } else { Ok((totals, wrong)) }
    };
    let (totals, wrong) = match restored() {
        Ok(restored) => restored,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&building);
            if is_new {
                lock.remove(data);
            }
            return Err(error);
        }
    };
    if wrong > 0 {
        return Err(OfflineError::Restored { wrong, path: building, place });
    }
    // A directory does not take the place of one that is not empty.
    std::fs::rename(&building, &place).map_err(io_error(&place))?;
    sync_parent(&place)?;
    Ok(totals)
}

fn buffered(input: impl Read) -> impl Read {
    BufReader::with_capacity(COPY_BYTES, input)
}

/// The directory that it is in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a new name durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), OfflineError> {
    let parent = parent(path);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(io_error(parent))
}
