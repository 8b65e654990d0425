//! Permissions of the files that a host writes.

/// Makes all files that the process creates from now on private to its owner: files 0600,
/// directories 0700. This applies to all code of the process, including the database's. Existing
/// files are unchanged. It sets the process's umask, so call it first.
///
/// Does nothing on systems without a umask.
pub fn private_files() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}
