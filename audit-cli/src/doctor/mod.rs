//! `audit doctor`: tries, with the credentials of a host or a reader, what must work and what must
//! not.

mod permissions;
mod policy;
mod wire;

use std::time::Duration;

use audit_core::{SystemClock, SystemRandom, UniqueId};
use audit_sink_s3::{Bucket, status};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use serde::Serialize;

use permissions::Permissions;
pub(crate) use policy::print as print_policy;
use wire::{Answer, Wire};

use crate::arguments::{Common, Doctor, Role};
use crate::bucket::to_url;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::progress::Progress;
use crate::time::Span;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, and could be safer.
    Warning,
    /// Something that must work does not, or something works that must not.
    Problem,
    /// It could not be tried, or there is nothing to try here.
    Unknown,
}

#[derive(Debug, Clone, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    /// What was seen.
    said: String,
    /// What to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Serialize)]
struct Summary {
    bucket: String,
    role: &'static str,
    problems: usize,
    warnings: usize,
    unknown: usize,
}

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A difference of clocks that is worth a word, and the one from which S3 refuses.
const NOTABLE_SKEW_MS: i64 = 60_000;
const REFUSED_SKEW_MS: i64 = 15 * 60_000;

const CONTENT: &str =
    "audit doctor wrote this to see what these credentials may do. It may be removed.\n";

pub(crate) async fn run(
    arguments: &Doctor,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let url = to_url(&arguments.source.bucket)?;
    let mut examination = Examination::new(&url, arguments.role, common)?;
    examination.run().await;
    let Examination { checks, bucket, progress, .. } = examination;
    drop(progress);
    for check in &checks {
        print(check, output)?;
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (problems, warnings, unknown) =
        (count(Verdict::Problem), count(Verdict::Warning), count(Verdict::Unknown));
    let role = arguments.role.name();
    if output.is_json() {
        output.json(&Summary { bucket: bucket.to_string(), role, problems, warnings, unknown })?;
    } else {
        let style = output.style();
        let text = format!(
            "{problems} problems, {warnings} warnings, {unknown} not known: {bucket} as a {role}"
        );
        output.line(&if problems > 0 { style.bad(&text) } else { style.good(&text) })?;
        if problems > 0 && url.starts_with("s3:") {
            output.line("")?;
            output.line(&format!(
                "The policy that a {role} needs, and no other (audit policy {role} {bucket}):"
            ))?;
            output.text(&policy::filled(arguments.role.policy(), &url)?)?;
        }
    }
    Ok(Outcome::wrong_if(problems > 0 || (arguments.strict && warnings > 0)))
}

fn print(check: &Check, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(check);
    }
    let style = output.style();
    let Check { check, verdict, said, advice } = check;
    let mark = match verdict {
        Verdict::Ok => style.good("ok     "),
        Verdict::Warning => style.doubtful("warning"),
        Verdict::Problem => style.bad("PROBLEM"),
        Verdict::Unknown => style.faint("unknown"),
    };
    output.line(&format!("{mark}  {check:14}  {said}"))?;
    match advice {
        Some(advice) => output.line(&format!("{:25}→ {advice}", "")),
        None => Ok(()),
    }
}

/// One look at a bucket.
struct Examination {
    bucket: Bucket,
    is_directory: bool,
    wire: Option<Wire>,
    role: Role,
    permissions: &'static Permissions,
    /// Of this examination alone.
    path: Path,
    checks: Vec<Check>,
    progress: Progress,
}

/// What came of a request that shall be refused.
enum Refusal {
    Refused(String),
    CarriedOut,
    Unclear(String),
}

/// How many checks there are at most, for the progress.
const CHECKS: u64 = 13;

impl Examination {
    fn new(url: &str, role: Role, common: &Common) -> Result<Examination, Failure> {
        let is_directory = url.starts_with("file:");
        // A directory that does not exist would be created. Nothing is retried: each request is a
        // question.
        let bucket = if is_directory {
            Bucket::open_to_read(url, Bucket::READ_RETRY)?
        } else {
            Bucket::open(url)?
        };
        let wire = if url.starts_with("s3:") { Some(Wire::open(url, &bucket)?) } else { None };
        let name = UniqueId::generate(&SystemClock, &SystemRandom);
        let path = bucket.path(&format!("_audit/doctor/{name}"));
        let progress = Progress::new(common, CHECKS);
        let permissions = Permissions::of(url);
        let checks = Vec::new();
        Ok(Examination { bucket, is_directory, wire, role, permissions, path, checks, progress })
    }

    fn say(
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

    fn store(&self) -> &dyn ObjectStore {
        &**self.bucket.store()
    }

    async fn run(&mut self) {
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
            }
            Role::Reader => {
                self.read_only().await;
                self.list().await;
                self.read_any().await;
                self.delete().await;
            }
        }
    }

    /// Whether anybody answers, by which clock, and over what.
    async fn reach(&mut self) -> bool {
        let head = self.store().get_opts(&self.path, GetOptions::new().with_head(true));
        let answered = match limited(head).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok("the store answers".to_owned()),
            // A refusal is an answer; what it is about shows below.
            Err(error) if is_answer(&error) => Ok("the store answers".to_owned()),
            Err(error) => Err(error),
        };
        match answered {
            Ok(said) => self.say("reach", Verdict::Ok, said, None),
            Err(error) => {
                let advice = "see that this host can reach the store: name, network, proxy, and for S3 region and endpoint";
                // What is refused says itself what to do.
                let advice = Some(advice).filter(|_| !self.bucket.is_blocked(&error));
                self.say("reach", Verdict::Problem, self.describe(&error), advice);
                return false;
            }
        }
        let Some(wire) = &self.wire else { return true };
        let in_the_clear = wire.is_in_the_clear();
        let skew = match wire.head(&self.path).await {
            Ok(Answer { skew_ms: Some(skew_ms), .. }) => Ok(skew_ms),
            Ok(_) => Err("the store does not say what time it is".to_owned()),
            Err(error) => Err(error),
        };
        match skew {
            Ok(skew) if skew.abs() < NOTABLE_SKEW_MS => {
                let said = format!(
                    "this host's clock is within {} of the store's",
                    Span(skew.abs().max(1_000))
                );
                self.say("clock", Verdict::Ok, said, None);
            }
            Ok(skew) => {
                let (ahead, span) = if skew > 0 { ("behind", skew) } else { ("ahead of", -skew) };
                let said = format!("this host's clock is {} {ahead} the store's", Span(span));
                let verdict =
                    if span < REFUSED_SKEW_MS { Verdict::Warning } else { Verdict::Problem };
                let advice = "set this host's clock, by NTP: from 15 minutes on, S3 refuses every request; and records have this clock's time";
                self.say("clock", verdict, said, Some(advice));
            }
            Err(said) => self.say("clock", Verdict::Unknown, said, None),
        }
        if in_the_clear {
            let advice = "set AWS_ENDPOINT to https, and deny requests without TLS in the bucket's policy (Sid OnlyWithTls)";
            self.say(
                "tls",
                Verdict::Problem,
                "requests and records travel in the clear",
                Some(advice),
            );
        } else {
            self.say("tls", Verdict::Ok, "requests are encrypted, or do not leave this host", None);
        }
        true
    }

    fn attributes() -> Attributes {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata("doctor".into()), "seen".into());
        attributes
    }

    fn describe(&self, error: &Error) -> String {
        self.bucket.describe(error)
    }

    fn of_refusal(&self, result: object_store::Result<()>) -> Refusal {
        match result {
            Ok(()) => Refusal::CarriedOut,
            Err(error) if is_refusal(&error) => Refusal::Refused(self.describe(&error)),
            Err(error) => Refusal::Unclear(self.describe(&error)),
        }
    }

    async fn put(&self, mode: PutMode) -> object_store::Result<()> {
        let attributes =
            if self.is_directory { Attributes::new() } else { Examination::attributes() };
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        limited(self.store().put_opts(&self.path, CONTENT.into(), options)).await.map(drop)
    }

    async fn write(&mut self) -> bool {
        match self.put(PutMode::Create).await {
            Ok(()) => {
                self.say("write", Verdict::Ok, format!("{} was written", self.path), None);
                true
            }
            Err(error) => {
                let advice = "without this nothing is delivered; what else the credentials may do was not tried";
                self.say("write", Verdict::Problem, self.describe(&error), Some(advice));
                false
            }
        }
    }

    async fn create_only(&mut self) {
        match self.put(PutMode::Create).await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.say("create-only", Verdict::Ok, "creating what exists is refused", None);
            }
            Ok(()) => {
                let said = "the store ignores If-None-Match: creating overwrote what existed";
                let advice = "each record is still delivered once, but nothing protects objects from who has these credentials: use a store with conditional writes (AWS, GCS, Azure, MinIO, R2), and set require_create_only";
                self.say("create-only", Verdict::Problem, said, Some(advice));
            }
            Err(error) => self.say("create-only", Verdict::Unknown, self.describe(&error), None),
        }
    }

    async fn overwrite(&mut self) {
        // With the same bytes: if it is carried out, nothing has changed.
        let advice = self.permissions.overwriting;
        match self.of_refusal(self.put(PutMode::Overwrite).await) {
            Refusal::Refused(_) => {
                self.say("overwrite", Verdict::Ok, "overwriting is refused", None)
            }
            Refusal::CarriedOut if self.is_directory => {
                self.say("overwrite", Verdict::Warning, permissions::OF_DIRECTORY, None);
            }
            Refusal::CarriedOut => {
                self.say(
                    "overwrite",
                    Verdict::Problem,
                    "these credentials can overwrite objects",
                    Some(advice),
                );
            }
            Refusal::Unclear(said) => self.say("overwrite", Verdict::Unknown, said, None),
        }
    }

    async fn read(&mut self) {
        let advice = format!(
            "allow {} under the prefix: a lost answer is made certain by a look at the object",
            self.permissions.get
        );
        let found = async {
            let found = self.store().get_opts(&self.path, GetOptions::new()).await?;
            let attributes = found.attributes.clone();
            Ok((attributes, found.bytes().await?))
        };
        match limited(found).await {
            Ok((_, bytes)) if bytes != CONTENT.as_bytes() => {
                let advice = "something between here and the store changes objects";
                self.say(
                    "read",
                    Verdict::Problem,
                    "what was read is not what was written",
                    Some(advice),
                );
            }
            Ok((attributes, _)) if !self.is_directory && !says_seen(&attributes) => {
                let advice = "let the gateway pass x-amz-meta headers on: without them a lost answer is made certain only by reading the whole object, and readers cannot check what they read";
                self.say(
                    "read",
                    Verdict::Warning,
                    "the store lost the object's metadata",
                    Some(advice),
                );
            }
            Ok(_) => self.say("read", Verdict::Ok, "what was written can be read", None),
            Err(error) => self.say("read", Verdict::Problem, self.describe(&error), Some(&advice)),
        }
    }

    async fn checksum(&mut self) {
        let Some(wire) = &self.wire else {
            return self.say("checksum", Verdict::Unknown, "tried on s3:// only", None);
        };
        let path = Path::from(format!("{}-damaged", self.path));
        match wire.put_with_wrong_checksum(&path, CONTENT).await {
            Ok(Answer { status, code, .. }) if (400..500).contains(&status) && status != 403 => {
                let code = code.unwrap_or_default();
                self.say(
                    "checksum",
                    Verdict::Ok,
                    format!("what does not match its checksum is refused: {code}"),
                    None,
                );
            }
            Ok(Answer { status: 200, .. }) => {
                let advice = "use a store that checks x-amz-checksum-sha256: here a record that is damaged on its way is stored damaged";
                self.say(
                    "checksum",
                    Verdict::Problem,
                    "an object was taken that does not match its checksum",
                    Some(advice),
                );
            }
            Ok(answer) => self.say("checksum", Verdict::Unknown, answer.to_string(), None),
            Err(said) => self.say("checksum", Verdict::Unknown, said, None),
        }
    }

    /// Versions, retention, and whether a version can be removed.
    async fn versions(&mut self) {
        let Some(wire) = &self.wire else {
            for check in ["versioning", "object-lock"] {
                self.say(check, Verdict::Unknown, "tried on s3:// only", None);
            }
            return;
        };
        let head = match wire.head(&self.path).await {
            Ok(head) if head.status == 200 => head,
            Ok(answer) => {
                return self.say("versioning", Verdict::Unknown, answer.to_string(), None);
            }
            Err(said) => return self.say("versioning", Verdict::Unknown, said, None),
        };
        let removed = match &head.version_id {
            Some(version) => Some(of_answer(wire.delete(&self.path, Some(version)).await)),
            None => None,
        };
        let advice = "turn on versioning: what somebody with more rights overwrites or deletes can then be brought back, and Object Lock needs it";
        match &head.version_id {
            Some(_) => self.say("versioning", Verdict::Ok, "objects have versions", None),
            None => {
                self.say("versioning", Verdict::Warning, "objects have no versions", Some(advice))
            }
        }
        let until = head.retain_until.unwrap_or_default();
        match head.lock_mode.as_deref() {
            Some("COMPLIANCE") => {
                self.say(
                    "object-lock",
                    Verdict::Ok,
                    format!("nobody can remove objects before {until}"),
                    None,
                );
            }
            Some(mode) => {
                let said = format!("objects are kept until {until} in mode {mode}");
                let advice = "use mode COMPLIANCE: in GOVERNANCE, who has s3:BypassGovernanceRetention can remove them";
                self.say("object-lock", Verdict::Warning, said, Some(advice));
            }
            None => {
                let said = "objects have no retention, or these credentials may not see it (s3:GetObjectRetention)";
                let advice = "turn on Object Lock with a default retention (deploy/aws/object-lock.json): until then an administrator can remove what is there";
                self.say("object-lock", Verdict::Warning, said, Some(advice));
            }
        }
        let advice = "do not allow s3:DeleteObjectVersion, and deny it in the bucket's policy (Sid NoDeleting)";
        match removed {
            None => {}
            Some(Refusal::Refused(_)) => {
                self.say("delete-version", Verdict::Ok, "removing a version is refused", None);
            }
            Some(Refusal::CarriedOut) => {
                let said = "these credentials can remove versions of objects, for good";
                self.say("delete-version", Verdict::Problem, said, Some(advice));
            }
            Some(Refusal::Unclear(said)) => {
                self.say("delete-version", Verdict::Unknown, said, None)
            }
        }
    }

    async fn list(&mut self) {
        let prefix = self.bucket.prefix().clone();
        let listed =
            limited(async { self.store().list_with_delimiter(Some(&prefix)).await.map(drop) })
                .await;
        match (self.role, self.of_refusal(listed)) {
            (Role::Host, _) if self.is_directory => {}
            (Role::Host, Refusal::Refused(_)) => {
                self.say(
                    "list",
                    Verdict::Ok,
                    "listing is refused, and a host does not need it",
                    None,
                );
            }
            (Role::Host, Refusal::CarriedOut) => {
                let Permissions { put, get, list, .. } = self.permissions;
                let advice = format!("a host needs {put} and {get} alone: take {list} away");
                self.say(
                    "list",
                    Verdict::Warning,
                    "these credentials can list the bucket",
                    Some(&advice),
                );
            }
            (Role::Reader, Refusal::CarriedOut) => {
                self.say("list", Verdict::Ok, "the bucket can be listed", None)
            }
            (Role::Reader, Refusal::Refused(said)) => {
                let advice = format!("allow {} for the prefix", self.permissions.list);
                self.say("list", Verdict::Problem, said, Some(&advice));
            }
            (_, Refusal::Unclear(said)) => self.say("list", Verdict::Unknown, said, None),
        }
    }

    async fn delete(&mut self) {
        let advice = self.permissions.deleting;
        // A reader asks for something that does not exist, which those who may delete are granted
        // all the same.
        let deleted = match &self.wire {
            // A client may ask for several to be deleted at once, whose answer is another one.
            Some(wire) => of_answer(wire.delete(&self.path, None).await),
            None => self.of_refusal(limited(self.store().delete(&self.path)).await),
        };
        match deleted {
            Refusal::Refused(_) => self.say("delete", Verdict::Ok, "deleting is refused", None),
            Refusal::CarriedOut if self.is_directory => {
                self.say("delete", Verdict::Warning, permissions::OF_DIRECTORY, None)
            }
            Refusal::CarriedOut => {
                self.say(
                    "delete",
                    Verdict::Problem,
                    "these credentials can delete objects",
                    Some(advice),
                );
            }
            Refusal::Unclear(said) => self.say("delete", Verdict::Unknown, said, None),
        }
    }

    async fn read_only(&mut self) {
        let Permissions { put, get, list, .. } = self.permissions;
        let advice = format!("a reader needs {get} and {list} alone: take {put} away");
        match self.of_refusal(self.put(PutMode::Create).await) {
            Refusal::Refused(_) => self.say("write", Verdict::Ok, "writing is refused", None),
            Refusal::CarriedOut if self.is_directory => {
                self.say("write", Verdict::Warning, permissions::OF_DIRECTORY, None)
            }
            Refusal::CarriedOut => {
                self.say("write", Verdict::Warning, "these credentials can write", Some(&advice));
            }
            Refusal::Unclear(said) => self.say("write", Verdict::Unknown, said, None),
        }
    }

    /// Reads whatever is there.
    async fn read_any(&mut self) {
        let prefix = self.bucket.prefix().clone();
        let found = limited(async {
            let mut listed = self.store().list(Some(&prefix));
            let Some(first) = listed.try_next().await? else { return Ok(None) };
            let head =
                self.store().get_opts(&first.location, GetOptions::new().with_head(true)).await;
            head.map(|_| Some(first.location))
        });
        match found.await {
            Ok(Some(location)) => {
                self.say("read", Verdict::Ok, format!("{location} can be read"), None)
            }
            Ok(None) => self.say("read", Verdict::Unknown, "there is nothing to be read", None),
            Err(error) => {
                let advice = format!("allow {} under the prefix", self.permissions.get);
                self.say("read", Verdict::Problem, self.describe(&error), Some(&advice));
            }
        }
    }
}

async fn limited<T>(
    request: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(result) => result,
        Err(_elapsed) => {
            let said = format!("no answer within {} s", PATIENCE.as_secs());
            Err(Error::Generic { store: "bucket", source: said.into() })
        }
    }
}

fn says_seen(attributes: &Attributes) -> bool {
    attributes.get(&Attribute::Metadata("doctor".into())).is_some_and(|value| &**value == "seen")
}

/// Whether the store said something, whatever it was.
fn is_answer(error: &Error) -> bool {
    is_refusal(error) || status(error).is_some()
}

/// Whether the store said that it may not be done.
fn is_refusal(error: &Error) -> bool {
    let known = matches!(
        error,
        Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
    );
    // Listings are told by their text alone.
    known || status(error).is_some_and(|status| matches!(status, 401 | 403 | 405))
}

fn of_answer(answer: Result<Answer, String>) -> Refusal {
    match answer {
        Ok(answer) if (200..300).contains(&answer.status) => Refusal::CarriedOut,
        Ok(answer) if matches!(answer.status, 401 | 403 | 405) => {
            Refusal::Refused(answer.to_string())
        }
        Ok(answer) => Refusal::Unclear(answer.to_string()),
        Err(said) => Refusal::Unclear(said),
    }
}
