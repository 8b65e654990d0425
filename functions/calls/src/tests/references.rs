//! References to functions, as npm packages write them.

use audit_core::SystemRandom;
use serde_json::json;

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { mutation, internalQuery } from "./_generated/server";
export const one = internalQuery({ args: {}, handler: () => 1 });
export const call = mutation(async (ctx, reference) => {
  const args = JSON.stringify({ udfType: "query", args: {}, version: "1.48.0", ...reference });
  return JSON.parse(await Convex.asyncSyscall("1.0/runUdf", args));
});
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_references_are_resolved() {
    let host = Host::with_module("a.js", MODULE, FunctionSettings::default()).await;
    let long = "a".repeat(100_000);
    let cases = [
        (json!({ "name": "a:one" }), Ok("1")),
        (json!({ "reference": "_reference/function/a:one" }), Ok("1")),
        (json!({ "functionHandle": "function://;a:one" }), Ok("1")),
        (
            json!({ "reference": "_reference/function/a:two" }),
            Err("Could not find function \"a:two\""),
        ),
        (json!({ "reference": "_reference/other/a:one" }), Err("are not supported by this host")),
        (
            json!({ "reference": "_reference/childComponent/b/a/one" }),
            Err("the app uses no component \"b\""),
        ),
        (json!({}), Err("a call names no function")),
        (json!({ "name": long }), Err("characters left out")),
        (json!({ "reference": long }), Err("characters left out")),
        (
            json!({ "reference": format!("_reference/childComponent/{long}") }),
            Err("characters left out"),
        ),
        (json!({ "functionHandle": long }), Err("characters left out")),
        (
            json!({ "functionHandle": format!("function://{long};a:one") }),
            Err("characters left out"),
        ),
    ];
    for (reference, expected) in cases {
        let mutated = host.functions.mutation("a:call", &reference, &host.caller()).await.unwrap();
        match (mutated.answered.result, expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value.to_string(), expected, "{reference}"),
            (Err(failed), Err(expected)) => {
                assert!(failed.message.contains(expected), "{reference}: {}", failed.message);
                assert!(failed.message.len() < 10_000, "{}", failed.message.len());
            }
            (result, _) => panic!("{reference}: {result:?}"),
        }
    }
}

const DEFAULTS: &str = r#"
import { mutation } from "../_generated/server";
export default mutation(async (ctx) => (await ctx.meta.getFunctionMetadata()).name);
"#;

/// Clients and `getFunctionName` name a default export by its module alone. Callers that complete
/// names add its export.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_exports_are_found_by_each_of_their_names() {
    let modules = tempfile::tempdir().unwrap();
    std::fs::create_dir(modules.path().join("dir")).unwrap();
    std::fs::write(modules.path().join("a.js"), MODULE).unwrap();
    std::fs::write(modules.path().join("dir/d.js"), DEFAULTS).unwrap();
    let host = Host::with_program(modules.path(), FunctionSettings::default(), SystemRandom).await;
    let names = ["dir/d", "dir/d:default", "dir/d.js", "dir/d.js:default"];
    for name in names {
        let mutated = host.functions.mutation(name, &json!({}), &host.caller()).await.unwrap();
        assert_eq!(mutated.answered.result.unwrap().to_string(), r#""dir/d""#, "{name}");
        for reference in [
            json!({ "name": name }),
            json!({ "reference": format!("_reference/function/{name}") }),
            json!({ "functionHandle": format!("function://;{name}") }),
        ] {
            let mut call = reference.clone();
            call["udfType"] = json!("mutation");
            let mutated = host.functions.mutation("a:call", &call, &host.caller()).await.unwrap();
            let result = mutated.answered.result.unwrap().to_string();
            assert_eq!(result, r#""dir/d""#, "{reference}");
        }
    }
}
