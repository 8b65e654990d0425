//! While the bucket is unreachable, nothing unlogged is shown or commits.

use s3_testserver::S3TestServer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Records, Service, change, check_numbers, new_id, records_in};

/// The environment for writing to this server.
pub(crate) fn environment<'a>(
    store: &'a S3TestServer,
    endpoint: &'a str,
) -> [(&'a str, &'a str); 5] {
    [
        ("AWS_ACCESS_KEY_ID", store.access_key()),
        ("AWS_SECRET_ACCESS_KEY", store.secret_key()),
        ("AWS_ENDPOINT", endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ALLOW_HTTP", "true"),
    ]
}

pub(crate) fn records_on(store: &S3TestServer) -> Records {
    let name = |key: &str| key.rsplit('/').next().unwrap().to_owned();
    let objects = store.objects().into_iter();
    let records = records_in(objects.map(|(key, object)| (name(&key), object.bytes.to_vec())));
    check_numbers(&records);
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_bridges_an_unreachable_bucket() {
    let directory = TempDir::new().unwrap();
    let store = S3TestServer::start().await;
    let (bucket, endpoint) = (format!("s3://{}/logs", store.bucket()), store.endpoint());
    let flags = ["--bucket", &bucket, "--cut-after-ms", "10"];
    let service = Service::start_with_journal(&directory, &flags, &environment(&store, &endpoint));
    let id = new_id("plan");

    store.pause().await;
    for revision in 1..=5 {
        let (status, document) = service.update(&id, change("x"), &[]).await;
        assert_eq!((status, &document["revision"]), (200, &revision.into()));
    }
    is_ready_and_tells_the_trouble(&service).await;
    store.resume().await;
    service.stop();
    let records = records_on(&store);
    let revisions: Vec<_> = records.values().map(|log| log["to"].as_i64().unwrap()).collect();
    assert_eq!(revisions, [1, 2, 3, 4, 5]);
}

/// Calls succeed, so the service is ready; operators hear of the delivery's trouble.
async fn is_ready_and_tells_the_trouble(service: &Service) {
    let public = (200, r#"{"message":"ok"}"#.to_owned());
    let trouble = loop {
        let [client, (status, body)] = service.probes("/healthz").await;
        assert_eq!(client, public, "clients hear no more");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["message"]), (200, &json!("ok")), "{body}");
        if body["delivery"] != "ok" {
            break body["delivery"].as_str().unwrap().to_owned();
        }
    };
    assert!(trouble.starts_with("retrying: "), "{trouble}");
    for path in ["/livez", "/readyz"] {
        let [client, (operator, _)] = service.probes(path).await;
        assert_eq!((client, operator), (public.clone(), 200), "{path}");
    }
    let [client, (status, verbose)] = service.probes("/healthz?verbose").await;
    let verbose: Value = serde_json::from_str(&verbose).unwrap();
    let sink = &verbose["sink"];
    assert_eq!((client, status, &sink["commits"]), (public, 200, &json!("accepted")), "{verbose}");
    assert_eq!(sink["delivery"], "retrying", "{verbose}");
    assert!(sink["lastError"].is_string() && sink["oldestUndeliveredMs"].is_u64(), "{verbose}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_bucket_blocks_all_effects() {
    let directory = TempDir::new().unwrap();
    let store = S3TestServer::start().await;
    let (bucket, endpoint) = (format!("s3://{}/logs", store.bucket()), store.endpoint());
    let environment = environment(&store, &endpoint);
    let flags = ["--bucket", &bucket, "--linger-ms", "0", "--persist-timeout-ms", "400"];
    let service = Service::start(&directory, &flags, &environment);
    let id = new_id("plan");
    assert_eq!(service.update(&id, change("one"), &[]).await.0, 200);
    assert_eq!(service.view(&id, &[]).await.0, 200);

    store.pause().await;
    for text in ["two", "three"] {
        let (status, answer) = service.update(&id, change(text), &[]).await;
        assert_eq!(status, 503, "{answer}");
        assert_eq!(answer["message"], "the audit logs of the function could not be made durable");
    }
    // Cached results are not released either.
    assert_eq!(service.view(&id, &[]).await.0, 503);
    assert_eq!(service.healthz().await, 503);

    store.resume().await;
    let (status, document) = loop {
        // Until the connection recovers, responses report that nothing was done.
        let (status, answer) = service.update(&id, change("four"), &[]).await;
        if status != 503 {
            break (status, answer);
        }
    };
    assert_eq!(
        (status, &document["revision"]),
        (200, &json!(2)),
        "nothing had committed in between"
    );
    assert_eq!(service.view(&id, &[]).await.1["text"], "four");

    // Pending logs arrive before the process ends.
    service.stop();
    // Each record once, including those of functions that failed with an indeterminate outcome.
    let records = records_on(&store);
    let request_ids: Vec<_> =
        records.values().map(|log| log["client"]["requestId"].to_string()).collect();
    let mut once = request_ids.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), request_ids.len(), "no request is logged twice");
    let changes: Vec<_> =
        records.values().filter(|log| log["action"] == "documents.update").collect();
    assert!(changes.len() >= 3, "one before, one after, and the indeterminate ones: {changes:?}");
}
