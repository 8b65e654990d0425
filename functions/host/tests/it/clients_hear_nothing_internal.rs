//! Messages to clients reveal nothing internal: no paths, buckets or providers' texts.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex};

use audit_core::{AuditSink, Batch, Outcome, Receipt, SinkError, SinkErrorKind, async_trait};
use serde_json::{Value as Json, json};

use crate::served::{Served, Socket};
use crate::support::program;

/// Texts that no client may see.
const MARKER: &str = "s3://secret-bucket/prefix";

const MODULE: &str = r#"
import { log } from "convex/server";
import { v } from "convex/values";
import { api } from "./_generated/api";
import { action, mutation, query } from "./_generated/server";

export const seen = query({
  args: {},
  handler: async (ctx) => {
    await log.audit({ action: "seen" });
    return (await ctx.db.query("things").collect()).length;
  },
});

export const write = mutation({
  args: {},
  handler: async (ctx) => {
    await ctx.db.insert("things", {});
    await log.audit({ action: "written" });
  },
});

const all = (error) => {
  console.log(error, error.stack);
  return [String(error), error.message, error.stack, String(error.cause), JSON.stringify(error)];
};

export const caught = action({
  args: {},
  handler: async (ctx) => {
    const heard = [];
    for (const call of [
      () => ctx.runQuery(api.f.seen, {}),
      () => ctx.runMutation(api.f.write, {}),
      () => ctx.runAction(api.f.uncaught, {}),
    ]) {
      try {
        await call();
        heard.push("nothing was thrown");
      } catch (error) {
        heard.push(all(error));
      }
    }
    return heard;
  },
});

export const uncaught = action({
  args: {},
  handler: async (ctx) => ctx.runMutation(api.f.write, {}),
});

// Logs nothing, so that it commits even if the sink fails.
export const plan = mutation({
  args: {},
  handler: async (ctx) => { await ctx.scheduler.runAfter(0, api.f.uncaught, {}); },
});

export const planned = query({
  args: {},
  handler: async (ctx) => ctx.db.system.query("_scheduled_functions").collect(),
});
"#;

/// Fails as scripted, with a marker in the text of each error.
#[derive(Debug)]
struct Telling(Mutex<(SinkErrorKind, Outcome)>);

#[derive(Debug)]
struct Beneath;

impl fmt::Display for Beneath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessDenied at {MARKER} by /var/lib/journal")
    }
}

impl Error for Beneath {}

impl fmt::Display for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARKER)
    }
}

#[async_trait]
impl AuditSink for Telling {
    async fn persist(&self, _batch: Batch) -> Result<Receipt, SinkError> {
        let (kind, outcome) = *self.0.lock().unwrap();
        let message = format!("no answer of {MARKER}");
        let error = match outcome {
            Outcome::NotPersisted => SinkError::not_persisted(kind, message),
            Outcome::Indeterminate => SinkError::indeterminate(kind, message),
        };
        Err(error.with_source(Beneath))
    }

    async fn flush(&self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Calls every kind of function over every transport, and returns all texts that the host sent.
async fn heard(served: &Served) -> Vec<(String, String)> {
    let mut heard = Vec::new();
    let calls = [
        ("/api/query", "f:seen"),
        ("/api/mutation", "f:write"),
        ("/api/action", "f:caught"),
        ("/api/action", "f:uncaught"),
        ("/api/function", "f:seen"),
        ("/api/function", "f:write"),
        ("/api/function", "f:caught"),
    ];
    for (path, function) in calls {
        let call = json!({ "path": function, "args": {} }).to_string();
        let (status, headers, body) = served.post_text(path, call, &[]).await;
        assert!(body["status"] != "success" || function == "f:caught", "{function}: {body}");
        heard.push((format!("{path} {function}"), format!("{status} {headers:?} {body}")));
    }
    let (_, body) = served.post("/api/run/f/write", &json!({ "args": {} }), &[]).await;
    heard.push(("/api/run".to_owned(), body.to_string()));
    let (_, ts) = served.post("/api/query_ts", &json!({}), &[]).await;
    let at = json!({ "path": "f:seen", "args": {}, "ts": ts["ts"] });
    let (_, body) = served.post("/api/query_at_ts", &at, &[]).await;
    heard.push(("/api/query_at_ts".to_owned(), body.to_string()));

    let mut socket = Socket::connect(&served.url).await;
    socket.follow(0, "f:seen", json!({})).await;
    heard.push(("sync query".to_owned(), format!("{:?}", socket.receive().await.unwrap())));
    socket.mutate(1, "f:write", json!({})).await;
    heard.push(("sync mutation".to_owned(), format!("{:?}", socket.receive().await.unwrap())));
    for (id, function) in [(2, "f:caught"), (3, "f:uncaught")] {
        let action =
            json!({ "type": "Action", "requestId": id, "udfPath": function, "args": [{}] });
        socket.say(action).await;
        // Transitions of the query may arrive in between.
        loop {
            let message = format!("{:?}", socket.receive().await.unwrap());
            let is_answer = message.starts_with("ActionResponse");
            heard.push((format!("sync {function}"), message));
            if is_answer {
                break;
            }
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_hide_internal_causes() {
    let sink = Arc::new(Telling(Mutex::new((SinkErrorKind::Unavailable, Outcome::NotPersisted))));
    let served = Served::with_sink(Arc::clone(&sink) as _, program(&[("f.ts", MODULE)])).await;
    let kinds = [SinkErrorKind::Unavailable, SinkErrorKind::Blocked, SinkErrorKind::Closed];
    let outcomes = [Outcome::NotPersisted, Outcome::Indeterminate];
    for (kind, outcome) in
        kinds.into_iter().flat_map(|kind| outcomes.map(|outcome| (kind, outcome)))
    {
        *sink.0.lock().unwrap() = (kind, outcome);
        for (what, text) in heard(&served).await {
            for hidden in ["secret-bucket", "/var/lib", "AccessDenied"] {
                assert!(!text.contains(hidden), "{kind:?} {outcome:?} {what}: {text}");
            }
            assert!(!text.contains("nothing was thrown"), "{kind:?} {outcome:?} {what}: {text}");
        }
    }
    // Functions can read the recorded state of a scheduled function.
    let (status, body) =
        served.post("/api/mutation", &json!({ "path": "f:plan", "args": {} }), &[]).await;
    assert_eq!(status, 200, "{body}");
    let planned = json!({ "path": "f:planned", "args": {} });
    let failed = loop {
        let (_, body) = served.post("/api/query", &planned, &[]).await;
        let state = body.pointer("/value/0/state").cloned().unwrap_or(Json::Null);
        if state["kind"] == "failed" {
            break state;
        }
    };
    assert!(
        failed["error"].as_str().is_some_and(|error| error.contains("could not be made durable"))
    );
    assert!(!failed.to_string().contains("secret-bucket"), "{failed}");
}
