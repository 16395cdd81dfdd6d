//! Small files of the application that are read and replaced as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The text; `None`: there is no such file.
///
/// # Errors
/// When it is there and cannot be read, or is longer than so many bytes: it is not ours.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(meta) if meta.len() > bytes_max => return Err(io::Error::other("it is too large to be one")),
        other => other?,
    };
    fs::read_to_string(path).map(Some)
}

/// Replaces the file, for nobody else to read, so that a crash leaves the old one or the new one.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = PathBuf::from(path).into_os_string();
    // Several commands may be at it.
    new.push(format!(".new-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}
