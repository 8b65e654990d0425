//! Brings one encoded object to the bucket, until that is certain.

use std::sync::Arc;
use std::time::Duration;

use audit_core::Random;
use object_store::path::Path;
use tokio::time::{sleep, timeout};

use crate::answer::{Answer, Refusal};
use crate::encode::EncodedObject;
use crate::health::HealthBoard;
use crate::{Bucket, Settings};

/// The longest that one request may take, however often it has timed out before. The client's own limit is the same.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(300);

/// Delivers objects: creates each under its key, and repeats with the very same bytes whatever is not certain.
///
/// What makes that deliver once: the key is the object's alone, and a request that creates either writes these
/// bytes or finds something there. What it finds is compared, so that the answer to one's own lost success is
/// told from another object. On a store that ignores the condition a repetition writes the same bytes over
/// themselves.
///
/// A crash here loses nothing that was acknowledged, since that comes after; what was under way is there
/// whole or not at all.
#[derive(Debug)]
pub(crate) struct Deliverer {
    pub(crate) bucket: Bucket,
    pub(crate) health: Arc<HealthBoard>,
    random: Arc<dyn Random>,
    settings: Settings,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The object is in the bucket.
    Delivered,
    /// It is not, and will not be: another one stands under its key.
    Conflict,
}

impl Deliverer {
    pub(crate) fn new(
        bucket: Bucket,
        health: Arc<HealthBoard>,
        random: Arc<dyn Random>,
        settings: Settings,
    ) -> Deliverer {
        Deliverer { bucket, health, random, settings }
    }

    /// Returns once it is certain. Dropping the future leaves that open.
    pub(crate) async fn deliver(&self, path: &Path, object: &EncodedObject) -> Delivery {
        let watch = self.health.watch();
        let mut limit = self.settings.put_timeout();
        let mut repetition = 0u32;
        loop {
            let refusal = match self.attempt(path, object, limit).await {
                Ok(delivery) => {
                    match delivery {
                        Delivery::Delivered => self.health.delivered(object.metadata.count),
                        Delivery::Conflict => self.health.conflict(path.as_ref()),
                    }
                    return delivery;
                }
                Err(refusal) => refusal,
            };
            if refusal.timed_out {
                limit = longer(limit);
            }
            watch.report(&refusal);
            sleep(pause(&self.settings, &*self.random, refusal.answer, repetition)).await;
            repetition = repetition.saturating_add(1);
        }
    }

    async fn attempt(
        &self,
        path: &Path,
        object: &EncodedObject,
        limit: Duration,
    ) -> Result<Delivery, Refusal> {
        let create = self.bucket.create(path, object.payload.clone(), object.attributes());
        let refusal = match request(limit, create).await {
            Ok(()) => return Ok(Delivery::Delivered),
            Err(refusal) => refusal,
        };
        match refusal.answer {
            // Contention: the other request may have been our own, given up by us and still under way in the store.
            Answer::Exists | Answer::Contention => {}
            Answer::Unknown | Answer::Blocked(_) => return Err(refusal),
        }
        match timeout(limit, self.bucket.holds(path, object)).await {
            Ok(Ok(true)) => Ok(Delivery::Delivered),
            Ok(Ok(false)) => Ok(Delivery::Conflict),
            Ok(Err(object_store::Error::NotFound { .. })) => Err(Refusal::gone()),
            // S3 says "denied" instead of "not found" to those who may not list: no reason to alarm anybody here.
            Ok(Err(object_store::Error::PermissionDenied { .. })) if refusal.answer == Answer::Contention => {
                Err(refusal)
            }
            Ok(Err(error)) => Err(Refusal::of(&error)),
            Err(_elapsed) => Err(Refusal::timeout(limit)),
        }
    }
}

/// One request, with an end.
pub(crate) async fn request<T>(
    limit: Duration,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Refusal> {
    match timeout(limit, request).await {
        Ok(result) => result.map_err(|error| Refusal::of(&error)),
        Err(_elapsed) => Err(Refusal::timeout(limit)),
    }
}

/// How long the next request may take after one that did not answer in `limit`.
pub(crate) fn longer(limit: Duration) -> Duration {
    (limit * 2).min(MAX_REQUEST_TIME.max(limit))
}

/// How long to wait before a request is repeated: anything up to a limit that doubles each time.
///
/// ["Full jitter"](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) spreads the hosts that
/// an outage has brought into step.
pub(crate) fn pause(settings: &Settings, random: &dyn Random, answer: Answer, repetition: u32) -> Duration {
    let cap = match answer {
        Answer::Exists | Answer::Contention | Answer::Unknown => settings.retry_cap_ms,
        Answer::Blocked(_) => settings.blocked_retry_cap_ms,
    };
    let doubled = settings.retry_base_ms.saturating_mul(1u64.checked_shl(repetition).unwrap_or(u64::MAX));
    let longest_us = u128::from(doubled.min(cap)) * 1_000;
    let us = (longest_us * u128::from(random.next_u64())) >> 64;
    Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Blocker;
    use audit_core::testing::SeededRandom;

    /// The highest bits there are.
    #[derive(Debug)]
    struct Highest;

    impl Random for Highest {
        fn next_u64(&self) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_are_drawn_from_zero_on() {
        let settings = Settings::default();
        let longest = |answer, repetition| {
            u64::try_from(pause(&settings, &Highest, answer, repetition).as_micros()).unwrap().div_ceil(1_000)
        };
        assert_eq!(
            [0, 1, 2, 6, 7, 63, 64, u32::MAX].map(|n| longest(Answer::Unknown, n)),
            [50, 100, 200, 3_200, 5_000, 5_000, 5_000, 5_000]
        );
        assert_eq!(longest(Answer::Blocked(Blocker::Permission), 20), 30_000);
        let random = SeededRandom::new(1);
        let drawn: Vec<_> =
            (0..100).map(|_| pause(&settings, &random, Answer::Unknown, 0).as_millis()).collect();
        assert!(drawn.iter().any(|ms| *ms < 10) && drawn.iter().any(|ms| *ms > 40));
    }
}
