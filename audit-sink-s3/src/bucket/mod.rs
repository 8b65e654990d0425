//! The bucket that a URL names, and its requests.
//!
//! - `open`, `provider`, `stores`, `configuration`, `credentials`: its provider, and its opening.
//! - `own_settings`, `assumed_role`, `kept`: what its owner wants: a role to be assumed, and how
//!   objects are kept.
//! - `directory`: a directory of this host as a bucket.
//! - `response`: the meaning of its responses to a request that creates an object.
//! - `probe`: whether it accepts objects, tried when a sink is opened.
//! - `put`: creates an object, and retries until the outcome is certain.
//! - `listing`, `read_client`: for readers; `write_client`: for sinks.

#[cfg(feature = "aws")]
mod assumed_role;
pub(crate) mod blocker;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod configuration;
mod credentials;
pub(crate) mod directory;
mod kept;
pub(crate) mod listing;
mod open;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod own_settings;
pub(crate) mod probe;
mod provider;
mod purpose;
pub(crate) mod put;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod read_client;
pub(crate) mod response;
mod stores;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod write_client;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use audit_evidence::Sidecar;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attributes, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};

use self::blocker::Blocker;
use self::kept::Kept;
use self::provider::Provider;
use self::response::{Refusal, Response};
use crate::ObjectKey;
use crate::object::encode::EncodedObject;
use crate::panic::Panicked;

/// A bucket, and the prefix in it under which a sink writes.
///
/// `Display` and `Debug` show where it is and no credential.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    name: Arc<str>,
    provider: Provider,
    is_read_only: bool,
    /// Where the store is a directory of this host.
    directory: Option<PathBuf>,
    /// Of one that is only read.
    store_time_ms: Option<Arc<AtomicI64>>,
    /// Cleared once the store said that it keeps no attributes.
    attributes: Arc<AtomicBool>,
    /// The store, where it is one of S3 that a URL names.
    #[cfg(feature = "aws")]
    s3: Option<object_store::aws::AmazonS3>,
    /// What goes with each object.
    kept: Arc<Kept>,
    /// Whether requests name the account that it must belong to.
    has_expected_owner: bool,
    /// Is told that its credentials were refused (`true`), or are not allowed something.
    on_refusal: Option<OnRefusal>,
}

/// Hears of refusals that other credentials may end.
type OnRefusal = Arc<dyn Fn(bool) + Send + Sync>;

impl Bucket {
    /// The part of `store` below `prefix`. For a store that the host made itself: with credentials
    /// or headers of its own, or shared by a test.
    ///
    /// The store's own retries should be few, since the sink itself retries until the outcome is
    /// certain. The store must not retry with other bytes.
    pub fn from_store(store: Arc<dyn ObjectStore>, prefix: impl Into<Path>) -> Bucket {
        let prefix = prefix.into();
        let name = match prefix.as_ref() {
            "" => store.to_string(),
            prefix => format!("{store}/{prefix}"),
        };
        Bucket {
            provider: Provider::of(&*store),
            is_read_only: false,
            store,
            prefix,
            name: name.into(),
            directory: None,
            store_time_ms: None,
            attributes: Arc::new(AtomicBool::new(true)),
            #[cfg(feature = "aws")]
            s3: None,
            kept: Arc::default(),
            has_expected_owner: false,
            on_refusal: None,
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The client of S3, if [`open`](Self::open) or another function made one: with the
    /// credentials, and the role, that requests to the bucket have.
    #[cfg(feature = "aws")]
    pub fn as_s3(&self) -> Option<&object_store::aws::AmazonS3> {
        self.s3.as_ref()
    }

    /// The store's own time at its last response, to the second before, in milliseconds since the
    /// Unix epoch. `None` for a bucket that is not only read, a directory, and a store that does
    /// not tell.
    pub fn store_time_ms(&self) -> Option<i64> {
        let time_ms = self.store_time_ms.as_ref()?.load(Ordering::Relaxed);
        Some(time_ms).filter(|time_ms| *time_ms > 0)
    }

    /// Whether it is a directory of this host: it keeps no attributes, and is not listed in order.
    pub fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Where it is, if it is a directory of this host.
    pub(crate) fn as_directory(&self) -> Option<&std::path::Path> {
        self.directory.as_deref()
    }

    /// Where in the store the sink's keys begin. Empty for the whole of it.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The full path of a key below the prefix.
    pub fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// What follows the prefix in the path of an object; `None` if it is not below the prefix.
    pub(crate) fn below_prefix(&self, location: &Path) -> Option<String> {
        let parts: Vec<_> = location.prefix_match(&self.prefix)?.collect();
        Some(parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/"))
    }

    /// The key of the object at this path. `None` if no sink writes objects there.
    pub(crate) fn key(&self, location: &Path) -> Option<ObjectKey> {
        self.below_prefix(location)?.parse().ok()
    }

    /// Who refused a request of its [`store`](Self::store), why, and what to do if it waits for
    /// somebody: in one line and without any credential, while the error's own text may quote the
    /// whole response and signed URLs.
    pub fn describe(&self, error: &object_store::Error) -> String {
        self.refusal(error).to_string()
    }

    /// Whether no retry helps until somebody acts. [`describe`](Self::describe) says then what to
    /// do.
    pub fn is_blocked(&self, error: &object_store::Error) -> bool {
        matches!(self.refusal(error).response, Response::Blocked(_))
    }

    pub(crate) fn refusal(&self, error: &object_store::Error) -> Refusal {
        let refusal = Refusal::of(error, self.provider);
        let is_credential = refusal.response == Response::Blocked(Blocker::Credentials);
        let is_permission = refusal.response == Response::Blocked(Blocker::Permission);
        if let Some(on_refusal) = &self.on_refusal
            && (is_credential || is_permission)
        {
            on_refusal(is_credential);
        }
        let mut refusal =
            if self.is_read_only { refusal.for_reader(self.provider) } else { refusal };
        if is_permission && self.has_expected_owner {
            refusal.advice.push_str(
                ", or correct AWS_EXPECTED_BUCKET_OWNER if the bucket belongs to another account",
            );
        }
        refusal
    }

    /// What it means that a request, or what makes it, panicked.
    pub(crate) fn refusal_of_panic(&self, panicked: &Panicked) -> Refusal {
        Refusal::panicked(panicked, self.provider)
    }

    /// Creates the object, once, with its metadata: as the store's attributes, or where it keeps
    /// none, evidence in a file beside it.
    ///
    /// A crash between the two leaves a file that no object belongs to, and the retry of the object
    /// finds its own.
    pub(crate) async fn create_object(
        &self,
        path: &Path,
        object: &EncodedObject,
    ) -> object_store::Result<()> {
        let payload = object.payload.clone();
        if let Some(created) = self.create_with(path, payload, object.attributes()).await {
            return created;
        }
        if let Some((sidecar, text)) = self.sidecar(path, object) {
            match self.store.put_opts(&sidecar, text.clone().into(), PutMode::Create.into()).await {
                Err(object_store::Error::AlreadyExists { path, source }) => {
                    if !self.is_stored(&sidecar, &text.into()).await? {
                        return Err(object_store::Error::AlreadyExists { path, source });
                    }
                }
                created => drop(created?),
            }
        }
        self.store.put_opts(path, object.payload.clone(), PutMode::Create.into()).await.map(drop)
    }

    /// Creates an object without evidence. `attributes` go with it if the store keeps any.
    pub(crate) async fn create(
        &self,
        path: &Path,
        payload: PutPayload,
        attributes: Attributes,
    ) -> object_store::Result<()> {
        if let Some(created) = self.create_with(path, payload.clone(), attributes).await {
            return created;
        }
        self.store.put_opts(path, payload, PutMode::Create.into()).await.map(drop)
    }

    /// Creates an object with attributes. `None` if the store keeps none: nothing was created then.
    async fn create_with(
        &self,
        path: &Path,
        payload: PutPayload,
        attributes: Attributes,
    ) -> Option<object_store::Result<()>> {
        if !self.attributes.load(Ordering::Relaxed) {
            return None;
        }
        let (attributes, tags) = self.kept.apply(attributes);
        let mode = PutMode::Create;
        let options = PutOptions { mode, tags, attributes, ..PutOptions::default() };
        match self.store.put_opts(path, payload, options).await {
            // The local file system keeps no attributes and says so before it writes anything.
            Err(object_store::Error::NotImplemented { .. }) => {
                self.attributes.store(false, Ordering::Relaxed);
                None
            }
            result => Some(result.map(drop)),
        }
    }

    /// Where an object's evidence stands in a store that keeps no attributes, and as what.
    fn sidecar(&self, path: &Path, object: &EncodedObject) -> Option<(Path, String)> {
        let (head, key) = (object.head.as_ref()?, self.below_prefix(path)?);
        Some((self.path(&Sidecar::key_of(&key)), Sidecar::text(head)))
    }

    /// Whether what stands under the path is this object: by the hashes in its metadata, or where
    /// it has none by its bytes.
    pub(crate) async fn holds(
        &self,
        path: &Path,
        object: &EncodedObject,
    ) -> object_store::Result<bool> {
        let head = self.store.get_opts(path, GetOptions::new().with_head(true)).await?;
        if let Some(same) = object.is_said_by(&head.attributes) {
            return Ok(same);
        }
        if head.meta.size != object.payload.content_length() as u64
            || !self.is_stored(path, &object.payload).await?
        {
            return Ok(false);
        }
        let Some((sidecar, text)) = self.sidecar(path, object) else { return Ok(true) };
        match self.is_stored(&sidecar, &text.into()).await {
            // It is written before its object: this one was made by somebody else.
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            is_stored => is_stored,
        }
    }

    /// Whether these bytes stand under the path, and durably.
    async fn is_stored(&self, path: &Path, payload: &PutPayload) -> object_store::Result<bool> {
        let found = self.store.get_opts(path, GetOptions::new()).await?.bytes().await?;
        if !same_bytes(&found, payload) {
            return Ok(false);
        }
        // The write that put it there may not have come to its fsync yet, or have been given up
        // before it.
        if let Some(directory) = &self.directory {
            let (root, file) = (directory.clone(), directory.join(path.as_ref()));
            let synced = tokio::task::spawn_blocking(move || sync(&root, &file))
                .await
                .map_err(io::Error::other)
                .flatten();
            synced.map_err(|error| object_store::Error::Generic {
                store: "LocalFileSystem",
                source: Box::new(error),
            })?;
        }
        Ok(true)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.name).finish()
    }
}

fn same_bytes(found: &Bytes, payload: &PutPayload) -> bool {
    let mut rest = &found[..];
    payload.iter().all(|piece| match rest.split_at_checked(piece.len()) {
        Some((head, tail)) => {
            rest = tail;
            head == piece
        }
        None => false,
    }) && rest.is_empty()
}

/// The file, and its name: in each directory from its own up to that of the bucket.
fn sync(root: &std::path::Path, file: &std::path::Path) -> io::Result<()> {
    std::fs::File::open(file)?.sync_all()?;
    let mut directories = file.ancestors().skip(1).take_while(|parent| parent.starts_with(root));
    directories.try_for_each(directory::sync)
}

fn unknown_option(name: &str, store: &str) -> crate::OpenError {
    crate::OpenError::configuration(format!("the {store} store has no option {name}"))
}
