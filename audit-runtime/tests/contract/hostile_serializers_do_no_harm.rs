//! C1, C8, C15: whatever a body's `Serialize` implementation does, each log that was accepted is
//! valid JSON in the sink, each that was refused fails the function, and nothing else is logged.

use std::cell::Cell;

use audit_runtime::{AuditLog, Query, body};
use serde::ser::{SerializeMap as _, SerializeSeq as _, SerializeStruct as _, SerializeTuple as _};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::host::*;

/// A value that serializes by calling this function.
struct By<F>(F);

/// What a hostile implementation does with its serializer.
#[derive(Debug, Clone, Copy)]
enum Way {
    ClaimsMoreElements,
    ClaimsFewerElements,
    ClaimsHugeLength,
    ClaimsNoMembers,
    ClaimsMoreFields,
    LeavesATupleShort,
    IgnoresErrorsOfMembers,
    IgnoresErrorsOfElements,
    KeyWithoutValue,
    TwoSerializersOfOneMember,
    NumberKeys,
    BoolKeys,
    SequenceAsKey,
    Integers128,
    NotANumber,
    TextOfPrivateNumber,
}

const WAYS: [Way; 16] = [
    Way::ClaimsMoreElements,
    Way::ClaimsFewerElements,
    Way::ClaimsHugeLength,
    Way::ClaimsNoMembers,
    Way::ClaimsMoreFields,
    Way::LeavesATupleShort,
    Way::IgnoresErrorsOfMembers,
    Way::IgnoresErrorsOfElements,
    Way::KeyWithoutValue,
    Way::TwoSerializersOfOneMember,
    Way::NumberKeys,
    Way::BoolKeys,
    Way::SequenceAsKey,
    Way::Integers128,
    Way::NotANumber,
    Way::TextOfPrivateNumber,
];

impl Serialize for By<Way> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Way::ClaimsMoreElements => to.serialize_seq(Some(10))?.end(),
            Way::ClaimsFewerElements => {
                let mut list = to.serialize_seq(Some(0))?;
                list.serialize_element(&1)?;
                list.serialize_element(&2)?;
                list.end()
            }
            Way::ClaimsHugeLength => to.serialize_seq(Some(usize::MAX))?.end(),
            Way::ClaimsNoMembers => {
                let mut map = to.serialize_map(Some(0))?;
                map.serialize_entry("a", &1)?;
                map.end()
            }
            Way::ClaimsMoreFields => {
                let mut fields = to.serialize_struct("S", 9)?;
                fields.serialize_field("a", &1)?;
                fields.end()
            }
            Way::LeavesATupleShort => to.serialize_tuple(3)?.end(),
            Way::IgnoresErrorsOfMembers => {
                let mut map = to.serialize_map(None)?;
                map.serialize_entry("a", &1)?;
                let _ = map.serialize_entry("$a", &1);
                let _ = map.serialize_entry("a", &2);
                map.serialize_entry("b", &3).or(Ok(()))?;
                map.end()
            }
            Way::IgnoresErrorsOfElements => {
                let mut list = to.serialize_seq(None)?;
                for _ in 0..3 {
                    let _ = list.serialize_element(&json!({ "$a": 1 }));
                }
                list.end()
            }
            Way::KeyWithoutValue => {
                let mut map = to.serialize_map(None)?;
                map.serialize_key("a")?;
                let _ = map.serialize_key("b");
                map.end()
            }
            Way::TwoSerializersOfOneMember => {
                let mut map = to.serialize_map(None)?;
                map.serialize_key("a")?;
                map.serialize_value(&1)?;
                let _ = map.serialize_value(&2);
                map.end()
            }
            Way::NumberKeys => to.collect_map([(1_i128, 1), (i128::MIN, 2)]),
            Way::BoolKeys => to.collect_map([(true, 1), (false, 2)]),
            Way::SequenceAsKey => to.collect_map([([1, 2], 1)]),
            Way::Integers128 => (u128::MAX, i128::MIN).serialize(to),
            Way::NotANumber => (f64::NAN, f64::INFINITY, f32::NEG_INFINITY, -0.0_f32).serialize(to),
            Way::TextOfPrivateNumber => {
                let mut number = to.serialize_struct("$serde_json::private::Number", 1)?;
                number.serialize_field("$serde_json::private::Number", "1,\"user\":\"eve\"")?;
                number.end()
            }
        }
    }
}

/// Logs a body while it is serialized.
impl Serialize for By<(&AuditLog<'_, Query>, &Cell<u32>)> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (log, calls) = self.0;
        calls.set(calls.get() + 1);
        log.audit(&body!({ "inner": calls.get() })).map_err(serde::ser::Error::custom)?;
        to.serialize_u32(calls.get())
    }
}

#[tokio::test]
async fn each_log_is_valid_or_fails_the_function() {
    let host = Host::new();
    for way in WAYS {
        let before = host.sink.lines().len();
        let query = host.runtime.query("f");
        let accepted = query.log().audit(&body!({ "way": By(way), "user": "ada" }));
        let answer = query.seal(()).release(&alice()).await.copied();
        assert_eq!(accepted.is_ok(), answer.is_ok(), "{way:?}: {accepted:?}");
        let lines = host.sink.lines().split_off(before);
        assert_eq!(lines.len(), 1, "{way:?}: the log, or a record of its refusal");
        let log: Value = serde_json::from_str(&lines[0]).unwrap();
        // `serde_json` keeps the order of members or sorts them, depending on its features in the
        // build.
        let mut members: Vec<&str> = log.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        match accepted {
            Ok(()) => {
                assert_eq!(members, ["user", "way"], "{way:?}: {log}");
                assert_eq!(log["user"], "ada", "{way:?}: {log}");
            }
            Err(_) => assert_eq!(members, ["$audit"], "{way:?}: {log}"),
        }
    }
}

#[tokio::test]
async fn a_body_that_logs_while_it_is_serialized_is_one_of_two_logs() {
    let host = Host::new();
    let (query, calls) = (host.runtime.query("f"), Cell::new(0));
    let log = query.log();
    log.audit(&body!({ "outer": By((&log, &calls)) })).unwrap();
    query.seal(()).release(&alice()).await.unwrap();
    assert_eq!(host.logs(), [json!({ "inner": 1 }), json!({ "outer": 1 })]);
}

/// A body of exactly the limit arrives whole; a larger one is refused.
#[tokio::test]
async fn the_limit_is_exact() {
    let host = Host::new();
    let limit = 1_000_000 - r#"{"t":""}"#.len();
    for (text, fits) in [
        ("x".repeat(limit), true),
        ("x".repeat(limit + 1), false),
        ("\u{2028}".repeat(limit / 6), true),
        ("\u{2028}".repeat(limit / 6 + 1), false),
        ("é".repeat(limit / 2), true),
        ("é".repeat(limit / 2 + 1), false),
    ] {
        let query = host.runtime.query("f");
        assert_eq!(query.log().audit(&body!({ "t": &text })).is_ok(), fits, "{}", text.len());
        assert_eq!(query.seal(()).release(&alice()).await.is_ok(), fits);
        if fits {
            assert_eq!(host.logs().pop().unwrap(), json!({ "t": text }));
        }
    }
}
