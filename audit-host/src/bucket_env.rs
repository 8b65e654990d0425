//! The environment of one bucket, where the host's own must not count.

use std::collections::BTreeMap;
use std::fmt;

use audit_core::read_text;
use audit_sink_http::SecretSource;
use audit_sink_s3::{Bucket, OpenError};
use serde::Deserialize;

/// The variables that a bucket is opened with instead of the host's environment. A value is given
/// as it is, or as a [`SecretSource`]; secrets only as a source. `Debug` shows names alone.
///
/// Empty, it stands for the host's environment.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct BucketEnv(BTreeMap<String, Value>);

#[derive(Clone, PartialEq, Eq)]
enum Value {
    Plain(String),
    From(SecretSource),
}

/// Parts of the names of variables that hold a secret.
const SECRETS: [&str; 5] = ["key", "secret", "token", "sas", "proxy"];

/// Ends of the names of variables that hold something else nevertheless.
const NO_SECRETS: [&str; 4] = ["_file", "_path", "_key_id", "_key_enabled"];

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETS.iter().any(|part| name.contains(part))
        && !NO_SECRETS.iter().any(|end| name.ends_with(end))
}

impl TryFrom<BTreeMap<String, String>> for BucketEnv {
    type Error = String;

    /// # Errors
    ///
    /// If a secret is given as it is. The error shows the name alone.
    fn try_from(variables: BTreeMap<String, String>) -> Result<BucketEnv, String> {
        let variables = variables.into_iter().map(|(name, text)| {
            let value = match text.parse() {
                Ok(source) => Value::From(source),
                Err(why) if is_secret(&name) => return Err(format!("{why}: {name}")),
                Err(_) => Value::Plain(text),
            };
            Ok((name, value))
        });
        Ok(BucketEnv(variables.collect::<Result<_, _>>()?))
    }
}

impl Value {
    fn read(&self) -> Result<String, String> {
        let text = match self {
            Value::Plain(text) => return Ok(text.clone()),
            Value::From(SecretSource::Env(name)) => std::env::var(name)
                .map_err(|_| format!("the variable {name} is not set, or not UTF-8"))?,
            Value::From(SecretSource::File(path)) => {
                let text = read_text(path);
                text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?
            }
        };
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err("it is empty".to_owned()),
            text => Ok(text.to_owned()),
        }
    }
}

/// The variables that say which server or account a bucket's name belongs to.
const PLACES: [&str; 7] = [
    "aws_endpoint",
    "aws_endpoint_url",
    "aws_endpoint_url_s3",
    "google_base_url",
    "azure_endpoint",
    "azure_storage_account_name",
    "azure_storage_endpoint",
];

impl BucketEnv {
    /// Opens a bucket with these variables, or with the host's environment if there are none.
    ///
    /// # Errors
    ///
    /// If a secret cannot be read, and those of [`Bucket::open_with`]. Errors show no secret.
    pub fn open(&self, url: &str) -> Result<Bucket, OpenError> {
        if self.0.is_empty() {
            return Bucket::open(url);
        }
        let variables = self.0.iter().map(|(name, value)| {
            let value = value.read();
            let value = value.map_err(|why| OpenError::configuration(format!("{name}: {why}")))?;
            Ok::<_, OpenError>((name, value))
        });
        Bucket::open_with_only(url, variables.collect::<Result<Vec<_>, _>>()?)
    }

    /// Says which server or account the names of buckets belong to, as far as variables say it.
    /// Those that cannot be read have no value.
    pub(crate) fn place(&self) -> String {
        let own = |(name, value): (&String, &Value)| (name.clone(), value.read().ok());
        let variables: Vec<_> = match self.0.is_empty() {
            true => std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .map(|(name, value)| (name, value.into_string().ok()))
                .collect(),
            false => self.0.iter().map(own).collect(),
        };
        let mut places: Vec<_> = variables
            .into_iter()
            .filter(|(name, _)| PLACES.contains(&name.to_ascii_lowercase().as_str()))
            .filter_map(|(_, value)| Some(value?.trim_end_matches('/').to_ascii_lowercase()))
            .collect();
        places.sort_unstable();
        places.join(" ")
    }
}

impl fmt::Debug for BucketEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> Result<BucketEnv, String> {
        let variables = variables.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        variables.collect::<BTreeMap<_, _>>().try_into()
    }

    #[test]
    fn secrets_are_given_by_their_source_alone() {
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "aws_secret_access_key",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_BEARER_TOKEN",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_CLIENT_SECRET",
            "AZURE_STORAGE_SAS_KEY",
        ] {
            let error = env(&[(name, "hunter2")]).unwrap_err();
            assert_eq!(
                error,
                format!("a secret is given as env:NAME or file:/path, not as it is: {name}")
            );
            env(&[(name, "env:X")]).unwrap();
        }
        let plain = [
            ("AWS_ACCESS_KEY_ID", "AKIA"),
            ("AWS_ENDPOINT", "https://minio.example"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/token"),
            ("GOOGLE_SERVICE_ACCOUNT", "/run/key.json"),
        ];
        assert_eq!(format!("{:?}", env(&plain[..1]).unwrap()), "{\"AWS_ACCESS_KEY_ID\"}");
        env(&plain).unwrap();
    }

    #[test]
    fn errors_name_the_variable_and_show_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("file:{}", directory.path().join(name).display());
        std::fs::write(directory.path().join("empty"), "\n").unwrap();
        std::fs::write(directory.path().join("key"), "hunter2hunter2\n").unwrap();
        for (name, text, says) in [
            ("AWS_SECRET_ACCESS_KEY", "env:AUDIT_NO_SUCH", "the variable AUDIT_NO_SUCH is not set"),
            ("AWS_SECRET_ACCESS_KEY", &*at("missing"), "cannot be read: "),
            ("AWS_SECRET_ACCESS_KEY", &at("empty"), "AWS_SECRET_ACCESS_KEY: it is empty"),
            // An unknown variable, and values that are invalid.
            ("AWS_SECRETS", &at("key"), "the s3 store has no option aws_secrets"),
            ("AWS_ENDPOINT", &at("key"), "aws_endpoint is not a URL"),
            ("AWS_DISABLE_TAGGING", &at("key"), "aws_disable_tagging: "),
        ] {
            let error = env(&[(name, text)]).unwrap().open("s3://b/p").unwrap_err();
            let error = audit_core::with_sources(&error);
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
        assert!(env(&[("AWS_REGION", "x")]).unwrap().open("file:///a").is_err());
    }
}
