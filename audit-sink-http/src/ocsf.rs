//! Records as events of OCSF's [API Activity](https://schema.ocsf.io/1.9.0/classes/api_activity).
//!
//! A mapping assigns members of a body to fields. The unchanged body is included in `unmapped`, so
//! that nothing is lost.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use audit_core::{UniqueId, read_text};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::OpenError;
use crate::event::Event;
use crate::members::Members;

const VERSION: &str = "1.9.0";

/// The class and its category.
const CLASS: u64 = 6_003;
const CATEGORY: u64 = 6;

/// Severity: informational.
const INFORMATIONAL: u64 = 1;

/// The default mapping: common names of members.
const USUAL: [(&str, &str); 5] = [
    ("actor.user.uid", "/actor"),
    ("api.operation", "/action"),
    ("http_request.uid", "/requestId"),
    ("http_request.user_agent", "/userAgent"),
    ("src_endpoint.ip", "/ip"),
];

/// The only field of the default mapping that holds an address rather than any text.
const ADDRESS: &str = "src_endpoint.ip";

/// The longest text that the schema allows for an address, in bytes. An IPv4-mapped address of IPv6
/// is longer if all its zeros are written.
const MAX_ADDRESS: usize = 40;

/// Fields that identify a record and cannot be mapped.
const OWN: [&str; 9] = [
    "activity_id",
    "activity_name",
    "category_uid",
    "class_uid",
    "metadata",
    "time",
    "type_uid",
    "unmapped",
    "raw_data",
];

const MAX_FIELDS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Activity {
    Create,
    Read,
    Update,
    Delete,
}

/// The assignment of a body's members to fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mapping {
    /// JSON pointers into the body, by the field's path, such as `actor.user.uid`.
    #[serde(default = "usual")]
    fields: BTreeMap<String, String>,
    /// Activities, by the text of `api.operation`.
    #[serde(default)]
    activities: BTreeMap<String, Activity>,
}

impl Default for Mapping {
    fn default() -> Mapping {
        Mapping { fields: usual(), activities: BTreeMap::new() }
    }
}

fn usual() -> BTreeMap<String, String> {
    USUAL.map(|(field, pointer)| (field.to_owned(), pointer.to_owned())).into()
}

impl Mapping {
    /// Reads a mapping from a TOML file.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is not a mapping.
    pub(crate) fn read(path: &Path) -> Result<Mapping, OpenError> {
        let invalid = |why: String| {
            OpenError::configuration(format!("the mapping in {}: {why}", path.display()))
        };
        let text =
            read_text(path).map_err(|error| invalid(format!("it cannot be read: {error}")))?;
        let mapping: Mapping = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                1 + text.as_bytes()[..span.start].iter().filter(|byte| **byte == b'\n').count()
            });
            invalid(format!("line {line}: {}", error.message()))
        })?;
        mapping.check().map_err(invalid)?;
        Ok(mapping)
    }

    fn check(&self) -> Result<(), String> {
        if self.fields.len() > MAX_FIELDS {
            return Err(format!("{} fields exceed limit of {MAX_FIELDS}", self.fields.len()));
        }
        let is_name = |part: &str| {
            let is_valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            !part.is_empty() && part.bytes().all(is_valid)
        };
        for (field, pointer) in &self.fields {
            if !field.split('.').all(is_name) {
                return Err(format!("{field:?} is not the path of a field, as in actor.user.uid"));
            }
            let first = field.split('.').next().unwrap_or_default();
            if OWN.contains(&first) {
                return Err(format!("{first} is set by the host, and by no mapping"));
            }
            if !pointer.starts_with('/') {
                return Err(format!("{pointer:?} is not a JSON pointer, as in /user/id"));
            }
            let inner = self.fields.keys().find(|other| {
                other.strip_prefix(field.as_str()).is_some_and(|rest| rest.starts_with('.'))
            });
            if let Some(inner) = inner {
                return Err(format!("{field} and {inner} cannot both be fields"));
            }
        }
        Ok(())
    }

    /// Writes a record as an event. `product` is its origin.
    pub(crate) fn write(
        &self,
        stream: UniqueId,
        event: &Event,
        line: &str,
        product: &str,
        body: &mut String,
    ) {
        let Event { sequence, time_ms, line: _ } = event;
        let logged = Members::of(line);
        let mut fields = BTreeMap::new();
        for (path, pointer) in &self.fields {
            let found = logged.at(pointer).filter(|found| found.get() != "null");
            if let Some(found) = found.and_then(|found| valid_in(path, found)) {
                insert(&mut fields, path, found);
            }
        }
        let operation = match fields.get("api") {
            Some(Field::Fields(api)) => api.get("operation").and_then(Field::as_text),
            Some(Field::Value(_)) | None => None,
        };
        let is_known = operation.is_some();
        let (activity, name) = match operation {
            None => (0, json!("Unknown").into()),
            Some(operation) => {
                // Text with half of a surrogate pair is an activity that no settings can name.
                let text: Option<String> = serde_json::from_str(operation.get()).ok();
                match text.and_then(|text| self.activities.get(&text)) {
                    Some(Activity::Create) => (1, json!("Create").into()),
                    Some(Activity::Read) => (2, json!("Read").into()),
                    Some(Activity::Update) => (3, json!("Update").into()),
                    Some(Activity::Delete) => (4, json!("Delete").into()),
                    None => (99, Field::Value(operation.to_owned())),
                }
            }
        };
        let own = json!({
            "activity_id": activity,
            "category_uid": CATEGORY,
            "class_uid": CLASS,
            "type_uid": CLASS * 100 + activity,
            "time": time_ms,
            "metadata": {
                "version": VERSION,
                "uid": format!("{stream}-{sequence:012}"),
                "sequence": sequence,
                "logged_time": time_ms,
                "product": {"name": product, "vendor_name": "audit"},
            },
        });
        // Fields that the class requires but the body lacks.
        let demanded = [
            ("severity_id", json!(INFORMATIONAL)),
            ("api", json!({"operation": "unknown"})),
            ("actor", json!({"app_name": product})),
            ("src_endpoint", json!({"name": "unknown"})),
        ];
        for (name, value) in demanded {
            fields.entry(name.to_owned()).or_insert_with(|| value.into());
        }
        if !is_known && let Some(Field::Fields(api)) = fields.get_mut("api") {
            api.entry("operation".to_owned()).or_insert_with(|| json!("unknown").into());
        }
        if let Field::Fields(own) = own.into() {
            fields.extend(own);
        }
        fields.insert("activity_name".to_owned(), name);
        let text = serde_json::to_string(&fields).expect("texts of JSON serialize");
        body.push_str(text.strip_suffix('}').unwrap_or(&text));
        body.push_str(",\"unmapped\":");
        body.push_str(line);
        body.push('}');
    }
}

/// A field of an event: an object of fields, or a value as the body spells it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Field {
    Fields(BTreeMap<String, Field>),
    Value(Box<RawValue>),
}

impl Field {
    /// The value, if it is a text.
    fn as_text(&self) -> Option<&RawValue> {
        match self {
            Field::Value(value) if value.get().starts_with('"') => Some(value),
            Field::Value(_) | Field::Fields(_) => None,
        }
    }
}

impl From<Value> for Field {
    fn from(value: Value) -> Field {
        let Value::Object(fields) = value else {
            return Field::Value(to_raw_value(&value).expect("values serialize"));
        };
        Field::Fields(fields.into_iter().map(|(name, of)| (name, of.into())).collect())
    }
}

/// Converts a member's value to what its field may hold. Those of the default mapping hold text,
/// and one of them an address; numbers and booleans become text. Returns `None` if the field cannot
/// hold the value: a receiver may refuse a whole request for one event that violates the schema.
/// Other fields get their values unchanged.
fn valid_in(path: &str, found: &RawValue) -> Option<Field> {
    if path == "api" && found.get().starts_with('{') {
        // It needs an operation, so its members are looked at.
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(found.get()).ok()?;
        let members = members.into_iter().map(|(name, value)| (name, Field::Value(value)));
        return Some(Field::Fields(members.collect()));
    }
    if !USUAL.iter().any(|(field, _)| *field == path) {
        return Some(Field::Value(found.to_owned()));
    }
    let text = match found.get().as_bytes().first()? {
        b'{' | b'[' => return None,
        b'"' => found.to_owned(),
        // A number or a boolean as the body spells it.
        _ => to_raw_value(found.get()).expect("text serializes"),
    };
    let is_address = || {
        let address: Result<String, _> = serde_json::from_str(text.get());
        address.is_ok_and(|text| text.len() <= MAX_ADDRESS && text.parse::<IpAddr>().is_ok())
    };
    (path != ADDRESS || is_address()).then_some(Field::Value(text))
}

/// Inserts a value at the path of a field. No path is a prefix of another, which was checked.
fn insert(fields: &mut BTreeMap<String, Field>, path: &str, value: Field) {
    match path.split_once('.') {
        None => {
            fields.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = fields.entry(first.to_owned());
            if let Field::Fields(inner) = inner.or_insert_with(|| Field::Fields(BTreeMap::new())) {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mapping: &Mapping, line: &str) -> Value {
        let event = Event { sequence: 7, time_ms: 5, line: line.as_bytes().to_vec().into() };
        let mut body = String::new();
        mapping.write(UniqueId::from_bits(1), &event, line, "happy-animal-123", &mut body);
        assert!(body.ends_with(&format!(",\"unmapped\":{line}}}")), "byte by byte: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn read(text: &str) -> Result<Mapping, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mapping.toml");
        std::fs::write(&path, text).unwrap();
        Mapping::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn members_become_the_fields_that_the_mapping_names() {
        let mapping = read(
            "[fields]\n\"api.operation\" = \"/what\"\n\"actor.user.uid\" = \"/who/id\"\n\
             \"actor.user.groups\" = \"/who/groups\"\n\"severity_id\" = \"/severity\"\n\
             [activities]\n\"document.read\" = \"read\"\n",
        )
        .unwrap();
        let line =
            r#"{"what":"document.read","who":{"id":"ada","groups":[{"name":"x"}]},"n":1.50}"#;
        let told = event(&mapping, line);
        assert_eq!(told["api"], json!({"operation": "document.read"}));
        assert_eq!(told["actor"]["user"], json!({"uid": "ada", "groups": [{"name": "x"}]}));
        assert_eq!((&told["activity_id"], &told["type_uid"]), (&json!(2), &json!(600_302)));
        assert_eq!((&told["class_uid"], &told["category_uid"]), (&json!(6_003), &json!(6)));
        assert_eq!(told["metadata"]["uid"], "00000000000000000000000001-000000000007");
        assert_eq!((&told["time"], &told["severity_id"]), (&json!(5), &json!(1)));
        let told = event(&mapping, r#"{"what":"document.print","severity":3}"#);
        assert_eq!((&told["activity_id"], &told["severity_id"]), (&json!(99), &json!(3)));
        assert_eq!(told["activity_name"], "document.print");
    }

    /// A body that cannot be parsed into a tree, or would be changed by it, is mapped all the same.
    #[test]
    fn values_are_copied_as_the_body_spells_them() {
        let mapping = read(
            "[fields]\n\"api.operation\" = \"/what\"\n\"actor.user.uid\" = \"/who\"\n\
             \"http_request.length\" = \"/n/0\"\n[activities]\n\"\" = \"read\"\n",
        );
        for (member, field) in [
            ("1.50", "\"1.50\""),
            ("123456789012345678901234567890", "\"123456789012345678901234567890\""),
            ("-0.0", "\"-0.0\""),
            ("true", "\"true\""),
            (r#""\ud800""#, r#""\ud800""#),
            (r#""\u0061\/\u2028""#, r#""\u0061\/\u2028""#),
        ] {
            let line = format!(r#"{{"what":{member},"who":{member},"n":[1.50e3],"\udfff":1e999}}"#);
            let event = Event { sequence: 7, time_ms: 5, line: line.clone().into() };
            let mut body = String::new();
            mapping.as_ref().unwrap().write(UniqueId::from_bits(1), &event, &line, "x", &mut body);
            for part in [
                format!("\"actor\":{{\"user\":{{\"uid\":{field}}}}}"),
                format!("\"activity_name\":{field},\"actor\""),
                format!("\"api\":{{\"operation\":{field}}}"),
                "\"http_request\":{\"length\":1.50e3}".to_owned(),
            ] {
                assert!(body.contains(&part), "{part}: {body}");
            }
        }
        // An operation is added to what a body says of an API.
        let mapping = read("[fields]\n\"api\" = \"/api\"\n").unwrap();
        let told = event(&mapping, r#"{"api":{"version":"2"}}"#);
        assert_eq!(told["api"], json!({"operation": "unknown", "version": "2"}));
        let told = event(&mapping, r#"{"api":{"operation":"print"}}"#);
        assert_eq!((&told["activity_id"], &told["activity_name"]), (&json!(99), &json!("print")));
    }

    /// Whatever the body, the event has the fields that its class requires.
    #[test]
    fn every_event_has_the_fields_that_its_class_demands() {
        let lines = [
            "{}",
            r#"{"action":null,"actor":null,"ip":null}"#,
            r#"{"action":5,"actor":{"id":1},"ip":["a"]}"#,
            r#"{"action":"view","actor":"ada","ip":"192.0.2.1","userAgent":"x","requestId":"r"}"#,
            r#"{"action":["view"],"actor":true,"ip":"not an address","userAgent":{"a":1}}"#,
            r#"{"action":"a","ip":"0000:0000:0000:0000:0000:ffff:192.168.100.228"}"#,
            r#"{"tooLarge":{"bytes":5}}"#,
            r#"{"class_uid":1,"metadata":{"uid":"forged"},"unmapped":"x"}"#,
        ];
        for line in lines {
            let told = event(&Mapping::default(), line);
            for field in ["actor", "api", "metadata", "src_endpoint"] {
                assert!(told[field].as_object().is_some_and(|o| !o.is_empty()), "{field}: {told}");
            }
            for field in ["activity_id", "category_uid", "class_uid", "severity_id", "type_uid"] {
                assert!(told[field].is_u64(), "{field}: {told}");
            }
            assert!(told["api"]["operation"].is_string(), "{told}");
            let user = told["actor"].pointer("/user/uid").is_some_and(Value::is_string);
            assert!(user || told["actor"] == json!({"app_name": "happy-animal-123"}), "{told}");
            let address = told["src_endpoint"]["ip"].as_str();
            let source = address.map_or(json!({"name": "unknown"}), |ip| json!({"ip": ip}));
            assert!(told["src_endpoint"] == source && address.is_none_or(|ip| ip.len() <= 40));
            assert_eq!(told["class_uid"], 6_003);
            assert_eq!(told["metadata"]["sequence"], 7);
        }
        let told = event(&Mapping::default(), lines[2]);
        assert_eq!((&told["api"]["operation"], &told["activity_name"]), (&json!("5"), &json!("5")));
        let told = event(&Mapping::default(), lines[3]);
        assert_eq!(told["src_endpoint"], json!({"ip": "192.0.2.1"}));
        assert_eq!(told["http_request"], json!({"uid": "r", "user_agent": "x"}));
    }

    #[test]
    fn mappings_that_cannot_work_are_refused() {
        for (text, says) in [
            ("[fields]\n\"Actor\" = \"/a\"", "\"Actor\" is not the path of a field"),
            ("[fields]\n\"a..b\" = \"/a\"", "\"a..b\" is not the path"),
            ("[fields]\n\"a\" = \"a\"", "\"a\" is not a JSON pointer"),
            ("[fields]\n\"metadata.uid\" = \"/a\"", "metadata is set by the host"),
            ("[fields]\n\"a\" = \"/a\"\n\"a.b.c\" = \"/b\"", "a and a.b.c cannot both be fields"),
            ("[field]\n", "line 1: unknown field `field`"),
            ("[fields]\n\n[activities]\n\"x\" = \"print\"", "line 4: unknown variant"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains("mapping.toml: ") && error.contains(says), "{error}");
        }
        let many: String = (0..101).map(|n| format!("f{n} = \"/f\"\n")).collect();
        assert!(
            read(&format!("[fields]\n{many}"))
                .unwrap_err()
                .contains("101 fields exceed limit of 100")
        );
        assert_eq!(read("").unwrap(), Mapping::default());
        assert!(Mapping::read(Path::new("/absent/x")).unwrap_err().to_string().contains("be read"));
    }
}
