//! Buckets and directories that must be apart from each other.

use std::path::{Component, Path, PathBuf};

use url::Url;

use crate::without_secrets;

/// A bucket and its owner.
pub(crate) struct OwnedBucket<'a> {
    /// The owner, as named in a sentence.
    pub(crate) whose: String,
    pub(crate) url: &'a str,
    /// The server or account that its name belongs to, as far as that is known.
    pub(crate) place: String,
}

/// A bucket with its prefix.
struct Place {
    /// The owner, as named in a sentence.
    whose: String,
    url: String,
    /// The store, and the bucket unless it is a directory.
    store: String,
    /// A directory with its links resolved, or a prefix.
    path: PathBuf,
}

impl Place {
    /// `None` if the URL names memory, which no other bucket shares, or if it is invalid, which
    /// opening the bucket reports.
    fn new(bucket: OwnedBucket<'_>) -> Result<Option<Place>, String> {
        let OwnedBucket { whose, url, place: server } = bucket;
        let Ok(parsed) = Url::parse(url) else { return Ok(None) };
        let place = |store: String, path| {
            Some(Place { whose: whose.clone(), url: without_secrets(url), store, path })
        };
        Ok(match (parsed.scheme(), directory_of(url)) {
            ("memory", _) => None,
            (scheme, Some(directory)) => place(scheme.to_owned(), resolved(&directory)?),
            (scheme, None) => {
                let name = parsed.host_str().unwrap_or_default();
                let store = format!("{scheme}://{name} of {server}");
                // Decoded as the path of a file is.
                let path = Url::parse(&format!("file://{}", parsed.path()));
                let path = path.ok().and_then(|path| path.to_file_path().ok());
                place(store, path.unwrap_or_else(|| PathBuf::from(parsed.path())))
            }
        })
    }

    fn is_within(&self, other: &Place) -> bool {
        self.store == other.store && self.path.starts_with(&other.path)
    }
}

/// Checks that no bucket is the same as another or within another.
///
/// # Errors
///
/// If two of them are not apart, naming both, or a path cannot be resolved.
pub(crate) fn check_buckets<'a>(
    buckets: impl IntoIterator<Item = OwnedBucket<'a>>,
) -> Result<(), String> {
    let mut before: Vec<Place> = Vec::new();
    for bucket in buckets {
        let Some(place) = Place::new(bucket)? else { continue };
        let meets = |other: &&Place| place.is_within(other) || other.is_within(&place);
        if let Some(other) = before.iter().find(meets) {
            let is = match (place.is_within(other), other.is_within(&place)) {
                (true, true) => "is",
                (true, false) => "is within",
                (false, _) => "contains",
            };
            return Err(format!(
                "the bucket {} of {} {is} the bucket {} of {}, and whoever reads one would find \
                 the other's logs: give each a bucket or a prefix of its own",
                place.url, place.whose, other.url, other.whose
            ));
        }
        before.push(place);
    }
    Ok(())
}

/// Whether two buckets, given by URL, are different and neither is within the other. Links are
/// followed.
///
/// # Errors
///
/// If a path cannot be resolved.
pub fn are_apart(one: &str, other: &str) -> Result<bool, String> {
    let place = |url| Place::new(OwnedBucket { whose: String::new(), url, place: String::new() });
    let places = place(one)?.zip(place(other)?);
    Ok(places.is_none_or(|(one, other)| !one.is_within(&other) && !other.is_within(&one)))
}

/// The URL of a path, whatever characters are in it. A relative path is resolved in the current
/// directory.
///
/// # Errors
///
/// If the path is empty, or not UTF-8.
pub fn file_url(path: &Path) -> Result<String, String> {
    let is_parent = |component| component == Component::ParentDir;
    // A URL leaves out `..` with what is before it, even if that is a link to elsewhere.
    let path = match path.components().any(is_parent) {
        true => resolved(path)?,
        false => absolute(path)?,
    };
    let no_url = |()| format!("the path {} has no URL: choose another", path.display());
    Url::from_file_path(&path).map(String::from).map_err(no_url)
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(path).map_err(|error| {
        let path = path.display();
        format!("the path {path} cannot be used: {error}: start where a directory exists")
    })?;
    if absolute.to_str().is_none() {
        // Escaped, since the bytes that are not UTF-8 may be invisible.
        return Err(format!("the path {absolute:?} is not UTF-8: choose another data directory"));
    }
    Ok(absolute)
}

/// Checks that private files and journals, given with their names, are in no bucket that is a
/// directory, and that neither such a bucket nor another journal is in a journal.
///
/// # Errors
///
/// If they are not apart, naming both, or a path cannot be resolved.
pub(crate) fn check_directories<'a>(
    buckets: impl IntoIterator<Item = &'a str>,
    private: &[(String, &Path)],
    journals: &[(String, &Path)],
) -> Result<(), String> {
    for (n, (name, journal)) in journals.iter().enumerate() {
        for (other_name, other) in journals.iter().take(n) {
            if is_below(journal, other)? || is_below(other, journal)? {
                let (journal, other) = (journal.display(), other.display());
                return Err(format!(
                    "{name} is {journal}, and {other_name} is {other}: give each a directory of its \
                     own"
                ));
            }
        }
    }
    for bucket in buckets.into_iter().filter_map(directory_of) {
        let shown = bucket.display();
        for (name, path) in private.iter().chain(journals) {
            if is_below(path, &bucket)? {
                let path = path.display();
                return Err(format!(
                    "{name} is {path}, within the bucket {shown}, where all readers see it: choose \
                     another directory"
                ));
            }
        }
        for (name, journal) in journals {
            if is_below(&bucket, journal)? {
                let journal = journal.display();
                return Err(format!(
                    "the bucket {shown} is within {name} {journal}, which owns its directory: \
                     choose another"
                ));
            }
        }
    }
    Ok(())
}

/// The directory that is a bucket, if this URL names one.
fn directory_of(url: &str) -> Option<PathBuf> {
    url.starts_with("file:").then(|| Url::parse(url).ok()?.to_file_path().ok())?
}

/// Whether `path` is this directory or below it. Links are followed.
fn is_below(path: &Path, directory: &Path) -> Result<bool, String> {
    Ok(resolved(path)?.starts_with(resolved(directory)?))
}

/// The absolute path, with links resolved in the part of it that exists.
fn resolved(path: &Path) -> Result<PathBuf, String> {
    let path = absolute(path)?;
    let mut resolved = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            resolved.pop();
        } else {
            resolved.push(component);
        }
        if let Ok(real) = resolved.canonicalize() {
            resolved = real;
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair of places, in either order.
    #[test]
    fn buckets_are_apart() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| format!("file://{}/{path}", root.path().display());
        std::fs::create_dir_all(root.path().join("logs/acme")).unwrap();
        std::os::unix::fs::symlink("logs", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("logs/acme", root.path().join("acme")).unwrap();
        let check = |one: &str, other: &str| {
            let owned = |whose: &str, url| OwnedBucket {
                whose: whose.to_owned(),
                url,
                place: String::new(),
            };
            check_buckets([owned("the host", one), owned("the route \"other\"", other)])
        };
        for (one, other) in [
            ("s3://b/p", "s3://b/p"),
            ("s3://b/p", "s3://b/p/"),
            ("s3://b/p", "s3://b/p?region=eu-central-1"),
            ("s3://b/p", "s3://b//p//"),
            ("s3://b/p", "s3://b/q/../p"),
            ("s3://b/p", "s3://b/%70"),
            ("s3://b", "s3://b/"),
            ("s3://b", "s3://b/p"),
            ("s3://b/p", "s3://b/p/q"),
            ("gs://b/p", "gs://b/p/q/r"),
            ("az://c/p", "az://c/p"),
            (&*at("logs"), &*at("logs/")),
            (&at("logs"), &at("x/../logs")),
            (&at("logs"), &at("link")),
            (&at("logs"), &at("acme")),
            (&at("logs/acme"), &at("acme")),
            (&at("logs"), &at("link/new")),
            (&at("new"), &at("new/below")),
            (&at("new"), &at("%6eew")),
            (&at(""), &at("logs")),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                assert!(!are_apart(one, other).unwrap(), "{one} {other}");
                let error = check(one, other).unwrap_err();
                assert!(error.contains("\"other\""), "{error}");
                assert!(error.ends_with("give each a bucket or a prefix of its own"), "{error}");
                assert!(!error.contains("region"), "{error}");
            }
        }
        for (one, other) in [
            ("s3://b/p", "s3://b/pq"),
            ("s3://b/p", "s3://c/p"),
            ("s3://b/p", "gs://b/p"),
            ("s3://b/p", "s3://b/P"),
            ("memory:///", "memory:///"),
            (&*at("logs"), &*at("logs-acme")),
            (&at("new"), &at("newer")),
        ] {
            check(one, other).unwrap();
            assert!(are_apart(one, other).unwrap(), "{one} {other}");
        }
    }

    /// Two servers have buckets of the same name.
    #[test]
    fn buckets_of_two_servers_are_apart() {
        let check = |places: [&str; 2]| {
            check_buckets(places.map(|place| OwnedBucket {
                whose: "a route".to_owned(),
                url: "s3://audit/logs",
                place: place.to_owned(),
            }))
        };
        check(["https://one.example", "https://two.example"]).unwrap();
        check(["", "https://two.example"]).unwrap();
        check(["https://one.example"; 2]).unwrap_err();
    }

    #[test]
    fn every_path_has_a_url_that_leads_back() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
        for name in ["plain", "a#b", "a?b", "100%", "a%20b", "a b ", "a\\b", "tab\there", "é", "["]
        {
            let url = file_url(&root.join(name)).unwrap();
            assert_eq!(directory_of(&url), Some(root.join(name)), "{url}");
        }
        // `..` is resolved from where the link leads, not from where it is.
        let url = file_url(&root.join("link/../data")).unwrap();
        assert_eq!(directory_of(&url), Some(root.join("a/data")));
        // Without `..`, the URL keeps the name of the link, under which records name the bucket.
        let url = file_url(&root.join("link/data")).unwrap();
        assert_eq!(directory_of(&url), Some(root.join("link/data")));
        assert!(file_url(Path::new("")).is_err());
    }
}
