//! Pointers into records, and the times that they select.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use crate::decimal::Decimal;
use crate::units::date_time_ms;

/// The most parts of a pointer. JSON with more levels is read by few parsers, and a sink refuses a
/// body with half as many.
const MAX_PARTS: usize = 128;

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
        let count = rest.split('/').count();
        if count > MAX_PARTS {
            return Err(format!("a JSON pointer of {count} parts exceeds limit of {MAX_PARTS}"));
        }
        if rest.split('~').skip(1).any(|after| !after.starts_with(['0', '1'])) {
            return Err(format!("in the JSON pointer {text}, ~ is written ~0, and / in a name ~1"));
        }
        Ok(Pointer {
            parts: rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect(),
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| write!(f, "/{}", escaped(part)))
    }
}

/// Parses a part of a pointer as the index of an element: digits without leading zeros.
fn index(part: &str) -> Option<usize> {
    let is_canonical = part == "0" || part.starts_with(|first: char| matches!(first, '1'..='9'));
    part.parse().ok().filter(|_| is_canonical)
}

/// A member's name as a part of a pointer.
pub(crate) fn escaped(name: &str) -> Cow<'_, str> {
    match name.contains(['~', '/']) {
        true => name.replace('~', "~0").replace('/', "~1").into(),
        false => name.into(),
    }
}

impl Pointer {
    /// The value that the pointer selects in a line of JSON. `None` if it is missing, or the line
    /// is not JSON. The rest of the line is not parsed.
    pub(crate) fn find<'a>(&self, line: &'a [u8]) -> Option<&'a RawValue> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let found = Seek(&self.parts).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        found
    }

    /// The time that the pointer selects.
    pub(crate) fn find_time(&self, line: &[u8]) -> Time {
        Time::of(self.find(line))
    }
}

/// The value of a record's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// Milliseconds since the Unix epoch, less than `i64::MAX`, which is the exclusive end of
    /// unbounded ranges.
    Ms(i64),
    /// A missing value, or null.
    Missing,
    /// A value that is not a time.
    Unreadable,
}

impl Time {
    pub(crate) fn of(found: Option<&RawValue>) -> Time {
        let Some(found) = found else { return Time::Missing };
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
            Ok(ms) => Time::Ms(i64::min(ms, i64::MAX - 1)),
            Err(_) => Time::Unreadable,
        }
    }

    pub(crate) fn ms(self) -> Option<i64> {
        match self {
            Time::Ms(ms) => Some(ms),
            Time::Missing | Time::Unreadable => None,
        }
    }
}

/// An unsigned integer of at most this many digits is already in its usual spelling.
const MAX_USUAL_DIGITS: usize = 20;

/// A value in its usual spelling, so that values that are equal for conditions are counted
/// together: a text without needless escapes, a number by its value. Objects and arrays are
/// unchanged.
pub(crate) fn respelled(value: &RawValue) -> Cow<'_, str> {
    let spelling = value.get();
    if spelling.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        let is_usual = !spelling.starts_with('-')
            && spelling.len() <= MAX_USUAL_DIGITS
            && spelling.bytes().all(|byte| byte.is_ascii_digit());
        let number = Decimal::read(spelling).filter(|_| !is_usual);
        return number.map_or(spelling.into(), |number| number.to_string().into());
    }
    let is_escaped = spelling.starts_with('"') && spelling.contains('\\');
    let text = is_escaped.then(|| serde_json::from_str::<String>(spelling).ok()).flatten();
    text.map_or(spelling.into(), |text| serde_json::Value::from(text).to_string().into())
}

/// Parses a value and keeps the part at a path within it.
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

/// Several pointers, whose values are found in one pass.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    root: Node,
    count: usize,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// The indexes of the pointers that end at this node.
    ends: Vec<usize>,
    below: Vec<(String, Node)>,
}

impl Members {
    pub(crate) fn new<'a>(pointers: impl IntoIterator<Item = &'a Pointer>) -> Members {
        let mut members = Members { root: Node::default(), count: 0 };
        for pointer in pointers {
            let mut node = &mut members.root;
            for part in &pointer.parts {
                let at = node.below.iter().position(|(name, _)| name == part);
                let at = at.unwrap_or_else(|| {
                    node.below.push((part.clone(), Node::default()));
                    node.below.len() - 1
                });
                node = &mut node.below[at].1;
            }
            node.ends.push(members.count);
            members.count += 1;
        }
        members
    }

    /// The value that each pointer selects in a line of JSON, in the order of the pointers, as
    /// [`Pointer::find`] would.
    pub(crate) fn find<'a>(&self, line: &'a [u8]) -> Vec<Option<&'a RawValue>> {
        let mut found = vec![None; self.count];
        if self.root.below.is_empty() {
            return found;
        }
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let below = Below { node: &self.root, found: &mut found };
        let parsed = deserializer.deserialize_any(below).and_then(|()| deserializer.end());
        if parsed.is_err() {
            // The line is not JSON, so the values found before the error do not count.
            found.fill(None);
        }
        found
    }
}

/// The name of a member, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of an object in their order, duplicates included.
pub(crate) struct Object<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Node {
    fn find<'a>(&self, value: &'a RawValue, found: &mut [Option<&'a RawValue>]) {
        if self.below.is_empty() || !value.get().starts_with(['{', '[']) {
            return;
        }
        let mut deserializer = serde_json::Deserializer::from_str(value.get());
        // An error is ignored here, since the caller parses the whole line and finds it too.
        let _ = deserializer.deserialize_any(Below { node: self, found });
    }

    fn take<'a>(&self, value: &'a RawValue, found: &mut [Option<&'a RawValue>]) {
        // Of several members with the same name, the last counts.
        self.forget(found);
        self.ends.iter().for_each(|at| found[*at] = Some(value));
        self.find(value, found);
    }

    fn forget(&self, found: &mut [Option<&RawValue>]) {
        self.ends.iter().for_each(|at| found[*at] = None);
        self.below.iter().for_each(|(_, node)| node.forget(found));
    }
}

/// Visits the values below a node.
struct Below<'n, 'f, 'de> {
    node: &'n Node,
    found: &'f mut [Option<&'de RawValue>],
}

impl<'de> Visitor<'de> for Below<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(key)) = map.next_key()? {
            match self.node.below.iter().find(|(name, _)| *name == key) {
                Some((_, node)) => node.take(map.next_value()?, self.found),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let below = self.node.below.iter();
        let nodes: Vec<_> = below.filter_map(|(name, node)| Some((index(name)?, node))).collect();
        let mut at = 0usize;
        while let Some(value) = sequence.next_element::<&RawValue>()? {
            if let Some((_, node)) = nodes.iter().find(|(index, _)| *index == at) {
                node.take(value, self.found);
            }
            at += 1;
        }
        Ok(())
    }
}

/// Other values than objects and arrays have no members.
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
        while let Some(Name(key)) = map.next_key()? {
            if key == first.as_str() {
                // Of several members with the same name, the last counts, as for most readers.
                found = map.next_value_seed(Seek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(None) };
        let wanted = index(first);
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let (first, last) = (Time::Ms(i64::MIN), Time::Ms(i64::MAX - 1));
        for (value, clamped) in [
            ("1e999", last),
            ("9223372036854775807", last),
            ("99999999999999999999", last),
            ("-1e999", first),
            ("-9223372036854775808", first),
            ("-0", Time::Ms(0)),
            ("1e-400", Time::Ms(0)),
        ] {
            assert_eq!(time(value), clamped, "{value}");
        }
    }

    #[test]
    fn pointers_are_those_of_rfc_6901() {
        let line = br#"{"a/b":1,"m~n":2,"~1":3,"":4," ":5,"l":["zero","one"],"o":{"01":6,"+1":7}}"#;
        for (pointer, value) in [
            ("/a~1b", Some("1")),
            ("/m~0n", Some("2")),
            ("/~01", Some("3")),
            ("/", Some("4")),
            ("/ ", Some("5")),
            ("/l/0", Some("\"zero\"")),
            ("/l/1", Some("\"one\"")),
            ("/o/01", Some("6")),
            ("/o/+1", Some("7")),
            // Section 4: an index has neither a sign nor leading zeros.
            ("/l/01", None),
            ("/l/00", None),
            ("/l/+1", None),
            ("/l/-1", None),
            ("/l/-", None),
            ("/l/2", None),
            ("/l/", None),
            ("/l/99999999999999999999", None),
        ] {
            let pointer: Pointer = pointer.parse().unwrap();
            let found = pointer.find(line).map(RawValue::get);
            assert_eq!(found, value, "{pointer}");
            assert_eq!(
                Members::new([&pointer]).find(line)[0].map(RawValue::get),
                value,
                "{pointer}"
            );
        }
        for text in ["/~", "/~2", "/a~", "/a~b/c", "/~/1", "/~~0"] {
            let why = text.parse::<Pointer>().unwrap_err();
            assert!(why.contains(text) && why.contains("~ is written ~0"), "{why}");
        }
        for text in ["", "a", "#/a"] {
            assert!(text.parse::<Pointer>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn one_pass_finds_the_same_as_many(
            line in "(\\{(\"[ab]\":(1|\\[7,\\{\"a\":2\\}\\]|\\{\"b\":3,\"a\":\\{\"a\":4\\}\\}),?){0,4}\"c\":0\\}|[a-c\\[\\]]{0,6})",
            pointers in proptest::collection::vec("(/[ab01]){1,3}", 0..6),
        ) {
            let pointers: Vec<Pointer> = pointers.iter().map(|text| text.parse().unwrap()).collect();
            let line = line.replace("}\"", "},\"").replace("]\"", "],\"").replace("1\"", "1,\"");
            let found = Members::new(&pointers).find(line.as_bytes());
            let get = |value: Option<&RawValue>| value.map(|value| value.get().to_owned());
            for (pointer, found) in pointers.iter().zip(found) {
                proptest::prop_assert_eq!(get(found), get(pointer.find(line.as_bytes())), "{} {}", pointer, line);
            }
        }
    }
}
