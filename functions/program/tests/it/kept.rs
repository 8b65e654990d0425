//! Engines kept between calls. A call cannot distinguish a kept engine from a new one, whatever
//! earlier calls did.

use functions_engine::{Call, FailureKind, KeptEngines, Limits, Ran, Seed, run};
use functions_value::ComponentPath;

use super::{Fixture, Host, SEED, ample, fixture, fixture_of};

/// The complete result of a call.
fn shown(ran: &Ran) -> String {
    format!("{:?} {:?}", ran.result, ran.log_lines)
}

/// Does `work` without kept engines, so that each of its calls has a new one.
fn in_a_new_engine<T>(work: impl FnOnce() -> T) -> T {
    let _none = KeptEngines::new(0).on_this_thread();
    work()
}

/// Inspects everything that a call could leave behind.
const PROBE: &str = r#"
let calls = 0;
const made = [];
const look = async (now) => {
  calls++;
  made.push({});
  const seen = [];
  const see = (object, path, depth) => {
    if ((typeof object !== "object" && typeof object !== "function") || object === null || depth > 3) return;
    for (const key of Reflect.ownKeys(object)) {
      const { value, get, set, ...flags } = Reflect.getOwnPropertyDescriptor(object, key);
      const of = typeof value === "object" || typeof value === "function" ? typeof value : String(value);
      seen.push([path, String(key), of, typeof get, typeof set, JSON.stringify(flags)].join(" "));
      if (key !== "globalThis" && key !== "self" && key !== "global") see(value, `${path}.${String(key)}`, depth + 1);
    }
  };
  see(globalThis, "", 0);
  for (const [name, object] of [["log", log], ["v", v], ["ConvexError", ConvexError], ["query", query]]) see(object, name, 1);
  console.log("probed", [1, 2].map(String), now, Math.random(), crypto.randomUUID());
  await null;
  return [calls, made.length, seen.length, seen.join("\n"), [Object.isFrozen(Array.prototype), Object.isExtensible(globalThis)]];
};
export const probe = query(async () => await look(new Date()));
// The clock of an action advances.
export const act = action(async () => await look(typeof Date.now()));
"#;

/// Functions that change all they can reach, and end in every possible way.
const POLLUTERS: [(&str, &str); 35] = [
    (
        "globals",
        "globalThis.left = 1; globalThis.JSON = null; delete globalThis.Map; globalThis.undefined_ = () => 1;",
    ),
    (
        "prototypes",
        "Object.prototype.left = 1; Array.prototype.push = () => 7; String.prototype.slice = null;",
    ),
    (
        "getters",
        "Object.defineProperty(Object.prototype, 'then', { get() { return undefined; }, configurable: true });",
    ),
    ("promises", "Promise.prototype.then = function () { return this; };"),
    ("frozen", "Object.freeze(Array.prototype); Object.preventExtensions(globalThis);"),
    ("module", "calls = 1e6; for (let i = 0; i < 1e4; i++) made.push({ i });"),
    (
        "lazy",
        "new URL('http://a/b'); new TextEncoder().encode('x'); structuredClone({}); new Headers(); crypto.subtle; new AbortController();",
    ),
    (
        "lazies",
        "for (const name of ['Date', 'URL', 'console', 'crypto', 'process']) globalThis[name] = 7;",
    ),
    ("symbols", "Symbol.for('left'); globalThis[Symbol.for('left')] = 1; log.vars.left = 1;"),
    (
        "chance",
        "for (let i = 0; i < 100; i++) Math.random(); crypto.getRandomValues(new Uint8Array(64));",
    ),
    ("lines", "for (let i = 0; i < 300; i++) console.log('x'.repeat(2000));"),
    ("thrown", "throw new Error('thrown');"),
    ("rejected", "Promise.reject(new Error('left')); await 1;"),
    (
        "pending",
        "const never = new Promise(() => {}); (async () => { await never; globalThis.left = 1; })(); await 1;",
    ),
    ("stalled", "await new Promise(() => {});"),
    ("jobs", "(async () => { for (;;) { await 1; globalThis.left = 1; } })(); return null;"),
    ("deep", "const f = () => f() + 1; f();"),
    ("endless", "for (;;);"),
    ("memory", "const all = []; for (;;) all.push(new Array(1000).fill({}));"),
    ("buffers", "const all = []; for (;;) all.push(new Uint8Array(1 << 20));"),
    (
        "cycles",
        "for (let i = 0; i < 1e5; i++) { const a = {}; const b = { a }; a.b = b; a.f = () => b; }",
    ),
    (
        "operations",
        "Convex.asyncSyscall('1.0/x', '{}'); await Convex.asyncSyscall('1.0/y', '{}'); Convex.syscall('1.0/z', '{}');",
    ),
    (
        "timers",
        "setInterval(() => {}, 1); await new Promise((done) => setTimeout(done, 3)); setTimeout(() => { globalThis.left = 1; }, 1e6);",
    ),
    (
        "storages",
        "const storage = new AsyncLocalStorage(); storage.run(7, () => { (async () => { await 1; globalThis.left = storage.getStore(); })(); }); globalThis.storage = storage;",
    ),
    (
        "streams",
        "const { readable, writable } = new TransformStream(); writable.getWriter().write('x').catch(() => {}); readable.getReader().read();",
    ),
    (
        "signals",
        "const { signal } = new AbortController(); signal.addEventListener('abort', () => {}); AbortSignal.timeout(1e6).onabort = () => { globalThis.left = 1; };",
    ),
    ("fetches", "fetch('http://left.example/').catch(() => {}); await 1;"),
    (
        "locales",
        "new Intl.NumberFormat('de').format(1.5); 'a'.localeCompare('b'); new Date(0).toLocaleString('en-US'); Date.parse('1 May 2020');",
    ),
    (
        "expressions",
        "/(x)/.exec('x'); RegExp.left = 1; RegExp.prototype.exec = () => null; 'x'.matchAll(/x/g).__proto__.next = 1;",
    ),
    (
        "consoles",
        "console.log = () => 1; console.left = 1; console.count(); console.time('left'); console.group('left');",
    ),
    ("traces", "Error.prepareStackTrace = () => 'left'; Error.stackTraceLimit = 0;"),
    ("env", "process.left = 1; try { process.env.GREETING = 'left'; } catch {}"),
    (
        "weak",
        "new WeakRef({}).left = 1; new FinalizationRegistry(() => { globalThis.left = 1; }).register({}, 1);",
    ),
    (
        "generators",
        "function* steps() { try { yield 1; } finally { globalThis.left = 1; } } steps().next(); Array.prototype[Symbol.iterator] = null;",
    ),
    (
        "library",
        "for (const object of [v, log, ConvexError, ConvexError.prototype, query]) try { object.left = 1; } catch {}",
    ),
];

fn polluted() -> Fixture {
    let functions = POLLUTERS.map(|(name, code)| {
        format!(
            "export const {name} = query(async () => {{ {code} return null; }});\n\
             export const {name}_act = action(async () => {{ {code} return null; }});\n"
        )
    });
    fixture(&format!("{PROBE}{}", functions.concat()))
}

/// Tight limits, so that endless functions end soon.
fn tight() -> Limits {
    Limits { time: std::time::Duration::from_millis(200), memory_bytes: 16 << 20, ..ample() }
}

#[test]
fn a_call_leaves_nothing_in_a_kept_engine() {
    let fixture = polluted();
    let probes = ["messages:probe", "messages:act"];
    let alone = probes.map(|probe| shown(&in_a_new_engine(|| fixture.ran(probe, "[{}]"))));
    let probe = |when: &str| {
        for (probe, alone) in probes.iter().zip(&alone) {
            assert_eq!(shown(&fixture.ran(probe, "[{}]")), *alone, "{probe} {when}");
        }
    };
    // The probe does detect changes.
    for alone in &alone {
        assert!(alone.contains("[1.0,1.0,") || alone.contains("[1,1,"), "{alone}");
    }
    probe("in one that was not used");
    for (name, called) in POLLUTERS.iter().flat_map(|(name, _)| {
        [format!("messages:{name}"), format!("messages:{name}_act")].map(|called| (*name, called))
    }) {
        let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
        let ended = fixture.run_with(&called, "[{}]", &SEED, &tight(), &mut host);
        let ended = ended.result.map_err(|failure| failure.kind);
        match name {
            "endless" | "jobs" => assert_eq!(ended, Err(FailureKind::TimeLimit), "{called}"),
            "memory" | "buffers" => assert_eq!(ended, Err(FailureKind::MemoryLimit), "{called}"),
            "stalled" => assert_eq!(ended, Err(FailureKind::NeverResolves), "{called}"),
            "deep" => assert_eq!(ended, Err(FailureKind::StackOverflow), "{called}"),
            _ => {}
        }
        probe(&format!("after {called}"));
    }
}

/// Modules whose evaluation is the same for each call are evaluated beforehand. The others are
/// evaluated within each call.
#[test]
fn module_state_is_per_call() {
    const MODULES: [(&str, &str); 9] = [
        ("time", "export const found = Date.now();"),
        ("date", "export const found = new Date().toISOString();"),
        ("chance", "export const found = Math.random();"),
        ("crypto", "export const found = crypto.randomUUID();"),
        ("origin", "export const found = performance.timeOrigin;"),
        ("line", "console.log('evaluated'); export const found = 0;"),
        ("nothing", "export const found = [1, 2, 3].map((n) => n * 2).join();"),
        ("later", "export let found = 0; Promise.resolve().then(() => { found = 1; });"),
        (
            "operation",
            "export let found; try { found = Convex.syscall('1.0/x', '{}'); } catch (e) { found = e.message; }",
        ),
    ];
    for (name, module) in MODULES {
        let function = "import { query } from './_generated/server'; import * as held from './held'; \
                        export const found = query(() => held.found);";
        let fixture = fixture_of(&[("held.ts", module), ("messages.ts", function)]);
        for (round, random) in [1_u64, 2, 2, 3].into_iter().enumerate() {
            let seed = Seed { random: random.into(), now_ms: 1.7e12 + round as f64 };
            let call = || {
                let mut host =
                    Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("7".to_owned()) };
                let ran = fixture.run_with("messages:found", "[{}]", &seed, &ample(), &mut host);
                (shown(&ran), host.asked)
            };
            assert_eq!(call(), in_a_new_engine(call), "{name}, round {round}");
        }
    }
}

#[test]
fn kept_engines_stay_within_their_memory() {
    let modules: Vec<(String, String)> = (0..12)
        .map(|n| {
            let text =
                "import { query } from './_generated/server'; export const f = query(() => 1);";
            (format!("m{n}.ts"), text.to_owned())
        })
        .collect();
    let modules: Vec<(&str, &str)> = modules.iter().map(|(n, t)| (&**n, &**t)).collect();
    let fixture = fixture_of(&modules);
    let call = |n: usize| fixture.value(&format!("m{n}:f"), "[{}]");
    // With the npm package, an engine takes three times as much.
    let one = {
        let engines = KeptEngines::new(64 << 20);
        let _keeping = engines.on_this_thread();
        call(0);
        engines.bytes()
    };
    assert!(one > 0);
    let limit = 4 * one;
    let engines = KeptEngines::new(limit);
    let keeping = engines.on_this_thread();
    for n in 0..12 {
        assert_eq!(call(n), "1");
        assert!(engines.bytes() <= limit, "{} of {limit}", engines.bytes());
    }
    assert!(engines.bytes() > limit - 2 * one, "as many as fit are kept: {}", engines.bytes());
    engines.drop_all();
    KeptEngines::trim();
    assert_eq!(engines.bytes(), 0);
    call(0);
    assert!(engines.bytes() >= one);
    // Nothing keeps a dropped program alive.
    drop(fixture);
    KeptEngines::trim();
    assert_eq!(engines.bytes(), 0);
    drop(keeping);
}

/// An answer that arrives after the operation's call has ended reaches no other call.
#[test]
fn answers_reach_only_their_own_call() {
    use std::cell::RefCell;

    use functions_engine::{Answer, Later, SyscallError, Syscalls};

    /// Keeps operations between calls, and first answers those of the previous call.
    struct Late<'a>(&'a RefCell<Vec<Later>>);
    impl Syscalls for Late<'_> {
        fn syscall(&mut self, _: &str, _: &str) -> Result<String, SyscallError> {
            Ok("null".to_owned())
        }
        fn async_syscall(&mut self, op: &str, _: &str, later: Later) -> Answer {
            if op == "keep" {
                self.0.borrow_mut().push(later);
                return Answer::Later;
            }
            for old in self.0.take() {
                old.complete(Ok("\"of the call before\"".to_owned()));
            }
            later.complete(Ok("\"its own\"".to_owned()));
            Answer::Later
        }
    }
    let fixture = fixture(
        "export const run = action(async () => { \
           const own = Convex.asyncSyscall('own', '{}'); Convex.asyncSyscall('keep', '{}'); \
           return JSON.parse(await own); });",
    );
    let kept = RefCell::new(Vec::new());
    let root = ComponentPath::root();
    let function = fixture.program.function(&root, "messages:run").unwrap();
    for _ in 0..3 {
        let call: Call<'_> = fixture.program.call(&root, function, "[{}]", "r");
        let ran = run(&call, &SEED, &ample(), &mut Late(&kept));
        assert_eq!(ran.result.unwrap(), "\"its own\"");
    }
}
