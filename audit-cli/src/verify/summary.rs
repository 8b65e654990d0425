//! The output of `audit verify`: findings, and a summary for the files.

use std::collections::BTreeMap;

use audit_evidence::{Alarm, Fault, Finding, StreamReport, SystemRecord, TrustedKey};
use serde::Serialize;

use super::Verified;
use super::begin::opened_ms;
use crate::arguments::Verify;
use crate::bucket::Reader;
use crate::failure::Failure;
use crate::keys;
use crate::output::{Output, Style};
use crate::parquet::{Compacted, Missing};
use crate::units::{Size, counted, shown};

/// The four kinds of alarm, most serious first.
const ALARMS: [(Alarm, &str); 4] = [
    (Alarm::Tampered, "tampered"),
    (Alarm::Unproven, "unproven"),
    (Alarm::Late, "late"),
    (Alarm::Expired, "expired"),
];

/// The maximum number of days without a Parquet file that are listed as text.
const MAX_MISSING: usize = 20;

fn name(alarm: Alarm) -> &'static str {
    ALARMS.iter().find(|(other, _)| *other == alarm).map_or("", |(_, name)| name)
}

#[derive(Serialize)]
struct FindingLine<'a> {
    finding: &'static str,
    alarm: &'static str,
    stream: &'a str,
    object: Option<&'a str>,
    first: Option<u64>,
    count: Option<u64>,
    what: String,
}

impl<'a> FindingLine<'a> {
    fn new(finding: &'a Finding) -> FindingLine<'a> {
        FindingLine {
            finding: finding.fault.code(),
            alarm: name(finding.alarm()),
            stream: &finding.stream,
            object: finding.object.as_deref(),
            first: finding.records.as_ref().map(|records| records.start),
            count: finding.records.as_ref().map(|records| records.end - records.start),
            what: what(finding),
        }
    }
}

/// The description of the fault, with readable times.
pub(crate) fn what(finding: &Finding) -> String {
    if let Fault::Overdue(at) = finding.fault {
        let at = shown(i64::try_from(at).unwrap_or(i64::MAX));
        return format!("a heartbeat was due at {at}");
    }
    finding.fault.to_string()
}

#[derive(Serialize)]
struct StreamLine<'a> {
    stream: &'a str,
    host: Option<&'a str>,
    size: u64,
    root: Option<String>,
    records: u64,
    objects: u64,
    opened: Option<String>,
    latest: Option<String>,
    has_ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    witnessed: Option<u64>,
}

/// The verified records of one host.
#[derive(Debug, Default, Serialize)]
struct Population {
    streams: u64,
    objects: u64,
    /// All records, including system records.
    records: u64,
    from: Option<String>,
    to: Option<String>,
    /// The maximum known difference between a host's clock and the store's.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_offset_ms: Option<u64>,
    #[serde(skip)]
    range_ms: Option<(i64, i64)>,
}

impl Population {
    fn add(&mut self, stream: &StreamReport) {
        self.streams += 1;
        self.objects += stream.objects;
        self.records += stream.records;
        self.clock_offset_ms = self.clock_offset_ms.max(stream.clock_offset);
        let ms = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        let opened = stream.opened.as_ref().map(|opened| ms(opened.at()));
        let Some(opened) = opened.or_else(|| opened_ms(&stream.stream)) else { return };
        let latest = stream.latest.map_or(opened, ms);
        let (from, to) = self.range_ms.unwrap_or((opened, latest));
        let (from, to) = (from.min(opened), to.max(latest));
        self.range_ms = Some((from, to));
        (self.from, self.to) = (Some(shown(from)), Some(shown(to)));
    }
}

#[derive(Serialize)]
struct Totals<'a> {
    verified: String,
    bucket: String,
    software: String,
    depth: &'static str,
    since: Option<String>,
    keys: Vec<String>,
    /// The names that hosts give the bucket, with the number of streams of each.
    written_to: &'a BTreeMap<&'a str, u64>,
    hosts: &'a BTreeMap<String, Population>,
    without_evidence: &'a Population,
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parquet: Option<Parquet<'a>>,
    other_objects: u64,
    unread_objects: u64,
    /// The number of streams before `since`, by finding.
    before_since: &'a BTreeMap<&'static str, u64>,
    /// The number of missing records, by reason.
    gaps: &'a BTreeMap<&'static str, u64>,
    tampered: u64,
    unproven: u64,
    late: u64,
    expired: u64,
}

/// The totals of the checked Parquet files.
#[derive(Serialize)]
struct Parquet<'a> {
    files: u64,
    objects: u64,
    records: u64,
    /// Objects of completed days that are in no Parquet file, and the names of the missing files.
    missing_objects: u64,
    missing: &'a [Missing],
}

impl<'a> Parquet<'a> {
    fn new((compacted, missing): &'a (Compacted, Vec<Missing>)) -> Parquet<'a> {
        Parquet {
            files: compacted.files,
            objects: compacted.objects.len() as u64,
            records: compacted.records,
            missing_objects: missing.iter().map(|missing| missing.objects).sum(),
            missing,
        }
    }
}

pub(super) struct Summary<'a> {
    verified: &'a Verified,
    keys: &'a [TrustedKey],
    /// The number of streams by the bucket that they state.
    written_to: BTreeMap<&'a str, u64>,
    depth: &'static str,
    since: Option<String>,
    bucket: String,
    at: String,
    hosts: BTreeMap<String, Population>,
    without_evidence: Population,
    before_since: BTreeMap<&'static str, u64>,
    gaps: BTreeMap<&'static str, u64>,
    alarms: [u64; 4],
    others: Option<String>,
    other_objects: u64,
}

impl<'a> Summary<'a> {
    pub(super) fn new(
        reader: &Reader,
        arguments: &Verify,
        keys: &'a [TrustedKey],
        verified: &'a Verified,
        before_since: BTreeMap<&'static str, u64>,
        now: i64,
    ) -> Summary<'a> {
        let mut hosts: BTreeMap<String, Population> = BTreeMap::new();
        let mut without_evidence = Population::default();
        let mut written_to = BTreeMap::new();
        for stream in &verified.report.streams {
            match &stream.host {
                Some(host) => hosts.entry(host.clone()).or_default().add(stream),
                None => without_evidence.add(stream),
            }
            if let Some(SystemRecord::Opened { bucket: Some(name), .. }) = &stream.opened {
                *written_to.entry(name.as_str()).or_default() += 1;
            }
        }
        let findings = &verified.report.findings;
        let mut gaps = BTreeMap::new();
        for finding in findings.iter().filter(|finding| finding.object.is_none()) {
            let (code, records) = (finding.fault.code(), finding.records.as_ref());
            let is_gap = ["deleted", "expired", "unacknowledged", "set-aside", "truncated"];
            if let Some(records) = records.filter(|_| is_gap.contains(&code)) {
                *gaps.entry(code).or_default() += records.end - records.start;
            }
        }
        let count =
            |alarm| findings.iter().filter(|finding| finding.alarm() == alarm).count() as u64;
        Summary {
            verified,
            keys,
            written_to,
            depth: if arguments.heads { "heads" } else { "full" },
            since: arguments.since.map(|since| shown(since.0)),
            bucket: reader.name(),
            at: shown(now - now.rem_euclid(1_000)),
            hosts,
            without_evidence,
            before_since,
            gaps,
            alarms: ALARMS.map(|(alarm, _)| count(alarm)),
            others: reader.others().map(|others| others.to_string()),
            other_objects: reader.others().map_or(0, |others| others.count),
        }
    }

    pub(super) fn print(&self, output: &Output) -> Result<(), Failure> {
        if output.is_json() { self.print_json(output) } else { self.print_text(output) }
    }

    fn print_json(&self, output: &Output) -> Result<(), Failure> {
        let Verified { report, witnessed, stored_bytes, compacted, unread } = self.verified;
        for finding in &report.findings {
            output.json(&FindingLine::new(finding))?;
        }
        let time = |time: u64| shown(i64::try_from(time).unwrap_or(i64::MAX));
        for stream in &report.streams {
            output.json(&StreamLine {
                stream: &stream.stream,
                host: stream.host.as_deref(),
                size: stream.size,
                root: stream.root.map(|root| root.to_string()),
                records: stream.records,
                objects: stream.objects,
                opened: stream.opened.as_ref().map(|opened| time(opened.at())),
                latest: stream.latest.map(time),
                has_ended: stream.has_ended(),
                witnessed: witnessed.get(&stream.stream).copied(),
            })?;
        }
        let [tampered, unproven, late, expired] = self.alarms;
        output.json(&Totals {
            verified: self.at.clone(),
            bucket: self.bucket.clone(),
            software: software(),
            depth: self.depth,
            since: self.since.clone(),
            keys: self.keys.iter().map(keys::text).collect(),
            written_to: &self.written_to,
            hosts: &self.hosts,
            without_evidence: &self.without_evidence,
            stored_bytes: *stored_bytes,
            parquet: compacted.as_ref().map(Parquet::new),
            other_objects: self.other_objects,
            unread_objects: unread.count,
            before_since: &self.before_since,
            gaps: &self.gaps,
            tampered,
            unproven,
            late,
            expired,
        })
    }

    fn print_text(&self, output: &Output) -> Result<(), Failure> {
        let style = output.style();
        for finding in &self.verified.report.findings {
            output.line(&text(finding, style))?;
        }
        let row = |title: &str, value: &str| output.line(&format!("{title:9} {value}"));
        row("bucket", &self.bucket)?;
        let since = self.since.as_ref().map(|since| format!(", since {since}")).unwrap_or_default();
        row("verified", &format!("{}, {}{since}, by {}", self.at, self.depth, software()))?;
        for key in self.keys {
            row("key", &keys::text(key))?;
        }
        for (name, streams) in self.written_to.iter().filter(|(name, _)| **name != self.bucket) {
            row("written", &format!("to {name}: {}", counted(*streams, "stream")))?;
        }
        for (host, population) in &self.hosts {
            row("host", &format!("{host}: {}", described(population)))?;
        }
        if self.without_evidence.streams > 0 {
            let Population { streams, objects, .. } = self.without_evidence;
            let (streams, objects) = (counted(streams, "stream"), counted(objects, "object"));
            row("without", &format!("{streams} without evidence that counts, {objects}"))?;
        }
        if let Some(compacted) = &self.verified.compacted {
            let Parquet { files, objects, records, missing_objects, missing } =
                Parquet::new(compacted);
            let (files, objects) = (counted(files, "file"), counted(objects, "object"));
            let records = counted(records, "record");
            let without = counted(missing_objects, "object");
            row("parquet", &format!("{files}, {objects}, {records}; {without} in no file"))?;
            for missing in missing.iter().take(MAX_MISSING) {
                row("no file", &missing.to_string())?;
            }
            if let more @ 1.. = missing.len().saturating_sub(MAX_MISSING) {
                row("no file", &format!("and {}: see --json", counted(more as u64, "more day")))?;
            }
        }
        row("stored", &Size(self.verified.stored_bytes).to_string())?;
        if let Some(others) = &self.others {
            row("others", others)?;
        }
        for (code, streams) in &self.before_since {
            let streams = counted(*streams, "stream");
            row("before", &format!("{streams} from before that: {code}"))?;
        }
        for (code, records) in &self.gaps {
            row("missing", &format!("{}: {code}", counted(*records, "record")))?;
        }
        if !self.verified.witnessed.is_empty() {
            let sizes = self.verified.witnessed.values();
            let records = counted(sizes.sum(), "record");
            row("witnessed", &format!("{records} by a quorum of the policy"))?;
        }
        if self.depth == "heads" && self.gaps.contains_key(Fault::Unacknowledged.code()) {
            row("heads", "metadata can deny that records were acknowledged: read them to be sure")?;
        }
        let found =
            ALARMS.iter().zip(self.alarms).map(|((_, name), count)| format!("{count} {name}"));
        row("findings", &found.collect::<Vec<_>>().join(", "))?;
        let [tampered, unproven, late, expired] = self.alarms;
        let is_empty = self.verified.report.streams.is_empty();
        let verdict = match (tampered, unproven + late + expired) {
            (0, 0) if is_empty => style.doubtful("there was nothing to examine"),
            (0, 0) => style.good("what was examined is what was written"),
            (0, _) => style.doubtful("nothing was tampered with, and not all is proven"),
            (_, _) => style.bad("tampered with"),
        };
        output.line(&verdict)
    }
}

fn software() -> String {
    format!("audit {}", env!("CARGO_PKG_VERSION"))
}

fn described(population: &Population) -> String {
    let Population { streams, objects, records, from, to, clock_offset_ms, .. } = population;
    let clock = match clock_offset_ms {
        // Stores report whole seconds.
        Some(ms) => format!(", clock within {} s of the store's", ms.div_ceil(1_000)),
        None => String::new(),
    };
    let range = match (from, to) {
        (Some(from), Some(to)) => format!(", {from} to {to}"),
        (_, _) => String::new(),
    };
    let (streams, objects) = (counted(*streams, "stream"), counted(*objects, "object"));
    format!("{streams}, {objects}, {}{range}{clock}", counted(*records, "record"))
}

fn text(finding: &Finding, style: Style) -> String {
    let alarm = name(finding.alarm());
    let alarm = match finding.alarm() {
        Alarm::Tampered => style.bad(alarm),
        Alarm::Unproven | Alarm::Late | Alarm::Expired => style.doubtful(alarm),
    };
    let place = finding.object.clone().unwrap_or_else(|| format!("stream {}", finding.stream));
    let records = match &finding.records {
        Some(records) if records.end - records.start > 1 => {
            format!(", records {} to {}", records.start, records.end - 1)
        }
        Some(records) => format!(", record {}", records.start),
        None => String::new(),
    };
    format!("{alarm}: {place}{records}: {}", what(finding))
}
