//! A function of another component than the one that the caller called does not learn who the
//! caller is.

use std::sync::Arc;

use audit_core::SystemRandom;
use serde_json::{Value as Json, json};

use super::Host;
use crate::{FunctionSettings, Identity};

/// Functions of the app and of its component. Each says what it knows of the caller: the subject,
/// and in a mutation or action also the token. With `by`, it calls the first function named there,
/// with the rest as that function's `by`.
const FUNCTIONS: &str = r#"
import { createFunctionHandle } from "convex/server";
import { action, mutation, query } from "./_generated/server";
import { api, components } from "./_generated/api";
const here = async (ctx) => ({
  subject: (await ctx.auth.getUserIdentity())?.subject ?? null,
  token: (await ctx.meta.getRequestMetadata?.())?.authToken ?? null,
});
const functionOf = (place, kind) =>
  place === "app" ? api.who[kind] : place === "own" ? api.who[kind] : components.part.who[kind];
const run = (ctx, kind) =>
  ({ query: ctx.runQuery, mutation: ctx.runMutation, action: ctx.runAction })[kind];
const asked = async (ctx, { by = [], handle }) => {
  if (by.length === 0) return await here(ctx);
  const [[place, kind], ...rest] = by;
  // The component cannot name a function of the app, so it gets a handle of one.
  if (place === "back") return await run(ctx, kind)(handle, { by: rest });
  const args = { by: rest, handle: rest[0]?.[0] === "back" ? await createFunctionHandle(api.who[rest[0][1]]) : handle };
  return await run(ctx, kind)(functionOf(place, kind), args);
};
export const ofQuery = query(asked);
export const ofMutation = mutation(asked);
export const ofAction = action(asked);
export { ofQuery as query, ofMutation as mutation, ofAction as action };
"#;

async fn host() -> Host {
    let modules = tempfile::tempdir().unwrap();
    std::fs::create_dir(modules.path().join("part")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(modules.path().join(name), text).unwrap();
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
    write("who.ts", FUNCTIONS);
    write("part/who.ts", FUNCTIONS);
    Host::with_program(modules.path(), FunctionSettings::default(), SystemRandom).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_do_not_learn_who_called_the_app() {
    let host = host().await;
    let claims =
        json!({ "subject": "ada", "issuer": "https://example.com", "tokenIdentifier": "ada" });
    let identity = Arc::new(Identity::new(claims, "token".to_owned()));
    let caller = || host.caller().with_identity(Some(Arc::clone(&identity)));
    // The kinds that a function of each kind can call.
    let called: [(&str, &[&str]); 3] = [
        ("query", &["query"]),
        ("mutation", &["query", "mutation"]),
        ("action", &["query", "mutation", "action"]),
    ];
    let ways: [(&[&str], bool); 5] = [
        (&[], true),
        (&["own"], true),
        (&["part"], false),
        (&["part", "own"], false),
        (&["part", "back"], false),
    ];
    for (first, kinds) in called {
        for (kind, (way, is_known)) in kinds.iter().flat_map(|kind| ways.map(|way| (*kind, way))) {
            let by: Vec<Json> = way.iter().map(|place| json!([place, kind])).collect();
            let name = format!("who:{first}");
            let answered =
                host.functions.any(&name, &json!({ "by": by }), &caller()).await.unwrap();
            let found = answered.result.as_ref().unwrap_or_else(|failed| {
                panic!("{first} {kind} {way:?}: {}", failed.message);
            });
            let last = if way.is_empty() { first } else { kind };
            let expected = json!({
                "subject": is_known.then_some("ada"),
                "token": (is_known && last != "query").then_some("token"),
            });
            let found: Json = serde_json::from_str(found).unwrap();
            assert_eq!(found, expected, "{first} {kind} {way:?}");
        }
    }
}
