//! Reading files that people name in settings.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// The largest file that is read into memory, in bytes: many times the list of a large host's
/// tenants.
const MAX_BYTES: u64 = 64 << 20;

/// Reads what a person wrote, such as a key or a certificate, from a file or a pipe.
///
/// # Errors
///
/// If it cannot be read, or is longer than 64 MiB: a device may have no end. A pipe that is
/// not written to its end within 10 seconds is an error too.
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    if !is_pipe(path)? {
        return read_input(File::open(path)?);
    }
    let what = "was not written to its end";
    in_time(path, PATIENCE, what, |path| read_input(File::open(path)?))
}

/// Reads an open input, such as standard input, to its end.
///
/// # Errors
///
/// If it cannot be read, or is longer than 64 MiB.
pub fn read_input(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let what = format!("it exceeds limit of {MAX_BYTES} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
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

/// As [`read_text`], for a private key or another text that only its owner may use.
///
/// # Errors
///
/// Those of [`read_text`]. On Unix also if its mode grants anything to the group or others, unless
/// it is in the directory that systemd's `CREDENTIALS_DIRECTORY` names.
pub fn read_private_text(path: &Path) -> io::Result<String> {
    let text = read_text(path)?;
    check_permissions(path)?;
    Ok(text)
}

#[cfg(unix)]
fn check_permissions(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = path.metadata()?.permissions().mode() & 0o777;
    // systemd grants access to the directory of its credentials to this unit alone, by an access
    // control list that looks like group permissions.
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let is_credential = credentials.is_some_and(|directory| path.starts_with(directory));
    if mode & 0o077 == 0 || is_credential {
        return Ok(());
    }
    let message = format!("others may use it (mode {mode:03o}): chmod 600 it");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

#[cfg(not(unix))]
fn check_permissions(_: &Path) -> io::Result<()> {
    Ok(())
}

/// The lines of a text of any length, such as a table that a database exported, one at a time from
/// a file or a pipe.
#[derive(Debug)]
pub struct InputLines {
    input: BufReader<File>,
    line: Vec<u8>,
    /// The number of the line that was read last, counted from 1.
    number: u64,
}

impl InputLines {
    /// The longest line, in bytes: a device may have no end.
    pub const MAX_BYTES: usize = 64 << 10;

    /// Opens a file or a pipe.
    ///
    /// # Errors
    ///
    /// If it cannot be opened. A pipe that nobody opens for writing within 10 seconds is an error
    /// too. Once the pipe is open, its writer may take longer.
    pub fn open(path: &Path) -> io::Result<InputLines> {
        let file = match is_pipe(path)? {
            false => File::open(path)?,
            true => {
                let what = "nobody opened it for writing";
                in_time(path, PATIENCE, what, |path| File::open(path))?
            }
        };
        Ok(InputLines { input: BufReader::new(file), line: Vec::new(), number: 0 })
    }

    /// The next line with its line feed, which the last one may lack. `None` at the end.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is longer than [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.number += 1;
        let most = Self::MAX_BYTES;
        (&mut self.input).take(most as u64 + 1).read_until(b'\n', &mut self.line)?;
        if self.line.len() > most {
            let what = format!("line {} exceeds limit of {most} bytes", self.number);
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        Ok((!self.line.is_empty()).then_some(&self.line[..]))
    }

    /// As [`next_line`](Self::next_line), as text without its line break and without a byte order
    /// mark.
    ///
    /// # Errors
    ///
    /// Those of [`next_line`](Self::next_line), and if it is not UTF-8.
    pub fn next_text(&mut self) -> io::Result<Option<&str>> {
        let number = self.number + 1;
        let Some(line) = self.next_line()? else { return Ok(None) };
        let line = std::str::from_utf8(line).map_err(|_| {
            io::Error::new(ErrorKind::InvalidData, format!("line {number} is not UTF-8 text"))
        })?;
        let line = if number == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let line = line.strip_suffix('\n').unwrap_or(line);
        Ok(Some(line.strip_suffix('\r').unwrap_or(line)))
    }
}

/// Whether this is a pipe. Opening one waits for a writer, and reading it waits for data.
fn is_pipe(path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::FileTypeExt::is_fifo(&fs::metadata(path)?.file_type()));
    #[cfg(not(unix))]
    return Ok(false);
}

/// How long to wait for a pipe to be opened for writing or, if it is read whole, to be written to
/// its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `read`, which may never return, in a thread. After `patience`, fails and leaves the thread
/// behind.
fn in_time<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    what: &str,
    read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = channel();
    let path = path.to_owned();
    let thread = std::thread::Builder::new().name("audit-input".to_owned());
    thread.spawn(move || {
        // The caller may have stopped waiting.
        let _ = sender.send(read(&path));
    })?;
    result.recv_timeout(patience).unwrap_or_else(|_| {
        let what = format!("it is a pipe, and {what} within {patience:?}");
        Err(io::Error::new(ErrorKind::TimedOut, what))
    })
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

    #[test]
    fn lines_are_read_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let texts = |content: &[u8]| -> io::Result<Vec<String>> {
            fs::write(&file, content)?;
            let (mut lines, mut texts) = (InputLines::open(&file)?, Vec::new());
            while let Some(line) = lines.next_text()? {
                texts.push(line.to_owned());
            }
            Ok(texts)
        };
        assert_eq!(texts(b"").unwrap(), [""; 0]);
        assert_eq!(texts(b"\xef\xbb\xbfa\r\n\n\xef\xbb\xbfb").unwrap(), ["a", "", "\u{feff}b"]);
        let longest = "x".repeat(InputLines::MAX_BYTES - 1) + "\n";
        assert_eq!(texts(longest.repeat(2).as_bytes()).unwrap(), [longest.trim_end(); 2]);
        for (content, says) in [
            (format!("a\nx{longest}").into_bytes(), "line 2 exceeds limit of 65536 bytes"),
            // UTF-16, as some editors write it.
            (b"a\n\xff\xfea\0".to_vec(), "line 2 is not UTF-8 text"),
        ] {
            assert_eq!(texts(&content).unwrap_err().to_string(), says);
        }
        assert!(
            InputLines::open(directory.path()).and_then(|mut of| of.next_line().map(drop)).is_err()
        );
        #[cfg(unix)]
        assert!(InputLines::open(Path::new("/dev/zero")).unwrap().next_line().is_err());
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
        for what in ["was not written to its end", "nobody opened it for writing"] {
            let open = |path: &Path| File::open(path);
            let error = in_time(&path, Duration::from_millis(1), what, open).unwrap_err();
            assert_eq!(error.to_string(), format!("it is a pipe, and {what} within 1ms"));
        }
        // The threads that were left behind still wait to open the first pipe, so the reader gets
        // another.
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
