//! Buckets and their requests.
//!
//! - `open`, `provider`, `stores`, `configuration`, `credentials`: opening a bucket at its
//!   provider.
//! - `own_settings`, `assumed_role`, `session`, `kept`: settings of our own: a role to assume, and
//!   the storage class and tags of objects.
//! - `directory`: a local directory as a bucket.
//! - `response`: the meaning of responses to a request that creates an object.
//! - `probe`: checks that the bucket accepts objects, when a sink is opened.
//! - `put`: creates an object and retries until the outcome is certain.
//! - `listing`, `read_client`: for readers; `write_client`: for sinks; `http_client`,
//!   `response_body`: for both.

#[cfg(feature = "aws")]
mod assumed_role;
pub(crate) mod blocker;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod configuration;
mod credentials;
pub(crate) mod directory;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod http_client;
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
mod repeats;
pub(crate) mod response;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod response_body;
mod session;
mod store_clock;
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

use audit_core::durable::sync_directory;
use audit_core::{descriptors_advice, is_not_regular};
use audit_evidence::Sidecar;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attributes, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};

use self::blocker::Blocker;
use self::kept::Kept;
use self::provider::Provider;
use self::response::{Refusal, Response, status};
use self::session::RoleSession;
pub(crate) use self::store_clock::StoreClock;
use crate::ObjectKey;
use crate::object::encoded::EncodedObject;
use crate::panic::Panicked;

/// A bucket, and the prefix under which a sink writes.
///
/// `Display` and `Debug` show its URL without credentials.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    name: Arc<str>,
    provider: Provider,
    is_read_only: bool,
    /// The path, if the store is a local directory.
    directory: Option<PathBuf>,
    /// The time of the store's last response, in milliseconds since the Unix epoch; 0 before the
    /// first. `None` unless the bucket was opened to read.
    store_time_ms: Option<Arc<AtomicI64>>,
    /// How far the store's clock is ahead of the host's, if the bucket was opened to write.
    clock: StoreClock,
    /// Whether the store keeps attributes. Cleared once it reports that it does not.
    attributes: Arc<AtomicBool>,
    /// The store, if it is an S3 store that was opened by URL.
    #[cfg(feature = "aws")]
    s3: Option<object_store::aws::AmazonS3>,
    /// The storage class and tags of new objects.
    kept: Arc<Kept>,
    /// Whether requests name the account that must own the bucket.
    has_expected_owner: bool,
    /// The session of the role that requests use, if there is one.
    session: Option<Arc<dyn RoleSession>>,
}

impl Bucket {
    /// Makes a bucket from the part of `store` below `prefix`, for a store that the host created
    /// itself, for example with its own credentials or headers, or in a test.
    ///
    /// The store should make few retries of its own, since the sink retries until the outcome is
    /// certain. It must not retry with different bytes.
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
            clock: StoreClock::default(),
            attributes: Arc::new(AtomicBool::new(true)),
            #[cfg(feature = "aws")]
            s3: None,
            kept: Arc::default(),
            has_expected_owner: false,
            session: None,
        }
    }

    /// The underlying store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The S3 client, if the bucket was opened by an `s3://` URL. It has the same credentials and
    /// role as requests to the bucket.
    #[cfg(feature = "aws")]
    pub fn as_s3(&self) -> Option<&object_store::aws::AmazonS3> {
        self.s3.as_ref()
    }

    /// The store's own time at its last response, in milliseconds since the Unix epoch, rounded
    /// down to a second. `None` for a directory, a bucket that was not opened to read, and a store
    /// that does not report its time.
    pub fn store_time_ms(&self) -> Option<i64> {
        let time_ms = self.store_time_ms.as_ref()?.load(Ordering::Relaxed);
        Some(time_ms).filter(|time_ms| *time_ms > 0)
    }

    /// The store's clock, as known from responses to a sink.
    pub(crate) fn clock(&self) -> &StoreClock {
        &self.clock
    }

    /// Whether it is a local directory, which keeps no attributes and is listed in no particular
    /// order.
    pub fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Whether the store responded and refused this request. Requests for other parts of the bucket
    /// may still succeed.
    pub fn is_refusal(&self, error: &object_store::Error) -> bool {
        match status(error) {
            // An error of a directory concerns one file, unless the process can open no more files.
            None => self.is_directory() && descriptors_advice(error).is_none(),
            Some(408 | 429) => false,
            Some(status) => (400..500).contains(&status),
        }
    }

    /// Its path, if it is a local directory.
    pub(crate) fn as_directory(&self) -> Option<&std::path::Path> {
        self.directory.as_deref()
    }

    /// The prefix of the sink's keys in the store. Empty if the sink uses the whole store.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The full path of a key below the prefix.
    pub fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The part of an object's path after the prefix. `None` if it is not below the prefix.
    pub(crate) fn below_prefix(&self, location: &Path) -> Option<String> {
        let parts: Vec<_> = location.prefix_match(&self.prefix)?.collect();
        Some(parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/"))
    }

    /// The key of the object at this path. `None` if no sink writes such paths.
    pub(crate) fn key(&self, location: &Path) -> Option<ObjectKey> {
        self.below_prefix(location)?.parse().ok()
    }

    /// Describes an error of the [`store`](Self::store) in one line: what failed, why, and what an
    /// operator must do, if anything. The line contains no credentials, while the error's own text
    /// may quote the whole response and signed URLs.
    pub fn describe(&self, error: &object_store::Error) -> String {
        self.refusal(error).to_string()
    }

    /// The same bucket, whose errors name the permissions that a reader needs (`true`) or that a
    /// host needs (`false`).
    #[must_use]
    pub fn for_reader(self, is_reader: bool) -> Bucket {
        Bucket { is_read_only: is_reader, ..self }
    }

    /// Whether retries cannot succeed until somebody acts. [`describe`](Self::describe) then says
    /// what to do.
    pub fn is_blocked(&self, error: &object_store::Error) -> bool {
        matches!(self.refusal(error).response, Response::Blocked(_))
    }

    pub(crate) fn refusal(&self, error: &object_store::Error) -> Refusal {
        let mut refusal = Refusal::of(error, self.provider);
        refusal.is_of_session = self.refuses_session(refusal.response, error);
        let is_permission = refusal.response == Response::Blocked(Blocker::Permission);
        let mut refusal =
            if self.is_read_only { refusal.for_reader(self.provider) } else { refusal };
        if is_permission && self.has_expected_owner {
            refusal.advice.push_str(
                ", or correct AWS_EXPECTED_BUCKET_OWNER if the bucket belongs to another account",
            );
        }
        if refusal.advice.is_empty()
            && let Some(advice) = descriptors_advice(error)
        {
            refusal.advice = advice.to_owned();
        }
        refusal
    }

    /// The refusal for a request that panicked, or whose client did.
    pub(crate) fn refusal_of_panic(&self, panicked: &Panicked) -> Refusal {
        Refusal::panicked(panicked, self.provider)
    }

    /// Creates the object with its metadata. If the store keeps no attributes, the evidence goes
    /// into a separate file.
    ///
    /// A crash between the two writes leaves evidence without an object. The retry recognizes it as
    /// its own.
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

    /// Creates an object without evidence. `attributes` are ignored if the store keeps none.
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

    /// Creates an object with attributes. Returns `None`, having created nothing, if the store
    /// keeps no attributes.
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
            // The local file system reports this before it writes anything.
            Err(object_store::Error::NotImplemented { .. }) => {
                self.attributes.store(false, Ordering::Relaxed);
                None
            }
            result => Some(result.map(drop)),
        }
    }

    /// The path and the text of an object's evidence in a store that keeps no attributes.
    fn sidecar(&self, path: &Path, object: &EncodedObject) -> Option<(Path, String)> {
        let (head, key) = (object.head.as_ref()?, self.below_prefix(path)?);
        Some((self.path(&Sidecar::key_of(&key)), Sidecar::text(head)))
    }

    /// Whether the stored object at this path is `object`. Compares the hashes in its metadata or,
    /// without them, its bytes.
    pub(crate) async fn holds(
        &self,
        path: &Path,
        object: &EncodedObject,
    ) -> object_store::Result<bool> {
        let head = match self.store.get_opts(path, GetOptions::new().with_head(true)).await {
            // In a directory, the path may be that of something other than a file.
            Err(error) if is_not_regular(&error) => return Ok(false),
            head => head?,
        };
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
            // We write the evidence before its object, so an object without evidence is not ours.
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) if is_not_regular(&error) => Ok(false),
            is_stored => is_stored,
        }
    }

    /// Whether the object at this path has these bytes. If so, they are durable.
    async fn is_stored(&self, path: &Path, payload: &PutPayload) -> object_store::Result<bool> {
        let found = self.store.get_opts(path, GetOptions::new()).await?.bytes().await?;
        if !same_bytes(&found, payload) {
            return Ok(false);
        }
        // The write that created it may not have reached its fsync yet, or may have failed before
        // it.
        if let Some(directory) = &self.directory {
            let (root, file) = (directory.clone(), directory.join(path.as_ref()));
            let synced = tokio::task::spawn_blocking(move || sync(&root, &file))
                .await
                .map_err(io::Error::other)
                .flatten();
            synced.map_err(|error| directory::generic(error.into()))?;
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

/// Syncs the file and every directory from its own up to the bucket's.
fn sync(root: &std::path::Path, file: &std::path::Path) -> io::Result<()> {
    std::fs::File::open(file)?.sync_all()?;
    let mut directories = file.ancestors().skip(1).take_while(|parent| parent.starts_with(root));
    directories.try_for_each(sync_directory)
}

fn unknown_option(name: &str, store: &str) -> crate::OpenError {
    crate::OpenError::configuration(format!("the {store} store has no option {name}"))
}
