//! C8: 500 logs, 4,000,000 bytes in all, 1,000,000 bytes for one, by the largest size a log could
//! have. Nested calls count towards the parent; exceeding a limit fails the function whatever it
//! does; what was emitted before is persisted. C12: the same with no bucket configured.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::thread;

use audit_core::testing::ManualClock;
use audit_runtime::{
    AuditError, AuditLog, AuditRuntime, AuditedTransaction, Execution, HostValue, Limit,
    LimitExceeded, Limits, Mutation, MutationError, Query, ReleaseError, UserAgent, Var, Vars,
    body,
};
use audit_sink_null::NullSink;

use crate::database::Step::*;
use crate::database::{DbError, Tx};
use crate::host::*;

/// Logs a body whose largest JSON has this many bytes, with or without an address.
fn log_of(log: &AuditLog<'_, Query>, bytes: usize, with_ip: bool) -> Result<(), AuditError> {
    if with_ip {
        log.audit(
            &body!({ "ip": Var::IP, "pad": "x".repeat(bytes - r#"{"ip":,"pad":""}"#.len() - 41) }),
        )
    } else {
        log.audit(&body!({ "pad": "x".repeat(bytes - r#"{"pad":""}"#.len()) }))
    }
}

fn exceeded(result: Result<(), AuditError>) -> LimitExceeded {
    let Err(AuditError::Limit(exceeded)) = result else { panic!("{result:?}") };
    exceeded
}

#[tokio::test]
async fn five_hundred_logs_are_accepted_and_no_more() {
    let host = Host::new();
    for (logs, fits) in [(500, true), (501, false)] {
        let query = host.runtime.query("q");
        (0..500).for_each(|n| query.log().audit(&body!({ "n": n })).unwrap());
        for _ in 500..logs {
            let error = exceeded(query.log().audit(&body!({})));
            assert_eq!((error.limit(), error.actual(), error.max()), (Limit::Logs, 501, 500));
        }
        assert_eq!(query.seal(()).release(&alice()).await.is_ok(), fits);
    }
    assert_eq!(host.sink.lines().len(), 1_000);
}

#[tokio::test]
async fn one_log_has_at_most_a_million_bytes() {
    for with_ip in [false, true] {
        let host = Host::new();
        let query = host.runtime.query("q");
        log_of(&query.log(), 1_000_000, with_ip).unwrap();
        let error = exceeded(log_of(&query.log(), 1_000_001, with_ip));
        assert_eq!((error.limit(), error.max()), (Limit::LogBytes, 1_000_000));
        assert!(
            matches!(query.seal(()).release(&request("c")).await, Err(ReleaseError::Limit(e)) if e == error)
        );
        // A missing address is `null`: 37 bytes shorter than the longest.
        assert_eq!(host.sink.lines()[0].len(), if with_ip { 999_963 } else { 1_000_000 });
    }
}

#[tokio::test]
async fn all_logs_together_have_at_most_four_million_bytes() {
    for with_ip in [false, true] {
        let host = Host::new();
        let query = host.runtime.query("q");
        (0..3).for_each(|_| log_of(&query.log(), 1_000_000, with_ip).unwrap());
        log_of(&query.log(), 999_000, with_ip).unwrap();
        log_of(&query.log(), 1_000, with_ip).unwrap();
        let error = exceeded(query.log().audit(&body!({})));
        assert_eq!(
            (error.limit(), error.actual(), error.max()),
            (Limit::TotalBytes, 4_000_002, 4_000_000)
        );
        let error = query.seal(()).release(&alice()).await.unwrap_err();
        assert_eq!(error.to_string(), "audit logs in one execution exceed limit of 4000000 bytes");
        assert_eq!(host.sink.lines().len(), 5);
    }
}

/// Small limits: 3 logs, 300 bytes in all, 200 bytes for one.
fn small(settings: audit_runtime::AuditRuntimeBuilder) -> audit_runtime::AuditRuntimeBuilder {
    settings.with_limits(Limits::new(3, 300, 200).unwrap())
}

const OVERFLOWS: [(Limit, &[usize]); 3] = [
    (Limit::Logs, &[20, 20, 20, 20]),
    (Limit::TotalBytes, &[150, 151]),
    (Limit::LogBytes, &[20, 201]),
];

#[tokio::test]
async fn a_query_that_catches_the_error_fails() {
    for (limit, logs) in OVERFLOWS {
        let host = Host::with(small);
        let query = host.runtime.query("q");
        let (last, before) = logs.split_last().unwrap();
        before.iter().for_each(|bytes| log_of(&query.log(), *bytes, false).unwrap());
        let error = exceeded(log_of(&query.log(), *last, false));
        assert_eq!(error.limit(), limit);
        // Small or invalid, further logs fail with the first error.
        assert_eq!(exceeded(query.log().audit(&body!({}))), error);
        assert_eq!(exceeded(query.log().audit_json("not even JSON")), error);
        assert_eq!(exceeded(query.log().nested_query("n").audit(&body!({}))), error);
        let value = Arc::new(());
        let result = query.seal(Arc::clone(&value));
        assert_eq!(Arc::strong_count(&value), 1, "the value was dropped");
        for releases in 1..3 {
            let Err(ReleaseError::Limit(answer)) = result.release(&alice()).await else { panic!() };
            assert_eq!(answer, error);
            assert_eq!(host.sink.lines().len(), before.len() * releases);
        }
        assert!(matches!(result.release_all(&[alice(), bob()]).await, Err(ReleaseError::Limit(_))));
        assert!(matches!(result.release_into(&alice()).await, Err(ReleaseError::Limit(_))));
    }
}

type End = fn(Execution<Mutation>, Tx) -> Result<AuditedTransaction<Tx, ()>, DbError>;

#[tokio::test(start_paused = true)]
async fn a_mutation_that_catches_the_error_fails_unretried() {
    // If the first log is refused, nothing was emitted and one record says so.
    let overflows = OVERFLOWS.into_iter().chain([(Limit::LogBytes, &[201][..])]);
    let records = |logs: &[usize]| (logs.len() - 1).max(1);
    for (limit, logs) in overflows {
        let ends: [(End, _); 3] = [
            (|execution, tx| Ok(execution.seal_transaction(tx, Ok::<_, DbError>(()))), RolledBack),
            (
                |execution, tx| Ok(execution.seal_transaction(tx, Err(DbError::Conflict))),
                RolledBack,
            ),
            (|_execution, _tx| Err(DbError::Conflict), Dropped),
        ];
        for (end, undone) in ends {
            let host = Host::with(small);
            let attempt = async |execution: Execution<Mutation>| {
                let mut tx = host.database.begin();
                tx.add(1);
                for bytes in logs {
                    let _caught = log_of(&execution.log().nested_query("n"), *bytes, false);
                }
                end(execution, tx)
            };
            let error = host.runtime.run_mutation("m", &alice(), attempt).await.unwrap_err();
            let MutationError::Release(ReleaseError::Limit(error)) = error else {
                panic!("{error:?}")
            };
            assert_eq!(error.limit(), limit);
            assert_eq!(host.sink.lines().len(), records(logs));
            assert_eq!(host.database.history(), [(Began, 0), (undone, 0)]);
        }
    }
}

#[tokio::test]
async fn nested_calls_count_towards_the_parent() {
    let host = Host::new();
    let mutation = host.runtime.mutation("m", alice());
    let log = mutation.log();
    for n in 0..100 {
        log.audit(&body!({ "n": n })).unwrap();
        log.nested_query("q").audit(&body!({ "n": n })).unwrap();
        log.nested_query("q").nested_query("r").audit(&body!({ "n": n })).unwrap();
        log.nested_mutation("m").audit(&body!({ "n": n })).unwrap();
        log.nested_mutation("m").nested_query("q").audit(&body!({ "n": n })).unwrap();
    }
    assert_eq!(
        exceeded(log.nested_mutation("m").nested_mutation("m").audit(&body!({}))).limit(),
        Limit::Logs
    );
    assert!(log.audit(&body!({})).is_err(), "a nested call's overflow fails its caller");
    assert!(mutation.seal(()).release(&alice()).await.is_err());
}

#[tokio::test]
async fn concurrent_calls_share_a_limit() {
    let host = Host::new();
    let query = host.runtime.query("q");
    let log = query.log();
    let accepted: usize = thread::scope(|scope| {
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let log = log.nested_query("n");
                scope.spawn(move || {
                    (0..100).filter(|n| log.audit(&body!({ "n": n })).is_ok()).count()
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).sum()
    });
    assert_eq!(accepted, 500);
    assert!(matches!(query.seal(()).release(&alice()).await, Err(ReleaseError::Limit(_))));
    assert_eq!(host.sink.lines().len(), 500);
}

/// Four logs that fill the limits exactly when their variables are at their largest.
#[tokio::test]
async fn replays_never_exceed_a_limit() {
    let mut vars = Vars::new();
    let actor = vars.register("actor", 1_000).unwrap();
    let clock = Arc::new(ManualClock::at(0));
    let host = Host::with(|settings| settings.with_vars(vars).with_clock(Arc::clone(&clock)));
    let query = host.runtime.query("q");
    let variables = [Var::IP, Var::USER_AGENT, Var::REQUEST_ID, Var::NOW, actor];
    let widths = 41 + 1_026 + 130 + 20 + 1_000;
    let pad = "x".repeat(1_000_000 - widths - r#"{"vars":[,,,,],"pad":""}"#.len());
    (0..4).for_each(|_| query.log().audit(&body!({ "vars": variables, "pad": pad })).unwrap());
    let result = query.seal("page");

    assert_eq!(result.release(&host.runtime.new_request()).await.unwrap(), &"page");
    assert!(host.sink.lines().iter().all(|line| line.len() < 1_000_000 - 1_800));

    clock.advance(i64::MIN);
    let worst = request(&"r".repeat(128))
        .with_ip(Ipv6Addr::from_bits(u128::MAX).into())
        .with_user_agent(UserAgent::from("\"".repeat(600).as_str()))
        .with_host_value(HostValue::new(actor, &"a".repeat(998)).unwrap());
    assert_eq!(result.release(&worst).await.unwrap(), &"page");
    assert!(
        host.sink.lines()[4..].iter().all(|line| line.len() == 1_000_000),
        "the bound is tight"
    );
}

#[tokio::test]
async fn without_a_bucket_the_limits_are_the_same() {
    let runtime = AuditRuntime::new(Arc::new(NullSink::new()));
    let query = runtime.query("q");
    (0..500).for_each(|n| query.log().audit(&body!({ "n": n })).unwrap());
    let within = runtime.query("q");
    within.log().audit(&body!({})).unwrap();
    assert_eq!(within.seal("page").release(&alice()).await.unwrap(), &"page");
    assert_eq!(exceeded(query.log().audit(&body!({}))).limit(), Limit::Logs);
    assert!(matches!(query.seal(()).release(&alice()).await, Err(ReleaseError::Limit(_))));
}
