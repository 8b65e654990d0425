//! The bucket that a URL names, and what is asked of it.
//!
//! - `provider`, `stores`, `configuration`, `credentials`: whose bucket it is, and how it is opened.
//! - `directory`: a directory of this host as a bucket.
//! - `response`: what its responses mean for a request that creates an object.
//! - `probe`: whether it can be written to, asked when a sink is opened.
//! - `put`: creates an object, and retries until that is certain.
//! - `listing`, `read_client`: for readers.

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod configuration;
mod credentials;
mod directory;
pub(crate) mod listing;
pub(crate) mod probe;
mod provider;
pub(crate) mod put;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod read_client;
pub(crate) mod response;
mod stores;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attributes, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};
use url::Url;

use self::directory::Directory;
use self::provider::Provider;
use self::response::{Answer, Refusal};
use crate::object::encode::{EncodedObject, says_same};
use crate::panic::Panicked;
use crate::{ObjectKey, OpenError};

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
}

impl Bucket {
    /// The bucket at `url`, with credentials and options from the environment.
    ///
    /// | URL | store | environment |
    /// |---|---|---|
    /// | `s3://bucket/prefix` | AWS S3, or what speaks its protocol | `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, … ([all](https://docs.rs/object_store/0.14.2/object_store/aws/enum.AmazonS3ConfigKey.html)) |
    /// | `gs://bucket/prefix` | Google Cloud Storage | `GOOGLE_SERVICE_ACCOUNT`, … ([all](https://docs.rs/object_store/0.14.2/object_store/gcp/enum.GoogleConfigKey.html)) |
    /// | `az://container/prefix` | Azure Blob Storage | `AZURE_STORAGE_ACCOUNT_NAME`, … ([all](https://docs.rs/object_store/0.14.2/object_store/azure/enum.AzureConfigKey.html)) |
    /// | `file:///path` | a directory, created where missing | |
    /// | `memory:///prefix` | this one value and its clones; for tests and examples | |
    ///
    /// Of AWS also the credentials of web identities, containers and instances are found; profiles
    /// in `~/.aws` are not. Nothing is sent to the bucket here; opening a sink on it does.
    ///
    /// # Errors
    ///
    /// When the URL holds a credential or names no bucket, or a provider that is not compiled in;
    /// and when the environment can never work, naming the variable: an http endpoint that nothing
    /// allows, a duration without a unit, a token file that does not exist, half of a pair.
    pub fn open(url: &str) -> Result<Bucket, OpenError> {
        Bucket::open_with(url, [] as [(&str, &str); 0])
    }

    /// Like [`open`](Self::open), with options that go before the environment: the same names in
    /// any case, as in `("aws_endpoint", "http://127.0.0.1:9000")`. For hosts with more than one
    /// bucket, or without an environment.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and when the provider knows no option of that name.
    pub fn open_with<K, V>(
        url: &str,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Bucket, OpenError>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        Bucket::open_for(Purpose::Write, url, options)
    }

    /// Like [`open`](Self::open), for those who only read: a directory that does not exist is an
    /// error and is not created, and requests that get no answer are retried with a growing backoff
    /// of at most two seconds until `retry_for` has passed. Do not open a sink on it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and when a directory does not exist.
    pub fn open_to_read(url: &str, retry_for: Duration) -> Result<Bucket, OpenError> {
        Bucket::open_for(Purpose::reading(retry_for, None), url, [] as [(&str, &str); 0])
    }

    /// Like [`open_to_read`](Self::open_to_read), and calls `on_retry` for each request that failed
    /// in a way that is retried, with what the store or the network said.
    ///
    /// # Errors
    ///
    /// As [`open_to_read`](Self::open_to_read).
    pub fn open_to_read_with(
        url: &str,
        retry_for: Duration,
        on_retry: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Bucket, OpenError> {
        let purpose = Purpose::reading(retry_for, Some(Arc::new(on_retry)));
        Bucket::open_for(purpose, url, [] as [(&str, &str); 0])
    }

    /// How long a reader should retry unless it is told otherwise: a restart of a store, or a
    /// failover, is over by then, and a person who waits is not kept much longer.
    pub const READ_RETRY: Duration = Duration::from_secs(30);

    fn open_for<K, V>(
        purpose: Purpose,
        url: &str,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Bucket, OpenError>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let options: Vec<(String, String)> = options
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_ascii_lowercase(), value.into()))
            .collect();
        let url = parse_url(url)?;
        let prefix = Path::from_url_path(url.path().trim_matches('/')).map_err(|error| {
            OpenError::configuration("the path of the bucket URL is no prefix").with_source(error)
        })?;
        let no_options = |store| match options.first() {
            Some((name, _)) => Err(unknown_option(name, store)),
            None => Ok(()),
        };
        let store_time_ms = match &purpose {
            Purpose::Read { store_time_ms, .. } => Some(Arc::clone(store_time_ms)),
            Purpose::Write => None,
        };
        let is_read_only = store_time_ms.is_some();
        let bucket = match url.scheme() {
            "s3" => Bucket::remote(&url, prefix, stores::s3(&url, purpose, &options)?),
            "gs" => Bucket::remote(&url, prefix, stores::gs(&url, purpose, &options)?),
            "az" => Bucket::remote(&url, prefix, stores::az(&url, purpose, &options)?),
            "file" => {
                no_options("file")?;
                Bucket::directory(&url, purpose)
            }
            "memory" => {
                no_options("memory")?;
                Bucket::remote(&url, prefix, Arc::new(InMemory::new()))
            }
            "s3a" | "s3n" => Err(scheme(&url, "write s3://bucket/prefix")),
            "abfs" | "abfss" | "adl" | "azure" | "wasb" | "wasbs" => {
                Err(scheme(&url, "write az://container/prefix, and set AZURE_STORAGE_ACCOUNT_NAME"))
            }
            "gcs" => Err(scheme(&url, "write gs://bucket/prefix")),
            "http" | "https" => Err(scheme(
                &url,
                "write s3://bucket/prefix, and set AWS_ENDPOINT to the server (and AWS_ALLOW_HTTP=true for http)",
            )),
            _ => Err(scheme(&url, "use s3://, gs://, az://, file:// or memory://")),
        };
        Ok(Bucket { is_read_only, store_time_ms, ..bucket? })
    }

    /// The part of `store` below `prefix`. For a store that the host made itself: with credentials
    /// or headers of its own, or shared by a test.
    ///
    /// The store's own retries should be few, since the sink repeats what is not certain itself;
    /// and it must not repeat with other bytes.
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
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The store's own time at its last response, to the second before, in milliseconds since the
    /// Unix epoch. `None` for a bucket that is not only read, a directory, and a store that does
    /// not tell.
    pub fn store_time_ms(&self) -> Option<i64> {
        let time_ms = self.store_time_ms.as_ref()?.load(Ordering::Relaxed);
        Some(time_ms).filter(|time_ms| *time_ms > 0)
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
    pub fn below_prefix(&self, location: &Path) -> Option<String> {
        let parts: Vec<_> = location.prefix_match(&self.prefix)?.collect();
        Some(parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/"))
    }

    /// The key of the object at this path. `None` if no sink writes objects there.
    pub fn key(&self, location: &Path) -> Option<ObjectKey> {
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
        matches!(self.refusal(error).answer, Answer::Blocked(_))
    }

    pub(crate) fn refusal(&self, error: &object_store::Error) -> Refusal {
        let refusal = Refusal::of(error, self.provider);
        if self.is_read_only { refusal.for_reader(self.provider) } else { refusal }
    }

    /// What it means that a request, or what makes it, panicked.
    pub(crate) fn refusal_of_panic(&self, panicked: &Panicked) -> Refusal {
        Refusal::panicked(panicked, self.provider)
    }

    fn remote(url: &Url, prefix: Path, store: Arc<dyn ObjectStore>) -> Result<Bucket, OpenError> {
        Ok(Bucket { name: name(url), ..Bucket::from_store(store, prefix) })
    }

    fn directory(url: &Url, purpose: Purpose) -> Result<Bucket, OpenError> {
        let path = url.to_file_path().map_err(|()| {
            OpenError::configuration(
                "a file URL has three slashes and an absolute path: file:///path",
            )
        })?;
        let cannot = |doing: &str| {
            OpenError::configuration(format!("cannot {doing} the directory {}", path.display()))
        };
        match purpose {
            Purpose::Write => {
                directory::create_directories(&path)
                    .map_err(|error| cannot("create").with_source(error))?;
                let removed = directory::remove_leftovers(&path)
                    .map_err(|error| cannot("read").with_source(error))?;
                if removed > 0 {
                    tracing::info!(
                        directory = %path.display(),
                        removed,
                        "unfinished objects of writers that died were removed"
                    );
                }
            }
            Purpose::Read { .. } => {
                let found =
                    std::fs::metadata(&path).map_err(|error| cannot("read").with_source(error))?;
                if !found.is_dir() {
                    return Err(
                        cannot("read").with_source(io::Error::from(io::ErrorKind::NotADirectory))
                    );
                }
            }
        }
        let store = Directory::open(&path).map_err(|error| cannot("open").with_source(error))?;
        Ok(Bucket {
            name: name(url),
            directory: Some(path),
            attributes: Arc::new(AtomicBool::new(false)),
            ..Bucket::from_store(Arc::new(store), Path::default())
        })
    }

    /// Creates the object, once. `attributes` go with it if the store keeps any.
    pub(crate) async fn create(
        &self,
        path: &Path,
        payload: PutPayload,
        attributes: Attributes,
    ) -> object_store::Result<()> {
        if self.attributes.load(Ordering::Relaxed) {
            let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
            match self.store.put_opts(path, payload.clone(), options).await {
                // The local file system keeps no attributes and says so before it writes anything.
                Err(object_store::Error::NotImplemented { .. }) => {
                    self.attributes.store(false, Ordering::Relaxed)
                }
                result => return result.map(drop),
            }
        }
        self.store.put_opts(path, payload, PutMode::Create.into()).await.map(drop)
    }

    /// Whether what stands under the path is this object: by the hash in its metadata, or where it
    /// has none by its bytes.
    pub(crate) async fn holds(
        &self,
        path: &Path,
        object: &EncodedObject,
    ) -> object_store::Result<bool> {
        let head = self.store.get_opts(path, GetOptions::new().with_head(true)).await?;
        if let Some(same) = says_same(&head.attributes, &object.metadata.sha256) {
            return Ok(same);
        }
        if head.meta.size != object.payload.content_length() as u64 {
            return Ok(false);
        }
        let found = self.store.get_opts(path, GetOptions::new()).await?.bytes().await?;
        if !same_bytes(&found, &object.payload) {
            return Ok(false);
        }
        // The write that put it there may not have come to its fsync yet, or have been given up
        // before it.
        if let Some(directory) = &self.directory {
            let file = directory.join(path.as_ref());
            let synced = tokio::task::spawn_blocking(move || sync(&file))
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

/// What a bucket is opened for.
#[derive(Clone)]
#[cfg_attr(
    not(any(feature = "aws", feature = "gcp", feature = "azure")),
    allow(dead_code, reason = "only the providers' stores retry")
)]
pub(crate) enum Purpose {
    Write,
    Read {
        retry_for: Duration,
        on_retry: Option<OnRetry>,
        /// The time of the store's last response, in milliseconds since the Unix epoch; 0 for none.
        store_time_ms: Arc<AtomicI64>,
    },
}

impl Purpose {
    fn reading(retry_for: Duration, on_retry: Option<OnRetry>) -> Purpose {
        Purpose::Read { retry_for, on_retry, store_time_ms: Arc::default() }
    }
}

/// Is told why a request failed that will be retried.
pub(crate) type OnRetry = Arc<dyn Fn(&str) + Send + Sync>;

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

/// The file and the name of it.
fn sync(file: &std::path::Path) -> io::Result<()> {
    std::fs::File::open(file)?.sync_all()?;
    let directories =
        file.ancestors().skip(1).take_while(|directory| !directory.as_os_str().is_empty());
    // The directories of a key: the hour, the day, and what the day stands in.
    directories.take(3).try_for_each(directory::sync)
}

/// A URL without anything that could be a credential.
fn parse_url(text: &str) -> Result<Url, OpenError> {
    let url = Url::parse(text).map_err(|error| {
        OpenError::configuration("the bucket is not named by a URL such as s3://bucket/prefix")
            .with_source(error)
    })?;
    let superfluous = |what: &str| {
        let message = format!(
            "the bucket URL holds {what}: put credentials and options into the environment instead"
        );
        Err(OpenError::configuration(message))
    };
    if !url.username().is_empty() || url.password().is_some() {
        return superfluous("a user name or a password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return superfluous("a query or a fragment");
    }
    if matches!(url.scheme(), "s3" | "gs" | "az") && url.host_str().unwrap_or_default().is_empty() {
        return Err(OpenError::configuration(format!("the bucket URL {url} names no bucket")));
    }
    if url.scheme() == "memory" && url.host_str().is_some() {
        return Err(OpenError::configuration("a memory URL has three slashes: memory:///prefix"));
    }
    Ok(url)
}

fn name(url: &Url) -> Arc<str> {
    let host = url.host_str().unwrap_or_default();
    format!("{}://{host}{}", url.scheme(), url.path().trim_end_matches('/')).into()
}

fn scheme(url: &Url, instead: &str) -> OpenError {
    OpenError::configuration(format!("{}:// is no bucket URL: {instead}", url.scheme()))
}

pub(crate) fn unknown_option(name: &str, store: &str) -> OpenError {
    OpenError::configuration(format!("the {store} store has no option {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compression;
    use crate::object::encode::ObjectEncoder;
    use crate::object::pieces::pieces;

    fn refused(url: &str) -> String {
        Bucket::open(url).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_bucket_url_is_refused_with_what_to_use_instead() {
        assert!(refused("bucket/prefix").contains("s3://bucket/prefix"));
        assert!(refused("http://127.0.0.1:9000/bucket").contains("AWS_ENDPOINT"));
        assert!(refused("s3a://bucket/prefix").contains("s3://"));
        assert!(refused("abfss://container/prefix").contains("az://"));
        assert!(refused("ftp://bucket/prefix").contains("memory://"));
        assert!(refused("s3:///prefix").contains("names no bucket"));
        assert!(refused("memory://prefix").contains("three slashes"));
        assert!(refused("file://relative/path").contains("three slashes"));
    }

    #[test]
    fn a_credential_in_a_url_is_refused_and_not_shown() {
        for url in [
            "s3://KEYID:SECRET@bucket/prefix",
            "az://container/prefix?sig=SECRET",
            "s3://bucket/#SECRET",
        ] {
            let error = Bucket::open(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("SECRET"), "{error:?}");
            assert!(error.to_string().contains("environment"), "{error}");
        }
    }

    #[test]
    fn options_are_known_or_refused() {
        let refused = |url, name| Bucket::open_with(url, [(name, "x")]).unwrap_err().to_string();
        assert_eq!(
            refused("memory:///", "aws_region"),
            "the memory store has no option aws_region"
        );
        #[cfg(feature = "aws")]
        assert_eq!(refused("s3://bucket", "aws_regoin"), "the s3 store has no option aws_regoin");
    }

    #[cfg(feature = "aws")]
    #[test]
    fn names_show_where_and_no_secret() {
        let options = [
            ("aws_secret_access_key", "SECRET"),
            ("aws_access_key_id", "KEYID"),
            ("AWS_REGION", "eu-central-1"),
        ];
        let bucket = Bucket::open_with("s3://bucket/some/prefix/", options).unwrap();
        assert_eq!(bucket.to_string(), "s3://bucket/some/prefix");
        assert_eq!(format!("{bucket:?}"), "Bucket(\"s3://bucket/some/prefix\")");
        let path = bucket.path("dt=2023-11-14/hour=22/a");
        assert_eq!(path.as_ref(), "some/prefix/dt=2023-11-14/hour=22/a");
        assert_eq!(bucket.below_prefix(&path).as_deref(), Some("dt=2023-11-14/hour=22/a"));
        assert_eq!(bucket.below_prefix(&Path::from("some/prefixes/a")), None);
        let key = ObjectKey::new(
            1_700_000_000_000,
            audit_core::UniqueId::from_bits(7),
            3,
            Compression::Gzip,
        );
        assert_eq!(bucket.key(&bucket.path(&key.to_string())), Some(key));
        assert_eq!(bucket.key(&path), None);
    }

    #[cfg(feature = "aws")]
    #[test]
    fn an_error_of_a_builder_quotes_no_secret() {
        let options = [("aws_allow_http", "SECRETSECRET"), ("aws_token", "also-quoted")];
        let error = Bucket::open_with("s3://bucket", options).unwrap_err().to_string();
        assert!(error.starts_with("s3://bucket cannot be opened: "), "{error}");
    }

    #[test]
    fn a_directory_that_is_only_read_is_not_made() {
        let root = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(root.path().join("absent")).unwrap();
        let error = Bucket::open_to_read(url.as_str(), Duration::ZERO).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the directory "), "{error}");
        assert!(!root.path().join("absent").exists());
        Bucket::open(url.as_str()).unwrap();
        Bucket::open_to_read(url.as_str(), Duration::ZERO).unwrap();
    }

    #[tokio::test]
    async fn a_directory_holds_what_was_created_and_refuses_it_again() {
        let root = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(root.path().join("new/logs")).unwrap();
        let bucket = Bucket::open(url.as_str()).unwrap();
        let path = bucket.path("dt=2023-11-14/hour=22/a.ndjson");
        let object = |line: &[u8]| {
            let mut encoder = ObjectEncoder::new(pieces());
            encoder.encode(line, 0, 1, Compression::None)
        };
        let (ours, other, longer) = (object(b"{}\n"), object(b"[]\n"), object(b"{ }\n"));
        bucket.create(&path, ours.payload.clone(), ours.attributes()).await.unwrap();
        let again = bucket.create(&path, other.payload.clone(), other.attributes()).await;
        assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
        assert!(bucket.holds(&path, &ours).await.unwrap());
        assert!(!bucket.holds(&path, &other).await.unwrap());
        assert!(!bucket.holds(&path, &longer).await.unwrap());
        let missing = bucket.holds(&bucket.path("absent"), &ours).await;
        assert!(matches!(missing, Err(object_store::Error::NotFound { .. })), "{missing:?}");
    }

    #[cfg(feature = "aws")]
    #[tokio::test]
    async fn readers_retry_for_as_long_as_they_are_told() {
        use object_store::ObjectStoreExt;
        use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

        let server = S3TestServer::start().await;
        server.put_object("a", s3_testserver::StoredObject::default());
        let read = |retry_for| {
            let url = format!("s3://{}", server.bucket());
            let options = [
                ("aws_endpoint", server.endpoint()),
                ("aws_allow_http", "true".to_owned()),
                ("aws_access_key_id", server.access_key().to_owned()),
                ("aws_secret_access_key", server.secret_key().to_owned()),
            ];
            let bucket =
                Bucket::open_for(Purpose::reading(retry_for, None), &url, options).unwrap();
            async move { bucket.store().get(&Path::from("a")).await.map(drop) }
        };
        // More failures than the client's own count of retries would get over.
        let mut left = 12;
        server.faults().plan(move |_| {
            left -= 1;
            if left >= 0 { Fault::Refused(ErrorAnswer::SLOW_DOWN) } else { Fault::None }
        });
        read(Duration::ZERO).await.unwrap_err();
        assert_eq!(server.requests().len(), 1, "not told to retry");
        read(Duration::from_secs(600)).await.unwrap();
        assert_eq!(server.requests().len(), 13);
    }

    #[test]
    fn bytes_are_compared_across_pieces() {
        let payload: PutPayload = ["ab", "c"].into_iter().map(Bytes::from).collect();
        let same = |found: &'static str| same_bytes(&Bytes::from(found), &payload);
        assert_eq!(["abc", "ab", "abcd", "abd", ""].map(same), [true, false, false, false, false]);
    }
}
