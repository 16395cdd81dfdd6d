//! Key files: whole or absent, never half written, private ones readable by the server only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner: mode 0600.
    Owner,
    /// Anybody: mode 0644.
    Everybody,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }
}

/// The file's contents, or `None` if there is none.
pub(crate) fn read(path: &Path, access: Access) -> io::Result<Option<Vec<u8>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if access == Access::Owner {
        warn_if_open(path)?;
    }
    Ok(Some(bytes))
}

/// Says so when others may use a private key, or a secret that is shared.
pub(crate) fn warn_if_open(path: &Path) -> io::Result<()> {
    let file = fs::metadata(path)?;
    if is_open_to_others(file.mode(), file.gid(), &own_groups()?) {
        warn!(
            path = %path.display(),
            "a private key that others on this machine may read or replace: chmod 600, or 640 with a group of the \
             server's user"
        );
    }
    Ok(())
}

/// Whether anybody may use a private key but its owner and those with whom the server shares a group: what renews
/// certificates often leaves them as `root:tern 640`.
fn is_open_to_others(mode: u32, group: u32, own_groups: &[u32]) -> bool {
    const OTHERS: u32 = 0o007;
    const GROUP_READS: u32 = 0o040;
    const GROUP_MORE: u32 = 0o030;
    mode & (OTHERS | GROUP_MORE) != 0 || mode & GROUP_READS != 0 && !own_groups.contains(&group)
}

/// The groups of this process.
fn own_groups() -> io::Result<Vec<u32>> {
    let further = rustix::process::getgroups()?;
    Ok(further.into_iter().chain([rustix::process::getegid()]).map(rustix::process::Gid::as_raw).collect())
}

/// The file's contents after it has been made out of `make`, unless it was there before, perhaps because another
/// process was quicker.
pub(crate) fn read_or_create<E: From<io::Error>>(
    path: &Path,
    access: Access,
    make: impl FnOnce() -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    if let Some(bytes) = read(path, access)? {
        return Ok(bytes);
    }
    let bytes = make()?;
    let temporary = write_temporary(path, access, &bytes)?;
    // Unlike a rename, a link never replaces what is there.
    let linked = fs::hard_link(&temporary, path);
    match linked {
        Ok(()) => fs::remove_file(&temporary)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&temporary)?;
            return Ok(read(path, access)?.unwrap_or(bytes));
        }
        // A file system without links.
        Err(_) => fs::rename(&temporary, path)?,
    }
    sync_directory(path)?;
    Ok(bytes)
}

/// Puts new contents in the place of the old, in one step.
pub(crate) fn replace(path: &Path, access: Access, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(path, access, bytes)?;
    fs::rename(&temporary, path)?;
    sync_directory(path)
}

fn write_temporary(path: &Path, access: Access, bytes: &[u8]) -> io::Result<PathBuf> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    // What a process with this number left behind when it was stopped here.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(temporary)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_the_server_and_its_group() {
        for (mode, group, open) in [
            (0o600, 7, false),
            (0o400, 1, false),
            (0o640, 7, false),
            (0o440, 8, false),
            (0o640, 1, true),
            (0o660, 7, true),
            (0o604, 7, true),
            (0o644, 7, true),
            (0o602, 7, true),
        ] {
            assert_eq!(is_open_to_others(0o100_000 | mode, group, &[7, 8]), open, "{mode:o} {group}");
        }
    }
}
