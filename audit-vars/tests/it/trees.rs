//! Arbitrary bodies and arbitrary requests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use audit_core::Limits;
use audit_vars::{ClientIp, HostValue, Now, RequestId, UserAgent, Values, Var, Vars};
use proptest::prelude::*;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// The largest possible limits, so that no test exceeds them by accident.
pub(crate) fn limits() -> Limits {
    let bytes = Limits::HIGHEST_MAX_TOTAL_BYTES;
    Limits::new(1, bytes, bytes).unwrap()
}

/// The built-in variables and two host variables.
pub(crate) struct Table {
    pub(crate) vars: Vars,
    pub(crate) actor: Var,
    pub(crate) trace: Var,
}

pub(crate) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut vars = Vars::new();
    let actor = vars.register("convexActor", Vars::MAX_VAR_BYTES).unwrap();
    let trace = vars.register("trace_id", 34).unwrap();
    Table { vars, actor, trace }
});

/// A body, or a part of one.
#[derive(Debug, Clone)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    Variable(Var),
    Array(Vec<Tree>),
    Object(BTreeMap<String, Tree>),
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Null => serializer.serialize_unit(),
            Tree::Bool(value) => value.serialize(serializer),
            Tree::Signed(value) => value.serialize(serializer),
            Tree::Unsigned(value) => value.serialize(serializer),
            Tree::Float(value) => value.serialize(serializer),
            Tree::Text(value) => value.serialize(serializer),
            Tree::Variable(var) => var.serialize(serializer),
            Tree::Array(elements) => serializer.collect_seq(elements),
            Tree::Object(members) => serializer.collect_map(members),
        }
    }
}

impl Tree {
    /// The nesting of objects and arrays, in levels.
    pub(crate) fn depth(&self) -> usize {
        let deepest = match self {
            Tree::Array(elements) => elements.iter().map(Tree::depth).max(),
            Tree::Object(members) => members.values().map(Tree::depth).max(),
            Tree::Null
            | Tree::Bool(_)
            | Tree::Signed(_)
            | Tree::Unsigned(_)
            | Tree::Float(_)
            | Tree::Text(_)
            | Tree::Variable(_) => return 0,
        };
        1 + deepest.unwrap_or(0)
    }

    /// The tree as JSON, with sentinels for variables.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap()
    }
}

/// Text with every character that JSON writers or line readers could mishandle.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,40}",
        "(?s).{0,12}",
        "[\\x00-\\x22\\\\/\\x7f\\x{80}-\\x{9f}\\x{2028}\\x{2029}\\x{feff}\\x{fffd}\\x{10ffff}a]{0,12}",
        Just(r#"{"$var":"ip"}"#.to_owned()),
        Just("$var".to_owned()),
    ]
}

fn key() -> impl Strategy<Value = String> {
    text().prop_map(|key| if key.starts_with('$') { format!("_{key}") } else { key })
}

fn leaf(with_variables: bool) -> impl Strategy<Value = Tree> {
    let Table { vars, .. } = &*TABLE;
    prop_oneof![
        1 => Just(Tree::Null),
        1 => any::<bool>().prop_map(Tree::Bool),
        1 => prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), Just(0)].prop_map(Tree::Signed),
        1 => prop_oneof![any::<u64>(), Just(u64::MAX)].prop_map(Tree::Unsigned),
        2 => prop_oneof![any::<f64>(), -1e9..1e9f64, Just(-0.0), Just(f64::NAN), Just(f64::MAX), Just(5e-324)]
            .prop_map(Tree::Float),
        3 => text().prop_map(Tree::Text),
        if with_variables { 4 } else { 0 } =>
            prop::sample::select(vars.iter().collect::<Vec<_>>()).prop_map(Tree::Variable),
    ]
}

fn tree(with_variables: bool) -> impl Strategy<Value = Tree> {
    leaf(with_variables).prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::Array),
            prop::collection::btree_map(key(), inner, 0..6).prop_map(Tree::Object),
        ]
    })
}

/// An arbitrary body: an object, nested up to the limit.
pub(crate) fn body() -> impl Strategy<Value = Tree> {
    let layers = prop_oneof![3 => Just(0..1), 1 => Just(0..64), 1 => Just(64..65)]
        .prop_flat_map(|count| prop::collection::vec(any::<bool>(), count));
    (prop::collection::btree_map(key(), tree(true), 0..6), layers).prop_map(|(members, layers)| {
        let mut body = Tree::Object(members);
        let room = audit_vars::MAX_DEPTH as usize - body.depth();
        let mut layers = layers.into_iter().take(room).collect::<Vec<_>>();
        if let Some(outermost) = layers.last_mut() {
            *outermost = true;
        }
        for object in layers {
            body = match object {
                true => Tree::Object(BTreeMap::from([("in".to_owned(), body)])),
                false => Tree::Array(vec![body]),
            };
        }
        body
    })
}

/// The values of one request. `None` is a variable without a value.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    ip: Option<ClientIp>,
    user_agent: Option<UserAgent>,
    request_id: Option<RequestId>,
    now: Option<Now>,
    host: Vec<(HostValue, Value)>,
    host_values: Vec<HostValue>,
}

impl Request {
    /// A request in which the value of each variable has its largest size.
    pub(crate) fn worst() -> Request {
        let host_value = |var: Var| {
            let text = "\u{1}".repeat((var.max_bytes() as usize - 2) / 6) + "aaaaa";
            let padding = (var.max_bytes() as usize - 2) % 6;
            let text = &text[..text.len() - 5 + padding];
            (HostValue::new(var, text).unwrap(), json!(text))
        };
        Request {
            ip: Some(IpAddr::from([0xff; 16]).into()),
            user_agent: Some("\"".repeat(UserAgent::MAX_BYTES).as_str().into()),
            request_id: Some(RequestId::new(&"a".repeat(RequestId::MAX_BYTES)).unwrap()),
            now: Some(Now::at_ms(i64::MIN)),
            ..Request::of_host([host_value(TABLE.actor), host_value(TABLE.trace)])
        }
    }

    fn of_host(host: impl IntoIterator<Item = (HostValue, Value)>) -> Request {
        let host: Vec<_> = host.into_iter().collect();
        let host_values = host.iter().map(|(value, _)| value.clone()).collect();
        Request { ip: None, user_agent: None, request_id: None, now: None, host, host_values }
    }

    pub(crate) fn values(&self) -> Values<'_> {
        let Request { ip, user_agent, request_id, now, host: _, host_values } = self;
        let mut values = Values::none().with_host_values(&TABLE.vars, host_values);
        if let Some(ip) = ip {
            values = values.with_ip(ip);
        }
        if let Some(user_agent) = user_agent {
            values = values.with_user_agent(user_agent);
        }
        if let Some(request_id) = request_id {
            values = values.with_request_id(request_id);
        }
        if let Some(now) = now {
            values = values.with_now(now);
        }
        values
    }

    /// The same values for the tree walk.
    pub(crate) fn lookup(&self, name: &str) -> Value {
        match name {
            "ip" => json!(self.ip.map(|ip| ip.addr().to_string())),
            "userAgent" => json!(self.user_agent.as_ref().map(UserAgent::as_str)),
            "requestId" => json!(self.request_id.as_ref().map(RequestId::as_str)),
            "now" => json!(self.now.map(|now| now.ms())),
            "convexActor" | "trace_id" => {
                let of_host =
                    self.host.iter().find(|(host_value, _)| host_value.var().name() == name);
                json!(of_host.map(|(_, value)| value))
            }
            other => panic!("no variable {other}"),
        }
    }
}

pub(crate) fn user_agent_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1500),
        "[ -~\"\\\\]{0,600}".prop_map(String::into_bytes),
        "(?s).{0,300}".prop_map(String::into_bytes),
        // Characters of one to four bytes, around the place where the text is cut.
        (500..520usize, "(?s).{1,4}").prop_map(|(n, end)| ("\"".repeat(n) + &end).into_bytes()),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let actor = tree(false).prop_filter_map("larger than the variable", |tree| {
        Some((HostValue::new(TABLE.actor, &tree).ok()?, tree.to_value()))
    });
    let trace = prop_oneof!["[0-9a-f]{0,32}", "[a\"\\\\]{0,16}"].prop_map(|text| {
        let value = json!(text);
        (HostValue::new(TABLE.trace, &value).unwrap(), value)
    });
    (
        prop::option::of(any::<IpAddr>().prop_map(ClientIp::from)),
        prop::option::of(user_agent_bytes().prop_map(|bytes| UserAgent::from_bytes(&bytes))),
        prop::option::of("[A-Za-z0-9_.:/+=@~-]{1,128}".prop_map(|id| RequestId::new(&id).unwrap())),
        prop::option::of(any::<i64>().prop_map(Now::at_ms)),
        prop::option::of(actor),
        prop::option::of(trace),
    )
        .prop_map(|(ip, user_agent, request_id, now, actor, trace)| Request {
            ip,
            user_agent,
            request_id,
            now,
            ..Request::of_host(actor.into_iter().chain(trace))
        })
}

/// Every character that some reader treats as the end of a line.
const LINE_ENDS: [char; 7] = ['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'];

pub(crate) fn is_one_line(text: &str) -> bool {
    !text.contains(LINE_ENDS)
}

/// JSON as we write it: separators that `serde_json` leaves raw are escaped.
pub(crate) fn in_one_line(json: &str) -> String {
    LINE_ENDS
        .into_iter()
        .fold(json.to_owned(), |json, end| json.replace(end, &format!("\\u{:04x}", u32::from(end))))
}
