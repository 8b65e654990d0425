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

/// What happens to one request instead of, or besides, what it asks for.
///
/// *Stored* means that the request took its ordinary course, signature check and condition
/// included; when that course is a refusal nothing is stored, yet the fault still hides it. Except
/// where it says otherwise the whole request body is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request takes its ordinary course.
    None,
    /// Not stored, and answered with this error.
    Refused(ErrorAnswer),
    /// Stored, but answered with this error.
    StoredThenError(ErrorAnswer),
    /// Not stored: a part of the body is read, then the connection is cut.
    CutInBody,
    /// Stored, then the connection is cut without an answer.
    StoredThenCut,
    /// Stored, and answered, but the connection is cut after so many bytes of the answer.
    ///
    /// Head and body count alike. A head is longer than 100 bytes, so that a smaller number cuts in
    /// the head; an answer that is no longer than the number arrives whole.
    CutInResponse {
        /// Bytes of the answer that still go out.
        after_bytes: usize,
    },
    /// Not stored and never answered, until the client or the server closes the connection.
    Hung,
    /// Stored and never answered, until the client or the server closes the connection.
    StoredThenHung,
    /// The ordinary course, after a delay. A client that gives up before has stored nothing.
    Slow {
        /// How long the request waits, once its body was read.
        delay: Duration,
    },
    /// Not stored: `412 PreconditionFailed` at once, with the body unread and the connection closed
    /// after.
    ///
    /// Real stores may do that. The client of a large body then sees either the answer or a broken
    /// pipe.
    Early412,
}

/// An HTTP status and the S3 error code that goes with it in the XML body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorAnswer {
    status: u16,
    code: &'static str,
}

impl ErrorAnswer {
    /// 503: too many requests, or the store is overloaded.
    pub const SLOW_DOWN: Self = Self::new(503, "SlowDown");
    /// 503: the store is out of order for the moment.
    pub const SERVICE_UNAVAILABLE: Self = Self::new(503, "ServiceUnavailable");
    /// 500: the store failed.
    pub const INTERNAL_ERROR: Self = Self::new(500, "InternalError");
    /// 429: as some stores other than AWS say `SlowDown`.
    pub const TOO_MANY_REQUESTS: Self = Self::new(429, "TooManyRequests");
    /// 400: the body arrived too slowly. AWS does use 400 here, though a retry is right.
    pub const REQUEST_TIMEOUT: Self = Self::new(400, "RequestTimeout");
    /// 403: no permission.
    pub const ACCESS_DENIED: Self = Self::new(403, "AccessDenied");
    /// 403: the clocks of client and store are too far apart.
    pub const REQUEST_TIME_TOO_SKEWED: Self = Self::new(403, "RequestTimeTooSkewed");
    /// 400: the session token has expired. AWS answers 400; see [`Self::EXPIRED_TOKEN_403`].
    pub const EXPIRED_TOKEN: Self = Self::new(400, "ExpiredToken");
    /// 403: the session token has expired, with the status that one would expect.
    pub const EXPIRED_TOKEN_403: Self = Self::new(403, "ExpiredToken");
    /// 404: the bucket does not exist.
    pub const NO_SUCH_BUCKET: Self = Self::new(404, "NoSuchBucket");
    /// 409: a conflicting conditional write was in progress.
    pub const CONDITIONAL_REQUEST_CONFLICT: Self = Self::new(409, "ConditionalRequestConflict");
    /// 412: the condition did not hold, for instance because the object exists.
    pub const PRECONDITION_FAILED: Self = Self::new(412, "PreconditionFailed");

    /// Any other answer. One of the 200s has an `ETag`, like that of a PUT that succeeds: so may
    /// a proxy answer, or another server at the store's address.
    ///
    /// # Panics
    ///
    /// When `status` is not between 200 and 599.
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

/// The fault plan of a server, and the record of what came of it. Without a plan nothing fails.
pub struct Faults {
    plan: Mutex<Plan>,
    fired: watch::Sender<Vec<Fault>>,
}

struct Plan {
    /// For the next PUTs; goes before `decide`.
    next_puts: VecDeque<Fault>,
    decide: Box<dyn FnMut(&RequestInfo) -> Fault + Send>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        let plan = Plan { next_puts: VecDeque::new(), decide: Box::new(|_| Fault::None) };
        Self { plan: Mutex::new(plan), fired: watch::Sender::new(Vec::new()) }
    }

    /// Asks `decide` about each request from now on, in the order of arrival.
    ///
    /// It must not call back into these faults: it runs under their lock.
    pub fn plan(&self, decide: impl FnMut(&RequestInfo) -> Fault + Send + 'static) {
        self.lock().decide = Box::new(decide);
    }

    /// Every request from now on gets this fault, reads and listings too.
    pub fn always(&self, fault: Fault) {
        self.plan(move |_| fault);
    }

    /// The next PUTs get these faults, one each ([`Fault::None`] lets one pass); then the plan
    /// holds again.
    pub fn next_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().next_puts.extend(faults);
    }

    /// Nothing fails from now on. Requests that hang already go on hanging.
    pub fn none(&self) {
        let mut plan = self.lock();
        plan.next_puts.clear();
        plan.decide = Box::new(|_| Fault::None);
    }

    /// The faults that have happened, in that order, without [`Fault::None`].
    ///
    /// A fault stands here once its effect on the store is complete, just before the client can see
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
