//! A receiver gets batches within its limits, signed, each with an id that is equal at every retry.

use audit_core::{AuditSink, Durability};
use audit_sink_http::{Format, HttpSink, Settings};

use crate::receiver::{Fault, Receiver, batch};

/// A secret of 24 bytes in the format of Standard Webhooks, in a file.
fn secret(directory: &tempfile::TempDir) -> audit_sink_http::SecretSource {
    let path = directory.path().join("secret");
    std::fs::write(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    format!("file:{}", path.display()).parse().unwrap()
}

#[tokio::test]
async fn a_retried_request_has_the_same_id_and_body() {
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    let secrets = vec![secret(&directory)];
    let settings = Settings { secrets, ..receiver.settings(Format::Webhook) };
    let sink = HttpSink::open(settings).await.unwrap();
    receiver.script([Fault::Answer(500, "\r\n"), Fault::Lost]);
    let receipt = sink.persist(batch(77, &[r#"{"a":1.50}"#, "{}"])).await.unwrap();
    assert_eq!(receipt.durability, Durability::Delivered);
    let place = receipt.place.unwrap();
    assert_eq!((place.stream, place.first_sequence, place.count), (sink.stream(), 0, 2));

    let requests = receiver.requests();
    assert_eq!(requests.len(), 3);
    let id = format!("{}-000000000000-000000000001", sink.stream());
    for request in &requests {
        assert_eq!(request.header("webhook-id"), id);
        assert_eq!(request.body, requests[0].body);
        assert!(request.header("webhook-timestamp").parse::<i64>().unwrap() > 1_700_000_000);
        assert!(request.header("webhook-signature").starts_with("v1,"));
        assert!(request.header("x-webhook-signature").starts_with("sha256="));
        assert_eq!(request.header("content-type"), "application/json");
    }
    assert_eq!(
        receiver.told(),
        [(0, 77, r#"{"a":1.50}"#.to_owned(), 2), (1, 77, "{}".to_owned(), 2)]
    );
    let health = sink.health();
    assert_eq!((health.records_delivered, health.retries), (2, 2));
    sink.close().await.unwrap();
}

#[tokio::test]
async fn large_batches_are_divided_and_numbered_through() {
    let receiver = Receiver::start().await;
    let sink = HttpSink::open(receiver.settings(Format::Webhook)).await.unwrap();
    let lines: Vec<String> = (0..300).map(|n| format!("{{\"n\":{n}}}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    sink.persist(batch(1, &lines)).await.unwrap();
    let stream = sink.stream();
    let ids: Vec<_> =
        receiver.requests().iter().map(|r| r.header("webhook-id").to_owned()).collect();
    assert_eq!(
        ids,
        [
            format!("{stream}-000000000000-000000000127"),
            format!("{stream}-000000000128-000000000255"),
            format!("{stream}-000000000256-000000000299"),
        ]
    );
    let stored: Vec<_> = receiver.told().into_iter().map(|(_, _, line, _)| line).collect();
    assert_eq!(stored, lines);
    sink.close().await.unwrap();
}

#[tokio::test]
async fn tokens_go_where_the_receiver_expects_them() {
    let directory = tempfile::tempdir().unwrap();
    let token = Some(secret(&directory));
    let text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for (format, header, expected) in [
        (Format::Splunk, "authorization", format!("Splunk {text}")),
        (Format::Datadog, "dd-api-key", text.to_owned()),
        (Format::Axiom, "authorization", format!("Bearer {text}")),
        (Format::Otlp, "authorization", format!("Bearer {text}")),
        (Format::CloudEvents, "authorization", format!("Bearer {text}")),
    ] {
        let receiver = Receiver::start().await;
        // The receiver responds before it parses the body.
        receiver.script([Fault::Answer(200, "\r\n")]);
        let settings = Settings { token: token.clone(), ..receiver.settings(format) };
        let sink = HttpSink::open(settings).await.unwrap();
        sink.persist(batch(1, &["{}"])).await.unwrap();
        let requests = receiver.requests();
        assert_eq!(requests[0].header(header), expected);
        let shown = format!("{sink} {sink:?} {:?}", sink.health());
        assert!(!shown.contains(text) && !shown.contains("hunter2"), "{shown}");
        sink.close().await.unwrap();
    }
}
