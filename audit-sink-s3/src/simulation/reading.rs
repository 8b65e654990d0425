//! A reader of buckets, written from the format's description without sharing code with the writer.

use std::collections::BTreeMap;
use std::io::Read;
use std::rc::Rc;

use audit_journal::simulation::bucket::Stored;
use audit_journal::simulation::checkers::delivery::{ObjectReading, Reading};
use audit_journal::simulation::destination::Known;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

pub(super) struct Key<'a> {
    pub(super) stream: &'a str,
    pub(super) first: u64,
    pub(super) zstd: bool,
}

impl Key<'_> {
    /// `dt=YYYY-MM-DD/hour=HH/<stream>-<first, 12 digits>.ndjson[.zst]`, and of the host's own
    /// records `_audit/dt=YYYY-MM-DD/hour=HH/<stream>-<number, 12 digits>.system`
    pub(super) fn read(text: &str) -> Result<Key<'_>, String> {
        let wrong = || format!("{text} is no key of an object");
        let (text, suffix) = match text.strip_prefix("_audit/") {
            Some(text) => (text, ".system"),
            None => (text, ".ndjson"),
        };
        let shape = "dt=0000-00-00/hour=00/";
        let (directories, name) = text.split_at_checked(shape.len()).ok_or_else(wrong)?;
        let fits = |(c, s): (char, char)| if s == '0' { c.is_ascii_digit() } else { c == s };
        if !directories.chars().zip(shape.chars()).all(fits) {
            return Err(wrong());
        }
        let (name, zstd) = match name.strip_suffix(".zst") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (stream, first) =
            name.strip_suffix(suffix).and_then(|n| n.split_once('-')).ok_or_else(wrong)?;
        let digits = first.len() == 12 && first.bytes().all(|digit| digit.is_ascii_digit());
        if stream.len() != 26 || !digits {
            return Err(wrong());
        }
        Ok(Key { stream, first: first.parse().map_err(|_| wrong())?, zstd })
    }
}

pub(crate) fn lines_of(bytes: &[u8], zstd: bool) -> Result<Vec<Vec<u8>>, String> {
    let mut text = Vec::new();
    if zstd {
        let decoder = zstd::Decoder::new(bytes).map_err(|error| error.to_string())?;
        decoder.single_frame().read_to_end(&mut text).map_err(|error| error.to_string())?;
    } else {
        text.extend_from_slice(bytes);
    }
    if text.last() != Some(&b'\n') {
        return Err("the last line has no end".to_owned());
    }
    Ok(text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
}

/// Reads the objects of a bucket, except foreign ones.
pub(crate) fn read(
    known: &mut Known,
    objects: &BTreeMap<String, Stored>,
    metadata: bool,
) -> Result<Reading, String> {
    let mut reading = Reading::new();
    for (name, Stored { bytes, attributes, foreign }) in objects {
        if *foreign {
            continue;
        }
        let key = Key::read(name)?;
        if let Some((_, object)) = known.0.get(name).filter(|(before, _)| before == bytes) {
            reading.entry(key.stream.to_owned()).or_default().push(Rc::clone(object));
            continue;
        }
        let lines = lines_of(bytes, key.zstd).map_err(|what| format!("{name}: {what}"))?;
        if metadata {
            check_metadata(attributes, &key, &lines).map_err(|what| format!("{name}: {what}"))?;
        }
        let object = Rc::new(ObjectReading { first: key.first, lines, set_aside: false });
        known.0.insert(name.clone(), (bytes.clone(), Rc::clone(&object)));
        reading.entry(key.stream.to_owned()).or_default().push(object);
    }
    Ok(reading)
}

fn check_metadata(
    attributes: &BTreeMap<String, String>,
    key: &Key<'_>,
    lines: &[Vec<u8>],
) -> Result<(), String> {
    let sum = HEXLOWER.encode(&Sha256::digest(lines.concat()));
    let count = lines.len() as u64;
    let last = (key.first + count - 1).to_string();
    for (name, expected) in [
        ("format", if attributes.contains_key("sig") { "2" } else { "1" }),
        ("count", &count.to_string()),
        ("lastsequence", &last),
        ("sha256", &sum),
    ] {
        let found = attributes.get(name).map(String::as_str);
        if found != Some(expected) {
            return Err(format!("{name} is {found:?} and not {expected}"));
        }
    }
    Ok(())
}
