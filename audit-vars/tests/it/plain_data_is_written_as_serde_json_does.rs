//! A body without variables is written byte for byte as by `serde_json::to_vec`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use audit_vars::{Template, Values, Vars};
use proptest::prelude::*;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::trees;

struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// Formats itself in parts, with characters that need escapes.
struct Displayed(String);

impl Serialize for Displayed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("<{}\"\n{:?}>", self.0, self.0))
    }
}

#[derive(Serialize)]
struct Unit;

#[derive(Serialize)]
struct Newtype<T>(T);

#[derive(Serialize)]
struct Pair(i8, Option<&'static str>);

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
enum External {
    Unit,
    Newtype(f32),
    Tuple(u8, Vec<External>),
    #[serde(rename = "renamed \"\\\u{1}")]
    Struct {
        #[serde(rename = "a\"b\u{7f}")]
        field: i128,
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u8>,
    },
    EmptyTuple(),
    EmptyStruct {},
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Internal {
    Unit,
    Newtype(Inner),
    Struct { a: u8 },
}

#[derive(Serialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Unit,
    Newtype(Vec<External>),
    Tuple(u8, External),
    Struct { a: External },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Untagged {
    Number(u128),
    Text(char),
}

#[derive(Serialize)]
struct Inner {
    x: External,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
enum KeyVariant {
    #[serde(rename = "key / \u{2}")]
    A,
}

#[derive(Serialize)]
struct Everything<'a> {
    null: (),
    unit: Unit,
    numbers: (i8, i16, i32, i64, i128),
    unsigned: (u8, u16, u32, u64, u128),
    floats: (f32, f64),
    not_finite: [f64; 3],
    char: char,
    text: &'a str,
    bytes: Bytes,
    options: [Option<Option<bool>>; 3],
    newtype: Newtype<Newtype<Pair>>,
    nothing: Nothing,
    external: Vec<External>,
    internal: [Internal; 3],
    adjacent: Vec<Adjacent>,
    untagged: [Untagged; 2],
    #[serde(flatten)]
    flattened: Inner,
    #[serde(flatten)]
    more: BTreeMap<String, i64>,
    integer_keys: BTreeMap<i64, u8>,
    wide_keys: BTreeMap<u128, ()>,
    bool_keys: BTreeMap<bool, u8>,
    char_keys: BTreeMap<char, u8>,
    variant_keys: BTreeMap<KeyVariant, u8>,
    address_keys: BTreeMap<IpAddr, u8>,
    float_key: FloatKey,
    optional_keys: BTreeMap<Option<u8>, u8>,
    addresses: (IpAddr, SocketAddr),
    displayed: Displayed,
    duration: Duration,
    raw: &'a RawValue,
}

struct FloatKey(f64, f32);

impl Serialize for FloatKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(&self.0, "f64")?;
        map.serialize_entry(&Newtype(self.1), "f32")?;
        map.end()
    }
}

proptest! {
    #[test]
    fn every_shape_of_serde_matches_serde_json(
        text in trees::text(),
        char: char,
        integers: (i8, i16, i32, i64, i128),
        unsigned: (u8, u16, u32, u64, u128),
        floats in (prop::num::f32::ANY, prop::num::f64::ANY),
        finite in (prop::num::f64::NORMAL, prop::num::f32::NORMAL),
        bytes: Vec<u8>,
        addresses: (IpAddr, SocketAddr),
        map: BTreeMap<u32, i64>,
    ) {
        let raw = serde_json::to_string(&serde_json::json!([text, map])).unwrap();
        let plain = |char: char| if char == '$' { '_' } else { char };
        let external = || vec![
            External::Unit,
            External::Newtype(floats.0),
            External::Tuple(unsigned.0, vec![External::Newtype(1e10), External::EmptyTuple()]),
            External::Struct { field: integers.4, absent: None },
            External::Struct { field: 0, absent: Some(1) },
            External::EmptyStruct {},
        ];
        let inner = |n| Inner { x: External::Tuple(n, vec![]) };
        let value = Everything {
            null: (),
            unit: Unit,
            numbers: integers,
            unsigned,
            floats,
            not_finite: [f64::NAN, f64::INFINITY, f64::NEG_INFINITY],
            char,
            text: &text,
            bytes: Bytes(bytes),
            options: [None, Some(None), Some(Some(true))],
            newtype: Newtype(Newtype(Pair(integers.0, Some("é")))),
            nothing: Nothing {},
            external: external(),
            internal: [Internal::Unit, Internal::Newtype(inner(1)), Internal::Struct { a: unsigned.0 }],
            adjacent: vec![
                Adjacent::Unit,
                Adjacent::Newtype(external()),
                Adjacent::Tuple(1, External::Unit),
                Adjacent::Struct { a: External::EmptyTuple() },
            ],
            untagged: [Untagged::Number(unsigned.4), Untagged::Text(char)],
            flattened: inner(2),
            more: map.iter().map(|(key, value)| (format!("\"{key}"), *value)).collect(),
            integer_keys: BTreeMap::from([(integers.3, 0), (i64::MIN, 1), (-1, 2)]),
            wide_keys: BTreeMap::from([(unsigned.4, ())]),
            bool_keys: BTreeMap::from([(true, 1), (false, 0)]),
            char_keys: BTreeMap::from([(plain(char), 0), ('\u{1f}', 1)]),
            variant_keys: BTreeMap::from([(KeyVariant::A, 0)]),
            address_keys: BTreeMap::from([(addresses.0, 0)]),
            float_key: FloatKey(finite.0, finite.1),
            optional_keys: BTreeMap::from([(Some(unsigned.0), 1)]),
            addresses,
            displayed: Displayed(text.clone()),
            duration: Duration::new(unsigned.3 / 2, 5),
            raw: serde_json::from_str(&raw).unwrap(),
        };
        let template = Template::compile(&Vars::new(), &trees::limits(), &value).unwrap();
        let mut line = Vec::new();
        template.render(&Values::none(), &mut line);
        let expected = trees::in_one_line(&serde_json::to_string(&value).unwrap());
        prop_assert_eq!(String::from_utf8(line).unwrap(), &*expected);
        prop_assert_eq!(template.bound_bytes() as usize, expected.len());
    }
}
