//! A file or a place that is missing, empty, endless or of another kind is never taken for the
//! expected one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use audit_core::durable::create;
use audit_evidence::{KeyKind, SignerKey};

use crate::support::{DAY, audit, batch, command, object_for_each_batch, write};

fn key(kind: KeyKind) -> String {
    SignerKey::from_seed("example.com/api", kind, &[7; 32]).unwrap().verifier().to_string()
}

/// An empty directory, a path where nothing exists, a file, and a bucket.
async fn places(root: &Path) -> Vec<(&'static str, String)> {
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let bucket = audit_sink_s3::Bucket::open(&format!("file://{}", at("bucket"))).unwrap();
    write(bucket, object_for_each_batch(), vec![batch(DAY, "ada", 10)]).await;
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("file"), "hello\n").unwrap();
    let kinds = ["empty", "missing", "file", "bucket"];
    kinds.map(|kind| (kind, at(kind))).into()
}

/// Commands that search for records print nothing and say why. Commands that judge a place, or need
/// something in it, end with a code other than 0.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_takes_another_place_for_its_own() {
    let root = tempfile::tempdir().unwrap();
    let (host, witness) = (key(KeyKind::Ed25519), key(KeyKind::Cosignature));
    const STREAM: &str = "01M86YQH3BN92MTRKE2RS1CKJ5";
    let out = root.path().join("out").to_str().unwrap().to_owned();
    let period = ["--from", "2023-11-14", "--to", "2023-11-15", "-o", &out];
    let seen = root.path().join("seen").to_str().unwrap().to_owned();
    let heads = ["--key", &witness, "--state", &seen];
    let verify = ["--key", &host];
    let prove = ["--stream", STREAM, "--sequence", "0", "-o", &out];
    let found = ["--execution", STREAM, "-o", &out];
    let to = ["--to", &out];
    // The last commands expect another kind of place, so they refuse a bucket too.
    for (command, options, empty, bucket) in [
        (&["ls"][..], &[][..], 0, Some(0)),
        (&["cat"], &[], 0, Some(0)),
        (&["search", "nobody"], &[], 0, Some(0)),
        (&["who", "nobody"], &[], 0, Some(0)),
        (&["export", "--format", "ndjson"], &[], 0, Some(0)),
        (&["tail"], &[], 0, Some(0)),
        (&["stats"], &[], 1, Some(0)),
        (&["stats", "--by", "/user"], &[], 0, Some(0)),
        (&["compact"], &to, 0, Some(0)),
        (&["verify"], &verify, 4, Some(4)),
        (&["report"], &period, 1, None),
        (&["prove"], &prove, 3, Some(3)),
        (&["prove"], &found, 1, Some(1)),
        (&["heads"], &heads, 3, Some(3)),
        (&["journal", "show"], &[], 3, Some(3)),
        (&["journal", "cat"], &[], 3, Some(3)),
        (&["log-stream", "test"], &[], 3, Some(3)),
        (&["key"], &[], 3, Some(3)),
    ] {
        for (kind, place) in places(root.path()).await {
            let ran = audit(&[], &[command, &[&*place], options].concat()).await;
            let code = match kind {
                "empty" => Some(empty),
                "bucket" => bucket.or(ran.code),
                _ => Some(3),
            };
            assert_eq!(ran.code, code, "{command:?} of {kind}: {ran:?}");
            let is_said = !ran.err.is_empty() || ran.out.contains("no streams");
            assert!(kind == "bucket" || command == ["report"] || is_said, "{command:?} {ran:?}");
            assert!(!Path::new(&seen).exists(), "{command:?} of {kind}");
        }
        fs::remove_dir_all(root.path()).unwrap();
        fs::create_dir(root.path()).unwrap();
    }
}

/// A state that does not exist is created, and a mistyped one said to be new.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_does_not_exist_is_named() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().to_str().unwrap();
    let (key, state) = (key(KeyKind::Ed25519), root.path().join("state"));
    let verify = ["verify", place, "--key", &key, "--state", state.to_str().unwrap()];
    for is_new in [true, false] {
        let ran = audit(&[], &verify).await;
        let note = format!("there is no state {} yet", state.display());
        assert_eq!((ran.code, ran.err.contains(&note)), (Some(4), is_new), "{ran:?}");
    }
}

/// The exit code of a command, and its standard error. It is not a [`Ran`](super::support::Ran),
/// whose check of plurals would take "line 1 exceeds" for a count.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let ran = command().args(arguments).output().unwrap();
    (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
}

/// Directories and files without end are refused in a sentence with the limit, for each option.
#[test]
fn endless_files_are_refused_by_each_option() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (host, witness) = (key(KeyKind::Ed25519), key(KeyKind::Cosignature));
    let signer = SignerKey::from_seed("w", KeyKind::Cosignature, &[7; 32]).unwrap();
    assert!(create(Path::new(&at("key")), signer.to_secret_text().as_bytes()).unwrap());
    fs::write(at("log-streams"), "").unwrap();
    fs::create_dir(at("bucket")).unwrap();
    let [bucket, out, good] = ["bucket", "out", "key"].map(at);
    let period = ["--from", "2023-11-14", "--to", "2023-11-15", "-o", &out];
    let report = [&["report", &bucket][..], &period].concat();
    let verify = ["verify", &bucket, "--key", &host];
    let serve = ["serve", &bucket, "--listen", "127.0.0.1:0"];
    let from = "--from=01M86YQH3BN92MTRKE2RS1CKJ5:0";
    let witness_of = ["witness", "--listen", "127.0.0.1:0", "--state", &out];
    let endless = "/dev/zero";
    // The file is the last argument.
    let mut commands: Vec<Vec<&str>> = Vec::new();
    for option in ["--policy", "--state", "--receipts", "--key"] {
        commands.push([&verify[..], &[option]].concat());
    }
    for option in ["--policy", "--sign", "--key"] {
        commands.push([&report[..], &[option]].concat());
    }
    for options in [&["--policy"][..], &["--key"], &["--tls-key", &good, "--tls-cert"]] {
        commands.push([&serve[..], options].concat());
    }
    commands.push(vec!["check", "--key", &host]);
    commands.push(vec!["key"]);
    commands.push(vec!["prove", &bucket, "--execution=x", "-o", &out, "--key"]);
    commands.push([&witness_of[..], &["--host", &host, "--key"]].concat());
    commands.push([&witness_of[..], &["--key", &good, "--host"]].concat());
    commands.push(vec!["heads", &bucket, "--key"]);
    commands.push(vec!["heads", &bucket, "--key", &witness, "--host"]);
    commands.push(vec!["log-stream", "test"]);
    commands.push(vec!["replay", &bucket, from, "--log-streams"]);
    commands.push(vec!["replay", &bucket, from, "--route=a", "--routes"]);
    for command in commands {
        for (file, says) in [(endless, "exceeds limit of"), (&*bucket, "directory")] {
            let mut arguments = [&command[..], &[file]].concat();
            arguments.extend((command[0] == "check").then_some("record"));
            let (code, err) = refused(&arguments);
            assert!(matches!(code, Some(2 | 3)), "{arguments:?}: {code:?} {err}");
            assert!(err.contains(says), "{arguments:?}: {err}");
        }
    }
    // The files in the directory of a witness.
    for file in ["heads", "heads.signed"] {
        let place = root.path().join("place");
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(endless, place.join(file)).unwrap();
        let (code, err) = refused(&["heads", place.to_str().unwrap(), "--key", &witness]);
        assert!(code == Some(3) && err.contains("exceeds limit of"), "{file}: {code:?} {err}");
        fs::remove_dir_all(&place).unwrap();
    }
}

/// What a key signs proves nothing if others could use the key.
#[test]
fn keys_that_others_may_use_sign_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let host = key(KeyKind::Ed25519);
    let (file, bucket, out) = (at("key"), at("bucket"), at("out"));
    let signer = SignerKey::from_seed("w", KeyKind::Cosignature, &[7; 32]).unwrap();
    assert!(create(Path::new(&file), signer.to_secret_text().as_bytes()).unwrap());
    fs::create_dir(&bucket).unwrap();
    let period = ["--from", "2023-11-14", "--to", "2023-11-15", "-o", &out];
    let commands = [
        &["key", &file][..],
        &[&["report", &bucket, "--sign", &file][..], &period].concat(),
        &["witness", "--listen", "127.0.0.1:0", "--state", &out, "--host", &host, "--key", &file],
    ];
    for mode in [0o640, 0o620, 0o604, 0o602] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        for command in commands {
            let (code, err) = refused(command);
            assert_eq!(code, Some(3), "{command:?}: {err}");
            let says = format!("others may use it (mode {mode:03o}): chmod 600 it");
            assert!(err.contains(&says), "{command:?}: {err}");
        }
    }
    assert!(!Path::new(&out).exists(), "nothing was written");
}
