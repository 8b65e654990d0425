//! Audit log bodies with variables: compiled once, rendered by copying slices.
//!
//! A function says what it did in a body, any JSON object. Some of it, such as whose request it is,
//! is unknown while the function runs, since its result may be cached and released for other
//! requests. There the body has variables, and each release fills in its own values. The nouns:
//!
//! - [`body!`] makes a body in the syntax of JSON; any `T: Serialize` is one too.
//! - [`Var`], a variable: `ip`, `userAgent`, `requestId`, `now`, and what a host registers in its
//!   [`Vars`].
//! - [`Template`], a compiled body. Its [bound](Template::bound_bytes) is the largest size of a
//!   rendering with any values. Limits are checked against it, so that a replay can never fail for
//!   a longer User-Agent.
//! - [`Values`], the values of the variables in one request, whose types guarantee their longest
//!   form: [`ClientIp`], [`UserAgent`], [`RequestId`], [`Now`], [`HostValue`].
//! - [`BodyError`], what is wrong with a body and where in it.
//!
//! This crate does no I/O. `audit-runtime` compiles what functions emit and renders it at each
//! release.
//!
//! ```
//! use audit_core::Limits;
//! use audit_vars::{ClientIp, Now, Template, UserAgent, Values, Var, Vars, body};
//!
//! // Once, when the function runs:
//! let view = body!({ "action": "view", "document": "d1", "ip": Var::IP, "at": Var::NOW });
//! let template = Template::compile(&Vars::new(), &Limits::default(), &view)?;
//!
//! // For each request that is given the result:
//! let ip = ClientIp::from(std::net::IpAddr::from([192, 0, 2, 7]));
//! let now = Now::at_ms(1_700_000_000_000);
//! let mut line = Vec::new();
//! template.render(&Values::none().with_ip(&ip).with_now(&now), &mut line);
//! assert_eq!(line, br#"{"action":"view","document":"d1","ip":"192.0.2.7","at":1700000000000}"#);
//! assert!(line.len() <= template.bound_bytes() as usize);
//!
//! // User input is data, whatever it looks like:
//! let sent = serde_json::json!({ "comment": { "$var": "ip" } });
//! let error = Template::compile(&Vars::new(), &Limits::default(), &sent).unwrap_err();
//! assert_eq!(error.to_string(), "audit log body keys must not start with \"$\": \"$var\" at /comment/$var");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod body;
mod client_ip;
mod compile;
mod escape;
mod host_value;
mod now;
mod padding;
mod request_id;
mod search;
mod separators;
mod template;
#[cfg(feature = "test-util")]
pub mod tree_walk;
mod user_agent;
mod values;
mod var;

#[doc(hidden)]
pub use body::{Array, Elements, Members, Object};
pub use client_ip::ClientIp;
pub use compile::{BodyError, BodyProblem, MAX_DEPTH};
pub use host_value::HostValue;
pub use now::Now;
pub use request_id::{InvalidRequestId, RequestId};
pub use template::Template;
pub use user_agent::UserAgent;
pub use values::Values;
pub use var::{InvalidVar, Var, Vars};
