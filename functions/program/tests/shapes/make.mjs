// Writes shapes.json: small programs, each of which shows one way for modules to refer to each other, and what they
// compute as bundled by esbuild for Convex and run in Node.js; null if esbuild refuses to find an export. Run it where the esbuild
// version of Convex's package is installed: node make.mjs > shapes.json
//
// A program's entry is `convex/a.ts`, or `convex/a.tsx`; its value is the JSON of `got`. `../it/shapes.rs` runs the same.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Worker } from "node:worker_threads";

const { build } = createRequire(join(process.cwd(), "x.js"))("esbuild");

const programs = [];
let group = "";
/// The entry's text without `got` and the expression that is `got`, and the other files.
function shape(name, text, got, files = {}) {
  programs.push({ name: `${group}: ${name}`, files: { "convex/a.ts": `${text}\nconst got = ${got};`, ...files } });
}
const pkg = (name, manifest, files) => ({
  [`node_modules/${name}/package.json`]: JSON.stringify({ name, ...manifest }),
  ...Object.fromEntries(Object.entries(files).map(([file, text]) => [`node_modules/${name}/${file}`, text])),
});
const ES = "exports.__esModule = true; ";
const caught = (code) => `(() => { try { return ${code}; } catch (e) { return (e as Error).name; } })()`;

group = "names";
shape("an export that does not exist", "import { x } from './m';", "typeof x", { "convex/m.ts": "export const y = 1;" });
shape("one of JavaScript", "import { x } from './m';", "typeof x", { "convex/m.js": "export const y = 1;" });
shape("one used only as a type", "import { x } from './m'; let v: x;", "1", { "convex/m.ts": "export const y = 1;" });
shape("one of a namespace", "import * as m from './m';", "[typeof (m as any).x, m.y]", { "convex/m.ts": "export const y = 1;" });
shape("one that is re-exported", "import { y } from './m';", "y", { "convex/m.ts": "export { x, y } from './n';", "convex/n.ts": "export const y = 1;" });
shape("one that is imported from its re-export", "import { x } from './m';", "typeof x", { "convex/m.ts": "export { x } from './n';", "convex/n.ts": "export const y = 1;" });
shape("one that is imported and exported", "import { x } from './m';", "typeof x", { "convex/m.ts": "import { x } from './n'; export { x };", "convex/n.ts": "export const y = 1;" });
shape("one of two re-exports of types", "import { x, y } from './m';", "[typeof x, y]", { "convex/m.ts": "export { x } from './n'; export const y = 2;", "convex/n.ts": "export { x } from './o';", "convex/o.ts": "export type x = 1;" });
shape("one re-exported by JavaScript", "import { y } from './m';", "y", { "convex/m.js": "export { x, y } from './n';", "convex/n.js": "export const y = 1;" });
shape("one in the namespace of re-exports", "import * as m from './m';", "Object.keys(m)", { "convex/m.ts": "export { x, y } from './n';", "convex/n.ts": "export const y = 1;" });
shape("no default export", "import x from './m';", "typeof x", { "convex/m.ts": "export const y = 1;" });
shape("no default export of the namespace", "import * as m from './m';", "typeof (m as any).default", { "convex/m.ts": "export const y = 1;" });
shape("one that two stars export", "import { x } from './m';", "x", { "convex/m.ts": "export * from './n'; export * from './o';", "convex/n.ts": "export const x = 1;", "convex/o.ts": "export const x = 2;" });
shape("the same binding from two stars", "import { x } from './m';", "x", { "convex/m.ts": "export * from './n'; export * from './o';", "convex/n.ts": "export * from './o';", "convex/o.ts": "export const x = 2;" });
shape("a star beside an own export", "import { x } from './m';", "x", { "convex/m.ts": "export * from './n'; export const x = 3;", "convex/n.ts": "export const x = 1;" });
shape("a star of an empty file", "import { x } from './m';", "x", { "convex/m.ts": "export * from './n'; export * from './o';", "convex/n.ts": "", "convex/o.ts": "export const x = 2;" });
shape("a star of CommonJS within a star", "import { x } from './m';", "x", { "convex/m.ts": "export * from './n'; export * from './o';", "convex/n.ts": "export * from 'm';", "convex/o.ts": "export const x = 2;", ...pkg("m", {}, { "index.js": "for (const k of ['x']) exports[k] = 1;" }) });
shape("stars in a cycle", "import { x, y } from './m';", "[x, y]", { "convex/m.ts": "export * from './n'; export const x = 3;", "convex/n.ts": "export * from './m'; export const y = 1;" });
shape("names that are no identifiers", "import { 'a-b' as c, 'not a name' as d } from './m'; export { c as 'x y' };", "[c, d]", { "convex/m.js": "const x = 1; export { x as 'a-b', x as 'not a name' };" });
shape("star as default", "import m from './m';", "[m.x, Object.keys(m)]", { "convex/m.ts": "export * as default from './n';", "convex/n.ts": "export const x = 1;" });
shape("default as a name", "import { d } from './m';", "d", { "convex/m.ts": "export { default as d } from './n';", "convex/n.ts": "export default 4;" });
shape("a live binding", "import { n, add } from './m'; add(); add();", "n", { "convex/m.ts": "export let n = 0; export const add = () => { n++; };" });
shape("default of a variable is a copy", "import n, { add } from './m'; add();", "n", { "convex/m.ts": "let n = 0; export default n; export const add = () => { n++; };" });
shape("a live default", "import n, { add } from './m'; add();", "n", { "convex/m.ts": "let n = 0; export { n as default }; export const add = () => { n++; };" });
shape("names of anonymous defaults", "import f from './m'; import C from './n';", "[f.name, C.name]", { "convex/m.ts": "export default () => 1;", "convex/n.ts": "export default class {}" });
shape("a function before its module is evaluated", "import { f } from './m';", "f()", { "convex/m.ts": "import { g } from './n'; export function f() { return 'f'; } export const h = g;", "convex/n.ts": "import { f } from './m'; export const g = f();" });
shape("a namespace is sorted", "import * as m from './m';", "[Object.keys(m), Object.isFrozen(m), 'z' in m]", { "convex/m.ts": "export const z = 1, a = 2; export default 3;" });
shape("the namespace of a cycle", "import * as m from './m';", "[m.own(), Object.keys(m)]", { "convex/m.ts": "import * as self from './m'; export const own = () => Object.keys(self);" });

group = "types";
const types = { "convex/t.ts": "export interface I {} export type T = 1; export const v = 1; export class C {} export enum E { A = 'a' } export const enum K { B = 2 } export namespace N { export const n = 3; } export declare const d: number; export abstract class X { m() { return 4; } }" };
shape("all kinds", "import { I, T, v, C, E, K, N, X } from './t'; let i: I, t: T; class Y extends X {}", "[v, C.name, E.A, K.B, N.n, new Y().m()]", types);
shape("re-exports of all kinds", "import { v, E, N } from './m'; import type { I, T } from './m'; let i: I, t: T;", "[v, E.A, N.n]", { ...types, "convex/m.ts": "export { I, T, v, E, N } from './t';" });
shape("import type", "import type { v } from './t'; import { type C, E } from './t'; let c: C, x: typeof v;", "E.A", types);
shape("an unused import is not evaluated", "import { v } from './m'; let x: typeof v;", "typeof (globalThis as any).seen", { "convex/m.ts": "(globalThis as any).seen = 1; export const v = 1;" });
shape("with verbatimModuleSyntax it is", "import { v } from './m'; let x: typeof v;", "typeof (globalThis as any).seen", { "convex/m.ts": "(globalThis as any).seen = 1; export const v = 1;", "convex/tsconfig.json": '{"compilerOptions":{"verbatimModuleSyntax":true}}' });
shape("with verbatimModuleSyntax, only types", "import { type v } from './m'; let x: v;", "typeof (globalThis as any).seen", { "convex/m.ts": "(globalThis as any).seen = 1; export const v = 1;", "convex/tsconfig.json": '{"compilerOptions":{"verbatimModuleSyntax":true}}' });
shape("with verbatimModuleSyntax, import type", "import type { v } from './m'; let x: v;", "typeof (globalThis as any).seen", { "convex/m.ts": "(globalThis as any).seen = 1; export const v = 1;", "convex/tsconfig.json": '{"compilerOptions":{"verbatimModuleSyntax":true}}' });
shape("with verbatimModuleSyntax, no such export", "import { v } from './m'; let x: v;", "1", { "convex/m.ts": "export type v = 1;", "convex/tsconfig.json": '{"compilerOptions":{"verbatimModuleSyntax":true}}' });
shape("with preserveValueImports", "import { v } from './m'; let x: typeof v;", "typeof (globalThis as any).seen", { "convex/m.ts": "(globalThis as any).seen = 1; export const v = 1;", "convex/tsconfig.json": '{"compilerOptions":{"preserveValueImports":true}}' });
shape("with importsNotUsedAsValues", "import { v } from './m'; let x: typeof v;", "typeof (globalThis as any).seen", { "convex/m.ts": "(globalThis as any).seen = 1; export const v = 1;", "convex/tsconfig.json": '{"compilerOptions":{"importsNotUsedAsValues":"preserve"}}' });
shape("a missing file of types", "import { T } from './gone'; import type { U } from './gone2'; let t: T, u: U;", "1");
shape("a missing file of re-exported types", "export type { T } from './gone'; export type * from './gone';", "1");
shape("only a declaration file", "import { T } from './d'; let t: T;", "1", { "convex/d.d.ts": "export type T = 1;" });
shape("re-export of a declaration file", "export * from './d';", "1", { "convex/d.d.ts": "export type T = 1;" });
shape("re-export of a name of a declaration file", "export { T } from './d';", "1", { "convex/d.d.ts": "export type T = 1;" });
shape("import equals of a namespace", "import { N } from './t'; import n = N.n;", "n", types);
shape("import equals require", "import m = require('m');", "m.x", pkg("m", {}, { "index.js": "exports.x = 1;" }));
shape("exported import equals require", "import { m } from './m';", "m.x", { "convex/m.ts": "export import m = require('m');", ...pkg("m", {}, { "index.js": "exports.x = 1;" }) });
shape("export equals", "import m from './m';", "m.x", { "convex/m.ts": "const m = { x: 1 }; export = m;" });
shape("export default of a type", "import d, { v } from './m'; let x: d;", "v", { "convex/m.ts": "interface D {} export default D; export const v = 1;" });
shape("a type and a value of one name", "import { B } from './m'; let b: B;", "B", { "convex/m.ts": "export type B = string; export const B = 5;" });
shape("a shadowed type", "import { T } from './t'; function f(T: any) { return T; }", "f(1)", types);
shape("export as namespace", "export const x = 1; export as namespace Y;", "x");
shape("declarations", "declare module 'x' {} declare global { interface Window {} } declare function f(): void; declare let y: number; declare enum DE { A } declare class DC {}", "1");
shape("overloads, assertions and satisfies", "function f(a: string): string; function f(a: number): number; function f(a: any) { return a; }", "[f(1)!, <any>f('x'), (f(2) as any) satisfies any, f<any>]".replace(", f<any>", ""));
shape("instantiation expressions", "const f = <T,>(x: T) => x; const g = f<number>;", "g(2)");
shape("enums", "enum A { X, Y = 5, Z, S = 's', C = Y | 8, D = 'a' + 'b', L = 'xyz'.length, E = A.Z } enum A { M = 100 } const enum B { P = A.Y + 1, Q = -1, R = ~1 }", "[A, A.X, A[5], B.P, B.Q, B.R]");
shape("enums of another module", "import { A } from './m'; enum B { Y = A.X, Z = A.S as any }", "[B.Y, B.Z]", { "convex/m.ts": "export enum A { X = 3, S = 's' }" });
shape("an enum in a function", "function f() { enum A { X = 1 } return A.X; }", "f()");
shape("namespaces", "namespace A { export const x = 1; export function f() { return x; } export namespace B { export const y = x + 1; } export class C {} export enum E { Z = 9 } const hidden = 1; } namespace A { export const z = x + 10; }", "[A.x, A.f(), A.B.y, A.C.name, A.E.Z, A.z, 'hidden' in A]");
shape("a dotted namespace", "namespace A.B.C { export const x = 1; }", "A.B.C.x");
shape("a namespace with a variable", "namespace A { export let x = 1; export const inc = () => { x++; }; } A.inc();", "A.x");
shape("a namespace with a destructured constant", "namespace A { export const { x, y: [z] } = { x: 1, y: [2] }; }", "[A.x, A.z]");
shape("a namespace merged with a function", "function f() { return 1; } namespace f { export const x = 2; }", "[f(), f.x]");
shape("a namespace merged with a class", "class C { m() { return C.x; } } namespace C { export const x = 2; }", "new C().m()");
shape("a namespace merged with an enum", "enum E { A = 1 } namespace E { export const f = () => E.A; }", "E.f()");
shape("an exported namespace of types", "export namespace A { export type T = 1; } namespace B { export interface I {} }", "typeof B === 'undefined'".replace("typeof B === 'undefined'", "1"));
shape("parameter properties", "class A { x = this.y; constructor(public y: number, private readonly z = 2, protected w?: string) { this.z; } get s() { return this.z; } }", "[new A(1), new A(1).s]");
shape("parameter properties after super", "class B { constructor(public b: number) {} } class A extends B { f = 7; constructor(readonly a: number) { 'x'; super(a + 1); } }", "new A(1)");
shape("declared fields", "class B { x = 1; y = 1; z = 1; } class A extends B { declare x: number; y!: number; z?: number; }", "new A()");
for (const [name, options] of Object.entries({ "target ES2017": '"target":"ES2017"', "target ES2022": '"target":"ES2022"', "useDefineForClassFields false": '"useDefineForClassFields":false', "target ES2017 and useDefineForClassFields": '"target":"ES2017","useDefineForClassFields":true', "target ESNext": '"target":"ESNext"' }))
  shape(`fields with ${name}`, "class B { x = 1; set s(v: number) { (this as any).seen = v; } } class A extends B { x!: number; s = 2 as any; static t = 1; #p = 3; p() { return this.#p; } }", "[Object.keys(new A()), (new A() as any).seen, new A().p()]", { "convex/tsconfig.json": `{"compilerOptions":{${options}}}` });
shape("fields with settings above", "class B { x = 1; } class A extends B { x!: number; }", "Object.entries(new A())", { "tsconfig.json": '{"compilerOptions":{"target":"ES2017"}}' });
shape("fields with extended settings", "class B { x = 1; } class A extends B { x!: number; }", "Object.entries(new A())", { "convex/tsconfig.json": '{"extends":"../base.json"}', "base.json": '{"compilerOptions":{"target":"ES2017"}}' });
shape("abstract classes, accessors, index signatures", "abstract class A { abstract x: number; abstract m(): void; [k: string]: any; static { (this as any).q = 1; } static #s = 2; static s() { return A.#s; } get g(): number { return 3; } override toString() { return 'A'; } } class B extends A { x = 1; m() {} }", "[new B().g, (A as any).q, A.s(), String(new B())]");
shape("this types and optional chains", "const o: any = { f(this: any, x?: number) { return this.v + (x ?? 1); }, v: 1 };", "[o.f?.(2), o.g?.(), o!.f!()]");
shape("decorators", "const d = (v: any, c: any) => { (globalThis as any).d = (c as any).name ?? c; }; class A { @d m() {} }", "String((globalThis as any).d)");
shape("experimental decorators", "const d = (t: any, k: any) => { (globalThis as any).d = k; }; class A { @d m() {} }", "(globalThis as any).d", { "convex/tsconfig.json": '{"compilerOptions":{"experimentalDecorators":true}}' });
shape("arrow generics in .ts and angle casts", "const f = <T>(x: T) => x; const g = async <T>(x: T) => x;", "[f(1), <number>f(2)]");
shape("unused labels, ASI and regexes", "let a: any = 1\n;[1].forEach((x) => { a += x })\nlet b = a\n/2/1", "[a, b]");

group = "common js";
const cjs = (text) => pkg("m", {}, { "index.js": text });
for (const [name, text] of Object.entries({
  plain: "exports.a = 1; exports.b = 2;",
  transpiled: `${ES}exports.default = 'd'; exports.a = 1;`,
  "transpiled without default": `${ES}exports.a = 1;`,
  function: "module.exports = function f() { return 1; }; module.exports.a = 2;",
  "class": "module.exports = class K { static a = 3; };",
  null: "module.exports = null;",
  undefined: "module.exports = undefined;",
  text: "module.exports = 'abc';",
  array: "module.exports = [1, 2];",
  frozen: "module.exports = Object.freeze({ a: 1 });",
  "without prototype": "module.exports = Object.assign(Object.create(null), { a: 1 });",
  getter: "Object.defineProperty(exports, 'a', { enumerable: true, get: () => 6 });",
  hidden: "Object.defineProperty(exports, 'a', { value: 7 }); exports.b = 1;",
  inherited: "module.exports = Object.create({ a: 8 });",
  computed: "for (const k of ['a', 'b']) exports[k] = k;",
  proxy: "module.exports = new Proxy({ a: 1 }, { get: (t, k) => k === 'a' ? 'proxied' : t[k] });",
  "default member": "exports.default = 'd'; exports.a = 1;",
  "__esModule false": "exports.__esModule = false; exports.default = 'd'; exports.a = 1;",
  "__esModule of a function": "module.exports = function () { return 1; }; module.exports.__esModule = true; module.exports.default = 'd'; module.exports.a = 2;",
  "promise": "module.exports = { then(f) { f('resolved'); }, a: 1 };",
  nothing: "globalThis.effect = 1;",
  "octal": "exports.a = 017;",
  "return": "exports.a = 1; if (exports.a) return; exports.b = 1;",
  "HTML comment": "exports.a = 1; <!-- comment\n",
})) {
  shape(`${name}, default`, "import m from 'm';", "[typeof m, m]", cjs(text));
  shape(`${name}, default in .mjs`, "import x from './x.mjs';", "x", { "convex/x.mjs": "import m, { a } from 'm'; export default [typeof m, m, typeof a, a];", ...cjs(text) });
  shape(`${name}, names`, "import { a, b } from 'm';", "[typeof a, a, typeof b]", cjs(text));
  shape(`${name}, namespace`, "import * as m from 'm';", "[Object.keys(m), typeof m.default, m.a, m.default && m.default.a, typeof m]", cjs(text));
  shape(`${name}, star`, "import { a } from './x'; import * as x from './x';", "[typeof a, a, x.a, 'default' in x]", { "convex/x.ts": "export * from 'm';", ...cjs(text) });
  shape(`${name}, star as`, "import { x } from './x';", "[Object.keys(x), x.a]", { "convex/x.ts": "export * as x from 'm';", ...cjs(text) });
  shape(`${name}, re-export`, "import { z, d } from './x';", "[typeof z, z, typeof d]", { "convex/x.ts": "export { a as z, default as d } from 'm';", ...cjs(text) });
  shape(`${name}, require`, "const m = require('m'); export {};", "[typeof m, m]", cjs(text));
  shape(`${name}, import()`, "const m = await import('m');", "[typeof m.default, m.default]", cjs(text));
  shape(`${name}, required by one`, "import n from 'n';", "n", { ...cjs(text), ...pkg("n", {}, { "index.js": "const m = require('m'); module.exports = [typeof m, m && m.a];" }) });
}
shape("a live export", "import { n, add } from 'm'; add();", "n", cjs("exports.n = 0; exports.add = () => { exports.n++; };"));
shape("a live export of the namespace", "import * as m from 'm'; m.add();", "m.n", cjs("exports.n = 0; exports.add = () => { exports.n++; };"));
shape("a late export", "import { n, add } from 'm'; add();", "n", cjs("exports.add = () => { exports.n = 1; };"));
shape("exports replaced later", "import m from 'm'; m.swap(); import n from 'n';", "n", { ...cjs("exports.swap = () => { module.exports = 'new'; };"), ...pkg("n", {}, { "index.js": "exports.n = typeof require('m');" }) });
shape("an export called without this", "import { f } from 'm'; import * as m from 'm';", "[f(), m.f() === undefined]", cjs("'use strict'; exports.f = function () { return this === undefined ? 'none' : 'some'; };"));
shape("require of an ES module", "const m = require('./m'); export {};", "[m.x, m.default, m.__esModule, Object.keys(m)]", { "convex/m.ts": "export const x = 1; export default 2;" });
shape("require of an ES module in a package", "import m from 'm';", "m", pkg("m", {}, { "index.js": "const e = require('./e.mjs'); module.exports = [e.default, e.x, e.__esModule];", "e.mjs": "export default 1; export const x = 2;" }));
shape("require of module.exports in an ES module", "import m from 'm';", "m", pkg("m", {}, { "index.js": "module.exports = [typeof require('./e.mjs'), require('./e.mjs').default];", "e.mjs": "const f = () => 1; export default f; export { f as 'module.exports' };" }));
shape("a cycle of require", "import m from 'm';", "m", pkg("m", {}, { "index.js": "exports.first = 1; const b = require('./b'); exports.seen = b.seen; exports.own = b.own();", "b.js": "const a = require('./index'); exports.seen = Object.keys(a); exports.own = () => Object.keys(a);" }));
shape("a cycle of both kinds", "import m from 'm';", "m", pkg("m", {}, { "index.js": "exports.first = 1; exports.e = require('./e.mjs').x;", "e.mjs": "import m from './index.js'; export const x = typeof m + Object.keys(m);" }));
shape("errors are thrown again", "import m from 'm';", "m", pkg("m", {}, { "index.js": "const all = []; for (let i = 0; i < 2; i++) try { require('./b'); } catch (e) { all.push(e.message); } module.exports = all;", "b.js": "globalThis.count = (globalThis.count ?? 0) + 1; throw new Error('b' + globalThis.count);" }));
shape("require in a function", "import m from 'm';", "[m.f(), m.f()]", pkg("m", {}, { "index.js": "exports.f = () => require('./b').n++;", "b.js": "exports.n = 1;" }));
shape("a computed require", "import m from 'm';", caught("m.f('./b')").replace("as Error", "as any"), pkg("m", {}, { "index.js": "exports.f = (x) => require(x);", "b.js": "" }));
shape("a require of several files", "import m from 'm';", "[m.f('en'), m.f('de')]", pkg("m", {}, { "index.js": "exports.f = (x) => require('./locale/' + x + '.js').n;", "locale/en.js": "exports.n = 'en';", "locale/de.js": "exports.n = 'de';" }));
shape("an import() of several files", "const f = (x: string) => import(`./locale/${x}.ts`);", "[(await f('en')).default, (await f('de')).default, await f('fr').catch((e) => e.message.slice(0, 20))]", { "convex/locale/en.ts": "export default 'en';", "convex/locale/de.ts": "export default 'de';" });
shape("a conditional require", "import m from 'm';", "m", pkg("m", {}, { "index.js": "if (process.env.NODE_ENV === 'production') { module.exports = require('./prod.js'); } else { module.exports = require('./dev.js'); }", "prod.js": "module.exports = 'prod';", "dev.js": "module.exports = 'dev';" }));
shape("a conditional require, named", "import { a } from 'm'; import { b } from './x';", "[a, b]", { "convex/x.ts": "export * from 'm';", ...pkg("m", {}, { "index.js": "if (process.env.NODE_ENV === 'production') { module.exports = require('./prod.js'); } else { module.exports = require('./dev.js'); }", "prod.js": "exports.a = 'pa'; exports.b = 'pb';", "dev.js": "module.exports = 'dev';" }) });
shape("a missing optional require", "import m from 'm';", "m", cjs("let x; try { x = require('absent'); } catch (e) { x = e.code; } module.exports = x;"));
shape("require.resolve", "import m from 'm';", "m", cjs("module.exports = typeof require.resolve;"));
shape("typeof require and module members", "import m from 'm';", "m", cjs("module.exports = [typeof require, typeof module, typeof exports, typeof module.children, typeof require.cache, typeof require.main, module.hot];"));
shape("typeof require in an ES module", "export {};", "[typeof require, typeof module, typeof exports, typeof __filename]");
shape("a star through two", "import { a } from './y'; import * as y from './y';", "[typeof a, y.b]", { "convex/y.ts": "export * from './x'; export const own = 1;", "convex/x.ts": "export * from 'm';", ...cjs("for (const k of ['a', 'b']) exports[k] = k;") });
shape("__exportStar of a transpiled barrel", "import { x } from 'm'; import * as m from 'm'; import { y } from './z';", "[x, Object.keys(m), y]", { "convex/z.ts": "export * from 'm';", ...pkg("m", {}, { "index.js": "\"use strict\";\nvar __createBinding = (this && this.__createBinding) || (Object.create ? (function(o, m, k, k2) { if (k2 === undefined) k2 = k; Object.defineProperty(o, k2, { enumerable: true, get: function() { return m[k]; } }); }) : 0);\nvar __exportStar = (this && this.__exportStar) || function(m, exports) { for (var p in m) if (p !== 'default' && !Object.prototype.hasOwnProperty.call(exports, p)) __createBinding(exports, m, p); };\nObject.defineProperty(exports, '__esModule', { value: true });\n__exportStar(require('./x'), exports);", "x.js": "exports.x = 1; exports.y = 2;" }) });
shape("tslib's export star", "import { x } from './z';", "x", { "convex/z.ts": "export * from 'm';", ...pkg("m", {}, { "index.js": "const tslib_1 = require('./tslib'); tslib_1.__exportStar(require('./x'), exports);", "x.js": "exports.x = 1;", "tslib.js": "exports.__exportStar = (m, o) => { for (const p in m) o[p] = m[p]; };" }) });
shape("esbuild's own output", "import { x } from './z'; import m from 'm';", "[x, Object.keys(m)]", { "convex/z.ts": "export * from 'm';", ...cjs("var __defProp = Object.defineProperty; var __export = (t, all) => { for (var n in all) __defProp(t, n, { get: all[n], enumerable: true }); }; var s = {}; __export(s, { x: () => x, default: () => s0 }); module.exports = ((m) => { const t = __defProp({}, '__esModule', { value: true }); for (const k of Object.keys(m)) __defProp(t, k, { get: () => m[k], enumerable: true }); return t; })(s); var x = 1, s0 = 2; 0 && (module.exports = { x });") });
shape("a UMD bundle behind a star", "import { u } from './z';", "u", { "convex/z.ts": "export * from 'm';", ...cjs("(function (g, f) { typeof exports === 'object' && typeof module !== 'undefined' ? f(exports) : typeof define === 'function' && define.amd ? define(['exports'], f) : f(g.u = {}); })(this, function (exports) { exports.u = 1; });") });
shape("a minified UMD bundle behind a star", "import { u } from './z';", "u", { "convex/z.ts": "export * from 'm';", ...cjs("!function(e,t){\"object\"==typeof exports&&\"undefined\"!=typeof module?t(exports):t((e=e||self).U={})}(this,(function(e){e.u=1,Object.defineProperty(e,\"__esModule\",{value:!0})}));") });
shape("lodash's way of exporting, behind a star", "import { map } from './z';", "map(1)", { "convex/z.ts": "export * from 'm';", ...cjs(";(function() { var freeExports = typeof exports == 'object' && exports && !exports.nodeType && exports; var freeModule = freeExports && typeof module == 'object' && module && !module.nodeType && module; var _ = function () {}; _.map = (x) => [x]; if (freeModule) { (freeModule.exports = _)._ = _; freeExports._ = _; } }.call(this));") });
shape("two stars of CommonJS", "import { a, b } from './x'; import * as x from './x';", "[a, b, Object.keys(x).sort()]", { "convex/x.ts": "export * from 'm'; export * from 'n'; export const own = 1;", ...cjs("for (const k of ['a', 'own']) exports[k] = 'm' + k;"), ...pkg("n", {}, { "index.js": "for (const k of ['a', 'b']) exports[k] = 'n' + k;" }) });
shape("CommonJS in the app", "import m from './m.js'; import c, { b } from './c.cjs';", "[m.a, c.b, b]", { "convex/m.js": "module.exports = { a: 1 };", "convex/c.cjs": "exports.b = 2;" });
shape("CommonJS in TypeScript", "import m from './m';", "m.a", { "convex/m.ts": "const x: number = 1; module.exports = { a: x };" });
shape("require in TypeScript without exports", "import m from './m';", "typeof m", { "convex/m.ts": "const x = require('m'); (globalThis as any).x = x;", ...cjs("exports.a = 1;") });
shape("CommonJS in .cts", "import m from './m.cjs';", "m.a", { "convex/m.cts": "const x: number = 1; module.exports = { a: x };" });
shape("module.exports in an ES module", "import './m.js';", caught("(globalThis as any).seen"), { "convex/m.js": "export const x = 1; globalThis.seen = typeof module + typeof exports;" });
shape("module.exports in a package of modules", "import m from 'm';", "typeof m", pkg("m", { type: "module" }, { "index.js": "module.exports = 1;" }));
shape("module.exports in .mjs", "import m from './m.mjs';", "typeof m", { "convex/m.mjs": "module.exports = 1;" });
shape("a package of type commonjs with ES syntax", "import m from 'm';", "m", pkg("m", { type: "commonjs" }, { "index.js": "export default 'es';" }));
shape(".cjs with ES syntax", "import m from './m.cjs';", "m", { "convex/m.cjs": "export default 'es';" });
shape("a file without imports or exports", "import './m'; import * as m from './n.js';", "[(globalThis as any).seen, Object.keys(m)]", { "convex/m.ts": "(globalThis as any).seen = 1;", "convex/n.js": "globalThis.more = 1;" });
shape("a script in a package", "import m from 'm';", "[typeof m, (globalThis as any).s]", cjs("globalThis.s = typeof this; var x = 1;"));
shape("an app of ES modules imports CommonJS", "import m, { a } from 'm';", "[m, a]", { "package.json": '{"type":"module"}', ...cjs(`${ES}exports.default = 'd'; exports.a = 1;`) });
shape("such an app in .tsx and .mts", "import m from './m.mjs';", "m", { "package.json": '{"type":"module"}', "convex/m.mts": "import m, { a } from 'm'; export default [m, a];", ...cjs(`${ES}exports.default = 'd'; exports.a = 1;`) });
shape("the nearest manifest has no type", "import m from 'm';", "m", { "package.json": '{"type":"module"}', "convex/package.json": "{}", ...cjs(`${ES}exports.default = 'd'; exports.a = 1;`) });
shape("import() of a transpiled module", "const m = await import('m');", "m.default", cjs(`${ES}exports.default = 'd'; exports.a = 1;`));
shape("import() in an app of modules", "const m = await import('m');", "typeof m.default", { "package.json": '{"type":"module"}', ...cjs(`${ES}exports.default = 'd'; exports.a = 1;`) });
shape("top-level await", "const x = await Promise.resolve(4); import { y } from './m';", "[x, y]", { "convex/m.ts": "export const y = await Promise.resolve(5);" });
shape("require of a module with top-level await", "const m = require('./m'); export {};", "m.y", { "convex/m.ts": "export const y = await Promise.resolve(5);" });
shape("a module that throws, with import()", "", "[await import('./m').catch((e) => e.message), await import('./m').catch((e) => e.message)]", { "convex/m.ts": "throw new Error('no'); export {};" });

group = "packages";
const says = (x) => `export default ${JSON.stringify(x)};`;
const resolves = (name, specifier, files, text = `import x from '${specifier}';`, got = "x") => shape(name, text, got, files);
resolves("no manifest", "m", { "node_modules/m/index.js": says("index") });
resolves("main without extension", "m", pkg("m", { main: "./lib/x" }, { "lib/x.js": says("x") }));
resolves("main is a directory", "m", pkg("m", { main: "lib" }, { "lib/index.js": says("x") }));
resolves("main is missing", "m", pkg("m", { main: "./gone.js" }, { "index.js": says("index") }));
resolves("main is a directory with a slash", "m", pkg("m", { main: "lib/" }, { "lib/index.js": says("x") }));
resolves("main is .", "m", pkg("m", { main: "." }, { "index.js": says("index") }));
resolves("module and main", "m", pkg("m", { main: "c.js", module: "e.js" }, { "c.js": "module.exports = 'c';", "e.js": says("e") }));
resolves("module is missing", "m", pkg("m", { main: "c.js", module: "gone.js" }, { "c.js": "module.exports = 'c';" }));
resolves("module, main and require", "m", pkg("m", { main: "c.js", module: "e.js" }, { "c.js": "module.exports = 'c';", "e.js": says("e") }), "const x = require('m'); export {};");
resolves("module, main, import and require", "m", pkg("m", { main: "c.js", module: "e.js" }, { "c.js": "module.exports = 'c';", "e.js": says("e") }), "import x from 'm'; const y = require('m');", "[x, y]");
resolves("module, main, require elsewhere", "m", { ...pkg("m", { main: "c.js", module: "e.js" }, { "c.js": "module.exports = 'c';", "e.js": says("e") }), ...pkg("n", {}, { "index.js": "module.exports = require('m');" }) }, "import x from 'm'; import y from 'n';", "[x, y]");
resolves("browser, module and main", "m", pkg("m", { main: "c.js", module: "e.js", browser: "b.js" }, { "c.js": "module.exports = 'c';", "e.js": says("e"), "b.js": says("b") }));
resolves("browser, module, main and require", "m", pkg("m", { main: "c.js", module: "e.js", browser: "b.js" }, { "c.js": "module.exports = 'c';", "e.js": says("e"), "b.js": "module.exports = 'b';" }), "const x = require('m'); export {};");
resolves("browser as a directory", "m", pkg("m", { main: "c.js", browser: "web" }, { "c.js": "module.exports = 'c';", "web/index.js": says("b") }));
resolves("jsnext:main and unpkg", "m", pkg("m", { "jsnext:main": "e.js", unpkg: "u.js", main: "c.js" }, { "c.js": "module.exports = 'c';", "e.js": says("e"), "u.js": says("u") }));
resolves("browser map of main", "m", pkg("m", { main: "c.js", browser: { "./c.js": "./b.js" } }, { "c.js": says("c"), "b.js": says("b") }));
resolves("browser map without extension", "m", pkg("m", { main: "c.js", browser: { "./c": "./b" } }, { "c.js": says("c"), "b.js": says("b") }));
resolves("browser map of module", "m", pkg("m", { main: "c.js", module: "e.js", browser: { "./e.js": "./b.js" } }, { "c.js": says("c"), "e.js": says("e"), "b.js": says("b") }));
resolves("browser map of a file that is missing", "m", pkg("m", { main: "c.js", browser: { "./gone.js": "./b.js" } }, { "c.js": "export { default } from './gone.js';", "b.js": says("b") }));
resolves("browser map of a directory", "m", pkg("m", { main: "c.js", browser: { "./lib/index.js": "./b.js" } }, { "c.js": "export { default } from './lib';", "lib/index.js": says("lib"), "b.js": says("b") }));
resolves("browser map of a directory's name", "m", pkg("m", { main: "c.js", browser: { "./lib": "./b.js" } }, { "c.js": "export { default } from './lib';", "lib/index.js": says("lib"), "b.js": says("b") }));
resolves("browser map from a directory below", "m", pkg("m", { main: "lib/c.js", browser: { "./lib/n.js": "./b.js" } }, { "lib/c.js": "export { default } from './n.js';", "lib/n.js": says("n"), "b.js": says("b") }));
resolves("browser map to false", "m", pkg("m", { main: "c.js", browser: { "./n.js": false } }, { "c.js": "import n, * as all from './n.js'; export default [typeof n, Object.keys(all)];", "n.js": says("n") }));
resolves("browser map to false, required", "m", pkg("m", { main: "c.js", browser: { "./n.js": false } }, { "c.js": "const n = require('./n.js'); module.exports = [typeof n, Object.keys(n)];", "n.js": says("n") }));
resolves("browser map of a package", "m", { ...pkg("m", { main: "c.js", browser: { dep: "./b.js", "dep/sub": "./s.js" } }, { "c.js": "import a from 'dep'; import b from 'dep/sub'; export default [a, b];", "b.js": says("b"), "s.js": says("s") }), ...pkg("dep", {}, { "index.js": says("dep"), "sub.js": says("sub") }) });
resolves("browser map of a package to another", "m", { ...pkg("m", { main: "c.js", browser: { dep: "other" } }, { "c.js": "export { default } from 'dep';" }), ...pkg("dep", {}, { "index.js": says("dep") }), ...pkg("other", {}, { "index.js": says("other") }) });
resolves("browser map of Node.js", "m", pkg("m", { main: "c.js", browser: { fs: false, crypto: "./b.js" } }, { "c.js": "const c = require('crypto'), fs = require('fs'); module.exports = [c, Object.keys(fs)];", "b.js": "module.exports = 'b';" }));
resolves("browser map of Node.js with node:", "m", pkg("m", { main: "c.js", browser: { fs: false, "node:crypto": "./b.js", crypto: "./b2.js" } }, { "c.js": "import c from 'node:crypto'; export default c;", "b.js": says("b"), "b2.js": says("b2") }));
resolves("browser map of false with node:", "m", pkg("m", { main: "c.js", browser: { crypto: false } }, { "c.js": "import * as c from 'node:crypto'; export default Object.keys(c);" }));
resolves("browser map of the app", "./n", { "package.json": '{"browser":{"./convex/n.ts":"./convex/b.ts"}}', "convex/n.ts": says("n"), "convex/b.ts": says("b") });
resolves("browser map beside exports", "m", pkg("m", { exports: "./c.js", browser: { "./c.js": "./b.js" } }, { "c.js": says("c"), "b.js": says("b") }));
resolves("a package named like Node.js", "events", pkg("events", {}, { "index.js": "module.exports = class Emitter {};" }), "import E, { EventEmitter } from 'events';", "[E.name, typeof EventEmitter]");
resolves("a package named like Node.js, with a slash", "buffer/", pkg("buffer", {}, { "index.js": "exports.Buffer = 'own';" }), "import { Buffer } from 'buffer/';", "Buffer");
resolves("a file beside a directory", "m/lib", pkg("m", {}, { "lib/index.js": says("index"), "lib.js": says("file") }));
resolves("a directory with a manifest", "m/lib", pkg("m", {}, { "lib/package.json": '{"main":"./x.js"}', "lib/x.js": says("x"), "lib/index.js": says("index") }));
resolves("a directory with a manifest of modules", "m/lib", pkg("m", {}, { "lib/package.json": '{"module":"./x.js","main":"../c.js","sideEffects":false}', "lib/x.js": says("x"), "c.js": "module.exports = 'c';" }));
resolves("extensions in packages", "m/x", pkg("m", {}, { "x.ts": says("ts"), "x.js": says("js"), "x.json": "{}", "x.mjs": says("mjs") }));
resolves("extensions in packages, .mjs", "m/x", pkg("m", {}, { "x.mjs": says("mjs") }));
resolves("TypeScript in packages", "m", pkg("m", { main: "x.ts" }, { "x.ts": "const x: number = 1; export default x;" }));
resolves(".js that is .ts in packages", "m/x.js", pkg("m", {}, { "x.ts": says("ts") }));
resolves("a main of .js that is .ts", "m", pkg("m", { main: "./x.js" }, { "x.ts": says("ts") }));
resolves("exports of .js that is .ts", "m", pkg("m", { exports: "./x.js" }, { "x.ts": says("ts") }));
resolves("nested packages", "m", { ...pkg("m", {}, { "index.js": "export { default } from 'n';", "node_modules/n/index.js": says("inner") }), ...pkg("n", {}, { "index.js": says("outer") }) });
resolves("a package beside the functions", "m", { ...pkg("m", {}, { "index.js": says("outer") }), "convex/node_modules/m/index.js": says("inner") });
resolves("a package that needs itself", "m", pkg("m", { exports: { ".": "./a.js", "./b": "./b.js" } }, { "a.js": "export { default } from 'm/b';", "b.js": says("b") }));
resolves("a package that needs itself without exports", "m", pkg("m", { main: "a.js" }, { "a.js": "export { default } from 'm/b';", "b.js": says("b") }));
resolves("the app needs itself", "app/x", { "package.json": '{"name":"app","exports":{"./x":"./lib/x.ts"}}', "lib/x.ts": says("x") });
resolves("a scoped package", "@s/m/x", pkg("@s/m", {}, { "x.js": says("x") }));
resolves("upper case and dots in names", "M.js", pkg("M.js", {}, { "index.js": says("M") }));
const exp = (name, exports, files, specifier = "m", text) => resolves(name, specifier, pkg("m", { exports, main: "main.js" }, { "main.js": says("main"), ...files }), text);
exp("exports, text", "./x.js", { "x.js": says("x") });
exp("exports, conditions", { node: "./n.js", browser: "./b.js", default: "./d.js" }, { "n.js": says("n"), "b.js": says("b"), "d.js": says("d") });
exp("exports, worker", { workerd: "./w.js", worker: "./w.js", "edge-light": "./w.js", deno: "./w.js", bun: "./w.js", "react-server": "./w.js", development: "./w.js", default: "./d.js" }, { "w.js": says("w"), "d.js": says("d") });
exp("exports, production", { production: "./p.js", default: "./d.js" }, { "p.js": says("p"), "d.js": says("d") });
exp("exports, module-sync", { "module-sync": "./s.js", default: "./d.js" }, { "s.js": says("s"), "d.js": says("d") });
exp("exports, convex first", { convex: "./c.js", import: "./i.js" }, { "c.js": says("c"), "i.js": says("i") });
exp("exports, import and require", { import: "./i.js", require: "./r.js" }, { "i.js": says("i"), "r.js": "module.exports = 'r';" }, "m", "import x from 'm'; const y = require('m');\nif (y !== 'r') throw new Error(String(y));");
exp("exports, nested conditions", { ".": { import: { types: "./x.d.ts", node: "./n.js", default: "./d.js" }, require: "./r.js" } }, { "n.js": says("n"), "d.js": says("d") });
exp("exports, nested without match", { ".": { import: { node: "./n.js" }, default: "./d.js" } }, { "n.js": says("n"), "d.js": says("d") });
exp("exports, only node", { ".": { node: "./n.js" } }, { "n.js": says("n") });
exp("exports, only require", { ".": { require: "./r.js" } }, { "r.js": "module.exports = 1;" });
exp("exports, only types", { ".": { types: "./r.d.ts" } }, {});
exp("exports, a list", { ".": ["./x.js", "./y.js"] }, { "x.js": says("x"), "y.js": says("y") });
exp("exports, a list of conditions", { ".": [{ node: "./n.js" }, { default: "./y.js" }] }, { "n.js": says("n"), "y.js": says("y") });
exp("exports, a list with an odd text", { ".": ["odd", "./y.js"] }, { "y.js": says("y") });
exp("exports, null", { ".": null }, {});
exp("exports, null for a condition", { ".": { browser: null, default: "./d.js" } }, { "d.js": says("d") });
exp("exports, a path", { ".": "./x.js", "./sub": "./s.js" }, { "x.js": says("x"), "s.js": says("s") }, "m/sub");
exp("exports, a path that is not exported", { ".": "./x.js" }, { "x.js": says("x"), "s.js": says("s") }, "m/s.js");
exp("exports, package.json", { ".": "./x.js" }, { "x.js": says("x") }, "m/package.json");
exp("exports, package.json exported", { ".": "./x.js", "./package.json": "./package.json" }, { "x.js": says("x") }, "m/package.json", "import y from 'm/package.json'; const x = y.name;");
exp("exports, a pattern", { "./*": "./lib/*.js" }, { "lib/a/b.js": says("ab") }, "m/a/b");
exp("exports, a pattern with an end", { "./*.js": "./lib/*.mjs" }, { "lib/a.mjs": says("a") }, "m/a.js");
exp("exports, the longest pattern", { "./*": "./no/*.js", "./f/*": "./lib/*.js", "./f/no/*": null }, { "lib/a.js": says("a") }, "m/f/a");
exp("exports, a pattern to null", { "./*": "./lib/*.js", "./no/*": null }, { "lib/no/a.js": says("a") }, "m/no/a");
exp("exports, a pattern twice", { "./*": "./lib/*/*.js" }, { "lib/a/a.js": says("aa") }, "m/a");
exp("exports, a directory", { "./lib/": "./dist/" }, { "dist/a.js": says("a") }, "m/lib/a.js");
exp("exports, without extension", { ".": "./x" }, { "x.js": says("x") });
exp("exports, to a directory", { ".": "./lib" }, { "lib/index.js": says("x") });
exp("exports, missing file", { ".": "./gone.js" }, {});
exp("exports, missing file of a list", { ".": ["./gone.js", "./x.js"] }, { "x.js": says("x") });
exp("exports, out of the package", { ".": "./../x.js" }, {});
exp("exports, encoded", { "./a b": "./x y.js" }, { "x y.js": says("xy") }, "m/a b");
exp("exports, an empty object", {}, {});
exp("exports, mixed keys", { ".": "./x.js", import: "./y.js" }, { "x.js": says("x"), "y.js": says("y") });
exp("exports, a pattern of a directory index", { "./*": "./lib/*/index.js" }, { "lib/a/index.js": says("ai") }, "m/a");
const hash = (name, imports, files, specifier = "#x") => resolves(`imports, ${name}`, "m", { ...pkg("m", { imports, main: "main.js" }, { "main.js": `export { default } from '${specifier}';`, ...files }), ...pkg("dep", {}, { "index.js": says("dep"), "sub.js": says("sub") }) });
hash("a file", { "#x": "./x.js" }, { "x.js": says("x") });
hash("a package", { "#x": "dep" }, {});
hash("a path of a package", { "#x": "dep/sub" }, {});
hash("conditions", { "#x": { node: "./n.js", browser: "./b.js" } }, { "n.js": says("n"), "b.js": says("b") });
hash("a pattern", { "#l/*": "./lib/*.js" }, { "lib/a.js": says("a") }, "#l/a");
hash("a pattern with an end", { "#l/*.js": "./lib/*.js" }, { "lib/a.js": says("a") }, "#l/a.js");
hash("a slash", { "#/*": "./lib/*" }, { "lib/a.js": says("a") }, "#/a.js");
hash("a missing name", { "#y": "./x.js" }, {});
hash("TypeScript", { "#x": "./x.js" }, { "x.ts": says("ts") });
resolves("imports of the app", "#lib/x", { "package.json": '{"imports":{"#lib/*":"./lib/*.ts"}}', "lib/x.ts": says("x") });
resolves("imports of the app without extension", "#lib/x", { "package.json": '{"imports":{"#lib/*":"./lib/*"}}', "lib/x.ts": says("x") });
resolves("imports of the app, .js that is .ts", "#lib/x.js", { "package.json": '{"imports":{"#lib/*":"./lib/*"}}', "lib/x.ts": says("x") });

group = "files";
resolves("a directory", "./lib", { "convex/lib/index.ts": says("index") });
resolves("the own directory", ".", { "convex/index.ts": says("index") });
resolves("the directory above", "..", { "index.ts": says("above") });
resolves("a directory above with a slash", "../", { "index.ts": says("above") });
resolves("a manifest above", "..", { "package.json": '{"main":"./main.ts"}', "main.ts": says("main"), "index.ts": says("index") });
for (const [extension, others] of [[".ts", ".tsx"], [".ts", ".js"], [".tsx", ".jsx"], [".mts", ".js"], [".mjs", ".json"], [".cjs", ".json"], [".mts", ".jsx"], [".cts", ".json"], [".jsx", ".js"], [".js", ".mjs"]])
  resolves(`extensions: ${extension} and ${others}`, "./x", Object.fromEntries([extension, others].map((end) => [`convex/x${end}`, end === ".json" ? '"json"' : end === ".cjs" || end === ".cts" ? `module.exports = '${end}';` : says(end)])));
for (const [written, is] of [[".js", ".ts"], [".js", ".tsx"], [".js", ".jsx"], [".jsx", ".tsx"], [".mjs", ".mts"], [".cjs", ".cts"], [".ts", ".tsx"], [".ts", ".js"], [".mjs", ".ts"], [".js", ".mts"], [".ts", ".ts"], [".mts", ".mts"], [".tsx", ".tsx"]])
  resolves(`written ${written}, is ${is}`, `./x${written}`, { [`convex/x${is}`]: is === ".cts" ? "module.exports = 'x';" : says("x") });
resolves("a name with a dot", "./x.server", { "convex/x.server.ts": says("x") });
resolves("a name with .js in it", "./x.js", { "convex/x.js.ts": says("x") });
resolves("a directory named .js", "./x.js", { "convex/x.js/index.ts": says("x") });
resolves("a query", "./x?raw", { "convex/x.ts": says("x") });
resolves("a hash", "./x#y", { "convex/x.ts": says("x"), "convex/x#y.ts": says("hash") });
resolves("percent", "./x%20y", { "convex/x%20y.ts": says("percent"), "convex/x y.ts": says("space") });
resolves("unicode", "./naïve", { "convex/naïve.ts": says("ï") });
resolves("a backslash", ".\\\\x", { "convex/x.ts": says("x") });
resolves("two slashes", ".//x", { "convex/x.ts": says("x") });
resolves("up and down", "../convex/../convex/./x", { "convex/x.ts": says("x") });
resolves("case", "./X", { "convex/x.ts": says("x") });
shape("one module by two paths", "import { o } from './x'; import { o as p } from '../convex/x.js'; import { o as q } from '@/x';", "[o === p, o === q]", { "convex/x.ts": "export const o = {};", "tsconfig.json": '{"compilerOptions":{"paths":{"@/*":["./convex/*"]}}}' });
shape("JSON", "import d, { a } from './d.json'; import * as all from './d.json';", "[d, a, all['b-c']]", { "convex/d.json": '{"a":1,"b-c":[null,true,1e3,"x\\u2028\\ud83d"],"default":5}' });
shape("JSON that is null", "import d from './d.json';", "d", { "convex/d.json": "null" });
shape("JSON with odd names", "import d from './d.json';", "[Object.keys(d), Object.getPrototypeOf(d) === Object.prototype, (d as any).polluted]", { "convex/d.json": '{"__proto__":{"polluted":1},"constructor":2,"":3,"1":4,"x":1,"x":2}' });
shape("JSON with an escaped odd name", "import d from './d.json';", "[Object.keys(d), (d as any).polluted]", { "convex/d.json": '{"\\u005f_proto__":{"polluted":1}}' });
shape("JSON with __proto__ deep within", "import d from './d.json';", "Object.keys(d.a[0])", { "convex/d.json": '{"a":[{"__proto__":1,"y":2}]}' });
shape("JSON with attributes", "import d from './d.json' with { type: 'json' };", "d", { "convex/d.json": '{"a":1}' });
for (const [of, extension] of [["TypeScript", "ts"], ["JavaScript", "js"]]) {
  const text = "import d from './d.json' assert { type: 'json' }; export { default as e } from './d.json' assert { type: 'json' }; export * as all from './d.json' assert { type: 'json' }; export const f = () => import('./d.json', { assert: { type: 'json' } }); export default d;";
  shape(`JSON with assertions in ${of}`, "import d, { all, e, f } from './x';", "[d, e, all.default, (await f()).default]", { [`convex/x.${extension}`]: text, "convex/d.json": '{"a":1}' });
}
shape("JSON is one object", "import d from './d.json'; import e from '../convex/d.json'; const f = (await import('./d.json')).default;", "[d === e, d === f]", { "convex/d.json": '{"a":1}' });
for (const [of, json] of [["an object", '{"a":1,"b-c":2,"__proto__":3}'], ["an object with a default", '{"a":1,"default":5}'], ["an array", "[1]"], ["a text", '"x"'], ["null", "null"]])
  shape(`import() of JSON that is ${of}`, "const m = await import('./d.json');", "[m.default, m.a, m['b-c'], Object.keys(m).length, m[0]]", { "convex/d.json": json });
shape("import() of text", "const m = await import('./d.txt');", "Object.entries(m)", { "convex/d.txt": "ab" });
shape("JSON required", "const d = require('./d.json'); export {};", "d", { "convex/d.json": '{"a":1,"default":2}' });
shape("JSON behind a star", "import { a } from './x';", "a", { "convex/x.ts": "export * from './d.json';", "convex/d.json": '{"a":1}' });
shape("JSON in a package", "import d from 'm/d.json';", "d.a", pkg("m", {}, { "d.json": '{"a":1}' }));
shape("a package of JSON", "import d from 'm';", "d.a", pkg("m", { main: "d.json" }, { "d.json": '{"a":1}' }));
shape("JSON without extension", "import d from './d';", "d.a", { "convex/d.json": '{"a":1}' });
shape("JSON in .mjs", "import x from './x.mjs';", "x", { "convex/x.mjs": "import d, { a } from './d.json'; export default [d, a];", "convex/d.json": '{"a":1,"default":5}' });
shape("JSON with numbers", "import d from './d.json';", "d.map(String)", { "convex/d.json": "[1e400,-0,0.1,123456789012345678901234567890,1E-7]" });
shape("JSON of unpaired surrogates", "import d from './d.json';", "[d.a.length, d.a.charCodeAt(0)]", { "convex/d.json": '{"a":"\\ud800"}' });
shape("JSON with a byte order mark", "import d from './d.json';", "d.a", { "convex/d.json": '\ufeff{"a":1}' });
shape("JSON with comments", "import d from './d.json';", "d.a", { "convex/d.json": '{"a":1 /* c */}' });
shape("JSON with a trailing comma", "import d from './d.json';", "d.a", { "convex/d.json": '{"a":1,}' });
shape("JSON nested deeply", "import d from './d.json';", "JSON.stringify(d).length", { "convex/d.json": "[".repeat(1000) + "]".repeat(1000) });
shape("empty JSON", "import d from './d.json';", "d", { "convex/d.json": "" });
shape("text", "import t from './t.txt';", "t", { "convex/t.txt": "line\r\n`${x}`\u2028\n" });
shape("text with a namespace", "import * as t from './t.txt';", "Object.keys(t)", { "convex/t.txt": "x" });
shape("a style sheet", "import './t.css';", "1", { "convex/t.css": "a { color: red }" });
shape("a style sheet's namespace", "import * as s from './t.css'; import d from './t.css';", "[Object.keys(s), typeof d]", { "convex/t.css": "a { color: red }" });
shape("a style module", "import s from './t.module.css';", "Object.keys(s)", { "convex/t.module.css": ".a { color: red }" });
shape("a hash-bang line", "import m from './m.js';", "m", { "convex/m.js": "#!/usr/bin/env node\nexport default 1;" });
shape("a byte order mark", "import m from './m';", "m", { "convex/m.ts": "\ufeffexport default 1;" });
shape("an empty file", "import './m'; import * as n from './n.js';", "Object.keys(n)", { "convex/m.ts": "", "convex/n.js": "" });
shape("an empty file, default", "import n from './n.js';", "typeof n", { "convex/n.js": "" });
shape("an empty file, name", "import { n } from './n.js';", "typeof n", { "convex/n.js": "" });
shape("an empty TypeScript file, name", "import { n } from './n';", "typeof n", { "convex/n.ts": "" });

group = "settings";
const settings = (name, specifier, options, files, at = "tsconfig.json") => resolves(name, specifier, { [at]: typeof options === "string" ? options : JSON.stringify({ compilerOptions: options }), ...files });
settings("paths", "@/x", { paths: { "@/*": ["./*"] } }, { "x.ts": says("x") });
settings("paths below baseUrl", "@/x", { baseUrl: "src", paths: { "@/*": ["./*"] } }, { "src/x.ts": says("x") });
settings("baseUrl alone", "lib/x", { baseUrl: "." }, { "lib/x.ts": says("x") });
settings("baseUrl before packages", "lib", { baseUrl: "." }, { "lib/index.ts": says("base"), ...pkg("lib", {}, { "index.js": says("package") }) });
settings("paths before packages", "m", { paths: { m: ["./x.ts"] } }, { "x.ts": says("x"), ...pkg("m", {}, { "index.js": says("package") }) });
settings("paths without a file fall back", "m", { paths: { "*": ["./gone/*"] } }, pkg("m", {}, { "index.js": says("package") }));
settings("an exact path before a pattern", "@/x", { paths: { "@/*": ["./no/*"], "@/x": ["./x.ts"] } }, { "x.ts": says("exact"), "no/x.ts": says("pattern") });
settings("the longest prefix", "@/a/x", { paths: { "@/*": ["./one/*"], "@/a/*": ["./two/*"] } }, { "one/a/x.ts": says("one"), "two/x.ts": says("two") });
settings("a pattern with an end", "x.model", { paths: { "*.model": ["./models/*.ts"] } }, { "models/x.ts": says("x") });
settings("several targets", "@/x", { paths: { "@/*": ["./one/*", "./two/*"] } }, { "two/x.ts": says("two") });
settings("a target that is a directory", "@/lib", { paths: { "@/*": ["./*"] } }, { "lib/index.ts": says("index") });
settings("a target with .js that is .ts", "@/x.js", { paths: { "@/*": ["./*"] } }, { "x.ts": says("x") });
settings("a target that is a package's directory", "m", { paths: { m: ["./packages/m"] } }, { "packages/m/package.json": '{"main":"./src/x.ts"}', "packages/m/src/x.ts": says("x") });
settings("a path for relative imports has no effect", "./x", { paths: { "./x": ["./no.ts"] } }, { "convex/x.ts": says("x"), "no.ts": says("no") });
settings("settings of the functions", "@/x", { paths: { "@/*": ["../lib/*"] } }, { "lib/x.ts": says("x") }, "convex/tsconfig.json");
resolves("the nearest settings alone", "@/x", { "tsconfig.json": '{"compilerOptions":{"paths":{"@/*":["./lib/*"]}}}', "convex/tsconfig.json": '{"compilerOptions":{}}', "lib/x.ts": says("x") });
resolves("extended settings", "@/x", { "convex/tsconfig.json": '{"extends":"../base"}', "base.json": '{"compilerOptions":{"paths":{"@/*":["./lib/*"]}}}', "lib/x.ts": says("x") });
resolves("several extended settings", "@/x", { "convex/tsconfig.json": '{"extends":["../one.json","../two.json"]}', "one.json": '{"compilerOptions":{"paths":{"@/*":["./one/*"]}}}', "two.json": '{"compilerOptions":{"paths":{"@/*":["./two/*"]}}}', "one/x.ts": says("one"), "two/x.ts": says("two") });
resolves("settings extended from a package", "@/x", { "tsconfig.json": '{"extends":"base/tsconfig.json","compilerOptions":{"paths":{"@/*":["./lib/*"]}}}', "node_modules/base/tsconfig.json": "{}", "lib/x.ts": says("x") });
resolves("settings extended from a missing package", "@/x", { "tsconfig.json": '{"extends":"absent/tsconfig.json","compilerOptions":{"paths":{"@/*":["./lib/*"]}}}', "lib/x.ts": says("x") });
resolves("settings extended from a missing file", "@/x", { "tsconfig.json": '{"extends":"./absent.json","compilerOptions":{"paths":{"@/*":["./lib/*"]}}}', "lib/x.ts": says("x") });
resolves("extended settings with ${configDir}", "@/x", { "tsconfig.json": '{"extends":"./cfg/base.json"}', "cfg/base.json": '{"compilerOptions":{"paths":{"@/*":["${configDir}/lib/*"]}}}', "lib/x.ts": says("x") });
resolves("references are ignored", "@/x", { "tsconfig.json": '{"files":[],"references":[{"path":"./tsconfig.app.json"}]}', "tsconfig.app.json": '{"compilerOptions":{"paths":{"@/*":["./lib/*"]}}}', "lib/x.ts": says("x") });
resolves("settings with comments", "@/x", { "tsconfig.json": '// c\n{"compilerOptions":{/* d */"paths":{"@/*":["./lib/*",],},},}', "lib/x.ts": says("x") });
resolves("broken settings", "./x", { "tsconfig.json": '{"compilerOptions":', "convex/x.ts": says("x") });
resolves("jsconfig.json", "@/x", { "jsconfig.json": '{"compilerOptions":{"paths":{"@/*":["./lib/*"]}}}', "lib/x.ts": says("x") });
resolves("settings do not apply in packages", "m", { "tsconfig.json": '{"compilerOptions":{"paths":{"dep":["./no.ts"]}}}', "no.ts": says("no"), ...pkg("m", {}, { "index.js": "export { default } from 'dep';" }), ...pkg("dep", {}, { "index.js": says("dep") }) });
resolves("settings of a package are not read", "m", { ...pkg("m", {}, { "index.ts": "export { default } from 'dep';", "tsconfig.json": '{"compilerOptions":{"paths":{"dep":["./no.ts"]}}}', "no.ts": says("no") }), ...pkg("dep", {}, { "index.js": says("dep") }) }, "import x from 'm/index.ts';");
resolves("rootDirs has no effect", "./x", { "tsconfig.json": '{"compilerOptions":{"rootDirs":["convex","gen"]}}', "gen/x.ts": says("x") });
resolves("alwaysStrict and isolatedModules", "./x", { "tsconfig.json": '{"compilerOptions":{"alwaysStrict":false,"isolatedModules":true,"strict":false,"esModuleInterop":false}}', "convex/x.ts": says("x") });

group = "jsx";
const runtime = pkg("react", {}, { "index.js": "exports.createElement = (t, p, ...c) => ['classic', typeof t === 'string' ? t : typeof t, p, c]; exports.Fragment = 'F';", "jsx-runtime.js": "exports.jsx = exports.jsxs = (t, p, k) => ['jsx', typeof t === 'string' ? t : typeof t, p, k]; exports.Fragment = 'F';" });
const other = pkg("other", {}, { "jsx-runtime.js": "exports.jsx = exports.jsxs = (t, p, k) => ['other', t, p]; exports.Fragment = 'OF';" });
const jsx = (name, text, got, files = {}) => programs.push({ name: `${group}: ${name}`, files: { "convex/a.tsx": `${text}\nconst got = ${got};`, ...runtime, ...other, ...files } });
jsx("elements", "const C = () => null;", "[<a b='c' d {...{ e: 1 }} key='k'>t{1}<C /></a>, <></>, <C.D />]".replace(", <C.D />", ""));
jsx("entities and whitespace", "", "<p>&amp; &nbsp;\n   two  words\n   {' '}x&#169;</p>");
jsx("key after a spread", "", "<a {...{ x: 1 }} key='k' />");
jsx("a pragma for the source", "/** @jsxImportSource other */", "<a b='c' />");
jsx("a pragma for the runtime", "/** @jsxRuntime classic */ import * as React from 'react';", "<a b='c'>x</a>");
jsx("a pragma for the factory", "/** @jsx h */ const h = (...x: any[]) => ['h', ...x];", "<a b='c'>x</a>");
jsx("settings for the source", "", "<a b='c' />", { "convex/tsconfig.json": '{"compilerOptions":{"jsx":"react-jsx","jsxImportSource":"other"}}' });
jsx("extended settings for the source", "", "<><a b='c' /></>", { "convex/tsconfig.json": '{"extends":"../base.json"}', "base.json": '{"compilerOptions":{"jsxImportSource":"other"}}' });
jsx("settings for the classic runtime", "import * as React from 'react';", "<a b='c' />", { "convex/tsconfig.json": '{"compilerOptions":{"jsx":"react"}}' });
jsx("settings to preserve", "", "<a b='c' />", { "convex/tsconfig.json": '{"compilerOptions":{"jsx":"preserve"}}' });
jsx("settings for a factory", "const h = (...x: any[]) => ['h', ...x];", "<a b='c' />", { "convex/tsconfig.json": '{"compilerOptions":{"jsx":"react","jsxFactory":"h"}}' });
jsx("settings for development", "", "<a b='c' />", { "convex/tsconfig.json": '{"compilerOptions":{"jsx":"react-jsxdev"}}' });
jsx("an unused import of React", "import React from 'react';", "<a b='c' />");
jsx("generics", "const f = <T,>(x: T) => x; const g = <T extends {}>(x: T) => x;", "[f(1), g(2)]");
jsx(".jsx", "import x from './x.jsx';", "x", { "convex/x.jsx": "export default <a b='c' />;" });
jsx("JSX in .js", "import x from './x.js';", "x", { "convex/x.js": "export default <a b='c' />;" });

group = "syntax";
shape("using", "const log: string[] = []; { using x = { [Symbol.dispose]() { log.push('disposed'); } }; log.push('in'); }", "log");
shape("await using", "const log: string[] = []; { await using x = { async [Symbol.asyncDispose]() { log.push('disposed'); } }; log.push('in'); }", "log");
shape("private names and static blocks", "class A { static #n = 0; static { A.#n = 5; } #m() { return 1; } has(x: any) { return #m in x; } static n() { return A.#n; } }", "[A.n(), new A().has(new A()), new A().has({})]");
shape("accessor", "class A { accessor x = 1; static accessor y = 2; }", "[new A().x, A.y]");
shape("numeric separators, bigint and exponent", "let x: any = null; x ??= 5; x ||= 6; x &&= 7;", "[1_000, String(10n ** 20n), 2 ** 3 ** 2, x]");
shape("optional catch, labels and regex flags", "let s = ''; a: for (const x of [1, 2, 3]) { for (;;) { if (x === 2) break a; s += x; continue a; } } try { throw 1; } catch { s += 'c'; }", "[s, /(?<y>\\d{4})/u.exec('in 2024')!.groups!.y, /^\\p{L}+$/u.test('é'), /[\\p{L}--[a-z]]/v.test('a'), /a.c/s.test('a\\nc'), 'x'.at(-1)]");
shape("strict mode", "", caught("(function () { (Object.freeze({ a: 1 }) as any).a = 2; return 'sloppy'; })()"));
shape("this at the top", "export {};", "typeof (this as any)");
shape("hoisting and closures", "var v = typeof f + typeof w; function f() {} var w = 1; const g: any[] = []; for (let i = 0; i < 3; i++) g.push(() => i);", "[v, g.map((x) => x())]");
shape("names that are words elsewhere", "const type = 1, of = 2, async = 3, get = 4, set = 5, as = 6, from = 7, satisfies = 8, declare = 9, abstract = 10, using = 11, accessor = 12, namespace = 13, module = 14, require0 = 15;", "[type, of, async, get, set, as, from, satisfies, declare, abstract, using, accessor, namespace, module]");
shape("names of the module's own functions", "const exports = 1, require = (x: any) => x, module = 2, __filename = 3, $find = 4, $all = 5, $0 = 6, $exportsOf = 7; export {};", "[exports, require(0), module, __filename, $find, $all, $0, $exportsOf]");
shape("NODE_ENV", "", "[process.env.NODE_ENV, typeof process, typeof window, typeof global, typeof document]".replace("typeof global, ", "").replace("typeof process, ", ""));
shape("dead code with a missing import", "if (process.env.NODE_ENV !== 'production') { require('absent'); } export {};", "1");
shape("dead code with a missing import()", "if (false) { await import('absent'); }", "1");
shape("a tree that is shaken", "import { a } from 'm';", "[a, (globalThis as any).seen]", pkg("m", { sideEffects: false }, { "index.js": "export { a } from './a.js'; export { b } from './b.js';", "a.js": "export const a = 1;", "b.js": "globalThis.seen = 'b'; export const b = 2;" }));
shape("a tree without side effects that fails", "import { a } from 'm';", "a", pkg("m", { sideEffects: false }, { "index.js": "export { a } from './a.js'; export { b } from './b.js';", "a.js": "export const a = 1;", "b.js": "throw new Error('b'); export const b = 2;" }));
shape("stars without side effects", "import { a } from 'm';", "a", pkg("m", { sideEffects: false }, { "index.js": "export * from './a.js'; export * from './b.js';", "a.js": "export const a = 1;", "b.js": "throw new Error('b'); export const b = 2;" }));
shape("namespaces without side effects", "import { A } from 'm';", "A.a", pkg("m", { sideEffects: false }, { "index.js": "export * as A from './a.js'; export * as B from './b.js';", "a.js": "export const a = 1;", "b.js": "throw new Error('b'); export const b = 2;" }));
shape("an import without side effects", "import 'm';", "typeof (globalThis as any).seen", pkg("m", { sideEffects: false }, { "index.js": "globalThis.seen = 1;" }));
shape("side effects of some files", "import { a } from 'm';", "[a, typeof (globalThis as any).seen, typeof (globalThis as any).other]", pkg("m", { sideEffects: ["./s.js"] }, { "index.js": "import './s.js'; import './t.js'; export const a = 1;", "s.js": "globalThis.seen = 1;", "t.js": "globalThis.other = 1;" }));
shape("CommonJS without side effects", "import { a } from 'm'; import 'n';", "[a, typeof (globalThis as any).seen]", { ...pkg("m", { sideEffects: false }, { "index.js": "exports.a = 1;" }), ...pkg("n", { sideEffects: false }, { "index.js": "globalThis.seen = 1; exports.x = 1;" }) });
shape("a used import without side effects that fails", "import { a } from 'm';", "a", pkg("m", { sideEffects: false }, { "index.js": "import { b } from './b.js'; export const a = 1; export const c = () => b;", "b.js": "throw new Error('b'); export const b = 2;" }));

const directory = mkdtempSync(join(tmpdir(), "shapes"));
const only = process.argv[2];
const lines = [];
for (const { name, files } of programs) {
  if (only && !name.includes(only)) continue;
  const root = join(directory, String(programs.findIndex((one) => one.name === name)));
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  }
  const entry = Object.keys(files).find((file) => file.startsWith("convex/a.ts"));
  writeFileSync(join(root, entry), `${files[entry]}\nexport { got };`);
  let value = null, why;
  try {
    await build({
      entryPoints: [join(root, entry)], absWorkingDir: root, bundle: true, platform: "browser", format: "esm", target: "esnext", jsx: "automatic",
      outdir: join(root, "out"), outbase: join(root, "convex"), conditions: ["convex", "module"], splitting: true, treeShaking: true,
      minifySyntax: true, minifyIdentifiers: true, keepNames: true, define: { "process.env.NODE_ENV": '"production"' }, logLevel: "silent",
    });
    writeFileSync(join(root, "out", "package.json"), '{"type":"module"}');
    writeFileSync(join(root, "out", "run.mjs"), "import { parentPort } from 'node:worker_threads'; const { got } = await import('./a.js'); parentPort.postMessage(JSON.stringify(got) ?? 'undefined');");
    value = await new Promise((resolve, reject) => {
      const worker = new Worker(join(root, "out", "run.mjs"), { stdout: true, stderr: true });
      worker.once("message", resolve).once("error", reject).once("exit", () => reject(new Error("it did not end")));
    });
  } catch (error) {
    why = error.errors?.[0]?.text ?? String(error);
  }
  rmSync(root, { recursive: true });
  // The host is more lenient in what it resolves.
  if (value !== null || name.startsWith("names:")) lines.push(JSON.stringify({ name, files, value, ...(process.env.WHY && why ? { why } : {}) }));
  process.stderr.write(".");
}
rmSync(directory, { recursive: true });
console.log(`[\n${lines.join(",\n")}\n]`);
