//! `audit journal deliver --again`: restores delivered records that are missing from the buckets.

use audit_core::with_sources;
use audit_host::RoutesFile;
use audit_journal::{JournalDelivering, JournalRoute, OrphanedJournal};
use audit_sink_s3::rescue::{self, ForeignObject, GoneRecords, JournalRedelivered};
use audit_sink_s3::{Bucket, Settings};
use serde::Serialize;

use super::routes::{Routes, bucket_of, url_of};
use super::waiting::{Waiting, too_late};
use crate::failure::Failure;
use crate::output::Output;
use crate::units::{Count, counted};

/// The records that were delivered again.
pub(super) struct Again {
    /// To the host's own bucket.
    own: JournalRedelivered,
    routes: Vec<RouteAgain>,
}

struct RouteAgain {
    name: String,
    bucket: String,
    /// An error if it is unknown which records the bucket lacks.
    result: Result<JournalRedelivered, String>,
}

#[derive(Serialize)]
pub(super) struct Redelivered {
    objects: u64,
    records: u64,
    present: u64,
    conflicts: Vec<Conflict>,
    gone: Vec<Gone>,
}

#[derive(Serialize)]
pub(super) struct RouteRedelivered {
    route: String,
    bucket: String,
    #[serde(flatten)]
    again: Option<Redelivered>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Conflict {
    key: String,
    records: u64,
}

#[derive(Serialize)]
struct Gone {
    stream: String,
    kept_from: u64,
    in_bucket_to: u64,
}

impl Again {
    /// Delivers again what the host's own bucket lacks, and then what the bucket of each route
    /// lacks. A failure of one route's bucket does not affect the other routes.
    pub(super) async fn deliver(
        journal: &OrphanedJournal,
        bucket: &Bucket,
        RoutesFile { route: named }: &RoutesFile,
        settings: &Settings,
        waiting: &Waiting<'_>,
    ) -> Result<Again, Failure> {
        let delivering = rescue::deliver_again(journal, bucket.clone(), settings.clone()).await?;
        let own = finished(delivering, waiting).await?.map_err(|error| {
            Failure::new("the records of the journal were not delivered again").because(error)
        })?;
        let state = journal.state();
        let was_delivered = |route: &&JournalRoute| {
            let mut streams = state.streams.iter();
            streams.any(|stream| stream.route == route.number && stream.delivered_to > 0)
        };
        let mut routes = Vec::new();
        for route in state.routes.iter().filter(was_delivered) {
            let delivering = async {
                let bucket = bucket_of(route, named)?;
                let (number, settings) = (route.number, settings.clone());
                let begun = rescue::deliver_route_again(journal, number, bucket, settings).await;
                begun.map_err(|error| with_sources(&error))
            };
            let result = match delivering.await {
                Ok(delivering) => {
                    finished(delivering, waiting).await?.map_err(|error| with_sources(&error))
                }
                Err(why) => Err(why),
            };
            let bucket = audit_host::without_secrets(url_of(route, named));
            routes.push(RouteAgain { name: route.name.clone(), bucket, result });
        }
        Ok(Again { own, routes })
    }

    /// Whether all records that the buckets lacked are restored, so that the segments are no longer
    /// needed.
    pub(super) fn is_free(&self) -> bool {
        let is_free = |again: &JournalRedelivered| again.conflicts.is_empty();
        is_free(&self.own)
            && self.routes.iter().all(|route| route.result.as_ref().is_ok_and(is_free))
    }

    /// Whether no delivered record is known to be missing.
    pub(super) fn is_whole(&self) -> bool {
        let is_whole = JournalRedelivered::is_whole;
        is_whole(&self.own)
            && self.routes.iter().all(|route| route.result.as_ref().is_ok_and(is_whole))
    }

    pub(super) fn into_json(self) -> (Redelivered, Vec<RouteRedelivered>) {
        let routes = self.routes.into_iter().map(|RouteAgain { name: route, bucket, result }| {
            let (again, error) = match result {
                Ok(again) => (Some(Redelivered::of(&again)), None),
                Err(why) => (None, Some(why)),
            };
            RouteRedelivered { route, bucket, again, error }
        });
        (Redelivered::of(&self.own), routes.collect())
    }

    pub(super) fn print(&self, output: &Output) -> Result<(), Failure> {
        print(&self.own, "", output)?;
        self.routes.iter().try_for_each(|RouteAgain { name, bucket, result }| match result {
            Ok(again) => print(again, &format!("route {name}: "), output),
            Err(why) => {
                let what = format!("route {name}: nothing was delivered again to {bucket}: {why}");
                output.line(&output.style().bad(&what))
            }
        })
    }
}

/// Waits for the end of a delivery.
///
/// # Errors
///
/// If the time limit passes first.
async fn finished(
    delivering: JournalDelivering<JournalRedelivered>,
    waiting: &Waiting<'_>,
) -> Result<Result<JournalRedelivered, audit_core::SinkError>, Failure> {
    if !waiting.until_finished(&delivering, &Routes::default(), None).await {
        let delivered = delivering.health().records_delivered;
        let delivered = counted(delivered, "record");
        let what = format!("{delivered} delivered again in time; the journal still has them all");
        return Err(too_late(&delivering, what));
    }
    Ok(delivering.finished().await)
}

impl Redelivered {
    fn of(redelivered: &JournalRedelivered) -> Redelivered {
        let JournalRedelivered { objects, records, present, conflicts, gone } = redelivered;
        let conflicts = conflicts.iter().map(|foreign| {
            let ForeignObject { key, records } = foreign;
            Conflict { key: key.to_string(), records: *records }
        });
        let gone = gone.iter().map(|gone| {
            let GoneRecords { stream, kept_from, in_bucket_to } = *gone;
            Gone { stream: stream.to_string(), kept_from, in_bucket_to }
        });
        Redelivered {
            objects: *objects,
            records: *records,
            present: *present,
            conflicts: conflicts.collect(),
            gone: gone.collect(),
        }
    }
}

fn print(redelivered: &JournalRedelivered, of_route: &str, output: &Output) -> Result<(), Failure> {
    let JournalRedelivered { objects, records, present, conflicts, gone } = redelivered;
    let style = output.style();
    let (again, objects) = (counted(*records, "record"), counted(*objects, "object"));
    output.line(&format!(
        "{of_route}{again} in {objects} delivered again; {} in the bucket before",
        Count(*present)
    ))?;
    for ForeignObject { key, records } in conflicts {
        output.line(&style.bad(&format!(
            "{of_route}conflict: another object has the key {key}; because of it, {} not delivered",
            counted(*records, "record")
        )))?;
    }
    for lost in gone {
        let GoneRecords { stream, kept_from, in_bucket_to } = lost;
        if lost.missing() > 0 {
            output.line(&style.bad(&format!(
                "{of_route}stream {stream}: records {in_bucket_to} to {} are neither in the \
                 journal nor in the bucket",
                kept_from - 1
            )))?;
        } else {
            output.line(&format!(
                "{of_route}stream {stream}: the journal no longer has the records before \
                 {kept_from}; audit stats shows whether the bucket has all of them"
            ))?;
        }
    }
    Ok(())
}
