//! The order, the encoding, JSON and validators.

use proptest::{collection, prelude::*};
use serde_json::json;

use super::{encoding, *};

/// Values of all types, including edge cases of the order: zero bytes, both zeros, NaN, prefixes.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let float = prop_oneof![
        any::<f64>(),
        prop::sample::select(vec![
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY
        ]),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        prop_oneof![any::<i64>(), -2_i64..3].prop_map(Value::Int64),
        float.prop_map(Value::Float64),
        any::<bool>().prop_map(Value::Boolean),
        prop_oneof!["[\u{0}\u{1}a\u{ff}\u{10ffff}]{0,3}", any::<String>()].prop_map(Value::String),
        collection::vec(prop::sample::select(vec![0_u8, 1, 7, 254, 255]), 0..4)
            .prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            collection::btree_map("[ab]{0,2}", inner, 0..3).prop_map(Value::Object),
        ]
    })
}

fn encoded(value: Option<&Value>) -> Vec<u8> {
    let mut out = Vec::new();
    encoding::encode_optional(value, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn encoding_preserves_the_order_of_values(a in proptest::option::of(any_value()), b in proptest::option::of(any_value())) {
        let (left, right) = (encoded(a.as_ref()), encoded(b.as_ref()));
        prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        prop_assert!(a == b || !left.starts_with(&right), "one is a prefix of the other");
    }

    #[test]
    fn encoding_preserves_the_order_of_tuples(a in [any_value(), any_value()], b in [any_value(), any_value()], same in any::<bool>()) {
        let [mut left, right] = [a, b];
        if same {
            left[0] = right[0].clone();
        }
        let whole = |pair: &[Value; 2]| [encoded(Some(&pair[0])), encoded(Some(&pair[1]))].concat();
        prop_assert_eq!(whole(&left).cmp(&whole(&right)), left.cmp(&right));
    }

    #[test]
    fn values_round_trip_through_the_encoding(value in any_value()) {
        prop_assert_eq!(encoding::decode(&encoded(Some(&value))), Ok(value));
    }

    #[test]
    fn invalid_bytes_are_rejected_without_panics(bytes in collection::vec(0_u8..12, 0..20), value in any_value()) {
        let _ = encoding::decode(&bytes);
        let whole = encoded(Some(&value));
        for length in 0..whole.len() {
            prop_assert!(encoding::decode(&whole[..length]).is_err());
        }
    }

    #[test]
    fn values_round_trip_through_json(value in any_value()) {
        let json = value.to_json();
        prop_assert_eq!(serde_json::to_string(&value).unwrap(), json.to_string());
        prop_assert_eq!(Value::from_json(json), Ok(value));
    }
}

#[test]
fn types_order_as_documented() {
    let ordered = [
        None,
        Some(Value::Null),
        Some(Value::Int64(5)),
        Some(Value::Float64(-1.0)),
        Some(Value::Boolean(false)),
        Some(Value::Boolean(true)),
        Some(Value::from("")),
        Some(Value::Bytes(Vec::new())),
        Some(Value::Array(Vec::new())),
        Some(Value::Object(Object::new())),
    ];
    assert!(ordered.is_sorted_by(|a, b| a < b));
    assert!(Value::Float64(-0.0) < Value::Float64(0.0));
    assert_eq!(Value::Float64(f64::NAN), Value::Float64(f64::NAN));
}

#[test]
fn json_matches_the_clients() {
    let cases = [
        (json!({ "$integer": "AQAAAAAAAAA=" }), Value::Int64(1)),
        (json!({ "$float": "AAAAAAAAAIA=" }), Value::Float64(-0.0)),
        (json!({ "$float": "AAAAAAAA8H8=" }), Value::Float64(f64::INFINITY)),
        (json!({ "$bytes": "AP8=" }), Value::Bytes(vec![0, 255])),
        (json!(5), Value::Float64(5.0)),
        (json!(0.5), Value::Float64(0.5)),
        (
            json!([null, true, "x"]),
            Value::Array(vec![Value::Null, Value::Boolean(true), Value::from("x")]),
        ),
    ];
    for (json, value) in cases {
        assert_eq!(Value::from_json(json.clone()).unwrap(), value);
        assert_eq!(value.to_json(), json);
    }
}

#[test]
fn invalid_json_is_rejected_with_its_path() {
    let mut deep = json!(1);
    for _ in 0..=MAX_NESTING {
        deep = json!([deep]);
    }
    let cases = [
        (
            json!({ "a": [1, { "b": { "$integer": "AQ==" } }] }),
            "Received 1 bytes, expected 8 for $integer (present at path .a[1].b)",
        ),
        (json!({ "$float": "AAAAAAAA8D8=" }), "Float 1 should be encoded as a number"),
        (
            json!({ "a": { "$b": 1 } }),
            "Field name $b starts with a '$', which is reserved. (present at path .a)",
        ),
        (json!({ "$a": 1, "b": 2 }), "Field name $a starts with a '$', which is reserved."),
        (
            json!({ "ä": 1 }),
            "Field name ä has invalid character 'ä': Field names can only contain non-control ASCII characters",
        ),
        (
            json!({ "a": { "$undefined": null } }),
            "undefined is not a valid Convex value (present at path .a)",
        ),
        (
            json!({ "t": { "$commitTs": null } }),
            "`db.vars.commitTs` is a value for documents, for the results of mutations and for functions that the same mutation calls",
        ),
        (json!({ "t": { "$commitTs": 1 } }), "Malformed $commitTs: not null (present at path .t)"),
        (
            json!(vec![0; MAX_ARRAY_ELEMENTS + 1]),
            "Array length is too long (8193 > maximum length 8192)",
        ),
    ];
    for (json, message) in cases {
        assert_eq!(Value::from_json(json).unwrap_err().to_string(), message);
    }
    assert!(
        Value::from_json(deep)
            .unwrap_err()
            .to_string()
            .starts_with("Value is too nested (maximum nesting 64)")
    );
}

#[test]
fn a_patch_sets_and_removes_fields() {
    let patch = patch_from_json(json!({ "a": { "$undefined": null }, "b": 1 })).unwrap();
    assert_eq!(
        patch,
        Patch::from([("a".to_owned(), None), ("b".to_owned(), Some(Value::from(1.0)))])
    );
    let nested = patch_from_json(json!({ "a": { "b": { "$undefined": null } } })).unwrap_err();
    assert_eq!(nested.to_string(), "undefined is not a valid Convex value (present at path .a.b)");
    assert!(patch_from_json(json!([])).is_err());
}

fn validator(json: serde_json::Value) -> Validator {
    Validator::from_json(&json).unwrap()
}

fn field(of: &serde_json::Value, optional: bool) -> serde_json::Value {
    json!({ "fieldType": of, "optional": optional })
}

#[test]
fn each_validator_accepts_only_its_values() {
    let values = [
        json!(null),
        json!(1.5),
        json!({ "$integer": "AQAAAAAAAAA=" }),
        json!(true),
        json!("text"),
        json!({ "$bytes": "" }),
        json!([1]),
        json!({ "a": 1 }),
        json!({ "a": 1, "b": "x" }),
        json!({}),
        json!("function://;messages:list"),
        json!("function://outer/inner;folder/messages"),
        json!("function://;:list"),
        json!("function:messages:list"),
    ];
    let string = json!({ "type": "string" });
    let number = json!({ "type": "number" });
    // Each validator, with the indexes of the values above that it accepts.
    let cases: [(serde_json::Value, &[usize]); 17] = [
        (json!({ "type": "any" }), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
        (json!({ "type": "null" }), &[0]),
        (number.clone(), &[1]),
        (json!({ "type": "bigint" }), &[2]),
        (json!({ "type": "commitTs" }), &[2]),
        (json!({ "type": "boolean" }), &[3]),
        (string.clone(), &[4, 10, 11, 12, 13]),
        (json!({ "type": "bytes" }), &[5]),
        (json!({ "type": "id", "tableName": "t" }), &[4]),
        (json!({ "type": "id", "tableName": "other" }), &[]),
        (json!({ "type": "function", "fnType": "query", "args": string }), &[10, 11]),
        (json!({ "type": "literal", "value": "text" }), &[4]),
        (json!({ "type": "literal", "value": { "$integer": "AQAAAAAAAAA=" } }), &[2]),
        (json!({ "type": "array", "value": number }), &[6]),
        (
            json!({ "type": "object", "value": { "a": field(&number, false), "b": field(&string, true) } }),
            &[7, 8],
        ),
        (json!({ "type": "record", "keys": string, "values": field(&number, false) }), &[7, 9]),
        (json!({ "type": "union", "value": [string, number] }), &[1, 4, 10, 11, 12, 13]),
    ];
    let is_id = |table: &str, text: &str| table == "t" && text == "text";
    for (json, accepted) in cases {
        let validator = validator(json);
        let passes = |value: &serde_json::Value| {
            validator.check(&Value::from_json(value.clone()).unwrap(), &is_id).is_ok()
        };
        let passing: Vec<_> = (0..values.len()).filter(|index| passes(&values[*index])).collect();
        assert_eq!(passing, accepted, "{validator}");
    }
    assert_eq!(validator(json!(null)), Validator::Any);
    assert!(Validator::from_json(&json!({ "type": "future" })).is_err());
}

#[test]
fn validators_name_possible_fields() {
    let any = json!({ "type": "any" });
    let object = |name: &str| json!({ "type": "object", "value": { name: field(&any, true) } });
    let around: [fn(&serde_json::Value) -> serde_json::Value; 5] = [
        serde_json::Value::clone,
        |inner| json!({ "type": "array", "value": inner }),
        |inner| json!({ "type": "union", "value": [{ "type": "null" }, inner] }),
        |inner| json!({ "type": "object", "value": { "a": field(inner, true) } }),
        |inner| json!({ "type": "record", "keys": { "type": "string" }, "values": field(inner, false) }),
    ];
    let long = "x".repeat(MAX_FIELD_NAME_BYTES + 1);
    for (name, error) in [
        ("", "Field names cannot be empty."),
        ("$set", "Field name $set starts with a '$', which is reserved."),
        ("größe", "Field name größe has invalid character 'ö'"),
        ("a\tb", "has invalid character '\t'"),
        (&long, "exceeds maximum field name length 1024."),
    ] {
        for around in around {
            let json = around(&object(name));
            let refused = Validator::from_json(&json).unwrap_err().to_string();
            assert!(refused.contains(error), "{refused}");
            // Validators that an earlier version stored must still be read.
            Validator::from_stored_json(&json).unwrap();
        }
    }
    for name in ["a", "a-b c", "_nested", &long[1..]] {
        Validator::from_json(&object(name)).unwrap();
    }
}

#[test]
fn mismatches_name_path_value_and_validator() {
    let string = json!({ "type": "string" });
    let kind = |name: &str, extra: &serde_json::Value| {
        json!({ "type": "object", "value": {
            "kind": field(&json!({ "type": "literal", "value": name }), false), "x": field(extra, false),
        }})
    };
    let whole = validator(json!({ "type": "object", "value": {
        "name": field(&string, false),
        "tags": field(&json!({ "type": "array", "value": string }), true),
        "shape": field(&json!({ "type": "union", "value": [kind("a", &string), kind("b", &json!({ "type": "number" }))] }), true),
        "owner": field(&json!({ "type": "id", "tableName": "users" }), true),
    }}));
    let text = "v.object({name: v.string(), owner: v.optional(v.id(\"users\")), shape: v.optional(v.union(v.object({kind: \
                v.literal(\"a\"), x: v.string()}), v.object({kind: v.literal(\"b\"), x: v.float64()}))), tags: \
                v.optional(v.array(v.string()))})";
    assert_eq!(whole.to_string(), text);
    let cases = [
        (
            json!({}),
            format!(
                "Object is missing the required field `name`. Consider wrapping the field validator in `v.optional(...)` \
                 if this is expected.\nObject: {{}}\nValidator: {text}"
            ),
        ),
        (
            json!({ "name": "n", "more": 1 }),
            format!(
                "Object contains extra field `more` that is not in the validator.\nObject: {{more: 1.0, name: \
                 \"n\"}}\nValidator: {text}"
            ),
        ),
        (
            json!({ "name": "n", "tags": ["a", 5] }),
            "Value does not match validator.\nPath: .tags[1]\nValue: 5.0\nValidator: v.string()".to_owned(),
        ),
        (
            json!({ "name": "n", "shape": { "kind": "b", "x": "no" } }),
            "Value does not match validator.\nPath: .shape.x\nValue: \"no\"\nValidator: v.float64()".to_owned(),
        ),
        (
            json!({ "name": "n", "owner": "nobody" }),
            "Value is not the ID of a document in table `users`.\nPath: .owner\nValue: \"nobody\"\nValidator: \
             v.id(\"users\")"
                .to_owned(),
        ),
    ];
    for (value, message) in cases {
        let value = Value::from_json(value).unwrap();
        assert_eq!(whole.check(&value, &|_, _| false).unwrap_err(), message);
    }
}
