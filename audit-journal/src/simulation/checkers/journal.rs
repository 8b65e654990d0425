//! Reads the files of a journal as the format describes them, without sharing code with the
//! journal.
//!
//! Recovery walks from group to group and stops where there is none. This checker looks for groups
//! at every block of every segment, and then checks that they form one chain.

use std::collections::BTreeMap;

/// The contents of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The segments that hold groups, in order.
    pub segments: Vec<SegmentReading>,
    /// The records of each stream, in the order of the streams in the journal.
    pub streams: Vec<StreamReading>,
    /// The segment and offset of the first block after the last group.
    pub end: (u32, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReading {
    pub ordinal: u32,
    pub stream: String,
    pub sequences: std::ops::Range<u64>,
    pub end: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReading {
    pub stream: String,
    pub first: u64,
    /// Including line feeds.
    pub records: Vec<Vec<u8>>,
}

const BLOCK: usize = 4096;

/// Reads these files, by name. The error says where they differ from those of a journal.
pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Reading, String> {
    let begin = match files.get("begin") {
        Some(file) => begin(file).ok_or("the file begin cannot be read")?,
        None => 1,
    };
    let mut groups: Vec<Group> = Vec::new();
    let mut expected_ordinal = begin;
    for (name, bytes) in files {
        let Some(digits) = name.strip_suffix(".journal") else { continue };
        let ordinal =
            u32::from_str_radix(digits, 16).map_err(|_| format!("{name} is no segment's name"))?;
        if u64::from(ordinal) < begin {
            continue;
        }
        if u64::from(ordinal) != expected_ordinal {
            return Err(format!("{name}: segment {expected_ordinal} is missing"));
        }
        expected_ordinal += 1;
        let salt = segment_salt(ordinal, bytes).ok_or_else(|| format!("{name} has no header"))?;
        for at in (BLOCK..bytes.len()).step_by(BLOCK) {
            let Some(group) = Group::read(&bytes[at..], salt, (ordinal, at as u64)) else {
                continue;
            };
            // A group for which there was no space: the group after it, in another segment,
            // replaces it.
            let given_up = |before: &mut Group| {
                before.place.0 < ordinal
                    && before.durable == group.durable
                    && before.first == group.first
            };
            groups.pop_if(given_up);
            groups.push(group);
        }
    }
    let begin = u32::try_from(begin).map_err(|_| "the file begin cannot be right")?;
    chain(groups, begin)
}

/// Checks that these groups form one chain, and returns their contents.
fn chain(groups: Vec<Group>, begin: u32) -> Result<Reading, String> {
    let mut reading = Reading::default();
    let mut last: Option<(u32, u64)> = None;
    let mut next_ordinal = begin;
    for group in groups {
        let Group { stream, first, place, durable, bytes, records } = group;
        let here = || format!("segment {} at byte {}", place.0, place.1);
        match last {
            Some(last) if durable != last => {
                return Err(format!(
                    "{}: follows {durable:?}, and what is there ends at {last:?}",
                    here()
                ));
            }
            None if durable.0 >= begin => {
                return Err(format!("{}: follows {durable:?}, which is not there", here()));
            }
            Some(_) | None => {}
        }
        let expected = last.filter(|last| last.0 == place.0).map_or(BLOCK as u64, |last| last.1);
        if expected != place.1 {
            return Err(format!("{}: a group is not where the one before it ends", here()));
        }
        // Segments that contain only groups for which there was no space.
        for ordinal in next_ordinal..place.0 {
            let (stream, sequences, end) = (stream.clone(), first..first, BLOCK as u64);
            reading.segments.push(SegmentReading { ordinal, stream, sequences, end });
        }
        next_ordinal = place.0 + 1;
        let next = first + records.len() as u64;
        let end = (place.1 + bytes as u64).next_multiple_of(BLOCK as u64);
        last = Some((place.0, end));
        match reading.segments.last_mut().filter(|segment| segment.ordinal == place.0) {
            Some(segment) if segment.stream != stream => {
                return Err(format!("{}: two streams in one segment", here()));
            }
            Some(segment) => {
                segment.sequences.end = next;
                segment.end = end;
            }
            None => {
                let (ordinal, stream, sequences) = (place.0, stream.clone(), first..next);
                reading.segments.push(SegmentReading { ordinal, stream, sequences, end });
            }
        }
        match reading.streams.last_mut().filter(|known| known.stream == stream) {
            Some(known) if known.first + known.records.len() as u64 != first => {
                return Err(format!("{}: record {first} is out of turn", here()));
            }
            Some(known) => known.records.extend(records),
            None => {
                if reading.streams.iter().any(|before| before.stream == stream) {
                    return Err(format!("{}: stream {stream} stands twice", here()));
                }
                reading.streams.push(StreamReading { stream, first, records });
            }
        }
    }
    reading.end = last.unwrap_or((0, 0));
    Ok(reading)
}

fn begin(file: &[u8]) -> Option<u64> {
    match sealed_line(file, 0)?[..] {
        [b"audit", b"begin", b"1", b"segment", ordinal] => hex(ordinal),
        _ => None,
    }
}

fn segment_salt(ordinal: u32, bytes: &[u8]) -> Option<u32> {
    let words = sealed_line(bytes, 0)?;
    let [b"audit", b"journal", b"1", b"segment", number, b"salt", salt, b"bytes", len] = words[..]
    else {
        return None;
    };
    let right = hex(number)? == u64::from(ordinal) && hex(len)? == bytes.len() as u64;
    right.then(|| u32::try_from(hex(salt)?).ok()).flatten()
}

struct Group {
    stream: String,
    first: u64,
    /// Its segment, and its offset in it.
    place: (u32, u64),
    durable: (u32, u64),
    /// Including its header.
    bytes: usize,
    records: Vec<Vec<u8>>,
}

impl Group {
    fn read(from: &[u8], salt: u32, place: (u32, u64)) -> Option<Group> {
        let line_words = sealed_line(from, salt)?;
        let [b"group", stream, b"first", first, b"count", count, b"batches", batches, rest @ ..] =
            &line_words[..]
        else {
            return None;
        };
        let [b"bytes", payload, b"durable", durable, b"sum", sum] = rest else { return None };
        let line = from.iter().position(|byte| *byte == b'\n')? + 1;
        let payload = usize::try_from(hex(payload)?).ok()?;
        let mut rest = from.get(line..line + payload)?;
        let mut headers = salt;
        let mut records = Vec::new();
        for _ in 0..hex(batches)? {
            let line = rest.iter().position(|byte| *byte == b'\n')? + 1;
            let (header, behind) = rest.split_at(line);
            headers = crc32c::crc32c_append(headers, header);
            let words = words(&header[..line - 1]);
            let [b"batch", _, b"time", _, b"count", count, b"bytes", bytes, b"sum", sum] =
                words[..]
            else {
                return None;
            };
            let (lines, behind) = behind.split_at_checked(usize::try_from(hex(bytes)?).ok()?)?;
            let summed = &header[..line - b"sum 12345678\n".len()];
            if u64::from(crc32c::crc32c_append(crc32c::crc32c(summed), lines)) != hex(sum)? {
                return None;
            }
            let before = records.len();
            records.extend(lines.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec));
            if (records.len() - before) as u64 != hex(count)? {
                return None;
            }
            rest = behind;
        }
        let mut durable = durable.split(|byte| *byte == b'+');
        let durable = (u32::try_from(hex(durable.next()?)?).ok()?, hex(durable.next()?)?);
        let whole = rest.is_empty()
            && records.len() as u64 == hex(count)?
            && u64::from(headers) == hex(sum)?;
        let (stream, first) = (String::from_utf8(stream.to_vec()).ok()?, hex(first)?);
        whole.then_some(Group { stream, first, place, durable, bytes: line + payload, records })
    }
}

/// The words of a line that ends with the checksum of the words before.
fn sealed_line(bytes: &[u8], salt: u32) -> Option<Vec<&[u8]>> {
    if bytes.first() == Some(&0) {
        return None;
    }
    let line = &bytes[..bytes.iter().take(BLOCK).position(|byte| *byte == b'\n')?];
    let (text, sum) = line.split_at_checked(line.len().checked_sub(8)?)?;
    if u64::from(crc32c::crc32c_append(salt, text)) != hex(sum)? {
        return None;
    }
    Some(words(text.strip_suffix(b" ")?))
}

fn words(line: &[u8]) -> Vec<&[u8]> {
    line.split(|byte| *byte == b' ').collect()
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}
