//! Policies in the language of IAM and bucket policies.

use std::sync::{Mutex, MutexGuard};

use http::{Method, header, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::Value;

/// The policies of a server, evaluated as [AWS
/// does](https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html)
/// within one account: an action that a statement denies is denied, otherwise one that a statement
/// allows is allowed. Without policies everything is allowed.
#[derive(Debug, Default)]
pub(crate) struct Policies(Mutex<Option<Vec<Statement>>>);

#[derive(Debug)]
struct Statement {
    allows: bool,
    actions: Vec<String>,
    resources: Vec<String>,
    /// Operator, key, values.
    conditions: Vec<(String, String, Vec<String>)>,
}

/// A request as a policy sees it.
struct Asked {
    action: &'static str,
    resource: String,
    if_none_match: bool,
    prefix: Option<String>,
}

impl Policies {
    /// Replaces the policies. An empty list allows nothing; `None` everything.
    pub(crate) fn set(&self, documents: Option<&[&str]>) {
        *self.lock() =
            documents.map(|documents| documents.iter().flat_map(|text| statements(text)).collect());
    }

    /// Whether the request is allowed. A request that deletes several objects is always allowed;
    /// each object is then checked separately.
    pub(crate) fn allow(&self, bucket: &str, parts: &Parts) -> bool {
        let is_delete = |parameter: &str| parameter == "delete" || parameter == "delete=";
        let deletes_several = parts.method == Method::POST
            && parts.uri.query().is_some_and(|query| query.split('&').any(is_delete));
        deletes_several || self.may(&Asked::of(bucket, parts))
    }

    /// Whether an object may be deleted, or one version of it.
    pub(crate) fn allow_delete(&self, bucket: &str, key: &str, of_version: bool) -> bool {
        let action = if of_version { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" };
        let resource = format!("arn:aws:s3:::{bucket}/{key}");
        self.may(&Asked { action, resource, if_none_match: false, prefix: None })
    }

    /// Whether listing is allowed. Without that permission, clients are not told whether an object
    /// exists.
    pub(crate) fn allow_list(&self, bucket: &str) -> bool {
        let resource = format!("arn:aws:s3:::{bucket}");
        let statements = self.lock();
        let Some(statements) = &*statements else { return true };
        // Like AWS, this ignores conditions on the prefix for a request without one.
        let of_list = |statement: &&Statement| {
            statement.actions.iter().any(|action| like(action, "s3:ListBucket"))
                && statement.resources.iter().any(|pattern| like(pattern, &resource))
        };
        statements.iter().any(|statement| statement.allows && of_list(&statement))
    }

    fn may(&self, asked: &Asked) -> bool {
        let statements = self.lock();
        let Some(statements) = &*statements else { return true };
        let applies = |statement: &&Statement| statement.applies(asked);
        let denied = statements
            .iter()
            .filter(|statement| !statement.allows)
            .any(|statement| applies(&statement));
        !denied
            && statements
                .iter()
                .filter(|statement| statement.allows)
                .any(|statement| applies(&statement))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Statement>>> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Asked {
    fn of(bucket: &str, parts: &Parts) -> Asked {
        let (_, key) = parts.uri.path().trim_start_matches('/').split_once('/').unwrap_or_default();
        let key = percent_decode_str(key).decode_utf8_lossy();
        let query = parts.uri.query().unwrap_or_default();
        let of_version = query.split('&').any(|parameter| parameter.starts_with("versionId="));
        let asks = |name: &str| {
            query.split('&').any(|parameter| parameter.split('=').next() == Some(name))
        };
        let action = match (&parts.method, key.is_empty(), of_version) {
            (&Method::GET, true, _) if asks("versioning") => "s3:GetBucketVersioning",
            (&Method::GET, true, _) if asks("object-lock") => "s3:GetBucketObjectLockConfiguration",
            (&Method::GET, true, _) if asks("lifecycle") => "s3:GetLifecycleConfiguration",
            (&Method::PUT, false, _) => "s3:PutObject",
            (&Method::GET | &Method::HEAD, false, false) => "s3:GetObject",
            (&Method::GET | &Method::HEAD, false, true) => "s3:GetObjectVersion",
            (&Method::DELETE, false, false) => "s3:DeleteObject",
            (&Method::DELETE, false, true) => "s3:DeleteObjectVersion",
            (&Method::GET | &Method::HEAD, true, _) => "s3:ListBucket",
            _ => "s3:Other",
        };
        let resource = match action {
            _ if key.is_empty() => format!("arn:aws:s3:::{bucket}"),
            _ => format!("arn:aws:s3:::{bucket}/{key}"),
        };
        let prefix = query.split('&').find_map(|parameter| parameter.strip_prefix("prefix="));
        let prefix =
            prefix.map(|prefix| percent_decode_str(prefix).decode_utf8_lossy().into_owned());
        Asked {
            action,
            resource,
            if_none_match: parts.headers.contains_key(header::IF_NONE_MATCH),
            prefix,
        }
    }

    /// The value of a condition key; `None` if the request does not have it.
    fn value(&self, key: &str) -> Option<String> {
        match key {
            "s3:if-none-match" => self.if_none_match.then(|| "*".to_owned()),
            "s3:prefix" => self.prefix.clone(),
            // The server speaks plain HTTP on a loopback address, where a real client would use
            // TLS.
            "aws:SecureTransport" => Some("true".to_owned()),
            "s3:ObjectCreationOperation" => Some((self.action == "s3:PutObject").to_string()),
            key => panic!("the test server does not know the condition key {key}"),
        }
    }
}

impl Statement {
    fn applies(&self, asked: &Asked) -> bool {
        let Statement { allows: _, actions, resources, conditions } = self;
        actions.iter().any(|pattern| like(pattern, asked.action))
            && resources.iter().any(|pattern| like(pattern, &asked.resource))
            && conditions.iter().all(|(operator, key, values)| {
                let value = asked.value(key);
                match operator.as_str() {
                    "Null" => values.iter().any(|null| (null == "true") == value.is_none()),
                    "Bool" | "StringEquals" => value.is_some_and(|value| values.contains(&value)),
                    "StringLike" => value
                        .is_some_and(|value| values.iter().any(|pattern| like(pattern, &value))),
                    operator => panic!("the test server does not know the condition {operator}"),
                }
            })
    }
}

/// Reads a policy.
///
/// # Panics
///
/// If it is not a policy, or contains something that is not supported, since ignoring that would
/// change its meaning.
fn statements(text: &str) -> Vec<Statement> {
    let document: Value = serde_json::from_str(text).expect("a policy is JSON");
    assert_eq!(document["Version"], "2012-10-17", "the version of a policy");
    let list = |value: &Value| -> Vec<String> {
        match value {
            Value::String(one) => vec![one.clone()],
            Value::Bool(one) => vec![one.to_string()],
            Value::Array(many) => {
                many.iter().map(|one| one.as_str().expect("a text").to_owned()).collect()
            }
            Value::Null | Value::Number(_) | Value::Object(_) => panic!("{value} in a policy"),
        }
    };
    let read = |statement: &Value| {
        let known = ["Sid", "Effect", "Principal", "Action", "Resource", "Condition"];
        let members = statement.as_object().expect("a statement is an object");
        assert!(members.keys().all(|name| known.contains(&name.as_str())), "{statement}");
        assert!(statement["Principal"].is_null() || statement["Principal"] == "*", "{statement}");
        let conditions = statement["Condition"].as_object().into_iter().flatten();
        let conditions = conditions.flat_map(|(operator, keys)| {
            let keys = keys.as_object().expect("a condition has keys");
            keys.iter().map(|(key, values)| (operator.clone(), key.clone(), list(values)))
        });
        Statement {
            allows: match statement["Effect"].as_str() {
                Some("Allow") => true,
                Some("Deny") => false,
                other => panic!("{other:?} is no effect"),
            },
            actions: list(&statement["Action"]),
            resources: list(&statement["Resource"]),
            conditions: conditions.collect(),
        }
    };
    document["Statement"].as_array().expect("a policy has statements").iter().map(read).collect()
}

/// Whether a text matches a pattern in which `*` stands for anything.
fn like(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && like(tail, &rest[at..]))
}
