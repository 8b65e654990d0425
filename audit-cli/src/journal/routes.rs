//! The routes of a journal that is delivered: each goes to a bucket of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use audit_core::{Health, HealthState, with_sources};
use audit_host::{RouteSettings, RoutesFile};
use audit_journal::health::HealthBoard;
use audit_journal::{JournalRoute, JournalState, RouteOpening};
use audit_sink_s3::{Bucket, Settings, rescue};
use futures::{StreamExt, stream};
use serde::Serialize;

use crate::bucket::to_url;
use crate::failure::Failure;
use crate::followers;
use crate::output::Output;
use crate::units::counted;

/// The routes that are delivered.
#[derive(Default)]
pub(super) struct Routes(Vec<Route>);

struct Route {
    name: String,
    bucket: String,
    undelivered: u64,
    /// The health of the delivery, or why the bucket cannot be opened.
    health: Result<Arc<HealthBoard>, String>,
}

/// The result of delivering a route's records.
#[derive(Serialize)]
pub(super) struct RouteDelivered {
    route: String,
    bucket: String,
    objects: u64,
    records: u64,
    conflicts: u64,
    /// The records that are still in the journal only.
    undelivered: u64,
    #[serde(skip)]
    is_opened: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Routes {
    /// Opens the bucket of each route that has undelivered records, incomplete evidence, or a log
    /// stream in the file of routes. The bucket is the one in that file, or else the one that the
    /// journal names. If a bucket cannot be opened, the others are still opened.
    pub(super) async fn open(
        RoutesFile { route: named }: &RoutesFile,
        journal: &Path,
        state: &JournalState,
        settings: &Settings,
        parallel: usize,
        output: &Output,
    ) -> Result<(Routes, Vec<RouteOpening>), Failure> {
        let mut followers = BTreeMap::new();
        // A route without a bucket is not on the journal.
        for settings in named.iter().filter(|route| route.bucket.is_some()) {
            let name = &settings.name;
            if let Some(route) = in_use(state, name) {
                let streams = settings.followers();
                let of_route = followers::of_route(streams, route, journal, state, output)?;
                followers.insert(route.number, of_route);
            }
            if !state.routes.iter().any(|known| known.name == *name) {
                output.note(&format!("the journal has no route {name:?}"));
            }
        }
        let is_left = |route: &&JournalRoute| {
            let is_followed = followers.get(&route.number).is_some_and(|of| !of.is_empty());
            state.undelivered_of(route.number) > 0 || state.is_ending(route.number) || is_followed
        };
        let opened = state.routes.iter().filter(is_left).map(async |route| {
            let JournalRoute { number, name, destination: _, is_retired: _ } = route;
            let opened = async {
                let bucket = bucket_of(route, named)?;
                let bucket_name = bucket.to_string();
                let opening = rescue::route(name, bucket, settings).await;
                let opening = opening.map_err(|error| with_sources(&error))?;
                let followers = followers.get(number).cloned().unwrap_or_default();
                Ok((RouteOpening { followers, ..opening }, bucket_name))
            };
            let (opening, bucket, health) = match opened.await {
                Ok((opening, bucket)) => {
                    let health = Arc::clone(&opening.health);
                    (Some(opening), bucket, Ok(health))
                }
                Err(why) => (None, audit_host::without_secrets(url_of(route, named)), Err(why)),
            };
            let undelivered = state.undelivered_of(*number);
            (Route { name: name.clone(), bucket, undelivered, health }, opening)
        });
        let opened: Vec<_> = stream::iter(opened).buffered(parallel).collect().await;
        let (routes, openings): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        Ok((Routes(routes), openings.into_iter().flatten().collect()))
    }

    /// The number of records that stay in the journal, since their buckets cannot be opened.
    pub(super) fn left(&self) -> u64 {
        let unopened = self.0.iter().filter(|route| route.health.is_err());
        unopened.map(|route| route.undelivered).sum()
    }

    /// The number of records that were delivered to the routes and to the journal's own bucket.
    pub(super) fn records_delivered(&self, own: &Health) -> u64 {
        let of_routes = self.delivered(false).into_iter().map(|route| route.records);
        own.records_delivered + of_routes.sum::<u64>()
    }

    /// Describes the state of the first unhealthy route. Empty if all routes are healthy.
    pub(super) fn trouble(&self) -> String {
        let troubles = self.0.iter().filter_map(|route| {
            let said = said_of(&route.health.as_ref().ok()?.health(0).state);
            (!said.is_empty()).then(|| format!("route {}: {said}", route.name))
        });
        troubles.into_iter().next().unwrap_or_default()
    }

    /// The result for each route so far, or at the end.
    pub(super) fn delivered(&self, is_finished: bool) -> Vec<RouteDelivered> {
        self.0.iter().map(|route| RouteDelivered::of(route, is_finished)).collect()
    }
}

impl RouteDelivered {
    fn of(route: &Route, is_finished: bool) -> RouteDelivered {
        let Route { name, bucket, undelivered, health } = route;
        let (objects, records, conflicts, error) = match health {
            Ok(board) => {
                let Health { objects_delivered, records_delivered, conflicts, last_error, .. } =
                    board.health(0);
                (objects_delivered, records_delivered, conflicts, last_error)
            }
            Err(why) => (0, 0, 0, Some(why.clone())),
        };
        let is_opened = health.is_ok();
        // `undelivered` includes system records, and `records` does not, so their difference is not
        // zero when everything was delivered.
        let is_whole = is_finished && is_opened && conflicts == 0;
        let undelivered = if is_whole { 0 } else { undelivered.saturating_sub(records) };
        let (route, bucket) = (name.clone(), bucket.clone());
        RouteDelivered { route, bucket, objects, records, conflicts, undelivered, is_opened, error }
    }

    /// Whether all records of the route are in its bucket.
    pub(super) fn is_whole(&self) -> bool {
        self.undelivered == 0 && self.conflicts == 0 && self.is_opened
    }

    pub(super) fn print(&self, output: &Output) -> Result<(), Failure> {
        let RouteDelivered {
            route, bucket, objects, records, undelivered, error, is_opened, ..
        } = self;
        let (records, objects) = (counted(*records, "record"), counted(*objects, "object"));
        let what = format!("route {route}: {records} in {objects} delivered to {bucket}");
        if *undelivered == 0 && *is_opened {
            return output.line(&what);
        }
        let why = error.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        let left = counted(*undelivered, "record");
        output.line(&output.style().bad(&format!("{what}; {left} undelivered{why}")))
    }
}

/// The host's routes, if their file is given.
pub(super) fn routes_file(file: Option<&Path>) -> Result<RoutesFile, Failure> {
    file.map_or_else(|| Ok(RoutesFile::default()), RoutesFile::read).map_err(Failure::new)
}

/// The settings of a route in the file that give it a bucket.
fn settings_of<'a>(route: &JournalRoute, named: &'a [RouteSettings]) -> Option<&'a RouteSettings> {
    let is_it = |named: &&RouteSettings| named.name == route.name && named.bucket.is_some();
    named.iter().find(is_it).filter(|_| !route.is_retired)
}

/// The URL of a route's bucket: the one in the file, or the one that the journal names.
pub(super) fn url_of<'a>(route: &'a JournalRoute, named: &'a [RouteSettings]) -> &'a str {
    let named = settings_of(route, named).and_then(|named| named.bucket.as_deref());
    named.unwrap_or(&route.destination)
}

pub(super) fn bucket_of(route: &JournalRoute, named: &[RouteSettings]) -> Result<Bucket, String> {
    let url = to_url(url_of(route, named)).map_err(|error| with_sources(&error))?;
    let env = settings_of(route, named).map(|named| named.env.clone()).unwrap_or_default();
    let bucket = env.open(&url).map_err(|error| with_sources(&error))?;
    Ok(bucket.for_route(&route.name))
}

/// The route of this name that is not retired.
fn in_use<'a>(state: &'a JournalState, name: &str) -> Option<&'a JournalRoute> {
    state.routes.iter().find(|route| route.name == name && !route.is_retired)
}

/// Describes a state to an operator. Empty if all is well.
pub(super) fn said_of(state: &HealthState) -> String {
    match state {
        HealthState::Ok => String::new(),
        HealthState::Retrying { reason } => format!("retrying: {reason}"),
        HealthState::Blocked { reason } => format!("the bucket refuses: {reason}"),
    }
}
