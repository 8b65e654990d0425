//! Files that are written completely or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Replaces the file at `path`, so that readers find the old file or the new one, even after a
/// power cut: the new file is synced before it gets its name, and the name is synced before this
/// returns. Only its owner can read it.
///
/// There must be only one writer at a time, since two would share the temporary file.
///
/// # Errors
///
/// If it cannot be written. The file is then the old or the new one.
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

/// Creates a file.
///
/// # Errors
///
/// When the file exists, or cannot be written.
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

/// Creates a directory and its missing parents. All of their names are on stable storage when this
/// returns, including those that an interrupted earlier call created: otherwise a power cut could
/// remove the directory with synced files in it.
///
/// # Errors
///
/// When a directory cannot be created or synced. Call it again then.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // An absolute path, so that every parent directory has a name.
    let path = path.canonicalize()?;
    path.ancestors().skip(1).try_for_each(|above| match File::open(above) {
        Ok(directory) => directory.sync_all(),
        // Without the permission to read it, this process did not create it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    })
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
