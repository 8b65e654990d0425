//! `audit heads`: shows what a witness saw, and compares buckets with it.

use std::collections::BTreeMap;

use audit_evidence::{Certificate, Remembered, VerifierKey};
use serde::Serialize;

use super::heads::{self, Event, Head};
use crate::arguments::Heads;
use crate::failure::{Failure, Outcome};
use crate::lock::lock;
use crate::output::Output;
use crate::units::{counted, shown};
use crate::verify;

/// A head in the output.
#[derive(Serialize)]
struct Shown<'a> {
    at: String,
    event: Event,
    origin: &'a str,
    size: u64,
    root: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<&'a str>,
}

pub(crate) async fn run(arguments: &Heads, output: &Output) -> Result<Outcome, Failure> {
    let Heads { directory, key, hosts, state } = arguments;
    let mut sizes = BTreeMap::<String, Remembered>::new();
    let (mut lines, mut wrong) = (0u64, 0u64);
    let log = heads::read(directory, key, |head| {
        lines += 1;
        let what = examine(&head, hosts, &mut sizes);
        wrong += u64::from(what.is_some());
        print(&head, what, output)
    })?;
    let signed = log.signed.map_or(0, |(signed, _)| signed.size);
    if !output.is_json() {
        let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let at = log.signed.map(|(_, at)| shown(ms(at)));
        output.line(&format!(
            "{}, {signed} of them signed by {}{}; {wrong} contradict others",
            counted(lines, "head"),
            key.name(),
            at.map(|at| format!(" at {at}")).unwrap_or_default()
        ))?;
    }
    if signed < lines {
        // This happens only to a copy that was made while the witness was writing.
        output.note(&format!("{} not signed yet", counted(lines - signed, "head")));
    }
    if let Some(file) = state {
        let _lock = lock("the state", file, output).await?;
        let mut state = verify::read_state(file)?.unwrap_or_default();
        for (origin, seen) in sizes {
            let stream = origin.rsplit_once('/').map_or(&*origin, |(_, stream)| stream);
            match state.get(stream) {
                Some(known) if known.size == seen.size && known.root != seen.root => {
                    let what =
                        format!("the state has another root for {}", counted(seen.size, "record"));
                    output.note(&format!("wrong: {origin}: {what}"));
                    wrong += 1;
                }
                Some(known) if known.size >= seen.size => {}
                Some(_) | None => state.remember(stream.to_owned(), seen),
            }
        }
        verify::write_state(file, &state)?;
    }
    Ok(Outcome::wrong_if(wrong > 0))
}

/// Checks a head against the earlier ones. Returns what is wrong with it.
fn examine(
    head: &Head,
    hosts: &[VerifierKey],
    sizes: &mut BTreeMap<String, Remembered>,
) -> Option<&'static str> {
    let Some((checkpoint, note)) = head.checkpoint() else { return Some("it is no checkpoint") };
    let is_by = |host| {
        Certificate::find(&note, host)
            .is_some_and(|certificate| note.verify(certificate.stream_key()) == Ok(true))
    };
    if !hosts.is_empty() && !hosts.iter().any(is_by) {
        return Some("none of the hosts' keys certifies it");
    }
    match head.event {
        Event::Fork => return Some("the stream's key signed two histories"),
        Event::OtherKey => return Some("the host certified two keys for the stream"),
        Event::Cosigned => {}
    }
    let seen = Remembered { size: checkpoint.size(), root: *checkpoint.root(), has_ended: false };
    let before = sizes.insert(checkpoint.origin().to_owned(), seen);
    before.filter(|before| before.size >= seen.size).map(|_| "the stream did not grow")
}

fn print(head: &Head, wrong: Option<&'static str>, output: &Output) -> Result<(), Failure> {
    let checkpoint = head.checkpoint();
    let (origin, size, root) = match &checkpoint {
        Some((checkpoint, _)) => (checkpoint.origin(), checkpoint.size(), *checkpoint.root()),
        None => ("", 0, audit_evidence::Hash::empty()),
    };
    let at = shown(i64::try_from(head.at).unwrap_or(i64::MAX));
    let (event, root) = (head.event, root.to_string());
    if output.is_json() {
        return output.json(&Shown { at, event, origin, size, root, wrong });
    }
    let line = format!("{at}  {origin}  {size}  {root}");
    output.line(&match wrong {
        Some(wrong) => output.style().bad(&format!("{line}  wrong: {wrong}")),
        None => line,
    })
}
