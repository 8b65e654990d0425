//! Pages of a listing.

use std::ops::Bound;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{ETag, Timestamp};

use super::Store;
use crate::requests::decode;

/// The maximum and default size of a page.
const PAGE: usize = 1000;

pub(crate) struct PageAsked<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) delimiter: Option<&'a str>,
    /// The token of the previous page.
    pub(crate) token: Option<&'a str>,
    pub(crate) start_after: Option<&'a str>,
    pub(crate) max_keys: Option<usize>,
}

/// A page, in the order of keys.
pub(crate) struct Page {
    pub(crate) keys: Vec<Listed>,
    /// The common prefixes up to the delimiter.
    pub(crate) folders: Vec<String>,
    pub(crate) max_keys: usize,
    /// The token of the next page, if there is one.
    pub(crate) next: Option<String>,
}

pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) size: i64,
    pub(crate) e_tag: ETag,
    pub(crate) last_modified: Timestamp,
}

impl Store {
    pub(crate) fn page(&self, asked: &PageAsked<'_>) -> Page {
        let PageAsked { prefix, delimiter, token, start_after, max_keys } = *asked;
        let max_keys = max_keys.unwrap_or(PAGE).min(PAGE);
        // The token is the last name of the previous page, encoded, since a name may contain
        // characters that XML cannot.
        let token = token.map(decode);
        let after = token.as_deref().max(start_after);

        let entries = self.entries();
        let (mut keys, mut folders) = (Vec::new(), Vec::new());
        let mut last = None;
        let mut is_truncated = false;
        let range = (Bound::Included(prefix), Bound::Unbounded);
        for (key, entry) in
            entries.range::<str, _>(range).take_while(|(key, _)| key.starts_with(prefix))
        {
            let folder = delimiter.and_then(|delimiter| {
                let end = prefix.len() + key[prefix.len()..].find(delimiter)? + delimiter.len();
                Some(&key[..end])
            });
            let name = folder.unwrap_or(key);
            if after.is_some_and(|after| name <= after) || last == Some(name) {
                continue;
            }
            if keys.len() + folders.len() == max_keys {
                is_truncated = true;
                break;
            }
            last = Some(name);
            match folder {
                Some(folder) => folders.push(folder.to_owned()),
                None => keys.push(Listed {
                    key: key.clone(),
                    size: entry.size(),
                    e_tag: entry.e_tag.clone(),
                    last_modified: entry.last_modified.clone(),
                }),
            }
        }
        let next = last
            .filter(|_| is_truncated)
            .map(|last| utf8_percent_encode(last, NON_ALPHANUMERIC).to_string());
        Page { keys, folders, max_keys, next }
    }
}
