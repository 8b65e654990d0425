//! Who may read what a host writes.

/// From here on whatever the process creates is for its owner alone: files are 0600 and directories
/// 0700, in whose code ever they are made (the database's too). What exists stays as it is. Call it
/// first: it is the process's umask.
///
/// Does nothing where there is no umask.
pub fn private_files() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}
