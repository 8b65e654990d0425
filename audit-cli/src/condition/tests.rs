//! Conditions match what they say, whatever is skipped for speed.

use super::*;
use proptest::prelude::*;

const LINE: &[u8] =
    br#"{"user":"ada","n":7,"x":7.0,"deep":{"a/b":[1,{"c":null}],"say":"\u0068i \"you\""},"at":1700000000000,"big":9007199254740993,"zero":-0}"#;

#[test]
fn a_condition_holds_for_the_value_at_its_pointer() {
    let holds = |text: &str| text.parse::<Condition>().unwrap().holds(LINE);
    for text in [
        "/user=ada",
        "/user=\"ada\"",
        "/n=7",
        "/n=7.0",
        "/x=7",
        "/deep/a~1b/0=1",
        "/deep/a~1b/1/c=null",
        "/deep/say=hi \"you\"",
        "/deep/a~1b=[1,{\"c\":null}]",
        "/deep/a~1b= [1.0, {\"\\u0063\": null}]",
        "/big=9007199254740993",
        "/big=9007199254740993.0",
        "/zero=0",
        "/zero=-0.0",
        "/n=70e-1",
    ] {
        assert!(holds(text), "{text}");
    }
    for text in [
        "/user=eve",
        "/user=ad",
        "/n=8",
        "/nobody=ada",
        "/deep=ada",
        "/deep/a~1b/2=1",
        "/user/x=ada",
        "/n=\"7\"",
        "/big=9007199254740992",
        "/big=9007199254740993.1",
        "/big=9.007199254740992e15",
    ] {
        assert!(!holds(text), "{text}");
    }
}

#[test]
fn invalid_json_matches_nothing() {
    let condition: Condition = "/a=1".parse().unwrap();
    for line in [&b"{\"a\":1"[..], b"{\"a\":1} x", b"", b"\xff"] {
        assert!(!condition.holds(line));
    }
}

fn holds(condition: &str, line: &str) -> bool {
    condition.parse::<Condition>().unwrap().holds(line.as_bytes())
}

#[test]
fn each_operator_holds_for_its_values_alone() {
    let line = r#"{"n":9007199254740993,"s":"b\u0031c","o":{"k":"v"},"nil":null,"a<b":1,"big":123456789012345678901234567890}"#;
    for (condition, expected) in [
        ("/n", true),
        ("/nil", true),
        ("/no", false),
        ("!/no", true),
        ("!/nil", false),
        ("/n!=9007199254740992", true),
        ("/n!=9007199254740993.0", false),
        ("/no!=1", true),
        ("/s!=b1c", false),
        ("/n>9007199254740992", true),
        ("/n>9007199254740993", false),
        ("/n >= 9007199254740993.0", true),
        ("/n<9007199254740993.5", true),
        ("/n<=9007199254740992.99999", false),
        ("/big>123456789012345678901234567889", true),
        ("/big<123456789012345678901234567891", true),
        ("/big<1e30", true),
        ("/big>1e29", true),
        ("/n>-1e99", true),
        ("/s<c", true),
        ("/s>b1", true),
        ("/s>\"9\"", true),
        // Numbers and texts are not comparable.
        ("/s>9", false),
        ("/s<9", false),
        ("/n<x", false),
        ("/no<1", false),
        ("/no>=1", false),
        ("/s~1c", true),
        ("/s~\"1c\"", true),
        ("/o~1k=v", false),
        ("!/o~1k", true),
        ("\"/o~1k\"", false),
        ("/n~5474", true),
        ("/s~b1", true),
        ("/s~u0031", false),
        ("/n~\"5474\"", true),
        ("/o~\"k\"", true),
        ("/no~x", false),
        ("/s in a,b1c", true),
        ("/s in [\"b1c\", 7]", true),
        ("/n in 1, 9007199254740993", true),
        ("/n in 1,2", false),
        ("/o/k=v", true),
        ("\"/a<b\"=1", true),
        ("\"/a<b\" in 2, 1", true),
        ("\"/a<b\" >= 2", false),
    ] {
        let holds = match condition.parse::<Condition>() {
            Ok(condition) => condition.holds(line.as_bytes()),
            Err(_) => false,
        };
        assert_eq!(holds, expected, "{condition}");
    }
}

#[test]
fn text_is_found_in_any_spelling() {
    let line = r#"{"na\u006de":"quo\"te","path":["a\\b",{"x":"\u00e9\ud83e\udd80"}],"n":12345}"#;
    for text in ["name", "quo\"te", "a\\b", "é", "\u{1f980}", "2345", "\"n\":1", "te"] {
        assert!(Condition::anywhere(text).holds(line.as_bytes()), "{text}");
    }
    for text in ["Name", "ab", "u{e9}", "54", "quote"] {
        assert!(!Condition::anywhere(text).holds(line.as_bytes()), "{text}");
    }
    // Nested too deeply for a parser, and truncated.
    let deep = format!("{}\"\\u0061da\"{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Condition::anywhere("ada").holds(deep.as_bytes()));
    for cut in ["\"\\", "\"a", "\"\\\"", "\\"] {
        assert!(!Condition::anywhere("ada").holds(cut.as_bytes()));
    }
}

#[test]
fn a_search_is_a_condition_only_if_it_has_an_operator() {
    let is_condition = |text: &str| Condition::searched(text).unwrap().member().is_some();
    assert!(is_condition("/user=ada") && is_condition("/n>=7"));
    assert!(!is_condition("/etc/passwd") && !is_condition("ada") && !is_condition("a=b"));
    assert!(Condition::searched("").is_err());
}

#[test]
fn invalid_conditions_are_refused() {
    assert_eq!("/a~1b/~0=x=y".parse::<Condition>().unwrap().to_string(), "/a~1b/~0=x=y");
    assert!("user=ada".parse::<Condition>().unwrap_err().contains("/user"));
    for invalid in ["", "!", "!/a=1", "\"/a", "\"/a\"b", "/a<null", "/a>=[1]", "!user"] {
        assert!(invalid.parse::<Condition>().is_err(), "{invalid}");
    }
    assert!(holds("/a=1", "{\"a\":1}"));
}

/// A text, and one way to spell it in JSON: some characters as escapes, as a hostile writer may.
fn spelled() -> impl Strategy<Value = (String, String)> {
    let character = prop_oneof![
        prop::sample::select(vec!['a', 'b', 'A', '"', '\\', '/', '\n', 'é', '\u{1f980}', '\u{1}']),
        any::<char>(),
    ];
    prop::collection::vec((character, any::<bool>()), 0..12).prop_map(|characters| {
        let (mut text, mut spelled) = (String::new(), String::new());
        for (character, escape) in characters {
            text.push(character);
            if escape {
                let units = character.encode_utf16(&mut [0; 2]).to_vec();
                units.iter().for_each(|unit| spelled.push_str(&format!("\\u{unit:04X}")));
            } else {
                let json = serde_json::json!(character.to_string()).to_string();
                spelled.push_str(&json[1..json.len() - 1]);
            }
        }
        (text, spelled)
    })
}

proptest! {
    /// Records that are skipped without parsing never match, however names and values are spelled.
    #[test]
    fn no_spelling_hides_a_match(
        (value, spelled_value) in spelled(),
        (name, spelled_name) in spelled(),
        (other, spelled_other) in spelled(),
        needle in prop_oneof![spelled().prop_map(|(text, _)| text), Just(String::new())],
        part in (0..12usize, 0..12usize),
    ) {
        let line = format!(
            "{{\"k\":\"{spelled_value}\",\"n\":[\"{spelled_other}\",{{\"x{spelled_name}\":7}}]}}"
        );
        let characters: Vec<char> = value.chars().collect();
        let from = part.0.min(characters.len());
        let some: String = characters[from..].iter().take(part.1).collect();
        let name = format!("x{name}");
        for text in [needle, some, value.clone(), other.clone(), name.clone()] {
            let quoted = serde_json::json!(text).to_string();
            let holds = |condition: String| {
                condition.parse::<Condition>().unwrap().holds(line.as_bytes())
            };
            // The same result as that of a reader that parses every line.
            prop_assert_eq!(holds(format!("/k={quoted}")), value == text);
            prop_assert_eq!(holds(format!("/k!={quoted}")), value != text);
            // A number also equals the text with its spelling.
            let is_one = value == text || value == "1";
            prop_assert_eq!(holds(format!("/k in [{quoted},1]")), is_one);
            prop_assert_eq!(holds(format!("/k~{quoted}")), value.contains(&text));
            if !text.is_empty() {
                let is_in = [&value, &other, &name].iter().any(|all| all.contains(&text));
                let found = Condition::anywhere(&text).holds(line.as_bytes());
                prop_assert!(found || !is_in, "{:?} in {}", text, line);
            }
        }
    }
}
