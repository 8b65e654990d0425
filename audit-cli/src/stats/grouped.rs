//! `audit stats --by` and `audit who`: records counted by their members.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::groups::{Group, GroupKey, Groups, Plan, Total};
use crate::arguments::{
    ACTORS, Common, Filter, Grouping, Per, Selection, Source, Stats, Who, time_pointers,
};
use crate::bucket::{Listed, Reader, Wanted};
use crate::escape;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::query::Pointer;
use crate::scan::{self, Step};
use crate::units::{Count, counted, shown};

/// The default pointers of a record's action and client address.
const ACTION: [&str; 3] = ["/action", "/event", "/type"];
const ADDRESS: [&str; 4] = ["/client/ip", "/source/ip", "/actor/ip", "/ip"];

fn pointers(texts: &[&str]) -> Vec<Pointer> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A member by which records are counted.
struct By {
    title: String,
    pointers: Vec<Pointer>,
}

/// The records to count, and by what.
struct Counted<'a> {
    source: &'a Source,
    selection: &'a Selection,
    filter: Filter,
    grouping: &'a Grouping,
    by: Vec<By>,
}

pub(super) async fn run(
    arguments: &Stats,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let by = arguments.by.iter();
    let by = by.map(|one| By { title: one.to_string(), pointers: vec![one.clone()] });
    let counted = Counted {
        source: &arguments.source,
        selection: &arguments.selection,
        filter: arguments.filter.clone(),
        grouping: &arguments.grouping,
        by: by.collect(),
    };
    let (outcome, ..) = counted.count(common, output).await?;
    Ok(outcome)
}

/// `audit who`.
pub(crate) async fn who(
    arguments: &Who,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let mut filter = arguments.filter.clone();
    filter.conditions.push(arguments.searched.condition());
    let counted = Counted {
        source: &arguments.source,
        selection: &arguments.selection,
        filter,
        grouping: &arguments.grouping,
        by: vec![
            By { title: "who".to_owned(), pointers: pointers(&ACTORS) },
            By { title: "action".to_owned(), pointers: pointers(&ACTION) },
        ],
    };
    let (outcome, searched, matched, days) = counted.count(common, output).await?;
    let matches = if matched == 1 { "matches" } else { "match" };
    let (records, days) = (self::counted(searched, "record"), self::counted(days, "day"));
    output.flush()?;
    output.note(&format!("searched {records} of {days}, {} {matches}", Count(matched)));
    Ok(outcome)
}

impl Counted<'_> {
    /// Prints the groups. Returns the number of searched records, of matching ones, and of days.
    async fn count(
        self,
        common: &Common,
        output: &Output,
    ) -> Result<(Outcome, u64, u64, u64), Failure> {
        let Counted { source, selection, filter, grouping, by } = self;
        let reader = Reader::open(source, common)?;
        let wanted = Wanted::selected(selection, filter.time.is_some());
        let sieve = Arc::new(filter.sieve(wanted.times_ms.clone()));
        let or = |one: &Option<Pointer>, others: &[&str]| {
            one.as_ref().map_or_else(|| pointers(others), |one| vec![one.clone()])
        };
        let address = or(&grouping.address, &ADDRESS);
        let time = time_pointers(filter.time.as_ref());
        let titles: Vec<String> = by.iter().map(|by| by.title.clone()).collect();
        let by = by.into_iter().map(|by| by.pointers).collect();
        let plan = Arc::new(Plan::new(by, address, time, grouping.per));
        let selected = Arc::clone(&sieve);
        let begin = move |object: &Listed| {
            let (hour_ms, plan, sieve) =
                (object.key.hour_ms(), Arc::clone(&plan), Arc::clone(&selected));
            move |_, line: &[u8], part: &mut Groups| {
                if sieve.selects(line) {
                    plan.add(hour_ms, line, part);
                }
            }
        };
        let max_bytes = usize::try_from(grouping.memory << 20).unwrap_or(usize::MAX);
        let mut total = Total::new(max_bytes);
        let take = |step: Step<Groups>| {
            if let Step::Part(part) = step {
                total.add(part);
            }
            Ok(ControlFlow::Continue(()))
        };
        let scanned = scan::run(&reader, &wanted, common, output, begin, take).await?;
        if scanned.objects == 0 {
            output.note(&reader.why_nothing(&wanted).await);
        }
        let mut notes = sieve.notes();
        notes.extend(lacks_memory(&total, grouping.memory));
        let rest = total.rest.clone();
        let mut groups = total.sorted();
        if rest.records > 0 {
            groups.push((GroupKey { begin_ms: None, values: Vec::new() }, rest));
        }
        print(&titles, grouping.per, &groups, output)?;
        notes.iter().for_each(|note| output.note(note));
        let ((searched, matched), days) = (sieve.counts(), scanned.days);
        Ok((scanned.end()?, searched, matched, days))
    }
}

/// Notes on what did not fit into this many MiB.
fn lacks_memory(total: &Total, memory: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if total.rest.records > 0 {
        let records = counted(total.rest.records, "record");
        notes.push(format!(
            "not all groups fit into {memory} MiB: {records} of other groups are counted together; \
             see --memory"
        ));
    }
    if total.has_more_addresses() {
        notes.push(format!(
            "not all distinct addresses fit into {memory} MiB: numbers with a + are too small; \
             see --memory"
        ));
    }
    notes
}

/// A group as JSON.
struct Line<'a> {
    titles: &'a [String],
    per: Option<Per>,
    key: &'a GroupKey,
    group: &'a Group,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Line { titles, per, key, group } = self;
        let mut map = serializer.serialize_map(None)?;
        if let Some(per) = per {
            map.serialize_entry(title(*per), &key.begin_ms.map(|ms| period(*per, ms)))?;
        }
        // Groups that are counted together have no values.
        if key.values.is_empty() && !titles.is_empty() {
            map.serialize_entry("other_groups", &true)?;
        }
        for (title, value) in titles.iter().zip(&key.values) {
            let value: Option<&RawValue> =
                value.as_deref().and_then(|value| serde_json::from_str(value).ok());
            map.serialize_entry(title, &value)?;
        }
        map.serialize_entry("records", &group.records)?;
        map.serialize_entry("first", &group.times_ms.map(|(first, _)| shown(first)))?;
        map.serialize_entry("last", &group.times_ms.map(|(_, last)| shown(last)))?;
        map.serialize_entry("addresses", &group.addresses())?;
        if group.has_more_addresses {
            map.serialize_entry("more_addresses", &true)?;
        }
        map.end()
    }
}

fn title(per: Per) -> &'static str {
    match per {
        Per::Hour => "hour",
        Per::Day => "day",
    }
}

fn period(per: Per, begin_ms: i64) -> String {
    let text = shown(begin_ms);
    // Years before 0 and after 9999 have more characters. A time that is out of the calendar's
    // range is shown in milliseconds, and not shortened.
    let end = match per {
        Per::Hour => text.find(':'),
        Per::Day => text.find('T'),
    };
    text[..end.unwrap_or(text.len())].to_owned()
}

/// The maximum width of a value, in characters.
const MAX_WIDTH: usize = 48;

/// A JSON value in a cell of a table.
fn cell(value: Option<&str>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let text = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    let text = escape::text(&text).into_owned();
    match text.char_indices().nth(MAX_WIDTH) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn print(
    titles: &[String],
    per: Option<Per>,
    groups: &[(GroupKey, Group)],
    output: &Output,
) -> Result<(), Failure> {
    if output.is_json() {
        let mut lines = groups.iter().map(|(key, group)| Line { titles, per, key, group });
        return lines.try_for_each(|line| output.json(&line));
    }
    if groups.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<Vec<String>> = Vec::with_capacity(groups.len() + 1);
    let head = per.map(title).into_iter().chain(titles.iter().map(String::as_str));
    // Members' names keep their case.
    let mut head: Vec<String> = head
        .map(|text| if text.starts_with('/') { text.to_owned() } else { text.to_uppercase() })
        .collect();
    head.extend(["RECORDS", "FIRST", "LAST", "ADDRESSES"].map(ToOwned::to_owned));
    rows.push(head);
    for (key, group) in groups {
        let mut row: Vec<String> = Vec::new();
        if let Some(per) = per {
            row.push(key.begin_ms.map_or("-".to_owned(), |ms| period(per, ms)));
        }
        if key.values.is_empty() {
            row.extend(titles.iter().map(|_| "(others)".to_owned()));
        }
        row.extend(key.values.iter().map(|value| cell(value.as_deref())));
        row.push(Count(group.records).to_string());
        let (first, last) = group.times_ms.unzip();
        row.extend([first, last].map(|time| time.map_or("-".to_owned(), shown)));
        let more = if group.has_more_addresses { "+" } else { "" };
        row.push(format!("{}{more}", Count(group.addresses())));
        rows.push(row);
    }
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    for row in &rows {
        for (at, cell) in row.iter().enumerate() {
            let width = widths.entry(at).or_default();
            *width = (*width).max(cell.chars().count());
        }
    }
    let columns = widths.len();
    // Numbers are right-aligned: those of records and of addresses.
    let is_number = |at: usize| at + 4 == columns || at + 1 == columns;
    for (n, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, (at, width))| match is_number(*at) {
            true => format!("{cell:>width$}"),
            false => format!("{cell:width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        output.line(&if n == 0 { output.style().strong(line) } else { line.to_owned() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_named_whole_whatever_its_year() {
        for (ms, hour, day) in [
            (1_700_000_000_000, "2023-11-14T22", "2023-11-14"),
            (-1, "1969-12-31T23", "1969-12-31"),
            (-62_135_596_800_000, "0001-01-01T00", "0001-01-01"),
            (-70_000_000_000_000, "-0249-10-15T19", "-0249-10-15"),
            (253_402_300_800_000, "+10000-01-01T00", "+10000-01-01"),
            // Microseconds, taken for milliseconds.
            (1_700_000_000_000_000, "+55840-11-08T22", "+55840-11-08"),
            (i64::MAX, "9223372036854775807 ms", "9223372036854775807 ms"),
            (i64::MIN, "-9223372036854775808 ms", "-9223372036854775808 ms"),
        ] {
            assert_eq!((period(Per::Hour, ms), period(Per::Day, ms)), (hour.into(), day.into()));
        }
    }
}
