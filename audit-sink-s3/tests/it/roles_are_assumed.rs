//! Roles in the account of the bucket's owner. Errors say whether STS or the bucket refused.

use crate::support::{batch, check, journal, read_server, until};
use audit_core::{AuditSink, HealthState};
use audit_sink_s3::{Bucket, OpenError, OpenErrorKind, S3Sink, Settings, rescue};
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

const ARN: &str = "arn:aws:iam::123456789012:role/audit";

fn settings() -> Settings {
    Settings {
        linger_ms: 0,
        persist_timeout_ms: 30_000,
        retry_base_ms: 1,
        retry_cap_ms: 8,
        blocked_retry_cap_ms: 8,
        ..Settings::default()
    }
}

/// On the server's bucket, with its keys, and these settings in the URL's query.
async fn open(server: &S3TestServer, query: &str) -> Result<S3Sink, OpenError> {
    open_at(server, &server.endpoint(), query).await
}

async fn open_at(server: &S3TestServer, sts: &str, query: &str) -> Result<S3Sink, OpenError> {
    let options = [
        ("aws_endpoint", server.endpoint()),
        ("aws_endpoint_url_sts", sts.to_owned()),
        ("aws_allow_http", "true".to_owned()),
        ("aws_access_key_id", server.access_key().to_owned()),
        ("aws_secret_access_key", server.secret_key().to_owned()),
    ];
    let bucket = Bucket::open_with(&format!("s3://{}/logs?{query}", server.bucket()), options)?;
    assert_eq!(bucket.to_string(), format!("s3://{}/logs", server.bucket()));
    S3Sink::builder(bucket).with_settings(settings()).open().await
}

fn with_role(rest: &str) -> String {
    format!("assume_role_arn={ARN}{rest}")
}

#[tokio::test]
async fn logs_arrive_by_a_role_with_an_external_id() {
    let server = S3TestServer::start().await;
    server.set_role(ARN, Some("customer-7"));
    let query = "&assume_role_external_id=customer-7&assume_role_session_name=happy-animal-123";
    let sink = open(&server, &with_role(query)).await.unwrap();
    for n in 0..3 {
        sink.persist(batch("role", 1 + n)).await.unwrap();
    }
    sink.close().await.unwrap();
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 6);
    let sessions = server.sessions();
    assert_eq!(sessions.len(), 1, "one for all requests");
    assert_eq!((&*sessions[0].role, &*sessions[0].name), (ARN, "happy-animal-123"));
    assert_eq!(sessions[0].external_id.as_deref(), Some("customer-7"));
}

/// The log of a bucket's owner shows which of the host's customers it is for the host.
#[tokio::test]
async fn sessions_of_a_route_are_named_for_it() {
    let server = S3TestServer::start().await;
    server.set_role(ARN, None);
    let directory = tempfile::tempdir().unwrap();
    let journal = Some(journal(directory.path().join("journal"), 0));
    let settings = Settings { journal, ..settings() };
    let own = Bucket::open(&format!("file://{}/own", directory.path().display())).unwrap();
    let sink = S3Sink::builder(own).with_settings(settings.clone()).open().await.unwrap();
    let open = |prefix: &str, query: &str| {
        let options = [
            ("aws_endpoint", server.endpoint()),
            ("aws_endpoint_url_sts", server.endpoint()),
            ("aws_allow_http", "true".to_owned()),
            ("aws_access_key_id", server.access_key().to_owned()),
            ("aws_secret_access_key", server.secret_key().to_owned()),
        ];
        let url = format!("s3://{}/{prefix}?{}", server.bucket(), with_role(query));
        Bucket::open_with(&url, options).unwrap()
    };
    let long = ["y", "z"].map(|end| "x".repeat(63) + end);
    for name in ["acme", &long[0], &long[1]] {
        let route = sink.open_route(name, open(name, "")).await.unwrap();
        route.persist(batch(name, 1)).await.unwrap();
        route.flush().await.unwrap();
    }
    let named = open("globex", "&assume_role_session_name=happy-animal-123");
    sink.open_route("globex", named).await.unwrap();
    rescue::route("initech", open("initech", ""), &settings).await.unwrap();
    let checked = open("umbrella", "").for_route("umbrella");
    checked.probe(&settings).await.unwrap();
    let names: Vec<_> = server.sessions().iter().map(|session| session.name.clone()).collect();
    assert_eq!(names.len(), 6, "one for each bucket: {names:?}");
    assert_eq!((&*names[0], &*names[3]), ("audit-acme", "happy-animal-123"));
    assert_eq!((&*names[4], &*names[5]), ("audit-initech", "audit-umbrella"));
    assert_ne!(names[1], names[2]);
    for name in &names[1..3] {
        assert!(name.starts_with("audit-xxx") && name.len() == 64, "{name}");
    }
    sink.close().await.unwrap();
}

#[tokio::test]
async fn a_refused_role_is_named_and_the_bucket_is_not() {
    let server = S3TestServer::start().await;
    server.set_role(ARN, Some("SECRET-ID"));
    for (query, says, advises) in [
        (
            String::new(),
            "without an external id: status 403 AccessDenied",
            "set AWS_ASSUME_ROLE_EXTERNAL_ID: none was given",
        ),
        (
            "&assume_role_external_id=WRONG-ID".to_owned(),
            "with an external id: status 403 AccessDenied",
            "correct AWS_ASSUME_ROLE_ARN or AWS_ASSUME_ROLE_EXTERNAL_ID",
        ),
    ] {
        let error = open(&server, &with_role(&query)).await.unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Blocked, "{error}");
        let error = error.to_string();
        assert!(error.contains(&format!("STS, asked for the role {ARN} {says}")), "{error}");
        assert!(error.contains(advises), "{error}");
        for word in ["bucket", server.bucket(), "-ID", server.secret_key()] {
            assert!(!error.contains(word), "{word}: {error}");
        }
    }
    assert!(server.objects().is_empty() && server.sessions().is_empty());

    // The host's own credentials are wrong, not the role.
    let fault = Fault::Refused(ErrorAnswer::new(403, "InvalidClientTokenId"));
    server.faults().plan(move |request| if request.is_sts { fault } else { Fault::None });
    let error = open(&server, &with_role("")).await.unwrap_err().to_string();
    assert!(error.contains("status 403 InvalidClientTokenId"), "{error}");
    assert!(error.contains("(correct the settings of that request: AWS_ACCESS_KEY_ID"), "{error}");

    // The bucket refuses what the role may not.
    server.faults().none();
    let denied = Fault::Refused(ErrorAnswer::ACCESS_DENIED);
    server.faults().plan(move |request| if request.is_sts { Fault::None } else { denied });
    let query = with_role("&assume_role_external_id=SECRET-ID");
    let error = open(&server, &query).await.unwrap_err().to_string();
    assert!(error.contains("bucket: status 403 AccessDenied"), "{error}");
    assert!(error.contains("s3:PutObject") && !error.contains("STS"), "{error}");
}

/// Checks the sink's state while STS answers like this, and that it recovers by itself.
async fn while_sts_fails(fault: Fault, expected: fn(&HealthState) -> bool) {
    let server = S3TestServer::start().await;
    server.set_role(ARN, None);
    let sink = open(&server, &with_role("")).await.unwrap();
    server.faults().plan(move |request| if request.is_sts { fault } else { Fault::None });
    // The session has expired, and STS gives no other.
    server.expire_sessions();
    let persisted = sink.persist(batch("outage", 2));
    let seen = async {
        let is_of_sts = |state: &HealthState| match state {
            HealthState::Retrying { reason } | HealthState::Blocked { reason } => {
                reason.contains(&format!("STS, asked for the role {ARN}"))
                    && !reason.contains("bucket")
            }
            _ => false,
        };
        until(|| {
            let state = sink.health().state;
            is_of_sts(&state) && expected(&state)
        })
        .await;
        server.faults().none();
    };
    futures::join!(persisted, seen).0.unwrap();
    assert_eq!(sink.health().state, HealthState::Ok);
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 2);
    assert!(server.sessions().len() > 1);
}

#[tokio::test]
async fn sts_that_fails_is_retried_and_one_that_refuses_blocks() {
    let retries = |state: &HealthState| matches!(state, HealthState::Retrying { .. });
    let blocks = |state: &HealthState| matches!(state, HealthState::Blocked { .. });
    let refused = |status, code| Fault::Refused(ErrorAnswer::new(status, code));
    futures::join!(
        while_sts_fails(refused(503, "ServiceUnavailable"), retries),
        while_sts_fails(refused(400, "Throttling"), retries),
        while_sts_fails(Fault::StoredThenCut, retries),
        while_sts_fails(refused(403, "AccessDenied"), blocks),
        while_sts_fails(refused(400, "ValidationError"), blocks),
    );
}

#[tokio::test]
async fn sts_out_of_reach_holds_nothing_up() {
    let server = S3TestServer::start().await;
    server.set_role(ARN, None);
    let sts = S3TestServer::start().await;
    sts.pause().await;
    let sink = open_at(&server, &sts.endpoint(), &with_role("")).await.unwrap();
    let persisting = sink.persist(batch("away", 1));
    let seen = until(|| {
        let HealthState::Retrying { reason } = sink.health().state else { return false };
        reason.contains("STS, asked for the role") && reason.contains("no connection to 127.0.0.1:")
    });
    tokio::select! {
        persisted = persisting => panic!("{persisted:?}"),
        () = seen => {}
    }
}

#[tokio::test]
async fn an_expired_session_is_replaced() {
    let server = S3TestServer::start().await;
    server.set_role(ARN, None);
    let sink = open(&server, &with_role("")).await.unwrap();
    for n in 1..4 {
        server.expire_sessions();
        sink.persist(batch("expired", 1)).await.unwrap();
        assert_eq!(server.sessions().len(), n + 1);
    }
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 3);
}
