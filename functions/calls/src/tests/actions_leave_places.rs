//! Actions may run for minutes, so no client takes the places of all of them.

use serde_json::json;

use super::super::{CallError, Caller, FunctionSettings};
use super::Host;

const MODULE: &str = r#"
import { log } from "convex/server";
import { anyApi } from "convex/server";
import { action, mutation, query } from "./_generated/server";
export const began = mutation(async () => { await log.audit({ mark: "began" }); });
export const end = mutation(async (ctx) => { await ctx.db.insert("ended", {}); });
export const ended = query(async (ctx) => (await ctx.db.query("ended").first()) !== null);
export const wait = action(async (ctx) => {
  await ctx.runMutation(anyApi.places.began, {});
  while (!(await ctx.runQuery(anyApi.places.ended, {})));
});
export const nests = action(async (ctx, { levels }) => {
  if (levels > 0) await ctx.runAction(anyApi.places.nests, { levels: levels - 1 });
});
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_leaves_actions_to_others() {
    let settings = FunctionSettings { max_actions: 8, ..FunctionSettings::default() };
    let host = Host::with_module("places.js", MODULE, settings).await;
    let functions = &host.functions;
    let of = |address: [u8; 4]| {
        Caller::anonymous(functions.runtime().new_request().with_ip(address.into()))
    };
    let (flooding, other) = (of([192, 0, 2, 1]), of([192, 0, 2, 2]));
    let waiting = (0..4).map(|_| {
        let (functions, caller) = (functions.clone(), flooding.clone());
        tokio::spawn(async move { functions.action("places:wait", &json!({}), &caller).await })
    });
    let waiting: Vec<_> = waiting.collect();
    while host.logs("began") < 4 {
        tokio::task::yield_now().await;
    }
    let nests = async |caller: &Caller, levels: u32| {
        let args = json!({ "levels": levels });
        functions.action("places:nests", &args, caller).await.map(|answered| answered.result)
    };
    let refused = nests(&flooding, 0).await.unwrap_err();
    assert!(matches!(&refused, CallError::Overloaded(why) if why.contains("this address")));
    assert!(nests(&other, 1).await.unwrap().is_ok());
    let failed = nests(&other, 2).await.unwrap().unwrap_err();
    assert!(failed.message.contains("this address runs as many actions"), "{}", failed.message);

    functions.mutation("places:end", &json!({}), &flooding).await.unwrap();
    for waiting in waiting {
        assert!(waiting.await.unwrap().unwrap().result.is_ok());
    }
    assert!(nests(&flooding, 3).await.unwrap().is_ok());
}
