//! Files as objects: their bytes, their times, and which of them are listed.

use std::fs::{DirEntry, File, FileType, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, Result};
use tokio::sync::mpsc;

use super::generic;

/// The maximum number of bytes that one blocking call reads from a file.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// Reads a range of a file. Fails if the file has become shorter than the range.
pub(super) fn pieces(file: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let next = |(mut file, Range { start, end }): (File, Range<u64>)| async move {
        if start >= end {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let len = (end - start).min(PIECE_BYTES);
            let mut piece = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
            file.seek(SeekFrom::Start(start))?;
            let read = (&mut file).take(len).read_to_end(&mut piece)? as u64;
            if read < len {
                let what = format!("the file ended after {} of {end} bytes", start + read);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            Ok((Bytes::from(piece), (file, start + len..end)))
        });
        let read = read.await.map_err(io::Error::other).flatten();
        read.map(Some).map_err(|error| generic(error.into()))
    };
    futures::stream::try_unfold((file, range), next).boxed()
}

/// Lists the regular files below a directory, in any order. Links are not followed.
pub(super) fn walk(
    inner: &LocalFileSystem,
    root: &FilePath,
    below: &str,
    sender: &mpsc::Sender<Result<ObjectMeta>>,
) -> io::Result<()> {
    let mut directories: Vec<PathBuf> = directory_below(root, below)?.into_iter().collect();
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // The directory was removed after it was found.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Other directories are still listed.
            Err(error) => {
                let said = format!("{}: {error}", directory.display());
                let error = generic(io::Error::new(error.kind(), said).into());
                if sender.blocking_send(Err(error)).is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        for entry in entries {
            let entry = entry?;
            let Some(kind) = kind(&entry)? else { continue };
            let path = entry.path();
            if kind.is_dir() {
                directories.push(path);
                continue;
            }
            let parts = path.strip_prefix(root).map(|path| path.iter().map(|part| part.to_str()));
            let parts: Option<Vec<&str>> = parts.ok().and_then(Iterator::collect);
            // A file that cannot be read by its name, such as a leftover, is not an object.
            let location = parts.and_then(|parts| Path::parse(parts.join("/")).ok());
            let location = location.filter(|location| {
                inner.path_to_filesystem(location).is_ok_and(|found| found == path)
            });
            let (Some(location), true) = (location, kind.is_file()) else { continue };
            // The file may have been removed after it was found.
            let Ok(metadata) = entry.metadata() else { continue };
            if sender.blocking_send(Ok(meta(location, &metadata))).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The type of an entry. `None` if the entry was removed meanwhile: where directories do not store
/// the types of their entries, the operating system must look up the entry itself.
pub(in crate::bucket) fn kind(entry: &DirEntry) -> io::Result<Option<FileType>> {
    match entry.file_type() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        kind => kind.map(Some),
    }
}

pub(super) fn meta(location: Path, metadata: &Metadata) -> ObjectMeta {
    let (last_modified, size) = (modified(metadata), metadata.len());
    ObjectMeta { location, last_modified, size, e_tag: None, version: None }
}

pub(super) fn failed(location: &Path, error: io::Error) -> Error {
    // `NotADirectory` means that a part of the path is a file.
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return Error::NotFound { path: location.to_string(), source: error.into() };
    }
    generic(error.into())
}

/// When a file was last modified. A time that cannot be represented, which some file systems can
/// store, becomes the first or the last time that can.
pub(in crate::bucket) fn modified(metadata: &Metadata) -> DateTime<Utc> {
    let Ok(modified) = metadata.modified() else { return DateTime::UNIX_EPOCH };
    let (is_before, distance) = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => (false, after),
        Err(before) => (true, before.duration()),
    };
    let distance = TimeDelta::from_std(distance).ok();
    let time = distance.and_then(|distance| match is_before {
        false => DateTime::UNIX_EPOCH.checked_add_signed(distance),
        true => DateTime::UNIX_EPOCH.checked_sub_signed(distance),
    });
    time.unwrap_or(if is_before { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC })
}

/// Returns the directory at this path below the root. `None` if there is none, or if a part of the
/// path is a link.
pub(in crate::bucket) fn directory_below(
    root: &FilePath,
    below: &str,
) -> io::Result<Option<PathBuf>> {
    let mut directory = root.to_owned();
    for part in below.split('/').filter(|part| !part.is_empty()) {
        directory.push(part);
        match std::fs::symlink_metadata(&directory) {
            Ok(found) if found.is_dir() => {}
            Ok(_no_directory) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(directory))
}
