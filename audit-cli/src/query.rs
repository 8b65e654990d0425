//! The conditions on records.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::decimal::Decimal;
use crate::units::date_time_ms;

/// A JSON pointer ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointer {
    parts: Vec<String>,
}

impl FromStr for Pointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Pointer, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("a JSON pointer begins with a slash, as in /{text}"));
        };
        Ok(Pointer {
            parts: rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect(),
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts
            .iter()
            .try_for_each(|part| write!(f, "/{}", part.replace('~', "~0").replace('/', "~1")))
    }
}

impl Pointer {
    /// The value that the pointer selects in a line of JSON. `None` if there is none, or the line
    /// is not JSON. The rest of the line is not parsed.
    pub(crate) fn find<'a>(&self, line: &'a [u8]) -> Option<&'a RawValue> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let found = Seek(&self.parts).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        found
    }

    /// The time that the pointer selects.
    pub(crate) fn find_time(&self, line: &[u8]) -> Time {
        let Some(found) = self.find(line) else { return Time::Missing };
        let text = found.get();
        if text.starts_with('"') {
            let text: String = serde_json::from_str(text).unwrap_or_default();
            return date_time_ms(&text).map_or(Time::Unreadable, Time::Ms);
        }
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return if text == "null" { Time::Missing } else { Time::Unreadable };
        }
        // Fractions of a millisecond are dropped; times out of range are clamped.
        match text.parse().or_else(|_| text.parse().map(|ms: f64| ms as i64)) {
            Ok(ms) => Time::Ms(ms),
            Err(_) => Time::Unreadable,
        }
    }
}

/// The value of a record's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// Milliseconds since the Unix epoch.
    Ms(i64),
    /// A missing value, or null.
    Missing,
    /// A value that is not a time.
    Unreadable,
}

impl Time {
    pub(crate) fn ms(self) -> Option<i64> {
        match self {
            Time::Ms(ms) => Some(ms),
            Time::Missing | Time::Unreadable => None,
        }
    }
}

/// Parses a value and keeps the part at a path in it.
struct Seek<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            [] => serde::Deserialize::deserialize(deserializer).map(Some),
            [..] => deserializer.deserialize_any(self),
        }
    }
}

/// Only objects and arrays have members.
macro_rules! nothing_in {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(None)
        })*
    };
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    nothing_in!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(None) };
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if key == first.as_str() {
                // Of several members of one name the last counts, as for most readers.
                found = map.next_value_seed(Seek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(None) };
        let wanted = first.parse::<usize>().ok();
        let (mut found, mut at) = (None, 0);
        loop {
            if wanted == Some(at) {
                match sequence.next_element_seed(Seek(rest))? {
                    Some(value) => found = value,
                    None => return Ok(found),
                }
            } else if sequence.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }
}

/// A pointer and the required value: `/user=ada`.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pointer: Pointer,
    /// As text.
    text: String,
    /// As JSON, if it is valid: 7 matches the number and the text.
    json: Option<Box<RawValue>>,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let Some((pointer, value)) = text.split_once('=') else {
            return Err("a condition is a JSON pointer and a value, as in /user=ada".to_owned());
        };
        let json = serde_json::from_str(value.trim()).ok();
        Ok(Condition { pointer: pointer.parse()?, text: value.to_owned(), json })
    }
}

impl Condition {
    pub(crate) fn holds(&self, line: &[u8]) -> bool {
        // Most records do not match. Text that does not occur verbatim in the line can occur only
        // with escapes; a number may be written in several ways.
        let is_text = self.json.is_none();
        if is_text
            && memchr::memmem::find(line, self.text.as_bytes()).is_none()
            && memchr::memchr(b'\\', line).is_none()
        {
            return false;
        }
        let Some(found) = self.pointer.find(line) else { return false };
        let is_text =
            || serde_json::from_str(found.get()).is_ok_and(|text: String| text == self.text);
        (found.get().starts_with('"') && is_text())
            || self.json.as_ref().is_some_and(|wanted| same(found, wanted))
    }

    pub(crate) fn pointer(&self) -> &Pointer {
        &self.pointer
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pointer, self.text)
    }
}

/// Whether two values are equal: numbers by value, strings by characters, objects without regard to
/// order.
///
/// It recurses as deep as `wanted`, which the user typed.
fn same(found: &RawValue, wanted: &RawValue) -> bool {
    let (found, wanted) = (found.get(), wanted.get());
    if found == wanted {
        return true;
    }
    match (found.as_bytes().first(), wanted.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => both(found, wanted, |found: &Members<'_>, wanted| {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }),
        (Some(b'['), Some(b'[')) => both(found, wanted, |found: &Vec<&RawValue>, wanted| {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| same(a, b))
        }),
        (Some(b'"'), Some(b'"')) => both(found, wanted, |found: &String, wanted| found == wanted),
        _ => Decimal::read(found).is_some_and(|found| Some(found) == Decimal::read(wanted)),
    }
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Whether two texts of JSON have the same value of this type.
fn both<'a, T: serde::Deserialize<'a>>(
    found: &'a str,
    wanted: &'a str,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    match (serde_json::from_str(found), serde_json::from_str(wanted)) {
        (Ok(found), Ok(wanted)) => same(&found, &wanted),
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        br#"{"user":"ada","n":7,"x":7.0,"deep":{"a/b":[1,{"c":null}],"say":"\u0068i \"you\""},"at":1700000000000,"big":9007199254740993,"zero":-0}"#;

    #[test]
    fn a_condition_holds_for_the_value_at_its_pointer() {
        let holds = |text: &str| text.parse::<Condition>().unwrap().holds(LINE);
        for text in [
            "/user=ada",
            "/user=\"ada\"",
            "/n=7",
            "/n=7.0",
            "/x=7",
            "/deep/a~1b/0=1",
            "/deep/a~1b/1/c=null",
            "/deep/say=hi \"you\"",
            "/deep/a~1b=[1,{\"c\":null}]",
            "/deep/a~1b= [1.0, {\"\\u0063\": null}]",
            "/big=9007199254740993",
            "/big=9007199254740993.0",
            "/zero=0",
            "/zero=-0.0",
            "/n=70e-1",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in [
            "/user=eve",
            "/user=ad",
            "/n=8",
            "/nobody=ada",
            "/deep=ada",
            "/deep/a~1b/2=1",
            "/user/x=ada",
            "/n=\"7\"",
            "/big=9007199254740992",
            "/big=9007199254740993.1",
            "/big=9.007199254740992e15",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn a_line_that_is_no_json_matches_nothing() {
        let condition: Condition = "/a=1".parse().unwrap();
        for line in [&b"{\"a\":1"[..], b"{\"a\":1} x", b"", b"\xff"] {
            assert!(!condition.holds(line));
        }
    }

    #[test]
    fn times_are_milliseconds_or_text() {
        let time = |value: &str| {
            let line = format!("{{\"at\":{value}}}");
            "/at".parse::<Pointer>().unwrap().find_time(line.as_bytes())
        };
        for readable in [
            "1700000000000",
            "1700000000000.5",
            "17e11",
            "\"2023-11-14T22:13:20Z\"",
            "\"2023-11-14 22:13:20Z\"",
            "\"2023-11-14 23:13:20.000+01:00\"",
            "\"2023-11-14 22:13:20\"",
        ] {
            assert_eq!(time(readable), Time::Ms(1_700_000_000_000), "{readable}");
        }
        assert_eq!(time("null"), Time::Missing);
        assert_eq!("/no".parse::<Pointer>().unwrap().find_time(b"{\"at\":1}"), Time::Missing);
        for unreadable in ["true", "[]", "{}", "\"1700000000000\"", "\"\"", "\"yesterday\""] {
            assert_eq!(time(unreadable), Time::Unreadable, "{unreadable}");
        }
        assert_eq!(time("1e999"), Time::Ms(i64::MAX));
    }

    #[test]
    fn invalid_conditions_are_refused() {
        assert_eq!("/a~1b/~0=x=y".parse::<Condition>().unwrap().to_string(), "/a~1b/~0=x=y");
        assert!("user=ada".parse::<Condition>().unwrap_err().contains("/user"));
        assert!("/user".parse::<Condition>().is_err());
    }
}
