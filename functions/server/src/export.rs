//! Converts Convex's encoding of values to the plain JSON of its public HTTP API, which does not
//! distinguish all types. The text is converted as it is read, since a tree of a long result would
//! take many times its length.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Appends the plain JSON of a value. 64-bit integers become decimal strings, bytes stay base64,
/// and floats that JSON cannot express become their names.
///
/// # Panics
///
/// The text is not a value in Convex's encoding.
pub(super) fn plain(text: &str, out: &mut String) {
    let mut json = serde_json::Deserializer::from_str(text);
    Plain(out).deserialize(&mut json).expect("a function's value is JSON");
}

/// Writes a value while reading it.
struct Plain<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl Plain<'_> {
    fn json<E: Error>(self, value: &(impl serde::Serialize + ?Sized)) -> Result<(), E> {
        self.0.push_str(&serde_json::to_string(value).map_err(E::custom)?);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value in Convex's encoding")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.push_str("null");
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.json(&value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.json(&value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.json(&value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.json(&value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.json(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let begin = self.0.len();
        self.0.push('[');
        loop {
            let before = self.0.len();
            if before > begin + 1 {
                self.0.push(',');
            }
            if elements.next_element_seed(Plain(self.0))?.is_none() {
                self.0.truncate(before);
                break;
            }
        }
        self.0.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let begin = self.0.len();
        self.0.push('{');
        while let Some(name) = members.next_key::<String>()? {
            // The only member, since no user's field begins with `$`.
            if name.starts_with('$') {
                let text = members.next_value::<String>()?;
                self.0.truncate(begin);
                special(&name, &text, self.0).map_err(A::Error::custom)?;
                return match members.next_key::<IgnoredAny>()? {
                    None => Ok(()),
                    Some(_) => Err(A::Error::custom("a member beside one that begins with $")),
                };
            }
            if self.0.len() > begin + 1 {
                self.0.push(',');
            }
            Plain(self.0).json::<A::Error>(&name)?;
            self.0.push(':');
            members.next_value_seed(Plain(self.0))?;
        }
        self.0.push('}');
        Ok(())
    }
}

/// Writes a value whose encoding is an object with a single member.
fn special(name: &str, text: &str, out: &mut String) -> Result<(), &'static str> {
    let bytes = || {
        let bytes = BASE64_STANDARD.decode(text).ok();
        bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).ok_or("not eight bytes")
    };
    match name {
        "$bytes" => out.push_str(&serde_json::Value::from(text).to_string()),
        "$integer" => out.push_str(&format!("\"{}\"", i64::from_le_bytes(bytes()?))),
        "$float" => {
            let float = f64::from_le_bytes(bytes()?);
            match float {
                _ if float.is_nan() => out.push_str("\"NaN\""),
                f64::INFINITY => out.push_str("\"Infinity\""),
                f64::NEG_INFINITY => out.push_str("\"-Infinity\""),
                finite => out.push_str(&serde_json::Value::from(finite).to_string()),
            }
        }
        _ => return Err("an encoding that is not Convex's"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = convex::Value> {
        let leaf = prop_oneof![
            Just(convex::Value::Null),
            any::<i64>().prop_map(convex::Value::Int64),
            any::<f64>().prop_map(convex::Value::Float64),
            prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0])
                .prop_map(convex::Value::Float64),
            any::<bool>().prop_map(convex::Value::Boolean),
            any::<String>().prop_map(convex::Value::String),
            any::<Vec<u8>>().prop_map(convex::Value::Bytes),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(convex::Value::Array),
                prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                    .prop_map(convex::Value::Object),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn values_are_exported_as_by_convex(value in any_value()) {
            let encoded = serde_json::Value::from(value.clone());
            let mut written = String::new();
            plain(&encoded.to_string(), &mut written);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&written)?, value.export());
        }
    }
}
