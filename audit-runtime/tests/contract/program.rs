//! Random functions: their steps, how they run, and a simple model of what they emit.

use std::net::IpAddr;

use audit_runtime::{
    AuditError, AuditLog, Audits, FunctionKind, Limit, Limits, Mutation, Query, ReleaseError,
    RequestContext, Var,
};
use proptest::prelude::*;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use crate::host::*;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Emit(Emission),
    /// Moves the clock by this many milliseconds.
    Tick(i64),
    Yield,
}

/// One call of `audit`.
#[derive(Debug, Clone)]
pub(crate) struct Emission {
    by: Caller,
    form: Form,
    pad: usize,
    vars: Vec<usize>,
    /// Whether the function fails if this log is refused. Otherwise it catches the error and
    /// continues.
    must: bool,
}

#[derive(Debug, Clone, Copy)]
enum Caller {
    Root,
    NestedQuery,
    NestedMutation,
    QueryOfNestedMutation,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Rust,
    Json,
    /// With a reserved key.
    Bad,
}

const VARS: [Var; 4] = [Var::IP, Var::USER_AGENT, Var::REQUEST_ID, Var::NOW];
/// The length of the longest JSON of each variable, in bytes.
const WIDTHS: [usize; 4] = [41, 1_026, 130, 20];

/// The body as a Rust function writes it.
impl Serialize for Emission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        // The reserved key comes first, since the first problem of a body decides the error.
        if let Form::Bad = self.form {
            map.serialize_entry("$bad", &())?;
        }
        map.serialize_entry("pad", &"x".repeat(self.pad))?;
        map.serialize_entry("vars", &self.vars.iter().map(|var| VARS[*var]).collect::<Vec<_>>())?;
        map.end()
    }
}

impl Emission {
    /// The JSON of the body with these values of variables.
    pub(crate) fn json(&self, values: &[String; 4]) -> String {
        let vars: Vec<&str> = self.vars.iter().map(|var| &*values[*var]).collect();
        format!(r#"{{"pad":"{}","vars":[{}]}}"#, "x".repeat(self.pad), vars.join(","))
    }

    fn bound_bytes(&self) -> usize {
        self.json(&WIDTHS.map(|width| "?".repeat(width))).len()
    }

    fn emit<K: Audits>(&self, log: &AuditLog<'_, K>) -> Result<(), AuditError> {
        match self.form {
            Form::Rust | Form::Bad => log.audit(self),
            Form::Json => log
                .audit_json(&self.json(&VARS.map(|var| format!(r#"{{"$var":"{}"}}"#, var.name())))),
        }
    }

    /// The function that provenance names, given the name of the outer one.
    pub(crate) fn origin(&self, root: &str, kind: FunctionKind) -> Value {
        let (function, kind) = match self.by {
            Caller::Root => (root, kind.as_str()),
            Caller::NestedQuery => ("a", "query"),
            Caller::NestedMutation => ("b", "mutation"),
            Caller::QueryOfNestedMutation => ("c", "query"),
        };
        json!({ "function": function, "kind": kind })
    }
}

/// The kinds of function that can run a [`Step`].
pub(crate) trait Runs: Audits {
    fn emit(log: &AuditLog<'_, Self>, emission: &Emission) -> Result<(), AuditError>
    where
        Self: Sized;
}

impl Runs for Query {
    fn emit(log: &AuditLog<'_, Query>, emission: &Emission) -> Result<(), AuditError> {
        match emission.by {
            Caller::Root => emission.emit(log),
            Caller::NestedQuery => emission.emit(&log.nested_query("a")),
            Caller::NestedMutation | Caller::QueryOfNestedMutation => {
                panic!("queries call no mutations")
            }
        }
    }
}

impl Runs for Mutation {
    fn emit(log: &AuditLog<'_, Mutation>, emission: &Emission) -> Result<(), AuditError> {
        match emission.by {
            Caller::Root => emission.emit(log),
            Caller::NestedQuery => emission.emit(&log.nested_query("a")),
            Caller::NestedMutation => emission.emit(&log.nested_mutation("b")),
            Caller::QueryOfNestedMutation => {
                emission.emit(&log.nested_mutation("b").nested_query("c"))
            }
        }
    }
}

/// Runs the steps up to the first uncaught failure.
pub(crate) async fn run<K: Runs>(
    steps: &[Step],
    log: &AuditLog<'_, K>,
    host: &Host,
) -> Result<(), AuditError> {
    for step in steps {
        match step {
            Step::Tick(ms) => host.clock.advance(*ms),
            Step::Yield => tokio::task::yield_now().await,
            Step::Emit(emission) => match K::emit(log, emission) {
                Err(error) if emission.must => return Err(error),
                Ok(()) | Err(_) => {}
            },
        }
    }
    Ok(())
}

/// Why a log is refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Refusal {
    Limit(Limit),
    Body,
}

impl Refusal {
    /// The refusal in a release error, if there is one.
    pub(crate) fn of(error: &ReleaseError) -> Option<Refusal> {
        match error {
            ReleaseError::Limit(exceeded) => Some(Refusal::Limit(exceeded.limit())),
            ReleaseError::Body(_) => Some(Refusal::Body),
            ReleaseError::NotDurable(_) | _ => None,
        }
    }
}

impl Refusal {
    /// The text that a client may see.
    pub(crate) fn message(self, limits: &Limits) -> String {
        match self {
            Refusal::Limit(Limit::Logs) => {
                format!("audit logs in one execution exceed limit of {} logs", limits.max_logs())
            }
            Refusal::Limit(Limit::TotalBytes) => format!(
                "audit logs in one execution exceed limit of {} bytes",
                limits.max_total_bytes()
            ),
            Refusal::Limit(Limit::LogBytes) => {
                format!("audit log exceeds limit of {} bytes", limits.max_log_bytes())
            }
            Refusal::Body => {
                r#"audit log body keys must not start with "$": "$bad" at /$bad"#.to_owned()
            }
        }
    }
}

/// The simplest model of the steps.
#[derive(Debug, Default)]
pub(crate) struct Account<'p> {
    pub(crate) accepted: Vec<&'p Emission>,
    pub(crate) refused: Option<(Refusal, &'p Emission)>,
    /// Whether a step failed and the error was not caught.
    pub(crate) failed: bool,
    pub(crate) ticked_ms: i64,
}

impl<'p> Account<'p> {
    pub(crate) fn of(steps: &'p [Step], limits: &Limits) -> Account<'p> {
        let mut account = Account::default();
        for step in steps {
            match step {
                Step::Tick(ms) => account.ticked_ms += ms,
                Step::Yield => {}
                Step::Emit(emission) => {
                    if !account.accepts(emission, limits) && emission.must {
                        account.failed = true;
                        break;
                    }
                }
            }
        }
        account
    }

    fn accepts(&mut self, emission: &'p Emission, limits: &Limits) -> bool {
        if self.refused.is_some() {
            return false;
        }
        if let Form::Bad = emission.form {
            self.refused = Some((Refusal::Body, emission));
            return false;
        }
        let total: usize = self.accepted.iter().map(|before| before.bound_bytes()).sum();
        let bound = emission.bound_bytes();
        let exceeded = if bound > limits.max_log_bytes() as usize {
            Some(Limit::LogBytes)
        } else if self.accepted.len() == limits.max_logs() as usize {
            Some(Limit::Logs)
        } else if total + bound > limits.max_total_bytes() as usize {
            Some(Limit::TotalBytes)
        } else {
            self.accepted.push(emission);
            None
        };
        self.refused = exceeded.map(|limit| (Refusal::Limit(limit), emission));
        exceeded.is_none()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Client {
    ip: Option<IpAddr>,
    user_agent: Option<String>,
    id: String,
}

impl Client {
    pub(crate) fn request(&self) -> RequestContext {
        let mut context = request(&self.id);
        if let Some(ip) = self.ip {
            context = context.with_ip(ip);
        }
        if let Some(user_agent) = &self.user_agent {
            context = context.with_user_agent(user_agent.as_str().into());
        }
        context
    }

    /// The values of the variables, as JSON.
    pub(crate) fn values(&self, now_ms: i64) -> [String; 4] {
        let ip = self.ip.map(|ip| ip.to_string());
        [json!(ip), json!(self.user_agent), json!(self.id), json!(now_ms)]
            .map(|value| value.to_string())
    }
}

pub(crate) fn any_client() -> impl Strategy<Value = Client> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ]
    .prop_map(|ip| ip.to_canonical());
    let user_agent = prop_oneof!["[ -~é]{0,40}", Just("\"".repeat(512))];
    (prop::option::of(ip), prop::option::of(user_agent), "[a-z0-9]{1,128}")
        .prop_map(|(ip, user_agent, id)| Client { ip, user_agent, id })
}

/// Limits that a handful of logs reaches and exceeds.
pub(crate) fn any_limits() -> impl Strategy<Value = Limits> {
    // At least 40 bytes for a log, which hold the reserved key of a bad body: otherwise the body
    // may be refused for its size instead.
    let small = (0u32..8, 0u32..4_000, 40u32..2_000);
    let small =
        small.prop_map(|(logs, total, log)| Limits::new(logs, total.max(log), log).unwrap());
    prop_oneof![4 => Just(Limits::default()), 1 => small]
}

pub(crate) fn query_steps() -> impl Strategy<Value = Vec<Step>> {
    steps(vec![Caller::Root, Caller::NestedQuery])
}

pub(crate) fn mutation_steps() -> impl Strategy<Value = Vec<Step>> {
    steps(vec![
        Caller::Root,
        Caller::NestedQuery,
        Caller::NestedMutation,
        Caller::QueryOfNestedMutation,
    ])
}

fn steps(callers: Vec<Caller>) -> impl Strategy<Value = Vec<Step>> {
    let by = prop::sample::select(callers);
    let form = prop_oneof![6 => Just(Form::Rust), 3 => Just(Form::Json), 1 => Just(Form::Bad)];
    let pad = prop_oneof![40 => 0usize..300, 1 => Just(1_000_000)];
    let vars = prop::collection::vec(0..VARS.len(), 0..4);
    let emission = (by, form, pad, vars, prop::bool::weighted(0.3))
        .prop_map(|(by, form, pad, vars, must)| Step::Emit(Emission { by, form, pad, vars, must }));
    let step =
        prop_oneof![6 => emission, 1 => (-50i64..500).prop_map(Step::Tick), 1 => Just(Step::Yield)];
    prop::collection::vec(step, 0..8)
}
