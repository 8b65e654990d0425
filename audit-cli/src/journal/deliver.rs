//! `audit journal deliver`: delivers the journal of a host that is gone.

use std::time::Duration;

use audit_journal::{JournalDelivered, JournalReader, OpenErrorKind, OrphanedJournal};
use audit_sink_s3::{Bucket, Settings, rescue};
use serde::Serialize;
use tokio::time::Instant;

use super::again::{Again, Redelivered, RouteRedelivered};
use super::routes::{RouteDelivered, Routes, routes_file};
use super::waiting::{Waiting, too_late};
use super::{read, show};
use crate::arguments::{Common, Compression, JournalDeliver};
use crate::bucket::to_url;
use crate::failure::{Failure, Outcome};
use crate::followers::{self, Follower};
use crate::output::Output;
use crate::units::counted;

#[derive(Serialize)]
struct Delivered {
    objects: u64,
    records: u64,
    conflicts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    again: Option<Redelivered>,
    /// The routes with records that had been delivered, if they were delivered again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    again_routes: Vec<RouteRedelivered>,
    /// The routes that had undelivered records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteDelivered>,
    /// The followers that lack records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    followers: Vec<Follower>,
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
    let named = routes_file(routes.as_deref())?;
    let again = match again {
        true => Some(Again::deliver(&journal, &bucket, &named, &settings, &waiting).await?),
        false => None,
    };
    // Records that could not be delivered again are only in the segments.
    let journal = journal.remove_delivered(*remove && again.as_ref().is_none_or(Again::is_free));
    let followers = followers::of_journal(
        log_streams.as_deref(),
        &directory.directory,
        journal.state(),
        output,
    )?;
    let parallel = usize::from(common.parallel);
    let (routes, openings) =
        Routes::open(&named, &directory.directory, journal.state(), &settings, parallel, output)
            .await?;
    let undelivered = undelivered - routes.left();
    let delivering = rescue::deliver(journal, bucket, openings, followers, settings).await?;
    if !waiting.until_finished(&delivering, &routes, Some(undelivered)).await {
        routes.delivered(false).iter().try_for_each(|route| route.print(output))?;
        let delivered = routes.records_delivered(&delivering.health());
        let what = match delivered < undelivered {
            true => format!(
                "{delivered} of {} delivered in time; the rest is still in the journal",
                counted(undelivered, "record")
            ),
            false => "all records are delivered, but the delivery did not end in time".to_owned(),
        };
        return Err(too_late(&delivering, what));
    }
    let delivered = delivering.finished().await;
    let own =
        delivered.map_err(|error| Failure::new("the journal was not delivered").because(error))?;
    let mut followers = Follower::all(&JournalReader::open(&directory.directory)?)?;
    followers.retain(|follower| follower.is_wrong(false));
    let set_aside = own.conflicts + earlier;
    let ended = Ended { own, set_aside, again, routes: routes.delivered(true), followers };
    let outcome = Outcome::wrong_if(!ended.is_whole());
    ended.print(&name, output)?;
    if set_aside > 0 {
        output.note(&format!(
            "{} set aside, since others have their keys: see audit journal show {}",
            counted(set_aside, "object"),
            directory.directory.display()
        ));
    }
    Ok(outcome)
}

/// The result of deliveries that have ended.
struct Ended {
    /// What the host's own bucket got.
    own: JournalDelivered,
    /// The objects that were set aside now or earlier.
    set_aside: u64,
    again: Option<Again>,
    routes: Vec<RouteDelivered>,
    /// The followers that lack records.
    followers: Vec<Follower>,
}

impl Ended {
    /// Whether all records are in their buckets and no follower lacks any.
    fn is_whole(&self) -> bool {
        self.set_aside == 0
            && self.again.as_ref().is_none_or(Again::is_whole)
            && self.routes.iter().all(RouteDelivered::is_whole)
            && self.followers.is_empty()
    }

    fn print(self, bucket: &str, output: &Output) -> Result<(), Failure> {
        let Ended { own, set_aside: _, again, routes, followers } = self;
        let JournalDelivered { objects, records, conflicts } = own;
        if output.is_json() {
            let (again, again_routes) = again.map(Again::into_json).unzip();
            let again_routes = again_routes.unwrap_or_default();
            let delivered =
                Delivered { objects, records, conflicts, again, again_routes, routes, followers };
            return output.json(&delivered);
        }
        if let Some(again) = &again {
            again.print(output)?;
        }
        let (records, objects) = (counted(records, "record"), counted(objects, "object"));
        output.line(&format!("{records} in {objects} delivered to {bucket}"))?;
        routes.iter().try_for_each(|route| route.print(output))?;
        followers.iter().try_for_each(|follower| follower.print(output))
    }
}
