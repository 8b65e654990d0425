//! Arguments of `paginate` and `runAt` are checked as on Convex.

use audit_core::SystemRandom;
use serde_json::json;

use super::Host;
use crate::FunctionSettings;

const APP: &str = r#"
import { query, mutation } from "./_generated/server";
import { api, components } from "./_generated/api";
const pages = (ctx, options) => ctx.db.query("things").paginate({ cursor: null, ...options });
export const page = query(async (ctx, { options }) => (await pages(ctx, options)).page.length);
export const twice = query(async (ctx) => {
  await pages(ctx, { numItems: 1 });
  return (await pages(ctx, { numItems: 1 })).page.length;
});
export const nested = query(async (ctx) => {
  await ctx.runQuery(api.app.page, { options: { numItems: 1 } });
  return await ctx.runQuery(api.app.page, { options: { numItems: 1 } });
});
export const inComponent = query(async (ctx) => await ctx.runQuery(components.part.pages.page, {}));
export const goOver = mutation(async (ctx, { fn }) => await ctx.runMutation(components.part.pages[fn], {}));
export const later = mutation(async (ctx, { ms }) => {
  await ctx.scheduler.runAt(Date.now() + ms, api.app.nothing, {});
  return null;
});
export const nothing = mutation(async () => null);
"#;

const COMPONENT: &str = r#"
import { mutation, query } from "./_generated/server";
import { api } from "./_generated/api";
export const goOver = mutation(async (ctx) => {
  for (let i = 0; i < 3; i++) await ctx.db.insert("things", {});
  const { page, continueCursor } = await ctx.db.query("things").paginate({ cursor: null, numItems: 2 });
  return page.length + (await ctx.runMutation(api.pages.rest, { cursor: continueCursor }));
});
export const rest = mutation(async (ctx, { cursor }) =>
  (await ctx.db.query("things").paginate({ cursor, numItems: 2 })).page.length);
export const asks = mutation(async (ctx) => await ctx.runQuery(api.pages.page, {}));
export const page = query(async (ctx) =>
  (await ctx.db.query("things").paginate({ cursor: null, numItems: 1 })).page.length);
"#;

const YEAR_MS: i64 = 365 * 24 * 3_600 * 1_000;

async fn host() -> Host {
    let modules = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = modules.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("app.ts", APP);
    write(
        "convex.config.ts",
        r#"import { defineApp } from "convex/server";
import part from "./part/convex.config";
const app = defineApp();
app.use(part);
export default app;"#,
    );
    write(
        "part/convex.config.ts",
        r#"import { defineComponent } from "convex/server"; export default defineComponent("part");"#,
    );
    write("part/pages.ts", COMPONENT);
    Host::with_program(modules.path(), FunctionSettings::default(), SystemRandom).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_refused_where_convex_refuses_them() {
    let host = host().await;
    let cases = [
        ("app:page", json!({ "options": { "numItems": 1 } }), None),
        ("app:page", json!({ "options": { "numItems": 1, "maximumRowsRead": 1 } }), None),
        ("app:nested", json!({}), None),
        (
            "app:page",
            json!({ "options": { "numItems": 0 } }),
            Some("numItems must be a whole number from 1, but got 0"),
        ),
        ("app:page", json!({ "options": { "numItems": 1.5 } }), Some("whole number from 1")),
        (
            "app:page",
            json!({ "options": { "numItems": 1, "maximumRowsRead": 0 } }),
            Some("maximumRowsRead must be a whole number from 1, but got 0"),
        ),
        ("app:page", json!({ "options": { "numItems": 1, "endCursor": null } }), None),
        (
            "app:page",
            json!({ "options": { "numItems": 1, "cursor": 5 } }),
            Some("cursor must be a string or null, but got 5"),
        ),
        (
            "app:page",
            json!({ "options": { "numItems": 1, "endCursor": {} } }),
            Some("endCursor must be a string or null, but got {}"),
        ),
        ("app:twice", json!({}), Some("a function can call paginate() once")),
        ("app:inComponent", json!({}), Some("not supported in a component's queries")),
    ];
    for (function, args, refused) in cases {
        let answered = host.functions.query(function, &args, &host.caller()).await.unwrap();
        match (refused, &answered.result) {
            (None, Ok(_)) => {}
            (Some(refused), Err(failure)) => {
                assert!(failure.message.contains(refused), "{function} {args}: {failure:?}");
            }
            (_, result) => panic!("{function} {args}: {result:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutations_of_components_go_over_their_tables() {
    let host = host().await;
    for (function, expected) in [("goOver", Some("3")), ("asks", None)] {
        let args = json!({ "fn": function });
        let ran = host.functions.mutation("app:goOver", &args, &host.caller()).await.unwrap();
        let result = ran.answered.result.as_ref().map(|value| &**value).ok();
        assert_eq!(result, expected, "{function}: {:?}", ran.answered.result);
    }
}

/// Errors name what is wrong in the words of functions, not of the host's operations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_operations_say_what_is_wrong() {
    let half = "not JSON, or text with half a surrogate pair";
    let no_job = "there is no scheduled function with the id";
    let cases = [
        (
            "async () => await ctx.runQuery(api.app.act, {})",
            "app:act is an action and was called as a query",
        ),
        (
            "async () => await ctx.runMutation(api.app.page, {})",
            "app:page is a query and was called as a mutation",
        ),
        ("async () => await ctx.scheduler.cancel('x')", no_job),
        ("async () => await ctx.scheduler.cancel(await ctx.db.insert('things', {}))", no_job),
        ("async () => await ctx.db.insert('things', { text: '\\ud800' })", half),
        ("async () => await ctx.runQuery(api.app.page, { text: '\\ud800' })", half),
        ("async () => await ctx.scheduler.runAfter(0, api.app.nothing, { a: '\\udfff' })", half),
        (
            "async () => await ctx.db.query('things').filter((q) => q.eq('\\ud800', 1)).collect()",
            half,
        ),
        ("async () => ctx.db.normalizeId('things', '\\ud800')", half),
    ];
    let tries: Vec<_> = cases.iter().map(|(tried, _)| *tried).collect();
    let module = format!(
        r#"
import {{ action, mutation, query }} from "./_generated/server";
import {{ api }} from "./_generated/api";
export const page = query(async () => null), act = action(async () => null), nothing = mutation(async () => null);
export const attempt = mutation(async (ctx, {{ index }}) => {{
  try {{ await [{}][index](); }} catch (error) {{ return error.message; }}
}});
"#,
        tries.join(",\n")
    );
    let host = Host::with_module("app.js", &module, FunctionSettings::default()).await;
    for (index, (tried, expected)) in cases.iter().enumerate() {
        let args = json!({ "index": index });
        let ran = host.functions.mutation("app:attempt", &args, &host.caller()).await.unwrap();
        let message = ran.answered.result.unwrap();
        assert!(message.contains(expected), "{tried}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_are_scheduled_within_five_years() {
    let host = host().await;
    let cases = [
        (0, None),
        (-4 * YEAR_MS, None),
        (4 * YEAR_MS, None),
        (-6 * YEAR_MS, Some("five years in the past")),
        (6 * YEAR_MS, Some("five years ahead")),
    ];
    for (ms, refused) in cases {
        let args = json!({ "ms": ms });
        let committed = host.functions.mutation("app:later", &args, &host.caller()).await.unwrap();
        match (refused, &committed.answered.result) {
            (None, Ok(_)) => {}
            (Some(refused), Err(failure)) => {
                assert!(failure.message.contains(refused), "{ms}: {failure:?}");
            }
            (_, result) => panic!("{ms}: {result:?}"),
        }
    }
}
