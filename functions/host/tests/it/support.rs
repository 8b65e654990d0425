//! Functions on a store in a directory of their own, and a sink in memory.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use audit_core::testing::MemorySink;
use audit_runtime::{AuditRuntime, Vars};
use functions_calls::{Answered, CallError, Caller, FunctionSettings, Functions, Mutated};
use functions_program::{Env, Program};
use functions_store::Store;
use serde_json::{Value as Json, json};

/// A host without a network.
pub(crate) struct Host {
    pub(crate) functions: Functions,
    pub(crate) sink: Arc<MemorySink>,
    _directory: tempfile::TempDir,
}

/// The directory of the demonstration's functions.
pub(crate) fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/convex"))
}

impl Host {
    pub(crate) async fn start(program: Program, settings: FunctionSettings) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let sink = Arc::new(MemorySink::new());
        let functions = start_on(directory.path(), Arc::clone(&sink), program, settings).await;
        Host { functions, sink, _directory: directory }
    }

    pub(crate) async fn demo() -> Host {
        Host::start(Program::load(demo(), &Env::default()).unwrap(), FunctionSettings::default())
            .await
    }

    /// Uses the modules that a test gives as text.
    pub(crate) async fn with_modules(modules: &[(&str, &str)]) -> Host {
        Host::start(program(modules), FunctionSettings::default()).await
    }

    pub(crate) fn caller(&self, ip: &str) -> Caller {
        Caller::anonymous(
            self.functions.runtime().new_request().with_ip(ip.parse::<IpAddr>().unwrap()),
        )
    }

    pub(crate) async fn query(&self, path: &str, args: Json) -> Result<Arc<Answered>, CallError> {
        self.functions.query(path, &args, &self.caller("192.0.2.1")).await
    }

    pub(crate) async fn mutation(&self, path: &str, args: Json) -> Result<Mutated, CallError> {
        self.functions.mutation(path, &args, &self.caller("192.0.2.2")).await
    }

    pub(crate) async fn action(&self, path: &str, args: Json) -> Result<Answered, CallError> {
        self.functions.action(path, &args, &self.caller("192.0.2.3")).await
    }

    /// The logs so far with this action.
    pub(crate) fn logs(&self, action: &str) -> Vec<Json> {
        logs(&self.sink, action)
    }
}

pub(crate) fn logs(sink: &MemorySink, action: &str) -> Vec<Json> {
    let lines = sink.lines();
    let logs = lines.iter().map(|line| serde_json::from_str::<Json>(line).unwrap());
    logs.filter(|log| log["action"] == action).collect()
}

pub(crate) async fn start_on(
    directory: &Path,
    sink: Arc<MemorySink>,
    program: Program,
    settings: FunctionSettings,
) -> Functions {
    let mut vars = Vars::new();
    vars.register("convexActor", 256).unwrap();
    let runtime = AuditRuntime::builder(sink).with_vars(vars).build();
    let store = Store::open(&directory.join("store")).unwrap();
    Functions::start(runtime, store, program, settings).await.unwrap()
}

pub(crate) fn program(modules: &[(&str, &str)]) -> Program {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in modules {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Program::load(directory.path(), &Env::default()).unwrap()
}

/// The value returned by a call that succeeded.
pub(crate) fn value(answered: &Answered) -> Json {
    match &answered.result {
        Ok(value) => serde_json::from_str(value).unwrap(),
        Err(failed) => panic!("{failed:?}"),
    }
}

/// The error message of a call that failed.
pub(crate) fn failure(answered: &Answered) -> String {
    match &answered.result {
        Ok(value) => panic!("{value}"),
        Err(failed) => failed.message.clone(),
    }
}

pub(crate) async fn document(host: &Host) -> String {
    let created = host.mutation(
        "documents:create",
        json!({ "title": "Plan", "text": "Start small.", "orgId": "acme" }),
    );
    value(&created.await.unwrap().answered).as_str().unwrap().to_owned()
}
