//! The origin of a log: the member `$audit`, which no function can write.

use std::fmt;
use std::sync::Arc;

use audit_core::{MAX_ADDED_BYTES, UniqueId};
use audit_vars::Now;

/// The kind of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// Reads. Its result may be cached and handed to many requests.
    Query,
    /// Reads and writes in one transaction, for one request.
    Mutation,
    /// Calls queries, mutations and external services. Has no audit log of its own.
    Action,
}

impl FunctionKind {
    /// `query`, `mutation` or `action`.
    pub fn as_str(self) -> &'static str {
        match self {
            FunctionKind::Query => "query",
            FunctionKind::Mutation => "mutation",
            FunctionKind::Action => "action",
        }
    }
}

impl fmt::Display for FunctionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name of a function, such as `documents:update`.
#[derive(Clone)]
pub struct FunctionName(Name);

#[derive(Clone)]
enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

impl FunctionName {
    /// The name.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Static(name) => name,
            Name::Shared(name) => name,
        }
    }
}

impl From<&'static str> for FunctionName {
    fn from(name: &'static str) -> FunctionName {
        FunctionName(Name::Static(name))
    }
}

impl From<Arc<str>> for FunctionName {
    fn from(name: Arc<str>) -> FunctionName {
        FunctionName(Name::Shared(name))
    }
}

impl From<String> for FunctionName {
    fn from(name: String) -> FunctionName {
        FunctionName(Name::Shared(name.into()))
    }
}

impl PartialEq for FunctionName {
    fn eq(&self, other: &FunctionName) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for FunctionName {}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The function that emitted a log: the one called from outside, or a nested one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) kind: FunctionKind,
    pub(crate) function: FunctionName,
}

/// The identity of an execution: the call, and the attempt at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) execution: UniqueId,
    /// Counted from 1.
    pub(crate) attempt: u32,
}

pub(crate) struct Provenance {
    identity: Identity,
    /// For each origin, the text of the member `$audit`, from the comma before it up to the value
    /// of `replay`.
    members: Vec<Vec<u8>>,
}

/// The longest name as JSON, in bytes. Longer ones are cut, so that provenance is bounded.
const MAX_NAME_JSON_BYTES: usize = 512;

/// The length of the rest of the member in bytes, with its numbers at their longest.
const MAX_REST_BYTES: usize =
    r#","$audit":{"execution":"","attempt":4294967295,"function":"","kind":"mutation","replay":false}}"#
        .len()
        + UniqueId::TEXT_BYTES;

// One byte is left for the line feed.
const _: () = assert!(MAX_NAME_JSON_BYTES + MAX_REST_BYTES < MAX_ADDED_BYTES);

impl Provenance {
    pub(crate) fn new(identity: Identity, origins: &[Origin]) -> Provenance {
        let Identity { execution, attempt } = identity;
        let member = |Origin { kind, function }: &Origin| {
            let function = bounded_json(function.as_str());
            format!(
                r#","$audit":{{"execution":"{execution}","attempt":{attempt},"function":{function},"kind":"{kind}","replay":"#
            )
            .into_bytes()
        };
        Provenance { identity, members: origins.iter().map(member).collect() }
    }

    /// Adds the member to the body in `record` that begins at `start`. Not inlined: rendering would
    /// save registers for it in hosts without provenance too.
    #[inline(never)]
    pub(crate) fn append(&self, record: &mut Vec<u8>, start: usize, origin: usize, replay: bool) {
        let brace = record.pop();
        debug_assert_eq!(brace, Some(b'}'), "a body is an object");
        let member = &self.members[origin];
        // In an empty body, no comma precedes the member.
        let comma = usize::from(record.len() == start + 1);
        record.extend_from_slice(&member[comma..]);
        record.extend_from_slice(if replay { b"true}}" } else { b"false}}" });
    }
}

/// The record of a function whose first log was refused:
/// `{"$audit":{"event":"refused","function":"f","kind":"query","reason":"…","at":0}}`. With
/// provenance enabled, its members follow.
pub(crate) struct RefusalRecord {
    /// The text up to the value of `at`.
    head: String,
    /// The text after the value of `at`, up to the value of `replay`.
    provenance: Option<String>,
}

impl RefusalRecord {
    pub(crate) fn new(
        Origin { kind, function }: &Origin,
        reason: &str,
        provenance: Option<&Provenance>,
    ) -> RefusalRecord {
        let (function, reason) = (bounded_json(function.as_str()), bounded_json(reason));
        let head = format!(
            r#"{{"$audit":{{"event":"refused","function":{function},"kind":"{kind}","reason":{reason},"at":"#
        );
        let provenance = provenance.map(|Provenance { identity, members: _ }| {
            let Identity { execution, attempt } = identity;
            format!(r#","execution":"{execution}","attempt":{attempt},"replay":"#)
        });
        RefusalRecord { head, provenance }
    }

    /// The largest size of the record in bytes, line feed included.
    pub(crate) fn bound_bytes(&self) -> usize {
        let provenance = self.provenance.as_ref().map_or(0, |members| members.len() + 5);
        self.head.len() + Now::MAX_JSON_BYTES as usize + provenance + 3
    }

    pub(crate) fn append(&self, record: &mut Vec<u8>, now: &Now, replay: bool) {
        record.extend_from_slice(self.head.as_bytes());
        record.extend_from_slice(now.ms().to_string().as_bytes());
        if let Some(members) = &self.provenance {
            record.extend_from_slice(members.as_bytes());
            record.extend_from_slice(if replay { b"true" } else { b"false" });
        }
        record.extend_from_slice(b"}}");
    }
}

/// The text as a JSON string, cut to the limit. Characters that end a line for some readers are
/// escaped, as in every record.
fn bounded_json(name: &str) -> String {
    let json = |name: &str| {
        let text = serde_json::Value::from(name).to_string();
        let text = text.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028");
        text.replace('\u{2029}', "\\u2029")
    };
    let mut end = name.len().min(MAX_NAME_JSON_BYTES);
    loop {
        end = name.floor_char_boundary(end);
        let text = json(&name[..end]);
        if text.len() <= MAX_NAME_JSON_BYTES {
            return text;
        }
        end -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn provenance_is_bounded_and_keeps_the_body(
            name in "(?s:.{0,600}|[\\x00-\\x1f]{0,600})", attempt: u32, id: u128, replay: bool,
        ) {
            let origin = Origin { kind: FunctionKind::Mutation, function: name.clone().into() };
            let identity = Identity { execution: UniqueId::from_bits(id), attempt };
            let provenance = Provenance::new(identity, &[origin]);
            for body in ["{}", r#"{"a":{"b":1}}"#] {
                let mut record = b"before\n".to_vec();
                record.extend_from_slice(body.as_bytes());
                provenance.append(&mut record, 7, 0, replay);
                prop_assert!(record.len() - 7 - body.len() < MAX_ADDED_BYTES);
                let mut value: serde_json::Value = serde_json::from_slice(&record[7..]).unwrap();
                let member = value.as_object_mut().unwrap().remove("$audit").unwrap();
                prop_assert_eq!(value, serde_json::from_str::<serde_json::Value>(body).unwrap());
                prop_assert_eq!(&member["execution"], &UniqueId::from_bits(id).to_string());
                prop_assert_eq!(&member["attempt"], attempt);
                prop_assert_eq!(&member["replay"], replay);
                prop_assert_eq!(&member["kind"], "mutation");
                prop_assert!(name.starts_with(member["function"].as_str().unwrap()));
            }
        }
    }
}
