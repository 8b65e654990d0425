//! Each fault: what the client sees, whether the object is stored, and that the fault is on record.

use std::time::Duration;

use http::Method;
use object_store::Error;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};
use tokio::time::Instant;

use crate::client::{builder, client, create, options, put, read_until_closed, retries, send_head};

/// Creates one object through `fault`, and checks whether it was stored and that the next request
/// is served as usual. Returns the error that the client saw.
async fn create_through(fault: Fault, stored: bool) -> Error {
    let server = S3TestServer::start().await;
    let store = client(&server);
    server.faults().next_puts([fault]);
    // Larger than any socket buffer, so that "read" and "unread" body are different things.
    let error =
        create(&store, "a", vec![1; 8 << 20]).await.expect_err("the fault hides any success");
    assert_eq!(server.objects().contains_key("a"), stored, "{fault:?}");
    assert_eq!(server.faults().fired(), [fault]);
    assert_eq!(server.requests().len(), 1);

    let again = create(&store, "a", "again").await;
    assert_eq!(matches!(again, Err(Error::AlreadyExists { .. })), stored, "{fault:?}: {again:?}");
    assert_eq!(server.faults().fired().len(), 1);
    error
}

#[tokio::test]
async fn refused_requests_store_nothing() {
    let generic = [
        ErrorAnswer::SLOW_DOWN,
        ErrorAnswer::SERVICE_UNAVAILABLE,
        ErrorAnswer::INTERNAL_ERROR,
        ErrorAnswer::TOO_MANY_REQUESTS,
        ErrorAnswer::REQUEST_TIMEOUT,
        ErrorAnswer::EXPIRED_TOKEN,
    ];
    for answer in generic {
        let error = create_through(Fault::Refused(answer), false).await.to_string();
        assert!(error.contains(&answer.status().to_string()), "{error}");
        assert!(error.contains(&format!("<Code>{}</Code>", answer.code())), "{error}");
    }
    let forbidden = [
        ErrorAnswer::ACCESS_DENIED,
        ErrorAnswer::EXPIRED_TOKEN_403,
        ErrorAnswer::REQUEST_TIME_TOO_SKEWED,
    ];
    for answer in forbidden {
        let error = create_through(Fault::Refused(answer), false).await;
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        assert!(error.to_string().contains(answer.code()), "{error}");
    }
    let error = create_through(Fault::Refused(ErrorAnswer::NO_SUCH_BUCKET), false).await;
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    for answer in [ErrorAnswer::CONDITIONAL_REQUEST_CONFLICT, ErrorAnswer::PRECONDITION_FAILED] {
        let error = create_through(Fault::Refused(answer), false).await;
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_error_may_follow_a_stored_object() {
    let error = create_through(Fault::StoredThenError(ErrorAnswer::INTERNAL_ERROR), true).await;
    assert!(error.to_string().contains("InternalError"), "{error}");
}

/// The reason for these faults: `object_store` retries even a create after an error or a closed
/// connection, so a client's own success comes back as a conflict.
#[tokio::test]
async fn a_retry_of_a_stored_create_conflicts() {
    for fault in [Fault::StoredThenError(ErrorAnswer::SLOW_DOWN), Fault::StoredThenCut] {
        let server = S3TestServer::start().await;
        let store = builder(&server).with_retry(retries(2)).build().unwrap();
        server.faults().next_puts([fault]);
        let error = create(&store, "a", "mine").await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
        assert_eq!(server.objects()["a"].bytes, "mine");
        assert_eq!(server.request_count(&Method::PUT), 2);
    }
}

#[tokio::test]
async fn a_cut_may_come_before_or_after_storing() {
    for (fault, stored) in [
        (Fault::CutInBody, false),
        (Fault::StoredThenCut, true),
        (Fault::CutInResponse { after_bytes: 0 }, true),
        (Fault::CutInResponse { after_bytes: 40 }, true),
    ] {
        create_through(fault, stored).await;
    }
}

#[tokio::test]
async fn a_cut_response_has_the_requested_length() {
    let server = S3TestServer::start().await;
    server.faults().always(Fault::CutInResponse { after_bytes: 40 });
    let received = read_until_closed(send_head(&server, "GET /audit-test/a HTTP/1.1").await).await;
    assert_eq!(received.len(), 40);
    assert!(received.starts_with("HTTP/1.1 403"), "{received}");
}

/// The client has seen a success before the connection breaks.
#[tokio::test]
async fn a_response_can_be_cut_after_its_head() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    put(&store, "a", vec![1; 1 << 20]).await.unwrap();
    server.faults().always(Fault::CutInResponse { after_bytes: 1 << 19 });
    let read = store.get(&Path::from("a")).await.expect("the head arrives");
    assert!(read.bytes().await.is_err());
}

#[tokio::test]
async fn hung_requests_delay_no_others() {
    for (fault, stored) in [(Fault::Hung, false), (Fault::StoredThenHung, true)] {
        let server = S3TestServer::start().await;
        let store = client(&server);
        server.faults().next_puts([fault]);
        let hung = tokio::spawn({
            let store = store.clone();
            async move { create(&store, "a", vec![1; 1 << 20]).await }
        });
        server.faults().wait_fired(1).await;
        assert_eq!(server.objects().contains_key("a"), stored);
        // Other requests are served meanwhile.
        put(&store, "b", "1").await.unwrap();
        assert!(!hung.is_finished());
        server.stop().await;
        assert!(hung.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_hung_request_ends_with_its_client() {
    let server = S3TestServer::start().await;
    let impatient = options().with_timeout(Duration::from_millis(50));
    let store = builder(&server).with_client_options(impatient).build().unwrap();
    server.faults().plan(|request| if request.key == "a" { Fault::Hung } else { Fault::None });
    assert!(create(&store, "a", "1").await.is_err());
    assert!(server.objects().is_empty());
    create(&client(&server), "b", "1").await.unwrap();
}

#[tokio::test]
async fn slow_requests_succeed() {
    let delay = Duration::from_millis(50);
    let server = S3TestServer::start().await;
    server.faults().next_puts([Fault::Slow { delay }]);
    let start = Instant::now();
    create(&client(&server), "a", "1").await.unwrap();
    assert!(start.elapsed() >= delay);
    assert_eq!(server.faults().fired(), [Fault::Slow { delay }]);
    assert_eq!(server.objects()["a"].bytes, "1");
}

#[tokio::test]
async fn a_slow_request_ends_with_its_client() {
    let server = S3TestServer::start().await;
    let impatient = options().with_timeout(Duration::from_millis(50));
    let store = builder(&server).with_client_options(impatient).build().unwrap();
    server.faults().next_puts([Fault::Slow { delay: Duration::from_secs(3600) }]);
    assert!(create(&store, "a", "1").await.is_err());
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn a_refusal_may_precede_the_body() {
    create_through(Fault::Early412, false).await;

    // The response arrives although no byte of the body was sent.
    let server = S3TestServer::start().await;
    server.faults().next_puts([Fault::Early412]);
    let head = "PUT /audit-test/a HTTP/1.1\r\ncontent-length: 1000000";
    let received = read_until_closed(send_head(&server, head).await).await;
    assert!(received.starts_with("HTTP/1.1 412"), "{received}");
    assert!(received.contains("<Code>PreconditionFailed</Code>"), "{received}");
}

#[tokio::test]
async fn a_plan_decides_by_request() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    server.faults().plan(|request| {
        let second_put = request.method == Method::PUT && request.method_ordinal == 2;
        if second_put || request.key == "dir=x/forbidden" || request.is_list() {
            Fault::Refused(ErrorAnswer::ACCESS_DENIED)
        } else {
            Fault::None
        }
    });
    assert!(put(&store, "a", "1").await.is_ok());
    assert!(put(&store, "b", "1").await.is_err());
    assert!(put(&store, "c", "1").await.is_ok());
    assert!(put(&store, "dir=x/forbidden", "1").await.is_err());
    assert!(store.list_with_delimiter(None).await.is_err());
    assert!(store.get(&Path::from("a")).await.is_ok());
    assert_eq!(server.faults().fired().len(), 3);

    // The faults for the next PUTs take precedence, and are used once.
    server.faults().next_puts([Fault::None, Fault::StoredThenCut]);
    assert!(put(&store, "dir=x/forbidden", "1").await.is_ok());
    assert!(put(&store, "d", "1").await.is_err());
    assert!(put(&store, "dir=x/forbidden", "2").await.is_err());
    server.faults().none();
    assert!(put(&store, "dir=x/forbidden", "3").await.is_ok());

    let log = server.requests();
    assert!(log.iter().map(|request| request.ordinal).eq(1..=log.len() as u64));
    assert_eq!(server.request_count(&Method::PUT), 8);
    assert_eq!(log.last().unwrap().key, "dir=x/forbidden");
}
