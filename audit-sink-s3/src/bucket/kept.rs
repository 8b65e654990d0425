//! The storage class and the tags of new objects.
#![cfg_attr(
    not(any(feature = "aws", feature = "gcp", feature = "azure")),
    allow(dead_code, reason = "only the providers' stores have settings")
)]

use object_store::{Attribute, Attributes, TagSet};

/// The storage class and the tags of every object that is created.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    storage_class: Option<String>,
    tags: TagSet,
}

/// The limits of S3 and Azure on the number of tags of an object and on the characters of their
/// names and values.
const MAX_TAGS: usize = 10;
const MAX_TAG_NAME: usize = 128;
const MAX_TAG_VALUE: usize = 256;

/// Storage classes whose objects must be restored before they can be read.
const ARCHIVED: [&str; 4] = ["GLACIER", "DEEP_ARCHIVE", "Archive", "archive"];

impl Kept {
    /// Sets the storage class.
    ///
    /// # Errors
    ///
    /// If the class is invalid. The text completes a sentence that begins with the setting's name.
    pub(crate) fn storage_class(mut self, class: &str) -> Result<Kept, &'static str> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if class.is_empty() || class.len() > 64 || !class.chars().all(is_word) {
            return Err("is not the name of a storage class");
        }
        if ARCHIVED.contains(&class) {
            return Err("names a class whose objects cannot be read until they are restored: \
                        move them there later, with a lifecycle rule of the bucket");
        }
        self.storage_class = Some(class.to_owned());
        Ok(self)
    }

    /// Sets the tags, in the form `name=value&name=value`.
    ///
    /// # Errors
    ///
    /// If a tag is invalid. The text completes a sentence that begins with the setting's name.
    pub(crate) fn tags(mut self, text: &str) -> Result<Kept, &'static str> {
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        let mut names = Vec::new();
        for (name, value) in pairs {
            if name.is_empty() || name.chars().count() > MAX_TAG_NAME {
                return Err("has a tag whose name does not have 1 to 128 characters");
            }
            if value.chars().count() > MAX_TAG_VALUE {
                return Err("has a tag whose value exceeds limit of 256 characters");
            }
            self.tags.push(&name, &value);
            if names.contains(&name) {
                return Err("has two tags with the same name");
            }
            names.push(name);
        }
        if names.is_empty() || names.len() > MAX_TAGS {
            return Err("does not have 1 to 10 tags, as in team=audit&kind=log");
        }
        Ok(self)
    }

    /// Adds the storage class to an object's attributes, and returns the tags with them.
    pub(crate) fn apply(&self, mut attributes: Attributes) -> (Attributes, TagSet) {
        if let Some(class) = &self.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        (attributes, self.tags.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_classes_and_tags_are_rejected() {
        let class = |text: &str| Kept::default().storage_class(text).map(drop);
        assert_eq!(["STANDARD_IA", "GLACIER_IR", "Cool", "NEARLINE"].map(class), [Ok(()); 4]);
        assert!(class("DEEP_ARCHIVE").unwrap_err().contains("restored"));
        assert!(["", "a b", "a\nb"].map(class).iter().all(Result::is_err));

        let tags =
            |text: &str| Kept::default().tags(text).map(|kept| kept.tags.encoded().to_owned());
        assert_eq!(tags("team=audit&kind=a%26b").unwrap(), "team=audit&kind=a%26b");
        let many = (0..11).map(|n| format!("{n}=x")).collect::<Vec<_>>().join("&");
        let (name, value) = ("n".repeat(129), format!("n={}", "v".repeat(257)));
        for text in ["", "=x", "a=1&a=2", &many, &name, &value] {
            assert!(tags(text).is_err(), "{text}");
        }
    }
}
