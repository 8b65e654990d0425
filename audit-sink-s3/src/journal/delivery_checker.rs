//! Reads a bucket and what stayed beside it as their formats describe them, and shares no code with
//! what writes them.

use std::collections::BTreeMap;
use std::io::Read;
use std::rc::Rc;

use bytes::Bytes;
use object_store::{Attribute, Attributes};
use sha2::{Digest, Sha256};

use super::simulated_bucket::Stored;

/// An object whose records have a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectReading {
    pub(crate) first: u64,
    /// With their line feeds.
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) set_aside: bool,
}

/// What became of the records: for each stream its objects, by the number of their first record.
pub(crate) type Reading = BTreeMap<String, Vec<Rc<ObjectReading>>>;

/// The name of the file in which the object of this key is planned.
pub(crate) fn plan_name(key: &str) -> Option<String> {
    let key = Key::read(key).ok()?;
    Some(format!("{}-{:012}.object", key.stream, key.first))
}

struct Key<'a> {
    stream: &'a str,
    first: u64,
    zstd: bool,
}

impl Key<'_> {
    /// `dt=YYYY-MM-DD/hour=HH/<stream>-<first, 12 digits>.ndjson[.zst]`
    fn read(text: &str) -> Result<Key<'_>, String> {
        let wrong = || format!("{text} is no key of an object");
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
            name.strip_suffix(".ndjson").and_then(|n| n.split_once('-')).ok_or_else(wrong)?;
        let digits = first.len() == 12 && first.bytes().all(|digit| digit.is_ascii_digit());
        if stream.len() != 26 || !digits {
            return Err(wrong());
        }
        Ok(Key { stream, first: first.parse().map_err(|_| wrong())?, zstd })
    }
}

fn lines_of(bytes: &[u8], zstd: bool) -> Result<Vec<Vec<u8>>, String> {
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

/// What was read before: bytes that are the same are not read again.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<String, (Bytes, Rc<ObjectReading>)>);

/// Reads the objects of a bucket, but those of others.
pub(crate) fn read_bucket(
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

fn check_metadata(attributes: &Attributes, key: &Key<'_>, lines: &[Vec<u8>]) -> Result<(), String> {
    let sum: String =
        Sha256::digest(lines.concat()).iter().map(|byte| format!("{byte:02x}")).collect();
    let count = lines.len() as u64;
    let last = (key.first + count - 1).to_string();
    for (name, expected) in
        [("format", "1"), ("count", &count.to_string()), ("lastsequence", &last), ("sha256", &sum)]
    {
        let found = attributes.get(&Attribute::Metadata(name.into())).map(|value| &**value);
        if found != Some(expected) {
            return Err(format!("{name} is {found:?} and not {expected}"));
        }
    }
    Ok(())
}

/// Adds the objects that were set aside.
pub(crate) fn add_set_aside(
    reading: &mut Reading,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<(), String> {
    const HEADER: usize = 242;
    for (name, bytes) in files {
        let Some(stem) = name.strip_suffix(".conflict") else { continue };
        let wrong = || format!("{name} does not hold an object");
        let (header, payload) = bytes.split_at_checked(HEADER).ok_or_else(wrong)?;
        let header = std::str::from_utf8(header).map_err(|_| wrong())?;
        let words: Vec<_> = header.split_ascii_whitespace().collect();
        let [
            "audit",
            "object",
            "1",
            "stream",
            stream,
            "first",
            first,
            "count",
            count,
            "time",
            _,
            "as",
            kind,
            rest @ ..,
        ] = &words[..]
        else {
            return Err(wrong());
        };
        let first = u64::from_str_radix(first, 16).map_err(|_| wrong())?;
        if stem != format!("{stream}-{first:012}") || !matches!(rest, ["bytes", ..]) {
            return Err(wrong());
        }
        let lines = lines_of(payload, *kind == "zstd").map_err(|what| format!("{name}: {what}"))?;
        if u64::from_str_radix(count, 16) != Ok(lines.len() as u64) {
            return Err(wrong());
        }
        let object = Rc::new(ObjectReading { first, lines, set_aside: true });
        reading.entry((*stream).to_owned()).or_default().push(object);
    }
    Ok(())
}

/// How far each stream is said to be delivered.
pub(crate) fn delivered(
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, u64>, String> {
    let mut delivered = BTreeMap::new();
    for (name, bytes) in files {
        let Some(stream) = name.strip_suffix(".delivered") else { continue };
        let next = std::str::from_utf8(bytes).ok().and_then(|text| {
            u64::from_str_radix(text.strip_prefix("audit delivered 1 next ")?.get(..16)?, 16).ok()
        });
        delivered.insert(stream.to_owned(), next.ok_or_else(|| format!("{name} cannot be read"))?);
    }
    Ok(delivered)
}
