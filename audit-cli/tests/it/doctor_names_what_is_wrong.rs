//! A bucket with the shipped policies passes every check, and each deviation is named.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use audit_sink_s3::Bucket;
use s3_testserver::{ErrorAnswer, Fault, RequestInfo, RetentionMode, S3TestServer};
use serde_json::Value;

use crate::support::{
    DAY, HOUR_MS, Ran, audit, batch, bucket, environment, object_for_each_batch, url, write,
};

struct Report {
    ran: Ran,
    checks: Vec<Value>,
}

impl Report {
    #[track_caller]
    fn check(&self, name: &str) -> &Value {
        let found = self.checks.iter().find(|check| check["check"] == name);
        found.unwrap_or_else(|| panic!("no check {name}: {:?}", self.ran))
    }

    fn all(&self, verdict: &str) -> Vec<&str> {
        let found = self.checks.iter().filter(|check| check["verdict"] == verdict);
        found.map(|check| check["check"].as_str().unwrap()).collect()
    }
}

async fn doctor(server: &S3TestServer, more: &[&str]) -> Report {
    let ran =
        audit(&environment(server), &[&["doctor", "--json", &url(server)], more].concat()).await;
    let mut checks = ran.json();
    let summary = checks.pop().unwrap();
    let report = Report { ran, checks };
    assert_eq!(summary["problems"], report.all("problem").len());
    assert_eq!(
        report.ran.code,
        Some(i32::from(!report.all("problem").is_empty())),
        "{:?}",
        report.ran
    );
    report
}

/// A policy with the names of this server's bucket.
async fn policy(server: &S3TestServer, name: &str) -> String {
    let ran = audit(&environment(server), &["policy", name, &url(server)]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out
}

/// A bucket as it should be, and the policies of its host.
async fn well() -> (S3TestServer, Vec<String>) {
    let server = S3TestServer::start().await;
    server.set_versioning(true);
    server.set_object_lock(Some(RetentionMode::Compliance));
    let policies = vec![policy(&server, "host").await, policy(&server, "bucket").await];
    set(&server, &policies);
    (server, policies)
}

fn set(server: &S3TestServer, policies: &[String]) {
    let texts: Vec<&str> = policies.iter().map(String::as_str).collect();
    server.set_policies(Some(&texts));
}

/// The policies with one more statement that allows something.
fn allowing(policies: &[String], action: &str) -> Vec<String> {
    let more = format!(
        r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Action": "{action}", "Resource": "*"}}]}}"#
    );
    [policies, &[more]].concat()
}

fn without(policies: &[String], sid: &str) -> Vec<String> {
    let edit = |text: &String| {
        let mut document: Value = serde_json::from_str(text).unwrap();
        document["Statement"].as_array_mut().unwrap().retain(|statement| statement["Sid"] != sid);
        document.to_string()
    };
    let edited: Vec<String> = policies.iter().map(edit).collect();
    assert!(
        edited.concat().len() < policies.concat().replace(['\n', ' '], "").len(),
        "no statement {sid}"
    );
    edited
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_the_shipped_policies_has_no_problem() {
    let (server, _) = well().await;
    let report = doctor(&server, &["--strict"]).await;
    let expected = [
        "reach",
        "clock",
        "tls",
        "write",
        "create-only",
        "overwrite",
        "read",
        "checksum",
        "versioning",
        "object-lock",
        "delete-version",
        "list",
        "delete",
    ];
    assert_eq!(report.all("ok"), expected, "{:?}", report.ran);
    write(bucket(&server), object_for_each_batch(), vec![batch(DAY, "ada", 3)]).await;

    // A reader has other permissions.
    let reader = policy(&server, "reader").await;
    set(&server, &[reader, policy_text(&server).await]);
    let report = doctor(&server, &["--role", "reader", "--strict"]).await;
    assert_eq!(report.all("ok"), ["reach", "clock", "tls", "write", "list", "read", "delete"]);
    let cat = audit(&environment(&server), &["cat", &url(&server)]).await;
    assert_eq!(cat.lines().len(), 3, "and these suffice for every command");
    for command in ["ls", "stats", "tail"] {
        assert_eq!(audit(&environment(&server), &[command, &url(&server)]).await.code, Some(0));
    }
}

async fn policy_text(server: &S3TestServer) -> String {
    policy(server, "bucket").await
}

#[tokio::test(flavor = "multi_thread")]
async fn excess_permissions_are_named() {
    let (server, policies) = well().await;
    // The bucket's policy denies, whatever the credentials may do.
    set(&server, &allowing(&policies, "s3:*"));
    let report = doctor(&server, &[]).await;
    assert_eq!((report.all("problem"), report.all("warning")), (vec![], vec!["list"]));

    let named = async |policies: Vec<String>| {
        set(&server, &policies);
        let report = doctor(&server, &[]).await;
        for problem in report.all("problem") {
            assert!(report.check(problem)["advice"].is_string(), "{:?}", report.ran);
        }
        report.all("problem").into_iter().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(named(without(&policies, "NoOverwriting")).await, ["overwrite"]);
    let deleting = without(&policies, "NoDeleting");
    assert_eq!(
        named(deleting.clone()).await,
        [] as [&str; 0],
        "the host may not delete by its own policy either"
    );
    assert_eq!(named(allowing(&deleting, "s3:DeleteObject")).await, ["delete"]);
    // Object Lock still keeps the version.
    assert_eq!(named(allowing(&deleting, "s3:DeleteObjectVersion")).await, [] as [&str; 0]);
    server.set_object_lock(None);
    assert_eq!(named(allowing(&deleting, "s3:DeleteObjectVersion")).await, ["delete-version"]);

    set(&server, &[policy(&server, "reader").await]);
    server.set_policies(None);
    let report = doctor(&server, &["--role", "reader"]).await;
    assert_eq!((report.all("problem"), report.all("warning")), (vec!["delete"], vec!["write"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions_are_named_with_the_policy() {
    let (server, policies) = well().await;
    let edit = |action: &str| {
        let host = policies[0].replace(&format!("\"{action}\""), "\"s3:Nothing\"");
        set(&server, &[host, policies[1].clone()]);
    };
    edit("s3:PutObject");
    let report = doctor(&server, &[]).await;
    assert_eq!(report.all("problem"), ["write"]);
    assert!(report.check("write")["said"].as_str().unwrap().contains("403 AccessDenied"));
    edit("s3:GetObject");
    let report = doctor(&server, &[]).await;
    assert_eq!(report.all("problem"), ["read"]);
    let text = audit(&environment(&server), &["doctor", &url(&server)]).await;
    assert_eq!(text.code, Some(1));
    assert!(
        text.out.contains("PROBLEM  read") && text.out.contains("allow s3:GetObject"),
        "{}",
        text.out
    );
    let shown = &text.out[text.out.find("\n{").unwrap()..];
    let shown: Value = serde_json::from_str(shown).unwrap();
    assert_eq!(
        shown["Statement"][0]["Resource"],
        format!("arn:aws:s3:::{}/logs/*", server.bucket())
    );

    set(
        &server,
        &[
            policy(&server, "reader").await.replace("s3:ListBucket", "s3:Nothing"),
            policies[1].clone(),
        ],
    );
    let report = doctor(&server, &["--role", "reader"]).await;
    assert!(report.all("problem").contains(&"list"), "{:?}", report.ran);
    // The check names the permission that a reader needs, and no other.
    let said = report.check("list")["said"].as_str().unwrap();
    assert!(said.contains("s3:ListBucket") && !said.contains("s3:PutObject"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_protections_are_named() {
    let (server, _) = well().await;
    server.ignore_if_none_match(true);
    assert_eq!(doctor(&server, &[]).await.all("problem"), ["create-only"]);
    server.ignore_if_none_match(false);

    server.ignore_checksums(true);
    assert_eq!(doctor(&server, &[]).await.all("problem"), ["checksum"]);
    server.ignore_checksums(false);

    server.set_object_lock(Some(RetentionMode::Governance));
    let report = doctor(&server, &[]).await;
    assert_eq!((report.all("problem"), report.all("warning")), (vec![], vec!["object-lock"]));
    assert!(report.check("object-lock")["advice"].as_str().unwrap().contains("COMPLIANCE"));
    server.set_object_lock(None);
    assert_eq!(doctor(&server, &[]).await.all("warning"), ["object-lock"]);
    server.set_versioning(false);
    let report = doctor(&server, &[]).await;
    assert_eq!(
        (report.all("problem"), report.all("warning")),
        (vec![], vec!["versioning", "object-lock"])
    );
    let strict = audit(&environment(&server), &["doctor", "--strict", &url(&server)]).await;
    assert_eq!(strict.code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_skew_is_named() {
    let (server, _) = well().await;
    server.set_clock_offset(300);
    let report = doctor(&server, &[]).await;
    assert_eq!((report.all("problem"), report.all("warning")), (vec![], vec!["clock"]));
    let said = report.check("clock")["said"].as_str().unwrap();
    assert!(said.contains("behind the store's") && said.contains("m"), "{said}");
    server.set_clock_offset(-7_200);
    let report = doctor(&server, &[]).await;
    assert_eq!(report.all("problem"), ["clock", "write"]);
    assert!(
        report.check("clock")["said"].as_str().unwrap().contains("ahead of"),
        "{:?}",
        report.ran
    );
    assert!(report.check("write")["said"].as_str().unwrap().contains("RequestTimeTooSkewed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_buckets_and_wrong_credentials_are_named() {
    let (server, _) = well().await;
    let problem = async |environment: Vec<(&'static str, String)>, url: &str| {
        let ran = audit(&environment, &["doctor", "--json", url]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let checks = ran.json();
        let problems: Vec<_> =
            checks.iter().filter(|check| check["verdict"] == "problem").collect();
        let [problem] = problems[..] else { panic!("{problems:?}") };
        format!("{}: {}", problem["check"].as_str().unwrap(), problem["said"].as_str().unwrap())
    };
    let with = |name: &str, value: &str| {
        let replace = |(known, was): (&'static str, String)| {
            if known == name { (known, value.to_owned()) } else { (known, was) }
        };
        environment(&server).into_iter().map(replace).collect::<Vec<_>>()
    };
    server.set_policies(None);
    let said = problem(environment(&server), "s3://another-bucket/logs").await;
    assert!(said.starts_with("write: bucket: status 404 NoSuchBucket"), "{said}");
    assert!(said.contains("create the bucket, or correct its name"), "{said}");
    let said = problem(with("AWS_SECRET_ACCESS_KEY", "wrong"), &url(&server)).await;
    assert!(
        said.starts_with("write: ") && said.contains("renew or correct the credentials"),
        "{said}"
    );

    let answer = |answer| {
        server.faults().plan(move |request: &RequestInfo| match request.method.as_str() {
            "PUT" => Fault::Refused(answer),
            _ => Fault::None,
        });
    };
    answer(ErrorAnswer::EXPIRED_TOKEN);
    let said = problem(environment(&server), &url(&server)).await;
    assert!(
        said.contains("ExpiredToken") && said.contains("renew or correct the credentials"),
        "{said}"
    );
    answer(ErrorAnswer::new(400, "AuthorizationHeaderMalformed"));
    let said = problem(environment(&server), &url(&server)).await;
    assert!(said.contains("set AWS_REGION and AWS_ENDPOINT"), "{said}");
    answer(ErrorAnswer::new(400, "KMS.DisabledException"));
    let said = problem(environment(&server), &url(&server)).await;
    assert!(said.contains("enable the KMS key"), "{said}");
    server.pause().await;
    let said = problem(environment(&server), &url(&server)).await;
    assert!(said.starts_with("reach: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_named_as_for_development() {
    let root = tempfile::tempdir().unwrap();
    let ran = audit(&[], &["doctor", "--json", root.path().to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let checks = ran.json();
    let verdict =
        |name| checks.iter().find(|check| check["check"] == name).unwrap()["verdict"].clone();
    assert_eq!(
        (verdict("write"), verdict("create-only"), verdict("read")),
        ("ok".into(), "ok".into(), "ok".into())
    );
    assert_eq!((verdict("overwrite"), verdict("delete")), ("warning".into(), "warning".into()));
    assert_eq!(verdict("leftovers"), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_counted_and_named() {
    let root = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&format!("file://{}", root.path().display())).unwrap();
    let days = [DAY, DAY + 24 * HOUR_MS].map(|time_ms| batch(time_ms, "ada", 1));
    write(bucket, object_for_each_batch(), days.to_vec()).await;
    // Leftovers of a killed process beside each object: of that object, and of an object that is
    // not ours.
    let mut left = Vec::new();
    for hour in glob(root.path(), 2) {
        for object in glob(&hour, 1) {
            left.push(format!("{}#{}", object.display(), left.len()));
            std::fs::write(left.last().unwrap(), "half").unwrap();
        }
        std::fs::write(hour.join("notes#1"), "x").unwrap();
    }
    assert_eq!(left.len(), 2);
    for role in ["host", "reader"] {
        let arguments = ["doctor", "--json", "--role", role, root.path().to_str().unwrap()];
        let ran = audit(&[], &arguments).await;
        let checks = ran.json();
        let check = checks.iter().find(|check| check["check"] == "leftovers").unwrap();
        let said = check["said"].as_str().unwrap();
        assert!(said.starts_with("dead writers left 2 files, such as dt="), "{said}");
        assert_eq!((&check["verdict"], ran.code), (&"warning".into(), Some(0)));
        // The advice has exactly the described effect.
        let advice = check["advice"].as_str().unwrap().rsplit_once(": ").unwrap().1;
        let find = advice.replace("DIRECTORY", ".").replace(" -mmin +60 -delete", "");
        let found = Command::new("sh").args(["-c", &find]).current_dir(root.path()).output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        assert_eq!(found.lines().count(), left.len(), "{find}: {found}");
    }
}

/// An entry this many levels below a directory among the partitions.
fn glob(directory: &Path, levels: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| !path.ends_with("_audit"));
    match levels {
        1 => entries.collect(),
        _ => entries.flat_map(|path| glob(&path, levels - 1)).collect(),
    }
}

async fn profile(server: &S3TestServer, name: &str) -> Vec<(String, String)> {
    let report = doctor(server, &["--role", "reader", "--profile", name]).await;
    let of_profile = ["bucket-versions", "retention", "expiry"];
    let text = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    let checks = report.checks.iter().map(|check| (text(check, "check"), text(check, "verdict")));
    checks.filter(|(check, _)| of_profile.contains(&check.as_str())).collect()
}

fn verdicts(all: [&str; 3]) -> Vec<(String, String)> {
    let checks = ["bucket-versions", "retention", "expiry"].into_iter().zip(all);
    checks.map(|(check, verdict)| (check.to_owned(), verdict.to_owned())).collect()
}

const PROFILES: [&str; 4] = ["pci", "hipaa", "sec17a4", "dora"];

/// The permissions of a reader and of an auditor.
async fn auditor(server: &S3TestServer) -> Vec<String> {
    let allowed = r#"["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration", "s3:GetLifecycleConfiguration"]"#;
    let more = format!(
        r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Action": {allowed}, "Resource": "*"}}]}}"#
    );
    vec![policy(server, "reader").await, policy(server, "bucket").await, more]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_policies_satisfy_every_profile() {
    let (server, _) = well().await;
    write(bucket(&server), object_for_each_batch(), vec![batch(DAY, "ada", 1)]).await;
    let lock: Value = serde_json::from_str(&policy(&server, "object-lock").await).unwrap();
    let days = lock["Rule"]["DefaultRetention"]["Days"].as_u64().unwrap();
    server.set_retention_days(u32::try_from(days).unwrap());
    server.set_lifecycle(Some(&policy(&server, "lifecycle").await));
    set(&server, &auditor(&server).await);
    for name in PROFILES {
        assert_eq!(profile(&server, name).await, verdicts(["ok"; 3]), "{name}");
    }
    // Missing permissions are not a problem of the bucket.
    set(&server, &[policy(&server, "reader").await, policy_text(&server).await]);
    for name in PROFILES {
        assert_eq!(profile(&server, name).await, verdicts(["unknown"; 3]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shortfall_of_a_profile_is_named() {
    let (server, _) = well().await;
    write(bucket(&server), object_for_each_batch(), vec![batch(DAY, "ada", 1)]).await;
    set(&server, &auditor(&server).await);
    let all = async || {
        let mut found = Vec::new();
        for name in PROFILES {
            let verdicts: Vec<String> =
                profile(&server, name).await.into_iter().map(|(_, verdict)| verdict).collect();
            found.push(verdicts.join(" "));
        }
        found
    };
    // A day in mode COMPLIANCE.
    let (ok, short) = ("ok ok ok", "ok problem ok");
    assert_eq!(all().await, [short, short, short, ok]);
    server.set_retention_days(400);
    assert_eq!(all().await, [ok, short, short, ok]);
    // In mode GOVERNANCE, clients with a permission can shorten the retention.
    server.set_retention_days(2_192);
    server.set_object_lock(Some(RetentionMode::Governance));
    let warned = "ok warning ok";
    assert_eq!(all().await, [warned, warned, short, warned]);
    server.set_object_lock(None);
    server.set_versioning(false);
    let bare = "warning warning ok";
    assert_eq!(all().await, [bare, bare, "problem problem ok", bare]);

    server.set_versioning(true);
    server.set_object_lock(Some(RetentionMode::Compliance));
    let rule = |prefix: &str, members: &str| {
        format!(
            r#"{{"Rules": [{{"ID": "r", "Status": "Enabled", "Filter": {{"Prefix": "{prefix}"}}, {members}}}]}}"#
        )
    };
    let early = "ok ok problem";
    let expires = r#""Expiration": {"Days": 400}"#;
    server.set_lifecycle(Some(&rule("logs/", expires)));
    assert_eq!(all().await, [ok, early, early, ok]);
    server.set_lifecycle(Some(&rule("logs/", expires).replace("Enabled", "Disabled")));
    assert_eq!(all().await, [ok; 4]);
    server.set_lifecycle(Some(&rule("elsewhere/", expires)));
    assert_eq!(all().await, [ok; 4]);
    // Objects are moved to a storage class from which reading takes hours.
    let moves = r#""Transitions": [{"Days": 90, "StorageClass": "DEEP_ARCHIVE"}]"#;
    server.set_lifecycle(Some(&rule("", moves)));
    assert_eq!(all().await, [early, ok, early, ok]);
    server.set_lifecycle(Some(&rule("", &moves.replace("90", "800"))));
    assert_eq!(all().await, [ok; 4]);
    // A lock keeps deleted objects. Without one they are gone after a day.
    let noncurrent = r#""NoncurrentVersionExpiration": {"NoncurrentDays": 1}"#;
    server.set_lifecycle(Some(&rule("logs/dt=", noncurrent)));
    assert_eq!(all().await, [ok; 4]);
    server.set_object_lock(None);
    let gone = "ok warning problem";
    assert_eq!(all().await, [gone, gone, "ok problem problem", "ok warning ok"]);
}
