//! Connections while the process can open no more files. One test, since the process has one limit.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use audit_host::{Connections, ServeLimits};
use axum::Router;
use axum::routing::get;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn count(&self, what: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches(what).count()
    }

    async fn says(&self, what: &str, times: usize) {
        while self.count(what) < times {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_lack_of_files_is_reported_once_and_passes() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Connections::new(ServeLimits::default()).unwrap();
    let router = Router::new().route("/", get(async || "hello"));
    let serving =
        tokio::spawn(
            async move { connections.serve(listener, router, std::future::pending()).await },
        );
    let before = getrlimit(Resource::Nofile);
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for round in 1..=2 {
        let clients: Vec<_> = (0..3).map(|_| TcpSocket::new_v4().unwrap()).collect();
        // The lowest free descriptor; that of the directory being read does not count.
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() - 1;
        let most = Rlimit { current: Some(open as u64), ..before };
        setrlimit(Resource::Nofile, most).unwrap();
        let mut streams = Vec::new();
        for client in clients {
            let mut stream = client.connect(address).await.unwrap();
            stream.write_all(request).await.unwrap();
            streams.push(stream);
        }
        log.says("no connections are accepted", round).await;
        setrlimit(Resource::Nofile, before).unwrap();
        for mut stream in streams {
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(response.ends_with("hello"), "{response}");
        }
        log.says("connections are accepted again", round).await;
    }
    assert_eq!(log.count("no connections are accepted"), 2);
    assert!(log.count("raise the limit of open files: ulimit -n, LimitNOFILE") >= 2);
    serving.abort();
}
