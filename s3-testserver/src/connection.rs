//! One connection: reads requests, applies faults, and passes the others to the store.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::S3Service;
use s3s::{Body, HttpError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::policy::Policies;
use crate::requests::RequestLog;
use crate::store::Store;
use crate::sts::Sts;
use crate::{ErrorAnswer, Fault, Faults};

pub(crate) const BUCKET: &str = "audit-test";

/// The account that owns the bucket.
pub(crate) const OWNER: &str = "123456789012";

#[derive(Debug)]
pub(crate) struct Backend {
    /// `None` for a server of GCS.
    pub(crate) s3: Option<S3Service>,
    pub(crate) faults: Faults,
    pub(crate) requests: RequestLog,
    pub(crate) policies: Arc<Policies>,
    pub(crate) store: Store,
    pub(crate) sts: Arc<Sts>,
}

/// The maximum clock skew of a client, in seconds, as on AWS.
const MAX_SKEW_S: u64 = 15 * 60;

/// Serves one connection until either side closes it. Errors are ignored: they mean that the
/// connection was cut.
pub(crate) async fn serve(backend: Arc<Backend>, stream: TcpStream) {
    let budget = WriteBudget::default();
    let io = TokioIo::new(BudgetedStream { stream, budget: budget.clone() });
    let service = service_fn(|request| backend.answer(request, &budget));
    let _ = http1::Builder::new().serve_connection(io, service).await;
}

impl Backend {
    /// Answers a request. An error makes hyper drop the connection without a response.
    async fn answer(
        &self,
        request: Request<Incoming>,
        budget: &WriteBudget,
    ) -> Result<Response<Body>, HttpError> {
        let fault = self.faults.decide(&self.requests.record(&request));
        let (parts, mut body) = request.into_parts();
        match fault {
            Fault::None => self.apply(parts, drain(body).await?).await,
            Fault::Slow { delay } => {
                let body = drain(body).await?;
                self.faults.record(fault);
                tokio::time::sleep(delay).await;
                self.apply(parts, body).await
            }
            Fault::Refused(answer) => {
                drain(body).await?;
                self.faults.record(fault);
                Ok(answer.response())
            }
            Fault::StoredThenError(answer) => {
                self.apply(parts, drain(body).await?).await?;
                self.faults.record(fault);
                Ok(answer.response())
            }
            Fault::CutInBody => {
                let _part = body.frame().await;
                self.faults.record(fault);
                Err(cut())
            }
            Fault::StoredThenCut => {
                self.apply(parts, drain(body).await?).await?;
                self.faults.record(fault);
                Err(cut())
            }
            Fault::CutInResponse { after_bytes } => {
                let mut response = self.apply(parts, drain(body).await?).await?;
                // The rest of the budget must not apply to a later response on this connection.
                close_after(&mut response);
                self.faults.record(fault);
                budget.limit(after_bytes);
                Ok(response)
            }
            Fault::Hung => {
                // Reads the whole body, since only then does hyper notice that the client is gone.
                drain(body).await?;
                self.faults.record(fault);
                pending().await
            }
            Fault::StoredThenHung => {
                self.apply(parts, drain(body).await?).await?;
                self.faults.record(fault);
                pending().await
            }
            Fault::Early412 => {
                self.faults.record(fault);
                let mut response = ErrorAnswer::PRECONDITION_FAILED.response();
                close_after(&mut response);
                Ok(response)
            }
        }
    }

    /// Handles a request normally. The body was read before, whatever the response: a client that
    /// is still sending when the response and the close arrive would see a broken pipe.
    async fn apply(&self, parts: Parts, body: Bytes) -> Result<Response<Body>, HttpError> {
        let offset_s = self.store.clock_offset_s();
        let Some(s3) = &self.s3 else {
            return Ok(self.store.answer_as_gcs(&parts, body));
        };
        let mut response = if offset_s.unsigned_abs() > MAX_SKEW_S {
            ErrorAnswer::REQUEST_TIME_TOO_SKEWED.response()
        } else if parts.method == Method::POST && parts.uri.path() == "/" {
            self.sts.answer(&parts, &body, |lifetime_s| self.store.in_seconds(lifetime_s))
        } else if let Some(refused) = self.sts.refusal(&parts) {
            refused.response()
        } else if has_unsigned_header(&parts)
            || is_of_another_owner(&parts)
            || !self.policies.allow(BUCKET, &parts)
        {
            ErrorAnswer::ACCESS_DENIED.response()
        } else {
            let is_read = matches!(parts.method, Method::GET | Method::HEAD);
            let response = s3.call(Request::from_parts(parts, Body::from(body))).await?;
            let missing = is_read && response.status() == StatusCode::NOT_FOUND;
            if missing && !self.policies.allow_list(BUCKET) {
                // Without permission, the existence of an object is not revealed.
                ErrorAnswer::ACCESS_DENIED.response()
            } else {
                response
            }
        };
        if offset_s != 0 {
            response.headers_mut().insert(header::DATE, self.store.date());
        }
        Ok(response)
    }
}

/// Whether an AWS header is not covered by the signature, which AWS refuses.
fn has_unsigned_header(parts: &Parts) -> bool {
    let Some(authorization) = parts.headers.get(header::AUTHORIZATION) else { return false };
    let signed = authorization.to_str().ok().and_then(|text| text.split("SignedHeaders=").nth(1));
    let signed = signed.and_then(|rest| rest.split(',').next()).unwrap_or_default();
    let is_signed = |name: &str| signed.split(';').any(|signed| signed == name);
    parts
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("x-amz-") && !is_signed(name.as_str()))
}

/// Whether the client expects another account to own the bucket.
fn is_of_another_owner(parts: &Parts) -> bool {
    parts.headers.get("x-amz-expected-bucket-owner").is_some_and(|owner| owner != OWNER)
}

async fn drain(body: Incoming) -> Result<Bytes, HttpError> {
    let whole = body.collect().await.map_err(|error| HttpError::new(Box::new(error)))?;
    Ok(whole.to_bytes())
}

fn cut() -> HttpError {
    HttpError::new("connection cut on purpose".into())
}

fn close_after(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// The number of bytes that a connection may still write. Unlimited until it is set.
#[derive(Debug, Clone)]
struct WriteBudget(Arc<AtomicUsize>);

impl Default for WriteBudget {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl WriteBudget {
    fn limit(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn spend(&self, bytes: usize) {
        // Only the connection's own task runs this, so load and store need not be atomic together.
        if self.left() != usize::MAX {
            self.limit(self.left() - bytes);
        }
    }
}

/// A stream that fails once its budget is used up, so that hyper drops it.
#[derive(Debug)]
struct BudgetedStream {
    stream: TcpStream,
    budget: WriteBudget,
}

impl AsyncRead for BudgetedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BudgetedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let allowed = buf.len().min(self.budget.left());
        if allowed == 0 && !buf.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..allowed]))?;
        self.budget.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
