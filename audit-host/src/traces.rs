//! Traces: sends spans to an OpenTelemetry collector.

/// Traces cannot be sent with these settings.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TracesError(String);

#[cfg(feature = "traces")]
pub use enabled::Traces;
#[cfg(feature = "traces")]
pub(crate) use enabled::{layer, set_parent};

#[cfg(not(feature = "traces"))]
pub use disabled::Traces;
#[cfg(not(feature = "traces"))]
pub(crate) use disabled::{layer, set_parent};

#[cfg(feature = "traces")]
mod enabled {
    use std::collections::HashMap;
    use std::fmt;
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_http::{HttpClient, HttpError};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::{Span, Subscriber};
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::registry::LookupSpan;

    use super::TracesError;

    /// The spans that are not sent yet.
    pub struct Traces {
        provider: Option<SdkTracerProvider>,
    }

    impl Traces {
        pub(crate) fn none() -> Traces {
            Traces { provider: None }
        }

        /// Sends the remaining spans, for at most `at_most`.
        pub fn finish(self, at_most: Duration) {
            if let Some(provider) = self.provider
                && let Err(error) = provider.shutdown_with_timeout(at_most)
            {
                tracing::warn!(%error, "the last traces were not sent");
            }
        }
    }

    impl fmt::Debug for Traces {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Traces").field("are_sent", &self.provider.is_some()).finish()
        }
    }

    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync>(
        service: &'static str,
        collector: &str,
    ) -> Result<(impl Layer<S> + Send + Sync, Traces), TracesError> {
        // Errors show neither the URL nor its credentials.
        let failed = |error: String| TracesError(format!("traces cannot be sent: {error}"));
        let url = reqwest::Url::parse(collector)
            .map_err(|error| failed(format!("the collector's URL is invalid: {error}")))?;
        let client = Client::new(RESPONSE_TIMEOUT)
            .map_err(|error| failed(error.without_url().to_string()))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(url.as_str())
            .with_protocol(Protocol::HttpBinary)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(Resource::builder().with_service_name(service).build())
            .build();
        // Only spans of this target, since others may contain parts of a body.
        let layer = tracing_opentelemetry::layer()
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_tracer(provider.tracer("audit"))
            .with_filter(filter_fn(|metadata| {
                metadata.is_span() && metadata.target() == "audit::trace"
            }));
        Ok((layer, Traces { provider: Some(provider) }))
    }

    /// Makes a span part of the trace in the W3C headers.
    pub(crate) fn set_parent(span: &Span, traceparent: &str, tracestate: Option<&str>) {
        let mut headers = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        headers.extend(tracestate.map(|state| ("tracestate".to_owned(), state.to_owned())));
        // An invalid header gives an empty context, and the span starts a new trace.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
    }

    /// How long the collector may take for a request: OpenTelemetry's default. Spans that end
    /// meanwhile queue, and beyond the queue are lost.
    const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

    /// How much of a response is read, in bytes. It only counts rejected spans.
    const MAX_RESPONSE_BYTES: usize = 64 << 10;

    /// Sends on the host's runtime, since the thread that batches spans has none.
    #[derive(Debug)]
    struct Client {
        client: reqwest::Client,
        runtime: tokio::runtime::Handle,
    }

    impl Client {
        fn new(timeout: Duration) -> reqwest::Result<Client> {
            let client = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(timeout)
                .build()?;
            Ok(Client { client, runtime: tokio::runtime::Handle::current() })
        }
    }

    #[async_trait]
    impl HttpClient for Client {
        async fn send_bytes(
            &self,
            request: http::Request<Bytes>,
        ) -> Result<http::Response<Bytes>, HttpError> {
            let (parts, body) = request.into_parts();
            let request = self.client.request(parts.method, parts.uri.to_string());
            let request = request.headers(parts.headers).body(body);
            let sent = async move {
                let mut response = request.send().await?;
                let mut body = Vec::new();
                // The status counts, however the body ends.
                while let Ok(Some(chunk)) = response.chunk().await {
                    body.extend_from_slice(&chunk);
                    if body.len() > MAX_RESPONSE_BYTES {
                        body.truncate(MAX_RESPONSE_BYTES);
                        break;
                    }
                }
                Ok::<_, reqwest::Error>((response.status(), Bytes::from(body)))
            };
            let (status, body) =
                self.runtime.spawn(sent).await?.map_err(reqwest::Error::without_url)?;
            let mut response = http::Response::new(body);
            *response.status_mut() = status;
            Ok(response)
        }
    }

    #[cfg(test)]
    mod tests {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio::net::TcpListener;

        use super::*;

        /// The response to a request, of a collector that answers with `head`, and then with
        /// `piece` until the client is gone.
        async fn response(head: &'static str, piece: &'static [u8]) -> Option<(u16, usize)> {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
            let collector = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4 << 10]).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while !piece.is_empty() && stream.write_all(piece).await.is_ok() {}
                // Until the client closes.
                while stream.read(&mut [0; 4 << 10]).await.is_ok_and(|bytes| bytes > 0) {}
            });
            let client = Client::new(Duration::from_millis(500)).unwrap();
            let request = http::Request::post(url).body(Bytes::from_static(b"spans")).unwrap();
            let sent = client.send_bytes(request).await;
            // Dropping the client closes its connections.
            drop(client);
            collector.await.unwrap();
            sent.ok().map(|response| (response.status().as_u16(), response.body().len()))
        }

        #[tokio::test]
        async fn a_collector_delays_and_costs_a_bounded_amount() {
            const ENDLESS: &[u8] = b"4000\r\n";
            let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let piece: &'static [u8] = [ENDLESS, &[b'x'; 0x4000], b"\r\n"].concat().leak();
            assert_eq!(response(chunked, piece).await, Some((200, MAX_RESPONSE_BYTES)));
            // The collector stops in the middle of a body, does not answer, sends a header without
            // an end, or redirects.
            assert_eq!(response(chunked, b"").await, Some((200, 0)));
            let short = "HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\nbusy";
            assert_eq!(response(short, b"").await, Some((503, 4)));
            assert_eq!(response("", b"").await, None);
            assert_eq!(response("HTTP/1.1 200 OK\r\nendless: ", piece).await, None);
            let moved =
                "HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n";
            assert_eq!(response(moved, b"").await, Some((307, 0)));
        }
    }
}

#[cfg(not(feature = "traces"))]
mod disabled {
    use std::time::Duration;

    use tracing::Span;
    use tracing_subscriber::layer::Identity;

    use super::TracesError;

    /// The spans that are not sent yet; this build sends none.
    #[derive(Debug)]
    pub struct Traces(());

    impl Traces {
        pub(crate) fn none() -> Traces {
            Traces(())
        }

        /// Does nothing in this build.
        pub fn finish(self, _at_most: Duration) {}
    }

    pub(crate) fn layer(_: &str, _: &str) -> Result<(Identity, Traces), TracesError> {
        Err(TracesError(
            "this build does not support traces: build it with the feature `traces`".to_owned(),
        ))
    }

    pub(crate) fn set_parent(_: &Span, _: &str, _: Option<&str>) {}
}
