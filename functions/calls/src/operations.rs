//! The operations of queries and mutations, behind `Convex.syscall` and `Convex.asyncSyscall`.
//!
//! All of them run synchronously, on the function's thread.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use audit_runtime::{FunctionKind, RequestContext};
use functions_engine::{Answer, Failure, FailureKind, Later, Limits, Seed, SyscallError, Syscalls};
use functions_program::Program;
use functions_store::{
    MAX_BYTES_READ, MAX_BYTES_WRITTEN, MAX_DATABASE_QUERIES, MAX_DOCUMENTS_READ,
    MAX_DOCUMENTS_WRITTEN, Page, PageRequest, PageStatus, StoreError, Tx, TxMetrics,
};
use functions_value::{Chance, Value, patch_from_json};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use super::Deployment;
use super::call::{Answered, Failed, Identity};
use super::faults::Faults;
use super::held::Log;
use super::jobs::{self, Job};
use super::pulse::Pulse;
use super::reference::{Target, for_later, resolve};
use super::validate::Validators;

/// The deepest nesting of calls.
const MAX_DEPTH: u32 = 8;

/// The most functions that one mutation may schedule, and the most bytes of their arguments.
const MAX_SCHEDULED: u64 = 1_000;
const MAX_SCHEDULED_BYTES: u64 = 8 << 20;

/// What a function and all functions that it calls share.
pub(super) struct Facts<'a> {
    pub(super) program: &'a Program,
    pub(super) validators: &'a Validators,
    pub(super) deployment: &'a Deployment,
    pub(super) identity: Option<&'a Identity>,
    /// The request of a mutation. Queries have none.
    pub(super) request: Option<&'a RequestContext>,
    /// The id of the document that scheduled it, if one did.
    pub(super) scheduled: Option<&'a str>,
    pub(super) now_ms: i64,
    pub(super) limits: Limits,
    pub(super) faults: &'a Faults,
    pub(super) pulse: &'a Pulse,
}

/// What is collected while a function and those that it calls run.
#[derive(Default)]
pub(super) struct Gathered {
    /// Whether the identity was read. The result is for that identity alone then.
    pub(super) asked_identity: bool,
    /// Where the first page of a reactive query should end, and where it ended.
    pub(super) journal: Option<String>,
    pub(super) ended: Option<String>,
    pub(super) log_lines: Vec<String>,
    /// Whether it failed for a reason that may not recur, such as its time limit.
    pub(super) by_chance: bool,
    /// The failure of the store, if it failed. The function fails with it, whatever it catches.
    failure: Option<StoreError>,
    /// The panic of an operation, if one panicked. The engine would show it to the function as an
    /// error that it could catch.
    panic: Option<Box<dyn Any + Send>>,
    scheduled: u64,
    scheduled_bytes: u64,
    js_time: Duration,
}

impl Gathered {
    /// For a query whose pages should end where they ended before.
    pub(super) fn following(journal: Option<&str>) -> Gathered {
        Gathered { journal: journal.map(str::to_owned), ..Gathered::default() }
    }
}

/// A function in a transaction.
pub(super) struct InTransaction<'a> {
    facts: &'a Facts<'a>,
    target: &'a Target<'a>,
    log: Log,
    tx: &'a mut Tx,
    gathered: &'a mut Gathered,
    /// The source of seeds for the functions that it calls.
    chance: Chance,
    depth: u32,
    streams: BTreeSet<u32>,
    /// Whether the function has read a page.
    has_paginated: bool,
}

/// Runs a function in a transaction. Its arguments and its value are validated; its writes stay in
/// `tx`.
pub(super) fn run(
    facts: &Facts<'_>,
    target: &Target<'_>,
    log: Log,
    tx: &mut Tx,
    gathered: &mut Gathered,
    args: &Json,
    chance: Chance,
) -> Result<Answered, StoreError> {
    let mut answered = run_at(facts, target, log, tx, gathered, args, chance, 0)?;
    answered.log_lines = std::mem::take(&mut gathered.log_lines);
    Ok(answered)
}

#[allow(clippy::too_many_arguments, reason = "the one place where all of it meets")]
fn run_at(
    facts: &Facts<'_>,
    target: &Target<'_>,
    log: Log,
    tx: &mut Tx,
    gathered: &mut Gathered,
    args: &Json,
    mut chance: Chance,
    depth: u32,
) -> Result<Answered, StoreError> {
    let checked = {
        let tx = RefCell::new(&mut *tx);
        let is_id = |table: &str, id: &str| tx.borrow_mut().is_id(&target.component, table, id);
        facts.validators.check_arguments(target, args, &is_id)
    };
    if let Err(message) = checked {
        return Ok(Answered::failed(message));
    }
    let text = serde_json::to_string(&[args]).expect("a value has no keys but texts");
    let request_id = facts.request.map_or("", |request| request.request_id().as_str());
    let call = facts.program.call(&target.component, target.function, &text, request_id);
    let time = facts.limits.time.saturating_sub(gathered.js_time);
    let limits = Limits { time, ..facts.limits };
    let engine_seed = Seed { random: chance.next_seed(), now_ms: facts.now_ms as f64 };
    let before = gathered.js_time;
    let mut host = InTransaction {
        facts,
        target,
        log,
        tx: &mut *tx,
        gathered: &mut *gathered,
        chance,
        depth,
        streams: BTreeSet::new(),
        has_paginated: false,
    };
    let ran =
        facts.pulse.in_engine(|| functions_engine::run(&call, &engine_seed, &limits, &mut host));
    for stream in std::mem::take(&mut host.streams) {
        host.tx.query_close(stream);
    }
    let nested = gathered.js_time.saturating_sub(before);
    gathered.js_time = before + nested + ran.js_time;
    let mut lines = ran.log_lines;
    lines.append(&mut gathered.log_lines);
    gathered.log_lines = lines;
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
            let checked = facts.validators.check_returned(target, &value, &is_id);
            checked.map(|()| value.into()).map_err(|message| Failed { message, data: None })
        }
        Err(Failure { message, data, kind }) => {
            gathered.by_chance |= kind != FailureKind::Thrown;
            Err(Failed { message, data })
        }
    };
    Ok(Answered { result, log_lines: Vec::new() })
}

fn failed(message: impl Into<String>) -> SyscallError {
    SyscallError { message: message.into(), data: None }
}

fn given_up() -> SyscallError {
    failed("the function was given up")
}

/// Operations that are not supported, and their names.
fn left_out(op: &str) -> Option<&'static str> {
    Some(match op {
        "1.0/storageGetUrl"
        | "1.0/storageGetMetadata"
        | "1.0/storageGenerateUploadUrl"
        | "1.0/storageDelete"
        | "1.0/storageGet"
        | "1.0/storageStore" => "file storage",
        "1.0/actions/vectorSearch" => "vector search",
        "1.0/signJwt" => "signing tokens",
        "1.0/createServiceToken" | "1.0/getServiceUrl" => "services",
        _ => return None,
    })
}

/// The error for an operation that does not exist in this kind of function.
pub(super) fn unknown(op: &str, kind: FunctionKind) -> SyscallError {
    match left_out(op) {
        Some(what) => failed(format!("{what} is not supported by this host ({op})")),
        None => failed(format!("Unknown async operation {op} in a {kind}")),
    }
}

/// The arguments of an audit log: its body as it was written, and what else the client library
/// sends.
#[derive(Deserialize)]
struct AuditArgs<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

/// The text of the body in the arguments of `1.0/auditLog`, as it was written.
///
/// # Errors
///
/// When there is none.
pub fn audit_body(args: &str) -> Result<&str, SyscallError> {
    let AuditArgs { body } =
        serde_json::from_str(args).map_err(|error| failed(format!("no audit log: {error}")))?;
    Ok(body.get())
}

fn parse(args: &str) -> Result<Json, SyscallError> {
    serde_json::from_str(args).map_err(|error| failed(format!("not JSON: {error}")))
}

fn text<'a>(args: &'a Json, name: &str) -> Result<&'a str, SyscallError> {
    args.get(name).and_then(Json::as_str).ok_or_else(|| failed(format!("{name} must be a string")))
}

fn table(args: &Json) -> Option<&str> {
    args.get("table").and_then(Json::as_str)
}

fn value(args: &mut Json, name: &str) -> Result<Value, SyscallError> {
    let json = args.get_mut(name).ok_or_else(|| failed(format!("{name} is missing")))?;
    Value::from_json(json.take()).map_err(|error| failed(error.to_string()))
}

impl InTransaction<'_> {
    /// Turns an error of the store into one for the function. If the store itself failed, the
    /// function fails with it, whatever it catches.
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
        let args = parse(args)?;
        match op {
            "1.0/queryStream" => {
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
                let normal = self.tx.normalize_id(&self.target.component, table, id);
                Ok(json!({ "id": self.stored(normal)? }))
            }
            "1.0/getSnapshotTs" => {
                Ok(Value::Int64(self.tx.snapshot().ts().cast_signed()).to_json())
            }
            _ => Err(unknown(op, self.log.kind())),
        }
    }

    fn stream(&self, args: &Json) -> Option<u32> {
        let stream =
            args.get("queryId").and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok())?;
        // A function sees its own streams and not those of its caller.
        self.streams.contains(&stream).then_some(stream)
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
                None => Err(given_up()),
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
                self.gathered.asked_identity = true;
                Ok(self.facts.identity.map_or(Json::Null, |identity| identity.claims().clone()))
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

    fn do_in_mutation(&mut self, op: &str, args: &mut Json) -> Result<Json, SyscallError> {
        let component = &self.target.component;
        match op {
            "1.0/insert" => {
                let value = value(args, "value")?;
                let inserted = self.tx.insert(component, text(args, "table")?, value);
                Ok(json!({ "_id": self.stored(inserted)? }))
            }
            "1.0/shallowMerge" => {
                let patch = args.get_mut("value").map_or(Json::Null, Json::take);
                let patch = patch_from_json(patch).map_err(|error| failed(error.to_string()))?;
                let done = self.tx.patch(component, table(args), text(args, "id")?, patch);
                self.stored(done).map(|()| Json::Null)
            }
            "1.0/replace" => {
                let value = value(args, "value")?;
                let done = self.tx.replace(component, table(args), text(args, "id")?, value);
                self.stored(done).map(|()| Json::Null)
            }
            "1.0/remove" => {
                let done = self.tx.remove(component, table(args), text(args, "id")?);
                self.stored(done).map(|_removed| Json::Null)
            }
            "1.0/schedule" => self.schedule(args),
            "1.0/cancel_job" => {
                let done = jobs::cancel(self.tx, component, text(args, "id")?, self.facts.now_ms);
                self.stored(done).map(|()| Json::Null)
            }
            "1.0/getRequestMetadata" => {
                Ok(request_metadata(self.facts.request, self.facts.scheduled, self.facts.identity))
            }
            _ => Err(unknown(op, FunctionKind::Mutation)),
        }
    }

    fn get(&mut self, args: &Json) -> Result<Json, SyscallError> {
        let (component, table, id) = (&self.target.component, table(args), text(args, "id")?);
        let found = match args.get("isSystem").and_then(Json::as_bool) {
            Some(true) => self.tx.as_system(|tx| tx.get(component, table, id)),
            Some(false) | None => self.tx.get(component, table, id),
        };
        Ok(self.stored(found)?.map_or(Json::Null, |document| document.to_json()))
    }

    fn next(&mut self, args: &Json) -> Result<Json, SyscallError> {
        let stream = self.stream(args).ok_or_else(|| failed("the query is closed"))?;
        let next = self.tx.query_next(stream);
        let next = self.stored(next)?;
        let done = next.is_none();
        Ok(json!({ "value": next.map_or(Json::Null, |document| document.to_json()), "done": done }))
    }

    fn page(&mut self, args: &Json) -> Result<Json, SyscallError> {
        if !self.target.component.is_root() {
            return Err(failed(
                "paginate() is not supported in a component: pages could not end where they ended \
                 before; read an index range with take(), or paginate with convex-helpers",
            ));
        }
        // The journal is that of one page.
        if std::mem::replace(&mut self.has_paginated, true) {
            return Err(failed(
                "a function can call paginate() once: its pages are followed by one cursor",
            ));
        }
        let number = |name: &str| match args.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(number) => match number.as_f64() {
                Some(number) if number >= 1.0 && number.fract() == 0.0 => Ok(Some(number as u64)),
                _ => Err(failed(format!("{name} must be a whole number from 1, but got {number}"))),
            },
        };
        let cursor = |name: &str| args.get(name).and_then(Json::as_str);
        // The pages of a reactive query end where they ended before, so that they neither overlap
        // nor leave a gap.
        let journal = if self.depth == 0 { self.gathered.journal.take() } else { None };
        let request = PageRequest {
            function: &self.target.function.name,
            query: args.get("query").unwrap_or(&Json::Null),
            cursor: cursor("cursor"),
            end_cursor: cursor("endCursor"),
            journal: journal.as_deref(),
            page_size: number("pageSize")?.ok_or_else(|| failed("pageSize must be a number"))?,
            maximum_rows_read: number("maximumRowsRead")?,
            maximum_bytes_read: number("maximumBytesRead")?,
        };
        let page = self.tx.page(&self.target.component, &request);
        let Page { page, is_done, continue_cursor, journal, split_cursor, page_status } =
            self.stored(page)?;
        if self.depth == 0 && self.gathered.ended.is_none() {
            self.gathered.ended = Some(journal);
        }
        Ok(json!({
            "page": page.iter().map(Value::to_json).collect::<Vec<_>>(),
            "isDone": is_done,
            "continueCursor": continue_cursor,
            "splitCursor": split_cursor,
            "pageStatus": page_status.map(PageStatus::as_str),
        }))
    }

    fn schedule(&mut self, args: &Json) -> Result<Json, SyscallError> {
        let target = for_later(self.facts.program, &self.target.component, args).map_err(failed)?;
        let job = Job::from_json(target, args, self.facts.now_ms).map_err(failed)?;
        self.gathered.scheduled += 1;
        self.gathered.scheduled_bytes += job.args_bytes();
        let Gathered { scheduled, scheduled_bytes, .. } = *self.gathered;
        if scheduled > MAX_SCHEDULED {
            return Err(failed(format!(
                "one mutation schedules {scheduled} functions, more than {MAX_SCHEDULED}"
            )));
        }
        if scheduled_bytes > MAX_SCHEDULED_BYTES {
            return Err(failed(format!(
                "one mutation schedules functions with {scheduled_bytes} bytes of arguments, more than {MAX_SCHEDULED_BYTES}"
            )));
        }
        let id = jobs::schedule(self.tx, &self.target.component, &job);
        Ok(json!(self.stored(id)?))
    }

    /// Calls a query or mutation. A mutation is a nested transaction: if it fails, its writes are
    /// undone and its logs stay.
    fn run_function(&mut self, args: &Json) -> Result<String, SyscallError> {
        let kind = match text(args, "udfType")? {
            "query" | "snapshotQuery" => FunctionKind::Query,
            "mutation" => FunctionKind::Mutation,
            other => return Err(failed(format!("a {other} cannot be called here"))),
        };
        let target = resolve(self.facts.program, &self.target.component, args).map_err(failed)?;
        target.expect(kind).map_err(failed)?;
        if self.depth + 1 > MAX_DEPTH {
            return Err(failed(format!("functions call functions more than {MAX_DEPTH} deep")));
        }
        let log = self.log.nested(kind, target.full_name()).map_err(failed)?;
        let chance = Chance::new(self.chance.next_seed());
        let args = args.get("args").unwrap_or(&Json::Null);
        self.tx.begin_nested();
        let answered =
            run_at(self.facts, &target, log, self.tx, self.gathered, args, chance, self.depth + 1);
        let result = self.stored(answered).map(|answered| answered.result);
        match result {
            Ok(Ok(value)) => {
                self.tx.commit_nested();
                Ok(value.to_string())
            }
            Ok(Err(Failed { message, data })) => {
                self.tx.rollback_nested();
                Err(SyscallError { message, data })
            }
            Err(error) => {
                self.tx.rollback_nested();
                Err(error)
            }
        }
    }

    fn metrics(&self) -> Json {
        let TxMetrics {
            bytes_read,
            documents_read,
            bytes_written,
            documents_written,
            database_queries,
        } = self.tx.metrics();
        let used = |used: u64, max: u64| json!({ "used": used as f64, "remaining": max.saturating_sub(used) as f64 });
        json!({
            "bytesRead": used(bytes_read, MAX_BYTES_READ),
            "documentsRead": used(documents_read, MAX_DOCUMENTS_READ),
            "bytesWritten": used(bytes_written, MAX_BYTES_WRITTEN),
            "documentsWritten": used(documents_written, MAX_DOCUMENTS_WRITTEN),
            "databaseQueries": used(database_queries, MAX_DATABASE_QUERIES),
            "functionsScheduled": used(self.gathered.scheduled, MAX_SCHEDULED),
            "scheduledFunctionArgsBytes": used(self.gathered.scheduled_bytes, MAX_SCHEDULED_BYTES),
            "filesWritten": used(0, 0),
            "fileWriteBytes": used(0, 0),
            "filesRead": used(0, 0),
            "fileReadBytes": used(0, 0),
        })
    }
}

/// Operations that queries may not use, and why.
fn not_in_query(op: &str) -> SyscallError {
    match op {
        "1.0/insert" | "1.0/shallowMerge" | "1.0/replace" | "1.0/remove" | "1.0/schedule"
        | "1.0/cancel_job" => failed("a query cannot write: only mutations can"),
        "1.0/getRequestMetadata" => failed(
            "a query cannot read the request's metadata, since its result is cached: use log.vars in audit logs",
        ),
        _ => unknown(op, FunctionKind::Query),
    }
}

pub(super) fn function_metadata(target: &Target<'_>) -> Json {
    json!({ "name": target.function.name, "componentPath": target.component.to_string() })
}

pub(super) fn request_metadata(
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
    /// Runs one operation. A panic in it is kept, and resumed once the engine has ended.
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
    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError> {
        self.guarded(|this| Ok(this.do_sync(op, args)?.to_string()))
    }

    fn refuse_audit(&mut self, reason: &str) -> SyscallError {
        self.log.refuse(reason).map_or_else(given_up, |error| failed(error.to_string()))
    }

    fn async_syscall(&mut self, op: &str, args: &str, _later: Later) -> Answer {
        Answer::Now(self.guarded(|this| this.do_async(op, args)))
    }
}
