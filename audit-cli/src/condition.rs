//! What a record must say to be shown.

use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::time::date_time_ms;

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

impl Pointer {
    /// What it points to in a line of JSON; `None` if there is nothing, or the line is no JSON. The
    /// rest of the line is read over.
    pub(crate) fn find(&self, line: &[u8]) -> Option<Value> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let found = Seek(&self.parts).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        found
    }

    /// The time that it points to, in milliseconds since the Unix epoch.
    pub(crate) fn find_time(&self, line: &[u8]) -> Option<i64> {
        match self.find(line)? {
            Value::Number(number) => number.as_i64().or_else(|| Some(number.as_f64()? as i64)),
            Value::String(text) => date_time_ms(&text),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// Reads a value and keeps what a path in it leads to.
struct Seek<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        match self.0 {
            [] => serde::Deserialize::deserialize(deserializer).map(Some),
            [..] => deserializer.deserialize_any(self),
        }
    }
}

/// Anything but an object and an array has nothing in it.
macro_rules! nothing_in {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Option<Value>, E> {
            Ok(None)
        })*
    };
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    nothing_in!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(None) };
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if key == first.as_str() {
                // Of two members of one name the last counts, as for most readers.
                found = map.next_value_seed(Seek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Option<Value>, A::Error> {
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

/// A pointer and the value that must be there: `/user=ada`.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pointer: Pointer,
    /// As text.
    text: String,
    /// As JSON, if it is any: 7 is the number as well as the text.
    json: Option<Value>,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let Some((pointer, value)) = text.split_once('=') else {
            return Err("a condition is a JSON pointer and a value, as in /user=ada".to_owned());
        };
        let json = serde_json::from_str(value).ok();
        Ok(Condition { pointer: pointer.parse()?, text: value.to_owned(), json })
    }
}

impl Condition {
    pub(crate) fn holds(&self, line: &[u8]) -> bool {
        // Most records are not the ones that are looked for. A text that is not in the line as it
        // is can be there only with escapes; a number may be written in several ways.
        let is_text = self.json.is_none();
        if is_text
            && memchr::memmem::find(line, self.text.as_bytes()).is_none()
            && memchr::memchr(b'\\', line).is_none()
        {
            return false;
        }
        match self.pointer.find(line) {
            None => false,
            Some(Value::String(found)) if found == self.text => true,
            Some(found) => self.json.as_ref().is_some_and(|wanted| same(&found, wanted)),
        }
    }
}

/// Whether two values are the same: numbers by their value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        br#"{"user":"ada","n":7,"x":7.0,"deep":{"a/b":[1,{"c":null}],"say":"\u0068i \"you\""},"at":1700000000000}"#;

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
        let at: Pointer = "/at".parse().unwrap();
        assert_eq!(at.find_time(LINE), Some(1_700_000_000_000));
        assert_eq!(at.find_time(br#"{"at":"2023-11-14T22:13:20Z"}"#), Some(1_700_000_000_000));
        assert_eq!(at.find_time(br#"{"at":true}"#), None);
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        assert!("user=ada".parse::<Condition>().unwrap_err().contains("/user"));
        assert!("/user".parse::<Condition>().is_err());
    }
}
