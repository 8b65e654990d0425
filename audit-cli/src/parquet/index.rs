//! Reads which objects Parquet files hold, without reading whole files.

use std::collections::BTreeSet;

use audit_sink_s3::layout::Partition;
use bytes::{Buf, Bytes};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::sync::Arc;

use super::check::{Said, row_counts};
use super::columns::Columns;
use super::file::Places;
use crate::failure::Failure;
use crate::object::{GONE, REPLACED, is_same};

/// A directory of Parquet files.
pub(crate) struct Target {
    pub(crate) bucket: audit_sink_s3::Bucket,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct File {
    /// The day, such as 2026-11-23.
    pub(crate) day: String,
    /// Its number among the files of the day.
    pub(crate) number: u32,
    pub(crate) bytes: u64,
}

impl File {
    pub(crate) fn name(&self) -> String {
        name(&self.day, self.number)
    }
}

pub(crate) fn name(day: &str, number: u32) -> String {
    format!("dt={day}/{number:06}.parquet")
}

/// The number of the next file of a day. `None` if the last one has the highest number.
pub(crate) fn next_number(files: &[File]) -> Option<u32> {
    files.iter().map(|file| file.number).max().map_or(Some(0), |last| last.checked_add(1))
}

/// A day as in the name of its directory, without `dt=`.
pub(super) fn day_name(day: &Partition) -> String {
    day.to_string().trim_start_matches("dt=").to_owned()
}

/// Why the contents of a file, or the files of a day, are unknown.
pub(crate) enum Unread {
    /// The store did not answer.
    Store(Failure),
    /// The store refuses to return this file or listing. It may return others.
    Refused(Failure),
    /// It is not a file of `audit compact`.
    Foreign(Failure),
}

impl Unread {
    fn into_failure(self) -> Failure {
        let (Unread::Store(failure) | Unread::Refused(failure) | Unread::Foreign(failure)) = self;
        failure
    }
}

/// The files of all days.
#[derive(Default)]
pub(crate) struct All {
    pub(crate) files: Vec<File>,
    /// The days that the store refuses to list.
    pub(crate) unlisted: Vec<(String, Failure)>,
    /// The names of foreign entries that query engines may read.
    pub(crate) foreign: Vec<String>,
}

/// Whether a name is that of a file that a writer left in a directory when it was killed.
fn is_leftover(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(file, number)| {
        file.ends_with(".parquet") && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

pub(crate) struct Held {
    pub(crate) objects: BTreeSet<String>,
    pub(crate) columns: Columns,
}

/// The maximum size of a file, in bytes: it is held in memory to be verified. `audit compact`
/// writes 256 MiB of lines.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;

pub(crate) const TOO_LARGE: &str = "it has more than 1 GiB, which audit compact never writes";

/// The part of a file's end that is read first, in bytes. Most footers are shorter.
const END_BYTES: u64 = 64 << 10;

/// The last eight bytes of a file: the length of the footer before them, and a magic number.
const TAIL_BYTES: u64 = 8;

impl Target {
    pub(crate) fn name(&self) -> String {
        self.bucket.to_string()
    }

    pub(crate) fn path(&self, name: &str) -> Path {
        self.bucket.path(name)
    }

    /// Whether query engines take a name for one of a table's files.
    fn is_in_table(&self, name: &str) -> bool {
        name.starts_with("dt=") && !(self.bucket.is_directory() && is_leftover(name))
    }

    fn failed(&self, name: &str, what: &str, error: &object_store::Error) -> Unread {
        let failure = Failure::new(format!("cannot {what} {name} in {}", self.name()));
        if matches!(error, object_store::Error::NotFound { .. }) {
            return Unread::Refused(failure.because(format!("it {GONE}")));
        }
        let said = self.bucket.describe(error);
        match self.bucket.is_refusal(error) {
            true => Unread::Refused(failure.because(said)),
            false => Unread::Store(failure.because(said)),
        }
    }

    /// The files of all days, in order.
    pub(crate) async fn all_files(&self) -> std::result::Result<All, Failure> {
        let mut all = All::default();
        if !self.bucket.is_directory() {
            let listed = self.files_below(self.bucket.prefix().clone(), "the files").await;
            (all.files, all.foreign) = listed.map_err(Unread::into_failure)?;
            return Ok(all);
        }
        let level = self.bucket.level(None).await.map_err(|error| {
            let said = self.bucket.describe(&error);
            Failure::new(format!("cannot list the files in {}", self.name())).because(said)
        })?;
        all.foreign = level.others.into_iter().filter(|name| self.is_in_table(name)).collect();
        for day in level.partitions.iter().filter(|partition| partition.is_day()) {
            let day = day_name(day);
            match self.of_day(&day).await {
                Ok((files, foreign)) => {
                    all.files.extend(files);
                    all.foreign.extend(foreign);
                }
                Err(Unread::Refused(failure)) => all.unlisted.push((day, failure)),
                Err(Unread::Store(failure) | Unread::Foreign(failure)) => return Err(failure),
            }
        }
        Ok(all)
    }

    /// The files of a day, in order.
    pub(crate) async fn files(&self, day: &str) -> std::result::Result<Vec<File>, Unread> {
        self.of_day(day).await.map(|(files, _)| files)
    }

    async fn of_day(&self, day: &str) -> std::result::Result<(Vec<File>, Vec<String>), Unread> {
        let day = format!("dt={day}");
        self.files_below(self.path(&day), &day).await
    }

    /// The files below a prefix, and the names of foreign ones that query engines read.
    async fn files_below(
        &self,
        prefix: Path,
        name: &str,
    ) -> std::result::Result<(Vec<File>, Vec<String>), Unread> {
        let store = self.bucket.store();
        let mut listed = store.list(Some(&prefix).filter(|prefix| !prefix.as_ref().is_empty()));
        let (mut files, mut foreign) = (Vec::new(), Vec::new());
        while let Some(meta) = listed.next().await {
            let meta = match meta {
                Ok(meta) => meta,
                // The directory does not exist yet.
                Err(object_store::Error::NotFound { .. }) => break,
                Err(error) => return Err(self.failed(name, "list", &error)),
            };
            match parse(&self.bucket, &meta.location, meta.size) {
                Some(file) => files.push(file),
                None => {
                    let parts = meta.location.prefix_match(self.bucket.prefix());
                    let name = parts.map(|parts| parts.map(|part| part.as_ref().to_owned()));
                    let name = name.map(|parts| parts.collect::<Vec<_>>().join("/"));
                    foreign.extend(name.filter(|name| self.is_in_table(name)));
                }
            }
        }
        files.sort();
        // Some stores list a key again on the next page.
        files.dedup();
        Ok((files, foreign))
    }

    pub(crate) async fn get(&self, file: &File) -> std::result::Result<Bytes, Unread> {
        let name = file.name();
        let failed = |error: object_store::Error| self.failed(&name, "read", &error);
        let got = self.bucket.store().get(&self.path(&name)).await.map_err(failed)?;
        // The whole file will be in memory, and its size was bounded when it was listed.
        if got.meta.size != file.bytes {
            return Err(self.replaced(&name));
        }
        got.bytes().await.map_err(failed)
    }

    fn replaced(&self, name: &str) -> Unread {
        let failure = Failure::new(format!("cannot read {name} in {}", self.name()));
        Unread::Refused(failure.because(format!("it {REPLACED}")))
    }

    /// Reads which objects a file holds, from its footer and one column.
    pub(crate) async fn held(&self, file: &File) -> std::result::Result<Held, Unread> {
        let name = file.name();
        let path = self.path(&name);
        let failed = |error: object_store::Error| self.failed(&name, "read", &error);
        let broken = |error: ParquetError| {
            let what = format!("{name} in {} is not a file of audit compact", self.name());
            let advice = "audit verify --parquet names what is wrong; remove it to make it again";
            Unread::Foreign(Failure::new(format!("{what}: {advice}")).because(error))
        };
        let other = |what: &str| broken(ParquetError::General(what.to_owned()));
        if file.bytes < TAIL_BYTES {
            return Err(other("it is too short"));
        }
        if file.bytes > MAX_FILE_BYTES {
            return Err(other(TOO_LARGE));
        }
        let end = file.bytes.min(END_BYTES);
        let (first, meta) = self.range(&path, file.bytes - end, end).await.map_err(failed)?;
        if meta.size != file.bytes {
            return Err(self.replaced(&name));
        }
        // All pieces must come from one version of the file, which may be replaced meanwhile.
        let piece = async |begin, len| -> std::result::Result<(u64, Bytes), Unread> {
            let (piece, now) = self.range(&path, begin, len).await.map_err(failed)?;
            if is_same(&now, &meta) { Ok(piece) } else { Err(self.replaced(&name)) }
        };
        let mut pieces = vec![first];
        let (_, tail) = &pieces[0];
        let tail = tail.len().checked_sub(TAIL_BYTES as usize).map(|at| tail.slice(at..));
        let mut tail = tail.ok_or_else(|| other("it is too short"))?;
        let length = u64::from(tail.get_u32_le());
        let begin = file.bytes.checked_sub(length + TAIL_BYTES);
        let begin = begin.filter(|_| &tail[..] == b"PAR1").ok_or_else(|| other("it has no end"))?;
        if begin < pieces[0].0 {
            let more = pieces[0].0 - begin;
            let (_, before) = piece(begin, more).await?;
            let (_, after) = pieces.remove(0);
            pieces.push((begin, [before, after].concat().into()));
        }
        let sparse = Sparse { len: file.bytes, pieces };
        let parse = move || ParquetMetaDataReader::new().parse_and_finish(&sparse);
        let metadata = contained(parse).await.map_err(broken)?;
        let said = Said::read(&metadata).ok_or_else(|| other("it does not say what it holds"))?;
        let column = Places::new(&said.columns).object;
        let mut pieces = Vec::new();
        for group in metadata.row_groups() {
            let chunk = group.columns().get(column).ok_or_else(|| other("it lacks a column"))?;
            let (begin, len) = chunk.byte_range();
            if begin.checked_add(len).is_none_or(|end| end > file.bytes) {
                return Err(other("a column is not in it"));
            }
            pieces.push(piece(begin, len).await?);
        }
        let sparse = Arc::new(Sparse { len: file.bytes, pieces });
        let objects = contained(move || objects(&sparse, &metadata, column));
        let objects = objects.await.map_err(broken)?;
        Ok(Held { objects, columns: said.columns })
    }

    async fn range(
        &self,
        path: &Path,
        begin: u64,
        len: u64,
    ) -> object_store::Result<((u64, Bytes), ObjectMeta)> {
        let range = Some(GetRange::Bounded(begin..begin + len));
        let options = GetOptions { range, ..GetOptions::default() };
        let found = self.bucket.store().get_opts(path, options).await?;
        let meta = found.meta.clone();
        Ok(((begin, found.bytes().await?), meta))
    }
}

/// The file at a location, if its name is one that `audit compact` gives.
fn parse(bucket: &audit_sink_s3::Bucket, location: &Path, bytes: u64) -> Option<File> {
    let (day, file) = {
        let mut parts: Vec<_> = location.parts().collect();
        let file = parts.pop()?;
        (parts.pop()?.as_ref().strip_prefix("dt=")?.to_owned(), file.as_ref().to_owned())
    };
    let digits = file.strip_suffix(".parquet")?;
    let is_number = digits.len() >= 6 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| is_number)?;
    day.parse::<chrono::NaiveDate>().ok()?;
    (bucket.path(&name(&day, number)) == *location).then_some(File { day, number, bytes })
}

/// Runs a reader of the format, which panics on some files that it did not write.
async fn contained<T: Send + 'static>(
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_panicked| Err(ParquetError::General("it cannot be read".to_owned())))
}

/// The objects that are named in a column.
fn objects(
    sparse: &Arc<Sparse>,
    metadata: &ParquetMetaData,
    column: usize,
) -> Result<BTreeSet<String>> {
    let mut objects = BTreeSet::new();
    for (group, rows) in metadata.row_groups().iter().zip(row_counts(metadata)?) {
        let chunk = group.column(column);
        let pages = SerializedPageReader::new(Arc::clone(sparse), chunk, rows, None)?;
        let reader = get_column_reader(chunk.column_descr_ptr(), Box::new(pages));
        let ColumnReader::ByteArrayColumnReader(mut reader) = reader else {
            return Err(ParquetError::General("the column of objects has no texts".to_owned()));
        };
        let mut left = rows;
        while left > 0 {
            let mut values = Vec::new();
            let (read, ..) = reader.read_records(left.min(8 << 10), None, None, &mut values)?;
            if read == 0 {
                break;
            }
            left -= read;
            for value in values {
                let key = value.as_utf8()?;
                if !objects.contains(key) {
                    objects.insert(key.to_owned());
                }
            }
        }
    }
    Ok(objects)
}

/// Pieces of a file.
struct Sparse {
    len: u64,
    pieces: Vec<(u64, Bytes)>,
}

impl Length for Sparse {
    fn len(&self) -> u64 {
        self.len
    }
}

impl Sparse {
    fn at(&self, start: u64) -> Result<Bytes> {
        let holds =
            |(begin, bytes): &&(u64, Bytes)| *begin <= start && start <= begin + bytes.len() as u64;
        let (begin, bytes) = self.pieces.iter().find(holds).ok_or_else(|| {
            ParquetError::General(format!("byte {start} is not where the file says it is"))
        })?;
        Ok(bytes.slice(usize::try_from(start - begin).unwrap_or(bytes.len())..))
    }
}

impl ChunkReader for Sparse {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(self.at(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.at(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes are not at byte {start}")));
        }
        Ok(bytes.slice(..length))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::file::schema;
    use super::*;
    use parquet::basic::Encoding;
    use parquet::data_type::{ByteArrayType, Int64Type};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::types::ColumnPath;

    const KEY: &str = "dt=2026-11-20/hour=00/0000000000000000000000002D-000000000007.ndjson";

    /// A file with one record, and the byte range of its column of objects, in which all lengths
    /// come before the texts.
    fn file() -> (Vec<u8>, std::ops::Range<usize>) {
        let columns = Columns::default();
        let lengths = Encoding::DELTA_LENGTH_BYTE_ARRAY;
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_column_encoding(ColumnPath::from("audit_object"), lengths)
            .build();
        let schema = schema(&columns).unwrap();
        let writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties));
        let mut writer = writer.unwrap();
        let mut rows = writer.next_row_group().unwrap();
        let mut at = 0;
        while let Some(mut column) = rows.next_column().unwrap() {
            let levels = Some(&[1][..]);
            // The record's number and its time are integers.
            if matches!(at, 1 | 2) {
                column.typed::<Int64Type>().write_batch(&[7], levels, None).unwrap();
            } else {
                column.typed::<ByteArrayType>().write_batch(&[KEY.into()], levels, None).unwrap();
            }
            column.close().unwrap();
            at += 1;
        }
        rows.close().unwrap();
        for (key, value) in [
            ("audit.format", super::super::file::FORMAT),
            ("audit.objects", "1"),
            ("audit.records", "1"),
            ("audit.time", "[]"),
            ("audit.columns", "[]"),
            ("audit.sha256", ""),
        ] {
            let entry = KeyValue { key: key.to_owned(), value: Some(value.to_owned()) };
            writer.append_key_value_metadata(entry);
        }
        let content = writer.into_inner().unwrap();
        let metadata =
            ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(content.clone())).unwrap();
        let column = metadata.row_group(0).column(Places::new(&columns).object);
        let (begin, len) = column.byte_range();
        (content, begin as usize..(begin + len) as usize)
    }

    #[tokio::test]
    async fn a_file_that_its_reader_panics_on_is_foreign() {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}", root.path().display());
        let target = Target { bucket: audit_sink_s3::Bucket::open(&url).unwrap() };
        let day = root.path().join("dt=2026-11-20");
        std::fs::create_dir(&day).unwrap();
        let (mut content, column) = file();
        let held = async |content: &[u8]| {
            std::fs::write(day.join("000000.parquet"), content).unwrap();
            let Ok(files) = target.files("2026-11-20").await else { panic!("it is not listed") };
            target.held(&files[0]).await
        };
        let Ok(whole) = held(&content).await else { panic!("the file is whole") };
        assert!(whole.objects.iter().eq([KEY]));
        // Overwrites the sizes of blocks, which come before the lengths, with a variable-length
        // number that does not end.
        let sizes = memchr::memmem::find(&content[column.clone()], &[0x80, 1, 4]).unwrap();
        let begin = column.start + sizes;
        content[begin..begin + 12].fill(0xff);
        match held(&content).await {
            Err(Unread::Foreign(failure)) => {
                assert!(audit_core::with_sources(&failure).contains("cannot be read"), "{failure}");
            }
            Err(_) | Ok(_) => panic!("it is foreign"),
        }
    }
}
