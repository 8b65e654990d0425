//! Executions whose effects are held back until their audit logs are durable.
//!
//! A backend must be able to prove who looked at what. A function says what it does with
//! `log.audit(body)`, and its effect (a query's result, a mutation's commit) waits until that log
//! is durable. The types enforce the order: a result comes as an [`Audited`] value, and the only
//! way to the value inside is to make its logs durable first.
//!
//! This page is a guide to writing a host, the program that runs functions for its users. The
//! nouns:
//!
//! - [`AuditRuntime`]: a sink, limits and variables. A host has one for each bucket.
//! - [`Execution`]: a running query or mutation. The function writes to its [`AuditLog`].
//! - [`Audited`]: a sealed result. [`AuditedTransaction`]: a sealed result with its transaction.
//! - [`RequestContext`]: the caller's request, which gives variables their values.
//! - [`Transaction`]: implemented by a host, or an adapter crate, for its database. Functions fail
//!   with an error of their own: [`FunctionError`].
//!
//! # A query
//!
//! ```
//! use std::sync::Arc;
//!
//! use audit_core::testing::MemorySink; // in production: audit_sink_s3::S3Sink
//! use audit_runtime::prelude::*;
//!
//! // The function. It sees no request: its result may be released for many.
//! fn page(log: &AuditLog<'_, Query>, id: &str) -> Result<String, AuditError> {
//!     log.audit(&body!({ "action": "view", "document": id, "ip": Var::IP, "at": Var::NOW }))?;
//!     Ok(format!("document {id}"))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sink = Arc::new(MemorySink::new());
//! let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
//!
//! // The host runs it and seals what it returned, value or error.
//! let query = runtime.query("documents:view");
//! let result = page(&query.log(), "d1");
//! let sealed = query.seal(result);
//!
//! // A cache keeps `sealed`. Every release is logged for its own request.
//! for ip in [[192, 0, 2, 1], [192, 0, 2, 2]] {
//!     let request = runtime.new_request().with_ip(ip.into());
//!     let page = sealed.release(&request).await?;
//!     assert_eq!(page.as_deref().unwrap(), "document d1");
//! }
//! assert_eq!(sink.lines().len(), 2);
//! assert!(sink.lines()[1].contains("\"ip\":\"192.0.2.2\""));
//! # Ok(())
//! # }
//! ```
//!
//! Seal the whole `Result` of the function: a failed query emits its logs too, and its error is
//! held back like any other result. [`Audited::release_all`] releases one result to many
//! subscribers.
//!
//! # A mutation
//!
//! Implement [`Transaction`] for your database's transactions and let
//! [`AuditRuntime::run_mutation`] run the attempts: its example is complete. It guarantees:
//!
//! | the attempt | its transaction | its logs | then |
//! |---|---|---|---|
//! | returned a value | commits after the logs are durable | durable before the commit | the value |
//! | returned a value, logs not durable | rolled back | may be durable, if the error says so | [`MutationError::Release`] |
//! | met a write conflict | rolled back | durable | the next attempt, with an empty log |
//! | failed, returned early or panicked | rolled back | durable | the error, or the panic |
//! | sealed another execution than its own | rolled back | durable | [`MutationError::ForeignExecution`] |
//! | had a log refused, caught or not | rolled back | durable, what came before | [`MutationError::Release`] |
//!
//! A host with its own loop, or with functions in another language, calls
//! [`AuditRuntime::mutation`] and [`Execution::seal_transaction`] itself.
//!
//! # Outcomes
//!
//! A log is durable before its commit, so it cannot say whether the commit succeeded. Two things
//! can:
//!
//! - [`Transaction::keep_receipt`] gets the place of the logs ([`LogReceipt`]) before the commit
//!   and writes it in the same transaction. With a row that stores [`AuditLog::execution_id`], rows
//!   can be matched with records and records with rows.
//! - [`with_outcomes`](AuditRuntimeBuilder::with_outcomes) emits a record after the end of each
//!   attempt: `committed`, `rolled back`, `conflict` or `failed`. A missing record means *unknown*.
//!
//! # Nested calls and actions
//!
//! A nested query or mutation writes to the log from [`AuditLog::nested_query`] or
//! [`AuditLog::nested_mutation`]: it shares the budget and the release of its caller, and keeps its
//! logs if its sub-transaction rolls back.
//!
//! An [`Action`] calls queries and mutations, each with its own execution, and has no audit log:
//! its external effects cannot be undone if the log fails. In Rust, logging in an action does not
//! compile:
//!
//! ```compile_fail,E0599
//! # fn action(runtime: audit_runtime::AuditRuntime) {
//! let action = runtime.action(runtime.new_request());
//! action.log().audit("sent an email");
//! # }
//! ```
//!
//! A host for another language returns [`AuditError::InAction`]. Nor can a query read its request,
//! because its result outlives the request:
//!
//! ```compile_fail,E0599
//! # fn query(log: &audit_runtime::AuditLog<'_, audit_runtime::Query>) {
//! let ip = log.request().ip();
//! # }
//! ```
//!
//! Mutations and actions can, and may pass it as an argument to functions that they schedule. Crons
//! and scheduled functions run with [`AuditRuntime::new_request`]: a request id, no address, no
//! User-Agent.
//!
//! # Requests
//!
//! With the feature `http` a tower layer (module `http`) creates the [`RequestContext`] of each
//! request: the client's address behind trusted proxies, the User-Agent, the request id. Register
//! your own variables, such as the user, once with [`Vars::register`], use the returned [`Var`] in
//! bodies, and set its value with [`RequestContext::with_host_value`].
//!
//! Hosts on other frameworks call `http::Origin::of` or `TrustedProxies::client_address` with the
//! peer's address and a function over their headers.
//!
//! # Several sinks
//!
//! [`Tee`] is a sink that persists to several others, required and optional ones.
//!
//! # Limits and refused bodies
//!
//! One execution, with everything it calls, may emit what [`Limits`] say: 500 logs, 4,000,000
//! bytes, 1,000,000 bytes for one log. Sizes count each variable at its largest, so that a replay
//! cannot fail for a longer User-Agent.
//!
//! A function that exceeds a limit or logs an invalid body has failed ([`BodyProblem`] lists what
//! is invalid, such as a key that begins with `$`). Catching or ignoring the error does not save
//! it: its value is dropped when it is sealed, its transaction is rolled back, and each release
//! fails with [`ReleaseError::Limit`] or [`ReleaseError::Body`]. What it had emitted before is made
//! durable. If it had emitted nothing, one record takes its place:
//! `{"$audit":{"event":"refused","function":"f","kind":"query","reason":"…","at":0}}`. So no client
//! can silence the log by overflowing it or by sending invalid data.
//!
//! The text of these errors may reach a client: it names the limit or the path in the body, never a
//! size or a value. The actual size is in the operator's log (`tracing`).
//!
//! A host for another language that cannot convert a body to JSON calls [`AuditLog::refuse`].
//!
//! # What can go wrong
//!
//! - **The sink is slow or hangs.** A release fails after
//!   [`with_persist_timeout`](AuditRuntimeBuilder::with_persist_timeout), and its value is not
//!   returned. Its [`SinkError`] says whether the logs may still arrive.
//!   [`is_retryable`](ReleaseError::is_retryable) says whether another call may succeed,
//!   [`http_status`](ReleaseError::http_status) suggests a status.
//! - **The caller is gone** and its future is dropped. No result is released, and no new commit
//!   begins; logs that were being persisted may still become durable. See *Cancellation* at each
//!   method.
//! - **An execution is dropped unsealed.** It had no effect; its logs are dropped, with a warning.
//!   Attempts of [`run_mutation`](AuditRuntime::run_mutation) are an exception: if one returns
//!   early or panics, its logs are released.
//! - **A query panics.** Its execution is dropped unsealed. A host that wants those logs catches
//!   the panic and seals the execution.
//! - **The process dies.** Logs may be durable although their effect never happened; no effect
//!   happens without its logs. `ordering.rs` explains it step by step.
//!
//! # Metrics
//!
//! Through the `metrics` facade, to the recorder that is installed when the runtime is built:
//! `audit_functions_refused_total` with `reason` `body`, `limit` or `not_durable`,
//! `audit_persists_failed_total` with `outcome` `not_persisted` or `indeterminate`, and
//! `audit_outcomes_lost_total` with `reason` `full`, `closed` or `indeterminate`.
//!
//! The runtime needs tokio's timer. It starts no thread, and spawns tasks only where outcomes are
//! switched on.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod audit_log;
mod audited;
mod context;
mod detached;
mod emitted;
mod ending;
mod error;
mod execution;
mod function_logs;
#[cfg(feature = "http")]
pub mod http;
mod kinds;
mod log_limit;
mod metrics;
mod mutation;
mod ordering;
mod outcomes;
mod provenance;
mod rendering;
mod request;
mod retry_policy;
mod runtime;
mod sealed_logs;
mod tee;
mod transaction;

/// What a function or a host imports: `use audit_runtime::prelude::*;`.
pub mod prelude {
    pub use crate::{
        AuditError, AuditLog, AuditRuntime, Audited, AuditedTransaction, Execution, FunctionError,
        Mutation, MutationError, Query, ReleaseError, RequestContext, Transaction, Var, body,
    };
}

pub use audit_core::{
    AuditSink, Clock, Limit, LimitExceeded, Limits, Outcome, Place, Random, SinkError,
    SinkErrorKind, UniqueId, Usage,
};
pub use audit_log::AuditLog;
pub use audit_vars::{BodyError, BodyProblem, HostValue, RequestId, UserAgent, Var, Vars, body};
pub use audited::Audited;
pub use error::{AuditError, MutationError, ReleaseError};
pub use execution::Execution;
pub use kinds::{Action, Audits, Mutation, Query};
#[doc(hidden)]
pub use log_limit::LogLimit;
pub use provenance::{FunctionKind, FunctionName};
pub use request::RequestContext;
pub use retry_policy::RetryPolicy;
pub use runtime::{AuditRuntime, AuditRuntimeBuilder};
pub use tee::Tee;
pub use transaction::{Attempt, AuditedTransaction, FunctionError, LogReceipt, Transaction};
