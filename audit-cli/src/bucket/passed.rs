//! Objects that a listing passed over.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::output;
use crate::units::{Count, counted};
use audit_sink_s3::layout::Partition;

/// Counts of listed objects that hold no records or are not selected.
#[derive(Debug, Default)]
pub(super) struct Passed {
    of_other_streams: AtomicU64,
    others: AtomicU64,
    leftovers: AtomicU64,
    example: Mutex<Option<String>>,
    /// An example and the number of foreign objects, written by neither a sink nor a dead writer.
    foreign: Mutex<Option<(String, u64)>>,
    top: Mutex<Top>,
}

/// The entries directly below the prefix.
#[derive(Debug, Clone, Default)]
pub(super) struct Top {
    /// The first and the last day.
    pub(super) ends: Option<(Partition, Partition)>,
    /// Entries that are not days.
    pub(super) beside: Vec<String>,
}

/// Objects in the partitions that no sink wrote.
#[derive(Debug)]
pub(crate) struct Others {
    pub(crate) count: u64,
    /// The leftovers of dead writers among them.
    pub(crate) leftovers: u64,
    pub(crate) example: String,
}

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Others { count, leftovers, example } = self;
        let others = counted(*count, "other object");
        write!(f, "{others} among the partitions, such as {example}")?;
        match leftovers {
            0 => Ok(()),
            leftovers => write!(f, "; {} of them left by writers that died", Count(*leftovers)),
        }
    }
}

impl Passed {
    /// Counts an entry that is not an object of a sink.
    pub(super) fn add(&self, name: String, is_leftover: bool) {
        self.leftovers.fetch_add(u64::from(is_leftover), Ordering::Relaxed);
        // A name that ends with a slash marks a folder. Query engines do not read it as records.
        if !is_leftover && !name.ends_with('/') {
            self.add_foreign(&name);
        }
        let others = self.others.fetch_add(1, Ordering::Relaxed) + 1;
        let note = note_after(others, &name);
        if others == 1 {
            *self.example.lock() = Some(name);
        }
        if let Some(note) = note {
            output::note(&note);
        }
    }

    /// Counts an entry that query engines may take for records.
    pub(super) fn add_foreign(&self, name: &str) {
        self.foreign.lock().get_or_insert_with(|| (name.to_owned(), 0)).1 += 1;
    }

    pub(super) fn add_of_other_stream(&self) {
        self.of_other_streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of_other_streams(&self) -> u64 {
        self.of_other_streams.load(Ordering::Relaxed)
    }

    pub(super) fn others(&self) -> Option<Others> {
        let example = self.example.lock().clone()?;
        let count = self.others.load(Ordering::Relaxed);
        Some(Others { count, leftovers: self.leftovers.load(Ordering::Relaxed), example })
    }

    pub(super) fn foreign(&self) -> Option<(String, u64)> {
        self.foreign.lock().clone()
    }

    pub(super) fn top(&self) -> Top {
        self.top.lock().clone()
    }

    pub(super) fn set_top(&self, top: Top) {
        *self.top.lock() = top;
    }
}

/// The note to print once this many other objects were listed: after a million, ten million, and so
/// on. Nothing else is printed meanwhile, and a store may invent names for ever.
fn note_after(others: u64, name: &str) -> Option<String> {
    let log = others.checked_ilog10().filter(|log| *log >= 6)?;
    let others = (others == 10u64.pow(log)).then_some(Count(others))?;
    Some(format!(
        "{others} objects that are no records were listed so far, the last of them {name}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_of_other_objects_does_not_go_on_without_a_word() {
        let notes = (0..=11_000_000).filter_map(|others| note_after(others, "dt=2023-11-14/x"));
        assert_eq!(
            notes.collect::<Vec<_>>(),
            ["1,000,000", "10,000,000"].map(|others| format!(
                "{others} objects that are no records were listed so far, the last of them \
                 dt=2023-11-14/x"
            ))
        );
        assert_eq!(note_after(u64::MAX, "x"), None);
    }
}
