//! Checks of listing and reading.

use futures::TryStreamExt;
use object_store::{Attribute, Attributes, GetOptions};

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
                self.problem("read", "what was read is not what was written", advice);
            }
            Ok((attributes, _)) if !self.is_directory && !says_seen(&attributes) => {
                let advice = "let the gateway pass x-amz-meta headers on: without them a lost answer is made certain only by reading the whole object, and readers cannot check what they read";
                self.warning("read", "the store lost the object's metadata", advice);
            }
            Ok(_) => self.ok("read", "what was written can be read"),
            Err(error) => self.problem("read", self.describe(&error), &advice),
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
                self.ok("list", "listing is refused, and a host does not need it");
            }
            (Role::Host, Refusal::CarriedOut) => {
                let Permissions { put, get, list, .. } = self.permissions;
                let advice = format!("a host needs {put} and {get} alone: take {list} away");
                self.warning("list", "these credentials can list the bucket", &advice);
            }
            (Role::Reader, Refusal::CarriedOut) => self.ok("list", "the bucket can be listed"),
            (Role::Reader, Refusal::Refused(said)) => {
                let advice = format!("allow {} for the prefix", self.permissions.list);
                self.problem("list", said, &advice);
            }
            (_, Refusal::Unclear(said)) => self.unknown("list", said),
        }
    }

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
            Ok(Some(location)) => self.ok("read", format!("{location} can be read")),
            Ok(None) => self.unknown("read", "there is nothing to be read"),
            Err(error) => {
                let advice = format!("allow {} under the prefix", self.permissions.get);
                self.problem("read", self.describe(&error), &advice);
            }
        }
    }
}

fn says_seen(attributes: &Attributes) -> bool {
    attributes.get(&Attribute::Metadata("doctor".into())).is_some_and(|value| &**value == "seen")
}
