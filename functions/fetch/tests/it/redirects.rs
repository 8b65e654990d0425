//! Redirects follow the Fetch standard.

use super::site::{Site, response, whole};
use super::*;

fn moved(status: u16, location: &str) -> site::Reply {
    whole(format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
}

/// Redirects `/STATUS` to `/end`.
async fn site() -> Site {
    Site::start(|asked| match asked.path().trim_start_matches('/').parse() {
        Ok(status) => moved(status, "/end"),
        Err(_) => response("200 OK", "", b"end"),
    })
    .await
}

#[tokio::test]
async fn methods_and_bodies_change_as_standardized() {
    let table = [
        (301, "GET", "GET", false),
        (301, "POST", "GET", false),
        (301, "PUT", "PUT", true),
        (302, "POST", "GET", false),
        (302, "HEAD", "HEAD", false),
        (302, "DELETE", "DELETE", true),
        (303, "POST", "GET", false),
        (303, "PUT", "GET", false),
        (303, "HEAD", "HEAD", false),
        (307, "POST", "POST", true),
        (308, "PATCH", "PATCH", true),
    ];
    for (status, method, expected, keeps_body) in table {
        let site = site().await;
        let headers = [("content-type", "text/x"), ("authorization", "Bearer t"), ("x-a", "b")];
        let mut request =
            requested(method, &site.url(&format!("/{status}#part")), &headers).unwrap();
        if !["GET", "HEAD"].contains(&method) {
            request = request.with_body(b"body".to_vec());
        }
        let (head, _) = Call::new(settings()).fetch(1, request).await.unwrap();
        assert_eq!((head.status, head.redirected), (200, true), "{status} {method}");
        assert_eq!(head.url, site.url("/end"));
        let asked = site.asked();
        let last = asked.last().unwrap();
        assert_eq!(last.line, format!("{expected} /end HTTP/1.1"), "{status} {method}");
        let has_type = last.header("content-type").is_some();
        assert_eq!(last.body == b"body", keeps_body, "{status} {method}");
        assert_eq!(has_type, keeps_body || ["GET", "HEAD"].contains(&method), "{status} {method}");
        // The origin stays the same, so credentials do too.
        assert_eq!(
            (last.header("authorization"), last.header("x-a")),
            (Some("Bearer t"), Some("b"))
        );
    }
}

#[tokio::test]
async fn credentials_do_not_follow_to_another_origin() {
    let other = Site::start(|_| response("200 OK", "", b"end")).await;
    let there = other.url("/end");
    let site = Site::start(move |_| moved(307, &there)).await;
    let headers = [("authorization", "Bearer t"), ("cookie", "a=b"), ("x-a", "b")];
    let request = requested("POST", &site.url("/"), &headers).unwrap().with_body(b"body".to_vec());
    let (head, _) = Call::new(settings()).fetch(1, request).await.unwrap();
    assert_eq!(head.url, other.url("/end"));
    let asked = &other.asked()[0];
    assert_eq!((asked.header("authorization"), asked.header("cookie")), (None, None));
    assert_eq!((asked.header("x-a"), &*asked.body), (Some("b"), &b"body"[..]));
    let first = &site.asked()[0];
    assert_eq!(
        (first.header("authorization"), first.header("cookie")),
        (Some("Bearer t"), Some("a=b"))
    );
}

#[tokio::test]
async fn redirects_are_counted() {
    // `/n` redirects to `/n-1`, and `/0` ends; `/loop` never does.
    let site = Site::start(|asked| match asked.path() {
        "/0" => response("200 OK", "", b"end"),
        "/loop" => moved(302, "/loop"),
        path => moved(302, &format!("/{}", path[1..].parse::<u32>().unwrap() - 1)),
    })
    .await;
    let (_, body) = Call::new(settings()).fetch(1, request(&site.url("/20"))).await.unwrap();
    assert_eq!(body, b"end");
    for path in ["/21", "/loop"] {
        let error = Call::new(settings()).failure(request(&site.url(path))).await;
        assert_eq!(error, "the redirects exceed limit of 20");
    }
}

#[tokio::test]
async fn redirects_can_be_refused_or_returned() {
    let site = site().await;
    let of = |mode| FetchRequest::new(&site.url("/302"), "GET", &[], mode).unwrap();
    let error = Call::new(settings()).failure(of(RedirectMode::Error)).await;
    assert_eq!(error, "the response is a redirect (status 302), and redirect is \"error\"");
    let (head, _) = Call::new(settings()).fetch(1, of(RedirectMode::Manual)).await.unwrap();
    assert_eq!((head.status, head.redirected), (302, false));
    assert!(head.headers.contains(&("location".to_owned(), "/end".to_owned())));
    assert_eq!(site.asked().len(), 2);
}

#[tokio::test]
async fn a_redirect_without_a_location_is_the_response() {
    let site = Site::start(|_| response("302 Found", "", b"where?")).await;
    let (head, body) = Call::new(settings()).fetch(1, request(&site.url("/"))).await.unwrap();
    assert_eq!((head.status, &*body), (302, &b"where?"[..]));
}
