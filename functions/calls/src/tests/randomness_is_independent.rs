//! Ids, a function's random values, and those of the functions that it calls come from independent
//! streams: drawing from one does not change another.

use audit_core::Random;
use serde_json::{Value as Json, json};

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { anyApi } from "convex/server";
import { mutation } from "./_generated/server";
const draw = (count) => Array.from({ length: count }, (_, n) =>
  n % 3 === 0 ? crypto.randomUUID()
    : n % 3 === 1 ? String(Math.random())
    : [...crypto.getRandomValues(new Uint8Array(16))].join());
const insert = async (ctx, count) => {
  const ids = [];
  for (let n = 0; n < count; n++) ids.push(await ctx.db.insert("made", {}));
  return ids;
};
export const outer = mutation(async (ctx, { draws, inserts, calls, innerDraws }) => {
  const drawn = draw(draws);
  const ids = await insert(ctx, inserts);
  const inner = [];
  for (let n = 0; n < calls; n++) {
    inner.push(await ctx.runMutation(anyApi.random.inner, { draws: innerDraws }));
  }
  return { drawn, ids, inner };
});
export const inner = mutation(async (ctx, { draws }) => draw(draws));
"#;

/// Returns the same bits for every execution, so that executions can be compared.
#[derive(Debug)]
struct Fixed(u64);

impl Random for Fixed {
    fn next_u64(&self) -> u64 {
        self.0
    }
}

/// The random values of a mutation on a new host.
async fn outer(seed: u64, [draws, inserts, calls, inner_draws]: [usize; 4]) -> Json {
    let settings = FunctionSettings::default();
    let host = Host::with_random("random.js", MODULE, settings, Fixed(seed)).await;
    let args =
        json!({ "draws": draws, "inserts": inserts, "calls": calls, "innerDraws": inner_draws });
    let mutated = host.functions.mutation("random:outer", &args, &host.caller()).await.unwrap();
    serde_json::from_str(mutated.answered.result.unwrap().as_ref()).unwrap()
}

/// Whether the shorter list begins the longer one.
fn agree(one: &Json, other: &Json) -> bool {
    let (one, other) = (one.as_array().unwrap(), other.as_array().unwrap());
    let both = one.len().min(other.len());
    both > 0 && one[..both] == other[..both]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draws_from_one_stream_change_no_other() {
    let base = outer(7, [6, 3, 2, 6]).await;
    for amounts in [[30, 3, 2, 6], [6, 30, 2, 6], [6, 3, 8, 6], [6, 3, 2, 30], [1, 1, 1, 1]] {
        let other = outer(7, amounts).await;
        for member in ["drawn", "ids"] {
            assert!(agree(&base[member], &other[member]), "{amounts:?}: {member}");
        }
        assert!(agree(&base["inner"][0], &other["inner"][0]), "{amounts:?}: inner");
    }
    // The streams differ from each other.
    assert!(!agree(&base["drawn"], &base["inner"][0]));
    assert!(!agree(&base["inner"][0], &base["inner"][1]));
    let unlike = outer(8, [6, 3, 2, 6]).await;
    for member in ["drawn", "ids", "inner"] {
        assert!(!agree(&base[member], &unlike[member]), "{member}");
    }
}
