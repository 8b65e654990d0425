//! Futures that are dropped at each of their awaits: no acknowledged record is lost, none is there
//! twice, and nothing waits for ever.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::testing::poll_at_most;
use audit_core::{AuditSink, Batch, Receipt, SinkError};
use audit_sink_s3::{EvidenceSettings, S3Sink, Settings};
use tokio::time::timeout;

use crate::support::evidence::{Acknowledged, verify};
use crate::support::gated_store::GatedStore;
use crate::support::{self, batch, bucket_of, placed, read_store};

/// Far longer than anything here takes.
async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    let ended = timeout(Duration::from_secs(120), future).await;
    ended.unwrap_or_else(|_| panic!("{what} waits for ever"))
}

/// What callers know of their batches.
#[derive(Default)]
struct Callers {
    batches: Vec<(Batch, Option<Receipt>)>,
    /// Whether no future was dropped.
    all_ended: bool,
}

impl Callers {
    fn persisted(&mut self, batch: Batch, outcome: Option<Result<Receipt, SinkError>>) {
        self.ended(&outcome);
        self.batches.push((batch, outcome.transpose().unwrap()));
    }

    fn ended<T>(&mut self, outcome: &Option<T>) {
        self.all_ended &= outcome.is_some();
    }

    async fn check(&self, store: &Arc<GatedStore>, what: &str) {
        let objects = read_store(&**store.inner()).await;
        let records = support::check("logs/", &objects).unwrap();
        for (batch, receipt) in &self.batches {
            let lines: Vec<_> = batch.lines().split_inclusive(|byte| *byte == b'\n').collect();
            let is_its = |line: &[u8]| lines.iter().any(|its| its.trim_ascii_end() == line);
            let count = records.iter().filter(|record| is_its(&record.line)).count();
            assert!(count == 0 || count == lines.len(), "{what}: {count} of {}", lines.len());
            if let Some(receipt) = receipt {
                let placed = placed(batch, receipt);
                assert!(placed.iter().all(|record| records.contains(record)), "{what}: lost");
            }
        }
    }

    fn acknowledged(&self) -> Acknowledged {
        let receipts = self
            .batches
            .iter()
            .filter_map(|(batch, receipt)| Some(placed(batch, receipt.as_ref()?).into_iter()));
        let records = receipts.flatten();
        records.map(|at| (at.stream.to_string(), at.sequence..at.sequence + 1)).collect()
    }
}

fn settings(root: &Path, is_signed: bool) -> Settings {
    let journal = support::journal(root.join("journal"), 5);
    let key_file = Some(root.join("host.key"));
    let evidence = EvidenceSettings { key_file, ..EvidenceSettings::new("test/api") };
    Settings {
        journal: Some(journal),
        evidence: is_signed.then_some(evidence),
        retry_cap_ms: 50,
        ..Settings::default()
    }
}

#[tokio::test]
async fn of_a_route() {
    for is_signed in [false, true] {
        for times in 1.. {
            let what = format!("signed: {is_signed}, dropped after {times}");
            let directory = tempfile::tempdir().unwrap();
            let [own, acme] = [(); 2].map(|()| GatedStore::new());
            let sink = S3Sink::builder(bucket_of(&own, "logs"));
            let sink = sink.with_settings(settings(directory.path(), is_signed));
            let sink = sink.open().await.unwrap();
            let mut callers = Callers { all_ended: true, ..Callers::default() };
            let open = || sink.open_route("acme", bucket_of(&acme, "logs"));
            let opened = poll_at_most(times, open()).await;
            callers.ended(&opened);
            let route = match opened {
                Some(route) => route.unwrap(),
                None => in_time(&what, open()).await.unwrap(),
            };
            for n in 0..3 {
                let batch = batch(&format!("{n}"), 2);
                callers.persisted(batch.clone(), poll_at_most(times, route.persist(batch)).await);
                callers.ended(&poll_at_most(times, route.flush()).await);
            }
            callers.ended(&poll_at_most(times, route.close()).await);
            callers.ended(&poll_at_most(times, route.retire()).await);
            in_time(&what, route.retire()).await.unwrap();
            in_time(&what, sink.close()).await.unwrap();
            if is_signed {
                let objects = read_store(&**acme.inner()).await;
                let key = sink.verifier_key().unwrap();
                let report = verify("logs/", &objects, key, &callers.acknowledged(), u64::MAX);
                assert_eq!(report.findings, [], "{what}");
                let is_closed = report.streams.iter().all(|stream| stream.closed.is_some());
                assert!(is_closed, "{what}");
            } else {
                callers.check(&acme, &what).await;
            }
            if callers.all_ended {
                break;
            }
        }
    }
}

#[tokio::test]
async fn of_a_sink() {
    for has_journal in [false, true] {
        for times in 1.. {
            let what = format!("journal: {has_journal}, dropped after {times}");
            let directory = tempfile::tempdir().unwrap();
            let own = GatedStore::new();
            let settings = settings(directory.path(), false);
            let journal = settings.journal.clone().filter(|_| has_journal);
            let sink = S3Sink::builder(bucket_of(&own, "logs"));
            let sink = sink.with_settings(Settings { journal, ..settings }).open().await.unwrap();
            let mut callers = Callers { all_ended: true, ..Callers::default() };
            for n in 0..3 {
                let batch = batch(&format!("{n}"), 2);
                callers.persisted(batch.clone(), poll_at_most(times, sink.persist(batch)).await);
                callers.ended(&poll_at_most(times, sink.flush()).await);
            }
            callers.ended(&poll_at_most(times, sink.close()).await);
            in_time(&what, sink.close()).await.unwrap();
            callers.check(&own, &what).await;
            if callers.all_ended {
                break;
            }
        }
    }
}
