//! The columns of a Parquet file: which members of records have one, and of which type.
//!
//! A column's name and type never change from file to file: query engines read many files as one
//! table, and a column that changed would hide records from a query. So each file has the columns
//! of the file before it, followed by new ones. A row names the members that fit no column in
//! `audit_rest`; their values are in `audit_record`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::arguments::ACTORS;
use crate::query::{Object, Pointer, escaped};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Text,
    /// A 64-bit integer in its usual spelling: neither 7.0 nor 7e0.
    Integer,
    Boolean,
    /// Any value, as JSON.
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// A JSON pointer.
    pub(crate) member: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    Text(Cow<'a, str>),
    Integer(i64),
    Boolean(bool),
}

/// The maximum number of columns of members, since users may choose the names of members.
const MAX_COLUMNS: usize = 128;

/// A member has a column if at least one of this many records has it.
const COMMON_ONE_OF: u64 = 100;

/// A column has the kind of most values, unless more than one of this many values has another kind.
/// A single unusual body must not change a column.
const STRANGE_ONE_OF: u64 = 10;

const MAX_NAME_BYTES: usize = 64;
const MAX_DEPTH: usize = 6;

/// The maximum number of distinct members that are counted, which bounds memory.
const MAX_MEMBERS: usize = 4_096;

/// The maximum number of distinct values of a member that are counted, which bounds memory.
const MAX_VALUES: usize = 1_024;

/// The names of columns that query engines add to a table.
const TAKEN: [&str; 5] = ["dt", "hour", "filename", "file_row_number", "file_index"];

/// The names of our own columns.
const OURS: [&str; 7] = [
    "audit_stream",
    "audit_sequence",
    "audit_object",
    "audit_time",
    "audit_record",
    "audit_evidence",
    "audit_rest",
];

/// The name of a member's column: the parts of its path, joined by underscores. `None` if that is
/// not a plain name in SQL.
pub(crate) fn name_of(member: &str) -> Option<String> {
    let parts = member.strip_prefix('/')?.split('/');
    let parts: Option<Vec<&str>> = parts
        .map(|part| {
            let part = part.strip_prefix('$').unwrap_or(part);
            let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let begins = part.starts_with(|first: char| first.is_ascii_alphabetic());
            (plain && begins).then_some(part)
        })
        .collect();
    let name = parts?.join("_");
    let lower = name.to_ascii_lowercase();
    let is_free = !TAKEN.contains(&lower.as_str()) && !OURS.contains(&lower.as_str());
    (is_free && name.len() <= MAX_NAME_BYTES).then_some(name)
}

impl Kind {
    /// The kind of a value that is not null.
    fn of(value: &str) -> Kind {
        match value.as_bytes().first() {
            Some(b'"') if text(value).is_some() => Kind::Text,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'-' | b'0'..=b'9') if integer(value).is_some() => Kind::Integer,
            _ => Kind::Json,
        }
    }

    /// The value as a cell of this kind. `None` if it is of another kind.
    fn cell(self, value: &str) -> Option<Cell<'_>> {
        match self {
            Kind::Text => text(value).map(Cell::Text),
            Kind::Integer => integer(value).map(Cell::Integer),
            Kind::Boolean => value.parse().ok().map(Cell::Boolean),
            Kind::Json => Some(Cell::Text(Cow::Borrowed(value))),
        }
    }
}

fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(value).ok().map(Cow::Owned)
}

/// An integer in its shortest spelling: any other could not be restored from the number.
fn integer(value: &str) -> Option<i64> {
    let number: i64 = value.parse().ok()?;
    let digits = value.strip_prefix('-').unwrap_or(value);
    let is_shortest = if digits.starts_with('0') { value == "0" } else { !value.starts_with('+') };
    is_shortest.then_some(number)
}

/// Calls `take` with each member that is not a non-empty object, and its value.
fn leaves<'a>(line: &'a [u8], mut take: impl FnMut(&str, &'a str)) {
    fn walk<'a>(
        above: &mut String,
        value: &'a str,
        depth: usize,
        take: &mut impl FnMut(&str, &'a str),
    ) {
        let is_object = value.starts_with('{') && depth < MAX_DEPTH;
        let members = is_object.then(|| serde_json::from_str::<Object<'_>>(value).ok()).flatten();
        match members {
            Some(Object(members)) if !members.is_empty() || depth == 0 => {
                let len = above.len();
                for (name, value) in members {
                    above.push('/');
                    above.push_str(&escaped(&name));
                    walk(above, value.get(), depth + 1, take);
                    above.truncate(len);
                }
            }
            Some(_) | None => take(above, value),
        }
    }
    if let Ok(line) = std::str::from_utf8(line) {
        walk(&mut String::new(), line.trim_ascii(), 0, &mut take);
    }
}

/// The values of a member so far.
#[derive(Default)]
struct Member {
    /// The number of members that were found before it.
    place: usize,
    kinds: HashMap<Kind, u64>,
    /// Hashes of its values, up to [`MAX_VALUES`].
    values: HashSet<u64>,
}

impl Member {
    fn add(&mut self, value: &str) {
        *self.kinds.entry(Kind::of(value)).or_default() += 1;
        if self.values.len() < MAX_VALUES {
            let mut hash = DefaultHasher::new();
            value.hash(&mut hash);
            self.values.insert(hash.finish());
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Columns {
    all: Vec<Column>,
    by_member: HashMap<String, usize>,
    /// In lower case, since query engines do not distinguish `user` from `User`.
    names: HashSet<String>,
}

impl Columns {
    /// The columns of an earlier file. `None` if `audit compact` cannot have written them.
    pub(crate) fn from_parts(parts: Vec<Column>) -> Option<Columns> {
        let mut columns = Columns::default();
        for column in parts {
            if name_of(&column.member).as_ref() != Some(&column.name) || !columns.add(column) {
                return None;
            }
        }
        Some(columns)
    }

    pub(crate) fn all(&self) -> &[Column] {
        &self.all
    }

    pub(crate) fn actor(&self) -> Option<Pointer> {
        let actor = ACTORS.iter().find(|actor| self.by_member.contains_key(**actor));
        actor.and_then(|actor| actor.parse().ok())
    }

    /// Adds a column, unless its member has one or its name is taken.
    fn add(&mut self, column: Column) -> bool {
        if self.by_member.contains_key(&column.member)
            || !self.names.insert(column.name.to_ascii_lowercase())
        {
            return false;
        }
        self.by_member.insert(column.member.clone(), self.all.len());
        self.all.push(column);
        true
    }

    /// Adds columns for the common members of these records or, if `wanted` is given, for its
    /// members.
    pub(crate) fn extend<'a>(
        &mut self,
        lines: impl Iterator<Item = &'a [u8]>,
        wanted: Option<&[Pointer]>,
    ) {
        let wanted: Option<HashSet<String>> =
            wanted.map(|wanted| wanted.iter().map(ToString::to_string).collect());
        let mut found: HashMap<String, Member> = HashMap::new();
        let mut records = 0;
        for line in lines {
            records += 1;
            leaves(line, |member, value| {
                if value == "null" || self.by_member.contains_key(member) {
                    return;
                }
                let next = found.len();
                if let Some(known) = found.get_mut(member) {
                    known.add(value);
                } else if next < MAX_MEMBERS && name_of(member).is_some() {
                    let mut new = Member { place: next, ..Member::default() };
                    new.add(value);
                    found.insert(member.to_owned(), new);
                }
            });
        }
        let counted = found.into_iter().map(|(member, Member { place, kinds, values })| {
            let count: u64 = kinds.values().sum();
            let (&kind, &most) =
                kinds.iter().max_by_key(|(_, count)| **count).expect("it was found once");
            let kind = if (count - most) * STRANGE_ONE_OF <= count { kind } else { Kind::Json };
            (count, (values.len(), place), member, kind)
        });
        let is_wanted = |member: &String, count: u64| match &wanted {
            Some(wanted) => wanted.contains(member),
            None => count * COMMON_ONE_OF >= records,
        };
        let mut counted: Vec<_> =
            counted.filter(|(count, _, member, _)| is_wanted(member, *count)).collect();
        // If two members would have the same name, the more frequent one gets it.
        counted.sort_by_key(|(count, place, ..)| (std::cmp::Reverse(*count), *place));
        let mut added: Vec<((usize, usize), Column)> = Vec::new();
        for (_, place, member, kind) in counted {
            let taken = |name: &str| {
                let lower = name.to_ascii_lowercase();
                self.names.contains(&lower)
                    || added.iter().any(|(_, other)| other.name.eq_ignore_ascii_case(name))
            };
            if self.all.len() + added.len() < MAX_COLUMNS
                && let Some(name) = name_of(&member).filter(|name| !taken(name))
            {
                added.push((place, Column { name, member, kind }));
            }
        }
        // Columns with few distinct values come first. They are small, and query engines read
        // neighbouring columns in one request, together with the bytes between them.
        added.sort_by_key(|(place, _)| *place);
        for (_, column) in added {
            self.add(column);
        }
    }

    /// The cells of a record, and the members without a cell as a JSON array. A null or missing
    /// member has no cell and is not listed.
    pub(crate) fn cells<'a>(&self, line: &'a [u8]) -> (Vec<Option<Cell<'a>>>, Option<String>) {
        let mut cells: Vec<Option<Cell<'a>>> = vec![None; self.all.len()];
        let mut rest: Vec<String> = Vec::new();
        let mut seen: Vec<bool> = vec![false; self.all.len()];
        leaves(line, |member, value| {
            let column = self.by_member.get(member).copied();
            // Readers disagree about which of two members with the same name counts.
            let is_again = column.is_some_and(|at| std::mem::replace(&mut seen[at], true));
            if value == "null" && !is_again {
                return;
            }
            let cell = column.and_then(|at| self.all[at].kind.cell(value));
            match (column, cell) {
                (Some(at), Some(cell)) if !is_again => cells[at] = Some(cell),
                (Some(at), _) if is_again => {
                    cells[at] = None;
                    rest.push(member.to_owned());
                }
                (_, _) => rest.push(member.to_owned()),
            }
        });
        let rest = (!rest.is_empty()).then(|| serde_json::json!(rest).to_string());
        (cells, rest)
    }
}

#[cfg(test)]
mod tests;
