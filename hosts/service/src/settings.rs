//! What can be set, by flags and by the environment.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use audit_runtime::http::TrustedProxies;
use audit_sink_s3::{Compression, JournalSettings};
use clap::Parser;

/// A web service whose reads and writes are audited: no document is shown and no change commits
/// before its audit log is in the bucket.
#[derive(Debug, Parser)]
#[command(name = "audit-service", version)]
pub(crate) struct Settings {
    /// Where to listen. Port 0 takes a free one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// The directory for the database and the bucket, where no other place is given for them. Made
    /// if it does not exist.
    #[arg(long, env = "DATA_DIR", default_value = "audit-data")]
    pub(crate) data_dir: PathBuf,

    /// Where the audit logs go: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix,
    /// file:///path, or `none`. Credentials and regions come from the provider's usual environment
    /// variables. [default: the directory `bucket` in the data directory]
    #[arg(long, env = "AUDIT_BUCKET")]
    pub(crate) bucket: Option<String>,

    /// The directory of the journal, in which logs are durable before they are on their way to the
    /// bucket; or `none`, and each request waits for the bucket itself. [default: the directory
    /// `journal` in the data directory]
    #[arg(long, env = "AUDIT_JOURNAL")]
    pub(crate) journal: Option<String>,

    /// Where the documents are: postgres://user@host/database or sqlite://path?mode=rwc. [default:
    /// `documents.db` in the data directory]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,

    /// Networks of the proxies whose X-Forwarded-For and X-Request-Id are believed, for example
    /// 10.0.0.0/8.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "")]
    pub(crate) trusted_proxies: TrustedProxies,

    /// Without a journal: how long a log waits for others to share an object with, in milliseconds.
    /// [default: 50 for a bucket that charges for each request, 0 for a directory]
    #[arg(long, env = "AUDIT_LINGER_MS")]
    pub(crate) linger_ms: Option<u64>,

    /// With a journal: how late a log may be in the bucket, in milliseconds.
    #[arg(long, env = "AUDIT_CUT_AFTER_MS", default_value_t = 5_000)]
    pub(crate) cut_after_ms: u64,

    /// How long a request waits for its logs to be durable before it fails, in milliseconds.
    #[arg(long, env = "AUDIT_PERSIST_TIMEOUT_MS", default_value_t = 10_000)]
    pub(crate) persist_timeout_ms: u64,

    /// How objects are compressed.
    #[arg(long, env = "AUDIT_COMPRESSION", value_parser = ["zstd", "gzip", "none"], default_value = "zstd")]
    pub(crate) compression: String,

    /// Adds to each log which execution of which function it comes from.
    #[arg(long, env = "AUDIT_PROVENANCE")]
    pub(crate) provenance: bool,
}

/// Where the audit logs go.
pub(crate) enum Destination {
    /// Nowhere.
    None,
    /// To a bucket.
    Bucket {
        /// Its URL.
        url: String,
        /// How it is written to.
        settings: audit_sink_s3::Settings,
    },
}

impl Settings {
    /// Where the audit logs go.
    pub(crate) fn destination(&self) -> Result<Destination, Box<dyn Error>> {
        let url = match self.bucket.as_deref() {
            Some("none") => return Ok(Destination::None),
            Some(url) => url.to_owned(),
            None => format!("file://{}", self.made(&self.data_dir.join("bucket"))?),
        };
        let is_directory = url.starts_with("file:") || url.starts_with("memory:");
        let defaults = audit_sink_s3::Settings::default();
        let linger_ms = self.linger_ms.unwrap_or(if is_directory { 0 } else { defaults.linger_ms });
        let compression = match self.compression.as_str() {
            "zstd" => Compression::Zstd,
            "gzip" => Compression::Gzip,
            _ => Compression::None,
        };
        let journal = match self.journal.as_deref() {
            Some("none") => None,
            Some(directory) => Some(PathBuf::from(directory)),
            None => Some(self.data_dir.join("journal")),
        };
        let cut_after_ms = self.cut_after_ms;
        let journal = journal
            .map(|directory| JournalSettings { cut_after_ms, ..JournalSettings::new(directory) });
        let persist_timeout_ms = self.persist_timeout_ms;
        let settings = audit_sink_s3::Settings {
            compression,
            linger_ms,
            persist_timeout_ms,
            journal,
            ..defaults
        };
        Ok(Destination::Bucket { url, settings })
    }

    /// Where the documents are.
    pub(crate) fn database_url(&self) -> Result<String, Box<dyn Error>> {
        match &self.database_url {
            Some(url) => Ok(url.clone()),
            None => Ok(format!("sqlite://{}/documents.db?mode=rwc", self.made(&self.data_dir)?)),
        }
    }

    /// The absolute path of a directory, which exists when this returns.
    fn made(&self, directory: &Path) -> Result<String, Box<dyn Error>> {
        let failed =
            |error| format!("the directory {} cannot be used: {error}", directory.display());
        std::fs::create_dir_all(directory).map_err(failed)?;
        let path = directory.canonicalize().map_err(failed)?;
        let path =
            path.to_str().ok_or_else(|| format!("the path {} is not UTF-8", path.display()))?;
        Ok(path.to_owned())
    }
}
