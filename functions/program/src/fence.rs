//! The files that a program may contain.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oxc_resolver::{FileMetadata, FileSystem, FileSystemOs, ResolveError};
use serde_json::Value;

use super::LoadError;

/// The longest file that is read, in bytes. Bundles are far smaller.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Restricts a program to the directory of the app and all installed packages. Other files do not
/// exist for it, whether it names them by `..`, an absolute path or a symbolic link.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    root: PathBuf,
    /// The files that the resolver read: manifests and settings of TypeScript.
    manifests: Arc<Mutex<HashMap<PathBuf, Vec<u8>>>>,
}

impl Fence {
    /// The fence around the app of the functions in `directory`: its workspace or repository, or
    /// else the nearest package, or else the parent directory.
    pub(crate) fn around(directory: &Path) -> Fence {
        let parent = directory.parent().unwrap_or(directory);
        let is_workspace = |directory: &&Path| {
            let manifest = std::fs::read(directory.join("package.json")).unwrap_or_default();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
            directory.join(".git").exists()
                || directory.join("pnpm-workspace.yaml").is_file()
                || manifest.get("workspaces").is_some()
        };
        let is_package = |directory: &&Path| directory.join("package.json").is_file();
        // The root of the file system is not an app.
        let above = || parent.ancestors().filter(|directory| directory.parent().is_some());
        let root = above().find(is_workspace).or_else(|| above().find(is_package));
        Fence { root: root.unwrap_or(parent).to_owned(), manifests: Arc::default() }
    }

    /// Whether a file may be read, by its real path.
    fn allows(&self, real: &Path) -> bool {
        real.starts_with(&self.root)
            || real.components().any(|part| part.as_os_str() == OsStr::new("node_modules"))
    }

    /// The real path of a file, which is an error unless the file may be read.
    pub(crate) fn real(&self, path: &Path) -> std::io::Result<PathBuf> {
        let real = std::fs::canonicalize(path)?;
        if self.allows(&real) {
            return Ok(real);
        }
        let message = format!(
            "it is outside the app, which is {}, and outside node_modules",
            self.root.display()
        );
        Err(Error::new(ErrorKind::PermissionDenied, message))
    }

    fn bytes(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let real = self.real(path)?;
        // Reading a pipe, for example, might never end.
        if !std::fs::metadata(&real)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is not a file"));
        }
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&real)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if read as u64 > MAX_FILE_BYTES {
            let message = format!("it exceeds limit of {} MiB", MAX_FILE_BYTES >> 20);
            return Err(Error::new(ErrorKind::FileTooLarge, message));
        }
        Ok(bytes)
    }

    pub(crate) fn read(&self, path: &Path) -> Result<String, LoadError> {
        let bytes = self.bytes(path).map_err(|error| LoadError::at(path, error))?;
        let mut text =
            String::from_utf8(bytes).map_err(|_| LoadError::at(path, "it is not UTF-8"))?;
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        // The engine accepts a `#!` line in a script, but not in a module.
        if text.starts_with("#!") {
            text.replace_range(..2, "//");
        }
        Ok(text)
    }

    /// Whether the file exists and may be read.
    pub(crate) fn has(&self, path: &Path) -> bool {
        path.is_file() && self.real(path).is_ok()
    }

    /// Takes the manifests and settings that were read.
    pub(crate) fn take_manifests(&self) -> HashMap<PathBuf, Vec<u8>> {
        std::mem::take(&mut self.manifests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl FileSystem for Fence {
    fn new() -> Fence {
        Fence { root: PathBuf::from("/"), manifests: Arc::default() }
    }

    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let bytes = self.bytes(path)?;
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        manifests.insert(path.to_owned(), bytes.clone());
        Ok(bytes)
    }

    fn read_to_string(&self, path: &Path) -> std::io::Result<String> {
        String::from_utf8(FileSystem::read(self, path)?)
            .map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
    }

    fn metadata(&self, path: &Path) -> std::io::Result<FileMetadata> {
        FileSystemOs.metadata(&self.real(path)?)
    }

    fn symlink_metadata(&self, path: &Path) -> std::io::Result<FileMetadata> {
        let found = FileSystemOs.symlink_metadata(path)?;
        // Directories above the app are allowed, since they may contain packages.
        if found.is_file() {
            self.real(path)?;
        }
        Ok(found)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, ResolveError> {
        FileSystemOs.read_link(path)
    }

    fn canonicalize(&self, path: &Path) -> std::io::Result<PathBuf> {
        FileSystemOs.canonicalize(path)
    }
}
