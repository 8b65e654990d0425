//! The bodies that `log.audit` sends to the host, also when the npm package is used.

use super::*;

/// Logs each of the values that `bodies` returns. The result is the body sent to the host, or the
/// message with which `log.audit` refused it.
fn bodies(expressions: &[&str]) -> Vec<String> {
    let cases: Vec<String> =
        expressions.iter().map(|expression| format!("() => ({expression})")).collect();
    let fixture = fixture(&format!(
        "const bodies: any[] = [{}];
         export const audit = query({{ args: {{ i: v.number() }}, handler: async (_ctx, {{ i }}) => {{
           try {{ await log.audit(bodies[i]()); }} catch (e) {{ return (e as Error).message; }}
         }} }});",
        cases.join(",\n")
    ));
    let body = |i: usize| {
        let (asked, result) = fixture.asked("messages:audit", &format!("[{{\"i\":{i}}}]"));
        match (asked.as_slice(), result) {
            ([(op, args)], Ok(_)) if op == "1.0/auditLog" => {
                let body = args
                    .strip_prefix("{\"body\":")
                    .and_then(|rest| rest.strip_suffix('}'))
                    .unwrap();
                body.to_owned()
            }
            (_, Ok(message)) => serde_json::from_str(&message).unwrap(),
            (_, Err(failure)) => failure.message,
        }
    };
    (0..expressions.len()).map(body).collect()
}

#[test]
fn bodies_match_json_stringify() {
    let same = [
        "{}",
        "{ a: 1, b: -2.5, c: 0, d: -0, e: 1e21, f: 1e-7, g: 2 ** 53, h: 123456789012345680000, i: NaN, j: Infinity, k: 0.1 + 0.2 }",
        "{ text: 'q\"\\\\ \\n\\r\\t\\b\\f\\u0001\\u007f\\u2028 é 😀', '': 'empty', 'a b': 1 }",
        "{ lone: '\\ud800x', pair: '\\ud83d\\ude00' }",
        "{ left: undefined, out: () => 1, kept: null, list: [undefined, () => 1, null, , 1] }",
        "{ date: new Date(0), invalid: new Date(NaN), nested: { toJSON(key: string) { return { key, n: 1 }; } } }",
        "{ boxed: [new Number(1), new String('s'), new Boolean(false), Object('t')] }",
        "{ map: new Map([[1, 2]]), set: new Set([1]), regex: /x/, error: new Error('m'), bytes: new Uint8Array([1, 2]) }",
        "{ deep: { a: { b: [[[{ c: true }]]] } } }",
        "new (class Body { a = 1; get b() { return 2; } #c = 3; })()",
        "Object.assign(Object.create({ inherited: 1 }), { own: 2 })",
        "Object.assign(Object.create(null), { a: 1 })",
        "Object.defineProperty({ a: 1 }, 'hidden', { value: 2 })",
        "{ [Symbol('key')]: 1, 2: 'two', 1: 'one', b: 1, a: 2 }",
        "new Proxy({ a: 1, b: [1] }, {})",
        "{ list: new Proxy([1, { a: 2 }], {}) }",
        "{ get once() { return 1; } }",
        "{ toJSON() { return { replaced: true }; } }",
        "{ self: { toJSON: 1 } }",
        "JSON.parse('{\"__proto__\":1,\"constructor\":{\"prototype\":2}}')",
        "{ hole: [1, , 3], proxied: new Proxy([1, , 3], {}), far: new Proxy(new Proxy([5], {}), {}) }",
        "{ key: { '\\ud800x': 1 } }",
        "{ 'a\\0b': 1, a: 2, 'a\\0c': '\\0' }",
        "{ dated: new (class extends Date { toISOString() { return 'mine'; } })(0) }",
        "{ dated: new (class extends Date { toJSON() { return 'mine'; } })(0) }",
        "{ made: Object.create({ toJSON() { return 'made'; } }) }",
        "{ answered: new Proxy({ a: 1 }, { get: (t: any, k) => k === 'toJSON' ? () => 'trap' : t[k] }) }",
        "{ url: new URL('https://example.com/a?b#c') }",
        "{ twice: (() => { const o = { a: 1 }; return [o, o]; })() }",
        "{ big: { toJSON: () => 5n.toString() } }",
        "{ list: [{ toJSON: (key: string) => key }, [{ toJSON: (key: string) => key }]], in: { toJSON: (key: string) => key } }",
    ];
    let expected: Vec<String> =
        same.iter().map(|expression| format!("{{ json: JSON.stringify({expression}) }}")).collect();
    let expected = bodies(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    for ((body, expected), expression) in bodies(&same).iter().zip(expected).zip(same) {
        let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
        assert_eq!(Some(body.as_str()), expected["json"].as_str(), "{expression}");
    }
}

#[test]
fn variables_may_occur_at_any_depth() {
    let body = bodies(&[
        "{ ip: log.vars.ip, all: [log.vars.now, { agent: log.vars.userAgent }, [log.vars.requestId, log.vars.ip]], by: log.vars.convexActor }",
    ]);
    let expected = "{\"ip\":{\"$var\":\"ip\"},\"all\":[{\"$var\":\"now\"},{\"agent\":{\"$var\":\"userAgent\"}},\
                    [{\"$var\":\"requestId\"},{\"$var\":\"ip\"}]],\"by\":{\"$var\":\"convexActor\"}}";
    assert_eq!(body[0], expected);
}

#[test]
fn data_that_looks_like_a_variable_is_refused() {
    let refused = bodies(&[
        "{ a: Symbol('var.ip') }",
        "{ a: { '$var': 'ip' } }",
        "{ $x: 1 }",
        "{ a: Symbol.for('var.ip') }",
    ]);
    assert!(refused[0].starts_with("Unknown audit var symbol: Symbol(var.ip)."), "{}", refused[0]);
    assert!(
        refused[1].starts_with("Audit log body keys must not start with \"$\": \"$var\""),
        "{}",
        refused[1]
    );
    assert!(
        refused[2].starts_with("Audit log body keys must not start with \"$\": \"$x\""),
        "{}",
        refused[2]
    );
    assert!(refused[3].starts_with("Unknown audit var symbol"), "{}", refused[3]);
}

#[test]
fn values_without_json_are_refused_with_their_path() {
    let refused = bodies(&[
        "{ a: { b: [1, { c: 5n }] } }",
        "(() => { const o: any = { a: [] }; o.a.push({ o }); return o; })()",
        "{ a: { b: { $c: 1 } } }",
        "{ a: [Symbol('x')] }",
        "[1]",
        "'text'",
        "null",
        "log.vars.ip",
        "new Date(0)",
        "undefined",
        "5",
        "(() => { let o: any = {}; for (let i = 0; i < 1e5; i++) o = { o }; return o; })()",
        "{ get a() { throw new Error('mine'); } }",
        "new Proxy({}, { ownKeys() { throw new Error('trap'); } })",
    ]);
    let object =
        |what: &str| format!("Audit log body must be an object; as JSON, this one is {what}");
    let expected = [
        "BigInt value can't be serialized in JSON (at a.b[1].c)".to_owned(),
        "Converting circular structure to JSON (at a[0].o)".to_owned(),
        "Audit log body keys must not start with \"$\": \"$c\" (at a.b)".to_owned(),
        "Unknown audit var symbol: Symbol(x). (at a[0])".to_owned(),
        object("an array"),
        object("a string"),
        object("null"),
        object("a variable"),
        object("a string"),
        object("nothing"),
        object("a number"),
    ];
    assert_eq!(&refused[..expected.len()], expected);
    assert!(
        refused[11].starts_with("Audit log body nests deeper than 64 levels (at o.o.o"),
        "{}",
        &refused[11][..80]
    );
    assert_eq!(&refused[12..], ["mine", "trap"]);
}

/// The host ends a function whose log is too large, so the log must reach it even if the function
/// catches errors.
#[test]
fn oversized_bodies_reach_the_host() {
    let fixture = fixture(
        "const long = 'x'.repeat(1e6);
         export const audit = query(async () => { await log.audit({ list: new Array(1e4).fill(long) }); });
         export const sparse = query(async () => { await log.audit({ list: new Array(2 ** 32 - 1) }); });",
    );
    for name in ["audit", "sparse"] {
        let (asked, _) = fixture.asked(&format!("messages:{name}"), "[{}]");
        assert!(asked[0].1.len() > 8 << 20 && asked[0].1.len() < 9 << 20, "{}", asked[0].1.len());
        serde_json::from_str::<serde_json::Value>(&asked[0].1).unwrap();
    }
}

#[test]
fn getters_and_proxies_run_once() {
    let fixture = fixture(
        "export const audit = query(async () => {
           let reads = 0; const traps: string[] = [];
           await log.audit({
             get a() { return ++reads; },
             p: new Proxy({ x: 1 }, { get(t: any, k) { traps.push(String(k)); return t[k]; } }),
           });
           return [reads, traps];
         });",
    );
    let (asked, result) = fixture.asked("messages:audit", "[{}]");
    assert_eq!(asked[0].1, "{\"body\":{\"a\":1,\"p\":{\"x\":1}}}");
    assert!(
        result
            .as_ref()
            .is_ok_and(|result| result.ends_with("\"x\"]]") && result.starts_with("[1,[\"toJSON\"")),
        "{result:?}"
    );
}

/// A member that JSON cannot represent is reported once, with its path.
#[test]
fn members_that_json_drops_are_reported_once() {
    let fixture = fixture(
        "export const audit = query(async () => {
           const all = () => ({ error: new Error('m'), map: new Map([[1, 2]]), deep: [{ set: new Set([1]) }, { set: new Set([2]) }],
             bytes: new ArrayBuffer(4), mine: new (class Mine extends Error {})('x'), regex: /x/, url: new URLSearchParams('a=1'),
             plain: {}, none: Object.create(null), list: [], empty: new (class Empty {})(), date: new Date(0), view: new Uint8Array(2) });
           await log.audit(all()); await log.audit(all());
         });",
    );
    let ran = fixture.ran("messages:audit", "[{}]");
    ran.result.unwrap();
    let expected = [
        ("error", "Error"),
        ("map", "Map"),
        ("deep[0].set", "Set"),
        ("bytes", "ArrayBuffer"),
        ("mine", "Error"),
        ("regex", "RegExp"),
        ("url", "URLSearchParams"),
    ];
    let expected = expected.map(|(path, class)| format!(
        "[WARN] 'log.audit: {path} is logged as {{}}: JSON has no form for the content of {class}'"
    ));
    assert_eq!(ran.log_lines, expected);
}

/// Walking a small body can take long.
#[test]
fn the_time_limit_ends_walks_of_bodies() {
    let fixture = fixture(
        "const wide = (member: any) => Object.fromEntries(Array.from({ length: 1e4 }, (_, i) => ['k' + i, member]));
         export const empty = query(async () => { await log.audit({ all: new Array(1e6).fill(wide(undefined)) }); });
         export const caught = query(async () => { for (;;) try { await log.audit({ all: new Array(1e6).fill(wide(() => 1)) }); } catch {} });
         export const nested = query(async () => { let o: any = wide(undefined); for (let i = 0; i < 60; i++) o = { toJSON: () => [o, o] }; await log.audit({ o }); });
         export const doubled = query(async () => { let o: any = wide(undefined); for (let i = 0; i < 60; i++) o = { a: o, b: o }; await log.audit(o); });
         export const holes = query(async () => { for (;;) log.audit({ a: new Proxy([], { get: (_, k) => k === 'length' ? 2 ** 53 : undefined }) }).catch(() => {}); });
         export const fine = query(async () => 1);",
    );
    let limits = Limits { time: Duration::from_millis(100), ..Limits::default() };
    for name in ["empty", "caught", "holes"] {
        let failure = super::hostile::fails_alone(&fixture, name, &limits);
        assert_eq!(failure.kind, FailureKind::TimeLimit, "{name}: {}", failure.message);
    }
    for name in ["nested", "doubled"] {
        let _ = fixture.run_with(
            &format!("messages:{name}"),
            "[{}]",
            &SEED,
            &limits,
            &mut Host { asked: Vec::new(), answer: |_: &str, _: &str| Ok("null".to_owned()) },
        );
    }
}

/// Whatever runs while a body is written: getters, methods `toJSON` and `toISOString`, traps of
/// proxies. Each calls `remove` and answers with a value.
const HOOKS: [&str; 8] = [
    "{ get '-'() { remove(); return 1; } }",
    "{ get '-'() { remove(); return 1; }, set '-'(_) {} }",
    "{ '-': { toJSON() { remove(); return 1; } } }",
    "{ '-': { get toJSON() { remove(); return undefined; } } }",
    "{ '-': new (class extends Date { toISOString() { remove(); return 'x'; } })(0) }",
    "{ '-': { in: [{ get deep() { remove(); return 1; } }] } }",
    "{ '-': new Proxy({ x: 1 }, { get(o: any, n) { if (n === 'x') remove(); return o[n]; } }) }",
    "{ '-': new Proxy({ x: 1 }, { ownKeys(o) { remove(); return Reflect.ownKeys(o); } }) }",
];

/// What holds the hook's member and, after it, the member `k`: `t` is the object, `p` is logged.
const HOLDERS: [&str; 9] = [
    "const t: any = {}; fill(t); const p = t",
    "const t: any = Object.create(null); fill(t); const p = t",
    "const t: any = new (class Own { [key: string]: any })(); fill(t); const p = t",
    "const t: any = []; fill(t); const p = t",
    "const t: any = new (class List extends Array {})(); fill(t); const p = t",
    "const t: any = {}; fill(t); const p = new Proxy(t, {})",
    "const t: any = {}; fill(t); const p = new Proxy(t, { __proto__: null, has: () => true } as any)",
    "const t: any = []; fill(t); const p = new Proxy(t, { __proto__: null, has: () => true } as any)",
    "const t: any = {}; fill(t); const p = new Proxy(new Proxy(t, {}), \
     { __proto__: null, ownKeys: (o: any) => Reflect.ownKeys(o) } as any)",
];

/// How the hook lets another object answer for `k`, which it removes.
const SWAPS: [&str; 13] = [
    "base[k] = 'forged'",
    "Object.defineProperty(base, k, { get: () => 'forged', configurable: true })",
    "Object.defineProperty(base, k, { get() { delete base[k]; return 'forged'; }, configurable: true })",
    "Object.defineProperty(base, k, { get: () => 'forged', set() {}, configurable: true })",
    "(Array.prototype as any)[k] = 'forged'; base[k] = 'forged'",
    "(Array.prototype as any)[k] = 'forged'",
    "Object.setPrototypeOf(Array.prototype, liar)",
    "Object.setPrototypeOf(t, { [k]: 'forged' })",
    "Object.setPrototypeOf(t, { get [k]() { return 'forged'; }, set [k](_) {} })",
    "Object.setPrototypeOf(t, liar)",
    "Object.setPrototypeOf(t, Object.create({ [k]: 'forged' }))",
    "t.__proto__ = { [k]: 'forged' }",
    "if (Object.getPrototypeOf(t) !== null) Object.setPrototypeOf(t, Object.create(liar))",
];

/// Only own members are part of a body. A member deleted before it is visited is left out, as by
/// the original `JSON.stringify`, even if a prototype has a member of that name by then, also one
/// that the body's own code has just put there.
#[test]
fn members_that_hooks_delete_are_not_inherited() {
    let keys = ["z", "toString", "1"];
    let removals = ["delete t[k]", "Reflect.deleteProperty(t, k)"];
    let mut expressions = Vec::new();
    for (key, removal) in keys.into_iter().zip(removals.into_iter().cycle()) {
        for hook in HOOKS {
            for holder in HOLDERS {
                // Elements are visited in the order of their indexes, and nothing else of arrays.
                let is_list = holder.contains("t: any = []") || holder.contains("List");
                if is_list && key != "1" {
                    continue;
                }
                let first = if is_list || key == "1" { "0" } else { "-" };
                for swap in SWAPS {
                    expressions.push(format!(
                        "(() => {{ const k = '{key}', base: any = Object.prototype; \
                         const liar: any = new Proxy({{}}, {{ has: () => false, \
                         get: (_, key) => key === k ? 'forged' : undefined }}); \
                         const fill = (o: any) => {{ const hook: any = {hook}; \
                         Object.defineProperty(o, '{first}', \
                         {{ ...Object.getOwnPropertyDescriptor(hook, '-'), enumerable: true }}); \
                         o[k] = 'mine'; }}; \
                         {holder}; const remove = () => {{ {removal}; {swap}; }}; \
                         return {{ p }}; }})()"
                    ));
                }
            }
        }
    }
    let expressions: Vec<&str> = expressions.iter().map(String::as_str).collect();
    let mut failures = Vec::new();
    // Many small modules take less time than a large one.
    let bodies = expressions.chunks(100).flat_map(bodies);
    for (body, expression) in bodies.zip(&expressions) {
        if !body.starts_with("{\"p\":") || body.contains("forged") || body.contains("mine") {
            failures.push(format!("{expression}: {body}"));
        }
    }
    let (count, of) = (failures.len(), expressions.len());
    assert_eq!(failures.first(), None, "{count} of {of} bodies");
}

/// A function can change what proxies inherit while a body is written.
#[test]
fn foreign_traps_and_methods_do_not_answer_for_proxies() {
    let partial = "new Proxy({ get a() { change(); return 1; }, b: 'mine' } as any, \
                   { __proto__: HANDLER, has: () => true } as any)";
    let changes = [
        "base.get = () => 'forged'",
        "Object.defineProperty(base, 'get', { configurable: true, get: () => () => 'forged' })",
    ];
    let mut expressions = Vec::new();
    for change in changes {
        for handler in ["Object.prototype", "(class {}).prototype"] {
            let partial = partial.replace("HANDLER", handler);
            for proxy in [format!("new Proxy({partial}, {{ __proto__: null }} as any)"), partial] {
                expressions.push(format!(
                    "(() => {{ const base: any = Object.prototype; const change = () => {{ {change}; }}; \
                     return {{ p: {proxy} }}; }})()"
                ));
            }
        }
    }
    let handlers = [
        "has: () => true",
        "get: (t: any, k: any) => t[k]",
        "ownKeys: (t: any) => Reflect.ownKeys(t)",
    ];
    let methods = [
        "base.toJSON = () => 'forged'",
        "Object.defineProperty(base, 'toJSON', { configurable: true, get: () => () => 'forged' })",
        "Object.defineProperty(base, 'toJSON', { configurable: true, \
         get() { delete base.toJSON; return () => 'forged'; } })",
    ];
    let first_of_methods = expressions.len();
    for handler in handlers {
        for method in methods {
            expressions.push(format!(
                "(() => {{ const base: any = Object.prototype; {method}; \
                 return {{ p: new Proxy({{ a: 1 }}, {{ __proto__: null, {handler} }} as any) }}; }})()"
            ));
        }
    }
    let expressions: Vec<&str> = expressions.iter().map(String::as_str).collect();
    let bodies = bodies(&expressions);
    for (i, (body, expression)) in bodies.iter().zip(&expressions).enumerate() {
        assert!(!body.contains("forged"), "{expression}: {body}");
        if i >= first_of_methods {
            assert_eq!(body, "{\"p\":{\"a\":1}}", "{expression}");
        }
    }
}
