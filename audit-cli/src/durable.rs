//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Puts a file in the place of the one at `path`, so that whoever looks finds the old one or the
/// new one, also after a power cut: the new one is synced before it gets the name, and the name
/// is synced before this returns. It is for its owner alone.
///
/// One writer at a time: two would share the file beside it.
///
/// # Errors
///
/// When it cannot be written. The old one then stands, or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let mut file = private().create(true).truncate(true).open(beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    sync_directory_of(path)
}

/// Writes a file where none is.
///
/// # Errors
///
/// When there is one, or it cannot be written.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = private().create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    sync_directory_of(path)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a directory, and those above it that are missing. All of their names are on stable storage
/// when this returns, also those that an earlier call made before it was interrupted: without that,
/// a power cut could take the directory with synced files in it.
///
/// # Errors
///
/// When a directory cannot be made or synced. Call it again then.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Absolute, so that every directory above it has a name.
    let path = path.canonicalize()?;
    path.ancestors().skip(1).try_for_each(|above| match File::open(above) {
        Ok(directory) => directory.sync_all(),
        // It may only be passed through, so it is none that this made.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    })
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
