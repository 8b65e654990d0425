//! Text compiles or is refused. Text that compiles is also valid JSON for `serde_json`, and renders
//! within its bound to a single line, by any definition of line breaks, with unique members.
#![no_main]

use audit_core::Limits;
use audit_vars::{Now, Template, UserAgent, Values, Vars};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[path = "../../audit-vars/tests/it/duplicate_members.rs"]
mod duplicate_members;

fuzz_target!(|text: &str| {
    let template = match Template::from_json(&Vars::new(), &Limits::default(), text) {
        Ok(template) => template,
        Err(refused) => return drop(refused.to_string()),
    };
    assert!(serde_json::from_str::<Value>(text).is_ok_and(|body| body.is_object()));

    let (user_agent, now) = (UserAgent::from(text), Now::at_ms(i64::MIN));
    let values = Values::none().with_user_agent(&user_agent).with_now(&now);
    let mut line = Vec::new();
    template.render(&values, &mut line);
    assert!(line.len() <= template.bound_bytes() as usize);
    let line_text = std::str::from_utf8(&line).expect("JSON is text");
    assert!(!line_text.contains(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']));
    assert!(!duplicate_members::has_duplicates(line_text), "{line_text}");
    assert!(serde_json::from_slice::<Value>(&line).is_ok_and(|body| body.is_object()));
});
