//! What an operator does with a data directory: verify, back up, restore.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tern_store::backup::{self, BackupError};
use tern_store::embedded::{Embedded, OpenError, Options};
use tern_store::verify::{self, Totals};
use tern_store::{Corrupt, Kv, StoreError};
use thiserror::Error;

use crate::cli::{BackupFile, StoreCommand};
use crate::control;

/// Findings that are printed; the rest is counted.
const FINDINGS_MAX: u64 = 1_000;

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
    /// A file.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file is in the way.
    #[error("{0} exists; nothing was done. Choose another name, or move it away")]
    Exists(PathBuf),
    /// The backup.
    #[error("{path}: {error}")]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: BackupError,
    },
    /// The running server gives none.
    #[error("a server runs on {data} and gives no backup: {error}")]
    Refused {
        /// Its data directory.
        data: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something is wrong with what is stored.
    #[error("{0} things are wrong; a backup from before them is the way back")]
    Wrong(u64),
    /// The same of a backup.
    #[error(
        "{wrong} things are wrong in the backup: it was restored to {path}, and not put into its place. To use it all \
             the same, rename that to {place}"
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

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OfflineError + use<> {
    let path = path.to_owned();
    move |error| OfflineError::Io { path, error }
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, OfflineError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    Ok(runtime.map_err(io_error(Path::new("runtime")))?.block_on(future))
}

/// Runs a command; `say` gets lines for people.
///
/// # Errors
/// [`OfflineError`].
pub fn run(command: StoreCommand, say: &mut dyn FnMut(&str)) -> Result<(), OfflineError> {
    match command {
        StoreCommand::Verify { data } => verify(&data, say),
        StoreCommand::Backup(BackupFile { data, file }) => {
            let totals = backup(&data, &file)?;
            say(&format!("{}: {} records, {} bytes", file.display(), totals.rows, totals.bytes));
            Ok(())
        }
        StoreCommand::Restore(BackupFile { data, file }) => {
            restore(&file, &data, say)?;
            say(&format!("{} has what is in {}", data.display(), file.display()));
            Ok(())
        }
    }
}

/// Opens the store of a data directory as it is: what is wrong with its records is not a reason to refuse.
fn open(store: &Path) -> Result<Embedded, OfflineError> {
    let options = Options { check_records: false, ..Options::default() };
    let failed = |error: &tern_store::embedded::FatalError| eprintln!("ternd: {error}");
    Ok(Embedded::open(store, options, Box::new(failed))?)
}

/// The store of a data directory, which has to be there.
fn store_of(data: &Path) -> Result<PathBuf, OfflineError> {
    let store = data.join("store");
    if store.join("format").is_file() { Ok(store) } else { Err(OfflineError::NoStore(data.to_owned())) }
}

/// Reads everything in the store of this data directory. `say` gets a line for each thing that is wrong, and at the end
/// one that says what was looked at.
///
/// # Errors
/// [`OfflineError::Wrong`] when something is; [`OfflineError::Open`] also when a server has the store open.
pub fn verify(data: &Path, say: &mut dyn FnMut(&str)) -> Result<(), OfflineError> {
    let totals = verify_store(&open(&store_of(data)?)?, say)?;
    if totals.wrong == 0 { Ok(()) } else { Err(OfflineError::Wrong(totals.wrong)) }
}

fn verify_store(store: &Embedded, say: &mut dyn FnMut(&str)) -> Result<Totals, OfflineError> {
    let mut printed = 0;
    let totals = block_on(verify::verify(&*store.begin(), &mut |corrupt: Corrupt| {
        printed += 1;
        if printed <= FINDINGS_MAX {
            say(&corrupt.to_string());
        }
    }))??;
    let Totals { conversations, entries, members, windows, watermarks, wrong } = totals;
    say(&format!(
        "{conversations} conversations, {entries} entries, {members} memberships, {windows} send windows, {watermarks} \
         watermarks: {wrong} things wrong"
    ));
    Ok(totals)
}

/// Writes a backup of this data directory's store to a new file, of one moment, whether a server runs on it or not, and
/// reads it back.
///
/// # Errors
/// [`OfflineError`]; then there is no such file.
pub fn backup(data: &Path, file: &Path) -> Result<backup::Totals, OfflineError> {
    let store = store_of(data)?;
    if file.exists() {
        return Err(OfflineError::Exists(file.to_owned()));
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut out = OpenOptions::new();
    let out = out.write(true).create_new(true).mode(0o600).open(&part);
    let mut out = out.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => OfflineError::Exists(part.clone()),
        _ => OfflineError::Io { path: part.clone(), error },
    })?;
    let made = write_backup(data, &store, &mut out, &part)
        .and_then(|()| out.sync_all().map_err(io_error(&part)))
        .and_then(|()| check_backup(&part))
        .and_then(|totals| {
            std::fs::rename(&part, file).map_err(io_error(file))?;
            sync_parent(file)?;
            Ok(totals)
        });
    if made.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    made
}

fn write_backup(data: &Path, store: &Path, out: &mut File, part: &Path) -> Result<(), OfflineError> {
    let kv = match open(store) {
        Ok(kv) => kv,
        Err(OfflineError::Open(OpenError::InUse { .. })) => {
            let mut stream = control::ask_for_backup(data)
                .map_err(|error| OfflineError::Refused { data: data.to_owned(), error })?;
            io::copy(&mut stream, out).map_err(io_error(part))?;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let made = block_on(backup::write(&*kv.begin(), out))?;
    made.map(drop).map_err(|error| OfflineError::Backup { path: part.to_owned(), error })
}

fn check_backup(part: &Path) -> Result<backup::Totals, OfflineError> {
    let input = File::open(part).map_err(io_error(part))?;
    let read = block_on(backup::read(buffered(input), async |_| Ok(())))?;
    read.map_err(|error| OfflineError::Backup { path: part.to_owned(), error })
}

/// Makes a store in this data directory, which has none, from a backup, and verifies it. `say` gets what
/// [`verify`] says.
///
/// # Errors
/// [`OfflineError`]; then the data directory still has no store.
pub fn restore(file: &Path, data: &Path, say: &mut dyn FnMut(&str)) -> Result<backup::Totals, OfflineError> {
    let input = File::open(file).map_err(io_error(file))?;
    let place = data.join("store");
    let building = data.join("store.restoring");
    for path in [&place, &building] {
        if path.exists() {
            return Err(OfflineError::Exists(path.clone()));
        }
    }
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io_error(data))?;
    let restored = || {
        let store = open(&building)?;
        let totals = block_on(backup::restore(buffered(input), &store))?;
        let totals = totals.map_err(|error| OfflineError::Backup { path: file.to_owned(), error })?;
        Ok((totals, verify_store(&store, say)?.wrong))
    };
    let (totals, wrong) = restored().inspect_err(|_: &OfflineError| {
        let _ = std::fs::remove_dir_all(&building);
    })?;
    if wrong > 0 {
        return Err(OfflineError::Restored { wrong, path: building, place });
    }
    std::fs::rename(&building, &place).map_err(io_error(&place))?;
    sync_parent(&place)?;
    Ok(totals)
}

fn buffered(input: impl Read) -> impl Read {
    BufReader::with_capacity(1 << 20, input)
}

/// Makes a new name durable.
fn sync_parent(path: &Path) -> Result<(), OfflineError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(io_error(parent))
}
