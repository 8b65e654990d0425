//! Which requests fail, and how.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use http::header::ETAG;
use http::{HeaderValue, Method, StatusCode};
use s3s::{HttpResponse, S3Error, S3ErrorCode};
use tokio::sync::watch;

use crate::RequestInfo;

/// A fault of one request.
///
/// *Stored* means that the request is handled normally, including the checks of signature and
/// condition. If that refuses it, nothing is stored, but the fault still hides the refusal. Unless
/// stated otherwise, the whole request body is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is handled normally.
    None,
    /// Not stored, and answered with this error.
    Refused(ErrorAnswer),
    /// Stored, but answered with this error.
    StoredThenError(ErrorAnswer),
    /// Not stored: a part of the body is read, then the connection is cut.
    CutInBody,
    /// Stored, then the connection is cut without an answer.
    StoredThenCut,
    /// Stored and answered, but the connection is cut after a number of bytes of the response.
    ///
    /// Head and body both count. A head is longer than 100 bytes, so a smaller number cuts within
    /// the head. A response that is not longer than the number arrives completely.
    CutInResponse {
        /// The number of bytes of the response that are still sent.
        after_bytes: usize,
    },
    /// Not stored and never answered, until the client or the server closes the connection.
    Hung,
    /// Stored and never answered, until the client or the server closes the connection.
    StoredThenHung,
    /// Handled normally after a delay. If the client gives up before that, nothing is stored.
    Slow {
        /// The delay after the body was read.
        delay: Duration,
    },
    /// Not stored: `412 PreconditionFailed` at once, without reading the body; then the connection
    /// is closed.
    ///
    /// Real stores may do that. A client that sends a large body then sees either the response or a
    /// broken pipe.
    Early412,
}

/// An HTTP status and the S3 error code in the XML body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorAnswer {
    status: u16,
    code: &'static str,
}

impl ErrorAnswer {
    /// 503: too many requests, or the store is overloaded.
    pub const SLOW_DOWN: Self = Self::new(503, "SlowDown");
    /// 503: the store is temporarily unavailable.
    pub const SERVICE_UNAVAILABLE: Self = Self::new(503, "ServiceUnavailable");
    /// 500: the store failed.
    pub const INTERNAL_ERROR: Self = Self::new(500, "InternalError");
    /// 429: the equivalent of `SlowDown` on some stores other than AWS.
    pub const TOO_MANY_REQUESTS: Self = Self::new(429, "TooManyRequests");
    /// 400: the body arrived too slowly. AWS uses 400 here, although a retry is appropriate.
    pub const REQUEST_TIMEOUT: Self = Self::new(400, "RequestTimeout");
    /// 403: no permission.
    pub const ACCESS_DENIED: Self = Self::new(403, "AccessDenied");
    /// 403: the clocks of client and store are too far apart.
    pub const REQUEST_TIME_TOO_SKEWED: Self = Self::new(403, "RequestTimeTooSkewed");
    /// 400: the session token has expired. AWS answers 400; see [`Self::EXPIRED_TOKEN_403`].
    pub const EXPIRED_TOKEN: Self = Self::new(400, "ExpiredToken");
    /// 403: the session token has expired, with the expected status.
    pub const EXPIRED_TOKEN_403: Self = Self::new(403, "ExpiredToken");
    /// 404: the bucket does not exist.
    pub const NO_SUCH_BUCKET: Self = Self::new(404, "NoSuchBucket");
    /// 409: a conflicting conditional write was in progress.
    pub const CONDITIONAL_REQUEST_CONFLICT: Self = Self::new(409, "ConditionalRequestConflict");
    /// 412: the condition did not hold, for instance because the object exists.
    pub const PRECONDITION_FAILED: Self = Self::new(412, "PreconditionFailed");

    /// Any other response. A status below 300 has an `ETag`, like that of a successful PUT: a proxy
    /// or another server at the store's address may respond so.
    ///
    /// # Panics
    ///
    /// If `status` is not between 200 and 599.
    pub const fn new(status: u16, code: &'static str) -> Self {
        assert!(status >= 200 && status < 600, "not the status of an answer");
        Self { status, code }
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.status
    }

    /// The S3 error code.
    pub const fn code(self) -> &'static str {
        self.code
    }

    pub(crate) fn response(self) -> HttpResponse {
        let code = S3ErrorCode::from_bytes(self.code.as_bytes()).expect("a str is UTF-8");
        let mut error = S3Error::with_message(code, "injected by the test server");
        error.set_status_code(
            StatusCode::from_u16(self.status).expect("checked by the constructor"),
        );
        let mut response = error.to_http_response().expect("an error without a source serializes");
        if response.status().is_success() {
            response.headers_mut().insert(ETAG, HeaderValue::from_static("\"pretended\""));
        }
        response
    }
}

/// The fault plan of a server, and the record of faults that happened. Without a plan nothing
/// fails.
pub struct Faults {
    plan: Mutex<Plan>,
    fired: watch::Sender<Vec<Fault>>,
}

struct Plan {
    /// Faults for the next PUTs, which take precedence over `decide`.
    next_puts: VecDeque<Fault>,
    decide: Box<dyn FnMut(&RequestInfo) -> Fault + Send>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        let plan = Plan { next_puts: VecDeque::new(), decide: Box::new(|_| Fault::None) };
        Self { plan: Mutex::new(plan), fired: watch::Sender::new(Vec::new()) }
    }

    /// From now on, calls `decide` for each request in the order of arrival.
    ///
    /// It must not call methods of these faults, since it runs under their lock.
    pub fn plan(&self, decide: impl FnMut(&RequestInfo) -> Fault + Send + 'static) {
        self.lock().decide = Box::new(decide);
    }

    /// From now on, every request gets this fault, including reads and listings.
    pub fn always(&self, fault: Fault) {
        self.plan(move |_| fault);
    }

    /// The next PUTs get these faults, one each ([`Fault::None`] lets one pass). After that the
    /// plan applies again.
    pub fn next_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().next_puts.extend(faults);
    }

    /// From now on nothing fails. Requests that already hang continue to hang.
    pub fn none(&self) {
        let mut plan = self.lock();
        plan.next_puts.clear();
        plan.decide = Box::new(|_| Fault::None);
    }

    /// The faults that have happened, in order, without [`Fault::None`].
    ///
    /// A fault is recorded once its effect on the store is complete, just before the client can see
    /// it.
    pub fn fired(&self) -> Vec<Fault> {
        self.fired.borrow().clone()
    }

    /// Waits until at least `count` faults have happened since the server started.
    pub async fn wait_fired(&self, count: usize) {
        // The sender is borrowed, so the channel cannot close while this waits.
        let _ = self.fired.subscribe().wait_for(|fired| fired.len() >= count).await;
    }

    pub(crate) fn decide(&self, request: &RequestInfo) -> Fault {
        let mut plan = self.lock();
        if request.method == Method::PUT
            && let Some(fault) = plan.next_puts.pop_front()
        {
            return fault;
        }
        (plan.decide)(request)
    }

    pub(crate) fn record(&self, fault: Fault) {
        self.fired.send_modify(|fired| fired.push(fault));
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("a test's fault plan panicked")
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next_puts = &self.lock().next_puts;
        f.debug_struct("Faults")
            .field("next_puts", next_puts)
            .field("fired", &self.fired())
            .finish_non_exhaustive()
    }
}
