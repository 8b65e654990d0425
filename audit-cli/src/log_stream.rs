//! `audit log-stream`: tests the log streams of a host, and resends set-aside records.

use std::error::Error;
use std::path::{Path, PathBuf};

use audit_host::{LogStreamsFile, RoutesFile};
use audit_sink_http::{DeadLetter, LogStream, Settings};

use crate::arguments::{Aside, LogStreamCommand, LogStreams, SendAgain};
use crate::failure::{Failure, Outcome};
use crate::lock::lock_beside;
use crate::output::Output;
use crate::units::{counted, shown};

pub(crate) async fn run(command: &LogStreamCommand, output: &Output) -> Result<Outcome, Failure> {
    match command {
        LogStreamCommand::Test(streams) => test(streams, output).await,
        LogStreamCommand::Aside(aside) => list(aside, output),
        LogStreamCommand::Send(send) => send_again(send, output).await,
    }
}

/// The selected log streams of a file, at least one.
pub(crate) fn selected(LogStreams { file, name }: &LogStreams) -> Result<Vec<Settings>, Failure> {
    let read = LogStreamsFile::read(file).map_err(Failure::new)?;
    named(read.log_stream, name.as_deref(), &file.display().to_string())
}

/// The selected log streams of a route in a file of routes, at least one.
pub(crate) fn selected_of_route(
    file: &Path,
    route: &str,
    name: Option<&str>,
) -> Result<Vec<Settings>, Failure> {
    let RoutesFile { route: routes } = RoutesFile::read(file).map_err(Failure::new)?;
    let file = file.display();
    match routes.into_iter().find(|known| known.name == route) {
        Some(known) => named(known.log_stream, name, &format!("the route {route:?} of {file}")),
        None => Err(Failure::new(format!("{file} has no route {route:?}"))),
    }
}

/// The log streams of this name, or all if there is no name. `whose` names their owner in failures.
fn named(
    streams: Vec<Settings>,
    name: Option<&str>,
    whose: &str,
) -> Result<Vec<Settings>, Failure> {
    let is_selected = |settings: &Settings| name.is_none_or(|name| settings.name == name);
    let settings: Vec<_> = streams.into_iter().filter(is_selected).collect();
    match (settings.is_empty(), name) {
        (false, _) => Ok(settings),
        (true, Some(name)) => Err(Failure::new(format!("{whose} has no log stream {name:?}"))),
        (true, None) => Err(Failure::new(format!("{whose} has no log stream"))),
    }
}

/// Opens a log stream with `open`. The failure names it.
pub(crate) fn opened<T, E: Into<Box<dyn Error + Send + Sync>>>(
    settings: Settings,
    open: impl FnOnce(Settings) -> Result<T, E>,
) -> Result<T, Failure> {
    let what = format!("the log stream {:?}", settings.name);
    open(settings).map_err(|error| Failure::new(what).because(error))
}

/// The default directory for records that a log stream rejects, on a host with this journal.
/// `route` is the route that the log stream belongs to, if any.
pub(crate) fn dead_letters(journal: &Path, name: &str, route: Option<&str>) -> PathBuf {
    let aside = journal.parent().unwrap_or(journal).join("dead-letters");
    match route {
        None => aside.join(name),
        Some(route) => aside.join(format!("{name}@{route}")),
    }
}

/// The selected log stream. Fails if there are several.
pub(crate) fn single(settings: Vec<Settings>) -> Result<Settings, Failure> {
    let several = "the file has several log streams: choose one with --name";
    let one = <[Settings; 1]>::try_from(settings).map_err(|_| Failure::new(several))?;
    let [settings] = one;
    Ok(settings)
}

async fn test(streams: &LogStreams, output: &Output) -> Result<Outcome, Failure> {
    let mut is_wrong = false;
    for settings in selected(streams)? {
        let name = settings.name.clone();
        let stream = opened(settings, LogStream::open)?;
        let answer = stream.send_test().await;
        is_wrong |= answer.is_err();
        if output.is_json() {
            output.json(&serde_json::json!({
                "name": name,
                "accepted": answer.is_ok(),
                "reason": answer.err(),
            }))?;
        } else {
            let answer = answer.err().unwrap_or_else(|| "accepted the test event".to_owned());
            output.line(&format!("{stream}: {answer}"))?;
        }
    }
    Ok(Outcome::wrong_if(is_wrong))
}

fn unreadable(directory: &Path, error: std::io::Error) -> Failure {
    let what = format!("what was set aside in {} cannot be read", directory.display());
    Failure::new(what).because(error)
}

/// The readable records in a directory, and the number of unreadable files, which a note names.
fn letters(directory: &Path, output: &Output) -> Result<(Vec<DeadLetter>, u64), Failure> {
    // Fails if the directory does not exist: an empty list would hide a mistyped name.
    std::fs::read_dir(directory).map_err(|error| unreadable(directory, error))?;
    let listed = DeadLetter::list(directory);
    let (letters, unread) = listed.map_err(|error| unreadable(directory, error))?;
    unread.iter().for_each(|error| output.note(&error.to_string()));
    Ok((letters, unread.len() as u64))
}

/// The outcome, or the failure if files could not be read.
fn ended(is_wrong: bool, unread: u64) -> Result<Outcome, Failure> {
    match unread {
        0 => Ok(Outcome::wrong_if(is_wrong)),
        _ => Err(Failure::new(format!("{} could not be read", counted(unread, "file")))),
    }
}

fn list(Aside { directory }: &Aside, output: &Output) -> Result<Outcome, Failure> {
    let (letters, unread) = letters(directory, output)?;
    for letter in &letters {
        let DeadLetter { stream, sequence, time_ms, why, reason, body, .. } = letter;
        if output.is_json() {
            output.json(&serde_json::json!({
                "stream": stream.to_string(),
                "sequence": sequence,
                "timeMs": time_ms,
                "why": why,
                "reason": reason,
                "bytes": body.len(),
            }))?;
        } else {
            let (time, bytes) = (shown(*time_ms), counted(body.len() as u64, "byte"));
            output.line(&format!("{stream}-{sequence:012}  {time}  {bytes}  {reason}"))?;
        }
    }
    if !output.is_json() {
        output.note(&format!("{} set aside", counted(letters.len() as u64, "record")));
    }
    ended(!letters.is_empty(), unread)
}

async fn send_again(send: &SendAgain, output: &Output) -> Result<Outcome, Failure> {
    let settings = selected(&send.streams)?;
    let stream = opened(single(settings)?, LogStream::open)?;
    std::fs::read_dir(&send.directory).map_err(|error| unreadable(&send.directory, error))?;
    // Two commands that send at once would send each record twice.
    let what = format!("the records in {}", send.directory.display());
    let _lock = lock_beside(&what, &send.directory.join("send"), output).await?;
    let (mut sent, mut refused) = (0, 0);
    let (letters, unread) = letters(&send.directory, output)?;
    for letter in letters {
        let id = format!("{}-{:012}", letter.stream, letter.sequence);
        if let Err(reason) = stream.send_again(&letter).await {
            refused += 1;
            output.note(&format!("{id}: {reason}"));
            continue;
        }
        sent += 1;
        // A crash before the removal means that the record is sent once more, with the same id.
        letter.remove().map_err(|error| {
            Failure::new(format!("{id} was accepted, and its file cannot be removed"))
                .because(error)
        })?;
    }
    if output.is_json() {
        output.json(&serde_json::json!({ "sent": sent, "refused": refused }))?;
    } else {
        let (sent, refused) = (counted(sent, "record"), counted(refused, "record"));
        output.line(&format!("{sent} sent and removed, {refused} refused"))?;
    }
    ended(refused > 0, unread)
}
