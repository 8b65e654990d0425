//! Exit codes, errors and man pages are as documented.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

use crate::support::{DAY, audit, batch, environment, hourly, object_for_each_batch, url, write};

#[tokio::test(flavor = "multi_thread")]
async fn usage_errors_end_with_two_and_unreadable_buckets_with_three() {
    for wrong in [
        &["nothing"][..],
        &["cat"],
        &["ls", "--since", "yesterday", "."],
        &["cat", ".", "--where", "user=ada"],
        &["report", ".", "--from=2d", "--to=1d", "--output=reports/"],
        &["report", ".", "--from=2d", "--to=1d", "--output=.."],
        &["serve", ".", "--proxy=https://example.com/audit"],
        &["serve", ".", "--proxy=https://ada:hunter2@example.com"],
        // The same input for both files: the second reading would find nothing.
        &["check", "-", "-", "--policy", "policy"],
        &["check", "/dev/stdin", "/dev/stdin", "--policy", "policy"],
        // Options that would have no effect: the user expects a different answer.
        &["stats", ".", "--where", "/user=ada"],
        &["stats", ".", "--heads", "--where", "/user=ada"],
        &["stats", ".", "--address", "/ip"],
        &["stats", ".", "--heads", "--by", "/user"],
        &["stats", ".", "--heads", "--per", "day"],
        &["export", ".", "--format", "ndjson", "--columns", "/user"],
    ] {
        let ran = audit(&[], wrong).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(ran.err.contains("--help"), "{}", ran.err);
    }
    let ran = audit(&[], &["ls", "no/such/directory"]).await;
    assert_eq!(ran.code, Some(3));
    assert!(
        ran.err.contains("s3://bucket/prefix") && ran.err.contains("  because "),
        "{}",
        ran.err
    );
    let ran = audit(&[], &["--json", "ls", "ftp://bucket"]).await;
    assert_eq!(ran.code, Some(3));
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(error["error"].as_str().unwrap().contains("use s3://"), "{error}");
    assert_eq!(error.get("because"), None, "no cause, no member");

    let (server, _) = hourly(3).await;
    let denied = |_: &s3_testserver::RequestInfo| Fault::Refused(ErrorAnswer::ACCESS_DENIED);
    server.faults().plan(denied);
    let ran = audit(&environment(&server), &["stats", &url(&server)]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""));
    assert!(ran.err.contains("status 403 AccessDenied"), "{}", ran.err);
    // An unreadable object is not omitted silently.
    let of_objects = |request: &s3_testserver::RequestInfo| {
        if request.is_list() { Fault::None } else { Fault::Refused(ErrorAnswer::ACCESS_DENIED) }
    };
    server.faults().plan(of_objects);
    for command in ["cat", "stats", "tail"] {
        let ran = audit(&environment(&server), &[command, &url(&server)]).await;
        assert_eq!(ran.code, Some(3), "{command}: {ran:?}");
        assert!(ran.err.contains("cannot read logs/dt="), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overloaded_stores_are_retried() {
    let (server, _) = hourly(8).await;
    let count = std::sync::atomic::AtomicUsize::new(0);
    server.faults().plan(move |_: &s3_testserver::RequestInfo| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if n.is_multiple_of(3) { Fault::Refused(ErrorAnswer::SLOW_DOWN) } else { Fault::None }
    });
    assert_eq!(audit(&environment(&server), &["cat", &url(&server)]).await.lines().len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_to_be_nothing_and_stats_find_it() {
    let (server, places) = hourly(30).await;
    let stream = places[0].stream.to_string();
    let bucket = server.bucket();
    let right = url(&server);
    let mistyped = format!("s3://{bucket}/log");
    let deeper = format!("{right}/dt=2023-11-14");
    let above = format!("s3://{bucket}");
    let other_stream = "0000000000000000000000002D";
    for (place, more, why) in [
        (&mistyped, &[][..], "no days dt=YYYY-MM-DD are in s3://audit-test/log"),
        (&mistyped, &[], "Nearby are logs/"),
        (&above, &[], "Nearby are logs/"),
        (&deeper, &[], "hour=00/, hour=01/"),
        (&right, &["--since", "2024-01-01"], "its days are dt=2023-11-14 to dt=2023-11-15"),
        (&right, &["--stream", other_stream], "30 objects of other streams"),
    ] {
        for command in ["ls", "cat", "stats"] {
            let arguments = [&[command, place.as_str()], more].concat();
            let ran = audit(&environment(&server), &arguments).await;
            let (code, text) = match command {
                "stats" => (Some(1), ran.out.clone()),
                _ => (Some(0), ran.err.clone()),
            };
            assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
            assert!(text.contains(why), "{arguments:?}: {ran:?}");
            assert!(command == "stats" || ran.out.is_empty(), "{arguments:?}: {ran:?}");
            assert!(!ran.out.contains("nothing damaged"), "{ran:?}");
        }
    }
    let ran = audit(&environment(&server), &["tail", &mistyped]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    assert!(ran.err.contains("Nearby are logs/"), "{ran:?}");
    let json = audit(&environment(&server), &["stats", "--json", &mistyped]).await;
    assert_eq!(json.json()[0]["finding"], "no_streams");
    // If there are objects, the note is not printed.
    let ran = audit(&environment(&server), &["cat", &right, "--stream", &stream]).await;
    assert_eq!((ran.lines().len(), ran.err.as_str()), (300, ""));

    let directory = tempfile::tempdir().unwrap();
    let ran = audit(&[], &["stats", directory.path().to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let server = S3TestServer::start().await;
    let ran = audit(&environment(&server), &["stats", &url(&server)]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("is it mistyped?") && !ran.out.contains("earby"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_range_without_any_time_is_a_wrong_command_line() {
    for command in [
        &["ls"][..],
        &["cat"],
        &["search", "x"],
        &["who", "x"],
        &["export", "--format", "csv"],
        &["stats"],
        &["compact", "--to", "files"],
        &["prove", "--execution", "x"],
    ] {
        for until in ["2023-11-13", "2023-11-14"] {
            let range = [command, &[".", "--since", "2023-11-14", "--until", until]].concat();
            let ran = audit(&[], &range).await;
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
            assert!(ran.err.contains("is not before --until"), "{ran:?}");
            assert!(ran.err.starts_with("error: "), "without codes of a terminal: {ran:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_records_without_any_record_is_a_wrong_command_line() {
    const STREAM: &str = "01HF7YAT000000000000000000";
    for (from, to, says) in [
        ("18446744073709551615", None, "'--from <STREAM:NUMBER>': a record is named by"),
        ("18446744073709551615", Some("18446744073709551615"), "which is less than 2^64 - 1"),
        ("18446744073709551616", None, "which is less than 2^64 - 1"),
        ("-1", None, "which is less than 2^64 - 1"),
        ("5", Some("4"), "--to 4 is before the record 5 of --from"),
        ("18446744073709551614", Some("0"), "--to 0 is before the record"),
    ] {
        let from = format!("{STREAM}:{from}");
        let mut replay = vec!["replay", ".", "--log-streams", "no file", "--from", &from];
        replay.extend(to.iter().flat_map(|to| ["--to", to]));
        let ran = audit(&[], &replay).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
    // The last number that a record can have.
    let from = format!("{STREAM}:18446744073709551614");
    let ran = audit(&[], &["replay", ".", "--log-streams", "no file", "--from", &from]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
}

/// A report that was cut at the limit would be taken for one that nobody signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_to_check_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let seed = audit_evidence::SignerKey::from_seed;
    let signer = seed("host-1", audit_evidence::KeyKind::Ed25519, &[7; 32]).unwrap();
    let key = signer.verifier().to_string();
    std::fs::write(at("report.json.note"), "audit report\n").unwrap();
    std::fs::File::create(at("report.json")).unwrap().set_len((64 << 20) + 1).unwrap();
    for (proof, record) in [("report.json.note", "report.json"), ("report.json", "record")] {
        let ran = audit(&[], &["check", &at(proof), &at(record), "--key", &key]).await;
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.err.contains("it exceeds limit of 67108864 bytes"), "{ran:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_output_disk_is_reported() {
    let (server, _) = hourly(3).await;
    for command in ["ls", "cat", "stats", "tail"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut child = crate::support::command();
        child.args([command, &url(&server)]).envs(environment(&server)).stdout(full);
        child.stderr(std::process::Stdio::piped());
        let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
        let ran = crate::support::Ran::of(output);
        assert_eq!(ran.code, Some(3), "{command}: {ran:?}");
        let why = "audit: the output cannot be written\n  because No space left on device";
        assert!(ran.err.starts_with(why), "{command}: {ran:?}");
    }
}

/// As with `audit verify … | head`, whose exit code a script may rely on.
#[test]
fn a_verdict_is_not_lost_with_the_reader_of_the_output() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let run = |arguments: &[&str], is_read: bool| {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut child = crate::support::command();
        child.args(arguments).stdout(writer).stderr(std::process::Stdio::null());
        let mut spawned = child.spawn().unwrap();
        // The process has the only writer left.
        drop(child);
        let said = is_read.then(|| std::io::read_to_string(&reader).unwrap());
        drop(reader);
        (spawned.wait().unwrap().code(), said.map_or(0, |said| said.len()))
    };
    let hour = |bucket: &str| format!("{}/dt=2023-11-14/hour=00", at(bucket));
    // The findings about the second bucket exceed the buffer of the output.
    for (bucket, objects) in [("few", 3), ("many", 1_500)] {
        std::fs::create_dir_all(hour(bucket)).unwrap();
        for n in 0..objects {
            let stream = audit_core::UniqueId::from_bits(n);
            std::fs::write(format!("{}/{stream}-000000000000.ndjson", hour(bucket)), "x").unwrap();
        }
    }
    let seed = audit_evidence::SignerKey::from_seed;
    let signer = seed("host-1", audit_evidence::KeyKind::Ed25519, &[7; 32]).unwrap();
    let key = signer.verifier().to_string();
    let (few, many) = (at("few"), at("many"));
    let (parquet, report) = (at("parquet"), at("report"));
    for (command, code) in [
        (&["stats", &few][..], 1),
        (&["verify", &few, "--key", &key], 4),
        (&["verify", &many, "--key", &key], 4),
        (&["verify", &many, "--key", &key, "--json"], 4),
        (&["compact", &few, "--to", &parquet], 1),
        (&["report", &few, "--from", "2023-11-14", "--to", "2023-11-15", "-o", &report], 1),
        // It has no verdict, and may end early.
        (&["ls", &many, "--objects"], 0),
    ] {
        let (read, bytes) = run(command, true);
        assert_eq!((read, run(command, false).0), (Some(code), Some(code)), "{command:?}");
        assert!(command[1] == few || bytes > 64 << 10, "{command:?}: {bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_stores_are_retried_and_reported_once() {
    let (server, _) = hourly(8).await;
    let mut left = 12;
    server.faults().plan(move |_: &s3_testserver::RequestInfo| {
        left -= 1;
        if left >= 0 { Fault::Refused(ErrorAnswer::SERVICE_UNAVAILABLE) } else { Fault::None }
    });
    let patient = ["cat", &url(&server), "--retry-for", "600"];
    let ran = audit(&environment(&server), &patient).await;
    assert_eq!(ran.lines().len(), 80);
    let note =
        "audit: the bucket does not answer (status 503 Service Unavailable): retrying for 600 s\n";
    assert_eq!(ran.err, note);

    server.faults().none();
    server.pause().await;
    let mut environment = environment(&server);
    environment.push(("AUDIT_RETRY_FOR", "0".to_owned()));
    let ran = audit(&environment, &["ls", &url(&server)]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(!ran.err.contains("retrying"), "{ran:?}");
    environment.pop();
    let ran = audit(&environment, &["ls", &url(&server), "--retry-for", "1"]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(ran.err.matches("retrying for 1 s").count(), 1, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_refused_hides_no_other() {
    let (server, _) = hourly(20).await;
    let refused = server.objects().into_keys().nth(7).unwrap();
    let key = refused.clone();
    server.faults().plan(move |request: &s3_testserver::RequestInfo| {
        let archived = ErrorAnswer::new(403, "InvalidObjectState");
        if request.key == key { Fault::Refused(archived) } else { Fault::None }
    });
    for (command, count) in [("cat", 190), ("tail", 10), ("stats", 1)] {
        let ran = audit(&environment(&server), &[command, &url(&server)]).await;
        if command == "tail" {
            assert_eq!(ran.lines().len(), count);
            continue;
        }
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.out.lines().count() >= count, "{ran:?}");
        assert!(ran.err.contains(&format!("cannot read {refused}: ")), "{ran:?}");
        assert!(ran.err.contains("status 403"), "{ran:?}");
        assert!(ran.err.contains("1 object could not be read"), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_is_in_the_man_pages_and_the_completions() {
    let commands = [
        "ls",
        "cat",
        "search",
        "who",
        "export",
        "tail",
        "stats",
        "serve",
        "journal",
        "doctor",
        "policy",
        "completions",
        "man",
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    audit(&[], &["man", "--directory", path]).await.lines();
    let page = audit(&[], &["man"]).await.out;
    assert!(page.starts_with(".ie") || page.contains(".TH audit 1"), "{page}");
    assert!(page.contains("Exit codes"), "{page}");
    for command in commands {
        let page =
            std::fs::read_to_string(directory.path().join(format!("audit-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") || page.contains(".SH NAME"), "{page}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = audit(&[], &["completions", shell]).await.out;
        for command in commands {
            assert!(script.contains(command), "{shell} {command}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_lack_of_files_is_reported_in_one_line() {
    for files in 4..12 {
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_audit"), "ls", "/"]).env_clear();
        let ran = crate::support::Ran::of(shell.output().unwrap());
        assert_eq!((ran.code, ran.err.lines().count()), (Some(3), 1), "{files}: {ran:?}");
        let advice = "raise the limit of open files: ulimit -n, LimitNOFILE";
        assert!(ran.err.contains(advice), "{files}: {ran:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn commands_on_a_bad_machine_say_what_is_wrong() {
    use audit_core::testing::machine::fails_on;
    let sample = tempfile::tempdir().unwrap();
    let url = format!("file://{}", sample.path().display());
    let bucket = audit_sink_s3::Bucket::open(&url).unwrap();
    write(bucket, object_for_each_batch(), vec![batch(DAY, "ada", 10)]).await;
    let bucket = sample.path().to_str().unwrap();
    let compact = ["compact", bucket, "--to", "out"];
    let report = ["report", bucket, "--from", "2023-11-14", "--to", "2023-11-15", "-o", "out/of"];
    const GONE: &str = "mkdir gone; cd gone; rmdir ../gone;";
    const LONG: &str = "$(head -c 100000 /dev/zero | tr '\\0' x)";
    for (before, command, says) in [
        ("ulimit -f 0;", &compact[..], "raise the limit of the size of files: ulimit -f"),
        ("mkdir out; ulimit -f 0;", &report, "raise the limit of the size of files: ulimit -f"),
        ("exec >out; ulimit -f 0;", &["cat", bucket], "ulimit -f"),
        ("exec >/dev/full;", &["cat", bucket], "No space left on device"),
        ("mkdir out; chmod 555 out;", &compact, "Permission denied"),
        ("mkdir out; chmod 555 out;", &report, "Permission denied"),
        ("touch out;", &compact, "out"),
        ("touch out;", &report, "Not a directory"),
        (GONE, &compact, "No such file or directory"),
        (GONE, &["cat", "logs"], "\"logs\" is neither a bucket URL"),
        (GONE, &["cat", ""], "\"\" is neither a bucket URL"),
        (GONE, &["compact", bucket, "--to", ""], "the directory \"\" cannot be made"),
        ("set -- search \"$(printf '\\351')\" x;", &[], "error: invalid UTF-8 was detected"),
        (&format!("set -- ls {LONG};"), &[], " characters left out) …"),
        (&format!("export AUDIT_RETRY_FOR={LONG};"), &["ls", "x"], " characters left out) …"),
        ("export AUDIT_BUCKET=$(printf '\\351');", &["ls"], "variable AUDIT_BUCKET is not UTF-8"),
        ("export AUDIT_TIME_POINTER=$(printf '\\351');", &["cat", bucket], "AUDIT_TIME_POINTER"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let program = env!("CARGO_BIN_EXE_audit");
        let said = fails_on(program, before, command, directory.path());
        assert!(said.contains(says) && said.len() < 10_000, "{before} {command:?} {said}");
    }
}
