//! The files beside the engine: lock, format, commit number.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::OpenError;

pub(super) const FORMAT: &str = "tern-store 2\n";
/// What `format` is called while the store is being created.
const UNFINISHED: &str = "format.new";

const LOCK: &str = "lock";

/// The engine's directory.
pub(super) fn engine_path(data: &Path) -> PathBuf {
    data.join("engine")
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |error| OpenError::Io { path, error }
}

/// Creates the data directory, readable by its owner only: it holds everybody's messages.
pub(super) fn create_directory(data: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io(data))
}

fn open_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Locks the directory for as long as the file lives.
pub(super) fn lock(data: &Path) -> Result<File, OpenError> {
    let path = data.join(LOCK);
    let mut file = open_file(&path).map_err(io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let holder = if known { format!("process {}", pid.trim()) } else { "another process".to_owned() };
            return Err(OpenError::InUse { path: data.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(OpenError::Io { path, error }),
    }
    let write = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    write.map_err(io(&path))?;
    Ok(file)
}

/// Whether there is nothing in the directory but its lock.
pub(super) fn is_only_locked(data: &Path) -> bool {
    std::fs::read_dir(data)
        .is_ok_and(|mut files| files.all(|file| file.is_ok_and(|file| file.file_name() == LOCK)))
}

/// Whether the directory holds a complete store; refuses one of another format.
pub(super) fn read_format(data: &Path) -> Result<bool, OpenError> {
    let path = data.join("format");
    match std::fs::read(&path) {
        Ok(found) if found == FORMAT.as_bytes() => Ok(true),
        Ok(found) => Err(OpenError::UnknownFormat {
            path: data.to_owned(),
            found: String::from_utf8_lossy(&found).trim().chars().take(80).collect(),
            known: FORMAT.trim_end(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::Io { path, error }),
    }
}

/// Begins to create a store: whatever is found beside this file and not beside `format` was never used.
pub(super) fn begin_creation(data: &Path) -> Result<(), OpenError> {
    let path = data.join(UNFINISHED);
    let written = open_file(&path).and_then(|mut file| {
        file.set_len(0)?;
        file.write_all(FORMAT.as_bytes())?;
        file.sync_all()
    });
    written.map_err(io(&path))?;
    sync_directory(data)
}

/// Whether a store was begun here and not finished.
pub(super) fn is_unfinished(data: &Path) -> bool {
    data.join(UNFINISHED).exists()
}

/// Removes what its creation has left.
pub(super) fn remove_unfinished(data: &Path) -> Result<(), OpenError> {
    let not_found_is_fine = |removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let (engine, commit) = (engine_path(data), data.join("commit"));
    not_found_is_fine(std::fs::remove_dir_all(&engine)).map_err(io(&engine))?;
    not_found_is_fine(std::fs::remove_file(&commit)).map_err(io(&commit))
}

/// Marks the store as complete: the last step of creating it.
pub(super) fn finish_creation(data: &Path) -> Result<(), OpenError> {
    let engine = engine_path(data);
    // The engine syncs what is in its keyspaces, but not where they themselves are.
    for directory in [engine.join("keyspaces"), engine] {
        sync_directory(&directory)?;
    }
    begin_creation(data)?;
    let path = data.join("format");
    std::fs::rename(data.join(UNFINISHED), &path).map_err(io(&path))?;
    sync_directory(data)
}

fn sync_directory(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io(path))
}

/// Makes the way to the store durable: nobody is told of a message while its directories may vanish. Those above the
/// file system's root, or that may not be read, are not ours.
pub(super) fn sync_path(data: &Path) -> Result<(), OpenError> {
    let data = data.canonicalize().map_err(io(data))?;
    let device = std::fs::metadata(&data).map_err(io(&data))?.dev();
    for directory in data.ancestors() {
        if std::fs::metadata(directory).map_err(io(directory))?.dev() != device {
            break;
        }
        match sync_directory(directory) {
            Err(OpenError::Io { error, .. }) if error.kind() == ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// The file `commit`: the number of the newest durable group, outside the engine.
///
/// Two slots of 24 bytes, written in turn, so that a write that is cut short leaves the other one:
/// `| "TernComm" | number, 8 bytes big-endian | crc32c of both, little-endian | 0000 |`
pub(super) struct Mirror {
    file: File,
    next_slot: u64,
}

const MAGIC: &[u8; 8] = b"TernComm";
const SLOT_BYTES: usize = 24;

impl Mirror {
    /// Opens it; the number that it says, or `None` when it does not exist yet.
    pub(super) fn open(data: &Path) -> Result<(Self, Option<u64>), OpenError> {
        let path = data.join("commit");
        let file = open_file(&path).map_err(io(&path))?;
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).map_err(io(&path))?;
        if bytes.is_empty() {
            return Ok((Self { file, next_slot: 0 }, None));
        }
        let newest = newest_slot(&bytes);
        match newest {
            Some((number, slot)) => Ok((Self { file, next_slot: 1 - slot }, Some(number))),
            None => Err(OpenError::Damaged {
                path,
                what: "is damaged; move the whole directory away and restore a backup".to_owned(),
            }),
        }
    }

    /// Writes the number, without a sync.
    pub(super) fn write(&mut self, number: u64) -> std::io::Result<()> {
        self.file.write_all_at(&encode_slot(number), self.next_slot * SLOT_BYTES as u64)?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }

    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

/// The number in this directory's file, written by whoever has the store open.
pub(super) fn read_mirror(data: &Path) -> Option<u64> {
    newest_slot(&std::fs::read(data.join("commit")).ok()?).map(|(number, _)| number)
}

/// The highest number, and the slot that it is in.
fn newest_slot(bytes: &[u8]) -> Option<(u64, u64)> {
    let slots = bytes.chunks(SLOT_BYTES).take(2).enumerate();
    slots.filter_map(|(slot, bytes)| Some((decode_slot(bytes)?, slot as u64))).max()
}

fn encode_slot(number: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&number.to_be_bytes());
    let sum = crc32c::crc32c(&slot[..16]);
    slot[16..20].copy_from_slice(&sum.to_le_bytes());
    slot
}

fn decode_slot(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
    (encode_slot(number) == bytes).then_some(number)
}
