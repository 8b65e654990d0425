//! `audit journal deliver`: delivers the journal of a host that is gone.

use std::time::Duration;

use audit_journal::{
    JournalDelivered, JournalDelivering, JournalReader, OpenErrorKind, OrphanedJournal,
};
use audit_sink_s3::rescue::{self, ForeignObject, GoneRecords, JournalRedelivered};
use audit_sink_s3::{Bucket, Settings};
use serde::Serialize;
use tokio::time::Instant;

use super::routes::{RouteDelivered, Routes, said_of};
use super::{read, show};
use crate::arguments::{Common, Compression, JournalDeliver};
use crate::bucket::to_url;
use crate::failure::{Failure, Outcome};
use crate::followers::{self, Follower};
use crate::output::Output;
use crate::progress::Progress;
use crate::units::{Count, counted};

#[derive(Serialize)]
struct Delivered {
    objects: u64,
    records: u64,
    conflicts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    again: Option<Redelivered>,
    /// The routes that had undelivered records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteDelivered>,
    /// The followers that lack records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    followers: Vec<Follower>,
}

#[derive(Serialize)]
struct Redelivered {
    objects: u64,
    records: u64,
    present: u64,
    conflicts: Vec<Conflict>,
    gone: Vec<Gone>,
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

pub(super) async fn deliver(
    arguments: &JournalDeliver,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let JournalDeliver {
        directory,
        bucket,
        dry_run,
        again,
        remove,
        timeout,
        log_streams,
        routes,
        compression,
        max_object_bytes,
    } = arguments;
    if *dry_run {
        return show(directory, output);
    }
    let bucket = Bucket::open(&to_url(bucket)?)?;
    let name = bucket.to_string();
    let compression = match compression {
        Compression::Zstd => audit_sink_s3::Compression::Zstd,
        Compression::Gzip => audit_sink_s3::Compression::Gzip,
        Compression::None => audit_sink_s3::Compression::None,
    };
    let journal = match OrphanedJournal::open(&directory.directory).await {
        Ok(journal) => journal,
        Err(error) if error.kind() == OpenErrorKind::Damaged => {
            read(directory, output)?;
            return Ok(Outcome::Wrong);
        }
        Err(error) => return Err(error.into()),
    };
    let undelivered = journal.state().undelivered();
    let earlier = journal.state().objects.iter().filter(|object| object.set_aside).count() as u64;
    let settings =
        Settings { compression, max_object_bytes: *max_object_bytes, ..Settings::default() };
    let waiting = Waiting {
        common,
        output,
        end: timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_secs(timeout))),
    };
    let redelivered = match again {
        true => Some(deliver_again(&journal, &bucket, &settings, &waiting).await?),
        false => None,
    };
    // Records not delivered again because of a conflicting object are only in the segments.
    let is_free = redelivered.as_ref().is_none_or(|again| again.conflicts.is_empty());
    let journal = journal.remove_delivered(*remove && is_free);
    let followers = followers::of_journal(
        log_streams.as_deref(),
        &directory.directory,
        journal.state(),
        output,
    )?;
    let parallel = usize::from(common.parallel);
    let (routes, openings) = Routes::open(
        routes.as_deref(),
        &directory.directory,
        journal.state(),
        &settings,
        parallel,
        output,
    )
    .await?;
    let undelivered = undelivered - routes.left();
    let delivering = rescue::deliver(journal, bucket, openings, followers, settings).await?;
    if !waiting.until_finished(&delivering, &routes, Some(undelivered)).await {
        routes.delivered(false).iter().try_for_each(|route| route.print(output))?;
        let delivered = routes.records_delivered(&delivering.health());
        return Err(too_late(
            &delivering,
            format!("{delivered} of {} delivered in time", counted(undelivered, "record")),
        ));
    }
    let delivered = delivering.finished().await;
    let JournalDelivered { objects, records, conflicts } =
        delivered.map_err(|error| Failure::new("the journal was not delivered").because(error))?;
    let is_whole = redelivered.as_ref().is_none_or(JournalRedelivered::is_whole);
    let mut followers = Follower::all(&JournalReader::open(&directory.directory)?)?;
    followers.retain(|follower| follower.is_wrong(false));
    let is_followed = followers.is_empty();
    let routes = routes.delivered(true);
    let is_routed = routes.iter().all(RouteDelivered::is_whole);
    if output.is_json() {
        let again = redelivered.as_ref().map(Redelivered::of);
        output.json(&Delivered { objects, records, conflicts, again, routes, followers })?;
    } else {
        if let Some(redelivered) = &redelivered {
            print_redelivered(redelivered, output)?;
        }
        let (records, objects) = (counted(records, "record"), counted(objects, "object"));
        output.line(&format!("{records} in {objects} delivered to {name}"))?;
        routes.iter().try_for_each(|route| route.print(output))?;
        followers.iter().try_for_each(|follower| follower.print(output))?;
    }
    if conflicts + earlier > 0 {
        output.note(&format!(
            "{} set aside, since others have their keys: see audit journal show {}",
            counted(conflicts + earlier, "object"),
            directory.directory.display()
        ));
    }
    Ok(Outcome::wrong_if(conflicts + earlier > 0 || !is_whole || !is_followed || !is_routed))
}

async fn deliver_again(
    journal: &OrphanedJournal,
    bucket: &Bucket,
    settings: &Settings,
    waiting: &Waiting<'_>,
) -> Result<JournalRedelivered, Failure> {
    let delivering = rescue::deliver_again(journal, bucket.clone(), settings.clone()).await?;
    if !waiting.until_finished(&delivering, &Routes::default(), None).await {
        let delivered = delivering.health().records_delivered;
        let what = format!("{} delivered again in time", counted(delivered, "record"));
        return Err(too_late(&delivering, what));
    }
    delivering.finished().await.map_err(|error| {
        Failure::new("the records of the journal were not delivered again").because(error)
    })
}

/// The interval at which a delivery's state is checked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits for deliveries and reports their progress.
struct Waiting<'a> {
    common: &'a Common,
    output: &'a Output,
    /// When to give up.
    end: Option<Instant>,
}

impl Waiting<'_> {
    /// Waits until a delivery has finished. Returns false when it is time to give up. `records` is
    /// the number of records to deliver, if known.
    async fn until_finished<T>(
        &self,
        delivering: &JournalDelivering<T>,
        routes: &Routes,
        records: Option<u64>,
    ) -> bool {
        let progress = Progress::new(self.common, records.unwrap_or(0));
        let mut said = String::new();
        while !delivering.is_finished() {
            if self.end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            let health = delivering.health();
            let now = match said_of(&health.state) {
                now if now.is_empty() => routes.trouble(),
                now => now,
            };
            let records_delivered = routes.records_delivered(&health);
            progress.at(records_delivered, if now.is_empty() { "records" } else { &now });
            if now != said && !now.is_empty() && progress.is_hidden() {
                self.output.note(&now);
            }
            said = now;
            let rest = self.end.map_or(LOOK_EVERY, |end| end.duration_since(Instant::now()));
            tokio::time::sleep(LOOK_EVERY.min(rest)).await;
        }
        true
    }
}

fn too_late<T>(delivering: &JournalDelivering<T>, delivered: String) -> Failure {
    let failure = Failure::new(format!("{delivered}; the rest is still in the journal"));
    match delivering.health().last_error {
        Some(error) => failure.because(error),
        None => failure,
    }
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

fn print_redelivered(redelivered: &JournalRedelivered, output: &Output) -> Result<(), Failure> {
    let JournalRedelivered { objects, records, present, conflicts, gone } = redelivered;
    let style = output.style();
    let (again, objects) = (counted(*records, "record"), counted(*objects, "object"));
    output.line(&format!(
        "{again} in {objects} delivered again; {} in the bucket before",
        Count(*present)
    ))?;
    for ForeignObject { key, records } in conflicts {
        output.line(&style.bad(&format!(
            "conflict: another object has the key {key}; because of it, {} not delivered",
            counted(*records, "record")
        )))?;
    }
    for lost in gone {
        let GoneRecords { stream, kept_from, in_bucket_to } = lost;
        if lost.missing() > 0 {
            output.line(&style.bad(&format!(
                "stream {stream}: records {in_bucket_to} to {} are neither in the journal nor in the bucket",
                kept_from - 1
            )))?;
        } else {
            output.line(&format!(
                "stream {stream}: the journal no longer has the records before {kept_from}; audit stats shows whether the \
                 bucket has all of them"
            ))?;
        }
    }
    Ok(())
}
