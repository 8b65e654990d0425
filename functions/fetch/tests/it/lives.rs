//! How many fetches run at once, and when they end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};

use super::site::{Reply, Site, response};
use super::*;

#[tokio::test]
async fn fetches_end_with_their_call() {
    let (gone, mut is_gone) = mpsc::unbounded_channel();
    let site = Site::start(move |asked| {
        let begun = if asked.path() == "/head" {
            ""
        } else {
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun"
        };
        Reply::Stall(begun.into(), gone.clone())
    })
    .await;
    for how in 0..4 {
        let call = Call::new(settings());
        let waiting = call.begin(1, request(&site.url("/head")));
        let head = call.begin(2, request(&site.url("/body"))).await.unwrap().unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(call.0.read(2).unwrap().await.unwrap().unwrap(), b"begun");
        let rest = call.0.read(2).unwrap();
        let canceller = call.0.canceller();
        // Wait until both requests have arrived.
        while site.asked().len() < 2 * (how + 1) {
            tokio::task::yield_now().await;
        }
        match how {
            0 => drop(call),
            1 => canceller.cancel(),
            2 => [1, 2].iter().for_each(|id| call.0.cancel(*id)),
            _ => {
                drop(call);
                canceller.cancel();
            }
        }
        assert!(waiting.await.is_err());
        assert_eq!(rest.await.unwrap_err().to_string(), "the fetch was cancelled");
        for _ in 0..2 {
            is_gone.recv().await.unwrap();
        }
    }
}

/// Each fetch waits for its share of the memory, and gets its turn.
#[tokio::test]
async fn concurrent_fetches_are_limited_per_call_and_in_total() {
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>> = Arc::default();
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let site = {
        let (under_way, most, waiting) =
            (Arc::clone(&under_way), Arc::clone(&most), Arc::clone(&waiting));
        Site::start(move |_| {
            most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (tell, told) = oneshot::channel();
            waiting.lock().unwrap().push_back(tell);
            let _ = arrived.send(());
            Reply::After(told, b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec())
        })
        .await
    };
    let mebibytes = |count: usize| FetchSettings {
        memory_bytes: count << 20,
        max_request_bytes: 1,
        ..settings()
    };
    // A call may take a quarter of the memory.
    for (memory, calls, limit) in [(8, 1, 2), (4, 8, 4)] {
        most.store(0, Ordering::SeqCst);
        let fetcher = Fetcher::new(mebibytes(memory));
        let calls: Vec<_> = (0..calls).map(|_| Call(fetcher.fetches(Handle::current()))).collect();
        let heads: Vec<_> = calls
            .iter()
            .flat_map(|call| {
                (0..6).map(|id| call.begin(id, request(&site.url("/")))).collect::<Vec<_>>()
            })
            .collect();
        for _ in 0..heads.len() {
            arrivals.recv().await.unwrap();
            // Let all requests arrive that may be under way at once.
            while (most.load(Ordering::SeqCst)) < limit && arrivals.try_recv().is_ok() {}
            let next = waiting.lock().unwrap().pop_front();
            under_way.fetch_sub(1, Ordering::SeqCst);
            next.unwrap().send(()).unwrap();
        }
        for head in heads {
            assert_eq!(head.await.unwrap().unwrap().status, 204);
        }
        assert!(most.load(Ordering::SeqCst) <= limit, "{most:?} of {limit}");
    }
}

/// A loop of fetches whose responses are never read must not block.
#[tokio::test]
async fn unread_responses_keep_no_more_than_their_bytes() {
    let site = Site::start(|_| response("200 OK", "", b"nobody reads this")).await;
    let settings = FetchSettings { memory_bytes: 8 << 20, ..settings() };
    let call = Call::new(settings);
    for id in 0..50 {
        assert_eq!(call.begin(id, request(&site.url("/"))).await.unwrap().unwrap().status, 200);
    }
    assert_eq!(call.rest(7).await.unwrap(), b"nobody reads this");
}

/// Linux only: other systems do not have 127.0.0.2.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn few_connections_stay_open_however_many_hosts_there_are() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = Arc::new(AtomicUsize::new(0));
    let connections = Arc::clone(&open);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let open = Arc::clone(&connections);
            open.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let call = Call::new(FetchSettings { networks, ..settings() });
    for round in 0..3 {
        for host in 2..100 {
            let url = format!("http://127.0.0.{host}:{port}/");
            let (_, body) = call.fetch(100 * round + host, request(&url)).await.unwrap();
            assert_eq!(body, b"ok");
        }
    }
    // The server learns a little later that the other connections are closed.
    while open.load(Ordering::SeqCst) > 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(open.load(Ordering::SeqCst), 8, "one for each host that keeps its connections");
}
