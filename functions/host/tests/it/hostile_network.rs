//! Hostile clients: slow ones, silent ones, too many of them, and deep, wide or large requests.

use std::time::Duration;

use audit_host::ServeLimits;
use functions_server::NetworkLimits;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::served::{Served, Socket};

/// Short enough for a test to wait for, and long enough to respond in on a busy machine.
const SHORT: Duration = Duration::from_secs(3);

async fn connect(host: &Served) -> TcpStream {
    TcpStream::connect(host.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Returns all that a host sends until it closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // The host may close with a reset.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

async fn is_answered(host: &Served) {
    let call = json!({ "path": "messages:count", "args": {} });
    let (status, body) = host.post("/api/query", &call, &[]).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_clients_are_disconnected() {
    let serve =
        ServeLimits { header_timeout: SHORT, idle_timeout: SHORT, ..ServeLimits::default() };
    let limits = NetworkLimits {
        serve,
        body_timeout: SHORT,
        first_message_timeout: SHORT,
        ..NetworkLimits::default()
    };
    let host = Served::with_limits(limits).await;
    let mut silent = connect(&host).await;
    let mut slow_header = connect(&host).await;
    slow_header.write_all(b"POST /api/query HTTP/1.1\r\nhost: x\r\nx-a: ").await.unwrap();
    let mut kept_alive = connect(&host).await;
    kept_alive.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut slow_body = connect(&host).await;
    slow_body
        .write_all(b"POST /api/query HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"path\"")
        .await
        .unwrap();
    let mut no_connect = Socket::silent(&host.url).await;
    // This client sends Connect and then reads nothing, so the host's pings go unanswered.
    let half_open = Socket::connect(&host.url).await;

    assert_eq!(rest(&mut silent).await, "");
    assert!(!rest(&mut slow_header).await.contains("200 OK"));
    assert!(rest(&mut kept_alive).await.contains("200 OK"), "and then it is closed");
    let answer = rest(&mut slow_body).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let end = no_connect.receive().await.unwrap_err();
    assert_eq!(end, "1008: no Connect");
    let sessions = "functions_sync_sessions 0";
    while !host.metrics().contains(sessions) {
        tokio::task::yield_now().await;
    }
    drop(half_open);
    let metrics = host.metrics();
    for reason in ["header", "idle", "first_message"] {
        let ended = format!("audit_connections_refused_total{{reason=\"{reason}\"}}");
        assert!(metrics.contains(&ended), "{ended}: {metrics}");
    }
    is_answered(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_and_become_free_again() {
    let serve = ServeLimits { max_connections: Some(5), ..ServeLimits::default() };
    let limits = NetworkLimits { serve, ..NetworkLimits::default() };
    let host = Served::with_limits(limits).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut stream = connect(&host).await;
        stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        open.push(stream);
    }
    let refused = rest(&mut connect(&host).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(host.metrics().contains("audit_connections_refused_total{reason=\"connections\"}"));
    drop(open);
    // Succeeds as soon as the host has noticed that the connections are closed.
    while reqwest::get(format!("{}/version", host.url)).await.map_or(503, |r| r.status().as_u16())
        != 200
    {
        tokio::task::yield_now().await;
    }
}

/// A connection whose first request was answered, or the refusal it received instead.
#[cfg(target_os = "linux")]
async fn connect_from(host: &Served, address: [u8; 4]) -> Result<TcpStream, String> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::from(address), 0).into()).unwrap();
    let to = host.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    drop(stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await);
    let mut status = [0; b"HTTP/1.1 200".len()];
    match stream.read_exact(&mut status).await {
        Ok(_) if status.ends_with(b"200") => Ok(stream),
        Ok(_) => Err(String::from_utf8_lossy(&status).into_owned()),
        // The host closed it before reading the request, which resets it.
        Err(_) => Err(String::new()),
    }
}

/// The host trusts a proxy at 127.0.0.1; other addresses in 127.0.0.0/8 are ordinary clients.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn connections_per_address_are_limited() {
    let serve = ServeLimits { max_connections_per_address: 3, ..ServeLimits::default() };
    let limits = NetworkLimits { serve, ..NetworkLimits::default() };
    let host = Served::with_limits(limits).await;
    let (greedy, other, proxy) = ([127, 0, 0, 2], [127, 0, 0, 3], [127, 0, 0, 1]);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect_from(&host, greedy).await.unwrap());
    }
    for _ in 0..3 {
        let answer = connect_from(&host, greedy).await.unwrap_err();
        assert!(answer.is_empty() || answer.ends_with("429"), "{answer}");
    }
    let refused = "audit_connections_refused_total{reason=\"connections_of_address\"}";
    assert!(host.metrics().contains(refused));
    // The limit affects neither other clients nor a proxy, which forwards for many.
    open.push(connect_from(&host, other).await.unwrap());
    for _ in 0..10 {
        open.push(connect_from(&host, proxy).await.unwrap());
    }
    // Succeeds as soon as the host has noticed that the connections are closed.
    drop(open);
    while connect_from(&host, greedy).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_count_as_connections() {
    let serve = ServeLimits { max_connections: Some(2), ..ServeLimits::default() };
    let host = Served::with_limits(NetworkLimits { serve, ..NetworkLimits::default() }).await;
    let sockets = [Socket::connect(&host.url).await, Socket::connect(&host.url).await];
    let refused = rest(&mut connect(&host).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    drop(sockets);
    while reqwest::get(format!("{}/version", host.url)).await.map_or(503, |r| r.status().as_u16())
        != 200
    {
        tokio::task::yield_now().await;
    }
}

/// Requests an answer of this many KiB, and reads only its first byte.
async fn untaken(host: &Served, kib: usize) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let to = host.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let body = json!({ "path": "messages:large", "args": { "kib": kib } }).to_string();
    let request = format!(
        "POST /api/query HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_close_their_connection() {
    let serve = ServeLimits { send_timeout: SHORT, ..ServeLimits::default() };
    let host = Served::with_limits(NetworkLimits { serve, ..NetworkLimits::default() }).await;
    let mut stream = untaken(&host, 8 << 10).await;
    let slow = "audit_connections_refused_total{reason=\"slow_reader\"}";
    while !host.metrics().contains(slow) {
        tokio::task::yield_now().await;
    }
    assert!(rest(&mut stream).await.len() < 8 << 20);
    is_answered(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_share_one_memory_limit() {
    let limits = NetworkLimits { request_memory_bytes: 64 << 20, ..NetworkLimits::default() };
    let host = Served::with_limits(limits).await;
    // Answers have 8 of the 64 MiB, which is too little for two of these.
    let mut untaken_answers = Vec::new();
    for _ in 0..3 {
        untaken_answers.push(untaken(&host, 6 << 10).await);
    }
    let ends = untaken_answers.iter_mut().map(|stream| Box::pin(rest(stream)));
    let (answer, _, _) = futures::future::select_all(ends).await;
    assert!(answer.len() < 6 << 20, "{}", answer.len());
    assert!(host.metrics().contains("audit_clients_cut_off_total{held=\"answers\"}"));
    // Clients that read their answers receive them.
    let call = json!({ "path": "messages:large", "args": { "kib": 6 << 10 } });
    assert_eq!(host.post("/api/query", &call, &[]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_live_queries_share_one_memory_limit() {
    let limits = NetworkLimits { request_memory_bytes: 64 << 20, ..NetworkLimits::default() };
    let host = Served::with_limits(limits).await;
    // Arguments have 4 of the 64 MiB, so the first of these two connections is closed.
    let args = json!({ "list": vec![0; 20_000] });
    let mut first = Socket::connect(&host.url).await;
    first.follow(0, "messages:count", args.clone()).await;
    first.receive().await.unwrap();
    let mut second = Socket::connect(&host.url).await;
    second.follow(0, "messages:count", args).await;
    second.receive().await.unwrap();
    first.receive().await.unwrap_err();
    assert!(host.metrics().contains("audit_clients_cut_off_total{held=\"followed\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_live_queries_share_one_memory_limit() {
    let limits = NetworkLimits { request_memory_bytes: 64 << 20, ..NetworkLimits::default() };
    let host = Served::with_limits(limits).await;
    let result = json!({ "kib": 3 << 10 });
    // Results on their way to clients have 8 of the 64 MiB. Those that have arrived take nothing.
    let mut modest = Socket::connect(&host.url).await;
    for query_id in 0..6 {
        modest.follow(query_id, "messages:large", result.clone()).await;
        modest.receive().await.unwrap();
    }
    let mut greedy = Socket::connect(&host.url).await;
    for query_id in 0..6 {
        greedy.follow(query_id, "messages:large", result.clone()).await;
    }
    while greedy.receive().await.is_ok() {}
    assert!(host.metrics().contains("audit_clients_cut_off_total{held=\"answers\"}"));
    modest.follow(6, "messages:large", result).await;
    modest.receive().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_wide_and_large_requests_are_refused() {
    let host = Served::with_limits(NetworkLimits {
        request_memory_bytes: 64 << 20,
        ..NetworkLimits::default()
    })
    .await;
    let wide = |count: usize| format!("[{}0]", "0,".repeat(count));
    let cases = [
        ("[".repeat(100_000), 400),
        (format!("{}1{}", "{\"a\":".repeat(1_000), "}".repeat(1_000)), 400),
        (wide(1_000_001), 413),
        (format!("[{}0]", "{\"a\":1},".repeat(100_000)), 413),
        ("x".repeat(18 << 20), 413),
    ];
    for (args, expected) in &cases {
        let body = format!("{{\"path\":\"messages:count\",\"args\":{args}}}");
        let (status, _, answer) = host.post_text("/api/query", body, &[]).await;
        assert_eq!(status, *expected, "{answer}");
        is_answered(&host).await;
    }
    for (args, code) in [(&cases[0].0, "1009"), (&cases[2].0, "1009"), (&cases[3].0, "1009")] {
        let mut socket = Socket::connect(&host.url).await;
        socket
            .say_text(format!(
                "{{\"type\":\"Mutation\",\"requestId\":1,\"udfPath\":\"messages:send\",\"args\":[{args}]}}"
            ))
            .await;
        let end = socket.receive().await.unwrap_err();
        assert!(end.starts_with(code), "{end}");
    }
    let header = "x".repeat(1 << 20);
    let mut stream = connect(&host).await;
    let request = format!("GET /version HTTP/1.1\r\nhost: x\r\nx-long: {header}\r\n\r\n");
    drop(stream.write_all(request.as_bytes()).await);
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    is_answered(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_request_bodies_share_one_memory_limit() {
    let host = Served::with_limits(NetworkLimits {
        request_memory_bytes: 64 << 20,
        ..NetworkLimits::default()
    })
    .await;
    // Each sends 4 MiB of a longer body and stops: eight of them would take 64 MiB.
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&host).await;
        let head = "POST /api/query HTTP/1.1\r\nhost: x\r\ncontent-length: 16000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // Requests for which there is no memory are answered and closed.
        drop(stream.write_all(&vec![b' '; 4 << 20]).await);
        stalled.push(stream);
    }
    // Some connections were refused. The others end when their time limit is reached.
    let ends = stalled.iter_mut().map(|stream| Box::pin(rest(stream)));
    let (answer, _, _) = futures::future::select_all(ends).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503"), "{answer}");
    is_answered(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_have_their_own_address() {
    let host = Served::start().await;
    let get = async |url: String| {
        let response = host.http.get(url).send().await.unwrap();
        let has_cors = response.headers().contains_key("access-control-allow-origin");
        (response.status().as_u16(), has_cors, response.text().await.unwrap())
    };
    for probe in ["livez", "readyz", "healthz", "healthz?verbose"] {
        let (status, has_cors, body) = get(format!("{}/{probe}", host.url)).await;
        assert_eq!((status, has_cors, body.as_str()), (200, false, r#"{"message":"ok"}"#));
        let (status, has_cors, _) = get(format!("{}/{probe}", host.operators_url)).await;
        assert_eq!((status, has_cors), (200, false));
    }
    let (_, _, verbose) = get(format!("{}/healthz?verbose", host.operators_url)).await;
    assert!(verbose.contains("\"commits\":\"accepted\""), "{verbose}");
    assert_eq!(get(format!("{}/metrics", host.url)).await.0, 404);
    let (status, has_cors, metrics) = get(format!("{}/metrics", host.operators_url)).await;
    assert_eq!((status, has_cors), (200, false));
    assert!(metrics.contains("audit_connections "), "{metrics}");
}
