//! `audit journal`: shows the journal of a host, and delivers that of a host that is gone.

mod again;
mod deliver;
mod routes;
mod show;
mod waiting;

use audit_core::with_sources;
use audit_journal::{JournalBatch, JournalReader, JournalRecords, OpenErrorKind};

use self::deliver::deliver;
use self::show::show;
use crate::arguments::{Common, JournalCat, JournalCommand, JournalDirectory};
use crate::failure::{Failure, Outcome};
use crate::object::Chunk;
use crate::output::Output;
use crate::printer::Printer;

pub(crate) async fn run(
    command: &JournalCommand,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    match command {
        JournalCommand::Show(directory) => show(directory, output),
        JournalCommand::Cat(arguments) => cat(arguments, output),
        JournalCommand::Deliver(arguments) => deliver(arguments, common, output).await,
    }
}

/// Reads a journal. Damage is a result of the command rather than a failure.
fn read(directory: &JournalDirectory, output: &Output) -> Result<Option<JournalReader>, Failure> {
    match JournalReader::open(&directory.directory) {
        Ok(reader) => Ok(Some(reader)),
        Err(error) if error.kind() == OpenErrorKind::Damaged => {
            let what = with_sources(&error);
            if output.is_json() {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                output.json(&serde_json::json!({ "damaged": cause.unwrap_or(what) }))?;
            } else {
                output.line(&output.style().bad(&what))?;
            }
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn cannot_read(error: std::io::Error) -> Failure {
    Failure::new("the journal cannot be read").because(error)
}

fn cat(arguments: &JournalCat, output: &Output) -> Result<Outcome, Failure> {
    let Some(reader) = read(&arguments.directory, output)? else { return Ok(Outcome::Wrong) };
    let printer = Printer::new(&arguments.filter, i64::MIN..i64::MAX, arguments.pretty, output);
    let records = match (arguments.delivered, arguments.all) {
        (true, _) => JournalRecords::Delivered,
        (false, true) => JournalRecords::All,
        (false, false) => JournalRecords::Undelivered,
    };
    let mut failed = None;
    reader
        .batches(records, |batch| {
            let JournalBatch { stream, first_sequence, time_ms: _, lines } = batch;
            let mut chunk = Chunk::default();
            let records = lines.split(|byte| *byte == b'\n').filter(|record| !record.is_empty());
            for (sequence, record) in (first_sequence..).zip(records) {
                printer.print(stream, sequence, record, &mut chunk);
            }
            failed = output.write(&[&chunk.bytes]).err();
            failed.is_none()
        })
        .map_err(cannot_read)?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    printer.sieve().notes().iter().for_each(|note| output.note(note));
    Ok(Outcome::Well)
}
