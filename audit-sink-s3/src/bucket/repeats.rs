//! Entries that a store lists twice.
//!
//! Some stores list the last key of a page again on the next page, and a store behind a faulty
//! cache or proxy may return whole pages again. Readers would then read records twice. Stores list
//! keys in ascending order, so a key that is not above all earlier ones is either a repeat or shows
//! that the store does not sort. An unsorted listing is an error, since it may be incomplete.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use object_store::path::Path;

/// How many of the last entries are remembered: ten pages of S3.
const REMEMBERED: usize = 10_000;

/// The maximum number of consecutive repeats. Otherwise a store that repeats the same entries on
/// ever new pages would be listed without end.
const MAX_REPEATS: u32 = 100_000;

/// Finds the entries of one listing that were listed before, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// The highest key of an object.
    last: Option<Path>,
    /// Hashes of the last entries, oldest first.
    recent: VecDeque<u64>,
    known: HashSet<u64>,
    /// The number of repeats since the last new entry.
    repeated: u32,
    hasher: RandomState,
}

impl Repeats {
    /// Whether the object at this location is new.
    ///
    /// # Errors
    ///
    /// If it is below an earlier one and not among the last [`REMEMBERED`] entries, or if the store
    /// only repeats itself.
    pub(super) fn is_new_object(&mut self, location: &Path) -> object_store::Result<bool> {
        let hash = self.hasher.hash_one(location);
        let is_above = self.last.as_ref().is_none_or(|last| last < location);
        let is_unknown = self.remember(hash)?;
        match (is_above, is_unknown) {
            // A key above all others is new, even if another key has the same hash.
            (true, _) => self.last = Some(location.clone()),
            (false, false) => {}
            (false, true) => {
                let after = self.last.as_ref().map(ToString::to_string).unwrap_or_default();
                let source = Box::new(OutOfOrder { location: location.clone(), after });
                return Err(object_store::Error::Generic { store: "listing", source });
            }
        }
        Ok(is_above)
    }

    /// Whether an entry that is no object is new. Keys that are not valid paths are listed under
    /// other names, so such entries are in no order. They are only counted.
    ///
    /// # Errors
    ///
    /// If the store only repeats itself.
    pub(super) fn is_new_other(&mut self, name: &str) -> object_store::Result<bool> {
        self.remember(self.hasher.hash_one(name))
    }

    /// Remembers a hash. Returns false if it is remembered already.
    fn remember(&mut self, hash: u64) -> object_store::Result<bool> {
        if !self.known.insert(hash) {
            self.repeated += 1;
            return match self.repeated {
                ..=MAX_REPEATS => Ok(false),
                _ => Err(object_store::Error::Generic { store: "listing", source: ENDLESS.into() }),
            };
        }
        self.repeated = 0;
        self.recent.push_back(hash);
        if self.recent.len() > REMEMBERED
            && let Some(oldest) = self.recent.pop_front()
        {
            self.known.remove(&oldest);
        }
        Ok(true)
    }
}

const ENDLESS: &str = "the store lists the same entries again and again, without end";

#[derive(Debug, thiserror::Error)]
#[error(
    "the store lists {location} after {after}: it does not list in the order of keys, or lists \
     many pages again, so that nothing could be said to be complete"
)]
struct OutOfOrder {
    location: Path,
    after: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether the entry of this number is new. Some are no objects.
    fn is_new(repeats: &mut Repeats, number: u64) -> object_store::Result<bool> {
        let name = format!("{number:012}.ndjson");
        if number % 7 == 3 {
            repeats.is_new_other(&name)
        } else {
            repeats.is_new_object(&Path::from(name))
        }
    }

    proptest! {
        #[test]
        fn pages_listed_again_are_listed_once(
            pages in prop::collection::vec((1..50u64, 0..3usize, 0..3usize), 1..20),
        ) {
            let (mut listed, mut expected) = (Vec::new(), Vec::<u64>::new());
            let mut all: Vec<Vec<u64>> = Vec::new();
            for (entries, again, back) in pages {
                let begin = expected.len() as u64;
                let page: Vec<u64> = (begin..begin + entries).collect();
                expected.extend(&page);
                all.push(page);
                for page in &all[all.len() - 1 - back.min(all.len() - 1)..] {
                    listed.extend(page);
                }
                for _ in 0..again {
                    listed.extend(&all[all.len() - 1]);
                }
            }
            // Only pages that were listed before are repeated, so no entry is out of order.
            let mut repeats = Repeats::default();
            let new: Vec<u64> =
                listed.into_iter().filter(|n| is_new(&mut repeats, *n).unwrap()).collect();
            let distinct: std::collections::BTreeSet<u64> = new.iter().copied().collect();
            prop_assert_eq!(new.len(), distinct.len());
            prop_assert_eq!(distinct.into_iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_listing_out_of_order_is_an_error() {
        let mut repeats = Repeats::default();
        assert!(is_new(&mut repeats, 9).unwrap());
        let error = is_new(&mut repeats, 8).unwrap_err().to_string();
        assert!(error.contains("000000000008") && error.contains("after"), "{error}");
        // A listing that goes in a circle becomes an error too.
        let mut repeats = Repeats::default();
        let mut circle = (0..3 * REMEMBERED as u64).cycle();
        assert!(circle.any(|number| is_new(&mut repeats, number).is_err()));
        assert!(repeats.recent.len() <= REMEMBERED && repeats.known.len() <= REMEMBERED);
    }

    /// This holds even if every page has a new continuation token.
    #[test]
    fn a_listing_that_only_repeats_itself_ends_with_an_error() {
        for size in [1, 2, 7, REMEMBERED as u64] {
            let mut repeats = Repeats::default();
            for number in 0..size {
                assert!(is_new(&mut repeats, number).unwrap());
            }
            let mut again = (0..size).cycle().take(2 * MAX_REPEATS as usize);
            let error = again.find_map(|number| is_new(&mut repeats, number).err()).unwrap();
            assert!(error.to_string().contains("without end"), "{error}");
        }
    }
}
