//! The memory of all requests together, and how clients that take much of it affect others.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::process::{Service, change, new_id};

const BUDGET_MIB: usize = 32;
/// What the rest of the process may take, in MiB: allocators, the database's caches.
const BEYOND_MIB: usize = 64;

/// Connects from the address 127.0.0.`last`, which tells clients apart.
async fn connect(service: &Service, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, last], 0).into()).unwrap();
    socket.connect(service.address().parse().unwrap()).await.unwrap()
}

fn put(id: &str, body: &str) -> String {
    format!(
        "PUT /documents/{id} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The status of a response, or 0 if the connection was cut off.
async fn status(stream: &mut TcpStream) -> u16 {
    let mut response = Vec::new();
    let read = stream.read_to_end(&mut response).await;
    let status = response.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    status.filter(|_| read.is_ok()).unwrap_or(0)
}

/// Sends 64 requests at once, each of a kind that takes much memory.
#[tokio::test(flavor = "multi_thread")]
async fn the_most_expensive_requests_stay_in_budget() {
    let directory = TempDir::new().unwrap();
    let flags = ["--request-memory-mib", &BUDGET_MIB.to_string()];
    let service = Service::start_with_journal(&directory, &flags, &[]);
    let document = new_id("plan");
    // A response of six times the document's size.
    let escaped = json!({ "title": "t", "text": "\u{1}".repeat(100_000) }).to_string();
    assert_eq!(status(&mut sent(&service, &put(&document, &escaped)).await).await, 200);
    let get = format!("GET /documents/{document} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let long = |text: &str, count: usize| {
        put(&new_id("plan"), &json!({ "title": "t", "text": text.repeat(count) }).to_string())
    };
    let requests = [
        get,
        put(&new_id("plan"), &escaped),
        long("x", (1 << 20) - 100),
        long("\"", (1 << 19) - 100),
        long("\u{1}", (1 << 20) / 6 - 100),
        put(&new_id("plan"), &"[".repeat(1 << 20)),
        put(&new_id("plan"), &"x".repeat(2 << 20)),
    ];
    let idle = service.most_memory(true);
    let calls = (0..64).map(|number| {
        let request = requests[number % requests.len()].clone();
        let address = service.address().to_owned();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The service may respond, or cut the connection off, before it has read everything.
            drop(stream.write_all(request.as_bytes()).await);
            status(&mut stream).await
        })
    });
    let mut answers = BTreeMap::<u16, usize>::new();
    for call in calls.collect::<Vec<_>>() {
        *answers.entry(call.await.unwrap()).or_default() += 1;
    }
    let taken = service.most_memory(false).saturating_sub(idle) >> 20;
    println!("idle {} MiB, {taken} MiB above it, answers {answers:?}", idle >> 20);
    assert!(taken <= BUDGET_MIB + BEYOND_MIB, "{taken} MiB above idle; {answers:?}");
    assert!(answers.keys().all(|status| [0, 200, 400, 413, 422].contains(status)), "{answers:?}");
    assert_eq!(service.update(&new_id("plan"), change("after"), &[]).await.0, 200);
}

async fn sent(service: &Service, request: &str) -> TcpStream {
    let mut stream = connect(service, 1).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// A client that sends many bodies and completes none takes memory from itself alone.
#[tokio::test]
async fn unfinished_bodies_cost_the_client_that_sends_them() {
    let directory = TempDir::new().unwrap();
    let service = Service::start_with_journal(&directory, &["--request-memory-mib", "4"], &[]);
    let body = json!({ "title": "t", "text": "x".repeat(90_000) }).to_string();
    // Another client has sent half of its body.
    let request = put(&new_id("plan"), &body);
    let (first, rest) = request.split_at(request.len() / 2);
    let mut modest = connect(&service, 3).await;
    modest.write_all(first.as_bytes()).await.unwrap();
    let mut greedy = JoinSet::new();
    for _ in 0..40 {
        let mut stream = connect(&service, 2).await;
        let request = put("plan", &"x".repeat(600_000));
        drop(stream.write_all(&request.as_bytes()[..500_000]).await);
        greedy.spawn(async move { status(&mut stream).await });
    }
    // All but two are cut off, whichever arrive last: 500 kB and their copies are 2 MB each.
    for _ in 0..38 {
        assert_eq!(greedy.join_next().await.unwrap().unwrap(), 0);
    }
    modest.write_all(rest.as_bytes()).await.unwrap();
    assert_eq!(status(&mut modest).await, 200);
    assert_eq!(service.update(&new_id("plan"), change("after"), &[]).await.0, 200);
}
