//! Checks what a Parquet file says about itself.
//!
//! Query engines count rows, skip row groups and find columns by what the footer and the headers of
//! pages say, without a look at the values. The `parquet` crate ignores most of these statements,
//! so they are compared here with the pages. What `audit compact` does not write is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::thrift::{BINARY, FALSE, I16, I32, I64, LIST, Reader, STRUCT, TRUE, Wrong};

/// Checks the footer and the headers of all pages. The schema is checked elsewhere.
pub(super) fn check(file: &[u8]) -> Result<(), Wrong> {
    let broken = || "its footer cannot be read".to_owned();
    let before_tail = file.len().checked_sub(8).ok_or_else(broken)?;
    let length: [u8; 4] = file[before_tail..].first_chunk().copied().ok_or_else(broken)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| broken())?;
    let begin = before_tail.checked_sub(length).ok_or_else(broken)?;
    if !file.starts_with(b"PAR1") {
        return Err("it does not begin as a Parquet file".to_owned());
    }
    let mut walk = Walk { file, rows: 0, groups: 0, end: 4, leaves: Vec::new() };
    walk.footer(&mut Reader { bytes: &file[..before_tail], at: begin })
}

fn unknown<T>(what: &str, field: i64) -> Result<T, Wrong> {
    Err(format!("its {what} has the field {field}, which audit compact does not write"))
}

/// A column of a row group, as the footer describes it.
#[derive(Default)]
struct Column<'f> {
    numbers: BTreeMap<i64, i64>,
    path: Vec<&'f [u8]>,
    encodings: BTreeSet<i64>,
    /// The number of pages by their type and encoding.
    pages: BTreeMap<(i64, i64), i64>,
}

impl Column<'_> {
    fn number(&self, field: i64) -> Option<i64> {
        self.numbers.get(&field).copied()
    }
}

struct Walk<'f> {
    file: &'f [u8],
    /// The rows and the row groups so far.
    rows: i64,
    groups: i64,
    /// The end of the last column.
    end: usize,
    /// The name and the type of each column of the schema.
    leaves: Vec<(&'f [u8], i64)>,
}

impl<'f> Walk<'f> {
    fn footer(&mut self, reader: &mut Reader<'f>) -> Result<(), Wrong> {
        let mut rows = None;
        reader.fields(|reader, (field, kind)| match (field, kind) {
            (1, I32) => match reader.number()? {
                1 => Ok(()),
                version => Err(format!("it has the version {version} instead of 1")),
            },
            (2, LIST) => reader.structs(|reader| self.element(reader)),
            (3, I64) => reader.number().map(|said| rows = Some(said)),
            (4, LIST) => reader.structs(|reader| self.group(reader)),
            // Names and values of metadata, which `Said` in `check.rs` reads.
            (5, LIST) => reader.structs(|reader| {
                reader.fields(|reader, (field, kind)| match (field, kind) {
                    (1 | 2, BINARY) => reader.binary().map(drop),
                    (field, _) => unknown("metadata", field),
                })
            }),
            // Query engines interpret or ignore bounds depending on the name of the writer.
            (6, BINARY) => match reader.binary()?.starts_with(b"audit ") {
                true => Ok(()),
                false => Err("it names another writer than audit compact".to_owned()),
            },
            // How values were compared to find the bounds. Only the usual order of each type is
            // accepted.
            (7, LIST) => reader.structs(|reader| {
                reader.fields(|reader, (order, kind)| match (order, kind) {
                    (1, STRUCT) => reader.fields(|_, (field, _)| unknown("order of values", field)),
                    (order, _) => unknown("order of values", order),
                })
            }),
            (field, _) => unknown("footer", field),
        })?;
        match rows == Some(self.rows) {
            true => Ok(()),
            false => Err("its number of rows is not that of its row groups".to_owned()),
        }
    }

    /// An element of the schema. The first, which has no type, is the whole row.
    fn element(&mut self, reader: &mut Reader<'f>) -> Result<(), Wrong> {
        let (mut name, mut physical) = (None, None);
        reader.fields(|reader, (field, kind)| match (field, kind) {
            (1, I32) => reader.number().map(|found| physical = Some(found)),
            (4, BINARY) => reader.binary().map(|found| name = Some(found)),
            (3 | 5 | 6, I32) | (10, STRUCT) => reader.skip(kind, 0),
            (field, _) => unknown("schema", field),
        })?;
        self.leaves.extend(name.zip(physical));
        Ok(())
    }

    fn group(&mut self, reader: &mut Reader<'f>) -> Result<(), Wrong> {
        let (mut columns, mut said) = (Vec::new(), BTreeMap::new());
        reader.fields(|reader, (field, kind)| match (field, kind) {
            (1, LIST) => reader.structs(|reader| {
                columns.push(self.chunk(reader)?);
                Ok(())
            }),
            (2 | 3 | 5 | 6, I64) | (7, I16) => reader.number_into(&mut said, field),
            (field, _) => unknown("row group", field),
        })?;
        if columns.len() != self.leaves.len() {
            return Err("a row group has other columns than the schema".to_owned());
        }
        let rows = said.get(&3).copied().unwrap_or(-1);
        let (mut bytes, mut uncompressed, mut begin) = (0i64, 0i64, None);
        for (at, column) in columns.iter().enumerate() {
            let (name, physical) = self.leaves[at];
            let shown = String::from_utf8_lossy(name);
            if column.path != [name] || column.number(1) != Some(physical) {
                return Err(format!("the column {shown} is said to be another one"));
            }
            if column.number(5) != Some(rows) {
                return Err(format!(
                    "the column {shown} has another number of values than of rows"
                ));
            }
            let start = self.pages(column, rows).map_err(|what| format!("{shown}: {what}"))?;
            begin.get_or_insert(start);
            uncompressed = uncompressed.saturating_add(column.number(6).unwrap_or(-1));
            bytes = bytes.saturating_add(column.number(7).unwrap_or(-1));
        }
        let is = |field, number| said.get(&field).is_none_or(|said| *said == number);
        let offset = begin.and_then(|begin| i64::try_from(begin).ok()).unwrap_or(-1);
        if !(is(2, uncompressed) && is(5, offset) && is(6, bytes) && is(7, self.groups)) {
            return Err("a row group is said to be elsewhere, or of another size".to_owned());
        }
        self.rows = self.rows.saturating_add(rows);
        self.groups += 1;
        Ok(())
    }

    fn chunk(&mut self, reader: &mut Reader<'f>) -> Result<Column<'f>, Wrong> {
        let mut column = None;
        reader.fields(|reader, (field, kind)| match (field, kind) {
            // The offset of a second copy of the description. `audit compact` writes none.
            (2, I64) => match reader.number()? {
                0 => Ok(()),
                _ => unknown("column", 2),
            },
            (3, STRUCT) => description(reader).map(|found| column = Some(found)),
            (field, _) => unknown("column", field),
        })?;
        column.ok_or_else(|| "a column is not described".to_owned())
    }

    /// Compares a column's description with its pages. Returns the offset of the first page.
    fn pages(&mut self, column: &Column<'_>, rows: i64) -> Result<usize, Wrong> {
        let place = |field| column.number(field).map(usize::try_from);
        let (data, dictionary) = (place(9), place(11));
        let Some(Ok(start)) = dictionary.or(data) else { return Err("it begins nowhere".into()) };
        let end = place(7).and_then(Result::ok).and_then(|bytes| start.checked_add(bytes));
        // Columns follow each other, so that no page is read twice.
        let Some(end) = end.filter(|end| start >= self.end && *end <= self.file.len()) else {
            return Err("it is not where it is said to be".to_owned());
        };
        self.end = end;
        let mut found = Column::default();
        let (mut values, mut uncompressed, mut first_data) = (0i64, 0i64, None);
        let mut reader = Reader { bytes: &self.file[..end], at: start };
        while reader.at < end {
            let at = reader.at;
            let Page { kind, encoding, values: of_page, bytes, compressed } = page(&mut reader)?;
            if (kind == DICTIONARY) != (at == start && dictionary.is_some()) {
                return Err("its dictionary is not where it is said to be".to_owned());
            }
            if kind == DATA {
                first_data.get_or_insert(at);
                values = values.saturating_add(of_page);
            }
            found.encodings.extend([encoding, LEVELS]);
            *found.pages.entry((kind, encoding)).or_default() += 1;
            let header = i64::try_from(reader.at - at).unwrap_or(i64::MAX);
            uncompressed = uncompressed.saturating_add(header).saturating_add(bytes);
            let next = reader.at.checked_add(compressed).filter(|next| *next <= end);
            reader.at = next.ok_or("a page is not in it")?;
        }
        if values != rows || first_data != data.and_then(Result::ok) {
            return Err("its pages are not those that it is said to have".to_owned());
        }
        let has_other_sizes = column.number(6) != Some(uncompressed);
        if has_other_sizes || found.encodings != column.encodings || found.pages != column.pages {
            return Err("its pages are encoded otherwise than it is said".to_owned());
        }
        Ok(start)
    }
}

/// The description of a column.
fn description<'f>(reader: &mut Reader<'f>) -> Result<Column<'f>, Wrong> {
    let mut column = Column::default();
    reader.fields(|reader, (field, kind)| match (field, kind) {
        (1 | 4, I32) | (5 | 6 | 7 | 9 | 11, I64) => reader.number_into(&mut column.numbers, field),
        (2, LIST) => match reader.list()? {
            (I32, len) => (0..len).try_for_each(|_| {
                column.encodings.insert(reader.number()?);
                Ok(())
            }),
            _ => reader.broken(),
        },
        (3, LIST) => match reader.list()? {
            (BINARY, len) => (0..len).try_for_each(|_| {
                column.path.push(reader.binary()?);
                Ok(())
            }),
            _ => reader.broken(),
        },
        (12, STRUCT) => statistics(reader),
        (13, LIST) => reader.structs(|reader| {
            let stats = reader.numbers()?;
            if !stats.keys().copied().eq(1..=3) {
                return reader.broken();
            }
            let number = |field| stats.get(&field).copied().unwrap_or(-1);
            let key = (number(1), number(2));
            match column.pages.insert(key, number(3)) {
                None => Ok(()),
                Some(_) => reader.broken(),
            }
        }),
        // The sizes of the values, which `bounds.rs` compares with the values.
        (16, STRUCT) => reader.fields(|reader, (field, kind)| match (field, kind) {
            (1, I64) | (3, LIST) => reader.skip(kind, 0),
            (field, _) => unknown("size statistics", field),
        }),
        (field, _) => unknown("column", field),
    })?;
    Ok(column)
}

/// Checks that the deprecated bounds of a column (fields 1 and 2) equal the current ones (fields 5
/// and 6), which `bounds.rs` compares with the values.
fn statistics(reader: &mut Reader<'_>) -> Result<(), Wrong> {
    let mut bounds = BTreeMap::new();
    reader.fields(|reader, (field, kind)| match (field, kind) {
        (1 | 2 | 5 | 6, BINARY) => {
            bounds.insert(field, reader.binary()?);
            Ok(())
        }
        (3, I64) | (7 | 8, TRUE | FALSE) => reader.skip(kind, 0),
        (field, _) => unknown("bounds of a column", field),
    })?;
    let is_same = |old, new| bounds.get(&old).is_none_or(|old| bounds.get(&new) == Some(old));
    match is_same(1, 5) && is_same(2, 6) {
        true => Ok(()),
        false => Err("a column has two different bounds".to_owned()),
    }
}

/// The types of pages.
const DATA: i64 = 0;
const DICTIONARY: i64 = 2;

/// The encoding of levels.
const LEVELS: i64 = 3;

/// The header of a page.
struct Page {
    kind: i64,
    encoding: i64,
    values: i64,
    bytes: i64,
    compressed: usize,
}

fn page(reader: &mut Reader<'_>) -> Result<Page, Wrong> {
    let (mut numbers, mut header) = (BTreeMap::new(), None);
    reader.fields(|reader, (field, kind)| match (field, kind) {
        (1..=3, I32) => reader.number_into(&mut numbers, field),
        // The headers of data and dictionary pages. They hold only numbers: `audit compact` writes
        // no bounds of pages, here or elsewhere.
        (5 | 7, STRUCT) => reader.numbers().map(|found| header = Some((field, found))),
        (field, _) => unknown("page", field),
    })?;
    let number = |field| numbers.get(&field).copied().filter(|number| *number >= 0);
    let of_kind = number(1).zip(header).and_then(|(kind, (field, header))| {
        let fields: Vec<i64> = header.keys().copied().collect();
        let is_written = match (kind, field) {
            (DATA, 5) => fields == [1, 2, 3, 4] && header[&3] == LEVELS && header[&4] == LEVELS,
            (DICTIONARY, 7) => fields == [1, 2, 3] && header[&3] == 0,
            _ => false,
        };
        is_written.then_some((kind, header))
    });
    let sizes = number(2).zip(number(3).and_then(|bytes| usize::try_from(bytes).ok()));
    let (Some((kind, header)), Some((bytes, compressed))) = (of_kind, sizes) else {
        return Err("a page has a header that audit compact does not write".to_owned());
    };
    let values = header[&1];
    if values < 0 {
        return reader.broken();
    }
    Ok(Page { kind, encoding: header[&2], values, bytes, compressed })
}
