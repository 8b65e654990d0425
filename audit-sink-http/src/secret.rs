//! Secrets of log streams: they come from the environment or a file, and are never shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use audit_core::read_text;
use serde::{Deserialize, Serialize};
use url::Url;

/// The location of a secret: `env:NAME` or `file:/path`. It is never the secret itself, so it may
/// appear in a settings file and in `Debug`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretSource {
    /// In this environment variable.
    Env(String),
    /// In this file, without a trailing line break.
    File(PathBuf),
}

impl FromStr for SecretSource {
    type Err = String;

    /// Parses `env:NAME` or `file:/path`.
    ///
    /// # Errors
    ///
    /// If the text is anything else. It is not shown, since it may be the secret.
    fn from_str(text: &str) -> Result<SecretSource, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(SecretSource::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(SecretSource::File(path.into())),
            _ => Err("a secret is given as env:NAME or file:/path, not as it is".to_owned()),
        }
    }
}

impl TryFrom<String> for SecretSource {
    type Error = String;

    fn try_from(text: String) -> Result<SecretSource, String> {
        text.parse()
    }
}

impl From<SecretSource> for String {
    fn from(source: SecretSource) -> String {
        source.to_string()
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Env(name) => write!(f, "env:{name}"),
            SecretSource::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl SecretSource {
    pub(crate) fn read(&self) -> Result<Secret, String> {
        let text = match self {
            SecretSource::Env(name) => std::env::var(name)
                .map_err(|_| format!("the variable {name} is not set, or not UTF-8"))?,
            SecretSource::File(path) => {
                let text = read_text(path);
                text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?
            }
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(format!("the secret {self} is empty"));
        }
        if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(format!("the secret {self} has characters that are not visible ASCII"));
        }
        Ok(Secret(text.to_owned()))
    }
}

/// A secret that was read. `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct Secret(String);

/// The minimum length of a value in a query that counts as a secret, in bytes. Shorter values would
/// be removed from ordinary words too.
const MIN_SECRET_BYTES: usize = 6;

impl Secret {
    /// The values in the query of a URL, as they are written and decoded.
    pub(crate) fn of_query(url: &Url) -> Vec<Secret> {
        let parts = url.query().unwrap_or_default().split('&');
        let written = parts.map(|part| part.split_once('=').map_or(part, |(_, value)| value));
        let decoded = url.query_pairs().map(|(_, value)| value.into_owned());
        let values = written.map(str::to_owned).chain(decoded);
        values.filter(|value| value.len() >= MIN_SECRET_BYTES).map(Secret).collect()
    }

    #[cfg(test)]
    pub(crate) fn new(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Removes this secret from foreign text.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "..")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "hunter2 is long\n").unwrap();
        let source: SecretSource = format!("file:{}", path.display()).parse().unwrap();
        let secret = source.read().unwrap();
        assert_eq!(secret.as_str(), "hunter2 is long");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(secret.redact("you sent hunter2 is long!"), "you sent ..!");
        let error = "hunter2".parse::<SecretSource>().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        std::fs::write(&path, "two\nlines").unwrap();
        assert!(!source.read().unwrap_err().contains("two"));
        std::fs::write(&path, "\n").unwrap();
        assert!(source.read().is_err());
        assert!("env:AUDIT_NO_SUCH_VARIABLE".parse::<SecretSource>().unwrap().read().is_err());
    }
}
