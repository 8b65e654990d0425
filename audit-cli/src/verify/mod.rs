//! `audit verify`: checks with public keys alone that a bucket contains what hosts wrote.

mod begin;
pub(crate) mod inventory;
mod look;
mod receipts;
mod summary;
mod witnesses;

pub(crate) use summary::what;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use audit_core::{UniqueId, durable};
use audit_evidence::{
    Alarm, BucketReport, Context, Fault, Finding, Known, Policy, State, StreamReport,
    StreamVerifier, Trust, TrustedKey,
};
use audit_sink_s3::layout::ObjectKey;
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::arguments::{Common, TrustedKeys, Verify};
use crate::bucket::{Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::output::Output;
use crate::parquet::{self, Compacted, Missing};
use crate::progress::Progress;
use crate::units::{counted, now_ms};

use begin::Begin;
use inventory::{Entry, Inventory};
use look::Looked;
use receipts::Receipts;
use summary::Summary;
use witnesses::Witnessing;

struct Verified {
    report: BucketReport,
    /// The number of records of each stream that a quorum has cosigned.
    witnessed: BTreeMap<String, u64>,
    stored_bytes: u64,
    /// The result for its Parquet files, and the objects that they lack.
    compacted: Option<(Compacted, Vec<Missing>)>,
    /// Objects and Parquet files that the store refused to return, or whose lines it did.
    unread: Unread,
}

/// Objects that could not be read.
#[derive(Debug, Default)]
struct Unread {
    count: u64,
    /// The store's message for the last of them.
    said: String,
    /// The hours under which they are filed, in milliseconds since the Unix epoch.
    hours: BTreeSet<i64>,
}

/// The number of unread objects that are named.
const MAX_UNREAD_NAMED: u64 = 20;

impl Unread {
    fn add(&mut self, key: &str, said: String, output: &Output) {
        self.count += 1;
        match self.count {
            ..=MAX_UNREAD_NAMED => output.note(&format!("cannot read {key}: {said}")),
            _ if self.count == MAX_UNREAD_NAMED + 1 => output.note("cannot read further objects"),
            _ => {}
        }
        self.said = said;
        let key = key.parse::<ObjectKey>().ok();
        self.hours.extend(key.map(|key| key.hour_ms()));
    }
}

pub(crate) async fn run(
    arguments: &Verify,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (keys, policy) = trusted(&arguments.trusted)?;
    let receipts = match &arguments.receipts {
        Some(file) => receipts::parse(&read_text(file, "the receipts")?)?,
        None => Receipts::new(),
    };
    let remembered = arguments.state.as_deref().map(read_state).transpose()?.unwrap_or_default();
    let begin = Begin::new(arguments, &remembered);

    let mut reader = Reader::open(&arguments.source, common)?;
    let look = Look {
        trust: Arc::new(Trust::new(keys.iter().cloned())),
        heads: arguments.heads,
        policy: policy.as_ref().filter(|policy| policy.has_quorum()),
        state: remembered.only(|stream| begin.is_examined(stream)),
        receipts,
        names: names(&reader, &arguments.written_to),
        begin,
        told: Box::new(|_, _| {}),
    };
    let list = async |reader: &Reader, begin_ms| {
        let wanted = Wanted::new(begin_ms..i64::MAX, None);
        let mut inventory = Inventory::list(reader, &wanted, common).await?;
        inventory.retain(|stream| look.begin.is_examined(&stream.to_string()));
        Ok::<Inventory, Failure>(inventory)
    };
    let compacted = match &arguments.parquet {
        Some(url) => {
            let files = parquet::open(url, common)?;
            Some(parquet::verify(&files, &reader, &keys, look.begin.since_ms, common).await?)
        }
        None => None,
    };
    let inventory = list(&reader, look.begin.list_ms).await?;
    let now = reader.store_time_ms().unwrap_or_else(now_ms);
    let lacking = compacted.as_ref().map(|compacted| compacted.missing(inventory.keys(), now));
    let begin_ms = look.begin.list_ms;
    if inventory.objects == 0 && look.state == State::default() && look.receipts.is_empty() {
        let why = reader.why_nothing(&Wanted::all()).await;
        output.note(&format!("there is nothing to verify: {why}"));
    }
    let mut verified = look.examine(&reader, inventory, common, output).await?;
    if look.begin.list_ms > i64::MIN && verified.misses_records() {
        // Hosts may file records under any hour, so missing records may be under an older one.
        reader = reader.anew();
        let inventory = list(&reader, i64::MIN).await?;
        verified = look.examine(&reader, inventory, common, output).await?;
    }
    let explained = look.begin.explain(&mut verified.report);
    let is_whole = reader.end().is_ok();
    if let Some(file) = arguments.state.as_ref().filter(|_| is_whole) {
        let mut state = remembered;
        state.update(&verified.report);
        durable::replace(file, state.to_string().as_bytes()).map_err(|error| {
            Failure::new(format!("the state {} cannot be written", file.display())).because(error)
        })?;
    }
    // After the state has been updated, since it concerns streams and not Parquet files.
    verified.compacted = compacted.zip(lacking);
    if let Some((compacted, _)) = &mut verified.compacted {
        verified.report.findings.append(&mut compacted.findings);
        for (file, said) in std::mem::take(&mut compacted.unread) {
            verified.unread.add(&file, said, output);
        }
    }
    verified.report.findings.extend(foreign(&reader));
    let now = reader.store_time_ms().unwrap_or_else(now_ms);
    Summary::new(&reader, arguments, &keys, &verified, explained, now).print(output)?;
    if let Unread { count: count @ 1.., said, .. } = verified.unread {
        let unread = format!("{} could not be read", counted(count, "object"));
        return Err(Failure::new(unread).because(said));
    }
    reader.end()?;
    Ok(outcome(&verified.report, begin_ms))
}

/// The outcome by the most serious finding. Without any streams, nothing is proven, unless they may
/// all have ended before the range.
fn outcome(report: &BucketReport, begin_ms: i64) -> Outcome {
    match report.findings.iter().map(Finding::alarm).min() {
        None if report.streams.is_empty() && begin_ms == i64::MIN => Outcome::Unproven,
        None => Outcome::Well,
        Some(Alarm::Tampered) => Outcome::Wrong,
        Some(Alarm::Unproven) => Outcome::Unproven,
        Some(Alarm::Late) => Outcome::Late,
        Some(Alarm::Expired) => Outcome::Expired,
    }
}

impl Verified {
    fn misses_records(&self) -> bool {
        self.report.findings.iter().any(|finding| is_of_missing(&finding.fault))
    }
}

/// Whether the fault is that records are missing.
fn is_of_missing(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Deleted
            | Fault::Expired
            | Fault::Truncated(_)
            | Fault::Unacknowledged
            | Fault::Vanished
    )
}

/// Whether an object that exists, but was not listed, could have prevented the finding.
fn may_be_unlisted(finding: &Finding) -> bool {
    is_of_missing(&finding.fault)
        || matches!(finding.fault, Fault::Unopened | Fault::Unwitnessed | Fault::Overdue(_))
}

/// The expectations that a bucket is compared with.
struct Look<'a> {
    trust: Arc<Trust>,
    heads: bool,
    policy: Option<&'a Policy>,
    /// The state of the streams that are listed.
    state: State,
    receipts: Receipts,
    /// The names that hosts may have for the bucket.
    names: Vec<String>,
    begin: Begin,
    /// Called with the number of examined objects and the number of all.
    told: Box<dyn Fn(u64, u64) + Send + Sync>,
}

/// The stream whose objects are being examined.
struct Current<'a> {
    id: UniqueId,
    verifier: StreamVerifier,
    witnessing: Option<Witnessing<'a>>,
}

impl Look<'_> {
    async fn examine(
        &self,
        reader: &Reader,
        inventory: Inventory,
        common: &Common,
        output: &Output,
    ) -> Result<Verified, Failure> {
        let (progress, all) = (Progress::new(common, inventory.objects), inventory.objects);
        (self.told)(0, all);
        let mut verified = Verified {
            report: BucketReport::default(),
            witnessed: BTreeMap::new(),
            stored_bytes: 0,
            compacted: None,
            unread: Unread::default(),
        };
        let (mut streams, mut of_witnesses) = (Vec::new(), Vec::new());
        let mut finish = |current: Option<Current<'_>>, witnessed: &mut BTreeMap<String, u64>| {
            let Some(Current { id, verifier, witnessing }) = current else { return };
            let report = verifier.finish();
            if let Some(witnessing) = witnessing.filter(|_| report.host.is_some()) {
                of_witnesses.extend(witnessing.finish(&id.to_string()));
                witnessed.insert(id.to_string(), witnessing.size);
            }
            streams.push(report);
        };
        let without_objects = self.receipts.keys().filter(|stream| {
            !inventory.streams.contains_key(stream) && self.begin.is_examined(&stream.to_string())
        });
        for &stream in without_objects {
            finish(Some(self.begin_stream(stream)), &mut verified.witnessed);
        }

        let entries = inventory
            .streams
            .into_iter()
            .flat_map(|(stream, entries)| std::iter::repeat(stream).zip(entries));
        let sizes = self.state.clone();
        let (of, trust, heads) = (reader.clone(), Arc::clone(&self.trust), self.heads);
        type LookedAt = Result<Looked, Failure>;
        let work = move |(stream, entry): (UniqueId, Entry),
                         sender: mpsc::Sender<(UniqueId, LookedAt)>| {
            let seen = sizes.get(&stream.to_string()).map(|seen| seen.size);
            let (reader, trust) = (of.clone(), Arc::clone(&trust));
            async move {
                let wants_lines = !heads || entry.is_system();
                let sizes = seen.as_slice();
                let looked = look::look(&reader, &trust, stream, &entry, wants_lines, sizes).await;
                // The receiver may be gone.
                let _ = sender.send((stream, looked)).await;
            }
        };
        let entries = futures::stream::iter(entries);
        let mut results = std::pin::pin!(in_order(entries, reader.parallel, 1, work));
        let mut current: Option<Current<'_>> = None;
        let mut done = 0;
        while let Some((stream, looked)) = results.next().await {
            done += 1;
            progress.at(done, "objects");
            (self.told)(done, all);
            if current.as_ref().is_none_or(|current| current.id != stream) {
                let next = self.begin_stream(stream);
                finish(current.replace(next), &mut verified.witnessed);
            }
            let (Some(current), looked) = (&mut current, looked?) else { continue };
            verified.stored_bytes += looked.bytes;
            if let Some(said) = looked.refused {
                verified.unread.add(looked.checked.key(), said, output);
            }
            if let Some(witnessing) = &mut current.witnessing {
                witnessing.add(&looked.checked);
            }
            current.verifier.add(looked.checked);
        }
        finish(current, &mut verified.witnessed);
        drop(progress);
        Ok(Verified { report: self.report(reader, streams, of_witnesses), ..verified })
    }

    /// Compares the streams with each other and with the state.
    fn report(
        &self,
        reader: &Reader,
        streams: Vec<StreamReport>,
        of_witnesses: Vec<Finding>,
    ) -> BucketReport {
        // Statements about streams outside the selection raise no alarm.
        let listed_since = u64::try_from(self.begin.list_ms).ok();
        let retained_since = self.begin.retained_since().max(listed_since);
        // A store whose clock was set back must not hide an overdue heartbeat.
        let now = reader.store_time_ms().map_or_else(now_ms, |time| time.max(now_ms()));
        let now = u64::try_from(now).unwrap_or_default();
        let (state, names) = (&self.state, &self.names[..]);
        let mut report = BucketReport::new(streams, Context { state, names, retained_since, now });
        report.findings.extend(of_witnesses);
        if reader.end().is_err() {
            report.findings.retain(|finding| !may_be_unlisted(finding));
        }
        report.findings.sort_by_cached_key(|finding| {
            let first = finding.records.as_ref().map_or(0, |records| records.start);
            (finding.stream.clone(), first)
        });
        report
    }

    fn begin_stream(&self, stream: UniqueId) -> Current<'_> {
        let known = Known {
            seen: self.state.get(&stream.to_string()),
            acknowledged: self.receipts.get(&stream).cloned().unwrap_or_default(),
            retained_since: self.begin.retained_since(),
        };
        Current {
            id: stream,
            verifier: StreamVerifier::new(&stream.to_string(), known),
            witnessing: self.policy.map(Witnessing::new),
        }
    }
}

/// Findings about the whole bucket.
pub(crate) struct Whole {
    pub(crate) report: BucketReport,
    /// Objects that could not be read, and the hours under which they are filed.
    pub(crate) unread: u64,
    pub(crate) unread_hours: BTreeSet<i64>,
    /// Why objects are missing from the listing, if any are.
    pub(crate) unlisted: Option<String>,
    /// The hours under which each stream's objects are filed, in milliseconds since the Unix epoch.
    pub(crate) hours: BTreeMap<String, Vec<i64>>,
}

/// Verifies a whole bucket. `told` is called with the number of examined objects and the number of
/// all.
pub(crate) async fn whole(
    reader: &Reader,
    keys: &[TrustedKey],
    policy: Option<&Policy>,
    common: &Common,
    told: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Whole, Failure> {
    let look = Look {
        trust: Arc::new(Trust::new(keys.iter().cloned())),
        heads: false,
        policy: policy.filter(|policy| policy.has_quorum()),
        state: State::default(),
        receipts: Receipts::new(),
        names: Vec::new(),
        begin: Begin { list_ms: i64::MIN, since_ms: None },
        told: Box::new(told),
    };
    // Others that share the reader list the same objects.
    let reader = &reader.anew();
    let inventory = Inventory::list(reader, &Wanted::all(), common).await?;
    let hours = inventory.hours();
    let Verified { mut report, unread, .. } =
        look.examine(reader, inventory, common, &Output::silent()).await?;
    // First, since readers may show only the first ones.
    report.findings.splice(..0, foreign(reader));
    let unlisted = reader.end().err().map(|failure| failure.to_string());
    let Unread { count, hours: unread_hours, .. } = unread;
    Ok(Whole { report, unread: count, unread_hours, unlisted, hours })
}

/// The finding that objects that no sink wrote stand where query engines look for records.
fn foreign(reader: &Reader) -> Option<Finding> {
    let (key, count) = reader.foreign()?;
    let fault = Fault::Foreign(count);
    Some(Finding { stream: String::new(), object: Some(key), records: None, fault })
}

/// The trusted keys, including those of the policy, and the policy. A policy states no validity, so
/// the validity that `--key` gives to a key also applies to the policy's.
pub(crate) fn trusted(
    arguments: &TrustedKeys,
) -> Result<(Vec<TrustedKey>, Option<Policy>), Failure> {
    let policy = arguments.policy.as_deref().map(read_policy).transpose()?;
    let mut keys = arguments.keys.clone();
    for log in policy.iter().flat_map(Policy::logs) {
        if keys.iter().all(|trusted| trusted.key != *log) {
            keys.push(log.clone().into());
        }
    }
    Ok((keys, policy))
}

/// The names that hosts may have for the bucket. A directory is easily moved, so its own name says
/// nothing.
fn names(reader: &Reader, written_to: &[String]) -> Vec<String> {
    match written_to {
        [] if reader.is_directory() => Vec::new(),
        [] => vec![reader.name()],
        names => names.iter().map(|name| name.trim_end_matches('/').to_owned()).collect(),
    }
}

fn read_policy(file: &Path) -> Result<Policy, Failure> {
    let text = read_text(file, "the policy")?;
    Policy::parse(text.as_bytes()).map_err(|error| {
        Failure::new(format!("the policy {} cannot be used", file.display())).because(error)
    })
}

/// The state, empty if there is no file yet.
pub(crate) fn read_state(file: &Path) -> Result<State, Failure> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(unreadable(file, "the state", error)),
        Ok(text) => text,
    };
    State::parse(&text).map_err(|error| {
        Failure::new(format!("the state {} is not one", file.display())).because(error)
    })
}

fn read_text(file: &Path, what: &str) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| unreadable(file, what, error))
}

fn unreadable(file: &Path, what: &str, error: io::Error) -> Failure {
    Failure::new(format!("{what} {} cannot be read", file.display())).because(error)
}
