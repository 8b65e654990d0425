//! The names of objects.

use std::fmt;
use std::str::FromStr;

use audit_core::UniqueId;
use chrono::{NaiveDate, NaiveDateTime, Timelike};

use super::partition::{HOUR_MS, Partition, date_time, hour_of};
use crate::Compression;

/// The name of an object below the sink's prefix:
/// `dt=YYYY-MM-DD/hour=HH/<stream>-<first sequence>.ndjson<suffix>`.
///
/// Day and hour are those of the object's first record, in UTC; written as Hive partitions, they
/// let Athena, Trino, Spark and DuckDB skip what a query does not need. Below them names sort by
/// stream, and so by the time a stream began, then by sequence number, which has 12 digits, or more
/// beyond 10^12 records in a stream: names stay unique, but no longer sort by number.
///
/// A stream and a first sequence number identify one object for ever: a key is never used for other
/// bytes.
///
/// A host's [system records](Self::system) about a stream have keys of the form
/// `_audit/dt=YYYY-MM-DD/hour=HH/<stream>-<sequence>.system`. Query engines skip names that begin
/// with an underscore, and no pattern for objects matches the suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The first field, since keys of system objects sort before all others.
    is_data: bool,
    /// Hours since the Unix epoch, within the years 1 to 9999.
    hour: i64,
    stream: UniqueId,
    first_sequence: u64,
    compression: Compression,
}

impl ObjectKey {
    /// The key of the object whose first record has this time (milliseconds since the Unix epoch),
    /// stream and sequence number. A time outside the years 1 to 9999 is filed under the nearest
    /// hour within.
    pub fn new(
        time_ms: i64,
        stream: UniqueId,
        first_sequence: u64,
        compression: Compression,
    ) -> ObjectKey {
        ObjectKey { is_data: true, hour: hour_of(time_ms), stream, first_sequence, compression }
    }

    /// The key of an object with one system record, a host's statement about the stream. It is not
    /// compressed.
    pub fn system(time_ms: i64, stream: UniqueId, sequence: u64) -> ObjectKey {
        let hour = hour_of(time_ms);
        let compression = Compression::None;
        ObjectKey { is_data: false, hour, stream, first_sequence: sequence, compression }
    }

    /// Whether the object holds a system record rather than logged records.
    pub fn is_system(&self) -> bool {
        !self.is_data
    }

    /// The beginning of the object's hour, in milliseconds since the Unix epoch.
    pub fn hour_ms(&self) -> i64 {
        self.hour * HOUR_MS
    }

    /// The object's hour.
    pub fn partition(&self) -> Partition {
        Partition::hour_of(self.hour_ms())
    }

    /// The stream the records belong to.
    pub fn stream(&self) -> UniqueId {
        self.stream
    }

    /// The number of the first record in the object.
    pub fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// How the object is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

/// The directory below a bucket's prefix for everything but records: system objects, metadata files
/// of objects in a directory, and the probe.
pub const SYSTEM_PREFIX: &str = "_audit/";

const SYSTEM_SUFFIX: &str = ".system";

/// The directory below the prefix in which a sink on a directory writes an object before renaming
/// it.
pub(crate) const UNFINISHED: &str = "_audit/unfinished";

/// Whether a file below the prefix of a `file://` bucket is a leftover of a crashed writer: part of
/// an object, or a copy of one under a second name. Every acknowledged record in it is also in the
/// bucket. Readers skip it.
///
/// Objects are written under `_audit/unfinished/` first. The `object_store` crate, which earlier
/// versions used for this, leaves `<key>#<digits>`.
///
/// ```
/// use audit_sink_s3::layout::is_leftover;
///
/// let key = "dt=2023-11-14/hour=22/0000000000000000000000002D-000000000042.ndjson.zst";
/// assert!(!is_leftover(key));
/// assert!(is_leftover(&format!("{key}#7")));
/// ```
pub fn is_leftover(name: &str) -> bool {
    if name.strip_prefix(UNFINISHED).is_some_and(|rest| rest.starts_with('/')) {
        return true;
    }
    name.rsplit_once('#').is_some_and(|(key, number)| {
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && key.parse::<ObjectKey>().is_ok()
    })
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectKey { is_data, hour, stream, first_sequence, compression } = self;
        let time = date_time(*hour);
        let (date, hour) = (time.date(), time.hour());
        if !is_data {
            f.write_str(SYSTEM_PREFIX)?;
        }
        write!(f, "dt={date}/hour={hour:02}/{stream}-{first_sequence:012}")?;
        if *is_data {
            write!(f, ".ndjson{}", compression.suffix())
        } else {
            f.write_str(SYSTEM_SUFFIX)
        }
    }
}

/// The text is not the key of an object that a sink wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is dt=YYYY-MM-DD/hour=HH/<stream>-<first sequence>.ndjson, .ndjson.gz or .ndjson.zst"
)]
pub struct InvalidKey;

impl FromStr for ObjectKey {
    type Err = InvalidKey;

    /// Parses a key without its prefix: exactly the form that [`Display`](fmt::Display) writes, so
    /// that an object has one name.
    fn from_str(text: &str) -> Result<ObjectKey, InvalidKey> {
        let key = parse(text).ok_or(InvalidKey)?;
        if key.to_string() == text { Ok(key) } else { Err(InvalidKey) }
    }
}

/// Accepts more than the canonical form; the caller compares.
fn parse(text: &str) -> Option<ObjectKey> {
    let (text, is_data) = match text.strip_prefix(SYSTEM_PREFIX) {
        Some(text) => (text, false),
        None => (text, true),
    };
    let (date, rest) = text.strip_prefix("dt=")?.split_once("/hour=")?;
    let (hour, name) = rest.split_once('/')?;
    let time: NaiveDateTime =
        date.parse::<NaiveDate>().ok()?.and_hms_opt(hour.parse().ok()?, 0, 0)?;
    let ends_as = if is_data { ".ndjson" } else { SYSTEM_SUFFIX };
    let (numbers, suffix) = name.split_once(ends_as)?;
    let (stream, first_sequence) = numbers.split_once('-')?;
    let time_ms = time.and_utc().timestamp_millis();
    let (stream, first_sequence) = (stream.parse().ok()?, first_sequence.parse().ok()?);
    if !is_data {
        return suffix.is_empty().then(|| ObjectKey::system(time_ms, stream, first_sequence));
    }
    let compression = Compression::of_suffix(suffix)?;
    Some(ObjectKey::new(time_ms, stream, first_sequence, compression))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compressions() -> impl Strategy<Value = Compression> {
        prop::sample::select(vec![Compression::Zstd, Compression::Gzip, Compression::None])
    }

    proptest! {
        #[test]
        fn keys_round_trip(time_ms: i64, stream: u128, first: u64, compression in compressions()) {
            let stream = UniqueId::from_bits(stream);
            let (data, system) = (
                ObjectKey::new(time_ms, stream, first, compression),
                ObjectKey::system(time_ms, stream, first),
            );
            for key in [data, system] {
                prop_assert_eq!(key.to_string().parse(), Ok(key));
            }
            prop_assert!(system.is_system() && !data.is_system());
            prop_assert_eq!(system.to_string().cmp(&data.to_string()), system.cmp(&data));
        }

        #[test]
        fn text_order_is_time_order_then_record_order(
            a in (0..253_402_300_800_000i64, 0..1_000_000_000_000u64),
            b in (0..253_402_300_800_000i64, 0..1_000_000_000_000u64),
            stream: u128,
        ) {
            let key = |(time, first)| ObjectKey::new(time, UniqueId::from_bits(stream), first, Compression::Zstd);
            let (a, b) = (key(a), key(b));
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }

        #[test]
        fn arbitrary_text_is_canonical_or_rejected(
            text in "(_audit/)?(dt=)?[0-9+-]{0,12}/hour=[0-9+]{1,3}/[0-9A-Z]{26}-[0-9+]{0,14}.(ndjson|system)(.zst|.gz|.bz2)?",
        ) {
            if let Ok(key) = text.parse::<ObjectKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }

    #[test]
    fn keys_match_the_documentation() {
        let stream = UniqueId::from_bits(77);
        let name = |time_ms, first, compression| {
            ObjectKey::new(time_ms, stream, first, compression).to_string()
        };
        let id = "0000000000000000000000002D";
        assert_eq!(
            name(1_700_000_000_000, 42, Compression::Zstd),
            format!("dt=2023-11-14/hour=22/{id}-000000000042.ndjson.zst")
        );
        assert_eq!(
            name(-1, 0, Compression::Gzip),
            format!("dt=1969-12-31/hour=23/{id}-000000000000.ndjson.gz")
        );
        assert_eq!(
            name(i64::MAX, 1_000_000_000_000, Compression::None),
            format!("dt=9999-12-31/hour=23/{id}-1000000000000.ndjson")
        );
        assert_eq!(
            name(i64::MIN, 1, Compression::None),
            format!("dt=0001-01-01/hour=00/{id}-000000000001.ndjson")
        );
        assert_eq!(
            ObjectKey::system(1_700_000_000_000, stream, 42).to_string(),
            format!("_audit/dt=2023-11-14/hour=22/{id}-000000000042.system")
        );
    }

    #[test]
    fn only_leftovers_are_leftovers() {
        let key = "dt=2023-11-14/hour=22/0000000000000000000000002D-000000000042.ndjson.zst";
        for leftover in [format!("{key}#0"), format!("{key}#17"), format!("{UNFINISHED}/x")] {
            assert!(is_leftover(&leftover), "{leftover}");
            assert_eq!(leftover.parse::<ObjectKey>(), Err(InvalidKey), "{leftover}");
        }
        let others = ["", "#1", "_audit/probe", "_audit/unfinished", "_audit/unfinishedx/y"];
        let others = others.map(ToOwned::to_owned).into_iter();
        let near = ["", "#", "#x", "#1x", "#1#", "#+1", "#1/x"].map(|end| format!("{key}{end}"));
        for other in others.chain(near).chain([format!("a/{key}#1")]) {
            assert!(!is_leftover(&other), "{other}");
        }
    }

    #[test]
    fn non_canonical_spellings_are_rejected() {
        for text in [
            "",
            "_audit/probe",
            "dt=2023-11-14/hour=22/0000000000000000000000002D-42.ndjson.zst",
            "dt=2023-11-14/hour=24/0000000000000000000000002D-000000000042.ndjson.zst",
            "dt=2023-02-30/hour=22/0000000000000000000000002D-000000000042.ndjson.zst",
            "dt=2023-11-14/hour=22/0000000000000000000000002D-000000000042.ndjson.zst.part",
            "prefix/dt=2023-11-14/hour=22/0000000000000000000000002D-000000000042.ndjson.zst",
            "_audit/dt=2023-11-14/hour=22/0000000000000000000000002D-000000000042.ndjson.zst",
            "_audit/dt=2023-11-14/hour=22/0000000000000000000000002D-000000000042.system.zst",
            "dt=2023-11-14/hour=22/0000000000000000000000002D-000000000042.system",
        ] {
            assert_eq!(text.parse::<ObjectKey>(), Err(InvalidKey), "{text}");
        }
    }
}
