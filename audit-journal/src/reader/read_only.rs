//! A journal's directory without its writes.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use audit_core::open_regular;

use crate::disk::{Disk, DiskFile, named, read_ahead};

/// A directory that ignores all writes. A recovery only rewrites what it has read, so it finds the
/// same without its writes.
#[derive(Debug)]
pub(super) struct ReadOnlyDisk(pub(super) PathBuf);

/// A read-only file, or `None` for one that would have been created.
#[derive(Debug)]
struct ReadOnlyFile(Option<File>);

impl Disk for ReadOnlyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.0)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ReadOnlyFile(None)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = open_regular(&self.0.join(name));
        Ok(Arc::new(ReadOnlyFile(Some(file.map_err(|error| named(name, error))?))))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn read_ahead(&self, name: &str) {
        read_ahead(self.0.join(name));
    }
}

impl DiskFile for ReadOnlyFile {
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.0 {
            Some(file) => DiskFile::read_exact_at(file, buffer, offset),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.0.as_ref().map_or(Ok(0), DiskFile::len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}
