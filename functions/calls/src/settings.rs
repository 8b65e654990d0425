//! The settings of functions.

use std::time::Duration;

use functions_engine::Limits;
use functions_fetch::FetchSettings;
use serde_json::{Value as Json, json};

/// The limits of functions, and what they can read about where they run.
#[derive(Debug, Clone)]
pub struct FunctionSettings {
    /// The result of `ctx.meta.getDeploymentMetadata()`.
    pub deployment: Deployment,
    /// The limits of one query or mutation and all functions that it calls.
    pub limits: Limits,
    /// The limits of one action's JavaScript.
    pub action_limits: Limits,
    /// How many actions may run at once. Each has a thread of its own, since it waits for others.
    pub max_actions: usize,
    /// How long one query or mutation may keep its thread, all that the host does for it included:
    /// then it is given up, and its thread replaced. The default is 60 seconds, far more than the
    /// limits on JavaScript, reads and writes allow on a slow disk. JavaScript that its engine does
    /// not stop, since it is in native code, is given up earlier: after ten times its limit, or a
    /// minute more than its limit if that is less, and a second.
    pub overrun_after: Duration,
    /// With as many threads that did not come back,
    /// [`Functions::exhausted`](crate::Functions::exhausted) completes. Each takes a processor and
    /// up to the memory of one function. The default is 8.
    pub max_stuck_threads: usize,
    /// How many bytes the cache of queries' results may hold: of results, of the arguments and
    /// identities that they are found by, of their sealed logs, and of what they read. What is used
    /// least goes first. The default is 256 MiB: some ten thousand results of usual size, and no
    /// more than four functions may take by default.
    pub query_cache_bytes: usize,
    /// What actions may fetch.
    pub fetch: FetchSettings,
    /// How many bytes the engines may take that worker threads keep ready for queries and
    /// mutations, all threads together: about 1 MiB for each module of functions and thread, more
    /// for large packages. Those that were used least recently go first. The default is 64 MiB, as
    /// much as one function may take. With 0 each call starts an engine of its own, which takes
    /// several times as long as a short function.
    pub kept_engine_bytes: usize,
}

impl Default for FunctionSettings {
    fn default() -> FunctionSettings {
        let limits = Limits::default();
        FunctionSettings {
            deployment: Deployment::default(),
            limits,
            action_limits: Limits { time: Duration::from_secs(600), ..limits },
            max_actions: 64,
            overrun_after: Duration::from_secs(60),
            max_stuck_threads: 8,
            query_cache_bytes: 256 << 20,
            fetch: FetchSettings::default(),
            kept_engine_bytes: 64 << 20,
        }
    }
}

/// Where functions run, as they can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its name, `local` by default.
    pub name: String,
    /// The region that it is in, if it has one.
    pub region: Option<String>,
    /// How large it is, in Convex's classes: `s16` by default.
    pub class: String,
}

impl Default for Deployment {
    fn default() -> Deployment {
        Deployment { name: "local".to_owned(), region: None, class: "s16".to_owned() }
    }
}

impl Deployment {
    pub(crate) fn to_json(&self) -> Json {
        let Deployment { name, region, class } = self;
        json!({ "name": name, "region": region, "class": class })
    }
}
