//! Checks of listing and reading.

use futures::TryStreamExt;
use object_store::{Attribute, Attributes, GetOptions};

use super::check::Verdict;
use super::examination::Examination;
use super::permissions::Permissions;
use super::refusal::{Refusal, limited};
use super::writing::CONTENT;
use crate::arguments::Role;

impl Examination {
    pub(super) async fn read(&mut self) {
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

    pub(super) async fn list(&mut self) {
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

    /// Reads any object.
    pub(super) async fn read_any(&mut self) {
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

fn says_seen(attributes: &Attributes) -> bool {
    attributes.get(&Attribute::Metadata("doctor".into())).is_some_and(|value| &**value == "seen")
}
