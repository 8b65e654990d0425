//! The settings of the audit log that all hosts have.

use std::error::Error;
use std::path::{Path, PathBuf};

use audit_core::with_sources;
use audit_sink_http::{Format, Origin};
use audit_sink_s3::{Compression, EvidenceSettings, JournalSettings, WitnessSettings};

use crate::Destinations;
use crate::apart::file_url;

/// The settings of the audit log, as they were set. [`destinations`](Self::destinations) has the
/// defaults, and refuses what can never work.
#[derive(Debug, Clone, Copy)]
pub struct AuditLogSettings<'a> {
    /// The directory for everything whose place is not set.
    pub data_dir: &'a Path,
    /// The bucket's URL, or `none`. By default the directory `bucket` in the data directory, or
    /// `none` if there is a `dev_log_stream`.
    pub bucket: Option<&'a str>,
    /// For development: the URL of a [log stream](Self::dev_log_stream) that gets the audit logs.
    pub dev_log_stream: Option<&'a str>,
    /// The journal's directory, or `none`. By default `journal` in the data directory.
    pub journal: Option<&'a str>,
    /// How long records of the journal wait before they are sent, in milliseconds.
    pub cut_after_ms: Option<u64>,
    /// Without a journal: how long a record waits for others, in milliseconds. By default 50, and 0
    /// for a directory, which does not charge for requests.
    pub linger_ms: Option<u64>,
    /// How long a function waits for its records to be durable, in milliseconds.
    pub persist_timeout_ms: u64,
    /// The compression of objects.
    pub compression: Compression,
    /// The name under which the host signs its records, or `off`.
    pub evidence: &'a str,
    /// The file of the private key. By default the text of `AUDIT_EVIDENCE_KEY`, or the file
    /// `evidence.key` in the data directory.
    pub evidence_key: Option<&'a Path>,
    /// The witnesses that cosign the evidence: of each its URL and its verifier key, see
    /// [`WitnessSettings`]. By default none.
    pub witnesses: Option<&'a str>,
}

impl AuditLogSettings<'_> {
    /// The journal's directory, if there is to be a journal.
    pub fn journal(&self) -> Option<PathBuf> {
        match self.journal {
            Some("none") => None,
            Some(directory) => Some(PathBuf::from(directory)),
            None => Some(self.data_dir.join("journal")),
        }
    }

    /// The log stream for development, if there is one: webhook events without a signature. Its
    /// receiver may be on this machine or in a private network, and needs TLS unless it is on this
    /// machine.
    pub fn dev_log_stream(&self) -> Option<audit_sink_http::Settings> {
        let settings = audit_sink_http::Settings::new(self.dev_log_stream?, Format::Webhook);
        let origin = Origin { deployment_type: "dev".to_owned(), ..Origin::default() };
        let name = "dev".to_owned();
        let allow_private_addresses = true;
        Some(audit_sink_http::Settings { name, origin, allow_private_addresses, ..settings })
    }

    /// The bucket of these settings, without log streams or routes.
    ///
    /// # Errors
    ///
    /// If a setting is empty or out of range, the name for evidence is a word for *on* or *off*, or
    /// the journal or the key would be among the bucket's objects. The error names the setting.
    pub fn destinations(&self) -> Result<Destinations, Box<dyn Error>> {
        for (name, value) in [("bucket", self.bucket), ("journal", self.journal)] {
            if value.is_some_and(|value| value.trim().is_empty()) {
                return Err(format!(
                    "{name} is empty: leave it out for its default, or set it to `none`"
                )
                .into());
            }
        }
        let url = match self.bucket {
            Some("none") => return Ok(Destinations::default()),
            Some(url) => url.to_owned(),
            None if self.dev_log_stream.is_some() => return Ok(Destinations::default()),
            None => file_url(&self.data_dir.join("bucket"))?,
        };
        let defaults = audit_sink_s3::Settings::default();
        let is_directory = url.starts_with("file:") || url.starts_with("memory:");
        let journal = self.journal().map(|directory| {
            let defaults = JournalSettings::new(directory);
            let cut_after_ms = self.cut_after_ms.unwrap_or(defaults.cut_after_ms);
            JournalSettings { cut_after_ms, ..defaults }
        });
        let settings = audit_sink_s3::Settings {
            compression: self.compression,
            linger_ms: self.linger_ms.unwrap_or(if is_directory { 0 } else { defaults.linger_ms }),
            persist_timeout_ms: self.persist_timeout_ms,
            journal,
            evidence: self.evidence()?,
            ..defaults
        };
        settings.check()?;
        let bucket = Some((url, Box::new(settings)));
        let destinations = Destinations { bucket, ..Destinations::default() };
        destinations.check_apart()?;
        Ok(destinations)
    }

    /// The evidence written so that outsiders can verify the bucket, if it is enabled.
    fn evidence(&self) -> Result<Option<EvidenceSettings>, Box<dyn Error>> {
        let name = self.evidence;
        let is_word = ["on", "true", "yes", "1", "false", "no", "0", "none"]
            .iter()
            .any(|word| name.eq_ignore_ascii_case(word));
        if is_word || name.trim().is_empty() {
            return Err(format!(
                "evidence is {name:?}, and must be the name of this host in signatures, such as \
                 `billing-1`, or `off`"
            )
            .into());
        }
        let witnesses = WitnessSettings::parse_list(self.witnesses.unwrap_or_default());
        let witnesses =
            witnesses.map_err(|error| format!("witnesses: {}", with_sources(&error)))?;
        if name == "off" && !witnesses.is_empty() {
            return Err("witnesses are set and evidence is off: witnesses cosign evidence".into());
        }
        let settings = EvidenceSettings { witnesses, ..EvidenceSettings::new(name) };
        Ok(match self.evidence_key {
            _ if name == "off" => None,
            Some(file) => Some(EvidenceSettings { key_file: Some(file.to_owned()), ..settings }),
            None => Some(settings.with_key_in(self.data_dir.join("evidence.key"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSIGNER: &str = "witness.example+553fe6a9+BIqHX/8es4RRV3rNWv7kBUVlaN18ieCQhjoFV7x69J8X";

    fn settings(data_dir: &Path) -> AuditLogSettings<'_> {
        AuditLogSettings {
            data_dir,
            bucket: None,
            dev_log_stream: None,
            journal: None,
            cut_after_ms: None,
            linger_ms: None,
            persist_timeout_ms: 10_000,
            compression: Compression::Zstd,
            evidence: "host",
            evidence_key: None,
            witnesses: None,
        }
    }

    #[test]
    fn settings_that_can_never_work_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path).to_str().unwrap().to_owned();
        let fine = settings(root.path());
        assert!(fine.destinations().is_ok());
        std::fs::create_dir(root.path().join("logs")).unwrap();
        std::os::unix::fs::symlink(root.path().join("logs"), root.path().join("link")).unwrap();
        let logs = format!("file://{}", at("logs"));
        let [inside, linked, dots] = ["logs/journal", "link/journal", "x/../logs"].map(at);
        let beside = at("logs-journal");
        let key = root.path().join("logs/evidence.key");
        let bucket = Some(&*logs);
        let witness = format!("https://w.example {COSIGNER}");
        for (case, says) in [
            (AuditLogSettings { bucket: Some(""), ..fine }, "bucket is empty"),
            (AuditLogSettings { journal: Some(" "), ..fine }, "journal is empty"),
            (AuditLogSettings { evidence: "", ..fine }, "evidence is \"\""),
            (AuditLogSettings { evidence: "True", ..fine }, "evidence is \"True\""),
            (AuditLogSettings { evidence: "on", ..fine }, "or `off`"),
            (AuditLogSettings { bucket, journal: Some(&inside), ..fine }, "journal is /"),
            (AuditLogSettings { bucket, journal: Some(&linked), ..fine }, "journal is /"),
            (AuditLogSettings { bucket, journal: Some(&dots), ..fine }, "journal is /"),
            (AuditLogSettings { bucket, journal: Some(&at("")), ..fine }, "within the journal"),
            (AuditLogSettings { bucket, evidence_key: Some(&key), ..fine }, "evidence_key is /"),
            (AuditLogSettings { witnesses: Some("https://w.example"), ..fine }, "witnesses: the"),
            (
                AuditLogSettings { witnesses: Some(&witness), evidence: "off", ..fine },
                "witnesses cosign evidence",
            ),
        ] {
            let error = case.destinations().unwrap_err().to_string();
            assert!(error.contains(says), "{case:?}: {error}");
        }
        let apart = AuditLogSettings { bucket, journal: Some(&beside), ..fine };
        assert!(apart.destinations().is_ok());
        let off = AuditLogSettings { evidence: "off", ..fine };
        let (_, settings) = off.destinations().unwrap().bucket.unwrap();
        assert_eq!(settings.evidence, None);
        let witnessed = AuditLogSettings { witnesses: Some(&witness), ..fine };
        let (_, settings) = witnessed.destinations().unwrap().bucket.unwrap();
        assert_eq!(settings.evidence.unwrap().witnesses[0].to_string(), witness);
    }

    #[test]
    fn a_log_stream_for_development_takes_the_place_of_the_default_bucket() {
        let data = Path::new("data");
        let url = "http://127.0.0.1:8000/logs";
        let dev = AuditLogSettings { dev_log_stream: Some(url), ..settings(data) };
        for (bucket, has_bucket) in [(None, false), (Some("memory:///"), true)] {
            let dev = AuditLogSettings { bucket, ..dev };
            let streams = dev.dev_log_stream().into_iter().collect();
            let destinations = dev.destinations().unwrap();
            let destinations =
                destinations.with_log_streams(streams, dev.journal(), None, 5_000, data);
            assert_eq!(destinations.bucket.is_some(), has_bucket);
            assert_eq!(destinations.journal(), Some(&*data.join("journal")));
            let stream = &destinations.log_streams[0];
            assert_eq!((&*stream.url, stream.journal.is_some()), (url, !has_bucket));
            assert_eq!(stream.origin.deployment_type, "dev");
            // Of this machine, without TLS.
            assert!(stream.check().is_ok());
            assert_eq!(stream.dead_letters.as_deref(), Some(&*data.join("dead-letters/dev")));
        }
        assert_eq!(settings(data).dev_log_stream(), None);
    }
}
