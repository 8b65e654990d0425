//! A proof is valid for its record alone, with only the host's public key.

use std::fs;
use std::path::Path;

use audit_evidence::{Checkpoint, KeyKind, Note, Proof, SignerKey};
use s3_testserver::S3TestServer;

use super::{bucket, key, upload, write};
use crate::support::{Ran, audit, environment, url};

async fn check(proof: &Path, record: &Path, more: &[&str]) -> Ran {
    let files = ["check", proof.to_str().unwrap(), record.to_str().unwrap()];
    audit(&[], &[&files[..], more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_proven_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = bucket(2);
    let key = key(&bucket);
    write(&bucket, &place);
    let server = S3TestServer::start().await;
    upload(&bucket, &server);
    let out = directory.path().join("proofs");
    // A record of a function, and a system record.
    let objects = bucket.objects.iter().filter(|object| !object.metadata.is_empty());
    let (system, data): (Vec<_>, Vec<_>) = objects.partition(|object| object.is_system());
    for (object, environment, place) in [
        (data[1], vec![], place.to_str().unwrap().to_owned()),
        (data[2], environment(&server), url(&server)),
        (system[0], vec![], place.to_str().unwrap().to_owned()),
    ] {
        let sequence = object.end() - 1;
        let number = sequence.to_string();
        let arguments = ["prove", &place, "--stream", &object.stream, "--sequence", &number];
        let output = ["--output", out.to_str().unwrap()];
        let ran = audit(&environment, &[&arguments[..], &output].concat()).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let name = format!("{}-{sequence:012}", object.stream);
        let file = |suffix: &str| out.join(format!("{name}.{suffix}"));
        let (proof, record) = (file("tlog-proof"), file("json"));
        let line = object.lines.last().unwrap();
        assert_eq!(fs::read_to_string(&record).unwrap(), format!("{line}\n"));
        assert!(fs::metadata(&proof).unwrap().len() < 1_536);

        let ran = check(&proof, &record, &["--key", &key]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.starts_with("proven: this is record"), "{ran:?}");
        let ran = check(&proof, &record, &["--key", &key, "--json"]).await;
        assert_eq!(ran.json()[0]["record"], sequence);

        // Another record, another key, and every character of the proof.
        let other = directory.path().join("other");
        fs::write(&other, line.replace("\"at\"", "\"At\"").to_owned() + " ").unwrap();
        let ran = check(&proof, &other, &["--key", &key]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let stranger = super::key(&super::bucket(77));
        let ran = check(&proof, &record, &["--key", &stranger]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let text = fs::read_to_string(&proof).unwrap();
        for at in (0..text.len()).step_by(37).filter(|&at| text.is_char_boundary(at)) {
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            let Some(rest) = text.get(at + 1..) else { continue };
            fs::write(&proof, format!("{}{other}{rest}", &text[..at])).unwrap();
            let ran = check(&proof, &record, &["--key", &key]).await;
            assert!(matches!(ran.code, Some(1 | 3)), "{at}: {ran:?}");
        }
        fs::write(&proof, text).unwrap();
    }
    let ran = audit(
        &[],
        &["prove", place.to_str().unwrap(), "--stream", &data[1].stream, "--sequence", "99999"],
    )
    .await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("no object holds record 99999"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn quorums_are_required_by_policies_that_have_one() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let bucket = bucket(2);
    write(&bucket, &place);
    let object = bucket.objects.iter().find(|object| !object.is_system()).unwrap();
    let number = object.first.to_string();
    let arguments = ["--stream", &object.stream, "--sequence", &number];
    let output = ["--output", directory.path().to_str().unwrap()];
    let command = ["prove", place.to_str().unwrap()];
    audit(&[], &[&command[..], &arguments, &output].concat()).await.lines();
    let name = format!("{}-{:012}", object.stream, object.first);
    let file = |suffix: &str| directory.path().join(format!("{name}.{suffix}"));
    let (proof, record) = (file("tlog-proof"), file("json"));
    let witness = SignerKey::from_seed("w", KeyKind::Cosignature, &[1; 32]).unwrap();
    let policy = directory.path().join("policy");
    let text = format!("log {}\nwitness w {}\nquorum w\n", key(&bucket), witness.verifier());
    fs::write(&policy, text).unwrap();
    let option = ["--policy", policy.to_str().unwrap()];
    let ran = check(&proof, &record, &option).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("cosigned the checkpoint: 0 of 1"), "{ran:?}");
    let text = fs::read_to_string(&proof).unwrap();
    let parsed = Proof::parse(&text).unwrap();
    let mut note: Note = parsed.note().clone();
    note.add(Checkpoint::parse(note.text()).unwrap().cosign(&witness, 1_764_000_000));
    let (head, _) = text.split_once("\n\n").unwrap();
    fs::write(&proof, format!("{head}\n\n{note}")).unwrap();
    let ran = check(&proof, &record, &option).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_proven_record_by_record() {
    use super::model::Writer;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let mut bucket = bucket(0);
    let (id, other) = ("01KAVXZ00000000000000000EX", "01KAVXZ00000000000000000EY");
    let of = |execution: &str, n: u32| {
        format!("{{\"n\":{n},\"note\":\"{id}\",\"$audit\":{{\"execution\":\"{execution}\"}}}}")
    };
    let mut writer =
        Writer::new("01KAVXZ0000123456789ABCDEF".to_owned(), bucket.host_seed, [6; 32]);
    bucket.objects = vec![
        writer.write(false, vec![of(id, 1), of(other, 2), of(id, 3)], 0, [1; 32]),
        writer.write(false, vec![of(other, 4)], 0, [2; 32]),
        writer.write(false, vec![of(id, 5)], 0, [3; 32]),
    ];
    write(&bucket, &place);
    let out = directory.path().to_str().unwrap();
    let place = place.to_str().unwrap();
    let ran = audit(&[], &["prove", place, "--execution", id, "--output", out, "--json"]).await;
    let proven: Vec<_> = ran.json().iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert_eq!((ran.code, proven), (Some(0), vec![0, 2, 4]), "{ran:?}");
    for line in ran.json() {
        let file = |name: &str| line[name].as_str().unwrap().to_owned();
        let (proof, record) = (file("proof"), file("record"));
        let ran = check(proof.as_ref(), record.as_ref(), &["--key", &key(&bucket)]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let ran = audit(&[], &["prove", place, "--execution", "nobody", "--output", out]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    // Without evidence nothing is proven.
    fs::remove_dir_all(directory.path().join("bucket/_audit")).unwrap();
    let ran = audit(&[], &["prove", place, "--execution", id, "--output", out]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("proves nothing"), "{}", ran.err);
}

/// Anybody who may write the bucket can put objects beside those of a host.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_others_prevent_no_proof() {
    use super::model::Writer;
    let directory = tempfile::tempdir().unwrap();
    let mut bucket = bucket(0);
    let id = "01KAVXZ00000000000000000EX";
    let of = |n: u32| format!("{{\"n\":{n},\"$audit\":{{\"execution\":\"{id}\"}}}}");
    let stream = "01KAVXZ0000123456789ABCDEF".to_owned();
    let mut writer = Writer::new(stream.clone(), bucket.host_seed, [6; 32]);
    bucket.objects =
        (0..4).map(|n| writer.write(false, vec![of(2 * n), of(2 * n + 1)], 0, [1; 32])).collect();
    let key = key(&bucket);
    let at = |n: usize, change: &dyn Fn(&mut super::model::Object)| {
        let mut object = bucket.objects[n].clone();
        change(&mut object);
        object
    };
    // Each of these objects is found before the one that holds record 3, or beside those of the
    // execution.
    let copy = at(1, &|object| object.key = object.under(25, ".ndjson"));
    let stripped = at(1, &|object| {
        object.key = object.under(25, ".ndjson");
        object.metadata.clear();
    });
    let short = at(1, &|object| {
        object.key = object.key.replace("000002", "000003");
        object.metadata.insert("lastsequence".to_owned(), "3".to_owned());
        object.metadata.insert("count".to_owned(), "1".to_owned());
    });
    let later = at(1, &|object| {
        object.key = object.key.replace("000002", "000003");
        object.metadata = bucket.objects[3].metadata.clone();
    });
    let mut forger = Writer::new(stream.clone(), [9; 32], [9; 32]);
    forger.write(false, vec![of(0), of(1)], 0, [1; 32]);
    forger.day = 25;
    let forged = forger.write(false, vec![of(8), of(9)], 0, [1; 32]);
    for (what, object) in [
        ("copy", copy),
        ("stripped", stripped),
        ("short", short),
        ("later", later),
        ("forged", forged),
    ] {
        let place = directory.path().join(what);
        write(&bucket, &place);
        write(&super::model::Bucket::of(vec![object], bucket.trust.clone()), &place);
        let place = place.to_str().unwrap();
        let out = directory.path().join(format!("{what}.proofs"));
        let out = out.to_str().unwrap();
        let one = ["prove", place, "--stream", &stream, "--sequence", "3"];
        let all = ["prove", place, "--execution", id];
        for (command, numbers) in [(&one[..], vec![3]), (&all[..], (0..8).collect())] {
            let options = ["--key", &key, "--output", out, "--json"];
            let ran = audit(&[], &[command, &options].concat()).await;
            let proven: Vec<u64> =
                ran.json().iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
            assert_eq!(proven, numbers, "{what} {command:?}: {ran:?}");
            let names_it = ran.err.contains("proves nothing");
            let expected = if command == one { (0, false) } else { (1, true) };
            assert_eq!((ran.code.unwrap(), names_it), expected, "{what} {command:?}: {ran:?}");
            for line in ran.json() {
                let file = |name: &str| line[name].as_str().unwrap().to_owned();
                let (proof, record) = (file("proof"), file("record"));
                let ran = check(proof.as_ref(), record.as_ref(), &["--key", &key]).await;
                assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
            }
        }
    }
}

/// Whoever may write the bucket can put an object there with any number of lines that name the
/// execution, and sign it. The root is compared before any of them is kept.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn lines_of_others_take_no_memory() {
    use super::model::Writer;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("bucket");
    let id = "01KAVXZ00000000000000000EX";
    let mut forger = Writer::new("01KAVXZ0000123456789ABCDEF".to_owned(), [9; 32], [9; 32]);
    let filler = "x".repeat(8 << 20);
    let line = format!("{{\"$audit\":{{\"execution\":\"{id}\"}},\"filler\":\"{filler}\"}}");
    let mut object = forger.write(false, vec![line; 32], 0, [1; 32]);
    // The last line is not the one that was signed.
    *object.lines.last_mut().unwrap() = "{}".to_owned();
    write(&super::model::Bucket::of(vec![object], Vec::new()), &place);
    let mut limited = std::process::Command::new("sh");
    // The memory limit, 200 MiB, is less than the size of the lines.
    limited.args(["-c", "ulimit -d 204800; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_audit")]);
    limited.args(["prove", place.to_str().unwrap(), "--execution", id, "--parallel", "1"]);
    limited.arg("--output").arg(directory.path());
    limited.env_clear().env("MALLOC_ARENA_MAX", "1").env("TOKIO_WORKER_THREADS", "2");
    let ran = tokio::task::spawn_blocking(move || limited.output().unwrap()).await.unwrap();
    let ran = Ran::of(ran);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("proves nothing: it was tampered with"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_once_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("host.key");
    let file = file.to_str().unwrap();
    let made = audit(&[], &["key", file, "--make", "example.com/api"]).await;
    let made = made.lines()[0].to_owned();
    assert!(made.starts_with("example.com/api+"), "{made}");
    assert_eq!(audit(&[], &["key", file]).await.lines(), [&*made]);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let ran = audit(&[], &["key", file, "--make", "example.com/api"]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(audit(&[], &["key", file]).await.lines(), [&*made]);
    let secret = fs::read_to_string(file).unwrap();
    fs::write(file, secret.replace("PRIVATE", "SECRET")).unwrap();
    let ran = audit(&[], &["key", file]).await;
    assert!(ran.code == Some(3) && !ran.err.contains(&secret[40..60]), "{ran:?}");
    let witness = directory.path().join("witness.key");
    let witness = witness.to_str().unwrap();
    let made = audit(&[], &["key", witness, "--make", "w", "--witness", "--json"]).await;
    assert_eq!(made.json()[0]["kind"], "witness");
}
