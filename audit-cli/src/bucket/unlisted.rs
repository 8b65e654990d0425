//! Parts of a bucket that the store refused to list.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::failure::Failure;
use crate::output;

/// The names of partitions that the store refused to list: directories that belong to another user,
/// or prefixes that a policy excepts. The command still reads the other partitions.
#[derive(Debug, Default)]
pub(super) struct Unlisted(Mutex<BTreeSet<String>>);

/// After this many refused partitions, the command assumes that the store refuses everything.
const MAX_UNLISTED: usize = 100;

impl Unlisted {
    /// Records a refused partition, and prints a note unless it is already known.
    ///
    /// # Errors
    ///
    /// If [`MAX_UNLISTED`] partitions were refused before.
    pub(super) fn add(&self, name: String, said: &str) -> Result<(), Failure> {
        let mut names = self.0.lock();
        if names.contains(&name) {
            return Ok(());
        }
        let what = format!("cannot list {name}");
        if names.len() >= MAX_UNLISTED {
            return Err(Failure::new(what).because(said.to_owned()));
        }
        names.insert(name);
        output::note(&format!("{what}: {said}"));
        Ok(())
    }

    /// Fails if any partition was refused.
    pub(super) fn end(&self) -> Result<(), Failure> {
        match self.0.lock().len() {
            0 => Ok(()),
            count => Err(Failure::new(format!("days or hours that could not be listed: {count}"))),
        }
    }
}
