//! Reading files that people name in settings.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// The largest file that [`read_bytes`] reads, in bytes: the tenants of a large host, many times.
const MAX_BYTES: u64 = 64 << 20;

/// Reads what a person wrote, such as a key or a certificate, from a file or a pipe.
///
/// # Errors
///
/// If it cannot be read, or is longer than 64 MiB: a device may have no end. A pipe that is
/// not written to its end within 10 seconds is an error too.
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    #[cfg(unix)]
    if std::os::unix::fs::FileTypeExt::is_fifo(&fs::metadata(path)?.file_type()) {
        return read_in_time(path, PATIENCE);
    }
    read_to_end(path)
}

/// As [`read_bytes`], for text. Leaves out a byte order mark, which some editors put before a text.
///
/// # Errors
///
/// Those of [`read_bytes`], and if it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::from_utf8(read_bytes(path)?)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// How long an input that can wait, such as a pipe, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads what may never begin or end: opening a pipe waits for a writer. A thread waits for it, and
/// is left behind if that takes too long.
fn read_in_time(path: &Path, patience: Duration) -> io::Result<Vec<u8>> {
    let (sender, read) = channel();
    let path = path.to_owned();
    let thread = std::thread::Builder::new().name("audit-input".to_owned());
    thread.spawn(move || {
        // The receiver may have given up.
        let _ = sender.send(read_to_end(&path));
    })?;
    read.recv_timeout(patience).unwrap_or_else(|_| {
        let what = format!("it is a pipe, and was not written to its end within {patience:?}");
        Err(io::Error::new(ErrorKind::TimedOut, what))
    })
}

fn read_to_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let what = format!("it exceeds limit of {MAX_BYTES} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
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
            fs::write(&file, content).unwrap();
            let read = read_text(&file);
            assert_eq!(read.as_deref().ok(), text, "{content:?}");
            assert!(read.is_ok() || read.unwrap_err().to_string() == "it is not UTF-8 text");
            assert_eq!(read_bytes(&file).unwrap(), content);
        }
        assert!(read_text(directory.path()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_pipes_end() {
        use std::io::Write as _;
        let error = read_text(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "it exceeds limit of 67108864 bytes");

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let mkfifo = || {
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        };
        mkfifo();
        let error = read_in_time(&path, Duration::from_millis(1)).unwrap_err();
        let what = "it is a pipe, and was not written to its end within 1ms";
        assert_eq!(error.to_string(), what);
        // The thread that was left behind would read what is written.
        fs::remove_file(&path).unwrap();
        mkfifo();
        let content = "x".repeat(200_000);
        let read = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = File::options().write(true).open(&path).unwrap();
                content.as_bytes().chunks(7_919).for_each(|part| writer.write_all(part).unwrap());
            });
            read_text(&path).unwrap()
        });
        assert!(read == content);
    }
}
