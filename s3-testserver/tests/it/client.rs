//! The clients of the tests.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStoreExt, PutMode, PutPayload, PutResult, Result,
    RetryConfig,
};
use s3_testserver::S3TestServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Settings of a client with the right credentials that tries each request once.
pub(crate) fn builder(server: &S3TestServer) -> AmazonS3Builder {
    AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_client_options(options())
        .with_bucket_name(server.bucket())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_retry(retries(0))
}

pub(crate) fn options() -> ClientOptions {
    ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_secs(20))
}

pub(crate) fn retries(max_retries: usize) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(1),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries, ..Default::default() }
}

pub(crate) fn client(server: &S3TestServer) -> AmazonS3 {
    builder(server).build().expect("the settings are complete")
}

/// A client that adds a header to each request, unsigned, after `object_store` has built it.
pub(crate) fn client_with_header(
    server: &S3TestServer,
    name: &'static str,
    value: &'static str,
) -> AmazonS3 {
    let header = (HeaderName::from_static(name), HeaderValue::from_static(value));
    let options = options().with_default_headers(HeaderMap::from_iter([header]));
    builder(server).with_client_options(options).build().expect("the settings are complete")
}

pub(crate) async fn put(
    store: &AmazonS3,
    key: &str,
    payload: impl Into<PutPayload>,
) -> Result<PutResult> {
    store.put(&Path::from(key), payload.into()).await
}

pub(crate) async fn create(
    store: &AmazonS3,
    key: &str,
    payload: impl Into<PutPayload>,
) -> Result<PutResult> {
    use object_store::ObjectStore;
    store.put_opts(&Path::from(key), payload.into(), PutMode::Create.into()).await
}

pub(crate) async fn connect(server: &S3TestServer) -> std::io::Result<TcpStream> {
    TcpStream::connect(server.endpoint().trim_start_matches("http://")).await
}

/// A connection on which the head of an unsigned request was sent, but none of its body.
pub(crate) async fn send_head(server: &S3TestServer, head: &str) -> TcpStream {
    let mut stream = connect(server).await.expect("the port is open");
    let head =
        format!("{head}\r\nhost: {}\r\n\r\n", server.endpoint().trim_start_matches("http://"));
    stream.write_all(head.as_bytes()).await.expect("the connection is open");
    stream
}

/// Everything that arrives until the server closes the connection. A reset counts as a close.
pub(crate) async fn read_until_closed(mut stream: TcpStream) -> String {
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received).await;
    String::from_utf8(received).expect("heads and XML are UTF-8")
}
