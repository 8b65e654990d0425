//! Checks a value that is given as JSON text, without building a tree: the tree of a long text
//! would take many times its length.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Value as Json, value::RawValue};

use super::Value;
use super::json::{
    Part, ValueError, check_depth, check_elements, check_field_name, check_fields,
    misplaced_commit_ts, special,
};

/// Whether this text is the JSON of a value, as [`Value::from_json`] would take it, or
/// [`Value::from_json_of_mutation`] if `in_mutation`. Returns its [size](Value::size).
///
/// # Errors
///
/// As of that function. Also if the text is not JSON, or contains half a surrogate pair.
pub fn check_encoded(text: &str, in_mutation: bool) -> Result<usize, ValueError> {
    let mut failure = None;
    let check = Check { depth: 0, in_mutation, failure: &mut failure };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = check.deserialize(&mut json).and_then(|size| json.end().map(|()| size));
    match (failure, read) {
        (Some(failure), _) => Err(failure),
        (None, Ok(size)) => Ok(size),
        (None, Err(error)) => {
            Err(ValueError::new(format!("not JSON, or text with half a surrogate pair: {error}")))
        }
    }
}

const NUMBER_BYTES: usize = 9;

struct Check<'a> {
    depth: usize,
    in_mutation: bool,
    /// The error of ours that made the reader fail: serde's error type cannot hold it.
    failure: &'a mut Option<ValueError>,
}

impl Check<'_> {
    fn met<T, E: Error>(self, result: Result<T, ValueError>) -> Result<T, E> {
        result.map_err(|failure| {
            *self.failure = Some(failure);
            E::custom("not a value")
        })
    }

    fn inner(&mut self) -> Check<'_> {
        let Check { depth, in_mutation, failure } = self;
        Check { depth: *depth + 1, in_mutation: *in_mutation, failure }
    }

    /// Adds a part to the path of the failure.
    fn within<E>(&mut self, part: impl FnOnce() -> Part, error: E) -> E {
        *self.failure = self.failure.take().map(|failure| failure.within(part()));
        error
    }
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<usize, D::Error> {
        match check_depth(self.depth) {
            Ok(()) => from.deserialize_any(self),
            Err(too_deep) => self.met(Err(too_deep)),
        }
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    /// The size of the value.
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value in Convex's encoding")
    }

    fn visit_unit<E: Error>(self) -> Result<usize, E> {
        Ok(Value::Null.size())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<usize, E> {
        Ok(Value::Boolean(true).size())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<usize, E> {
        Ok(NUMBER_BYTES)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<usize, E> {
        Ok(NUMBER_BYTES)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<usize, E> {
        Ok(NUMBER_BYTES)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<usize, E> {
        Ok(2 + text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<usize, A::Error> {
        let (mut count, mut size) = (0, 2);
        loop {
            match elements.next_element_seed(self.inner()) {
                Ok(Some(bytes)) => {
                    count += 1;
                    size += bytes;
                }
                Ok(None) => return self.met(check_elements(count).map(|()| size)),
                Err(error) => return Err(self.within(|| Part::Element(count), error)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<usize, A::Error> {
        let (mut count, mut size) = (0, 2);
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            if count == 0 && name.starts_with('$') {
                let content = members.next_value::<&RawValue>()?.get();
                // `special` only reads strings and null, so other content is not parsed.
                let content = match content.starts_with(['"', 'n']) {
                    true => serde_json::from_str(content).map_err(A::Error::custom)?,
                    false => Json::Bool(false),
                };
                if members.next_key::<Cow<'de, str>>()?.is_some() {
                    return self.met(check_field_name(&name).map(|()| 0));
                }
                let in_mutation = self.in_mutation;
                let value = special(&name, &content);
                return self.met(match value {
                    Ok(Value::CommitTs) if !in_mutation => Err(misplaced_commit_ts()),
                    value => value.map(|value| value.size()),
                });
            }
            self.inner().met(check_field_name(&name))?;
            match members.next_value_seed(self.inner()) {
                Ok(bytes) => size += name.len() + 1 + bytes,
                Err(error) => return Err(self.within(|| Part::Field(name.into_owned()), error)),
            }
            count += 1;
        }
        self.met(check_fields(count).map(|()| size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i32>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            prop::sample::select(vec![
                "",
                "AAAAAAAA8D8=",
                "AAAAAAAA8H8=",
                "AAAA",
                "?",
                "é\u{2028}"
            ])
            .prop_map(Json::from),
        ];
        let name = "a|b|é|\\$a|\\$integer|\\$float|\\$bytes|\\$commitTs|\\$undefined|\\$set|\\$map";
        leaf.prop_recursive(4, 24, 3, move |inner| {
            prop_oneof![
                collection::vec(inner.clone(), 0..3).prop_map(Json::from),
                collection::btree_map(name, inner, 0..3)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn text_is_checked_as_it_is_read(json in any_json()) {
            let text = json.to_string();
            let said = |result: Result<usize, ValueError>| result.map_err(|error| error.to_string());
            let read = Value::from_json_of_mutation(json.clone());
            let read = said(read.map(|value| value.size()));
            prop_assert_eq!(said(check_encoded(&text, true)), read);
            prop_assert_eq!(check_encoded(&text, false).is_ok(), Value::from_json(json).is_ok());
        }
    }

    #[test]
    fn limits_of_values_hold_for_text() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let array = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        let object = |count: usize| {
            let members = (0..count).map(|n| format!("\"a{n}\":1")).collect::<Vec<_>>();
            format!("{{{}}}", members.join(","))
        };
        for (at, beyond) in [
            (nested(65), nested(66)),
            (array(8192), array(8193)),
            (object(1024), object(1025)),
            ("\"\\ud83d\\ude00\"".to_owned(), "\"\\ud83d\"".to_owned()),
            ("1e308".to_owned(), "1e309".to_owned()),
            ("{\"a\":1}".to_owned(), "{\"\\ud800\":1}".to_owned()),
            (" 1 ".to_owned(), "1 1".to_owned()),
        ] {
            assert!(check_encoded(&at, false).is_ok(), "{at:.40}");
            assert!(check_encoded(&beyond, false).is_err(), "{beyond:.40}");
        }
    }
}
