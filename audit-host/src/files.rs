//! Permissions of the files that a host writes.

use std::path::Path;

/// Makes all files that the process creates from now on private to its owner: files 0600,
/// directories 0700. This applies to all code of the process, including the database's. Existing
/// files are unchanged. It sets the process's umask, so call it first.
///
/// Does nothing on systems without a umask.
pub fn private_files() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Creates a directory and its parents, accessible only to its owner (0700) whatever the process's
/// umask. An existing directory keeps its permissions.
///
/// # Errors
///
/// If it cannot be created.
pub fn make_private_directory(directory: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}
