//! Records of a row group, and their columns.

use std::collections::HashMap;

use audit_core::UniqueId;
use bytes::Bytes;
use parquet::data_type::ByteArray;

use super::columns::{Cell, Columns, Kind};
use crate::query::{Members, Pointer, Time};

/// The object that records are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its key below the prefix.
    pub(crate) key: String,
    pub(crate) stream: UniqueId,
    /// Its metadata as JSON.
    pub(crate) evidence: Option<String>,
}

/// Records with their places in the bucket.
#[derive(Debug, Default)]
pub(crate) struct Group {
    bytes: Vec<u8>,
    /// The object of each record, its number, and its end in `bytes`.
    rows: Vec<(usize, u64, usize)>,
    sources: Vec<Source>,
    by_key: HashMap<String, usize>,
    /// The object that was begun last.
    current: usize,
}

/// The times that query engines support: the years 1 to 9999, in milliseconds since 1970.
const TIMES_MS: std::ops::Range<i64> = -62_135_596_800_000..253_402_300_800_000;

/// The values of a column, and which rows have one.
#[derive(Debug, PartialEq)]
pub(crate) struct Values {
    pub(crate) data: Data,
    /// For each row, 1 if it has a value and 0 if not.
    pub(crate) levels: Vec<i16>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Data {
    Texts(Vec<ByteArray>),
    Integers(Vec<i64>),
    Booleans(Vec<bool>),
}

impl Values {
    fn new(data: Data) -> Values {
        Values { data, levels: Vec::new() }
    }

    fn text(&mut self, text: Option<Bytes>) {
        self.levels.push(i16::from(text.is_some()));
        if let (Data::Texts(values), Some(text)) = (&mut self.data, text) {
            values.push(ByteArray::from(text));
        }
    }

    fn integer(&mut self, integer: Option<i64>) {
        self.levels.push(i16::from(integer.is_some()));
        if let Data::Integers(values) = &mut self.data {
            values.extend(integer);
        }
    }

    fn cell(&mut self, cell: Option<Cell<'_>>, line: &Bytes) {
        match cell {
            Some(Cell::Integer(integer)) => self.integer(Some(integer)),
            Some(Cell::Boolean(boolean)) => {
                self.levels.push(1);
                if let Data::Booleans(values) = &mut self.data {
                    values.push(boolean);
                }
            }
            Some(Cell::Text(std::borrow::Cow::Borrowed(text))) => {
                self.text(Some(line.slice_ref(text.as_bytes())));
            }
            Some(Cell::Text(std::borrow::Cow::Owned(text))) => self.text(Some(text.into())),
            None => self.levels.push(0),
        }
    }
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn records(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Begins an object, whose records follow.
    pub(crate) fn begin(&mut self, key: String, stream: UniqueId, evidence: Option<String>) {
        if self.sources.get(self.current).is_some_and(|current| current.key == key) {
            return;
        }
        self.current = *self.by_key.entry(key.clone()).or_insert_with(|| {
            self.sources.push(Source { key, stream, evidence });
            self.sources.len() - 1
        });
    }

    /// Adds a record of the object that was begun last.
    pub(crate) fn add(&mut self, sequence: u64, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.rows.push((self.current, sequence, self.bytes.len()));
    }

    pub(crate) fn append(&mut self, other: Group) {
        let mut start = 0;
        for (source, sequence, end) in other.rows {
            let Source { key, stream, evidence } = other.sources[source].clone();
            self.begin(key, stream, evidence);
            self.add(sequence, &other.bytes[start..end]);
            start = end;
        }
    }

    /// Divides the records into groups of this size, sorted by the values of these members: each
    /// value is then in few row groups, and the columns of these members take few bytes.
    pub(crate) fn sorted_by(self, members: &[Pointer], records: usize) -> Vec<Group> {
        let found = Members::new(members);
        let starts = std::iter::once(0).chain(self.rows.iter().map(|(.., end)| *end));
        let mut order: Vec<(Vec<Option<String>>, usize, usize)> = starts
            .enumerate()
            .take(self.rows.len())
            .map(|(row, start)| {
                let values = found.find(&self.bytes[start..self.rows[row].2]);
                let values = values.into_iter().map(|value| Some(value?.get().to_owned()));
                (values.collect(), row, start)
            })
            .collect();
        order.sort();
        let groups = order.chunks(records.max(1)).map(|part| {
            let mut group = Group::default();
            for (_, row, start) in part {
                let (source, sequence, end) = self.rows[*row];
                let Source { key, stream, evidence } = self.sources[source].clone();
                group.begin(key, stream, evidence);
                group.add(sequence, &self.bytes[*start..end]);
            }
            group
        });
        groups.collect()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.rows.iter().map(|(.., end)| *end));
        starts.zip(&self.rows).map(|(start, (.., end))| &self.bytes[start..*end])
    }

    /// The columns in the order of the schema. `None` if a number is too large for its column.
    pub(crate) fn into_values(self, columns: &Columns, time: &[Pointer]) -> Option<Vec<Values>> {
        let Group { bytes, rows, sources, .. } = self;
        let bytes = Bytes::from(bytes);
        let texts = || Values::new(Data::Texts(Vec::new()));
        let integers = || Values::new(Data::Integers(Vec::new()));
        let keys: Vec<[Option<Bytes>; 3]> = sources
            .into_iter()
            .map(|Source { key, stream, evidence }| {
                [Some(stream.to_string().into()), Some(key.into()), evidence.map(Bytes::from)]
            })
            .collect();
        let (mut stream, mut sequence, mut object) = (texts(), integers(), texts());
        let (mut when, mut record, mut evidence, mut rest) =
            (integers(), texts(), texts(), texts());
        let mut members: Vec<Values> = columns
            .all()
            .iter()
            .map(|column| match column.kind {
                Kind::Text | Kind::Json => texts(),
                Kind::Integer => integers(),
                Kind::Boolean => Values::new(Data::Booleans(Vec::new())),
            })
            .collect();
        let mut start = 0;
        for (source, number, end) in rows {
            let line = bytes.slice(start..end);
            start = end;
            let [of_stream, of_object, of_evidence] = keys[source].clone();
            stream.text(of_stream);
            sequence.integer(Some(i64::try_from(number).ok()?));
            object.text(of_object);
            let found = time.iter().find_map(|pointer| match pointer.find_time(&line) {
                Time::Ms(ms) => Some(ms),
                Time::Missing | Time::Unreadable => None,
            });
            when.integer(found.filter(|ms| TIMES_MS.contains(ms)));
            let (cells, left) = columns.cells(&line);
            for (values, cell) in members.iter_mut().zip(cells) {
                values.cell(cell, &line);
            }
            record.text(Some(line));
            evidence.text(of_evidence);
            rest.text(left.map(Bytes::from));
        }
        let mut all = vec![stream, sequence, when];
        all.extend(members);
        all.extend([rest, object, evidence, record]);
        Some(all)
    }
}
