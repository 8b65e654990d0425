//! Objects that the store did not return, and damaged ones, as a command reports them.

use object_store::path::Path;

use crate::bucket::Listed;
use crate::failure::Failure;
use crate::object::{Content, GONE, ReadError};
use crate::output::Output;
use crate::units::counted;

/// Objects that the store refused. An archived object, or one encrypted with another key, must not
/// prevent the reading of later ones.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    count: u64,
    in_a_row: u64,
    /// The first [`MAX_GONE`] objects that were removed after they were listed.
    gone: Vec<Path>,
}

/// The most removed objects whose names are kept.
const MAX_GONE: usize = 1_000;

/// After this many refusals in a row, the command assumes that the store refuses everything.
const MAX_REFUSED_IN_A_ROW: u64 = 10;

impl Refused {
    /// Reports a refused object.
    ///
    /// # Errors
    ///
    /// If this is refusal number [`MAX_REFUSED_IN_A_ROW`] in a row.
    pub(crate) fn add(
        &mut self,
        object: &Listed,
        said: &str,
        output: &Output,
    ) -> Result<(), Failure> {
        self.count += 1;
        self.in_a_row += 1;
        let what = format!("cannot read {}", object.location);
        if self.in_a_row == MAX_REFUSED_IN_A_ROW {
            return Err(Failure::new(what).because(said.to_owned()));
        }
        output.note(&format!("{what}: {said}"));
        Ok(())
    }

    /// Reports an object that was removed after it was listed, as a rule of the bucket may do.
    pub(crate) fn add_gone(&mut self, object: &Listed, output: &Output) {
        self.count += 1;
        note_gone(&object.location, output);
        if self.gone.len() < MAX_GONE {
            self.gone.push(object.location.clone());
        }
    }

    /// Takes over the removed objects of an earlier scan, which this one does not list.
    pub(crate) fn add_gone_before(&mut self, before: Vec<Path>, output: &Output) {
        self.count += before.len() as u64;
        before.iter().for_each(|location| note_gone(location, output));
    }

    pub(crate) fn into_gone(self) -> Vec<Path> {
        self.gone
    }

    /// Records that an object was read.
    pub(crate) fn given(&mut self) {
        self.in_a_row = 0;
    }

    /// Fails if any object was refused, since the output is then incomplete.
    pub(crate) fn end(self) -> Result<(), Failure> {
        match self.count {
            0 => Ok(()),
            count => Err(Failure::new(format!("{} could not be read", counted(count, "object")))),
        }
    }
}

fn note_gone(location: &Path, output: &Output) {
    output.note(&format!("cannot read {location}: it {GONE}"));
}

/// Reports the damage of an object. Returns whether it is undamaged.
///
/// # Errors
///
/// If the store did not return it, since the output is then incomplete.
pub(crate) fn ended_well(
    object: &Listed,
    content: &Result<Content, ReadError>,
    refused: &mut Refused,
    output: &Output,
) -> Result<bool, Failure> {
    if let Err(ReadError::Refused(said)) = content {
        refused.add(object, said, output)?;
        return Ok(false);
    }
    refused.given();
    if let Err(ReadError::Gone) = content {
        refused.add_gone(object, output);
        return Ok(false);
    }
    let wrong = match content {
        Ok(content) => content.contradiction(object),
        Err(ReadError::Damaged(what)) => Some(what.clone()),
        Err(ReadError::Unwanted | ReadError::Gone) => None,
        Err(ReadError::Store(said) | ReadError::Refused(said)) => {
            return Err(
                Failure::new(format!("cannot read {}", object.location)).because(said.clone())
            );
        }
    };
    if let Some(wrong) = &wrong {
        output.note(&format!("{}: {wrong}", object.location));
    }
    Ok(wrong.is_none())
}
