//! Concurrent work on many items, with results in the order of the items.

use std::panic::resume_unwind;

use futures::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Runs `work` for each item, up to `parallel` at once, and yields the results that it sends: all
/// of the first item, then all of the second. The work on an item waits once it is `capacity`
/// results ahead of the reader, so that at most `parallel` times `capacity` results are held.
///
/// Dropping the stream ends the work at its next result.
pub(crate) fn in_order<I, T, W>(
    items: impl Stream<Item = I>,
    parallel: usize,
    capacity: usize,
    work: impl Fn(I, mpsc::Sender<T>) -> W,
) -> impl Stream<Item = T>
where
    T: Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let started = items.map(move |item| {
        let (sender, receiver) = mpsc::channel(capacity);
        let task = tokio::spawn(work(item, sender));
        std::future::ready(results(receiver, task))
    });
    // The current item is not among the buffered ones.
    started.buffered(parallel.saturating_sub(1).max(1)).flatten()
}

fn results<T>(receiver: mpsc::Receiver<T>, task: JoinHandle<()>) -> impl Stream<Item = T> {
    stream::unfold((receiver, Some(task)), |(mut receiver, mut task)| async move {
        if let Some(result) = receiver.recv().await {
            return Some((result, (receiver, task)));
        }
        // A task that panicked must not look like a finished one.
        if let Err(error) = task.take()?.await
            && error.is_panic()
        {
            resume_unwind(error.into_panic());
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(flavor = "multi_thread")]
    async fn results_keep_their_order_and_few_are_ahead() {
        let (begun, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (began, ended) = (Arc::clone(&begun), Arc::clone(&finished));
        let work = move |item: usize, sender: mpsc::Sender<(usize, usize)>| {
            began.fetch_add(1, Ordering::SeqCst);
            let ended = Arc::clone(&ended);
            async move {
                for part in 0..10 {
                    sender.send((item, part)).await.unwrap();
                }
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        let mut results = std::pin::pin!(in_order(stream::iter(0..50), 4, 2, work));
        let mut all = Vec::new();
        while let Some(result) = results.next().await {
            assert!(
                begun.load(Ordering::SeqCst) <= finished.load(Ordering::SeqCst) + 5,
                "one task more than is read"
            );
            all.push(result);
        }
        let expected: Vec<_> =
            (0..50).flat_map(|item| (0..10).map(move |part| (item, part))).collect();
        assert_eq!(all, expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "on purpose")]
    async fn a_panic_is_not_taken_for_the_end() {
        let work = |_: usize, _: mpsc::Sender<usize>| async { panic!("on purpose") };
        in_order(stream::iter(0..2), 2, 1, work).collect::<Vec<_>>().await;
    }
}
