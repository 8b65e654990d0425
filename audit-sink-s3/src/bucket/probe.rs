//! Probes whether a bucket can be written to and whether it protects objects, before a sink writes
//! to it.

use std::time::Duration;

use audit_core::{Random, SystemRandom};
use object_store::{Attributes, GetOptions, PutPayload};
use tokio::time::{Instant, sleep};

use super::blocker::Blocker;
use super::put::{backoff, longer, request};
use super::response::{Refusal, Response};
use crate::{Bucket, OpenError, OpenErrorKind, Settings};

/// The key of a small object that all sinks of a prefix share. Readers of Hive partitions skip
/// names that begin with `_`.
pub(crate) const KEY: &str = "_audit/probe";
const CONTENT: &str =
    "audit-sink-s3 puts this object twice to learn whether the store lets objects be overwritten\n";

/// How long an unreachable bucket may delay the opening of a sink.
const MAX_TIME: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The store refuses to create an object that exists.
    CreateOnly,
    Overwrites,
    /// The store is unreachable.
    Unknown(Refusal),
}

/// Creates one object twice. The second must be refused.
///
/// # Errors
///
/// If the bucket refuses for another reason, so that an operator must act; or if the settings
/// require create-only, and the store did not show that it protects objects.
pub(crate) async fn probe(
    bucket: &Bucket,
    settings: &Settings,
    random: &dyn Random,
) -> Result<Probe, OpenError> {
    let probe = ask(bucket, settings, random).await.map_err(|refusal| refused(bucket, &refusal))?;
    match &probe {
        Probe::CreateOnly => Ok(probe),
        Probe::Overwrites if settings.require_create_only => Err(OpenError::new(
            OpenErrorKind::NotCreateOnly,
            format!(
                "the bucket {bucket} allows overwriting objects, but the settings require create-only"
            ),
        )),
        Probe::Overwrites => {
            tracing::warn!(
                %bucket,
                "the store ignores If-None-Match: each record is delivered once, but nothing protects objects from \
                 being overwritten by others"
            );
            Ok(probe)
        }
        Probe::Unknown(refusal) if settings.require_create_only => Err(OpenError::new(
            OpenErrorKind::Unavailable,
            format!(
                "the bucket {bucket} is not known to be create-only, which the settings require: {refusal}"
            ),
        )),
        Probe::Unknown(refusal) => {
            tracing::warn!(%bucket, reason = %refusal, "the audit bucket is unreachable: opened without a probe");
            Ok(probe)
        }
    }
}

fn refused(bucket: &Bucket, refusal: &Refusal) -> OpenError {
    let kind = match refusal.response {
        Response::Blocked(blocker) if blocker.is_configuration() => OpenErrorKind::Configuration,
        Response::Exists | Response::Contention | Response::Unknown | Response::Blocked(_) => {
            OpenErrorKind::Blocked
        }
    };
    // If a role was refused, no request was sent to the bucket, so the message does not name it.
    let message = if refusal.response == Response::Blocked(Blocker::Role) {
        format!("audit logs cannot be delivered: {refusal}")
    } else {
        format!("audit logs cannot be delivered to {bucket}: {refusal}")
    };
    OpenError::new(kind, message)
}

impl Bucket {
    /// Probes the bucket as the opening of a sink does. Returns whether it is create-only, that is,
    /// whether it protects objects from being overwritten. Only the key `_audit/probe` is written.
    ///
    /// # Errors
    ///
    /// If the bucket refuses, or with [`Unavailable`](OpenErrorKind::Unavailable) if it does not
    /// respond within five seconds.
    pub async fn probe(&self, settings: &Settings) -> Result<bool, OpenError> {
        match ask(self, settings, &SystemRandom).await {
            Ok(Probe::CreateOnly) => Ok(true),
            Ok(Probe::Overwrites) => Ok(false),
            Ok(Probe::Unknown(refusal)) => Err(OpenError::new(
                OpenErrorKind::Unavailable,
                format!("the bucket {self} is unreachable: {refusal}"),
            )),
            Err(refusal) => Err(refused(self, &refusal)),
        }
    }
}

async fn ask(bucket: &Bucket, settings: &Settings, random: &dyn Random) -> Result<Probe, Refusal> {
    let path = bucket.path(KEY);
    let end = Instant::now() + MAX_TIME;
    let within = |limit: Duration| limit.min(end.saturating_duration_since(Instant::now()));
    let mut limit = settings.put_timeout();
    let mut created = false;
    let mut no_credentials = None;
    let mut retries = 0;
    let mut of_session = false;
    let found = loop {
        let payload = PutPayload::from_static(CONTENT.as_bytes());
        let refusal =
            match request(within(limit), bucket, bucket.create(&path, payload, Attributes::new()))
                .await
            {
                Ok(()) if created => break Probe::Overwrites,
                Ok(()) => {
                    created = true;
                    continue;
                }
                Err(refusal) => refusal.before_retry(&mut of_session),
            };
        match refusal.response {
            Response::Exists => break Probe::CreateOnly,
            // The metadata service of a starting instance may be late.
            Response::Blocked(Blocker::NoCredentials) => no_credentials = Some(refusal.clone()),
            Response::Blocked(_) => return Err(refusal),
            // A success whose response was lost looks like a request that did nothing. The next
            // response decides.
            Response::Contention | Response::Unknown => {}
        }
        if refusal.timed_out {
            limit = longer(limit);
        }
        let backoff = backoff(settings, random, refusal.response, retries);
        if Instant::now() + backoff >= end {
            return no_credentials.map_or(Ok(Probe::Unknown(refusal)), Err);
        }
        sleep(backoff).await;
        retries += 1;
    };
    // Delivery reads an object only after a lost response. Without the permission it would get
    // stuck at the worst moment.
    match request(
        within(limit),
        bucket,
        bucket.store().get_opts(&path, GetOptions::new().with_head(true)),
    )
    .await
    {
        Err(refusal @ Refusal { response: Response::Blocked(Blocker::Permission), .. }) => {
            Err(refusal)
        }
        Ok(_) | Err(_) => Ok(found),
    }
}
