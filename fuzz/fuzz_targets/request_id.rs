//! A request id is accepted unchanged or refused, and never needs escaping.
#![no_main]

use audit_core::Limits;
use audit_vars::{RequestId, Template, Values, Var, Vars, body};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(id) = RequestId::new(text) else { return };
    assert_eq!((id.as_str(), &*id.to_string()), (text, text));

    let template = Template::compile(&Vars::new(), &Limits::default(), &body!({ "a": Var::REQUEST_ID }))
        .expect("a body");
    let mut line = Vec::new();
    template.render(&Values::none().with_request_id(&id), &mut line);
    assert!(line.len() <= template.bound_bytes() as usize);
    assert_eq!(line, format!("{{\"a\":\"{text}\"}}").as_bytes());
});
