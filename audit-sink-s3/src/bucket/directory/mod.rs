//! A local directory as a store.
//!
//! `object_store`'s own store for directories waits for ever at a pipe, follows links, panics at
//! some file times, and reads a file without end if it becomes shorter meanwhile, so this module
//! lists and reads files itself. It also writes them itself, for three reasons: only the owner can
//! access the files, whatever the umask; unfinished objects are kept apart from finished ones, so
//! that engines that read whole directories do not see them; and the leftovers of a dead writer can
//! be told from the files of a live one.
//!
//! An object is written to `_audit/unfinished/<ulid>`, under an exclusive lock (`flock`) that its
//! writer holds until it has given the file its final name. The operating system releases the lock
//! when the process ends, however it ends. A file there that can be locked therefore has no writer,
//! and the next process that opens the directory removes it. On a network file system whose locks
//! do not reach other hosts, a live writer may lose its file this way: it then cannot name the
//! file, the attempt fails, and the same bytes are written again. A file with its final name is
//! never removed.

mod reading;
#[cfg(test)]
mod tests;
mod writing;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::{fmt, io};

use audit_core::{PlacedDirectory, async_trait, open_regular};
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

pub(super) use self::reading::{directory_below, kind, modified};
use self::reading::{failed, meta, pieces, walk};
pub(super) use self::writing::remove_leftovers;
use self::writing::{Prepared, write};

/// How many files a listing may be ahead of its receiver.
const LISTED_AHEAD: usize = 1_000;

#[derive(Debug)]
pub(crate) struct Directory {
    root: Arc<PlacedDirectory>,
    inner: LocalFileSystem,
    prepared: Arc<Prepared>,
}

impl Directory {
    pub(crate) fn open(root: &FilePath) -> Result<Directory> {
        let inner = LocalFileSystem::new_with_prefix(root)?;
        // `inner` canonicalizes its root too.
        let root = root.canonicalize().and_then(PlacedDirectory::open);
        let root = Arc::new(root.map_err(|error| generic(error.into()))?);
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
        let (root, prepared) = (Arc::clone(&self.root), Arc::clone(&self.prepared));
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
        let (inner, root) = (self.inner.clone(), self.root.path().to_owned());
        let (sender, receiver) = mpsc::channel(LISTED_AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = walk(&inner, &root, &below, &sender) {
                // An error means that the receiver of the listing is gone.
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

pub(super) fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "LocalFileSystem", source }
}
