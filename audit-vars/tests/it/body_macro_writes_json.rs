//! `body!` accepts JSON syntax with expressions, and means the same as `serde_json::json!`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use audit_core::Limits;
use audit_vars::{Template, Values, Var, Vars, body};
use serde::Serialize;
use serde_json::json;

#[track_caller]
fn line<T: Serialize>(body: &T) -> String {
    let template = Template::compile(&Vars::new(), &Limits::default(), body).unwrap();
    let mut line = Vec::new();
    template.render(&Values::none(), &mut line);
    String::from_utf8(line).unwrap()
}

const KEY: &str = "constant";

mod keys {
    pub(super) const ACTION: &str = "in a module";
}

#[test]
#[rustfmt::skip]
fn every_form_is_accepted() {
    assert_eq!(line(&body!({})), "{}");
    assert_eq!(line(&body!({ "a": {}, "b": [], "c": [[], {}, [{}]] })), r#"{"a":{},"b":[],"c":[[],{},[{}]]}"#);
    assert_eq!(line(&body!({ "a": 1, })), r#"{"a":1}"#);
    assert_eq!(line(&body!({ "a": [1, 2,], "b": { "c": null, }, "d": [null,], })), r#"{"a":[1,2],"b":{"c":null},"d":[null]}"#);
    assert_eq!(line(&body!({ "a": null, "b": [null, 1, null], "c": true, "d": false })), r#"{"a":null,"b":[null,1,null],"c":true,"d":false}"#);
    let yes = true;
    assert_eq!(line(&body!({ "a": -1, "b": [-1.5, - 2], "c": !yes, "d": 1 + 2 * 3 })), r#"{"a":-1,"b":[-1.5,-2],"c":false,"d":7}"#);
}

/// An expression that begins like a JSON array or object is still an expression.
#[test]
fn expressions_may_begin_with_brackets() {
    let index = 1;
    let body = body!({
        "length": [1, 2].len(),
        "element": [10, 20][index],
        "elements": [[1, 2].len(), [3][0], [1, 2, 3].iter().sum::<i32>()],
        "paren": (1, "two"),
        "if": if index == 1 { "yes" } else { "no" },
        "match": match index { 1 => "one", _ => "more" },
        "call": (usize::count_ones)(index),
        "macro": vec![1, 2],
        "reference": &&index,
        "generic": Vec::<u8>::new(),
        "chain": format!("{index}, {index}").as_str().trim_end().len(),
    });
    assert_eq!(
        line(&body),
        r#"{"length":2,"element":20,"elements":[2,3,6],"paren":[1,"two"],"if":"yes","match":"one","#
            .to_owned() + r#""call":1,"macro":[1,2],"reference":1,"generic":[],"chain":4}"#
    );
    // A body not bound to a name may borrow temporaries of the statement.
    assert_eq!(
        line(&body!({ "string": format!("{index} ").as_str().trim_end() })),
        r#"{"string":"1"}"#
    );
}

#[test]
fn keys_may_be_expressions() {
    let (owned, suffix) = ("owned".to_owned(), "x");
    let body = body!({
        KEY: 1,
        (keys::ACTION): 2,
        (format!("made-{suffix}")): 3,
        (owned): 4,
        suffix: 5,
        (if suffix.is_empty() { "a" } else { "b" }): { KEY: [KEY] },
        "": 6,
        "esc\"aped\n": 7,
    });
    assert_eq!(
        line(&body),
        r#"{"constant":1,"in a module":2,"made-x":3,"owned":4,"x":5,"b":{"constant":["constant"]},"":6,"esc\"aped\n":7}"#
    );
    assert_eq!(owned, "owned", "keys and values are borrowed");
}

/// The temporaries of a body that is bound to a name live as long as the name.
#[test]
fn a_body_may_be_bound_to_a_name() {
    let tags = vec!["a".to_owned()];
    let body = body!({
        "made": format!("{}", 1),
        "deep": { "er": [String::from("x"), { "y": vec![Some(1), None] }] },
        "borrowed": tags,
        "at": Var::NOW,
    });
    let expected = r#"{"made":"1","deep":{"er":["x",{"y":[1,null]}]},"borrowed":["a"],"at":null}"#;
    assert_eq!(line(&body), expected);
    assert_eq!(line(&body), expected, "a body can be serialized more than once");
    assert_eq!(tags.len(), 1);
    // Inside another body, and as an opaque `impl Serialize`.
    fn part() -> impl Serialize {
        body!({ "part": 1, "list": [1, "two", null] })
    }
    assert_eq!(line(&body!({ "whole": part() })), r#"{"whole":{"part":1,"list":[1,"two",null]}}"#);
}

#[test]
fn json_values_keep_their_meaning() {
    let value = ("x", 1.5);
    assert_eq!(
        line(&body!({ "a": [value, { "b": null }], "c": { "d": [true, [value.1]] } })),
        json!({ "a": [value, { "b": null }], "c": { "d": [true, [value.1]] } }).to_string()
    );
}

#[test]
#[rustfmt::skip]
fn many_members_are_accepted() {
    let body = body!({
        "a00": 0, "a01": 1, "a02": 2, "a03": 3, "a04": 4, "a05": 5, "a06": 6, "a07": 7, "a08": 8, "a09": 9,
        "a10": 0, "a11": 1, "a12": 2, "a13": 3, "a14": 4, "a15": 5, "a16": 6, "a17": 7, "a18": 8, "a19": 9,
        "a20": 0, "a21": 1, "a22": 2, "a23": 3, "a24": 4, "a25": 5, "a26": 6, "a27": 7, "a28": 8, "a29": 9,
        "a30": 0, "a31": 1, "a32": 2, "a33": 3, "a34": 4, "a35": 5, "a36": 6, "a37": 7, "a38": 8, "a39": 9,
        "a40": 0, "a41": 1, "a42": 2, "a43": 3, "a44": 4, "a45": 5, "a46": 6, "a47": 7, "a48": 8, "a49": 9,
        "elements": [
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7,
        ],
        "last": null,
    });
    let parsed: serde_json::Value = serde_json::from_str(&line(&body)).unwrap();
    assert_eq!(parsed.as_object().unwrap().len(), 52);
    assert_eq!(parsed["a49"], 9);
    assert_eq!(parsed["elements"].as_array().unwrap().len(), 38);
}
