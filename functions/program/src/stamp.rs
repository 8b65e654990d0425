//! Detects changes to files.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    content: u64,
}

impl Stamps {
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) {
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        self.files.insert(
            path.to_owned(),
            Stamp { bytes: text.len() as u64, modified, content: hash(text.as_bytes()) },
        );
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
        if metadata.len() == self.bytes
            && self.modified.is_some()
            && metadata.modified().ok() == self.modified
        {
            return false;
        }
        // Editors and version control may rewrite files without changing them.
        std::fs::read(path).map_or(true, |bytes| hash(&bytes) != self.content)
    }
}

/// A hash of a file, as it is or as [`Fence::read`](super::fence::Fence::read) returns it.
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
