//! The tower layer, driven like a server drives it.

use std::net::IpAddr;
use std::sync::Arc;

use audit_core::testing::{ManualClock, MemorySink, SeededRandom};
use audit_runtime::http::{RequestContextLayer, TrustedProxies};
use audit_runtime::{AuditRuntime, RequestContext, RequestId, Var, body};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, Response};
use axum::routing::get;
use axum::{Extension, Router};
use tower::ServiceExt;

/// What the test's server leaves in a request's extensions.
#[derive(Clone, Copy)]
struct Peer(IpAddr);

struct Server {
    sink: Arc<MemorySink>,
    app: Router,
}

fn server(proxies: &str) -> Server {
    server_behind(proxies.parse().unwrap())
}

fn server_behind(proxies: TrustedProxies) -> Server {
    server_with(|layer| layer.with_trusted_proxies(proxies))
}

fn server_with(set: impl FnOnce(RequestContextLayer) -> RequestContextLayer) -> Server {
    let sink = Arc::new(MemorySink::new());
    let runtime = AuditRuntime::builder(Arc::clone(&sink) as _)
        .with_clock(ManualClock::at(1_700_000_000_000))
        .with_random(SeededRandom::new(1))
        .build();
    let layer = set(RequestContextLayer::new(runtime.clone(), |extensions| {
        extensions.get::<Peer>().map(|peer| peer.0)
    }));
    let view = async move |Extension(request): Extension<RequestContext>| {
        let query = runtime.query("view");
        query
            .log()
            .audit(&body!({ "ip": Var::IP, "agent": Var::USER_AGENT, "id": Var::REQUEST_ID }))
            .unwrap();
        query.seal("page").release_into(&request).await.unwrap()
    };
    Server { sink, app: Router::new().route("/", get(view)).layer(layer) }
}

impl Server {
    /// Sends a request from this peer. Returns its audit log and the id in the response.
    async fn get(
        &self,
        peer: Option<&str>,
        headers: &[(&'static str, &[u8])],
    ) -> (serde_json::Value, String) {
        let response = self.respond(peer, headers).await;
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        (serde_json::from_str(self.sink.lines().last().unwrap()).unwrap(), id)
    }

    async fn respond(
        &self,
        peer: Option<&str>,
        headers: &[(&'static str, &[u8])],
    ) -> Response<Body> {
        let mut request = Request::get("/").body(Body::empty()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        }
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        self.app.clone().oneshot(request).await.unwrap()
    }
}

#[tokio::test]
async fn an_untrusted_peers_forwarded_header_reaches_no_log() {
    let server = server("10.0.0.0/8");
    let forged: &[(&str, &[u8])] = &[
        ("x-forwarded-for", b"6.6.6.6"),
        ("forwarded", b"for=6.6.6.6"),
        ("x-request-id", b"forged"),
    ];
    let (log, id) = server.get(Some("192.0.2.7"), forged).await;
    assert_eq!(log["ip"], "192.0.2.7");
    assert_ne!(log["id"], "forged");
    assert_eq!(log["id"], id);
}

#[tokio::test]
async fn trusted_proxies_name_client_and_request() {
    let server = server("10.0.0.0/8");
    let headers: &[(&str, &[u8])] =
        &[("x-forwarded-for", b"6.6.6.6, 192.0.2.7"), ("x-request-id", b"trace-1/2")];
    let (log, id) = server.get(Some("10.1.2.3"), headers).await;
    assert_eq!((&log["ip"], &log["id"]), (&"192.0.2.7".into(), &"trace-1/2".into()));
    assert_eq!(id, "trace-1/2");
}

#[tokio::test]
async fn the_trusted_proxys_request_id_wins() {
    let server = server("10.0.0.0/8");
    let ids: &[(&[&[u8]], Option<&str>)] = &[
        (&[b"client", b"proxy"], Some("proxy")),
        (&[b"client, proxy"], Some("proxy")),
        (&[b"client", b"second, proxy "], Some("proxy")),
        (&[b"client", b""], None),
        (&[b"client,"], None),
        (&[b"client", b"not valid"], None),
    ];
    for (lines, expected) in ids {
        let headers: Vec<_> = lines.iter().map(|line| ("x-request-id", *line)).collect();
        let (log, id) = server.get(Some("10.1.2.3"), &headers).await;
        assert_eq!(log["id"], id);
        match expected {
            Some(expected) => assert_eq!(id, *expected),
            None => assert_eq!(id.len(), 26, "a new one"),
        }
        let (log, _) = server.get(Some("192.0.2.7"), &headers).await;
        assert_eq!(log["id"].as_str().unwrap().len(), 26, "a client's is not taken");
    }
}

#[tokio::test]
async fn the_named_header_alone_has_the_request_id() {
    let proxies: TrustedProxies = "10.0.0.0/8".parse().unwrap();
    let trace = HeaderName::from_static("x-trace-id");
    let sent: &[(&str, &[u8])] = &[("x-request-id", b"other"), ("x-trace-id", b"trace-7")];
    // The order of the settings makes no difference.
    let servers = [
        server_with(|layer| {
            layer.with_request_id_header(trace.clone()).with_trusted_proxies(proxies.clone())
        }),
        server_with(|layer| {
            layer.with_trusted_proxies(proxies.clone()).with_request_id_header(trace.clone())
        }),
    ];
    for server in servers {
        for (peer, is_trusted) in [("10.1.2.3", true), ("192.0.2.7", false)] {
            let response = server.respond(Some(peer), sent).await;
            let id = response.headers()["x-trace-id"].to_str().unwrap();
            assert!(!response.headers().contains_key("x-request-id"));
            let log: serde_json::Value =
                serde_json::from_str(server.sink.lines().last().unwrap()).unwrap();
            assert_eq!(log["id"], id);
            assert_eq!(id == "trace-7", is_trusted, "{id}");
        }
    }
}

#[tokio::test]
async fn only_the_named_header_counts() {
    let all: &[(&str, &[u8])] = &[
        ("x-forwarded-for", b"6.6.6.6"),
        ("x-real-ip", b"192.0.2.8"),
        ("forwarded", b"for=\"[2001:db8::9]:443\""),
        ("forwarded", b"for=192.0.2.9;proto=https"),
    ];
    for (header, ip) in
        [("x-forwarded-for", "6.6.6.6"), ("Forwarded", "192.0.2.9"), ("X-Real-IP", "192.0.2.8")]
    {
        let proxies: TrustedProxies = "::ffff:10.0.0.0/104".parse().unwrap();
        let server = server_behind(proxies.with_header(header.parse().unwrap()));
        assert_eq!(server.get(Some("::ffff:10.1.2.3"), all).await.0["ip"], ip);
    }
}

#[tokio::test]
async fn a_request_id_that_could_break_a_line_is_replaced() {
    let server = server("10.0.0.0/8");
    let too_long = [b'a'; RequestId::MAX_BYTES + 1];
    for bad in [&b"a\"b"[..], b"a b", b"\xff", b"", &too_long] {
        let (log, id) = server.get(Some("10.1.2.3"), &[("x-request-id", bad)]).await;
        assert_eq!(log["id"], id);
        assert_eq!(id.len(), 26, "a new one");
    }
}

#[tokio::test]
async fn without_a_peer_there_is_no_address() {
    let (log, _) = server("0.0.0.0/0, ::/0").get(None, &[("x-forwarded-for", b"6.6.6.6")]).await;
    assert!(log["ip"].is_null());
}

#[tokio::test]
async fn any_user_agent_is_one_string_on_one_line() {
    let server = server("");
    let (log, _) = server.get(Some("192.0.2.7"), &[]).await;
    assert!(log["agent"].is_null());
    let long = [b'"'; 2_000];
    for (sent, logged) in [
        (&b"curl/8"[..], "curl/8".to_owned()),
        (b"a\"b\\c\td", "a\"b\\c\u{fffd}d".to_owned()),
        (b"\xff\xc2\x85", "\u{fffd}\u{fffd}".to_owned()),
        (&long, "\"".repeat(512)),
    ] {
        let (log, _) = server.get(Some("192.0.2.7"), &[("user-agent", sent)]).await;
        assert_eq!(log["agent"], logged);
    }
}
