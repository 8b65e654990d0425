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
                self.ok("write", format!("{} was written", self.path));
                true
            }
            Err(error) => {
                let advice = "without this nothing is delivered; other permissions were not tested";
                self.problem("write", self.describe(&error), advice);
                false
            }
        }
    }

    pub(super) async fn create_only(&mut self) {
        match self.put(PutMode::Create).await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.ok("create-only", "creating what exists is refused");
            }
            Ok(()) => {
                let said = "the store ignores If-None-Match: creating overwrote what existed";
                let advice = "each record is still delivered once, but nothing protects objects from anybody with these credentials: use a store with conditional writes (AWS, GCS, Azure, MinIO, R2), and set require_create_only";
                self.problem("create-only", said, advice);
            }
            Err(error) => self.unknown("create-only", self.describe(&error)),
        }
    }

    pub(super) async fn overwrite(&mut self) {
        // Overwrites the object with the same bytes, so that a success changes nothing.
        let advice = self.permissions.overwriting;
        match self.of_refusal(self.put(PutMode::Overwrite).await) {
            Refusal::Refused(_) => self.ok("overwrite", "overwriting is refused"),
            Refusal::CarriedOut if self.is_directory => {
                self.say("overwrite", Verdict::Warning, permissions::OF_DIRECTORY, None);
            }
            Refusal::CarriedOut => {
                self.problem("overwrite", "these credentials can overwrite objects", advice);
            }
            Refusal::Unclear(said) => self.unknown("overwrite", said),
        }
    }

    pub(super) async fn checksum(&mut self) {
        let Some(wire) = &self.wire else {
            return self.unknown("checksum", "tried on s3:// only");
        };
        let path = Path::from(format!("{}-damaged", self.path));
        match wire.put_with_wrong_checksum(&path, CONTENT).await {
            Ok(Answer { status, code, .. }) if (400..500).contains(&status) && status != 403 => {
                let code = code.unwrap_or_default();
                self.ok(
                    "checksum",
                    format!("an object that does not match its checksum is refused: {code}"),
                );
            }
            Ok(Answer { status: 200, .. }) => {
                let advice = "use a store that checks x-amz-checksum-sha256: here a record that is damaged in transit is stored damaged";
                self.problem(
                    "checksum",
                    "an object that does not match its checksum was accepted",
                    advice,
                );
            }
            Ok(answer) => self.unknown("checksum", answer.to_string()),
            Err(said) => self.unknown("checksum", said),
        }
    }

    /// Versions, retention, and whether a version can be removed.
    pub(super) async fn versions(&mut self) {
        let Some(wire) = &self.wire else {
            for check in ["versioning", "object-lock"] {
                self.unknown(check, "tried on s3:// only");
            }
            return;
        };
        let head = match wire.head(&self.path).await {
            Ok(head) if head.status == 200 => head,
            Ok(answer) => {
                return self.unknown("versioning", answer.to_string());
            }
            Err(said) => return self.unknown("versioning", said),
        };
        let removed = match &head.version_id {
            Some(version) => Some(of_answer(wire.delete(&self.path, Some(version)).await)),
            None => None,
        };
        let advice = "enable versioning: then objects that somebody with more rights overwrites or deletes can be restored, and Object Lock needs it";
        match &head.version_id {
            Some(_) => self.ok("versioning", "objects have versions"),
            None => self.warning("versioning", "objects have no versions", advice),
        }
        let until = head.retain_until.unwrap_or_default();
        match head.lock_mode.as_deref() {
            Some("COMPLIANCE") => {
                self.ok("object-lock", format!("nobody can remove objects before {until}"));
            }
            Some(mode) => {
                let said = format!("objects are kept until {until} in mode {mode}");
                let advice = "use mode COMPLIANCE: in GOVERNANCE, anybody with s3:BypassGovernanceRetention can remove them";
                self.warning("object-lock", said, advice);
            }
            None => {
                let said = "objects have no retention, or these credentials may not see it (s3:GetObjectRetention)";
                let advice = "enable Object Lock with a default retention (deploy/aws/object-lock.json): until then an administrator can remove objects";
                self.warning("object-lock", said, advice);
            }
        }
        let advice = "do not allow s3:DeleteObjectVersion, and deny it in the bucket's policy (Sid NoDeleting)";
        match removed {
            None => {}
            Some(Refusal::Refused(_)) => {
                self.ok("delete-version", "removing a version is refused");
            }
            Some(Refusal::CarriedOut) => {
                let said = "these credentials can permanently remove versions of objects";
                self.problem("delete-version", said, advice);
            }
            Some(Refusal::Unclear(said)) => self.unknown("delete-version", said),
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
            Refusal::Refused(_) => self.ok("delete", "deleting is refused"),
            Refusal::CarriedOut if self.is_directory => {
                self.say("delete", Verdict::Warning, permissions::OF_DIRECTORY, None)
            }
            Refusal::CarriedOut => {
                self.problem("delete", "these credentials can delete objects", advice);
            }
            Refusal::Unclear(said) => self.unknown("delete", said),
        }
    }

    pub(super) async fn read_only(&mut self) {
        let Permissions { put, get, list, .. } = self.permissions;
        let advice = format!("a reader needs {get} and {list} alone: take {put} away");
        match self.of_refusal(self.put(PutMode::Create).await) {
            Refusal::Refused(_) => self.ok("write", "writing is refused"),
            Refusal::CarriedOut if self.is_directory => {
                self.say("write", Verdict::Warning, permissions::OF_DIRECTORY, None)
            }
            Refusal::CarriedOut => {
                self.warning("write", "these credentials can write", &advice);
            }
            Refusal::Unclear(said) => self.unknown("write", said),
        }
    }
}
