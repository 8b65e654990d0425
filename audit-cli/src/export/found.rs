//! Discovers the members of records.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::object::Part;
use crate::query::{Object, Pointer, escaped};

/// The members of records, in the order in which they were found. Nested members are found up to a
/// depth; members within arrays are not.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pointers: Vec<String>,
    known: HashSet<String>,
    records: u64,
}

const MAX_POINTERS: usize = 256;
const MAX_POINTER_BYTES: usize = 256;
const MAX_DEPTH: usize = 6;

/// A part is passed on after this many records.
const PART_RECORDS: u64 = 256;

impl Part for Found {
    fn is_empty(&self) -> bool {
        self.records == 0
    }

    fn is_full(&self) -> bool {
        self.records >= PART_RECORDS
    }
}

impl Found {
    pub(crate) fn add(&mut self, line: &[u8]) {
        self.records += 1;
        if let Ok(Object(entries)) = serde_json::from_slice(line) {
            self.add_entries("", entries, 1);
        }
    }

    fn add_entries(&mut self, above: &str, entries: Vec<(Cow<'_, str>, &RawValue)>, depth: usize) {
        for (name, value) in entries {
            let pointer = format!("{above}/{}", escaped(&name));
            if pointer.len() > MAX_POINTER_BYTES {
                continue;
            }
            let is_object = value.get().starts_with('{') && depth < MAX_DEPTH;
            match serde_json::from_str::<Object<'_>>(value.get()) {
                Ok(Object(below)) if is_object && !below.is_empty() => {
                    self.add_entries(&pointer, below, depth + 1);
                }
                Ok(_) | Err(_) => self.add_pointer(pointer),
            }
        }
    }

    fn add_pointer(&mut self, pointer: String) {
        if self.pointers.len() < MAX_POINTERS && self.known.insert(pointer.clone()) {
            self.pointers.push(pointer);
        }
    }

    pub(crate) fn merge(&mut self, other: Found) {
        self.records += other.records;
        other.pointers.into_iter().for_each(|pointer| self.add_pointer(pointer));
    }

    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    pub(crate) fn pointers(&self) -> Vec<Pointer> {
        self.pointers.iter().filter_map(|pointer| pointer.parse().ok()).collect()
    }

    pub(crate) fn texts(&self) -> &[String] {
        &self.pointers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_in_order_to_a_depth_and_a_number() {
        let mut found = Found::default();
        found.add(br#"{"b":1,"a":{"y":[{"in":1}],"x":{}},"c/d":{"~":null}}"#);
        found.add(br#"{"a":{"z":1},"b":2,"e":"\u001b"}"#);
        found.add(b"no JSON");
        assert_eq!(found.texts(), ["/b", "/a/y", "/a/x", "/c~1d/~0", "/a/z", "/e"]);
        let deep = format!("{}1{}", "{\"d\":".repeat(1_000), "}".repeat(1_000));
        found.add(deep.as_bytes());
        assert_eq!(found.texts().last().unwrap(), "/d/d/d/d/d/d");
        (0..1_000).for_each(|n| found.add(format!("{{\"m{n}\":1}}").as_bytes()));
        assert_eq!(found.texts().len(), MAX_POINTERS);
    }
}
