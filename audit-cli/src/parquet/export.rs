//! `audit export --format parquet`.

use std::io::{self, Write};

use parquet::errors::ParquetError;

use super::columns::Columns;
use super::file::{FileWriter, GROUP_BYTES, GROUP_RECORDS};
use super::group::Group;
use crate::failure::Failure;
use crate::object::Part;
use crate::output::Output;
use crate::query::Pointer;

/// The size from which a part is passed on, in bytes.
const PART_BYTES: usize = 128 << 10;

impl Part for Group {
    fn is_empty(&self) -> bool {
        Group::is_empty(self)
    }

    fn is_full(&self) -> bool {
        self.bytes() >= PART_BYTES
    }
}

pub(crate) struct Standard<'a>(pub(crate) &'a Output);

impl Write for Standard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&[bytes]).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(io::Error::other)
    }
}

pub(crate) struct Exporter<W: Write + Send> {
    writer: Option<FileWriter<W>>,
    group: Group,
    /// The output, until the writer has it.
    to: Option<W>,
    /// The members with a column. If empty, the common members have one.
    members: Vec<Pointer>,
    time: Vec<Pointer>,
}

fn failed(error: ParquetError) -> Failure {
    let ParquetError::External(source) = error else {
        return Failure::new("the file cannot be written").because(error);
    };
    match source.downcast::<io::Error>().map(|error| error.downcast::<Failure>()) {
        Ok(Ok(failure)) => failure,
        Ok(Err(error)) => Failure::of_output(error),
        Err(error) => Failure::new("the file cannot be written").because(error),
    }
}

impl<W: Write + Send> Exporter<W> {
    pub(crate) fn new(to: W, members: Vec<Pointer>, time: Vec<Pointer>) -> Self {
        Exporter { writer: None, group: Group::default(), to: Some(to), members, time }
    }

    pub(crate) fn add(&mut self, part: Group) -> Result<(), Failure> {
        self.group.append(part);
        if self.group.bytes() >= GROUP_BYTES || self.group.records() >= GROUP_RECORDS {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Failure> {
        let group = std::mem::take(&mut self.group);
        tokio::task::block_in_place(|| {
            if let Some(to) = self.to.take() {
                let mut columns = Columns::default();
                let wanted = (!self.members.is_empty()).then_some(&self.members[..]);
                columns.extend(group.lines(), wanted);
                self.writer = Some(FileWriter::new(to, columns, self.time.clone())?);
            }
            match &mut self.writer {
                Some(writer) if !group.is_empty() => writer.write(group),
                Some(_) | None => Ok(()),
            }
        })
        .map_err(failed)
    }

    /// Completes the file. Returns those of the given members that have no column.
    pub(crate) fn end(mut self, objects: u64) -> Result<Vec<Pointer>, Failure> {
        if self.writer.is_none() || !self.group.is_empty() {
            self.write()?;
        }
        let Some(writer) = self.writer else { return Ok(Vec::new()) };
        let mut lacking = self.members;
        lacking.retain(|member| !writer.has_column(member));
        writer.end(objects).map_err(failed)?;
        Ok(lacking)
    }
}
