//! Detects changes to files.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::directory::modules_of;

/// The files and directories that a program was loaded from.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// All files that were read, including those of packages.
    files: BTreeMap<PathBuf, Stamp>,
    /// The directories of functions, and their modules.
    directories: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

#[derive(Debug)]
struct Stamp {
    bytes: u64,
    content: u64,
    /// The file's modification time, taken before the last read that found it unchanged. Initially
    /// `None`, so that the first check reads the file: it may have changed since it was loaded.
    modified: Mutex<Option<SystemTime>>,
}

impl Stamps {
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) {
        let (bytes, content) = (text.len() as u64, hash(text.as_bytes()));
        let stamp = Stamp { bytes, content, modified: Mutex::default() };
        self.files.insert(path.to_owned(), stamp);
    }

    pub(crate) fn add_directory(&mut self, path: &Path, modules: &[PathBuf]) {
        self.directories.insert(path.to_owned(), modules.iter().cloned().collect());
    }

    pub(crate) fn have_changed(&self) -> bool {
        let directory_changed =
            |(path, modules): (&PathBuf, &BTreeSet<PathBuf>)| match modules_of(path) {
                Ok(found) => found.into_iter().collect::<BTreeSet<_>>() != *modules,
                Err(_) => true,
            };
        self.files.iter().any(|(path, stamp)| stamp.has_changed(path))
            || self.directories.iter().any(directory_changed)
    }
}

impl Stamp {
    fn has_changed(&self, path: &Path) -> bool {
        let Ok(metadata) = std::fs::metadata(path) else { return true };
        let mut known = self.modified.lock().unwrap_or_else(PoisonError::into_inner);
        let modified = metadata.modified().ok();
        if metadata.len() == self.bytes && modified.is_some() && modified == *known {
            return false;
        }
        // Editors and version control may rewrite files without changing them.
        let is_same = std::fs::read(path).is_ok_and(|bytes| hash(&bytes) == self.content);
        *known = modified.filter(|_| is_same);
        !is_same
    }
}

/// A hash of a file. It is the same for the file's bytes and for the text that
/// [`Fence::read`](super::fence::Fence::read) returns.
fn hash(bytes: &[u8]) -> u64 {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let (first, rest) = match bytes.strip_prefix(b"#!") {
        Some(rest) => (&b"//"[..], rest),
        None => bytes.split_at(bytes.len().min(2)),
    };
    let mut hasher = DefaultHasher::new();
    (first, rest).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files are stamped after they are read, and manifests at the end of the load.
    #[test]
    fn a_change_between_a_reading_and_its_stamp_is_detected() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("package.json");
        let (read, changed) = ("{\"main\":\"a.js\"}", "{\"main\":\"b.js\"}");
        for (now, has_changed) in [(read, false), (changed, true), (read, false)] {
            std::fs::write(&path, now).unwrap();
            let mut stamps = Stamps::default();
            stamps.add_file(&path, read);
            for _ in 0..2 {
                assert_eq!(stamps.have_changed(), has_changed, "{now}");
            }
        }
    }
}
