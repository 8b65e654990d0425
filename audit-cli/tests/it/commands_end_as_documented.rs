//! Exit codes, errors, pages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

use crate::support::{audit, environment, hourly, url};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_is_two_and_a_bucket_that_cannot_be_read_three() {
    for wrong in [
        &["nothing"][..],
        &["cat"],
        &["ls", "--since", "yesterday", "."],
        &["cat", ".", "--where", "user=ada"],
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

    let (server, _) = hourly(3).await;
    let denied = |_: &s3_testserver::RequestInfo| Fault::Refused(ErrorAnswer::ACCESS_DENIED);
    server.faults().plan(denied);
    let ran = audit(&environment(&server), &["stats", &url(&server)]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""));
    assert!(ran.err.contains("status 403 AccessDenied"), "{}", ran.err);
    // An object that cannot be read is not left out in silence.
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
async fn an_overloaded_store_is_asked_again() {
    let (server, _) = hourly(8).await;
    let count = std::sync::atomic::AtomicUsize::new(0);
    server.faults().plan(move |_: &s3_testserver::RequestInfo| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if n.is_multiple_of(3) { Fault::Refused(ErrorAnswer::SLOW_DOWN) } else { Fault::None }
    });
    assert_eq!(audit(&environment(&server), &["cat", &url(&server)]).await.lines().len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_bucket_is_nothing_wrong() {
    let server = S3TestServer::start().await;
    for command in ["ls", "cat", "tail"] {
        let ran = audit(&environment(&server), &[command, &url(&server)]).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{command}");
    }
    assert_eq!(audit(&environment(&server), &["stats", &url(&server)]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_is_in_the_man_pages_and_the_completions() {
    let commands =
        ["ls", "cat", "tail", "stats", "journal", "doctor", "policy", "completions", "man"];
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
