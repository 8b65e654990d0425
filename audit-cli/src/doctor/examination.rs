//! An examination of a bucket: the list of checks, and the first ones.

use audit_core::{SystemClock, SystemRandom, UniqueId};
use audit_sink_s3::Bucket;
use audit_sink_s3::layout::SYSTEM_PREFIX;
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectStore};

use super::check::{Check, Verdict};
use super::permissions::Permissions;
use super::refusal::{Refusal, is_answer, is_refusal, limited};
use super::wire::{Answer, Wire};
use crate::arguments::{Common, Profile, Role};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::units::Span;

/// The clock skew that is worth a warning, and the skew at which S3 refuses requests.
const NOTABLE_SKEW_MS: i64 = 60_000;
const REFUSED_SKEW_MS: i64 = 15 * 60_000;

pub(super) struct Examination {
    pub(super) bucket: Bucket,
    pub(super) is_directory: bool,
    pub(super) wire: Option<Wire>,
    pub(super) role: Role,
    pub(super) permissions: &'static Permissions,
    /// The object that this examination writes.
    pub(super) path: Path,
    pub(super) checks: Vec<Check>,
    pub(super) progress: Progress,
}

/// The maximum number of checks, for the progress bar.
const CHECKS: u64 = 17;

impl Examination {
    pub(super) fn new(url: &str, role: Role, common: &Common) -> Result<Examination, Failure> {
        let is_directory = url.starts_with("file:");
        // `open` would create a missing directory. Nothing is retried, since each request is a
        // check.
        let bucket = if is_directory {
            Bucket::open_to_read(url, Bucket::READ_RETRY)?
        } else {
            Bucket::open(url)?
        };
        let bucket = bucket.for_reader(matches!(role, Role::Reader));
        let wire = if url.starts_with("s3:") { Some(Wire::open(&bucket)?) } else { None };
        let name = UniqueId::generate(&SystemClock, &SystemRandom);
        let path = bucket.path(&format!("{SYSTEM_PREFIX}doctor/{name}"));
        let progress = Progress::new(common, CHECKS);
        let permissions = Permissions::of(url);
        let checks = Vec::new();
        Ok(Examination { bucket, is_directory, wire, role, permissions, path, checks, progress })
    }

    pub(super) fn say(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        said: impl Into<String>,
        advice: Option<&str>,
    ) {
        let advice = advice.map(ToOwned::to_owned);
        self.checks.push(Check { check, verdict, said: said.into(), advice });
        self.progress.at(self.checks.len() as u64, check);
    }

    pub(super) fn ok(&mut self, check: &'static str, said: impl Into<String>) {
        self.say(check, Verdict::Ok, said, None);
    }

    pub(super) fn unknown(&mut self, check: &'static str, said: impl Into<String>) {
        self.say(check, Verdict::Unknown, said, None);
    }

    pub(super) fn warning(&mut self, check: &'static str, said: impl Into<String>, advice: &str) {
        self.say(check, Verdict::Warning, said, Some(advice));
    }

    pub(super) fn problem(&mut self, check: &'static str, said: impl Into<String>, advice: &str) {
        self.say(check, Verdict::Problem, said, Some(advice));
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &**self.bucket.store()
    }

    pub(super) async fn run(&mut self, profile: Option<Profile>) {
        if !self.reach().await {
            return;
        }
        match self.role {
            Role::Host => {
                if self.write().await {
                    self.create_only().await;
                    self.overwrite().await;
                    self.read().await;
                    self.checksum().await;
                    self.versions().await;
                    self.list().await;
                    self.delete().await;
                }
                self.leftovers().await;
            }
            Role::Reader => {
                self.read_only().await;
                self.list().await;
                self.read_any().await;
                self.delete().await;
                self.leftovers().await;
            }
        }
        if let Some(profile) = profile {
            self.profile(profile).await;
        }
    }

    /// Checks the connection, the store's clock and the protocol.
    async fn reach(&mut self) -> bool {
        let head = self.store().get_opts(&self.path, GetOptions::new().with_head(true));
        let answered = match limited(head).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok("the store answers".to_owned()),
            // A refusal shows that the store can be reached; later checks show its cause.
            Err(error) if is_answer(&error) => Ok("the store answers".to_owned()),
            Err(error) => Err(error),
        };
        match answered {
            Ok(said) => self.ok("reach", said),
            Err(error) => {
                let advice = "make sure that this host can reach the store: name, network, proxy, and for S3 region and endpoint";
                // A refusal carries its own remedy.
                let advice = Some(advice).filter(|_| !self.bucket.is_blocked(&error));
                self.say("reach", Verdict::Problem, self.describe(&error), advice);
                return false;
            }
        }
        self.clock().await;
        self.tls();
        true
    }

    async fn clock(&mut self) {
        let Some(wire) = &self.wire else { return };
        let skew = match wire.head(&self.path).await {
            Ok(Answer { skew_ms: Some(skew_ms), .. }) => Ok(skew_ms),
            Ok(_) => Err("the store does not report its time".to_owned()),
            Err(error) => Err(error),
        };
        match skew {
            Ok(skew) if skew.abs() < NOTABLE_SKEW_MS => {
                let said = format!(
                    "this host's clock is within {} of the store's",
                    Span(skew.abs().max(1_000))
                );
                self.ok("clock", said);
            }
            Ok(skew) => {
                let (ahead, span) = if skew > 0 { ("behind", skew) } else { ("ahead of", -skew) };
                let said = format!("this host's clock is {} {ahead} the store's", Span(span));
                let verdict =
                    if span < REFUSED_SKEW_MS { Verdict::Warning } else { Verdict::Problem };
                let advice = "synchronize this host's clock (NTP): S3 refuses every request from 15 minutes on, and records have this clock's time";
                self.say("clock", verdict, said, Some(advice));
            }
            Err(said) => self.unknown("clock", said),
        }
    }

    fn tls(&mut self) {
        let Some(wire) = &self.wire else { return };
        if wire.is_in_the_clear() {
            let advice = "set AWS_ENDPOINT to https, and deny requests without TLS in the bucket's policy (Sid OnlyWithTls)";
            self.problem("tls", "requests and records are sent unencrypted", advice);
        } else {
            self.ok("tls", "requests are encrypted, or do not leave this host");
        }
    }

    pub(super) fn describe(&self, error: &Error) -> String {
        self.bucket.describe(error)
    }

    /// The outcome of a request that must be refused.
    pub(super) fn of_refusal(&self, result: object_store::Result<()>) -> Refusal {
        match result {
            Ok(()) => Refusal::CarriedOut,
            Err(error) if is_refusal(&error) => Refusal::Refused(self.describe(&error)),
            Err(error) => Refusal::Unclear(self.describe(&error)),
        }
    }
}
