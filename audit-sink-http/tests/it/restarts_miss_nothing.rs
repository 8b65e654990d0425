//! With a journal, a receiver may come and go and lose responses: it gets every record, and
//! recognizes repeats by their ids.

use std::sync::Arc;

use audit_core::AuditSink;
use audit_core::testing::SeededRandom;
use audit_core::{Durability, Random};
use audit_sink_http::{Format, HttpSink, JournalSettings, Settings};

use crate::receiver::{Fault, Receiver, batch};

fn settings(receiver: &Receiver, directory: &tempfile::TempDir) -> Settings {
    let journal = JournalSettings {
        cut_after_ms: 0,
        segment_bytes: 33 << 20,
        ..JournalSettings::new(directory.path().join("j"))
    };
    Settings {
        journal: Some(journal),
        dead_letters: Some(directory.path().join("d")),
        max_object_bytes: 4_096,
        ..receiver.settings(Format::Webhook)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_faults_has_every_record() {
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    let random = SeededRandom::new(7);
    let fault = |_| match random.next_u64() % 5 {
        0 => Fault::Lost,
        1 => Fault::Dropped,
        2 => Fault::Answer(503, "retry-after: 0\r\n"),
        3 => Fault::Answer(500, "\r\n"),
        _ => Fault::Answer(404, "\r\n"),
    };
    receiver.script((0..200).map(fault));
    let sink = Arc::new(HttpSink::open(settings(&receiver, &directory)).await.unwrap());
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                let mut all = Vec::new();
                for n in 0..50 {
                    let lines = [format!("{{\"c\":{caller},\"n\":{n}}}"), "{}".to_owned()];
                    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                    let receipt = sink.persist(batch(caller * 100 + n, &lines)).await.unwrap();
                    assert_eq!(receipt.durability, Durability::Journaled);
                    let place = receipt.place.unwrap();
                    let records = (place.first_sequence..).zip(&lines);
                    all.extend(
                        records.map(|(at, line)| (at, caller * 100 + n, (*line).to_owned())),
                    );
                }
                all
            })
        })
        .collect();
    let mut expected = Vec::new();
    for caller in callers {
        expected.extend(caller.await.unwrap());
    }
    expected.sort();
    sink.close().await.unwrap();
    let told = receiver.told();
    let arrived: Vec<_> = told.iter().map(|(n, time, line, _)| (*n, *time, line.clone())).collect();
    assert_eq!(arrived, expected);
    assert!(told.iter().any(|(.., times)| *times > 1), "some answers were lost");
}

/// The next process sends what an earlier one left, under the acknowledged ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undelivered_records_are_sent_after_a_restart() {
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    receiver.script(std::iter::repeat_n(Fault::Answer(503, "\r\n"), 100_000));
    let mut expected = Vec::new();
    for time in 0..3 {
        // Its own runtime, which ends like a killed process, with all tasks.
        let settings = settings(&receiver, &directory);
        let opening = move || -> Vec<_> {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let sink = loop {
                    match HttpSink::open(settings.clone()).await {
                        Ok(sink) => break sink,
                        // The threads of the previous one are about to end.
                        Err(error) => assert!(error.to_string().contains("opened"), "{error}"),
                    }
                };
                let receipt = sink.persist(batch(time, &["{\"a\":1}", "{}"])).await.unwrap();
                let place = receipt.place.unwrap();
                (0..2).map(|n| (place.stream, place.first_sequence + n)).collect()
            })
        };
        expected.extend(tokio::task::spawn_blocking(opening).await.unwrap());
    }
    receiver.clear();
    let sink = loop {
        match HttpSink::open(settings(&receiver, &directory)).await {
            Ok(sink) => break sink,
            Err(error) => assert!(error.to_string().contains("opened"), "{error}"),
        }
    };
    sink.close().await.unwrap();
    expected.sort();
    let stored: Vec<_> =
        receiver.stored().iter().map(|record| (record.stream, record.sequence)).collect();
    assert_eq!(stored, expected);
}
