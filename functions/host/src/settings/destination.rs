//! The destinations of audit logs.

use std::error::Error;
use std::path::Path;

use audit_host::{AuditLogSettings, Destinations, LogStreamsFile};
use audit_sink_http::Origin;
use audit_sink_s3::Compression;

use super::options::{CompressionName, Options};

pub(super) fn destinations(
    options: &Options,
    deployment: &str,
    data_dir: &Path,
) -> Result<Destinations, Box<dyn Error>> {
    let log = AuditLogSettings {
        data_dir,
        bucket: options.bucket.as_deref(),
        dev_log_stream: options.dev_log_stream.as_deref(),
        journal: options.journal.as_deref(),
        cut_after_ms: options.cut_after_ms,
        linger_ms: options.linger_ms,
        persist_timeout_ms: persist_timeout_ms(options.persist_timeout_ms),
        compression: match options.compression {
            Some(CompressionName::Zstd) | None => Compression::Zstd,
            Some(CompressionName::Gzip) => Compression::Gzip,
            Some(CompressionName::None) => Compression::None,
        },
        evidence: options.evidence.as_deref().unwrap_or("functions-host"),
        evidence_key: options.evidence_key.as_deref(),
        witnesses: options.witnesses.as_deref(),
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
    if let Some(mut settings) = log.dev_log_stream() {
        settings.origin.deployment_name = deployment.to_owned();
        log_streams.push(settings);
    }
    Ok(log.destinations()?.with_log_streams(
        log_streams,
        log.journal(),
        options.cut_after_ms,
        log.persist_timeout_ms,
        data_dir,
    ))
}

pub(super) fn persist_timeout_ms(set: Option<u64>) -> u64 {
    set.unwrap_or(10_000)
}
