//! The policies that a bucket and its users need, with the names filled in: those of `deploy/aws`.
//! `policies` links to them, so that they are in the package.

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
    // Settings are not part of the name.
    let url = url.split_once('?').map_or(&*url, |(url, _)| url);
    let Some((bucket, prefix)) =
        url.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))
    else {
        return Err(Failure::new(format!(
            "policies are for s3://bucket/prefix, and not for {url}"
        )));
    };
    let prefix = match prefix.trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    Ok(text(policy).replace("BUCKET", bucket).replace("PREFIX/", &prefix))
}

pub(crate) fn print(policy: Policy, url: &str, output: &Output) -> Result<Outcome, Failure> {
    output.write(&[filled(policy, url)?.as_bytes()])?;
    Ok(Outcome::Well)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use serde_json::Value;

    #[test]
    fn every_policy_is_json_with_the_names_in_place_of_their_marks() {
        for policy in Policy::value_variants() {
            for (url, resource) in [
                ("s3://logs/app/audit/", "logs/app/audit/*"),
                ("s3://logs", "logs/*"),
                ("s3://logs/a?region=us-east-1", "logs/a/*"),
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
        assert!(filled(Policy::Host, "gs://logs").is_err());
    }
}
