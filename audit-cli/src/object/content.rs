//! What an object holds, and whether it contradicts its metadata.

use std::borrow::Cow;
use std::fmt;

use audit_sink_s3::layout::{DecodedLines, ObjectMetadata};

use crate::bucket::Listed;
use crate::plain::is_plain;
use crate::units::{Count, counted};

/// The content of an object that was read to its end.
#[derive(Debug)]
pub(crate) struct Content {
    /// The count, size and hash of its lines.
    pub(crate) lines: DecodedLines,
    /// Its metadata. A directory keeps none.
    pub(crate) metadata: Option<ObjectMetadata>,
    /// The lines that are not records.
    pub(crate) invalid: Option<InvalidLines>,
}

/// Lines that are not JSON objects, which no sink writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidLines {
    /// The number of the first of them, from 1.
    pub(crate) line: u64,
    pub(super) what: Cow<'static, str>,
    pub(crate) count: u64,
}

impl fmt::Display for InvalidLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidLines { line, what, count } = self;
        write!(f, "line {line} {what}")?;
        match count {
            1 => Ok(()),
            count => write!(f, "; {} lines in total are not records", Count(*count)),
        }
    }
}

impl Content {
    /// What is damaged, if anything.
    pub(crate) fn contradiction(&self, object: &Listed) -> Option<String> {
        let invalid = self.invalid.as_ref().map(ToString::to_string);
        let found = self.lines.metadata(object.key.first_sequence());
        let by_metadata =
            self.metadata.as_ref().zip(found).and_then(|(said, found)| contradiction(&found, said));
        match (by_metadata, invalid) {
            (Some(one), Some(other)) => Some(format!("{one}; {other}")),
            (one, other) => one.or(other),
        }
    }

    /// How many lines are records.
    pub(crate) fn records(&self) -> u64 {
        self.lines.count - self.invalid.as_ref().map_or(0, |invalid| invalid.count)
    }
}

/// Why a line is not a record, or `None` if it is one.
pub(crate) fn no_record(line: &[u8]) -> Option<Cow<'static, str>> {
    if line.is_empty() {
        return Some("is empty".into());
    }
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            return Some(format!("is not UTF-8 from byte {} on", error.valid_up_to() + 1).into());
        }
    };
    if text.starts_with('\u{feff}') {
        return Some("begins with a byte order mark, and is not a JSON object".into());
    }
    if is_plain(line) {
        return None;
    }
    if !text.trim_ascii_start().starts_with('{') {
        return Some("is not a JSON object".into());
    }
    let error = serde_json::from_str::<serde::de::IgnoredAny>(text).err()?;
    let why = error.to_string();
    // The parser saw only this line.
    let why = why.split(" at line ").next().unwrap_or(&why);
    Some(format!("is not a JSON object: {why} near byte {}", error.column()).into())
}

/// The differences between an object's lines and key and its metadata.
fn contradiction(found: &ObjectMetadata, said: &ObjectMetadata) -> Option<String> {
    if found == said {
        return None;
    }
    let ObjectMetadata { last_sequence, count, sha256 } = found;
    Some(if count != &said.count {
        format!("holds {}, but its metadata says {}", counted(*count, "record"), Count(said.count))
    } else if sha256 != &said.sha256 {
        "its lines do not match the hash in its metadata".to_owned()
    } else {
        format!(
            "ends with record {last_sequence} according to its key, but with {} according to its metadata",
            said.last_sequence
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_json_object_is_a_record() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for record in ["{}", " {\"a\" : 1}\r", "{\"a\":\"\u{2028}\u{9b}\"}", &deep] {
            assert_eq!(no_record(record.as_bytes()), None, "{record}");
        }
        for (line, what) in [
            (&b""[..], "is empty"),
            (b" ", "is not a JSON object"),
            (b"text", "is not a JSON object"),
            (b"[]", "is not a JSON object"),
            (b"\"{}\"", "is not a JSON object"),
            (b"\xef\xbb\xbf{}", "begins with a byte order mark, and is not a JSON object"),
            (b"{\"a\":\"\xff\"}", "is not UTF-8 from byte 7 on"),
            (b"{}{}", "is not a JSON object: trailing characters near byte 3"),
            (b"{\"a\":1", "is not a JSON object: EOF while parsing an object near byte 6"),
            (
                b"{\"a\":\"\x01\"}",
                "is not a JSON object: control character (\\u0000-\\u001F) found while parsing a string near byte 6",
            ),
            (b"{\0}", "is not a JSON object: key must be a string near byte 2"),
        ] {
            assert_eq!(no_record(line).as_deref(), Some(what), "{line:?}");
        }
    }

    #[test]
    fn contradictions_name_the_field() {
        let said = ObjectMetadata { last_sequence: 9, count: 10, sha256: [1; 32] };
        assert_eq!(contradiction(&said, &said), None);
        let with = |change: fn(&mut ObjectMetadata)| {
            let mut found = said.clone();
            change(&mut found);
            contradiction(&found, &said).unwrap()
        };
        assert_eq!(with(|found| found.count = 8), "holds 8 records, but its metadata says 10");
        assert!(with(|found| found.sha256 = [2; 32]).contains("hash"));
        assert_eq!(
            with(|found| found.last_sequence = 5),
            "ends with record 5 according to its key, but with 9 according to its metadata"
        );
    }
}
