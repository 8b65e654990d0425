//! User input stays data, whatever it looks like (C3), and cannot break out of its string or line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};

use audit_vars::{BodyProblem, HostValue, RequestId, Template, UserAgent, Values, Var, body};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::trees::{TABLE, limits, user_agent_bytes};

/// Asserts that the body is rejected for a reserved key at this path.
#[track_caller]
fn refused<T: Serialize + ?Sized>(body: &T, path: &str) {
    let error = Template::compile(&TABLE.vars, &limits(), body).unwrap_err();
    assert_eq!(error.problem(), &BodyProblem::ReservedKey { key: "$var".to_owned() });
    assert_eq!(error.path(), path);
}

#[test]
fn values_that_look_like_sentinels_are_rejected() {
    let sent: Value = serde_json::from_str(r#"{"comment":[{"$var":"ip"}]}"#).unwrap();
    refused(&sent, "/comment/0/$var");
    refused(&body!({ "sent": sent }), "/sent/comment/0/$var");
    refused(&json!({ "a": Var::IP }), "/a/$var");
    refused(&body!({ "sent": HashMap::from([("$var", "ip")]) }), "/sent/$var");
    refused(&body!({ "sent": BTreeMap::from([("$var".to_owned(), Var::IP)]) }), "/sent/$var");
    refused(&body!({ "sent": { "$var": "ip" } }), "/sent/$var");
    // Even as the whole body.
    refused(&json!({ "$var": "ip" }), "/$var");

    #[derive(Serialize)]
    struct Sent {
        #[serde(rename = "$var")]
        var: String,
    }
    refused(&body!({ "sent": Some(Sent { var: "ip".to_owned() }) }), "/sent/$var");
}

#[test]
fn sentinels_in_raw_json_are_rejected() {
    for text in [r#"{"$var":"ip"}"#, "{ \"$var\" : \"ip\" }"] {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        refused(&body!({ "sent": [raw] }), "/sent/0/$var");
        refused(raw, "/$var");
    }
    let raw: &RawValue = serde_json::from_str(r#"{"\u0024var":"ip"}"#).unwrap();
    let error = Template::compile(&TABLE.vars, &limits(), &body!({ "sent": raw })).unwrap_err();
    assert!(matches!(error.problem(), BodyProblem::ReservedKey { .. }), "{error}");
}

#[test]
fn enums_that_imitate_variables_are_rejected() {
    #[derive(Serialize)]
    enum Imitation {
        #[serde(rename = "$var")]
        Newtype(&'static str),
        #[serde(rename = "$var")]
        Tuple(u8, u8),
        #[serde(rename = "$var")]
        Struct { name: &'static str },
    }
    refused(&body!({ "sent": Imitation::Newtype("ip") }), "/sent/$var");
    refused(&body!({ "sent": Imitation::Tuple(1, 2) }), "/sent/$var");
    refused(&body!({ "sent": Imitation::Struct { name: "ip" } }), "/sent/$var");

    // Even if the sender's type is named `Var` too.
    #[derive(Serialize)]
    #[serde(rename = "Var")]
    enum Named {
        #[serde(rename = "$var")]
        Var(String),
    }
    refused(&body!({ "sent": Named::Var("ip".to_owned()) }), "/sent/$var");
}

#[test]
fn strings_stay_strings() {
    for text in ["$var", "{\"$var\":\"ip\"}", "$ip", "${ip}", "\u{0}ip"] {
        let body = body!({ "sent": text, "list": [text] });
        let template = Template::compile(&TABLE.vars, &limits(), &body).unwrap();
        let mut line = Vec::new();
        template.render(&crate::trees::Request::worst().values(), &mut line);
        assert_eq!(
            serde_json::from_slice::<Value>(&line).unwrap(),
            json!({ "sent": text, "list": [text] })
        );
    }
}

proptest! {
    /// Whatever bytes a client sends in the header, the line is one JSON object with that text as a
    /// string.
    #[test]
    fn user_agents_stay_strings(bytes in user_agent_bytes()) {
        let user_agent = UserAgent::from_bytes(&bytes);
        let text = user_agent.as_str();
        prop_assert!(text.len() <= UserAgent::MAX_BYTES);
        prop_assert!(!text.chars().any(char::is_control));
        // The whole text, or a prefix to which the next character would not fit.
        let whole: String = String::from_utf8_lossy(&bytes)
            .chars()
            .map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char })
            .collect();
        let rest = whole.strip_prefix(text);
        prop_assert!(rest.is_some(), "{text:?} of {whole:?}");
        let next = rest.and_then(|rest| rest.chars().next()).map_or(usize::MAX, char::len_utf8);
        prop_assert!(rest == Some("") || text.len() + next > UserAgent::MAX_BYTES);

        let body = body!({ "a": Var::USER_AGENT, "b": [Var::USER_AGENT] });
        let template = Template::compile(&TABLE.vars, &limits(), &body).unwrap();
        let mut line = Vec::new();
        template.render(&Values::none().with_user_agent(&user_agent), &mut line);
        prop_assert!(!line.iter().any(u8::is_ascii_control));
        prop_assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), json!({ "a": text, "b": [text] }));
    }

    #[test]
    fn request_ids_stay_strings(text in prop_oneof!["[!-~]{0,130}", "(?s).{0,20}", "[A-Za-z0-9_.:/+=@~-]{100,140}"]) {
        let allowed = |char: char| char.is_ascii_alphanumeric() || "-_.:/+=@~".contains(char);
        let valid = !text.is_empty() && text.len() <= 128 && text.chars().all(allowed);
        match RequestId::new(&text) {
            Ok(id) => {
                prop_assert!(valid);
                prop_assert_eq!(id.as_str(), &*text);
                prop_assert_eq!(id.to_string(), &*text);
            }
            Err(_) => prop_assert!(!valid),
        }
    }
}

#[test]
fn host_values_stay_data() {
    let sent = json!({ "name": "me", "more": { "$var": "ip" } });
    let error = HostValue::new(TABLE.actor, &sent).unwrap_err();
    assert_eq!(
        error.to_string(),
        "audit log body keys must not start with \"$\": \"$var\" at /more/$var"
    );
}
