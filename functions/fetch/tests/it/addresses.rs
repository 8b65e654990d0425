//! Fetches reach only public or allowed hosts, however the address is written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use functions_fetch::{FetchSettings, Fetcher};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::runtime::Handle;

use super::site::{Site, response, whole};
use super::*;

/// URLs of the local host or of another private address. `PORT` stands for a server's port.
const PRIVATE: [&str; 40] = [
    "http://127.0.0.1:PORT/",
    "http://127.0.0.2:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://017700000001:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1:PORT/",
    "http://127\u{3002}0\u{3002}0\u{3002}1:PORT/",
    "http://0:PORT/",
    "http://0.0.0.0:PORT/",
    "http://localhost:PORT/",
    "http://LOCALHOST:PORT/",
    "http://localhost.:PORT/",
    "http:\\\\127.0.0.1:PORT\\",
    "http:127.0.0.1:PORT",
    "  http://127.0.0.1:PORT/",
    "ht\ntp://127.0.0.1:PORT/",
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[64:ff9b::127.0.0.1]:PORT/",
    "http://[64:ff9b:1::7f00:1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[2001:0:7f00:1::]:PORT/",
    "http://[fd00::1]/",
    "http://[fe80::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "https://0xa9fea9fe/",
];

fn is_refused(error: &str) -> bool {
    let is_about_names = error
        .ends_with(" resolves to no public address, and this host's settings do not allow others");
    is_about_names
        || error.ends_with(" is not a public address, and this host's settings do not allow it")
}

#[tokio::test]
async fn no_spelling_of_a_private_address_is_fetched() {
    let site = Site::start(|_| response("200 OK", "", b"secret")).await;
    let port = site.address.port().to_string();
    for url in PRIVATE {
        let call = Call::new(FetchSettings::default());
        let error = call.failure(request(&url.replace("PORT", &port))).await;
        // Some resolvers do not know the name with a trailing dot.
        let is_unknown = error == "the name localhost. could not be resolved";
        assert!(is_refused(&error) || is_unknown, "{url}: {error}");
    }
    assert!(site.asked().is_empty());
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let hidden = Site::start_at("127.0.0.2:0", |_| response("200 OK", "", b"secret")).await;
    let port = hidden.address.port().to_string();
    let open = Site::start(|asked| {
        let location = asked.path().strip_prefix("/?").unwrap().replace("%20", " ");
        whole(format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
    })
    .await;
    let locations = [
        "http://127.0.0.2:PORT/",
        "//127.0.0.2:PORT/",
        "http://0x7f.2:PORT/",
        "http://[::ffff:127.0.0.2]:PORT/",
        "http://10.0.0.1/",
        "http://169.254.169.254/",
        "http://[fd00::1]/",
    ];
    for location in locations {
        let location = location.replace("PORT", &port);
        let error =
            Call::new(settings()).failure(request(&open.url(&format!("/?{location}")))).await;
        assert!(is_refused(&error), "{location}: {error}");
    }
    let others = [
        (
            "ftp://example.com/",
            "the response redirects: only http: and https: can be fetched, not ftp:",
        ),
        (
            "javascript:1",
            "the response redirects: only http: and https: can be fetched, not javascript:",
        ),
        (
            "file:///etc/passwd",
            "the response redirects: only http: and https: can be fetched, not file:",
        ),
        (
            "http://a:b@127.0.0.1/",
            "the response redirects: the URL must not contain a user name or password",
        ),
        (
            "http://127.0.0.1:25/",
            "the response redirects: port 25 is blocked: it is that of another protocol",
        ),
        ("http://[", "the response redirects to an invalid URL"),
    ];
    for (location, expected) in others {
        let error =
            Call::new(settings()).failure(request(&open.url(&format!("/?{location}")))).await;
        assert_eq!(error, expected, "{location}");
    }
    assert_eq!(open.asked().len(), locations.len() + others.len());
    assert!(hidden.asked().is_empty());
}

/// Resolves a name to other addresses each time, like a hostile name server.
struct Rebinding {
    answers: Vec<Vec<SocketAddr>>,
    asked: AtomicUsize,
}

impl Resolve for Rebinding {
    fn resolve(&self, _: Name) -> Resolving {
        let at = self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.answers[at.min(self.answers.len() - 1)].clone();
        Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
    }
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_each_time() {
    let open = Site::start(|_| response("200 OK", "connection: close\r\n", b"open")).await;
    let port = open.address.port();
    // The same port, since the URL contains it.
    let hidden =
        Site::start_at(&format!("127.0.0.2:{port}"), |_| response("200 OK", "", b"secret")).await;
    let (first, other) = (open.address, hidden.address);
    let answers = vec![vec![first], vec![other, first], vec![other], vec![first]];
    let resolver = Arc::new(Rebinding { answers, asked: AtomicUsize::new(0) });
    let fetcher = Fetcher::with_resolver(settings(), Arc::clone(&resolver) as _);
    let call = Call(fetcher.fetches(Handle::current()));
    let url = format!("http://rebinds.example:{port}/");
    for id in [1, 2] {
        let (_, body) = call.fetch(id, request(&url)).await.unwrap();
        assert_eq!(body, b"open");
    }
    let error = call.failure(request(&url)).await;
    assert!(is_refused(&error) && error.starts_with("rebinds.example "), "{error}");
    assert!(!error.contains("127.0.0"), "{error}");
    let (_, body) = call.fetch(4, request(&url)).await.unwrap();
    assert_eq!(body, b"open");
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 4);
    assert!(hidden.asked().is_empty());
}

#[tokio::test]
async fn allowed_networks_and_own_addresses_are_fetched() {
    let site = Site::start(|_| response("200 OK", "", b"here")).await;
    let own = FetchSettings { own_addresses: vec![site.address], ..FetchSettings::default() };
    for settings in [settings(), own.clone()] {
        let (_, body) = Call::new(settings).fetch(1, request(&site.url("/"))).await.unwrap();
        assert_eq!(body, b"here");
    }
    let other = Site::start(|_| response("200 OK", "", b"secret")).await;
    assert!(is_refused(&Call::new(own).failure(request(&other.url("/"))).await));
    assert!(other.asked().is_empty());
}
