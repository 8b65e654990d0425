//! Opening files that others may have replaced.

use std::error::Error;
use std::fs::{self, File, FileType, OpenOptions};
use std::io;
use std::path::Path;

use crate::sources::with_wrapped;

/// Opens a regular file for reading. Fails at once for everything else that may have its name:
/// opening a pipe would wait for a writer, reading a device might never end, and a link may lead
/// anywhere.
///
/// # Errors
///
/// If the file cannot be opened, or is not regular ([`is_not_regular`]).
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_regular_with(File::options().read(true), path)
}

/// Like [`open_regular`], with these options, which must not create the file.
///
/// # Errors
///
/// Those of [`open_regular`].
pub fn open_regular_with(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(not_regular(kind));
    }
    let mut options = options.clone();
    // If a pipe or a link takes its place now, the call does not wait and does not follow.
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let flags = flags.bits().cast_signed();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
    }
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(not_regular(kind)) }
}

/// Opens a regular file for reading and writing, or creates it, accessible only to its owner.
pub(crate) fn open_or_create_regular(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    let mut new = options.clone();
    // Creation fails if the name is taken, even by a link.
    new.create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut new, 0o600);
    let is = |opened: &io::Result<File>, kind| matches!(opened, Err(e) if e.kind() == kind);
    // Retries, because other processes may create the file after the first call and remove it after
    // the second.
    loop {
        let opened = open_regular_with(&options, path);
        if !is(&opened, io::ErrorKind::NotFound) {
            return opened;
        }
        let created = new.open(path);
        if !is(&created, io::ErrorKind::AlreadyExists) {
            return created;
        }
    }
}

fn not_regular(kind: FileType) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, NotRegular(name(kind)))
}

/// Whether an error, or one of its sources, is that of [`open_regular`] for a file that is not
/// regular.
pub fn is_not_regular(error: &(dyn Error + 'static)) -> bool {
    with_wrapped(error).any(|error| error.is::<NotRegular>())
}

#[derive(Debug, thiserror::Error)]
#[error("it is {0}, not a regular file")]
struct NotRegular(&'static str);

fn name(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a directory" } else { "a link" }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_regular_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "x").unwrap();
        let mut text = String::new();
        open_regular(&at("file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");

        fs::create_dir(at("directory")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        for (path, what) in [
            (at("directory"), "a directory"),
            (at("link"), "a link"),
            (at("loop"), "a link"),
            (at("socket"), "a socket"),
            (at("pipe"), "a pipe"),
            ("/dev/zero".into(), "a device"),
        ] {
            let error = open_regular(&path).unwrap_err();
            assert!(is_not_regular(&error), "{what}: {error:?}");
            assert_eq!(error.to_string(), format!("it is {what}, not a regular file"));
        }
        let error = open_regular(&at("nothing")).unwrap_err();
        assert!(error.kind() == io::ErrorKind::NotFound && !is_not_regular(&error));
    }

    #[test]
    fn a_file_that_others_create_and_remove_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        open_or_create_regular(&path).unwrap();
                        // Another thread may have removed it.
                        let _ = fs::remove_file(&path);
                    }
                });
            }
        });
    }
}
