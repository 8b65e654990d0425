//! Text of records, file names and stores reaches a terminal only as text.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use audit_core::Batch;
use audit_sink_s3::Bucket;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::support::{DAY, audit, command, object_for_each_batch, write};

/// Runs `audit` on its own terminal. Returns what the terminal receives.
async fn on_terminal(arguments: &[&str]) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let name = std::ffi::OsStr::from_bytes(name.as_bytes());
    let other_end = || OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut command = command();
    command.args(arguments).stdout(other_end()).stderr(other_end());
    let mut child = command.spawn().unwrap();
    drop(command);
    tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        // Reading from a terminal fails once its other end is closed.
        let _ = std::fs::File::from(terminal).read_to_end(&mut shown);
        assert!(child.wait().unwrap().code().is_some());
        String::from_utf8(shown).unwrap()
    })
    .await
    .unwrap()
}

/// Characters that a terminal may interpret, or that look like others.
fn hazards() -> Vec<char> {
    let ranges =
        [0x80..=0x9f, 0x200b..=0x200f, 0x2028..=0x202e, 0x2060..=0x2069, 0xe0041..=0xe0042];
    let singles = [0x7f, 0xad, 0x61c, 0xfeff, 0xffff, 0x10ffff];
    let codes = ranges.into_iter().flatten().chain(singles);
    codes.map(|code| char::from_u32(code).unwrap()).collect()
}

/// Fails if a text contains a control character or any of [`hazards`], except line ends and the
/// colours that `audit` itself uses.
#[track_caller]
fn is_harmless(text: &str) {
    let ours = ["\x1b[32m", "\x1b[1;31m", "\x1b[33m", "\x1b[1m", "\x1b[2m", "\x1b[0m", "\r\n"];
    let rest = ours.iter().fold(text.to_owned(), |text, code| text.replace(code, ""));
    let found = rest.chars().filter(|c| *c != '\n' && (c.is_control() || hazards().contains(c)));
    assert_eq!(found.collect::<Vec<_>>(), [] as [char; 0], "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_escaped_only_on_terminals() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().to_str().unwrap();
    let bucket = Bucket::open(&format!("file://{place}")).unwrap();
    let hostile: String = hazards().into_iter().chain("é 日本 \u{1f980}".chars()).collect();
    let lines: Vec<String> = vec![
        format!("{{\"a\":\"{hostile}\",\"{hostile}\":[\"{hostile}\"]}}"),
        "{\t\"b\":\r1}".to_owned(),
        r#"{"c":"\u001b[2J\u0007"}"#.to_owned(),
    ];
    let whole: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let batch = Batch::from_lines(DAY, whole.clone().into()).unwrap();
    write(bucket, object_for_each_batch(), vec![batch]).await;
    assert_eq!(audit(&[], &["cat", place]).await.out, whole, "in a pipe");
    let parsed = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    for command in ["cat", "tail"] {
        let shown = on_terminal(&[command, place]).await;
        is_harmless(&shown);
        assert!(shown.contains("é 日本 \u{1f980}"), "{shown:?}");
        let values: Vec<Value> = shown.lines().map(parsed).collect();
        assert_eq!(values, lines.iter().map(|line| parsed(line)).collect::<Vec<_>>());
        is_harmless(&on_terminal(&[command, "--json", place]).await);
        is_harmless(&on_terminal(&[command, "--pretty", place]).await);
        is_harmless(&on_terminal(&[command, "--color", "always", place]).await);
        is_harmless(&audit(&[], &[command, "--pretty", "--color", "always", place]).await.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_errors_are_always_escaped() {
    for hazard in "\u{1b}\u{7}\r\n\t\u{7f}\u{9b}\u{202e}\u{2066}\u{200b}\u{e0041}".chars() {
        let root = tempfile::tempdir().unwrap();
        let hostile = format!("a{hazard}[31mb");
        let inner = root.path().join(&hostile);
        let day = inner.join("dt=2023-11-14/hour=00");
        std::fs::create_dir_all(&day).unwrap();
        std::fs::write(day.join(&hostile), "x").unwrap();
        let (outer, inner) = (root.path().to_str().unwrap(), inner.to_str().unwrap());
        let missing = format!("{inner}/no{hazard}");
        for arguments in [
            &["ls", inner][..],
            &["stats", inner],
            &["stats", "--color", "always", inner],
            &["stats", "--json", inner],
            &["stats", outer],
            &["cat", outer],
            &["ls", &missing],
            &["--json", "ls", &missing],
            &["doctor", &missing],
        ] {
            let ran = audit(&[], arguments).await;
            is_harmless(&ran.out);
            is_harmless(&ran.err);
            assert!(ran.out.len() + ran.err.len() > 0, "{arguments:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_errors_quote_foreign_text_escaped() {
    for hazard in "\u{1b}\u{7}\r\n\t\u{7f}\u{9b}\u{202e}\u{200b}\u{e0041}".chars() {
        let hostile = format!("a{hazard}[31mb");
        let escaped = hazard.escape_unicode().to_string();
        let flag = format!("--{hostile}");
        // The hostile text is in each part of a command line that an error quotes.
        for arguments in [
            &[&*hostile][..],
            &[&flag, "ls"],
            &["ls", &flag, "x"],
            &["ls", "x", &hostile],
            &["ls", "x", "--since", &hostile],
            &["ls", "x", "--stream", &hostile],
            &["--parallel", &hostile, "ls", "x"],
            &["--color", &hostile, "ls", "x"],
            &["cat", "x", "--where", &hostile],
            &["cat", "x", "--time", &hostile],
            &["doctor", "x", "--role", &hostile],
            &["policy", &hostile, "x"],
            &["completions", &hostile],
        ] {
            for shown in [
                audit(&[], arguments).await.err,
                on_terminal(arguments).await,
                audit(&[("CLICOLOR_FORCE", "1".to_owned())], arguments).await.err,
            ] {
                is_harmless(&shown);
                assert!(shown.contains(&escaped), "{arguments:?}: {shown:?}");
            }
        }
        // The hostile text is in an environment variable.
        for (variable, arguments) in
            [("AUDIT_RETRY_FOR", &["ls", "x"][..]), ("AUDIT_TIME_POINTER", &["cat", "x"])]
        {
            let ran = audit(&[(variable, hostile.clone())], arguments).await;
            assert_eq!(ran.code, Some(2), "{ran:?}");
            is_harmless(&ran.err);
            let help = audit(&[(variable, hostile.clone())], &[arguments[0], "--help"]).await;
            is_harmless(&help.out);
        }
    }
}
