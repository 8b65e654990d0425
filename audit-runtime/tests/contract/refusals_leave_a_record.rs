//! C8, C15: a function whose first log is refused leaves a record, and its client learns the limit
//! but never the actual size. C12: without a bucket nothing is emitted.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};

use audit_runtime::{
    AuditError, AuditLog, AuditRuntime, Audits, BodyError, Execution, HostValue, Limits, Mutation,
    MutationError, Query, ReleaseError, RetryPolicy, Usage, Vars, body,
};
use audit_sink_null::NullSink;
use serde_json::{Value, json};

use crate::database::DbError;
use crate::host::*;

type Refuse = fn(&AuditLog<'_, Query>) -> AuditError;

const REFUSALS: [(Refuse, &str); 4] = [
    (|log| too_large(log), "audit log exceeds limit of 2000 bytes"),
    (|log| too_many_bytes(log), "audit logs in one execution exceed limit of 2000 bytes"),
    (|log| log.audit(&[1]).unwrap_err(), "an audit log body must be a JSON object"),
    (|log| log.refuse("a BigInt is not JSON at /n"), "a BigInt is not JSON at /n"),
];

fn too_large<K: Audits>(log: &AuditLog<'_, K>) -> AuditError {
    log.audit(&body!({ "secret": "x".repeat(12_345) })).unwrap_err()
}

/// Exceeds the total with logs within the single limit; the second is refused at the latest.
fn too_many_bytes<K: Audits>(log: &AuditLog<'_, K>) -> AuditError {
    let large = body!({ "secret": "x".repeat(1_800) });
    log.audit(&large).unwrap();
    log.audit(&large).unwrap_err()
}

fn host(provenance: bool) -> Host {
    Host::with(|settings| {
        let limits = Limits::new(500, 2_000, 2_000).unwrap();
        let retry_policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
        let settings = settings.with_limits(limits).with_retry_policy(retry_policy);
        settings.with_provenance(provenance)
    })
}

#[tokio::test]
async fn each_release_of_a_refused_query_leaves_one() {
    for (refuse, reason) in REFUSALS {
        for nested in [false, true] {
            let host = host(false);
            let query = host.runtime.query("documents:view");
            let log = query.log();
            refuse(&if nested { log.nested_query("inner") } else { log });
            let result = query.seal("secret");
            assert!(host.sink.lines().is_empty());
            assert_eq!(result.release(&alice()).await.unwrap_err().to_string(), reason);
            host.clock.advance(5);
            result.release_all(&[alice(), bob()]).await.unwrap_err();
            if reason.starts_with("audit logs") {
                assert!(host.members("$audit").iter().all(Value::is_null), "it emitted something");
                continue;
            }
            let function = if nested { "inner" } else { "documents:view" };
            let record = |at| {
                format!(
                    r#"{{"$audit":{{"event":"refused","function":"{function}","kind":"query","reason":"{reason}","at":{at}}}}}"#
                )
            };
            assert_eq!(host.sink.lines(), [RAN_AT, RAN_AT + 5, RAN_AT + 5].map(record));
            assert_eq!(host.runtime.usage(), Usage::default(), "the record is not metered");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_refused_attempt_leaves_one_first() {
    let host = host(true);
    let attempt = async |execution: Execution<Mutation>| {
        let tx = host.database.begin();
        too_large(&execution.log());
        Ok(execution.seal_transaction(tx, Ok::<_, DbError>(())))
    };
    for calls in 1..3 {
        let error = host.runtime.run_mutation("m", &alice(), attempt).await.unwrap_err();
        assert!(matches!(error, MutationError::Release(ReleaseError::Limit(_))), "{error:?}");
        assert_eq!(host.sink.lines().len(), calls);
    }
    // A conflict in the first attempt, a refusal in the second.
    let attempt = async |execution: Execution<Mutation>| {
        let tx = host.database.begin();
        if host.database.attempts() > 3 {
            too_large(&execution.log());
        }
        Ok(execution.seal_transaction(tx, Err::<(), _>(DbError::Conflict)))
    };
    host.runtime.run_mutation("m", &alice(), attempt).await.unwrap_err();
    let mut record = host.members("$audit").pop().unwrap();
    assert_eq!(record["execution"].take().as_str().unwrap().len(), 26);
    let expected = json!({
        "event": "refused", "function": "m", "kind": "mutation", "at": RAN_AT,
        "reason": "audit log exceeds limit of 2000 bytes",
        "execution": null, "attempt": 2, "replay": false,
    });
    assert_eq!(record, expected);
}

#[tokio::test(start_paused = true)]
async fn the_response_waits_for_the_record() {
    for fault in FAULTS {
        let host = host(false);
        host.sink.script([fault]);
        let query = host.runtime.query("q");
        too_large(&query.log());
        not_durable(query.seal(()).release(&alice()).await.unwrap_err());
    }
}

/// What is written to the log of the operator.
#[derive(Clone, Default)]
struct OperatorsLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for OperatorsLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OperatorsLog {
    /// The value of a field, in what was written since the last call.
    fn take(&self, field: &str) -> String {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let words: Vec<_> =
            text.split_whitespace().filter_map(|it| it.strip_prefix(field)).collect();
        let [value] = words[..] else { panic!("{field} is once in {text}") };
        value.to_owned()
    }
}

/// From the actual size a client could tell how much data there is that it may not see.
#[tokio::test]
async fn only_the_operators_log_has_the_actual_size() {
    let log = OperatorsLog::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let refusals: [Refuse; 2] = [|log| too_large(log), |log| too_many_bytes(log)];
    for (refuse, least) in refusals.into_iter().zip([12_345_u64, 3_600]) {
        let host = host(true);
        let query = host.runtime.query("documents:view");
        let error = refuse(&query.log());
        let actual = log.take("actual=");
        assert!(actual.parse::<u64>().unwrap() > least, "{actual}");
        let refused = query.seal(()).release(&alice()).await.unwrap_err();
        let mut told = vec![error.to_string(), refused.to_string()];
        let mut source = refused.source();
        while let Some(cause) = source {
            told.push(cause.to_string());
            source = cause.source();
        }
        told.extend(host.sink.lines());
        for text in told {
            assert!(!text.contains(&actual), "{actual} is in {text}");
            // A lower bound of it, such as the size where the count ended, would do as well.
            let numbers = text.split(|it: char| !it.is_ascii_digit());
            let large = numbers
                .filter_map(|it| it.parse::<u64>().ok())
                .find(|it| (2_001..1_000_000).contains(it));
            assert_eq!(large, None, "{text}");
        }
    }
}

#[tokio::test]
async fn without_a_bucket_there_is_no_record() {
    let runtime = AuditRuntime::new(Arc::new(NullSink::new()));
    let query = runtime.query("q");
    query.log().audit(&[1]).unwrap_err();
    query.seal(()).release(&alice()).await.unwrap_err();
    assert_eq!(runtime.usage(), Usage::default());
}

#[tokio::test]
async fn the_record_is_one_bounded_line() {
    let host = host(true);
    let separators = "\u{2028}\u{2029}\u{85}\n\0\"".repeat(1_000);
    let query = host.runtime.query(separators.clone());
    query.log().refuse(separators.clone());
    query.seal(()).release(&alice()).await.unwrap_err();
    let line = host.sink.lines().pop().unwrap();
    assert!(line.len() < 1_400, "{}", line.len());
    assert!(!line.contains(['\u{2028}', '\u{2029}', '\u{85}', '\n', '\0']), "{line}");
    let record: Value = serde_json::from_str(&line).unwrap();
    assert!(separators.starts_with(record["$audit"]["reason"].as_str().unwrap()));
}

/// Everything that a client can be sent about a log that is too large.
#[tokio::test]
async fn errors_hide_the_size_of_refused_logs() {
    let tells = |error: &dyn Error| {
        let mut text = String::new();
        let mut next = Some(error);
        while let Some(error) = next {
            text += &error.to_string();
            next = error.source();
        }
        text.contains("1234") || text.contains("1236") || text.contains("at least")
    };
    for size in [12_345, 1_980] {
        let host = host(false);
        let large = json!({ "secret": "x".repeat(size), "and": "x".repeat(40) });
        let query = host.runtime.query("q");
        let error = query.log().audit(&large).unwrap_err();
        assert!(!tells(&error), "{error}");
        let AuditError::Limit(exceeded) = error else { panic!("{error:?}") };
        assert!(exceeded.actual() > exceeded.max(), "operators see the size");
        let error = query.seal(()).release(&alice()).await.unwrap_err();
        assert!(!tells(&error), "{error}");
        let attempt = async |execution: Execution<Mutation>| {
            let tx = host.database.begin();
            let _caught = execution.log().audit_json(&large.to_string());
            Ok(execution.seal_transaction(tx, Ok::<_, DbError>(())))
        };
        let error = host.runtime.run_mutation("m", &alice(), attempt).await.unwrap_err();
        assert!(!tells(&error), "{error}");
    }
    // The offset of a syntax error reveals the size of the text before it.
    let text = format!(r#"{{"secret":"{}","sent":?}}"#, "x".repeat(1_230));
    let error: BodyError =
        audit_vars::Template::from_json(&Vars::new(), &Limits::default(), &text).unwrap_err();
    assert!(!tells(&error), "{error}");
    assert!(format!("{error:?}").contains("offset: 1250"), "{error:?}");
    let mut vars = Vars::new();
    let var = vars.register("v", 100).unwrap();
    let error = HostValue::new(var, &"x".repeat(1_234)).unwrap_err();
    assert!(!tells(&error), "{error}");
    assert!(format!("{error:?}").contains("at_least: 1234"), "{error:?}");
}
