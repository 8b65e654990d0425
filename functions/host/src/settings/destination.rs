//! The destinations of audit logs.

use std::error::Error;
use std::path::{Path, PathBuf};

use audit_host::{Destinations, LogStreamsFile};
use audit_sink_http::Origin;
use audit_sink_s3::{Compression, EvidenceSettings, JournalSettings};

use super::options::{CompressionName, Options};

/// The destinations of audit logs.
pub(super) fn destinations(
    options: &Options,
    deployment: &str,
    data_dir: &Path,
) -> Result<Destinations, Box<dyn Error>> {
    let journal = match options.journal.as_deref() {
        Some("none") => None,
        Some(directory) => Some(PathBuf::from(directory)),
        None => Some(data_dir.join("journal")),
    };
    let bucket = match options.bucket.as_deref() {
        Some("none") => None,
        Some(url) => Some(to_bucket(options, url.to_owned(), journal.clone(), data_dir)?),
        None => {
            let url = format!("file://{}", absolute(&data_dir.join("bucket"))?);
            Some(to_bucket(options, url, journal.clone(), data_dir)?)
        }
    };
    let mut log_streams = options.log_stream.clone();
    if let Some(file) = &options.log_streams {
        log_streams.extend(LogStreamsFile::read(file)?.log_stream);
    }
    for settings in &mut log_streams {
        if settings.origin == Origin::default() {
            settings.origin.deployment_name = deployment.to_owned();
        }
    }
    Ok(Destinations { bucket, ..Destinations::default() }.with_log_streams(
        log_streams,
        journal,
        options.cut_after_ms,
        persist_timeout_ms(options.persist_timeout_ms),
        data_dir,
    ))
}

/// A bucket and the options for writing to it.
fn to_bucket(
    options: &Options,
    url: String,
    journal: Option<PathBuf>,
    data_dir: &Path,
) -> Result<(String, Box<audit_sink_s3::Settings>), Box<dyn Error>> {
    let defaults = audit_sink_s3::Settings::default();
    let is_directory = url.starts_with("file:") || url.starts_with("memory:");
    let settings = audit_sink_s3::Settings {
        compression: match options.compression {
            None => defaults.compression,
            Some(CompressionName::Zstd) => Compression::Zstd,
            Some(CompressionName::Gzip) => Compression::Gzip,
            Some(CompressionName::None) => Compression::None,
        },
        linger_ms: options.linger_ms.unwrap_or(if is_directory { 0 } else { defaults.linger_ms }),
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
    Ok((url, Box::new(settings)))
}

/// The evidence written so that outsiders can verify the bucket, if it is enabled.
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

fn absolute(path: &Path) -> Result<String, Box<dyn Error>> {
    let absolute = std::path::absolute(path)
        .map_err(|error| format!("the path {} cannot be used: {error}", path.display()))?;
    let text = absolute.to_str();
    Ok(text.ok_or_else(|| format!("the path {} is not UTF-8", path.display()))?.to_owned())
}
