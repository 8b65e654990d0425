//! Tasks that last as long as the process.

use std::time::Duration;

use audit_journal::shared::panic::{catch, catch_in};
use tokio::time::sleep;

/// The pause before a task that panicked is restarted, so that one that panics at once does not
/// keep a processor busy.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a task that lasts as long as the process. If it panics, which would otherwise end it
/// without a word, this is logged, counted in `audit_panics_total`, and the task is restarted.
pub async fn lasting<T, F: Future<Output = T>>(
    what: &'static str,
    mut start: impl FnMut() -> F,
) -> T {
    loop {
        let panicked = match catch(&mut start) {
            Ok(task) => match catch_in(task).await {
                Ok(ended) => return ended,
                Err(panicked) => panicked,
            },
            Err(panicked) => panicked,
        };
        self::panicked(what, &panicked.0);
        sleep(PAUSE).await;
    }
}

/// Reports that a lasting part panicked, and goes on.
pub fn panicked(what: &'static str, panic: &str) {
    // The log or the metrics may be what panics.
    let _ = catch(|| metrics::counter!("audit_panics_total", "part" => what).increment(1));
    let _ = catch(|| tracing::error!(panic, "{what} panicked, and is started again"));
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lasting_task_is_restarted_and_counted() {
        let recorder = DebuggingRecorder::new();
        let _counting = metrics::set_default_local_recorder(&recorder);
        let mut starts = 0;
        let ended = lasting("a test", || {
            starts += 1;
            assert_ne!(starts, 1, "before it begins");
            let start = starts;
            async move {
                tokio::task::yield_now().await;
                assert_eq!(start, 3, "while it runs");
                start
            }
        });
        assert_eq!(ended.await, 3);
        let metrics = recorder.snapshotter().snapshot().into_vec();
        let [(key, _, _, DebugValue::Counter(2))] = &metrics[..] else { panic!("{metrics:?}") };
        assert_eq!(key.key().name(), "audit_panics_total");
    }
}
