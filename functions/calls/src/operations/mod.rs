//! The operations of queries and mutations, behind `Convex.syscall` and `Convex.asyncSyscall`.
//!
//! All of them run synchronously on the function's thread.

mod arguments;
mod limits;
mod reads;
mod writes;

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use audit_runtime::{FunctionKind, RequestContext};
use functions_engine::{
    Answer, Failure, FailureKind, Later, Limits, LogLines, Seed, SyscallError, Syscalls,
};
use functions_program::Program;
use functions_store::{StoreError, Tx};
use functions_value::{Chance, Value};
use serde_json::{Value as Json, json};

use crate::Deployment;
use crate::audited::Log;
use crate::call::{Answered, Failed, Identity};
use crate::faults::Faults;
use crate::pulse::Pulse;
use crate::reference::{Target, for_later, resolve};
use crate::validate::{self, Validators};
use arguments::{abandoned, not_in_query, text};
use limits::Scheduled;

pub use arguments::audit_body;
pub(crate) use arguments::{failed, parse, unknown};

const MAX_DEPTH: u32 = 8;

/// The context that a function shares with all functions that it calls.
pub(crate) struct Facts<'a> {
    pub(crate) program: &'a Program,
    pub(crate) validators: &'a Validators,
    pub(crate) deployment: &'a Deployment,
    pub(crate) identity: Option<&'a Identity>,
    /// The request of a mutation. Queries have none.
    pub(crate) request: Option<&'a RequestContext>,
    /// The id of the function's document, if it was scheduled.
    pub(crate) scheduled: Option<&'a str>,
    pub(crate) now_ms: i64,
    pub(crate) limits: Limits,
    pub(crate) faults: &'a Faults,
    pub(crate) pulse: &'a Pulse,
}

/// The data collected while a function and those that it calls run.
#[derive(Default)]
pub(crate) struct Gathered {
    /// Whether the identity was read, so that the result is only for that identity.
    pub(crate) asked_identity: bool,
    /// Where the first page of a reactive query should end, and where it ended.
    pub(crate) journal: Option<String>,
    pub(crate) ended: Option<String>,
    pub(crate) log_lines: Vec<String>,
    /// Whether a function failed for a reason that may not recur, such as its time limit.
    pub(crate) by_chance: bool,
    /// The failure of the store, if any. The function fails with it even if it catches the error.
    failure: Option<StoreError>,
    /// The panic of an operation, if any. In the engine it would become an error that the function
    /// could catch.
    panic: Option<Box<dyn Any + Send>>,
    scheduled: Scheduled,
    query_bytes: usize,
}

impl Gathered {
    /// The data of a query whose pages should end where they ended before.
    pub(crate) fn following(journal: Option<&str>) -> Gathered {
        Gathered { journal: journal.map(str::to_owned), ..Gathered::default() }
    }
}

pub(crate) struct InTransaction<'a> {
    facts: &'a Facts<'a>,
    target: &'a Target<'a>,
    log: Log,
    tx: &'a mut Tx,
    gathered: &'a mut Gathered,
    /// The source of seeds for the functions that it calls.
    chance: Chance,
    frame: Frame,
    streams: BTreeSet<u32>,
    /// Whether the function has read a page.
    has_paginated: bool,
}

/// A function's place among those that called it.
#[derive(Clone, Copy)]
struct Frame {
    depth: u32,
    /// Whether the function, or one through which it was called, belongs to another component than
    /// the function that the caller called. Such a function does not learn who the caller is, as on
    /// Convex.
    is_foreign: bool,
}

/// Runs a function in a transaction. Validates its arguments and value. Its writes stay in `tx`.
pub(crate) fn run(
    facts: &Facts<'_>,
    target: &Target<'_>,
    log: Log,
    tx: &mut Tx,
    gathered: &mut Gathered,
    args: &Json,
    chance: Chance,
) -> Result<Answered, StoreError> {
    let frame = Frame { depth: 0, is_foreign: false };
    let mut answered = run_at(facts, target, log, tx, gathered, args, chance, frame)?;
    answered.log_lines = std::mem::take(&mut gathered.log_lines);
    Ok(answered)
}

#[allow(clippy::too_many_arguments, reason = "the one place that needs all of them")]
fn run_at(
    facts: &Facts<'_>,
    target: &Target<'_>,
    log: Log,
    tx: &mut Tx,
    gathered: &mut Gathered,
    args: &Json,
    mut chance: Chance,
    frame: Frame,
) -> Result<Answered, StoreError> {
    let is_nested = frame.depth > 0;
    let is_of_mutation = is_nested || log.kind() == FunctionKind::Mutation;
    let checked = {
        let tx = RefCell::new(&mut *tx);
        let is_id = |table: &str, id: &str| tx.borrow_mut().is_id(&target.component, table, id);
        facts.validators.check_arguments(target, args, is_nested, &is_id)
    };
    if let Err(message) = checked {
        return Ok(Answered::failed(message));
    }
    let text = serde_json::to_string(&[args]).expect("values are JSON");
    let request_id = facts.request.map_or("", |request| request.request_id().as_str());
    let call = facts.program.call(&target.component, target.function, &text, request_id);
    let engine_seed = Seed { random: chance.next_seed(), now_ms: facts.now_ms as f64 };
    let mut host = InTransaction {
        facts,
        target,
        log,
        tx: &mut *tx,
        gathered: &mut *gathered,
        chance,
        frame,
        streams: BTreeSet::new(),
        has_paginated: false,
    };
    let ran = facts
        .pulse
        .in_engine(|| functions_engine::run(&call, &engine_seed, &facts.limits, &mut host));
    for stream in std::mem::take(&mut host.streams) {
        host.tx.query_close(stream);
    }
    // The lines of functions that it called follow its own, and one limit applies to all of them.
    let mut lines = LogLines::default();
    ran.log_lines.iter().chain(&gathered.log_lines).for_each(|line| lines.push(line));
    gathered.log_lines = lines.take();
    if let Some(panic) = gathered.panic.take() {
        resume_unwind(panic);
    }
    if let Some(error) = gathered.failure.take() {
        return Err(error);
    }
    let result = match ran.result {
        Ok(value) => {
            let tx = RefCell::new(tx);
            let is_id = |table: &str, id: &str| tx.borrow_mut().is_id(&target.component, table, id);
            let checked = facts.validators.check_returned(target, &value, is_of_mutation, &is_id);
            checked.map(|()| value.into()).map_err(|message| Failed { message, data: None })
        }
        Err(Failure { message, data, kind }) => {
            gathered.by_chance |= kind != FailureKind::Thrown;
            Err(validate::failed(message, data, is_nested))
        }
    };
    Ok(Answered { result, log_lines: Vec::new() })
}

impl InTransaction<'_> {
    /// Converts an error of the store for the function. If the store itself failed, the function
    /// fails even if it catches the error.
    fn stored<T>(&mut self, answer: Result<T, StoreError>) -> Result<T, SyscallError> {
        answer.map_err(|error| match error {
            StoreError::User(message) => failed(message),
            StoreError::Failed(_) => {
                self.gathered.failure = Some(error);
                failed("the host failed")
            }
        })
    }

    /// Operations that are synchronous in JavaScript too.
    fn do_sync(&mut self, op: &str, args: &str) -> Result<Json, SyscallError> {
        let met = self.facts.faults.meet(op);
        self.stored(met)?;
        let bytes = args.len();
        let args = parse(args)?;
        match op {
            "1.0/queryStream" => {
                self.count_query(bytes)?;
                let query = args.get("query").unwrap_or(&Json::Null);
                let begun = self.tx.query(&self.target.component, query);
                let stream = self.stored(begun)?;
                self.streams.insert(stream);
                Ok(json!({ "queryId": stream }))
            }
            "1.0/queryCleanup" => {
                if let Some(stream) = self.stream(&args) {
                    self.streams.remove(&stream);
                    self.tx.query_close(stream);
                }
                Ok(Json::Null)
            }
            "1.0/db/normalizeId" => {
                let (table, id) = (text(&args, "table")?, text(&args, "idString")?);
                let is_id = self.tx.is_id(&self.target.component, table, id);
                Ok(json!({ "id": is_id.then_some(id) }))
            }
            "1.0/getSnapshotTs" => {
                Ok(Value::Int64(self.tx.snapshot().ts().cast_signed()).to_json())
            }
            _ => Err(unknown(op, self.log.kind())),
        }
    }

    fn do_async(&mut self, op: &str, args: &str) -> Result<String, SyscallError> {
        if op == "1.0/auditLog" {
            let body = match audit_body(args) {
                Ok(body) => body,
                Err(error) => return Err(self.refuse_audit(&error.message)),
            };
            return match self.log.audit_json(body) {
                Some(Ok(())) => Ok("null".to_owned()),
                Some(Err(error)) => Err(failed(error.to_string())),
                None => Err(abandoned()),
            };
        }
        let met = self.facts.faults.meet(op);
        self.stored(met)?;
        let mut args = parse(args)?;
        let done = match op {
            "1.0/get" => self.get(&args),
            "1.0/queryStreamNext" => self.next(&args),
            "1.0/queryPage" => self.page(&args),
            "1.0/count" => {
                let count = self.tx.count(&self.target.component, text(&args, "table")?);
                Ok(json!(self.stored(count)? as f64))
            }
            "1.0/runUdf" => return self.run_function(&args),
            "1.0/getUserIdentity" => {
                self.gathered.asked_identity |= !self.frame.is_foreign;
                Ok(self.identity().map_or(Json::Null, |identity| identity.claims().clone()))
            }
            "1.0/createFunctionHandle" => {
                let (target, _) =
                    for_later(self.facts.program, &self.target.component, &args).map_err(failed)?;
                Ok(json!(target.handle()))
            }
            "1.0/getDeploymentMetadata" => Ok(self.facts.deployment.to_json()),
            "1.0/getFunctionMetadata" => Ok(function_metadata(self.target)),
            "1.0/getTransactionMetrics" => Ok(self.metrics()),
            _ => match self.log.kind() {
                FunctionKind::Mutation => self.do_in_mutation(op, &mut args),
                FunctionKind::Query | FunctionKind::Action => Err(not_in_query(op)),
            },
        };
        done.map(|json| json.to_string())
    }

    /// Calls a query or mutation, in a nested transaction. If it fails, its writes are rolled back
    /// and its logs stay.
    fn run_function(&mut self, args: &Json) -> Result<String, SyscallError> {
        let (kind, is_aside) = match text(args, "udfType")? {
            "query" => (FunctionKind::Query, false),
            "snapshotQuery" => (FunctionKind::Query, true),
            "mutation" => (FunctionKind::Mutation, false),
            other => return Err(failed(format!("a {other} cannot be called here"))),
        };
        let target = resolve(self.facts.program, &self.target.component, args).map_err(failed)?;
        target.expect(kind).map_err(failed)?;
        let frame = Frame {
            depth: self.frame.depth + 1,
            is_foreign: self.frame.is_foreign || target.component != self.target.component,
        };
        if frame.depth > MAX_DEPTH {
            return Err(failed(format!(
                "functions call functions deeper than limit of {MAX_DEPTH}"
            )));
        }
        let most = limits::of(args)?;
        let log = self.log.nested(kind, target.full_name()).map_err(failed)?;
        let chance = Chance::new(self.chance.next_seed());
        let aside = self.chance.next_seed();
        let args = args.get("args").unwrap_or(&Json::Null);
        self.tx.begin_nested();
        self.tx.limit_nested(&most.store);
        let before = self.gathered.scheduled.limited(&most);
        let (facts, gathered) = (self.facts, &mut *self.gathered);
        let run = |tx: &mut Tx| run_at(facts, &target, log, tx, gathered, args, chance, frame);
        let answered = if is_aside { self.tx.aside(aside, run) } else { run(self.tx) };
        self.gathered.scheduled.limit_to(before);
        let result = self.stored(answered).map(|answered| answered.result);
        match result {
            Ok(Ok(value)) => {
                self.tx.commit_nested();
                Ok(value.to_string())
            }
            Ok(Err(Failed { message, data })) => {
                self.roll_back_nested(before);
                Err(SyscallError { message, data })
            }
            Err(error) => {
                self.roll_back_nested(before);
                Err(error)
            }
        }
    }

    fn roll_back_nested(&mut self, scheduled_before: Scheduled) {
        self.tx.rollback_nested();
        self.gathered.scheduled = scheduled_before;
    }

    /// The caller's identity, as far as the function may know it.
    fn identity(&self) -> Option<&Identity> {
        self.facts.identity.filter(|_| !self.frame.is_foreign)
    }

    fn metrics(&self) -> Json {
        limits::metrics(&self.tx.metrics(), &self.tx.limits(), &self.gathered.scheduled)
    }
}

pub(crate) fn function_metadata(target: &Target<'_>) -> Json {
    // A default export has the name that `getFunctionName` returns: that of its module.
    let name = &target.function.name;
    let name = name.strip_suffix(":default").unwrap_or(name);
    json!({ "name": name, "componentPath": target.component.to_string() })
}

pub(crate) fn request_metadata(
    request: Option<&RequestContext>,
    scheduled: Option<&str>,
    identity: Option<&Identity>,
) -> Json {
    json!({
        "ip": request.and_then(RequestContext::ip),
        "userAgent": request.and_then(|request| Some(request.user_agent()?.as_str())),
        "requestId": request.map(|request| request.request_id().as_str()),
        "scheduledFunctionId": scheduled,
        "authToken": identity.map(Identity::token),
    })
}

impl InTransaction<'_> {
    /// Runs one operation. Keeps a panic, which is resumed once the engine has ended.
    fn guarded(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<String, SyscallError>,
    ) -> Result<String, SyscallError> {
        if self.gathered.panic.is_some() || self.gathered.failure.is_some() {
            return Err(failed("the host failed"));
        }
        let pulse = self.facts.pulse;
        let done = pulse.in_host(|| catch_unwind(AssertUnwindSafe(|| operation(&mut *self))));
        done.unwrap_or_else(|panic| {
            self.gathered.panic = Some(panic);
            Err(failed("the host failed"))
        })
    }
}

impl Syscalls for InTransaction<'_> {
    fn give_way(&mut self) {
        self.facts.pulse.give_way();
    }

    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError> {
        self.guarded(|this| Ok(this.do_sync(op, args)?.to_string()))
    }

    fn refuse_audit(&mut self, reason: &str) -> SyscallError {
        self.log.refuse(reason).map_or_else(abandoned, |error| failed(error.to_string()))
    }

    fn async_syscall(&mut self, op: &str, args: &str, _later: Later) -> Answer {
        Answer::Now(self.guarded(|this| this.do_async(op, args)))
    }
}
