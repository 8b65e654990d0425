//! Any bytes of a header become short text without control characters, which is unchanged when it
//! is normalized again.
#![no_main]

use audit_core::Limits;
use audit_vars::{Template, UserAgent, Values, Var, Vars, body};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let user_agent = UserAgent::from_bytes(bytes);
    let text = user_agent.as_str();
    assert!(text.len() <= UserAgent::MAX_BYTES && !text.chars().any(char::is_control));
    assert_eq!(UserAgent::from(text), user_agent);

    let template = Template::compile(&Vars::new(), &Limits::default(), &body!({ "a": Var::USER_AGENT }))
        .expect("a body");
    let mut line = Vec::new();
    template.render(&Values::none().with_user_agent(&user_agent), &mut line);
    assert!(line.len() <= template.bound_bytes() as usize);
    assert!(!line.iter().any(u8::is_ascii_control));
    assert_eq!(serde_json::from_slice::<Value>(&line).expect("JSON"), json!({ "a": text }));
});
