//! Whatever an embedder does with a sink, acknowledged records arrive once, and the sink goes on or
//! says that it is closed. Each wait has a limit, so that a sink that hangs fails the test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support;
use audit_core::testing::poll_at_most;
use audit_core::{AuditSink, Batch, Outcome, SinkError, SinkErrorKind};
use audit_sink_s3::{Bucket, EvidenceSettings, OpenError, S3Sink, Settings};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Direct,
    Journal,
    Evidence,
}

const MODES: [Mode; 3] = [Mode::Direct, Mode::Journal, Mode::Evidence];

const LIMIT: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// A directory with a bucket and a journal.
struct Place {
    root: TempDir,
    mode: Mode,
}

impl Place {
    fn new(mode: Mode) -> Place {
        Place { root: tempfile::tempdir().unwrap(), mode }
    }

    async fn open(&self) -> Result<S3Sink, OpenError> {
        let root = self.root.path();
        let journal = support::journal(root.join("journal"), 0);
        let evidence = EvidenceSettings {
            key_file: Some(root.join("host.key")),
            ..EvidenceSettings::new("example.com/api")
        };
        let settings = Settings {
            linger_ms: 0,
            journal: (self.mode != Mode::Direct).then_some(journal),
            evidence: (self.mode == Mode::Evidence).then_some(evidence),
            ..Settings::default()
        };
        let bucket = Bucket::open(&format!("file://{}", root.join("bucket").display()))?;
        S3Sink::builder(bucket).with_settings(settings).open().await
    }

    /// Opens it as soon as an earlier sink, whose tasks may still be ending, has released it.
    async fn open_again(&self) -> S3Sink {
        let opened = async {
            loop {
                match self.open().await {
                    Ok(sink) => return sink,
                    Err(error) => {
                        let text = audit_core::with_sources(&error);
                        assert!(text.contains("in use") || text.contains("open"), "{text}");
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        };
        within("opening", opened).await
    }

    /// How often each tag is in the bucket.
    fn tags(&self) -> BTreeMap<String, usize> {
        let mut tags = BTreeMap::new();
        let bucket = self.root.path().join("bucket");
        for (key, stored) in support::read_directory(&bucket) {
            if !key.starts_with("dt=") {
                continue;
            }
            let lines = support::lines_of(&key, &stored).unwrap();
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line: serde_json::Value = serde_json::from_slice(line).unwrap();
                *tags.entry(line["t"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        tags
    }

    /// Checks that each of these tags is in the bucket, and that none is there twice.
    fn check(&self, acknowledged: &[String]) {
        let tags = self.tags();
        for tag in acknowledged {
            assert_eq!(tags.get(tag), Some(&1), "{:?}: {tag} of {tags:?}", self.mode);
        }
        assert!(tags.values().all(|count| *count == 1), "{:?}: {tags:?}", self.mode);
    }
}

fn batch(tag: &str) -> Batch {
    Batch::from_lines(1_700_000_000_000, format!("{{\"t\":\"{tag}\"}}\n").into()).unwrap()
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn is_closed(error: &SinkError) -> bool {
    error.kind() == SinkErrorKind::Closed && error.outcome() == Outcome::NotPersisted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_persist_or_flush_stops_nothing() {
    for mode in MODES {
        let place = Place::new(mode);
        let sink = place.open().await.unwrap();
        let mut acknowledged = Vec::new();
        for flushes in [false, true] {
            for polls in 0.. {
                let tag = format!("{flushes} {polls}");
                let is_done = if flushes {
                    poll_at_most(polls, sink.flush()).await.transpose().unwrap().is_some()
                } else {
                    poll_at_most(polls, sink.persist(batch(&tag)))
                        .await
                        .transpose()
                        .unwrap()
                        .is_some()
                };
                if is_done && !flushes {
                    acknowledged.push(tag.clone());
                }
                // The sink still works.
                let next = format!("{tag} next");
                within("persist", sink.persist(batch(&next))).await.unwrap();
                acknowledged.push(next);
                if is_done {
                    break;
                }
            }
        }
        within("close", sink.close()).await.unwrap();
        place.check(&acknowledged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_close_is_a_close() {
    for mode in MODES {
        for polls in 0.. {
            let place = Place::new(mode);
            let sink = place.open().await.unwrap();
            within("persist", sink.persist(batch("before"))).await.unwrap();
            let is_done = poll_at_most(polls, sink.close()).await.transpose().unwrap().is_some();
            if polls > 0 {
                let refused = within("persist", sink.persist(batch("after"))).await.unwrap_err();
                assert!(is_closed(&refused), "{mode:?} {polls}: {refused:?}");
            }
            within("flush", sink.flush()).await.unwrap();
            within("close", sink.close()).await.unwrap();
            within("close", sink.close()).await.unwrap();
            place.check(&["before".to_owned()]);
            // The journal is free, although the sink was not dropped.
            let next = place.open().await.unwrap();
            within("persist", next.persist(batch("next"))).await.unwrap();
            within("close", next.close()).await.unwrap();
            place.check(&["before".to_owned(), "next".to_owned()]);
            if is_done {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_open_leaves_nothing_behind() {
    for mode in MODES {
        for polls in 0.. {
            let place = Place::new(mode);
            let is_done = poll_at_most(polls, place.open()).await.transpose().unwrap().is_some();
            let sink = place.open_again().await;
            within("persist", sink.persist(batch("a"))).await.unwrap();
            within("close", sink.close()).await.unwrap();
            place.check(&["a".to_owned()]);
            if is_done {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_twice_or_too_early_loses_nothing() {
    for mode in MODES {
        let place = Place::new(mode);
        let sink = Arc::new(place.open().await.unwrap());
        let is_closing = Arc::new(AtomicBool::new(false));
        let callers = (0..8).map(|caller| {
            let (sink, is_closing) = (Arc::clone(&sink), Arc::clone(&is_closing));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    let tag = format!("{caller} {n}");
                    match sink.persist(batch(&tag)).await {
                        Ok(_) => acknowledged.push(tag),
                        Err(error) => {
                            assert!(is_closing.load(Ordering::SeqCst), "{error:?}");
                            assert!(is_closed(&error), "{error:?}");
                            break;
                        }
                    }
                }
                acknowledged
            })
        });
        let callers: Vec<_> = callers.collect();
        within("persist", sink.persist(batch("first"))).await.unwrap();
        is_closing.store(true, Ordering::SeqCst);
        let (one, other) = within("close", futures::future::join(sink.close(), sink.close())).await;
        one.and(other).unwrap();
        let mut acknowledged = vec!["first".to_owned()];
        for caller in callers {
            acknowledged.extend(within("persist", caller).await.unwrap());
        }
        place.check(&acknowledged);
    }
}

/// Without `close`, what a journal holds arrives after the next start.
#[test]
fn dropping_without_a_close_loses_nothing() {
    for mode in MODES {
        let place = Place::new(mode);
        let first = runtime();
        let (sink, forgotten) = first.block_on(async {
            let sink = place.open().await.unwrap();
            sink.persist(batch("kept")).await.unwrap();
            (sink, Place::new(mode).open().await.unwrap())
        });
        // One sink is dropped outside of any runtime, the other never.
        drop(sink);
        std::mem::forget(forgotten);
        drop(first);
        let second = Builder::new_current_thread().enable_all().build().unwrap();
        second.block_on(async {
            let sink = place.open_again().await;
            within("persist", sink.persist(batch("next"))).await.unwrap();
            within("close", sink.close()).await.unwrap();
        });
        place.check(&["kept".to_owned(), "next".to_owned()]);
    }
}

/// The runtime on which the sink was opened ends while another one uses the sink.
#[test]
fn a_runtime_that_ends_loses_nothing_acknowledged() {
    for mode in MODES {
        let place = Place::new(mode);
        let (owner, user) = (runtime(), runtime());
        let sink = Arc::new(owner.block_on(place.open()).unwrap());
        let mut acknowledged = Vec::new();
        let (caller, from) = (Arc::clone(&sink), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&from);
        let calls = user.spawn(async move {
            let (mut acknowledged, mut after) = (Vec::new(), 0);
            for n in 0.. {
                let tag = n.to_string();
                let persisted = within("persist", caller.persist(batch(&tag))).await;
                if persisted.is_ok() {
                    acknowledged.push(tag);
                }
                after += u32::from(ended.load(Ordering::SeqCst));
                if after == 3 {
                    break;
                }
            }
            acknowledged
        });
        user.block_on(within("persist", sink.persist(batch("first")))).unwrap();
        acknowledged.push("first".to_owned());
        owner.shutdown_background();
        from.store(true, Ordering::SeqCst);
        acknowledged.extend(user.block_on(calls).unwrap());
        // `close` may succeed or fail, but it must return.
        let _ = user.block_on(within("close", sink.close()));
        drop(sink);
        user.block_on(async {
            let sink = place.open_again().await;
            within("close", sink.close()).await.unwrap();
        });
        place.check(&acknowledged);
    }
}

/// One poll of `persist` on a thread of its own, outside of any runtime.
#[test]
fn a_sink_without_its_runtime_says_so() {
    for mode in MODES {
        let place = Place::new(mode);
        let owner = runtime();
        let sink = owner.block_on(place.open()).unwrap();
        drop(owner);
        let other = runtime();
        let persisted = other.block_on(within("persist", sink.persist(batch("a"))));
        let _ = other.block_on(within("flush", sink.flush()));
        let _ = other.block_on(within("close", sink.close()));
        drop(sink);
        other.block_on(async {
            let sink = place.open_again().await;
            within("close", sink.close()).await.unwrap();
        });
        let acknowledged = persisted.map(|_| "a".to_owned());
        place.check(&acknowledged.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn blocking_on_a_sink_within_a_runtime_works() {
    for mode in MODES {
        let place = Place::new(mode);
        runtime().block_on(async {
            let sink = Arc::new(place.open().await.unwrap());
            let inner = Arc::clone(&sink);
            let blocking = tokio::spawn(async move {
                tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(inner.persist(batch("a")))
                })
            });
            within("persist", blocking).await.unwrap().unwrap();
            within("close", sink.close()).await.unwrap();
        });
        place.check(&["a".to_owned()]);
    }
}

#[test]
fn an_empty_batch_cannot_be_made() {
    assert!(Batch::from_lines(0, "".into()).is_err());
    assert!(Batch::from_lines(0, "\n".into()).is_err());
}
