//! The files that a host writes, and those that people write for it.

use std::path::{Path, PathBuf};

/// Makes all files that the process creates from now on private to its owner: files 0600,
/// directories 0700. This applies to all code of the process, including the database's. Existing
/// files are unchanged. It sets the process's umask, so call it first.
///
/// Does nothing on systems without a umask.
pub fn private_files() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// The settings file to read: the one that is named, or else the default one if it exists.
///
/// A link exists even if it leads nowhere. To read it then fails, so that no host starts with other
/// settings than it was given.
pub fn settings_file(named: Option<PathBuf>, default: impl AsRef<Path>) -> Option<PathBuf> {
    let default = default.as_ref();
    named.or_else(|| default.symlink_metadata().is_ok().then(|| default.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_default_settings_file_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        for name in ["file", "directory", "dangling", "loop"] {
            assert_eq!(settings_file(None, at(name)), Some(at(name)));
        }
        assert_eq!(settings_file(None, at("nothing")), None);
        assert_eq!(settings_file(Some(at("named")), at("file")), Some(at("named")));
    }
}
