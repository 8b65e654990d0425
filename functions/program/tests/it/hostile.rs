//! Hostile functions fail without affecting others, with an error that gives the reason.

use super::*;

/// Runs a function that fails, and checks that the next call is unaffected.
pub(super) fn fails_alone(fixture: &Fixture, name: &str, limits: &Limits) -> Failure {
    let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
    let ran = fixture.run_with(&format!("messages:{name}"), "[{}]", &SEED, limits, &mut host);
    assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
    match ran.result {
        Ok(value) => panic!("{name} gave {}", &value[..value.len().min(200)]),
        Err(failure) => failure,
    }
}

#[test]
fn endless_loops_end_their_function() {
    let fixture = fixture(
        "export const plain = query(async () => { for (;;) {} });
         export const caught = query(async () => { for (;;) { try { for (;;) {} } catch {} finally { for (;;) {} } } });
         export const later = query(async () => { await Promise.resolve().then(() => { for (;;) {} }).catch(() => { for (;;) {} }); });
         export const chained = query(async () => { const again = (): any => Promise.resolve().then(again); await again(); });
         export const getter = query(async () => ({ get a() { for (;;) {} } }));
         export const thrown = query(async () => { throw { get message() { for (;;) {} }, get stack() { for (;;) {} } }; });
         export const logged = query(async () => { console.log({ get a() { for (;;) {} } }); });
         export const audited = query(async () => { await log.audit({ toJSON() { for (;;) {} } }); });
         export const generator = query(async () => { for (const _ of (function* () { for (;;) yield 1; })()) {} });
         export const asynchronous = query(async () => { for await (const _ of (async function* () { for (;;) yield 1; })()) {} });
         export const regex = query(async () => /^(a+)+$/.test('a'.repeat(40) + 'b'));
         export const list = query(async () => [].includes.call({ length: 2 ** 53 - 1 }, 1));
         export const sorted = query(async () => [3, 2, 1].sort(() => { for (;;) {} }));
         export const operations = query(async () => { for (;;) await Convex.asyncSyscall('op', '{}'); });
         export const replaced = query(async () => 'aaa'.replace(/a/g, () => { for (;;) {} }));
         export const fine = query(async () => 1);",
    );
    let limits = Limits { time: Duration::from_millis(20), ..Limits::default() };
    let names = [
        "plain",
        "caught",
        "later",
        "chained",
        "getter",
        "thrown",
        "logged",
        "audited",
        "generator",
        "asynchronous",
        "regex",
        "list",
        "sorted",
        "operations",
        "replaced",
    ];
    for name in names {
        let failure = fails_alone(&fixture, name, &limits);
        assert_eq!(failure.kind, FailureKind::TimeLimit, "{name}: {}", failure.message);
        assert_eq!(
            failure.message,
            "Function execution timed out (maximum duration: 20ms of JavaScript)"
        );
    }
}

/// Both texts of a search may come from a client.
#[test]
fn searches_are_interrupted_and_find_what_is_there() {
    let methods =
        ["includes", "indexOf", "lastIndexOf", "replace", "replaceAll", "split"].map(|method| {
            format!("export const {method} = query(async () => {{ console.log('before'); 'a'.repeat(1e6).{method}('a'.repeat(8000) + 'b'); console.log('after'); }});")
        });
    let fixture = fixture(&format!(
        "{}
         export const results = query(async () => {{
           const p = 'x'.repeat(399) + 'y', gap = 'x'.repeat(350_000);
           const text = gap + p + gap + p, second = 700_400;
           const at = (...more: any[]) => [text.indexOf(p, ...more), text.lastIndexOf(p, ...more), text.includes(p, ...more)];
           return [at(), at(350_000), at(350_001), at(second), at(second + 1), at(-1), at(Infinity), at(NaN), at('350001'), at(null),
             text.replace(p, '[$&]') === gap + '[' + p + ']' + gap + p, text.replace(p, (_m, i) => i) === gap + '350000' + gap + p,
             text.replaceAll(p, '!') === gap + '!' + gap + '!', text.split(p).map((s) => s.length), text.split(p, 1).length,
             text.indexOf(p + 'z'), text.lastIndexOf('z' + p), text.includes(p + 'z'), (p + gap + gap + p).lastIndexOf(p, 0), (p + gap + gap).indexOf(p)];
         }});",
        methods.join("\n")
    ));
    let limits = Limits { time: Duration::from_millis(100), ..Limits::default() };
    for method in ["includes", "indexOf", "lastIndexOf", "replace", "replaceAll", "split"] {
        let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
        let name = format!("messages:{method}");
        let ran = fixture.run_with(&name, "[{}]", &SEED, &limits, &mut host);
        assert_eq!(ran.result.unwrap_err().kind, FailureKind::TimeLimit, "{method}");
        assert_eq!(ran.log_lines, ["[LOG] 'before'"], "{method}");
    }
    let both = "[350000,700400,true]";
    let one = "[700400,350000,true]";
    assert_eq!(
        fixture.value("messages:results", "[{}]"),
        format!(
            "[{both},[350000,350000,true],{one},[700400,700400,true],[-1,700400,false],[350000,-1,true],[-1,700400,false],\
             {both},{one},[350000,-1,true],true,true,true,[350000,350000,0],1,-1,-1,false,0,0]"
        )
    );
}

/// The engine does not check the clock within its own loops.
#[test]
fn single_built_in_calls_are_interrupted() {
    let fixture = fixture(
        "const sparse = () => new Array(2 ** 32 - 1);
         export const joined = query(async () => sparse().join(''));
         export const reversed = query(async () => sparse().reverse().length);
         export const sliced = query(async () => sparse().slice().length);
         export const concatenated = query(async () => [].concat(sparse()).length);
         export const text = query(async () => `${sparse()}`);
         export const sorted = query(async () => sparse().sort().length);
         export const found = query(async () => 'a'.repeat(2e7).indexOf('a'.repeat(1e7) + 'b'));
         export const replaced = query(async () => 'a'.repeat(2e7).replaceAll('a'.repeat(1e7) + 'b', ''));
         export const fine = query(async () => 1);",
    );
    for name in
        ["joined", "reversed", "sliced", "concatenated", "text", "sorted", "found", "replaced"]
    {
        let failure = fails_alone(&fixture, name, &ample());
        assert!(
            failure.message.starts_with("Uncaught RangeError: "),
            "{name}: {}",
            failure.message
        );
    }
    let fixture = super::fixture(
        "export const repeated = query(async () => { const a = new Array(1e5); for (;;) { try { a.join('x'); } catch {} } });
         export const fine = query(async () => 1);",
    );
    let limits = Limits { time: Duration::from_millis(20), ..Limits::default() };
    assert_eq!(fails_alone(&fixture, "repeated", &limits).kind, FailureKind::TimeLimit);
}

/// False lengths, arrays that contain themselves, and many short calls.
#[test]
fn the_time_limit_ends_built_in_loops() {
    let fixture = fixture(
        "const H = 2 ** 53 - 1;
         const lying = () => { let asked = 0; return { get length() { return asked++ === 0 ? 3 : H; } }; };
         const liar = () => { let asked = 0; return new Proxy([], { get: (t: any, k) => k === 'length' ? (asked++ === 0 ? 3 : H) : t[k] }); };
         const receivers: Record<string, () => any> = { huge: () => ({ length: H }), lying, liar, proxied: () => new Proxy({ length: H }, {}) };
         const twins = () => { let o: any = []; for (let i = 0; i < 60; i++) o = [o, o]; return o; };
         const arrays = ['concat', 'copyWithin', 'fill', 'flat', 'flatMap', 'join', 'reverse', 'shift', 'slice', 'sort', 'splice', 'unshift',
           'toReversed', 'toSorted', 'toSpliced', 'toLocaleString', 'with', 'every', 'some', 'forEach', 'map', 'filter', 'reduce', 'reduceRight',
           'find', 'findIndex', 'findLast', 'findLastIndex', 'includes', 'indexOf', 'lastIndexOf', 'toString', 'pop', 'push', 'at'];
         export const names = query(async () => [arrays, Object.keys(receivers)]);
         export const call = query({ args: { name: v.string(), receiver: v.string() }, handler: async (_ctx, { name, receiver }) => {
           const call = (...args: any[]) => { try { (Array.prototype as any)[name].apply(receivers[receiver](), args); } catch {} };
           call(); call(() => 0); call(0, 1, 2); call(receivers[receiver]()); call(1, H); call(-1, -H, 1);
         } });
         export const flattened = query(async () => twins().flat(Infinity));
         export const concatenated = query(async () => { let a: any = []; a[Symbol.isConcatSpreadable] = true; a.length = 2 ** 32 - 1; [].concat({ length: H, [Symbol.isConcatSpreadable]: true } as any); });
         export const sorted = query(async () => { const a = new Float64Array(1e5); for (;;) a.sort(); });
         export const filled = query(async () => { const a = new Uint8Array(1e6); for (;;) a.fill(1); });
         export const searched = query(async () => { const a = 'a'.repeat(1e5), b = 'a'.repeat(500) + 'b'; for (;;) a.indexOf(b); });
         export const disguised = query(async () => { const o: any = { toString: () => 'a'.repeat(1e5) }; for (;;) String.prototype.includes.call(o, 'a'.repeat(500) + 'b'); });
         export const fine = query(async () => 1);",
    );
    let limits = Limits { time: Duration::from_millis(20), ..Limits::default() };
    let names = fixture.value("messages:names", "[{}]");
    let [arrays, receivers]: [Vec<String>; 2] = serde_json::from_str(&names).unwrap();
    for name in &arrays {
        for receiver in &receivers {
            let args = format!("[{{\"name\":\"{name}\",\"receiver\":\"{receiver}\"}}]");
            let mut host =
                Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
            let ran = fixture.run_with("messages:call", &args, &SEED, &limits, &mut host);
            if let Err(failure) = ran.result {
                let is_limit =
                    matches!(failure.kind, FailureKind::TimeLimit | FailureKind::MemoryLimit);
                assert!(is_limit, "{name} of {receiver}: {}", failure.message);
            }
        }
    }
    for name in ["flattened", "concatenated", "sorted", "filled", "searched", "disguised"] {
        let failure = fails_alone(&fixture, name, &limits);
        assert_eq!(failure.kind, FailureKind::TimeLimit, "{name}: {}", failure.message);
    }
}

/// The engine counts references to these settings, and a wrong count aborts the process.
#[test]
fn stack_trace_settings_end_with_the_call() {
    let fixture = fixture(
        "const values = () => [{}, [], 'text', 5n, Symbol('s'), null, undefined, 1.5, () => 1, function () { return {}; }, class {}, Error];
         export const set = query(async () => {
           for (const name of ['prepareStackTrace', 'stackTraceLimit']) {
             for (const value of values()) for (const again of values()) {
               try { (Error as any)[name] = value; (Error as any)[name] = again; } catch {}
               try { (null as any).x; } catch (e) { String((e as any).stack); }
             }
           }
           (Error as any).prepareStackTrace = () => 'mine'; (Error as any).stackTraceLimit = 3;
           return [new Error('x').stack, (Error as any).stackTraceLimit];
         });",
    );
    for _ in 0..3 {
        assert_eq!(fixture.value("messages:set", "[{}]"), "[\"mine\",3]");
    }
}

/// Built-in iterators, and sorts of strings without a comparison function.
#[test]
fn the_time_limit_ends_iterations_and_sorts() {
    let fixture = fixture(
        "const endless = (): any => [].values.call({ length: 2 ** 53 - 1 });
         const like = (): any => ({ size: Infinity, has: () => true, keys: endless });
         export const dropped = query(async () => endless().drop(2 ** 52).next());
         export const united = query(async () => new Set([undefined]).union(like()).size);
         export const superset = query(async () => new Set([undefined]).isSupersetOf({ ...like(), size: 1 }));
         export const sorted = query(async () => { const a = Array.from({ length: 1e6 }, (_, i) => (i * 7919) % 1e6); for (;;) a.sort(); });
         export const same = query(async () => {
           const long: any[] = Array.from({ length: 20_000 }, (_, i) => (i * 7919) % 20_000);
           const sorted = [...long.slice(0, 10_000).sort(), ...long.slice(10_000).sort()];
           const all = [...long, undefined, 'b', 'a', true].sort();
           return [all.every((value, i) => i === 0 || value === undefined || String(all[i - 1]) <= String(value)), all.at(-1) === undefined,
             sorted.length, [...new Set([1, 2]).union(new Set([3]))], [...[1, 2, 3].values().drop(1)], new Set([1]).isSubsetOf(new Set([1, 2])),
             [...new Set([1, 2]).intersection(new Map([[2, 0]]))], [...[1, 2, 3].values().drop(5)].length];
         });
         export const fine = query(async () => 1);",
    );
    let limits = Limits { time: Duration::from_millis(100), ..Limits::default() };
    for name in ["dropped", "united", "superset", "sorted"] {
        let failure = fails_alone(&fixture, name, &limits);
        assert_eq!(failure.kind, FailureKind::TimeLimit, "{name}: {}", failure.message);
    }
    let value = fixture.value("messages:same", "[{}]");
    assert_eq!(value, "[true,true,20000,[1,2,3],[2,3],true,[2],0]");
}

#[test]
fn bounded_methods_follow_the_specification() {
    let fixture = fixture(
        "class Mine extends Array { more = 1; }
         export const same = query(async () => {
           const like = { length: 3, 0: 'a', 2: 'c' };
           const reversed = Array.prototype.reverse.call(like as any);
           return [
             [1, [2, [3, [4]]], , 5].flat(), [1, [2, [3, [4]]]].flat(Infinity), [1, [2]].flat(0), [[1, 2], [3]].flatMap((x) => x.map((y) => y * 2)),
             [1, , 3].concat([4, , 6], 7, [[8]] as any).length, Array.prototype.concat.call('s' as any, [1], 2).length,
             [].concat({ length: 2, 0: 'x', 1: 'y', [Symbol.isConcatSpreadable]: true } as any), [1].concat(new Proxy([2, 3], {})),
             reversed === (like as any), JSON.stringify(like), Array.prototype.slice.call({ length: 2, 0: 1, 1: 2 }),
             Array.prototype.join.call('abc', '-'), new Mine(1, 2).flat() instanceof Mine, new Mine().concat([1], {} as any) instanceof Mine,
             [3, 1, 2].sort(), [...new Float64Array([3, 1, 2]).sort()], 'a-b-c'.split('-'), 'aXbX'.replaceAll('X', 'y'), 'abc'.replace(/b/, 'd'),
             [1, 2, 3].splice(1, 1), Array.prototype.concat.length, Array.prototype.flat.name,
           ];
         });",
    );
    assert_eq!(
        fixture.value("messages:same", "[{}]"),
        "[[1,2,[3,[4]],5],[1,2,3,4],[1,[2]],[2,4,6],8,3,[\"x\",\"y\"],[1,2,3],true,\
         \"{\\\"0\\\":\\\"c\\\",\\\"2\\\":\\\"a\\\",\\\"length\\\":3}\",[1,2],\"a-b-c\",true,true,[1,2,3],[1,2,3],\
         [\"a\",\"b\",\"c\"],\"ayby\",\"adc\",[2],0,\"flat\"]"
    );
}

#[test]
fn time_spent_in_the_host_does_not_count() {
    let fixture = fixture(
        "export const asks = query(async () => { await Convex.asyncSyscall('op', '{}'); return 1; });",
    );
    let mut slow = Host {
        asked: Vec::new(),
        answer: |_: &str, _: &str| {
            // Longer than the function's own time limit.
            let started = tokio::time::Instant::now();
            while started.elapsed() < Duration::from_millis(1_100) {
                std::hint::spin_loop();
            }
            Ok("null".to_owned())
        },
    };
    let limits = Limits { time: Duration::from_secs(1), ..Limits::default() };
    let ran = fixture.run_with("messages:asks", "[{}]", &SEED, &limits, &mut slow);
    assert_eq!(ran.result.unwrap(), "1");
    assert!(ran.js_time < Duration::from_secs(1), "{:?}", ran.js_time);
}

#[test]
fn endless_allocation_ends_its_function() {
    let fixture = fixture(
        "export const objects = query(async () => { const all = []; for (;;) all.push({}); });
         export const strings = query(async () => { let text = 'x'; for (;;) text += text + 'y'; });
         export const buffers = query(async () => { const all = []; for (;;) all.push(new ArrayBuffer(1 << 20)); });
         export const shared = query(async () => { const all = []; for (;;) all.push(new SharedArrayBuffer(1 << 20)); });
         export const huge = query(async () => { new Uint8Array(2 ** 40); });
         export const filled = query(async () => new Array(2 ** 32 - 1).fill(0));
         export const repeated = query(async () => 'x'.repeat(2 ** 29).length);
         export const bigint = query(async () => { let n = 2n; for (;;) n = n * n; });
         export const closures = query(async () => { let f = () => 1; for (;;) { const g = f; f = () => g() + 1; } });
         export const promises = query(async () => { const all = []; for (;;) all.push(Promise.resolve(1)); });
         export const json = query(async () => JSON.stringify(new Array(2 ** 32 - 1)));
         export const padded = query(async () => 'x'.padEnd(2 ** 29).length);
         export const pattern = query(async () => new RegExp('(?:' + 'a{1,1000}'.repeat(1000) + '){1,1000}').test('b'));
         export const symbols = query(async () => { const all: any = {}; for (let i = 0; ; i++) all[Symbol.for('s' + i)] = 1; });
         export const maps = query(async () => { const all = new Map(); for (let i = 0; ; i++) all.set(i, i); });
         export const encoded = query(async () => new TextEncoder().encode('ÿ'.repeat(3e6)).length);
         export const decoded = query(async () => new TextDecoder().decode(new Uint8Array(2e6).fill(255)).length);
         export const fine = query(async () => 1);",
    );
    let limits = Limits { memory_bytes: 8 << 20, ..ample() };
    let names = [
        "objects", "strings", "buffers", "shared", "huge", "filled", "repeated", "closures",
        "promises", "json", "padded", "symbols", "maps", "encoded", "decoded",
    ];
    for name in names {
        let failure = fails_alone(&fixture, name, &limits);
        let is_clear = failure.kind == FailureKind::MemoryLimit
            // The language itself refuses these, however much memory there is.
            || failure.message.starts_with("Uncaught RangeError: ")
            || failure.message.starts_with("Uncaught InternalError: string too long");
        assert!(is_clear, "{name}: {:?} {}", failure.kind, failure.message);
        if failure.kind == FailureKind::MemoryLimit {
            let message = failure.message;
            assert!(
                message.ends_with("ran out of memory (maximum memory usage: 8 MiB)"),
                "{name}: {message}"
            );
        }
    }
    // The engine refuses these by other limits of its own, or they succeed.
    for name in ["bigint", "pattern"] {
        let _ = fixture.ran(&format!("messages:{name}"), "[{}]");
        assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
    }
}

/// Memory can run out at any allocation, including those of the engine's start.
#[test]
fn an_engine_survives_running_out_of_memory_anywhere() {
    let fixture = fixture(
        "export const works = query({ args: { n: v.number() }, handler: async (ctx, { n }) => {
           const all = [];
           for (let i = 0; i < n; i++) {
             await log.audit({ i, text: 'x'.repeat(10), at: log.vars.now });
             all.push({ i, date: new Date(i).toISOString(), text: `${i}`.padStart(20), error: new Error('x').stack?.length });
             try { throw new ConvexError({ i }); } catch (e) { all.push(String(e)); }
           }
           console.log(all[0], new URL('https://example.com/').href);
           return all.length;
         } });
         export const fine = query(async () => 1);",
    );
    let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
    let mut succeeded = 0;
    let mut bytes = 300_000;
    while succeeded < 3 {
        let limits = Limits { memory_bytes: bytes, ..ample() };
        let ran = fixture.run_with("messages:works", "[{\"n\":4}]", &SEED, &limits, &mut host);
        match ran.result {
            Ok(value) => {
                assert_eq!(value, "8");
                succeeded += 1;
            }
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::MemoryLimit, "{bytes}: {}", failure.message)
            }
        }
        // A prime, so that the steps hit different allocations.
        bytes += 2_221;
    }
    assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
}

/// Small values take many times their text once the host parses them.
#[test]
fn arguments_of_operations_count_towards_memory() {
    /// Answers 1,000 operations when the last of them arrives.
    struct Late(Vec<Later>);

    impl Syscalls for Late {
        fn syscall(&mut self, _: &str, _: &str) -> Result<String, SyscallError> {
            unreachable!("actions have no such operations")
        }

        fn async_syscall(&mut self, _: &str, _: &str, later: Later) -> Answer {
            self.0.push(later);
            if self.0.len() == 1_000 {
                self.0.drain(..).for_each(|later| later.complete(Ok("null".to_owned())));
            }
            Answer::Later
        }
    }

    let fixture = fixture(
        "declare const Convex: any;
         const wide = (n: number) => `[${'[],'.repeat(n)}0]`;
         const ask = (n: number) => Convex.asyncSyscall('op', wide(n));
         export const synchronous = query(async () => { try { Convex.syscall('op', wide(1e6)); } catch {} return 1; });
         export const asynchronous = query(async () => { try { await ask(1e6); } catch {} return 1; });
         export const audited = query(async () => { try { await Convex.asyncSyscall('1.0/auditLog', wide(1e6)); } catch {} return 1; });
         export const many = action(async () => { await Promise.all(Array.from({ length: 1000 }, () => ask(1e4))); return 1; });
         export const few = action(async () => { await Promise.all(Array.from({ length: 1000 }, () => ask(100))); return 1; });
         export const fits = query(async () => { for (let i = 0; i < 100; i++) { await ask(1e4); Convex.syscall('op', wide(1e4)); } return 1; });
         export const fine = query(async () => 1);",
    );
    for name in ["synchronous", "asynchronous"] {
        assert_eq!(fails_alone(&fixture, name, &ample()).kind, FailureKind::MemoryLimit, "{name}");
    }
    for name in ["fits", "audited"] {
        assert_eq!(fixture.value(&format!("messages:{name}"), "[{}]"), "1", "{name}");
    }

    let run = |name: &str| {
        let mut host = Late(Vec::new());
        let ran = fixture.run_with(name, "[{}]", &SEED, &ample(), &mut host);
        (ran.result.map_err(|failure| failure.kind), host.0.len())
    };
    assert_eq!(run("messages:few"), (Ok("1".to_owned()), 0));
    let (result, asked) = run("messages:many");
    assert_eq!(result, Err(FailureKind::MemoryLimit));
    assert!(asked < 60, "{asked}");
}

#[test]
fn deep_recursion_fails_or_is_caught() {
    let fixture = fixture(
        "const deep = (n: number): number => deep(n + 1) + 1;
         export const plain = query(async () => deep(0));
         export const caught = query(async () => { try { return deep(0); } catch (e) { return (e as Error).name; } });
         export const getter = query(async () => { const o = { get a(): number { return this.a; } }; return o.a; });
         export const proxy = query(async () => { const p: any = new Proxy({}, { get: (_, k) => p[k] }); return p.x; });
         export const text = query(async () => { const o = { toString(): string { return `${this}`; } }; return `${o}`; });
         export const json = query(async () => JSON.parse('['.repeat(1e5) + ']'.repeat(1e5)));
         export const written = query(async () => { let o: any = {}; for (let i = 0; i < 1e5; i++) o = { o }; return JSON.stringify(o); });
         export const returned = query(async () => { let o: any = {}; for (let i = 0; i < 1e5; i++) o = { o }; return o; });
         export const pattern = query(async () => new RegExp('('.repeat(1e5) + ')'.repeat(1e5)).test('a'));
         export const matched = query(async () => /^(?:(a)|b)*$/.test('ab'.repeat(1e6)));
         export const bound = query(async () => { let f: any = () => 1; for (let i = 0; i < 1e5; i++) f = f.bind(null); return f(); });
         export const evaluated = query(async () => eval('('.repeat(1e5) + '1' + ')'.repeat(1e5)));
         export const chain = query(async () => { let o: any = {}; for (let i = 0; i < 1e5; i++) o = Object.create(o); return o.x ?? 1; });
         export const fine = query(async () => 1);",
    );
    assert_eq!(fixture.failure("messages:plain").kind, FailureKind::StackOverflow);
    assert!(
        fixture
            .failure("messages:plain")
            .message
            .starts_with("Uncaught RangeError: Maximum call stack size exceeded")
    );
    assert_eq!(fixture.value("messages:caught", "[{}]"), "\"RangeError\"");
    for name in ["getter", "proxy", "text", "json", "written", "returned", "pattern", "evaluated"] {
        fails_alone(&fixture, name, &ample());
    }
    // These may succeed, as long as the process survives.
    for name in ["matched", "bound", "chain"] {
        let _ = fixture.ran(&format!("messages:{name}"), "[{}]");
        assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
    }
}

#[test]
fn changed_globals_affect_only_their_own_call() {
    let fixture = fixture(
        "const spoilers: Record<string, () => void> = {
           json: () => { JSON.stringify = () => 'nonsense'; JSON.parse = () => ({}); },
           toJSON: () => { (Object.prototype as any).toJSON = () => 'forged'; },
           iterator: () => { (Array.prototype as any)[Symbol.iterator] = () => { throw new Error('spoilt'); }; },
           push: () => { Array.prototype.push = () => { throw new Error('spoilt'); }; },
           then: () => { (Promise.prototype as any).then = () => { throw new Error('spoilt'); }; },
           thenable: () => { (Object.prototype as any).then = (resolve: any) => resolve(1); },
           keys: () => { Object.keys = () => []; Object.entries = () => []; Reflect.ownKeys = () => []; },
           getter: () => { Object.defineProperty(Object.prototype, 'data', { get() { throw new Error('spoilt'); } }); },
           map: () => { Map.prototype.get = () => { throw new Error('spoilt'); }; },
           string: () => { String.prototype.startsWith = () => false; String.prototype.slice = () => { throw 1; }; },
           error: () => { (globalThis as any).Error = function () {}; (Error as any).prepareStackTrace = () => { throw 1; }; },
           convex: () => { (globalThis as any).Convex = undefined; (globalThis as any).console = undefined; },
           everything: () => { for (const k of Reflect.ownKeys(globalThis)) { try { delete (globalThis as any)[k]; } catch {} } },
         };
         export const spoil = query({ args: { by: v.string(), throws: v.boolean() }, handler: async (_ctx, { by, throws }) => {
           spoilers[by](); await log.audit({ by, ip: log.vars.ip, list: [1] }); if (throws) throw new ConvexError('x'); return by;
         } });
         export const look = query(async () => JSON.stringify([...[1, 2]].map((n) => ({ n })), Object.keys({ a: 1 })));",
    );
    let looks = fixture.value("messages:look", "[{}]");
    for by in [
        "json",
        "toJSON",
        "iterator",
        "push",
        "then",
        "thenable",
        "keys",
        "getter",
        "map",
        "string",
        "error",
        "convex",
        "everything",
    ] {
        for throws in [false, true] {
            let (asked, result) = fixture
                .asked("messages:spoil", &format!("[{{\"by\":\"{by}\",\"throws\":{throws}}}]"));
            assert_eq!(fixture.value("messages:look", "[{}]"), looks, "after {by}");
            if let Err(failure) = result {
                assert!(failure.message.starts_with("Uncaught"), "{by}: {}", failure.message);
            }
            if by != "thenable" {
                let body = format!(
                    "{{\"body\":{{\"by\":\"{by}\",\"ip\":{{\"$var\":\"ip\"}},\"list\":[1]}}}}"
                );
                assert_eq!(asked, [("1.0/auditLog".to_owned(), body)], "{by}");
            }
        }
    }
}

#[test]
fn arguments_may_be_named_like_members_of_objects() {
    let fixture = fixture("export const same = query(async (_ctx, args) => args);");
    let args = "{\"constructor\":1,\"hasOwnProperty\":null,\"toString\":\"x\"}";
    assert_eq!(fixture.value("messages:same", &format!("[{args}]")), args);
    if !with_npm_package() {
        let args = "{\"__proto__\":{\"a\":1}}";
        assert_eq!(fixture.value("messages:same", &format!("[{args}]")), args);
    }
}

#[test]
fn code_cannot_be_compiled_from_text() {
    let fixture = fixture(
        "const made: Record<string, () => unknown> = {
           eval: () => eval('1'), indirect: () => (0, eval)('1'), function: () => new Function('return 1')(), called: () => Function('1'),
           method: () => (() => {}).constructor('1'), parameter: () => new Function('a = 1', ''), empty: () => new Function(),
           derived: () => new (class extends Function {})('1'), async: () => (async () => {}).constructor('1'),
           generator: () => (function* () {}).constructor('1'), both: () => (async function* () {}).constructor('1'),
           reflected: () => Reflect.construct(Object.getPrototypeOf((function* () {}).constructor), ['1']),
         };
         export const all = query(async () => Object.keys(made).map((name) => {
           try { made[name](); return name; } catch (e) { return e instanceof EvalError || e instanceof TypeError; }
         }));
         export const found = query(async () => [Function('return this')(), new Function('return this')(), self, global].every(
           (value) => value === globalThis));
         export const kept = query(async () => [eval(1 as any), Function.name, Function.length, (() => {}) instanceof Function,
           Function.prototype === Object.getPrototypeOf(() => {}), (() => {}).constructor === Function]);",
    );
    let expected = ["true"; 12].join(",");
    assert_eq!(fixture.value("messages:all", "[{}]"), format!("[{expected}]"));
    assert_eq!(fixture.value("messages:found", "[{}]"), "true");
    assert_eq!(fixture.value("messages:kept", "[{}]"), "[1,\"Function\",1,true,true,true]");
}

/// The engine would read these functions from bytecode when they are first accessed, and abort the
/// process if the function's time was over by then.
#[test]
fn functions_are_not_read_lazily_from_bytecode() {
    let fixture = fixture(
        "const of = (Array as any).fromAsync;
         async function* later() { yield 1; yield 2; }
         const failed = async (promise: Promise<unknown>) => { try { await promise; return 'none'; } catch (e) { return (e as Error).name; } };
         export const left = query(async () => ['zip', 'zipKeyed'].filter((name) => name in Iterator));
         export const made = query(async () => {
           class Own extends Array { own = true; }
           const own = await of.call(Own, [1, 2]);
           return [
             await of.call(Array, [1, Promise.resolve(2)]), await of.call(Array, later()), await of.call(Array, { length: 2, 0: 1, 1: 2 }),
             await of.call(Array, new Set([1]), (n: number, i: number) => n + i), await of.call(undefined, 'ab'),
             await of.call(Array, [1, 2], async function (this: number, n: number) { return n * this; }, 3),
             [own instanceof Own, own.length], [of.name, of.length],
             await failed(of.call(Array, null)), await failed(of.call(Array, [1], 1)), await failed(of.call(Array, [Promise.reject(new RangeError())])),
           ];
         });",
    );
    assert_eq!(fixture.value("messages:left", "[{}]"), "[]");
    assert_eq!(
        fixture.value("messages:made", "[{}]"),
        "[[1,2],[1,2],[1,2],[1],[\"a\",\"b\"],[3,6],[true,2],[\"fromAsync\",1],\
         \"TypeError\",\"TypeError\",\"RangeError\"]"
    );
}

#[test]
fn exceeding_memory_with_small_objects_ends_the_call() {
    let fixture = fixture(
        "export const objects = query(async () => { try { const all = []; for (;;) all.push(new Array(100).fill(0)); } catch {} return 1; });
         export const awaited = query(async () => { let last: any; for (;;) { try { last = { last, text: await `${'x'.repeat(500)}` }; } catch {} } });
         export const bound = query(async () => { let f: any = () => 1; for (;;) { try { f = f.bind(null, f); } catch {} } });
         export const fine = query(async () => 1);",
    );
    for name in ["objects", "awaited", "bound"] {
        let failure = fixture.failure(&format!("messages:{name}"));
        assert_eq!(failure.kind, FailureKind::MemoryLimit, "{name}: {}", failure.message);
    }
    assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
}

/// The engine's own search functions free an element twice if the clock ends them.
#[test]
fn interrupted_searches_do_not_corrupt_the_engine() {
    let fixture = fixture(
        "export const search = query(async (_ctx, { name, steps }: { name: string, steps: number }) => {
           const members: any = {};
           for (let i = 0; i < 100; i++) members[`member ${i} of the object`] = {};
           const all: any = [Object.keys(members), Object.values(members)].flat();
           // The engine checks the clock once in a number of steps, so these determine where it
           // does.
           for (let i = 0; i < steps; i++) {}
           for (;;) all[name]((value: any, i: number) => i === -1);
         });
         export const found = query(async () => [
           [5, 6, 7].find((n) => n > 5), [5, 6, 7].findIndex((n) => n > 5), [5, 6, 7].findLast((n) => n > 5), [5, 6, 7].findLastIndex((n) => n > 5),
           [1].find(() => false) === undefined, [1].findIndex(() => false), [, 1].findIndex((n) => n === undefined),
           Array.prototype.findIndex.call('abc', (c) => c === 'b'), Array.prototype.find.call({ length: 2, 1: 'x' }, (x) => x === 'x'),
           [1].find(function (this: any) { return this.a; }, { a: 1 }), Array.prototype.findLast.length, Array.prototype.findLast.name,
           Object.keys(Array.prototype).length,
         ]);
         export const fine = query(async () => 1);",
    );
    assert_eq!(
        fixture.value("messages:found", "[{}]"),
        "[6,1,7,2,true,-1,0,1,\"x\",1,1,\"findLast\",0]"
    );
    let limits = Limits { time: Duration::from_millis(5), ..Limits::default() };
    let mut host = Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) };
    for name in ["find", "findIndex", "findLast", "findLastIndex"] {
        for steps in 0..20 {
            let args = format!("[{{\"name\":\"{name}\",\"steps\":{steps}}}]");
            let ran = fixture.run_with("messages:search", &args, &SEED, &limits, &mut host);
            assert_eq!(ran.result.unwrap_err().kind, FailureKind::TimeLimit, "{name}");
        }
    }
    assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
}

/// Names with the same hash are compared with each other, and the engine checks no clock meanwhile.
#[test]
fn names_that_were_chosen_to_collide_are_refused() {
    let fixture = fixture(
        "export const keys = query(async (_ctx, args: any) => Object.keys(args).length);
         export const parsed = action(async (_ctx, { text }: any) => Object.keys(JSON.parse(text)).length);
         export const revived = query(async (_ctx, { text }: any) => Object.keys(JSON.parse({ toString: () => text } as any, (_, v) => v)).length);
         export const fine = query(async () => 1);",
    );
    let twins = ["fpnlbgw", "lodjsyq"];
    let of = |n: u32| (0..13).map(|at| twins[(n >> at) as usize % 2]).collect::<String>();
    let members = |name: &dyn Fn(u32) -> String| {
        (0..8_192).map(|n| format!("\"{}\":0", name(n))).collect::<Vec<_>>().join(",")
    };
    let (colliding, usual) = (members(&of), members(&|n| format!("name of {n:090}")));
    for (members, is_refused) in [(colliding, true), (usual, false)] {
        let text = serde_json::Value::from(format!("{{{members}}}"));
        let args = [
            ("keys", format!("[{{{members}}}]")),
            ("parsed", format!("[{{\"text\":{text}}}]")),
            ("revived", format!("[{{\"text\":{text}}}]")),
        ];
        for (name, args) in args {
            let result = fixture.ran(&format!("messages:{name}"), &args).result;
            match result {
                Ok(count) => assert!(!is_refused && count == "8192", "{name}: {count}"),
                Err(failure) => assert!(
                    is_refused && failure.message.contains("names of members"),
                    "{name}: {}",
                    failure.message
                ),
            }
        }
    }
    assert_eq!(fixture.value("messages:fine", "[{}]"), "1");
}

/// Authors make regular expressions of what clients search for.
#[test]
fn patterns_that_take_long_to_compile_are_refused() {
    let fixture = fixture(
        "const sets = (n: number) => `[${Array.from({ length: n }, (_, i) => String.fromCharCode(((i * 2) % 40000) + 200)).join('')}`;
         const ways: any = {
           made: (text: string) => new RegExp(text, 'iu'), called: (text: string) => RegExp(text),
           object: (text: string) => new RegExp({ toString: () => text } as any),
           derived: (text: string) => new (class extends RegExp {})(text), matched: (text: string) => 'x'.match(text),
           all: (text: string) => 'x'.matchAll(text as any), searched: (text: string) => 'x'.search(text),
           compiled: (text: string) => /x/.compile(text), reflected: (text: string) => Reflect.construct(RegExp, [text]),
           own: (text: string) => new (/x/.constructor as any)(text),
         };
         export const ran = query(async (_ctx, { way, kind }: any) => {
           const text = { one: sets(60000) + ']', open: sets(60000), many: (sets(4000) + ']').repeat(20), long: 'a|'.repeat(200000), plain: sets(6000) + ']' }[kind as 'one'];
           try { ways[way](text); return 'made'; } catch (error: any) { return `${error.name}: ${error.message}`; }
         });
         export const same = query(async () => {
           class Own extends RegExp { static get [Symbol.species]() { return RegExp; } }
           const pattern = /a(b)/g;
           return [RegExp(pattern) === pattern, new RegExp(pattern) !== pattern, new RegExp(pattern, 'i').flags, pattern instanceof RegExp,
             pattern.constructor === RegExp, new Own('a') instanceof Own, 'xay'.split(new Own('a')).join(), 'a-b'.split(/-/).join(), RegExp.name,
             RegExp.length, RegExp[Symbol.species] === RegExp, new RegExp().source, RegExp('a', 'y').flags, [...'abab'.matchAll(pattern)].length,
             String.raw`a\\n${1}b`, String.raw({ raw: 'abc' } as any, 1, 2), String.raw({ raw: { length: 2, 0: 'x', 1: 'y' } } as any, '-'),
             'a'.search({ [Symbol.search]: () => 7 }), 'a'.matchAll({ [Symbol.matchAll]: () => 8 } as any), 'a'.match({ [Symbol.match]: () => 9 } as any),
             'aundefined'.match(undefined as any)![0] === '', 'axb'.search(['x'] as any)].join(' ');
         });
         export const raw = query(async () => String.raw({ raw: { length: 2 ** 40 } } as any));
         export const sparse = query(async () => String.raw({ raw: new Array(2 ** 32 - 1) } as any));
         export const fine = query(async () => 1);",
    );
    let ways = [
        "made",
        "called",
        "object",
        "derived",
        "matched",
        "all",
        "searched",
        "compiled",
        "reflected",
        "own",
    ];
    for way in ways {
        for (kind, expected) in [
            ("one", "RangeError: RegExp(): character classes of this pattern exceed limit of 8192"),
            (
                "open",
                "RangeError: RegExp(): character classes of this pattern exceed limit of 8192",
            ),
            (
                "many",
                "RangeError: RegExp(): character classes of this pattern exceed limit of 8192",
            ),
            (
                "long",
                "RangeError: RegExp(): a pattern of 400000 characters exceeds limit of 131072",
            ),
        ] {
            let args = format!("[{{\"way\":\"{way}\",\"kind\":\"{kind}\"}}]");
            let found = fixture.value("messages:ran", &args);
            assert!(found.contains(expected), "{way} {kind}: {found}");
        }
    }
    let plain = "[{\"way\":\"made\",\"kind\":\"plain\"}]";
    assert_eq!(fixture.value("messages:ran", plain), "\"made\"");
    assert_eq!(
        fixture.value("messages:same", "[{}]"),
        r#""true true i true true true x,y a,b RegExp 2 true (?:) y 2 a\\n1b a1b2c x-y 7 8 9 true 1""#
    );
    for name in ["raw", "sparse"] {
        let limits = Limits { time: Duration::from_millis(100), ..Limits::default() };
        let failure = fails_alone(&fixture, name, &limits);
        assert!(
            matches!(failure.kind, FailureKind::TimeLimit | FailureKind::MemoryLimit),
            "{name}: {failure:?}"
        );
    }
}

#[test]
fn long_runs_of_marks_are_not_normalized() {
    let fixture = fixture(
        "const marks = (n: number) => `a${'\\u0301'.repeat(n / 2)}${'\\u0323'.repeat(n / 2)}`;
         export const normal = query(async (_ctx, { n, times, form }: any) => marks(n).repeat(times).normalize(form).length);
         export const disguised = query(async () => String.prototype.normalize.call({ toString: () => marks(1e6) } as any, 'NFKD').length);
         export const compared = query(async () => marks(1e6).localeCompare('b'));
         export const same = query(async () => 'x'.repeat(2e4).normalize('NFC') === 'x'.repeat(2e4) && 'e\\u0301'.repeat(1e4).normalize() === '\\u00e9'.repeat(1e4));
         export const fine = query(async () => 1);",
    );
    let length = |n: u32, times: u32, form: &str| {
        let args = format!("[{{\"n\":{n},\"times\":{times},\"form\":\"{form}\"}}]");
        fixture.ran("messages:normal", &args).result.map_err(|failure| failure.message)
    };
    for form in ["NFC", "NFD", "NFKC", "NFKD"] {
        let refused = length(1_000_000, 1, form).unwrap_err();
        assert!(refused.contains("exceed limit of 4096"), "{form}: {refused}");
        assert!(length(4_000, 10, form).is_ok(), "{form}");
    }
    for name in ["disguised", "compared"] {
        let failure = fails_alone(&fixture, name, &ample());
        assert!(failure.message.contains("exceed limit of 4096"), "{name}: {}", failure.message);
    }
    assert_eq!(fixture.value("messages:same", "[{}]"), "true");
}

/// What a client sends is read in linear time, however it is made: reading each of these texts in
/// quadratic time would take hours.
#[test]
fn texts_of_clients_are_read_in_linear_time() {
    let fixture = fixture(
        "const blanks = ' '.repeat(1e6);
         const form = (type: string, body: string) =>
           new Response(body, { headers: { 'content-type': `multipart/form-data; boundary=${type}` } }).formData();
         const part = (head: string) => `--b\\r\\nContent-Disposition: form-data; name=\"a\"; filename=\"f\"\\r\\n${head}\\r\\n\\r\\nx\\r\\n--b--`;
         const cases: any = {
           header: () => new Headers([['a', `x${blanks}y`]]).get('a')!.length,
           request: () => new Request('http://a/', { headers: { a: `x${blanks}y` } }).headers.get('a')!.length,
           blob: async () => (await new Response('', { headers: { 'content-type': `text/plain${blanks}x` } }).blob()).type.length,
           type: async () => ((await form('b', part(`Content-Type: x${blanks}y`))).get('a') as File).type.length,
           disposition: async () => (await form('b', part(`X: ${'content-disposition:'.repeat(2e5)}`))).get('a') !== null,
           boundary: () => form(`${'-'.repeat(50_000)}x`, '-'.repeat(4e6)).then(() => 'form', () => 'broken'),
           unended: () => form('b', `--b\\r\\n${'\\r\\n--'.repeat(1e6)}`).then(() => 'form', () => 'broken'),
           parameters: () => new URLSearchParams('a=%'.repeat(1e5)).size,
           key: () => crypto.subtle.importKey('jwk', { kty: 'oct', k: `x${'='.repeat(4e6)}x` }, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']).catch(() => 'broken'),
           base64: () => { try { return atob(`${'='.repeat(4e6)}x`); } catch { return 'broken'; } },
           date: () => String(Date.parse(`1 ${'('.repeat(1e6)} 2020`)),
         };
         export const names = query(async () => Object.keys(cases));
         export const read = query(async (_ctx, { name }: any) => (await cases[name]()) ?? null);",
    );
    let names: Vec<String> =
        serde_json::from_str(&fixture.value("messages:names", "[{}]")).unwrap();
    let slow: Vec<String> = names
        .into_iter()
        .filter_map(|name| {
            let args = format!("[{{\"name\":\"{name}\"}}]");
            let failure = fixture.ran("messages:read", &args).result.err()?;
            Some(format!("{name}: {}", failure.message))
        })
        .collect();
    assert!(slow.is_empty(), "{slow:#?}");
}
