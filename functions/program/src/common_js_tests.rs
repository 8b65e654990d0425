//! CommonJS modules behave as with esbuild.

use super::tests::Files;

/// Loads `a.ts` with these files, and panics unless its variable `got` has the expected value.
fn expect(module: &str, expected: &str, files: &[(&str, &str)]) {
    let all = Files::new(files);
    all.write(
        "convex/a.ts",
        &format!(
            "{module}\nexport {{}}; {{ const text = JSON.stringify(got), expected = JSON.stringify({expected}); \
             if (text !== expected) throw new Error(`got ${{text}}, not ${{expected}}`); }}"
        ),
    );
    if let Err(error) = all.load() {
        panic!("{error}: {module}");
    }
}

#[test]
fn exports_are_imported_as_by_the_bundler() {
    let plain =
        "exports.a = 1; exports.b = function () { return this === exports; }; exports['c-d'] = 3;";
    let transpiled = "Object.defineProperty(exports, '__esModule', { value: true }); exports.default = 'd'; exports.a = 1;";
    let function = "module.exports = function f() { return 'f'; }; module.exports.member = 'm';";
    // The importing module, the CommonJS module, the expected value of `got`.
    let table = [
        ("import x from 'm'; const got = x.a;", plain, "1"),
        ("import { a } from 'm'; const got = a;", plain, "1"),
        (
            "import { a as z, nothing } from 'm'; const got = [z, typeof nothing];",
            plain,
            "[1, 'undefined']",
        ),
        (
            "import * as ns from 'm'; const got = [ns.a, Object.keys(ns), ns['c-d']];",
            plain,
            "[1, ['default', 'a', 'b', 'c-d'], 3]",
        ),
        (
            "import x, * as ns from 'm'; const got = [x === ns.default, ns.b === x.b, x.b()];",
            plain,
            "[true, true, true]",
        ),
        (
            "export * from 'm'; export { a as renamed } from 'm'; export * as all from 'm'; import * as self from './a'; const got = Object.keys(self);",
            plain,
            "['a', 'all', 'b', 'renamed']",
        ),
        ("import x from 'm'; const got = x;", transpiled, "'d'"),
        ("import x, { a } from 'm'; const got = [x, a];", transpiled, "['d', 1]"),
        ("import { default as x } from 'm'; const got = x;", transpiled, "'d'"),
        ("import f from 'm'; const got = [f(), f.member];", function, "['f', 'm']"),
        ("import * as f from 'm'; const got = [f.default(), f.member];", function, "['f', 'm']"),
        ("import f = require('m'); const got = f();", function, "'f'"),
        ("const f = require('m'); const got = [f(), require('m') === f];", function, "['f', true]"),
        (
            "const got = [(await import('m')).default(), Object.keys(await import('m'))];",
            function,
            "['f', ['default']]",
        ),
        (
            "import 'm'; const got = (globalThis as any).effect;",
            "globalThis.effect = 'done';",
            "'done'",
        ),
        ("import x from 'm'; const got = x;", "module.exports = null;", "null"),
        ("import x from 'm'; const got = x;", "module.exports = 'text';", "'text'"),
        ("import x from 'm'; const got = x;", "module.exports = [1, 2];", "[1, 2]"),
        ("import X from 'm'; const got = new X().y;", "module.exports = class { y = 1 };", "1"),
        (
            "import { y } from 'm'; const got = y;",
            "module.exports = { get y() { return 7; } };",
            "7",
        ),
        (
            "import { y } from 'm'; const got = y;",
            "class A { y() {} } A.y = 8; module.exports = A;",
            "8",
        ),
        ("import x from 'm'; const got = x;", "exports = { lost: 1 };", "{}"),
        (
            "import x from 'm'; const got = x;",
            "this.a = 1; (function () { this.b = 2; }).call(this);",
            "{ a: 1, b: 2 }",
        ),
        // A UMD bundle.
        (
            "import x from 'm'; const got = x.u;",
            "(function (g, f) { typeof exports === 'object' && typeof module !== 'undefined' ? module.exports = f() : typeof define === 'function' && define.amd ? define(f) : (g.u = f()); })(this, function () { return { u: 1 }; });",
            "1",
        ),
        (
            "import x from 'm'; const got = x;",
            "var require = function () { return 'own'; }; module.exports = require('nowhere');",
            "'own'",
        ),
        (
            "import x from 'm'; const got = x;",
            "module.exports = process.env.NODE_ENV === 'production' ? 'p' : require('./nowhere');",
            "'p'",
        ),
        (
            "import x from 'm'; const got = x;",
            "if (true) return module.exports = 'returned'; module.exports = 'not';",
            "'returned'",
        ),
        (
            "import x from 'm'; const got = x;",
            "#!/usr/bin/env node\nmodule.exports = 'hash';",
            "'hash'",
        ),
        (
            "import x from 'm'; const got = x;",
            "\u{feff}module.exports = 'mark'; // the last line",
            "'mark'",
        ),
        (
            "import x from 'm'; const got = x;",
            "module.exports = typeof require + typeof module.id + typeof __filename + typeof __dirname;",
            "'functionstringstringstring'",
        ),
    ];
    for (module, text, expected) in table {
        let module = module.replace("import f = require('m')", "const f = require('m')");
        expect(
            &module,
            expected,
            &[
                ("node_modules/m/package.json", "{\"main\":\"index.js\"}"),
                ("node_modules/m/index.js", text),
            ],
        );
    }
    // An ES module in Node's sense imports `module.exports`, regardless of `__esModule`.
    for (name, files) in
        [("m.mjs", &[][..]), ("m.js", &[("lib/package.json", "{\"type\":\"module\"}")])]
    {
        let mut files = files.to_vec();
        let path = format!("lib/{name}");
        files.push((&path, "import x, { a } from 'm'; export default [x.default, a];"));
        files.push(("node_modules/m/index.js", transpiled));
        expect(&format!("import got from '../lib/{name}';"), "['d', 1]", &files);
    }
}

#[test]
fn modules_are_evaluated_once_on_require() {
    let files = [
        ("node_modules/m/index.js", "const { log } = globalThis; log.push('m begins');
            exports.before = require('./a').seen; exports.lazy = () => require('./lazy'); log.push('m ends');"),
        ("node_modules/m/a.js", "const { log } = globalThis; log.push('a begins');
            const m = require('.'); exports.seen = Object.keys(m).length; exports.m = m; require('./a'); log.push('a ends');"),
        ("node_modules/m/lazy.js", "globalThis.log.push('lazy'); module.exports = require('./data.json').n;"),
        ("node_modules/m/data.json", "{\"n\": 5}"),
        ("node_modules/esm/package.json", "{\"exports\":{\"import\":\"./m.js\",\"require\":\"./c.js\"},\"type\":\"module\"}"),
        ("node_modules/esm/m.js", "import m from 'm'; export default m.before; export const named = 2; globalThis.log.push('esm');"),
        ("node_modules/esm/c.js", "export const main = 1; export default 'd';"),
        ("node_modules/both/index.js", "const e = require('esm'); module.exports = [e.main, e.default, e.__esModule, require('esm') === e];"),
        ("convex/log.ts", "(globalThis as any).log = [];"),
    ];
    expect(
        "import './log'; import m from 'm'; import before, { named } from 'esm'; import both from 'both';
         const log = [...(globalThis as any).log];
         const got = [log, m.before, before, named, m.lazy(), m.lazy(), (globalThis as any).log.length, both];",
        "[['m begins', 'a begins', 'a ends', 'm ends', 'esm'], 0, 0, 2, 5, 5, 6, [1, 'd', true, true]]",
        &files,
    );
}

#[test]
fn missing_modules_fail_at_use() {
    let message =
        |code: &str| format!("(() => {{ try {{ {code} }} catch (e) {{ return e.message; }} }})()");
    let (absent, broken, node, computed, tried) = (
        message("m.absent()"),
        message("m.broken()"),
        message("m.node()"),
        message("m.computed('x')"),
        message("m.tried()"),
    );
    expect(
        &format!(
            "import m from 'm'; import fs, {{ readFileSync, promises }} from 'fs'; import * as crypto from 'node:crypto'; import {{ EventEmitter }} from 'events';
             class Emitter extends EventEmitter {{}}
             const got = [{absent}, {broken}, {node}, {computed}, {tried}, m.typed,
               {}, {}, {}, {}, {}];",
            message("readFileSync('x')"),
            message("fs.writeFileSync('x')"),
            message("promises.readFile('x')"),
            message("crypto.createHash('md5')"),
            message("new Emitter()"),
        ),
        "[
          'Cannot find module \\'absent\\': \"absent\" is imported, and is not installed; npm install it where the functions are',
          'node_modules/m/broken.js:2:7: unexpected token in expression: \\';\\'',
          'os.hostname is of Node.js, which this host does not have: it cannot be used in its functions',
          'Cannot find module \\'x\\': specifiers that are computed at run time cannot be followed',
          'fallback',
          'object',
          'fs.readFileSync is of Node.js, which this host does not have: it cannot be used in its functions',
          'fs.writeFileSync is of Node.js, which this host does not have: it cannot be used in its functions',
          'fs.promises.readFile is of Node.js, which this host does not have: it cannot be used in its functions',
          'crypto.createHash is of Node.js, which this host does not have: it cannot be used in its functions',
          'events.EventEmitter is of Node.js, which this host does not have: it cannot be used in its functions']",
        &[
            ("node_modules/m/index.js", "
                exports.absent = () => require('absent');
                exports.broken = () => require('./broken');
                const os = require('os');
                exports.node = () => os.hostname();
                exports.computed = (name) => require(name);
                exports.tried = () => { try { require('child_process').exec(); } catch (e) { if (e.code === 'MODULE_NOT_FOUND') throw new Error('fallback'); } };
                let optional; try { optional = require('optional-thing'); } catch (e) { optional = {}; }
                exports.typed = typeof optional;"),
            ("node_modules/m/broken.js", "function f() {\n  (1 +;\n}"),
        ],
    );
}

#[test]
fn failures_have_the_lines_of_packages() {
    let files = Files::new(&[
        ("convex/a.ts", "import { boom } from 'm';\n\n  boom();"),
        (
            "node_modules/m/index.js",
            "var x = require('./deep');\nexports.boom = function boom() {\n  x.fail();\n};",
        ),
        (
            "node_modules/m/deep.js",
            "'use strict';\n\nexports.fail = function fail() {\n\n    throw new Error('as asked');\n};",
        ),
    ]);
    assert_eq!(
        files.error(),
        "convex/a.ts: Uncaught Error: as asked\n    at fail (../node_modules/m/deep.js:5:15)\n    \
         at boom (../node_modules/m/index.js:3:5)\n    at <anonymous> (../convex/a.ts:3:3)"
    );
    let files = Files::new(&[
        ("convex/a.ts", "import 'm';"),
        ("node_modules/m/index.js", "\n\nthrow new TypeError('at once');"),
    ]);
    assert_eq!(
        files.error(),
        "convex/a.ts: Uncaught TypeError: at once\n    at <anonymous> (../node_modules/m/index.js:3:11)"
    );
}

#[test]
fn jsx_is_compiled() {
    expect(
        "import { page } from './page'; const got = page('x');",
        "['div', { id: 'x', children: ['a', 1] }]",
        &[
            ("convex/page.tsx", "export const page = (id: string) => <div id={id}>a{1}</div>;"),
            ("node_modules/react/package.json", "{\"exports\":{\"./jsx-runtime\":\"./jsx.js\"}}"),
            (
                "node_modules/react/jsx.js",
                "exports.jsx = exports.jsxs = (type, props) => [type, props];",
            ),
        ],
    );
}
