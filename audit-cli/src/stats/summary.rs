//! The end of `audit stats`: days, totals, how late objects arrived, and the verdict.

use serde::Serialize;

use super::durations::Lag;
use super::tally::{Tally, Totals};
use crate::bucket::Reader;
use crate::failure::Failure;
use crate::output::Output;
use crate::units::{Size, Span, counted, now_ms, shown};

#[derive(Serialize)]
struct Day {
    day: String,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Serialize)]
struct Summary<'a> {
    bucket: String,
    streams: u64,
    #[serde(flatten)]
    totals: &'a Totals,
    days: Vec<Day>,
    lag: Option<Lag>,
    last_arrival: Option<String>,
    gaps: u64,
    missing_records: u64,
    duplicates: u64,
    same_lines: u64,
    damaged: u64,
    /// Objects without records.
    other_objects: u64,
    /// The number of leftovers of dead writers among them.
    leftovers: u64,
    /// The other objects that query engines may read as records.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<Foreign>,
}

#[derive(Serialize)]
struct Foreign {
    count: u64,
    example: String,
}

pub(super) fn print(reader: &Reader, tally: &Tally, output: &Output) -> Result<(), Failure> {
    match output.is_json() {
        true => output.json(&summary(reader, tally)),
        false => print_text(reader, tally, output),
    }
}

fn summary<'a>(reader: &Reader, tally: &'a Tally) -> Summary<'a> {
    let Tally {
        totals, days, streams, gaps, missing_records, duplicates, same_lines, damaged, ..
    } = tally;
    let others = reader.others();
    let (other_objects, leftovers) =
        others.map_or((0, 0), |others| (others.count, others.leftovers));
    let days = days.iter().map(|(day, totals)| {
        let Totals { objects, stored_bytes, logs, bytes, metered_bytes } = *totals;
        let day = day.to_string().trim_start_matches("dt=").to_owned();
        Day { day, totals: Totals { objects, stored_bytes, logs, bytes, metered_bytes } }
    });
    Summary {
        bucket: reader.name(),
        streams: streams.len() as u64,
        totals,
        days: days.collect(),
        lag: tally.lag(),
        last_arrival: tally.last_arrival_ms.map(shown),
        gaps: *gaps,
        missing_records: *missing_records,
        duplicates: *duplicates,
        same_lines: *same_lines,
        damaged: *damaged,
        other_objects,
        leftovers,
        foreign: reader.foreign().map(|(example, count)| Foreign { count, example }),
    }
}

fn print_text(reader: &Reader, tally: &Tally, output: &Output) -> Result<(), Failure> {
    let Tally {
        totals, days, streams, gaps, missing_records, duplicates, same_lines, damaged, ..
    } = tally;
    let lag = tally.lag();
    let style = output.style();
    let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| Size(bytes).to_string());
    let row = |day: &str, totals: &Totals| {
        let Totals { objects, stored_bytes, logs, bytes, metered_bytes } = totals;
        let (stored, bytes, metered) = (Size(*stored_bytes), size(*bytes), size(*metered_bytes));
        format!("{day:10}  {objects:>9}  {logs:>12}  {bytes:>11}  {metered:>11}  {stored:>11}")
    };
    let head = format!(
        "{:10}  {:>9}  {:>12}  {:>11}  {:>11}  {:>11}",
        "DAY", "OBJECTS", "LOGS", "BYTES", "METERED", "STORED"
    );
    output.line(&style.strong(&head))?;
    for (day, totals) in days {
        output.line(&row(day.to_string().trim_start_matches("dt="), totals))?;
    }
    output.line(&style.strong(&row("all", totals)))?;
    output.line(&format!("streams: {}", streams.len()))?;
    if let (Some(lag), Some(last)) = (lag, tally.last_arrival_ms) {
        let Lag { p50_ms, p99_ms, max_ms, from } = lag;
        let silent = Span(now_ms().saturating_sub(last));
        output.line(&format!(
            "last arrival: {}, {silent} ago",
            shown(last - last.rem_euclid(1_000))
        ))?;
        output.line(&format!(
            "objects came after the {from}: half of them within {}, 99 of 100 within {}, the last one within {}",
            Span(p50_ms),
            Span(p99_ms),
            Span(max_ms)
        ))?;
    }
    if let Some(others) = reader.others() {
        output.line(&style.doubtful(&others.to_string()))?;
    }
    if *same_lines > 0 {
        let copies = counted(*same_lines, "possible copy");
        output.line(&style.doubtful(&format!("{copies} of other objects")))?;
    }
    let verdict = if totals.objects == 0 && *damaged == 0 {
        style.bad("there was nothing to check")
    } else if gaps + duplicates + damaged == 0 {
        style.good("no gaps, no duplicates, nothing damaged")
    } else {
        style.bad(&format!(
            "{} ({} missing), {}, {} damaged",
            counted(*gaps, "gap"),
            counted(*missing_records, "record"),
            counted(*duplicates, "duplicate"),
            counted(*damaged, "object"),
        ))
    };
    output.line(&verdict)
}
