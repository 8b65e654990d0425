//! Serves one app and calls each of its functions once, for `functions/census` to count.
//!
//! `cargo run -p functions-host --example census -- CONVEX_DIRECTORY [VARIABLES.json]`
//!
//! Prints one line of JSON. The directory must contain `census_seed.js`, which generates arguments.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::testing::MemorySink;
use audit_runtime::{AuditRuntime, FunctionKind};
use functions_calls::{Caller, FunctionSettings, Functions};
use functions_program::{Env, Function, Program};
use functions_store::Store;
use functions_value::ComponentPath;
use serde_json::{Value, json};

/// The module that contains the census's own functions.
const SEED: &str = "census_seed";

/// The factor by which an engine built without optimization is slower.
const SLOWNESS: u32 = if cfg!(debug_assertions) { 10 } else { 1 };

/// The time limit of one function, in seconds.
const SECONDS: u64 = 10 * SLOWNESS as u64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: census CONVEX_DIRECTORY [VARIABLES.json]")?;
    let variables = match arguments.next() {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => BTreeMap::new(),
    };
    let found = match served(Path::new(&directory), variables).await {
        Ok(functions) => functions,
        Err(error) => json!({ "error": error.to_string() }),
    };
    println!("{found}");
    // Functions still running may take minutes.
    std::process::exit(0);
}

async fn served(
    directory: &Path,
    variables: BTreeMap<String, String>,
) -> Result<Value, Box<dyn Error>> {
    let program = Program::load(directory, &Env::new(variables, ["convexActor".to_owned()]))?;
    let root = program.component(&ComponentPath::root()).ok_or("no app")?;
    let mut all: Vec<Function> = root.functions().cloned().collect();
    all.retain(|function| !function.name.starts_with(SEED));
    // Queries run first, so that they find the seeded documents, and removals last.
    let removes = |name: &str| ["delete", "remove", "clear"].iter().any(|word| name.contains(word));
    all.sort_by_key(|function| {
        let name = function.name.to_lowercase();
        (removes(&name), function.kind != FunctionKind::Query, name)
    });
    let warnings = program.warnings().to_vec();

    let data = tempfile::tempdir()?;
    let runtime = AuditRuntime::builder(Arc::new(MemorySink::new()) as _).build();
    let store = Store::open(data.path())?;
    let mut settings = FunctionSettings::default();
    settings.limits.time *= SLOWNESS;
    let functions = Functions::start(runtime, store, program, settings).await?;
    functions.stop_scheduler().await;
    let host = Host { functions };
    host.call(&format!("{SEED}:fill"), &json!({})).await?;
    let mut results = Vec::new();
    for function in &all {
        results.push(json!({
            "name": function.name,
            "kind": function.kind.as_str(),
            "failure": host.run(function).await.err(),
        }));
    }
    Ok(json!({ "functions": results, "warnings": warnings }))
}

struct Host {
    functions: Functions,
}

impl Host {
    async fn run(&self, function: &Function) -> Result<Value, String> {
        let validator = json!({ "validator": function.args.to_string() });
        let args = self.call(&format!("{SEED}:arguments_"), &validator).await;
        let args = args.map_err(|error| format!("no arguments: {error}"))?;
        // Functions without validators are called without arguments.
        let by_name = json!({ "name": function.name, "args": args });
        if function.is_public {
            return self.call(&function.name, &args).await;
        }
        let runner = match function.kind {
            FunctionKind::Query => "runQuery",
            FunctionKind::Mutation => "runMutation",
            FunctionKind::Action => "runAction",
        };
        self.call(&format!("{SEED}:{runner}"), &by_name).await
    }

    async fn call(&self, name: &str, args: &Value) -> Result<Value, String> {
        let caller = Caller::anonymous(self.functions.runtime().new_request());
        let calling = self.functions.any(name, args, &caller);
        let limit = Duration::from_secs(SECONDS);
        let answered = tokio::time::timeout(limit, calling)
            .await
            .map_err(|_| format!("it took more than {SECONDS} s"))?
            .map_err(|error| error.to_string())?;
        match &answered.result {
            Ok(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            Err(failed) => Err(failed.message.clone()),
        }
    }
}
