//! The line that reaches the sink for each kind of body, with this host's `log` and with that of
//! Convex's npm package.
//!
//! Functions never get the package's own `log`: this host's replaces it, whether it is imported or
//! required. It is tested as a separate module, from the package in the directory
//! `CONVEX_NPM_PACKAGE`, which `functions/with-npm` sets. functions/README.md explains the
//! differences.

use serde_json::{Value as Json, json};

use super::super::FunctionSettings;
use super::Host;

/// The expected outcome of a body.
#[derive(Clone, Copy)]
enum Cell {
    /// The line that reaches the sink.
    Line(&'static str),
    /// The reason that is recorded, and that the caller's message contains.
    Refused(&'static str),
    /// The message of an error that the function could catch. Nothing is recorded.
    Thrown(&'static str),
    /// The same as in the previous column.
    Same,
}

use Cell::{Line, Refused, Same, Thrown};

/// The name of a body; an expression for it, in which `log` is that of the column; the outcome with
/// this host's `log`; the outcome with the package's.
type Row = (&'static str, &'static str, Cell, Cell);

#[rustfmt::skip]
const ROWS: [Row; 65] = [
    ("members", "{ text: 'x', yes: true, no: false, none: null, list: [1, [2, { three: 3 }]] }",
        Line(r#"{"text":"x","yes":true,"no":false,"none":null,"list":[1,[2,{"three":3}]]}"#), Same),
    ("nothing", "{}",
        Line("{}"), Same),
    ("numbers", "{ zero: -0, large: 1e21, small: 1e-7, exact: 2 ** 53, sum: 0.1 + 0.2 }",
        Line(r#"{"zero":0,"large":1e+21,"small":1e-7,"exact":9007199254740992,"sum":0.30000000000000004}"#), Same),
    ("no numbers", "{ a: NaN, b: Infinity, c: [-Infinity] }",
        Line(r#"{"a":null,"b":null,"c":[null]}"#), Same),
    ("undefined", "{ a: undefined, b: 1 }",
        Line(r#"{"b":1}"#), Same),
    ("a function", "{ a: () => 1, b: 1 }",
        Line(r#"{"b":1}"#), Same),
    ("an array without values", "{ list: [undefined, () => 1, , 1] }",
        Line(r#"{"list":[null,null,null,1]}"#), Same),
    ("a date", "{ at: new Date(0) }",
        Line(r#"{"at":"1970-01-01T00:00:00.000Z"}"#), Line(r#"{"at":{}}"#)),
    ("an invalid date", "{ at: new Date(NaN) }",
        Line(r#"{"at":null}"#), Line(r#"{"at":{}}"#)),
    ("a date at the top", "new Date(0)",
        Refused("Audit log body must be an object; as JSON, this one is a string"), Line("{}")),
    ("boxed", "{ list: [new Number(1), new String('s'), new Boolean(false)] }",
        Line(r#"{"list":[1,"s",false]}"#), Line(r#"{"list":[{},{"0":"s"},{}]}"#)),
    ("a boxed string at the top", "new String('s')",
        Refused("Audit log body must be an object; as JSON, this one is a string"), Line(r#"{"0":"s"}"#)),
    ("a map", "{ map: new Map([['a', 1]]) }",
        Line(r#"{"map":{}}"#), Same),
    ("a set", "{ set: new Set([1]) }",
        Line(r#"{"set":{}}"#), Same),
    ("an error", "{ error: new Error('m') }",
        Line(r#"{"error":{}}"#), Same),
    ("a regular expression", "{ regex: /x/ }",
        Line(r#"{"regex":{}}"#), Same),
    ("a promise", "{ promise: Promise.resolve(1) }",
        Line(r#"{"promise":{}}"#), Same),
    ("bytes", "{ bytes: new ArrayBuffer(2) }",
        Line(r#"{"bytes":{}}"#), Same),
    ("a typed array", "{ bytes: new Uint8Array([1, 2]) }",
        Line(r#"{"bytes":{"0":1,"1":2}}"#), Same),
    ("a URL", "{ url: new URL('https://example.com/a?b') }",
        Line(r#"{"url":"https://example.com/a?b"}"#), Line(r#"{"url":{}}"#)),
    ("an object of a class", "new (class { a = 1; #b = 2; get c() { return 3; } })()",
        Line(r#"{"a":1}"#), Same),
    ("a class with toJSON", "{ money: new (class { cents = 150; toJSON() { return '1.50'; } })() }",
        Line(r#"{"money":"1.50"}"#), Line(r#"{"money":{"cents":150}}"#)),
    ("toJSON of its own", "{ a: { hidden: 1, toJSON() { return { shown: 2 }; } } }",
        Line(r#"{"a":{"shown":2}}"#), Same),
    ("the key that toJSON is given", "{ a: { toJSON: (key) => key }, list: [{ toJSON: (key) => key }] }",
        Line(r#"{"a":"a","list":["0"]}"#), Same),
    ("toJSON at the top", "{ toJSON() { return { shown: 1 }; } }",
        Line(r#"{"shown":1}"#), Same),
    ("toJSON at the top without an object", "{ toJSON() { return 'text'; } }",
        Refused("Audit log body must be an object; as JSON, this one is a string"), Refused("an audit log body must be a JSON object")),
    ("a variable out of toJSON", "{ a: { toJSON: () => log.vars.ip }, b: { toJSON: () => ({ ip: log.vars.ip }) } }",
        Line(r#"{"a":"192.0.2.1","b":{"ip":"192.0.2.1"}}"#), Line(r#"{"b":{}}"#)),
    ("a variable out of a class's toJSON", "{ a: new (class { toJSON() { return log.vars.ip; } })() }",
        Line(r#"{"a":"192.0.2.1"}"#), Line(r#"{"a":{}}"#)),
    ("an int64", "{ n: 5n }",
        Refused("BigInt value can't be serialized in JSON (at n)"), Thrown("Error: BigInt are forbidden in JSON.stringify")),
    ("an int64 with a toJSON of the language", "(() => { BigInt.prototype.toJSON = function () { return String(this); }; return { n: 5n }; })()",
        Refused("BigInt value can't be serialized in JSON (at n)"), Line(r#"{"n":"5"}"#)),
    ("an array at the top", "[1, { a: 2 }]",
        Refused("Audit log body must be an object; as JSON, this one is an array"), Line(r#"{"0":1,"1":{"a":2}}"#)),
    ("text at the top", "'text'",
        Refused("Audit log body must be an object; as JSON, this one is a string"), Line(r#"{"0":"t","1":"e","2":"x","3":"t"}"#)),
    ("a number at the top", "1",
        Refused("Audit log body must be an object; as JSON, this one is a number"), Line("{}")),
    ("null at the top", "null",
        Refused("Audit log body must be an object; as JSON, this one is null"), Thrown("TypeError: Cannot convert undefined or null to object")),
    ("undefined at the top", "undefined",
        Refused("Audit log body must be an object; as JSON, this one is nothing"), Thrown("TypeError: Cannot convert undefined or null to object")),
    ("a variable at the top", "log.vars.ip",
        Refused("Audit log body must be an object; as JSON, this one is a variable"), Line("{}")),
    ("variables at any depth", "{ ip: log.vars.ip, list: [log.vars.userAgent, [{ ip: log.vars.ip }]] }",
        Line(r#"{"ip":"192.0.2.1","list":[null,[{"ip":"192.0.2.1"}]]}"#), Same),
    ("an unknown variable", "{ a: [Symbol('var.ip')] }",
        Refused("Unknown audit var symbol: Symbol(var.ip). (at a[0])"), Thrown("Error: Unknown audit var symbol: Symbol(var.ip).")),
    ("a registered symbol", "{ a: Symbol.for('var.ip') }",
        Refused("Unknown audit var symbol: Symbol(var.ip). (at a)"), Thrown("Error: Unknown audit var symbol: Symbol(var.ip).")),
    ("a misspelled variable", "{ a: 1, address: log.vars.ipAddress }",
        Thrown(r#"TypeError: log.vars has no variable "ipAddress""#), Line(r#"{"a":1}"#)),
    ("variables as an object", "{ a: 'ip' in log.vars, b: 'x' in log.vars, c: `${log.vars}`, d: JSON.stringify(log.vars), e: log.vars.constructor === Object }",
        Line(r#"{"a":true,"b":false,"c":"[object Object]","d":"{}","e":true}"#), Same),
    ("a symbol as a key", "{ [Symbol('a')]: 1, [log.vars.ip]: 2, b: 3 }",
        Line(r#"{"b":3}"#), Same),
    ("a key that starts with $", "{ a: { $b: 1 } }",
        Refused(r#"Audit log body keys must not start with "$": "$b" (at a)"#), Thrown(r#"Error: Audit log body keys must not start with "$": "$b""#)),
    ("data that looks like a variable", "{ a: { $var: 'ip' } }",
        Refused(r#"Audit log body keys must not start with "$": "$var" (at a)"#), Thrown(r#"Error: Audit log body keys must not start with "$": "$var""#)),
    ("a key that is $ alone", "{ $: 1 }",
        Refused(r#"Audit log body keys must not start with "$": "$""#), Thrown(r#"Error: Audit log body keys must not start with "$": "$""#)),
    ("__proto__", r#"JSON.parse('{"a":1,"__proto__":{"b":2}}')"#,
        Line(r#"{"a":1,"__proto__":{"b":2}}"#), Line(r#"{"a":1}"#)),
    ("__proto__ further down", r#"{ c: JSON.parse('{"a":1,"__proto__":{"b":2}}') }"#,
        Line(r#"{"c":{"a":1,"__proto__":{"b":2}}}"#), Line(r#"{"c":{"a":1}}"#)),
    ("one object twice", "(() => { const o = { a: 1 }; return { list: [o, o] }; })()",
        Line(r#"{"list":[{"a":1},{"a":1}]}"#), Same),
    ("a circle", "(() => { const o = { a: {} }; o.a.o = o; return o; })()",
        Refused("Converting circular structure to JSON (at a.o)"), Thrown("RangeError: Maximum call stack size exceeded")),
    ("64 levels", "(() => { let o = 1; for (let i = 0; i < 64; i++) o = { o }; return o; })()",
        Line(r#"{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":{"o":1}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}"#), Same),
    ("65 levels", "(() => { let o = 1; for (let i = 0; i < 65; i++) o = { o }; return o; })()",
        Refused("Audit log body nests deeper than 64 levels (at o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o.o)"), Refused("objects and arrays nest deeper than limit of 64 levels at /o/o/o/o/o/o/o/o/o/o/o/o/o/o/o/o/…/o/o/o/o/o/o/o/o/o/o/o/o/o/o/o/o")),
    ("half a surrogate pair", r#"{ a: '\ud800' }"#,
        Refused("invalid JSON: unpaired surrogate at /a"), Same),
    ("half a surrogate pair in a key", r#"{ a: { '\udc00': 1 } }"#,
        Refused("invalid JSON: unpaired surrogate at /a"), Same),
    ("characters with escapes", r#"{ text: '"\\ \n\u0001\u2028 \0 é 😀' }"#,
        Line(r#"{"text":"\"\\ \n\u0001\u2028 \u0000 é 😀"}"#), Same),
    ("members in the language's order", "{ b: 1, 2: 'two', a: 2, 1: 'one' }",
        Line(r#"{"1":"one","2":"two","b":1,"a":2}"#), Same),
    ("inherited and hidden members", "Object.defineProperty(Object.create({ inherited: 1 }, { own: { value: 2, enumerable: true } }), 'hidden', { value: 3 })",
        Line(r#"{"own":2}"#), Same),
    ("no prototype", "Object.assign(Object.create(null), { a: 1 })",
        Line(r#"{"a":1}"#), Same),
    ("a getter", "{ get a() { return 1; } }",
        Line(r#"{"a":1}"#), Same),
    ("a getter that throws", "{ get a() { throw new Error('mine'); } }",
        Refused("something in the audit log body threw an error (at a)"), Thrown("Error: mine")),
    ("a proxy", "{ p: new Proxy({ a: 1 }, {}), list: new Proxy([1, { a: 2 }], {}) }",
        Line(r#"{"p":{"a":1},"list":[1,{"a":2}]}"#), Same),
    ("a proxy with traps", "{ p: new Proxy({ a: 1 }, { get: (target, key) => key === 'a' ? 'trapped' : target[key] }) }",
        Line(r#"{"p":{"a":"trapped"}}"#), Same),
    ("a toJSON on the language's prototype", "(() => { Object.prototype.toJSON = () => 'forged'; return { a: { b: 1 } }; })()",
        Line(r#"{"a":{"b":1}}"#), Refused(r#"no audit log: invalid type: string "forged", expected struct AuditArgs at line 1 column 8"#)),
    ("a changed Array.prototype.map", "(() => { Array.prototype.map = () => ['forged']; return { list: [1] }; })()",
        Line(r#"{"list":[1]}"#), Line(r#"{"list":["forged"]}"#)),
    ("a changed JSON.stringify", r#"(() => { JSON.stringify = () => '{"body":{"a":"forged"}}'; return { a: 1 }; })()"#,
        Line(r#"{"a":1}"#), Line(r#"{"a":"forged"}"#)),
    ("more than 1,000,000 bytes", "{ text: 'x'.repeat(1_000_000) }",
        Refused("audit log exceeds limit of 1000000 bytes"), Same),
];

/// The module of the functions `read` and `write`, which log the body of a row with one of the
/// `log`s.
fn module(has_package: bool) -> String {
    let package = "../node_modules/convex/dist/esm/server";
    let imports = if has_package {
        format!(
            "import {{ audit }} from '{package}/audit_logging.js'; \
             import {{ vars }} from '{package}/logVars.js'; import {{ log as required }} from 'required'; \
             const logs = {{ ours, required, theirs: {{ audit, vars }} }};"
        )
    } else {
        "const logs = { ours };".to_owned()
    };
    let bodies = ROWS.iter().map(|(_, body, ..)| format!("(log) => ({body})")).collect::<Vec<_>>();
    format!(
        "import {{ log as ours }} from 'convex/server';
         import {{ mutation, query }} from './_generated/server';
         {imports}
         const bodies = [{}];
         const handler = async (_ctx, {{ row, log }}) => await logs[log].audit(bodies[row](logs[log]));
         export const read = query({{ handler }});
         export const write = mutation({{ handler }});",
        bodies.join(",\n")
    )
}

#[derive(Debug)]
enum Found {
    Line(String),
    Refused(String),
    Thrown(String),
}

/// The actual outcome of a body.
async fn logged(host: &Host, function: &str, args: &Json) -> Found {
    let before = host.sink.lines().len();
    let result = if function == "read" {
        host.functions.query("logs:read", args, &host.caller()).await.unwrap().result.clone()
    } else {
        let mutated = host.functions.mutation("logs:write", args, &host.caller()).await;
        mutated.unwrap().answered.result
    };
    let lines = host.sink.lines().split_off(before);
    match (result, lines.as_slice()) {
        (Ok(_), [line]) => Found::Line(line.clone()),
        (Err(failed), []) => {
            let first = failed.message.lines().next().unwrap_or_default();
            Found::Thrown(first.trim_start_matches("Uncaught ").to_owned())
        }
        (Err(failed), [line]) => {
            let record: Json = serde_json::from_str(line).unwrap();
            let about = &record["$audit"];
            assert_eq!(about["event"], "refused", "{line}");
            let kind = if function == "read" { "query" } else { "mutation" };
            assert_eq!(about["kind"], kind, "{line}");
            let reason = about["reason"].as_str().unwrap().to_owned();
            assert!(failed.message.contains(&reason), "{} {reason}", failed.message);
            Found::Refused(reason)
        }
        (result, lines) => panic!("{args}: {result:?} {lines:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_body_is_one_line_or_one_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let package = std::env::var_os("CONVEX_NPM_PACKAGE");
    let has_package = package.is_some();
    if let Some(package) = package {
        let modules = directory.path().join("node_modules");
        std::fs::create_dir(&modules).unwrap();
        std::os::unix::fs::symlink(package, modules.join("convex")).unwrap();
        let required = "exports.log = require('convex/server').log;";
        std::fs::create_dir(modules.join("required")).unwrap();
        std::fs::write(modules.join("required/index.js"), required).unwrap();
    }
    let functions = directory.path().join("convex");
    std::fs::create_dir(&functions).unwrap();
    std::fs::write(functions.join("logs.js"), module(has_package)).unwrap();
    let settings = FunctionSettings::default();
    let host = Host::with_program(&functions, settings, audit_core::SystemRandom).await;
    let logs: &[&str] = if has_package { &["ours", "required", "theirs"] } else { &["ours"] };
    let mut wrong = Vec::new();
    for (place, &(what, _, own, package)) in ROWS.iter().enumerate() {
        for &log in logs {
            let expected = match (log, package) {
                ("theirs", Line(_) | Refused(_) | Thrown(_)) => package,
                _ => own,
            };
            for function in ["read", "write"] {
                let args = json!({ "row": place, "log": log });
                let found = logged(&host, function, &args).await;
                let is_right = match (&found, expected) {
                    (Found::Line(line), Line(expected)) => line == expected,
                    (Found::Refused(reason), Refused(expected)) => reason == expected,
                    (Found::Thrown(message), Thrown(expected)) => message == expected,
                    _ => false,
                };
                if !is_right {
                    wrong.push(format!("{what}, {log}, {function}: {found:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
