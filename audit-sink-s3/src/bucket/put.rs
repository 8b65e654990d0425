//! Creates an object in the bucket and retries until the outcome is certain.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::{Random, full_jitter};
use futures::future::{Either, select};
use object_store::path::Path;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;
use tracing::field::Empty;

use super::blocker::Blocker;
use super::response::{Refusal, Response};
use crate::health::{DeliveryTrouble, HealthBoard, Trouble};
use crate::object::encoded::EncodedObject;
use crate::panic::catch_in;
use crate::{Bucket, Compression, Settings};

/// The maximum time limit of a request, however often it has timed out. The client's own limit is
/// the same.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(300);

/// Creates objects under their keys, retrying with the same bytes until the outcome is certain.
///
/// Every object is delivered once: no other object has its key, and a conditional create either
/// writes these bytes or finds an object. Comparing that object distinguishes an earlier success,
/// whose response was lost, from another object. On a store that ignores the condition, a retry
/// overwrites the object with the same bytes.
///
/// A crash here loses no acknowledged record, since the acknowledgement comes later or the journal
/// holds the object. An object in flight is stored completely or not at all.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) bucket: Bucket,
    pub(crate) health: Arc<HealthBoard>,
    random: Arc<dyn Random>,
    settings: Settings,
    response_times: Mutex<ResponseTimes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    /// The object is in the bucket.
    Stored,
    /// The object is not in the bucket and never will be, because another object has its key.
    Conflict,
}

impl Put {
    pub(crate) fn new(
        bucket: Bucket,
        health: Arc<HealthBoard>,
        random: Arc<dyn Random>,
        settings: Settings,
    ) -> Put {
        Put { bucket, health, random, settings, response_times: Mutex::default() }
    }

    pub(crate) fn compression(&self) -> Compression {
        self.settings.compression
    }

    /// The backoff before a request is retried, given the number of retries so far.
    pub(crate) fn backoff(&self, response: Response, retries: u32) -> Duration {
        backoff(&self.settings, &*self.random, response, retries)
    }

    /// The backoff after a panic, given the number of retries so far.
    pub(crate) fn backoff_after_panic(&self, retries: u32) -> Duration {
        self.backoff(Response::Blocked(Blocker::Panic), retries)
    }

    /// Puts the object and returns once the outcome is certain. Dropping the future leaves the
    /// outcome unknown.
    pub(crate) async fn until_certain(&self, path: &Path, object: &EncodedObject) -> PutOutcome {
        let watch = self.health.watch();
        let mut limit = self.settings.put_timeout();
        let mut retries = 0u32;
        let mut of_session = false;
        loop {
            let refusal = match self.attempt(path, object, limit).await {
                Ok(outcome) => {
                    match outcome {
                        PutOutcome::Stored => self.health.delivered(object.logs),
                        PutOutcome::Conflict => self.health.conflict(path.as_ref()),
                    }
                    watch.over();
                    return outcome;
                }
                Err(refusal) => refusal.before_retry(&mut of_session),
            };
            if refusal.timed_out {
                limit = longer(limit);
            }
            let backoff = self.backoff(refusal.response, retries);
            watch.report(refusal.into());
            sleep(backoff).await;
            retries = retries.saturating_add(1);
        }
    }

    async fn attempt(
        &self,
        path: &Path,
        object: &EncodedObject,
        limit: Duration,
    ) -> Result<PutOutcome, Refusal> {
        let Err(refusal) = self.create(path, object, limit).await else {
            return Ok(PutOutcome::Stored);
        };
        match refusal.response {
            // After contention, the other request may be our own: one that we gave up but that is
            // still in flight in the store.
            Response::Exists | Response::Contention => {}
            Response::Unknown | Response::Blocked(_) => return Err(refusal),
        }
        match timeout(limit, catch_in(Box::pin(self.bucket.holds(path, object)))).await {
            Ok(Err(panicked)) => {
                self.health.panicked();
                Err(self.bucket.refusal_of_panic(&panicked))
            }
            Ok(Ok(held)) => match held {
                Ok(true) => Ok(PutOutcome::Stored),
                Ok(false) => Ok(PutOutcome::Conflict),
                Err(object_store::Error::NotFound { .. }) => Err(Refusal::gone()),
                // S3 responds "denied" instead of "not found" if the credentials may not list. That
                // is no reason for an alarm here.
                Err(object_store::Error::PermissionDenied { .. })
                    if refusal.response == Response::Contention =>
                {
                    Err(refusal)
                }
                Err(error) => Err(self.bucket.refusal(&error)),
            },
            Err(_elapsed) => Err(Refusal::timeout(limit)),
        }
    }

    /// Puts the object, with a second request if the first takes longer than earlier ones did. A
    /// request may hang on a stale connection or a slow server while another one succeeds. Both
    /// send the same bytes to the same key, so the later one finds the object, or overwrites it
    /// with itself.
    async fn create(
        &self,
        path: &Path,
        object: &EncodedObject,
        limit: Duration,
    ) -> Result<(), Refusal> {
        let create = || async {
            let began = Instant::now();
            let create = Box::pin(self.bucket.create_object(path, object));
            let span = tracing::info_span!(
                target: "audit::trace", "put", otel.kind = "client", key = %path,
                records = object.logs, otel.status_code = Empty,
            );
            let response = request(limit, &self.bucket, create).instrument(span.clone()).await;
            if response.is_err() {
                span.record("otel.status_code", "ERROR");
            }
            match &response {
                Ok(()) => self.response_times().add(began.elapsed()),
                Err(refusal) if refusal.is_panic() => self.health.panicked(),
                Err(_) => {}
            }
            response
        };
        let slow = self.response_times().slow().filter(|slow| *slow < limit);
        let Some(slow) = slow else { return create().await };
        let mut first = pin!(create());
        if let Ok(response) = timeout(slow, &mut first).await {
            return response;
        }
        let second = pin!(create());
        // The first response with a certain outcome counts. Otherwise the other request decides.
        let is_certain = |response: &Result<(), Refusal>| match response {
            Ok(()) => true,
            Err(refusal) => match refusal.response {
                Response::Exists | Response::Contention => true,
                Response::Unknown | Response::Blocked(_) => false,
            },
        };
        match select(first, second).await {
            Either::Left((response, _)) | Either::Right((response, _)) if is_certain(&response) => {
                response
            }
            Either::Left((_, second)) => second.await,
            Either::Right((_, first)) => first.await,
        }
    }

    fn response_times(&self) -> MutexGuard<'_, ResponseTimes> {
        self.response_times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        let blocked_by = match refusal.response {
            Response::Exists | Response::Contention | Response::Unknown => None,
            Response::Blocked(blocker) => Some(format!("{blocker:?}")),
        };
        Trouble::Delivery(DeliveryTrouble { reason: refusal.to_string(), blocked_by })
    }
}

/// The durations of the last successful requests.
#[derive(Debug)]
struct ResponseTimes {
    last: [Duration; ResponseTimes::COUNT],
    count: usize,
}

impl Default for ResponseTimes {
    fn default() -> ResponseTimes {
        ResponseTimes { last: [Duration::ZERO; ResponseTimes::COUNT], count: 0 }
    }
}

impl ResponseTimes {
    const COUNT: usize = 64;

    /// A response within this time is never slow, however fast others were.
    const LEAST_SLOW: Duration = Duration::from_millis(20);

    fn add(&mut self, time: Duration) {
        self.last[self.count % Self::COUNT] = time;
        self.count += 1;
    }

    /// The 95th percentile of the response times. `None` before there are enough of them.
    fn slow(&self) -> Option<Duration> {
        let mut times = self.last;
        (self.count >= Self::COUNT).then(|| {
            let (_, slow, _) = times.select_nth_unstable(Self::COUNT * 95 / 100);
            (*slow).max(Self::LEAST_SLOW)
        })
    }
}

/// Sends one request to the bucket with a time limit. The client, a credentials provider or a
/// host's own store may panic, which leaves an unknown outcome.
pub(crate) async fn request<T>(
    limit: Duration,
    bucket: &Bucket,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Refusal> {
    match timeout(limit, catch_in(request)).await {
        Ok(Ok(result)) => result.map_err(|error| bucket.refusal(&error)),
        Ok(Err(panicked)) => Err(bucket.refusal_of_panic(&panicked)),
        Err(_elapsed) => Err(Refusal::timeout(limit)),
    }
}

/// The time limit for the request after one that timed out after `limit`.
pub(crate) fn longer(limit: Duration) -> Duration {
    (limit * 2).min(MAX_REQUEST_TIME.max(limit))
}

/// The backoff before a request is retried, given the number of retries so far.
pub(crate) fn backoff(
    settings: &Settings,
    random: &dyn Random,
    response: Response,
    retries: u32,
) -> Duration {
    let cap = match response {
        Response::Exists | Response::Contention | Response::Unknown => settings.retry_cap_ms,
        Response::Blocked(_) => settings.blocked_retry_cap_ms,
    };
    full_jitter(settings.retry_base_ms, cap, retries, random.next_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_slower_than_most_is_slow() {
        let mut times = ResponseTimes::default();
        for ms in 1..64 {
            times.add(Duration::from_millis(ms));
            assert_eq!(times.slow(), None, "after {ms} answers");
        }
        times.add(Duration::from_millis(500));
        assert_eq!(times.slow(), Some(Duration::from_millis(61)));
        (0..64).for_each(|_| times.add(Duration::from_millis(1)));
        assert_eq!(times.slow(), Some(ResponseTimes::LEAST_SLOW), "old times are forgotten");
    }
}
