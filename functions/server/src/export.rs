//! From Convex's encoding of values to the plain JSON of its public HTTP API, in which some types
//! look alike.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value as Json;

/// 64-bit integers become decimal strings, bytes stay Base64, floats that JSON has no number for
/// become their names.
pub(super) fn plain(value: Json) -> Json {
    match value {
        Json::Object(members) => {
            if let Some(special) = special(&members) {
                return special;
            }
            Json::Object(members.into_iter().map(|(name, member)| (name, plain(member))).collect())
        }
        Json::Array(elements) => Json::Array(elements.into_iter().map(plain).collect()),
        value @ (Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_)) => value,
    }
}

/// A value that is written as an object with one member. No field of a user's begins with `$`.
fn special(members: &serde_json::Map<String, Json>) -> Option<Json> {
    let (name, Json::String(text)) = members.iter().next()? else { return None };
    if members.len() != 1 || !name.starts_with('$') {
        return None;
    }
    let bytes =
        || BASE64_STANDARD.decode(text).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    match name.as_str() {
        "$bytes" => Some(text.as_str().into()),
        "$integer" => Some(i64::from_le_bytes(bytes()?).to_string().into()),
        "$float" => {
            let float = f64::from_le_bytes(bytes()?);
            let name = match float {
                _ if float.is_nan() => "NaN",
                f64::INFINITY => "Infinity",
                f64::NEG_INFINITY => "-Infinity",
                finite => return Some(finite.into()),
            };
            Some(name.into())
        }
        _ => None,
    }
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
        fn values_look_as_convex_exports_them(value in any_value()) {
            let encoded = Json::from(value.clone());
            prop_assert_eq!(plain(encoded), value.export());
        }
    }
}
