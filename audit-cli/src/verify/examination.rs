//! Compares the objects of a bucket with what is expected of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use audit_core::UniqueId;
use audit_evidence::{
    BucketReport, Context, Fault, Finding, Known, Policy, State, StreamReport, StreamVerifier,
    Trust,
};
use audit_sink_s3::layout::ObjectKey;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::begin::Begin;
use super::inventory::{Entry, Inventory};
use super::look::{self, Looked};
use super::receipts::Receipts;
use super::witnesses::Witnessing;
use crate::arguments::Common;
use crate::bucket::Reader;
use crate::failure::Failure;
use crate::in_order::in_order;
use crate::output::Output;
use crate::parquet::{Compacted, Missing};
use crate::progress::Progress;
use crate::units::now_ms;

pub(super) struct Verified {
    pub(super) report: BucketReport,
    /// The number of records of each stream that a quorum has cosigned.
    pub(super) witnessed: BTreeMap<String, u64>,
    pub(super) stored_bytes: u64,
    /// The result for its Parquet files, and the objects that they lack.
    pub(super) compacted: Option<(Compacted, Vec<Missing>)>,
    /// Objects and Parquet files that the store refused to return, wholly or only their lines.
    pub(super) unread: Unread,
}

/// Objects that could not be read.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) count: u64,
    /// The store's message for the last of them.
    pub(super) said: String,
    /// The hours under which they are filed, in milliseconds since the Unix epoch.
    pub(super) hours: BTreeSet<i64>,
}

/// The number of unread objects that are named.
const MAX_UNREAD_NAMED: u64 = 20;

impl Unread {
    pub(super) fn add(&mut self, key: &str, said: String, output: &Output) {
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

impl Verified {
    pub(super) fn misses_records(&self) -> bool {
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
pub(super) struct Look<'a> {
    pub(super) trust: Arc<Trust>,
    pub(super) heads: bool,
    pub(super) policy: Option<&'a Policy>,
    /// The state of the streams that are listed.
    pub(super) state: State,
    pub(super) receipts: Receipts,
    /// The names that hosts may have for the bucket.
    pub(super) names: Vec<String>,
    pub(super) begin: Begin,
    /// Called with the number of examined objects and the number of all.
    pub(super) told: Box<dyn Fn(u64, u64) + Send + Sync>,
}

/// The stream whose objects are being examined.
struct Current<'a> {
    id: UniqueId,
    verifier: StreamVerifier,
    witnessing: Option<Witnessing<'a>>,
}

/// The streams whose objects were all examined.
#[derive(Default)]
struct Ended {
    streams: Vec<StreamReport>,
    of_witnesses: Vec<Finding>,
    witnessed: BTreeMap<String, u64>,
}

impl<'a> Extend<Current<'a>> for Ended {
    fn extend<I: IntoIterator<Item = Current<'a>>>(&mut self, ended: I) {
        for Current { id, verifier, witnessing } in ended {
            let report = verifier.finish();
            if let Some(witnessing) = witnessing.filter(|_| report.host.is_some()) {
                self.of_witnesses.extend(witnessing.finish(&id.to_string()));
                self.witnessed.insert(id.to_string(), witnessing.size);
            }
            self.streams.push(report);
        }
    }
}

impl Look<'_> {
    pub(super) async fn examine(
        &self,
        reader: &Reader,
        inventory: Inventory,
        common: &Common,
        output: &Output,
    ) -> Result<Verified, Failure> {
        let (progress, all) = (Progress::new(common, inventory.objects), inventory.objects);
        (self.told)(0, all);
        let (mut stored_bytes, mut unread) = (0, Unread::default());
        let mut ended = Ended::default();
        let without_objects = self.receipts.keys().filter(|stream| {
            !inventory.streams.contains_key(stream) && self.begin.is_recent(&stream.to_string())
        });
        ended.extend(without_objects.map(|stream| self.begin_stream(*stream)));

        let mut results = std::pin::pin!(self.looked_at(reader, inventory));
        let mut current: Option<Current<'_>> = None;
        let mut done = 0;
        while let Some((stream, looked)) = results.next().await {
            done += 1;
            progress.at(done, "objects");
            (self.told)(done, all);
            if current.as_ref().is_none_or(|current| current.id != stream) {
                ended.extend(current.replace(self.begin_stream(stream)));
            }
            let (Some(current), looked) = (&mut current, looked?) else { continue };
            stored_bytes += looked.bytes;
            if let Some(said) = looked.refused {
                unread.add(looked.checked.key(), said, output);
            }
            if let Some(witnessing) = &mut current.witnessing {
                witnessing.add(&looked.checked);
            }
            current.verifier.add(looked.checked);
        }
        ended.extend(current);
        drop(progress);
        let Ended { streams, of_witnesses, witnessed } = ended;
        let report = self.report(reader, streams, of_witnesses);
        Ok(Verified { report, witnessed, stored_bytes, compacted: None, unread })
    }

    /// Examines objects in parallel, and yields the results in order.
    fn looked_at(
        &self,
        reader: &Reader,
        inventory: Inventory,
    ) -> impl Stream<Item = (UniqueId, Result<Looked, Failure>)> + use<> {
        let entries = inventory
            .streams
            .into_iter()
            .flat_map(|(stream, entries)| std::iter::repeat(stream).zip(entries));
        let (sizes, parallel) = (self.state.clone(), reader.parallel);
        let (reader, trust, heads) = (reader.clone(), Arc::clone(&self.trust), self.heads);
        type Results = mpsc::Sender<(UniqueId, Result<Looked, Failure>)>;
        let work = move |(stream, entry): (UniqueId, Entry), sender: Results| {
            let seen = sizes.get(&stream.to_string()).map(|seen| seen.size);
            let (reader, trust) = (reader.clone(), Arc::clone(&trust));
            async move {
                let wants_lines = !heads || entry.is_system();
                let sizes = seen.as_slice();
                let looked = look::look(&reader, &trust, stream, &entry, wants_lines, sizes).await;
                // The receiver may be gone.
                let _ = sender.send((stream, looked)).await;
            }
        };
        in_order(futures::stream::iter(entries), parallel, 1, work)
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
