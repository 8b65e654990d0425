//! `audit verify --parquet`: checks that files match their records, and that hosts signed these.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use audit_evidence::{Alarm, Fault, Finding, TrustedKey};
use audit_sink_s3::Bucket;
use audit_sink_s3::layout::ObjectKey;
use futures::StreamExt;

use super::check::{Checked, Wrong, check};
use super::index::{All, File, MAX_FILE_BYTES, TOO_LARGE, Target, Unread};
use super::missing::{Missing, missing};
use super::source;
use crate::arguments::Common;
use crate::bucket::{Listed, Reader, to_url};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::units::shown;

/// The result for all files.
#[derive(Debug, Default)]
pub(crate) struct Compacted {
    pub(crate) files: u64,
    pub(crate) records: u64,
    /// The keys of the objects whose records the files hold, each with the index of its file.
    pub(crate) objects: HashMap<String, usize>,
    /// The files that exist, and the first day that was examined.
    listed: Vec<File>,
    first_day: Option<String>,
    /// Files, and days without the list of their files, that could not be read, with the reasons.
    pub(crate) unread: Vec<(String, String)>,
    /// The days with files that could not be listed or read.
    unknown_days: BTreeSet<String>,
    pub(crate) findings: Vec<Finding>,
}

impl Compacted {
    /// The listed objects that are in none of the files.
    pub(crate) fn missing(
        &self,
        listed: impl Iterator<Item = ObjectKey>,
        now_ms: i64,
    ) -> Vec<Missing> {
        let is_held = |key: &str| self.objects.contains_key(key);
        let mut missing = missing(&self.listed, is_held, listed, self.first_day.as_deref(), now_ms);
        // Objects of these days may be in a file that could not be read.
        missing.retain(|missing| !self.unknown_days.contains(&missing.day));
        missing
    }
}

/// Opens the directory of the files.
pub(crate) fn open(to: &str, common: &Common) -> Result<Target, Failure> {
    let retry_for = Duration::from_secs(common.retry_for);
    Ok(Target { bucket: Bucket::open_to_read(&to_url(to)?, retry_for)? })
}

/// The number of files that are checked at once. Each is held in memory.
const AT_ONCE: usize = 2;

/// Checks the files from the day of `since_ms` on.
pub(crate) async fn verify(
    target: &Target,
    reader: &Reader,
    keys: &[TrustedKey],
    since_ms: Option<i64>,
    common: &Common,
) -> Result<Compacted, Failure> {
    let first = since_ms.map(|ms| shown(ms).get(..10).unwrap_or_default().to_owned());
    let is_wanted = |day: &str| first.as_deref().is_none_or(|first| first <= day);
    let All { mut files, unlisted, mut foreign } = target.all_files().await?;
    files.retain(|file| is_wanted(&file.day));
    foreign.retain(|name| is_wanted(name.trim_start_matches("dt=")));
    let (mut found, progress) = (Compacted::default(), Progress::new(common, files.len() as u64));
    found.listed.clone_from(&files);
    for (day, failure) in unlisted.into_iter().filter(|(day, _)| is_wanted(day)) {
        found.unread.push((format!("{}/dt={day}", target.name()), reason(&failure)));
        found.unknown_days.insert(day);
    }
    if let Some(name) = foreign.first() {
        let object = Some(format!("{}/{name}", target.name()));
        let fault = Fault::Foreign(foreign.len() as u64);
        found.findings.push(Finding { stream: String::new(), object, records: None, fault });
    }
    found.first_day = first;
    let names: Vec<String> =
        files.iter().map(|file| format!("{}/{}", target.name(), file.name())).collect();
    let checks = files.into_iter().map(|file| one(target, file, keys.to_vec()));
    let mut checks = futures::stream::iter(checks).buffered(AT_ONCE);
    let mut at = 0..names.len();
    while let Some((checked, at)) = checks.next().await.zip(at.next()) {
        let name = &names[at];
        progress.at(at as u64 + 1, "files");
        let Checked { objects, records, wrong } = match checked {
            Ok(checked) => checked,
            Err(Unread::Refused(failure)) => {
                found.unread.push((name.clone(), reason(&failure)));
                found.unknown_days.insert(found.listed[at].day.clone());
                continue;
            }
            Err(Unread::Store(failure) | Unread::Foreign(failure)) => return Err(failure),
        };
        found.files += 1;
        found.records += records;
        let begin = found.findings.len();
        let mut add = |stream: String, records: Option<Range<u64>>, fault: Fault| {
            let object = Some(name.clone());
            let finding = Finding { stream, object, records, fault };
            add_once(&mut found.findings, begin, finding);
        };
        for Wrong { stream, records, object, fault } in wrong {
            // If the object in the bucket has the same fault, it is not a fault of the file.
            let is_of_bucket = match object.filter(|_| fault.alarm() == Alarm::Tampered) {
                Some((key, sha256)) => stands(reader, key, &sha256).await,
                None => false,
            };
            if !is_of_bucket {
                add(stream, records, fault);
            }
        }
        for key in objects {
            if let Some(other) = found.objects.get(&key) {
                let what = format!("it holds the records of {key}, and so does {}", names[*other]);
                add(String::new(), None, Fault::Compacted(what));
            }
            found.objects.insert(key, at);
        }
    }
    Ok(found)
}

/// Adds a finding about a file whose findings begin at `begin`. A fault that many objects of a
/// stream share is reported once.
fn add_once(findings: &mut Vec<Finding>, begin: usize, finding: Finding) {
    let same = |known: &&mut Finding| {
        let is_same = known.stream == finding.stream && known.fault == finding.fault;
        is_same && known.records.is_some() == finding.records.is_some()
    };
    match findings[begin..].iter_mut().find(same).map(|known| &mut known.records) {
        Some(known) => {
            if let (Some(known), Some(more)) = (known, finding.records) {
                *known = known.start.min(more.start)..known.end.max(more.end);
            }
        }
        None => findings.push(finding),
    }
}

/// Whether the object in the bucket has lines with this hash.
async fn stands(reader: &Reader, key: ObjectKey, sha256: &[u8; 32]) -> bool {
    let location = reader.location(&key.to_string());
    let listed = Listed { key, location, bytes: 0, modified_ms: 0 };
    source::read(reader, &listed).await.is_ok_and(|object| object.sha256 == *sha256)
}

/// The message of the store or, without one, of the failure.
fn reason(failure: &Failure) -> String {
    failure.source().map_or_else(|| failure.to_string(), ToString::to_string)
}

async fn one(target: &Target, file: File, keys: Vec<TrustedKey>) -> Result<Checked, Unread> {
    let wrong = |what: &str| {
        let fault = Fault::Compacted(what.to_owned());
        let wrong = vec![Wrong { stream: String::new(), records: None, object: None, fault }];
        Checked { wrong, ..Checked::default() }
    };
    if file.bytes > MAX_FILE_BYTES {
        return Ok(wrong(TOO_LARGE));
    }
    let content = target.get(&file).await?;
    let checked = tokio::task::spawn_blocking(move || check(&content, &file.day, &keys)).await;
    // The reader of the format panicked.
    Ok(checked.unwrap_or_else(|_panicked| wrong("it cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_fault_of_a_file_is_reported_once() {
        let mut findings = Vec::new();
        let mut add = |begin, stream: &str, records, fault| {
            let (stream, object) = (stream.to_owned(), Some("file".to_owned()));
            add_once(&mut findings, begin, Finding { stream, object, records, fault });
        };
        for begin in [0, 4] {
            for _ in 0..2 {
                for records in [Some(5..7), Some(1..3), None] {
                    add(begin, "a", records, Fault::NoEvidence);
                }
                add(begin, "b", None, Fault::NoEvidence);
                add(begin, "a", None, Fault::Place);
            }
        }
        let found = findings.into_iter().map(|finding| (finding.stream, finding.records));
        let of_file = [("a", Some(1..7)), ("a", None), ("b", None), ("a", None)];
        let expected: Vec<_> = [of_file.clone(), of_file].concat();
        let expected = expected.into_iter().map(|(stream, records)| (stream.to_owned(), records));
        assert!(found.eq(expected));
    }
}
