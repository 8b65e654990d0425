// Calls every function reachable from the global object and from syntax, with hostile receivers and arguments.

const { apply, construct, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect;
const HUGE = 2 ** 53 - 1;

/// All reachable values, with their paths.
function reachable() {
  const found = [];
  const seen = new Set();
  const visit = (value, path) => {
    if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) return;
    seen.add(value);
    found.push([path, value]);
    for (const key of ownKeys(value)) {
      const { get, set, value: held } = getOwnPropertyDescriptor(value, key);
      visit(held, `${path}.${String(key)}`);
      visit(get, `get ${path}.${String(key)}`);
      visit(set, `set ${path}.${String(key)}`);
    }
    visit(getPrototypeOf(value), `${path}.__proto__`);
  };
  for (const name of ownKeys(globalThis)) void globalThis[name]; // some are made when they are first used
  visit(globalThis, "globalThis");
  const syntax = {
    generator: function* () {}, generated: (function* () {})(), asynchronous: async () => {}, asynchronousGenerator: async function* () {},
    asynchronouslyGenerated: (async function* () {})(), elements: [].values(), map: new Map().keys(), set: new Set().keys(),
    characters: ""[Symbol.iterator](), matches: "".matchAll(/a/g), mapped: [].values().map((x) => x),
    wrapped: Iterator.from({ next() {} }), arguments: (function () { return arguments; })(), regex: /a/, log,
    capability: new Proxy(function () {}, {}),
  };
  for (const name of ownKeys(syntax)) visit(syntax[name], name);
  return found;
}

const iteratorOf = (length) => [].values.call({ length });
/// Values that are slow to create are created once.
const once = (make) => {
  let made;
  return () => (made ??= make());
};
const long = once(() => "a".repeat(1e6));
const looping = { [Symbol.toPrimitive]() { for (;;) {} }, valueOf() { for (;;) {} }, toString() { for (;;) {} }, toJSON() { for (;;) {} } };
const throwing = {
  get length() { throw 1; }, [Symbol.toPrimitive]() { throw 1; }, get [Symbol.iterator]() { throw 1; }, get then() { throw 1; }, toJSON() { throw 1; },
};
const likeASet = { size: Infinity, has: () => true, keys: () => iteratorOf(HUGE) };
const values = {
  nothing: () => undefined,
  huge: () => ({ length: HUGE }),
  lying: () => { let asked = 0; return { get length() { return asked++ === 0 ? 3 : HUGE; } }; },
  liar: () => { let asked = 0; return new Proxy([], { get: (t, k) => (k === "length" ? (asked++ === 0 ? 3 : HUGE) : t[k]) }); },
  bare: () => new Proxy({ length: HUGE }, {}),
  derived: () => Object.create(Array.prototype, { length: { value: HUGE, writable: true } }),
  sparse: () => new Array(2 ** 32 - 1),
  twins: once(() => { let o = []; for (let i = 0; i < 60; i++) o = [o, o]; return o; }),
  own: () => { const o = []; o[0] = o; return o; },
  iterator: () => iteratorOf(HUGE),
  iterable: () => ({ [Symbol.iterator]: () => iteratorOf(HUGE) }),
  endless: () => ({ [Symbol.iterator]: () => ({ next: () => ({ done: false, value: [1, 1] }) }), next: () => ({ done: false, value: 1 }) }),
  dropping: () => iteratorOf(HUGE).drop(HUGE),
  generated: () => (function* () { for (;;) yield 1; })(),
  looping: () => looping,
  throwing: () => throwing,
  text: long,
  pattern: once(() => "a".repeat(1e5) + "b"),
  regex: () => /(a+)+$/g,
  empty: () => /(?:)/gy,
  bigint: once(() => 3n ** 20000n),
  number: () => HUGE,
  negative: () => -HUGE,
  typed: () => new Float64Array(1e4),
  bytes: () => new Uint8Array(new ArrayBuffer(1e4, { maxByteLength: 2e4 })),
  buffer: () => new ArrayBuffer(1e4, { maxByteLength: 2e4 }),
  view: () => new DataView(new ArrayBuffer(8)),
  map: () => new Map([[1, 1]]),
  set: () => new Set([undefined]),
  likeASet: () => likeASet,
  weak: () => new WeakMap(),
  date: () => new Date(0),
  promise: () => new Promise(() => {}),
  thenable: () => ({ then(resolve) { resolve(this); } }),
  symbol: () => Symbol("s"),
  native: () => Math.abs,
  bound: () => Function.prototype.bind.call(Math.abs, null),
  constructor: () => Array,
  fixed: () => function () { return Object.preventExtensions({}); },
  callback: () => () => 0,
  named: () => "length",
};
const lists = {
  none: [], number: ["number"], numbers: ["number", "number", "number"], negative: ["negative", "number", "sparse"], native: ["native", "huge", "huge"],
  callback: ["callback", "number"], huge: ["huge"], derived: ["derived", "native"], sparse: ["native", "sparse"], iterable: ["iterable"],
  mapped: ["iterable", "native"], endless: ["endless", "callback"], likeASet: ["likeASet"], looping: ["looping"], throwing: ["throwing", "throwing"],
  twins: ["twins", "number"], search: ["text", "pattern"], pattern: ["pattern", "text"], regex: ["regex", "text"],
  huges: ["text", "huge", "huge"], bigint: ["bigint", "bigint"], typed: ["typed", "number"], bare: ["bare", "named", "bare"],
  iterator: ["iterator", "nothing", "huge"], own: ["own", "own"], constructor: ["constructor", "derived", "fixed"],
};
const all = ownKeys(lists);
/// Receivers and arguments. "new" stands for a constructor call.
const cases = [];
const cross = (receivers, args) => {
  for (const receiver of receivers) for (const list of args) cases.push([receiver, list]);
};
cross(ownKeys(values), ["none", "numbers", "callback"]);
cross(["new", "nothing", "constructor"], all);
cross(["huge", "lying", "liar", "bare", "derived", "sparse", "typed"], ["negative", "native", "sparse", "twins", "bigint", "constructor"]);
cross(["text", "regex", "empty"], ["search", "pattern", "regex", "huges"]);
cross(["map", "set", "weak", "likeASet"], ["likeASet", "iterable", "mapped"]);
cross(["iterator", "dropping", "endless", "generated"], ["number", "native", "iterable"]);
cross(["bigint", "number", "date", "buffer", "view", "bytes"], ["number", "bigint", "typed", "negative"]);

const functions = reachable().filter(([, value]) => typeof value === "function");
const { syscall } = Convex;
/// Calls that the engine does not interrupt, so that only the watchdog ends them: sets of endless built-in iterators, and JSON of
/// values far larger than memory.
const left = [
  ["globalThis.Set", "iterable"], ["globalThis.JSON.stringify", "sparse"], ["globalThis.JSON.stringify", "twins"],
  ["globalThis.Response.json", "sparse"], ["globalThis.Response.json", "twins"],
];
const isLeft = (path, list) => left.some(([function_, arguments_]) => function_ === path && arguments_ === list);

export const described = query(async () => ({ functions: functions.map(([path]) => path), cases }));
/// Makes every `share`th call, beginning at a given one, of the functions before `to`. `skipped` are the cases of the first function to skip.
export const call = query({ args: { from: v.array(v.number()), to: v.number(), skipped: v.array(v.number()), share: v.number() }, handler: (_ctx, { from, to, skipped, share }) => {
  const make = (name) => values[name]();
  for (let i = from[0]; i < to; i++) {
    const fn = functions[i][1];
    for (let j = i === from[0] ? from[1] : 0; j < cases.length; j++) {
      if (i === from[0] && skipped.includes(j)) continue;
      // Neighbouring functions are called with different cases.
      if ((i + j) % share !== 0) continue;
      const [receiver, list] = cases[j];
      if (isLeft(functions[i][0], list)) continue;
      syscall("at", `[${i},${j}]`);
      try {
        const args = lists[list].map(make);
        const result = receiver === "new" ? construct(fn, args) : apply(fn, make(receiver), args);
        // The result can loop too.
        if (typeof result?.next === "function") result.next();
        if (typeof result?.then === "function") result.then(() => {}, () => {});
      } catch {}
    }
  }
  syscall("at", `[${to},0]`);
  return null;
} });
