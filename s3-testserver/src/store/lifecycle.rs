//! Lifecycle configurations, which are returned but have no effect.

use s3s::dto::*;

/// Parses a lifecycle configuration in the form of the `aws` command.
///
/// # Panics
///
/// If it is invalid, or has a member that this server does not know.
pub(crate) fn lifecycle(text: &str) -> LifecycleRules {
    let document: serde_json::Value = serde_json::from_str(text).expect("a lifecycle is JSON");
    let days = |value: &serde_json::Value| value.as_i64().and_then(|days| i32::try_from(days).ok());
    let owned = |value: &serde_json::Value| value.as_str().map(ToOwned::to_owned);
    let rule = |rule: &serde_json::Value| {
        let known =
            ["ID", "Status", "Filter", "Transitions", "Expiration", "NoncurrentVersionExpiration"];
        let members = rule.as_object().expect("a rule is an object");
        assert!(members.keys().all(|name| known.contains(&name.as_str())), "{rule}");
        let transition = |transition: &serde_json::Value| Transition {
            date: None,
            days: days(&transition["Days"]),
            storage_class: owned(&transition["StorageClass"]).map(TransitionStorageClass::from),
        };
        let of = |name: &str| Some(&rule[name]).filter(|value| !value.is_null());
        LifecycleRule {
            abort_incomplete_multipart_upload: None,
            expiration: of("Expiration").map(|expiration| LifecycleExpiration {
                days: days(&expiration["Days"]),
                ..Default::default()
            }),
            filter: of("Filter").map(|filter| LifecycleRuleFilter {
                prefix: owned(&filter["Prefix"]),
                ..Default::default()
            }),
            id: owned(&rule["ID"]),
            noncurrent_version_expiration: of("NoncurrentVersionExpiration").map(|expiration| {
                NoncurrentVersionExpiration {
                    newer_noncurrent_versions: None,
                    noncurrent_days: days(&expiration["NoncurrentDays"]),
                }
            }),
            noncurrent_version_transitions: None,
            prefix: None,
            status: ExpirationStatus::from(owned(&rule["Status"]).expect("a rule has a status")),
            transitions: of("Transitions")
                .map(|all| all.as_array().into_iter().flatten().map(transition).collect()),
        }
    };
    document["Rules"].as_array().expect("a lifecycle has rules").iter().map(rule).collect()
}
