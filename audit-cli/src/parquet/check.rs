//! Checks a Parquet file: its records must be those that hosts signed, its columns those of its
//! records, and nothing that a query engine reads from the file may say otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use audit_core::UniqueId;
use audit_evidence::{Fault, HeadError, ObjectHead, TrustedKey};
use audit_sink_s3::layout::{ObjectKey, Partition};
use bytes::Bytes;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use sha2::{Digest, Sha256};

use super::bounds::check_bounds;
use super::columns::{Column, Columns};
use super::file::{FILE_BYTES, FORMAT, Places, is_sealed, schema};
use super::footer;
use super::group::{Data, Group, Source, Values};
use super::source::MAX_OBJECT_BYTES;
use crate::query::Pointer;

/// A file's description of itself.
pub(crate) struct Said {
    pub(crate) columns: Columns,
    time: Vec<Pointer>,
    objects: u64,
    records: u64,
}

impl Said {
    /// Reads the description. `None` if the file was not written by `audit compact`.
    pub(crate) fn read(metadata: &ParquetMetaData) -> Option<Said> {
        let entries = metadata.file_metadata().key_value_metadata()?;
        let mut values: BTreeMap<&str, &str> = BTreeMap::new();
        for entry in entries {
            values.insert(&entry.key, entry.value.as_deref()?);
        }
        let get = |name: &str| values.get(name).copied();
        let is_ours = entries.len() == 6 && values.len() == 6 && get("audit.format")? == FORMAT;
        let columns: Vec<Column> = serde_json::from_str(get("audit.columns")?).ok()?;
        let time: Vec<String> = serde_json::from_str(get("audit.time")?).ok()?;
        let time: Option<Vec<Pointer>> = time.iter().map(|text| text.parse().ok()).collect();
        get("audit.sha256")?;
        is_ours.then_some(Said {
            columns: Columns::from_parts(columns)?,
            time: time?,
            objects: get("audit.objects")?.parse().ok()?,
            records: get("audit.records")?.parse().ok()?,
        })
    }
}

/// A problem of a file.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// The stream of the records, if they are of a single one.
    pub(crate) stream: String,
    pub(crate) records: Option<Range<u64>>,
    /// The object that the file names as the source of the records, and the SHA-256 of their lines.
    pub(crate) object: Option<(ObjectKey, [u8; 32])>,
    pub(crate) fault: Fault,
}

#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// The keys of the objects whose records the file holds.
    pub(crate) objects: Vec<String>,
    pub(crate) records: u64,
    pub(crate) wrong: Vec<Wrong>,
}

impl Checked {
    fn add(&mut self, stream: &str, records: Option<Range<u64>>, fault: Fault) {
        self.wrong.push(Wrong { stream: stream.to_owned(), records, object: None, fault });
    }
}

/// An object whose records are being read, in any order.
struct Current {
    source: Source,
    first: u64,
    lines: BTreeMap<u64, ByteArray>,
}

impl Current {
    /// The number of records that its metadata states.
    fn count(&self) -> Option<u64> {
        let members: BTreeMap<&str, &str> =
            serde_json::from_str(self.source.evidence.as_deref()?).ok()?;
        members.get("count")?.parse().ok()
    }
}

/// Checks the file of a day, such as 2026-11-23.
pub(crate) fn check(file: &Bytes, day: &str, keys: &[TrustedKey]) -> Checked {
    let mut checked = Checked::default();
    if let Err(error) = look(file, day, keys, &mut checked) {
        let damaged = Fault::Compacted(error.to_string());
        checked.add("", None, damaged);
    }
    checked
}

fn other(what: impl Into<String>) -> ParquetError {
    ParquetError::General(what.into())
}

fn look(
    file: &Bytes,
    day: &str,
    keys: &[TrustedKey],
    checked: &mut Checked,
) -> Result<(), ParquetError> {
    // The digest is checked before anything is parsed.
    if !is_sealed(file) {
        return Err(other("its bytes are not those that were written"));
    }
    let reader = SerializedFileReader::new(file.clone())?;
    let metadata = reader.metadata();
    let said = Said::read(metadata).ok_or_else(|| other("it is not a file of audit compact"))?;
    if *metadata.file_metadata().schema() != *schema(&said.columns)? {
        return Err(other("its columns are not those that it says"));
    }
    footer::check(file).map_err(other)?;
    let mut unfinished = Unfinished::default();
    for (at, rows) in row_counts(metadata)?.into_iter().enumerate() {
        let columns = read_columns(&*reader.get_row_group(at)?, rows)?;
        let mut again = Group::default();
        for row in rows_of(&columns, &Places::new(&said.columns))? {
            let Row { key, evidence, sequence, line } = row?;
            let (stream, object) = unfinished.add(&key, day, &evidence, sequence, &line)?;
            again.begin(key, stream, evidence);
            again.add(sequence, line.data());
            if let Some(object) = object {
                finish(object, keys, checked);
            }
        }
        checked.records += rows as u64;
        if again.into_values(&said.columns, &said.time).as_ref() != Some(&columns) {
            return Err(other("a column is not what its records say"));
        }
    }
    for (object, _) in unfinished.objects.into_values() {
        finish(object, keys, checked);
    }
    let counts = (checked.objects.len() as u64, checked.records);
    if counts != (said.objects, said.records) {
        return Err(other("it has other records than it says"));
    }
    Ok(())
}

/// Returns all columns of a row group with this number of rows.
fn read_columns(group: &dyn RowGroupReader, rows: usize) -> Result<Vec<Values>, ParquetError> {
    let metadata = group.metadata();
    if metadata.sorting_columns().is_some() {
        return Err(other("it says that it is sorted"));
    }
    let mut columns = Vec::new();
    for column in 0..metadata.num_columns() {
        let values = values(group.get_column_reader(column)?, rows)?;
        check_bounds(metadata.column(column), &values)?;
        columns.push(values);
    }
    Ok(columns)
}

/// A record, and the object that it is of.
struct Row {
    key: String,
    evidence: Option<String>,
    sequence: u64,
    line: ByteArray,
}

fn rows_of<'a>(
    columns: &'a [Values],
    places: &Places,
) -> Result<impl Iterator<Item = Result<Row, ParquetError>> + use<'a>, ParquetError> {
    let texts = |at: usize| match columns.get(at) {
        Some(Values { data: Data::Texts(texts), levels }) => Ok((texts, levels)),
        Some(_) | None => Err(other("its columns are not those that it says")),
    };
    let Some(Values { data: Data::Integers(sequences), .. }) = columns.get(places.sequence) else {
        return Err(other("it has no numbers of records"));
    };
    let ((objects, _), (lines, _)) = (texts(places.object)?, texts(places.record)?);
    let (evidences, has_evidence) = texts(places.evidence)?;
    // A repeated text is stored once in the file, so a small file could expand to much memory.
    let longest = |texts: &[ByteArray]| texts.iter().map(ByteArray::len).max().unwrap_or(0);
    let lines_bytes: usize = lines.iter().map(ByteArray::len).sum();
    if lines_bytes > MAX_OBJECT_BYTES || longest(objects).max(longest(evidences)) > MAX_TEXT {
        return Err(other("its texts are longer than those that audit compact writes"));
    }
    let mut evidences = evidences.iter();
    let text = |array: &ByteArray| {
        array.as_utf8().map(ToOwned::to_owned).map_err(|_| other("a text is not UTF-8"))
    };
    let rows = has_evidence.iter().zip(sequences).enumerate();
    Ok(rows.map(move |(row, (has_evidence, sequence))| {
        let evidence = if *has_evidence == 1 { evidences.next() } else { None };
        let sequence = u64::try_from(*sequence).map_err(|_| other("a number is negative"))?;
        let evidence = evidence.map(text).transpose()?;
        Ok(Row { key: text(&objects[row])?, evidence, sequence, line: lines[row].clone() })
    }))
}

/// The objects of which records have not been read yet.
#[derive(Default)]
struct Unfinished {
    /// By key, each with the number of records that its metadata states.
    objects: BTreeMap<String, (Current, Option<u64>)>,
    /// The keys of the objects that have all their records.
    finished: BTreeSet<String>,
}

impl Unfinished {
    /// Adds a record. Returns the object's stream, and the object once it has all its records, so
    /// that its memory can be released.
    fn add(
        &mut self,
        key: &str,
        day: &str,
        evidence: &Option<String>,
        sequence: u64,
        line: &ByteArray,
    ) -> Result<(UniqueId, Option<Current>), ParquetError> {
        let twice = || other(format!("record {sequence} of {key} occurs twice"));
        if !self.objects.contains_key(key) {
            if self.finished.contains(key) {
                return Err(twice());
            }
            let parsed = key.parse().ok().filter(|key: &ObjectKey| !key.is_system());
            let parsed = parsed.ok_or_else(|| other(format!("{key} is no object of records")))?;
            // Query engines take the day of a record from the directory that the file is in.
            let of_day = Partition::day_of(parsed.hour_ms()).to_string();
            if of_day.strip_prefix("dt=") != Some(day) {
                return Err(other(format!("{key} is not of the day {day}")));
            }
            let (stream, first) = (parsed.stream(), parsed.first_sequence());
            let source = Source { key: key.to_owned(), stream, evidence: evidence.clone() };
            let begun = Current { source, first, lines: BTreeMap::new() };
            let count = begun.count();
            self.objects.insert(key.to_owned(), (begun, count));
        }
        let (object, count) = self.objects.get_mut(key).ok_or_else(|| other("no object"))?;
        if *evidence != object.source.evidence {
            return Err(other(format!("it has two different metadata of {key}")));
        }
        if object.lines.insert(sequence, line.clone()).is_some() {
            return Err(twice());
        }
        let stream = object.source.stream;
        let is_whole = *count == Some(object.lines.len() as u64);
        let finished = if is_whole { self.objects.remove_entry(key) } else { None };
        Ok((
            stream,
            finished.map(|(key, (object, _))| {
                self.finished.insert(key);
                object
            }),
        ))
    }
}

/// Checks the records of an object, once all have been read.
fn finish(object: Current, keys: &[TrustedKey], checked: &mut Checked) {
    let Current { source: Source { key, stream, evidence }, first, lines } = object;
    let (stream, records) = (stream.to_string(), first..first + lines.len() as u64);
    checked.objects.push(key.clone());
    let members: BTreeMap<String, String> =
        evidence.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let head = ObjectHead::from_metadata(&stream, |name| members.get(name).map(String::as_str));
    let is_whole = lines.keys().copied().eq(records.clone());
    let fault = match head {
        Ok(_) | Err(_) if !is_whole => Some(Fault::Compacted(format!("it lacks records of {key}"))),
        Err(_) if !members.contains_key("format") => Some(Fault::NoEvidence),
        Err(error) => Some(Fault::Object(error)),
        Ok(head) if head.first != first => Some(Fault::Place),
        Ok(head) => {
            let named = keys.iter().filter(|host| host.key.name() == head.name);
            let signed = named
                .map(|host| (head.verify(&host.key), host.is_valid_for(&stream)))
                // Of several keys of one host, the one that certified the stream's key decides. The
                // object is signed with the stream's key in any case.
                .min_by_key(|(signed, is_valid)| {
                    (*signed == Err(HeadError::Certificate), !is_valid)
                });
            match signed {
                None => Some(Fault::UnknownHost(head.name.clone())),
                Some((Err(error), _)) => Some(Fault::Object(error)),
                Some((Ok(()), false)) => Some(Fault::KeyValidity(head.name.clone())),
                Some((Ok(()), true)) => {
                    head.tree(&key, lines.values().map(ByteArray::data)).err().map(Fault::Object)
                }
            }
        }
    };
    if let Some(fault) = fault {
        let mut hash = Sha256::new();
        lines.values().for_each(|line| {
            hash.update(line.data());
            hash.update(b"\n");
        });
        let object = key.parse().ok().map(|key| (key, hash.finalize().into()));
        checked.wrong.push(Wrong { stream, records: Some(records), object, fault });
    }
}

/// The maximum number of records of a row group, and of a file, that `audit compact` writes: as
/// many as an object can have, and as many as fit into a file's bytes of lines.
const MAX_GROUP_RECORDS: usize = MAX_OBJECT_BYTES / size_of::<usize>();
const MAX_FILE_RECORDS: usize = FILE_BYTES as usize / 2;

/// Limits an object's key and its metadata, in bytes, to several times the sizes that sinks write.
const MAX_TEXT: usize = 16 << 10;

/// The number of rows of each row group. Fails if it exceeds the limits: a file of a few bytes can
/// hold any number of equal rows.
pub(super) fn row_counts(metadata: &ParquetMetaData) -> Result<Vec<usize>, ParquetError> {
    bounded(metadata.row_groups().iter().map(RowGroupMetaData::num_rows))
}

fn bounded(counts: impl Iterator<Item = i64>) -> Result<Vec<usize>, ParquetError> {
    let mut left = MAX_FILE_RECORDS;
    let bounded = counts.map(|count| {
        let count = usize::try_from(count).ok().filter(|count| *count <= MAX_GROUP_RECORDS);
        let rest = count.and_then(|count| Some((count, left.checked_sub(count)?)));
        let (count, rest) =
            rest.ok_or_else(|| other("it says that it has more rows than audit compact writes"))?;
        left = rest;
        Ok(count)
    });
    bounded.collect()
}

/// The number of values that are read at once, since a file may claim any number.
const AT_ONCE: usize = 8 << 10;

fn values(reader: ColumnReader, rows: usize) -> Result<Values, ParquetError> {
    macro_rules! all {
        ($reader:expr, $data:path) => {{
            let (mut reader, mut values, mut levels) = ($reader, Vec::new(), Vec::new());
            let mut count = 0;
            while count < rows {
                let wanted = AT_ONCE.min(rows - count);
                let (read, ..) =
                    reader.read_records(wanted, Some(&mut levels), None, &mut values)?;
                if read == 0 {
                    return Err(other("a column has fewer values than there are rows"));
                }
                count += read;
            }
            // The reader returns no levels for a required column.
            if levels.is_empty() {
                levels = vec![1; count];
            }
            Ok(Values { data: $data(values), levels })
        }};
    }
    match reader {
        ColumnReader::ByteArrayColumnReader(reader) => all!(reader, Data::Texts),
        ColumnReader::Int64ColumnReader(reader) => all!(reader, Data::Integers),
        ColumnReader::BoolColumnReader(reader) => all!(reader, Data::Booleans),
        ColumnReader::Int32ColumnReader(_)
        | ColumnReader::Int96ColumnReader(_)
        | ColumnReader::FloatColumnReader(_)
        | ColumnReader::DoubleColumnReader(_)
        | ColumnReader::FixedLenByteArrayColumnReader(_) => {
            Err(other("a column has a type that audit compact does not write"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_more_rows_than_are_written() {
        let (group, file) = (MAX_GROUP_RECORDS as i64, MAX_FILE_RECORDS as i64);
        let fits = |counts: &[i64]| bounded(counts.iter().copied()).is_ok();
        let full = vec![group; MAX_FILE_RECORDS / MAX_GROUP_RECORDS];
        for counts in [&[][..], &[0], &[1, 120_000, group], &full] {
            assert!(fits(counts), "{counts:?}");
        }
        let more = [&full[..], &[1]].concat();
        for counts in [&[-1][..], &[group + 1], &[i64::MAX], &[i64::MIN], &[1, file], &more] {
            assert!(!fits(counts), "{counts:?}");
        }
    }
}
