//! Each error says what is wrong, with numbers and limits, and where, as a JSON Pointer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use audit_core::Limits;
use audit_vars::{BodyError, BodyProblem, HostValue, MAX_DEPTH, Template, Var, Vars, body};
use serde::Serialize;
use serde::ser::{Error, SerializeMap, SerializeSeq, SerializeStruct, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::trees::TABLE;

fn refusal<T: Serialize + ?Sized>(body: &T) -> BodyError {
    Template::compile(&TABLE.vars, &Limits::default(), body).unwrap_err()
}

#[track_caller]
fn refused<T: Serialize + ?Sized>(body: &T, message: &str) {
    assert_eq!(refusal(body).to_string(), message);
}

fn text_refusal(text: &str) -> BodyError {
    Template::from_json(&TABLE.vars, &Limits::default(), text).unwrap_err()
}

#[track_caller]
/// The offset is for the producer of the text, so it is not in the message.
fn syntax_refused(text: &str, offset: usize, reason: &'static str, place: &str) {
    text_refused(text, &format!("invalid JSON: {reason}{place}"));
    let error = Template::from_json(&TABLE.vars, &Limits::default(), text).unwrap_err();
    assert_eq!(error.problem(), &BodyProblem::Syntax { reason, offset });
}

fn text_refused(text: &str, message: &str) {
    assert_eq!(text_refusal(text).to_string(), message, "{text}");
}

/// A Serialize implementation from a closure.
macro_rules! serializes {
    ($name:ident, |$serializer:ident| $body:expr) => {
        struct $name;

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, $serializer: S) -> Result<S::Ok, S::Error> {
                $body
            }
        }
    };
}

#[test]
fn reserved_keys_are_rejected() {
    let reserved = |key: &str, path: &str| {
        format!("audit log body keys must not start with \"$\": {key:?} at {path}")
    };
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    enum Variants {
        #[serde(rename = "$v")]
        Reserved(u8),
        #[serde(rename = "$v")]
        ReservedStruct {
            a: u8,
        },
        Tuple(u8, Variant),
        Struct {
            in_struct: Variant,
        },
        StructOf {
            #[serde(rename = "$f")]
            field: u8,
        },
        Newtype(Variant),
    }
    #[derive(Serialize)]
    struct Variant {
        #[serde(rename = "$")]
        dollar: u8,
    }
    let inner = || Variant { dollar: 1 };
    refused(&inner(), &reserved("$", "/$"));
    refused(&Variants::Reserved(1), &reserved("$v", "/$v"));
    refused(&body!({ "a": Variants::ReservedStruct { a: 1 } }), &reserved("$v", "/a/$v"));
    refused(&Variants::Tuple(1, inner()), &reserved("$", "/tuple/1/$"));
    refused(&Variants::Struct { in_struct: inner() }, &reserved("$", "/struct/in_struct/$"));
    refused(&Variants::StructOf { field: 1 }, &reserved("$f", "/structOf/$f"));
    refused(&body!({ "a": [0, Variants::Newtype(inner())] }), &reserved("$", "/a/1/newtype/$"));
    refused(&BTreeMap::from([('$', 1)]), &reserved("$", "/$"));

    // The parts of a JSON Pointer are escaped as RFC 6901 says; JSON escapes stay as they are.
    refused(
        &json!({ "a/b": { "m~n": [{ "": [[{ "$x/~": 1 }]] }] } }),
        &reserved("$x/~", "/a~1b/m~0n/0//0/0/$x~1~0"),
    );
    refused(&json!({ "\"\n": { "$\n": 1 } }), &reserved("$\\n", "/\\\"\\n/$\\n"));
    #[derive(Serialize)]
    struct Renamed {
        #[serde(rename = "\"\n")]
        inner: Variant,
    }
    refused(&Renamed { inner: inner() }, &reserved("$", "/\\\"\\n/$"));

    text_refused(
        r#"{"a/b":{"m~n":[{"":[[{"$x/~":1}]]}]}}"#,
        &reserved("$x/~", "/a~1b/m~0n/0//0/0/$x~1~0"),
    );
    text_refused(r#"{"a":[true,{"\u0024var":"ip"}]}"#, &reserved("\\u0024var", "/a/1/\\u0024var"));
    text_refused(r#"{"a":{"$v\u0061r":"ip"}}"#, &reserved("$v\\u0061r", "/a/$v\\u0061r"));
    text_refused(r#"{"$audit":{}}"#, &reserved("$audit", "/$audit"));
    // An object with more or fewer members is not a sentinel.
    for sentinel in [
        r#"{"$var":"ip","a":1}"#,
        r#"{"a":1,"$var":"ip"}"#,
        r#"{"$var":"ip","$var":"ip"}"#,
        r#"{"$var":null}"#,
        r#"{"$var":["ip"]}"#,
        r#"{"$var":{"$var":"ip"}}"#,
    ] {
        text_refused(&format!(r#"{{"x":{sentinel}}}"#), &reserved("$var", "/x/$var"));
    }
}

#[test]
fn invalid_variables_are_rejected() {
    let mut others = Vars::new();
    let unknown = others.register("tenant", 100).unwrap();
    refused(&body!({ "a": [1, unknown] }), "unknown audit variable \"tenant\" at /a/1");
    text_refused(r#"{"a":[1,{"$var":"tenant"}]}"#, "unknown audit variable \"tenant\" at /a/1");
    text_refused(r#"{"a":{"$var":""}}"#, "unknown audit variable \"\" at /a");
    text_refused(r#"{"a":{"$var":"IP"}}"#, "unknown audit variable \"IP\" at /a");

    struct Key;
    impl Serialize for Key {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry(&Var::IP, "a variable as key")?;
            map.end()
        }
    }
    refused(&body!({ "a": Key }), "audit log body keys must be strings at /a");
    refused(&BTreeMap::from([((1, 2), 3)]), "audit log body keys must be strings");
    refused(&BTreeMap::from([(None::<u8>, 3)]), "audit log body keys must be strings");
}

#[test]
fn bodies_other_than_objects_are_rejected() {
    let message = "an audit log body must be a JSON object";
    refused(&[1], message);
    refused("text {", message);
    refused(&5, message);
    refused(&(), message);
    refused(&Var::IP, message);
    refused(&[Var::IP], message);
    refused(&None::<u8>, message);
    for text in [
        "[1]",
        "\"{\"",
        "5",
        "-0.5e3",
        "null",
        "true",
        r#"{"$var":"ip"}"#,
        " { \"$var\" : \"ip\" } ",
        "[{}]",
    ] {
        text_refused(text, message);
    }
}

#[test]
fn deep_nesting_is_rejected() {
    /// `levels` arrays around `inside`.
    fn nested(levels: u32, inside: Value) -> Value {
        (0..levels).fold(inside, |value, _| Value::Array(vec![value]))
    }
    /// This many arrays around a variable.
    struct Nested(u32);
    impl Serialize for Nested {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 {
                0 => Var::IP.serialize(serializer),
                levels => serializer.collect_seq([Nested(levels - 1)]),
            }
        }
    }
    let limits = Limits::default();
    let compiles = |value: &Value| Template::compile(&TABLE.vars, &limits, value).is_ok();
    let text_compiles =
        |value: &Value| Template::from_json(&TABLE.vars, &limits, &value.to_string()).is_ok();

    assert_eq!(MAX_DEPTH, 64);
    let at_limit =
        [json!({ "a": nested(63, json!(1)) }), json!({ "a": nested(62, json!({ "b": null })) })];
    assert!(at_limit.iter().all(compiles) && at_limit.iter().all(text_compiles));
    assert!(Template::compile(&TABLE.vars, &limits, &body!({ "a": Nested(63) })).is_ok());
    assert!(text_compiles(&json!({ "a": nested(63, json!({ "$var": "ip" })) })));

    let deeper = json!({ "a": nested(62, json!({ "b/": {} })) });
    for error in
        [refusal(&deeper), text_refusal(&deeper.to_string()), refusal(&body!({ "a": Nested(64) }))]
    {
        assert_eq!(error.problem(), &BodyProblem::TooDeep { max: 64 });
        // 64 steps, of which the middle is left out.
        assert_eq!(error.path().matches('/').count(), 16 + 1 + 16, "{error}");
        assert!(error.path().starts_with("/a/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/…/0/"), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("objects and arrays nest deeper than limit of 64 levels at /a/0")
        );
    }
    assert!(refusal(&deeper).path().ends_with("/0/b~1"));

    // Deeper levels are never visited: recursion, and so the stack, ends at the limit.
    struct Endless;
    impl Serialize for Endless {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map([("again", Endless)])
        }
    }
    assert_eq!(refusal(&Endless).problem(), &BodyProblem::TooDeep { max: 64 });
    assert_eq!(
        text_refusal(&"{\"a\":".repeat(1_000_000)).problem(),
        &BodyProblem::TooDeep { max: 64 }
    );

    // Enums count as in JSON: a variant with content is an object around it.
    #[derive(Serialize)]
    enum Level {
        Next(Box<Level>),
        Last {},
    }
    let levels = |n: u32| (0..n).fold(Level::Last {}, |level, _| Level::Next(Box::new(level)));
    assert!(Template::compile(&TABLE.vars, &limits, &levels(62)).is_ok());
    assert_eq!(refusal(&levels(63)).problem(), &BodyProblem::TooDeep { max: 64 });
}

#[test]
fn excess_size_is_rejected() {
    let limits = Limits::new(1, 100, 100).unwrap();
    let compile =
        |n: usize| Template::compile(&TABLE.vars, &limits, &body!({ "a": "x".repeat(n) }));
    let from_json = |n: usize| {
        Template::from_json(&TABLE.vars, &limits, &format!("{{\"a\":\"{}\"}}  ", "x".repeat(n)))
    };
    assert_eq!(compile(92).unwrap().bound_bytes(), 100);
    assert_eq!(from_json(92).unwrap().bound_bytes(), 100);
    let message = "audit log exceeds limit of 100 bytes";
    assert_eq!(compile(93).unwrap_err().to_string(), message);
    assert_eq!(from_json(93).unwrap_err().to_string(), message);
    assert_eq!(compile(94).unwrap_err().to_string(), message);
    assert_eq!(from_json(94).unwrap_err().to_string(), message);

    // Variables count at their largest: two of 41 bytes and the text around them.
    let exact = |limit: u32| {
        let limits = Limits::new(1, limit, limit).unwrap();
        Template::compile(&TABLE.vars, &limits, &body!({ "a": [Var::IP, Var::IP] }))
    };
    let bound = 2 * 41 + r#"{"a":[,]}"#.len();
    assert_eq!(bound, 91);
    assert_eq!(exact(91).unwrap().bound_bytes(), 91);
    let error = exact(90).unwrap_err();
    assert_eq!(error.to_string(), "audit log exceeds limit of 90 bytes");
    assert_eq!(error.limit_exceeded().unwrap().actual(), 91);
    // A path would reveal how many bytes fit before it, so the text omits the path.
    let error = exact(88).unwrap_err();
    assert_eq!(error.to_string(), "audit log exceeds limit of 88 bytes");
    assert_eq!((error.limit_exceeded().unwrap().actual(), &*error.path()), (89, "/a/1"));

    let exceeded = compile(93).unwrap_err().limit_exceeded().unwrap();
    assert_eq!((exceeded.actual(), exceeded.max()), (101, 100));
    assert_eq!(refusal(&5).limit_exceeded(), None);
}

/// Compiling a body of gigabytes stops at the limit.
#[test]
fn oversized_bodies_are_rejected_early() {
    /// An endless iterator, and the number of items taken.
    fn counted<T: Clone>(count: &Cell<u64>, value: T) -> impl Iterator<Item = T> {
        std::iter::repeat(value).inspect(|_| count.set(count.get() + 1))
    }
    struct Once<I>(Cell<Option<I>>);
    impl<I: Iterator<Item: Serialize>> Serialize for Once<I> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.0.take().into_iter().flatten())
        }
    }
    let count = Cell::new(0);
    let error = refusal(&body!({ "a": Once(Cell::new(Some(counted(&count, "0123456789")))) }));
    assert_eq!(count.get(), 76_923, "1,000,000 bytes hold that many of 13");
    assert_eq!(error.path(), "/a/76922");
    // Variables count at their largest, so they reach the limit with little text.
    let count = Cell::new(0);
    refusal(&body!({ "a": Once(Cell::new(Some(counted(&count, Var::USER_AGENT)))) }));
    assert_eq!(count.get(), 974);

    // An endless Display, in a value and in a key.
    struct Endless<'c>(&'c Cell<u64>);
    impl fmt::Display for Endless<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                self.0.set(self.0.get() + 10);
                f.write_str("0123456789")?;
            }
        }
    }
    impl Serialize for Endless<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }
    struct EndlessKey<'c>(Endless<'c>);
    impl Serialize for EndlessKey<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry(&self.0, "")?;
            map.end()
        }
    }
    let count = Cell::new(0);
    let error = refusal(&body!({ "a": Endless(&count) }));
    assert_eq!((error.path().as_str(), count.get()), ("/a", 1_000_000));
    let count = Cell::new(0);
    let error = refusal(&body!({ "a": EndlessKey(Endless(&count)) }));
    assert_eq!((error.path().as_str(), count.get()), ("/a", 1_000_000));
    assert!(error.limit_exceeded().is_some());

    // A huge string is rejected for its length, before it is copied or scanned.
    let huge = "\u{1}".repeat(64 << 20);
    let at_least = |error: BodyError| error.limit_exceeded().unwrap().actual();
    assert_eq!(at_least(refusal(&body!({ "a": huge }))), (64 << 20) + r#"{"a":"#.len() as u64);
    assert_eq!(at_least(refusal(&BTreeMap::from([(&huge, 1)]))), (64 << 20) + 1);
    assert_eq!(at_least(refusal(&body!({ "a": [serde_bytes(huge.as_bytes())] }))), 1_000_002);

    let text = format!(r#"{{"a":"{}"}}"#, "x".repeat(64 << 20));
    let raw: &RawValue = serde_json::from_str(&text).unwrap();
    assert!(at_least(refusal(raw)) > 64 << 20);
    assert!(at_least(text_refusal(&text)) > 64 << 20);
    let text = format!(r#"{{"{}" : 1}}"#, "x".repeat(64 << 20));
    assert_eq!(text_refusal(&text).path(), "");
    assert!(at_least(text_refusal(&text)) > 64 << 20);
}

fn serde_bytes(bytes: &[u8]) -> impl Serialize + '_ {
    struct Bytes<'b>(&'b [u8]);
    impl Serialize for Bytes<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
    Bytes(bytes)
}

#[test]
fn invalid_host_values_are_rejected() {
    let mut vars = Vars::new();
    let small = vars.register("small", 10).unwrap();
    let refused = |value: &dyn Fn() -> Result<HostValue, BodyError>, message: &str| {
        assert_eq!(value().unwrap_err().to_string(), message);
    };
    let large = "value exceeds limit of 10 bytes of the variable";
    refused(&|| HostValue::new(small, "012345678"), large);
    refused(&|| HostValue::new(small, "01234567890"), large);
    refused(&|| HostValue::new(small, &["0123456"]), large);
    refused(&|| HostValue::new(small, "\n\n\n\n\n"), large);
    refused(&|| HostValue::new(small, &json!({ "a": [1, 2, 3, 4] })), large);
    refused(
        &|| HostValue::new(small, &body!({ "a": Var::IP })),
        "the value of a variable cannot contain a variable at /a",
    );
    refused(
        &|| HostValue::new(small, &Var::NOW),
        "the value of a variable cannot contain a variable",
    );
    refused(
        &|| HostValue::new(small, &json!({ "$": 1 })),
        "audit log body keys must not start with \"$\": \"$\" at /$",
    );

    let nested = |levels: u32| (0..levels).fold(json!(1), |value, _| json!([value]));
    assert!(HostValue::new(TABLE.actor, &nested(16)).is_ok());
    let error = HostValue::new(TABLE.actor, &nested(17)).unwrap_err();
    assert_eq!(error.problem(), &BodyProblem::TooDeep { max: 16 });
    assert_eq!(error.path(), "/0".repeat(16));
}

#[test]
#[should_panic(expected = "Var(small) is not in the table of this runtime")]
fn host_values_of_another_table_panic() {
    let mut others = Vars::new();
    let small = others.register("small", 10).unwrap();
    let value = HostValue::new(small, "value").unwrap();
    let _ = audit_vars::Values::none().with_host_values(&TABLE.vars, &[value]);
}

#[test]
fn invalid_json_is_rejected() {
    let syntax = |text: &str, offset, reason| syntax_refused(text, offset, reason, "");
    syntax("", 0, "expected a value");
    syntax(" \n", 2, "expected a value");
    syntax("\u{feff}{}", 0, "expected a value");
    syntax("{} x", 3, "expected the end of the text");
    syntax("{", 1, "expected a key in quotes");
    syntax("{a:1}", 1, "expected a key in quotes");
    syntax("{\"a\"}", 4, "expected ':'");
    syntax("{\"a\":1,}", 7, "expected a key in quotes");
    syntax("{\"a\":1", 6, "expected ',' or '}'");
    syntax("{\"$var\" \"ip\"}", 8, "expected ':'");

    let syntax = |value: &str, offset: usize, reason: &'static str| {
        let text = format!("{{\"k\":[0,{value}]}}");
        syntax_refused(&text, 8 + offset, reason, " at /k/1");
    };
    syntax("tru", 0, "expected a value");
    syntax("'a'", 0, "expected a value");
    syntax("+1", 0, "expected a value");
    syntax(".5", 0, "expected a value");
    syntax("-", 1, "expected a digit");
    syntax("1.", 2, "expected a digit");
    syntax("1e+", 3, "expected a digit");
    syntax("-1e309", 0, "the number is out of the range of a 64-bit float");
    syntax("\"a\nb\"", 2, "control characters must be escaped");
    syntax("\"\\x\"", 1, "unknown escape");
    syntax("\"\\u00g0\"", 1, "expected four hexadecimal digits");
    syntax("\"\\ud800\"", 1, "unpaired surrogate");
    syntax("\"\\ud800\\u0041\"", 1, "unpaired surrogate");
    syntax("\"a\\udc00\"", 2, "unpaired surrogate");
    syntax_refused("{\"k\":[00]}", 7, "expected ',' or ']'", " at /k");
    syntax_refused("{\"k\":{\"$var\":", 13, "expected a value", " at /k");
    syntax_refused("{\"k\":{\"$var\":\"ip\"", 17, "expected ',' or '}'", " at /k");
}

/// The error names the value whose implementation failed, and what it did wrong.
#[test]
fn failing_serialize_implementations_are_rejected() {
    let failed = |message: &str| format!("the audit log body cannot be serialized: {message}");
    serializes!(Fails, |_serializer| Err(S::Error::custom("no connection")));
    refused(&body!({ "a": [Fails] }), &failed("no connection at /a/0"));

    serializes!(KeyWithoutValue, |serializer| {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_key("k")?;
        map.end()
    });
    refused(
        &body!({ "a": KeyWithoutValue }),
        &failed("a map ended after a key without its value at /a"),
    );

    serializes!(TwoKeys, |serializer| {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_key("k")?;
        map.serialize_key("l")?;
        map.end()
    });
    refused(
        &body!({ "a": TwoKeys }),
        &failed("a map wrote two keys without a value between them at /a"),
    );

    serializes!(ValueWithoutKey, |serializer| {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_value("v")?;
        map.end()
    });
    refused(&body!({ "a": ValueWithoutKey }), &failed("a map wrote a value without its key at /a"));

    struct Undisplayable;
    impl fmt::Display for Undisplayable {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("begins")?;
            Err(fmt::Error)
        }
    }
    serializes!(Shown, |serializer| serializer.collect_str(&Undisplayable));
    refused(&body!({ "a": Shown }), &failed("its Display implementation failed at /a"));
    serializes!(ShownKey, |serializer| serializer.collect_map([(Shown, 1)]));
    refused(&body!({ "a": ShownKey }), &failed("its Display implementation failed at /a"));

    // Other code uses the struct names that `serde_json` has for finished text.
    serializes!(NoJson, |serializer| serializer
        .serialize_struct("$serde_json::private::RawValue", 0)?
        .end());
    refused(&body!({ "a": NoJson }), &failed("expected one field of JSON text at /a"));
    serializes!(TwoJsons, |serializer| {
        let mut fields = serializer.serialize_struct("$serde_json::private::RawValue", 2)?;
        fields.serialize_field("a", "1")?;
        fields.serialize_field("b", "2")?;
        fields.end()
    });
    refused(&body!({ "a": TwoJsons }), &failed("expected one field of JSON text at /a"));
    serializes!(OtherJson, |serializer| {
        let mut fields = serializer.serialize_struct("$serde_json::private::Number", 1)?;
        fields.serialize_field("a", &1)?;
        fields.end()
    });
    refused(&body!({ "a": OtherJson }), &failed("expected a string at /a"));
    serializes!(BadJson, |serializer| {
        let mut fields = serializer.serialize_struct("$serde_json::private::Number", 1)?;
        fields.serialize_field("a", "1e999")?;
        fields.end()
    });
    refused(
        &body!({ "a": BadJson }),
        "invalid JSON: the number is out of the range of a 64-bit float at /a",
    );
}

/// A Serialize implementation that hides an error cannot produce invalid JSON.
#[test]
fn swallowed_errors_are_rejected() {
    let message = "the audit log body cannot be serialized: its Serialize implementation continued after an error";
    serializes!(Fails, |_serializer| Err(S::Error::custom("no connection")));
    serializes!(Sequence, |serializer| {
        let mut elements = serializer.serialize_seq(None)?;
        let _ = elements.serialize_element(&[Fails]);
        elements.serialize_element(&1)?;
        elements.end()
    });
    refused(&body!({ "a": Sequence }), message);
    serializes!(Map, |serializer| {
        let mut members = serializer.serialize_map(None)?;
        let _ = members.serialize_entry("k", &Fails);
        let _ = members.serialize_entry("$k", &1);
        members.end()
    });
    refused(&Map, message);
    serializes!(Key, |serializer| {
        let mut members = serializer.serialize_map(None)?;
        let _ = members.serialize_entry(&Fails, &1);
        members.end()
    });
    refused(&Key, message);
    serializes!(Struct, |serializer| {
        let mut fields = serializer.serialize_struct("Struct", 1)?;
        let _ = fields.serialize_field("$a", &1);
        fields.end()
    });
    refused(&Struct, message);
    assert_eq!(HostValue::new(TABLE.actor, &Sequence).unwrap_err().to_string(), message);
}

#[test]
fn long_keys_are_shortened() {
    let long = "k".repeat(100_000);
    let error = refusal(&json!({ (long.as_str()): { (format!("${long}")): 1 } }));
    let shown = "k".repeat(64);
    assert_eq!(error.path(), format!("/{shown}…/${}…", &shown[1..]));
    assert!(error.to_string().len() < 300);
    let error = text_refusal(&format!("{{\"a\":{{\"$var\":\"{long}\"}}}}"));
    assert_eq!(error.to_string(), format!("unknown audit variable {shown:?} at /a"));
}
