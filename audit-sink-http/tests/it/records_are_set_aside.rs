//! Records that a receiver rejects for good are set aside, and delay no others.

use std::path::Path;

use audit_core::{AuditSink, Outcome, SinkErrorKind};
use audit_sink_http::{
    DeadLetter, Format, HttpSink, JournalSettings, LogStream, SetAside, Settings,
};

use crate::receiver::{Fault, Receiver, batch};

fn journaled(receiver: &Receiver, directory: &Path) -> Settings {
    let journal = JournalSettings {
        cut_after_ms: 5,
        segment_bytes: 33 << 20,
        ..JournalSettings::new(directory.join("journal"))
    };
    Settings {
        journal: Some(journal),
        dead_letters: Some(directory.join("dead-letters")),
        ..receiver.settings(Format::Ndjson)
    }
}

#[tokio::test]
async fn a_rejected_record_is_set_aside_and_the_others_arrive() {
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    receiver.poison(Some("poison"));
    let settings = journaled(&receiver, directory.path());
    let sink = HttpSink::open(settings.clone()).await.unwrap();
    let lines: Vec<String> =
        (0..20).map(|n| format!("{{\"{}\":{n}}}", if n == 13 { "poison" } else { "n" })).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    sink.persist(batch(5, &lines)).await.unwrap();
    sink.close().await.unwrap();
    let arrived: Vec<_> = receiver.told().into_iter().map(|(sequence, ..)| sequence).collect();
    let expected: Vec<u64> = (0..20).filter(|n| *n != 13).collect();
    assert_eq!(arrived, expected);

    let letters = DeadLetter::list(&directory.path().join("dead-letters")).unwrap().0;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((letter.stream, letter.sequence, letter.time_ms), (sink.stream(), 13, 5));
    assert_eq!((letter.why, &letter.body[..]), (SetAside::Rejected, &br#"{"poison":13}"#[..]));
    assert!(letter.reason.contains("400"), "{}", letter.reason);

    // The receiver was corrected, and gets the record under its id.
    receiver.poison(None);
    let stream = LogStream::open(settings).unwrap();
    stream.send_again(letter).await.unwrap();
    letter.remove().unwrap();
    assert_eq!(receiver.told()[13], (13, 5, r#"{"poison":13}"#.to_owned(), 1));
    assert!(DeadLetter::list(&directory.path().join("dead-letters")).unwrap().0.is_empty());
}

/// A receiver that rejects everything is itself the problem: not all records are set aside.
#[tokio::test]
async fn rejections_without_end_block_the_delivery() {
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    receiver.poison(Some("n"));
    let sink = HttpSink::open(journaled(&receiver, directory.path())).await.unwrap();
    let lines: Vec<String> = (0..150).map(|n| format!("{{\"n\":{n}}}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    sink.persist(batch(5, &lines)).await.unwrap();
    // 100 requests of a single record, at most 99 of several records, then one request
    // repeatedly.
    receiver.arrived(400).await;
    let letters = DeadLetter::list(&directory.path().join("dead-letters")).unwrap().0;
    assert_eq!(letters.len(), 100);
    let reason = sink.health().state.to_string();
    assert!(reason.contains("blocked") && reason.contains("in a row"), "{reason}");
    receiver.poison(None);
    sink.close().await.unwrap();
    assert_eq!(receiver.stored().len(), 50);
}

#[tokio::test]
async fn a_record_too_large_goes_as_a_pointer_and_is_kept() {
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    let settings =
        Settings { max_record_bytes: Some(2_048), ..journaled(&receiver, directory.path()) };
    let sink = HttpSink::open(settings.clone()).await.unwrap();
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(3_000));
    sink.persist(batch(5, &["{}", &large, "{\"a\":1}"])).await.unwrap();
    sink.close().await.unwrap();
    let told = receiver.told();
    assert_eq!((told.len(), told[0].2.as_str(), told[2].2.as_str()), (3, "{}", "{\"a\":1}"));
    let pointer: serde_json::Value = serde_json::from_str(&told[1].2).unwrap();
    assert_eq!(pointer["tooLarge"]["bytes"], large.len());
    let letters = DeadLetter::list(&directory.path().join("dead-letters")).unwrap().0;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((letter.why, letter.sequence), (SetAside::TooLarge, 1));
    assert_eq!(&letter.body[..], large.as_bytes());
    let error = LogStream::open(settings).unwrap().send_again(letter).await.unwrap_err();
    assert!(error.contains("max_record_bytes"), "{error}");
}

#[tokio::test]
async fn batches_that_cannot_be_set_aside_fail_whole() {
    let receiver = Receiver::start().await;
    let settings = Settings { max_record_bytes: Some(2_048), ..receiver.settings(Format::Ndjson) };
    let sink = HttpSink::open(settings).await.unwrap();
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(3_000));
    let error = sink.persist(batch(5, &["{}", &large])).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Blocked, Outcome::NotPersisted));
    assert!(error.to_string().contains("max_record_bytes"), "{error}");
    assert!(receiver.requests().is_empty());

    // Unknown, then rejected: the first request may have been accepted.
    receiver.script([Fault::Lost, Fault::Answer(422, "\r\n")]);
    let error = sink.persist(batch(5, &["{}"])).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Blocked, Outcome::Indeterminate));
    sink.close().await.unwrap();
}

/// A receiver with a lower limit than configured gets smaller requests.
#[tokio::test]
async fn requests_that_are_too_large_are_divided() {
    let receiver = Receiver::start().await;
    let sink = HttpSink::open(receiver.settings(Format::Ndjson)).await.unwrap();
    receiver.script([Fault::Answer(413, "\r\n"), Fault::Answer(413, "\r\n")]);
    sink.persist(batch(5, &["{\"n\":0}", "{\"n\":1}", "{\"n\":2}", "{\"n\":3}"])).await.unwrap();
    let ranges: Vec<_> = receiver
        .requests()
        .iter()
        .map(|request| request.header("webhook-id").split_once('-').unwrap().1.to_owned())
        .collect();
    let range = |first: u64, last: u64| format!("{first:012}-{last:012}");
    assert_eq!(ranges, [range(0, 3), range(0, 1), range(0, 0), range(1, 1), range(2, 3)]);
    assert_eq!(receiver.stored().len(), 4);
    sink.close().await.unwrap();
}
