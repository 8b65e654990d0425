//! `fetch` in actions and HTTP actions, from the JavaScript of a function to a server and back.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use functions_calls::FunctionSettings;
use functions_fetch::FetchSettings;
use futures::StreamExt;
use futures::stream;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::served::Served;
use crate::support::{Host, failure, program, value};

const FETCHES: &str = r#"
import { v } from "convex/values";
import { action, mutation, query } from "./_generated/server";
const each = async (tests: Record<string, () => Promise<any>>) => {
  const results: any = {};
  for (const [name, test] of Object.entries(tests)) {
    try { results[name] = await test(); }
    catch (e: any) { results[name] = `${e.name}: ${e.message}` + (e.cause ? ` (${e.cause.message})` : ""); }
  }
  return results;
};
const args = { url: v.string() };
export const bodies = action({ args, handler: async (_, { url }) => each({
  text: async () => (await fetch(url + "/echo", { method: "POST", body: "héllo" })).text(),
  json: async () => (await (await fetch(url + "/json")).json()).a,
  bytes: async () => [...new Uint8Array(await (await fetch(url + "/bytes")).arrayBuffer())],
  type: async () => (await fetch(url + "/type", { method: "POST", body: new URLSearchParams({ a: "b c" }) })).text(),
  form: async () => {
    const form = new FormData();
    form.append("a", new Blob(["x"], { type: "text/plain" }), "f.txt");
    const back = await (await fetch(url + "/echo", { method: "POST", body: form })).formData();
    return (back.get("a") as File).name;
  },
  request: async () => (await fetch(new Request(url + "/echo", { method: "PUT", body: "r" }))).text(),
  stream: async () => {
    const body = new ReadableStream({ async start(c) { for (const part of ["a", "b", "c"]) c.enqueue(new TextEncoder().encode(part)); c.close(); } });
    return (await fetch(url + "/echo", { method: "POST", body, duplex: "half" } as any)).text();
  },
  large: async () => {
    const body = "0123456789".repeat(300_000);
    return (await (await fetch(url + "/echo", { method: "POST", body })).text()) === body;
  },
  pieces: async () => {
    let text = "";
    for await (const piece of (await fetch(url + "/parts")).body!.pipeThrough(new TextDecoderStream())) text += piece;
    return text;
  },
  clone: async () => { const one = await fetch(url + "/json"); const two = one.clone(); return [await one.text(), await two.text()]; },
  none: async () => { const r = await fetch(url + "/none"); return [r.status, r.body, await r.text(), r.ok]; },
  missing: async () => { const r = await fetch(url + "/missing"); return [r.status, r.ok, r.statusText, r.type, r.redirected]; },
  moved: async () => { const r = await fetch(url + "/moved"); return [r.redirected, r.url === url + "/json", (await r.json()).a]; },
  manual: async () => { const r = await fetch(url + "/moved", { redirect: "manual" }); return [r.status, r.headers.get("location")]; },
  refused: async () => { await fetch(url + "/moved", { redirect: "error" }); },
  cookies: async () => (await fetch(url + "/cookies")).headers.getSetCookie(),
  fixed: async () => { (await fetch(url + "/json")).headers.set("a", "b"); },
  together: async () => (await Promise.all([..."abcdefgh"].map(async (body) => (await fetch(url + "/echo", { method: "POST", body })).text()))).join(""),
  hops: async () => { const r = await fetch(url + "/private"); return r.status; },
}) });
export const errors = action({ args, handler: async (_, { url }) => each({
  relative: () => fetch("/a"),
  scheme: () => fetch("ftp://example.com"),
  data: () => fetch("data:,x"),
  credentials: () => fetch("http://a:b@example.com"),
  body: () => fetch(url, { body: "x" }),
  header: () => fetch(url, { headers: { x: "a\r\nb: c" } }),
  private: () => fetch("http://10.0.0.1/"),
  metadata: () => fetch("http://169.254.169.254/latest/meta-data"),
  name: () => fetch("http://localhost:1/"),
  broken: async () => (await fetch(url + "/broken")).text(),
  aborted: () => fetch(url, { signal: AbortSignal.abort() }),
  reason: () => fetch(url, { signal: AbortSignal.abort(new Error("mine")) }),
  waiting: () => { const c = new AbortController(); const r = fetch(url + "/never", { signal: c.signal }); setTimeout(() => c.abort(), 1); return r; },
  timeout: () => fetch(url + "/never", { signal: AbortSignal.timeout(1) }),
  body_aborted: async () => {
    const c = new AbortController();
    const reader = (await fetch(url + "/endless", { signal: c.signal })).body!.getReader();
    await reader.read();
    c.abort();
    await reader.read();
  },
  stream: () => fetch(url + "/echo", { method: "POST", body: new ReadableStream({ pull() { throw new Error("source"); } }), duplex: "half" } as any),
}) });
export const cancelled = action({ args, handler: async (_, { url }) => {
  const reader = (await fetch(url + "/endless")).body!.getReader();
  await reader.read();
  await reader.cancel();
  return "cancelled";
} });
export const left = action({ args, handler: async (_, { url }) => { fetch(url + "/never"); (await fetch(url + "/endless")); return "left"; } });
export const thrown = action({ args, handler: async (_, { url }) => { await fetch("http://10.0.0.1/"); } });
export const inQuery = query({ args, handler: async (_, { url }) => (await fetch(url)).status });
export const inMutation = mutation({ args, handler: async (_, { url }) => (await fetch(url)).status });
export const raw = action({ handler: async () => {
  const results = [];
  const ask = async (op: string, args: any) => { try { results.push(await (globalThis as any).Convex.asyncSyscall(op, JSON.stringify(args))); } catch (e: any) { results.push(e.message); } };
  const described = { id: 1, url: "http://10.0.0.1/", method: "GET", redirect: "follow", headers: [], body: null, isStream: false };
  await ask("host/fetch", { ...described });
  await ask("host/fetch", { ...described, url: "file:///etc/passwd" });
  await ask("host/fetch", { ...described, headers: [["a b", "c"]] });
  await ask("host/fetch", { id: 1 });
  await ask("host/fetchRead", { id: 9 });
  await ask("host/fetchSend", { id: 9, bytes: "x" });
  await ask("host/fetchOther", { id: 9 });
  return results;
} });
"#;

const HTTP: &str = r#"
import { httpRouter } from "convex/server";
import { httpAction } from "./_generated/server";
const http = httpRouter();
http.route({ path: "/through", method: "GET", handler: httpAction(async (_ctx, request) => {
  const url = new URL(request.url).searchParams.get("url")!;
  const { body, headers } = await fetch(url);
  return new Response(body, { headers });
}) });
export default http;
"#;

async fn respond(request: Request, gone: mpsc::UnboundedSender<&'static str>) -> Response {
    /// Signals that the client has disconnected.
    struct Told(mpsc::UnboundedSender<&'static str>, &'static str);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }
    let moved =
        |to: &'static str| (axum::http::StatusCode::FOUND, [("location", to)]).into_response();
    match request.uri().path() {
        "/echo" => {
            let headers = request.headers().get("content-type").cloned();
            let mut response = request.into_body().into_response();
            if let Some(kind) = headers {
                response.headers_mut().insert("content-type", kind);
            }
            response
        }
        "/type" => format!("{:?}", request.headers()["content-type"]).into_response(),
        "/json" => "{\"a\":1}".into_response(),
        "/bytes" => vec![0_u8, 128, 255].into_response(),
        "/parts" => {
            let parts =
                ["one ", "t\u{e4}", "three"].map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
            Body::from_stream(stream::iter(parts)).into_response()
        }
        "/none" => axum::http::StatusCode::NO_CONTENT.into_response(),
        "/moved" => moved("/json"),
        "/private" => moved("http://127.0.0.2/"),
        "/cookies" => axum::response::AppendHeaders([("set-cookie", "a=1"), ("set-cookie", "b=2")])
            .into_response(),
        "/broken" => {
            let parts = [Ok(Bytes::from("begun")), Err(std::io::Error::other("broken"))];
            Body::from_stream(stream::iter(parts)).into_response()
        }
        "/never" => {
            let _told = Told(gone, "never");
            std::future::pending().await
        }
        "/endless" => {
            let told = Told(gone, "endless");
            let pieces = stream::repeat(Bytes::from(vec![b'x'; 1_000]));
            let pieces = pieces.map(move |piece| {
                let _ = &told;
                Ok::<_, std::io::Error>(piece)
            });
            Body::from_stream(pieces).into_response()
        }
        _ => axum::http::StatusCode::NOT_FOUND.into_response(),
    }
}

/// A server, and a channel that reports disconnected clients.
async fn site() -> (String, mpsc::UnboundedReceiver<&'static str>) {
    let (gone, is_gone) = mpsc::unbounded_channel();
    let router =
        Router::new().fallback(any(move |request: Request| respond(request, gone.clone())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, is_gone)
}

fn settings() -> FunctionSettings {
    let networks = vec!["127.0.0.1/32".parse().unwrap()];
    let fetch = FetchSettings { networks, ..FetchSettings::default() };
    FunctionSettings { fetch, ..FunctionSettings::default() }
}

async fn host() -> Host {
    Host::start(program(&[("fetches.ts", FETCHES)]), settings()).await
}

fn check(found: &Json, expected: &Json) {
    let expected = expected.as_object().unwrap();
    let names: Vec<_> = expected.keys().filter(|name| found[*name] != expected[*name]).collect();
    let shown = |name: &&String| format!("{name}: {} instead of {}", found[*name], expected[*name]);
    assert!(names.is_empty(), "{:#?}", names.iter().map(shown).collect::<Vec<_>>());
    assert_eq!(found.as_object().unwrap().len(), expected.len());
}

#[tokio::test]
async fn fetch_works_as_in_other_runtimes() {
    let (url, _) = site().await;
    let answered = host().await.action("fetches:bodies", json!({ "url": url })).await.unwrap();
    let private = "127.0.0.2 is not a public address, and this host's settings do not allow it";
    check(
        &value(&answered),
        &json!({
            "text": "h\u{e9}llo", "json": 1, "bytes": [0, 128, 255],
            "type": "\"application/x-www-form-urlencoded;charset=UTF-8\"", "form": "f.txt", "request": "r",
            "stream": "abc", "large": true, "pieces": "one t\u{e4}three", "clone": ["{\"a\":1}", "{\"a\":1}"],
            "none": [204, null, "", true], "missing": [404, false, "Not Found", "basic", false],
            "moved": [true, true, 1], "manual": [302, "/json"],
            "refused": "TypeError: fetch failed (the response is a redirect (status 302), and redirect is \"error\")",
            "cookies": ["a=1", "b=2"],
            "fixed": "TypeError: Headers: these cannot be changed; make new ones of them",
            "together": "abcdefgh", "hops": format!("TypeError: fetch failed ({private})"),
        }),
    );
}

#[tokio::test]
async fn failed_fetches_give_their_reason() {
    let (url, _) = site().await;
    let host = host().await;
    let answered = host.action("fetches:errors", json!({ "url": url })).await.unwrap();
    let mut found = value(&answered);
    let broken = found["broken"].take();
    let expected =
        format!("TypeError: fetch failed (the connection to {}", url.trim_start_matches("http://"));
    assert!(broken.as_str().unwrap().starts_with(&expected), "{broken}");
    let private = |host: &str| {
        format!(
            "TypeError: fetch failed ({host} is not a public address, and this host's settings do not allow it)"
        )
    };
    check(
        &found,
        &json!({
            "relative": "TypeError: Invalid URL: '/a'",
            "scheme": "TypeError: fetch failed (only http: and https: can be fetched, not ftp:)",
            "data": "TypeError: fetch failed (only http: and https: can be fetched, not data:)",
            "credentials": "TypeError: Request: a URL must not contain a user name or password",
            "body": "TypeError: Request: one with GET has no body",
            "header": "TypeError: Headers: a value has characters that it must not have",
            "private": private("10.0.0.1"), "metadata": private("169.254.169.254"), "broken": null,
            // The name resolves to 127.0.0.1, which is allowed.
            "name": "TypeError: fetch failed (port 1 is blocked: it is that of another protocol)",
            "aborted": "AbortError: This operation was aborted", "reason": "Error: mine",
            "waiting": "AbortError: This operation was aborted", "timeout": "TimeoutError: The operation timed out.",
            "body_aborted": "AbortError: This operation was aborted",
            "stream": "TypeError: fetch failed (source)",
        }),
    );
    let failed = failure(&host.action("fetches:thrown", json!({ "url": url })).await.unwrap());
    let expected = "Uncaught TypeError: fetch failed (cause: 10.0.0.1 is not a public address, and this host's settings do not allow it)";
    assert!(failed.starts_with(expected), "{failed}");
}

#[tokio::test]
async fn queries_and_mutations_cannot_fetch() {
    let host = host().await;
    let expected = "fetch() is for actions only: a query or mutation cannot reach outside; call it in an action";
    let args = json!({ "url": "http://example.com" });
    let query = failure(&host.query("fetches:inQuery", args.clone()).await.unwrap());
    let mutation = failure(&host.mutation("fetches:inMutation", args).await.unwrap().answered);
    for failed in [query, mutation] {
        assert!(failed.contains(expected), "{failed}");
    }
}

#[tokio::test]
async fn fetches_end_with_their_action() {
    let (url, mut is_gone) = site().await;
    let host = host().await;
    let args = json!({ "url": url });
    assert_eq!(value(&host.action("fetches:cancelled", args.clone()).await.unwrap()), "cancelled");
    assert_eq!(is_gone.recv().await, Some("endless"));
    assert_eq!(value(&host.action("fetches:left", args).await.unwrap()), "left");
    let mut ended = [is_gone.recv().await.unwrap(), is_gone.recv().await.unwrap()];
    ended.sort_unstable();
    assert_eq!(ended, ["endless", "never"]);
}

/// The JavaScript side is no security boundary: a function can send the host any request.
#[tokio::test]
async fn hostile_requests_from_javascript_are_refused() {
    let found = value(&host().await.action("fetches:raw", json!({})).await.unwrap());
    let expected = [
        "10.0.0.1 is not a public address, and this host's settings do not allow it",
        "only http: and https: can be fetched, not file:",
        "the name of a header is invalid",
        "missing field `url`",
        "no such fetch is open",
        "Invalid last symbol 120, offset 0.",
        "host/fetchOther is not an operation of fetch",
    ];
    assert_eq!(found.as_array().unwrap().len(), expected.len());
    for (found, expected) in found.as_array().unwrap().iter().zip(expected) {
        let is_base64 = expected.contains("symbol");
        assert!(found == expected || is_base64, "{found} instead of {expected}");
    }
}

#[tokio::test]
async fn http_actions_forward_responses() {
    let (url, mut is_gone) = site().await;
    let served = Served::with_settings(program(&[("http.ts", HTTP)]), settings()).await;
    let through =
        |path: &str| served.http.get(format!("{}/through?url={url}{path}", served.site_url)).send();
    let response = through("/parts").await.unwrap();
    assert_eq!(response.text().await.unwrap(), "one t\u{e4}three");
    // When a client disconnects, the fetch that serves it is cancelled.
    let mut response = through("/endless").await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    assert_eq!(is_gone.recv().await, Some("endless"));
}
