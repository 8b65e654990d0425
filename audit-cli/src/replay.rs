//! `audit replay`: sends records of a bucket to a log stream again.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use audit_core::{HealthState, UniqueId};
use audit_journal::{JournalReader, ReplayLog};
use audit_sink_http::{Follower, Settings};
use audit_sink_s3::replay::{Replayed, StreamRecords, replay};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use crate::arguments::{Common, LogStreams, Replay};
use crate::bucket::Reader;
use crate::failure::{Failure, Outcome};
use crate::log_stream::{dead_letters, opened, selected, selected_of_route, single};
use crate::output::Output;
use crate::progress::Progress;
use crate::units::counted;

/// The interval at which the health of the log stream is checked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(
    arguments: &Replay,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let Replay { source, log_streams, route, routes, name, timeout, .. } = arguments;
    let streams = match (route, routes, log_streams) {
        (Some(route), Some(file), _) => selected_of_route(file, route, name.as_deref())?,
        (_, _, Some(file)) => selected(&LogStreams { file: file.clone(), name: name.clone() })?,
        (_, _, None) => return Err(Failure::new("give --log-streams, or --route and --routes")),
    };
    let sending = Sending {
        reader: Reader::open(source, common)?,
        common,
        output,
        end: timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_secs(timeout))),
    };
    let works = match (&arguments.missing, arguments.from) {
        (Some(directory), _) => missing(directory, streams, arguments, output)?,
        (None, Some(from)) => {
            let settings = single(streams)?;
            let end = arguments.to.map_or(u64::MAX, |last| last.saturating_add(1));
            let records = from.sequence..end;
            let log = arguments.progress.as_deref().map(|path| {
                ReplayLog::open(path, &settings.name).map_err(|error| {
                    Failure::new(format!("{} cannot be used", path.display())).because(error)
                })
            });
            let wanted = vec![(from.stream, records)];
            vec![Work {
                follower: follower(settings, None, arguments)?,
                wanted,
                log: log.transpose()?,
            }]
        }
        (None, None) => return Err(Failure::new("give --missing or --from")),
    };
    let mut is_wrong = false;
    for work in works {
        is_wrong |= !sending.send(work).await?;
    }
    Ok(Outcome::wrong_if(is_wrong))
}

/// The records to send to one log stream.
struct Work {
    follower: Follower,
    wanted: Vec<StreamRecords>,
    /// Where progress is recorded.
    log: Option<ReplayLog>,
}

/// The records that these log streams are missing as followers of a journal, or of the selected
/// route. Retired followers are included, and followers of retired routes of that name.
fn missing(
    directory: &Path,
    streams: Vec<Settings>,
    arguments: &Replay,
    output: &Output,
) -> Result<Vec<Work>, Failure> {
    let reader = JournalReader::open(directory)?;
    let state = reader.state();
    let route = arguments.route.as_deref();
    let is_of_route = |number: u32| {
        let known = state.routes.iter().find(|known| known.number == number);
        known.map(|known| known.name.as_str()) == route
    };
    let (mut works, mut follows) = (Vec::new(), false);
    for settings in streams {
        let name = settings.name.clone();
        let followers = state.followers.iter();
        let followers = followers.filter(|known| known.name == name && is_of_route(known.route));
        let mut is_known = false;
        for known in followers {
            is_known = true;
            if known.missing.is_empty() {
                continue;
            }
            let log = ReplayLog::of_follower(directory, known.number, &name).map_err(|error| {
                let what = format!("progress cannot be recorded in {}", directory.display());
                Failure::new(what).because(error)
            })?;
            let aside = dead_letters(directory, &name, route);
            let follower = follower(settings.clone(), Some(&aside), arguments)?;
            works.push(Work { follower, wanted: known.missing.clone(), log: Some(log) });
        }
        follows |= is_known;
        if !is_known {
            output.note(&match route {
                None => format!("the log stream {name:?} does not follow this journal"),
                Some(route) => {
                    format!("the log stream {name:?} does not follow the route {route:?}")
                }
            });
        }
    }
    if !follows {
        // Success would suggest that a mistyped or renamed log stream has all records.
        return Err(Failure::new(format!(
            "nothing could be sent: audit journal show {} names the followers",
            directory.display()
        )));
    }
    if works.is_empty() && !output.is_json() {
        output.line("nothing is missing")?;
    }
    Ok(works)
}

fn follower(
    settings: Settings,
    aside: Option<&Path>,
    arguments: &Replay,
) -> Result<Follower, Failure> {
    let name = settings.name.clone();
    let chosen = arguments.dead_letters.clone();
    let dead_letters = chosen.or(settings.dead_letters.clone()).or(aside.map(Path::to_owned));
    if dead_letters.is_none() {
        return Err(Failure::new(format!(
            "the log stream {name:?} has no directory for records that the receiver rejects: \
             name one with --dead-letters"
        )));
    }
    opened(Settings { dead_letters, ..settings }, audit_sink_http::follower)
}

#[derive(Serialize)]
struct Sent<'a> {
    name: &'a str,
    objects: u64,
    records: u64,
    left: Vec<Left>,
    unread: Vec<Unread<'a>>,
}

/// Records that were not sent. Without `to`, all of the stream from `from` on.
#[derive(Serialize)]
struct Left {
    stream: String,
    from: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
}

#[derive(Serialize)]
struct Unread<'a> {
    key: &'a str,
    reason: &'a str,
}

struct Sending<'a> {
    reader: Reader,
    common: &'a Common,
    output: &'a Output,
    /// When to give up.
    end: Option<Instant>,
}

impl Sending<'_> {
    /// Sends the records of one log stream. Returns whether all were sent.
    async fn send(&self, work: Work) -> Result<bool, Failure> {
        let Work { follower, wanted, mut log } = work;
        let wanted: Vec<StreamRecords> = match &log {
            None => wanted,
            Some(log) => {
                let lacks = |(stream, records): &(UniqueId, Range<u64>)| {
                    let lacks = log.lacks(*stream, records).into_iter();
                    lacks.map(|lacks| (*stream, lacks)).collect::<Vec<_>>()
                };
                wanted.iter().flat_map(lacks).collect()
            }
        };
        let note = |records: &[StreamRecords]| log.as_mut().map_or(Ok(()), |log| log.note(records));
        let replayed = tokio::select! {
            biased;
            replayed = replay(self.reader.bucket(), &follower, &wanted, note) => replayed,
            failure = self.watch(&follower) => return Err(failure),
        };
        let replayed = replayed.map_err(|error| {
            let reason = error.reason();
            Failure::new(format!("{error}: run it again to continue")).because(reason)
        })?;
        self.print(&follower.name, &replayed)?;
        Ok(replayed.left.is_empty())
    }

    /// Reports the health of the log stream until it is time to give up.
    async fn watch(&self, follower: &Follower) -> Failure {
        let progress = Progress::new(self.common, 0);
        let mut said = String::new();
        let end = async {
            match self.end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let mut end = std::pin::pin!(end);
        loop {
            let health = follower.health.health(0);
            let now = match health.state {
                HealthState::Ok => String::new(),
                HealthState::Retrying { reason } => {
                    format!("retrying: {reason}")
                }
                HealthState::Blocked { reason } => format!("the log stream refuses: {reason}"),
            };
            progress.at(health.records_delivered, if now.is_empty() { "records" } else { &now });
            if now != said && !now.is_empty() && progress.is_hidden() {
                self.output.note(&now);
            }
            said = now;
            tokio::select! {
                biased;
                () = &mut end => {
                    let sent = counted(health.records_delivered, "record");
                    let failure = Failure::new(format!(
                        "{sent} arrived at {:?} in time: run it again to continue",
                        follower.name
                    ));
                    return match health.last_error {
                        Some(error) => failure.because(error),
                        None => failure,
                    };
                }
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn print(&self, name: &str, replayed: &Replayed) -> Result<(), Failure> {
        let Replayed { objects, records, left, unread } = replayed;
        let output = self.output;
        if output.is_json() {
            let left = left.iter().map(|(stream, records)| Left {
                stream: stream.to_string(),
                from: records.start,
                to: (records.end < u64::MAX).then(|| records.end - 1),
            });
            let unread = unread.iter().map(|(key, reason)| Unread { key, reason });
            let (left, unread) = (left.collect(), unread.collect());
            return output.json(&Sent { name, objects: *objects, records: *records, left, unread });
        }
        let style = output.style();
        let (records, objects) = (counted(*records, "record"), counted(*objects, "object"));
        output.line(&format!("{name}: {records} of {objects} sent"))?;
        for (key, reason) in unread {
            output.line(&style.bad(&format!("{key} cannot be read: {reason}")))?;
        }
        for (stream, records) in left {
            let (from, last) = (records.start, records.end - 1);
            output.line(&style.bad(&match records.end {
                u64::MAX => {
                    format!("{name}: no record of stream {stream} from {from} on is in the bucket")
                }
                _ => format!("{name}: records {from} to {last} of stream {stream} were not sent"),
            }))?;
        }
        Ok(())
    }
}
