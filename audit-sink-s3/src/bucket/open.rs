//! Opening a bucket by its URL.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use audit_core::durable::create_directory;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

use super::directory::{self, Directory};
use super::purpose::{Given, Purpose};
use super::store_clock::StoreClock;
use super::{Bucket, stores, unknown_option};
use crate::OpenError;
use crate::bucket::stores::Remote;

impl Bucket {
    /// Opens the bucket at `url`, with credentials and options from the environment.
    ///
    /// | URL | store | environment |
    /// |---|---|---|
    /// | `s3://bucket/prefix` | AWS S3, or any compatible store | `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, … ([all](https://docs.rs/object_store/0.14.2/object_store/aws/enum.AmazonS3ConfigKey.html)) |
    /// | `gs://bucket/prefix` | Google Cloud Storage | `GOOGLE_SERVICE_ACCOUNT`, … ([all](https://docs.rs/object_store/0.14.2/object_store/gcp/enum.GoogleConfigKey.html)) |
    /// | `az://container/prefix` | Azure Blob Storage | `AZURE_STORAGE_ACCOUNT_NAME`, … ([all](https://docs.rs/object_store/0.14.2/object_store/azure/enum.AzureConfigKey.html)) |
    /// | `file:///path` | a directory, created if missing | |
    /// | `memory:///prefix` | this value and its clones, for tests and examples | |
    ///
    /// The URL may also hold settings that are not secret, as in
    /// `s3://bucket/prefix?region=eu-central-1&assume_role_arn=arn:aws:iam::123456789012:role/audit`:
    /// a role to assume in the account of the bucket's owner, and the storage class and tags of
    /// objects. Each has the name of its variable without `AWS_`, `GOOGLE_` or `AZURE_`, and takes
    /// precedence over the variable. The project's `docs/CONFIGURATION.md` lists them.
    ///
    /// For AWS, the credentials of web identities, containers and instances are found as well;
    /// profiles in `~/.aws` are not. No request is sent until a sink is opened on the bucket.
    ///
    /// Use the bucket in the tokio runtime in which it was opened. Buckets that are opened there
    /// with the same options of the HTTP client share its connections and the machine's
    /// certificates, which are read when the first of them is opened. Outside of a runtime, and
    /// with HTTP/2, each bucket has a client of its own.
    ///
    /// # Errors
    ///
    /// If the URL names no bucket, names a provider that is not compiled in, or holds a credential
    /// or a setting that is unknown or belongs in the environment. Also if the environment can
    /// never work, naming the variable: for example an http endpoint that is not allowed, a
    /// duration without a unit, a token file that does not exist, or half of a pair.
    pub fn open(url: &str) -> Result<Bucket, OpenError> {
        Bucket::open_with(url, [] as [(&str, &str); 0])
    }

    /// Like [`open`](Self::open), with options that take precedence over the environment. They have
    /// the same names in any case, as in `("aws_endpoint", "http://127.0.0.1:9000")`. For hosts
    /// with more than one bucket, or without an environment.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and an option that the provider does not know.
    pub fn open_with<K, V>(
        url: &str,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Bucket, OpenError>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        Bucket::open_for(Purpose::Write(StoreClock::default()), url, options, true)
    }

    /// Like [`open_with`](Self::open_with), but without the environment: for the bucket of another
    /// account, which none of the host's own credentials may reach. The client still asks the
    /// instance or container for credentials if no option has any.
    ///
    /// # Errors
    ///
    /// Those of [`open_with`](Self::open_with).
    pub fn open_with_only<K, V>(
        url: &str,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Bucket, OpenError>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        Bucket::open_for(Purpose::Write(StoreClock::default()), url, options, false)
    }

    /// Like [`open`](Self::open), for reading only: a missing directory is an error and is not
    /// created, and failed requests are retried with a growing backoff of at most two seconds until
    /// `retry_for` has passed. Do not open a sink on it.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and a directory that does not exist.
    pub fn open_to_read(url: &str, retry_for: Duration) -> Result<Bucket, OpenError> {
        Bucket::open_for(Purpose::reading(retry_for, None), url, [] as [(&str, &str); 0], true)
    }

    /// Like [`open_to_read`](Self::open_to_read), and calls `on_retry` with the reason for each
    /// failed request that is retried.
    ///
    /// # Errors
    ///
    /// Those of [`open_to_read`](Self::open_to_read).
    pub fn open_to_read_with(
        url: &str,
        retry_for: Duration,
        on_retry: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Bucket, OpenError> {
        let purpose = Purpose::reading(retry_for, Some(Arc::new(on_retry)));
        Bucket::open_for(purpose, url, [] as [(&str, &str); 0], true)
    }

    /// The default time for a reader's retries: long enough for a restart or a failover of the
    /// store, and not too long for a person who waits.
    pub const READ_RETRY: Duration = Duration::from_secs(30);

    pub(super) fn open_for<K, V>(
        purpose: Purpose,
        url: &str,
        options: impl IntoIterator<Item = (K, V)>,
        has_environment: bool,
    ) -> Result<Bucket, OpenError>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let options: Vec<(String, String)> = options
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_ascii_lowercase(), value.into()))
            .collect();
        let (url, mut settings) = parse_url(url)?;
        // A directory may have any name.
        let prefix = if url.scheme() == "file" { "" } else { url.path().trim_matches('/') };
        let prefix = Path::from_url_path(prefix).map_err(|error| {
            OpenError::configuration("the path of the bucket URL is not a valid prefix")
                .with_source(error)
        })?;
        let no_options = |store| match options.first() {
            Some((name, _)) => Err(unknown_option(name, store)),
            None => Ok(()),
        };
        let (store_time_ms, clock) = match &purpose {
            Purpose::Read { store_time_ms, .. } => {
                (Some(Arc::clone(store_time_ms)), StoreClock::default())
            }
            Purpose::Write(clock) => (None, clock.clone()),
        };
        let is_read_only = store_time_ms.is_some();
        settings.extend(options.iter().cloned());
        let given = Given { options: settings, has_environment };
        let bucket = match url.scheme() {
            "s3" => Bucket::remote(&url, prefix, stores::s3(&url, purpose, &given)?),
            "gs" => Bucket::remote(&url, prefix, stores::gs(&url, purpose, &given)?),
            "az" => Bucket::remote(&url, prefix, stores::az(&url, purpose, &given)?),
            "file" => {
                no_options("file")?;
                Bucket::directory(&url, purpose)
            }
            "memory" => {
                no_options("memory")?;
                Bucket::remote(&url, prefix, Remote::new(Arc::new(InMemory::new())))
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
        Ok(Bucket { is_read_only, store_time_ms, clock, ..bucket? })
    }

    fn remote(url: &Url, prefix: Path, remote: Remote) -> Result<Bucket, OpenError> {
        #[cfg(feature = "aws")]
        let s3 = remote.s3;
        let Remote { store, kept, has_expected_owner, session, .. } = remote;
        Ok(Bucket {
            name: name(url),
            #[cfg(feature = "aws")]
            s3,
            kept: Arc::new(kept),
            has_expected_owner,
            session,
            ..Bucket::from_store(store, prefix)
        })
    }

    fn directory(url: &Url, purpose: Purpose) -> Result<Bucket, OpenError> {
        let path = url.to_file_path().map_err(|()| {
            OpenError::configuration(
                "a file URL needs three slashes and an absolute path: file:///path",
            )
        })?;
        let cannot = |doing: &str| {
            OpenError::configuration(format!("cannot {doing} the directory {}", path.display()))
        };
        match purpose {
            Purpose::Write(_) => {
                create_directory(&path).map_err(|error| cannot("create").with_source(error))?;
                let removed = directory::remove_leftovers(&path)
                    .map_err(|error| cannot("read").with_source(error))?;
                if removed > 0 {
                    tracing::info!(
                        directory = %path.display(),
                        removed,
                        "removed unfinished objects of dead writers"
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
}

/// Parses a URL, which must hold no credentials, and the settings in its query.
fn parse_url(text: &str) -> Result<(Url, Vec<(String, String)>), OpenError> {
    let mut url = Url::parse(text).map_err(|error| {
        OpenError::configuration("the bucket must be a URL such as s3://bucket/prefix")
            .with_source(error)
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(OpenError::configuration(
            "the bucket URL holds a user name or a password: put credentials into the environment \
             instead",
        ));
    }
    if url.fragment().is_some() {
        return Err(OpenError::configuration(
            "the bucket URL holds a fragment, which begins with #: write %23 for a # in a name, \
             and put credentials into the environment",
        ));
    }
    let settings = settings_in(&url)?;
    url.set_query(None);
    if matches!(url.scheme(), "s3" | "gs" | "az") && url.host_str().unwrap_or_default().is_empty() {
        return Err(OpenError::configuration(format!("the bucket URL {url} names no bucket")));
    }
    if url.scheme() == "memory" && url.host_str().is_some() {
        return Err(OpenError::configuration("a memory URL needs three slashes: memory:///prefix"));
    }
    Ok((url, settings))
}

/// The settings in the query of a URL. Errors do not quote an unknown one, which may be a
/// credential.
fn settings_in(url: &Url) -> Result<Vec<(String, String)>, OpenError> {
    #[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
    if let Some(own) = super::own_settings::OwnSettings::of_scheme(url.scheme()) {
        let settings = url.query_pairs().map(|(member, value)| {
            let name = own.in_url(&member).ok_or_else(|| {
                let known: Vec<&str> = own.all_in_url().map(|(member, _)| member).collect();
                OpenError::configuration(format!(
                    "the query of a {}:// URL can only have {}: put credentials and other options into \
                     the environment instead",
                    url.scheme(),
                    known.join(", ")
                ))
            })?;
            Ok((name.to_owned(), value.into_owned()))
        });
        return settings.collect();
    }
    // URLs of other schemes are refused elsewhere.
    if matches!(url.scheme(), "file" | "memory") && url.query().is_some() {
        return Err(OpenError::configuration(format!(
            "a {}:// URL cannot have a query, which begins with ?: write %3F for a ? in a name",
            url.scheme()
        )));
    }
    Ok(Vec::new())
}

fn name(url: &Url) -> Arc<str> {
    let host = url.host_str().unwrap_or_default();
    format!("{}://{host}{}", url.scheme(), url.path().trim_end_matches('/')).into()
}

fn scheme(url: &Url, instead: &str) -> OpenError {
    OpenError::configuration(format!("{}:// is not a bucket URL: {instead}", url.scheme()))
}
