//! Checks of writing, overwriting and removing.

use object_store::path::Path;
use object_store::{Attribute, Attributes, Error, ObjectStoreExt, PutMode, PutOptions};

use super::check::Verdict;
use super::examination::Examination;
use super::permissions::{self, Permissions};
use super::refusal::{Refusal, limited, of_answer};
use super::wire::Answer;

pub(super) const CONTENT: &str =
    "audit doctor wrote this to check what these credentials may do. It may be removed.\n";

impl Examination {
    fn attributes() -> Attributes {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata("doctor".into()), "seen".into());
        attributes
    }

    async fn put(&self, mode: PutMode) -> object_store::Result<()> {
        let attributes =
            if self.is_directory { Attributes::new() } else { Examination::attributes() };
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        limited(self.store().put_opts(&self.path, CONTENT.into(), options)).await.map(drop)
    }

    pub(super) async fn write(&mut self) -> bool {
        match self.put(PutMode::Create).await {
            Ok(()) => {
                self.say("write", Verdict::Ok, format!("{} was written", self.path), None);
                true
            }
            Err(error) => {
                let advice = "without this nothing is delivered; other permissions were not tested";
                self.say("write", Verdict::Problem, self.describe(&error), Some(advice));
                false
            }
        }
    }

    pub(super) async fn create_only(&mut self) {
        match self.put(PutMode::Create).await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.say("create-only", Verdict::Ok, "creating what exists is refused", None);
            }
            Ok(()) => {
                let said = "the store ignores If-None-Match: creating overwrote what existed";
                let advice = "each record is still delivered once, but nothing protects objects from anybody with these credentials: use a store with conditional writes (AWS, GCS, Azure, MinIO, R2), and set require_create_only";
                self.say("create-only", Verdict::Problem, said, Some(advice));
            }
            Err(error) => self.say("create-only", Verdict::Unknown, self.describe(&error), None),
        }
    }

    pub(super) async fn overwrite(&mut self) {
        // With the same bytes, so that a success changes nothing.
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

    pub(super) async fn checksum(&mut self) {
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
                    format!("an object that does not match its checksum is refused: {code}"),
                    None,
                );
            }
            Ok(Answer { status: 200, .. }) => {
                let advice = "use a store that checks x-amz-checksum-sha256: here a record that is damaged in transit is stored damaged";
                self.say(
                    "checksum",
                    Verdict::Problem,
                    "an object that does not match its checksum was accepted",
                    Some(advice),
                );
            }
            Ok(answer) => self.say("checksum", Verdict::Unknown, answer.to_string(), None),
            Err(said) => self.say("checksum", Verdict::Unknown, said, None),
        }
    }

    /// Versions, retention, and whether a version can be removed.
    pub(super) async fn versions(&mut self) {
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
        let advice = "enable versioning: then objects that somebody with more rights overwrites or deletes can be restored, and Object Lock needs it";
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
                let advice = "use mode COMPLIANCE: in GOVERNANCE, anybody with s3:BypassGovernanceRetention can remove them";
                self.say("object-lock", Verdict::Warning, said, Some(advice));
            }
            None => {
                let said = "objects have no retention, or these credentials may not see it (s3:GetObjectRetention)";
                let advice = "enable Object Lock with a default retention (deploy/aws/object-lock.json): until then an administrator can remove objects";
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
                let said = "these credentials can permanently remove versions of objects";
                self.say("delete-version", Verdict::Problem, said, Some(advice));
            }
            Some(Refusal::Unclear(said)) => {
                self.say("delete-version", Verdict::Unknown, said, None)
            }
        }
    }

    pub(super) async fn delete(&mut self) {
        let advice = self.permissions.deleting;
        // A reader deletes an object that does not exist: with the permission to delete, that
        // succeeds.
        let deleted = match &self.wire {
            // A client may send a bulk deletion, whose response is different.
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

    pub(super) async fn read_only(&mut self) {
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
}
