//! The members of a JSON object as they are spelled.
//!
//! A body is not parsed into a tree: that would change its numbers, and fail for a text with half
//! of a surrogate pair, which JSON can escape and UTF-8 cannot hold.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object: their names, of which a half of a surrogate pair makes invalid UTF-8,
/// and the text of their values.
#[derive(Debug, Default)]
pub(crate) struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object. Anything else has no members.
    pub(crate) fn of(text: &'a str) -> Members<'a> {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The value at this JSON pointer (RFC 6901), unless it is the whole object.
    pub(crate) fn at(&self, pointer: &str) -> Option<&'a RawValue> {
        let mut tokens = pointer.strip_prefix('/')?.split('/').map(unescaped);
        let first = self.get(&tokens.next()?)?;
        tokens.try_fold(first, |value, token| {
            let text = value.get();
            if text.starts_with('[') {
                let is_index = token == "0" || !token.starts_with(['0', '+']);
                let index: usize = is_index.then(|| token.parse().ok())??;
                let values: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                return values.get(index).copied();
            }
            Members::of(text).get(&token)
        })
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rev().find(|(known, _)| *known.0 == *name.as_bytes());
        found.map(|(_, value)| *value)
    }
}

fn unescaped(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The name of a member.
#[derive(Debug)]
struct Name<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name<'a>, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_bytes<E: Error>(self, name: &'de [u8]) -> Result<Name<'de>, E> {
                Ok(Name(name.into()))
            }

            fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<Name<'de>, E> {
                Ok(Name(name.to_vec().into()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_as_they_are_spelled() {
        let text = r#"{"a":{"b":[1.50,{"c":123456789012345678901}],"":null},"a/~":"\ud800",
            "\ud800":1,"n\u0061me":"x","ü":-0.0,"deep":{"\udfff":{"b":true}},"twice":1,"twice":2}"#;
        let members = Members::of(text);
        let at = |pointer: &str| members.at(pointer).map(RawValue::get);
        assert_eq!(at("/a/b/0"), Some("1.50"));
        assert_eq!(at("/a/b/1/c"), Some("123456789012345678901"));
        assert_eq!(at("/a/"), Some("null"));
        assert_eq!(at("/a~1~0"), Some(r#""\ud800""#));
        assert_eq!((at("/name"), at("/ü"), at("/twice")), (Some("\"x\""), Some("-0.0"), Some("2")));
        for absent in ["", "/", "a", "/a/b/2", "/a/b/00", "/a/b/+1", "/a/b/-", "/a/c", "/ü/x"] {
            assert_eq!(at(absent), None, "{absent}");
        }
        for invalid in ["", "[]", "1", "{", "{\"a\":1"] {
            assert!(Members::of(invalid).at("/a").is_none(), "{invalid}");
        }
    }
}
