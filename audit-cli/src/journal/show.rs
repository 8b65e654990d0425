//! `audit journal show`: what a journal holds, and what of it is not in the bucket yet.

use audit_journal::{
    JournalRecords, JournalRoute, JournalState, JournalStream, Plan, PlannedObject,
};
use audit_sink_s3::layout::ObjectKey;
use serde::Serialize;

use super::{cannot_read, read};
use crate::arguments::JournalDirectory;
use crate::failure::{Failure, Outcome};
use crate::followers::Follower;
use crate::output::Output;
use crate::units::{Count, Size, Span, counted, now_ms, shown};

#[derive(Serialize)]
struct State {
    in_use: bool,
    segments: u64,
    bytes: u64,
    undelivered: u64,
    undelivered_bytes: u64,
    oldest_undelivered: Option<String>,
    streams: Vec<Stream>,
    objects: Vec<Object>,
    followers: Vec<Follower>,
    routes: Vec<Route>,
}

#[derive(Serialize)]
struct Route {
    number: u32,
    name: String,
    destination: String,
    retired: bool,
    undelivered: u64,
}

#[derive(Serialize)]
struct Stream {
    stream: String,
    /// The number of its route, 0 for the default route.
    route: u32,
    delivered_to: u64,
    next_sequence: u64,
}

#[derive(Serialize)]
struct Object {
    key: String,
    count: u64,
    conflict: bool,
    file: String,
}

pub(super) fn show(directory: &JournalDirectory, output: &Output) -> Result<Outcome, Failure> {
    let Some(reader) = read(directory, output)? else { return Ok(Outcome::Wrong) };
    let state = reader.state();
    let (mut bytes, mut oldest) = (0, None::<i64>);
    let counted = reader.batches(JournalRecords::Undelivered, |batch| {
        bytes += batch.lines.len() as u64;
        oldest = Some(oldest.map_or(batch.time_ms, |oldest| oldest.min(batch.time_ms)));
        true
    });
    match counted {
        // The host continued meanwhile: the segments read were delivered and removed.
        Err(_) if state.in_use => {}
        counted => counted.map_err(cannot_read)?,
    }
    let followers = Follower::all(&reader)?;
    print_state(state, bytes, oldest, &followers, output)?;
    let conflicts = state.objects.iter().any(|object| object.set_aside);
    let is_wrong = followers.iter().any(|follower| follower.is_wrong(state.in_use));
    // While a host has the journal open, undelivered records are being delivered.
    Ok(Outcome::wrong_if(conflicts || is_wrong || (!state.in_use && state.undelivered() > 0)))
}

fn print_state(
    state: &JournalState,
    undelivered_bytes: u64,
    oldest: Option<i64>,
    followers: &[Follower],
    output: &Output,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&summary(state, undelivered_bytes, oldest, followers));
    }
    let JournalState { in_use, segments, bytes, streams, objects, followers: _, routes } = state;
    let style = output.style();
    let used = if *in_use { "a process has it open" } else { "no process has it open" };
    let segments = counted(*segments, "segment");
    output.line(&format!("{used}; {segments} with records, {} of disk", Size(*bytes)))?;
    for stream in streams {
        let JournalStream { stream: name, route, next_sequence, .. } = stream;
        let route = routes.iter().find(|known| known.number == *route);
        let route = route.map_or_else(String::new, |route| format!(" of route {}", route.name));
        let undelivered = stream.undelivered();
        output.line(&format!(
            "stream {name}{route}: {}, {} not known to be in the bucket",
            counted(*next_sequence, "record"),
            Count(undelivered)
        ))?;
    }
    for route in routes {
        let Route { number, name, destination, retired, undelivered } = Route::of(route, state);
        let retired = if retired { ", retired" } else { "" };
        output.line(&format!(
            "route {name} (number {number}{retired}) to {destination}: {} not known to be in the \
             bucket",
            counted(undelivered, "record")
        ))?;
    }
    for PlannedObject { plan, set_aside, file } in objects {
        let (key, records) = (destined(plan), counted(plan.count, "record"));
        output.line(&if *set_aside {
            style.bad(&format!(
                "conflict: another object has the key {key}; {records} set aside in {}",
                file.display()
            ))
        } else {
            format!("planned: {key}, {records}")
        })?;
    }
    for follower in followers {
        follower.print(output)?;
    }
    let verdict = match (state.undelivered(), oldest) {
        (0, _) => style.good("everything is in the bucket or set aside"),
        (undelivered, oldest) => {
            let age = oldest.map(|oldest| {
                format!(
                    ", the oldest of {}, {} ago",
                    shown(oldest),
                    Span(now_ms().saturating_sub(oldest))
                )
            });
            let text = format!(
                "{} not known to be in the bucket, {}{}",
                counted(undelivered, "record"),
                Size(undelivered_bytes),
                age.unwrap_or_default()
            );
            if *in_use { text } else { style.bad(&text) }
        }
    };
    output.line(&verdict)
}

fn summary(
    state: &JournalState,
    undelivered_bytes: u64,
    oldest: Option<i64>,
    followers: &[Follower],
) -> State {
    let JournalState { in_use, segments, bytes, streams, objects, followers: _, routes } = state;
    let stream = |stream: &JournalStream| {
        let JournalStream { stream, route, delivered_to, next_sequence, .. } = *stream;
        Stream { stream: stream.to_string(), route, delivered_to, next_sequence }
    };
    let object = |object: &PlannedObject| {
        let PlannedObject { plan, set_aside, file } = object;
        let file = file.display().to_string();
        Object { key: destined(plan), count: plan.count, conflict: *set_aside, file }
    };
    State {
        in_use: *in_use,
        segments: *segments,
        bytes: *bytes,
        undelivered: state.undelivered(),
        undelivered_bytes,
        oldest_undelivered: oldest.map(shown),
        streams: streams.iter().map(stream).collect(),
        objects: objects.iter().map(object).collect(),
        followers: followers.to_vec(),
        routes: routes.iter().map(|route| Route::of(route, state)).collect(),
    }
}

impl Route {
    fn of(route: &JournalRoute, state: &JournalState) -> Route {
        let JournalRoute { number, name, destination, is_retired: retired } = route.clone();
        Route { number, name, destination, retired, undelivered: state.undelivered_of(number) }
    }
}

/// The destination of an object: in a bucket, its key.
fn destined(plan: &Plan) -> String {
    match ObjectKey::of_plan(plan) {
        Some(key) => key.to_string(),
        None => format!("{}-{:012}.{}", plan.stream, plan.first_sequence, plan.encoding),
    }
}
