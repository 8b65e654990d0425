//! A function whose log is refused fails, even if it catches the error.

use serde_json::{Value as Json, json};

use super::super::FunctionSettings;
use super::Host;

/// Expressions for bodies that the engine or the runtime refuses. The first needs an argument.
const BODIES: [&str; 17] = [
    "{ note }",
    "{ a: [1, { b: 5n }] }",
    "(() => { const o = {}; o.o = o; return o; })()",
    "(() => { let o = {}; for (let i = 0; i < 500; i++) o = { o }; return o; })()",
    "{ get a() { throw new Error('a getter'); } }",
    "{ a: { toJSON() { throw 1; } } }",
    "new Proxy({}, { ownKeys() { throw null; } })",
    "{ a: (() => { const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); return proxy; })() }",
    "{ a: Symbol('var.ip') }",
    "{ $a: 1 }",
    "{ a: '\\ud800' }",
    "{ a: { 'x\\ud800': 1 } }",
    "{ a: 'x'.repeat(2e6) }",
    "undefined",
    "[]",
    "log.vars.ip",
    "new Date(0)",
];

/// How a function treats the promise of `log.audit`.
const WAYS: [(&str, &str); 5] = [
    ("awaited", "await log.audit(body());"),
    ("caught", "try { await log.audit(body()); } catch {}"),
    ("handled", "log.audit(body()).catch(() => {});"),
    ("ignored", "log.audit(body());"),
    ("later", "(async () => { for (let i = 0; i < 9; i++) await null; log.audit(body()); })();"),
];

/// Arguments of direct calls of the operation, as Convex's package makes them.
const OPERATIONS: [&str; 4] = ["{}", "", "{\"body\":{\"a\":1,}}", "{\"body\":5}"];

fn module() -> String {
    let cases = BODIES.iter().map(|body| format!("(note) => ({body})")).collect::<Vec<_>>();
    let ways = WAYS.iter().map(|(_, way)| format!("async (body) => {{ {way} }}"));
    let operations = serde_json::to_string(&OPERATIONS).unwrap();
    format!(
        r#"
import {{ anyApi, log }} from "convex/server";
import {{ action, mutation, query }} from "./_generated/server";
const bodies = [{}];
const ways = [{}];
const operations = {operations};
const logs = async ({{ mark, body, way, note, isRaw }}) => {{
  await log.audit({{ mark }});
  if (isRaw) await Convex.asyncSyscall("1.0/auditLog", operations[body]).catch(() => {{}});
  else await ways[way](() => bodies[body](note));
  return "secret";
}};
export const read = query((_ctx, args) => logs(args));
export const write = mutation(async (ctx, args) => {{ await ctx.db.insert("made", {{}}); return await logs(args); }});
export const calls = mutation(async (ctx, args) => {{
  try {{ await ctx.runQuery(anyApi.logs.read, args); }} catch {{}}
  await ctx.db.insert("made", {{}});
  return "secret";
}});
export const acts = action(async (ctx, {{ args, isCaught }}) => {{
  if (isCaught) await log.audit({{}}).catch(() => {{}});
  else log.audit(args);
  return "done";
}});
export const made = query(async (ctx) => (await ctx.db.query("made").collect()).length);
"#,
        cases.join(",\n"),
        ways.collect::<Vec<_>>().join(",\n"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_logs_fail_their_function() {
    let settings = FunctionSettings::default();
    let host = Host::with_module("logs.js", &module(), settings).await;
    let raw = (0..OPERATIONS.len()).map(|body| (body, 0, true));
    let bodies =
        (0..BODIES.len()).flat_map(|body| (0..WAYS.len()).map(move |way| (body, way, false)));
    for (body, way, is_raw) in raw.chain(bodies) {
        for function in ["read", "write", "calls"] {
            let mark = format!("{function} {body} {way} {is_raw}");
            // An int64 from a client.
            let note = json!({ "$integer": "BQAAAAAAAAA=" });
            let args =
                json!({ "mark": mark, "body": body, "way": way, "isRaw": is_raw, "note": note });
            let name = format!("logs:{function}");
            let result = if function == "read" {
                let answered = host.functions.query(&name, &args, &host.caller()).await.unwrap();
                answered.result.clone()
            } else {
                let mutated = host.functions.mutation(&name, &args, &host.caller()).await.unwrap();
                mutated.answered.result
            };
            let what = if is_raw { OPERATIONS[body] } else { BODIES[body] };
            assert!(result.is_err(), "{mark} {}: {what} gave {result:?}", WAYS[way].0);
            assert_eq!(host.logs(&mark), 1, "{mark}: the earlier log is durable");
        }
    }
    let made = host.functions.query("logs:made", &json!({}), &host.caller()).await.unwrap();
    assert_eq!(made.result.as_ref().unwrap().to_string(), "0", "nothing was committed");
}

/// Actions cannot log. An action that does not catch the error fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_that_logs_without_catching_fails() {
    let settings = FunctionSettings::default();
    let host = Host::with_module("logs.js", &module(), settings).await;
    for args in [json!({ "a": 1 }), json!({ "a": { "$integer": "BQAAAAAAAAA=" } }), Json::Null] {
        let args = json!({ "args": args, "isCaught": false });
        let answered = host.functions.action("logs:acts", &args, &host.caller()).await.unwrap();
        let failed = answered.result.clone().unwrap_err();
        assert!(
            failed.message.contains("audit logging is not supported in actions"),
            "{}",
            failed.message
        );
    }
    let args = json!({ "args": {}, "isCaught": true });
    let answered = host.functions.action("logs:acts", &args, &host.caller()).await.unwrap();
    assert_eq!(answered.result.as_ref().unwrap().to_string(), "\"done\"");
}
