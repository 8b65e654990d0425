//! The commands name attacks by somebody who may write to the bucket, or who gives files to an
//! auditor.

use std::fs;
use std::path::Path;

use audit_core::{Clock, SystemClock};
use audit_evidence::SystemRecord;
use s3_testserver::S3TestServer;
use serde_json::Value;

use super::model::{Bucket, HOST, Writer};
use super::{bucket, key, put, upload, write};
use crate::desk_answers_its_page::Page;
use crate::support::{Ran, audit, environment, url};

/// The codes of findings, without overdue heartbeats.
fn found(ran: &Ran) -> Vec<String> {
    let lines = ran.json();
    let codes = lines.iter().filter_map(|line| line["finding"].as_str());
    codes.filter(|code| *code != "overdue").map(str::to_owned).collect()
}

/// A bucket without findings other than overdue heartbeats.
fn plain() -> Bucket {
    (0..).map(bucket).find(|bucket| bucket.known_findings().is_empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn inserted_files_among_the_records_are_named() {
    let bucket = plain();
    let hour = "dt=2025-11-24/hour=16";
    for (name, expected) in [
        (format!("{hour}/inserted.ndjson"), 1),
        (format!("{hour}/inserted.ndjson.zst"), 1),
        (format!("{hour}/deeper/{}-000000000000.ndjson", bucket.objects[0].stream), 1),
        ("dt=2025-11-24/hour=16x/inserted.ndjson".to_owned(), 1),
        ("dt=2025-11-24/inserted.ndjson".to_owned(), 1),
        ("dt=2025-11-24x/hour=16/inserted.ndjson".to_owned(), 1),
        // Where no query engine looks for records.
        ("reports/2025.html".to_owned(), 0),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("bucket");
        write(&bucket, &place);
        put(&place, &name, "{\"action\":\"forged\"}\n");
        let server = S3TestServer::start().await;
        upload(&bucket, &server);
        let object = s3_testserver::StoredObject {
            bytes: "{\"action\":\"forged\"}\n".into(),
            metadata: Default::default(),
            content_type: None,
            content_encoding: None,
        };
        server.put_object(&format!("logs/{name}"), object);
        for (environment, place) in
            [(Vec::new(), place.to_str().unwrap().to_owned()), (environment(&server), url(&server))]
        {
            let key = key(&bucket);
            let ran = audit(&environment, &["verify", "--json", &place, "--key", &key]).await;
            assert_eq!(found(&ran), vec!["foreign-object"; expected], "{name}: {ran:?}");
            let named = ran.json().into_iter().find(|line| line["finding"] == "foreign-object");
            let object = named.map(|named| named["object"].as_str().unwrap().to_owned());
            assert!(object.is_none_or(|object| name.starts_with(&object)), "{name}: {ran:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_sets_its_clock_back_hides_no_silence() {
    let server = S3TestServer::start().await;
    server.set_clock_offset(-600);
    let now = u64::try_from(SystemClock.now_ms()).unwrap();
    let mut bucket = bucket(0);
    let stream = bucket.writers[0].stream.clone();
    let mut writer = Writer::new(stream, bucket.host_seed, [6; 32]);
    let opened = SystemRecord::Opened {
        at: now - 600_000,
        host: HOST.to_owned(),
        software: "a model".to_owned(),
        key: key(&bucket),
        next: now - 300_000,
        bucket: None,
        previous: None,
    };
    bucket.objects = vec![writer.write(true, vec![opened.to_line()], 0, [1; 32])];
    upload(&bucket, &server);
    let (environment, url, key) = (environment(&server), url(&server), key(&bucket));
    let ran = audit(&environment, &["verify", "--json", &url, "--key", &key]).await;
    assert_eq!(ran.code, Some(5), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_another_bucket_are_named() {
    let server = S3TestServer::start().await;
    let (environment, here) = (environment(&server), url(&server));
    let mut bucket = plain();
    let [one, other] = ["01KAVXY0000123456789ABCDEF", "01KAVXZ0000123456789ABCDEF"];
    bucket.add_stream(one, Some(&here));
    bucket.add_stream(other, Some("s3://elsewhere/logs"));
    upload(&bucket, &server);
    let directory = tempfile::tempdir().unwrap();
    write(&bucket, directory.path());
    let place = directory.path().to_str().unwrap();
    let (key, ours) = (key(&bucket), format!("--written-to={here}/"));
    let cases = [
        (&*here, &[][..], Some(other)),
        (&*here, &["--written-to=s3://elsewhere/logs"], Some(one)),
        (&*here, &[&*ours, "--written-to=s3://elsewhere/logs"], None),
        // A directory has no name of its own: the name that the first stream states counts.
        (place, &[], Some(other)),
        (place, &["--written-to=s3://elsewhere/logs"], Some(one)),
    ];
    for (place, options, named) in cases {
        let arguments = [&["verify", "--json", place, "--key", &key], options].concat();
        let ran = audit(&environment, &arguments).await;
        let lines = ran.json();
        let mut found = lines.iter().filter(|line| line["finding"] == "other-bucket");
        let found = (found.next().map(|line| line["stream"].as_str().unwrap()), found.next());
        assert_eq!(found, (named, None), "{place} {options:?}: {ran:?}");
        let written = &lines.last().unwrap()["written_to"];
        assert_eq!((&written[&here], &written["s3://elsewhere/logs"]), (&1.into(), &1.into()));
    }
    let ran = audit(&environment, &["verify", place, "--key", &key]).await;
    assert!(ran.out.contains("written   to s3://elsewhere/logs: 1 stream"), "{ran:?}");
    // The page finds the same, also in a bucket whose streams are all of another one.
    bucket.objects.retain(|object| object.stream == other);
    let copied = S3TestServer::start().await;
    upload(&bucket, &copied);
    let (copy, place) = (self::environment(&copied), self::url(&copied));
    for (environment, place, options) in [
        (&environment, &*here, &[][..]),
        (&copy, &*place, &[]),
        (&environment, &*here, &[&*ours, "--written-to=s3://elsewhere/logs"]),
        (&copy, &*place, &["--written-to=s3://elsewhere/logs"]),
    ] {
        let options = [&[place, "--key", &key], options].concat();
        let verify = [&["verify", "--json"], &options[..]].concat();
        let command = audit(environment, &verify).await.json().pop().unwrap();
        let before_ms = SystemClock.now_ms();
        let page = Page::open_with(environment, &options).await.integrity().await;
        let begin_ms = page["begin"].as_i64().unwrap();
        assert!((before_ms..=SystemClock.now_ms()).contains(&begin_ms), "{page}");
        for alarm in ["tampered", "unproven", "late", "expired"] {
            assert_eq!(page[alarm], command[alarm], "{options:?}: {page} {command}");
        }
    }
}

/// Streams are opened within a day of their records. Anybody may file records under the id of an
/// older stream, but at a recent hour, where query engines take them for recent records.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_old_streams_under_recent_hours_are_named() {
    let id = |day: u64, hour: u64| {
        // 2025-11-01.
        let ms = 1_761_955_200_000 + ((day - 1) * 24 + hour) * 3_600_000;
        audit_core::UniqueId::from_bits(u128::from(ms) << 80 | 7).to_string()
    };
    let unsigned = |stream: &str, day: u64, hour: u64| {
        format!("dt=2025-11-{day:02}/hour={hour:02}/{stream}-000000000000.ndjson")
    };
    let (old, early) = (id(3, 5), id(24, 2));
    let since = "--since=2025-11-24T03:00Z";
    let mut bucket = plain();
    // A signed stream that ended long before, and a copy of its records.
    let mut writer = Writer::new(id(14, 16), bucket.host_seed, [6; 32]);
    writer.day = 14;
    let closed = SystemRecord::Closed { at: 1, cosigned: Vec::new() };
    let data = writer.write(false, vec!["{}".to_owned()], 0, [2; 32]);
    bucket.objects.push(data.clone());
    bucket.objects.push(writer.write(true, vec![closed.to_line()], 1, [3; 32]));
    let copy = data.under(24, ".ndjson");
    for (key, metadata, options, expected) in [
        // Recent records must have evidence, whatever the age of their stream.
        (unsigned(&old, 24, 17), None, &[since][..], &["no-evidence"][..]),
        (unsigned(&old, 24, 3), None, &[since], &["no-evidence"]),
        (unsigned(&early, 24, 17), None, &[since], &["no-evidence"]),
        // Older records are not checked.
        (unsigned(&old, 3, 17), None, &[since], &[]),
        (unsigned(&early, 24, 2), None, &[since], &[]),
        // Objects that were not there at the last run.
        (unsigned(&old, 24, 22), None, &["--incremental"], &["no-evidence"]),
        (unsigned(&old, 3, 17), None, &["--incremental"], &[]),
        // A copy under another key: its signature is for the original key.
        (copy.clone(), Some(&data), &[since], &["root"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("bucket");
        write(&bucket, &place);
        let (url, host) = (place.to_str().unwrap().to_owned(), self::key(&bucket));
        let state = directory.path().join("state").to_str().unwrap().to_owned();
        let mut arguments = vec!["verify", "--json", &url, "--key", &host];
        arguments.extend(options);
        if options.contains(&"--incremental") {
            let first = ["verify", &url, "--key", &host, "--state", &state];
            audit(&[], &first).await;
            arguments.extend(["--state", &state]);
        }
        let before = found(&audit(&[], &arguments).await);
        put(&place, &key, "{\"action\":\"forged\"}\n");
        if let Some(object) = metadata {
            let mut copy = object.clone();
            copy.key = key.clone();
            write(&Bucket::of(vec![copy], bucket.trust.clone()), &place);
        }
        let ran = audit(&[], &arguments).await;
        let mut found = found(&ran);
        found.retain(|code| !before.contains(code));
        assert_eq!(found, *expected, "{key} {options:?}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_prove_nothing_outside_their_validity() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = plain();
    write(&bucket, &place);
    let (place, out) = (place.to_str().unwrap(), directory.path().to_str().unwrap());
    let object = bucket.objects.iter().rfind(|object| !object.is_system()).unwrap();
    let number = object.first.to_string();
    let of = ["--stream", &object.stream, "--sequence", &number, "--output", out];
    audit(&[], &[&["prove", place], &of[..]].concat()).await.lines();
    let name = format!("{out}/{}-{:012}", object.stream, object.first);
    let (proof, record) = (format!("{name}.tlog-proof"), format!("{name}.json"));
    let file = directory.path().join("a key");
    let policy = directory.path().join("policy");
    let host = key(&bucket);
    fs::write(&policy, format!("log {host}\nquorum none\n")).unwrap();
    for (validity, is_valid) in [
        ("", true),
        (" until 2026-01-01", true),
        (" from 2025-01-01 until 2026-01-01T00:00:00Z", true),
        (" until 2025-01-01", false),
        ("\tfrom  2026-01-01", false),
    ] {
        let text = format!("{host}{validity}");
        fs::write(&file, format!("{text}\n")).unwrap();
        let file = file.to_str().unwrap();
        // A policy without times does not lift the key's validity.
        let given = [
            &["--key", &*text][..],
            &["--key", file],
            &["--policy", policy.to_str().unwrap(), "--key", &*text],
        ];
        for given in given {
            let ran = audit(&[], &[&["verify", "--json", place], given].concat()).await;
            let streams = bucket.writers.len();
            let expected = if is_valid { vec![] } else { vec!["key-validity"; streams] };
            assert_eq!(found(&ran), expected, "{given:?}: {ran:?}");
            let ran = audit(&[], &[&["check", &proof, &record], given].concat()).await;
            assert_eq!(ran.code, Some(i32::from(!is_valid)), "{given:?}: {ran:?}");
            assert!(is_valid || ran.out.contains("key was not valid"), "{ran:?}");
        }
    }
    for invalid in ["until", "until x", "for 2026-01-01", "from 2026-01-01 until 2025-01-01"] {
        let text = format!("{host} {invalid}");
        let ran = audit(&[], &["verify", place, "--key", &text]).await;
        assert_eq!(ran.code, Some(2), "{invalid}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_another_bucket_are_of_missing_records() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = plain();
    write(&bucket, &place);
    let receipts = directory.path().join("receipts");
    fs::write(&receipts, "01KAVXZ0000123456789ABCDEF,3,2\n").unwrap();
    let (place, receipts) = (place.to_str().unwrap(), receipts.to_str().unwrap());
    let key = key(&bucket);
    let arguments = ["verify", "--json", place, "--key", &key, "--receipts", receipts];
    let ran = audit(&[], &arguments).await;
    assert_eq!((ran.code, found(&ran)), (Some(1), vec!["deleted".to_owned()]), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_without_requirements_are_rejected() {
    use audit_evidence::{KeyKind, SignerKey};
    let directory = tempfile::tempdir().unwrap();
    let bucket = plain();
    write(&bucket, &directory.path().join("bucket"));
    let place = directory.path().join("bucket");
    let file = directory.path().join("policy");
    let log = format!("log {}", key(&bucket));
    let witness = SignerKey::from_seed("w", KeyKind::Cosignature, &[1; 32]).unwrap();
    let witness = witness.verifier();
    for (policy, line) in [
        (format!("{log}\n"), 2),
        (format!("{log}\nwitness w {witness}\ngroup g 0 w\nquorum g\n"), 3),
        (format!("{log}\ngroup g all\nquorum g\n"), 2),
        (format!("{log}\nwitness w {witness}\nwitness v {witness}\nquorum w\n"), 3),
        (format!("{log}\nwitness w {witness}\ngroup g 2 w w\nquorum g\n"), 3),
        (format!("{log}\nwitness w {witness}\nquorum w\nquorum none\n"), 4),
        (format!("log {witness}\nquorum none\n"), 1),
    ] {
        fs::write(&file, &policy).unwrap();
        let arguments = ["--policy", file.to_str().unwrap()];
        let ran =
            audit(&[], &[&["verify", place.to_str().unwrap()], &arguments[..]].concat()).await;
        assert_eq!(ran.code, Some(3), "{policy}: {ran:?}");
        assert!(ran.err.contains(&format!("invalid at line {line}")), "{policy}: {ran:?}");
    }
}

#[derive(Clone)]
struct Parts {
    head: Vec<String>,
    text: String,
    signatures: Vec<String>,
}

impl Parts {
    fn read(file: &Path) -> Parts {
        let text = fs::read_to_string(file).unwrap();
        let (head, note) = text.split_once("\n\n").unwrap();
        let (text, signatures) = note.split_once("\n\n").unwrap();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        Parts { head: lines(head), text: text.to_owned(), signatures: lines(signatures) }
    }

    fn write(&self) -> String {
        let Parts { head, text, signatures } = self;
        format!("{}\n\n{text}\n\n{}\n", head.join("\n"), signatures.join("\n"))
    }
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The last character of the text with a trailing bit set, which a lax decoder ignores.
fn not_canonical(text: &str) -> String {
    let trimmed = text.trim_end_matches('=');
    assert!(trimmed.len() < text.len(), "the text has no trailing bits");
    let last = trimmed.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() | 1).unwrap();
    let padding = &text[trimmed.len()..];
    format!("{}{next}{padding}", &trimmed[..trimmed.len() - 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_proofs_prove_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = plain();
    write(&bucket, &place);
    let object = bucket.objects.iter().rfind(|object| !object.is_system()).unwrap();
    let (number, out) = (object.first.to_string(), directory.path().to_str().unwrap());
    let of = ["--stream", &object.stream, "--sequence", &number, "--output", out];
    audit(&[], &[&["prove", place.to_str().unwrap()], &of[..]].concat()).await.lines();
    let name = format!("{}-{:012}", object.stream, object.first);
    let proof = directory.path().join(format!("{name}.tlog-proof"));
    let whole = Parts::read(&proof);
    let record = object.lines[0].clone();
    let salt = decoded(whole.head[1].strip_prefix("extra ").unwrap());
    let extra = |bytes: &[u8]| format!("extra {}", encoded(bytes));
    // The stream's signature: the line before the certificate's.
    let (_, bytes) = whole.signatures[0].rsplit_once(' ').unwrap();
    let (by, mut other) = (&whole.signatures[0], decoded(bytes));
    *other.last_mut().unwrap() ^= 1;
    let same_id = by.replace(bytes, &encoded(&other));
    other[0] ^= 1;
    let other_id = by.replace(bytes, &encoded(&other));
    let as_is = |parts: Parts| (parts.write(), record.clone());
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = whole.clone();
        change(&mut parts);
        as_is(parts)
    };
    let cases = [
        ("nothing", as_is(whole.clone()), 0),
        // Salt and record are hashed as one: a part of one must not pass for the other.
        (
            "a part of the record in the salt",
            (
                with(&|p| p.head[1] = extra(&[&salt, &record.as_bytes()[..1]].concat())).0,
                record[1..].to_owned(),
            ),
            1,
        ),
        (
            "the whole record in the salt",
            (with(&|p| p.head[1] = extra(&[&salt, record.as_bytes()].concat())).0, String::new()),
            1,
        ),
        ("no salt", with(&|p| drop(p.head.remove(1))), 1),
        ("a salt that is not canonical", with(&|p| p.head[1] = not_canonical(&p.head[1])), 3),
        ("an index with a zero", with(&|p| p.head[2] = p.head[2].replace("index ", "index 0")), 3),
        ("another index", with(&|p| p.head[2].push('1')), 1),
        (
            "a hash that is not canonical",
            with(&|p| *p.head.last_mut().unwrap() = not_canonical(p.head.last().unwrap())),
            3,
        ),
        ("a hash more", with(&|p| p.head.push(p.head.last().unwrap().clone())), 1),
        ("a hash less", with(&|p| drop(p.head.pop())), 1),
        ("another size", with(&|p| p.text = p.text.replacen('\n', "\n1", 1)), 1),
        ("an extension that nobody signed", with(&|p| p.text.push_str("\nmore")), 1),
        ("no certificate", with(&|p| drop(p.signatures.pop())), 1),
        ("no signature", with(&|p| drop(p.signatures.remove(0))), 1),
        ("a false signature beside it", with(&|p| p.signatures.push(same_id.clone())), 1),
        // Signatures by an unknown key are ignored.
        ("a signature by another id", with(&|p| p.signatures.push(other_id.clone())), 0),
        ("only one by another id", with(&|p| p.signatures[0] = other_id.clone()), 1),
        ("text behind it", (whole.write() + "more\n", record.clone()), 3),
        ("a line feed behind it", (whole.write() + "\n", record.clone()), 3),
        ("a blank behind the record", (whole.write(), record.clone() + " "), 1),
        ("two line feeds behind the record", (whole.write(), record.clone() + "\n\n"), 1),
    ];
    let lines = directory.path().join("record");
    for (what, (text, record), code) in cases {
        fs::write(&proof, text).unwrap();
        fs::write(&lines, record).unwrap();
        let files = ["check", proof.to_str().unwrap(), lines.to_str().unwrap(), "--json"];
        let ran = audit(&[], &[&files[..], &["--key", &key(&bucket)]].concat()).await;
        assert_eq!(ran.code, Some(code), "{what}: {ran:?}");
        let proven = if code < 3 { ran.json()[0]["proven"].clone() } else { Value::Bool(false) };
        assert_eq!(proven, code == 0, "{what}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_alone_starts_verifications() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = bucket(2);
    write(&bucket, &place);
    let key = key(&bucket);
    let place = place.to_str().unwrap();
    let page = Page::open_with(&[], &[place, "--key", &key]).await;
    let first = page.integrity().await;
    assert_eq!((&first["state"], &first["tampered"]), (&"done".into(), &0.into()), "{first}");
    let object = bucket.objects.iter().find(|object| !object.is_system()).unwrap();
    fs::write(Path::new(place).join(&object.key), "{}\n").unwrap();

    let ours = format!("http://{}", page.address);
    let localhost = ours.replace("127.0.0.1", "localhost");
    for (method, path, cookie, headers, status) in [
        ("POST", "/api/verify", "", &[("Origin", &*ours)][..], 401),
        ("POST", "/api/verify", &page.cookie, &[], 403),
        ("POST", "/api/verify", &page.cookie, &[("Origin", "http://127.0.0.1:1")], 403),
        ("POST", "/api/verify", &page.cookie, &[("Origin", "null")], 403),
        (
            "POST",
            "/api/verify",
            &page.cookie,
            &[("Origin", &*ours), ("Sec-Fetch-Site", "same-site")],
            403,
        ),
        ("GET", "/api/verify", &page.cookie, &[("Origin", &*ours)], 405),
        ("POST", "/api/integrity", &page.cookie, &[("Origin", &*ours)], 405),
        ("DELETE", "/api/verify", &page.cookie, &[("Origin", &*ours)], 405),
    ] {
        let headers = [headers, &[("Cookie", cookie)]].concat();
        let answer = page.ask(method, path, &headers).await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?}: {}", answer.body);
    }
    assert_eq!(page.integrity().await, first, "none of these has started one");
    for origin in [&ours, &localhost] {
        let answer = page.ask("POST", "/api/verify", &[("Origin", origin)]).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        // The earlier result is shown meanwhile.
        let meanwhile: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(meanwhile["state"], "done", "{meanwhile}");
        let again = page.integrity().await;
        assert_eq!(again["tampered"], 1, "{again}");
        assert!(again["begin"].as_i64() >= first["begin"].as_i64(), "{again}");
    }
}
