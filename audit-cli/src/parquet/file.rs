//! Writes a Parquet file.

use std::io::Write;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use parquet::basic::{Compression, Encoding, LogicalType, Repetition, TimeUnit, Type, ZstdLevel};
use parquet::data_type::{BoolType, ByteArrayType, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type as Schema, TypePtr};
use sha2::{Digest, Sha256};

use super::columns::{Columns, Kind};
use super::group::{Data, Group, Values};
use crate::query::Pointer;

/// The value of `audit.format`.
pub(crate) const FORMAT: &str = "1";

/// A file is complete once it has this many bytes of lines.
pub(crate) const FILE_BYTES: u64 = 256 << 20;

/// The size of a row group in bytes and in records. Records are held in memory until then.
pub(crate) const GROUP_BYTES: usize = 32 << 20;
pub(crate) const GROUP_RECORDS: usize = 120_000;

/// The number of records of a row group if records are sorted. A query for one value reads about
/// one row group of a file, and the file's footer, which grows with the number of row groups.
pub(crate) const SORTED_GROUP_RECORDS: usize = 6_000;

/// The compression level. Higher levels take much time and save few bytes.
const LEVEL: i32 = 9;

/// Our own columns before and after those of the members.
const BEFORE: [&str; 3] = ["audit_stream", "audit_sequence", "audit_time"];
const BEHIND: [&str; 4] = ["audit_rest", "audit_object", "audit_evidence", "audit_record"];

/// The positions of our own columns.
pub(crate) struct Places {
    pub(crate) sequence: usize,
    pub(crate) object: usize,
    pub(crate) evidence: usize,
    pub(crate) record: usize,
}

impl Places {
    pub(crate) fn new(columns: &Columns) -> Places {
        let behind = BEFORE.len() + columns.all().len();
        Places { sequence: 1, object: behind + 1, evidence: behind + 2, record: behind + 3 }
    }
}

pub(crate) fn schema(columns: &Columns) -> Result<TypePtr> {
    let field = |name: &str, required: bool, kind, logical: Option<LogicalType>| {
        let repetition = if required { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        let field = Schema::primitive_type_builder(name, kind)
            .with_repetition(repetition)
            .with_logical_type(logical);
        field.build().map(Arc::new)
    };
    let text = |name, required| field(name, required, Type::BYTE_ARRAY, Some(LogicalType::String));
    let time = LogicalType::timestamp(true, TimeUnit::MILLIS);
    let mut fields = vec![
        text(BEFORE[0], true)?,
        field(BEFORE[1], true, Type::INT64, None)?,
        field(BEFORE[2], false, Type::INT64, Some(time))?,
    ];
    for column in columns.all() {
        fields.push(match column.kind {
            Kind::Text | Kind::Json => text(&column.name, false)?,
            Kind::Integer => field(&column.name, false, Type::INT64, None)?,
            Kind::Boolean => field(&column.name, false, Type::BOOLEAN, None)?,
        });
    }
    fields.push(text(BEHIND[0], false)?);
    fields.push(text(BEHIND[1], true)?);
    fields.push(text(BEHIND[2], false)?);
    fields.push(text(BEHIND[3], true)?);
    Schema::group_type_builder("audit").with_fields(fields).build().map(Arc::new)
}

fn properties(columns: &Columns) -> Result<WriterProperties> {
    let path = |name: &str| ColumnPath::from(vec![name.to_owned()]);
    let zstd = Compression::ZSTD(ZstdLevel::try_new(LEVEL)?);
    // Query engines skip row groups by the bounds of columns. Pages have no bounds or index of
    // their own, since everything that an engine reads must be checked.
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("audit ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(zstd)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    for name in [BEHIND[0], BEHIND[2], BEHIND[3]] {
        properties = properties.set_column_statistics_enabled(path(name), EnabledStatistics::None);
    }
    properties = properties.set_column_dictionary_enabled(path(BEHIND[3]), false);
    let integers = columns.all().iter().filter(|column| column.kind == Kind::Integer);
    let integers = integers.map(|column| column.name.as_str());
    for name in BEFORE[1..].iter().copied().chain(integers) {
        properties = properties
            .set_column_dictionary_enabled(path(name), false)
            .set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

/// A file that is being written.
pub(crate) struct FileWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Columns,
    time: Vec<Pointer>,
    pub(crate) records: u64,
}

impl<W: Write + Send> FileWriter<W> {
    pub(crate) fn new(to: W, columns: Columns, time: Vec<Pointer>) -> Result<FileWriter<W>> {
        let properties = Arc::new(properties(&columns)?);
        let writer = SerializedFileWriter::new(to, schema(&columns)?, properties)?;
        Ok(FileWriter { writer, columns, time, records: 0 })
    }

    pub(crate) fn has_column(&self, member: &Pointer) -> bool {
        let member = member.to_string();
        self.columns.all().iter().any(|column| column.member == member)
    }

    pub(crate) fn write(&mut self, group: Group) -> Result<()> {
        self.records += group.records() as u64;
        let values = group.into_values(&self.columns, &self.time).ok_or_else(|| {
            parquet::errors::ParquetError::General(
                "a record's number has more than 63 bits".to_owned(),
            )
        })?;
        self.write_values(&values)
    }

    fn write_values(&mut self, values: &[Values]) -> Result<()> {
        let mut rows = self.writer.next_row_group()?;
        for values in values {
            let Some(mut column) = rows.next_column()? else { break };
            let levels = Some(&values.levels[..]);
            match &values.data {
                Data::Texts(texts) => {
                    column.typed::<ByteArrayType>().write_batch(texts, levels, None)?
                }
                Data::Integers(integers) => {
                    column.typed::<Int64Type>().write_batch(integers, levels, None)?
                }
                Data::Booleans(booleans) => {
                    column.typed::<BoolType>().write_batch(booleans, levels, None)?
                }
            };
            column.close()?;
        }
        rows.close().map(drop)
    }

    /// Ends the file. `objects` is the number of objects that its records are from. Until the file
    /// is [sealed](seal), its digest consists of zeros.
    pub(crate) fn end(mut self, objects: u64) -> Result<W> {
        let time: Vec<String> = self.time.iter().map(ToString::to_string).collect();
        let columns = serde_json::json!(self.columns.all()).to_string();
        for (name, value) in [
            ("audit.format", FORMAT.to_owned()),
            ("audit.objects", objects.to_string()),
            ("audit.records", self.records.to_string()),
            ("audit.time", serde_json::json!(time).to_string()),
            ("audit.columns", columns),
            ("audit.sha256", NO_DIGEST.to_owned()),
        ] {
            let entry = KeyValue { key: name.to_owned(), value: Some(value) };
            self.writer.append_key_value_metadata(entry);
        }
        self.writer.into_inner()
    }
}

/// The placeholder of a file's digest until it is computed.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The name of the metadata entry whose value is the digest.
const BEFORE_DIGEST: &[u8] = b"audit.sha256";

/// The position of the digest, which is the value of the footer's last metadata entry.
fn place_of_digest(file: &[u8]) -> Option<std::ops::Range<usize>> {
    let name = memchr::memmem::rfind(file, BEFORE_DIGEST)? + BEFORE_DIGEST.len();
    // The header of the field, and the length of the value: 64 bytes, so one byte.
    let begin = name + 2;
    (file.len() >= begin + NO_DIGEST.len()).then(|| begin..begin + NO_DIGEST.len())
}

/// The SHA-256 of a file without the digest itself. It detects accidental changes; an attacker can
/// compute it again, but cannot sign.
pub(crate) fn digest(file: &[u8]) -> Option<String> {
    let place = place_of_digest(file)?;
    let mut hash = Sha256::new();
    hash.update(&file[..place.start]);
    hash.update(NO_DIGEST);
    hash.update(&file[place.end..]);
    Some(HEXLOWER.encode(&hash.finalize()))
}

/// Whether the digest in a file matches its bytes.
pub(crate) fn is_sealed(file: &[u8]) -> bool {
    let said = place_of_digest(file).and_then(|place| file.get(place));
    said.is_some() && said == digest(file).as_deref().map(str::as_bytes)
}

/// Writes the digest into a complete file.
pub(crate) fn seal(file: &mut [u8]) -> Result<()> {
    let found = digest(file).zip(place_of_digest(file));
    let missing = || parquet::errors::ParquetError::General("the file has no digest".to_owned());
    let (digest, place) = found.ok_or_else(missing)?;
    file[place].copy_from_slice(digest.as_bytes());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::check::check;
    use super::*;
    use audit_evidence::Fault;
    use bytes::Bytes;
    use parquet::data_type::ByteArray;
    use parquet::file::metadata::ParquetMetaDataReader;
    use proptest::prelude::*;

    const KEY: &str = "dt=2023-11-14/hour=00/0000000000000000000000002D-000000000007.ndjson";

    fn group(lines: &[String]) -> Group {
        let mut group = Group::default();
        group.begin(KEY.to_owned(), "0000000000000000000000002D".parse().unwrap(), None);
        for (sequence, line) in (7..).zip(lines) {
            group.add(sequence, line.as_bytes());
        }
        group
    }

    fn file(lines: &[String], alter: impl Fn(&mut Vec<Values>)) -> Bytes {
        let mut columns = Columns::default();
        columns.extend(lines.iter().map(String::as_bytes), None);
        let time = vec!["/at".parse().unwrap()];
        let mut writer = FileWriter::new(Vec::new(), columns.clone(), time.clone()).unwrap();
        let mut values = group(lines).into_values(&columns, &time).unwrap();
        alter(&mut values);
        writer.records = lines.len() as u64;
        writer.write_values(&values).unwrap();
        let mut content = writer.end(1).unwrap();
        seal(&mut content).unwrap();
        content.into()
    }

    /// The column of records, read by an independent reader.
    fn records(file: &Bytes) -> Vec<String> {
        use parquet::file::reader::FileReader;
        let reader = parquet::file::serialized_reader::SerializedFileReader::new(file.clone());
        let reader = reader.unwrap();
        let records = reader.metadata().file_metadata().schema().get_fields().len() - 1;
        let mut found = Vec::new();
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).unwrap();
            let column = group.get_column_reader(records).unwrap();
            let parquet::column::reader::ColumnReader::ByteArrayColumnReader(mut column) = column
            else {
                panic!("records are texts")
            };
            let mut values: Vec<ByteArray> = Vec::new();
            column.read_records(usize::MAX >> 1, None, None, &mut values).unwrap();
            found.extend(values.iter().map(|value| value.as_utf8().unwrap().to_owned()));
        }
        found
    }

    /// Values of every type, numbers of every size and spelling, and names that engines mix up.
    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|b| b.to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
            any::<String>().prop_map(|text| serde_json::json!(text).to_string()),
            "\"(\\\\u[0-9a-f]{4}|\\\\[nrt\\\\\"/bf]|[a-c]){0,6}\"",
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|all| format!("[{}]", all.join(","))),
                members(inner),
            ]
        })
    }

    fn members(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let name = prop_oneof![
            "[aA]|user|User|at|dt|audit_record|\\$audit|a/b|a~b|\\\\u0061",
            any::<String>().prop_map(|name| {
                let name = serde_json::json!(name).to_string();
                name[1..name.len() - 1].to_owned()
            }),
        ];
        prop::collection::vec((name, value), 0..6).prop_map(|all| {
            let all: Vec<_> =
                all.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!("{{{}}}", all.join(","))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(25))]
        /// 25 cases of 400 records each.
        #[test]
        fn records_come_back_byte_for_byte(
            lines in prop::collection::vec(members(value()), 400),
        ) {
            let file = file(&lines, |_| {});
            prop_assert_eq!(&records(&file), &lines);
            let checked = check(&file, "2023-11-14", &[]);
            prop_assert!(
                matches!(&checked.wrong[..], [wrong] if wrong.fault == Fault::NoEvidence),
                "{:?}", checked.wrong
            );
            prop_assert_eq!((checked.records, checked.objects.len()), (400, 1));
        }
    }

    #[test]
    fn a_column_that_lies_is_found() {
        let line = |n: usize| {
            format!("{{\"user\":\"user{n}\",\"n\":{n},\"ok\":true,\"at\":{n},\"x\":[{n}]}}")
        };
        let lines: Vec<String> = (0..20).map(line).collect();
        let what = |file: &Bytes| match &check(file, "2023-11-14", &[]).wrong[..] {
            [wrong] => wrong.fault.to_string(),
            wrong => panic!("{wrong:?}"),
        };
        let whole = file(&lines, |_| {});
        assert!(what(&whole).contains("without evidence"), "{}", what(&whole));
        let columns = schema(&{
            let mut columns = Columns::default();
            columns.extend(lines.iter().map(String::as_bytes), None);
            columns
        });
        let columns = columns.unwrap().get_fields().len();
        // The objects' metadata cannot be derived from the records. It is verified with keys
        // instead.
        let evidence = columns - 2;
        for column in (0..columns).filter(|column| *column != evidence) {
            let lying = file(&lines, |values| match &mut values[column].data {
                Data::Texts(texts) if texts.is_empty() => {
                    values[column].levels = vec![1; lines.len()];
                    values[column].data = Data::Texts(vec!["[]".into(); lines.len()]);
                }
                Data::Texts(texts) => texts[3] = "{}".into(),
                Data::Integers(integers) => integers[3] = 99,
                Data::Booleans(booleans) => booleans[3] = false,
            });
            let found = what(&lying);
            assert!(found.contains("the file is not derived"), "column {column}: {found}");
            // Each row has the same long text, which is in the file once.
            let long = file(&lines, |values| {
                if let Data::Texts(texts) = &mut values[column].data {
                    texts.iter_mut().for_each(|text| *text = vec![b'x'; 20 << 10].into());
                }
            });
            let found = what(&long);
            let is_of_keys = column == columns - 3;
            assert_eq!(found.contains("longer than those"), is_of_keys, "column {column}: {found}");
        }
        // The digest covers every byte.
        for at in (0..whole.len()).step_by(7).chain(whole.len() - 300..whole.len()) {
            let mut altered = whole.to_vec();
            altered[at] ^= 1;
            let found = std::panic::catch_unwind(|| what(&altered.into()));
            let found = found.unwrap_or_else(|_| "the file is not derived".to_owned());
            assert!(found.contains("the file is not derived"), "byte {at}: {found}");
        }
    }

    #[test]
    fn an_object_is_in_a_file_once() {
        let lines: Vec<String> = (0..2).map(|n| format!("{{\"at\":{n}}}")).collect();
        let file = |times: u64| {
            let mut columns = Columns::default();
            columns.extend(lines.iter().map(String::as_bytes), None);
            let mut writer = FileWriter::new(Vec::new(), columns.clone(), Vec::new()).unwrap();
            for _ in 0..times {
                let mut group = Group::default();
                let evidence = Some("{\"count\":\"2\"}".to_owned());
                group.begin(
                    KEY.to_owned(),
                    "0000000000000000000000002D".parse().unwrap(),
                    evidence,
                );
                (7..).zip(&lines).for_each(|(number, line)| group.add(number, line.as_bytes()));
                writer.write_values(&group.into_values(&columns, &[]).unwrap()).unwrap();
            }
            writer.records = 2 * times;
            let mut content = writer.end(times).unwrap();
            seal(&mut content).unwrap();
            check(&content.into(), "2023-11-14", &[])
        };
        assert!(matches!(&file(1).wrong[..], [one] if one.fault == Fault::NoEvidence));
        for times in [2, 3] {
            let checked = file(times);
            let last = checked.wrong.last().unwrap().fault.to_string();
            assert!(last.contains(&format!("record 7 of {KEY} occurs twice")), "{last}");
            assert_eq!(checked.objects, [KEY]);
        }
    }

    /// Query engines count rows, find columns and skip row groups by what a file says about itself.
    /// An attacker who changes the footer can also recompute the digest.
    #[test]
    fn every_byte_of_a_footer_counts() {
        let lines: Vec<String> = (0..3).map(|n| format!("{{\"at\":{n},\"user\":\"u\"}}")).collect();
        let whole = file(&lines, |_| {});
        let begin = whole.len() - 8;
        let length = u32::from_le_bytes(whole[begin..begin + 4].try_into().unwrap());
        let begin = begin - length as usize;
        let writer = begin + memchr::memmem::find(&whole[begin..], b"audit 0").unwrap();
        let version =
            writer + "audit ".len()..writer + "audit ".len() + env!("CARGO_PKG_VERSION").len();
        // Shortened bounds may be wider than the values, so changes to these bytes are not found:
        // the upper bound of the objects' keys, and the length of the lower bound.
        let object = begin + memchr::memmem::find(&whole[begin..], &KEY.as_bytes()[..60]).unwrap();
        let free = [version, object..object + 66];
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&whole).unwrap();
        let columns = metadata.row_groups()[0].columns();
        // The first nine bytes of the header of each page.
        let headers = columns.iter().flat_map(|column| {
            let pages = [column.dictionary_page_offset(), Some(column.data_page_offset())];
            pages.into_iter().flatten().flat_map(|at| at as usize..at as usize + 9)
        });
        for at in (0..4)
            .chain(headers)
            .chain(begin..whole.len())
            .filter(|at| !free.iter().any(|free| free.contains(at)))
        {
            let mut altered = whole.to_vec();
            altered[at] = altered[at].wrapping_add(2);
            // Sealing fails if the altered byte is part of the digest's name.
            let _ = seal(&mut altered);
            if altered[..] == whole[..] {
                // The altered byte was part of the digest, and sealing restored it.
                continue;
            }
            let altered = Bytes::from(altered);
            let found = std::panic::catch_unwind(|| check(&altered, "2023-11-14", &[]).wrong);
            let is_found = found.is_err()
                || found.is_ok_and(|wrong| {
                    wrong.iter().any(|one| matches!(one.fault, Fault::Compacted(_)))
                });
            assert!(is_found, "byte {at}");
        }
    }

    #[test]
    fn bounds_that_lie_are_found() {
        let lines =
            ["{\"n\":1,\"user\":\"ada\"}".to_owned(), "{\"n\":7,\"user\":\"bob\"}".to_owned()];
        let whole = file(&lines, |_| {});
        let is_derived = |file: &Bytes| {
            let wrong = check(file, "2023-11-14", &[]).wrong;
            !wrong.iter().any(|one| matches!(one.fault, Fault::Compacted(_)))
        };
        assert!(is_derived(&whole));
        let end = whole.len() - 8;
        let length = u32::from_le_bytes(whole[end..end + 4].try_into().unwrap()) as usize;
        let number = |n: i64| [&[8][..], &n.to_le_bytes()].concat();
        // Wider bounds still include all values, but an engine that answers a query for the least
        // or the greatest value from them would be wrong.
        for (bound, wider) in [
            (number(7), number(9)),
            (number(1), number(0)),
            (b"\x03ada".to_vec(), b"\x03aaa".to_vec()),
            (b"\x03bob".to_vec(), b"\x03bzz".to_vec()),
        ] {
            let mut altered = whole.to_vec();
            let places: Vec<usize> =
                memchr::memmem::find_iter(&whole[end - length..end], &bound).collect();
            assert!(!places.is_empty(), "{bound:?}");
            for at in places {
                altered[end - length + at..][..wider.len()].copy_from_slice(&wider);
            }
            seal(&mut altered).unwrap();
            assert!(!is_derived(&altered.into()), "{wider:?}");
        }
    }
}
