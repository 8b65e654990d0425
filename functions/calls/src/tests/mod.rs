//! Tests with a whole host, many of which inject faults into it.

mod a_full_disk_stops_only_mutations;
mod a_shared_query_waits_for_nobody;
mod actions_are_abandoned;
mod actions_keep_engines;
mod actions_leave_places;
mod arguments_are_checked_as_on_convex;
mod bodies;
mod commit_times;
mod deployments_are_whole;
mod every_way_out_is_sealed;
mod identities_stay_in_their_component;
mod limits_are_shared_with_callees;
mod nested_calls_have_limits;
mod randomness_is_independent;
mod references;
mod refused_logs_fail_their_function;
mod results_are_values;
mod scheduled;
mod sinks_that_panic;

use std::net::IpAddr;
use std::sync::Arc;

use audit_core::testing::MemorySink;
use audit_core::{Random, SystemRandom};
use audit_runtime::{AuditRuntime, AuditRuntimeBuilder, AuditSink};
use functions_program::{Env, Program};
use functions_store::Store;
use serde_json::Value as Json;

use super::{Caller, FunctionSettings, Functions};

/// Functions on a store in a temporary directory, with a sink in memory.
struct Host {
    functions: Functions,
    sink: Arc<MemorySink>,
    _directory: tempfile::TempDir,
}

impl Host {
    async fn with_module(name: &str, text: &str, settings: FunctionSettings) -> Host {
        Host::with_random(name, text, settings, SystemRandom).await
    }

    async fn with_random(
        name: &str,
        text: &str,
        settings: FunctionSettings,
        random: impl Random,
    ) -> Host {
        let modules = tempfile::tempdir().unwrap();
        std::fs::write(modules.path().join(name), text).unwrap();
        Host::with_program(modules.path(), settings, random).await
    }

    async fn with_program(
        modules: &std::path::Path,
        settings: FunctionSettings,
        random: impl Random,
    ) -> Host {
        let runtime = |sink| AuditRuntime::builder(sink).with_random(random);
        Host::with_runtime(modules, settings, runtime).await
    }

    async fn with_runtime(
        modules: &std::path::Path,
        settings: FunctionSettings,
        runtime: impl FnOnce(Arc<dyn AuditSink>) -> AuditRuntimeBuilder,
    ) -> Host {
        let program = Program::load(modules, &Env::default()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let sink = Arc::new(MemorySink::new());
        let runtime = runtime(Arc::clone(&sink) as _).build();
        let store = Store::open(directory.path()).unwrap();
        let functions = Functions::start(runtime, store, program, settings).await.unwrap();
        Host { functions, sink, _directory: directory }
    }

    fn caller(&self) -> Caller {
        let request = self.functions.runtime().new_request();
        Caller::anonymous(request.with_ip(IpAddr::from([192, 0, 2, 1])))
    }

    fn logs(&self, mark: &str) -> usize {
        let lines = self.sink.lines();
        let logs = lines.iter().map(|line| serde_json::from_str::<Json>(line).unwrap());
        logs.filter(|log| log["mark"] == mark).count()
    }
}
