//! A host that would log wrong addresses warns once. In a separate process, because the warnings
//! are per process.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use audit_runtime::http::{Origin, TrustedProxies};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn taken(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

#[test]
fn wrong_proxy_settings_warn_once() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let proxies: TrustedProxies = "10.0.0.0/8".parse().unwrap();
    let from = |peer: &str, header: &str| {
        for _ in 0..3 {
            Origin::of(peer.parse().ok(), &proxies, "x-request-id", |name| {
                (name == header).then_some(&b"192.0.2.9"[..])
            });
        }
        log.taken()
    };
    // No warning: the settings fit the request, or it says nothing about them.
    assert!(from("10.1.1.1", "x-forwarded-for").is_empty());
    assert!(from("203.0.113.1", "x-forwarded-for").is_empty());
    // It may be a client in the host's own network.
    assert!(from("127.0.0.1", "user-agent").is_empty());
    assert!(from("192.168.1.1", "user-agent").is_empty());

    for (peer, header, warning) in [
        ("a Unix socket", "x-forwarded-for", "requests have no peer address"),
        ("::ffff:172.17.0.1", "x-forwarded-for", "peer=172.17.0.1"),
        ("10.1.1.1", "forwarded", "a trusted proxy sends no header with its client's address"),
    ] {
        let lines = from(peer, header);
        assert!(lines.len() == 1 && lines[0].contains(warning), "{peer}: {lines:?}");
        assert!(from(peer, header).is_empty());
    }
}
