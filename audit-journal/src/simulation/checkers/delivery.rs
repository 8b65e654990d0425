//! Reads a delivery's files in a journal's directory as the format describes them, without sharing
//! code with the writer.

use std::collections::BTreeMap;
use std::rc::Rc;

/// An object of the records at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectReading {
    pub first: u64,
    /// Including line feeds.
    pub lines: Vec<Vec<u8>>,
    pub set_aside: bool,
}

/// The objects of each stream, in the order of their first records.
pub type Reading = BTreeMap<String, Vec<Rc<ObjectReading>>>;

/// Returns the lines of an object, given its bytes and encoding.
pub type LinesOf = fn(&[u8], &str) -> Result<Vec<Vec<u8>>, String>;

/// Adds the objects that were set aside.
pub fn add_set_aside(
    reading: &mut Reading,
    files: &BTreeMap<String, Vec<u8>>,
    lines_of: LinesOf,
) -> Result<(), String> {
    const HEADER: usize = 242;
    const SEALED: usize = HEADER + 56;
    for (name, bytes) in files {
        let Some(stem) = name.strip_suffix(".conflict") else { continue };
        let wrong = || format!("{name} does not hold an object");
        let is_sealed = bytes.starts_with(b"audit object 2 ");
        let header = if is_sealed { SEALED } else { HEADER };
        let (header, mut payload) = bytes.split_at_checked(header).ok_or_else(wrong)?;
        let header = std::str::from_utf8(header).map_err(|_| wrong())?;
        let words: Vec<_> = header.split_ascii_whitespace().collect();
        let [
            "audit",
            "object",
            "1" | "2",
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
        // The parts of the seal that binds it to other objects.
        for word in ["before", "after", "metadata"].iter().filter(|_| is_sealed) {
            let at = words.iter().position(|found| found == word).ok_or_else(wrong)?;
            let bytes = words.get(at + 1).ok_or_else(wrong)?;
            let bytes = usize::from_str_radix(bytes, 16).map_err(|_| wrong())?;
            payload = payload.get(bytes..).ok_or_else(wrong)?;
        }
        let lines = lines_of(payload, kind).map_err(|what| format!("{name}: {what}"))?;
        if u64::from_str_radix(count, 16) != Ok(lines.len() as u64) {
            return Err(wrong());
        }
        let object = Rc::new(ObjectReading { first, lines, set_aside: true });
        reading.entry((*stream).to_owned()).or_default().push(object);
    }
    Ok(())
}

/// Whether a file of this name has an object that was set aside.
pub fn is_set_aside(name: &str) -> bool {
    name.ends_with(".conflict")
}

/// Whether a file of this name has a watermark.
pub fn is_delivered(name: &str) -> bool {
    name.ends_with(".delivered")
}

/// The recorded watermark of each stream.
pub fn delivered(files: &BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, u64>, String> {
    let mut delivered = BTreeMap::new();
    for (name, bytes) in files {
        let Some(stream) = name.strip_suffix(".delivered") else { continue };
        let next = std::str::from_utf8(bytes).ok().and_then(|text| {
            let next = text
                .strip_prefix("audit delivered 1 next ")
                .or_else(|| text.strip_prefix("audit delivered 2 next "))
                .or_else(|| text.strip_prefix("audit delivered 3 next "))
                .or_else(|| text.strip_prefix("audit delivered 4 next "))?;
            u64::from_str_radix(next.get(..16)?, 16).ok()
        });
        delivered.insert(stream.to_owned(), next.ok_or_else(|| format!("{name} cannot be read"))?);
    }
    Ok(delivered)
}
