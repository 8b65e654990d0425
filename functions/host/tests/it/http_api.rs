//! The public HTTP API, as used by curl and Convex's clients.

use audit_core::testing::MemoryFault;
use reqwest::Method;
use serde_json::{Value as Json, json};

use crate::served::{ISSUER, Served, with_action};

const FAR: i64 = 4_000_000_000;

fn call(path: &str, args: Json) -> Json {
    json!({ "path": path, "args": args, "format": "json" })
}

fn encoded(path: &str, args: Json) -> Json {
    json!({ "path": path, "args": [args], "format": "convex_encoded_json" })
}

#[tokio::test]
async fn functions_answer_in_both_formats() {
    let host = Served::start().await;
    let sent =
        host.post("/api/mutation", &call("messages:send", json!({ "text": "a" })), &[]).await;
    assert_eq!(sent, (200, json!({ "status": "success", "value": "a", "logLines": [] })));
    let sent =
        host.post("/api/mutation", &encoded("messages.js:send", json!({ "text": "b" })), &[]).await;
    assert_eq!(sent.0, 200, "{sent:?}");
    let listed = json!({ "status": "success", "value": ["a", "b"], "logLines": [] });
    for body in [encoded("messages:list", json!({})), json!({ "path": "messages:list" })] {
        assert_eq!(host.post("/api/query", &body, &[]).await, (200, listed.clone()));
    }
    let function = json!({ "componentPath": null, "path": "messages:list", "format": "convex_encoded_json", "args": {} });
    assert_eq!(host.post("/api/function", &function, &[]).await, (200, listed.clone()));
    assert_eq!(host.post("/api/run/messages/list", &json!({}), &[]).await, (200, listed));

    let later =
        host.post("/api/action", &call("messages:sendLater", json!({ "text": "c" })), &[]).await;
    assert_eq!(later, (200, json!({ "status": "success", "value": "c", "logLines": [] })));

    let (_, plain) = host.post("/api/query", &call("messages:kinds", json!({})), &[]).await;
    assert_eq!(plain["value"], json!({ "int": "5", "bytes": "AQID", "nan": "NaN", "text": "x" }));
    let (_, exact) = host.post("/api/query", &encoded("messages:kinds", json!({})), &[]).await;
    let kinds = json!({
        "int": { "$integer": "BQAAAAAAAAA=" }, "bytes": { "$bytes": "AQID" }, "nan": { "$float": "AAAAAAAA+H8=" }, "text": "x",
    });
    assert_eq!(exact["value"], kinds);
    assert_eq!(with_action(&host.stop().await, "sent").len(), 3);
}

#[tokio::test]
async fn failed_functions_answer_as_clients_expect() {
    let host = Served::start().await;
    let (status, body) = host.post("/api/query", &encoded("messages:broken", json!({})), &[]).await;
    assert_eq!((status, &body["status"]), (560, &json!("error")));
    assert!(body["errorMessage"].as_str().unwrap().contains("boom"), "{body}");
    assert_eq!(body.get("errorData"), None);
    assert!(body["logLines"][0].as_str().unwrap().contains("before"), "{body}");
    let (status, body) = host.post("/api/mutation", &call("messages:refuse", json!({})), &[]).await;
    assert_eq!((status, &body["errorData"]), (560, &json!({ "code": "NO" })));
    let (status, body) =
        host.post("/api/mutation", &call("messages:send", json!({ "text": 5 })), &[]).await;
    assert_eq!((status, &body["status"]), (560, &json!("error")), "{body}");
    let records = host.stop().await;
    assert_eq!(records.len(), 2, "each that logged is in the bucket: {records:?}");
}

#[tokio::test]
async fn errors_do_not_repeat_long_texts_of_clients() {
    let host = Served::start().await;
    let long = "a".repeat(200_000);
    let list = |member: &str| json!({ "path": "messages:list", "args": {}, member: long });
    let send = |args: Json| call("messages:send", args);
    for (path, body) in [
        ("/api/query", call(&long, json!({}))),
        ("/api/mutation", call(&format!("messages:{long}"), json!({}))),
        ("/api/action", call(&format!("{long}:list"), json!({}))),
        ("/api/function", call(&long, json!({}))),
        ("/api/query_batch", json!({ "queries": [call(&long, json!({}))] })),
        ("/api/query", list("format")),
        ("/api/query", list("componentPath")),
        ("/api/query_at_ts", list("ts")),
        ("/api/mutation", send(json!({ "text": { "$integer": long } }))),
        ("/api/mutation", send(json!({ "text": [long] }))),
        ("/api/mutation", send(json!({ "text": "a", &long: 1 }))),
    ] {
        let (_, answer) = host.post(path, &body, &[]).await;
        let text = answer.to_string();
        assert!(text.contains("rror") || text.contains("message"), "{path}: {text}");
        assert!(text.len() < 10_000, "{path}: {} bytes", text.len());
    }
}

#[tokio::test]
async fn queries_can_share_one_timestamp() {
    let host = Served::start().await;
    host.send("a").await;
    let (_, given) = host.post("/api/query_ts", &Json::Null, &[]).await;
    host.send("b").await;
    let at = json!({ "path": "messages:list", "args": {}, "ts": given["ts"] });
    let (status, body) = host.post("/api/query_at_ts", &at, &[]).await;
    assert_eq!((status, &body["value"]), (200, &json!(["a"])), "{body}");
    let (_, now) = host.post("/api/query", &call("messages:list", json!({})), &[]).await;
    assert_eq!(now["value"], json!(["a", "b"]));
    let never = json!({ "path": "messages:list", "args": {}, "ts": "AAAAAAAAAAA=" });
    let (status, body) = host.post("/api/query_at_ts", &never, &[]).await;
    assert_eq!((status, &body["code"]), (400, &json!("OutOfRetention")));
    let none = json!({ "path": "messages:list", "args": {}, "ts": "yesterday" });
    assert_eq!(host.post("/api/query_at_ts", &none, &[]).await.0, 400);
    let counts: Vec<_> =
        with_action(&host.stop().await, "listed").iter().map(|log| log["count"].clone()).collect();
    assert_eq!(counts, [1, 2]);
}

#[tokio::test]
async fn missing_functions_answer_like_failed_ones() {
    let host = Served::start().await;
    let hidden = json!({ "path": "lib:of", "componentPath": "shares" });
    let cases = [
        ("/api/query", json!({ "path": "messages:nothing" }), "messages:nothing"),
        ("/api/query", json!({ "path": "messages:hidden" }), "messages:hidden"),
        ("/api/mutation", json!({ "path": "nothing:send" }), "nothing:send"),
        ("/api/action", json!({ "path": "messages:nothing" }), "messages:nothing"),
        ("/api/run/messages/hidden", json!({}), "messages:hidden"),
        ("/api/function", hidden, "component"),
    ];
    for (path, body, says) in cases {
        let (status, answer) = host.post(path, &body, &[]).await;
        assert_eq!(
            (status, &answer["status"], &answer["logLines"]),
            (560, &json!("error"), &json!([]))
        );
        assert!(answer["errorMessage"].as_str().unwrap().contains(says), "{answer}");
    }
}

#[tokio::test]
async fn queries_in_urls_are_logged_and_not_cached() {
    let host = Served::start().await;
    host.send("a").await;
    for (args, format) in
        [("", ""), ("&args={}", "&format=json"), ("&args=[{}]", "&format=convex_encoded_json")]
    {
        let url = format!("{}/api/query?path=messages:list{args}{format}", host.url);
        let response = host.http.get(url).header("user-agent", "curl").send().await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body: Json = response.json().await.unwrap();
        assert_eq!(body, json!({ "status": "success", "value": ["a"], "logLines": [] }));
    }
    assert_eq!(with_action(&host.stop().await, "listed").len(), 3);
}

#[tokio::test]
async fn batched_queries_are_ordered_and_logged_one_by_one() {
    let host = Served::start().await;
    host.send("a").await;
    let list = call("messages:list", json!({}));
    let queries = [
        &list,
        &call("messages:nothing", json!({})),
        &encoded("messages:broken", json!({})),
        &list,
    ];
    let (status, body) = host.post("/api/query_batch", &json!({ "queries": queries }), &[]).await;
    assert_eq!(status, 200, "{body}");
    let listed = json!({ "status": "success", "value": ["a"], "logLines": [] });
    let results = body["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0], &results[3]), (4, &listed, &listed));
    for (result, says) in [(&results[1], "messages:nothing"), (&results[2], "boom")] {
        assert_eq!(result["status"], "error");
        assert!(result["errorMessage"].as_str().unwrap().contains(says), "{result}");
    }
    let none = host.post("/api/query_batch", &json!({ "queries": [] }), &[]).await;
    assert_eq!(none, (200, json!({ "results": [] })));
    assert_eq!(with_action(&host.stop().await, "listed").len(), 2);
}

#[tokio::test]
async fn invalid_calls_are_refused_with_a_reason() {
    let host = Served::start().await;
    let refused = async |path: &str, body: &str, status: u16, says: &str| {
        let (got, _, body) = host.post_text(path, body.to_owned(), &[]).await;
        assert_eq!(got, status, "{body}");
        assert!(
            body["message"].as_str().unwrap().contains(says) && body["code"].is_string(),
            "{body}"
        );
    };
    refused("/api/nothing", "{}", 404, "/api/nothing").await;
    refused("/nothing", "{}", 404, "/nothing").await;
    refused("/version", "{}", 405, "POST").await;
    refused("/api/query", "{", 400, "not a call").await;
    refused("/api/query", "{}", 400, "path").await;
    refused("/api/query", r#"{"path":"messages:list","format":"xml"}"#, 400, "xml").await;
    refused("/api/query", r#"{"path":"messages:list","args":[{},{}]}"#, 400, "args").await;
    refused("/api/query", r#"{"path":"messages:list","args":"x"}"#, 400, "args").await;
    refused(
        "/api/query",
        r#"{"path":"messages:list","args":{"a":{"$integer":"x"}}}"#,
        400,
        "argument",
    )
    .await;
    refused("/api/query", r#"{"path":"messages:send","args":{"text":"a"}}"#, 400, "is a mutation")
        .await;
    refused("/api/sync", "{}", 400, "WebSocket").await;
    refused("/api/query_batch", r#"{"queries":[{"path":5}]}"#, 400, "not a call").await;
    for query in ["", "?path=messages:list&args={", "?path=messages:list&args=[1,2]"] {
        let get = host.http.get(format!("{}/api/query{query}", host.url)).send().await.unwrap();
        assert_eq!(get.status().as_u16(), 400, "{query}");
    }
    let large = format!("{{\"path\":\"messages:list\",\"x\":\"{}\"}}", "x".repeat(18 << 20));
    refused("/api/query", &large, 413, "exceeds limit of").await;
    let revealed = host.post("/api/query", &call("messages:revealing", json!({})), &[]).await;
    assert_eq!(revealed.1["value"], "hidden");
    assert_eq!(host.stop().await, Vec::<Json>::new(), "nothing ran that logs");
}

#[tokio::test]
async fn only_valid_tokens_identify_callers() {
    let host = Served::start().await;
    let whoami = call("messages:whoami", json!({}));
    let (_, anonymous) = host.post("/api/query", &whoami, &[]).await;
    assert_eq!(anonymous["value"], Json::Null);
    let bearer = format!("Bearer {}", host.token("ada", FAR));
    let (status, body) = host.post("/api/query", &whoami, &[("authorization", &bearer)]).await;
    assert_eq!(status, 200, "{body}");
    let tokens = format!("{ISSUER}|ada");
    assert_eq!(
        body["value"],
        json!({ "issuer": ISSUER, "subject": "ada", "sub": "ada", "tokenIdentifier": tokens, "role": "reader" })
    );
    let expired = format!("Bearer {}", host.token("ada", 1));
    for (authorization, says) in [
        (expired.as_str(), "expired"),
        ("Bearer x", "not a JSON Web Token"),
        ("Bearer", "not a JSON Web Token"),
        ("Basic YTpi", "Bearer"),
        ("Convex 0123", "no admin keys"),
    ] {
        let (status, headers, body) = host
            .post_text("/api/query", whoami.to_string(), &[("authorization", authorization)])
            .await;
        assert_eq!(
            (status, &body["code"]),
            (401, &json!("Unauthenticated")),
            "{authorization}: {body}"
        );
        assert!(body["message"].as_str().unwrap().contains(says), "{authorization}: {body}");
        assert_eq!(headers["www-authenticate"], "Bearer");
    }
    let subjects: Vec<_> =
        with_action(&host.stop().await, "asked").iter().map(|log| log["subject"].clone()).collect();
    assert_eq!(subjects, [Json::Null, json!("ada")]);
}

#[tokio::test]
async fn logs_name_the_origin_of_a_call() {
    let host = Served::start().await;
    let list = call("messages:list", json!({})).to_string();
    let mut expected = Vec::new();
    for number in 1..=3 {
        let address = format!("192.0.2.{number}");
        let headers = [("x-forwarded-for", address.as_str()), ("user-agent", "curl/8")];
        let (status, headers, _) = host.post_text("/api/query", list.clone(), &headers).await;
        assert_eq!(status, 200);
        expected.push((json!(address), json!(headers["x-request-id"].to_str().unwrap())));
    }
    let records = with_action(&host.stop().await, "listed");
    let got: Vec<_> =
        records.iter().map(|log| (log["ip"].clone(), log["requestId"].clone())).collect();
    assert_eq!(got, expected);
    assert!(records.iter().all(|log| log["userAgent"] == "curl/8"));
}

#[tokio::test]
async fn results_are_withheld_without_durable_logs() {
    let (host, sink) = Served::with_memory_sink().await;
    sink.script([MemoryFault::FailBefore, MemoryFault::FailBefore]);
    for (path, body) in [
        ("/api/query", call("messages:list", json!({}))),
        ("/api/mutation", call("messages:send", json!({ "text": "a" }))),
    ] {
        let (status, headers, body) = host.post_text(path, body.to_string(), &[]).await;
        assert_eq!((status, &body["code"]), (503, &json!("AuditLogNotDurable")), "{body}");
        assert_eq!(headers["retry-after"], "1");
    }
    let (_, listed) = host.post("/api/query", &call("messages:list", json!({})), &[]).await;
    assert_eq!(listed["value"], json!([]), "nothing was committed");
}

#[tokio::test]
async fn pages_of_other_origins_may_call() {
    let host = Served::start().await;
    let preflight = host
        .http
        .request(Method::OPTIONS, format!("{}/api/query", host.url))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,convex-client");
    let response = preflight.send().await.unwrap();
    assert_eq!(response.status().as_u16(), 204);
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], "*");
    for header in ["authorization", "content-type", "convex-client"] {
        assert!(headers["access-control-allow-headers"].to_str().unwrap().contains(header));
    }
    let (_, headers, _) = host.post_text("/api/nothing", String::new(), &[]).await;
    assert_eq!(headers["access-control-allow-origin"], "*", "a page can read what went wrong");
}

#[tokio::test]
async fn operators_see_health_and_metrics() {
    let host = Served::start().await;
    host.send("a").await;
    let get = async |path: &str| {
        let base = if path == "/version" { &host.url } else { &host.operators_url };
        let response = host.http.get(format!("{base}{path}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get("/version").await, (200, env!("CARGO_PKG_VERSION").to_owned()));
    assert_eq!(get("/healthz").await, (200, r#"{"message":"ok","delivery":"ok"}"#.to_owned()));
    let (status, metrics) = get("/metrics").await;
    assert_eq!(status, 200);
    for name in
        ["audit_records_delivered_total", "functions_http_requests_total", "functions_http_seconds"]
    {
        assert!(metrics.contains(name), "{name} is in {metrics}");
    }
    assert!(metrics.contains(r#"route="/api/mutation""#), "{metrics}");
    let (memory, _) = Served::with_memory_sink().await;
    let health = memory.http.get(format!("{}/healthz", memory.operators_url)).send().await.unwrap();
    assert_eq!(health.text().await.unwrap(), r#"{"message":"ok: no bucket"}"#);
}

#[tokio::test]
async fn documents_and_records_reference_each_other() {
    let (host, sink) = Served::with_memory_sink().await;
    host.send("a").await;
    host.send("b").await;
    let find = async |query: String| {
        let url = format!("{}/receipts?{query}", host.operators_url);
        let response = host.http.get(url).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Json>().await.unwrap())
    };
    let records = sink.records();
    let is_of_mutation = |line: &[u8]| line.windows(4).any(|bytes| bytes == b"sent");
    let of_mutations = records.iter().filter(|record| is_of_mutation(&record.line));
    let mut found = Vec::new();
    for record in of_mutations {
        let (stream, sequence) = (record.stream, record.sequence);
        let (status, receipt) = find(format!("stream={stream}&sequence={sequence}")).await;
        assert_eq!((status, &receipt["sequence"]), (200, &json!(sequence)), "{receipt}");
        let [document] = &receipt["documents"].as_array().unwrap()[..] else { panic!("{receipt}") };
        let document = document.as_str().unwrap();
        assert_eq!(find(format!("document={document}")).await, (200, receipt.clone()));
        let execution = receipt["execution"].as_str().unwrap();
        assert_eq!(find(format!("execution={execution}")).await, (200, receipt.clone()));
        found.push(document.to_owned());
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 2, "{found:?}");
    for nothing in ["document=nothing", "execution=x", "stream=x&sequence=0"] {
        assert_eq!(find(nothing.to_owned()).await.0, 404);
    }
    let client = host.http.get(format!("{}/receipts?document=x", host.url)).send().await.unwrap();
    assert_eq!(client.status().as_u16(), 404, "clients are not told");
    // An operator removes old receipts.
    let remove = async |url: &str, before: &str| {
        let sent = host.http.delete(format!("{url}/receipts?{before}")).send().await.unwrap();
        (sent.status().as_u16(), sent.text().await.unwrap())
    };
    let removed = |count: u32| (200, format!(r#"{{"removed":{count}}}"#));
    assert_eq!(remove(&host.operators_url, "before=1000").await, removed(0));
    assert_eq!(remove(&host.operators_url, "").await.0, 400);
    assert_eq!(remove(&host.url, "before=32503680000000").await.0, 404, "clients remove nothing");
    assert_eq!(find(format!("document={}", found[0])).await.0, 200);
    assert_eq!(remove(&host.operators_url, "before=32503680000000").await, removed(2));
    assert_eq!(find(format!("document={}", found[0])).await.0, 404);
}
