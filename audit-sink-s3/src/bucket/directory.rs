//! A local directory as a store.
//!
//! `object_store`'s own store for directories waits for ever at a pipe, follows links, panics at
//! some times of files, and reads a file without end if it becomes shorter meanwhile, so they are
//! listed and read here. Writing is done here for three reasons:
//! only the owner can access the files, whatever the umask; unfinished objects are kept apart from
//! finished ones, so that engines that read whole directories do not see them; and the leftovers of
//! a dead writer can be told from the files of a live one.
//!
//! An object is written to `_audit/unfinished/<ulid>`, under an exclusive lock (`flock`) that its
//! writer holds until it has given the file its final name. The operating system releases the lock
//! when the process ends, however it ends. A file there that can be locked therefore has no writer,
//! and the next process that opens the directory removes it. On a network file system whose locks
//! do not reach other hosts, a live writer may lose its file this way: it then cannot name the
//! file, the attempt fails, and the same bytes are written again. A file with its final name is
//! never removed.

use std::collections::HashSet;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use audit_core::durable::{create_directory, sync_directory};
use audit_core::{SystemClock, SystemRandom, UniqueId, async_trait, open_regular};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};
use tokio::sync::mpsc;

use crate::object::key::UNFINISHED;

#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    inner: LocalFileSystem,
    prepared: Arc<Prepared>,
}

/// The directories below the root whose names this process has made durable. An existing one may
/// be left by a process that was killed before it synced the name.
#[derive(Debug, Default)]
struct Prepared(Mutex<HashSet<PathBuf>>);

/// Directories beyond this number are forgotten and prepared again: there is one for each hour.
const MAX_PREPARED: usize = 64;

impl Prepared {
    fn create(&self, directory: &FilePath) -> io::Result<()> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have removed it.
        if lock().contains(directory) && directory.is_dir() {
            return Ok(());
        }
        create_directory(directory)?;
        let mut prepared = lock();
        if prepared.len() == MAX_PREPARED {
            prepared.clear();
        }
        prepared.insert(directory.to_owned());
        Ok(())
    }
}

impl Directory {
    pub(crate) fn open(root: &FilePath) -> Result<Directory> {
        let inner = LocalFileSystem::new_with_prefix(root)?;
        // As `inner` has it.
        let root = root.canonicalize().map_err(|error| generic(error.into()))?;
        Ok(Directory { root, inner, prepared: Arc::default() })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let not_implemented = |operation: &str| {
            Err(Error::NotImplemented {
                operation: operation.to_owned(),
                implementer: self.to_string(),
            })
        };
        if !options.attributes.is_empty() {
            return not_implemented("attributes");
        }
        let replace = match options.mode {
            PutMode::Create => false,
            PutMode::Overwrite => true,
            PutMode::Update(_) => return not_implemented("conditional updates"),
        };
        let path = self.inner.path_to_filesystem(location)?;
        let (root, prepared) = (self.root.clone(), Arc::clone(&self.prepared));
        let written =
            tokio::task::spawn_blocking(move || write(&prepared, &root, &path, &payload, replace));
        match written.await.map_err(io::Error::other).flatten() {
            Ok(()) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists { path: location.to_string(), source: error.into() })
            }
            Err(error) => Err(generic(error.into())),
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented {
            operation: "multipart uploads".to_owned(),
            implementer: self.to_string(),
        })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = self.inner.path_to_filesystem(location)?;
        let opened = tokio::task::spawn_blocking(move || {
            let file = open_regular(&path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        let (file, metadata) = match opened.await.map_err(io::Error::other).flatten() {
            Ok(opened) => opened,
            Err(error) => return Err(failed(location, error)),
        };
        let meta = meta(location.clone(), &metadata);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            None => 0..meta.size,
            Some(range) => range.as_range(meta.size).map_err(|error| generic(error.into()))?,
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(pieces(file, range.clone())),
            meta,
            range,
            attributes: Attributes::new(),
            extensions: Extensions::new(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let below = prefix.map(ToString::to_string).unwrap_or_default();
        let (inner, root) = (self.inner.clone(), self.root.clone());
        let (sender, receiver) = mpsc::channel(LISTED_AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = walk(&inner, &root, &below, &sender) {
                // The receiver may be gone.
                let _ = sender.blocking_send(Err(generic(error.into())));
            }
        });
        let next = |mut receiver: mpsc::Receiver<_>| async move {
            Some((receiver.recv().await?, receiver))
        };
        futures::stream::unfold(receiver, next).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The most bytes of a file that are read at once, by a thread.
const PIECE_BYTES: u64 = 1 << 20;

/// The bytes of a file. Fails if the file does not have them any more.
fn pieces(file: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
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

/// How many files a listing may be ahead of its receiver.
const LISTED_AHEAD: usize = 1_000;

/// Lists the regular files below a directory, in any order. Links are not followed.
fn walk(
    inner: &LocalFileSystem,
    root: &FilePath,
    below: &str,
    sender: &mpsc::Sender<Result<ObjectMeta>>,
) -> io::Result<()> {
    let mut directories: Vec<PathBuf> = directory_below(root, below)?.into_iter().collect();
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // It was removed since it was found.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Others are listed nevertheless.
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
            let (kind, path) = (entry.file_type()?, entry.path());
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
            // It may have been removed.
            let Ok(metadata) = entry.metadata() else { continue };
            if sender.blocking_send(Ok(meta(location, &metadata))).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn meta(location: Path, metadata: &Metadata) -> ObjectMeta {
    let (last_modified, size) = (modified(metadata), metadata.len());
    ObjectMeta { location, last_modified, size, e_tag: None, version: None }
}

fn failed(location: &Path, error: io::Error) -> Error {
    // Or its directory is a file.
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return Error::NotFound { path: location.to_string(), source: error.into() };
    }
    generic(error.into())
}

pub(super) fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "LocalFileSystem", source }
}

/// When a file was last modified. Some file systems keep any time; those that cannot be represented
/// become the first or the last one that can.
pub(super) fn modified(metadata: &Metadata) -> DateTime<Utc> {
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

/// Writes an object and syncs the file, its name and new directories.
///
/// A crash before the file has its final name leaves an unfinished file without a lock. A crash
/// between that and the sync of the directory may undo the name, but no success was reported. A
/// crash before the unfinished name is removed leaves a second name.
fn write(
    prepared: &Prepared,
    root: &FilePath,
    path: &FilePath,
    payload: &PutPayload,
    replace: bool,
) -> io::Result<()> {
    let unfinished = root.join(UNFINISHED);
    prepared.create(&unfinished)?;
    let directory = path.parent().unwrap_or(root);
    prepared.create(directory)?;
    let name = UniqueId::generate(&SystemClock, &SystemRandom).to_string();
    let unfinished = unfinished.join(name);
    let mut file = open_new(&unfinished)?;
    let written = lock(&file)
        .and_then(|()| payload.iter().try_for_each(|piece| file.write_all(piece)))
        .and_then(|()| file.sync_all())
        .and_then(|()| match replace {
            true => std::fs::rename(&unfinished, path),
            // Fails if a file has that name, so exactly one of several writers wins.
            false => std::fs::hard_link(&unfinished, path),
        });
    if written.is_err() || !replace {
        // If this fails, the file loses its lock soon and is removed at the next opening.
        let _ = std::fs::remove_file(&unfinished);
    }
    written?;
    sync_directory(directory)
}

/// Takes the lock that marks this file as having a writer.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        // Another process is opening the directory and is about to remove the file.
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        // Without locks nobody can tell that a writer is dead, so nothing is ever removed.
        Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Removes the unfinished objects of dead writers and returns their number.
pub(crate) fn remove_leftovers(root: &FilePath) -> io::Result<u64> {
    // A link would lead to files that are not ours.
    let Some(directory) = directory_below(root, UNFINISHED)? else { return Ok(0) };
    let entries = std::fs::read_dir(directory)?;
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        // Meanwhile other writers may finish, and other openings may remove files too.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let Some(file) = is_file.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        // The lock is held during the removal, so that no writer starts writing to the file.
        if file.try_lock().is_ok() && std::fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// A directory below the root, to which no link leads. `None` if there is none.
pub(super) fn directory_below(root: &FilePath, below: &str) -> io::Result<Option<PathBuf>> {
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

fn open_new(path: &FilePath) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    fn bucket(root: &FilePath) -> crate::Bucket {
        let url = url::Url::from_directory_path(root).unwrap();
        crate::Bucket::open(url.as_str()).unwrap()
    }

    fn files(directory: &FilePath) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn files_are_private_to_their_owner() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let sink = crate::S3Sink::builder(bucket(&root.path().join("a/b")));
        let sink = sink.open().await.unwrap();
        let line = audit_core::Batch::from_lines(1_700_000_000_000, "{}\n".into()).unwrap();
        audit_core::AuditSink::persist(&sink, line).await.unwrap();
        let path = Path::from("dt=2023-11-14/hour=22/replaced");
        for mode in [PutMode::Create, PutMode::Overwrite] {
            sink.bucket().store().put_opts(&path, "x".into(), mode.into()).await.unwrap();
        }
        fn check(path: &FilePath) -> usize {
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o777;
            if !metadata.is_dir() {
                assert_eq!(mode, 0o600, "{}", path.display());
                return 1;
            }
            assert_eq!(mode, 0o700, "{}", path.display());
            let entries = std::fs::read_dir(path).unwrap();
            entries.map(|entry| check(&entry.unwrap().path())).sum()
        }
        assert_eq!(check(&root.path().join("a")), 3, "the probe, a record, and the replaced one");
    }

    /// A copy of a bucket may be written again while it is read.
    #[tokio::test]
    async fn a_file_that_becomes_shorter_while_it_is_read_ends_with_an_error() {
        let root = tempfile::tempdir().unwrap();
        let (bucket, path) = (bucket(root.path()), Path::from("dt=2023-11-14/hour=22/a"));
        let file = root.path().join(path.as_ref());
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        for left in [0, PIECE_BYTES, PIECE_BYTES + 1] {
            std::fs::write(&file, vec![7; 3 * PIECE_BYTES as usize]).unwrap();
            let found = bucket.store().get(&path).await.unwrap();
            let mut pieces = found.into_stream();
            assert_eq!(pieces.next().await.unwrap().unwrap().len() as u64, PIECE_BYTES);
            File::options().write(true).open(&file).unwrap().set_len(left).unwrap();
            let error = pieces.next().await.unwrap().unwrap_err();
            let why = format!("the file ended after {} of", left.max(PIECE_BYTES));
            assert!(audit_core::with_sources(&error).contains(&why), "{left}: {error:?}");
            assert!(pieces.next().await.is_none());
        }
        let whole = bucket.store().get_range(&path, 1..PIECE_BYTES + 1).await.unwrap();
        assert_eq!(whole.len() as u64, PIECE_BYTES);
        std::fs::write(&file, b"").unwrap();
        assert!(bucket.store().get(&path).await.unwrap().bytes().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_of_many_writers_wins_without_leftovers() {
        let root = tempfile::tempdir().unwrap();
        let bucket = bucket(root.path());
        let path = Path::from("dt=2023-11-14/hour=22/a");
        let create = |n: u8| {
            let (store, path) = (bucket.store().clone(), path.clone());
            let content = vec![n; 100_000];
            tokio::spawn(async move {
                store.put_opts(&path, content.into(), PutMode::Create.into()).await
            })
        };
        let ended = futures::future::join_all((0..16).map(create)).await;
        let (won, lost): (Vec<_>, Vec<_>) =
            ended.into_iter().map(std::result::Result::unwrap).partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 15));
        for error in lost {
            assert!(matches!(error, Err(Error::AlreadyExists { .. })), "{error:?}");
        }
        let stored = bucket.store().get(&path).await.unwrap().bytes().await.unwrap();
        assert!(stored.iter().all(|byte| *byte == stored[0]), "the bytes of one writer");
        assert_eq!(files(root.path()), [root.path().join(path.as_ref())]);
    }

    /// A killed process may leave directories and objects whose names are not durable.
    #[cfg(unix)]
    #[tokio::test]
    async fn names_left_by_a_killed_process_are_synced() {
        use audit_core::testing::synced_directories;
        let root = tempfile::tempdir().unwrap();
        let below = |path: &str| root.path().join(path).canonicalize().unwrap();
        std::fs::create_dir_all(root.path().join("logs/dt=2023-11-14/hour=22")).unwrap();
        let bucket = bucket(&below("logs"));
        assert!(synced_directories().remove(&below("")), "the bucket's own name");
        let put = async |name: &str| {
            let path = Path::from(format!("dt=2023-11-14/hour=22/{name}"));
            bucket.store().put_opts(&path, "x".into(), PutMode::Create.into()).await.unwrap();
        };
        put("a").await;
        for synced in ["logs/dt=2023-11-14/hour=22", "logs/dt=2023-11-14", "logs"] {
            assert!(synced_directories().remove(&below(synced)), "{synced}");
        }
        // Later objects sync their own name only, unless somebody removed the directory.
        put("b").await;
        assert!(synced_directories().remove(&below("logs/dt=2023-11-14/hour=22")));
        assert!(!synced_directories().remove(&below("logs")));
        std::fs::remove_dir_all(below("logs/dt=2023-11-14")).unwrap();
        put("c").await;
        assert!(synced_directories().remove(&below("logs")));
    }

    #[test]
    fn opening_removes_only_leftovers_of_dead_writers() {
        let root = tempfile::tempdir().unwrap();
        drop(bucket(root.path()));
        let unfinished = root.path().join(UNFINISHED);
        create_directory(&unfinished).unwrap();
        let (dead, live) = (unfinished.join("dead"), unfinished.join("live"));
        std::fs::write(&dead, "part of an obj").unwrap();
        let writer = open_new(&live).unwrap();
        lock(&writer).unwrap();
        let object = root.path().join("dt=2023-11-14");
        std::fs::write(&object, "an object").unwrap();
        for _ in 0..2 {
            drop(bucket(root.path()));
            assert!(!dead.exists() && live.exists() && object.exists());
        }
        drop(writer);
        drop(bucket(root.path()));
        assert_eq!(files(root.path()), [object]);
    }

    #[test]
    fn a_writer_without_its_file_fails() {
        let root = tempfile::tempdir().unwrap();
        let (unfinished, path) = (root.path().join("unfinished"), root.path().join("object"));
        let file = open_new(&unfinished).unwrap();
        // Removed between two steps of the writer, by a host that does not see its lock.
        std::fs::remove_file(&unfinished).unwrap();
        file.sync_all().unwrap();
        let error = std::fs::hard_link(&unfinished, &path).unwrap_err();
        let error = Error::Generic { store: "LocalFileSystem", source: error.into() };
        let refusal = crate::bucket::response::Refusal::of(
            &error,
            crate::bucket::provider::Provider::Directory,
        );
        assert_eq!(
            refusal.response,
            crate::bucket::response::Response::Unknown,
            "it is written again"
        );
        assert!(!path.exists());
    }
}
