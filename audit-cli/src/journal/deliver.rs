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
        return Err(too_late(
            &delivering,
            format!("{delivered} of {} delivered in time", counted(undelivered, "record")),
        ));
    }
    let delivered = delivering.finished().await;
    let JournalDelivered { objects, records, conflicts } =
        delivered.map_err(|error| Failure::new("the journal was not delivered").because(error))?;
    let is_whole = again.as_ref().is_none_or(Again::is_whole);
    let mut followers = Follower::all(&JournalReader::open(&directory.directory)?)?;
    followers.retain(|follower| follower.is_wrong(false));
    let is_followed = followers.is_empty();
    let routes = routes.delivered(true);
    let is_routed = routes.iter().all(RouteDelivered::is_whole);
    if output.is_json() {
        let (again, again_routes) = again.map(Again::into_json).unzip();
        let again_routes = again_routes.unwrap_or_default();
        let delivered =
            Delivered { objects, records, conflicts, again, again_routes, routes, followers };
        output.json(&delivered)?;
    } else {
        if let Some(again) = &again {
            again.print(output)?;
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
