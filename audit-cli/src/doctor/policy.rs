//! The policies that a bucket and its users need, with the names filled in: those of `deploy/aws`.
//! `policies` links to them, so that they are in the package.

use object_store::path::Path;
use serde_json::Value;
use url::Url;

use crate::arguments::Policy;
use crate::bucket::to_url;
use crate::failure::{Failure, Outcome};
use crate::output::Output;

fn text(policy: Policy) -> &'static str {
    match policy {
        Policy::Host => include_str!("../../policies/host-policy.json"),
        Policy::Reader => include_str!("../../policies/reader-policy.json"),
        Policy::Bucket => include_str!("../../policies/bucket-policy.json"),
        Policy::Lifecycle => include_str!("../../policies/lifecycle.json"),
        Policy::ObjectLock => include_str!("../../policies/object-lock.json"),
    }
}

/// The document for the bucket and the prefix of this URL.
pub(crate) fn filled(policy: Policy, url: &str) -> Result<String, Failure> {
    let url = to_url(url)?;
    let parsed = Url::parse(&url).ok().filter(|parsed| parsed.scheme() == "s3");
    let is_name = |name: &&str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let Some((bucket, parsed)) =
        parsed.as_ref().and_then(|parsed| Some((parsed.host_str().filter(is_name)?, parsed)))
    else {
        // Settings are not part of the name.
        let url = url.split_once('?').map_or(&*url, |(url, _)| url);
        return Err(Failure::new(format!(
            "policies are for s3://bucket/prefix, and not for {url}"
        )));
    };
    // The prefix is decoded as a host decodes it.
    let prefix = Path::from_url_path(parsed.path().trim_matches('/'))
        .map_err(|error| Failure::new("the bucket URL has no valid prefix").because(error))?;
    let prefix = match policy {
        Policy::Lifecycle => prefix.to_string(),
        Policy::Host | Policy::Reader | Policy::Bucket | Policy::ObjectLock => {
            literal(prefix.as_ref())
        }
    };
    let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
    let quoted = Value::from(prefix).to_string();
    Ok(text(policy).replace("BUCKET", bucket).replace("PREFIX/", quoted.trim_matches('"')))
}

/// A pattern of IAM that matches this text alone: `*` and `?` would allow other prefixes too.
fn literal(text: &str) -> String {
    let escaped = |char| match char {
        '*' | '?' | '$' => format!("${{{char}}}"),
        char => char.to_string(),
    };
    text.chars().map(escaped).collect()
}

pub(crate) fn print(policy: Policy, url: &str, output: &Output) -> Result<Outcome, Failure> {
    output.write(&[filled(policy, url)?.as_bytes()])?;
    Ok(Outcome::Well)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_policy_is_json_with_the_names_in_place_of_their_marks() {
        for policy in Policy::value_variants() {
            for (url, resource) in [
                ("s3://logs/app/audit/", "logs/app/audit/*"),
                ("s3://logs", "logs/*"),
                ("s3://logs/a?region=us-east-1", "logs/a/*"),
                ("s3://logs/a%20b/%2a%3F$%22", "logs/a b/${*}${?}${$}\"/*"),
            ] {
                let filled = filled(*policy, url).unwrap();
                let document: Value = serde_json::from_str(&filled).unwrap();
                assert!(!filled.contains("BUCKET") && !filled.contains("PREFIX"), "{filled}");
                if *policy == Policy::Host {
                    assert_eq!(
                        document["Statement"][0]["Resource"],
                        format!("arn:aws:s3:::{resource}")
                    );
                }
            }
        }
        let lifecycle = filled(Policy::Lifecycle, "s3://logs/*").unwrap();
        let lifecycle: Value = serde_json::from_str(&lifecycle).unwrap();
        assert_eq!(lifecycle["Rules"][0]["Filter"]["Prefix"], "*/dt=");
        for url in ["gs://logs", "s3://*/a", "s3://lo\"gs", "s3://logs/a//b"] {
            assert!(filled(Policy::Host, url).is_err(), "{url}");
        }
    }
}
