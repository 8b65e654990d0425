//! Collects what the page shows of a question from the records of a scan.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::value::RawValue;

use super::question::Question;
use crate::bucket::Listed;
use crate::escape;
use crate::export::found::Found;
use crate::object::Part;
use crate::query::{Members, respelled};
use crate::sieve::Sieve;

/// The maximum number of distinct values of a member that are counted separately. Further ones are
/// counted together.
const MAX_VALUES: usize = 5_000;
/// The number of values that the page shows.
const VALUES_SENT: usize = 50;
/// The maximum number of bins of a timeline, and of values that divide a bin.
const MAX_BINS: usize = 5_000;
const MAX_STACK: usize = 24;
/// The maximum length of a value in a cell, in characters.
const CELL_CHARS: usize = 160;
/// The maximum size of a value that is counted separately, in bytes.
const MAX_VALUE_BYTES: usize = 1_024;
/// A piece is passed on after this many records.
const PIECE_RECORDS: u64 = 4_096;
/// The number of records of each piece that are searched for columns.
pub(super) const LOOKED_AT: u64 = 16;

/// A record in the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    stream: String,
    sequence: u64,
    object: String,
    time: i64,
    /// Whether the time is only that of the object's hour.
    about: bool,
    cells: Vec<Option<String>>,
}

/// The number of occurrences of each value. Values that do not fit are counted together.
#[derive(Debug, Default, Clone)]
struct Values {
    counts: HashMap<Box<str>, u64>,
    rest: u64,
}

impl Values {
    fn add(&mut self, value: &str, count: u64, max: usize) {
        if let Some(known) = self.counts.get_mut(value) {
            *known += count;
        } else if self.counts.len() < max && value.len() <= MAX_VALUE_BYTES {
            self.counts.insert(value.into(), count);
        } else {
            self.rest += count;
        }
    }

    fn merge(&mut self, other: Values, max: usize) {
        other.counts.iter().for_each(|(value, count)| self.add(value, *count, max));
        self.rest += other.rest;
    }
}

/// The result of a number of records.
#[derive(Debug, Default)]
pub(super) struct Piece {
    records: u64,
    rows: VecDeque<Row>,
    bins: BTreeMap<i64, Values>,
    facets: Vec<Values>,
    found: Found,
    /// Whether the piece is kept until its object ends, because the object's last records come
    /// first.
    is_kept: bool,
}

impl Part for Piece {
    fn is_empty(&self) -> bool {
        self.records == 0
    }

    fn is_full(&self) -> bool {
        !self.is_kept && (self.records >= PIECE_RECORDS || self.rows.len() >= 256)
    }
}

/// A question, prepared for evaluation on records.
pub(super) struct Plan {
    pub(super) question: Question,
    pub(super) sieve: Sieve,
    members: Members,
    counts: bool,
    has_rows: AtomicBool,
}

impl Plan {
    pub(super) fn new(question: Question, counts: bool) -> Plan {
        let pointers = question.columns.iter().chain(&question.facets);
        let pointers = pointers.chain(&question.stack);
        Plan {
            sieve: question.sieve(),
            members: Members::new(pointers),
            counts,
            has_rows: AtomicBool::new(false),
            question,
        }
    }

    pub(super) fn take(&self, object: &Listed, sequence: u64, line: &[u8], piece: &mut Piece) {
        let Question { columns, facets, newest_first, rows, .. } = &self.question;
        if !self.question.is_record_ahead(&object.key, sequence) {
            return;
        }
        let Some((time_ms, is_own)) = self.question.when(object.key.hour_ms(), line) else {
            return;
        };
        if !self.sieve.selects(line) {
            return;
        }
        piece.is_kept = *newest_first;
        piece.records += 1;
        if self.counts && piece.records <= LOOKED_AT {
            piece.found.add(line);
        }
        let found = self.members.find(line);
        let (cells, found) = found.split_at(columns.len());
        let (of_facets, of_stack) = found.split_at(facets.len());
        if self.counts {
            piece.facets.resize_with(facets.len(), Values::default);
            for (values, value) in piece.facets.iter_mut().zip(of_facets) {
                values.add(&value.map_or(Cow::Borrowed(""), respelled), 1, MAX_VALUES);
            }
            let bin = self.question.bin_of(time_ms, object.key.hour_ms());
            // A record may claim any time, so only the first bins are kept.
            if piece.bins.len() < MAX_BINS || piece.bins.contains_key(&bin) {
                let value = of_stack.first().copied().flatten();
                let value = value.map_or(Cow::Borrowed(""), respelled);
                piece.bins.entry(bin).or_default().add(&value, 1, MAX_STACK);
            }
        }
        let is_wanted = *newest_first || piece.rows.len() < *rows;
        if *rows > 0 && is_wanted && !self.has_rows.load(Ordering::Relaxed) {
            if piece.rows.len() == *rows {
                piece.rows.pop_front();
            }
            piece.rows.push_back(Row {
                stream: object.key.stream().to_string(),
                sequence,
                object: object.key.to_string(),
                time: time_ms,
                about: !is_own,
                cells: cells.iter().map(|value| value.map(cell)).collect(),
            });
        }
    }
}

/// A value for a cell of the table: a text without its quotes, anything else as JSON.
fn cell(value: &RawValue) -> String {
    let text = value.get();
    // Escapes make a text at most six times longer.
    let is_cut = text.len() > 6 * CELL_CHARS;
    let text = match serde_json::from_str::<String>(text) {
        Ok(text) => text,
        Err(_) => text.to_owned(),
    };
    short(&text, is_cut || text.len() > CELL_CHARS)
}

fn short(text: &str, may_be_long: bool) -> String {
    match text.char_indices().nth(CELL_CHARS).filter(|_| may_be_long) {
        Some((at, _)) => format!("{}…", escape::text(&text[..at])),
        None => escape::text(text).into_owned(),
    }
}

/// The total of all pieces.
#[derive(Default)]
pub(super) struct Total {
    rows: usize,
    bins: BTreeMap<i64, Values>,
    facets: Vec<Values>,
    found: Found,
    pub(super) objects: u64,
    pub(super) damaged: u64,
}

impl Total {
    /// Adds a piece. Returns its rows in order.
    pub(super) fn add(&mut self, piece: Piece, plan: &Plan) -> Vec<Row> {
        let Piece { rows, bins, facets, found, .. } = piece;
        self.facets.resize_with(plan.question.facets.len(), Values::default);
        for (all, values) in self.facets.iter_mut().zip(facets) {
            all.merge(values, MAX_VALUES);
        }
        for (bin, values) in bins {
            if self.bins.len() < MAX_BINS || self.bins.contains_key(&bin) {
                self.bins.entry(bin).or_default().merge(values, MAX_STACK);
            }
        }
        self.found.merge(found);
        let left = plan.question.rows.saturating_sub(self.rows);
        let rows: Vec<Row> = match plan.question.newest_first {
            true => rows.into_iter().rev().take(left).collect(),
            false => rows.into_iter().take(left).collect(),
        };
        self.rows += rows.len();
        if self.rows >= plan.question.rows {
            plan.has_rows.store(true, Ordering::Relaxed);
        }
        rows
    }

    pub(super) fn shown(&self, plan: &Plan) -> serde_json::Value {
        let facets = self.facets.iter().zip(&plan.question.facets).map(|(values, pointer)| {
            let mut counts: Vec<_> = values.counts.iter().collect();
            counts.sort_by(|(one, a), (other, b)| b.cmp(a).then(one.cmp(other)));
            let distinct = counts.len();
            let sent = counts.into_iter().take(VALUES_SENT);
            let sent: Vec<_> = sent.map(|(value, count)| valued(value, *count)).collect();
            serde_json::json!({
                "member": pointer.to_string(),
                "values": sent,
                "distinct": distinct,
                "rest": values.rest,
            })
        });
        let bins = self.bins.iter().map(|(begin, values)| {
            let of: Vec<_> =
                values.counts.iter().map(|(value, count)| valued(value, *count)).collect();
            let end = plan.question.end_of_bin(*begin);
            serde_json::json!({ "begin": begin, "end": end, "values": of, "rest": values.rest })
        });
        let (searched, matched) = plan.sieve.counts();
        serde_json::json!({
            "kind": "counts",
            "searched": searched,
            "matched": matched,
            "objects": self.objects,
            "facets": facets.collect::<Vec<_>>(),
            "bins": bins.collect::<Vec<_>>(),
            "members": self.found.texts(),
        })
    }
}

/// A value as displayed, and as JSON for a condition; neither if it is missing.
fn valued(value: &str, count: u64) -> serde_json::Value {
    let raw: Option<&RawValue> = serde_json::from_str(value).ok();
    serde_json::json!({ "shown": raw.map(cell), "json": raw.map(RawValue::get), "count": count })
}
