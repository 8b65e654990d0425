//! Permissions of the files that a host writes.

/// Makes all files that the process creates from now on private to its owner: files 0600,
/// directories 0700, in all code of the process (the database's too). Existing files stay as they
/// are. It sets the process's umask, so call it first.
///
/// Does nothing where there is no umask.
pub fn private_files() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}
