//! However a function ends, its logs are durable before its outcome is returned, and its writes are
//! committed only if it succeeded.

use std::sync::mpsc;

use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::super::faults::Fault;
use super::super::{Answered, CallError, FunctionSettings};
use super::Host;

/// A reason that only the operator may read.
const SECRET: &str = "/var/lib/secret: disk on fire";

const MODULE: &str = r#"
import { anyApi, log } from "convex/server";
import { action, mutation, query } from "./_generated/server";

const end = (way) => {
  if (way === "error") throw new Error("as asked");
  while (way === "time") {}
};

export const one = query(async () => 1);

// Failures of the host in here cannot be caught.
const reads = async (ctx, id) => {
  try { await reading(ctx, id); } catch {}
};

const reading = async (ctx, id) => {
  ctx.db.normalizeId("things", "x");
  await ctx.auth.getUserIdentity();
  await ctx.db.query("things").take(1);
  await ctx.db.query("things").paginate({ numItems: 1, cursor: null });
  await ctx.db.get(id);
  await ctx.runQuery(anyApi.ways.one);
};

export const read = query(async (ctx, { mark, way, id }) => {
  await log.audit({ mark });
  end(way);
  await reads(ctx, id);
  return way;
});

export const write = mutation(async (ctx, { mark, way, id }) => {
  const made = await ctx.db.insert("made", { mark });
  await log.audit({ mark });
  end(way);
  await reads(ctx, id);
  try {
    await ctx.db.patch(made, { a: 1 });
    await ctx.db.replace(made, { mark, b: 1 });
    await ctx.db.delete(await ctx.db.insert("things", {}));
    await ctx.scheduler.cancel(await ctx.scheduler.runAfter(1e6, anyApi.ways.write, {}));
  } catch {}
  return way;
});

export const made = query(async (ctx, { mark }) =>
  (await ctx.db.query("made").collect()).filter((made) => made.mark === mark).length);

export const thing = mutation((ctx) => ctx.db.insert("things", {}));

export const act = action(async (ctx, args) =>
  args.writes ? ctx.runMutation(anyApi.ways.write, args) : ctx.runQuery(anyApi.ways.read, args));
"#;

/// The operations that both functions use after they have logged.
const READS: [&str; 7] = [
    "1.0/db/normalizeId",
    "1.0/getUserIdentity",
    "1.0/queryStream",
    "1.0/queryStreamNext",
    "1.0/queryPage",
    "1.0/get",
    "1.0/runUdf",
];

/// The operations that only the mutation uses.
const WRITES: [&str; 5] =
    ["1.0/shallowMerge", "1.0/replace", "1.0/remove", "1.0/schedule", "1.0/cancel_job"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Query,
    AtTs,
    Subscription,
    ActionsQuery,
    Mutation,
    ActionsMutation,
}

impl Path {
    const ALL: [Path; 6] = [
        Path::Query,
        Path::AtTs,
        Path::Subscription,
        Path::ActionsQuery,
        Path::Mutation,
        Path::ActionsMutation,
    ];

    fn writes(self) -> bool {
        matches!(self, Path::Mutation | Path::ActionsMutation)
    }

    /// Calls the function. Returns `Ok` if a value was handed out.
    async fn call(self, host: &Host, mut args: Json) -> Result<String, String> {
        let caller = host.caller();
        let functions = &host.functions;
        let answered = match self {
            Path::Query => functions.query("ways:read", &args, &caller).await,
            Path::AtTs => {
                functions.query_at(&functions.latest(), "ways:read", &args, &caller).await
            }
            Path::Subscription => {
                let key = functions.query_key("ways:read", &args, &caller).unwrap();
                let sealed = functions.sealed_at(&functions.latest(), &key, None).await;
                sealed.release(&caller).await
            }
            Path::Mutation => {
                let mutated = functions.mutation("ways:write", &args, &caller).await;
                mutated.map(|mutated| mutated.answered.into())
            }
            Path::ActionsQuery | Path::ActionsMutation => {
                args["writes"] = self.writes().into();
                functions.action("ways:act", &args, &caller).await.map(Into::into)
            }
        };
        answered.map_err(|error: CallError| format!("{error} {error:?}")).and_then(|answered| {
            let Answered { result, .. } = &*answered;
            result.clone().map(|value| value.to_string()).map_err(|failed| failed.message)
        })
    }
}

async fn start() -> (Host, String) {
    let host = Host::with_module("ways.ts", MODULE, FunctionSettings::default()).await;
    let thing = host.functions.mutation("ways:thing", &json!({}), &host.caller()).await.unwrap();
    let id: String = serde_json::from_str(thing.answered.result.as_ref().unwrap()).unwrap();
    (host, id)
}

/// The number of committed documents with this mark.
async fn made(host: &Host, mark: &str) -> String {
    let args = json!({ "mark": mark });
    let made = host.functions.query("ways:made", &args, &host.caller()).await.unwrap();
    made.result.as_ref().unwrap().to_string()
}

/// Checks that the log is durable, and that the write is committed only with a value.
async fn check(host: &Host, path: Path, mark: &str, outcome: &Result<String, String>) {
    assert_eq!(host.logs(mark), 1, "{mark}: {outcome:?}");
    let made = made(host, mark).await;
    let expected = if path.writes() && outcome.is_ok() { "1" } else { "0" };
    assert_eq!(made, expected, "{mark}: {outcome:?}");
    if let Err(message) = outcome {
        assert!(!message.contains("secret") && !message.contains("fire"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_and_failures_are_sealed() {
    let (host, id) = start().await;
    for path in Path::ALL {
        for way in ["value", "error", "time"] {
            let mark = format!("{path:?} {way}");
            let outcome = path.call(&host, json!({ "mark": mark, "way": way, "id": id })).await;
            let is_expected = match (way, &outcome) {
                ("value", outcome) => outcome.is_ok(),
                ("time", Err(message)) => message.contains("timed out (maximum duration: "),
                (_, outcome) => outcome.is_err(),
            };
            assert!(is_expected, "{mark}: {outcome:?}");
            check(&host, path, &mark, &outcome).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_failures_and_panics_are_sealed_at_each_operation() {
    let (host, id) = start().await;
    for path in Path::ALL {
        let writes = if path.writes() { &WRITES[..] } else { &[] };
        for operation in READS.iter().chain(writes) {
            for panics in [false, true] {
                let mark = format!("{path:?} {operation} {panics}");
                let fault = if panics { Fault::Panic } else { Fault::Store(SECRET) };
                host.functions.inner.faults.script(operation, fault);
                let args = json!({ "mark": mark, "way": "value", "id": id });
                let outcome = path.call(&host, args).await;
                assert!(host.functions.inner.faults.is_over(), "{mark} did not get there");
                assert!(outcome.is_err(), "{mark}: {outcome:?}");
                check(&host, path, &mark, &outcome).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_function_is_sealed() {
    let (host, id) = start().await;
    let mut held = Vec::new();
    for path in Path::ALL {
        let mark = format!("{path:?} hangs");
        let (reached, hangs) = oneshot::channel();
        let (release, hold) = mpsc::channel();
        host.functions.inner.faults.script("1.0/get", Fault::Hang { reached, hold });
        let call = path.call(&host, json!({ "mark": mark, "way": "value", "id": id }));
        let abandon = async {
            hangs.await.unwrap();
            host.functions.inner.workers.abandon_all();
        };
        let (outcome, ()) = tokio::join!(call, abandon);
        let message = outcome.as_ref().unwrap_err();
        assert!(message.contains("timed out (maximum duration: "), "{mark}: {message}");
        check(&host, path, &mark, &outcome).await;
        held.push((release, path, mark));
    }
    for (release, path, mark) in held {
        // The thread continues without any effect.
        drop(release);
        check(&host, path, &mark, &Err(String::new())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutation_ends_even_if_its_caller_goes_away() {
    let (host, id) = start().await;
    for path in [Path::Query, Path::AtTs, Path::Subscription, Path::Mutation] {
        let mark = format!("{path:?} dropped");
        let (reached, hangs) = oneshot::channel();
        let (release, hold) = mpsc::channel();
        host.functions.inner.faults.script("1.0/get", Fault::Hang { reached, hold });
        let args = json!({ "mark": mark, "way": "value", "id": id });
        tokio::select! {
            outcome = path.call(&host, args.clone()) => panic!("{mark}: {outcome:?}"),
            reached = hangs => reached.unwrap(),
        }
        drop(release);
        if path.writes() {
            while host.logs(&mark) == 0 {
                tokio::task::yield_now().await;
            }
            while made(&host, &mark).await != "1" {
                tokio::task::yield_now().await;
            }
        } else {
            // Nothing was handed out, so nothing is logged. The next caller is logged.
            let outcome = path.call(&host, args).await;
            check(&host, path, &mark, &outcome).await;
        }
    }
}
