//! `audit log-stream` shows the responses of receivers, and resends set-aside records.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use audit_core::{AuditSink, Batch, UniqueId};
use audit_sink_http::{Format, HttpSink, JournalSettings, Settings};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use futures::future::join_all;
use serde_json::json;

use crate::receiver::serve;
use crate::support::{Ran, audit};

/// Accepts everything except requests that contain `poison`, if it is set.
#[derive(Default)]
struct Receiver {
    poison: Mutex<Option<&'static str>>,
    accepted: Mutex<Vec<String>>,
}

async fn receive(State(receiver): State<Arc<Receiver>>, body: String) -> StatusCode {
    if receiver.poison.lock().unwrap().is_some_and(|poison| body.contains(poison)) {
        return StatusCode::BAD_REQUEST;
    }
    receiver.accepted.lock().unwrap().push(body);
    StatusCode::OK
}

async fn start() -> (Arc<Receiver>, String) {
    let receiver = Arc::new(Receiver::default());
    let router = axum::Router::new()
        .route("/hook", post(receive))
        .route("/closed", post(async || (StatusCode::UNAUTHORIZED, "no such token")))
        .with_state(Arc::clone(&receiver));
    (receiver, serve(router).await)
}

fn settings_file(directory: &Path, url: &str, streams: &[(&str, &str)]) -> PathBuf {
    let file = directory.join("log-streams.toml");
    let table = |(name, path): &(&str, &str)| {
        format!(
            "[[log_stream]]\nname = \"{name}\"\nurl = \"{url}{path}\"\nformat = \"ndjson\"\n\
             allow_http = true\nallow_private_addresses = true\n"
        )
    };
    std::fs::write(&file, streams.iter().map(table).collect::<String>()).unwrap();
    file
}

async fn run(arguments: &[&str], file: &Path) -> Ran {
    let arguments = [&["log-stream"], arguments, &[file.to_str().unwrap()]].concat();
    audit(&[], &arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_show_each_receivers_response() {
    let (receiver, url) = start().await;
    let directory = tempfile::tempdir().unwrap();
    let streams = [("open", "/hook"), ("closed", "/closed")];
    let file = settings_file(directory.path(), &url, &streams);
    let ran = run(&["test", "--json"], &file).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let answers = ran.json();
    assert_eq!((&answers[0]["name"], &answers[0]["accepted"]), (&"open".into(), &true.into()));
    assert_eq!((&answers[1]["name"], &answers[1]["accepted"]), (&"closed".into(), &false.into()));
    assert!(answers[1]["reason"].as_str().unwrap().contains("401"), "{answers:?}");
    assert!(receiver.accepted.lock().unwrap()[0].contains("audit.test"));

    let ran = run(&["test", "--name", "open"], &file).await;
    assert!(ran.lines()[0].starts_with("open: ") && ran.out.contains("accepted"), "{ran:?}");
    let ran = run(&["test", "--name", "missing"], &file).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("no log stream \"missing\""), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_set_aside_are_sent_again() {
    let (receiver, url) = start().await;
    let directory = tempfile::tempdir().unwrap();
    let aside = directory.path().join("aside");
    *receiver.poison.lock().unwrap() = Some("poison");
    let journal = JournalSettings {
        cut_after_ms: 5,
        ..crate::support::journal(directory.path().join("journal"))
    };
    let settings = Settings {
        allow_http: true,
        allow_private_addresses: true,
        dead_letters: Some(aside.clone()),
        journal: Some(journal),
        ..Settings::new(format!("{url}/hook"), Format::Ndjson)
    };
    let sink = HttpSink::open(settings).await.unwrap();
    let lines = "{\"n\":1}\n{\"poison\":2}\n{\"n\":3}\n";
    sink.persist(Batch::from_lines(5, lines.into()).unwrap()).await.unwrap();
    sink.close().await.unwrap();

    let listed = run(&["aside", "--json"], &aside).await;
    assert_eq!(listed.code, Some(1), "something is to be done: {listed:?}");
    let letters = listed.json();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["stream"], sink.stream().to_string());
    assert_eq!((&letters[0]["sequence"], &letters[0]["why"]), (&1.into(), &"rejected".into()));

    let file = settings_file(directory.path(), &url, &[("hook", "/hook")]);
    let aside_text = aside.to_str().unwrap();
    let refused = run(&["send", aside_text], &file).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.out.contains("0 records sent and removed, 1 record refused"), "{refused:?}");
    assert!(refused.err.contains("400"), "{refused:?}");

    // A foreign file in the directory is named, and the record is still sent.
    *receiver.poison.lock().unwrap() = None;
    std::fs::write(aside.join("other.json"), "{").unwrap();
    let sent = run(&["send", aside_text], &file).await;
    assert_eq!(sent.out, "1 record sent and removed, 0 records refused\n");
    assert_eq!(sent.code, Some(3), "{sent:?}");
    assert!(sent.err.contains("other.json holds no record that was set aside"), "{sent:?}");
    assert!(sent.err.contains("1 file could not be read"), "{sent:?}");
    std::fs::remove_file(aside.join("other.json")).unwrap();
    let last = receiver.accepted.lock().unwrap().last().cloned().unwrap();
    assert!(last.contains("\"sequence\":1") && last.contains("poison"), "{last}");
    assert_eq!(run(&["aside"], &aside).await.code, Some(0));
    // A mistyped directory is an error.
    assert_eq!(run(&["aside"], &directory.path().join("asied")).await.code, Some(3));
}

/// Two operators, or a timer and an operator, may resend records at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn records_are_sent_again_once_by_several_at_once() {
    let (receiver, url) = start().await;
    let directory = tempfile::tempdir().unwrap();
    let (aside, link) = (directory.path().join("aside"), directory.path().join("link"));
    std::fs::create_dir(&aside).unwrap();
    std::os::unix::fs::symlink(&aside, &link).unwrap();
    for n in 0..20 {
        let letter = json!({
            "stream": UniqueId::from_bits(9).to_string(), "sequence": n, "timeMs": 5,
            "why": "rejected", "reason": "answered 400", "body": { "n": n },
        });
        std::fs::write(aside.join(format!("{n}.json")), letter.to_string()).unwrap();
    }
    let file = settings_file(directory.path(), &url, &[("hook", "/hook")]);
    let at_once =
        [&aside, &link, &aside.join("."), &aside].map(|aside| aside.to_str().unwrap().to_owned());
    let ran = join_all(at_once.iter().map(|aside| run_send(aside, &file))).await;
    assert!(ran.iter().all(|ran| ran.code == Some(0)), "{ran:?}");
    let mut sent = receiver.accepted.lock().unwrap().clone();
    assert_eq!(sent.len(), 20, "{sent:?}");
    sent.sort();
    sent.dedup();
    assert_eq!(sent.len(), 20);
    assert_eq!(std::fs::read_dir(&aside).unwrap().count(), 0);
}

async fn run_send(aside: &str, file: &Path) -> Ran {
    run(&["send", aside], file).await
}
