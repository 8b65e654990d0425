//! [`FunctionSettings`].

use std::time::Duration;

use functions_engine::Limits;
use functions_fetch::FetchSettings;
use serde_json::{Value as Json, json};

/// The limits of functions, and the deployment's metadata.
#[derive(Debug, Clone)]
pub struct FunctionSettings {
    /// The result of `ctx.meta.getDeploymentMetadata()`.
    pub deployment: Deployment,
    /// The limits of one query or mutation and all functions that it calls.
    pub limits: Limits,
    /// The limits of one action's JavaScript.
    pub action_limits: Limits,
    /// The maximum number of actions that run at once. Each has its thread to itself, since it
    /// waits for the functions that it calls. No address has more of them than are left for others.
    pub max_actions: usize,
    /// How long one query or mutation may keep its thread, including the host's work for it. After
    /// that it is abandoned and its thread replaced. The default is 60 seconds, far more than the
    /// limits on JavaScript, reads and writes take on a slow disk. JavaScript that its engine
    /// cannot stop, because it is in native code, is abandoned earlier: one second after ten times
    /// its time limit, or one second after its limit plus a minute if that is less. On Linux this
    /// needs twice its limit of CPU time too, so that a busy machine abandons nothing.
    pub overrun_after: Duration,
    /// The number of stuck threads at which [`Functions::exhausted`](crate::Functions::exhausted)
    /// completes. Each takes a processor and up to the memory of one function. The default is 8.
    pub max_stuck_threads: usize,
    /// The size of the cache of query results, in bytes, including their keys, sealed logs and read
    /// sets. The least used results are evicted first. The default is 256 MiB, for about ten
    /// thousand results of the usual size; it is the memory of four functions.
    pub query_cache_bytes: usize,
    /// The limits of `fetch` in actions, and the addresses that it may reach.
    pub fetch: FetchSettings,
    /// The memory of the engines that threads keep ready for calls, in bytes, for all threads
    /// together. An engine takes about 1 MiB per module of functions and thread, and more for large
    /// packages. The least recently used engines are dropped first. The default is 64 MiB, the
    /// memory of one function. With 0 each call starts a new engine, which takes several times as
    /// long as a short function.
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

/// The metadata of the deployment, which functions can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// The name, `local` by default.
    pub name: String,
    /// The region, if there is one.
    pub region: Option<String>,
    /// The size, as one of Convex's classes: `s16` by default.
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
