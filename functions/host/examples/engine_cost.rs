//! What one call costs: the engine's start, an empty query, `log.audit` beside a host that does
//! nothing.
//!
//! `cargo run --release -p functions-host --example engine_cost [NODE_MODULES/convex]`
//!
//! Figures are CPU time of the thread, so that what else the machine does counts less (Linux only).

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use functions_engine::{Answer, Later, Limits, Seed, SyscallError, Syscalls, run};
use functions_program::{Env, Program};
use functions_value::ComponentPath;

const FUNCTIONS: &str = r#"
import { query } from "./_generated/server";
import { log } from "convex/server";

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
export const bodies = query({ handler: async (_ctx, { n }) => { for (let i = 0; i < n; i++) body(i); return null; } });
export const audits = query({ handler: async (_ctx, { n }) => { for (let i = 0; i < n; i++) await log.audit(body(i)); return null; } });
export const nothings = query({ handler: async (_ctx, { n }) => {
  for (let i = 0; i < n; i++) { body(i); await Convex.asyncSyscall("1.0/auditLog", "{}"); }
  return null;
} });
"#;

/// Answers null, and notes how long the last body was.
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

/// The CPU time of this thread so far.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().ok_or("an empty schedstat")?;
    Ok(Duration::from_nanos(first.parse()?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let functions = directory.path().join("convex");
    std::fs::create_dir(&functions)?;
    std::fs::write(functions.join("cost.ts"), FUNCTIONS)?;
    println!("built-in modules");
    measure(&functions)?;
    if let Some(package) = std::env::args().nth(1) {
        let modules = directory.path().join("node_modules");
        std::fs::create_dir(&modules)?;
        std::os::unix::fs::symlink(package, modules.join("convex"))?;
        println!("npm package");
        measure(&functions)?;
    }
    Ok(())
}

fn measure(functions: &Path) -> Result<(), Box<dyn Error>> {
    let started = cpu_time()?;
    let program = Program::load(functions, &Env::default())?;
    println!(
        "  load the program          {:>10.1} ms",
        (cpu_time()? - started).as_secs_f64() * 1e3
    );
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
    const CALLS: u32 = 2_000;
    let mut empty = Duration::ZERO;
    for _ in 0..CALLS {
        empty += call("cost:empty", 0)?.0;
    }
    println!(
        "  an empty query            {:>10.1} µs",
        empty.as_secs_f64() * 1e6 / f64::from(CALLS)
    );
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
