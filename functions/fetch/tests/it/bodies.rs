//! Response bodies: whole, compressed, too large, too slow, truncated.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use tokio::sync::mpsc;

use super::site::{Reply, Site, response};
use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn text() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| n.to_string().into_bytes()).collect()
}

#[tokio::test]
async fn a_response_arrives_whole() {
    let site = Site::start(|_| {
        response("201 Created", "x-a: \u{e4}\r\nset-cookie: a\r\nset-cookie: b\r\n", &text())
    })
    .await;
    let (head, body) = Call::new(settings()).fetch(1, request(&site.url("/a#b"))).await.unwrap();
    assert_eq!((head.status, head.status_text, &*head.url), (201, "Created", &*site.url("/a")));
    assert!(!head.redirected && head.has_body);
    let named = |name: &str| head.headers.iter().filter(|(other, _)| other == name).count();
    assert_eq!((named("set-cookie"), named("x-a"), named("content-length")), (2, 1, 1));
    assert!(body == text());
}

#[tokio::test]
async fn compressed_bodies_are_decoded() {
    let all = text();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&all).unwrap();
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
    raw.write_all(&all).unwrap();
    let (half, rest) = all.split_at(1_000);
    let table = [
        ("gzip", gzip(&all)),
        ("x-GZIP", gzip(&all)),
        ("gzip", [gzip(half), gzip(rest)].concat()),
        ("deflate", zlib.finish().unwrap()),
        ("deflate", raw.finish().unwrap()),
        ("identity", all.clone()),
    ];
    for (coding, bytes) in table {
        let header = format!("content-encoding: {coding}\r\n");
        let site = Site::start(move |_| response("200 OK", &header, &bytes)).await;
        let (head, body) = Call::new(settings()).fetch(1, request(&site.url("/"))).await.unwrap();
        assert!(body == all, "{coding}");
        // The headers describe the decompressed body.
        let has_coding = head.headers.iter().any(|(name, _)| name == "content-encoding");
        assert_eq!(has_coding, coding == "identity", "{coding}");
    }
    let broken = [
        ("gzip", gzip(&all)[..1_000].to_vec(), "the body cannot be decompressed: "),
        ("gzip", b"no gzip at all".to_vec(), "the body cannot be decompressed: "),
        (
            "br",
            b"x".to_vec(),
            "the body has the content coding \"br\"; this host decodes gzip and deflate",
        ),
        ("gzip, gzip", b"x".to_vec(), "the body has the content coding \"gzip, gzip\""),
    ];
    for (coding, bytes, expected) in broken {
        let header = format!("content-encoding: {coding}\r\n");
        let site = Site::start(move |_| response("200 OK", &header, &bytes)).await;
        let error = Call::new(settings()).failure(request(&site.url("/"))).await;
        assert!(error.starts_with(expected), "{error}");
    }
    // A response without a body may name any coding.
    let site =
        Site::start(|_| site::whole("HTTP/1.1 200 OK\r\ncontent-encoding: br\r\n\r\n")).await;
    let head = requested("HEAD", &site.url("/"), &[]).unwrap();
    assert!(!Call::new(settings()).fetch(1, head).await.unwrap().0.has_body);
}

/// The limit applies to the compressed body and to the decompressed one.
#[tokio::test]
async fn bodies_have_a_limit() {
    const LIMIT: usize = 1 << 20;
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n".to_vec();
    let head = |headers: &str| [&*chunked, headers.as_bytes(), b"\r\n"].concat();
    let chunk =
        |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let zeros = gzip(&vec![0; 64 << 20]);
    assert!(zeros.len() < LIMIT / 8);
    type Answer = Box<dyn Fn() -> Reply + Send + Sync>;
    let (endless, members, bomb) = (head(""), head("content-encoding: gzip\r\n"), zeros.clone());
    let (x, empty) = (chunk(&[b'x'; 10_000]), chunk(&gzip(b"").repeat(500)));
    let hostile: [(&str, Answer); 4] = [
        ("endless", Box::new(move || Reply::Endless(endless.clone(), x.clone()))),
        ("a bomb", Box::new(move || response("200 OK", "content-encoding: gzip\r\n", &bomb))),
        ("endless and empty", Box::new(move || Reply::Endless(members.clone(), empty.clone()))),
        ("large", Box::new(move || response("200 OK", "", &vec![b'x'; LIMIT + 1]))),
    ];
    for (name, answer) in hostile {
        let site = Site::start(move |_| answer()).await;
        let call = Call::new(FetchSettings { max_response_bytes: LIMIT, ..settings() });
        let error = call.failure(request(&site.url("/"))).await;
        assert_eq!(
            error,
            format!("the body of the response exceeds limit of {LIMIT} bytes"),
            "{name}"
        );
    }
    let site = Site::start(|_| response("200 OK", "", &vec![b'x'; LIMIT])).await;
    let call = Call::new(FetchSettings { max_response_bytes: LIMIT, ..settings() });
    assert_eq!(call.fetch(1, request(&site.url("/"))).await.unwrap().1.len(), LIMIT);
}

/// The clock is paused once the server has sent everything.
#[tokio::test]
async fn fetches_from_slow_servers_time_out() {
    let table = [
        ("", "there was no response within 60000 ms"),
        ("HTTP/1.1 200 OK\r\nx-slow", "there was no response within 60000 ms"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun",
            "no more of the response body arrived within 60000 ms",
        ),
    ];
    for (sent, expected) in table {
        let (gone, mut is_gone) = mpsc::unbounded_channel();
        let site = Site::start(move |_| Reply::Stall(sent.into(), gone.clone())).await;
        let call = Call::new(settings());
        let head = call.begin(1, request(&site.url("/")));
        while site.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        let error = if sent.ends_with("begun") {
            head.await.unwrap().unwrap();
            assert_eq!(call.0.read(1).unwrap().await.unwrap().unwrap(), b"begun");
            tokio::time::pause();
            call.0.read(1).unwrap().await.unwrap_err()
        } else {
            tokio::time::pause();
            head.await.unwrap().unwrap_err()
        };
        tokio::time::resume();
        assert_eq!(error.to_string(), expected);
        is_gone.recv().await.unwrap();
    }
}

#[tokio::test]
async fn truncated_and_refused_responses_fail() {
    let site =
        Site::start(|_| site::whole("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun")).await;
    let error = Call::new(settings()).failure(request(&site.url("/"))).await;
    let host = site.address;
    assert!(
        error.starts_with(&format!(
            "the connection to {host} failed before the response was complete"
        )),
        "{error}"
    );
    // A server that does not speak HTTP, and a port that is in use, but on which nobody listens.
    let site = Site::start(|_| site::whole("220 mail.example ESMTP\r\n")).await;
    let error = Call::new(settings()).failure(request(&site.url("/"))).await;
    assert!(error.starts_with(&format!("the connection to {} failed", site.address)), "{error}");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = socket.local_addr().unwrap();
    let error = Call::new(settings()).failure(request(&format!("http://{closed}/"))).await;
    assert_eq!(error, format!("no connection to {closed}: connection refused"));
}
