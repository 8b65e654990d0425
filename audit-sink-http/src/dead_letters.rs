//! Records that a receiver will never accept, each in a file of its own until somebody sends it
//! again or removes it.
//!
//! A file appears complete and is named after the record's id, so a record that is set aside twice,
//! before and after a crash, exists once.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use audit_core::durable::{
    create_directory, is_unfinished, remove_unfinished, replace, sync_directory,
};
use audit_core::{UniqueId, open_regular};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::Event;

const SUFFIX: &str = ".json";

/// Why a record was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SetAside {
    /// The receiver rejected it for good.
    Rejected,
    /// It exceeds the receiver's limit for one record: a pointer was sent in its place.
    TooLarge,
}

/// A record that was set aside. `Debug` does not show its body.
#[derive(Clone)]
pub struct DeadLetter {
    /// The stream of the record.
    pub stream: UniqueId,
    /// Its number in the stream.
    pub sequence: u64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Why it was set aside.
    pub why: SetAside,
    /// The receiver's response, or the record's size.
    pub reason: String,
    /// The record, a JSON object.
    pub body: Bytes,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    stream: String,
    sequence: u64,
    time_ms: i64,
    why: SetAside,
    reason: String,
    body: Box<RawValue>,
}

/// The directory with one log stream's set-aside records.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    directory: PathBuf,
    max_bytes: u64,
    /// The total size of the files. It is read from the directory again before a record is refused.
    bytes: Mutex<u64>,
}

impl DeadLetters {
    /// Creates the directory, accessible only to its owner.
    pub(crate) fn open(directory: &Path, max_bytes: u64) -> io::Result<DeadLetters> {
        create_directory(directory)?;
        remove_unfinished(directory, is_unfinished)?;
        let bytes = Mutex::new(taken(directory)?);
        Ok(DeadLetters { directory: directory.to_owned(), max_bytes, bytes })
    }

    /// Sets a record aside, durably.
    ///
    /// After a crash before this returns, or if it fails, the record is set aside again under the
    /// same name.
    pub(crate) fn keep(
        &self,
        stream: UniqueId,
        event: &Event,
        why: SetAside,
        reason: &str,
    ) -> io::Result<()> {
        let Event { sequence, time_ms, line } = event;
        let text = String::from_utf8_lossy(line).into_owned();
        // A line that is not JSON is kept as a string.
        let body = RawValue::from_string(text.clone())
            .or_else(|_| serde_json::value::to_raw_value(&text))
            .map_err(io::Error::other)?;
        let (stream, sequence, time_ms) = (stream.to_string(), *sequence, *time_ms);
        let name = format!("{stream}-{sequence:012}");
        let written = Written { stream, sequence, time_ms, why, reason: reason.to_owned(), body };
        let mut text = serde_json::to_vec(&written).map_err(io::Error::other)?;
        text.push(b'\n');

        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.directory.join(format!("{name}{SUFFIX}"));
        if path.exists() {
            // The process that wrote the file may have failed or been killed before the name was
            // durable.
            return sync_directory(&self.directory);
        }
        if *bytes + text.len() as u64 > self.max_bytes {
            *bytes = taken(&self.directory)?;
        }
        if *bytes + text.len() as u64 > self.max_bytes {
            let (bytes, most) = (*bytes, self.max_bytes);
            return Err(io::Error::other(format!(
                "{} holds {bytes} of {most} bytes of records that were set aside: send them again \
                 or remove them, or raise max_dead_letter_bytes",
                self.directory.display()
            )));
        }
        replace(&path, &text)?;
        *bytes += text.len() as u64;
        Ok(())
    }
}

fn taken(directory: &Path) -> io::Result<u64> {
    let entries = fs::read_dir(directory)?;
    let sizes = entries.map(|entry| {
        let entry = entry?;
        if !is_letter(&entry.path()) {
            return Ok(0);
        }
        match entry.metadata() {
            Ok(metadata) => Ok(metadata.len()),
            // Somebody has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    });
    sizes.sum()
}

/// Whether a file is listed as a record that was set aside, and so counts.
fn is_letter(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

impl DeadLetter {
    /// Lists the set-aside records in this directory in the order of their ids, and the errors of
    /// files that cannot be read or hold something else. There are none if the directory does not
    /// exist.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn list(directory: &Path) -> io::Result<(Vec<DeadLetter>, Vec<io::Error>)> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(error),
        };
        let (mut letters, mut unread) = (Vec::new(), Vec::new());
        for entry in entries {
            let path = entry?.path();
            if is_letter(&path) {
                match DeadLetter::read(path) {
                    Ok(letter) => letters.push(letter),
                    // The file was removed after it was found, for example after its record was
                    // sent again.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => unread.push(error),
                }
            }
        }
        letters.sort_by_key(|letter| (letter.stream, letter.sequence));
        Ok((letters, unread))
    }

    fn read(path: PathBuf) -> io::Result<DeadLetter> {
        let mut bytes = Vec::new();
        let read = open_regular(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        read.map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be read: {error}", path.display()))
        })?;
        let invalid = |error: String| {
            let message = format!("{} holds no record that was set aside: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        // The text of the error may contain a part of the record.
        let written: Written = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("line {} column {}", error.line(), error.column())))?;
        let Written { stream, sequence, time_ms, why, reason, body } = written;
        let stream = stream.parse().map_err(|_| invalid("its stream is invalid".to_owned()))?;
        let body = Bytes::copy_from_slice(body.get().as_bytes());
        Ok(DeadLetter { stream, sequence, time_ms, why, reason, body, path })
    }

    /// Removes the record, once it was sent again or is no longer wanted.
    ///
    /// # Errors
    ///
    /// If the file cannot be removed. A file that is already gone is not an error.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn event(&self) -> Event {
        Event { sequence: self.sequence, time_ms: self.time_ms, line: self.body.clone() }
    }
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("stream", &self.stream)
            .field("sequence", &self.sequence)
            .field("why", &self.why)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use audit_core::testing::synced_directories;

    use super::*;

    fn event(sequence: u64, line: &str) -> Event {
        Event { sequence, time_ms: 5, line: line.as_bytes().to_vec().into() }
    }

    #[test]
    fn records_that_are_set_aside_are_there_once_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("siem");
        assert!(DeadLetter::list(&path).unwrap().0.is_empty());
        let letters = DeadLetters::open(&path, 1_000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let stream = UniqueId::from_bits(9);
        let kept = event(3, r#"{"n":1.50}"#);
        // The first round creates the file. The second finds it, as after a process that was killed
        // before the sync.
        for _ in 0..2 {
            letters.keep(stream, &kept, SetAside::Rejected, "answered 400").unwrap();
            assert!(synced_directories().remove(&path.canonicalize().unwrap()));
        }
        letters.keep(stream, &event(1, "no json"), SetAside::TooLarge, "7 bytes").unwrap();
        let (listed, _) = DeadLetter::list(&path).unwrap();
        let told: Vec<_> =
            listed.iter().map(|l| (l.sequence, l.why, l.reason.as_str(), &l.body[..])).collect();
        assert_eq!(
            told,
            [
                (1, SetAside::TooLarge, "7 bytes", &b"\"no json\""[..]),
                (3, SetAside::Rejected, "answered 400", &br#"{"n":1.50}"#[..]),
            ]
        );
        assert!(!format!("{listed:?}").contains("1.50"));
        let large = event(4, &format!("\"{}\"", "x".repeat(900)));
        let error = letters.keep(stream, &large, SetAside::Rejected, "").unwrap_err();
        assert!(error.to_string().contains("max_dead_letter_bytes"), "{error}");
        // An operator makes room, and the next record fits.
        listed.iter().for_each(|letter| letter.remove().unwrap());
        listed[0].remove().unwrap();
        letters
            .keep(stream, &event(4, &format!("\"{}\"", "x".repeat(800))), SetAside::Rejected, "")
            .unwrap();
        // Files that are not listed do not count: those of a killed process, and foreign ones.
        let left = path.join("a.json.01KAVXZ0000123456789ABCDEF.unfinished");
        fs::write(&left, "x".repeat(900)).unwrap();
        fs::write(path.join("README"), "x".repeat(900)).unwrap();
        let letters = DeadLetters::open(&path, 1_000).unwrap();
        assert!(!left.exists());
        let (listed, _) = DeadLetter::list(&path).unwrap();
        listed.iter().for_each(|letter| letter.remove().unwrap());
        letters
            .keep(stream, &event(5, &format!("\"{}\"", "x".repeat(800))), SetAside::Rejected, "")
            .unwrap();
        // Files that cannot be read do not hide records.
        fs::write(path.join("a.json"), "{\"secret\":").unwrap();
        fs::create_dir(path.join("b.json")).unwrap();
        std::os::unix::fs::symlink("a.json", path.join("c.json")).unwrap();
        let (listed, unread) = DeadLetter::list(&path).unwrap();
        assert_eq!(listed.len(), 1);
        let mut unread: Vec<_> = unread.iter().map(ToString::to_string).collect();
        unread.sort();
        for (error, (name, why)) in unread.iter().zip([
            ("a.json", "holds no record that was set aside: line 1 column 10"),
            ("b.json", "cannot be read: it is a directory, not a regular file"),
            ("c.json", "cannot be read: it is a link, not a regular file"),
        ]) {
            assert_eq!(*error, format!("{} {why}", path.join(name).display()));
        }
        assert_eq!(unread.len(), 3);
    }

    /// An operator, or the process that sends records again, may remove their files at any time.
    #[test]
    fn records_that_are_removed_while_they_are_listed_are_no_errors() {
        let directory = tempfile::tempdir().unwrap();
        let letters = DeadLetters::open(directory.path(), 1_000).unwrap();
        letters.keep(UniqueId::from_bits(9), &event(3, "{}"), SetAside::Rejected, "").unwrap();
        let (kept, _) = DeadLetter::list(directory.path()).unwrap();
        for n in 0..1_000 {
            fs::copy(&kept[0].path, directory.path().join(format!("{n}.json"))).unwrap();
        }
        let (all, _) = DeadLetter::list(directory.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| all.iter().for_each(|letter| letter.remove().unwrap()));
            loop {
                let (left, unread) = DeadLetter::list(directory.path()).unwrap();
                assert!(unread.is_empty(), "{unread:?}");
                if left.is_empty() {
                    break;
                }
            }
        });
        assert_eq!(all.len(), 1_001);
    }
}
