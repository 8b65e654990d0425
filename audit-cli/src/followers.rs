//! The followers of a journal: their progress and their log streams.

use std::path::Path;

use audit_host::LogStreamsFile;
use audit_journal::{
    Follower as Destination, FollowerState, JournalFollower, JournalReader, JournalRecords,
    JournalRoute, JournalState,
};
use audit_sink_http::Settings;
use serde::Serialize;

use crate::failure::Failure;
use crate::log_stream;
use crate::output::Output;
use crate::units::counted;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Follower {
    number: u32,
    /// The number of its route, 0 for the default route.
    route: u32,
    name: String,
    #[serde(skip)]
    route_name: Option<String>,
    state: &'static str,
    stream: String,
    delivered_to: u64,
    undelivered: u64,
    missing: Vec<Missing>,
}

/// Records that were removed from the journal before a follower received them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Missing {
    pub(crate) stream: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Follower {
    /// The followers of a journal, including retired ones.
    pub(crate) fn all(reader: &JournalReader) -> Result<Vec<Follower>, Failure> {
        let state = reader.state();
        let all = state.followers.iter().map(|follower| {
            let mut undelivered = 0;
            let is_retired = follower.state == FollowerState::Retired;
            if !is_retired {
                let records = JournalRecords::UndeliveredTo(follower.number);
                let read = reader.batches(records, |batch| {
                    undelivered += batch.records();
                    true
                });
                match read {
                    // The host continued meanwhile: segments were delivered and removed.
                    Err(_) if state.in_use => {}
                    read => read.map_err(|error| {
                        Failure::new("the journal cannot be read").because(error)
                    })?,
                }
            }
            Ok(Follower::of(follower, state, undelivered))
        });
        all.collect()
    }

    fn of(follower: &JournalFollower, journal: &JournalState, undelivered: u64) -> Follower {
        let JournalFollower { number, route, name, state, delivered_to, missing, .. } = follower;
        let route_name = journal.routes.iter().find(|known| known.number == *route);
        let route_name = route_name.map(|route| route.name.clone());
        let (stream, delivered_to) = delivered_to;
        let missing = missing.iter().map(|(stream, records)| Missing {
            stream: stream.to_string(),
            from: records.start,
            to: records.end - 1,
        });
        Follower {
            number: *number,
            route: *route,
            name: name.clone(),
            route_name,
            state: match state {
                FollowerState::Following => "following",
                FollowerState::Paused => "paused",
                FollowerState::Retired => "retired",
            },
            stream: stream.to_string(),
            delivered_to: *delivered_to,
            undelivered,
            missing: missing.collect(),
        }
    }

    /// Whether an operator should act. While a host has the journal open, undelivered records are
    /// being delivered. Missing records stay listed until `audit replay` has sent them.
    pub(crate) fn is_wrong(&self, in_use: bool) -> bool {
        let is_retired = self.state == "retired";
        let is_missing = !is_retired && !self.missing.is_empty();
        self.state == "paused" || is_missing || (!in_use && self.undelivered > 0)
    }

    pub(crate) fn print(&self, output: &Output) -> Result<(), Failure> {
        let Follower { number, name, state, stream, delivered_to, undelivered, missing, .. } = self;
        let style = output.style();
        let of_route = self.route_name.as_ref().map(|route| format!(" of route {route}"));
        let follower = format!("follower {name}{}", of_route.unwrap_or_default());
        let records = counted(*undelivered, "record");
        output.line(&match *state {
            "retired" => format!(
                "{follower}: retired, as number {number}; it has the records of stream {stream} \
                 below {delivered_to}, and those before"
            ),
            "paused" => style.bad(&format!(
                "{follower}: paused, since it lags by more than is kept for it; {records} not \
                 known to be there"
            )),
            _ => format!("{follower}: {records} not known to be there"),
        })?;
        for Missing { stream, from, to } in missing {
            output.line(&style.bad(&format!(
                "{follower}: misses records {from} to {to} of stream {stream}, which left the \
                 journal: `audit replay` sends them from the bucket"
            )))?;
        }
        Ok(())
    }
}

/// The log streams of a file that follow the default route of a journal.
pub(crate) fn of_journal(
    file: Option<&Path>,
    journal: &Path,
    state: &JournalState,
    output: &Output,
) -> Result<Vec<Destination>, Failure> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let LogStreamsFile { log_stream: streams } =
        LogStreamsFile::read(file).map_err(Failure::new)?;
    let mut followers = Vec::new();
    for settings in streams {
        if !is_followed(state, 0, &settings.name) {
            let name = &settings.name;
            output.note(&format!("the log stream {name:?} does not follow this journal"));
            continue;
        }
        let settings = with_dead_letters(settings, None, journal);
        followers.push(log_stream::opened(settings, audit_sink_http::follower)?);
    }
    Ok(followers)
}

/// The log streams among `streams` that follow a route of a journal.
pub(crate) fn of_route<'a>(
    streams: impl IntoIterator<Item = &'a Settings>,
    route: &JournalRoute,
    journal: &Path,
    state: &JournalState,
    output: &Output,
) -> Result<Vec<Destination>, Failure> {
    let mut followers = Vec::new();
    for settings in streams {
        let (name, of) = (&settings.name, &route.name);
        if !is_followed(state, route.number, name) {
            output.note(&format!("the log stream {name:?} does not follow the route {of:?}"));
            continue;
        }
        let settings = with_dead_letters(settings.clone(), Some(of), journal);
        let open = |settings| audit_sink_http::follower_of_route(of, settings);
        followers.push(log_stream::opened(settings, open)?);
    }
    Ok(followers)
}

/// Whether a route of the journal has a follower of this name that is not retired.
fn is_followed(state: &JournalState, route: u32, name: &str) -> bool {
    state.followers.iter().any(|known| {
        known.route == route && known.name == name && known.state != FollowerState::Retired
    })
}

/// The settings of a log stream. If they name no directory for rejected records, it is the host's.
fn with_dead_letters(settings: Settings, route: Option<&str>, journal: &Path) -> Settings {
    let aside = || Some(log_stream::dead_letters(journal, &settings.name, route));
    let dead_letters = settings.dead_letters.clone().or_else(aside);
    Settings { dead_letters, ..settings }
}
