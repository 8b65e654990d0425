//! `from_json` accepts the JSON that `serde_json` accepts, except what the contract rejects, and
//! each error names a path that exists.
//!
//! The complete list of what `serde_json` accepts as a value and `from_json` rejects:
//!
//! - values other than objects, and nesting deeper than [`MAX_DEPTH`] (`serde_json` stops at 128);
//! - a key that begins with `$`, except in the sentinel of a known variable;
//! - a sentinel with escapes in its key or its name, `{"\u0024var":"ip"}`: no writer escapes plain
//!   letters;
//! - bodies larger than the limit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;

use audit_vars::{BodyProblem, MAX_DEPTH, Template, tree_walk};
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::duplicate_members::has_duplicates;
use crate::trees::{self, Request, TABLE, limits};

/// A value as `serde_json` reads it, duplicate members included.
enum Read {
    Scalar,
    Text(String),
    Array(Vec<Read>),
    Object(Vec<(String, Read)>),
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Read;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }

            fn visit_unit<E: Error>(self) -> Result<Read, E> {
                Ok(Read::Scalar)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Read, E> {
                Ok(Read::Scalar)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Read, E> {
                Ok(Read::Scalar)
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Read, E> {
                Ok(Read::Scalar)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Read, E> {
                Ok(Read::Scalar)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Read, E> {
                Ok(Read::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Read, A::Error> {
                let mut read = Vec::new();
                while let Some(element) = elements.next_element()? {
                    read.push(element);
                }
                Ok(Read::Array(read))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Read, A::Error> {
                let mut read = Vec::new();
                while let Some(member) = members.next_entry()? {
                    read.push(member);
                }
                Ok(Read::Object(read))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

impl Read {
    /// Whether this is allowed in a body at a nesting of `depth` levels.
    fn is_allowed(&self, depth: u32) -> bool {
        match self {
            Read::Scalar | Read::Text(_) => true,
            Read::Object(members) => {
                if let [(key, Read::Text(name))] = &members[..]
                    && key == "$var"
                    && TABLE.vars.get(name).is_some()
                {
                    return true;
                }
                depth < MAX_DEPTH
                    && members
                        .iter()
                        .all(|(key, value)| !key.starts_with('$') && value.is_allowed(depth + 1))
            }
            Read::Array(elements) => {
                depth < MAX_DEPTH && elements.iter().all(|element| element.is_allowed(depth + 1))
            }
        }
    }

    fn is_body(&self) -> bool {
        match self {
            Read::Object(members) => {
                !matches!(&members[..], [(key, _)] if key == "$var") && self.is_allowed(0)
            }
            Read::Scalar | Read::Text(_) | Read::Array(_) => false,
        }
    }

    /// Whether the JSON Pointer resolves here.
    fn has(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return path.is_empty() };
        let (step, rest) = path.find('/').map_or((path, ""), |slash| path.split_at(slash));
        if step.ends_with('…') {
            // The path was shortened: the rest cannot be checked.
            return true;
        }
        match self {
            Read::Scalar | Read::Text(_) => false,
            Read::Array(elements) => {
                step.parse::<usize>().is_ok_and(|n| elements.get(n).is_some_and(|e| e.has(rest)))
            }
            Read::Object(members) => {
                let key = format!("\"{}\"", step.replace("~1", "/").replace("~0", "~"));
                let key: String = serde_json::from_str(&key).unwrap();
                members.iter().any(|(name, value)| *name == key && value.has(rest))
            }
        }
    }
}

fn check(text: &str, request: &Request) -> Result<(), TestCaseError> {
    let read = serde_json::from_str::<Read>(text);
    match (Template::from_json(&TABLE.vars, &limits(), text), read) {
        (Ok(template), read) => {
            prop_assert!(
                read.is_ok_and(|read| read.is_body()),
                "compiled, but is not a valid body: {text}"
            );
            let value: Value = serde_json::from_str(text).unwrap();
            let walked = tree_walk::tree_walk(&value, &|name| request.lookup(name));
            let mut line = Vec::new();
            template.render(&request.values(), &mut line);
            prop_assert!(crate::trees::is_one_line(std::str::from_utf8(&line).unwrap()));
            prop_assert!(!has_duplicates(text), "compiled with duplicate members: {text}");
            prop_assert!(line.len() <= template.bound_bytes() as usize);
            // Numbers keep their spelling: the value is the same.
            let [line, walked] =
                [line, walked].map(|json| serde_json::from_slice::<Value>(&json).unwrap());
            prop_assert_eq!(line, walked);
        }
        (Err(refused), Ok(read)) => {
            prop_assert!(read.has(&refused.path()), "no such place in {text}: {refused}");
            let problem = refused.problem();
            prop_assert!(
                !matches!(problem, BodyProblem::Syntax { .. }),
                "is JSON: {refused}: {text}"
            );
            let escaped_sentinel = matches!(problem, BodyProblem::ReservedKey { key } if key.contains("\\u00"))
                || matches!(problem, BodyProblem::UnknownVariable { name } if name.contains("\\u00"));
            let twice = matches!(problem, BodyProblem::DuplicateKey { .. });
            prop_assert!(!twice || has_duplicates(text), "no members twice: {refused}: {text}");
            prop_assert!(
                twice || escaped_sentinel || !read.is_body(),
                "a body, but refused: {refused}: {text}"
            );
        }
        (Err(refused), Err(_)) => {
            // Formatting its message does not panic, and the offset of a syntax error lies in the
            // text.
            let _ = refused.to_string();
            if let BodyProblem::Syntax { offset, .. } = refused.problem() {
                prop_assert!(text.is_char_boundary(*offset), "{refused} in {text}");
            }
        }
    }
    Ok(())
}

/// A change of the text; positions are in 1/65536 of its length.
#[derive(Debug, Clone)]
enum Mutation {
    Delete(u16, u8),
    Insert(u16, String),
    Repeat(u16, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    const TOKENS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "\\u0024",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\udc00",
        "$",
        "$var",
        "\"$var\":",
        "{\"$var\":\"ip\"}",
        "{ \"$var\" :\n\"now\" }",
        "null",
        "true",
        "tru",
        "-",
        "0",
        "00",
        "1",
        ".",
        "e",
        "1e308",
        "1e309",
        "-0.0",
        "1E+2",
        "9007199254740993",
        " ",
        "\n",
        "\t",
        "\u{0}",
        "\u{feff}",
        "é",
        "\u{2028}",
        "//",
        "NaN",
        "Infinity",
        "'",
        "/**/",
        "\"a\":1,",
        "\"a\\/b\":",
    ];
    prop_oneof![
        (any::<u16>(), 1..6u8).prop_map(|(at, chars)| Mutation::Delete(at, chars)),
        (any::<u16>(), prop::sample::select(TOKENS).prop_map(str::to_owned))
            .prop_map(|(at, token)| Mutation::Insert(at, token)),
        (any::<u16>(), any::<u8>()).prop_map(|(at, chars)| Mutation::Repeat(at, chars)),
    ]
}

fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let place = |at: u16| chars.len() * usize::from(at) / 65536;
    match mutation {
        Mutation::Delete(at, count) => {
            let at = place(*at);
            chars.drain(at..chars.len().min(at + usize::from(*count)));
        }
        Mutation::Insert(at, token) => {
            let at = place(*at);
            chars.splice(at..at, token.chars());
        }
        Mutation::Repeat(at, count) => {
            let at = place(*at);
            let range = at..chars.len().min(at + usize::from(*count));
            let repeated = chars[range].to_vec();
            chars.splice(at..at, repeated);
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_text_compiles_or_names_a_path(text in prop_oneof![
        "(?s).{0,40}",
        "[\\[\\]{}\",:0-9eE.+\\-truefalsn$v\\\\ \n]{0,40}",
        "\\{\"a\":[\\[\\]{}\",:0-9eE.+\\-truefalsn$v\\\\ \n]{0,12}\\}",
        "\\{\"a\":-?[0-9]{0,3}(\\.[0-9]{0,3})?([eE][+-]?[0-9]{0,4})?\\}",
        "\\{\"a\":-?[0-9]{300,320}(\\.[0-9]{0,3})?(e-?[0-9]{0,3})?\\}",
        "\\{\"a\":\"(\\\\u[0-9a-fdD]{3,4}|\\\\[a-z/\"]|a){0,3}\"\\}",
    ]) {
        check(&text, &Request::worst())?;
    }

    #[test]
    fn mutated_json_compiles_or_names_a_path(
        body in trees::body(),
        request in trees::request(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let mut text = body.to_value().to_string();
        for mutation in &mutations {
            text = mutate(&text, mutation);
            check(&text, &request)?;
        }
    }
}

/// Cases that arbitrary text seldom reaches.
#[test]
fn corners_of_the_grammar_are_checked() {
    let nested = |open: &str, levels: usize, inside: &str, close: &str| {
        format!("{{\"a\":{}{inside}{}}}", open.repeat(levels), close.repeat(levels))
    };
    for text in [
        nested("[", 63, "", "]"),
        nested("[", 64, "", "]"),
        nested("[", 63, r#"{"$var":"ip"}"#, "]"),
        nested("[", 64, r#"{"$var":"ip"}"#, "]"),
        nested("{\"b\":", 63, "1", "}"),
        nested("{\"b\":", 64, "1", "}"),
        nested("[", 130, "", "]"),
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        r#"{"a":1,"a":{"$var":"ip"}}"#.to_owned(),
        r#"{"a":{"$var":"ip","$var":"ip"}}"#.to_owned(),
        r#"{"a":{"$var":"ip","b":1}}"#.to_owned(),
        r#"{"a":{"b":1,"$var":"ip"}}"#.to_owned(),
        r#"{"a":{"\u0024var":"ip"}}"#.to_owned(),
        r#"{"a":{"$v\u0061r":"ip"}}"#.to_owned(),
        r#"{"a":{"$var":"i\u0070"}}"#.to_owned(),
        r#"{"a":{"$var":"#.to_owned(),
        r#"{"a":{"$var""#.to_owned(),
        r#"{"a":{"$var":"ip""#.to_owned(),
        r#"{"a":{"$var":5}}"#.to_owned(),
        r#"{"a":0e99999999999999999999}"#.to_owned(),
        r#"{"a":1e-99999999999999999999}"#.to_owned(),
        r#"{"a":1e99999999999999999999}"#.to_owned(),
        format!("{{\"a\":{}}}", "9".repeat(309)),
        format!("{{\"a\":{}}}", "9".repeat(308)),
        format!("{{\"a\":0.{}1}}", "0".repeat(400)),
        format!("{{\"a\":1{}e-400}}", "0".repeat(400)),
    ] {
        check(&text, &Request::worst()).unwrap();
    }
}
