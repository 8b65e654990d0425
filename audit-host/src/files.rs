//! The files that a host writes, and those that people write for it.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
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

/// The largest text that [`read_text`] reads, in bytes: the tenants of a large host, many times.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Reads a text that a person wrote, such as settings or a key, from a file or a pipe. Leaves out a
/// byte order mark, which some editors put before a text.
///
/// # Errors
///
/// If it cannot be read, is not UTF-8, or is longer than 64 MiB: a device may have no end.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        let what = format!("it exceeds limit of {MAX_TEXT_BYTES} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    let mut text = String::from_utf8(bytes)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
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

    #[test]
    fn texts_are_read_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        for (content, text) in [
            (&b""[..], Some("")),
            (b"a = 1\r\n", Some("a = 1\r\n")),
            (b"\xef\xbb\xbfa = 1", Some("a = 1")),
            // UTF-16, as some editors write it.
            (b"\xff\xfea\0", None),
            (b"\xe9", None),
        ] {
            std::fs::write(&file, content).unwrap();
            let read = read_text(&file);
            assert_eq!(read.as_deref().ok(), text, "{content:?}");
            assert!(read.is_ok() || read.unwrap_err().to_string() == "it is not UTF-8 text");
        }
        assert!(read_text(directory.path()).is_err());
        if cfg!(unix) {
            let error = read_text(Path::new("/dev/zero")).unwrap_err();
            assert_eq!(error.to_string(), "it exceeds limit of 67108864 bytes");
        }
    }

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
