//! The required responses to unusual requests, over a socket: the host must read the end and the
//! target of each as any proxy in front reads them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use audit_host::{Connections, ServeLimits};
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves a page that says what it received.
async fn serve() -> SocketAddr {
    let shown = async |uri: Uri, headers: HeaderMap, body: Bytes| {
        let host = headers.get_all("host").iter().map(|host| host.to_str().unwrap());
        format!("{} at {:?}: {:?}", uri.path(), host.collect::<Vec<_>>(), body)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(shown);
    tokio::spawn(async move {
        let connections = Connections::new(ServeLimits::default()).unwrap();
        connections.serve(listener, router, std::future::pending()).await
    });
    address
}

/// Everything that the host answers to these bytes until the connection ends.
async fn answers(address: SocketAddr, bytes: &str) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    // The host may close with a reset.
    drop(client.read_to_end(&mut answers).await);
    String::from_utf8(answers).unwrap()
}

/// A request, its status, and a part of what is answered.
type Row<'a> = (&'a str, u16, &'a str);

const HOSTS: [Row<'_>; 23] = [
    ("GET / HTTP/1.1\r\nHost: a.example:80\r\n\r\n", 200, "/ at [\"a.example:80\"]"),
    ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", 200, "[2001:db8::1]:80"),
    ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 200, "\"a:\""),
    ("GET / HTTP/1.0\r\n\r\n", 200, "/ at []"),
    // A server MUST respond with 400 (RFC 9112, 3.2).
    ("GET / HTTP/1.1\r\n\r\n", 400, "no Host"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "more than one Host"),
    ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", 400, "more than one Host"),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", 400, "Host"),
    ("GET / HTTP/1.1\r\nHost: h\u{e9}\r\n\r\n", 400, "Host"),
    // The absolute form names the host, and the header is ignored (RFC 9112, 3.2.2).
    ("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", 200, "/x at [\"b\"]"),
    ("GET http://b:8080 HTTP/1.0\r\n\r\n", 200, "/ at [\"b:8080\"]"),
    ("GET http://b/ HTTP/1.1\r\n\r\n", 400, "no Host"),
    ("GET http://user@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 400, "names no host"),
    ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "no path"),
    ("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", 501, "no proxy"),
];

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// The rest of a request after its `Host`. Another request follows each.
const BODIES: [Row<'_>; 25] = [
    ("Content-Length: 2\r\n\r\nab", 200, "b\"ab\""),
    ("Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 200, "b\"ab\""),
    ("Transfer-Encoding: , Chunked ,\r\n\r\n2;x=y\r\nab\r\n0\r\nA: b\r\n\r\n", 400, ""),
    ("Transfer-Encoding: ,CHUNKED\r\n\r\n2;x=y\r\nab\r\n0\r\nA: b\r\n\r\n", 200, "b\"ab\""),
    // Equal lengths count as one (RFC 9110, 8.6), and a list may be refused.
    ("Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", 200, "b\"ab\""),
    ("Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400, ""),
    ("Content-Length: 2, 2\r\n\r\nab", 400, ""),
    ("Content-Length: +2\r\n\r\nab", 400, ""),
    ("Content-Length: -2\r\n\r\nab", 400, ""),
    ("Content-Length: 0x2\r\n\r\nab", 400, ""),
    ("Content-Length: 2 2\r\n\r\nab", 400, ""),
    ("Content-Length:\r\n\r\nab", 400, ""),
    ("Content-Length: 18446744073709551616\r\n\r\nab", 400, ""),
    // A coding that is not understood (RFC 9112, 6.1), and chunks within chunks (7.1).
    ("Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 501, "only transfer coding"),
    ("Transfer-Encoding: identity, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 501, ""),
    ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, ""),
    ("Transfer-Encoding: xchunked, chunked\r\n\r\n0\r\n\r\n", 501, ""),
    ("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, "chunked twice"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "twice"),
    // The end of the body cannot be known (RFC 9112, 6.3).
    ("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400, ""),
    ("Transfer-Encoding: gzip\r\n\r\nab", 400, ""),
    ("Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400, ""),
    // No folded lines, and no blanks before the colon (RFC 9112, 5.1 and 5.2).
    ("Content-Length: 2\r\nA: b\r\n c\r\n\r\nab", 400, ""),
    ("Content-Length : 2\r\n\r\nab", 400, ""),
    ("Content-Length: 2\r\nA: b\0c\r\n\r\nab", 400, ""),
];

/// The chunks determine the body, and the connection ends after the request (RFC 9112, 6.3).
const BOTH: [&str; 2] = [
    "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n2\r\nab\r\n0\r\n\r\n",
];

#[tokio::test]
async fn requests_are_whole_and_have_one_host() {
    let address = serve().await;
    for (request, status, says) in HOSTS {
        let open = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let answer = answers(address, &open).await;
        assert!(answer.starts_with(&format!("HTTP/1.{} {status} ", &answer[7..8])), "{answer}");
        assert!(answer.contains(says), "{request:?}: {answer}");
    }
    for (rest, status, says) in BODIES {
        let request = format!("POST /first HTTP/1.1\r\nHost: a\r\n{rest}{SMUGGLED}");
        let last = SMUGGLED.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let request = request.replace(SMUGGLED, &last);
        let answer = answers(address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{rest:?}: {answer}");
        assert!(answer.contains(says), "{rest:?}: {answer}");
        // A refused request ends the connection, since its length is unknown.
        assert_eq!(answer.contains("/smuggled"), status == 200, "{rest:?}: {answer}");
    }
    for rest in BOTH {
        let request = format!("POST /first HTTP/1.1\r\nHost: a\r\n{rest}{SMUGGLED}");
        let answer = answers(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("b\"ab\""), "{answer}");
        assert!(!answer.contains("/smuggled"), "{rest:?}: {answer}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(answers(address, old).await.contains(" 400 "), "HTTP/1.0 has no chunks");
    for version in ["GET /\r\n\r\n", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.2\r\n\r\n"]
    {
        let answer = answers(address, version).await;
        assert!(answer.is_empty() || answer.contains(" 400 "), "{version:?}: {answer}");
    }
}
