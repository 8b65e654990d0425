//! An object's metadata in a file, for stores without metadata.

use std::collections::BTreeMap;

use crate::ObjectHead;

/// The metadata of an object in a directory: a file under `_audit/heads/`, written before its
/// object, with a line of name, blank and value for each member.
///
/// ```
/// use audit_evidence::Sidecar;
///
/// let key = "dt=2026-11-24/hour=14/01M86YQH3BN92MTRKE2RS1CKJ5-000000000000.ndjson.zst";
/// assert_eq!(Sidecar::key_of(key), format!("_audit/heads/{key}.head"));
///
/// let sidecar = Sidecar::parse(b"format 2\nleft \n").ok_or("these are members")?;
/// assert_eq!((sidecar.get("format"), sidecar.get("left")), (Some("2"), Some("")));
/// assert_eq!(Sidecar::parse(b"format 2\nformat 2\n"), None);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    members: BTreeMap<String, String>,
}

impl Sidecar {
    /// The longest file that is read, in bytes. Stores limit metadata to 2 KB.
    pub const MAX_BYTES: u64 = 4 << 10;

    /// The key of the metadata file of the object at `key`. It ends in `.head`, so that no pattern
    /// for objects matches it.
    pub fn key_of(key: &str) -> String {
        format!("_audit/heads/{key}.head")
    }

    /// The text of an object's file.
    pub fn text(head: &ObjectHead) -> String {
        let members = head.to_metadata();
        members.iter().map(|(name, value)| format!("{name} {value}\n")).collect()
    }

    /// Parses a file. `None` if it is malformed: the object then counts as having no metadata.
    pub fn parse(file: &[u8]) -> Option<Sidecar> {
        let lines = std::str::from_utf8(file).ok()?.strip_suffix('\n')?;
        let mut members = BTreeMap::new();
        for line in lines.split('\n') {
            let (name, value) = line.split_once(' ')?;
            if members.insert(name.to_owned(), value.to_owned()).is_some() {
                return None;
            }
        }
        Some(Sidecar { members })
    }

    /// The value of a member.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.members.get(name).map(String::as_str)
    }
}
