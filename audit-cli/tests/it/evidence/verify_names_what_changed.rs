//! `audit verify` reports what the library finds, in directories and in stores, and exits as
//! documented.

use std::fs;
use std::path::Path;

use audit_evidence::{Alarm, BucketReport, Finding, KeyKind, SignerKey, State, TrustedKey};
use s3_testserver::{ErrorAnswer, Fault, RequestInfo, S3TestServer};
use serde_json::Value;

use super::model::{Bucket, Look};
use super::{bucket, key, mutations, upload, write};
use crate::support::{Ran, audit, environment, url};

/// A time after all deadlines of the model's hosts.
const LATER: u64 = 4_000_000_000_000;

/// A finding: its code, stream, object, first record and count.
type Named = (String, String, Option<String>, Option<u64>, Option<u64>);

fn expected(report: &BucketReport) -> Vec<Named> {
    let named = report.findings.iter().map(|finding| {
        let records = finding.records.as_ref();
        (
            finding.fault.code().to_owned(),
            finding.stream.clone(),
            finding.object.clone(),
            records.map(|records| records.start),
            records.map(|records| records.end - records.start),
        )
    });
    named.collect()
}

fn named(ran: &Ran) -> Vec<Named> {
    let lines = ran.json().into_iter().filter(|line| line["finding"].is_string());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let named = lines.map(|line| {
        (
            text(&line["finding"]).unwrap(),
            text(&line["stream"]).unwrap(),
            text(&line["object"]),
            line["first"].as_u64(),
            line["count"].as_u64(),
        )
    });
    named.collect()
}

/// The code for the most serious of these findings.
fn code(report: &BucketReport) -> i32 {
    let worst = report.findings.iter().map(Finding::alarm).min();
    worst.map_or(0, |alarm| match alarm {
        Alarm::Tampered => 1,
        Alarm::Unproven => 4,
        Alarm::Late => 5,
        Alarm::Expired => 6,
    })
}

/// The options for the command that correspond to `look`.
fn options(look: &Look, directory: &Path) -> Vec<String> {
    let mut options = Vec::new();
    let mut file = |option: &str, content: String| {
        let file = directory.join(option);
        fs::write(&file, content).unwrap();
        options.push(format!("--{option}={}", file.display()));
    };
    if look.state != State::default() {
        file("state", look.state.to_string());
    }
    if !look.receipts.is_empty() {
        let line = |(stream, records): &(String, std::ops::Range<u64>)| {
            format!("{stream},{},{}\n", records.start, records.end - records.start)
        };
        file("receipts", look.receipts.iter().map(line).collect());
    }
    options.extend(look.names.iter().map(|name| format!("--written-to={name}/")));
    if look.retained_since.is_some() {
        options.push("--since=1970-01-01T00:00:00.001Z".to_owned());
    }
    if !look.reads_lines {
        options.push("--heads".to_owned());
    }
    options
}

fn key_option(TrustedKey { key, validity }: &TrustedKey) -> String {
    let bound = |word: &str, ms: u64| match ms {
        0 | u64::MAX => String::new(),
        ms => format!(" {word} {}", chrono_text(ms)),
    };
    format!("--key={key}{}{}", bound("from", validity.start), bound("until", validity.end))
}

async fn verify(
    environment: &[(&'static str, String)],
    place: &str,
    keys: &Bucket,
    options: &[String],
) -> Ran {
    let keys: Vec<String> = keys.trust.iter().map(key_option).collect();
    let mut arguments = vec!["verify", "--json", "--retry-for=0", place];
    arguments.extend(keys.iter().map(String::as_str));
    arguments.extend(options.iter().map(String::as_str));
    audit(environment, &arguments).await
}

/// Verifies a directory with the command and the model with the library.
async fn compare(bucket: &Bucket, keys: &Bucket, look: Look, what: &str) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    write(bucket, &place);
    let report = bucket.look(&Look { now: LATER, ..look.clone() });
    let options = options(&look, directory.path());
    let ran = verify(&[], place.to_str().unwrap(), keys, &options).await;
    let expected = expected(&report);
    let mut found = named(&ran);
    if what == "an object is moved to another suffix" {
        // The command first decompresses the object as its key says.
        let at = found.iter().position(|finding| finding.0 == "damaged").unwrap();
        found[at].0 = "root".to_owned();
    }
    assert_eq!(found, expected, "{what}: {ran:?}");
    assert_eq!(ran.code, Some(code(&report)), "{what}: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_match_the_librarys() {
    for seed in 0..2 {
        let whole = bucket(seed);
        compare(&whole, &whole, Look::full(), "nothing").await;
        compare(&whole, &whole, Look::heads(), "nothing, heads").await;
        for mutation in mutations::ALL {
            let Some((changed, expected)) = mutation.apply(&whole, seed) else { continue };
            if changed.objects.is_empty() && expected.look.state == State::default() {
                continue;
            }
            compare(&changed, &changed, expected.look, mutation.name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_depth_makes_the_fewest_requests() {
    let server = S3TestServer::start().await;
    let bucket = bucket(3);
    upload(&bucket, &server);
    let report = bucket.look(&Look { now: LATER, ..Look::full() });
    let objects = bucket.objects.len();
    let system = bucket.objects.iter().filter(|object| object.is_system()).count();
    for (depth, gets, heads) in
        [(&[][..], objects, 0), (&["--heads".to_owned()][..], system, objects - system)]
    {
        let before = server.requests().len();
        let ran = verify(&environment(&server), &url(&server), &bucket, depth).await;
        assert_eq!(named(&ran), expected(&report), "{ran:?}");
        let requests = server.requests();
        let count = |method: &str| {
            let of = requests[before..].iter().filter(|request| !request.is_list());
            of.filter(|request| request.method == method).count()
        };
        assert_eq!((count("GET"), count("HEAD")), (gets, heads), "{depth:?}");
    }
    // An object that cannot be read is verified by its metadata, and is not silently skipped.
    server.faults().plan(|request: &RequestInfo| {
        let is_data = request.method == "GET" && request.key.contains("dt=");
        let is_data = is_data && !request.key.contains("_audit") && !request.is_list();
        if is_data { Fault::Refused(ErrorAnswer::ACCESS_DENIED) } else { Fault::None }
    });
    let ran = verify(&environment(&server), &url(&server), &bucket, &[]).await;
    assert_eq!((ran.code, named(&ran)), (Some(3), expected(&report)), "{ran:?}");
    assert!(ran.err.contains("objects could not be read"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_written_whole_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let state = directory.path().join("state");
    let bucket = bucket(1);
    write(&bucket, &place);
    let option = format!("--state={}", state.display());
    let report = bucket.look(&Look { now: LATER, ..Look::full() });
    for more in [None, Some("--incremental".to_owned())] {
        let options: Vec<String> = [option.clone()].into_iter().chain(more).collect();
        let ran = verify(&[], place.to_str().unwrap(), &bucket, &options).await;
        assert_eq!(ran.code, Some(code(&report)), "{ran:?}");
        let mut expected = State::default();
        expected.update(&report);
        assert_eq!(State::parse(&fs::read_to_string(&state).unwrap()), Ok(expected));
    }
    assert!(!directory.path().join("state.new").exists());
    fs::write(&state, "something else").unwrap();
    let ran = verify(&[], place.to_str().unwrap(), &bucket, &[option]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("line 1"), "{}", ran.err);
    assert_eq!(fs::read_to_string(&state).unwrap(), "something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_streams_alarm_only_since_evidence() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let mut bucket = bucket(0);
    bucket.objects.retain(|object| !object.is_system());
    bucket.objects.iter_mut().for_each(|object| object.metadata.clear());
    write(&bucket, &place);
    let opened = bucket.objects[0].stream.parse::<audit_core::UniqueId>().unwrap().time_ms();
    let at = |ms: u64| format!("--since={}", chrono_text(ms));
    let run = |options: Vec<String>| {
        let (place, bucket) = (place.clone(), bucket.clone());
        async move { verify(&[], place.to_str().unwrap(), &bucket, &options).await }
    };
    let ran = run(Vec::new()).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(named(&ran).iter().all(|finding| finding.0 == "no-evidence"), "{ran:?}");
    let ran = run(vec![at(opened)]).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let ran = run(vec![at(opened + 18 * 60 * 60 * 1_000)]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.json().pop().unwrap();
    assert!(summary["before_since"]["no-evidence"].as_u64().unwrap() >= 1, "{summary}");
}

/// Whoever removes all records of a range must not turn an alarm into a success.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_without_any_stream_proves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = bucket(0);
    write(&bucket, &place);
    let key = key(&bucket);
    for options in [&[][..], &["--heads"]] {
        let arguments = ["verify", place.to_str().unwrap(), "--key", &key, "--since=2100-01-01"];
        let ran = audit(&[], &[&arguments[..], options].concat()).await;
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.out.ends_with("there was nothing to examine\n"), "{ran:?}");
        assert!(ran.err.contains("its days are dt=2025-"), "{ran:?}");
    }
}

/// A time in the command's format.
fn chrono_text(ms: u64) -> String {
    let days = ms / 86_400_000;
    // Days from 2025-01-01 on, within that year.
    let mut day = days - 20_089;
    let months = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let ms = ms % 86_400_000;
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1_000 % 60, ms % 1_000);
    let month = month + 1;
    let day = day + 1;
    format!("2025-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_files_and_policies() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = bucket(2);
    write(&bucket, &place);
    let place = place.to_str().unwrap();
    let report = bucket.look(&Look { now: LATER, ..Look::full() });
    let file = directory.path().join("key");
    fs::write(&file, key(&bucket) + "\n").unwrap();
    let policy = directory.path().join("policy");
    fs::write(&policy, format!("log {}\nquorum none\n", key(&bucket))).unwrap();
    for (option, value) in [("--key", &file), ("--policy", &policy)] {
        let ran = audit(&[], &["verify", "--json", place, option, value.to_str().unwrap()]).await;
        assert_eq!(named(&ran), expected(&report), "{ran:?}");
    }
    let ran = audit(&[], &["verify", place]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let ran = audit(&[], &["verify", place, "--key", "nobody"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    // A stranger's key proves nothing, and accuses nobody.
    let stranger = SignerKey::from_seed("example.com/other", KeyKind::Ed25519, &[1; 32]).unwrap();
    let stranger = stranger.verifier().to_string();
    let ran = audit(&[], &["verify", "--json", place, "--key", &stranger]).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(named(&ran).iter().all(|finding| finding.0 == "unknown-host"), "{ran:?}");
    // A missing quorum is reported for each stream.
    let witness =
        audit_evidence::SignerKey::from_seed("w", audit_evidence::KeyKind::Cosignature, &[1; 32]);
    let witness = witness.unwrap();
    let witness = witness.verifier();
    let text = format!("log {}\nwitness w {witness}\nquorum w\n", key(&bucket));
    fs::write(&policy, text).unwrap();
    let ran = audit(&[], &["verify", "--json", place, "--policy", policy.to_str().unwrap()]).await;
    let unwitnessed = named(&ran).iter().filter(|finding| finding.0 == "unwitnessed").count();
    assert_eq!(unwitnessed, report.streams.len(), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_is_readable_and_dated() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = bucket(2);
    write(&bucket, &place);
    let ran = audit(&[], &["verify", place.to_str().unwrap(), "--key", &key(&bucket)]).await;
    for part in ["verified ", ", full", "key       example.com/api+", "host ", "findings "] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let ran = verify(&[], empty.to_str().unwrap(), &bucket, &[]).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("nothing to verify"), "{}", ran.err);
}
