//! The log streams that functions of routes wait for.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use audit_core::{AuditSink, Batch, Health, Receipt, SinkError, async_trait};
use audit_sink_http::HttpSink;
use futures::future::{join, join_all};
use parking_lot::Mutex;

/// The open log streams that functions of routes wait for. Cheap to clone.
///
/// The sink of the host's own logs closes all buckets on its journal. These log streams are not on
/// it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequiredStreams(Arc<Mutex<Vec<Weak<HttpSink>>>>);

impl RequiredStreams {
    /// Adds a log stream, as long as its route is in use.
    pub(crate) fn add(&self, stream: &Arc<HttpSink>) {
        let mut streams = self.0.lock();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(stream));
    }

    /// A sink that forwards to `own`, and that closes these log streams too.
    pub(crate) fn closed_with(self, own: Arc<dyn AuditSink>) -> Arc<dyn AuditSink> {
        Arc::new(ClosesStreams { own, streams: self })
    }
}

/// The sink of the host's own logs. The trouble of a route's log stream is not in its health.
#[derive(Debug)]
struct ClosesStreams {
    own: Arc<dyn AuditSink>,
    streams: RequiredStreams,
}

#[async_trait]
impl AuditSink for ClosesStreams {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        self.own.persist(batch).await
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.own.flush().await
    }

    fn health(&self) -> Health {
        self.own.health()
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        self.own.stopped()
    }

    /// Returns the first error.
    async fn close(&self) -> Result<(), SinkError> {
        let streams: Vec<_> = self.streams.0.lock().iter().filter_map(Weak::upgrade).collect();
        let streams = join_all(streams.iter().map(|stream| stream.close()));
        let (own, streams) = join(self.own.close(), streams).await;
        own.and(streams.into_iter().collect())
    }
}

impl fmt::Display for ClosesStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.own.fmt(f)
    }
}
