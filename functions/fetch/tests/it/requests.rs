//! Requests: functions control neither the connection's headers nor more than one header at a time.

use super::site::{Site, response};
use super::*;

#[tokio::test]
async fn functions_cannot_set_connection_headers() {
    let site = Site::start(|_| response("200 OK", "", b"")).await;
    let headers = [
        ("Host", "internal.example"),
        ("Connection", "upgrade"),
        ("Content-Length", "1000"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("Keep-Alive", "x"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Expect", "100-continue"),
        ("Proxy-Authorization", "x"),
        ("Proxy-Connection", "x"),
        ("User-Agent", "mine"),
        ("Cookie", "a=b"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ];
    let request =
        requested("POST", &site.url("/a?b#c"), &headers).unwrap().with_body(b"12".to_vec());
    Call::new(settings()).fetch(1, request).await.unwrap();
    let asked = &site.asked()[0];
    assert_eq!((&*asked.line, &*asked.body), ("POST /a?b HTTP/1.1", &b"12"[..]));
    assert_eq!(asked.header("host"), Some(&*site.address.to_string()));
    assert_eq!(
        (asked.header("content-length"), asked.header("user-agent")),
        (Some("2"), Some("mine"))
    );
    let twice: Vec<_> = asked.headers.iter().filter(|(name, _)| name == "x-twice").collect();
    assert_eq!(twice.len(), 2);
    let mut names: Vec<&str> = asked.headers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "accept-encoding",
        "content-length",
        "cookie",
        "host",
        "user-agent",
        "x-twice",
        "x-twice",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn requests_without_a_body_have_length_zero() {
    let site = Site::start(|_| response("200 OK", "", b"")).await;
    for (method, length) in
        [("GET", None), ("POST", Some("0")), ("PUT", Some("0")), ("DELETE", None)]
    {
        Call::new(settings())
            .fetch(1, requested(method, &site.url("/"), &[]).unwrap())
            .await
            .unwrap();
        assert_eq!(site.asked().last().unwrap().header("content-length"), length, "{method}");
    }
    let defaults = &site.asked()[0];
    assert_eq!(defaults.header("accept"), Some("*/*"));
    assert_eq!(defaults.header("accept-encoding"), Some("gzip, deflate"));
    assert_eq!(defaults.header("user-agent"), Some("audit-functions"));
}

#[test]
fn nothing_can_be_injected() {
    let url = "http://example.com/";
    for (name, value) in [
        ("x", "a\r\nhost: internal"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x", "\u{100}"),
        ("x\r\nhost", "internal"),
        ("x: y\r\nz", "a"),
        ("x y", "a"),
        ("", "a"),
        (":authority", "a"),
    ] {
        assert!(requested("GET", url, &[(name, value)]).is_err(), "{name:?}: {value:?}");
    }
    for method in [
        "GET / HTTP/1.1\r\nx: y\r\n\r\nGET",
        "GET ",
        "",
        "G\nET",
        "CONNECT",
        "connect",
        "TRACE",
        "Track",
    ] {
        assert!(requested(method, url, &[]).is_err(), "{method:?}");
    }
    let urls = [
        ("ftp://example.com/", "only http: and https: can be fetched, not ftp:"),
        ("data:,x", "only http: and https: can be fetched, not data:"),
        ("file:///etc/passwd", "only http: and https: can be fetched, not file:"),
        ("http://user:secret@example.com/", "the URL must not contain a user name or password"),
        ("http://example.com:6379/", ""),
        ("http://example.com:6667/", "port 6667 is blocked: it is that of another protocol"),
        ("/relative", "the URL is invalid: relative URL without a base"),
    ];
    for (url, expected) in urls {
        let error =
            requested("GET", url, &[]).err().map_or(String::new(), |error| error.to_string());
        assert_eq!(error, expected, "{url}");
    }
    // Line breaks in a URL are removed.
    let request =
        FetchRequest::new("http://example.com/a\r\nx: y", "GET", &[], RedirectMode::Follow);
    assert!(format!("{:?}", request.unwrap()).contains("/ax:%20y"));
    let long = "x".repeat(70_000);
    let error = requested("GET", url, &[("x", &long)]).unwrap_err().to_string();
    assert_eq!(error, "the headers of 70001 bytes exceed limit of 65536 bytes");
    let error = requested("GET", &format!("{url}{long}"), &[]).unwrap_err().to_string();
    assert_eq!(error, "the URL of 70019 bytes exceeds limit of 65536 bytes");
}

#[tokio::test]
async fn a_request_body_can_be_streamed() {
    let site = Site::start(|asked| response("200 OK", "", &asked.body)).await;
    let call = Call::new(settings());
    let head = call.begin(1, requested("POST", &site.url("/"), &[]).unwrap().with_stream());
    for piece in ["one ", "two ", "three"] {
        call.0.send(1, piece.into()).unwrap().await.unwrap();
    }
    call.0.send_end(1).unwrap().await.unwrap();
    assert_eq!(head.await.unwrap().unwrap().status, 200);
    assert_eq!(call.rest(1).await.unwrap(), b"one two three");
    assert!(call.0.send(1, Vec::new()).is_err() && call.0.send_end(1).is_err());
}

#[tokio::test]
async fn a_streamed_body_is_limited_and_not_redirected() {
    let limited = FetchSettings { max_request_bytes: 10, ..settings() };
    let site = Site::start(|asked| match asked.path() {
        "/307" => site::whole("HTTP/1.1 307 Moved\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"),
        _ => response("200 OK", "", &asked.body),
    })
    .await;
    let request = |path: &str| requested("POST", &site.url(path), &[]).unwrap();
    let call = Call::new(limited);
    let too_large = call.0.begin(1, request("/").with_body(vec![0; 11]), |_| ()).unwrap_err();
    assert_eq!(
        too_large.to_string(),
        "the body of the request, 11 bytes, exceeds limit of 10 bytes"
    );
    drop(call.begin(2, request("/").with_stream()));
    call.0.send(2, vec![0; 10]).unwrap().await.unwrap();
    let error = call.0.send(2, vec![0; 1]).err().unwrap();
    assert_eq!(error.to_string(), "the body of the request, 11 bytes, exceeds limit of 10 bytes");
    let head = call.begin(3, request("/307").with_stream());
    call.0.send_end(3).unwrap().await.unwrap();
    let error = head.await.unwrap().unwrap_err().to_string();
    assert_eq!(error, "the response redirects a request whose streamed body cannot be sent twice");
}
