//! Measures the cost of one call: an empty query, an empty action, and a mutation that creates one
//! document, each in a new engine and in a kept one. Also measures `log.audit`, compared with an
//! empty operation.
//!
//! ```sh
//! cargo run --release -p functions-calls --example engine_cost [NODE_MODULES/convex]
//! cargo run --release -p functions-calls --example engine_cost -- only WHAT CALLS
//! ```
//!
//! The second form makes CALLS calls of one kind and prints nothing, for a profiler. WHAT is
//! `engine`, `query`, `action` or `mutation`; the suffix `-kept` makes threads keep engines.
//!
//! Figures are the CPU time of the process, so that other load affects them less (Linux only). The
//! two sides of a comparison take turns.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_runtime::{AuditRuntime, Vars};
use audit_sink_null::NullSink;
use functions_calls::{Caller, FunctionSettings, Functions};
use functions_engine::{Answer, KeptEngines, Later, Limits, Seed, SyscallError, Syscalls, run};
use functions_program::{Env, Program};
use functions_store::Store;
use functions_value::ComponentPath;
use serde_json::json;

const FUNCTIONS: &str = r#"
import { action, mutation, query } from "./_generated/server";
import { log } from "convex/server";
import { v } from "convex/values";

const body = (i: number) => ({
  action: "updateDocument", at: log.vars.now, request: log.vars.requestId, index: i,
  actor: { subject: "user_2Nk0f3", name: "Some One", email: "some.one@example.com", ip: log.vars.ip, agent: log.vars.userAgent },
  document: { id: "j57a3k9n0c1h8q2m4z6x5v7b9s1d3f5g", table: "documents", title: "Minutes of the meeting of the committee" },
  change: {
    before: { title: "Minutes", words: 1024, ratio: 0.25, tags: ["draft", "committee", "2024"], isPublic: false, owner: null },
    after: { title: "Minutes of the meeting", words: 2048, ratio: 0.5, tags: ["final", "committee", "2024"], isPublic: true },
    reason: "The secretary has entered what was said about the budget of the coming year, and who is to look after it."
  },
  text: "x".repeat(240),
});
export const empty = query({ args: {}, handler: async () => null });
export const nothing = query({ args: { n: v.number() }, handler: async () => null });
export const act = action({ args: { n: v.number() }, handler: async () => null });
export const create = mutation({
  args: { n: v.number(), title: v.string(), tags: v.array(v.string()) },
  handler: async (ctx, args) => await ctx.db.insert("documents", args),
});
export const bodies = query({ handler: async (_ctx, { n }) => { for (let i = 0; i < n; i++) body(i); return null; } });
export const audits = query({ handler: async (_ctx, { n }) => { for (let i = 0; i < n; i++) await log.audit(body(i)); return null; } });
export const nothings = query({ handler: async (_ctx, { n }) => {
  for (let i = 0; i < n; i++) { body(i); await Convex.asyncSyscall("1.0/auditLog", "{}"); }
  return null;
} });
"#;

/// Answers every operation with null, and records the size of the last body in bytes.
struct Nothing(usize);

impl Syscalls for Nothing {
    fn syscall(&mut self, _: &str, _: &str) -> Result<String, SyscallError> {
        Ok("null".to_owned())
    }

    fn async_syscall(&mut self, _: &str, args: &str, _: Later) -> Answer {
        self.0 = args.len();
        Answer::Now(Ok("null".to_owned()))
    }
}

/// The CPU time of this process so far, with a resolution of 10 ms.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(") ").ok_or("a stat without a name")?;
    let field = |place: usize| fields.split(' ').nth(place).ok_or("a short stat");
    let ticks = field(11)?.parse::<u64>()? + field(12)?.parse::<u64>()?;
    Ok(Duration::from_millis(10 * ticks))
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let functions = directory.path().join("convex");
    std::fs::create_dir(&functions)?;
    std::fs::write(functions.join("cost.ts"), FUNCTIONS)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [only, what, calls] = &arguments[..]
        && only == "only"
    {
        let (what, is_kept) = what.strip_suffix("-kept").map_or((&**what, false), |w| (w, true));
        let mut side = Side::start(&functions, directory.path(), is_kept)?;
        return side.call(what, calls.parse()?);
    }
    println!("built-in modules");
    measure(&functions, &directory.path().join("built-in"))?;
    if let Some(package) = arguments.first() {
        let modules = directory.path().join("node_modules");
        std::fs::create_dir(&modules)?;
        std::os::unix::fs::symlink(package, modules.join("convex"))?;
        println!("npm package");
        measure(&functions, &directory.path().join("npm"))?;
    }
    Ok(())
}

/// A host, with or without kept engines.
struct Side {
    program: Program,
    functions: Functions,
    caller: Caller,
    engines: KeptEngines,
    tokio: tokio::runtime::Runtime,
    next: u32,
}

impl Side {
    fn start(functions: &Path, directory: &Path, is_kept: bool) -> Result<Side, Box<dyn Error>> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kept_engine_bytes = if is_kept { 64 << 20 } else { 0 };
        let settings = FunctionSettings { kept_engine_bytes, ..FunctionSettings::default() };
        let mut vars = Vars::new();
        vars.register("convexActor", 1_024)?;
        let runtime = AuditRuntime::builder(Arc::new(NullSink::new())).with_vars(vars).build();
        let caller = Caller::anonymous(runtime.new_request());
        let store = Store::open(&directory.join(format!("store-{is_kept}")))?;
        let load = || Program::load(functions, &Env::default());
        let started = Functions::start(runtime, store, load()?, settings);
        let functions = tokio.block_on(started)?;
        let engines = KeptEngines::new(kept_engine_bytes);
        Ok(Side { program: load()?, functions, caller, engines, tokio, next: 0 })
    }

    /// Makes `calls` calls, one after the other.
    fn call(&mut self, what: &str, calls: u32) -> Result<(), Box<dyn Error>> {
        let _keeping = self.engines.on_this_thread();
        for _ in 0..calls {
            self.next += 1;
            let n = self.next;
            match what {
                "engine" => {
                    let root = ComponentPath::root();
                    let function = self.program.function(&root, "cost:empty").ok_or("none")?;
                    let call = self.program.call(&root, function, "[{}]", "");
                    let seed = Seed { random: u64::from(n).into(), now_ms: 0.0 };
                    let ran = run(&call, &seed, &Limits::default(), &mut Nothing(0));
                    ran.result.map_err(|failure| failure.message)?;
                }
                "query" => {
                    let args = json!({ "n": n });
                    let called = self.functions.query("cost:nothing", &args, &self.caller);
                    let answered = self.tokio.block_on(called)?;
                    answered.result.as_ref().map_err(|failed| failed.message.clone())?;
                }
                "action" => {
                    let args = json!({ "n": n });
                    let called = self.functions.action("cost:act", &args, &self.caller);
                    let answered = self.tokio.block_on(called)?;
                    answered.result.map_err(|failed| failed.message)?;
                }
                "mutation" => {
                    let args =
                        json!({ "n": n, "title": "Minutes of the meeting", "tags": ["a", "b"] });
                    let called = self.functions.mutation("cost:create", &args, &self.caller);
                    let mutated = self.tokio.block_on(called)?;
                    mutated.answered.result.map_err(|failed| failed.message)?;
                }
                _ => return Err("an engine, a query, an action or a mutation".into()),
            }
        }
        Ok(())
    }
}

fn measure(functions: &Path, directory: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir(directory)?;
    let started = cpu_time()?;
    let program = Program::load(functions, &Env::default())?;
    println!(
        "  load the program          {:>10.0} ms",
        (cpu_time()? - started).as_secs_f64() * 1e3
    );
    const ROUNDS: u32 = 10;
    const CALLS: u32 = 200;
    let mut sides = [false, true].map(|is_kept| Side::start(functions, directory, is_kept));
    for (what, name) in [
        ("engine", "an empty query, the engine alone"),
        ("query", "an empty query"),
        ("action", "an empty action"),
        ("mutation", "a mutation that creates one document"),
    ] {
        let mut took = [Duration::ZERO; 2];
        for round in 0..=ROUNDS {
            for (side, took) in sides.iter_mut().zip(&mut took) {
                let side = side.as_mut().map_err(|error| error.to_string())?;
                let started = cpu_time()?;
                side.call(what, CALLS)?;
                // The first round warms up.
                if round > 0 {
                    *took += cpu_time()? - started;
                }
            }
        }
        let [own, kept] = took.map(|took| took.as_secs_f64() * 1e6 / f64::from(ROUNDS * CALLS));
        println!(
            "  {name:<37} {own:>7.0} µs in a new engine, {kept:>6.0} µs in a kept one: {:.2}",
            kept / own
        );
    }
    let limits = Limits { time: Duration::from_secs(60), ..Limits::default() };
    let mut host = Nothing(0);
    let mut call = |name: &str, n: u32| {
        let root = ComponentPath::root();
        let function = program.function(&root, name).ok_or("no such function")?;
        let args = format!("[{{\"n\":{n}}}]");
        let call = program.call(&root, function, &args, "");
        let started = cpu_time()?;
        let ran = run(&call, &Seed { random: 1_u64.into(), now_ms: 0.0 }, &limits, &mut host);
        ran.result.map_err(|failure| failure.message)?;
        Ok::<_, Box<dyn Error>>((cpu_time()? - started, host.0))
    };
    const N: u32 = 20_000;
    let mut best = [Duration::MAX; 3];
    let mut bytes = 0;
    for _ in 0..5 {
        for (name, best) in
            ["cost:bodies", "cost:nothings", "cost:audits"].into_iter().zip(&mut best)
        {
            let (took, args) = call(name, N)?;
            *best = took.min(*best);
            bytes = args;
        }
    }
    let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(N);
    println!("  make a body               {:>10.2} µs", each(best[0]));
    println!("  and an empty operation    {:>10.2} µs", each(best[1]));
    println!("  and log.audit, {bytes:>5} bytes {:>10.2} µs", each(best[2]));
    Ok(())
}
