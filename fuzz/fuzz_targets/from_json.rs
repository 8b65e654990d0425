//! Text compiles or is refused. What compiles is JSON for `serde_json` too, and renders to one line
//! within its bound, whatever a reader takes for the end of a line, in which members are unique.
#![no_main]

use audit_core::Limits;
use audit_vars::{Now, Template, UserAgent, Values, Vars};
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// JSON in which no object has two members of one name.
#[derive(Debug)]
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Unique, D::Error> {
        from.deserialize_any(Unique)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Unique;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }
    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
        while seq.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut names = std::collections::HashSet::new();
        while let Some((name, Unique)) = map.next_entry::<String, Unique>()? {
            if !names.insert(name) {
                return Err(serde::de::Error::custom("twice"));
            }
        }
        Ok(Unique)
    }
}

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
    let unique = serde_json::from_str::<Unique>(line_text);
    assert!(unique.is_ok(), "{unique:?}");
    assert!(serde_json::from_slice::<Value>(&line).is_ok_and(|body| body.is_object()));
});
