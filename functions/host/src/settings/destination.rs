//! Where the audit logs go.

use std::error::Error;
use std::path::{Path, PathBuf};

use audit_host::make_private_directory;
use audit_sink_s3::{Compression, EvidenceSettings, JournalSettings};

use super::options::{CompressionName, Options};

/// Where the audit logs go.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    /// Nowhere.
    None,
    /// To a bucket.
    Bucket {
        /// Its URL.
        url: String,
        /// How it is written to.
        settings: Box<audit_sink_s3::Settings>,
    },
}

impl Destination {
    pub(super) fn new(options: &Options, data_dir: &Path) -> Result<Destination, Box<dyn Error>> {
        let url = match options.bucket.as_deref() {
            Some("none") => return Ok(Destination::None),
            Some(url) => url.to_owned(),
            None => format!("file://{}", made(&data_dir.join("bucket"))?),
        };
        let defaults = audit_sink_s3::Settings::default();
        let is_directory = url.starts_with("file:") || url.starts_with("memory:");
        let journal = match options.journal.as_deref() {
            Some("none") => None,
            Some(directory) => Some(PathBuf::from(directory)),
            None => Some(data_dir.join("journal")),
        };
        let settings = audit_sink_s3::Settings {
            compression: match options.compression {
                None => defaults.compression,
                Some(CompressionName::Zstd) => Compression::Zstd,
                Some(CompressionName::Gzip) => Compression::Gzip,
                Some(CompressionName::None) => Compression::None,
            },
            linger_ms: options.linger_ms.unwrap_or(if is_directory {
                0
            } else {
                defaults.linger_ms
            }),
            persist_timeout_ms: persist_timeout_ms(options.persist_timeout_ms),
            journal: journal.map(|directory| {
                let defaults = JournalSettings::new(directory);
                let cut_after_ms = options.cut_after_ms.unwrap_or(defaults.cut_after_ms);
                JournalSettings { cut_after_ms, ..defaults }
            }),
            evidence: evidence(options, data_dir),
            ..defaults
        };
        settings.check()?;
        Ok(Destination::Bucket { url, settings: Box::new(settings) })
    }
}

/// What is written so that outsiders can verify the bucket, if anything.
fn evidence(options: &Options, data_dir: &Path) -> Option<EvidenceSettings> {
    let name = options.evidence.as_deref().unwrap_or("functions-host");
    let settings = EvidenceSettings::new(name);
    match (name, &options.evidence_key) {
        ("off", _) => None,
        (_, Some(file)) => Some(EvidenceSettings { key_file: Some(file.clone()), ..settings }),
        (_, None) => Some(settings.with_key_in(data_dir.join("evidence.key"))),
    }
}

pub(super) fn persist_timeout_ms(set: Option<u64>) -> u64 {
    set.unwrap_or(10_000)
}

/// The absolute path of a directory, created if it does not exist.
fn made(directory: &Path) -> Result<String, Box<dyn Error>> {
    let failed = |error| format!("the directory {} cannot be used: {error}", directory.display());
    make_private_directory(directory).map_err(failed)?;
    let path = directory.canonicalize().map_err(failed)?;
    let path = path.to_str().ok_or_else(|| format!("the path {} is not UTF-8", path.display()))?;
    Ok(path.to_owned())
}
