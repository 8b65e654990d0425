//! A rendered template equals, byte for byte, a cloned tree with its sentinels replaced,
//! serialized.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use audit_vars::{Template, tree_walk};
use proptest::prelude::*;
use serde_json::Value;

use crate::trees::{self, Request, TABLE, limits};

fn render(template: &Template, request: &Request) -> String {
    // Rendering appends: existing bytes stay.
    let mut out = b"before".to_vec();
    template.render(&request.values(), &mut out);
    String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
}

/// `text` with white space between its tokens, taken from `blanks` in turn.
fn with_white_space(text: &str, blanks: &[&str]) -> String {
    let mut blanks = blanks.iter().cycle();
    let (mut spaced, mut in_string, mut escaped) = (String::new(), false, false);
    for char in text.chars() {
        let structural = !in_string && "{}[],:".contains(char);
        if structural {
            spaced.push_str(blanks.next().unwrap());
        }
        spaced.push(char);
        if structural {
            spaced.push_str(blanks.next().unwrap());
        }
        if char == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = char == '\\' && !escaped;
    }
    spaced
}

proptest! {
    #[test]
    fn any_body_renders_like_the_tree_walk(
        body in trees::body(),
        request in trees::request(),
        blanks in prop::collection::vec(prop::sample::select(vec!["", " ", "\n", "\r\n\t "]), 1..8),
    ) {
        let tree = body.to_value();
        let walked = tree_walk::tree_walk(&tree, &|name| request.lookup(name));
        let walked = trees::in_one_line(&String::from_utf8(walked).unwrap());

        let compiled = Template::compile(&TABLE.vars, &limits(), &body).unwrap();
        let line = render(&compiled, &request);
        prop_assert_eq!(&line, &walked);
        prop_assert!(trees::is_one_line(&line));
        prop_assert!(serde_json::from_str::<Value>(&line).is_ok());

        let text = tree.to_string();
        let pretty = serde_json::to_string_pretty(&tree).unwrap();
        for text in [with_white_space(&text, &blanks), text, pretty] {
            let from_text = Template::from_json(&TABLE.vars, &limits(), &text).unwrap();
            prop_assert_eq!(render(&from_text, &request), &*walked);
            prop_assert!(from_text == compiled, "text and value make the same template");
        }
    }
}
