//! `audit export`: selected records as CSV or Parquet, or unchanged.

pub(crate) mod csv;
pub(crate) mod found;

use std::ops::ControlFlow;
use std::sync::Arc;

use object_store::path::Path;

use crate::arguments::{Common, Export, Format, time_pointers};
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::object::Chunk;
use crate::output::Output;
use crate::parquet::{Exporter, Group, Standard};
use crate::query::Pointer;
use crate::scan::{self, Step};
use crate::sieve::Sieve;

use csv::Csv;
use found::Found;

/// The number of records whose members become columns, unless the columns are given.
const RECORDS_LOOKED_AT: u64 = 1_000;

pub(crate) async fn run(
    arguments: &Export,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let wanted = Wanted::selected(&arguments.selection, arguments.filter.time.is_some());
    let mut gone = Vec::new();
    let csv = match arguments.format {
        Format::Parquet => {
            return export_parquet(arguments, &reader, &wanted, common, output).await;
        }
        Format::Ndjson => None,
        Format::Csv if !arguments.columns.is_empty() => {
            Some(Csv::new(arguments.columns.clone(), false))
        }
        Format::Csv => {
            let sieve = arguments.filter.sieve(wanted.times_ms.clone());
            let (members, removed) = look(&reader, &wanted, sieve, common).await?;
            gone = removed;
            Some(Csv::new(members, true))
        }
    };
    let (csv, sieve) = (Arc::new(csv), Arc::new(arguments.filter.sieve(wanted.times_ms.clone())));
    if let Some(csv) = &*csv {
        output.write(&[csv.head().as_bytes()])?;
    }
    let (selected, is_terminal) = (Arc::clone(&sieve), output.is_terminal());
    let begin = move |object: &Listed| {
        let (stream, csv, sieve) = (object.key.stream(), Arc::clone(&csv), Arc::clone(&selected));
        move |sequence, line: &[u8], chunk: &mut Chunk| {
            if !sieve.selects(line) {
                return;
            }
            match &*csv {
                Some(csv) => csv.row(stream, sequence, line, is_terminal, &mut chunk.bytes),
                None if is_terminal => chunk.bytes.extend_from_slice(&crate::escape::json(line)),
                None => chunk.bytes.extend_from_slice(line),
            }
            chunk.bytes.push(b'\n');
            chunk.ends.push(chunk.bytes.len());
        }
    };
    let take = |step: Step<Chunk>| {
        if let Step::Part(chunk) = step {
            output.write(&[&chunk.bytes])?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let mut scanned = scan::run(&reader, &wanted, common, output, begin, take).await?;
    scanned.add_gone_before(gone, output);
    scanned.end_with_notes(&reader, &wanted, &sieve, output).await
}

async fn export_parquet(
    arguments: &Export,
    reader: &Reader,
    wanted: &Wanted,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    if output.is_terminal() {
        let why = "redirect it into a file, as in > records.parquet";
        return Err(Failure::new("a Parquet file is not for a terminal").because(why));
    }
    let sieve = Arc::new(arguments.filter.sieve(wanted.times_ms.clone()));
    let selected = Arc::clone(&sieve);
    let begin = move |object: &Listed| {
        let (key, sieve) = (object.key, Arc::clone(&selected));
        move |sequence, line: &[u8], group: &mut Group| {
            if sieve.selects(line) {
                group.begin(key.to_string(), key.stream(), None);
                group.add(sequence, line);
            }
        }
    };
    let time = time_pointers(arguments.filter.time.as_ref());
    let mut exporter = Exporter::new(Standard(output), arguments.columns.clone(), time);
    let take = |step: Step<Group>| {
        if let Step::Part(group) = step {
            exporter.add(group)?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let scanned = scan::run(reader, wanted, common, output, begin, take).await?;
    for member in exporter.end(scanned.objects)? {
        output.note(&format!(
            "--columns {member}: no column has it, since it is in none of the first records, is an \
             object or in an array, or has no plain name; audit_record has the whole record"
        ));
    }
    scanned.end_with_notes(reader, wanted, &sieve, output).await
}

/// The members of the first selected records, and the objects that were removed meanwhile.
async fn look(
    reader: &Reader,
    wanted: &Wanted,
    sieve: Sieve,
    common: &Common,
) -> Result<(Vec<Pointer>, Vec<Path>), Failure> {
    let sieve = Arc::new(sieve);
    let begin = |_: &Listed| {
        let sieve = Arc::clone(&sieve);
        move |_, line: &[u8], found: &mut Found| {
            if sieve.selects(line) {
                found.add(line);
            }
        }
    };
    let mut all = Found::default();
    let take = |step: Step<Found>| {
        if let Step::Part(found) = step {
            all.merge(found);
        }
        Ok(match all.records() >= RECORDS_LOOKED_AT {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    };
    // The export itself reports damaged objects.
    let quiet = Output::silent();
    let scanned = scan::run(reader, wanted, common, &quiet, begin, take).await?;
    Ok((all.pointers(), scanned.into_gone()))
}
