//! Executions whose effects are held back until their audit logs are durable.

mod audited;
mod error;
mod execution;
#[cfg(feature = "http")]
pub mod http;
mod ordering;
mod provenance;
mod request;
mod runtime;
mod transaction;

pub use audit_core::{
    AuditSink, Clock, Limit, LimitExceeded, Limits, Outcome, Random, SinkError, SinkErrorKind, Usage,
};
pub use audit_vars::{BodyError, BodyProblem, HostValue, RequestId, Template, UserAgent, Var, Vars, body};
pub use audited::Audited;
pub use error::{AuditError, MutationError, ReleaseError};
pub use execution::{Action, AuditLog, Audits, Execution, Mutation, Query};
pub use provenance::{FunctionKind, FunctionName};
pub use request::RequestContext;
pub use runtime::{AuditRuntime, AuditRuntimeBuilder};
pub use transaction::{Attempt, AuditedTransaction, RetryPolicy, Transaction};
