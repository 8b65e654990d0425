//! HTTP actions: their routes, requests and responses.

use std::sync::Arc;

use audit_core::testing::{MemoryFault, MemorySink};
use functions_program::{Env, Program};
use reqwest::Method;
use serde_json::{Value as Json, json};

use crate::served::Served;
use crate::support::{logs, program};

const NOTES: &str = r#"
import { log } from "convex/server";
import { v } from "convex/values";
import { internalMutation, internalQuery, internalAction } from "./_generated/server";
export const add = internalMutation({ args: { text: v.string() }, handler: async (ctx, { text }) => {
  await log.audit({ action: "added", text, ip: log.vars.ip, agent: log.vars.userAgent, request: log.vars.requestId });
  await ctx.db.insert("notes", { text });
} });
export const failing = internalMutation(async () => { await log.audit({ action: "failing", ip: log.vars.ip }); throw new Error("no"); });
export const all = internalQuery(async (ctx) => {
  await log.audit({ action: "read", ip: log.vars.ip });
  return (await ctx.db.query("notes").collect()).map(({ text }) => text);
});
export const act = internalAction(async (ctx) => await ctx.runQuery("notes:all" as any));
"#;

const HTTP: &str = r#"
import { httpRouter, log } from "convex/server";
import { httpAction } from "./_generated/server";
const http = httpRouter();
const on = (method: any, path: string, handler: any) => http.route({ method, path, handler: httpAction(handler) });
http.route({ pathPrefix: "/files/", method: "GET", handler: httpAction(async (_ctx, r) => new Response("files " + new URL(r.url).pathname)) });
http.route({ pathPrefix: "/files/deep/", method: "GET", handler: httpAction(async () => new Response("deep")) });
on("GET", "/files/exact", async () => new Response("exact"));
on("POST", "/hook", async (ctx: any, request: Request) => {
  const { text } = await request.json();
  await ctx.runMutation("notes:add", { text });
  return new Response(null, { status: 200 });
});
on("POST", "/failing", async (ctx: any) => {
  try { await ctx.runMutation("notes:failing"); } catch { return new Response("caught", { status: 202 }); }
});
on("GET", "/notes", async (ctx: any) => Response.json([await ctx.runQuery("notes:all"), await ctx.runAction("notes:act")]));
on("POST", "/echo", async (_ctx: any, request: Request) => {
  const url = new URL(request.url);
  const body = new Uint8Array(await request.arrayBuffer());
  return new Response(body, { status: 201, headers: { "x-method": request.method, "x-query": url.search, "x-sent": request.headers.get("x-sent")!,
    "content-type": "application/octet-stream" } });
});
on("GET", "/who", async (ctx: any) => {
  const meta = await ctx.meta.getRequestMetadata();
  let user;
  try { user = (await ctx.auth.getUserIdentity())?.subject ?? null; } catch (e: any) { user = e.message.slice(0, 35); }
  return Response.json({ ip: meta.ip, userAgent: meta.userAgent, id: meta.requestId, user });
});
on("GET", "/stream", async () => {
  const stream = new TransformStream<string, string>();
  const writer = stream.writable.getWriter();
  (async () => { for (const part of ["one ", "two ", "three"]) await writer.write(part); await writer.close(); })();
  return new Response(stream.readable.pipeThrough(new TextEncoderStream()), { headers: { "content-type": "text/event-stream" } });
});
on("GET", "/breaks", async () => new Response(new ReadableStream({
  start(c) { c.enqueue(new TextEncoder().encode("begun")); }, pull() { throw new Error("secret reason"); } })));
for (const read of ["arrayBuffer", "bytes", "blob", "text", "json", "formData"])
  on("POST", `/read/${read}`, async (_ctx: any, request: any) => {
    const body = await request[read]();
    return Response.json(read === "formData" ? body.get("file").size : body.byteLength ?? body.length ?? body.size);
  });
on("POST", "/read/nothing", async () => Response.json(0));
on("POST", "/read/stream", async (_ctx: any, request: any) => {
  let length = 0;
  for await (const piece of request.body) length += piece.length;
  return Response.json(length);
});
on("GET", "/read", async () => { const used = new Response("x"); await used.text(); return used; });
on("GET", "/locked", async () => { const locked = new Response("x"); locked.body!.getReader(); return locked; });
on("GET", "/long", async () => new Response(new Uint8Array((20 << 20) + 1)));
on("GET", "/longest", async () => new Response(new Uint8Array(20 << 20)));
on("GET", "/cookies", async () => new Response("x", { headers: [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["transfer-encoding", "gzip"]] as any }));
on("GET", "/throws", async () => { throw new Error("secret reason"); });
on("GET", "/nothing", async () => undefined);
on("GET", "/logs", async () => { await log.audit({ action: "direct" }); return new Response("x"); });
on("GET", "/logs-quietly", async () => { try { await log.audit({ action: "direct" }); } catch (e: any) { return new Response(e.message); } });
on("OPTIONS", "/hook", async () => new Response(null, { status: 204, headers: { "access-control-allow-origin": "https://app.example" } }));
export default http;
"#;

async fn served() -> (Served, Arc<MemorySink>) {
    let sink = Arc::new(MemorySink::new());
    let program = program(&[("notes.ts", NOTES), ("http.ts", HTTP)]);
    (Served::with_sink(Arc::clone(&sink) as _, program).await, sink)
}

async fn ask(served: &Served, method: Method, path: &str) -> (u16, String) {
    let asked = served.http.request(method, format!("{}{path}", served.site_url)).send();
    let response = asked.await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn requests_are_routed_as_on_convex() {
    let (served, _) = served().await;
    let table = [
        (Method::GET, "/files/exact", (200, "exact")),
        (Method::GET, "/files/", (200, "files /files/")),
        (Method::GET, "/files/a/b?c=d", (200, "files /files/a/b")),
        (Method::GET, "/files/deep/x", (200, "deep")),
        (Method::GET, "/files", (404, "No HttpAction routed for /files")),
        (Method::GET, "/files/exact/", (200, "files /files/exact/")),
        (Method::POST, "/files/exact", (404, "No HttpAction routed for /files/exact")),
        (Method::HEAD, "/files/exact", (200, "")),
        (Method::GET, "/", (404, "No HttpAction routed for /")),
        (Method::GET, "/api/query", (404, "No HttpAction routed for /api/query")),
        (Method::OPTIONS, "/hook", (204, "")),
        (Method::OPTIONS, "/notes", (404, "No HttpAction routed for /notes")),
    ];
    for (method, path, (status, text)) in table {
        let found = ask(&served, method.clone(), path).await;
        assert_eq!(found, (status, text.to_owned()), "{method} {path}");
    }
    // Anybody may send any method. One that no `Request` can have is refused, and the app does not
    // fail.
    for (method, status) in
        [("TRACE", 405), ("TRACK", 405), ("trace", 405), ("PROPFIND", 404), ("get", 404)]
    {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(ask(&served, method.clone(), "/files/exact").await.0, status, "{method}");
    }
}

#[tokio::test]
async fn calls_of_http_actions_are_audited_for_their_request() {
    let (served, sink) = served().await;
    let hook = |text: &str| {
        let request = served.http.post(format!("{}/hook", served.site_url));
        let request = request.header("x-forwarded-for", "192.0.2.7").header("user-agent", "hooks");
        request.header("x-request-id", "r-1").body(json!({ "text": text }).to_string()).send()
    };
    assert_eq!(hook("hello").await.unwrap().status().as_u16(), 200);
    let added = json!({ "action": "added", "text": "hello", "ip": "192.0.2.7", "agent": "hooks", "request": "r-1" });
    assert_eq!(logs(&sink, "added"), [added]);
    let (status, text) = ask(&served, Method::POST, "/failing").await;
    assert_eq!((status, &*text), (202, "caught"));
    assert_eq!(logs(&sink, "failing"), [json!({ "action": "failing", "ip": "127.0.0.1" })]);
    for again in 1..=2 {
        let (status, text) = ask(&served, Method::GET, "/notes").await;
        assert_eq!((status, &*text), (200, "[[\"hello\"],[\"hello\"]]"));
        // One log for each release, including the action's own.
        assert_eq!(logs(&sink, "read").len(), 2 * again);
    }
    // No answer is sent and no write commits before its logs are durable.
    sink.script([MemoryFault::FailBefore, MemoryFault::FailBefore]);
    assert_eq!(hook("lost").await.unwrap().status().as_u16(), 500);
    assert_eq!(ask(&served, Method::GET, "/notes").await.0, 500);
    let (_, text) = ask(&served, Method::GET, "/notes").await;
    assert_eq!(text, "[[\"hello\"],[\"hello\"]]");
}

#[tokio::test]
async fn requests_and_responses_arrive_complete() {
    let (served, _) = served().await;
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8).collect();
    let request = served.http.post(format!("{}/echo?a=b", served.site_url)).body(bytes.clone());
    let response = request.header("x-sent", "yes").send().await.unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(response.status().as_u16(), 201);
    assert_eq!([header("x-method"), header("x-query"), header("x-sent")], ["POST", "?a=b", "yes"]);
    assert!(response.bytes().await.unwrap() == bytes);
    assert_eq!(ask(&served, Method::GET, "/stream").await, (200, "one two three".to_owned()));
    let cookies = served.http.get(format!("{}/cookies", served.site_url)).send().await.unwrap();
    let cookies: Vec<_> = cookies.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[tokio::test]
async fn http_actions_see_their_request_and_user() {
    let (served, _) = served().await;
    let who = async |authorization: &str| {
        let request = served.http.get(format!("{}/who", served.site_url));
        let request = request.header("user-agent", "test").header("authorization", authorization);
        let response = request.send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let found: Json = response.json().await.unwrap();
        assert_eq!((&found["ip"], &found["userAgent"]), (&json!("127.0.0.1"), &json!("test")));
        assert_eq!(found["id"], json!(id));
        found["user"].clone()
    };
    let token = served.token("user_1", 4_000_000_000);
    assert_eq!(who(&format!("Bearer {token}")).await, json!("user_1"));
    assert_eq!(who("Basic abc").await, json!(null));
    assert_eq!(who("Bearer abc").await, json!("the token of the request is invalid"));
}

#[tokio::test]
async fn failed_http_actions_hide_their_reason() {
    let (served, sink) = served().await;
    for path in ["/throws", "/nothing", "/logs"] {
        let (status, text) = ask(&served, Method::GET, path).await;
        assert_eq!(status, 500, "{path}");
        let body: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(body["code"], "InternalServerError", "{path}");
        let message = body["message"].as_str().unwrap();
        assert!(
            message.starts_with("the HTTP action failed; the host's log says why"),
            "{message}"
        );
        assert!(!text.contains("secret") && !text.contains(".ts"), "{text}");
    }
    let (status, text) = ask(&served, Method::GET, "/logs-quietly").await;
    assert_eq!((status, &*text), (200, "audit logging is not supported in actions"));
    assert!(logs(&sink, "direct").is_empty());
}

/// An action has memory for the largest body, however it reads the body, and if it ignores it.
#[tokio::test]
async fn the_largest_bodies_are_read_and_sent() {
    const MOST: usize = 17 << 20;
    const HEAD: &str =
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    const TAIL: &str = "\r\n--b--\r\n";
    let (served, _) = served().await;
    let post = |read: &str, body: String| {
        let request = served.http.post(format!("{}/read/{read}", served.site_url)).body(body);
        request.header("content-type", "multipart/form-data; boundary=b").send()
    };
    for read in ["arrayBuffer", "bytes", "blob", "text", "json", "formData", "stream", "nothing"] {
        let (before, after) = match read {
            "json" => ("\"", "\""),
            "formData" => (HEAD, TAIL),
            _ => ("", ""),
        };
        let length = MOST - before.len() - after.len();
        let response = post(read, format!("{before}{}{after}", "x".repeat(length))).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{read}");
        let expected = if read == "nothing" { 0 } else { length };
        assert_eq!(response.text().await.unwrap(), expected.to_string(), "{read}");
    }
    assert_eq!(post("nothing", "x".repeat(MOST + 1)).await.unwrap().status().as_u16(), 413);
    let (status, text) = ask(&served, Method::GET, "/longest").await;
    assert_eq!((status, text.len()), (200, 20 << 20));
}

/// Built-ins that an app redefines do not affect the bodies of requests and responses.
#[tokio::test]
async fn bodies_arrive_whatever_an_app_redefined() {
    let http = r#"
        import { httpRouter } from "convex/server";
        import { httpAction } from "./_generated/server";
        const http = httpRouter();
        http.route({ method: "POST", path: "/echo", handler: httpAction(async (_ctx, r) => new Response(await r.text())) });
        export default http;
        const lost = () => { throw new Error("redefined"); };
        for (const name of ["set", "subarray"]) (Uint8Array.prototype as any)[name] = lost;
        String.fromCharCode = lost;"#;
    let served =
        Served::with_sink(Arc::new(MemorySink::new()), program(&[("http.ts", http)])).await;
    // Two pieces.
    let text = "a".repeat((1 << 20) + 1);
    let asked = served.http.post(format!("{}/echo", served.site_url)).body(text.clone()).send();
    assert!(asked.await.unwrap().text().await.unwrap() == text);
}

/// A response that cannot be sent is known before it begins, so its caller learns that it failed.
#[tokio::test]
async fn responses_that_cannot_be_sent_do_not_begin() {
    let (served, _) = served().await;
    for path in ["/read", "/locked", "/long"] {
        assert_eq!(ask(&served, Method::GET, path).await.0, 500, "{path}");
    }
}

#[tokio::test]
async fn interrupted_responses_do_not_look_complete() {
    let (served, _) = served().await;
    let response = served.http.get(format!("{}/breaks", served.site_url)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    assert!(response.bytes().await.is_err());
}

/// A router whose responses name the handler and what it received.
const ROUTER: &str = r#"
import { httpRouter } from "convex/server";
import { httpAction } from "./_generated/server";
const http = httpRouter();
const answer = httpAction(async (ctx, request) => Response.json([
  "NAME", new URL(request.url).pathname, process.env.CONVEX_SITE_URL?.replace(/^.*:\d+/, "") ?? null,
  await ctx.runMutation("notes:add" as any, {}) ]));
http.route({ path: "/who", method: "GET", handler: answer });
http.route({ path: "/", method: "GET", handler: answer });
http.route({ pathPrefix: "/all/", method: "GET", handler: answer });
export default http;
"#;

const NOTE: &str = r#"
import { log } from "convex/server";
import { mutation } from "./_generated/server";
export const add = mutation(async (ctx) => {
  await log.audit({ action: "noted", by: "NAME", ip: log.vars.ip });
  await ctx.db.insert("notes", {});
  return (await ctx.db.query("notes").collect()).length;
});
"#;

/// An app with HTTP actions below `/api/`, components at `/one/`, `/one/two/` and `/`, and one with
/// HTTP actions that cannot be reached.
async fn mounted() -> (Served, Arc<MemorySink>) {
    let sink = Arc::new(MemorySink::new());
    let served = Served::with_sink(Arc::clone(&sink) as _, program(&[("notes.ts", NOTES)])).await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let configs = [
        ("", "import { defineApp } from 'convex/server'; import one from './one/convex.config'; import root from './root/convex.config';
              import hidden from './hidden/convex.config'; const app = defineApp({ httpPrefix: '/api' });
              app.use(one, { httpPrefix: '/one/' }); app.use(root, { httpPrefix: '/' }); app.use(hidden); export default app;"),
        ("one/", "import { defineComponent } from 'convex/server'; import two from '../two/convex.config';
                  const one = defineComponent('one'); one.use(two, { httpPrefix: '/two' }); export default one;"),
        ("two/", "import { defineComponent } from 'convex/server'; export default defineComponent('two');"),
        ("root/", "import { defineComponent } from 'convex/server'; export default defineComponent('root');"),
        ("hidden/", "import { defineComponent } from 'convex/server'; import two from '../two/convex.config';
                     const hidden = defineComponent('hidden'); hidden.use(two, { httpPrefix: '/two' }); export default hidden;"),
    ];
    for (place, config) in configs {
        let name = if place.is_empty() { "app" } else { place.trim_end_matches('/') };
        write(&format!("{place}convex.config.ts"), config);
        write(&format!("{place}http.ts"), &ROUTER.replace("NAME", name));
        write(&format!("{place}notes.ts"), &NOTE.replace("NAME", name));
    }
    let site = ("CONVEX_SITE_URL".to_owned(), format!("{}/", served.site_url));
    let program = Program::load(directory.path(), &Env::new([site].into(), [])).unwrap();
    served.functions.deploy(program).await.unwrap();
    (served, sink)
}

#[tokio::test]
async fn components_answer_below_their_prefixes() {
    let (served, sink) = mounted().await;
    let unrouted = |path: &str| (404, format!("No HttpAction routed for {path}"));
    let answer = |name: &str, path: &str, site: &str, count: u32| {
        (200, json!([name, path, site, count]).to_string())
    };
    let table = [
        ("/api/who", answer("app", "/api/who", "/", 1)),
        ("/one/who?x=/api/", answer("one", "/one/who", "/one", 1)),
        ("/one/two/who", answer("two", "/one/two/who", "/one/two", 1)),
        ("/one/two/all/x", answer("two", "/one/two/all/x", "/one/two", 2)),
        ("/one/", answer("one", "/one/", "/one", 2)),
        // Requests without a route in a component are passed to the next router.
        ("/one/all/two/who", answer("one", "/one/all/two/who", "/one", 3)),
        ("/all/one/x", answer("root", "/all/one/x", "", 1)),
        ("/who", answer("root", "/who", "", 2)),
        ("/", answer("root", "/", "", 3)),
        ("/one", unrouted("/one")),
        ("/one/x", unrouted("/one/x")),
        ("/hidden/who", unrouted("/hidden/who")),
        ("/two/who", unrouted("/two/who")),
        ("/api", unrouted("/api")),
        ("/onetwo/who", unrouted("/onetwo/who")),
    ];
    for (path, expected) in table {
        assert_eq!(ask(&served, Method::GET, path).await, expected, "{path}");
    }
    let by = |log: &Json| log["by"].as_str().unwrap().to_owned();
    let noted: Vec<String> = logs(&sink, "noted").iter().map(by).collect();
    assert_eq!(noted, ["app", "one", "two", "two", "one", "one", "root", "root", "root"]);
    assert!(logs(&sink, "noted").iter().all(|log| log["ip"] == "127.0.0.1"));
    // `..` in a path leads to no other route.
    let raw = ["/one/../api/who", "/api/../one/two/who"];
    for path in raw {
        let (status, text) = raw_get(&served, path).await;
        assert_eq!((status, text.contains("\"app\"")), (404, false), "{path}: {text}");
    }
}

/// Sends a request with exactly this path, whose dots an HTTP client would resolve.
async fn raw_get(served: &Served, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = served.site_url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

#[tokio::test]
async fn without_a_router_there_are_no_http_actions() {
    let served = Served::start().await;
    let (status, text) = ask(&served, Method::GET, "/").await;
    assert_eq!(status, 404);
    assert_eq!(text, "{\"code\":\"NotFound\",\"message\":\"there are no HTTP actions here\"}");
}
