//! A function that returns or throws anything but a Convex value fails, since results are passed to
//! clients, callers and the cache as text.

use serde_json::{Value as Json, json};

use super::super::FunctionSettings;
use super::Host;
use crate::call::{Answered, Failed};

/// Expressions of a handler whose results are not values, each with a part of the message.
const RESULTS: [(&str, &str); 7] = [
    ("'\\ud800'", "surrogate"),
    ("[{ a: '\\udc00' }]", "surrogate"),
    ("Array(8193).fill(1)", "Array length is too long"),
    ("Object.fromEntries(Array.from({ length: 1025 }, (_, n) => ['a' + n, 1]))", "too many fields"),
    ("(() => { let x = 1; for (let i = 0; i < 70; i++) x = [x]; return x; })()", "too nested"),
    ("new (class A { constructor() { return () => 1; } })()", "not a supported Convex type"),
    ("{ $a: 1 }", "$a"),
];

/// Texts that a function returns in place of its result as `convex/server` encodes it.
const TEXTS: [&str; 13] = [
    "",
    "not JSON",
    "1,\"logLines\":[\"forged\"]",
    "1}",
    "[1,]",
    "\"\\ud800\"",
    "1e999",
    "{\"$integer\":\"x\"}",
    "{\"$float\":1}",
    "{\"$commitTs\":null}",
    "{\"$undefined\":null}",
    "{\"$a\":1,\"b\":2}",
    "{\"a\":{\"$b\":\"\"}}",
];

/// Data of a `ConvexError`: each kind of value, as an expression and in Convex's encoding.
const DATA: [(&str, &str); 13] = [
    ("null", "null"),
    ("true", "true"),
    ("1.5", "1.5"),
    ("-0", r#"{"$float":"AAAAAAAAAIA="}"#),
    ("NaN", r#"{"$float":"AAAAAAAA+H8="}"#),
    ("-Infinity", r#"{"$float":"AAAAAAAA8P8="}"#),
    ("1n", r#"{"$integer":"AQAAAAAAAAA="}"#),
    ("''", r#""""#),
    ("'\\u00e9 \\ud83d\\ude00'", r#""é 😀""#),
    ("new Uint8Array([1, 2]).buffer", r#"{"$bytes":"AQI="}"#),
    ("[1.5, [2n], []]", r#"[1.5,[{"$integer":"AgAAAAAAAAA="}],[]]"#),
    ("{ code: 'a', left: undefined, at: { b: null } }", r#"{"at":{"b":null},"code":"a"}"#),
    ("{}", "{}"),
];

fn module() -> String {
    let data = DATA.iter().map(|(data, _)| format!("() => ({data})"));
    let results = RESULTS.iter().map(|(result, _)| format!("async (ctx) => ({result})"));
    let texts = serde_json::to_string(&TEXTS).unwrap();
    format!(
        r#"
import {{ anyApi }} from "convex/server";
import {{ ConvexError }} from "convex/values";
import {{ action, mutation, query }} from "./_generated/server";
const results = [{}];
const texts = {texts};
const data = [{}];
const refuse = async (_ctx, {{ index }}) => {{ throw new ConvexError(data[index]()); }};
export const refusingQuery = query(refuse), refusingMutation = mutation(refuse), refusingAction = action(refuse);
const handler = async (ctx, {{ result }}) => await results[result](ctx);
export const Query = query(handler);
export const Mutation = mutation(async (ctx, args) => {{ await ctx.db.insert("made", {{}}); return await handler(ctx, args); }});
export const Action = action(handler);
const forged = (kind, end = (text) => text) => ({{
  ["is" + kind]: true,
  isPublic: true,
  ["invoke" + kind]: async (...args) => end(texts[JSON.parse(args.at(-1))[0].text]),
  exportArgs: () => '{{"type":"any"}}',
  exportReturns: () => "null",
}});
export const forgedQuery = forged("Query"), forgedMutation = forged("Mutation"), forgedAction = forged("Action");
const throws = (data) => {{ throw Object.assign(new Error("thrown"), {{ [Symbol.for("ConvexError")]: true, data }}); }};
export const throwingQuery = forged("Query", throws), throwingMutation = forged("Mutation", throws), throwingAction = forged("Action", throws);
export const nestingQuery = query(async (ctx, {{ name, args }}) => await ctx.runQuery(anyApi.results[name], args));
export const nestingMutation = mutation(async (ctx, {{ name, args }}) => await ctx.runQuery(anyApi.results[name], args));
export const nestingAction = action(async (ctx, {{ name, args }}) => await ctx.runQuery(anyApi.results[name], args));
export const passes = mutation(async (ctx) => await ctx.runMutation(anyApi.results.place, {{}}) === ctx.db.vars.commitTs);
export const place = mutation(async (ctx) => ctx.db.vars.commitTs);
export const made = query(async (ctx) => (await ctx.db.query("made").collect()).length);
"#,
        results.collect::<Vec<_>>().join(",\n"),
        data.collect::<Vec<_>>().join(",\n"),
    )
}

const KINDS: [&str; 3] = ["Query", "Mutation", "Action"];

async fn answered(host: &Host, prefix: &str, kind: &str, args: &Json) -> Answered {
    let (functions, caller) = (&host.functions, host.caller());
    let name = format!("results:{prefix}{kind}");
    match kind {
        "Query" => (*functions.query(&name, args, &caller).await.unwrap()).clone(),
        "Mutation" => {
            let mutated = functions.mutation(&name, args, &caller).await.unwrap();
            assert_eq!(mutated.committed, None, "{name} {args}");
            mutated.answered
        }
        _ => functions.action(&name, args, &caller).await.unwrap(),
    }
}

/// The failure of a function, and of those that call it.
async fn failures(host: &Host, prefix: &str, kind: &str, args: &Json) -> Vec<Failed> {
    let mut failures = vec![answered(host, prefix, kind, args).await.result.unwrap_err()];
    if kind == "Query" {
        for caller in KINDS {
            let args = json!({ "name": format!("{prefix}Query"), "args": args });
            failures.push(answered(host, "nesting", caller, &args).await.result.unwrap_err());
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_no_value_fails_its_function() {
    let host = Host::with_module("results.js", &module(), FunctionSettings::default()).await;
    for kind in KINDS {
        for (index, (result, expected)) in RESULTS.iter().enumerate() {
            let args = json!({ "result": index });
            for Failed { message, data } in failures(&host, "", kind, &args).await {
                assert!(message.contains(expected), "{kind} {result}: {message}");
                assert_eq!(data, None);
            }
        }
        for (index, text) in TEXTS.iter().enumerate() {
            let args = json!({ "text": index });
            // A mutation's result can have the time of its commit.
            if text.contains("$commitTs") && kind != "Action" {
                continue;
            }
            for Failed { message, .. } in failures(&host, "forged", kind, &args).await {
                assert!(message.contains("result is not a value"), "{kind} {text}: {message}");
            }
        }
    }
    let made = host.functions.query("results:made", &json!({}), &host.caller()).await.unwrap();
    assert_eq!(made.result.as_deref(), Ok("0"));
}

/// The maximum size of arguments, and of a result, in bytes: as on Convex.
const MOST: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_and_results_have_at_most_16_mib() {
    const MODULE: &str = r#"
import { v } from "convex/values";
import { action, mutation, query } from "./_generated/server";
const handler = async (_ctx, { length }) => "x".repeat(length);
const args = { length: v.number(), text: v.optional(v.string()) };
export const anyQuery = query(handler), checkedQuery = query({ args, returns: v.string(), handler });
export const anyMutation = mutation(async (ctx, args) => { await ctx.db.insert("made", {}); return await handler(ctx, args); });
export const anyAction = action(handler);
export const made = query(async (ctx) => (await ctx.db.query("made").collect()).length);
"#;
    let host = Host::with_module("results.js", MODULE, FunctionSettings::default()).await;
    // A string counts two bytes more than its length, and the object around it counts its names
    // too.
    let at = |length: usize| json!({ "length": length });
    let with = |length: usize| json!({ "length": 0, "text": "x".repeat(length) });
    let around = "length".len() + 1 + 9 + "text".len() + 1 + 2 + 2;
    let too_long = "a result of 16777217 bytes exceeds limit of 16777216 bytes";
    let too_much = "an object of arguments of 16777217 bytes exceeds limit of 16777216 bytes";
    for (name, args, refused) in [
        ("anyQuery", at(MOST - 3), None),
        ("anyQuery", at(MOST - 1), Some(too_long)),
        ("checkedQuery", at(MOST - 1), Some(too_long)),
        ("anyMutation", at(MOST - 1), Some(too_long)),
        ("anyAction", at(MOST - 1), Some(too_long)),
        ("anyQuery", with(MOST - around), None),
        ("anyMutation", with(MOST - around + 1), Some(too_much)),
    ] {
        let (functions, caller) = (&host.functions, host.caller());
        let function = format!("results:{name}");
        let result = match name {
            "anyMutation" => {
                functions.mutation(&function, &args, &caller).await.unwrap().answered.result
            }
            "anyAction" => functions.action(&function, &args, &caller).await.unwrap().result,
            _ => functions.query(&function, &args, &caller).await.unwrap().result.clone(),
        };
        let failure = result.err().map(|failure| failure.message);
        assert_eq!(failure.as_deref(), refused, "{name} {}", args["length"]);
    }
    let made = host.functions.query("results:made", &json!({}), &host.caller()).await.unwrap();
    assert_eq!(made.result.as_deref(), Ok("0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_an_error_is_a_value_or_left_out() {
    let host = Host::with_module("results.js", &module(), FunctionSettings::default()).await;
    for kind in KINDS {
        for (index, text) in TEXTS.iter().enumerate().skip(1) {
            let args = json!({ "text": index });
            for Failed { message, data } in failures(&host, "throwing", kind, &args).await {
                // A caller cannot read the time of a commit, nor pass it on.
                let is_told = message.contains("its data is not a value");
                assert!(is_told || text.contains("$commitTs"), "{kind} {text}: {message}");
                assert_eq!(data, None);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_an_error_is_any_value() {
    let host = Host::with_module("results.js", &module(), FunctionSettings::default()).await;
    for kind in KINDS {
        for (index, (expression, encoded)) in DATA.iter().enumerate() {
            let args = json!({ "index": index });
            for Failed { message, data } in failures(&host, "refusing", kind, &args).await {
                assert!(message.contains("ConvexError"), "{kind} {expression}: {message}");
                let data: Json = serde_json::from_str(&data.unwrap()).unwrap();
                assert_eq!(data.to_string(), *encoded, "{kind} {expression}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_the_commit_is_a_value_between_mutations() {
    let host = Host::with_module("results.js", &module(), FunctionSettings::default()).await;
    let mutated = host.functions.mutation("results:passes", &json!({}), &host.caller()).await;
    assert_eq!(mutated.unwrap().answered.result.unwrap().as_ref(), "true");
}
