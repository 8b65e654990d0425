//! `audit verify`: checks with public keys alone that a bucket contains what hosts wrote.

mod begin;
mod examination;
pub(crate) mod inventory;
mod look;
mod receipts;
mod summary;
mod trust;
mod witnesses;

pub(crate) use summary::what;
pub(crate) use trust::{read_state, trusted, write_state};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use audit_evidence::{Alarm, BucketReport, Fault, Finding, Policy, State, Trust, TrustedKey};

use crate::arguments::{Common, Verify};
use crate::bucket::{Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::lock::lock;
use crate::output::Output;
use crate::parquet;
use crate::units::{counted, now_ms};

use begin::Begin;
use examination::{Look, Unread, Verified};
use inventory::Inventory;
use receipts::Receipts;
use summary::Summary;
use trust::remembered;

pub(crate) async fn run(
    arguments: &Verify,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (keys, policy) = trusted(&arguments.trusted)?;
    let receipts = match &arguments.receipts {
        Some(file) => receipts::read(file)?,
        None => Receipts::new(),
    };
    let state = arguments.state.as_deref();
    // Without the lock, a concurrent run could replace this run's state, with which it was not
    // compared.
    let _lock = match state {
        Some(file) => Some(lock("the state", file, output).await?),
        None => None,
    };
    let remembered = remembered(state, output)?;
    let begin = Begin::new(arguments, &remembered);

    let mut reader = Reader::open(&arguments.source, common)?;
    let mut look = Look {
        trust: Arc::new(Trust::new(keys.iter().cloned())),
        heads: arguments.heads,
        policy: policy.as_ref().filter(|policy| policy.has_quorum()),
        state: State::default(),
        receipts,
        names: names(&reader, &arguments.written_to),
        begin,
        told: Box::new(|_, _| {}),
    };
    let list = async |reader: &Reader, begin: &Begin, begin_ms| {
        let wanted = Wanted::new(begin_ms..i64::MAX, None);
        let mut inventory = Inventory::list(reader, &wanted, common).await?;
        inventory.retain(|stream, last_ms| begin.is_examined(&stream.to_string(), last_ms));
        Ok::<Inventory, Failure>(inventory)
    };
    let compacted = match &arguments.parquet {
        Some(url) => {
            let files = parquet::open(url, common)?;
            Some(parquet::verify(&files, &reader, &keys, look.begin.since_ms, common).await?)
        }
        None => None,
    };
    let inventory = list(&reader, &look.begin, look.begin.list_ms).await?;
    let listed: BTreeSet<String> = inventory.streams.keys().map(ToString::to_string).collect();
    look.state = remembered.only(|stream| look.begin.is_recent(stream) || listed.contains(stream));
    let late = look.begin.since_ms.map(|since| inventory.filed_since(since)).unwrap_or_default();
    let now = reader.store_time_ms().unwrap_or_else(now_ms);
    let lacking = compacted.as_ref().map(|compacted| compacted.missing(inventory.keys(), now));
    if inventory.objects == 0 && look.state == State::default() && look.receipts.is_empty() {
        let wanted = Wanted::new(look.begin.list_ms..i64::MAX, None);
        let why = reader.why_nothing(&wanted).await;
        output.note(&format!("there is nothing to verify: {why}"));
    }
    let mut verified = look.examine(&reader, inventory, common, output).await?;
    if look.begin.list_ms > i64::MIN && verified.misses_records() {
        // Hosts may file records under any hour, so missing records may be under an older one.
        reader = reader.anew();
        let inventory = list(&reader, &look.begin, i64::MIN).await?;
        verified = look.examine(&reader, inventory, common, output).await?;
    }
    let explained = look.begin.explain(&mut verified.report, &late);
    let is_whole = reader.end().is_ok();
    if let Some(file) = arguments.state.as_ref().filter(|_| is_whole) {
        // An earlier version of the command, which takes no lock, may have extended the state
        // meanwhile. The file is read again to keep the additions.
        let mut state = read_state(file)?.unwrap_or(remembered);
        state.update(&verified.report);
        write_state(file, &state)?;
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
    Ok(outcome(&verified.report))
}

/// The outcome by the most serious finding. Without any streams, nothing is proven: somebody may
/// have removed all records of the range, or the time is mistyped.
fn outcome(report: &BucketReport) -> Outcome {
    match report.findings.iter().map(Finding::alarm).min() {
        None if report.streams.is_empty() => Outcome::Unproven,
        None => Outcome::Well,
        Some(Alarm::Tampered) => Outcome::Wrong,
        Some(Alarm::Unproven) => Outcome::Unproven,
        Some(Alarm::Late) => Outcome::Late,
        Some(Alarm::Expired) => Outcome::Expired,
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

/// Verifies a whole bucket, which hosts wrote under one of the names `written_to` or, if there are
/// none, its own. `told` is called with the number of examined objects and the number of all.
pub(crate) async fn whole(
    reader: &Reader,
    keys: &[TrustedKey],
    policy: Option<&Policy>,
    written_to: &[String],
    common: &Common,
    told: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Whole, Failure> {
    let look = Look {
        trust: Arc::new(Trust::new(keys.iter().cloned())),
        heads: false,
        policy: policy.filter(|policy| policy.has_quorum()),
        state: State::default(),
        receipts: Receipts::new(),
        names: names(reader, written_to),
        begin: Begin::of_all(),
        told: Box::new(told),
    };
    // A reader with counts of its own, since other users of `reader` list the same objects.
    let reader = &reader.anew();
    let inventory = Inventory::list(reader, &Wanted::all(), common).await?;
    let hours = inventory.hours();
    let Verified { mut report, unread, .. } =
        look.examine(reader, inventory, common, &Output::silent()).await?;
    // This finding comes first, since the page may show only the first ones.
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

/// The names that hosts may have for the bucket. A directory is easily moved, so its own name says
/// nothing.
fn names(reader: &Reader, written_to: &[String]) -> Vec<String> {
    match written_to {
        [] if reader.is_directory() => Vec::new(),
        [] => vec![reader.name()],
        names => names.iter().map(|name| name.trim_end_matches('/').to_owned()).collect(),
    }
}
