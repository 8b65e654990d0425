//! Members of a body are unique at every depth (RFC 7493), whatever writes them: readers disagree
//! about which of two members counts.

use std::collections::{BTreeMap, HashSet};

use audit_core::Limits;
use audit_vars::{BodyError, BodyProblem, HostValue, Template, Var, Vars, body};
use proptest::prelude::*;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

fn compile<T: Serialize + ?Sized>(body: &T) -> Result<Template, BodyError> {
    Template::compile(&Vars::new(), &Limits::default(), body)
}

fn from_json(text: &str) -> Result<Template, BodyError> {
    Template::from_json(&Vars::new(), &Limits::default(), text)
}

fn assert_twice(result: Result<Template, BodyError>, path: &str) {
    let error = result.expect_err(path);
    assert!(matches!(error.problem(), BodyProblem::DuplicateKey { .. }), "{error}");
    assert_eq!(error.path(), path);
    let key = path.rsplit('/').next().unwrap();
    assert_eq!(error.to_string(), format!("audit log body keys must be unique: {key:?} at {path}"));
}

/// A map that writes these members in order.
struct Pairs<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Pairs<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
        map.end()
    }
}

/// A number and a string as keys of a map: the same text.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Key {
    Number(i64),
    Text(&'static str),
    Flag(bool),
    Newtype(Inner),
    Optional(Option<char>),
}

#[derive(serde::Serialize)]
struct Inner(&'static str);

#[derive(serde::Serialize)]
struct Flattened {
    user: &'static str,
    #[serde(flatten)]
    sent: BTreeMap<&'static str, u32>,
}

#[derive(serde::Serialize)]
enum Tagged {
    Struct {
        a: u32,
        #[serde(flatten)]
        rest: BTreeMap<&'static str, u32>,
    },
}

#[derive(serde::Serialize)]
#[serde(tag = "type")]
enum Internal {
    Newtype(BTreeMap<&'static str, u32>),
}

#[test]
fn duplicates_are_rejected_in_every_shape() {
    let sent = BTreeMap::from([("a", 1), ("user", 2)]);
    assert_twice(compile(&Flattened { user: "ada", sent: sent.clone() }), "/user");
    assert_twice(compile(&json!([0]).as_array().map(|_| Pairs(vec![("a", 1), ("a", 1)]))), "/a");
    let tagged = Tagged::Struct { a: 1, rest: sent };
    assert_twice(compile(&body!({ "x": [tagged] })), "/x/0/Struct/a");
    let internal = Internal::Newtype(BTreeMap::from([("type", 1)]));
    assert_twice(compile(&internal), "/type");
    assert_twice(compile(&body!({ "b": 1, "a": 2, "b": Var::IP })), "/b");
    assert_twice(compile(&body!({ "deep": [{ "a": { "b": 1, "b": 1 } }] })), "/deep/0/a/b");
    for (a, b, path) in [
        (Key::Number(1), Key::Text("1"), "/1"),
        (Key::Text("-7"), Key::Number(-7), "/-7"),
        (Key::Flag(true), Key::Text("true"), "/true"),
        (Key::Newtype(Inner("n")), Key::Text("n"), "/n"),
        (Key::Optional(Some('c')), Key::Text("c"), "/c"),
    ] {
        assert_twice(compile(&Pairs(vec![(a, 1), (b, 2)])), path);
    }
    let raw = serde_json::value::RawValue::from_string(r#"{"a":1,"a":2}"#.to_owned()).unwrap();
    assert_twice(compile(&body!({ "raw": raw })), "/raw/a");
    let mut vars = Vars::new();
    let var = vars.register("v", 100).unwrap();
    let value = HostValue::new(var, &Pairs(vec![("a", 1), ("a", 1)]));
    assert!(matches!(value.unwrap_err().problem(), BodyProblem::DuplicateKey { .. }));
    compile(&body!({ "a": { "a": 1 }, "b": { "a": 1 }, "c": ["a", "a"] })).unwrap();
}

#[test]
fn duplicates_are_rejected_in_any_spelling() {
    for (text, path) in [
        (r#"{"a":1,"a":2}"#, "/a"),
        (r#"{"a":1,"\u0061":2}"#, "/\\u0061"),
        (r#"{"\u0061":1, "a":2}"#, "/a"),
        ("{\"\u{e9}\":1,\"\\u00E9\":2}", "/\\u00E9"),
        (r#"{"\/":1,"\u002f":2}"#, r"/\u002f"),
        (r#"{"\ud83d\ude00":1,"\uD83D\uDE00":2}"#, r"/\uD83D\uDE00"),
        (r#"{"":1,"":2}"#, "/"),
        (r#"{"x":[0,{"b":{"$var":"ip"},"c":{"a":1},"b":[]}]}"#, "/x/1/b"),
        (r#"{ "a" : "}{,\"" , "b" : 1 , "a" : 2 }"#, "/a"),
    ] {
        let error = from_json(text).expect_err(text);
        assert!(matches!(error.problem(), BodyProblem::DuplicateKey { .. }), "{error}");
        // The error may name either spelling.
        assert_eq!(error.path().rsplit_once('/').unwrap().0, path.rsplit_once('/').unwrap().0);
    }
    for reserved in [r#"{"\u0024a":1}"#, r#"{"$\u0061":1}"#, r#"{"$a\"":1}"#] {
        let error = from_json(reserved).expect_err(reserved);
        assert!(matches!(error.problem(), BodyProblem::ReservedKey { .. }), "{error}");
    }
    from_json(r#"{"a":{"a":1},"A":[{"a":"a"},{"a":"\"a\":1"}],"\u0041b":{"$var":"ip"}}"#).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Many names, few of them equal: the filter often has false positives.
    #[test]
    fn rejected_duplicates_match_a_set(
        names in prop::collection::vec("[ab\\\\\"é\u{2028}]{0,3}|property_[0-9]{3}", 0..40),
    ) {
        let unique = names.iter().collect::<HashSet<_>>().len() == names.len();
        let pairs = Pairs(names.iter().map(|name| (name, json!({ "x": [1] }))).collect());
        let text = serde_json::to_string(&pairs).unwrap();
        let nested = format!("{{\"n\":[{text}]}}");
        for result in [compile(&pairs), from_json(&text), from_json(&nested)] {
            match result {
                Ok(_) => prop_assert!(unique),
                Err(error) => {
                    prop_assert!(!unique, "{error}");
                    let problem = error.problem();
                    prop_assert!(matches!(problem, BodyProblem::DuplicateKey { .. }), "{error}");
                }
            }
        }
    }
}

/// Ascending names are checked differently from unordered ones.
#[test]
fn duplicates_of_ascending_names_are_found() {
    let limits = Limits::default();
    for count in 1..20 {
        let names: Vec<String> = (0..count).map(|n| format!("name_{n:02}")).collect();
        for twice in &names {
            let members = names.iter().chain([twice]).map(|name| (name, 0)).collect();
            assert_twice(compile(&Pairs(members)), &format!("/{twice}"));
            let text = names.iter().chain([twice]).map(|name| format!("\"{name}\":0"));
            let text = format!("{{{}}}", text.collect::<Vec<_>>().join(","));
            assert_twice(Template::from_json(&Vars::new(), &limits, &text), &format!("/{twice}"));
        }
    }
    assert_twice(compile(&Pairs(vec![("", 0), ("", 0)])), "/");
    compile(&Pairs(vec![("", 0), ("a", 0)])).unwrap();
    compile(&Pairs(vec![("a", 0), ("", 0)])).unwrap();
}

/// Comparing each pair of names would take minutes here.
#[test]
fn many_unordered_members_are_checked_quickly() {
    let name = |n: u32| format!("\"{:x}\":0", n.wrapping_mul(0x9e37_79b9));
    let members: Vec<String> = (0..90_000).map(name).collect();
    let text = format!("{{{}}}", members.join(","));
    let limits = Limits::new(1, 16 << 20, 16 << 20).unwrap();
    Template::from_json(&Vars::new(), &limits, &text).unwrap();
    let twice = format!("{},{}}}", text.strip_suffix('}').unwrap(), members[0]);
    let error = Template::from_json(&Vars::new(), &limits, &twice).unwrap_err();
    assert!(matches!(error.problem(), BodyProblem::DuplicateKey { .. }), "{error}");
}
